//! `syslog`: messages of RFC 5424 and RFC 3164, behind their length or up to their end.
//!
//! RFC 6587 has both ways of framing, and its section 3.4.2 tells them apart: a frame that begins with a
//! digit from 1 to 9 is a decimal length, a space and as many bytes (*octet counting*); any other goes to
//! the next LF or NUL, whose CR does not belong to it. Each frame is looked at anew. NULs at the end of a
//! message, and line ends at that of a counted one, do not belong to it either; an empty one is none.
//!
//! As `raw` a record is the message as it came, as `json` an object of its parts ([`message`]).

mod message;

use bytes::{Buf, BytesMut};
use memchr::memchr2;

use self::message::Message;
use super::{Delimiter, Framed, Framer, Skip, Skipped, count, offset};

/// What may be more than the longest message, before the LF that ends it.
const CR_BYTES: usize = 1;
/// Most digits of a length: 4 GiB has ten.
const MAX_DIGITS: usize = 10;
/// More than the keys and punctuation of a message's JSON take beside what it consists of.
const JSON_BYTES: usize = 56;
/// Most bytes of JSON for one of a message.
const ESCAPED_BYTES: usize = 6;

/// Frames one connection.
#[derive(Debug)]
pub struct Syslog {
    delimiter: Delimiter,
    /// Most bytes of a record, its delimiter included, and of a message.
    max_record_bytes: usize,
    format: Format,
    skipping: Option<Skipping>,
}

/// What becomes of a message.
#[derive(Debug)]
enum Format {
    Raw,
    Json,
}

/// A message that is not taken.
#[derive(Debug)]
enum Skipping {
    /// Bytes still to come, and the message, where it was not reported yet.
    Counted(u64, Option<Skipped>),
    /// To the next end: bytes seen so far.
    Ended(Skipped),
}

/// What a buffer begins with.
enum Frame {
    /// A message between these two, and so many bytes behind it that end it.
    Whole(usize, usize, usize),
    /// A counted one, of which too little is there: its length with all that precedes the message, and
    /// its own.
    Counted(usize, usize),
    /// One whose end is not there, after so many bytes.
    Ended,
    /// Too little to tell.
    Unknown,
}

impl Frame {
    /// What `bytes` begin with; the first `seen` are known to hold no end.
    fn at(bytes: &[u8], seen: usize) -> Self {
        if matches!(bytes.first(), Some(b'1'..=b'9')) {
            let digits = bytes.iter().take(MAX_DIGITS + 1).take_while(|byte| byte.is_ascii_digit()).count();
            match bytes.get(digits) {
                _ if digits > MAX_DIGITS => {}
                None => return Self::Unknown,
                Some(b' ') => {
                    let digits_of = bytes.get(..digits).unwrap_or_default();
                    let length =
                        digits_of.iter().fold(0, |length: u64, digit| length * 10 + u64::from(digit - b'0'));
                    let length = usize::try_from(length).unwrap_or(usize::MAX);
                    let start = digits + 1;
                    return match start.checked_add(length).filter(|end| *end <= bytes.len()) {
                        Some(end) => Self::Whole(start, end, 0),
                        None => Self::Counted(start, length),
                    };
                }
                Some(_) => {}
            }
        }
        match memchr2(b'\n', 0, bytes.get(seen..).unwrap_or_default()) {
            Some(end) => Self::Whole(0, seen + end, 1),
            None => Self::Ended,
        }
    }
}

impl Syslog {
    /// A framer at the start of a message, of records as they came.
    #[must_use]
    pub fn raw(delimiter: Delimiter, max_record_bytes: usize) -> Self {
        Self { delimiter, max_record_bytes, format: Format::Raw, skipping: None }
    }

    /// A framer at the start of a message, of records as objects of their parts.
    #[must_use]
    pub fn json(delimiter: Delimiter, max_record_bytes: usize) -> Self {
        Self { format: Format::Json, ..Self::raw(delimiter, max_record_bytes) }
    }

    /// What goes before and behind a datagram of `bytes` bytes, one at least, so that several one behind the
    /// other are counted messages.
    #[must_use]
    pub fn datagram(bytes: usize) -> (String, &'static [u8]) {
        (format!("{bytes} "), b"")
    }

    /// Appends `message` as a record, unless it is too long or empty.
    fn append(&self, message: &[u8], records: &mut Vec<u8>, framed: &mut Framed) {
        let bytes = count(message.len());
        let end = message.iter().rposition(|byte| !matches!(byte, b'\n' | b'\r' | 0));
        let Some(message) = end.and_then(|end| message.get(..=end)) else { return };
        let start = records.len();
        match self.format {
            Format::Raw if message.len() <= self.max_record_bytes => records.extend_from_slice(message),
            Format::Raw => {}
            Format::Json => Message::parse(message).write(records, self.max_record_bytes),
        }
        let written = records.len() - start;
        let delimiter = self.delimiter.after(records.get(start..).unwrap_or_default());
        if written == 0 || written + delimiter.len() > self.max_record_bytes {
            records.truncate(start);
            framed.skipped.push(Skipped { bytes, why: Skip::TooLong });
            return;
        }
        records.extend_from_slice(delimiter);
        framed.ends.push(offset(records.len()));
    }

    /// Goes on skipping at the front of `buffer`.
    fn skip(&mut self, buffer: &mut BytesMut, framed: &mut Framed) {
        match self.skipping.take() {
            None => {}
            Some(Skipping::Counted(left, message)) => {
                let skipped = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
                buffer.advance(skipped);
                match left - count(skipped) {
                    0 => framed.skipped.extend(message),
                    left => self.skipping = Some(Skipping::Counted(left, message)),
                }
            }
            Some(Skipping::Ended(mut message)) => {
                let end = memchr2(b'\n', 0, buffer);
                message.bytes += count(end.unwrap_or(buffer.len()));
                match end {
                    Some(end) => {
                        buffer.advance(end + 1);
                        framed.skipped.push(message);
                    }
                    None => {
                        buffer.clear();
                        self.skipping = Some(Skipping::Ended(message));
                    }
                }
            }
        }
    }
}

impl Framer for Syslog {
    fn frame(&mut self, buffer: &mut BytesMut, seen: usize) -> Framed {
        let mut framed = Framed::default();
        let mut seen = if self.skipping.is_some() { 0 } else { seen };
        self.skip(buffer, &mut framed);
        let mut records = Vec::new();
        let mut start = 0;
        loop {
            let rest = buffer.get(start..).unwrap_or_default();
            match Frame::at(rest, std::mem::take(&mut seen)) {
                Frame::Whole(from, to, ends) => {
                    // What is known of it before its end is there.
                    let most = self.max_record_bytes + if ends == 0 { 0 } else { CR_BYTES };
                    if to - from > most {
                        framed.skipped.push(Skipped { bytes: count(to - from), why: Skip::TooLong });
                    } else {
                        self.append(rest.get(from..to).unwrap_or_default(), &mut records, &mut framed);
                    }
                    start += to + ends;
                }
                Frame::Counted(from, length) if length > self.max_record_bytes => {
                    framed.skipped.push(Skipped { bytes: count(length), why: Skip::TooLong });
                    let left = length - (rest.len() - from);
                    self.skipping = Some(Skipping::Counted(count(left), None));
                    start = buffer.len();
                    break;
                }
                Frame::Ended if rest.len() > self.max_record_bytes + CR_BYTES => {
                    let message = Skipped { bytes: count(rest.len()), why: Skip::TooLong };
                    self.skipping = Some(Skipping::Ended(message));
                    start = buffer.len();
                    break;
                }
                Frame::Counted(..) | Frame::Ended | Frame::Unknown => break,
            }
        }
        buffer.advance(start);
        // No larger than its records, so that whoever holds them knows what they take.
        records.shrink_to_fit();
        framed.records = records.into();
        framed
    }

    /// A message without its end is one; a counted one that ends early is not.
    fn finish(&mut self, buffer: &mut BytesMut) -> Framed {
        let mut framed = Framed::default();
        let rest = buffer.split();
        match self.skipping.take() {
            Some(Skipping::Counted(_, message)) => framed.skipped.extend(message),
            Some(Skipping::Ended(message)) => framed.skipped.push(message),
            None if matches!(Frame::at(&rest, rest.len()), Frame::Counted(..)) => {
                framed.skipped.push(Skipped { bytes: count(rest.len()), why: Skip::Incomplete });
            }
            None => {
                let mut records = Vec::new();
                self.append(&rest, &mut records, &mut framed);
                framed.records = records.into();
            }
        }
        framed
    }

    /// What is less than a length stays: it can't be told what it begins.
    fn abandon(&mut self, buffer: &mut BytesMut, why: Skip) {
        let seen = buffer.len();
        self.skipping = match self.skipping.take() {
            None => match Frame::at(buffer, seen) {
                Frame::Unknown if seen > 0 => return,
                Frame::Counted(from, length) => {
                    let message = Skipped { bytes: count(length), why };
                    Some(Skipping::Counted(count(length - (seen - from)), Some(message)))
                }
                Frame::Whole(..) | Frame::Ended | Frame::Unknown => {
                    Some(Skipping::Ended(Skipped { bytes: count(seen), why }))
                }
            },
            skipping => skipping,
        };
        *buffer = BytesMut::new();
    }

    /// Of a message that began before these bytes, a whole record can come.
    fn overhead(&self, bytes: usize) -> usize {
        // The shortest message is a byte and its end.
        let each = size_of::<u32>() + self.delimiter.as_bytes().len();
        let messages = bytes / 2 + 1;
        self.max_record_bytes
            + match self.format {
                Format::Raw => bytes + messages * each,
                Format::Json => bytes * ESCAPED_BYTES + messages * (each + JSON_BYTES),
            }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;

    fn raw(max: usize) -> Syslog {
        Syslog::raw(Delimiter::new(Bytes::from_static(b"\n")), max)
    }

    fn json(max: usize) -> Syslog {
        Syslog::json(Delimiter::new(Bytes::from_static(b"\n")), max)
    }

    /// The records and what was skipped of `bytes`, cut after `cut`.
    fn read(mut syslog: Syslog, bytes: &[u8], cut: usize) -> (Vec<Bytes>, Vec<Skipped>) {
        let (mut buffer, mut records, mut skipped) = (BytesMut::new(), Vec::new(), Vec::new());
        for piece in [&bytes[..cut], &bytes[cut..]] {
            let seen = buffer.len();
            buffer.extend_from_slice(piece);
            let framed = syslog.frame(&mut buffer, seen);
            records.extend(framed.iter());
            skipped.extend(framed.skipped);
        }
        let last = syslog.finish(&mut buffer);
        assert!(buffer.is_empty());
        records.extend(last.iter());
        skipped.extend(last.skipped);
        (records, skipped)
    }

    fn skip(bytes: usize, why: Skip) -> Skipped {
        Skipped { bytes: count(bytes), why }
    }

    // R-Y1
    #[test]
    fn messages_are_the_same_wherever_they_are_cut() {
        let long = "l".repeat(61);
        let bytes = format!(
            "<1>ended\r\n<2>by nul\0\n4 <3>c5 a\nb\n\n12x ended\n12345678901 ended\n62 {long}!{long}\n61 {long}7 \0after\0last"
        );
        let expected =
            ["<1>ended", "<2>by nul", "<3>c", "a\nb", "12x ended", "12345678901 ended", "\0after", "last"];
        let expected: Vec<_> = expected.iter().map(|record| Bytes::from(format!("{record}\n"))).collect();
        let skipped = [62, 61, 61].map(|bytes| skip(bytes, Skip::TooLong));
        for cut in 0..=bytes.len() {
            let (records, left_out) = read(raw(60), bytes.as_bytes(), cut);
            assert_eq!(records, expected, "at {cut}");
            assert_eq!(left_out, skipped, "at {cut}");
            assert_eq!(
                read(json(200), bytes.as_bytes(), cut),
                read(json(200), bytes.as_bytes(), 0),
                "at {cut}"
            );
        }
    }

    // R-Y1
    #[test]
    fn a_counted_message_that_ends_early_is_incomplete_and_any_other_is_one() {
        assert_eq!(read(raw(60), b"5 <1>a", 2), (vec![], vec![skip(6, Skip::Incomplete)]));
        assert_eq!(read(raw(60), b"<1>a", 2), (vec![Bytes::from_static(b"<1>a\n")], vec![]));
        assert_eq!(read(raw(60), b"123", 2), (vec![Bytes::from_static(b"123\n")], vec![]));
    }

    #[test]
    fn one_that_is_given_up_is_skipped_to_its_end() {
        for (first, rest) in [("9 <1>", "abcdef2 ok"), ("<1>abc", "def\n2 ok")] {
            let mut syslog = raw(60);
            let mut buffer = BytesMut::from(first);
            assert!(syslog.frame(&mut buffer, 0).ends.is_empty());
            syslog.abandon(&mut buffer, Skip::Unfinished);
            assert!(buffer.is_empty());
            buffer.extend_from_slice(rest.as_bytes());
            let framed = syslog.frame(&mut buffer, 0);
            assert_eq!(framed.skipped, [skip(9, Skip::Unfinished)]);
            assert_eq!(&framed.records[..], b"ok\n");
        }
    }

    #[test]
    fn a_claim_of_gigabytes_holds_nothing() {
        let mut syslog = json(60);
        let mut buffer = BytesMut::from("4294967295 ");
        let framed = syslog.frame(&mut buffer, 0);
        assert_eq!(framed.skipped, [skip(u32::MAX as usize, Skip::TooLong)]);
        for _ in 0..100 {
            buffer.extend_from_slice(&[7; 1000]);
            assert!(syslog.frame(&mut buffer, 0).ends.is_empty() && buffer.is_empty());
        }
    }

    // R-Y2
    #[test]
    fn a_record_that_is_too_long_as_json_is_left_out_alone() {
        let (records, skipped) = read(json(40), b"<1>a\nbcd\n\x01\x01\x01\x01\x01\n", 0);
        assert_eq!(records, [&b"{\"message\":\"bcd\"}\n"[..]]);
        assert_eq!(skipped, [skip(4, Skip::TooLong), skip(5, Skip::TooLong)]);
    }

    // R-Y3
    #[test]
    fn a_datagram_is_a_message_whatever_is_in_it() {
        let datagrams = [&b"<1>two\nlines"[..], b"7 counted", b"nul\0"];
        let mut buffer = Vec::new();
        for datagram in datagrams {
            let (before, after) = Syslog::datagram(datagram.len());
            buffer.extend([before.as_bytes(), datagram, after].concat());
        }
        assert_eq!(read(raw(60), &buffer, 0).0, [&b"<1>two\nlines\n"[..], b"7 counted\n", b"nul\n"]);
    }

    proptest! {
        #[test]
        fn any_bytes_are_framed_within_what_was_reserved(
            parts in prop::collection::vec(prop::sample::select(vec![
                &b"\n"[..], b"<8>", b"<9>1 - - - - - [a b=\"\"]", b"\x01", b"\xff", b"1 x", b"3 ", b"Oct 11 22:14:15 a:", b"x",
            ]), 0..100), is_json: bool,
        ) {
            let bytes = parts.concat();
            let mut syslog = if is_json { json(1000) } else { raw(1000) };
            let mut buffer = BytesMut::from(&bytes[..]);
            let framed = syslog.frame(&mut buffer, 0);
            let most = syslog.overhead(bytes.len()) - 1000;
            prop_assert!(framed.ends.len() * 4 + framed.records.len() <= most);
            prop_assert_eq!(framed.ends.last().map_or(0, |end| *end as usize), framed.records.len());
        }
    }
}
