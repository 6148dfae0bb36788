//! Finds the frames of a segment, whatever else is in it.
//!
//! Reads front to back, once, through a window; never past the file's end, never a byte twice
//! without need, and whatever it finds, each step goes forward. Bytes that can't be read count as
//! zeros, of which no frame is made, and are told apart from bytes that are wrong.

use std::io;
use std::ops::Range;

use super::layout::{
    FRAME_HEADER_BYTES, FRAME_MAGIC, FrameError, FrameHeader, HeaderError, SEGMENT_HEADER_BYTES,
    SegmentHeader,
};
use super::storage::{Storage, read_fully};
use super::watermark::Settled;

/// Bytes that are read at once where a frame does not need more.
const WINDOW_BYTES: usize = 256 * 1024;
/// What is read at once where reading more has failed.
const BLOCK_BYTES: usize = 4096;
/// After this many blocks that can't be read, the rest of the file counts as such: each may have
/// taken the disk seconds.
const MAX_BAD_BLOCKS: u64 = 64;
/// What a disk writes whole or not at all.
const SECTOR_BYTES: u64 = 512;

/// Undamaged frames one behind the other, in the file and in sequence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// Number in the name of the segment's file.
    pub segment: u64,
    /// The bytes of the frames in the file.
    pub place: Range<u64>,
    /// The sequences of their records.
    pub sequences: Range<u64>,
    /// Number of frames.
    pub frames: u64,
}

/// Bytes of a segment that are no frames.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stretch {
    /// Where in the file.
    pub place: Range<u64>,
    /// The sequences of the frame at its front, if that frame's header is undamaged.
    pub sequences: Option<Range<u64>>,
    /// How many of its bytes the disk did not give.
    pub unreadable: u64,
    /// Whether it looks like an append that was cut short: it ends with the file, in the midst of a
    /// frame or with a sector that was never written. What that means depends on the segment.
    pub torn: bool,
}

/// Records that are not settled, in undamaged frames.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Live {
    /// Number of records.
    pub records: u64,
    /// Their bytes.
    pub bytes: u64,
    /// When the oldest was received, in Unix milliseconds.
    pub oldest_ms: Option<u64>,
}

impl Live {
    pub(super) fn add(&mut self, other: Self) {
        self.records += other.records;
        self.bytes += other.bytes;
        self.oldest_ms = match (self.oldest_ms, other.oldest_ms) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        };
    }
}

/// What is in a segment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scan {
    /// Its undamaged frames.
    pub runs: Vec<Run>,
    /// Everything else but the header, ascending.
    pub stretches: Vec<Stretch>,
    /// Records to deliver.
    pub live: Live,
}

/// A segment's header, if there is one.
pub(super) fn read_header<S: Storage>(
    storage: &S,
    file: &S::File,
) -> io::Result<Result<SegmentHeader, HeaderError>> {
    let mut bytes = [0; SEGMENT_HEADER_BYTES];
    let length = read_fully(storage, file, 0, &mut bytes)?;
    Ok(SegmentHeader::decode(bytes.get(..length).unwrap_or_default()))
}

/// Looks through the segment `number` of `length` bytes for frames of `spool` (any spool's, until
/// the first is found, where `None`). `headed` says that its header is undamaged.
pub(super) fn scan<S: Storage>(
    storage: &S,
    file: &S::File,
    number: u64,
    length: u64,
    headed: bool,
    spool: Option<u64>,
    settled: &Settled,
) -> Scan {
    let window =
        Window { storage, file, length, start: 0, bytes: Vec::new(), bad: Vec::new(), given_up: false };
    let mut scanner = Scanner { window, number, spool, settled, scan: Scan::default() };
    scanner.run(headed);
    scanner.scan
}

struct Scanner<'a, S: Storage> {
    window: Window<'a, S>,
    number: u64,
    spool: Option<u64>,
    settled: &'a Settled,
    scan: Scan,
}

impl<S: Storage> Scanner<'_, S> {
    fn run(&mut self, headed: bool) {
        let mut at = 0;
        if headed {
            at = SEGMENT_HEADER_BYTES as u64;
        } else {
            at = self.skip(at);
        }
        while at < self.window.length {
            at = match self.frame(at) {
                Ok((header, live)) => self.found(at, &header, live),
                Err(_) => self.skip(at),
            };
        }
    }

    /// The frame at `at`, verified, with what of it is to be delivered.
    fn frame(&mut self, at: u64) -> Result<(FrameHeader, Live), FrameError> {
        let header = self.header(at)?;
        let whole = usize::try_from(header.frame_bytes()).map_err(|_| FrameError::Short)?;
        let payload = self.window.get(at, whole).get(FRAME_HEADER_BYTES..).ok_or(FrameError::Short)?;
        let ends = header.decode_ends(payload)?;
        Ok((header, live(&header, &ends, self.settled)))
    }

    /// The frame header at `at`, if the file is long enough for the frame.
    fn header(&mut self, at: u64) -> Result<FrameHeader, FrameError> {
        let header = FrameHeader::decode(self.window.get(at, FRAME_HEADER_BYTES))?;
        if self.spool.is_some_and(|spool| spool != header.spool) {
            return Err(FrameError::Foreign);
        }
        if self.window.length - at < header.frame_bytes() {
            return Err(FrameError::Short);
        }
        Ok(header)
    }

    /// Notes the frame at `at` and returns where it ends.
    fn found(&mut self, at: u64, header: &FrameHeader, live: Live) -> u64 {
        self.spool = Some(header.spool);
        self.scan.live.add(live);
        let end = at + header.frame_bytes();
        let sequences = header.sequences();
        match self.scan.runs.last_mut() {
            Some(run) if run.place.end == at && run.sequences.end == sequences.start => {
                (run.place.end, run.sequences.end) = (end, sequences.end);
                run.frames += 1;
            }
            _ => self.scan.runs.push(Run { segment: self.number, place: at..end, sequences, frames: 1 }),
        }
        end
    }

    /// Notes the stretch from `at` to the next frame, and returns where that is.
    fn skip(&mut self, at: u64) -> u64 {
        let header = self.window.get(at, FRAME_HEADER_BYTES);
        let header = FrameHeader::decode(header)
            .ok()
            .filter(|header| self.spool.is_none_or(|spool| spool == header.spool));
        let end = self.next_frame(at + 1);
        let place = at..end;
        let unreadable = self.window.unreadable(&place);
        let torn = end == self.window.length && unreadable == 0 && self.is_torn(&place, header.as_ref());
        let sequences = header.map(|header| header.sequences());
        self.scan.stretches.push(Stretch { place, sequences, unreadable, torn });
        end
    }

    /// Where the next frame begins, at or after `at`; the end of the file if there is none.
    fn next_frame(&mut self, mut at: u64) -> u64 {
        while at < self.window.length {
            let bytes = self.window.get(at, FRAME_HEADER_BYTES);
            // A whole window's worth is there: search all of it, but for a magic cut at its end.
            let searched = bytes.len().saturating_sub(FRAME_MAGIC.len() - 1).max(1) as u64;
            match memchr::memmem::find(bytes, &FRAME_MAGIC) {
                None => at += searched,
                Some(found) => {
                    at += found as u64;
                    if self.frame(at).is_ok() {
                        return at;
                    }
                    at += 1;
                }
            }
        }
        self.window.length
    }

    /// Whether the stretch at the file's end is an append that was cut short.
    fn is_torn(&mut self, place: &Range<u64>, header: Option<&FrameHeader>) -> bool {
        let least = if place.start == 0 { SEGMENT_HEADER_BYTES } else { FRAME_HEADER_BYTES };
        let whole = header.map_or(least as u64, FrameHeader::frame_bytes);
        place.end - place.start < whole || self.has_empty_sector(place)
    }

    /// Whether some sector is zero as far as it lies in `place`.
    fn has_empty_sector(&mut self, place: &Range<u64>) -> bool {
        let mut at = place.start;
        while at < place.end {
            let end = (at - at % SECTOR_BYTES + SECTOR_BYTES).min(place.end);
            let bytes = usize::try_from(end - at).unwrap_or(0);
            let sector = self.window.get(at, bytes).get(..bytes).unwrap_or_default();
            if sector.iter().all(|byte| *byte == 0) {
                return true;
            }
            at = end;
        }
        false
    }
}

/// What of a frame is to be delivered.
fn live(header: &FrameHeader, ends: &[u32], settled: &Settled) -> Live {
    let mut live = Live::default();
    for gap in settled.gaps(header.sequences()) {
        let end_of = |sequence: u64| {
            let before = usize::try_from(sequence - header.first).ok().and_then(|index| index.checked_sub(1));
            before.and_then(|index| ends.get(index)).map_or(0, |end| u64::from(*end))
        };
        live.records += gap.end - gap.start;
        live.bytes += end_of(gap.end) - end_of(gap.start);
        live.oldest_ms = Some(header.received_ms);
    }
    live
}

/// The part of a file that is in memory.
struct Window<'a, S: Storage> {
    storage: &'a S,
    file: &'a S::File,
    length: u64,
    start: u64,
    bytes: Vec<u8>,
    /// Blocks that could not be read, ascending; zero in `bytes`.
    bad: Vec<Range<u64>>,
    given_up: bool,
}

impl<S: Storage> Window<'_, S> {
    /// At least `bytes` bytes from `at`, fewer only at the end of the file.
    fn get(&mut self, at: u64, bytes: usize) -> &[u8] {
        let end = at.saturating_add(bytes as u64).min(self.length);
        if at < self.start || end > self.start + self.bytes.len() as u64 {
            self.fill(at, bytes.max(WINDOW_BYTES));
        }
        let skipped = usize::try_from(at - self.start).unwrap_or(usize::MAX);
        self.bytes.get(skipped..).unwrap_or_default()
    }

    fn fill(&mut self, at: u64, bytes: usize) {
        let bytes = usize::try_from(self.length.saturating_sub(at)).unwrap_or(usize::MAX).min(bytes);
        self.start = at;
        self.bytes.clear();
        self.bytes.resize(bytes, 0);
        let whole = !self.given_up && read_fully(self.storage, self.file, at, &mut self.bytes).is_ok();
        if !whole {
            self.fill_by_blocks(at);
        }
    }

    fn fill_by_blocks(&mut self, mut at: u64) {
        // Not a field of `self`, so that bad blocks can be noted meanwhile.
        let mut bytes = std::mem::take(&mut self.bytes);
        for block in bytes.chunks_mut(BLOCK_BYTES) {
            let place = at..at + block.len() as u64;
            if self.given_up || read_fully(self.storage, self.file, at, block).is_err() {
                block.fill(0);
                self.note_bad(place);
            }
            at += block.len() as u64;
        }
        self.bytes = bytes;
    }

    fn note_bad(&mut self, place: Range<u64>) {
        match self.bad.last_mut() {
            Some(last) if last.end >= place.start => last.end = last.end.max(place.end),
            _ => self.bad.push(place),
        }
        let bad: u64 = self.bad.iter().map(|bad| bad.end - bad.start).sum();
        self.given_up |= bad > MAX_BAD_BLOCKS * BLOCK_BYTES as u64;
    }

    /// How many bytes of `place` could not be read.
    fn unreadable(&self, place: &Range<u64>) -> u64 {
        let common = |bad: &Range<u64>| bad.end.min(place.end).saturating_sub(bad.start.max(place.start));
        self.bad.iter().map(common).sum()
    }
}
