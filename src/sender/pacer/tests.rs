use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;

const MIB: f64 = 1_048_576.0;
const ROUND_TRIP: Duration = Duration::from_millis(50);

#[expect(clippy::disallowed_methods, reason = "an Instant can't be made up from nothing")]
fn start() -> Instant {
    Instant::now()
}

fn size(records: usize, bytes: usize) -> Size {
    Size { records, bytes }
}

fn limited(bytes: Option<f64>, records: Option<f64>, requests: Option<f64>, now: Instant) -> Pacer {
    let mut pacer = Pacer::new();
    pacer.handle_limits(Limits { bytes, records, requests }, now);
    pacer
}

/// A pacer that had a request throttled by half, and the time of that answer.
fn throttled() -> (Pacer, Instant) {
    let (mut pacer, now) = (Pacer::new(), start());
    pacer.handle_sent(size(10, 3_000), now, &mut fastrand::Rng::with_seed(1));
    pacer.handle_answer(size(5, 1_500), size(5, 1_500), now, now + ROUND_TRIP);
    (pacer, now + ROUND_TRIP)
}

/// Waits until there is room; how long that may take at the least pace and with the largest debt.
fn until_room(pacer: &Pacer, mut now: Instant) -> (Carry, Instant) {
    for _ in 0..20 {
        match (pacer.poll_room(now), pacer.poll_timeout(now)) {
            (Some(carry), None) => return (carry, now),
            (None, Some(at)) if at > now => now = at,
            (room, timeout) => panic!("room {room:?}, timeout {timeout:?} at {now:?}"),
        }
    }
    panic!("no room in sight: {pacer:?}")
}

#[test]
fn a_limit_that_is_known_holds_from_the_start_and_a_request_carries_some_tens_of_milliseconds_of_it() {
    let now = start();
    let pacer = limited(Some(MIB), Some(100_000.0), Some(1_000.0), now);
    let carry = pacer.poll_room(now).expect("a new bucket is full");
    assert!((0.1..0.25).contains(&(carry.bytes as f64 / MIB)), "{carry:?}");
    assert_eq!(carry.records, 50_000);
}

#[test]
fn one_record_may_always_leave_however_large_and_is_paid_off() {
    let now = start();
    let mut pacer = limited(Some(1_000.0), None, None, now);
    let (_, now) = until_room(&pacer, now);
    pacer.handle_sent(size(1, 30_000), now, &mut fastrand::Rng::with_seed(1));
    let (_, later) = until_room(&pacer, now);
    assert!(later - now > Duration::from_secs(25), "{:?}", later - now);
}

/// Found by the property of the limits.
#[test]
fn the_first_that_is_throttled_forgives_no_debt() {
    let (now, mut random) = (start(), fastrand::Rng::with_seed(1));
    let mut pacer = limited(Some(MIB), None, None, now);
    pacer.handle_sent(size(1, 1_000_000), now, &mut random);
    let wait = until_room(&pacer, now).1;
    pacer.handle_answer(size(0, 0), size(1, 1_000_000), now, now + ROUND_TRIP);
    assert!(until_room(&pacer, now).1 > wait);
}

#[test]
fn answers_of_one_round_trip_cut_the_pace_once() {
    let (mut pacer, now) = throttled();
    let pace = pacer.pace();
    pacer.handle_answer(size(1, 300), size(9, 2_700), now - ROUND_TRIP, now);
    pacer.handle_throttled(now - ROUND_TRIP, now);
    assert_eq!(pacer.pace(), pace);
    pacer.handle_throttled(now, now + ROUND_TRIP);
    assert!(pacer.pace() < pace);
}

#[test]
fn a_pace_that_holds_nothing_back_does_not_grow_and_is_forgotten() {
    let (mut pacer, mut now) = throttled();
    let pace = pacer.pace();
    for _ in 0..59 {
        now += Duration::from_secs(10);
        pacer.handle_sent(size(1, 100), now, &mut fastrand::Rng::with_seed(1));
        pacer.handle_answer(size(1, 100), size(0, 0), now, now + ROUND_TRIP);
        assert_eq!(pacer.pace(), pace);
    }
    now += Duration::from_secs(20);
    pacer.handle_answer(size(1, 100), size(0, 0), now, now + ROUND_TRIP);
    assert_eq!((pacer.pace(), pacer.poll_room(now)), (None, Some(Carry::ANYTHING)));
}

#[test]
fn a_limit_that_is_no_positive_number_is_unknown() {
    for limit in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        let pacer = limited(Some(limit), Some(limit), Some(limit), start());
        assert_eq!(pacer.poll_room(start()), Some(Carry::ANYTHING), "{limit}");
    }
}

#[test]
fn sidecars_that_are_throttled_together_do_not_come_back_together() {
    let now = start();
    let mut next: Vec<Instant> = (0..100)
        .map(|seed| {
            let mut pacer = Pacer::new();
            pacer.handle_sent(size(500, 150_000), now, &mut fastrand::Rng::with_seed(seed));
            pacer.handle_answer(size(0, 0), size(500, 150_000), now, now + ROUND_TRIP);
            until_room(&pacer, now + ROUND_TRIP).1
        })
        .collect();
    next.sort();
    let spread = next[99] - next[0];
    // A tenth of the time holds few of them.
    let most = next
        .iter()
        .map(|at| next.iter().filter(|other| **other >= *at && **other < *at + spread / 10).count());
    assert!(spread > Duration::from_millis(250) && most.max() < Some(25), "{spread:?}");
}

#[test]
fn requests_throttled_as_a_whole_make_those_that_follow_carry_more() {
    let (mut pacer, mut now) = throttled();
    for _ in 0..40 {
        now += ROUND_TRIP;
        pacer.handle_throttled(now, now);
    }
    assert!(pacer.least > 3.0 * LEAST_CARRY, "{}", pacer.least);
}

#[derive(Debug, Clone)]
enum Step {
    Wait(u64),
    /// Sends what there is room for: as many records of this size as the carry holds, 500 at most.
    Send(usize),
    /// The oldest request is answered; of its records, this many in a hundred are throttled.
    Answer(usize),
    /// The oldest request is throttled as a whole.
    Throttled,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        2 => (0_u64..2_000).prop_map(Step::Wait),
        4 => (1_usize..20_000).prop_map(Step::Send),
        1 => (100_000_usize..1_024_000).prop_map(Step::Send),
        2 => Just(Step::Answer(0)),
        1 => (0_usize..=100).prop_map(Step::Answer),
        1 => Just(Step::Throttled),
    ];
    prop::collection::vec(step, 1..200)
}

/// A pacer and the requests that it let through.
struct Run {
    pacer: Pacer,
    random: fastrand::Rng,
    now: Instant,
    under_way: VecDeque<(Size, Instant)>,
    sent: Vec<(Size, Instant)>,
}

impl Run {
    fn new(limits: Limits, now: Instant) -> Self {
        let mut pacer = Pacer::new();
        pacer.handle_limits(limits, now);
        let random = fastrand::Rng::with_seed(7);
        Self { pacer, random, now, under_way: VecDeque::new(), sent: Vec::new() }
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Wait(millis) => self.now += Duration::from_millis(*millis),
            Step::Send(record) => {
                let (carry, now) = until_room(&self.pacer, self.now);
                let records = (carry.bytes / record).clamp(1, carry.records.min(500));
                let request = size(records, records * record);
                self.now = now;
                self.pacer.handle_sent(request, now, &mut self.random);
                self.under_way.push_back((request, now));
                self.sent.push((request, now));
            }
            Step::Answer(part) => {
                let Some((request, sent)) = self.under_way.pop_front() else { return };
                let throttled = request.records * part / 100;
                let each = request.bytes / request.records;
                let of = |records: usize| size(records, records * each);
                self.pacer.handle_answer(of(request.records - throttled), of(throttled), sent, self.now);
            }
            Step::Throttled => {
                let Some((_, sent)) = self.under_way.pop_front() else { return };
                self.pacer.handle_throttled(sent, self.now);
            }
        }
    }
}

proptest! {
    #[test]
    fn nothing_is_delayed_while_nothing_is_known(steps in steps()) {
        let mut run = Run::new(Limits::default(), start());
        for step in steps {
            if let Step::Answer(_) | Step::Throttled = step {
                run.step(&Step::Answer(0));
            } else {
                run.step(&step);
            }
            prop_assert_eq!(run.pacer.poll_room(run.now), Some(Carry::ANYTHING));
            prop_assert_eq!(run.pacer.poll_timeout(run.now), None);
        }
    }

    #[test]
    fn over_any_time_no_more_leaves_than_the_limits_allow(
        bytes in 20_000.0..1e7,
        records in 50.0..1e5,
        requests in 2.0..2e3,
        steps in steps(),
    ) {
        let limits = Limits { bytes: Some(bytes), records: Some(records), requests: Some(requests) };
        let mut run = Run::new(limits, start());
        steps.iter().for_each(|step| run.step(step));
        let burst = 2.0 * usual_carry(bytes).max(MOST_LEAST_CARRY);
        for (first, (_, from)) in run.sent.iter().enumerate() {
            let (mut all, mut count, mut largest) = (Size::default(), 0.0, 0);
            for (request, at) in &run.sent[first..] {
                let passed = (*at - *from).as_secs_f64();
                all += *request;
                count += 1.0;
                largest = largest.max(request.bytes / request.records);
                prop_assert!(all.bytes as f64 <= bytes * passed + burst + largest as f64 + 1.0);
                prop_assert!(all.records as f64 <= records * (passed + LIMIT_BURST) + 2.0);
                prop_assert!(count <= requests * (passed + LIMIT_BURST) + 2.0);
            }
        }
    }

    #[test]
    fn the_timeout_always_leads_to_room(steps in steps(), bytes in prop::option::of(1_000.0..1e8)) {
        let mut run = Run::new(Limits { bytes, ..Limits::default() }, start());
        for step in &steps {
            run.step(step);
            until_room(&run.pacer, run.now);
        }
    }

    #[test]
    fn no_limit_and_no_order_of_times_upsets_it(
        limits in prop::collection::vec(any::<[Option<f64>; 3]>(), 1..10),
        steps in prop::collection::vec((0..4, any::<u32>(), any::<usize>(), any::<usize>()), 1..100),
    ) {
        let (base, mut random) = (start(), fastrand::Rng::with_seed(3));
        let mut pacer = Pacer::new();
        for (index, (what, millis, one, other)) in steps.into_iter().enumerate() {
            let now = base + Duration::from_millis(millis.into());
            let (one, other) = (size(one >> 2, one >> 2), size(other >> 2, other >> 2));
            match what {
                0 => {
                    let [bytes, records, requests] = limits[index % limits.len()];
                    pacer.handle_limits(Limits { bytes, records, requests }, now);
                }
                1 => pacer.handle_sent(one, now, &mut random),
                2 => pacer.handle_answer(one, other, base, now),
                _ => pacer.handle_throttled(now, now),
            }
            let (room, timeout) = (pacer.poll_room(now), pacer.poll_timeout(now));
            prop_assert_eq!(room.is_some(), timeout.is_none());
            prop_assert!(room.is_none_or(|carry| carry.bytes > 0 && carry.records > 0));
            prop_assert!(timeout.is_none_or(|at| at > now));
        }
    }
}
