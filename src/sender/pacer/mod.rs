//! When the next request may leave and how much it may carry: a pure state machine that learns the
//! share of a stream's quota that is ours from what the service throttles.
//!
//! Order of calls. The limits, whenever the poller has read them: [`Pacer::handle_limits`]. When a
//! batch is ready and the gate is open: [`Pacer::poll_room`]. If it gives nothing, wait for
//! [`Pacer::poll_timeout`]; if it gives a [`Carry`], form the batch within it (one record at least,
//! however large), send it and tell [`Pacer::handle_sent`] at once, before the next poll. Every
//! answer that says something of the quota goes to [`Pacer::handle_answer`], a request that was
//! throttled as a whole to [`Pacer::handle_throttled`]; both take the time at which the request was
//! sent. Failures of another kind say nothing of the quota and are told to nobody here. A throttled
//! request is the pacer's alone: the gate, which knows no rate, would only stop what it paces.
//!
//! What it does, and why, with the figures that its constants gave: `docs/PACING.md`. In short:
//!
//! - With nothing known it is wide open and delays nothing. A limit that the poller read holds from
//!   the start; what is throttled makes a *pace*, in bytes a second.
//! - An answer that was throttled cuts the pace by its *gain*, a clean one raises it by the gain times
//!   the share of throttled requests that is aimed at. So every sidecar sees about that share
//!   throttled, however many there are. A request carries what some fixed time brings, so the larger
//!   share sends the larger requests, which the quota's edge hits more often: that makes shares equal.
//! - Gain and aim start high where most was throttled, and fall with each cut: all first move fast
//!   and then settle. What is lost raises the gain again. A run of clean requests that is too long to
//!   be luck says that room has returned, and the pace grows with the cube of the run.
//!
//! Invariants: over any time no more leaves than the limits allow in it, one burst and one record
//! beyond; [`Pacer::poll_timeout`] always leads to room; nothing is allocated.

use std::time::{Duration, Instant};

use crate::batcher::Size;

/// Bytes that a request waits for at least before it leaves.
///
/// The service allows a request for every 1,048 bytes where it allows fewest: 1,000 requests and
/// 1 MiB a second. This is a quarter more, for those who send less than that.
/// Source: <https://docs.aws.amazon.com/firehose/latest/dev/limits.html>
const LEAST_CARRY: f64 = 1310.0;
/// The same quarter, where both limits are known.
const REQUEST_MARGIN: f64 = 1.25;
/// The most that [`LEAST_CARRY`] is raised to.
const MOST_LEAST_CARRY: f64 = 4096.0;
/// How much a request that was throttled as a whole raises what requests carry at least: there may be
/// too many of them.
const CARRY_RISE: f64 = 1.2;
/// How much of that rise each clean request takes away.
const CARRY_FALL: f64 = 0.02;

/// A request carries what this many seconds bring at [`USUAL_RATE`]. At other rates the time goes with
/// the inverse fourth root of the rate: 83 ms at 1 MiB/s, of which a full request would be four seconds.
///
/// Short, so that there are many answers to learn from; nearly the same for all, so that what a
/// request carries shows its sender's share (see the module).
const USUAL_TIME: f64 = 0.3;
/// See [`USUAL_TIME`].
const USUAL_RATE: f64 = 6.0 * 1024.0;
/// Seconds of the limits in records and in requests that may leave at once.
const LIMIT_BURST: f64 = 0.5;

/// The share of requests that may be throttled at [`USUAL_RATE`] and above; 2 % is the most wanted.
const AIM: f64 = 0.014;
/// Below [`USUAL_RATE`] the share rises with this power of the inverse of the rate. Requests all carry
/// the same there, so that their size can't make shares equal; this does, slowly.
const AIM_POWER: f64 = 0.12;
/// The most that this makes of [`AIM`].
const AIM_MOST: f64 = 2.0;
/// The aim at first, when the smaller part of a request was throttled.
const CALM_AIM: f64 = 0.1;
/// The aim where most was throttled, so that pace and quota find each other in seconds.
const WILD_AIM: f64 = 0.4;
/// What a cut leaves of those, until [`AIM`] is above them.
const AIM_DECAY: f64 = 0.7;

/// The part of the pace that the first cut takes.
const FIRST_GAIN: f64 = 0.2;
/// The least that a cut takes.
///
/// CUBIC takes 0.3 and cuts every few seconds; of a thousand sidecars each sees a cut in a minute or
/// two, and shares that move in small steps stay closer together.
/// Source: <https://www.rfc-editor.org/rfc/rfc9438#section-4.6>
const LEAST_GAIN: f64 = 0.04;
/// What a cut leaves of the gain: falling steps average out what single answers happened to say.
/// Source: Robbins and Monro, <https://doi.org/10.1214/aoms/1177729586>
const GAIN_DECAY: f64 = 0.9;
/// Weight of an answer in the running share of what is throttled.
const LOSS_WEIGHT: f64 = 0.04;

/// Clean requests in a row, times the aim, that are no luck: by chance one run in 150 is as long.
const RUN: f64 = 5.0;
/// The pace grows with this power of a run that is no luck. So runs of nearly the same length give
/// nearly the same pace; if it doubled at a steady rate, a head start of seconds would decide.
/// Source: the convex region of CUBIC, <https://www.rfc-editor.org/rfc/rfc9438#section-4.5>
const RUN_POWER: f64 = 3.0;

/// An answer, or a running share, of which this much was throttled says nothing of our share but that
/// it is far below what was sent.
const MOST: f64 = 0.5;
/// Where the pace begins then: bytes a second.
const BOTTOM: f64 = 4096.0;
/// The least pace: a request in some 20 seconds, about the longest wait between retries.
const LEAST_RATE: f64 = 64.0;
/// The largest pace, which no stream reaches.
const MOST_RATE: f64 = 1e12;
/// A pace that has neither cut nor held back for this long is forgotten.
const FORGET: Duration = Duration::from_secs(600);
/// Longest debt for a record that is larger than the carry, and longest wait before another look:
/// seconds.
const LONGEST_WAIT: f64 = 60.0;

/// The stream's limits, as far as they are known, each a second.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Limits {
    /// Bytes.
    pub bytes: Option<f64>,
    /// Records.
    pub records: Option<f64>,
    /// Requests.
    pub requests: Option<f64>,
}

/// What the next request may carry. One record may be larger than that, where it goes alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Carry {
    /// Most records, at least 1.
    pub records: usize,
    /// Most bytes, at least 1.
    pub bytes: usize,
}

impl Carry {
    /// Whatever there is.
    pub const ANYTHING: Self = Self { records: usize::MAX, bytes: usize::MAX };
}

/// See the module.
#[derive(Debug)]
pub struct Pacer {
    limits: Limits,
    pace: Option<Pace>,
    bytes: Option<Bucket>,
    records: Option<Bucket>,
    requests: Option<Bucket>,
    /// Least bytes that a request carries, as requests throttled as a whole have raised it.
    least: f64,
    /// How much of what a request usually carries the next one waits for, 0.5 to 1.5: drawn anew for
    /// each, so that sidecars that start at once don't go on in step.
    share: f64,
    /// When the pace was last cut: requests sent before say nothing new.
    cut_at: Option<Instant>,
    /// When the pace last held a request back.
    held_at: Option<Instant>,
    delivered: Meter,
}

/// What was learnt of our share.
#[derive(Debug)]
struct Pace {
    /// Bytes a second.
    rate: f64,
    /// The part of the rate that a cut takes.
    gain: f64,
    /// The share of requests that may be throttled, while it is above [`AIM`].
    aim: f64,
    /// The running share of what is throttled.
    loss: f64,
    /// Clean requests since the last cut, of those that the pace had held back.
    run: f64,
}

impl Default for Pacer {
    fn default() -> Self {
        Self::new()
    }
}

impl Pacer {
    /// A pacer that knows nothing and delays nothing.
    #[must_use]
    pub fn new() -> Self {
        Self {
            limits: Limits::default(),
            pace: None,
            bytes: None,
            records: None,
            requests: None,
            least: LEAST_CARRY,
            share: 1.0,
            cut_at: None,
            held_at: None,
            delivered: Meter::default(),
        }
    }

    /// What is known of the stream's limits from now on. One that is no positive number is unknown.
    pub fn handle_limits(&mut self, limits: Limits, now: Instant) {
        let known = |limit: Option<f64>| limit.filter(|limit| limit.is_finite() && *limit > 0.0);
        let limits = Limits {
            bytes: known(limits.bytes),
            records: known(limits.records),
            requests: known(limits.requests),
        };
        if limits == self.limits {
            return;
        }
        self.limits = limits;
        self.least = self.least.max(self.least_carry());
        for (bucket, limit) in [(&mut self.records, limits.records), (&mut self.requests, limits.requests)] {
            Bucket::set(bucket, limit.map(|rate| (rate, (rate * LIMIT_BURST).max(1.0))), now);
        }
        self.set_rate(now);
    }

    /// A request of this size leaves.
    pub fn handle_sent(&mut self, size: Size, now: Instant, random: &mut fastrand::Rng) {
        self.share = 0.5 + random.f64();
        if let Some(bytes) = &self.bytes
            && bytes.level(now) < bytes.burst
        {
            self.held_at = Some(now);
        }
        let costs = [
            (&mut self.bytes, size.bytes as f64),
            (&mut self.records, size.records as f64),
            (&mut self.requests, 1.0),
        ];
        for (bucket, cost) in costs {
            if let Some(bucket) = bucket {
                bucket.take(cost, now);
            }
        }
    }

    /// The answer to a request that was sent at `sent`: what of it was delivered and what throttled.
    /// Records that failed for another reason are in neither.
    pub fn handle_answer(&mut self, delivered: Size, throttled: Size, sent: Instant, now: Instant) {
        self.delivered.add(delivered.bytes as f64, now);
        if self.cut_at.is_some_and(|cut| sent < cut) {
            return;
        }
        let (delivered, throttled) =
            (delivered.bytes.max(delivered.records), throttled.bytes.max(throttled.records));
        if throttled > 0 {
            self.cut(throttled as f64 / (delivered as f64 + throttled as f64), now);
        } else if delivered > 0 {
            self.grow(sent, now);
        }
    }

    /// A request that was sent at `sent` was throttled as a whole.
    pub fn handle_throttled(&mut self, sent: Instant, now: Instant) {
        if self.cut_at.is_some_and(|cut| sent < cut) {
            return;
        }
        self.least = (self.least * CARRY_RISE).min(MOST_LEAST_CARRY);
        self.cut(1.0, now);
    }

    /// What a request may carry that leaves now.
    #[must_use]
    pub fn poll_room(&self, now: Instant) -> Option<Carry> {
        (self.wait(now) == 0.0).then(|| Carry {
            records: self.records.as_ref().map_or(usize::MAX, |records| whole(records.level(now))),
            bytes: self.bytes.as_ref().map_or(usize::MAX, |bytes| whole(bytes.level(now))),
        })
    }

    /// When [`Pacer::poll_room`] may answer otherwise although nothing else happens.
    #[must_use]
    pub fn poll_timeout(&self, now: Instant) -> Option<Instant> {
        let wait = self.wait(now);
        // Rounded up, so that there is room then.
        (wait > 0.0).then(|| now + Duration::from_secs_f64(wait.min(LONGEST_WAIT)) + Duration::from_nanos(1))
    }

    /// The learnt pace in bytes a second; `None` while nothing was throttled.
    #[must_use]
    pub fn pace(&self) -> Option<f64> {
        self.pace.as_ref().map(|pace| pace.rate)
    }

    /// Seconds until every bucket has enough for a request.
    fn wait(&self, now: Instant) -> f64 {
        // One at least, and this part of a burst.
        let wait = |bucket: &Option<Bucket>, part: f64| {
            bucket.as_ref().map_or(0.0, |bucket| bucket.wait((part * bucket.burst).max(1.0), now))
        };
        wait(&self.bytes, self.share / 2.0).max(wait(&self.records, 0.5)).max(wait(&self.requests, 0.0))
    }

    /// Of an answer, `loss` was throttled.
    fn cut(&mut self, loss: f64, now: Instant) {
        self.cut_at = Some(now);
        match &mut self.pace {
            Some(pace) => pace.cut(loss),
            None => {
                // What went through in the second before, and would have gone through of it now.
                let share = self.delivered.second_before(now) * (1.0 - loss);
                let calm = loss < MOST && share > BOTTOM;
                self.pace = Some(Pace::new(share.max(BOTTOM), if calm { CALM_AIM } else { WILD_AIM }));
                self.set_rate(now);
                // Nothing was saved up while the pace was too high.
                if let Some(bytes) = &mut self.bytes {
                    bytes.level = bytes.level.min(0.0);
                }
            }
        }
        self.set_rate(now);
    }

    /// A request that was sent at `sent` was delivered.
    fn grow(&mut self, sent: Instant, now: Instant) {
        self.least -= (self.least - self.least_carry()) * CARRY_FALL;
        let Some(pace) = &mut self.pace else { return };
        pace.loss -= LOSS_WEIGHT * pace.loss;
        // A pace that holds nothing back is not known to be any good: it does not grow for it.
        // Source: <https://www.rfc-editor.org/rfc/rfc7661>
        if self.held_at.is_some_and(|held| held >= sent) {
            pace.grow();
        } else if self.cut_at.is_some_and(|cut| now >= cut + FORGET)
            && self.held_at.is_none_or(|held| now >= held + FORGET)
        {
            self.pace = None;
        }
        self.set_rate(now);
    }

    fn least_carry(&self) -> f64 {
        match self.limits {
            Limits { bytes: Some(bytes), requests: Some(requests), .. } => {
                LEAST_CARRY.max((REQUEST_MARGIN * bytes / requests).min(MOST_LEAST_CARRY))
            }
            _ => LEAST_CARRY,
        }
    }

    /// Brings the bucket of bytes up to date with the pace and the limit.
    fn set_rate(&mut self, now: Instant) {
        let limit = self.limits.bytes.unwrap_or(MOST_RATE);
        if let Some(pace) = &mut self.pace {
            pace.rate = pace.rate.clamp(LEAST_RATE.min(limit), limit.min(MOST_RATE));
        }
        let rate = self.pace.as_ref().map(|pace| pace.rate).or(self.limits.bytes);
        let least = self.least;
        Bucket::set(&mut self.bytes, rate.map(|rate| (rate, 2.0 * usual_carry(rate).max(least))), now);
    }
}

impl Pace {
    fn new(rate: f64, aim: f64) -> Self {
        Self { rate, gain: FIRST_GAIN, aim, loss: 0.0, run: 0.0 }
    }

    fn cut(&mut self, loss: f64) {
        self.loss += LOSS_WEIGHT * (loss - self.loss);
        self.run = 0.0;
        self.gain = (self.gain * GAIN_DECAY).max(self.loss).max(LEAST_GAIN);
        self.aim = if self.loss < MOST { self.aim * AIM_DECAY } else { WILD_AIM };
        self.rate *= 1.0 - self.gain;
        // What this cut pays for is not counted again by the next.
        self.loss -= (self.gain / 2.0).min(self.loss);
    }

    fn grow(&mut self) {
        self.run += 1.0;
        let slow = (USUAL_RATE / self.rate).powf(AIM_POWER).clamp(1.0, AIM_MOST);
        let aim = self.aim.max(AIM * slow);
        let growth = if self.run * aim > RUN { RUN_POWER / self.run } else { self.gain * aim };
        self.rate *= 1.0 + growth;
    }
}

/// Bytes that a request carries at `rate` bytes a second.
fn usual_carry(rate: f64) -> f64 {
    rate * USUAL_TIME * (USUAL_RATE / rate).sqrt().sqrt()
}

/// The whole number below, at least 1.
#[expect(clippy::cast_possible_truncation, reason = "a number too large becomes the largest, which is meant")]
fn whole(number: f64) -> usize {
    (number as usize).max(1)
}

/// What comes at a steady rate and is kept up to a burst.
///
/// Who takes more than there is goes into debt: otherwise a record above the burst could never leave.
#[derive(Debug)]
struct Bucket {
    per_second: f64,
    burst: f64,
    level: f64,
    at: Instant,
}

impl Bucket {
    /// Makes `bucket` one of this rate and burst; a new one is full.
    fn set(bucket: &mut Option<Self>, rate: Option<(f64, f64)>, now: Instant) {
        *bucket = rate.map(|(per_second, burst)| {
            let old = bucket.take();
            let level = old.as_ref().map_or(burst, |old| old.level(now).min(burst));
            let at = old.map_or(now, |old| old.at.max(now));
            Self { per_second, burst, level, at }
        });
    }

    fn level(&self, now: Instant) -> f64 {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        (self.level + passed * self.per_second).min(self.burst)
    }

    fn take(&mut self, cost: f64, now: Instant) {
        let debt = -LONGEST_WAIT * self.per_second;
        self.level = (self.level(now) - cost).max(debt);
        self.at = self.at.max(now);
    }

    /// Seconds until there is `wanted`.
    fn wait(&self, wanted: f64, now: Instant) -> f64 {
        // The tolerance is far below a byte's worth: it only forgives rounding.
        let lack = wanted.min(self.burst) * (1.0 - 1e-9) - self.level(now);
        (lack / self.per_second).max(0.0)
    }
}

/// Bytes of the last second: all of this one's and the part of the one before that overlaps.
#[derive(Debug, Default)]
struct Meter {
    since: Option<Instant>,
    this: f64,
    before: f64,
}

impl Meter {
    fn add(&mut self, bytes: f64, now: Instant) {
        let since = *self.since.get_or_insert(now);
        let passed = now.saturating_duration_since(since).as_secs();
        if passed > 0 {
            self.before = if passed == 1 { self.this } else { 0.0 };
            (self.this, self.since) = (0.0, Some(since + Duration::from_secs(passed)));
        }
        self.this += bytes;
    }

    fn second_before(&mut self, now: Instant) -> f64 {
        self.add(0.0, now);
        self.before
    }
}

#[cfg(test)]
mod tests;
