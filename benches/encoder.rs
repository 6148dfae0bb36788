//! The fast body and answer check against the SDK's own, for the three shapes of a batch.
#![allow(clippy::unwrap_used, missing_docs)]

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use aws_sdk_firehose::operation::put_record_batch::{PutRecordBatchInput, PutRecordBatchOutput};
use aws_sdk_firehose::primitives::Blob;
use aws_sdk_firehose::types::Record;
use aws_smithy_json::protocol::aws_json_rpc::AwsJsonRpcProtocol;
use aws_smithy_runtime_api::http::{Response, StatusCode};
use aws_smithy_schema::protocol::ClientProtocolInner;
use aws_smithy_types::body::SdkBody;
use aws_smithy_types::config_bag::ConfigBag;
use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use hydrant::budget::Reservation;
use hydrant::firehose::{Operation, Put, all_delivered, body, sha256};
use hydrant::record::{Chunk, Span};

const STREAM: &str = "bench-stream";

fn span(records: usize, size: usize) -> Span {
    let mut random = fastrand::Rng::with_seed(7);
    let bytes: Vec<u8> = std::iter::repeat_with(|| random.u8(b' '..=b'~')).take(records * size).collect();
    let ends: Box<[u32]> = (1..=records).map(|end| u32::try_from(end * size).unwrap()).collect();
    #[expect(clippy::disallowed_methods, reason = "when the records were received does not matter")]
    let chunk = Chunk::new(Bytes::from(bytes), ends, Instant::now(), Reservation::none());
    Span::whole(Arc::new(chunk)).unwrap()
}

/// What the SDK does with a batch from the same shared bytes, up to the body.
fn stock(spans: &[Span], protocol: &AwsJsonRpcProtocol, config: &ConfigBag) -> usize {
    let record = |data| Record::builder().data(Blob::from_maybe_shared(data)).build().unwrap();
    let records = spans.iter().flat_map(Span::shared).map(record).collect();
    let input = PutRecordBatchInput::builder()
        .delivery_stream_name(STREAM)
        .set_records(Some(records))
        .build()
        .unwrap();
    let request = protocol.serialize_request(&input, PutRecordBatchInput::SCHEMA, "/", config).unwrap();
    request.body().bytes().unwrap().len()
}

fn bodies(c: &mut Criterion) {
    let (protocol, config) = (AwsJsonRpcProtocol::aws_json_1_1(), ConfigBag::base());
    for (records, size) in [(500, 200), (500, 1_000), (4, 1_000 * 1_000)] {
        let spans = vec![span(records, size)];
        let put = |packed| Put {
            stream: STREAM.into(),
            operation: Operation::PutRecordBatch,
            spans: spans.clone().into(),
            packed,
            members: None,
        };
        let (single, packed) = (put(None), put(Some([1].into())));
        let mut group = c.benchmark_group(format!("body of {records} x {size} B"));
        group.throughput(Throughput::Bytes((records * size) as u64));
        group.bench_function("fast", |b| b.iter(|| body::encode(black_box(&single)).len()));
        group.bench_function("packed", |b| b.iter(|| body::encode(black_box(&packed)).len()));
        group.bench_function("stock", |b| b.iter(|| stock(black_box(&spans), &protocol, &config)));
        group.finish();
    }
}

/// Two bodies of 1 MB, as they are at full speed, in step and one after the other.
fn digests(c: &mut Criterion) {
    let bodies = [b'a', b'b'].map(|byte| vec![byte; 1 << 20]);
    let [one, other] = bodies.each_ref().map(|body| &body[..]);
    assert_eq!(sha256::digests([one, other]), [one, other].map(sha256::digest));
    let mut group = c.benchmark_group("SHA-256 of two bodies of 1 MiB");
    group.throughput(Throughput::Bytes(2 << 20));
    group.bench_function("in step", |b| b.iter(|| sha256::digests(black_box([one, other]))));
    group.bench_function("one by one", |b| b.iter(|| black_box([one, other]).map(sha256::digest)));
    group.finish();
}

fn answers(c: &mut Criterion) {
    let id = "Ab3/".repeat(56);
    let entries = vec![format!(r#"{{"RecordId":"{id}"}}"#); 500].join(",");
    let answer = format!(r#"{{"Encrypted":false,"FailedPutCount":0,"RequestResponses":[{entries}]}}"#);
    let (protocol, config) = (AwsJsonRpcProtocol::aws_json_1_1(), ConfigBag::base());
    let response = Response::new(StatusCode::try_from(200).unwrap(), SdkBody::from(answer.clone()));
    let mut group = c.benchmark_group("answer of 500 entries");
    group.throughput(Throughput::Bytes(answer.len() as u64));
    group.bench_function("fast", |b| b.iter(|| assert!(all_delivered(black_box(answer.as_bytes()), 500))));
    group.bench_function("stock", |b| {
        b.iter(|| {
            let mut members =
                protocol.deserialize_response(&response, PutRecordBatchOutput::SCHEMA, &config).unwrap();
            PutRecordBatchOutput::deserialize(&mut *members).unwrap().request_responses().len()
        });
    });
    group.finish();
}

criterion_group!(benches, bodies, digests, answers);
criterion_main!(benches);
