//! The processes of a round, and what the kernel knows of them.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, setrlimit};
use tempfile::TempDir;

use super::Spool;

/// Ticks of the CPU times in `/proc` a second: `USER_HZ`, 100 on every architecture that hydrant
/// is built for (`include/asm-generic/param.h` of Linux).
const TICKS_A_SECOND: f64 = 100.0;
/// How often a subject that ends is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(2);

#[expect(clippy::disallowed_methods, reason = "a benchmark is there to read the clock")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Lifts the limit of open files as far as it goes, for this process and those that it starts.
pub(crate) fn allow_many_files() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })
        .expect("a limit may be lifted to its bound");
}

/// This program once more, in a role. It says one line when it is ready, goes on when its
/// standard input is closed, and says the rest.
pub(crate) struct Helper {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    said: String,
}

impl Helper {
    /// A helper that is ready.
    pub(crate) fn start<S: AsRef<OsStr>>(role: impl IntoIterator<Item = S>) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(role).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let stdin = child.stdin.take().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut said = String::new();
        stdout.read_line(&mut said).unwrap();
        assert!(!said.is_empty(), "a helper ended before it was ready");
        Self { child, stdin, stdout, said }
    }

    /// What it said when it was ready.
    pub(crate) fn said(&self) -> &str {
        self.said.trim()
    }

    /// Lets it do the rest; returns what it said of it.
    pub(crate) fn finish(self) -> String {
        let Self { mut child, stdin, mut stdout, .. } = self;
        drop(stdin);
        let mut rest = String::new();
        stdout.read_to_string(&mut rest).unwrap();
        let status = child.wait().unwrap();
        assert!(status.success(), "a helper failed: {status}");
        rest
    }
}

/// What is measured. Killed when it is dropped.
pub(crate) struct Subject {
    child: Child,
    started: Instant,
    directory: TempDir,
    /// It ends when its input does.
    ends_alone: bool,
}

/// What a process took until it ended.
pub(crate) struct Usage {
    /// CPU-seconds in the program, and in the kernel on its behalf.
    pub(crate) user: f64,
    pub(crate) system: f64,
    /// Most MiB that were resident.
    pub(crate) peak_mib: f64,
    /// What it said.
    pub(crate) log: String,
}

impl Subject {
    /// The daemon with `settings`, delivering to the sink at `endpoint`.
    pub(crate) fn daemon(endpoint: &str, spool: Spool, settings: &[String]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let spooled = match spool {
            Spool::None => Vec::new(),
            Spool::Os | Spool::Always => vec![
                format!("buffer.directory={}", directory.path().join("spool").display()),
                format!("buffer.sync={spool}"),
            ],
        };
        let mut command = Command::new(env!("CARGO_BIN_EXE_hydrant"));
        command.env_clear().envs([
            ("AWS_REGION", "us-east-1"),
            ("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE"),
            ("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"),
            // Who vouches for a sink with TLS.
            ("SSL_CERT_FILE", concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/tls/authority.pem")),
        ]);
        let ours = [
            "delivery_stream_name=bench".to_owned(),
            "admin.address=tcp:127.0.0.1:0".to_owned(),
            format!("endpoint_url={endpoint}"),
            format!("listen.app.address=unix:{}", socket(directory.path()).display()),
        ];
        command.arg("run");
        for setting in ours.iter().chain(&spooled).chain(settings) {
            command.args(["--set", setting]);
        }
        Self::start(command, directory, false)
    }

    /// The floor for lines of `size` bytes, delivering to the sink at `port`.
    pub(crate) fn floor(port: &str, size: usize) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.arg("floor").arg(socket(directory.path())).args([&size.to_string(), port]);
        Self::start(command, directory, true)
    }

    fn start(mut command: Command, directory: TempDir, ends_alone: bool) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(log(&directory)).unwrap());
        let started = now();
        let child = command.spawn().unwrap();
        Self { child, started, directory, ends_alone }
    }

    /// Where it takes lines, once it does.
    pub(crate) fn socket(&self) -> PathBuf {
        socket(self.directory.path())
    }

    /// Time since it was started.
    pub(crate) fn age(&self) -> Duration {
        self.started.elapsed()
    }

    /// MiB that are resident now.
    pub(crate) fn resident_mib(&self) -> f64 {
        mib(&self.proc("status"), "VmRSS:").expect("a running process has memory")
    }

    /// Has it deliver what it was sent and waits for its end.
    pub(crate) fn finish(mut self) -> Usage {
        if !self.ends_alone {
            kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        }
        let mut peak_mib = 0.0;
        // The kernel forgets the memory of a process when it ends, its CPU time when it is waited for.
        while let Some(peak) = mib(&self.proc("status"), "VmHWM:") {
            peak_mib = peak;
            std::thread::sleep(LOOK_EVERY);
        }
        let stat = self.wait_for_end();
        let status = self.child.wait().unwrap();
        assert!(status.success(), "the subject failed: {status}");
        // Fields 14 and 15 of proc_pid_stat(5); the name before field 3 may hold spaces.
        let (_, fields) = stat.rsplit_once(") ").unwrap();
        let ticks: Vec<&str> = fields.split(' ').skip(11).take(2).collect();
        let seconds = |ticks: &str| ticks.parse::<f64>().unwrap() / TICKS_A_SECOND;
        let log = std::fs::read_to_string(log(&self.directory)).unwrap();
        Usage { user: seconds(ticks[0]), system: seconds(ticks[1]), peak_mib, log }
    }

    /// The process's last `stat`: it has given back its memory, so it is about to end.
    fn wait_for_end(&self) -> String {
        loop {
            let stat = self.proc("stat");
            if stat.rsplit_once(") ").unwrap().1.starts_with('Z') {
                return stat;
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    fn proc(&self, file: &str) -> String {
        std::fs::read_to_string(format!("/proc/{}/{file}", self.child.id())).unwrap()
    }
}

impl Drop for Subject {
    fn drop(&mut self) {
        // An error means that it has ended.
        self.child.kill().ok();
        self.child.wait().ok();
        if std::thread::panicking() {
            eprintln!("{}", std::fs::read_to_string(log(&self.directory)).unwrap_or_default());
        }
    }
}

fn socket(directory: &Path) -> PathBuf {
    directory.join("app.sock")
}

fn log(directory: &TempDir) -> PathBuf {
    directory.path().join("log")
}

/// The field `name` of a `/proc/PID/status`, which is in KiB there.
fn mib(status: &str, name: &str) -> Option<f64> {
    let kib = status.lines().find_map(|line| line.strip_prefix(name))?;
    Some(kib.trim().trim_end_matches(" kB").parse::<f64>().unwrap() / 1024.0)
}
