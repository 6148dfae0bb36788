//! The daemon as a service of systemd: what it tells the service manager, sockets that it is passed,
//! and the units in `deploy/systemd`, judged by systemd's own tools.

use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use hydrant::local::Options;
use rustix::io::{FdFlags, fcntl_setfd};
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::process::Command;

use crate::daemon::{Daemon, PATIENCE, STREAM, Sink, alone, hydrant, line, lines, patiently};

const UNITS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/systemd");

/// A service manager that listens.
struct Manager(UnixDatagram);

impl Manager {
    fn listen(path: &Path) -> Self {
        let socket = UnixDatagram::bind(path).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(socket)
    }

    /// The next message in which a line begins with `what`.
    async fn until(&self, what: &'static str) -> String {
        let socket = self.0.try_clone().unwrap();
        let wait = tokio::task::spawn_blocking(move || {
            let mut buffer = [0; 4096];
            loop {
                let length = socket.recv(&mut buffer).unwrap_or_else(|error| panic!("never {what}: {error}"));
                let message = String::from_utf8(buffer[..length].to_vec()).unwrap();
                if message.lines().any(|line| line.starts_with(what)) {
                    return message;
                }
            }
        });
        wait.await.unwrap()
    }
}

// R-D8, R-D9
#[tokio::test]
async fn the_service_manager_is_told_of_start_progress_reload_and_stop() {
    let sink = Sink::start(Options::default()).await;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("notify.sock");
    let manager = Manager::listen(&path);
    let mut command = hydrant();
    // Without WATCHDOG_PID the watchdog is of whatever process has the variable.
    command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "400000");
    let address = format!("listen.app.address=unix:{}", directory.path().join("app.sock").display());
    let endpoint = format!("endpoint_url={}", sink.local.url());
    let settings = [&*address, &endpoint, "linger=1h", "shutdown.drain=20s"];
    let daemon = Daemon::run(command, directory, settings).await;
    manager.until("READY=1").await;
    manager.until("WATCHDOG=1").await;
    daemon.write(&lines(3, 100)).await;
    daemon.until("held", |status| status["ledger"]["held"]["records"] == 3).await;
    let status = loop {
        let status = manager.until("STATUS=").await;
        if status.contains("3 held") {
            break status;
        }
    };
    assert!(status.contains("records/s in"), "{status}");
    daemon.signal("HUP");
    let reload = manager.until("RELOADING=1").await;
    let time = reload.lines().find_map(|line| line.strip_prefix("MONOTONIC_USEC=")).unwrap();
    assert!(time.parse::<u64>().unwrap() > 0, "{reload}");
    manager.until("READY=1").await;
    daemon.signal("TERM");
    let stop = manager.until("STOPPING=1").await;
    assert!(stop.lines().any(|line| line == "EXTEND_TIMEOUT_USEC=25000000"), "{stop}");
    assert!(daemon.ended().await.status.success());
    assert_eq!(sink.lines().await.len(), 3);
}

// R-D9
#[tokio::test]
async fn a_watchdog_for_another_process_is_not_fed() {
    let sink = Sink::start(Options::default()).await;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("notify.sock");
    let manager = Manager::listen(&path);
    let mut command = hydrant();
    command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "1000").env("WATCHDOG_PID", "1");
    let address = format!("listen.app.address=unix:{}", directory.path().join("app.sock").display());
    let daemon =
        Daemon::run(command, directory, [&*address, &format!("endpoint_url={}", sink.local.url())]).await;
    // READY is the first thing said; with a fed watchdog hundreds of messages would come before the stop.
    manager.until("READY=1").await;
    daemon.write(&line(0, 50)).await;
    daemon.until_settled(1).await;
    daemon.signal("TERM");
    manager.0.set_nonblocking(true).unwrap();
    assert!(daemon.ended().await.status.success());
    let mut buffer = [0; 4096];
    while let Ok(length) = manager.0.recv(&mut buffer) {
        assert!(!buffer[..length].starts_with(b"WATCHDOG"), "the watchdog was fed");
    }
}

/// A daemon that is passed the sockets of these numbers under these names, as systemd does it.
async fn passed(sockets: &[(&str, i32)], sink: &Sink, settings: &[&str]) -> Daemon {
    let mut script = format!("export LISTEN_PID=$$ LISTEN_FDS={}", sockets.len());
    let names: Vec<_> = sockets.iter().map(|(name, _)| *name).collect();
    script += &format!(" LISTEN_FDNAMES={}; ", names.join(":"));
    script += "exec \"$0\" \"$@\"";
    for (index, (_, number)) in sockets.iter().enumerate() {
        script += &format!(" {}<&{number}", index + 3);
    }
    // bash, as descriptors above 9 are more than POSIX's shell promises to move.
    let mut command = Command::new("bash");
    command.args(["-c", &script, env!("CARGO_BIN_EXE_hydrant")]);
    let endpoint = format!("endpoint_url={}", sink.local.url());
    let all =
        ["listen.app.address=fd:app", &endpoint, "linger=1ms"].into_iter().chain(settings.iter().copied());
    Daemon::run(alone(command), tempfile::tempdir().unwrap(), all).await
}

/// Lets processes that are started from now on have the socket. Its number is far above those that
/// the daemon is to have it under.
fn pass_on(socket: impl Into<std::os::fd::OwnedFd>) -> std::os::fd::OwnedFd {
    let socket = rustix::io::fcntl_dupfd_cloexec(socket.into(), 200).unwrap();
    fcntl_setfd(&socket, FdFlags::empty()).unwrap();
    socket
}

// R-D10
#[tokio::test]
async fn a_restart_on_sockets_of_systemds_refuses_no_connection_and_loses_nothing() {
    let sink = Sink::start(Options::default()).await;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("app.sock");
    let unix = pass_on(UnixListener::bind(&path).unwrap());
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let address: SocketAddr = tcp.local_addr().unwrap();
    let tcp = pass_on(tcp);
    let sockets = [("app", unix.as_raw_fd()), ("app", tcp.as_raw_fd())];
    let mut sent = 0;
    let mut waiting: Vec<UnixStream> = Vec::new();
    for generation in 0..3 {
        let daemon = passed(&sockets, &sink, &[]).await;
        let listeners = daemon.status().await["listeners"].clone();
        assert_eq!(listeners.as_array().unwrap().len(), 2, "{listeners:#}");
        assert_eq!(listeners[0]["address"], format!("unix:{}", path.display()));
        // Those that connected while nobody was there.
        let expected = waiting.len();
        for mut stream in waiting.drain(..) {
            stream.shutdown().await.unwrap();
        }
        let mut over_tcp = tokio::net::TcpStream::connect(address).await.unwrap();
        over_tcp.write_all(&line(sent, 100)).await.unwrap();
        over_tcp.shutdown().await.unwrap();
        sent += 1;
        daemon.until_settled(expected as u64 + 1).await;
        assert!(daemon.stop().await.status.success());
        if generation < 2 {
            for _ in 0..20 {
                let mut stream = patiently("connected", UnixStream::connect(&path)).await.unwrap();
                stream.write_all(&line(sent, 100)).await.unwrap();
                sent += 1;
                waiting.push(stream);
            }
        }
    }
    assert!(path.exists(), "the socket's file is systemd's");
    let lines = sink.lines().await;
    assert_eq!((lines.len(), lines.values().sum::<usize>()), (sent, sent));
}

// R-Y5
#[tokio::test]
async fn a_restart_on_a_datagram_socket_of_systemds_loses_nothing() {
    let sink = Sink::start(Options::default()).await;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    let socket = pass_on(UnixDatagram::bind(&path).unwrap());
    let sockets = [("app", socket.as_raw_fd())];
    let sender = UnixDatagram::unbound().unwrap();
    for generation in 0..3 {
        // Those that were sent while nobody was there wait in the queue, which takes ten at the least.
        for number in 0..5 {
            sender.send_to(&line(10 * generation + number, 100), &path).unwrap();
        }
        let daemon = passed(&sockets, &sink, &["listen.app.protocol=syslog"]).await;
        let address = daemon.status().await["listeners"][0]["address"].clone();
        assert_eq!(address, format!("unix-dgram:{}", path.display()));
        sender.send_to(&line(10 * generation + 5, 100), &path).unwrap();
        daemon.until_settled(6).await;
        assert!(daemon.stop().await.status.success());
    }
    assert!(path.exists(), "the socket's file is systemd's");
    let lines = sink.lines().await;
    assert_eq!((lines.len(), lines.values().sum::<usize>()), (18, 18));
}

// R-P2
#[tokio::test]
async fn a_datagram_socket_is_none_for_length_prefixed_records() {
    let directory = tempfile::tempdir().unwrap();
    let socket = pass_on(UnixDatagram::bind(directory.path().join("log")).unwrap());
    let script = format!(
        "export LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=app; exec \"$0\" \"$@\" 3<&{}",
        socket.as_raw_fd()
    );
    let mut command = Command::new("bash");
    command.args(["-c", &script, env!("CARGO_BIN_EXE_hydrant"), "run", "--set", "listen.app.address=fd:app"]);
    command.args(["--set", "listen.app.protocol=frames", "--set", "delivery_stream_name=stream"]);
    let output = alone(command).stdin(Stdio::null()).output().await.unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(
        said.contains("fd:app is a datagram socket: its protocol must be \"syslog\" or \"lines\""),
        "{said}"
    );
}

// R-P2
#[tokio::test]
async fn a_socket_that_was_not_passed_is_refused_with_what_to_do() {
    let mut command = hydrant();
    command.args(["run", "--set", "listen.app.address=fd:app", "--set"]);
    command.arg(format!("delivery_stream_name={STREAM}")).stdin(Stdio::null());
    let output = command.output().await.unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{said}");
    for words in ["`listen.app.address`", "fd:app was not passed", "nothing else", "FileDescriptorName=app"] {
        assert!(said.contains(words), "no {words:?} in {said}");
    }
}

/// The path of one of systemd's tools, or `None` once it was said that the test is skipped.
fn tool(name: &str) -> Option<PathBuf> {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let found =
        std::env::split_paths(&paths).map(|directory| directory.join(name)).find(|path| path.exists());
    if found.is_none() {
        assert!(std::env::var_os("REQUIRE_PEERS").is_none(), "REQUIRE_PEERS is set, but there is no {name}");
        // Not a macro: what those print, the test runner keeps from whoever watches.
        std::io::stderr().write_all(format!("skipped: there is no {name}\n").as_bytes()).unwrap();
    }
    found
}

/// The units with the daemon's path on this machine.
fn units() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    for name in ["hydrant.service", "hydrant.socket"] {
        let text = std::fs::read_to_string(Path::new(UNITS).join(name)).unwrap();
        let text = text.replace("/usr/bin/hydrant ", &format!("{} ", env!("CARGO_BIN_EXE_hydrant")));
        // The man page comes with the package.
        let text = text.replace("Documentation=man:hydrant(1)\n", "");
        std::fs::write(directory.path().join(name), text).unwrap();
    }
    directory
}

// R-R6
#[tokio::test]
async fn the_units_are_as_systemd_wants_them() {
    let Some(analyze) = tool("systemd-analyze") else { return };
    let units = units();
    for name in ["hydrant.service", "hydrant.socket"] {
        let mut command = Command::new(&analyze);
        command.args(["verify", "--man=no"]).arg(units.path().join(name));
        let output = command.output().await.unwrap();
        // Unknown keys are said, and the exit code is 0 all the same.
        let said = String::from_utf8(output.stderr).unwrap();
        let ours: Vec<_> = said.lines().filter(|line| line.contains("hydrant")).collect();
        assert!(output.status.success() && ours.is_empty(), "{name}: {said}");
    }
}

// R-R6
#[tokio::test]
async fn the_service_is_exposed_to_less_than_two_of_ten() {
    let Some(analyze) = tool("systemd-analyze") else { return };
    let units = units();
    let mut command = Command::new(analyze);
    command.args(["security", "--offline=true", "--threshold=20", "--no-pager"]);
    let output = command.arg(units.path().join("hydrant.service")).output().await.unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let exposure = said.lines().find(|line| line.contains("Overall exposure level")).unwrap_or_default();
    assert!(output.status.success(), "{exposure}\n{said}");
}

// R-P1
#[tokio::test]
async fn systemds_own_activation_starts_the_daemon() {
    let Some(activate) = tool("systemd-socket-activate") else { return };
    let sink = Sink::start(Options::default()).await;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("app.sock");
    let mut command = Command::new(activate);
    let variables = ["AWS_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_EC2_METADATA_DISABLED"];
    command.args(variables.map(|name| format!("--setenv={name}")));
    command.arg(format!("--listen={}", path.display())).arg("--fdname=app");
    command.args([env!("CARGO_BIN_EXE_hydrant"), "run", "--set", "listen.app.address=fd:app"]);
    for setting in [
        format!("endpoint_url={}", sink.local.url()),
        format!("delivery_stream_name={STREAM}"),
        "admin.address=off".to_owned(),
        "linger=1ms".to_owned(),
    ] {
        command.arg("--set").arg(setting);
    }
    let mut child = alone(command).stderr(Stdio::null()).stdin(Stdio::null()).spawn().unwrap();
    let connect = async {
        // The socket is there as soon as systemd's tool runs: a look every few milliseconds.
        let mut pace = tokio::time::interval(Duration::from_millis(5));
        loop {
            pace.tick().await;
            if let Ok(stream) = UnixStream::connect(&path).await {
                return stream;
            }
        }
    };
    let mut stream = patiently("connected", connect).await;
    stream.write_all(&lines(100, 100)).await.unwrap();
    stream.shutdown().await.unwrap();
    let delivered = async {
        let mut pace = tokio::time::interval(Duration::from_millis(5));
        while sink.local.counts().total().records < 100 {
            pace.tick().await;
        }
    };
    patiently("delivered", delivered).await;
    let pid = child.id().unwrap().to_string();
    assert!(std::process::Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    assert!(patiently("ended", child.wait()).await.unwrap().success());
    assert_eq!(sink.lines().await.len(), 100);
}

// R-R6
#[tokio::test]
async fn the_services_configuration_is_valid() {
    let mut command = hydrant();
    command.args(["check", "--config"]).arg(Path::new(UNITS).join("hydrant.toml"));
    let output = command.output().await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
}

// R-R6
#[test]
fn what_the_service_keeps_is_in_its_state_directory() {
    let file = Some(Path::new(UNITS).join("hydrant.toml"));
    let sources = hydrant::config::Sources { file, ..Default::default() };
    let config = hydrant::config::load(&sources).unwrap().config;
    let unit = std::fs::read_to_string(Path::new(UNITS).join("hydrant.service")).unwrap();
    let state = unit.lines().find_map(|line| line.strip_prefix("StateDirectory=")).unwrap();
    let state = Path::new("/var/lib").join(state);
    let spool = config.buffer.spool.expect("a spool").directory;
    let letters = config.dead_letter.directory.expect("a place for dead letters");
    assert!(spool.starts_with(&state) && letters.starts_with(&state) && spool != letters);
}
