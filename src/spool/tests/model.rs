//! The spool beside a reference of a few lines, step by step.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::simulated::{Persistence, Simulated};
use super::{append, drain, factor, options};
use crate::spool::{Full, Spool, Sync, WriteError, open};

/// What may happen to a spool.
#[derive(Debug, Clone)]
enum Step {
    /// Append this many records as one frame.
    Append(u64),
    Sync,
    /// Settle so many of the records that are held, from the so-manieth on.
    Settle(usize, usize),
    Checkpoint,
    /// Stop in an orderly way and start again.
    Reopen,
    /// Kill the process.
    Kill,
    /// Cut the power, with these dice.
    PowerCut(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (1..6_u64).prop_map(Step::Append),
        3 => Just(Step::Sync),
        3 => (0..12_usize, 1..8_usize).prop_map(|(from, count)| Step::Settle(from, count)),
        2 => Just(Step::Checkpoint),
        1 => Just(Step::Reopen),
        1 => Just(Step::Kill),
        1 => any::<u64>().prop_map(Step::PowerCut),
    ]
}

/// The reference: which records a spool holds.
#[derive(Debug, Default)]
struct Model {
    next: u64,
    /// Every record that is not settled, by id, with its sequence; and whether it is durable.
    held: BTreeMap<u64, (u64, bool)>,
    /// Settled, and whether a killed process or a power cut could bring it back.
    forgettable: BTreeMap<u64, (bool, bool)>,
}

impl Model {
    fn append(&mut self, count: u64, first: u64) {
        self.held.extend((0..count).map(|n| (self.next + n, (first + n, false))));
        self.next += count;
    }

    fn sync(&mut self) {
        self.held.values_mut().for_each(|(_, durable)| *durable = true);
    }

    fn noted(&mut self, durably: bool) {
        self.forgettable.values_mut().for_each(|(killed, _)| *killed = false);
        if durably {
            self.forgettable.clear();
        }
    }

    /// Holds what came back against what had to and what could, and goes on from it.
    fn recovered(&mut self, found: &[(u64, u64)], power_cut: bool) {
        let ids: BTreeSet<u64> = found.iter().map(|(id, _)| *id).collect();
        assert_eq!(ids.len(), found.len(), "twice: {found:?}");
        assert!(found.is_sorted(), "out of order: {found:?}");
        for (id, (_, durable)) in &self.held {
            assert!(ids.contains(id) || power_cut && !durable, "{id} is lost");
        }
        for id in &ids {
            let again = self.forgettable.get(id).is_some_and(|(killed, cut)| *killed || power_cut && *cut);
            assert!(self.held.contains_key(id) || again, "{id} was settled, or never there");
        }
        self.held = found.iter().map(|(id, sequence)| (*id, (*sequence, true))).collect();
        self.forgettable.clear();
    }
}

fn start(disk: &Simulated, sync: Sync) -> (Spool<Simulated>, Vec<(u64, u64)>) {
    let mut opened = open(disk.clone(), options(sync)).unwrap();
    assert!(opened.report.failures.is_empty(), "{:?}", opened.report);
    let found = drain(&mut opened);
    assert_eq!(opened.report.live.records, found.len() as u64);
    (opened.spool, found)
}

/// With [`Sync::Os`], of which a power cut takes any part, each is a kill.
fn play(steps: &[Step], sync: Sync) {
    let mut disk = Simulated::new(1);
    let mut model = Model::default();
    let (mut spool, _) = start(&disk, sync);
    for step in steps {
        match step {
            Step::Append(count) => match append(&mut spool, model.next..model.next + count) {
                Ok(appended) => model.append(*count, appended.sequences.start),
                Err(error) => assert!(matches!(error, WriteError::Full(Full::Limit)), "{error}"),
            },
            Step::Sync => {
                spool.sync().unwrap();
                model.sync();
            }
            Step::Settle(from, count) => {
                let some: Vec<_> = model
                    .held
                    .iter()
                    .skip(*from)
                    .take(*count)
                    .map(|(id, (sequence, _))| (*id, *sequence))
                    .collect();
                for (id, sequence) in some {
                    spool.settle(sequence..sequence + 1);
                    model.held.remove(&id);
                    model.forgettable.insert(id, (true, true));
                }
            }
            Step::Checkpoint => {
                let freed = spool.checkpoint().unwrap();
                model.noted(freed > 0);
            }
            Step::Reopen | Step::Kill | Step::PowerCut(_) => {
                let mut persistence = Persistence::All;
                let mut dice = 0;
                match step {
                    Step::Reopen => {
                        spool.close().unwrap();
                        model.sync();
                        model.noted(true);
                        persistence =
                            if sync == Sync::Always { Persistence::Synced } else { Persistence::All };
                    }
                    Step::PowerCut(seed) if sync == Sync::Always => {
                        persistence = Persistence::EVERY[usize::try_from(seed % 5).unwrap()];
                        dice = *seed;
                    }
                    Step::Append(_)
                    | Step::Sync
                    | Step::Settle(..)
                    | Step::Checkpoint
                    | Step::Kill
                    | Step::PowerCut(_) => {}
                }
                disk = disk.crash(persistence, dice);
                let found;
                (spool, found) = start(&disk, sync);
                model.recovered(&found, persistence != Persistence::All);
            }
        }
        assert_eq!(spool.settled().end().max(spool.next_sequence()), spool.next_sequence());
    }
}

#[test]
fn the_spool_does_what_its_reference_does() {
    let cases = u32::try_from(5_000 * factor()).unwrap();
    let mut config = ProptestConfig::with_cases(cases);
    config.failure_persistence = None;
    for sync in [Sync::Always, Sync::Os] {
        let config = config.clone();
        proptest!(config, |(steps in prop::collection::vec(step(), 40..80))| play(&steps, sync));
        println!("{sync:?}: {cases} histories of 40 to 80 steps");
    }
}
