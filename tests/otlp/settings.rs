//! What is exported where, and what is not.

use std::collections::BTreeMap;

use hydrant::local::Options;
use opentelemetry_proto::tonic::common::v1::KeyValue;

use crate::collector::{Collector, Export, Manner};
use crate::daemon::{STREAM, Sink, lines};
use crate::metrics::text;
use crate::traces::{ALL, flushes, resources};

// R-M19
#[tokio::test]
async fn nothing_is_exported_without_an_endpoint_and_with_the_sdk_disabled() {
    let sink = Sink::start(Options::default()).await;
    let collector = Collector::start(Manner::Takes).await;
    let endpoint = format!("otlp.endpoint={}", collector.url);
    let general = ("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url.as_str());
    let disabled = ("OTEL_SDK_DISABLED", "true");
    let often = ("OTEL_METRIC_EXPORT_INTERVAL", "1");
    let check = async |variables: &[(&str, &str)], settings: &[&str]| {
        let variables: Vec<_> = ALL[..2].iter().chain(variables).copied().chain([often]).collect();
        let daemon = crate::daemon(&sink.local.url(), &variables, settings).await;
        daemon.write(&lines(100, 100)).await;
        daemon.until_settled(100).await;
        let threads = std::fs::read_dir(format!("/proc/{}/task", daemon.child.id().unwrap())).unwrap();
        let name = |thread: std::io::Result<std::fs::DirEntry>| {
            std::fs::read_to_string(thread.unwrap().path().join("comm")).unwrap()
        };
        assert!(threads.map(name).all(|name| !name.starts_with("OpenTelemetry")));
        let ended = daemon.stop().await;
        assert!(ended.status.success() && ended.said("Exporting to a collector.").is_empty());
        assert!(collector.exports("/v1/metrics").is_empty() && collector.exports("/v1/traces").is_empty());
    };
    check(&[], &[]).await;
    check(&[general, disabled], &[]).await;
    check(&[disabled], &[&endpoint]).await;
}

#[tokio::test]
async fn headers_compression_and_endpoints_are_those_of_the_variables() {
    let sink = Sink::start(Options::default()).await;
    let (ours, general) = (Collector::start(Manner::Takes).await, Collector::start(Manner::Takes).await);
    let endpoint = format!("otlp.endpoint={}/base/", ours.url);
    let traces = format!("{}/own?key=1", general.url);
    let variables = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", general.url.as_str()),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", traces.as_str()),
        ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20s3cret"),
        ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "x-key=s3cret"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
        ("OTEL_EXPORTER_OTLP_TRACES_COMPRESSION", "none"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "10"),
        ALL[0],
        ALL[1],
    ];
    let daemon = crate::daemon(&sink.local.url(), &variables, &[&endpoint, "log.level=trace"]).await;
    daemon.write(&lines(10, 100)).await;
    let metrics = ours.until("/base/v1/metrics", "exported", |exports| !exports.is_empty()).await.remove(0);
    assert_eq!(metrics.headers["authorization"], "Bearer s3cret");
    assert_eq!(metrics.headers["content-encoding"], "gzip");
    assert_eq!(metrics.headers["content-type"], "application/x-protobuf");
    let version = format!("hydrant/{}", env!("CARGO_PKG_VERSION"));
    assert_eq!(metrics.headers["user-agent"], version.as_str());
    assert_eq!(metrics.metrics().resource_metrics.len(), 1);
    let traces = general.until("/own?key=1", "traced", |exports| flushes(exports).len() == 1).await;
    for Export { headers, .. } in traces {
        assert_eq!(headers["x-key"], "s3cret");
        assert!(!headers.contains_key("authorization") && !headers.contains_key("content-encoding"));
    }
    let ended = daemon.stop().await;
    assert!(general.exports("/v1/metrics").is_empty());
    let said = format!("{:?}", ended.log);
    assert!(!said.contains("s3cret") && !said.contains("key=1"), "{said}");
}

fn attributes(attributes: &[KeyValue]) -> BTreeMap<String, String> {
    attributes.iter().map(|attribute| (attribute.key.clone(), text(attribute))).collect()
}

#[tokio::test]
async fn metrics_and_traces_say_who_they_are_from_and_variables_win() {
    let sink = Sink::start(Options::default()).await;
    let collector = Collector::start(Manner::Takes).await;
    let endpoint = format!("otlp.endpoint={}", collector.url);
    let check = async |variables: &[(&str, &str)], expected: &[(&str, &str)]| {
        let seen = (collector.exports("/v1/metrics").len(), collector.exports("/v1/traces").len());
        let often = ("OTEL_METRIC_EXPORT_INTERVAL", "10");
        let variables: Vec<_> = ALL[..2].iter().chain(variables).copied().chain([often]).collect();
        let daemon = crate::daemon(&sink.local.url(), &variables, &[&endpoint]).await;
        daemon.write(&lines(2, 100)).await;
        let pid = daemon.child.id().unwrap().to_string();
        collector.until("/v1/metrics", "exported", |exports| exports.len() > seen.0).await;
        collector.until("/v1/traces", "traced", |exports| exports.len() > seen.1).await;
        assert!(daemon.stop().await.status.success());
        let metrics = collector.exports("/v1/metrics")[seen.0].metrics();
        let metrics = attributes(&metrics.resource_metrics[0].resource.as_ref().unwrap().attributes);
        let traces = resources(&collector.exports("/v1/traces")[seen.1..]);
        let traces = attributes(&traces[0].resource.as_ref().unwrap().attributes);
        assert_eq!(metrics, traces);
        assert_eq!(metrics["process.pid"], pid);
        for (name, value) in expected {
            assert_eq!(metrics[*name], *value, "{name}");
        }
    };
    let version = ("service.version", env!("CARGO_PKG_VERSION"));
    let stream = ("hydrant.delivery_stream", STREAM);
    check(&[], &[("service.name", "hydrant"), version, stream]).await;
    let attributes = ("OTEL_RESOURCE_ATTRIBUTES", "service.name=a,service.instance.id=i,team=t");
    check(&[attributes], &[("service.name", "a"), ("service.instance.id", "i"), ("team", "t")]).await;
    check(&[attributes, ("OTEL_SERVICE_NAME", "b")], &[("service.name", "b"), ("team", "t")]).await;
}

#[tokio::test]
async fn a_variable_that_can_not_be_used_is_said_once_and_the_daemon_runs() {
    let sink = Sink::start(Options::default()).await;
    let collector = Collector::start(Manner::Takes).await;
    let variables = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url.as_str()),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "10"),
    ];
    let daemon = crate::daemon(&sink.local.url(), &variables, &[]).await;
    daemon.write(&lines(2, 100)).await;
    daemon.until_settled(2).await;
    collector.next_metrics().await;
    assert_eq!(daemon.said("A variable of OpenTelemetry is ignored."), 1);
    let ended = daemon.stop().await;
    let said = ended.said("A variable of OpenTelemetry is ignored.")[0];
    let problem = said["problem"].as_str().unwrap();
    assert!(problem.starts_with("OTEL_EXPORTER_OTLP_PROTOCOL is `grpc`"), "{problem}");
}
