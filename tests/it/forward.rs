//! Fluent Forward over real sockets: chunks that are answered, and such as are too large, too many,
//! without the key, or none.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use hydrant::local::{Faults, Options};
use serde_json::Value;
use sha2::{Digest, Sha512};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};

use crate::daemon::{Daemon, STREAM, Sink, number, patiently};

const FORWARD: &str = "listen.app.protocol=forward";

fn str16(text: &[u8]) -> Vec<u8> {
    [&[0xda][..], &u16::try_from(text.len()).unwrap().to_be_bytes(), text].concat()
}

fn bin32(bytes: &[u8]) -> Vec<u8> {
    [&[0xc6][..], &u32::try_from(bytes.len()).unwrap().to_be_bytes(), bytes].concat()
}

/// `[second, {"log": line}]`
fn entry(second: u32, line: &str) -> Vec<u8> {
    [&[0x92, 0xce][..], &second.to_be_bytes(), &[0x81], &str16(b"log"), &str16(line.as_bytes())].concat()
}

/// `["app", body, {"chunk": chunk}]`
fn chunk(body: &[u8], chunk: &str) -> Vec<u8> {
    [&[0x93], &str16(b"app")[..], &bin32(body), &[0x81], &str16(b"chunk"), &str16(chunk.as_bytes())].concat()
}

fn ack(chunk: &str) -> Vec<u8> {
    [&[0x81, 0xa3][..], b"ack", &str16(chunk.as_bytes())].concat()
}

/// A Firehose that takes nothing.
async fn down() -> Sink {
    Sink::start(Options { faults: Faults { error_500: 1.0, ..Faults::default() }, ..Options::default() })
        .await
}

async fn answered(stream: &mut (impl AsyncRead + Unpin), expected: &[u8]) {
    let mut answer = vec![0; expected.len()];
    patiently("the answer", stream.read_exact(&mut answer)).await.unwrap();
    assert_eq!(answer, expected);
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn json(line: &[u8]) -> Value {
    serde_json::from_slice(line).unwrap()
}

// R-F3
#[tokio::test]
async fn a_chunk_is_answered_when_it_is_durable_and_outlives_a_killed_daemon() {
    let sink = down().await;
    let directory = tempfile::tempdir().unwrap();
    let spool = format!("buffer.directory={}", directory.path().join("spool").display());
    let daemon = Daemon::start(&sink.local.url(), &[FORWARD, "linger=1ms", &spool]).await;
    let mut stream = daemon.connect().await;
    stream.write_all(&[0xc0]).await.unwrap();
    stream.write_all(&chunk(&[entry(0, "one"), entry(1, "two")].concat(), "first")).await.unwrap();
    answered(&mut stream, &ack("first")).await;
    daemon.kill().await;
    let sink = Sink::start(Options::default()).await;
    let daemon = Daemon::start(&sink.local.url(), &[FORWARD, "linger=1ms", &spool]).await;
    daemon.until("delivered", |status| number(status, "/ledger/delivered/records") == 2).await;
    assert!(daemon.stop().await.status.success());
    let delivered = sink.delivered().await;
    let expected = "{\"log\":\"one\",\"time\":\"1970-01-01T00:00:00Z\",\"tag\":\"app\"}\n\
                    {\"log\":\"two\",\"time\":\"1970-01-01T00:00:01Z\",\"tag\":\"app\"}\n";
    assert_eq!(String::from_utf8(delivered).unwrap(), expected);
}

// R-F3
#[tokio::test]
async fn the_level_is_the_listeners_and_with_off_nobody_is_answered() {
    let sink = Sink::start(Options::default()).await;
    let settings = [
        FORWARD,
        "linger=1h",
        "listen.app.acks=delivered",
        "listen.off.address=tcp:0",
        "listen.off.protocol=forward",
        "listen.off.acks=off",
        "listen.off.tag_key=",
        "listen.off.time_key=at",
    ];
    let daemon = Daemon::start(&sink.local.url(), &settings).await;
    let mut silent = daemon.connect_tcp("off").await;
    silent.write_all(&chunk(&entry(0, "unanswered"), "first")).await.unwrap();
    let mut stream = daemon.connect().await;
    stream.write_all(&chunk(&entry(0, "x"), "second")).await.unwrap();
    daemon.until("received", |status| number(status, "/ledger/received/records") == 2).await;
    daemon.signal("USR1");
    answered(&mut stream, &ack("second")).await;
    silent.shutdown().await.unwrap();
    let mut told = Vec::new();
    silent.read_to_end(&mut told).await.unwrap();
    assert!(told.is_empty());
    assert!(daemon.stop().await.status.success());
    let delivered = sink.lines().await;
    assert!(
        delivered.contains_key(&b"{\"log\":\"unanswered\",\"at\":\"1970-01-01T00:00:00Z\"}"[..]),
        "{delivered:?}"
    );
}

// R-F5
#[tokio::test]
async fn chunks_larger_than_the_memory_go_through_whole_or_compressed() {
    let sink = Sink::start(Options::default()).await;
    let daemon = Daemon::start(&sink.local.url(), &[FORWARD, "linger=10ms", "buffer.memory=4MiB"]).await;
    let line = "x".repeat(200);
    let body: Vec<u8> = (0..50_000).flat_map(|number| entry(number, &line)).collect();
    assert!(body.len() > 10 << 20);
    let members: Vec<u8> = body.chunks(1 << 20).flat_map(gzip).collect();
    for (body, id) in [(&body, "whole"), (&members, "members")] {
        let mut stream = daemon.connect().await;
        stream.write_all(&chunk(body, id)).await.unwrap();
        answered(&mut stream, &ack(id)).await;
    }
    let status = daemon.until_settled(100_000).await;
    assert_eq!(number(&status, "/ledger/delivered/records"), 100_000);
    daemon.until("nothing held", |status| number(status, "/buffer/reserved_bytes") == 0).await;
    let peak = daemon.peak_memory();
    assert!(peak < (4 + 24) << 20, "{peak} bytes");
    assert!(daemon.stop().await.status.success());
    let delivered = sink.lines().await;
    assert!(delivered.len() == 50_000 && delivered.values().all(|times| *times == 2));
}

// R-F4
#[tokio::test]
async fn a_record_that_is_too_long_is_rejected_alone_and_its_chunk_is_answered() {
    let sink = Sink::start(Options::default()).await;
    let settings = [FORWARD, "linger=1ms", "listen.app.max_record_bytes=1000"];
    let mut daemon = Daemon::start(&sink.local.url(), &settings).await;
    let mut stream = daemon.connect().await;
    let long = "x".repeat(5000);
    let body = [entry(0, "before"), entry(0, &long), entry(0, "after")].concat();
    stream.write_all(&chunk(&body, "id")).await.unwrap();
    answered(&mut stream, &ack("id")).await;
    let said = daemon.until_said("Record rejected.").await;
    assert_eq!(
        (number(&said, "/bytes"), &said["reason"]),
        (entry(0, &long).len() as u64, &"too_long".into())
    );
    daemon.until_settled(2).await;
    assert!(daemon.stop().await.status.success());
    let lines = sink.lines().await;
    let logs: std::collections::BTreeSet<_> =
        lines.keys().map(|line| json(line)["log"].clone().to_string()).collect();
    assert_eq!(logs.into_iter().collect::<Vec<_>>(), ["\"after\"", "\"before\""]);
}

// R-F3
#[tokio::test]
async fn a_chunk_of_which_something_was_dropped_is_not_answered() {
    let sink = down().await;
    let settings =
        [FORWARD, "linger=1ms", "buffer.memory=1MiB", "buffer.on_full=drop-newest", "shutdown.drain=0s"];
    let daemon = Daemon::start(&sink.local.url(), &settings).await;
    let mut stream = daemon.connect().await;
    let line = "x".repeat(1000);
    let body: Vec<u8> = (0..2000).flat_map(|number| entry(number, &line)).collect();
    stream.write_all(&chunk(&entry(0, "kept"), "kept")).await.unwrap();
    answered(&mut stream, &ack("kept")).await;
    stream.write_all(&chunk(&body, "dropped")).await.unwrap();
    stream.shutdown().await.unwrap();
    let sum = |status: &Value| {
        number(status, "/ledger/received/records") + number(status, "/ledger/rejected/unfinished/records")
    };
    let status = daemon.until("all read", |status| sum(status) == 2001).await;
    assert!(number(&status, "/ledger/dropped/buffer_full/records") > 100, "{status:#}");
    daemon.signal("TERM");
    let mut told = Vec::new();
    patiently("the end", stream.read_to_end(&mut told)).await.ok();
    assert!(told.is_empty(), "{told:?}");
    daemon.ended().await;
}

// R-F6
#[tokio::test]
async fn what_is_no_forward_closes_the_connection_and_is_said() {
    let sink = Sink::start(Options::default()).await;
    let mut daemon = Daemon::start(&sink.local.url(), &[FORWARD, "linger=1ms"]).await;
    let mut stream = daemon.connect().await;
    stream.write_all(&chunk(&entry(0, "before"), "id")).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let mut told = Vec::new();
    // Closed with something unread, the socket may say that it was reset.
    patiently("the end", stream.read_to_end(&mut told)).await.ok();
    let said = daemon.until_said("Connection closed: it does not speak the protocol.").await;
    assert_eq!(
        (&said["protocol"], &said["error"]),
        (&"forward".into(), &"a message is no array of two to four".into())
    );
    daemon.until_settled(1).await;
    assert!(daemon.stop().await.status.success());
}

fn hex(bytes: impl IntoIterator<Item = u8>) -> String {
    bytes.into_iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The PING of a producer that knows `key`, once HELO was read.
async fn ping(stream: &mut (impl AsyncRead + Unpin), key: &str) -> Vec<u8> {
    let mut helo = vec![0; 64];
    patiently("HELO", stream.read_exact(&mut helo)).await.unwrap();
    assert!(helo.starts_with(b"\x92\xa4HELO\x83\xa5nonce\xc4\x20"), "{helo:?}");
    let digest =
        Sha512::new_with_prefix(["salt", "host"].concat()).chain_update(&helo[15..47]).chain_update(key);
    let digest = hex(digest.finalize());
    let parts = ["PING", "host", "salt", &digest, "", ""];
    [vec![0x96], parts.iter().flat_map(|part| str16(part.as_bytes())).collect()].concat()
}

// R-F7
#[tokio::test]
async fn only_who_knows_the_shared_key_is_heard_and_a_changed_key_is_followed() {
    let sink = Sink::start(Options::default()).await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("hydrant.toml");
    let configure = |key: &str| {
        let listener = format!("[listen.app]\naddress='tcp:0'\nprotocol='forward'\nshared_key='{key}'\n");
        let text = format!(
            "linger='1ms'\nendpoint_url='{}'\ndelivery_stream_name='{STREAM}'\n{listener}",
            sink.local.url()
        );
        std::fs::write(&file, text).unwrap();
    };
    configure("opensesame");
    let mut command = crate::daemon::hydrant();
    command.env("HYDRANT_CONFIG", &file);
    let mut daemon = Daemon::run(command, tempfile::tempdir().unwrap(), []).await;
    let speaks = async |daemon: &Daemon, key: &str| {
        let mut stream = daemon.connect_tcp("app").await;
        let ping = ping(&mut stream, key).await;
        stream.write_all(&[ping, chunk(&entry(0, key), "id")].concat()).await.unwrap();
        let mut pong = [0; 7];
        patiently("PONG", stream.read_exact(&mut pong)).await.unwrap();
        assert!(pong.starts_with(b"\x95\xa4PONG"), "{pong:?}");
        (pong[6] == 0xc3, stream)
    };
    let (heard, mut stream) = speaks(&daemon, "opensesame").await;
    assert!(heard);
    answered(&mut stream, b"\xa0\xa7hydrant\xd9\x80").await;
    patiently("the digest", stream.read_exact(&mut [0; 128])).await.unwrap();
    answered(&mut stream, &ack("id")).await;

    let (heard, mut stream) = speaks(&daemon, "a guess").await;
    assert!(!heard);
    patiently("the end", stream.read_to_end(&mut Vec::new())).await.ok();
    let said = daemon.until_said("Connection closed: it does not speak the protocol.").await;
    assert_eq!(said["error"], "its shared key is not the listener's");

    configure("another");
    daemon.signal("HUP");
    let said = daemon.until_said("The configuration was read again.").await;
    assert_eq!(said["changed"], "listen.app.shared_key");
    assert!(!speaks(&daemon, "opensesame").await.0);
    assert!(speaks(&daemon, "another").await.0);
    daemon.until_settled(2).await;
    let ended = daemon.stop().await;
    assert!(ended.status.success());
    let everything = ended.log.iter().map(Value::to_string).collect::<String>();
    assert!(!everything.contains("opensesame") && !everything.contains("another"), "{everything}");
}

// R-F5
#[tokio::test]
async fn a_crowd_of_compressed_chunks_shares_little_memory_and_all_are_answered() {
    let sink = Sink::start(Options::default()).await;
    sink.local.set_down(true).await.unwrap();
    let settings = [FORWARD, "linger=1ms", "buffer.memory=1MiB", "retry.max_delay=100ms"];
    let daemon = Daemon::start(&sink.local.url(), &settings).await;
    // Fills the memory, so that all others wait for some.
    let mut first = daemon.connect().await;
    let full: Vec<u8> = (0..1000).flat_map(|number| entry(number, &"x".repeat(2000))).collect();
    let fill = tokio::spawn(async move {
        first.write_all(&chunk(&full, "full")).await.unwrap();
        answered(&mut first, &ack("full")).await;
    });
    daemon.until_still().await;
    let mut random = fastrand::Rng::with_seed(1);
    let mut chunks = Vec::new();
    for _ in 0..24 {
        let mut line = || std::iter::repeat_with(|| random.alphanumeric()).take(2000).collect::<String>();
        let body: Vec<u8> = (0..100).flat_map(|number| entry(number, &line())).collect();
        chunks.push(chunk(&gzip(&body), "id"));
    }
    // All have begun before one goes on: a state of zlib's for each of them is more than there is.
    let mut streams = Vec::new();
    for chunk in &chunks {
        let mut stream = daemon.connect().await;
        stream.write_all(&chunk[..chunk.len() / 3]).await.unwrap();
        streams.push(stream);
    }
    sink.local.set_down(false).await.unwrap();
    let producers = streams.iter_mut().zip(&chunks).map(async |(stream, chunk)| {
        stream.write_all(&chunk[chunk.len() / 3..]).await.unwrap();
        answered(stream, &ack("id")).await;
    });
    futures_util::future::join_all(producers).await;
    fill.await.unwrap();
    let status = daemon.until_settled(3400).await;
    assert_eq!(number(&status, "/ledger/delivered/records"), 3400);
    assert!(daemon.stop().await.status.success());
}

// R-F5, R-F6
#[tokio::test]
async fn liars_bombs_and_halves_of_messages_are_bounded_and_keep_nobody_from_being_served() {
    let sink = Sink::start(Options::default()).await;
    let settings = [
        FORWARD,
        "linger=1ms",
        "buffer.memory=8MiB",
        "listen.port.address=tcp:0",
        "listen.port.protocol=forward",
        "listen.port.max_record_bytes=64KiB",
    ];
    let daemon = Daemon::start(&sink.local.url(), &settings).await;
    let record = |value: &[u8]| [&[0x92, 0x01, 0x81, 0xa1, b'k'][..], value].concat();
    let listed = |value: &[u8]| [&[0x92][..], &str16(b"app"), &[0x91], &record(value)].concat();
    let mut held = Vec::new();
    // Twice what the daemon may hold, of a string that says to be of 4 GiB.
    let mut liar = daemon.connect_tcp("port").await;
    liar.write_all(&listed(b"\xdb\xff\xff\xff\xff")).await.unwrap();
    liar.write_all(&vec![b'l'; 16 << 20]).await.unwrap();
    held.push(liar);
    // As many entries, elements and members, and nothing behind.
    for claim in [&b"\xdd\xff\xff\xff\xff"[..], b"\xdf\xff\xff\xff\xff"] {
        let mut liar = daemon.connect_tcp("port").await;
        liar.write_all(&listed(claim)).await.unwrap();
        held.push(liar);
    }
    let mut liar = daemon.connect_tcp("port").await;
    liar.write_all(&[&[0x92][..], &str16(b"app"), b"\xdd\xff\xff\xff\xff", &entry(0, "one")].concat())
        .await
        .unwrap();
    held.push(liar);
    // Half a message each, and silence.
    for _ in 0..200 {
        let mut slow = daemon.connect_tcp("port").await;
        slow.write_all(&listed(&str16(&[b's'; 1000]))[..500]).await.unwrap();
        held.push(slow);
    }
    let mut told = daemon.connect_tcp("port").await;
    let nested = record(&[vec![0x91; 20_000], vec![0xc0]].concat());
    let bomb = [&b"\x92\x01\x81\xa1k\xc6\x04\x00\x00\x00"[..], &vec![0; 64 << 20]].concat();
    told.write_all(&chunk(&[nested, entry(1, "two")].concat(), "nested")).await.unwrap();
    answered(&mut told, &ack("nested")).await;
    told.write_all(&chunk(&gzip(&[bomb, entry(2, "three")].concat()), "bomb")).await.unwrap();
    answered(&mut told, &ack("bomb")).await;
    // Half a message, half closed, and reset.
    let half = &listed(&str16(&[b'h'; 1000]))[..500];
    let mut closed = daemon.connect_tcp("port").await;
    closed.write_all(&[&chunk(&entry(3, "four"), "four"), half].concat()).await.unwrap();
    closed.shutdown().await.unwrap();
    answered(&mut closed, &ack("four")).await;
    assert_eq!(patiently("the end", closed.read(&mut [0])).await.unwrap(), 0);
    let mut reset = daemon.connect_tcp("port").await;
    reset.write_all(&[&chunk(&entry(4, "five"), "five"), half].concat()).await.unwrap();
    answered(&mut reset, &ack("five")).await;
    daemon.until("held", |status| number(status, "/buffer/reserved_bytes") > 200 * 400).await;
    SockRef::from(&reset).set_linger(Some(std::time::Duration::ZERO)).unwrap();
    drop(reset);
    let rejected = |status: &Value, why: &str| {
        status.pointer(&format!("/ledger/rejected/{why}/records")).and_then(Value::as_u64).unwrap_or(0)
    };
    let status = daemon.until("reset", |status| rejected(status, "incomplete") == 2).await;
    assert_eq!((rejected(&status, "malformed"), rejected(&status, "unfinished")), (1, 0), "{status:#}");
    // The bomb; what a liar says is counted at its end.
    assert_eq!(rejected(&status, "too_long"), 1, "{status:#}");
    assert_eq!(number(&daemon.until_settled(5).await, "/connections"), held.len() as u64 + 1);
    let peak = daemon.peak_memory();
    assert!(peak < (8 + 24) << 20, "{peak} bytes");
    drop(held);
    daemon.until("gone", |status| number(status, "/connections") == 1).await;
    assert!(daemon.stop().await.status.success());
    assert_eq!(sink.lines().await.len(), 5);
}
