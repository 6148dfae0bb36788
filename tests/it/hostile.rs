//! Producers at their worst: none harms another, and no byte is changed.

use std::time::Duration;

use hydrant::local::Options;
use socket2::SockRef;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

use crate::daemon::{Daemon, Sink, balance, hydrant_with_files, line, lines, many_files, number, patiently};

const RECEIVED: &str = "/ledger/received/records";

// R-P6
#[tokio::test]
async fn any_byte_but_lf_passes_unchanged_however_it_arrives() {
    let sink = Sink::start(Options::default()).await;
    let settings = ["linger=1h", "listen.port.address=tcp:0"];
    let daemon = Daemon::start(&sink.local.url(), &settings).await;
    let mut record: Vec<u8> = (0..=255).filter(|byte| *byte != b'\n').collect();
    record.extend(b"\xff\xfe\xc3\x28 \0\0 \xed\xa0\x80\n");
    daemon.write(&record).await;
    let mut port = daemon.connect_tcp("port").await;
    port.set_nodelay(true).unwrap();
    for byte in &record {
        port.write_all(&[*byte]).await.unwrap();
    }
    daemon.until("in", |status| number(status, RECEIVED) == 2).await;
    assert!(daemon.stop().await.status.success());
    assert_eq!(sink.delivered().await, record.repeat(2));
}

// R-P8
#[tokio::test]
async fn a_record_of_the_services_limit_is_delivered_and_one_byte_more_is_rejected() {
    let sink = Sink::start(Options::default()).await;
    let mut daemon = Daemon::start(&sink.local.url(), &["linger=1h", "send.max_in_flight=1"]).await;
    daemon.write(&[line(0, 1_024_000), line(1, 1_024_001), line(2, 100)].concat()).await;
    let said = daemon.until_said("Record rejected.").await;
    assert_eq!((number(&said, "/bytes"), number(&said, "/max_record_bytes")), (1_024_000, 1_024_000));
    daemon.until("in", |status| number(status, RECEIVED) == 2).await;
    assert!(daemon.stop().await.status.success());
    assert!(sink.delivered().await == [line(0, 1_024_000), line(2, 100)].concat());
}

#[tokio::test]
async fn a_thousand_silent_halves_of_lines_keep_nobody_from_being_served() {
    many_files();
    let sink = Sink::start(Options::default()).await;
    let daemon = Daemon::start(&sink.local.url(), &["linger=1ms", "buffer.memory=8MiB"]).await;
    let mut halves = Vec::new();
    for _ in 0..1000 {
        let mut stream = daemon.connect().await;
        // More than the half of the records' share that unfinished ones may have together.
        stream.write_all(&[b'h'; 20_000]).await.unwrap();
        halves.push(stream);
    }
    daemon.until("connected", |status| number(status, "/connections") == 1000).await;
    daemon.write(&lines(10_000, 300)).await;
    daemon.until_settled(10_000).await;
    for stream in &mut halves {
        stream.write_all(b"\nafter\n").await.unwrap();
    }
    let rejected = |status: &serde_json::Value| number(status, "/ledger/rejected/unfinished/records");
    let status = daemon
        .until("ended", |status| number(status, "/ledger/delivered/records") + rejected(status) == 12_000)
        .await;
    assert!((1..1000).contains(&rejected(&status)), "{status:#}");
    let kept = 1000 - usize::try_from(rejected(&status)).unwrap();
    assert!(daemon.stop().await.status.success());
    let delivered = sink.lines().await;
    assert_eq!((delivered[&vec![b'h'; 20_000]], delivered[&b"after"[..]]), (kept, 1000));
}

#[tokio::test]
async fn a_thousand_connections_that_come_and_go_at_once_deliver_a_record_each() {
    many_files();
    let sink = Sink::start(Options::default()).await;
    let daemon = Daemon::start(&sink.local.url(), &["linger=10ms", "listen.port.address=tcp:0"]).await;
    let unix = async |number| daemon.write(&line(number, 50)).await;
    let tcp = async |number| {
        let mut stream = daemon.connect_tcp("port").await;
        stream.write_all(&line(number, 50)).await.unwrap();
    };
    let all_unix = futures_util::future::join_all((0..1000).map(unix));
    let all_tcp = futures_util::future::join_all((1000..1200).map(tcp));
    patiently("written", futures_util::future::join(all_unix, all_tcp)).await;
    let status = daemon.until_settled(1200).await;
    assert_eq!(number(&status, "/ledger/delivered/records"), 1200);
    daemon.until("all gone", |status| number(status, "/connections") == 0).await;
    assert!(daemon.stop().await.status.success());
    let delivered = sink.lines().await;
    assert!(delivered.len() == 1200 && delivered.values().all(|times| *times == 1));
}

// R-P11
#[tokio::test]
async fn without_descriptors_accepting_pauses_says_so_and_goes_on_when_connections_leave() {
    let sink = Sink::start(Options::default()).await;
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("app.sock");
    let (address, endpoint) = (
        format!("listen.app.address=unix:{}", socket.display()),
        format!("endpoint_url={}", sink.local.url()),
    );
    let settings = [&*address, &*endpoint, "linger=1ms"];
    let mut daemon = Daemon::run(hydrant_with_files(40), directory, settings).await;
    // The connection to the service is there before the descriptors are gone.
    daemon.write(b"the first\n").await;
    daemon.until_settled(1).await;
    let mut streams = Vec::new();
    for number in 0..60 {
        let mut stream = daemon.connect().await;
        stream.write_all(&line(number, 50)).await.unwrap();
        streams.push(stream);
    }
    let said =
        daemon.until_said("Accepting pauses: raise the limit of open files (LimitNOFILE, ulimit -n).").await;
    assert_eq!((&said["listener"], &said["level"]), (&"app".into(), &"WARN".into()));
    // Whoever was accepted is served although others wait.
    streams[0].write_all(b"still served\n").await.unwrap();
    streams.truncate(5);
    daemon.until_settled(62).await;
    assert!(daemon.metric("hydrant_accept_pauses_total").await > 0);
    assert_eq!(balance(&daemon.get("/metrics").await.1), (62, 62));
    assert!(daemon.stop().await.status.success());
    let delivered = sink.lines().await;
    assert!(delivered.len() == 62 && delivered.contains_key(&b"still served"[..]));
}

// R-P9
#[tokio::test]
async fn a_connection_that_is_reset_costs_its_unfinished_record_and_nothing_else() {
    let sink = Sink::start(Options::default()).await;
    let settings = ["linger=1ms", "listen.port.address=tcp:0"];
    let daemon = Daemon::start(&sink.local.url(), &settings).await;
    let mut stream = daemon.connect_tcp("port").await;
    stream.write_all(b"whole\nhalf").await.unwrap();
    daemon.until_settled(1).await;
    SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
    drop(stream);
    let status = daemon.until("gone", |status| number(status, "/connections") == 0).await;
    assert_eq!(number(&status, "/ledger/rejected/incomplete/bytes"), 4, "{status:#}");
    daemon.connect_tcp("port").await.write_all(b"next\n").await.unwrap();
    daemon.until_settled(2).await;
    assert!(daemon.stop().await.status.success());
    assert_eq!(sink.delivered().await, b"whole\nnext\n");
}

/// A connection whose producer has sent `records` records, each acknowledged, and read nothing.
async fn deaf(daemon: &Daemon, records: usize) -> UnixStream {
    let mut stream = daemon.connect().await;
    for sent in 0..records {
        stream.write_all(&line(sent, 50)).await.unwrap();
        daemon.until("in", |status| number(status, RECEIVED) == sent as u64 + 1).await;
    }
    stream
}

/// More acknowledgements than a socket holds.
const UNREAD: usize = 600;

// R-P13
#[tokio::test]
async fn a_producer_that_never_reads_its_acknowledgements_is_served_and_holds_no_stop_up() {
    let sink = Sink::start(Options::default()).await;
    for level in ["received", "delivered"] {
        let acks = format!("listen.app.acks={level}");
        let daemon = Daemon::start(&sink.local.url(), &["linger=1ms", "shutdown.drain=1h", &acks]).await;
        let stream = deaf(&daemon, UNREAD).await;
        daemon.until_settled(UNREAD as u64).await;
        let ended = daemon.stop().await;
        assert!(ended.status.success(), "{level}: {:#?}", ended.said("Stopped."));
        drop(stream);
    }
    assert_eq!(sink.lines().await.into_values().sum::<usize>(), 2 * UNREAD);
}

#[tokio::test]
async fn a_producer_that_reads_its_acknowledgements_late_hears_the_last_one() {
    let sink = Sink::start(Options::default()).await;
    let daemon = Daemon::start(&sink.local.url(), &["linger=1ms", "listen.app.acks=received"]).await;
    let mut told = BufReader::new(deaf(&daemon, UNREAD).await).lines();
    let hears = async {
        while let Some(count) = told.next_line().await.unwrap() {
            if count == UNREAD.to_string() {
                return;
            }
        }
        panic!("closed without the last count");
    };
    patiently("told", hears).await;
    assert!(daemon.stop().await.status.success());
}

// R-P13
#[tokio::test]
async fn a_producer_that_closes_without_reading_its_acknowledgements_loses_no_line() {
    let sink = Sink::start(Options::default()).await;
    let daemon = Daemon::start(&sink.local.url(), &["linger=1ms", "listen.app.acks=received"]).await;
    for _ in 0..20 {
        daemon.write(&lines(500, 100)).await;
    }
    daemon.until_settled(10_000).await;
    assert!(daemon.stop().await.status.success());
    assert!(sink.lines().await.into_values().all(|times| times == 20));
}

/// Most that a connection takes on which nothing was said, in a build without optimization.
const IDLE_BYTES: u64 = 16 << 10;

// R-P16
#[tokio::test]
async fn ten_thousand_idle_connections_take_little_and_keep_nobody_from_being_served() {
    many_files();
    let sink = Sink::start(Options::default()).await;
    let directory = tempfile::tempdir().unwrap();
    let protocols = [("lines", 2_000), ("forward", 4_000), ("http", 4_000)];
    let socket = |protocol: &str| directory.path().join(protocol);
    let mut settings = vec![format!("endpoint_url={}", sink.local.url()), "linger=1ms".to_owned()];
    for (protocol, _) in protocols {
        settings.push(format!("listen.{protocol}.address=unix:{}", socket(protocol).display()));
        settings.push(format!("listen.{protocol}.protocol={protocol}"));
        settings.push(format!("listen.{protocol}.max_connections=5000"));
    }
    let daemon = Daemon::start_in(tempfile::tempdir().unwrap(), settings.iter().map(String::as_str)).await;
    let mut idle = Vec::new();
    for (protocol, connections) in protocols {
        let before = daemon.peak_memory();
        for _ in 0..connections {
            idle.push(UnixStream::connect(socket(protocol)).await.unwrap());
        }
        daemon.until("connected", |status| number(status, "/connections") == idle.len() as u64).await;
        let each = (daemon.peak_memory() - before) / connections;
        eprintln!("{protocol}: {each} bytes for each idle connection");
        assert!(each <= IDLE_BYTES, "{protocol}: {each} bytes for each idle connection");
    }
    let mut stream = UnixStream::connect(socket("lines")).await.unwrap();
    stream.write_all(&lines(1000, 100)).await.unwrap();
    // An entry a message: `["t", 0, {}]`.
    let mut stream = UnixStream::connect(socket("forward")).await.unwrap();
    stream.write_all(&[0x93, 0xa1, b't', 0, 0x80].repeat(1000)).await.unwrap();
    let mut stream = UnixStream::connect(socket("http")).await.unwrap();
    let body = lines(1000, 100);
    let head = format!(
        "POST / HTTP/1.1\r\nhost: h\r\ncontent-type: text/plain\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(&[head.as_bytes(), &body].concat()).await.unwrap();
    daemon.until_settled(3000).await;
    drop(idle);
    daemon.until("gone", |status| number(status, "/connections") == 3).await;
    assert!(daemon.stop().await.status.success());
}
