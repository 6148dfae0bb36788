//! Every figure in words: sections of rows, of which the screen shows as many as it has room for.
//! Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use ratatui::text::{Line, Span};

use super::model::{
    Balance, Compression, Count, Ledger, Model, Monitor, Monitoring, OneStream, Trouble, float, sum,
};
use super::theme::Theme;
use super::words::{count, duration, number, percent, records, seconds, size, whole};

/// Between two figures of a row.
const AND: &str = " · ";
/// A figure that the daemon does not say, or does not know.
pub const UNKNOWN: &str = "unknown";
/// Causes that have a row of their own.
const MAX_CAUSES: usize = 4;
/// Names of streams are made as wide as the widest, up to so many columns.
const MOST_PADDED: usize = 32;
/// Cells of a gauge.
const GAUGE_CELLS: u8 = 10;

/// Rows that belong together.
#[derive(Debug)]
pub struct Section {
    /// What they are about.
    pub title: &'static str,
    /// The rows.
    pub rows: Vec<Row>,
    /// They are longer than others, and there may be many.
    pub wide: bool,
}

/// A figure, or a few, with its name.
#[derive(Debug)]
pub struct Row {
    /// Its name.
    pub label: String,
    /// The figures.
    pub value: Line<'static>,
    /// How early it gives way where there is no room for all; those of rank 0 last.
    pub rank: u8,
}

/// The highest rank of a row.
pub const MAX_RANK: u8 = 2;

/// Everything that is known, in words.
#[must_use]
pub fn sections(model: &Model, theme: Theme) -> Vec<Section> {
    let write = Writer { model, theme };
    let sections = [
        ("flow", write.flow()),
        ("held", write.held()),
        (STREAMS, write.streams()),
        ("Firehose", write.firehose()),
        ("records", write.records()),
        ("money", write.money()),
        ("stream", write.stream()),
        ("process", write.process()),
    ];
    let sections = sections.into_iter().filter(|(_, rows)| !rows.is_empty());
    sections.map(|(title, rows)| Section { title, rows, wide: title == STREAMS }).collect()
}

/// The section of which there is none with one stream.
const STREAMS: &str = "streams";

/// Writes the sections.
struct Writer<'a> {
    model: &'a Model,
    theme: Theme,
}

/// A row of `figures`, one beside the other. Where all are unknown, that is said once.
fn row(rank: u8, label: &str, mut figures: Vec<Span<'static>>) -> Row {
    if figures.iter().all(|figure| figure.content.ends_with(UNKNOWN)) {
        figures.truncate(1);
        figures.iter_mut().for_each(|figure| figure.content = UNKNOWN.into());
    }
    let mut value = Line::default();
    for (index, figure) in figures.into_iter().enumerate() {
        if index > 0 {
            value.push_span(AND);
        }
        value.push_span(figure);
    }
    Row { label: label.to_owned(), value, rank }
}

/// How often `name` happened.
fn tally(name: &str, times: u64) -> Span<'static> {
    Span::raw(format!("{name} {}", count(times)))
}

/// Records that were sent again, by cause, the most frequent first.
fn sent_again(retried: &BTreeMap<String, u64>) -> Vec<Row> {
    let mut causes: Vec<_> = retried.iter().map(|(cause, records)| (cause.as_str(), *records)).collect();
    causes.sort_by_key(|(_, records)| std::cmp::Reverse(*records));
    let others = causes.split_off(causes.len().min(MAX_CAUSES));
    if !others.is_empty() {
        let sum = others.iter().fold(0, |sum: u64, (_, records)| sum.saturating_add(*records));
        causes.push(("for other causes", sum));
    }
    let mut rows: Vec<_> = causes
        .into_iter()
        .enumerate()
        .map(|(index, (cause, records))| {
            let (rank, label) = if index == 0 { (0, "sent again") } else { (2, "") };
            row(rank, label, vec![tally(cause, records)])
        })
        .collect();
    if rows.is_empty() {
        rows.push(row(0, "sent again", vec![Span::raw("no records")]));
    }
    rows
}

impl Writer<'_> {
    fn unknown(&self) -> Span<'static> {
        Span::styled(UNKNOWN, self.theme.quiet())
    }

    /// `figure` as `write` puts it, or that it is unknown.
    fn known<T>(&self, figure: Option<T>, write: impl FnOnce(T) -> String) -> Span<'static> {
        figure.map_or_else(|| self.unknown(), |figure| Span::raw(write(figure)))
    }

    /// `figure` as `write` puts it, or that `what` is unknown.
    fn part<T>(&self, what: &str, figure: Option<T>, write: impl FnOnce(T) -> String) -> Span<'static> {
        let unknown = || Span::styled(format!("{what} {UNKNOWN}"), self.theme.quiet());
        figure.map_or_else(unknown, |figure| Span::raw(write(figure)))
    }

    fn records(&self) -> Vec<Row> {
        let ledger = &self.model.status.ledger;
        let column = |rank, label, Count { records, bytes }: Count| {
            row(rank, label, vec![self.known(records, count), self.known(bytes, size)])
        };
        let mut rows = vec![column(1, "received", ledger.received)];
        if ledger.recovered.records != Some(0) {
            rows.push(column(2, "recovered", ledger.recovered));
        }
        rows.push(column(1, "delivered", ledger.delivered));
        rows.push(self.lost("dead-lettered", ledger.dead_lettered.records, None));
        for (label, by_reason) in [("dropped", &ledger.dropped), ("rejected", &ledger.rejected)] {
            rows.push(self.lost(label, sum(by_reason), Some(by_reason)));
        }
        rows.push(row(0, "ledger", vec![self.ledger(ledger.balance())]));
        rows
    }

    /// Records that did not reach the stream: of no interest unless there are any.
    fn lost(&self, label: &str, number: Option<u64>, by_reason: Option<&BTreeMap<String, Count>>) -> Row {
        let Some(lost) = number.filter(|number| *number > 0) else {
            return row(2, label, vec![self.known(number, |_| "none".to_owned())]);
        };
        let reasons = by_reason.into_iter().flatten().filter(|(_, count)| count.records != Some(0));
        let reasons: Vec<_> = reasons
            .map(|(reason, Count { records, .. })| {
                let records = records.map_or_else(|| UNKNOWN.to_owned(), count);
                format!("{} {records}", reason.replace('_', " "))
            })
            .collect();
        let mut figures = vec![Span::styled(records(lost), self.theme.warning())];
        if !reasons.is_empty() {
            figures.push(Span::raw(reasons.join(", ")));
        }
        row(0, label, figures)
    }

    fn ledger(&self, balance: Option<Balance>) -> Span<'static> {
        let Some(balance) = balance else { return self.unknown() };
        let side = |columns: &[u64]| columns.iter().copied().map(count).collect::<Vec<_>>().join(" + ");
        let taken = match balance.taken {
            [received, 0] => count(received),
            taken => side(&taken),
        };
        let accounted = side(&balance.accounted);
        let (verdict, equals, style) = if balance.adds_up() {
            ("adds up", "=", self.theme.good())
        } else {
            ("DOES NOT ADD UP", "≠", self.theme.problem())
        };
        Span::styled(format!("{verdict}: {taken} {equals} {accounted}"), style)
    }

    fn flow(&self) -> Vec<Row> {
        let rates = &self.model.status.rates;
        let records = |rate: f64| format!("{} records/s", number(rate));
        let bytes = |rate: f64| format!("{}/s", size(whole(rate)));
        let flow = |label, per_second: [Option<f64>; 2]| {
            let [of_records, of_bytes] = per_second;
            row(0, label, vec![self.known(of_records, records), self.known(of_bytes, bytes)])
        };
        vec![
            flow("in", [rates.received_records_per_second, rates.received_bytes_per_second]),
            flow("out", [rates.delivered_records_per_second, rates.delivered_bytes_per_second]),
        ]
    }

    fn held(&self) -> Vec<Row> {
        let buffer = &self.model.status.buffer;
        let held = self.model.status.ledger.held;
        let oldest = match (buffer.oldest_record_age_ms, held.records) {
            (None, Some(0)) => Span::raw("nothing waits"),
            (age, _) => self.known(age, |age| format!("oldest {}", duration(Duration::from_millis(age)))),
        };
        let share = buffer.reserved_bytes.zip(buffer.records_bytes).filter(|(_, all)| *all > 0);
        let memory = match share {
            None => row(0, "memory", vec![self.unknown()]),
            Some((reserved, all)) => {
                let share = float(reserved) / float(all);
                let mut line = row(0, "memory", vec![self.gauge(share)]);
                line.value.push_span(format!(" {} of {} reserved", percent(share), size(all)));
                line
            }
        };
        let waiting = match buffer.wanted_bytes {
            Some(bytes) if bytes > 0 => {
                Span::styled(format!("producers wait for {}", size(bytes)), self.theme.warning())
            }
            bytes => self.known(bytes, |_| "no producer waits for memory".to_owned()),
        };
        let waits = u8::from(buffer.wanted_bytes.is_none_or(|bytes| bytes == 0));
        vec![
            row(0, "held", vec![self.known(held.records, records), self.known(held.bytes, size), oldest]),
            memory,
            row(waits, "waiting", vec![waiting]),
        ]
    }

    /// A bar for a share of 1.
    fn gauge(&self, share: f64) -> Span<'static> {
        let full = whole(share.clamp(0.0, 1.0) * f64::from(GAUGE_CELLS));
        let cell = |index| if u64::from(index) < full { '█' } else { '░' };
        Span::styled((0..GAUGE_CELLS).map(cell).collect::<String>(), self.theme.plot())
    }

    /// Each stream's own, those in trouble first.
    fn streams(&self) -> Vec<Row> {
        let mut streams: Vec<&OneStream> = self.model.status.streams.iter().collect();
        streams.sort_by_key(|one| one.trouble.is_none());
        let name = |one: &OneStream| one.delivery_stream_name.clone().unwrap_or_else(|| UNKNOWN.to_owned());
        let longest = streams.iter().map(|one| name(one).chars().count()).max().unwrap_or(0);
        let width = longest.min(MOST_PADDED);
        let write = |(index, one): (usize, &OneStream)| {
            let label = if index == 0 { STREAMS } else { "" };
            let mut figures = vec![Span::raw(format!("{:<width$}", name(one)))];
            figures.extend(self.one_stream(one));
            row(u8::from(one.trouble.is_none()), label, figures)
        };
        streams.into_iter().enumerate().map(write).collect()
    }

    fn one_stream(&self, one: &OneStream) -> Vec<Span<'static>> {
        let mut figures = Vec::new();
        if let Some(Trouble { permanent, error_code, since_ms }) = &one.trouble {
            let code = error_code.as_deref().unwrap_or(UNKNOWN);
            let since = since_ms
                .map_or_else(String::new, |since| format!(" for {}", duration(Duration::from_millis(since))));
            let style = match permanent {
                Some(true) => self.theme.problem(),
                Some(false) | None => self.theme.warning(),
            };
            figures.push(Span::styled(format!("{code}{since}"), style));
        }
        let Ledger { held, delivered, .. } = &one.ledger;
        figures.push(self.part("held", held.records, |records| format!("{} held", count(records))));
        if let Some(age) = one.oldest_record_age_ms {
            figures.push(Span::raw(format!("oldest {}", duration(Duration::from_millis(age)))));
        }
        let delivered =
            self.part("delivered", delivered.records, |records| format!("{} delivered", count(records)));
        figures.push(delivered);
        let add = |numbers: &mut dyn Iterator<Item = u64>| numbers.fold(0, u64::saturating_add);
        let retried = add(&mut one.retried.values().copied());
        let throttled = one.requests.values().filter_map(|outcomes| outcomes.get("throttled"));
        let throttled = add(&mut throttled.copied());
        figures.push(Span::raw(format!("{} sent again", count(retried))));
        if throttled > 0 {
            figures
                .push(Span::styled(format!("{} requests throttled", count(throttled)), self.theme.warning()));
        }
        match one.packing.packed {
            Some(true) => figures.push(Span::raw("packed")),
            Some(false) => figures.push(Span::raw("not packed")),
            None => {}
        }
        if let Some(spool) = &one.spool {
            figures.push(self.part("spool", spool.bytes, |bytes| format!("spool {}", size(bytes))));
        }
        figures
    }

    fn firehose(&self) -> Vec<Row> {
        let stream = &self.model.status.stream;
        let below = |what: &str, [half, most]: [Option<f64>; 2]| {
            let below = |part: &'static str| move |limit| format!("{part} below {}", seconds(limit));
            row(2, what, vec![self.known(half, below("half")), self.known(most, below("99 %"))])
        };
        let in_flight = self.known(stream.in_flight_requests, |requests| {
            let most = stream.max_in_flight_requests.map_or_else(|| UNKNOWN.to_owned(), count);
            format!("{} of {most} requests", count(requests))
        });
        let mut rows = vec![row(0, "in flight", vec![in_flight])];
        for (call, outcomes) in &stream.requests {
            rows.push(row(0, call, outcomes.iter().map(|(name, number)| tally(name, *number)).collect()));
        }
        if stream.requests.is_empty() {
            rows.push(row(0, "requests", vec![Span::raw("none so far")]));
        }
        rows.extend(sent_again(&stream.retried));
        let ambiguous = stream.ambiguous_records;
        let rank = if ambiguous.is_some_and(|records| records > 0) { 1 } else { 2 };
        rows.push(row(rank, "perhaps twice", vec![self.known(ambiguous, records)]));
        let rates = &self.model.status.rates;
        rows.push(row(
            2,
            "sending",
            vec![
                self.known(rates.requests_per_second, |rate| format!("{} requests/s", number(rate))),
                self.known(rates.retried_records_per_second, |rate| {
                    format!("{} records/s sent again", number(rate))
                }),
            ],
        ));
        rows.push(below("answers", [stream.put_seconds_p50_below, stream.put_seconds_p99_below]));
        rows.push(below("delivery", [stream.delivery_seconds_p50_below, stream.delivery_seconds_p99_below]));
        rows
    }

    fn money(&self) -> Vec<Row> {
        let billed = self.model.status.stream.billed_bytes;
        let delivered = self.model.status.ledger.delivered.bytes;
        let factor = billed.zip(delivered).filter(|(_, delivered)| *delivered > 0);
        let factor = factor.map(|(billed, delivered)| float(billed) / float(delivered));
        let figures = match (billed, delivered) {
            (Some(0), Some(0)) => vec![Span::raw("nothing so far")],
            _ => vec![
                self.known(billed, size),
                self.known(factor, |factor| format!("{factor:.2} × the bytes delivered")),
            ],
        };
        let mut rows = vec![row(0, "billed", figures), row(1, "saved", vec![self.saved()])];
        rows.extend(self.compressed());
        rows.push(row(2, "packed", vec![self.packed()]));
        rows
    }

    /// By how much what was compressed has become smaller; `None` where nothing was.
    fn compressed(&self) -> Option<Row> {
        let Compression { input_bytes, output_bytes } = self.model.status.stream.compression;
        let (input, output) = input_bytes.zip(output_bytes).filter(|(_, output)| *output > 0)?;
        let ratio = format!("{:.2} × smaller", float(input) / float(output));
        let sizes = format!("{} to {}", size(input), size(output));
        Some(row(1, "compressed", vec![Span::raw(ratio), Span::raw(sizes)]))
    }

    /// What packing saves of what the same records would cost otherwise.
    fn saved(&self) -> Span<'static> {
        let stream = &self.model.status.stream;
        match (stream.billed_bytes, stream.unpacked_billed_bytes) {
            (Some(_), Some(0)) => Span::raw("nothing so far"),
            (Some(billed), Some(unpacked)) => {
                let saving = 1.0 - float(billed) / float(unpacked);
                Span::raw(format!("{} of the {} without packing", percent(saving), size(unpacked)))
            }
            _ => self.unknown(),
        }
    }

    fn packed(&self) -> Span<'static> {
        let packing = &self.model.status.stream.packing;
        let yes = |packed| if packed { "yes" } else { "no" };
        let packed = packing.packed.zip(packing.reason.as_ref());
        if packed.is_none() && !self.model.status.streams.is_empty() {
            return Span::raw("as the stream is");
        }
        self.known(packed, |(packed, reason)| format!("{}: {reason}", yes(packed)))
    }

    fn stream(&self) -> Vec<Row> {
        match &self.model.status.monitor {
            Monitoring::Unknown => vec![row(0, "stream", vec![self.unknown()])],
            Monitoring::Off => {
                vec![row(0, "stream", vec![Span::styled("off: monitor.interval is 0s", self.theme.quiet())])]
            }
            Monitoring::On(monitor) => self.monitor(monitor),
        }
    }

    fn monitor(&self, monitor: &Monitor) -> Vec<Row> {
        let status = monitor.status.clone().map_or_else(
            || self.unknown(),
            |status| {
                let active = status == "ACTIVE";
                Span::styled(status, if active { self.theme.good() } else { self.theme.problem() })
            },
        );
        let name = self.model.status.delivery_stream_name.as_ref();
        let name = name.filter(|_| !self.model.status.streams.is_empty());
        let mut stream: Vec<_> = name.map(|name| Span::raw(name.clone())).into_iter().collect();
        stream.push(status);
        let about = [&monitor.kind, &monitor.destination].into_iter().flatten();
        stream.extend(about.map(|word| Span::raw(word.clone())));
        if let Some(encryption) = &monitor.encryption {
            stream.push(Span::raw(format!("encryption {encryption}")));
        }
        let quota = |name: &str, share| self.part(name, share, |share| format!("{name} {}", percent(share)));
        let used = &monitor.quota_use;
        let records = |records: f64| format!("{} records", number(records));
        let minute = vec![
            self.part("records", monitor.reading("incoming_records"), records),
            self.part("bytes", monitor.reading("incoming_bytes"), |bytes| size(whole(bytes))),
            self.part("throttled", monitor.reading("throttled_records"), |records| {
                format!("{} throttled", number(records))
            }),
        ];
        let reached = vec![
            self.part("oldest underway", monitor.reading("data_freshness_seconds"), |age| {
                format!("oldest underway {}", seconds(age))
            }),
            self.part("success", monitor.reading("delivery_success_ratio"), |share| {
                format!("{} of deliveries succeed", percent(share))
            }),
        ];
        let looked = |ago| format!("{} ago", duration(Duration::from_millis(ago)));
        let mut rows = vec![
            row(0, "stream", stream),
            row(
                0,
                "quotas used",
                vec![
                    quota("bytes", used.bytes),
                    quota("records", used.records),
                    quota("requests", used.put_requests),
                ],
            ),
            row(1, "last minute", minute),
            row(1, "destination", reached),
            row(2, "looked at", vec![self.known(monitor.polled_ms_ago, looked)]),
        ];
        for (action, problem) in &monitor.problems {
            let problem = Span::styled(format!("{action}: {problem}"), self.theme.warning());
            rows.push(row(1, "problem", vec![problem]));
        }
        rows
    }

    fn process(&self) -> Vec<Row> {
        let process = &self.model.status.process;
        let cpu = self.known(process.cpu, |share| format!("{} of a core", percent(share)));
        let memory = self.known(process.resident_bytes, |bytes| format!("{} resident", size(bytes)));
        vec![row(0, "process", vec![cpu, memory])]
    }
}
