//! Records in by every kind of listener, batches out, files as they should be.

use std::process::Stdio;

use hydrant::local::{Faults, Operation, Options, Outcome};
use tokio::io::AsyncWriteExt;

use crate::daemon::{Daemon, Sink, balance, line, lines};

// R-P1
#[tokio::test]
async fn a_unix_socket_a_tcp_port_and_standard_input_all_deliver() {
    let sink = Sink::start(Options::default()).await;
    let settings = ["linger=20ms", "listen.port.address=tcp:127.0.0.1:0", "listen.pipe.address=stdin:"];
    let mut daemon = Daemon::start(&sink.local.url(), &settings).await;
    daemon.write(b"one\ntwo\n").await;
    daemon.connect_tcp("port").await.write_all(b"three\r\n\r\nfour").await.unwrap();
    let mut stdin = daemon.stdin.take().unwrap();
    stdin.write_all(b"five\nsix").await.unwrap();
    drop(stdin);
    daemon.until_settled(6).await;
    let ended = daemon.stop().await;
    assert!(ended.status.success());
    let mut delivered: Vec<_> = sink.lines().await.into_iter().collect();
    delivered.sort();
    let expected = ["five", "four", "one", "six", "three", "two"];
    assert_eq!(delivered, expected.map(|line| (line.as_bytes().to_vec(), 1)));
}

// R-D5, R-P19
#[tokio::test]
async fn a_daemon_that_only_reads_standard_input_ends_with_it() {
    let sink = Sink::start(Options::default()).await;
    let directory = tempfile::tempdir().unwrap();
    let endpoint = format!("endpoint_url={}", sink.local.url());
    let settings = [endpoint.as_str(), "listen.pipe.address=stdin:", "linger=1h", "send.max_in_flight=1"];
    let mut daemon = Daemon::start_in(directory, settings).await;
    let mut stdin = daemon.stdin.take().unwrap();
    stdin.write_all(&lines(1234, 100)).await.unwrap();
    drop(stdin);
    assert!(daemon.ended().await.status.success());
    assert_eq!(sink.delivered().await, lines(1234, 100));
}

// R-B1, R-S1
#[tokio::test]
async fn batches_keep_their_bounds_and_a_single_record_goes_by_put_record() {
    let sink = Sink::start(Options::default()).await;
    let daemon = Daemon::start(&sink.local.url(), &["linger=1h", "send.max_in_flight=1"]).await;
    let check = async |records: usize, bytes: usize, expected: &[usize]| {
        let before = sink.local.requests().len();
        let received = daemon.status().await["ledger"]["received"]["records"].as_u64().unwrap();
        daemon.write(&lines(records, bytes)).await;
        daemon
            .until("received", |status| status["ledger"]["received"]["records"] == received + records as u64)
            .await;
        daemon.signal("USR1");
        daemon.until_settled(received + records as u64).await;
        let mut requests = sink.local.requests().split_off(before);
        // The monitor asks when it likes.
        requests.retain(|request| request.records > 0);
        assert!(requests.iter().all(|request| request.records <= 500 && request.bytes <= 4 << 20));
        let sizes: Vec<_> = requests.iter().map(|request| request.records).collect();
        assert_eq!(sizes, expected, "{records} records of {bytes} bytes");
        for request in requests {
            let single = request.records == 1;
            assert_eq!(
                request.operation,
                Some(if single { Operation::PutRecord } else { Operation::PutRecordBatch })
            );
        }
    };
    check(1, 100, &[1]).await;
    check(499, 100, &[499]).await;
    check(500, 100, &[500]).await;
    check(1001, 100, &[500, 500, 1]).await;
    // 4 MiB is 4,194,304 bytes: 4 records of 1,024,000 fit, and 40 of 104,857.
    check(5, 1_024_000, &[4, 1]).await;
    check(41, 104_857, &[40, 1]).await;
    check(41, 104_858, &[39, 2]).await;
    assert!(daemon.stop().await.status.success());
}

// R-B11
#[tokio::test]
async fn every_batch_is_in_one_line_of_the_log_however_many_there_are() {
    let faults = Faults { fail_records: 0.1, ..Faults::default() };
    let sink = Sink::start(Options { faults, ..Options::default() }).await;
    let settings = ["max_batch_size=10", "linger=1h", "retry.base_delay=1ms", "retry.max_delay=1ms"];
    let daemon = Daemon::start(&sink.local.url(), &settings).await;
    daemon.write(&lines(2000, 100)).await;
    daemon.until("received", |status| status["ledger"]["received"]["records"] == 2000).await;
    let ended = daemon.stop().await;
    let sum = |key: &str| -> u64 {
        ended.said("Batch ingested successfully").iter().map(|line| line[key].as_u64().unwrap()).sum()
    };
    let (mut number, mut records, mut failed) = (0, 0, 0);
    for request in sink.local.requests() {
        let Outcome::Answered { failed: entries } = request.outcome else { continue };
        // A batch of which every record was throttled has failed as a whole, and is no success.
        if request.operation == Some(Operation::PutRecordBatch) && entries < request.records {
            number += 1;
            records += request.records as u64;
            failed += entries as u64;
        }
    }
    assert_eq!((sum("batches"), sum("records"), sum("failed_put_count")), (number, records, failed));
    assert!(ended.said("Batch ingested successfully").iter().any(|line| line["batches"] != 1));
}

// R-P7
#[tokio::test]
async fn the_delimiter_follows_each_record_once() {
    let check = async |delimiter: &str, sent: &[u8], expected: &[u8]| {
        let sink = Sink::start(Options::default()).await;
        let delimiter = format!("delimiter={delimiter}");
        let daemon = Daemon::start(&sink.local.url(), &["linger=1h", &delimiter]).await;
        daemon.write(sent).await;
        daemon.until("received", |status| status["ledger"]["received"]["records"] == 3).await;
        assert!(daemon.stop().await.status.success());
        assert_eq!(sink.delivered().await, expected, "{delimiter}");
    };
    check(r#""\n""#, b"a\r\nb\nc", b"a\nb\nc\n").await;
    check(r#""""#, b"a\r\nb\nc", b"abc").await;
    check(r#""|""#, b"a\r\nb|\nc", b"a|b|c|").await;
    check(r#""\r\n""#, b"a\r\nb\nc", b"a\r\nb\r\nc\r\n").await;
}

// R-L1
#[tokio::test]
async fn metrics_add_up_at_every_scrape_under_load() {
    let sink = Sink::start(Options::default()).await;
    let daemon = Daemon::start(&sink.local.url(), &["linger=10ms", "buffer.memory=2MiB"]).await;
    let records = 40_000;
    let mut stream = daemon.connect().await;
    let producer = tokio::spawn(async move {
        stream.write_all(&lines(records, 200)).await.unwrap();
    });
    let mut scrapes = 0;
    while daemon.status().await["ledger"]["delivered"]["records"] != records {
        let (taken, accounted) = balance(&daemon.get("/metrics").await.1);
        assert_eq!(taken, accounted);
        scrapes += 1;
    }
    producer.await.unwrap();
    assert!(scrapes > 0);
    let metrics = daemon.get("/metrics").await.1;
    assert_eq!(balance(&metrics), (records as u64, records as u64));
    assert!(metrics.contains(&format!("hydrant_bytes_delivered_total {}\n", records * 200)));
    assert!(metrics.contains(&format!("hydrant_billed_bytes_total {}\n", records * 5120)));
    assert!(daemon.stop().await.status.success());
}

// R-P12
#[tokio::test]
async fn received_and_delivered_are_told_to_a_producer_that_asks() {
    let sink = Sink::start(Options::default()).await;
    for level in ["received", "delivered"] {
        let acks = format!("listen.app.acks={level}");
        let daemon = Daemon::start(&sink.local.url(), &["linger=20ms", &acks]).await;
        let mut stream = daemon.connect().await;
        stream.write_all(&lines(1500, 100)).await.unwrap();
        stream.write_all(b"the last, without an end").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut told = String::new();
        tokio::io::AsyncReadExt::read_to_string(&mut stream, &mut told).await.unwrap();
        let counts: Vec<u64> = told.lines().map(|line| line.parse().unwrap()).collect();
        assert!(counts.is_sorted(), "{level}: {counts:?}");
        assert_eq!(counts.last(), Some(&1501), "{level}");
        if level == "delivered" {
            assert_eq!(daemon.status().await["ledger"]["delivered"]["records"], 1501);
        }
        assert!(daemon.stop().await.status.success());
    }
}

// R-T1
#[tokio::test]
async fn help_names_every_command_and_every_command_has_an_example() {
    for command in [
        "run",
        "demo",
        "local",
        "check",
        "doctor",
        "estimate",
        "put",
        "send",
        "dead-letter",
        "dead-letter list",
        "dead-letter export",
        "dead-letter replay",
        "spool",
        "spool info",
        "spool verify",
        "spool export",
        "status",
        "schema",
        "health",
        "top",
        "generate",
    ] {
        let output = crate::daemon::hydrant()
            .args(command.split(' '))
            .arg("--help")
            .stdin(Stdio::null())
            .output()
            .await
            .unwrap();
        let help = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success() && help.contains("Example"), "{command}: {help}");
    }
}

// R-B10
#[tokio::test]
async fn sigusr1_sends_what_is_held_without_waiting_for_linger() {
    let sink = Sink::start(Options::default()).await;
    let daemon = Daemon::start(&sink.local.url(), &["linger=1h"]).await;
    daemon.write(&line(0, 50)).await;
    daemon.until("held", |status| status["ledger"]["held"]["records"] == 1).await;
    daemon.signal("USR1");
    daemon.until_settled(1).await;
    assert!(daemon.stop().await.status.success());
}
