//! A histogram that can be told of many equal observations at once.

/// Observations by upper bound. A batch's records share a latency, so an observation carries a
/// weight; the client library's own histogram takes one at a time.
#[derive(Debug, Clone)]
pub struct Histogram {
    bounds: &'static [f64],
    counts: Vec<u64>,
    sum: f64,
}

impl Histogram {
    /// An empty histogram with these ascending upper bounds; values above the last go to `+Inf`.
    #[must_use]
    pub fn new(bounds: &'static [f64]) -> Self {
        Self { bounds, counts: vec![0; bounds.len() + 1], sum: 0.0 }
    }

    /// Counts `weight` observations of `value`.
    pub fn observe(&mut self, value: f64, weight: u64) {
        let bucket = self.bounds.partition_point(|bound| *bound < value);
        if let Some(count) = self.counts.get_mut(bucket) {
            *count += weight;
        }
        #[expect(clippy::cast_precision_loss, reason = "a weight is a number of records in a batch")]
        let weight = weight as f64;
        self.sum += value * weight;
    }

    /// Adds the observations of `other`, which has the same bounds.
    pub fn merge(&mut self, other: &Self) {
        self.counts.iter_mut().zip(&other.counts).for_each(|(count, other)| *count += other);
        self.sum += other.sum;
    }

    /// Number of observations.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The least bound that at least `share` of the observations stay below, `None` without any.
    #[must_use]
    pub fn quantile(&self, share: f64) -> Option<f64> {
        #[expect(clippy::cast_precision_loss, reason = "an estimate")]
        let target = self.count() as f64 * share;
        let mut seen = 0;
        let bounds = self.bounds.iter().copied().chain([f64::INFINITY]);
        #[expect(clippy::cast_precision_loss, reason = "an estimate")]
        let bound = self.counts.iter().zip(bounds).find_map(|(count, bound)| {
            seen += count;
            (*count > 0 && seen as f64 >= target).then_some(bound)
        });
        bound
    }

    /// One with the same bounds and no observations.
    #[must_use]
    pub fn emptied(&self) -> Self {
        Self::new(self.bounds)
    }

    /// Each upper bound, the last of them infinite, with the number of observations above the one
    /// before and up to it.
    pub fn buckets(&self) -> impl Iterator<Item = (f64, u64)> {
        self.bounds.iter().copied().chain([f64::INFINITY]).zip(self.counts.iter().copied())
    }

    /// The sum of all observations.
    #[must_use]
    pub fn sum(&self) -> f64 {
        self.sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn observations_fall_into_the_first_bucket_that_holds_them() {
        let mut histogram = Histogram::new(&[1.0, 2.0]);
        for (value, weight) in [(0.5, 1), (1.0, 2), (1.5, 4), (9.0, 8)] {
            histogram.observe(value, weight);
        }
        assert_eq!(histogram.counts, [3, 4, 8]);
        assert_eq!((histogram.count(), histogram.sum), (15, 0.5 + 2.0 + 6.0 + 72.0));
        assert_eq!(
            [histogram.quantile(0.2), histogram.quantile(0.4), histogram.quantile(1.0)],
            [Some(1.0), Some(2.0), Some(f64::INFINITY)]
        );
    }
}
