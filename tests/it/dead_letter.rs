//! Records that failed for good, looked at and sent again beside the daemon that set them aside.

use std::path::Path;

use bytes::Bytes;
use hydrant::local::{FailCode, Faults, Options, Poison, PoisonEffect};
use serde_json::Value;
use tempfile::TempDir;
use tokio::net::UnixListener;

use crate::commands::run;
use crate::daemon::{Daemon, Sink, hydrant, patiently};

const FILE: &str = "dead-letters.jsonl";

/// A sink that fails what holds "bad", and a daemon with a store.
async fn with_letters(settings: &[&str]) -> (Sink, Daemon, TempDir) {
    let sink = Sink::start(Options { faults: poisoned(), ..Options::default() }).await;
    let store = tempfile::tempdir().unwrap();
    let directory = format!("dead_letter.directory={}", store.path().display());
    let own = ["linger=10ms", "retry.max_retries=1", "retry.base_delay=1ms", &directory];
    let settings: Vec<_> = own.into_iter().chain(settings.iter().copied()).collect();
    let daemon = Daemon::start(&sink.local.url(), &settings).await;
    (sink, daemon, store)
}

fn poisoned() -> Faults {
    let effect = PoisonEffect::FailEntry(FailCode::InternalFailure);
    Faults { poison: Some(Poison { bytes: Bytes::from_static(b"bad"), effect }), ..Faults::default() }
}

/// Lines `bad 0` to `bad N`, and as many good ones.
fn half_bad(records: usize) -> Vec<u8> {
    (0..records).flat_map(|number| format!("good {number}\nbad {number}\n").into_bytes()).collect()
}

/// `hydrant dead-letter` with the store in `directory`.
async fn dead_letter(directory: &Path, arguments: &[&str]) -> (i32, String, String) {
    let place = directory.display().to_string();
    let (first, rest) = arguments.split_first().unwrap();
    run(&[&["dead-letter", first, "--directory", &place], rest].concat(), b"").await
}

async fn listed(directory: &Path) -> Value {
    let (code, stdout, stderr) = dead_letter(directory, &["list", "--json"]).await;
    assert_eq!(code, 0, "{stderr}");
    serde_json::from_str(&stdout).unwrap()
}

fn address(daemon: &Daemon) -> String {
    format!("unix:{}", daemon.socket().display())
}

// R-T10, R-T11
#[tokio::test]
async fn what_failed_for_good_is_listed_exported_and_delivered_by_a_replay() {
    let (sink, daemon, store) = with_letters(&["listen.app.acks=received"]).await;
    let store = store.path();
    daemon.write(&half_bad(600)).await;
    daemon.until_settled(1200).await;
    let list = listed(store).await;
    assert_eq!(
        (&list["records"], &list["groups"][0]["error_code"]),
        (&600.into(), &"InternalFailure".into())
    );
    let (code, stdout, _) = dead_letter(store, &["list", "--records"]).await;
    assert!(code == 0 && stdout.lines().count() == 600 + 1 + 3, "{stdout}");
    assert!(!stdout.contains("bad"), "{stdout}");
    let to = store.join("exported");
    let (code, stdout, stderr) =
        dead_letter(store, &["export", "--output", to.to_str().unwrap(), "--since", "1h"]).await;
    assert_eq!((code, &*stdout, &*stderr), (0, "", "600 records of 4690 bytes exported\n"));
    let exported = std::fs::read_to_string(to).unwrap();
    let lines: std::collections::BTreeSet<_> = exported.lines().collect();
    assert!(lines.len() == 600 && lines.iter().all(|line| line.starts_with("bad ")));
    let (code, _, stderr) = dead_letter(store, &["replay", "--to", &address(&daemon), "--until", "1h"]).await;
    assert_eq!(code, 0, "{stderr}");
    assert_eq!(listed(store).await["records"], 600, "all of them are newer");

    sink.local.set_faults(Faults::default());
    let (code, stdout, stderr) =
        dead_letter(store, &["replay", "--to", &address(&daemon), "--dry-run"]).await;
    assert!(code == 0 && stdout.contains("600 records of 4690 bytes would be sent"), "{stdout}{stderr}");
    let (code, stdout, stderr) = dead_letter(store, &["replay", "--to", &address(&daemon)]).await;
    let expected = "600 of 600 records acknowledged and removed from the store\n";
    assert_eq!((code, &*stdout), (0, expected), "{stderr}");
    assert_eq!(std::fs::read(store.join(FILE)).unwrap(), b"");
    daemon.until_settled(1800).await;

    // The daemon goes on with the file that took the place of its own.
    sink.local.set_faults(poisoned());
    daemon.write(b"bad again\ngood again\n").await;
    daemon.until_settled(1802).await;
    assert_eq!(listed(store).await["records"], 1);
    assert!(daemon.stop().await.status.success());
    let delivered = sink.lines().await;
    assert_eq!((delivered.len(), delivered.values().sum::<usize>()), (1201, 1201));
}

// R-T11
#[tokio::test]
async fn damaged_lines_and_records_that_no_line_carries_stay_in_the_store_and_are_named() {
    let (sink, daemon, store) = with_letters(&["listen.app.acks=delivered"]).await;
    let store = store.path();
    let letter = |data: &str| {
        let data = data.to_owned();
        format!(
            r#"{{"time":"2026-11-24T21:38:56.710Z","stream":"app","error_code":"Shutdown","attempts":2,"data":"{data}"}}"#
        ) + "\n"
    };
    // "a\n", damage, "b\nc\n", damage, "d\r\n".
    let kept = ["{\"time\":\"2026\n".to_owned(), letter("YgpjCg=="), "\n".to_owned()];
    let text = [&letter("YQo="), &kept[0], &kept[1], &kept[2], &letter("ZA0K")].map(String::as_str).concat();
    std::fs::write(store.join(FILE), text).unwrap();
    assert_eq!(listed(store).await["damaged_lines"], serde_json::json!([2, 4]));
    let (code, exported, stderr) = dead_letter(store, &["export"]).await;
    assert_eq!((code, &*exported), (1, "a\nb\nc\nd\r\n"), "{stderr}");
    assert!(stderr.contains("lines 2, 4 are damaged"), "{stderr}");
    let (code, stdout, stderr) = dead_letter(store, &["replay", "--to", &address(&daemon)]).await;
    assert_eq!((code, &*stdout), (1, "2 of 2 records acknowledged and removed from the store\n"), "{stderr}");
    assert!(
        stderr.contains("the record of line 3 stays in the store: it has a line break inside"),
        "{stderr}"
    );
    assert_eq!(std::fs::read_to_string(store.join(FILE)).unwrap(), kept.concat());
    assert!(daemon.stop().await.status.success());
    assert_eq!(sink.delivered().await, b"a\nd\r\n");
}

// R-T11
#[tokio::test]
async fn a_replay_that_is_killed_loses_no_letter() {
    let (sink, daemon, store) = with_letters(&["listen.app.acks=received"]).await;
    let store = store.path();
    daemon.write(&half_bad(2000)).await;
    daemon.until_settled(4000).await;
    let before = std::fs::read(store.join(FILE)).unwrap();
    // A listener that takes the first group and never answers holds it in the middle.
    let elsewhere = store.join("silent.sock");
    let listener = UnixListener::bind(&elsewhere).unwrap();
    let mut command = hydrant();
    command.args(["dead-letter", "replay", "--to", &format!("unix:{}", elsewhere.display()), "--directory"]);
    let mut child = command.arg(store).spawn().unwrap();
    let connection = patiently("connected", listener.accept()).await.unwrap();
    // Meanwhile another one is refused.
    let (code, _, stderr) = dead_letter(store, &["replay", "--to", &address(&daemon)]).await;
    assert!(code == 1 && stderr.contains("are being replayed already"), "{code} {stderr}");
    child.kill().await.unwrap();
    drop(connection);
    assert_eq!(std::fs::read(store.join(FILE)).unwrap(), before);

    sink.local.set_faults(Faults::default());
    let (code, stdout, stderr) = dead_letter(store, &["replay", "--to", &address(&daemon)]).await;
    let expected = "2000 of 2000 records acknowledged and removed from the store\n";
    assert_eq!((code, &*stdout), (0, expected), "{stderr}");
    daemon.until_settled(6000).await;
    assert!(daemon.stop().await.status.success());
    let delivered = sink.lines().await;
    assert_eq!((delivered.len(), delivered.values().sum::<usize>()), (4000, 4000));
}

// R-T11
#[tokio::test]
async fn letters_that_are_not_acknowledged_stay() {
    let (_sink, daemon, store) = with_letters(&["listen.app.max_record_bytes=10"]).await;
    let store = store.path();
    daemon.write(b"bad 1\nbad 2\n").await;
    daemon.until_settled(2).await;
    let before = std::fs::read(store.join(FILE)).unwrap();
    // Nothing is known of what is named alone, so that it shows only at the end that it has no acks.
    let to = address(&daemon);
    let (code, stdout, stderr) = dead_letter(store, &["replay", "--timeout", "1s", "--to", &to]).await;
    assert_eq!((code, &*stdout), (1, "0 of 2 records acknowledged and removed from the store\n"), "{stderr}");
    assert!(
        stderr.contains("acknowledged none of 2 records, which stay in the store: set `acks`"),
        "{stderr}"
    );
    daemon.until_settled(4).await;
    let setting = format!("listen.app.address={to}");
    let (code, _, stderr) = dead_letter(store, &["replay", "--set", &setting]).await;
    assert!(code == 2 && stderr.contains("set `acks` of one to"), "{code} {stderr}");
    let nobody = ["replay", "--to", "unix:/nonexistent/app.sock"];
    let (code, _, stderr) = dead_letter(store, &nobody).await;
    assert!(code == 1 && stderr.contains("unix:/nonexistent/app.sock could not be connected to"), "{stderr}");
    let text = std::fs::read(store.join(FILE)).unwrap();
    assert!(text.starts_with(&before), "what was there is there");
    assert!(daemon.stop().await.status.success());
}

// R-T10
#[tokio::test]
async fn a_store_that_is_not_there_is_told_apart_from_an_empty_one() {
    let directory = tempfile::tempdir().unwrap();
    for command in ["list", "export", "replay"] {
        let to = ["--to", "unix:/nonexistent/app.sock"];
        let to = if command == "replay" { &to[..] } else { &[] };
        let (code, stdout, stderr) = dead_letter(directory.path(), &[&[command], to].concat()).await;
        assert_eq!((code, &*stdout), (0, "no dead letters\n"), "{stderr}");
        let missing = directory.path().join("missing");
        let (code, stdout, stderr) = dead_letter(&missing, &[&[command], to].concat()).await;
        assert_eq!((code, &*stdout), (1, ""), "{stderr}");
        assert!(stderr.contains("missing could not be opened"), "{stderr}");
        let (code, _, stderr) = run(&["dead-letter", command], b"").await;
        assert!(code == 2 && stderr.contains("`dead_letter.directory` is not set"), "{stderr}");
    }
}
