use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::budget::Reservation;

const LINGER: Duration = Duration::from_millis(100);

fn limits(records: usize, bytes: usize) -> Limits {
    Limits { records, bytes, linger: LINGER }
}

/// A chunk of records of the given sizes, each filled with its own number from `first` on.
fn chunk(sizes: &[usize], first: u64, received: Instant) -> Chunk {
    let (mut bytes, mut ends) = (Vec::new(), Vec::new());
    for (number, size) in (first..).zip(sizes) {
        let mut record = number.to_le_bytes().to_vec();
        record.resize((*size).max(8), 0);
        bytes.extend(record);
        ends.push(u32::try_from(bytes.len()).unwrap());
    }
    Chunk::new(Bytes::from(bytes), ends.into(), received, Reservation::none())
}

fn numbers(batch: &Batch) -> Vec<u64> {
    let records = batch.portions.iter().flat_map(|portion| portion.span.iter());
    records.map(|record| u64::from_le_bytes(record[..8].try_into().unwrap())).collect()
}

/// Epoch of made-up time.
#[expect(clippy::disallowed_methods, reason = "an Instant can't be made up from nothing")]
fn start() -> Instant {
    Instant::now()
}

// R-B2
#[test]
fn a_batch_leaves_when_it_has_its_records_and_not_one_sooner() {
    let now = start();
    let mut batcher = Batcher::new(limits(5, 1000));
    batcher.handle_chunk(chunk(&[10; 4], 0, now));
    assert!(batcher.poll_batch(now).is_none());
    batcher.handle_chunk(chunk(&[10; 3], 4, now));
    assert_eq!(numbers(&batcher.poll_batch(now).unwrap()), [0, 1, 2, 3, 4]);
    assert!(batcher.poll_batch(now).is_none());
    assert_eq!(batcher.held(), Size { records: 2, bytes: 20 });
}

// R-B1
#[test]
fn a_batch_leaves_at_its_bytes_and_never_above_them() {
    let now = start();
    let check = |sizes: &[usize], expected: &[&[u64]]| {
        let mut batcher = Batcher::new(limits(500, 100));
        batcher.handle_chunk(chunk(sizes, 0, now));
        let batches: Vec<_> =
            std::iter::from_fn(|| batcher.poll_batch(now).map(|batch| numbers(&batch))).collect();
        assert_eq!(batches, expected, "{sizes:?}");
    };
    check(&[99], &[]);
    check(&[100], &[&[0]]);
    check(&[50, 49], &[]);
    check(&[50, 50], &[&[0, 1]]);
    check(&[50, 51], &[&[0]]);
    check(&[300, 8, 99], &[&[0], &[1]]);
}

// R-Q1
#[test]
fn what_a_batch_may_carry_cuts_it_and_does_not_make_it_ready() {
    let now = start();
    let most = |records, bytes| Size { records, bytes };
    let check = |sizes: &[usize], most: Size, expected: &[&[u64]]| {
        let mut batcher = Batcher::new(limits(6, 100));
        batcher.handle_chunk(chunk(sizes, 0, now));
        assert!(batcher.poll_batch_within(now, most).is_none(), "{sizes:?} is not ready for being enough");
        batcher.handle_flush();
        let batches: Vec<_> =
            std::iter::from_fn(|| batcher.poll_batch_within(now, most).map(|batch| numbers(&batch)))
                .collect();
        assert_eq!(batches, expected, "{sizes:?}");
    };
    check(&[10; 5], most(2, 1000), &[&[0, 1], &[2, 3], &[4]]);
    check(&[10; 5], most(9, 30), &[&[0, 1, 2], &[3, 4]]);
    check(&[10; 5], most(9, 9), &[&[0], &[1], &[2], &[3], &[4]]);
    check(&[10, 80], most(0, 0), &[&[0], &[1]]);
    check(&[10; 5], Size::ANYTHING, &[&[0, 1, 2, 3, 4]]);
}

// R-Q1
#[test]
fn the_records_that_a_packed_batch_may_carry_are_those_of_firehose() {
    let now = start();
    let mut batcher = Batcher::new(limits(500, 100_000));
    batcher.set_packing(Some(Packing { max_record: 30, max_lines: 10 }));
    batcher.handle_chunk(chunk(&[10; 20], 0, now));
    batcher.handle_flush();
    let mut next = |records, bytes| {
        let batch = batcher.poll_batch_within(now, Size { records, bytes }).unwrap();
        (batch.entries(), batch.size.records)
    };
    assert_eq!(next(2, 1000), (2, 6));
    assert_eq!(next(500, 50), (2, 5));
    assert_eq!(next(1, usize::MAX), (1, 3));
    assert_eq!(next(500, usize::MAX), (2, 6));
}

// R-B2
#[test]
fn the_oldest_record_waits_for_linger_to_the_instant() {
    let now = start();
    let mut batcher = Batcher::new(limits(500, 1000));
    batcher.handle_chunk(chunk(&[10], 0, now));
    batcher.handle_chunk(chunk(&[10], 1, now + LINGER / 2));
    assert_eq!(batcher.poll_timeout(), Some(now + LINGER));
    assert!(batcher.poll_batch(now + LINGER - Duration::from_nanos(1)).is_none());
    assert_eq!(numbers(&batcher.poll_batch(now + LINGER).unwrap()), [0, 1]);
    assert_eq!(batcher.poll_timeout(), None);
}

// R-B2
#[test]
fn a_flush_sends_what_is_here_and_nothing_that_comes_later() {
    let now = start();
    let mut batcher = Batcher::new(limits(2, 1000));
    batcher.handle_chunk(chunk(&[10; 3], 0, now));
    batcher.handle_flush();
    assert_eq!(numbers(&batcher.poll_batch(now).unwrap()), [0, 1]);
    assert_eq!(numbers(&batcher.poll_batch(now).unwrap()), [2]);
    batcher.handle_chunk(chunk(&[10], 3, now));
    assert!(batcher.poll_batch(now).is_none());
}

// R-E13
#[test]
fn a_retry_rides_at_the_head_of_the_next_batch_once_it_is_due() {
    let now = start();
    let due = now + Duration::from_millis(10);
    let mut batcher = Batcher::new(limits(3, 1000));
    batcher.handle_chunk(chunk(&[10; 3], 0, now));
    let failed = batcher.poll_batch(now).unwrap();
    let one = failed.portions[0].span.record(1).unwrap();
    batcher.handle_retry(vec![Portion { span: one, tries: Tries { failures: 1, ..Tries::default() } }], due);
    batcher.handle_chunk(chunk(&[10; 4], 3, now));
    assert_eq!(numbers(&batcher.poll_batch(now).unwrap()), [3, 4, 5]);
    assert_eq!(batcher.poll_timeout(), Some(due));
    assert!(batcher.poll_batch(now).is_none());
    let batch = batcher.poll_batch(due).unwrap();
    assert_eq!(numbers(&batch), [1, 6]);
    assert_eq!(batch.portions[0].tries.failures, 1);
}

// R-E13
#[test]
fn a_returned_batch_goes_first_and_whole() {
    let now = start();
    let mut batcher = Batcher::new(limits(2, 1000));
    batcher.handle_chunk(chunk(&[10; 5], 0, now));
    let first = batcher.poll_batch(now).unwrap();
    let second = batcher.poll_batch(now).unwrap();
    batcher.handle_return(second);
    batcher.handle_return(first);
    batcher.handle_flush();
    let batches: Vec<_> =
        std::iter::from_fn(|| batcher.poll_batch(now).map(|batch| numbers(&batch))).collect();
    assert_eq!(batches, [vec![0, 1], vec![2, 3], vec![4]]);
}

// R-E9
#[test]
fn the_halves_of_a_refused_batch_go_as_they_are() {
    let now = start();
    let mut batcher = Batcher::new(limits(4, 1000));
    batcher.handle_chunk(chunk(&[10; 4], 0, now));
    let (front, back) = batcher.poll_batch(now).unwrap().split().unwrap();
    batcher.handle_chunk(chunk(&[10; 4], 4, now));
    batcher.handle_fixed(back);
    batcher.handle_fixed(front);
    let batches: Vec<_> =
        std::iter::from_fn(|| batcher.poll_batch(now).map(|batch| numbers(&batch))).collect();
    assert_eq!(batches, [vec![0, 1], vec![2, 3], vec![4, 5, 6, 7]]);
}

#[test]
fn pressure_gives_up_the_oldest_that_were_never_sent() {
    let now = start();
    let mut batcher = Batcher::new(limits(2, 1000));
    batcher.handle_chunk(chunk(&[10; 2], 0, now));
    let sent = batcher.poll_batch(now).unwrap();
    batcher.handle_return(sent);
    for first in [2, 3, 4] {
        batcher.handle_chunk(chunk(&[10], first, now));
    }
    let given: usize = batcher.handle_pressure(15).iter().map(Span::bytes).sum();
    assert_eq!(given, 20);
    assert_eq!(numbers(&batcher.poll_batch(now).unwrap()), [0, 1]);
    batcher.handle_flush();
    assert_eq!(numbers(&batcher.poll_batch(now).unwrap()), [4]);
    assert!(batcher.handle_pressure(15).is_empty());
}

/// The numbers in each packed record of a batch.
fn packed_numbers(batch: &Batch) -> Vec<Vec<u64>> {
    let (_, ends) = batch.packed.as_ref().unwrap();
    let mut start = 0;
    ends.iter()
        .map(|end| {
            let portions = batch.portions[start..*end as usize].to_vec();
            start = *end as usize;
            numbers(&Batch::new(portions))
        })
        .collect()
}

// R-A2
#[test]
fn records_of_several_chunks_share_a_packed_record_up_to_its_bytes_and_lines() {
    let now = start();
    let mut batcher = Batcher::new(limits(3, 1000));
    batcher.set_packing(Some(Packing { max_record: 50, max_lines: 4 }));
    batcher.handle_chunk(chunk(&[10, 10], 0, now));
    batcher.handle_chunk(chunk(&[10, 25, 60, 8], 2, now));
    // Five lines of the least size, of which four fit.
    batcher.handle_chunk(chunk(&[8; 5], 6, now));
    batcher.handle_flush();
    let batch = batcher.poll_batch(now).unwrap();
    // 30 bytes, for 25 more would be too many; 25, for 60 more would be; 60, longer than it may be.
    assert_eq!(packed_numbers(&batch), [vec![0, 1, 2], vec![3], vec![4]]);
    assert_eq!((batch.entries(), batch.size.records), (3, 5));
    let batch = batcher.poll_batch(now).unwrap();
    assert_eq!(packed_numbers(&batch), [vec![5, 6, 7, 8], vec![9, 10]]);
    assert_eq!(batcher.held(), Size::default());
}

// R-A2
#[test]
fn a_packed_batch_waits_for_bytes_and_not_for_as_many_records_as_one_that_is_not() {
    let now = start();
    let mut batcher = Batcher::new(limits(2, 100));
    batcher.set_packing(Some(Packing { max_record: 100, max_lines: usize::MAX }));
    batcher.handle_chunk(chunk(&[10; 9], 0, now));
    assert!(batcher.poll_batch(now).is_none());
    batcher.handle_chunk(chunk(&[10], 9, now));
    assert_eq!(packed_numbers(&batcher.poll_batch(now).unwrap()), [(0..10).collect::<Vec<_>>()]);
}

// R-B2
#[test]
fn a_batch_is_full_at_as_many_bytes_as_it_is_told_to_be_within_the_limits() {
    let now = start();
    let mut batcher = Batcher::new(limits(100, 100));
    let mut first = 0;
    let mut taken = |batcher: &mut Batcher, records: usize| {
        batcher.handle_chunk(chunk(&vec![10; records], first, now));
        first += records as u64;
        std::iter::from_fn(|| batcher.poll_batch(now)).map(|batch| batch.size.records).collect::<Vec<_>>()
    };
    batcher.set_full(40, 1);
    assert_eq!(taken(&mut batcher, 3), [0; 0]);
    assert_eq!(taken(&mut batcher, 7), [4, 4], "two are left");
    batcher.set_full(usize::MAX, 1);
    assert_eq!(taken(&mut batcher, 7), [0; 0]);
    assert_eq!(taken(&mut batcher, 12), [10, 10], "the limit");
}

// R-B2
#[test]
fn where_two_leave_together_the_first_is_not_full_before_the_second() {
    let now = start();
    let mut batcher = Batcher::new(limits(20, 1000));
    let mut first = 0;
    let mut arrive = |batcher: &mut Batcher, records: usize| {
        batcher.handle_chunk(chunk(&vec![10; records], first, now));
        first += records as u64;
    };
    let all = |batcher: &mut Batcher, at, most| {
        std::iter::from_fn(|| batcher.poll_batch_within(at, most))
            .map(|batch| batch.size.records)
            .collect::<Vec<_>>()
    };
    batcher.set_full(40, 2);
    arrive(&mut batcher, 7);
    assert_eq!(all(&mut batcher, now, Size::ANYTHING), [0; 0]);
    arrive(&mut batcher, 1);
    assert_eq!(all(&mut batcher, now, Size::ANYTHING), [4, 4]);
    arrive(&mut batcher, 7);
    assert_eq!(all(&mut batcher, now, Size::ANYTHING), [0; 0], "the second had its first");
    assert_eq!(all(&mut batcher, now + LINGER, Size::ANYTHING), [4, 3], "for the time that they waited");
    arrive(&mut batcher, 8);
    assert_eq!(batcher.together(), 2);
    let first = batcher.poll_batch(now).unwrap();
    assert_eq!((first.size.records, batcher.together()), (4, 1), "the second is all that is left of them");
    batcher.handle_fixed(first);
    assert_eq!(batcher.together(), 1);
    assert_eq!(batcher.poll_batch(now).unwrap().size.records, 4, "it goes as it is, and by itself");
    batcher.set_full(30, 1);
    assert_eq!(all(&mut batcher, now, Size::ANYTHING), [3], "the second goes by what is full now");
    arrive(&mut batcher, 19);
    assert_eq!(all(&mut batcher, now, Size { bytes: 20, ..Size::ANYTHING })[..3], [2; 3], "as it is paced");
}

proptest! {
    // R-A2
    #[test]
    fn packing_keeps_every_record_in_order_and_its_limits(
        sizes in prop::collection::vec(prop::collection::vec(8_usize..60, 1..8), 1..8),
        max_record in 8_usize..200,
        max_lines in 1_usize..6,
    ) {
        let now = start();
        let packing = Packing { max_record, max_lines };
        let mut first = 0;
        let portions: Vec<Portion> = sizes.iter().map(|sizes| {
            let span = Span::whole(Arc::new(chunk(sizes, first, now))).unwrap();
            first += sizes.len() as u64;
            Portion { span, tries: Tries::default() }
        }).collect();
        let batch = Batch::packed(portions, packing);
        let packed = packed_numbers(&batch);
        prop_assert_eq!(packed.concat(), (0..first).collect::<Vec<_>>());
        let sizes: Vec<usize> = sizes.concat();
        let bytes = |records: &[u64]| records.iter().map(|number| sizes[usize::try_from(*number).unwrap()]).sum::<usize>();
        for (index, records) in packed.iter().enumerate() {
            prop_assert!(records.len() <= max_lines);
            prop_assert!(bytes(records) <= max_record || records.len() == 1);
            // As few as can be: the first of the next would not have fitted.
            if let Some(next) = packed.get(index + 1) {
                let more = [records.as_slice(), &next[..1]].concat();
                prop_assert!(more.len() > max_lines || bytes(&more) > max_record);
            }
        }
        if batch.size.records > 1 {
            let (front, back) = batch.split().unwrap();
            let both = [packed_numbers(&front), packed_numbers(&back)].concat().concat();
            prop_assert_eq!(both, (0..first).collect::<Vec<_>>());
        }
    }
}

/// What happens to a batcher in the model test.
#[derive(Debug, Clone)]
enum Step {
    Chunk(Vec<usize>),
    Advance(u64),
    Flush,
    /// Polls; each record of the batch then fails if its number is divisible by this.
    Send(u64),
    Refuse,
    Return,
    /// Batches are to stay within so many records and bytes from now on.
    Within(usize, usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => proptest::collection::vec(8usize..40, 1..12).prop_map(Step::Chunk),
        2 => (0u64..150).prop_map(Step::Advance),
        1 => Just(Step::Flush),
        6 => (1u64..8).prop_map(Step::Send),
        1 => Just(Step::Refuse),
        1 => Just(Step::Return),
        1 => (1usize..9, 1usize..120).prop_map(|(records, bytes)| Step::Within(records, bytes)),
    ]
}

proptest! {
    // R-B1, R-Q1
    #[test]
    fn every_record_comes_out_once_in_legal_batches(steps in proptest::collection::vec(step(), 0..60)) {
        let limits = limits(7, 90);
        let mut batcher = Batcher::new(limits);
        let (mut now, mut next, mut delivered) = (start(), 0u64, Vec::new());
        let (mut held, mut most) = (0, Size::ANYTHING);
        for step in steps.into_iter().chain((0..400).flat_map(|_| [Step::Flush, Step::Advance(1000), Step::Send(0)])) {
            match step {
                Step::Chunk(sizes) => {
                    batcher.handle_chunk(chunk(&sizes, next, now));
                    next += sizes.len() as u64;
                    held += sizes.len();
                }
                Step::Advance(millis) => now += Duration::from_millis(millis),
                Step::Flush => batcher.handle_flush(),
                Step::Within(records, bytes) => most = Size { records, bytes },
                Step::Send(_) | Step::Refuse | Step::Return => {
                    // The half of a batch that was refused goes as it is.
                    let cut = batcher.fixed.is_empty();
                    let expected = batcher.poll_ready_within(now, most);
                    let batch = batcher.poll_batch_within(now, most);
                    prop_assert_eq!(expected.is_some(), batch.is_some());
                    let Some(batch) = batch else { continue };
                    let expected = expected.unwrap();
                    prop_assert!(batch.size.records <= expected.records && batch.size.bytes <= expected.bytes);
                    prop_assert!(batch.size.records >= 1 && batch.size.records <= limits.records);
                    prop_assert!(batch.size.bytes <= limits.bytes || batch.size.records == 1);
                    prop_assert!(!cut || batch.size.records <= most.records);
                    prop_assert!(!cut || batch.size.bytes <= most.bytes || batch.size.records == 1);
                    match step {
                        Step::Refuse => match batch.split() {
                            Ok((front, back)) => {
                                batcher.handle_fixed(back);
                                batcher.handle_fixed(front);
                            }
                            Err(batch) => batcher.handle_return(batch),
                        },
                        Step::Send(fail) => {
                            let mut failed = Vec::new();
                            for portion in &batch.portions {
                                for index in 0..portion.span.records() {
                                    let span = portion.span.record(index).unwrap();
                                    let number = numbers(&Batch::new(vec![Portion { span: span.clone(), tries: portion.tries }]))[0];
                                    let tries = Tries { failures: portion.tries.failures + 1, ..portion.tries };
                                    if fail > 0 && number.is_multiple_of(fail) && tries.failures < 3 {
                                        failed.push(Portion { span, tries });
                                    } else {
                                        delivered.push(number);
                                        held -= 1;
                                    }
                                }
                            }
                            if !failed.is_empty() {
                                batcher.handle_retry(failed, now + Duration::from_millis(30));
                            }
                        }
                        Step::Chunk(_) | Step::Advance(_) | Step::Flush | Step::Within(..) | Step::Return => batcher.handle_return(batch),
                    }
                }
            }
            prop_assert_eq!(batcher.held().records, held);
        }
        delivered.sort_unstable();
        prop_assert_eq!(delivered, (0..next).collect::<Vec<_>>());
    }
}
