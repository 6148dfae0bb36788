//! `resources/generate-data.js`: the records it makes, and how it hands them over.

use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, BufReader};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::process::{Child, Command};

use crate::daemon::patiently;
use crate::node::node;

const SCRIPT: &str = "generate-data.js";

fn generate(arguments: &[&str]) -> Option<Command> {
    let mut command = node(SCRIPT)?;
    command.args(arguments);
    Some(command)
}

/// What a run wrote to standard output and to standard error, and its exit code.
async fn ran(arguments: &[&str]) -> Option<(Vec<u8>, String, i32)> {
    let output = generate(arguments)?.output().await.unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    Some((output.stdout, said, output.status.code().unwrap()))
}

fn lines(bytes: &[u8]) -> Vec<&[u8]> {
    bytes.split_inclusive(|byte| *byte == b'\n').collect()
}

/// On every machine and every version of Node: what is in S3 can be compared with what was sent.
// R-R5
#[tokio::test]
async fn a_seed_gives_the_same_records_everywhere() {
    const FIRST: &str = concat!(
        r#"{"timestamp":"2026-05-28T00:21:07.027Z","sequence":0,"level":"info","service":"search","#,
        r#""message":"request served","method":"POST","path":"/v1/products","status":200,"#,
        r#""latency_ms":16.22,"request_id":"6d010770feacb771","#,
        r#""detail":"t was priced again after an item changed while its "}"#,
        "\n"
    );
    let Some((first, ..)) = ran(&["--count", "2000", "--size", "280"]).await else { return };
    assert_eq!(String::from_utf8_lossy(lines(&first)[0]), FIRST);
    let (again, ..) = ran(&["--count=2000", "--size=280", "--seed=1"]).await.unwrap();
    assert_eq!(first, again);
    let (fewer, ..) = ran(&["--count", "1000", "--size", "280"]).await.unwrap();
    assert!(first.starts_with(&fewer), "the first records depend on how many there are");
    let (other, ..) = ran(&["--count", "2000", "--size", "280", "--seed", "2"]).await.unwrap();
    assert_ne!(first, other);
}

// R-R5
#[tokio::test]
async fn there_are_as_many_records_as_asked_for_and_each_is_of_the_size() {
    for (count, size) in [(1, 256), (5000, 256), (5000, 401), (3, 1_024_000)] {
        let (count, size) = (count.to_string(), size.to_string());
        let Some((bytes, said, code)) = ran(&["--count", &count, "--size", &size]).await else { return };
        assert_eq!(code, 0, "{said}");
        let lines = lines(&bytes);
        assert_eq!(lines.len().to_string(), count);
        for (number, line) in lines.iter().enumerate() {
            assert_eq!(line.len().to_string(), size);
            let record: Value = serde_json::from_slice(line).unwrap();
            assert_eq!(record["sequence"], number, "{record}");
            assert!(record["timestamp"].is_string() && record["latency_ms"].is_number(), "{record}");
        }
        let expected = format!("wrote {count} of {count} records, {} bytes, in ", bytes.len());
        assert!(said.starts_with(&expected), "{said}");
    }
}

#[tokio::test]
async fn a_rate_is_not_exceeded() {
    #[expect(clippy::disallowed_methods, reason = "the time that the program takes is what is tested")]
    let start = std::time::Instant::now();
    let Some((bytes, said, code)) = ran(&["--count", "21", "--rate", "40"]).await else { return };
    assert_eq!((lines(&bytes).len(), code), (21, 0), "{said}");
    // The first at once, twenty more at a fortieth of a second each.
    assert!(start.elapsed() >= Duration::from_millis(500), "{:?}", start.elapsed());
}

/// The most memory that was resident, in bytes.
fn peak_memory(child: &Child) -> u64 {
    let path = format!("/proc/{}/status", child.id().unwrap());
    let status = std::fs::read_to_string(path).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    1024 * line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
}

/// Waits until the process has used no processor time for a while: it waits itself.
async fn until_still(child: &Child) {
    let path = format!("/proc/{}/stat", child.id().unwrap());
    let (mut last, mut looks) = (String::new(), 0);
    let mut pace = tokio::time::interval(Duration::from_millis(10));
    while looks < 20 {
        pace.tick().await;
        let stat = std::fs::read_to_string(&path).unwrap();
        let used = stat.rsplit(')').next().unwrap().split(' ').skip(12).take(2).collect::<Vec<_>>().join(" ");
        looks = if used == last { looks + 1 } else { 0 };
        last = used;
    }
}

// R-R5
#[tokio::test]
async fn a_reader_that_stops_is_waited_for_and_nothing_piles_up() {
    const RECORDS: usize = 300_000;
    const SIZE: usize = 1000;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("app.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let to = format!("unix:{}", path.display());
    let (count, size) = (RECORDS.to_string(), SIZE.to_string());
    let Some(mut command) = generate(&["--to", &to, "--count", &count, "--size", &size]) else { return };
    let child = command.stderr(Stdio::piped()).spawn().unwrap();
    let (mut stream, _) = patiently("connected", listener.accept()).await.unwrap();
    until_still(&child).await;
    let mut read = vec![0; RECORDS * SIZE];
    patiently("sent everything", stream.read_exact(&mut read)).await.unwrap();
    assert!(read.ends_with(b"\"}\n"));
    // Without waiting for its reader it would hold most of the 300 MB; Node alone needs 50.
    let peak = peak_memory(&child);
    assert!(peak < 150_000_000, "{peak} bytes");
    assert_eq!(patiently("ended its half", stream.read(&mut [0])).await.unwrap(), 0);
    drop(stream);
    let ended = patiently("ended", child.wait_with_output()).await.unwrap();
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.success(), "{said}");
    assert!(said.contains(&format!("wrote {RECORDS} of {RECORDS} records, 300000000 bytes")), "{said}");
}

#[tokio::test]
async fn a_tcp_listener_gets_the_same_bytes() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let to = format!("tcp:{}", listener.local_addr().unwrap());
    let Some(mut command) = generate(&["--to", &to, "--count", "500"]) else { return };
    let child = command.stderr(Stdio::piped()).spawn().unwrap();
    let (mut stream, _) = patiently("connected", listener.accept()).await.unwrap();
    let mut read = Vec::new();
    patiently("ended", stream.read_to_end(&mut read)).await.unwrap();
    drop(stream);
    assert!(patiently("ended", child.wait_with_output()).await.unwrap().status.success());
    assert_eq!(Some(read), ran(&["--count", "500"]).await.map(|(bytes, ..)| bytes));
}

#[tokio::test]
async fn a_listener_that_goes_away_is_an_error_that_says_how_far_it_came() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("app.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let to = format!("unix:{}", path.display());
    // So slow that it is between two records, or so fast that it is in the midst of a write.
    for rate in ["20", "0"] {
        let Some(mut command) = generate(&["--to", &to, "--count", "4000000", "--rate", rate]) else {
            return;
        };
        let child = command.stderr(Stdio::piped()).spawn().unwrap();
        let (mut stream, _): (UnixStream, _) = patiently("connected", listener.accept()).await.unwrap();
        stream.read_exact(&mut [0; 400]).await.unwrap();
        drop(stream);
        let ended = patiently("ended", child.wait_with_output()).await.unwrap();
        let said = String::from_utf8_lossy(&ended.stderr);
        assert_eq!(ended.status.code(), Some(1), "{said}");
        assert!(said.starts_with(&format!("generate-data: {to}: the connection was ")), "{said}");
        assert!(said.trim_end().ends_with(" of 4000000 records"), "{said}");
    }
}

#[tokio::test]
async fn a_pipe_whose_reader_has_seen_enough_ends_the_run_quietly() {
    let Some(mut command) = generate(&["--count", "4000000"]) else { return };
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    stdout.read_exact(&mut [0; 400]).await.unwrap();
    drop(stdout);
    let ended = patiently("ended", child.wait_with_output()).await.unwrap();
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.success(), "{said}");
    assert!(said.contains("of 4000000 records") && said.contains("whose reader has left"), "{said}");
}

#[tokio::test]
async fn errors_name_what_is_wrong_and_what_would_be_right() {
    let directory = tempfile::tempdir().unwrap();
    let nowhere = format!("unix:{}", directory.path().join("app.sock").display());
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let nobody = format!("tcp:{free}");
    for (arguments, code, expected) in [
        (["--count", "0"], 2, "--count is 0: it must be a whole number, 1 to 4294967295"),
        (["--size", "255"], 2, "--size is 255: it must be a whole number, 256 to 1024000"),
        (["--rate", "fast"], 2, "--rate is fast: it must be a whole number, 0 to 10000000"),
        (["--seed", "-1"], 2, "--seed is -1: it must be a whole number, 0 to 4294967295"),
        (["--to", "app.sock"], 2, "--to is app.sock: it must be unix:PATH or tcp:HOST:PORT"),
        (["--to", "tcp:localhost"], 2, "--to is tcp:localhost: it must be unix:PATH or tcp:HOST:PORT"),
        (
            ["--lines", "5"],
            2,
            "--lines is no option: those are --count, --rate, --size, --seed, --to, --help",
        ),
        (["--count=5", "--seed"], 2, "--seed needs a value"),
        (
            ["--to", &nowhere],
            1,
            &format!("{nowhere}: no such socket: start hydrant with a listener there first"),
        ),
        (
            ["--to", &nobody],
            1,
            &format!("{nobody}: nobody listens there: start hydrant with a listener there first"),
        ),
    ] {
        let Some((wrote, said, exit)) = ran(&arguments).await else { return };
        assert_eq!(exit, code, "{said}");
        assert!(said.starts_with(&format!("generate-data: {expected}")), "{said}");
        assert!(wrote.is_empty() && said.lines().count() == 1, "{said}");
    }
}

#[tokio::test]
async fn help_shows_every_option_with_examples() {
    let Some((help, said, code)) = ran(&["--help"]).await else { return };
    let help = String::from_utf8(help).unwrap();
    assert_eq!((code, said.as_str()), (0, ""));
    for word in ["--count", "--rate", "--size", "--seed", "--to", "--help", "Examples:", "Exit codes:"] {
        assert!(help.contains(word), "{word}: {help}");
    }
}
