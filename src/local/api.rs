//! The Firehose API over awsJson1.1: requests in, answers and errors out. Pure.
//!
//! The texts of the validation errors are the service's own, as its users have met them; clients
//! that look at them find what they would find there.

use std::borrow::Cow;
use std::fmt::Write;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::faults::FailCode;
use crate::limits::{MAX_BATCH_BYTES, MAX_BATCH_RECORDS, MAX_RECORD_BYTES, MAX_STREAM_NAME_CHARS};

/// The account that the embedded service's streams belong to.
pub(super) const ACCOUNT: &str = "000000000000";
/// The region that the embedded service's streams say they are in.
pub(super) const REGION: &str = "us-east-1";

/// What is asked of the service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "each variant is the API operation of that name")]
pub enum Operation {
    PutRecord,
    PutRecordBatch,
    CreateDeliveryStream,
    DeleteDeliveryStream,
    DescribeDeliveryStream,
    ListDeliveryStreams,
    GetMetricData,
    GetMetricStatistics,
    PutMetricData,
}

impl Operation {
    /// The operation that an `X-Amz-Target` header names.
    pub(super) fn from_target(target: &str) -> Option<Self> {
        // Prefixes: the `targetPrefix` of each service's API model.
        Some(match target.split_once('.')? {
            ("Firehose_20150804", "PutRecord") => Self::PutRecord,
            ("Firehose_20150804", "PutRecordBatch") => Self::PutRecordBatch,
            ("Firehose_20150804", "CreateDeliveryStream") => Self::CreateDeliveryStream,
            ("Firehose_20150804", "DeleteDeliveryStream") => Self::DeleteDeliveryStream,
            ("Firehose_20150804", "DescribeDeliveryStream") => Self::DescribeDeliveryStream,
            ("Firehose_20150804", "ListDeliveryStreams") => Self::ListDeliveryStreams,
            ("GraniteServiceVersion20100801", name) => Self::from_cloudwatch(name)?,
            _ => return None,
        })
    }

    /// The operation called `name`, of either service.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::from_target(&format!("Firehose_20150804.{name}")).or_else(|| Self::from_cloudwatch(name))
    }

    /// The CloudWatch operation `name`.
    pub(super) fn from_cloudwatch(name: &str) -> Option<Self> {
        Some(match name {
            "GetMetricData" => Self::GetMetricData,
            "GetMetricStatistics" => Self::GetMetricStatistics,
            "PutMetricData" => Self::PutMetricData,
            _ => return None,
        })
    }

    /// Whether it puts records: what quotas and faults apply to.
    pub(super) fn puts(self) -> bool {
        matches!(self, Self::PutRecord | Self::PutRecordBatch)
    }
}

/// Why a request as a whole was not carried out, as the client is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ApiError {
    /// HTTP status.
    pub(super) status: u16,
    /// The error's type.
    pub(super) code: &'static str,
    /// For humans.
    pub(super) message: Cow<'static, str>,
}

impl ApiError {
    /// Too many calls.
    pub(super) fn throttled() -> Self {
        Self::new(400, "ThrottlingException", "Rate exceeded")
    }

    /// An error of this type.
    pub(super) fn new(status: u16, code: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        Self { status, code, message: message.into() }
    }

    /// An argument that no rule of the API model forbids, but the service does.
    pub(super) fn invalid(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(400, "InvalidArgumentException", message)
    }

    /// A body that is not what the operation takes.
    pub(super) fn serialization(message: impl Into<Cow<'static, str>>) -> Self {
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
    pub(super) fn no_stream(name: &str) -> Self {
        let message = format!("Firehose {name} under account {ACCOUNT} not found.");
        Self::new(400, "ResourceNotFoundException", message)
    }

    /// The error as JSON.
    pub(super) fn body(&self) -> Value {
        json!({ "__type": self.code, "message": self.message })
    }
}

fn breaks(value: &str, member: &str, rule: &str) -> String {
    format!("Value {value} at '{member}' failed to satisfy constraint: Member must {rule}")
}

/// Records to put, decoded.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Puts {
    /// The stream that they are for.
    pub(super) stream: String,
    /// The records' bytes one behind the other.
    pub(super) data: Bytes,
    /// Where each ends.
    pub(super) ends: Vec<usize>,
}

impl Puts {
    /// The records in order.
    pub(super) fn records(&self) -> impl Iterator<Item = &[u8]> {
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
    delivery_stream_name: Option<String>,
    #[serde(borrow)]
    record: Option<RecordBody<'a>>,
    #[serde(borrow)]
    records: Option<Vec<RecordBody<'a>>>,
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

/// The records in the body of a `PutRecord` or `PutRecordBatch`, within the limits of both.
///
/// # Errors
///
/// What the service says of such a body.
pub(super) fn decode_puts(operation: Operation, body: &[u8]) -> Result<Puts, ApiError> {
    let parsed: PutBody<'_> = parse(body)?;
    let single = operation == Operation::PutRecord;
    let member = |index: usize| match single {
        true => "record.data".to_owned(),
        false => format!("records.{}.member.data", index + 1),
    };
    let mut problems = Vec::new();
    let records = match single {
        true => parsed.record.map(|record| vec![record]),
        false => parsed.records,
    };
    let records = records.unwrap_or_else(|| {
        let name = if single { "record" } else { "records" };
        problems.push(breaks("null", name, "not be null"));
        Vec::new()
    });
    problems.extend(name_problem(parsed.delivery_stream_name.as_deref()));
    if records.len() > MAX_BATCH_RECORDS {
        let rule = format!("have length less than or equal to {MAX_BATCH_RECORDS}");
        problems.push(breaks(&format!("'[{} records]'", records.len()), "records", &rule));
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
            let value = format!("'java.nio.HeapByteBuffer[pos=0 lim={length} cap={length}]'");
            let rule = format!("have length less than or equal to {MAX_RECORD_BYTES}");
            problems.push(breaks(&value, &member(index), &rule));
        }
        ends.push(data.len());
    }
    if !problems.is_empty() {
        return Err(ApiError::validation(&problems));
    }
    if data.len() > MAX_BATCH_BYTES {
        return Err(ApiError::invalid("Records size exceeds 4 MB limit"));
    }
    let stream = parsed.delivery_stream_name.unwrap_or_default();
    Ok(Puts { stream, data: data.into(), ends })
}

/// The body of an operation, read from JSON.
pub(super) fn parse<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, ApiError> {
    serde_json::from_slice(body).map_err(|error| ApiError::serialization(error.to_string()))
}

/// What is wrong with a delivery stream's name, if anything is.
fn name_problem(name: Option<&str>) -> Option<String> {
    const MEMBER: &str = "deliveryStreamName";
    let Some(name) = name else { return Some(breaks("null", MEMBER, "not be null")) };
    let value = format!("'{name}'");
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
pub(super) fn stream_name(name: Option<&str>) -> Result<&str, ApiError> {
    match (name, name_problem(name)) {
        (Some(name), None) => Ok(name),
        (_, problem) => Err(ApiError::validation(&Vec::from_iter(problem))),
    }
}

/// The body of `CreateDeliveryStream`, as far as the embedded service reads it. What else stands
/// in the destination is kept and described as it came.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct CreateBody {
    pub(super) delivery_stream_name: Option<String>,
    pub(super) delivery_stream_type: Option<String>,
    #[serde(rename = "ExtendedS3DestinationConfiguration")]
    pub(super) extended_s3: Option<Map<String, Value>>,
    #[serde(rename = "S3DestinationConfiguration")]
    pub(super) s3: Option<Map<String, Value>>,
}

/// The body of the operations that name a stream and are done.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct NameBody {
    pub(super) delivery_stream_name: Option<String>,
}

/// The body of `ListDeliveryStreams`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ListBody {
    pub(super) limit: Option<usize>,
    pub(super) exclusive_start_delivery_stream_name: Option<String>,
    pub(super) delivery_stream_type: Option<String>,
}

/// The answer to `PutRecordBatch`: the ids are `prefix` with the entry's number behind it.
pub(super) fn batch_answer(prefix: &str, entries: &[Option<FailCode>], failed: usize) -> Vec<u8> {
    let mut answer = String::with_capacity(96 + entries.len() * (prefix.len() + 24));
    // Writing into a string does not fail.
    let mut write = |arguments: std::fmt::Arguments<'_>| answer.write_fmt(arguments).unwrap_or_default();
    write(format_args!(r#"{{"FailedPutCount":{failed},"Encrypted":false,"RequestResponses":["#));
    for (index, entry) in entries.iter().enumerate() {
        let comma = if index > 0 { "," } else { "" };
        match entry {
            None => write(format_args!(r#"{comma}{{"RecordId":"{prefix}{index:04}"}}"#)),
            Some(code) => {
                let (code, message) = (code.code(), code.message());
                write(format_args!(r#"{comma}{{"ErrorCode":"{code}","ErrorMessage":"{message}"}}"#));
            }
        }
    }
    answer.push_str("]}");
    answer.into_bytes()
}

/// The answer to `PutRecord`.
pub(super) fn answer(prefix: &str) -> Vec<u8> {
    format!(r#"{{"RecordId":"{prefix}0000","Encrypted":false}}"#).into_bytes()
}

/// Characters that the ids of one request share: 224 with the four digits behind them, which is
/// how long the service's are.
pub(super) const ID_PREFIX_CHARS: usize = 220;

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

    fn refused(operation: Operation, body: &[u8], code: &str, text: &str) {
        let error = decode_puts(operation, body).unwrap_err();
        assert_eq!((error.status, error.code), (400, code), "{error:?}");
        assert!(error.message.contains(text), "{:?} lacks {text:?}", error.message);
    }

    #[test]
    fn requests_beyond_a_limit_are_refused_in_the_services_words() {
        let check = |records: &[&[u8]], code, text| {
            refused(Operation::PutRecordBatch, &batch("s", records), code, text);
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
            decode_puts(Operation::PutRecordBatch, &batch("s", records)).unwrap();
        };
        accepted(&[full.as_slice(); 4]);
        accepted(&[b"".as_slice(); 500]);
        refused(
            Operation::PutRecordBatch,
            &batch("no spaces", &[b"x"]),
            "ValidationException",
            "Value 'no spaces' at 'deliveryStreamName' failed to satisfy constraint",
        );
    }

    #[test]
    fn bodies_that_are_no_request_are_refused() {
        let check = |body: &str, code, text| {
            refused(Operation::PutRecordBatch, body.as_bytes(), code, text);
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
            refused(Operation::PutRecord, body.as_bytes(), "ValidationException", text);
        };
        single(r#"{"DeliveryStreamName":"s"}"#, "Value null at 'record'");
        single(r#"{"DeliveryStreamName":"s","Record":{}}"#, "Value null at 'record.data'");
    }

    #[test]
    fn base64_with_escaped_slashes_is_read() {
        let puts = decode_puts(
            Operation::PutRecordBatch,
            br#"{"DeliveryStreamName":"s","Records":[{"Data":"\/\/\/\/"}]}"#,
        );
        assert_eq!(puts.unwrap().data, [0xff; 3].as_slice());
    }

    #[test]
    fn an_answer_has_an_entry_for_each_record() {
        let entries = [None, Some(FailCode::ServiceUnavailable), None];
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
            let puts = decode_puts(Operation::PutRecordBatch, &batch("s", &slices)).unwrap();
            prop_assert_eq!(&puts.stream, "s");
            prop_assert_eq!(puts.records().collect::<Vec<_>>(), slices);
        }

        #[test]
        fn no_body_makes_the_decoder_panic(body in prop::collection::vec(any::<u8>(), 0..200)) {
            let body = [br#"{"DeliveryStreamName":"s","Records":"#.as_slice(), &body].concat();
            let text = String::from_utf8_lossy(&body);
            prop_assert!(decode_puts(Operation::PutRecordBatch, text.as_bytes()).map_or(true, |puts| !puts.ends.is_empty()));
        }
    }
}
