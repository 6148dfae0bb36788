//! The firehose room over real HTTP: signatures, verdicts, every class of failure, proxies.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::disallowed_methods)]
use std::collections::HashMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use aws_credential_types::Credentials;
use aws_credential_types::provider::{ProvideCredentials, future};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hydrant::budget::Reservation;
use hydrant::firehose::{
    Answer, Class, Destination, FailedEntry, Firehose, Operation, Put, PutError, Sdk, Settings, Watch as _,
    WatchError,
};
use hydrant::record::{Chunk, Span};
use hyper::body::Incoming;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use sha2::{Digest, Sha256};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

const SECRET: &str = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY";

/// What a server does with a connection or a request.
#[derive(Debug, Clone)]
enum Act {
    /// Accepts everything.
    Deliver,
    /// Answers with this status and body, then with the next act's.
    Say(u16, String),
    /// Cuts the connection before anything was read.
    ResetBefore,
    /// Cuts it after the request was read.
    ResetAfter,
    /// Reads the request and never answers.
    Stall,
}

/// A request as it arrived.
#[derive(Debug)]
struct Seen {
    line: String,
    headers: HashMap<String, String>,
    body: Bytes,
}

struct Server {
    address: SocketAddr,
    seen: mpsc::Receiver<Seen>,
}

impl Server {
    /// A server that goes through `acts`, one a request, and repeats the last one.
    async fn start(acts: Vec<Act>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, seen) = mpsc::channel(64);
        let acts = Arc::new(Mutex::new(acts));
        tokio::spawn(async move {
            while let Ok((connection, _)) = listener.accept().await {
                if matches!(acts.lock().unwrap().first(), Some(Act::ResetBefore)) {
                    next(&acts);
                    reset(connection);
                } else {
                    tokio::spawn(serve(connection, Arc::clone(&acts), sender.clone()));
                }
            }
        });
        Self { address, seen }
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    fn sdk(&self, fast_body: bool) -> Sdk {
        sdk(Settings { fast_body, ..settings(self.url()) })
    }
}

fn next(acts: &Mutex<Vec<Act>>) -> Act {
    let mut acts = acts.lock().unwrap();
    if acts.len() > 1 { acts.remove(0) } else { acts[0].clone() }
}

fn reset(connection: TcpStream) {
    socket2::SockRef::from(&connection).set_linger(Some(Duration::ZERO)).unwrap();
}

async fn serve(connection: TcpStream, acts: Arc<Mutex<Vec<Act>>>, sender: mpsc::Sender<Seen>) {
    let cut = Arc::new(connection.into_std().unwrap());
    let connection = TcpStream::from_std(cut.try_clone().unwrap()).unwrap();
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        let (acts, sender, cut) = (Arc::clone(&acts), sender.clone(), Arc::clone(&cut));
        async move {
            let (parts, body) = request.into_parts();
            let body = body.collect().await?.to_bytes();
            let target = parts.headers.get("x-amz-target").map(|target| target.to_str().unwrap().to_owned());
            let header = |(name, value): (&http::HeaderName, &http::HeaderValue)| {
                (name.to_string(), value.to_str().unwrap().to_owned())
            };
            let seen = Seen {
                line: format!("{} {}", parts.method, parts.uri),
                headers: parts.headers.iter().map(header).collect(),
                body: body.clone(),
            };
            sender.send(seen).await.ok();
            let (status, text) = match next(&acts) {
                Act::Deliver => (200, delivered(target.as_deref(), &body)),
                Act::Say(status, text) => (status, text),
                Act::ResetBefore | Act::ResetAfter => {
                    socket2::SockRef::from(&*cut).set_linger(Some(Duration::ZERO)).unwrap();
                    cut.shutdown(std::net::Shutdown::Both).unwrap();
                    std::future::pending().await
                }
                Act::Stall => std::future::pending().await,
            };
            let response = Response::builder().status(status).body(Full::new(Bytes::from(text)));
            Ok::<_, hyper::Error>(response.unwrap())
        }
    });
    // A client that goes away is part of the tests.
    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(connection), service).await.ok();
}

fn delivered(target: Option<&str>, body: &[u8]) -> String {
    match target {
        Some("Firehose_20150804.PutRecordBatch") => {
            let body: serde_json::Value = serde_json::from_slice(body).unwrap();
            let ids: Vec<_> =
                (0..body["Records"].as_array().unwrap().len()).map(|i| Some(format!("id{i}"))).collect();
            answer(&ids)
        }
        Some("Firehose_20150804.PutRecord") => r#"{"RecordId":"id0","Encrypted":false}"#.into(),
        Some("Firehose_20150804.DescribeDeliveryStream") => DESCRIPTION.into(),
        _ => IDENTITY.into(),
    }
}

/// STS speaks the query protocol, without a target.
const IDENTITY: &str = r#"<GetCallerIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">
    <GetCallerIdentityResult><Arn>arn:aws:iam::1:user/u</Arn></GetCallerIdentityResult>
    </GetCallerIdentityResponse>"#;

const DESCRIPTION: &str = r#"{"DeliveryStreamDescription": {
    "DeliveryStreamName": "app-logs", "DeliveryStreamARN": "arn:aws:firehose:eu-west-1:1:deliverystream/app-logs",
    "DeliveryStreamStatus": "ACTIVE", "DeliveryStreamType": "DirectPut", "VersionId": "1", "HasMoreDestinations": false,
    "DeliveryStreamEncryptionConfiguration": {"Status": "ENABLED"},
    "Destinations": [{"DestinationId": "d", "ExtendedS3DestinationDescription": {
        "RoleARN": "arn:aws:iam::1:role/r", "BucketARN": "arn:aws:s3:::b", "BufferingHints": {},
        "CompressionFormat": "GZIP", "EncryptionConfiguration": {}}}]}}"#;

/// The answer to a batch; an entry without an id failed.
fn answer(ids: &[Option<String>]) -> String {
    let entries: Vec<_> = ids
        .iter()
        .map(|id| match id {
            Some(id) => serde_json::json!({ "RecordId": id }),
            None => serde_json::json!({ "ErrorCode": "ServiceUnavailableException", "ErrorMessage": "Slow down." }),
        })
        .collect();
    let failed = ids.iter().filter(|id| id.is_none()).count();
    serde_json::json!({ "FailedPutCount": failed, "Encrypted": true, "RequestResponses": entries })
        .to_string()
}

fn settings(endpoint_url: String) -> Settings {
    Settings {
        region: Some("eu-west-1".into()),
        endpoint_url: Some(endpoint_url),
        attempt_timeout: Duration::from_secs(60),
        connect_timeout: Duration::from_secs(60),
        read_timeout: Duration::from_secs(60),
        max_in_flight: 4,
        fast_body: true,
        cloudwatch_endpoint_url: None,
    }
}

fn sdk(settings: Settings) -> Sdk {
    Sdk::new(settings).with_credentials(Credentials::new("AKID", SECRET, Some("token".into()), None, "test"))
}

fn put(operation: Operation, records: &[&[u8]]) -> Put {
    let mut end = 0;
    let ends = records.iter().map(|record| {
        end += u32::try_from(record.len()).unwrap();
        end
    });
    let ends: Box<[u32]> = ends.collect();
    #[expect(clippy::disallowed_methods, reason = "when a test's records were received does not matter")]
    let chunk = Chunk::new(Bytes::from(records.concat()), ends, Instant::now(), Reservation::none());
    let spans = Span::whole(Arc::new(chunk)).into_iter().collect();
    Put { stream: "app-logs".into(), operation, spans, packed: None, members: None }
}

fn batch() -> Put {
    put(Operation::PutRecordBatch, &[b"hello\n", b"\x00\xff\"\\\n", b""])
}

fn hmac(key: &[u8], data: &str) -> Vec<u8> {
    use hmac::{KeyInit, Mac};
    let mut mac = hmac::Hmac::<Sha256>::new_from_slice(key).unwrap();
    mac.update(data.as_bytes());
    mac.finalize().into_bytes().to_vec()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut hex, byte| {
        write!(hex, "{byte:02x}").unwrap();
        hex
    })
}

/// Recomputes the signature over what arrived
/// (<https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html>).
fn assert_signed(seen: &Seen) {
    let authorization = &seen.headers["authorization"];
    let part = |name: &str| authorization.split(name).nth(1).unwrap().split(',').next().unwrap();
    let (names, date) = (part("SignedHeaders="), &seen.headers["x-amz-date"]);
    let (_, scope) = part("Credential=").split_once('/').unwrap();
    let headers: String =
        names.split(';').map(|name| format!("{name}:{}\n", seen.headers[name].trim())).collect();
    for name in ["host", "x-amz-date", "x-amz-target", "x-amz-security-token"] {
        assert!(names.split(';').any(|signed| signed == name), "{name} is signed");
    }
    let body = hex(&Sha256::digest(&seen.body));
    let request = format!("POST\n/\n\n{headers}\n{names}\n{body}");
    let text = format!("AWS4-HMAC-SHA256\n{date}\n{scope}\n{}", hex(&Sha256::digest(request.as_bytes())));
    let key = scope.split('/').fold(format!("AWS4{SECRET}").into_bytes(), |key, part| hmac(&key, part));
    assert!(scope.ends_with("/eu-west-1/firehose/aws4_request"), "{scope}");
    assert_eq!(part("Signature="), hex(&hmac(&key, &text)));
}

// R-B3, R-S2
#[tokio::test]
async fn every_call_is_signed_over_what_arrives_and_both_bodies_are_the_same() {
    let mut server = Server::start(vec![Act::Deliver]).await;
    let mut bodies = Vec::new();
    for fast_body in [true, false] {
        let sdk = server.sdk(fast_body);
        assert_eq!(sdk.put(batch()).await.unwrap(), Answer::default());
        let seen = server.seen.recv().await.unwrap();
        assert_signed(&seen);
        assert_eq!(seen.headers["content-length"], seen.body.len().to_string());
        bodies.push(seen.body);

        // Of a body that is encoded while it is sent, too.
        let large = vec![b'x'; 1_000_000];
        sdk.put(put(Operation::PutRecordBatch, &[&large, &large[1..], b"y\n"])).await.unwrap();
        let seen = server.seen.recv().await.unwrap();
        assert_signed(&seen);
        assert_eq!(seen.headers["content-length"], seen.body.len().to_string());
        bodies.push(seen.body);

        let one = sdk.put(put(Operation::PutRecord, &[b"hello\n"])).await.unwrap();
        assert_eq!(one.record_id.as_deref(), Some("id0"));
        let seen = server.seen.recv().await.unwrap();
        assert_signed(&seen);
        assert_eq!(seen.body, r#"{"DeliveryStreamName":"app-logs","Record":{"Data":"aGVsbG8K"}}"#);

        let description = sdk.describe("app-logs").await.unwrap();
        assert_eq!((&*description.status, &*description.kind), ("ACTIVE", "DirectPut"));
        assert_eq!(description.destination, Some(Destination::S3));
        assert_eq!(description.encryption.as_deref(), Some("ENABLED"));
        assert_signed(&server.seen.recv().await.unwrap());
        assert_eq!(sdk.endpoint(), Some(&*server.url()));
        assert!(sdk.clock_skew_seconds().is_some_and(|skew| skew.abs() < 3600), "the same clock");
    }
    let (fast, stock) = bodies.split_at(2);
    assert_eq!(fast, stock);
}

// R-B12
#[tokio::test]
async fn requests_that_are_sent_together_are_each_signed_over_what_arrives() {
    let mut server = Server::start(vec![Act::Deliver]).await;
    let sdk = server.sdk(true);
    // Two that are whole and hashed in step, and between them the first large one, which is sent in pieces.
    let records = [100_000, 600_000, 700_000].map(|bytes| vec![b'x'; bytes]);
    let sent = records.iter().map(|record| sdk.put(put(Operation::PutRecordBatch, &[record, b"y\n"])));
    for answer in futures_util::future::join_all(sent).await {
        assert_eq!(answer.unwrap(), Answer::default());
    }
    let mut lengths = Vec::new();
    for _ in &records {
        let seen = server.seen.recv().await.unwrap();
        assert_signed(&seen);
        lengths.push(seen.body.len());
    }
    lengths.sort_unstable();
    assert!(lengths.iter().zip(&records).all(|(body, record)| *body > record.len() / 3 * 4), "{lengths:?}");
}

#[tokio::test]
async fn a_put_of_nothing_is_not_sent() {
    let mut server = Server::start(vec![Act::Deliver]).await;
    let mut nothing = batch();
    nothing.spans = Arc::new([]);
    assert_eq!(server.sdk(true).put(nothing).await.unwrap(), Answer::default());
    assert!(server.seen.try_recv().is_err());
}

// R-E1
#[tokio::test]
async fn exactly_the_entries_with_an_error_code_failed() {
    let ids = [Some("a".to_owned()), None, Some("c".to_owned())];
    let server = Server::start(vec![Act::Say(200, answer(&ids))]).await;
    let failed =
        FailedEntry { index: 1, class: Class::Throttled, code: "ServiceUnavailableException".into() };
    for fast_body in [true, false] {
        let answer = server.sdk(fast_body).put(batch()).await.unwrap();
        assert_eq!(
            answer,
            Answer { failed: vec![failed.clone()], record_id: None },
            "fast_body = {fast_body}"
        );
    }
}

async fn failure(sdk: &Sdk) -> PutError {
    sdk.put(batch()).await.expect_err("the server does not deliver")
}

fn assert_failure(error: &PutError, class: Class, code: &str, ambiguous: bool) {
    let found = (error.class, &*error.code, error.ambiguous);
    assert_eq!(found, (class, code, ambiguous), "{error}");
    assert!(!error.message.contains(SECRET) && !error.message.contains("hello"), "{error}");
    assert!(!error.message.contains('\n'), "{error}");
}

// R-E5
#[tokio::test]
async fn an_error_answer_is_classified_by_its_code_or_else_its_status() {
    let json = |kind: &str| format!(r#"{{"__type":"{kind}","message":"m"}}"#);
    let html = || "<html><body>Bad gateway</body></html>".to_owned();
    let cases = [
        (503, json("ServiceUnavailableException"), Class::Throttled, "ServiceUnavailableException", false),
        (400, json("ThrottlingException"), Class::Throttled, "ThrottlingException", false),
        (
            400,
            json("com.amazonaws.firehose#LimitExceededException"),
            Class::Throttled,
            "LimitExceededException",
            false,
        ),
        (500, json("InternalFailure"), Class::Transient, "InternalFailure", true),
        (400, json("RequestExpired"), Class::Transient, "RequestExpired", false),
        (400, json("InvalidSignatureException"), Class::Transient, "InvalidSignatureException", false),
        (400, json("ResourceNotFoundException"), Class::Permanent, "ResourceNotFoundException", false),
        (400, json("AccessDeniedException"), Class::Permanent, "AccessDeniedException", false),
        (400, json("UnrecognizedClientException"), Class::Permanent, "UnrecognizedClientException", false),
        (400, json("InvalidKMSResourceException"), Class::Permanent, "InvalidKMSResourceException", false),
        (400, json("InvalidSourceException"), Class::Permanent, "InvalidSourceException", false),
        (400, json("InvalidArgumentException"), Class::Refused, "InvalidArgumentException", false),
        (400, json("SerializationException"), Class::Refused, "SerializationException", false),
        (413, html(), Class::Refused, "RequestEntityTooLarge", false),
        (429, html(), Class::Throttled, "TooManyRequestsException", false),
        (502, html(), Class::Transient, "http_502", true),
        (503, html(), Class::Transient, "http_503", true),
        (500, String::new(), Class::Transient, "http_500", true),
        (403, html(), Class::Permanent, "http_403", false),
        (301, String::new(), Class::Permanent, "http_301", false),
    ];
    for (status, body, class, code, ambiguous) in cases {
        let server = Server::start(vec![Act::Say(status, body)]).await;
        for fast_body in [true, false] {
            assert_failure(&failure(&server.sdk(fast_body)).await, class, code, ambiguous);
        }
    }
}

// R-B4
#[tokio::test]
async fn an_answer_that_cannot_be_trusted_delivers_nothing() {
    let two = answer(&[Some("a".into()), Some("b".into())]);
    let four = answer(&["a", "b", "c", "d"].map(|id| Some(id.to_owned())));
    let good = answer(&["a", "b", "c"].map(|id| Some(id.to_owned())));
    let bad = [
        String::new(),
        "<html>ok</html>".into(),
        "{}".into(),
        two,
        four,
        good[..good.len() - 2].into(),
        good.replace("\"FailedPutCount\":0", "\"FailedPutCount\":1"),
        good.replace("\"RecordId\":\"b\"", "\"Other\":\"b\""),
    ];
    for body in bad {
        let server = Server::start(vec![Act::Say(200, body)]).await;
        for fast_body in [true, false] {
            assert_failure(&failure(&server.sdk(fast_body)).await, Class::Transient, "response", true);
        }
    }
}

// R-E10
#[tokio::test]
async fn a_connection_that_breaks_may_have_delivered_and_one_that_never_was_has_not() {
    for act in [Act::ResetBefore, Act::ResetAfter] {
        let server = Server::start(vec![act]).await;
        assert_failure(&failure(&server.sdk(true)).await, Class::Transient, "connection", true);
    }
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let error = failure(&sdk(settings(format!("http://{closed}")))).await;
    assert_failure(&error, Class::Transient, "connection", false);
    assert!(error.message.contains(&closed.to_string()), "{error}");
}

// R-E10
#[tokio::test]
async fn a_host_that_does_not_exist_and_one_that_speaks_no_tls_got_nothing() {
    let error = failure(&sdk(settings("http://firehose.invalid".into()))).await;
    assert_failure(&error, Class::Transient, "dns", false);
    let server = Server::start(vec![Act::Deliver]).await;
    let error = failure(&sdk(settings(server.url().replace("http:", "https:")))).await;
    assert_failure(&error, Class::Transient, "tls", false);
}

#[tokio::test]
async fn an_endpoint_that_is_none_is_for_a_human_to_correct() {
    for endpoint in ["not a url", "example.com", "ftp://example.com", ""] {
        assert_failure(&failure(&sdk(settings(endpoint.into()))).await, Class::Permanent, "request", false);
    }
}

// R-B8
#[tokio::test]
async fn a_connection_that_is_not_accepted_in_time_carried_nothing() {
    let listener = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    listener.listen(0).unwrap();
    let address = listener.local_addr().unwrap();
    // Linux queues one connection more than the backlog says and then lets the others wait.
    let waiting = (0..4).map(|_| {
        let client = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        client.set_nonblocking(true).unwrap();
        client.connect(&address).ok();
        client
    });
    let _waiting: Vec<_> = waiting.collect();
    let url = format!("http://{}", address.as_socket().unwrap());
    let error = failure(&sdk(Settings { connect_timeout: Duration::from_millis(20), ..settings(url) })).await;
    assert_failure(&error, Class::Transient, "timeout", false);
}

// R-B8
#[tokio::test]
async fn no_attempt_outlasts_its_timeouts() {
    let server = Server::start(vec![Act::Stall]).await;
    let brief = Duration::from_millis(20);
    for settings in [
        Settings { read_timeout: brief, ..settings(server.url()) },
        Settings { attempt_timeout: brief, ..settings(server.url()) },
    ] {
        assert_failure(&failure(&sdk(settings)).await, Class::Transient, "timeout", true);
    }
}

/// Counts how often it was asked and names its keys after that.
#[derive(Debug, Clone, Default)]
struct Counting(Arc<AtomicUsize>);

impl ProvideCredentials for Counting {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        let key = format!("AKID{}", self.0.fetch_add(1, Ordering::Relaxed));
        future::ProvideCredentials::ready(Ok(Credentials::new(key, SECRET, None, None, "test")))
    }
}

// R-E14
#[tokio::test]
async fn credentials_that_the_service_calls_expired_are_not_used_again() {
    let expired = Act::Say(400, r#"{"__type":"ExpiredTokenException","message":"m"}"#.into());
    let denied = Act::Say(400, r#"{"__type":"AccessDeniedException","message":"m"}"#.into());
    let mut server = Server::start(vec![expired, denied, Act::Deliver]).await;
    let sdk = Sdk::new(settings(server.url())).with_credentials(Counting::default());
    for expected in ["AKID0", "AKID1", "AKID1"] {
        sdk.put(batch()).await.ok();
        let seen = server.seen.recv().await.unwrap();
        assert!(seen.headers["authorization"].contains(&format!("Credential={expected}/")), "{expected}");
    }
}

#[tokio::test]
async fn why_a_stream_cannot_be_described_is_told_apart() {
    let say = |kind: &str| Act::Say(400, format!(r#"{{"__type":"{kind}","message":"m"}}"#));
    let kinds = [
        "AccessDeniedException",
        "ResourceNotFoundException",
        "LimitExceededException",
        "ValidationException",
    ];
    let acts = kinds.map(say).into();
    let sdk = Server::start(acts).await.sdk(true);
    assert!(matches!(sdk.describe("s").await, Err(WatchError::Denied(_))));
    assert!(matches!(sdk.describe("s").await, Err(WatchError::Missing(_))));
    assert!(matches!(sdk.describe("s").await, Err(WatchError::Throttled(_))));
    assert!(matches!(sdk.describe("s").await, Err(WatchError::Failed(_))));
}

/// `hydrant put` with these arguments and these variables alone.
fn command(arguments: &[&str], variables: &[(&str, &str)]) -> Command {
    hydrant("put", arguments, variables)
}

fn hydrant(command: &str, arguments: &[&str], variables: &[(&str, &str)]) -> Command {
    let mut process = Command::new(env!("CARGO_BIN_EXE_hydrant"));
    process.env_clear().arg(command).args(arguments).stdin(Stdio::null());
    process.envs([("AWS_EC2_METADATA_DISABLED", "true"), ("HOME", "/nonexistent")]);
    process.envs(variables.iter().copied());
    process
}

const KEYS: [(&str, &str); 3] =
    [("AWS_ACCESS_KEY_ID", "AKID"), ("AWS_SECRET_ACCESS_KEY", SECRET), ("AWS_REGION", "eu-west-1")];

async fn output(arguments: &[&str], variables: &[(&str, &str)]) -> (Option<i32>, String, String) {
    run(command(arguments, variables)).await
}

async fn run(mut command: Command) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } =
        tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    (status.code(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

// R-S5
#[tokio::test]
async fn put_prints_the_record_id_and_tries_again_what_may_pass() {
    let throttled = Act::Say(503, r#"{"__type":"ServiceUnavailableException"}"#.into());
    let mut server = Server::start(vec![throttled, Act::Deliver]).await;
    let url = server.url();
    let (code, stdout, stderr) = output(&["--stream", "s", "--endpoint-url", &url, "hello"], &KEYS).await;
    assert_eq!((code, &*stdout), (Some(0), "id0\n"), "{stderr}");
    for message in
        ["Operation failed, retrying", "Operation succeeded", "Record ingested successfully record_id=id0"]
    {
        assert!(stderr.contains(message), "{stderr}");
    }
    let seen = server.seen.recv().await.unwrap();
    assert_eq!(seen.body, r#"{"DeliveryStreamName":"s","Record":{"Data":"aGVsbG8K"}}"#);
}

// R-S6
#[tokio::test]
async fn put_says_in_one_sentence_what_is_missing() {
    let check = async |arguments: &[&str], variables: &[(&str, &str)], code, expected: &str| {
        let (found, stdout, stderr) = output(arguments, variables).await;
        assert_eq!((found, &*stdout), (Some(code), ""), "{stderr}");
        assert!(stderr.starts_with("error: ") && stderr.contains(expected), "{stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
    };
    let at = &["--stream", "s", "--endpoint-url", "http://127.0.0.1:1", "x"];
    check(&["x"], &KEYS, 2, "`delivery_stream_name` is required").await;
    check(&["--stream", "s"], &KEYS, 2, "the record is empty").await;
    check(at, &KEYS[..2], 2, "no AWS region is configured; set `region`, or AWS_REGION").await;
    check(at, &KEYS[2..], 1, "no AWS credentials were found").await;
    check(at, &[KEYS[0], KEYS[1], KEYS[2], ("HTTP_PROXY", "socks5://a")], 1, "HTTP_PROXY is not the URL")
        .await;
}

// R-B9
#[tokio::test]
async fn requests_go_through_the_proxy_that_the_environment_names() {
    let (mut proxy, mut server) =
        (Server::start(vec![Act::Deliver]).await, Server::start(vec![Act::Deliver]).await);
    // This host by a name that no rule of ours exempts.
    let endpoint = format!("http://0.0.0.0:{}", server.address.port());
    let arguments = ["--stream", "s", "--endpoint-url", &endpoint, "x"];
    let proxy_url = format!("http://user:pass@{}", proxy.address);

    let with = |name, value| [KEYS.as_slice(), &[("HTTP_PROXY", proxy_url.as_str()), (name, value)]].concat();
    let (code, _, stderr) = output(&arguments, &with("NO_PROXY", "example.com")).await;
    assert_eq!(code, Some(0), "{stderr}");
    let seen = proxy.seen.recv().await.unwrap();
    assert_eq!(seen.line, format!("POST {endpoint}/"));
    assert_eq!(seen.headers["proxy-authorization"], "Basic dXNlcjpwYXNz");
    assert!(server.seen.try_recv().is_err());

    let (code, _, stderr) = output(&arguments, &with("NO_PROXY", "0.0.0.0")).await;
    assert_eq!(code, Some(0), "{stderr}");
    assert_eq!(server.seen.recv().await.unwrap().line, "POST /");
    assert!(proxy.seen.try_recv().is_err());
}

// R-B9
#[tokio::test]
async fn an_https_endpoint_is_reached_through_a_tunnel() {
    let mut proxy = Server::start(vec![Act::Say(403, String::new())]).await;
    let proxy_url = format!("http://{}", proxy.address);
    let variables = [KEYS.as_slice(), &[("https_proxy", proxy_url.as_str())]].concat();
    let mut child = command(&["--stream", "s", "x"], &variables).stderr(Stdio::null()).spawn().unwrap();
    let seen = proxy.seen.recv().await.unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(seen.line, "CONNECT firehose.eu-west-1.amazonaws.com:443");
}

// R-M16
#[tokio::test]
async fn doctor_finds_nothing_wrong_with_a_healthy_stream_and_names_what_is_wrong_with_another() {
    let check = async |acts, code, expected: &[&str]| {
        let server = Server::start(acts).await;
        let url = server.url();
        let variables = [KEYS.as_slice(), &[("AWS_ENDPOINT_URL_STS", url.as_str())]].concat();
        let doctor = hydrant("doctor", &["--stream", "app-logs", "--endpoint-url", &url], &variables);
        let (found, stdout, stderr) = run(doctor).await;
        assert_eq!(found, Some(code), "{stdout}{stderr}");
        for line in expected {
            assert!(stdout.lines().any(|found| found.starts_with(line)), "{line} in {stdout}");
        }
    };
    let refused = Act::Say(400, r#"{"__type":"ValidationException","message":"m"}"#.into());
    let denied = Act::Say(400, r#"{"__type":"AccessDeniedException","message":"m"}"#.into());
    let healthy = [
        "ok       region: eu-west-1",
        "ok       credentials: found, access key …AKID, which do not expire",
        "ok       identity: arn:aws:iam::1:user/u",
        "ok       network: http://127.0.0.1:",
        "ok       clock: ",
        "ok       firehose:DescribeDeliveryStream: allowed",
        "ok       firehose:PutRecordBatch: reached the service",
        "ok       stream: ACTIVE, DirectPut, delivers to S3",
    ];
    check(vec![Act::Deliver, Act::Deliver, refused], 0, &healthy).await;
    let broken = [
        "warning  firehose:DescribeDeliveryStream: not allowed",
        "problem  firehose:PutRecordBatch: the credentials do not allow firehose:PutRecordBatch",
    ];
    check(vec![Act::Deliver, denied], 1, &broken).await;
}
