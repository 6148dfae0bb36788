//! Framers: the same records, skips and answers however a stream is cut, within the memory that they ask for, and
//! what a naive reader finds.

use bytes::{Bytes, BytesMut};
use hydrant::framing::forward::{NONCE_BYTES, Settings, SharedKey};
use hydrant::framing::{Delimiter, Forward, Framed, Framer, Frames, Lines, Skip, Skipped, Syslog};
use serde_json::value::RawValue;

use super::{DELIMITERS, Input};

/// More than a framer keeps of what it can't yet tell, or was told to give up.
const FEW_BYTES: usize = 16;

/// All that came of a stream.
#[derive(Debug, Default, PartialEq, Eq)]
struct Outcome {
    records: Vec<Bytes>,
    skipped: Vec<Skipped>,
    /// With the number of records before each.
    replies: Vec<(usize, Bytes)>,
    broken: Option<&'static str>,
}

impl Outcome {
    fn take(&mut self, framed: Framed) {
        assert_eq!(framed.ends.last().map_or(0, |end| *end as usize), framed.records.len());
        assert!(framed.ends.is_sorted());
        let before = self.records.len();
        self.records.extend(framed.iter());
        self.skipped.extend(framed.skipped);
        self.replies.extend(framed.replies.into_iter().map(|reply| (before + reply.records, reply.bytes)));
        self.broken = self.broken.or(framed.broken);
    }
}

/// How a stream arrives, and what its framer may hold.
struct Way {
    delimiter: &'static [u8],
    max_record_bytes: usize,
    /// Where the stream is cut.
    cuts: Vec<usize>,
    /// The read after which an unfinished record is given up.
    abandoned: usize,
    /// Bytes that may be unfinished beside a record.
    beside: usize,
}

impl Way {
    /// Takes it off the front of `input`, and leaves the stream.
    fn of(input: &mut Input<'_>) -> Self {
        let delimiter = input.one_of(&DELIMITERS);
        let max_record_bytes = input.one_of(&[8, 24, 100, 1000]);
        let cuts = input.byte() % 6;
        let cuts: Vec<_> = (0..cuts).map(|_| input.short()).collect();
        let length = input.0.len() + 1;
        let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut % length).collect();
        cuts.sort_unstable();
        let abandoned = cuts.len() / 2;
        Self { delimiter, max_record_bytes, cuts, abandoned, beside: FEW_BYTES }
    }

    fn delimiter(&self) -> Delimiter {
        Delimiter::new(Bytes::from_static(self.delimiter))
    }

    /// Reads `stream` cut at `cuts`, and holds the framer to what it says that it needs.
    fn read(
        &self,
        framer: &mut impl Framer,
        stream: &[u8],
        cuts: &[usize],
        abandoned: Option<usize>,
    ) -> Outcome {
        let (mut buffer, mut outcome, mut start) = (BytesMut::new(), Outcome::default(), 0);
        for (index, end) in cuts.iter().copied().chain([stream.len()]).enumerate() {
            let mut seen = buffer.len();
            buffer.extend_from_slice(&stream[start..end]);
            start = end;
            for turn in 0.. {
                assert!(turn < 100_000, "it never ends");
                let (reserved, held, before) =
                    (framer.overhead(buffer.len() - seen), framer.held(), buffer.len());
                let framed = framer.frame(&mut buffer, seen);
                let replies: usize = framed.replies.iter().map(|reply| reply.bytes.len()).sum();
                let grown = framer.held().saturating_sub(held);
                let taken = framed.records.len() + framed.ends.len() * size_of::<u32>() + grown + replies;
                let shared = if framer.is_apart() { 0 } else { before };
                // What a handshake answers is no more than one.
                assert!(
                    taken <= reserved + shared + 256,
                    "{taken} bytes held, {reserved} + {shared} reserved"
                );
                assert!(buffer.len() <= before);
                let more = framed.more;
                outcome.take(framed);
                if !more {
                    break;
                }
                seen = buffer.len();
            }
            if outcome.broken.is_some() {
                return outcome;
            }
            let most = self.max_record_bytes + self.beside;
            assert!(buffer.len() <= most, "{} bytes unfinished", buffer.len());
            let is_unfinished = !buffer.is_empty() || framer.held() > 0;
            if abandoned == Some(index) && is_unfinished {
                framer.abandon(&mut buffer, Skip::Unfinished);
                assert!(buffer.len() <= FEW_BYTES, "{} bytes left of what was given up", buffer.len());
            }
        }
        outcome.take(framer.finish(&mut buffer));
        assert!(buffer.is_empty());
        outcome
    }

    /// What comes of the stream as a whole, however it is cut; of one of which something was given up, some of
    /// the same records in the same order.
    fn check<F: Framer>(&self, framer: impl Fn() -> F, stream: &[u8]) -> Outcome {
        let whole = self.read(&mut framer(), stream, &[], None);
        let cut = self.read(&mut framer(), stream, &self.cuts, None);
        // What is said of a stream that is none may depend on how much of it was seen.
        let cut = Outcome { broken: cut.broken.and(whole.broken), ..cut };
        assert!(cut == whole, "cut at {:?}: {cut:?}\nwhole: {whole:?}", self.cuts);
        for record in &whole.records {
            assert!(record.len() <= self.max_record_bytes && record.ends_with(self.delimiter));
        }
        if whole.broken.is_some() {
            // What is given up is not looked at closely enough to break.
            return whole;
        }
        let lossy = self.read(&mut framer(), stream, &self.cuts, Some(self.abandoned));
        let mut left = whole.records.iter();
        for record in &lossy.records {
            assert!(left.any(|other| other == record), "{record:?} came of nothing");
        }
        whole
    }

    /// The record in wire form, or what is said where that is too long.
    fn wire(&self, record: &[u8], framed_bytes: usize, outcome: &mut Outcome) {
        let mut wire = record.to_vec();
        if !wire.ends_with(self.delimiter) {
            wire.extend_from_slice(self.delimiter);
        }
        if wire.len() > self.max_record_bytes {
            outcome.skipped.push(skipped(framed_bytes, Skip::TooLong));
        } else {
            outcome.records.push(wire.into());
        }
    }
}

fn skipped(bytes: usize, why: Skip) -> Skipped {
    Skipped { bytes: bytes as u64, why }
}

/// `lines`, and a reader that splits at LF.
pub fn lines(bytes: &[u8]) {
    let mut input = Input(bytes);
    let way = Way::of(&mut input);
    let stream = input.0;
    let found = way.check(|| Lines::new(way.delimiter(), way.max_record_bytes), stream);
    let mut expected = Outcome::default();
    let mut lines: Vec<&[u8]> = stream.split(|byte| *byte == b'\n').collect();
    let last = lines.pop().unwrap_or_default();
    let ended = lines.into_iter().map(|line| (line, line.strip_suffix(b"\r").unwrap_or(line)));
    for (line, record) in ended.chain([(last, last)]).filter(|(_, record)| !record.is_empty()) {
        way.wire(record, line.len(), &mut expected);
    }
    assert_eq!(found, expected);
}

/// `frames`, and a reader that knows the whole stream.
pub fn frames(bytes: &[u8]) {
    let mut input = Input(bytes);
    let way = Way::of(&mut input);
    let stream = input.0;
    let found = way.check(|| Frames::new(way.delimiter(), way.max_record_bytes), stream);
    let (mut expected, mut rest) = (Outcome::default(), stream);
    while let Some((length, behind)) = rest.split_first_chunk() {
        let length = u32::from_be_bytes(*length) as usize;
        let is_whole = length <= behind.len();
        if length > way.max_record_bytes {
            expected.skipped.push(skipped(length, Skip::TooLong));
        } else if !is_whole {
            break;
        } else if length > 0 {
            way.wire(&behind[..length], length, &mut expected);
        }
        rest = &behind[length.min(behind.len())..];
    }
    if !rest.is_empty() {
        expected.skipped.push(skipped(rest.len(), Skip::Incomplete));
    }
    assert_eq!(found, expected);
}

/// `syslog`, raw and as JSON, and a reader of the framing that knows the whole stream.
pub fn syslog(bytes: &[u8]) {
    let mut input = Input(bytes);
    let way = Way::of(&mut input);
    let stream = input.0;
    let json = way.check(|| Syslog::json(way.delimiter(), way.max_record_bytes), stream);
    json.records.iter().for_each(|record| object(record, way.delimiter));
    let found = way.check(|| Syslog::raw(way.delimiter(), way.max_record_bytes), stream);
    let (mut expected, mut rest) = (Outcome::default(), stream);
    while !rest.is_empty() {
        let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let counted = (1..=10).contains(&digits) && rest[0] != b'0' && rest.get(digits) == Some(&b' ');
        let (message, ends, most) = if counted {
            let length: usize = std::str::from_utf8(&rest[..digits]).unwrap().parse().unwrap();
            let behind = &rest[digits + 1..];
            if length > way.max_record_bytes {
                expected.skipped.push(skipped(length, Skip::TooLong));
                rest = &behind[length.min(behind.len())..];
                continue;
            }
            if length > behind.len() {
                expected.skipped.push(skipped(rest.len(), Skip::Incomplete));
                break;
            }
            (&behind[..length], digits + 1 + length, way.max_record_bytes)
        } else {
            let end = rest.iter().position(|byte| matches!(byte, b'\n' | 0));
            let message = &rest[..end.unwrap_or(rest.len())];
            (message, message.len() + usize::from(end.is_some()), way.max_record_bytes + 1)
        };
        rest = &rest[ends..];
        let kept =
            message.iter().rposition(|byte| !matches!(byte, b'\n' | b'\r' | 0)).map_or(0, |last| last + 1);
        if message.len() > most {
            expected.skipped.push(skipped(message.len(), Skip::TooLong));
        } else if kept > 0 {
            way.wire(&message[..kept], message.len(), &mut expected);
        }
    }
    assert_eq!(found, expected);
}

/// `forward`, of which each record is an object on a line.
pub fn forward(bytes: &[u8]) {
    let mut input = Input(bytes);
    let choices = input.byte();
    let mut way = Way::of(&mut input);
    // A message's options, or its tag.
    way.beside = 17 * 1024;
    let key = |name: &str, bit: u8| if choices & bit == 0 { name.to_owned() } else { String::new() };
    let settings = Settings { time_key: key("time", 1), tag_key: key("tag", 2), answers: choices & 4 == 0 };
    let framer = || {
        let framer = Forward::new(way.delimiter(), way.max_record_bytes, &settings);
        match choices & 8 {
            0 => framer,
            _ => framer.with_key(SharedKey::new(Bytes::from_static(b"opensesame")), [7; NONCE_BYTES]).0,
        }
    };
    let found = way.check(framer, input.0);
    found.records.iter().for_each(|record| object(record, way.delimiter));
    for (before, _) in &found.replies {
        assert!(*before <= found.records.len());
    }
}

/// `record` is a line of JSON, and that an object.
fn object(record: &[u8], delimiter: &[u8]) {
    let json = record.strip_suffix(delimiter).unwrap();
    assert!(json.starts_with(b"{") && !json.iter().any(|byte| *byte < b' '), "{record:?}");
    let read: Result<&RawValue, _> = serde_json::from_slice(json);
    assert!(read.is_ok(), "{record:?}: {read:?}");
}
