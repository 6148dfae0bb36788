//! Records by HTTP: requests are taken whole or not at all, and answered at the listener's level.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use hydrant::local::Options;
use serde_json::{Value, json};
use socket2::SockRef;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::task::JoinSet;

use crate::daemon::{Daemon, Sink, balance, line, lines, many_files, number, patiently};

const HTTP: &str = "listen.app.protocol=http";
const RECEIVED: &str = "/ledger/received/records";
const LINES: &str = "content-type: application/x-ndjson\r\n";
const JSON: &str = "content-type: application/json\r\n";

/// An answer.
#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: Value,
}

impl Answer {
    fn counts(&self) -> (u16, u64, u64) {
        (self.status, number(&self.body, "/accepted"), number(&self.body, "/rejected"))
    }

    fn error(&self) -> &str {
        self.body["error"].as_str().unwrap_or_else(|| panic!("no error in {self:?}"))
    }
}

/// A request to take `body`, with `headers`, each of which ends with CRLF.
fn post(headers: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("POST / HTTP/1.1\r\nhost: here\r\n{headers}content-length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

/// The next answer on a connection; none if it ends first.
async fn answer<S: AsyncRead + Unpin>(stream: &mut BufReader<S>) -> Option<Answer> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if patiently("answered", stream.read_line(&mut head)).await.ok()? == 0 {
            return None;
        }
    }
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "))?.parse().ok()?;
    let mut body = vec![0; length];
    patiently("answered", stream.read_exact(&mut body)).await.ok()?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some(Answer { status, body: serde_json::from_slice(&body).unwrap_or(Value::Null), head })
}

/// What is answered to one request on a connection of its own.
async fn ask(daemon: &Daemon, headers: &str, body: &[u8]) -> Answer {
    ask_on(daemon.connect().await, &post(headers, body)).await
}

async fn ask_on<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, request: &[u8]) -> Answer {
    stream.write_all(request).await.unwrap();
    answer(&mut BufReader::new(stream)).await.unwrap()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

async fn down() -> Sink {
    let sink = Sink::start(Options::default()).await;
    sink.local.set_down(true).await.unwrap();
    sink
}

// R-P20
#[tokio::test]
async fn a_request_past_the_listeners_limit_is_told_to_come_again_and_is_not_counted() {
    let sink = Sink::start(Options::default()).await;
    let settings = [HTTP, "linger=1ms", "listen.app.max_bytes_per_second=1KiB"];
    let daemon = Daemon::start(&sink.local.url(), &settings).await;
    // One that is larger than a second's bytes is taken, and paid for later: in more than four minutes.
    assert_eq!(ask(&daemon, LINES, &lines(256, 1024)).await.counts(), (202, 256, 0));
    let refused = ask(&daemon, LINES, &lines(1, 100)).await;
    assert_eq!(refused.status, 429, "{refused:?}");
    assert!(refused.head.contains("retry-after: 1\r\n") && refused.error().contains("bytes a second"));
    let status = daemon.until_settled(256).await;
    assert!(status["ledger"]["rejected"].as_object().unwrap().values().all(|count| count["records"] == 0));
    assert!(daemon.stop().await.status.success());
}

// R-H1
#[tokio::test]
async fn requests_are_answered_when_their_records_have_reached_the_level() {
    let directory = tempfile::tempdir().unwrap();
    let spool = format!("buffer.directory={}", directory.path().join("spool").display());
    let rows: [(&[&str], u16); 5] = [
        (&[], 202),
        (&["listen.app.acks=off"], 202),
        (&[&spool], 200),
        (&[&spool, "listen.app.acks=received"], 202),
        (&["listen.app.acks=delivered"], 200),
    ];
    for (settings, expected) in rows {
        let sink = down().await;
        let settings: Vec<&str> =
            [HTTP, "linger=1ms", "retry.max_delay=100ms"].iter().chain(settings).copied().collect();
        let daemon = Daemon::start(&sink.local.url(), &settings).await;
        let request = post(LINES, &lines(3, 100));
        let (mut reader, mut writer) = tokio::io::split(daemon.connect().await);
        writer.write_all(&request).await.unwrap();
        // A client may close its half and still hears the answer.
        writer.shutdown().await.unwrap();
        let delivered = settings.contains(&"listen.app.acks=delivered");
        if delivered {
            daemon.until("in", |status| number(status, RECEIVED) == 3).await;
            let mut byte = [0];
            let early = tokio::time::timeout(Duration::ZERO, reader.read(&mut byte)).await;
            assert!(early.is_err(), "answered before anything was delivered");
            sink.local.set_down(false).await.unwrap();
        }
        let answer = answer(&mut BufReader::new(reader)).await.unwrap();
        assert_eq!(answer.counts(), (expected, 3, 0), "{settings:?}");
        if !delivered {
            sink.local.set_down(false).await.unwrap();
        }
        daemon.until_settled(3).await;
        assert!(daemon.stop().await.status.success());
        assert_eq!(sink.delivered().await, lines(3, 100));
    }
}

// R-H1
#[tokio::test]
async fn any_number_of_requests_share_a_connection() {
    let sink = Sink::start(Options::default()).await;
    let daemon = Daemon::start(&sink.local.url(), &[HTTP, "linger=1ms"]).await;
    let (reader, mut writer) = tokio::io::split(daemon.connect().await);
    let writing = tokio::spawn(async move {
        for number in 0..200 {
            writer.write_all(&post(LINES, &line(number, 100))).await.unwrap();
        }
        writer
    });
    let mut reader = BufReader::new(reader);
    for _ in 0..200 {
        assert_eq!(answer(&mut reader).await.unwrap().counts(), (202, 1, 0));
    }
    drop(writing.await.unwrap());
    daemon.until_settled(200).await;
    assert!(daemon.stop().await.status.success());
    let delivered = sink.lines().await;
    assert!(delivered.len() == 200 && delivered.values().all(|times| *times == 1));
}

// R-H2, R-H4
#[tokio::test]
async fn bodies_of_every_kind_and_encoding_arrive_as_their_records() {
    let sink = Sink::start(Options::default()).await;
    let daemon = Daemon::start(&sink.local.url(), &[HTTP, "linger=1h", "delimiter=|"]).await;
    let members = [gzip(b"g1\ng"), gzip(b"2\n")].concat();
    let frames =
        [zstd::encode_all(&b"z1\nz"[..], 3).unwrap(), zstd::bulk::compress(b"2\n", 19).unwrap()].concat();
    let encoded = |encoding: &str| format!("{LINES}content-encoding: {encoding}\r\n");
    let rows: [(&str, &[u8], u64); 8] = [
        (LINES, b"n1\r\n\nn2", 2),
        ("content-type: text/plain; charset=utf-8\r\n", b"t1\n", 1),
        (JSON, b"[{\"j\": [1]},\n2, \"three\"]", 3),
        (JSON, b"{\"one\":1}", 1),
        ("content-type: application/octet-stream\r\n", b"\0\n\xff", 1),
        ("", b"untyped|", 1),
        (&encoded("gzip"), &members, 2),
        (&encoded("zstd"), &frames, 2),
    ];
    for (headers, body, records) in rows {
        assert_eq!(ask(&daemon, headers, body).await.counts(), (202, records, 0), "{headers}");
    }
    let chunked = format!(
        "POST / HTTP/1.1\r\nhost: h\r\n{LINES}transfer-encoding: chunked\r\n\r\n3\r\nc1\n\r\n2\r\nc2\r\n0\r\n\r\n"
    );
    assert_eq!(ask_on(daemon.connect().await, chunked.as_bytes()).await.counts(), (202, 2, 0));
    assert!(daemon.stop().await.status.success());
    let expected = b"n1|n2|t1|{\"j\": [1]}|2|\"three\"|{\"one\":1}|\0\n\xff|untyped|g1|g2|z1|z2|c1|c2|";
    assert_eq!(sink.delivered().await, expected);
}

// R-H3
#[tokio::test]
async fn what_is_no_request_is_refused_in_a_sentence_and_harms_no_other() {
    let sink = Sink::start(Options::default()).await;
    let settings = [HTTP, "linger=1ms", "listen.app.max_record_bytes=100"];
    let daemon = Daemon::start(&sink.local.url(), &settings).await;
    let malformed = ask(&daemon, JSON, b"[{\"a\":1},\n{\"b\":}]").await;
    assert_eq!(malformed.counts(), (400, 0, 0));
    assert!(malformed.error().contains("line 2 column 6"), "{malformed:?}");
    let encoding = ask(&daemon, "content-encoding: br\r\n", b"x").await;
    assert_eq!(encoding.status, 415);
    assert!(encoding.head.contains("accept-encoding: gzip, zstd"), "{encoding:?}");
    for (encoding, body) in [("gzip", &gzip(b"cut off")[..15]), ("zstd", b"nonsense")] {
        let answer = ask(&daemon, &format!("content-encoding: {encoding}\r\n"), body).await;
        assert_eq!(answer.counts(), (400, 0, 0), "{answer:?}");
    }
    let plain = async |request: &str| ask_on(daemon.connect().await, request.as_bytes()).await;
    assert_eq!(plain("POST /other HTTP/1.1\r\nhost: h\r\ncontent-length: 1\r\n\r\nx").await.status, 404);
    let method = plain("DELETE / HTTP/1.1\r\nhost: h\r\n\r\n").await;
    assert!(method.status == 405 && method.head.contains("allow: GET, HEAD, POST"), "{method:?}");
    assert_eq!(plain("POST / HTTP/1.1\r\nhost: h\r\n\r\n").await.status, 411);
    assert_eq!(plain("GET / HTTP/1.1\r\nhost: h\r\n\r\n").await.body, json!({ "ok": true }));
    // Records that are too long cost themselves alone.
    let mixed = [&line(0, 100)[..], &line(1, 101), &line(2, 50)].concat();
    assert_eq!(ask(&daemon, LINES, &mixed).await.counts(), (202, 2, 1));
    assert_eq!(ask(&daemon, LINES, &line(3, 101)).await.counts(), (413, 0, 1));
    let whole = ask(&daemon, "", &[b'x'; 100]).await;
    assert!(whole.status == 413 && whole.error().contains("application/x-ndjson"), "{whole:?}");
    let status = daemon.until_settled(2).await;
    assert_eq!(number(&status, "/ledger/rejected/too_long/records"), 3, "{status:#}");
    assert_eq!(number(&status, "/ledger/rejected/malformed/records"), 3, "{status:#}");
    assert!(daemon.stop().await.status.success());
    assert_eq!(sink.delivered().await, [line(0, 100), line(2, 50)].concat());
}

// R-H4
#[tokio::test]
async fn a_body_that_grows_beyond_measure_is_refused_and_holds_no_memory() {
    let sink = Sink::start(Options::default()).await;
    let daemon = Daemon::start(&sink.local.url(), &[HTTP, "linger=1ms", "buffer.memory=8MiB"]).await;
    let zeros = vec![0; 256 << 20];
    let bombs = [("gzip", gzip(&zeros)), ("zstd", zstd::encode_all(&zeros[..], 3).unwrap())];
    let before = daemon.peak_memory();
    let mut asking = JoinSet::new();
    for (encoding, bomb) in &bombs {
        for _ in 0..5 {
            let (mut stream, request) =
                (daemon.connect().await, post(&format!("{LINES}content-encoding: {encoding}\r\n"), bomb));
            asking.spawn(async move {
                stream.write_all(&request).await.unwrap();
                answer(&mut BufReader::new(stream)).await.unwrap()
            });
        }
    }
    while let Some(answer) = asking.join_next().await {
        let answer = answer.unwrap();
        assert!([413, 429].contains(&answer.status), "{answer:?}");
    }
    assert!(daemon.peak_memory() - before < 16 << 20, "{} bytes more", daemon.peak_memory() - before);
    // Nesting costs a reader memory, too.
    let nested = ask(&daemon, JSON, &vec![b'['; 1 << 20]).await;
    assert!(nested.status == 400 && nested.error().contains("nested deeper"), "{nested:?}");
    assert_eq!(ask(&daemon, LINES, &lines(10, 100)).await.counts(), (202, 10, 0));
    let status = daemon.until_settled(10).await;
    assert_eq!(number(&status, "/buffer/reserved_bytes"), 0);
    assert!(daemon.stop().await.status.success());
}

/// Sends requests of 100 lines each from `clients` at once until `sent` were taken; those that are turned
/// away for the moment are sent again. Those are counted as they come, and given in the end.
async fn produce(daemon: &Daemon, clients: usize, sent: usize, turned_away: &Arc<AtomicUsize>) -> usize {
    let mut producing = JoinSet::new();
    for client in 0..clients {
        let mut stream = BufReader::new(daemon.connect().await);
        let turned_away = Arc::clone(turned_away);
        producing.spawn(async move {
            for request in (client..sent).step_by(clients) {
                let body: Vec<u8> = (0..100).flat_map(|number| line(request * 100 + number, 100)).collect();
                loop {
                    stream.get_mut().write_all(&post(LINES, &body)).await.unwrap();
                    let answer = answer(&mut stream).await.unwrap();
                    match answer.counts() {
                        (202, 100, 0) => break,
                        (429, 0, 0) => assert!(answer.head.contains("retry-after: 1"), "{answer:?}"),
                        _ => panic!("{answer:?}"),
                    }
                    turned_away.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
    }
    producing.join_all().await;
    turned_away.load(Ordering::Relaxed)
}

// R-H5
#[tokio::test]
async fn a_full_buffer_turns_requests_away_whole_and_loses_and_repeats_nothing() {
    let sink = down().await;
    let settings =
        [HTTP, "linger=5ms", "buffer.memory=1MiB", "retry.max_delay=100ms", "buffer.on_full=drop-newest"];
    let daemon = Daemon::start(&sink.local.url(), &settings).await;
    let turned_away: Arc<AtomicUsize> = Arc::default();
    let coming_up = async {
        daemon.until("full", |_| turned_away.load(Ordering::Relaxed) > 0).await;
        sink.local.set_down(false).await.unwrap();
    };
    tokio::join!(produce(&daemon, 8, 300, &turned_away), coming_up);
    let status = daemon.until_settled(30_000).await;
    assert_eq!(number(&status, "/ledger/dropped/buffer_full/records"), 0, "{status:#}");
    assert_eq!(balance(&daemon.get("/metrics").await.1), (30_000, 30_000));
    assert!(daemon.stop().await.status.success());
    let delivered = sink.lines().await;
    assert!(delivered.len() == 30_000 && delivered.values().all(|times| *times == 1));
}

// R-H5
#[tokio::test]
async fn a_full_buffer_that_blocks_keeps_a_request_waiting_and_then_turns_it_away() {
    let sink = down().await;
    let settings = [HTTP, "linger=5ms", "buffer.memory=1MiB", "retry.max_delay=100ms"];
    let daemon = Daemon::start(&sink.local.url(), &settings).await;
    let body = lines(1000, 100);
    let mut taken = 0;
    loop {
        let answer = ask(&daemon, LINES, &body).await;
        match answer.counts() {
            (202, 1000, 0) => taken += 1000,
            (429, 0, 0) => break,
            _ => panic!("{answer:?}"),
        }
    }
    assert!((1000..6000).contains(&taken), "{taken}");
    sink.local.set_down(false).await.unwrap();
    daemon.until_settled(taken).await;
    assert_eq!(ask(&daemon, LINES, &body).await.status, 202);
    daemon.until_settled(taken + 1000).await;
    assert!(daemon.stop().await.status.success());
}

// R-H6
#[tokio::test]
async fn clients_that_never_finish_are_bounded_and_keep_nobody_from_being_served() {
    many_files();
    let sink = Sink::start(Options::default()).await;
    let settings = [HTTP, "linger=1ms", "buffer.memory=8MiB", "listen.app.idle_timeout=3s"];
    let daemon = Daemon::start(&sink.local.url(), &settings).await;
    let before = daemon.peak_memory();
    let mut slow = Vec::new();
    for number in 0..300 {
        let mut stream = daemon.connect().await;
        let begun: &[u8] = match number % 3 {
            0 => b"POST / HTTP/1.1\r\nhost: h\r\nx-slow:",
            // What they claim is believed by nobody.
            1 => b"POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 2500000\r\n\r\n",
            _ => b"",
        };
        stream.write_all(begun).await.unwrap();
        if number % 3 == 1 {
            stream.write_all(&vec![b'b'; 60_000]).await.unwrap();
        }
        slow.push(stream);
    }
    daemon.until("connected", |status| number(status, "/connections") == 300).await;
    assert_eq!(produce(&daemon, 4, 100, &Arc::default()).await, 0);
    daemon.until_settled(10_000).await;
    assert!(daemon.peak_memory() - before < 24 << 20, "{} bytes more", daemon.peak_memory() - before);
    // Whoever sent no request is closed when its time is over; bodies have a minute.
    for mut stream in slow.into_iter().step_by(3) {
        let mut answer = Vec::new();
        patiently("closed", stream.read_to_end(&mut answer)).await.ok();
    }
    assert!(daemon.stop().await.status.success());
    assert!(sink.lines().await.len() == 10_000);
}

// R-H6
#[tokio::test]
async fn heads_without_end_broken_bodies_and_lies_are_refused_and_counted() {
    let sink = Sink::start(Options::default()).await;
    let settings = [HTTP, "linger=1ms", "listen.port.address=tcp:0", "listen.port.protocol=http"];
    let daemon = Daemon::start(&sink.local.url(), &settings).await;
    let huge = format!("POST / HTTP/1.1\r\nhost: h\r\nx-huge: {}\r\n", "h".repeat(64 << 10));
    let mut stream = daemon.connect().await;
    stream.write_all(huge.as_bytes()).await.ok();
    assert_eq!(answer(&mut BufReader::new(stream)).await.unwrap().status, 431);
    let claim = b"POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 99999999999\r\n\r\n";
    let claimed = ask_on(daemon.connect().await, claim).await;
    assert!(claimed.status == 413 && claimed.head.contains("connection: close"), "{claimed:?}");

    // Cut off in the middle of the body, one way and the other.
    let half = &post(LINES, &lines(10, 100))[..600];
    let mut stream = daemon.connect().await;
    stream.write_all(half).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut stream = daemon.connect_tcp("port").await;
    stream.write_all(half).await.unwrap();
    daemon.until("read", |status| number(status, "/connections") >= 1).await;
    SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
    drop(stream);
    let incomplete = |status: &Value| number(status, "/ledger/rejected/incomplete/records");
    daemon.until("counted", |status| incomplete(status) >= 1 && number(status, "/connections") == 0).await;
    // Two lengths are one too many.
    let smuggled = b"POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 3\r\ncontent-length: 5\r\n\r\nabc";
    let mut stream = daemon.connect().await;
    stream.write_all(smuggled).await.unwrap();
    assert_eq!(answer(&mut BufReader::new(stream)).await.unwrap().status, 400);
    assert_eq!(ask(&daemon, LINES, &lines(1, 100)).await.counts(), (202, 1, 0));
    daemon.until_settled(1).await;
    assert!(daemon.stop().await.status.success());
    assert_eq!(sink.delivered().await, lines(1, 100));
}

// R-H7
#[tokio::test]
async fn a_stop_answers_what_is_under_way_and_closes_what_is_idle() {
    let sink = down().await;
    let settings =
        [HTTP, "linger=1h", "retry.max_delay=100ms", "listen.app.acks=delivered", "shutdown.drain=1h"];
    let mut daemon = Daemon::start(&sink.local.url(), &settings).await;
    let mut idle = BufReader::new(daemon.connect().await);
    idle.get_mut().write_all(b"GET / HTTP/1.1\r\nhost: h\r\n\r\n").await.unwrap();
    assert_eq!(answer(&mut idle).await.unwrap().status, 200);
    let mut waiting = BufReader::new(daemon.connect().await);
    waiting.get_mut().write_all(&post(LINES, &lines(5, 100))).await.unwrap();
    daemon.until("in", |status| number(status, RECEIVED) == 5).await;
    // A body that is on its way has a moment to come.
    let mut coming = BufReader::new(daemon.connect().await);
    let request = post(LINES, &lines(5, 100));
    coming.get_mut().write_all(&request[..300]).await.unwrap();
    daemon.until("connected", |status| number(status, "/buffer/reserved_bytes") > 5 * 100 + 300).await;
    daemon.signal("TERM");
    daemon.until_said("Draining.").await;
    assert!(answer(&mut idle).await.is_none(), "an idle connection is closed");
    coming.get_mut().write_all(&request[300..]).await.unwrap();
    daemon.until("in", |status| number(status, RECEIVED) == 10).await;
    sink.local.set_down(false).await.unwrap();
    for stream in [&mut waiting, &mut coming] {
        let told = answer(stream).await.unwrap();
        assert_eq!(told.counts(), (200, 5, 0));
        assert!(answer(stream).await.is_none(), "{told:?}");
    }
    assert!(daemon.ended().await.status.success());
    assert_eq!(sink.delivered().await, lines(5, 100).repeat(2));
}

// R-H7
#[tokio::test]
async fn a_body_that_does_not_end_holds_no_stop_up() {
    let sink = Sink::start(Options::default()).await;
    let daemon = Daemon::start(&sink.local.url(), &[HTTP, "shutdown.drain=1h"]).await;
    let mut stream = BufReader::new(daemon.connect().await);
    stream.get_mut().write_all(&post(LINES, &lines(5, 100))[..300]).await.unwrap();
    daemon.until("reading", |status| number(status, "/buffer/reserved_bytes") > 0).await;
    daemon.signal("TERM");
    let told = answer(&mut stream).await.unwrap();
    assert!(told.status == 503 && told.head.contains("connection: close"), "{told:?}");
    assert!(told.head.contains("retry-after: 1"), "{told:?}");
    assert!(daemon.ended().await.status.success());
}
