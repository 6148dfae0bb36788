//! Finding lines: what leaves as it came, what must be rewritten, and very short lines.
#![allow(clippy::unwrap_used, missing_docs)]

use bytes::{Bytes, BytesMut};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use hydrant::framing::{Delimiter, Framer, Lines};
use hydrant::limits::MAX_RECORD_BYTES;

/// Bytes of one read of a busy connection.
const READ_BYTES: usize = 256 * 1024;

/// One read of lines of `size` bytes each, their `end` included.
fn read(size: usize, end: &[u8]) -> BytesMut {
    let mut random = fastrand::Rng::with_seed(7);
    let mut read = BytesMut::with_capacity(READ_BYTES);
    for _ in 0..READ_BYTES / size {
        read.extend(std::iter::repeat_with(|| random.u8(b' '..=b'~')).take(size - end.len()));
        read.extend_from_slice(end);
    }
    read
}

fn lines(c: &mut Criterion) {
    for (name, size, end) in [
        ("LF, 1 KB", 1_000, b"\n".as_slice()),
        ("LF, 200 B", 200, b"\n"),
        ("LF, 8 B", 8, b"\n"),
        ("CRLF, 1 KB", 1_000, b"\r\n"),
        ("CRLF, 200 B", 200, b"\r\n"),
        ("CRLF, 8 B", 8, b"\r\n"),
    ] {
        let read = read(size, end);
        let mut framer = Lines::new(Delimiter::new(Bytes::from_static(b"\n")), MAX_RECORD_BYTES);
        let mut group = c.benchmark_group("lines");
        group.throughput(Throughput::Bytes(read.len() as u64));
        group.bench_function(name, |b| {
            // The framer takes the bytes: each turn has a copy, whose making is not measured.
            b.iter_batched_ref(|| read.clone(), |read| framer.frame(read, 0), BatchSize::LargeInput);
        });
        group.finish();
    }
}

criterion_group!(benches, lines);
criterion_main!(benches);
