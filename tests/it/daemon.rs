//! Starts daemons and looks at them from outside.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use hydrant::local::{Local, Options};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::{TcpStream, UnixStream};
use tokio::process::{Child, ChildStderr, ChildStdin, Command};

/// The stream that every test delivers to.
pub const STREAM: &str = "app";
/// Longest that anything is waited for: only a failure takes this long.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// An embedded Firehose that delivers below a directory of its own.
pub struct Sink {
    pub local: Local,
    pub directory: TempDir,
}

impl Sink {
    pub async fn start(options: Options) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let options = Options {
            directory: Some(directory.path().to_owned()),
            streams: vec![STREAM.to_owned()],
            ..options
        };
        Self { local: Local::start(options).await.unwrap(), directory }
    }

    /// Ends the service; the delivered bytes of every object, in the order of their names.
    pub async fn delivered(&self) -> Vec<u8> {
        self.local.stop().await.unwrap();
        let mut files = Vec::new();
        collect(self.directory.path(), &mut files);
        files.sort();
        files.iter().flat_map(|file| std::fs::read(file).unwrap()).collect()
    }

    /// How often each line was delivered.
    pub async fn lines(&self) -> HashMap<Vec<u8>, usize> {
        let delivered = self.delivered().await;
        assert!(delivered.is_empty() || delivered.ends_with(b"\n"), "the last record lacks its delimiter");
        let mut lines = HashMap::new();
        for line in delivered.split_inclusive(|byte| *byte == b'\n') {
            *lines.entry(line[..line.len() - 1].to_vec()).or_default() += 1;
        }
        lines
    }
}

fn collect(directory: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { collect(&path, files) } else { files.push(path) }
    }
}

/// A running daemon. Killed when it is dropped.
pub struct Daemon {
    pub child: Child,
    pub directory: TempDir,
    pub stdin: Option<ChildStdin>,
    log: Lines<BufReader<ChildStderr>>,
    admin: String,
    seen: Vec<Value>,
}

/// A daemon as it ended.
pub struct Ended {
    pub status: ExitStatus,
    pub log: Vec<Value>,
}

impl Ended {
    pub fn said(&self, message: &str) -> Vec<&Value> {
        self.log.iter().filter(|line| line["message"] == message).collect()
    }
}

/// The command, with an environment of its own.
pub fn hydrant() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hydrant"));
    command.env_clear();
    command.envs([
        ("PATH", std::env::var("PATH").unwrap_or_default().as_str()),
        ("AWS_REGION", "us-east-1"),
        ("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE"),
        ("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"),
        ("AWS_EC2_METADATA_DISABLED", "true"),
        ("AWS_CONFIG_FILE", "/nonexistent"),
        ("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent"),
    ]);
    command.kill_on_drop(true);
    command
}

impl Daemon {
    /// A daemon with a Unix socket listener named `app` that delivers to `endpoint`.
    pub async fn start(endpoint: &str, settings: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let address = format!("listen.app.address=unix:{}", directory.path().join("app.sock").display());
        let endpoint = format!("endpoint_url={endpoint}");
        let all = [&address, &endpoint].into_iter().map(String::as_str).chain(settings.iter().copied());
        Self::start_in(directory, all).await
    }

    /// A daemon with `settings` and no others but the stream's name and a free admin port.
    pub async fn start_in<'a>(directory: TempDir, settings: impl IntoIterator<Item = &'a str>) -> Self {
        let mut command = hydrant();
        command.args(["run", "--set", "admin.address=tcp:127.0.0.1:0"]);
        command.arg("--set").arg(format!("delivery_stream_name={STREAM}"));
        for setting in settings {
            command.arg("--set").arg(setting);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let log = BufReader::new(child.stderr.take().unwrap()).lines();
        let stdin = child.stdin.take();
        let mut daemon = Self { child, directory, stdin, log, admin: String::new(), seen: Vec::new() };
        let line = daemon.until_said("Admin listening.").await;
        daemon.admin = line["address"].as_str().unwrap().trim_start_matches("tcp:").to_owned();
        daemon
    }

    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("app.sock")
    }

    pub async fn connect(&self) -> UnixStream {
        UnixStream::connect(self.socket()).await.unwrap()
    }

    /// Writes `bytes` on a connection of their own and closes it.
    pub async fn write(&self, bytes: &[u8]) {
        let mut stream = self.connect().await;
        stream.write_all(bytes).await.unwrap();
        stream.shutdown().await.unwrap();
    }

    /// The next log line with this message; lines before it are kept for [`Ended::log`].
    pub async fn until_said(&mut self, message: &str) -> Value {
        let next = async {
            loop {
                let Some(line) = self.log.next_line().await.unwrap() else {
                    panic!("the daemon ended without saying {message:?}; it said: {:#?}", self.seen);
                };
                let line: Value = serde_json::from_str(&line).unwrap_or(Value::String(line));
                self.seen.push(line.clone());
                if line["message"] == message {
                    return line;
                }
            }
        };
        tokio::time::timeout(PATIENCE, next).await.unwrap_or_else(|_| panic!("never said: {message}"))
    }

    /// Body and status code of a GET of the admin listener.
    pub async fn get(&self, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(&self.admin).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut response = String::new();
        stream.read_to_string(&mut response).await.unwrap();
        let (head, body) = response.split_once("\r\n\r\n").unwrap();
        let code = head.split(' ').nth(1).unwrap().parse().unwrap();
        (code, body.to_owned())
    }

    pub async fn status(&self) -> Value {
        serde_json::from_str(&self.get("/status").await.1).unwrap()
    }

    /// Asks for the status until it is as expected.
    pub async fn until(&self, what: &str, expected: impl Fn(&Value) -> bool) -> Value {
        let ask = async {
            // A look every few milliseconds: nothing depends on how many it takes.
            let mut pace = tokio::time::interval(Duration::from_millis(5));
            loop {
                pace.tick().await;
                let status = self.status().await;
                if expected(&status) {
                    return status;
                }
            }
        };
        match tokio::time::timeout(PATIENCE, ask).await {
            Ok(status) => status,
            Err(_) => panic!("never {what}: {:#}", self.status().await),
        }
    }

    /// Waits until `records` are received and nothing is held any more.
    pub async fn until_settled(&self, records: u64) -> Value {
        self.until("settled", |status| {
            let ledger = &status["ledger"];
            ledger["received"]["records"] == records && ledger["held"]["records"] == 0
        })
        .await
    }

    pub fn signal(&self, signal: &str) {
        let pid = self.child.id().unwrap().to_string();
        let done = std::process::Command::new("kill").args([&format!("-{signal}"), &pid]).status().unwrap();
        assert!(done.success());
    }

    /// Sends SIGTERM and waits for the end.
    pub async fn stop(self) -> Ended {
        self.signal("TERM");
        self.ended().await
    }

    /// Waits for the end.
    pub async fn ended(mut self) -> Ended {
        let end = async {
            while let Some(line) = self.log.next_line().await.unwrap() {
                self.seen.push(serde_json::from_str(&line).unwrap_or(Value::String(line)));
            }
            self.child.wait().await.unwrap()
        };
        let status = tokio::time::timeout(PATIENCE, end).await.expect("the daemon did not end");
        Ended { status, log: self.seen }
    }
}

/// Both sides of the ledger equation from the text of `/metrics`.
pub fn balance(metrics: &str) -> (u64, u64) {
    let value = |prefix: &str| -> u64 {
        let lines = metrics.lines().filter(|line| line.starts_with(prefix));
        lines.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum()
    };
    let taken = value("hydrant_records_received_total ") + value("hydrant_records_recovered_total ");
    let accounted = value("hydrant_records_delivered_total ")
        + value("hydrant_records_dead_lettered_total ")
        + value("hydrant_records_dropped_total{")
        + value("hydrant_records_held ");
    (taken, accounted)
}

/// The lines `0..records`, each of `bytes` bytes with its LF.
pub fn lines(records: usize, bytes: usize) -> Vec<u8> {
    let mut all = Vec::with_capacity(records * bytes);
    for number in 0..records {
        all.extend(line(number, bytes));
    }
    all
}

/// Line `number`, of `bytes` bytes with its LF.
pub fn line(number: usize, bytes: usize) -> Vec<u8> {
    let mut line = format!("{{\"number\":{number},\"padding\":\"").into_bytes();
    line.resize(bytes - 3, b'x');
    line.extend(b"\"}\n");
    line
}
