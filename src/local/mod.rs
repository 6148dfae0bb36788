//! The embedded Firehose: a service on a loopback port that any AWS SDK can talk to as if it were
//! Amazon Data Firehose, with the service's limits and errors, and with faults on request.
//!
//! For the demo, for this project's tests and for its users' tests. Nothing reaches it unless it
//! is told to: it never stands in for AWS by itself.
//!
//! - [`Local`] is the handle: it starts the service, changes its faults, reads its counts.
//! - `server` is the shell: sockets, HTTP, the clock, the delivery of due objects; `disk` writes.
//! - Everything else is pure: `service` is the state, made of streams (`stream`) with their
//!   undelivered data (`store`) and quota (`quota`); `api` reads requests and writes answers,
//!   `faults` decides what goes wrong, `cloudwatch` answers for the metrics.
//!
//! It checks no signature (any `Authorization` will do), holds no data across a restart, and
//! delivers to directories only: streams of other types and destinations are refused.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::DropGuard;

mod api;
pub mod cloudwatch;
mod disk;
mod faults;
pub mod quota;
mod server;
mod service;
mod store;
mod stream;

pub use api::Operation;
pub use faults::{CallFault, FailCode, Faults, Poison, PoisonEffect, Refusal, Spoil};

/// How an embedded Firehose is to be.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where to listen; port 0 is any free one.
    pub listen: SocketAddr,
    /// Delivered data goes below this directory, into one directory a stream; without it data is
    /// counted and discarded.
    pub directory: Option<PathBuf>,
    /// Streams that exist from the start.
    pub streams: Vec<String>,
    /// What goes wrong.
    pub faults: Faults,
    /// Bytes a second that each stream accepts, with a burst of one second; `None` is no limit.
    pub quota_bytes: Option<u64>,
    /// The same in records.
    pub quota_records: Option<u64>,
    /// Data is delivered once there are this many bytes of it, unless the stream says otherwise.
    pub buffer_bytes: usize,
    /// Data is delivered once it has waited this long, unless the stream says otherwise.
    pub buffer_interval: Duration,
    /// Of the dice that faults are decided by.
    pub seed: u64,
}

impl Default for Options {
    /// A free loopback port, one stream named `local`, no faults, no quota, no directory, and
    /// Firehose's smallest usual buffering: 5 MiB, 60 s.
    fn default() -> Self {
        Self {
            listen: (Ipv4Addr::LOCALHOST, 0).into(),
            directory: None,
            streams: vec!["local".into()],
            faults: Faults::default(),
            quota_bytes: None,
            quota_records: None,
            buffer_bytes: 5 * 1024 * 1024,
            buffer_interval: Duration::from_secs(60),
            seed: 0,
        }
    }
}

/// Why the embedded Firehose could not do as told.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// The address cannot be listened on.
    #[error("cannot listen on {address}")]
    Bind {
        /// That address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// A stream of [`Options::streams`] cannot be.
    #[error("cannot create the streams: {0}")]
    Stream(String),
    /// At [`Local::stop`] some accepted data could not be written.
    #[error("{records} accepted records could not be written below {directory}")]
    Undelivered {
        /// Records that are lost by it.
        records: u64,
        /// Where they should have gone.
        directory: PathBuf,
        /// Why, for the last of them.
        source: io::Error,
    },
    /// The service has been stopped.
    #[error("the embedded firehose has been stopped")]
    Stopped,
}

/// What one stream has counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StreamCounts {
    /// Records accepted.
    pub records: u64,
    /// Their bytes, before base64.
    pub bytes: u64,
    /// Requests of which at least one record was accepted.
    pub requests: u64,
    /// Entries that failed, in requests that were carried out.
    pub failed_entries: u64,
    /// Requests throttled, as a whole or in part, by fault or by quota.
    pub throttled_requests: u64,
    /// Requests for the stream of which nothing was accepted because they were refused as a whole.
    pub refused_requests: u64,
    /// Requests of which records were accepted and whose answer was withheld or spoilt.
    pub ambiguous_requests: u64,
    /// The records accepted in those: an honest client sends them again.
    pub ambiguous_records: u64,
    /// Records delivered (or discarded, without a directory).
    pub delivered_records: u64,
    /// Their bytes.
    pub delivered_bytes: u64,
    /// The objects that they were delivered in.
    pub objects: u64,
}

impl StreamCounts {
    /// Adds `other` to these counts.
    pub fn add(&mut self, other: &Self) {
        self.records += other.records;
        self.bytes += other.bytes;
        self.requests += other.requests;
        self.failed_entries += other.failed_entries;
        self.throttled_requests += other.throttled_requests;
        self.refused_requests += other.refused_requests;
        self.ambiguous_requests += other.ambiguous_requests;
        self.ambiguous_records += other.ambiguous_records;
        self.delivered_records += other.delivered_records;
        self.delivered_bytes += other.delivered_bytes;
        self.objects += other.objects;
    }
}

/// What the service has counted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    /// By stream; deleted streams included.
    pub streams: BTreeMap<String, StreamCounts>,
    /// Requests whose connection was reset before their body was read.
    pub resets: u64,
}

impl Counts {
    /// All streams together.
    #[must_use]
    pub fn total(&self) -> StreamCounts {
        let mut total = StreamCounts::default();
        self.streams.values().for_each(|stream| total.add(stream));
        total
    }
}

/// One request as the service saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestSummary {
    /// When its head had arrived, since the service was started.
    pub at: Duration,
    /// What it asked for; `None` if nothing that is known here.
    pub operation: Option<Operation>,
    /// The stream that it named, as far as that was read.
    pub stream: String,
    /// Records in it.
    pub records: usize,
    /// Their bytes, before base64.
    pub bytes: usize,
    /// What became of it.
    pub outcome: Outcome,
}

/// What became of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It was answered with HTTP 200.
    Answered {
        /// Entries that failed.
        failed: usize,
    },
    /// It was refused as a whole.
    Refused {
        /// The error's code.
        code: &'static str,
    },
    /// Its connection was reset before its body was read; nothing was accepted.
    Reset,
    /// Its connection was reset in place of the answer.
    Cut {
        /// Records that were accepted all the same.
        accepted: usize,
    },
}

/// A running embedded Firehose. Clones are handles on the same one; when the last is dropped
/// without [`Local::stop`], it ends and what it had not delivered is gone.
#[derive(Debug, Clone)]
pub struct Local {
    shell: Arc<server::Shell>,
    _ends: Arc<DropGuard>,
}

impl Local {
    /// Starts the service; it listens when this returns.
    ///
    /// # Errors
    ///
    /// [`LocalError::Bind`] and [`LocalError::Stream`].
    pub async fn start(options: Options) -> Result<Self, LocalError> {
        let shell = server::Shell::start(options).await?;
        let ends = Arc::new(shell.ends());
        Ok(Self { shell, _ends: ends })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.shell.address()
    }

    /// The endpoint URL to give to an SDK.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address())
    }

    /// Replaces the faults, for every request that arrives from now on.
    pub fn set_faults(&self, faults: Faults) {
        self.shell.service().faults = faults;
    }

    /// What was counted so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.shell.service().counts()
    }

    /// The last 10,000 requests that are over, the oldest first.
    #[must_use]
    pub fn requests(&self) -> Vec<RequestSummary> {
        self.shell.service().recent()
    }

    /// Plays an outage. Down: when this returns the port is closed and no connection is left; a
    /// request that was under way has its connection reset, an answer that was under way is sent.
    /// Up: the same port listens again.
    ///
    /// # Errors
    ///
    /// [`LocalError::Bind`] if the port has been taken in the meantime, [`LocalError::Stopped`].
    pub async fn set_down(&self, down: bool) -> Result<(), LocalError> {
        self.shell.set_down(down).await
    }

    /// Stops accepting, answers what has arrived, delivers everything and returns the final
    /// counts. Stopping twice does no harm.
    ///
    /// # Errors
    ///
    /// [`LocalError::Undelivered`].
    pub async fn stop(&self) -> Result<Counts, LocalError> {
        self.shell.stop().await
    }
}
