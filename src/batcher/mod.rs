//! Forms batches: a pure state machine over spans of chunks.
//!
//! Order of calls: any `handle_*` as things happen; then [`Batcher::poll_batch`] until it gives
//! nothing; then wait for an event or for [`Batcher::poll_timeout`].
//!
//! A batch leaves when it is full (records or bytes), when its oldest record has waited for
//! `linger`, when a record in it is due for another try, or when a flush was asked for. Where several are to leave
//! together, the first is not full by its bytes before the last is. What has
//! been sent before goes first, so a retry rides at the head of the next batch.
//!
//! Whoever may send only so much now asks by [`Batcher::poll_batch_within`]. What is ready does not depend
//! on that, so that a slow pace makes requests smaller and never makes them wait to be full.
//!
//! Invariants: a batch is never empty, never above its limits nor what it was to stay within (a single
//! record above the bytes goes alone, and what is to go as it is goes so), and every record that went in
//! comes out exactly once.

use std::collections::{BTreeMap, VecDeque};
use std::ops::{AddAssign, SubAssign};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::record::{Chunk, Span};

/// Most portions that may wait for their retry before no new records are sent.
///
/// A record that failed by itself is a portion of its own, of some 50 bytes: this bounds them to about
/// a megabyte, however small the records are.
const MAX_WAITING_PORTIONS: usize = 16_384;

/// How records become the records of Firehose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packing {
    /// Most bytes of a packed record; a single longer one stays by itself.
    pub max_record: usize,
    /// Most records in a packed record.
    pub max_lines: usize,
}

/// When a batch leaves.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Most records of Firehose in a batch: records or, where packed, packed records.
    pub records: usize,
    /// Most bytes in a batch.
    pub bytes: usize,
    /// Longest wait of the oldest record of an open batch.
    pub linger: Duration,
}

/// A number of records and their bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Size {
    /// Number of records.
    pub records: usize,
    /// Bytes of those records.
    pub bytes: usize,
}

impl Size {
    /// More than there can be.
    pub const ANYTHING: Self = Self { records: usize::MAX, bytes: usize::MAX };

    /// The lesser of both numbers.
    #[must_use]
    pub fn min(self, other: Self) -> Self {
        Self { records: self.records.min(other.records), bytes: self.bytes.min(other.bytes) }
    }

    fn of(span: &Span) -> Self {
        Self { records: span.records(), bytes: span.bytes() }
    }
}

impl AddAssign for Size {
    fn add_assign(&mut self, other: Self) {
        self.records += other.records;
        self.bytes += other.bytes;
    }
}

impl SubAssign for Size {
    fn sub_assign(&mut self, other: Self) {
        self.records -= other.records;
        self.bytes -= other.bytes;
    }
}

/// What a record has been through.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tries {
    /// Attempts that carried it.
    pub attempts: u32,
    /// Failures of its own, which `retry.max_retries` bounds.
    pub own_failures: u32,
    /// Failures in answers that delivered others or not, own and throttled: the exponent of its backoff.
    pub failures: u32,
}

/// Records of one chunk that have the same past.
#[derive(Debug, Clone)]
pub struct Portion {
    /// The records.
    pub span: Span,
    /// Their past.
    pub tries: Tries,
}

/// The records of one request, in order. Never empty.
#[derive(Debug, Clone)]
pub struct Batch {
    /// The records.
    pub portions: Vec<Portion>,
    /// Records and bytes of all of them.
    pub size: Size,
    /// Where packed: how, and the end of each record of Firehose as the number of portions before it.
    /// Without it entry `i` of the answer is record `i`.
    pub packed: Option<(Packing, Arc<[u32]>)>,
}

impl Batch {
    /// A batch of `portions`, each record by itself.
    #[must_use]
    pub fn new(portions: Vec<Portion>) -> Self {
        let mut size = Size::default();
        for portion in &portions {
            size += Size::of(&portion.span);
        }
        Self { portions, size, packed: None }
    }

    /// A batch of `portions`, packed in order into as few records of Firehose as `packing` allows.
    #[must_use]
    pub fn packed(portions: Vec<Portion>, packing: Packing) -> Self {
        let (mut cut, mut ends, mut open) = (Vec::new(), Vec::new(), Size::default());
        for mut portion in portions {
            loop {
                let records = packing.max_lines.saturating_sub(open.records);
                let bytes = packing.max_record.saturating_sub(open.bytes);
                let fitting = portion.span.split_front(records, bytes);
                let (span, remains) = match fitting {
                    Some(fitting) => fitting,
                    // Longer than a packed record may be, it is one by itself.
                    None if open.records == 0 => match portion.span.split_front(1, usize::MAX) {
                        Some(single) => single,
                        None => break,
                    },
                    None => {
                        ends.push(len(&cut));
                        open = Size::default();
                        continue;
                    }
                };
                open += Size::of(&span);
                cut.push(Portion { span, tries: portion.tries });
                if !remains {
                    break;
                }
            }
        }
        ends.push(len(&cut));
        Self { packed: Some((packing, ends.into())), ..Self::new(cut) }
    }

    /// A batch of `portions` packed as this one is.
    fn alike(&self, portions: Vec<Portion>) -> Self {
        match self.packed {
            Some((packing, _)) => Self::packed(portions, packing),
            None => Self::new(portions),
        }
    }

    /// Number of records of Firehose.
    #[must_use]
    pub fn entries(&self) -> usize {
        self.packed.as_ref().map_or(self.size.records, |(_, ends)| ends.len())
    }

    /// The two halves by number of records, or the batch itself when it holds only one.
    ///
    /// # Errors
    ///
    /// The batch, unchanged, when it holds a single record.
    pub fn split(mut self) -> Result<(Self, Self), Self> {
        if self.size.records < 2 {
            return Err(self);
        }
        let mut left = self.size.records / 2;
        let (mut front, mut back) = (Vec::new(), Vec::new());
        for mut portion in std::mem::take(&mut self.portions) {
            match portion.span.split_front(left, usize::MAX) {
                Some((span, remains)) => {
                    left -= span.records();
                    front.push(Portion { span, tries: portion.tries });
                    if remains {
                        back.push(portion);
                    }
                }
                None => back.push(portion),
            }
        }
        Ok((self.alike(front), self.alike(back)))
    }
}

fn len(portions: &[Portion]) -> u32 {
    u32::try_from(portions.len()).unwrap_or(u32::MAX)
}

/// See the module.
#[derive(Debug)]
pub struct Batcher {
    limits: Limits,
    /// Bytes that a batch is full at, within the limits.
    full: usize,
    /// Batches that leave together where they do for their bytes, and those of them that have yet to.
    together: usize,
    owed: usize,
    packing: Option<Packing>,
    /// Batches that go as they are: the halves of one that was refused.
    fixed: VecDeque<Batch>,
    /// Sent before and ready to go again.
    again: VecDeque<Portion>,
    /// Never sent.
    fresh: VecDeque<Span>,
    /// Waiting for their time, which with the serial number of their failure is the key.
    waiting: BTreeMap<(Instant, u64), Vec<Portion>>,
    /// Number of those that are waiting.
    waiting_portions: usize,
    serial: u64,
    sizes: Sizes,
    /// Records that a flush asked for and that have not left yet.
    flush: usize,
}

#[derive(Debug, Default)]
struct Sizes {
    fixed: Size,
    again: Size,
    fresh: Size,
    waiting: Size,
}

impl Batcher {
    /// An empty batcher.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            full: limits.bytes,
            together: 1,
            owed: 0,
            packing: None,
            fixed: VecDeque::new(),
            again: VecDeque::new(),
            fresh: VecDeque::new(),
            waiting: BTreeMap::new(),
            waiting_portions: 0,
            serial: 0,
            sizes: Sizes::default(),
            flush: 0,
        }
    }

    /// Lets records wait for at most `linger` from now on, those that wait already included.
    pub fn set_linger(&mut self, linger: Duration) {
        self.limits.linger = linger;
    }

    /// Lets a batch be full at `bytes`, and carry no more, from now on, within the limits; and leave for that once
    /// `together` of them are.
    pub fn set_full(&mut self, bytes: usize, together: usize) {
        (self.full, self.together) = (bytes.min(self.limits.bytes), together);
    }

    /// Packs what leaves from now on as `packing` says, or not at all.
    pub fn set_packing(&mut self, packing: Option<Packing>) {
        self.packing = packing;
    }

    /// Most records in as many records of Firehose.
    fn most_records(&self, entries: usize) -> usize {
        self.packing.map_or(entries, |packing| entries.saturating_mul(packing.max_lines))
    }

    /// Takes a chunk's records behind those that are here.
    pub fn handle_chunk(&mut self, chunk: Chunk) {
        if let Some(span) = Span::whole(Arc::new(chunk)) {
            self.sizes.fresh += Size::of(&span);
            self.fresh.push_back(span);
        }
    }

    /// Takes back records that failed, to go again at `due`, ahead of what was never sent.
    pub fn handle_retry(&mut self, portions: Vec<Portion>, due: Instant) {
        for portion in &portions {
            self.sizes.waiting += Size::of(&portion.span);
        }
        self.waiting_portions += portions.len();
        self.serial += 1;
        self.waiting.insert((due, self.serial), portions);
    }

    /// Takes back a batch that failed as a whole for no fault of its records: they go first.
    pub fn handle_return(&mut self, batch: Batch) {
        self.sizes.again += batch.size;
        for portion in batch.portions.into_iter().rev() {
            self.again.push_front(portion);
        }
    }

    /// Takes a batch that goes before all others and with nothing added to it.
    pub fn handle_fixed(&mut self, batch: Batch) {
        self.sizes.fixed += batch.size;
        self.fixed.push_front(batch);
    }

    /// Sends what is here without waiting for `linger`.
    pub fn handle_flush(&mut self) {
        self.flush = self.sizes.fresh.records;
    }

    /// Gives up what has waited longest, at least `bytes` bytes if there are so many: of what was
    /// never sent, and when nothing of that is left, of what was. Returns what was given up.
    pub fn handle_pressure(&mut self, bytes: usize) -> Vec<Span> {
        let (mut given, mut dropped) = (Vec::new(), Size::default());
        while dropped.bytes < bytes
            && let Some(span) = self.fresh.pop_front()
        {
            dropped += Size::of(&span);
            given.push(span);
        }
        self.sizes.fresh -= dropped;
        self.flush = self.flush.min(self.sizes.fresh.records);
        while dropped.bytes < bytes {
            let portions = self.pop_sent();
            if portions.is_empty() {
                break;
            }
            given.extend(portions.into_iter().map(|portion| {
                dropped += Size::of(&portion.span);
                portion.span
            }));
        }
        given
    }

    /// Takes out some of what was sent before and is here again; nothing when there is nothing.
    fn pop_sent(&mut self) -> Vec<Portion> {
        if let Some(portion) = self.again.pop_front() {
            self.sizes.again -= Size::of(&portion.span);
            return vec![portion];
        }
        if let Some((_, portions)) = self.waiting.pop_first() {
            self.waiting_portions -= portions.len();
            for portion in &portions {
                self.sizes.waiting -= Size::of(&portion.span);
            }
            return portions;
        }
        let Some(batch) = self.fixed.pop_front() else { return Vec::new() };
        self.sizes.fixed -= batch.size;
        batch.portions
    }

    /// Size that the next batch has at most, its records those of Firehose, if one would leave now that
    /// stays within `most`, whose records are those of Firehose, too.
    #[must_use]
    pub fn poll_ready_within(&mut self, now: Instant, most: Size) -> Option<Size> {
        self.wake(now);
        if let Some(batch) = self.fixed.front() {
            return Some(Size { records: batch.entries(), ..batch.size });
        }
        let size = self.next_size();
        let ready = size.records >= self.most_records(self.limits.records)
            || size.bytes >= self.bytes_to_leave()
            || !self.again.is_empty()
            || self.flush > 0
            || self.linger_deadline().is_some_and(|deadline| deadline <= now);
        // A record above the byte limit goes alone, so the limit alone would say too little.
        let largest = self.full.min(most.bytes).max(self.first_record_bytes());
        (ready && size.records > 0).then_some(Size {
            records: size.records.min(self.limits.records).min(most.records.max(1)),
            bytes: size.bytes.min(largest),
        })
    }

    /// Batches that leave together, the next one and those that are full behind it: one, or as many as
    /// [`Self::set_full`] was told.
    #[must_use]
    pub fn together(&self) -> usize {
        let begins = self.owed == 0 && self.fixed.is_empty();
        if begins && self.next_size().bytes >= self.bytes_to_leave() { self.together } else { 1 }
    }

    /// What may leave next but for what goes as it is.
    fn next_size(&self) -> Size {
        let mut size = self.sizes.again;
        if self.waiting_portions < MAX_WAITING_PORTIONS {
            size += self.sizes.fresh;
        }
        size
    }

    /// Bytes that are enough for a batch to leave.
    fn bytes_to_leave(&self) -> usize {
        if self.owed > 0 { self.full } else { self.full.saturating_mul(self.together) }
    }

    /// The next batch, if one leaves now.
    pub fn poll_batch(&mut self, now: Instant) -> Option<Batch> {
        self.poll_batch_within(now, Size::ANYTHING)
    }

    // snippet-start:[firehose.rust.hydrant.form_batch]
    /// The next batch, if one leaves now, cut to stay within `most`, whose records are those of Firehose.
    pub fn poll_batch_within(&mut self, now: Instant, most: Size) -> Option<Batch> {
        self.poll_ready_within(now, most)?;
        if let Some(batch) = self.fixed.pop_front() {
            self.sizes.fixed -= batch.size;
            return Some(batch);
        }
        self.owed = self.owed.max(self.together()).saturating_sub(1);
        let entries = self.limits.records.min(most.records.max(1));
        let bytes = self.full.min(most.bytes);
        let most = Limits { records: self.most_records(entries), bytes, ..self.limits };
        let mut portions = Vec::new();
        let mut size = Size::default();
        while let Some(portion) = self.again.front_mut() {
            let Some(front) = take(&mut portion.span, &size, &most) else { break };
            portions.push(Portion { span: front.0, tries: portion.tries });
            self.sizes.again -= front.1;
            size += front.1;
            if !front.2 {
                self.again.pop_front();
            }
        }
        // What was not sent before may not overtake what was.
        if self.again.is_empty() && self.waiting_portions < MAX_WAITING_PORTIONS {
            while let Some(span) = self.fresh.front_mut() {
                let Some(front) = take(span, &size, &most) else { break };
                portions.push(Portion { span: front.0, tries: Tries::default() });
                self.sizes.fresh -= front.1;
                self.flush = self.flush.saturating_sub(front.1.records);
                size += front.1;
                if !front.2 {
                    self.fresh.pop_front();
                }
            }
        }
        if portions.is_empty() {
            return None;
        }
        Some(match self.packing {
            Some(packing) => self.pack(portions, packing, entries),
            None => Batch { portions, size, packed: None },
        })
    }
    // snippet-end:[firehose.rust.hydrant.form_batch]

    /// A packed batch of `portions`, less what makes more records of Firehose than `most`: that goes
    /// first next time.
    fn pack(&mut self, portions: Vec<Portion>, packing: Packing, most: usize) -> Batch {
        let mut batch = Batch::packed(portions, packing);
        let Some((_, ends)) = &batch.packed else { return batch };
        let Some(end) = ends.get(most.saturating_sub(1)).filter(|_| ends.len() > most) else {
            return batch;
        };
        for portion in batch.portions.split_off(*end as usize).into_iter().rev() {
            self.sizes.again += Size::of(&portion.span);
            self.again.push_front(portion);
        }
        Batch::packed(batch.portions, packing)
    }

    /// When [`Batcher::poll_batch`] may give something although nothing else happens.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let due = self.waiting.first_key_value().map(|((due, _), _)| *due);
        let linger = self.linger_deadline();
        due.into_iter().chain(linger).min()
    }

    /// Everything that is here.
    #[must_use]
    pub fn held(&self) -> Size {
        let mut size = self.sizes.fixed;
        size += self.sizes.again;
        size += self.sizes.fresh;
        size += self.sizes.waiting;
        size
    }

    /// When the record that has been here longest was read.
    #[must_use]
    pub fn oldest(&self) -> Option<Instant> {
        let fixed = self.fixed.iter().flat_map(|batch| batch.portions.iter());
        let sent = fixed.chain(self.again.iter()).chain(self.waiting.values().flatten());
        sent.map(|portion| portion.span.received()).chain(self.fresh.front().map(Span::received)).min()
    }

    /// Takes out everything that is here.
    pub fn drain(&mut self) -> Vec<Portion> {
        self.sizes = Sizes::default();
        (self.flush, self.waiting_portions) = (0, 0);
        let mut portions: Vec<Portion> = self.fixed.drain(..).flat_map(|batch| batch.portions).collect();
        portions.extend(self.again.drain(..));
        portions.extend(std::mem::take(&mut self.waiting).into_values().flatten());
        let fresh = self.fresh.drain(..).map(|span| Portion { span, tries: Tries::default() });
        portions.extend(fresh);
        portions
    }

    fn linger_deadline(&self) -> Option<Instant> {
        self.fresh.front().map(|span| span.received() + self.limits.linger)
    }

    fn first_record_bytes(&self) -> usize {
        let first = self.again.front().map(|portion| &portion.span).or(self.fresh.front());
        first.and_then(|span| span.iter().next()).map_or(0, <[u8]>::len)
    }

    /// Moves what is due to the records that are ready.
    fn wake(&mut self, now: Instant) {
        while let Some(entry) = self.waiting.first_entry()
            && entry.key().0 <= now
        {
            let portions = entry.remove();
            self.waiting_portions -= portions.len();
            for portion in portions {
                let size = Size::of(&portion.span);
                self.sizes.waiting -= size;
                self.sizes.again += size;
                self.again.push_back(portion);
            }
        }
    }
}

/// The front of `span` that still fits a batch of `size`, its size, and whether anything of
/// `span` remains. An empty batch takes a record of any size.
fn take(span: &mut Span, size: &Size, limits: &Limits) -> Option<(Span, Size, bool)> {
    let records = limits.records.saturating_sub(size.records);
    let bytes = limits.bytes.saturating_sub(size.bytes);
    let fitting = span.split_front(records, bytes);
    let (front, remains) = match fitting {
        None if size.records == 0 => span.split_front(1, usize::MAX)?,
        fitting => fitting?,
    };
    let size = Size::of(&front);
    Some((front, size, remains))
}

#[cfg(test)]
mod tests;
