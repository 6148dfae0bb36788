//! How many bytes a request carries: pure.
//!
//! Packing pays with any number of them. Where there is time, a packed request is full at two and a half of Firehose's
//! largest records: fewer requests take less processor time, since each that comes alone finds the caches cold, and what
//! gathers for one takes memory. Where the processor has hardly any time left, a request, packed or not, carries less
//! than a third of that: what is encoded, hashed and sent of 750 KiB stays in the cache of a core, of 4 MiB it does not,
//! which takes a tenth more of its time. And there two requests leave together, since two bodies are hashed in step in
//! little more than the time of one.
//!
//! Small requests need more round trips, and only so many are under way at once. So where answers take long, requests
//! are larger.
//!
//! Not where records are compressed: there what leaves is smaller, and larger members are smaller by more.

use std::time::{Duration, Instant};

/// What a packed request is full at where there is time, and what one is full at where there is none. Both are
/// multiples of the 5 KiB to which Firehose rounds up what it bills, so that nearly nothing is billed for nothing.
const FULL_BYTES: usize = 500 * 5 * 1024;
const BRISK_BYTES: usize = 150 * 5 * 1024;
/// Requests that leave together then.
const BRISK_TOGETHER: usize = 2;
/// From so many bytes a second on there is no time, and below the second there is again. A core takes 500 to 800 MB/s.
const BRISK_RATES: (f64, f64) = (256.0 * MIB, 160.0 * MIB);
/// The time over which that is counted.
const SPAN: Duration = Duration::from_millis(50);
/// Bytes a second for which there is always room: all requests that may be under way carry as much in the time that
/// an answer takes. A stream's default quota is 1 or 5 MiB/s.
/// Source: <https://docs.aws.amazon.com/firehose/latest/dev/limits.html>
const RATE: f64 = 128.0 * MIB;
/// Weight of the newest answer in the time that answers take.
const WEIGHT: f64 = 0.125;
const MIB: f64 = 1024.0 * 1024.0;

/// See the module.
#[derive(Debug, Clone, Copy, Default)]
pub struct Fill {
    /// How long answers take, in seconds.
    took: f64,
    /// Bytes sent of late, and when the last were.
    sent: f64,
    at: Option<Instant>,
    brisk: bool,
}

impl Fill {
    /// A request of `bytes` leaves.
    pub fn handle_sent(&mut self, bytes: usize, now: Instant) {
        let since = self.at.map_or(Duration::MAX, |at| now.saturating_duration_since(at));
        self.sent = self.sent * (-since.as_secs_f64() / SPAN.as_secs_f64()).exp() + bytes as f64;
        self.at = Some(now);
        let rate = self.sent / SPAN.as_secs_f64();
        self.brisk = rate >= if self.brisk { BRISK_RATES.1 } else { BRISK_RATES.0 };
    }

    /// A request was answered after `took`.
    pub fn handle_answer(&mut self, took: Duration) {
        self.took += WEIGHT * (took.as_secs_f64() - self.took);
    }

    /// The bytes that a request is full at, of which `in_flight` may be under way at once, and how many leave together.
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "not negative, and a number too large becomes the largest"
    )]
    pub fn full(&self, packed: bool, in_flight: usize) -> (usize, usize) {
        let least = (RATE * self.took / in_flight.max(1) as f64) as usize;
        match (self.brisk, packed) {
            (true, _) if least <= BRISK_BYTES => (BRISK_BYTES, BRISK_TOGETHER),
            (true, _) => (least, 1),
            (false, true) => (least.max(FULL_BYTES), 1),
            (false, false) => (usize::MAX, 1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::disallowed_methods, reason = "an Instant can't be made up from nothing")]
    fn start() -> Instant {
        Instant::now()
    }

    /// After requests of `bytes` each, one every `millis`.
    fn sent(fill: &mut Fill, from: Instant, bytes: usize, millis: u64) -> Instant {
        let times = (1..=1000).map(|number| from + Duration::from_millis(number * millis));
        times.fold(from, |_, at| {
            fill.handle_sent(bytes, at);
            at
        })
    }

    // R-B2
    #[test]
    fn a_request_carries_little_where_there_is_no_time() {
        let (mut fill, now) = (Fill::default(), start());
        let full = |fill: &Fill| [fill.full(true, 8), fill.full(false, 8)];
        let (calm, brisk) = ([(FULL_BYTES, 1), (usize::MAX, 1)], [(BRISK_BYTES, 2); 2]);
        assert_eq!(full(&fill), calm);
        let now = sent(&mut fill, now, FULL_BYTES, 20);
        assert_eq!(full(&fill), calm, "150 MB/s");
        let now = sent(&mut fill, now, FULL_BYTES, 7);
        assert_eq!(full(&fill), brisk, "440 MB/s");
        let now = sent(&mut fill, now, BRISK_BYTES, 3);
        assert_eq!(full(&fill), brisk, "250 MB/s");
        sent(&mut fill, now, BRISK_BYTES, 7);
        assert_eq!(full(&fill), calm, "110 MB/s");
    }

    // R-B2
    #[test]
    fn a_request_carries_more_where_answers_take_long() {
        let after = |answers, millis, in_flight| {
            let mut fill = Fill { brisk: true, ..Fill::default() };
            (0..answers).for_each(|_| fill.handle_answer(Duration::from_millis(millis)));
            (fill.full(true, in_flight), Fill { brisk: false, ..fill }.full(true, in_flight).0)
        };
        assert_eq!([after(0, 0, 8), after(100, 30, 8)], [((BRISK_BYTES, 2), FULL_BYTES); 2]);
        let ((brisk, together), full) = after(100, 60, 8);
        assert_eq!(together, 1, "they are large enough");
        assert!(
            (1_000_000..1_010_000).contains(&brisk),
            "128 MiB/s for 60 ms, an eighth of it each: {brisk}"
        );
        assert_eq!(full, FULL_BYTES);
        let slow = after(100, 250, 8);
        assert!(slow.0.0 == slow.1 && (4_190_000..4_194_304).contains(&slow.1), "{slow:?}");
        assert_eq!(after(1, 250, 8).1, FULL_BYTES, "one slow answer is not all");
        assert_eq!(after(100, 250, 4).1 / 2, slow.1, "half as many carry twice as much");
        assert!(after(100, u64::MAX, 0).1 > slow.1);
    }
}
