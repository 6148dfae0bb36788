//! How much of a connection is read at once: a pure rule that learns from what came.

use std::cmp::max;

use crate::framing::Framer;

/// Least and most bytes asked for in one read. They grow while reads come back full, and halve while they come back
/// less than half full.
///
/// Larger ones cost more where the allocator gives their memory back to the system each time (`docs/BENCHMARKS.md`).
const READ_BYTES: (usize, usize) = (4 * 1024, 64 * 1024);
/// How many times larger the read behind a full one is. A read that is too short leaves half a record, and those of a
/// thousand connections add up.
const GROWTH: usize = 4;
/// The most behind an unfinished record that is as long, which each read copies.
const LONG_READ_BYTES: usize = 256 * 1024;
/// What the memory for a larger read is a multiple of: one that came free then fits the next, whatever
/// either has unfinished.
const EVEN_BYTES: usize = 4 * 1024;

/// See the module.
#[derive(Debug)]
pub(super) struct ReadSize {
    bytes: usize,
    most: usize,
    /// The next read is the least one.
    is_short: bool,
}

impl ReadSize {
    /// The largest read is the one that, with all that its records may need, takes at most three sixteenths
    /// of a budget of `capacity`.
    pub(super) fn new(framer: &impl Framer, capacity: usize) -> Self {
        let mut most = LONG_READ_BYTES;
        while most > 1024 && most + framer.overhead(most) > capacity / 16 * 3 {
            most /= 2;
        }
        Self { bytes: READ_BYTES.0.min(most), most, is_short: false }
    }

    /// The largest read that there is.
    pub(super) fn most(&self) -> usize {
        self.most
    }

    /// Capacity of the buffer for the next read, of at most `allowed` bytes: the unfinished record and as much
    /// again as it is long, so that a long record is not copied more often than it doubles.
    pub(super) fn capacity(&self, unfinished: usize, allowed: usize) -> usize {
        let bytes = if self.is_short { self.least() } else { self.bytes };
        let read = max(bytes, unfinished.min(self.most)).min(allowed);
        let capacity = unfinished + read;
        if read < EVEN_BYTES * 4 { capacity } else { capacity / EVEN_BYTES * EVEN_BYTES }
    }

    /// A read behind `unfinished` bytes brought `read`.
    pub(super) fn handle_read(&mut self, unfinished: usize, read: usize) {
        if std::mem::take(&mut self.is_short) {
            return;
        }
        if unfinished + read >= self.capacity(unfinished, usize::MAX) {
            self.bytes = (self.bytes * GROWTH).min(READ_BYTES.1).min(self.most);
        } else if read < self.bytes / 2 {
            self.bytes = (self.bytes / 2).max(self.least());
        }
    }

    /// Makes the next read a short one, which says nothing of the producer.
    pub(super) fn shorten(&mut self) {
        self.is_short = true;
    }

    fn least(&self) -> usize {
        READ_BYTES.0.min(self.most)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::framing::{Delimiter, Lines};

    fn read_size() -> ReadSize {
        ReadSize::new(&Lines::new(Delimiter::new(Bytes::from_static(b"\n")), 1000), 16 << 20)
    }

    #[test]
    fn reads_that_come_back_full_grow_to_the_most_whatever_is_unfinished() {
        for record in [1, 200, 1000, 4096, 10_000, 65_537] {
            let (mut size, mut unfinished, mut reads) = (read_size(), 0, 0);
            while size.bytes < READ_BYTES.1 {
                let read = size.capacity(unfinished, usize::MAX) - unfinished;
                assert!(read > 0 && read <= max(size.bytes, unfinished), "{record}");
                size.handle_read(unfinished, read);
                unfinished = (unfinished + read) % record;
                reads += 1;
                assert!(reads <= 12, "{record}: {size:?}");
            }
        }
    }

    #[test]
    fn a_long_record_is_not_copied_more_often_than_it_doubles_up_to_a_bound() {
        let (mut size, mut unfinished, mut copied) = (read_size(), 0, 0);
        while unfinished < 1_000_000 {
            let read = size.capacity(unfinished, usize::MAX) - unfinished;
            assert!(read <= LONG_READ_BYTES);
            size.handle_read(unfinished, read);
            copied += unfinished;
            unfinished += read;
        }
        assert!(copied < 3_000_000, "{copied}");
    }

    #[test]
    fn reads_of_less_than_half_shrink_to_the_least_and_those_between_stay() {
        let mut size = read_size();
        size.bytes = 64 << 10;
        size.handle_read(100, 40_000);
        assert_eq!(size.bytes, 64 << 10);
        size.handle_read(100, 30_000);
        assert_eq!(size.bytes, 32 << 10);
        for _ in 0..10 {
            size.handle_read(100, 1);
        }
        assert_eq!(size.capacity(100, usize::MAX), 100 + READ_BYTES.0);
    }

    #[test]
    fn a_shortened_read_is_one_and_the_next_is_as_long_as_before() {
        let mut size = read_size();
        size.bytes = 64 << 10;
        size.shorten();
        assert_eq!(size.capacity(100, usize::MAX), 100 + READ_BYTES.0);
        size.handle_read(100, 10);
        assert_eq!(size.capacity(0, usize::MAX), 64 << 10);
    }

    #[test]
    fn what_is_allowed_bounds_a_read_and_says_nothing_of_the_producer() {
        let mut size = read_size();
        size.bytes = 64 << 10;
        assert_eq!(size.capacity(100, 1000), 1100);
        size.handle_read(100, 60_000);
        assert_eq!(size.bytes, 64 << 10);
    }
}
