//! The figures of the daemon: where every room puts them, and where they are looked up.
//!
//! One lock guards the figures of the sender; it is taken once an answer. Record counts are not
//! kept here but in the [`Ledger`].

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use super::exposition::{self, Format};
use super::histogram::Histogram;
use super::history::{Fill, History, Rates, Sample};
use super::process::Process;
use super::stream::Stream;
use crate::budget::Budget;
use crate::buffer::{Columns, Count, Ledger};
use crate::firehose::{Class, Operation};

/// Distinct error codes that get a label of their own; the rest are counted as `other`, so that a
/// service that makes up codes can't grow the exposition without bound.
const MAX_ERROR_CODES: usize = 64;

/// Upper bounds, in seconds, of latencies from one answer of a local service to a long outage.
const SECONDS: &[f64] =
    &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0, 7200.0];
/// Upper bounds, in seconds, of one sync: from a write cache to a disk that stalls.
const SYNC_SECONDS: &[f64] =
    &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
/// Upper bounds, in records, up to the quota of a request.
const RECORDS: &[f64] = &[1.0, 5.0, 10.0, 25.0, 50.0, 100.0, 200.0, 300.0, 400.0, 499.0, 500.0];
/// Upper bounds, in bytes, up to the quota of a request.
const BYTES: &[f64] = &[
    1024.0,
    4096.0,
    16384.0,
    65536.0,
    262_144.0,
    524_288.0,
    1_048_576.0,
    2_097_152.0,
    3_145_728.0,
    4_194_304.0,
];

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// Every record was delivered.
    Ok,
    /// Some entries failed.
    Partial,
    /// The whole request failed.
    Failed(FailedAs),
}

/// [`Class`], ordered for use as a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum FailedAs {
    /// [`Class::Throttled`]
    Throttled,
    /// [`Class::Transient`]
    Transient,
    /// [`Class::Permanent`]
    Permanent,
    /// [`Class::Refused`]
    Refused,
}

impl From<Class> for Outcome {
    fn from(class: Class) -> Self {
        Self::Failed(match class {
            Class::Throttled => FailedAs::Throttled,
            Class::Transient => FailedAs::Transient,
            Class::Permanent => FailedAs::Permanent,
            Class::Refused => FailedAs::Refused,
        })
    }
}

impl Outcome {
    /// Every outcome.
    pub const ALL: [Self; 6] = [
        Self::Ok,
        Self::Partial,
        Self::Failed(FailedAs::Throttled),
        Self::Failed(FailedAs::Transient),
        Self::Failed(FailedAs::Permanent),
        Self::Failed(FailedAs::Refused),
    ];

    /// The metric label's value.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Partial => "partial",
            Self::Failed(FailedAs::Throttled) => "throttled",
            Self::Failed(FailedAs::Transient) => "transient",
            Self::Failed(FailedAs::Permanent) => "permanent",
            Self::Failed(FailedAs::Refused) => "refused",
        }
    }
}

/// What is exported by OTLP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Signal {
    /// The figures.
    Metrics,
    /// Traces of flushes.
    Traces,
}

impl Signal {
    /// The metric label's value.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Metrics => "metrics",
            Self::Traces => "traces",
        }
    }
}

/// How an export by OTLP ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Exported {
    /// The collector took all of it.
    Ok,
    /// The collector took some of it.
    Partial,
    /// The collector has nothing of it.
    Failed,
}

impl Exported {
    /// The metric label's value.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Partial => "partial",
            Self::Failed => "failed",
        }
    }
}

/// What the sender knows of its stream at one moment.
#[derive(Debug, Clone, Default)]
pub struct StreamState {
    /// The stream-wide failure that has not ended.
    pub trouble: Option<Trouble>,
    /// When the record that has been held longest was read.
    pub oldest: Option<Instant>,
    /// When the flush task last had a turn.
    pub turn: Option<Instant>,
    /// What is ready to be sent waits for the stream's quota.
    pub waits_for_quota: bool,
    /// Bytes a second that what was throttled allows; none while nothing was.
    pub pace: Option<f64>,
    /// Whether records are packed; unknown until the stream is.
    pub packing: Option<PackingState>,
}

/// Whether records are packed, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackingState {
    /// They are.
    pub packed: bool,
    /// A sentence's end.
    pub reason: String,
}

/// A stream-wide failure as the outside sees it.
#[derive(Debug, Clone)]
pub struct Trouble {
    /// Whether a human has to act.
    pub permanent: bool,
    /// The service's code, or ours for what did not reach it.
    pub code: Cow<'static, str>,
    /// One sentence.
    pub message: String,
    /// When it began.
    pub since: Instant,
}

/// All figures of one delivery stream, and what the daemon has of them once. Shared by the rooms that make
/// them and the admin that shows them.
///
/// Of a daemon with several streams the first one's figures know the others ([`Figures::all`]).
#[derive(Debug)]
pub struct Figures {
    ledger: Arc<Ledger>,
    sender: Mutex<SenderFigures>,
    in_flight: AtomicUsize,
    stream_name: OnceLock<String>,
    buffer: OnceLock<Vec<Budget>>,
    spool: Mutex<Option<SpoolFigures>>,
    stream: Mutex<Stream>,
    history: Mutex<History>,
    others: OnceLock<Vec<Arc<Figures>>>,
    daemon: Arc<DaemonFigures>,
}

/// What there is once, whatever the number of streams.
#[derive(Debug)]
struct DaemonFigures {
    connections: AtomicUsize,
    draining: AtomicBool,
    accept_pauses: AtomicU64,
    listeners: Mutex<Vec<(String, String)>>,
    exports: Mutex<BTreeMap<(Signal, Exported), u64>>,
    started: Instant,
}

/// The sender's part.
#[derive(Debug, Clone)]
pub struct SenderFigures {
    /// Requests by call and outcome.
    pub puts: BTreeMap<(&'static str, Outcome), u64>,
    /// Records sent again, by the error code of the failure.
    pub retried: BTreeMap<String, u64>,
    /// Bytes that Firehose bills for what it has accepted.
    pub billed_bytes: u64,
    /// The same, had every record been sent by itself.
    pub unpacked_billed_bytes: u64,
    /// Bytes of the records that Firehose has accepted compressed.
    pub compressed_from: u64,
    /// What those were compressed to.
    pub compressed_to: u64,
    /// Records that Firehose may have twice: they were sent again although an earlier attempt,
    /// whose answer was lost, may have stored them.
    pub ambiguous_records: u64,
    /// Time for which what was ready to be sent waited for the stream's quota.
    pub quota_wait: Duration,
    /// Seconds from the start of an attempt to its end.
    pub put_duration: Histogram,
    /// Seconds from reading a record to Firehose having it.
    pub delivery_latency: Histogram,
    /// Records a request.
    pub batch_records: Histogram,
    /// Record bytes a request.
    pub batch_bytes: Histogram,
    /// The stream at this moment.
    pub state: StreamState,
}

/// The spool's part.
#[derive(Debug, Clone)]
pub struct SpoolFigures {
    /// `buffer.directory`
    pub directory: String,
    /// `buffer.disk`
    pub limit_bytes: u64,
    /// Bytes that count against that.
    pub bytes: u64,
    /// Files that records are in.
    pub segments: usize,
    /// Records that are in the spool and not settled.
    pub kept: Count,
    /// Whether it can take more.
    pub condition: SpoolCondition,
    /// Bytes that this start found damaged and set aside.
    pub damaged_bytes: u64,
    /// Records that this start found to be missing or damaged.
    pub lost_records: u64,
    /// Seconds that a sync took, where `buffer.sync` is `always`.
    pub sync_duration: Histogram,
}

/// Whether the spool can take more; the worse, the greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SpoolCondition {
    /// It can.
    Working,
    /// It has reached `buffer.disk`.
    Full,
    /// The file system has no room.
    DiskFull,
    /// The disk has failed; only a restart brings it back.
    Failed,
}

impl SpoolCondition {
    /// Every condition.
    pub const ALL: [Self; 4] = [Self::Working, Self::Full, Self::DiskFull, Self::Failed];

    /// The metric label's value.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Working => "working",
            Self::Full => "full",
            Self::DiskFull => "disk_full",
            Self::Failed => "failed",
        }
    }
}

impl SpoolFigures {
    fn fill(&self) -> Fill {
        let Self { bytes, limit_bytes, condition, .. } = *self;
        Fill { bytes, limit_bytes, is_stopped: condition != SpoolCondition::Working }
    }

    /// A spool in `directory` that may take `limit_bytes`.
    #[must_use]
    pub fn new(directory: String, limit_bytes: u64) -> Self {
        Self {
            directory,
            limit_bytes,
            bytes: 0,
            segments: 0,
            kept: Count::default(),
            condition: SpoolCondition::Working,
            damaged_bytes: 0,
            lost_records: 0,
            sync_duration: Histogram::new(SYNC_SECONDS),
        }
    }
}

impl SenderFigures {
    fn new() -> Self {
        Self {
            puts: BTreeMap::new(),
            retried: BTreeMap::new(),
            billed_bytes: 0,
            unpacked_billed_bytes: 0,
            compressed_from: 0,
            compressed_to: 0,
            ambiguous_records: 0,
            quota_wait: Duration::ZERO,
            put_duration: Histogram::new(SECONDS),
            delivery_latency: Histogram::new(SECONDS),
            batch_records: Histogram::new(RECORDS),
            batch_bytes: Histogram::new(BYTES),
            state: StreamState::default(),
        }
    }

    /// Adds what `other` has counted. The state becomes that of whichever is worse off: the oldest record,
    /// the turn that is longest ago, a trouble that needs a human before another.
    fn merge(&mut self, other: &Self) {
        let add = |counts: &mut BTreeMap<_, u64>, other: &BTreeMap<_, u64>| {
            other.iter().for_each(|(key, count)| *counts.entry(*key).or_default() += count);
        };
        add(&mut self.puts, &other.puts);
        for (code, count) in &other.retried {
            *self.retried.entry(code.clone()).or_default() += count;
        }
        self.billed_bytes += other.billed_bytes;
        self.unpacked_billed_bytes += other.unpacked_billed_bytes;
        self.compressed_from += other.compressed_from;
        self.compressed_to += other.compressed_to;
        self.ambiguous_records += other.ambiguous_records;
        self.quota_wait += other.quota_wait;
        self.put_duration.merge(&other.put_duration);
        self.delivery_latency.merge(&other.delivery_latency);
        self.batch_records.merge(&other.batch_records);
        self.batch_bytes.merge(&other.batch_bytes);
        let earlier = |one: Option<Instant>, other: Option<Instant>| one.into_iter().chain(other).min();
        self.state.oldest = earlier(self.state.oldest, other.state.oldest);
        self.state.turn = earlier(self.state.turn, other.state.turn);
        self.state.waits_for_quota |= other.state.waits_for_quota;
        self.state.pace = match (self.state.pace, other.state.pace) {
            (Some(one), Some(other)) => Some(one + other),
            (one, other) => one.or(other),
        };
        if self.state.packing != other.state.packing {
            self.state.packing = None;
        }
        let is_permanent = |trouble: &Option<Trouble>| trouble.as_ref().map(|trouble| trouble.permanent);
        if is_permanent(&other.state.trouble) > is_permanent(&self.state.trouble) {
            self.state.trouble = other.state.trouble.clone();
        }
    }
}

impl Figures {
    /// Figures of a daemon that started at `started`, and of its first stream.
    #[must_use]
    pub fn new(ledger: Arc<Ledger>, started: Instant) -> Self {
        Self::of(
            ledger,
            Arc::new(DaemonFigures {
                connections: AtomicUsize::new(0),
                draining: AtomicBool::new(false),
                accept_pauses: AtomicU64::new(0),
                listeners: Mutex::default(),
                exports: Mutex::default(),
                started,
            }),
        )
    }

    /// Figures of another stream of the same daemon.
    #[must_use]
    pub fn of_another(&self, ledger: Arc<Ledger>) -> Self {
        Self::of(ledger, Arc::clone(&self.daemon))
    }

    fn of(ledger: Arc<Ledger>, daemon: Arc<DaemonFigures>) -> Self {
        Self {
            ledger,
            sender: Mutex::new(SenderFigures::new()),
            in_flight: AtomicUsize::new(0),
            stream_name: OnceLock::new(),
            buffer: OnceLock::new(),
            spool: Mutex::default(),
            stream: Mutex::default(),
            history: Mutex::default(),
            others: OnceLock::new(),
            daemon,
        }
    }

    /// Says which other streams there are.
    pub fn set_others(&self, others: Vec<Arc<Self>>) {
        // Only the first ones count; there are no others.
        self.others.get_or_init(|| others);
    }

    /// These and those of the other streams that they know.
    pub fn all(&self) -> impl Iterator<Item = &Self> {
        std::iter::once(self).chain(self.others.get().into_iter().flatten().map(Arc::as_ref))
    }

    /// Whether there are several streams, so that each has to be named.
    #[must_use]
    pub fn are_several(&self) -> bool {
        self.others.get().is_some_and(|others| !others.is_empty())
    }

    /// The accounts of all streams together.
    #[must_use]
    pub fn columns_of_all(&self) -> Columns {
        let mut sum = Columns::default();
        self.all().for_each(|figures| sum += figures.ledger.columns());
        sum
    }

    /// The senders' parts together.
    #[must_use]
    pub fn sender_of_all(&self) -> SenderFigures {
        let mut sum = self.sender().clone();
        self.all().skip(1).for_each(|other| sum.merge(&other.sender()));
        sum
    }

    /// The spools together: what they take, and the worst condition.
    #[must_use]
    pub fn spool_of_all(&self) -> Option<SpoolFigures> {
        let mut sum = self.spool().clone()?;
        for other in self.all().skip(1) {
            if let Some(other) = other.spool().as_ref() {
                sum.bytes += other.bytes;
                sum.limit_bytes += other.limit_bytes;
                sum.segments += other.segments;
                sum.kept += other.kept;
                sum.condition = sum.condition.max(other.condition);
                sum.damaged_bytes += other.damaged_bytes;
                sum.lost_records += other.lost_records;
                sum.sync_duration.merge(&other.sync_duration);
            }
        }
        Some(sum)
    }

    /// The records' memory of all streams together; `None` before the daemon runs.
    #[must_use]
    pub fn buffer_of_all(&self) -> Option<Buffer> {
        let add = |one: Buffer, other: Buffer| Buffer {
            total: one.total + other.total,
            reserved: one.reserved + other.reserved,
            wanted: one.wanted + other.wanted,
        };
        self.all().filter_map(Self::buffer).reduce(add)
    }

    /// Requests under way to all streams.
    #[must_use]
    pub fn in_flight_of_all(&self) -> usize {
        self.all().map(Self::in_flight).sum()
    }

    /// The sender's part, to change or to copy; held for a moment only.
    pub fn sender(&self) -> MutexGuard<'_, SenderFigures> {
        self.sender.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says how many requests are under way.
    pub fn set_in_flight(&self, requests: usize) {
        self.in_flight.store(requests, Ordering::Relaxed);
    }

    /// Requests under way.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Counts a connection until the guard is dropped.
    #[must_use]
    pub fn connection(self: &Arc<Self>) -> ConnectionGuard {
        self.daemon.connections.fetch_add(1, Ordering::Relaxed);
        ConnectionGuard(Arc::clone(self))
    }

    /// Connections open now.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.daemon.connections.load(Ordering::Relaxed)
    }

    /// Counts one time that accepting had to pause.
    pub fn accept_paused(&self) {
        self.daemon.accept_pauses.fetch_add(1, Ordering::Relaxed);
    }

    /// Says that the daemon accepts nothing more.
    pub fn set_draining(&self) {
        self.daemon.draining.store(true, Ordering::Relaxed);
    }

    /// Whether the daemon is on its way out.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.daemon.draining.load(Ordering::Relaxed)
    }

    /// The account of records.
    #[must_use]
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// The same, to keep.
    #[must_use]
    pub fn shared_ledger(&self) -> Arc<Ledger> {
        Arc::clone(&self.ledger)
    }

    /// Time since the daemon started.
    #[must_use]
    pub fn uptime(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.daemon.started)
    }

    /// Says where producers may connect: each listener's name and address.
    pub fn set_listeners(&self, listeners: Vec<(String, String)>) {
        *self.daemon.listeners.lock().unwrap_or_else(PoisonError::into_inner) = listeners;
    }

    /// Each listener's name and address.
    #[must_use]
    pub fn listeners(&self) -> Vec<(String, String)> {
        self.daemon.listeners.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Says which delivery stream records go to.
    pub fn set_stream_name(&self, name: &str) {
        // Only the first one counts; there is no second.
        self.stream_name.get_or_init(|| name.to_owned());
    }

    /// The delivery stream; `None` before the daemon runs.
    #[must_use]
    pub fn stream_name(&self) -> Option<&str> {
        self.stream_name.get().map(String::as_str)
    }

    /// When the daemon started.
    #[must_use]
    pub fn started(&self) -> Instant {
        self.daemon.started
    }

    /// Says which budgets records are held under.
    pub fn set_buffer(&self, budgets: Vec<Budget>) {
        // Only the first ones count; there are no others.
        self.buffer.get_or_init(|| budgets);
    }

    /// The state of the records' memory; `None` before the daemon runs.
    #[must_use]
    pub fn buffer(&self) -> Option<Buffer> {
        let budgets = self.buffer.get()?;
        Some(Buffer {
            total: budgets.iter().map(Budget::total).sum(),
            reserved: budgets.iter().map(|budget| budget.total() - budget.available()).sum(),
            // What waits for memory to be read back holds no producer up.
            wanted: budgets.first().map_or(0, Budget::wanted),
        })
    }

    /// The spool's part, to change or to copy, held for a moment only; `None` without a spool.
    pub fn spool(&self) -> MutexGuard<'_, Option<SpoolFigures>> {
        self.spool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a sync of the spool.
    pub fn spool_synced(&self, took: Duration) {
        if let Some(spool) = self.spool().as_mut() {
            spool.sync_duration.observe(took.as_secs_f64(), 1);
        }
    }

    /// Times that accepting had to pause.
    #[must_use]
    pub fn accept_pauses(&self) -> u64 {
        self.daemon.accept_pauses.load(Ordering::Relaxed)
    }

    /// What is known of the stream itself, to change or to copy; held for a moment only.
    pub fn stream(&self) -> MutexGuard<'_, Stream> {
        self.stream.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Exports by OTLP by signal and outcome, to change or to copy; held for a moment only.
    pub fn exports(&self) -> MutexGuard<'_, BTreeMap<(Signal, Exported), u64>> {
        self.daemon.exports.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps the figures of this moment, for rates and plots.
    pub fn take_sample(&self, now: Instant) {
        let sample = self.sample(now);
        self.history().add(sample);
    }

    /// The figures of all streams together at `now`, for comparing with others.
    #[must_use]
    pub fn sample(&self, now: Instant) -> Sample {
        let columns = self.columns_of_all();
        let mut lost = columns.dead_lettered;
        columns.dropped.iter().for_each(|count| lost += *count);
        let spool = self.spool_of_all().as_ref().map(SpoolFigures::fill);
        let sender = self.sender_of_all();
        let oldest = sender.state.oldest;
        Sample {
            at: now,
            received: columns.received,
            delivered: columns.delivered,
            lost,
            retried: sender.retried.values().sum(),
            requests: sender.puts.values().sum(),
            billed_bytes: sender.billed_bytes,
            held: columns.held,
            oldest_age: oldest.map_or(Duration::ZERO, |oldest| now.saturating_duration_since(oldest)),
            in_flight: self.in_flight_of_all(),
            connections: self.connections(),
            wanted_bytes: self.buffer_of_all().map_or(0, |buffer| buffer.wanted),
            spool,
            process: Process::look(),
        }
    }

    /// The samples of the last minutes; held for a moment only.
    pub fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What flows at `now`.
    #[must_use]
    pub fn rates(&self, now: Instant) -> Rates {
        let sample = self.sample(now);
        self.history().rates(&sample)
    }

    /// What the daemon does, in one line.
    #[must_use]
    pub fn summary(&self, now: Instant) -> String {
        let rates = self.rates(now);
        let held = self.columns_of_all().held.records;
        let flow = format!(
            "{:.0} records/s in, {:.0} records/s out, {held} held",
            rates.received_records, rates.delivered_records
        );
        match &self.sender_of_all().state.trouble {
            Some(trouble) => {
                let seconds = now.saturating_duration_since(trouble.since).as_secs();
                format!("{flow}; {} for {seconds} s", trouble.code)
            }
            None => flow,
        }
    }

    /// The text of all figures.
    #[must_use]
    pub fn exposition(&self, now: Instant, format: Format) -> String {
        exposition::exposition(self, now, format)
    }
}

/// The memory for records, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Buffer {
    /// All of it.
    pub total: usize,
    /// Reserved at this moment.
    pub reserved: usize,
    /// What listeners wait for, and their producers with them.
    pub wanted: usize,
}

impl SenderFigures {
    /// Counts a request that ended.
    pub fn put(
        &mut self,
        operation: Operation,
        outcome: Outcome,
        took: Duration,
        records: usize,
        bytes: usize,
    ) {
        *self.puts.entry((operation.name(), outcome)).or_default() += 1;
        self.put_duration.observe(took.as_secs_f64(), 1);
        #[expect(clippy::cast_precision_loss, reason = "a request holds at most a few MiB")]
        let (records, bytes) = (records as f64, bytes as f64);
        self.batch_records.observe(records, 1);
        self.batch_bytes.observe(bytes, 1);
    }

    /// Counts records that are sent again.
    pub fn retry(&mut self, code: &str, records: u64) {
        let code = label(code);
        if let Some(retried) = self.retried.get_mut(code.as_ref()) {
            *retried += records;
            return;
        }
        let code = if self.retried.len() < MAX_ERROR_CODES { code.as_ref() } else { "other" };
        *self.retried.entry(code.to_owned()).or_default() += records;
    }
}

/// `code` as a label's value. The client library writes label values as they are, and the code is
/// the service's, so what could break out of the quotes is replaced and the length is bounded.
pub(super) fn label(code: &str) -> Cow<'_, str> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | ':' | '#');
    if code.len() <= 64 && code.chars().all(plain) {
        return code.into();
    }
    code.chars().take(64).map(|c| if plain(c) { c } else { '_' }).collect::<String>().into()
}

/// See [`Figures::connection`].
#[derive(Debug)]
pub struct ConnectionGuard(Arc<Figures>);

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        self.0.daemon.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buffer::DropReason;

    // R-L2
    #[test]
    fn the_exposition_holds_the_ledger_and_the_labelled_families() {
        let ledger = Arc::new(Ledger::default());
        let now = super::super::now();
        let figures = Arc::new(Figures::new(Arc::clone(&ledger), now));
        ledger.received(Count { records: 5, bytes: 50 });
        ledger.delivered(Count { records: 2, bytes: 20 });
        ledger.dropped(DropReason::BufferFull, Count { records: 1, bytes: 10 });
        figures.sender().put(
            Operation::PutRecordBatch,
            Class::Throttled.into(),
            Duration::from_millis(20),
            5,
            50,
        );
        figures.sender().retry("Throttling\"\n", 5);
        let text = figures.exposition(now, Format::OpenMetrics);
        for line in [
            "hydrant_records_received_total 5",
            "hydrant_bytes_received_total 50",
            "hydrant_records_dropped_total{reason=\"buffer_full\"} 1",
            "hydrant_records_held 2",
            "hydrant_put_requests_total{operation=\"PutRecordBatch\",outcome=\"throttled\"} 1",
            "hydrant_retried_records_total{error_code=\"Throttling__\"} 5",
            "hydrant_put_duration_seconds_bucket{le=\"0.025\"} 1",
            "hydrant_batch_bytes_bucket{le=\"+Inf\"} 1",
            "# EOF",
        ] {
            assert!(text.lines().any(|have| have == line), "no {line} in\n{text}");
        }
    }

    // R-M13
    #[test]
    fn made_up_error_codes_do_not_grow_the_exposition() {
        let mut figures = Figures::new(Arc::default(), super::super::now());
        let sender = figures.sender.get_mut().unwrap();
        for code in 0..1000 {
            sender.retry(&format!("code{code}"), 1);
        }
        assert_eq!(sender.retried.len(), MAX_ERROR_CODES + 1);
        assert_eq!(sender.retried.values().sum::<u64>(), 1000);
    }
}
