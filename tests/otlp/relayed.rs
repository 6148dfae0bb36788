//! A second opinion: a collector that is not ours understands every export and passes it on.

use std::process::Stdio;

use hydrant::local::{Faults, Options};
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::metrics::v1::ResourceMetrics;
use tokio::process::Child;

use crate::collector::{Collector, Manner};
use crate::daemon::{Sink, lines};
use crate::metrics::{Samples, exported, shown};
use crate::python::{Python, accepts, free_address, python};
use crate::traces::{ALL, flushes};

/// Rotel (<https://rotel.dev>), which passes on what it gets to `next`; with its own address.
async fn rotel(python: &Python, next: &str) -> (Child, String) {
    let mut program = python.command("python", "");
    program.args(["-c", "import pathlib, rotel; print(pathlib.Path(rotel.__file__).parent / 'rotel-agent')"]);
    let program = String::from_utf8(program.output().await.unwrap().stdout).unwrap();
    for _ in 0..10 {
        let (http, grpc) = (free_address(), free_address());
        let mut command = tokio::process::Command::new(program.trim());
        command.arg("start").args(["--otlp-http-endpoint", &http.to_string()]);
        command.args(["--otlp-grpc-endpoint", &grpc.to_string()]);
        command.args(["--exporter", "otlp", "--otlp-exporter-protocol", "http"]);
        command.args(["--otlp-exporter-endpoint", next, "--batch-timeout", "10ms"]);
        command.kill_on_drop(true).env_clear().stdin(Stdio::null()).stdout(Stdio::null());
        let mut child = command.stderr(Stdio::null()).spawn().unwrap();
        if accepts(&mut child, http).await {
            return (child, format!("http://{http}"));
        }
    }
    panic!("{program} did not start");
}

/// The samples of each export of ours: what comes to a collector within its batch's time, it passes on as one.
fn apart(request: ExportMetricsServiceRequest) -> Vec<Samples> {
    let scopes = request.resource_metrics.into_iter().flat_map(|of| {
        let ResourceMetrics { resource, scope_metrics, schema_url } = of;
        scope_metrics.into_iter().map(move |scope| ResourceMetrics {
            resource: resource.clone(),
            scope_metrics: vec![scope],
            schema_url: schema_url.clone(),
        })
    });
    scopes.map(|one| exported(&ExportMetricsServiceRequest { resource_metrics: vec![one] })).collect()
}

#[tokio::test]
async fn a_collector_of_another_make_understands_metrics_and_traces() {
    let Some(python) = python() else { return };
    let collector = Collector::start(Manner::Takes).await;
    let (_rotel, url) = rotel(python, &collector.url).await;
    let faults = Faults { fail_records: 0.1, ..Faults::default() };
    let sink = Sink::start(Options { faults, seed: 5, ..Options::default() }).await;
    let endpoint = format!("otlp.endpoint={url}");
    let settings = [&endpoint, "monitor.interval=0", "retry.base_delay=1ms", "retry.max_delay=5ms"];
    let variables =
        [ALL[0], ALL[1], ("OTEL_METRIC_EXPORT_INTERVAL", "50"), ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")];
    let daemon = crate::daemon(&sink.local.url(), &variables, &settings).await;
    daemon.write(&lines(2000, 100)).await;
    daemon.until_settled(2000).await;
    let before = shown(&daemon.get("/metrics").await.1);
    let requests = before.iter().filter(|((name, _), _)| name == "hydrant_put_requests_total");
    let requests: f64 = requests.map(|(_, count)| count).sum();
    let traces = collector
        .until("/v1/traces", "relayed the traces", |exports| flushes(exports).len() as f64 >= requests);
    assert_eq!(flushes(&traces.await).len() as f64, requests);
    assert!(daemon.stop().await.status.success());
    // The last export has what was shown: nothing happened after.
    let delivered =
        |samples: &Samples| samples[&("hydrant_records_delivered_total".to_owned(), Default::default())];
    let relayed = collector.until("/v1/metrics", "relayed the metrics", |exports| {
        exports.iter().flat_map(|export| apart(export.metrics())).any(|samples| delivered(&samples) == 2000.0)
    });
    let relayed = apart(relayed.await.last().unwrap().metrics()).pop().unwrap();
    for (key, value) in before.iter().filter(|((name, _), _)| name.starts_with("hydrant_")) {
        let moves = ["hydrant_uptime_seconds", "hydrant_otlp_exports_total", "hydrant_connections"];
        if !moves.contains(&key.0.as_str()) {
            assert_eq!(relayed.get(key), Some(value), "{key:?}");
        }
    }
}
