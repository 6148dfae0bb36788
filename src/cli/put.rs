//! `hydrant put`: one record, from the command line or standard input.

use std::ffi::OsString;
use std::io::Read;
use std::os::unix::ffi::OsStringExt;
use std::sync::Arc;

use bytes::Bytes;

use super::options::{TargetOptions, say};
use crate::budget::Reservation;
use crate::config::{Config, RetryConfig};
use crate::firehose::{Answer, Class, Firehose, Operation, Put, PutError, Sdk, Settings};
use crate::limits;
use crate::record::{Chunk, Span};
use crate::sender::backoff::Backoff;
use crate::sender::compression::{CompressionError, Compressor, MAX_CONTENT_BYTES};
use crate::telemetry::now;

/// Sends one record to the delivery stream and prints its record id.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: hydrant put --stream app-logs --region eu-west-1 '{\"level\":\"info\"}'")]
pub struct Args {
    /// The record; without it, standard input to its end.
    data: Option<OsString>,
    #[command(flatten)]
    target: TargetOptions,
}

/// Runs the command; returns the exit code.
pub fn execute(args: Args) -> u8 {
    let (config, runtime) = match args.target.ready() {
        Ok(ready) => ready,
        Err(code) => return code,
    };
    let most = config.aggregate.compression.map_or(limits::MAX_RECORD_BYTES, |_| MAX_CONTENT_BYTES);
    let result = record(args.data, &config.delimiter, most).and_then(|record| {
        let sdk = Sdk::new(Settings::from(&config));
        let one = compressed(one(&config, record), &config)?;
        Ok(runtime.block_on(put(&sdk, &config, one, |line| say(&line)))?)
    });
    match result {
        Ok(id) => {
            say(&format!("Record ingested successfully record_id={id}"));
            super::print(&format!("{id}\n"))
        }
        Err(failure) => {
            say(&format!("error: {failure}"));
            failure.exit_code()
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{0}")]
    Usage(String),
    #[error("{0}")]
    Running(String),
    #[error("{}", .0.message)]
    Put(#[from] PutError),
    #[error("{0}")]
    Compression(#[from] CompressionError),
}

impl Failure {
    fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) => super::USAGE,
            Self::Put(error) if error.code == "region" => super::USAGE,
            Self::Running(_) | Self::Put(_) | Self::Compression(_) => super::FAILED,
        }
    }
}

/// The record's wire form of at most `most` bytes: `data`, or else standard input, and the delimiter unless
/// it ends so.
fn record(data: Option<OsString>, delimiter: &[u8], most: usize) -> Result<Vec<u8>, Failure> {
    let mut record = Vec::new();
    match data {
        Some(data) => record = data.into_vec(),
        None => {
            // One byte more than fits is enough to see that it does not.
            let mut input = std::io::stdin().lock().take(most as u64 + 1);
            let read = input.read_to_end(&mut record);
            read.map_err(|error| Failure::Running(format!("standard input could not be read: {error}")))?;
        }
    }
    if record.is_empty() {
        return Err(Failure::Usage("the record is empty; pass DATA, or write it to standard input".into()));
    }
    if !record.ends_with(delimiter) {
        record.extend_from_slice(delimiter);
    }
    if record.len() > most {
        return Err(Failure::Usage(format!(
            "the record is larger than {most} bytes, the delimiter included"
        )));
    }
    Ok(record)
}

// snippet-start:[firehose.rust.hydrant.put_with_retries]
/// Makes the attempt `put`, with retries of what may pass that `say` is told of, and returns its id.
async fn put(
    firehose: &impl Firehose,
    config: &Config,
    put: Put,
    mut say: impl FnMut(String),
) -> Result<String, PutError> {
    let RetryConfig { base_delay, max_delay, jitter, .. } = config.retry;
    let backoff = Backoff { base: base_delay, max: max_delay, jitter };
    let mut random = fastrand::Rng::new();
    let mut retry = 0;
    loop {
        match firehose.put(put.clone()).await {
            Ok(Answer { record_id, .. }) => {
                if retry > 0 {
                    say(format!("Operation succeeded retries={retry}"));
                }
                return Ok(record_id.unwrap_or_default());
            }
            Err(error) if !matches!(error.class, Class::Throttled | Class::Transient) => return Err(error),
            Err(error) if retry == config.retry.max_retries => {
                say(format!("Maximum retries exceeded records=1 error_code={}", error.code));
                return Err(error);
            }
            Err(error) => {
                retry += 1;
                let delay = backoff.delay(retry, &mut random);
                let (delay_ms, code) = (delay.as_millis(), &error.code);
                say(format!(
                    "Operation failed, retrying delay_ms={delay_ms} attempt={retry} error_code={code}"
                ));
                tokio::time::sleep(delay).await;
            }
        }
    }
}
// snippet-end:[firehose.rust.hydrant.put_with_retries]

/// The attempt at sending `record` alone.
fn one(config: &Config, record: Vec<u8>) -> Put {
    let ends = u32::try_from(record.len()).into_iter().collect();
    let chunk = Chunk::new(Bytes::from(record), ends, now(), Reservation::none());
    Put {
        stream: Arc::from(config.delivery_stream_name.as_str()),
        operation: Operation::PutRecord,
        spans: Span::whole(Arc::new(chunk)).into_iter().collect(),
        packed: None,
        members: None,
    }
}

/// What is put of `put`: its record, or the compressed member that it is among those of the daemon.
fn compressed(put: Put, config: &Config) -> Result<Put, CompressionError> {
    let Some(compression) = config.aggregate.compression else { return Ok(put) };
    let members = Compressor::new(compression)?.members(&put)?;
    Ok(Put { members: Some(members.into()), ..put })
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;
    use std::sync::Mutex;

    use super::*;
    use crate::config::Sources;

    // R-S4
    #[test]
    fn the_delimiter_is_appended_once() {
        let check = |data: &str, delimiter: &[u8], expected: &[u8]| {
            assert_eq!(record(Some(data.into()), delimiter, 100).expect(data), expected);
        };
        check("a", b"\n", b"a\n");
        check("a\n", b"\n", b"a\n");
        check("a", b"", b"a");
    }

    // R-S6
    #[test]
    fn a_record_that_firehose_cannot_take_is_wrong_usage() {
        let check = |bytes: usize, expected: Option<u8>| {
            let result = record(Some("x".repeat(bytes).into()), b"\n", limits::MAX_RECORD_BYTES);
            assert_eq!(result.err().map(|failure| failure.exit_code()), expected, "{bytes} bytes");
        };
        check(0, Some(super::super::USAGE));
        check(1_023_999, None);
        check(1_024_000, Some(super::super::USAGE));
    }

    fn config() -> Config {
        let sources = Sources { set: vec!["delivery_stream_name=s".into()], ..Sources::default() };
        crate::config::load(&sources).expect("the stream is named").config
    }

    /// Answers with the given errors in turn, then with an id.
    struct Failing(Mutex<Vec<Class>>);

    impl Firehose for Failing {
        async fn put(&self, _: Put) -> Result<Answer, PutError> {
            match self.0.lock().expect("no test panics with it").pop() {
                None => Ok(Answer { failed: Vec::new(), record_id: Some("id".into()) }),
                Some(class) => Err(PutError {
                    class,
                    code: Cow::Borrowed("code"),
                    message: "message".into(),
                    ambiguous: false,
                }),
            }
        }
    }

    // R-S5
    #[tokio::test(start_paused = true)]
    async fn what_may_pass_is_tried_six_times_and_what_will_not_once() {
        const RETRYING: &str = "Operation failed, retrying";
        const SUCCEEDED: &str = "Operation succeeded";
        const EXCEEDED: &str = "Maximum retries exceeded";
        let six = |last| [vec![RETRYING; 5], vec![last]].concat();
        for (failures, class, left, messages) in [
            (0, Class::Transient, Ok("id"), vec![]),
            (5, Class::Throttled, Ok("id"), six(SUCCEEDED)),
            (5, Class::Transient, Ok("id"), six(SUCCEEDED)),
            (7, Class::Transient, Err(1), six(EXCEEDED)),
            (7, Class::Permanent, Err(6), vec![]),
            (7, Class::Refused, Err(6), vec![]),
        ] {
            let firehose = Failing(Mutex::new(vec![class; failures]));
            let mut said = Vec::new();
            let say = |line: String| said.push(line);
            let result = put(&firehose, &config(), one(&config(), b"a\n".to_vec()), say).await;
            let unasked = firehose.0.lock().expect("no test panics with it").len();
            assert_eq!(result.as_deref().map_err(|_| unasked), left, "{failures} times {class:?}");
            assert!(said.len() == messages.len(), "{said:?}");
            assert!(said.iter().zip(messages).all(|(line, message)| line.starts_with(message)), "{said:?}");
        }
    }
}
