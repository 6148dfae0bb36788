//! What goes wrong on purpose, decided by dice that the caller brings.
//!
//! Faults befall `PutRecord` and `PutRecordBatch` only: whoever plays an outage still wants to
//! describe streams and to read metrics; but for those of [`Faults::calls`]. The same [`Faults`], the same seed and the same requests
//! in the same order make the same trouble.

use std::time::Duration;

use bytes::Bytes;
use fastrand::Rng;

use super::api::{ApiError, Failed, Operation};

/// The faults to inject; the default is none. Probabilities run from 0 to 1.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Faults {
    /// That an entry fails; in `PutRecord`, that the request does.
    pub fail_records: f64,
    /// The code of such failures.
    pub fail_code: FailCode,
    /// That a request is refused with `ThrottlingException`.
    pub throttle: f64,
    /// That a request is answered with HTTP 500, nothing accepted.
    pub error_500: f64,
    /// That the connection is reset before the request's body is read.
    pub reset: f64,
    /// That the connection is reset in place of the answer, all entries accepted.
    pub reset_after: f64,
    /// Wait before each answer.
    pub latency: Duration,
    /// Refuses every request, or every one by one call.
    pub refuse: Option<Refusal>,
    /// The call that `refuse` is about; `None` is both.
    pub refuse_only: Option<Operation>,
    /// Spoils every answer; the entries are accepted all the same.
    pub spoil: Option<Spoil>,
    /// Records that the service never takes.
    pub poison: Option<Poison>,
    /// What befalls every request by one call, whichever it is.
    pub calls: Vec<(Operation, CallFault)>,
}

/// What befalls every request by one call, before anything else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallFault {
    /// `AccessDeniedException`.
    Denied,
    /// `ThrottlingException`.
    Throttled,
    /// HTTP 200 with a page of HTML, nothing carried out.
    Garbage,
    /// No answer.
    Silence,
}

/// Why an entry fails: the service has these two codes for entries and no other.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum FailCode {
    /// The service's word for a spent quota.
    #[default]
    #[value(name = "ServiceUnavailableException")]
    ServiceUnavailable,
    /// The service's word for trouble of its own.
    #[value(name = "InternalFailure")]
    InternalFailure,
}

impl FailCode {
    /// The code as it stands in an answer.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::ServiceUnavailable => "ServiceUnavailableException",
            Self::InternalFailure => "InternalFailure",
        }
    }

    /// The text beside the code.
    #[must_use]
    pub fn message(self) -> &'static str {
        match self {
            Self::ServiceUnavailable => "Slow down.",
            Self::InternalFailure => "Internal service failure.",
        }
    }

    /// An entry that fails so.
    pub(super) fn failed(self) -> Failed {
        Failed { code: self.code(), message: self.message() }
    }

    /// The same failure of a whole request.
    pub(super) fn error(self) -> ApiError {
        let status = match self {
            Self::ServiceUnavailable => 503,
            Self::InternalFailure => 500,
        };
        ApiError::new(status, self.code(), self.message())
    }
}

/// How every request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// `AccessDeniedException`.
    AccessDenied,
    /// `ExpiredTokenException`.
    ExpiredToken,
    /// `InvalidKMSResourceException`.
    Kms,
}

impl Refusal {
    pub(super) fn error(self) -> ApiError {
        match self {
            Self::AccessDenied => ApiError::new(
                400,
                "AccessDeniedException",
                "User: arn:aws:iam::000000000000:user/local is not authorized to perform this action",
            ),
            Self::ExpiredToken => ApiError::new(
                400,
                "ExpiredTokenException",
                "The security token included in the request is expired",
            ),
            Self::Kms => ApiError::new(400, "InvalidKMSResourceException", "The KMS key is disabled"),
        }
    }
}

/// How an answer is spoilt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spoil {
    /// HTTP 200 with a page of HTML.
    Html,
    /// HTTP 200 with nothing.
    Empty,
    /// HTTP 200 with the first half of the answer.
    Truncated,
    /// The last entry is missing.
    OneShort,
    /// `FailedPutCount` says one more than the entries do.
    WrongCount,
}

/// Records with certain bytes in them, and what becomes of those.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Poison {
    /// A record that contains these bytes is poison.
    pub bytes: Bytes,
    /// What a poison record does.
    pub effect: PoisonEffect,
}

/// What a poison record does to the request that it is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PoisonEffect {
    /// Its entry fails, always.
    FailEntry(FailCode),
    /// The whole request is refused with `InvalidArgumentException`.
    RefuseRequest,
}

/// What is to become of one request.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Fate {
    /// The connection is reset before the body is read.
    Reset,
    /// The request is refused as a whole.
    Refused(ApiError),
    /// The request is carried out, and its answer ends as it says.
    Carried(Ending),
}

/// What becomes of the answer to a request that was carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// It is sent.
    Answered,
    /// The connection is reset in its place.
    Cut,
    /// It is sent spoilt.
    Spoilt(Spoil),
}

impl Faults {
    /// The fate of one request, before anything of its body is known.
    pub(super) fn decide(&self, operation: Operation, dice: &mut Rng) -> Fate {
        let mut befalls = |probability: f64| probability > 0.0 && dice.f64() < probability;
        if befalls(self.reset) {
            Fate::Reset
        } else if let Some(refusal) = self.refuse
            && self.refuse_only.is_none_or(|only| only == operation)
        {
            Fate::Refused(refusal.error())
        } else if befalls(self.throttle) {
            Fate::Refused(ApiError::throttled())
        } else if befalls(self.error_500) {
            Fate::Refused(FailCode::InternalFailure.error())
        } else if befalls(self.reset_after) {
            Fate::Carried(Ending::Cut)
        } else {
            Fate::Carried(self.spoil.map_or(Ending::Answered, Ending::Spoilt))
        }
    }

    /// What befalls a request by `operation`, whatever is in it.
    pub(super) fn call(&self, operation: Operation) -> Option<CallFault> {
        self.calls.iter().find(|(of, _)| *of == operation).map(|(_, fault)| *fault)
    }

    /// Whether and how the entry of `record` fails.
    pub(super) fn entry(&self, record: &[u8], dice: &mut Rng) -> Option<FailCode> {
        if let Some(Poison { bytes, effect: PoisonEffect::FailEntry(code) }) = &self.poison
            && memchr::memmem::find(record, bytes).is_some()
        {
            return Some(*code);
        }
        (self.fail_records > 0.0 && dice.f64() < self.fail_records).then_some(self.fail_code)
    }

    /// Whether `record` makes the whole request invalid.
    pub(super) fn refuses(&self, record: &[u8]) -> bool {
        matches!(&self.poison, Some(Poison { bytes, effect: PoisonEffect::RefuseRequest })
            if memchr::memmem::find(record, bytes).is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certain_fault_befalls_every_request() {
        let check = |faults: Faults, expected: &dyn Fn(&Fate) -> bool| {
            let mut dice = Rng::with_seed(1);
            for _ in 0..100 {
                let fate = faults.decide(Operation::PutRecordBatch, &mut dice);
                assert!(expected(&fate), "{faults:?} gave {fate:?}");
            }
        };
        let refused = |code: &'static str| move |fate: &Fate| matches!(fate, Fate::Refused(error) if error.code == code);
        check(Faults::default(), &|fate| *fate == Fate::Carried(Ending::Answered));
        check(Faults { reset: 1.0, throttle: 1.0, ..Faults::default() }, &|fate| *fate == Fate::Reset);
        check(Faults { throttle: 1.0, ..Faults::default() }, &refused("ThrottlingException"));
        check(Faults { error_500: 1.0, ..Faults::default() }, &refused("InternalFailure"));
        check(
            Faults { refuse: Some(Refusal::AccessDenied), throttle: 1.0, ..Faults::default() },
            &refused("AccessDeniedException"),
        );
        check(Faults { reset_after: 1.0, ..Faults::default() }, &|fate| *fate == Fate::Carried(Ending::Cut));
        check(Faults { spoil: Some(Spoil::Empty), ..Faults::default() }, &|fate| {
            *fate == Fate::Carried(Ending::Spoilt(Spoil::Empty))
        });
    }

    #[test]
    fn the_same_seed_makes_the_same_trouble() {
        let faults = Faults { reset: 0.1, throttle: 0.2, fail_records: 0.3, ..Faults::default() };
        let run = |seed| {
            let mut dice = Rng::with_seed(seed);
            let fates: Vec<Fate> =
                (0..200).map(|_| faults.decide(Operation::PutRecordBatch, &mut dice)).collect();
            let entries: Vec<_> = (0..200).map(|_| faults.entry(b"x", &mut dice)).collect();
            (fates, entries)
        };
        assert_eq!(run(7), run(7));
        assert_ne!(run(7), run(8));
    }

    #[test]
    fn a_fault_is_about_as_frequent_as_asked() {
        let faults = Faults { throttle: 0.3, ..Faults::default() };
        let mut dice = Rng::with_seed(3);
        let hit = (0..10_000)
            .filter(|_| matches!(faults.decide(Operation::PutRecordBatch, &mut dice), Fate::Refused(_)))
            .count();
        assert!((2_800..3_200).contains(&hit), "{hit} of 10,000 at 0.3");
    }

    #[test]
    fn poison_is_found_anywhere_in_a_record_and_nowhere_else() {
        let poison = |effect| Faults {
            poison: Some(Poison { bytes: Bytes::from_static(b"bad"), effect }),
            ..Faults::default()
        };
        let mut dice = Rng::with_seed(1);
        let entry = poison(PoisonEffect::FailEntry(FailCode::InternalFailure));
        assert_eq!(entry.entry(b"so bad it is", &mut dice), Some(FailCode::InternalFailure));
        assert_eq!(entry.entry(b"so ba", &mut dice), None);
        assert!(!entry.refuses(b"bad"));
        let request = poison(PoisonEffect::RefuseRequest);
        assert!(request.refuses(b"bad"));
        assert!(!request.refuses(b"ba"));
        assert_eq!(request.entry(b"bad", &mut dice), None);
    }
}
