//! The spool's thread: every chunk is on the disk before it goes on to the flush task.
//!
//! Each turn it writes down what was settled, appends what came, makes that durable with one sync,
//! however many chunks and connections it came from, and reads back what fits. A chunk goes on from
//! memory while nothing waits on the disk, into the memory for what is read back and then into three
//! quarters of that for what arrives. Else it stays for a moment where it is, in memory too; when the stream
//! takes too little in that time, its memory is given back and it is read again in its turn. So order is kept
//! and a stream that takes nothing fills the disk and not the memory: a quarter is always left for what has
//! to go by the disk.
//!
//! A thread of its own, since its calls block as long as the disk does: a disk that stalls holds up
//! producers, and the flush task goes on with what it has.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio_util::sync::CancellationToken;

use super::account::{Account, Pressure, Settlements};
use super::ledger::{Count, DropReason, Ledger};
use super::{CHANNEL_CHUNKS, CHUNK_OVERHEAD_BYTES, Intake, Outlet};
use crate::budget::{Budget, Reservation};
use crate::config::OnFull;
use crate::record::{Chunk, Claim, Level};
use crate::spool::layout::FrameHeader;
use crate::spool::{
    Appended, Backlog, Full, Opened, Reader, Records, Spool, Storage, Sync, Waiting, WriteError,
};
use crate::telemetry::figures::{Figures, SpoolCondition};
use crate::telemetry::quiet::Quiet;
use crate::telemetry::{now, wall_clock};

/// Most chunks that one turn appends, so that their sync and what was settled are not held up.
const CHUNKS_A_TURN: usize = 256;
/// Most frames that one turn reads back, so that what arrives is not held up.
const FRAMES_A_TURN: usize = 32;
/// How often a full disk is tried again: nobody tells when there is room.
const RETRY: Duration = Duration::from_millis(250);
/// How long a stream has to take [`QUICK_BYTES`] before what waits for it stays on the disk alone, and has to be
/// read back. One that is as quick is held up by nothing but the processor, which reading back would only
/// take more of.
const PATIENCE: Duration = Duration::from_millis(50);
/// See [`PATIENCE`].
const QUICK_BYTES: u64 = 4 * 1024 * 1024;
/// While no more waits on the disk, and the stream is quick, half as much is taken up as it takes: so that
/// what a moment has left there is soon read back, and nothing more has to be.
const LITTLE_BYTES: u64 = 128 * 1024 * 1024;
/// How long chunks gather while the stream has enough to go on with.
const GATHER: Duration = Duration::from_millis(1);
/// Most runs of records on the disk whose producers wait to hear of their delivery (about 1 MB).
/// With as many, nothing more is taken until some are read back.
const MAX_CLAIMS: usize = 16_384;

/// A buffer with a spool under it.
#[derive(Debug)]
pub struct Spooled<S: Storage> {
    /// Memory for what listeners read.
    pub budget: Budget,
    /// Memory for what is read back.
    pub read_back: Budget,
    /// What gives way.
    pub on_full: OnFull,
    /// The spool as its start left it.
    pub opened: Opened<S>,
    /// Where its state is shown.
    pub figures: Arc<Figures>,
    /// Stop at once: what is not in the spool goes on as it is.
    pub abort: CancellationToken,
}

/// See the module.
#[derive(Debug)]
pub struct Spooler<S: Storage> {
    spool: Spool<S>,
    backlog: Backlog,
    reader: Reader<S>,
    /// From the listeners.
    chunks: async_channel::Receiver<Chunk>,
    /// To the flush task; none once there will be no more.
    onward: Option<async_channel::Sender<Chunk>>,
    budget: Budget,
    read_back: Budget,
    settlements: Arc<Settlements>,
    pressure: Arc<Pressure>,
    ledger: Arc<Ledger>,
    figures: Arc<Figures>,
    on_full: OnFull,
    refuses: CancellationToken,
    abort: CancellationToken,
    /// The listeners may still bring chunks.
    open: bool,
    /// Come and not in the spool yet.
    pending: VecDeque<Chunk>,
    /// In the spool and not durable yet, with the number of records.
    unsynced: Vec<(Claim, u64)>,
    /// On the disk alone, in order, whose producers wait to hear of their delivery.
    claims: VecDeque<(u64, Claim)>,
    /// In the spool and in memory, to go on as soon as the flush task holds less.
    ready: VecDeque<(Chunk, Appended)>,
    /// What has gone on and is held in memory for what arrives: three quarters of that at most.
    ahead: Budget,
    /// For the next chunk of `ready`.
    place: Option<Place>,
    pace: Pace,
    /// Bytes that were taken up while it catches up, less half of what has gone on since.
    debt: u64,
    /// Memory for the next frame of the backlog.
    room: Reservation,
    /// What there was no room in when it was last tried.
    full: Option<Full>,
    /// The writer has ended.
    failed: bool,
    /// A watermark is still to be written: there was no room for it.
    owes_watermark: bool,
    /// What is in the spool and not settled.
    kept: Count,
    dropped: Quiet,
    said_full: Quiet,
    unreadable: Quiet,
    unwritten: Quiet,
}

impl<S: Storage> Spooled<S> {
    /// The two ends of the buffer and what is to run between them, on a thread of its own. What the
    /// spool's start has found is entered in `ledger` as recovered.
    #[must_use]
    pub fn channel(self, ledger: Arc<Ledger>) -> (Intake, Outlet, Spooler<S>) {
        let Self { budget, read_back, on_full, opened, figures, abort } = self;
        let Opened { spool, backlog, report } = opened;
        let kept = Count { records: report.live.records, bytes: report.live.bytes };
        ledger.recovered(kept);
        let (sender, chunks) = async_channel::bounded(CHANNEL_CHUNKS);
        let (onward, outward) = async_channel::bounded(CHANNEL_CHUNKS);
        let keeps = on_full != OnFull::DropNewest;
        let intake = Intake { keeps, ..Intake::new(sender, budget.clone(), on_full, Arc::clone(&ledger)) };
        let settlements = Arc::new(Settlements::default());
        let account = Account::new(Arc::clone(&ledger), Some(Arc::clone(&settlements)));
        let pressure = Arc::clone(&intake.pressure);
        let outlet = Outlet { chunks: outward, pressure: Arc::clone(&pressure), account, on_full };
        let ahead = Budget::new(budget.total() / 4 * 3);
        let spooler = Spooler {
            reader: spool.reader(),
            spool,
            backlog,
            chunks,
            onward: Some(onward),
            budget,
            read_back,
            settlements,
            pressure,
            ledger,
            figures,
            on_full,
            refuses: intake.refuses.clone(),
            abort,
            open: true,
            pending: VecDeque::new(),
            unsynced: Vec::new(),
            claims: VecDeque::new(),
            ready: VecDeque::new(),
            ahead,
            place: None,
            pace: Pace::new(now()),
            debt: 0,
            room: Reservation::none(),
            full: None,
            failed: false,
            owes_watermark: false,
            kept,
            dropped: Quiet::new(5, Duration::from_secs(10)),
            said_full: Quiet::new(1, Duration::from_secs(10)),
            unreadable: Quiet::new(5, Duration::from_secs(10)),
            unwritten: Quiet::new(1, Duration::from_secs(60)),
        };
        (intake, outlet, spooler)
    }
}

impl<S: Storage> Spooler<S> {
    /// Runs until the flush task has ended, and returns what waits in the spool then.
    pub async fn run(mut self) -> Count {
        loop {
            let over = self.write_down();
            self.look();
            self.take_in().await;
            self.make_durable();
            let brought = self.bring_back().await;
            self.report();
            if !self.open && self.pending.is_empty() && self.ready.is_empty() && self.backlog.is_empty() {
                self.onward = None;
            }
            if over {
                return self.close();
            }
            match brought {
                Brought::Some => {}
                Brought::All => self.wait(None).await,
                Brought::Lacks(bytes) => self.wait(Some(bytes)).await,
            }
        }
    }

    /// Waits for the listeners, the flush task, the clock, and the memory that the next frame `needs`.
    async fn wait(&mut self, needs: Option<usize>) {
        if self.has_time() {
            tokio::time::sleep(GATHER).await;
        }
        let takes = self.takes();
        // Else it may be told that there is no need to wait any more.
        let patient =
            (!self.ready.is_empty() || self.debt > 0 && self.catches_up()).then(|| self.pace.until());
        let place = async {
            match self.ready.front() {
                Some((chunk, _)) => tokio::select! {
                    passage = self.ahead.reserve(chunk.held_bytes()) => Place::Ahead(passage),
                    hold = self.read_back.reserve(chunk.held_bytes()), if chunk.held_bytes() <= self.read_back.total() => {
                        Place::Apart(hold)
                    }
                },
                None => std::future::pending().await,
            }
        };
        let room = async {
            match needs {
                Some(bytes) => self.read_back.reserve(bytes).await,
                None => std::future::pending().await,
            }
        };
        let retry = async {
            match (self.full.is_some() || self.owes_watermark, patient) {
                (_, Some(deadline)) => tokio::time::sleep_until(deadline.into()).await,
                (true, None) => tokio::time::sleep(RETRY).await,
                (false, None) => std::future::pending().await,
            }
        };
        let aborted = async {
            match self.onward {
                Some(_) => self.abort.cancelled().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = aborted => self.give_up().await,
            () = self.settlements.told() => {}
            room = room => self.room = room,
            place = place => self.place = Some(place),
            chunk = self.chunks.recv(), if takes => match chunk {
                Ok(chunk) => self.take_up(chunk),
                Err(_) => self.open = false,
            },
            () = retry => {}
        }
    }

    fn takes(&mut self) -> bool {
        self.open
            && self.full.is_none()
            && self.claims.len() < MAX_CLAIMS
            && !(self.debt > 0 && self.catches_up())
    }

    /// Whether the stream will soon have what waits on the disk.
    fn catches_up(&mut self) -> bool {
        self.is_patient() && !self.backlog.is_empty() && self.backlog.bytes() <= LITTLE_BYTES
    }

    fn take_up(&mut self, chunk: Chunk) {
        if self.catches_up() {
            self.debt += chunk.bytes() as u64;
        }
        self.pending.push_back(chunk);
    }

    /// Sends on what is ready, as far as the flush task may hold it; what has to wait for too long stays
    /// on the disk alone.
    async fn send_ready(&mut self) {
        while let Some((chunk, appended)) = self.ready.pop_front() {
            match self.find_place(chunk.held_bytes()) {
                Some(Place::Apart(hold)) => self.send(chunk.held_by(hold)).await,
                Some(Place::Ahead(passage)) => self.send(chunk.with_passage(passage)).await,
                None if self.failed => self.send(chunk).await,
                None => {
                    self.ready.push_front((chunk, appended));
                    break;
                }
            }
        }
        if self.ready.is_empty() {
            return;
        }
        if self.is_patient() {
            self.pressure.tell();
        } else {
            for (chunk, appended) in std::mem::take(&mut self.ready) {
                self.leave(&chunk, &appended);
            }
        }
    }

    /// A place beside what producers fill, as long as there is one, else in it.
    fn find_place(&mut self, bytes: usize) -> Option<Place> {
        let granted = self.place.take().filter(|place| place.bytes() >= bytes);
        let apart =
            || self.read_back.try_reserve(bytes).filter(|hold| hold.bytes() >= bytes).map(Place::Apart);
        let ahead = || self.ahead.try_reserve(bytes).map(Place::Ahead);
        let mut place = granted.or_else(apart).or_else(ahead)?;
        match &mut place {
            Place::Ahead(hold) | Place::Apart(hold) => hold.shrink(bytes),
        }
        Some(place)
    }

    /// Whether what comes may be let gather for a moment, since the stream has enough to go on with: each turn
    /// wakes others.
    fn has_time(&self) -> bool {
        let held = self.ahead.total() - self.ahead.available();
        self.open && self.on_full == OnFull::Block && self.backlog.is_empty() && held > self.ahead.total() / 2
    }

    /// Leaves a chunk to the disk, to be read back in its turn.
    fn leave(&mut self, chunk: &Chunk, appended: &Appended) {
        self.backlog.push(appended);
        let claim = chunk.claim(Level::Delivered).cloned();
        self.claims.extend(claim.map(|claim| (appended.sequences.start, claim)));
    }

    /// Whether there is a wait for the stream, which is quick. Not where others give way for want of memory.
    fn is_patient(&mut self) -> bool {
        self.on_full == OnFull::Block && self.pace.is_quick(now())
    }

    /// Takes what listeners have brought, without waiting.
    fn look(&mut self) {
        while self.takes()
            && self.pending.len() < CHUNKS_A_TURN
            && let Ok(chunk) = self.chunks.try_recv()
        {
            self.take_up(chunk);
        }
    }

    /// Writes down what was settled, and gives back the disk's room that this makes free. Says whether
    /// the flush task has ended.
    fn write_down(&mut self) -> bool {
        let settled = self.settlements.take();
        if settled.times > 0 || self.owes_watermark {
            for sequences in settled.sequences {
                self.spool.settle(sequences);
            }
            self.kept = self.kept.without(settled.count);
            let written = self.spool.checkpoint();
            self.owes_watermark = matches!(written, Err(WriteError::Full(_)));
            if let Err(error) = written {
                self.say_unwritten(&error);
            }
            // Where it could not be written, waiting for it would only hold up the stream.
            self.settlements.wrote(settled.times);
        }
        settled.over
    }

    fn say_unwritten(&mut self, error: &WriteError) {
        if self.spool.is_poisoned() && !self.failed {
            self.fail(error);
        }
        if let Some(suppressed) = self.unwritten.say(now()) {
            let error = error as &dyn std::error::Error;
            tracing::error!(
                error,
                suppressed,
                "What was sent is not written down in the spool: after a crash it is sent again."
            );
        }
    }

    /// Appends what came and sends on what goes on from memory.
    async fn take_in(&mut self) {
        self.full = None;
        self.send_ready().await;
        let (at, wall) = (now(), unix_millis(wall_clock()));
        while !self.pending.is_empty() {
            if self.failed {
                // Received but not durable, and not called so: it is sent from memory.
                for chunk in std::mem::take(&mut self.pending) {
                    self.tell_kept(&chunk);
                    self.send(chunk).await;
                }
                break;
            }
            let frames = self.pending.iter().map(|chunk| {
                let age = u64::try_from(at.saturating_duration_since(chunk.received()).as_millis());
                let received_ms = wall.saturating_sub(age.unwrap_or(u64::MAX));
                Records { received_ms, ends: chunk.ends(), data: chunk.data() }
            });
            match self.spool.append_some(frames) {
                Ok(group) => {
                    for appended in group {
                        let Some(chunk) = self.pending.pop_front() else { break };
                        self.appended(chunk, appended, at);
                    }
                    self.send_ready().await;
                }
                Err(WriteError::Full(full)) if self.on_full != OnFull::DropNewest => {
                    return self.wait_for_disk(full);
                }
                Err(error) => {
                    let Some(chunk) = self.pending.pop_front() else { break };
                    if matches!(error, WriteError::Full(_)) {
                        self.drop_newest(&chunk);
                        continue;
                    }
                    self.fail(&error);
                    self.send_ready().await;
                    self.tell_kept(&chunk);
                    self.send(chunk).await;
                }
            }
        }
        self.pressure.want_disk(0);
    }

    /// Takes note of a chunk that the spool has.
    fn appended(&mut self, chunk: Chunk, appended: Appended, at: Instant) {
        self.kept += count(&chunk);
        self.tell_kept(&chunk);
        if let Some(claim) = chunk.claim(Level::Durable) {
            self.unsynced.push((claim.clone(), chunk.records() as u64));
        }
        if !self.backlog.is_empty() {
            return self.leave(&chunk, &appended);
        }
        if self.ready.is_empty() {
            self.pace.begin(at);
        }
        self.ready.push_back((chunk.with_sequence(appended.sequences.start), appended));
    }

    /// Tells the producer of a chunk that might have been dropped for want of room that it is received.
    fn tell_kept(&self, chunk: &Chunk) {
        if self.on_full == OnFull::DropNewest
            && let Some(claim) = chunk.claim(Level::Received)
        {
            claim.reached(chunk.records());
        }
    }

    fn drop_newest(&mut self, chunk: &Chunk) {
        let Count { records, bytes } = count(chunk);
        self.ledger.dropped(DropReason::BufferFull, Count { records, bytes });
        if let Some(suppressed) = self.dropped.say(now()) {
            let reason = DropReason::BufferFull.label();
            tracing::error!(records, bytes, reason, suppressed, "Records dropped.");
        }
    }

    fn wait_for_disk(&mut self, full: Full) {
        self.full = Some(full);
        let wanted = self.pending.iter().map(Chunk::bytes).sum();
        self.pressure.want_disk(wanted);
        if let Some(suppressed) = self.said_full.say(now()) {
            let (bytes, error) = (self.spool.total_bytes(), WriteError::Full(full).to_string());
            tracing::warn!(bytes, error, suppressed, "The spool is full: producers wait.");
        }
    }

    /// The writer has ended. What comes from here on stays with its producer.
    fn fail(&mut self, error: &WriteError) {
        self.failed = self.spool.is_poisoned();
        let error = error as &dyn std::error::Error;
        if !self.failed {
            tracing::error!(error, "Records are sent without being spooled.");
            return;
        }
        self.unsynced.clear();
        self.refuses.cancel();
        tracing::error!(
            error,
            "The spool has failed: nothing more is taken or called durable; restart hydrant once the disk works."
        );
    }

    /// One sync for all that was appended since the last one.
    fn make_durable(&mut self) {
        if self.failed || self.spool.durable_sequence() == self.spool.next_sequence() {
            return;
        }
        let began = now();
        match self.spool.sync() {
            Ok(_) => {
                for (Claim { origin, first, .. }, records) in self.unsynced.drain(..) {
                    origin.reached(first, records);
                }
                if self.spool.durability() == Sync::Always {
                    self.figures.spool_synced(now().saturating_duration_since(began));
                }
            }
            Err(error) => self.fail(&error),
        }
    }

    /// Reads back what fits.
    async fn bring_back(&mut self) -> Brought {
        for _ in 0..FRAMES_A_TURN {
            if self.onward.is_none() {
                return Brought::All;
            }
            let header = match self.backlog.peek(&mut self.reader) {
                Ok(Some(header)) => header,
                Ok(None) => {
                    self.reader.close();
                    return Brought::All;
                }
                Err(error) => {
                    self.say_unreadable(&error);
                    continue;
                }
            };
            let needed = memory_of(&header);
            let mut room = (std::mem::take(&mut self.room), Reservation::none());
            if room.0.bytes() < needed.min(self.read_back.total()) {
                drop(room);
                let Some(found) = self.find_room(needed) else {
                    self.pressure.tell();
                    return Brought::Lacks(needed);
                };
                room = found;
            }
            match self.backlog.next(&mut self.reader) {
                Ok(Some(waiting)) => self.send_back(waiting, room).await,
                Ok(None) => return Brought::All,
                Err(error) => self.say_unreadable(&error),
            }
        }
        Brought::Some
    }

    /// Memory for what is read back, if need be what there is to spare for what arrives; with the passage
    /// for that.
    fn find_room(&self, bytes: usize) -> Option<(Reservation, Reservation)> {
        if let Some(room) = self.read_back.try_reserve(bytes) {
            return Some((room, Reservation::none()));
        }
        let spare = self.budget.available() >= self.budget.total() / 2;
        if spare { Some((self.budget.try_reserve(bytes)?, self.ahead.try_reserve(bytes)?)) } else { None }
    }

    fn say_unreadable(&mut self, error: &crate::spool::ReadError) {
        if let Some(suppressed) = self.unreadable.say(now()) {
            let error = error as &dyn std::error::Error;
            tracing::error!(
                error,
                suppressed,
                "Records could not be read back from the spool: they stay there, and the next start tries again."
            );
        }
    }

    /// Sends a frame on that was read back: the records of it that are not settled.
    async fn send_back(&mut self, waiting: Waiting, (mut hold, mut passage): (Reservation, Reservation)) {
        let header = &waiting.frame.header;
        let age = unix_millis(wall_clock()).saturating_sub(header.received_ms);
        let received = now().checked_sub(Duration::from_millis(age)).unwrap_or_else(now);
        let first = header.first;
        while self.claims.front().is_some_and(|(sequence, _)| *sequence < first) {
            self.claims.pop_front();
        }
        let claim = self.claims.pop_front_if(|(sequence, _)| *sequence == first).map(|(_, claim)| claim);
        if waiting.is_whole() {
            let chunk = Chunk::new(waiting.frame.bytes, waiting.frame.ends, received, hold);
            return self.send(chunk.with_sequence(first).with_claim(claim).with_passage(passage)).await;
        }
        // Some of its records were settled before; the others move into chunks of their own.
        for (live, bytes, ends) in waiting.parts() {
            let part = bytes.len() + ends.len() * size_of::<u32>() + CHUNK_OVERHEAD_BYTES;
            let (part, passage) = (hold.split(part), passage.split(part));
            let chunk = Chunk::new(bytes::Bytes::copy_from_slice(&bytes), ends, received, part);
            let chunk = chunk.with_sequence(first + u64::from(live.start)).with_passage(passage);
            self.send(chunk).await;
        }
    }

    async fn send(&mut self, chunk: Chunk) {
        let bytes = chunk.bytes() as u64;
        self.pace.took(bytes, now());
        self.debt = self.debt.saturating_sub(bytes / 2);
        let Some(onward) = &self.onward else { return };
        if onward.send(chunk).await.is_err() {
            // The flush task is gone, which only an abort brings about: what the spool has stays there.
            self.onward = None;
        }
    }

    /// The daemon stops at once: what can be spooled is, the rest goes on as it is, to be accounted.
    async fn give_up(&mut self) {
        self.chunks.close();
        while let Ok(chunk) = self.chunks.recv().await {
            self.pending.push_back(chunk);
        }
        self.open = false;
        self.backlog = Backlog::default();
        self.take_in().await;
        // These are in the spool.
        self.ready.clear();
        for chunk in std::mem::take(&mut self.pending) {
            self.send(chunk).await;
        }
        self.make_durable();
        self.onward = None;
    }

    fn close(self) -> Count {
        let kept = self.kept;
        if let Err(error) = self.spool.close() {
            let error = &error as &dyn std::error::Error;
            tracing::error!(error, "The spool was not closed cleanly: what was sent last may be sent again.");
        }
        kept
    }

    fn report(&self) {
        let condition = match (self.failed, self.full) {
            (true, _) => SpoolCondition::Failed,
            (false, Some(Full::Limit)) => SpoolCondition::Full,
            (false, Some(Full::System)) => SpoolCondition::DiskFull,
            (false, None) => SpoolCondition::Working,
        };
        let mut spool = self.figures.spool();
        if let Some(spool) = spool.as_mut() {
            spool.bytes = self.spool.total_bytes();
            spool.segments = self.spool.segments();
            spool.kept = self.kept;
            spool.condition = condition;
        }
    }
}

/// How fast the stream takes what there is.
#[derive(Debug)]
struct Pace {
    quick: bool,
    /// Bytes that it took since `until` was set.
    took: u64,
    /// When it is looked at next.
    until: Instant,
}

impl Pace {
    fn new(at: Instant) -> Self {
        Self { quick: false, took: 0, until: at }
    }

    /// Takes it for quick, until it has had its time.
    fn begin(&mut self, at: Instant) {
        *self = Self { quick: true, took: 0, until: at + PATIENCE };
    }

    fn took(&mut self, bytes: u64, at: Instant) {
        self.took += bytes;
        if self.took >= QUICK_BYTES && at < self.until {
            self.begin(at);
        }
    }

    fn is_quick(&mut self, at: Instant) -> bool {
        if at >= self.until {
            *self = Self { quick: self.took >= QUICK_BYTES, took: 0, until: at + PATIENCE };
        }
        self.quick
    }

    fn until(&self) -> Instant {
        self.until
    }
}

/// What a chunk takes that goes on.
#[derive(Debug)]
enum Place {
    /// Of the part of memory that is for what arrives, where its bytes stay.
    Ahead(Reservation),
    /// Memory for what is read back, which its bytes are counted to from then on.
    Apart(Reservation),
}

impl Place {
    fn bytes(&self) -> usize {
        match self {
            Self::Ahead(hold) | Self::Apart(hold) => hold.bytes(),
        }
    }
}

/// How far reading back has come.
enum Brought {
    /// Nothing waits on the disk, or nobody takes it any more.
    All,
    /// As much as one turn may.
    Some,
    /// There is no memory for the next frame, which takes this much.
    Lacks(usize),
}

/// What a frame takes in memory once it is read: its bytes, the ends, the chunk.
fn memory_of(header: &FrameHeader) -> usize {
    let payload = usize::try_from(header.payload_bytes()).unwrap_or(usize::MAX);
    payload + header.records as usize * size_of::<u32>() + CHUNK_OVERHEAD_BYTES
}

fn unix_millis(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn count(chunk: &Chunk) -> Count {
    Count::of(chunk.records(), chunk.bytes())
}

#[cfg(test)]
mod tests;
