//! Sidecars that share a stream's quota: the short form of `cargo run --release --example fleet`,
//! in made-up time and with a fixed seed.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]
#![allow(clippy::cast_possible_truncation, reason = "the figures of the simulation are small")]

use std::time::{Duration, Instant};

#[path = "../examples/fleet/sim.rs"]
#[allow(unreachable_pub, dead_code, reason = "the example uses all of it")]
mod sim;

use sim::{Outcome, Phase, Scenario, Window, run};

const MIB: u64 = 1_048_576;

/// All start at once and with full buffers, on a stream of 1 MiB a second.
fn scenario(phases: Vec<Phase>) -> Scenario {
    let backlog = 30.0 * MIB as f64;
    Scenario { phases, backlog, ..Scenario::new("", 1) }
}

fn phase(sidecars: usize, quota: f64, windows: usize) -> Phase {
    Phase { name: "", sidecars, quota, windows }
}

fn outcomes(scenario: &Scenario) -> Vec<Outcome> {
    #[expect(clippy::disallowed_methods, reason = "an Instant can't be made up from nothing")]
    let start = Instant::now();
    run(scenario, start).iter().map(|windows: &Vec<Window>| Outcome::of(windows)).collect()
}

/// The aims of steady state.
fn check(outcome: &Outcome) {
    assert!(outcome.utilisation >= 0.95, "{outcome:?}");
    assert!(outcome.throttled_requests <= 0.02 && outcome.throttled_records <= 0.02, "{outcome:?}");
    assert!(outcome.fairness >= 0.95, "{outcome:?}");
}

/// Whether it has settled, and so soon.
fn settles_within(outcome: &Outcome, seconds: u64) -> bool {
    outcome.settled.is_some_and(|settled| settled <= Duration::from_secs(seconds))
}

// R-Q7
#[test]
fn a_lone_sidecar_has_the_quota_and_hardly_a_request_throttled() {
    let lone = outcomes(&scenario(vec![phase(1, 1.0, 30)]))[0];
    check(&lone);
    assert!(settles_within(&lone, 60), "{lone:?}");
}

#[test]
fn a_lone_sidecar_that_reads_cloudwatch_is_never_throttled_once_it_has_started() {
    let lone = outcomes(&Scenario { reads: true, ..scenario(vec![phase(1, 1.0, 20)]) })[0];
    check(&lone);
    assert!(lone.throttled_requests < 0.002, "{lone:?}");
}

// R-Q7
#[test]
fn ten_and_a_hundred_sidecars_use_the_quota_and_share_it() {
    for sidecars in [2, 10] {
        check(&outcomes(&scenario(vec![phase(sidecars, 1.0, 35)]))[0]);
    }
    let all = outcomes(&scenario(vec![phase(100, 1.0, 35)]))[0];
    assert!(all.utilisation >= 0.95 && all.throttled_requests <= 0.02 && all.fairness >= 0.9, "{all:?}");
}

#[test]
fn a_thousand_sidecars_use_the_quota() {
    let all = outcomes(&scenario(vec![phase(1_000, 1.0, 35)]))[0];
    assert!(all.utilisation >= 0.95 && all.throttled_records <= 0.02, "{all:?}");
    assert!(all.throttled_requests <= 0.03 && all.fairness >= 0.6, "{all:?}");
}

// R-Q10
#[test]
fn a_hundred_and_a_thousand_sidecars_that_read_cloudwatch_share_the_quota() {
    for (sidecars, windows) in [(10, 35), (100, 35), (1_000, 45)] {
        let scenario = scenario(vec![phase(sidecars, 1.0, windows)]);
        let all = outcomes(&Scenario { reads: true, ..scenario })[0];
        check(&all);
        assert!(settles_within(&all, 400), "{all:?}");
    }
    // Where each of a thousand sends a packed record in five seconds, it takes a quarter of an hour.
    for (sidecars, windows, uneven, packed) in
        [(100, 45, true, false), (100, 45, false, true), (1_000, 90, false, true)]
    {
        let scenario = scenario(vec![phase(sidecars, 1.0, windows)]);
        let backlog = if uneven { 0.0 } else { scenario.backlog };
        check(&outcomes(&Scenario { reads: true, uneven, packed, backlog, ..scenario })[0]);
    }
}

// R-Q10
#[test]
fn those_who_come_to_a_fleet_that_reads_cloudwatch_have_their_share_too() {
    let phases = vec![phase(50, 1.0, 30), phase(100, 1.0, 45), phase(50, 1.0, 30)];
    let all = outcomes(&Scenario { reads: true, ..scenario(phases) });
    all.iter().for_each(check);
}

#[test]
fn those_who_want_little_get_it_and_the_others_share_the_rest() {
    let all = outcomes(&Scenario { uneven: true, backlog: 0.0, ..scenario(vec![phase(100, 1.0, 35)]) })[0];
    assert!(all.utilisation >= 0.95 && all.throttled_requests <= 0.02 && all.fairness >= 0.9, "{all:?}");
}

#[test]
fn a_quota_that_is_halved_is_met_in_a_minute_and_one_that_is_doubled_is_used_in_two() {
    let all = outcomes(&scenario(vec![phase(10, 1.0, 30), phase(10, 0.5, 30), phase(10, 1.0, 30)]));
    assert!(settles_within(&all[1], 60), "{all:?}");
    assert!(settles_within(&all[2], 120), "{all:?}");
    all[1..].iter().for_each(|outcome| {
        assert!(outcome.utilisation >= 0.95 && outcome.throttled_requests <= 0.02, "{all:?}");
    });
}

// R-Q7
#[test]
fn a_newcomer_gets_its_share_and_what_it_leaves_is_used() {
    let all = outcomes(&scenario(vec![phase(1, 1.0, 20), phase(2, 1.0, 35), phase(1, 1.0, 30)]));
    all.iter().for_each(check);
    assert!(all[1].fair <= Some(Duration::from_secs(180)), "{all:?}");
}

// R-Q8
#[test]
fn what_is_throttled_whatever_is_sent_holds_nobody_up() {
    let phases = || vec![phase(1, 1.0, 35)];
    let refusing = |refused, refused_requests| Scenario {
        demand: 0.5,
        backlog: 0.0,
        quota: 5 * MIB,
        refused,
        refused_requests,
        ..scenario(phases())
    };
    for (records, requests) in [(0.01, 0.0), (0.1, 0.0), (0.3, 0.0), (0.5, 0.0), (0.0, 0.1), (0.0, 0.3)] {
        let lone = outcomes(&refusing(records, requests))[0];
        assert!(lone.utilisation >= 0.95, "{records} of records, {requests} of requests: {lone:?}");
    }
}

// R-Q9
#[test]
fn after_a_pit_the_pace_is_what_it_was() {
    let phases =
        vec![phase(1, 1.0, 15), phase(1, 0.02, 3), phase(1, 1.0, 15), phase(1, 1e-6, 3), phase(1, 1.0, 15)];
    let all = outcomes(&Scenario { demand: 0.8, backlog: 0.0, ..scenario(phases) });
    let [before, _, after, _, again] = all[..] else { panic!("{all:?}") };
    assert!(before.utilisation >= 0.99 && before.throttled_requests == 0.0, "{all:?}");
    // Of five minutes; what waited meanwhile is delivered, too.
    assert!(after.utilisation >= 0.85 && again.utilisation >= 0.95, "{all:?}");
}
