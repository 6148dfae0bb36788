//! Looking at a delivery stream from outside, behind one small trait.

use std::future::Future;
use std::time::SystemTime;

use super::{Class, Description, PutError};

/// Looks at delivery streams, one attempt a call, within the timeouts of an attempt.
pub trait Watch: Send + Sync + 'static {
    /// What `DescribeDeliveryStream` says of `stream`.
    ///
    /// # Errors
    ///
    /// [`WatchError`]
    fn describe(&self, stream: &str) -> impl Future<Output = Result<Description, WatchError>> + Send;

    /// The datapoints of `queries`, in their order, by `GetMetricData`: those whose minute began
    /// between `start` and `end`, the latest first; none for a metric without values.
    ///
    /// # Errors
    ///
    /// [`WatchError`]
    fn metrics(
        &self,
        stream: &str,
        queries: &[Query],
        start: SystemTime,
        end: SystemTime,
    ) -> impl Future<Output = Result<Vec<Vec<Datapoint>>, WatchError>> + Send;

    /// Puts figures into CloudWatch by `PutMetricData`, in one call.
    ///
    /// # Errors
    ///
    /// [`WatchError`]
    fn publish(&self, publication: &Publication<'_>) -> impl Future<Output = Result<(), WatchError>> + Send;
}

/// One of the metrics that Firehose publishes of a stream, in periods of a minute.
///
/// Source: <https://docs.aws.amazon.com/firehose/latest/dev/monitoring-with-cloudwatch-metrics.html>
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Query {
    /// Its name in the namespace `AWS/Firehose`.
    pub metric: &'static str,
    /// What is wanted of a minute's values.
    pub statistic: Statistic,
}

/// What CloudWatch makes of the values of a period.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is CloudWatch's own word")]
pub enum Statistic {
    Sum,
    Average,
    Minimum,
    Maximum,
}

impl Statistic {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Sum => "Sum",
            Self::Average => "Average",
            Self::Minimum => "Minimum",
            Self::Maximum => "Maximum",
        }
    }
}

/// A value, and the start of the period that it is for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Datapoint {
    /// Start of its period.
    pub at: SystemTime,
    /// The value.
    pub value: f64,
}

/// Figures for CloudWatch, all of one moment.
#[derive(Debug, Clone)]
pub struct Publication<'a> {
    /// Where to; must not begin with `AWS/`.
    pub namespace: &'a str,
    /// The delivery stream, a dimension of every figure.
    pub stream: &'a str,
    /// The figures: 1 to [`crate::limits::MAX_PUBLISHED_METRICS`].
    pub data: &'a [Datum],
    /// When they were taken.
    pub at: SystemTime,
    /// Whether they are kept by the second instead of by the minute.
    pub high_resolution: bool,
}

/// One figure as a statistic set: what is known of all values since the last publication.
#[derive(Debug, Clone, PartialEq)]
pub struct Datum {
    /// Its name.
    pub name: &'static str,
    /// CloudWatch's word for its unit: `Count`, `Bytes`, `Seconds`.
    pub unit: &'static str,
    /// Number of values, above zero.
    pub samples: f64,
    /// Their sum.
    pub sum: f64,
    /// The least of them.
    pub minimum: f64,
    /// The greatest of them.
    pub maximum: f64,
}

/// Why the stream could not be looked at, or nothing published.
#[derive(Debug, Clone, thiserror::Error)]
pub enum WatchError {
    /// The policy does not allow it; putting records may work all the same.
    #[error(transparent)]
    Denied(PutError),
    /// There is no such stream.
    #[error(transparent)]
    Missing(PutError),
    /// There were too many calls of the kind: ask again later than planned.
    #[error(transparent)]
    Throttled(PutError),
    /// Anything else: ask again later.
    #[error(transparent)]
    Failed(PutError),
}

impl WatchError {
    /// What went wrong, in a sentence that says what to do.
    #[must_use]
    pub fn message(&self) -> &str {
        match self {
            Self::Denied(error) | Self::Missing(error) | Self::Throttled(error) | Self::Failed(error) => {
                &error.message
            }
        }
    }
}

impl From<PutError> for WatchError {
    fn from(error: PutError) -> Self {
        match &*error.code {
            "AccessDenied" | "AccessDeniedException" | "UnauthorizedOperation" | "NotAuthorized" => {
                Self::Denied(error)
            }
            "ResourceNotFoundException" => Self::Missing(error),
            _ if error.class == Class::Throttled => Self::Throttled(error),
            _ => Self::Failed(error),
        }
    }
}
