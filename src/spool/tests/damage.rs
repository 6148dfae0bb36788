//! Every bit, every length, and every way to mislay a file.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use super::simulated::{Persistence, Simulated};
use super::{append, drain, id, options, recover};
use crate::spool::inspect::Inspection;
use crate::spool::layout::{FrameHeader, segment_name};
use crate::spool::{Live, OpenError, Options, Spool, Sync, Unusable, WatermarkState, open};

type Files = BTreeMap<String, Vec<u8>>;

/// Records of each frame, none of them long or with zeros like a sector's.
const FRAMES: [std::ops::Range<u64>; 9] = [0..2, 2..3, 3..7, 7..9, 9..12, 12..13, 13..16, 16..18, 18..20];

fn small() -> Options {
    Options { segment_bytes: 800, ..options(Sync::Always) }
}

fn write(spool: &mut Spool<Simulated>) {
    for ids in FRAMES {
        append(spool, ids).unwrap();
        spool.sync().unwrap();
    }
}

/// Three segments and a watermark that says nothing is settled.
fn files() -> Files {
    let disk = Simulated::new(0);
    let mut spool = open(disk.clone(), small()).unwrap().spool;
    write(&mut spool);
    assert!(spool.segments() >= 3, "{}", spool.segments());
    disk.files()
}

fn all() -> Vec<u64> {
    (0..20).collect()
}

/// Ids that a changed spool must still give: those of frames that lie wholly outside `changed` of
/// the file `name`.
fn intact(files: &Files, name: &str, changed: &std::ops::Range<usize>) -> Vec<u64> {
    let mut ids = Vec::new();
    let inspection = Inspection::new(Simulated::with(files)).unwrap();
    let end = inspection.export(|waiting| {
        let frame = waiting.unwrap().frame;
        let start = usize::try_from(frame.position.offset).unwrap();
        let end = start + usize::try_from(frame.header.frame_bytes()).unwrap();
        let elsewhere = segment_name(frame.position.segment) != name;
        if elsewhere || end <= changed.start || changed.end <= start {
            ids.extend(frame.header.sequences());
        }
        ControlFlow::<()>::Continue(())
    });
    assert!(end.is_continue());
    ids
}

/// Starts on `files`, and once more on what that start leaves behind.
fn check(files: &Files, expected: &[u64], context: &dyn Fn() -> String) {
    let disk = Simulated::with(files);
    let (opened, found) = recover(&disk, small()).unwrap_or_else(|error| panic!("{}: {error}", context()));
    assert_eq!(found, expected, "{}: {:?}", context(), opened.report);
    drop(opened);
    let (again, found) = recover(&disk.crash(Persistence::Synced, 0), small()).unwrap();
    assert_eq!(found, expected, "{}: at the second start: {:?}", context(), again.report);
    let report = again.report;
    let quiet = report.lost.is_empty() && report.damage.iter().all(|damage| !damage.new);
    assert!(quiet, "{}: said twice: {report:?}", context());
}

#[test]
fn any_bit_may_flip_and_every_intact_frame_is_delivered() {
    let whole = files();
    let mut points = 0;
    for (name, bytes) in &whole {
        for at in 0..bytes.len() {
            let expected = intact(&whole, name, &(at..at + 1));
            for bit in 0..8 {
                let mut files = whole.clone();
                files.get_mut(name).unwrap()[at] ^= 1 << bit;
                check(&files, &expected, &|| format!("bit {bit} of byte {at} of {name}"));
                points += 1;
            }
        }
    }
    println!("{points} bits of {} files", whole.len());
}

#[test]
fn any_file_may_end_anywhere_and_every_intact_frame_is_delivered() {
    let whole = files();
    let mut points = 0;
    for (name, bytes) in &whole {
        for length in 0..bytes.len() {
            let expected = intact(&whole, name, &(length..bytes.len()));
            // Cut there, or never written from there on.
            for kept in [length, bytes.len()] {
                let mut files = whole.clone();
                let file = files.get_mut(name).unwrap();
                file.truncate(length);
                file.resize(kept, 0);
                check(&files, &expected, &|| {
                    format!("{name} with {length} of its {} bytes, length {kept}", bytes.len())
                });
                points += 1;
            }
        }
    }
    println!("{points} truncations of {} files", whole.len());
}

#[test]
fn any_file_may_be_missing_doubled_or_under_anothers_name() {
    let whole = files();
    let segments: Vec<&String> = whole.keys().filter(|name| name.ends_with(".segment")).collect();
    for name in &segments {
        let mut files = whole.clone();
        let length = files.remove(*name).unwrap().len();
        check(&files, &intact(&whole, name, &(0..length)), &|| format!("without {name}"));

        let mut files = whole.clone();
        files.insert(segment_name(99), whole[*name].clone());
        check(&files, &all(), &|| format!("with a copy of {name}"));
        // The copy has what the damaged original has lost.
        files.get_mut(*name).unwrap()[70] ^= 1;
        check(&files, &all(), &|| format!("with a copy of {name}, itself damaged"));

        for other in &segments {
            let mut files = whole.clone();
            files.insert((*name).clone(), whole[*other].clone());
            files.insert((*other).clone(), whole[*name].clone());
            check(&files, &all(), &|| format!("with {name} and {other} swapped"));
        }
    }
    let mut files = whole.clone();
    files.remove("watermark");
    check(&files, &all(), &|| "without a watermark".to_owned());
    files.retain(|name, _| *name == segment_name(2));
    let (opened, found) = recover(&Simulated::with(&files), small()).unwrap();
    assert!(!found.is_empty() && opened.report.lost.is_empty(), "nobody knows of the others");
}

#[test]
fn what_is_lost_is_counted_and_set_aside_and_said_once() {
    let mut files = files();
    let first = files.get_mut(&segment_name(1)).unwrap();
    // The second frame's last byte, and in another segment the header of the first frame.
    let frame = 64 + frame_bytes(first, 64);
    let end = frame + frame_bytes(first, frame);
    first[end - 1] ^= 1;
    files.get_mut(&segment_name(2)).unwrap()[64] ^= 1;
    let disk = Simulated::with(&files);
    let (opened, found) = recover(&disk, small()).unwrap();
    let report = opened.report;
    assert_eq!(report.damage.len(), 2, "{report:?}");
    assert_eq!((report.damage[0].records, report.damage[0].new), (Some(1), true));
    assert_eq!(report.damage[0].place, frame as u64..end as u64);
    assert_eq!((report.damage[1].records, report.damage[1].new), (None, true));
    assert_eq!(report.lost[0], 2..3);
    assert_eq!(report.lost_records() + found.len() as u64, 20);
    assert_eq!(report.live.records, found.len() as u64);
    let after = disk.files();
    for damage in report.damage {
        let place = usize::try_from(damage.place.start).unwrap()..usize::try_from(damage.place.end).unwrap();
        assert_eq!(after[&damage.copy.unwrap()], files[&damage.name][place]);
    }
    assert!(files.iter().filter(|(name, _)| *name != "watermark").all(|(name, bytes)| after[name] == *bytes));
}

#[test]
fn a_damaged_last_frame_is_set_aside_and_a_torn_one_is_cut() {
    let whole = files();
    let last = whole.keys().rfind(|name| name.ends_with(".segment")).unwrap();
    let check = |change: &dyn Fn(&mut Vec<u8>), damaged: usize, torn: bool| {
        let mut files = whole.clone();
        change(files.get_mut(last).unwrap());
        let (opened, found) = recover(&Simulated::with(&files), small()).unwrap();
        let report = opened.report;
        assert_eq!((report.damage.len(), report.torn_bytes > 0), (damaged, torn), "{report:?}");
        assert_eq!(found, (0..18).collect::<Vec<_>>());
        // Only what was once whole can be lost.
        assert_eq!(report.lost_records(), if damaged > 0 { 2 } else { 0 });
    };
    check(&|bytes| *bytes.last_mut().unwrap() ^= 1, 1, false);
    check(&|bytes| bytes.truncate(bytes.len() - 1), 0, true);
}

/// A segment written over a settled one, of whose last append a killed process leaves any part, or which is
/// damaged at any bit.
#[test]
fn what_was_written_over_a_settled_segment_is_told_apart_from_what_is_left_of_that() {
    let options = Options { sync: Sync::Os, ..small() };
    let disk = Simulated::new(0);
    let mut spool = open(disk.clone(), options).unwrap().spool;
    let mut ids = 0;
    while spool.segments() < 2 {
        append(&mut spool, ids..ids + 1).unwrap();
        ids += 1;
    }
    // The first is settled and kept, the second is left as it is, the third is written over the first.
    let first = ids - 1;
    spool.settle(0..first);
    assert!(spool.checkpoint().unwrap() > 0);
    assert!(disk.files().contains_key("segment-spare"));
    while spool.segments() < 2 {
        append(&mut spool, ids..ids + 1).unwrap();
        ids += 1;
    }
    let (before, name) = (disk.files(), segment_name(3));
    assert!(!before.contains_key("segment-spare"));
    let appended = append(&mut spool, ids..ids + 1).unwrap();
    let whole = disk.files();
    let start = usize::try_from(appended.position.offset).unwrap();
    let end = start + usize::try_from(appended.bytes).unwrap();
    let old = (end..whole[&name].len()).filter(|at| FrameHeader::decode(&whole[&name][*at..]).is_ok());
    assert!(old.count() > 0, "frames of the settled segment are behind it");
    for written in start..=end {
        let mut files = before.clone();
        files.get_mut(&name).unwrap()[start..written].copy_from_slice(&whole[&name][start..written]);
        let disk = Simulated::with(&files);
        let (opened, found) = recover(&disk, options).unwrap();
        assert_eq!(found, (first..ids).collect::<Vec<_>>(), "{written} of {start} to {end}");
        let report = opened.report;
        assert!(report.damage.is_empty() && report.lost.is_empty() && report.torn_bytes == 0, "{report:?}");
        assert_eq!(disk.files()[&name].len(), start, "the rest is cut off");
    }
    for bit in (0..64 * 8).chain(start * 8..end * 8) {
        let mut files = whole.clone();
        files.get_mut(&name).unwrap()[bit / 8] ^= 1 << (bit % 8);
        let (opened, found) = recover(&Simulated::with(&files), options).unwrap();
        // Without its header the segment's frames are found all the same, and settled ones behind them.
        let all = first..ids + u64::from(bit < 64 * 8);
        assert_eq!(found, all.collect::<Vec<_>>(), "bit {bit}");
        assert!(!opened.report.damage.is_empty(), "bit {bit}: {:?}", opened.report);
    }
}

fn frame_bytes(segment: &[u8], at: usize) -> usize {
    let header = FrameHeader::decode(&segment[at..]).unwrap();
    usize::try_from(header.frame_bytes()).unwrap()
}

#[test]
fn a_newer_version_is_refused_and_nothing_is_touched() {
    for name in [segment_name(2), "watermark".to_owned()] {
        let mut files = files();
        files.insert(format!("{}.0-9.corrupt.partial", segment_name(1)), Vec::new());
        let bytes = files.get_mut(&name).unwrap();
        bytes[8] = 9;
        let crc = crc32c::crc32c(&bytes[..12]).to_le_bytes();
        bytes[12..16].copy_from_slice(&crc);
        let disk = Simulated::with(&files);
        let error = recover(&disk, small()).map(drop).unwrap_err();
        assert!(
            matches!(&error, OpenError::Version { name: found, version: 9 } if *found == name),
            "{error}"
        );
        assert_eq!(disk.files(), files);
    }
}

#[test]
fn a_file_that_can_not_be_read_is_kept_and_delivered_when_it_can() {
    let whole = files();
    for name in whole.keys().filter(|name| name.ends_with(".segment")) {
        let hidden = Simulated::with(&whole).unreadable(name);
        let (mut opened, found) = recover(&hidden, small()).unwrap();
        assert_eq!(found, intact(&whole, name, &(0..whole[name].len())));
        let report = &opened.report;
        assert!(report.lost.is_empty(), "{report:?}");
        assert!(matches!(&report.unusable[..], [(found, Unusable::Unreadable(_, Some(_)))] if found == name));
        // What is written meanwhile takes no sequence that may turn up again.
        append(&mut opened.spool, 20..22).unwrap();
        opened.spool.sync().unwrap();
        let (opened, found) = recover(&Simulated::with(&hidden.files()), small()).unwrap();
        assert_eq!(found, (0..22).collect::<Vec<_>>(), "with {name} back: {:?}", opened.report);
    }
}

/// A segment of a spool of another identity.
fn segment_of(identity: u64) -> Vec<u8> {
    let disk = Simulated::new(1);
    let mut other = open(disk.clone(), Options { identity, ..small() }).unwrap().spool;
    append(&mut other, 500..503).unwrap();
    other.sync().unwrap();
    disk.files()[&segment_name(1)].clone()
}

#[test]
fn of_segments_of_two_spools_those_are_ours_that_are_the_watermarks_however_few() {
    for identity in [0, u64::MAX] {
        let disk = Simulated::new(0);
        let mut spool = open(disk.clone(), small()).unwrap().spool;
        append(&mut spool, 0..3).unwrap();
        spool.sync().unwrap();
        let mut mixed = disk.files();
        mixed.insert(segment_name(50), segment_of(identity));
        mixed.insert(segment_name(51), segment_of(identity));
        let (opened, found) = recover(&Simulated::with(&mixed), small()).unwrap();
        assert_eq!(found, [0, 1, 2], "beside spool {identity}: {:?}", opened.report);
    }
}

#[test]
fn another_spools_segment_is_left_alone() {
    let mut mixed = files();
    let foreign = segment_of(77);
    mixed.insert(segment_name(50), foreign.clone());
    let disk = Simulated::with(&mixed);
    let (opened, found) = recover(&disk, small()).unwrap();
    assert_eq!(found, all());
    let report = opened.report;
    assert!(matches!(&report.unusable[..], [(name, Unusable::Foreign)] if *name == segment_name(50)));
    assert_eq!(disk.files()[&segment_name(50)], foreign);
}

/// The frames inside the record are whole, CRCs and all; only the identity is not this spool's.
#[test]
fn a_record_that_holds_frames_is_not_taken_for_them() {
    let disk = Simulated::new(0);
    let mut spool = open(disk.clone(), small()).unwrap().spool;
    let forged = {
        let disk = Simulated::new(1);
        let mut other = open(disk.clone(), Options { identity: 77, ..small() }).unwrap().spool;
        append(&mut other, 500..503).unwrap();
        disk.files()[&segment_name(1)].clone()
    };
    append(&mut spool, 0..1).unwrap();
    spool.append(0, &[u32::try_from(forged.len()).unwrap()], &forged).unwrap();
    append(&mut spool, 1..2).unwrap();
    spool.sync().unwrap();
    let mut files = disk.files();
    let segment = files.get_mut(&segment_name(1)).unwrap();
    let frame = 64 + frame_bytes(segment, 64);
    // The header of the frame with the forged ones is gone: they are searched through.
    segment[frame] ^= 1;
    let (opened, found) = recover(&Simulated::with(&files), small()).unwrap();
    assert_eq!(found, [0, 1]);
    assert_eq!(opened.report.lost.first(), Some(&(1..2)));
}

#[test]
fn a_watermark_that_was_away_settles_nothing_that_came_later() {
    let disk = Simulated::new(0);
    let mut spool = open(disk.clone(), small()).unwrap().spool;
    write(&mut spool);
    spool.settle(4..20);
    spool.close().unwrap();
    let mut files = disk.files();
    let away = files.remove("watermark").unwrap();
    // The frames that it had settled are gone with it, and their sequences are given out anew.
    files.retain(|name, _| *name == segment_name(1));
    let disk = Simulated::with(&files);
    let (mut opened, found) = recover(&disk, small()).unwrap();
    let next = opened.spool.next_sequence();
    assert!(next < 20 && opened.report.watermark == WatermarkState::Missing);
    append(&mut opened.spool, 20..25).unwrap();
    opened.spool.sync().unwrap();
    let mut files = disk.files();
    files.insert("watermark".to_owned(), away);
    let (_, again) = recover(&Simulated::with(&files), small()).unwrap();
    let live: Vec<u64> = found.into_iter().filter(|id| *id < 4).chain(20..25).collect();
    assert_eq!(again, live);
}

#[test]
fn what_is_settled_in_part_comes_back_in_part() {
    let disk = Simulated::new(0);
    let mut spool = open(disk.clone(), small()).unwrap().spool;
    write(&mut spool);
    [4..6, 9..10, 17..18].into_iter().for_each(|settled| spool.settle(settled));
    spool.checkpoint().unwrap();
    let mut opened = open(disk.crash(Persistence::All, 0), small()).unwrap();
    let settled = [4, 5, 9, 17];
    let expected: Vec<u64> = all().into_iter().filter(|id| !settled.contains(id)).collect();
    let records: u64 = expected.len() as u64;
    let bytes: usize = expected.iter().map(|id| super::record(*id).len()).sum();
    assert_eq!(opened.report.live, Live { records, bytes: bytes as u64, oldest_ms: Some(1_000) });
    assert_eq!(drain(&mut opened).into_iter().map(|(id, _)| id).collect::<Vec<_>>(), expected);
}

#[test]
fn a_look_changes_nothing_and_sees_what_a_start_would() {
    let mut files = files();
    files.get_mut(&segment_name(1)).unwrap()[70] ^= 1;
    let last = segment_name(files.len() as u64 - 1);
    let torn = files[&last].len() - 5;
    files.get_mut(&last).unwrap().truncate(torn);
    let disk = Simulated::with(&files);
    let inspection = Inspection::new(disk.clone()).unwrap();
    let summary = inspection.summary();
    assert!(!summary.is_sound() && summary.torn_bytes > 0 && summary.missing_records == 2, "{summary:?}");
    let mut seen = Vec::new();
    let end = inspection.export(|waiting| {
        let frame = waiting.unwrap().frame;
        let starts = std::iter::once(0).chain(frame.ends.iter().copied());
        let places = starts.zip(frame.ends.iter().copied());
        seen.extend(places.map(|(start, end)| id(&frame.bytes[start as usize..end as usize])));
        ControlFlow::<()>::Continue(())
    });
    assert!(end.is_continue());
    assert_eq!(disk.files(), files);
    let (opened, found) = recover(&disk, small()).unwrap();
    assert_eq!(seen, found);
    assert_eq!(summary.live, opened.report.live);
}
