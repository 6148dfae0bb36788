//! What becomes of each record of an attempt: pure.

use std::borrow::Cow;

use crate::batcher::{Batch, Portion, Size, Tries};
use crate::firehose::{Answer, Class, FailedEntry};
use crate::limits::billed_bytes;
use crate::record::Span;

/// What an answer means, record by record.
#[derive(Debug, Default)]
pub struct Verdicts {
    /// Records that Firehose has, in order.
    pub delivered: Vec<Span>,
    /// Records to send again, in groups that share their wait.
    pub retries: Vec<Retry>,
    /// Records whose own retries are spent.
    pub spent: Vec<Spent>,
    /// Bytes that Firehose bills for what was delivered.
    pub billed_bytes: u64,
    /// The same, had every record been sent by itself.
    pub unpacked_billed_bytes: u64,
    /// Bytes of the records of what was delivered compressed, and of what was sent for them.
    pub compressed_from: u64,
    /// See `compressed_from`.
    pub compressed_to: u64,
    /// Bytes of the records that were throttled.
    pub throttled_bytes: usize,
    /// Whether every entry was throttled: the stream's quota is gone, not a record's luck.
    pub all_throttled: bool,
}

/// Records that failed the same way as often.
#[derive(Debug)]
pub struct Retry {
    /// The records, their [`Tries`] brought up to date.
    pub portions: Vec<Portion>,
    /// Failures so far, the exponent of their backoff.
    pub failures: u32,
    /// The service's code.
    pub code: Cow<'static, str>,
}

/// Records that will not be tried again.
#[derive(Debug)]
pub struct Spent {
    /// The records.
    pub portion: Portion,
    /// The service's code of the last failure.
    pub code: Cow<'static, str>,
}

// snippet-start:[firehose.rust.hydrant.verdicts]
/// Reads an answer against the batch that it answers.
///
/// An entry that was throttled does not spend its record's retries; any other failure of an entry
/// does, and more than `max_retries` of them end it. Entries that fail in one answer after as many
/// failures with one code share one wait, so that one batch carries their next try.
///
/// `members` are the sizes of what was sent for each entry, where that was compressed.
#[must_use]
pub fn read(batch: Batch, answer: &Answer, max_retries: u32, members: Option<&[usize]>) -> Verdicts {
    let mut verdicts = Verdicts {
        all_throttled: answer.failed.len() == batch.entries()
            && answer.failed.iter().all(|failed| failed.class == Class::Throttled),
        ..Verdicts::default()
    };
    let mut failed = answer.failed.iter().peekable();
    if let Some((_, ends)) = &batch.packed {
        let mut portions = batch.portions.into_iter();
        let mut start = 0;
        for (index, end) in ends.iter().enumerate() {
            let packed: Vec<Portion> = portions.by_ref().take((*end - start) as usize).collect();
            start = *end;
            match failed.next_if(|entry| entry.index == index) {
                Some(entry) => verdicts.fail_packed(packed, entry, max_retries),
                None => {
                    verdicts.deliver_packed(packed, members.and_then(|members| members.get(index).copied()))
                }
            }
        }
        return verdicts;
    }
    let mut first = 0;
    for Portion { mut span, mut tries } in batch.portions {
        tries.attempts += 1;
        let end = first + span.records();
        while let Some(entry) = failed.next_if(|entry| entry.index < end) {
            // Everything before the failed entry was delivered.
            if entry.index > first
                && let Some((delivered, _)) = span.split_front(entry.index - first, usize::MAX)
            {
                verdicts.deliver(delivered);
            }
            if let Some((record, _)) = span.split_front(1, usize::MAX) {
                verdicts.fail(Portion { span: record, tries }, entry, max_retries);
            }
            first = entry.index + 1;
        }
        if first < end {
            verdicts.deliver(span);
        }
        first = end;
    }
    verdicts
}
// snippet-end:[firehose.rust.hydrant.verdicts]

impl Verdicts {
    /// Records of which each was a record of Firehose by itself.
    fn deliver(&mut self, span: Span) {
        let billed = unpacked(&span);
        self.billed_bytes += billed;
        self.unpacked_billed_bytes += billed;
        self.delivered.push(span);
    }

    /// Records that were one record of Firehose.
    fn deliver_packed(&mut self, packed: Vec<Portion>, member: Option<usize>) {
        let bytes: usize = packed.iter().map(|portion| portion.span.bytes()).sum();
        self.billed_bytes += billed_bytes(count(member.unwrap_or(bytes)));
        if let Some(member) = member {
            self.compressed_from += count(bytes);
            self.compressed_to += count(member);
        }
        for Portion { span, .. } in packed {
            self.unpacked_billed_bytes += unpacked(&span);
            self.delivered.push(span);
        }
    }

    fn fail_packed(&mut self, packed: Vec<Portion>, entry: &FailedEntry, max_retries: u32) {
        for Portion { span, mut tries } in packed {
            tries.attempts += 1;
            self.fail(Portion { span, tries }, entry, max_retries);
        }
    }

    fn fail(&mut self, mut portion: Portion, entry: &FailedEntry, max_retries: u32) {
        let Tries { own_failures, failures, .. } = &mut portion.tries;
        *failures += 1;
        match entry.class {
            Class::Throttled => self.throttled_bytes += portion.span.bytes(),
            Class::Transient | Class::Permanent | Class::Refused => *own_failures += 1,
        }
        if *own_failures > max_retries {
            self.spent.push(Spent { portion, code: entry.code.clone() });
            return;
        }
        let failures = *failures;
        let group =
            self.retries.iter_mut().find(|retry| retry.failures == failures && retry.code == entry.code);
        match group {
            Some(retry) => retry.portions.push(portion),
            None => self.retries.push(Retry { portions: vec![portion], failures, code: entry.code.clone() }),
        }
    }

    /// Records and bytes delivered.
    #[must_use]
    pub fn delivered_size(&self) -> Size {
        self.delivered.iter().fold(Size::default(), |mut size, span| {
            size += Size { records: span.records(), bytes: span.bytes() };
            size
        })
    }
}

/// Bytes that Firehose bills for records that are sent each by itself.
fn unpacked(span: &Span) -> u64 {
    span.iter().map(|record| billed_bytes(count(record.len()))).sum()
}

fn count(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Instant;

    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::budget::Reservation;
    use crate::record::Chunk;

    #[expect(clippy::disallowed_methods, reason = "an Instant can't be made up from nothing")]
    fn batch(chunks: &[u8]) -> Batch {
        let mut number = 0u8;
        let portions = chunks.iter().map(|records| {
            let bytes: Vec<u8> = (number..number + records).collect();
            number += records;
            let ends = (1..=u32::from(*records)).collect();
            let chunk = Chunk::new(Bytes::from(bytes), ends, Instant::now(), Reservation::none());
            Portion { span: Span::whole(Arc::new(chunk)).unwrap(), tries: Tries::default() }
        });
        Batch::new(portions.collect())
    }

    fn numbers<'a>(spans: impl IntoIterator<Item = &'a Span>) -> Vec<u8> {
        spans.into_iter().flat_map(|span| span.iter().map(|record| record[0]).collect::<Vec<_>>()).collect()
    }

    fn failing(entries: &[(usize, Class)]) -> Answer {
        let failed = entries.iter().map(|(index, class)| {
            let code =
                if *class == Class::Throttled { "ServiceUnavailableException" } else { "InternalFailure" };
            FailedEntry { index: *index, class: *class, code: code.into() }
        });
        Answer { failed: failed.collect(), record_id: None }
    }

    // R-E1
    #[test]
    fn exactly_the_failed_entries_are_sent_again() {
        let answer = failing(&[(0, Class::Throttled), (3, Class::Throttled), (4, Class::Throttled)]);
        let verdicts = read(batch(&[2, 3, 1]), &answer, 5, None);
        assert_eq!(numbers(&verdicts.delivered), [1, 2, 5]);
        assert_eq!(verdicts.retries.len(), 1);
        assert_eq!(numbers(verdicts.retries[0].portions.iter().map(|portion| &portion.span)), [0, 3, 4]);
        assert!(!verdicts.all_throttled);
    }

    // R-A4
    #[test]
    fn the_records_of_a_packed_record_share_its_fate_and_are_counted_one_by_one() {
        let packing = crate::batcher::Packing { max_record: 100, max_lines: 2 };
        let packed = || Batch::packed(batch(&[3, 2, 1]).portions, packing);
        assert_eq!(packed().entries(), 3);
        let verdicts = read(packed(), &failing(&[(1, Class::Throttled)]), 5, None);
        assert_eq!(numbers(&verdicts.delivered), [0, 1, 4, 5]);
        let retried = verdicts.retries[0].portions.iter().map(|portion| &portion.span);
        assert_eq!(numbers(retried), [2, 3]);
        assert!(verdicts.retries[0].portions.iter().all(|portion| portion.tries.attempts == 1));
        // Two records of Firehose, of 5 KiB at least, instead of four.
        assert_eq!((verdicts.billed_bytes, verdicts.unpacked_billed_bytes), (2 * 5120, 4 * 5120));
        assert_eq!((verdicts.compressed_from, verdicts.compressed_to), (0, 0));
        let all: Vec<_> = (0..3).map(|index| (index, Class::Throttled)).collect();
        assert!(read(packed(), &failing(&all), 5, None).all_throttled);
    }

    // R-A9
    #[test]
    fn what_is_billed_is_what_was_sent_and_not_what_is_in_it() {
        let packing = crate::batcher::Packing { max_record: 100, max_lines: 2 };
        let packed = Batch::packed(batch(&[3, 2, 1]).portions, packing);
        let answer = failing(&[(1, Class::Throttled)]);
        let bytes: usize = packed.portions.iter().map(|portion| portion.span.bytes()).sum();
        let verdicts = read(packed, &answer, 5, Some(&[5121, 9_999_999, 7]));
        assert_eq!((verdicts.billed_bytes, verdicts.unpacked_billed_bytes), (3 * 5120, 4 * 5120));
        assert_eq!(verdicts.compressed_to, 5128);
        // Every record of the batch has as many bytes.
        assert_eq!(verdicts.compressed_from, count(bytes / 6 * 4));
    }

    // R-E3
    #[test]
    fn a_records_own_failures_spend_its_retries_and_throttling_does_not() {
        let check = |class: Class, max_retries: u32, expected: Option<u32>| {
            let mut portion = batch(&[1]).portions.remove(0);
            for attempt in 1..=20 {
                let mut verdicts =
                    read(Batch::new(vec![portion]), &failing(&[(0, class)]), max_retries, None);
                if let Some(spent) = verdicts.spent.pop() {
                    assert_eq!((Some(attempt), spent.portion.tries.attempts), (expected, attempt));
                    return;
                }
                let mut retry = verdicts.retries.remove(0);
                assert_eq!(retry.failures, attempt);
                portion = retry.portions.remove(0);
            }
            assert_eq!(expected, None);
        };
        check(Class::Transient, 5, Some(6));
        check(Class::Transient, 0, Some(1));
        check(Class::Throttled, 5, None);
    }

    proptest! {
        // R-E1
        #[test]
        fn every_record_gets_one_verdict_by_its_entry(
            chunks in proptest::collection::vec(1u8..8, 1..6),
            failed in proptest::collection::btree_set(0usize..40, 0..40),
        ) {
            let batch = batch(&chunks);
            let total = batch.size.records;
            let failed: Vec<usize> = failed.into_iter().filter(|index| *index < total).collect();
            let entries: Vec<_> = failed.iter().map(|index| (*index, Class::Throttled)).collect();
            let verdicts = read(batch, &failing(&entries), 5, None);
            let again = verdicts.retries.iter().flat_map(|retry| retry.portions.iter().map(|portion| &portion.span));
            let again: Vec<usize> = numbers(again).into_iter().map(usize::from).collect();
            let delivered: Vec<usize> = numbers(&verdicts.delivered).into_iter().map(usize::from).collect();
            prop_assert_eq!(&again, &failed);
            prop_assert_eq!(delivered, (0..total).filter(|index| !failed.contains(index)).collect::<Vec<_>>());
            prop_assert_eq!(verdicts.all_throttled, failed.len() == total);
        }
    }
}
