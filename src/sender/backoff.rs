//! How long to wait before the next attempt: `min(base · 2ⁿ, max)` plus up to `jitter` of it.

use std::time::Duration;

/// The waits of one kind of failure.
#[derive(Debug, Clone, Copy)]
pub struct Backoff {
    /// Wait after the first failure.
    pub base: Duration,
    /// Longest wait before jitter.
    pub max: Duration,
    /// Largest part of the wait that is added to it at random, 0 to 1.
    pub jitter: f64,
}

// snippet-start:[firehose.rust.hydrant.backoff]
impl Backoff {
    /// The wait after `failures` failures in a row (at least 1).
    #[must_use]
    pub fn delay(&self, failures: u32, random: &mut fastrand::Rng) -> Duration {
        let doubled =
            1u32.checked_shl(failures.saturating_sub(1)).and_then(|factor| self.base.checked_mul(factor));
        let delay = doubled.map_or(self.max, |delay| delay.min(self.max));
        delay + delay.mul_f64(self.jitter * random.f64())
    }
}
// snippet-end:[firehose.rust.hydrant.backoff]

#[cfg(test)]
mod tests {
    use super::*;

    // R-E2
    #[test]
    fn the_wait_doubles_from_base_to_max_and_jitter_only_adds() {
        let backoff = Backoff { base: Duration::from_millis(100), max: Duration::from_secs(30), jitter: 0.3 };
        let mut random = fastrand::Rng::with_seed(7);
        let expected = [100, 200, 400, 800, 1600, 3200, 6400, 12800, 25600, 30000, 30000];
        for (failures, millis) in (1..).zip(expected) {
            let delays: Vec<_> = (0..200).map(|_| backoff.delay(failures, &mut random)).collect();
            let (least, most) = (delays.iter().min().unwrap(), delays.iter().max().unwrap());
            let base = Duration::from_millis(millis);
            assert!(*least >= base && *most <= base.mul_f64(1.3), "{failures}: {least:?} to {most:?}");
            assert!(*most > base.mul_f64(1.2), "{failures}: no jitter");
        }
        assert_eq!(Backoff { jitter: 0.0, ..backoff }.delay(u32::MAX, &mut random), backoff.max);
    }
}
