//! A daemon starts with whatever it can't reach, says what to do and waits; it does not start with
//! what it can't have, and says which key is at fault.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Stdio;

use hydrant::local::{Faults, Options, Refusal};
use serde_json::Value;
use tokio::process::Command;

use crate::daemon::{Daemon, STREAM, Sink, hydrant, number, patiently};

/// A daemon with a Unix socket in `directory`, by `command`.
async fn start(command: Command, directory: tempfile::TempDir, sink: &Sink, settings: &[&str]) -> Daemon {
    let address = format!("listen.app.address=unix:{}", directory.path().join("app.sock").display());
    let endpoint = format!("endpoint_url={}", sink.local.url());
    let all = [&[&*address, &*endpoint, "linger=1ms", "retry.max_delay=100ms"], settings].concat();
    Daemon::run(command, directory, all).await
}

/// Writes a record, which can't be delivered: the daemon must say why at `level` in a sentence
/// with all of `words`, hold the record, and show its readiness as `ready`.
async fn check_trouble(daemon: &mut Daemon, level: &str, words: &[&str], ready: u16) -> Value {
    daemon.write(b"held\n").await;
    let said = daemon.until_said("Operation failed, retrying").await;
    assert_eq!(said["level"], level, "{said}");
    for word in words {
        assert!(said["error"].as_str().unwrap().contains(word), "no {word:?} in {said}");
    }
    let status = daemon.until("in trouble", |status| !status["stream"]["trouble"].is_null()).await;
    assert_eq!(number(&status, "/ledger/held/records"), 1, "{status:#}");
    assert_eq!((daemon.get("/readyz").await.0, daemon.get("/livez").await.0), (ready, 200));
    said
}

/// What was held must be delivered now.
async fn check_mended(daemon: Daemon, sink: &Sink) {
    daemon.until_settled(1).await;
    assert_eq!(daemon.get("/readyz").await.0, 200);
    assert!(daemon.stop().await.status.success());
    assert_eq!(sink.delivered().await, b"held\n");
}

pub fn client(endpoint: &str) -> aws_sdk_firehose::Client {
    use aws_sdk_firehose::config::{BehaviorVersion, Credentials, Region};
    let config = aws_sdk_firehose::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("us-east-1"))
        .credentials_provider(Credentials::new("test", "test", None, None, "test"))
        .http_client(aws_smithy_http_client::Builder::new().build_http())
        .endpoint_url(endpoint);
    aws_sdk_firehose::Client::from_conf(config.build())
}

// R-E7
#[tokio::test]
async fn a_stream_that_is_not_there_is_waited_for() {
    let sink = Sink::start(Options::default()).await;
    let directory = tempfile::tempdir().unwrap();
    let mut daemon = start(hydrant(), directory, &sink, &["delivery_stream_name=later"]).await;
    let words = [
        "delivery stream `later`",
        "not found in us-east-1",
        "create it",
        "`delivery_stream_name`",
        "region",
    ];
    let said = check_trouble(&mut daemon, "ERROR", &words, 503).await;
    assert_eq!(said["error_code"], "ResourceNotFoundException");
    let create = client(&sink.local.url()).create_delivery_stream().delivery_stream_name("later");
    let destination = aws_sdk_firehose::types::ExtendedS3DestinationConfiguration::builder()
        .role_arn("arn:aws:iam::000000000000:role/firehose")
        .bucket_arn("arn:aws:s3:::bucket")
        .build()
        .unwrap();
    create.extended_s3_destination_configuration(destination).send().await.unwrap();
    check_mended(daemon, &sink).await;
}

// R-E7
#[tokio::test]
async fn access_that_is_denied_is_waited_for_and_said_now_and_then() {
    let faults = Faults { refuse: Some(Refusal::AccessDenied), ..Faults::default() };
    let sink = Sink::start(Options { faults, ..Options::default() }).await;
    let directory = tempfile::tempdir().unwrap();
    let settings = ["retry.base_delay=1ms", "retry.max_delay=10ms"];
    let mut daemon = start(hydrant(), directory, &sink, &settings).await;
    let words = ["firehose:PutRecord", "`app`", "us-east-1", "policy", "user/local"];
    check_trouble(&mut daemon, "ERROR", &words, 503).await;
    let refused = || sink.local.counts().total().refused_requests;
    daemon.until("asked often", |_| refused() >= 50).await;
    assert!(daemon.said("Operation failed, retrying") < 50, "every refusal was said");
    sink.local.set_faults(Faults::default());
    check_mended(daemon, &sink).await;
}

// R-E8
#[tokio::test]
async fn an_endpoint_that_can_not_be_reached_is_waited_for() {
    let sink = Sink::start(Options::default()).await;
    sink.local.set_down(true).await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    let mut daemon = start(hydrant(), directory, &sink, &[]).await;
    let url = sink.local.url();
    check_trouble(&mut daemon, "WARN", &[&url, "could not be connected to", "check the network"], 200).await;
    sink.local.set_down(false).await.unwrap();
    check_mended(daemon, &sink).await;
}

// R-E8
#[tokio::test]
async fn a_host_name_that_is_not_known_is_named() {
    let sink = Sink::start(Options::default()).await;
    let directory = tempfile::tempdir().unwrap();
    let settings = ["endpoint_url=http://firehose.invalid", "shutdown.drain=0s"];
    let mut daemon = start(hydrant(), directory, &sink, &settings).await;
    check_trouble(&mut daemon, "WARN", &["firehose.invalid", "check the region, endpoint and DNS"], 200)
        .await;
    assert_eq!(daemon.stop().await.status.code(), Some(1));
}

// R-E8
#[tokio::test]
async fn a_region_is_waited_for() {
    let sink = Sink::start(Options::default()).await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("config");
    let mut command = hydrant();
    command.env_remove("AWS_REGION").env("AWS_CONFIG_FILE", &file);
    let mut daemon = start(command, directory, &sink, &[]).await;
    check_trouble(&mut daemon, "ERROR", &["no AWS region", "set `region`, or AWS_REGION"], 503).await;
    std::fs::write(file, "[default]\nregion = us-east-1\n").unwrap();
    check_mended(daemon, &sink).await;
}

// R-E8
#[tokio::test]
async fn credentials_are_waited_for() {
    let sink = Sink::start(Options::default()).await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("credentials");
    let mut command = hydrant();
    command.env_remove("AWS_ACCESS_KEY_ID").env_remove("AWS_SECRET_ACCESS_KEY");
    command.env("AWS_SHARED_CREDENTIALS_FILE", &file);
    let mut daemon = start(command, directory, &sink, &[]).await;
    let words = ["no AWS credentials", "AWS_ACCESS_KEY_ID", "AWS_PROFILE", "role"];
    check_trouble(&mut daemon, "ERROR", &words, 503).await;
    std::fs::write(file, "[default]\naws_access_key_id = AKIDEXAMPLE\naws_secret_access_key = secret\n")
        .unwrap();
    check_mended(daemon, &sink).await;
}

/// Starts a daemon that must not start; returns the one line that it wrote.
async fn refused(settings: &[&str]) -> String {
    let mut command = hydrant();
    command.arg("run").args(["--set", &format!("delivery_stream_name={STREAM}")]);
    for setting in settings {
        command.args(["--set", setting]);
    }
    command.stdin(Stdio::null());
    let output = patiently("ended", command.output()).await.unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{said}");
    let mut errors = said.lines().filter(|line| line.starts_with("error: "));
    let error = errors.next().unwrap().to_owned();
    assert_eq!(errors.next(), None, "{said}");
    error
}

/// The daemon must not start, and must name everything in `words`.
async fn check_refused(settings: &[&str], words: &[&str]) {
    let error = refused(settings).await;
    for word in words {
        assert!(error.contains(word), "no {word:?} in {error:?}");
    }
}

fn unix(path: &Path) -> String {
    format!("listen.app.address=unix:{}", path.display())
}

// R-P2
#[tokio::test]
async fn an_address_that_can_not_be_had_is_refused_with_its_key() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let off = "admin.address=off";
    let key = "`listen.app.address`";
    check_refused(&["listen.app.address=unix:/proc/app.sock", off], &[key, "/proc/app.sock"]).await;
    let missing = path("missing/app.sock");
    check_refused(&[&unix(&missing), off], &[key, &missing.display().to_string(), "No such file"]).await;
    std::fs::write(path("file"), "").unwrap();
    let (file, said) = (unix(&path("file")), path("file").display().to_string());
    check_refused(&[&file, off], &[key, &said, "not a socket", "remove it or choose another path"]).await;
    assert!(path("file").is_file());
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("tcp:{}", taken.local_addr().unwrap());
    let listen = format!("listen.app.address={address}");
    check_refused(&[&listen, off], &[key, &address, "in use"]).await;
    let (admin, socket) = (format!("admin.address={address}"), unix(&path("app.sock")));
    check_refused(&[&admin, &socket], &["`admin.address`", &address, "in use"]).await;
    assert!(!path("app.sock").exists(), "what was bound before the error is left behind");
    check_refused(&[off], &["listen.NAME.address"]).await;
    let below = format!("dead_letter.directory={}", path("file/below").display());
    check_refused(&[&below, &socket, off], &["`dead_letter.directory`", "file/below"]).await;
}

// R-P4
#[tokio::test]
async fn the_socket_of_a_living_daemon_is_refused_and_left_alone() {
    let sink = Sink::start(Options::default()).await;
    let daemon = Daemon::start(&sink.local.url(), &["linger=1ms"]).await;
    let path = daemon.socket().display().to_string();
    let words = ["`listen.app.address`", &path, "another process is listening"];
    check_refused(&[&unix(&daemon.socket()), "admin.address=off"], &words).await;
    daemon.write(b"undisturbed\n").await;
    daemon.until_settled(1).await;
    assert!(daemon.stop().await.status.success());
}

// R-P4
#[tokio::test]
async fn a_dead_daemons_socket_is_replaced_gets_its_mode_and_goes_at_the_end() {
    let sink = Sink::start(Options::default()).await;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("app.sock");
    let mode = || std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
    let mut killed = start(hydrant(), tempfile::tempdir().unwrap(), &sink, &[&unix(&path)]).await;
    assert_eq!(mode(), 0o660);
    killed.child.kill().await.unwrap();
    assert!(path.exists());
    let settings = [unix(&path), "listen.app.mode=0600".to_owned()];
    let settings = settings.each_ref().map(String::as_str);
    let daemon = start(hydrant(), directory, &sink, &settings).await;
    assert_eq!(mode(), 0o600);
    daemon.write(b"heard\n").await;
    daemon.until_settled(1).await;
    assert!(daemon.stop().await.status.success());
    assert!(!path.exists());
}

// R-P3
#[tokio::test]
async fn a_port_without_a_host_is_on_loopback_only() {
    let sink = Sink::start(Options::default()).await;
    let daemon = Daemon::start(&sink.local.url(), &["listen.port.address=tcp:0"]).await;
    let address = daemon.connect_tcp("port").await.peer_addr().unwrap();
    assert!(address.ip().is_loopback());
    let elsewhere = tokio::net::TcpStream::connect(("127.0.0.2", address.port())).await;
    assert_eq!(elsewhere.unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
    assert!(daemon.stop().await.status.success());
}
