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

/// promtool parses no lone expression, but it parses rules: one is made of each.
#[tokio::test]
async fn every_expression_of_the_dashboard_is_valid() {
    if !has_promtool() {
        return;
    }
    let board = std::fs::read_to_string(Path::new(RESOURCES).join("grafana-dashboard.json")).unwrap();
    let board: Value = serde_json::from_str(&board).unwrap();
    let panels = board["panels"].as_array().unwrap().iter();
    let targets = panels.flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
    // As Grafana puts its variables in.
    let concrete = |expression: &str| {
        let range = expression.replace("$__rate_interval", "1m").replace("$__range", "1h");
        range.replace("$job", "hydrant").replace("$instance", "a|b")
    };
    let rule = |(number, target): (usize, &Value)| {
        let expression = concrete(target["expr"].as_str().unwrap());
        assert!(!expression.contains('$'), "{expression} has a variable that is not known here");
        json!({ "record": format!("dashboard:{number}"), "expr": expression })
    };
    let rules: Vec<Value> = targets.enumerate().map(rule).collect();
    assert!(rules.len() > 50, "only {} expressions were found", rules.len());
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("rules.yaml");
    // JSON is YAML.
    let file = json!({ "groups": [{ "name": "dashboard", "rules": rules }] });
    std::fs::write(&path, file.to_string()).unwrap();
    promtool(&["check", "rules", "--lint=none", path.to_str().unwrap()], "").await;
}
