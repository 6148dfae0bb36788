//! Which sequences are settled, in memory and as a slot of the watermark's file.
//!
//! Records settle out of order, since batches finish out of order. All below the *low watermark*
//! are settled; above it lie settled ranges. Ranges that touch are one, so there are at most as
//! many as there are gaps, and each gap is a record that somebody still holds.

use std::collections::BTreeMap;
use std::ops::Range;

use super::crc::crc32c;
use super::layout::{BEYOND, Fields, HeaderError, check_prefix, prefix, put_varint, take_varint};

/// Bytes of a slot.
pub(super) const SLOT_BYTES: usize = 4096;
/// Number of slots: the newest, the newest that was synced, and one to write.
pub(super) const SLOTS: usize = 3;

const MAGIC: [u8; 8] = *b"hydwater";
const SLOT_HEADER_BYTES: usize = 52;

/// A set of settled sequences.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settled {
    low: u64,
    /// Start → end of each range above `low`; disjoint, not empty, and not touching.
    above: BTreeMap<u64, u64>,
}

impl Settled {
    /// Everything below `low`.
    #[must_use]
    pub fn below(low: u64) -> Self {
        Self { low, above: BTreeMap::new() }
    }

    /// The sequence below which everything is settled.
    #[must_use]
    pub fn low(&self) -> u64 {
        self.low
    }

    /// The sequence after the highest that is settled.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.above.last_key_value().map_or(self.low, |(_, end)| *end)
    }

    /// Number of settled ranges above the low watermark.
    #[must_use]
    pub fn ranges(&self) -> usize {
        self.above.len()
    }

    /// Adds `range`; parts of it may be settled already.
    pub fn insert(&mut self, range: Range<u64>) {
        let Range { mut start, mut end } = range;
        start = start.max(self.low);
        if start >= end {
            return;
        }
        // Every range that the new one overlaps or touches becomes part of it.
        while let Some((&other, &other_end)) = self.above.range(..=end).next_back() {
            if other_end < start {
                break;
            }
            self.above.remove(&other);
            start = start.min(other);
            end = end.max(other_end);
        }
        if start == self.low {
            self.low = end;
        } else {
            self.above.insert(start, end);
        }
    }

    /// Forgets everything from `end` on.
    pub fn truncate(&mut self, end: u64) {
        self.low = self.low.min(end);
        self.above.split_off(&end);
        if let Some((_, last)) = self.above.iter_mut().next_back() {
            *last = (*last).min(end);
        }
    }

    /// Whether all of `range` is settled.
    #[must_use]
    pub fn contains(&self, range: &Range<u64>) -> bool {
        self.gaps(range.clone()).next().is_none()
    }

    /// Number of sequences of `range` that are not settled.
    #[must_use]
    pub fn unsettled(&self, range: Range<u64>) -> u64 {
        self.gaps(range).map(|gap| gap.end - gap.start).sum()
    }

    /// The parts of `range` that are not settled, ascending.
    pub fn gaps(&self, range: Range<u64>) -> impl Iterator<Item = Range<u64>> + '_ {
        let mut at = range.start.max(self.low);
        let before = self.above.range(..at).next_back();
        if let Some((_, end)) = before {
            at = at.max(*end);
        }
        let ends = self.above.range(at..range.end.max(at)).map(|(start, end)| (*start, *end));
        ends.chain((at < range.end).then_some((range.end, range.end))).filter_map(move |(start, end)| {
            let gap = at..start.min(range.end);
            at = at.max(end);
            (!gap.is_empty()).then_some(gap)
        })
    }

    /// As many of the lowest ranges as fit in `bytes` bytes, and their number.
    fn encode(&self, bytes: usize) -> (Vec<u8>, u32) {
        let (mut encoded, mut count, mut at) = (Vec::new(), 0, self.low);
        for (start, end) in &self.above {
            let fits = encoded.len();
            put_varint(&mut encoded, start - at);
            put_varint(&mut encoded, end - start);
            if encoded.len() > bytes {
                encoded.truncate(fits);
                break;
            }
            (count, at) = (count + 1, *end);
        }
        (encoded, count)
    }

    fn decode(low: u64, count: u32, mut bytes: &[u8]) -> Option<Self> {
        let mut settled = Self::below(low);
        let mut at = low;
        for _ in 0..count {
            let start = at.checked_add(take_varint(&mut bytes).filter(|gap| *gap > 0)?)?;
            at = start.checked_add(take_varint(&mut bytes).filter(|length| *length > 0)?)?;
            settled.above.insert(start, at);
        }
        bytes.is_empty().then_some(settled)
    }
}

/// What a slot of the watermark's file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    /// The spool that it belongs to.
    pub spool: u64,
    /// One more than in the slot written before.
    pub generation: u64,
    /// What is settled.
    pub settled: Settled,
}

impl Slot {
    /// The slot's bytes; where not all ranges fit, with the lowest.
    pub(super) fn encode(spool: u64, generation: u64, settled: &Settled) -> Vec<u8> {
        let (ranges, count) = settled.encode(SLOT_BYTES - SLOT_HEADER_BYTES);
        let mut bytes = prefix(MAGIC);
        bytes.extend([spool, generation, settled.low].into_iter().flat_map(u64::to_le_bytes));
        bytes.extend(count.to_le_bytes());
        bytes.extend(u32::try_from(ranges.len()).unwrap_or(0).to_le_bytes());
        let crc = crc32c(&[&bytes, &ranges]);
        bytes.extend(crc.to_le_bytes());
        bytes.extend(ranges);
        bytes
    }

    /// The slot at the front of `bytes`.
    ///
    /// # Errors
    ///
    /// See [`HeaderError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, HeaderError> {
        check_prefix(bytes, MAGIC)?;
        Self::fields(bytes).ok_or(HeaderError::Damaged)
    }

    fn fields(bytes: &[u8]) -> Option<Self> {
        let (covered, rest) = bytes.split_at_checked(48)?;
        let mut fields = Fields(covered.get(16..)?);
        let [spool, generation, low] = [fields.u64()?, fields.u64()?, fields.u64()?];
        let [count, length] = [fields.u32()?, fields.u32()?];
        let crc = Fields(rest).u32()?;
        let ranges = rest.get(4..)?.get(..length as usize)?;
        (crc32c(&[covered, ranges]) == crc).then_some(())?;
        let settled = Settled::decode(low, count, ranges)?;
        (generation.max(settled.end()) < BEYOND).then_some(Self { spool, generation, settled })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_set_of_settled_ranges_is_a_set_of_sequences(
            ranges in prop::collection::vec((0..60_u64, 0..12_u64), 0..30), from in 0..70_u64, length in 0..30_u64,
        ) {
            let (mut settled, mut model) = (Settled::default(), BTreeSet::new());
            for (start, length) in ranges {
                settled.insert(start..start + length);
                model.extend(start..start + length);
            }
            prop_assert_eq!(settled.low(), (0..).find(|n| !model.contains(n)).unwrap());
            prop_assert_eq!(settled.end(), model.last().map_or(0, |last| last + 1));
            let range = from..from + length;
            let missing: Vec<u64> = range.clone().filter(|n| !model.contains(n)).collect();
            prop_assert_eq!(settled.gaps(range.clone()).flatten().collect::<Vec<_>>(), &*missing);
            prop_assert_eq!(settled.contains(&range), missing.is_empty());
            let mut front = settled.clone();
            front.truncate(from);
            prop_assert_eq!(front.gaps(0..100).flatten().collect::<Vec<_>>(), (0..100).filter(|n| *n >= from || !model.contains(n)).collect::<Vec<_>>());
            let slot = Slot { spool: 7, generation: 9, settled };
            let bytes = Slot::encode(7, 9, &slot.settled);
            prop_assert_eq!(Slot::decode(&bytes), Ok(slot));
        }

        #[test]
        fn any_bytes_of_a_slot_decode_to_a_value_or_an_error(count: u32, bytes in prop::collection::vec(any::<u8>(), 0..99)) {
            prop_assert!(Slot::decode(&bytes).is_err());
            Settled::decode(u64::MAX - 1000, count % 50, &bytes);
        }
    }

    #[test]
    fn of_too_many_ranges_the_lowest_are_kept() {
        let mut settled = Settled::default();
        (0..10_000).for_each(|n| settled.insert(3 * n + 1..3 * n + 2));
        let bytes = Slot::encode(1, 1, &settled);
        assert!(bytes.len() <= SLOT_BYTES);
        let kept = Slot::decode(&bytes).unwrap().settled;
        assert_eq!(kept.ranges(), 2022);
        assert!(kept.gaps(0..kept.end()).eq(settled.gaps(0..kept.end())));
    }
}
