//! The figures that the daemon exports, and their exposition.
//!
//! One lock guards the figures of the sender; it is taken once an answer. Record counts are not
//! kept here but in the [`Ledger`].

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use super::histogram::Histogram;
use crate::buffer::{Columns, Count, DropReason, Ledger, RejectReason};
use crate::firehose::{Class, Operation};

/// Distinct error codes that get a label of their own; the rest are counted as `other`, so that a
/// service that makes up codes can't grow the exposition without bound.
const MAX_ERROR_CODES: usize = 64;

/// Upper bounds, in seconds, of latencies from one answer of a local service to a long outage.
const SECONDS: &[f64] =
    &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0, 7200.0];
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
    const fn label(self) -> &'static str {
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

/// What the sender knows of its stream at one moment.
#[derive(Debug, Clone, Default)]
pub struct StreamState {
    /// The stream-wide failure that has not ended.
    pub trouble: Option<Trouble>,
    /// When the record that has been held longest was read.
    pub oldest: Option<Instant>,
    /// When the flush task last had a turn.
    pub turn: Option<Instant>,
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

/// All figures. Shared by the rooms that make them and the admin that shows them.
#[derive(Debug)]
pub struct Figures {
    ledger: Arc<Ledger>,
    sender: Mutex<SenderFigures>,
    in_flight: AtomicUsize,
    connections: AtomicUsize,
    draining: AtomicBool,
    accept_pauses: AtomicU64,
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
    /// Records that Firehose may have twice: they were sent again although an earlier attempt,
    /// whose answer was lost, may have stored them.
    pub ambiguous_records: u64,
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

impl Figures {
    /// Figures of a daemon that started at `started`.
    #[must_use]
    pub fn new(ledger: Arc<Ledger>, started: Instant) -> Self {
        let sender = SenderFigures {
            puts: BTreeMap::new(),
            retried: BTreeMap::new(),
            billed_bytes: 0,
            ambiguous_records: 0,
            put_duration: Histogram::new(SECONDS),
            delivery_latency: Histogram::new(SECONDS),
            batch_records: Histogram::new(RECORDS),
            batch_bytes: Histogram::new(BYTES),
            state: StreamState::default(),
        };
        Self {
            ledger,
            sender: Mutex::new(sender),
            in_flight: AtomicUsize::new(0),
            connections: AtomicUsize::new(0),
            draining: AtomicBool::new(false),
            accept_pauses: AtomicU64::new(0),
            started,
        }
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
        self.connections.fetch_add(1, Ordering::Relaxed);
        ConnectionGuard(Arc::clone(self))
    }

    /// Connections open now.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// Counts one time that accepting had to pause.
    pub fn accept_paused(&self) {
        self.accept_pauses.fetch_add(1, Ordering::Relaxed);
    }

    /// Says that the daemon accepts nothing more.
    pub fn set_draining(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Whether the daemon is on its way out.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// The account of records.
    #[must_use]
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Time since the daemon started.
    #[must_use]
    pub fn uptime(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.started)
    }

    /// The OpenMetrics text of all figures.
    #[must_use]
    pub fn exposition(self: &Arc<Self>, now: Instant) -> String {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Exposition { figures: Arc::clone(self), now }));
        let mut text = String::with_capacity(16 * 1024);
        if let Err(error) = prometheus_client::encoding::text::encode(&mut text, &registry) {
            tracing::error!(%error, "Metrics could not be written.");
        }
        text
    }
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
        let operation = match operation {
            Operation::PutRecord => "PutRecord",
            Operation::PutRecordBatch => "PutRecordBatch",
        };
        *self.puts.entry((operation, outcome)).or_default() += 1;
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
fn label(code: &str) -> Cow<'_, str> {
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
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

#[derive(Debug)]
struct Exposition {
    figures: Arc<Figures>,
    now: Instant,
}

impl EncodeMetric for Histogram {
    fn encode(&self, encoder: MetricEncoder<'_>) -> std::fmt::Result {
        Histogram::encode(self, encoder)
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }
}

impl Collector for Exposition {
    fn encode(&self, mut to: DescriptorEncoder<'_>) -> std::fmt::Result {
        let columns = self.figures.ledger.columns();
        let sender = self.figures.sender().clone();
        encode_ledger(&mut to, &columns)?;
        let age =
            sender.state.oldest.map_or(Duration::ZERO, |oldest| self.now.saturating_duration_since(oldest));
        let mut seconds = |name: &str, help: &str, value: f64| {
            to.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&value)
        };
        seconds("hydrant_oldest_record_age_seconds", "Age of the record held longest", age.as_secs_f64())?;
        seconds(
            "hydrant_uptime_seconds",
            "Time since the daemon started",
            self.figures.uptime(self.now).as_secs_f64(),
        )?;
        let mut gauge = |name: &str, help: &str, value: usize| {
            let value = i64::try_from(value).unwrap_or(i64::MAX);
            to.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&value)
        };
        gauge("hydrant_in_flight_requests", "Requests sent and not answered", self.figures.in_flight())?;
        gauge("hydrant_connections", "Connections of producers", self.figures.connections())?;
        gauge(
            "hydrant_stream_in_trouble",
            "1 while the stream fails as a whole",
            usize::from(sender.state.trouble.is_some()),
        )?;
        let mut counter = |name: &str, help: &str, value: u64| {
            to.encode_descriptor(name, help, None, MetricType::Counter)?
                .encode_counter::<NoLabelSet, _, u64>(&value, None)
        };
        counter(
            "hydrant_billed_bytes",
            "Bytes that Firehose bills, each record rounded up to 5 KiB",
            sender.billed_bytes,
        )?;
        counter(
            "hydrant_ambiguous_records",
            "Records sent again after an attempt whose answer was lost: each may be at Firehose twice",
            sender.ambiguous_records,
        )?;
        counter(
            "hydrant_accept_pauses",
            "Times that accepting connections had to pause",
            self.figures.accept_pauses.load(Ordering::Relaxed),
        )?;
        let mut puts = to.encode_descriptor(
            "hydrant_put_requests",
            "Requests by call and outcome",
            None,
            MetricType::Counter,
        )?;
        for ((operation, outcome), count) in &sender.puts {
            puts.encode_family(&[("operation", *operation), ("outcome", outcome.label())])?
                .encode_counter::<NoLabelSet, _, u64>(count, None)?;
        }
        let mut retried = to.encode_descriptor(
            "hydrant_retried_records",
            "Records sent again, by the code of the failure",
            None,
            MetricType::Counter,
        )?;
        for (code, count) in &sender.retried {
            retried
                .encode_family(&[("error_code", code.as_str())])?
                .encode_counter::<NoLabelSet, _, u64>(count, None)?;
        }
        for (name, help, histogram) in [
            ("hydrant_put_duration_seconds", "Duration of a request", &sender.put_duration),
            (
                "hydrant_delivery_latency_seconds",
                "Time from reading a record to Firehose having it",
                &sender.delivery_latency,
            ),
            ("hydrant_batch_records", "Records a request", &sender.batch_records),
            ("hydrant_batch_bytes", "Record bytes a request", &sender.batch_bytes),
        ] {
            Histogram::encode(histogram, to.encode_descriptor(name, help, None, MetricType::Histogram)?)?;
        }
        Ok(())
    }
}

fn encode_ledger(to: &mut DescriptorEncoder<'_>, columns: &Columns) -> std::fmt::Result {
    type Unit = (&'static str, fn(&Count) -> u64);
    let units: [Unit; 2] = [("records", |count| count.records), ("bytes", |count| count.bytes)];
    for (unit, value) in units {
        for (column, help, count) in [
            ("received", "taken from producers", &columns.received),
            ("recovered", "read back from the spool at start", &columns.recovered),
            ("delivered", "that Firehose has", &columns.delivered),
            ("dead_lettered", "in the dead-letter store", &columns.dead_lettered),
        ] {
            let (name, help) = (format!("hydrant_{unit}_{column}"), format!("{unit} {help}"));
            to.encode_descriptor(&name, &help, None, MetricType::Counter)?
                .encode_counter::<NoLabelSet, _, u64>(&value(count), None)?;
        }
        let dropped =
            DropReason::ALL.iter().map(|reason| reason.label()).zip(&columns.dropped).collect::<Vec<_>>();
        let rejected = RejectReason::ALL.iter().map(|reason| reason.label()).zip(&columns.rejected).collect();
        for (column, help, counts) in [
            ("dropped", "gone for good, by reason", dropped),
            ("rejected", "turned away, never received, by reason", rejected),
        ] {
            let (name, help) = (format!("hydrant_{unit}_{column}"), format!("{unit} {help}"));
            let mut family = to.encode_descriptor(&name, &help, None, MetricType::Counter)?;
            for (reason, count) in counts {
                family
                    .encode_family(&[("reason", reason)])?
                    .encode_counter::<NoLabelSet, _, u64>(&value(count), None)?;
            }
        }
        let (name, help) = (format!("hydrant_{unit}_held"), format!("{unit} received and not yet settled"));
        let held = i64::try_from(value(&columns.held)).unwrap_or(i64::MAX);
        to.encode_descriptor(&name, &help, None, MetricType::Gauge)?.encode_gauge(&held)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let text = figures.exposition(now);
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
