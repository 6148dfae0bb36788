//! What is held has a bound, and what happens at the bound is what was configured.

use std::collections::HashMap;
use std::time::Duration;

use hydrant::local::{Faults, Options};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::daemon::{Daemon, Sink, balance, line, lines, many_files, number, patiently};

const RECEIVED: &str = "/ledger/received/records";
const DELIVERED: &str = "/ledger/delivered/records";
const HELD: &str = "/ledger/held/records";
const BUFFER_FULL: &str = "/ledger/dropped/buffer_full/records";

/// Lines enough to fill a buffer of 1 MiB several times over, and their size.
const RECORDS: usize = 30_000;
const BYTES: usize = 100;

async fn down() -> Sink {
    let sink = Sink::start(Options::default()).await;
    sink.local.set_down(true).await.unwrap();
    sink
}

/// Which of the lines `0..RECORDS` arrived, each once.
fn numbers(delivered: &HashMap<Vec<u8>, usize>) -> Vec<usize> {
    let expected = |number: &usize| {
        let mut line = line(*number, BYTES);
        line.pop();
        delivered.get(&line).is_some_and(|times| *times == 1)
    };
    (0..RECORDS).filter(expected).collect()
}

// R-P14
#[tokio::test]
async fn a_full_buffer_that_blocks_holds_producers_back_and_loses_nothing() {
    let sink = down().await;
    let settings = ["buffer.memory=1MiB", "linger=20ms", "retry.max_delay=100ms"];
    let daemon = Daemon::start(&sink.local.url(), &settings).await;
    let mut stream = daemon.connect().await;
    let producer = tokio::spawn(async move { stream.write_all(&lines(RECORDS, BYTES)).await.unwrap() });
    let status = daemon.until_still().await;
    assert!(number(&status, HELD) > 1000 && number(&status, "/ledger/held/bytes") < 1 << 20, "{status:#}");
    assert!(!producer.is_finished());
    sink.local.set_down(false).await.unwrap();
    patiently("taken", producer).await.unwrap();
    daemon.until_settled(RECORDS as u64).await;
    assert!(daemon.stop().await.status.success());
    assert_eq!(numbers(&sink.lines().await).len(), RECORDS);
}

/// Overfills a buffer while the service is down, then brings it back; returns which lines
/// arrived, in order, after the account of them was found exact.
async fn overfill(on_full: &str) -> Vec<usize> {
    let sink = down().await;
    let on_full = format!("buffer.on_full={on_full}");
    let settings =
        ["buffer.memory=1MiB", "linger=20ms", "retry.max_delay=100ms", "send.max_in_flight=1", &on_full];
    let mut daemon = Daemon::start(&sink.local.url(), &settings).await;
    // Although nothing leaves the daemon.
    patiently("taken", daemon.write(&lines(RECORDS, BYTES))).await;
    daemon.until_said("Records dropped.").await;
    let status = daemon.until("all in", |status| number(status, RECEIVED) == RECORDS as u64).await;
    let (held, dropped) = (number(&status, HELD), number(&status, BUFFER_FULL));
    assert_eq!((held + dropped, number(&status, DELIVERED)), (RECORDS as u64, 0), "{status:#}");
    assert!(held > 1000 && dropped > 1000, "{held} held, {dropped} dropped");
    sink.local.set_down(false).await.unwrap();
    daemon.until("drained", |status| number(status, HELD) == 0).await;
    daemon.write(b"and on it goes\n").await;
    let status = daemon.until_settled(RECORDS as u64 + 1).await;
    assert_eq!((number(&status, DELIVERED), number(&status, BUFFER_FULL)), (held + 1, dropped));
    assert_eq!(balance(&daemon.get("/metrics").await.1), (RECORDS as u64 + 1, RECORDS as u64 + 1));
    assert_eq!(daemon.metric("hydrant_records_dropped_total").await, dropped);
    assert_eq!(daemon.metric("hydrant_bytes_dropped_total").await, dropped * BYTES as u64);
    assert!(daemon.stop().await.status.success());
    let delivered = sink.lines().await;
    assert_eq!(delivered[&b"and on it goes"[..]], 1);
    let survivors = numbers(&delivered);
    assert_eq!(survivors.len() as u64, held);
    survivors
}

// R-P15
#[tokio::test]
async fn drop_newest_keeps_what_came_first() {
    let survivors = overfill("drop-newest").await;
    assert!(survivors.iter().copied().eq(0..survivors.len()), "{survivors:?}");
}

// R-P12
#[tokio::test]
async fn no_count_goes_beyond_a_record_that_a_full_buffer_dropped() {
    let sink = Sink::start(Options::default()).await;
    sink.local.set_down(true).await.unwrap();
    let settings =
        ["buffer.memory=1MiB", "linger=20ms", "retry.max_delay=100ms", "buffer.on_full=drop-newest"];
    let settings = [&settings[..], &["listen.app.acks=received"]].concat();
    let daemon = Daemon::start(&sink.local.url(), &settings).await;
    let (mut told, mut write) = daemon.connect().await.into_split();
    let reading = tokio::spawn(async move {
        let mut all = String::new();
        tokio::io::AsyncReadExt::read_to_string(&mut told, &mut all).await.unwrap();
        all
    });
    patiently("taken", write.write_all(&lines(RECORDS, BYTES))).await.unwrap();
    let status = daemon.until("all in", |status| number(status, RECEIVED) == RECORDS as u64).await;
    let (held, dropped) = (number(&status, HELD), number(&status, BUFFER_FULL));
    assert!(held > 0 && dropped > 0, "{status:#}");
    sink.local.set_down(false).await.unwrap();
    daemon.until("drained", |status| number(status, HELD) == 0).await;
    // There is room for what comes now, but not for a count that would cover what was dropped.
    write.write_all(b"and on it goes\n").await.unwrap();
    daemon.until_settled(RECORDS as u64 + 1).await;
    drop(write);
    let told = patiently("told", reading).await.unwrap();
    let counts: Vec<u64> = told.lines().map(|line| line.parse().unwrap()).collect();
    assert!(counts.is_sorted(), "{counts:?}");
    assert_eq!(counts.last(), Some(&held));
    assert!(daemon.stop().await.status.success());
}

// R-P15
#[tokio::test]
async fn drop_oldest_keeps_what_came_last_and_what_was_under_way() {
    let survivors = overfill("drop-oldest").await;
    assert_eq!(survivors.last(), Some(&(RECORDS - 1)));
    let last = survivors.chunk_by(|a, b| a + 1 == *b).next_back().unwrap();
    assert!(survivors.len() - last.len() <= 500, "{} of {} came last", last.len(), survivors.len());
}

/// How a load is sent: on how many connections, what on each.
struct Load {
    connections: usize,
    each: Vec<u8>,
}

/// What may be resident beside `buffer.memory`: the 24 MiB of the daemon's promise without the 12
/// that are left to the pages of the program itself, of which a release has 11.
const MARGIN: usize = 12 << 20;

/// Fills a daemon of `memory` bytes with `load` while `faults` (an outage, if none) hold it up,
/// then lets everything go. Never may more be resident than promised.
async fn check_memory(memory: usize, load: Load, faults: Option<Faults>, settings: &[&str]) {
    many_files();
    let sink = Sink::start(Options::default()).await;
    match &faults {
        Some(faults) => sink.local.set_faults(faults.clone()),
        None => sink.local.set_down(true).await.unwrap(),
    }
    let memory_setting = format!("buffer.memory={memory}");
    let settings = [&[memory_setting.as_str(), "linger=20ms", "retry.max_delay=100ms"], settings].concat();
    let daemon = Daemon::start(&sink.local.url(), &settings).await;
    let records = load.connections * load.each.iter().filter(|byte| **byte == b'\n').count();
    let each: &'static [u8] = load.each.leak();
    let mut producers = Vec::new();
    for _ in 0..load.connections {
        let mut stream = daemon.connect().await;
        producers.push(tokio::spawn(async move {
            stream.write_all(each).await.unwrap();
            stream
        }));
    }
    let promised = (memory + MARGIN) as u64;
    let check = |when| {
        let peak = daemon.peak_memory();
        eprintln!("{when}: {} KiB of {} KiB promised", peak >> 10, promised >> 10);
        assert!(peak <= promised, "{when}: {peak} bytes resident of {promised} promised");
    };
    let status = daemon.until_still().await;
    if faults.is_none() {
        assert!(records == 0 || number(&status, HELD) > 0, "{status:#}");
    }
    check("full");
    assert!(number(&status, "/ledger/held/bytes") <= memory as u64, "{status:#}");
    sink.local.set_faults(Faults::default());
    sink.local.set_down(false).await.unwrap();
    let streams = patiently("taken from all", futures_util::future::try_join_all(producers)).await.unwrap();
    daemon.until("all in", |status| number(status, RECEIVED) == records as u64).await;
    daemon.signal("USR1");
    let status = daemon.until_settled(records as u64).await;
    assert_eq!(number(&status, DELIVERED), records as u64, "{status:#}");
    check("drained");
    drop(streams);
    assert!(daemon.stop().await.status.success());
}

// R-P16
#[tokio::test]
async fn memory_is_bounded_with_one_fast_producer() {
    check_memory(32 << 20, Load { connections: 1, each: lines(40_000, 1000) }, None, &[]).await;
}

// R-P16
#[tokio::test]
async fn memory_is_bounded_with_two_hundred_fast_producers() {
    check_memory(32 << 20, Load { connections: 200, each: lines(200, 1000) }, None, &[]).await;
}

// R-P16
#[tokio::test]
async fn memory_is_bounded_with_a_thousand_halves_of_lines() {
    check_memory(8 << 20, Load { connections: 1000, each: vec![b'x'; 20_000] }, None, &[]).await;
}

// R-P16
#[tokio::test]
async fn memory_is_bounded_with_lines_of_one_byte() {
    check_memory(4 << 20, Load { connections: 4, each: b"a\n".repeat(100_000) }, None, &[]).await;
}

// R-P16
#[tokio::test]
async fn memory_is_bounded_with_the_largest_records() {
    check_memory(32 << 20, Load { connections: 4, each: lines(10, 1_024_000) }, None, &[]).await;
}

#[tokio::test]
async fn memory_is_bounded_with_crowds_of_tiny_lines_behind_long_ones() {
    let each = [line(0, 150_000), b"a\n".repeat(50_000)].concat();
    check_memory(8 << 20, Load { connections: 8, each }, None, &[]).await;
}

// R-B6
#[tokio::test]
async fn memory_is_bounded_with_a_slow_service_and_many_requests() {
    let slow = Faults { latency: Duration::from_millis(100), ..Faults::default() };
    let load = Load { connections: 8, each: lines(5000, 1000) };
    check_memory(32 << 20, load, Some(slow), &["send.max_in_flight=64"]).await;
}

// R-P16
#[tokio::test]
async fn memory_is_bounded_when_every_record_is_to_be_retried() {
    let failing = Faults { fail_records: 0.5, ..Faults::default() };
    let load = Load { connections: 2, each: lines(30_000, 100) };
    check_memory(4 << 20, load, Some(failing), &["retry.base_delay=50ms"]).await;
}

// R-B7
#[tokio::test]
async fn the_smallest_buffer_delivers_with_any_shape_of_traffic() {
    let smallest = async |connections, each, settings: &[&str]| {
        check_memory(1 << 20, Load { connections, each }, None, settings).await;
    };
    smallest(4, lines(10_000, 100), &[]).await;
    smallest(4, b"a\n".repeat(20_000), &["delimiter=0123456789abcdef"]).await;
    smallest(3, lines(60, 50_000), &["linger=1h", "send.max_in_flight=1"]).await;
    smallest(12, lines(60, 12_000), &["linger=1h"]).await;
}

// R-P15
#[tokio::test]
async fn drop_oldest_never_holds_a_producer_back() {
    let sink = down().await;
    let settings =
        ["buffer.memory=1MiB", "buffer.on_full=drop-oldest", "linger=1ms", "retry.max_delay=100ms"];
    let daemon = Daemon::start(&sink.local.url(), &settings).await;
    let large = lines(100, 30_000);
    let writes = (0..2).map(|_| daemon.write(&large));
    patiently("taken", futures_util::future::join_all(writes)).await;
    let status = daemon.until("all in", |status| number(status, RECEIVED) == 200).await;
    assert_eq!(number(&status, HELD) + number(&status, BUFFER_FULL), 200, "{status:#}");
    sink.local.set_down(false).await.unwrap();
    daemon.until_settled(200).await;
    assert!(daemon.stop().await.status.success());
}

// R-B7
#[tokio::test]
async fn a_record_that_the_buffer_can_not_carry_is_rejected_with_the_size_that_fits() {
    let sink = Sink::start(Options::default()).await;
    let mut daemon = Daemon::start(&sink.local.url(), &["linger=1ms", "buffer.memory=1MiB"]).await;
    daemon.write(&[line(0, 500_000), line(1, 100)].concat()).await;
    let said = daemon.until_said("Record rejected.").await;
    assert_eq!((&said["reason"], &said["bytes"]), (&"too_long".into(), &499_999.into()), "{said}");
    let fits = usize::try_from(number(&said, "/max_record_bytes")).unwrap();
    daemon.until_settled(1).await;
    daemon.write(&[line(2, fits), line(3, fits + 1)].concat()).await;
    let status = daemon.until_settled(2).await;
    let said = daemon.until_said("Record rejected.").await;
    assert_eq!(number(&said, "/bytes"), fits as u64);
    assert_eq!(number(&status, "/ledger/rejected/too_long/records"), 2);
    assert_eq!(daemon.metric("hydrant_records_rejected_total").await, 2);
    assert!(daemon.stop().await.status.success());
    assert_eq!(sink.delivered().await, [line(1, 100), line(2, fits)].concat());
}

// R-P8
#[tokio::test]
async fn a_line_longer_than_max_record_bytes_is_rejected_whole_and_the_next_goes_on() {
    let sink = Sink::start(Options::default()).await;
    let mut daemon =
        Daemon::start(&sink.local.url(), &["linger=1ms", "listen.app.max_record_bytes=100"]).await;
    daemon.write(&[line(0, 100), line(1, 101), line(2, 90_000), line(3, 50)].concat()).await;
    for bytes in [100, 89_999] {
        let said = daemon.until_said("Record rejected.").await;
        let expected = serde_json::json!(["app", bytes, "too_long", 100]);
        assert_eq!(
            serde_json::json!([said["listener"], said["bytes"], said["reason"], said["max_record_bytes"]]),
            expected
        );
    }
    let status = daemon.until_settled(2).await;
    assert_eq!(number(&status, "/ledger/rejected/too_long/bytes"), 100 + 89_999);
    assert!(daemon.stop().await.status.success());
    assert_eq!(sink.delivered().await, [line(0, 100), line(3, 50)].concat());
}

// R-P18
#[tokio::test]
async fn of_silent_unfinished_records_the_largest_gives_way_and_small_producers_go_on() {
    let sink = Sink::start(Options::default()).await;
    let mut daemon = Daemon::start(&sink.local.url(), &["linger=1ms", "buffer.memory=1MiB"]).await;
    // 12 halves of 4,000 bytes leave too little of the 104,448 that are theirs for one of 78,000, and
    // take less than half of it. The records before them tell that they were read.
    let small = [line(0, 50), vec![b's'; 4000]].concat();
    let mut producers = Vec::new();
    for number in 1..=12 {
        let mut stream = daemon.connect().await;
        stream.write_all(&small).await.unwrap();
        producers.push(stream);
        daemon.until_settled(number).await;
    }
    let mut large = daemon.connect().await;
    large.write_all(&[b'l'; 78_000]).await.unwrap();
    for number in 13..=42 {
        daemon.write(&line(0, 50)).await;
        daemon.until_settled(number).await;
    }
    large.write_all(b"\nnext\n").await.unwrap();
    let said = daemon.until_said("Record rejected.").await;
    assert_eq!((&said["reason"], &said["bytes"]), (&"unfinished".into(), &78_000.into()), "{said}");
    for stream in &mut producers {
        stream.write_all(b"\n").await.unwrap();
    }
    let status = daemon.until_settled(55).await;
    assert_eq!(number(&status, "/ledger/rejected/unfinished/records"), 1, "{status:#}");
    assert!(daemon.stop().await.status.success());
    let delivered = sink.lines().await;
    assert_eq!((delivered[&vec![b's'; 4000]], delivered[&b"next"[..]]), (12, 1));
}

// R-P17
#[tokio::test]
async fn a_crowd_of_producers_of_long_lines_waits_in_turn_and_loses_nothing() {
    let sink = Sink::start(Options::default()).await;
    let daemon = Daemon::start(&sink.local.url(), &["linger=1ms", "buffer.memory=2MiB"]).await;
    // 200 lines of 60,000 bytes under way at once are twelve times what the daemon may hold.
    let (producers, each, bytes) = (200, 3, 60_000);
    let writing = (0..producers).map(|producer| {
        let socket = daemon.socket();
        tokio::spawn(async move {
            let mut stream = tokio::net::UnixStream::connect(socket).await.unwrap();
            for number in 0..each {
                stream.write_all(&line(producer * each + number, bytes)).await.unwrap();
            }
        })
    });
    for written in writing.collect::<Vec<_>>() {
        written.await.unwrap();
    }
    let records = producers * each;
    let status = daemon.until_settled(records as u64).await;
    assert_eq!(number(&status, "/ledger/rejected/unfinished/records"), 0, "{status:#}");
    assert!(daemon.stop().await.status.success());
    let delivered = sink.lines().await;
    assert!(delivered.len() == records && delivered.values().all(|times| *times == 1));
}

// R-P10
#[tokio::test]
async fn the_connection_past_max_connections_waits_and_is_served_when_another_leaves() {
    let sink = Sink::start(Options::default()).await;
    let mut daemon = Daemon::start(&sink.local.url(), &["linger=1ms", "listen.app.max_connections=2"]).await;
    let (mut first, mut second) = (daemon.connect().await, daemon.connect().await);
    second.write_all(b"second\n").await.unwrap();
    let said = daemon.until_said("Every connection is taken, further ones wait.").await;
    assert_eq!((&said["listener"], &said["max_connections"]), (&"app".into(), &2.into()));
    let mut third = daemon.connect().await;
    third.write_all(b"third\n").await.unwrap();
    for number in 2..=20 {
        first.write_all(b"first\n").await.unwrap();
        let status = daemon.until_settled(number).await;
        assert_eq!(status["connections"], 2);
    }
    drop(first);
    daemon.until_settled(21).await;
    assert!(daemon.stop().await.status.success());
    assert_eq!(sink.lines().await[&b"third"[..]], 1);
}

// R-P9
#[tokio::test]
async fn a_connection_that_is_idle_for_too_long_is_closed_and_its_half_line_counted() {
    let sink = Sink::start(Options::default()).await;
    let settings = ["linger=1ms", "listen.app.idle_timeout=100ms"];
    let mut daemon = Daemon::start(&sink.local.url(), &settings).await;
    let (mut silent, mut half) = (daemon.connect().await, daemon.connect().await);
    half.write_all(b"whole\nhalf").await.unwrap();
    for stream in [&mut silent, &mut half] {
        assert_eq!(patiently("closed", stream.read(&mut [0])).await.unwrap(), 0);
        let said = daemon.until_said("Connection closed, idle for too long.").await;
        assert_eq!(said["listener"], "app");
    }
    let status = daemon.until("none left", |status| number(status, "/connections") == 0).await;
    assert_eq!(number(&status, "/ledger/rejected/incomplete/bytes"), 4, "{status:#}");
    assert!(daemon.stop().await.status.success());
    assert_eq!(sink.delivered().await, b"whole\n");
}
