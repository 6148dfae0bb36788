//! What the flush task says in the log, and how often.
//!
//! The words are stable (README, "Look at it"). Failures are said five times in ten seconds, then
//! counted; batches have a line each up to ten a second, then one line that sums them up.

use std::time::{Duration, Instant};

use super::dead_letter::Letter;
use super::gate::Trouble;
use crate::batcher::Size;
use crate::buffer::{Count, DropReason};
use crate::firehose::{Answer, Class, PutError};
use crate::telemetry::quiet::Quiet;

/// See the module.
pub(super) struct Voice {
    batch: Quiet,
    record: Quiet,
    retry: Quiet,
    succeeded: Quiet,
    spent: Quiet,
    dropped: Quiet,
    failed: Quiet,
    /// Sending is paced, which was said.
    is_paced: bool,
    /// Batches that have had no line yet.
    unsaid: Batches,
}

/// Several batches as one.
#[derive(Debug, Default)]
struct Batches {
    number: u64,
    size: Size,
    failed_put_count: usize,
}

impl Batches {
    fn say(self) {
        let Self { number: batches, size: Size { records, bytes }, failed_put_count } = self;
        tracing::info!(records, bytes, failed_put_count, batches, "Batch ingested successfully");
    }
}

impl Voice {
    pub(super) fn new() -> Self {
        let failures = || Quiet::new(5, Duration::from_secs(10));
        let successes = || Quiet::new(10, Duration::from_secs(1));
        Self {
            batch: successes(),
            record: successes(),
            retry: failures(),
            succeeded: failures(),
            spent: failures(),
            dropped: failures(),
            failed: failures(),
            is_paced: false,
            unsaid: Batches::default(),
        }
    }

    /// What is throttled has made a pace, or there is none any more. A pace stays for ten minutes at least, so
    /// neither is said often.
    pub(super) fn paced(&mut self, pace: Option<f64>) {
        match (std::mem::replace(&mut self.is_paced, pace.is_some()), pace) {
            (false, Some(pace)) => {
                let bytes_per_second = pace.round();
                tracing::info!(bytes_per_second, "The stream throttles: sending is paced.");
            }
            (true, None) => tracing::info!("Sending is no longer paced."),
            _ => {}
        }
    }

    /// The service carried out a request of `size`.
    pub(super) fn delivered(&mut self, size: Size, answer: &Answer, at: Instant) {
        if let Some(record_id) = &answer.record_id {
            if let Some(suppressed) = self.record.say(at) {
                tracing::info!(record_id, bytes = size.bytes, suppressed, "Record ingested successfully");
            }
            return;
        }
        self.unsaid.number += 1;
        self.unsaid.size += size;
        self.unsaid.failed_put_count += answer.failed.len();
        if self.batch.say(at).is_some() {
            std::mem::take(&mut self.unsaid).say();
        }
    }

    /// Sums up the batches that have had no line, if there are any: there will be no more.
    pub(super) fn rest(&mut self) {
        if self.unsaid.number > 0 {
            std::mem::take(&mut self.unsaid).say();
        }
    }

    /// The same, once a line may be said again.
    pub(super) fn rest_if_quiet(&mut self, at: Instant) {
        if self.unsaid.number > 0 && self.batch.is_quiet(at) && self.batch.say(at).is_some() {
            self.rest();
        }
    }

    /// The stream takes requests again.
    pub(super) fn trouble_over(trouble: &Trouble, at: Instant) {
        let lasted_ms = millis(at.saturating_duration_since(trouble.since));
        tracing::info!(lasted_ms, error_code = %trouble.code, "Operation succeeded");
    }

    /// Records that had failed were delivered.
    pub(super) fn succeeded(&mut self, records: usize, at: Instant) {
        if let Some(suppressed) = self.succeeded.say(at) {
            tracing::info!(records, suppressed, "Operation succeeded");
        }
    }

    /// Entries failed and are sent again after `delay`.
    pub(super) fn retry(
        &mut self,
        delay: Duration,
        attempt: u32,
        error_code: &str,
        records: usize,
        at: Instant,
    ) {
        if let Some(suppressed) = self.retry.say(at) {
            let delay_ms = millis(delay);
            tracing::warn!(delay_ms, attempt, error_code, records, suppressed, "Operation failed, retrying");
        }
    }

    /// A request failed as a whole, for the `attempt`th time in a row, and is sent again after
    /// `delay`.
    pub(super) fn failed(&mut self, error: &PutError, delay: Duration, attempt: u32, at: Instant) {
        let Some(suppressed) = self.failed.say(at) else { return };
        let (delay_ms, error_code) = (millis(delay), &error.code);
        match (&error.message, error.class) {
            (error, Class::Throttled | Class::Transient) => {
                tracing::warn!(delay_ms, attempt, %error_code, error, suppressed, "Operation failed, retrying");
            }
            (error, Class::Permanent | Class::Refused) => {
                tracing::error!(delay_ms, attempt, %error_code, error, suppressed, "Operation failed, retrying");
            }
        }
    }

    /// Records will not be tried again.
    pub(super) fn spent(&mut self, letters: &[Letter], at: Instant) {
        if let Some(suppressed) = self.spent.say(at) {
            let records: usize = letters.iter().map(|letter| letter.span.records()).sum();
            let (error_code, attempts) =
                letters.first().map_or(("", 0), |letter| (letter.error_code.as_ref(), letter.attempts));
            tracing::error!(records, error_code, attempts, suppressed, "Maximum retries exceeded");
        }
    }

    /// Records are gone.
    pub(super) fn dropped(&mut self, Count { records, bytes }: Count, reason: DropReason, at: Instant) {
        if let Some(suppressed) = self.dropped.say(at) {
            tracing::error!(records, bytes, reason = reason.label(), suppressed, "Records dropped.");
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
