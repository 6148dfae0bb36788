//! `hydrant spool` on spools as they are met: sound, damaged, foreign, newer, in use. Whatever it finds,
//! it changes nothing.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::SystemTime;

use hydrant::spool::layout::{SegmentHeader, segment_name};
use hydrant::spool::{Disk, Options, Spool, Sync, open};
use serde_json::Value;

use crate::commands::run;

/// A spool in `directory`, of which "b" is settled and "a", "c" and "d" wait.
fn written(directory: &Path, identity: u64) -> Spool<Disk> {
    let options = Options::new(4 << 20, Sync::Os, identity);
    let mut spool = open(Disk::open(directory).unwrap(), options).unwrap().spool;
    spool.append(1_000, &[2, 4, 6], b"a\nb\nc\n").unwrap();
    spool.append(2_000, &[2], b"d\n").unwrap();
    spool.settle(1..2);
    spool.checkpoint().unwrap();
    spool
}

/// Every file with its bytes and the time of its last change.
fn state(directory: &Path) -> BTreeMap<String, (Vec<u8>, SystemTime)> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap());
    entries
        .map(|entry| {
            let modified = entry.metadata().unwrap().modified().unwrap();
            (entry.file_name().into_string().unwrap(), (fs::read(entry.path()).unwrap(), modified))
        })
        .collect()
}

/// Exit code, standard output and standard error of `hydrant spool COMMAND`, which changes nothing.
async fn spool(directory: &Path, arguments: &[&str]) -> (i32, String, String) {
    let before = state(directory);
    let changed = fs::metadata(directory).unwrap().modified().unwrap();
    let ended = run(&[&["spool"], arguments, &[directory.to_str().unwrap()]].concat(), b"").await;
    assert!(state(directory) == before, "{arguments:?} changed a file");
    assert_eq!(fs::metadata(directory).unwrap().modified().unwrap(), changed, "{arguments:?}");
    ended
}

async fn json(directory: &Path, command: &str) -> (i32, Value) {
    let (code, stdout, stderr) = spool(directory, &[command, "--json"]).await;
    (code, serde_json::from_str(&stdout).unwrap_or_else(|error| panic!("{error}: {stdout}{stderr}")))
}

fn change(directory: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let path = directory.join(segment_name(1));
    let mut bytes = fs::read(&path).unwrap();
    change(&mut bytes);
    fs::write(path, bytes).unwrap();
}

// R-T12
#[tokio::test]
async fn a_sound_spool_is_described_and_exported_also_while_a_daemon_has_it_open() {
    let directory = tempfile::tempdir().unwrap();
    let mut held = Some(written(directory.path(), 1));
    for _ in ["open", "closed"] {
        let (code, stdout, stderr) = spool(directory.path(), &["info"]).await;
        assert_eq!(code, 0, "{stderr}");
        assert!(stdout.contains("to be delivered      3 records of 6 bytes"), "{stdout}");
        assert!(stdout.ends_with("verdict              sound\n"), "{stdout}");
        let (code, verified) = json(directory.path(), "verify").await;
        assert_eq!((code, &verified["sound"], &verified["live"]["records"]), (0, &true.into(), &3.into()));
        let (code, stdout, stderr) = spool(directory.path(), &["export"]).await;
        assert_eq!((code, &*stdout, &*stderr), (0, "a\nc\nd\n", "3 records of 6 bytes exported\n"));
        drop(held.take());
    }
    let elsewhere = tempfile::tempdir().unwrap();
    let file = elsewhere.path().join("records");
    for (expected, says) in [(0, "3 records of 6 bytes"), (1, "could not be made a new file")] {
        let to = file.to_str().unwrap();
        let (code, stdout, stderr) = spool(directory.path(), &["export", "--output", to]).await;
        assert_eq!((code, &*stdout), (expected, ""), "{stderr}");
        assert!(stderr.contains(says), "{stderr}");
    }
    assert_eq!(fs::read(&file).unwrap(), b"a\nc\nd\n");
    let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&file).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
}

// R-T12
#[tokio::test]
async fn of_a_damaged_spool_what_can_be_read_is_exported_and_the_rest_is_said() {
    let directory = tempfile::tempdir().unwrap();
    drop(written(directory.path(), 1));
    change(directory.path(), |bytes| bytes[70] ^= 1);
    let (code, verified) = json(directory.path(), "verify").await;
    assert_eq!((code, &verified["sound"], &verified["damaged_bytes"]), (1, &false.into(), &61.into()));
    assert_eq!(json(directory.path(), "info").await.0, 0);
    let (code, stdout, stderr) = spool(directory.path(), &["export"]).await;
    assert_eq!((code, &*stdout), (1, "d\n"), "{stderr}");
    assert!(stderr.contains("1 records of 2 bytes exported"), "{stderr}");
    assert!(stderr.contains("61 bytes are damaged, 2 records missing"), "{stderr}");
}

// R-T12
#[tokio::test]
async fn a_torn_end_is_no_damage() {
    let directory = tempfile::tempdir().unwrap();
    drop(written(directory.path(), 1));
    let end = |bytes: &[u8]| usize::try_from(SegmentHeader::decode(bytes).unwrap().end).unwrap();
    change(directory.path(), |bytes| bytes.truncate(end(bytes) - 1));
    let (code, verified) = json(directory.path(), "verify").await;
    assert_eq!((code, &verified["live"]["records"]), (0, &2.into()), "{verified:#}");
    assert!(verified["torn_bytes"].as_u64() > Some(0), "{verified:#}");
}

// R-T12
#[tokio::test]
async fn a_segment_of_another_spool_is_named_and_left_out() {
    let (own, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    // A spool is that of most of its segments, and each start begins one.
    (0..2).for_each(|_| drop(written(own.path(), 1)));
    drop(written(other.path(), 2));
    fs::copy(other.path().join(segment_name(1)), own.path().join(segment_name(9))).unwrap();
    let (code, verified) = json(own.path(), "verify").await;
    assert_eq!((code, &verified["left_alone"][0]["name"]), (1, &segment_name(9).into()), "{verified:#}");
    let (code, stdout, stderr) = spool(own.path(), &["export"]).await;
    assert_eq!((code, &*stdout), (1, "a\nc\nd\na\nb\nc\nd\n"), "{stderr}");
    assert!(stderr.contains("1 files left alone"), "{stderr}");
}

// R-T12
#[tokio::test]
async fn what_is_no_spool_or_a_newer_one_is_refused_with_the_reason() {
    let directory = tempfile::tempdir().unwrap();
    let refused = async |directory: &Path, reason: &str| {
        for command in ["info", "verify", "export"] {
            let (code, stdout, stderr) = spool(directory, &[command]).await;
            assert_eq!((code, &*stdout), (2, ""), "{stderr}");
            assert!(stderr.starts_with("error: ") && stderr.contains(reason), "{stderr}");
        }
    };
    fs::write(directory.path().join("notes.txt"), "mine").unwrap();
    refused(directory.path(), "holds no spool").await;
    drop(written(directory.path(), 1));
    change(directory.path(), |bytes| {
        bytes[8..12].copy_from_slice(&2_u32.to_le_bytes());
        let crc = crc32c::crc32c(&bytes[..12]);
        bytes[12..16].copy_from_slice(&crc.to_le_bytes());
    });
    refused(directory.path(), "has spool format version 2, and this hydrant reads version 1").await;
    let missing = directory.path().join("missing");
    let (code, _, stderr) = run(&["spool", "verify", missing.to_str().unwrap()], b"").await;
    assert!(code == 2 && stderr.contains("could not open") && stderr.contains("missing"), "{stderr}");
    assert!(!missing.exists());
}
