//! When which call is made: pure.
//!
//! Order of calls: [`Plan::poll_call`]; make the call; [`Plan::handle_outcome`]; again, until there
//! is none; then wait until [`Plan::poll_timeout`].
//!
//! A fleet of sidecars shares one account's control plane, which takes 5 calls a second
//! (<https://docs.aws.amazon.com/firehose/latest/dev/limits.html>). So the first call comes at
//! random within ten seconds, the others at random within a tenth of their period, a stream is
//! described five times less often than its metrics are read, and what is throttled or fails is
//! asked half as often each time in a row.

use std::time::{Duration, Instant};

use crate::telemetry::stream::CallOutcome;

/// The first calls are spread over this long, or one period if that is shorter.
const SPREAD: Duration = Duration::from_secs(10);
/// Part of a period by which a turn may be early or late.
const JITTER: f64 = 0.1;
/// Turns of the metrics to one description.
const DESCRIBE_EVERY: u32 = 5;
/// Longest wait after failures, unless a period is longer.
const LONGEST_BACKOFF: Duration = Duration::from_secs(3600);
/// What is denied is asked again this seldom: the policy may be mended meanwhile.
const DENIED_AGAIN: Duration = Duration::from_secs(600);
/// The quotas are read this seldom: they change by a support case or a slow scaling, and each
/// metric that is asked for costs.
const LIMITS_EVERY: Duration = Duration::from_secs(900);

/// A call to make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// `DescribeDeliveryStream`
    Describe,
    /// `GetMetricData`, with the stream's quotas or without.
    Metrics {
        /// Whether the quotas are due.
        limits: bool,
    },
    /// `PutMetricData`
    Publish,
}

/// One kind of call.
#[derive(Debug)]
struct Lane {
    period: Duration,
    due: Instant,
    failures: u32,
}

impl Lane {
    fn handle(&mut self, outcome: CallOutcome, now: Instant, random: &mut fastrand::Rng) {
        let wait = match outcome {
            CallOutcome::Ok => {
                self.failures = 0;
                self.period
            }
            CallOutcome::Denied => {
                self.failures = 0;
                self.period.max(DENIED_AGAIN)
            }
            CallOutcome::Throttled | CallOutcome::Failed => {
                self.failures = (self.failures + 1).min(16);
                (self.period * (1 << self.failures)).min(LONGEST_BACKOFF.max(self.period))
            }
        };
        self.due = now + wait.mul_f64(1.0 + JITTER * (2.0 * random.f64() - 1.0));
    }
}

/// See the module.
#[derive(Debug)]
pub struct Plan {
    describe: Lane,
    metrics: Lane,
    publish: Option<Lane>,
    limits_due: Option<Instant>,
}

impl Plan {
    /// A plan from `now` on, with `interval` between two looks and between two publications.
    #[must_use]
    pub fn new(interval: Duration, publishes: bool, now: Instant, random: &mut fastrand::Rng) -> Self {
        let due = now + SPREAD.min(interval).mul_f64(random.f64());
        let lane = |period, due| Lane { period, due, failures: 0 };
        Self {
            describe: lane(interval * DESCRIBE_EVERY, due),
            metrics: lane(interval, due),
            // There is nothing to publish before an interval is over.
            publish: publishes.then(|| lane(interval, due + interval)),
            limits_due: None,
        }
    }

    /// The call that is due. The description comes first: which metrics there are follows from it.
    #[must_use]
    pub fn poll_call(&self, now: Instant) -> Option<Call> {
        if self.describe.due <= now {
            return Some(Call::Describe);
        }
        if self.metrics.due <= now {
            return Some(Call::Metrics { limits: self.limits_due.is_none_or(|due| due <= now) });
        }
        self.publish.as_ref().filter(|lane| lane.due <= now).map(|_| Call::Publish)
    }

    /// How `call` ended.
    pub fn handle_outcome(
        &mut self,
        call: Call,
        outcome: CallOutcome,
        now: Instant,
        random: &mut fastrand::Rng,
    ) {
        match call {
            Call::Describe => self.describe.handle(outcome, now, random),
            Call::Metrics { limits } => {
                self.metrics.handle(outcome, now, random);
                if limits && outcome == CallOutcome::Ok {
                    self.limits_due = Some(now + LIMITS_EVERY);
                }
            }
            Call::Publish => {
                if let Some(lane) = &mut self.publish {
                    lane.handle(outcome, now, random);
                }
            }
        }
    }

    /// The quotas were asked for and were not there: they are asked for again with the next look.
    pub fn handle_no_limits(&mut self) {
        self.limits_due = None;
    }

    /// When the next call is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Instant {
        let publish = self.publish.as_ref().map(|lane| lane.due);
        publish.into_iter().fold(self.describe.due.min(self.metrics.due), Instant::min)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    /// The calls of `duration`, as `outcome` has them end.
    fn calls(
        interval: Duration,
        publishes: bool,
        duration: Duration,
        outcome: impl Fn(Call) -> CallOutcome,
    ) -> Vec<(Duration, Call)> {
        let mut random = fastrand::Rng::with_seed(7);
        let start = crate::telemetry::now();
        let mut plan = Plan::new(interval, publishes, start, &mut random);
        let (mut now, mut calls) = (start, Vec::new());
        while now < start + duration {
            while let Some(call) = plan.poll_call(now) {
                calls.push((now - start, call));
                plan.handle_outcome(call, outcome(call), now, &mut random);
            }
            now = plan.poll_timeout();
        }
        calls
    }

    fn count(calls: &[(Duration, Call)], is: impl Fn(&Call) -> bool) -> usize {
        calls.iter().filter(|(_, call)| is(call)).count()
    }

    // R-M3
    #[test]
    fn the_stream_is_described_first_and_then_a_fifth_as_often_as_its_metrics_are_read() {
        let calls = calls(MINUTE, false, 100 * MINUTE, |_| CallOutcome::Ok);
        assert!(calls[0].0 <= SPREAD);
        assert_eq!((calls[0].1, calls[1].1), (Call::Describe, Call::Metrics { limits: true }));
        let (describes, metrics) = (
            count(&calls, |call| *call == Call::Describe),
            count(&calls, |call| matches!(call, Call::Metrics { .. })),
        );
        assert!((18..=22).contains(&describes) && (90..=110).contains(&metrics), "{describes}, {metrics}");
        let limits = count(&calls, |call| *call == Call::Metrics { limits: true });
        assert!((6..=7).contains(&limits), "{limits}");
    }

    #[test]
    fn what_is_published_is_published_at_every_interval() {
        let calls = calls(MINUTE, true, 100 * MINUTE, |_| CallOutcome::Ok);
        let first = calls.iter().find(|(_, call)| *call == Call::Publish).unwrap().0;
        assert!(first >= MINUTE && first <= MINUTE + SPREAD, "{first:?}");
        assert!((90..=110).contains(&count(&calls, |call| *call == Call::Publish)));
    }

    // R-M3
    #[test]
    fn failures_of_one_kind_slow_that_kind_down_and_no_other() {
        for failure in [CallOutcome::Failed, CallOutcome::Throttled, CallOutcome::Denied] {
            let outcome = |call| if call == Call::Describe { failure } else { CallOutcome::Ok };
            let calls = calls(MINUTE, true, 600 * MINUTE, outcome);
            let describes = count(&calls, |call| *call == Call::Describe);
            let metrics = count(&calls, |call| matches!(call, Call::Metrics { .. }));
            assert!((2..70).contains(&describes), "{describes} after {failure:?}");
            assert!(metrics > 540, "{metrics} after {failure:?}");
        }
    }

    // R-M3
    #[test]
    fn a_thousand_sidecars_stay_below_the_five_calls_a_second_of_the_control_plane() {
        let mut seconds = vec![0u32; 3600];
        for seed in 0..1000 {
            let mut random = fastrand::Rng::with_seed(seed);
            let start = crate::telemetry::now();
            let mut plan = Plan::new(MINUTE, false, start, &mut random);
            let mut now = start;
            while now < start + Duration::from_secs(3600) {
                if let Some(call) = plan.poll_call(now) {
                    if call == Call::Describe {
                        let second = usize::try_from((now - start).as_secs()).unwrap();
                        seconds[second] += 1;
                    }
                    plan.handle_outcome(call, CallOutcome::Ok, now, &mut random);
                } else {
                    now = plan.poll_timeout();
                }
            }
        }
        // All of them start at once here; after the first round they are spread out.
        let later: u32 = seconds[600..].iter().sum();
        assert!(f64::from(later) / 3000.0 < 5.0, "{later} calls in 50 minutes");
    }
}
