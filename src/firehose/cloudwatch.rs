//! Amazon CloudWatch through the AWS SDK.

use std::cmp::Reverse;
use std::net::IpAddr;
use std::time::SystemTime;

use aws_sdk_cloudwatch::Client;
use aws_sdk_cloudwatch::config::IdentityCache;
use aws_sdk_cloudwatch::config::retry::RetryConfig;
use aws_sdk_cloudwatch::types::{
    Dimension, Metric, MetricDataQuery, MetricDataResult, MetricDatum, MetricStat, ScanBy, StandardUnit,
    StatisticSet,
};
use aws_smithy_types::DateTime;
use serde_json::{Value, json};

use super::classify::{self, Target};
use super::in_json::{self, Answer, InJson};
use super::sdk::{Loaded, Sdk, is_http, timeouts, unsettled};
use super::{Datapoint, Datum, Description, Publication, PutError, Query, Watch, WatchError};

/// Where Firehose publishes what it knows of its streams, and the dimension that names one.
const NAMESPACE: &str = "AWS/Firehose";
const DIMENSION: &str = "DeliveryStreamName";
/// Firehose's metrics come by the minute.
const PERIOD_SECONDS: i32 = 60;
/// Most pages of one answer that are asked for; the few datapoints that are wanted fill no one.
const MAX_PAGES: usize = 8;
/// The variable that names another endpoint for CloudWatch alone.
const ENDPOINT_VARIABLE: &str = "AWS_ENDPOINT_URL_CLOUDWATCH";

impl Loaded {
    /// A client, made at the first call.
    fn cloudwatch(&self, sdk: &Sdk) -> Result<&Client, PutError> {
        if let Some(client) = self.cloudwatch.get() {
            return Ok(client);
        }
        let variable = std::env::var_os(ENDPOINT_VARIABLE);
        // The SDK panics over an empty one.
        if variable.as_ref().is_some_and(|value| value.is_empty()) {
            let message =
                format!("{ENDPOINT_VARIABLE} is empty; unset it, or set it to the URL of an endpoint");
            return Err(unsettled("request", message));
        }
        let mut config = aws_sdk_cloudwatch::config::Builder::from(&self.shared)
            .credentials_provider(self.credentials.clone())
            .identity_cache(IdentityCache::no_cache())
            .timeout_config(timeouts(&sdk.settings))
            // The poller has a schedule of its own, and each try costs.
            .retry_config(RetryConfig::disabled());
        let named = variable.is_some() || self.shared.endpoint_url().is_some();
        let firehose = sdk.settings.endpoint_url.as_deref().filter(|url| !named && is_emulator(url));
        if let Some(url) = sdk.settings.cloudwatch_endpoint_url.as_deref().or(firehose) {
            if !is_http(url) {
                let message = format!(
                    "`monitor.endpoint_url` is `{url}`; set it to a URL that begins with https:// or http://"
                );
                return Err(unsettled("request", message));
            }
            config = config.endpoint_url(url);
        }
        Ok(self.cloudwatch.get_or_init(|| Client::from_conf(config.build())))
    }

    fn cloudwatch_target(&self, operation: &'static str) -> Target<'_> {
        Target {
            service: "cloudwatch",
            operation,
            stream: "",
            region: &self.region,
            endpoint: Some("CloudWatch"),
        }
    }
}

/// What an answer in JSON says, if it is no error.
fn said(Answer { status, body }: Answer, target: Target<'_>) -> Result<Value, PutError> {
    match (status, in_json::error(&body)) {
        (200..=299, _) => Ok(body),
        (_, Some((code, said))) => Err(classify::service_error(Some(code), said, status, target)),
        (_, None) => Err(classify::service_error(None, None, status, target)),
    }
}

/// Whether `url` is on this host, where it can only be something that stands in for AWS, and then
/// does so for CloudWatch too: the metrics of its streams are nowhere else.
fn is_emulator(url: &str) -> bool {
    let uri: http::Uri = url.parse().unwrap_or_default();
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

impl Watch for Sdk {
    async fn describe(&self, stream: &str) -> Result<Description, WatchError> {
        self.describe_stream(stream).await
    }

    // snippet-start:[cloudwatch.rust.hydrant.get_metric_data]
    async fn metrics(
        &self,
        stream: &str,
        queries: &[Query],
        start: SystemTime,
        end: SystemTime,
    ) -> Result<Vec<Vec<Datapoint>>, WatchError> {
        let loaded = self.loaded().await?;
        let client = loaded.cloudwatch(self)?;
        self.lease(loaded).await?;
        let wanted: Vec<_> =
            queries.iter().enumerate().map(|(index, query)| data_query(index, *query, stream)).collect();
        let mut series = vec![Vec::new(); queries.len()];
        let mut page = None;
        for _ in 0..MAX_PAGES {
            let in_json = InJson::new(GET, &json_queries(queries, stream, start, end, page.as_deref()));
            let call = client
                .get_metric_data()
                .set_metric_data_queries(Some(wanted.clone()))
                .start_time(start.into())
                .end_time(end.into())
                .scan_by(ScanBy::TimestampDescending)
                .set_next_token(page)
                .customize()
                .interceptor(in_json.clone());
            let output = call.send().await;
            page = match in_json.answer() {
                Some(answer) => {
                    let answer = said(answer, loaded.cloudwatch_target(GET))?;
                    let results = in_json::results(&answer)
                        .ok_or_else(|| classify::unreadable(loaded.cloudwatch_target(GET)))?;
                    results.into_iter().for_each(|(id, points)| take(id, points, &mut series));
                    answer.get("NextToken").and_then(Value::as_str).map(str::to_owned)
                }
                None => {
                    let output =
                        output.map_err(|error| classify::put_error(&error, loaded.cloudwatch_target(GET)))?;
                    for result in output.metric_data_results() {
                        take(result.id().unwrap_or_default(), datapoints(result), &mut series);
                    }
                    output.next_token().map(str::to_owned)
                }
            };
            if page.as_ref().is_none_or(String::is_empty) {
                break;
            }
        }
        Ok(series)
    }
    // snippet-end:[cloudwatch.rust.hydrant.get_metric_data]

    // snippet-start:[cloudwatch.rust.hydrant.put_metric_data]
    async fn publish(&self, publication: &Publication<'_>) -> Result<(), WatchError> {
        let loaded = self.loaded().await?;
        let client = loaded.cloudwatch(self)?;
        self.lease(loaded).await?;
        let in_json = InJson::new(PUT, &json_data(publication));
        let data = publication.data.iter().map(|datum| metric_datum(datum, publication));
        let call = client.put_metric_data().namespace(publication.namespace);
        let call = call.set_metric_data(Some(data.collect())).customize().interceptor(in_json.clone());
        let output = call.send().await;
        let target = loaded.cloudwatch_target(PUT);
        let ended = match in_json.answer() {
            Some(answer) => said(answer, target).map(drop),
            None => output.map(drop).map_err(|error| classify::put_error(&error, target)),
        };
        ended.map_err(WatchError::from)
    }
    // snippet-end:[cloudwatch.rust.hydrant.put_metric_data]
}

const GET: &str = "GetMetricData";
const PUT: &str = "PutMetricData";

fn dimension(stream: &str) -> Dimension {
    Dimension::builder().name(DIMENSION).value(stream).build()
}

/// The request's id of query number `index`.
fn id(index: usize) -> String {
    format!("q{index}")
}

fn data_query(index: usize, query: Query, stream: &str) -> MetricDataQuery {
    let metric = Metric::builder()
        .namespace(NAMESPACE)
        .metric_name(query.metric)
        .dimensions(dimension(stream))
        .build();
    let stat =
        MetricStat::builder().metric(metric).period(PERIOD_SECONDS).stat(query.statistic.name()).build();
    MetricDataQuery::builder().id(id(index)).metric_stat(stat).build()
}

/// The same queries in JSON.
fn json_queries(
    queries: &[Query],
    stream: &str,
    start: SystemTime,
    end: SystemTime,
    page: Option<&str>,
) -> Value {
    let query = |(index, query): (usize, &Query)| {
        json!({ "Id": id(index), "MetricStat": {
            "Metric": {
                "Namespace": NAMESPACE,
                "MetricName": query.metric,
                "Dimensions": [{ "Name": DIMENSION, "Value": stream }],
            },
            "Period": PERIOD_SECONDS,
            "Stat": query.statistic.name(),
        }})
    };
    let mut body = json!({
        "MetricDataQueries": queries.iter().enumerate().map(query).collect::<Value>(),
        "StartTime": seconds(start),
        "EndTime": seconds(end),
        "ScanBy": ScanBy::TimestampDescending.as_str(),
    });
    if let (Some(page), Some(body)) = (page, body.as_object_mut()) {
        body.insert("NextToken".to_owned(), page.into());
    }
    body
}

/// The same figures in JSON.
fn json_data(publication: &Publication<'_>) -> Value {
    let datum = |Datum { name, unit, samples, sum, minimum, maximum }: &Datum| {
        json!({
            "MetricName": name,
            "Dimensions": [{ "Name": DIMENSION, "Value": publication.stream }],
            "Timestamp": seconds(publication.at),
            "StatisticValues": {
                "SampleCount": samples, "Sum": sum, "Minimum": minimum, "Maximum": maximum,
            },
            "Unit": unit,
            "StorageResolution": resolution(publication),
        })
    };
    json!({
        "Namespace": publication.namespace,
        "MetricData": publication.data.iter().map(datum).collect::<Value>(),
    })
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn datapoints(result: &MetricDataResult) -> Vec<Datapoint> {
    let point = |(at, value): (&DateTime, &f64)| {
        Some(Datapoint { at: SystemTime::try_from(*at).ok()?, value: *value })
    };
    result.timestamps().iter().zip(result.values()).filter_map(point).collect()
}

/// Adds `points` to the series of the query called `id`. An answer need not keep to the order that
/// was asked for.
fn take(called: &str, points: Vec<Datapoint>, series: &mut [Vec<Datapoint>]) {
    if let Some((_, series)) = series.iter_mut().enumerate().find(|(index, _)| called == id(*index)) {
        series.extend(points);
        series.sort_by_key(|datapoint| Reverse(datapoint.at));
    }
}

fn resolution(publication: &Publication<'_>) -> i32 {
    if publication.high_resolution { 1 } else { PERIOD_SECONDS }
}

fn metric_datum(datum: &Datum, publication: &Publication<'_>) -> MetricDatum {
    let Datum { name, unit, samples, sum, minimum, maximum } = datum;
    let set =
        StatisticSet::builder().sample_count(*samples).sum(*sum).minimum(*minimum).maximum(*maximum).build();
    MetricDatum::builder()
        .metric_name(*name)
        .dimensions(dimension(publication.stream))
        .timestamp(DateTime::from(publication.at))
        .statistic_values(set)
        .unit(StandardUnit::from(*unit))
        .storage_resolution(resolution(publication))
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;

    // R-M10
    #[test]
    fn an_endpoint_on_this_host_stands_in_for_cloudwatch_too() {
        let check = |url, expected| assert_eq!(is_emulator(url), expected, "{url}");
        check("http://127.0.0.1:4573", true);
        check("http://localhost:4566/", true);
        check("http://[::1]:4573", true);
        check("https://vpce-1.firehose.eu-west-1.vpce.amazonaws.com", false);
        check("http://10.0.0.7:4573", false);
        check("", false);
    }
}
