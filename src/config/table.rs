//! The whole configuration as a table: each key once, with its form, its default and its meaning.
//!
//! The readers of files and environment, `hydrant check`, `hydrant schema` and the reference file
//! all work from these tables, so a key is added, changed or removed here and nowhere else.

use std::collections::BTreeMap;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::form::{
    AccessKeyId, AdminAddress, Cadence, Count, Delimiter, Directory, File, Flag, Fraction, Ids, Key,
    ListenAddress, Maybe, Mode, Namespace, Patience, Region, Rules, SecretText, Setting, SharedKey, Size,
    StreamName, Url, Wait,
};
use super::{Acks, AggregateMode, Algorithm, BufferSync, LogFormat, OnFull, Protocol, SyslogFormat};
use crate::limits;

/// Other spellings of keys, accepted wherever the key is.
pub(super) const ALIASES: [(&str, &str); 3] = [
    ("deliveryStreamName", "delivery_stream_name"),
    ("maxBatchSize", "max_batch_size"),
    ("maxBatchSizeBytes", "max_batch_size_bytes"),
];

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
const GIB: u64 = 1024 * MIB;
const TIB: u64 = 1024 * GIB;

const SECOND: u64 = 1000;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

const MAX_BATCH_RECORDS: u64 = limits::MAX_BATCH_RECORDS as u64;
const MAX_BATCH_BYTES: u64 = limits::MAX_BATCH_BYTES as u64;
const MAX_RECORD_BYTES: u64 = limits::MAX_RECORD_BYTES as u64;

/// Declares a table: rows of `key: form = default`, then the tables inside it.
macro_rules! table {
    (
        $(#[$about:meta])* $name:ident {
            $($(#[$meaning:meta])* $key:ident: $form:ty = $default:expr,)*
        }
        $(tables {
            $($(#[$inner_meaning:meta])* $inner:ident: $inner_type:ty,)*
        })?
    ) => {
        #[derive(Serialize, Deserialize, JsonSchema)]
        #[serde(default, deny_unknown_fields)]
        $(#[$about])*
        pub(super) struct $name {
            $($(#[$meaning])* pub(super) $key: Setting<$form>,)*
            $($($(#[$inner_meaning])* pub(super) $inner: $inner_type,)*)?
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $($key: Setting($default),)* $($($inner: Default::default(),)*)? }
            }
        }

        impl Keyed for $name {
            fn list(path: &str, keys: &mut Vec<String>) {
                $(keys.push(join(path, stringify!($key)));)*
                $($(<$inner_type as Keyed>::list(&join(path, stringify!($inner)), keys);)*)?
            }
        }
    };
}

/// What has keys.
trait Keyed {
    /// Adds them, dotted, behind `path`.
    fn list(path: &str, keys: &mut Vec<String>);
}

impl<T: Keyed> Keyed for BTreeMap<String, T> {
    fn list(path: &str, keys: &mut Vec<String>) {
        T::list(&join(path, "*"), keys);
    }
}

/// Every key in order, dotted, with `*` for the name of a listener.
pub(super) fn keys() -> Vec<String> {
    let mut keys = Vec::new();
    Table::list("", &mut keys);
    keys
}

/// `name` in the table at `path`.
pub(super) fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

table! {
    /// Everything that can be set.
    #[schemars(title = "Configuration of hydrant")]
    Table {
        /// The delivery stream that records go to. Required.
        delivery_stream_name: Maybe<StreamName> = None,
        /// AWS region. Without one the AWS SDK's default chain decides (`AWS_REGION`, the profile,
        /// the instance).
        region: Maybe<Region> = None,
        /// Another Firehose endpoint than the region's own.
        endpoint_url: Maybe<Url> = None,
        /// Most records in one `PutRecordBatch`.
        max_batch_size: Count<1, MAX_BATCH_RECORDS> = MAX_BATCH_RECORDS,
        /// Most bytes of record data in one `PutRecordBatch`, counted before base64.
        max_batch_size_bytes: Size<1, MAX_BATCH_BYTES> = MAX_BATCH_BYTES,
        /// Longest wait of a record for its batch to fill.
        linger: Wait<0, HOUR> = Duration::from_secs(1),
        /// Follows each record that does not already end with it, and counts towards the record's
        /// size. An empty one leaves records as they are, so that they run together at most
        /// destinations.
        delimiter: Delimiter = "\n".to_owned(),
    }
    tables {
        /// The listeners by name.
        #[schemars(extend("propertyNames" = { "pattern": "^[a-z0-9_-]{1,32}$" }))]
        listen: BTreeMap<String, Listen>,
        /// Streams by what records say of themselves. Listeners with a `delivery_stream_name` of their own
        /// are left out.
        route: Route,
        /// A mark by which copies of a record, and gaps between records, are found at the destination.
        stamp: Stamp,
        /// What is held, and what happens when no more can be.
        buffer: Buffer,
        /// Packing of small records into large ones, which Firehose bills by 5 KiB each.
        aggregate: Aggregate,
        /// Waiting and trying again: `base_delay` doubled with each retry up to `max_delay`,
        /// plus up to `jitter` of that.
        retry: Retry,
        /// Requests to Firehose.
        send: Send,
        /// Where records go that can never be delivered.
        dead_letter: DeadLetter,
        /// The stream's own state and metrics, and the daemon's in CloudWatch.
        monitor: Monitor,
        /// Health, metrics and status over HTTP.
        admin: Admin,
        /// Metrics and traces to an OpenTelemetry collector.
        otlp: Otlp,
        /// The daemon's own log.
        log: Log,
        /// Stopping.
        shutdown: Shutdown,
    }
}

table! {
    /// Streams by what records say of themselves.
    Route {
        /// Name of the top-level member, of records that are JSON objects, whose value decides; records of
        /// `forward` have their tag under `tag_key`. Without one nothing is routed by record.
        field: Key = String::new(),
        /// The streams, each as `VALUE=STREAM`. A value that ends with `*` stands for all that begin so;
        /// exact ones come first, then the longest beginning. Whole numbers, `true` and `false` are written
        /// as in JSON.
        streams: Maybe<Rules> = None,
        /// The stream of all other records; without one, the one of `delivery_stream_name`.
        otherwise: Maybe<StreamName> = None,
    }
}

table! {
    /// A mark by which copies of a record, and gaps between records, are found at the destination.
    Stamp {
        /// Name of a member that is added to records that are JSON objects: an object of `daemon`, `boot` and
        /// `sequence`. Without one nothing is added.
        field: Key = String::new(),
        /// What `daemon` says; without it the name of the host.
        daemon: Key = String::new(),
    }
}

table! {
    /// One listener; its name is lower-case letters, digits, `_` and `-`, 1 to 32 of them.
    Listen {
        /// Where producers connect. Required. `tcp:PORT` binds loopback; other interfaces have to
        /// be named, as in `tcp:0.0.0.0:PORT`.
        address: Maybe<ListenAddress> = None,
        /// How records are framed: `lines` is one record a line, ended by LF or CRLF; `frames` a length
        /// of 4 bytes, big-endian, before each record; `syslog` messages of RFC 5424 and RFC 3164, each
        /// behind its length or up to its LF, as a datagram of a `unix-dgram:` address is one; `forward` is
        /// Fluent Forward, each entry of which becomes a record in JSON; `http` takes
        /// them in the bodies of POST requests; `firehose` is the Firehose API, for programs that use an
        /// AWS SDK.
        protocol: Protocol = Protocol::Lines,
        /// The delivery stream that this listener's records go to; without one, the one of
        /// `delivery_stream_name`.
        delivery_stream_name: Maybe<StreamName> = None,
        /// What record a message of `syslog` becomes: `raw` is the message as it came, `json` an object of
        /// its parts.
        format: SyslogFormat = SyslogFormat::Raw,
        /// Permission bits of the socket file of a `unix:` or `unix-dgram:` address.
        mode: Mode = 0o660,
        /// Numbers of the users who may connect to a Unix socket, beside what `mode` allows. Without
        /// `allow_uids` and `allow_gids` whoever can open it may.
        allow_uids: Maybe<Ids> = None,
        /// Numbers of the groups whose members, by the main group of their process, may connect to a
        /// Unix socket.
        allow_gids: Maybe<Ids> = None,
        /// Certificate chain of a `tls:` address, in PEM. It and the key are read again when their files
        /// change, for connections that come then.
        cert: Maybe<File> = None,
        /// Private key of the certificate, in PEM.
        key: Maybe<File> = None,
        /// Certificates of the authorities, in PEM, one of which must have signed the certificate that a
        /// producer presents; without it producers need none.
        client_ca: Maybe<File> = None,
        /// With `firehose`, what requests must be signed with: the name of the pair of keys. Without it
        /// any signature will do, and a TCP address must be on loopback.
        access_key_id: Maybe<AccessKeyId> = None,
        /// The pair's secret, which is never printed. Better set by
        /// `HYDRANT_LISTEN__NAME__SECRET_ACCESS_KEY` than in a file.
        secret_access_key: Maybe<SecretText> = None,
        /// Longest record, its delimiter included. A longer one is rejected as a whole and counted.
        max_record_bytes: Size<1, MAX_RECORD_BYTES> = MAX_RECORD_BYTES,
        /// Most connections at once; further ones wait in the kernel's queue.
        max_connections: Count<1, 65_536> = 4096,
        /// Most bytes that its connections may send a second, all together, as they come over the wire; those
        /// of a second may come at once. What is more waits unread, so that producers wait and nothing is lost;
        /// a request of `http` or `firehose` that would wait for longer than 5 seconds is turned away, to
        /// be sent again. Without it there is no such limit.
        max_bytes_per_second: Maybe<Size<KIB, TIB>> = None,
        /// A connection that sends nothing for this long is closed; `0s` is never. With `http` and
        /// `firehose` it is one without a request, and never is 2 minutes.
        idle_timeout: Patience<0, DAY> = None,
        /// Which level the producer is told of: `received` is in memory, `durable` in the spool (which
        /// needs `buffer.directory`), `delivered` is answered by Firehose. With `lines` and `frames` as a
        /// decimal line with the connection's count of records that reached it; with `forward` as its
        /// protocol has it; with `http` and `firehose` each request is answered when its records have.
        /// Without the key it is `off`; with `forward`, `http` and `firehose` `durable` where there is a
        /// spool, else `received`.
        acks: Maybe<Acks> = None,
        /// Key under which a record of `forward` has its time, in RFC 3339; empty for none. A record that
        /// has such a key keeps its own.
        time_key: Key = "time".to_owned(),
        /// The same for its tag.
        tag_key: Key = "tag".to_owned(),
        /// What producers of `forward` have to prove that they know (Fluentd's and Fluent Bit's
        /// `shared_key`). It is never shown.
        shared_key: Maybe<SharedKey> = None,
    }
}

table! {
    /// `buffer.*`
    Buffer {
        /// Hard bound on the bytes of records held in memory, everything included.
        memory: Size<MIB, { 2 * GIB }> = 32 * MIB,
        /// Directory of the crash-safe spool, one for each daemon. Without one, records are held in
        /// memory only.
        directory: Maybe<Directory> = None,
        /// Most bytes that the spool may take. Room that is reserved ahead comes on top: one segment,
        /// an eighth of it, at most 8 MiB.
        disk: Size<{ 4 * MIB }, TIB> = GIB,
        /// When a record in the spool is durable: `always` is once the disk itself has it, one sync
        /// for all that came since the last; `os` is once the kernel has it, which survives a killed
        /// process but no power cut.
        sync: BufferSync = BufferSync::Always,
        /// What gives way when memory, or with a spool its disk, is full: `block` stops reading, so
        /// that producers wait and nothing is lost; `drop-newest` drops what arrives, `drop-oldest`
        /// what has waited longest; both count it.
        on_full: OnFull = OnFull::Block,
    }
}

table! {
    /// `aggregate.*`
    Aggregate {
        /// `auto` packs records, each followed by the delimiter, where `DescribeDeliveryStream` shows
        /// that the destination takes them so: S3 and Redshift without processing by record, and
        /// streams that take packed records apart. `on` packs whatever the stream is, `off` never.
        mode: AggregateMode = AggregateMode::Auto,
        /// Most bytes of a packed record; a longer single record stays by itself.
        max_record: Size<1, MAX_RECORD_BYTES> = MAX_RECORD_BYTES,
        /// Most records in a packed one; without it as many as fit. A stream that takes packed records
        /// apart gets 500 at most.
        max_lines: Maybe<Count<1, { u32::MAX as u64 }>> = None,
        /// Sends each record of Firehose's, packed or not, as one complete `gzip` member or `zstd` frame,
        /// so that S3's objects are files of that format. For streams that deliver to S3 as it is and no
        /// others: while the stream is known to be another, nothing is sent. Nor is it with `mode = "auto"`
        /// while the stream is not known.
        compression: Option<Algorithm> = None,
        /// How hard is tried: 1 to 9 for `gzip` (2 without the key), 1 to 19 for `zstd` (1).
        compression_level: Maybe<Count<1, 19>> = None,
    }
}

table! {
    /// `retry.*`
    Retry {
        /// Retries of a record's own failures. Trouble of the whole stream (throttling, 5xx,
        /// network, credentials) never spends them.
        max_retries: Count<0, 100> = 5,
        /// First wait.
        base_delay: Wait<1, HOUR> = Duration::from_millis(100),
        /// Longest wait, before jitter; at least `base_delay`.
        max_delay: Wait<1, HOUR> = Duration::from_secs(30),
        /// Largest part of a wait that is added to it at random.
        jitter: Fraction = 0.3,
        /// Stop waiting for trouble of the whole stream after this long, and treat the records as
        /// undeliverable.
        give_up_after: Patience<1, { 30 * DAY }> = None,
    }
}

table! {
    /// `send.*`
    Send {
        /// Most requests at once.
        max_in_flight: Count<1, 64> = 8,
        /// Bound on one attempt from its start to the whole answer.
        attempt_timeout: Wait<1, { 10 * MINUTE }> = Duration::from_secs(30),
        /// Bound on opening a connection.
        connect_timeout: Wait<1, { 10 * MINUTE }> = Duration::from_secs(3),
        /// Bound on waiting for the answer's first byte once the request is sent.
        read_timeout: Wait<1, { 10 * MINUTE }> = Duration::from_secs(30),
        /// Encode `PutRecordBatch` with hydrant's own serialiser; `false` takes the AWS SDK's.
        fast_body: Flag = true,
    }
}

table! {
    /// `dead_letter.*`
    DeadLetter {
        /// Directory of the store. Without one, undeliverable records are dropped, counted and
        /// logged as lost.
        directory: Maybe<Directory> = None,
        /// Most bytes that the store may take.
        max_bytes: Size<MIB, TIB> = 256 * MIB,
    }
}

table! {
    /// `monitor.*`
    Monitor {
        /// Time between two looks at the stream's metrics in CloudWatch, and between two
        /// publications.
        interval: Cadence<SECOND, DAY> = Some(Duration::from_secs(60)),
        /// Namespace in CloudWatch that the daemon's own figures are published in; without one
        /// they are not.
        publish_namespace: Maybe<Namespace> = None,
        /// Another CloudWatch endpoint than the region's own.
        endpoint_url: Maybe<Url> = None,
    }
}

table! {
    /// `otlp.*`
    Otlp {
        /// OpenTelemetry collector that takes OTLP over HTTP, without the path: metrics go to
        /// `/v1/metrics` below it, traces to `/v1/traces`. Without one, and without one in the
        /// standard `OTEL_EXPORTER_OTLP_…` variables, nothing is exported.
        endpoint: Maybe<Url> = None,
        /// Share of the flushes that are traced, unless `OTEL_TRACES_SAMPLER` says otherwise.
        trace_ratio: Fraction = 0.01,
    }
}

table! {
    /// `admin.*`
    Admin {
        /// Where `/livez`, `/readyz`, `/metrics`, `/status` and the status page are served.
        address: AdminAddress = Some(super::Address::Tcp(super::form::loopback(9464))),
    }
}

table! {
    /// `log.*`
    Log {
        /// Least important level that is written.
        level: Option<tracing::Level> = Some(tracing::Level::INFO),
        /// Form of a line: `auto` is text on a terminal and JSON elsewhere.
        format: LogFormat = LogFormat::Auto,
    }
}

table! {
    /// `shutdown.*`
    Shutdown {
        /// Longest time from SIGTERM to exit, spent on delivering what is held.
        drain: Wait<0, HOUR> = Duration::from_secs(25),
    }
}
