//! Metrics are those of `/metrics`, to the last bucket.

use std::collections::BTreeMap;

use hydrant::local::{Faults, Options};
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value as Number;
use opentelemetry_proto::tonic::metrics::v1::{AggregationTemporality, NumberDataPoint};

use crate::collector::{Collector, Manner};
use crate::daemon::{Sink, lines, number};

/// Values by name and labels, as in the Prometheus text, a histogram as its buckets, sum and count.
pub(crate) type Samples = BTreeMap<(String, BTreeMap<String, String>), f64>;

/// What goes on while nothing happens.
const MOVING: [&str; 4] = [
    "hydrant_uptime_seconds",
    "hydrant_otlp_exports_total",
    "process_cpu_seconds_total",
    "process_resident_memory_bytes",
];

/// The samples of the Prometheus text.
pub(crate) fn shown(text: &str) -> Samples {
    let samples = text.lines().filter(|line| !line.starts_with('#')).map(|line| {
        let (name, value) = line.rsplit_once(' ').unwrap();
        let (name, labels) = name.trim_end_matches('}').split_once('{').unwrap_or((name, ""));
        let labels = labels.split_terminator(',').map(|label| {
            let (name, value) = label.split_once('=').unwrap();
            let value = value.trim_matches('"');
            let bound = (name == "le").then(|| value.parse::<f64>().unwrap().to_string());
            (name.to_owned(), bound.unwrap_or_else(|| value.to_owned()))
        });
        ((name.to_owned(), labels.collect()), value.parse().unwrap())
    });
    samples.collect()
}

/// The samples of an export.
pub(crate) fn exported(request: &ExportMetricsServiceRequest) -> Samples {
    let mut samples = Samples::new();
    let mut add = |name: &str, labels: BTreeMap<String, String>, value: f64| {
        assert!(samples.insert((name.to_owned(), labels), value).is_none(), "{name} comes twice");
    };
    let scopes = request.resource_metrics.iter().flat_map(|resource| &resource.scope_metrics);
    for metric in scopes.flat_map(|scope| &scope.metrics) {
        let name = metric.name.as_str();
        assert!(!metric.description.is_empty() && !metric.unit.is_empty(), "{metric:?}");
        match metric.data.as_ref().unwrap() {
            Data::Sum(sum) => {
                assert!(sum.is_monotonic, "{name}");
                assert_eq!(sum.aggregation_temporality(), AggregationTemporality::Cumulative, "{name}");
                sum.data_points.iter().for_each(|point| add(name, labels(&point.attributes), value(point)));
            }
            Data::Gauge(gauge) => {
                gauge.data_points.iter().for_each(|point| add(name, labels(&point.attributes), value(point)));
            }
            Data::Histogram(histogram) => {
                assert_eq!(histogram.aggregation_temporality(), AggregationTemporality::Cumulative, "{name}");
                for point in &histogram.data_points {
                    let bounds = point.explicit_bounds.iter().copied().chain([f64::INFINITY]);
                    let mut below = 0;
                    for (bound, count) in bounds.zip(&point.bucket_counts) {
                        below += count;
                        let mut labels = labels(&point.attributes);
                        labels.insert("le".to_owned(), bound.to_string());
                        add(&format!("{name}_bucket"), labels, below as f64);
                    }
                    add(&format!("{name}_sum"), labels(&point.attributes), point.sum.unwrap());
                    add(&format!("{name}_count"), labels(&point.attributes), point.count as f64);
                }
            }
            other @ (Data::ExponentialHistogram(_) | Data::Summary(_)) => panic!("{name} is {other:?}"),
        }
    }
    samples
}

fn value(point: &NumberDataPoint) -> f64 {
    assert!(0 < point.start_time_unix_nano && point.start_time_unix_nano <= point.time_unix_nano);
    match point.value.unwrap() {
        Number::AsInt(value) => value as f64,
        Number::AsDouble(value) => value,
    }
}

fn labels(attributes: &[KeyValue]) -> BTreeMap<String, String> {
    attributes.iter().map(|attribute| (attribute.key.clone(), text(attribute))).collect()
}

/// The value of an attribute.
pub(crate) fn text(attribute: &KeyValue) -> String {
    match attribute.value.as_ref().and_then(|value| value.value.as_ref()) {
        Some(Value::StringValue(text)) => text.clone(),
        Some(Value::IntValue(number)) => number.to_string(),
        other => panic!("{} is {other:?}", attribute.key),
    }
}

/// Everything that was shown was exported at a later moment, and nothing else: equal, or gone on
/// where it goes on by itself, but not past what was shown after that.
pub(crate) fn compare(before: &Samples, export: &Samples, after: &Samples) {
    let names = |samples: &Samples| samples.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(before), names(export));
    for (key, value) in export {
        let expected = before[key]..=after[key];
        match key.0.as_str() {
            "process_resident_memory_bytes" => assert!(*value > 0.0),
            name if MOVING.contains(&name) => assert!(expected.contains(value), "{key:?}: {value}"),
            _ => assert_eq!(value, expected.start(), "{key:?}"),
        }
    }
}

// R-M19
#[tokio::test]
async fn every_figure_and_every_bucket_is_exported_as_it_is_shown() {
    let faults = Faults { fail_records: 0.1, throttle: 0.1, ..Faults::default() };
    let sink = Sink::start(Options { faults, seed: 3, ..Options::default() }).await;
    let collector = Collector::start(Manner::Takes).await;
    let endpoint = format!("otlp.endpoint={}", collector.url);
    let settings = [&endpoint, "monitor.interval=0", "retry.base_delay=1ms", "retry.max_delay=20ms"];
    let variables = [("OTEL_METRIC_EXPORT_INTERVAL", "20"), ("OTEL_TRACES_EXPORTER", "none")];
    let daemon = crate::daemon(&sink.local.url(), &variables, &settings).await;
    daemon.write(&lines(5000, 200)).await;
    daemon.until_settled(5000).await;
    daemon.until("left alone", |status| number(status, "/connections") == 0).await;
    collector.next_metrics().await;
    let before = shown(&daemon.get("/metrics").await.1);
    let export = exported(&collector.next_metrics().await);
    let after = shown(&daemon.get("/metrics").await.1);
    compare(&before, &export, &after);
    let retried = |(name, _): &(String, _)| name == "hydrant_retried_records_total";
    assert!(export.keys().any(retried), "nothing had labels: {export:?}");
}

// R-M19
#[tokio::test]
async fn the_last_export_has_the_account_at_the_end() {
    let sink = Sink::start(Options::default()).await;
    let collector = Collector::start(Manner::Takes).await;
    let endpoint = format!("otlp.endpoint={}", collector.url);
    let settings = [endpoint.as_str(), "linger=1h"];
    let variables = [("OTEL_METRIC_EXPORT_INTERVAL", "3600000")];
    // On a machine that is so busy that a second was not enough, the daemon says so: once more.
    let exports = loop {
        let seen = collector.exports("/v1/metrics").len();
        let daemon = crate::daemon(&sink.local.url(), &variables, &settings).await;
        daemon.write(&lines(700, 100)).await;
        let ended = daemon.stop().await;
        assert!(ended.status.success());
        if ended.said("The collector did not take the last export in time.").is_empty() {
            break collector.exports("/v1/metrics").split_off(seen);
        }
    };
    assert_eq!(exports.len(), 1);
    let samples = exported(&exports[0].metrics());
    for (name, value) in [
        ("hydrant_records_received_total", 700.0),
        ("hydrant_records_delivered_total", 700.0),
        ("hydrant_records_held", 0.0),
    ] {
        assert_eq!(samples[&(name.to_owned(), BTreeMap::new())], value, "{name}");
    }
}

#[tokio::test]
async fn sums_are_counted_from_the_start_of_the_daemon_in_every_export() {
    let sink = Sink::start(Options::default()).await;
    let collector = Collector::start(Manner::Takes).await;
    let endpoint = format!("otlp.endpoint={}", collector.url);
    let daemon =
        crate::daemon(&sink.local.url(), &[("OTEL_METRIC_EXPORT_INTERVAL", "10")], &[&endpoint]).await;
    let exports = collector.until("/v1/metrics", "exported", |exports| exports.len() >= 3).await;
    let times = exports.iter().map(|export| {
        let metrics = export.metrics();
        let metric = &metrics.resource_metrics[0].scope_metrics[0].metrics[0];
        let Some(Data::Sum(sum)) = &metric.data else { panic!("{metric:?}") };
        (sum.data_points[0].start_time_unix_nano, sum.data_points[0].time_unix_nano)
    });
    let times: Vec<_> = times.collect();
    assert!(times.iter().all(|(start, _)| *start == times[0].0), "{times:?}");
    assert!(times.is_sorted_by_key(|(_, end)| *end), "{times:?}");
    drop(daemon);
}
