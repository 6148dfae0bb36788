//! A flush is a trace: its spans, their order, and what became of the records.

use std::collections::BTreeMap;

use hydrant::local::{FailCode, Faults, Options, Poison, PoisonEffect};
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, Span};

use crate::collector::{Collector, Export, Manner};
use crate::daemon::{Daemon, STREAM, Sink, lines};
use crate::metrics::text;

/// Everything is traced, and exported at once.
pub(crate) const ALL: [(&str, &str); 3] = [
    ("OTEL_TRACES_SAMPLER", "always_on"),
    ("OTEL_BSP_SCHEDULE_DELAY", "10"),
    ("OTEL_METRICS_EXPORTER", "none"),
];

/// The three spans of a flush.
#[derive(Debug, Clone)]
pub(crate) struct Flush {
    pub(crate) root: Span,
    pub(crate) batch: Span,
    pub(crate) call: Span,
}

pub(crate) fn resources(exports: &[Export]) -> Vec<ResourceSpans> {
    exports.iter().flat_map(|export| export.traces().resource_spans).collect()
}

/// Every flush of which all spans have come, in the order of their ends; each is checked for its
/// form.
pub(crate) fn flushes(exports: &[Export]) -> Vec<Flush> {
    let mut traces: BTreeMap<Vec<u8>, Vec<Span>> = BTreeMap::new();
    for resource in resources(exports) {
        for scope in resource.scope_spans {
            assert_eq!(scope.scope.unwrap().name, "hydrant");
            scope
                .spans
                .into_iter()
                .for_each(|span| traces.entry(span.trace_id.clone()).or_default().push(span));
        }
    }
    let mut flushes: Vec<_> = traces.into_values().filter(|spans| spans.len() == 3).map(flush).collect();
    flushes.sort_by_key(|flush| flush.root.end_time_unix_nano);
    flushes
}

fn flush(spans: Vec<Span>) -> Flush {
    let named = |is: fn(&str) -> bool| spans.iter().find(|span| is(&span.name)).unwrap().clone();
    let root = named(|name| name == "flush");
    let batch = named(|name| name == "batch");
    let call = named(|name| name.starts_with("Firehose."));
    assert!(root.parent_span_id.is_empty(), "{root:?}");
    assert_eq!((&batch.parent_span_id, &call.parent_span_id), (&root.span_id, &root.span_id));
    assert_eq!(
        (root.kind(), batch.kind(), call.kind()),
        (SpanKind::Internal, SpanKind::Internal, SpanKind::Client)
    );
    assert_eq!(batch.start_time_unix_nano, root.start_time_unix_nano);
    let times = [
        root.start_time_unix_nano,
        batch.end_time_unix_nano,
        call.start_time_unix_nano,
        call.end_time_unix_nano,
        root.end_time_unix_nano,
    ];
    assert!(times[0] > 0 && times.is_sorted(), "{times:?}");
    Flush { root, batch, call }
}

/// The attribute of `span`, which it has.
fn of(span: &Span, name: &str) -> String {
    let attribute = span.attributes.iter().find(|attribute| attribute.key == name);
    text(attribute.unwrap_or_else(|| panic!("no {name} in {span:?}")))
}

fn has(span: &Span, name: &str) -> bool {
    span.attributes.iter().any(|attribute| attribute.key == name)
}

/// Name, code and number of records of each event.
fn events(span: &Span) -> Vec<(String, String, String)> {
    let event = |event: &opentelemetry_proto::tonic::trace::v1::span::Event| {
        let of = |name: &str| text(event.attributes.iter().find(|attribute| attribute.key == name).unwrap());
        (event.name.clone(), of("error.type"), of("hydrant.records"))
    };
    span.events.iter().map(event).collect()
}

async fn start(faults: Faults, settings: &[&str]) -> (Sink, Collector, Daemon) {
    let sink = Sink::start(Options { faults, ..Options::default() }).await;
    let collector = Collector::start(Manner::Takes).await;
    let endpoint = format!("otlp.endpoint={}", collector.url);
    let settings: Vec<_> = [endpoint.as_str()].into_iter().chain(settings.iter().copied()).collect();
    let daemon = crate::daemon(&sink.local.url(), &ALL, &settings).await;
    (sink, collector, daemon)
}

/// A service that never takes a record with `bytes` in it.
fn poison(bytes: &'static str) -> Faults {
    let effect = PoisonEffect::FailEntry(FailCode::InternalFailure);
    Faults { poison: Some(Poison { bytes: bytes.into(), effect }), ..Faults::default() }
}

async fn first(collector: &Collector, flushes_wanted: usize) -> Vec<Flush> {
    let enough = |exports: &[Export]| flushes(exports).len() >= flushes_wanted;
    flushes(&collector.until("/v1/traces", "traced", enough).await)
}

#[tokio::test]
async fn a_flush_that_is_taken_is_a_trace_without_an_error() {
    let (_sink, collector, daemon) = start(Faults::default(), &["linger=50ms"]).await;
    daemon.write(b"one\ntwo\nthree\n").await;
    let Flush { root, batch, call } = first(&collector, 1).await.remove(0);
    for (name, value) in [
        ("hydrant.delivery_stream", STREAM),
        ("hydrant.records", "3"),
        ("hydrant.bytes", "14"),
        ("hydrant.delivered", "3"),
        ("hydrant.attempt", "1"),
        ("hydrant.outcome", "ok"),
    ] {
        assert_eq!(of(&root, name), value, "{name}");
    }
    assert_eq!((of(&batch, "hydrant.records"), of(&batch, "hydrant.bytes")), ("3".into(), "14".into()));
    assert_eq!(call.name, "Firehose.PutRecordBatch");
    for (name, value) in [
        ("rpc.system", "aws-api"),
        ("rpc.service", "Firehose"),
        ("rpc.method", "PutRecordBatch"),
        ("hydrant.failed_put_count", "0"),
    ] {
        assert_eq!(of(&call, name), value, "{name}");
    }
    for span in [&root, &batch, &call] {
        assert!(!has(span, "error.type") && span.events.is_empty(), "{span:?}");
        assert_eq!(span.status.clone().unwrap_or_default().code(), StatusCode::Unset);
    }
    let waited = batch.end_time_unix_nano - batch.start_time_unix_nano;
    assert!(waited >= 50_000_000, "the batch waited for `linger`, but was traced as {waited} ns");
    daemon.write(b"alone\n").await;
    assert_eq!(first(&collector, 2).await[1].call.name, "Firehose.PutRecord");
    drop(daemon);
}

// R-M20
#[tokio::test]
async fn a_flush_whose_entries_fail_says_what_goes_again_and_what_is_given_up() {
    let faults = poison("poisoned");
    let settings = ["retry.max_retries=1", "retry.base_delay=1ms", "send.max_in_flight=1"];
    let (_sink, collector, daemon) = start(faults, &settings).await;
    daemon.write(b"one\npoisoned\nthree\n").await;
    let flushes = first(&collector, 2).await;
    let Flush { root, call, .. } = &flushes[0];
    assert_eq!([of(root, "hydrant.outcome"), of(root, "hydrant.delivered")], ["partial", "2"]);
    assert_eq!(of(call, "hydrant.failed_put_count"), "1");
    let code = of(call, "error.type");
    assert_eq!(events(root), [("retry".to_owned(), code.clone(), "1".to_owned())]);
    for span in [root, call] {
        let status = span.status.clone().unwrap();
        assert_eq!((status.code(), status.message), (StatusCode::Error, code.clone()));
    }
    let Flush { root, .. } = &flushes[1];
    assert_eq!([of(root, "hydrant.attempt"), of(root, "hydrant.delivered")], ["2", "0"]);
    assert_eq!(events(root), [("dead_letter".to_owned(), code, "1".to_owned())]);
    drop(daemon);
}

#[tokio::test]
async fn a_flush_that_is_throttled_goes_again_as_a_whole() {
    let faults = Faults { throttle: 1.0, ..Faults::default() };
    let settings = ["retry.base_delay=1ms", "retry.max_delay=5ms", "send.max_in_flight=1"];
    let (sink, collector, daemon) = start(faults, &settings).await;
    daemon.write(&lines(10, 100)).await;
    let flushes = first(&collector, 2).await;
    let Flush { root, call, .. } = &flushes[0];
    assert_eq!([of(root, "hydrant.outcome"), of(root, "hydrant.delivered")], ["throttled", "0"]);
    assert_eq!(of(call, "error.type"), "ThrottlingException");
    assert!(!has(call, "hydrant.failed_put_count"), "{call:?}");
    assert_eq!(events(root), [("retry".into(), "ThrottlingException".into(), "10".into())]);
    assert_eq!(of(&flushes[1].root, "hydrant.attempt"), "2");
    let took = |span: &Span| span.end_time_unix_nano - span.start_time_unix_nano;
    assert!(took(&flushes[1].batch) >= took(root), "the second attempt is of the same records");
    sink.local.set_faults(Faults::default());
    daemon.until_settled(10).await;
    drop(daemon);
}

// R-M20
#[tokio::test]
async fn no_record_is_part_of_a_trace() {
    let (_sink, collector, daemon) = start(poison("s3cret"), &["retry.max_retries=0"]).await;
    daemon.write(b"s3cret one\ns3cret two\nthree\n").await;
    first(&collector, 1).await;
    assert!(daemon.stop().await.status.success());
    for export in collector.exports("/v1/traces") {
        assert!(!export.body.windows(6).any(|window| window == b"s3cret"));
    }
}

// R-M20
#[tokio::test]
async fn a_share_of_the_flushes_is_traced_and_none_without_one() {
    let sink = Sink::start(Options::default()).await;
    let collector = Collector::start(Manner::Takes).await;
    let endpoint = format!("otlp.endpoint={}", collector.url);
    let check = async |ratio: &str, expected: std::ops::RangeInclusive<usize>| {
        let before = flushes(&collector.exports("/v1/traces")).len();
        let ratio = format!("otlp.trace_ratio={ratio}");
        let settings = [&endpoint, &ratio, "max_batch_size=1", "linger=0ms"];
        let daemon = crate::daemon(&sink.local.url(), &ALL[1..], &settings).await;
        daemon.write(&lines(400, 50)).await;
        daemon.until_settled(400).await;
        first(&collector, before + expected.start()).await;
        assert!(daemon.stop().await.status.success());
        let traced = flushes(&collector.exports("/v1/traces")).len() - before;
        assert!(expected.contains(&traced), "{traced} of 400 flushes with {ratio}");
    };
    check("0", 0..=0).await;
    // Of 400 throws of a fair coin: outside once in some 10^14 runs.
    check("0.5", 120..=280).await;
    check("1", 400..=400).await;
}
