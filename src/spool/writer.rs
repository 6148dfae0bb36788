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

use super::layout::{EncodeError, SEGMENT_HEADER_BYTES, SPARE, SegmentHeader, encode_front, segment_name};
use super::reader::{Position, Reader};
use super::storage::{Access, Storage, is_full, write_fully};
use super::watermark::Settled;
use super::watermark_file::{WATERMARK, WatermarkFile};

/// What the first segments are filled with, as much at once as the folios of the kernel's cache are to have:
/// it looks at each of them, and at all of each, at every write. Of folios of 128 KiB and more the smallest.
static ZEROS: [u8; 128 * 1024] = [0; 128 * 1024];
/// So many segments are filled first, those of a spool whose records soon leave. They go round.
const FILLED_SEGMENTS: usize = 4;

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

/// Most frames that one call writes, and most bytes of more than one: larger writes gain nothing in a plain file.
const FRAMES_A_WRITE: usize = 256;
/// See [`FRAMES_A_WRITE`].
const BYTES_A_WRITE: u64 = 256 * 1024;

/// What is to be a frame: records that end at `ends` in `data`, as in a `Chunk`.
#[derive(Debug, Clone, Copy)]
pub struct Records<'a> {
    /// When they were received, in Unix milliseconds.
    pub received_ms: u64,
    /// The end of each.
    pub ends: &'a [u32],
    /// Their bytes.
    pub data: &'a [u8],
}

/// A frame that is about to be written.
struct Encoded<'a> {
    front: Vec<u8>,
    data: &'a [u8],
    sequences: Range<u64>,
}

impl Encoded<'_> {
    fn bytes(&self) -> u64 {
        (self.front.len() + self.data.len()) as u64
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
    /// Written since the start, so that nothing else reads it.
    pub(super) own: bool,
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
    /// The header says where the frames end: behind them lies what was in the file before.
    marked: Option<SegmentHeader>,
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
    /// Bytes of the settled segment that the next one is to be written over. That spares the kernel to
    /// find, clear and give back pages.
    spare: Option<u64>,
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
            spare: None,
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
        let mut appended = self.append_some(std::iter::once(Records { received_ms, ends, data }))?;
        appended.pop().ok_or(WriteError::Unfit(EncodeError::Empty))
    }

    /// As [`Spool::append`], a frame for each of `frames`, with one call: for the first, and for those behind it
    /// that the same segment and the limit have room for. Returns where they are.
    ///
    /// # Errors
    ///
    /// See [`WriteError`], of the first; then none is written.
    pub fn append_some<'a>(
        &mut self,
        mut frames: impl Iterator<Item = Records<'a>>,
    ) -> Result<Vec<Appended>, WriteError> {
        self.check()?;
        let alone = frames.next().ok_or(EncodeError::Empty)?;
        let first = self.encode(self.next, alone)?;
        let mut bytes = first.bytes();
        self.check_room(bytes)?;
        if self.active.as_ref().is_some_and(|active| active.end + bytes > self.options.segment_bytes) {
            self.seal()?;
        }
        let start = self.active.as_ref().map_or(SEGMENT_HEADER_BYTES as u64, |active| active.end);
        let mut next = first.sequences.end;
        let mut group = vec![first];
        for records in frames.take(FRAMES_A_WRITE - 1) {
            // What is wrong with it is said when it is the first.
            let Ok(frame) = self.encode(next, records) else { break };
            let more = bytes + frame.bytes();
            let fits = more <= BYTES_A_WRITE && start + more <= self.options.segment_bytes;
            if !fits || self.check_room(more).is_err() {
                break;
            }
            (bytes, next) = (more, frame.sequences.end);
            group.push(frame);
        }
        let mut parts: Vec<_> =
            group.iter().flat_map(|frame| [IoSlice::new(&frame.front), IoSlice::new(frame.data)]).collect();
        let written = match self.active.take() {
            Some(active) => self.append_to(active, &mut parts, bytes),
            None => self.begin(alone.received_ms, &parts, bytes),
        };
        let Position { segment, mut offset } = match written {
            // There may be room for less.
            Err(WriteError::Full(_)) if group.len() > 1 => return self.append_some(std::iter::once(alone)),
            written => written?,
        };
        self.next = next;
        let appended = group.into_iter().map(|frame| {
            let (position, bytes) = (Position { segment, offset }, frame.bytes());
            offset += bytes;
            Appended { position, bytes, sequences: frame.sequences }
        });
        Ok(appended.collect())
    }

    fn encode<'a>(&self, first: u64, records: Records<'a>) -> Result<Encoded<'a>, EncodeError> {
        let Records { received_ms, ends, data } = records;
        let front = encode_front(self.identity, first, received_ms, ends, data)?;
        Ok(Encoded { front, data, sequences: first..first + ends.len() as u64 })
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
        if let Some(active) = &self.active {
            self.cut(active);
        }
        self.remove_spare();
        synced.and(settled)
    }

    fn check(&self) -> Result<(), WriteError> {
        if self.poisoned { Err(WriteError::Poisoned) } else { Ok(()) }
    }

    fn check_room(&mut self, frame: u64) -> Result<(), WriteError> {
        let needed = frame + SEGMENT_HEADER_BYTES as u64;
        if needed > self.options.limit_bytes / 2 {
            return Err(EncodeError::TooLarge.into());
        }
        let room = self.options.limit_bytes.saturating_sub(self.total_bytes());
        if self.spare.is_some_and(|spare| spare + needed > room) {
            self.remove_spare();
        }
        let full = needed > room;
        if full { Err(WriteError::Full(Full::Limit)) } else { Ok(()) }
    }

    /// Writes frames to the open segment. A failure for want of room leaves it as it was.
    fn append_to(
        &mut self,
        mut active: Active<S::File>,
        parts: &mut [IoSlice<'_>],
        bytes: u64,
    ) -> Result<Position, WriteError> {
        let position = Position { segment: active.number, offset: active.end };
        let written = write_fully(&*self.storage, &active.file, active.end, parts)
            .and_then(|()| self.mark(&mut active, position.offset + bytes));
        if let Err(error) = written {
            // What was written of it would look like damage, were it left behind a shorter frame.
            let undone = self.storage.truncate(&active.file, active.end);
            let name = segment_name(active.number);
            self.active = Some(active);
            self.remove_spare();
            return Err(self.give_up("write to", name, error, undone));
        }
        active.end += bytes;
        self.total += bytes;
        self.active = Some(active);
        Ok(position)
    }

    /// Lets the header say that the frames end at `end`, if it says where they do.
    fn mark(&self, active: &mut Active<S::File>, end: u64) -> io::Result<()> {
        let Some(header) = &mut active.marked else { return Ok(()) };
        header.end = in_header(end);
        let (offset, mark) = header.mark();
        write_fully(&*self.storage, &active.file, offset, &mut [IoSlice::new(&mark)])
    }

    /// Begins a segment with frames. A failure for want of room leaves no file.
    fn begin(&mut self, now_ms: u64, parts: &[IoSlice<'_>], bytes: u64) -> Result<Position, WriteError> {
        let number = self.next_number;
        let name = segment_name(number);
        // Not used again, even if this comes to nothing.
        self.next_number += 1;
        let spare = self.spare.take().and_then(|_| self.storage.open(SPARE, Access::Write).ok());
        let spare = spare.or_else(|| self.filled());
        let called = if spare.is_some() { SPARE } else { &*name };
        let file = match spare.map_or_else(|| self.storage.create(called), Ok) {
            Ok(file) => file,
            Err(error) => return Err(self.give_up("create", name, error, Ok(()))),
        };
        let end = SEGMENT_HEADER_BYTES as u64 + bytes;
        let header = SegmentHeader {
            spool: self.identity,
            number,
            first: self.next,
            created_ms: now_ms,
            generation: self.watermark.generation(),
            end: if called == SPARE { in_header(end) } else { 0 },
        };
        let front = header.encode();
        let mut parts: Vec<_> = std::iter::once(IoSlice::new(&front)).chain(parts.iter().copied()).collect();
        let written = self
            .storage
            .preallocate(&file, end.max(self.options.segment_bytes))
            .and_then(|()| write_fully(&*self.storage, &file, 0, &mut parts))
            .and_then(|()| if called == SPARE { self.storage.rename(SPARE, &name) } else { Ok(()) });
        if let Err(error) = written {
            let undone = self.storage.remove(called);
            return Err(self.give_up("write to", name, error, undone));
        }
        self.total += end;
        let marked = (called == SPARE).then_some(header);
        self.active = Some(Active { number, file, end, first: self.next, new: true, marked });
        Ok(Position { segment: number, offset: front.len() as u64 })
    }

    /// A spare made of zeros, for one of the first segments.
    fn filled(&self) -> Option<S::File> {
        if self.options.sync == Sync::Always || self.segments() >= FILLED_SEGMENTS {
            return None;
        }
        let file = self.storage.create(SPARE).ok()?;
        // It does without where that comes to nothing.
        self.fill(&file).inspect_err(|_| drop(self.storage.remove(SPARE))).ok()?;
        Some(file)
    }

    /// Writes zeros to a file, in pieces of [`ZEROS`], for a whole segment.
    fn fill(&self, file: &S::File) -> io::Result<()> {
        let bytes = self.options.segment_bytes;
        self.storage.preallocate(file, bytes)?;
        let mut at = 0;
        while at < bytes {
            let left = usize::try_from(bytes - at).unwrap_or(usize::MAX);
            let zeros = ZEROS.get(..left).unwrap_or(&ZEROS);
            write_fully(&*self.storage, file, at, &mut [IoSlice::new(zeros)])?;
            at += zeros.len() as u64;
        }
        Ok(())
    }

    fn remove_spare(&mut self) {
        if self.spare.take().is_some() {
            // What is left of it counts for nothing, and the next start removes it.
            drop(self.storage.remove(SPARE));
        }
    }

    /// Ends the open segment.
    fn seal(&mut self) -> Result<(), WriteError> {
        self.sync()?;
        let Some(active) = self.active.take() else { return Ok(()) };
        self.cut(&active);
        self.sealed.push_back(Sealed {
            number: active.number,
            bytes: active.end,
            sequences: std::iter::once(active.first..self.next).collect(),
            keep: false,
            own: true,
        });
        Ok(())
    }

    /// Gives back what was reserved or written over and not used. Where that fails nothing but room is lost, and
    /// the next start does not need it.
    fn cut(&self, active: &Active<S::File>) {
        drop(self.storage.truncate(&active.file, active.end));
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

    /// Whether a settled segment is to be the spare. Not where a power cut is to lose nothing: it could leave
    /// a part of each of the two.
    fn is_reusable(&self, segment: &Sealed) -> bool {
        let usual = self.options.segment_bytes / 2..=self.options.segment_bytes;
        let os = self.options.sync == Sync::Os && !self.poisoned;
        os && self.spare.is_none() && segment.own && usual.contains(&segment.bytes)
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
            let spared = self.is_reusable(&segment) && self.storage.rename(&name, SPARE).is_ok();
            if spared {
                self.spare = Some(segment.bytes);
                freed += segment.bytes;
                continue;
            }
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

/// A place in a segment as its header has it. No segment is nearly as long.
fn in_header(place: u64) -> u32 {
    u32::try_from(place).unwrap_or(u32::MAX)
}
