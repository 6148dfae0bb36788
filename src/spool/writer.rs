//! [`Spool`]: appends frames, makes them durable, and gives back the space of what is settled.
//!
//! * A frame is in the file whole or not at all, as far as its writer can see to it.
//! * What [`Spool::sync`] has once called durable stays so. A sync or a write that fails for any
//!   other reason than room ends the writer: it is never tried again.
//! * A segment is removed only when every record in it is settled, and the disk itself says so.
//!
//! One thread owns the spool; its calls block as long as the disk does.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::ops::Range;
use std::sync::Arc;

use super::layout::{EncodeError, SEGMENT_HEADER_BYTES, SegmentHeader, encode_front, segment_name};
use super::reader::{Position, Reader};
use super::storage::{Storage, is_full, write_fully};
use super::watermark::Settled;
use super::watermark_file::{WATERMARK, WatermarkFile};

/// When an accepted record is safe from what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Sync {
    /// From a power cut: segments are synced, each before the next is begun.
    #[default]
    Always,
    /// From a killed process: segments are left to the kernel.
    Os,
}

/// How a spool is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Bound on the bytes of all segments.
    pub limit_bytes: u64,
    /// A segment that has reached this is followed by another; at most a quarter of the limit. One
    /// longer frame has a segment of its own.
    pub segment_bytes: u64,
    /// What durable means.
    pub sync: Sync,
    /// A random number: the spool's identity, if it has none yet.
    pub identity: u64,
}

impl Options {
    /// For at most `limit_bytes` on the disk: an eighth of it a segment, up to 8 MiB.
    #[must_use]
    pub fn new(limit_bytes: u64, sync: Sync, identity: u64) -> Self {
        let segment_bytes = (limit_bytes / 8).clamp(64 * 1024, 8 * 1024 * 1024);
        Self { limit_bytes, segment_bytes, sync, identity }
    }
}

/// Where an appended frame is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Appended {
    /// Where it lies.
    pub position: Position,
    /// Its length on the disk.
    pub bytes: u64,
    /// The sequences of its records.
    pub sequences: Range<u64>,
}

/// What there is no room in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Full {
    /// [`Options::limit_bytes`].
    Limit,
    /// The file system, this user's part of it, or the process's file descriptors.
    System,
}

/// Why something was not written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// There is no room. Nothing has happened, and all goes on when room comes.
    #[error("{}", match .0 {
        Full::Limit => "the spool has reached its limit",
        Full::System => "the system gives the spool no room: the disk, a quota or the file descriptors are used up",
    })]
    Full(Full),
    /// These records can never be a frame of this spool.
    #[error("these records can not be spooled")]
    Unfit(#[from] EncodeError),
    /// The disk failed; the writer has ended with this.
    #[error("could not {tried} the spool's {name}: nothing more is spooled until a restart")]
    Failed {
        /// What was tried.
        tried: &'static str,
        /// The file.
        name: String,
        /// What the system said.
        source: io::Error,
    },
    /// The writer ended with an earlier failure.
    #[error("the spool's disk failed earlier: nothing more is spooled until a restart")]
    Poisoned,
}

/// A segment that is not written any more.
#[derive(Debug, Clone)]
pub(super) struct Sealed {
    pub(super) number: u64,
    pub(super) bytes: u64,
    /// The sequences of its frames.
    pub(super) sequences: Vec<Range<u64>>,
    /// Holds something that could not be read and is nowhere else.
    pub(super) keep: bool,
}

/// The segment that is written.
#[derive(Debug)]
struct Active<F> {
    number: u64,
    file: F,
    /// End of the last whole frame.
    end: u64,
    first: u64,
    /// Its name is not known to be durable.
    new: bool,
}

/// The crash-safe log of records. See the module's documentation.
#[derive(Debug)]
pub struct Spool<S: Storage> {
    storage: Arc<S>,
    options: Options,
    identity: u64,
    active: Option<Active<S::File>>,
    sealed: VecDeque<Sealed>,
    settled: Settled,
    watermark: WatermarkFile<S>,
    next_number: u64,
    next: u64,
    durable: u64,
    /// Bytes of segments.
    total: u64,
    /// Bytes of copies of damaged stretches.
    set_aside: u64,
    poisoned: bool,
}

/// What a start has found for the writer to go on with.
pub(super) struct Resumed<S: Storage> {
    pub(super) identity: u64,
    pub(super) sealed: Vec<Sealed>,
    pub(super) settled: Settled,
    pub(super) watermark: WatermarkFile<S>,
    pub(super) next_number: u64,
    pub(super) next: u64,
    pub(super) set_aside: u64,
}

impl<S: Storage> Spool<S> {
    pub(super) fn resume(storage: Arc<S>, mut options: Options, resumed: Resumed<S>) -> Self {
        options.segment_bytes = options.segment_bytes.min(options.limit_bytes / 4);
        let Resumed { identity, sealed, settled, watermark, next_number, next, set_aside } = resumed;
        Self {
            storage,
            options,
            identity,
            active: None,
            total: sealed.iter().map(|segment| segment.bytes).sum(),
            sealed: sealed.into(),
            settled,
            watermark,
            next_number,
            next,
            durable: next,
            set_aside,
            poisoned: false,
        }
    }

    /// A reader of this spool's frames, for any thread.
    #[must_use]
    pub fn reader(&self) -> Reader<S> {
        Reader::new(Arc::clone(&self.storage), self.identity)
    }

    /// The sequence that the next record gets.
    #[must_use]
    pub fn next_sequence(&self) -> u64 {
        self.next
    }

    /// Every record below this sequence is durable, or was settled before it could be.
    #[must_use]
    pub fn durable_sequence(&self) -> u64 {
        self.durable
    }

    /// What durable means here.
    #[must_use]
    pub fn durability(&self) -> Sync {
        self.options.sync
    }

    /// What is settled.
    #[must_use]
    pub fn settled(&self) -> &Settled {
        &self.settled
    }

    /// Bytes that count against the limit: of all segments, and of copies of damaged stretches as
    /// far as half of the limit.
    #[must_use]
    pub fn total_bytes(&self) -> u64 {
        self.total + self.set_aside.min(self.options.limit_bytes / 2)
    }

    /// Number of segments.
    #[must_use]
    pub fn segments(&self) -> usize {
        self.sealed.len() + usize::from(self.active.is_some())
    }

    /// Whether the writer has ended with a failure.
    #[must_use]
    pub fn is_poisoned(&self) -> bool {
        self.poisoned
    }

    /// Writes the records that end at `ends` in `data` (as in a `Chunk`) behind all others. They
    /// are durable after the next [`Spool::sync`].
    ///
    /// # Errors
    ///
    /// See [`WriteError`].
    pub fn append(&mut self, received_ms: u64, ends: &[u32], data: &[u8]) -> Result<Appended, WriteError> {
        self.check()?;
        let front = encode_front(self.identity, self.next, received_ms, ends, data)?;
        let bytes = (front.len() + data.len()) as u64;
        self.check_room(bytes)?;
        if self.active.as_ref().is_some_and(|active| active.end + bytes > self.options.segment_bytes) {
            self.seal()?;
        }
        let position = match self.active.take() {
            Some(active) => self.append_to(active, &front, data)?,
            None => self.begin(received_ms, &front, data)?,
        };
        let sequences = self.next..self.next + ends.len() as u64;
        self.next = sequences.end;
        Ok(Appended { position, bytes, sequences })
    }

    /// Makes all that was appended durable, and returns [`Spool::durable_sequence`]. With
    /// [`Sync::Os`] it is that already.
    ///
    /// # Errors
    ///
    /// See [`WriteError`]; after a failure nothing more becomes durable.
    pub fn sync(&mut self) -> Result<u64, WriteError> {
        self.check()?;
        let active = self.active.as_mut().filter(|_| self.options.sync == Sync::Always);
        let Some(active) = active else {
            self.durable = self.next;
            return Ok(self.durable);
        };
        if self.durable < self.next {
            let synced = self.storage.sync_data(&active.file);
            let number = active.number;
            synced.map_err(|error| poison(&mut self.poisoned, "sync", segment_name(number), error))?;
        }
        if active.new {
            let synced = self.storage.sync_directory();
            synced.map_err(|error| poison(&mut self.poisoned, "sync", "directory".to_owned(), error))?;
            active.new = false;
        }
        self.durable = self.next;
        Ok(self.durable)
    }

    /// Notes that the records of `sequences` are settled. Nothing is written before the next
    /// [`Spool::checkpoint`].
    pub fn settle(&mut self, sequences: Range<u64>) {
        self.settled.insert(sequences.start..sequences.end.min(self.next));
    }

    /// Writes down what is settled, which a killed process cannot lose; removes segments that
    /// are settled as a whole, for which (but for [`Sync::Os`]) the watermark is synced first. Returns
    /// how many bytes that gave back.
    ///
    /// # Errors
    ///
    /// [`WriteError::Full`], after which it can be tried again, or [`WriteError::Failed`], after
    /// which no segment is removed any more. Works on after the writer has ended, so that what is
    /// sent from memory then is not sent again after the restart.
    pub fn checkpoint(&mut self) -> Result<u64, WriteError> {
        let half_full = |active: &Active<S::File>| active.end * 2 >= self.options.segment_bytes;
        let settled = |active: &Active<S::File>| self.settled.contains(&(active.first..self.next));
        // Else a small spool could stand at its limit with nothing but settled records.
        if !self.poisoned && self.active.as_ref().is_some_and(|active| half_full(active) && settled(active)) {
            self.seal()?;
        }
        let removable = self.sealed.iter().any(|segment| self.is_removable(segment));
        self.write_watermark(removable && self.options.sync == Sync::Always)?;
        if removable { self.remove_settled() } else { Ok(0) }
    }

    /// Makes all that was appended and all that is settled durable: the last call before the end.
    ///
    /// # Errors
    ///
    /// As [`Spool::sync`] and [`Spool::checkpoint`].
    pub fn close(mut self) -> Result<(), WriteError> {
        let synced = self.sync().map(drop);
        let settled = self.write_watermark(true).and_then(|()| self.checkpoint().map(drop));
        synced.and(settled)
    }

    fn check(&self) -> Result<(), WriteError> {
        if self.poisoned { Err(WriteError::Poisoned) } else { Ok(()) }
    }

    fn check_room(&self, frame: u64) -> Result<(), WriteError> {
        let needed = frame + SEGMENT_HEADER_BYTES as u64;
        if needed > self.options.limit_bytes / 2 {
            return Err(EncodeError::TooLarge.into());
        }
        let full = self.total_bytes() + needed > self.options.limit_bytes;
        if full { Err(WriteError::Full(Full::Limit)) } else { Ok(()) }
    }

    /// Writes a frame to the open segment. A failure for want of room leaves it as it was.
    fn append_to(
        &mut self,
        mut active: Active<S::File>,
        front: &[u8],
        data: &[u8],
    ) -> Result<Position, WriteError> {
        let position = Position { segment: active.number, offset: active.end };
        let mut parts = [IoSlice::new(front), IoSlice::new(data)];
        let written = write_fully(&*self.storage, &active.file, active.end, &mut parts);
        if let Err(error) = written {
            // What was written of it would look like damage, were it left behind a shorter frame.
            let undone = self.storage.truncate(&active.file, active.end);
            let name = segment_name(active.number);
            self.active = Some(active);
            return Err(self.give_up("write to", name, error, undone));
        }
        let bytes = (front.len() + data.len()) as u64;
        active.end += bytes;
        self.total += bytes;
        self.active = Some(active);
        Ok(position)
    }

    /// Begins a segment with a frame. A failure for want of room leaves no file.
    fn begin(&mut self, now_ms: u64, front: &[u8], data: &[u8]) -> Result<Position, WriteError> {
        let number = self.next_number;
        let name = segment_name(number);
        // Not used again, even if this comes to nothing.
        self.next_number += 1;
        let generation = self.watermark.generation();
        let header =
            SegmentHeader { spool: self.identity, number, first: self.next, created_ms: now_ms, generation };
        let header = header.encode();
        let end = (header.len() + front.len() + data.len()) as u64;
        let file = match self.storage.create(&name) {
            Ok(file) => file,
            Err(error) => return Err(self.give_up("create", name, error, Ok(()))),
        };
        let mut parts = [IoSlice::new(&header), IoSlice::new(front), IoSlice::new(data)];
        let reserved = self.storage.preallocate(&file, end.max(self.options.segment_bytes));
        let written = reserved.and_then(|()| write_fully(&*self.storage, &file, 0, &mut parts));
        if let Err(error) = written {
            let undone = self.storage.remove(&name);
            return Err(self.give_up("write to", name, error, undone));
        }
        self.total += end;
        self.active = Some(Active { number, file, end, first: self.next, new: true });
        Ok(Position { segment: number, offset: header.len() as u64 })
    }

    /// Ends the open segment.
    fn seal(&mut self) -> Result<(), WriteError> {
        self.sync()?;
        let Some(active) = self.active.take() else { return Ok(()) };
        // Gives back what was reserved and not used. Where that fails nothing but room is lost, and
        // the next start does not need it.
        drop(self.storage.truncate(&active.file, active.end));
        self.sealed.push_back(Sealed {
            number: active.number,
            bytes: active.end,
            sequences: std::iter::once(active.first..self.next).collect(),
            keep: false,
        });
        Ok(())
    }

    pub(super) fn write_watermark(&mut self, sync: bool) -> Result<(), WriteError> {
        let mut written = self.watermark.write(&self.settled);
        if sync {
            written = written.and_then(|()| self.watermark.sync());
        }
        // Spooling goes on without: what is settled is then sent again after a crash.
        written.map_err(|source| match is_full(&source) && !self.watermark.has_ended() {
            true => WriteError::Full(Full::System),
            false => WriteError::Failed { tried: "write", name: WATERMARK.to_owned(), source },
        })
    }

    fn is_removable(&self, segment: &Sealed) -> bool {
        // Most segments lie above all that is settled, which is seen without a search.
        let begun = segment.sequences.first().is_none_or(|first| first.start < self.settled.end());
        begun && !segment.keep && segment.sequences.iter().all(|sequences| self.settled.contains(sequences))
    }

    /// Removes settled segments, whose watermark is durable, oldest first.
    pub(super) fn remove_settled(&mut self) -> Result<u64, WriteError> {
        let mut freed = 0;
        let mut kept = VecDeque::with_capacity(self.sealed.len());
        let mut failure = None;
        while let Some(segment) = self.sealed.pop_front() {
            if failure.is_some() || !self.is_removable(&segment) {
                kept.push_back(segment);
                continue;
            }
            let name = segment_name(segment.number);
            match self.storage.remove(&name) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    failure = Some(WriteError::Failed { tried: "remove", name, source });
                    kept.push_back(segment);
                }
                _ => freed += segment.bytes,
            }
        }
        self.sealed = kept;
        self.total -= freed;
        match failure {
            Some(failure) => Err(failure),
            None => Ok(freed),
        }
    }

    /// The error of a write that was `undone` again, or with which the writer ends.
    fn give_up(
        &mut self,
        tried: &'static str,
        name: String,
        error: io::Error,
        undone: io::Result<()>,
    ) -> WriteError {
        if is_full(&error) && undone.is_ok() {
            return WriteError::Full(Full::System);
        }
        poison(&mut self.poisoned, tried, name, error)
    }
}

fn poison(poisoned: &mut bool, tried: &'static str, name: String, source: io::Error) -> WriteError {
    *poisoned = true;
    WriteError::Failed { tried, name, source }
}
