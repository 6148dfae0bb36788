//! The spool on a disk that stops, fails, forgets and lies.
//!
//! Every record carries its number and bytes that follow from it, so that a record that comes back is
//! known, and one that nobody wrote is too. A [`Truth`] notes what a run was promised; what a start
//! finds is held against it.

mod crash;
mod damage;
mod disk;
mod faults;
mod model;
mod simulated;

use std::collections::BTreeSet;
use std::ops::Range;

use fastrand::Rng;
use simulated::Simulated;

use super::{Appended, OpenError, Opened, Options, Records, Spool, Storage, Sync, WriteError, open};

/// How much more than in CI is tried: `SPOOL_CASES`, 1 where it is not set.
fn factor() -> u64 {
    std::env::var("SPOOL_CASES").map_or(1, |cases| cases.parse().expect("SPOOL_CASES is a number"))
}

/// Small enough for several segments in a short run.
fn options(sync: Sync) -> Options {
    Options { limit_bytes: 64 * 1024, segment_bytes: 2048, sync, identity: 0x5eed }
}

/// Record `id`: its number, bytes that follow from it, a line end.
fn record(id: u64) -> Vec<u8> {
    let mut rng = Rng::with_seed(id);
    let length = match rng.u8(..) {
        0..200 => rng.usize(0..60),
        200..250 => rng.usize(0..400),
        250.. => rng.usize(1200..1800),
    };
    let mut bytes = format!("{id:08}:").into_bytes();
    match rng.u8(0..8) {
        // Looks like a sector that was never written.
        0 => bytes.extend(vec![0; length]),
        // Looks like the beginning of frames.
        1 => bytes.extend_from_slice(&b"HYF\x01".repeat(length / 4)),
        _ => {
            let start = bytes.len();
            bytes.resize(start + length, 0);
            rng.fill(&mut bytes[start..]);
        }
    }
    bytes.push(b'\n');
    bytes
}

/// The number of a record, if its bytes are those of [`record`].
fn id(bytes: &[u8]) -> u64 {
    let id = bytes.get(..8).and_then(|id| std::str::from_utf8(id).ok()).and_then(|id| id.parse().ok());
    let id = id.unwrap_or_else(|| panic!("a record that nobody wrote: {bytes:?}"));
    assert_eq!(record(id), bytes, "record {id} has come back changed");
    id
}

/// Appends the records of these ids as one frame.
fn append<S: Storage>(spool: &mut Spool<S>, ids: Range<u64>) -> Result<Appended, WriteError> {
    let (ends, data) = records(ids.clone());
    spool.append(1_000 + ids.start, &ends, &data)
}

/// Appends a frame of the records of each of these ids, as many as go with the first.
fn append_some<S: Storage>(spool: &mut Spool<S>, ids: &[Range<u64>]) -> Result<Vec<Appended>, WriteError> {
    let frames: Vec<_> = ids.iter().map(|ids| (ids.start, records(ids.clone()))).collect();
    let frames = frames.iter().map(|(id, (ends, data))| Records { received_ms: 1_000 + id, ends, data });
    spool.append_some(frames)
}

/// The records of these ids, one behind the other, and where each ends.
fn records(ids: Range<u64>) -> (Vec<u32>, Vec<u8>) {
    let (mut data, mut ends) = (Vec::new(), Vec::new());
    for id in ids {
        data.extend(record(id));
        ends.push(u32::try_from(data.len()).unwrap());
    }
    (ends, data)
}

/// Takes everything that waits: the ids with their sequences, in the order they came.
fn drain<S: Storage>(opened: &mut Opened<S>) -> Vec<(u64, u64)> {
    let mut reader = opened.spool.reader();
    let mut records = Vec::new();
    loop {
        match opened.backlog.next(&mut reader) {
            Err(_) => {}
            Ok(None) => return records,
            Ok(Some(waiting)) => {
                for index in waiting.live.iter().cloned().flatten() {
                    let start = index.checked_sub(1).map_or(0, |before| waiting.frame.ends[before as usize]);
                    let end = waiting.frame.ends[index as usize];
                    let bytes = &waiting.frame.bytes[start as usize..end as usize];
                    records.push((id(bytes), waiting.frame.header.first + u64::from(index)));
                }
            }
        }
    }
}

/// Opens the spool and drains it: the ids in order.
fn recover(disk: &Simulated, options: Options) -> Result<(Opened<Simulated>, Vec<u64>), OpenError> {
    let mut opened = open(disk.clone(), options)?;
    let ids: Vec<u64> = drain(&mut opened).into_iter().map(|(id, _)| id).collect();
    Ok((opened, ids))
}

/// What a run was promised.
#[derive(Debug, Clone, Default)]
struct Truth {
    /// Ids that were tried, from 0.
    tried: u64,
    /// Ids whose append succeeded.
    appended: BTreeSet<u64>,
    /// Ids that a sync has called durable.
    durable: BTreeSet<u64>,
    /// Ids that were settled.
    settled: BTreeSet<u64>,
    /// Ids that a checkpoint wrote down as settled.
    noted: BTreeSet<u64>,
    /// Ids that a checkpoint synced as settled.
    noted_durably: BTreeSet<u64>,
}

impl Truth {
    /// What has to come back, by whether the power was cut.
    fn check(&self, found: &[u64], power_cut: bool, sync: Sync, context: &dyn std::fmt::Display) {
        assert!(found.is_sorted_by(|one, other| one < other), "{context}: out of order or twice: {found:?}");
        assert!(found.iter().all(|id| *id < self.tried), "{context}: never tried: {found:?}");
        let found: BTreeSet<u64> = found.iter().copied().collect();
        let promised = match (power_cut, sync) {
            (false, _) => &self.appended,
            (true, Sync::Always) => &self.durable,
            (true, Sync::Os) => &BTreeSet::new(),
        };
        let lost: Vec<_> = promised.difference(&self.settled).filter(|id| !found.contains(id)).collect();
        assert!(lost.is_empty(), "{context}: lost: {lost:?}");
        let noted = match (power_cut, sync) {
            (false, _) => &self.noted,
            (true, Sync::Always) => &self.noted_durably,
            (true, Sync::Os) => &BTreeSet::new(),
        };
        let again: Vec<_> = noted.intersection(&found).collect();
        assert!(again.is_empty(), "{context}: settled and sent again: {again:?}");
    }
}

/// A run of appends, syncs, settlings out of order, and checkpoints, until its end or until the disk
/// stops it. A full spool is tried again later, as a daemon does.
fn run(disk: &Simulated, sync: Sync, seed: u64, steps: usize) -> (Truth, Option<Spool<Simulated>>) {
    let mut truth = Truth::default();
    let Ok(opened) = open(disk.clone(), options(sync)) else { return (truth, None) };
    let mut spool = opened.spool;
    let mut rng = Rng::with_seed(seed);
    let mut held: Vec<(Range<u64>, Range<u64>)> = Vec::new();
    for _ in 0..steps {
        if disk.has_stopped() {
            break;
        }
        match rng.u8(0..12) {
            0..5 => {
                // Most often one frame, as where there is no hurry.
                let frames = if rng.u8(0..4) == 0 { rng.usize(2..5) } else { 1 };
                let ids: Vec<_> = (0..frames)
                    .map(|_| {
                        let ids = truth.tried..truth.tried + rng.u64(1..5);
                        truth.tried = ids.end;
                        ids
                    })
                    .collect();
                let appended = append_some(&mut spool, &ids).unwrap_or_default();
                for (ids, appended) in ids.into_iter().zip(appended) {
                    truth.appended.extend(ids.clone());
                    held.push((ids, appended.sequences));
                }
            }
            5..8 => {
                if spool.sync().is_ok() {
                    truth.durable = truth.appended.clone();
                }
            }
            8..10 => settle(&mut spool, &mut truth, &mut held, &mut rng),
            _ => checkpoint(&mut spool, &mut truth),
        }
    }
    (truth, Some(spool))
}

/// Settles some records: a whole frame's, or only the first of it.
fn settle(
    spool: &mut Spool<Simulated>,
    truth: &mut Truth,
    held: &mut Vec<(Range<u64>, Range<u64>)>,
    rng: &mut Rng,
) {
    for _ in 0..rng.usize(1..4) {
        if held.is_empty() {
            return;
        }
        let index = rng.usize(0..held.len().min(4));
        let (ids, sequences) = &mut held[index];
        let count = if rng.bool() { ids.end - ids.start } else { 1 };
        spool.settle(sequences.start..sequences.start + count);
        truth.settled.extend(ids.start..ids.start + count);
        (ids.start, sequences.start) = (ids.start + count, sequences.start + count);
        if ids.is_empty() {
            held.remove(index);
        }
    }
}

fn checkpoint(spool: &mut Spool<Simulated>, truth: &mut Truth) {
    if let Ok(freed) = spool.checkpoint() {
        truth.noted = truth.settled.clone();
        // Segments are removed only after a synced watermark.
        if freed > 0 {
            truth.noted_durably = truth.settled.clone();
        }
    }
}
