//! The spool on a real directory.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::{append, drain, options};
use crate::spool::inspect::Inspection;
use crate::spool::layout::segment_name;
use crate::spool::{Disk, DiskError, Options, Sync, open};

#[test]
fn records_come_back_from_a_real_directory() {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("a/spool");
    for sync in [Sync::Always, Sync::Os] {
        let mut opened = open(Disk::open(&path).unwrap(), options(sync)).unwrap();
        let start = opened.spool.next_sequence();
        for id in (start..start + 60).step_by(3) {
            append(&mut opened.spool, id..id + 3).unwrap();
            opened.spool.sync().unwrap();
        }
        opened.spool.settle(0..start + 30);
        assert!(opened.spool.checkpoint().unwrap() > 0);
        // As a killed process: nothing is closed.
        drop(opened);
        let mut opened = open(Disk::open(&path).unwrap(), options(sync)).unwrap();
        let ids: Vec<u64> = drain(&mut opened).into_iter().map(|(id, _)| id).collect();
        assert_eq!(ids, (start + 30..start + 60).collect::<Vec<_>>());
        assert!(opened.report.failures.is_empty() && opened.report.damage.is_empty(), "{:?}", opened.report);
        opened.spool.settle(0..start + 60);
        opened.spool.close().unwrap();
    }
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
    for entry in fs::read_dir(&path).unwrap() {
        assert_eq!(entry.unwrap().metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }
}

#[test]
fn a_directory_has_one_writer_and_any_number_of_onlookers() {
    let directory = tempfile::tempdir().unwrap();
    let mut opened = open(Disk::open(directory.path()).unwrap(), options(Sync::Always)).unwrap();
    append(&mut opened.spool, 0..5).unwrap();
    let error = Disk::open(directory.path()).unwrap_err();
    assert!(matches!(error, DiskError::Locked(_)), "{error}");
    let inspection = Inspection::new(Disk::look(directory.path()).unwrap()).unwrap();
    assert_eq!(inspection.summary().live.records, 5);
    assert!(inspection.summary().is_sound());
    // An onlooker that is asked to start could only fail, and does so without harm.
    let looked = open(Disk::look(directory.path()).unwrap(), options(Sync::Always)).unwrap();
    assert!(!looked.report.failures.is_empty());
    drop(opened);
    Disk::open(directory.path()).unwrap();
}

#[test]
fn files_of_others_are_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let others = ["notes.txt", "1.segment", "watermark.bak"];
    others.iter().for_each(|name| fs::write(directory.path().join(name), b"mine").unwrap());
    fs::create_dir(directory.path().join(segment_name(7))).unwrap();
    let mut opened = open(Disk::open(directory.path()).unwrap(), options(Sync::Always)).unwrap();
    append(&mut opened.spool, 0..5).unwrap();
    opened.spool.settle(0..5);
    opened.spool.close().unwrap();
    others.iter().for_each(|name| assert_eq!(fs::read(directory.path().join(name)).unwrap(), b"mine"));
}

#[test]
fn a_spool_of_four_mebibytes_takes_long_records_for_ever() {
    let directory = tempfile::tempdir().unwrap();
    let options = Options::new(4 * 1024 * 1024, Sync::Os, 1);
    let mut spool = open(Disk::open(directory.path()).unwrap(), options).unwrap().spool;
    let record = vec![b'x'; 1_024_000 + 256 * 1024];
    for _ in 0..20 {
        let appended = spool.append(0, &[u32::try_from(record.len()).unwrap()], &record).unwrap();
        spool.settle(appended.sequences);
        spool.checkpoint().unwrap();
    }
}
