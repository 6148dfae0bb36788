//! How sidecars share a stream's quota: the table and the plot of `docs/PACING.md`.
//!
//! `cargo run --release --example fleet` prints the table; `-- --plot FILE` draws the plot besides.
//! Made-up time gives the same figures without `--release`, in two minutes.
//! `-- --seed N` takes another seed, `-- --only TEXT` the scenarios whose name holds TEXT.
#![allow(
    clippy::print_stdout,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    unreachable_pub,
    reason = "a table on the terminal, figures that are small, and modules that a test uses too"
)]

use std::time::{Duration, Instant};

use clap::Parser;

mod plot;
mod sim;

use sim::{Outcome, Phase, Scenario, run};

const MIB: u64 = 1_048_576;

/// How sidecars share a stream's quota.
#[derive(Parser)]
struct Arguments {
    /// Of all chance.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Only scenarios whose name holds this.
    #[arg(long, default_value = "")]
    only: String,
    /// Without the pacer, with gate and retries alone.
    #[arg(long)]
    unpaced: bool,
    /// Draw the plot into this file.
    #[arg(long)]
    plot: Option<std::path::PathBuf>,
}

fn phase(name: &'static str, sidecars: usize, quota: f64, windows: usize) -> Phase {
    Phase { name, sidecars, quota, windows }
}

/// What the table shows.
fn scenarios(seed: u64) -> Vec<Scenario> {
    let scenario = |name, phases| Scenario { phases, ..Scenario::new(name, seed) };
    let full = |name, phases| Scenario { backlog: 30.0 * MIB as f64, ..scenario(name, phases) };
    let mut all = Vec::new();
    for sidecars in [1, 2, 5, 10, 50, 100, 200, 1_000] {
        all.push(full("start with a full buffer", vec![phase("", sidecars, 1.0, 35)]));
    }
    for (sidecars, windows) in [(1, 35), (10, 35), (100, 35), (200, 35), (1_000, 45)] {
        let phases = vec![phase("", sidecars, 1.0, windows)];
        all.push(Scenario { reads: true, ..full("the same, CloudWatch read", phases) });
    }
    for sidecars in [10, 100, 200, 1_000] {
        let phases = vec![phase("", sidecars, 1.0, 35)];
        all.push(Scenario { uneven: true, ..scenario("uneven demand", phases) });
    }
    for (sidecars, windows) in [(10, 35), (100, 35), (200, 35), (1_000, 90)] {
        let phases = vec![phase("", sidecars, 1.0, windows)];
        let read = scenario("uneven demand, CloudWatch read", phases);
        all.push(Scenario { uneven: true, reads: true, ..read });
    }
    all.push(Scenario { quota: 5 * MIB, ..full("5 MiB/s", vec![phase("", 100, 1.0, 35)]) });
    for sidecars in [100, 1_000] {
        let phases = vec![phase("", sidecars, 1.0, 35)];
        all.push(Scenario { quota: 5 * MIB, reads: true, ..full("5 MiB/s, CloudWatch read", phases) });
    }
    for (sidecars, windows) in [(10, 35), (100, 45), (200, 45), (1_000, 90)] {
        let packed = full("packed", vec![phase("", sidecars, 1.0, windows)]);
        let packed = Scenario { packed: true, ..packed };
        all.push(packed.clone());
        all.push(Scenario { reads: true, name: "packed, CloudWatch read", ..packed });
    }
    for sidecars in [1, 10, 100, 1_000] {
        let windows = if sidecars < 1_000 { 30 } else { 90 };
        let phases = vec![
            phase("start", sidecars, 1.0, windows),
            phase("quota halved", sidecars, 0.5, windows),
            phase("quota doubled", sidecars, 1.0, windows),
        ];
        all.push(full("quota", phases.clone()));
        if sidecars > 1 {
            all.push(Scenario { reads: true, ..full("quota, CloudWatch read", phases) });
        }
    }
    for sidecars in [1, 10, 100] {
        let phases = vec![
            phase("start", sidecars, 1.0, 30),
            phase("as many join", 2 * sidecars, 1.0, 45),
            phase("half leave", sidecars, 1.0, 30),
        ];
        all.push(full("fleet", phases.clone()));
        all.push(Scenario { reads: true, ..full("fleet, CloudWatch read", phases) });
    }
    for sidecars in [1, 10] {
        let phases = vec![phase("start", sidecars, 1.0, 30), phase("as many join", 2 * sidecars, 1.0, 45)];
        all.push(scenario("nothing held", phases));
    }
    for sidecars in [1, 10, 100] {
        let phases = vec![
            phase("start", sidecars, 1.0, 15),
            phase("2 % are left for a minute", sidecars, 0.02, 3),
            phase("all is back", sidecars, 1.0, 15),
            phase("nothing is left for a minute", sidecars, 1e-6, 3),
            phase("all is back again", sidecars, 1.0, 15),
        ];
        all.push(Scenario { demand: 0.8, ..scenario("pit", phases.clone()) });
        if sidecars > 1 {
            all.push(Scenario { demand: 0.8, reads: true, ..scenario("pit, CloudWatch read", phases) });
        }
    }
    for (name, refused, refused_requests) in REFUSED {
        let phases = vec![phase("", 1, 1.0, 35)];
        all.push(Scenario {
            demand: 0.5,
            refused,
            refused_requests,
            quota: 5 * MIB,
            ..scenario(name, phases)
        });
    }
    let huge = full("start with a full buffer", vec![phase("", 10_000, 1.0, 180)]);
    all.push(huge.clone());
    all.push(Scenario { reads: true, name: "the same, CloudWatch read", ..huge });
    all
}

/// Parts of the records, or of the requests, that a stream with room to spare throttles all the same.
const REFUSED: [(&str, f64, f64); 5] = [
    ("half the quota, 1 % of records always throttled", 0.01, 0.0),
    ("half the quota, 10 % of records always throttled", 0.1, 0.0),
    ("half the quota, 30 % of records always throttled", 0.3, 0.0),
    ("half the quota, 10 % of requests always throttled", 0.0, 0.1),
    ("half the quota, 30 % of requests always throttled", 0.0, 0.3),
];

/// What the plot shows.
fn plotted(seed: u64) -> Scenario {
    let phases = vec![
        phase("start", 100, 1.0, 30),
        phase("quota halved", 100, 0.5, 30),
        phase("quota doubled", 100, 1.0, 30),
        phase("100 more join", 200, 1.0, 30),
        phase("100 leave", 100, 1.0, 30),
    ];
    Scenario { backlog: 30.0 * MIB as f64, phases, ..Scenario::new("", seed) }
}

fn seconds(duration: Option<Duration>) -> String {
    duration.map_or("–".to_owned(), |duration| format!("{} s", duration.as_secs()))
}

fn row(scenario: &Scenario, phase: &Phase, outcome: &Outcome) -> String {
    let percent = |share: f64| format!("{:.1} %", 100.0 * share);
    let what = if phase.name.is_empty() {
        scenario.name.to_owned()
    } else {
        format!("{}: {}", scenario.name, phase.name)
    };
    format!(
        "| {} | {what} | {} | {} | {} | {:.3} | {:.0} | {} | {} |",
        phase.sidecars,
        percent(outcome.utilisation),
        percent(outcome.throttled_requests),
        percent(outcome.throttled_records),
        outcome.fairness,
        outcome.requests,
        seconds(outcome.settled),
        seconds(outcome.fair),
    )
}

#[expect(clippy::disallowed_methods, reason = "an Instant can't be made up from nothing")]
fn main() -> std::io::Result<()> {
    let Arguments { seed, only, plot, unpaced } = Arguments::parse();
    let start = Instant::now();
    println!(
        "| sidecars | what | utilisation | requests throttled | records throttled | Jain | requests/s | settled after | fair after |"
    );
    let mut chosen = scenarios(seed);
    chosen.retain(|scenario| scenario.name.contains(&only));
    chosen.iter_mut().for_each(|scenario| scenario.unpaced = unpaced);
    println!("| ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |");
    for scenario in chosen.iter() {
        for (phase, windows) in scenario.phases.iter().zip(run(scenario, start)) {
            println!("{}", row(scenario, phase, &Outcome::of(&windows)));
        }
    }
    if let Some(file) = plot {
        let scenario = plotted(seed);
        std::fs::write(file, plot::draw(&scenario, &run(&scenario, start)))?;
    }
    Ok(())
}
