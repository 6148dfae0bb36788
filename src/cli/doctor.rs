//! `hydrant doctor`: what would keep records from arriving, looked for online.
//!
//! The shell gathers facts; pure checks turn them into [`Finding`]s, one line each.

mod spool;

use std::fmt;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use aws_smithy_types::date_time::{DateTime, Format};
use http::Uri;
use rustix::fs::Access;

use super::options::TargetOptions;
use crate::buffer::opening;
use crate::config::{AggregateMode, Algorithm, Config, SpoolConfig};
use crate::firehose::{
    Class, Description, Destination, Publication, PutError, Sdk, Settings, Watch as _, WatchError, proxy,
};
use crate::poller::catalog::queries;
use crate::poller::{self, Action};
use crate::sender::packing::{self, Decision};
use crate::telemetry::wall_clock;

/// Checks credentials, network, permissions, the delivery stream and this host, and says what to mend.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: hydrant doctor --stream app-logs --region eu-west-1")]
pub struct Args {
    #[command(flatten)]
    target: TargetOptions,
}

/// Longest wait for each answer: a doctor does not keep people waiting.
const PATIENCE: Duration = Duration::from_secs(10);

/// Clock skew from which on it is a warning, and from which on a problem: AWS refuses signatures
/// that are more than five minutes off
/// (<https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-troubleshooting.html>).
const SKEW_SECONDS: (u64, u64) = (60, 300);

/// What a daemon takes beside its record bytes, at most.
const MEMORY_BESIDE_BUFFER: u64 = 24 * 1024 * 1024;

/// Descriptors beside connections: standard streams, the runtime's, listeners, admin, log, store.
const FILES_BESIDE_CONNECTIONS: u64 = 64;

/// Runs the command; returns the exit code.
pub fn execute(args: Args) -> u8 {
    let (config, runtime) = match args.target.ready() {
        Ok(ready) => ready,
        Err(code) => return code,
    };
    let findings = runtime.block_on(run_doctor(&config));
    let written = findings.iter().try_for_each(|finding| writeln!(std::io::stdout(), "{finding}"));
    if written.is_err() || findings.iter().any(|finding| finding.level == Level::Problem) {
        super::FAILED
    } else {
        super::DONE
    }
}

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// As it should be.
    Ok,
    /// Records arrive, but something is missing or at risk.
    Warning,
    /// Records do not arrive, or will not for long.
    Problem,
}

/// What one check found: a line of the report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub level: Level,
    /// What was looked at.
    pub subject: &'static str,
    /// Whose it is, where there are several streams.
    pub stream: Option<String>,
    /// What was found there.
    pub sentence: String,
    /// What to do about it, where the sentence does not say.
    pub remedy: Option<String>,
}

impl Finding {
    fn ok(subject: &'static str, sentence: impl Into<String>) -> Self {
        Self { level: Level::Ok, subject, stream: None, sentence: sentence.into(), remedy: None }
    }

    fn warning(subject: &'static str, sentence: impl Into<String>) -> Self {
        Self { level: Level::Warning, ..Self::ok(subject, sentence) }
    }

    fn problem(subject: &'static str, sentence: impl Into<String>) -> Self {
        Self { level: Level::Problem, ..Self::ok(subject, sentence) }
    }

    fn of(self, stream: Option<&str>) -> Self {
        Self { stream: stream.map(ToOwned::to_owned), ..self }
    }

    fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = match self.level {
            Level::Ok => "ok",
            Level::Warning => "warning",
            Level::Problem => "problem",
        };
        write!(f, "{level:<7}  {}", self.subject)?;
        self.stream.iter().try_for_each(|stream| write!(f, " [{stream}]"))?;
        write!(f, ": {}", self.sentence)?;
        self.remedy.iter().try_for_each(|remedy| write!(f, "; {remedy}"))
    }
}

/// Looks at everything that `config` depends on and judges it; never fails, whatever is broken.
pub async fn run_doctor(config: &Config) -> Vec<Finding> {
    let facts = Facts::gather(config).await;
    let mut findings = vec![
        Finding::ok(
            "configuration",
            format!("records go to delivery stream `{}`", config.delivery_stream_name),
        ),
        region(&facts.region),
        credentials(&facts.keys),
        identity(&facts.identity),
        network(&facts.network),
        clock(facts.skew_seconds),
    ];
    let several = facts.streams.len() > 1;
    for (index, sight) in facts.streams.iter().enumerate() {
        if index > 0 {
            let words = format!("records go to delivery stream `{}` as well", sight.name);
            findings.push(Finding::ok("configuration", words));
        }
        let whose = several.then_some(&*sight.name);
        findings.extend(judge(sight, config).into_iter().map(|finding| finding.of(whose)));
    }
    findings.extend(facts.publishing.as_ref().map(publishing));
    findings.extend(spool::spools(&facts.spools, several));
    findings.extend(facts.left.iter().map(|(stream, directory)| spool::left(stream, directory)));
    findings.push(dead_letters(facts.store.as_ref(), config));
    findings.push(files(facts.files, config));
    findings.push(memory(facts.memory, config));
    findings
}

/// What there is to say of one delivery stream.
fn judge(sight: &StreamSight, config: &Config) -> Vec<Finding> {
    let StreamSight { description, probe, metrics, .. } = sight;
    let mut findings = vec![describing(description), putting(probe)];
    if let Ok(description) = description {
        findings.push(stream(description));
        findings.push(delimiter(description.destination, &config.delimiter));
    }
    findings.push(packing(description.as_ref().ok(), config));
    if let (Ok(description), Some(compression)) = (description, config.aggregate.compression) {
        findings.extend(object_names(description, compression.algorithm));
    }
    findings.extend(metrics.as_ref().map(reading));
    findings
}

/// What was seen of one delivery stream.
#[derive(Debug)]
struct StreamSight {
    name: String,
    description: Result<Description, WatchError>,
    probe: Result<(), PutError>,
    /// `None` where the monitor is off.
    metrics: Option<Result<(), WatchError>>,
}

impl StreamSight {
    async fn look(sdk: &Sdk, config: &Config, name: &str) -> Self {
        let (description, probe) = (sdk.describe(name).await, sdk.probe(name).await);
        let metrics = match config.monitor.interval {
            Some(_) => Some(read_metrics(sdk, name).await),
            None => None,
        };
        Self { name: name.to_owned(), description, probe, metrics }
    }
}

/// What was seen, nothing judged yet.
#[derive(Debug)]
struct Facts {
    region: Result<String, PutError>,
    keys: Result<Keys, PutError>,
    identity: Result<String, PutError>,
    network: Option<Network>,
    skew_seconds: Option<i64>,
    /// The first one is that of `delivery_stream_name`.
    streams: Vec<StreamSight>,
    /// `None` where nothing is to be published.
    publishing: Option<Result<(), WatchError>>,
    /// That of each stream, in their order; none without `buffer.directory`.
    spools: Vec<(String, SpoolConfig, spool::Sight)>,
    /// Streams that nobody feeds any more, and where their records may wait.
    left: Vec<(String, PathBuf)>,
    store: Option<Store>,
    files: Option<u64>,
    memory: Option<u64>,
}

#[derive(Debug)]
struct Keys {
    /// The last characters of the access key id.
    id: String,
    expires: Option<SystemTime>,
}

#[derive(Debug)]
struct Network {
    endpoint: String,
    proxy: Option<String>,
    /// Why the endpoint or its proxy could not be connected to.
    failure: Option<String>,
}

#[derive(Debug)]
struct Store {
    directory: PathBuf,
    writable: bool,
    medium: Medium,
    free_bytes: u64,
}

/// What a file system keeps its files on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Medium {
    /// A disk, as far as can be told.
    Disk,
    /// Memory.
    Memory,
    /// Another machine's disk.
    Network,
}

impl Medium {
    /// By a file system's type (`statfs(2)`, `linux/magic.h`).
    fn of(kind: u64) -> Self {
        match kind {
            // tmpfs, ramfs.
            0x0102_1994 | 0x8584_58f6 => Self::Memory,
            // NFS (Amazon EFS among it), SMB, CIFS, SMB 2, AFS, 9p, Ceph, Lustre.
            0x6969 | 0x517b | 0xff53_4d42 | 0xfe53_4d42 | 0x5346_414f | 0x0102_1997 | 0x00c3_6400
            | 0x0bd0_0bd0 => Self::Network,
            _ => Self::Disk,
        }
    }
}

impl Facts {
    async fn gather(config: &Config) -> Self {
        let settings = Settings::from(config);
        let sdk = Sdk::new(Settings { attempt_timeout: settings.attempt_timeout.min(PATIENCE), ..settings });
        let keys = sdk.keys().await.map(|keys| {
            let id: Vec<char> = keys.access_key_id().chars().rev().take(4).collect();
            Keys { id: id.into_iter().rev().collect(), expires: keys.expiry() }
        });
        let identity = sdk.identity().await;
        let names = config.streams();
        let mut streams = Vec::with_capacity(names.len());
        for name in &names {
            streams.push(StreamSight::look(&sdk, config, name).await);
        }
        let publishing = match &config.monitor.publish_namespace {
            Some(namespace) => Some(publish_nothing(&sdk, config, namespace).await),
            None => None,
        };
        let network = match sdk.endpoint() {
            Some(endpoint) => Some(Network::look(endpoint).await),
            None => None,
        };
        Self {
            region: sdk.region().await.map(ToOwned::to_owned),
            keys,
            identity,
            network,
            skew_seconds: sdk.clock_skew_seconds(),
            streams,
            publishing,
            spools: config.buffer.spool.as_ref().map_or_else(Vec::new, |spool| spool::look(spool, &names)),
            left: config.buffer.spool.as_ref().map_or_else(Vec::new, |spool| opening::left(spool, &names)),
            store: config.dead_letter.directory.as_deref().and_then(Store::look),
            files: rustix::process::getrlimit(rustix::process::Resource::Nofile).current,
            memory: memory_limit(),
        }
    }
}

async fn read_metrics(sdk: &Sdk, stream: &str) -> Result<(), WatchError> {
    let (start, end) = poller::window(wall_clock());
    let queries: Vec<_> = queries(None, false).into_iter().map(|(_, query)| query).collect();
    sdk.metrics(stream, &queries, start, end).await.map(drop)
}

/// A publication of no figures, which the service must refuse, once it has found it allowed.
async fn publish_nothing(sdk: &Sdk, config: &Config, namespace: &str) -> Result<(), WatchError> {
    let publication = Publication {
        namespace,
        stream: &config.delivery_stream_name,
        data: &[],
        at: wall_clock(),
        high_resolution: false,
    };
    sdk.publish(&publication).await
}

impl Network {
    async fn look(endpoint: &str) -> Self {
        let uri: Uri = endpoint.parse().unwrap_or_default();
        let proxies = proxy::from_environment(|name| std::env::var(name).ok());
        let proxy = proxies.ok().and_then(|proxies| proxies.route(&uri));
        let first = proxy.as_ref().unwrap_or(&uri);
        let port = first.port_u16().unwrap_or(if first.scheme_str() == Some("http") { 80 } else { 443 });
        let host = first.host().unwrap_or_default().trim_matches(['[', ']']);
        let failure = match tokio::time::timeout(PATIENCE, tokio::net::TcpStream::connect((host, port))).await
        {
            Ok(Ok(_)) => None,
            Ok(Err(error)) => Some(format!("{host}:{port} could not be connected to ({error})")),
            Err(_) => Some(format!("{host}:{port} did not answer within {PATIENCE:?}")),
        };
        Self { endpoint: endpoint.to_owned(), proxy: proxy.map(|uri| uri.to_string()), failure }
    }
}

impl Store {
    /// `directory`, or what it would be made in; `None` where not even that can be looked at.
    fn look(directory: &Path) -> Option<Self> {
        let existing = directory.ancestors().map(|path| match path.as_os_str().is_empty() {
            true => Path::new("."),
            false => path,
        });
        let existing = existing.into_iter().find(|path| path.exists())?;
        let system = rustix::fs::statfs(existing).ok()?;
        let room = rustix::fs::statvfs(existing).ok()?;
        Some(Self {
            directory: directory.to_owned(),
            writable: existing.is_dir()
                && rustix::fs::access(existing, Access::WRITE_OK | Access::EXEC_OK).is_ok(),
            medium: u64::try_from(system.f_type).map_or(Medium::Disk, Medium::of),
            free_bytes: room.f_bavail.saturating_mul(room.f_frsize),
        })
    }
}

/// The smallest limit among this process's control groups.
fn memory_limit() -> Option<u64> {
    let groups = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let limit = |path| std::fs::read_to_string(path).ok().and_then(|text| parse_limit(&text));
    limit_files(&groups).into_iter().filter_map(limit).min()
}

/// The files that limit the memory of a process whose `/proc/self/cgroup` is `groups`: those of
/// its group and of every group around it, for both versions of the interface
/// (<https://docs.kernel.org/admin-guide/cgroup-v2.html>, `cgroups(7)`).
fn limit_files(groups: &str) -> Vec<PathBuf> {
    let of_line = |line: &str| {
        let mut fields = line.splitn(3, ':');
        let (_, controllers, group) = (fields.next()?, fields.next()?, fields.next()?);
        let (root, file) = match controllers {
            "" => ("/sys/fs/cgroup", "memory.max"),
            list if list.split(',').any(|name| name == "memory") => {
                ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")
            }
            _ => return None,
        };
        let group = Path::new(group.trim_start_matches('/'));
        Some(group.ancestors().map(|group| Path::new(root).join(group).join(file)).collect::<Vec<_>>())
    };
    groups.lines().filter_map(of_line).flatten().collect()
}

/// The limit in a group's file; version 1 writes "none" as a number near the largest.
fn parse_limit(text: &str) -> Option<u64> {
    text.trim().parse().ok().filter(|limit| *limit < 1 << 60)
}

fn region(region: &Result<String, PutError>) -> Finding {
    match region {
        Ok(region) => Finding::ok("region", region),
        Err(error) => Finding::problem("region", &error.message),
    }
}

fn credentials(keys: &Result<Keys, PutError>) -> Finding {
    match keys {
        Ok(Keys { id, expires }) => {
            let end = expires.map(|end| DateTime::from(end).fmt(Format::DateTime));
            let end = match end {
                Some(Ok(end)) => format!("renewed before they expire at {end}"),
                Some(Err(_)) | None => "which do not expire".to_owned(),
            };
            Finding::ok("credentials", format!("found, access key …{id}, {end}"))
        }
        Err(error) => Finding::problem("credentials", &error.message),
    }
}

fn identity(identity: &Result<String, PutError>) -> Finding {
    match identity {
        Ok(arn) => Finding::ok("identity", arn),
        // Delivery needs no STS; a network that reaches only Firehose is a good one.
        Err(error) => Finding::warning("identity", format!("STS did not say who this is: {}", error.message)),
    }
}

fn network(network: &Option<Network>) -> Finding {
    let Some(Network { endpoint, proxy, failure }) = network else {
        return Finding::warning("network", "no request got as far as the network")
            .remedy("mend the above first");
    };
    let way = match proxy {
        Some(proxy) => format!("{endpoint} through proxy {proxy}"),
        None => format!("{endpoint} without a proxy"),
    };
    match failure {
        None => Finding::ok("network", way),
        Some(failure) => Finding::problem("network", format!("{way}: {failure}"))
            .remedy("check DNS, routes, security groups, VPC endpoints and HTTPS_PROXY"),
    }
}

fn clock(skew_seconds: Option<i64>) -> Finding {
    let Some(skew) = skew_seconds else {
        return Finding::warning("clock", "no answer to compare this host's clock with");
    };
    let side = if skew < 0 { "behind" } else { "ahead of" };
    let sentence = format!("{} s {side} the service's", skew.unsigned_abs());
    let (warning, problem) = SKEW_SECONDS;
    match skew.unsigned_abs() {
        skew if skew > problem => {
            Finding::problem("clock", sentence).remedy("set it by NTP; AWS refuses signatures 5 min off")
        }
        skew if skew > warning => Finding::warning("clock", sentence).remedy("set it by NTP"),
        _ => Finding::ok("clock", sentence),
    }
}

fn describing(description: &Result<Description, WatchError>) -> Finding {
    let subject = "firehose:DescribeDeliveryStream";
    match description {
        Ok(_) => Finding::ok(subject, "allowed"),
        Err(WatchError::Denied(_)) => {
            let Action { costs, .. } = poller::DESCRIBE;
            Finding::warning(subject, format!("not allowed; {costs}")).remedy("allow it")
        }
        Err(WatchError::Missing(error)) => Finding::problem(subject, &error.message),
        Err(WatchError::Throttled(error)) => Finding::warning(subject, &error.message)
            .remedy("5 calls a second are allowed to all of the account in a region"),
        Err(WatchError::Failed(error)) => Finding::problem(subject, &error.message),
    }
}

fn reading(metrics: &Result<(), WatchError>) -> Finding {
    let Action { permission, costs, .. } = poller::METRICS;
    match metrics {
        Ok(()) => Finding::ok(permission, "allowed"),
        Err(WatchError::Denied(_)) => Finding::warning(permission, format!("not allowed; {costs}"))
            .remedy("allow it, or switch `monitor.interval` off"),
        Err(error) => Finding::warning(permission, error.message())
            .remedy("delivery does not depend on it; check the way to CloudWatch"),
    }
}

fn publishing(published: &Result<(), WatchError>) -> Finding {
    let Action { permission, costs, .. } = poller::PUBLISH;
    match published {
        Ok(()) => Finding::ok(permission, "allowed"),
        Err(WatchError::Denied(_)) => Finding::problem(permission, format!("not allowed; {costs}"))
            .remedy("allow it, or leave `monitor.publish_namespace` out"),
        // The codes of a request whose parameters are at fault:
        // https://docs.aws.amazon.com/AmazonCloudWatch/latest/APIReference/API_PutMetricData.html
        Err(WatchError::Failed(error))
            if error.class == Class::Refused
                || error.code.starts_with("InvalidParameter")
                || error.code.starts_with("MissingParameter") =>
        {
            Finding::ok(permission, "reached the service, which refused a publication of nothing as it must")
        }
        Err(error) => Finding::warning(permission, error.message())
            .remedy("delivery does not depend on it; check the way to CloudWatch"),
    }
}

fn putting(probe: &Result<(), PutError>) -> Finding {
    let subject = "firehose:PutRecordBatch";
    match probe {
        Ok(()) => Finding::ok(subject, "a request of no records was accepted"),
        Err(error) => match error.class {
            Class::Refused => Finding::ok(
                subject,
                "reached the service, which refused a request of no records as it must; that the policy allows \
                 real ones shows with the first",
            ),
            Class::Throttled => Finding::warning(subject, &error.message)
                .remedy("raise the stream's quota, or send less, if this goes on"),
            Class::Transient | Class::Permanent => Finding::problem(subject, &error.message),
        },
    }
}

fn stream(description: &Description) -> Finding {
    let Description { status, kind, destination, encryption, failure, .. } = description;
    let why = failure.as_ref().map(|failure| format!(" ({failure})")).unwrap_or_default();
    let sentence = match destination {
        Some(destination) => format!("{status}, {kind}, delivers to {destination:?}{why}"),
        None => format!("{status}, {kind}{why}"),
    };
    match (&**kind, &**status, encryption.as_deref()) {
        ("DirectPut", "ACTIVE", Some("ENABLING_FAILED" | "DISABLING_FAILED")) => {
            Finding::warning("stream", sentence)
                .remedy("its encryption could not be changed; check the KMS key")
        }
        ("DirectPut", "ACTIVE", _) => Finding::ok("stream", sentence),
        ("DirectPut", "CREATING", _) => {
            Finding::warning("stream", sentence).remedy("wait until it is ACTIVE")
        }
        ("DirectPut", _, _) => Finding::problem("stream", sentence).remedy("use a stream that is ACTIVE"),
        _ => Finding::problem("stream", sentence).remedy("only a stream of type DirectPut takes records"),
    }
}

fn delimiter(destination: Option<Destination>, delimiter: &[u8]) -> Finding {
    match (destination, delimiter) {
        (Some(Destination::S3), b"") => {
            Finding::warning("delimiter", "empty, so that records run together in S3's objects")
                .remedy("set `delimiter`, unless the stream or the producers add one")
        }
        (_, b"") => Finding::ok("delimiter", "empty; records are sent as they come"),
        _ => Finding::ok("delimiter", format!("\"{}\" follows each record", delimiter.escape_ascii())),
    }
}

/// Whether records would be packed; where only what is not known forbids it, that is worth a warning.
fn packing(description: Option<&Description>, config: &Config) -> Finding {
    let Decision { packing, reason, remedy } =
        packing::decide(&config.aggregate, &config.delimiter, description);
    if let Some(remedy) = remedy {
        return Finding::problem("packing", format!("nothing would be sent: {reason}")).remedy(remedy);
    }
    if packing.is_some() {
        return Finding::ok("packing", format!("records are packed: {reason}"));
    }
    let sentence = format!("records are not packed, each is billed as 5 KiB or more: {reason}");
    match (config.aggregate.mode, description) {
        (AggregateMode::Auto, None) => Finding::warning("packing", sentence).remedy(
            "allow firehose:DescribeDeliveryStream, or set `aggregate.mode` where you know the destination",
        ),
        _ => Finding::ok("packing", sentence),
    }
}

/// Whether the names of S3's objects say that they are compressed, by which most readers decide.
fn object_names(description: &Description, algorithm: Algorithm) -> Option<Finding> {
    let (name, wanted) = (algorithm.name(), algorithm.extension());
    let extension = description.file_extension.as_deref();
    if description.destination != Some(Destination::S3) {
        return None;
    }
    if let Some(extension) = extension.filter(|extension| extension.ends_with(wanted)) {
        return Some(Finding::ok("object names", format!("those of S3's {name} files end with {extension}")));
    }
    let sentence =
        format!("those of S3's objects do not say that they are {name}, so that few programs will read them");
    Some(
        Finding::warning("object names", sentence)
            .remedy(format!("set the stream's FileExtension to {wanted}")),
    )
}

fn dead_letters(store: Option<&Store>, config: &Config) -> Finding {
    let (subject, directory) = ("dead letters", &config.dead_letter.directory);
    let (store, shown) = match (store, directory) {
        (_, None) => {
            return Finding::warning(
                subject,
                "without a directory, undeliverable records are dropped and counted",
            )
            .remedy("set `dead_letter.directory`");
        }
        (None, Some(directory)) => {
            return Finding::problem(subject, format!("{} cannot be looked at", directory.display()))
                .remedy("give this user access to it");
        }
        (Some(store), Some(_)) => (store, store.directory.display()),
    };
    if !store.writable {
        return Finding::problem(subject, format!("{shown} cannot be written to"))
            .remedy("give it to this user");
    }
    if store.medium == Medium::Memory {
        return Finding::warning(subject, format!("{shown} is in memory and gone with the host"))
            .remedy("choose a directory on a disk");
    }
    if store.free_bytes < config.dead_letter.max_bytes {
        let (free, most) = (store.free_bytes, config.dead_letter.max_bytes);
        return Finding::warning(subject, format!("{shown} has {free} bytes free of the {most} it may take"))
            .remedy("free some, or lower `dead_letter.max_bytes`");
    }
    Finding::ok(subject, format!("{shown} is writable and has room"))
}

fn files(limit: Option<u64>, config: &Config) -> Finding {
    let connections: usize = config.listen.values().map(|listener| listener.max_connections).sum();
    let wanted = (connections + config.send.max_in_flight) as u64 + FILES_BESIDE_CONNECTIONS;
    match limit {
        Some(limit) if limit < wanted => Finding::warning(
            "file descriptors",
            format!("{limit} allowed, {wanted} needed with every connection open"),
        )
        .remedy("raise the limit (ulimit -n, LimitNOFILE=), or lower `max_connections`"),
        Some(limit) => Finding::ok("file descriptors", format!("{limit} allowed, at most {wanted} needed")),
        None => Finding::ok("file descriptors", "not limited"),
    }
}

fn memory(limit: Option<u64>, config: &Config) -> Finding {
    let wanted = config.buffer.memory as u64 + MEMORY_BESIDE_BUFFER;
    match limit {
        Some(limit) if limit < wanted => Finding::problem(
            "memory",
            format!("limited to {limit} bytes, and up to {wanted} are taken under load"),
        )
        .remedy("raise the limit, or lower `buffer.memory`"),
        Some(limit) => Finding::ok("memory", format!("limited to {limit} bytes, at most {wanted} are taken")),
        None => Finding::ok("memory", format!("not limited, at most {wanted} bytes are taken")),
    }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use super::*;
    use crate::config::Sources;

    fn config() -> Config {
        let sources = Sources { set: vec!["delivery_stream_name=app-logs".into()], ..Sources::default() };
        crate::config::load(&sources).expect("the stream is named").config
    }

    fn error(class: Class) -> PutError {
        PutError { class, code: Cow::Borrowed("code"), message: "message".into(), ambiguous: false }
    }

    #[test]
    fn a_line_has_the_level_first_and_the_remedy_last() {
        let check = |finding: Finding, expected| assert_eq!(finding.to_string(), expected);
        check(Finding::ok("region", "eu-west-1"), "ok       region: eu-west-1");
        check(clock(Some(-61)), "warning  clock: 61 s behind the service's; set it by NTP");
        check(region(&Err(error(Class::Permanent))), "problem  region: message");
        check(Finding::ok("stream", "ACTIVE").of(Some("audit")), "ok       stream [audit]: ACTIVE");
    }

    #[test]
    fn credentials_are_shown_by_the_end_of_their_key_alone() {
        let keys = Keys { id: "WXYZ".into(), expires: Some(SystemTime::UNIX_EPOCH) };
        let line = credentials(&Ok(keys)).to_string();
        let expected = "ok       credentials: found, access key …WXYZ, renewed before they expire at 1970-01-01T00:00:00Z";
        assert_eq!(line, expected);
        assert_eq!(credentials(&Err(error(Class::Transient))).level, Level::Problem);
        assert_eq!(identity(&Err(error(Class::Transient))).level, Level::Warning);
    }

    #[test]
    fn a_clock_is_off_from_one_minute_and_broken_from_five() {
        let check = |skew, expected| assert_eq!(clock(skew).level, expected, "{skew:?}");
        check(Some(0), Level::Ok);
        check(Some(60), Level::Ok);
        check(Some(61), Level::Warning);
        check(Some(-300), Level::Warning);
        check(Some(301), Level::Problem);
        check(Some(i64::MIN), Level::Problem);
        check(None, Level::Warning);
    }

    #[test]
    fn a_network_that_cannot_be_reached_is_a_problem() {
        let check = |network: Option<Network>, expected| assert_eq!(super::network(&network).level, expected);
        let to = |failure: Option<&str>| {
            Some(Network { endpoint: "https://e".into(), proxy: None, failure: failure.map(Into::into) })
        };
        check(to(None), Level::Ok);
        check(to(Some("refused")), Level::Problem);
        check(None, Level::Warning);
    }

    // R-M16
    #[test]
    fn describing_is_a_convenience_and_putting_is_not() {
        let check = |result: Result<Description, WatchError>, expected| {
            assert_eq!(describing(&result).level, expected, "{result:?}");
        };
        check(Ok(description("DirectPut", "ACTIVE")), Level::Ok);
        check(Err(WatchError::Denied(error(Class::Permanent))), Level::Warning);
        check(Err(WatchError::Missing(error(Class::Permanent))), Level::Problem);
        check(Err(WatchError::Failed(error(Class::Transient))), Level::Problem);
        let check = |result, expected| assert_eq!(putting(&result).level, expected, "{result:?}");
        check(Ok(()), Level::Ok);
        check(Err(error(Class::Refused)), Level::Ok);
        check(Err(error(Class::Throttled)), Level::Warning);
        check(Err(error(Class::Transient)), Level::Problem);
        check(Err(error(Class::Permanent)), Level::Problem);
    }

    #[test]
    fn reading_metrics_is_a_convenience_and_publishing_was_asked_for() {
        let check = |result: Result<(), WatchError>, [read, published]: [Level; 2]| {
            let found = [reading(&result).level, publishing(&result).level];
            assert_eq!(found, [read, published], "{result:?}");
        };
        check(Ok(()), [Level::Ok, Level::Ok]);
        check(Err(WatchError::Denied(error(Class::Permanent))), [Level::Warning, Level::Problem]);
        check(Err(WatchError::Failed(error(Class::Transient))), [Level::Warning, Level::Warning]);
        let refused = PutError { code: "MissingParameter".into(), ..error(Class::Permanent) };
        assert_eq!(publishing(&Err(WatchError::Failed(refused))).level, Level::Ok);
    }

    fn description(kind: &str, status: &str) -> Description {
        Description {
            status: status.into(),
            kind: kind.into(),
            destination: Some(Destination::S3),
            ..Description::default()
        }
    }

    #[test]
    fn only_an_active_direct_put_stream_is_fine() {
        let check = |kind, status, expected| {
            assert_eq!(stream(&description(kind, status)).level, expected, "{kind} {status}");
        };
        check("DirectPut", "ACTIVE", Level::Ok);
        check("DirectPut", "CREATING", Level::Warning);
        check("DirectPut", "CREATING_FAILED", Level::Problem);
        check("DirectPut", "DELETING", Level::Problem);
        check("DirectPut", "DELETING_FAILED", Level::Problem);
        check("KinesisStreamAsSource", "ACTIVE", Level::Problem);
        let encryption = Some("ENABLING_FAILED".to_owned());
        let failed = Description { encryption, ..description("DirectPut", "ACTIVE") };
        assert_eq!(stream(&failed).level, Level::Warning);
    }

    // R-A6
    #[test]
    fn whether_records_are_packed_is_said_with_the_reason_and_not_knowing_is_a_warning() {
        let check = |description: Option<&Description>, assignment: &str, expected: (Level, &str)| {
            let set = vec!["delivery_stream_name=app-logs".into(), assignment.into()];
            let config = crate::config::load(&Sources { set, ..Sources::default() }).unwrap().config;
            let finding = packing(description, &config);
            assert_eq!(finding.level, expected.0, "{finding}");
            assert!(finding.sentence.contains(expected.1), "{finding}");
        };
        let s3 = description("DirectPut", "ACTIVE");
        let splunk = Description { destination: Some(Destination::Splunk), ..s3.clone() };
        check(
            Some(&s3),
            "aggregate.mode=auto",
            (Level::Ok, "records are packed: S3 takes records as one text"),
        );
        check(Some(&splunk), "aggregate.mode=auto", (Level::Ok, "not packed"));
        check(Some(&s3), "aggregate.mode=off", (Level::Ok, "`aggregate.mode` is \"off\""));
        check(None, "aggregate.mode=on", (Level::Ok, "records are packed"));
        check(None, "aggregate.mode=auto", (Level::Warning, "is not known"));
    }

    // R-A8
    #[test]
    fn a_stream_that_compressed_records_do_not_fit_is_a_problem_and_its_object_names_a_warning() {
        let set = ["delivery_stream_name=app-logs", "aggregate.compression=zstd"].map(String::from).into();
        let config = crate::config::load(&Sources { set, ..Sources::default() }).unwrap().config;
        let s3 = description("DirectPut", "ACTIVE");
        let lambda = Description { processors: vec!["Lambda".to_owned()], ..s3.clone() };
        let finding = packing(Some(&lambda), &config);
        assert_eq!(finding.level, Level::Problem, "{finding}");
        assert!(
            finding.to_string().contains("Lambda") && finding.to_string().contains("take the processor off")
        );
        assert_eq!(packing(None, &config).level, Level::Problem);
        assert_eq!(packing(Some(&s3), &config).level, Level::Ok);
        let names = |extension: Option<&str>| {
            let file_extension = extension.map(str::to_owned);
            object_names(&Description { file_extension, ..s3.clone() }, Algorithm::Zstd).unwrap()
        };
        assert_eq!(names(Some(".json.zst")).level, Level::Ok);
        assert_eq!(names(Some(".gz")).level, Level::Warning);
        assert!(names(None).to_string().contains("FileExtension to .zst"));
    }

    #[test]
    fn no_delimiter_is_worth_a_warning_where_records_are_concatenated() {
        let check = |destination, bytes: &[u8], expected| {
            assert_eq!(delimiter(destination, bytes).level, expected, "{destination:?} {bytes:?}");
        };
        check(Some(Destination::S3), b"\n", Level::Ok);
        check(Some(Destination::S3), b"", Level::Warning);
        check(Some(Destination::OpenSearch), b"", Level::Ok);
        assert_eq!(delimiter(None, b"\n").sentence, "\"\\n\" follows each record");
    }

    #[test]
    fn dead_letters_want_a_writable_disk_with_room() {
        let mut config = config();
        assert_eq!(dead_letters(None, &config).level, Level::Warning);
        config.dead_letter.directory = Some("/var/lib/dead".into());
        config.dead_letter.max_bytes = 100;
        let check = |writable, medium, free_bytes, expected| {
            let store = Store { directory: "/var/lib/dead".into(), writable, medium, free_bytes };
            assert_eq!(dead_letters(Some(&store), &config).level, expected, "{store:?}");
        };
        check(true, Medium::Disk, 100, Level::Ok);
        check(true, Medium::Network, 100, Level::Ok);
        check(true, Medium::Disk, 99, Level::Warning);
        check(true, Medium::Memory, 100, Level::Warning);
        check(false, Medium::Disk, 100, Level::Problem);
        assert_eq!(dead_letters(None, &config).level, Level::Problem);
    }

    #[test]
    fn a_store_is_looked_at_where_it_is_or_would_be() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let check = |path: &Path, expected: Option<bool>| {
            assert_eq!(Store::look(path).map(|store| store.writable), expected, "{}", path.display());
        };
        check(directory.path(), Some(true));
        check(&directory.path().join("a/b"), Some(true));
        let file = directory.path().join("file");
        std::fs::write(&file, "").expect("the file can be written");
        check(&file.join("a"), Some(false));
        check(Path::new("not-there"), Some(true));
    }

    #[test]
    fn limits_are_compared_with_what_a_full_daemon_takes() {
        let mut config = config();
        config.buffer.memory = 8 * 1024 * 1024;
        let check = |limit, expected| assert_eq!(memory(limit, &config).level, expected, "{limit:?}");
        check(None, Level::Ok);
        check(Some(32 * 1024 * 1024), Level::Ok);
        check(Some(32 * 1024 * 1024 - 1), Level::Problem);
        let check = |limit, expected| assert_eq!(files(limit, &config).level, expected, "{limit:?}");
        check(None, Level::Ok);
        check(Some(72), Level::Ok);
        check(Some(71), Level::Warning);
    }

    #[test]
    fn memory_limits_are_looked_for_in_every_group_around_the_process() {
        let check = |groups, expected: &[&str]| {
            let expected: Vec<_> = expected.iter().map(PathBuf::from).collect();
            assert_eq!(limit_files(groups), expected, "{groups}");
        };
        check("0::/\n", &["/sys/fs/cgroup/memory.max"]);
        check(
            "0::/a/b\n",
            &["/sys/fs/cgroup/a/b/memory.max", "/sys/fs/cgroup/a/memory.max", "/sys/fs/cgroup/memory.max"],
        );
        check(
            "5:cpu:/x\n4:memory:/x\n1:name=systemd:/x\n",
            &["/sys/fs/cgroup/memory/x/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.limit_in_bytes"],
        );
        check("nonsense", &[]);
        let check = |text, expected| assert_eq!(parse_limit(text), expected, "{text}");
        check("max\n", None);
        check("33554432\n", Some(33_554_432));
        check("9223372036854771712\n", None);
    }
}
