//! Length-prefixed records, and what a length can do.

use hydrant::local::Options;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::daemon::{Daemon, Sink, lines, number};

const FRAMES: &str = "listen.app.protocol=frames";
const RECEIVED: &str = "/ledger/received/records";

/// Each record with its length before it.
fn framed<'a>(records: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    let frame = |record: &[u8]| [&u32::try_from(record.len()).unwrap().to_be_bytes(), record].concat();
    records.into_iter().flat_map(frame).collect()
}

// R-N1
#[tokio::test]
async fn records_with_line_ends_in_them_arrive_whole() {
    let sink = Sink::start(Options::default()).await;
    let daemon = Daemon::start(&sink.local.url(), &[FRAMES, "linger=1h", "delimiter=|"]).await;
    let every_byte: Vec<u8> = (0..=255).collect();
    let records: [&[u8]; 4] = [b"a stack\n  trace\r\n\n", &every_byte, b"", b"ended|"];
    let bytes = framed(records);
    let mut stream = daemon.connect().await;
    for byte in &bytes {
        stream.write_all(&[*byte]).await.unwrap();
    }
    daemon.until("in", |status| number(status, RECEIVED) == 3).await;
    assert!(daemon.stop().await.status.success());
    assert_eq!(sink.delivered().await, [records[0], b"|", &every_byte, b"|ended|"].concat());
}

// R-N2
#[tokio::test]
async fn a_claim_of_four_gigabytes_is_said_once_holds_no_memory_and_harms_nobody_else() {
    let sink = Sink::start(Options::default()).await;
    let settings = [FRAMES, "linger=1ms", "buffer.memory=8MiB"];
    let mut daemon = Daemon::start(&sink.local.url(), &settings).await;
    let mut liar = daemon.connect().await;
    liar.write_all(&framed([&b"before"[..]])).await.unwrap();
    liar.write_all(&u32::MAX.to_be_bytes()).await.unwrap();
    let said = daemon.until_said("Record rejected.").await;
    assert_eq!((number(&said, "/bytes"), &said["reason"]), (u64::from(u32::MAX), &"too_long".into()));
    // Twice what the daemon may hold.
    liar.write_all(&vec![7; 16 << 20]).await.unwrap();
    daemon.write(&framed(lines(1000, 300).split_inclusive(|byte| *byte == b'\n'))).await;
    let status = daemon.until_settled(1001).await;
    assert_eq!(number(&status, "/ledger/rejected/too_long/records"), 1, "{status:#}");
    daemon.until("nothing held", |status| number(status, "/buffer/reserved_bytes") == 0).await;
    assert_eq!(daemon.said("Record rejected."), 1);
    drop(liar);
    assert!(daemon.stop().await.status.success());
    let delivered = sink.lines().await;
    assert!(delivered.len() == 1001 && delivered.values().all(|times| *times == 1));
}

// R-N2
#[tokio::test]
async fn a_frame_that_ends_early_is_incomplete() {
    let sink = Sink::start(Options::default()).await;
    let daemon = Daemon::start(&sink.local.url(), &[FRAMES, "linger=1ms"]).await;
    let bytes = framed([&b"whole"[..], b"cut off"]);
    daemon.write(&bytes[..bytes.len() - 1]).await;
    let rejected = "/ledger/rejected/incomplete/records";
    let status = daemon.until("rejected", |status| number(status, rejected) == 1).await;
    // The length and what came of the record.
    assert_eq!(number(&status, "/ledger/rejected/incomplete/bytes"), 10);
    assert!(daemon.stop().await.status.success());
    assert_eq!(sink.delivered().await, b"whole\n");
}

// R-N3
#[tokio::test]
async fn producers_of_frames_are_told_decimal_counts() {
    let sink = Sink::start(Options::default()).await;
    let settings = [FRAMES, "linger=1ms", "listen.app.acks=delivered"];
    let daemon = Daemon::start(&sink.local.url(), &settings).await;
    let mut stream = daemon.connect().await;
    stream.write_all(&framed(lines(1500, 100).split_inclusive(|byte| *byte == b'\n'))).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut told = String::new();
    stream.read_to_string(&mut told).await.unwrap();
    let counts: Vec<u64> = told.lines().map(|line| line.parse().unwrap()).collect();
    assert!(counts.is_sorted() && counts.last() == Some(&1500), "{counts:?}");
    assert!(daemon.stop().await.status.success());
    assert_eq!(sink.delivered().await, lines(1500, 100));
}
