//! Every figure that is exported, as families of points: one list, from which the Prometheus text
//! and OTLP are made, so that the two can't differ.

use std::borrow::Cow;
use std::time::{Duration, Instant};

use super::figures::{Figures, Outcome, SenderFigures, SpoolCondition, SpoolFigures};
use super::histogram::Histogram;
use super::process::Process;
use super::stream::{Reading, STATUSES, Stream};
use crate::buffer::{Columns, Count, DropReason, RejectReason};
use crate::firehose::Operation;

/// How the points of a family go on from one export to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Grows from zero at the daemon's start.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Observations by upper bound, since the daemon's start.
    Histogram,
}

/// One figure under all its labels.
#[derive(Debug, Clone)]
pub struct Family {
    /// The name without the `_total` that a counter's samples end in.
    pub base: &'static str,
    /// A sentence without its full stop.
    pub help: &'static str,
    /// In UCUM (<https://ucum.org/ucum>), as OpenTelemetry wants it. Where Prometheus makes a name
    /// of its own from name and unit, the name already has what it would add: a gauge of unit `1`
    /// ends in `_ratio`, so a flag is a number of `{stream}`s.
    pub unit: &'static str,
    /// Which of the three it is.
    pub kind: Kind,
    /// None where nothing is known; one without labels, or one for each set of labels.
    pub points: Vec<Point>,
}

/// A value with its labels.
#[derive(Debug, Clone)]
pub struct Point {
    /// Names and values; values are from small closed sets.
    pub labels: Vec<(&'static str, Cow<'static, str>)>,
    /// The value.
    pub value: Value,
}

/// The value of a point.
#[derive(Debug, Clone)]
pub enum Value {
    /// Of a counter or gauge that counts.
    Whole(u64),
    /// Of a counter or gauge that measures.
    Real(f64),
    /// Of a histogram.
    Histogram(Histogram),
}

impl Family {
    /// The name that Prometheus and OTLP know: a counter's ends in `_total`.
    #[must_use]
    pub fn name(&self) -> Cow<'static, str> {
        match self.kind {
            Kind::Counter => Cow::Owned(format!("{}_total", self.base)),
            Kind::Gauge | Kind::Histogram => Cow::Borrowed(self.base),
        }
    }
}

/// All families at one moment, in a fixed order. A family without points is listed all the same.
#[must_use]
pub fn families(figures: &Figures, now: Instant) -> Vec<Family> {
    let mut list = List(Vec::new());
    for figures_of_stream in figures.all() {
        let families = families_of_stream(figures_of_stream, figures.are_several(), now);
        if list.0.is_empty() {
            list.0 = families;
        } else {
            // The same ones in the same order, of another stream.
            list.0.iter_mut().zip(families).for_each(|(family, other)| family.points.extend(other.points));
        }
    }
    list.daemon(figures, now);
    list.exports(figures);
    list.process(Process::look());
    list.0
}

/// What is counted by stream; where there are several, each point has the name of its own.
fn families_of_stream(figures: &Figures, is_one_of_several: bool, now: Instant) -> Vec<Family> {
    let mut list = List(Vec::with_capacity(64));
    let sender = figures.sender().clone();
    list.ledger(&figures.ledger().columns());
    list.queue(figures, &sender, now);
    list.spool(figures.spool().clone());
    list.sender(sender);
    list.stream(&figures.stream(), now);
    if is_one_of_several {
        let name = figures.stream_name().unwrap_or_default();
        for point in list.0.iter_mut().flat_map(|family| &mut family.points) {
            point.labels.push(("stream", name.to_owned().into()));
        }
    }
    list.0
}

struct List(Vec<Family>);

impl List {
    fn add(
        &mut self,
        kind: Kind,
        base: &'static str,
        help: &'static str,
        unit: &'static str,
        points: Vec<Point>,
    ) {
        self.0.push(Family { base, help, unit, kind, points });
    }

    fn counter(&mut self, base: &'static str, help: &'static str, unit: &'static str, value: u64) {
        self.add(Kind::Counter, base, help, unit, vec![plain(Value::Whole(value))]);
    }

    fn gauge(&mut self, base: &'static str, help: &'static str, unit: &'static str, value: Option<Value>) {
        self.add(Kind::Gauge, base, help, unit, value.map(plain).into_iter().collect());
    }

    fn histogram(&mut self, base: &'static str, help: &'static str, unit: &'static str, value: Histogram) {
        self.add(Kind::Histogram, base, help, unit, vec![plain(Value::Histogram(value))]);
    }

    fn ledger(&mut self, columns: &Columns) {
        let (records, bytes) = (|count: &Count| count.records, |count: &Count| count.bytes);
        let Columns { received, recovered, delivered, dead_lettered, dropped, rejected, held } = columns;
        let drops = |value: fn(&Count) -> u64| {
            reasons(DropReason::ALL.iter().map(|reason| reason.label()), dropped, value)
        };
        let rejections = |value: fn(&Count) -> u64| {
            reasons(RejectReason::ALL.iter().map(|reason| reason.label()), rejected, value)
        };
        let (r, b) = ("{record}", "By");
        self.counter("hydrant_records_received", "Records taken from producers", r, received.records);
        self.counter(
            "hydrant_records_recovered",
            "Records read back from the spool at start",
            r,
            recovered.records,
        );
        self.counter("hydrant_records_delivered", "Records that Firehose has", r, delivered.records);
        self.counter(
            "hydrant_records_dead_lettered",
            "Records in the dead-letter store",
            r,
            dead_lettered.records,
        );
        let help = "Records gone for good, by reason";
        self.add(Kind::Counter, "hydrant_records_dropped", help, r, drops(records));
        let help = "Records turned away, never received, by reason";
        self.add(Kind::Counter, "hydrant_records_rejected", help, r, rejections(records));
        let help = "Records received and not yet settled";
        self.gauge("hydrant_records_held", help, r, Some(Value::Whole(held.records)));
        self.counter("hydrant_bytes_received", "Bytes of records taken from producers", b, received.bytes);
        self.counter(
            "hydrant_bytes_recovered",
            "Bytes of records read back from the spool at start",
            b,
            recovered.bytes,
        );
        self.counter("hydrant_bytes_delivered", "Bytes of records that Firehose has", b, delivered.bytes);
        self.counter(
            "hydrant_bytes_dead_lettered",
            "Bytes of records in the dead-letter store",
            b,
            dead_lettered.bytes,
        );
        let help = "Bytes of records gone for good, by reason";
        self.add(Kind::Counter, "hydrant_bytes_dropped", help, b, drops(bytes));
        let help = "Bytes of records turned away, never received, by reason";
        self.add(Kind::Counter, "hydrant_bytes_rejected", help, b, rejections(bytes));
        let help = "Bytes of records received and not yet settled";
        self.gauge("hydrant_bytes_held", help, b, Some(Value::Whole(held.bytes)));
    }

    /// What there is of the daemon once.
    fn daemon(&mut self, figures: &Figures, now: Instant) {
        // Of the first stream alone: what joins it to others counts on there being one.
        let info = figures.stream_name().map(|name| Point {
            labels: vec![
                ("delivery_stream_name", name.to_owned().into()),
                ("version", env!("CARGO_PKG_VERSION").into()),
            ],
            value: Value::Whole(1),
        });
        let help = "1, with what does not change while the daemon runs";
        self.add(Kind::Gauge, "hydrant_info", help, "1", info.into_iter().collect());
        let uptime = Value::Real(figures.uptime(now).as_secs_f64());
        self.gauge("hydrant_uptime_seconds", "Time since the daemon started", "s", Some(uptime));
        self.gauge(
            "hydrant_connections",
            "Connections of producers",
            "{connection}",
            whole(figures.connections()),
        );
        self.counter(
            "hydrant_accept_pauses",
            "Times that accepting connections had to pause",
            "{pause}",
            figures.accept_pauses(),
        );
    }

    /// What is between listeners and the stream.
    fn queue(&mut self, figures: &Figures, sender: &SenderFigures, now: Instant) {
        let age = sender.state.oldest.map_or(Duration::ZERO, |oldest| now.saturating_duration_since(oldest));
        self.gauge(
            "hydrant_oldest_record_age_seconds",
            "Age of the record held longest",
            "s",
            Some(Value::Real(age.as_secs_f64())),
        );
        self.gauge(
            "hydrant_in_flight_requests",
            "Requests sent and not answered",
            "{request}",
            whole(figures.in_flight()),
        );
        let buffer = figures.buffer();
        self.gauge(
            "hydrant_buffer_bytes",
            "Memory for records that may be reserved, a share of buffer.memory",
            "By",
            buffer.map(|buffer| buffer.total).and_then(whole),
        );
        self.gauge(
            "hydrant_buffer_reserved_bytes",
            "Memory for records that is reserved",
            "By",
            buffer.map(|buffer| buffer.reserved).and_then(whole),
        );
        self.gauge(
            "hydrant_buffer_wanted_bytes",
            "Memory that listeners wait for while their producers are held back",
            "By",
            buffer.map(|buffer| buffer.wanted).and_then(whole),
        );
        let trouble = whole(usize::from(sender.state.trouble.is_some()));
        self.gauge("hydrant_stream_in_trouble", "1 while the stream fails as a whole", "{stream}", trouble);
    }

    fn sender(&mut self, sender: SenderFigures) {
        self.counter(
            "hydrant_billed_bytes",
            "Bytes that Firehose bills, each record rounded up to 5 KiB",
            "By",
            sender.billed_bytes,
        );
        self.counter(
            "hydrant_unpacked_billed_bytes",
            "Bytes that Firehose would bill for the same, had every record been sent by itself",
            "By",
            sender.unpacked_billed_bytes,
        );
        self.counter(
            "hydrant_compression_input_bytes",
            "Bytes of the records that Firehose has accepted compressed",
            "By",
            sender.compressed_from,
        );
        self.counter(
            "hydrant_compression_output_bytes",
            "Bytes that those were compressed to",
            "By",
            sender.compressed_to,
        );
        self.counter(
            "hydrant_ambiguous_records",
            "Records sent again after an attempt whose answer was lost: each may be at Firehose twice",
            "{record}",
            sender.ambiguous_records,
        );
        let waited = vec![plain(Value::Real(sender.quota_wait.as_secs_f64()))];
        let help = "Time for which what was ready to be sent waited for the stream's quota";
        self.add(Kind::Counter, "hydrant_quota_wait_seconds", help, "s", waited);
        let pace = sender.state.pace.map(|pace| plain(Value::Real(pace)));
        let help =
            "Bytes a second that is sent at most, as throttling has taught; absent where nothing is paced";
        self.add(Kind::Gauge, "hydrant_pace_bytes_per_second", help, "By/s", pace.into_iter().collect());
        // From zero on, as everything that has a closed set of labels: the first failure is an
        // increase that an alarm can see.
        let puts = Operation::ALL.map(Operation::name).into_iter().flat_map(|operation| {
            let count = |outcome| sender.puts.get(&(operation, outcome)).copied().unwrap_or_default();
            Outcome::ALL.map(|outcome| Point {
                labels: vec![("operation", operation.into()), ("outcome", outcome.label().into())],
                value: Value::Whole(count(outcome)),
            })
        });
        let help = "Requests by call and outcome";
        self.add(Kind::Counter, "hydrant_put_requests", help, "{request}", puts.collect());
        let retried = sender.retried.into_iter().map(|(code, count)| Point {
            labels: vec![("error_code", code.into())],
            value: Value::Whole(count),
        });
        let help = "Records sent again, by the code of the failure";
        self.add(Kind::Counter, "hydrant_retried_records", help, "{record}", retried.collect());
        self.histogram("hydrant_put_duration_seconds", "Duration of a request", "s", sender.put_duration);
        self.histogram(
            "hydrant_delivery_latency_seconds",
            "Time from reading a record to Firehose having it",
            "s",
            sender.delivery_latency,
        );
        self.histogram("hydrant_batch_records", "Records a request", "{record}", sender.batch_records);
        self.histogram("hydrant_batch_bytes", "Record bytes a request", "By", sender.batch_bytes);
    }

    /// Without a spool no point has a value.
    fn spool(&mut self, spool: Option<SpoolFigures>) {
        let whole = |value: fn(&SpoolFigures) -> u64| spool.as_ref().map(|spool| Value::Whole(value(spool)));
        let help = "Bytes that the spool takes on the disk";
        self.gauge("hydrant_spool_bytes", help, "By", whole(|spool| spool.bytes));
        let help = "Bytes that the spool may take, buffer.disk";
        self.gauge("hydrant_spool_limit_bytes", help, "By", whole(|spool| spool.limit_bytes));
        let help = "Records in the spool and not settled";
        self.gauge("hydrant_spool_records", help, "{record}", whole(|spool| spool.kept.records));
        let conditions = spool.iter().flat_map(|spool| {
            SpoolCondition::ALL.map(|condition| Point {
                labels: vec![("condition", condition.label().into())],
                value: Value::Whole(u64::from(spool.condition == condition)),
            })
        });
        let help = "1 for the condition that the spool is in, 0 for the others";
        self.add(Kind::Gauge, "hydrant_spool_condition", help, "{spool}", conditions.collect());
        let help = "Bytes that the last start found damaged in the spool and set aside";
        self.gauge("hydrant_spool_damaged_bytes", help, "By", whole(|spool| spool.damaged_bytes));
        let help = "Records that the last start found to be damaged in the spool or missing from it";
        self.gauge("hydrant_spool_lost_records", help, "{record}", whole(|spool| spool.lost_records));
        let syncs = spool.map(|spool| plain(Value::Histogram(spool.sync_duration)));
        let help = "Duration of a sync of the spool, where buffer.sync is always";
        let points = syncs.into_iter().collect();
        self.add(Kind::Histogram, "hydrant_spool_sync_duration_seconds", help, "s", points);
    }

    /// The stream's own figures. What is not known has no point.
    fn stream(&mut self, stream: &Stream, now: Instant) {
        for reading in Reading::ALL {
            let value = stream.reading(reading).map(|datapoint| Value::Real(datapoint.value));
            self.gauge(reading.gauge(), reading.help(), reading.unit(), value);
        }
        let status = stream.description.as_ref().map(|description| description.status.as_str());
        let points = STATUSES.into_iter().filter(|_| status.is_some()).map(|known| Point {
            labels: vec![("status", known.into())],
            value: Value::Whole(u64::from(status == Some(known))),
        });
        let help = "1 for the status that DescribeDeliveryStream gave, 0 for the others";
        self.add(Kind::Gauge, "hydrant_stream_status", help, "{stream}", points.collect());
        let age =
            |at: Option<Instant>| at.map(|at| Value::Real(now.saturating_duration_since(at).as_secs_f64()));
        self.gauge(
            "hydrant_stream_poll_age_seconds",
            "Time since the stream's metrics were last read",
            "s",
            age(stream.polled_at),
        );
        let calls = stream.calls.iter().map(|((action, outcome), count)| Point {
            labels: vec![("action", (*action).into()), ("outcome", outcome.label().into())],
            value: Value::Whole(*count),
        });
        let help = "Calls for monitoring by action and outcome";
        self.add(Kind::Counter, "hydrant_monitor_calls", help, "{request}", calls.collect());
    }
}

impl List {
    fn exports(&mut self, figures: &Figures) {
        let exports = figures.exports().clone();
        let points = exports.into_iter().map(|((signal, outcome), count)| Point {
            labels: vec![("signal", signal.label().into()), ("outcome", outcome.label().into())],
            value: Value::Whole(count),
        });
        let help = "Exports by OTLP by signal and outcome";
        self.add(Kind::Counter, "hydrant_otlp_exports", help, "{request}", points.collect());
    }

    /// Under the names that every Prometheus client library has for them.
    fn process(&mut self, process: Process) {
        let Process { cpu_seconds, resident_bytes } = process;
        let cpu = vec![plain(Value::Real(cpu_seconds))];
        let help = "User and system time that the daemon took";
        self.add(Kind::Counter, "process_cpu_seconds", help, "s", cpu);
        let help = "Memory of the daemon that is resident";
        self.gauge("process_resident_memory_bytes", help, "By", Some(Value::Whole(resident_bytes)));
    }
}

fn whole(number: usize) -> Option<Value> {
    Some(Value::Whole(u64::try_from(number).unwrap_or(u64::MAX)))
}

fn plain(value: Value) -> Point {
    Point { labels: Vec::new(), value }
}

fn reasons(
    labels: impl Iterator<Item = &'static str>,
    counts: &[Count],
    value: fn(&Count) -> u64,
) -> Vec<Point> {
    let point = |(reason, count): (&'static str, &Count)| Point {
        labels: vec![("reason", reason.into())],
        value: Value::Whole(value(count)),
    };
    labels.zip(counts).map(point).collect()
}
