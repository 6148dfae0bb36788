//! How many bytes a listener may take by now: a bucket that fills evenly and holds what a second brings.
//!
//! All it knows is when it will be full again. Whatever was taken by then is at most what was let in since the
//! first byte, and one second's worth more.

use std::num::NonZeroU64;
use std::time::{Duration, Instant};

const SECOND_NANOS: u128 = 1_000_000_000;
/// Most bytes that are waited for. More at once would save no work; less would make a read of every few bytes.
const MOST_AWAITED: u64 = 64 * 1024;
/// Waits for so much of a second's bytes at most, so that whoever is next waits no longer.
const TURNS_A_SECOND: u64 = 16;

/// A bucket of one listener.
///
/// It starts full. Debt is possible, by [`Bucket::owe`] and by a [`Bucket::charge`] of more than it holds.
#[derive(Debug)]
pub(super) struct Bucket {
    bytes_per_second: NonZeroU64,
    /// When it is full if nothing more is taken; past if it is.
    full_at: Option<Instant>,
}

impl Bucket {
    /// A full one.
    pub(super) fn new(bytes_per_second: NonZeroU64) -> Self {
        Self { bytes_per_second, full_at: None }
    }

    pub(super) fn bytes_per_second(&self) -> u64 {
        self.bytes_per_second.get()
    }

    /// Changes how fast it fills; how long it takes to be full stays.
    pub(super) fn set(&mut self, bytes_per_second: NonZeroU64) {
        self.bytes_per_second = bytes_per_second;
    }

    /// Takes up to `most` bytes, as soon as there are that many or enough to be worth a read.
    ///
    /// # Errors
    ///
    /// The time at which there will be.
    pub(super) fn take(&mut self, most: u64, now: Instant) -> Result<u64, Instant> {
        let awaited = (self.bytes_per_second.get() / TURNS_A_SECOND).clamp(1, MOST_AWAITED).min(most);
        self.await_bytes(awaited, now)?;
        let left = Duration::from_secs(1).saturating_sub(self.missing(now)).as_nanos();
        let there = left * u128::from(self.bytes_per_second.get()) / SECOND_NANOS;
        let taken = most.min(u64::try_from(there).unwrap_or(u64::MAX));
        self.owe(taken, now);
        Ok(taken)
    }

    /// Takes all of `bytes`, once there are that many or, if that is more than it holds, once it is full.
    ///
    /// # Errors
    ///
    /// The time at which it is so.
    pub(super) fn charge(&mut self, bytes: u64, now: Instant) -> Result<(), Instant> {
        self.await_bytes(bytes, now)?;
        self.owe(bytes, now);
        Ok(())
    }

    /// Takes `bytes` that came without being asked for; they are waited for later.
    pub(super) fn owe(&mut self, bytes: u64, now: Instant) {
        self.full_at = Some(now + self.missing(now) + self.time_of(bytes));
    }

    /// Puts back `bytes` that were taken and not needed.
    pub(super) fn give_back(&mut self, bytes: u64) {
        let time = u128::from(bytes) * SECOND_NANOS / u128::from(self.bytes_per_second.get());
        self.full_at = self.full_at.and_then(|full_at| full_at.checked_sub(nanos(time)));
    }

    fn await_bytes(&self, bytes: u64, now: Instant) -> Result<(), Instant> {
        let may_miss = Duration::from_secs(1).saturating_sub(self.time_of(bytes));
        let wait = self.missing(now).saturating_sub(may_miss);
        if wait.is_zero() { Ok(()) } else { Err(now + wait) }
    }

    /// The time that what is missing takes to come.
    fn missing(&self, now: Instant) -> Duration {
        self.full_at.map_or(Duration::ZERO, |full_at| full_at.saturating_duration_since(now))
    }

    /// The time that `bytes` take to come, never too short.
    fn time_of(&self, bytes: u64) -> Duration {
        nanos((u128::from(bytes) * SECOND_NANOS).div_ceil(u128::from(self.bytes_per_second.get())))
    }
}

/// So many nanoseconds, ten years at most: beyond that an instant may not be.
fn nanos(nanos: u128) -> Duration {
    const LONGEST: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
    u64::try_from(nanos).map_or(LONGEST, |nanos| Duration::from_nanos(nanos).min(LONGEST))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[expect(clippy::disallowed_methods, reason = "an instant is needed to begin with")]
    fn begin() -> Instant {
        Instant::now()
    }

    fn bucket(bytes_per_second: u64) -> Bucket {
        Bucket::new(NonZeroU64::new(bytes_per_second).unwrap())
    }

    // R-P20
    #[test]
    fn a_second_is_there_at_once_and_then_as_much_a_second_in_turns_of_a_sixteenth() {
        let (mut bucket, begin) = (bucket(16_000), begin());
        assert_eq!(bucket.take(10_000, begin), Ok(10_000));
        assert_eq!(bucket.take(10_000, begin), Ok(6_000));
        let turn = Duration::from_secs(1) / 16;
        assert_eq!(bucket.take(10_000, begin), Err(begin + turn));
        assert_eq!(bucket.take(10_000, begin + turn), Ok(1_000));
        assert_eq!(bucket.take(10, begin + turn), Err(begin + turn + Duration::from_micros(625)));
        // What was not needed is there for the next.
        bucket.give_back(400);
        assert_eq!(bucket.take(10, begin + turn), Ok(10));
        assert_eq!(bucket.take(10_000, begin + turn + Duration::from_secs(60)), Ok(10_000));
        assert_eq!(bucket.take(10_000, begin + turn + Duration::from_secs(60)), Ok(6_000));
    }

    // R-P20
    #[test]
    fn a_request_that_is_larger_than_a_second_waits_until_it_is_paid_for() {
        let (mut bucket, begin) = (bucket(1_000), begin());
        let after = |seconds| begin + Duration::from_secs(seconds);
        assert_eq!(bucket.charge(5_000, begin), Ok(()));
        assert_eq!(bucket.charge(500, begin), Err(begin + Duration::from_millis(4_500)));
        assert_eq!(bucket.charge(3_000, after(4)), Err(after(5)));
        assert_eq!(bucket.charge(3_000, after(5)), Ok(()));
        bucket.owe(2_000, after(5));
        assert_eq!(bucket.charge(1_000, after(5)), Err(after(10)));
        // At ten times the rate what is owed is there as soon.
        bucket.set(NonZeroU64::new(10_000).unwrap());
        assert_eq!(bucket.charge(10_000, after(5)), Err(after(10)));
    }

    proptest! {
        // R-P20
        #[test]
        fn whoever_asks_when_no_more_is_taken_than_the_limit_and_none_waits_for_ever(
            rate in 1_u64..1 << 40,
            asks in prop::collection::vec((1_u64..1 << 20, 0_u64..4, 0_u64..200_000_000), 1..200),
        ) {
            let (mut bucket, begin) = (bucket(rate), begin());
            let (mut now, mut taken) = (begin, 0_u128);
            for (most, used, pause) in asks {
                now += Duration::from_nanos(pause);
                let got = bucket.take(most, now).or_else(|at| {
                    assert!(at > now && at <= now + Duration::from_secs(1), "waits past its turn");
                    now = at;
                    bucket.take(most, now)
                });
                let got = got.expect("the time that was named is the time");
                prop_assert!((1..=most).contains(&got));
                let back = got * used / 4;
                bucket.give_back(back);
                taken += u128::from(got - back);
                let let_in = (now - begin + Duration::from_secs(1)).as_nanos() * u128::from(rate) / SECOND_NANOS;
                prop_assert!(taken <= let_in, "{taken} of {let_in} bytes");
            }
        }
    }
}
