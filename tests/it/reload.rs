//! SIGHUP: a changed configuration is followed without a restart, or changes nothing.

use std::path::{Path, PathBuf};

use hydrant::local::Options;
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

use crate::daemon::{Daemon, STREAM, Sink, hydrant, lines, patiently};

const READ: &str = "The configuration was read again.";
const RESTART: &str = "Restart the daemon to follow what was changed in these keys.";
const REFUSED: &str = "The changed configuration can't be followed: nothing was changed.";

/// A daemon by a file that can be written anew.
struct Configured {
    daemon: Daemon,
    file: PathBuf,
    endpoint: String,
    directory: TempDir,
}

impl Configured {
    async fn start(sink: &Sink, text: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (file, endpoint) = (directory.path().join("hydrant.toml"), sink.local.url().to_owned());
        write(&file, &endpoint, text, directory.path());
        let mut command = hydrant();
        command.env("HYDRANT_CONFIG", &file);
        let daemon = Daemon::run(command, tempfile::tempdir().unwrap(), []).await;
        Self { daemon, file, endpoint, directory }
    }

    /// Writes the file anew, `DIR` standing for the directory of sockets, and asks for it to be read.
    async fn becomes(&mut self, text: &str, said: &str) -> Value {
        write(&self.file, &self.endpoint, text, self.directory.path());
        self.daemon.signal("HUP");
        self.daemon.until_said(said).await
    }

    async fn connect(&self, name: &str) -> UnixStream {
        UnixStream::connect(self.directory.path().join(name)).await.unwrap()
    }
}

fn write(file: &Path, endpoint: &str, text: &str, directory: &Path) {
    let text = text.replace("DIR", directory.to_str().unwrap());
    std::fs::write(file, format!("delivery_stream_name = '{STREAM}'\nendpoint_url = '{endpoint}'\n{text}"))
        .unwrap();
}

async fn send(stream: &mut UnixStream, line: &str) {
    stream.write_all(line.as_bytes()).await.unwrap();
}

// R-U1
#[tokio::test]
async fn listeners_come_and_go_and_open_connections_stay() {
    let sink = Sink::start(Options::default()).await;
    let before = "linger = '5ms'\n[listen.a]\naddress = 'unix:DIR/a'\n[listen.b]\naddress = 'unix:DIR/b'\n";
    let mut configured = Configured::start(&sink, before).await;
    let mut old = configured.connect("a").await;
    send(&mut old, "before\nhalf of ").await;
    configured.daemon.until("in", |status| status["ledger"]["received"]["records"] == 1).await;

    let after = "linger = '5ms'\n[listen.b]\naddress = 'unix:DIR/b'\n[listen.c]\naddress = 'unix:DIR/c'\n";
    let said = configured.becomes(after, READ).await;
    assert_eq!(said["changed"], "listen.a, listen.c");
    let names = |status: &Value| {
        let listeners = status["listeners"].as_array().unwrap();
        listeners.iter().map(|listener| listener["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names(&configured.daemon.status().await), ["b", "c"]);
    // The socket's file goes with the listener, soon after.
    let gone = configured.directory.path().join("a");
    patiently("gone", async {
        while gone.exists() {
            tokio::task::yield_now().await
        }
    })
    .await;

    send(&mut old, "a line\n").await;
    for name in ["b", "c"] {
        let mut stream = configured.connect(name).await;
        send(&mut stream, &format!("by {name}\n")).await;
    }
    configured.daemon.until_settled(4).await;
    assert!(configured.daemon.stop().await.status.success());
    let delivered = sink.lines().await;
    for line in ["before", "half of a line", "by b", "by c"] {
        assert_eq!(delivered.get(line.as_bytes()), Some(&1), "{line}");
    }
}

// R-U2
#[tokio::test]
async fn a_changed_listener_takes_new_connections_by_its_new_keys_and_old_ones_go_on_by_the_old() {
    let sink = Sink::start(Options::default()).await;
    let text = |more: &str| format!("linger = '5ms'\n[listen.a]\naddress = 'unix:DIR/a'\n{more}");
    let mut configured = Configured::start(&sink, &text("")).await;
    let mut old = configured.connect("a").await;
    send(&mut old, "old\n").await;
    configured.daemon.until_settled(1).await;
    let said = configured.becomes(&text("acks = 'delivered'\nmax_record_bytes = 20\n"), READ).await;
    assert_eq!(said["changed"], "listen.a.acks, listen.a.max_record_bytes");

    let new = configured.connect("a").await;
    let (reader, mut writer) = new.into_split();
    writer.write_all(&lines(1, 100)).await.unwrap();
    writer.write_all(b"short\n").await.unwrap();
    let mut told = BufReader::new(reader).lines();
    assert_eq!(patiently("told", told.next_line()).await.unwrap().as_deref(), Some("1"));
    old.write_all(&lines(1, 100)).await.unwrap();
    let status = configured.daemon.until_settled(3).await;
    assert_eq!(status["ledger"]["rejected"]["too_long"]["records"], 1);
    drop((old, writer, told));
    assert!(configured.daemon.stop().await.status.success());
}

// R-P20, R-U2
#[tokio::test]
async fn a_changed_limit_goes_for_those_who_wait_for_the_old_one() {
    let sink = Sink::start(Options::default()).await;
    let text = |more: &str| format!("linger = '5ms'\n[listen.a]\naddress = 'unix:DIR/a'\n{more}");
    let mut configured = Configured::start(&sink, &text("max_bytes_per_second = '1KiB'\n")).await;
    let mut stream = configured.connect("a").await;
    // By the old limit it would take a quarter of an hour.
    let writing = tokio::spawn(async move {
        stream.write_all(&lines(1000, 1000)).await.unwrap();
        stream
    });
    configured.daemon.until("in", |status| status["ledger"]["received"]["records"] == 1).await;
    let said = configured.becomes(&text("max_bytes_per_second = '100MiB'\n"), READ).await;
    assert_eq!(said["changed"], "listen.a.max_bytes_per_second");
    drop(patiently("written", writing).await.unwrap());
    configured.daemon.until_settled(1000).await;
    assert!(configured.daemon.stop().await.status.success());
}

// R-U2
#[tokio::test]
async fn a_changed_secret_is_followed_and_named_and_not_shown() {
    let sink = Sink::start(Options::default()).await;
    let text = |secret: &str| {
        let listener = "[listen.a]\naddress = 'unix:DIR/a'\nprotocol = 'firehose'\naccess_key_id = 'AKID'";
        format!("linger = '5ms'\n{listener}\nsecret_access_key = '{secret}'\n")
    };
    let mut configured = Configured::start(&sink, &text("the-old-secret")).await;
    let said = configured.becomes(&text("the-new-secret"), READ).await;
    assert_eq!(said["changed"], "listen.a.secret_access_key");
    let said = configured.becomes(&text("the-new-secret"), READ).await;
    assert_eq!(said["changed"], "");
    let ended = configured.daemon.stop().await;
    assert!(ended.status.success() && !format!("{:?}", ended.log).contains("-secret"), "{:#?}", ended.log);
}

// R-U3
#[tokio::test]
async fn what_a_running_daemon_can_not_follow_is_named_and_the_rest_is_followed() {
    let sink = Sink::start(Options::default()).await;
    let listener = "[listen.a]\naddress = 'unix:DIR/a'\n";
    let before = format!("linger = '1h'\nlog.level = 'info'\n{listener}");
    let mut configured = Configured::start(&sink, &before).await;
    let mut stream = configured.connect("a").await;
    send(&mut stream, "waits\n").await;
    configured.daemon.until("in", |status| status["ledger"]["received"]["records"] == 1).await;
    // What waits by the old linger leaves by the new one.
    let after = format!(
        "linger = '5ms'\nmax_batch_size = 7\nretry.max_retries = 1\nlog.level = 'warn'\n{listener}mode = '0600'\n"
    );
    let named = configured.becomes(&after, RESTART).await;
    assert_eq!((&named["level"], &named["keys"]), (&"WARN".into(), &"listen.a.mode, max_batch_size".into()));
    configured.daemon.until_settled(1).await;
    let log = configured.daemon.log();
    let read = log.iter().find(|line| line["message"] == READ).unwrap();
    assert_eq!(read["changed"], "linger, log.level, retry.max_retries");
    send(&mut stream, "quiet\n").await;
    configured.daemon.until_settled(2).await;
    drop(stream);
    // It is named as long as it waits.
    configured.becomes(&after, RESTART).await;
    let ended = configured.daemon.stop().await;
    assert!(ended.status.success() && ended.said("Stopped.").is_empty());
}

// R-U4
#[tokio::test]
async fn a_configuration_that_is_wrong_or_can_not_be_taken_changes_nothing() {
    let sink = Sink::start(Options::default()).await;
    let listener = "linger = '5ms'\n[listen.a]\naddress = 'unix:DIR/a'\n";
    let mut configured = Configured::start(&sink, listener).await;
    let mut stream = configured.connect("a").await;
    let taken = configured.directory.path().join("taken");
    let _taken = std::os::unix::net::UnixListener::bind(&taken).unwrap();
    let wrong = [
        ("linger = 'soon'\n".to_owned() + listener.split_once('\n').unwrap().1, "`linger` is \"soon\""),
        ("linger = '1s'\n".to_owned(), "`listen.NAME.address`"),
        (
            "[listen.b]\naddress = 'unix:DIR/b'\n[listen.c]\naddress = 'unix:DIR/taken'\n".to_owned(),
            "`listen.c.address`: unix:",
        ),
        (listener.to_owned() + "[listen.in]\naddress = 'stdin:'\n", "`stdin:` is only there from the start"),
        ("[listen".to_owned(), "hydrant.toml:"),
    ];
    for (text, why) in wrong {
        let said = configured.becomes(&text, REFUSED).await;
        assert!(said["error"].as_str().unwrap().contains(why), "{why} is not in {said}");
        assert_eq!(said["level"], "ERROR");
    }
    assert!(!configured.directory.path().join("b").exists(), "a listener of a refused file is there");
    send(&mut stream, "old connection\n").await;
    send(&mut configured.connect("a").await, "new connection\n").await;
    configured.daemon.until_settled(2).await;
    let ended = configured.daemon.stop().await;
    assert!(ended.status.success() && ended.said(READ).is_empty());
}
