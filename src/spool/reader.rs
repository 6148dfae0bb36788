//! Reads frames back, each verified, and [`Backlog`]: what is still to be read, in order.

use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::layout::{FRAME_HEADER_BYTES, FrameError, FrameHeader, segment_name};
use super::scan::{Live, Run, scan};
use super::storage::{Access, Storage, read_fully};
use super::watermark::Settled;
use super::writer::Appended;

/// Where a frame lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// Number in the name of the segment's file.
    pub segment: u64,
    /// Its first byte.
    pub offset: u64,
}

/// A frame, read back and verified.
#[derive(Debug, Clone)]
pub struct Frame {
    /// Where it lies.
    pub position: Position,
    /// What its header says.
    pub header: FrameHeader,
    /// The records in wire form.
    pub bytes: Bytes,
    /// The end of each record in `bytes`.
    pub ends: Box<[u32]>,
}

/// Why a frame could not be read back.
#[derive(Debug, thiserror::Error)]
#[error("could not read {} at byte {}", segment_name(position.segment), position.offset)]
pub struct ReadError {
    /// Where.
    pub position: Position,
    /// Why.
    #[source]
    pub cause: ReadCause,
}

/// What was wrong where a frame should be.
#[derive(Debug, thiserror::Error)]
pub enum ReadCause {
    /// The disk did not give its bytes.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// They are not as they were written.
    #[error(transparent)]
    Frame(#[from] FrameError),
}

/// Reads frames; keeps the segment of the last one open.
#[derive(Debug)]
pub struct Reader<S: Storage> {
    storage: Arc<S>,
    spool: u64,
    open: Option<(u64, S::File)>,
}

impl<S: Storage> Clone for Reader<S> {
    fn clone(&self) -> Self {
        Self::new(Arc::clone(&self.storage), self.spool)
    }
}

impl<S: Storage> Reader<S> {
    /// A reader of the frames of `spool`.
    pub(super) fn new(storage: Arc<S>, spool: u64) -> Self {
        Self { storage, spool, open: None }
    }

    /// The header of the frame at `position`: what room it will need.
    ///
    /// # Errors
    ///
    /// See [`ReadError`].
    pub fn header(&mut self, position: Position) -> Result<FrameHeader, ReadError> {
        self.read_header(position).map_err(|cause| ReadError { position, cause })
    }

    /// The frame at `position`.
    ///
    /// # Errors
    ///
    /// See [`ReadError`].
    pub fn read(&mut self, position: Position) -> Result<Frame, ReadError> {
        let header = self.header(position)?;
        self.payload(position, header).map_err(|cause| ReadError { position, cause })
    }

    /// Lets go of the segment of the last frame, whose room on the disk is not given back before.
    pub fn close(&mut self) {
        self.open = None;
    }

    fn read_header(&mut self, position: Position) -> Result<FrameHeader, ReadCause> {
        let spool = self.spool;
        let mut bytes = [0; FRAME_HEADER_BYTES];
        let length = self.with_segment(position.segment, |storage, file| {
            read_fully(storage, file, position.offset, &mut bytes)
        })?;
        let header = FrameHeader::decode(bytes.get(..length).unwrap_or_default())?;
        if header.spool != spool { Err(FrameError::Foreign.into()) } else { Ok(header) }
    }

    /// One allocation holds the lengths and the records; what is handed out is a part of it.
    fn payload(&mut self, position: Position, header: FrameHeader) -> Result<Frame, ReadCause> {
        // Within `MAX_FRAME_BYTES`: the header's CRC fits.
        let length = usize::try_from(header.payload_bytes()).unwrap_or(0);
        let mut payload = Vec::with_capacity(length);
        let start = position.offset + FRAME_HEADER_BYTES as u64;
        self.with_segment(position.segment, |storage, file| {
            // The allocator may have given more than was asked for, which is then cut off.
            while payload.len() < length {
                let at = start + payload.len() as u64;
                if storage.read_behind(file, at, &mut payload)? == 0 {
                    break;
                }
            }
            Ok(())
        })?;
        payload.truncate(length);
        let ends = header.decode_ends(&payload)?;
        let bytes = Bytes::from(payload).slice(header.lengths_bytes as usize..);
        Ok(Frame { position, header, bytes, ends })
    }

    /// Reads from `segment`, which stays open.
    fn with_segment<T>(
        &mut self,
        segment: u64,
        read: impl FnOnce(&S, &S::File) -> io::Result<T>,
    ) -> io::Result<T> {
        let file = match self.open.take() {
            Some((number, file)) if number == segment => file,
            _ => self.storage.open(&segment_name(segment), Access::Read)?,
        };
        let result = read(&self.storage, &file);
        self.open = Some((segment, file));
        result
    }

    /// Where the next frame begins, at or after `from` and before `end`.
    fn resume(&mut self, segment: u64, from: u64, end: u64) -> Option<u64> {
        let file = self.storage.open(&segment_name(segment), Access::Read).ok()?;
        let found = scan(&*self.storage, &file, segment, end, false, Some(self.spool), &Settled::default());
        found.runs.iter().map(|run| run.place.start).find(|at| *at >= from)
    }
}

/// Frames that wait on the disk, in the order of their sequences.
///
/// Costs a few words for each run of frames that lie one behind the other, however many they are.
#[derive(Debug, Clone, Default)]
pub struct Backlog {
    runs: VecDeque<Run>,
    /// Of these records nothing is handed out.
    settled: Settled,
    /// The frame that [`Backlog::peek`] saw.
    peeked: Option<(Position, FrameHeader)>,
}

/// A frame of the backlog, with the records of it that are to be delivered.
#[derive(Debug, Clone)]
pub struct Waiting {
    /// The frame.
    pub frame: Frame,
    /// Indices of the records that are not settled, ascending; never empty.
    pub live: Vec<Range<u32>>,
}

impl Waiting {
    /// The records to deliver, as runs that lie one behind the other.
    pub fn slices(&self) -> impl Iterator<Item = Bytes> + '_ {
        self.live.iter().map(|live| {
            let start = self.start(live.start);
            self.frame.bytes.slice(start..self.start(live.end).max(start))
        })
    }

    /// Whether all records of the frame are to be delivered.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        let records: usize = self.live.iter().map(|live| (live.end - live.start) as usize).sum();
        records == self.frame.ends.len()
    }

    /// The records to deliver as runs that lie one behind the other: which they are, their bytes, and
    /// the end of each in those.
    pub fn parts(&self) -> impl Iterator<Item = (Range<u32>, Bytes, Box<[u32]>)> + '_ {
        self.live.iter().zip(self.slices()).map(|(live, bytes)| {
            let ends = self.frame.ends.get(live.start as usize..live.end as usize).unwrap_or_default();
            let before = live.start.checked_sub(1).and_then(|before| self.frame.ends.get(before as usize));
            let start = before.copied().unwrap_or(0);
            (live.clone(), bytes, ends.iter().map(|end| end - start).collect())
        })
    }

    /// Where record `index` starts in the frame's bytes; their length for the number of records.
    fn start(&self, index: u32) -> usize {
        let before = index.checked_sub(1).and_then(|before| self.frame.ends.get(before as usize));
        before.map_or(0, |end| *end as usize)
    }

    /// The records to deliver, counted.
    #[must_use]
    pub fn live_count(&self) -> Live {
        Live {
            records: self.live.iter().map(|live| u64::from(live.end - live.start)).sum(),
            bytes: self.slices().map(|records| records.len() as u64).sum(),
            oldest_ms: Some(self.frame.header.received_ms),
        }
    }
}

impl Backlog {
    /// What `runs` hold, but for what is `settled`; sorted by sequence.
    pub(super) fn new(mut runs: Vec<Run>, settled: Settled) -> Self {
        runs.sort_by_key(|run| (run.sequences.start, run.segment));
        Self { runs: runs.into(), settled, peeked: None }
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.runs.iter().all(|run| self.settled.contains(&run.sequences))
    }

    /// Bytes of the frames that wait.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.runs.iter().map(|run| run.place.end - run.place.start).sum()
    }

    /// Adds a frame behind all others.
    pub fn push(&mut self, appended: &Appended) {
        let Position { segment, offset } = appended.position;
        let (place, sequences) = (offset..offset + appended.bytes, appended.sequences.clone());
        match self.runs.back_mut() {
            Some(run)
                if run.segment == segment
                    && run.place.end == place.start
                    && run.sequences.end == sequences.start =>
            {
                (run.place.end, run.sequences.end) = (place.end, sequences.end);
                run.frames += 1;
            }
            _ => self.runs.push_back(Run { segment, place, sequences, frames: 1 }),
        }
    }

    /// The header of the frame that [`Backlog::next`] will read, so that room can be made first.
    ///
    /// # Errors
    ///
    /// See [`ReadError`]. The frames that could not be read are passed over: the next call goes on
    /// behind them. They stay on the disk, not settled.
    pub fn peek<S: Storage>(&mut self, reader: &mut Reader<S>) -> Result<Option<FrameHeader>, ReadError> {
        while let Some(run) = self.runs.front_mut() {
            if run.place.is_empty() || self.settled.contains(&run.sequences) {
                self.runs.pop_front();
                self.peeked = None;
                continue;
            }
            let position = Position { segment: run.segment, offset: run.place.start };
            let known = self.peeked.take().filter(|(peeked, _)| *peeked == position);
            let header = match known {
                Some((_, header)) => header,
                None => match reader.header(position) {
                    Ok(header) => header,
                    Err(error) => {
                        run.place.start = reader
                            .resume(run.segment, position.offset + 1, run.place.end)
                            .unwrap_or(run.place.end);
                        return Err(error);
                    }
                },
            };
            if self.settled.contains(&header.sequences()) {
                run.place.start += header.frame_bytes();
                continue;
            }
            self.peeked = Some((position, header));
            return Ok(Some(header));
        }
        Ok(None)
    }

    /// Takes the next frame; `None` when nothing waits.
    ///
    /// # Errors
    ///
    /// As [`Backlog::peek`].
    pub fn next<S: Storage>(&mut self, reader: &mut Reader<S>) -> Result<Option<Waiting>, ReadError> {
        let Some(header) = self.peek(reader)? else { return Ok(None) };
        let (Some((position, _)), Some(run)) = (self.peeked.take(), self.runs.front_mut()) else {
            return Ok(None);
        };
        run.place.start += header.frame_bytes();
        run.sequences.start = run.sequences.start.max(header.sequences().end).min(run.sequences.end);
        let frame = reader.payload(position, header).map_err(|cause| ReadError { position, cause })?;
        let index = |sequence: u64| u32::try_from(sequence - header.first).unwrap_or(u32::MAX);
        let live =
            self.settled.gaps(header.sequences()).map(|gap| index(gap.start)..index(gap.end)).collect();
        // What a copied file holds too is not handed out again.
        self.settled.insert(header.sequences());
        Ok(Some(Waiting { frame, live }))
    }
}
