//! Looks at the stream from outside, and shows the daemon to CloudWatch, on a schedule of its own.
//!
//! A failure domain of its own: one task that reads and writes nothing but figures. It never holds
//! a lock across a call, makes one call at a time, and whether its calls succeed, are denied, or
//! never answered, delivery does not notice.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio_util::sync::CancellationToken;

use crate::firehose::{Datapoint, Publication, Watch, WatchError};
use crate::limits::MAX_PUBLISHED_METRICS;
use crate::telemetry::figures::Figures;
use crate::telemetry::quiet::Quiet;
use crate::telemetry::stream::{CallOutcome, Reading};
use crate::telemetry::{now, wall_clock};

pub mod catalog;
pub mod plan;
pub mod publication;

use catalog::queries;
use plan::{Call, Plan};
use publication::Snapshot;

/// CloudWatch keeps Firehose's metrics by the minute.
const PERIOD: Duration = Duration::from_secs(60);
/// How far back datapoints are asked for, and so the age at which a value is no longer known.
const WINDOW: Duration = Duration::from_secs(600);
/// Datapoints come one to three minutes late, and until a minute after its end a minute may still
/// grow.
const LAG: Duration = Duration::from_secs(60);
/// Failures of one kind are said this often.
const SAID_EVERY: Duration = Duration::from_secs(3600);
/// The last publication, at the daemon's end, may take this long.
const LAST_PUBLICATION: Duration = Duration::from_millis(800);

/// Who only wants to know what the stream is asks again after about this long, a fleet not all at once.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

/// What the poller works with.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The delivery stream.
    pub stream: String,
    /// Time between two looks and between two publications.
    pub interval: Duration,
    /// Namespace that the daemon's own figures are published in; `None` publishes nothing.
    pub publish_namespace: Option<String>,
}

/// Runs until told to stop, then publishes once more if it publishes at all.
pub async fn run<W: Watch>(
    watch: Arc<W>,
    settings: Settings,
    figures: Arc<Figures>,
    stop: CancellationToken,
) {
    let mut random = fastrand::Rng::new();
    let started = now();
    let mut plan = Plan::new(settings.interval, settings.publish_namespace.is_some(), started, &mut random);
    let published = Snapshot::zero(&figures, started);
    let mut poller =
        Poller { watch, settings, figures, published, denied: BTreeSet::new(), voices: Voices::new() };
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            () = tokio::time::sleep_until(plan.poll_timeout().into()) => {}
        }
        while let Some(call) = plan.poll_call(now()) {
            let outcome = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                outcome = poller.call(call) => outcome,
            };
            plan.handle_outcome(call, outcome, now(), &mut random);
            if outcome == CallOutcome::Ok
                && call == (Call::Metrics { limits: true })
                && !poller.knows_limits()
            {
                plan.handle_no_limits();
            }
        }
    }
    if poller.settings.publish_namespace.is_some() {
        // A task that lives for less than an interval is seen all the same.
        drop(tokio::time::timeout(LAST_PUBLICATION, poller.publish()).await);
    }
}

/// Looks at what the stream is until that is known.
pub async fn look_until_known<W: Watch>(watch: Arc<W>, stream: String, figures: Arc<Figures>) {
    let settings = Settings { stream, interval: Duration::ZERO, publish_namespace: None };
    let published = Snapshot::zero(&figures, now());
    let mut poller =
        Poller { watch, settings, figures, published, denied: BTreeSet::new(), voices: Voices::new() };
    let mut random = fastrand::Rng::new();
    while poller.call(Call::Describe).await != CallOutcome::Ok {
        tokio::time::sleep(LOOK_AGAIN.mul_f64(0.5 + random.f64())).await;
    }
}

struct Poller<W> {
    watch: Arc<W>,
    settings: Settings,
    figures: Arc<Figures>,
    /// What the last publication was made of.
    published: Snapshot,
    /// Actions whose denial was said.
    denied: BTreeSet<&'static str>,
    voices: Voices,
}

/// How often the failures of each action are said.
struct Voices([(&'static str, Quiet); 3]);

impl Voices {
    fn new() -> Self {
        Self([DESCRIBE, METRICS, PUBLISH].map(|action| (action.name, Quiet::new(1, SAID_EVERY))))
    }

    fn say(&mut self, action: &str, at: Instant) -> Option<u64> {
        self.0.iter_mut().find(|(name, _)| *name == action).and_then(|(_, quiet)| quiet.say(at))
    }
}

/// A call by its name, the permission that it needs, and what is missing without it.
#[derive(Debug, Clone, Copy)]
pub struct Action {
    /// In the API.
    pub name: &'static str,
    /// In policies.
    pub permission: &'static str,
    /// A sentence without its full stop.
    pub costs: &'static str,
}

/// Looking at what the stream is.
pub const DESCRIBE: Action = Action {
    name: "DescribeDeliveryStream",
    permission: "firehose:DescribeDeliveryStream",
    costs: "the stream's status, type, encryption and destination stay unknown, and so do the metrics of its \
            deliveries; records are not packed unless `aggregate.mode` is \"on\", so small ones cost more",
};
/// Reading the stream's metrics.
pub const METRICS: Action = Action {
    name: "GetMetricData",
    permission: "cloudwatch:GetMetricData",
    costs: "what the stream takes in, its quotas and the freshness of its deliveries stay unknown",
};
/// Publishing the daemon's own.
pub const PUBLISH: Action = Action {
    name: "PutMetricData",
    permission: "cloudwatch:PutMetricData",
    costs: "nothing is published to CloudWatch",
};

impl<W: Watch> Poller<W> {
    async fn call(&mut self, call: Call) -> CallOutcome {
        match call {
            Call::Describe => self.describe().await,
            Call::Metrics { limits } => self.read(limits).await,
            Call::Publish => self.publish().await,
        }
    }

    async fn describe(&mut self) -> CallOutcome {
        let result = self.watch.describe(&self.settings.stream).await;
        let outcome = self.ended(&DESCRIBE, result.as_ref().err());
        if let Ok(description) = result {
            let mut stream = self.figures.stream();
            stream.description = Some(description);
            stream.described_at = Some(now());
        }
        outcome
    }

    async fn read(&mut self, limits: bool) -> CallOutcome {
        let destination =
            self.figures.stream().description.as_ref().and_then(|description| description.destination);
        let (readings, wanted): (Vec<Reading>, Vec<_>) = queries(destination, limits).into_iter().unzip();
        let at = wall_clock();
        let (start, end) = window(at);
        let result = self.watch.metrics(&self.settings.stream, &wanted, start, end).await;
        let outcome = self.ended(&METRICS, result.as_ref().err());
        let mut stream = self.figures.stream();
        // What nobody has renewed for this long is not known any more; quotas last.
        stream.readings.retain(|reading, datapoint| reading.lasts() || datapoint.at >= start);
        let Ok(series) = result else { return outcome };
        for (reading, datapoints) in readings.into_iter().zip(series) {
            if let Some(datapoint) = latest(&datapoints, at) {
                stream.readings.insert(reading, datapoint);
            }
        }
        stream.polled_at = Some(now());
        let value = |reading| stream.reading(reading).map(|datapoint| datapoint.value);
        let (incoming_bytes, incoming_records) =
            (value(Reading::IncomingBytes), value(Reading::IncomingRecords));
        drop(stream);
        tracing::info!(incoming_bytes, incoming_records, "Ingestion metrics");
        outcome
    }

    async fn publish(&mut self) -> CallOutcome {
        let Some(namespace) = self.settings.publish_namespace.clone() else { return CallOutcome::Ok };
        let snapshot = Snapshot::take(&self.figures, self.published.at(), now());
        let data = snapshot.since(&self.published);
        let high_resolution = snapshot.elapsed(&self.published) < PERIOD / 2;
        let mut result = Ok(());
        for data in data.chunks(MAX_PUBLISHED_METRICS) {
            let publication = Publication {
                namespace: &namespace,
                stream: &self.settings.stream,
                data,
                at: wall_clock(),
                high_resolution,
            };
            result = result.and(self.watch.publish(&publication).await);
        }
        let outcome = self.ended(&PUBLISH, result.as_ref().err());
        if result.is_ok() {
            self.published = snapshot;
        }
        outcome
    }

    fn knows_limits(&self) -> bool {
        self.figures.stream().reading(Reading::BytesPerSecondLimit).is_some()
    }

    /// Counts how a call ended, and says what there is to say: a missing permission once, by its
    /// name, with what that costs; another failure now and then.
    fn ended(&mut self, action: &Action, error: Option<&WatchError>) -> CallOutcome {
        let Action { name, permission, costs } = *action;
        let outcome = match error {
            None => CallOutcome::Ok,
            Some(WatchError::Denied(_)) => CallOutcome::Denied,
            Some(WatchError::Throttled(_)) => CallOutcome::Throttled,
            Some(WatchError::Missing(_) | WatchError::Failed(_)) => CallOutcome::Failed,
        };
        let problem = match outcome {
            CallOutcome::Denied => Some(format!("{permission} is not allowed: {costs}")),
            CallOutcome::Ok | CallOutcome::Throttled | CallOutcome::Failed => {
                error.map(|error| error.message().to_owned())
            }
        };
        self.figures.stream().called(name, outcome, problem);
        match error {
            None => {
                if self.denied.remove(name) {
                    tracing::info!(permission, "Permission granted.");
                }
            }
            Some(WatchError::Denied(error)) => {
                if self.denied.insert(name) {
                    tracing::warn!(
                        permission,
                        costs,
                        error = error.message,
                        "Permission missing, delivery goes on."
                    );
                }
            }
            Some(error) => {
                if let Some(suppressed) = self.voices.say(name, now()) {
                    let error = error.message();
                    tracing::warn!(action = name, error, suppressed, "Monitoring failed, delivery goes on.");
                }
            }
        }
        outcome
    }
}

/// From when and until when datapoints are asked for at `now`: to the end of the minute, so that the
/// one that has just begun is among them.
#[must_use]
pub fn window(now: SystemTime) -> (SystemTime, SystemTime) {
    let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let minute = SystemTime::UNIX_EPOCH + Duration::from_secs(since.as_secs() / 60 * 60);
    (minute - WINDOW, minute + PERIOD)
}

/// The latest of `datapoints`, the latest of which come first, whose period was over a minute
/// before `now`; without one, the earliest of the later ones, which is closest to whole. None is unknown,
/// and not zero.
#[must_use]
pub fn latest(datapoints: &[Datapoint], now: SystemTime) -> Option<Datapoint> {
    let whole = |datapoint: &&Datapoint| datapoint.at + PERIOD + LAG <= now;
    datapoints.iter().find(whole).or(datapoints.last()).copied()
}

#[cfg(test)]
mod tests;
