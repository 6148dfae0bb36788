//! Messages by hand, cut everywhere, and whatever else arrives.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use proptest::prelude::*;
use serde_json::{Value as Json, json};

use super::handshake::client;
use super::*;

/// A value of `MessagePack`, for tests to write.
#[derive(Debug, Clone)]
enum Pack {
    Raw(Vec<u8>),
    Array(Vec<Pack>),
    Map(Vec<(Pack, Pack)>),
}

fn text(text: &str) -> Pack {
    let mut bytes = Vec::new();
    msgpack::put_str(&mut bytes, text.as_bytes());
    Pack::Raw(bytes)
}

fn number(number: u32) -> Pack {
    Pack::Raw([&[0xce][..], &number.to_be_bytes()].concat())
}

fn bin(bytes: &[u8]) -> Pack {
    Pack::Raw([&[0xc6][..], &u32::try_from(bytes.len()).unwrap().to_be_bytes(), bytes].concat())
}

fn event_time(seconds: u32, nanos: u32) -> Pack {
    Pack::Raw([&[0xd7, 0][..], &seconds.to_be_bytes(), &nanos.to_be_bytes()].concat())
}

fn raw(bytes: &[u8]) -> Pack {
    Pack::Raw(bytes.to_vec())
}

impl Pack {
    fn bytes(&self) -> Vec<u8> {
        let head = |small: u8, large: u8, length: usize| match u8::try_from(length) {
            Ok(length @ ..16) => vec![small | length],
            _ => [&[large][..], &u32::try_from(length).unwrap().to_be_bytes()].concat(),
        };
        match self {
            Self::Raw(bytes) => bytes.clone(),
            Self::Array(values) => {
                let values = values.iter().flat_map(Self::bytes);
                head(0x90, 0xdd, values_of(self)).into_iter().chain(values).collect()
            }
            Self::Map(members) => {
                let members = members.iter().flat_map(|(key, value)| [key.bytes(), value.bytes()].concat());
                head(0x80, 0xdf, values_of(self)).into_iter().chain(members).collect()
            }
        }
    }
}

fn values_of(pack: &Pack) -> usize {
    match pack {
        Pack::Raw(_) => 0,
        Pack::Array(values) => values.len(),
        Pack::Map(members) => members.len(),
    }
}

fn record(members: &[(&str, Pack)]) -> Pack {
    Pack::Map(members.iter().map(|(key, value)| (text(key), value.clone())).collect())
}

fn log(line: &str) -> Pack {
    record(&[("log", text(line))])
}

fn entry(time: Pack, record: Pack) -> Pack {
    Pack::Array(vec![time, record])
}

fn entries(lines: &[&str]) -> Vec<Pack> {
    lines.iter().map(|line| entry(number(1), log(line))).collect()
}

fn packed(entries: &[Pack]) -> Vec<u8> {
    entries.iter().flat_map(Pack::bytes).collect()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn chunk(id: &str) -> Pack {
    record(&[("size", number(7)), ("chunk", text(id))])
}

fn message(parts: Vec<Pack>) -> Vec<u8> {
    Pack::Array(parts).bytes()
}

fn settings() -> Settings {
    Settings { time_key: "time".to_owned(), tag_key: "tag".to_owned(), answers: true }
}

fn framer(max_record_bytes: usize) -> Forward {
    Forward::new(Delimiter::new(Bytes::from_static(b"\n")), max_record_bytes, &settings())
}

/// What a framer makes of `buffer` in as many calls as it takes.
fn everything(forward: &mut Forward, buffer: &mut BytesMut) -> Framed {
    let mut all = forward.frame(buffer, 0);
    while all.more {
        let seen = buffer.len();
        let framed = forward.frame(buffer, seen);
        let accepted = all.ends.len();
        all.ends.extend(framed.ends);
        all.skipped.extend(framed.skipped);
        let told = framed.replies.into_iter();
        all.replies.extend(told.map(|reply| Reply { records: accepted + reply.records, ..reply }));
        (all.broken, all.more) = (framed.broken, framed.more);
    }
    all
}

/// All that came of a stream.
#[derive(Debug, Default, PartialEq, Eq)]
struct Read {
    records: Vec<Bytes>,
    skipped: Vec<Skipped>,
    /// With the number of records before each.
    replies: Vec<(usize, Bytes)>,
    broken: Option<&'static str>,
    most_held: usize,
}

impl Read {
    fn lines(&self) -> Vec<&str> {
        self.records.iter().map(|record| std::str::from_utf8(record).unwrap()).collect()
    }
}

/// Reads the `pieces`, and holds the framer to what it said that it would need.
fn feed<'a>(forward: &mut Forward, pieces: impl IntoIterator<Item = &'a [u8]>) -> Read {
    let (mut buffer, mut read) = (BytesMut::new(), Read::default());
    for piece in pieces {
        let mut seen = buffer.len();
        buffer.extend_from_slice(piece);
        loop {
            let (reserved, held) = (forward.overhead(buffer.len() - seen), forward.held());
            let before = buffer.len();
            let framed = forward.frame(&mut buffer, seen);
            let replies: usize = framed.replies.iter().map(|reply| reply.bytes.len()).sum();
            let grown = forward.held().saturating_sub(held);
            let taken = framed.records.len() + framed.ends.len() * 4 + grown + replies;
            assert!(taken <= reserved, "{taken} bytes held, {reserved} reserved");
            assert_eq!(framed.ends.last().map_or(0, |end| *end as usize), framed.records.len());
            assert!(buffer.len() <= before);
            let accepted = read.records.len();
            read.records.extend(framed.iter());
            read.skipped.extend(framed.skipped);
            let told = framed.replies.into_iter();
            read.replies.extend(told.map(|reply| (accepted + reply.records, reply.bytes)));
            read.broken = read.broken.or(framed.broken);
            read.most_held = read.most_held.max(forward.held() + buffer.len());
            if !framed.more {
                break;
            }
            seen = buffer.len();
        }
        if read.broken.is_some() {
            return read;
        }
    }
    let last = forward.finish(&mut buffer);
    assert!(last.ends.is_empty() && buffer.is_empty());
    read.skipped.extend(last.skipped);
    read
}

fn read(bytes: &[u8]) -> Read {
    feed(&mut framer(1000), [bytes])
}

fn ack(records: usize, id: &str) -> (usize, Bytes) {
    let mut bytes = b"\x81\xa3ack".to_vec();
    msgpack::put_str(&mut bytes, id.as_bytes());
    (records, bytes.into())
}

/// The one record of a message with `record`.
fn only(record: Pack) -> String {
    let read = read(&message(vec![text("t"), number(0), record]));
    assert_eq!((read.records.len(), read.broken), (1, None), "{read:?}");
    read.lines()[0].to_owned()
}

/// Every mode, with every kind of neighbour.
fn stream() -> Vec<u8> {
    let long = "l".repeat(1200);
    let lines = ["one", "two \"quoted\"", "", &long, "fünf"];
    let pack = packed(&entries(&lines));
    let (front, back) = pack.split_at(40);
    let members = [gzip(front), gzip(b""), gzip(back)].concat();
    let bare =
        entry(Pack::Array(vec![event_time(1, 5), record(&[("meta", number(1))])]), log("with metadata"));
    [
        message(vec![text("message"), number(1), log("bare")]),
        vec![0xc0],
        message(vec![text("message"), event_time(1, 2), log("timed"), chunk("first")]),
        message(vec![text("forward"), Pack::Array(entries(&lines)), chunk("second")]),
        message(vec![text("forward"), Pack::Array(vec![bare]), raw(&[0xc0])]),
        message(vec![text("packed"), bin(&pack), chunk("third")]),
        message(vec![text("packed"), bin(&pack)]),
        message(vec![text("packed"), bin(b""), chunk("empty")]),
        message(vec![
            text("packed"),
            bin(&members),
            record(&[("compressed", text("gzip")), ("chunk", text("4th"))]),
        ]),
        message(vec![
            text("packed"),
            bin(&packed(&[entry(number(1), raw(&[0xc0])), entry(number(1), log("last"))])),
        ]),
    ]
    .concat()
}

// R-F1, R-F5
#[test]
fn every_mode_gives_the_same_records_and_answers_wherever_it_is_cut() {
    let bytes = stream();
    let whole = read(&bytes);
    assert_eq!(whole.broken, None);
    let count =
        |tag: &str| whole.lines().iter().filter(|line| line.contains(&format!("\"tag\":\"{tag}\""))).count();
    assert_eq!([count("message"), count("forward"), count("packed")], [2, 5, 13]);
    assert_eq!(
        whole.lines()[0],
        "{\"log\":\"bare\",\"time\":\"1970-01-01T00:00:01Z\",\"tag\":\"message\"}\n"
    );
    assert_eq!(
        whole.lines()[1],
        "{\"log\":\"timed\",\"time\":\"1970-01-01T00:00:01.000000002Z\",\"tag\":\"message\"}\n"
    );
    assert_eq!(
        whole.replies,
        [ack(2, "first"), ack(6, "second"), ack(11, "third"), ack(15, "empty"), ack(19, "4th")]
    );
    let why: Vec<_> = whole.skipped.iter().map(|skipped| skipped.why).collect();
    assert_eq!(why, [[Skip::TooLong; 4].as_slice(), &[Skip::Malformed]].concat());
    for cut in 0..=bytes.len() {
        let cut_read = feed(&mut framer(1000), [&bytes[..cut], &bytes[cut..]]);
        let expected = Read { most_held: cut_read.most_held, ..read(&bytes) };
        assert_eq!(cut_read, expected, "at {cut}");
    }
    let single = feed(&mut framer(1000), bytes.chunks(1));
    assert_eq!(single, Read { most_held: single.most_held, ..whole });
}

// R-F2
#[test]
fn what_json_has_no_form_for_has_one() {
    let check = |value: &[u8], expected: &str| {
        let json = only(record(&[("v", raw(value))]));
        let expected = format!("{{\"v\":{expected},\"time\":\"1970-01-01T00:00:00Z\",\"tag\":\"t\"}}\n");
        assert_eq!(json, expected, "{value:02x?}");
        assert!(serde_json::from_str::<Json>(&json).is_ok());
    };
    check(&[0xc0], "null");
    check(&[0xcf, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], "18446744073709551615");
    check(&[0xd3, 0x80, 0, 0, 0, 0, 0, 0, 0], "-9223372036854775808");
    check(&[0xe0], "-32");
    check(&[0xcb, 0x7f, 0xf0, 0, 0, 0, 0, 0, 0], "null");
    check(&[0xca, 0x7f, 0xc0, 0, 0], "null");
    check(&[0xca, 0x3d, 0xcc, 0xcc, 0xcd], "0.1");
    check(&[0xcb, 0x7f, 0xef, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], "1.7976931348623157e308");
    check(b"\xc4\x03a\xffb", "\"a\u{fffd}b\"");
    check(b"\xa5\x00\x1f\"\\\n", r#""\u0000\u001f\"\\\n""#);
    check(&[0xd6, 0x05, 1, 2, 3, 4], "\"AQIDBA==\"");
    check(&event_time(1_700_000_000, 1_000_000_001).bytes(), "\"2023-11-14T22:13:21.000000001Z\"");
    check(&[0x93, 0xc2, 0xc3, 0x81, 0x01, 0x80], "[false,true,{\"1\":{}}]");
    check(&[0x82, 0xc0, 0x90, 0xd4, 0x09, 7, 0xa0], "{\"null\":[],\"Bw==\":\"\"}");
}

// R-F2
#[test]
fn a_record_keeps_its_own_time_and_tag_and_double_keys() {
    let json =
        only(record(&[("time", text("mine")), ("a", number(1)), ("a", number(2)), ("tag", number(3))]));
    assert_eq!(json, "{\"time\":\"mine\",\"a\":1,\"a\":2,\"tag\":3}\n");
    assert_eq!(only(record(&[])), "{\"time\":\"1970-01-01T00:00:00Z\",\"tag\":\"t\"}\n");
    let mut bare = Forward::new(
        Delimiter::new(Bytes::new()),
        100,
        &Settings { time_key: String::new(), tag_key: String::new(), answers: false },
    );
    let bytes = message(vec![text("t"), number(0), log("x"), chunk("unanswered")]);
    let read = feed(&mut bare, [&bytes[..]]);
    assert_eq!(read.lines(), ["{\"log\":\"x\"}"]);
    assert!(read.replies.is_empty());
}

// R-F2
#[test]
fn times_are_rfc_3339_as_far_as_that_goes() {
    let check = |time: Pack, expected: &str| {
        let read = read(&message(vec![text(""), time, record(&[])]));
        assert_eq!(read.lines(), [format!("{{\"time\":{expected},\"tag\":\"\"}}\n")], "{read:?}");
    };
    check(number(1_709_164_800), "\"2024-02-29T00:00:00Z\"");
    check(event_time(u32::MAX, 999_999_999), "\"2106-02-07T06:28:15.999999999Z\"");
    check(Pack::Raw([&[0xc7, 8, 0][..], &[0; 8]].concat()), "\"1970-01-01T00:00:00.000000000Z\"");
    check(raw(&[0xcb, 0x3f, 0xf8, 0, 0, 0, 0, 0, 0]), "\"1970-01-01T00:00:01.500000000Z\"");
    // Milliseconds, which a producer took for seconds.
    check(raw(&[0xcf, 0, 0, 1, 0x8b, 0xcf, 0xe5, 0x68, 0]), "1700000000000");
    check(raw(&[0xff]), "-1");
}

// R-F4
#[test]
fn a_record_that_is_too_long_or_none_is_skipped_alone_and_its_chunk_is_answered() {
    let nested = |depth: usize| [vec![0x91; depth], vec![0xc0]].concat();
    let deep = |depth| entry(number(1), record(&[("deep", raw(&nested(depth)))]));
    let controls = "\u{1}".repeat(300);
    let body = [
        deep(63),
        deep(64),
        entry(number(1), log(&controls)),
        entry(text("no time"), log("x")),
        entry(number(1), text("no record")),
        entry(number(1), Pack::Map(vec![(Pack::Array(vec![]), number(1))])),
        entry(number(1), log("taken")),
    ];
    let read = read(&message(vec![text("t"), bin(&packed(&body)), chunk("whole")]));
    assert_eq!((read.records.len(), read.broken), (2, None), "{read:?}");
    let why: Vec<_> = read.skipped.iter().map(|skipped| skipped.why).collect();
    assert_eq!(why, [Skip::Malformed, Skip::TooLong, Skip::Malformed, Skip::Malformed, Skip::Malformed]);
    assert_eq!(read.replies, [ack(2, "whole")]);
}

// R-F6
#[test]
fn what_is_no_forward_is_said_and_what_was_before_it_is_kept() {
    let before = message(vec![text("t"), number(1), log("before")]);
    let check = |bytes: &[u8], expected: &str| {
        let bytes = [&before, bytes].concat();
        for cut in 0..=bytes.len() {
            let read = feed(&mut framer(1000), [&bytes[..cut], &bytes[cut..]]);
            assert_eq!((read.records.len(), read.broken), (1, Some(expected)), "at {cut}: {read:?}");
        }
    };
    check(b"{\"json\"", "a message is no array of two to four");
    check(&[0xc1], "a byte is no MessagePack");
    check(&[0x92, 0x01], "a tag is no string");
    check(&[0x92, 0xdb, 0xff, 0xff, 0xff, 0xff], "a tag is longer than 1024 bytes");
    check(&[0x92, 0xa1, b't', 0x80], "a message has no entries");
    check(&[0x94, 0xa1, b't', 0x90], "a message has more parts than the protocol knows");
    check(&[0x92, 0xa1, b't', 0x91, 0x05], "an entry is no pair of a time and a record");
    check(&[0x92, 0xa1, b't', 0xc4, 2, 0x92, 0x01], "a chunk ends within an entry");
    check(&[0x92, 0xa1, b't', 0xc4, 1, 0x28], "a chunk is compressed with something else than gzip");
    check(
        &[0x92, 0xa1, b't', 0xc4, 12, 0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 7, 7],
        "a chunk is no gzip, or is damaged",
    );
    check(&[0x93, 0xa1, b't', 0x90, 0x01], "the options of a message are no map");
    check(
        &[0x93, 0xa1, b't', 0x90, 0x81, 0xdd, 0xff, 0xff, 0xff, 0xff],
        "the options of a message are longer than 16 KiB",
    );
    let cut_off = gzip(&packed(&entries(&["cut off"])));
    let cut_off = message(vec![text("t"), bin(&cut_off[..cut_off.len() - 1])]);
    assert_eq!(read(&cut_off).broken, Some("a chunk ends within its gzip"));
}

// R-F6
#[test]
fn claims_of_four_gigabytes_hold_nothing() {
    for claim in [&[0xc6][..], &[0xdb], &[0xdd], &[0xdf], &[0xc9]] {
        let claim = [claim, &[0xff; 4], if claim == [0xc9] { &[5][..] } else { &[] }].concat();
        let value = [&[0x93, 0xa1, b't', 0x01, 0x81, 0xa1, b'k'][..], &claim].concat();
        let filling = [0; 1000];
        let read = feed(&mut framer(1000), [&value[..]].into_iter().chain([&filling[..]; 50]));
        assert!(
            read.most_held < 1200 && read.records.is_empty() && read.broken.is_none(),
            "{claim:?}: {read:?}"
        );
        assert_eq!(read.skipped.len(), 1);
    }
    let pieces = [&[0x92, 0xa1, b't', 0xdd, 0xff, 0xff, 0xff, 0xff][..], &packed(&entries(&["a", "b"]))];
    let read = feed(&mut framer(1000), pieces);
    assert_eq!((read.records.len(), read.broken), (2, None));
}

// R-F5
#[test]
fn a_chunk_of_any_size_is_taken_within_little_memory_compressed_or_not() {
    let line = "x".repeat(500);
    let body = packed(&vec![entry(number(1), log(&line)); 20_000]);
    let pieces = |bytes: &[u8], most: usize| {
        let read = feed(&mut framer(1000), bytes.chunks(8192));
        assert_eq!((read.records.len(), read.broken), (20_000, None));
        assert_eq!(read.replies, [ack(20_000, "large")]);
        assert!(read.most_held < most, "{} bytes held", read.most_held);
    };
    pieces(&message(vec![text("t"), bin(&body), chunk("large")]), 10_000);
    let compressed = message(vec![text("t"), bin(&gzip(&body)), chunk("large")]);
    assert!(compressed.len() * 20 < body.len());
    pieces(&compressed, 90_000);
}

// R-F5
#[test]
fn a_bomb_is_skipped_within_little_memory() {
    let bomb = [&[0x92, 0x01, 0x81, 0xa1, b'k', 0xc6, 0x04, 0, 0, 0][..], &vec![0; 64 << 20]].concat();
    let body = gzip(&[bomb, packed(&entries(&["after"]))].concat());
    assert!(body.len() < 1 << 19);
    let read = feed(&mut framer(1000), message(vec![text("t"), bin(&body), chunk("bomb")]).chunks(1 << 18));
    assert_eq!((read.records.len(), read.skipped.len(), read.broken), (1, 1, None));
    assert!(read.most_held < (1 << 18) + 90_000, "{} bytes held", read.most_held);
    // Empty members cost more to read than to send, so that a call reads few.
    let members = gzip(b"").repeat(5000);
    let mut forward = framer(1000);
    let mut buffer = BytesMut::from(&message(vec![text("t"), bin(&members), chunk("empty")])[..]);
    let (mut calls, mut seen) = (0, 0);
    while forward.frame(&mut buffer, seen).more {
        (calls, seen) = (calls + 1, buffer.len());
    }
    assert!((100..1000).contains(&calls), "{calls} calls");
}

// R-F3
#[test]
fn a_message_that_lost_a_record_is_not_answered_and_the_next_one_is() {
    let body = [entry(number(1), log("first")), entry(number(1), log("second"))];
    let first = message(vec![text("t"), Pack::Array(body.to_vec()), chunk("lost")]);
    let second = message(vec![text("t"), Pack::Array(body.to_vec()), chunk("kept")]);
    let cut = first.len() - 25;
    // Dropped for want of room.
    let mut forward = framer(1000);
    let mut buffer = BytesMut::from(&first[..cut]);
    assert!(!forward.frame(&mut buffer, 0).ends.is_empty());
    forward.dropped();
    buffer.extend_from_slice(&[&first[cut..], &second].concat());
    let framed = forward.frame(&mut buffer, 0);
    assert_eq!(framed.replies.len(), 1);
    assert_eq!(framed.replies[0].bytes, ack(0, "kept").1);
}

// R-F3
#[test]
fn what_is_given_up_is_skipped_to_its_end_and_not_answered() {
    let body = packed(&entries(&["first", "second", "third"]));
    let modes = [
        message(vec![text("t"), Pack::Array(entries(&["first", "second", "third"])), chunk("x")]),
        message(vec![text("t"), bin(&body), chunk("x")]),
        message(vec![text("t"), bin(&gzip(&body)), chunk("x")]),
        message(vec![text("t"), number(1), log("only"), chunk("x")]),
    ];
    let after = message(vec![text("t"), number(1), log("after"), chunk("after")]);
    for bytes in modes {
        let all = read(&bytes).records.len();
        for cut in 0..bytes.len() {
            let mut forward = framer(1000);
            let mut buffer = BytesMut::from(&bytes[..cut]);
            let first = everything(&mut forward, &mut buffer);
            let was_over = buffer.is_empty();
            forward.abandon(&mut buffer, Skip::Unfinished);
            assert!(buffer.len() < 6 && forward.held() < 100);
            buffer.extend_from_slice(&[&bytes[cut..], &after].concat());
            let rest = everything(&mut forward, &mut buffer);
            let records = first.ends.len() + rest.ends.len();
            if rest.broken.is_some() {
                assert!(!was_over && buffer.is_empty(), "at {cut}: {:?}", rest.broken);
                continue;
            }
            assert_eq!(rest.replies.last().unwrap().bytes, ack(0, "after").1, "at {cut}");
            let skipped = first.skipped.len() + rest.skipped.len();
            let is_whole = records == all + 1;
            // Of gzip nobody knows whether there is more in it.
            assert!(is_whole || skipped == 1, "at {cut}: {records} records, {skipped} skipped");
            // Whoever was given up has to send again.
            assert!(skipped == 0 || rest.replies.len() == 1, "at {cut}");
        }
    }
}

// R-F7
#[test]
fn a_producer_that_knows_the_key_is_heard_and_no_other() {
    let keyed = || framer(1000).with_key(SharedKey::new(Bytes::from_static(b"opensesame")), [7; NONCE_BYTES]);
    let said = message(vec![text("t"), number(1), log("secret")]);
    let (_, helo) = keyed();
    assert_eq!(helo.records, 0);
    let ping = client::ping(&helo.bytes, b"opensesame", b"producer");
    for cut in 0..=ping.len() {
        let bytes = [&ping, &said[..]].concat();
        let read = feed(&mut keyed().0, [&bytes[..cut], &bytes[cut..]]);
        assert_eq!((read.records.len(), read.broken, read.replies.len()), (1, None, 1), "at {cut}");
        let pong = &read.replies[0].1;
        assert!(
            pong.starts_with(b"\x95\xa4PONG\xc3\xa0\xa7hydrant\xd9\x80") && pong.len() == 146,
            "{pong:?}"
        );
    }
    let refused = |bytes: &[u8], pongs: usize, why: &str| {
        let read = feed(&mut keyed().0, [&[bytes, &said].concat()[..]]);
        assert!(read.records.is_empty());
        assert_eq!((read.replies.len(), read.broken), (pongs, Some(why)));
        read
    };
    let wrong = client::ping(&helo.bytes, b"opensesamE", b"producer");
    let read = refused(&wrong, 1, "its shared key is not the listener's");
    assert_eq!(&read.replies[0].1[..], b"\x95\xa4PONG\xc2\xb3shared_key mismatch\xa0\xa0");
    let no_ping = "its first message is no PING, and this listener asks for a shared key";
    refused(&[], 0, no_ping);
    refused(&[0x96, 0xdb, 0, 0xff, 0xff, 0xff], 0, no_ping);
    // Of another connection.
    let other = framer(1000).with_key(SharedKey::new(Bytes::from_static(b"opensesame")), [8; NONCE_BYTES]).1;
    let replayed = client::ping(&other.bytes, b"opensesame", b"producer");
    refused(&replayed, 1, "its shared key is not the listener's");
    assert_eq!(format!("{:?}", SharedKey::new(Bytes::from_static(b"opensesame"))), "SharedKey(…)");
}

fn leaf() -> impl Strategy<Value = (Pack, Json)> {
    prop_oneof![
        any::<u32>().prop_map(|value| (number(value), json!(value))),
        any::<i64>().prop_map(|value| (raw(&[&[0xd3][..], &value.to_be_bytes()].concat()), json!(value))),
        // Such that serde_json reads them exactly.
        any::<i32>().prop_map(|eighths| {
            let value = f64::from(eighths) / 8.0;
            (raw(&[&[0xcb][..], &value.to_be_bytes()].concat()), json!(value))
        }),
        any::<bool>().prop_map(|value| (raw(&[0xc2 + u8::from(value)]), json!(value))),
        "\\PC{0,40}".prop_map(|value| (text(&value), json!(value))),
        proptest::collection::vec(any::<u8>(), 0..40)
            .prop_map(|value| (bin(&value), json!(String::from_utf8_lossy(&value)))),
        Just((raw(&[0xc0]), Json::Null)),
    ]
}

fn value() -> impl Strategy<Value = (Pack, Json)> {
    leaf().prop_recursive(4, 40, 8, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..8).prop_map(|values| {
                let (packs, values): (Vec<_>, Vec<_>) = values.into_iter().unzip();
                (Pack::Array(packs), Json::Array(values))
            }),
            proptest::collection::btree_map("[a-z\"\u{1}ü]{0,6}", inner, 0..8).prop_map(|members| {
                let pack = members.iter().map(|(key, (pack, _))| (text(key), pack.clone())).collect();
                (Pack::Map(pack), members.into_iter().map(|(key, (_, value))| (key, value)).collect())
            }),
        ]
    })
}

proptest! {
    // R-F2
    #[test]
    fn json_says_what_was_packed((pack, expected) in value()) {
        let bytes = message(vec![text("t"), number(0), record(&[("value", pack)])]);
        let read = feed(&mut framer(100_000), [&bytes[..]]);
        prop_assert_eq!(read.records.len(), 1);
        let parsed: Json = serde_json::from_slice(&read.records[0]).unwrap();
        prop_assert_eq!(&parsed["value"], &expected);
    }

    // R-F5, R-F6
    #[test]
    fn any_bytes_in_any_pieces_are_read_within_what_was_reserved(
        bytes in proptest::collection::vec(
            prop_oneof![
                4 => any::<u8>(),
                2 => prop::sample::select(&[0x91, 0x92, 0x93, 0x81, 0xa1, 0xc4, 0x01, 0xc0, 0xdd][..]),
            ],
            0..600,
        ),
        change in 0usize..2000, to: u8, size in 1usize..300, max in 8usize..400,
    ) {
        feed(&mut framer(max), bytes.chunks(size));
        let mut damaged = stream();
        let place = change % damaged.len();
        damaged[place] = to;
        let by_pieces = feed(&mut framer(max), damaged.chunks(size));
        let whole = feed(&mut framer(max), [&damaged[..]]);
        prop_assert_eq!((by_pieces.records, by_pieces.broken), (whole.records, whole.broken));
    }
}
