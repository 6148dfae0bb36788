//! What is known of the delivery stream itself, as the poller found it. Pure.

use std::collections::BTreeMap;
use std::time::Instant;

use crate::firehose::{Datapoint, Description};

/// Every status of a delivery stream.
///
/// Source: `DeliveryStreamStatus` in
/// <https://docs.aws.amazon.com/firehose/latest/APIReference/API_DeliveryStreamDescription.html>
pub const STATUSES: [&str; 5] = ["ACTIVE", "CREATING", "CREATING_FAILED", "DELETING", "DELETING_FAILED"];

/// One figure of the stream that CloudWatch keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reading {
    /// Bytes that the stream took in one minute, from all its producers.
    IncomingBytes,
    /// Records that the stream took in one minute.
    IncomingRecords,
    /// Requests that the stream took in one minute.
    IncomingPutRequests,
    /// Records that were throttled in one minute.
    ThrottledRecords,
    /// The stream's quota in bytes a second.
    BytesPerSecondLimit,
    /// The stream's quota in records a second.
    RecordsPerSecondLimit,
    /// The stream's quota in requests a second.
    PutRequestsPerSecondLimit,
    /// Age of the oldest record in the stream that has not reached the destination.
    DataFreshness,
    /// Share of the deliveries to the destination that succeeded.
    DeliverySuccess,
}

impl Reading {
    /// Every reading, in the order in which they are shown.
    pub const ALL: [Self; 9] = [
        Self::IncomingBytes,
        Self::IncomingRecords,
        Self::IncomingPutRequests,
        Self::ThrottledRecords,
        Self::BytesPerSecondLimit,
        Self::RecordsPerSecondLimit,
        Self::PutRequestsPerSecondLimit,
        Self::DataFreshness,
        Self::DeliverySuccess,
    ];

    /// Whether a value holds until there is another, as quotas do, and not for its minute only.
    #[must_use]
    pub const fn lasts(self) -> bool {
        matches!(
            self,
            Self::BytesPerSecondLimit | Self::RecordsPerSecondLimit | Self::PutRequestsPerSecondLimit
        )
    }

    /// The name of its gauge.
    #[must_use]
    pub const fn gauge(self) -> &'static str {
        match self {
            Self::IncomingBytes => "hydrant_stream_incoming_bytes",
            Self::IncomingRecords => "hydrant_stream_incoming_records",
            Self::IncomingPutRequests => "hydrant_stream_incoming_put_requests",
            Self::ThrottledRecords => "hydrant_stream_throttled_records",
            Self::BytesPerSecondLimit => "hydrant_stream_bytes_per_second_limit",
            Self::RecordsPerSecondLimit => "hydrant_stream_records_per_second_limit",
            Self::PutRequestsPerSecondLimit => "hydrant_stream_put_requests_per_second_limit",
            Self::DataFreshness => "hydrant_stream_data_freshness_seconds",
            Self::DeliverySuccess => "hydrant_stream_delivery_success_ratio",
        }
    }

    /// Its name in `/status`.
    #[must_use]
    pub const fn key(self) -> &'static str {
        match self {
            Self::IncomingBytes => "incoming_bytes",
            Self::IncomingRecords => "incoming_records",
            Self::IncomingPutRequests => "incoming_put_requests",
            Self::ThrottledRecords => "throttled_records",
            Self::BytesPerSecondLimit => "bytes_per_second_limit",
            Self::RecordsPerSecondLimit => "records_per_second_limit",
            Self::PutRequestsPerSecondLimit => "put_requests_per_second_limit",
            Self::DataFreshness => "data_freshness_seconds",
            Self::DeliverySuccess => "delivery_success_ratio",
        }
    }

    /// What it is, in a sentence without its full stop.
    #[must_use]
    pub const fn help(self) -> &'static str {
        match self {
            Self::IncomingBytes => "Bytes that the stream took in the last known minute, from all producers",
            Self::IncomingRecords => "Records that the stream took in the last known minute",
            Self::IncomingPutRequests => "Requests that the stream took in the last known minute",
            Self::ThrottledRecords => "Records throttled in the last known minute, of all producers",
            Self::BytesPerSecondLimit => "The stream's quota in bytes a second",
            Self::RecordsPerSecondLimit => "The stream's quota in records a second",
            Self::PutRequestsPerSecondLimit => "The stream's quota in requests a second",
            Self::DataFreshness => {
                "Age of the oldest record in the stream that has not reached the destination"
            }
            Self::DeliverySuccess => "Share of the deliveries to the destination that succeeded",
        }
    }

    /// Its unit in UCUM.
    #[must_use]
    pub const fn unit(self) -> &'static str {
        match self {
            Self::IncomingBytes => "By",
            Self::IncomingRecords | Self::ThrottledRecords => "{record}",
            Self::IncomingPutRequests => "{request}",
            Self::BytesPerSecondLimit => "By/s",
            Self::RecordsPerSecondLimit => "{record}/s",
            Self::PutRequestsPerSecondLimit => "{request}/s",
            Self::DataFreshness => "s",
            Self::DeliverySuccess => "1",
        }
    }
}

/// How a call for monitoring ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum CallOutcome {
    /// It was answered.
    Ok,
    /// The policy does not allow it.
    Denied,
    /// There were too many of its kind.
    Throttled,
    /// Anything else.
    Failed,
}

impl CallOutcome {
    /// The metric label's value.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Denied => "denied",
            Self::Throttled => "throttled",
            Self::Failed => "failed",
        }
    }
}

/// Everything that is known. Nothing, until the first poll.
#[derive(Debug, Clone, Default)]
pub struct Stream {
    /// What the stream is.
    pub description: Option<Description>,
    /// When that was asked for.
    pub described_at: Option<Instant>,
    /// The latest datapoint of each reading; one that is too old is taken out.
    pub readings: BTreeMap<Reading, Datapoint>,
    /// When the metrics were read.
    pub polled_at: Option<Instant>,
    /// The failure of the latest call of each action whose latest call failed, in a sentence.
    pub problems: BTreeMap<&'static str, String>,
    /// Calls by action (`DescribeDeliveryStream`, `GetMetricData`, `PutMetricData`) and outcome.
    pub calls: BTreeMap<(&'static str, CallOutcome), u64>,
}

impl Stream {
    /// The latest known value of `reading`; `None` is unknown, which is not zero.
    #[must_use]
    pub fn reading(&self, reading: Reading) -> Option<Datapoint> {
        self.readings.get(&reading).copied()
    }

    /// Counts a call and keeps its failure, or forgets the one before.
    pub fn called(&mut self, action: &'static str, outcome: CallOutcome, problem: Option<String>) {
        *self.calls.entry((action, outcome)).or_default() += 1;
        match problem {
            Some(problem) => drop(self.problems.insert(action, problem)),
            None => drop(self.problems.remove(action)),
        }
    }

    /// How much of each of the stream's quotas was used in the last known minute, 1 being all:
    /// bytes, records, requests. Unknown where either the use or the quota is.
    #[must_use]
    pub fn quota_use(&self) -> [Option<f64>; 3] {
        [
            (Reading::IncomingBytes, Reading::BytesPerSecondLimit),
            (Reading::IncomingRecords, Reading::RecordsPerSecondLimit),
            (Reading::IncomingPutRequests, Reading::PutRequestsPerSecondLimit),
        ]
        .map(|(used, limit)| {
            let (used, limit) = (self.reading(used)?.value / 60.0, self.reading(limit)?.value);
            (limit > 0.0).then(|| used / limit)
        })
    }

    /// Bytes that a request of the last known minute carried on average, those of all producers.
    #[must_use]
    pub fn mean_request(&self) -> Option<f64> {
        let (bytes, requests) =
            (self.reading(Reading::IncomingBytes)?, self.reading(Reading::IncomingPutRequests)?);
        (bytes.at == requests.at && requests.value > 0.0).then(|| bytes.value / requests.value)
    }

    /// The share of the records of the last known minute that was throttled, those of all producers. Where
    /// there is no value for that minute none was.
    #[must_use]
    pub fn throttled_share(&self) -> Option<f64> {
        let taken = self.reading(Reading::IncomingRecords)?;
        let throttled = self.reading(Reading::ThrottledRecords).filter(|throttled| throttled.at == taken.at);
        let throttled = throttled.map_or(0.0, |throttled| throttled.value);
        let all = taken.value + throttled;
        (all > 0.0).then(|| throttled / all)
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn quota_use_is_a_share_of_the_quota_and_unknown_without_both() {
        let mut stream = Stream::default();
        let mut read = |reading, value| {
            stream.readings.insert(reading, Datapoint { at: SystemTime::UNIX_EPOCH, value });
        };
        read(Reading::IncomingBytes, 60.0 * 512.0);
        read(Reading::BytesPerSecondLimit, 1024.0);
        read(Reading::IncomingRecords, 60.0);
        read(Reading::PutRequestsPerSecondLimit, 2000.0);
        assert_eq!(stream.quota_use(), [Some(0.5), None, None]);
    }

    #[test]
    fn requests_and_what_is_throttled_are_those_of_one_minute() {
        let mut stream = Stream::default();
        let mut read = |reading, minute: u64, value| {
            let at = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(60 * minute);
            stream.readings.insert(reading, Datapoint { at, value });
            (stream.mean_request(), stream.throttled_share())
        };
        assert_eq!(read(Reading::IncomingBytes, 2, 6000.0), (None, None));
        assert_eq!(read(Reading::IncomingPutRequests, 1, 10.0), (None, None));
        assert_eq!(read(Reading::IncomingPutRequests, 2, 3.0), (Some(2000.0), None));
        assert_eq!(read(Reading::IncomingRecords, 2, 90.0).1, Some(0.0));
        assert_eq!(read(Reading::ThrottledRecords, 1, 10.0).1, Some(0.0));
        assert_eq!(read(Reading::ThrottledRecords, 2, 10.0).1, Some(0.1));
        assert_eq!(read(Reading::IncomingPutRequests, 2, 0.0).0, None);
    }

    #[test]
    fn a_problem_stands_until_its_action_succeeds() {
        let mut stream = Stream::default();
        stream.called("GetMetricData", CallOutcome::Failed, Some("no".to_owned()));
        stream.called("DescribeDeliveryStream", CallOutcome::Ok, None);
        assert_eq!(stream.problems.len(), 1);
        stream.called("GetMetricData", CallOutcome::Ok, None);
        assert!(stream.problems.is_empty());
        assert_eq!(stream.calls[&("GetMetricData", CallOutcome::Failed)], 1);
    }
}
