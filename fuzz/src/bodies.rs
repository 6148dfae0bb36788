//! Bodies and headers of requests and answers.

use std::io::Read;
use std::sync::LazyLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use hydrant::config::{Secret, SigningKey};
use hydrant::firehose::all_delivered;
use hydrant::framing::Delimiter;
use hydrant::framing::firehose::{ListBody, NameBody, decode_puts, parse, stream_name, unescape_slashes};
use hydrant::framing::http::{Content, Encoding, Taking, window};
use hydrant::limits::{MAX_BATCH_BYTES, MAX_BATCH_RECORDS, MAX_RECORD_BYTES};
use hydrant::listener::signature::Claimed;
use hydrant::local::Operation;
use hydrant::local::cloudwatch::cbor;
use serde_json::Value;

use super::{DELIMITERS, Input};

/// A body of the protocol `http`, plain or compressed.
pub fn http(bytes: &[u8]) {
    let mut input = Input(bytes);
    let content = input.one_of(&[Content::Lines, Content::Json, Content::Whole]);
    let delimiter = input.one_of(&DELIMITERS);
    let max_record_bytes = input.one_of(&[8, 24, 1000]);
    let taking = Taking {
        delimiter: Delimiter::new(Bytes::from_static(delimiter)),
        max_record_bytes,
        piece_bytes: 64,
    };
    let body = input.0;
    compressed(body);
    assert_eq!(Encoding::named(body), Encoding::named(&body.to_ascii_uppercase()));
    if let Ok(name) = std::str::from_utf8(body) {
        assert_eq!(Content::of(name), Content::of(&name.to_ascii_uppercase()));
    }

    let expected = naive(content, body);
    let Ok(plan) = taking.plan(content, body) else {
        assert!(expected.is_none(), "a body that is whole was refused");
        return;
    };
    let mut records = Vec::new();
    let pieces = taking.pieces(content, body, &plan);
    let sizes = pieces.iter().map(|piece| piece.records.len() + piece.ends.len() * size_of::<u32>());
    assert!(plan.sizes().eq(sizes), "{plan:?}");
    for piece in &pieces {
        assert!(piece.ends.len() == 1 || piece.records.len() <= taking.piece_bytes);
        let mut start = 0;
        for end in piece.ends.iter().map(|end| *end as usize) {
            records.push(&piece.records[start..end]);
            start = end;
        }
        assert_eq!(start, piece.records.len());
    }
    assert_eq!(records.len(), plan.records());
    for record in &records {
        assert!(record.len() <= max_record_bytes && record.ends_with(delimiter));
    }
    let Some(expected) = expected else { return };
    assert_eq!(records.len() + plan.too_long, expected.len());
    let mut expected = expected.into_iter();
    for record in records {
        // One that ends with the delimiter keeps it.
        let short = record.strip_suffix(delimiter).unwrap();
        let is = |found: &[u8], expected: &Naive| match expected {
            Naive::Bytes(bytes) => found == *bytes,
            Naive::Json(value) => serde_json::from_slice::<Value>(found).is_ok_and(|found| found == *value),
        };
        assert!(expected.any(|expected| is(short, &expected) || is(record, &expected)), "{record:?}");
    }
}

enum Naive<'a> {
    Bytes(&'a [u8]),
    Json(Value),
}

/// The records of `body`, if a naive reader can tell.
fn naive(content: Content, body: &[u8]) -> Option<Vec<Naive<'_>>> {
    Some(match content {
        Content::Whole => Vec::from_iter((!body.is_empty()).then_some(Naive::Bytes(body))),
        Content::Lines => {
            let mut lines: Vec<_> = body.split(|byte| *byte == b'\n').collect();
            let last = lines.pop();
            let ended = lines.into_iter().map(|line| line.strip_suffix(b"\r").unwrap_or(line));
            ended.chain(last).filter(|line| !line.is_empty()).map(Naive::Bytes).collect()
        }
        Content::Json => {
            let values = serde_json::Deserializer::from_slice(body).into_iter::<Value>();
            let values: Result<Vec<_>, _> = values.collect();
            let elements = values.ok()?.into_iter().flat_map(|value| match value {
                Value::Array(elements) => elements,
                value @ (Value::Null
                | Value::Bool(_)
                | Value::Number(_)
                | Value::String(_)
                | Value::Object(_)) => {
                    vec![value]
                }
            });
            elements.map(Naive::Json).collect()
        }
    })
}

/// What is said of the window of a body in zstd is enough to read it.
fn compressed(body: &[u8]) {
    let Ok(window) = window(body) else { return };
    assert!((10..=23).contains(&window));
    let mut decoder = zstd::stream::read::Decoder::new(body).unwrap();
    decoder.window_log_max(window).unwrap();
    if let Err(error) = decoder.take(1 << 16).read_to_end(&mut Vec::new()) {
        assert!(!error.to_string().contains("memory"), "a window of 2^{window} bytes: {error}");
    }
}

/// The bodies of `PutRecord` and `PutRecordBatch`, as listeners and the embedded service read them.
pub fn firehose(bytes: &[u8]) {
    let mut input = Input(bytes);
    let single = input.byte() % 2 == 1;
    let mut body = input.0.to_vec();
    let before: Option<Value> = serde_json::from_slice(&body).ok();
    unescape_slashes(&mut body);
    let after: Option<Value> = serde_json::from_slice(&body).ok();
    assert!(before.is_none() || before == after, "an escape was more than that");
    let puts = match decode_puts(single, &body) {
        Ok(puts) => puts,
        Err(error) => {
            assert!(error.status == 400 && !error.message.is_empty());
            return;
        }
    };
    assert!((1..=MAX_BATCH_RECORDS).contains(&puts.ends.len()) && puts.data.len() <= MAX_BATCH_BYTES);
    assert!(stream_name(Some(&puts.stream)).is_ok());
    assert_eq!(puts.ends.last().copied(), Some(puts.data.len()));
    let Some(value) = after else { return };
    assert_eq!(value["DeliveryStreamName"], puts.stream);
    let entries = match single {
        true => vec![value["Record"].clone()],
        false => value["Records"].as_array().unwrap().clone(),
    };
    assert_eq!(entries.len(), puts.ends.len());
    for (entry, record) in entries.iter().zip(puts.records()) {
        assert!(record.len() <= MAX_RECORD_BYTES);
        let text = entry["Data"].as_str().unwrap();
        assert_eq!(base64_simd::STANDARD.decode_to_vec(text).unwrap(), record);
    }
}

/// What else the embedded service reads: operations' names, bodies in JSON and in CBOR.
pub fn api(bytes: &[u8]) {
    let mut input = Input(bytes);
    let choice = input.byte() % 4;
    let body = input.0;
    match choice {
        0 => {
            let name = std::str::from_utf8(body).ok();
            name.and_then(Operation::named);
            assert!(stream_name(name).is_err() || stream_name(name).ok() == name);
        }
        1 => drop(parse::<NameBody>(body)),
        2 => drop(parse::<ListBody>(body)),
        _ => {
            let Ok(value) = cbor::decode(body) else { return };
            let again = cbor::decode(&cbor::encode(&value)).unwrap();
            assert_eq!(again, value);
        }
    }
}

/// What requests are signed with, and when.
static SIGNED: LazyLock<(SigningKey, SystemTime)> = LazyLock::new(|| {
    let key = SigningKey {
        access_key_id: "AKIDEXAMPLE".to_owned(),
        secret_access_key: Secret::new("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY".to_owned()),
    };
    // 2026-11-27T12:00:00Z
    (key, UNIX_EPOCH + Duration::from_secs(1_795_780_800))
});

/// The headers of a request, a line each, a blank one, and its body: no signature is right for two bodies.
pub fn signature(bytes: &[u8]) {
    let end = bytes.windows(2).position(|pair| pair == b"\n\n");
    let (head, body) = end.map_or((bytes, &[][..]), |end| (&bytes[..end], &bytes[end + 2..]));
    let mut headers = HeaderMap::new();
    for line in head.split(|byte| *byte == b'\n').take(100) {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
        let name = HeaderName::from_bytes(&line[..colon]);
        let value = HeaderValue::from_bytes(line[colon + 1..].trim_ascii());
        if let (Ok(name), Ok(value)) = (name, value) {
            headers.append(name, value);
        }
    }
    let (key, now) = &*SIGNED;
    match Claimed::read(&headers, "hydrant.example:4573", key, *now) {
        Err(error) => assert!(error.status == 400 && !error.message.is_empty()),
        Ok(claimed) => {
            let right = claimed.verify(body, key);
            let wrong = claimed.verify(&[body, b"!"].concat(), key);
            assert!(right.is_err() || wrong.is_err());
            let other = SigningKey { secret_access_key: Secret::new("another".to_owned()), ..key.clone() };
            assert!(claimed.verify(body, &other).is_err());
        }
    }
}

/// Answers to `PutRecordBatch`: what is said to be delivered is, by the JSON.
pub fn answer(bytes: &[u8]) {
    let mut input = Input(bytes);
    let records = usize::from(input.byte() % 5);
    let answer = input.0;
    if !all_delivered(answer, records) {
        return;
    }
    let value: Value = serde_json::from_slice(answer).expect("what was believed is JSON");
    assert_eq!(value["FailedPutCount"], 0);
    let entries = value["RequestResponses"].as_array().unwrap();
    assert_eq!(entries.len(), records);
    for entry in entries {
        assert!(
            entry.get("ErrorCode").is_none() && entry["RecordId"].as_str().is_some_and(|id| !id.is_empty())
        );
    }
}
