//! The families as OTLP messages: pure.
//!
//! Written with the official message types and not through the SDK's instruments, which take one
//! observation at a time: the daemon's histograms already hold counts by bound, each batch with
//! the weight of its records.
//!
//! Data model: <https://opentelemetry.io/docs/specs/otel/metrics/data-model/>

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Text;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value as Number;
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint, ResourceMetrics,
    ScopeMetrics, Sum,
};
use opentelemetry_proto::tonic::resource::v1::Resource;

use crate::telemetry::families::{Family, Kind, Point, Value};

/// From when to when the values were counted.
#[derive(Debug, Clone, Copy)]
pub(super) struct Span {
    /// When the daemon started: everything that grows has grown from zero since.
    pub(super) start: SystemTime,
    /// When the families were read.
    pub(super) end: SystemTime,
}

/// One export of all families that have points.
pub(super) fn request(
    families: Vec<Family>,
    resource: Resource,
    scope: InstrumentationScope,
    span: Span,
) -> ExportMetricsServiceRequest {
    let metrics = families.into_iter().filter(|family| !family.points.is_empty());
    let metrics = metrics.map(|family| metric(family, span)).collect();
    let scope_metrics = vec![ScopeMetrics { scope: Some(scope), metrics, ..ScopeMetrics::default() }];
    ExportMetricsServiceRequest {
        resource_metrics: vec![ResourceMetrics {
            resource: Some(resource),
            scope_metrics,
            ..ResourceMetrics::default()
        }],
    }
}

fn metric(family: Family, span: Span) -> Metric {
    let name = family.name().into_owned();
    let aggregation_temporality = AggregationTemporality::Cumulative.into();
    let data = match family.kind {
        Kind::Counter => Data::Sum(Sum {
            data_points: numbers(family.points, span),
            aggregation_temporality,
            is_monotonic: true,
        }),
        Kind::Gauge => Data::Gauge(Gauge { data_points: numbers(family.points, span) }),
        Kind::Histogram => {
            let points = family.points.into_iter().filter_map(|point| histogram(point, span));
            Data::Histogram(Histogram { data_points: points.collect(), aggregation_temporality })
        }
    };
    Metric {
        name,
        description: family.help.to_owned(),
        unit: family.unit.to_owned(),
        data: Some(data),
        ..Metric::default()
    }
}

fn numbers(points: Vec<Point>, span: Span) -> Vec<NumberDataPoint> {
    let number = |Point { labels, value }: Point| {
        let value = match value {
            Value::Whole(value) => Number::AsInt(i64::try_from(value).unwrap_or(i64::MAX)),
            Value::Real(value) => Number::AsDouble(value),
            Value::Histogram(_) => return None,
        };
        Some(NumberDataPoint {
            attributes: attributes(labels),
            start_time_unix_nano: nanoseconds(span.start),
            time_unix_nano: nanoseconds(span.end),
            value: Some(value),
            ..NumberDataPoint::default()
        })
    };
    points.into_iter().filter_map(number).collect()
}

fn histogram(Point { labels, value }: Point, span: Span) -> Option<HistogramDataPoint> {
    let Value::Histogram(histogram) = value else { return None };
    // The last bound is infinite, which OTLP leaves out.
    let explicit_bounds = histogram.buckets().map(|(bound, _)| bound).filter(|bound| bound.is_finite());
    Some(HistogramDataPoint {
        attributes: attributes(labels),
        start_time_unix_nano: nanoseconds(span.start),
        time_unix_nano: nanoseconds(span.end),
        count: histogram.count(),
        sum: Some(histogram.sum()),
        bucket_counts: histogram.buckets().map(|(_, count)| count).collect(),
        explicit_bounds: explicit_bounds.collect(),
        ..HistogramDataPoint::default()
    })
}

fn attributes(labels: Vec<(&'static str, std::borrow::Cow<'static, str>)>) -> Vec<KeyValue> {
    let attribute = |(name, value): (&str, std::borrow::Cow<'_, str>)| KeyValue {
        key: name.to_owned(),
        value: Some(AnyValue { value: Some(Text::StringValue(value.into_owned())) }),
        ..KeyValue::default()
    };
    labels.into_iter().map(attribute).collect()
}

fn nanoseconds(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::telemetry::families::families;
    use crate::telemetry::figures::{Figures, Signal};
    use crate::telemetry::now;

    fn exported() -> Vec<Metric> {
        let now = now();
        let figures = Figures::new(Arc::default(), now);
        figures.sender().retry("ServiceUnavailableException", 3);
        figures.sender().delivery_latency.observe(0.2, 7);
        figures.exports().insert((Signal::Metrics, crate::telemetry::figures::Exported::Ok), 1);
        let start = UNIX_EPOCH + Duration::from_secs(1);
        let span = Span { start, end: start + Duration::from_secs(1) };
        let request =
            request(families(&figures, now), Resource::default(), InstrumentationScope::default(), span);
        request.resource_metrics[0].scope_metrics[0].metrics.clone()
    }

    fn of(name: &str) -> Metric {
        exported().into_iter().find(|metric| metric.name == name).unwrap_or_else(|| panic!("no {name}"))
    }

    #[test]
    fn a_counter_is_a_monotonic_sum_since_the_start() {
        let metric = of("hydrant_retried_records_total");
        let Some(Data::Sum(sum)) = metric.data else { panic!("{metric:?}") };
        assert!(sum.is_monotonic);
        assert_eq!(sum.aggregation_temporality(), AggregationTemporality::Cumulative);
        let point = &sum.data_points[0];
        assert_eq!(point.value, Some(Number::AsInt(3)));
        assert_eq!((point.start_time_unix_nano, point.time_unix_nano), (1_000_000_000, 2_000_000_000));
        assert_eq!(point.attributes[0].key, "error_code");
        let value = point.attributes[0].value.clone().and_then(|value| value.value);
        assert_eq!(value, Some(Text::StringValue("ServiceUnavailableException".to_owned())));
    }

    #[test]
    fn a_histogram_keeps_its_weights_and_has_one_bound_fewer_than_counts() {
        let metric = of("hydrant_delivery_latency_seconds");
        assert_eq!(metric.unit, "s");
        let Some(Data::Histogram(histogram)) = metric.data else { panic!("{metric:?}") };
        let point = &histogram.data_points[0];
        assert_eq!((point.count, point.bucket_counts.iter().sum::<u64>()), (7, 7));
        assert!((point.sum.unwrap() - 1.4).abs() < 1e-9);
        assert_eq!(point.bucket_counts.len(), point.explicit_bounds.len() + 1);
        let bucket = point.bucket_counts.iter().position(|count| *count == 7).unwrap();
        assert_eq!(point.explicit_bounds[bucket], 0.25);
    }

    #[test]
    fn what_is_not_known_has_no_metric() {
        assert!(exported().iter().all(|metric| metric.name != "hydrant_stream_incoming_bytes"));
    }

    /// The rules by which Prometheus and the collector's exporter for it make a name of name and
    /// unit (<https://opentelemetry.io/docs/specs/otel/compatibility/prometheus_and_openmetrics/>).
    #[test]
    fn no_name_gets_another_suffix_on_its_way_through_a_collector_to_prometheus() {
        let has = |name: &str, word: &str| name.split('_').any(|part| part == word);
        for Metric { name, unit, data, .. } in exported() {
            let kept = match unit.as_str() {
                "s" => has(&name, "seconds"),
                "By" => has(&name, "bytes"),
                "By/s" => has(&name, "bytes") && has(&name, "second"),
                "1" => matches!(data, Some(Data::Gauge(_))) && name.ends_with("_ratio"),
                annotation => annotation.starts_with('{'),
            };
            assert!(kept, "{name} in {unit}");
            let is_sum = matches!(data, Some(Data::Sum(_)));
            assert_eq!(name.ends_with("_total"), is_sum, "{name}");
        }
    }
}
