//! The commands beside the daemon, as a user runs them.

use std::process::Stdio;

use hydrant::local::{CallFault, Faults, Operation, Options};
use tokio::io::AsyncWriteExt;

use crate::daemon::{Daemon, STREAM, Sink, hydrant, lines};

/// Exit code, standard output and standard error of `hydrant ARGUMENTS` with `input`.
pub async fn run(arguments: &[&str], input: &[u8]) -> (i32, String, String) {
    let mut command = hydrant();
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_owned();
    let writing = tokio::spawn(async move { stdin.write_all(&input).await });
    let output = child.wait_with_output().await.unwrap();
    drop(writing.await.unwrap());
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

// R-T2
#[tokio::test]
async fn the_demo_delivers_every_record_once_and_says_so_last() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_str().unwrap();
    for (arguments, records) in [
        (vec!["demo", "--dir", path], 5550),
        // The same directory again: what an earlier run left there is not counted.
        (vec!["demo", "--dir", path, "--records", "1234", "--fail-records", "0.3"], 1234),
        (vec!["demo", "--dir", path, "--records", "0"], 0),
    ] {
        let (code, stdout, stderr) = run(&arguments, b"").await;
        let expected = format!("delivered {records} of {records} records, 0 lost, 0 duplicated");
        assert_eq!((code, stdout.lines().last()), (0, Some(&*expected)), "{stdout}{stderr}");
        assert!(stdout.contains(path), "{stdout}");
    }
}

// R-T3
#[tokio::test]
async fn send_is_done_when_every_record_is_acknowledged() {
    let sink = Sink::start(Options::default()).await;
    for level in ["received", "delivered"] {
        let acks = format!("listen.app.acks={level}");
        let daemon = Daemon::start(&sink.local.url(), &["linger=10ms", &acks]).await;
        let to = format!("unix:{}", daemon.socket().display());
        let files = tempfile::tempdir().unwrap();
        let paths = [files.path().join("a.log"), files.path().join("b.log")];
        std::fs::write(&paths[0], b"one\r\n\r\ntwo").unwrap();
        std::fs::write(&paths[1], lines(5000, 100)).unwrap();
        let [a, b] = paths.each_ref().map(|path| path.to_str().unwrap());
        let (code, stdout, stderr) = run(&["send", "--to", &to, a, b], b"").await;
        assert_eq!((code, &*stdout), (0, "5002 of 5002 records acknowledged\n"), "{stderr}");
        let (code, stdout, stderr) = run(&["send", "--to", &to], b"three\nfour").await;
        assert_eq!((code, &*stdout), (0, "2 of 2 records acknowledged\n"), "{stderr}");
        daemon.until_settled(5004).await;
        assert!(daemon.stop().await.status.success());
    }
    let lines = sink.lines().await;
    assert_eq!([&b"one"[..], b"two", b"three", b"four"].map(|line| lines[line]), [2; 4]);
}

// R-T3
#[tokio::test]
async fn send_fails_when_it_can_not_know_or_when_a_record_was_turned_away() {
    let sink = Sink::start(Options::default()).await;
    let settings = [
        "linger=10ms",
        "listen.told.address=tcp:127.0.0.1:0",
        "listen.told.acks=received",
        "listen.told.max_record_bytes=10",
    ];
    let daemon = Daemon::start(&sink.local.url(), &settings).await;
    let silent = format!("unix:{}", daemon.socket().display());
    let (code, _, stderr) = run(&["send", "--timeout", "2s", "--to", &silent], b"a\nb\n").await;
    assert!(code == 1 && stderr.contains("acknowledged none: set `acks`"), "{code} {stderr}");
    let listeners = daemon.status().await["listeners"].as_array().unwrap().clone();
    let told = listeners.iter().find(|listener| listener["name"] == "told").unwrap();
    let (code, _, stderr) = run(
        &["send", "--timeout", "2s", "--to", told["address"].as_str().unwrap()],
        b"short\nfar too long for it\n",
    )
    .await;
    assert!(code == 1 && stderr.contains("acknowledged 1 of 2 records"), "{code} {stderr}");
    let (code, _, stderr) = run(&["send", "--to", "unix:/nonexistent/app.sock"], b"a\n").await;
    assert!(
        code == 1 && stderr.contains("unix:/nonexistent/app.sock could not be connected to"),
        "{code} {stderr}"
    );
    let (code, _, stderr) = run(&["send", "--to", "nowhere"], b"").await;
    assert!(code == 2 && stderr.contains("unix:PATH"), "{code} {stderr}");
    assert!(daemon.stop().await.status.success());
}

// R-S4
#[tokio::test]
async fn put_delivers_standard_input_as_one_record_and_prints_its_id() {
    let sink = Sink::start(Options::default()).await;
    let at = ["put", "--stream", STREAM, "--endpoint-url", &sink.local.url()];
    let (code, stdout, stderr) = run(&at, b"two\nlines \xff").await;
    assert!(code == 0 && stdout.trim_end().len() > 100, "{stdout}{stderr}");
    assert_eq!(sink.delivered().await, b"two\nlines \xff\n");
}

// R-M16
#[tokio::test]
async fn the_doctor_finds_nothing_wrong_with_a_stream_that_works() {
    let sink = Sink::start(Options::default()).await;
    let (code, stdout, stderr) =
        run(&["doctor", "--stream", STREAM, "--endpoint-url", &sink.local.url()], b"").await;
    assert_eq!(code, 0, "{stdout}{stderr}");
    assert!(!stdout.lines().any(|line| line.starts_with("problem")), "{stdout}");
    assert!(stdout.contains("ok       cloudwatch:GetMetricData: allowed"), "{stdout}");
    let calls = [Operation::GetMetricData, Operation::PutMetricData];
    let calls = calls.map(|operation| (operation, CallFault::Denied)).to_vec();
    sink.local.set_faults(Faults { calls, ..Faults::default() });
    let publishing = ["--set", "monitor.publish_namespace=apps"];
    let arguments = ["doctor", "--stream", STREAM, "--endpoint-url", &sink.local.url()];
    let (code, stdout, _) = run(&[&arguments[..], &publishing].concat(), b"").await;
    assert_eq!(code, 1, "{stdout}");
    assert!(
        stdout.contains("warning  cloudwatch:GetMetricData: not allowed; what the stream takes in"),
        "{stdout}"
    );
    assert!(
        stdout.contains("problem  cloudwatch:PutMetricData: not allowed; nothing is published"),
        "{stdout}"
    );
    sink.local.set_faults(Faults::default());
    let (code, stdout, _) = run(&[&arguments[..], &publishing].concat(), b"").await;
    assert_eq!(code, 0, "{stdout}");
    assert!(stdout.contains("ok       cloudwatch:PutMetricData: reached the service"), "{stdout}");
    let (code, stdout, _) =
        run(&["doctor", "--stream", "other", "--endpoint-url", &sink.local.url()], b"").await;
    assert_eq!(code, 1, "{stdout}");
    assert!(stdout.lines().any(|line| line.starts_with("problem") && line.contains("other")), "{stdout}");
}

// R-T13
#[tokio::test]
async fn an_estimate_says_what_a_sample_costs_a_month() {
    let sample = lines(1000, 200);
    let (code, stdout, stderr) = run(&["estimate", "--rate", "1MiB/s", "--json"], &sample).await;
    assert_eq!((code, &*stderr), (0, ""), "{stdout}");
    let estimate: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(estimate["sample"]["records"], 1000);
    assert_eq!(estimate["unpacked"]["billed_bytes"], 1000 * 5120);
    assert_eq!(estimate["unpacked"]["billed_per_byte"], 25.6);
    assert_eq!(estimate["unpacked"]["dollars_a_month"], 2531.25 * 25.6 * 0.029);
    let packed = estimate["packed"]["billed_per_byte"].as_f64().unwrap();
    assert!((1.0..1.01).contains(&packed), "{estimate:#}");

    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&file, &sample).unwrap();
    let path = file.path().to_str().unwrap();
    // A hundred records a second on fifty daemons are two within the linger of each.
    let shared = ["--records-per-second", "100", "--sidecars", "50"];
    let (code, stdout, stderr) = run(&[&["estimate", path, "-"][..], &shared].concat(), &sample).await;
    assert_eq!((code, &*stderr), (0, ""), "{stdout}");
    assert!(stdout.starts_with("2000 records of 200 bytes on average"), "{stdout}");
    assert!(stdout.contains("packing saves 50.0 %"), "{stdout}");

    for (arguments, input, expected) in [
        (&["estimate"][..], &b"\n\n"[..], (1, "error: the sample holds no record")),
        (&["estimate", "/nowhere"], b"", (1, "error: /nowhere could not be opened")),
        (&["estimate", "--rate", "fast"], b"", (2, "error: invalid value 'fast' for '--rate <SIZE/s>'")),
        (&["estimate", "--max-record", "2MiB"], b"", (2, "error: invalid value '2MiB'")),
    ] {
        let (code, _, stderr) = run(arguments, input).await;
        assert!(code == expected.0 && stderr.starts_with(expected.1), "{code} {stderr}");
    }
}

// R-T5
#[tokio::test]
async fn health_is_the_exit_code_of_a_probe() {
    let sink = Sink::start(Options::default()).await;
    let daemon = Daemon::start(&sink.local.url(), &["linger=1h"]).await;
    let admin = daemon.admin.clone();
    for probe in [vec!["health", "--admin", &admin], vec!["health", "--ready", "--admin", &admin]] {
        let (code, stdout, stderr) = run(&probe, b"").await;
        assert_eq!((code, &*stdout), (0, "{\"ok\":true,\"reasons\":[]}\n"), "{stderr}");
    }
    // Where the configuration says is where it is asked without --admin.
    let setting = format!("admin.address={admin}");
    let (code, _, stderr) = run(&["health", "--set", &setting], b"").await;
    assert_eq!(code, 0, "{stderr}");
    sink.local.set_down(true).await.unwrap();
    assert!(daemon.stop().await.status.success());
    let (code, stdout, stderr) = run(&["health", "--admin", &admin], b"").await;
    assert_eq!((code, &*stdout), (1, ""), "{stderr}");
    assert!(stderr.starts_with("error: no daemon answers at "), "{stderr}");
}
