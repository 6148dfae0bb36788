//! What `/metrics` answers, and the alarms and dashboards made of it, before Prometheus's own parsers:
//! those of its Python client, and `promtool`.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use hydrant::local::{Faults, Options};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use crate::daemon::{Daemon, Sink, lines};
use crate::python::{or_skipped, output, python};

const RESOURCES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/resources");
/// What Prometheus sends by default, with the weights of its release 2.42.
const PROMETHEUS: &str = "accept: application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1\r\n";

/// Whether there is a promtool; not, once it was said that the calling test is skipped.
fn has_promtool() -> bool {
    static PROMTOOL: OnceLock<Result<String, String>> = OnceLock::new();
    or_skipped(PROMTOOL.get_or_init(|| output(Command::new("promtool").arg("--version")))).is_some()
}

/// Runs promtool among the resources, with `input`; it must have nothing to complain of.
async fn promtool(arguments: &[&str], input: &str) {
    let mut command = tokio::process::Command::new("promtool");
    command.args(arguments).current_dir(RESOURCES).kill_on_drop(true);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let feed = async {
        stdin.write_all(input.as_bytes()).await.unwrap();
        drop(stdin);
    };
    let ((), ended) = tokio::join!(feed, child.wait_with_output());
    let ended = ended.unwrap();
    let said = String::from_utf8_lossy(&ended.stdout) + String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.success(), "promtool {arguments:?}: {said}");
}

/// A daemon that has delivered through every fault and come to rest; the service it delivered to.
async fn tried() -> (Daemon, Sink) {
    let faults = Faults { fail_records: 0.2, throttle: 0.2, error_500: 0.1, ..Faults::default() };
    let sink = Sink::start(Options { faults, seed: 7, ..Options::default() }).await;
    let settings = [
        "linger=5ms",
        "retry.base_delay=1ms",
        "retry.max_delay=20ms",
        "max_batch_size=50",
        "listen.app.max_record_bytes=1000",
    ];
    let daemon = Daemon::start(&sink.local.url(), &settings).await;
    daemon.write(&lines(5000, 100)).await;
    daemon.write(&lines(1, 2000)).await;
    daemon.until_settled(5000).await;
    daemon.until("rejected", |status| status["ledger"]["rejected"]["too_long"]["records"] == 1).await;
    daemon.until("without connections", |status| status["connections"] == 0).await;
    (daemon, sink)
}

// R-M12
#[tokio::test]
async fn both_texts_of_a_daemon_with_a_past_are_read_alike_by_the_parsers_of_prometheus() {
    let Some(python) = python() else { return };
    let (daemon, _sink) = tried().await;
    let directory = tempfile::tempdir().unwrap();
    let write = async |name: &str, headers: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, daemon.get_with("/metrics", headers).await.1).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (open_metrics, classic) = (write("openmetrics", PROMETHEUS).await, write("classic", "").await);
    python.run("http://127.0.0.1:1", "exposition.py", &[&open_metrics, &classic]).await;
}

// R-M12
#[tokio::test]
async fn promtool_has_nothing_to_complain_of_in_the_classic_text() {
    if !has_promtool() {
        return;
    }
    let (daemon, _sink) = tried().await;
    for headers in ["", "accept: */*\r\n", "accept: text/plain;version=0.0.4\r\n"] {
        promtool(&["check", "metrics"], &daemon.get_with("/metrics", headers).await.1).await;
    }
}

// R-M17
#[tokio::test]
async fn every_alarm_is_valid_and_fires_when_it_should_and_only_then() {
    if !has_promtool() {
        return;
    }
    promtool(&["check", "rules", "--lint=all", "--lint-fatal", "prometheus-alerts.yaml"], "").await;
    promtool(&["test", "rules", "prometheus-alerts.test.yaml"], "").await;
}

/// The dashboard's expressions as Grafana puts its variables in, each with the title of its panel.
fn expressions(streams: &str) -> Vec<(String, String)> {
    let board = std::fs::read_to_string(Path::new(RESOURCES).join("grafana-dashboard.json")).unwrap();
    let board: Value = serde_json::from_str(&board).unwrap();
    let concrete = |expression: &str| {
        let range = expression.replace("$__rate_interval", "1m").replace("$__range", "1h");
        range.replace("$job", "hydrant").replace("$instance", "a|b").replace("$stream", streams)
    };
    let of_panel = |panel: &Value| {
        let title = panel["title"].as_str().unwrap().to_owned();
        let targets = panel["targets"].as_array().cloned().unwrap_or_default();
        targets.into_iter().map(move |target| (title.clone(), concrete(target["expr"].as_str().unwrap())))
    };
    board["panels"].as_array().unwrap().iter().flat_map(of_panel).collect()
}

/// Two daemons: `a` with one stream, which it does not name, and `b` with two.
// R-V11
#[tokio::test]
async fn the_dashboard_tells_streams_apart_and_sums_those_that_are_chosen() {
    if !has_promtool() {
        return;
    }
    let info = |instance: &str, stream: &str| {
        let series = format!(
            "hydrant_info{{job=\"hydrant\",instance=\"{instance}\",delivery_stream_name=\"{stream}\",version=\"1\"}}"
        );
        json!({ "series": series, "values": "1x10" })
    };
    let mut series = vec![info("a", "web"), info("b", "app")];
    for (labels, growth) in [
        ("instance=\"a\"", 30),
        ("instance=\"b\",stream=\"app\"", 300),
        ("instance=\"b\",stream=\"audit\"", 3000),
    ] {
        let counters = [
            ("hydrant_records_delivered_total", growth),
            ("hydrant_billed_bytes_total", growth),
            ("hydrant_unpacked_billed_bytes_total", 4 * growth),
            ("hydrant_compression_input_bytes_total", 5 * growth),
            ("hydrant_compression_output_bytes_total", growth),
        ];
        series.extend(counters.map(|(name, growth)| {
            json!({ "series": format!("{name}{{job=\"hydrant\",{labels}}}"), "values": format!("0+{growth}x10") })
        }));
        let held = format!("hydrant_records_held{{job=\"hydrant\",{labels}}}");
        series.push(json!({ "series": held, "values": format!("{growth}x10") }));
    }
    let of = |title: &str, index: usize, streams: &str| {
        let all = expressions(streams);
        all.into_iter().filter(|(of, _)| of == title).nth(index).unwrap_or_else(|| panic!("no {title}")).1
    };
    let by_stream = |values: &[(&str, u64)]| -> Vec<Value> {
        let sample = |(stream, value): &(&str, u64)| json!({ "labels": format!("{{stream=\"{stream}\"}}"), "value": value });
        values.iter().map(sample).collect()
    };
    let sum = |value: f64| vec![json!({ "labels": "{}", "value": value })];
    let all = "app|audit|web";
    let tests = [
        (of("Delivered, by stream", 0, all), by_stream(&[("app", 10), ("audit", 100), ("web", 1)])),
        (of("Delivered, by stream", 0, "audit"), by_stream(&[("audit", 100)])),
        (of("Held, by stream", 0, all), by_stream(&[("app", 300), ("audit", 3000), ("web", 30)])),
        (of("Held, by stream", 0, "web"), by_stream(&[("web", 30)])),
        // What has no name is chosen by its instance.
        (of("Records in and out", 1, all), sum(111.0)),
        (of("Records in and out", 1, "audit").replace("a|b", "b"), sum(100.0)),
        (of("Records in and out", 1, "web").replace("a|b", "a"), sum(1.0)),
        (of("Billed, and what it would be unpacked", 0, all), sum(111.0)),
        (of("Billed, and what it would be unpacked", 1, all), sum(444.0)),
        (of("Saved by packing and compression", 0, all), sum(0.75)),
        (of("Compression ratio", 0, "app"), sum(5.0)),
    ];
    let test = |(expression, samples): (String, Vec<Value>)| json!({ "expr": expression, "eval_time": "5m", "exp_samples": samples });
    let tests: Vec<Value> = tests.into_iter().map(test).collect();
    let group = json!({ "interval": "30s", "input_series": series, "promql_expr_test": tests });
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("dashboard.test.yaml");
    let file = json!({ "rule_files": [], "evaluation_interval": "30s", "tests": [group] });
    std::fs::write(&path, file.to_string()).unwrap();
    promtool(&["test", "rules", path.to_str().unwrap()], "").await;
}

/// promtool parses no lone expression, but it parses rules: one is made of each.
#[tokio::test]
async fn every_expression_of_the_dashboard_is_valid() {
    if !has_promtool() {
        return;
    }
    let rule = |(number, (_, expression)): (usize, (String, String))| {
        assert!(!expression.contains('$'), "{expression} has a variable that is not known here");
        json!({ "record": format!("dashboard:{number}"), "expr": expression })
    };
    let rules: Vec<Value> = expressions("web|app").into_iter().enumerate().map(rule).collect();
    assert!(rules.len() > 50, "only {} expressions were found", rules.len());
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("rules.yaml");
    // JSON is YAML.
    let file = json!({ "groups": [{ "name": "dashboard", "rules": rules }] });
    std::fs::write(&path, file.to_string()).unwrap();
    promtool(&["check", "rules", "--lint=none", path.to_str().unwrap()], "").await;
}
