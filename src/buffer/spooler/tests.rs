//! The thread of the spool over a disk that fails, stalls and is full.

use std::io::{self, IoSlice};
use std::sync::{Condvar, Mutex};

use bytes::Bytes;
use rustix::io::Errno;
use tokio::sync::Notify;

use super::*;
use crate::buffer::Fate;
use crate::record::{Origin, Span};
use crate::spool::{Access, Disk, Entry, Options, inspect::Inspection, open};
use crate::telemetry::figures::SpoolFigures;

/// A call on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Call {
    Create,
    Preallocate,
    Write,
    Read,
    Truncate,
    Sync,
    SyncDirectory,
    Remove,
}

const CALLS: [Call; 8] = [
    Call::Create,
    Call::Preallocate,
    Call::Write,
    Call::Read,
    Call::Truncate,
    Call::Sync,
    Call::SyncDirectory,
    Call::Remove,
];

/// Calls of one kind that fail: so many of them, after so many that did not.
#[derive(Debug, Clone, Copy)]
struct Fault {
    call: Call,
    after: usize,
    times: usize,
    errno: Errno,
}

/// A disk whose calls are counted, and may fail or be held up.
#[derive(Debug)]
struct Trying {
    disk: Disk,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    made: Vec<Call>,
    fault: Option<Fault>,
    /// Syncs wait.
    stalled: bool,
    failed: usize,
}

impl Trying {
    fn made(&self, call: Call) -> usize {
        self.state.lock().unwrap().made.iter().filter(|made| **made == call).count()
    }

    fn set_stalled(&self, stalled: bool) {
        self.state.lock().unwrap().stalled = stalled;
        self.changed.notify_all();
    }

    fn call(&self, call: Call) -> io::Result<()> {
        let mut state = self.state.lock().unwrap();
        let before = state.made.iter().filter(|made| **made == call).count();
        state.made.push(call);
        if call == Call::Sync {
            state = self.changed.wait_while(state, |state| state.stalled).unwrap();
        }
        let fails =
            |fault: &Fault| fault.call == call && (fault.after..fault.after + fault.times).contains(&before);
        match state.fault.filter(fails) {
            None => Ok(()),
            Some(fault) => {
                state.failed += 1;
                Err(fault.errno.into())
            }
        }
    }
}

/// The spool shares it with the test.
#[derive(Debug, Clone)]
struct Shared(Arc<Trying>);

impl Storage for Shared {
    type File = std::fs::File;

    fn list(&self) -> io::Result<Vec<Entry>> {
        self.0.disk.list()
    }
    fn create(&self, name: &str) -> io::Result<Self::File> {
        self.0.call(Call::Create)?;
        self.0.disk.create(name)
    }
    fn open(&self, name: &str, access: Access) -> io::Result<Self::File> {
        self.0.disk.open(name, access)
    }
    fn preallocate(&self, file: &Self::File, bytes: u64) -> io::Result<()> {
        self.0.call(Call::Preallocate)?;
        self.0.disk.preallocate(file, bytes)
    }
    fn write_at(&self, file: &Self::File, offset: u64, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.call(Call::Write)?;
        self.0.disk.write_at(file, offset, parts)
    }
    fn read_at(&self, file: &Self::File, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        self.0.call(Call::Read)?;
        self.0.disk.read_at(file, offset, into)
    }
    fn truncate(&self, file: &Self::File, bytes: u64) -> io::Result<()> {
        self.0.call(Call::Truncate)?;
        self.0.disk.truncate(file, bytes)
    }
    fn sync_data(&self, file: &Self::File) -> io::Result<()> {
        self.0.call(Call::Sync)?;
        self.0.disk.sync_data(file)
    }
    fn sync_directory(&self) -> io::Result<()> {
        self.0.call(Call::SyncDirectory)?;
        self.0.disk.sync_directory()
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.0.disk.rename(from, to)
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.0.call(Call::Remove)?;
        self.0.disk.remove(name)
    }
}

/// A producer that remembers which of its records have reached their level.
#[derive(Debug, Default)]
struct Producer {
    reached: Mutex<Vec<u64>>,
    told: Notify,
}

impl Origin for Producer {
    fn reached(&self, first: u64, records: u64) {
        self.reached.lock().unwrap().extend(first..first + records);
        self.told.notify_one();
    }
}

/// The buffer with a spool in `directory`, its thread running.
struct Bench {
    disk: Arc<Trying>,
    intake: Intake,
    outlet: Outlet,
    ledger: Arc<Ledger>,
    figures: Arc<Figures>,
    abort: CancellationToken,
    budget: Budget,
    thread: std::thread::JoinHandle<Count>,
}

impl Bench {
    fn new(directory: &std::path::Path, on_full: OnFull, fault: Option<Fault>) -> Self {
        let disk =
            Trying { disk: Disk::open(directory).unwrap(), state: Mutex::default(), changed: Condvar::new() };
        let disk = Arc::new(disk);
        // Small segments, so that a short run fills several.
        let options = Options { segment_bytes: 4096, ..Options::new(1 << 20, Sync::Always, 7) };
        let opened = open(Shared(Arc::clone(&disk)), options).unwrap();
        {
            let mut state = disk.state.lock().unwrap();
            state.made.clear();
            state.fault = fault;
        }
        let ledger = Arc::new(Ledger::default());
        let figures = Arc::new(Figures::new(Arc::clone(&ledger), now()));
        *figures.spool() = Some(SpoolFigures::new(String::new(), 1 << 20));
        let (budget, abort) = (Budget::new(64 << 10), CancellationToken::new());
        let spooled = Spooled {
            budget: budget.clone(),
            read_back: Budget::new(16 << 10),
            on_full,
            opened,
            figures: Arc::clone(&figures),
            abort: abort.clone(),
        };
        let (intake, outlet, spooler) = spooled.channel(Arc::clone(&ledger));
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
            runtime.block_on(spooler.run())
        });
        Self { disk, intake, outlet, ledger, figures, abort, budget, thread }
    }

    /// Hands a record of its own chunk over, `number` of `producer`, who is to be told when it is durable.
    async fn accept(&self, producer: &Arc<Producer>, number: u64) {
        self.accept_for(producer, number, Level::Durable).await;
    }

    async fn accept_for(&self, producer: &Arc<Producer>, number: u64, level: Level) {
        let data = format!("{number:0>999}\n");
        let hold = self.budget.reserve(data.len() + CHUNK_OVERHEAD_BYTES).await;
        let claim = Claim { origin: Arc::clone(producer) as _, level, first: number };
        let chunk = Chunk::new(Bytes::from(data), Box::from([1000]), now(), hold);
        self.intake.accept(chunk.with_claim(Some(claim))).await;
    }

    /// Records for which there was no room.
    fn dropped(&self) -> usize {
        let columns = self.ledger.columns();
        usize::try_from(columns.dropped[DropReason::BufferFull as usize].records).unwrap()
    }

    fn condition(&self) -> SpoolCondition {
        self.figures.spool().as_ref().unwrap().condition
    }
}

/// The number in a record, see [`Bench::accept`].
fn number(record: &[u8]) -> u64 {
    std::str::from_utf8(record).unwrap().trim_end().parse().unwrap()
}

/// The records that wait in a spool, as an inspection from outside finds them.
fn left_in(directory: &std::path::Path) -> Vec<u64> {
    let mut left = Vec::new();
    let inspection = Inspection::new(Disk::look(directory).unwrap()).unwrap();
    let ended = inspection.export(|waiting| {
        left.extend(
            waiting.unwrap().slices().flat_map(|slice| slice.chunks(1000).map(number).collect::<Vec<_>>()),
        );
        std::ops::ControlFlow::<()>::Continue(())
    });
    assert!(ended.is_continue());
    left
}

fn span(chunk: Chunk) -> Span {
    Span::whole(Arc::new(chunk)).unwrap()
}

/// Long enough for anything but a failure.
async fn patiently<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), future).await.expect("never happened")
}

// R-K8
#[tokio::test]
async fn one_sync_covers_all_that_came_during_the_last_from_however_many_connections() {
    for connections in [1, 64] {
        let directory = tempfile::tempdir().unwrap();
        let bench = Bench::new(directory.path(), OnFull::Block, None);
        let producers: Vec<_> = (0..connections).map(|_| Arc::new(Producer::default())).collect();
        bench.disk.set_stalled(true);
        bench.accept(&producers[0], 0).await;
        // The flush task has it although the disk does not answer.
        let first = span(patiently(bench.outlet.chunks.recv()).await.unwrap());
        for (number, producer) in (1..=40).zip(producers.iter().cycle()) {
            bench.accept(producer, number).await;
        }
        assert!(producers.iter().all(|producer| producer.reached.lock().unwrap().is_empty()));
        let before = bench.disk.made(Call::Sync);
        bench.disk.set_stalled(false);
        let durable =
            || producers.iter().map(|producer| producer.reached.lock().unwrap().len()).sum::<usize>();
        patiently(async {
            while durable() < 41 {
                tokio::task::yield_now().await;
            }
        })
        .await;
        // One that was waiting and one for all the others, and those that end a segment of 4 KiB.
        let segments = 41_usize.div_ceil(3);
        let syncs = bench.disk.made(Call::Sync) - before;
        assert!(syncs <= 1 + segments, "{connections} connections: {syncs} syncs");
        drop((first, bench));
    }
}

// R-K9
#[tokio::test]
async fn after_a_failed_sync_nothing_is_called_durable_and_nothing_more_is_taken() {
    let directory = tempfile::tempdir().unwrap();
    let fault = Fault { call: Call::Sync, after: 1, times: 1, errno: Errno::IO };
    let bench = Bench::new(directory.path(), OnFull::Block, Some(fault));
    let producer = Arc::new(Producer::default());
    bench.accept(&producer, 0).await;
    patiently(producer.told.notified()).await;
    bench.accept(&producer, 1).await;
    patiently(bench.intake.refuses().cancelled()).await;
    // What had been read by then is not durable, is not called so, and is sent all the same.
    bench.accept(&producer, 2).await;
    let mut sent = Vec::new();
    for _ in 0..3 {
        sent.push(span(patiently(bench.outlet.chunks.recv()).await.unwrap()));
    }
    assert_eq!(
        sent.iter().flat_map(|span| span.iter().map(number).collect::<Vec<_>>()).collect::<Vec<_>>(),
        [0, 1, 2]
    );
    assert_eq!(*producer.reached.lock().unwrap(), [0]);
    assert_eq!(bench.disk.made(Call::Sync), 2, "a failed sync is never tried again");
    assert_eq!(bench.condition(), SpoolCondition::Failed);
}

// R-K10
#[tokio::test]
async fn a_disk_that_is_full_for_a_while_holds_records_up_and_loses_none() {
    for errno in [Errno::NOSPC, Errno::DQUOT] {
        let directory = tempfile::tempdir().unwrap();
        let fault = Fault { call: Call::Write, after: 2, times: 3, errno };
        let bench = Bench::new(directory.path(), OnFull::Block, Some(fault));
        let producer = Arc::new(Producer::default());
        for number in 0..20 {
            bench.accept(&producer, number).await;
        }
        patiently(async {
            while producer.reached.lock().unwrap().len() < 20 {
                producer.told.notified().await;
            }
        })
        .await;
        assert_eq!(*producer.reached.lock().unwrap(), (0..20).collect::<Vec<_>>());
        assert_eq!(bench.disk.state.lock().unwrap().failed, 3);
        assert_eq!(left_in(directory.path()), (0..20).collect::<Vec<_>>());
    }
}

// R-P12
#[tokio::test]
async fn what_a_full_spool_drops_is_never_told_to_be_received() {
    for errno in [Errno::NOSPC, Errno::IO] {
        let directory = tempfile::tempdir().unwrap();
        let fault = Fault { call: Call::Write, after: 2, times: 1, errno };
        let bench = Bench::new(directory.path(), OnFull::DropNewest, Some(fault));
        let producer = Arc::new(Producer::default());
        let mut sent = Vec::new();
        for number in 0..10 {
            bench.accept_for(&producer, number, Level::Received).await;
            patiently(async {
                // It goes on or is dropped.
                while (sent.len() + bench.dropped()) as u64 == number {
                    match bench.outlet.chunks.try_recv() {
                        Ok(chunk) => sent.extend(span(chunk).iter().map(self::number)),
                        Err(_) => tokio::task::yield_now().await,
                    }
                }
            })
            .await;
        }
        assert_eq!(sent.len(), if errno == Errno::NOSPC { 9 } else { 10 }, "{errno}");
        assert_eq!(*producer.reached.lock().unwrap(), sent, "{errno}");
    }
}

/// Lets 60 records through a buffer whose disk has `fault`; every third is not settled when the daemon
/// stops. Returns whether the fault came about.
async fn run_with(fault: Fault, on_full: OnFull) -> bool {
    let directory = tempfile::tempdir().unwrap();
    let bench = Bench::new(directory.path(), on_full, Some(fault));
    let producer = Arc::new(Producer::default());
    let Bench { disk, intake, outlet, ledger, abort, budget, thread, figures: _figures } = bench;
    let feed = async {
        for number in 0..60 {
            let data = format!("{number:0>999}\n");
            let hold = tokio::select! {
                hold = budget.reserve(data.len() + CHUNK_OVERHEAD_BYTES) => hold,
                // A connection reads no more then.
                () = intake.refuses().cancelled() => break,
            };
            let claim = Claim { origin: Arc::clone(&producer) as _, level: Level::Durable, first: number };
            let chunk = Chunk::new(Bytes::from(data), Box::from([1000]), now(), hold);
            intake.accept(chunk.with_claim(Some(claim))).await;
        }
        drop(intake);
    };
    let (mut delivered, mut held) = (Vec::<u64>::new(), Vec::<u64>::new());
    let send = async {
        while let Ok(chunk) = outlet.chunks.recv().await {
            let span = span(chunk);
            let numbers: Vec<u64> = span.iter().map(number).collect();
            if numbers[0].is_multiple_of(3) && span.sequences().is_some() {
                // Unsettled at the end: the spool is to keep it, and its memory is given back.
                held.extend(numbers);
                continue;
            }
            outlet.account.settle(Fate::Delivered, std::iter::once(&span));
            delivered.extend(numbers);
        }
    };
    patiently(async { tokio::join!(feed, send) }).await;
    drop((outlet, abort));
    let kept = patiently(tokio::task::spawn_blocking(move || thread.join().unwrap())).await.unwrap();
    let (durable, failed) = (producer.reached.lock().unwrap().clone(), disk.state.lock().unwrap().failed);
    drop((producer, disk));

    let context = format!("{fault:?} {on_full:?}");
    let Ok(reopened) = open(Disk::open(directory.path()).unwrap(), Options::new(1 << 20, Sync::Always, 7))
    else {
        panic!("{context}: does not start")
    };
    drop(reopened);
    let left = left_in(directory.path());
    let columns = ledger.columns();
    assert_eq!(columns.balance().taken, columns.balance().accounted, "{context}");
    assert_eq!(kept.records, columns.held.records, "{context}: what the thread says it kept");
    for record in &durable {
        assert!(
            delivered.contains(record) || left.contains(record),
            "{context}: durable record {record} is lost"
        );
    }
    for record in &held {
        assert!(left.contains(record), "{context}: record {record} waited and is lost");
    }
    if on_full == OnFull::Block {
        let all = columns.received.records;
        let settled_or_left = (0..all).filter(|record| delivered.contains(record) || left.contains(record));
        assert_eq!(settled_or_left.count() as u64, all, "{context}: records were lost");
    }
    let mut once = delivered.clone();
    once.sort_unstable();
    once.dedup();
    assert_eq!(once.len(), delivered.len(), "{context}: a record was sent twice");
    failed > 0
}

// R-K9, R-K10
#[tokio::test]
async fn whatever_call_fails_in_whatever_way_what_was_called_durable_is_sent_or_kept() {
    let mut came_about = 0;
    for on_full in [OnFull::Block, OnFull::DropNewest] {
        for call in CALLS {
            for errno in [Errno::NOSPC, Errno::DQUOT, Errno::IO, Errno::ROFS] {
                for after in [0, 1, 4, 9, 20] {
                    came_about += u32::from(run_with(Fault { call, after, times: 1, errno }, on_full).await);
                }
            }
        }
    }
    println!("{came_about} failing calls");
    assert!(came_about > 100, "only {came_about} of the faults came about");
}

#[test]
fn a_stream_is_quick_while_it_takes_4_mib_every_50_ms() {
    let mut at = now();
    let mut pace = Pace::new(at);
    assert!(!pace.is_quick(at));
    // It has its time first.
    pace.begin(at);
    for _ in 0..10 {
        at += PATIENCE / 2;
        assert!(pace.is_quick(at));
        pace.took(QUICK_BYTES, at);
    }
    pace.took(QUICK_BYTES - 1, at);
    at += PATIENCE;
    assert!(!pace.is_quick(at));
    // One that takes more again is known by the end of the same time.
    pace.took(QUICK_BYTES, at);
    assert!(pace.is_quick(at));
    assert!(!pace.is_quick(at + PATIENCE));
}
