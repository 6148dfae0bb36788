//! `http`: from the body of a request to records.
//!
//! A body is looked at twice: [`Taking::plan`] finds its records and what they take, so that memory can be had
//! for all of them before any is taken; [`Taking::pieces`] then copies them, in wire form. A body that is
//! malformed anywhere gives none.

use std::fmt;

use bytes::Bytes;
use memchr::{memchr_iter, memchr2};
use serde::Deserializer as _;
use serde::de::{SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::{Delimiter, count, offset};

/// Deepest nesting of arrays and objects, which is also that of most readers of JSON.
const MAX_DEPTH: usize = 128;

/// What a body is made of, by its `Content-Type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// A record a line, as in [`Lines`](super::Lines).
    Lines,
    /// JSON values one behind the other; of an array, each element is a record.
    Json,
    /// One record, whatever it is.
    Whole,
}

impl Content {
    /// What a body of this media type is made of.
    #[must_use]
    pub fn of(media_type: &str) -> Self {
        let media_type = media_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        match media_type.as_str() {
            "application/x-ndjson"
            | "application/ndjson"
            | "application/jsonl"
            | "application/x-jsonl"
            | "application/jsonlines"
            | "application/x-jsonlines"
            | "application/json-lines"
            | "text/plain" => Self::Lines,
            "application/json" => Self::Json,
            _ if media_type.ends_with("+json") => Self::Json,
            _ => Self::Whole,
        }
    }
}

/// How a body is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// Not at all.
    Identity,
    /// As gzip, of one member or several.
    Gzip,
    /// As zstd, of one frame or several.
    Zstd,
}

impl Encoding {
    /// The encoding that a `Content-Encoding` names.
    #[must_use]
    pub fn named(name: &[u8]) -> Option<Self> {
        match name.trim_ascii().to_ascii_lowercase().as_slice() {
            b"" | b"identity" => Some(Self::Identity),
            b"gzip" | b"x-gzip" => Some(Self::Gzip),
            b"zstd" => Some(Self::Zstd),
            _ => None,
        }
    }
}

/// Largest window of zstd that a reader has to support, as a power of two, and the smallest.
///
/// Source: RFC 8878, 3.1.1.1.2 ("it's recommended for decoders to support a value of `Window_Size` up to 8 MB").
const WINDOW_LOGS: (u32, u32) = (10, 23);

/// The window, as a power of two, that the frames of `body` ask for, which is what it takes to read
/// them.
///
/// # Errors
///
/// A sentence's end, where they ask for too much or are none.
pub fn window(body: &[u8]) -> Result<u32, &'static str> {
    let (mut rest, mut widest) = (body, WINDOW_LOGS.0);
    while !rest.is_empty() {
        if let Some(frame) = rest.strip_prefix(&[0x28, 0xb5, 0x2f, 0xfd]) {
            widest = widest.max(frame_window(frame).ok_or("a frame ends early")?);
        }
        let size = zstd::zstd_safe::find_frame_compressed_size(rest);
        let size = size.map_err(|_| "it is no complete frame of zstd")?;
        rest = rest.get(size.max(1)..).unwrap_or_default();
    }
    if widest > WINDOW_LOGS.1 { Err("a frame has a window of more than 8 MiB") } else { Ok(widest) }
}

/// The window that the header of a frame, behind its magic number, asks for.
///
/// Source: RFC 8878, 3.1.1.1.
fn frame_window(header: &[u8]) -> Option<u32> {
    let (descriptor, rest) = header.split_first()?;
    if descriptor & 0x20 == 0 {
        let window = u32::from(*rest.first()?);
        // Eighths above the power of two ask for the next one.
        return Some(10 + (window >> 3) + u32::from(window & 7 != 0));
    }
    // A frame in one segment has its content for a window; its size stands behind the dictionary's id.
    let id_bytes = [0, 1, 2, 4].get(usize::from(descriptor & 3))?;
    let size_bytes = 1_usize << (descriptor >> 6);
    let size = rest.get(*id_bytes..id_bytes + size_bytes)?;
    let size = size.iter().rev().fold(0_u64, |size, byte| (size << 8) | u64::from(*byte));
    let size = if size_bytes == 2 { size + 256 } else { size };
    Some(64 - size.saturating_sub(1).leading_zeros())
}

/// Why a body gives no records, as a sentence with the place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Malformed(pub String);

/// The records of a body, found and not taken yet.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Of each piece its bytes and its records.
    pieces: Vec<(usize, usize)>,
    /// Records that are longer than the longest.
    pub too_long: usize,
    /// Bytes of those.
    pub too_long_bytes: u64,
}

/// Records in wire form, in memory of exactly their size.
#[derive(Debug)]
pub struct Piece {
    /// One behind the other.
    pub records: Bytes,
    /// The end of each.
    pub ends: Vec<u32>,
}

/// How records are taken out of bodies.
#[derive(Debug, Clone)]
pub struct Taking {
    /// Follows each record.
    pub delimiter: Delimiter,
    /// Most bytes of a record, its delimiter included.
    pub max_record_bytes: usize,
    /// Most bytes of a piece, unless a single record is longer.
    pub piece_bytes: usize,
}

impl Taking {
    /// Finds the records of `body`.
    ///
    /// # Errors
    ///
    /// [`Malformed`] where the body is not what it is said to be.
    pub fn plan(&self, content: Content, body: &[u8]) -> Result<Plan, Malformed> {
        let mut plan = Plan::default();
        each(content, body, &mut |record| plan.add(self, record))?;
        Ok(plan)
    }

    /// Copies the records that `plan` found in `body`.
    #[must_use]
    pub fn pieces(&self, content: Content, body: &[u8], plan: &Plan) -> Vec<Piece> {
        let mut writer = Writer::new(self, plan);
        // It was read before.
        each(content, body, &mut |record| writer.add(record)).unwrap_or_default();
        writer.finish()
    }

    /// As [`Taking::plan`], of records that were found already.
    #[must_use]
    pub fn plan_of<'a>(&self, records: impl Iterator<Item = &'a [u8]>) -> Plan {
        let mut plan = Plan::default();
        records.for_each(|record| plan.add(self, record));
        plan
    }

    /// As [`Taking::pieces`], of records that were found already, each piece copied when it is asked for.
    pub fn copies<'a>(
        &self,
        mut records: impl Iterator<Item = &'a [u8]>,
        plan: &Plan,
    ) -> impl Iterator<Item = Piece> {
        plan.pieces.iter().map(move |(bytes, count)| {
            let (mut copy, mut ends) = (Vec::with_capacity(*bytes), Vec::with_capacity(*count));
            for record in records.by_ref().filter(|record| !self.is_too_long(record)).take(*count) {
                self.append(record, &mut copy, &mut ends);
            }
            Piece { records: copy.into(), ends }
        })
    }

    /// Whether `record` is longer than the longest.
    #[must_use]
    pub fn is_too_long(&self, record: &[u8]) -> bool {
        self.wire_bytes(record).is_none()
    }

    fn append(&self, record: &[u8], copy: &mut Vec<u8>, ends: &mut Vec<u32>) {
        copy.extend_from_slice(record);
        copy.extend_from_slice(self.delimiter.after(record));
        ends.push(offset(copy.len()));
    }

    /// Bytes of a record in wire form, or none where that is too long.
    fn wire_bytes(&self, record: &[u8]) -> Option<usize> {
        let bytes = record.len() + self.delimiter.after(record).len();
        (bytes <= self.max_record_bytes).then_some(bytes)
    }
}

impl Plan {
    /// Adds one record.
    fn add(&mut self, taking: &Taking, record: &[u8]) {
        let Some(bytes) = taking.wire_bytes(record) else {
            self.too_long += 1;
            self.too_long_bytes += count(record.len());
            return;
        };
        match self.pieces.last_mut().filter(|(held, _)| held + bytes <= taking.piece_bytes) {
            Some((held, records)) => (*held, *records) = (*held + bytes, *records + 1),
            None => self.pieces.push((bytes, 1)),
        }
    }

    /// Number of records.
    #[must_use]
    pub fn records(&self) -> usize {
        self.pieces.iter().map(|(_, records)| records).sum()
    }

    /// Bytes of the records in wire form, and of their ends.
    pub fn sizes(&self) -> impl ExactSizeIterator<Item = usize> + '_ {
        self.pieces.iter().map(|(bytes, records)| bytes + records * size_of::<u32>())
    }
}

/// Puts records into wire form.
struct Writer<'a> {
    taking: &'a Taking,
    sizes: std::slice::Iter<'a, (usize, usize)>,
    /// Records that the open piece still takes.
    left: usize,
    records: Vec<u8>,
    ends: Vec<u32>,
    pieces: Vec<Piece>,
}

impl<'a> Writer<'a> {
    fn new(taking: &'a Taking, plan: &'a Plan) -> Self {
        let pieces = Vec::with_capacity(plan.pieces.len());
        Self { taking, sizes: plan.pieces.iter(), left: 0, records: Vec::new(), ends: Vec::new(), pieces }
    }

    fn add(&mut self, record: &[u8]) {
        if self.taking.is_too_long(record) {
            return;
        }
        if self.left == 0 {
            self.close();
            let (bytes, records) = self.sizes.next().copied().unwrap_or_default();
            self.left = records;
            (self.records, self.ends) = (Vec::with_capacity(bytes), Vec::with_capacity(records));
        }
        self.left = self.left.saturating_sub(1);
        self.taking.append(record, &mut self.records, &mut self.ends);
    }

    fn close(&mut self) {
        let (records, ends) = (std::mem::take(&mut self.records), std::mem::take(&mut self.ends));
        if !ends.is_empty() {
            self.pieces.push(Piece { records: records.into(), ends });
        }
    }

    fn finish(mut self) -> Vec<Piece> {
        self.close();
        self.pieces
    }
}

/// Calls `take` with every record of `body`.
fn each(content: Content, body: &[u8], take: &mut dyn FnMut(&[u8])) -> Result<(), Malformed> {
    match content {
        Content::Lines => {
            let mut start = 0;
            for end in memchr_iter(b'\n', body).chain([body.len()]) {
                let line = body.get(start..end).unwrap_or_default();
                let ended = end < body.len();
                let line = line.strip_suffix(b"\r").filter(|_| ended).unwrap_or(line);
                if !line.is_empty() {
                    take(line);
                }
                start = end + 1;
            }
            Ok(())
        }
        Content::Json => {
            bound_depth(body)?;
            for value in serde_json::Deserializer::from_slice(body).into_iter::<&RawValue>() {
                let value = value.map_err(|error| Malformed(error.to_string()))?.get();
                if value.starts_with('[') {
                    let elements = serde_json::Deserializer::from_str(value).deserialize_seq(Elements(take));
                    elements.map_err(|error| Malformed(error.to_string()))?;
                } else {
                    take(value.as_bytes());
                }
            }
            Ok(())
        }
        Content::Whole => {
            if !body.is_empty() {
                take(body);
            }
            Ok(())
        }
    }
}

/// The elements of an array, each as the bytes that it has.
struct Elements<'a>(&'a mut dyn FnMut(&[u8]));

impl<'de> Visitor<'de> for Elements<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<(), A::Error> {
        while let Some(element) = elements.next_element::<&RawValue>()? {
            (self.0)(element.get().as_bytes());
        }
        Ok(())
    }
}

/// A reader keeps a note of every array and object that is open, so their number has a bound.
pub(super) fn bound_depth(body: &[u8]) -> Result<(), Malformed> {
    let (mut depth, mut at) = (0_usize, 0);
    while let Some(byte) = body.get(at) {
        at += 1;
        match byte {
            b'"' => at = behind_string(body, at),
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        // The array around the records is none of them.
        if depth > MAX_DEPTH + 1 {
            return Err(Malformed(format!("nested deeper than {MAX_DEPTH} levels at byte {}", at - 1)));
        }
    }
    Ok(())
}

/// Where the string ends that has begun before `at`.
fn behind_string(body: &[u8], mut at: usize) -> usize {
    while let Some(found) = memchr2(b'"', b'\\', body.get(at..).unwrap_or_default()) {
        let is_end = body.get(at + found) == Some(&b'"');
        at += found + if is_end { 1 } else { 2 };
        if is_end {
            return at;
        }
    }
    body.len()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn taking(delimiter: &'static str, max_record_bytes: usize) -> Taking {
        let delimiter = Delimiter::new(Bytes::from_static(delimiter.as_bytes()));
        Taking { delimiter, max_record_bytes, piece_bytes: 16 }
    }

    /// The records of `body`, checked against their plan.
    fn taken(taking: &Taking, content: Content, body: &[u8]) -> Result<Vec<Vec<u8>>, Malformed> {
        let plan = taking.plan(content, body)?;
        let pieces = taking.pieces(content, body, &plan);
        let sizes: Vec<_> = pieces.iter().map(|piece| piece.records.len() + piece.ends.len() * 4).collect();
        assert_eq!(plan.sizes().collect::<Vec<_>>(), sizes);
        let mut records = Vec::new();
        for Piece { records: bytes, ends } in &pieces {
            assert!(ends.len() == 1 || bytes.len() <= taking.piece_bytes);
            let mut start = 0;
            for end in ends {
                records.push(bytes[start..*end as usize].to_vec());
                start = *end as usize;
            }
            assert_eq!(start, bytes.len());
        }
        assert_eq!(records.len(), plan.records());
        Ok(records)
    }

    fn check(content: Content, body: &str, expected: &[&str]) {
        let records = taken(&taking("\n", 100), content, body.as_bytes()).unwrap();
        let expected: Vec<_> = expected.iter().map(|record| record.as_bytes().to_vec()).collect();
        assert_eq!(records, expected, "{body:?}");
    }

    // R-H2
    #[test]
    fn a_body_is_lines_json_or_one_record_by_its_type() {
        let of = Content::of;
        for lines in ["application/x-ndjson", "application/jsonl; charset=utf-8", "Text/Plain"] {
            assert_eq!(of(lines), Content::Lines, "{lines}");
        }
        for json in ["application/json", "application/json;charset=utf-8", "application/cloudevents+json"] {
            assert_eq!(of(json), Content::Json, "{json}");
        }
        for whole in ["", "application/octet-stream", "application/x-www-form-urlencoded", "text/html"] {
            assert_eq!(of(whole), Content::Whole, "{whole}");
        }
    }

    // R-H2
    #[test]
    fn records_keep_their_bytes_and_are_followed_by_the_delimiter_once() {
        check(Content::Lines, "one\r\n\n two \nthree", &["one\n", " two \n", "three\n"]);
        check(Content::Lines, "\n\r\n", &[]);
        check(Content::Json, "", &[]);
        check(Content::Json, " {\"a\": [1, 2] } ", &["{\"a\": [1, 2] }\n"]);
        check(
            Content::Json,
            "[ {\"a\":1.0},\"[\\\"\" , [3],null]",
            &["{\"a\":1.0}\n", "\"[\\\"\"\n", "[3]\n", "null\n"],
        );
        check(Content::Json, "{\"a\":1}\n{\"b\":2}[3]\n", &["{\"a\":1}\n", "{\"b\":2}\n", "3\n"]);
        check(Content::Json, "[]", &[]);
        check(Content::Whole, "one\ntwo\n", &["one\ntwo\n"]);
        check(Content::Whole, "one\r\ntwo", &["one\r\ntwo\n"]);
        check(Content::Whole, "", &[]);
    }

    // R-H3
    #[test]
    fn malformed_json_names_its_place_and_gives_nothing() {
        let check = |body: &str, place: &str| {
            let Malformed(said) = taken(&taking("\n", 100), Content::Json, body.as_bytes()).unwrap_err();
            assert!(said.contains(place), "{body:?}: {said}");
        };
        check("[1,\n2,,3]", "line 2 column 3");
        check("{\"a\":1}\n{\"b\"", "line 2 column 4");
        check("[1", "line 1 column 2");
        check("nonsense", "line 1 column");
        check(&"[".repeat(100_000), "nested deeper than 128 levels at byte 129");
        check("[\"\u{7}\"]", "line 1 column");
    }

    // R-H3
    #[test]
    fn records_that_are_too_long_are_counted_and_the_others_taken() {
        let taking = taking("\n", 5);
        let body = b"1234\n12345\n12\n1234567\n";
        let plan = taking.plan(Content::Lines, body).unwrap();
        assert_eq!((plan.records(), plan.too_long, plan.too_long_bytes), (2, 2, 12));
        assert_eq!(taken(&taking, Content::Lines, body).unwrap(), [b"1234\n".to_vec(), b"12\n".to_vec()]);
    }

    // R-H4
    #[test]
    fn the_window_of_a_body_is_that_of_its_widest_frame() {
        let compressed = |bytes: usize, level: i32, streamed: bool| {
            let plain: Vec<u8> = (0..=255).cycle().take(bytes).collect();
            let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), level).unwrap();
            if !streamed {
                encoder.set_pledged_src_size(Some(bytes as u64)).unwrap();
            }
            std::io::Write::write_all(&mut encoder, &plain).unwrap();
            encoder.finish().unwrap()
        };
        assert_eq!(window(&compressed(1000, 3, true)), Ok(21));
        for (bytes, log) in [(1, 10), (200, 10), (5000, 13), (300_000, 19)] {
            let log_of = window(&compressed(bytes, 3, false)).unwrap();
            assert!((log - 1..=log).contains(&log_of) || log_of == 10, "{bytes}: {log_of}");
        }
        let both = [compressed(5000, 3, false), compressed(1000, 3, true)].concat();
        assert_eq!(window(&both), Ok(21));
        assert_eq!(window(&compressed(1000, 19, true)), Ok(23));
        assert!(window(&compressed(1000, 22, true)).is_err());
        assert!(window(&both[..both.len() - 1]).is_err() && window(b"nonsense").is_err());
        assert_eq!(window(b""), Ok(10));
    }

    proptest! {
        #[test]
        fn any_lines_are_those_of_the_definition(body in "[ab\r\n]{0,60}", delimiter in prop_oneof![Just(""), Just("\n"), Just("--")]) {
            let records = taken(&taking(delimiter, 20), Content::Lines, body.as_bytes()).unwrap();
            let mut lines: Vec<&str> = body.split('\n').collect();
            let last = lines.pop().unwrap();
            let lines = lines.into_iter().map(|line| line.strip_suffix('\r').unwrap_or(line)).chain([last]);
            let expected: Vec<Vec<u8>> = lines
                .filter(|line| !line.is_empty())
                .map(|line| if line.ends_with(delimiter) { line.to_owned() } else { line.to_owned() + delimiter })
                .filter(|line| line.len() <= 20)
                .map(String::into_bytes)
                .collect();
            prop_assert_eq!(records, expected);
        }

        #[test]
        fn any_array_gives_its_elements(values in prop::collection::vec("[a-z\\[\\]\"\\\\]{0,8}", 0..20)) {
            let body = serde_json::to_vec(&values).unwrap();
            let records = taken(&taking("\n", 100), Content::Json, &body).unwrap();
            let expected: Vec<_> = values.iter().map(|value| serde_json::to_string(value).unwrap() + "\n").collect();
            prop_assert_eq!(records, expected.into_iter().map(String::into_bytes).collect::<Vec<_>>());
        }

        #[test]
        fn any_bytes_are_records_or_refused(body in prop::collection::vec(any::<u8>(), 0..200)) {
            for content in [Content::Lines, Content::Json, Content::Whole] {
                drop(taken(&taking("\n", 50), content, &body));
            }
        }
    }
}
