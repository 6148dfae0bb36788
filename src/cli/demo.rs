//! `hydrant demo`: the main job without an AWS account, checked record by record.
//!
//! The daemon, the SDK and the sockets are the real ones; the service is the embedded Firehose on
//! a loopback port.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead, BufReader, IsTerminal};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use aws_credential_types::Credentials;
use indicatif::{ProgressBar, ProgressStyle};
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;

use super::options::say;
use crate::app::{App, Ended};
use crate::config::{Sources, load};
use crate::drain::Order;
use crate::firehose::{Sdk, body};
use crate::local::{Faults, Local, Options};
use crate::telemetry::now;

/// The delivery stream of the demo.
const STREAM: &str = "demo";
/// Records written at a time.
const WRITE_RECORDS: u64 = 100;
/// How often progress is shown on a terminal, and elsewhere.
const PROGRESS_EVERY: (Duration, Duration) = (Duration::from_millis(80), Duration::from_secs(1));

/// Shows the main job with no AWS account: records in by socket, batches out, every one checked
#[derive(Debug, clap::Args)]
#[command(after_help = "Example, with one record in twenty failing at the first try:\n  \
                        hydrant demo --records 100000 --fail-records 0.05 --dir ./delivered")]
pub struct Args {
    /// Records to stream through
    #[arg(long, value_name = "N", default_value_t = 5550)]
    records: u64,
    /// Write delivered files below DIR [default: a new directory for temporary files]
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Probability that the service fails a record, which is then sent again
    #[arg(long, value_name = "P", default_value_t = 0.0, value_parser = super::local::probability)]
    fail_records: f64,
}

/// Runs the command; returns the exit code.
pub fn execute(args: Args) -> u8 {
    let runtime = match super::runtime() {
        Ok(runtime) => runtime,
        Err(code) => return code,
    };
    match runtime.block_on(demo(args)) {
        Ok(code) => code,
        Err(error) => {
            say(&format!("error: {error:#}"));
            super::FAILED
        }
    }
}

async fn demo(args: Args) -> anyhow::Result<u8> {
    let directory = match args.dir {
        Some(directory) => directory,
        None => std::env::temp_dir().join(format!("hydrant-demo-{}", std::process::id())),
    };
    let before: BTreeSet<PathBuf> =
        files(&directory).context("the directory could not be read")?.into_iter().collect();
    let sockets = private_directory()?;
    let socket = sockets.join("demo.sock");
    let local = Local::start(Options {
        directory: Some(directory.clone()),
        streams: vec![STREAM.to_owned()],
        faults: Faults { fail_records: args.fail_records, ..Faults::default() },
        ..Options::default()
    })
    .await?;
    super::print(&format!(
        "the embedded Firehose is listening on {}\nthe daemon is listening on unix:{}\n",
        local.url(),
        socket.display()
    ));
    let started = now();
    let streamed = stream(&local, &socket, args.records).await;
    // Only our own directory, which held nothing but the socket.
    std::fs::remove_dir_all(&sockets).ok();
    let ended = streamed?;
    let took = now().saturating_duration_since(started);
    local.stop().await?;
    let delivered = files(&directory)?.into_iter().filter(|file| !before.contains(file)).collect::<Vec<_>>();
    let verdict = check(&delivered, args.records)?;
    let accepted = local.counts().total();
    super::print(&format!(
        "{} requests, {} records sent again, {:.1} s; {} files below {}\n",
        accepted.requests,
        accepted.failed_entries,
        took.as_secs_f64(),
        delivered.len(),
        directory.display()
    ));
    super::print(&format!("{verdict}\n"));
    Ok(if verdict.is_clean() && ended.left.records == 0 { super::DONE } else { super::FAILED })
}

/// Runs the daemon, writes the records to its socket, and stops it.
async fn stream(local: &Local, socket: &Path, records: u64) -> anyhow::Result<Ended> {
    let sources = Sources {
        set: vec![
            format!("delivery_stream_name={STREAM}"),
            "region=us-east-1".to_owned(),
            format!("endpoint_url={}", local.url()),
            format!("listen.demo.address=unix:{}", socket.display()),
            "admin.address=off".to_owned(),
            "linger=50ms".to_owned(),
        ],
        ..Sources::default()
    };
    let config = load(&sources)?.config;
    let sdk =
        Sdk::new((&config).into()).with_credentials(Credentials::new("demo", "demo", None, None, "demo"));
    let app = App::bind(config)?;
    let written = AtomicU64::new(0);
    let producing = async {
        let mut producer =
            UnixStream::connect(socket).await.context("the daemon's socket could not be connected to")?;
        for first in (0..records).step_by(usize::try_from(WRITE_RECORDS)?) {
            let end = records.min(first + WRITE_RECORDS);
            let lines: Vec<u8> = (first..end).flat_map(record).collect();
            producer.write_all(&lines).await.context("the daemon's socket broke")?;
            written.store(end, Ordering::Relaxed);
        }
        producer.shutdown().await.context("the daemon's socket broke")
    };
    let (stop, stopped) = tokio::sync::oneshot::channel();
    let orders: Pin<Box<_>> = Box::pin(futures_util::stream::once(async move {
        // A producer that failed drops the sender, which ends the daemon just the same.
        stopped.await.unwrap_or(());
        Order::Stop
    }));
    let running = app.run(Arc::new(sdk), body::body_bytes, orders);
    let work = async {
        let both = async {
            let produced = producing.await;
            stop.send(()).ok();
            produced
        };
        let (produced, ended) = tokio::join!(both, running);
        produced.map(|()| ended)
    };
    show_progress(work, records, &written, local).await
}

/// Runs `work` and shows how far it is: a bar on a terminal, a line now and then elsewhere.
async fn show_progress<T>(
    work: impl Future<Output = T>,
    records: u64,
    written: &AtomicU64,
    local: &Local,
) -> T {
    let terminal = std::io::stderr().is_terminal();
    let bar = if terminal { ProgressBar::new(records) } else { ProgressBar::hidden() };
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {pos}/{len} delivered  {msg}") {
        bar.set_style(style);
    }
    let mut pace = tokio::time::interval(if terminal { PROGRESS_EVERY.0 } else { PROGRESS_EVERY.1 });
    let started: Instant = now();
    tokio::pin!(work);
    loop {
        let done = tokio::select! {
            done = &mut work => Some(done),
            _ = pace.tick() => None,
        };
        let (written, delivered) = (written.load(Ordering::Relaxed), local.counts().total().records);
        bar.set_position(delivered);
        bar.set_message(format!("{written} written to the socket"));
        if !terminal {
            let seconds = now().saturating_duration_since(started).as_secs_f64();
            super::print(&format!(
                "{seconds:.1} s: {written} of {records} written to the socket, {delivered} delivered\n"
            ));
        }
        if let Some(done) = done {
            bar.finish();
            return done;
        }
    }
}

/// A directory of our own for the socket: short, because a socket's path may have no more than
/// 107 bytes, and closed to others.
fn private_directory() -> anyhow::Result<PathBuf> {
    use std::os::unix::fs::DirBuilderExt;
    let directory = std::env::temp_dir().join(format!("hydrant-{}", std::process::id()));
    std::fs::DirBuilder::new()
        .mode(0o700)
        .create(&directory)
        .with_context(|| format!("{} could not be made", directory.display()))?;
    Ok(directory)
}

/// Record `number`: the line that is sent and that must arrive. The same number always gives the
/// same line.
fn record(number: u64) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(number);
    let path = random.choice(["/cart", "/checkout", "/search", "/login", "/"]).unwrap_or("/");
    let status = random.choice([200, 200, 200, 200, 302, 404, 500]).unwrap_or(200);
    let (took_ms, user) = (random.u32(1..900), random.u32(1..5000));
    let length = random.usize(20..160);
    let agent: String = std::iter::repeat_with(|| random.alphanumeric()).take(length).collect();
    format!("{{\"id\":{number},\"path\":\"{path}\",\"status\":{status},\"took_ms\":{took_ms},\"user\":{user},\"agent\":\"{agent}\"}}\n")
        .into_bytes()
}

/// The number that a line says it has.
fn number(line: &[u8]) -> Option<u64> {
    let digits = line.strip_prefix(b"{\"id\":")?;
    let end = memchr::memchr(b',', digits)?;
    std::str::from_utf8(digits.get(..end)?).ok()?.parse().ok()
}

/// What was found in the delivered files.
#[derive(Debug, Default, PartialEq, Eq)]
struct Verdict {
    expected: u64,
    delivered: u64,
    duplicated: u64,
    damaged: u64,
}

impl Verdict {
    fn lost(&self) -> u64 {
        self.expected - self.delivered
    }

    fn is_clean(&self) -> bool {
        self.lost() == 0 && self.duplicated == 0 && self.damaged == 0
    }
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { expected, delivered, duplicated, damaged } = self;
        if *damaged > 0 {
            writeln!(f, "{damaged} lines are not what was sent")?;
        }
        write!(
            f,
            "delivered {delivered} of {expected} records, {} lost, {duplicated} duplicated",
            self.lost()
        )
    }
}

/// Compares every line of `files` with the record that it claims to be.
fn check(files: &[PathBuf], expected: u64) -> anyhow::Result<Verdict> {
    let mut verdict = Verdict { expected, ..Verdict::default() };
    let mut seen = vec![false; usize::try_from(expected)?];
    for path in files {
        let read = || format!("{} could not be read", path.display());
        let mut lines = BufReader::new(File::open(path).with_context(read)?);
        let mut line = Vec::new();
        while lines.read_until(b'\n', &mut line).with_context(read)? > 0 {
            let number = number(&line).filter(|number| record(*number) == line);
            let place = number.and_then(|number| seen.get_mut(usize::try_from(number).ok()?));
            match place {
                None => verdict.damaged += 1,
                Some(true) => verdict.duplicated += 1,
                Some(seen) => {
                    *seen = true;
                    verdict.delivered += 1;
                }
            }
            line.clear();
        }
    }
    Ok(verdict)
}

/// Every file below `directory`; none where it does not exist.
fn files(directory: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut directories = vec![directory.to_owned()];
    while let Some(directory) = directories.pop() {
        let entries = match std::fs::read_dir(&directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        for entry in entries {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                directories.push(entry.path())
            } else {
                files.push(entry.path())
            }
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn verdict(lines: &[Vec<u8>], expected: u64) -> String {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&lines.concat()).unwrap();
        check(&[file.path().to_owned()], expected).unwrap().to_string()
    }

    // R-T2
    #[test]
    fn the_check_finds_what_is_lost_doubled_and_damaged() {
        let check = |lines: &[Vec<u8>], expected: &str| assert_eq!(verdict(lines, 3), expected);
        check(&[record(2), record(0), record(1)], "delivered 3 of 3 records, 0 lost, 0 duplicated");
        check(&[record(0), record(0), record(1)], "delivered 2 of 3 records, 1 lost, 1 duplicated");
        let mut damaged = record(1);
        damaged[20] ^= 1;
        let found = verdict(&[record(0), damaged, record(2), record(3)], 3);
        assert_eq!(found, "2 lines are not what was sent\ndelivered 2 of 3 records, 1 lost, 0 duplicated");
    }
}
