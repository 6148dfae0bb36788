//! `firehose`: the Firehose API for the streams that the daemon delivers to, so that a program that puts
//! records with an AWS SDK needs another endpoint and nothing else.
//!
//! What one record is to a producer is one record here, also where the producer has packed it.

use std::borrow::Cow;
use std::collections::BTreeSet;

use ::http::request::Parts;
use ::http::{HeaderName, HeaderValue, Method, Response, StatusCode, Version, header};
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use serde_json::{Value, json};

use super::body::{Buffer, ROOM, Room, Trouble, deadline, discard, read_through};
use super::signature::Claimed;
use super::taken::{Taken, needed, piece_bytes};
use super::{Door, health, respond};
use crate::buffer::{Count, Intake, RejectReason};
use crate::framing::firehose::{
    self, ApiError, Failed, ListBody, NameBody, Puts, decode_puts, parse, stream_name, unescape_slashes,
};
use crate::framing::http::{Encoding, Taking};
use crate::limits::MAX_BATCH_BYTES;
use crate::telemetry::wall_clock;

const JSON11: &str = "application/x-amz-json-1.1";
/// Most bytes of a body, in sixteenths of what records may take: with the default memory and a spool
/// that is more than a full `PutRecordBatch`, and its records fit beside it.
const SIXTEENTHS: usize = 7;
/// Longest body, however much memory there is: a full `PutRecordBatch` in base64, and as much again as its
/// records may take of JSON.
const MAX_BODY_BYTES: usize = MAX_BATCH_BYTES * 2;
/// Id of the one destination.
const DESTINATION: &str = "destinationId-000000000001";
/// Characters that the ids of one request share; the number of the entry follows.
const ID_PREFIX_CHARS: usize = 32;

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operation {
    PutRecord,
    PutRecordBatch,
    DescribeDeliveryStream,
    ListDeliveryStreams,
}

impl Operation {
    fn of(head: &Parts) -> Option<Self> {
        let target = head.headers.get("x-amz-target")?.to_str().ok()?;
        // The `targetPrefix` of the service's API model.
        match target.strip_prefix("Firehose_20150804.")? {
            "PutRecord" => Some(Self::PutRecord),
            "PutRecordBatch" => Some(Self::PutRecordBatch),
            "DescribeDeliveryStream" => Some(Self::DescribeDeliveryStream),
            "ListDeliveryStreams" => Some(Self::ListDeliveryStreams),
            _ => None,
        }
    }
}

impl From<Trouble> for ApiError {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::TooLarge(bytes) => Self::invalid(format!(
                "The request takes more than the {bytes} bytes that this daemon has for one"
            )),
            Trouble::Full | Trouble::TooFast => unavailable("Slow down."),
            Trouble::Closed => unavailable("The daemon takes nothing at the moment."),
            Trouble::Slow => Self::new(408, "RequestTimeoutException", "The request took too long to come"),
            Trouble::Gone => Self::serialization("The request ended early"),
            Trouble::Malformed(why) => Self::serialization(why),
        }
    }
}

fn unavailable(message: &'static str) -> ApiError {
    ApiError::new(503, Failed::SLOW_DOWN.code, message)
}

/// Answers one request.
pub(super) async fn answer(door: &Door, head: &Parts, body: Incoming) -> Response<Full<Bytes>> {
    let is_root = head.uri.path() == "/" && head.uri.query().is_none();
    if is_root && matches!(head.method, Method::GET | Method::HEAD) {
        return health(door);
    }
    let operation = Operation::of(head).filter(|_| is_root && head.method == Method::POST);
    let answered = match operation {
        Some(operation) => carry_out(door, head, body, operation).await,
        None => {
            discard(body).await;
            let message = "The operation is none of PutRecord, PutRecordBatch, DescribeDeliveryStream, \
                           ListDeliveryStreams";
            Err(ApiError::new(400, "UnknownOperationException", message))
        }
    };
    let mut response = match &answered {
        Ok(body) => respond(StatusCode::OK, JSON11, body.clone()),
        Err(error) => {
            let status = StatusCode::from_u16(error.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            let mut response = respond(status, JSON11, error.body().to_string());
            let code = HeaderValue::from_static(error.code);
            response.headers_mut().insert(HeaderName::from_static("x-amzn-errortype"), code);
            response
        }
    };
    let headers = response.headers_mut();
    if let Ok(id) = HeaderValue::from_str(&request_id()) {
        headers.insert(HeaderName::from_static("x-amzn-requestid"), id);
    }
    let unread = answered
        .is_err_and(|error| matches!(error.code, "RequestTimeoutException" | "InvalidArgumentException"));
    if (unread || door.intake().is_none()) && head.version < Version::HTTP_2 {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

fn request_id() -> String {
    let id = format!("{:032x}", fastrand::u128(..));
    let part = |from: usize, to: usize| id.get(from..to).unwrap_or_default();
    [part(0, 8), part(8, 12), part(12, 16), part(16, 20), part(20, 32)].join("-")
}

async fn carry_out(
    door: &Door,
    head: &Parts,
    body: Incoming,
    operation: Operation,
) -> Result<Bytes, ApiError> {
    let key = door.shared.config.signing.clone();
    let authority = head.uri.authority().map_or("", |authority| authority.as_str());
    let claimed = key.as_ref().map(|key| Claimed::read(&head.headers, authority, key, wall_clock()));
    let claimed = match claimed.transpose() {
        Ok(claimed) => claimed.zip(key),
        Err(error) => {
            discard(body).await;
            return Err(error);
        }
    };
    if head.headers.contains_key(header::CONTENT_ENCODING) {
        discard(body).await;
        return Err(ApiError::serialization("a request is sent without Content-Encoding"));
    }
    let Some(intake) = door.intake().filter(|intake| !intake.refuses().is_cancelled()) else {
        discard(body).await;
        return Err(Trouble::Closed.into());
    };
    let mut room = Room::new(intake, SIXTEENTHS, MAX_BODY_BYTES);
    let mut buffer = match room.take(door, body, Encoding::Identity).await {
        Ok(buffer) => buffer,
        Err((trouble, came)) => {
            if came > 0 && matches!(trouble, Trouble::Gone | Trouble::Slow | Trouble::Closed) {
                door.shared.reject_all(RejectReason::Incomplete, Count::of(1, came));
            }
            return Err(trouble.into());
        }
    };
    if let Some((claimed, key)) = claimed {
        let verdict;
        (buffer, verdict) = read_through(buffer, move |bytes| claimed.verify(bytes, &key)).await?;
        verdict?;
    }
    match operation {
        Operation::PutRecord | Operation::PutRecordBatch => {
            put(door, room, buffer, operation == Operation::PutRecord).await
        }
        Operation::DescribeDeliveryStream => {
            let name = parse::<NameBody>(&buffer.bytes)?.delivery_stream_name;
            let name = stream_name(name.as_deref())?;
            if name != ours(door) && room.intake.named(name).is_none() {
                return Err(ApiError::no_stream(name));
            }
            Ok(describe(door, name).to_string().into())
        }
        Operation::ListDeliveryStreams => list(door, &room.intake, &parse(&buffer.bytes)?),
    }
}

fn ours(door: &Door) -> &str {
    door.shared.context.figures.stream_name().unwrap_or_default()
}

fn list(door: &Door, intake: &Intake, body: &ListBody) -> Result<Bytes, ApiError> {
    // Bounds, and the 10 that are listed without one: the API model of `ListDeliveryStreams`.
    let limit = body.limit.unwrap_or(10);
    if !(1..=10_000).contains(&limit) {
        return Err(ApiError::invalid(format!("Limit must be between 1 and 10000, not {limit}")));
    }
    let after = body.exclusive_start_delivery_stream_name.as_deref();
    let fits = body.delivery_stream_type.as_deref().is_none_or(|kind| kind == "DirectPut");
    let names: BTreeSet<_> = intake.names().chain([ours(door)]).filter(|_| fits).collect();
    let mut names = names.into_iter().filter(|name| after.is_none_or(|after| after < *name));
    let listed: Vec<_> = names.by_ref().take(limit).collect();
    let has_more = names.next().is_some();
    Ok(json!({ "DeliveryStreamNames": listed, "HasMoreDeliveryStreams": has_more }).to_string().into())
}

/// The stream as far as it matters to whoever puts records here. Packed records stay as they are, so the
/// destination is S3 where the daemon's own stream takes records as one text, which is when a producer may
/// pack; else it is one that takes each record by itself.
fn describe(door: &Door, name: &str) -> Value {
    let context = &door.shared.context;
    let Some(figures) = context.figures.all().find(|figures| figures.stream_name() == Some(name)) else {
        return Value::Null;
    };
    let known = figures.stream();
    let takes_text = known.description.as_ref().is_some_and(|description| description.takes_text());
    drop(known);
    // Which tells a producer not to compress, too.
    let processing = match context.delimiter.as_bytes() {
        b"" => json!({ "Enabled": false, "Processors": [] }),
        _ => json!({ "Enabled": true, "Processors": [{ "Type": "AppendDelimiterToRecord" }] }),
    };
    let hints = json!({ "SizeInMBs": 1, "IntervalInSeconds": 0 });
    let destination = if takes_text {
        json!({
            "DestinationId": DESTINATION,
            "ExtendedS3DestinationDescription": {
                "RoleARN": format!("arn:aws:iam::{}:role/hydrant", firehose::ACCOUNT),
                "BucketARN": "arn:aws:s3:::hydrant",
                "BufferingHints": hints,
                "CompressionFormat": "UNCOMPRESSED",
                "EncryptionConfiguration": { "NoEncryptionConfig": "NoEncryption" },
                "ProcessingConfiguration": processing,
            },
        })
    } else {
        json!({
            "DestinationId": DESTINATION,
            "HttpEndpointDestinationDescription": {
                "EndpointConfiguration": { "Name": "hydrant" },
                "BufferingHints": hints,
                "ProcessingConfiguration": processing,
            },
        })
    };
    json!({ "DeliveryStreamDescription": {
        "DeliveryStreamName": name,
        "DeliveryStreamARN": firehose::arn(name),
        "DeliveryStreamStatus": "ACTIVE",
        "DeliveryStreamEncryptionConfiguration": { "Status": "DISABLED" },
        "DeliveryStreamType": "DirectPut",
        "VersionId": "1",
        "Destinations": [destination],
        "HasMoreDestinations": false,
    }})
}

async fn put(door: &Door, mut room: Room, mut buffer: Buffer, single: bool) -> Result<Bytes, ApiError> {
    unescape_slashes(&mut buffer.bytes);
    // Strings with other escapes are copied to be read.
    let escaped = memchr::memchr(b'\\', &buffer.bytes).map_or(0, |_| buffer.bytes.len());
    let decoded = buffer.bytes.len() / 4 * 3;
    let mut hold = room.grow(decoded + escaped).await?;
    let (buffer, puts) = read_through(buffer, move |bytes| decode_puts(single, bytes)).await?;
    let puts = puts?;
    room.release(buffer);
    room.shrink(&mut hold, decoded);
    let (taken, entries) = if puts.stream == ours(door) {
        take(door, &room, &puts, single).await?
    } else {
        // The records are moved to that stream's memory, so that they hold nothing of the others'.
        let named = room.intake.named(&puts.stream).ok_or_else(|| ApiError::no_stream(&puts.stream))?;
        let room = Room::new(named.clone(), SIXTEENTHS, MAX_BODY_BYTES);
        take(door, &room, &puts, single).await?
    };
    // From here on the request holds nothing, and nothing keeps the daemon from its end.
    drop((room, hold, puts));
    if !taken.settled().await {
        let message = "The records are taken, but did not get as far as `acks` says in time";
        return Err(ApiError::new(500, "InternalFailure", message));
    }
    let prefix: String = std::iter::repeat_with(fastrand::alphanumeric).take(ID_PREFIX_CHARS).collect();
    Ok(match single {
        true => firehose::answer(&prefix).into(),
        false => {
            let failed = entries.iter().flatten().count();
            firehose::batch_answer(&prefix, &entries, failed).into()
        }
    })
}

/// Takes the records of `puts`, from the first on, as far as there is room for them within [`ROOM`]; an
/// entry is none for a record that was taken.
async fn take(
    door: &Door,
    room: &Room,
    puts: &Puts,
    single: bool,
) -> Result<(Taken, Vec<Option<Failed>>), ApiError> {
    let taking = Taking {
        delimiter: door.shared.context.delimiter.clone(),
        max_record_bytes: door.shared.longest_record(),
        piece_bytes: piece_bytes(&room.intake),
    };
    let records = puts.records().collect::<Vec<&[u8]>>();
    // What has no bytes is no record, as elsewhere; whoever put it is none the wiser.
    let whole = || records.iter().copied().filter(|record| !record.is_empty());
    let plan = taking.plan_of(whole());
    if plan.too_long > 0 {
        let count =
            Count { records: u64::try_from(plan.too_long).unwrap_or(u64::MAX), bytes: plan.too_long_bytes };
        door.shared.reject_all(RejectReason::TooLong, count);
        return Err(too_long(&taking, &records, single));
    }
    let mut taken = Taken::new(door.shared.config.acks);
    let until = deadline(ROOM);
    let mut accepted = 0;
    let mut pieces = taking.copies(whole(), &plan);
    for bytes in plan.sizes() {
        match tokio::time::timeout_at(until, room.for_records(needed(bytes))).await {
            Ok(Ok(hold)) => {
                let Some(piece) = pieces.next() else { break };
                accepted += piece.ends.len();
                taken.hand_over(door, &room.intake, vec![piece], hold).await;
            }
            Ok(Err(Trouble::Full)) | Err(_) => break,
            Ok(Err(trouble)) if accepted == 0 => return Err(trouble.into()),
            Ok(Err(_)) => break,
        }
    }
    // Records are taken from the first on; where one had no room, none behind it has.
    let mut left = accepted;
    let full = plan.records() > accepted;
    if full && accepted == 0 {
        return Err(Trouble::Full.into());
    }
    let entry = |record: &&[u8]| {
        if record.is_empty() {
            return None;
        }
        let taken = left > 0;
        left -= usize::from(taken);
        (!taken).then_some(Failed::SLOW_DOWN)
    };
    let entries = records.iter().map(entry).collect();
    Ok((taken, entries))
}

/// What the service would say of the first record that is too long for the listener.
fn too_long(taking: &Taking, records: &[&[u8]], single: bool) -> ApiError {
    let found = records.iter().enumerate().find(|(_, record)| taking.is_too_long(record));
    let (index, bytes) = found.map_or((0, 0), |(index, record)| (index, record.len()));
    let member = match single {
        true => Cow::Borrowed("record.data"),
        false => Cow::Owned(format!("records.{}.member.data", index + 1)),
    };
    firehose::too_long(&member, bytes, taking.max_record_bytes)
}
