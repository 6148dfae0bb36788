//! Starts daemons and looks at them from outside.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use hydrant::local::{Local, Options};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpStream, UnixStream};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::watch;

/// The stream that every test delivers to.
pub const STREAM: &str = "app";
/// Longest that anything is waited for: only a failure takes this long.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// What `future` gives, within [`PATIENCE`].
pub async fn patiently<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("never {what}"))
}

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
            streams: [vec![STREAM.to_owned()], options.streams].concat(),
            ..options
        };
        Self { local: Local::start(options).await.unwrap(), directory }
    }

    /// Ends the service; the delivered bytes of every object, in the order of their names.
    pub async fn delivered(&self) -> Vec<u8> {
        self.objects().await.concat()
    }

    /// Ends the service; the delivered objects, in the order of their names, which of those begun
    /// within one second is by chance.
    pub async fn objects(&self) -> Vec<Vec<u8>> {
        self.local.stop().await.unwrap();
        let mut files = Vec::new();
        collect(self.directory.path(), &mut files);
        files.sort();
        files.iter().map(|file| std::fs::read(file).unwrap()).collect()
    }

    /// Ends the service; the delivered bytes of one stream.
    pub async fn delivered_to(&self, stream: &str) -> Vec<u8> {
        self.local.stop().await.unwrap();
        let (mut files, directory) = (Vec::new(), self.directory.path().join(stream));
        if directory.exists() {
            collect(&directory, &mut files);
        }
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
    /// Everything that was said, read as it comes so that the daemon never waits for its log;
    /// closed when the daemon has ended.
    log: watch::Receiver<Vec<Value>>,
    /// Lines of the log that [`Daemon::until_said`] is past.
    heard: usize,
    /// The admin listener's address, as it is configured.
    pub admin: String,
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
    alone(Command::new(env!("CARGO_BIN_EXE_hydrant")))
}

/// The command in a process that may have no more than `files` files open.
pub fn hydrant_with_files(files: usize) -> Command {
    let mut command = Command::new("sh");
    command.arg("-c").arg(format!("ulimit -n {files}; exec \"$0\" \"$@\""));
    command.arg(env!("CARGO_BIN_EXE_hydrant"));
    alone(command)
}

/// The key that every daemon signs with.
pub const SECRET_KEY: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";

/// `command` with an environment of its own.
pub fn alone(mut command: Command) -> Command {
    command.env_clear();
    command.envs([
        ("PATH", std::env::var("PATH").unwrap_or_default().as_str()),
        ("AWS_REGION", "us-east-1"),
        ("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE"),
        ("AWS_SECRET_ACCESS_KEY", SECRET_KEY),
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
        Self::run(hydrant(), directory, settings).await
    }

    /// As [`Daemon::start_in`], by a command that was made ready.
    pub async fn run<'a>(
        mut command: Command,
        directory: TempDir,
        settings: impl IntoIterator<Item = &'a str>,
    ) -> Self {
        command.args(["run", "--set", "admin.address=tcp:127.0.0.1:0"]);
        command.arg("--set").arg(format!("delivery_stream_name={STREAM}"));
        // What fails and what is counted is then a record, however soon the stream is described.
        command.args(["--set", "aggregate.mode=off"]);
        for setting in settings {
            command.arg("--set").arg(setting);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let (said, log) = watch::channel(Vec::new());
        tokio::spawn(async move {
            while let Some(line) = lines.next_line().await.unwrap() {
                let line = serde_json::from_str(&line).unwrap_or(Value::String(line));
                said.send_modify(|lines: &mut Vec<Value>| lines.push(line));
            }
        });
        let stdin = child.stdin.take();
        let mut daemon = Self { child, directory, stdin, log, heard: 0, admin: String::new() };
        let line = daemon.until_said("Admin listening.").await;
        daemon.admin = line["address"].as_str().unwrap().to_owned();
        daemon
    }

    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("app.sock")
    }

    pub async fn connect(&self) -> UnixStream {
        UnixStream::connect(self.socket()).await.unwrap()
    }

    /// A connection to the TCP listener called `name`.
    pub async fn connect_tcp(&self, name: &str) -> TcpStream {
        let status = self.status().await;
        let listeners = status["listeners"].as_array().unwrap();
        let listener = listeners.iter().find(|listener| listener["name"] == name).unwrap();
        let address = listener["address"].as_str().unwrap().trim_start_matches("tcp:");
        TcpStream::connect(address).await.unwrap()
    }

    /// Writes `bytes` on a connection of their own and closes it.
    pub async fn write(&self, bytes: &[u8]) {
        let mut stream = self.connect().await;
        stream.write_all(bytes).await.unwrap();
        stream.shutdown().await.unwrap();
    }

    /// The next log line with this message.
    pub async fn until_said(&mut self, message: &str) -> Value {
        let heard = self.heard;
        let new = |log: &Vec<Value>| log.iter().skip(heard).position(|line| line["message"] == message);
        let said = async { self.log.wait_for(|log| new(log).is_some()).await.map(drop) };
        let said = tokio::time::timeout(PATIENCE, said).await;
        let log = self.log.borrow();
        match said {
            Ok(Ok(())) => {}
            Ok(Err(_)) => panic!("ended without saying {message:?}; said: {:#?}", *log),
            Err(_) => panic!("never said {message:?}; said: {:#?}", *log),
        }
        self.heard += new(&log).unwrap() + 1;
        log[self.heard - 1].clone()
    }

    /// Everything that was said so far.
    pub fn log(&self) -> Vec<Value> {
        self.log.borrow().clone()
    }

    /// How often this message was said so far.
    pub fn said(&self, message: &str) -> usize {
        self.log.borrow().iter().filter(|line| line["message"] == message).count()
    }

    /// Body and status code of a GET of the admin listener.
    pub async fn get(&self, path: &str) -> (u16, String) {
        self.get_with(path, "").await
    }

    /// As [`Daemon::get`], with `headers`, each of which ends with CRLF.
    pub async fn get_with(&self, path: &str, headers: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.admin.trim_start_matches("tcp:")).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n{headers}\r\n");
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

    /// Kills it without warning; returns its directory, for the next.
    pub async fn kill(mut self) -> TempDir {
        self.child.kill().await.unwrap();
        self.directory
    }

    /// Sends SIGTERM, waits for the end, and returns the directory, too, for the next.
    pub async fn stop_and_leave(mut self) -> (Ended, TempDir) {
        let directory = std::mem::replace(&mut self.directory, tempfile::tempdir().unwrap());
        (self.stop().await, directory)
    }

    /// Waits for the end.
    pub async fn ended(mut self) -> Ended {
        let end = async {
            while self.log.changed().await.is_ok() {}
            self.child.wait().await.unwrap()
        };
        let status = match tokio::time::timeout(PATIENCE, end).await {
            Ok(status) => status,
            Err(_) => panic!("did not end; said: {:#?}", *self.log.borrow()),
        };
        let log = self.log.borrow().clone();
        Ended { status, log }
    }

    /// The sum of the samples of the metric called `name`, with or without labels.
    pub async fn metric(&self, name: &str) -> u64 {
        sum(&self.get("/metrics").await.1, name)
    }

    /// Waits until nothing comes in any more: producers have sent all, or are held back.
    pub async fn until_still(&self) -> Value {
        let (mut last, mut looks) = (Value::Null, 0);
        let mut pace = tokio::time::interval(Duration::from_millis(5));
        while looks < 20 {
            pace.tick().await;
            let status = self.status().await;
            let still = status["ledger"]["received"] == last["ledger"]["received"];
            looks = if still { looks + 1 } else { 0 };
            last = status;
        }
        last
    }

    /// The most memory that was resident at any moment, in bytes, without the pages of the program
    /// itself: those of a debug build are twice as many as those of a release.
    pub fn peak_memory(&self) -> u64 {
        let path = format!("/proc/{}/status", self.child.id().unwrap());
        let status = std::fs::read_to_string(path).unwrap();
        let kib = |name: &str| -> u64 {
            let line = status.lines().find(|line| line.starts_with(name)).unwrap();
            line.split_whitespace().nth(1).unwrap().parse().unwrap()
        };
        1024 * (kib("VmHWM:") - kib("RssFile:"))
    }
}

/// A number of the status or of a log line, by its path.
pub fn number(value: &Value, path: &str) -> u64 {
    value.pointer(path).and_then(Value::as_u64).unwrap_or_else(|| panic!("no number {path} in {value:#}"))
}

fn sum(metrics: &str, name: &str) -> u64 {
    let samples = metrics.lines().filter_map(|line| {
        let labels = line.strip_prefix(name)?;
        labels.starts_with(['{', ' ']).then(|| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap())
    });
    samples.sum()
}

/// Both sides of the ledger equation from the text of `/metrics`.
pub fn balance(metrics: &str) -> (u64, u64) {
    let taken = ["received_total", "recovered_total"];
    let accounted = ["delivered_total", "dead_lettered_total", "dropped_total", "held"];
    let side = |columns: &[&str]| {
        columns.iter().map(|column| sum(metrics, &format!("hydrant_records_{column}"))).sum()
    };
    (side(&taken), side(&accounted))
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

/// Lets this process, and the daemons that it starts, have as many files open as the system allows.
pub fn many_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
}
