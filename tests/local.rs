//! The embedded Firehose as its clients meet it: through the AWS SDK, over real sockets, and
//! through its command.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::disallowed_methods)]

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use aws_credential_types::Credentials;
use aws_sdk_cloudwatch::types::{
    Dimension, Metric, MetricDataQuery, MetricDatum, MetricStat, StandardUnit, Statistic, StatisticSet,
};
use aws_sdk_firehose::Client;
use aws_sdk_firehose::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_firehose::operation::put_record_batch::{PutRecordBatchError, PutRecordBatchOutput};
use aws_sdk_firehose::primitives::{Blob, DateTime};
use aws_sdk_firehose::types::{
    BufferingHints, CompressionFormat, DeliveryStreamStatus, DeliveryStreamType,
    ExtendedS3DestinationConfiguration, Record,
};
use aws_smithy_types::retry::RetryConfig;
use bytes::Bytes;
use hydrant::local::{
    FailCode, Faults, Local, LocalError, Operation, Options, Outcome, Poison, PoisonEffect, Refusal, Spoil,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn credentials() -> Credentials {
    Credentials::new("local", "local", None, None, "test")
}

fn firehose(url: &str) -> Client {
    let config = aws_sdk_firehose::Config::builder()
        .behavior_version(aws_sdk_firehose::config::BehaviorVersion::latest())
        .region(aws_sdk_firehose::config::Region::new("us-east-1"))
        .credentials_provider(credentials())
        .retry_config(RetryConfig::disabled())
        .http_client(aws_smithy_http_client::Builder::new().build_http())
        .endpoint_url(url);
    Client::from_conf(config.build())
}

fn cloudwatch(url: &str) -> aws_sdk_cloudwatch::Client {
    let config = aws_sdk_cloudwatch::Config::builder()
        .behavior_version(aws_sdk_cloudwatch::config::BehaviorVersion::latest())
        .region(aws_sdk_cloudwatch::config::Region::new("us-east-1"))
        .credentials_provider(credentials())
        .retry_config(RetryConfig::disabled())
        .http_client(aws_smithy_http_client::Builder::new().build_http())
        // Everything compressed, so that what is compressed is read.
        .request_min_compression_size_bytes(0)
        .endpoint_url(url);
    aws_sdk_cloudwatch::Client::from_conf(config.build())
}

async fn start(options: Options) -> (Local, Client) {
    let local = Local::start(options).await.unwrap();
    let client = firehose(&local.url());
    (local, client)
}

async fn faulty(faults: Faults) -> (Local, Client) {
    start(Options { faults, ..Options::default() }).await
}

async fn writing(directory: &Path) -> (Local, Client) {
    start(Options { directory: Some(directory.into()), ..Options::default() }).await
}

fn record(data: impl Into<Vec<u8>>) -> Record {
    Record::builder().data(Blob::new(data.into())).build().unwrap()
}

fn numbered(count: usize) -> Vec<Record> {
    (0..count).map(|number| record(format!("record {number}\n"))).collect()
}

type PutBatch = Result<PutRecordBatchOutput, SdkError<PutRecordBatchError>>;

async fn put_batch(client: &Client, stream: &str, records: Vec<Record>) -> PutBatch {
    client.put_record_batch().delivery_stream_name(stream).set_records(Some(records)).send().await
}

async fn put_one(client: &Client, data: &[u8]) {
    client.put_record().delivery_stream_name("local").record(record(data)).send().await.unwrap();
}

/// The code and message of an error that the service answered with.
fn refusal<T: std::fmt::Debug, E>(result: Result<T, SdkError<E>>) -> (String, String)
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    let error = result.unwrap_err();
    assert!(error.as_service_error().is_some(), "{error:?}");
    (error.code().unwrap_or_default().into(), error.message().unwrap_or_default().into())
}

/// The files below `directory`, ascending by path.
fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).into_iter().flatten() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(files(&path)),
            false => found.push(path),
        }
    }
    found.sort();
    found
}

fn contents(directory: &Path) -> String {
    let bytes = files(directory).iter().flat_map(|path| std::fs::read(path).unwrap()).collect();
    String::from_utf8(bytes).unwrap()
}

fn extended() -> aws_sdk_firehose::types::builders::ExtendedS3DestinationConfigurationBuilder {
    ExtendedS3DestinationConfiguration::builder()
        .role_arn("arn:aws:iam::000000000000:role/r")
        .bucket_arn("arn:aws:s3:::bucket")
}

#[tokio::test]
async fn records_are_accepted_and_delivered_as_they_are() {
    let directory = tempfile::tempdir().unwrap();
    let (local, client) = writing(directory.path()).await;
    let binary: Vec<u8> = (0..=255).collect();

    let answer = client.put_record().delivery_stream_name("local").record(record(binary.clone()));
    let answer = answer.send().await.unwrap();
    assert_eq!(answer.record_id.len(), 224);
    assert_eq!(answer.encrypted, Some(false));

    let answer = put_batch(&client, "local", numbered(500)).await.unwrap();
    assert_eq!(answer.failed_put_count, 0);
    let ids: BTreeSet<&str> =
        answer.request_responses.iter().map(|entry| entry.record_id().unwrap()).collect();
    assert_eq!(ids.len(), 500);

    let counts = local.stop().await.unwrap().total();
    let found = files(directory.path());
    let expected: Vec<u8> = (0..500).flat_map(|n| format!("record {n}\n").into_bytes()).collect();
    assert_eq!(std::fs::read(&found[0]).unwrap(), [binary, expected].concat());
    assert_eq!((counts.records, counts.requests, counts.objects), (501, 2, 1));
    assert_eq!((counts.delivered_records, counts.delivered_bytes), (501, counts.bytes));

    let requests = local.requests();
    let seen: Vec<_> = requests.iter().map(|r| (r.operation.unwrap(), r.records)).collect();
    assert_eq!(seen, [(Operation::PutRecord, 1), (Operation::PutRecordBatch, 500)]);
    assert_eq!(requests.iter().map(|request| request.bytes as u64).sum::<u64>(), counts.bytes);
    assert!(requests.iter().all(|request| request.outcome == Outcome::Answered { failed: 0 }));
    assert!(requests[0].at <= requests[1].at);
}

#[tokio::test]
async fn streams_are_created_described_listed_and_deleted() {
    let (_local, client) = start(Options { streams: vec![], ..Options::default() }).await;
    let create = |name: &str| {
        let hints = BufferingHints::builder().size_in_mbs(2).interval_in_seconds(90).build();
        let destination = extended()
            .prefix("logs/")
            .error_output_prefix("errors/")
            .compression_format(CompressionFormat::Gzip)
            .buffering_hints(hints)
            .build()
            .unwrap();
        let create = client.create_delivery_stream().delivery_stream_name(name);
        create.extended_s3_destination_configuration(destination).send()
    };
    let before = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64() - 1.0;
    let arn = create("b").await.unwrap().delivery_stream_arn.unwrap();
    assert_eq!(arn, "arn:aws:firehose:us-east-1:000000000000:deliverystream/b");
    for name in ["a", "c"] {
        create(name).await.unwrap();
    }
    let again = create("a").await.unwrap_err();
    assert!(again.as_service_error().unwrap().is_resource_in_use_exception(), "{again:?}");

    let described = client.describe_delivery_stream().delivery_stream_name("b").send().await.unwrap();
    let described = described.delivery_stream_description.unwrap();
    assert_eq!(described.delivery_stream_arn, arn);
    assert_eq!(described.delivery_stream_status, DeliveryStreamStatus::Active);
    assert_eq!(described.delivery_stream_type, DeliveryStreamType::DirectPut);
    assert_eq!(described.version_id, "1");
    assert!(described.create_timestamp.unwrap().as_secs_f64() >= before);
    assert!(!described.has_more_destinations);
    let s3 = described.destinations[0].extended_s3_destination_description.as_ref().unwrap();
    assert_eq!((s3.prefix(), s3.error_output_prefix()), (Some("logs/"), Some("errors/")));
    assert_eq!(s3.compression_format, CompressionFormat::Gzip);
    let hints = s3.buffering_hints.as_ref().unwrap();
    assert_eq!((hints.size_in_mbs, hints.interval_in_seconds), (Some(2), Some(90)));
    let s3 = described.destinations[0].s3_destination_description.as_ref().unwrap();
    assert_eq!(s3.bucket_arn, "arn:aws:s3:::bucket");

    let list = async |limit: i32, after: Option<&str>| {
        let request = client.list_delivery_streams().limit(limit);
        let request = request.set_exclusive_start_delivery_stream_name(after.map(Into::into));
        let page = request.send().await.unwrap();
        (page.delivery_stream_names.join(" "), page.has_more_delivery_streams)
    };
    assert_eq!(list(2, None).await, ("a b".into(), true));
    assert_eq!(list(2, Some("b")).await, ("c".into(), false));
    let other = DeliveryStreamType::KinesisStreamAsSource;
    let other = client.list_delivery_streams().delivery_stream_type(other).send().await.unwrap();
    assert!(other.delivery_stream_names.is_empty());

    client.delete_delivery_stream().delivery_stream_name("b").send().await.unwrap();
    let gone = client.describe_delivery_stream().delivery_stream_name("b").send().await.unwrap_err();
    let gone = gone.as_service_error().unwrap();
    assert!(gone.is_resource_not_found_exception());
    assert_eq!(gone.message(), Some("Firehose b under account 000000000000 not found."));
}

#[tokio::test]
async fn more_streams_than_the_quota_are_refused() {
    let streams = (0..5_000).map(|number| format!("s{number}")).collect();
    let (_local, client) = start(Options { streams, ..Options::default() }).await;
    let create = client
        .create_delivery_stream()
        .delivery_stream_name("further")
        .extended_s3_destination_configuration(extended().build().unwrap());
    let error = create.send().await.unwrap_err();
    assert!(error.as_service_error().unwrap().is_limit_exceeded_exception(), "{error:?}");
}

// R-T4
#[tokio::test]
async fn limits_are_the_services() {
    let (local, client) = start(Options::default()).await;
    let check = async |stream: &str, records: Vec<Record>, code: &str, text: &str| {
        let (found, message) = refusal(put_batch(&client, stream, records).await);
        assert_eq!(found, code, "{message}");
        assert!(message.contains(text), "{message:?} lacks {text:?}");
    };
    let full = |count| (0..count).map(|_| record(vec![b'x'; 1_024_000])).collect::<Vec<_>>();
    check("local", numbered(501), "ValidationException", "less than or equal to 500").await;
    check("local", vec![], "ValidationException", "greater than or equal to 1").await;
    check("local", vec![record(vec![b'x'; 1_024_001])], "ValidationException", "equal to 1024000").await;
    check("local", full(5), "InvalidArgumentException", "4 MB limit").await;
    check("not a name", numbered(1), "ValidationException", "[a-zA-Z0-9_.-]+").await;
    check(&"x".repeat(65), numbered(1), "ValidationException", "less than or equal to 64").await;
    let missing = "Firehose missing under account 000000000000 not found.";
    check("missing", numbered(1), "ResourceNotFoundException", missing).await;
    assert_eq!(local.counts().total().records, 0);

    put_batch(&client, "local", full(4)).await.unwrap();
    assert_eq!(local.counts().total().bytes, 4 * 1_024_000);

    let missing = put_batch(&client, "missing", numbered(1)).await.unwrap_err();
    assert!(missing.as_service_error().unwrap().is_resource_not_found_exception());
    let large = put_batch(&client, "local", full(5)).await.unwrap_err();
    assert!(large.as_service_error().unwrap().is_invalid_argument_exception());
}

#[tokio::test]
async fn destinations_that_are_not_there_are_refused() {
    let (_local, client) = start(Options::default()).await;
    let create = client.create_delivery_stream().delivery_stream_name("x");
    assert_eq!(refusal(create.clone().send().await).0, "InvalidArgumentException");
    let snappy = extended().compression_format(CompressionFormat::Snappy).build().unwrap();
    let snappy = create.clone().extended_s3_destination_configuration(snappy);
    assert_eq!(refusal(snappy.send().await).0, "InvalidArgumentException");
    let kinesis = create.extended_s3_destination_configuration(extended().build().unwrap());
    let kinesis = kinesis.delivery_stream_type(DeliveryStreamType::KinesisStreamAsSource);
    assert_eq!(refusal(kinesis.send().await).0, "InvalidArgumentException");
}

/// What the service answers to the bytes of one request, in lower case.
async fn raw(local: &Local, head: &str, body: &[u8]) -> String {
    let mut socket = tokio::net::TcpStream::connect(local.address()).await.unwrap();
    let head = format!("POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{head}\r\n");
    socket.write_all(&[head.as_bytes(), body].concat()).await.unwrap();
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer).await.unwrap();
    String::from_utf8(answer).unwrap().to_lowercase()
}

#[tokio::test]
async fn requests_that_no_sdk_makes_are_refused_in_the_protocols_form() {
    let (local, _) = start(Options::default()).await;
    let check = async |head: &str, body: &[u8], status: &str, code: &str| {
        let answer = raw(&local, head, body).await;
        assert!(answer.starts_with(&format!("http/1.1 {status}")), "{answer}");
        assert!(answer.contains(&format!("x-amzn-errortype: {code}\r\n").to_lowercase()), "{answer}");
        assert!(answer.contains(&format!("\"__type\":\"{code}\"").to_lowercase()), "{answer}");
        for header in ["x-amzn-requestid: ", "date: ", "content-type: application/x-amz-json-1.1"] {
            assert!(answer.contains(header), "{answer}");
        }
    };
    let put = "X-Amz-Target: Firehose_20150804.PutRecordBatch\r\n";
    let signed = format!("{put}Authorization: any\r\n");
    check(&format!("{put}Content-Length: 2\r\n"), b"{}", "400", "MissingAuthenticationTokenException").await;
    check(&format!("{signed}Content-Length: 4\r\n"), b"[\"a,", "400", "SerializationException").await;
    check(&format!("{signed}Content-Length: 0\r\n"), b"", "400", "SerializationException").await;
    check(&format!("{signed}Content-Length: 2\r\n"), b"{}", "400", "ValidationException").await;
    check(&format!("{signed}Content-Length: 99999999\r\n"), b"", "413", "RequestEntityTooLargeException")
        .await;
    let gzip = "Content-Encoding: gzip\r\nContent-Length: 1\r\n";
    check(&format!("{signed}{gzip}"), b"x", "400", "SerializationException").await;
    let unknown = "X-Amz-Target: Firehose_20150804.Nothing\r\nAuthorization: any\r\nContent-Length: 0\r\n";
    check(unknown, b"", "400", "UnknownOperationException").await;
    check("Authorization: any\r\nContent-Length: 0\r\n", b"", "400", "UnknownOperationException").await;
}

#[tokio::test]
async fn a_body_that_unpacks_without_end_is_refused() {
    let (local, _) = start(Options::default()).await;
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    packed.write_all(&vec![b' '; 64 * 1024 * 1024]).unwrap();
    let packed = packed.finish().unwrap();
    let target = "X-Amz-Target: GraniteServiceVersion20100801.PutMetricData\r\nAuthorization: any\r\n";
    let head = format!("{target}Content-Encoding: gzip\r\nContent-Length: {}\r\n", packed.len());
    let answer = raw(&local, &head, &packed).await;
    assert!(answer.starts_with("http/1.1 413"), "{answer}");
}

// R-T4
#[tokio::test]
async fn objects_are_laid_out_as_firehose_does() {
    let directory = tempfile::tempdir().unwrap();
    let (local, client) = writing(directory.path()).await;
    let packed = extended().prefix("logs/app-").compression_format(CompressionFormat::Gzip);
    let create = client.create_delivery_stream().delivery_stream_name("packed");
    create.extended_s3_destination_configuration(packed.build().unwrap()).send().await.unwrap();
    put_batch(&client, "local", numbered(3)).await.unwrap();
    put_batch(&client, "packed", numbered(2)).await.unwrap();
    local.stop().await.unwrap();

    let found = files(directory.path());
    assert_eq!(found.len(), 2, "{found:?}");
    // A 9 stands for any digit, an x for any hexadecimal one.
    let check = |path: &Path, pattern: &str| {
        let path = path.strip_prefix(directory.path()).unwrap().to_str().unwrap();
        let fits = path.chars().zip(pattern.chars()).all(|(c, p)| match p {
            '9' => c.is_ascii_digit(),
            'x' => c.is_ascii_hexdigit(),
            p => c == p,
        });
        assert!(fits && path.len() == pattern.len(), "{path} is not like {pattern}");
    };
    let (time, id) = ("9999-99-99-99-99-99", "xxxxxxxx-xxxx-4xxx-xxxx-xxxxxxxxxxxx");
    check(&found[0], &format!("local/9999/99/99/99/local-9-{time}-{id}"));
    check(&found[1], &format!("packed/logs/app-9999/99/99/99/packed-9-{time}-{id}.gz"));
    assert_eq!(std::fs::read(&found[0]).unwrap(), b"record 0\nrecord 1\nrecord 2\n");
    let mut text = String::new();
    flate2::read::GzDecoder::new(std::fs::File::open(&found[1]).unwrap()).read_to_string(&mut text).unwrap();
    assert_eq!(text, "record 0\nrecord 1\n");
}

#[tokio::test]
async fn data_is_delivered_once_there_is_enough_of_it() {
    let directory = tempfile::tempdir().unwrap();
    let options =
        Options { directory: Some(directory.path().into()), buffer_bytes: 20, ..Options::default() };
    let (local, client) = start(options).await;
    put_batch(&client, "local", numbered(2)).await.unwrap();
    assert_eq!(contents(directory.path()), "");
    put_batch(&client, "local", numbered(2)).await.unwrap();
    assert_eq!(contents(directory.path()), "record 0\nrecord 1\nrecord 0\nrecord 1\n");
    assert_eq!(local.counts().total().delivered_records, 4);
    assert_eq!(local.stop().await.unwrap().total().objects, 1);
}

#[tokio::test]
async fn data_is_delivered_once_it_is_old_enough() {
    let directory = tempfile::tempdir().unwrap();
    let options = Options {
        directory: Some(directory.path().into()),
        buffer_interval: Duration::from_millis(1),
        ..Options::default()
    };
    let (local, client) = start(options).await;
    put_batch(&client, "local", numbered(2)).await.unwrap();
    while local.counts().total().delivered_records == 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(contents(directory.path()), "record 0\nrecord 1\n");
}

#[tokio::test]
async fn what_a_deleted_stream_held_is_delivered() {
    let directory = tempfile::tempdir().unwrap();
    let (local, client) = writing(directory.path()).await;
    put_batch(&client, "local", numbered(1)).await.unwrap();
    client.delete_delivery_stream().delivery_stream_name("local").send().await.unwrap();
    assert_eq!(contents(directory.path()), "record 0\n");
    assert_eq!(local.counts().streams["local"].delivered_records, 1);
}

#[tokio::test]
async fn data_that_cannot_be_written_is_kept_and_told() {
    let directory = tempfile::tempdir().unwrap();
    let blocked = directory.path().join("file");
    std::fs::write(&blocked, "not a directory").unwrap();
    let (local, client) = writing(&blocked).await;
    put_batch(&client, "local", numbered(3)).await.unwrap();
    let error = local.stop().await.unwrap_err();
    assert!(matches!(&error, LocalError::Undelivered { records: 3, .. }), "{error:?}");
    std::fs::remove_file(&blocked).unwrap();
    assert_eq!(local.stop().await.unwrap().total().delivered_records, 3);
    assert_eq!(contents(&blocked), "record 0\nrecord 1\nrecord 2\n");
}

#[tokio::test]
async fn a_quota_takes_the_front_of_a_batch() {
    let (local, client) = start(Options { quota_records: Some(100), ..Options::default() }).await;
    let answer = put_batch(&client, "local", numbered(500)).await.unwrap();
    // One second's burst: the bucket was full, so nothing trickled in before.
    let taken = answer.request_responses.iter().take_while(|entry| entry.record_id.is_some()).count();
    assert_eq!((taken, answer.failed_put_count), (100, 400));
    for entry in &answer.request_responses[taken..] {
        assert_eq!(entry.error_code(), Some("ServiceUnavailableException"));
        assert_eq!(entry.error_message(), Some("Slow down."));
    }
    let counts = local.counts().total();
    assert_eq!((counts.records, counts.throttled_requests), (100, 1));
}

#[tokio::test]
async fn a_spent_quota_refuses_single_records_and_fails_all_of_a_batch() {
    let (local, client) = start(Options { quota_bytes: Some(0), ..Options::default() }).await;
    let single = client.put_record().delivery_stream_name("local").record(record("x"));
    let single = single.send().await.unwrap_err();
    assert_eq!(single.raw_response().unwrap().status().as_u16(), 503);
    assert!(single.as_service_error().unwrap().is_service_unavailable_exception());
    assert_eq!(single.message(), Some("Slow down."));
    let answer = put_batch(&client, "local", numbered(7)).await.unwrap();
    assert_eq!(answer.failed_put_count, 7);
    assert_eq!(local.counts().total().records, 0);
}

#[tokio::test]
async fn requests_can_be_refused_as_a_whole() {
    let check = async |faults: Faults, status: u16, code: &str| {
        let (local, client) = faulty(faults).await;
        let error = put_batch(&client, "local", numbered(3)).await.unwrap_err();
        assert_eq!(error.raw_response().unwrap().status().as_u16(), status);
        assert_eq!(error.code(), Some(code));
        let counts = local.counts().total();
        assert_eq!((counts.records, counts.refused_requests), (0, 1));
        // Faults are for puts: whoever plays an outage still wants to look at it.
        client.describe_delivery_stream().delivery_stream_name("local").send().await.unwrap();
    };
    let none = Faults::default;
    check(Faults { throttle: 1.0, ..none() }, 400, "ThrottlingException").await;
    check(Faults { error_500: 1.0, ..none() }, 500, "InternalFailure").await;
    check(Faults { refuse: Some(Refusal::AccessDenied), ..none() }, 400, "AccessDeniedException").await;
    check(Faults { refuse: Some(Refusal::ExpiredToken), ..none() }, 400, "ExpiredTokenException").await;
    check(Faults { refuse: Some(Refusal::Kms), ..none() }, 400, "InvalidKMSResourceException").await;
    let poison = Poison { bytes: Bytes::from_static(b"record 1"), effect: PoisonEffect::RefuseRequest };
    check(Faults { poison: Some(poison), ..none() }, 400, "InvalidArgumentException").await;
}

#[tokio::test]
async fn entries_fail_one_by_one() {
    let faults = Faults { fail_records: 0.5, fail_code: FailCode::InternalFailure, ..Faults::default() };
    let directory = tempfile::tempdir().unwrap();
    let (local, client) = writing(directory.path()).await;
    local.set_faults(faults);
    let answer = put_batch(&client, "local", numbered(500)).await.unwrap();
    let mut expected = String::new();
    for (number, entry) in answer.request_responses.iter().enumerate() {
        match entry.error_code() {
            None => expected.push_str(&format!("record {number}\n")),
            Some(code) => assert_eq!(code, "InternalFailure"),
        }
    }
    let failed = answer.failed_put_count;
    assert!((150..350).contains(&failed), "{failed} of 500 at 0.5");
    assert_eq!(local.counts().total().failed_entries, failed as u64);
    local.stop().await.unwrap();
    assert_eq!(contents(directory.path()), expected);
}

#[tokio::test]
async fn poison_fails_its_own_entry_only() {
    let effect = PoisonEffect::FailEntry(FailCode::InternalFailure);
    let poison = Poison { bytes: Bytes::from_static(b"record 2\n"), effect };
    let (_local, client) = faulty(Faults { poison: Some(poison), ..Faults::default() }).await;
    for _ in 0..3 {
        let answer = put_batch(&client, "local", numbered(5)).await.unwrap();
        let failed: Vec<bool> =
            answer.request_responses.iter().map(|entry| entry.error_code.is_some()).collect();
        assert_eq!(failed, [false, false, true, false, false]);
    }
}

#[tokio::test]
async fn a_connection_is_reset_before_or_after_the_records_are_accepted() {
    let check = async |faults: Faults, accepted: u64, resets: u64, outcome: Outcome| {
        let (local, client) = faulty(faults).await;
        let error = put_batch(&client, "local", numbered(3)).await.unwrap_err();
        assert!(matches!(error, SdkError::DispatchFailure(_)), "{error:?}");
        assert!(format!("{error:?}").contains("ConnectionReset"), "{error:?}");
        let counts = local.stop().await.unwrap();
        let total = counts.total();
        assert_eq!((total.records, total.ambiguous_records, counts.resets), (accepted, accepted, resets));
        assert_eq!(local.requests()[0].outcome, outcome);
    };
    check(Faults { reset: 1.0, ..Faults::default() }, 0, 1, Outcome::Reset).await;
    check(Faults { reset_after: 1.0, ..Faults::default() }, 3, 0, Outcome::Cut { accepted: 3 }).await;
}

#[tokio::test]
async fn spoilt_answers_are_spoilt_as_asked_and_counted() {
    let check = async |spoil: Spoil, expected: &dyn Fn(PutBatch) -> bool| {
        let (local, client) = faulty(Faults { spoil: Some(spoil), ..Faults::default() }).await;
        let result = put_batch(&client, "local", numbered(3)).await;
        let told = format!("{result:?}");
        assert!(expected(result), "{spoil:?}: {told}");
        let counts = local.counts().total();
        assert_eq!((counts.records, counts.ambiguous_records, counts.ambiguous_requests), (3, 3, 1));
    };
    let unreadable = |result: PutBatch| matches!(result, Err(SdkError::ResponseError(_)));
    check(Spoil::Html, &unreadable).await;
    check(Spoil::Truncated, &unreadable).await;
    check(Spoil::Empty, &|result| result.is_ok_and(|answer| answer.request_responses.is_empty())).await;
    check(Spoil::OneShort, &|result| result.is_ok_and(|answer| answer.request_responses.len() == 2)).await;
    check(Spoil::WrongCount, &|result| {
        result.is_ok_and(|answer| answer.failed_put_count == 1 && answer.request_responses.len() == 3)
    })
    .await;
}

#[tokio::test]
async fn an_answer_waits_for_the_latency_asked_for() {
    let latency = Duration::from_millis(30);
    let (_local, client) = faulty(Faults { latency, ..Faults::default() }).await;
    let begun = Instant::now();
    put_one(&client, b"x").await;
    assert!(begun.elapsed() >= latency);
}

#[tokio::test]
async fn an_outage_refuses_connections_and_ends_where_it_began() {
    let (local, client) = start(Options::default()).await;
    put_one(&client, b"x").await;
    for _ in 0..2 {
        local.set_down(true).await.unwrap();
        let error = put_batch(&client, "local", numbered(1)).await.unwrap_err();
        assert!(matches!(error, SdkError::DispatchFailure(_)), "{error:?}");
        assert!(TcpStream::connect(local.address()).is_err());
        local.set_down(true).await.unwrap();
        local.set_down(false).await.unwrap();
        local.set_down(false).await.unwrap();
        put_one(&client, b"x").await;
    }
    let counts = local.stop().await.unwrap().total();
    assert_eq!((counts.records, counts.ambiguous_records), (3, 0));
    assert!(matches!(local.set_down(false).await, Err(LocalError::Stopped)));
}

#[tokio::test]
async fn an_outage_between_acceptance_and_answer_is_counted_as_ambiguous() {
    let (local, client) = faulty(Faults { latency: Duration::from_secs(600), ..Faults::default() }).await;
    let putting = tokio::spawn(async move { put_batch(&client, "local", numbered(3)).await });
    while local.counts().total().records == 0 {
        tokio::task::yield_now().await;
    }
    local.set_down(true).await.unwrap();
    assert!(matches!(putting.await.unwrap(), Err(SdkError::DispatchFailure(_))));
    assert_eq!(local.counts().total().ambiguous_records, 3);
    assert_eq!(local.requests()[0].outcome, Outcome::Cut { accepted: 3 });
}

#[tokio::test]
async fn a_request_under_way_is_answered_before_the_service_stops() {
    let (local, client) = faulty(Faults { latency: Duration::from_millis(50), ..Faults::default() }).await;
    let putting = tokio::spawn(async move { put_batch(&client, "local", numbered(3)).await });
    while local.counts().total().records == 0 {
        tokio::task::yield_now().await;
    }
    let counts = local.stop().await.unwrap().total();
    assert_eq!(putting.await.unwrap().unwrap().failed_put_count, 0);
    assert_eq!((counts.delivered_records, counts.ambiguous_records), (3, 0));
}

// R-T7
#[tokio::test]
async fn the_same_seed_and_requests_make_the_same_trouble() {
    let run = async |seed: u64| {
        let faults = Faults { fail_records: 0.3, throttle: 0.3, error_500: 0.2, ..Faults::default() };
        let (local, client) = start(Options { faults, seed, ..Options::default() }).await;
        for _ in 0..20 {
            put_batch(&client, "local", numbered(10)).await.ok();
        }
        local.requests().into_iter().map(|request| request.outcome).collect::<Vec<_>>()
    };
    assert_eq!(run(1).await, run(1).await);
    assert_ne!(run(1).await, run(2).await);
}

#[tokio::test]
async fn a_port_in_use_and_a_stream_that_cannot_be_are_errors() {
    let (local, _) = start(Options::default()).await;
    let taken = Local::start(Options { listen: local.address(), ..Options::default() }).await.unwrap_err();
    assert!(matches!(taken, LocalError::Bind { .. }));
    for name in ["", "a b", "..", "x".repeat(65).as_str()] {
        let options = Options { streams: vec![name.into()], ..Options::default() };
        assert!(matches!(Local::start(options).await, Err(LocalError::Stream(_))), "{name:?}");
    }
}

#[tokio::test]
async fn a_handle_that_is_dropped_ends_the_service() {
    let (local, client) = start(Options::default()).await;
    put_one(&client, b"x").await;
    let (clone, address) = (local.clone(), local.address());
    drop(local);
    put_one(&client, b"x").await;
    drop(clone);
    while TcpStream::connect(address).is_ok() {
        tokio::task::yield_now().await;
    }
}

fn metric(namespace: &str, name: &str, dimension: (&str, &str)) -> Metric {
    let dimension = Dimension::builder().name(dimension.0).value(dimension.1).build();
    Metric::builder().namespace(namespace).metric_name(name).dimensions(dimension).build()
}

/// From ten minutes ago to one minute ahead.
fn window() -> (DateTime, DateTime) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64;
    (DateTime::from_secs(now - 600), DateTime::from_secs(now + 60))
}

/// The sum of the values that GetMetricData has for a metric; `None` without a datapoint.
async fn total(client: &aws_sdk_cloudwatch::Client, metric: Metric, stat: &str) -> Option<f64> {
    let stat = MetricStat::builder().metric(metric).period(60).stat(stat).build();
    let (start, end) = window();
    let query = MetricDataQuery::builder().id("q").metric_stat(stat).build();
    let request = client.get_metric_data().metric_data_queries(query).start_time(start).end_time(end);
    let answer = request.send().await.unwrap();
    let result = &answer.metric_data_results()[0];
    assert_eq!(result.id(), Some("q"));
    assert_eq!(result.timestamps().len(), result.values().len());
    assert!(result.timestamps().iter().all(|at| at.secs() % 60 == 0));
    result.values().iter().copied().reduce(|a, b| a + b)
}

#[tokio::test]
async fn cloudwatch_tells_what_firehose_counted() {
    let (local, client) = start(Options { quota_records: Some(1_000), ..Options::default() }).await;
    let cloudwatch = cloudwatch(&local.url());
    let of = |name| metric("AWS/Firehose", name, ("DeliveryStreamName", "local"));
    assert_eq!(total(&cloudwatch, of("IncomingRecords"), "Sum").await, None);

    put_batch(&client, "local", numbered(10)).await.unwrap();
    put_batch(&client, "local", numbered(10)).await.unwrap();
    put_one(&client, b"12345").await;
    local.set_faults(Faults { throttle: 1.0, ..Faults::default() });
    put_batch(&client, "local", numbered(7)).await.unwrap_err();

    for (name, expected) in [
        ("IncomingBytes", Some(185.0)),
        ("IncomingRecords", Some(21.0)),
        ("IncomingPutRequests", Some(3.0)),
        ("PutRecordBatch.Bytes", Some(180.0)),
        ("PutRecordBatch.Records", Some(20.0)),
        ("PutRecordBatch.Requests", Some(2.0)),
        ("PutRecord.Bytes", Some(5.0)),
        ("PutRecord.Requests", Some(1.0)),
        ("ThrottledRecords", Some(7.0)),
        ("DeliveryToS3.Records", None),
        ("FailedPutCount", None),
    ] {
        assert_eq!(total(&cloudwatch, of(name), "Sum").await, expected, "{name}");
    }
    assert_eq!(total(&cloudwatch, of("PutRecordBatch.Latency"), "SampleCount").await, Some(2.0));

    let limit = async |name| {
        let (start, end) = window();
        let request = cloudwatch.get_metric_statistics().namespace("AWS/Firehose").metric_name(name);
        let dimension = Dimension::builder().name("DeliveryStreamName").value("local").build();
        let request = request.dimensions(dimension).start_time(start).end_time(end).period(60);
        let request = request.statistics(Statistic::Maximum).statistics(Statistic::Minimum);
        let point = request.send().await.unwrap().datapoints().first().cloned()?;
        assert_eq!(point.maximum, point.minimum);
        assert_eq!((point.sum, point.average, point.sample_count), (None, None, None));
        point.maximum
    };
    assert_eq!(limit("RecordsPerSecondLimit").await, Some(1_000.0));
    // What is not enforced is no limit.
    assert_eq!(limit("BytesPerSecondLimit").await, None);
    assert_eq!(limit("PutRequestsPerSecondLimit").await, None);
}

#[tokio::test]
async fn cloudwatch_tells_of_deliveries() {
    let (local, client) = start(Options { buffer_bytes: 1, ..Options::default() }).await;
    let cloudwatch = cloudwatch(&local.url());
    put_batch(&client, "local", numbered(4)).await.unwrap();
    let of = |name| metric("AWS/Firehose", name, ("DeliveryStreamName", "local"));
    assert_eq!(total(&cloudwatch, of("DeliveryToS3.Records"), "Sum").await, Some(4.0));
    assert_eq!(total(&cloudwatch, of("DeliveryToS3.Bytes"), "Sum").await, Some(36.0));
    assert_eq!(total(&cloudwatch, of("DeliveryToS3.Success"), "Average").await, Some(1.0));
    assert!(total(&cloudwatch, of("DeliveryToS3.DataFreshness"), "Maximum").await.is_some());
}

#[tokio::test]
async fn published_metrics_can_be_read_back() {
    let (local, _) = start(Options::default()).await;
    let cloudwatch = cloudwatch(&local.url());
    // Well inside of every window that is asked for below, whenever the minute changes.
    let at = DateTime::from_secs((window().0.secs() + 300) / 60 * 60);
    let datum = || {
        let dimension = Dimension::builder().name("Host").value("a").build();
        let datum = MetricDatum::builder().metric_name("Held").dimensions(dimension);
        datum.timestamp(at).unit(StandardUnit::Count)
    };
    let set = StatisticSet::builder().sample_count(3.0).sum(10.0).minimum(2.0).maximum(6.0).build();
    let put = cloudwatch.put_metric_data().namespace("Hydrant").metric_data(datum().value(2.0).build());
    put.metric_data(datum().statistic_values(set).build()).send().await.unwrap();

    let held = |host| metric("Hydrant", "Held", ("Host", host));
    assert_eq!(total(&cloudwatch, held("a"), "Sum").await, Some(12.0));
    assert_eq!(total(&cloudwatch, held("a"), "SampleCount").await, Some(4.0));
    assert_eq!(total(&cloudwatch, held("b"), "Sum").await, None);

    let ask = async |unit| {
        let dimension = Dimension::builder().name("Host").value("a").build();
        let request = cloudwatch.get_metric_statistics().namespace("Hydrant").metric_name("Held");
        let request = request.dimensions(dimension).start_time(at).end_time(window().1).period(60);
        request.statistics(Statistic::Average).unit(unit).send().await.unwrap()
    };
    let answer = ask(StandardUnit::Count).await;
    assert_eq!(answer.label(), Some("Held"));
    let point = &answer.datapoints()[0];
    assert_eq!((point.average, point.timestamp), (Some(3.0), Some(at)));
    assert_eq!(point.unit, Some(StandardUnit::Count));
    assert!(ask(StandardUnit::Bytes).await.datapoints().is_empty());
}

#[tokio::test]
async fn cloudwatch_refuses_with_its_typed_errors() {
    let (local, _) = start(Options::default()).await;
    let cloudwatch = cloudwatch(&local.url());
    let put = async |namespace: &str, datum: MetricDatum| {
        let put = cloudwatch.put_metric_data().namespace(namespace).metric_data(datum);
        put.send().await.unwrap_err().into_service_error()
    };
    let error = put("AWS/Mine", MetricDatum::builder().metric_name("M").value(1.0).build()).await;
    assert!(error.is_invalid_parameter_value_exception(), "{error:?}");
    let error = put("N", MetricDatum::builder().metric_name("M").build()).await;
    assert!(error.is_invalid_parameter_combination_exception(), "{error:?}");
}

#[tokio::test]
async fn cloudwatch_also_speaks_json() {
    let (local, _) = start(Options::default()).await;
    let ask = async |operation: &str, body: &str| {
        let head = format!(
            "X-Amz-Target: GraniteServiceVersion20100801.{operation}\r\nAuthorization: any\r\nContent-Length: {}\r\n",
            body.len()
        );
        raw(&local, &head, body.as_bytes()).await
    };
    let answer = ask(
        "PutMetricData",
        r#"{"Namespace":"N","MetricData":[{"MetricName":"M","Value":3,"Timestamp":600}]}"#,
    )
    .await;
    assert!(answer.starts_with("http/1.1 200"), "{answer}");
    assert!(answer.contains("content-type: application/x-amz-json-1.0"), "{answer}");
    let stat = r#"{"Metric":{"Namespace":"N","MetricName":"M"},"Period":60,"Stat":"Sum"}"#;
    let query = format!(r#"[{{"Id":"q","MetricStat":{stat}}}]"#);
    let answer =
        ask("GetMetricData", &format!(r#"{{"StartTime":0,"EndTime":900,"MetricDataQueries":{query}}}"#))
            .await;
    assert!(answer.contains(r#""timestamps":[600.0],"values":[3.0]"#), "{answer}");
    let answer = ask("GetMetricData", r#"{"StartTime":0,"EndTime":900}"#).await;
    assert!(answer.contains("x-amzn-query-error: invalidparametervalue;sender"), "{answer}");
}

fn hydrant(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hydrant"));
    command.arg("local").args(args);
    command
}

#[tokio::test]
async fn the_command_serves_until_it_is_told_to_stop_and_delivers_all_it_took() {
    let directory = tempfile::tempdir().unwrap();
    let args = ["--listen", "0", "--stream", "clicks", "--dir", directory.path().to_str().unwrap()];
    let mut child = hydrant(&args).stdout(Stdio::piped()).spawn().unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    let url = line.trim_end().strip_prefix("hydrant local is listening on ").unwrap().to_owned();
    assert!(url.starts_with("http://127.0.0.1:"), "{url}");

    put_batch(&firehose(&url), "clicks", numbered(3)).await.unwrap();
    let pid = child.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    let mut rest = String::new();
    out.read_to_string(&mut rest).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(rest.contains("AWS_ENDPOINT_URL_FIREHOSE="), "{rest}");
    assert!(rest.contains("accepted 3 records"), "{rest}");
    assert_eq!(contents(directory.path()), "record 0\nrecord 1\nrecord 2\n");
}

#[tokio::test]
async fn the_command_says_what_is_wrong_with_its_arguments() {
    let (local, _) = start(Options::default()).await;
    let taken = local.address().to_string();
    let check = |args: &[&str], text: &str| {
        let output = hydrant(args).output().unwrap();
        let told = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{told}");
        assert!(told.contains(text), "{told:?} lacks {text:?}");
    };
    check(&["--listen", &taken], &format!("cannot listen on {taken}: "));
    check(&["--listen", "0", "--stream", "a b"], "[a-zA-Z0-9_.-]+");
    check(&["--throttle", "2"], "from 0 to 1");
    check(&["--fail-code", "Nonsense"], "InternalFailure");
}

#[test]
fn the_command_warns_of_an_address_that_others_can_reach() {
    let mut command = hydrant(&["--listen", "0.0.0.0:0"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stderr.take().unwrap()).read_line(&mut line).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(line.contains("WARNING: 0.0.0.0:"), "{line}");
}
