//! AWS clients that are not ours against `hydrant local`.

use std::path::PathBuf;
use std::process::Stdio;

use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Child;

use crate::daemon::{STREAM, hydrant};
use crate::python::{Python, python};

/// `hydrant local` as a process of its own.
struct Local {
    child: Child,
    endpoint: String,
    directory: TempDir,
}

impl Local {
    async fn start(arguments: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut command = hydrant();
        command.args(["local", "--listen", "0", "--stream", STREAM, "--dir"]).arg(directory.path());
        let mut child = command.args(arguments).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).await.unwrap();
        let endpoint = line.trim_end().strip_prefix("hydrant local is listening on ").unwrap().to_owned();
        Self { child, endpoint, directory }
    }

    /// Ends the service; what it delivered.
    async fn delivered(mut self) -> Vec<u8> {
        let pid = self.child.id().unwrap().to_string();
        assert!(std::process::Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        assert!(self.child.wait().await.unwrap().success());
        let mut directories = vec![self.directory.path().to_owned()];
        let mut files = Vec::<PathBuf>::new();
        while let Some(directory) = directories.pop() {
            for entry in std::fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() { directories.push(path) } else { files.push(path) }
            }
        }
        files.sort();
        files.iter().flat_map(|file| std::fs::read(file).unwrap()).collect()
    }
}

// R-T4
#[tokio::test]
async fn boto3_puts_describes_lists_creates_deletes_and_gets_its_own_exceptions() {
    let Some(python) = python() else { return };
    let local = Local::start(&[]).await;
    python.run(&local.endpoint, "client.py", &[STREAM]).await;
    let mut expected: Vec<u8> = (0..=255).chain([b'\n']).collect();
    expected.extend((0..500).flat_map(|number| format!("record {number}\n").into_bytes()));
    assert!(local.delivered().await == expected, "what was delivered is not what boto3 sent");
}

/// Exit code, standard output and standard error of an `aws firehose` command.
async fn aws(python: &Python, local: &Local, arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command = python.command("aws", &local.endpoint);
    let output = command.arg("firehose").args(arguments).output().await.unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

// R-T4
#[tokio::test]
async fn the_aws_cli_puts_describes_lists_and_is_told_what_is_wrong() {
    let Some(python) = python() else { return };
    let local = Local::start(&[]).await;
    let check = async |arguments: &[&str], stream: &str, code: i32, expected: &str| {
        let arguments = [arguments, &["--delivery-stream-name", stream]].concat();
        let (status, out, err) = aws(python, &local, &arguments).await;
        assert_eq!(status, Some(code), "{arguments:?}: {out}{err}");
        assert!((out + &err).contains(expected), "{arguments:?} did not say {expected}");
    };
    check(&["put-record", "--record", "Data=one"], STREAM, 0, "RecordId").await;
    let batch = ["put-record-batch", "--records", r#"[{"Data": "two"}, {"Data": "three"}]"#];
    check(&batch, STREAM, 0, r#""FailedPutCount": 0"#).await;
    check(&["describe-delivery-stream"], STREAM, 0, r#""DeliveryStreamStatus": "ACTIVE""#).await;
    let missing = "(ResourceNotFoundException) when calling the PutRecord operation";
    check(&["put-record", "--record", "Data=x"], "nowhere", 255, missing).await;
    let (_, listed, _) = aws(python, &local, &["list-delivery-streams"]).await;
    assert!(listed.contains(&format!("\"{STREAM}\"")), "{listed}");
    assert_eq!(local.delivered().await, b"onetwothree");
}
