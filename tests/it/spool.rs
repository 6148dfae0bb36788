//! What the spool has is delivered, whatever happens to the daemon, the stream or the disk.

use std::path::Path;

use hydrant::local::Options;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::task::JoinHandle;

use crate::daemon::{Daemon, Sink, balance, hydrant, line, lines, number, patiently};

const BYTES: usize = 100;

/// A daemon with its socket and its spool in `directory`.
async fn start(directory: TempDir, sink: &Sink, settings: &[&str]) -> Daemon {
    let path = directory.path().display();
    let own = [
        format!("listen.app.address=unix:{path}/app.sock"),
        format!("buffer.directory={path}/spool"),
        format!("endpoint_url={}", sink.local.url()),
        "listen.app.acks=durable".to_owned(),
        "retry.max_delay=100ms".to_owned(),
    ];
    let all = own.iter().map(String::as_str).chain(settings.iter().copied());
    Daemon::start_in(directory, all).await
}

fn directory() -> TempDir {
    tempfile::tempdir().unwrap()
}

/// Reads counts until one says `records`.
async fn until_acknowledged(stream: &mut BufReader<UnixStream>, records: u64) {
    let counts = async {
        let mut line = String::new();
        while line.trim_end().parse() != Ok(records) {
            line.clear();
            assert!(
                stream.read_line(&mut line).await.unwrap() > 0,
                "closed before {records} were acknowledged"
            );
        }
    };
    patiently("acknowledged", counts).await;
}

async fn write_until_acknowledged(daemon: &Daemon, bytes: &[u8], records: u64) {
    let mut stream = daemon.connect().await;
    stream.write_all(bytes).await.unwrap();
    until_acknowledged(&mut BufReader::new(stream), records).await;
}

/// Writes lines beside what else goes on; gives what was acknowledged to the end.
async fn write_and_listen(daemon: &Daemon, records: usize) -> JoinHandle<String> {
    let mut stream = daemon.connect().await;
    tokio::spawn(async move {
        stream.write_all(&lines(records, BYTES)).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut counts = String::new();
        stream.read_to_string(&mut counts).await.unwrap();
        counts
    })
}

fn balanced(metrics: &str) {
    let (taken, accounted) = balance(metrics);
    assert_eq!(taken, accounted, "{metrics}");
}

// R-K1, R-P12
#[tokio::test]
async fn what_was_called_durable_outlives_a_killed_daemon() {
    for sync in ["buffer.sync=always", "buffer.sync=os"] {
        let sink = Sink::start(Options::default()).await;
        sink.local.set_down(true).await.unwrap();
        let daemon = start(directory(), &sink, &[sync]).await;
        write_until_acknowledged(&daemon, &lines(1234, BYTES), 1234).await;
        let directory = daemon.kill().await;
        sink.local.set_down(false).await.unwrap();
        // One request at a time: of several the service may have the later one first.
        let daemon = start(directory, &sink, &[sync, "send.max_in_flight=1"]).await;
        let status = daemon.until("sent", |status| number(status, "/ledger/held/records") == 0).await;
        assert_eq!(number(&status, "/ledger/recovered/records"), 1234);
        assert_eq!(number(&status, "/ledger/recovered/bytes"), 1234 * BYTES as u64);
        assert_eq!(number(&status, "/ledger/delivered/records"), 1234);
        balanced(&daemon.get("/metrics").await.1);
        assert!(daemon.stop().await.status.success());
        assert!(delivered(&sink).await == lines(1234, BYTES), "{sync}");
    }
}

// R-K2
#[tokio::test]
async fn what_is_left_at_the_drain_deadline_waits_in_the_spool_and_is_no_failure() {
    let sink = Sink::start(Options::default()).await;
    sink.local.set_down(true).await.unwrap();
    let daemon = start(directory(), &sink, &["shutdown.drain=50ms"]).await;
    write_until_acknowledged(&daemon, &lines(500, BYTES), 500).await;
    let (ended, directory) = daemon.stop_and_leave().await;
    assert!(ended.status.success(), "{:#?}", ended.log);
    let last = ended.said("Stopped.")[0];
    let figures = ["/received", "/spooled", "/dropped", "/delivered"].map(|path| number(last, path));
    assert_eq!(figures, [500, 500, 0, 0], "{last}");
    sink.local.set_down(false).await.unwrap();
    let daemon = start(directory, &sink, &[]).await;
    daemon.until("sent", |status| number(status, "/ledger/delivered/records") == 500).await;
    let (ended, directory) = daemon.stop_and_leave().await;
    assert_eq!(number(ended.said("Stopped.")[0], "/recovered"), 500);
    // What was settled before a clean stop is not sent again.
    let daemon = start(directory, &sink, &[]).await;
    assert_eq!(number(&daemon.status().await, "/ledger/recovered/records"), 0);
    assert!(daemon.stop().await.status.success());
    assert!(delivered(&sink).await == lines(500, BYTES));
}

// R-K3, R-P16, R-P19
#[tokio::test]
async fn many_times_the_memory_waits_on_the_disk_and_is_sent_in_order() {
    const MIB: u64 = 1 << 20;
    // The long form: SPOOL_MIB=1024.
    let mib = std::env::var("SPOOL_MIB").map_or(96, |mib| mib.parse().unwrap());
    let records = usize::try_from(mib * MIB / 1000).unwrap();
    let sink = Sink::start(Options::default()).await;
    sink.local.set_down(true).await.unwrap();
    let disk = format!("buffer.disk={}MiB", mib + 64);
    let daemon =
        start(directory(), &sink, &["buffer.memory=8MiB", &disk, "buffer.sync=os", "send.max_in_flight=1"])
            .await;
    let stream = daemon.connect().await;
    let (read, mut write) = stream.into_split();
    let writing = tokio::spawn(async move {
        for number in 0..records {
            write.write_all(&line(number, 1000)).await.unwrap();
        }
        write
    });
    let mut counts = BufReader::new(read).lines();
    let all = async { while counts.next_line().await.unwrap().unwrap() != records.to_string() {} };
    patiently("durable", all).await;
    let status = daemon.status().await;
    assert!(number(&status, "/spool/bytes") > records as u64 * 1000, "{status:#}");
    balanced(&daemon.get("/metrics").await.1);
    sink.local.set_down(false).await.unwrap();
    daemon.until_settled(records as u64).await;
    assert!(daemon.peak_memory() <= 8 * MIB + 16 * MIB, "{} MiB", daemon.peak_memory() / MIB);
    let given_back = |status: &serde_json::Value| {
        number(status, "/spool/bytes") < 16 * MIB && number(status, "/spool/held/records") == 0
    };
    daemon.until("given back", given_back).await;
    drop(writing.await.unwrap());
    assert!(daemon.stop().await.status.success());
    assert!(delivered(&sink).await == lines(records, 1000), "not what was written, or in another order");
}

// R-K4
#[tokio::test]
async fn a_second_daemon_on_a_spool_is_told_so_and_harms_nothing() {
    let sink = Sink::start(Options::default()).await;
    let daemon = start(directory(), &sink, &[]).await;
    let spool = daemon.directory.path().join("spool");
    let other = directory();
    let said = refused(other.path(), &spool).await;
    assert!(said.contains("locked by another hydrant"), "{said}");
    write_until_acknowledged(&daemon, &lines(10, BYTES), 10).await;
    assert!(daemon.stop().await.status.success());
    assert!(delivered(&sink).await == lines(10, BYTES));
}

/// Ends the service; what was delivered, its objects in the order of the lines that they begin with.
async fn delivered(sink: &Sink) -> Vec<u8> {
    let mut objects = sink.objects().await;
    objects.sort_by_key(|object| {
        let line: serde_json::Value =
            serde_json::Deserializer::from_slice(object).into_iter().next().unwrap().unwrap();
        line["number"].as_u64()
    });
    objects.concat()
}

/// What a daemon on `spool`, which must not start, says.
async fn refused(directory: &Path, spool: &Path) -> String {
    let mut command = hydrant();
    command.args(["run", "--set", "delivery_stream_name=app"]);
    command.arg("--set").arg(format!("listen.app.address=unix:{}/other.sock", directory.display()));
    command.arg("--set").arg(format!("buffer.directory={}", spool.display()));
    let output = patiently("refused", command.output()).await.unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("`buffer.directory`"), "{said}");
    said
}

/// Everything in a directory, by name.
fn files(directory: &Path) -> Vec<(std::ffi::OsString, Vec<u8>)> {
    let mut files: Vec<_> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.file_name(), std::fs::read(entry.path()).unwrap()))
        .collect();
    files.sort();
    files
}

// R-K5
#[tokio::test]
async fn a_spool_of_a_newer_version_is_refused_and_left_alone() {
    let sink = Sink::start(Options::default()).await;
    sink.local.set_down(true).await.unwrap();
    let daemon = start(directory(), &sink, &[]).await;
    write_until_acknowledged(&daemon, &lines(10, BYTES), 10).await;
    let directory = daemon.kill().await;
    let spool = directory.path().join("spool");
    let segment = std::fs::read_dir(&spool)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.extension().is_some_and(|extension| extension == "segment"))
        .unwrap();
    let mut bytes = std::fs::read(&segment).unwrap();
    bytes[8..12].copy_from_slice(&2_u32.to_le_bytes());
    let crc = crc32c::crc32c(&bytes[..12]);
    bytes[12..16].copy_from_slice(&crc.to_le_bytes());
    std::fs::write(&segment, &bytes).unwrap();
    let before = files(&spool);
    let said = refused(directory.path(), &spool).await;
    assert!(said.contains("version 2") && said.contains("another directory"), "{said}");
    assert_eq!(files(&spool), before);
}

// R-K6
#[tokio::test]
async fn a_damaged_spool_starts_says_so_once_and_delivers_the_rest() {
    let sink = Sink::start(Options::default()).await;
    sink.local.set_down(true).await.unwrap();
    let daemon = start(directory(), &sink, &[]).await;
    for number in 0..10 {
        write_until_acknowledged(&daemon, &line(number, BYTES), 1).await;
    }
    let directory = daemon.kill().await;
    let spool = directory.path().join("spool");
    let (name, mut bytes) =
        files(&spool).into_iter().find(|(name, _)| name.to_string_lossy().ends_with(".segment")).unwrap();
    let third = bytes.windows(12).position(|window| window == b"{\"number\":3,").unwrap();
    bytes[third + 20] ^= 1;
    std::fs::write(spool.join(&name), &bytes).unwrap();
    sink.local.set_down(false).await.unwrap();
    let daemon = start(directory, &sink, &[]).await;
    daemon.until("sent", |status| number(status, "/ledger/delivered/records") == 9).await;
    let status = daemon.status().await;
    assert_eq!(number(&status, "/spool/lost_records"), 1);
    assert!(number(&status, "/spool/damaged_bytes") >= BYTES as u64);
    let (ended, directory) = daemon.stop_and_leave().await;
    assert_eq!(
        ended.said("A stretch of the spool is damaged: it was set aside, and the rest is delivered.").len(),
        1
    );
    let copies = files(&spool).into_iter().filter(|(name, _)| name.to_string_lossy().ends_with(".corrupt"));
    assert_eq!(copies.count(), 1);
    let daemon = start(directory, &sink, &[]).await;
    assert_eq!(number(&daemon.status().await, "/ledger/recovered/records"), 0);
    let ended = daemon.stop().await;
    assert!(
        ended
            .said("A stretch of the spool is damaged: it was set aside, and the rest is delivered.")
            .is_empty()
    );
    let expected: Vec<u8> =
        (0..10).filter(|number| *number != 3).flat_map(|number| line(number, BYTES)).collect();
    assert!(sink.delivered().await == expected);
}

// R-K7
#[tokio::test]
async fn a_full_spool_holds_producers_back_until_the_stream_takes_again() {
    let sink = Sink::start(Options::default()).await;
    sink.local.set_down(true).await.unwrap();
    let settings = ["buffer.memory=1MiB", "buffer.disk=4MiB", "buffer.sync=os", "send.max_in_flight=1"];
    let daemon = start(directory(), &sink, &settings).await;
    let writing = write_and_listen(&daemon, 100_000).await;
    let status = daemon.until("full", |status| status["spool"]["condition"] == "full").await;
    assert!(number(&status, "/spool/bytes") <= 4 << 20);
    daemon.until_still().await;
    assert!(!writing.is_finished());
    sink.local.set_down(false).await.unwrap();
    daemon.until_settled(100_000).await;
    let counts = patiently("acknowledged", writing).await.unwrap();
    assert_eq!(counts.lines().last(), Some("100000"));
    assert!(daemon.stop().await.status.success());
    assert!(delivered(&sink).await == lines(100_000, BYTES));
}

// R-K7
#[tokio::test]
async fn a_full_spool_drops_what_the_policy_says_and_counts_it() {
    for policy in ["drop-newest", "drop-oldest"] {
        let sink = Sink::start(Options::default()).await;
        sink.local.set_down(true).await.unwrap();
        let on_full = format!("buffer.on_full={policy}");
        let settings =
            ["buffer.memory=1MiB", "buffer.disk=4MiB", "buffer.sync=os", &on_full, "listen.app.acks=off"];
        let daemon = start(directory(), &sink, &settings).await;
        // In parts that memory has room for: it is to be the disk that is full.
        for (part, until) in lines(100_000, BYTES).chunks(1_000 * BYTES).zip((1_000..).step_by(1_000)) {
            daemon.write(part).await;
            let all = |status: &serde_json::Value| {
                let ledger = &status["ledger"];
                ledger["received"]["records"] == until && status["connections"] == 0
            };
            daemon.until("in", all).await;
        }
        daemon.until_still().await;
        let status = daemon.status().await;
        let dropped = number(&status, "/ledger/dropped/buffer_full/records");
        assert!(dropped > 10_000, "{policy}: {status:#}");
        sink.local.set_down(false).await.unwrap();
        let status = daemon.until_settled(100_000).await;
        let dropped = number(&status, "/ledger/dropped/buffer_full/records");
        balanced(&daemon.get("/metrics").await.1);
        assert!(daemon.stop().await.status.success());
        let delivered = sink.lines().await;
        assert_eq!(delivered.len() as u64 + dropped, 100_000, "{policy}");
        assert!(delivered.values().all(|times| *times == 1));
        let kept = |number| delivered.contains_key(&line(number, BYTES)[..BYTES - 1]);
        // The one keeps the beginning, the other the end.
        assert_eq!([kept(0), kept(99_999)], [policy == "drop-newest", policy == "drop-oldest"], "{policy}");
    }
}

/// A file system of `size` in `directory` that only the command sees, as far as this system lets us.
fn in_small_file_system(directory: &Path, size: &str) -> tokio::process::Command {
    let mut command = tokio::process::Command::new("unshare");
    let script = format!("mount -t tmpfs -o size={size},mode=700 spool \"$0\" && exec \"$@\"");
    command.args(["--user", "--map-root-user", "--mount", "sh", "-c", &script]);
    command.arg(directory).arg(env!("CARGO_BIN_EXE_hydrant"));
    crate::daemon::alone(command)
}

/// Whether `command` can be run; otherwise the test is skipped, which is an error where peers are
/// required, unless it is there and the system does not permit what it does.
fn can(command: &[&str]) -> bool {
    let why = match std::process::Command::new(command[0]).args(&command[1..]).output() {
        Ok(output) if output.status.success() => return true,
        Ok(output) => String::from_utf8_lossy(&output.stderr).into_owned(),
        Err(error) => error.to_string(),
    };
    let denied = why.contains("not permitted") || why.contains("ermission denied");
    assert!(denied || std::env::var_os("REQUIRE_PEERS").is_none(), "`{}`: {why}", command.join(" "));
    eprintln!("skipped: `{}`: {why}", command.join(" "));
    false
}

// R-K10
#[tokio::test]
async fn a_file_system_that_is_full_holds_producers_back_until_there_is_room() {
    if !can(&[
        "unshare",
        "--user",
        "--map-root-user",
        "--mount",
        "mount",
        "-t",
        "tmpfs",
        "-o",
        "size=1m",
        "t",
        "/mnt",
    ]) {
        return;
    }
    let sink = Sink::start(Options::default()).await;
    sink.local.set_down(true).await.unwrap();
    let directory = directory();
    let spool = directory.path().join("spool");
    std::fs::create_dir(&spool).unwrap();
    let settings = [
        format!("listen.app.address=unix:{}/app.sock", directory.path().display()),
        format!("endpoint_url={}", sink.local.url()),
        format!("buffer.directory={}", spool.display()),
        "listen.app.acks=durable".to_owned(),
        "retry.max_delay=100ms".to_owned(),
        "send.max_in_flight=1".to_owned(),
        "buffer.memory=1MiB".to_owned(),
        "buffer.disk=64MiB".to_owned(),
    ];
    let command = in_small_file_system(&spool, "12m");
    let mut daemon = Daemon::run(command, directory, settings.iter().map(String::as_str)).await;
    let writing = write_and_listen(&daemon, 300_000).await;
    let line = daemon.until_said("The spool is full: producers wait.").await;
    assert!(line["error"].as_str().unwrap().contains("gives the spool no room"), "{line}");
    let status = daemon.until("full", |status| status["spool"]["condition"] == "disk_full").await;
    assert_eq!(
        (&status["stuck"]["level"], &status["ready"]),
        (&"problem".into(), &true.into()),
        "{status:#}"
    );
    sink.local.set_down(false).await.unwrap();
    daemon.until_settled(300_000).await;
    let counts = patiently("acknowledged", writing).await.unwrap();
    assert_eq!(counts.lines().last(), Some("300000"));
    assert!(daemon.stop().await.status.success());
    assert!(delivered(&sink).await == lines(300_000, BYTES));
}

// R-K9
#[tokio::test]
async fn a_disk_that_fails_ends_the_taking_and_the_daemon_says_so() {
    if !can(&["strace", "-f", "-e", "trace=fdatasync", "-e", "inject=fdatasync:error=EIO", "true"]) {
        return;
    }
    let sink = Sink::start(Options::default()).await;
    let directory = directory();
    let settings = [
        format!("listen.app.address=unix:{}/app.sock", directory.path().display()),
        format!("endpoint_url={}", sink.local.url()),
        format!("buffer.directory={}/spool", directory.path().display()),
        "listen.app.acks=durable".to_owned(),
    ];
    let mut command = tokio::process::Command::new("strace");
    // The watermark and two groups of records are synced, the third is not.
    command.args(["-D", "-f", "-q", "-o", "/dev/null", "-e", "trace=fdatasync", "-e"]);
    command.args(["inject=fdatasync:error=EIO:when=4+", env!("CARGO_BIN_EXE_hydrant")]);
    let command = crate::daemon::alone(command);
    let mut daemon = Daemon::run(command, directory, settings.iter().map(String::as_str)).await;
    let mut stream = BufReader::new(daemon.connect().await);
    let mut acknowledged = 0;
    // One record a time, so that each has a sync of its own.
    loop {
        stream.write_all(&line(acknowledged, BYTES)).await.unwrap();
        let mut count = String::new();
        tokio::select! {
            read = stream.read_line(&mut count) => { read.unwrap(); acknowledged += 1; }
            _ = daemon.until("failed", |status| status["spool"]["condition"] == "failed") => break,
        }
        assert_eq!(count, format!("{acknowledged}\n"));
    }
    let message =
        "The spool has failed: nothing more is taken or called durable; restart hydrant once the disk works.";
    assert_eq!(daemon.until_said(message).await["level"], "ERROR");
    let (code, body) = daemon.get("/readyz").await;
    assert_eq!(code, 503);
    assert!(body.contains("disk has failed"), "{body}");
    assert_eq!(daemon.get("/livez").await.0, 200);
    // The one that was read and is not durable is sent all the same; the next is not even read.
    daemon
        .until("sent", |status| number(status, "/ledger/delivered/records") == acknowledged as u64 + 1)
        .await;
    stream.write_all(&line(99, BYTES)).await.unwrap();
    let status = daemon.until_still().await;
    assert_eq!(number(&status, "/ledger/received/records"), acknowledged as u64 + 1);
    let ended = daemon.stop().await;
    assert!(ended.status.success(), "{:#?}", ended.log);
    let expected: Vec<u8> = (0..=acknowledged).flat_map(|number| line(number, BYTES)).collect();
    assert!(sink.delivered().await == expected);
}
