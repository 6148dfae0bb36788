//! What the daemon says of its health and state.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::Context;
use crate::buffer::{Count, DropReason, RejectReason};
use crate::telemetry::figures::Figures;

/// The flush task has a turn every second; this long without one, it is stuck.
pub const STUCK: Duration = Duration::from_secs(30);

/// What does not change while the daemon runs.
#[derive(Debug)]
pub struct About {
    /// The delivery stream.
    pub delivery_stream_name: String,
    /// Each listener's name and address.
    pub listeners: Vec<(String, String)>,
    /// `buffer.memory`
    pub memory_bytes: usize,
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
    let turn = figures.sender().state.turn;
    let idle = turn.map(|turn| now.saturating_duration_since(turn)).filter(|idle| *idle > STUCK);
    let reason = idle.map(|idle| format!("the flush task has not had a turn for {} s", idle.as_secs()));
    Health { reasons: reason.into_iter().collect() }
}

/// Whether the daemon is fit to be given records.
#[must_use]
pub fn ready(figures: &Figures, now: Instant) -> Health {
    let mut reasons = live(figures, now).reasons;
    if figures.is_draining() {
        reasons.push("the daemon is stopping".to_owned());
    }
    let trouble = figures.sender().state.trouble.clone();
    if let Some(trouble) = trouble.filter(|trouble| trouble.permanent) {
        reasons.push(format!("{}: {}", trouble.code, trouble.message));
    }
    Health { reasons }
}

/// Everything, as JSON.
#[must_use]
pub fn status(Context { figures, about }: &Context, now: Instant) -> Value {
    let columns = figures.ledger().columns();
    let sender = figures.sender().clone();
    let count = |count: &Count| json!({ "records": count.records, "bytes": count.bytes });
    let by = |labels: Vec<&'static str>, counts: &[Count]| -> Value {
        labels
            .into_iter()
            .map(str::to_owned)
            .zip(counts.iter().map(count))
            .collect::<serde_json::Map<_, _>>()
            .into()
    };
    let ms =
        |since: Instant| u64::try_from(now.saturating_duration_since(since).as_millis()).unwrap_or(u64::MAX);
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "uptime_seconds": figures.uptime(now).as_secs(),
        "state": if figures.is_draining() { "draining" } else { "running" },
        "delivery_stream_name": about.delivery_stream_name,
        "listeners": about.listeners.iter().map(|(name, address)| json!({ "name": name, "address": address })).collect::<Value>(),
        "connections": figures.connections(),
        "live": live(figures, now).reasons.is_empty(),
        "ready": ready(figures, now).reasons.is_empty(),
        "reasons": ready(figures, now).reasons,
        "ledger": {
            "received": count(&columns.received),
            "recovered": count(&columns.recovered),
            "delivered": count(&columns.delivered),
            "dead_lettered": count(&columns.dead_lettered),
            "dropped": by(DropReason::ALL.map(DropReason::label).to_vec(), &columns.dropped),
            "rejected": by(RejectReason::ALL.map(RejectReason::label).to_vec(), &columns.rejected),
            "held": count(&columns.held),
        },
        "buffer": {
            "memory_bytes": about.memory_bytes,
            "oldest_record_age_ms": sender.state.oldest.map(ms),
        },
        "stream": {
            "in_flight_requests": figures.in_flight(),
            "billed_bytes": sender.billed_bytes,
            "ambiguous_records": sender.ambiguous_records,
            "put_seconds_p50_below": sender.put_duration.quantile(0.5),
            "put_seconds_p99_below": sender.put_duration.quantile(0.99),
            "trouble": sender.state.trouble.map(|trouble| json!({
                "permanent": trouble.permanent,
                "error_code": trouble.code,
                "message": trouble.message,
                "since_ms": ms(trouble.since),
            })),
        },
    })
}
