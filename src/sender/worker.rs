//! The flush task: one task owns everything that a delivery stream holds.
//!
//! Each turn it sends what may be sent, says how things stand, waits for whatever comes first and
//! applies it. No locks, no shared state but the figures that it reports; what decides is pure
//! (batcher, gate, verdicts), what is here is their order and the log.
//!
//! Its price: everything of one stream runs on one thread. One core carries several hundred
//! megabytes a second through the SDK, far above the quota of any stream.

use std::borrow::Cow;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::{Mutex, watch};
use tokio_util::sync::CancellationToken;

use super::backoff::Backoff;
use super::compression::{self, CompressionError, Compressor};
use super::dead_letter::{Letter, Store, StoreError};
use super::fill::Fill;
use super::gate::{Gate, Step};
use super::pacer::{Pacer, Totals};
use super::packing::{self, Decision};
use super::quota::{self, Quota};
use super::verdicts::{self, Verdicts};
use super::voice::Voice;
use crate::batcher::{Batch, Batcher, Limits, Portion, Size, Tries};
use crate::buffer::{Count, DropReason, Fate, Outlet};
use crate::config::{AggregateConfig, AggregateMode, Compression, Config, OnFull, RetryConfig};
use crate::firehose::{Answer, Class, Firehose, Operation, Put, PutError};
use crate::record::{Chunk, Span};
use crate::telemetry::figures::{Figures, Outcome, PackingState, Trouble};
use crate::telemetry::otlp::{Request, Trace, Traces};
use crate::telemetry::stream::Reading;
use crate::telemetry::{now, wall_clock};

/// The flush task has a turn at least this often, so that its last turn shows whether it lives.
const TURN: Duration = Duration::from_secs(1);
/// How often the age of the oldest record is worked out while records are held.
const AGE_EVERY: Duration = Duration::from_millis(200);
/// What the poller has not renewed for this long says nothing of the present.
const TOTALS_LAST: Duration = Duration::from_secs(900);
/// Most chunks taken in one turn, so that a flood of them can't hold up answers.
const CHUNKS_A_TURN: usize = 256;

/// Batches whose fate the spool may have yet to write down before no further one is sent. Together
/// with `send.max_in_flight` this bounds what a killed daemon sends twice. Enough for a disk that does
/// not answer for some seconds: 64 batches of 500 records of 200 B are six seconds of 1 MiB each.
pub const MAX_UNWRITTEN: usize = 64;
/// How long the spool's thread is waited for when the daemon has to stop at once.
const SPOOL_LAST_WORDS: Duration = Duration::from_secs(2);

/// The service's code for an action that the caller's policies do not allow.
const ACCESS_DENIED: &str = "AccessDeniedException";
/// Our code for records that are to be compressed and may or can not be.
const COMPRESSION: &str = "compression";
/// The action that says what the stream is.
const DESCRIBE: &str = "DescribeDeliveryStream";

/// What the flush task works with.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The delivery stream.
    pub stream: Arc<str>,
    /// When a batch leaves.
    pub limits: Limits,
    /// Most requests at once.
    pub max_in_flight: usize,
    /// Most bytes of request bodies at once.
    pub bodies: usize,
    /// Bytes that a request's body takes at most, from the length of the stream's name, the
    /// number of records and their bytes.
    pub body_bytes: fn(usize, usize, usize) -> usize,
    /// Waits between attempts.
    pub backoff: Backoff,
    /// Retries of a record's own failures.
    pub max_retries: u32,
    /// How long a stream-wide failure is waited out.
    pub give_up_after: Option<Duration>,
    /// Whether and how records are packed.
    pub aggregate: AggregateConfig,
    /// Follows each record.
    pub delimiter: Bytes,
}

/// How the app steers the flush tasks.
#[derive(Debug, Clone, Default)]
pub struct Control {
    flush: watch::Sender<()>,
    /// Stop at once and account for what is left.
    pub abort: CancellationToken,
    tuning: watch::Sender<Option<Tuning>>,
}

impl Control {
    /// Sends what is held without waiting for `linger`.
    pub fn flush(&self) {
        self.flush.send_replace(());
    }

    /// Goes by `tuning` from now on.
    pub fn retune(&self, tuning: Tuning) {
        self.tuning.send_replace(Some(tuning));
    }
}

/// What of the settings may be changed while the worker runs.
#[derive(Debug, Clone, Copy)]
pub struct Tuning {
    /// Longest wait of a record for its batch to fill.
    pub linger: Duration,
    /// Waits between attempts.
    pub backoff: Backoff,
    /// Retries of a record's own failures.
    pub max_retries: u32,
    /// How long a stream-wide failure is waited out.
    pub give_up_after: Option<Duration>,
}

impl Tuning {
    /// As `config` says.
    #[must_use]
    pub fn of(config: &Config) -> Self {
        let RetryConfig { max_retries, base_delay, max_delay, jitter, give_up_after } = config.retry;
        let backoff = Backoff { base: base_delay, max: max_delay, jitter };
        Self { linger: config.linger, backoff, max_retries, give_up_after }
    }
}

/// What became of a flight, by its id.
type Answered = (u64, Result<Answer, PutError>);
/// What is to be sent by a flight, by its id.
type Compressed = (u64, Result<Put, CompressionError>);
/// What became of letters that were to be written.
type Buried = (Vec<Letter>, Result<(), StoreError>);
type Done<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// See the module.
pub struct Worker<F> {
    firehose: Arc<F>,
    settings: Settings,
    outlet: Outlet,
    control: Control,
    tuning: watch::Receiver<Option<Tuning>>,
    flush: watch::Receiver<()>,
    store: Option<Arc<Store>>,
    figures: Arc<Figures>,
    batcher: Batcher,
    gate: Gate,
    quota: Quota,
    pacer: Pacer,
    /// What is ready waits for the stream's quota.
    wait: Option<Wait>,
    /// What is ready waits for an answer, which makes room.
    is_crowded: bool,
    random: fastrand::Rng,
    /// The listeners may still bring chunks.
    open: bool,
    /// The stream has taken a record since the daemon started, so a refusal is the record's.
    has_delivered: bool,
    /// A listener had no room and may still wait for it.
    pressed: bool,
    /// `PutRecord` is not permitted, so single records go by `PutRecordBatch`, which is enough.
    put_record_denied: bool,
    flights: Vec<Flight>,
    next_flight: u64,
    bodies: usize,
    /// What compresses, where that is asked for: one batch at a time, on another thread.
    compressor: Option<Arc<Mutex<Option<Compressor>>>>,
    compressions: FuturesUnordered<Done<Compressed>>,
    answers: FuturesUnordered<Done<Answered>>,
    burials: FuturesUnordered<Done<Buried>>,
    age_known_at: Option<Instant>,
    packing: Option<Decision>,
    fill: Fill,
    /// Why nothing may be sent: it can't be compressed for this stream.
    hold: Option<Trouble>,
    voice: Voice,
    traces: Option<Traces>,
    /// Of the answer that is being applied, if it is one that is traced.
    trace: Option<Trace>,
}

/// What is ready may not leave yet.
#[derive(Debug, Clone, Copy)]
struct Wait {
    /// When this was last looked at.
    since: Instant,
    until: Instant,
}

/// A request under way.
struct Flight {
    id: u64,
    batch: Batch,
    operation: Operation,
    /// When it was sent on its way, which is what the gate goes by.
    sent: Instant,
    /// When its request was made, which compression comes before.
    requested: Instant,
    body: usize,
    /// Bytes that the quota was told it sends.
    taken: usize,
    /// Where compressed: bytes of what is sent of each record of Firehose's.
    members: Option<Vec<usize>>,
}

impl<F: Firehose> Worker<F> {
    /// A flush task for the chunks of `outlet`.
    #[must_use]
    pub fn new(
        firehose: Arc<F>,
        settings: Settings,
        outlet: Outlet,
        control: Control,
        store: Option<Arc<Store>>,
        figures: Arc<Figures>,
    ) -> Self {
        Self {
            batcher: Batcher::new(settings.limits),
            gate: Gate::new(settings.backoff),
            quota: Quota::default(),
            pacer: Pacer::default(),
            wait: None,
            is_crowded: false,
            compressor: settings.aggregate.compression.map(|_| Arc::default()),
            compressions: FuturesUnordered::new(),
            firehose,
            settings,
            tuning: control.tuning.subscribe(),
            flush: control.flush.subscribe(),
            outlet,
            control,
            store,
            figures,
            random: fastrand::Rng::new(),
            open: true,
            has_delivered: false,
            pressed: false,
            put_record_denied: false,
            flights: Vec::new(),
            next_flight: 0,
            bodies: 0,
            answers: FuturesUnordered::new(),
            burials: FuturesUnordered::new(),
            age_known_at: None,
            packing: None,
            fill: Fill::default(),
            hold: None,
            voice: Voice::new(),
            traces: None,
            trace: None,
        }
    }

    /// The same flush task, that tells of its requests.
    #[must_use]
    pub fn traced(self, traces: Option<Traces>) -> Self {
        Self { traces, ..self }
    }

    /// Packs from now on as is right for the stream, as far as it is known.
    fn decide_packing(&mut self, at: Instant) {
        let stream = self.figures.stream();
        let asked = stream.calls.keys().any(|(action, _)| *action == DESCRIBE);
        let AggregateConfig { mode, compression, .. } = self.settings.aggregate;
        let waits = mode == AggregateMode::Auto || compression.is_some();
        if waits && stream.description.is_none() && !asked {
            return;
        }
        let Settings { aggregate, delimiter, .. } = &self.settings;
        let decision = packing::decide(aggregate, delimiter, stream.description.as_ref());
        drop(stream);
        if self.packing.as_ref() == Some(&decision) {
            return;
        }
        self.batcher.set_packing(decision.packing);
        self.pacer.set_packed(decision.packing.is_some());
        let reason = &decision.reason;
        match (&decision.remedy, decision.packing) {
            (Some(remedy), _) => {
                tracing::error!(reason, remedy, "Records are held, for they may not be compressed.")
            }
            (None, Some(_)) => tracing::info!(reason, "Records are packed."),
            (None, None) => tracing::info!(reason, "Records are not packed."),
        }
        self.hold = decision.remedy.as_ref().map(|remedy| Trouble {
            permanent: true,
            code: Cow::Borrowed(COMPRESSION),
            message: format!("{reason}; {remedy}"),
            since: self.hold.as_ref().map_or(at, |hold| hold.since),
        });
        self.figures.sender().state.packing =
            Some(PackingState { packed: decision.packing.is_some(), reason: reason.clone() });
        self.packing = Some(decision);
        self.size_requests();
    }

    /// Lets requests carry as much as [`fill`](super::fill) says, where it has a say.
    fn size_requests(&mut self) {
        if self.compressor.is_some() {
            return;
        }
        let packed = self.packing.as_ref().is_some_and(|decision| decision.packing.is_some());
        let (bytes, together) = self.fill.full(packed, self.settings.max_in_flight);
        self.batcher.set_full(bytes, together);
    }

    /// Keeps to the stream's limits, as far as the poller knows them, and notes what all send to it.
    fn follow_limits(&mut self, at: Instant) {
        let stream = self.figures.stream();
        let limit = |reading| stream.reading(reading).map(|datapoint| datapoint.value);
        let limits = quota::Limits {
            bytes: limit(Reading::BytesPerSecondLimit),
            records: limit(Reading::RecordsPerSecondLimit),
            requests: limit(Reading::PutRequestsPerSecondLimit),
        };
        let totals = stream.polled_at.filter(|polled| at < *polled + TOTALS_LAST).map(|_| Totals {
            used: stream.quota_use().into_iter().flatten().reduce(f64::max),
            carried: stream.mean_request(),
            throttled: stream.throttled_share(),
        });
        drop(stream);
        self.quota.handle_limits(limits, at);
        self.pacer.handle_totals(totals, self.quota.ratio());
    }

    /// Runs until every listener is gone and every record is settled, or until it is told to
    /// abort. Returns what was left then: nothing, unless it was aborted.
    pub async fn run(mut self) -> Count {
        loop {
            let at = now();
            if self.pressed {
                self.relieve();
            }
            if self.is_stale(at) {
                self.follow_limits(at);
            }
            self.launch(at);
            self.report(at);
            if !self.open
                && self.flights.is_empty()
                && self.burials.is_empty()
                && self.batcher.held().records == 0
            {
                self.voice.rest();
                return Count::default();
            }
            let timeout = self.poll_timeout(at);
            tokio::select! {
                () = self.control.abort.cancelled() => return self.abandon().await,
                Some((id, result)) = self.answers.next() => self.apply_answer(id, result),
                Some((id, result)) = self.compressions.next() => self.apply_compression(id, result),
                Some((letters, result)) = self.burials.next() => self.apply_burial(&letters, result),
                chunk = self.outlet.chunks.recv(), if self.open => self.apply_chunk(chunk.ok()),
                () = self.outlet.pressure.told() => self.pressed = true,
                () = self.outlet.account.written(), if self.outlet.account.unwritten() >= MAX_UNWRITTEN => {}
                Ok(()) = self.flush.changed() => self.apply_flush(),
                Ok(()) = self.tuning.changed() => self.apply_tuning(),
                () = tokio::time::sleep_until(timeout.into()) => {}
            }
        }
    }

    fn poll_timeout(&self, at: Instant) -> Instant {
        // While the stream may not be sent to, or there is no room, a batch that is ready changes nothing.
        let batch = match self.wait {
            Some(wait) => Some(wait.until),
            None => self.batcher.poll_timeout().filter(|_| !self.is_crowded && self.may_send(at)),
        };
        let batch = batch.map(|due| due.max(at));
        [batch, self.gate.poll_timeout(at)].into_iter().flatten().fold(at + TURN, Instant::min)
    }

    fn may_send(&self, at: Instant) -> bool {
        // What is to be compressed waits until it is known whether that is right; else plain records
        // would spoil the file that the others make.
        let decided = self.compressor.is_none() || (self.packing.is_some() && self.hold.is_none());
        decided && self.room(at) > 0 && self.outlet.account.unwritten() < MAX_UNWRITTEN
    }

    /// Requests that may be sent beside those that are under way.
    fn room(&self, at: Instant) -> usize {
        self.gate.poll_room(self.flights.len(), self.settings.max_in_flight, at)
    }

    /// Sends as many batches as are ready and allowed, each no larger than the stream's quota has room for.
    fn launch(&mut self, at: Instant) {
        let mut until = None;
        self.is_crowded = false;
        while self.may_send(at) {
            let room = self.quota.poll_room(at).min(self.pacer.poll_room(at));
            let Some(size) = self.batcher.poll_ready_within(at, room) else { break };
            until = self.quota.poll_timeout(size, at).max(self.pacer.poll_timeout(at));
            if until.is_some() {
                break;
            }
            // What leaves together waits for room for all of it, as long as answers may make some.
            let together = self.batcher.together();
            let bodies = self.bodies + together * self.body_bytes(size);
            let has_room = self.room(at) >= together && bodies <= self.settings.bodies;
            self.is_crowded = !has_room && !self.flights.is_empty();
            if self.is_crowded {
                break;
            }
            let Some(batch) = self.batcher.poll_batch_within(at, room) else { break };
            self.send(batch, at);
        }
        self.figures.set_in_flight(self.flights.len());
        if let Some(Wait { since, .. }) = self.wait {
            self.figures.sender().quota_wait += at.saturating_duration_since(since);
        }
        self.wait = until.map(|until| Wait { since: at, until });
    }

    /// The most memory that a request of `size` takes until it is answered.
    fn body_bytes(&self, size: Size) -> usize {
        let body = |bytes| (self.settings.body_bytes)(self.settings.stream.len(), size.records, bytes);
        if self.compressor.is_none() {
            return body(size.bytes);
        }
        let members = compression::most_bytes_of(size.records, size.bytes);
        members + body(members)
    }

    fn send(&mut self, batch: Batch, sent: Instant) {
        // A record whose entry failed goes as a batch of one: there, what fails is the entry.
        let fresh = batch.portions.iter().all(|portion| portion.tries.failures == 0);
        let single = batch.size.records == 1 && fresh && !self.put_record_denied;
        let operation = if single { Operation::PutRecord } else { Operation::PutRecordBatch };
        let spans = batch.portions.iter().map(|portion| portion.span.clone()).collect();
        let packed = batch.packed.as_ref().map(|(_, ends)| Arc::clone(ends)).filter(|_| !single);
        let put = Put { stream: Arc::clone(&self.settings.stream), operation, spans, packed, members: None };
        let body = self.body_bytes(Size { records: batch.entries(), ..batch.size });
        let id = self.next_flight;
        self.next_flight += 1;
        self.bodies += body;
        let taken = self.quota.handle_sent(Size { records: batch.entries(), ..batch.size }, sent);
        self.pacer.handle_sent(batch.size, sent, &mut self.random);
        self.fill.handle_sent(batch.size.bytes, sent);
        self.size_requests();
        self.flights.push(Flight { id, batch, operation, sent, requested: sent, body, taken, members: None });
        match (&self.compressor, self.settings.aggregate.compression) {
            (Some(compressor), Some(compression)) => {
                let compressed = compress(Arc::clone(compressor), compression, put);
                self.compressions.push(Box::pin(async move { (id, compressed.await) }));
            }
            _ => self.put(id, put),
        }
    }

    fn put(&mut self, id: u64, put: Put) {
        let firehose = Arc::clone(&self.firehose);
        self.answers.push(Box::pin(async move { (id, firehose.put(put).await) }));
    }

    /// What is to be sent is ready, and takes less memory than it might have.
    fn apply_compression(&mut self, id: u64, result: Result<Put, CompressionError>) {
        let put = match result {
            Ok(put) => put,
            Err(error) => {
                let error = PutError {
                    class: Class::Transient,
                    code: Cow::Borrowed(COMPRESSION),
                    message: error.to_string(),
                    ambiguous: false,
                };
                return self.apply_answer(id, Err(error));
            }
        };
        let members: Vec<usize> = put.entries().map(|entry| entry.bytes()).collect();
        let bytes = members.iter().sum();
        let body = (self.settings.body_bytes)(self.settings.stream.len(), members.len(), bytes) + bytes;
        let Some(flight) = self.flights.iter_mut().find(|flight| flight.id == id) else { return };
        self.bodies = self.bodies - flight.body + body;
        self.quota.handle_size(flight.batch.size.bytes, flight.taken, bytes, now());
        (flight.body, flight.requested, flight.members) = (body, now(), Some(members));
        self.put(id, put);
    }

    fn apply_tuning(&mut self) {
        let Some(tuning) = *self.tuning.borrow_and_update() else { return };
        let Tuning { linger, backoff, max_retries, give_up_after } = tuning;
        self.batcher.set_linger(linger);
        self.gate.set_backoff(backoff);
        (self.settings.limits.linger, self.settings.backoff) = (linger, backoff);
        (self.settings.max_retries, self.settings.give_up_after) = (max_retries, give_up_after);
    }

    fn apply_chunk(&mut self, chunk: Option<Chunk>) {
        let Some(chunk) = chunk else {
            self.open = false;
            return self.apply_flush();
        };
        self.batcher.handle_chunk(chunk);
        for _ in 1..CHUNKS_A_TURN {
            let Ok(chunk) = self.outlet.chunks.try_recv() else { break };
            self.batcher.handle_chunk(chunk);
        }
        if self.figures.is_draining() {
            self.batcher.handle_flush();
        }
    }

    fn apply_flush(&mut self) {
        while let Ok(chunk) = self.outlet.chunks.try_recv() {
            self.batcher.handle_chunk(chunk);
        }
        self.batcher.handle_flush();
        self.gate.handle_flush(now());
    }

    /// A listener has no room. Where requests are under way, their answers may make some; where
    /// none are, an open batch that can't fill for want of room leaves as it is.
    fn relieve(&mut self) {
        while let Ok(chunk) = self.outlet.chunks.try_recv() {
            self.batcher.handle_chunk(chunk);
        }
        if self.outlet.on_full == OnFull::DropOldest {
            let wanted = self.outlet.pressure.wanted();
            let given = self.batcher.handle_pressure(wanted);
            let dropped = self.drop_records(DropReason::BufferFull, given.iter());
            // What is under way can't be dropped, but may come back.
            self.pressed = dropped.bytes < wanted as u64;
        } else if self.flights.is_empty() {
            self.pressed = false;
            self.batcher.handle_flush();
        }
    }

    fn apply_answer(&mut self, id: u64, result: Result<Answer, PutError>) {
        let at = now();
        let Some(index) = self.flights.iter().position(|flight| flight.id == id) else { return };
        let Flight { batch, operation, sent, requested, body, members, .. } = self.flights.swap_remove(index);
        self.bodies -= body;
        let outcome = match &result {
            Ok(answer) if answer.failed.is_empty() => Outcome::Ok,
            Ok(_) => Outcome::Partial,
            Err(error) => error.class.into(),
        };
        let took = at.saturating_duration_since(requested);
        self.figures.sender().put(operation, outcome, took, batch.size.records, batch.size.bytes);
        self.trace = self
            .traces
            .as_ref()
            .and_then(|traces| traces.begin(told(&batch, result.as_ref().ok(), operation, requested, at)));
        let failure = self.trace.as_ref().and_then(|_| code_of(&result));
        match result {
            Ok(answer) => {
                self.fill.handle_answer(took);
                self.size_requests();
                self.apply_verdicts(batch, &answer, members.as_deref(), sent, at);
            }
            Err(error) if operation == Operation::PutRecord && error.code == ACCESS_DENIED => {
                if !std::mem::replace(&mut self.put_record_denied, true) {
                    tracing::info!("PutRecord is not permitted: single records go by PutRecordBatch.");
                }
                self.batcher.handle_return(batch);
            }
            Err(error) => {
                if error.class == Class::Throttled {
                    self.pacer.handle_throttled(batch.size.bytes, sent, at);
                }
                self.apply_failure(batch, error, sent, at);
            }
        }
        if let Some(trace) = self.trace.take() {
            trace.end(outcome, failure.as_deref());
        }
    }

    fn apply_verdicts(
        &mut self,
        batch: Batch,
        answer: &Answer,
        members: Option<&[usize]>,
        sent: Instant,
        at: Instant,
    ) {
        let whole = batch.size;
        let verdicts = verdicts::read(batch.clone(), answer, self.settings.max_retries, members);
        let size = verdicts.delivered_size();
        self.pacer.handle_answer(size.bytes, verdicts.throttled_bytes, sent, at);
        if verdicts.all_throttled {
            let code = answer.failed.first().map_or(Cow::Borrowed("throttled"), |entry| entry.code.clone());
            let message = "every record of a batch was throttled".to_owned();
            return self.apply_failure(
                batch,
                PutError { class: Class::Throttled, code, message, ambiguous: false },
                sent,
                at,
            );
        }
        if let Some(trouble) = self.gate.handle_success() {
            Voice::trouble_over(&trouble, at);
        }
        self.has_delivered |= size.records > 0;
        self.settle_delivered(&verdicts, at);
        self.voice.delivered(whole, answer, at);
        let again = batch.portions.iter().any(|portion| portion.tries.attempts > 0);
        if again {
            self.voice.succeeded(size.records, at);
        }
        for retry in verdicts.retries {
            let delay = self.settings.backoff.delay(retry.failures, &mut self.random);
            let records: usize = retry.portions.iter().map(|portion| portion.span.records()).sum();
            self.count_retry(&retry.code, records);
            self.voice.retry(delay, retry.failures, &retry.code, records, at);
            self.batcher.handle_retry(retry.portions, at + delay);
        }
        let spent: Vec<Letter> =
            verdicts.spent.into_iter().map(|spent| letter(spent.portion, spent.code)).collect();
        if !spent.is_empty() {
            self.voice.spent(&spent, at);
            self.bury(spent);
        }
    }

    fn settle_delivered(&self, verdicts: &Verdicts, at: Instant) {
        if verdicts.delivered.is_empty() {
            return;
        }
        self.outlet.account.settle(Fate::Delivered, verdicts.delivered.iter());
        let mut sender = self.figures.sender();
        sender.billed_bytes += verdicts.billed_bytes;
        sender.unpacked_billed_bytes += verdicts.unpacked_billed_bytes;
        sender.compressed_from += verdicts.compressed_from;
        sender.compressed_to += verdicts.compressed_to;
        for span in &verdicts.delivered {
            let latency = at.saturating_duration_since(span.received());
            sender.delivery_latency.observe(latency.as_secs_f64(), count(span.records()));
        }
    }

    /// Settles records that are gone, and says so.
    fn drop_records<'a>(&mut self, reason: DropReason, spans: impl Iterator<Item = &'a Span>) -> Count {
        let dropped = self.outlet.account.settle(Fate::Dropped(reason), spans);
        if dropped.records > 0 {
            self.voice.dropped(dropped, reason, now());
        }
        dropped
    }

    fn apply_failure(&mut self, mut batch: Batch, error: PutError, sent: Instant, at: Instant) {
        for portion in &mut batch.portions {
            portion.tries.attempts += 1;
        }
        if error.class == Class::Refused {
            return self.apply_refusal(batch, error, sent, at);
        }
        let gives_up = |trouble: &super::gate::Trouble| {
            self.settings.give_up_after.is_some_and(|limit| at >= trouble.since + limit)
        };
        if self.gate.trouble().is_some_and(gives_up) {
            let (code, message) = (error.code.clone(), error.message.clone());
            self.gate.handle_failure(error.class, code, message, sent, at, &mut self.random);
            self.gate.handle_flush(at);
            let letters = letters(batch, &error);
            self.voice.spent(&letters, at);
            return self.bury(letters);
        }
        self.count_retry(&error.code, batch.size.records);
        if error.ambiguous {
            self.figures.sender().ambiguous_records += count(batch.size.records);
        }
        self.close_gate(&error, sent, at);
        self.batcher.handle_return(batch);
    }

    /// The request was refused for what is in it. Its halves go on until the guilty record stands
    /// alone. That one is undeliverable if the stream takes others; while nothing was ever taken,
    /// the fault may be the stream's or the configuration's, and no record is condemned for it.
    fn apply_refusal(&mut self, batch: Batch, error: PutError, sent: Instant, at: Instant) {
        match batch.split() {
            Ok((front, back)) => {
                self.count_retry(&error.code, front.size.records + back.size.records);
                self.batcher.handle_fixed(back);
                self.batcher.handle_fixed(front);
            }
            Err(batch) if self.has_delivered => {
                let letters = letters(batch, &error);
                self.voice.spent(&letters, at);
                self.bury(letters);
            }
            Err(batch) => {
                self.count_retry(&error.code, batch.size.records);
                let due = self.close_gate(&error, sent, at).unwrap_or_default();
                self.batcher.handle_retry(batch.portions, at + due);
            }
        }
    }

    fn close_gate(&mut self, error: &PutError, sent: Instant, at: Instant) -> Option<Duration> {
        let step = self.gate.handle_failure(
            error.class,
            error.code.clone(),
            error.message.clone(),
            sent,
            at,
            &mut self.random,
        );
        let Step::Closed(delay) = step else { return None };
        let attempt = self.gate.trouble().map_or(1, |trouble| trouble.failures);
        self.voice.failed(error, delay, attempt, at);
        Some(delay)
    }

    fn count_retry(&mut self, code: &str, records: usize) {
        self.figures.sender().retry(code, count(records));
        if let Some(trace) = &mut self.trace {
            trace.retried(code, records);
        }
    }

    /// Sets records aside for good.
    fn bury(&mut self, letters: Vec<Letter>) {
        if let Some(trace) = &mut self.trace {
            letters.iter().for_each(|letter| trace.set_aside(&letter.error_code, letter.span.records()));
        }
        let Some(store) = self.store.clone() else {
            self.drop_records(DropReason::NoDeadLetterStore, spans(&letters));
            return;
        };
        let stream = Arc::clone(&self.settings.stream);
        self.burials.push(Box::pin(async move { write_letters(store, stream, letters).await }));
    }

    fn apply_burial(&mut self, letters: &[Letter], result: Result<(), StoreError>) {
        match result {
            Ok(()) => drop(self.outlet.account.settle(Fate::DeadLettered, spans(letters))),
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "A dead letter was not kept.");
                self.drop_records(DropReason::DeadLetterStoreFailed, spans(letters));
            }
        }
    }

    /// The end came before everything was settled. What the spool has is sent by the next start.
    /// What else is left goes to the dead-letter store if there is one, else it is dropped; either
    /// way it is counted and said. Returns how much that was.
    async fn abandon(mut self) -> Count {
        self.answers.clear();
        self.compressions.clear();
        while let Some((letters, result)) = self.burials.next().await {
            self.apply_burial(&letters, result);
        }
        if self.outlet.account.has_spool() {
            // The spool's thread was told to stop, too, and sends on what it could not write.
            let rest = async {
                while let Ok(chunk) = self.outlet.chunks.recv().await {
                    self.batcher.handle_chunk(chunk);
                }
            };
            tokio::time::timeout(SPOOL_LAST_WORDS, rest).await.ok();
        }
        self.outlet.chunks.close();
        while let Ok(chunk) = self.outlet.chunks.try_recv() {
            self.batcher.handle_chunk(chunk);
        }
        let mut portions: Vec<Portion> =
            self.flights.drain(..).flat_map(|flight| flight.batch.portions).collect();
        portions.extend(self.batcher.drain());
        portions.retain(|portion| portion.span.sequences().is_none());
        let letters: Vec<Letter> =
            portions.into_iter().map(|portion| letter(portion, "Shutdown".into())).collect();
        let left = spans(&letters).fold(Count::default(), |mut left, span| {
            left += Count::of(span.records(), span.bytes());
            left
        });
        match self.store.take().filter(|_| left.records > 0) {
            Some(store) => {
                let (letters, result) =
                    write_letters(store, Arc::clone(&self.settings.stream), letters).await;
                self.apply_burial(&letters, result);
            }
            None => drop(self.outlet.account.settle(Fate::Dropped(DropReason::Shutdown), spans(&letters))),
        }
        self.report(now());
        left
    }

    /// What need not be known every turn is to be looked at.
    fn is_stale(&self, at: Instant) -> bool {
        self.age_known_at.is_none_or(|known| at >= known + AGE_EVERY)
    }

    /// Shows the outside how things stand.
    fn report(&mut self, at: Instant) {
        self.voice.rest_if_quiet(at);
        self.voice.paced(self.pacer.pace());
        let held = !self.flights.is_empty() || self.batcher.held().records > 0;
        let stale = self.is_stale(at);
        if stale {
            self.decide_packing(at);
        }
        let mut sender = self.figures.sender();
        sender.state.waits_for_quota = self.wait.is_some();
        sender.state.pace = self.pacer.pace();
        sender.state.turn = Some(at);
        if !held {
            (sender.state.oldest, self.age_known_at) = (None, None);
        } else if stale || sender.state.oldest.is_none() {
            let flights = self.flights.iter().flat_map(|flight| &flight.batch.portions);
            let oldest = flights.map(|portion| portion.span.received()).chain(self.batcher.oldest()).min();
            (sender.state.oldest, self.age_known_at) = (oldest, Some(at));
        }
        let known = sender.state.trouble.as_ref().map(|trouble| trouble.since);
        let trouble = self.gate.trouble();
        let since = self.hold.as_ref().map(|hold| hold.since).or(trouble.map(|trouble| trouble.since));
        if known != since || stale {
            let of_gate = || {
                trouble.map(|trouble| Trouble {
                    permanent: matches!(trouble.class, Class::Permanent | Class::Refused),
                    code: trouble.code.clone(),
                    message: trouble.message.clone(),
                    since: trouble.since,
                })
            };
            sender.state.trouble = self.hold.clone().or_else(of_gate);
        }
    }
}

/// What `put` says, each record of Firehose's compressed. Batches wait for each other: one thread
/// compresses several hundred megabytes a second, far above the quota of any stream, and the memory of
/// one encoder is enough.
async fn compress(
    compressor: Arc<Mutex<Option<Compressor>>>,
    compression: Compression,
    put: Put,
) -> Result<Put, CompressionError> {
    let mut turn = compressor.lock_owned().await;
    let compressed = tokio::task::spawn_blocking(move || {
        let mut compressor = match turn.take() {
            Some(compressor) => compressor,
            None => Compressor::new(compression)?,
        };
        let members = compressor.members(&put)?;
        *turn = Some(compressor);
        Ok(Put { members: Some(members.into()), ..put })
    });
    match compressed.await {
        Ok(done) => done,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

async fn write_letters(
    store: Arc<Store>,
    stream: Arc<str>,
    letters: Vec<Letter>,
) -> (Vec<Letter>, Result<(), StoreError>) {
    let written = tokio::task::spawn_blocking(move || {
        let result = store.append(&stream, &letters, wall_clock());
        (letters, result)
    });
    match written.await {
        Ok(done) => done,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

/// What a trace tells of a request: when, by which call, what was in it and what became of that.
fn told(
    batch: &Batch,
    answer: Option<&Answer>,
    operation: Operation,
    sent: Instant,
    answered: Instant,
) -> Request {
    let portions = || batch.portions.iter();
    let failed_put_count = answer.map(|answer| answer.failed.len());
    Request {
        operation,
        oldest: portions().map(|portion| portion.span.received()).min().unwrap_or(sent),
        sent,
        answered,
        records: batch.size.records,
        bytes: batch.size.bytes,
        delivered: failed_put_count.map_or(0, |failed| batch.size.records.saturating_sub(failed)),
        failed_put_count,
        attempt: portions().map(|portion| portion.tries.attempts).max().unwrap_or_default() + 1,
    }
}

/// The code of a failure, of the first entry's where only entries failed.
fn code_of(result: &Result<Answer, PutError>) -> Option<Cow<'static, str>> {
    match result {
        Ok(answer) => answer.failed.first().map(|entry| entry.code.clone()),
        Err(error) => Some(error.code.clone()),
    }
}

fn letter(Portion { span, tries: Tries { attempts, .. } }: Portion, error_code: Cow<'static, str>) -> Letter {
    Letter { span, error_code, attempts }
}

fn letters(batch: Batch, error: &PutError) -> Vec<Letter> {
    batch.portions.into_iter().map(|portion| letter(portion, error.code.clone())).collect()
}

fn spans(letters: &[Letter]) -> impl Iterator<Item = &Span> {
    letters.iter().map(|letter| &letter.span)
}

fn count(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}
