//! Stops at every call, under every way of forgetting, and starts again.

use super::simulated::{Persistence, Simulated};
use super::{Truth, append, factor, options, record, recover, run};
use crate::spool::{Options, Sync};

const STEPS: usize = 160;

/// Recovers, holds what comes back against `truth`, and (each third time: it takes as long again)
/// goes on writing: what is appended after the crash joins what was there, and a second start finds
/// the same and says nothing new.
fn check(
    (point, crashed): (usize, &Simulated),
    truth: &Truth,
    persistence: Persistence,
    options: Options,
    context: &str,
) {
    let power_cut = persistence != Persistence::All;
    let (mut opened, mut found) =
        recover(crashed, options).unwrap_or_else(|error| panic!("{context}: {error}"));
    truth.check(&found, power_cut, options.sync, &context);
    assert!(opened.report.failures.is_empty(), "{context}: {:?}", opened.report);
    let sound = opened.report.damage.is_empty() && opened.report.lost.is_empty();
    assert!(sound || power_cut, "{context}: a killed process damages nothing: {:?}", opened.report);
    assert_eq!(opened.report.live.records, found.len() as u64, "{context}");
    let bytes: usize = found.iter().map(|id| record(*id).len()).sum();
    assert_eq!(opened.report.live.bytes, bytes as u64, "{context}");
    if !point.is_multiple_of(3) {
        return;
    }
    append(&mut opened.spool, truth.tried..truth.tried + 2).unwrap();
    opened.spool.sync().unwrap();
    drop(opened);
    let kept = if options.sync == Sync::Always { Persistence::Synced } else { Persistence::All };
    let (again, second) = recover(&crashed.crash(kept, 0), options).unwrap();
    found.extend(truth.tried..truth.tried + 2);
    assert_eq!(second, found, "{context}: a second start finds something else");
    let report = again.report;
    assert!(report.lost.is_empty() && report.torn_bytes == 0, "{context}: said twice: {report:?}");
    assert!(report.damage.iter().all(|damage| !damage.new), "{context}: said twice: {report:?}");
}

#[test]
fn a_crash_at_any_call_loses_nothing_durable_and_invents_nothing() {
    let (mut points, mut spares) = (0, 0);
    for seed in 0..7 * factor() {
        for sync in [Sync::Always, Sync::Os] {
            let whole = Simulated::new(seed);
            run(&whole, sync, seed, STEPS);
            let calls = whole.calls().len();
            for stop in 0..=calls {
                let disk = Simulated::new(seed).stop_at(stop);
                let (truth, _) = run(&disk, sync, seed, STEPS);
                spares += u64::from(disk.files().contains_key("segment-spare"));
                for (persistence, dice) in dice() {
                    let context = format!(
                        "seed {seed}, {sync:?}, stopped at call {stop} of {calls}, {persistence:?}, dice {dice}"
                    );
                    check(
                        (points, &disk.crash(persistence, dice)),
                        &truth,
                        persistence,
                        options(sync),
                        &context,
                    );
                    points += 1;
                }
            }
        }
    }
    println!("{points} crash points, {spares} times with a segment to write over");
    assert!(points >= 20_000, "{points} points are too few");
    assert!(spares >= 100, "{spares} segments to write over are too few");
}

/// Every model, those of chance with several throws.
fn dice() -> impl Iterator<Item = (Persistence, u64)> {
    Persistence::EVERY.into_iter().flat_map(|persistence| {
        let throws = match persistence {
            Persistence::Sectors | Persistence::Reordered => 3,
            Persistence::Synced | Persistence::All | Persistence::SizeWithoutData => 1,
        };
        (0..throws).map(move |dice| (persistence, dice))
    })
}

#[test]
fn a_second_crash_during_recovery_loses_nothing_either() {
    let mut points = 0;
    let mut rng = fastrand::Rng::with_seed(5);
    for case in 0..150 * factor() {
        let (seed, sync) = (rng.u64(0..1_000), if rng.bool() { Sync::Always } else { Sync::Os });
        let whole = Simulated::new(seed);
        run(&whole, sync, seed, STEPS);
        let stop = rng.usize(0..whole.calls().len());
        let disk = Simulated::new(seed).stop_at(stop);
        let (truth, _) = run(&disk, sync, seed, STEPS);
        let mut persistence = || Persistence::EVERY[rng.usize(0..Persistence::EVERY.len())];
        let (first, second) = (persistence(), persistence());
        let crashed = disk.crash(first, case);
        let calls = {
            let disk = crashed.copy();
            recover(&disk, options(sync)).map(drop).unwrap();
            disk.calls().len()
        };
        for again in 0..calls {
            let disk = crashed.copy().stop_at(again);
            // It may come as far as it will.
            drop(recover(&disk, options(sync)));
            let context = format!(
                "case {case}, seed {seed}, {sync:?}, stopped at call {stop}, {first:?}, then at call {again} of {calls} of the start, {second:?}"
            );
            let worse = if first == Persistence::All { second } else { first };
            check((points, &disk.crash(second, case)), &truth, worse, options(sync), &context);
            points += 1;
        }
    }
    println!("{points} crashes during recovery");
    assert!(points >= 5_000, "{points} points are too few");
}
