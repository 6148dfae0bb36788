//! When a connection is read next: a producer that writes each record by itself is not read record by
//! record, for a turn and a wakeup cost more than a small record does.
//!
//! What comes in the meantime waits in the kernel, which holds the producer back when that is full. So
//! reads are put off only while little comes, and for no longer than nobody would notice.

use std::time::{Duration, Instant};

/// A read of less is a small one.
const SMALL_BYTES: usize = 8 * 1024;
/// How long the read after a small one is put off.
const PAUSE: Duration = Duration::from_millis(2);
/// Of small reads further apart none is put off, so that a record now and then is read at once.
const SELDOM: Duration = Duration::from_millis(5);
/// If so much comes in a pause, the kernel has little room left.
const MUCH_BYTES: usize = 32 * 1024;
/// Reads of a producer of whom much came that are not put off.
const HASTY_READS: u32 = 64;

/// When one connection is to be read again.
#[derive(Debug, Default)]
pub(super) struct Pace {
    last: Option<Instant>,
    due: Option<Instant>,
    hasty: u32,
}

impl Pace {
    /// A read brought so many bytes.
    pub(super) fn handle_read(&mut self, bytes: usize, now: Instant) {
        let was_put_off = self.due.take().is_some();
        let is_frequent = self.last.replace(now).is_some_and(|last| now < last + SELDOM);
        if was_put_off && bytes >= MUCH_BYTES {
            self.hasty = HASTY_READS;
        }
        if self.hasty > 0 {
            self.hasty -= 1;
        } else if is_frequent && bytes < SMALL_BYTES {
            self.due = Some(now + PAUSE);
        }
    }

    /// Not before this instant, if any.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::disallowed_methods, reason = "some instant to count from")]
    fn start() -> Instant {
        Instant::now()
    }

    // R-P22
    #[test]
    fn small_reads_in_a_row_are_put_off_and_no_others() {
        let (mut pace, mut now) = (Pace::default(), start());
        let mut read = |bytes, after: u64| {
            now += Duration::from_millis(after);
            pace.handle_read(bytes, now);
            pace.due().map(|due| due - now)
        };
        assert_eq!(read(300, 0), None, "the first");
        assert_eq!(read(300, 10), None, "one now and then");
        assert_eq!(read(300, 1), Some(PAUSE));
        assert_eq!(read(SMALL_BYTES - 1, 3), Some(PAUSE));
        assert_eq!(read(SMALL_BYTES, 3), None);
        assert_eq!(read(SMALL_BYTES - 1, 0), Some(PAUSE));
    }

    // R-P22
    #[test]
    fn who_fills_the_kernels_buffer_in_a_pause_is_not_held_back_again_for_a_while() {
        let (mut pace, now) = (Pace::default(), start());
        pace.handle_read(300, now);
        pace.handle_read(300, now);
        assert!(pace.due().is_some());
        pace.handle_read(MUCH_BYTES, now);
        for _ in 1..HASTY_READS {
            assert!(pace.due().is_none());
            pace.handle_read(300, now);
        }
        assert!(pace.due().is_none());
        pace.handle_read(300, now);
        assert!(pace.due().is_some());
    }
}
