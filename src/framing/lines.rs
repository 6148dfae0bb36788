//! `lines`: one record a line, ended by LF or CRLF.
//!
//! Any other byte belongs to the record, NUL and invalid UTF-8 included. Blank lines are no
//! records. A last line without an end is a record once the stream ends.
//!
//! With the default delimiter, a line that ends in LF is already in wire form, so a buffer of
//! such lines leaves as it came: found by one pass of `memchr`, not moved, not copied. Whatever
//! needs touching (CRLF, blank or overlong lines, another delimiter) costs one pass more, in
//! place unless the delimiter is longer than the LF that it replaces.

use bytes::{Bytes, BytesMut};
use memchr::memchr_iter;

use super::{Delimiter, Framed, Framer, Skip, Skipped, count, offset};

/// Frames one connection.
#[derive(Debug)]
pub struct Lines {
    delimiter: Delimiter,
    /// Most bytes of a record, its delimiter included.
    max_record_bytes: usize,
    /// The line that is being skipped: bytes seen so far.
    skipping: Option<Skipped>,
}

impl Lines {
    /// A framer at the start of a line.
    #[must_use]
    pub fn new(delimiter: Delimiter, max_record_bytes: usize) -> Self {
        Self { delimiter, max_record_bytes, skipping: None }
    }

    /// What goes before and behind a datagram of so many bytes, so that several one behind the other are
    /// lines.
    #[must_use]
    pub fn datagram(_: usize) -> (String, &'static [u8]) {
        (String::new(), b"\n")
    }

    /// The lines that end at `ends`, in wire form, the blank and the overlong left out.
    fn rewrite(&mut self, mut lines: BytesMut, ends: &[u32], framed: &mut Framed) {
        if self.delimiter.as_bytes().len() > 1 {
            let mut records =
                Vec::with_capacity(lines.len() + ends.len() * (self.delimiter.as_bytes().len() - 1));
            let mut start = 0;
            for end in ends.iter().map(|end| *end as usize) {
                let line = lines.get(start..end).unwrap_or(&[]);
                start = end;
                let bytes = line.len() - 1;
                if !self.skip(bytes, framed) {
                    self.append(without_end(line), bytes, &mut records, framed);
                }
            }
            // No larger than its records, so that whoever holds them knows what they take.
            records.shrink_to_fit();
            framed.records = records.into();
            return;
        }
        // A record and its delimiter are never longer than the line that they come from, so
        // everything moves towards the front and the reader stays ahead of the writer.
        let mut written = 0;
        let mut start = 0;
        for end in ends.iter().map(|end| *end as usize) {
            let line = lines.get(start..end).unwrap_or(&[]);
            let (from, bytes) = (start, line.len() - 1);
            let record = without_end(line);
            let (length, delimiter) = (record.len(), self.delimiter.after(record).len());
            start = end;
            if self.skip(bytes, framed) || length == 0 {
                continue;
            }
            if length + delimiter > self.max_record_bytes {
                framed.skipped.push(Skipped { bytes: count(bytes), why: Skip::TooLong });
                continue;
            }
            lines.copy_within(from..from + length, written);
            written += length;
            if let Some(place) = lines.get_mut(written..written + delimiter) {
                place.copy_from_slice(self.delimiter.as_bytes().get(..delimiter).unwrap_or(&[]));
                written += delimiter;
            }
            framed.ends.push(offset(written));
        }
        lines.truncate(written);
        framed.records = lines.freeze();
    }

    /// Whether the line that ends here, `bytes` long, ends one that is being skipped.
    fn skip(&mut self, bytes: usize, framed: &mut Framed) -> bool {
        let Some(skipped) = self.skipping.take() else { return false };
        framed.skipped.push(Skipped { bytes: skipped.bytes + count(bytes), ..skipped });
        true
    }

    /// Appends `record` in wire form, unless it is blank or too long; `bytes` is its line's size.
    fn append(&self, record: &[u8], bytes: usize, records: &mut Vec<u8>, framed: &mut Framed) {
        let delimiter = self.delimiter.after(record);
        if record.is_empty() {
        } else if record.len() + delimiter.len() > self.max_record_bytes {
            framed.skipped.push(Skipped { bytes: count(bytes), why: Skip::TooLong });
        } else {
            records.extend_from_slice(record);
            records.extend_from_slice(delimiter);
            framed.ends.push(offset(records.len()));
        }
    }

    /// Stops holding a line as soon as no end could make it short enough.
    fn bound_the_rest(&mut self, buffer: &mut BytesMut) {
        if let Some(skipped) = &mut self.skipping {
            skipped.bytes += count(buffer.len());
            *buffer = BytesMut::new();
        } else if buffer.len() > self.max_record_bytes + 1 {
            // One byte more than the longest record may still be the CR of its CRLF.
            self.skipping = Some(Skipped { bytes: count(buffer.len()), why: Skip::TooLong });
            *buffer = BytesMut::new();
        }
    }
}

impl Framer for Lines {
    fn frame(&mut self, buffer: &mut BytesMut, seen: usize) -> Framed {
        let mut ends = Vec::new();
        let mut plain = self.skipping.is_none() && self.delimiter.as_bytes() == b"\n";
        let mut start = 0;
        for found in memchr_iter(b'\n', buffer.get(seen..).unwrap_or(&[])) {
            let end = seen + found + 1;
            let line = buffer.get(start..end).unwrap_or(&[]);
            plain &= line.len() > 1 && line.len() <= self.max_record_bytes && !line.ends_with(b"\r\n");
            ends.push(offset(end));
            start = end;
        }
        let mut framed = Framed::default();
        if start > 0 {
            let lines = buffer.split_to(start);
            if plain {
                framed.records = lines.freeze();
                framed.ends = ends;
            } else {
                self.rewrite(lines, &ends, &mut framed);
            }
        }
        self.bound_the_rest(buffer);
        framed
    }

    fn finish(&mut self, buffer: &mut BytesMut) -> Framed {
        let mut framed = Framed::default();
        let rest = buffer.split();
        if let Some(skipped) = self.skipping.take() {
            framed.skipped.push(Skipped { bytes: skipped.bytes + count(rest.len()), ..skipped });
        } else if !rest.is_empty() {
            let mut records = Vec::with_capacity(rest.len() + self.delimiter.as_bytes().len());
            self.append(&rest, rest.len(), &mut records, &mut framed);
            framed.records = records.into();
        }
        framed
    }

    fn abandon(&mut self, buffer: &mut BytesMut, why: Skip) {
        let skipped = self.skipping.get_or_insert(Skipped { bytes: 0, why });
        skipped.bytes += count(buffer.len());
        *buffer = BytesMut::new();
    }

    fn overhead(&self, bytes: usize) -> usize {
        let most_lines = bytes / 2 + 1;
        let rewritten = match self.delimiter.as_bytes().len() {
            0 | 1 => 0,
            delimiter => bytes + most_lines * (delimiter - 1),
        };
        most_lines * size_of::<u32>() + rewritten
    }
}

/// A whole line without its LF or CRLF.
fn without_end(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r\n").or_else(|| line.strip_suffix(b"\n")).unwrap_or(line)
}

impl Framed {
    /// The records as slices.
    pub fn iter(&self) -> impl Iterator<Item = Bytes> + '_ {
        let mut start = 0;
        self.ends.iter().map(move |end| {
            let end = *end as usize;
            let record = self.records.slice(start..end);
            start = end;
            record
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What came out of one stream: records in wire form, and skipped ones.
    type Outcome = (Vec<Vec<u8>>, Vec<Skipped>);

    /// Feeds `pieces` one read at a time.
    fn feed<'a>(pieces: impl IntoIterator<Item = &'a [u8]>, delimiter: &'static str, max: usize) -> Outcome {
        let mut lines = Lines::new(Delimiter::new(Bytes::from_static(delimiter.as_bytes())), max);
        let mut buffer = BytesMut::new();
        let (mut records, mut skipped) = (Vec::new(), Vec::new());
        let mut take = |framed: Framed| {
            assert_eq!(framed.ends.last().map_or(0, |end| *end as usize), framed.records.len());
            records.extend(framed.iter().map(|record| record.to_vec()));
            skipped.extend(framed.skipped);
        };
        for piece in pieces {
            let seen = buffer.len();
            buffer.extend_from_slice(piece);
            take(lines.frame(&mut buffer, seen));
            assert!(buffer.len() <= max + 1, "holds {} bytes of a line", buffer.len());
        }
        take(lines.finish(&mut buffer));
        (records, skipped)
    }

    /// The definition, written for clarity: split the whole stream at LF.
    fn model(stream: &[u8], delimiter: &str, max: usize) -> Outcome {
        let (mut records, mut skipped) = (Vec::new(), Vec::new());
        let mut lines: Vec<&[u8]> = stream.split(|byte| *byte == b'\n').collect();
        let last = lines.pop().unwrap_or_default();
        let ended = lines.into_iter().map(|line| (line, line.strip_suffix(b"\r").unwrap_or(line)));
        for (line, record) in ended.chain([(last, last)]).filter(|(_, record)| !record.is_empty()) {
            let mut wire = record.to_vec();
            if !wire.ends_with(delimiter.as_bytes()) {
                wire.extend_from_slice(delimiter.as_bytes());
            }
            if wire.len() > max { skipped.push(line.len()) } else { records.push(wire) }
        }
        let skipped = skipped.into_iter().map(|bytes| Skipped { bytes: count(bytes), why: Skip::TooLong });
        (records, skipped.collect())
    }

    fn check(stream: &str, records: &[&str]) {
        let expected: Vec<Vec<u8>> = records.iter().map(|record| record.as_bytes().to_vec()).collect();
        assert_eq!(feed([stream.as_bytes()], "\n", 100).0, expected, "{stream:?}");
    }

    // R-P5
    #[test]
    fn a_line_is_a_record_however_it_ends() {
        check("a\nb\n", &["a\n", "b\n"]);
        check("a\r\nb\r\n", &["a\n", "b\n"]);
        check("a\nb", &["a\n", "b\n"]);
        check("a\r\n\r\n\n\nb\r", &["a\n", "b\r\n"]);
        check("", &[]);
        check("\n\n", &[]);
        check("a\rb\n\0\n", &["a\rb\n", "\0\n"]);
    }

    #[test]
    fn a_plain_buffer_leaves_without_being_copied() {
        let mut lines = Lines::new(Delimiter::new(Bytes::from_static(b"\n")), 100);
        let mut buffer = BytesMut::from(&b"one\ntwo\nthr"[..]);
        let before = buffer.as_ptr();
        let framed = lines.frame(&mut buffer, 0);
        assert_eq!(framed.records.as_ptr(), before);
        assert_eq!((&framed.records[..], &buffer[..]), (&b"one\ntwo\n"[..], &b"thr"[..]));
    }

    #[test]
    fn the_longest_record_counts_its_delimiter_and_one_byte_more_is_too_long() {
        let check = |line: usize, taken: bool| {
            let stream = ["x".repeat(line), "ok".to_owned()].join("\r\n");
            let (records, skipped) = feed([stream.as_bytes()], "\n", 10);
            assert_eq!(records.len(), 1 + usize::from(taken), "{line}");
            assert_eq!(
                skipped.iter().map(|skipped| skipped.bytes).collect::<Vec<_>>(),
                if taken { vec![] } else { vec![line as u64 + 1] }
            );
        };
        check(9, true);
        check(10, false);
        check(11, false);
        check(5000, false);
    }

    #[test]
    fn an_abandoned_line_is_reported_whole_and_the_next_one_is_taken() {
        let mut lines = Lines::new(Delimiter::new(Bytes::from_static(b"\n")), 100);
        let mut buffer = BytesMut::from(&b"begin"[..]);
        assert!(lines.frame(&mut buffer, 0).ends.is_empty());
        lines.abandon(&mut buffer, Skip::NoRoom);
        buffer.extend_from_slice(b"ning\nnext\n");
        let framed = lines.frame(&mut buffer, 0);
        assert_eq!(framed.skipped, [Skipped { bytes: 9, why: Skip::NoRoom }]);
        assert_eq!(&framed.records[..], b"next\n");
    }

    /// Streams of few distinct bytes, so that line ends, CRs and delimiters meet often.
    fn stream() -> impl Strategy<Value = Vec<u8>> {
        proptest::collection::vec(
            prop_oneof![3 => Just(b'\n'), 2 => Just(b'\r'), 2 => Just(b'|'), 6 => any::<u8>()],
            0..120,
        )
    }

    proptest! {
        // R-P5
        #[test]
        fn any_cut_of_any_stream_gives_the_records_of_the_definition(
            stream in stream(),
            cuts in proptest::collection::vec(0usize..120, 0..6),
            delimiter in prop_oneof![Just("\n"), Just("\r\n"), Just(""), Just("|"), Just("|~|")],
            max in 4usize..24,
        ) {
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(stream.len())).collect();
            cuts.extend([0, stream.len()]);
            cuts.sort_unstable();
            let pieces = cuts.windows(2).map(|cut| &stream[cut[0]..cut[1]]);
            prop_assert_eq!(feed(pieces, delimiter, max), model(&stream, delimiter, max));
        }
    }
}
