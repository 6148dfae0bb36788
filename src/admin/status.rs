//! What the daemon says of its health and state.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Map, Value, json};

use super::Context;
use super::stuck::{self, Facts};
use crate::buffer::{Columns, Count, DropReason, RejectReason};
use crate::firehose::Destination;
use crate::telemetry::figures::{Figures, SenderFigures, SpoolCondition, SpoolFigures, Trouble};
use crate::telemetry::history::{self, Sample};
use crate::telemetry::stream::{Reading, Stream};

/// The flush task has a turn every second; this long without one, it is stuck.
pub const STUCK: Duration = Duration::from_secs(30);

/// What does not change while the daemon runs.
#[derive(Debug)]
pub struct About {
    /// The delivery stream.
    pub delivery_stream_name: String,
    /// `buffer.memory`
    pub memory_bytes: usize,
    /// `send.max_in_flight`
    pub max_in_flight: usize,
    /// `monitor.interval`
    pub monitor_interval: Option<Duration>,
}

/// A verdict with its reasons; good without any.
#[derive(Debug)]
pub struct Health {
    /// Each a sentence.
    pub reasons: Vec<String>,
}

/// Whether the process makes progress.
#[must_use]
pub fn live(figures: &Figures, now: Instant) -> Health {
    let reason = |one: &Figures| {
        let turn = one.sender().state.turn;
        let idle = turn.map(|turn| now.saturating_duration_since(turn)).filter(|idle| *idle > STUCK)?;
        let whose = of(figures, one);
        Some(format!("{whose}the flush task has not had a turn for {} s", idle.as_secs()))
    };
    Health { reasons: figures.all().filter_map(reason).collect() }
}

/// What a sentence about `one` of the streams begins with, where there are several.
fn of(figures: &Figures, one: &Figures) -> String {
    let name = one.stream_name().filter(|_| figures.are_several());
    name.map_or_else(String::new, |name| format!("delivery stream {name}: "))
}

/// Whether the daemon is fit to be given records.
#[must_use]
pub fn ready(figures: &Figures, now: Instant) -> Health {
    let mut reasons = live(figures, now).reasons;
    if figures.is_draining() {
        reasons.push("the daemon is stopping".to_owned());
    }
    if figures.spool_of_all().is_some_and(|spool| spool.condition == SpoolCondition::Failed) {
        reasons.push("the spool's disk has failed: nothing more is taken until a restart".to_owned());
    }
    for one in figures.all() {
        let trouble = one.sender().state.trouble.clone();
        if let Some(trouble) = trouble.filter(|trouble| trouble.permanent) {
            reasons.push(format!("{}{}: {}", of(figures, one), trouble.code, trouble.message));
        }
    }
    Health { reasons }
}

/// Everything, as JSON.
#[must_use]
pub fn status(Context { figures, about }: &Context, now: Instant) -> Value {
    let columns = figures.columns_of_all();
    let sender = figures.sender_of_all();
    let (spool, buffer, in_flight) =
        (figures.spool_of_all(), figures.buffer_of_all(), figures.in_flight_of_all());
    let stream = figures.stream().clone();
    let sample = figures.sample(now);
    let rates = figures.history().rates(&sample);
    let health = ready(figures, now);
    let stuck = stuck::find(&Facts {
        dead: live(figures, now).reasons.first().map(String::as_str),
        trouble: sender.state.trouble.as_ref(),
        trouble_age: sender
            .state
            .trouble
            .as_ref()
            .map_or(Duration::ZERO, |trouble| now.saturating_duration_since(trouble.since)),
        rates,
        cpu: rates.cpu,
        buffer,
        spool: spool.as_ref().map(|spool| spool.condition),
        waits_for_quota: sender.state.waits_for_quota,
        held: columns.held.records,
        connections: figures.connections(),
        in_flight,
        stream: &stream,
    });
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "uptime_seconds": figures.uptime(now).as_secs(),
        "state": if figures.is_draining() { "draining" } else { "running" },
        "delivery_stream_name": about.delivery_stream_name,
        "listeners": figures.listeners().iter().map(|(name, address)| json!({ "name": name, "address": address })).collect::<Value>(),
        "connections": figures.connections(),
        "live": live(figures, now).reasons.is_empty(),
        "ready": health.reasons.is_empty(),
        "reasons": health.reasons,
        "stuck": { "at": stuck.at.label(), "level": stuck.level.label(), "why": stuck.why },
        "ledger": ledger(&columns),
        "streams": figures.all().filter(|_| figures.are_several()).map(|one| one_of_several(one, now)).collect::<Value>(),
        "rates": {
            "window_ms": millis(rates.window),
            "received_records_per_second": rates.received_records,
            "received_bytes_per_second": rates.received_bytes,
            "delivered_records_per_second": rates.delivered_records,
            "delivered_bytes_per_second": rates.delivered_bytes,
            "retried_records_per_second": rates.retried_records,
            "requests_per_second": rates.requests,
            "billed_bytes_per_second": rates.billed_bytes,
        },
        "buffer": {
            "memory_bytes": about.memory_bytes,
            "records_bytes": buffer.map(|buffer| buffer.total),
            "reserved_bytes": buffer.map(|buffer| buffer.reserved),
            "wanted_bytes": buffer.map(|buffer| buffer.wanted),
            "oldest_record_age_ms": sender.state.oldest.map(|oldest| since(oldest, now)),
        },
        "spool": spool.map(|spool| spooled(&spool)),
        "stream": {
            "in_flight_requests": in_flight,
            "max_in_flight_requests": about.max_in_flight,
            "requests": requests(&sender),
            "retried": sender.retried,
            "billed_bytes": sender.billed_bytes,
            "unpacked_billed_bytes": sender.unpacked_billed_bytes,
            "compression": compression(&sender),
            "packing": packing(&sender),
            "ambiguous_records": sender.ambiguous_records,
            "quota": quota(&sender),
            "put_seconds_p50_below": sender.put_duration.quantile(0.5),
            "put_seconds_p99_below": sender.put_duration.quantile(0.99),
            "delivery_seconds_p50_below": sender.delivery_latency.quantile(0.5),
            "delivery_seconds_p99_below": sender.delivery_latency.quantile(0.99),
            "trouble": trouble(sender.state.trouble.as_ref(), now),
        },
        "monitor": monitor(about, &stream, now),
        "process": {
            "cpu": rates.cpu,
            "cpu_seconds": sample.process.cpu_seconds,
            "resident_bytes": sample.process.resident_bytes,
        },
        "sample": row(&sample, now),
    })
}

fn ledger(columns: &Columns) -> Value {
    let by = |labels: &[&'static str], counts: &[Count]| -> Value {
        labels.iter().copied().map(str::to_owned).zip(counts.iter().map(count)).collect::<Map<_, _>>().into()
    };
    json!({
        "received": count(&columns.received),
        "recovered": count(&columns.recovered),
        "delivered": count(&columns.delivered),
        "dead_lettered": count(&columns.dead_lettered),
        "dropped": by(&DropReason::ALL.map(DropReason::label), &columns.dropped),
        "rejected": by(&RejectReason::ALL.map(RejectReason::label), &columns.rejected),
        "held": count(&columns.held),
    })
}

/// Requests by call and outcome.
fn requests(sender: &SenderFigures) -> Value {
    let mut requests: BTreeMap<&str, BTreeMap<&str, u64>> = BTreeMap::new();
    for ((operation, outcome), count) in &sender.puts {
        requests.entry(operation).or_default().insert(outcome.label(), *count);
    }
    json!(requests)
}

/// What was compressed, and to what; null where nothing was.
fn compression(sender: &SenderFigures) -> Value {
    match sender {
        SenderFigures { compressed_to: 0, .. } => Value::Null,
        SenderFigures { compressed_from, compressed_to, .. } => {
            json!({ "input_bytes": compressed_from, "output_bytes": compressed_to })
        }
    }
}

/// Whether records are packed, and why; null until that is known, and where the streams differ.
fn packing(sender: &SenderFigures) -> Value {
    let Some(packing) = &sender.state.packing else { return Value::Null };
    json!({ "packed": packing.packed, "reason": packing.reason })
}

/// What the quota holds back.
fn quota(sender: &SenderFigures) -> Value {
    json!({
        "waits": sender.state.waits_for_quota,
        "wait_ms": millis(sender.quota_wait),
        "pace_bytes_per_second": sender.state.pace.map(f64::round),
    })
}

fn trouble(trouble: Option<&Trouble>, now: Instant) -> Value {
    let Some(trouble) = trouble else { return Value::Null };
    json!({
        "permanent": trouble.permanent,
        "error_code": trouble.code,
        "message": trouble.message,
        "since_ms": since(trouble.since, now),
    })
}

/// What is one stream's own, where there are several and everything else is of all.
fn one_of_several(figures: &Figures, now: Instant) -> Value {
    let sender = figures.sender().clone();
    let spool = figures.spool().clone();
    let buffer = figures.buffer();
    let description = figures.stream().description.as_ref().map(|description| description.status.clone());
    json!({
        "delivery_stream_name": figures.stream_name(),
        "ledger": ledger(&figures.ledger().columns()),
        "reserved_bytes": buffer.map(|buffer| buffer.reserved),
        "wanted_bytes": buffer.map(|buffer| buffer.wanted),
        "in_flight_requests": figures.in_flight(),
        "oldest_record_age_ms": sender.state.oldest.map(|oldest| since(oldest, now)),
        "requests": requests(&sender),
        "retried": sender.retried,
        "billed_bytes": sender.billed_bytes,
        "unpacked_billed_bytes": sender.unpacked_billed_bytes,
        "compression": compression(&sender),
        "packing": packing(&sender),
        "quota": quota(&sender),
        "status": description,
        "trouble": trouble(sender.state.trouble.as_ref(), now),
        "spool": spool.map(|spool| spooled(&spool)),
    })
}

fn spooled(spool: &SpoolFigures) -> Value {
    json!({
        "directory": spool.directory,
        "condition": spool.condition.label(),
        "bytes": spool.bytes,
        "limit_bytes": spool.limit_bytes,
        "segments": spool.segments,
        "held": count(&spool.kept),
        "sync_seconds_p99_below": spool.sync_duration.quantile(0.99),
        "damaged_bytes": spool.damaged_bytes,
        "lost_records": spool.lost_records,
    })
}

/// What the poller knows of the stream; null where it is switched off. A null inside is unknown.
fn monitor(about: &About, stream: &Stream, now: Instant) -> Value {
    let Some(interval) = about.monitor_interval else { return Value::Null };
    let description = stream.description.as_ref();
    let seconds =
        |at: SystemTime| at.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let readings = Reading::ALL.into_iter().map(|reading| {
        let value = stream
            .reading(reading)
            .map(|datapoint| json!({ "value": datapoint.value, "at": seconds(datapoint.at) }));
        (reading.key().to_owned(), value.into())
    });
    let [bytes, records, requests] = stream.quota_use();
    json!({
        "interval_ms": millis(interval),
        "described_ms_ago": stream.described_at.map(|at| since(at, now)),
        "polled_ms_ago": stream.polled_at.map(|at| since(at, now)),
        "status": description.map(|description| &description.status),
        "type": description.map(|description| &description.kind),
        "destination": description.and_then(|description| description.destination).map(Destination::label),
        "encryption": description.and_then(|description| description.encryption.as_ref()),
        "processors": description.map(|description| &description.processors),
        "buffering_seconds": description.and_then(|description| description.buffering).map(|wait| wait.as_secs()),
        "readings": readings.collect::<Map<_, _>>(),
        "quota_use": { "bytes": bytes, "records": records, "put_requests": requests },
        "problems": stream.problems,
    })
}

/// The names of the figures in a row of the history. Counts are since the daemon's start.
const COLUMNS: [&str; 15] = [
    "age_ms",
    "received_records",
    "received_bytes",
    "delivered_records",
    "delivered_bytes",
    "lost_records",
    "retried_records",
    "requests",
    "billed_bytes",
    "held_records",
    "held_bytes",
    "oldest_record_age_ms",
    "in_flight_requests",
    "connections",
    "wanted_bytes",
];

/// The figures of the last minutes, the oldest first: what `/status` calls `sample`, every
/// [`history::EVERY`].
#[must_use]
pub fn history(Context { figures, .. }: &Context, now: Instant) -> Value {
    let rows: Vec<Value> = figures.history().samples().map(|sample| row(sample, now)).collect();
    json!({ "every_ms": millis(history::EVERY), "columns": COLUMNS, "rows": rows })
}

fn row(sample: &Sample, now: Instant) -> Value {
    let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
    let values: [u64; COLUMNS.len()] = [
        since(sample.at, now),
        sample.received.records,
        sample.received.bytes,
        sample.delivered.records,
        sample.delivered.bytes,
        sample.lost.records,
        sample.retried,
        sample.requests,
        sample.billed_bytes,
        sample.held.records,
        sample.held.bytes,
        millis(sample.oldest_age),
        count(sample.in_flight),
        count(sample.connections),
        count(sample.wanted_bytes),
    ];
    values.to_vec().into()
}

fn count(count: &Count) -> Value {
    json!({ "records": count.records, "bytes": count.bytes })
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn since(instant: Instant, now: Instant) -> u64 {
    millis(now.saturating_duration_since(instant))
}
