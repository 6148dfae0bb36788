//! Where records are stuck on their way from the producers to the destination: pure.

use std::time::Duration;

use crate::telemetry::figures::{Buffer, SpoolCondition, Trouble};
use crate::telemetry::history::Rates;
use crate::telemetry::stream::{Reading, Stream};

/// Share of one core from which on the daemon has no more to give: its work is on one thread.
const FULL_CORE: f64 = 0.9;
/// Share of the records that are sent again from which on that is what holds the rest up.
const MANY_RETRIES: f64 = 0.2;
/// How far the stream's freshness may be above its buffering interval. A delivery and the lag of
/// its metric take minutes; CloudWatch's own recommended alarm is at 15 min for the longest
/// interval of 900 s (the guide's page on CloudWatch alarms).
const LATE: Duration = Duration::from_secs(300);
/// The longest buffering interval that S3 takes, where the stream's own is not known.
const LONGEST_BUFFERING: Duration = Duration::from_secs(900);

/// A stretch of the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Records flow.
    Nowhere,
    /// None come in.
    Producer,
    /// The daemon does not keep up.
    Daemon,
    /// Firehose does not take them.
    Firehose,
    /// Firehose does not get rid of them.
    Destination,
}

impl Place {
    /// Its name in `/status`.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Nowhere => "nowhere",
            Self::Producer => "producer",
            Self::Daemon => "daemon",
            Self::Firehose => "firehose",
            Self::Destination => "destination",
        }
    }
}

/// How much of a matter it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// All is as it should be.
    Ok,
    /// Nothing happens, which may be right.
    Idle,
    /// It may pass by itself.
    Warning,
    /// A human has to act.
    Problem,
}

impl Level {
    /// Its name in `/status`.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Idle => "idle",
            Self::Warning => "warning",
            Self::Problem => "problem",
        }
    }
}

/// Where it is stuck, and why that is thought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stuck {
    /// The stretch.
    pub at: Place,
    /// How bad it is.
    pub level: Level,
    /// A sentence without its full stop.
    pub why: String,
}

/// What is known at one moment.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// Why the process makes no progress, if it makes none.
    pub dead: Option<&'a str>,
    /// The failure of the whole stream.
    pub trouble: Option<&'a Trouble>,
    /// How long that has lasted.
    pub trouble_age: Duration,
    /// What flows.
    pub rates: Rates,
    /// Share of a core that the daemon takes, over the time of `rates`.
    pub cpu: f64,
    /// The records' memory.
    pub buffer: Option<Buffer>,
    /// Whether the spool can take more, where there is one.
    pub spool: Option<SpoolCondition>,
    /// Whether what is ready to be sent waits for the stream's quota.
    pub waits_for_quota: bool,
    /// Records held.
    pub held: u64,
    /// Connections of producers.
    pub connections: usize,
    /// Requests under way.
    pub in_flight: usize,
    /// What is known of the stream itself.
    pub stream: &'a Stream,
}

/// Goes down the way from the daemon to the destination and back to the producers, and stops where
/// something is wrong.
#[must_use]
pub fn find(facts: &Facts<'_>) -> Stuck {
    let found = |at, level, why| Stuck { at, level, why };
    if let Some(reason) = facts.dead {
        return found(Place::Daemon, Level::Problem, reason.to_owned());
    }
    if facts.spool == Some(SpoolCondition::Failed) {
        let why = "the spool's disk has failed, so nothing more is taken until a restart";
        return found(Place::Daemon, Level::Problem, why.to_owned());
    }
    if facts.spool == Some(SpoolCondition::DiskFull) {
        let why = "the file system of the spool is full, so producers wait";
        return found(Place::Daemon, Level::Problem, why.to_owned());
    }
    if let Some(trouble) = facts.trouble {
        let level = if trouble.permanent { Level::Problem } else { Level::Warning };
        let seconds = facts.trouble_age.as_secs();
        return found(
            Place::Firehose,
            level,
            format!("{} for {seconds} s: {}", trouble.code, trouble.message),
        );
    }
    let description = facts.stream.description.as_ref();
    if let Some(description) = description.filter(|description| description.status != "ACTIVE") {
        let why = format!("the delivery stream is {}, so it may not keep what it takes", description.status);
        return found(Place::Firehose, Level::Problem, why);
    }
    let Rates { received_records, delivered_records, retried_records, .. } = facts.rates;
    let tried = delivered_records + retried_records;
    if retried_records > 0.0 && retried_records >= tried * MANY_RETRIES {
        let percent = 100.0 * retried_records / tried;
        let why = format!("it fails {percent:.0} % of the records that are sent, which go again");
        return found(Place::Firehose, Level::Warning, why);
    }
    let held_back = facts.buffer.filter(|buffer| buffer.wanted > 0);
    let is_full = facts.spool == Some(SpoolCondition::Full);
    if facts.waits_for_quota && (is_full || held_back.is_some()) {
        let why = "producers wait for the stream's quota, of which more is asked than there is";
        return found(Place::Firehose, Level::Warning, why.to_owned());
    }
    if is_full {
        let why = "the spool has reached buffer.disk, so producers wait for what was sent before";
        return found(Place::Firehose, Level::Warning, why.to_owned());
    }
    if held_back.is_some() && facts.cpu >= FULL_CORE {
        let percent = 100.0 * facts.cpu;
        let why = format!("producers wait while the daemon takes {percent:.0} % of a core");
        return found(Place::Daemon, Level::Warning, why);
    }
    if held_back.is_some() && facts.in_flight > 0 {
        let requests = facts.in_flight;
        let why = format!(
            "producers wait for memory until Firehose has answered {requests} request{}",
            plural(requests)
        );
        return found(Place::Firehose, Level::Warning, why);
    }
    if let Some(stuck) = destination(facts.stream) {
        return stuck;
    }
    if received_records > 0.0 || facts.held > 0 {
        return found(Place::Nowhere, Level::Ok, "records flow".to_owned());
    }
    if facts.rates.window.is_zero() {
        return found(Place::Nowhere, Level::Ok, "the daemon has just started".to_owned());
    }
    let connections = facts.connections;
    let why = format!("no records come in; {connections} connection{} open", plural(connections));
    found(Place::Producer, Level::Idle, why)
}

fn destination(stream: &Stream) -> Option<Stuck> {
    let found = |level, why| Some(Stuck { at: Place::Destination, level, why });
    let buffering = stream.description.as_ref().and_then(|description| description.buffering);
    let limit = buffering.unwrap_or(LONGEST_BUFFERING) + LATE;
    let freshness = stream.reading(Reading::DataFreshness).map(|datapoint| datapoint.value);
    if let Some(age) = freshness.filter(|age| *age > limit.as_secs_f64()) {
        let limit = limit.as_secs();
        let why =
            format!("the oldest record that has not reached it is {age:.0} s old, where {limit} s are usual");
        return found(Level::Problem, why);
    }
    let success = stream.reading(Reading::DeliverySuccess).map(|datapoint| datapoint.value);
    if let Some(success) = success.filter(|success| *success < 1.0) {
        let failed = 100.0 * (1.0 - success);
        return found(
            Level::Warning,
            format!("{failed:.1} % of the deliveries failed in the last known minute"),
        );
    }
    None
}

fn plural(number: usize) -> &'static str {
    if number == 1 { "" } else { "s" }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;
    use std::time::SystemTime;

    use super::*;
    use crate::firehose::{Datapoint, Description};

    fn flowing(records: f64) -> Rates {
        Rates {
            window: Duration::from_secs(10),
            received_records: records,
            delivered_records: records,
            ..Rates::default()
        }
    }

    fn calm(stream: &Stream) -> Facts<'_> {
        Facts {
            dead: None,
            trouble: None,
            trouble_age: Duration::ZERO,
            rates: flowing(100.0),
            cpu: 0.1,
            buffer: Some(Buffer { total: 100, reserved: 10, wanted: 0 }),
            spool: None,
            waits_for_quota: false,
            held: 3,
            connections: 1,
            in_flight: 1,
            stream,
        }
    }

    fn check(facts: &Facts<'_>, at: Place, level: Level, why: &str) {
        let stuck = find(facts);
        assert_eq!((stuck.at, stuck.level), (at, level), "{stuck:?}");
        assert!(stuck.why.contains(why), "{stuck:?}");
    }

    fn stream(status: &str, readings: &[(Reading, f64)]) -> Stream {
        let at = SystemTime::UNIX_EPOCH;
        let description = Description {
            status: status.to_owned(),
            kind: "DirectPut".to_owned(),
            buffering: Some(Duration::from_secs(60)),
            ..Description::default()
        };
        Stream {
            description: Some(description),
            readings: readings
                .iter()
                .map(|(reading, value)| (*reading, Datapoint { at, value: *value }))
                .collect(),
            ..Stream::default()
        }
    }

    // R-M14
    #[test]
    fn each_stretch_of_the_way_is_found() {
        let unknown = Stream::default();
        let calm = calm(&unknown);
        check(&calm, Place::Nowhere, Level::Ok, "flow");
        check(&Facts { dead: Some("no turn"), ..calm }, Place::Daemon, Level::Problem, "no turn");
        let spool = |spool| Facts { spool: Some(spool), ..calm };
        check(&spool(SpoolCondition::Working), Place::Nowhere, Level::Ok, "flow");
        check(&spool(SpoolCondition::Full), Place::Firehose, Level::Warning, "buffer.disk");
        check(&spool(SpoolCondition::DiskFull), Place::Daemon, Level::Problem, "file system");
        check(&spool(SpoolCondition::Failed), Place::Daemon, Level::Problem, "until a restart");

        let trouble = |permanent| Trouble {
            permanent,
            code: Cow::Borrowed("Code"),
            message: "what to do".to_owned(),
            since: crate::telemetry::now(),
        };
        let (passing, lasting) = (trouble(false), trouble(true));
        let in_trouble =
            |trouble| Facts { trouble: Some(trouble), trouble_age: Duration::from_secs(9), ..calm };
        check(&in_trouble(&passing), Place::Firehose, Level::Warning, "Code for 9 s: what to do");
        check(&in_trouble(&lasting), Place::Firehose, Level::Problem, "Code");

        let retrying = Rates { retried_records: 50.0, ..flowing(100.0) };
        check(&Facts { rates: retrying, ..calm }, Place::Firehose, Level::Warning, "33 %");
        let hardly = Rates { retried_records: 1.0, ..flowing(100.0) };
        check(&Facts { rates: hardly, ..calm }, Place::Nowhere, Level::Ok, "");

        let full = Facts { buffer: Some(Buffer { total: 100, reserved: 99, wanted: 50 }), ..calm };
        check(&full, Place::Firehose, Level::Warning, "1 request");
        let quota = "the stream's quota";
        check(&Facts { waits_for_quota: true, ..full }, Place::Firehose, Level::Warning, quota);
        let spooled = Facts { waits_for_quota: true, ..spool(SpoolCondition::Full) };
        check(&spooled, Place::Firehose, Level::Warning, quota);
        check(&Facts { waits_for_quota: true, ..calm }, Place::Nowhere, Level::Ok, "flow");
        check(&Facts { cpu: 0.97, ..full }, Place::Daemon, Level::Warning, "97 % of a core");

        let idle = Facts { rates: flowing(0.0), held: 0, connections: 2, ..calm };
        check(&idle, Place::Producer, Level::Idle, "2 connections open");
        let new = Facts { rates: Rates::default(), held: 0, ..calm };
        check(&new, Place::Nowhere, Level::Ok, "just started");
    }

    // R-M14
    #[test]
    fn the_stream_and_its_destination_are_looked_at_too() {
        let check = |stream: &Stream, at, level, why| check(&calm(stream), at, level, why);
        check(&stream("DELETING", &[]), Place::Firehose, Level::Problem, "DELETING");
        check(&stream("ACTIVE", &[]), Place::Nowhere, Level::Ok, "");
        let freshness = |seconds| stream("ACTIVE", &[(Reading::DataFreshness, seconds)]);
        check(&freshness(360.0), Place::Nowhere, Level::Ok, "");
        check(&freshness(361.0), Place::Destination, Level::Problem, "361 s old");
        let success = stream("ACTIVE", &[(Reading::DeliverySuccess, 0.75)]);
        check(&success, Place::Destination, Level::Warning, "25.0 %");
        let success = stream("ACTIVE", &[(Reading::DeliverySuccess, 1.0)]);
        check(&success, Place::Nowhere, Level::Ok, "");
    }
}
