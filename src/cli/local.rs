//! `hydrant local`.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use futures_util::StreamExt;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook_tokio::Signals;

use crate::local::{CallFault, Counts, FailCode, Faults, Local, LocalError, Operation, Options};

/// The port that is listened on unless told otherwise.
const DEFAULT_PORT: u16 = 4573;

/// Runs an embedded Firehose that any AWS SDK can use, without an AWS account.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example, with 20 % of the records failing and one request in twenty reset:
  hydrant local --dir ./delivered --fail-records 0.2 --reset 0.05
  AWS_ENDPOINT_URL_FIREHOSE=http://127.0.0.1:4573 aws firehose describe-delivery-stream \\
    --delivery-stream-name local")]
pub struct Args {
    /// Where to listen: HOST:PORT, or a PORT on loopback
    #[arg(long, value_name = "ADDR", default_value_t = SocketAddr::from((Ipv4Addr::LOCALHOST, DEFAULT_PORT)), value_parser = address)]
    listen: SocketAddr,

    /// Write delivered data below DIR, as DIR/STREAM/YYYY/MM/DD/HH/…; without it, count and discard
    #[arg(long)]
    dir: Option<PathBuf>,

    /// A delivery stream that exists from the start; may be repeated
    #[arg(long = "stream", value_name = "NAME", default_value = "local")]
    streams: Vec<String>,

    /// Deliver a stream's data once there is this much of it
    #[arg(long, value_name = "SIZE", default_value = "5MiB", value_parser = size)]
    buffer_size: u64,

    /// Deliver a stream's data once it has waited this long
    #[arg(long, value_name = "DUR", default_value = "60s", value_parser = humantime::parse_duration)]
    buffer_interval: Duration,

    /// Probability that an entry fails
    #[arg(long, value_name = "P", default_value_t = 0.0, value_parser = probability)]
    fail_records: f64,

    /// Error code of the entries that fail
    #[arg(long, value_name = "CODE", default_value = "ServiceUnavailableException")]
    fail_code: FailCode,

    /// Probability that a request is refused with ThrottlingException
    #[arg(long, value_name = "P", default_value_t = 0.0, value_parser = probability)]
    throttle: f64,

    /// Probability that a request is answered with HTTP 500, nothing accepted
    #[arg(long, value_name = "P", default_value_t = 0.0, value_parser = probability)]
    error_500: f64,

    /// Probability that a connection is reset before the request is read
    #[arg(long, value_name = "P", default_value_t = 0.0, value_parser = probability)]
    reset: f64,

    /// Probability that a connection is reset after the records were accepted
    #[arg(long, value_name = "P", default_value_t = 0.0, value_parser = probability)]
    reset_after: f64,

    /// Refuse every call of ACTION, such as DescribeDeliveryStream, as if the policy did not allow
    /// it; may be repeated
    #[arg(long, value_name = "ACTION", value_parser = action)]
    deny: Vec<Operation>,

    /// Wait before each answer
    #[arg(long, value_name = "DUR", default_value = "0s", value_parser = humantime::parse_duration)]
    latency: Duration,

    /// Bytes a second that each stream accepts
    #[arg(long, value_name = "N", value_parser = size)]
    quota_bytes: Option<u64>,

    /// Records a second that each stream accepts
    #[arg(long, value_name = "N")]
    quota_records: Option<u64>,

    /// Seed of the faults' dice: the same seed and requests make the same trouble
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
}

fn address(text: &str) -> Result<SocketAddr, String> {
    if let Ok(port) = text.parse::<u16>() {
        return Ok((Ipv4Addr::LOCALHOST, port).into());
    }
    let mut addresses =
        text.to_socket_addrs().map_err(|error| format!("HOST:PORT or PORT is wanted: {error}"))?;
    addresses.next().ok_or_else(|| "the host has no address".into())
}

fn size(text: &str) -> Result<u64, String> {
    text.parse::<ByteSize>().map(|size| size.as_u64())
}

fn action(text: &str) -> Result<Operation, String> {
    let name = text.rsplit(':').next().unwrap_or(text);
    Operation::named(name).ok_or_else(|| "an action of Firehose or CloudWatch is wanted".to_owned())
}

pub(super) fn probability(text: &str) -> Result<f64, String> {
    let value: f64 = text.parse().map_err(|_| "a number from 0 to 1 is wanted".to_owned())?;
    (0.0..=1.0).contains(&value).then_some(value).ok_or_else(|| "it must be from 0 to 1".into())
}

impl Args {
    fn options(self) -> Options {
        Options {
            listen: self.listen,
            directory: self.dir,
            streams: self.streams,
            faults: Faults {
                fail_records: self.fail_records,
                fail_code: self.fail_code,
                throttle: self.throttle,
                error_500: self.error_500,
                reset: self.reset,
                reset_after: self.reset_after,
                latency: self.latency,
                calls: self.deny.into_iter().map(|action| (action, CallFault::Denied)).collect(),
                ..Faults::default()
            },
            quota_bytes: self.quota_bytes,
            quota_records: self.quota_records,
            buffer_bytes: usize::try_from(self.buffer_size).unwrap_or(usize::MAX),
            buffer_interval: self.buffer_interval,
            seed: self.seed,
        }
    }
}

/// Runs the service until SIGTERM or SIGINT; returns the exit code.
pub fn execute(args: Args) -> u8 {
    // What the service has to say while it runs: data that cannot be written, sockets that cannot
    // be accepted. Whoever has set up a log already keeps it.
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_max_level(tracing::Level::WARN)
        .try_init()
        .ok();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let result = runtime
        .map_err(|error| (super::FAILED, format!("cannot start the runtime: {error}")))
        .and_then(|runtime| runtime.block_on(serve(args.options())));
    match result {
        Ok(()) => super::DONE,
        Err((code, message)) => {
            tell(&format!("hydrant local: {message}"));
            code
        }
    }
}

async fn serve(options: Options) -> Result<(), (u8, String)> {
    let failed = |error: std::io::Error| (super::FAILED, error.to_string());
    // Before anyone can know that it is worth a signal.
    let mut signals = Signals::new([SIGTERM, SIGINT]).map_err(failed)?;
    let (streams, directory) = (options.streams.clone(), options.directory.clone());
    let local = Local::start(options).await.map_err(|error| (super::USAGE, sentence(&error)))?;
    if !is_loopback(local.address().ip()) {
        tell(&format!(
            "hydrant local: WARNING: {} is not a loopback address. Whoever reaches it can write to this \
             service: it checks no signatures.",
            local.address()
        ));
    }
    greet(&local, &streams).map_err(failed)?;
    signals.next().await;
    let counts = local.stop().await.map_err(|error| (super::FAILED, sentence(&error)))?;
    summarise(&counts, directory.as_deref()).map_err(failed)
}

fn is_loopback(ip: IpAddr) -> bool {
    ip.to_canonical().is_loopback()
}

fn greet(local: &Local, streams: &[String]) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    let (url, stream) = (local.url(), streams.first().map_or("", String::as_str));
    writeln!(out, "hydrant local is listening on {url}")?;
    writeln!(out, "  an SDK:   AWS_ENDPOINT_URL_FIREHOSE={url} AWS_ENDPOINT_URL_CLOUDWATCH={url}")?;
    writeln!(out, "            AWS_REGION=us-east-1 AWS_ACCESS_KEY_ID=local AWS_SECRET_ACCESS_KEY=local")?;
    writeln!(out, "  hydrant:  --set endpoint_url={url} --set delivery_stream_name={stream}")?;
    out.flush()
}

fn summarise(counts: &Counts, directory: Option<&std::path::Path>) -> std::io::Result<()> {
    let total = counts.total();
    let fate = match directory {
        Some(directory) => format!("in {} objects below {}", total.objects, directory.display()),
        None => "discarded".into(),
    };
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "accepted {} records ({}) in {} requests, {fate}; {} entries failed, {} requests throttled, \
         {} reset, {} answers lost",
        total.records,
        ByteSize::b(total.bytes),
        total.requests,
        total.failed_entries,
        total.throttled_requests,
        counts.resets,
        total.ambiguous_requests,
    )?;
    out.flush()
}

/// An error with its cause in one line.
fn sentence(error: &LocalError) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

fn tell(message: &str) {
    // Nothing is left to do if even standard error is gone.
    writeln!(std::io::stderr(), "{message}").ok();
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        args: Args,
    }

    fn parse(line: &str) -> Result<Options, clap::Error> {
        let words = std::iter::once("local").chain(line.split_whitespace());
        Command::try_parse_from(words).map(|command| command.args.options())
    }

    #[test]
    fn addresses_are_a_host_and_port_or_a_port_on_loopback() {
        let check = |line: &str, expected: &str| {
            assert_eq!(parse(line).unwrap().listen.to_string(), expected, "{line}");
        };
        check("", "127.0.0.1:4573");
        check("--listen 0", "127.0.0.1:0");
        check("--listen 8080", "127.0.0.1:8080");
        check("--listen 0.0.0.0:80", "0.0.0.0:80");
        check("--listen [::1]:80", "[::1]:80");
        assert!(parse("--listen nonsense").is_err());
        assert!(parse("--listen 70000").is_err());
    }

    #[test]
    fn every_fault_flag_is_a_probability() {
        for flag in ["fail-records", "throttle", "error-500", "reset", "reset-after"] {
            assert!(parse(&format!("--{flag} 0.5")).is_ok(), "{flag}");
            assert!(parse(&format!("--{flag} 1.1")).is_err(), "{flag}");
            assert!(parse(&format!("--{flag}=-0.1")).is_err(), "{flag}");
            assert!(parse(&format!("--{flag} NaN")).is_err(), "{flag}");
        }
    }

    #[test]
    fn an_action_is_denied_by_its_name_or_its_name_in_policies() {
        for flag in ["--deny GetMetricData", "--deny cloudwatch:GetMetricData"] {
            let calls = parse(flag).unwrap().faults.calls;
            assert_eq!(calls, [(Operation::GetMetricData, CallFault::Denied)], "{flag}");
        }
        assert!(parse("--deny firehose:TagDeliveryStream").is_err());
    }

    #[test]
    fn sizes_and_durations_have_human_units() {
        let options =
            parse("--quota-bytes 1MiB --buffer-size 100 --latency 20ms --stream a --stream b").unwrap();
        assert_eq!(options.quota_bytes, Some(1024 * 1024));
        assert_eq!(options.buffer_bytes, 100);
        assert_eq!(options.faults.latency, Duration::from_millis(20));
        assert_eq!(options.streams, ["a", "b"]);
        assert_eq!(parse("").unwrap().streams, ["local"]);
    }
}
