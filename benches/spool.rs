//! The spool beside the least that could be written: the same bytes, one after the other, to a plain
//! file with one `fdatasync` a frame; both in turn, in the same directory. `SPOOL_BENCH_DIR` names
//! that directory (default: a temporary one), which should be on a disk and not in memory. Rates are of
//! the clock, which a busy disk or machine spoils; processor time is what the spool itself costs.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs)]
#![allow(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
#![allow(clippy::print_stdout, reason = "a benchmark prints what it has measured")]

use std::fs::{self, File};
use std::hint::black_box;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hydrant::spool::{Disk, Options, Sync, open};

/// One busy connection's read.
const FRAME_BYTES: usize = RECORDS as usize * RECORD_BYTES as usize;
const RECORD_BYTES: u32 = 1024;
const RECORDS: u32 = 256;
const FRAMES: usize = 256;
const ROUNDS: usize = 5;

fn main() {
    // `cargo test` builds and runs benchmarks too.
    let frames = if std::env::args().any(|arg| arg == "--bench") { FRAMES } else { 8 };
    let temporary = tempfile::tempdir().unwrap();
    let directory =
        std::env::var_os("SPOOL_BENCH_DIR").map_or_else(|| temporary.path().to_owned(), PathBuf::from);
    let mut rng = fastrand::Rng::with_seed(7);
    let data: Vec<u8> = std::iter::repeat_with(|| rng.u8(..)).take(FRAME_BYTES).collect();
    for sync in [true, false] {
        let what = if sync { "fdatasync a frame" } else { "no sync" };
        let (mut ratios, mut costs) = (Vec::new(), Vec::new());
        for round in 0..ROUNDS {
            let plain = plain(&directory.join(format!("plain-{round}")), &data, frames, sync);
            let spool = spool(&directory.join(format!("spool-{round}")), &data, frames, sync);
            ratios.push(spool.clock.as_secs_f64() / plain.clock.as_secs_f64());
            costs.push(spool.processor.as_secs_f64() / plain.processor.as_secs_f64());
            say(&format!("{what}: plain file {}, spool {}", rate(plain, frames), rate(spool, frames)));
        }
        ratios.sort_by(f64::total_cmp);
        costs.sort_by(f64::total_cmp);
        let (ratio, cost) = (ratios[ROUNDS / 2], costs[ROUNDS / 2]);
        say(&format!(
            "{what}: the spool takes {ratio:.2} times as long and {cost:.2} times the processor (medians)"
        ));
    }
    say(&format!("read back and verified: {}", read_back(&directory.join("spool-read"), &data, frames)));
}

fn plain(path: &Path, data: &[u8], frames: usize, sync: bool) -> Took {
    let file = File::create(path).unwrap();
    let start = Began::now();
    for index in 0..frames {
        file.write_all_at(data, (index * FRAME_BYTES) as u64).unwrap();
        if sync {
            file.sync_data().unwrap();
        }
    }
    let took = start.took();
    fs::remove_file(path).unwrap();
    took
}

/// Appends, syncs, settles what is 16 frames old, and gives space back, as a daemon does.
fn spool(path: &Path, data: &[u8], frames: usize, sync: bool) -> Took {
    let options = Options::new(1 << 30, if sync { Sync::Always } else { Sync::Os }, 1);
    let mut spool = open(Disk::open(path).unwrap(), options).unwrap().spool;
    let ends: Vec<u32> = (1..=RECORDS).map(|n| n * RECORD_BYTES).collect();
    let start = Began::now();
    for _ in 0..frames {
        let appended = spool.append(0, &ends, data).unwrap();
        spool.sync().unwrap();
        spool.settle(0..appended.sequences.end.saturating_sub(16 * ends.len() as u64));
        spool.checkpoint().unwrap();
    }
    let took = start.took();
    drop(spool);
    fs::remove_dir_all(path).unwrap();
    took
}

fn read_back(path: &Path, data: &[u8], frames: usize) -> String {
    let options = Options::new(1 << 30, Sync::Os, 1);
    let ends: Vec<u32> = (1..=RECORDS).map(|n| n * RECORD_BYTES).collect();
    let mut opened = open(Disk::open(path).unwrap(), options).unwrap();
    for _ in 0..frames {
        let appended = opened.spool.append(0, &ends, data).unwrap();
        opened.backlog.push(&appended);
    }
    let mut reader = opened.spool.reader();
    let start = Began::now();
    while let Some(waiting) = opened.backlog.next(&mut reader).unwrap() {
        black_box(waiting);
    }
    let took = start.took();
    fs::remove_dir_all(path).unwrap();
    rate(took, frames)
}

fn rate(took: Took, frames: usize) -> String {
    let bytes = (frames * FRAME_BYTES) as f64;
    let (clock, processor) = (took.clock.as_secs_f64(), took.processor.as_secs_f64());
    format!("{:.0} MB/s at {:.2} CPU-s/GB", bytes / 1e6 / clock, processor / (bytes / 1e9))
}

/// What something has taken.
struct Took {
    clock: Duration,
    processor: Duration,
}

/// When it began.
struct Began(Instant, Duration);

impl Began {
    fn now() -> Self {
        Self(Instant::now(), processor())
    }

    fn took(&self) -> Took {
        Took { clock: self.0.elapsed(), processor: processor() - self.1 }
    }
}

/// Processor time of this thread, the kernel's share included.
fn processor() -> Duration {
    let stat = fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(stat.split(' ').next().unwrap().parse().unwrap())
}

fn say(line: &str) {
    println!("{line}");
}
