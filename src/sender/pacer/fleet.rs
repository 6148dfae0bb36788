//! What all who send to a stream know in common: its totals of the last minute.
//!
//! A request of a paced sender carries a known function of its pace ([`Fleet::carry`]). So what a request of the
//! stream carries on average tells everyone what the typical pace is, without anyone's counting: the *anchor*, to
//! which all are drawn alike (see [`pace`](super::pace)).
//!
//! - It is off by whatever else there is: senders that want little, or have no pacer. By that all are off together. An
//!   *offset*, which follows from nothing but the share of records that the stream throttled in the last minutes, and so
//!   is nearly the same for all, moves it to where that share is what is aimed at.
//! - There is none where the stream was overloaded, or had room: what was sent then says nothing of shares.
//!
//! A switch for ATM that counts who sends and tells them their fair share is ERICA's, Kalyanaraman and others,
//! <https://doi.org/10.1109/90.836480>; here the senders count themselves, by what they send.

use super::USUAL_TIME;
use super::pace::{ANCHOR_AIM, ANCHOR_POWER, LEAST_RATE, MOST_RATE, USUAL_RATE};

/// Seconds that a request brings at [`USUAL_RATE`] where the totals are known, and the power of the rate with which
/// what it carries goes: 1.3 KiB at 1 KiB/s, 13 KiB at 100.
///
/// Fewer requests than [`USUAL_TIME`] makes, of those that have little: a thousand would come close to the quota of
/// requests. The power has to be well above 0 for what is carried to tell the rate, and below 1 for those
/// that have much to hear of it often.
const CARRY: (f64, f64) = (0.55, 0.5);
/// The same where records are packed. Those requests carry 5 KiB at least and tell no pace below that: with less a
/// thousand on 1 MiB/s would be as if nothing were known, with more a hundred would take longer.
const PACKED_CARRY: (f64, f64) = (1.25, 0.4);

/// A stream of whose quota so much is used throttles for want of it, whatever else might be the reason.
const BUSY: f64 = 0.7;
/// Where less than this is used there is room for everyone, and no share to keep to.
const ROOM: f64 = 0.85;
/// The stream is overloaded where more of its requests are throttled.
const OVERLOAD: f64 = 0.05;
/// The least share of requests that counts: less has no other meaning.
const LEAST_HITS: f64 = 0.001;

/// The part that a minute adds to the offset of what would make up for a share of throttled requests that is not the
/// wanted one: where less is throttled, and where more is. Larger steps would make the fleet swing, since a minute is two
/// to three minutes old when it is known.
const OFFSET_STEP: (f64, f64) = (0.6, 1.0);
/// How many times that the offset is in the end, where it raises the anchor and where it lowers it: it leaks by as much.
///
/// What raises it is forgotten in some ten minutes, since it grows too far while a quota that was raised is not yet used.
/// What lowers it lasts half an hour, and those who come have more for as long. But that has to go nearly all the way:
/// requests that all carry the least tell of a pace that is too high for good, nine times for ten thousand on 1 MiB/s,
/// and of paces far below an anchor all grow alike.
const OFFSET_GAIN: (f64, f64) = (3.5, 20.0);

/// The part of a request that is throttled where something of it is, as long as none was. A packed one is one record of
/// Firehose, which passes or doesn't.
const DEPTH: f64 = 0.6;
/// Weight of a request in the running part. Offsets differ by what the parts of those who have them do, the more the
/// further they go; who is throttled twice in a minute knows in half an hour.
const DEPTH_WEIGHT: f64 = 1.0 / 64.0;
/// Weight of a request in what requests carry.
const CARRIED_WEIGHT: f64 = 1.0 / 4.0;
/// Who carries this many times what its pace asks for, and nearly what the stream's requests do, can't tell whether
/// those say anything of paces: a record may be as large, or the least of a request.
const EXCESS: (f64, f64) = (1.6, 0.8);

/// A minute of the stream, of all who send to it; what is `None` is unknown.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Totals {
    /// The part of the quota that was used, 1 being all.
    pub used: Option<f64>,
    /// Bytes that a request carried on average.
    pub carried: Option<f64>,
    /// The part of the records that was throttled.
    pub throttled: Option<f64>,
}

/// The typical pace of those who send to the stream.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Anchor {
    /// Bytes a second.
    pub(super) rate: f64,
    /// The share of all requests that was throttled.
    pub(super) hits: f64,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Fleet {
    totals: Option<Totals>,
    anchor: Option<Anchor>,
    /// The last anchor's rate, which outlives an overload.
    calm: f64,
    /// Logarithm of what the typical pace is multiplied by.
    offset: f64,
    /// The part that is throttled of a request of which something is.
    depth: f64,
    /// Bytes that requests carry here where the pace held them back, and those of the stream.
    carried: f64,
    all: f64,
    /// Several records go as one of Firehose's.
    packed: bool,
}

impl Default for Fleet {
    fn default() -> Self {
        let calm = f64::INFINITY;
        Self {
            totals: None,
            anchor: None,
            calm,
            offset: 0.0,
            depth: DEPTH,
            carried: 0.0,
            all: 0.0,
            packed: false,
        }
    }
}

impl Fleet {
    /// Whether several records go as one of Firehose's.
    pub(super) fn set_packed(&mut self, packed: bool) {
        if packed && !self.packed {
            self.depth = 1.0;
        }
        self.packed = packed;
    }

    /// The same.
    pub(super) fn is_packed(&self) -> bool {
        self.packed
    }

    /// What tells the pace by what a request carries.
    fn function(&self) -> (f64, f64) {
        if self.packed { PACKED_CARRY } else { CARRY }
    }

    /// The totals, as often as they are looked at; of one byte here, `ratio` are sent. Returns whether they are new.
    pub(super) fn handle_totals(&mut self, totals: Option<Totals>, ratio: f64) -> bool {
        if totals == self.totals {
            return false;
        }
        (self.totals, self.anchor) = (totals, None);
        let Totals { used, carried: Some(carried), throttled: Some(throttled) } = totals.unwrap_or_default()
        else {
            (self.calm, self.offset) = (f64::INFINITY, 0.0);
            return true;
        };
        self.all = carried / ratio;
        let hits = throttled / self.depth;
        if hits < OVERLOAD && self.all > 0.0 && used.is_none_or(|used| used >= ROOM) {
            self.anchor = Some(self.follow(hits));
        }
        true
    }

    /// The anchor after a minute in which this share of requests was throttled.
    fn follow(&mut self, hits: f64) -> Anchor {
        let wanted = (ANCHOR_AIM / hits.max(LEAST_HITS)).ln() / ANCHOR_POWER;
        let step = if wanted > 0.0 { OFFSET_STEP.0 } else { OFFSET_STEP.1 };
        let gain = if self.offset > 0.0 { OFFSET_GAIN.0 } else { OFFSET_GAIN.1 };
        self.offset += step * (wanted - self.offset / gain);
        let (time, power) = self.function();
        let typical = USUAL_RATE * (self.all / (time * USUAL_RATE)).powf(1.0 / power);
        let rate = (typical * self.offset.exp()).clamp(LEAST_RATE, MOST_RATE);
        self.calm = rate;
        Anchor { rate, hits }
    }

    /// A request of these bytes leaves, which the pace held back.
    pub(super) fn note_held(&mut self, bytes: f64) {
        let before = if self.carried > 0.0 { self.carried } else { bytes };
        self.carried = before + CARRIED_WEIGHT * (bytes - before);
    }

    /// Of a request, `loss` was throttled. In an overload that is no usual part.
    pub(super) fn note_loss(&mut self, loss: f64) {
        if self.anchor.is_some() {
            self.depth += DEPTH_WEIGHT * (loss - self.depth);
        }
    }

    /// Bytes that a request carries at `rate` bytes a second.
    pub(super) fn carry(&self, rate: f64) -> f64 {
        if self.totals.is_some() {
            self.told(rate)
        } else {
            rate * USUAL_TIME / (rate / USUAL_RATE).sqrt().sqrt()
        }
    }

    /// The same where the totals are known.
    fn told(&self, rate: f64) -> f64 {
        let (time, power) = self.function();
        time * USUAL_RATE * (rate / USUAL_RATE).powf(power)
    }

    /// What paces are drawn to.
    pub(super) fn anchor(&self) -> Option<Anchor> {
        self.anchor
    }

    /// Whether what requests carry says nothing of paces, as far as one of `rate` can tell.
    pub(super) fn is_doubtful(&self, rate: f64) -> bool {
        self.carried > EXCESS.0 * self.told(rate) && self.carried > EXCESS.1 * self.all
    }

    /// The most that a pace begins with.
    pub(super) fn most(&self) -> f64 {
        2.0 * self.calm
    }

    /// Whether what is throttled is the quota's, whatever else might be the reason.
    pub(super) fn is_busy(&self) -> bool {
        self.totals.and_then(|totals| totals.used).is_some_and(|used| used >= BUSY)
    }
}
