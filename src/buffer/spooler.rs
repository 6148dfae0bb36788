//! The spool's thread: every chunk is on the disk before it goes on to the flush task.
//!
//! Each turn it writes down what was settled, appends what came, makes that durable with one sync,
//! however many chunks and connections it came from, and reads back what fits. A chunk goes on from
//! memory while nothing waits on the disk and memory is not short; else its memory is given back and
//! it is read again in its turn, so order is kept and a stream that takes nothing fills the disk and not
//! the memory. No chunk is taken up, for a moment, while less than a quarter of the budget is free: so
//! a quarter is always left for those that have to go by the disk.
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
use crate::spool::{Backlog, Full, Opened, Reader, Spool, Storage, Sync, Waiting, WriteError};
use crate::telemetry::figures::{Figures, SpoolCondition};
use crate::telemetry::quiet::Quiet;
use crate::telemetry::{now, wall_clock};

/// Most chunks that one turn appends, so that their sync and what was settled are not held up.
const CHUNKS_A_TURN: usize = 256;
/// Most frames that one turn reads back, so that what arrives is not held up.
const FRAMES_A_TURN: usize = 32;
/// How often a full disk is tried again: nobody tells when there is room.
const RETRY: Duration = Duration::from_millis(250);
/// How long memory that runs low is given to become half free before records stay on the disk alone,
/// and have to be read back. A stream that empties it faster is held up by nothing but the processor,
/// which reading back would only take more of.
const PATIENCE: Duration = Duration::from_millis(50);
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
    /// Since when memory has not been half free after a quarter of it was not.
    low_since: Option<Instant>,
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
        let intake = Intake::new(sender, budget.clone(), on_full, Arc::clone(&ledger));
        let settlements = Arc::new(Settlements::default());
        let account = Account::new(Arc::clone(&ledger), Some(Arc::clone(&settlements)));
        let pressure = Arc::clone(&intake.pressure);
        let outlet = Outlet { chunks: outward, pressure: Arc::clone(&pressure), account, on_full };
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
            low_since: None,
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
            if !self.open && self.pending.is_empty() && self.backlog.is_empty() {
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
        let takes = self.takes();
        let patient = self.patient_until().filter(|_| self.open);
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
            chunk = self.chunks.recv(), if takes => match chunk {
                Ok(chunk) => self.pending.push_back(chunk),
                Err(_) => self.open = false,
            },
            () = retry => {}
        }
    }

    fn takes(&mut self) -> bool {
        self.open && self.full.is_none() && self.claims.len() < MAX_CLAIMS && self.patient_until().is_none()
    }

    /// Takes note of how much memory is free.
    fn look_at_memory(&mut self) {
        let (available, total) = (self.budget.available(), self.budget.total());
        if available >= total / 2 {
            self.low_since = None;
        } else if available < total / 4 && self.low_since.is_none() {
            self.low_since = Some(now());
        }
    }

    /// Until when chunks are left where they are, since there may soon be memory for them to go on
    /// without being read back.
    fn patient_until(&mut self) -> Option<Instant> {
        self.look_at_memory();
        let until = self.low_since? + PATIENCE;
        (self.backlog.is_empty() && now() < until).then_some(until)
    }

    /// Whether what comes goes by the disk: it would overtake what waits there, or memory has been low
    /// for longer than there was patience.
    fn goes_by_disk(&mut self) -> bool {
        self.look_at_memory();
        !self.backlog.is_empty() || self.low_since.is_some_and(|since| now() >= since + PATIENCE)
    }

    /// Takes what listeners have brought, without waiting.
    fn look(&mut self) {
        while self.takes()
            && self.pending.len() < CHUNKS_A_TURN
            && let Ok(chunk) = self.chunks.try_recv()
        {
            self.pending.push_back(chunk);
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
        let (at, wall) = (now(), unix_millis(wall_clock()));
        while let Some(chunk) = self.pending.pop_front() {
            if self.failed {
                // Received but not durable, and not called so: it is sent from memory.
                self.send(chunk).await;
                continue;
            }
            let age = u64::try_from(at.saturating_duration_since(chunk.received()).as_millis());
            let received_ms = wall.saturating_sub(age.unwrap_or(u64::MAX));
            match self.spool.append(received_ms, chunk.ends(), chunk.data()) {
                Ok(appended) => {
                    self.kept += count(&chunk);
                    if let Some(claim) = chunk.claim(Level::Durable) {
                        self.unsynced.push((claim.clone(), chunk.records() as u64));
                    }
                    let first = appended.sequences.start;
                    if self.goes_by_disk() {
                        self.backlog.push(&appended);
                        let claim = chunk.claim(Level::Delivered).cloned();
                        self.claims.extend(claim.map(|claim| (first, claim)));
                    } else {
                        self.send(chunk.with_sequence(first)).await;
                    }
                }
                Err(WriteError::Full(_)) if self.on_full == OnFull::DropNewest => self.drop_newest(&chunk),
                Err(WriteError::Full(full)) => {
                    self.pending.push_front(chunk);
                    return self.wait_for_disk(full);
                }
                Err(error) => {
                    self.fail(&error);
                    self.send(chunk).await;
                }
            }
        }
        self.pressure.want_disk(0);
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
            let mut hold = std::mem::take(&mut self.room);
            if hold.bytes() < needed.min(self.read_back.total()) {
                drop(hold);
                let spare = self.budget.available() >= self.budget.total() / 2;
                let borrowed = || if spare { self.budget.try_reserve(needed) } else { None };
                let Some(reservation) = self.read_back.try_reserve(needed).or_else(borrowed) else {
                    self.pressure.tell();
                    return Brought::Lacks(needed);
                };
                hold = reservation;
            }
            match self.backlog.next(&mut self.reader) {
                Ok(Some(waiting)) => self.send_back(waiting, hold).await,
                Ok(None) => return Brought::All,
                Err(error) => self.say_unreadable(&error),
            }
        }
        Brought::Some
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
    async fn send_back(&mut self, waiting: Waiting, mut hold: Reservation) {
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
            return self.send(chunk.with_sequence(first).with_claim(claim)).await;
        }
        // Some of its records were settled before; the others move into chunks of their own.
        for (live, bytes, ends) in waiting.parts() {
            let part = hold.split(bytes.len() + ends.len() * size_of::<u32>() + CHUNK_OVERHEAD_BYTES);
            let chunk = Chunk::new(bytes::Bytes::copy_from_slice(&bytes), ends, received, part);
            self.send(chunk.with_sequence(first + u64::from(live.start))).await;
        }
    }

    async fn send(&mut self, chunk: Chunk) {
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
