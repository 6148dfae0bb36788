//! Starts on whatever is in the directory.
//!
//! First a *survey*: every file is looked at and nothing is changed. Then the *mending*: damaged
//! stretches are copied to files of their own, a torn end is cut, lost records are settled, and the
//! watermark that says all this is synced. A crash at any call leaves a directory that the next
//! start mends the same way.
//!
//! Refuses only what a human must decide: a newer format version, and a directory that can't be
//! listed. Deletes nothing that it could not read and that is nowhere else.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, IoSlice};
use std::ops::Range;
use std::sync::Arc;

use super::layout::{
    FRAME_HEADER_BYTES, FileKind, FrameHeader, HeaderError, SegmentHeader, VERSION, segment_name,
};
use super::reader::{Backlog, Reader};
use super::scan::{Live, Run, Scan, Stretch, read_header, scan};
use super::storage::{Access, Entry, Storage, read_fully, write_fully};
use super::watermark::{Settled, Slot};
use super::watermark_file::{self, Slots, WATERMARK, WatermarkFile, WatermarkState};
use super::writer::{Options, Resumed, Sealed, Spool, Sync, WriteError};

/// By how many the generation of a watermark that can't be seen may be ahead of all that is seen.
const UNSEEN_GENERATIONS: u64 = 1 << 32;

/// Why a spool can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A file of a later hydrant's; nothing was changed.
    #[error(
        "{name} has spool format version {version}, and this hydrant reads version {VERSION}: \
         let the newer hydrant deliver what is in it, or give this one another directory"
    )]
    Version {
        /// The file.
        name: String,
        /// Its version.
        version: u32,
    },
    /// The directory can't be listed.
    #[error("could not list the spool's directory")]
    List(#[source] io::Error),
}

/// A segment as it was found.
#[derive(Debug, Clone)]
pub struct SegmentSurvey {
    /// Number in its file's name.
    pub number: u64,
    /// Its length, but for what it was written over.
    pub bytes: u64,
    /// Bytes behind that, of which nothing counts.
    pub rest: u64,
    /// Its header, if that is undamaged.
    pub header: Option<SegmentHeader>,
    /// What is in it.
    pub scan: Scan,
}

/// What is wrong with a file that is left alone.
#[derive(Debug)]
pub enum Unusable {
    /// It, or this many bytes of it, can't be read.
    Unreadable(u64, Option<io::Error>),
    /// It belongs to another spool.
    Foreign,
}

/// Everything that is in the directory; nothing was changed to find it out.
#[derive(Debug)]
pub struct Survey {
    /// The spool's identity, if any file tells it.
    pub identity: Option<u64>,
    /// The segments that could be read, by number.
    pub segments: Vec<SegmentSurvey>,
    /// What is settled, as far as is known.
    pub settled: Settled,
    /// How that is known.
    pub watermark: WatermarkState,
    /// Files that are left alone, and why.
    pub unusable: Vec<(String, Unusable)>,
    newest_slot: Option<usize>,
    /// No watermark that may still turn up has a higher one.
    generation: u64,
    /// The highest number in a segment's name.
    last: u64,
    copies: Vec<Entry>,
    leftover: Vec<String>,
    /// The highest number in any segment's name or header.
    highest: u64,
    /// Bytes that could not be read.
    unreadable: u64,
    /// Bytes of files that are left alone.
    left_alone: u64,
}

/// A stretch of a segment that is no frames.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// The segment's file.
    pub name: String,
    /// Where in it.
    pub place: Range<u64>,
    /// Number of the records in it, if its frame's header still says so.
    pub records: Option<u64>,
    /// The file that holds a copy of it; none where it could not be made, and the segment is kept
    /// until it can.
    pub copy: Option<String>,
    /// Whether this start has found it, and not an earlier one.
    pub new: bool,
}

/// What a start has found and done: to be said, once.
#[derive(Debug)]
pub struct Report {
    /// What is to be delivered.
    pub live: Live,
    /// Bytes cut off the last segment: an append that was never durable.
    pub torn_bytes: u64,
    /// Stretches that are no frames.
    pub damage: Vec<Damage>,
    /// Sequences of records that are gone, found by this start.
    pub lost: Vec<Range<u64>>,
    /// Files, or parts of them, that are left as they are.
    pub unusable: Vec<(String, Unusable)>,
    /// Segments whose names are not their own: file name, and the number in the header.
    pub misnamed: Vec<(String, u64)>,
    /// How it is known what is settled. With segments there and no watermark found, any record may
    /// have been delivered before.
    pub watermark: WatermarkState,
    /// What could not be mended or written down; the next start tries again.
    pub failures: Vec<String>,
}

impl Report {
    /// Number of records that this start has found to be lost.
    #[must_use]
    pub fn lost_records(&self) -> u64 {
        self.lost.iter().map(|lost| lost.end - lost.start).sum()
    }
}

/// A spool ready to go on.
#[derive(Debug)]
pub struct Opened<S: Storage> {
    /// To append to and settle.
    pub spool: Spool<S>,
    /// What waits, oldest first.
    pub backlog: Backlog,
    /// What was found.
    pub report: Report,
}

/// Looks at everything in the directory and changes nothing.
///
/// # Errors
///
/// See [`OpenError`].
pub fn survey<S: Storage>(storage: &S) -> Result<Survey, OpenError> {
    let mut entries = storage.list().map_err(OpenError::List)?;
    entries.sort_by(|one, other| one.name.cmp(&other.name));
    let (watermark, Slots { valid: slots, whole }) = read_watermark(storage)?;
    let mut survey = Survey {
        identity: None,
        segments: Vec::new(),
        settled: Settled::default(),
        watermark,
        unusable: Vec::new(),
        newest_slot: None,
        generation: 0,
        last: 0,
        copies: Vec::new(),
        leftover: Vec::new(),
        highest: 0,
        unreadable: 0,
        left_alone: 0,
    };
    let headed = survey.look_at_names_and_headers(storage, entries)?;
    survey.choose_identity(&headed, slots, whole);
    for Headed { number, bytes: length, file, header } in headed {
        let bytes = header.map_or(length, |header| header.written(length));
        let name = segment_name(number);
        let foreign = header.is_some_and(|header| survey.identity != Some(header.spool));
        if foreign {
            survey.left_alone += length;
            survey.unusable.push((name, Unusable::Foreign));
            continue;
        }
        let scan = scan(storage, &file, number, bytes, header.is_some(), survey.identity, &survey.settled);
        survey.identity = survey.identity.or_else(|| first_spool(storage, &file, &scan));
        let unreadable: u64 = scan.stretches.iter().map(|stretch| stretch.unreadable).sum();
        if unreadable > 0 {
            survey.unreadable += unreadable;
            survey.unusable.push((name, Unusable::Unreadable(unreadable, None)));
        }
        survey.segments.push(SegmentSurvey { number, bytes, rest: length - bytes, header, scan });
    }
    Ok(survey)
}

/// A segment whose header was looked at.
struct Headed<F> {
    number: u64,
    bytes: u64,
    file: F,
    header: Option<SegmentHeader>,
}

fn read_watermark<S: Storage>(storage: &S) -> Result<(WatermarkState, Slots), OpenError> {
    let none = Slots { valid: Vec::new(), whole: false };
    match watermark_file::read(storage) {
        Ok(Ok(slots)) if slots.valid.is_empty() => Ok((WatermarkState::Damaged, slots)),
        Ok(Ok(slots)) => Ok((WatermarkState::Found, slots)),
        Ok(Err(version)) => Err(OpenError::Version { name: WATERMARK.to_owned(), version }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok((WatermarkState::Missing, none)),
        Err(_) => Ok((WatermarkState::Damaged, none)),
    }
}

/// The identity in a segment without a header, from its first frame.
fn first_spool<S: Storage>(storage: &S, file: &S::File, scan: &Scan) -> Option<u64> {
    let mut bytes = [0; FRAME_HEADER_BYTES];
    read_fully(storage, file, scan.runs.first()?.place.start, &mut bytes).ok()?;
    FrameHeader::decode(&bytes).ok().map(|header| header.spool)
}

impl Survey {
    fn look_at_names_and_headers<S: Storage>(
        &mut self,
        storage: &S,
        entries: Vec<Entry>,
    ) -> Result<Vec<Headed<S::File>>, OpenError> {
        let mut headed = Vec::new();
        for entry in entries {
            match FileKind::of(&entry.name) {
                FileKind::Corrupt => self.copies.push(entry),
                FileKind::Partial | FileKind::Spare => self.leftover.push(entry.name),
                FileKind::Other => {}
                FileKind::Segment(number) => {
                    self.highest = self.highest.max(number);
                    self.last = self.last.max(number);
                    headed.extend(self.look_at_header(storage, number, entry)?);
                }
            }
        }
        Ok(headed)
    }

    fn look_at_header<S: Storage>(
        &mut self,
        storage: &S,
        number: u64,
        Entry { name, bytes }: Entry,
    ) -> Result<Option<Headed<S::File>>, OpenError> {
        let file = match storage.open(&name, Access::Read) {
            Ok(file) => file,
            // Settled and removed, by the daemon that is looked at.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                self.unreadable += bytes;
                self.left_alone += bytes;
                self.unusable.push((name, Unusable::Unreadable(bytes, Some(error))));
                return Ok(None);
            }
        };
        // A header that can't be read is a part of the file that can't; the scan says so.
        let header = match read_header(storage, &file).unwrap_or(Err(HeaderError::Damaged)) {
            Ok(header) => Some(header),
            Err(HeaderError::Version(version)) => return Err(OpenError::Version { name, version }),
            Err(HeaderError::Damaged) => None,
        };
        self.highest = self.highest.max(header.map_or(0, |header| header.number));
        Ok(Some(Headed { number, bytes, file, header }))
    }

    /// The watermark's identity if a segment has it too, else that of most segments; the watermark counts if it
    /// has the same.
    fn choose_identity<F>(&mut self, headed: &[Headed<F>], slots: Vec<(usize, Slot)>, whole: bool) {
        let mut votes = BTreeMap::<u64, usize>::new();
        for header in headed.iter().filter_map(|headed| headed.header) {
            *votes.entry(header.spool).or_default() += 1;
        }
        let newest = slots.into_iter().max_by_key(|(_, slot)| slot.generation);
        let own = newest.as_ref().map(|(_, slot)| slot.spool);
        // The watermark's stays the same from start to start, whatever of it was settled and removed meanwhile.
        let written = own.filter(|own| votes.contains_key(own));
        let most = votes.into_iter().max_by_key(|(_, votes)| *votes);
        let of_segments = written.or(most.map(|(spool, _)| spool));
        self.newest_slot = newest.as_ref().map(|(index, _)| *index);
        let generations = headed.iter().filter_map(|headed| Some(headed.header?.generation));
        let slot_generation = newest.as_ref().map_or(0, |(_, slot)| slot.generation);
        self.generation = generations.max().unwrap_or(0).max(slot_generation);
        if !whole || newest.is_none() {
            self.generation = self.generation.saturating_add(UNSEEN_GENERATIONS);
        }
        self.identity = of_segments.or(own);
        match newest {
            Some((_, slot)) if self.identity == Some(slot.spool) => {
                let later = headed.iter().filter_map(|headed| headed.header);
                let later = later.filter(|header| header.generation > slot.generation);
                self.settled = slot.settled;
                self.settled.truncate(later.map(|header| header.first).min().unwrap_or(u64::MAX));
            }
            Some(_) => self.watermark = WatermarkState::Foreign,
            None => {}
        }
    }

    /// Bytes that the disk did not give.
    #[must_use]
    pub fn unreadable_bytes(&self) -> u64 {
        self.unreadable
    }

    /// What waits to be delivered.
    #[must_use]
    pub fn backlog(&self) -> Backlog {
        Backlog::new(self.runs().cloned().collect(), self.settled.clone())
    }

    fn runs(&self) -> impl Iterator<Item = &Run> {
        self.segments.iter().flat_map(|segment| &segment.scan.runs)
    }

    /// Whether the stretch is an append that was never durable: torn, and in the last segment.
    #[must_use]
    pub fn is_torn(&self, segment: &SegmentSurvey, stretch: &Stretch) -> bool {
        stretch.torn && segment.number == self.last
    }

    /// Without a watermark all before the first frame counts as settled: something has to. Not so
    /// while a file is unreadable, which may hold the first frame; should its records have been
    /// settled and the file be gone by the next start, they are reported as lost then.
    fn presumed_settled(&self) -> u64 {
        let unknown = self.watermark != WatermarkState::Found && self.unreadable == 0;
        let first = self.runs().map(|run| run.sequences.start).min();
        first.filter(|_| unknown).unwrap_or(0)
    }

    /// Records that are not settled and not there, and the sequence after the last of which anything
    /// is known.
    #[must_use]
    pub fn missing(&self) -> (Vec<Range<u64>>, u64) {
        let known = self.segments.iter().flat_map(|segment| {
            let damaged = segment.scan.stretches.iter().filter(|stretch| !self.is_torn(segment, stretch));
            damaged.filter_map(|stretch| stretch.sequences.as_ref())
        });
        let mut there = self.settled.clone();
        there.insert(0..self.presumed_settled());
        self.runs().for_each(|run| there.insert(run.sequences.clone()));
        let end = known.map(|sequences| sequences.end).max().unwrap_or(0).max(there.end());
        (there.gaps(0..end).collect(), end)
    }

    /// What is to be delivered: each record once, however many files hold it.
    pub(super) fn live<S: Storage>(&self, reader: &mut Reader<S>) -> Live {
        let mut live = Live::default();
        let mut runs: Vec<_> = self.runs().map(|run| &run.sequences).collect();
        runs.sort_by_key(|sequences| sequences.start);
        let twice = runs.windows(2).any(|pair| matches!(pair, [one, other] if other.start < one.end));
        if !twice {
            self.segments.iter().for_each(|segment| live.add(segment.scan.live));
            return live;
        }
        // Rare enough to be read a second time.
        let mut backlog = self.backlog();
        loop {
            match backlog.next(reader) {
                Ok(Some(waiting)) => live.add(waiting.live_count()),
                Ok(None) => return live,
                Err(_) => {}
            }
        }
    }
}

/// Opens the spool in `storage`, whatever state it is in.
///
/// # Errors
///
/// See [`OpenError`]; then nothing was changed.
pub fn open<S: Storage>(storage: S, options: Options) -> Result<Opened<S>, OpenError> {
    let storage = Arc::new(storage);
    let mut survey = survey(&*storage)?;
    let identity = survey.identity.unwrap_or(options.identity);
    let mut mending = Mending { storage: &*storage, failures: Vec::new(), torn_bytes: 0, damage: Vec::new() };
    mending.remove_leftovers(&survey);
    let sealed = mending.mend_segments(&survey);
    if options.sync == Sync::Always {
        mending.sync_last(&survey);
    }
    let Mending { mut failures, torn_bytes, damage, .. } = mending;

    let (missing, mut next) = survey.missing();
    let backlog = survey.backlog();
    let live = survey.live(&mut Reader::new(Arc::clone(&storage), identity));
    let presumed = survey.presumed_settled();
    let mut settled = std::mem::take(&mut survey.settled);
    settled.insert(0..presumed);
    // What can't be read now may be some other day: it is not lost, and its sequences are not free.
    let lost = if survey.unreadable == 0 { missing } else { Vec::new() };
    lost.iter().for_each(|lost| settled.insert(lost.clone()));
    next += survey.unreadable;

    let copied: u64 = survey.copies.iter().map(|copy| copy.bytes).sum();
    let copied_now = damage.iter().filter(|damage| damage.new && damage.copy.is_some());
    let set_aside = survey.left_alone
        + copied
        + copied_now.map(|damage| damage.place.end - damage.place.start).sum::<u64>();
    let watermark = WatermarkFile::new(Arc::clone(&storage), identity, survey.newest_slot, survey.generation);
    let next_number = survey.highest.saturating_add(1);
    let resumed = Resumed { identity, sealed, settled, watermark, next_number, next, set_aside };
    let mut spool = Spool::resume(storage, options, resumed);
    if let Err(error) = spool.write_watermark(true).and_then(|()| spool.remove_settled()) {
        failures.push(describe(&error));
    }
    let misnamed = survey.segments.iter().filter_map(|segment| {
        let number = segment.header?.number;
        (number != segment.number).then(|| (segment_name(segment.number), number))
    });
    let misnamed = misnamed.collect();
    let Survey { unusable, watermark, .. } = survey;
    let report = Report { live, torn_bytes, damage, lost, unusable, misnamed, watermark, failures };
    Ok(Opened { spool, backlog, report })
}

/// The changes that a start makes, each of which may fail without harm.
struct Mending<'a, S: Storage> {
    storage: &'a S,
    failures: Vec<String>,
    torn_bytes: u64,
    damage: Vec<Damage>,
}

impl<S: Storage> Mending<'_, S> {
    fn remove_leftovers(&mut self, survey: &Survey) {
        for name in &survey.leftover {
            let removed = self.storage.remove(name);
            self.note(&format!("could not remove {name}"), removed);
        }
    }

    fn mend_segments(&mut self, survey: &Survey) -> Vec<Sealed> {
        let known: BTreeSet<_> = survey.copies.iter().map(|copy| (copy.name.as_str(), copy.bytes)).collect();
        survey.segments.iter().map(|segment| self.mend(survey, segment, &known)).collect()
    }

    fn mend(&mut self, survey: &Survey, segment: &SegmentSurvey, known: &BTreeSet<(&str, u64)>) -> Sealed {
        let name = segment_name(segment.number);
        let mut bytes = segment.bytes;
        let mut keep = false;
        if segment.rest > 0 && self.cut(&name, bytes).is_none() {
            bytes += segment.rest;
        }
        for stretch in &segment.scan.stretches {
            if stretch.unreadable > 0 {
                keep = true;
            } else if survey.is_torn(segment, stretch) {
                self.torn_bytes += stretch.place.end - stretch.place.start;
                bytes = self.cut(&name, stretch.place.start).unwrap_or(bytes);
            } else {
                let damage = self.set_aside(&name, stretch, known);
                keep |= damage.copy.is_none();
                self.damage.push(damage);
            }
        }
        let sequences = segment.scan.runs.iter().map(|run| run.sequences.clone()).collect();
        Sealed { number: segment.number, bytes, sequences, keep, own: false }
    }

    /// Cuts an end that does not count and returns the file's new length. Synced at once: to the next start
    /// the segment will not be the last, and an end that is torn would be damage.
    fn cut(&mut self, name: &str, at: u64) -> Option<u64> {
        let cut = self.storage.open(name, Access::Write).and_then(|file| {
            self.storage.truncate(&file, at)?;
            self.storage.sync_data(&file)
        });
        self.note(&format!("could not cut {name} at byte {at}"), cut).then_some(at)
    }

    /// Makes durable what a killed process left to the kernel: from now on this is not the last
    /// segment.
    fn sync_last(&mut self, survey: &Survey) {
        let Some(last) = survey.segments.last().filter(|segment| segment.number == survey.last) else {
            return;
        };
        let name = segment_name(last.number);
        let synced = self.storage.open(&name, Access::Read).and_then(|file| {
            self.storage.sync_data(&file)?;
            self.storage.sync_directory()
        });
        self.note(&format!("could not sync {name}"), synced);
    }

    fn set_aside(&mut self, name: &str, stretch: &Stretch, known: &BTreeSet<(&str, u64)>) -> Damage {
        let place = stretch.place.clone();
        let bytes = place.end - place.start;
        let records = stretch.sequences.as_ref().map(|sequences| sequences.end - sequences.start);
        let copy = format!("{name}.{}-{bytes}.corrupt", place.start);
        let new = !known.contains(&(copy.as_str(), bytes));
        let copied = if new { self.copy(name, &place, &copy) } else { Ok(()) };
        let there = self.note(&format!("could not copy {bytes} damaged bytes to {copy}"), copied);
        Damage { name: name.to_owned(), place, records, copy: there.then_some(copy), new }
    }

    /// Copies `place` of the file `from` to a new file, which has its name only once it is whole.
    fn copy(&self, from: &str, place: &Range<u64>, to: &str) -> io::Result<()> {
        let partial = format!("{to}.partial");
        let source = self.storage.open(from, Access::Read)?;
        let target = self.storage.create(&partial)?;
        let copied = self.copy_bytes(&source, place, &target);
        copied.and_then(|()| self.storage.rename(&partial, to)).inspect_err(|_| {
            // Only tidies: the next start removes it otherwise.
            drop(self.storage.remove(&partial));
        })?;
        self.storage.sync_directory()
    }

    fn copy_bytes(&self, source: &S::File, place: &Range<u64>, target: &S::File) -> io::Result<()> {
        let mut buffer = vec![0; 64 * 1024];
        let mut at = place.start;
        while at < place.end {
            let wanted = usize::try_from(place.end - at).unwrap_or(usize::MAX).min(buffer.len());
            let piece = buffer.get_mut(..wanted).unwrap_or_default();
            let length = read_fully(self.storage, source, at, piece)?;
            if length == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let piece = piece.get(..length).unwrap_or_default();
            write_fully(self.storage, target, at - place.start, &mut [IoSlice::new(piece)])?;
            at += length as u64;
        }
        self.storage.sync_data(target)
    }

    /// Notes a failure, and says whether there was none.
    fn note(&mut self, tried: &str, result: io::Result<()>) -> bool {
        match result {
            Ok(()) => true,
            Err(error) => {
                self.failures.push(format!("{tried}: {error}"));
                false
            }
        }
    }
}

/// An error with its cause, in one line.
fn describe(error: &WriteError) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}
