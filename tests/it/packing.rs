//! Packed records: what arrives is the same, what it costs is not.

use hydrant::local::{Faults, Options, Poison, PoisonEffect};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};

use crate::daemon::{Daemon, Sink, balance, line, lines, number, patiently};

const BYTES: usize = 200;
const RECORDS: usize = 10_000;

/// Firehose bills each of its records rounded up to this.
const BILLED: u64 = 5 * 1024;

async fn deliver(mode: &str) -> (Daemon, Sink) {
    let sink = Sink::start(Options::default()).await;
    let mode = format!("aggregate.mode={mode}");
    let daemon = Daemon::start(&sink.local.url(), &[&mode, "send.max_in_flight=1"]).await;
    daemon.until("decided", |status| status["stream"]["packing"].is_object()).await;
    daemon.write(&lines(RECORDS, BYTES)).await;
    daemon.until_settled(RECORDS as u64).await;
    (daemon, sink)
}

// R-A5
#[tokio::test]
async fn packed_records_arrive_as_they_were_and_cost_a_twentieth() {
    for mode in ["auto", "on"] {
        let (daemon, sink) = deliver(mode).await;
        let status = daemon.status().await;
        assert_eq!(status["stream"]["packing"]["packed"], true, "{status:#}");
        let (billed, unpacked) =
            (number(&status, "/stream/billed_bytes"), number(&status, "/stream/unpacked_billed_bytes"));
        assert_eq!(unpacked, RECORDS as u64 * BILLED);
        assert!(billed * 20 <= unpacked, "{billed} of {unpacked}");
        // What is billed is what the service saw: records of up to 1,000 KiB, whole lines each.
        assert_eq!(daemon.metric("hydrant_billed_bytes_total").await, billed);
        let seen = sink.local.counts().total();
        assert!(seen.records < RECORDS as u64 / 20, "{seen:?}");
        assert_eq!(number(&status, "/ledger/delivered/records"), RECORDS as u64);
        assert!(daemon.stop().await.status.success());
        assert!(sink.delivered().await == lines(RECORDS, BYTES), "{mode}");
    }
}

// R-A2
#[tokio::test]
async fn a_packed_request_is_full_before_four_mebibytes_and_carries_no_less_than_750_kibibytes() {
    const FULL: usize = 768_000;
    let sink = Sink::start(Options::default()).await;
    let daemon = Daemon::start(&sink.local.url(), &["aggregate.mode=on", "linger=1h"]).await;
    daemon.until("decided", |status| status["stream"]["packing"].is_object()).await;
    let records = 8 * FULL / BYTES;
    daemon.write(&lines(records, BYTES)).await;
    // Of nothing but their number do they leave before the stop.
    daemon.until("delivered", |status| number(status, "/ledger/delivered/records") > 0).await;
    assert!(daemon.stop().await.status.success());
    let seen = sink.local.counts().total();
    assert!((2..=8).contains(&seen.requests), "{seen:?}");
    assert!(sink.delivered().await == lines(records, BYTES));
}

// R-A5
#[tokio::test]
async fn without_packing_each_record_is_one_of_firehoses() {
    let (daemon, sink) = deliver("off").await;
    let status = daemon.status().await;
    assert_eq!(status["stream"]["packing"]["packed"], false);
    assert_eq!(number(&status, "/stream/billed_bytes"), RECORDS as u64 * BILLED);
    assert_eq!(sink.local.counts().total().records, RECORDS as u64);
    assert!(daemon.stop().await.status.success());
    assert!(sink.delivered().await == lines(RECORDS, BYTES));
}

// R-A4
#[tokio::test]
async fn what_fails_of_a_packed_batch_is_sent_again_and_counted_by_record() {
    let faults = Faults { fail_records: 0.3, throttle: 0.2, ..Faults::default() };
    let sink = Sink::start(Options { faults, ..Options::default() }).await;
    let settings = [
        "aggregate.mode=on",
        "aggregate.max_record=4KiB",
        "aggregate.max_lines=15",
        "listen.app.acks=delivered",
        "retry.base_delay=1ms",
        "retry.max_delay=5ms",
        "retry.max_retries=100",
        "linger=1ms",
    ];
    let daemon = Daemon::start(&sink.local.url(), &settings).await;
    let mut stream = BufReader::new(daemon.connect().await);
    stream.write_all(&lines(RECORDS, BYTES)).await.unwrap();
    let all = async {
        let mut count = String::new();
        while count.trim_end() != RECORDS.to_string() {
            count.clear();
            assert!(stream.read_line(&mut count).await.unwrap() > 0);
        }
    };
    patiently("delivered", all).await;
    let (taken, accounted) = balance(&daemon.get("/metrics").await.1);
    assert_eq!(taken, accounted);
    drop(stream);
    assert!(daemon.stop().await.status.success());
    let delivered = sink.lines().await;
    assert_eq!(delivered.len(), RECORDS);
    assert!(delivered.values().all(|times| *times == 1));
}

// R-A4
#[tokio::test]
async fn a_record_that_is_refused_is_found_among_those_it_is_packed_with() {
    let poison =
        Poison { bytes: bytes::Bytes::from_static(b"\"number\":777,"), effect: PoisonEffect::RefuseRequest };
    let sink = Sink::start(Options::default()).await;
    let directory = tempfile::tempdir().unwrap();
    let letters = format!("dead_letter.directory={}", directory.path().display());
    let daemon = Daemon::start(&sink.local.url(), &["aggregate.mode=on", "linger=1ms", &letters]).await;
    // Once a record was taken, a refusal is the fault of what was sent.
    daemon.write(&line(0, BYTES)).await;
    daemon.until_settled(1).await;
    sink.local.set_faults(Faults { poison: Some(poison), ..Faults::default() });
    let others: Vec<u8> = (1..2000).flat_map(|number| line(number, BYTES)).collect();
    daemon.write(&others).await;
    let status = daemon.until_settled(2000).await;
    assert_eq!(number(&status, "/ledger/dead_lettered/records"), 1);
    assert_eq!(number(&status, "/ledger/delivered/records"), 1999);
    assert!(daemon.stop().await.status.success());
    let delivered = sink.lines().await;
    assert!(!delivered.contains_key(&line(777, BYTES)[..BYTES - 1]));
    assert_eq!(delivered.len(), 1999);
}
