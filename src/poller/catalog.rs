//! Which of CloudWatch's metrics are read, by where the stream delivers: pure.
//!
//! Source of names, units and statistics:
//! <https://docs.aws.amazon.com/firehose/latest/dev/cloudwatch-metrics.html>. `FailedPutCount` is
//! none of them: it is a field of an answer.

use crate::firehose::{Destination, Query, Statistic};
use crate::telemetry::stream::Reading;

/// A metric to ask for, and what its value is then called.
pub type Wanted = (Reading, Query);

/// What the stream takes in: the sums of a minute, after throttling.
const INCOMING: [Wanted; 4] = [
    wanted(Reading::IncomingBytes, "IncomingBytes", Statistic::Sum),
    wanted(Reading::IncomingRecords, "IncomingRecords", Statistic::Sum),
    wanted(Reading::IncomingPutRequests, "IncomingPutRequests", Statistic::Sum),
    wanted(Reading::ThrottledRecords, "ThrottledRecords", Statistic::Sum),
];

/// The stream's quotas. They change seldom, and then the lower value is the safe one.
const LIMITS: [Wanted; 3] = [
    wanted(Reading::BytesPerSecondLimit, "BytesPerSecondLimit", Statistic::Minimum),
    wanted(Reading::RecordsPerSecondLimit, "RecordsPerSecondLimit", Statistic::Minimum),
    wanted(Reading::PutRequestsPerSecondLimit, "PutRequestsPerSecondLimit", Statistic::Minimum),
];

const fn wanted(reading: Reading, metric: &'static str, statistic: Statistic) -> Wanted {
    (reading, Query { metric, statistic })
}

/// What to ask of a stream that delivers to `destination`; of an unknown one, nothing about its
/// deliveries. The quotas only if asked for.
pub fn queries(destination: Option<Destination>, limits: bool) -> Vec<Wanted> {
    let limits = LIMITS.into_iter().filter(|_| limits);
    INCOMING.into_iter().chain(limits).chain(destination.into_iter().flat_map(delivery)).collect()
}

/// How old what is not delivered is, and the share of deliveries that succeed.
fn delivery(destination: Destination) -> Vec<Wanted> {
    let (freshness, success) = match destination {
        Destination::S3 => ("DeliveryToS3.DataFreshness", Some("DeliveryToS3.Success")),
        // It goes by way of S3.
        Destination::Redshift => ("DeliveryToS3.DataFreshness", Some("DeliveryToRedshift.Success")),
        Destination::OpenSearch => (
            "DeliveryToAmazonOpenSearchService.DataFreshness",
            Some("DeliveryToAmazonOpenSearchService.Success"),
        ),
        Destination::OpenSearchServerless => (
            "DeliveryToAmazonOpenSearchServerless.DataFreshness",
            Some("DeliveryToAmazonOpenSearchServerless.Success"),
        ),
        Destination::Splunk => ("DeliveryToSplunk.DataFreshness", Some("DeliveryToSplunk.Success")),
        Destination::HttpEndpoint => {
            ("DeliveryToHttpEndpoint.DataFreshness", Some("DeliveryToHttpEndpoint.Success"))
        }
        Destination::Snowflake => ("DeliveryToSnowflake.DataFreshness", Some("DeliveryToSnowflake.Success")),
        // Its success is a number of commits, and no share of anything.
        Destination::Iceberg => ("DeliveryToIceberg.DataFreshness", None),
    };
    let freshness = wanted(Reading::DataFreshness, freshness, Statistic::Maximum);
    let success = success.map(|metric| wanted(Reading::DeliverySuccess, metric, Statistic::Average));
    [freshness].into_iter().chain(success).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    // R-M1
    #[test]
    fn what_is_asked_follows_from_the_destination() {
        let names = |destination, limits| -> Vec<_> {
            queries(destination, limits).into_iter().map(|(_, query)| query.metric).collect()
        };
        assert_eq!(
            names(None, false),
            ["IncomingBytes", "IncomingRecords", "IncomingPutRequests", "ThrottledRecords"]
        );
        assert_eq!(names(None, true).len(), 7);
        let all = names(Some(Destination::S3), true);
        assert_eq!(all[7..], ["DeliveryToS3.DataFreshness", "DeliveryToS3.Success"]);
        assert_eq!(names(Some(Destination::Iceberg), false)[4..], ["DeliveryToIceberg.DataFreshness"]);
    }

    // R-M1
    #[test]
    fn every_reading_has_a_metric() {
        let asked: Vec<_> =
            queries(Some(Destination::S3), true).into_iter().map(|(reading, _)| reading).collect();
        assert_eq!(asked, Reading::ALL);
    }
}
