//! Clients of Fluent Forward that are not ours: Python's and Node's loggers, and the messages of Docker's
//! driver. Neither Fluentd nor Fluent Bit is to be had from the package registries that tests use.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use hydrant::local::Options;
use serde_json::{Value, json};

use crate::daemon::{Daemon, Sink, number};
use crate::python::{or_skipped, output, python};

const FORWARD: &str = "listen.app.protocol=forward";
const NODE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/peers/node");

/// The delivered records, by the tag.
async fn delivered(daemon: Daemon, sink: &Sink) -> BTreeMap<String, Vec<Value>> {
    assert!(daemon.stop().await.status.success());
    let mut delivered: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for line in sink.delivered().await.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let record: Value = serde_json::from_slice(line).unwrap();
        delivered.entry(record["tag"].as_str().unwrap().to_owned()).or_default().push(record);
    }
    delivered
}

async fn start_tcp(sink: &Sink, settings: &[&str]) -> (Daemon, String) {
    let settings = [&["linger=10ms", FORWARD, "listen.app.address=tcp:0"], settings].concat();
    let daemon = Daemon::start(&sink.local.url(), &settings).await;
    let status = daemon.status().await;
    let port = status["listeners"][0]["address"].as_str().unwrap().rsplit(':').next().unwrap().to_owned();
    (daemon, port)
}

// R-F9
#[tokio::test]
async fn pythons_logger_is_heard() {
    let Some(python) = python() else { return };
    let sink = Sink::start(Options::default()).await;
    let (daemon, port) = start_tcp(&sink, &[]).await;
    python.run("", "forward.py", &["logger", "127.0.0.1", &port, "1000"]).await;
    daemon.until_settled(1001).await;
    let delivered = delivered(daemon, &sink).await;
    let numbers: BTreeSet<_> =
        delivered["app.plain"].iter().map(|record| number(record, "/number")).collect();
    assert!(numbers.len() == 1000 && delivered["app.plain"][0]["text"] == "Zeile mit ü, \" und \n");
    assert!(
        delivered["app.plain"][0]["time"].as_str().unwrap().len() == "2023-11-14T22:13:20.000000000Z".len()
    );
    assert_eq!(delivered["app.log"][0]["level"], "INFO");
}

// R-F9
#[tokio::test]
async fn what_dockers_driver_sends_is_answered_and_passes_through() {
    let Some(python) = python() else { return };
    let sink = Sink::start(Options::default()).await;
    let directory = tempfile::tempdir().unwrap();
    let spool = format!("buffer.directory={}", directory.path().display());
    let daemon = Daemon::start(&sink.local.url(), &["linger=10ms", FORWARD, &spool]).await;
    let socket = daemon.socket();
    python.run("", "forward.py", &["docker", socket.to_str().unwrap(), "100"]).await;
    daemon.until_settled(100).await;
    let delivered = delivered(daemon, &sink).await;
    let records = &delivered["0123456789ab"];
    assert_eq!(records.len(), 100);
    let last = records.iter().find(|record| record["log"] == "line 99").unwrap();
    assert_eq!((&last["time"], &last["source"]), (&json!("2023-11-14T22:14:59Z"), &json!("stdout")));
    assert_eq!((&last["partial_message"], &last["partial_ordinal"]), (&json!("true"), &json!("1")));
}

/// The directory of Node's packages, or `None` once it was said that the calling test is skipped.
fn node() -> Option<&'static PathBuf> {
    static NODE: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    or_skipped(NODE.get_or_init(install))
}

/// Makes the directory below Cargo's if it is not there or not what is wanted. Other processes that want
/// it meanwhile wait.
fn install() -> Result<PathBuf, String> {
    let version = output(Command::new("node").arg("--version"))?;
    let home = Path::new(env!("CARGO_TARGET_TMPDIR")).join("peers-node");
    let text = |error: std::io::Error| error.to_string();
    let lock = File::create(home.with_extension("lock")).map_err(text)?;
    lock.lock().map_err(text)?;
    let complete = home.join("complete");
    let wanted = version + &fs::read_to_string(Path::new(NODE).join("package-lock.json")).map_err(text)?;
    if fs::read_to_string(&complete).ok().as_ref() != Some(&wanted) {
        fs::create_dir_all(&home).map_err(text)?;
        for file in ["package.json", "package-lock.json"] {
            fs::copy(Path::new(NODE).join(file), home.join(file)).map_err(text)?;
        }
        let mut npm = Command::new("npm");
        npm.args(["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier"]);
        output(npm.current_dir(&home))?;
        fs::write(&complete, wanted).map_err(text)?;
    }
    Ok(home)
}

/// Exit code of Node's client, and what it said.
async fn client(home: &Path, arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = tokio::process::Command::new("node");
    command
        .arg(Path::new(NODE).join("forward.js"))
        .args(arguments)
        .env("NODE_PATH", home.join("node_modules"));
    let output = command.kill_on_drop(true).stdin(Stdio::null()).output().await.unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

// R-F9
#[tokio::test]
async fn nodes_logger_is_answered_in_every_mode_and_proves_the_shared_key() {
    let Some(home) = node() else { return };
    let sink = Sink::start(Options::default()).await;
    let (mut daemon, port) =
        start_tcp(&sink, &["listen.app.shared_key=opensesame", "listen.app.acks=delivered"]).await;
    let modes = ["Message", "Forward", "PackedForward", "CompressedPackedForward"];
    for mode in modes {
        let (code, said) = client(home, &[&port, mode, "200", "opensesame"]).await;
        assert_eq!((code, &*said), (Some(0), ""), "{mode}");
    }
    let (code, said) = client(home, &[&port, "Message", "1", "a guess"]).await;
    assert!(code == Some(3) && said.contains("shared_key mismatch"), "{code:?}: {said}");
    let said = daemon.until_said("Connection closed: it does not speak the protocol.").await;
    assert_eq!(said["error"], "its shared key is not the listener's");
    daemon.until_settled(800).await;
    let delivered = delivered(daemon, &sink).await;
    for mode in modes {
        let records = &delivered[&format!("app.{mode}")];
        assert_eq!(records.len(), 200);
        let one = records.iter().find(|record| record["number"] == 7).unwrap();
        assert_eq!(one["time"], "2023-11-14T22:13:20.000000007Z");
        assert_eq!(
            (&one["nested"]["list"], &one["bytes"]),
            (&json!([1.5, null, true, "ü"]), &json!("a\u{fffd}"))
        );
    }
}
