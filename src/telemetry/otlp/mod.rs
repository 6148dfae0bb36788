//! Figures and traces to an OpenTelemetry collector, by OTLP over HTTP.
//!
//! On only where an endpoint is configured. Off, nothing of it is made, and the flush task looks
//! at one `Option` an answer. On, it has tasks of its own, and a thread of the SDK's; a collector
//! that is slow, down or mad costs what it has asked to be sent, and delivery nothing.

#[cfg(feature = "otlp")]
mod client;
#[cfg(feature = "otlp")]
mod export;
#[cfg(feature = "otlp")]
mod metrics;
#[cfg(not(feature = "otlp"))]
mod off;
#[cfg(feature = "otlp")]
mod settings;
#[cfg(feature = "otlp")]
mod traces;

use std::time::Instant;

#[cfg(feature = "otlp")]
pub use export::{Export, Plan, plan};
#[cfg(not(feature = "otlp"))]
pub use off::{Export, Plan, Trace, Traces, plan};
#[cfg(feature = "otlp")]
pub use traces::{Trace, Traces};

use crate::firehose::Operation;

/// `otlp.endpoint` in a build that can't export.
#[derive(Debug, thiserror::Error)]
#[error(
    "`otlp.endpoint` is set, but this hydrant was built without its feature `otlp`; build it with it, or unset the key"
)]
pub struct NotBuilt;

/// A request that was answered, as a trace tells of it.
#[derive(Debug, Clone, Copy)]
pub struct Request {
    /// The call.
    pub operation: Operation,
    /// When its oldest record was read.
    pub oldest: Instant,
    /// When it was sent.
    pub sent: Instant,
    /// When its answer, or its failure, was there.
    pub answered: Instant,
    /// Records in it.
    pub records: usize,
    /// Bytes of records in it.
    pub bytes: usize,
    /// Records that the service took.
    pub delivered: usize,
    /// Entries that failed; `None` where the request failed as a whole.
    pub failed_put_count: Option<usize>,
    /// 1 for records that were never sent before.
    pub attempt: u32,
}
