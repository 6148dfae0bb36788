//! What is published of the daemon: pure. Counters as what they grew by since the last
//! publication, gauges as they were in the samples since, durations as their number and sum since.
//!
//! Every figure is a statistic set, so that those of a fleet add up under the one dimension that
//! they have, the delivery stream: the number of metrics, which is what CloudWatch charges for,
//! does not grow with the fleet.

use std::time::{Duration, Instant};

use crate::firehose::Datum;
use crate::telemetry::figures::{FailedAs, Figures, Outcome};
use crate::telemetry::histogram::Histogram;
use crate::telemetry::history::Sample;

/// Names of everything that is published, with CloudWatch's word for the unit.
/// Those of the spool only where there is one.
pub const NAMES: [(&str, &str); 20] = [
    ("RecordsReceived", "Count"),
    ("BytesReceived", "Bytes"),
    ("RecordsDelivered", "Count"),
    ("BytesDelivered", "Bytes"),
    ("RecordsDeadLettered", "Count"),
    ("RecordsDropped", "Count"),
    ("RecordsRejected", "Count"),
    ("RecordsRetried", "Count"),
    ("RequestsThrottled", "Count"),
    ("RequestsFailed", "Count"),
    ("BilledBytes", "Bytes"),
    ("RecordsHeld", "Count"),
    ("BytesHeld", "Bytes"),
    ("OldestRecordAge", "Seconds"),
    ("InFlightRequests", "Count"),
    ("Connections", "Count"),
    ("SpoolUse", "Percent"),
    ("SpoolStopped", "Count"),
    ("PutDuration", "Seconds"),
    ("DeliveryLatency", "Seconds"),
];

/// Counters among [`NAMES`], which come first.
const COUNTERS: usize = 11;

/// The figures at the moment of a publication.
#[derive(Debug, Clone)]
pub struct Snapshot {
    at: Instant,
    counters: [u64; COUNTERS],
    gauges: Vec<Sample>,
    put_duration: Histogram,
    delivery_latency: Histogram,
}

impl Snapshot {
    /// The figures at `now`, with the samples taken after `since`.
    #[must_use]
    pub fn take(figures: &Figures, since: Instant, now: Instant) -> Self {
        let columns = figures.ledger().columns();
        let sum = |counts: &[crate::buffer::Count]| counts.iter().map(|count| count.records).sum::<u64>();
        let current = figures.sample(now);
        let sender = figures.sender();
        let outcome = |is: fn(&Outcome) -> bool| -> u64 {
            sender.puts.iter().filter(|((_, outcome), _)| is(outcome)).map(|(_, count)| *count).sum()
        };
        let counters = [
            columns.received.records,
            columns.received.bytes,
            columns.delivered.records,
            columns.delivered.bytes,
            columns.dead_lettered.records,
            sum(&columns.dropped),
            sum(&columns.rejected),
            sender.retried.values().sum(),
            outcome(|outcome| *outcome == Outcome::Failed(FailedAs::Throttled)),
            outcome(|outcome| matches!(outcome, Outcome::Failed(failed) if *failed != FailedAs::Throttled)),
            sender.billed_bytes,
        ];
        let (put_duration, delivery_latency) = (sender.put_duration.clone(), sender.delivery_latency.clone());
        drop(sender);
        let history = figures.history();
        let gauges = history.samples().filter(|sample| sample.at > since).copied().chain([current]).collect();
        Self { at: now, counters, gauges, put_duration, delivery_latency }
    }

    /// A daemon that has just started.
    #[must_use]
    pub fn zero(figures: &Figures, now: Instant) -> Self {
        let (empty_put, empty_latency) = {
            let sender = figures.sender();
            (sender.put_duration.emptied(), sender.delivery_latency.emptied())
        };
        Self {
            at: now,
            counters: [0; COUNTERS],
            gauges: Vec::new(),
            put_duration: empty_put,
            delivery_latency: empty_latency,
        }
    }

    /// When it was taken.
    #[must_use]
    pub fn at(&self) -> Instant {
        self.at
    }

    /// What there is to publish since `last`.
    #[must_use]
    pub fn since(&self, last: &Self) -> Vec<Datum> {
        let counters = self.counters.iter().zip(&last.counters);
        #[expect(clippy::cast_precision_loss, reason = "CloudWatch's numbers are of this type")]
        let counters = counters.map(|(now, before)| Some(Set::of(now.saturating_sub(*before) as f64)));
        #[expect(clippy::cast_precision_loss, reason = "CloudWatch's numbers are of this type")]
        let gauges: [fn(&Sample) -> Option<f64>; 7] = [
            |sample| Some(sample.held.records as f64),
            |sample| Some(sample.held.bytes as f64),
            |sample| Some(sample.oldest_age.as_secs_f64()),
            |sample| Some(sample.in_flight as f64),
            |sample| Some(sample.connections as f64),
            |sample| sample.spool.map(|spool| spool.bytes as f64 / spool.limit_bytes as f64 * 100.0),
            |sample| sample.spool.map(|spool| f64::from(u8::from(spool.is_stopped))),
        ];
        let gauges = gauges
            .into_iter()
            .map(|gauge| self.gauges.iter().filter_map(gauge).map(Set::of).reduce(Set::and));
        let durations = [
            Set::of_histogram(&self.put_duration, &last.put_duration),
            Set::of_histogram(&self.delivery_latency, &last.delivery_latency),
        ];
        let sets = counters.chain(gauges).chain(durations);
        NAMES.into_iter().zip(sets).filter_map(|((name, unit), set)| Some(set?.datum(name, unit))).collect()
    }

    /// Time since `last` was taken.
    #[must_use]
    pub fn elapsed(&self, last: &Self) -> Duration {
        self.at.saturating_duration_since(last.at)
    }
}

/// A statistic set.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Set {
    samples: f64,
    sum: f64,
    minimum: f64,
    maximum: f64,
}

impl Set {
    fn of(value: f64) -> Self {
        Self { samples: 1.0, sum: value, minimum: value, maximum: value }
    }

    fn and(self, other: Self) -> Self {
        Self {
            samples: self.samples + other.samples,
            sum: self.sum + other.sum,
            minimum: self.minimum.min(other.minimum),
            maximum: self.maximum.max(other.maximum),
        }
    }

    /// The observations of `now` that `before` does not have. Their number and sum are exact, the
    /// least and the greatest are known to the bounds of the buckets.
    fn of_histogram(now: &Histogram, before: &Histogram) -> Option<Self> {
        let samples = now.count().checked_sub(before.count()).filter(|samples| *samples > 0)?;
        #[expect(clippy::cast_precision_loss, reason = "CloudWatch's numbers are of this type")]
        let samples = samples as f64;
        let sum = now.sum() - before.sum();
        let mean = sum / samples;
        let grown =
            now.buckets().zip(before.buckets()).map(|((bound, now), (_, before))| (bound, now > before));
        let (mut lower, mut minimum, mut maximum) = (0.0, None, mean);
        for (bound, has_grown) in grown {
            if has_grown {
                minimum.get_or_insert(lower);
                // Of what is above the last bound no more is known than the bound and the mean.
                maximum = if bound.is_finite() { bound } else { lower };
            }
            lower = bound;
        }
        Some(Self {
            samples,
            sum,
            minimum: minimum.unwrap_or(mean).min(mean),
            maximum: f64::max(maximum, mean),
        })
    }

    fn datum(self, name: &'static str, unit: &'static str) -> Datum {
        let Self { samples, sum, minimum, maximum } = self;
        Datum { name, unit, samples, sum, minimum, maximum }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::buffer::{Count, DropReason, Ledger};
    use crate::firehose::{Class, Operation};
    use crate::telemetry::figures::{SpoolCondition, SpoolFigures};

    fn find<'a>(data: &'a [Datum], name: &str) -> &'a Datum {
        data.iter().find(|datum| datum.name == name).unwrap_or_else(|| panic!("no {name}"))
    }

    // R-M8
    #[test]
    fn counters_are_what_they_grew_by_and_gauges_what_they_were() {
        let ledger = Arc::new(Ledger::default());
        let start = crate::telemetry::now();
        let figures = Figures::new(Arc::clone(&ledger), start);
        let at = |seconds| start + Duration::from_secs(seconds);
        ledger.received(Count { records: 10, bytes: 100 });
        figures.take_sample(at(2));
        ledger.delivered(Count { records: 6, bytes: 60 });
        let first = Snapshot::take(&figures, start, at(4));
        let data = first.since(&Snapshot::zero(&figures, start));
        assert_eq!(find(&data, "RecordsReceived").sum, 10.0);
        let held = find(&data, "RecordsHeld");
        assert_eq!((held.samples, held.sum, held.minimum, held.maximum), (2.0, 14.0, 4.0, 10.0));
        assert!(data.iter().all(|datum| !datum.name.ends_with("Duration")), "{data:?}");

        ledger.received(Count { records: 1, bytes: 10 });
        ledger.dropped(DropReason::BufferFull, Count { records: 2, bytes: 20 });
        let put = |outcome, millis| {
            let took = Duration::from_millis(millis);
            figures.sender().put(Operation::PutRecordBatch, outcome, took, 1, 10);
        };
        put(Class::Throttled.into(), 20);
        put(Class::Transient.into(), 400);
        put(Outcome::Ok, 60);
        let data = Snapshot::take(&figures, first.at(), at(6)).since(&first);
        let sums = ["RecordsReceived", "RecordsDropped", "RequestsThrottled", "RequestsFailed"];
        assert_eq!(sums.map(|name| find(&data, name).sum), [1.0, 2.0, 1.0, 1.0]);
        let duration = find(&data, "PutDuration");
        assert_eq!((duration.samples, duration.minimum, duration.maximum), (3.0, 0.01, 0.5));
        assert!((duration.sum - 0.48).abs() < 1e-9, "{duration:?}");
    }

    #[test]
    fn a_spool_is_published_where_there_is_one_as_what_it_takes_of_its_disk() {
        let start = crate::telemetry::now();
        let figures = Figures::new(Arc::new(Ledger::default()), start);
        let zero = Snapshot::zero(&figures, start);
        let data = Snapshot::take(&figures, start, start).since(&zero);
        assert!(data.iter().all(|datum| !datum.name.starts_with("Spool")), "{data:?}");
        let with = |bytes, condition| {
            let mut spool = SpoolFigures::new("/spool".to_owned(), 200);
            (spool.bytes, spool.condition) = (bytes, condition);
            *figures.spool() = Some(spool);
        };
        with(200, SpoolCondition::Full);
        figures.take_sample(start + Duration::from_secs(2));
        with(50, SpoolCondition::Working);
        let data = Snapshot::take(&figures, start, start + Duration::from_secs(4)).since(&zero);
        let extremes = |name| (find(&data, name).minimum, find(&data, name).maximum);
        assert_eq!(extremes("SpoolUse"), (25.0, 100.0));
        assert_eq!(extremes("SpoolStopped"), (0.0, 1.0));
    }

    #[test]
    fn what_was_not_published_is_in_the_next_publication() {
        let ledger = Arc::new(Ledger::default());
        let start = crate::telemetry::now();
        let figures = Figures::new(Arc::clone(&ledger), start);
        let published = Snapshot::zero(&figures, start);
        for turn in 1..=3 {
            ledger.received(Count { records: 5, bytes: 5 });
            let data = Snapshot::take(&figures, published.at(), start).since(&published);
            assert_eq!(find(&data, "RecordsReceived").sum, 5.0 * f64::from(turn));
        }
    }

    #[test]
    fn the_extremes_hold_the_mean_even_beyond_the_last_bucket() {
        let empty = Histogram::new(&[1.0, 2.0]);
        let mut grown = empty.clone();
        grown.observe(50.0, 2);
        let set = Set::of_histogram(&grown, &empty).unwrap();
        assert_eq!(set, Set { samples: 2.0, sum: 100.0, minimum: 2.0, maximum: 50.0 });
    }
}
