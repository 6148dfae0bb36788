//! Whether what is throttled has to do with the pace at all.
//!
//! A quota's share falls when less is sent, and what is throttled of it with that. A stream that throttles a fixed
//! part of everything, however little that is, would drive a pace down to nothing: the service in trouble, a
//! proxy that plays one, somebody else who takes all there is. So where a pace has fallen to a sixteenth, it is held
//! and what is throttled there is compared with what was throttled above. If that is the same, it is the stream's
//! *constant* share: the pace doubles for as long as no more than that is throttled, and is cut for what is beyond.
//!
//! A fleet that starts at once is not to be taken for that: its members fall together, and what is throttled falls
//! with them. Where nearly everything is throttled that is hard to see, since the gates then hold back more than the
//! paces do; no verdict is given there, unless the pace was known to be good for far more, or for five minutes half was
//! throttled and more.

use std::time::{Duration, Instant};

use super::Outcome;
use super::pace::Pace;

/// How far a pace falls before it is tried.
const FALL: f64 = 16.0;
/// Requests of which a verdict is made at least, how many of them with something throttled and how many with
/// something delivered; after this many without those it is given up.
const SAMPLE: (u32, u32, u32, u32) = (16, 8, 4, 100);
/// Requests with something throttled and with something delivered that both shares need to be compared.
const COMPARED: u32 = 4;
/// How long a fleet is given to come down together, before a held pace is compared with another held one.
const SETTLE: Duration = Duration::from_secs(4);
/// The part of the share throttled above that is throttled here: below, it follows the pace; from the second
/// on, it does not. In between more is looked at, up to this many throttled requests.
const FOLLOWS: (f64, f64, u32) = (0.35, 0.6, 32);
/// The same of what is delivered, where most is throttled.
const RISES: (f64, f64) = (2.0, 1.5);
/// Above this times as much it is something else that has changed.
const GROWN: f64 = 3.0;
/// No verdict where so much is throttled, above having been held, too, or not. Where it is little more, more is
/// looked at.
const HEAVY: (f64, f64, f64) = (0.7, 0.55, 0.1);
/// But where the pace was good for this many times what it is.
const HEAVY_FALL: f64 = 48.0;
/// If this much is throttled of a pace that has fallen that far, so long after there was the first, it is constant
/// without a comparison: a fleet has come down by then.
const LATE: (f64, Duration) = (0.5, Duration::from_secs(300));

/// Requests and time after which a pace that met a constant share is moved.
const STEP: (u32, Duration) = (16, Duration::from_secs(1));
/// Requests that decide where those say that more than the constant share is throttled, or far less.
const SURE: (u32, u32) = (48, 64);
/// Above this times the constant share, and this beyond, too much is throttled; the second is so without doubt.
const BEYOND: ((f64, f64), (f64, f64)) = ((2.0, 0.02), (3.0, 0.04));
/// Below this part of what the constant share delivers, too much is throttled; the second is so without doubt.
const SHORT: (f64, f64) = (0.6, 0.3);
/// What too much takes from the pace, while it doubles and later.
const BACK: (f64, f64) = (0.5, 0.8);
/// Cuts in a row that change nothing, after which the constant share was too low.
const CUTS: u32 = 3;
/// A constant share below this is none.
const NONE: f64 = 0.005;
/// Weight of an answer in the running share that is compared with that.
const WEIGHT: f64 = 1.0 / 64.0;

/// What is counted of requests: the last hundred or so of them.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Tally {
    /// Of the requests that were counted, the rate at most: bytes a second.
    pub(super) rate: f64,
    bytes: f64,
    throttled: f64,
    requests: u32,
    hits: u32,
    through: u32,
}

impl Tally {
    fn at(rate: f64) -> Self {
        Self { rate, ..Self::default() }
    }

    fn add(&mut self, outcome: Outcome) {
        if self.requests >= 128 {
            for count in [&mut self.requests, &mut self.hits, &mut self.through] {
                *count /= 2;
            }
            for bytes in [&mut self.bytes, &mut self.throttled] {
                *bytes /= 2.0;
            }
        }
        self.bytes += outcome.delivered + outcome.throttled;
        self.throttled += outcome.throttled;
        self.requests += 1;
        self.hits += u32::from(outcome.throttled > 0.0);
        self.through += u32::from(outcome.delivered > 0.0);
    }

    /// Requests with something throttled.
    pub(super) fn hits(&self) -> u32 {
        self.hits
    }

    /// The share of bytes that was throttled.
    pub(super) fn loss(&self) -> f64 {
        if self.bytes > 0.0 { self.throttled / self.bytes } else { 0.0 }
    }

    /// The share of requests with something throttled.
    fn hit_share(&self) -> f64 {
        f64::from(self.hits) / f64::from(self.requests.max(1))
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Trial {
    /// At the highest pace that it is compared with.
    above: Tally,
    /// That was a pace that was held, and no burst before there was one.
    above_held: bool,
    /// At the pace that is held, since when.
    here: Option<(Instant, Tally)>,
    /// When a pace was held first.
    began: Option<Instant>,
    constant: Option<Constant>,
    /// What is throttled is the quota's, as is known from elsewhere.
    busy: bool,
}

/// A share that is throttled whatever the pace.
#[derive(Debug)]
struct Constant {
    share: f64,
    /// The running share.
    running: f64,
    /// At the present pace, since when.
    here: Tally,
    since: Instant,
    /// Steps up in a row: each larger than the one before.
    ups: i32,
    /// Cuts in a row.
    cuts: u32,
}

/// What the other rules make of an answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Learnt {
    /// Nothing: it was only counted, or moved the pace already.
    Taken,
    /// What they always do.
    Open,
}

pub(super) use Learnt::{Open, Taken};

/// What a comparison says.
enum Verdict {
    Unknown,
    Follows,
    Constant,
}

impl Trial {
    /// Whether what is throttled is known to be the quota's: then there is nothing to try.
    pub(super) fn set_busy(&mut self, busy: bool) {
        self.busy = busy;
    }

    /// See [`Trial::set_busy`].
    pub(super) fn is_busy(&self) -> bool {
        self.busy
    }

    /// Begins anew at `rate`.
    pub(super) fn reset(&mut self, rate: f64) {
        *self = Self { above: Tally::at(rate), busy: self.busy, ..Self::default() };
    }

    /// What was counted before there was a pace.
    pub(super) fn before(&self) -> &Tally {
        &self.above
    }

    /// An answer while there is no pace and `rate` is what was sent in a second.
    pub(super) fn note_unpaced(&mut self, outcome: Outcome, rate: f64) {
        self.above.rate = rate;
        self.above.add(outcome);
    }

    /// An answer; `held` is when the pace last held a request back after that one was sent.
    pub(super) fn note(&mut self, pace: &mut Pace, outcome: Outcome, held: Option<Instant>) -> Learnt {
        let Outcome { sent, answered: now, .. } = outcome;
        if self.busy {
            self.reset(pace.rate);
            return Open;
        }
        if let Some(constant) = &mut self.constant {
            if !constant.note(pace, outcome, held) {
                self.reset(pace.rate);
            }
            return Taken;
        }
        self.above.rate = self.above.rate.max(pace.rate);
        if pace.rate * FALL >= self.above.rate {
            if pace.rate * 2.0 >= self.above.rate {
                self.above.add(outcome);
            }
            self.here = None;
            return Open;
        }
        // Where the gate holds requests back longer than the pace does, nothing is learnt of the pace.
        if held.is_none() {
            return Open;
        }
        let (since, here) = self.here.get_or_insert((now, Tally::default()));
        let settled = *since + if self.above_held { SETTLE } else { Duration::ZERO };
        // The pace is held: it is not cut.
        let learnt = if outcome.throttled > 0.0 { Taken } else { Open };
        if sent < settled {
            return learnt;
        }
        here.add(outcome);
        let here = *here;
        let late = now >= *self.began.get_or_insert(now) + LATE.1;
        match self.judge(&here, pace, late) {
            Verdict::Unknown => learnt,
            Verdict::Follows => {
                pace.restart(here.loss());
                *self = Self {
                    above: Tally { rate: pace.rate, ..here },
                    above_held: true,
                    began: self.began,
                    ..Self::default()
                };
                Open
            }
            Verdict::Constant => {
                let share = (self.above.throttled + here.throttled) / (self.above.bytes + here.bytes);
                pace.scale(2.0);
                self.constant = Some(Constant::new(share, now));
                Taken
            }
        }
    }

    fn judge(&self, here: &Tally, pace: &Pace, late: bool) -> Verdict {
        let above = &self.above;
        let (requests, hits, through, most) = SAMPLE;
        let enough = here.requests >= requests && here.hits >= hits && here.through >= through;
        let long = here.requests > most;
        let clean = here.hits == 0
            && f64::from(here.requests) > f64::from(requests) / above.hit_share().max(1.0 / f64::from(most));
        if !enough && !long && !clean {
            return Verdict::Unknown;
        }
        let counts = [above.hits, here.hits, above.through, here.through];
        let (was, is) = (above.loss(), here.loss());
        let heavy = if self.above_held { HEAVY.0 } else { HEAVY.1 };
        let fallen = pace.rate * HEAVY_FALL < pace.good;
        if enough && late && is >= LATE.0 {
            return Verdict::Constant;
        }
        let doubtful = is >= heavy && is < heavy + HEAVY.2 && !fallen;
        if doubtful && here.hits < FOLLOWS.2 {
            return Verdict::Unknown;
        }
        let (kept, risen) = (is / was, (1.0 - is) / (1.0 - was));
        let comparable = counts.iter().all(|count| *count >= COMPARED) && (is < heavy || fallen);
        if !comparable || kept <= FOLLOWS.0 || kept >= GROWN || risen >= RISES.0 {
            return Verdict::Follows;
        }
        if kept >= FOLLOWS.1 && risen <= RISES.1 {
            return Verdict::Constant;
        }
        if here.hits < FOLLOWS.2 { Verdict::Unknown } else { Verdict::Follows }
    }
}

impl Constant {
    /// Steps up that each doubled the last one, from a tenth: the next makes twice the pace.
    const MOST_UPS: i32 = 4;

    fn new(share: f64, now: Instant) -> Self {
        Self { share, running: share, here: Tally::default(), since: now, ups: Self::MOST_UPS, cuts: 0 }
    }

    /// Moves the pace by what is throttled beyond the constant share. Returns whether there still is one.
    fn note(&mut self, pace: &mut Pace, outcome: Outcome, held: Option<Instant>) -> bool {
        let Outcome { sent, answered: now, .. } = outcome;
        if sent < self.since {
            return true;
        }
        self.here.add(outcome);
        self.running += WEIGHT * (outcome.loss() - self.running);
        if self.running < NONE {
            return false;
        }
        let Tally { requests, .. } = self.here;
        if requests < STEP.0 || now < self.since + STEP.1 {
            return true;
        }
        let is = self.here.loss();
        if is < FOLLOWS.1 * self.share {
            if requests < SURE.1 {
                return true;
            }
            self.share = is.max(NONE);
        }
        let beyond = |((times, more), short): ((f64, f64), f64)| {
            is > times * self.share + more || 1.0 - is < short * (1.0 - self.share)
        };
        if beyond((BEYOND.0, SHORT.0)) {
            if requests < SURE.0 && !beyond((BEYOND.1, SHORT.1)) {
                return true;
            }
            pace.scale(if self.ups >= Self::MOST_UPS { BACK.0 } else { BACK.1 });
            (self.ups, self.cuts) = (0, self.cuts + 1);
            if self.cuts == CUTS {
                (self.share, self.cuts) = (is, 0);
            }
        } else if held.is_some_and(|held| held >= self.since) {
            pace.scale((1.0 + 0.1 * 2_f64.powi(self.ups)).min(2.0));
            (self.ups, self.cuts) = ((self.ups + 1).min(Self::MOST_UPS), 0);
        }
        (self.here, self.since) = (Tally::default(), now);
        true
    }
}
