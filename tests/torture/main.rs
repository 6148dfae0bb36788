//! Kills the daemon without warning, at random moments, under load, again and again, and then counts:
//! every record that it had called durable is at the sink, and of those it sent twice there are no more
//! than `docs/SEMANTICS.md` allows.
//!
//! `TORTURE_KILLS` is the number of kills in all (52), `TORTURE_SEED` repeats a run's choices.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::print_stdout)]
#![allow(clippy::disallowed_methods, clippy::cast_possible_truncation, missing_docs)]

#[path = "../it/daemon.rs"]
#[allow(
    dead_code,
    unreachable_pub,
    clippy::disallowed_methods,
    reason = "what the integration tests share is more than is used here"
)]
mod daemon;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hydrant::local::{Faults, Options};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

use daemon::{Daemon, STREAM, Sink, balance, hydrant, number, patiently};

const PRODUCERS: usize = 4;
const MAX_IN_FLIGHT: u64 = 4;
const MAX_BATCH_SIZE: u64 = 10;
/// What `docs/SEMANTICS.md` says a killed daemon may send twice: the batches in flight, and 64 whose fate
/// was not written down.
const TWICE_A_KILL: u64 = (MAX_IN_FLIGHT + 64) * MAX_BATCH_SIZE;

/// A connection of a producer: the kill that ended it, and which producer.
type Writer = (usize, usize);

/// How a run is to be.
#[derive(Clone)]
struct Plan {
    name: &'static str,
    sync: &'static str,
    faults: Faults,
    /// An answer may be lost, so that the daemon must send again what the stream may have.
    ambiguous: bool,
}

/// What a producer has written on one connection, and how much of it was called durable.
#[derive(Debug, Clone, Copy)]
struct Wrote {
    lines: u64,
    durable: u64,
}

/// Line `number` of `writer`, with its LF; which one it is decides its length and its bytes.
fn line((kill, producer): Writer, number: u64) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed((kill as u64) << 40 | (producer as u64) << 32 | number);
    let mut line = format!("{kill} {producer} {number} ").into_bytes();
    line.extend((0..random.usize(0..250)).map(|_| random.u8(b'a'..=b'z')));
    line.push(b'\n');
    line
}

/// Writes lines and reads acknowledgements until the daemon is gone.
async fn produce(socket: std::path::PathBuf, writer: Writer, seed: u64, durable: Arc<AtomicU64>) -> Wrote {
    let mut random = fastrand::Rng::with_seed(seed);
    let Ok(stream) = UnixStream::connect(socket).await else { return Wrote { lines: 0, durable: 0 } };
    let (read, mut write) = stream.into_split();
    let writing = async {
        let mut lines = 0;
        loop {
            let some = random.u64(1..200);
            let bytes: Vec<u8> = (lines..lines + some).flat_map(|number| line(writer, number)).collect();
            // Some of what a write that failed was to take may have been taken.
            lines += some;
            if write.write_all(&bytes).await.is_err() {
                return lines;
            }
        }
    };
    let reading = async {
        let (mut counts, mut last) = (BufReader::new(read).lines(), 0);
        while let Ok(Some(count)) = counts.next_line().await {
            // The last line may be cut short by the kill, to a smaller number.
            let count: u64 = count.parse().unwrap();
            durable.fetch_add(count.saturating_sub(last), Ordering::Relaxed);
            last = last.max(count);
        }
        last
    };
    let (lines, durable) = tokio::join!(writing, reading);
    assert!(durable <= lines, "{durable} of {lines} lines were called durable");
    Wrote { lines, durable }
}

fn settings(directory: &Path, sink: &Sink, plan: &Plan) -> Vec<String> {
    let path = directory.display();
    vec![
        format!("listen.app.address=unix:{path}/app.sock"),
        "listen.app.acks=durable".to_owned(),
        format!("buffer.directory={path}/spool"),
        "buffer.memory=1MiB".to_owned(),
        "buffer.disk=16MiB".to_owned(),
        format!("buffer.sync={}", plan.sync),
        format!("endpoint_url={}", sink.local.url()),
        format!("max_batch_size={MAX_BATCH_SIZE}"),
        format!("send.max_in_flight={MAX_IN_FLIGHT}"),
        "linger=5ms".to_owned(),
        "retry.base_delay=1ms".to_owned(),
        "retry.max_delay=20ms".to_owned(),
        "retry.max_retries=100".to_owned(),
        "monitor.interval=0s".to_owned(),
        "log.level=warn".to_owned(),
    ]
}

/// Starts the daemon and kills it `after` that, wherever it is by then.
async fn kill_at_start(directory: &Path, sink: &Sink, plan: &Plan, after: Duration) {
    let mut command = hydrant();
    command.args(["run", "--set", "admin.address=tcp:127.0.0.1:0", "--set"]);
    command.arg(format!("delivery_stream_name={STREAM}"));
    for setting in settings(directory, sink, plan) {
        command.arg("--set").arg(setting);
    }
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    tokio::time::sleep(after).await;
    child.kill().await.unwrap();
}

async fn start(directory: TempDir, sink: &Sink, plan: &Plan, others: &[&str]) -> Daemon {
    let settings = settings(directory.path(), sink, plan);
    // Its start is seen in its log.
    let all = settings.iter().map(String::as_str).chain(["log.level=info"]).chain(others.iter().copied());
    Daemon::start_in(directory, all).await
}

/// How often each line was delivered, by the connection that it was written on.
fn delivered(directory: &Path, counts: &mut BTreeMap<Writer, BTreeMap<u64, u64>>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            delivered(&path, counts);
            continue;
        }
        for text in std::fs::read(path).unwrap().split_inclusive(|byte| *byte == b'\n') {
            let mut fields =
                std::str::from_utf8(text).unwrap().split(' ').map(|field| field.parse().unwrap_or(u64::MAX));
            let (kill, producer, number) =
                (fields.next().unwrap() as usize, fields.next().unwrap() as usize, fields.next().unwrap());
            assert!(text == line((kill, producer), number), "delivered what nobody wrote: {text:?}");
            *counts.entry((kill, producer)).or_default().entry(number).or_default() += 1;
        }
    }
}

async fn torture(plan: Plan, kills: usize, seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let latency = Duration::from_millis(1);
    let sink =
        Sink::start(Options { faults: Faults { latency, ..plan.faults.clone() }, ..Options::default() })
            .await;
    let mut directory = tempfile::tempdir().unwrap();
    let mut wrote: BTreeMap<Writer, Wrote> = BTreeMap::new();
    let mut early = 0;
    for kill in 0..kills {
        if random.f64() < 0.2 {
            early += 1;
            kill_at_start(directory.path(), &sink, &plan, Duration::from_micros(random.u64(0..30_000))).await;
            continue;
        }
        let daemon = start(directory, &sink, &plan, &[]).await;
        let (metrics, durable) = (daemon.get("/metrics").await.1, Arc::new(AtomicU64::new(0)));
        let (taken, accounted) = balance(&metrics);
        assert_eq!(taken, accounted, "{metrics}");
        let writing: Vec<_> = (0..PRODUCERS)
            .map(|producer| {
                let durable = Arc::clone(&durable);
                tokio::spawn(produce(daemon.socket(), (kill, producer), random.u64(..), durable))
            })
            .collect();
        let enough = random.u64(0..2000);
        patiently("durable", async {
            while durable.load(Ordering::Relaxed) < enough {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await;
        directory = daemon.kill().await;
        for (producer, task) in writing.into_iter().enumerate() {
            wrote.insert((kill, producer), patiently("refused", task).await.unwrap());
        }
    }
    sink.local.set_faults(Faults::default());
    let daemon = start(directory, &sink, &plan, &["max_batch_size=500", "send.max_in_flight=8"]).await;
    daemon.until("drained", |status| number(status, "/ledger/held/records") == 0).await;
    let (taken, accounted) = balance(&daemon.get("/metrics").await.1);
    assert_eq!(taken, accounted);
    assert!(daemon.stop().await.status.success());
    sink.local.stop().await.unwrap();

    let mut counts = BTreeMap::new();
    delivered(sink.directory.path(), &mut counts);
    let (mut durable, mut lines, mut twice) = (0, 0, 0);
    for (writer, times) in &counts {
        let most = wrote[writer].lines;
        assert!(
            times.keys().all(|number| *number < most),
            "{writer:?}, seed {seed}: delivered what nobody wrote"
        );
        lines += times.len() as u64;
        twice += times.values().map(|times| times - 1).sum::<u64>();
    }
    for (writer, wrote) in &wrote {
        durable += wrote.durable;
        for number in 0..wrote.durable {
            let times = counts.get(writer).and_then(|times| times.get(&number));
            assert!(
                times.is_some(),
                "{writer:?}: durable line {number} of {} is lost, seed {seed}",
                wrote.durable
            );
        }
    }
    let bound = kills as u64 * TWICE_A_KILL;
    println!(
        "{}: {kills} kills ({early} of them while starting), {durable} durable records, 0 lost; {lines} delivered, \
         {twice} of them more than once (bound {}), seed {seed}",
        plan.name,
        if plan.ambiguous { "none: answers were lost".to_owned() } else { bound.to_string() },
    );
    assert!(plan.ambiguous || twice <= bound);
}

fn kills() -> usize {
    std::env::var("TORTURE_KILLS").map_or(52, |kills| kills.parse().unwrap())
}

fn seed() -> u64 {
    std::env::var("TORTURE_SEED").map_or_else(|_| fastrand::u64(..1 << 32), |seed| seed.parse().unwrap())
}

// R-K1, R-K11
#[tokio::test]
async fn killed_at_any_moment_nothing_durable_is_lost_and_little_is_sent_twice() {
    for (sync, name) in [("always", "sync = always"), ("os", "sync = os")] {
        let plan = Plan { name, sync, faults: Faults::default(), ambiguous: false };
        torture(plan, kills().div_ceil(4), seed()).await;
    }
}

// R-K1, R-K11
#[tokio::test]
async fn killed_while_the_stream_fails_in_part_nothing_durable_is_lost_and_little_is_sent_twice() {
    let faults = Faults { fail_records: 0.05, throttle: 0.1, ..Faults::default() };
    let plan = Plan { name: "records fail, requests are throttled", sync: "os", faults, ambiguous: false };
    torture(plan, kills().div_ceil(4), seed()).await;
}

// R-K1
#[tokio::test]
async fn killed_while_answers_are_lost_nothing_durable_is_lost() {
    let faults = Faults { reset_after: 0.05, error_500: 0.05, reset: 0.05, ..Faults::default() };
    let plan = Plan { name: "connections break, answers are lost", sync: "always", faults, ambiguous: true };
    torture(plan, kills().div_ceil(4), seed()).await;
}
