//! What travels: a [`Chunk`] holds the bytes of one read and the ends of the records in it, a
//! [`Span`] names some of a chunk's records.
//!
//! Every queue carries chunks and every batch carries spans, so nothing is allocated, copied,
//! locked or logged per record. A record's bytes inside a chunk are its *wire form*: what the
//! producer sent, followed by the configured delimiter. Records lie one behind the other without
//! gaps, so any run of them is also one contiguous slice.

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use crate::budget::Reservation;

/// Where a chunk came from, told of what became of its records.
///
/// The receiver of these calls is the connection's acknowledgement state; chunks of listeners with `acks = "off"`
/// carry none.
pub trait Origin: Send + Sync + std::fmt::Debug {
    /// `records` records, the first of them number `first` on the connection, have reached the level
    /// that their [`Claim`] names.
    fn reached(&self, first: u64, records: u64);
}

/// How far a record has come, as far as its producer is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// It is in its stream's buffer.
    Received,
    /// The spool has it, through whatever `buffer.sync` says.
    Durable,
    /// Firehose answered that it has it.
    Delivered,
}

/// A run of a connection's records, and who is to be told of them.
#[derive(Debug, Clone)]
pub struct Claim {
    /// Who is to be told.
    pub origin: Arc<dyn Origin>,
    /// Of what.
    pub level: Level,
    /// Number on the connection of the first record.
    pub first: u64,
}

impl Claim {
    /// Tells that the first `records` of the run have reached the level.
    pub fn reached(&self, records: usize) {
        self.origin.reached(self.first, u64::try_from(records).unwrap_or(u64::MAX));
    }
}

/// The records of one read: their bytes in wire form and the end of each.
///
/// Holds its share of the memory budget until the last [`Span`] over it is gone.
#[derive(Debug)]
pub struct Chunk {
    bytes: Bytes,
    ends: Box<[u32]>,
    received: Instant,
    claim: Option<Claim>,
    /// The first record's, where the spool has them.
    sequence: Option<u64>,
    hold: Reservation,
    /// Its place among those that have gone on from memory, where there is a spool.
    #[expect(dead_code, reason = "given back when the chunk is dropped")]
    passage: Reservation,
}

impl Chunk {
    /// A chunk of the records that end at `ends` (ascending offsets into `bytes`, the last of
    /// them its length), first seen at `received`.
    ///
    /// # Panics
    ///
    /// In debug builds, if `ends` is empty or does not cover `bytes` exactly.
    #[must_use]
    pub fn new(bytes: Bytes, ends: Box<[u32]>, received: Instant, hold: Reservation) -> Self {
        debug_assert_eq!(ends.last().map(|end| *end as usize), Some(bytes.len()));
        debug_assert!(ends.is_sorted());
        Self { bytes, ends, received, claim: None, sequence: None, hold, passage: Reservation::none() }
    }

    /// The same chunk, whose producer is told how far its records have come.
    #[must_use]
    pub fn with_claim(self, claim: Option<Claim>) -> Self {
        Self { claim, ..self }
    }

    /// The same chunk, of which the spool has the records, the first of them as `sequence`.
    #[must_use]
    pub fn with_sequence(self, sequence: u64) -> Self {
        Self { sequence: Some(sequence), ..self }
    }

    /// Bytes of the budget that it holds.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.hold.bytes()
    }

    /// The same chunk, which holds `hold` instead.
    #[must_use]
    pub fn held_by(self, hold: Reservation) -> Self {
        Self { hold, ..self }
    }

    /// The same chunk, which holds `passage` beside its memory.
    #[must_use]
    pub fn with_passage(self, passage: Reservation) -> Self {
        Self { passage, ..self }
    }

    /// Who is to be told when the records reach `level`, if anybody.
    #[must_use]
    pub fn claim(&self, level: Level) -> Option<&Claim> {
        self.claim.as_ref().filter(|claim| claim.level == level)
    }

    /// Who is to be told of the records, at whatever level.
    #[must_use]
    pub fn any_claim(&self) -> Option<&Claim> {
        self.claim.as_ref()
    }

    /// The records in wire form, one behind the other.
    #[must_use]
    pub fn data(&self) -> &[u8] {
        &self.bytes
    }

    /// The end of each record in [`Chunk::data`].
    #[must_use]
    pub fn ends(&self) -> &[u32] {
        &self.ends
    }

    /// Number of records.
    #[must_use]
    pub fn records(&self) -> usize {
        self.ends.len()
    }

    /// Bytes of all records, delimiters included.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// When the chunk's records were read.
    #[must_use]
    pub fn received(&self) -> Instant {
        self.received
    }

    /// Offset at which record `index` starts; the chunk's length for `index` = number of records.
    fn start(&self, index: u32) -> usize {
        match index.checked_sub(1) {
            None => 0,
            Some(before) => self.ends.get(before as usize).map_or(self.bytes.len(), |end| *end as usize),
        }
    }
}

/// Consecutive records of one chunk. Never empty.
#[derive(Debug, Clone)]
pub struct Span {
    chunk: Arc<Chunk>,
    first: u32,
    end: u32,
}

impl Span {
    /// All records of `chunk`, or none where the chunk has none.
    #[must_use]
    pub fn whole(chunk: Arc<Chunk>) -> Option<Self> {
        let end = u32::try_from(chunk.records()).ok()?;
        (end > 0).then_some(Self { chunk, first: 0, end })
    }

    /// Number of records, at least 1.
    #[must_use]
    pub fn records(&self) -> usize {
        (self.end - self.first) as usize
    }

    /// Bytes of all records of the span.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.chunk.start(self.end) - self.chunk.start(self.first)
    }

    /// When the span's records were read.
    #[must_use]
    pub fn received(&self) -> Instant {
        self.chunk.received
    }

    /// The bytes of every record in order, each in wire form.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &[u8]> + Clone + '_ {
        let mut start = self.chunk.start(self.first);
        let ends = self.chunk.ends.get(self.first as usize..self.end as usize).unwrap_or(&[]);
        ends.iter().map(move |end| {
            let end = *end as usize;
            let record = self.chunk.bytes.get(start..end).unwrap_or(&[]);
            start = end;
            record
        })
    }

    /// The bytes of the span's record number `index`, in wire form; `None` past the end.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<&[u8]> {
        let index = self.first.checked_add(u32::try_from(index).ok()?).filter(|index| *index < self.end)?;
        self.chunk.bytes.get(self.chunk.start(index)..self.chunk.start(index + 1))
    }

    /// The bytes of all records, one behind the other.
    #[must_use]
    pub fn data(&self) -> &[u8] {
        self.chunk.bytes.get(self.chunk.start(self.first)..self.chunk.start(self.end)).unwrap_or(&[])
    }

    /// The same records as slices that share the chunk's allocation.
    pub fn shared(&self) -> impl ExactSizeIterator<Item = Bytes> + '_ {
        let mut start = self.chunk.start(self.first);
        let ends = self.chunk.ends.get(self.first as usize..self.end as usize).unwrap_or(&[]);
        ends.iter().map(move |end| {
            let end = *end as usize;
            let record = self.chunk.bytes.slice(start..end);
            start = end;
            record
        })
    }

    /// The span's record number `index` alone, `None` past the end.
    #[must_use]
    pub fn record(&self, index: usize) -> Option<Self> {
        let first = self.first.checked_add(u32::try_from(index).ok()?)?;
        (first < self.end).then(|| Self { chunk: Arc::clone(&self.chunk), first, end: first + 1 })
    }

    /// Splits off the longest front of at most `records` records and `bytes` bytes and leaves
    /// the rest in `self`; `None`, with `self` unchanged, where not even the first record fits.
    /// When all fit, the front is the whole span and `self` is left as `None` by the caller:
    /// the second value says whether anything remains.
    #[must_use]
    pub fn split_front(&mut self, records: usize, bytes: usize) -> Option<(Self, bool)> {
        let base = self.chunk.start(self.first);
        let ends = self.chunk.ends.get(self.first as usize..self.end as usize)?;
        let ends = ends.get(..records.min(ends.len()))?;
        let fitting = ends.partition_point(|end| *end as usize - base <= bytes);
        let fitting = u32::try_from(fitting).ok().filter(|n| *n > 0)?;
        let middle = self.first + fitting;
        let front = Self { chunk: Arc::clone(&self.chunk), first: self.first, end: middle };
        self.first = middle;
        Some((front, self.first < self.end))
    }

    /// Tells the producer, if it wants to know, that the span's records have reached `level`.
    pub fn reached(&self, level: Level) {
        if let Some(claim) = self.chunk.claim(level) {
            let first = claim.first + u64::from(self.first);
            claim.origin.reached(first, u64::from(self.end - self.first));
        }
    }

    /// The records' sequences in the spool, if it has them.
    #[must_use]
    pub fn sequences(&self) -> Option<Range<u64>> {
        let chunk = self.chunk.sequence?;
        Some(chunk + u64::from(self.first)..chunk + u64::from(self.end))
    }
}
