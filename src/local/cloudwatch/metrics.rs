//! Metrics by the minute. Pure.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

/// The namespace of Firehose's own metrics.
pub(in crate::local) const FIREHOSE: &str = "AWS/Firehose";

/// Most series; what would start a further one is not kept.
const MAX_SERIES: usize = 10_000;

/// Minutes that a series goes back from its latest.
const MAX_MINUTES: usize = 24 * 60;

/// Seconds of one bucket: CloudWatch's standard resolution.
pub(super) const BUCKET_SECONDS: u64 = 60;

/// What tells one series from another.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    namespace: Cow<'static, str>,
    name: Cow<'static, str>,
    /// Ascending.
    dimensions: Vec<(String, String)>,
}

/// All series.
#[derive(Debug, Default)]
pub(in crate::local) struct Metrics {
    series: BTreeMap<Key, Series>,
}

/// One metric over time: a summary for each minute in which it had a value.
#[derive(Debug, Default)]
pub(super) struct Series {
    /// The latest value's unit.
    pub(super) unit: Cow<'static, str>,
    minutes: BTreeMap<u64, Summary>,
}

/// What CloudWatch keeps of a set of values.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Summary {
    pub(super) sum: f64,
    pub(super) minimum: f64,
    pub(super) maximum: f64,
    pub(super) count: f64,
}

impl Summary {
    /// `value`, `count` times.
    pub(super) fn of(value: f64, count: f64) -> Self {
        Self { sum: value * count, minimum: value, maximum: value, count }
    }

    /// Both together.
    pub(super) fn and(self, other: Self) -> Self {
        Self {
            sum: self.sum + other.sum,
            count: self.count + other.count,
            minimum: self.minimum.min(other.minimum),
            maximum: self.maximum.max(other.maximum),
        }
    }

    /// What computes the statistic called `name`, if there is one.
    pub(super) fn statistic(name: &str) -> Option<fn(&Self) -> f64> {
        Some(match name {
            "Sum" => |of| of.sum,
            "Average" => |of| of.sum / of.count,
            "Minimum" => |of| of.minimum,
            "Maximum" => |of| of.maximum,
            "SampleCount" => |of| of.count,
            _ => return None,
        })
    }
}

/// A metric's name as a caller has it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Name<'a> {
    pub(super) namespace: &'a str,
    pub(super) name: &'a str,
    pub(super) dimensions: &'a [(&'a str, &'a str)],
}

impl Metrics {
    /// Adds one value of a metric with a fixed name.
    pub(in crate::local) fn add(
        &mut self,
        at: Duration,
        namespace: &'static str,
        name: &'static str,
        dimensions: &[(&str, &str)],
        unit: &'static str,
        value: f64,
    ) {
        let key = Key { namespace: namespace.into(), name: name.into(), dimensions: sorted(dimensions) };
        self.put(key, at, Summary::of(value, 1.0), unit.into());
    }

    /// Adds values of any metric.
    pub(super) fn add_custom(&mut self, at: Duration, of: Name<'_>, values: Summary, unit: &str) {
        self.put(key(of), at, values, Cow::Owned(unit.to_owned()));
    }

    fn put(&mut self, key: Key, at: Duration, values: Summary, unit: Cow<'static, str>) {
        if self.series.len() >= MAX_SERIES && !self.series.contains_key(&key) {
            return;
        }
        let series = self.series.entry(key).or_default();
        series.unit = unit;
        let minute = at.as_secs() / BUCKET_SECONDS;
        series.minutes.entry(minute).and_modify(|held| *held = held.and(values)).or_insert(values);
        if series.minutes.len() > MAX_MINUTES {
            series.minutes.pop_first();
        }
    }

    /// The series of that name, if it ever had a value.
    pub(super) fn get(&self, of: Name<'_>) -> Option<&Series> {
        self.series.get(&key(of))
    }
}

impl Series {
    /// The summaries of each period of `period` seconds, from that in which `start` lies to the
    /// last that begins before `end`, both seconds since the Unix epoch; the earliest first.
    /// Periods without a value are left out. Periods begin at multiples of themselves.
    pub(super) fn periods(&self, start: u64, end: u64, period: u64) -> BTreeMap<u64, Summary> {
        let period = period.max(BUCKET_SECONDS);
        let first = start / period * period;
        let mut periods: BTreeMap<u64, Summary> = BTreeMap::new();
        if first >= end {
            return periods;
        }
        let minutes = first / BUCKET_SECONDS..end.div_ceil(BUCKET_SECONDS);
        for (minute, summary) in self.minutes.range(minutes) {
            let at = minute * BUCKET_SECONDS / period * period;
            periods.entry(at).and_modify(|held| *held = held.and(*summary)).or_insert(*summary);
        }
        periods
    }
}

fn key(of: Name<'_>) -> Key {
    Key {
        namespace: Cow::Owned(of.namespace.to_owned()),
        name: Cow::Owned(of.name.to_owned()),
        dimensions: sorted(of.dimensions),
    }
}

fn sorted(dimensions: &[(&str, &str)]) -> Vec<(String, String)> {
    let mut dimensions: Vec<_> =
        dimensions.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    dimensions.sort();
    dimensions
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: Name<'static> = Name { namespace: "N", name: "M", dimensions: &[("a", "1"), ("b", "2")] };

    fn series(values: &[(u64, f64)]) -> Metrics {
        let mut metrics = Metrics::default();
        for (at, value) in values {
            metrics.add_custom(Duration::from_secs(*at), NAME, Summary::of(*value, 1.0), "Count");
        }
        metrics
    }

    #[test]
    fn values_are_summed_up_by_the_period() {
        let metrics = series(&[(600, 1.0), (659, 3.0), (660, 5.0), (900, 7.0)]);
        let check = |start, end, period, statistic: &str, expected: &[(u64, f64)]| {
            let periods = metrics.get(NAME).unwrap().periods(start, end, period);
            let of = Summary::statistic(statistic).unwrap();
            let values: Vec<_> = periods.iter().map(|(at, summary)| (*at, of(summary))).collect();
            assert_eq!(values, expected, "{statistic} of {start}..{end} by {period}");
        };
        check(0, 2_000, 60, "Sum", &[(600, 4.0), (660, 5.0), (900, 7.0)]);
        check(0, 2_000, 60, "Average", &[(600, 2.0), (660, 5.0), (900, 7.0)]);
        check(0, 2_000, 60, "Minimum", &[(600, 1.0), (660, 5.0), (900, 7.0)]);
        check(0, 2_000, 60, "Maximum", &[(600, 3.0), (660, 5.0), (900, 7.0)]);
        check(0, 2_000, 60, "SampleCount", &[(600, 2.0), (660, 1.0), (900, 1.0)]);
        check(0, 2_000, 300, "Sum", &[(600, 9.0), (900, 7.0)]);
        check(610, 660, 60, "Sum", &[(600, 4.0)]);
        check(660, 661, 60, "Sum", &[(660, 5.0)]);
        check(719, 900, 60, "Sum", &[(660, 5.0)]);
        check(720, 900, 60, "Sum", &[]);
        check(900, 900, 60, "Sum", &[]);
        check(u64::MAX, 0, 60, "Sum", &[]);
    }

    #[test]
    fn the_order_of_dimensions_does_not_matter() {
        let metrics = series(&[(600, 1.0)]);
        assert!(metrics.get(Name { dimensions: &[("b", "2"), ("a", "1")], ..NAME }).is_some());
        assert!(metrics.get(Name { dimensions: &[("a", "1")], ..NAME }).is_none());
    }

    #[test]
    fn series_and_minutes_are_bounded() {
        let minutes: Vec<_> = (0..2_000).map(|minute| (minute * 60, 1.0)).collect();
        let mut metrics = series(&minutes);
        let held = metrics.get(NAME).unwrap().periods(0, u64::MAX / 2, 60);
        assert_eq!(held.len(), MAX_MINUTES);
        assert!(held.contains_key(&(1_999 * 60)));
        for series in 0..2 * MAX_SERIES {
            let name = series.to_string();
            let of = Name { name: &name, ..NAME };
            metrics.add_custom(Duration::ZERO, of, Summary::of(1.0, 1.0), "None");
        }
        assert_eq!(metrics.series.len(), MAX_SERIES);
    }
}
