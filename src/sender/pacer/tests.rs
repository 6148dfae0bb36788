use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;

const ROUND_TRIP: Duration = Duration::from_millis(50);

#[expect(clippy::disallowed_methods, reason = "an Instant can't be made up from nothing")]
fn start() -> Instant {
    Instant::now()
}

fn size(bytes: usize) -> Size {
    Size { records: bytes.div_ceil(300), bytes }
}

/// A pacer that had half of its requests throttled for as long as it takes, and the time of the last answer.
fn throttled(seed: u64) -> (Pacer, Instant) {
    let (mut pacer, mut now) = (Pacer::default(), start());
    let mut random = fastrand::Rng::with_seed(seed);
    for number in 0..2 * FIRST.1 {
        assert_eq!(pacer.pace(), None, "after {number}");
        pacer.handle_sent(size(150_000), now, &mut random);
        now += FIRST.2 / FIRST.1;
        pacer.handle_answer(75_000, 75_000, now - ROUND_TRIP, now);
    }
    assert!(pacer.pace().is_some());
    (pacer, now)
}

/// Waits until there is room; how long that may take at the least pace and with the largest debt.
fn until_room(pacer: &Pacer, mut now: Instant) -> (usize, Instant) {
    for _ in 0..20 {
        match pacer.poll_timeout(now) {
            None => return (pacer.poll_room(now).bytes, now),
            Some(at) if at > now => now = at,
            Some(at) => panic!("timeout {at:?} at {now:?}"),
        }
    }
    panic!("no room in sight: {pacer:?}")
}

#[test]
fn one_record_may_always_leave_however_large_and_is_paid_off() {
    let (mut pacer, now) = throttled(1);
    let (_, now) = until_room(&pacer, now);
    let pace = pacer.pace().expect("a pace");
    pacer.handle_sent(size(whole(10.0 * pace)), now, &mut fastrand::Rng::with_seed(1));
    let (_, later) = until_room(&pacer, now);
    assert!(later - now > Duration::from_secs(9), "{:?}", later - now);
}

#[test]
fn a_pace_begins_with_what_went_through_and_answers_of_one_round_trip_cut_it_once() {
    let (mut pacer, now) = throttled(1);
    let pace = pacer.pace();
    // Half of what was sent within a second.
    assert!(pace >= Some(200_000.0) && pace <= Some(400_000.0), "{pace:?}");
    pacer.handle_answer(300, 2_700, now - ROUND_TRIP, now);
    pacer.handle_throttled(3_000, now - ROUND_TRIP, now);
    assert_eq!(pacer.pace(), pace);
    pacer.handle_throttled(3_000, now, now + ROUND_TRIP);
    assert!(pacer.pace() < pace);
}

#[test]
fn where_nothing_comes_through_the_pace_is_cut_once_and_little_goes_to_look() {
    let (mut pacer, mut now) = throttled(1);
    let mut paces = Vec::new();
    for _ in 0..50 {
        pacer.handle_throttled(3_000, now, now + ROUND_TRIP);
        now += ROUND_TRIP;
        paces.extend(pacer.pace());
    }
    assert!(paces.windows(2).all(|pair| pair[0] == pair[1]), "{paces:?}");
    // What goes next only looks whether something does.
    assert!(until_room(&pacer, now).0 <= 4_096, "{pacer:?}");
    pacer.handle_answer(300, 0, now, now + ROUND_TRIP);
    assert!(until_room(&pacer, now + ROUND_TRIP).0 > 4_096, "{pacer:?}");
}

#[test]
fn a_pace_that_holds_nothing_back_does_not_grow_and_is_forgotten() {
    let (mut pacer, mut now) = throttled(1);
    let pace = pacer.pace();
    for _ in 0..59 {
        now += Duration::from_secs(10);
        pacer.handle_sent(size(100), now, &mut fastrand::Rng::with_seed(1));
        pacer.handle_answer(100, 0, now, now + ROUND_TRIP);
        assert_eq!(pacer.pace(), pace);
    }
    now += Duration::from_secs(20);
    pacer.handle_answer(100, 0, now, now + ROUND_TRIP);
    assert_eq!((pacer.pace(), pacer.poll_room(now)), (None, Size::ANYTHING));
}

#[test]
fn sidecars_that_are_throttled_together_do_not_come_back_together() {
    let mut next: Vec<Duration> = (0..100)
        .map(|seed| {
            let (pacer, now) = throttled(seed);
            until_room(&pacer, now).1 - now
        })
        .collect();
    next.sort();
    let spread = next[99] - next[0];
    // A tenth of the time holds few of them.
    let most = next
        .iter()
        .map(|at| next.iter().filter(|other| **other >= *at && **other < *at + spread / 10).count());
    assert!(spread > Duration::from_millis(50) && most.max() < Some(25), "{spread:?}");
}

#[test]
fn requests_throttled_as_a_whole_make_those_that_follow_carry_more() {
    let (mut pacer, mut now) = throttled(1);
    for _ in 0..40 {
        now += ROUND_TRIP;
        pacer.handle_throttled(3_000, now, now);
    }
    assert!(pacer.least > 3.0 * LEAST_CARRY, "{}", pacer.least);
}

#[test]
fn a_packed_request_carries_no_less_than_is_billed() {
    let (mut pacer, mut now) = throttled(1);
    for number in 0..10_000 {
        // Half of every other request: a pace that falls to next to nothing.
        now += ROUND_TRIP;
        pacer.handle_sent(size(1_000), now, &mut fastrand::Rng::with_seed(number));
        pacer.handle_answer(500, 500 * usize::from(number % 2 == 0), now, now);
        pacer.trial = Trial::default();
    }
    let least = |pacer: &Pacer| pacer.bucket.as_ref().map(|bucket| bucket.burst / 2.0);
    assert!(pacer.pace() < Some(100.0) && least(&pacer) < Some(LEAST_CARRY + 1.0), "{pacer:?}");
    pacer.set_packed(true);
    pacer.handle_answer(500, 0, now, now);
    assert!(least(&pacer) >= Some(5_120.0), "{pacer:?}");
}

// R-Q7
#[test]
fn what_is_throttled_for_a_moment_or_in_part_makes_no_pace() {
    for (throttled, seconds) in [(1_000, 2), (350, 600)] {
        let (mut pacer, mut now) = (Pacer::default(), start());
        for _ in 0..10 * seconds {
            now += Duration::from_millis(100);
            pacer.handle_answer(1_000 - throttled, throttled, now - ROUND_TRIP, now);
        }
        assert_eq!(pacer.pace(), None, "{throttled} of 1,000 bytes for {seconds} s");
    }
}

/// Totals of a minute in which a request carried as much, and of whose records this part was throttled.
fn totals(carried: f64, throttled: f64) -> Option<Totals> {
    Some(Totals { used: Some(1.0), carried: Some(carried), throttled: Some(throttled) })
}

/// A fleet that has seen one calm minute of requests that carry as much.
fn told(carried: f64) -> Fleet {
    let mut fleet = Fleet::default();
    // Of a request of which something is throttled, 0.6 is, as long as nothing else is known.
    assert!(fleet.handle_totals(totals(carried, 0.6 * pace::ANCHOR_AIM), 1.0));
    fleet
}

// R-Q10
#[test]
fn what_a_request_of_the_stream_carries_tells_the_typical_pace() {
    for rate in [500.0, 1_000.0, 10_000.0, 1e6] {
        let carried = told(1.0).carry(rate);
        let anchor = told(carried).anchor().expect("an anchor").rate;
        assert!((anchor / rate - 1.0).abs() < 1e-6, "{anchor} of {rate}");
        // Of two bytes here one is sent.
        let mut fleet = Fleet::default();
        fleet.handle_totals(totals(carried / 2.0, 0.6 * pace::ANCHOR_AIM), 0.5);
        assert_eq!(fleet.anchor(), told(carried).anchor());
    }
}

#[test]
fn a_minute_of_overload_or_with_room_or_of_which_little_is_known_tells_nothing() {
    let calm = totals(2_000.0, 0.006);
    let unlike = |change: fn(&mut Totals)| {
        calm.map(|mut totals| {
            change(&mut totals);
            totals
        })
    };
    for other in [
        None,
        unlike(|totals| totals.carried = None),
        unlike(|totals| totals.throttled = None),
        unlike(|totals| totals.throttled = Some(0.5)),
        unlike(|totals| totals.throttled = Some(f64::NAN)),
        unlike(|totals| totals.carried = Some(0.0)),
        unlike(|totals| totals.used = Some(0.5)),
    ] {
        let mut fleet = told(2_000.0);
        assert!(fleet.handle_totals(other, 1.0) && fleet.anchor().is_none(), "{other:?}");
        // The next minute that is calm does.
        assert!(fleet.handle_totals(calm, 1.0) && fleet.anchor().is_some(), "{other:?}");
        assert!(!fleet.handle_totals(calm, 1.0), "the same minute counts once");
    }
}

// R-Q10
#[test]
fn the_anchor_follows_what_is_throttled_and_forgets_what_was_before() {
    let after = |fleet: &mut Fleet, minutes: u32, throttled: f64| {
        (0..minutes).for_each(|minute| {
            fleet.handle_totals(totals(2_000.0 + f64::from(minute) / 1e6, throttled), 1.0);
        });
        fleet.anchor().expect("an anchor").rate
    };
    let typical = told(2_000.0).anchor().expect("an anchor").rate;
    let (mut low, mut high) = (told(2_000.0), told(2_000.0));
    let (least, most) = (after(&mut low, 60, 0.009), after(&mut high, 100, 0.0));
    // Where requests all carry the least, the typical pace may be far below what they tell.
    assert!(least > 0.1 * typical && least < 0.3 * typical, "{least} of {typical}");
    assert!(most > 3.0 * typical && most < 8.0 * typical, "{most} of {typical}");
    let (one, other) = (after(&mut low, 60, 0.003), after(&mut high, 60, 0.003));
    assert!((one / other - 1.0).abs() < 0.05, "{one} and {other}");
}

#[test]
fn only_a_calm_minute_tells_which_part_of_a_request_is_throttled() {
    let anchor_after = |minute: Option<Totals>| {
        let mut fleet = Fleet::default();
        fleet.handle_totals(minute, 1.0);
        (0..100).for_each(|_| fleet.note_loss(1.0));
        fleet.handle_totals(totals(2_000.0, 0.006), 1.0);
        fleet.anchor().expect("an anchor").hits
    };
    assert!((anchor_after(totals(1_000.0, 0.5)) - 0.01).abs() < 1e-9);
    assert!(anchor_after(totals(1_000.0, 0.006)) < 0.008);
    // Of a packed one all is.
    let mut fleet = Fleet::default();
    fleet.set_packed(true);
    fleet.handle_totals(totals(2_000.0, 0.006), 1.0);
    assert!(fleet.anchor().is_some_and(|anchor| (anchor.hits - 0.006).abs() < 1e-9), "{fleet:?}");
}

// R-Q10
#[test]
fn paces_come_together_where_the_same_share_of_their_requests_is_throttled() {
    let mut random = fastrand::Rng::with_seed(1);
    let anchor = told(told(1.0).carry(2_000.0)).anchor();
    let mut ends = [300.0, 20_000.0].map(|rate| {
        let mut pace = Pace::new(rate, 0.1, 0.0);
        // It has settled where it is.
        pace.set_anchor(anchor, true);
        let all = (0..4_000).map(|_| {
            if random.f64() < pace::ANCHOR_AIM {
                pace.cut(0.6)
            } else {
                pace.grow()
            }
            pace.rate
        });
        all.skip(2_000).sum::<f64>() / 2_000.0
    });
    ends.sort_by(f64::total_cmp);
    assert!(ends[0] > 1_500.0 && ends[1] < 2_600.0, "{ends:?}");
}

#[test]
fn a_pace_that_has_not_settled_goes_to_the_anchor_unless_that_is_doubtful() {
    let mut fleet = told(told(1.0).carry(2_000.0));
    for (rate, expected) in [(100.0, 1_000.0), (3_000.0, 3_000.0), (1e6, 4_000.0)] {
        let mut pace = Pace::new(rate, 0.9, 1e6);
        pace.set_anchor(fleet.anchor(), fleet.is_doubtful(rate));
        assert!((pace.rate - expected).abs() < 1.0, "{pace:?}");
    }
    // Its own requests carry as much as everyone's, which is more than its pace asks for.
    (0..50).for_each(|_| fleet.note_held(told(1.0).carry(2_000.0)));
    assert!(fleet.is_doubtful(100.0) && !fleet.is_doubtful(2_000.0));
}

#[test]
fn who_comes_to_a_fleet_begins_no_higher_than_twice_the_typical_pace() {
    let (mut pacer, mut now, mut random) = (Pacer::default(), start(), fastrand::Rng::with_seed(1));
    pacer.handle_totals(totals(told(1.0).carry(2_000.0), 0.006), 1.0);
    // An overload takes that from nobody.
    pacer.handle_totals(totals(2_000.0, 0.5), 1.0);
    while pacer.pace().is_none() {
        pacer.handle_sent(size(150_000), now, &mut random);
        now += FIRST.2 / FIRST.1;
        pacer.handle_answer(75_000, 75_000, now - ROUND_TRIP, now);
    }
    assert!(pacer.pace() < Some(4_001.0), "{pacer:?}");
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
        2 => (0_usize..=100).prop_map(Step::Answer),
        1 => Just(Step::Throttled),
    ];
    prop::collection::vec(step, 1..300)
}

/// A pacer and the requests that it let through.
struct Run {
    pacer: Pacer,
    random: fastrand::Rng,
    now: Instant,
    under_way: VecDeque<(Size, Instant)>,
    /// Of those sent while there was a pace: bytes, the largest record, the time.
    sent: Vec<(usize, usize, Instant)>,
    /// The highest pace and burst since then.
    most: (f64, f64),
}

impl Run {
    fn new(now: Instant) -> Self {
        let (pacer, random) = (Pacer::default(), fastrand::Rng::with_seed(7));
        Self { pacer, random, now, under_way: VecDeque::new(), sent: Vec::new(), most: (0.0, 0.0) }
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Wait(millis) => self.now += Duration::from_millis(*millis),
            Step::Send(record) => {
                let (carry, now) = until_room(&self.pacer, self.now);
                let records = (carry / record).clamp(1, 500);
                let request = Size { records, bytes: records * record };
                self.now = now;
                self.pacer.handle_sent(request, now, &mut self.random);
                self.under_way.push_back((request, now));
                if self.pacer.pace().is_some() {
                    self.sent.push((request.bytes, *record, now));
                }
            }
            Step::Answer(part) => {
                let Some((request, sent)) = self.under_way.pop_front() else { return };
                let each = request.bytes / request.records;
                let throttled = request.records * part / 100 * each;
                self.pacer.handle_answer(request.bytes - throttled, throttled, sent, self.now);
            }
            Step::Throttled => {
                let Some((request, sent)) = self.under_way.pop_front() else { return };
                self.pacer.handle_throttled(request.bytes, sent, self.now);
            }
        }
        match &self.pacer.bucket {
            Some(Bucket { per_second, burst, .. }) => {
                self.most = (self.most.0.max(*per_second), self.most.1.max(*burst));
            }
            None => {
                self.sent.clear();
                self.most = (0.0, 0.0);
            }
        }
    }
}

proptest! {
    #[test]
    fn nothing_is_delayed_while_nothing_is_throttled(steps in steps()) {
        let mut run = Run::new(start());
        for step in steps {
            if let Step::Answer(_) | Step::Throttled = step {
                run.step(&Step::Answer(0));
            } else {
                run.step(&step);
            }
            prop_assert_eq!(run.pacer.poll_room(run.now), Size::ANYTHING);
            prop_assert_eq!(run.pacer.poll_timeout(run.now), None);
        }
    }

    #[test]
    fn over_any_time_no_more_leaves_than_the_highest_pace_allows(steps in steps()) {
        let mut run = Run::new(start());
        (0..=2 * FIRST.1).for_each(|_| {
            run.step(&Step::Send(10_000));
            run.step(&Step::Wait(1_000));
            run.step(&Step::Answer(50));
        });
        prop_assert!(run.pacer.pace().is_some());
        steps.iter().for_each(|step| run.step(step));
        let (pace, burst) = run.most;
        for (first, (_, _, from)) in run.sent.iter().enumerate() {
            let (mut all, mut largest) = (0, 0);
            for (bytes, record, at) in &run.sent[first..] {
                all += bytes;
                largest = largest.max(*record);
                let allowed = pace * (*at - *from).as_secs_f64() + burst + largest as f64 + 1.0;
                prop_assert!(all as f64 <= allowed, "{all} of {allowed}");
            }
        }
    }

    #[test]
    fn the_timeout_always_leads_to_room(steps in steps()) {
        let mut run = Run::new(start());
        for step in &steps {
            run.step(step);
            until_room(&run.pacer, run.now);
        }
    }

    #[test]
    fn no_size_and_no_order_of_times_upsets_it(
        steps in prop::collection::vec((0..5, any::<u32>(), any::<usize>(), any::<usize>()), 1..200),
    ) {
        let (base, mut random) = (start(), fastrand::Rng::with_seed(3));
        let mut pacer = Pacer::default();
        for (what, millis, one, other) in steps {
            let now = base + Duration::from_millis(millis.into());
            match what {
                0 => pacer.set_packed(one % 2 == 0),
                1 => pacer.handle_sent(Size { records: 1, bytes: one >> 2 }, now, &mut random),
                2 => pacer.handle_answer(one >> 2, other >> 2, base, now),
                3 => {
                    let [used, carried, throttled] =
                        [one, other, one ^ other].map(|bits| Some(f64::from_bits(bits as u64)));
                    pacer.handle_totals(Some(Totals { used, carried, throttled }), f64::from(millis));
                }
                _ => pacer.handle_throttled(one >> 2, now, now),
            }
            prop_assert!(pacer.poll_room(now).bytes > 0);
            prop_assert!(pacer.poll_timeout(now).is_none_or(|at| at > now));
            prop_assert!(pacer.pace().is_none_or(|pace| (64.0..=1e12).contains(&pace)), "{:?}", pacer.pace());
        }
    }
}
