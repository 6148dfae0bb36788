//! Stamps, by which copies and gaps are found at the destination.

use std::collections::{BTreeMap, BTreeSet};

use hydrant::local::{Faults, Options};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use crate::daemon::{Daemon, STREAM, Sink, number};

const STAMPED: [&str; 2] = ["stamp.field=hydrant", "stamp.daemon=here"];

/// The sequences of the stamped lines of `delivered`, by boot, as often as they are there; and the lines
/// that have no stamp.
fn stamps(delivered: &[u8]) -> (BTreeMap<u64, Vec<u64>>, Vec<Vec<u8>>) {
    let (mut stamps, mut others) = (BTreeMap::<u64, Vec<u64>>::new(), Vec::new());
    for line in delivered.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let object: Option<Value> = serde_json::from_slice(line).ok();
        match object.as_ref().and_then(|object| object.get("hydrant")) {
            Some(stamp) => {
                assert_eq!(stamp["daemon"], "here");
                stamps.entry(number(stamp, "/boot")).or_default().push(number(stamp, "/sequence"));
            }
            None => others.push(line.to_owned()),
        }
    }
    (stamps, others)
}

fn objects(count: usize) -> String {
    (0..count).map(|number| format!("{{\"number\":{number}}}\n")).collect()
}

/// Writes `text` and returns the last count that comes back.
async fn told(daemon: &Daemon, text: &str) -> String {
    let mut stream = daemon.connect().await;
    stream.write_all(text.as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut told = String::new();
    stream.read_to_string(&mut told).await.unwrap();
    told.lines().last().unwrap_or_default().to_owned()
}

// R-V9
#[tokio::test]
async fn records_are_stamped_by_stream_and_still_acknowledged() {
    let sink = Sink::start(Options { streams: vec!["audit".to_owned()], ..Options::default() }).await;
    let directory = tempfile::tempdir().unwrap();
    let audit = directory.path().join("audit");
    let address = format!("listen.audit.address=unix:{}", audit.display());
    let more =
        [&*address, "listen.audit.delivery_stream_name=audit", "listen.app.acks=delivered", "linger=5ms"];
    let daemon = Daemon::start(&sink.local.url(), &[&STAMPED[..], &more].concat()).await;
    assert_eq!(told(&daemon, &(objects(3000) + "no object\n{}\n")).await, "3002");
    let mut stream = UnixStream::connect(&audit).await.unwrap();
    stream.write_all(objects(3000).as_bytes()).await.unwrap();
    drop(stream);
    daemon.until_settled(6002).await;
    assert!(daemon.stop().await.status.success());
    for (stream, stamped) in [(STREAM, 3001), ("audit", 3000)] {
        let (stamps, others) = stamps(&sink.delivered_to(stream).await);
        assert_eq!(stamps.len(), 1);
        let all: Vec<u64> = stamps.into_values().flatten().collect();
        let once: BTreeSet<u64> = all.iter().copied().collect();
        assert!(once.iter().copied().eq(0..stamped) && all.len() == once.len(), "{} sequences", all.len());
        let expected: Vec<Vec<u8>> = if stream == STREAM { vec![b"no object".to_vec()] } else { vec![] };
        assert_eq!(others, expected);
    }
}

// R-V10
#[tokio::test]
async fn copies_that_hydrant_makes_have_one_stamp_also_across_a_restart() {
    let sink = Sink::start(Options::default()).await;
    // Requests whose answers are lost are sent again although they were stored.
    sink.local.set_faults(Faults { reset_after: 0.5, ..Faults::default() });
    let spool = tempfile::tempdir().unwrap();
    let directory = format!("buffer.directory={}", spool.path().display());
    let more = [&*directory, "linger=5ms", "retry.base_delay=1ms", "listen.app.acks=durable"];
    let settings = [&STAMPED[..], &more].concat();
    let daemon = Daemon::start(&sink.local.url(), &settings).await;
    assert_eq!(told(&daemon, &objects(2000)).await, "2000");
    drop(daemon.kill().await);
    sink.local.set_faults(Faults::default());
    let daemon = Daemon::start(&sink.local.url(), &settings).await;
    assert_eq!(told(&daemon, &objects(2000)).await, "2000");
    daemon.until("sent", |status| number(status, "/ledger/held/records") == 0).await;
    assert!(daemon.stop().await.status.success());
    let (stamps, others) = stamps(&sink.delivered().await);
    assert!(others.is_empty());
    // Of both starts every number is there, and what is there twice has one number.
    assert_eq!(stamps.len(), 2);
    for sequences in stamps.values() {
        let once: BTreeSet<_> = sequences.iter().copied().collect();
        assert!(once.iter().copied().eq(0..2000), "{} sequences", once.len());
    }
}
