//! The families as OpenMetrics text, written by the client library's encoder.

use std::time::Instant;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use super::families::{Family, Kind, Point, Value, families};
use super::figures::Figures;

/// The OpenMetrics text of all figures.
/// Format: <https://prometheus.io/docs/specs/om/open_metrics_spec/>
#[must_use]
pub(super) fn exposition(figures: &Figures, now: Instant) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Exposition(families(figures, now))));
    let mut text = String::with_capacity(24 * 1024);
    if let Err(error) = prometheus_client::encoding::text::encode(&mut text, &registry) {
        tracing::error!(%error, "Metrics could not be written.");
    }
    text
}

#[derive(Debug)]
struct Exposition(Vec<Family>);

impl Collector for Exposition {
    fn encode(&self, mut to: DescriptorEncoder<'_>) -> std::fmt::Result {
        for family in &self.0 {
            let kind = match family.kind {
                Kind::Counter => MetricType::Counter,
                Kind::Gauge => MetricType::Gauge,
                Kind::Histogram => MetricType::Histogram,
            };
            let mut encoder = to.encode_descriptor(family.base, family.help, None, kind)?;
            for Point { labels, value } in &family.points {
                if labels.is_empty() {
                    point(&mut encoder, family.kind, value)?;
                } else {
                    let labels: Vec<(&str, &str)> =
                        labels.iter().map(|(name, value)| (*name, value.as_ref())).collect();
                    point(&mut encoder.encode_family(&labels)?, family.kind, value)?;
                }
            }
        }
        Ok(())
    }
}

fn point(encoder: &mut MetricEncoder<'_>, kind: Kind, value: &Value) -> std::fmt::Result {
    match (value, kind) {
        (Value::Whole(value), Kind::Counter) => encoder.encode_counter::<NoLabelSet, _, u64>(value, None),
        (Value::Whole(value), Kind::Gauge | Kind::Histogram) => {
            encoder.encode_gauge(&i64::try_from(*value).unwrap_or(i64::MAX))
        }
        (Value::Real(value), Kind::Counter) => encoder.encode_counter::<NoLabelSet, _, f64>(value, None),
        (Value::Real(value), Kind::Gauge | Kind::Histogram) => encoder.encode_gauge(value),
        (Value::Histogram(histogram), _) => {
            let buckets: Vec<(f64, u64)> = histogram.buckets().collect();
            encoder.encode_histogram::<NoLabelSet>(histogram.sum(), histogram.count(), &buckets, None)
        }
    }
}
