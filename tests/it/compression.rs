//! Compressed records: what arrives are files that other programs read, and nothing else arrives.

use std::collections::HashMap;
use std::io::Write;
use std::process::{Command, Stdio};

use aws_sdk_firehose::types::{
    CompressionFormat, ExtendedS3DestinationConfiguration, ProcessingConfiguration, Processor, ProcessorType,
};
use hydrant::local::{CallFault, Faults, Local, Operation, Options};
use tempfile::TempDir;

use crate::daemon::{Daemon, STREAM, Sink, hydrant, line, lines, number};

const BYTES: usize = 200;
const RECORDS: usize = 10_000;

/// What Python's own reader makes of gzip files.
const PYTHON: &str = "import gzip, sys; sys.stdout.buffer.write(gzip.decompress(sys.stdin.buffer.read()))";

/// What `program` makes of `file`; `None` once it was said that it is not there.
fn read_by(program: &[&str], file: &[u8]) -> Option<Vec<u8>> {
    let mut command = Command::new(program[0]);
    command.args(&program[1..]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) if std::env::var_os("REQUIRE_PEERS").is_some() => panic!("{}: {error}", program[0]),
        Err(error) => {
            let skipped = format!("skipped: {} could not be run: {error}\n", program[0]);
            // Not a macro: what those print, the test runner keeps from whoever watches.
            std::io::stderr().write_all(skipped.as_bytes()).unwrap();
            return None;
        }
    };
    let mut stdin = child.stdin.take().unwrap();
    let input = file.to_vec();
    let writer = std::thread::spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    // gzip only warns of what it takes for no member.
    assert!(output.status.success(), "{program:?}: {}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{program:?}");
    Some(output.stdout)
}

/// How often each line is in `text`.
fn counted(text: &[u8]) -> HashMap<&[u8], usize> {
    let mut times = HashMap::new();
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        *times.entry(line).or_default() += 1;
    }
    times
}

async fn faults_leave_files(compression: &str, programs: &[&[&str]]) {
    let faults = Faults { fail_records: 0.3, throttle: 0.2, ..Faults::default() };
    let sink = Sink::start(Options { faults, ..Options::default() }).await;
    let compression = format!("aggregate.compression={compression}");
    let settings = [
        "aggregate.mode=auto",
        &compression,
        "aggregate.max_record=4KiB",
        "retry.base_delay=1ms",
        "retry.max_delay=5ms",
        "retry.max_retries=100",
        "linger=1ms",
    ];
    let daemon = Daemon::start(&sink.local.url(), &settings).await;
    // One that goes alone, one that can't be compressed, and many that can.
    let mut random = fastrand::Rng::with_seed(7);
    let odd: Vec<u8> = std::iter::repeat_with(|| random.u8(b' '..)).take(70_000).chain([b'\n']).collect();
    let parts = [line(RECORDS, BYTES), odd, lines(RECORDS, BYTES)];
    let mut sent = 0;
    for (part, records) in parts.iter().zip([1, 1, RECORDS as u64]) {
        daemon.write(part).await;
        sent += records;
        daemon.until_settled(sent).await;
    }
    let status = daemon.status().await;
    assert_eq!(number(&status, "/ledger/delivered/records"), sent, "{status:#}");
    assert!(!status["stream"]["retried"].as_object().unwrap().is_empty(), "nothing was tried again");
    let text = parts.concat();
    // What is said to have been compressed is what was sent and what arrived.
    assert_eq!(number(&status, "/stream/compression/input_bytes"), text.len() as u64);
    assert_eq!(daemon.metric("hydrant_compression_input_bytes_total").await, text.len() as u64);
    let compressed = daemon.metric("hydrant_compression_output_bytes_total").await;
    assert_eq!(number(&status, "/stream/compression/output_bytes"), compressed);
    assert!(daemon.stop().await.status.success());
    let mut objects = sink.objects().await;
    assert_eq!(objects.iter().map(Vec::len).sum::<usize>() as u64, compressed);
    for program in programs {
        // In whatever order objects are put together, they are one file.
        objects.reverse();
        let Some(read) = read_by(program, &objects.concat()) else { continue };
        let (read, sent) = (counted(&read), counted(&text));
        assert!(read == sent, "{program:?} read {} lines of {}", read.len(), sent.len());
    }
}

// R-A7, R-A9
#[tokio::test]
async fn what_arrives_is_a_gzip_file_with_each_line_once() {
    faults_leave_files("gzip", &[&["gzip", "-dc"], &["python3", "-c", PYTHON]]).await;
}

// R-A7
#[tokio::test]
async fn what_arrives_is_a_zstd_file_with_each_line_once() {
    faults_leave_files("zstd", &[&["zstd", "-dcq"]]).await;
}

// R-A9
#[tokio::test]
async fn compressed_records_are_billed_by_what_is_sent() {
    let sink = Sink::start(Options::default()).await;
    let settings = ["aggregate.mode=on", "aggregate.compression=zstd", "send.max_in_flight=1"];
    let daemon = Daemon::start(&sink.local.url(), &settings).await;
    daemon.write(&lines(RECORDS, BYTES)).await;
    let status = daemon.until_settled(RECORDS as u64).await;
    let (billed, seen) = (number(&status, "/stream/billed_bytes"), sink.local.counts().total());
    // These lines differ by their numbers only.
    assert!(billed * 10 < (RECORDS * BYTES) as u64, "{billed}");
    assert!(billed >= seen.bytes && billed <= seen.bytes + seen.records * 5 * 1024, "{billed} of {seen:?}");
    assert!(daemon.stop().await.status.success());
}

/// A service whose stream delivers as `with` says.
async fn sink_that(
    with: impl FnOnce(
        aws_sdk_firehose::types::builders::ExtendedS3DestinationConfigurationBuilder,
    ) -> aws_sdk_firehose::types::builders::ExtendedS3DestinationConfigurationBuilder,
) -> (Local, TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let options =
        Options { directory: Some(directory.path().to_owned()), streams: vec![], ..Options::default() };
    let local = Local::start(options).await.unwrap();
    let destination = ExtendedS3DestinationConfiguration::builder()
        .role_arn("arn:aws:iam::123456789012:role/firehose")
        .bucket_arn("arn:aws:s3:::app");
    let client = crate::startup::client(&local.url());
    let create = client.create_delivery_stream().delivery_stream_name(STREAM);
    let destination = with(destination).build().unwrap();
    create.extended_s3_destination_configuration(destination).send().await.unwrap();
    (local, directory)
}

fn processing(kind: ProcessorType) -> ProcessingConfiguration {
    let processor = Processor::builder().r#type(kind).build().unwrap();
    ProcessingConfiguration::builder().enabled(true).processors(processor).build()
}

async fn doctor_of(local: &Local, compression: &str) -> (bool, String) {
    let mut doctor = hydrant();
    doctor.args(["doctor", "--stream", STREAM, "--endpoint-url", &local.url()]);
    let output =
        doctor.args(["--set", &format!("aggregate.compression={compression}")]).output().await.unwrap();
    (output.status.success(), String::from_utf8(output.stdout).unwrap())
}

// R-A8
#[tokio::test]
async fn nothing_is_sent_to_a_stream_that_would_spoil_it_and_doctor_says_why() {
    let (local, directory) =
        sink_that(|to| to.processing_configuration(processing(ProcessorType::Lambda))).await;
    let (fine, said) = doctor_of(&local, "gzip").await;
    assert!(!fine && said.contains("the stream's Lambda reads what records say"), "{said}");
    assert!(said.contains("take the processor off the stream"), "{said}");
    for mode in ["aggregate.mode=auto", "aggregate.mode=on"] {
        let settings = [mode, "aggregate.compression=gzip", "linger=1ms", "shutdown.drain=1ms"];
        let daemon = Daemon::start(&local.url(), &settings).await;
        daemon.write(&lines(10, BYTES)).await;
        let status = daemon.until("held", |status| status["stream"]["trouble"].is_object()).await;
        assert_eq!(status["stream"]["trouble"]["error_code"], "compression", "{status:#}");
        let (code, reasons) = daemon.get("/readyz").await;
        assert!(code == 503 && reasons.contains("Lambda"), "{code} {reasons}");
        daemon.until("received", |status| status["ledger"]["held"]["records"] == 10).await;
        let ended = daemon.stop().await;
        assert_eq!(
            ended.said("Records are held, for they may not be compressed.").len(),
            1,
            "{:#?}",
            ended.log
        );
    }
    assert_eq!(local.counts().total().records, 0);
    local.stop().await.unwrap();
    drop(directory);
}

// R-A8
#[tokio::test]
async fn doctor_finds_each_thing_that_compressed_records_do_not_survive() {
    let (local, _directory) = sink_that(|to| to.compression_format(CompressionFormat::Gzip)).await;
    let (fine, said) = doctor_of(&local, "zstd").await;
    assert!(!fine && said.contains("compressed twice"), "{said}");
    assert!(said.contains("set the stream's CompressionFormat to UNCOMPRESSED"), "{said}");

    let partitioned =
        aws_sdk_firehose::types::DynamicPartitioningConfiguration::builder().enabled(true).build();
    let (local, _directory) = sink_that(|to| to.dynamic_partitioning_configuration(partitioned)).await;
    let (fine, said) = doctor_of(&local, "gzip").await;
    assert!(!fine && said.contains("partitions by what records say"), "{said}");

    let (local, _directory) = sink_that(|to| to).await;
    let (fine, said) = doctor_of(&local, "gzip").await;
    assert!(fine && said.contains("set the stream's FileExtension to .gz"), "{said}");
    let (local, _directory) = sink_that(|to| to.file_extension(".json.gz")).await;
    let (fine, said) = doctor_of(&local, "gzip").await;
    assert!(fine && said.contains("end with .json.gz"), "{said}");
}

// R-A8
#[tokio::test]
async fn what_is_to_be_compressed_waits_until_the_stream_is_known() {
    let calls = vec![(Operation::DescribeDeliveryStream, CallFault::Garbage)];
    let faults = Faults { calls, ..Faults::default() };
    let sink = Sink::start(Options { faults, ..Options::default() }).await;
    let settings = ["aggregate.mode=auto", "aggregate.compression=gzip", "linger=1ms", "monitor.interval=1s"];
    let daemon = Daemon::start(&sink.local.url(), &settings).await;
    daemon.write(&lines(10, BYTES)).await;
    let status = daemon.until("held", |status| status["stream"]["trouble"].is_object()).await;
    let message = status["stream"]["trouble"]["message"].as_str().unwrap();
    assert!(message.contains("allow firehose:DescribeDeliveryStream"), "{message}");
    sink.local.set_faults(Faults::default());
    daemon.until_settled(10).await;
    assert_eq!(daemon.get("/readyz").await.0, 200);
    assert!(daemon.stop().await.status.success());
    assert!(read_by(&["gzip", "-dc"], &sink.delivered().await).is_none_or(|read| read == lines(10, BYTES)));
}

// R-A7
#[tokio::test]
async fn a_record_that_is_put_alone_is_a_member_like_the_daemons() {
    let sink = Sink::start(Options::default()).await;
    let mut put = hydrant();
    put.args(["put", "--stream", STREAM, "--endpoint-url", &sink.local.url(), "a record"]);
    let output = put.args(["--set", "aggregate.compression=gzip"]).output().await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let delivered = sink.delivered().await;
    assert!(read_by(&["gzip", "-dc"], &delivered).is_none_or(|read| read == b"a record\n"));
    assert!(delivered.starts_with(&[0x1F, 0x8B]));
}
