//! Collectors that are down, slow or mad: delivery does not notice.

use std::net::{Ipv4Addr, SocketAddr};

use hydrant::local::Options;
use serde_json::Value;
use socket2::{Domain, Socket, Type};

use crate::collector::{Collector, Manner};
use crate::daemon::{Daemon, Sink, balance, lines, number, patiently};
use crate::traces::ALL;

const NOT_EXPORTED: &str = "Not exported to the collector; delivery goes on.";

/// Long enough for any answer, and too short for one that never comes.
const PATIENT: &str = "60000";
const IMPATIENT: &str = "300";

/// Waits until exports of `signal` have failed so often.
async fn until_failed(daemon: &Daemon, signal: &str, times: u64) {
    let name = format!(r#"hydrant_otlp_exports_total{{signal="{signal}",outcome="failed"}} "#);
    patiently("failed to export", async {
        let failed = |text: &str| -> Option<u64> {
            text.lines().find_map(|line| line.strip_prefix(&name)?.parse().ok())
        };
        while failed(&daemon.get("/metrics").await.1).is_none_or(|failed| failed < times) {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// A daemon that exports to `url` delivers all, says once a signal that it can't export, and ends.
async fn check(url: &str, timeout: &str, error: &str) {
    let sink = Sink::start(Options::default()).await;
    let endpoint = format!("otlp.endpoint={url}");
    // Metrics often, and everything traced.
    let variables = [
        ALL[0],
        ALL[1],
        ("OTEL_METRIC_EXPORT_INTERVAL", "5"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", timeout),
        ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=s3cret"),
    ];
    let daemon = crate::daemon(&sink.local.url(), &variables, &[&endpoint, "log.level=trace"]).await;
    daemon.write(&lines(20_000, 100)).await;
    daemon.until_settled(20_000).await;
    until_failed(&daemon, "metrics", 3).await;
    until_failed(&daemon, "traces", 1).await;
    let (taken, accounted) = balance(&daemon.get("/metrics").await.1);
    assert_eq!((taken, accounted), (20_000, 20_000));
    let ended = daemon.stop().await;
    assert!(ended.status.success());
    let said = ended.said(NOT_EXPORTED);
    let mut signals: Vec<_> = said.iter().map(|line| line["signal"].as_str().unwrap()).collect();
    signals.sort_unstable();
    assert_eq!(signals, ["metrics", "traces"]);
    for line in said {
        let signal = line["signal"].as_str().unwrap();
        assert_eq!(line["endpoint"], format!("{url}/v1/{signal}"));
        assert!(line["error"].as_str().unwrap().contains(error), "{line}");
    }
    assert!(!format!("{:?}", ended.log).contains("s3cret"));
    assert_eq!(sink.lines().await.len(), 20_000);
}

// R-M21
#[tokio::test]
async fn a_collector_that_is_not_there_leaves_delivery_alone_and_is_named_once() {
    // Taken, so that nobody else gets it, and never listened at.
    let nobody = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    nobody.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
    let address = nobody.local_addr().unwrap().as_socket().unwrap();
    check(&format!("http://{address}"), PATIENT, "refused").await;
}

// R-M21
#[tokio::test]
async fn a_collector_that_never_answers_leaves_delivery_alone_and_is_named_once() {
    check(&Collector::start(Manner::Silent).await.url, IMPATIENT, "no answer within 300 ms").await;
}

#[tokio::test]
async fn a_collector_that_fails_leaves_delivery_alone_and_is_named_once() {
    check(&Collector::start(Manner::Answers(500)).await.url, PATIENT, "answered 500").await;
}

#[tokio::test]
async fn a_collector_that_speaks_no_http_leaves_delivery_alone_and_is_named_once() {
    check(&Collector::start(Manner::Garbage).await.url, PATIENT, "").await;
}

#[tokio::test]
async fn a_name_that_leads_nowhere_leaves_delivery_alone_and_is_named_once() {
    check("http://collector.invalid:4318", IMPATIENT, "").await;
}

// R-M21
#[tokio::test]
async fn a_stop_does_not_wait_for_a_collector_that_never_answers() {
    let sink = Sink::start(Options::default()).await;
    let collector = Collector::start(Manner::Silent).await;
    let endpoint = format!("otlp.endpoint={}", collector.url);
    let variables = [ALL[0], ("OTEL_EXPORTER_OTLP_TIMEOUT", "3600000")];
    let daemon = crate::daemon(&sink.local.url(), &variables, &[&endpoint]).await;
    daemon.write(&lines(100, 100)).await;
    daemon.until_settled(100).await;
    let ended = daemon.stop().await;
    assert!(ended.status.success());
    assert_eq!(ended.said("The collector did not take the last export in time.").len(), 1);
}

#[tokio::test]
async fn a_trace_is_sent_again_while_the_collector_is_busy_and_metrics_with_the_next_export() {
    let sink = Sink::start(Options::default()).await;
    let collector = Collector::start(Manner::Answers(503)).await;
    let endpoint = format!("otlp.endpoint={}", collector.url);
    let variables = [ALL[0], ALL[1], ("OTEL_METRIC_EXPORT_INTERVAL", "5")];
    let mut daemon = crate::daemon(&sink.local.url(), &variables, &[&endpoint]).await;
    daemon.write(&lines(10, 100)).await;
    daemon.until_settled(10).await;
    let again = collector.until("/v1/traces", "sent again", |exports| exports.len() >= 2).await;
    assert_eq!(again[0].body, again[1].body);
    daemon.until_said(NOT_EXPORTED).await;
    collector.behave(Manner::Takes);
    daemon.until_said("Exported to the collector again.").await;
    daemon.stop().await;
}

#[tokio::test]
async fn what_a_collector_takes_in_part_is_counted_and_said() {
    let sink = Sink::start(Options::default()).await;
    let collector = Collector::start(Manner::TakesPart).await;
    let endpoint = format!("otlp.endpoint={}", collector.url);
    let mut daemon =
        crate::daemon(&sink.local.url(), &[("OTEL_METRIC_EXPORT_INTERVAL", "5")], &[&endpoint]).await;
    let said: Value = daemon.until_said("The collector took only a part.").await;
    assert_eq!(said["signal"], "metrics");
    let line = r#"hydrant_otlp_exports_total{signal="metrics",outcome="partial"}"#;
    assert!(daemon.get("/metrics").await.1.contains(line));
    daemon.stop().await;
}

// R-M21
#[tokio::test]
async fn memory_is_bounded_while_the_collector_takes_nothing() {
    let sink = Sink::start(Options::default()).await;
    let collector = Collector::start(Manner::Silent).await;
    let endpoint = format!("otlp.endpoint={}", collector.url);
    let settings = [&endpoint, "max_batch_size=1", "linger=0ms", "buffer.memory=8MiB"];
    let variables = [ALL[0], ("OTEL_METRIC_EXPORT_INTERVAL", "5")];
    let mut daemon = crate::daemon(&sink.local.url(), &variables, &settings).await;
    let mut peaks = Vec::new();
    // Each round has more spans than the queue has room for.
    for round in 1..=4 {
        daemon.write(&lines(800, 50)).await;
        daemon.until_settled(800 * round).await;
        peaks.push(daemon.peak_memory());
    }
    let status = daemon.status().await;
    assert_eq!(number(&status, "/ledger/delivered/records"), 3200);
    assert!(peaks[3] < peaks[0] + (4 << 20), "memory grows with the traces: {peaks:?}");
    assert!(peaks[3] < 32 << 20, "{peaks:?}");
    daemon.child.kill().await.unwrap();
}
