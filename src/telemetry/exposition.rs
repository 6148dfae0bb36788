//! The families as text for Prometheus, written by the client library's encoder.

use std::borrow::Cow;
use std::time::Instant;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::{encode, encode_registry};
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use super::families::{Family, Kind, Point, Value, families};
use super::figures::Figures;

/// Which of the two texts that Prometheus reads. They differ in little: OpenMetrics leaves the
/// `_total` out of the name of a counter's family, and ends with a line that says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// <https://prometheus.io/docs/specs/om/open_metrics_spec/>
    OpenMetrics,
    /// <https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format>
    Classic,
}

impl Format {
    /// The one for a client whose `Accept` header is `accept`.
    ///
    /// OpenMetrics goes to who asks for it by name, as Prometheus does since 2.5, and likes it no
    /// less than the classic text. Everyone else gets the classic text, `*/*` and no header
    /// included: what asks for nothing in particular is a person, a lint or an old collector, all
    /// of which read that. Prometheus's own client libraries decide in the same way.
    #[must_use]
    pub fn accepted(accept: &str) -> Self {
        let open_metrics = weight(accept, "application/openmetrics-text");
        if open_metrics > 0.0 && open_metrics >= weight(accept, "text/plain") {
            return Self::OpenMetrics;
        }
        Self::Classic
    }

    /// Its media type.
    #[must_use]
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Classic => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// How welcome the media type `wanted` is by name, from 0 to 1: the greatest `q` of its mentions.
/// Source: <https://www.rfc-editor.org/rfc/rfc9110#section-12.5.1>
fn weight(accept: &str, wanted: &str) -> f64 {
    let weights = accept.split(',').filter_map(|range| {
        let mut parts = range.split(';').map(str::trim);
        let named = parts.next()?.eq_ignore_ascii_case(wanted);
        let q = parts.find_map(|parameter| parameter.strip_prefix("q=").or(parameter.strip_prefix("Q=")));
        named.then(|| q.map_or(1.0, |q| q.parse().unwrap_or(0.0)))
    });
    weights.fold(0.0, f64::max)
}

/// The text of all figures.
#[must_use]
pub(super) fn exposition(figures: &Figures, now: Instant, format: Format) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Exposition { families: families(figures, now), format }));
    let mut text = String::with_capacity(24 * 1024);
    let written = match format {
        Format::OpenMetrics => encode(&mut text, &registry),
        Format::Classic => encode_registry(&mut text, &registry),
    };
    if let Err(error) = written {
        tracing::error!(%error, "Metrics could not be written.");
    }
    text
}

#[derive(Debug)]
struct Exposition {
    families: Vec<Family>,
    format: Format,
}

impl Collector for Exposition {
    fn encode(&self, mut to: DescriptorEncoder<'_>) -> std::fmt::Result {
        for family in &self.families {
            let kind = match family.kind {
                Kind::Counter => MetricType::Counter,
                Kind::Gauge => MetricType::Gauge,
                Kind::Histogram => MetricType::Histogram,
            };
            // The encoder ends the samples of a counter in `_total`, but not those of a gauge: in
            // the classic text, where the family has that ending too, they are written as such.
            let (name, written_as) = match self.format {
                Format::OpenMetrics => (Cow::Borrowed(family.base), family.kind),
                Format::Classic if family.kind == Kind::Counter => (family.name(), Kind::Gauge),
                Format::Classic => (family.name(), family.kind),
            };
            let mut encoder = to.encode_descriptor(&name, family.help, None, kind)?;
            for Point { labels, value } in &family.points {
                if labels.is_empty() {
                    point(&mut encoder, written_as, value)?;
                } else {
                    let labels: Vec<(&str, &str)> =
                        labels.iter().map(|(name, value)| (*name, value.as_ref())).collect();
                    point(&mut encoder.encode_family(&labels)?, written_as, value)?;
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    // R-M12
    #[test]
    fn open_metrics_goes_to_who_asks_for_it_by_name() {
        let check = |accept, expected| assert_eq!(Format::accepted(accept), expected, "{accept}");
        check("", Format::Classic);
        check("*/*", Format::Classic);
        check("text/html,application/xhtml+xml,*/*;q=0.8", Format::Classic);
        check("text/plain;version=0.0.4", Format::Classic);
        check("application/openmetrics-text", Format::OpenMetrics);
        check("Application/OpenMetrics-Text; version=0.0.1; q=0.5", Format::OpenMetrics);
        check("application/openmetrics-text;q=0", Format::Classic);
        check("application/openmetrics-text;q=0.4,text/plain;q=0.5", Format::Classic);
        check("application/openmetrics-text;q=0.5,text/plain;q=0.5", Format::OpenMetrics);
        // What Prometheus 2.42 sends, and 3.0.
        check(
            "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
            Format::OpenMetrics,
        );
        check(
            "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,text/plain;version=0.0.4;q=0.2,*/*;q=0.1",
            Format::OpenMetrics,
        );
    }

    #[test]
    fn both_texts_have_the_same_samples() {
        let now = super::super::now();
        let figures = Arc::new(Figures::new(Arc::default(), now));
        figures.sender().retry("InternalFailure", 7);
        let samples = |format| -> Vec<String> {
            let text = exposition(&figures, now, format);
            let stays = |line: &&str| !line.starts_with('#') && !line.starts_with("process_");
            text.lines().filter(stays).map(str::to_owned).collect()
        };
        assert_eq!(samples(Format::Classic), samples(Format::OpenMetrics));
        let classic = exposition(&figures, now, Format::Classic);
        for line in [
            "# TYPE hydrant_retried_records_total counter",
            "hydrant_retried_records_total{error_code=\"InternalFailure\"} 7",
            "# TYPE hydrant_records_held gauge",
            "hydrant_put_duration_seconds_bucket{le=\"+Inf\"} 0",
        ] {
            assert!(classic.lines().any(|have| have == line), "no {line} in\n{classic}");
        }
        assert!(!classic.contains("# EOF"), "{classic}");
    }
}
