//! The embedded CloudWatch: enough of it to poll the embedded Firehose's metrics and to read back
//! what was published. Pure.
//!
//! It speaks rpc-v2-cbor and awsJson1.0, the first two protocols of CloudWatch's API model, one
//! of which every current SDK chooses; the older query protocol is refused. Metrics are kept at
//! CloudWatch's standard resolution of a minute, for a day. Expressions are refused.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::api::{ApiError, Operation};

pub mod cbor;
mod metrics;

use metrics::{BUCKET_SECONDS, Name, Series, Summary};
pub(super) use metrics::{FIREHOSE, Metrics};

// Bounds: the API reference's pages of GetMetricData, GetMetricStatistics and PutMetricData.
const MAX_QUERIES: usize = 500;
const MAX_DATAPOINTS: usize = 100_800;
const MAX_STATISTICS_DATAPOINTS: usize = 1_440;
const MAX_PUT: usize = 1_000;
const MAX_VALUES: usize = 150;
const MAX_DIMENSIONS: usize = 30;

/// How requests and answers are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wire {
    /// awsJson1.1, Firehose's.
    Json11,
    /// awsJson1.0, CloudWatch's second.
    Json10,
    /// rpc-v2-cbor, CloudWatch's first.
    Cbor,
}

impl Wire {
    /// `value` as it goes out.
    pub(super) fn write(self, value: &Value) -> Vec<u8> {
        match self {
            Self::Json11 | Self::Json10 => value.to_string().into_bytes(),
            Self::Cbor => cbor::encode(value),
        }
    }

    /// The `Content-Type` of such.
    pub(super) fn content_type(self) -> &'static str {
        match self {
            Self::Json11 => "application/x-amz-json-1.1",
            Self::Json10 => "application/x-amz-json-1.0",
            Self::Cbor => "application/cbor",
        }
    }

    fn read<T: DeserializeOwned>(self, body: &[u8]) -> Result<T, ApiError> {
        let value = match self {
            Self::Json11 | Self::Json10 => return super::api::parse(body),
            Self::Cbor => cbor::decode(body).map_err(|error| ApiError::serialization(error.to_string()))?,
        };
        serde_json::from_value(value).map_err(|error| ApiError::serialization(error.to_string()))
    }
}

/// A CloudWatch request, decoded.
#[derive(Debug)]
pub(super) enum Request {
    Data(DataBody),
    Statistics(StatisticsBody),
    Put(PutBody),
}

/// The request in `body`; `None` if `operation` is not CloudWatch's.
///
/// # Errors
///
/// `SerializationException` for a body that is not what the operation takes.
pub(super) fn decode(operation: Operation, wire: Wire, body: &[u8]) -> Result<Option<Request>, ApiError> {
    Ok(Some(match operation {
        Operation::GetMetricData => Request::Data(wire.read(body)?),
        Operation::GetMetricStatistics => Request::Statistics(wire.read(body)?),
        Operation::PutMetricData => Request::Put(wire.read(body)?),
        Operation::PutRecord
        | Operation::PutRecordBatch
        | Operation::CreateDeliveryStream
        | Operation::DeleteDeliveryStream
        | Operation::DescribeDeliveryStream
        | Operation::ListDeliveryStreams => return Ok(None),
    }))
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct DataBody {
    #[serde(default)]
    metric_data_queries: Vec<Query>,
    start_time: f64,
    end_time: f64,
    scan_by: Option<String>,
    max_datapoints: Option<usize>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Query {
    id: String,
    metric_stat: Option<MetricStat>,
    label: Option<String>,
    return_data: Option<bool>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct MetricStat {
    metric: Metric,
    period: u64,
    stat: String,
    unit: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Metric {
    namespace: String,
    metric_name: String,
    #[serde(default)]
    dimensions: Vec<Dimension>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Dimension {
    name: String,
    value: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct StatisticsBody {
    #[serde(flatten)]
    metric: Metric,
    start_time: f64,
    end_time: f64,
    period: u64,
    #[serde(default)]
    statistics: Vec<String>,
    unit: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct PutBody {
    namespace: String,
    #[serde(default)]
    metric_data: Vec<Datum>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Datum {
    metric_name: String,
    #[serde(default)]
    dimensions: Vec<Dimension>,
    timestamp: Option<f64>,
    value: Option<f64>,
    statistic_values: Option<StatisticValues>,
    #[serde(default)]
    values: Vec<f64>,
    #[serde(default)]
    counts: Vec<f64>,
    unit: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct StatisticValues {
    sample_count: f64,
    sum: f64,
    minimum: f64,
    maximum: f64,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct DataAnswer {
    metric_data_results: Vec<DataResult>,
    messages: [Value; 0],
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct DataResult {
    id: String,
    label: String,
    timestamps: Vec<f64>,
    values: Vec<f64>,
    status_code: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct StatisticsAnswer {
    label: String,
    datapoints: Vec<BTreeMap<String, Value>>,
}

impl Metrics {
    /// Carries out a request that arrived at `now`.
    ///
    /// # Errors
    ///
    /// What CloudWatch says of a request that breaks its rules, or that asks for what is not here.
    pub(super) fn apply(&mut self, now: Duration, request: Request) -> Result<Value, ApiError> {
        let answer = match request {
            Request::Data(body) => serde_json::to_value(self.data(body)?),
            Request::Statistics(body) => serde_json::to_value(self.statistics(body)?),
            Request::Put(body) => self.publish(now, &body).map(|()| Ok(Value::Object(<_>::default())))?,
        };
        answer.map_err(|error| ApiError::new(500, "InternalServiceFault", error.to_string()))
    }

    fn data(&self, body: DataBody) -> Result<DataAnswer, ApiError> {
        let queries = body.metric_data_queries;
        if queries.is_empty() || queries.len() > MAX_QUERIES {
            return Err(invalid(format!("MetricDataQueries must have 1 to {MAX_QUERIES} members")));
        }
        let range = Range::new(body.start_time, body.end_time)?;
        let ascending = body.scan_by.as_deref() == Some("TimestampAscending");
        let mut left = body.max_datapoints.unwrap_or(MAX_DATAPOINTS).min(MAX_DATAPOINTS);
        let mut results = Vec::new();
        for query in queries {
            let Some(stat) = query.metric_stat else {
                let message = format!("{}: the embedded CloudWatch has no expressions", query.id);
                return Err(ApiError::new(400, "ValidationError", message));
            };
            if query.return_data == Some(false) {
                continue;
            }
            let statistic = statistic(&stat.stat)?;
            let periods = self.periods(&stat.metric, range, stat.period, stat.unit.as_deref())?;
            let mut points: Vec<(f64, f64)> =
                periods.into_iter().map(|(at, summary)| (at as f64, statistic(&summary))).collect();
            if !ascending {
                points.reverse();
            }
            points.truncate(left);
            left -= points.len();
            let (timestamps, values) = points.into_iter().unzip();
            let label = query.label.unwrap_or(stat.metric.metric_name);
            results.push(DataResult { id: query.id, label, timestamps, values, status_code: "Complete" });
        }
        Ok(DataAnswer { metric_data_results: results, messages: [] })
    }

    fn statistics(&self, body: StatisticsBody) -> Result<StatisticsAnswer, ApiError> {
        if body.statistics.is_empty() {
            let message = "At least one of the parameters Statistics must be specified";
            return Err(ApiError::new(400, "InvalidParameterCombinationException", message));
        }
        let statistics: Vec<_> = body
            .statistics
            .iter()
            .map(|name| Ok((name, statistic(name)?)))
            .collect::<Result<_, ApiError>>()?;
        let range = Range::new(body.start_time, body.end_time)?;
        let periods = self.periods(&body.metric, range, body.period, body.unit.as_deref())?;
        if periods.len() > MAX_STATISTICS_DATAPOINTS {
            let message = format!("You have requested more than {MAX_STATISTICS_DATAPOINTS} datapoints");
            return Err(ApiError::new(400, "InvalidParameterCombinationException", message));
        }
        let unit = self.get(body.metric.name(&dimensions(&body.metric.dimensions)));
        let unit = unit.map_or("None", |series| &*series.unit);
        let mut datapoints = Vec::new();
        for (at, summary) in periods {
            let mut point = BTreeMap::from([
                ("Timestamp".to_owned(), Value::from(at as f64)),
                ("Unit".to_owned(), Value::from(unit)),
            ]);
            for (name, statistic) in &statistics {
                point.insert((*name).clone(), statistic(&summary).into());
            }
            datapoints.push(point);
        }
        Ok(StatisticsAnswer { label: body.metric.metric_name, datapoints })
    }

    fn periods(
        &self,
        metric: &Metric,
        range: Range,
        period: u64,
        unit: Option<&str>,
    ) -> Result<BTreeMap<u64, Summary>, ApiError> {
        if period == 0 || !(period.is_multiple_of(BUCKET_SECONDS) || [1, 5, 10, 20, 30].contains(&period)) {
            return Err(invalid(format!("Period must be a multiple of 60, not {period}")));
        }
        let series = self.get(metric.name(&dimensions(&metric.dimensions)));
        let series = series.filter(|series: &&Series| unit.is_none_or(|unit| unit == series.unit));
        Ok(series.map(|series| series.periods(range.start, range.end, period)).unwrap_or_default())
    }

    fn publish(&mut self, now: Duration, body: &PutBody) -> Result<(), ApiError> {
        if body.namespace.starts_with("AWS/") {
            return Err(invalid("The value AWS/ for parameter Namespace is invalid.".to_owned()));
        }
        if body.metric_data.is_empty() || body.metric_data.len() > MAX_PUT {
            return Err(invalid(format!("MetricData must have 1 to {MAX_PUT} members")));
        }
        // Checked as a whole before any of it is kept.
        let read = |datum: &Datum| Ok::<_, ApiError>((instant(datum, now)?, summary(datum)?));
        let points: Vec<_> = body.metric_data.iter().map(read).collect::<Result<_, _>>()?;
        for (datum, (at, values)) in body.metric_data.iter().zip(points) {
            let of = Name {
                namespace: &body.namespace,
                name: &datum.metric_name,
                dimensions: &dimensions(&datum.dimensions),
            };
            self.add_custom(at, of, values, datum.unit.as_deref().unwrap_or("None"));
        }
        Ok(())
    }
}

/// When one datum was taken.
fn instant(datum: &Datum, now: Duration) -> Result<Duration, ApiError> {
    let Some(at) = datum.timestamp else { return Ok(now) };
    Duration::try_from_secs_f64(at)
        .map_err(|_| invalid(format!("{at} is no timestamp of the metric {}", datum.metric_name)))
}

/// The values of one datum as one summary.
fn summary(datum: &Datum) -> Result<Summary, ApiError> {
    let name = &datum.metric_name;
    if datum.dimensions.len() > MAX_DIMENSIONS || datum.values.len() > MAX_VALUES {
        let bounds = format!("{MAX_DIMENSIONS} dimensions and {MAX_VALUES} values");
        return Err(invalid(format!("the metric {name} has more than {bounds}")));
    }
    let counts = datum.counts.iter().copied().chain(std::iter::repeat(1.0));
    let summary = match (datum.value, &datum.statistic_values, datum.values.as_slice()) {
        (Some(value), None, []) => Summary::of(value, 1.0),
        (None, Some(set), []) => {
            Summary { sum: set.sum, minimum: set.minimum, maximum: set.maximum, count: set.sample_count }
        }
        (None, None, [_, ..]) => {
            let mut values = datum.values.iter().zip(counts).map(|(value, count)| Summary::of(*value, count));
            let first = values.next().unwrap_or(Summary::of(0.0, 0.0));
            values.fold(first, Summary::and)
        }
        _ => {
            let message = format!("the metric {name} needs one of Value, Values and StatisticValues");
            return Err(ApiError::new(400, "InvalidParameterCombinationException", message));
        }
    };
    let finite = [summary.sum, summary.minimum, summary.maximum, summary.count].iter().all(|n| n.is_finite());
    match finite && summary.count > 0.0 {
        true => Ok(summary),
        false => Err(invalid(format!("the metric {name} has a value that is no number, or none"))),
    }
}

/// Seconds since the Unix epoch, from one up to but not including the other.
#[derive(Debug, Clone, Copy)]
struct Range {
    start: u64,
    end: u64,
}

impl Range {
    fn new(start: f64, end: f64) -> Result<Self, ApiError> {
        let seconds = |at: f64| Duration::try_from_secs_f64(at).map(|at| at.as_secs());
        match (seconds(start), seconds(end.ceil())) {
            (Ok(start), Ok(end)) if start < end => Ok(Self { start, end }),
            _ => Err(invalid("StartTime must be less than EndTime".to_owned())),
        }
    }
}

impl Metric {
    fn name<'a>(&'a self, dimensions: &'a [(&'a str, &'a str)]) -> Name<'a> {
        Name { namespace: &self.namespace, name: &self.metric_name, dimensions }
    }
}

fn dimensions(dimensions: &[Dimension]) -> Vec<(&str, &str)> {
    dimensions.iter().map(|dimension| (&*dimension.name, &*dimension.value)).collect()
}

/// What computes the statistic called `name`.
fn statistic(name: &str) -> Result<fn(&Summary) -> f64, ApiError> {
    Summary::statistic(name)
        .ok_or_else(|| invalid(format!("the embedded CloudWatch has no statistic {name}")))
}

fn invalid(message: String) -> ApiError {
    ApiError::new(400, "InvalidParameterValueException", message)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const NOW: Duration = Duration::from_secs(6_000);

    fn apply(metrics: &mut Metrics, operation: Operation, body: &Value) -> Result<Value, ApiError> {
        let request = decode(operation, Wire::Json10, body.to_string().as_bytes())?.unwrap();
        metrics.apply(NOW, request)
    }

    fn query(metrics: &mut Metrics, stat: Value) -> Result<Value, ApiError> {
        let body = json!({
            "StartTime": 0, "EndTime": 9_000,
            "MetricDataQueries": [{ "Id": "q", "MetricStat": stat }],
        });
        apply(metrics, Operation::GetMetricData, &body)
    }

    #[test]
    fn published_values_are_read_back_in_every_form() {
        let check = |datum: Value, expected: [f64; 5]| {
            let mut metrics = Metrics::default();
            let body = json!({ "Namespace": "N", "MetricData": [datum] });
            apply(&mut metrics, Operation::PutMetricData, &body).unwrap();
            let names = ["Sum", "Average", "Minimum", "Maximum", "SampleCount"];
            for (name, expected) in names.into_iter().zip(expected) {
                let metric = json!({ "Namespace": "N", "MetricName": "M" });
                let stat = json!({ "Metric": metric, "Period": 60, "Stat": name });
                let answer = query(&mut metrics, stat).unwrap();
                let result = &answer["MetricDataResults"][0];
                assert_eq!(result["Values"], json!([expected]), "{name} of {datum}");
                assert_eq!(result["Timestamps"], json!([6_000.0]));
            }
        };
        check(json!({ "MetricName": "M", "Value": 3 }), [3.0, 3.0, 3.0, 3.0, 1.0]);
        check(json!({ "MetricName": "M", "Values": [1, 4], "Counts": [2, 1] }), [6.0, 2.0, 1.0, 4.0, 3.0]);
        let set = json!({ "SampleCount": 4, "Sum": 20, "Minimum": 1, "Maximum": 9 });
        check(json!({ "MetricName": "M", "StatisticValues": set }), [20.0, 5.0, 1.0, 9.0, 4.0]);
    }

    #[test]
    fn a_metric_without_values_has_no_datapoints_rather_than_zeros() {
        let metric = json!({ "Namespace": "N", "MetricName": "M" });
        let stat = json!({ "Metric": metric, "Period": 60, "Stat": "Sum" });
        let answer = query(&mut Metrics::default(), stat).unwrap();
        assert_eq!(answer["MetricDataResults"][0]["Values"], json!([]));
        assert_eq!(answer["MetricDataResults"][0]["Timestamps"], json!([]));
    }

    #[test]
    fn what_breaks_the_rules_is_refused_and_nothing_of_it_kept() {
        let mut metrics = Metrics::default();
        let mut check = |body: Value, code: &str| {
            let error = apply(&mut metrics, Operation::PutMetricData, &body).unwrap_err();
            assert_eq!(error.code, code, "{body}");
        };
        let good = json!({ "MetricName": "M", "Value": 3 });
        check(json!({ "Namespace": "N", "MetricData": [] }), "InvalidParameterValueException");
        check(json!({ "Namespace": "N", "MetricData": vec![&good; 1001] }), "InvalidParameterValueException");
        check(json!({ "Namespace": "AWS/X", "MetricData": [good] }), "InvalidParameterValueException");
        check(json!({ "MetricData": [good] }), "SerializationException");
        let both = json!({ "MetricName": "M", "Value": 3, "Values": [1] });
        check(
            json!({ "Namespace": "N", "MetricData": [good, both] }),
            "InvalidParameterCombinationException",
        );
        let late = json!({ "MetricName": "M", "Value": 3, "Timestamp": -1 });
        check(json!({ "Namespace": "N", "MetricData": [late] }), "InvalidParameterValueException");
        let metric = json!({ "Namespace": "N", "MetricName": "M" });
        let answer = query(&mut metrics, json!({ "Metric": metric, "Period": 60, "Stat": "Sum" })).unwrap();
        assert_eq!(answer["MetricDataResults"][0]["Values"], json!([]));

        let mut check = |stat: Value| {
            assert_eq!(query(&mut metrics, stat).unwrap_err().code, "InvalidParameterValueException");
        };
        check(json!({ "Metric": metric, "Period": 0, "Stat": "Sum" }));
        check(json!({ "Metric": metric, "Period": 61, "Stat": "Sum" }));
        check(json!({ "Metric": metric, "Period": 60, "Stat": "p99" }));
    }
}
