//! The figures of the last minutes, for rates and plots: pure.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::process::Process;
use crate::buffer::Count;

/// Time between two samples.
pub const EVERY: Duration = Duration::from_secs(2);
/// Samples kept: ten minutes.
const MAX_SAMPLES: usize = 301;
/// Rates are over this long, or what there is of it.
const RATE_WINDOW: Duration = Duration::from_secs(10);

/// The figures at one moment. Counts are since the daemon's start.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    /// When it was taken.
    pub at: Instant,
    /// Taken from producers.
    pub received: Count,
    /// Taken by Firehose.
    pub delivered: Count,
    /// In the dead-letter store, for want of which dropped, or dropped by policy.
    pub lost: Count,
    /// Records sent again.
    pub retried: u64,
    /// Requests that ended.
    pub requests: u64,
    /// Bytes billed.
    pub billed_bytes: u64,
    /// Held now.
    pub held: Count,
    /// Age of the record held longest.
    pub oldest_age: Duration,
    /// Requests under way now.
    pub in_flight: usize,
    /// Connections open now.
    pub connections: usize,
    /// Memory that listeners wait for now.
    pub wanted_bytes: usize,
    /// How the spool fares now, where there is one.
    pub spool: Option<Fill>,
    /// What the process takes.
    pub process: Process,
}

/// How full a spool is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fill {
    /// What it takes on the disk.
    pub bytes: u64,
    /// What it may take.
    pub limit_bytes: u64,
    /// It takes nothing more: full, or failed.
    pub is_stopped: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub struct History {
    samples: VecDeque<Sample>,
}

/// What flows, per second.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Rates {
    /// Time that they are over; zero while there is nothing to compare with, and then so are they.
    pub window: Duration,
    /// From producers.
    pub received_records: f64,
    /// From producers.
    pub received_bytes: f64,
    /// To Firehose.
    pub delivered_records: f64,
    /// To Firehose.
    pub delivered_bytes: f64,
    /// Sent again.
    pub retried_records: f64,
    /// Requests that ended.
    pub requests: f64,
    /// What Firehose bills.
    pub billed_bytes: f64,
    /// Share of a core that the daemon takes.
    pub cpu: f64,
}

impl History {
    /// Keeps a sample, and no longer the oldest one if there are too many.
    pub fn add(&mut self, sample: Sample) {
        if self.samples.len() >= MAX_SAMPLES {
            self.samples.pop_front();
        }
        self.samples.push_back(sample);
    }

    /// The samples, the oldest first.
    pub fn samples(&self) -> impl DoubleEndedIterator<Item = &Sample> {
        self.samples.iter()
    }

    /// What flowed until `latest`.
    #[must_use]
    pub fn rates(&self, latest: &Sample) -> Rates {
        let from = latest.at.checked_sub(RATE_WINDOW);
        let within = |sample: &&Sample| from.is_none_or(|from| sample.at >= from);
        let Some(first) = self.samples.iter().find(within) else { return Rates::default() };
        let window = latest.at.saturating_duration_since(first.at);
        if window < EVERY / 4 {
            return Rates::default();
        }
        let rate = |value: fn(&Sample) -> u64| {
            #[expect(clippy::cast_precision_loss, reason = "a rate for the eye")]
            let grown = value(latest).saturating_sub(value(first)) as f64;
            grown / window.as_secs_f64()
        };
        Rates {
            window,
            received_records: rate(|sample| sample.received.records),
            received_bytes: rate(|sample| sample.received.bytes),
            delivered_records: rate(|sample| sample.delivered.records),
            delivered_bytes: rate(|sample| sample.delivered.bytes),
            retried_records: rate(|sample| sample.retried),
            requests: rate(|sample| sample.requests),
            billed_bytes: rate(|sample| sample.billed_bytes),
            cpu: (latest.process.cpu_seconds - first.process.cpu_seconds) / window.as_secs_f64(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(start: Instant, seconds: u64, received: u64) -> Sample {
        let none = Count::default();
        Sample {
            at: start + Duration::from_secs(seconds),
            received: Count { records: received, bytes: received * 10 },
            delivered: none,
            lost: none,
            retried: 0,
            requests: 0,
            billed_bytes: 0,
            held: none,
            oldest_age: Duration::ZERO,
            in_flight: 0,
            connections: 0,
            wanted_bytes: 0,
            spool: None,
            process: Process::default(),
        }
    }

    #[test]
    fn rates_are_over_the_last_ten_seconds_or_what_there_is() {
        let start = crate::telemetry::now();
        let mut history = History::default();
        assert_eq!(history.rates(&sample(start, 0, 5)), Rates::default());
        for second in (0..60).step_by(2) {
            // Ten records a second for half a minute, then a hundred.
            let received = if second < 30 { second * 10 } else { 300 + (second - 30) * 100 };
            history.add(sample(start, second, received));
        }
        let rates = history.rates(&sample(start, 59, 300 + 29 * 100));
        assert_eq!((rates.received_records, rates.received_bytes), (100.0, 1000.0));
        assert!(rates.window <= RATE_WINDOW, "{rates:?}");
    }

    #[test]
    fn samples_are_bounded_and_the_oldest_go_first() {
        let start = crate::telemetry::now();
        let mut history = History::default();
        for second in 0..1000 {
            history.add(sample(start, second, second));
        }
        assert_eq!(history.samples().count(), MAX_SAMPLES);
        assert_eq!(history.samples().next_back().unwrap().received.records, 999);
    }
}
