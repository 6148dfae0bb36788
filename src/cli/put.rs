//! `hydrant put`: one record, from the command line or standard input.

use std::ffi::OsString;
use std::fmt;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStringExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::budget::Reservation;
use crate::config::{
    BufferConfig, Config, DeadLetterConfig, LogConfig, LogFormat, OnFull, RetryConfig, SendConfig,
};
use crate::firehose::{Answer, Class, Firehose, Operation, Put, PutError, Sdk, Settings};
use crate::limits;
use crate::record::{Chunk, Span};

/// Sends one record to the delivery stream and prints its record id.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: hydrant put --stream app-logs --region eu-west-1 '{\"level\":\"info\"}'")]
pub struct Args {
    /// The record; without it, standard input to its end.
    data: Option<OsString>,
    #[command(flatten)]
    target: Target,
}

/// Where to, for commands that need no more of the configuration.
#[derive(Debug, clap::Args)]
pub(super) struct Target {
    /// Delivery stream [env: HYDRANT_DELIVERY_STREAM_NAME]
    #[arg(long, value_name = "NAME")]
    pub(super) stream: Option<String>,
    /// AWS region [env: HYDRANT_REGION, then the AWS SDK's chain]
    #[arg(long)]
    pub(super) region: Option<String>,
    /// Another Firehose endpoint [env: HYDRANT_ENDPOINT_URL]
    #[arg(long, value_name = "URL")]
    pub(super) endpoint_url: Option<String>,
}

impl Target {
    /// The configuration that the flags, the environment and the defaults make.
    pub(super) fn config(self) -> Result<Config, String> {
        let or_env = |flag: Option<String>, name| flag.or_else(|| std::env::var(name).ok());
        let Some(delivery_stream_name) = or_env(self.stream, "HYDRANT_DELIVERY_STREAM_NAME") else {
            return Err(
                "no delivery stream is named; pass --stream, or set HYDRANT_DELIVERY_STREAM_NAME".into()
            );
        };
        Ok(Config {
            delivery_stream_name,
            region: or_env(self.region, "HYDRANT_REGION"),
            endpoint_url: or_env(self.endpoint_url, "HYDRANT_ENDPOINT_URL"),
            max_batch_size: limits::MAX_BATCH_RECORDS,
            max_batch_size_bytes: limits::MAX_BATCH_BYTES,
            linger: Duration::from_secs(1),
            delimiter: Bytes::from_static(b"\n"),
            listen: std::collections::BTreeMap::new(),
            buffer: BufferConfig { memory: 32 * 1024 * 1024, on_full: OnFull::Block },
            retry: RetryConfig {
                max_retries: 5,
                base_delay: Duration::from_millis(100),
                max_delay: Duration::from_secs(30),
                jitter: 0.3,
                give_up_after: None,
            },
            send: SendConfig {
                max_in_flight: 8,
                attempt_timeout: Duration::from_secs(30),
                connect_timeout: Duration::from_secs(5),
                read_timeout: Duration::from_secs(25),
                fast_body: true,
            },
            dead_letter: DeadLetterConfig { directory: None, max_bytes: 256 * 1024 * 1024 },
            admin: None,
            log: LogConfig { level: Some(tracing::Level::INFO), format: LogFormat::Auto },
            shutdown_drain: Duration::from_secs(25),
        })
    }
}

/// Runs the command; returns the exit code.
pub fn execute(args: Args) -> u8 {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let result = args.target.config().map_err(Failure::Usage).and_then(|config| {
        let record = record(args.data, &config.delimiter)?;
        let runtime =
            runtime.map_err(|error| Failure::Running(format!("the runtime could not start: {error}")))?;
        let sdk = Sdk::new(Settings::from(&config));
        Ok(runtime.block_on(put(&sdk, &config, record, say))?)
    });
    match result {
        Ok(id) => {
            say(format_args!("Record ingested successfully record_id={id}"));
            match writeln!(std::io::stdout(), "{id}") {
                Ok(()) => super::DONE,
                Err(_) => super::FAILED,
            }
        }
        Err(failure) => {
            say(format_args!("hydrant put: {failure}"));
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
}

impl Failure {
    fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) => super::USAGE,
            Self::Put(error) if error.code == "region" => super::USAGE,
            Self::Running(_) | Self::Put(_) => super::FAILED,
        }
    }
}

/// A line on standard error; that nobody reads it is no failure.
fn say(line: fmt::Arguments<'_>) {
    writeln!(std::io::stderr(), "{line}").ok();
}

/// The record's wire form: `data`, or else standard input, and the delimiter unless it ends so.
fn record(data: Option<OsString>, delimiter: &[u8]) -> Result<Vec<u8>, Failure> {
    let mut record = Vec::new();
    match data {
        Some(data) => record = data.into_vec(),
        None => {
            // One byte more than fits is enough to see that it does not.
            let mut input = std::io::stdin().lock().take(limits::MAX_RECORD_BYTES as u64 + 1);
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
    if record.len() > limits::MAX_RECORD_BYTES {
        let most = limits::MAX_RECORD_BYTES;
        return Err(Failure::Usage(format!(
            "the record is larger than {most} bytes, the delimiter included"
        )));
    }
    Ok(record)
}

/// The seed's backoff before retry `retry`, from 0 on; `chance` in 0 to 1 is the jitter's share.
fn backoff(config: &RetryConfig, retry: u32, chance: f64) -> Duration {
    let doubled = config.base_delay.saturating_mul(2_u32.saturating_pow(retry));
    let delay = doubled.min(config.max_delay);
    delay + delay.mul_f64(config.jitter * chance)
}

/// Puts `record`, with retries of what may pass that `say` is told of, and returns its id.
async fn put(
    firehose: &impl Firehose,
    config: &Config,
    record: Vec<u8>,
    mut say: impl FnMut(fmt::Arguments<'_>),
) -> Result<String, PutError> {
    let put = one(config, record);
    let mut retry = 0;
    loop {
        match firehose.put(put.clone()).await {
            Ok(Answer { record_id, .. }) => {
                if retry > 0 {
                    say(format_args!("Operation succeeded retries={retry}"));
                }
                return Ok(record_id.unwrap_or_default());
            }
            Err(error) if !matches!(error.class, Class::Throttled | Class::Transient) => return Err(error),
            Err(error) if retry == config.retry.max_retries => {
                say(format_args!("Maximum retries exceeded records=1 error_code={}", error.code));
                return Err(error);
            }
            Err(error) => {
                let delay = backoff(&config.retry, retry, fastrand::f64());
                retry += 1;
                let (delay_ms, code) = (delay.as_millis(), &error.code);
                say(format_args!(
                    "Operation failed, retrying delay_ms={delay_ms} attempt={retry} error_code={code}"
                ));
                tokio::time::sleep(delay).await;
            }
        }
    }
}

/// The attempt at sending `record` alone.
fn one(config: &Config, record: Vec<u8>) -> Put {
    #[expect(clippy::disallowed_methods, reason = "this is the shell: the record came now")]
    let received = Instant::now();
    let ends = u32::try_from(record.len()).into_iter().collect();
    let chunk = Chunk::new(Bytes::from(record), ends, received, Reservation::none());
    Put {
        stream: Arc::from(config.delivery_stream_name.as_str()),
        operation: Operation::PutRecord,
        spans: Span::whole(Arc::new(chunk)).into_iter().collect(),
    }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;
    use std::sync::Mutex;

    use super::*;

    #[test]
    fn the_delimiter_is_appended_once() {
        let check = |data: &str, delimiter: &[u8], expected: &[u8]| {
            assert_eq!(record(Some(data.into()), delimiter).expect(data), expected);
        };
        check("a", b"\n", b"a\n");
        check("a\n", b"\n", b"a\n");
        check("a", b"", b"a");
    }

    #[test]
    fn a_record_that_firehose_cannot_take_is_wrong_usage() {
        let check = |bytes: usize, expected: Option<u8>| {
            let result = record(Some("x".repeat(bytes).into()), b"\n");
            assert_eq!(result.err().map(|failure| failure.exit_code()), expected, "{bytes} bytes");
        };
        check(0, Some(super::super::USAGE));
        check(1_023_999, None);
        check(1_024_000, Some(super::super::USAGE));
    }

    #[test]
    fn waits_double_up_to_the_longest_and_jitter_adds_to_them() {
        let config = config().retry;
        let check = |retry, chance, expected| {
            assert_eq!(backoff(&config, retry, chance), Duration::from_millis(expected), "{retry} {chance}");
        };
        check(0, 0.0, 100);
        check(1, 0.0, 200);
        check(4, 1.0, 2_080);
        check(9, 0.0, 30_000);
        check(u32::MAX, 1.0, 39_000);
    }

    fn config() -> Config {
        let target = Target { stream: Some("s".into()), region: None, endpoint_url: None };
        target.config().expect("the stream is named")
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
            let say = |line: fmt::Arguments<'_>| said.push(line.to_string());
            let result = put(&firehose, &config(), b"a\n".to_vec(), say).await;
            let unasked = firehose.0.lock().expect("no test panics with it").len();
            assert_eq!(result.as_deref().map_err(|_| unasked), left, "{failures} times {class:?}");
            assert!(said.len() == messages.len(), "{said:?}");
            assert!(said.iter().zip(messages).all(|(line, message)| line.starts_with(message)), "{said:?}");
        }
    }
}
