//! Amazon CloudWatch through the AWS SDK.

use std::cmp::Reverse;
use std::net::IpAddr;
use std::time::SystemTime;

use aws_sdk_cloudwatch::Client;
use aws_sdk_cloudwatch::config::IdentityCache;
use aws_sdk_cloudwatch::config::retry::RetryConfig;
use aws_sdk_cloudwatch::error::SdkError;
use aws_sdk_cloudwatch::types::{
    Dimension, Metric, MetricDataQuery, MetricDataResult, MetricDatum, MetricStat, ScanBy, StandardUnit,
    StatisticSet,
};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_types::DateTime;
use aws_smithy_types::error::metadata::ProvideErrorMetadata;

use super::classify::{self, Target};
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

    fn not_watched<E>(&self, operation: &'static str, error: &SdkError<E, HttpResponse>) -> WatchError
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        let target = Target {
            service: "cloudwatch",
            operation,
            stream: "",
            region: &self.region,
            endpoint: Some("CloudWatch"),
        };
        classify::put_error(error, target).into()
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
            let call = client
                .get_metric_data()
                .set_metric_data_queries(Some(wanted.clone()))
                .start_time(start.into())
                .end_time(end.into())
                .scan_by(ScanBy::TimestampDescending)
                .set_next_token(page);
            let output = call.send().await.map_err(|error| loaded.not_watched("GetMetricData", &error))?;
            output.metric_data_results().iter().for_each(|result| take(result, &mut series));
            page = output.next_token().filter(|token| !token.is_empty()).map(str::to_owned);
            if page.is_none() {
                break;
            }
        }
        Ok(series)
    }

    async fn publish(&self, publication: &Publication<'_>) -> Result<(), WatchError> {
        let loaded = self.loaded().await?;
        let client = loaded.cloudwatch(self)?;
        self.lease(loaded).await?;
        let data = publication.data.iter().map(|datum| metric_datum(datum, publication));
        let call = client.put_metric_data().namespace(publication.namespace);
        let output = call.set_metric_data(Some(data.collect())).send().await;
        output.map(drop).map_err(|error| loaded.not_watched("PutMetricData", &error))
    }
}

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

/// Adds what one result says to the series of its query.
fn take(result: &MetricDataResult, series: &mut [Vec<Datapoint>]) {
    let wanted = series.iter_mut().enumerate().find(|(index, _)| result.id() == Some(id(*index).as_str()));
    let Some((_, series)) = wanted else { return };
    for (at, value) in result.timestamps().iter().zip(result.values()) {
        if let Ok(at) = SystemTime::try_from(*at) {
            series.push(Datapoint { at, value: *value });
        }
    }
    // An answer need not keep to the order that was asked for.
    series.sort_by_key(|datapoint| Reverse(datapoint.at));
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
        .storage_resolution(if publication.high_resolution { 1 } else { PERIOD_SECONDS })
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;

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
