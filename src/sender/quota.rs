//! How much of the stream's quota is left: token buckets for the limits that the poller has read. Pure.
//!
//! Order of calls. The limits, whenever they are read: [`Quota::handle_limits`]. To send something: ask
//! [`Quota::poll_room`] what a request may carry; ask [`Quota::poll_timeout`] when what is to be sent may
//! leave; if that is now, form the batch, send it and tell [`Quota::handle_sent`]. What a compressed one
//! turned out to be is told [`Quota::handle_size`].
//!
//! The service is taken to hold a second's worth of each limit (the unit it is stated in). What leaves here
//! is at most `BURST` and `USED` of the limit after it, so that what is sent evenly and arrives up to
//! `BURST` less evenly still finds room. Nothing is given back for what failed: the service may have
//! counted it, and it costs no more than half a second's wait.
//!
//! Others who send to the same stream are not known here. What they take shows as throttling, which is the
//! [`pacer`](super::pacer)'s.
//!
//! Invariants: over any time no more leaves than the limits allow in it, one burst and one record that is
//! larger than that beyond; [`Quota::poll_timeout`] always leads to room; without limits there is always
//! room, whatever is sent.

use std::time::{Duration, Instant};

use super::bucket::{Bucket, timeout, whole};
use crate::batcher::Size;

/// The part of a limit that is used. What is left lets the service's buckets fill up again after whatever
/// emptied them: sent before the limits were known, counted otherwise than here, or held up on its way and
/// so together with what followed.
const USED: f64 = 0.98;
/// Seconds of a limit that may leave at once: half of what the service lets through at once.
const BURST: f64 = 0.5;
/// Seconds of a limit that a request waits for, if there is as much to send: four requests a second cost
/// next to nothing, and no record waits for long. Where a bucket is full it takes all of the burst.
const CARRY: f64 = 0.25;
/// What was sent within this time may still be missing from the service's buckets.
const REFILL: Duration = Duration::from_secs(1);
/// Weight of a request in the ratio that its records are expected to be compressed to.
const RATIO_WEIGHT: f64 = 0.25;

/// The stream's limits, as far as they are known, each a second.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Limits {
    /// Bytes.
    pub bytes: Option<f64>,
    /// Records of Firehose.
    pub records: Option<f64>,
    /// Requests.
    pub requests: Option<f64>,
}

/// See the module. Sizes are of what requests hold: records of Firehose, and their bytes before they are
/// compressed.
#[derive(Debug)]
pub struct Quota {
    limits: Limits,
    bytes: Option<Bucket>,
    records: Option<Bucket>,
    requests: Option<Bucket>,
    /// When the last request left.
    sent_at: Option<Instant>,
    /// Bytes that are sent of one byte of records: below 1 where they are compressed well.
    ratio: f64,
}

impl Default for Quota {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            bytes: None,
            records: None,
            requests: None,
            sent_at: None,
            ratio: 1.0,
        }
    }
}

impl Quota {
    /// Keeps to `limits` from now on. One that is no positive number is unknown.
    pub fn handle_limits(&mut self, limits: Limits, now: Instant) {
        if limits == self.limits {
            return;
        }
        self.limits = limits;
        // What the service's buckets hold after requests that nobody counted is unknown: nothing at worst.
        let quiet = self.sent_at.is_none_or(|sent| now >= sent + REFILL);
        let buckets = [
            (&mut self.bytes, limits.bytes),
            (&mut self.records, limits.records),
            (&mut self.requests, limits.requests),
        ];
        for (held, limit) in buckets {
            let limit = limit.filter(|limit| limit.is_finite() && *limit > 0.0);
            *held = limit.map(|limit| match held.take() {
                Some(mut old) => {
                    old.resize(USED * limit, BURST * limit, now);
                    old
                }
                None => bucket(limit, quiet, now),
            });
        }
    }

    /// A request of `size` leaves. Returns the bytes that it is taken to send.
    pub fn handle_sent(&mut self, size: Size, now: Instant) -> usize {
        self.sent_at = Some(now);
        let bytes = self.sent_of(size.bytes);
        for (bucket, cost) in
            [(&mut self.bytes, bytes), (&mut self.records, size.records), (&mut self.requests, 1)]
        {
            if let Some(bucket) = bucket {
                bucket.take(cost as f64, now);
            }
        }
        bytes
    }

    /// A request of `bytes` that was taken to send `taken` of them sends `real`.
    pub fn handle_size(&mut self, bytes: usize, taken: usize, real: usize, now: Instant) {
        self.ratio += RATIO_WEIGHT * (real as f64 / bytes.max(1) as f64 - self.ratio);
        if let Some(bucket) = &mut self.bytes {
            bucket.take(real as f64 - taken as f64, now);
        }
    }

    /// What a request may hold that leaves as soon as [`Quota::poll_timeout`] has it.
    #[must_use]
    pub fn poll_room(&self, now: Instant) -> Size {
        let room = |bucket: &Option<Bucket>, ratio: f64| {
            let held = |bucket: &Bucket| bucket.level(now).max(bucket.burst * CARRY / BURST);
            bucket.as_ref().map_or(usize::MAX, |bucket| whole(held(bucket) / ratio))
        };
        Size { records: room(&self.records, 1.0), bytes: room(&self.bytes, self.ratio) }
    }

    /// When a request of `size` may leave; `None` is now. What is larger than a burst leaves when there is
    /// one, and is paid off afterwards.
    #[must_use]
    pub fn poll_timeout(&self, size: Size, now: Instant) -> Option<Instant> {
        let wait =
            [(&self.bytes, self.sent_of(size.bytes)), (&self.records, size.records), (&self.requests, 1)]
                .into_iter()
                .filter_map(|(bucket, cost)| Some(bucket.as_ref()?.wait(cost as f64, now)))
                .fold(0.0, f64::max);
        timeout(wait, now)
    }

    /// Bytes that are expected to be sent of one byte of records.
    #[must_use]
    pub fn ratio(&self) -> f64 {
        self.ratio
    }

    /// Bytes that are sent of so many.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a number too large becomes the largest, which is meant"
    )]
    fn sent_of(&self, bytes: usize) -> usize {
        if self.ratio == 1.0 { bytes } else { (bytes as f64 * self.ratio) as usize }
    }
}

/// One of this limit that is full; or as much below empty, if the service's may be empty.
fn bucket(limit: f64, full: bool, now: Instant) -> Bucket {
    let burst = BURST * limit;
    Bucket::new(USED * limit, burst, if full { burst } else { -burst }, now)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MIB: f64 = 1024.0 * 1024.0;

    #[expect(clippy::disallowed_methods, reason = "an Instant can't be made up from nothing")]
    fn start() -> Instant {
        Instant::now()
    }

    fn size(records: usize, bytes: usize) -> Size {
        Size { records, bytes }
    }

    fn bytes(limit: f64) -> Limits {
        Limits { bytes: Some(limit), ..Limits::default() }
    }

    fn seconds(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    /// A second's worth at once, and the limit after it, record by record: as the embedded service does it.
    struct Service {
        limit: f64,
        level: f64,
        at: Instant,
    }

    impl Service {
        /// Records of `bytes` that it takes of `records`.
        fn take(&mut self, records: usize, bytes: usize, now: Instant) -> usize {
            let passed = now.saturating_duration_since(self.at).as_secs_f64();
            (self.level, self.at) = ((self.level + passed * self.limit).min(self.limit), self.at.max(now));
            let taken = (0..records).take_while(|n| (n + 1) as f64 * bytes as f64 <= self.level).count();
            self.level -= (taken * bytes) as f64;
            taken
        }
    }

    // R-Q4
    #[test]
    fn without_limits_there_is_always_room_whatever_is_sent() {
        let now = start();
        let mut quota = Quota::default();
        for unknown in [None, Some(0.0), Some(-1.0), Some(f64::NAN), Some(f64::INFINITY)] {
            quota.handle_limits(Limits { bytes: unknown, records: unknown, requests: unknown }, now);
            for _ in 0..1000 {
                assert_eq!(quota.poll_room(now), Size::ANYTHING);
                assert_eq!(quota.poll_timeout(size(500, 4 << 20), now), None);
                quota.handle_sent(size(500, 4 << 20), now);
            }
        }
    }

    // R-Q2
    #[test]
    fn a_request_carries_half_a_second_of_the_limit_at_first_and_a_quarter_then() {
        let start = start();
        let mut quota = Quota::default();
        quota.handle_limits(bytes(MIB), start);
        assert_eq!(quota.poll_room(start), size(usize::MAX, 1 << 19));
        assert_eq!(quota.poll_timeout(size(500, 1 << 19), start), None);
        quota.handle_sent(size(500, 1 << 19), start);
        assert_eq!(quota.poll_room(start).bytes, 1 << 18);
        // Less than that does not wait until it is as much.
        for carry in [1 << 18, 1000] {
            let due = quota.poll_timeout(size(1, carry), start).unwrap();
            let expected = carry as f64 / (USED * MIB);
            assert!(due - start < seconds(expected + 1e-6) && due - start > seconds(expected - 1e-6));
            assert_eq!(quota.poll_timeout(size(1, carry), due), None);
        }
        // A record larger than the burst waits for one, and is paid off.
        let due = quota.poll_timeout(size(1, 1_000_000), start).unwrap();
        assert_eq!((due - start).as_millis(), 510);
        quota.handle_sent(size(1, 1_000_000), due);
        let again = quota.poll_timeout(size(1, 1), due).unwrap();
        assert_eq!((again - due).as_millis(), 462);
    }

    // R-Q2
    #[test]
    fn records_and_requests_are_held_to_their_limits_too() {
        let start = start();
        let mut quota = Quota::default();
        let limits = Limits { bytes: Some(MIB), records: Some(100.0), requests: Some(4.0) };
        quota.handle_limits(limits, start);
        assert_eq!(quota.poll_room(start).records, 50);
        let leave = |quota: &mut Quota, records| {
            let due = quota.poll_timeout(size(records, 10), start).map(|due| (due - start).as_millis());
            quota.handle_sent(size(records, 10), start);
            due
        };
        assert_eq!(leave(&mut quota, 40), None);
        assert_eq!(leave(&mut quota, 30), Some(204), "20 records of 98 a second");
        assert_eq!(leave(&mut quota, 0), Some(255), "a request of 3.92 a second");
    }

    // R-Q2
    #[test]
    fn limits_that_change_are_followed_at_once() {
        let start = start();
        let mut quota = Quota::default();
        quota.handle_limits(bytes(4.0 * MIB), start);
        quota.handle_limits(bytes(MIB), start);
        assert_eq!(quota.poll_room(start).bytes, 1 << 19);
        quota.handle_sent(size(1, 1 << 19), start);
        quota.handle_limits(bytes(2.0 * MIB), start);
        assert_eq!(quota.poll_room(start).bytes, 1 << 19);
        let due = quota.poll_timeout(size(1, 1 << 19), start).unwrap();
        assert_eq!((due - start).as_millis(), 255);
        quota.handle_limits(Limits::default(), start);
        assert_eq!(quota.poll_timeout(size(1, 1 << 22), start), None);
        // What was sent while nothing was known is not known to be over.
        quota.handle_limits(bytes(MIB), start + seconds(0.9));
        let due = quota.poll_timeout(size(1, 1 << 18), start + seconds(0.9)).unwrap();
        assert_eq!((due - start).as_millis(), 900 + 765);
        quota.handle_limits(Limits::default(), start + seconds(0.9));
        quota.handle_limits(bytes(MIB), start + seconds(1.0));
        assert_eq!(quota.poll_timeout(size(1, 1 << 19), start + seconds(1.0)), None);
    }

    // R-Q1
    #[test]
    fn what_is_compressed_counts_as_what_is_sent_of_it() {
        let start = start();
        let mut quota = Quota::default();
        quota.handle_limits(bytes(MIB), start);
        let mut now = start;
        for _ in 0..40 {
            now += seconds(1.0);
            let bytes = quota.poll_room(now).bytes;
            assert_eq!(quota.poll_timeout(size(1, bytes), now), None);
            let taken = quota.handle_sent(size(1, bytes), now);
            quota.handle_size(bytes, taken, bytes / 10, now);
        }
        let now = now + seconds(1.0);
        let room = quota.poll_room(now).bytes as f64;
        assert!((4.9 * MIB..5.0 * MIB).contains(&room), "{room}");
        // What turns out larger is paid off.
        let taken = quota.handle_sent(size(1, 5 << 20), now);
        quota.handle_size(5 << 20, taken, 5 << 20, now);
        let due = quota.poll_timeout(size(1, 1), now).unwrap();
        assert!((4.5..4.7).contains(&(due - now).as_secs_f64()), "{:?}", due - now);
    }

    // R-Q3
    #[test]
    fn a_lone_daemon_uses_the_quota_and_next_to_nothing_is_throttled() {
        for (limit, bytes) in
            [(MIB, 300), (MIB, 900_000), (MIB, 300_000), (5.0 * MIB, 1000), (100_000.0, 700)]
        {
            for busy in [false, true] {
                let (sent, throttled, delivered) = run(limit, bytes, busy);
                let used = delivered / limit;
                assert!(used >= 0.95, "{used} of {limit}, records of {bytes}");
                assert!(throttled <= 0.02 * sent, "{throttled} of {sent} requests, records of {bytes}");
            }
        }
    }

    /// Five minutes of a daemon that always has records of `bytes`, requests of 500 and 4 MiB at most, and a
    /// way of 5 to 150 ms to the service. If that is `busy`, its bucket is empty at first. Requests,
    /// those throttled, and what was delivered a second.
    fn run(limit: f64, bytes: usize, busy: bool) -> (f64, f64, f64) {
        let start = start();
        let mut random = fastrand::Rng::with_seed(7);
        let mut quota = Quota::default();
        if busy {
            quota.handle_sent(size(500, 4 << 20), start);
        }
        quota.handle_limits(self::bytes(limit), start);
        let level = if busy { 0.0 } else { limit };
        let mut service = Service { limit, level, at: start };
        let (mut now, mut sent, mut throttled, mut delivered) = (start, 0.0, 0.0, 0.0);
        let mut ways = Vec::new();
        while now < start + seconds(300.0) {
            let room = quota.poll_room(now).bytes.min(4 << 20);
            let records = (room / bytes).clamp(1, 500);
            let ready = size(records, records * bytes);
            if let Some(due) = quota.poll_timeout(ready, now) {
                now = due;
                continue;
            }
            quota.handle_sent(ready, now);
            ways.push((now + seconds(0.005 + 0.145 * random.f64()), records));
        }
        ways.sort();
        for (at, records) in ways {
            let taken = service.take(records, bytes, at);
            sent += 1.0;
            throttled += f64::from(u8::from(taken < records));
            delivered += (taken * bytes) as f64;
        }
        (sent, throttled, delivered / 300.0)
    }

    proptest! {
        // R-Q2
        #[test]
        fn over_any_time_no_more_leaves_than_the_limits_allow(
            limits in (10.0f64..5000.0, 1.0f64..500.0, 0.5f64..50.0),
            steps in proptest::collection::vec((0u64..300, 1usize..60, 1usize..3000), 1..120),
        ) {
            let start = start();
            let mut quota = Quota::default();
            let (bytes, records, requests) = limits;
            quota.handle_limits(Limits { bytes: Some(bytes), records: Some(records), requests: Some(requests) }, start);
            let mut now = start;
            let mut left = Vec::new();
            for (millis, most_records, most_bytes) in steps {
                now += Duration::from_millis(millis);
                let room = quota.poll_room(now);
                let ready = size(most_records.min(room.records), most_bytes.min(room.bytes));
                match quota.poll_timeout(ready, now) {
                    None => {
                        quota.handle_sent(ready, now);
                        left.push((now, ready));
                    }
                    Some(due) => prop_assert!(due > now && quota.poll_timeout(ready, due).is_none()),
                }
            }
            for (first, (since, _)) in left.iter().enumerate() {
                let mut sum = [0.0; 3];
                for (at, size) in left.iter().skip(first) {
                    for (sum, cost) in sum.iter_mut().zip([size.bytes, size.records, 1]) {
                        *sum += cost as f64;
                    }
                    let passed = (*at - *since).as_secs_f64();
                    for (sum, limit) in sum.into_iter().zip([bytes, records, requests]) {
                        // One at least leaves, however low the limit.
                        prop_assert!(sum <= limit * (passed + BURST) + 1.0 + 1e-3, "{sum} of {limit} in {passed} s");
                    }
                }
            }
        }
    }
}
