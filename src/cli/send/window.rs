//! What was read and is not acknowledged yet: held until it is, so that it can be sent again.
//!
//! The records lie one behind the other as they are written. What is acknowledged leaves at the front;
//! a new connection begins with whatever is left.

use std::collections::VecDeque;

use bytes::{Buf, BytesMut};

/// Bytes from which on nothing more is read until some of it is acknowledged.
pub const MOST_BYTES: usize = 8 << 20;
/// Records from which on nothing more is read, however short they are.
pub const MOST_RECORDS: usize = 1 << 18;

/// Why a count can't be.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Untrue {
    /// It covers what the other side can't have.
    #[error("acknowledged more records ({0}) than were written to it")]
    Ahead(u64),
    /// It is lower than the one before.
    #[error("acknowledged {0} records after it had acknowledged more")]
    Back(u64),
}

/// The unacknowledged records.
#[derive(Debug, Default)]
pub struct Window {
    bytes: BytesMut,
    /// Of each record, its line end included.
    lengths: VecDeque<usize>,
    /// How many of `bytes` the connection has taken.
    written: usize,
    acknowledged: u64,
    /// How many were acknowledged before this connection, which counts from zero.
    before: u64,
}

impl Window {
    /// Takes a record as it is to be written, its line end included.
    pub fn push(&mut self, line: &[u8]) {
        self.bytes.extend_from_slice(line);
        self.lengths.push_back(line.len());
    }

    /// Whether more may be read.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.bytes.len() < MOST_BYTES && self.lengths.len() < MOST_RECORDS
    }

    /// Whether everything that was taken is acknowledged.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lengths.is_empty()
    }

    /// Records that are not acknowledged.
    #[must_use]
    pub fn records(&self) -> u64 {
        u64::try_from(self.lengths.len()).unwrap_or(u64::MAX)
    }

    /// Records that are, over all connections.
    #[must_use]
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    /// A new connection was made, which has got nothing yet.
    pub fn begin(&mut self) {
        self.before = self.acknowledged;
        self.written = 0;
    }

    /// What the connection is to get next.
    #[must_use]
    pub fn unwritten(&self) -> &[u8] {
        self.bytes.get(self.written..).unwrap_or(&[])
    }

    /// The connection took so many bytes of [`Window::unwritten`].
    pub fn wrote(&mut self, bytes: usize) {
        self.written = (self.written + bytes).min(self.bytes.len());
    }

    /// The other side has the first `count` records of this connection. Returns whether these are
    /// more than before.
    ///
    /// # Errors
    ///
    /// [`Untrue`] where that can't be; what can be is acknowledged all the same.
    pub fn acknowledge(&mut self, count: u64) -> Result<bool, Untrue> {
        let known = self.acknowledged - self.before;
        let Some(new) = count.checked_sub(known) else { return Err(Untrue::Back(count)) };
        for _ in 0..new {
            match self.lengths.front() {
                Some(length) if *length <= self.written => {
                    self.bytes.advance(*length);
                    self.written -= length;
                    self.lengths.pop_front();
                    self.acknowledged += 1;
                }
                _ => return Err(Untrue::Ahead(count)),
            }
        }
        Ok(new > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(lines: &[&str]) -> Window {
        let mut window = Window::default();
        lines.iter().for_each(|line| window.push(line.as_bytes()));
        window.begin();
        window
    }

    // R-T8
    #[test]
    fn a_new_connection_begins_at_the_first_record_that_is_not_acknowledged() {
        let mut window = window(&["one\n", "two\n", "three\n", "four\n"]);
        window.wrote("one\ntwo\nthree\nfo".len());
        assert_eq!(window.acknowledge(2), Ok(true));
        assert_eq!(window.acknowledge(2), Ok(false));
        assert_eq!(window.unwritten(), b"ur\n");
        window.begin();
        assert_eq!(window.unwritten(), b"three\nfour\n");
        window.wrote("three\nfour\n".len());
        // It counts its own records only.
        assert_eq!(window.acknowledge(2), Ok(true));
        assert_eq!((window.acknowledged(), window.is_empty()), (4, true));
    }

    #[test]
    fn no_count_is_believed_that_covers_what_was_not_written_whole() {
        let mut window = window(&["one\n", "two\n"]);
        window.wrote("one\ntwo".len());
        assert_eq!(window.acknowledge(2), Err(Untrue::Ahead(2)));
        assert_eq!((window.acknowledged(), window.records()), (1, 1));
        assert_eq!(window.acknowledge(0), Err(Untrue::Back(0)));
        window.wrote(1);
        assert_eq!(window.acknowledge(u64::MAX), Err(Untrue::Ahead(u64::MAX)));
        assert!(window.is_empty());
    }

    // R-T9
    #[test]
    fn a_window_is_full_by_bytes_and_by_records() {
        let mut window = Window::default();
        let line = vec![b'x'; MOST_BYTES / 2];
        window.push(&line);
        assert!(window.has_room());
        window.push(&line);
        assert!(!window.has_room());
        let mut window = Window::default();
        (0..MOST_RECORDS).for_each(|_| window.push(b"\n"));
        assert!(!window.has_room());
    }
}
