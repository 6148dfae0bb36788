//! How many bytes a request carries: pure.
//!
//! Packing pays with any number of them. Where there is time, a packed request is full at three of Firehose's largest records: fewer
//! requests take less processor time, and what gathers for one takes memory. While more than that waits it is the
//! processor that is short, and a request, packed or not, carries a sixth of that: what is encoded, hashed and sent of 500 KiB
//! stays in the cache of a core, of 4 MiB it does not, which takes a tenth more of its time.
//!
//! Small requests need more round trips, and only so many are under way at once. So where answers take long, requests
//! are larger.
//!
//! Not where records are compressed: there what leaves is smaller, and larger members are smaller by more.

use std::time::Duration;

use crate::limits;

/// What a request is full at where there is time: three of Firehose's largest records.
const FULL_BYTES: usize = 3 * limits::MAX_RECORD_BYTES;
/// What one carries at most while more waits: a hundred times the 5 KiB to which Firehose rounds up what it bills, so
/// that nearly nothing is billed for nothing.
const BRISK_BYTES: usize = 100 * 5 * 1024;
/// Bytes a second for which there is always room: all requests that may be under way carry as much in the time that
/// an answer takes. A stream's default quota is 1 or 5 MiB/s.
/// Source: <https://docs.aws.amazon.com/firehose/latest/dev/limits.html>
const RATE: f64 = 128.0 * 1024.0 * 1024.0;
/// Weight of the newest answer in the time that answers take.
const WEIGHT: f64 = 0.125;

/// See the module.
#[derive(Debug, Clone, Copy, Default)]
pub struct Fill {
    /// How long answers take, in seconds.
    took: f64,
}

impl Fill {
    /// A request was answered after `took`.
    pub fn handle_answer(&mut self, took: Duration) {
        self.took += WEIGHT * (took.as_secs_f64() - self.took);
    }

    /// What a request is full at, and what one carries at most while more waits; `in_flight` may be under way at once.
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "not negative, and a number too large becomes the largest"
    )]
    pub fn bytes(&self, in_flight: usize) -> (usize, usize) {
        let least = (RATE * self.took / in_flight.max(1) as f64) as usize;
        (least.max(FULL_BYTES), least.max(BRISK_BYTES))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(answers: usize, took: Duration, in_flight: usize) -> (usize, usize) {
        let mut fill = Fill::default();
        (0..answers).for_each(|_| fill.handle_answer(took));
        fill.bytes(in_flight)
    }

    // R-B2
    #[test]
    fn a_request_carries_little_while_answers_are_quick_and_more_where_they_are_not() {
        let quick = (FULL_BYTES, BRISK_BYTES);
        let after = |answers, millis, in_flight| after(answers, Duration::from_millis(millis), in_flight);
        assert_eq!([after(0, 0, 8), after(100, 30, 8)], [quick, quick]);
        let (full, brisk) = after(100, 60, 8);
        assert_eq!(full, FULL_BYTES);
        assert!(
            (1_000_000..1_010_000).contains(&brisk),
            "128 MiB/s for 60 ms, an eighth of it each: {brisk}"
        );
        let slow = after(100, 250, 8);
        assert!(slow.0 == slow.1 && (4_190_000..4_194_304).contains(&slow.0), "{slow:?}");
        assert_eq!(after(1, 250, 8).0, FULL_BYTES, "one slow answer is not all");
        assert_eq!(after(100, 250, 4).0 / 2, slow.0, "half as many carry twice as much");
        assert!(after(100, u64::MAX, 0).0 > slow.0);
    }
}
