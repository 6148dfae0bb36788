//! Chunks into batches, as they arrive and with one record in a hundred coming back.
#![allow(clippy::unwrap_used, missing_docs)]

use std::time::{Duration, Instant};

use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use hydrant::batcher::{Batch, Batcher, Limits, Portion};
use hydrant::budget::Reservation;
use hydrant::limits::{MAX_BATCH_BYTES, MAX_BATCH_RECORDS};
use hydrant::record::Chunk;

/// Bytes of one read of a busy connection.
const READ_BYTES: usize = 64 * 1024;
/// Chunks a turn.
const CHUNKS: usize = 256;
const LIMITS: Limits =
    Limits { records: MAX_BATCH_RECORDS, bytes: MAX_BATCH_BYTES, linger: Duration::from_secs(1) };

/// Chunks of records of `size` bytes, read at `received`; they share their bytes.
fn chunks(size: usize, received: Instant) -> Vec<Chunk> {
    let records = READ_BYTES / size;
    let bytes = Bytes::from(vec![b'x'; records * size]);
    let ends: Box<[u32]> = (1..=records).map(|end| u32::try_from(end * size).unwrap()).collect();
    let chunk = || Chunk::new(bytes.clone(), ends.clone(), received, Reservation::none());
    std::iter::repeat_with(chunk).take(CHUNKS).collect()
}

/// Every record through the batcher; returns how many left it.
fn run(chunks: Vec<Chunk>, now: Instant, deal: impl Fn(&mut Batcher, Batch) -> usize) -> usize {
    let mut batcher = Batcher::new(LIMITS);
    let mut done = 0;
    for chunk in chunks {
        batcher.handle_chunk(chunk);
        while let Some(batch) = batcher.poll_batch(now) {
            done += deal(&mut batcher, batch);
        }
    }
    batcher.handle_flush();
    while let Some(batch) = batcher.poll_batch(now) {
        done += deal(&mut batcher, batch);
    }
    done
}

/// Each record that was not sent before fails if it is the hundredth of its batch; it is due at
/// once, so that it rides at the head of the next batch.
fn fail_one_in_a_hundred(batcher: &mut Batcher, batch: Batch, now: Instant) -> usize {
    let (mut number, mut failed) = (0, Vec::new());
    for Portion { span, mut tries } in batch.portions {
        if tries.failures == 0 {
            tries.failures = 1;
            let first = (100 - number % 100) % 100;
            let hits = (first..span.records()).step_by(100).filter_map(|index| span.record(index));
            failed.extend(hits.map(|span| Portion { span, tries }));
        }
        number += span.records();
    }
    let delivered = batch.size.records - failed.len();
    if !failed.is_empty() {
        batcher.handle_retry(failed, now);
    }
    delivered
}

fn batches(c: &mut Criterion) {
    #[expect(clippy::disallowed_methods, reason = "an Instant can't be made up from nothing")]
    let now = Instant::now();
    for size in [200, 1_000, 10_000] {
        let records = CHUNKS * (READ_BYTES / size);
        let mut group = c.benchmark_group(format!("records of {size} B"));
        group.throughput(Throughput::Bytes((records * size) as u64));
        group.bench_function("delivered", |b| {
            let deliver = |_: &mut Batcher, batch: Batch| batch.size.records;
            b.iter_batched(
                || chunks(size, now),
                |chunks| assert_eq!(run(chunks, now, deliver), records),
                BatchSize::LargeInput,
            );
        });
        group.bench_function("1 % retried", |b| {
            let fail = |batcher: &mut Batcher, batch| fail_one_in_a_hundred(batcher, batch, now);
            b.iter_batched(
                || chunks(size, now),
                |chunks| assert_eq!(run(chunks, now, fail), records),
                BatchSize::LargeInput,
            );
        });
        group.finish();
    }
}

criterion_group!(benches, batches);
criterion_main!(benches);
