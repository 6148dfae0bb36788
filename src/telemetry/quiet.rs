//! Keeps a repeated message from filling the log: pure.

use std::time::{Duration, Instant};

/// Lets a burst of messages through, then one each period with a count of what was left out.
#[derive(Debug)]
pub struct Quiet {
    period: Duration,
    burst: u32,
    window: Option<Instant>,
    said: u32,
    suppressed: u64,
}

impl Quiet {
    /// `burst` messages in each `period`.
    #[must_use]
    pub const fn new(burst: u32, period: Duration) -> Self {
        Self { period, burst, window: None, said: 0, suppressed: 0 }
    }

    /// Whether the current period is over, so that a message would be said.
    #[must_use]
    pub fn is_quiet(&self, now: Instant) -> bool {
        self.window.is_none_or(|window| now >= window + self.period)
    }

    /// Whether to say a message now: the number of messages left out since the last one that was
    /// said, or `None` to leave this one out too.
    pub fn say(&mut self, now: Instant) -> Option<u64> {
        if self.window.is_none_or(|window| now >= window + self.period) {
            self.window = Some(now);
            self.said = 0;
        }
        if self.said >= self.burst {
            self.suppressed += 1;
            return None;
        }
        self.said += 1;
        Some(std::mem::take(&mut self.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // R-E16
    #[test]
    #[expect(clippy::disallowed_methods, reason = "an Instant can't be made up from nothing")]
    fn a_burst_is_said_the_rest_is_counted() {
        let start = Instant::now();
        let mut quiet = Quiet::new(2, Duration::from_secs(10));
        let mut say = |seconds| quiet.say(start + Duration::from_secs(seconds));
        assert_eq!([say(0), say(1), say(2), say(9)], [Some(0), Some(0), None, None]);
        assert_eq!([say(10), say(11), say(12), say(20)], [Some(2), Some(0), None, Some(1)]);
    }
}
