//! The table, in Markdown as `docs/BENCHMARKS.md` takes it.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::read_to_string;
use std::time::SystemTime;

use super::wire::Protocol;
use super::{Options, Receiver, Round, Setup, Start, spread};

/// Several measurements of one thing. Shows the median and, in brackets, the least and the most.
pub(crate) struct Spread {
    sorted: Vec<f64>,
}

impl Spread {
    /// The spread of `values`, of which there is at least one.
    pub(crate) fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        Self { sorted: values }
    }

    fn median(&self) -> f64 {
        let middle = self.sorted.len() / 2;
        f64::midpoint(self.sorted[middle], self.sorted[(self.sorted.len() - 1) / 2])
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = f.precision().unwrap_or(2);
        let (least, most) = (self.sorted[0], self.sorted[self.sorted.len() - 1]);
        write!(f, "{:.digits$} ({least:.digits$}–{most:.digits$})", self.median())
    }
}

pub(crate) fn print(options: &Options, rounds: &BTreeMap<(usize, Receiver), Vec<Round>>, starts: &[Start]) {
    println!("{}", machine());
    println!(
        "Medians (least–most) of {} rounds of {} GB of record data; CPU-seconds are the process's own.",
        options.rounds, options.gb
    );
    println!("Text of the records: {}.", options.text);
    if !options.set.is_empty() {
        println!("Settings: `{}`.", options.set.join("`, `"));
    }
    println!();
    println!(
        "| record | protocol | of lines | connections | tls | spool | packed | compression | ratio | MB/s | CPU-s/GB | user | sys | floor, CPU-s/GB | daemon/floor | idle MiB | peak MiB |"
    );
    println!(
        "| ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
    );
    let cpu = |round: Round| round.user + round.system;
    for ((size, receiver), daemon) in rounds {
        let Receiver::Daemon(setup) = receiver else { continue };
        let Setup { connections, tls, spool, packed, compression, protocol } = setup;
        let floor = spread(&rounds[&(*size, Receiver::Floor)], cpu);
        let total = spread(daemon, cpu);
        let lines = Receiver::Daemon(Setup { protocol: Protocol::Lines, ..*setup });
        let of_lines = rounds.get(&(*size, lines)).map_or("–".to_owned(), |rounds| {
            format!("{:.2}", total.median() / spread(rounds, cpu).median())
        });
        println!(
            "| {size} B | {protocol} | {of_lines} | {connections} | {tls} | {spool} | {packed} | {compression} | {:.2} | {:.0} | **{total}** | {} | {} | {floor} | {:.2} | {:.1} | {:.1} |",
            spread(daemon, |round| round.ratio).median(),
            spread(daemon, |round| round.megabytes_per_second),
            spread(daemon, |round| round.user),
            spread(daemon, |round| round.system),
            total.median() / floor.median(),
            spread(daemon, |round| round.idle),
            spread(daemon, |round| round.peak),
        );
    }
    println!();
    println!(
        "Start, {} times, in ms: connected after {:.1}, first record acknowledged after {:.1}.",
        starts.len(),
        spread(starts, |start| start.connected),
        spread(starts, |start| start.acknowledged),
    );
}

/// What these figures are true of.
fn machine() -> String {
    let cpus = read_to_string("/proc/cpuinfo").unwrap_or_default();
    let models = cpus.lines().filter_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let model = models.map(|(_, model)| model).next().unwrap_or("unknown CPU");
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let kernel = read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    #[expect(clippy::disallowed_methods, reason = "a report has a date")]
    let date = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
    format!("{}, {model}, {cores} cores, Linux {}.", &date[..10], kernel.trim())
}
