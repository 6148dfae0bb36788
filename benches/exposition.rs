//! What a scrape costs: the text of all figures under all their labels.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "../tests/support/figures.rs"]
#[allow(unreachable_pub, reason = "tests use it too")]
mod figures;

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use hydrant::telemetry::exposition::Format;
use hydrant::telemetry::now;

fn expositions(c: &mut Criterion) {
    let figures = figures::full();
    let mut group = c.benchmark_group("exposition");
    for (name, format) in [("OpenMetrics", Format::OpenMetrics), ("classic", Format::Classic)] {
        let bytes = figures.exposition(now(), format).len();
        group.throughput(Throughput::Bytes(bytes.try_into().unwrap()));
        group.bench_function(name, |b| b.iter(|| black_box(&figures).exposition(now(), format).len()));
    }
    group.finish();
}

criterion_group!(benches, expositions);
criterion_main!(benches);
