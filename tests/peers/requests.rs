//! Programs that speak HTTP and are not ours, before a listener that takes requests.

use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

use hydrant::local::Options;
use tokio::io::AsyncWriteExt;

use crate::daemon::{Daemon, SECRET_KEY, STREAM, Sink, balance, line, lines, patiently};
use crate::javascript::javascript;
use crate::python::{or_skipped, output, python};

const NDJSON: &str = "content-type: application/x-ndjson";

fn has_curl() -> bool {
    static CURL: OnceLock<Result<String, String>> = OnceLock::new();
    or_skipped(CURL.get_or_init(|| output(Command::new("curl").arg("--version")))).is_some()
}

fn has_ab() -> bool {
    static AB: OnceLock<Result<String, String>> = OnceLock::new();
    or_skipped(AB.get_or_init(|| output(Command::new("ab").arg("-V")))).is_some()
}

/// What curl says of its requests with these `arguments` and `body`.
async fn curl(arguments: &[&str], body: &[u8]) -> String {
    let mut command = tokio::process::Command::new("curl");
    command.args(["--silent", "--show-error", "--data-binary", "@-"]).args(arguments).kill_on_drop(true);
    command.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(body).await.unwrap();
    drop(stdin);
    let ended = patiently("answered", child.wait_with_output()).await.unwrap();
    assert!(ended.status.success(), "curl {arguments:?}: {}", ended.status);
    String::from_utf8(ended.stdout).unwrap()
}

/// The address of the listener called `name`, without its scheme.
async fn address(daemon: &Daemon, name: &str) -> String {
    let status = daemon.status().await;
    let listeners = status["listeners"].as_array().unwrap();
    let listener = listeners.iter().find(|listener| listener["name"] == name).unwrap();
    listener["address"].as_str().unwrap().split_once(':').unwrap().1.to_owned()
}

fn compressed(program: &str, bytes: &[u8]) -> Vec<u8> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("body");
    std::fs::write(&path, bytes).unwrap();
    let output = Command::new(program).args(["-q", "-c"]).arg(&path).output().unwrap();
    assert!(output.status.success());
    output.stdout
}

// R-H4, R-H9
#[tokio::test]
async fn curl_delivers_by_every_version_encoding_and_kind_of_socket() {
    if !has_curl() {
        return;
    }
    let sink = Sink::start(Options::default()).await;
    let tls = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/tls");
    let file = |name: &str| tls.join(name).display().to_string();
    let (cert, key) =
        (format!("listen.tls.cert={}", file("first.pem")), format!("listen.tls.key={}", file("first.key")));
    let settings = [
        "listen.app.protocol=http",
        "listen.port.address=tcp:0",
        "listen.port.protocol=http",
        "listen.port.acks=delivered",
        "listen.tls.address=tls:127.0.0.1:0",
        "listen.tls.protocol=http",
        &cert,
        &key,
        "linger=1ms",
    ];
    let daemon = Daemon::start(&sink.local.url(), &settings).await;
    let port = format!("http://{}/", address(&daemon, "port").await);
    let secure = format!("https://localhost:{}/", address(&daemon, "tls").await.rsplit_once(':').unwrap().1);
    let (socket, authority) = (daemon.socket().display().to_string(), file("authority.pem"));
    let ten = lines(10, 100);
    let gzip = [compressed("gzip", &ten[..500]), compressed("gzip", &ten[500..])].concat();
    let zstd = compressed("zstd", &ten);
    let check = async |arguments: &[&str], body: &[u8], said: &str| {
        let format = ["--header", NDJSON, "--write-out", "%{http_code} HTTP/%{http_version}"];
        assert_eq!(curl(&[&format[..], arguments].concat(), body).await, said, "{arguments:?}");
    };
    let answer = |status: &str| format!("{{\"accepted\":10,\"rejected\":0}}\n{status}");
    let (accepted, delivered) = (answer("202 HTTP/1.1"), answer("200 HTTP/1.1"));
    check(&["--unix-socket", &socket, "http://localhost/"], &ten, &accepted).await;
    check(&[&port], &ten, &delivered).await;
    check(&["--http1.0", &port], &ten, &answer("200 HTTP/1")).await;
    check(&["--http2-prior-knowledge", &port], &ten, &answer("200 HTTP/2")).await;
    check(&["--cacert", &authority, "--http1.1", &secure], &ten, &accepted).await;
    check(&["--cacert", &authority, "--http2", &secure], &ten, &answer("202 HTTP/2")).await;
    check(&["--header", "transfer-encoding: chunked", &port], &ten, &delivered).await;
    check(&["--header", "content-encoding: gzip", &port], &gzip, &delivered).await;
    check(&["--header", "content-encoding: zstd", &port], &zstd, &delivered).await;
    // A large one is announced and waits for 100 Continue.
    let large: Vec<u8> = lines(10, 100_000);
    check(&["--header", "expect: 100-continue", &port], &large, &delivered).await;
    check(&["--http2-prior-knowledge", &port], &large, &answer("200 HTTP/2")).await;
    // Several requests by one connection each.
    for (version, url) in [("--http1.1", &port), ("--http2", &secure)] {
        let arguments =
            [version, "--cacert", &authority, "--header", NDJSON, "--write-out", "%{num_connects}"];
        let said = curl(&[&arguments[..], &[url.as_str(); 3]].concat(), &ten).await;
        assert_eq!(said.matches("{\"accepted\":10,\"rejected\":0}\n1").count(), 1, "{said}");
        assert_eq!(said.matches("{\"accepted\":10,\"rejected\":0}\n0").count(), 2, "{said}");
    }
    daemon.until_settled(170).await;
    assert!(daemon.stop().await.status.success());
    let mut delivered = sink.lines().await;
    for number in 0..10 {
        let line = line(number, 100);
        assert_eq!(delivered.remove(&line[..99]), Some(15));
    }
    assert_eq!(delivered.len(), 10, "to {STREAM}");
}

// R-H9
#[tokio::test]
async fn apache_bench_loses_and_repeats_nothing() {
    if !has_ab() {
        return;
    }
    let sink = Sink::start(Options::default()).await;
    let settings = ["listen.port.address=tcp:0", "listen.port.protocol=http", "linger=5ms"];
    let daemon = Daemon::start(&sink.local.url(), &settings).await;
    let body = daemon.directory.path().join("body");
    std::fs::write(&body, lines(10, 200)).unwrap();
    let url = format!("http://{}/", address(&daemon, "port").await);
    for keep_alive in [&["-k"][..], &[]] {
        let mut ab = tokio::process::Command::new("ab");
        ab.args(["-q", "-n", "2000", "-c", "50", "-T", "application/x-ndjson", "-p"]).arg(&body);
        let ended = patiently("done", ab.args(keep_alive).arg(&url).output()).await.unwrap();
        let said = String::from_utf8_lossy(&ended.stdout);
        assert!(ended.status.success(), "{said}{}", String::from_utf8_lossy(&ended.stderr));
        assert!(
            said.contains("Complete requests:      2000") && said.contains("Failed requests:        0"),
            "{said}"
        );
        assert!(!said.contains("Non-2xx responses"), "{said}");
    }
    daemon.until_settled(40_000).await;
    assert_eq!(balance(&daemon.get("/metrics").await.1), (40_000, 40_000));
    assert!(daemon.stop().await.status.success());
    assert!(sink.lines().await.into_values().all(|times| times == 4000));
}

/// A daemon that takes what `AKIDEXAMPLE` has signed; its endpoint.
async fn taking(sink: &Sink) -> (Daemon, String) {
    let secret = format!("listen.api.secret_access_key={SECRET_KEY}");
    let settings = [
        "listen.api.address=tcp:127.0.0.1:0",
        "listen.api.protocol=firehose",
        "listen.api.access_key_id=AKIDEXAMPLE",
        &secret,
        "linger=5ms",
    ];
    let daemon = Daemon::start(&sink.local.url(), &settings).await;
    let endpoint = format!("http://{}", address(&daemon, "api").await);
    (daemon, endpoint)
}

/// Stops `daemon` once it has delivered what `client` has put.
async fn check_delivered(daemon: Daemon, sink: &Sink, client: &str, records: u64) {
    daemon.until_settled(records).await;
    assert!(daemon.stop().await.status.success());
    let delivered = sink.lines().await;
    for number in 0..records {
        let line = format!("{client} {number}");
        assert_eq!(delivered.get(line.as_bytes()), Some(&1), "{line}");
    }
}

// R-W5, R-W8
#[tokio::test]
async fn boto3_and_the_aws_cli_put_records_as_if_it_were_the_service() {
    let Some(python) = python() else { return };
    let sink = Sink::start(Options::default()).await;
    let (daemon, endpoint) = taking(&sink).await;
    python.run(&endpoint, "puts.py", &[STREAM, "2001"]).await;
    let aws = async |arguments: &[&str]| {
        let output = python.command("aws", &endpoint).arg("firehose").args(arguments).output().await.unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.success(), text(output.stdout) + &text(output.stderr))
    };
    let stream = ["--delivery-stream-name", STREAM];
    let one = ["put-record", "--record", "Data=boto3 2001"];
    let (done, said) = aws(&[&one[..], &stream].concat()).await;
    assert!(done && said.contains("RecordId"), "{said}");
    let (done, said) = aws(&["put-record", "--record", "Data=x", "--delivery-stream-name", "nowhere"]).await;
    assert!(
        !done && said.contains("(ResourceNotFoundException) when calling the PutRecord operation"),
        "{said}"
    );
    check_delivered(daemon, &sink, "boto3", 2002).await;
}

// R-W5, R-W8
#[tokio::test]
async fn the_sdk_for_javascript_puts_records_as_if_it_were_the_service() {
    let Some(javascript) = javascript() else { return };
    let sink = Sink::start(Options::default()).await;
    let (daemon, endpoint) = taking(&sink).await;
    let variables = [
        ("AWS_REGION", "us-east-1"),
        ("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE"),
        ("AWS_SECRET_ACCESS_KEY", SECRET_KEY),
        ("AWS_ENDPOINT_URL_FIREHOSE", endpoint.as_str()),
        ("AWS_CONFIG_FILE", "/nonexistent"),
        ("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent"),
    ];
    javascript.run("puts.mjs", &[STREAM, "2001"], &variables).await;
    check_delivered(daemon, &sink, "javascript", 2001).await;
}
