//! The service, behind one small trait.
//!
//! A [`Put`] is one attempt at sending; an [`Answer`] says which of its entries failed, a
//! [`PutError`] why the whole attempt did. Errors are classified here, once, from the SDK's typed
//! variants and the per-entry codes; nobody else looks at error texts.
//!
//! [`Watch`] looks at the stream from outside: what it is, and what CloudWatch knows of it.

use std::borrow::Cow;
use std::future::Future;
use std::sync::Arc;

use bytes::Bytes;

use crate::record::Span;

mod answer;
mod bodies;
pub mod body;
mod classify;
mod cloudwatch;
mod credentials;
mod description;
mod in_json;
mod pairs;
mod protocol;
pub mod proxy;
mod sdk;
pub mod sha256;
#[cfg(test)]
pub(crate) mod testing;
mod transport;
mod watch;

pub use answer::all_delivered;
pub use description::{Deaggregation, Description, Destination};
pub use sdk::{Sdk, Settings};
pub use transport::Outbound;
pub use watch::{Datapoint, Datum, Publication, Query, Statistic, Watch, WatchError};

/// The part of the SDK that looks for credentials or a region on a host that may be no instance: at
/// WARN it logs whole HTTP answers, again and again, about what our own sentence says once.
pub const NOISY_TARGET: &str = "aws_config::imds";

/// Which call carries an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    /// `PutRecord`: exactly one record.
    PutRecord,
    /// `PutRecordBatch`: 1 to 500 records.
    PutRecordBatch,
}

impl Operation {
    /// Both calls.
    pub const ALL: [Self; 2] = [Self::PutRecord, Self::PutRecordBatch];

    /// The API's name for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::PutRecord => "PutRecord",
            Self::PutRecordBatch => "PutRecordBatch",
        }
    }
}

/// One attempt at sending records to a delivery stream.
#[derive(Debug, Clone)]
pub struct Put {
    /// The delivery stream's name.
    pub stream: Arc<str>,
    /// The call to make.
    pub operation: Operation,
    /// The records in the order in which they are sent.
    pub spans: Arc<[Span]>,
    /// Where packed: the end of each Firehose record, as the number of spans before it. Without it
    /// every record is a Firehose record of its own.
    pub packed: Option<Arc<[u32]>>,
    /// Where compressed: what is sent of each Firehose record in place of what the spans hold.
    pub members: Option<Arc<[Bytes]>>,
}

/// One Firehose record of a request; entry `i` of the answer is about the `i`th of them.
#[derive(Debug, Clone, Copy)]
pub enum Entry<'a> {
    /// A producer's record, or the compressed member that stands for one or several.
    Record(&'a [u8]),
    /// Several, one behind the other.
    Packed(&'a [Span]),
}

impl Entry<'_> {
    /// Its bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        match self {
            Self::Record(record) => record.len(),
            Self::Packed(spans) => spans.iter().map(Span::bytes).sum(),
        }
    }

    /// Its bytes as slices, one behind the other.
    pub fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        let (record, spans) = match self {
            Self::Record(record) => (Some(*record), &[][..]),
            Self::Packed(spans) => (None, *spans),
        };
        record.into_iter().chain(spans.iter().map(Span::data))
    }
}

impl Put {
    /// What the request holds, in order.
    pub fn entries(&self) -> impl Iterator<Item = Entry<'_>> + Clone {
        let ends = self.packed.as_deref().unwrap_or(&[]);
        let mut start = 0;
        let packed = ends.iter().map(move |end| {
            let spans = self.spans.get(start as usize..*end as usize).unwrap_or(&[]);
            start = *end;
            Entry::Packed(spans)
        });
        let members = self.members.as_deref().unwrap_or(&[]);
        let packed = packed.take(if self.members.is_some() { 0 } else { usize::MAX });
        let is_single = self.packed.is_none() && self.members.is_none();
        let single = if is_single { &self.spans[..] } else { &[] };
        let members = members.iter().map(|member| &member[..]);
        members.chain(single.iter().flat_map(Span::iter)).map(Entry::Record).chain(packed)
    }

    /// What each Firehose record is that is no packed one, sharing its allocation.
    fn singles(&self) -> impl Iterator<Item = Bytes> + '_ {
        let members = self.members.as_deref().unwrap_or(&[]);
        let spans = if self.members.is_some() { &[] } else { &self.spans[..] };
        members.iter().cloned().chain(spans.iter().flat_map(Span::shared))
    }

    /// Number of Firehose records.
    #[must_use]
    pub fn entry_count(&self) -> usize {
        match (&self.members, &self.packed) {
            (Some(members), _) => members.len(),
            (None, Some(ends)) => ends.len(),
            (None, None) => self.spans.iter().map(Span::records).sum(),
        }
    }
}

/// What the service said of an attempt that it carried out, in whole or in part.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answer {
    /// The entries that failed, ascending by index; every other entry was delivered.
    pub failed: Vec<FailedEntry>,
    /// The record's id, known for [`Operation::PutRecord`] only.
    pub record_id: Option<String>,
}

/// An entry of a `PutRecordBatch` answer that carries an error code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailedEntry {
    /// Its place in the request.
    pub index: usize,
    /// [`Class::Throttled`] for `ServiceUnavailableException` and the throttling codes, else
    /// [`Class::Transient`]: the service documents no per-entry code that is final.
    pub class: Class,
    /// The service's `ErrorCode`.
    pub code: Cow<'static, str>,
}

/// What a failure asks of the sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// The stream's quota is spent, or the service sheds load: wait, then send the same again.
    Throttled,
    /// 5xx, timeout, connection, DNS, credentials that expired: wait, then send the same again.
    Transient,
    /// Missing stream, access denied, KMS, a stream of another type: a human has to act. The
    /// records are held and tried again slowly.
    Permanent,
    /// The request itself was refused, for its size or for what is in it: split it; a single
    /// record that is refused can never be delivered.
    Refused,
}

/// Why a whole attempt failed.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{code}: {message}")]
pub struct PutError {
    /// What the sender does next.
    pub class: Class,
    /// The service's error code; `http_503`-like for an answer that carries none; or a word of
    /// ours for what never reached the service or came back garbled (`timeout`, `connection`,
    /// `dns`, `tls`, `credentials`, `region`, `request`, `response`). From a small closed set in
    /// practice, so fit for a metric label.
    pub code: Cow<'static, str>,
    /// One sentence for a human: what failed and, where we know, what to do. Never record bytes.
    pub message: String,
    /// Whether the service may have accepted the records all the same: the answer was lost or
    /// was a 5xx. Sending again may then duplicate.
    pub ambiguous: bool,
}

/// Sends attempts to Amazon Data Firehose.
pub trait Firehose: Send + Sync + 'static {
    /// Makes one attempt, without retries of its own, within its own timeouts.
    ///
    /// # Errors
    ///
    /// [`PutError`] when no entry can be said to be delivered.
    fn put(&self, put: Put) -> impl Future<Output = Result<Answer, PutError>> + Send;
}
