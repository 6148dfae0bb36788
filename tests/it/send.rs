//! `hydrant send` across connections that break: nothing is lost, and only what was not acknowledged
//! is sent again.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hydrant::local::Options;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::{UnixListener, UnixStream};
use tokio::process::{Child, ChildStderr, ChildStdin};

use crate::daemon::{Daemon, Sink, hydrant, line, lines, patiently};

const BYTES: usize = 100;

/// A running `hydrant send` with a pipe to its standard input.
struct Send {
    child: Child,
    stdin: Option<ChildStdin>,
    said: Lines<BufReader<ChildStderr>>,
}

impl Send {
    fn start(to: &Path, arguments: &[&str]) -> Self {
        let mut command = hydrant();
        command.args(["send", "--to", &format!("unix:{}", to.display())]).args(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let said = BufReader::new(child.stderr.take().unwrap()).lines();
        Self { stdin: child.stdin.take(), child, said }
    }

    async fn write(&mut self, bytes: &[u8]) {
        self.stdin.as_mut().unwrap().write_all(bytes).await.unwrap();
    }

    /// Waits until it says that the connection broke.
    async fn until_broken(&mut self) {
        let note = patiently("told of a broken connection", self.said.next_line()).await.unwrap().unwrap();
        assert!(note.contains("broke off") && note.contains("are sent again"), "{note}");
    }

    /// Ends its input; returns the exit code, standard output and what is left of standard error.
    async fn ended(mut self) -> (i32, String, String) {
        drop(self.stdin.take());
        let mut said = String::new();
        while let Some(line) = patiently("ended", self.said.next_line()).await.unwrap() {
            said += &line;
        }
        let output = patiently("ended", self.child.wait_with_output()).await.unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap(), said)
    }
}

/// A daemon with `settings` at a socket that others may take after it.
async fn daemon_at(socket: &Path, sink: &Sink, settings: &[&str]) -> Daemon {
    let address = format!("listen.app.address=unix:{}", socket.display());
    let endpoint = format!("endpoint_url={}", sink.local.url());
    let own = ["linger=10ms", "retry.base_delay=10ms", "retry.max_delay=50ms", &address, &endpoint];
    Daemon::start_in(tempfile::tempdir().unwrap(), own.into_iter().chain(settings.iter().copied())).await
}

fn place() -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("app.sock");
    (directory, socket)
}

/// How often each of the first `records` lines arrived, and that nothing else did.
async fn arrived(sink: &Sink, records: usize) -> Vec<usize> {
    let mut delivered = sink.lines().await;
    let times = (0..records).map(|number| delivered.remove(&line(number, BYTES)[..BYTES - 1]).unwrap_or(0));
    let times = times.collect();
    assert!(delivered.is_empty(), "{} lines that nobody sent", delivered.len());
    times
}

// R-T8
#[tokio::test]
async fn killing_the_daemon_in_mid_send_loses_nothing() {
    let sink = Sink::start(Options::default()).await;
    let (_directory, socket) = place();
    let daemon = daemon_at(&socket, &sink, &["listen.app.acks=delivered"]).await;
    let mut send = Send::start(&socket, &[]);
    let all = lines(6000, BYTES);
    let (delivered, rest) = all.split_at(2000 * BYTES);
    let (lost, rest) = rest.split_at(2000 * BYTES);
    send.write(delivered).await;
    daemon.until_settled(2000).await;
    // What comes now dies with the daemon.
    sink.local.set_down(true).await.unwrap();
    send.write(lost).await;
    daemon.until("held", |status| status["ledger"]["held"]["records"] == 2000).await;
    daemon.signal("KILL");
    drop(daemon.ended().await);
    send.until_broken().await;
    // Nobody listens while the next daemon starts.
    sink.local.set_down(false).await.unwrap();
    let daemon = daemon_at(&socket, &sink, &["listen.app.acks=delivered"]).await;
    send.write(rest).await;
    let (code, stdout, stderr) = send.ended().await;
    assert_eq!((code, &*stdout), (0, "6000 of 6000 records acknowledged\n"), "{stderr}");
    assert!(daemon.stop().await.status.success());
    let times = arrived(&sink, 6000).await;
    assert!(times.iter().all(|times| *times > 0), "lost: {:?}", times.iter().position(|times| *times == 0));
}

// R-T8
#[tokio::test]
async fn stopping_the_daemon_in_mid_send_repeats_nothing() {
    let sink = Sink::start(Options::default()).await;
    let (_directory, socket) = place();
    let mut daemon = daemon_at(&socket, &sink, &["listen.app.acks=delivered"]).await;
    let mut send = Send::start(&socket, &[]);
    let mut stdin = send.stdin.take().unwrap();
    let enough = Arc::new(AtomicBool::new(false));
    let told = enough.clone();
    // Written until both daemons were stopped, so that neither can have had the last of it.
    let writing = tokio::spawn(async move {
        let mut pace = tokio::time::interval(Duration::from_millis(1));
        let mut written = 0;
        while !told.load(Ordering::Relaxed) {
            pace.tick().await;
            let piece: Vec<u8> = (written..written + 20).flat_map(|number| line(number, BYTES)).collect();
            stdin.write_all(&piece).await.unwrap();
            written += 20;
        }
        written
    });
    for _ in 0..2 {
        daemon.until("flowing", |status| status["ledger"]["delivered"]["records"].as_u64() > Some(0)).await;
        assert!(daemon.stop().await.status.success());
        daemon = daemon_at(&socket, &sink, &["listen.app.acks=delivered"]).await;
    }
    enough.store(true, Ordering::Relaxed);
    let written = patiently("written", writing).await.unwrap();
    let (code, stdout, stderr) = send.ended().await;
    assert_eq!((code, stdout), (0, format!("{written} of {written} records acknowledged\n")), "{stderr}");
    assert!(daemon.stop().await.status.success());
    assert_eq!(arrived(&sink, written).await, vec![1; written]);
}

/// Reads `expected` from `stream`.
async fn expect(stream: &mut UnixStream, expected: &[u8]) {
    let mut found = vec![0; expected.len()];
    patiently("read", stream.read_exact(&mut found)).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&found), String::from_utf8_lossy(expected));
}

// R-T8
#[tokio::test]
async fn exactly_what_was_not_acknowledged_is_sent_again() {
    let (_directory, socket) = place();
    let listener = UnixListener::bind(&socket).unwrap();
    let mut send = Send::start(&socket, &[]);
    let all = lines(10, BYTES);
    send.write(&all).await;
    // 4 of 10, then 1 of 6, then the rest; the counts begin anew with each connection.
    for (first, count) in [(0, 4), (4, 1), (5, 5)] {
        let (mut stream, _) = patiently("connected", listener.accept()).await.unwrap();
        expect(&mut stream, &all[first * BYTES..]).await;
        stream.write_all(format!("{count}\n").as_bytes()).await.unwrap();
        if first + count < 10 {
            drop(stream);
            send.until_broken().await;
            continue;
        }
        // Idle is no reason to end; more input is.
        send.write(b"last\n").await;
        expect(&mut stream, b"last\n").await;
        stream.write_all(b"6\n").await.unwrap();
    }
    let (code, stdout, stderr) = send.ended().await;
    assert_eq!((code, &*stdout), (0, "11 of 11 records acknowledged\n"), "{stderr}");
}

// R-T9
#[tokio::test]
async fn a_daemon_that_acknowledges_nothing_makes_send_hold_no_more_than_its_window() {
    const WINDOW: usize = 8 << 20;
    let (_directory, socket) = place();
    let listener = UnixListener::bind(&socket).unwrap();
    let mut send = Send::start(&socket, &["--timeout", "1s"]);
    let mut stdin = send.stdin.take().unwrap();
    let (mut stream, _) = patiently("connected", listener.accept()).await.unwrap();
    let reading = tokio::spawn(async move {
        let mut taken = Vec::new();
        stream.read_to_end(&mut taken).await.map(|_| taken.len())
    });
    let line = line(0, 1000);
    let mut given = 0;
    while let Ok(taken) = stdin.write(&line).await {
        given += taken;
    }
    let (code, _, stderr) = send.ended().await;
    assert!(code == 1 && stderr.contains("which acknowledged none: set `acks`"), "{code} {stderr}");
    let taken = patiently("ended", reading).await.unwrap().unwrap();
    // Beside the window: a piece that was read at once, and what the pipe holds.
    let most = WINDOW + (64 << 10) + line.len();
    assert!((WINDOW..=most).contains(&taken), "{taken} bytes were read of the pipe and sent");
    assert!(given <= most + (64 << 10), "{given} bytes were put into the pipe");
}

// R-T8
#[tokio::test]
async fn send_gives_up_when_nobody_listens_again() {
    let (_directory, socket) = place();
    let listener = UnixListener::bind(&socket).unwrap();
    let mut send = Send::start(&socket, &["--timeout", "500ms"]);
    send.write(b"one\ntwo\nthree\n").await;
    let (mut stream, _) = patiently("connected", listener.accept()).await.unwrap();
    expect(&mut stream, b"one\ntwo\nthree\n").await;
    stream.write_all(b"1\n").await.unwrap();
    drop((stream, listener));
    send.until_broken().await;
    let (code, stdout, stderr) = send.ended().await;
    assert_eq!((code, &*stdout), (1, ""), "{stderr}");
    assert!(stderr.contains("could not be connected to again"), "{stderr}");
    assert!(stderr.contains("within 500ms; it acknowledged 1 of 3 records"), "{stderr}");
}

// R-T9
#[tokio::test]
async fn a_line_that_no_listener_takes_is_named_and_the_others_are_sent() {
    let (_directory, socket) = place();
    let listener = UnixListener::bind(&socket).unwrap();
    let mut send = Send::start(&socket, &[]);
    send.write(&[b"one\n", &vec![b'x'; 1_024_001][..], b"\ntwo\n"].concat()).await;
    let (mut stream, _) = patiently("connected", listener.accept()).await.unwrap();
    expect(&mut stream, b"one\ntwo\n").await;
    stream.write_all(b"2\n").await.unwrap();
    let (code, stdout, stderr) = send.ended().await;
    assert_eq!((code, &*stdout), (1, ""), "{stderr}");
    assert!(stderr.contains("2 records were acknowledged and 1 not sent"), "{stderr}");
    assert!(stderr.contains("the first is line 2 of standard input"), "{stderr}");
}

#[tokio::test]
async fn what_is_no_daemon_is_not_believed() {
    for (answer, expected) in [("4\n", "acknowledged more records (4) than"), ("hello\n", "is no count")] {
        let (_directory, socket) = place();
        let listener = UnixListener::bind(&socket).unwrap();
        let mut send = Send::start(&socket, &[]);
        send.write(b"one\ntwo\n").await;
        let (mut stream, _) = patiently("connected", listener.accept()).await.unwrap();
        expect(&mut stream, b"one\ntwo\n").await;
        stream.write_all(answer.as_bytes()).await.unwrap();
        let (code, _, stderr) = send.ended().await;
        assert!(code == 1 && stderr.contains(expected), "{code} {stderr}");
    }
}
