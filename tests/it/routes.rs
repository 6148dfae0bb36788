//! Several delivery streams of one daemon.

use std::path::Path;

use hydrant::local::Options;
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;

use crate::daemon::{Daemon, STREAM, Sink, balance, hydrant, line, lines, number};

/// A sink with a stream `audit` beside the usual one.
async fn two_streams() -> Sink {
    Sink::start(Options { streams: vec!["audit".to_owned()], ..Options::default() }).await
}

/// A daemon with listeners `app`, `audit` and `gone`, the latter two to streams of their names.
async fn start(sink: &Sink, settings: &[&str]) -> Daemon {
    let directory = tempfile::tempdir().unwrap();
    start_in(directory, sink, settings).await
}

async fn start_in(directory: tempfile::TempDir, sink: &Sink, settings: &[&str]) -> Daemon {
    let at = |name: &str, file: &str| {
        format!("listen.{name}.address=unix:{}", directory.path().join(file).display())
    };
    let own = |name: &str| format!("listen.{name}.delivery_stream_name={name}");
    let all = [at("app", "app.sock"), at("audit", "audit"), own("audit"), at("gone", "gone"), own("gone")];
    let endpoint = format!("endpoint_url={}", sink.local.url());
    let all =
        all.iter().map(String::as_str).chain([&*endpoint, "linger=5ms"]).chain(settings.iter().copied());
    Daemon::start_in(directory, all).await
}

async fn write(daemon: &Daemon, listener: &str, bytes: &[u8]) {
    let mut stream = UnixStream::connect(daemon.directory.path().join(listener)).await.unwrap();
    stream.write_all(bytes).await.unwrap();
}

/// Ends the service, and looks that `stream` has the lines of `expected` once, in whatever order.
async fn assert_has(sink: &Sink, stream: &str, expected: Vec<u8>) {
    let sorted = |bytes: &[u8]| {
        let mut lines: Vec<_> = bytes.split_inclusive(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
        lines.sort_unstable();
        lines
    };
    let delivered = sorted(&sink.delivered_to(stream).await);
    assert!(delivered == sorted(&expected), "{} lines", delivered.len());
}

/// The status of one of the streams.
fn of<'a>(status: &'a Value, stream: &str) -> &'a Value {
    let streams = status["streams"].as_array().unwrap();
    streams.iter().find(|one| one["delivery_stream_name"] == stream).unwrap()
}

// R-V1
#[tokio::test]
async fn each_listener_feeds_its_stream_and_the_figures_are_kept_by_stream() {
    let sink = two_streams().await;
    let daemon = start(&sink, &[]).await;
    write(&daemon, "app.sock", &lines(300, 100)).await;
    write(&daemon, "audit", &lines(200, 50)).await;
    let status = daemon.until_settled(500).await;
    for (stream, records, bytes) in [(STREAM, 300, 30_000), ("audit", 200, 10_000), ("gone", 0, 0)] {
        let delivered = &of(&status, stream)["ledger"]["delivered"];
        assert_eq!(
            (number(delivered, "/records"), number(delivered, "/bytes")),
            (records, bytes),
            "{stream}"
        );
    }
    assert_eq!(number(&status, "/ledger/delivered/bytes"), 40_000);
    let metrics = daemon.get("/metrics").await.1;
    for sample in [
        &format!("hydrant_records_delivered_total{{stream=\"{STREAM}\"}} 300"),
        "hydrant_records_delivered_total{stream=\"audit\"} 200",
        "hydrant_records_dropped_total{reason=\"shutdown\",stream=\"gone\"} 0",
    ] {
        assert!(metrics.lines().any(|line| line == sample), "no {sample} in {metrics}");
    }
    assert_eq!(metrics.lines().filter(|line| line.starts_with("hydrant_connections ")).count(), 1);
    assert_eq!(balance(&metrics), (500, 500));
    assert!(daemon.stop().await.status.success());
    assert_has(&sink, "audit", lines(200, 50)).await;
    assert_has(&sink, STREAM, lines(300, 100)).await;
}

// R-V11
#[tokio::test]
async fn status_has_the_requests_the_bill_and_the_compression_of_each_stream() {
    let sink = two_streams().await;
    let daemon = start(&sink, &["aggregate.mode=auto", "aggregate.compression=gzip"]).await;
    write(&daemon, "app.sock", &lines(300, 100)).await;
    write(&daemon, "audit", &lines(200, 50)).await;
    let status = daemon.until_settled(500).await;
    for (stream, bytes, unpacked) in [(STREAM, 30_000, 300 * 5120), ("audit", 10_000, 200 * 5120)] {
        let one = of(&status, stream);
        assert!(number(one, "/requests/PutRecordBatch/ok") > 0, "{one:#}");
        assert_eq!(number(one, "/compression/input_bytes"), bytes, "{one:#}");
        assert_eq!(number(one, "/unpacked_billed_bytes"), unpacked, "{one:#}");
        assert!(number(one, "/billed_bytes") < unpacked, "{one:#}");
    }
    let gone = of(&status, "gone");
    assert_eq!((&gone["compression"], number(gone, "/billed_bytes")), (&Value::Null, 0));
    assert!(daemon.stop().await.status.success());
}

// R-V12
#[tokio::test]
async fn doctor_looks_at_each_stream_and_its_spool_and_at_those_that_nobody_feeds() {
    let sink = two_streams().await;
    let spool = tempfile::tempdir().unwrap();
    let directory = format!("buffer.directory={}", spool.path().display());
    let daemon = start(&sink, &[&directory]).await;
    write(&daemon, "gone", &lines(100, 500)).await;
    daemon.until("kept", |status| number(of(status, "gone"), "/spool/held/records") == 100).await;
    let doctor = async |streams: &[&str]| {
        let mut command = hydrant();
        command.args([
            "doctor",
            "--stream",
            STREAM,
            "--endpoint-url",
            &sink.local.url(),
            "--set",
            &directory,
        ]);
        for stream in streams {
            command.args(["--set", &format!("listen.{stream}.address=tcp:127.0.0.1:0")]);
            command.args(["--set", &format!("listen.{stream}.delivery_stream_name={stream}")]);
        }
        let output = command.output().await.unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    let check = |said: &str, expected: &[&str]| {
        for expected in expected {
            assert!(said.lines().any(|line| line.starts_with(expected)), "no {expected:?} in\n{said}");
        }
    };

    let (code, said) = doctor(&["audit", "gone"]).await;
    assert_eq!(code, Some(1), "{said}");
    let at = spool.path().display();
    let named = |words: &str| words.replace("STREAM", STREAM).replace("SPOOL", &at.to_string());
    let expected = [
        "ok       stream [STREAM]: ACTIVE",
        "ok       cloudwatch:GetMetricData [STREAM]: allowed",
        "ok       spool [STREAM]: SPOOL is writable and has room, in use by a running hydrant",
        "ok       stream [audit]: ACTIVE",
        "ok       cloudwatch:GetMetricData [audit]: allowed",
        "ok       spool [audit]: SPOOL/stream-audit is writable and has room, in use by a running hydrant",
        "problem  firehose:DescribeDeliveryStream [gone]: delivery stream `gone` was not found",
        "ok       spooled records [gone]: 100 records of 50000 bytes wait",
    ]
    .map(named);
    check(&said, &expected.each_ref().map(String::as_str));

    let (code, said) = doctor(&["audit"]).await;
    assert_eq!(code, Some(0), "{said}");
    check(
        &said,
        &[&named(
            "warning  spooled records [gone]: SPOOL/stream-gone may have records of a stream that nothing feeds",
        )],
    );
    let (code, said) = doctor(&[]).await;
    assert_eq!(code, Some(0), "{said}");
    check(&said, &["ok       stream: ACTIVE", "ok       spool: ", "warning  spooled records [gone]: "]);
    drop(daemon.kill().await);
}

// R-V2
#[tokio::test]
async fn a_dead_stream_does_not_block_another() {
    let sink = two_streams().await;
    let mut daemon = start(&sink, &["buffer.memory=12MiB", "shutdown.drain=1s"]).await;
    // More than the daemon may hold in all, for a stream that there is not.
    let socket = daemon.directory.path().join("gone");
    let stuck = tokio::spawn(async move {
        let mut stream = UnixStream::connect(socket).await.unwrap();
        // Ends when the daemon does.
        stream.write_all(&lines(40_000, 500)).await.is_err()
    });
    let said = daemon.until_said("Operation failed, retrying").await;
    assert_eq!(said["span"]["delivery_stream_name"], "gone", "{said}");
    daemon.until("full", |status| number(of(status, "gone"), "/wanted_bytes") > 0).await;
    for (listener, stream) in [("app.sock", STREAM), ("audit", "audit")] {
        write(&daemon, listener, &lines(20_000, 500)).await;
        daemon
            .until(stream, |status| number(of(status, stream), "/ledger/delivered/records") == 20_000)
            .await;
    }
    let (code, ready) = daemon.get("/readyz").await;
    assert!(code == 503 && ready.contains("delivery stream gone: ResourceNotFoundException"), "{ready}");
    let status = daemon.status().await;
    assert_eq!(of(&status, "gone")["trouble"]["permanent"], true);
    assert_eq!(of(&status, "audit")["trouble"], Value::Null);
    let ended = daemon.stop().await;
    assert_eq!(ended.status.code(), Some(1));
    assert!(stuck.await.unwrap());
    assert_has(&sink, "audit", lines(20_000, 500)).await;
}

// R-V3
#[tokio::test]
async fn each_stream_has_a_spool_of_its_own_below_the_one_directory() {
    let sink = two_streams().await;
    let spool = tempfile::tempdir().unwrap();
    let directory = format!("buffer.directory={}", spool.path().display());
    let daemon = start(&sink, &[&directory]).await;
    write(&daemon, "gone", &lines(1000, 500)).await;
    write(&daemon, "app.sock", &lines(1000, 500)).await;
    daemon.until("kept", |status| number(of(status, "gone"), "/spool/held/records") == 1000).await;
    daemon.until("sent", |status| number(of(status, STREAM), "/ledger/delivered/records") == 1000).await;
    let status = daemon.status().await;
    assert_eq!(
        of(&status, "gone")["spool"]["directory"],
        spool.path().join("stream-gone").display().to_string()
    );
    assert_eq!(number(&status, "/spool/limit_bytes"), (1 << 30) / 3 * 3);
    drop(daemon.kill().await);

    // Nobody feeds the stream any more: what is in its spool is left, and said.
    let address =
        |directory: &Path| format!("listen.app.address=unix:{}", directory.join("app.sock").display());
    let elsewhere = tempfile::tempdir().unwrap();
    let settings =
        [address(elsewhere.path()), directory.clone(), format!("endpoint_url={}", sink.local.url())];
    let daemon = Daemon::run(hydrant(), elsewhere, settings.iter().map(String::as_str)).await;
    let left = "Records may wait in the spool of a stream that no listener feeds.";
    let said: Vec<_> = daemon.log().into_iter().filter(|line| line["message"] == left).collect();
    assert!(said.len() == 1 && said[0]["stream"] == "gone", "{said:?}");
    assert!(daemon.stop().await.status.success());
    assert_has(&sink, STREAM, lines(1000, 500)).await;

    // A service that has the stream.
    let sink =
        Sink::start(Options { streams: vec!["gone".to_owned(), "audit".to_owned()], ..Options::default() })
            .await;
    let daemon = start(&sink, &[&directory]).await;
    let delivered = |status: &Value| number(of(status, "gone"), "/ledger/delivered/records") == 1000;
    let status = daemon.until("delivered", delivered).await;
    assert_eq!(number(of(&status, "gone"), "/ledger/recovered/records"), 1000);
    assert!(daemon.stop().await.status.success());
    assert_has(&sink, "gone", lines(1000, 500)).await;
}

// R-V4
#[tokio::test]
async fn a_reload_feeds_streams_that_there_are_and_refuses_new_ones() {
    let sink = two_streams().await;
    let directory = tempfile::tempdir().unwrap();
    let (file, socket) = (directory.path().join("hydrant.toml"), directory.path().join("new.sock"));
    let become_ = |more: String| {
        let at = |name: &str| directory.path().join(name).display().to_string();
        let text = format!(
            "delivery_stream_name = '{STREAM}'\nendpoint_url = '{}'\nlinger = '5ms'\n\
             [listen.a]\naddress = 'unix:{}'\n[listen.b]\naddress = 'unix:{}'\ndelivery_stream_name = 'audit'\n{more}",
            sink.local.url(),
            at("a"),
            at("b"),
        );
        std::fs::write(&file, text).unwrap();
    };
    become_(String::new());
    let mut command = hydrant();
    command.env("HYDRANT_CONFIG", &file);
    let mut daemon = Daemon::run(command, tempfile::tempdir().unwrap(), []).await;
    let new = |stream: &str| {
        format!("[listen.c]\naddress = 'unix:{}'\ndelivery_stream_name = '{stream}'\n", socket.display())
    };
    become_(new("fresh"));
    daemon.signal("HUP");
    let said = daemon.until_said("The changed configuration can't be followed: nothing was changed.").await;
    let error = said["error"].as_str().unwrap();
    assert!(
        error.contains("`listen.c.delivery_stream_name`: \"fresh\"") && error.contains("restart"),
        "{error}"
    );
    become_(new("audit"));
    daemon.signal("HUP");
    daemon.until_said("The configuration was read again.").await;
    let mut stream = UnixStream::connect(&socket).await.unwrap();
    stream.write_all(&line(7, 100)).await.unwrap();
    let status = daemon.until_settled(1).await;
    assert_eq!(number(of(&status, "audit"), "/ledger/delivered/records"), 1);
    drop(stream);
    assert!(daemon.stop().await.status.success());
}

// R-W9
#[tokio::test]
async fn puts_go_to_the_stream_that_they_name() {
    let sink = two_streams().await;
    let daemon = start(&sink, &["listen.api.address=tcp:127.0.0.1:0", "listen.api.protocol=firehose"]).await;
    let client = crate::puts::client(&daemon).await;
    for (stream, text) in [(STREAM, "to the first"), ("audit", "to audit"), ("audit", "to audit too")] {
        let put = client.put_record().delivery_stream_name(stream).record(crate::puts::record(text));
        put.send().await.unwrap();
    }
    let names = client.list_delivery_streams().limit(2).send().await.unwrap();
    assert_eq!(
        (names.delivery_stream_names(), names.has_more_delivery_streams()),
        (&[STREAM, "audit"].map(String::from)[..], true)
    );
    let rest =
        client.list_delivery_streams().exclusive_start_delivery_stream_name("audit").send().await.unwrap();
    assert_eq!(
        (rest.delivery_stream_names(), rest.has_more_delivery_streams()),
        (&["gone".to_owned()][..], false)
    );
    let described = client.describe_delivery_stream().delivery_stream_name("audit").send().await.unwrap();
    assert_eq!(described.delivery_stream_description().unwrap().delivery_stream_name(), "audit");
    let unknown =
        client.put_record().delivery_stream_name("other").record(crate::puts::record("x")).send().await;
    assert!(format!("{unknown:?}").contains("ResourceNotFoundException"), "{unknown:?}");
    let status = daemon.until_settled(3).await;
    assert_eq!(number(of(&status, "audit"), "/ledger/delivered/records"), 2);
    assert!(daemon.stop().await.status.success());
    assert_has(&sink, "audit", b"to audit\nto audit too\n".to_vec()).await;
    assert_has(&sink, STREAM, b"to the first\n".to_vec()).await;
}

/// A daemon whose one listener goes by `kind`: `audit` and what begins with `gone.` to streams of such names.
async fn routed(sink: &Sink, settings: &[&str]) -> Daemon {
    let rules = ["route.field=kind", "route.streams=audit=audit,gone.*=gone"];
    Daemon::start(&sink.local.url(), &[&rules[..], &["linger=5ms"], settings].concat()).await
}

/// `records` lines of a kind, each with its number.
fn kind(kind: &str, records: usize) -> Vec<u8> {
    let line =
        |number| format!("{{\"kind\":\"{kind}\",\"number\":{number},\"x\":\"{}\"}}\n", "x".repeat(200));
    (0..records).map(line).collect::<String>().into_bytes()
}

/// The lines of each in turn.
fn interleaved(kinds: &[Vec<u8>]) -> Vec<u8> {
    let mut lines: Vec<_> = kinds.iter().map(|lines| lines.split_inclusive(|byte| *byte == b'\n')).collect();
    std::iter::from_fn(|| {
        let next: Vec<&[u8]> = lines.iter_mut().filter_map(Iterator::next).collect();
        (!next.is_empty()).then(|| next.concat())
    })
    .flatten()
    .collect()
}

// R-V5, R-V6
#[tokio::test]
async fn records_go_by_a_member_and_are_acknowledged_whatever_their_stream() {
    let sink =
        Sink::start(Options { streams: vec!["audit".to_owned(), "gone".to_owned()], ..Options::default() })
            .await;
    let daemon = routed(&sink, &["listen.app.acks=delivered"]).await;
    let all = interleaved(&[kind("audit", 1000), kind("gone.x", 700), kind("other", 500), lines(300, 50)]);
    let mut stream = daemon.connect().await;
    stream.write_all(&all).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut told = String::new();
    tokio::io::AsyncReadExt::read_to_string(&mut stream, &mut told).await.unwrap();
    let counts: Vec<u64> = told.lines().map(|line| line.parse().unwrap()).collect();
    assert!(counts.is_sorted() && counts.last() == Some(&2500), "{counts:?}");
    let status = daemon.status().await;
    for (stream, records) in [("audit", 1000), ("gone", 700), (STREAM, 800)] {
        assert_eq!(number(of(&status, stream), "/ledger/delivered/records"), records, "{stream}");
    }
    assert!(daemon.stop().await.status.success());
    assert_has(&sink, "audit", kind("audit", 1000)).await;
    assert_has(&sink, "gone", kind("gone.x", 700)).await;
    assert_has(&sink, STREAM, [kind("other", 500), lines(300, 50)].concat()).await;
}

// R-V7
#[tokio::test]
async fn records_for_a_dead_stream_hold_up_their_own_producer_alone() {
    let sink = two_streams().await;
    let settings = ["buffer.memory=16MiB", "shutdown.drain=1s"];
    let daemon = routed(&sink, &settings).await;
    let socket = daemon.socket();
    let stuck = tokio::spawn(async move {
        let mut stream = UnixStream::connect(socket).await.unwrap();
        stream.write_all(&kind("gone.x", 100_000)).await.is_err()
    });
    daemon.until("full", |status| number(of(status, "gone"), "/wanted_bytes") > 0).await;
    daemon.write(&interleaved(&[kind("audit", 20_000), kind("app", 20_000)])).await;
    for stream in ["audit", STREAM] {
        daemon
            .until(stream, |status| number(of(status, stream), "/ledger/delivered/records") == 20_000)
            .await;
    }
    let metrics = daemon.get("/metrics").await.1;
    let (taken, accounted) = balance(&metrics);
    assert_eq!(taken, accounted);
    assert_eq!(daemon.stop().await.status.code(), Some(1));
    assert!(stuck.await.unwrap());
    assert_has(&sink, "audit", kind("audit", 20_000)).await;
}

// R-V7
#[tokio::test]
async fn a_full_stream_drops_its_own_records_where_the_policy_is_to_drop() {
    let sink = two_streams().await;
    let settings = ["buffer.memory=16MiB", "buffer.on_full=drop-newest", "shutdown.drain=0s"];
    let daemon = routed(&sink, &settings).await;
    // In turns, so that what is read never waits for memory to be read into.
    for _ in 0..100 {
        let before = number(&daemon.status().await, "/ledger/received/records");
        daemon.write(&interleaved(&[kind("gone.x", 300), kind("audit", 300)])).await;
        daemon.until("in", |status| number(status, "/ledger/received/records") == before + 600).await;
    }
    daemon.until("sent", |status| number(of(status, "audit"), "/ledger/delivered/records") == 30_000).await;
    let status = daemon.status().await;
    assert!(number(of(&status, "gone"), "/ledger/dropped/buffer_full/records") > 0, "{status:#}");
    assert_eq!(number(of(&status, "audit"), "/ledger/dropped/buffer_full/records"), 0);
    drop(daemon.stop().await);
    assert_has(&sink, "audit", interleaved(&vec![kind("audit", 300); 100])).await;
}

// R-V7
#[tokio::test]
async fn no_count_goes_beyond_a_record_that_its_full_stream_dropped() {
    let sink = two_streams().await;
    let settings = [
        "buffer.memory=16MiB",
        "buffer.on_full=drop-newest",
        "shutdown.drain=0s",
        "listen.app.acks=received",
    ];
    let daemon = routed(&sink, &settings).await;
    let (mut told, mut write) = UnixStream::connect(daemon.socket()).await.unwrap().into_split();
    let reading = tokio::spawn(async move {
        let mut all = String::new();
        tokio::io::AsyncReadExt::read_to_string(&mut told, &mut all).await.unwrap();
        all
    });
    // In turns, so that what is read never waits for memory to be read into.
    for turn in 1..=100 {
        write.write_all(&interleaved(&[kind("gone.x", 300), kind("audit", 300)])).await.unwrap();
        daemon.until("in", |status| number(status, "/ledger/received/records") == turn * 600).await;
    }
    // The connection ends when the producer was told all that there is to tell.
    drop(write);
    let told = reading.await.unwrap();
    let counts: Vec<u64> = told.lines().map(|line| line.parse().unwrap()).collect();
    let status = daemon.status().await;
    assert!(number(of(&status, "gone"), "/ledger/dropped/buffer_full/records") > 0, "{status:#}");
    // They alternate, so half of those before the first that was dropped are of the full stream.
    let (last, kept) = (counts.last().unwrap(), number(of(&status, "gone"), "/ledger/held/records"));
    assert!(counts.is_sorted() && *last > 0 && last / 2 <= kept, "{last} told, {kept} kept");
    drop(daemon.stop().await);
}

// R-V8
#[tokio::test]
async fn a_reload_changes_routes_among_the_streams_that_there_are() {
    let sink = two_streams().await;
    let directory = tempfile::tempdir().unwrap();
    let (file, socket) = (directory.path().join("hydrant.toml"), directory.path().join("app.sock"));
    let become_ = |route: &str| {
        let text = format!(
            "delivery_stream_name = '{STREAM}'\nendpoint_url = '{}'\nlinger = '5ms'\n\
             [listen.a]\naddress = 'unix:{}'\n{route}",
            sink.local.url(),
            socket.display(),
        );
        std::fs::write(&file, text).unwrap();
    };
    become_("[route]\nfield = 'kind'\nstreams = ['audit=audit']\n");
    let mut command = hydrant();
    command.env("HYDRANT_CONFIG", &file);
    let mut daemon = Daemon::run(command, tempfile::tempdir().unwrap(), []).await;
    let mut stream = UnixStream::connect(&socket).await.unwrap();
    stream.write_all(&kind("audit", 1)).await.unwrap();
    daemon.until("first", |status| number(of(status, "audit"), "/ledger/delivered/records") == 1).await;
    for (route, expected) in [
        ("[route]\nfield = 'kind'\nstreams = ['audit=fresh']\n", "`route`: \"fresh\""),
        ("", "`route.field`: routing by record begins and ends with a restart"),
    ] {
        become_(route);
        daemon.signal("HUP");
        let said =
            daemon.until_said("The changed configuration can't be followed: nothing was changed.").await;
        assert!(said["error"].as_str().unwrap().contains(expected), "{said}");
    }
    become_("[route]\nfield = 'kind'\nstreams = ['au*=audit', 'audit=app']\notherwise = 'audit'\n");
    daemon.signal("HUP");
    let said = daemon.until_said("The configuration was read again.").await;
    assert_eq!(said["changed"], "route.otherwise, route.streams");
    // On the connection that there was.
    stream.write_all(&[kind("audit", 1), kind("auto", 1), kind("other", 1)].concat()).await.unwrap();
    daemon.until("rest", |status| number(of(status, "audit"), "/ledger/delivered/records") == 3).await;
    daemon.until("one", |status| number(of(status, STREAM), "/ledger/delivered/records") == 1).await;
    drop(stream);
    assert!(daemon.stop().await.status.success());
}

// R-V5
#[tokio::test]
async fn entries_of_fluent_forward_go_by_their_tag() {
    let sink = two_streams().await;
    let settings =
        ["listen.app.protocol=forward", "route.field=tag", "route.streams=audit.*=audit", "linger=5ms"];
    let daemon = Daemon::start(&sink.local.url(), &settings).await;
    let message = |tag: &str| {
        let tag = [&[0xa0 + u8::try_from(tag.len()).unwrap()], tag.as_bytes()].concat();
        // An array of three: tag, time 0, a map of one member.
        [&[0x93][..], &tag, &[0x00, 0x81, 0xa1, b'k', 0xa1, b'v']].concat()
    };
    daemon.write(&[message("audit.login"), message("app.web")].concat()).await;
    let status = daemon.until_settled(2).await;
    assert_eq!(number(of(&status, "audit"), "/ledger/delivered/records"), 1);
    assert!(daemon.stop().await.status.success());
    let delivered = String::from_utf8(sink.delivered_to("audit").await).unwrap();
    assert!(delivered.contains("\"audit.login\""), "{delivered}");
}
