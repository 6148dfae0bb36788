//! What the view knows of the daemon: `/status` and `/history` as types, and what became of the
//! asking. Pure.
//!
//! The daemon may be older or newer than this program: what it does not say, and what it says to be
//! null, is unknown here, and what is not known here is passed over.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Samples kept: those of ten minutes at the shortest distance.
const MAX_SAMPLES: usize = 2400;
/// What plots may be over, in seconds.
const SPANS: [f64; 4] = [60.0, 120.0, 300.0, 600.0];

/// Everything that is shown.
#[derive(Debug, Clone)]
pub struct Model {
    /// The daemon's address.
    pub address: String,
    /// Time between two looks.
    pub every: Duration,
    /// The figures of the last minutes.
    pub samples: Samples,
    /// The latest answer.
    pub status: Status,
    /// When that came.
    pub answered: Instant,
    /// Why there is no later one, though it was asked for; a sentence without its full stop.
    pub away: Option<String>,
}

/// One look at the daemon.
#[derive(Debug, Clone, Default)]
pub struct Look {
    /// How things stand.
    pub status: Status,
    /// What was before, where that is not known from earlier looks.
    pub history: Option<History>,
}

impl Model {
    /// What the first look shows.
    #[must_use]
    pub fn new(address: String, every: Duration, look: Look, now: Instant) -> Self {
        let samples = Samples::new(now);
        let status = Status::default();
        let mut model = Self { address, every, status, samples, answered: now, away: None };
        model.answered(look, now);
        model
    }

    /// Takes over what the look at `now` has shown.
    pub fn answered(&mut self, look: Look, now: Instant) {
        if let Some(history) = look.history {
            self.samples.replace(&history, now);
        }
        self.samples.add(&look.status.sample, now);
        self.status = look.status;
        self.answered = now;
        self.away = None;
    }

    /// Keeps what was known, and why there is no more.
    pub fn failed(&mut self, why: String) {
        self.away = Some(why);
    }
}

/// Reads a document of the daemon's.
///
/// # Errors
///
/// What is no JSON, or of another shape.
pub fn read<T: DeserializeOwned>(text: &[u8]) -> serde_json::Result<T> {
    serde_json::from_value(plain(serde_json::from_slice(text)?))
}

/// `value` without nulls, which say no more than absence does, and without control characters,
/// which have no business on a terminal. That monitoring is off remains to be seen.
fn plain(value: Value) -> Value {
    let printable = |text: String| text.replace(char::is_control, " ");
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => value,
        Value::String(text) => printable(text).into(),
        Value::Array(values) => values.into_iter().map(plain).collect(),
        Value::Object(members) => members
            .into_iter()
            .filter(|(name, value)| !value.is_null() || name == "monitor")
            .map(|(name, value)| (printable(name), plain(value)))
            .collect(),
    }
}

/// `/status`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "the names are those of the document")]
pub struct Status {
    pub version: Option<String>,
    pub uptime_seconds: Option<u64>,
    pub state: Option<String>,
    pub delivery_stream_name: Option<String>,
    pub connections: Option<u64>,
    pub ready: Option<bool>,
    pub stuck: Stuck,
    pub ledger: Ledger,
    pub rates: Rates,
    pub buffer: Buffer,
    pub stream: Stream,
    /// Each stream's own, where there are several.
    pub streams: Vec<OneStream>,
    pub monitor: Monitoring,
    pub process: Process,
    /// A row of the history, now.
    pub sample: Vec<Option<u64>>,
}

/// Where records are held up.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "the names are those of the document")]
pub struct Stuck {
    pub at: Option<String>,
    pub level: Option<String>,
    pub why: Option<String>,
}

/// A number of records and of their bytes.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "the names are those of the document")]
pub struct Count {
    pub records: Option<u64>,
    pub bytes: Option<u64>,
}

/// The account of records.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "the names are those of the document")]
pub struct Ledger {
    pub received: Count,
    pub recovered: Count,
    pub delivered: Count,
    pub dead_lettered: Count,
    pub dropped: BTreeMap<String, Count>,
    pub rejected: BTreeMap<String, Count>,
    pub held: Count,
}

/// Both sides of the ledger's equation, as far as they are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Balance {
    /// Received, recovered.
    pub taken: [u64; 2],
    /// Delivered, dead-lettered, dropped, held.
    pub accounted: [u64; 4],
}

impl Ledger {
    /// The equation in records; `None` where a column is unknown.
    #[must_use]
    pub fn balance(&self) -> Option<Balance> {
        Some(Balance {
            taken: [self.received.records?, self.recovered.records?],
            accounted: [
                self.delivered.records?,
                self.dead_lettered.records?,
                sum(&self.dropped)?,
                self.held.records?,
            ],
        })
    }
}

impl Balance {
    /// Whether the sides are equal.
    #[must_use]
    pub fn adds_up(&self) -> bool {
        let side = |columns: &[u64]| columns.iter().copied().map(u128::from).sum::<u128>();
        side(&self.taken) == side(&self.accounted)
    }
}

/// What flows, per second.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "the names are those of the document")]
pub struct Rates {
    pub received_records_per_second: Option<f64>,
    pub received_bytes_per_second: Option<f64>,
    pub delivered_records_per_second: Option<f64>,
    pub delivered_bytes_per_second: Option<f64>,
    pub retried_records_per_second: Option<f64>,
    pub requests_per_second: Option<f64>,
    pub billed_bytes_per_second: Option<f64>,
}

/// The memory for records.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "the names are those of the document")]
pub struct Buffer {
    pub records_bytes: Option<u64>,
    pub reserved_bytes: Option<u64>,
    pub wanted_bytes: Option<u64>,
    pub oldest_record_age_ms: Option<u64>,
}

/// The sender's dealings with the stream.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "the names are those of the document")]
pub struct Stream {
    pub in_flight_requests: Option<u64>,
    pub max_in_flight_requests: Option<u64>,
    /// Numbers by call and outcome.
    pub requests: BTreeMap<String, BTreeMap<String, u64>>,
    /// Records by the error code of the failure.
    pub retried: BTreeMap<String, u64>,
    pub billed_bytes: Option<u64>,
    pub unpacked_billed_bytes: Option<u64>,
    pub compression: Compression,
    pub packing: Packing,
    pub ambiguous_records: Option<u64>,
    pub put_seconds_p50_below: Option<f64>,
    pub put_seconds_p99_below: Option<f64>,
    pub delivery_seconds_p50_below: Option<f64>,
    pub delivery_seconds_p99_below: Option<f64>,
}

/// What was compressed, and to what.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "the names are those of the document")]
pub struct Compression {
    pub input_bytes: Option<u64>,
    pub output_bytes: Option<u64>,
}

/// One of several delivery streams.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "the names are those of the document")]
pub struct OneStream {
    pub delivery_stream_name: Option<String>,
    pub ledger: Ledger,
    pub oldest_record_age_ms: Option<u64>,
    /// Numbers by call and outcome.
    pub requests: BTreeMap<String, BTreeMap<String, u64>>,
    /// Records by the error code of the failure.
    pub retried: BTreeMap<String, u64>,
    pub packing: Packing,
    pub trouble: Option<Trouble>,
    pub spool: Option<Spool>,
}

/// What fails as a whole.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "the names are those of the document")]
pub struct Trouble {
    pub permanent: Option<bool>,
    pub error_code: Option<String>,
    pub since_ms: Option<u64>,
}

/// What waits on the disk.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "the names are those of the document")]
pub struct Spool {
    pub bytes: Option<u64>,
}

/// Whether records are packed, and why.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "the names are those of the document")]
pub struct Packing {
    pub packed: Option<bool>,
    pub reason: Option<String>,
}

/// What the daemon knows of the stream itself.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(from = "Option<Monitor>")]
pub enum Monitoring {
    /// The daemon does not say.
    #[default]
    Unknown,
    /// It does not look.
    Off,
    /// It looks.
    On(Box<Monitor>),
}

impl From<Option<Monitor>> for Monitoring {
    fn from(monitor: Option<Monitor>) -> Self {
        monitor.map_or(Self::Off, |monitor| Self::On(Box::new(monitor)))
    }
}

/// What was found by looking at the stream.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "the names are those of the document")]
pub struct Monitor {
    pub polled_ms_ago: Option<u64>,
    pub status: Option<String>,
    #[serde(rename = "type")]
    pub kind: Option<String>,
    pub destination: Option<String>,
    pub encryption: Option<String>,
    pub buffering_seconds: Option<u64>,
    pub readings: BTreeMap<String, Datapoint>,
    pub quota_use: QuotaUse,
    /// Sentences by action.
    pub problems: BTreeMap<String, String>,
}

impl Monitor {
    /// The latest known value of the reading called `name`.
    #[must_use]
    pub fn reading(&self, name: &str) -> Option<f64> {
        self.readings.get(name)?.value
    }
}

/// A value of CloudWatch's.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "the names are those of the document")]
pub struct Datapoint {
    pub value: Option<f64>,
}

/// Shares of the stream's quotas, 1 being all.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "the names are those of the document")]
pub struct QuotaUse {
    pub bytes: Option<f64>,
    pub records: Option<f64>,
    pub put_requests: Option<f64>,
}

/// What the process takes of its machine.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "the names are those of the document")]
pub struct Process {
    pub cpu: Option<f64>,
    pub resident_bytes: Option<u64>,
}

/// `/history`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct History {
    /// The names of the figures in a row.
    pub columns: Vec<String>,
    /// The figures, the oldest first.
    pub rows: Vec<Vec<Option<u64>>>,
}

/// A figure over time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Series {
    /// Records from producers, a second.
    Received,
    /// Records to Firehose, a second.
    Delivered,
    /// Records held.
    Held,
}

/// The figures of the last minutes.
#[derive(Debug, Clone)]
pub struct Samples {
    /// From which times are counted.
    epoch: Instant,
    columns: Vec<String>,
    points: VecDeque<Point>,
}

/// The figures at one moment.
#[derive(Debug, Clone, Copy)]
struct Point {
    /// Seconds after the epoch; less than zero for what was before.
    at: f64,
    received: Option<u64>,
    delivered: Option<u64>,
    held: Option<u64>,
}

impl Samples {
    /// None so far.
    #[must_use]
    pub fn new(epoch: Instant) -> Self {
        Self { epoch, columns: Vec::new(), points: VecDeque::new() }
    }

    /// Forgets all, and keeps `history`, which was true at `now`.
    pub fn replace(&mut self, history: &History, now: Instant) {
        self.columns.clone_from(&history.columns);
        self.points.clear();
        history.rows.iter().for_each(|row| self.add(row, now));
    }

    /// Keeps a row of figures, which was true at `now`, if it is later than all others.
    pub fn add(&mut self, row: &[Option<u64>], now: Instant) {
        let figure = |name: &str| {
            let index = self.columns.iter().position(|column| column == name)?;
            row.get(index).copied().flatten()
        };
        let Some(age) = figure("age_ms") else { return };
        let point = Point {
            at: now.saturating_duration_since(self.epoch).as_secs_f64() - float(age) / 1000.0,
            received: figure("received_records"),
            delivered: figure("delivered_records"),
            held: figure("held_records"),
        };
        if self.points.back().is_some_and(|last| last.at >= point.at) {
            return;
        }
        if self.points.len() >= MAX_SAMPLES {
            self.points.pop_front();
        }
        self.points.push_back(point);
    }

    /// The shortest time for a plot that shows all there is, or else the longest.
    #[must_use]
    pub fn span(&self) -> Duration {
        let ends = self.points.front().zip(self.points.back());
        let known = ends.map_or(0.0, |(first, last)| last.at - first.at);
        let [.., longest] = SPANS;
        Duration::from_secs_f64(SPANS.into_iter().find(|span| *span >= known).unwrap_or(longest))
    }

    /// The last `span` before the latest sample in `columns` equal parts, the oldest first; `None`
    /// where nothing is known.
    ///
    /// The parts begin at whole multiples of their length, so that a plot moves by whole columns;
    /// the last one may not be over yet.
    #[must_use]
    pub fn plot(&self, series: Series, span: Duration, columns: u16) -> Vec<Option<f64>> {
        let width = span.as_secs_f64() / f64::from(columns.max(1));
        let latest = self.points.back().map_or(0.0, |point| point.at);
        let end = (latest / width).ceil();
        let edge = |column: u16| ((end - f64::from(columns - column)) * width).min(latest);
        (0..columns)
            .map(|column| {
                let (from, to) = (edge(column), edge(column + 1));
                match series {
                    Series::Held => self.value(to, |point| point.held),
                    Series::Received => self.growth(from, to, |point| point.received),
                    Series::Delivered => self.growth(from, to, |point| point.delivered),
                }
            })
            .collect()
    }

    /// By how much a counter grew a second.
    fn growth(&self, from: f64, to: f64, counter: fn(&Point) -> Option<u64>) -> Option<f64> {
        let grown = self.value(to, counter)? - self.value(from, counter)?;
        (grown >= 0.0 && to > from).then(|| grown / (to - from))
    }

    /// A figure at a time, on the straight line between the samples around it.
    fn value(&self, at: f64, figure: fn(&Point) -> Option<u64>) -> Option<f64> {
        let after = self.points.partition_point(|point| point.at < at);
        let next = self.points.get(after)?;
        let value = float(figure(next)?);
        let Some(before) = after.checked_sub(1).and_then(|before| self.points.get(before)) else {
            return (next.at <= at).then_some(value);
        };
        let earlier = float(figure(before)?);
        Some(earlier + (value - earlier) * (at - before.at) / (next.at - before.at))
    }
}

/// The records of all counts; `None` where one is unknown.
#[must_use]
pub fn sum(counts: &BTreeMap<String, Count>) -> Option<u64> {
    counts.values().try_fold(0, |sum: u64, count| Some(sum.saturating_add(count.records?)))
}

/// For the eye, which sees no more digits than this keeps.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "for the eye")]
pub fn float(number: u64) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start() -> Instant {
        crate::telemetry::now()
    }

    fn history(rows: &[[u64; 3]]) -> History {
        History {
            columns: ["age_ms", "of a newer daemon", "received_records"].map(str::to_owned).to_vec(),
            rows: rows.iter().map(|row| row.map(Some).to_vec()).collect(),
        }
    }

    #[test]
    fn an_empty_document_and_one_of_nulls_are_unknown_and_not_zero() {
        for text in ["{}", r#"{"ledger":null,"rates":{"requests_per_second":null},"newer":[1]}"#] {
            let status: Status = read(text.as_bytes()).unwrap();
            assert_eq!(status.ledger.balance(), None);
            assert_eq!(status.rates.requests_per_second, None);
            assert!(matches!(status.monitor, Monitoring::Unknown));
        }
        let status: Status = read(br#"{"monitor":null}"#).unwrap();
        assert!(matches!(status.monitor, Monitoring::Off));
        let status: Status = read(br#"{"monitor":{"status":null}}"#).unwrap();
        assert!(matches!(status.monitor, Monitoring::On(monitor) if monitor.status.is_none()));
    }

    #[test]
    fn what_would_command_the_terminal_is_made_blank() {
        let status: Status =
            read(br#"{"stuck":{"why":"a\u001b[2Jb"},"stream":{"retried":{"x\u0007":1}}}"#).unwrap();
        assert_eq!(status.stuck.why.unwrap(), "a [2Jb");
        assert_eq!(status.stream.retried.keys().next().unwrap(), "x ");
    }

    #[test]
    fn the_ledger_is_summed_without_overflow() {
        let text = format!(
            r#"{{"received":{{"records":{max}}},"recovered":{{"records":{max}}},"delivered":{{"records":{max}}},
                "dead_lettered":{{"records":0}},"held":{{"records":0}},"dropped":{{"a":{{"records":{max}}}}}}}"#,
            max = u64::MAX
        );
        let ledger: Ledger = read(text.as_bytes()).unwrap();
        assert!(ledger.balance().unwrap().adds_up());
        let ledger = Ledger { held: Count { records: Some(1), bytes: None }, ..ledger };
        assert!(!ledger.balance().unwrap().adds_up());
    }

    #[test]
    fn a_plot_is_the_growth_of_the_counter_in_each_part_and_unknown_before_the_first_sample() {
        let mut samples = Samples::new(start());
        // Ten a second until four seconds ago, then thirty.
        let now = samples.epoch + Duration::from_secs(20);
        samples.replace(&history(&[[8000, 0, 100], [6000, 0, 120], [4000, 0, 140], [0, 0, 260]]), now);
        let plot = samples.plot(Series::Received, Duration::from_secs(10), 5);
        assert_eq!(plot, [None, Some(10.0), Some(10.0), Some(30.0), Some(30.0)]);
        assert_eq!(samples.plot(Series::Delivered, Duration::from_secs(10), 2), [None, None]);
        assert!(samples.plot(Series::Received, Duration::from_secs(10), 0).is_empty());
    }

    #[test]
    fn a_restart_replaces_the_samples_and_an_old_sample_is_not_added() {
        let mut samples = Samples::new(start());
        samples.replace(&history(&[[2000, 0, 900], [0, 0, 1000]]), samples.epoch);
        samples.add(&[Some(1000), None, Some(1)], samples.epoch);
        assert_eq!(samples.points.len(), 2);
        samples.replace(&history(&[[0, 0, 5]]), samples.epoch + Duration::from_secs(9));
        assert_eq!(samples.points.len(), 1);
    }

    #[test]
    fn a_silence_lasts_from_the_last_answer_to_the_next() {
        let begin = start();
        let second = Duration::from_secs(1);
        let mut model = Model::new("tcp:1".to_owned(), second, Look::default(), begin);
        model.failed("refused".to_owned());
        assert_eq!((model.answered, model.away.is_some()), (begin, true));
        model.answered(Look::default(), begin + 6 * second);
        assert_eq!((model.answered, model.away), (begin + 6 * second, None));
    }
}
