//! `firehose`: the Firehose API over awsJson1.1, as far as it takes records: requests in, answers and
//! errors out.
//!
//! The texts of the validation errors are the service's own, as its users have met them; clients
//! that look at them find what they would find there. Both the embedded service and listeners answer by
//! them.

use std::borrow::Cow;
use std::fmt::{self, Write};

use bytes::Bytes;
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, SeqAccess, Visitor};
use serde_json::{Value, json};

use super::http::{Malformed, bound_depth};
use crate::limits::{MAX_BATCH_BYTES, MAX_BATCH_RECORDS, MAX_RECORD_BYTES, MAX_STREAM_NAME_CHARS};

/// The account that streams belong to which are not AWS's.
pub const ACCOUNT: &str = "000000000000";
/// The region that such streams say they are in.
pub const REGION: &str = "us-east-1";

/// The ARN of such a stream.
#[must_use]
pub fn arn(stream: &str) -> String {
    format!("arn:aws:firehose:{REGION}:{ACCOUNT}:deliverystream/{stream}")
}

/// Why a request as a whole was not carried out, as the client is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiError {
    /// HTTP status.
    pub status: u16,
    /// The error's type.
    pub code: &'static str,
    /// For humans.
    pub message: Cow<'static, str>,
}

impl ApiError {
    /// Too many calls.
    pub fn throttled() -> Self {
        Self::new(400, "ThrottlingException", "Rate exceeded")
    }

    /// An error of this type.
    pub fn new(status: u16, code: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        Self { status, code, message: message.into() }
    }

    /// An argument that no rule of the API model forbids, but the service does.
    pub fn invalid(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(400, "InvalidArgumentException", message)
    }

    /// A body that is not what the operation takes.
    pub fn serialization(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(400, "SerializationException", message)
    }

    /// Arguments that break rules of the API model, one sentence each.
    fn validation(problems: &[String]) -> Self {
        let (count, plural) = (problems.len(), if problems.len() == 1 { "" } else { "s" });
        let problems = problems.join("; ");
        Self::new(
            400,
            "ValidationException",
            format!("{count} validation error{plural} detected: {problems}"),
        )
    }

    /// No stream of that name.
    pub fn no_stream(name: &str) -> Self {
        let message = format!("Firehose {name} under account {ACCOUNT} not found.");
        Self::new(400, "ResourceNotFoundException", message)
    }

    /// The error as JSON.
    pub fn body(&self) -> Value {
        json!({ "__type": self.code, "message": self.message })
    }
}

fn breaks(value: &str, member: &str, rule: &str) -> String {
    format!("Value {value} at '{member}' failed to satisfy constraint: Member must {rule}")
}

/// What is said of an entry that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failed {
    /// The error's type.
    pub code: &'static str,
    /// For humans.
    pub message: &'static str,
}

impl Failed {
    /// There is no room for it at the moment.
    pub const SLOW_DOWN: Self = Self { code: "ServiceUnavailableException", message: "Slow down." };
}

fn long(member: &str, bytes: usize, most: usize) -> String {
    let value = format!("'java.nio.HeapByteBuffer[pos=0 lim={bytes} cap={bytes}]'");
    breaks(&value, member, &format!("have length less than or equal to {most}"))
}

/// A record, called `member`, of `bytes` bytes is longer than `most`.
#[must_use]
pub fn too_long(member: &str, bytes: usize, most: usize) -> ApiError {
    ApiError::validation(&[long(member, bytes, most)])
}

/// Records to put, decoded.
#[derive(Debug, PartialEq, Eq)]
pub struct Puts {
    /// The stream that they are for.
    pub stream: String,
    /// The records' bytes one behind the other.
    pub data: Bytes,
    /// Where each ends.
    pub ends: Vec<usize>,
}

impl Puts {
    /// The records in order.
    pub fn records(&self) -> impl Iterator<Item = &[u8]> {
        let mut start = 0;
        self.ends.iter().map(move |end| {
            let record = self.data.get(start..*end).unwrap_or_default();
            start = *end;
            record
        })
    }
}

// The structs below borrow from the request: one of 500 records costs one vector of slices, not
// 500 strings. `Cow` because some clients write `/` in base64 as `\/`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct PutBody<'a> {
    #[serde(borrow)]
    delivery_stream_name: Option<Text<'a>>,
    #[serde(borrow)]
    record: Option<RecordBody<'a>>,
    #[serde(borrow)]
    records: Option<Entries<'a>>,
}

/// The entries of a request: those that it may have, and how many there are.
#[derive(Default)]
struct Entries<'a> {
    taken: Vec<RecordBody<'a>>,
    count: usize,
}

impl<'de: 'a, 'a> Deserialize<'de> for Entries<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;

        impl<'de> Visitor<'de> for Reader {
            type Value = Entries<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of records")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Entries<'de>, A::Error> {
                let mut entries = Entries::default();
                while entries.count < MAX_BATCH_RECORDS
                    && let Some(entry) = list.next_element()?
                {
                    entries.taken.push(entry);
                    entries.count += 1;
                }
                while list.next_element::<IgnoredAny>()?.is_some() {
                    entries.count += 1;
                }
                Ok(entries)
            }
        }

        deserializer.deserialize_seq(Reader)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RecordBody<'a> {
    #[serde(borrow)]
    data: Option<Text<'a>>,
}

/// A string, borrowed where it can be; serde borrows a bare `Cow` only as a field, not in an
/// `Option`.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// The records in the body of a `PutRecord` (`single`) or `PutRecordBatch`, within the limits of both.
///
/// # Errors
///
/// What the service says of such a body.
pub fn decode_puts(single: bool, body: &[u8]) -> Result<Puts, ApiError> {
    let parsed: PutBody<'_> = parse(body)?;
    let member = |index: usize| match single {
        true => "record.data".to_owned(),
        false => format!("records.{}.member.data", index + 1),
    };
    let mut problems = Vec::new();
    let records = match single {
        true => parsed.record.map(|record| Entries { taken: vec![record], count: 1 }),
        false => parsed.records,
    };
    let stream = parsed.delivery_stream_name.map(|Text(name)| name);
    let records = records.unwrap_or_else(|| {
        let name = if single { "record" } else { "records" };
        problems.push(breaks("null", name, "not be null"));
        Entries::default()
    });
    problems.extend(name_problem(stream.as_deref()));
    let Entries { taken: records, count } = records;
    if count > MAX_BATCH_RECORDS {
        let rule = format!("have length less than or equal to {MAX_BATCH_RECORDS}");
        problems.push(breaks(&format!("'[{count} records]'"), "records", &rule));
    } else if records.is_empty() && problems.is_empty() {
        problems.push(breaks("'[]'", "records", "have length greater than or equal to 1"));
    }
    if !problems.is_empty() {
        return Err(ApiError::validation(&problems));
    }

    let mut data = Vec::with_capacity(body.len() / 4 * 3);
    let mut ends = Vec::with_capacity(records.len());
    for (index, record) in records.iter().enumerate() {
        let Some(Text(text)) = &record.data else {
            problems.push(breaks("null", &member(index), "not be null"));
            continue;
        };
        let start = data.len();
        base64_simd::STANDARD
            .decode_append(text.as_bytes(), &mut data)
            .map_err(|_| ApiError::serialization(format!("{} is not base64", member(index))))?;
        let length = data.len() - start;
        if length > MAX_RECORD_BYTES {
            problems.push(long(&member(index), length, MAX_RECORD_BYTES));
        }
        ends.push(data.len());
    }
    if !problems.is_empty() {
        return Err(ApiError::validation(&problems));
    }
    if data.len() > MAX_BATCH_BYTES {
        return Err(ApiError::invalid("Records size exceeds 4 MB limit"));
    }
    let stream = stream.unwrap_or_default().into_owned();
    Ok(Puts { stream, data: data.into(), ends })
}

/// Takes the escapes out of `\/`, as which some clients write a `/` of base64: a body without escapes is
/// read without copies.
pub fn unescape_slashes(body: &mut Vec<u8>) {
    let Some(first) = memchr::memchr(b'\\', body) else { return };
    let (mut read, mut written) = (first, first);
    while let Some(byte) = body.get(read).copied() {
        let pair = (byte == b'\\').then(|| body.get(read + 1).copied()).flatten();
        let kept = match pair {
            Some(b'/') => &[b'/'][..],
            Some(next) => &[byte, next],
            None => &[byte],
        };
        if let Some(place) = body.get_mut(written..written + kept.len()) {
            place.copy_from_slice(kept);
        }
        written += kept.len();
        read += if pair.is_some() { 2 } else { 1 };
    }
    body.truncate(written);
}

/// The body of an operation, read from JSON.
///
/// # Errors
///
/// `SerializationException` where it is no JSON, or not what the operation takes.
pub fn parse<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, ApiError> {
    bound_depth(body).map_err(|Malformed(why)| ApiError::serialization(why))?;
    serde_json::from_slice(body).map_err(|error| ApiError::serialization(error.to_string()))
}

/// Most that is repeated of a value that is wrong.
const SHOWN_CHARS: usize = 256;

/// What is wrong with a delivery stream's name, if anything is.
fn name_problem(name: Option<&str>) -> Option<String> {
    const MEMBER: &str = "deliveryStreamName";
    let Some(name) = name else { return Some(breaks("null", MEMBER, "not be null")) };
    let value = format!("'{}'", name.chars().take(SHOWN_CHARS).collect::<String>());
    if name.is_empty() {
        Some(breaks(&value, MEMBER, "have length greater than or equal to 1"))
    } else if !name.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c)) {
        Some(breaks(&value, MEMBER, "satisfy regular expression pattern: [a-zA-Z0-9_.-]+"))
    } else if name.len() > MAX_STREAM_NAME_CHARS {
        let rule = format!("have length less than or equal to {MAX_STREAM_NAME_CHARS}");
        Some(breaks(&value, MEMBER, &rule))
    } else {
        None
    }
}

/// `name` if it is a delivery stream's name.
///
/// # Errors
///
/// `ValidationException` with the rule that it breaks.
pub fn stream_name(name: Option<&str>) -> Result<&str, ApiError> {
    match (name, name_problem(name)) {
        (Some(name), None) => Ok(name),
        (_, problem) => Err(ApiError::validation(&Vec::from_iter(problem))),
    }
}

/// The body of the operations that name a stream and are done.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct NameBody {
    /// The stream.
    pub delivery_stream_name: Option<String>,
}

/// The body of `ListDeliveryStreams`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ListBody {
    /// Most names.
    pub limit: Option<usize>,
    /// The name before the first.
    pub exclusive_start_delivery_stream_name: Option<String>,
    /// Of streams of this type.
    pub delivery_stream_type: Option<String>,
}

/// The answer to `PutRecordBatch`: the ids are `prefix` with the entry's number behind it.
pub fn batch_answer(prefix: &str, entries: &[Option<Failed>], failed: usize) -> Vec<u8> {
    let mut answer = String::with_capacity(96 + entries.len() * (prefix.len() + 24));
    // Writing into a string does not fail.
    let mut write = |arguments: std::fmt::Arguments<'_>| answer.write_fmt(arguments).unwrap_or_default();
    write(format_args!(r#"{{"FailedPutCount":{failed},"Encrypted":false,"RequestResponses":["#));
    for (index, entry) in entries.iter().enumerate() {
        let comma = if index > 0 { "," } else { "" };
        match entry {
            None => write(format_args!(r#"{comma}{{"RecordId":"{prefix}{index:04}"}}"#)),
            Some(failed) => {
                let Failed { code, message } = failed;
                write(format_args!(r#"{comma}{{"ErrorCode":"{code}","ErrorMessage":"{message}"}}"#));
            }
        }
    }
    answer.push_str("]}");
    answer.into_bytes()
}

/// The answer to `PutRecord`.
pub fn answer(prefix: &str) -> Vec<u8> {
    format!(r#"{{"RecordId":"{prefix}0000","Encrypted":false}}"#).into_bytes()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn batch(stream: &str, records: &[&[u8]]) -> Vec<u8> {
        let records: Vec<Value> = records
            .iter()
            .map(|data| json!({ "Data": base64_simd::STANDARD.encode_to_string(data) }))
            .collect();
        json!({ "DeliveryStreamName": stream, "Records": records }).to_string().into_bytes()
    }

    fn refused(single: bool, body: &[u8], code: &str, text: &str) {
        let error = decode_puts(single, body).unwrap_err();
        assert_eq!((error.status, error.code), (400, code), "{error:?}");
        assert!(error.message.contains(text), "{:?} lacks {text:?}", error.message);
    }

    #[test]
    fn requests_beyond_a_limit_are_refused_in_the_services_words() {
        let check = |records: &[&[u8]], code, text| {
            refused(false, &batch("s", records), code, text);
        };
        check(&[], "ValidationException", "have length greater than or equal to 1");
        check(&[b"x".as_slice(); 501], "ValidationException", "have length less than or equal to 500");
        let large = vec![b'x'; MAX_RECORD_BYTES + 1];
        check(
            &[b"x", &large],
            "ValidationException",
            "1 validation error detected: Value 'java.nio.HeapByteBuffer[pos=0 lim=1024001 cap=1024001]' \
             at 'records.2.member.data' failed to satisfy constraint: Member must have length less \
             than or equal to 1024000",
        );
        check(&[&large, &large], "ValidationException", "2 validation errors detected: ");
        let full = vec![b'x'; MAX_RECORD_BYTES];
        check(&[full.as_slice(); 5], "InvalidArgumentException", "Records size exceeds 4 MB limit");
        let accepted = |records: &[&[u8]]| {
            decode_puts(false, &batch("s", records)).unwrap();
        };
        accepted(&[full.as_slice(); 4]);
        accepted(&[b"".as_slice(); 500]);
        refused(
            false,
            &batch("no spaces", &[b"x"]),
            "ValidationException",
            "Value 'no spaces' at 'deliveryStreamName' failed to satisfy constraint",
        );
    }

    #[test]
    fn escaped_slashes_and_nothing_else_are_unescaped() {
        let check = |body: &str, expected: &str| {
            let mut bytes = body.as_bytes().to_vec();
            unescape_slashes(&mut bytes);
            assert_eq!(bytes, expected.as_bytes(), "{body}");
        };
        check(r#"{"Data":"a\/b+\/=="}"#, r#"{"Data":"a/b+/=="}"#);
        check(r#""\\/\n\"\/""#, r#""\\/\n\"/""#);
        check("plain", "plain");
        check("ends\\", "ends\\");
    }

    #[test]
    fn a_request_of_a_million_entries_is_counted_and_not_kept() {
        let body = format!("{{\"DeliveryStreamName\":\"s\",\"Records\":[{}{{}}]}}", "{},".repeat(999_999));
        refused(false, body.as_bytes(), "ValidationException", "'[1000000 records]'");
        let nested = format!("{{\"Records\":{}", "[".repeat(100_000));
        refused(false, nested.as_bytes(), "SerializationException", "nested deeper");
    }

    #[test]
    fn bodies_that_are_no_request_are_refused() {
        let check = |body: &str, code, text| {
            refused(false, body.as_bytes(), code, text);
        };
        check("", "SerializationException", "EOF");
        check("[1", "SerializationException", "");
        check(r#"{"Records":[{"Data":5}]}"#, "SerializationException", "");
        check(r#"{"DeliveryStreamName":"s"}"#, "ValidationException", "Value null at 'records'");
        check(r#"{"Records":[{"Data":""}]}"#, "ValidationException", "null at 'deliveryStreamName'");
        check(
            r#"{"DeliveryStreamName":"s","Records":[{}]}"#,
            "ValidationException",
            "Value null at 'records.1.member.data'",
        );
        check(
            r#"{"DeliveryStreamName":"s","Records":[{"Data":"*"}]}"#,
            "SerializationException",
            "records.1.member.data is not base64",
        );
        let single = |body: &str, text| {
            refused(true, body.as_bytes(), "ValidationException", text);
        };
        single(r#"{"DeliveryStreamName":"s"}"#, "Value null at 'record'");
        single(r#"{"DeliveryStreamName":"s","Record":{}}"#, "Value null at 'record.data'");
    }

    #[test]
    fn base64_with_escaped_slashes_is_read() {
        let puts = decode_puts(false, br#"{"DeliveryStreamName":"s","Records":[{"Data":"\/\/\/\/"}]}"#);
        assert_eq!(puts.unwrap().data, [0xff; 3].as_slice());
    }

    #[test]
    fn an_answer_has_an_entry_for_each_record() {
        let entries = [None, Some(Failed::SLOW_DOWN), None];
        let answer: Value = serde_json::from_slice(&batch_answer("id", &entries, 1)).unwrap();
        let expected = json!({
            "FailedPutCount": 1,
            "Encrypted": false,
            "RequestResponses": [
                { "RecordId": "id0000" },
                { "ErrorCode": "ServiceUnavailableException", "ErrorMessage": "Slow down." },
                { "RecordId": "id0002" },
            ],
        });
        assert_eq!(answer, expected);
    }

    proptest! {
        #[test]
        fn records_are_decoded_as_they_were_sent(
            records in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 1..20),
        ) {
            let slices: Vec<&[u8]> = records.iter().map(Vec::as_slice).collect();
            let puts = decode_puts(false, &batch("s", &slices)).unwrap();
            prop_assert_eq!(&puts.stream, "s");
            prop_assert_eq!(puts.records().collect::<Vec<_>>(), slices);
        }

        #[test]
        fn no_body_makes_the_decoder_panic(body in prop::collection::vec(any::<u8>(), 0..200)) {
            let body = [br#"{"DeliveryStreamName":"s","Records":"#.as_slice(), &body].concat();
            let text = String::from_utf8_lossy(&body);
            prop_assert!(decode_puts(false, text.as_bytes()).map_or(true, |puts| !puts.ends.is_empty()));
        }
    }
}
