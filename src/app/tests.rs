//! What several rooms keep together.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;

use super::*;
use crate::budget::Reservation;
use crate::config::{AggregateConfig, OnFull, Sources, load};
use crate::firehose::{Answer, Class, Datapoint, FailedEntry, Put, PutError, body};
use crate::record::Chunk;
use crate::sender::worker::MAX_UNWRITTEN;
use crate::spool::{Options, Sync, open};
use crate::telemetry::stream::Reading;

// R-B7
#[test]
fn the_default_memory_carries_the_services_limits_and_a_small_one_what_fits() {
    let sizes = |set: &[&str]| {
        let set = set.iter().chain(&["delivery_stream_name=app"]).map(|set| (*set).to_owned()).collect();
        Sizes::of(&load(&Sources { set, ..Sources::default() }).unwrap().config, body::body_bytes)
    };
    let full = Sizes { batch_bytes: MAX_BATCH_BYTES, record_bytes: MAX_RECORD_BYTES };
    assert_eq!(sizes(&[]), full);
    assert_eq!(sizes(&["max_batch_size_bytes=1000"]), Sizes { batch_bytes: 1000, ..full });
    for mib in 1..32 {
        let Sizes { batch_bytes, record_bytes } = sizes(&[&format!("buffer.memory={mib}MiB")]);
        let shares = Shares::of(mib << 20, false);
        assert!(body::body_bytes(3, MAX_BATCH_RECORDS, batch_bytes) <= shares.bodies, "{mib} MiB");
        assert!(body::body_bytes(3, 1, record_bytes) <= shares.bodies, "{mib} MiB");
        assert!(record_bytes > 100_000 && (mib < 6 || record_bytes == MAX_RECORD_BYTES), "{mib} MiB");
    }
}

const MAX_IN_FLIGHT: usize = 8;

/// Takes everything, and counts the requests.
#[derive(Default)]
struct Taking(AtomicUsize);

impl Firehose for Taking {
    async fn put(&self, _: Put) -> Result<Answer, PutError> {
        self.0.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(5)).await;
        Ok(Answer::default())
    }
}

fn single_records() -> Settings {
    Settings {
        stream: "app".into(),
        limits: Limits { records: 1, bytes: 1000, linger: Duration::ZERO },
        max_in_flight: MAX_IN_FLIGHT,
        bodies: 1 << 20,
        body_bytes: body::body_bytes,
        backoff: Backoff { base: Duration::from_millis(1), max: Duration::from_millis(1), jitter: 0.0 },
        max_retries: 0,
        give_up_after: None,
        aggregate: AggregateConfig {
            mode: AggregateMode::Off,
            max_record: 1000,
            max_lines: None,
            compression: None,
        },
        delimiter: Bytes::from_static(b"\n"),
    }
}

// R-K11
#[tokio::test(start_paused = true)]
async fn no_more_is_sent_than_a_killed_daemon_may_send_twice_until_its_fate_is_written_down() {
    let directory = tempfile::tempdir().unwrap();
    let opened = open(Disk::open(directory.path()).unwrap(), Options::new(4 << 20, Sync::Always, 1)).unwrap();
    let ledger = Arc::new(Ledger::default());
    let figures = Arc::new(Figures::new(Arc::clone(&ledger), now()));
    let control = Control::default();
    let spooled = Spooled {
        budget: Budget::new(1 << 20),
        read_back: Budget::new(1 << 20),
        on_full: OnFull::Block,
        opened,
        figures: Arc::clone(&figures),
        abort: control.abort.clone(),
    };
    let (intake, outlet, spooler) = spooled.channel(Arc::clone(&ledger));
    // In the spooler's place, which does not run: its disk does not answer.
    let (chunks, receiver) = async_channel::bounded(500);
    for sequence in 0..500 {
        ledger.received(Count { records: 1, bytes: 2 });
        let chunk = Chunk::new(Bytes::from_static(b"a\n"), Box::from([2]), now(), Reservation::none());
        chunks.send(chunk.with_sequence(sequence)).await.unwrap();
    }
    let firehose = Arc::new(Taking::default());
    let outlet = Outlet { chunks: receiver, ..outlet };
    let worker = Worker::new(Arc::clone(&firehose), single_records(), outlet, control, None, figures);
    let working = worker.run();
    tokio::pin!(working);
    // Made-up time passes only when nobody has anything to do.
    assert!(tokio::time::timeout(Duration::from_secs(60), &mut working).await.is_err());
    let sent = firehose.0.load(Ordering::Relaxed);
    assert!((MAX_UNWRITTEN..=MAX_UNWRITTEN + MAX_IN_FLIGHT).contains(&sent), "{sent} requests");
    // The disk answers.
    drop((intake, chunks));
    let (left, _) = tokio::join!(working, spooler.run());
    assert_eq!(left, Count::default());
    assert_eq!(firehose.0.load(Ordering::Relaxed), 500);
    assert_eq!(ledger.columns().delivered.records, 500);
}

/// Never answers.
struct Silent;

impl Firehose for Silent {
    async fn put(&self, _: Put) -> Result<Answer, PutError> {
        std::future::pending().await
    }
}

// R-B6
#[tokio::test(start_paused = true)]
async fn a_batch_that_waits_for_room_for_its_body_keeps_nobody_busy() {
    const BYTES: usize = 1000;
    let ledger = Arc::new(Ledger::default());
    let figures = Arc::new(Figures::new(Arc::clone(&ledger), now()));
    let (intake, outlet) = buffer::channel(Budget::new(1 << 20), OnFull::Block, Arc::clone(&ledger));
    // Two bodies find room beside each other, and ten batches are due for as long as their records have waited.
    let limits = Limits { records: 1, bytes: BYTES, linger: Duration::ZERO };
    let settings = Settings { limits, bodies: 2 * body::body_bytes(3, 1, BYTES), ..single_records() };
    let control = Control::default();
    let abort = control.abort.clone();
    let worker = Worker::new(Arc::new(Silent), settings, outlet, control, None, Arc::clone(&figures));
    for _ in 0..10 {
        let hold = intake.reserve(BYTES).await.unwrap();
        let chunk = Chunk::new(Bytes::from_static(&[b'x'; BYTES]), [1000].into(), now(), hold);
        intake.accept(chunk).await;
    }
    let (mut working, mut turns) = (Box::pin(worker.run()), 0);
    let counted = std::future::poll_fn(|context| {
        turns += 1;
        // One a second to show that it lives, five for the age of the oldest record.
        assert!(turns < 1000, "in a minute");
        working.as_mut().poll(context)
    });
    assert!(tokio::time::timeout(Duration::from_secs(60), counted).await.is_err());
    assert_eq!(figures.in_flight(), 2);
    abort.cancel();
    assert_eq!(working.await.records, 10);
}

/// Takes everything, after so long, and notes the bytes of each request and when it came.
struct Noting {
    takes: Duration,
    requests: Mutex<Vec<(usize, Instant)>>,
}

impl Firehose for Noting {
    async fn put(&self, put: Put) -> Result<Answer, PutError> {
        let bytes = put.entries().map(|entry| entry.bytes()).sum();
        self.requests.lock().unwrap().push((bytes, now()));
        tokio::time::sleep(self.takes).await;
        Ok(Answer::default())
    }
}

/// The bytes and times of the requests, packed, in which 48 MB go that are all there at once, where an answer takes
/// so long.
async fn requests_of_48_mb(takes: Duration, max_in_flight: usize) -> Vec<(usize, Instant)> {
    const RECORD: usize = 1000;
    let ledger = Arc::new(Ledger::default());
    let figures = Arc::new(Figures::new(Arc::clone(&ledger), now()));
    let (intake, outlet) = buffer::channel(Budget::new(1 << 20), OnFull::Block, Arc::clone(&ledger));
    let (chunks, receiver) = async_channel::bounded(1000);
    for _ in 0..750 {
        ledger.received(Count { records: 64, bytes: 64 * RECORD as u64 });
        let ends = (1..=64).map(|record| record * 1000).collect();
        let chunk = Chunk::new(Bytes::from_static(&[b'x'; 64 * RECORD]), ends, now(), Reservation::none());
        chunks.send(chunk).await.unwrap();
    }
    let single = single_records();
    let settings = Settings {
        limits: Limits {
            records: MAX_BATCH_RECORDS,
            bytes: MAX_BATCH_BYTES,
            linger: Duration::from_secs(3600),
        },
        max_in_flight,
        bodies: 1 << 30,
        aggregate: AggregateConfig {
            mode: AggregateMode::On,
            max_record: MAX_RECORD_BYTES,
            ..single.aggregate
        },
        ..single
    };
    let firehose = Arc::new(Noting { takes, requests: Mutex::default() });
    let outlet = Outlet { chunks: receiver, ..outlet };
    let worker = Worker::new(Arc::clone(&firehose), settings, outlet, Control::default(), None, figures);
    drop((intake, chunks));
    assert_eq!(worker.run().await, Count::default());
    let requests = std::mem::take(&mut *firehose.requests.lock().unwrap());
    assert_eq!(requests.iter().map(|(bytes, _)| bytes).sum::<usize>(), 750 * 64 * RECORD);
    requests
}

// R-B2
#[tokio::test(start_paused = true)]
async fn at_full_speed_requests_carry_750_kib_once_it_is_seen() {
    // Made-up time stands while there is something to do: no speed is higher.
    let requests = requests_of_48_mb(Duration::from_millis(1), MAX_IN_FLIGHT).await;
    let (first, others) = requests.split_at(6);
    assert!(first.iter().all(|(bytes, _)| *bytes == 2_560_000), "{requests:?}");
    assert!(others.len() > 40 && others.iter().all(|(bytes, _)| *bytes <= 768_000), "{requests:?}");
}

// R-B2
#[tokio::test(start_paused = true)]
async fn at_full_speed_requests_leave_two_by_two_and_none_goes_where_only_one_may() {
    let requests = requests_of_48_mb(Duration::from_millis(1), 3).await;
    let small: Vec<_> = requests.into_iter().filter(|(bytes, _)| *bytes <= 768_000).collect();
    let at_once: Vec<_> = small.chunk_by(|(_, one), (_, other)| one == other).map(<[_]>::len).collect();
    // When the first of them leave, larger ones may be under way; what is left when no more comes leaves as it is.
    let (_, pairs) = at_once.split_first().unwrap();
    let (last, pairs) = pairs.split_last().unwrap();
    assert!(pairs.len() > 15 && pairs.iter().all(|together| *together == 2) && *last <= 3, "{at_once:?}");
}

// R-B2
#[tokio::test(start_paused = true)]
async fn requests_carry_all_they_may_where_answers_take_long() {
    let requests = requests_of_48_mb(Duration::from_secs(1), 1).await;
    let ((first, _), others) = requests.split_first().unwrap();
    assert_eq!(*first, 2_560_000, "{requests:?}");
    let ((last, _), others) = others.split_last().unwrap();
    assert!(others.iter().all(|(bytes, _)| (4_193_305..=4_194_304).contains(bytes)), "{requests:?}");
    assert!(*last <= 4_194_304);
}

/// Throttles every fifth record, and notes the pace that each request leaves at.
struct Throttling {
    figures: Arc<Figures>,
    paces: Mutex<Vec<f64>>,
}

impl Firehose for Throttling {
    async fn put(&self, put: Put) -> Result<Answer, PutError> {
        self.paces.lock().unwrap().extend(self.figures.sender().state.pace);
        tokio::time::sleep(Duration::from_millis(100)).await;
        let throttled = |index| FailedEntry { index, class: Class::Throttled, code: "Throttled".into() };
        Ok(Answer { failed: (0..put.entries().count()).step_by(5).map(throttled).collect(), record_id: None })
    }
}

/// The first pace of a worker into a stream that throttles every fifth record, within a minute, where the poller
/// knows that requests of the stream carry so much on average, or nothing.
async fn first_pace(mean_request: Option<f64>) -> Option<f64> {
    const QUOTA: f64 = 1e9;
    let ledger = Arc::new(Ledger::default());
    let figures = Arc::new(Figures::new(Arc::clone(&ledger), now()));
    if let Some(mean) = mean_request {
        let mut stream = figures.stream();
        stream.polled_at = Some(now());
        let used = 0.9 * QUOTA * 60.0;
        stream.readings = [
            (Reading::BytesPerSecondLimit, QUOTA),
            (Reading::IncomingBytes, used),
            (Reading::IncomingPutRequests, used / mean),
            (Reading::IncomingRecords, used / mean),
        ]
        .map(|(reading, value)| (reading, Datapoint { at: std::time::UNIX_EPOCH, value }))
        .into();
    }
    let (intake, outlet) = buffer::channel(Budget::new(1 << 20), OnFull::Block, Arc::clone(&ledger));
    let settings = Settings {
        limits: Limits { records: 10, bytes: MAX_BATCH_BYTES, linger: Duration::ZERO },
        max_in_flight: 1,
        max_retries: u32::MAX,
        ..single_records()
    };
    let firehose = Arc::new(Throttling { figures: Arc::clone(&figures), paces: Mutex::default() });
    let worker = Worker::new(Arc::clone(&firehose), settings, outlet, Control::default(), None, figures);
    let feed = async {
        loop {
            let hold = intake.reserve(1000).await.unwrap();
            let chunk = Chunk::new(Bytes::from_static(&[b'x'; 1000]), [1000].into(), now(), hold);
            intake.accept(chunk).await;
        }
    };
    tokio::select! {
        _ = worker.run() => {}
        () = feed => {}
        () = tokio::time::sleep(Duration::from_secs(60)) => {}
    }
    let paces = firehose.paces.lock().unwrap();
    paces.first().copied()
}

// R-Q10
#[tokio::test(start_paused = true)]
async fn what_the_poller_reads_of_a_stream_reaches_the_pacer_of_its_worker() {
    // A fifth is not enough to begin for, unless the stream is known to be busy.
    assert_eq!(first_pace(None).await, None);
    // About what goes through, where requests tell of larger paces, and near theirs where they tell of smaller ones.
    let (large, small) =
        (first_pace(Some(131_000.0)).await.unwrap(), first_pace(Some(1310.0)).await.unwrap());
    assert!(large > 20_000.0, "{large}");
    assert!((500.0..2500.0).contains(&small), "{small}");
}
