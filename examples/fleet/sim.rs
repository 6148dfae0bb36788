//! A fleet of sidecars that share a delivery stream, in made-up time: the daemon's own pacer against
//! the embedded service's own token buckets. One seed gives one history, whatever the machine.
//!
//! A sidecar has a producer with a steady demand, a buffer, a batch that is ready when it is full or
//! its oldest record has waited for `linger`, and as many requests under way as the daemon. What is
//! throttled goes back into the buffer. A producer waits while the buffer is full.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

use hydrant::batcher::Size;
use hydrant::firehose::Class;
use hydrant::limits::{MAX_BATCH_BYTES, MAX_BATCH_RECORDS};
use hydrant::local::quota::Quota;
use hydrant::sender::backoff::Backoff;
use hydrant::sender::gate::Gate;
use hydrant::sender::pacer::{Pacer, Totals};
use hydrant::sender::quota::{self, Limits};

/// Bytes of a record.
const RECORD: usize = 300;
/// Most requests of one sidecar under way, as `send.max_in_flight` has it.
const MAX_IN_FLIGHT: usize = 8;
/// Longest wait of a batch, as `linger` has it.
const LINGER: f64 = 1.0;
/// Most bytes that a sidecar holds, as `buffer.memory` has it.
const BUFFER: f64 = 32.0 * 1_048_576.0;
/// Waits between attempts, as `retry.*` has them.
const BACKOFF: Backoff =
    Backoff { base: Duration::from_millis(100), max: Duration::from_secs(30), jitter: 0.3 };
/// Time between two looks at CloudWatch, as `monitor.interval` has it, and the part by which one is early or late.
const LOOK_EVERY: (f64, f64) = (60.0, 0.1);
/// First looks are spread over this long.
const FIRST_LOOK: f64 = 10.0;
/// CloudWatch adds up minutes, and has the sums of one a minute after its end.
const MINUTE: u64 = 60;
/// The limits are read this seldom.
const LIMITS_EVERY: Duration = Duration::from_secs(900);
/// What is measured is cut into pieces of this length.
pub const WINDOW: Duration = Duration::from_secs(20);
/// A phase is steady in its last part, this long.
const STEADY: usize = 15;

/// What a fleet goes through.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// What it is called.
    pub name: &'static str,
    /// Bytes a second that the stream accepts at first. Its requests follow as AWS has them.
    pub quota: u64,
    /// Every sidecar wants three times its share, or half of them a tenth and a half of it.
    pub uneven: bool,
    /// How many times its share a sidecar wants.
    pub demand: f64,
    /// Bytes that a sidecar holds when it starts.
    pub backlog: f64,
    /// Whether the sidecars read CloudWatch.
    pub reads: bool,
    /// Whether the records of a request go as one of Firehose's.
    pub packed: bool,
    /// One after the other.
    pub phases: Vec<Phase>,
    /// The share of records that is throttled whatever is sent.
    pub refused: f64,
    /// The share of requests that is throttled as a whole whatever is sent.
    pub refused_requests: f64,
    /// Without the pacer: what the gate alone does.
    pub unpaced: bool,
    /// Of all chance in it.
    pub seed: u64,
}

impl Scenario {
    /// Producers that want three times their share of 1 MiB a second.
    #[must_use]
    pub fn new(name: &'static str, seed: u64) -> Self {
        Self {
            name,
            quota: 1_048_576,
            uneven: false,
            demand: 3.0,
            backlog: 0.0,
            reads: false,
            packed: false,
            phases: Vec::new(),
            refused: 0.0,
            refused_requests: 0.0,
            unpaced: false,
            seed,
        }
    }
}

/// A time in which nothing is changed from outside.
#[derive(Debug, Clone, Copy)]
pub struct Phase {
    /// What changed.
    pub name: &'static str,
    /// Sidecars at work.
    pub sidecars: usize,
    /// How many times the first quota there is.
    pub quota: f64,
    /// How long it is, in windows.
    pub windows: usize,
}

/// What a window saw.
#[derive(Debug, Clone, Default)]
pub struct Window {
    /// Bytes a second that the stream would have accepted of what was wanted.
    pub possible: f64,
    /// Bytes a second that were delivered.
    pub delivered: f64,
    /// Requests, and how many had a record throttled.
    pub requests: [f64; 2],
    /// Records, and how many were throttled.
    pub records: [f64; 2],
    /// Bytes delivered for each sidecar that wants more than its share.
    pub greedy: Vec<f64>,
}

/// How a phase went.
#[derive(Debug, Clone, Copy)]
pub struct Outcome {
    /// Delivered of what was possible, while steady.
    pub utilisation: f64,
    /// Share of requests of which a record was throttled, while steady.
    pub throttled_requests: f64,
    /// Share of records that were throttled, while steady.
    pub throttled_records: f64,
    /// Jain's index among those that want more than their share, while steady.
    pub fairness: f64,
    /// Requests a second, while steady.
    pub requests: f64,
    /// From when on every window has 90 % of what is possible and at most 2.5 % and two of its requests
    /// throttled: a window of few requests scatters.
    pub settled: Option<Duration>,
    /// From when on Jain's index of the windows is at least 0.9.
    pub fair: Option<Duration>,
}

/// Jain's fairness index: 1 when all have the same, 1/n when one has all.
///
/// Source: R. Jain, D. Chiu, W. Hawe, DEC Research Report TR-301, 1984.
#[must_use]
pub fn jain(shares: &[f64]) -> f64 {
    let (sum, squares) =
        shares.iter().fold((0.0, 0.0), |(sum, squares), share| (sum + share, squares + share * share));
    if squares > 0.0 { sum * sum / (shares.len() as f64 * squares) } else { 1.0 }
}

impl Window {
    /// Delivered of what was possible.
    #[must_use]
    pub fn utilisation(&self) -> f64 {
        self.delivered / self.possible
    }

    /// Share of requests of which a record was throttled.
    #[must_use]
    pub fn throttled(&self) -> f64 {
        self.requests[1] / self.requests[0].max(1.0)
    }
}

impl Outcome {
    /// Of the windows of one phase.
    #[must_use]
    pub fn of(windows: &[Window]) -> Self {
        let steady = &windows[windows.len().saturating_sub(STEADY)..];
        let sum = |of: fn(&Window) -> f64| steady.iter().map(of).sum::<f64>();
        let mut shares = vec![0.0; steady.last().map_or(0, |window| window.greedy.len())];
        for window in steady {
            shares.iter_mut().zip(&window.greedy).for_each(|(share, bytes)| *share += bytes);
        }
        let since = |good: &dyn Fn(&Window) -> bool| {
            let bad = windows.iter().rposition(|window| !good(window)).map_or(0, |last| last + 1);
            // A window at the end alone may be luck.
            (bad + 1 < windows.len()).then(|| WINDOW * u32::try_from(bad).unwrap_or(u32::MAX))
        };
        Self {
            utilisation: sum(|window| window.delivered) / sum(|window| window.possible),
            throttled_requests: sum(|window| window.requests[1]) / sum(|window| window.requests[0]),
            throttled_records: sum(|window| window.records[1]) / sum(|window| window.records[0]),
            fairness: jain(&shares),
            requests: sum(|window| window.requests[0]) / (WINDOW.as_secs_f64() * steady.len() as f64),
            settled: since(&|window| {
                let allowed = 0.025 + 2.0 / window.requests[0].max(1.0);
                window.utilisation() >= 0.9 && window.throttled() <= allowed
            }),
            fair: since(&|window| jain(&window.greedy) >= 0.9),
        }
    }
}

/// A sidecar.
struct Sidecar {
    pacer: Pacer,
    quota: quota::Quota,
    gate: Gate,
    random: fastrand::Rng,
    /// Bytes a second that its producer writes.
    demand: f64,
    /// Wants more than its share.
    greedy: bool,
    working: bool,
    held: f64,
    held_at: Duration,
    in_flight: usize,
    /// When it looks again; what was planned before is void.
    wake: Option<Duration>,
    delivered: f64,
    /// When the limits are read next.
    limits_due: Duration,
    /// Bytes a second, as read then.
    limit: Option<f64>,
}

enum Event {
    Wake,
    /// It looks at CloudWatch.
    Look,
    /// A request reaches the service.
    Request {
        sent: Duration,
        records: usize,
    },
    /// Its answer reaches the sidecar: records delivered and throttled, and whether as a whole.
    Answer {
        sent: Duration,
        delivered: usize,
        throttled: usize,
        whole: bool,
    },
}

/// What is planned, by time and then by the order in which it was.
struct Planned {
    at: Duration,
    number: u64,
    sidecar: usize,
    event: Event,
}

impl PartialEq for Planned {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl Eq for Planned {}

impl PartialOrd for Planned {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Planned {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

/// The whole of it.
struct Fleet {
    /// Made-up time is counted from here.
    start: Instant,
    sidecars: Vec<Sidecar>,
    bytes: Quota,
    requests: Quota,
    refused: f64,
    refused_requests: f64,
    unpaced: bool,
    planned: BinaryHeap<Reverse<Planned>>,
    number: u64,
    window: Window,
    limits: Limits,
    reads: bool,
    packed: bool,
    /// Of when it is looked at CloudWatch.
    looks: fastrand::Rng,
    /// What CloudWatch has, minute by minute.
    minutes: Vec<Minute>,
}

/// Sums of a minute, as CloudWatch has them of the whole stream.
#[derive(Debug, Clone, Copy, Default)]
struct Minute {
    /// `IncomingBytes`
    bytes: f64,
    /// `IncomingRecords`
    records: f64,
    /// `IncomingPutRequests`
    requests: f64,
    /// `ThrottledRecords`
    throttled: f64,
}

/// Runs `scenario` and returns the windows of each phase.
#[must_use]
pub fn run(scenario: &Scenario, start: Instant) -> Vec<Vec<Window>> {
    let mut fleet = Fleet::new(scenario, start);
    let mut now = Duration::ZERO;
    let mut phases = Vec::new();
    for phase in &scenario.phases {
        fleet.change(scenario, phase, now);
        let mut windows = Vec::new();
        for _ in 0..phase.windows {
            let end = now + WINDOW;
            fleet.advance(end);
            windows.push(fleet.measure(scenario, phase));
            now = end;
        }
        phases.push(windows);
    }
    phases
}

fn quota(scenario: &Scenario, phase: &Phase) -> (u64, u64) {
    let bytes = (scenario.quota as f64 * phase.quota) as u64;
    // 1,000 a second where there is 1 MiB a second: https://docs.aws.amazon.com/firehose/latest/dev/limits.html
    (bytes, bytes * 1_000 / 1_048_576)
}

impl Fleet {
    fn new(scenario: &Scenario, start: Instant) -> Self {
        let mut dice = fastrand::Rng::with_seed(scenario.seed);
        let first = scenario.phases.first().map_or(1, |phase| phase.sidecars);
        let most = scenario.phases.iter().map(|phase| phase.sidecars).max().unwrap_or_default();
        let share = scenario.quota as f64 / first as f64;
        let sidecars = (0..most).map(|number| {
            let factor = if scenario.uneven { [0.1, 0.5, 3.0, 10.0][number % 4] } else { scenario.demand };
            let mut pacer = Pacer::default();
            pacer.set_packed(scenario.packed);
            Sidecar {
                pacer,
                quota: quota::Quota::default(),
                gate: Gate::new(BACKOFF),
                random: fastrand::Rng::with_seed(dice.u64(..)),
                demand: factor * share,
                greedy: factor > 1.0,
                working: false,
                held: scenario.backlog,
                held_at: Duration::ZERO,
                in_flight: 0,
                wake: None,
                delivered: 0.0,
                limits_due: Duration::ZERO,
                limit: None,
            }
        });
        let (sidecars, unlimited) = (sidecars.collect(), || Quota::new(None, None));
        let (planned, window) = (BinaryHeap::new(), Window::default());
        Self {
            start,
            sidecars,
            bytes: unlimited(),
            requests: unlimited(),
            refused: scenario.refused,
            refused_requests: scenario.refused_requests,
            unpaced: scenario.unpaced,
            planned,
            number: 0,
            window,
            limits: Limits::default(),
            reads: scenario.reads,
            packed: scenario.packed,
            looks: fastrand::Rng::with_seed(scenario.seed),
            minutes: Vec::new(),
        }
    }

    /// Sidecars come and go, all within ten milliseconds, and the quota changes.
    fn change(&mut self, scenario: &Scenario, phase: &Phase, now: Duration) {
        let (bytes, requests) = quota(scenario, phase);
        self.bytes = Quota::new(Some(bytes), None);
        self.requests = Quota::new(None, Some(requests));
        self.limits = Limits { bytes: Some(bytes as f64), requests: Some(requests as f64), records: None };
        for number in 0..self.sidecars.len() {
            let sidecar = &mut self.sidecars[number];
            let works = number < phase.sidecars;
            if works && !sidecar.working {
                sidecar.held_at = now;
                let wake = now + Duration::from_millis(10).mul_f64(sidecar.random.f64());
                self.wake(number, wake);
                let look = Duration::from_secs_f64(FIRST_LOOK).mul_f64(self.looks.f64());
                self.plan(now + look, number, Event::Look);
            }
            self.sidecars[number].working = works;
        }
    }

    fn measure(&mut self, scenario: &Scenario, phase: &Phase) -> Window {
        let (bytes, _) = quota(scenario, phase);
        let working = || self.sidecars.iter().filter(|sidecar| sidecar.working);
        let wanted: f64 = working().map(|sidecar| sidecar.demand).sum();
        let mut window = std::mem::take(&mut self.window);
        window.possible = wanted.min(bytes as f64);
        window.delivered =
            self.sidecars.iter().map(|sidecar| sidecar.delivered).sum::<f64>() / WINDOW.as_secs_f64();
        window.greedy = working().filter(|sidecar| sidecar.greedy).map(|sidecar| sidecar.delivered).collect();
        for sidecar in &mut self.sidecars {
            sidecar.delivered = 0.0;
        }
        window
    }

    fn advance(&mut self, end: Duration) {
        while let Some(Reverse(next)) = self.planned.peek()
            && next.at < end
        {
            let Some(Reverse(Planned { at, sidecar, event, .. })) = self.planned.pop() else { return };
            match event {
                Event::Wake if self.sidecars[sidecar].wake == Some(at) => self.sidecars[sidecar].wake = None,
                Event::Wake => continue,
                Event::Look => {
                    self.look(sidecar, at);
                    continue;
                }
                Event::Request { sent, records } => {
                    self.serve(sidecar, sent, records, at);
                    continue;
                }
                Event::Answer { sent, delivered, throttled, whole } => {
                    self.sidecars[sidecar].answered(self.start, sent, [delivered, throttled], whole, at);
                }
            }
            self.launch(sidecar, at);
        }
    }

    fn plan(&mut self, at: Duration, sidecar: usize, event: Event) {
        self.number += 1;
        self.planned.push(Reverse(Planned { at, number: self.number, sidecar, event }));
    }

    /// Half of a round trip of 20 to 80 ms.
    fn half_a_round_trip(&mut self, sidecar: usize) -> Duration {
        Duration::from_millis(10) + Duration::from_millis(30).mul_f64(self.sidecars[sidecar].random.f64())
    }

    fn wake(&mut self, sidecar: usize, at: Duration) {
        self.sidecars[sidecar].wake = Some(at);
        self.plan(at, sidecar, Event::Wake);
    }

    /// Reads CloudWatch as the poller does: the limits now and then, and the last minute that is whole.
    fn look(&mut self, number: usize, now: Duration) {
        if !self.reads || !self.sidecars[number].working {
            return;
        }
        let at = self.start + now;
        let sidecar = &mut self.sidecars[number];
        if now >= sidecar.limits_due {
            sidecar.limits_due = now + LIMITS_EVERY;
            sidecar.quota.handle_limits(self.limits, at);
            sidecar.limit = self.limits.bytes;
        }
        let whole = (now.as_secs() / MINUTE).checked_sub(2);
        let minute = whole.and_then(|minute| self.minutes.get(minute as usize));
        let totals = minute.map_or_else(Totals::default, |minute| minute.totals(sidecar.limit));
        sidecar.pacer.handle_totals(Some(totals), 1.0);
        let (every, jitter) = LOOK_EVERY;
        let next = every * (1.0 + jitter * (2.0 * self.looks.f64() - 1.0));
        self.plan(now + Duration::from_secs_f64(next), number, Event::Look);
    }

    /// What CloudWatch counts of a request.
    fn count(&mut self, delivered: usize, throttled: usize, now: Duration) {
        let minute = (now.as_secs() / MINUTE) as usize;
        if self.minutes.len() <= minute {
            self.minutes.resize(minute + 1, Minute::default());
        }
        let minute = &mut self.minutes[minute];
        minute.bytes += (delivered * RECORD) as f64;
        minute.records += delivered as f64;
        minute.requests += f64::from(u8::from(delivered > 0));
        minute.throttled += throttled as f64;
    }

    /// The service takes what the quota allows, record by record.
    fn serve(&mut self, sidecar: usize, sent: Duration, records: usize, now: Duration) {
        let dice = &mut self.sidecars[sidecar].random;
        let whole = (self.refused_requests > 0.0 && dice.f64() < self.refused_requests)
            || !self.requests.take(now, 0);
        let taken = |dice: &mut fastrand::Rng| self.refused == 0.0 || dice.f64() >= self.refused;
        let delivered = match whole {
            true => 0,
            false if self.packed => records * usize::from(self.bytes.take(now, records * RECORD)),
            false => (0..records).filter(|_| taken(dice) && self.bytes.take(now, RECORD)).count(),
        };
        let throttled = records - delivered;
        self.window.requests[0] += 1.0;
        self.window.requests[1] += f64::from(u8::from(throttled > 0));
        self.window.records[0] += records as f64;
        self.window.records[1] += throttled as f64;
        self.sidecars[sidecar].delivered += (delivered * RECORD) as f64;
        self.count(delivered, throttled, now);
        let at = now + self.half_a_round_trip(sidecar);
        self.plan(at, sidecar, Event::Answer { sent, delivered, throttled, whole });
    }

    /// Sends what is ready and allowed, as the flush task does, and plans the next look.
    fn launch(&mut self, number: usize, now: Duration) {
        let start = self.start;
        loop {
            let sidecar = &mut self.sidecars[number];
            if !sidecar.working || sidecar.in_flight == MAX_IN_FLIGHT {
                return;
            }
            if let Some(ready) = sidecar.ready(now) {
                return self.wake(number, ready);
            }
            if sidecar.gate.poll_room(sidecar.in_flight, MAX_IN_FLIGHT, start + now) == 0 {
                // An answer that is awaited otherwise opens it.
                if let Some(at) = sidecar.gate.poll_timeout(start + now) {
                    self.wake(number, at - start);
                }
                return;
            }
            let at = start + now;
            let (pace, quota) = (sidecar.pacer.poll_room(at), sidecar.quota.poll_room(at));
            let most = if self.unpaced { quota } else { quota.min(pace) };
            let bytes = (sidecar.held as usize).min(most.bytes).min(MAX_BATCH_BYTES);
            let records = (bytes / RECORD).clamp(1, most.records.min(MAX_BATCH_RECORDS));
            let pace = sidecar.pacer.poll_timeout(at).filter(|_| !self.unpaced);
            if let Some(until) = pace.max(sidecar.quota.poll_timeout(size(records), at)) {
                return self.wake(number, until - start);
            }
            sidecar.pacer.handle_sent(size(records), at, &mut sidecar.random);
            sidecar.quota.handle_sent(size(records), at);
            sidecar.held -= (records * RECORD) as f64;
            sidecar.in_flight += 1;
            let at = now + self.half_a_round_trip(number);
            self.plan(at, number, Event::Request { sent: now, records });
        }
    }
}

impl Minute {
    fn totals(&self, limit: Option<f64>) -> Totals {
        Totals {
            used: limit.map(|limit| self.bytes / MINUTE as f64 / limit),
            carried: Some(self.bytes / self.requests.max(1.0)),
            throttled: Some(self.throttled / (self.records + self.throttled).max(1.0)),
        }
    }
}

impl Sidecar {
    /// When a batch is ready, if it is not yet.
    fn ready(&mut self, now: Duration) -> Option<Duration> {
        let passed = now.saturating_sub(self.held_at).as_secs_f64();
        self.held = (self.held + passed * self.demand).min(BUFFER);
        self.held_at = now;
        let full = (MAX_BATCH_RECORDS * RECORD) as f64;
        let batch = (self.demand * LINGER).clamp(RECORD as f64, full);
        let lack = batch - self.held;
        (lack > 1e-6).then(|| now + Duration::from_secs_f64(lack / self.demand) + Duration::from_nanos(1))
    }

    fn answered(&mut self, start: Instant, sent: Duration, records: [usize; 2], whole: bool, now: Duration) {
        let [delivered, throttled] = records.map(size);
        self.in_flight -= 1;
        self.held += throttled.bytes as f64;
        if delivered.records == 0 {
            let code = "ThrottlingException".into();
            self.gate.handle_failure(
                Class::Throttled,
                code,
                String::new(),
                start + sent,
                start + now,
                &mut self.random,
            );
        } else {
            self.gate.handle_success();
        }
        if whole {
            self.pacer.handle_throttled(throttled.bytes, start + sent, start + now);
        } else {
            self.pacer.handle_answer(delivered.bytes, throttled.bytes, start + sent, start + now);
        }
    }
}

fn size(records: usize) -> Size {
    Size { records, bytes: records * RECORD }
}
