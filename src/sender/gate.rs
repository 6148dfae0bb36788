//! Whether the stream may be sent to: a pure state machine over whole-request failures.
//!
//! Throttling, 5xx, network, credentials and permanent failures are the stream's, not a record's.
//! Each makes the gate close for a while, longer each time in a row. While it has not been open
//! since, one request at a time goes through to look; the first success opens it wide.
//!
//! Requests that were already under way when the gate closed tell nothing new when they fail, so
//! they do not lengthen the wait: it grows at most once per round trip.

use std::borrow::Cow;
use std::time::{Duration, Instant};

use super::backoff::Backoff;
use crate::firehose::Class;

/// Permanent failures start at this many times the ordinary first wait: a human has to act, and
/// the control of a stream that is missing or forbidden need not be asked ten times a second.
const PERMANENT_BASE_FACTOR: u32 = 10;

/// See the module.
#[derive(Debug)]
pub struct Gate {
    backoff: Backoff,
    trouble: Option<Trouble>,
}

/// A stream-wide failure that has not been followed by a success.
#[derive(Debug, Clone)]
pub struct Trouble {
    /// Of the latest failure.
    pub class: Class,
    /// The latest failure's code.
    pub code: Cow<'static, str>,
    /// The latest failure in a sentence.
    pub message: String,
    /// When it began.
    pub since: Instant,
    /// Failures in a row that each lengthened the wait.
    pub failures: u32,
    closed_at: Instant,
    until: Instant,
}

/// What a failure did to the gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The wait began or grew; nothing is sent for this long.
    Closed(Duration),
    /// The request had been under way before the gate closed.
    Known,
}

impl Gate {
    /// An open gate.
    #[must_use]
    pub fn new(backoff: Backoff) -> Self {
        Self { backoff, trouble: None }
    }

    /// Waits as `backoff` says from the next failure on.
    pub fn set_backoff(&mut self, backoff: Backoff) {
        self.backoff = backoff;
    }

    // snippet-start:[firehose.rust.hydrant.gate]
    /// A request that was sent at `sent` failed as a whole.
    pub fn handle_failure(
        &mut self,
        class: Class,
        code: Cow<'static, str>,
        message: String,
        sent: Instant,
        now: Instant,
        random: &mut fastrand::Rng,
    ) -> Step {
        let base = match class {
            Class::Permanent | Class::Refused => self.backoff.base * PERMANENT_BASE_FACTOR,
            Class::Throttled | Class::Transient => self.backoff.base,
        };
        let backoff = Backoff { base: base.min(self.backoff.max), ..self.backoff };
        let trouble = self.trouble.get_or_insert_with(|| Trouble {
            class,
            code: Cow::Borrowed(""),
            message: String::new(),
            since: now,
            failures: 0,
            closed_at: sent,
            until: now,
        });
        (trouble.class, trouble.code, trouble.message) = (class, code, message);
        if trouble.failures > 0 && sent < trouble.closed_at {
            return Step::Known;
        }
        trouble.failures += 1;
        let delay = backoff.delay(trouble.failures, random);
        trouble.closed_at = now;
        trouble.until = now + delay;
        Step::Closed(delay)
    }
    // snippet-end:[firehose.rust.hydrant.gate]

    /// The service carried a request out. Returns the trouble that this ends.
    pub fn handle_success(&mut self) -> Option<Trouble> {
        self.trouble.take()
    }

    /// How many more requests may be sent now, beside the `in_flight` that are under way.
    #[must_use]
    pub fn poll_room(&self, in_flight: usize, max_in_flight: usize, now: Instant) -> usize {
        match &self.trouble {
            None => max_in_flight.saturating_sub(in_flight),
            Some(trouble) if trouble.until > now => 0,
            Some(_) => 1usize.saturating_sub(in_flight),
        }
    }

    /// When [`Gate::poll_room`] may answer otherwise although nothing else happens.
    #[must_use]
    pub fn poll_timeout(&self, now: Instant) -> Option<Instant> {
        self.trouble.as_ref().map(|trouble| trouble.until).filter(|until| *until > now)
    }

    /// The trouble that the stream is in.
    #[must_use]
    pub fn trouble(&self) -> Option<&Trouble> {
        self.trouble.as_ref()
    }

    /// Ends a wait at once, so that a drain or a flush asks the stream again.
    pub fn handle_flush(&mut self, now: Instant) {
        if let Some(trouble) = &mut self.trouble {
            trouble.until = trouble.until.min(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: Duration = Duration::from_millis(100);

    fn gate() -> (Gate, fastrand::Rng) {
        let backoff = Backoff { base: BASE, max: Duration::from_secs(30), jitter: 0.0 };
        (Gate::new(backoff), fastrand::Rng::with_seed(1))
    }

    fn fail(gate: &mut Gate, class: Class, sent: Instant, now: Instant, random: &mut fastrand::Rng) -> Step {
        gate.handle_failure(class, "x".into(), String::new(), sent, now, random)
    }

    #[expect(clippy::disallowed_methods, reason = "an Instant can't be made up from nothing")]
    fn start() -> Instant {
        Instant::now()
    }

    // R-E6
    #[test]
    fn a_failure_closes_the_gate_and_one_request_looks_after_the_wait() {
        let (mut gate, mut random) = gate();
        let now = start();
        assert_eq!(gate.poll_room(2, 8, now), 6);
        assert_eq!(fail(&mut gate, Class::Throttled, now, now, &mut random), Step::Closed(BASE));
        assert_eq!((gate.poll_room(0, 8, now), gate.poll_timeout(now)), (0, Some(now + BASE)));
        let later = now + BASE;
        assert_eq!((gate.poll_room(0, 8, later), gate.poll_room(1, 8, later)), (1, 0));
        assert_eq!(gate.poll_timeout(later), None);
        assert!(gate.handle_success().is_some());
        assert_eq!(gate.poll_room(1, 8, later), 7);
    }

    // R-E6
    #[test]
    fn the_wait_doubles_with_each_look_and_not_with_requests_that_were_under_way() {
        let (mut gate, mut random) = gate();
        let mut now = start();
        let sent = now;
        now += BASE;
        assert_eq!(fail(&mut gate, Class::Transient, sent, now, &mut random), Step::Closed(BASE));
        assert_eq!(fail(&mut gate, Class::Transient, sent, now, &mut random), Step::Known);
        now += BASE;
        assert_eq!(fail(&mut gate, Class::Transient, now, now, &mut random), Step::Closed(BASE * 2));
        now += BASE * 2;
        assert_eq!(fail(&mut gate, Class::Transient, now, now, &mut random), Step::Closed(BASE * 4));
        assert_eq!(gate.trouble().map(|trouble| trouble.failures), Some(3));
    }

    // R-E7
    #[test]
    fn a_permanent_failure_is_asked_about_slowly() {
        let (mut gate, mut random) = gate();
        let now = start();
        assert_eq!(fail(&mut gate, Class::Permanent, now, now, &mut random), Step::Closed(BASE * 10));
        let mut now = now;
        for _ in 0..20 {
            now += Duration::from_secs(60);
            fail(&mut gate, Class::Permanent, now, now, &mut random);
        }
        assert_eq!(gate.poll_timeout(now), Some(now + Duration::from_secs(30)));
    }
}
