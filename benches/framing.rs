//! Finding lines: what leaves as it came, what must be rewritten, and very short lines; and making JSON of
//! Fluent Forward's entries.
#![allow(clippy::unwrap_used, missing_docs)]

use bytes::{Bytes, BytesMut};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use hydrant::framing::forward::{Forward, Settings};
use hydrant::framing::{Delimiter, Framer, Lines};
use hydrant::limits::MAX_RECORD_BYTES;

/// Bytes of one read of a busy connection.
const READ_BYTES: usize = 64 * 1024;
/// Bytes of a message of Fluent Forward, more or less.
const MESSAGE_BYTES: usize = 256 * 1024;

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

/// `["app.web", entries, {"chunk": …}]` as Fluent Bit sends a container's lines, and how many they are.
fn packed(line_bytes: usize) -> (BytesMut, usize) {
    let mut random = fastrand::Rng::with_seed(7);
    let (mut entries, mut count) = (Vec::new(), 0);
    while entries.len() < MESSAGE_BYTES - 1000 {
        // [[EventTime, {}], {"stream": "stdout", "container_id": …, "log": …}]
        entries.extend(b"\x92\x92\xd7\x00\x65\x53\xf1\x00\x00\x01\xe2\x40\x80\x83\xa6stream\xa6stdout\xaccontainer_id\xac0123456789ab\xa3log\xda");
        entries.extend(u16::try_from(line_bytes).unwrap().to_be_bytes());
        entries.extend(std::iter::repeat_with(|| random.u8(b'#'..=b'[')).take(line_bytes));
        count += 1;
    }
    let mut message = BytesMut::from(&b"\x93\xa7app.web\xc6"[..]);
    message.extend_from_slice(&u32::try_from(entries.len()).unwrap().to_be_bytes());
    message.extend_from_slice(&entries);
    message.extend_from_slice(b"\x81\xa5chunk\xb80123456789abcdefghijkl==");
    (message, count)
}

fn forward(c: &mut Criterion) {
    let settings = Settings { time_key: "time".to_owned(), tag_key: "tag".to_owned(), answers: true };
    for (name, bytes) in [("PackedForward, 1 KB", 1_000), ("PackedForward, 200 B", 200)] {
        let (read, records) = packed(bytes);
        let delimiter = Delimiter::new(Bytes::from_static(b"\n"));
        let mut framer = Forward::new(delimiter, MAX_RECORD_BYTES, &settings);
        assert_eq!(framer.frame(&mut read.clone(), 0).ends.len(), records);
        let mut group = c.benchmark_group("forward");
        for (unit, throughput) in [
            ("in bytes", Throughput::Bytes(read.len() as u64)),
            ("in records", Throughput::Elements(records as u64)),
        ] {
            group.throughput(throughput);
            group.bench_function(format!("{name}, {unit}"), |b| {
                b.iter_batched_ref(|| read.clone(), |read| framer.frame(read, 0), BatchSize::LargeInput);
            });
        }
        group.finish();
    }
}

criterion_group!(benches, lines, forward);
criterion_main!(benches);
