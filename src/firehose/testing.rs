//! Spans for the tests of this room.

use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;

use super::{Operation, Put};
use crate::budget::Reservation;
use crate::record::{Chunk, Span};

/// One span of `records`, which must not be empty.
pub(crate) fn span(records: &[impl AsRef<[u8]>]) -> Span {
    let (mut bytes, mut ends) = (Vec::new(), Vec::new());
    for record in records {
        bytes.extend_from_slice(record.as_ref());
        ends.push(u32::try_from(bytes.len()).expect("test records are small"));
    }
    #[expect(clippy::disallowed_methods, reason = "when a test's records were received does not matter")]
    let received = std::time::Instant::now();
    let chunk = Chunk::new(Bytes::from(bytes), ends.into(), received, Reservation::none());
    Span::whole(Arc::new(chunk)).expect("a test span has records")
}

/// One to four spans of one to eight small records each.
pub(crate) fn spans() -> impl Strategy<Value = Vec<Span>> {
    let record = prop::collection::vec(any::<u8>(), 0..40);
    let records = prop::collection::vec(record, 1..8);
    prop::collection::vec(records.prop_map(|records| span(&records)), 1..4)
}

/// `spans` on `stream`, each record by itself.
pub(crate) fn put(stream: &str, spans: Vec<Span>) -> Put {
    Put {
        stream: stream.into(),
        operation: Operation::PutRecordBatch,
        spans: spans.into(),
        packed: None,
        members: None,
    }
}

/// Spans that are packed somehow, or not.
pub(crate) fn puts() -> impl Strategy<Value = Put> {
    (spans(), any::<Option<u8>>()).prop_map(|(spans, cuts)| {
        let spans_len = u32::try_from(spans.len()).expect("a few");
        let put = put("s", spans);
        let packed =
            cuts.map(|cuts| (1..spans_len).filter(|end| cuts >> end & 1 == 1).chain([spans_len]).collect());
        Put { packed, ..put }
    })
}
