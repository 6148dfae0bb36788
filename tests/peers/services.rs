//! The daemon against AWS services that are not ours.

use std::collections::HashMap;

use crate::daemon::{Daemon, STREAM, hydrant, lines};
use crate::python::{Kind, Service, python};

/// How often each record is in `objects`, each of which holds whole records.
fn records(objects: &[Vec<u8>]) -> HashMap<&[u8], usize> {
    let mut records = HashMap::new();
    for object in objects {
        assert!(object.ends_with(b"\n"), "an object that does not end with a record's end");
        for record in object.split_inclusive(|byte| *byte == b'\n') {
            *records.entry(record).or_default() += 1;
        }
    }
    records
}

/// Records that each go wrong where bytes are taken for text: every byte but LF, invalid UTF-8,
/// NUL bytes, quotes and backslashes, and the largest record there is.
fn binary() -> Vec<u8> {
    let every: Vec<u8> = (0..=255).filter(|byte| *byte != b'\n').collect();
    let mut largest = vec![0xE2; 1_024_000 - 1];
    largest[0] = b'L';
    let records: [&[u8]; 6] = [&every, b"\xFF\xFE\x80", &[0; 1000], br#""\"\\u0000\n"#, b"\ra\r\0", &largest];
    records.iter().flat_map(|record| [record, b"\n".as_slice()].concat()).collect()
}

/// The figure of `/metrics` whose line begins with `name`.
async fn figure(daemon: &Daemon, name: &str) -> u64 {
    let metrics = daemon.get("/metrics").await.1;
    let line = metrics.lines().find_map(|line| line.strip_prefix(name));
    line.map_or(0, |value| value.trim().parse().unwrap())
}

const SINGLE: &str = r#"hydrant_put_requests_total{operation="PutRecord",outcome="ok"}"#;
const BATCH: &str = r#"hydrant_put_requests_total{operation="PutRecordBatch",outcome="ok"}"#;

async fn every_record_arrives_once(kind: Kind, fast_body: &str) {
    let Some(python) = python() else { return };
    let service = Service::start(python, kind).await;
    service.create(STREAM).await;
    let daemon = Daemon::start(&service.endpoint, &["linger=1h", fast_body]).await;
    let mut sent = Vec::new();
    let mut count = 0;
    for (part, records) in [(b"a single record\n".to_vec(), 1), (lines(2750, 300), 2750), (binary(), 6)] {
        daemon.write(&part).await;
        count += records;
        daemon.until("received", |status| status["ledger"]["received"]["records"] == count).await;
        daemon.signal("USR1");
        let status = daemon.until_settled(count).await;
        assert_eq!(status["ledger"]["delivered"]["records"], count, "{status:#}");
        sent.extend(part);
    }
    assert_eq!(figure(&daemon, SINGLE).await, 1);
    assert!(figure(&daemon, BATCH).await >= 7);
    assert!(daemon.stop().await.status.success());
    let (objects, sent) = (service.objects().await, [sent]);
    let (mut delivered, sent) = (records(&objects), records(&sent));
    for (record, times) in sent {
        let found = delivered.remove(record).unwrap_or_default();
        assert_eq!(found, times, "deliveries of {}", record[..record.len().min(80)].escape_ascii());
    }
    assert!(delivered.is_empty(), "{} records that nobody sent", delivered.len());
}

// R-B5
#[tokio::test]
async fn moto_gets_every_record_once_and_byte_for_byte() {
    every_record_arrives_once(Kind::Moto, "send.fast_body=true").await;
}

// R-B5
#[tokio::test]
async fn ministack_gets_every_record_once_and_byte_for_byte() {
    every_record_arrives_once(Kind::Ministack, "send.fast_body=true").await;
}

// R-B5
#[tokio::test]
async fn moto_gets_every_record_from_the_sdks_own_serialiser_too() {
    every_record_arrives_once(Kind::Moto, "send.fast_body=false").await;
}

// R-B5
#[tokio::test]
async fn ministack_gets_every_record_from_the_sdks_own_serialiser_too() {
    every_record_arrives_once(Kind::Ministack, "send.fast_body=false").await;
}

async fn records_for_a_stream_that_is_missing_wait_until_it_is_made(kind: Kind) {
    let Some(python) = python() else { return };
    let service = Service::start(python, kind).await;
    let settings = ["linger=1ms", "retry.base_delay=10ms", "retry.max_delay=50ms"];
    let daemon = Daemon::start(&service.endpoint, &settings).await;
    daemon.write(b"early\n").await;
    let status = daemon.until("in trouble", |status| !status["stream"]["trouble"].is_null()).await;
    let trouble = &status["stream"]["trouble"];
    assert_eq!(trouble["error_code"], "ResourceNotFoundException", "{status:#}");
    assert_eq!(daemon.get("/readyz").await.0, 503);
    service.create(STREAM).await;
    daemon.until_settled(1).await;
    assert_eq!(daemon.get("/readyz").await.0, 200);
    assert!(daemon.stop().await.status.success());
    assert_eq!(service.objects().await, [b"early\n"]);
}

#[tokio::test]
async fn moto_gets_what_waited_for_its_stream() {
    records_for_a_stream_that_is_missing_wait_until_it_is_made(Kind::Moto).await;
}

#[tokio::test]
async fn ministack_gets_what_waited_for_its_stream() {
    records_for_a_stream_that_is_missing_wait_until_it_is_made(Kind::Ministack).await;
}

async fn put_delivers_one_record(kind: Kind) {
    let Some(python) = python() else { return };
    let service = Service::start(python, kind).await;
    service.create(STREAM).await;
    let mut put = hydrant();
    put.args(["put", "one by hand", "--set", &format!("endpoint_url={}", service.endpoint)]);
    put.args(["--set", &format!("delivery_stream_name={STREAM}")]);
    let output = put.output().await.unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(!output.stdout.trim_ascii().is_empty(), "no RecordId was printed");
    assert_eq!(service.objects().await, [b"one by hand\n"]);
}

#[tokio::test]
async fn moto_gets_what_is_put_by_hand() {
    put_delivers_one_record(Kind::Moto).await;
}

#[tokio::test]
async fn ministack_gets_what_is_put_by_hand() {
    put_delivers_one_record(Kind::Ministack).await;
}

async fn doctor_refuses_what_compressed_records_do_not_survive(kind: Kind) {
    let Some(python) = python() else { return };
    let processor = |of: &str| serde_json::json!({ "ProcessingConfiguration": { "Enabled": true, "Processors": [{ "Type": of }] } });
    let cases = [
        (serde_json::json!({ "CompressionFormat": "GZIP" }), "compressed twice"),
        (processor("Lambda"), "the stream's Lambda reads what records say"),
        (processor("AppendDelimiterToRecord"), "puts bytes between the members"),
        (
            serde_json::json!({ "DynamicPartitioningConfiguration": { "Enabled": true } }),
            "the stream partitions",
        ),
        (serde_json::json!({ "FileExtension": ".gz" }), "S3 keeps what it is given"),
    ];
    for (members, expected) in cases {
        let service = Service::start(python, kind).await;
        service.create_with(STREAM, &members.to_string()).await;
        let mut doctor = hydrant();
        doctor.args(["doctor", "--stream", STREAM, "--endpoint-url", &service.endpoint]);
        let output = doctor.args(["--set", "aggregate.compression=gzip"]).output().await.unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        let line = said.lines().find(|line| line.contains("packing:")).unwrap();
        assert!(line.contains(expected), "{said}");
        assert_eq!(line.starts_with("problem"), expected != "S3 keeps what it is given", "{said}");
    }
}

// R-A8
#[tokio::test]
async fn doctor_refuses_compression_by_what_moto_says_of_a_stream() {
    doctor_refuses_what_compressed_records_do_not_survive(Kind::Moto).await;
}
