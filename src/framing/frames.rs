//! `frames`: a length of 4 bytes, big-endian, then as many bytes of record.
//!
//! Every byte belongs to the record. A length of zero is no record, as a blank line is none. A length
//! beyond the longest record is said when it is read; as many bytes are skipped, however many they are,
//! and the next frame is taken.
//!
//! Records move towards the front, over their lengths, in place: a delimiter of up to four bytes finds
//! room where the length stood.

use bytes::{Buf, BytesMut};

use super::{Delimiter, Framed, Framer, Skip, Skipped, count, offset};

const LENGTH_BYTES: usize = 4;

/// Frames one connection.
#[derive(Debug)]
pub struct Frames {
    delimiter: Delimiter,
    /// Most bytes of a record, its delimiter included.
    max_record_bytes: usize,
    /// Bytes still to come of a record that is not taken.
    skipping: u64,
    /// That record, where it was not reported yet.
    abandoned: Option<Skipped>,
}

impl Frames {
    /// A framer at the start of a frame.
    #[must_use]
    pub fn new(delimiter: Delimiter, max_record_bytes: usize) -> Self {
        Self { delimiter, max_record_bytes, skipping: 0, abandoned: None }
    }

    /// Skips what is to be skipped at the front of `buffer`.
    fn skip(&mut self, buffer: &mut BytesMut, framed: &mut Framed) {
        let skipped = usize::try_from(self.skipping).unwrap_or(usize::MAX).min(buffer.len());
        buffer.advance(skipped);
        self.skipping -= count(skipped);
        if self.skipping == 0 {
            framed.skipped.extend(self.abandoned.take());
        }
    }

    fn is_in_place(&self) -> bool {
        self.delimiter.as_bytes().len() <= LENGTH_BYTES
    }
}

impl Framer for Frames {
    fn frame(&mut self, buffer: &mut BytesMut, _: usize) -> Framed {
        let mut framed = Framed::default();
        self.skip(buffer, &mut framed);
        let mut copied = Vec::new();
        let (mut start, mut written) = (0, 0);
        while let Some(length) = length_at(buffer, start) {
            let place = start + LENGTH_BYTES..start + LENGTH_BYTES + length;
            if length > self.max_record_bytes {
                framed.skipped.push(Skipped { bytes: count(length), why: Skip::TooLong });
                start = place.end.min(buffer.len());
                self.skipping = count(place.end - start);
                continue;
            }
            let Some(record) = buffer.get(place.clone()) else { break };
            start = place.end;
            let tail = self.delimiter.after(record).len();
            if length == 0 {
                continue;
            }
            if length + tail > self.max_record_bytes {
                framed.skipped.push(Skipped { bytes: count(length), why: Skip::TooLong });
                continue;
            }
            let delimiter = self.delimiter.as_bytes().get(..tail).unwrap_or_default();
            if self.is_in_place() {
                buffer.copy_within(place, written);
                if let Some(place) = buffer.get_mut(written + length..written + length + tail) {
                    place.copy_from_slice(delimiter);
                }
            } else {
                copied.extend_from_slice(record);
                copied.extend_from_slice(delimiter);
            }
            written += length + tail;
            framed.ends.push(offset(written));
        }
        let mut frames = buffer.split_to(start);
        framed.records = if self.is_in_place() {
            frames.truncate(written);
            frames.freeze()
        } else {
            // No larger than its records, so that whoever holds them knows what they take.
            copied.shrink_to_fit();
            copied.into()
        };
        framed
    }

    /// A frame that ends early is no record.
    fn finish(&mut self, buffer: &mut BytesMut) -> Framed {
        let mut framed = Framed::default();
        framed.skipped.extend(self.abandoned.take());
        let rest = buffer.split();
        if !rest.is_empty() {
            framed.skipped.push(Skipped { bytes: count(rest.len()), why: Skip::Incomplete });
        }
        framed
    }

    /// What is less than a length stays: it can't be told what it begins.
    fn abandon(&mut self, buffer: &mut BytesMut, why: Skip) {
        let Some(length) = length_at(buffer, 0) else { return };
        self.abandoned = Some(Skipped { bytes: count(length), why });
        self.skipping = count(LENGTH_BYTES + length - buffer.len());
        *buffer = BytesMut::new();
    }

    fn overhead(&self, bytes: usize) -> usize {
        let most_frames = bytes / (LENGTH_BYTES + 1) + 1;
        let copied =
            if self.is_in_place() { 0 } else { most_frames * self.delimiter.as_bytes().len() + bytes };
        most_frames * size_of::<u32>() + copied
    }
}

/// The length that stands at `start`.
fn length_at(bytes: &[u8], start: usize) -> Option<usize> {
    let length = bytes.get(start..)?.first_chunk()?;
    usize::try_from(u32::from_be_bytes(*length)).ok()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;

    fn framed(records: &[&[u8]]) -> Vec<u8> {
        let frame = |record: &&[u8]| [&u32::try_from(record.len()).unwrap().to_be_bytes(), *record].concat();
        records.iter().flat_map(frame).collect()
    }

    fn framer(delimiter: &'static [u8]) -> Frames {
        Frames::new(Delimiter::new(Bytes::from_static(delimiter)), 100)
    }

    /// The records and what was skipped of `bytes`, cut after `cut`.
    fn read(mut frames: Frames, bytes: &[u8], cut: usize) -> (Vec<Bytes>, Vec<Skipped>) {
        let (mut buffer, mut records, mut skipped) = (BytesMut::new(), Vec::new(), Vec::new());
        for piece in [&bytes[..cut], &bytes[cut..]] {
            let seen = buffer.len();
            buffer.extend_from_slice(piece);
            let framed = frames.frame(&mut buffer, seen);
            records.extend(framed.iter());
            skipped.extend(framed.skipped);
        }
        let last = frames.finish(&mut buffer);
        assert!(last.ends.is_empty() && buffer.is_empty());
        skipped.extend(last.skipped);
        (records, skipped)
    }

    // R-N1
    #[test]
    fn frames_are_the_same_wherever_they_are_cut() {
        let long = [b'l'; 101];
        let bytes = framed(&[b"one", b"", b"two\nlines", b"ended\n", &long, b"after", &[0; 99], &[0; 100]]);
        let too_long = |bytes| Skipped { bytes: count(bytes), why: Skip::TooLong };
        for (delimiter, longest) in [(&b"\n"[..], 99), (b"", 100), (b"four", 0), (b"longer", 0)] {
            let record = |record: &[u8]| {
                let ended = record.ends_with(delimiter);
                Bytes::from([record, if ended { b"" } else { delimiter }].concat())
            };
            let mut expected: Vec<_> =
                [&b"one"[..], b"two\nlines", b"ended\n", b"after"].into_iter().map(record).collect();
            expected.extend(
                [99, 100].into_iter().filter(|bytes| *bytes <= longest).map(|bytes| record(&vec![0; bytes])),
            );
            let skipped: Vec<_> = [101]
                .into_iter()
                .chain([99, 100].into_iter().filter(|bytes| *bytes > longest))
                .map(too_long)
                .collect();
            for cut in 0..=bytes.len() {
                assert_eq!(
                    read(framer(delimiter), &bytes, cut),
                    (expected.clone(), skipped.clone()),
                    "at {cut}"
                );
            }
        }
    }

    // R-N2
    #[test]
    fn a_frame_that_ends_early_is_incomplete_and_one_that_is_given_up_is_skipped_to_its_end() {
        let bytes = framed(&[b"whole", b"cut off"]);
        let (records, skipped) = read(framer(b""), &bytes[..bytes.len() - 1], 0);
        assert_eq!(records, [&b"whole"[..]]);
        assert_eq!(skipped, [Skipped { bytes: 10, why: Skip::Incomplete }]);

        let mut frames = framer(b"");
        let (first, rest) = bytes.split_at(6);
        let mut buffer = BytesMut::from(first);
        assert!(frames.frame(&mut buffer, 0).ends.is_empty());
        frames.abandon(&mut buffer, Skip::Unfinished);
        assert!(buffer.is_empty());
        buffer.extend_from_slice(rest);
        let framed = frames.frame(&mut buffer, 0);
        assert_eq!(framed.skipped, [Skipped { bytes: 5, why: Skip::Unfinished }]);
        assert_eq!(framed.iter().collect::<Vec<_>>(), [&b"cut off"[..]]);
    }

    // R-N2
    #[test]
    fn a_claim_of_four_gigabytes_holds_nothing() {
        let mut frames = framer(b"\n");
        let mut buffer = BytesMut::from(&[0xff; 4][..]);
        let framed = frames.frame(&mut buffer, 0);
        assert_eq!(framed.skipped, [Skipped { bytes: u64::from(u32::MAX), why: Skip::TooLong }]);
        for _ in 0..100 {
            buffer.extend_from_slice(&[7; 1000]);
            assert!(frames.frame(&mut buffer, 0).ends.is_empty() && buffer.is_empty());
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_framed_within_what_was_reserved(
            bytes in prop::collection::vec(prop_oneof![Just(0_u8), any::<u8>()], 0..400), long: bool,
        ) {
            let mut frames = framer(if long { b"longer" } else { b"\n" });
            let mut buffer = BytesMut::from(&bytes[..]);
            let framed = frames.frame(&mut buffer, 0);
            let copied = if long { framed.records.len() } else { 0 };
            prop_assert!(framed.ends.len() * 4 + copied <= frames.overhead(bytes.len()));
            prop_assert_eq!(framed.ends.last().map_or(0, |end| *end as usize), framed.records.len());
        }
    }
}
