//! A stream's quota: kept once it is known, and no matter where there is none.

use std::collections::HashMap;

use hydrant::local::{Faults, Operation, Options, RequestSummary};
use serde_json::Value;

use crate::daemon::{Daemon, Sink, line, lines, number};

const QUOTA: u64 = 1 << 20;

/// A service with a quota of so many bytes a second, and a daemon that knows it and has sent one record.
async fn known(quota: u64, settings: &[&str]) -> (Sink, Daemon) {
    let sink = Sink::start(Options { quota_bytes: Some(quota), ..Options::default() }).await;
    let settings = [&["linger=20ms", "monitor.interval=1s"], settings].concat();
    let daemon = Daemon::start(&sink.local.url(), &settings).await;
    // CloudWatch has a datapoint of the quota once something was sent.
    daemon.write(&line(0, 300)).await;
    let limit = "/monitor/readings/bytes_per_second_limit/value";
    daemon.until("known", |status| status.pointer(limit).is_some_and(|limit| *limit == quota as f64)).await;
    daemon.until_settled(1).await;
    (sink, daemon)
}

fn puts(sink: &Sink) -> Vec<RequestSummary> {
    let is_put = |request: &RequestSummary| {
        matches!(request.operation, Some(Operation::PutRecord | Operation::PutRecordBatch))
    };
    sink.local.requests().into_iter().filter(is_put).collect()
}

/// One in fifty, and one: a machine that stands still for half a second has what was sent before and after
/// arrive at once.
fn check_throttled(sink: &Sink) {
    let counts = sink.local.counts().total();
    let requests = puts(sink).len() as u64;
    assert!(counts.throttled_requests <= 1 + requests / 50, "{requests} requests, {counts:?}");
}

// R-Q2, R-Q3, R-Q5
#[tokio::test]
async fn a_quota_that_is_known_is_kept_and_all_is_delivered() {
    const RECORDS: usize = 9_999;
    let (sink, daemon) = known(QUOTA, &["buffer.memory=8MiB"]).await;
    daemon.write(&lines(RECORDS + 1, 300)[300..]).await;
    daemon.until("waits", |status| status["stream"]["quota"]["waits"] == true).await;
    let status = daemon.until_settled(RECORDS as u64 + 1).await;
    assert_eq!(status["stream"]["quota"]["waits"], false, "{status:#}");
    // 3 MB at 1 MiB/s, of which half a second's worth leaves at once.
    let wait_ms = number(&status, "/stream/quota/wait_ms");
    assert!(wait_ms >= 1_000, "{wait_ms}");
    let metrics = daemon.get("/metrics").await.1;
    let seconds = metrics.lines().find_map(|line| line.strip_prefix("hydrant_quota_wait_seconds_total "));
    assert!(seconds.unwrap().parse::<f64>().unwrap() >= 1.0, "{seconds:?}");
    assert!(daemon.stop().await.status.success());
    check_throttled(&sink);
    for put in puts(&sink) {
        assert!(put.bytes as u64 <= QUOTA, "{} bytes are more than a second's", put.bytes);
    }
    let delivered = sink.lines().await;
    let expected: HashMap<_, _> =
        (0..=RECORDS).map(|number| (line(number, 300)[..299].to_vec(), 1)).collect();
    assert!(delivered == expected, "{} of {} lines", delivered.len(), expected.len());
}

// R-Q1
#[tokio::test]
async fn what_is_packed_and_compressed_counts_as_what_is_sent_of_it() {
    const RECORDS: usize = 29_999;
    const SMALL: u64 = 100_000;
    let (sink, daemon) = known(SMALL, &["aggregate.mode=on", "aggregate.compression=gzip"]).await;
    daemon.write(&lines(RECORDS + 1, 300)[300..]).await;
    let status = daemon.until_settled(RECORDS as u64 + 1).await;
    assert_eq!(number(&status, "/ledger/delivered/records"), RECORDS as u64 + 1);
    assert!(daemon.stop().await.status.success());
    check_throttled(&sink);
    let bytes = |put: &RequestSummary| put.bytes as u64;
    let puts = puts(&sink);
    assert!(puts.iter().all(|put| bytes(put) <= SMALL), "{:?}", puts.iter().map(bytes).max());
}

// R-Q4
#[tokio::test]
async fn where_there_is_no_quota_requests_are_full() {
    const RECORDS: usize = 1_000;
    let sink = Sink::start(Options::default()).await;
    let daemon = Daemon::start(&sink.local.url(), &["linger=1h", "monitor.interval=1s"]).await;
    daemon.until("polled", |status| status["monitor"]["polled_ms_ago"].is_u64()).await;
    daemon.write(&lines(RECORDS, 8_000)).await;
    let status = daemon.until_settled(RECORDS as u64).await;
    assert_eq!(number(&status, "/stream/quota/wait_ms"), 0);
    assert_eq!(puts(&sink).len(), RECORDS / 500);
    assert!(daemon.stop().await.status.success());
}

// R-Q7
#[tokio::test]
async fn a_quota_that_is_not_known_is_learnt_and_all_is_delivered() {
    const RECORDS: usize = 14_000;
    const SMALL: u64 = 200_000;
    let sink = Sink::start(Options { quota_bytes: Some(SMALL), ..Options::default() }).await;
    let settings = ["linger=20ms", "monitor.interval=0s", "retry.max_delay=1s", "buffer.memory=8MiB"];
    let daemon = Daemon::start(&sink.local.url(), &settings).await;
    daemon.write(&lines(RECORDS, 300)).await;
    let learnt = |status: &Value| status["stream"]["quota"]["pace_bytes_per_second"].as_f64();
    daemon.until("paced", |status| learnt(status).is_some()).await;
    // Half of them: half of the time is still to come.
    let half = RECORDS as u64 / 2;
    daemon.until("begun", |status| number(status, "/ledger/delivered/records") > half).await;
    let before = puts(&sink).len() as u64;
    let throttled = sink.local.counts().total().throttled_requests;
    let status = daemon.until_settled(RECORDS as u64).await;
    // However slow the machine, no more comes through than that; and far more is not tried.
    let pace = learnt(&status).unwrap();
    assert!(pace < 2.0 * SMALL as f64, "{pace}");
    let requests = puts(&sink).len() as u64 - before;
    let throttled = sink.local.counts().total().throttled_requests - throttled;
    assert!(throttled < requests / 2, "{throttled} of {requests} requests were throttled");
    let metrics = daemon.get("/metrics").await.1;
    assert!(metrics.contains("\nhydrant_pace_bytes_per_second "), "{metrics}");
    assert!(daemon.stop().await.status.success());
    let delivered = sink.lines().await;
    assert_eq!((delivered.len(), delivered.values().max()), (RECORDS, Some(&1)));
}

// R-Q8
#[tokio::test]
async fn a_stream_that_throttles_whatever_is_sent_holds_nobody_up() {
    const RECORDS: usize = 20_000;
    let faults = Faults { fail_records: 0.3, ..Faults::default() };
    let sink = Sink::start(Options { faults, ..Options::default() }).await;
    let settings = ["linger=20ms", "monitor.interval=0s", "retry.base_delay=10ms", "buffer.memory=16MiB"];
    let daemon = Daemon::start(&sink.local.url(), &settings).await;
    daemon.write(&lines(RECORDS, 300)).await;
    let status = daemon.until_settled(RECORDS as u64).await;
    assert_eq!(number(&status, "/ledger/delivered/records"), RECORDS as u64);
    assert!(daemon.stop().await.status.success());
    let delivered = sink.lines().await;
    assert_eq!((delivered.len(), delivered.values().max()), (RECORDS, Some(&1)));
}

// R-Q6
#[tokio::test]
async fn a_stop_keeps_to_the_quota_and_not_beyond_its_deadline() {
    let (sink, daemon) = known(10_000, &["shutdown.drain=1s"]).await;
    daemon.write(&lines(2_001, 300)[300..]).await;
    daemon.until("in", |status| number(status, "/ledger/received/records") == 2_001).await;
    let ended = daemon.stop().await;
    assert_eq!(ended.status.code(), Some(1), "what is left is said and counted");
    let delivered = sink.local.counts().total().records;
    assert!(delivered < 2_001, "{delivered}");
    check_throttled(&sink);
}
