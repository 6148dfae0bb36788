//! The body of a `PutRecordBatch`: one exact allocation, filled by SIMD base64.
//!
//! The result is byte for byte what the SDK's own serialiser writes for the same records; the
//! SDK's way costs a temporary string per record and a buffer that grows by doubling.

use aws_smithy_json::serialize::JsonValueWriter;
use bytes::Bytes;

use super::{Entry, Put};
use crate::limits;
use crate::record::Span;

const STREAM: &str = r#"{"DeliveryStreamName":"#;
const RECORDS: &str = r#","Records":["#;
const RECORD_OPEN: &str = r#"{"Data":""#;
const RECORD_CLOSE: &str = r#""}"#;
const END: &str = "]}";

/// A control character, the longest escape there is: `\u0000`.
const LONGEST_ESCAPE: usize = 6;

/// Length of the base64 of `bytes` bytes, padding included.
const fn base64_len(bytes: usize) -> usize {
    bytes.div_ceil(3) * 4
}

/// Everything but the records' base64 and the stream's name, for `records` records.
const fn frame_len(records: usize) -> usize {
    let commas = records.saturating_sub(1);
    STREAM.len() + RECORDS.len() + END.len() + commas + records * (RECORD_OPEN.len() + RECORD_CLOSE.len())
}

/// `stream` as a JSON string, quotes included, escaped as the SDK escapes it.
fn quoted(stream: &str) -> String {
    let mut quoted = String::with_capacity(stream.len() + 2);
    JsonValueWriter::new(&mut quoted).string(stream);
    quoted
}

fn exact_len(quoted: &str, put: &Put) -> usize {
    let data: usize = put.entries().map(|entry| base64_len(entry.bytes())).sum();
    frame_len(put.entry_count()) + quoted.len() + data
}

/// Exact length in bytes of [`encode`]'s result for the same arguments.
#[must_use]
pub fn encoded_len(put: &Put) -> usize {
    exact_len(&quoted(&put.stream), put)
}

// snippet-start:[firehose.rust.hydrant.encode_batch]
/// The body of the `PutRecordBatch` request of `put`. Without records it is a request of none, which
/// the service refuses.
#[must_use]
pub fn encode(put: &Put) -> Bytes {
    let stream = quoted(&put.stream);
    let len = exact_len(&stream, put);
    let mut body = Vec::with_capacity(len);
    body.extend_from_slice(STREAM.as_bytes());
    body.extend_from_slice(stream.as_bytes());
    body.extend_from_slice(RECORDS.as_bytes());
    for (index, entry) in put.entries().enumerate() {
        if index > 0 {
            body.push(b',');
        }
        body.extend_from_slice(RECORD_OPEN.as_bytes());
        match entry {
            Entry::Record(record) => base64_simd::STANDARD.encode_append(record, &mut body),
            Entry::Packed(spans) => append_joined(spans, &mut body),
        }
        body.extend_from_slice(RECORD_CLOSE.as_bytes());
    }
    body.extend_from_slice(END.as_bytes());
    assert_eq!(body.len(), len, "the length of a body is known before it is written");
    Bytes::from(body)
}
// snippet-end:[firehose.rust.hydrant.encode_batch]

/// The base64 of what `spans` hold, as if it were one slice: three bytes are four letters, and up to two
/// bytes of a span wait for the next one.
fn append_joined(spans: &[Span], body: &mut Vec<u8>) {
    let mut waiting = Vec::with_capacity(3);
    for span in spans {
        let mut data = span.data();
        if !waiting.is_empty() {
            let (missing, rest) = data.split_at(data.len().min(3 - waiting.len()));
            waiting.extend_from_slice(missing);
            data = rest;
            if waiting.len() < 3 {
                continue;
            }
            base64_simd::STANDARD.encode_append(&waiting, body);
            waiting.clear();
        }
        let (whole, rest) = data.split_at(data.len() - data.len() % 3);
        base64_simd::STANDARD.encode_append(whole, body);
        waiting.extend_from_slice(rest);
    }
    base64_simd::STANDARD.encode_append(&waiting, body);
}

/// An upper bound on the memory that [`encode`] takes for `records` records of `bytes` bytes in
/// all, on a stream whose name is `stream_name_len` bytes long. What a request holds until it is
/// answered; the records themselves not counted.
#[must_use]
pub const fn body_bytes(stream_name_len: usize, records: usize, bytes: usize) -> usize {
    // Each record's base64 is rounded up on its own: less than one group of four more apiece.
    frame_len(records) + 2 + stream_name_len * LONGEST_ESCAPE + base64_len(bytes) + 4 * records
}

/// The same bound for the SDK's own serialiser.
///
/// Its string grows by doubling, so that while it moves for the last time the old one (at most a
/// body long) and the new one (at most two) exist at once; beside them lie the base64 of the
/// record being written and one `Record` for each.
#[must_use]
pub const fn stock_body_bytes(stream_name_len: usize, records: usize, bytes: usize) -> usize {
    let largest = if bytes < limits::MAX_RECORD_BYTES { bytes } else { limits::MAX_RECORD_BYTES };
    3 * body_bytes(stream_name_len, records, bytes)
        + base64_len(largest)
        + records * size_of::<aws_sdk_firehose::types::Record>()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::firehose::testing;

    // R-B3
    #[test]
    fn a_body_is_the_json_that_the_service_documents() {
        let check = |stream: &str, records: &[&[u8]], expected: &str| {
            assert_eq!(encode(&testing::put(stream, vec![testing::span(records)])), expected.as_bytes());
        };
        check("s", &[b"a"], r#"{"DeliveryStreamName":"s","Records":[{"Data":"YQ=="}]}"#);
        check("s", &[b"abc", b""], r#"{"DeliveryStreamName":"s","Records":[{"Data":"YWJj"},{"Data":""}]}"#);
        check("a\"\u{1}", &[b"ab"], r#"{"DeliveryStreamName":"a\"\u0001","Records":[{"Data":"YWI="}]}"#);
    }

    proptest! {
        // R-B6
        #[test]
        fn counts_alone_bound_a_body(stream in "\\PC{0,8}|[\\x00-\\x1f\"]{0,8}", put in testing::puts()) {
            let put = Put { stream: stream.as_str().into(), ..put };
            let bytes = put.spans.iter().map(Span::bytes).sum();
            let len = encode(&put).len();
            prop_assert_eq!(len, encoded_len(&put));
            prop_assert!(len <= body_bytes(stream.len(), put.entry_count(), bytes));
            prop_assert!(len <= stock_body_bytes(stream.len(), put.entry_count(), bytes));
        }

        // R-A1
        #[test]
        fn a_packed_record_is_its_records_one_behind_the_other(put in testing::puts()) {
            let body: serde_json::Value = serde_json::from_slice(&encode(&put)).unwrap();
            let sent: Vec<Vec<u8>> = body["Records"].as_array().unwrap().iter()
                .map(|record| base64_simd::STANDARD.decode_to_vec(record["Data"].as_str().unwrap()).unwrap())
                .collect();
            let all: Vec<u8> = put.spans.iter().flat_map(Span::iter).flatten().copied().collect();
            prop_assert_eq!(sent.concat(), all);
            prop_assert_eq!(sent.len(), put.entry_count());
        }
    }
}
