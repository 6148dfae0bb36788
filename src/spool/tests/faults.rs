//! A disk that is full, failing or read-only, at every call.

use super::simulated::{Call, Fault, Persistence, Simulated};
use super::{Truth, append, options, recover, run};
use crate::spool::{Full, OpenError, Options, Spool, Sync, WriteError, open};

const ENOSPC: i32 = 28;
const EDQUOT: i32 = 122;
const EMFILE: i32 = 24;
const EIO: i32 = 5;
const EROFS: i32 = 30;
const FULL: [i32; 3] = [ENOSPC, EDQUOT, EMFILE];
const FAULTS: [Fault; 6] = [
    Fault::Errno(ENOSPC),
    Fault::Errno(EDQUOT),
    Fault::Errno(EMFILE),
    Fault::Errno(EIO),
    Fault::Errno(EROFS),
    Fault::Short,
];

/// What is left behind by a run with a fault holds what it was promised, power cut or not.
fn check(disk: &Simulated, truth: &Truth, sync: Sync, context: &str) {
    for persistence in Persistence::EVERY {
        let context = format!("{context}, {persistence:?}");
        let (_, found) = recover(&disk.crash(persistence, 1), options(sync)).unwrap();
        truth.check(&found, persistence != Persistence::All, sync, &context);
    }
}

#[test]
fn any_call_may_fail_in_any_way_and_no_promise_is_broken() {
    for sync in [Sync::Always, Sync::Os] {
        let whole = Simulated::new(1);
        run(&whole, sync, 1, 160);
        let calls = whole.calls().len();
        let renames = whole.calls().iter().filter(|(call, _)| *call == Call::Rename).count();
        assert_eq!(renames > 1, sync == Sync::Os, "segments that are written over are a part of it");
        let mut points = 0;
        for at in 0..calls {
            for fault in FAULTS {
                for length in [1, 7] {
                    let disk = Simulated::new(1).fail(at..at + length, fault);
                    let (mut truth, spool) = run(&disk, sync, 1, 160);
                    let context = format!("{sync:?}, calls {at} to {} of {calls}: {fault:?}", at + length);
                    check_end(&disk, spool, &mut truth, at..at + length, fault, &context);
                    check(&disk, &truth, sync, &context);
                    points += 1;
                }
            }
        }
        println!("{sync:?}: {points} failures of {calls} calls");
    }
}

/// Whether the writer has ended is as the fault was; and it never syncs again after a failed sync.
fn check_end(
    disk: &Simulated,
    spool: Option<Spool<Simulated>>,
    truth: &mut Truth,
    faulty: std::ops::Range<usize>,
    fault: Fault,
    context: &str,
) {
    let Some(mut spool) = spool else { return };
    let calls = disk.calls();
    let failed: Vec<_> = calls.iter().skip(faulty.start).take(faulty.len()).copied().collect();
    let errno = match fault {
        Fault::Errno(errno) => errno,
        Fault::Short => {
            assert!(!spool.is_poisoned(), "{context}: ended by a short write");
            return;
        }
    };
    if let Some((_, file)) = failed.iter().find(|(call, file)| *call == Call::SyncData && *file != usize::MAX)
    {
        let after = calls.iter().skip(faulty.end).filter(|call| **call == (Call::SyncData, *file));
        assert_eq!(after.count(), 0, "{context}: a failed sync is tried again");
    }
    // With room again, a disk that was only full takes everything.
    if FULL.contains(&errno) && faulty.len() == 1 && !failed.iter().any(|(call, _)| is_final(*call)) {
        assert!(!spool.is_poisoned(), "{context}: ended for want of room");
        append(&mut spool, truth.tried..truth.tried + 1).unwrap_or_else(|error| panic!("{context}: {error}"));
        spool.sync().unwrap_or_else(|error| panic!("{context}: {error}"));
        truth.appended.insert(truth.tried);
        truth.durable = truth.appended.clone();
        truth.tried += 1;
    }
}

/// Calls that no want of room excuses.
fn is_final(call: Call) -> bool {
    matches!(call, Call::SyncData | Call::SyncDirectory | Call::Truncate | Call::Remove)
}

#[test]
fn a_full_disk_takes_nothing_and_then_everything() {
    for errno in [ENOSPC, EDQUOT] {
        for room_after in 1..40 {
            let disk = Simulated::new(3);
            let mut spool = open(disk.clone(), options(Sync::Always)).unwrap().spool;
            append(&mut spool, 0..3).unwrap();
            spool.sync().unwrap();
            let from = disk.calls().len();
            let disk = disk.fail(from..from + room_after, Fault::Errno(errno));
            let mut id = 3;
            let mut refused = 0;
            while id < 30 {
                match append(&mut spool, id..id + 1) {
                    Ok(_) => id += 1,
                    Err(WriteError::Full(Full::System)) => refused += 1,
                    // Nothing could be undone, for truncating failed as well.
                    Err(error) => {
                        assert!(room_after > 1, "{error}");
                        break;
                    }
                }
            }
            assert!(refused > 0 || spool.is_poisoned());
            if !spool.is_poisoned() {
                spool.sync().unwrap();
                let (opened, found) =
                    recover(&disk.crash(Persistence::Synced, 0), options(Sync::Always)).unwrap();
                assert_eq!(found, (0..30).collect::<Vec<_>>());
                // Nothing is left of the attempts.
                let report = opened.report;
                assert!(report.damage.is_empty() && report.torn_bytes == 0, "{report:?}");
            }
        }
    }
}

#[test]
fn what_a_full_disk_took_of_a_frame_is_cut_off_again() {
    for seed in 0..20 {
        let disk = Simulated::new(seed);
        let mut spool = open(disk.clone(), options(Sync::Always)).unwrap().spool;
        append(&mut spool, 0..3).unwrap();
        let next = disk.calls().len();
        let disk = disk.fail(next..next + 1, Fault::Errno(ENOSPC));
        assert!(matches!(append(&mut spool, 3..6), Err(WriteError::Full(Full::System))));
        let (opened, found) = recover(&disk.crash(Persistence::All, 0), options(Sync::Always)).unwrap();
        assert_eq!(found, [0, 1, 2]);
        assert!(opened.report.damage.is_empty() && opened.report.torn_bytes == 0, "{:?}", opened.report);
    }
}

#[test]
fn the_limit_holds_and_settling_makes_room() {
    for sync in [Sync::Always, Sync::Os] {
        the_limit_holds(options(sync));
    }
}

fn the_limit_holds(options: Options) {
    let disk = Simulated::new(4);
    let mut spool = open(disk.clone(), options).unwrap().spool;
    let (mut id, mut settled) = (0, 0);
    for _ in 0..20 {
        loop {
            match append(&mut spool, id..id + 1) {
                Ok(appended) => {
                    assert_eq!(appended.sequences, id..id + 1);
                    id += 1;
                }
                Err(WriteError::Full(Full::Limit)) => break,
                Err(error) => panic!("{error}"),
            }
        }
        let bytes: usize =
            disk.files().iter().filter(|(name, _)| *name != "watermark").map(|(_, bytes)| bytes.len()).sum();
        assert_eq!(spool.total_bytes(), bytes as u64);
        assert!(spool.total_bytes() <= options.limit_bytes);
        assert!(spool.total_bytes() + 4096 > options.limit_bytes, "{}", spool.total_bytes());
        spool.settle(settled..id);
        settled = id;
        assert!(spool.checkpoint().unwrap() > options.limit_bytes - 2 * options.segment_bytes - 4096);
    }
}

#[test]
fn after_a_failed_sync_nothing_is_called_durable_and_settling_goes_on() {
    let disk = Simulated::new(5);
    let mut spool = open(disk.clone(), options(Sync::Always)).unwrap().spool;
    append(&mut spool, 0..2).unwrap();
    assert_eq!(spool.sync().unwrap(), 2);
    append(&mut spool, 2..4).unwrap();
    let next = disk.calls().len();
    let disk = disk.fail(next..next + 1, Fault::Errno(EIO));
    assert!(matches!(spool.sync(), Err(WriteError::Failed { tried: "sync", .. })));
    assert!(matches!(spool.sync(), Err(WriteError::Poisoned)));
    assert!(matches!(append(&mut spool, 4..5), Err(WriteError::Poisoned)));
    assert_eq!(spool.durable_sequence(), 2);
    spool.settle(0..1);
    spool.checkpoint().unwrap();
    let (_, found) = recover(&disk.crash(Persistence::All, 0), options(Sync::Always)).unwrap();
    assert_eq!(found, [1, 2, 3]);
}

#[test]
fn a_start_on_a_failing_disk_harms_nothing() {
    let disk = Simulated::new(6);
    let (truth, _) = run(&disk, Sync::Always, 6, 160);
    let mut points = 0;
    for persistence in Persistence::EVERY {
        let crashed = disk.crash(persistence, 6);
        let sound = crashed.copy();
        let (_, expected) = recover(&sound, options(Sync::Always)).unwrap();
        truth.check(&expected, persistence != Persistence::All, Sync::Always, &"without a fault");
        for at in 0..sound.calls().len() {
            for fault in FAULTS {
                for length in [1, 5, usize::MAX / 2] {
                    let failing = crashed.copy().fail(at..at + length, fault);
                    let context = format!("{persistence:?}, {fault:?} from call {at} for {length}");
                    match recover(&failing, options(Sync::Always)) {
                        Ok((_, found)) => {
                            assert!(found.iter().all(|id| *id < truth.tried), "{context}");
                            assert!(found.is_sorted_by(|one, other| one < other), "{context}: {found:?}");
                        }
                        Err(OpenError::List(_)) => {}
                        Err(error) => panic!("{context}: {error}"),
                    }
                    // What a killed process had left to the kernel was never durable, and is not where
                    // the start could not sync it.
                    let killed = persistence == Persistence::All;
                    let kept = if killed { Persistence::All } else { Persistence::Synced };
                    let again = failing.crash(kept, 0);
                    let (_, found) = recover(&again, options(Sync::Always)).unwrap();
                    // Where the watermark could not be read, more than that.
                    let lost: Vec<_> = expected.iter().filter(|id| !found.contains(id)).collect();
                    assert!(lost.is_empty(), "{context}: lost: {lost:?}");
                    assert!(found.iter().all(|id| *id < truth.tried), "{context}: {found:?}");
                    assert!(found.is_sorted_by(|one, other| one < other), "{context}: {found:?}");
                    points += 1;
                }
            }
        }
    }
    println!("{points} failures during a start");
}
