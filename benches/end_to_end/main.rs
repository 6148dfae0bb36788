//! The daemon from socket to sink, each part in a process of its own, and the floor beside it.
//!
//! A round sends records over Unix connections to one subject, the daemon or the floor, which
//! delivers them over HTTP, plain or with TLS, to a sink. Rounds of all subjects take turns, so that a slow
//! minute of the machine is everyone's. Every record is counted where it arrives; a round that
//! loses one is an error. Speed is only ever reported: `docs/BENCHMARKS.md` says how to read it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation
)]
#![allow(clippy::print_stdout, clippy::print_stderr, missing_docs)]

mod process;
mod report;
mod roles;
mod wire;

use std::collections::BTreeMap;
use std::time::Duration;

use clap::Parser;
use hydrant::limits::{MAX_BATCH_BYTES, MAX_BATCH_RECORDS};

use process::{Helper, Subject};
use report::Spread;
use roles::Role;
use wire::Protocol;

/// How long a daemon is left alone before what it holds at rest is read.
const REST: Duration = Duration::from_millis(300);

/// CPU time, memory and start-up of the daemon, beside the floor
#[derive(Debug, Clone, Parser)]
pub struct Options {
    /// Bytes of a record, its LF included
    #[arg(long, value_name = "BYTES", value_delimiter = ',', default_values_t = [200, 1_000, 10_000])]
    size: Vec<usize>,

    /// What the load speaks
    #[arg(long, value_name = "PROTOCOL", value_delimiter = ',', default_values_t = [Protocol::Lines])]
    protocol: Vec<Protocol>,

    /// Connections that the records come in over
    #[arg(long, value_name = "N", value_delimiter = ',', default_values_t = [1])]
    connections: Vec<usize>,

    /// Whether the daemon reaches the sink over TLS
    #[arg(long, value_name = "BOOL", value_delimiter = ',', default_values_t = [false])]
    tls: Vec<bool>,

    /// Spools that the daemon keeps: none, os or always, which is its `buffer.sync`
    #[arg(long, value_name = "SYNC", value_delimiter = ',', default_values_t = [Spool::None])]
    spool: Vec<Spool>,

    /// Whether records are packed
    #[arg(long, value_name = "BOOL", value_delimiter = ',', default_values_t = [false])]
    packed: Vec<bool>,

    /// How records are compressed, which are then packed: none, gzip or zstd
    #[arg(long, value_name = "FORMAT", value_delimiter = ',', default_values_t = [Compression::None])]
    compression: Vec<Compression>,

    /// What the lines say: characters at random, or what a service might log, in JSON
    #[arg(long, value_name = "TEXT", default_value_t = Text::Random)]
    text: Text,

    /// Record data of a round, in 10^9 bytes
    #[arg(long, default_value_t = 1.0)]
    gb: f64,

    /// Rounds of each subject
    #[arg(long, default_value_t = 5)]
    rounds: usize,

    /// Starts whose time is taken
    #[arg(long, default_value_t = 21)]
    starts: usize,

    /// Bytes of a write of the load, cut to whole records, where the protocol leaves that open
    #[arg(long, value_name = "BYTES", default_value_t = 64 * 1024)]
    write: usize,

    /// A setting of the daemon
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,

    /// What cargo says to a benchmark
    #[arg(long, hide = true)]
    bench: bool,

    #[command(subcommand)]
    role: Option<Role>,
}

/// What the daemon keeps on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Spool {
    None,
    Os,
    Always,
}

/// What is done to records of Firehose's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Compression {
    None,
    Gzip,
    Zstd,
}

/// What the lines say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Text {
    Random,
    Json,
}

/// What receives the lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Receiver {
    /// One connection, nothing but the work that can't be left out.
    Floor,
    Daemon(Setup),
}

/// What of the daemon and what surrounds it is told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Setup {
    connections: usize,
    tls: bool,
    spool: Spool,
    packed: bool,
    compression: Compression,
    protocol: Protocol,
}

/// All that `options` ask for.
fn setups(options: &Options) -> Vec<Setup> {
    let mut setups = Vec::new();
    for &connections in &options.connections {
        for &tls in &options.tls {
            for &spool in &options.spool {
                for &packed in &options.packed {
                    for &compression in &options.compression {
                        for &protocol in &options.protocol {
                            setups.push(Setup { connections, tls, spool, packed, compression, protocol });
                        }
                    }
                }
            }
        }
    }
    setups
}

/// What a round took.
#[derive(Debug, Clone, Copy)]
struct Round {
    /// 10^6 bytes of record data a second, from the first write to the subject's end.
    megabytes_per_second: f64,
    /// CPU-seconds for 10^9 bytes of record data, in the program and in the kernel for it.
    user: f64,
    system: f64,
    /// Bytes of record data for each byte that arrived.
    ratio: f64,
    /// Resident MiB with the connections open and nothing sent, and at most.
    idle: f64,
    peak: f64,
}

/// How long a start took, from before the exec.
#[derive(Debug, Clone, Copy)]
struct Start {
    /// Milliseconds to a connection that was not refused.
    connected: f64,
    /// Milliseconds to the acknowledgement of a record sent over it: it was accepted and read.
    acknowledged: f64,
}

impl std::fmt::Display for Spool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Os => "os",
            Self::Always => "always",
        })
    }
}

impl std::fmt::Display for Compression {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        })
    }
}

impl std::fmt::Display for Text {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Random => "random",
            Self::Json => "json",
        })
    }
}

fn main() {
    // Without cargo's `--bench` this is a test of the benchmark, whose arguments are for libtest.
    let said = |word| std::env::args().any(|argument| argument == word);
    let is_helper = std::env::args().nth(1).is_some_and(|first| !first.starts_with('-'));
    if is_helper || (said("--bench") && !said("--test")) {
        let options = Options::parse();
        match &options.role {
            Some(role) => role.play(),
            None => bench(&options),
        }
    } else {
        let few = ["end_to_end", "--gb=0.002", "--rounds=1", "--starts=1"];
        bench(&Options::parse_from(few));
        let protocols = "--protocol=frames,syslog,forward,forward-acks,http,firehose";
        bench(&Options::parse_from(few.into_iter().chain([protocols, "--size=200", "--tls=true"])));
    }
}

fn bench(options: &Options) {
    process::allow_many_files();
    let mut rounds: BTreeMap<(usize, Receiver), Vec<Round>> = BTreeMap::new();
    let daemons = setups(options).into_iter().map(Receiver::Daemon);
    for number in 1..=options.rounds {
        eprintln!("round {number} of {}", options.rounds);
        for &size in &options.size {
            for receiver in std::iter::once(Receiver::Floor).chain(daemons.clone()) {
                rounds.entry((size, receiver)).or_default().push(round(options, receiver, size));
            }
        }
    }
    eprintln!("{} starts", options.starts);
    let starts: Vec<Start> = (0..options.starts).map(|_| start(options)).collect();
    report::print(options, &rounds, &starts);
}

/// Lines of `size` bytes that fill one request.
fn batch_records(size: usize) -> usize {
    (MAX_BATCH_BYTES / size).clamp(1, MAX_BATCH_RECORDS)
}

fn round(options: &Options, receiver: Receiver, size: usize) -> Round {
    // Whole batches, so that neither subject ends on a small one.
    let batch = batch_records(size);
    let batches = (options.gb * 1e9 / (batch * size) as f64).ceil().max(1.0);
    let lines = batches as usize * batch;
    let tls = matches!(receiver, Receiver::Daemon(Setup { tls: true, .. }));
    let sink = Helper::start(["sink", if tls { "true" } else { "false" }]);
    let (subject, connections, protocol) = match receiver {
        Receiver::Floor => (Subject::floor(sink.said(), size), 1, Protocol::Lines),
        Receiver::Daemon(Setup { connections, spool, packed, compression, protocol, .. }) => {
            let packed = packed || compression != Compression::None;
            let mode = format!("aggregate.mode={}", if packed { "on" } else { "off" });
            let compression = format!("aggregate.compression={compression}");
            let settings: Vec<String> = [mode, compression]
                .into_iter()
                .chain(protocol.settings())
                .chain(options.set.clone())
                .collect();
            (Subject::daemon(&endpoint(sink.said(), tls), spool, &settings), connections, protocol)
        }
    };
    let numbers = [size, lines, connections, options.write].map(|number| number.to_string());
    let socket = subject.socket().display().to_string();
    let [protocol, text] = [protocol.to_string(), options.text.to_string()];
    let arguments = ["load", &protocol, &socket].into_iter().chain(numbers.iter().map(String::as_str));
    let load = Helper::start(arguments.chain([text.as_str()]));
    std::thread::sleep(REST);
    let idle = subject.resident_mib();
    let begin = process::now();
    load.finish();
    let usage = subject.finish();
    let seconds = begin.elapsed().as_secs_f64();
    let (sent, delivered) = (lines * size, sink.finish().trim().parse::<usize>().unwrap());
    let is_whole = match receiver {
        // What of compressed data is missing, the sink can't tell: the daemon's own account must do.
        Receiver::Daemon(Setup { compression: Compression::Gzip | Compression::Zstd, .. }) => {
            delivered < sent * 2
        }
        Receiver::Floor | Receiver::Daemon(Setup { compression: Compression::None, .. }) => delivered == sent,
    };
    assert!(is_whole, "{delivered} bytes delivered, of {sent} sent; it said: {}", usage.log);
    let gigabytes = sent as f64 / 1e9;
    Round {
        megabytes_per_second: gigabytes * 1e3 / seconds,
        user: usage.user / gigabytes,
        system: usage.system / gigabytes,
        ratio: sent as f64 / delivered as f64,
        idle,
        peak: usage.peak_mib,
    }
}

/// Where the sink at `port` is.
fn endpoint(port: &str, tls: bool) -> String {
    format!("{}://127.0.0.1:{port}", if tls { "https" } else { "http" })
}

fn start(options: &Options) -> Start {
    let sink = Helper::start(["sink", "false"]);
    let settings: Vec<String> =
        options.set.iter().cloned().chain(["listen.app.acks=received".to_owned()]).collect();
    let subject = Subject::daemon(&endpoint(sink.said(), false), Spool::None, &settings);
    let mut stream = roles::connect(subject.socket());
    let connected = subject.age();
    let record = b"a record\n";
    roles::send_acknowledged(&mut stream, record);
    let acknowledged = subject.age();
    drop(stream);
    subject.finish();
    assert_eq!(sink.finish().trim(), record.len().to_string(), "bytes delivered, of the record sent");
    let milliseconds = |time: Duration| time.as_secs_f64() * 1e3;
    Start { connected: milliseconds(connected), acknowledged: milliseconds(acknowledged) }
}

/// The `value`s of `rounds`.
fn spread<T: Copy>(rounds: &[T], value: impl Fn(T) -> f64) -> Spread {
    Spread::of(rounds.iter().copied().map(value).collect())
}
