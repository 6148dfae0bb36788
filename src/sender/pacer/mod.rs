//! When the next request may leave and how much it may carry: a pure state machine that learns the
//! share of a stream's quota that is ours from what the service throttles.
//!
//! Order of calls. When a batch is ready and the gate is open: [`Pacer::poll_timeout`]. If that is now,
//! form the batch within [`Pacer::poll_room`] (one record at least, however large), send it and tell
//! [`Pacer::handle_sent`] at once, before the next poll. Every answer that says something of the quota goes
//! to [`Pacer::handle_answer`], a request that was throttled as a whole to [`Pacer::handle_throttled`]; both
//! take the time at which the request was sent. Failures of another kind say nothing of the quota and
//! are told to nobody here. Limits that are known are the [`quota`](super::quota)'s; requests that failed as a
//! whole make the [`gate`](super::gate) wait, too.
//!
//! What it does, and why, with the figures that its constants gave: `docs/PACING.md`. In short:
//!
//! - With nothing learnt it is wide open and delays nothing. What is throttled makes a *pace*, in bytes a second.
//! - An answer that was throttled cuts the pace by its *gain*, a clean one raises it by the gain times
//!   the share of throttled requests that is aimed at (`pace`). So every sidecar sees about that share
//!   throttled, however many there are. A request carries what some fixed time brings, so the larger
//!   share sends the larger requests, which the quota's edge hits more often: that makes shares equal.
//! - Where the stream's totals are known, what a request of it carries on average tells the typical pace, to which all
//!   are drawn (`fleet`).
//! - Where a pace that has fallen far changes nothing of what is throttled, that is taken for a property of the
//!   stream and no longer for a sign of its quota (`trial`).
//!
//! Invariants: [`Pacer::poll_timeout`] always leads to room; nothing is allocated.

use std::time::{Duration, Instant};

use self::fleet::Fleet;
pub use self::fleet::Totals;
use self::pace::Pace;
use self::trial::{Taken, Trial};
use super::bucket::{Bucket, timeout, whole};
use crate::batcher::Size;
use crate::limits::BILLED_UNIT_BYTES;

mod fleet;
mod pace;
mod trial;

/// Bytes that a request waits for at least before it leaves.
///
/// The service allows a request for every 1,048 bytes where it allows fewest: 1,000 requests and
/// 1 MiB a second. This is a quarter more, for those who send less than that.
/// Source: <https://docs.aws.amazon.com/firehose/latest/dev/limits.html>
const LEAST_CARRY: f64 = 1310.0;
/// The most that [`LEAST_CARRY`] is raised to.
const MOST_LEAST_CARRY: f64 = 4096.0;
/// How much a request that was throttled as a whole raises what requests carry at least: there may be
/// too many of them.
const CARRY_RISE: f64 = 1.2;
/// How much of that rise each clean request takes away.
const CARRY_FALL: f64 = 0.02;

/// A request carries what this many seconds bring at [`pace::USUAL_RATE`]. At other rates the time goes with
/// the inverse fourth root of the rate: 83 ms at 1 MiB/s, of which a full request would be four seconds.
///
/// Short, so that there are many answers to learn from; nearly the same for all, so that what a
/// request carries shows its sender's share (see the module).
const USUAL_TIME: f64 = 0.3;

/// There is a pace once so much has been throttled of the last hundred or so requests, in as many of them at
/// least, for so long. Without a pace a full quota throttles most of what is sent. What throttles less is no
/// quota, or will not for long, and is cheaper to retry than to find out about; but where the quota is known to be
/// used up it is that, however little.
const FIRST: (f64, u32, Duration) = (0.4, 8, Duration::from_secs(2));
/// The pace begins with this part of what was sent at least.
const FIRST_PART: f64 = 1.0 / 8.0;
/// And no lower than this: bytes a second.
const BOTTOM: f64 = 4096.0;
/// Clean requests in a row that make what was delivered meanwhile a rate that is known to be good.
const GOOD_RUN: u32 = 16;
/// A pace that has neither cut nor held back for this long is forgotten.
const FORGET: Duration = Duration::from_secs(600);

/// See the module.
#[derive(Debug)]
pub struct Pacer {
    pace: Option<Pace>,
    fleet: Fleet,
    trial: Trial,
    bucket: Option<Bucket>,
    /// Least bytes that a request carries, as requests throttled as a whole have raised it.
    least: f64,
    /// How much of what a request usually carries the next one waits for, 0.5 to 1.5: drawn anew for
    /// each, so that sidecars that start at once don't go on in step.
    share: f64,
    /// When the pace was last cut: requests sent before say nothing new.
    cut_at: Option<Instant>,
    /// When the pace last held a request back.
    held_at: Option<Instant>,
    /// Since when so much has been throttled that there should be a pace.
    crowded_since: Option<Instant>,
    /// All of the latest answer was throttled.
    barren: bool,
    /// Clean requests in a row while there is no pace.
    run: u32,
    /// The most that was delivered in a second of such a run.
    good: f64,
    sent: Meter,
    delivered: Meter,
}

/// What became of a request, in bytes.
#[derive(Debug, Clone, Copy)]
struct Outcome {
    delivered: f64,
    throttled: f64,
    sent: Instant,
    answered: Instant,
}

impl Outcome {
    fn loss(self) -> f64 {
        self.throttled / (self.delivered + self.throttled)
    }
}

impl Default for Pacer {
    fn default() -> Self {
        Self {
            pace: None,
            fleet: Fleet::default(),
            trial: Trial::default(),
            bucket: None,
            least: LEAST_CARRY,
            share: 1.0,
            cut_at: None,
            held_at: None,
            crowded_since: None,
            barren: false,
            run: 0,
            good: 0.0,
            sent: Meter::default(),
            delivered: Meter::default(),
        }
    }
}

impl Pacer {
    /// Whether several records go as one of Firehose's from now on. Then a request carries no less than
    /// is billed for one.
    pub fn set_packed(&mut self, packed: bool) {
        self.fleet.set_packed(packed);
    }

    /// What is known of the stream's last minute, as often as it is looked at; `None` where CloudWatch is not read.
    /// Of one byte here, `ratio` are sent.
    pub fn handle_totals(&mut self, totals: Option<Totals>, ratio: f64) {
        if self.fleet.handle_totals(totals, ratio) {
            self.trial.set_busy(self.fleet.is_busy());
            if self.fleet.anchor().is_some() {
                // There are not too many requests any more, which who sends one in a minute takes hours to learn.
                self.least = f64::midpoint(self.least, LEAST_CARRY);
            }
            self.draw();
        }
    }

    /// A request of this size leaves.
    pub fn handle_sent(&mut self, size: Size, now: Instant, random: &mut fastrand::Rng) {
        self.share = 0.5 + random.f64();
        self.sent.add(size.bytes as f64, now);
        let Some(bucket) = &mut self.bucket else { return };
        if bucket.level(now) < bucket.burst {
            self.held_at = Some(now);
            self.fleet.note_held(size.bytes as f64);
        }
        bucket.take(size.bytes as f64, now);
        // At the least pace a large record would be paid off for hours.
        bucket.forgive();
    }

    /// The answer to a request that was sent at `sent`: bytes of it that were delivered and that were throttled.
    /// Records that failed for another reason are in neither.
    pub fn handle_answer(&mut self, delivered: usize, throttled: usize, sent: Instant, now: Instant) {
        self.delivered.add(delivered as f64, now);
        let (delivered, throttled) = (delivered as f64, throttled as f64);
        self.learn(Outcome { delivered, throttled, sent, answered: now });
    }

    /// A request of `bytes` that was sent at `sent` was throttled as a whole.
    pub fn handle_throttled(&mut self, bytes: usize, sent: Instant, now: Instant) {
        if self.cut_at.is_none_or(|cut| sent >= cut) {
            self.least = (self.least * CARRY_RISE).min(MOST_LEAST_CARRY);
        }
        self.learn(Outcome { delivered: 0.0, throttled: bytes as f64, sent, answered: now });
    }

    /// What a request may carry that leaves as soon as [`Pacer::poll_timeout`] allows.
    #[must_use]
    pub fn poll_room(&self, now: Instant) -> Size {
        let room = |bucket: &Bucket| {
            whole(if self.barren { self.wanted(bucket) } else { bucket.level(now).max(self.wanted(bucket)) })
        };
        Size { bytes: self.bucket.as_ref().map_or(usize::MAX, room), ..Size::ANYTHING }
    }

    /// When a request may leave; `None` is now.
    #[must_use]
    pub fn poll_timeout(&self, now: Instant) -> Option<Instant> {
        let wait = self.bucket.as_ref().map_or(0.0, |bucket| bucket.wait(self.wanted(bucket), now));
        timeout(wait, now)
    }

    /// The learnt pace in bytes a second; `None` while there is none.
    #[must_use]
    pub fn pace(&self) -> Option<f64> {
        self.pace.as_ref().map(|pace| pace.rate)
    }

    /// Bytes that the next request waits for. Where nothing came through it only looks: of what others have
    /// all but used up, little is had sooner than much.
    fn wanted(&self, bucket: &Bucket) -> f64 {
        let usual = (self.share / 2.0 * bucket.burst).max(1.0);
        if self.barren { usual.min(self.least) } else { usual }
    }

    fn learn(&mut self, outcome: Outcome) {
        let Outcome { sent, answered: now, .. } = outcome;
        if outcome.delivered + outcome.throttled == 0.0 {
            return;
        }
        match &mut self.pace {
            None => {
                self.trial.note_unpaced(outcome, self.sent.second(now));
                let before = self.trial.before();
                let crowded = before.hits() >= FIRST.1 && (before.loss() >= FIRST.0 || self.trial.is_busy());
                self.crowded_since = self.crowded_since.or(Some(now)).filter(|_| crowded);
            }
            Some(pace) => {
                let held = self.held_at.filter(|held| *held >= sent);
                if self.trial.note(pace, outcome, held) == Taken {
                    return self.set_rate(now);
                }
            }
        }
        if self.cut_at.is_some_and(|cut| sent < cut) {
            return;
        }
        let barren = std::mem::replace(&mut self.barren, outcome.delivered == 0.0);
        if outcome.throttled == 0.0 {
            self.grow(sent, now);
        } else if outcome.delivered > 0.0 || !barren || self.pace.is_none() {
            // While nothing comes through, the gate waits longer each time; the pace is for what comes after that.
            self.cut(outcome.loss(), now);
        }
        self.set_rate(now);
    }

    /// Of an answer, `loss` was throttled.
    fn cut(&mut self, loss: f64, now: Instant) {
        self.run = 0;
        self.fleet.note_loss(loss);
        match &mut self.pace {
            Some(pace) => pace.cut(loss),
            None => self.begin(now),
        }
        self.cut_at = self.pace.as_ref().map(|_| now);
    }

    /// Begins with what went through in the second before, or would have.
    fn begin(&mut self, now: Instant) {
        if self.crowded_since.is_none_or(|since| now < since + FIRST.2) {
            return;
        }
        let before = self.trial.before();
        let through = self.delivered.second_before(now).max(before.rate * (1.0 - before.loss()));
        let rate = through.max(before.rate * FIRST_PART).min(before.rate).max(BOTTOM);
        let most = self.fleet.most();
        self.pace = Some(Pace::new(rate.min(most), before.loss(), self.good.min(most)));
        self.draw();
        self.set_rate(now);
        // Nothing was saved up while the pace was too high.
        if let Some(bucket) = &mut self.bucket {
            bucket.empty();
        }
    }

    /// Tells the pace what it is drawn to.
    fn draw(&mut self) {
        if let Some(pace) = &mut self.pace {
            pace.set_anchor(self.fleet.anchor(), self.fleet.is_doubtful(pace.rate));
        }
    }

    /// A request that was sent at `sent` was delivered.
    fn grow(&mut self, sent: Instant, now: Instant) {
        self.least -= (self.least - LEAST_CARRY) * CARRY_FALL;
        let Some(pace) = &mut self.pace else {
            self.run += 1;
            if self.run >= GOOD_RUN {
                self.good = self.good.max(self.delivered.second(now));
            }
            return;
        };
        // A pace that holds nothing back is not known to be any good: it does not grow for it.
        // Source: <https://www.rfc-editor.org/rfc/rfc7661>
        let since = |at: Option<Instant>| at.is_none_or(|at| now >= at + FORGET);
        if self.held_at.is_some_and(|held| held >= sent) {
            pace.grow();
        } else if self.cut_at.is_some() && since(self.cut_at) && since(self.held_at) {
            (self.pace, self.good, self.crowded_since) = (None, 0.0, None);
            self.trial.reset(0.0);
        }
    }

    /// Brings the bucket up to date with the pace.
    fn set_rate(&mut self, now: Instant) {
        // Less than what is billed at least is not worth a record.
        let least =
            if self.fleet.is_packed() { self.least.max(BILLED_UNIT_BYTES as f64) } else { self.least };
        self.bucket = self.pace.as_ref().map(|pace| {
            let burst = 2.0 * self.fleet.carry(pace.rate).max(least);
            match self.bucket.take() {
                Some(mut old) => {
                    old.resize(pace.rate, burst, now);
                    old
                }
                None => Bucket::new(pace.rate, burst, burst, now),
            }
        });
    }
}

/// Bytes of the seconds as they come, from the first one on.
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

    /// Of the last whole second.
    fn second_before(&mut self, now: Instant) -> f64 {
        self.add(0.0, now);
        self.before
    }

    /// Of the last whole second or of this one, which may be more already.
    fn second(&mut self, now: Instant) -> f64 {
        self.second_before(now).max(self.this)
    }
}

#[cfg(test)]
mod tests;
