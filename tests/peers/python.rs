//! Python with the peers installed, and servers that run in it.

use std::fs::{self, File};
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use tempfile::TempDir;
use tokio::process::Child;

use crate::daemon::PATIENCE;

/// What is installed, every version pinned.
const REQUIREMENTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/peers/requirements.txt");
/// Scripts of these tests.
const SCRIPTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/peers");
/// Set where a test that cannot run is a failure.
const REQUIRED: &str = "REQUIRE_PEERS";

/// The virtual environment, or `None` once it was said that the calling test is skipped.
pub(crate) fn python() -> Option<&'static Python> {
    static PYTHON: OnceLock<Result<Python, String>> = OnceLock::new();
    or_skipped(PYTHON.get_or_init(Python::ready))
}

/// The peer, or `None` once it was said that the calling test is skipped.
pub(crate) fn or_skipped<T>(peer: &Result<T, String>) -> Option<&T> {
    match peer {
        Ok(peer) => Some(peer),
        Err(reason) if std::env::var_os(REQUIRED).is_some() => panic!("{REQUIRED} is set, but {reason}"),
        Err(reason) => {
            // Not a macro: what those print, the test runner keeps from whoever watches.
            std::io::stderr().write_all(format!("skipped: {reason}\n").as_bytes()).unwrap();
            None
        }
    }
}

/// A virtual environment with the peers.
#[derive(Debug)]
pub(crate) struct Python {
    bin: PathBuf,
}

impl Python {
    /// The environment below Cargo's target directory, made if it is not there or not what is
    /// wanted. Other processes that want it meanwhile wait.
    fn ready() -> Result<Self, String> {
        let version = output(Command::new("python3").arg("--version"))?;
        let home = Path::new(env!("CARGO_TARGET_TMPDIR")).join("peers-python");
        let lock = File::create(home.with_extension("lock")).map_err(|error| error.to_string())?;
        lock.lock().map_err(|error| error.to_string())?;
        let bin = home.join("bin");
        // Written last, so that an installation that was cut short is not taken for a whole one.
        let complete = home.join("complete");
        let wanted = version + &fs::read_to_string(REQUIREMENTS).map_err(|error| error.to_string())?;
        if fs::read_to_string(&complete).ok().as_ref() != Some(&wanted) {
            output(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&home))?;
            let mut pip = Command::new(bin.join("pip"));
            pip.args(["install", "--quiet", "--disable-pip-version-check", "--no-input", "--requirement"]);
            output(pip.arg(REQUIREMENTS))?;
            fs::write(&complete, wanted).map_err(|error| error.to_string())?;
        }
        Ok(Self { bin })
    }

    /// A shell in which this environment's programs are found by their names.
    pub(crate) fn shell(&self, endpoint: &str) -> tokio::process::Command {
        let mut command = self.command("/bin/bash", endpoint);
        let inherited = std::env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("{}:{inherited}", self.bin.display()));
        command
    }

    /// A program of the environment, that uses the AWS service at `endpoint` and no other.
    pub(crate) fn command(&self, program: &str, endpoint: &str) -> tokio::process::Command {
        let mut command = tokio::process::Command::new(self.bin.join(program));
        command.env_clear().kill_on_drop(true).stdin(Stdio::null()).envs([
            ("PATH", std::env::var("PATH").unwrap_or_default().as_str()),
            ("HOME", "/nonexistent"),
            ("AWS_CONFIG_FILE", "/nonexistent"),
            ("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent"),
            ("AWS_EC2_METADATA_DISABLED", "true"),
            ("AWS_DEFAULT_REGION", "us-east-1"),
            ("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE"),
            ("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"),
            ("AWS_ENDPOINT_URL", endpoint),
        ]);
        command
    }

    /// Runs one of these tests' scripts to its end; what it wrote to standard output.
    pub(crate) async fn run(&self, endpoint: &str, script: &str, arguments: &[&str]) -> String {
        let mut command = self.command("python", endpoint);
        let output = command.arg(Path::new(SCRIPTS).join(script)).args(arguments).output().await.unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{script} {arguments:?}: {said}");
        String::from_utf8(output.stdout).unwrap()
    }
}

/// What `command` wrote to standard output; an error in a sentence if it failed.
pub(crate) fn output(command: &mut Command) -> Result<String, String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("{program} could not be started: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    let last = said.trim_end().lines().last().unwrap_or_default();
    Err(format!("{program} failed ({}): {last}", output.status))
}

/// An AWS service that is not ours, in a process of its own. Killed when it is dropped.
pub(crate) struct Service {
    pub(crate) python: &'static Python,
    pub(crate) endpoint: String,
    _child: Child,
    _directory: TempDir,
}

/// Which AWS service.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind {
    Moto,
    Ministack,
}

impl Service {
    /// The service on a free port of its own, as soon as it accepts connections.
    pub(crate) async fn start(python: &'static Python, kind: Kind) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("log");
        // Nothing but the service itself can keep a port that was just free, so it chooses again
        // if another process was faster.
        for _ in 0..10 {
            let address = free_address();
            let endpoint = format!("http://{address}");
            let mut command = match kind {
                Kind::Moto => {
                    let mut command = python.command("moto_server", &endpoint);
                    command.args(["-H", "127.0.0.1", "-p", &address.port().to_string()]);
                    command
                }
                Kind::Ministack => {
                    let mut command = python.command("ministack", &endpoint);
                    command.envs([
                        ("BIND_HOST", "127.0.0.1"),
                        ("GATEWAY_PORT", &address.port().to_string()),
                        // Services on ports that every instance would want.
                        ("IOT_MTLS_ENABLED", "0"),
                        ("SFTP_ENABLED", "0"),
                    ]);
                    command
                }
            };
            command.env("HOME", directory.path()).env("TMPDIR", directory.path());
            let file = File::create(&log).unwrap();
            command.current_dir(&directory).stdout(file.try_clone().unwrap()).stderr(file);
            let mut child = command.spawn().unwrap();
            if accepts(&mut child, address).await {
                return Self { python, endpoint, _child: child, _directory: directory };
            }
        }
        panic!("{kind:?} did not start: {}", fs::read_to_string(log).unwrap());
    }

    /// Makes the bucket, the role and the delivery stream.
    pub(crate) async fn create(&self, stream: &str) {
        self.create_with(stream, "{}").await;
    }

    /// The same, with the members of the JSON object `members` added to its destination.
    pub(crate) async fn create_with(&self, stream: &str, members: &str) {
        self.python.run(&self.endpoint, "service.py", &["create", stream, members]).await;
    }

    /// The contents of the delivered objects.
    pub(crate) async fn objects(&self) -> Vec<Vec<u8>> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().to_str().unwrap();
        self.python.run(&self.endpoint, "service.py", &["collect", path]).await;
        let files = fs::read_dir(directory.path()).unwrap();
        files.map(|file| fs::read(file.unwrap().path()).unwrap()).collect()
    }
}

/// A loopback address that is free at this moment: below the ports that Linux hands out by itself
/// (`net.ipv4.ip_local_port_range`), so that no connection of another test takes it meanwhile.
pub(crate) fn free_address() -> SocketAddr {
    let mut ports = std::iter::repeat_with(|| fastrand::u16(20_000..30_000));
    let is_free = |address: &SocketAddr| TcpListener::bind(address).is_ok();
    ports.by_ref().map(|port| (Ipv4Addr::LOCALHOST, port).into()).find(is_free).unwrap()
}

/// Whether `child` accepts connections at `address`; not if it ended before it did.
pub(crate) async fn accepts(child: &mut Child, address: SocketAddr) -> bool {
    let look = async {
        // A look every few milliseconds: nothing depends on how many it takes.
        let mut pace = tokio::time::interval(Duration::from_millis(20));
        loop {
            pace.tick().await;
            if child.try_wait().unwrap().is_some() {
                return false;
            }
            if tokio::net::TcpStream::connect(address).await.is_ok() {
                return true;
            }
        }
    };
    tokio::time::timeout(PATIENCE, look).await.expect("the service did not accept connections")
}
