//! A token bucket, which [`quota`](super::quota) has for each limit and [`pacer`](super::pacer) for its pace. Pure.

use std::time::{Duration, Instant};

/// Longest wait before another look, and longest debt where that is bounded: seconds.
const LONGEST_WAIT: f64 = 60.0;

/// What comes at a steady rate and is kept up to a burst.
///
/// Who takes more than there is goes into debt: otherwise a record above the burst could never leave.
#[derive(Debug)]
pub(super) struct Bucket {
    pub(super) per_second: f64,
    pub(super) burst: f64,
    level: f64,
    at: Instant,
}

impl Bucket {
    /// One that holds `level` now, which is negative where there is a debt.
    pub(super) fn new(per_second: f64, burst: f64, level: f64, now: Instant) -> Self {
        Self { per_second, burst, level, at: now }
    }

    /// Makes it one of another rate and burst, and what it holds no more than that.
    pub(super) fn resize(&mut self, per_second: f64, burst: f64, now: Instant) {
        self.level = self.level(now).min(burst);
        self.at = self.at.max(now);
        (self.per_second, self.burst) = (per_second, burst);
    }

    /// What it holds.
    pub(super) fn level(&self, now: Instant) -> f64 {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        (self.level + passed * self.per_second).min(self.burst)
    }

    /// Takes `cost` from it, which is negative where some comes back.
    pub(super) fn take(&mut self, cost: f64, now: Instant) {
        self.level = self.level(now) - cost;
        self.at = self.at.max(now);
    }

    /// Forgives what of a debt would take longer than the longest wait to pay off.
    pub(super) fn forgive(&mut self) {
        self.level = self.level.max(-LONGEST_WAIT * self.per_second);
    }

    /// Empties it of what was saved up.
    pub(super) fn empty(&mut self) {
        self.level = self.level.min(0.0);
    }

    /// Seconds until there is `wanted`, or a burst.
    pub(super) fn wait(&self, wanted: f64, now: Instant) -> f64 {
        // The tolerance only forgives rounding.
        let lack = wanted.min(self.burst) * (1.0 - 1e-9) - self.level(now);
        (lack / self.per_second).max(0.0)
    }
}

/// When a wait of so many seconds is over, or worth another look; `None` is now.
pub(super) fn timeout(wait: f64, now: Instant) -> Option<Instant> {
    // Rounded up, so that there is room then.
    (wait > 0.0).then(|| now + Duration::from_secs_f64(wait.min(LONGEST_WAIT)) + Duration::from_nanos(1))
}

/// The whole number below, at least 1.
#[expect(clippy::cast_possible_truncation, reason = "a number too large becomes the largest, which is meant")]
pub(super) fn whole(number: f64) -> usize {
    (number as usize).max(1)
}
