//! A stream's quota: token buckets that hold one second's worth.

use std::time::Duration;

/// Bytes and records a second, each as a token bucket, spent together or not at all.
#[derive(Debug, Clone)]
pub struct Quota {
    bytes: Option<Bucket>,
    records: Option<Bucket>,
}

impl Quota {
    /// A quota with full buckets; `None` is no limit.
    #[must_use]
    pub fn new(bytes_per_second: Option<u64>, records_per_second: Option<u64>) -> Self {
        Self { bytes: bytes_per_second.map(Bucket::new), records: records_per_second.map(Bucket::new) }
    }

    /// Takes one record of `bytes` bytes at `now`, if it fits.
    pub fn take(&mut self, now: Duration, bytes: usize) -> bool {
        let mut costs = [(self.bytes.as_mut(), bytes as f64), (self.records.as_mut(), 1.0)];
        let fits = costs
            .iter_mut()
            .all(|(bucket, cost)| bucket.as_mut().is_none_or(|bucket| bucket.refilled(now).holds(*cost)));
        if fits {
            for (bucket, cost) in costs {
                if let Some(bucket) = bucket {
                    bucket.tokens -= cost;
                }
            }
        }
        fits
    }
}

/// Tokens that come back at a steady rate, at most one second's worth of them.
///
/// A full bucket lets through a cost above its capacity and goes into debt for it: otherwise a
/// record larger than a second's quota could never pass, and whoever sends it would try for ever.
#[derive(Debug, Clone)]
struct Bucket {
    per_second: f64,
    tokens: f64,
    at: Duration,
}

impl Bucket {
    fn new(per_second: u64) -> Self {
        let per_second = per_second as f64;
        Self { per_second, tokens: per_second, at: Duration::ZERO }
    }

    fn refilled(&mut self, now: Duration) -> &Self {
        let passed = now.saturating_sub(self.at).as_secs_f64();
        self.tokens = (self.tokens + passed * self.per_second).min(self.per_second);
        self.at = self.at.max(now);
        self
    }

    fn holds(&self, cost: f64) -> bool {
        // The tolerance is far below one record: it only forgives rounding.
        self.tokens + 1e-6 >= cost.min(self.per_second) && self.per_second > 0.0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const START: Duration = Duration::from_secs(1_700_000_000);

    #[test]
    fn a_burst_is_one_second_of_quota_and_then_it_trickles() {
        let mut quota = Quota::new(None, Some(10));
        let mut taken =
            |at_ms: u64| (0..100).filter(|_| quota.take(START + Duration::from_millis(at_ms), 1)).count();
        assert_eq!(taken(0), 10);
        assert_eq!(taken(0), 0);
        assert_eq!(taken(500), 5);
        assert_eq!(taken(60_000), 10);
    }

    #[test]
    fn a_record_above_a_seconds_quota_passes_a_full_bucket_and_is_paid_off() {
        let mut quota = Quota::new(Some(100), None);
        let at = |seconds| START + Duration::from_secs(seconds);
        assert!(quota.take(at(0), 300));
        assert!(!quota.take(at(1), 1));
        assert!(!quota.take(at(2), 1));
        assert!(quota.take(at(4), 300));
    }

    #[test]
    fn a_quota_of_nothing_lets_nothing_through() {
        assert!(!Quota::new(Some(0), None).take(START, 1));
        assert!(!Quota::new(None, Some(0)).take(START, 1));
        assert!(Quota::new(None, None).take(START, usize::MAX));
    }

    proptest! {
        #[test]
        fn no_more_passes_than_the_burst_and_the_time_allow(
            per_second in 1_u64..5_000,
            steps in prop::collection::vec((0_u64..400, 1_usize..200), 1..300),
        ) {
            let mut quota = Quota::new(Some(per_second), None);
            let (mut now, mut passed, mut largest) = (START, 0_usize, 0_usize);
            for (wait_ms, bytes) in steps {
                now += Duration::from_millis(wait_ms);
                largest = largest.max(bytes);
                if quota.take(now, bytes) {
                    passed += bytes;
                }
                let allowed = per_second as f64 * (1.0 + (now - START).as_secs_f64());
                prop_assert!(passed as f64 <= allowed + largest as f64 + 1e-3);
            }
        }
    }
}
