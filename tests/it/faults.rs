//! What goes wrong at the service, and that nothing is lost or wrongly repeated by it.

use std::time::Duration;

use hydrant::local::{FailCode, Faults, Operation, Options, Poison, PoisonEffect, Refusal};
use tokio::io::AsyncWriteExt;

use crate::daemon::{Daemon, Sink, balance, line, lines};

const RECORDS: usize = 50_000;
const BYTES: usize = 300;

/// What arrived of the lines `0..RECORDS`.
#[derive(Debug, PartialEq, Eq)]
struct Tally {
    lost: usize,
    duplicates: usize,
}

async fn tally(sink: &Sink) -> Tally {
    let mut delivered = sink.lines().await;
    let mut tally = Tally { lost: 0, duplicates: 0 };
    for number in 0..RECORDS {
        let mut expected = line(number, BYTES);
        expected.pop();
        match delivered.remove(&expected) {
            None => tally.lost += 1,
            Some(times) => tally.duplicates += times - 1,
        }
    }
    assert!(delivered.is_empty(), "{} lines that nobody sent", delivered.len());
    tally
}

/// Sends all records through a daemon while the service has `faults`; returns what arrived and
/// the daemon's last status.
async fn check(faults: Faults) -> (Tally, serde_json::Value, hydrant::local::StreamCounts) {
    let sink = Sink::start(Options { faults, seed: 7, ..Options::default() }).await;
    let settings = ["linger=20ms", "retry.base_delay=10ms", "retry.max_delay=100ms"];
    let daemon = Daemon::start(&sink.local.url(), &settings).await;
    daemon.write(&lines(RECORDS, BYTES)).await;
    let status = daemon.until_settled(RECORDS as u64).await;
    let (taken, accounted) = balance(&daemon.get("/metrics").await.1);
    assert_eq!((taken, accounted), (RECORDS as u64, RECORDS as u64));
    assert!(daemon.stop().await.status.success());
    let tally = tally(&sink).await;
    (tally, status, sink.local.counts().total())
}

const CLEAN: Tally = Tally { lost: 0, duplicates: 0 };

// R-E1
#[tokio::test]
async fn a_fifth_of_the_records_failing_loses_and_repeats_nothing() {
    let (tally, _, counts) = check(Faults { fail_records: 0.2, ..Faults::default() }).await;
    assert_eq!(tally, CLEAN);
    assert!(counts.failed_entries > 10_000, "{counts:?}");
}

// R-E3
#[tokio::test]
async fn a_third_of_the_requests_throttled_loses_and_repeats_nothing() {
    let (tally, _, counts) = check(Faults { throttle: 0.3, ..Faults::default() }).await;
    assert_eq!(tally, CLEAN);
    assert!(counts.throttled_requests > 10, "{counts:?}");
}

// R-E3
#[tokio::test]
async fn a_tenth_of_the_requests_failing_with_500_loses_and_repeats_nothing() {
    let (tally, status, _) = check(Faults { error_500: 0.1, ..Faults::default() }).await;
    assert_eq!(tally, CLEAN);
    assert!(status["stream"]["ambiguous_records"].as_u64().unwrap() > 0, "{status:#}");
}

// R-E3
#[tokio::test]
async fn connections_reset_before_the_request_is_read_lose_and_repeat_nothing() {
    let (tally, ..) = check(Faults { reset: 0.05, ..Faults::default() }).await;
    assert_eq!(tally, CLEAN);
}

// R-E10
#[tokio::test]
async fn every_fault_at_once_loses_and_repeats_nothing() {
    let faults =
        Faults { fail_records: 0.2, throttle: 0.3, error_500: 0.1, reset: 0.05, ..Faults::default() };
    assert_eq!(check(faults).await.0, CLEAN);
}

// R-E10
#[tokio::test]
async fn lost_answers_lose_nothing_and_repeat_only_their_own_records_counted() {
    let (tally, status, counts) = check(Faults { reset_after: 0.05, ..Faults::default() }).await;
    assert_eq!(tally.lost, 0);
    assert!(counts.ambiguous_records > 0, "no answer was lost");
    assert_eq!(tally.duplicates as u64, counts.ambiguous_records);
    assert!(status["stream"]["ambiguous_records"].as_u64().unwrap() >= counts.ambiguous_records);
}

// R-E11
#[tokio::test]
async fn an_outage_of_ten_seconds_loses_nothing_and_holds_producers_and_memory() {
    let memory = 4 << 20;
    let sink = Sink::start(Options::default()).await;
    let directory = tempfile::tempdir().unwrap();
    let dead = format!("dead_letter.directory={}", directory.path().display());
    let settings = ["linger=20ms", "buffer.memory=4MiB", "retry.max_delay=1s", &dead];
    let daemon = Daemon::start(&sink.local.url(), &settings).await;
    let mut stream = daemon.connect().await;
    let producer = tokio::spawn(async move {
        stream.write_all(&lines(RECORDS, BYTES)).await.unwrap();
    });
    daemon.until("flowing", |status| status["ledger"]["delivered"]["records"].as_u64() > Some(5000)).await;
    sink.local.set_down(true).await.unwrap();
    daemon.until("in trouble", |status| !status["stream"]["trouble"].is_null()).await;
    // The length of the outage is what is tested; nothing waits for the machine.
    let outage = async {
        tokio::time::sleep(Duration::from_secs(10)).await;
        daemon.status().await
    };
    let status = outage.await;
    let held = status["ledger"]["held"]["bytes"].as_u64().unwrap();
    assert!(held > 1 << 20 && held < memory, "{held} bytes held of {memory}");
    assert!(!producer.is_finished(), "the producer was not held back");
    assert_eq!((daemon.get("/livez").await.0, daemon.get("/readyz").await.0), (200, 200));
    sink.local.set_down(false).await.unwrap();
    producer.await.unwrap();
    let status = daemon.until_settled(RECORDS as u64).await;
    assert_eq!(status["ledger"]["delivered"]["records"], RECORDS);
    assert!(daemon.stop().await.status.success());
    let tally = tally(&sink).await;
    assert_eq!(tally.lost, 0);
    assert!(tally.duplicates as u64 <= status["stream"]["ambiguous_records"].as_u64().unwrap());
}

/// A service that never takes a record with `poison` in it.
async fn poisoned(effect: PoisonEffect) -> Sink {
    let poison = Some(Poison { bytes: bytes::Bytes::from_static(b"poison"), effect });
    Sink::start(Options { faults: Faults { poison, ..Faults::default() }, ..Options::default() }).await
}

// R-E4
#[tokio::test]
async fn a_record_that_always_fails_is_dead_lettered_whole_and_no_other() {
    use base64_simd::STANDARD;
    let sink = poisoned(PoisonEffect::FailEntry(FailCode::InternalFailure)).await;
    let directory = tempfile::tempdir().unwrap();
    let dead = format!("dead_letter.directory={}", directory.path().display());
    let daemon = Daemon::start(&sink.local.url(), &["linger=20ms", "retry.base_delay=1ms", &dead]).await;
    let mut sent = lines(1000, 100);
    sent.extend(b"poison \xff\0 one\n");
    sent.extend(lines(1000, 100));
    daemon.write(&sent).await;
    let status = daemon.until_settled(2001).await;
    assert_eq!(status["ledger"]["dead_lettered"]["records"], 1, "{status:#}");
    let ended = daemon.stop().await;
    assert!(ended.status.success());
    let said = ended.said("Maximum retries exceeded");
    assert_eq!((&said[0]["records"], &said[0]["error_code"]), (&1.into(), &"InternalFailure".into()));
    let text = std::fs::read_to_string(directory.path().join("dead-letters.jsonl")).unwrap();
    let letter: serde_json::Value = serde_json::from_str(text.trim_end()).unwrap();
    assert_eq!(STANDARD.decode_to_vec(letter["data"].as_str().unwrap()).unwrap(), b"poison \xff\0 one\n");
    assert_eq!((&letter["attempts"], &letter["stream"]), (&6.into(), &"app".into()));
    let delivered = sink.lines().await;
    assert!(delivered.values().sum::<usize>() == 2000 && delivered.values().all(|times| *times == 2));
}

// R-E4
#[tokio::test]
async fn without_a_dead_letter_directory_an_undeliverable_record_is_dropped_and_said() {
    let sink = poisoned(PoisonEffect::FailEntry(FailCode::InternalFailure)).await;
    let daemon =
        Daemon::start(&sink.local.url(), &["linger=20ms", "retry.base_delay=1ms", "retry.max_retries=0"])
            .await;
    daemon.write(b"fine\npoison\nfine\n").await;
    let status = daemon.until_settled(3).await;
    assert_eq!(status["ledger"]["dropped"]["no_dead_letter_store"]["records"], 1, "{status:#}");
    let ended = daemon.stop().await;
    assert_eq!(ended.said("Records dropped.")[0]["level"], "ERROR");
    assert_eq!(sink.lines().await.into_iter().collect::<Vec<_>>(), [(b"fine".to_vec(), 2)]);
}

// R-E9
#[tokio::test]
async fn a_batch_refused_for_one_record_is_split_until_that_record_stands_alone() {
    let sink = poisoned(PoisonEffect::RefuseRequest).await;
    let directory = tempfile::tempdir().unwrap();
    let dead = format!("dead_letter.directory={}", directory.path().display());
    let daemon = Daemon::start(&sink.local.url(), &["linger=1h", "retry.base_delay=1ms", &dead]).await;
    let mut sent = lines(499, 100);
    sent.extend(b"poison\n");
    daemon.write(&sent).await;
    let status = daemon.until_settled(500).await;
    assert_eq!(status["ledger"]["dead_lettered"]["records"], 1, "{status:#}");
    let mut requests = sink.local.requests();
    // The poller may have described the stream meanwhile.
    requests.retain(|request| request.records > 0);
    assert!(requests.len() <= 2 * 9 + 1, "to find one of 500: {requests:#?}");
    assert!(daemon.stop().await.status.success());
    assert_eq!(sink.lines().await.values().sum::<usize>(), 499);
}

// R-S3
#[tokio::test]
async fn permission_for_put_record_batch_alone_is_enough() {
    let faults = Faults {
        refuse: Some(Refusal::AccessDenied),
        refuse_only: Some(Operation::PutRecord),
        ..Faults::default()
    };
    let sink = Sink::start(Options { faults, ..Options::default() }).await;
    let daemon =
        Daemon::start(&sink.local.url(), &["linger=1ms", "retry.base_delay=1h", "retry.max_delay=1h"]).await;
    for number in 0..3 {
        daemon.write(&line(number, 50)).await;
        daemon.until_settled(number as u64 + 1).await;
    }
    assert_eq!(daemon.get("/readyz").await.0, 200);
    let denied = sink
        .local
        .requests()
        .iter()
        .filter(|request| request.operation == Some(Operation::PutRecord))
        .count();
    assert_eq!(denied, 1);
    assert!(daemon.stop().await.status.success());
    assert_eq!(sink.lines().await.len(), 3);
}

// R-E12
#[tokio::test]
async fn after_give_up_after_what_is_held_is_dead_lettered_and_later_records_are_delivered() {
    let sink = Sink::start(Options::default()).await;
    sink.local.set_down(true).await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    let dead = format!("dead_letter.directory={}", directory.path().display());
    let settings = ["linger=10ms", "retry.base_delay=10ms", "retry.give_up_after=100ms", &dead];
    let daemon = Daemon::start(&sink.local.url(), &settings).await;
    daemon.write(&lines(2000, 100)).await;
    let status = daemon.until_settled(2000).await;
    assert_eq!(status["ledger"]["dead_lettered"]["records"], 2000, "{status:#}");
    let letters = std::fs::read_to_string(directory.path().join("dead-letters.jsonl")).unwrap();
    assert_eq!(letters.lines().count(), 2000);
    sink.local.set_down(false).await.unwrap();
    daemon.write(b"back again\n").await;
    let status = daemon
        .until("settled", |status| {
            status["ledger"]["received"]["records"] == 2001 && status["ledger"]["held"]["records"] == 0
        })
        .await;
    assert_eq!(status["ledger"]["delivered"]["records"], 1, "{status:#}");
    assert!(daemon.stop().await.status.success());
}
