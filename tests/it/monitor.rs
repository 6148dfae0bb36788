//! The daemon's look at its stream, and what it shows of itself in CloudWatch. Delivery never
//! depends on either.

use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use aws_sdk_cloudwatch::types::Statistic;
use hydrant::local::{CallFault, Faults, Operation, Options, Outcome};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::daemon::{Daemon, STREAM, Sink, hydrant, lines, number};

const ALL: [Operation; 3] =
    [Operation::DescribeDeliveryStream, Operation::GetMetricData, Operation::PutMetricData];

fn faults(calls: &[(Operation, CallFault)]) -> Options {
    Options { faults: Faults { calls: calls.to_vec(), ..Faults::default() }, ..Options::default() }
}

/// Everything that is written is delivered, and the daemon is as ready and alive as without a
/// monitor.
async fn check_delivery(daemon: Daemon, sink: &Sink) {
    daemon.write(&lines(2000, 100)).await;
    daemon.until_settled(2000).await;
    assert_eq!((daemon.get("/readyz").await.0, daemon.get("/livez").await.0), (200, 200));
    assert!(daemon.stop().await.status.success());
    assert_eq!(sink.lines().await.len(), 2000);
}

/// How often the service was asked for `operation`.
fn asked(sink: &Sink, operation: Operation) -> usize {
    sink.local.requests().iter().filter(|request| request.operation == Some(operation)).count()
}

// R-M5
#[tokio::test]
async fn what_the_stream_takes_is_logged_exported_and_shown() {
    let sink = Sink::start(Options { quota_bytes: Some(7 << 20), ..Options::default() }).await;
    let mut daemon = Daemon::start(&sink.local.url(), &["linger=1ms", "monitor.interval=1s"]).await;
    daemon.write(&lines(1000, 100)).await;
    daemon.until_settled(1000).await;
    let said = loop {
        let said = daemon.until_said("Ingestion metrics").await;
        if !said["incoming_records"].is_null() {
            break said;
        }
    };
    // As many as came in within one minute of the clock: all, unless it has just turned.
    let (records, bytes) =
        (said["incoming_records"].as_f64().unwrap(), said["incoming_bytes"].as_f64().unwrap());
    assert!(records > 0.0 && records <= 1000.0 && bytes == 100.0 * records, "{said}");
    let status = daemon.until("described", |status| status["monitor"]["status"] == "ACTIVE").await;
    let monitor = &status["monitor"];
    assert_eq!(
        (&monitor["type"], &monitor["destination"]),
        (&"DirectPut".into(), &"S3".into()),
        "{monitor:#}"
    );
    assert_eq!(monitor["readings"]["bytes_per_second_limit"]["value"], f64::from(7 << 20), "{monitor:#}");
    assert!(monitor["quota_use"]["bytes"].as_f64().unwrap() > 0.0, "{monitor:#}");
    assert_eq!(monitor["readings"]["throttled_records"], Value::Null, "no datapoint is unknown");
    let metrics = daemon.get("/metrics").await.1;
    for line in [
        "hydrant_stream_bytes_per_second_limit 7340032.0",
        "hydrant_stream_status{status=\"ACTIVE\"} 1",
        "hydrant_stream_status{status=\"DELETING\"} 0",
        "hydrant_monitor_calls_total{action=\"DescribeDeliveryStream\",outcome=\"ok\"} ",
    ] {
        assert!(metrics.lines().any(|have| have.starts_with(line)), "no {line} in\n{metrics}");
    }
    assert!(!metrics.lines().any(|line| line.starts_with("hydrant_stream_throttled_records ")), "{metrics}");
    assert!(daemon.stop().await.status.success());
}

// R-M6
#[tokio::test]
async fn each_missing_permission_is_said_once_by_name_with_what_it_costs() {
    let denied = ALL.map(|operation| (operation, CallFault::Denied));
    let sink = Sink::start(faults(&denied)).await;
    let settings = ["linger=1ms", "monitor.interval=1s", "monitor.publish_namespace=apps"];
    let mut daemon = Daemon::start(&sink.local.url(), &settings).await;
    let mut said = Vec::new();
    for _ in ALL {
        said.push(daemon.until_said("Permission missing, delivery goes on.").await);
    }
    for (permission, costs) in [
        ("firehose:DescribeDeliveryStream", "status"),
        ("cloudwatch:GetMetricData", "quotas"),
        ("cloudwatch:PutMetricData", "nothing is published"),
    ] {
        let line = said.iter().find(|line| line["permission"] == permission).unwrap();
        assert!(line["costs"].as_str().unwrap().contains(costs), "{line}");
        assert_eq!(line["level"], "WARN");
    }
    let problems = daemon.status().await["monitor"]["problems"].clone();
    assert_eq!(problems.as_object().unwrap().len(), 3, "{problems:#}");
    let log = daemon.log();
    assert_eq!(
        log.iter().filter(|line| line["message"] == "Permission missing, delivery goes on.").count(),
        3
    );
    check_delivery(daemon, &sink).await;
}

// R-M7
#[tokio::test]
async fn monitoring_that_is_throttled_or_answered_with_garbage_costs_no_record() {
    for (fault, words) in [(CallFault::Throttled, "takes no more"), (CallFault::Garbage, "could not be read")]
    {
        let sink = Sink::start(faults(&ALL.map(|operation| (operation, fault)))).await;
        let mut daemon = Daemon::start(&sink.local.url(), &["linger=1ms", "monitor.interval=1s"]).await;
        let actions = [daemon.until_said(FAILED).await, daemon.until_said(FAILED).await];
        let names = actions.each_ref().map(|line| line["action"].as_str().unwrap());
        assert_eq!(names, ["DescribeDeliveryStream", "GetMetricData"]);
        assert!(actions[1]["error"].as_str().unwrap().contains(words), "{}", actions[1]);
        check_delivery(daemon, &sink).await;
    }
}

const FAILED: &str = "Monitoring failed, delivery goes on.";

// R-M7
#[tokio::test]
async fn a_cloudwatch_that_never_answers_holds_up_neither_delivery_nor_the_end() {
    let sink = Sink::start(faults(&ALL.map(|operation| (operation, CallFault::Silence)))).await;
    let settings = ["linger=1ms", "monitor.interval=1s", "monitor.publish_namespace=apps"];
    let daemon = Daemon::start(&sink.local.url(), &settings).await;
    check_delivery(daemon, &sink).await;
}

// R-M7
#[tokio::test]
async fn a_cloudwatch_out_of_reach_is_said_and_costs_no_record() {
    let sink = Sink::start(Options::default()).await;
    let nowhere = "monitor.endpoint_url=http://127.0.0.1:1";
    let mut daemon = Daemon::start(&sink.local.url(), &["linger=1ms", "monitor.interval=1s", nowhere]).await;
    let said = daemon.until_said(FAILED).await;
    assert_eq!(said["action"], "GetMetricData", "{said}");
    assert!(said["error"].as_str().unwrap().contains("could not be connected to"), "{said}");
    let status = daemon.status().await;
    assert_eq!(status["monitor"]["status"], "ACTIVE", "what can be known is known: {:#}", status["monitor"]);
    check_delivery(daemon, &sink).await;
}

// R-M9
#[tokio::test]
async fn an_interval_of_zero_asks_for_nothing_but_once_whether_records_may_be_packed() {
    for (mode, asked_for) in [("off", [0; 3]), ("auto", [1, 0, 0])] {
        let sink = Sink::start(Options::default()).await;
        let mode = format!("aggregate.mode={mode}");
        let daemon = Daemon::start(&sink.local.url(), &["linger=1ms", "monitor.interval=0s", &mode]).await;
        daemon.write(b"one\n").await;
        daemon.until("decided", |status| status["stream"]["packing"].is_object()).await;
        let status = daemon.until_settled(1).await;
        assert_eq!(status["monitor"], Value::Null);
        assert!(daemon.stop().await.status.success());
        assert_eq!(ALL.map(|operation| asked(&sink, operation)), asked_for);
    }
}

// R-M8
#[tokio::test]
async fn what_is_published_adds_up_to_the_ledger() {
    let sink = Sink::start(Options::default()).await;
    let publish = "monitor.publish_namespace=My Apps/hydrant";
    let settings = ["linger=1ms", "monitor.interval=1s", publish, "aggregate.mode=off"];
    let daemon = Daemon::start(&sink.local.url(), &settings).await;
    for round in 1..=3usize {
        daemon.write(&lines(700, 100)).await;
        daemon.until_settled(700 * round as u64).await;
        // The next part is written after the publication of this one.
        let published =
            |status: &Value| status["monitor"]["problems"].as_object().is_some_and(|p| p.is_empty());
        daemon
            .until("published", |status| published(status) && asked(&sink, Operation::PutMetricData) >= round)
            .await;
    }
    let ended = daemon.stop().await;
    assert!(ended.status.success(), "{:#?}", ended.log);
    let sum = async |name: &str, statistic: Statistic| -> f64 {
        let now = SystemTime::now();
        let call = cloudwatch(&sink).get_metric_statistics().namespace("My Apps/hydrant").metric_name(name);
        let dimension = aws_sdk_cloudwatch::types::Dimension::builder();
        let call = call.dimensions(dimension.name("DeliveryStreamName").value(STREAM).build());
        let call = call.start_time((now - Duration::from_secs(3600)).into());
        let call = call.end_time((now + Duration::from_secs(60)).into()).period(60);
        let output = call.statistics(statistic.clone()).send().await.unwrap();
        output.datapoints().iter().map(|point| point.sum().or(point.sample_count()).unwrap()).sum()
    };
    assert_eq!(sum("RecordsReceived", Statistic::Sum).await, 2100.0);
    assert_eq!(sum("RecordsDelivered", Statistic::Sum).await, 2100.0);
    assert_eq!(sum("BytesDelivered", Statistic::Sum).await, 210_000.0);
    assert_eq!(sum("BilledBytes", Statistic::Sum).await, 2100.0 * 5120.0);
    assert_eq!(sum("RecordsDropped", Statistic::Sum).await, 0.0);
    assert_eq!(sum("DeliveryLatency", Statistic::SampleCount).await, 2100.0);
    assert!(sum("RecordsHeld", Statistic::SampleCount).await >= 3.0);
}

/// The embedded service plays an HTTP proxy, through which AWS's own endpoint would be reached: to
/// that the daemon speaks CBOR, as the SDK does, and to everything else JSON.
// R-M10
#[tokio::test]
async fn awss_own_endpoint_is_spoken_to_as_the_sdk_does() {
    let sink = Sink::start(Options::default()).await;
    let mut command = hydrant();
    let (proxy, heard) = eavesdrop(&sink).await;
    command.env("HTTP_PROXY", format!("http://{proxy}"));
    let directory = tempfile::tempdir().unwrap();
    let address = format!("listen.app.address=unix:{}", directory.path().join("app.sock").display());
    let endpoint = format!("endpoint_url={}", sink.local.url());
    let settings = [
        &*address,
        &endpoint,
        "linger=1ms",
        "monitor.interval=1s",
        "monitor.publish_namespace=apps",
        "monitor.endpoint_url=http://monitoring.us-east-1.amazonaws.com",
    ];
    let daemon = Daemon::run(command, directory, settings).await;
    daemon.write(&lines(10, 100)).await;
    daemon.until_settled(10).await;
    let known = |status: &Value| !status["monitor"]["readings"]["incoming_records"].is_null();
    let status = daemon.until("read", known).await;
    assert_eq!(status["monitor"]["problems"], serde_json::json!({}), "{:#}", status["monitor"]);
    assert!(daemon.stop().await.status.success());
    let put = Operation::PutMetricData;
    let published = sink.local.requests().into_iter().filter(|request| request.operation == Some(put));
    let published: Vec<_> = published.map(|request| request.outcome).collect();
    assert!(!published.is_empty());
    assert!(published.iter().all(|outcome| *outcome == Outcome::Answered { failed: 0 }), "{published:?}");
    let heard = heard.lock().unwrap().clone();
    let said = |words: &str| memchr::memmem::find(&heard, words.as_bytes()).is_some();
    for operation in ["GetMetricData", "PutMetricData"] {
        assert!(
            said(&format!("/service/GraniteServiceVersion20100801/operation/{operation}")),
            "{operation}"
        );
    }
    assert!(said("application/cbor") && !said("application/x-amz-json-1.0"));
}

/// Passes connections on to the service; its address, and all that clients said.
async fn eavesdrop(sink: &Sink) -> (SocketAddr, Arc<Mutex<Vec<u8>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, service) = (listener.local_addr().unwrap(), sink.local.address());
    let heard = Arc::new(Mutex::new(Vec::new()));
    let hears = Arc::clone(&heard);
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let hears = Arc::clone(&hears);
            tokio::spawn(async move {
                let (mut says, mut is_told) = client.into_split();
                let (mut answers, mut is_asked) = TcpStream::connect(service).await.unwrap().into_split();
                let asking = async {
                    let mut piece = vec![0; 64 * 1024];
                    while let Ok(read @ 1..) = says.read(&mut piece).await {
                        hears.lock().unwrap().extend_from_slice(&piece[..read]);
                        if is_asked.write_all(&piece[..read]).await.is_err() {
                            break;
                        }
                    }
                    is_asked.shutdown().await.ok();
                };
                tokio::join!(asking, tokio::io::copy(&mut answers, &mut is_told)).1.ok();
            });
        }
    });
    (address, heard)
}

fn cloudwatch(sink: &Sink) -> aws_sdk_cloudwatch::Client {
    use aws_sdk_cloudwatch::config::{BehaviorVersion, Credentials, Region};
    let config = aws_sdk_cloudwatch::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("us-east-1"))
        .credentials_provider(Credentials::new("test", "test", None, None, "test"))
        .http_client(aws_smithy_http_client::Builder::new().build_http())
        .endpoint_url(sink.local.url());
    aws_sdk_cloudwatch::Client::from_conf(config.build())
}

/// Exit code, standard output and standard error of `hydrant status` for the stream of `sink`.
async fn status(sink: &Sink, arguments: &[&str]) -> (i32, String, String) {
    let url = sink.local.url();
    let mut command = hydrant();
    command.args(["status", "--endpoint-url", &url]).args(arguments).stdin(Stdio::null());
    let output = command.output().await.unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

// R-M15
#[tokio::test]
async fn status_shows_the_stream_and_its_metrics_once() {
    let sink = Sink::start(Options { quota_bytes: Some(5 << 20), ..Options::default() }).await;
    let daemon = Daemon::start(&sink.local.url(), &["linger=1ms", "monitor.interval=0s"]).await;
    daemon.write(&lines(100, 1000)).await;
    daemon.until_settled(100).await;
    assert!(daemon.stop().await.status.success());
    let (code, text, errors) = status(&sink, &["--stream", STREAM]).await;
    assert_eq!((code, &*errors), (0, ""), "{text}");
    for words in
        ["ACTIVE", "DirectPut", "S3", "Ingestion metrics", " a minute", "% of the quota of 5,242,880"]
    {
        assert!(text.contains(words), "no {words:?} in\n{text}");
    }
    let (code, json, _) = status(&sink, &["--stream", STREAM, "--json"]).await;
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!((code, &json["description"]["status"]), (0, &"ACTIVE".into()), "{json:#}");
    let records = json["readings"]["incoming_records"]["value"].as_f64().unwrap();
    assert!(records > 0.0 && records <= 100.0, "{json:#}");
    assert_eq!(number(&json, "/description/buffering_seconds"), 60);
}

// R-V11
#[tokio::test]
async fn status_shows_each_of_several_streams_and_names_the_one_that_is_not_there() {
    let streams = vec!["audit".to_owned()];
    let sink = Sink::start(Options { streams, ..Options::default() }).await;
    let several = ["--stream", STREAM, "--set", "route.field=kind", "--set", "route.streams=a=audit"];
    let (code, text, errors) = status(&sink, &several).await;
    assert_eq!((code, &*errors), (0, ""), "{text}");
    for stream in [STREAM, "audit"] {
        assert!(text.contains(&format!("Delivery stream {stream}\n  status        ACTIVE\n")), "{text}");
    }
    let (code, text, errors) =
        status(&sink, &[&several[..], &["--set", "route.otherwise=gone"]].concat()).await;
    assert_eq!((code, text.matches("Delivery stream ").count()), (1, 2), "{text}");
    assert!(
        errors.starts_with("error: delivery stream gone: ") && errors.contains("was not found"),
        "{errors}"
    );
    let (_, json, _) = status(&sink, &[&several[..], &["--json"]].concat()).await;
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(
        (&json["delivery_stream_name"], &json["streams"][1]["delivery_stream_name"]),
        (&STREAM.into(), &"audit".into())
    );
}

// R-M15
#[tokio::test]
async fn status_says_what_it_could_not_find_out() {
    let sink = Sink::start(faults(&[(Operation::DescribeDeliveryStream, CallFault::Denied)])).await;
    let (code, text, errors) = status(&sink, &["--stream", STREAM]).await;
    assert_eq!(code, 0, "{text}{errors}");
    assert!(errors.contains("warning: ") && errors.contains("firehose:DescribeDeliveryStream"), "{errors}");
    assert!(text.contains("status        unknown"), "{text}");

    sink.local.set_faults(Faults::default());
    let (code, text, errors) = status(&sink, &["--stream", "missing"]).await;
    assert_eq!((code, &*text), (1, ""), "{errors}");
    assert!(errors.starts_with("error: delivery stream `missing` was not found"), "{errors}");

    sink.local.set_down(true).await.unwrap();
    let (code, text, errors) = status(&sink, &["--stream", STREAM]).await;
    assert_eq!((code, &*text), (1, ""), "{errors}");
    assert_eq!(errors.lines().count(), 2, "{errors}");
}
