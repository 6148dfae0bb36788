//! Producers of one listener beside each other: one that writes all it can keeps no other from its turn, and
//! all together no more is taken than `max_bytes_per_second`.

use std::time::{Duration, Instant};

use hydrant::local::Options;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::task::JoinSet;

use crate::daemon::{Daemon, Sink, number, patiently};

const RECEIVED: &str = "/ledger/received/bytes";

/// A sink that delivers all in one object, in the order in which it came.
async fn sink() -> Sink {
    let options =
        Options { buffer_bytes: 1 << 30, buffer_interval: Duration::from_secs(3600), ..Options::default() };
    Sink::start(options).await
}

/// Line `number` of `producer`, of 1000 bytes.
fn own_line(producer: &str, number: usize) -> Vec<u8> {
    let mut line = format!("{producer} {number} ").into_bytes();
    line.resize(999, b'.');
    line.push(b'\n');
    line
}

// R-P21
#[tokio::test]
async fn one_that_writes_all_it_can_keeps_fifty_others_from_nothing() {
    const MODEST: usize = 50;
    const EACH: usize = 60;
    const GREEDY: usize = 16_000;
    // Each connection has its turn before any has a second one. A modest one has read its 60 KB in 16 turns of
    // 4 KiB, and needs fewer where there is room for longer ones; the greedy one's are of 128 KiB at most, which
    // is as much as this memory lets a read of lines be. It had one to five of 93 lines in 20 runs.
    const MOST_MEANWHILE: usize = 16 * 128 * 1024 / 1000;
    let sink = sink().await;
    sink.local.set_down(true).await.unwrap();
    // So that what arrives is in the order in which it was taken.
    let settings = [
        "linger=1ms",
        "buffer.memory=4MiB",
        "send.max_in_flight=1",
        "retry.max_delay=100ms",
        "listen.app.acks=received",
    ];
    let daemon = Daemon::start(&sink.local.url(), &settings).await;
    let (_counts, mut greedy) = daemon.connect().await.into_split();
    let greedy = tokio::spawn(async move {
        for number in 0..GREEDY {
            greedy.write_all(&own_line("greedy", number)).await.unwrap();
        }
        greedy
    });
    let waits = async { while daemon.metric("hydrant_buffer_wanted_bytes").await == 0 {} };
    patiently("full", waits).await;
    // The greedy one has filled the buffer, and waits; the others come late.
    let mut modest = JoinSet::new();
    for producer in 0..MODEST {
        let (counts, mut write) = daemon.connect().await.into_split();
        let lines: Vec<u8> =
            (0..EACH).flat_map(|number| own_line(&format!("modest-{producer}"), number)).collect();
        write.write_all(&lines).await.unwrap();
        modest.spawn(async move {
            let mut counts = BufReader::new(counts).lines();
            while patiently("acknowledged", counts.next_line()).await.unwrap().unwrap() != EACH.to_string() {}
            write
        });
    }
    let all = |status: &serde_json::Value| number(status, "/connections") == 1 + MODEST as u64;
    daemon.until("connected", all).await;
    daemon.until_still().await;
    sink.local.set_down(false).await.unwrap();
    let modest = modest.join_all().await;
    drop((modest, patiently("written", greedy).await.unwrap()));
    daemon.until_settled((GREEDY + MODEST * EACH) as u64).await;
    assert!(daemon.stop().await.status.success());
    let delivered = sink.delivered().await;
    let greedy: Vec<bool> = delivered.chunks(1000).map(|line| line.starts_with(b"greedy ")).collect();
    let (first, last) = (greedy.iter().position(|greedy| !greedy), greedy.iter().rposition(|greedy| !greedy));
    let meanwhile = greedy[first.unwrap()..last.unwrap()].iter().filter(|greedy| **greedy).count();
    assert!(meanwhile <= MOST_MEANWHILE, "{meanwhile} lines of the greedy one before all others were served");
}

// R-P20, R-P21
#[tokio::test]
async fn a_limit_is_shared_and_kept_and_a_small_producer_has_its_turn_beside_a_greedy_one() {
    const LIMIT: u64 = 256 * 1024;
    let sink = sink().await;
    let begin = Instant::now();
    let settings = ["linger=1ms", "listen.app.max_bytes_per_second=256KiB", "listen.app.acks=received"];
    let mut daemon = Daemon::start(&sink.local.url(), &settings).await;
    let is_kept = |status: &serde_json::Value| {
        // It was counted before it was answered, so no machine is too slow for this.
        let most = LIMIT as f64 * (1.0 + begin.elapsed().as_secs_f64());
        assert!(number(status, RECEIVED) as f64 <= most, "more than {most}: {status:#}");
    };
    let mut greedy = Vec::new();
    for _ in 0..3 {
        let (counts, mut write) = daemon.connect().await.into_split();
        greedy.push(tokio::spawn(async move {
            let line = own_line("greedy", 0).repeat(64);
            while write.write_all(&line).await.is_ok() {}
            drop(counts);
        }));
    }
    let (counts, mut modest) = daemon.connect().await.into_split();
    let mut counts = BufReader::new(counts).lines();
    for record in 0..20 {
        modest.write_all(&own_line("modest", record)).await.unwrap();
        let told = patiently("acknowledged", counts.next_line()).await.unwrap().unwrap();
        assert_eq!(told, (record + 1).to_string());
        is_kept(&daemon.status().await);
    }
    daemon
        .until("more than a second's", |status| {
            is_kept(status);
            number(status, RECEIVED) > 2 * LIMIT
        })
        .await;
    let said = daemon.until_said("Producers wait for the listener's limit.").await;
    assert_eq!((&said["listener"], &said["max_bytes_per_second"]), (&"app".into(), &LIMIT.into()));
    assert!(!greedy.iter().any(|greedy| greedy.is_finished()));
    // What the sockets hold is read at the end without a limit.
    assert!(daemon.stop().await.status.success());
}

// R-P20
#[tokio::test]
async fn senders_of_datagrams_wait_for_a_limit_and_lose_nothing() {
    const DATAGRAMS: usize = 300;
    let sink = sink().await;
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("app.sock");
    let settings = [
        format!("endpoint_url={}", sink.local.url()),
        format!("listen.app.address=unix-dgram:{}", socket.display()),
        "listen.app.max_bytes_per_second=200KiB".to_owned(),
        "linger=1ms".to_owned(),
    ];
    let begin = Instant::now();
    let daemon = Daemon::start_in(directory, settings.iter().map(String::as_str)).await;
    let sender = tokio::net::UnixDatagram::unbound().unwrap();
    sender.connect(&socket).unwrap();
    for number in 0..DATAGRAMS {
        patiently("sent", sender.send(&own_line("datagram", number))).await.unwrap();
    }
    let status = daemon.until_settled(DATAGRAMS as u64).await;
    let most = 200.0 * 1024.0 * (1.0 + begin.elapsed().as_secs_f64());
    assert!(number(&status, RECEIVED) as f64 <= most, "more than {most}: {status:#}");
    assert!(daemon.stop().await.status.success());
    assert_eq!(sink.lines().await.len(), DATAGRAMS);
}
