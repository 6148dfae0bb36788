//! The Firehose API as a listener: programs that use an AWS SDK need another endpoint and nothing else.

use std::collections::BTreeSet;
use std::time::Duration;

use aws_credential_types::Credentials;
use aws_sdk_firehose::Client;
use aws_sdk_firehose::config::{BehaviorVersion, Config, Region};
use aws_sdk_firehose::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_firehose::operation::put_record_batch::PutRecordBatchOutput;
use aws_sdk_firehose::primitives::Blob;
use aws_sdk_firehose::types::{DeliveryStreamStatus, DeliveryStreamType, Record};
use aws_smithy_types::retry::RetryConfig;
use aws_smithy_types::timeout::TimeoutConfig;
use hydrant::local::Options;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;

use crate::daemon::{
    Daemon, PATIENCE, SECRET_KEY, STREAM, Sink, balance, hydrant, line, lines, number, patiently,
};

const PROTOCOL: &str = "listen.api.protocol=firehose";
const LOOPBACK: &str = "listen.api.address=tcp:127.0.0.1:0";
const RECEIVED: &str = "/ledger/received/records";

fn client_as(url: &str, id: &str, secret: &str) -> Client {
    let config = Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("eu-west-1"))
        .credentials_provider(Credentials::new(id, secret, None, None, "test"))
        .retry_config(RetryConfig::disabled())
        .timeout_config(TimeoutConfig::builder().operation_timeout(PATIENCE).build())
        .http_client(aws_smithy_http_client::Builder::new().build_http())
        .endpoint_url(url);
    Client::from_conf(config.build())
}

/// Where the listener called `api` is.
async fn url(daemon: &Daemon) -> String {
    let status = daemon.status().await;
    let listeners = status["listeners"].as_array().unwrap();
    let listener = listeners.iter().find(|listener| listener["name"] == "api").unwrap();
    listener["address"].as_str().unwrap().replacen("tcp:", "http://", 1)
}

pub async fn client(daemon: &Daemon) -> Client {
    client_as(&url(daemon).await, "anybody", "any secret")
}

pub fn record(data: impl Into<Vec<u8>>) -> Record {
    Record::builder().data(Blob::new(data.into())).build().unwrap()
}

async fn put(client: &Client, records: Vec<Record>) -> Result<PutRecordBatchOutput, (String, String)> {
    let put = client.put_record_batch().delivery_stream_name(STREAM).set_records(Some(records));
    refused(put.send().await)
}

/// What was answered, or the code and message of the error.
fn refused<T, E>(answer: Result<T, SdkError<E>>) -> Result<T, (String, String)>
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    answer.map_err(|error| {
        let text = |text: Option<&str>| text.unwrap_or_default().to_owned();
        assert!(error.as_service_error().is_some(), "{error:?}");
        (text(error.code()), text(error.message()))
    })
}

// R-W1, R-W8
#[tokio::test]
async fn an_sdk_puts_records_and_gets_an_id_for_each() {
    let sink = Sink::start(Options::default()).await;
    let directory = tempfile::tempdir().unwrap();
    // Of the default memory it leaves the less for what comes.
    let spool = format!("buffer.directory={}", directory.path().join("spool").display());
    let daemon = Daemon::start(&sink.local.url(), &[PROTOCOL, LOOPBACK, "linger=1h", &spool]).await;
    let client = client(&daemon).await;
    let binary: Vec<u8> = (0..=255).collect();
    let single = client.put_record().delivery_stream_name(STREAM).record(record(binary.clone()));
    let single = single.send().await.unwrap();
    assert_eq!(single.encrypted, Some(false));
    // Ended or not, packed or empty.
    let records: [&[u8]; 4] = [b"ended\n", b"not ended", b"packed 1\npacked 2\n", b""];
    let answer = put(&client, records.iter().map(|data| record(*data)).collect()).await.unwrap();
    assert_eq!((answer.failed_put_count, answer.request_responses.len()), (0, 4));
    let full = put(&client, (0..500).map(|number| record(line(number, 8_000))).collect()).await.unwrap();
    let ids = [&answer.request_responses[..], &full.request_responses].concat();
    let mut ids: BTreeSet<String> = ids.iter().map(|entry| entry.record_id().unwrap().to_owned()).collect();
    ids.insert(single.record_id);
    assert_eq!(ids.len(), 505);
    daemon.until("in", |status| number(status, RECEIVED) == 504).await;
    assert!(daemon.stop().await.status.success());
    let expected = [&binary[..], b"\nended\nnot ended\npacked 1\npacked 2\n", &lines(500, 8_000)].concat();
    assert!(sink.delivered().await == expected, "what was delivered is not what was put");
}

// R-W2
#[tokio::test]
async fn requests_beyond_a_limit_and_other_streams_are_refused_in_the_services_words_and_take_nothing() {
    let sink = Sink::start(Options::default()).await;
    let settings = [PROTOCOL, LOOPBACK, "linger=1ms", "listen.api.max_record_bytes=1000"];
    let daemon = Daemon::start(&sink.local.url(), &settings).await;
    let client = client(&daemon).await;
    let check = async |records: Vec<Record>, code: &str, text: &str| {
        let (found, message) = put(&client, records).await.unwrap_err();
        assert!(found == code && message.contains(text), "{found}: {message}");
    };
    check(vec![record("x"); 501], "ValidationException", "have length less than or equal to 500").await;
    check(vec![], "ValidationException", "have length greater than or equal to 1").await;
    let long = vec![record("x"), record([b'x'; 1000])];
    let said = "lim=1000 cap=1000]' at 'records.2.member.data' failed to satisfy constraint: Member must have \
                length less than or equal to 1000";
    check(long, "ValidationException", said).await;
    check(vec![record(vec![b'x'; 1_000_000]); 5], "InvalidArgumentException", "4 MB").await;
    let other = client.put_record().delivery_stream_name("other").record(record("x")).send().await;
    assert_eq!(refused(other).unwrap_err().0, "ResourceNotFoundException");
    let described = client.describe_delivery_stream().delivery_stream_name("other").send().await;
    assert_eq!(refused(described).unwrap_err().0, "ResourceNotFoundException");
    let deleted = client.delete_delivery_stream().delivery_stream_name(STREAM).send().await;
    assert_eq!(refused(deleted).unwrap_err().0, "UnknownOperationException");
    put(&client, vec![record([b'y'; 999])]).await.unwrap();
    let status = daemon.until_settled(1).await;
    assert_eq!(number(&status, "/ledger/rejected/too_long/records"), 1, "{status:#}");
    assert!(daemon.stop().await.status.success());
    assert_eq!(sink.delivered().await, [&[b'y'; 999][..], b"\n"].concat());
}

// R-W2
#[tokio::test]
async fn what_is_no_request_of_the_api_gets_an_error_in_its_shape() {
    let sink = Sink::start(Options::default()).await;
    let daemon = Daemon::start(&sink.local.url(), &["listen.app.protocol=firehose"]).await;
    let ask = async |line: &str, target: &str, body: &str| {
        let mut stream = daemon.connect().await;
        let length = body.len();
        let target = if target.is_empty() { String::new() } else { format!("x-amz-target: {target}\r\n") };
        let head = format!(
            "{line} HTTP/1.1\r\nhost: h\r\nconnection: close\r\n{target}content-length: {length}\r\n\r\n"
        );
        stream.write_all(&[head.as_bytes(), body.as_bytes()].concat()).await.unwrap();
        let mut answer = String::new();
        patiently("answered", stream.read_to_string(&mut answer)).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let body: Value = serde_json::from_str(body).unwrap();
        let header = head.lines().find_map(|line| line.strip_prefix("x-amzn-errortype: "));
        assert_eq!(body["__type"].as_str(), header, "{answer}");
        header.unwrap_or("200").to_owned()
    };
    let put = "Firehose_20150804.PutRecordBatch";
    assert_eq!(ask("GET /", "", "").await, "200");
    for (line, target) in
        [("POST /", ""), ("PUT /", put), ("POST /elsewhere", put), ("POST /", "Other.PutRecord")]
    {
        assert_eq!(ask(line, target, "{}").await, "UnknownOperationException", "{line} {target}");
    }
    assert_eq!(ask("POST /", put, "no json").await, "SerializationException");
    assert_eq!(ask("POST /", put, "{}").await, "ValidationException");
    assert_eq!(ask("POST /", put, &"[".repeat(1 << 20)).await, "SerializationException");
    let list = "Firehose_20150804.ListDeliveryStreams";
    assert_eq!(ask("POST /", list, r#"{"Limit":0}"#).await, "InvalidArgumentException");
    assert!(daemon.stop().await.status.success());
}

/// Puts the lines of these numbers, those again that failed; gives how often any did.
async fn put_all(client: &Client, mut waiting: Vec<usize>) -> usize {
    let mut times = 0;
    while !waiting.is_empty() {
        let numbers: Vec<usize> = waiting.drain(..waiting.len().min(500)).collect();
        let records = numbers.iter().map(|number| record(line(*number, 2000))).collect();
        let failed: Vec<usize> = match put(client, records).await {
            Ok(answer) => {
                let entries = answer.request_responses.iter().zip(&numbers);
                let failed =
                    entries.filter(|(entry, _)| entry.record_id().is_none()).map(|(entry, number)| {
                        assert_eq!(entry.error_code(), Some("ServiceUnavailableException"));
                        *number
                    });
                let failed: Vec<usize> = failed.collect();
                assert_eq!(usize::try_from(answer.failed_put_count).unwrap(), failed.len());
                failed
            }
            Err((code, _)) => {
                assert_eq!(code, "ServiceUnavailableException");
                numbers
            }
        };
        times += usize::from(!failed.is_empty());
        waiting.splice(..0, failed);
    }
    times
}

// R-W3
#[tokio::test]
async fn a_full_buffer_fails_the_records_that_have_no_room_and_no_others() {
    let sink = Sink::start(Options::default()).await;
    sink.local.set_down(true).await.unwrap();
    let settings = [
        PROTOCOL,
        LOOPBACK,
        "linger=5ms",
        "buffer.memory=8MiB",
        "retry.max_delay=100ms",
        "buffer.on_full=drop-newest",
    ];
    let daemon = Daemon::start(&sink.local.url(), &settings).await;
    let mut producing = JoinSet::new();
    for producer in 0..4 {
        let client = client(&daemon).await;
        producing.spawn(async move { put_all(&client, (producer * 1250..).take(1250).collect()).await });
    }
    // Each of them is turned away, for a while or for good, until records leave.
    daemon.until("full", |status| number(status, "/buffer/reserved_bytes") > 2 << 20).await;
    sink.local.set_down(false).await.unwrap();
    let failed: usize = producing.join_all().await.into_iter().sum();
    assert!(failed > 0, "there was always room");
    daemon.until_settled(5000).await;
    assert_eq!(balance(&daemon.get("/metrics").await.1), (5000, 5000));
    assert!(daemon.stop().await.status.success());
    let delivered = sink.lines().await;
    assert!(delivered.len() == 5000 && delivered.values().all(|times| *times == 1));
}

// R-W4
#[tokio::test]
async fn the_stream_is_described_as_one_that_takes_packed_records_only_where_it_does() {
    let check = async |interval: &str, kind: &str| {
        let sink = Sink::start(Options::default()).await;
        let monitor = format!("monitor.endpoint_url={}", sink.local.url());
        let settings = [PROTOCOL, LOOPBACK, &monitor, &format!("monitor.interval={interval}")];
        let daemon = Daemon::start(&sink.local.url(), &settings).await;
        if interval != "0s" {
            daemon.until("described", |status| !status["monitor"]["destination"].is_null()).await;
        }
        let client = client(&daemon).await;
        let described = client.describe_delivery_stream().delivery_stream_name(STREAM).send().await.unwrap();
        let described = described.delivery_stream_description.unwrap();
        assert_eq!(described.delivery_stream_status, DeliveryStreamStatus::Active);
        assert_eq!(described.delivery_stream_type, DeliveryStreamType::DirectPut);
        let destination = &described.destinations[0];
        let found = (
            destination.extended_s3_destination_description.is_some(),
            destination.http_endpoint_destination_description.is_some(),
        );
        assert_eq!(found, (kind == "s3", kind == "http"), "{described:?}");
        let listed = client.list_delivery_streams().send().await.unwrap();
        assert_eq!(
            (listed.delivery_stream_names(), listed.has_more_delivery_streams),
            (&[STREAM.to_owned()][..], false)
        );
        assert!(daemon.stop().await.status.success());
    };
    check("60s", "s3").await;
    // Nobody looked what the stream is.
    check("0s", "http").await;
}

// R-W5
#[tokio::test]
async fn with_a_pair_of_keys_only_what_it_has_signed_is_taken() {
    let sink = Sink::start(Options::default()).await;
    let secret = format!("listen.api.secret_access_key={SECRET_KEY}");
    let settings = [
        PROTOCOL,
        "listen.api.address=tcp:0.0.0.0:0",
        "listen.api.access_key_id=AKIDEXAMPLE",
        &secret,
        "linger=1ms",
    ];
    let daemon = Daemon::start(&sink.local.url(), &settings).await;
    let url = url(&daemon).await.replace("0.0.0.0", "127.0.0.1");
    let code = async |id: &str, secret: &str| {
        put(&client_as(&url, id, secret), vec![record("forged")]).await.unwrap_err().0
    };
    assert_eq!(code("AKIDEXAMPLE", "another").await, "InvalidSignatureException");
    assert_eq!(code("AKIDOTHER", SECRET_KEY).await, "UnrecognizedClientException");
    let right = client_as(&url, "AKIDEXAMPLE", SECRET_KEY);
    put(&right, vec![record("one"), record("two")]).await.unwrap();
    right.describe_delivery_stream().delivery_stream_name(STREAM).send().await.unwrap();
    daemon.until_settled(2).await;
    let ended = daemon.stop().await;
    assert!(ended.status.success());
    assert!(!format!("{:?}", ended.log).contains(SECRET_KEY), "the secret was logged");
    assert_eq!(sink.delivered().await, b"one\ntwo\n");
}

/// A daemon that takes puts at `address` and delivers them to `sink`.
async fn second(sink: &Sink, directory: tempfile::TempDir, address: &str) -> Daemon {
    let spool = directory.path().join("spool");
    let settings = [
        PROTOCOL.to_owned(),
        format!("listen.api.address={address}"),
        "listen.api.access_key_id=AKIDEXAMPLE".to_owned(),
        format!("listen.api.secret_access_key={SECRET_KEY}"),
        format!("endpoint_url={}", sink.local.url()),
        format!("monitor.endpoint_url={}", sink.local.url()),
        format!("buffer.directory={}", spool.display()),
        "linger=20ms".to_owned(),
    ];
    Daemon::start_in(directory, settings.iter().map(String::as_str)).await
}

// R-W6
#[tokio::test]
async fn one_daemon_delivers_into_another_that_is_restarted_meanwhile_and_nothing_is_lost() {
    const LINES: usize = 20_000;
    let sink = Sink::start(Options::default()).await;
    let far = second(&sink, tempfile::tempdir().unwrap(), "tcp:127.0.0.1:0").await;
    far.until("described", |status| !status["monitor"]["destination"].is_null()).await;
    let address = url(&far).await;
    let settings = ["linger=20ms", "aggregate.mode=auto", "retry.max_delay=100ms", "send.max_in_flight=2"];
    let near = Daemon::start(&address, &settings).await;
    near.until("packing", |status| status["stream"]["packing"]["packed"] == true).await;
    let half = LINES / 2;
    near.write(&lines(half, 200)).await;
    near.until_settled(half as u64).await;
    let (ended, directory) = far.stop_and_leave().await;
    assert!(ended.status.success());
    let rest: Vec<u8> = (half..LINES).flat_map(|number| line(number, 200)).collect();
    near.write(&rest).await;
    near.until("waiting", |status| number(status, "/ledger/held/records") == half as u64).await;
    let far = second(&sink, directory, &address.replace("http://", "tcp:")).await;
    near.until_settled(LINES as u64).await;
    assert!(near.stop().await.status.success());
    let status = far.until("settled", |status| number(status, "/ledger/held/records") == 0).await;
    // Packed, so it was far fewer records here.
    assert!(number(&status, RECEIVED) < half as u64 / 10, "{status:#}");
    assert!(far.stop().await.status.success());
    let delivered = sink.lines().await;
    assert!(delivered.len() == LINES && delivered.values().all(|times| *times == 1));
}

// R-W5
#[tokio::test]
async fn an_address_that_anybody_can_reach_needs_keys_and_a_secret_is_never_printed() {
    let check = async |settings: &[&str], code: i32, said: &str| {
        let mut command = hydrant();
        command.args(["check", "--set", "delivery_stream_name=app", "--set", PROTOCOL]);
        for setting in settings {
            command.args(["--set", setting]);
        }
        let output = command.output().await.unwrap();
        let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert_eq!(output.status.code(), Some(code), "{text}");
        assert!(text.contains(said) && !text.contains("hidden"), "{text}");
    };
    let open = "listen.api.address=tcp:0.0.0.0:4573";
    let (id, secret) = ("listen.api.access_key_id=AKID", "listen.api.secret_access_key=hiddenhidden");
    check(&[LOOPBACK], 0, "listen.api.secret_access_key = \"\"  # default").await;
    check(&[open, id, secret], 0, "listen.api.secret_access_key = \"(secret)\"  # --set").await;
    check(&[open], 2, "`listen.api.address` is `tcp:0.0.0.0:4573`, where anybody could put records").await;
    check(&["listen.api.address=tls:0.0.0.0:1", "listen.api.cert=a", "listen.api.key=b"], 2, "anybody").await;
    check(&[LOOPBACK, id], 2, "`listen.api.secret_access_key`").await;
    check(&[LOOPBACK, secret], 2, "`listen.api.access_key_id`").await;
    check(
        &[LOOPBACK, id, "listen.api.secret_access_key=hidden"],
        2,
        "`listen.api.secret_access_key` is (secret)",
    )
    .await;
    check(&["listen.api.address=tcp:1", "listen.api.protocol=lines", id, secret], 2, "is of no use without")
        .await;
}

// R-W7
#[tokio::test]
async fn a_stop_answers_puts_under_way_and_turns_others_away() {
    let sink = Sink::start(Options::default()).await;
    sink.local.set_down(true).await.unwrap();
    let settings = [
        PROTOCOL,
        LOOPBACK,
        "linger=1h",
        "retry.max_delay=100ms",
        "listen.api.acks=delivered",
        "shutdown.drain=1h",
    ];
    let mut daemon = Daemon::start(&sink.local.url(), &settings).await;
    let client = client(&daemon).await;
    let waiting = tokio::spawn({
        let client = client.clone();
        async move { put(&client, vec![record("waits")]).await }
    });
    daemon.until("in", |status| number(status, RECEIVED) == 1).await;
    daemon.signal("TERM");
    daemon.until_said("Draining.").await;
    sink.local.set_down(false).await.unwrap();
    assert_eq!(waiting.await.unwrap().unwrap().failed_put_count, 0);
    assert!(daemon.ended().await.status.success());
    let late = client.put_record().delivery_stream_name(STREAM).record(record("late"));
    assert!(tokio::time::timeout(Duration::from_secs(60), late.send()).await.unwrap().is_err());
    assert_eq!(sink.delivered().await, b"waits\n");
}
