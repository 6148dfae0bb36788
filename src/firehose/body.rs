//! The body of a `PutRecordBatch`, filled by SIMD base64: whole in one exact allocation, or piece by piece.
//!
//! The result is byte for byte what the SDK's own serialiser writes for the same records; the
//! SDK's way costs a temporary string per record and a buffer that grows by doubling.
//!
//! A body that is sent piece by piece is encoded twice, once to be hashed and once to be sent.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use aws_smithy_json::serialize::JsonValueWriter;
use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use sha2::{Digest, Sha256};

use super::bodies::Round;
use super::{Entry, Put};
use crate::limits;
use crate::record::Span;

const STREAM: &str = r#"{"DeliveryStreamName":"#;
const RECORDS: &str = r#","Records":["#;
const RECORD_OPEN: &str = r#"{"Data":""#;
const RECORD_CLOSE: &str = r#""}"#;
const END: &str = "]}";

/// Bytes of a piece; the last one of a record's data may be a little longer.
const PIECE_BYTES: usize = 64 * 1024;
/// What a piece may take beside [`PIECE_BYTES`] without being moved: the frame of the body around it.
const PIECE_SLACK: usize = 1024;

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
    let mut body = Vec::with_capacity(encoded_len(put));
    encode_into(put, &mut body);
    Bytes::from(body)
}

/// Appends [`encode`]'s result to `body`, which is empty.
pub(super) fn encode_into(put: &Put, body: &mut Vec<u8>) {
    let stream = quoted(&put.stream);
    let len = exact_len(&stream, put);
    body.extend_from_slice(STREAM.as_bytes());
    body.extend_from_slice(stream.as_bytes());
    body.extend_from_slice(RECORDS.as_bytes());
    for (index, entry) in put.entries().enumerate() {
        if index > 0 {
            body.push(b',');
        }
        body.extend_from_slice(RECORD_OPEN.as_bytes());
        match entry {
            Entry::Record(record) => base64_simd::STANDARD.encode_append(record, body),
            Entry::Packed(spans) => append_joined(spans, body),
        }
        body.extend_from_slice(RECORD_CLOSE.as_bytes());
    }
    body.extend_from_slice(END.as_bytes());
    assert_eq!(body.len(), len, "the length of a body is known before it is written");
}
// snippet-end:[firehose.rust.hydrant.encode_batch]

/// What of a body comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Head,
    Open,
    Data,
    Close,
    End,
    Nothing,
}

/// Writes the body of `put` piece by piece.
#[derive(Debug)]
struct Encoder {
    put: Put,
    stream: String,
    next: Next,
    /// Number of the Firehose record, and of those that there are.
    entry: usize,
    entries: usize,
    /// Where its data goes on: the span, the span's record where each goes by itself, the byte.
    span: usize,
    record: usize,
    byte: usize,
    /// Its last slice was written.
    is_written: bool,
    /// Up to two bytes that wait for a third.
    waiting: Vec<u8>,
}

impl Encoder {
    fn new(put: Put) -> Self {
        Self {
            stream: quoted(&put.stream),
            next: Next::Head,
            entry: 0,
            entries: put.entry_count(),
            span: 0,
            record: 0,
            byte: 0,
            is_written: false,
            waiting: Vec::with_capacity(3),
            put,
        }
    }

    /// Appends to `piece` until it has about `bytes`; nothing once the body is whole.
    fn fill(&mut self, piece: &mut Vec<u8>, bytes: usize) {
        while piece.len() < bytes {
            match self.next {
                Next::Head => {
                    piece.extend_from_slice(STREAM.as_bytes());
                    piece.extend_from_slice(self.stream.as_bytes());
                    piece.extend_from_slice(RECORDS.as_bytes());
                    self.next = if self.entries == 0 { Next::End } else { Next::Open };
                }
                Next::Open => {
                    if self.entry > 0 {
                        piece.push(b',');
                    }
                    piece.extend_from_slice(RECORD_OPEN.as_bytes());
                    (self.is_written, self.next) = (false, Next::Data);
                }
                Next::Data => self.fill_data(piece, bytes),
                Next::Close => {
                    piece.extend_from_slice(RECORD_CLOSE.as_bytes());
                    self.entry += 1;
                    self.next = if self.entry < self.entries { Next::Open } else { Next::End };
                }
                Next::End => {
                    piece.extend_from_slice(END.as_bytes());
                    self.next = Next::Nothing;
                }
                Next::Nothing => return,
            }
        }
    }

    /// As much of a slice of the record's data as `piece` has room for, or what waited for more of it.
    fn fill_data(&mut self, piece: &mut Vec<u8>, bytes: usize) {
        // Borrowed apart from the data.
        let mut waiting = std::mem::take(&mut self.waiting);
        if let Some(slice) = self.slice() {
            let room = (bytes.saturating_sub(piece.len()) / 4 * 3).max(3);
            let data = slice.get(self.byte..).unwrap_or(&[]);
            let (data, rest) = data.split_at(data.len().min(room));
            append(data, &mut waiting, piece);
            let (taken, is_whole) = (data.len(), rest.is_empty());
            self.byte += taken;
            if is_whole {
                self.pass_slice();
            }
        } else {
            base64_simd::STANDARD.encode_append(&waiting, piece);
            waiting.clear();
            self.next = Next::Close;
        }
        self.waiting = waiting;
    }

    /// The slice of the record's data that is being written.
    fn slice(&self) -> Option<&[u8]> {
        if let Some(members) = &self.put.members {
            return members.get(self.entry).filter(|_| !self.is_written).map(|member| &member[..]);
        }
        let span = self.put.spans.get(self.span);
        match &self.put.packed {
            Some(ends) => span
                .filter(|_| ends.get(self.entry).is_some_and(|end| self.span < *end as usize))
                .map(Span::data),
            None => span.filter(|_| !self.is_written)?.get(self.record),
        }
    }

    fn pass_slice(&mut self) {
        self.byte = 0;
        if self.put.packed.is_some() && self.put.members.is_none() {
            self.span += 1;
            return;
        }
        self.is_written = true;
        self.record += 1;
        if self.put.spans.get(self.span).is_some_and(|span| self.record >= span.records()) {
            (self.span, self.record) = (self.span + 1, 0);
        }
    }
}

/// A body that is encoded while it is sent.
#[derive(Debug)]
pub(super) struct Pieces {
    encoder: Encoder,
    left: usize,
    memory: Arc<Round>,
}

impl Pieces {
    /// The body of the `PutRecordBatch` request of `put`.
    pub(super) fn new(put: Put) -> Self {
        Self { left: encoded_len(&put), encoder: Encoder::new(put), memory: Arc::default() }
    }

    /// The body's SHA-256 in hexadecimal digits, as a signature has it.
    pub(super) fn digest(put: Put) -> String {
        let (mut encoder, mut sha256) = (Encoder::new(put), Sha256::new());
        let mut piece = Vec::with_capacity(PIECE_BYTES + PIECE_SLACK);
        loop {
            piece.clear();
            encoder.fill(&mut piece, PIECE_BYTES);
            if piece.is_empty() {
                break;
            }
            sha256.update(&piece);
        }
        hex::encode(sha256.finalize())
    }
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let Self { encoder, left, memory } = self.get_mut();
        let piece = memory.piece(PIECE_BYTES + PIECE_SLACK, |piece| encoder.fill(piece, PIECE_BYTES));
        *left = left.saturating_sub(piece.len());
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(u64::try_from(self.left).unwrap_or(u64::MAX))
    }
}

/// The base64 of what `spans` hold, as if it were one slice: three bytes are four letters, and up to two
/// bytes of a span wait for the next one.
fn append_joined(spans: &[Span], body: &mut Vec<u8>) {
    let mut waiting = Vec::with_capacity(3);
    for span in spans {
        append(span.data(), &mut waiting, body);
    }
    base64_simd::STANDARD.encode_append(&waiting, body);
}

/// Appends the base64 of `waiting` and `data`, up to two bytes of which then wait.
fn append(mut data: &[u8], waiting: &mut Vec<u8>, body: &mut Vec<u8>) {
    if !waiting.is_empty() {
        let (missing, rest) = data.split_at(data.len().min(3 - waiting.len()));
        waiting.extend_from_slice(missing);
        data = rest;
        if waiting.len() < 3 {
            return;
        }
        base64_simd::STANDARD.encode_append(&waiting[..], body);
        waiting.clear();
    }
    let (whole, rest) = data.split_at(data.len() - data.len() % 3);
    base64_simd::STANDARD.encode_append(whole, body);
    waiting.extend_from_slice(rest);
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

        // R-B3
        #[test]
        fn a_body_in_pieces_is_the_whole_one(put in testing::puts(), members in any::<bool>(), bytes in 1_usize..200) {
            let joined = |entry: crate::firehose::Entry| entry.pieces().flatten().copied().collect::<Bytes>();
            let members = members.then(|| put.entries().map(joined).collect());
            let put = Put { members, ..put };
            let whole = encode(&put);
            let (mut encoder, mut all) = (Encoder::new(put.clone()), Vec::new());
            loop {
                let mut piece = Vec::new();
                encoder.fill(&mut piece, bytes);
                if piece.is_empty() {
                    break;
                }
                all.extend_from_slice(&piece);
            }
            prop_assert_eq!(&all[..], &whole[..]);
            prop_assert_eq!(Pieces::digest(put), hex::encode(Sha256::digest(&whole)));
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
