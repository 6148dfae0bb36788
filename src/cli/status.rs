//! `hydrant status`: what the delivery stream is and does, once; of several, each.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

use serde_json::{Map, Value, json};

use super::options::{TargetOptions, say};
use crate::config::Config;
use crate::firehose::{Datapoint, Description, Destination, Sdk, Settings, Watch, WatchError};
use crate::limits::BILLED_UNIT_BYTES;
use crate::poller::catalog::queries;
use crate::poller::{latest, window};
use crate::sender::packing::{self, Decision};
use crate::telemetry::stream::{Reading, Stream};
use crate::telemetry::wall_clock;

/// Describes the delivery stream and reads its metrics from CloudWatch, once
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: hydrant status --stream app-logs --region eu-west-1\n\n\
                        Metrics are of the last whole minute that CloudWatch knows; what it does not know is \
                        unknown, and not zero.")]
pub struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: TargetOptions,
}

/// Runs the command; returns the exit code.
pub fn execute(args: Args) -> u8 {
    let (config, runtime) = match args.target.ready() {
        Ok(ready) => ready,
        Err(code) => return code,
    };
    let sdk = Sdk::new(Settings::from(&config));
    let streams = config.streams();
    let mut all = Vec::new();
    for name in &streams {
        let found = runtime.block_on(Found::look(&sdk, &config, name, wall_clock()));
        let whose = if streams.len() > 1 { format!("delivery stream {name}: ") } else { String::new() };
        for problem in found.stream.problems.values() {
            say(&format!("{}: {whose}{problem}", if found.failed { "error" } else { "warning" }));
        }
        all.push(found);
    }
    let failed = all.iter().any(|found| found.failed);
    if all.iter().all(|found| found.failed) {
        return super::FAILED;
    }
    let printed = super::print(&if args.json { json(&all) } else { text(&all) });
    if failed { super::FAILED } else { printed }
}

/// What was found of the first stream, and where there are several, of each.
fn json(all: &[Found]) -> String {
    let mut document = all.first().map_or(Value::Null, Found::json);
    if let (Some(members), true) = (document.as_object_mut(), all.len() > 1) {
        members.insert("streams".to_owned(), all.iter().map(Found::json).collect());
    }
    format!("{document:#}\n")
}

/// What was found of those that anything was found of, one below the other.
fn text(all: &[Found]) -> String {
    let texts = all.iter().filter(|found| !found.failed).map(Found::text);
    texts.collect::<Vec<_>>().join("\n")
}

/// What could be found out.
struct Found {
    /// The stream's name.
    name: String,
    stream: Stream,
    /// Whether a daemon of this configuration packs records for it.
    packing: Decision,
    /// The stream is not there, or nothing could be found out.
    failed: bool,
}

impl Found {
    async fn look(watch: &impl Watch, config: &Config, name: &str, at: SystemTime) -> Self {
        let mut stream = Stream::default();
        let described = watch.describe(name).await;
        let missing = matches!(described, Err(WatchError::Missing(_)));
        let mut failures = 0;
        let mut failed = |stream: &mut Stream, action: &'static str, error: &WatchError| {
            stream.problems.insert(action, error.message().to_owned());
            failures += 1;
        };
        match described {
            Ok(description) => stream.description = Some(description),
            Err(error) => failed(&mut stream, "DescribeDeliveryStream", &error),
        }
        let packing = packing::decide(&config.aggregate, &config.delimiter, stream.description.as_ref());
        if missing {
            return Self { name: name.to_owned(), stream, packing, failed: true };
        }
        let destination = stream.description.as_ref().and_then(|description| description.destination);
        let (readings, wanted): (Vec<_>, Vec<_>) = queries(destination, true).into_iter().unzip();
        let (start, end) = window(at);
        match watch.metrics(name, &wanted, start, end).await {
            Ok(series) => {
                let values = readings.into_iter().zip(series);
                let known = values.filter_map(|(reading, series)| Some((reading, latest(&series, at)?)));
                stream.readings = known.collect::<BTreeMap<Reading, Datapoint>>();
                stream.polled_at = Some(crate::telemetry::now());
            }
            Err(error) => failed(&mut stream, "GetMetricData", &error),
        }
        Self { name: name.to_owned(), failed: failures == 2, stream, packing }
    }

    fn json(&self) -> Value {
        let readings = Reading::ALL.into_iter().map(|reading| {
            let value = self
                .stream
                .reading(reading)
                .map(|point| json!({ "value": point.value, "at": timestamp(point.at) }));
            (reading.key().to_owned(), value.into())
        });
        let description = self.stream.description.as_ref().map(|description| {
            json!({
                "status": description.status,
                "type": description.kind,
                "destination": description.destination.map(Destination::label),
                "buffering_seconds": description.buffering.map(|wait| wait.as_secs()),
                "encryption": description.encryption,
                "processors": description.processors,
                "failure": description.failure,
                "created": description.created.map(timestamp),
            })
        });
        let [bytes, records, requests] = self.stream.quota_use();
        json!({
            "delivery_stream_name": self.name,
            "description": description,
            "packing": { "packed": self.packing.packing.is_some(), "reason": self.packing.reason },
            "billed_bytes_at_least": self.billed_at_least(),
            "readings": readings.collect::<Map<String, Value>>(),
            "quota_use": { "bytes": bytes, "records": records, "put_requests": requests },
            "problems": self.stream.problems,
        })
    }

    /// What the last minute is billed at least: all its bytes, and 5 KiB for each record.
    fn billed_at_least(&self) -> Option<f64> {
        let value = |reading| self.stream.reading(reading).map(|point| point.value);
        let (bytes, records) = (value(Reading::IncomingBytes)?, value(Reading::IncomingRecords)?);
        #[expect(clippy::cast_precision_loss, reason = "5 KiB")]
        let least = records * BILLED_UNIT_BYTES as f64;
        Some(bytes.max(least))
    }

    fn text(&self) -> String {
        let mut text = format!("Delivery stream {}\n", self.name);
        let mut line = |label: &str, value: String| {
            // Writing to a string cannot fail.
            writeln!(text, "  {label:<14}{value}").ok();
        };
        match &self.stream.description {
            Some(description) => describe(description, &mut line),
            None => line("status", UNKNOWN.to_owned()),
        }
        let packed = if self.packing.packing.is_some() { "yes" } else { "no" };
        line("packing", format!("{packed}: {}", self.packing.reason));
        text.push_str("Ingestion metrics\n");
        let mut line = |label: &str, value: String| {
            writeln!(text, "  {label:<14}{value}").ok();
        };
        let [bytes, records, requests] = self.stream.quota_use();
        let value = |reading| self.stream.reading(reading).map(|point| point.value);
        for (label, reading, unit) in [
            ("bytes", Reading::IncomingBytes, "a minute"),
            ("records", Reading::IncomingRecords, "a minute"),
            ("requests", Reading::IncomingPutRequests, "a minute"),
            ("throttled", Reading::ThrottledRecords, "records a minute"),
        ] {
            let used = match reading {
                Reading::IncomingBytes => quota(bytes, value(Reading::BytesPerSecondLimit)),
                Reading::IncomingRecords => quota(records, value(Reading::RecordsPerSecondLimit)),
                Reading::IncomingPutRequests => quota(requests, value(Reading::PutRequestsPerSecondLimit)),
                Reading::ThrottledRecords
                | Reading::BytesPerSecondLimit
                | Reading::RecordsPerSecondLimit
                | Reading::PutRequestsPerSecondLimit
                | Reading::DataFreshness
                | Reading::DeliverySuccess => String::new(),
            };
            line(label, known(value(reading), |value| format!("{} {unit}{used}", grouped(value))));
        }
        let billed = |bytes: f64| format!("at least {} bytes a minute", grouped(bytes));
        line("billed", known(self.billed_at_least(), billed));
        let age = |seconds: f64| {
            format!(
                "oldest record in the stream {}",
                duration(Duration::try_from_secs_f64(seconds).unwrap_or_default())
            )
        };
        line("freshness", known(value(Reading::DataFreshness), age));
        let share = |share: f64| format!("{:.1} % of the deliveries succeeded", 100.0 * share);
        line("success", known(value(Reading::DeliverySuccess), share));
        let at = [Reading::IncomingBytes, Reading::IncomingRecords, Reading::DataFreshness];
        if let Some(point) = at.into_iter().find_map(|reading| self.stream.reading(reading)) {
            line("of the minute", timestamp(point.at));
        }
        text
    }
}

const UNKNOWN: &str = "unknown";

fn describe(description: &Description, line: &mut impl FnMut(&str, String)) {
    let Description {
        status, kind, destination, encryption, failure, created, processors, buffering, ..
    } = description;
    let why = failure.as_ref().map(|failure| format!(" ({failure})")).unwrap_or_default();
    line("status", format!("{status}{why}"));
    line("type", kind.clone());
    let every = buffering.map(|wait| format!(", buffered for {}", duration(wait))).unwrap_or_default();
    let destination = destination.map_or(UNKNOWN, Destination::label);
    line("destination", format!("{destination}{every}"));
    line("encryption", encryption.clone().unwrap_or_else(|| "never switched on".to_owned()));
    let processors = if processors.is_empty() { "none".to_owned() } else { processors.join(", ") };
    line("processors", processors);
    line("created", created.map_or_else(|| UNKNOWN.to_owned(), timestamp));
}

fn known(value: Option<f64>, shown: impl FnOnce(f64) -> String) -> String {
    value.map_or_else(|| UNKNOWN.to_owned(), shown)
}

fn quota(used: Option<f64>, limit: Option<f64>) -> String {
    match (used, limit) {
        (Some(used), Some(limit)) => {
            format!(", {:.1} % of the quota of {} a second", 100.0 * used, grouped(limit))
        }
        _ => String::new(),
    }
}

fn duration(duration: Duration) -> String {
    humantime::format_duration(Duration::from_secs(duration.as_secs())).to_string()
}

fn timestamp(time: SystemTime) -> String {
    humantime::format_rfc3339_seconds(time).to_string()
}

/// A whole number with its thousands apart.
pub(super) fn grouped(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut grouped = String::with_capacity(digits.len() * 4 / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(stream: Stream) -> Found {
        let reason = "`aggregate.mode` is \"off\"".to_owned();
        let packing = Decision { packing: None, reason, remedy: None };
        Found { name: "app".to_owned(), stream, packing, failed: false }
    }

    #[test]
    fn thousands_are_apart() {
        let check = |number, expected| assert_eq!(grouped(number), expected);
        check(0.0, "0");
        check(999.0, "999");
        check(1000.0, "1,000");
        check(5_242_880.0, "5,242,880");
    }

    // R-M4
    #[test]
    fn what_is_unknown_is_not_shown_as_zero() {
        let found = found(Stream::default());
        let text = found.text();
        assert_eq!(text.matches(UNKNOWN).count(), 8, "{text}");
        assert!(!text.contains('0'), "{text}");
        let json = found.json();
        assert_eq!((&json["description"], &json["readings"]["incoming_bytes"]), (&Value::Null, &Value::Null));
    }

    // R-V11
    #[test]
    fn of_several_streams_each_is_shown_and_one_that_is_not_there_only_to_machines() {
        let named = |name: &str, failed| Found { name: name.to_owned(), failed, ..found(Stream::default()) };
        let one = [named("app", false)];
        let text = super::text(&one);
        assert_eq!((text.matches("Delivery stream").count(), text), (1, one[0].text()));
        let read = |all: &[Found]| serde_json::from_str::<Value>(&super::json(all)).unwrap();
        assert_eq!(read(&one), one[0].json());
        let all = [named("app", false), named("gone", true), named("audit", false)];
        let text = super::text(&all);
        assert!(
            text.starts_with("Delivery stream app\n") && text.contains("\n\nDelivery stream audit\n"),
            "{text}"
        );
        assert!(!text.contains("gone"), "{text}");
        let json = read(&all);
        assert_eq!(json["delivery_stream_name"], "app");
        let names: Vec<_> =
            json["streams"].as_array().unwrap().iter().map(|one| &one["delivery_stream_name"]).collect();
        assert_eq!(names, ["app", "gone", "audit"]);
    }

    // R-A6
    #[test]
    fn figures_are_readable_and_beside_their_quota() {
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_764_000_000);
        let readings = [
            (Reading::IncomingBytes, 157_286_400.0),
            (Reading::IncomingRecords, 600_000.0),
            (Reading::BytesPerSecondLimit, 5_242_880.0),
            (Reading::DataFreshness, 75.0),
            (Reading::DeliverySuccess, 0.995),
        ];
        let readings =
            readings.into_iter().map(|(reading, value)| (reading, Datapoint { at, value })).collect();
        let stream = Stream { readings, ..Stream::default() };
        let text = found(stream).text();
        for expected in [
            "bytes         157,286,400 a minute, 50.0 % of the quota of 5,242,880 a second\n",
            "records       600,000 a minute\n",
            "billed        at least 3,072,000,000 bytes a minute\n",
            "packing       no: `aggregate.mode` is \"off\"\n",
            "requests      unknown\n",
            "freshness     oldest record in the stream 1m 15s\n",
            "success       99.5 % of the deliveries succeeded\n",
            "of the minute 2025-11-24T16:00:00Z\n",
        ] {
            assert!(text.contains(expected), "no {expected:?} in\n{text}");
        }
    }
}
