//! From a connection's bytes to records: one file or folder a protocol.
//!
//! Framers are pure: they take the bytes that a shell has read and leave what is not yet whole
//! in the buffer that they were given. What they hold beside it they say, so the memory of a connection is
//! the capacity of its one buffer and that.

pub mod firehose;
pub mod forward;
mod frames;
pub mod http;
mod json;
mod lines;
mod syslog;

pub use forward::Forward;
pub use frames::Frames;
pub use lines::Lines;
pub use syslog::Syslog;

use bytes::{Bytes, BytesMut};

/// A protocol's way from the bytes of one connection to records. Calls alternate: the shell appends to
/// a buffer, [`Framer::frame`] takes out of it what is whole; [`Framer::finish`] comes last.
///
/// Cutting the same bytes into other reads never changes the records.
pub trait Framer: Send {
    /// Takes what is whole out of `buffer`, of which the first `seen` bytes were there, and were not
    /// enough, at the call before.
    ///
    /// Of a record that is too long nothing is kept from the moment that this is certain.
    fn frame(&mut self, buffer: &mut BytesMut, seen: usize) -> Framed;

    /// The end of the stream: what is left in `buffer` is the last record, if the protocol allows that.
    fn finish(&mut self, buffer: &mut BytesMut) -> Framed;

    /// Gives up the record whose start is in `buffer`: it counts as skipped when its end comes.
    fn abandon(&mut self, buffer: &mut BytesMut, why: Skip);

    /// Most bytes that the records of `bytes` bytes can need beside those bytes: the ends, and copies
    /// where records are not taken as they came. With 0, what the next call needs that no read precedes
    /// ([`Framed::more`]).
    fn overhead(&self, bytes: usize) -> usize;

    /// Bytes that it holds beside the buffer until the next call. What they grow by is part of
    /// [`Framer::overhead`].
    fn held(&self) -> usize {
        0
    }

    /// Whether its records never share the buffer's memory.
    fn is_apart(&self) -> bool {
        false
    }

    /// The records of the last call were dropped for want of room, so nobody may be told that he was heard.
    fn dropped(&mut self) {}
}

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
    /// What the producer is to be told, in order, once records have come as far as the listener says.
    pub replies: Vec<Reply>,
    /// What was found in place of the protocol, as a sentence's end. Nothing of the connection can be
    /// read any more.
    pub broken: Option<&'static str>,
    /// It would go on without another read, once there is memory for what [`Framer::overhead`] says of 0.
    pub more: bool,
}

/// Bytes for the producer, of a protocol that has answers of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// It waits for the first so many of the records that it came with, and for all before them.
    pub records: usize,
    /// What is written.
    pub bytes: Bytes,
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
    /// It is none, by the rules of its protocol.
    Malformed,
    /// The stream ended within it.
    Incomplete,
}

/// An offset into a buffer of one connection, which is far smaller than 4 GiB.
fn offset(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

fn count(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}
