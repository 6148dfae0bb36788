//! From a connection's bytes to records: one file a protocol.
//!
//! Framers are pure: they take the bytes that a shell has read and leave what is not yet whole
//! in the buffer that they were given. They never hold record bytes themselves, so the memory of
//! a connection is the capacity of its one buffer.

mod lines;

pub use lines::Lines;

use bytes::Bytes;

/// Follows each record that does not already end with it. May be empty.
#[derive(Debug, Clone)]
pub struct Delimiter(Bytes);

impl Delimiter {
    /// The delimiter made of `bytes`.
    #[must_use]
    pub fn new(bytes: Bytes) -> Self {
        Self(bytes)
    }

    /// What must follow `record`: the delimiter, or nothing where the record ends with it.
    #[must_use]
    pub fn after(&self, record: &[u8]) -> &[u8] {
        if record.ends_with(&self.0) { &[] } else { &self.0 }
    }

    /// Its bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// What a framer made of the bytes that it was given.
#[derive(Debug, Default)]
pub struct Framed {
    /// The whole records in wire form, one behind the other; empty when there are none.
    pub records: Bytes,
    /// The end of each record, as offsets into `records`, ascending.
    pub ends: Vec<u32>,
    /// The records that ended in these bytes but were skipped, in order.
    pub skipped: Vec<Skipped>,
}

/// A record that was not taken, known by its size only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Skipped {
    /// Bytes of the record as it was framed: of a line, without its LF.
    pub bytes: u64,
    /// Why it was skipped.
    pub why: Skip,
}

/// Why a record is skipped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Skip {
    /// It is longer than the listener takes.
    TooLong,
    /// Unfinished records together held too much, and this was the largest of them.
    Unfinished,
    /// The buffer is full and what arrives is dropped.
    NoRoom,
}
