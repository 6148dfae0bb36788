//! What is accepted is delivered before the daemon ends, or is accounted for in its last words.

use std::process::Stdio;
use std::time::Duration;

use hydrant::local::{Faults, Options, Poison, PoisonEffect};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use crate::daemon::{Daemon, Ended, SECRET_KEY, Sink, hydrant, line, lines, number, patiently};

const BYTES: usize = 100;

/// Line `number` of producer `producer`.
fn own_line(producer: usize, number: usize) -> Vec<u8> {
    let mut line = format!("{producer} {number} ").into_bytes();
    line.resize(BYTES - 1, b'.');
    line.push(b'\n');
    line
}

/// Writes lines until the daemon takes no more; returns how many it took whole.
async fn produce(mut stream: UnixStream, producer: usize) -> usize {
    let mut written = 0;
    for first in (0..).step_by(50) {
        let lines: Vec<u8> = (first..first + 50).flat_map(|number| own_line(producer, number)).collect();
        let mut rest = &lines[..];
        while !rest.is_empty() {
            match stream.write(rest).await {
                Ok(taken) => (written, rest) = (written + taken, &rest[taken..]),
                Err(error) => {
                    assert_eq!(error.kind(), std::io::ErrorKind::BrokenPipe, "{error}");
                    return written / BYTES;
                }
            }
        }
    }
    unreachable!("the daemon took every number")
}

/// Compares what arrived with what each producer wrote: every whole line once, nothing else.
async fn check_arrived(sink: &Sink, ended: &Ended, written: &[usize]) {
    assert!(ended.status.success(), "{:#?}", ended.log);
    let total: usize = written.iter().sum();
    let last = ended.said("Stopped.")[0];
    assert_eq!([number(last, "/received"), number(last, "/delivered")], [total as u64; 2], "{last}");
    let mut delivered = sink.lines().await;
    for (producer, lines) in written.iter().enumerate() {
        for number in 0..*lines {
            let line = own_line(producer, number);
            let times = delivered.remove(&line[..BYTES - 1]);
            assert_eq!(times, Some(1), "line {number} of {lines} of producer {producer}");
        }
    }
    assert!(delivered.is_empty(), "{} lines that nobody wrote", delivered.len());
}

/// Sends `signal` while producers write; nothing that a write handed over may be lost.
async fn stop_in_mid_load(signal: &str, producers: usize) {
    let sink = Sink::start(Options::default()).await;
    let daemon = Daemon::start(&sink.local.url(), &["linger=20ms"]).await;
    let mut writing = Vec::new();
    for producer in 0..producers {
        writing.push(tokio::spawn(produce(daemon.connect().await, producer)));
    }
    daemon.until("flowing", |status| number(status, "/ledger/delivered/records") > 5000).await;
    daemon.signal(signal);
    let mut written = Vec::new();
    for producer in writing {
        written.push(patiently("refused", producer).await.unwrap());
    }
    check_arrived(&sink, &daemon.ended().await, &written).await;
}

// R-D1
#[tokio::test]
async fn sigterm_in_mid_load_delivers_all_that_was_written() {
    stop_in_mid_load("TERM", 1).await;
    stop_in_mid_load("TERM", 20).await;
}

// R-D1
#[tokio::test]
async fn sigint_in_mid_load_delivers_all_that_was_written() {
    stop_in_mid_load("INT", 4).await;
}

// R-D2
#[tokio::test]
async fn producers_that_a_full_buffer_holds_back_are_heard_out() {
    let sink = Sink::start(Options::default()).await;
    sink.local.set_down(true).await.unwrap();
    let settings = ["buffer.memory=1MiB", "retry.max_delay=100ms", "send.max_in_flight=1"];
    let daemon = Daemon::start(&sink.local.url(), &settings).await;
    let mut writing = Vec::new();
    for producer in 0..10 {
        writing.push(tokio::spawn(produce(daemon.connect().await, producer)));
    }
    daemon.until_still().await;
    assert!(!writing.iter().any(|producer| producer.is_finished()));
    daemon.signal("TERM");
    // So slow that what the sockets hold takes seconds.
    sink.local.set_faults(Faults { latency: Duration::from_millis(100), ..Faults::default() });
    sink.local.set_down(false).await.unwrap();
    let mut written = Vec::new();
    for producer in writing {
        written.push(patiently("refused", producer).await.unwrap());
    }
    check_arrived(&sink, &daemon.ended().await, &written).await;
}

// R-D2
#[tokio::test]
async fn connections_that_were_never_accepted_are_heard_out() {
    let sink = Sink::start(Options::default()).await;
    let mut daemon = Daemon::start(&sink.local.url(), &["linger=1h", "listen.app.max_connections=1"]).await;
    let mut first = daemon.connect().await;
    first.write_all(&own_line(0, 0)).await.unwrap();
    daemon.until_said("Every connection is taken, further ones wait.").await;
    let mut waiting = Vec::new();
    for producer in 1..100 {
        let mut stream = daemon.connect().await;
        stream.write_all(&own_line(producer, 0)).await.unwrap();
        waiting.push(stream);
    }
    daemon.signal("TERM");
    check_arrived(&sink, &daemon.ended().await, &[1; 100]).await;
}

// R-D3
#[tokio::test]
async fn what_is_left_at_the_drain_deadline_is_counted_and_said() {
    let sink = Sink::start(Options::default()).await;
    sink.local.set_down(true).await.unwrap();
    let settings = ["linger=1ms", "shutdown.drain=100ms"];
    let daemon = Daemon::start(&sink.local.url(), &settings).await;
    daemon.write(&lines(1234, BYTES)).await;
    daemon.until("in", |status| number(status, "/ledger/held/records") == 1234).await;
    let ended = daemon.stop().await;
    assert_eq!(ended.status.code(), Some(1));
    assert_eq!(ended.said("Drain deadline reached.").len(), 1);
    let last = ended.said("Stopped before everything was delivered.")[0];
    let figures = ["/records", "/received", "/dropped", "/delivered"].map(|path| number(last, path));
    assert_eq!((figures, &last["level"]), ([1234, 1234, 1234, 0], &"ERROR".into()));
    assert!(sink.delivered().await.is_empty());
}

// R-D3
#[tokio::test]
async fn what_is_left_at_the_drain_deadline_is_kept_where_there_is_a_dead_letter_store() {
    let sink = Sink::start(Options::default()).await;
    sink.local.set_down(true).await.unwrap();
    let store = tempfile::tempdir().unwrap();
    let dead = format!("dead_letter.directory={}", store.path().display());
    let daemon = Daemon::start(&sink.local.url(), &["linger=1ms", "shutdown.drain=100ms", &dead]).await;
    daemon.write(&lines(1234, BYTES)).await;
    daemon.until("in", |status| number(status, "/ledger/held/records") == 1234).await;
    let ended = daemon.stop().await;
    assert_eq!(ended.status.code(), Some(1));
    let last = ended.said("Stopped before everything was delivered.")[0];
    assert_eq!(["/dead_lettered", "/dropped"].map(|path| number(last, path)), [1234, 0]);
    let kept = std::fs::read_to_string(store.path().join("dead-letters.jsonl")).unwrap();
    let mut kept: Vec<_> = kept
        .lines()
        .map(|letter| {
            let letter: serde_json::Value = serde_json::from_str(letter).unwrap();
            assert_eq!(letter["error_code"], "Shutdown");
            base64_simd::STANDARD.decode_to_vec(letter["data"].as_str().unwrap()).unwrap()
        })
        .collect();
    kept.sort();
    let mut expected: Vec<_> = (0..1234).map(|number| line(number, BYTES)).collect();
    expected.sort();
    assert!(kept == expected, "the store has other records");
}

// R-D4
#[tokio::test]
async fn a_second_signal_ends_the_daemon_at_once_with_an_account_of_what_is_lost() {
    let sink = Sink::start(Options::default()).await;
    sink.local.set_down(true).await.unwrap();
    let mut daemon = Daemon::start(&sink.local.url(), &["linger=1ms", "shutdown.drain=1h"]).await;
    daemon.write(&lines(10, BYTES)).await;
    daemon.until("in", |status| number(status, "/ledger/held/records") == 10).await;
    daemon.signal("TERM");
    let draining = daemon.until_said("Draining.").await;
    assert_eq!([number(&draining, "/records"), number(&draining, "/bytes")], [10, 1000]);
    assert_eq!((daemon.get("/livez").await.0, daemon.get("/readyz").await.0), (200, 503));
    daemon.signal("TERM");
    let ended = daemon.ended().await;
    assert_eq!(ended.status.code(), Some(1));
    assert_eq!(ended.said("Asked twice to stop, exiting at once.").len(), 1);
    assert_eq!(number(ended.said("Stopped before everything was delivered.")[0], "/dropped"), 10);
}

// R-D6
#[tokio::test]
async fn idle_and_unfinished_connections_hold_nothing_up() {
    let sink = Sink::start(Options::default()).await;
    let settings = ["linger=1h", "shutdown.drain=1h", "listen.port.address=tcp:0"];
    let daemon = Daemon::start(&sink.local.url(), &settings).await;
    assert!(Daemon::start(&sink.local.url(), &[]).await.stop().await.status.success(), "without traffic");
    let (mut idle, mut half) = (daemon.connect().await, daemon.connect().await);
    half.write_all(b"whole\nhalf").await.unwrap();
    let mut port = daemon.connect_tcp("port").await;
    port.write_all(b"and\nmore").await.unwrap();
    daemon.until("in", |status| number(status, "/ledger/received/records") == 2).await;
    let ended = daemon.stop().await;
    assert!(ended.status.success(), "{:#?}", ended.log);
    let rejected = ended.said("Record rejected.");
    assert!(rejected.iter().all(|said| said["reason"] == "incomplete" && said["bytes"] == 4), "{rejected:?}");
    assert_eq!(rejected.len(), 2);
    for stream in [&mut idle, &mut half] {
        assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
    }
    let mut delivered: Vec<_> = sink.lines().await.into_keys().collect();
    delivered.sort();
    assert_eq!(delivered, [&b"and"[..], b"whole"]);
}

// R-D7
#[tokio::test]
async fn producers_are_told_what_was_delivered_before_the_daemon_ends() {
    let sink = Sink::start(Options::default()).await;
    let settings = ["linger=1h", "shutdown.drain=1h", "listen.app.acks=delivered"];
    let daemon = Daemon::start(&sink.local.url(), &settings).await;
    let mut stream = daemon.connect().await;
    stream.write_all(&lines(123, BYTES)).await.unwrap();
    daemon.until("in", |status| number(status, "/ledger/received/records") == 123).await;
    let ended = daemon.stop().await;
    assert!(ended.status.success(), "{:#?}", ended.log);
    let mut told = String::new();
    stream.read_to_string(&mut told).await.unwrap();
    assert_eq!(told.lines().last(), Some("123"));
}

/// A daemon with no listener but its standard input.
async fn with_stdin(sink: &Sink, settings: &[&str]) -> Daemon {
    let endpoint = format!("endpoint_url={}", sink.local.url());
    let all = [
        &[endpoint.as_str(), "listen.pipe.address=stdin:", "retry.max_delay=100ms", "send.max_in_flight=1"],
        settings,
    ]
    .concat();
    Daemon::start_in(tempfile::tempdir().unwrap(), all).await
}

// R-D6
#[tokio::test]
async fn standard_input_that_stays_open_does_not_hold_a_stop_up() {
    let sink = Sink::start(Options::default()).await;
    let mut daemon = with_stdin(&sink, &["linger=1h", "shutdown.drain=1h"]).await;
    let mut stdin = daemon.stdin.take().unwrap();
    stdin.write_all(&lines(1000, BYTES)).await.unwrap();
    daemon.until("in", |status| number(status, "/ledger/received/records") == 1000).await;
    assert!(daemon.stop().await.status.success());
    assert!(sink.delivered().await == lines(1000, BYTES));
    drop(stdin);
}

// R-D5
#[tokio::test]
async fn the_end_of_standard_input_sets_no_deadline() {
    let sink = Sink::start(Options::default()).await;
    sink.local.set_down(true).await.unwrap();
    let mut daemon = with_stdin(&sink, &["shutdown.drain=0s"]).await;
    let mut stdin = daemon.stdin.take().unwrap();
    stdin.write_all(&lines(1000, BYTES)).await.unwrap();
    drop(stdin);
    daemon.until_said("Draining.").await;
    daemon.until("in trouble", |status| !status["stream"]["trouble"].is_null()).await;
    sink.local.set_down(false).await.unwrap();
    assert!(daemon.ended().await.status.success());
    assert!(sink.delivered().await == lines(1000, BYTES));
}

// R-D5
#[tokio::test]
async fn one_signal_after_the_end_of_standard_input_is_not_a_second_one() {
    let sink = Sink::start(Options::default()).await;
    sink.local.set_down(true).await.unwrap();
    let mut daemon = with_stdin(&sink, &["shutdown.drain=1h"]).await;
    let mut stdin = daemon.stdin.take().unwrap();
    stdin.write_all(&lines(1000, BYTES)).await.unwrap();
    drop(stdin);
    daemon.until_said("Draining.").await;
    daemon.until("in trouble", |status| !status["stream"]["trouble"].is_null()).await;
    daemon.signal("TERM");
    daemon.until_said("Draining.").await;
    sink.local.set_down(false).await.unwrap();
    assert!(daemon.ended().await.status.success());
    assert!(sink.delivered().await == lines(1000, BYTES));
}

// R-E17
#[tokio::test]
async fn no_record_and_no_secret_is_ever_logged() {
    const CANARY: &str = "canary-in-the-record";
    let poison = Poison { bytes: CANARY.into(), effect: PoisonEffect::RefuseRequest };
    let faults = Faults { fail_records: 0.3, throttle: 0.2, error_500: 0.2, ..Faults::default() };
    let sink = Sink::start(Options::default()).await;
    let store = tempfile::tempdir().unwrap();
    let dead = format!("dead_letter.directory={}", store.path().display());
    let settings = [
        "log.level=trace",
        "linger=1ms",
        "retry.base_delay=1ms",
        "retry.max_delay=10ms",
        "retry.max_retries=0",
        "listen.app.max_record_bytes=1000",
        "listen.app.acks=received",
        &dead,
    ];
    for fast_body in ["send.fast_body=true", "send.fast_body=false"] {
        let daemon = Daemon::start(&sink.local.url(), &[&settings[..], &[fast_body]].concat()).await;
        sink.local.set_faults(Faults::default());
        daemon.write(b"a first one\n").await;
        daemon.until_settled(1).await;
        sink.local.set_faults(Faults { poison: Some(poison.clone()), ..Faults::default() });
        daemon.write(format!("{CANARY}\n").repeat(10).as_bytes()).await;
        daemon.until_settled(11).await;
        sink.local.set_faults(faults.clone());
        daemon.write(format!("{CANARY}\n").repeat(500).as_bytes()).await;
        daemon.until_settled(511).await;
        sink.local.set_faults(Faults::default());
        sink.local.set_down(true).await.unwrap();
        daemon.write(format!("{}\n{CANARY}\n", CANARY.repeat(100)).as_bytes()).await;
        let mut half = daemon.connect().await;
        half.write_all(format!("{CANARY}\n{CANARY}").as_bytes()).await.unwrap();
        let status = daemon.until("in", |status| number(status, "/ledger/received/records") == 513).await;
        assert!(number(&status, "/ledger/dead_lettered/records") >= 10, "{status:#}");
        daemon.signal("TERM");
        daemon.signal("TERM");
        let ended = daemon.ended().await;
        assert!(ended.log.len() > 10 && !ended.said("Record rejected.").is_empty());
        let encoded = base64_simd::STANDARD.encode_to_string(&CANARY[..CANARY.len() / 3 * 3]);
        for line in &ended.log {
            let line = line.to_string();
            for secret in [CANARY, &encoded, SECRET_KEY] {
                assert!(!line.contains(secret), "{line}");
            }
        }
        sink.local.set_down(false).await.unwrap();
    }
}

#[tokio::test]
async fn a_log_that_is_off_says_nothing() {
    let sink = Sink::start(Options::default()).await;
    let endpoint = format!("endpoint_url={}", sink.local.url());
    let mut command = hydrant();
    command.arg("run").args(["--set", &endpoint, "--set", "delivery_stream_name=app"]);
    for setting in ["log.level=off", "listen.pipe.address=stdin:", "admin.address=off"] {
        command.args(["--set", setting]);
    }
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(&[line(0, 2_000_000), line(1, 100)].concat()).await.unwrap();
    drop(stdin);
    let output = patiently("ended", child.wait_with_output()).await.unwrap();
    assert!(output.status.success() && output.stdout.is_empty() && output.stderr.is_empty(), "{output:?}");
    assert_eq!(sink.delivered().await, line(1, 100));
}
