//! The configuration: what a user may set, validated.
//!
//! Everything past this room works with these types; no other room reads a file, an environment
//! variable or a raw string of the user's.
//!
//! [`load`] reads the layers. Inside, `table` is the whole configuration at a glance, `form` the
//! ways in which values are written, `layer` what each place says, `resolve` what they mean
//! together, `later` the keys that are still to come, and `schema` the table for others.

mod form;
mod layer;
mod problem;
mod resolve;
mod schema;
mod source;
mod table;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;

pub use form::connect_address;
pub use problem::{Problem, Problems};
pub use schema::{json_schema, reference};
pub use source::{Sources, load};

/// A valid configuration and what there is to say about it.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// What is accepted but probably not what was meant, a sentence each.
    pub warnings: Vec<String>,
    /// Every key with the value in force, in the order of the reference file.
    pub values: Vec<Effective>,
}

/// A key and the value that it has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Effective {
    /// The key, dotted.
    pub key: String,
    /// The value as TOML.
    pub value: String,
    /// The layer that set it: a file's path, a variable's name, `--set` or `default`.
    pub from: String,
}

/// Everything a daemon needs to know, in range and consistent.
#[derive(Debug, Clone)]
pub struct Config {
    /// The delivery stream that records go to.
    pub delivery_stream_name: String,
    /// AWS region; without one the SDK's default chain decides.
    pub region: Option<String>,
    /// Another Firehose endpoint.
    pub endpoint_url: Option<String>,
    /// Most records in one request, 1 to [`crate::limits::MAX_BATCH_RECORDS`].
    pub max_batch_size: usize,
    /// Most bytes of record data in one request, up to [`crate::limits::MAX_BATCH_BYTES`].
    pub max_batch_size_bytes: usize,
    /// Longest wait of an open batch's oldest record.
    pub linger: Duration,
    /// Follows each record that does not already end with it; may be empty.
    pub delimiter: Bytes,
    /// The listeners by name.
    pub listen: BTreeMap<String, ListenConfig>,
    /// Streams by record.
    pub route: Option<RouteConfig>,
    /// What is added to records.
    pub stamp: Option<StampConfig>,
    /// What is held and what happens when no more can be.
    pub buffer: BufferConfig,
    /// Packing of small records into large ones.
    pub aggregate: AggregateConfig,
    /// Waiting and trying again.
    pub retry: RetryConfig,
    /// Requests.
    pub send: SendConfig,
    /// Where undeliverable records go.
    pub dead_letter: DeadLetterConfig,
    /// The stream's own state and metrics, and the daemon's in CloudWatch.
    pub monitor: MonitorConfig,
    /// Metrics and traces to an OpenTelemetry collector.
    pub otlp: OtlpConfig,
    /// Health, metrics and status over HTTP; `None` is off.
    pub admin: Option<Address>,
    /// The daemon's own log.
    pub log: LogConfig,
    /// From SIGTERM to exit.
    pub shutdown_drain: Duration,
}

/// Most delivery streams of one daemon: each has a share of the memory, and of the spool's disk.
pub const MAX_STREAMS: usize = 16;

impl Config {
    /// Every delivery stream that records may go to, the one of `delivery_stream_name` first.
    #[must_use]
    pub fn streams(&self) -> Vec<&str> {
        let listed = self.listen.values().filter_map(|listen| listen.delivery_stream_name.as_deref());
        let routed = self.route.iter().flat_map(|route| {
            route.streams.iter().map(|(_, stream)| stream).chain([&route.otherwise]).map(String::as_str)
        });
        let others: BTreeSet<_> = listed.chain(routed).collect();
        let first = self.delivery_stream_name.as_str();
        std::iter::once(first).chain(others.into_iter().filter(|other| *other != first)).collect()
    }

    /// Bytes of `buffer.memory` for each of them, and for what is still to be routed or stamped.
    #[must_use]
    pub fn memory_of_each(&self) -> usize {
        let is_moved = self.route.is_some() || self.stamp.is_some();
        self.buffer.memory / (self.streams().len() + usize::from(is_moved))
    }

    /// Checks that there is something to listen on, which not every command needs.
    ///
    /// # Errors
    ///
    /// [`Problem::Missing`] where no listener is configured.
    pub fn require_listeners(&self) -> Result<(), Problem> {
        if self.listen.is_empty() {
            let key = "listen.NAME.address".to_owned();
            return Err(Problem::Missing { variable: layer::variable(&key), key });
        }
        Ok(())
    }
}

/// One listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenConfig {
    /// Where producers connect.
    pub address: Address,
    /// The delivery stream that its records go to; none where that of the daemon is, or each record says.
    pub delivery_stream_name: Option<String>,
    /// How records are framed.
    pub protocol: Protocol,
    /// What becomes of a message of [`Protocol::Syslog`].
    pub format: SyslogFormat,
    /// Permission bits of the socket file.
    pub mode: u32,
    /// Longest record, its delimiter included; a longer one is rejected as a whole.
    pub max_record_bytes: usize,
    /// Most connections at once; further ones wait in the kernel's queue.
    pub max_connections: usize,
    /// Most bytes that its connections may send a second.
    pub max_bytes_per_second: Option<NonZeroU64>,
    /// A connection that sends nothing for this long is closed; `None` is never.
    pub idle_timeout: Option<Duration>,
    /// What the daemon tells the producer of its records.
    pub acks: Acks,
    /// Who may connect to a Unix socket.
    pub allow: Allow,
    /// For an address of [`Address::Tls`].
    pub tls: Option<TlsConfig>,
    /// For [`Protocol::Forward`].
    pub forward: ForwardConfig,
    /// What requests of [`Protocol::Firehose`] must be signed with; without it any signature will do.
    pub signing: Option<SigningKey>,
}

/// What there is to choose of Fluent Forward.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForwardConfig {
    /// Key of a record's time; empty for none.
    pub time_key: String,
    /// Key of its tag; empty for none.
    pub tag_key: String,
    /// What a producer has to know.
    pub shared_key: Option<Secret>,
}

/// A pair of keys that requests are signed with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SigningKey {
    /// The one that requests name.
    pub access_key_id: String,
    /// The other.
    pub secret_access_key: Secret,
}

/// What is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Of `text`.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// The secret itself, for whoever has to know it.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(SHOWN_SECRET)
    }
}

/// What stands for a secret.
const SHOWN_SECRET: &str = "(secret)";

/// `stamp.*`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StampConfig {
    /// The name of the member that is added.
    pub field: String,
    /// What tells this daemon from others; none is the name of the host.
    pub daemon: Option<String>,
}

/// `route.*`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteConfig {
    /// The name of the member that decides.
    pub field: String,
    /// Its values, each with a stream.
    pub streams: Vec<(String, String)>,
    /// The stream of all other records.
    pub otherwise: String,
}

/// Who may connect to a Unix socket, by the numbers of users and groups; if both are none, whoever can
/// open it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Allow {
    /// `allow_uids`.
    pub uids: Option<Vec<u32>>,
    /// `allow_gids`.
    pub gids: Option<Vec<u32>>,
}

impl Allow {
    /// Whether a process of this user and this main group may.
    #[must_use]
    pub fn admits(&self, uid: u32, gid: u32) -> bool {
        let has = |ids: &Option<Vec<u32>>, id| ids.as_ref().is_some_and(|ids| ids.contains(&id));
        (self.uids.is_none() && self.gids.is_none()) || has(&self.uids, uid) || has(&self.gids, gid)
    }
}

/// What a listener proves itself by, and asks of producers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsConfig {
    /// The file of the certificate chain.
    pub cert: PathBuf,
    /// The file of the private key.
    pub key: PathBuf,
    /// The file of the authorities that vouch for producers, if they must be vouched for.
    pub client_ca: Option<PathBuf>,
}

/// An address to listen on or to connect to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Address {
    /// `unix:PATH`, a stream socket.
    Unix(PathBuf),
    /// `unix-dgram:PATH`, a datagram socket.
    UnixDatagram(PathBuf),
    /// `tcp:HOST:PORT`, resolved; without a host, loopback.
    Tcp(SocketAddr),
    /// `tls:HOST:PORT`, as [`Address::Tcp`], with TLS.
    Tls(SocketAddr),
    /// `stdin:`, the daemon's standard input.
    Stdin,
    /// `fd:NAME`, sockets that systemd listens on and passes under this name.
    Activated(String),
}

impl Address {
    /// The TCP address, with TLS on top or not.
    #[must_use]
    pub fn tcp(&self) -> Option<&SocketAddr> {
        match self {
            Self::Tcp(address) | Self::Tls(address) => Some(address),
            Self::Unix(_) | Self::UnixDatagram(_) | Self::Stdin | Self::Activated(_) => None,
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::UnixDatagram(path) => write!(f, "unix-dgram:{}", path.display()),
            Self::Tcp(address) => write!(f, "tcp:{address}"),
            Self::Tls(address) => write!(f, "tls:{address}"),
            Self::Stdin => f.write_str("stdin:"),
            Self::Activated(name) => write!(f, "fd:{name}"),
        }
    }
}

/// How records are framed on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// One record a line, ended by LF or CRLF.
    Lines,
    /// A length of 4 bytes, big-endian, before each record.
    Frames,
    /// Fluent Forward.
    Forward,
    /// Requests of HTTP, each with records in its body.
    Http,
    /// Requests of the Firehose API.
    Firehose,
    /// Messages of RFC 5424 and RFC 3164, framed as in RFC 6587.
    Syslog,
}

/// What record a syslog message becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyslogFormat {
    /// The message as it came.
    Raw,
    /// A JSON object of its parts.
    Json,
}

impl Protocol {
    /// As it is configured.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Lines => "lines",
            Self::Frames => "frames",
            Self::Forward => "forward",
            Self::Syslog => "syslog",
            Self::Http => "http",
            Self::Firehose => "firehose",
        }
    }

    /// Whether producers make requests and get answers.
    #[must_use]
    pub const fn has_requests(self) -> bool {
        match self {
            Self::Lines | Self::Frames | Self::Syslog | Self::Forward => false,
            Self::Http | Self::Firehose => true,
        }
    }

    /// What producers are told unless `acks` says otherwise: where each record or request has its
    /// answer, that it is as safe as the daemon makes it.
    #[must_use]
    pub const fn acks(self, spooled: bool) -> Acks {
        match self {
            Self::Lines | Self::Frames | Self::Syslog => Acks::Off,
            Self::Http | Self::Firehose | Self::Forward if spooled => Acks::Durable,
            Self::Http | Self::Firehose | Self::Forward => Acks::Received,
        }
    }
}

/// Which level of safety the daemon reports to the producer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acks {
    /// Nothing is written to the connection.
    Off,
    /// The record is in memory.
    Received,
    /// The record is in the spool.
    Durable,
    /// Firehose answered that it has the record.
    Delivered,
}

/// `buffer.*`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BufferConfig {
    /// Hard bound on the bytes held in memory.
    pub memory: usize,
    /// Where records are kept beside that; `None` is memory alone.
    pub spool: Option<SpoolConfig>,
    /// What gives way when that is reached.
    pub on_full: OnFull,
}

/// `buffer.directory`, `buffer.disk` and `buffer.sync`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpoolConfig {
    /// Its directory.
    pub directory: PathBuf,
    /// Most bytes that it may take.
    pub limit_bytes: u64,
    /// What durable means.
    pub sync: BufferSync,
}

/// When a record in the spool is called durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BufferSync {
    /// When the disk itself has it.
    Always,
    /// When the kernel has it.
    Os,
}

/// What happens to records when the buffer is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnFull {
    /// Reading stops until there is room: producers feel backpressure, nothing is lost.
    Block,
    /// What arrives is dropped and counted.
    DropNewest,
    /// What has waited longest is dropped and counted.
    DropOldest,
}

/// `aggregate.*`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AggregateConfig {
    /// Whether records are packed.
    pub mode: AggregateMode,
    /// Most bytes of a packed record.
    pub max_record: usize,
    /// Most records in a packed one; `None` is no bound.
    pub max_lines: Option<usize>,
    /// How what is sent is compressed; `None` is not at all.
    pub compression: Option<Compression>,
}

/// How records of Firehose's are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compression {
    /// The format.
    pub algorithm: Algorithm,
    /// How hard is tried, in the format's own numbers.
    pub level: u32,
}

/// A format of compression.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// RFC 1952.
    Gzip,
    /// RFC 8878.
    Zstd,
}

impl Algorithm {
    /// Both formats.
    pub const ALL: [Self; 2] = [Self::Gzip, Self::Zstd];

    /// Its name in `aggregate.compression`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        }
    }

    /// How names of files in it end.
    #[must_use]
    pub const fn extension(self) -> &'static str {
        match self {
            Self::Gzip => ".gz",
            Self::Zstd => ".zst",
        }
    }

    /// The levels that `aggregate.compression_level` may be, from 1.
    #[must_use]
    pub const fn highest_level(self) -> u32 {
        match self {
            Self::Gzip => 9,
            Self::Zstd => 19,
        }
    }

    /// The level without `aggregate.compression_level`: beyond it a few percent less cost a multiple of the
    /// processor time (`docs/BENCHMARKS.md`).
    #[must_use]
    pub const fn default_level(self) -> u32 {
        match self {
            Self::Gzip => 2,
            Self::Zstd => 1,
        }
    }
}

/// Whether records are packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AggregateMode {
    /// Where the stream is known to take packed records well.
    Auto,
    /// Whatever the stream is.
    On,
    /// Never.
    Off,
}

/// `retry.*`
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RetryConfig {
    /// Retries of a record's own failures.
    pub max_retries: u32,
    /// First wait.
    pub base_delay: Duration,
    /// Longest wait before jitter.
    pub max_delay: Duration,
    /// Largest part of a wait that is added to it at random, 0 to 1.
    pub jitter: f64,
    /// How long a stream-wide failure is waited out; `None` is for ever.
    pub give_up_after: Option<Duration>,
}

/// `send.*`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SendConfig {
    /// Most requests at once.
    pub max_in_flight: usize,
    /// Bound on one attempt from start to answer.
    pub attempt_timeout: Duration,
    /// Bound on opening a connection.
    pub connect_timeout: Duration,
    /// Bound on waiting for the first byte of an answer once the request is sent.
    pub read_timeout: Duration,
    /// Our serialiser for `PutRecordBatch`, or the SDK's own.
    pub fast_body: bool,
}

/// `dead_letter.*`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetterConfig {
    /// Directory of the store; without one undeliverable records are dropped, counted and said.
    pub directory: Option<PathBuf>,
    /// Most bytes the store may take.
    pub max_bytes: u64,
}

/// `monitor.*`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MonitorConfig {
    /// Time between two looks and between two publications; `None` is never.
    pub interval: Option<Duration>,
    /// Where the daemon's own figures are published; `None` is nowhere.
    pub publish_namespace: Option<String>,
    /// Another CloudWatch endpoint.
    pub endpoint_url: Option<String>,
}

/// `otlp.*`
#[derive(Debug, Clone, PartialEq)]
pub struct OtlpConfig {
    /// The collector; `None` leaves it to the standard variables.
    pub endpoint: Option<String>,
    /// Share of the flushes that are traced, 0 to 1.
    pub trace_ratio: f64,
}

/// `log.*`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogConfig {
    /// Least important level that is written; `None` is silence.
    pub level: Option<tracing::Level>,
    /// Form of a line.
    pub format: LogFormat,
}

/// Form of the log's lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// Text on a terminal, JSON elsewhere.
    Auto,
    /// For humans.
    Text,
    /// One JSON object a line.
    Json,
}
