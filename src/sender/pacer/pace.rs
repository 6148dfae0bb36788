//! A pace: how it is cut by what is throttled and how it grows by what is not.
//!
//! - Gain and aim start high where most was throttled, and fall with each cut: all first move fast
//!   and then settle. What is lost raises the gain again.
//! - Where there is an anchor, which is the same for all, the aim is steep: who is far below it grows
//!   fast, who is above hardly. What is estimated badly of the share that is throttled then moves the pace little.
//! - A run of clean requests that is too long to be luck says that room has returned, and the pace grows with
//!   the cube of the run.
//! - After what was no share of a quota but a pit (others took all of it, or the service was in trouble), a short
//!   clean run brings the pace back at once to half of what it was known to be good for.

use super::fleet::Anchor;

/// The rate at which requests carry [`super::USUAL_TIME`], and are throttled at [`AIM`].
pub(super) const USUAL_RATE: f64 = 6.0 * 1024.0;

/// The share of requests that may be throttled at [`USUAL_RATE`]; 2 % is the most wanted.
const AIM: f64 = 0.014;
/// The share goes with this power of the inverse of the rate: who has little cares less about what is
/// throttled than who has much, which makes shares equal, slowly, also where requests all carry the least.
const AIM_POWER: f64 = 0.15;
/// The least and the most that this makes of [`AIM`].
const AIM_SPAN: (f64, f64) = (0.3, 2.0);
/// The aim at first, when the smaller part of a request was throttled.
const CALM_AIM: f64 = 0.1;
/// The aim where most was throttled, so that pace and quota find each other in seconds.
const WILD_AIM: f64 = 0.4;
/// What a cut leaves of those, until [`AIM`] is above them.
const AIM_DECAY: f64 = 0.7;
/// An answer, or a running share, of which this much was throttled says nothing of our share but that
/// it is far below what was sent.
const MOST: f64 = 0.5;

/// The part of the pace that the first cut takes.
const FIRST_GAIN: f64 = 0.2;
/// The least that a cut takes.
///
/// CUBIC takes 0.3 and cuts every few seconds; of a thousand sidecars each sees a cut in a minute or
/// two, and shares that move in small steps stay closer together.
/// Source: <https://www.rfc-editor.org/rfc/rfc9438#section-4.6>
const LEAST_GAIN: f64 = 0.04;
/// The most that a cut takes, however much was throttled.
const MOST_GAIN: f64 = 0.75;
/// What a cut leaves of the gain: falling steps average out what single answers happened to say.
/// Source: Robbins and Monro, <https://doi.org/10.1214/aoms/1177729586>
const GAIN_DECAY: f64 = 0.9;
/// Weight of an answer in the running share of what is throttled.
const LOSS_WEIGHT: f64 = 0.04;

/// The share of requests that may be throttled of a pace that is as the anchor. Half of what is wanted at most:
/// where the anchor is off, more is throttled until the offset has followed.
pub(super) const ANCHOR_AIM: f64 = 0.01;
/// The aim goes with this power of how far the pace is below the anchor. Paces scatter by the root of the gain over
/// twice of it, 0.14 here, and come together in the requests that make gain times aim times it 1: 100.
pub(super) const ANCHOR_POWER: f64 = 5.0;
/// The least and the most that this makes of [`ANCHOR_AIM`]: the anchor may be wrong. The most is that of a pace a fifth
/// below it: of those further down all grow alike, and nothing draws them together.
const ANCHOR_SPAN: (f64, f64) = (0.1, 3.5);
/// The least gain where there is an anchor. It scatters the paces less than it brings them together.
const ANCHOR_GAIN: f64 = 0.2;
/// A pace begins at most so far from the anchor, and above this no run of clean requests makes it grow
/// faster.
const ANCHOR_FAR: f64 = 2.0;

/// Clean requests in a row, times the aim, that are no luck: by chance one run in 150 is as long.
const RUN: f64 = 5.0;
/// The pace grows with this power of a run that is no luck. So runs of nearly the same length give
/// nearly the same pace; if it doubled at a steady rate, a head start of seconds would decide.
/// Source: the convex region of CUBIC, <https://www.rfc-editor.org/rfc/rfc9438#section-4.5>
const RUN_POWER: f64 = 3.0;

/// Clean requests in a row after which a pace that is far below what it was good for returns.
const BACK_RUN: f64 = super::GOOD_RUN as f64;
/// What each further one multiplies it by.
const BACK_RISE: f64 = 1.5;
/// As far as this part of what it was good for: it may no longer be.
const BACK_PART: f64 = 0.5;
/// What a cut after such a run leaves of what it was good for.
const BACK_FADE: f64 = 0.9;
/// The pace does not fall below this part of what it was good for. A fleet whose members all keep to that
/// sends next to nothing, and each still notices soon when there is room.
const FLOOR_PART: f64 = 1.0 / 64.0;

/// The least pace: a request in some 20 seconds, about the longest wait between retries.
pub(super) const LEAST_RATE: f64 = 64.0;
/// The largest pace, which no stream reaches.
pub(super) const MOST_RATE: f64 = 1e12;

/// See the module.
#[derive(Debug)]
pub(super) struct Pace {
    /// Bytes a second.
    pub(super) rate: f64,
    /// What it is drawn to.
    anchor: Option<Anchor>,
    /// The part of the rate that a cut takes.
    gain: f64,
    /// The share of requests that may be throttled, while it is above [`AIM`].
    aim: f64,
    /// The running share of what is throttled.
    loss: f64,
    /// Clean requests since the last cut, of those that the pace had held back.
    run: f64,
    /// A rate at which a run was clean; 0 where there was none. Less with each time that it no longer is.
    pub(super) good: f64,
    /// The highest of those.
    best: f64,
    /// As far as a clean run brings the pace back, if that is more than `good` has it: anywhere, until
    /// something was throttled at this pace.
    back: f64,
}

impl Pace {
    /// A pace that begins where `loss` of what was sent was throttled, and `good` was not before.
    pub(super) fn new(rate: f64, loss: f64, good: f64) -> Self {
        let aim = if loss < MOST { CALM_AIM } else { WILD_AIM };
        let rate = rate.clamp(LEAST_RATE, MOST_RATE);
        Self {
            rate,
            anchor: None,
            gain: FIRST_GAIN,
            aim,
            loss,
            run: 0.0,
            good,
            best: good,
            back: f64::INFINITY,
        }
    }

    /// Moves fast again, since `loss` was throttled at this pace.
    pub(super) fn restart(&mut self, loss: f64) {
        let Self { good, best, back, anchor, .. } = *self;
        *self = Self { loss: 0.0, best, back, anchor, ..Self::new(self.rate, loss, good) };
    }

    /// What it is drawn to from now on. A pace that has not settled goes there at once, if that is not doubtful.
    pub(super) fn set_anchor(&mut self, anchor: Option<Anchor>, is_doubtful: bool) {
        self.anchor = anchor;
        let Some(Anchor { rate: anchor, .. }) = anchor else { return };
        if self.aim > ANCHOR_AIM * ANCHOR_SPAN.1 && !is_doubtful {
            let most = anchor * ANCHOR_FAR;
            self.rate = self.rate.clamp(anchor / ANCHOR_FAR, most).clamp(LEAST_RATE, MOST_RATE);
            (self.good, self.best) = (self.good.min(most), self.best.min(most));
            self.aim = 0.0;
        }
    }

    /// What is aimed at in the end, without an anchor.
    fn least_aim(&self) -> f64 {
        AIM * (USUAL_RATE / self.rate).powf(AIM_POWER).clamp(AIM_SPAN.0, AIM_SPAN.1)
    }

    /// The share that is throttled as a rule: that of all requests where it is known, or else `aim`. A run of clean
    /// ones is no luck where it is long for that.
    fn usual_share(&self, aim: f64) -> f64 {
        self.anchor.map_or(aim, |anchor| anchor.hits.clamp(ANCHOR_AIM * ANCHOR_SPAN.0, aim))
    }

    /// What a clean request adds, of the rate.
    fn growth(&self, aim: f64) -> f64 {
        let Some(Anchor { rate: anchor, .. }) = self.anchor else { return self.gain * aim };
        let steep = (anchor / self.rate).powf(ANCHOR_POWER).clamp(ANCHOR_SPAN.0, ANCHOR_SPAN.1);
        self.gain.max(ANCHOR_GAIN) * ANCHOR_AIM * steep
    }

    /// Makes it that many times what it is.
    pub(super) fn scale(&mut self, factor: f64) {
        self.rate = (self.rate * factor).clamp(LEAST_RATE, MOST_RATE);
    }

    /// Of an answer, `loss` was throttled.
    pub(super) fn cut(&mut self, loss: f64) {
        self.loss += LOSS_WEIGHT * (loss - self.loss);
        if self.run * self.usual_share(self.least_aim()) > RUN {
            self.best = self.best.min(self.rate);
        }
        if self.run >= BACK_RUN {
            self.good = self.good.min((self.good * BACK_FADE).max(self.rate));
        }
        self.run = 0.0;
        let least = if self.anchor.is_some() { ANCHOR_GAIN } else { LEAST_GAIN };
        self.gain = (self.gain * GAIN_DECAY).max(self.loss).max(least);
        self.aim = if self.loss < MOST { self.aim * AIM_DECAY } else { WILD_AIM };
        let floor = (self.good * FLOOR_PART).min(self.rate);
        self.rate = (self.rate * (1.0 - self.gain.min(MOST_GAIN))).max(floor).max(LEAST_RATE);
        self.back = self.rate;
        // What this cut pays for is not counted again by the next.
        self.loss -= (self.gain / 2.0).min(self.loss);
    }

    /// A request that the pace had held back was delivered.
    pub(super) fn grow(&mut self) {
        self.loss -= LOSS_WEIGHT * self.loss;
        self.run += 1.0;
        let aim = self.aim.max(self.least_aim());
        let most = self.anchor.map_or(MOST_RATE, |anchor| anchor.rate);
        let sure = self.run * self.usual_share(aim) > RUN;
        if self.run >= BACK_RUN {
            let good = if sure { self.best } else { self.good };
            let back = self.back.max(good * BACK_PART).min(most);
            if self.rate < back {
                self.rate = (self.rate * BACK_RISE).min(back);
                return;
            }
            self.good = self.good.max(self.rate);
            self.best = self.best.max(self.rate);
        }
        let far = self.rate > ANCHOR_FAR * most;
        let growth = if sure && !far { RUN_POWER / self.run } else { self.growth(aim) };
        self.scale(1.0 + growth);
    }
}
