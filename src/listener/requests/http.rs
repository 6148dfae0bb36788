//! `http`: a request's body is records, all of which are taken or none.

use ::http::request::Parts;
use ::http::{HeaderMap, HeaderValue, Method, Response, StatusCode, Version, header};
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Body, Incoming};
use serde_json::json;

use super::body::{Room, Trouble, discard, read_through};
use super::taken::{Taken, needed, piece_bytes};
use super::{Door, JSON, RETRY_AFTER, health, respond};
use crate::buffer::{Count, RejectReason};
use crate::config::Acks;
use crate::framing::http::{Content, Encoding, Malformed, Taking};

/// Most bytes of a body, in sixteenths of what records may take: with as much again for its records in
/// wire form and half of that for their ends it stays within what a request may hold.
const SIXTEENTHS: usize = 5;

/// Why a request is answered with an error.
struct Refusal {
    status: StatusCode,
    why: String,
    /// Records that were in it, as far as that is known.
    rejected: usize,
}

impl Refusal {
    fn new(status: StatusCode, why: impl Into<String>) -> Self {
        Self { status, why: why.into(), rejected: 0 }
    }
}

impl From<Trouble> for Refusal {
    fn from(trouble: Trouble) -> Self {
        let (status, why) = match trouble {
            Trouble::TooLarge(bytes) => (
                StatusCode::PAYLOAD_TOO_LARGE,
                format!("the body takes more than {bytes} bytes: send less in one request"),
            ),
            Trouble::Full => {
                (StatusCode::TOO_MANY_REQUESTS, "the buffer is full: send the request again later".into())
            }
            Trouble::TooFast => (
                StatusCode::TOO_MANY_REQUESTS,
                "the listener takes no more bytes a second: send the request again later".into(),
            ),
            Trouble::Closed => (
                StatusCode::SERVICE_UNAVAILABLE,
                "the daemon takes nothing at the moment: send the request again later".into(),
            ),
            Trouble::Slow => {
                (StatusCode::REQUEST_TIMEOUT, "the body took too long to come: send the request again".into())
            }
            Trouble::Gone => (StatusCode::BAD_REQUEST, "the body ended early".into()),
            Trouble::Malformed(why) => {
                (StatusCode::BAD_REQUEST, format!("the body is not what Content-Encoding says: {why}"))
            }
        };
        Self::new(status, why)
    }
}

/// Answers one request.
pub(super) async fn answer(door: &Door, head: &Parts, body: Incoming) -> Response<Full<Bytes>> {
    match (&head.method, head.uri.path()) {
        (&Method::POST, "/") => match take(door, head, body).await {
            Ok(response) => response,
            Err(refusal) => refuse(door, head, &refusal),
        },
        (&Method::GET | &Method::HEAD, "/") => health(door),
        (_, "/") => {
            discard(body).await;
            let why = "records are sent with POST; GET and HEAD say whether they would be taken";
            let mut response = refuse(door, head, &Refusal::new(StatusCode::METHOD_NOT_ALLOWED, why));
            response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD, POST"));
            response
        }
        _ => {
            discard(body).await;
            refuse(door, head, &Refusal::new(StatusCode::NOT_FOUND, "records are sent with POST to /"))
        }
    }
}

fn refuse(door: &Door, head: &Parts, refusal: &Refusal) -> Response<Full<Bytes>> {
    let Refusal { status, why, rejected } = refusal;
    let body = json!({ "accepted": 0, "rejected": rejected, "error": why });
    let mut response = respond(*status, JSON, format!("{body}\n"));
    let headers = response.headers_mut();
    if matches!(*status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
        headers.insert(header::RETRY_AFTER, RETRY_AFTER);
    }
    if *status == StatusCode::UNSUPPORTED_MEDIA_TYPE {
        headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("gzip, zstd"));
    }
    // What was not read of the body can't be told from a next request.
    let unread = matches!(*status, StatusCode::PAYLOAD_TOO_LARGE | StatusCode::REQUEST_TIMEOUT);
    if (unread || door.intake().is_none()) && head.version < Version::HTTP_2 {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

async fn take(door: &Door, head: &Parts, body: Incoming) -> Result<Response<Full<Bytes>>, Refusal> {
    let shared = &door.shared;
    let encoding = match encoding(&head.headers) {
        Ok(encoding) => encoding,
        Err(refusal) => {
            discard(body).await;
            return Err(refusal);
        }
    };
    let framed = [header::CONTENT_LENGTH, header::TRANSFER_ENCODING];
    if head.version < Version::HTTP_2 && !framed.iter().any(|name| head.headers.contains_key(name)) {
        let why = "the request has no body: say its length, or send it with Transfer-Encoding: chunked";
        return Err(Refusal::new(StatusCode::LENGTH_REQUIRED, why));
    }
    let Some(intake) = door.intake().filter(|intake| !intake.refuses().is_cancelled()) else {
        if !body.is_end_stream() {
            discard(body).await;
        }
        return Err(Trouble::Closed.into());
    };
    let content = head.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let content = Content::of(content.unwrap_or_default());
    let taking = Taking {
        delimiter: shared.context.delimiter.clone(),
        max_record_bytes: shared.longest_record(),
        piece_bytes: piece_bytes(&intake),
    };
    let mut room = Room::new(intake, SIXTEENTHS, usize::MAX);
    let buffer = match room.take(door, body, encoding).await {
        Ok(buffer) => buffer,
        Err((trouble, came)) => {
            let reason = match trouble {
                Trouble::Gone | Trouble::Slow | Trouble::Closed if came > 0 => Some(RejectReason::Incomplete),
                Trouble::Malformed(_) => Some(RejectReason::Malformed),
                Trouble::TooLarge(_)
                | Trouble::Full
                | Trouble::TooFast
                | Trouble::Gone
                | Trouble::Slow
                | Trouble::Closed => None,
            };
            if let Some(reason) = reason {
                shared.reject_all(reason, Count::of(1, came));
            }
            return Err(trouble.into());
        }
    };
    let length = buffer.bytes.len();
    let (buffer, plan) = {
        let taking = taking.clone();
        read_through(buffer, move |bytes| taking.plan(content, bytes)).await?
    };
    let plan = plan.map_err(|Malformed(why)| {
        shared.reject_all(RejectReason::Malformed, Count::of(1, length));
        Refusal::new(StatusCode::BAD_REQUEST, format!("the body is no JSON: {why}"))
    })?;
    let too_long = plan.too_long;
    let rejected = Count { records: u64::try_from(too_long).unwrap_or(u64::MAX), bytes: plan.too_long_bytes };
    if plan.records() == 0 && too_long > 0 {
        shared.reject_all(RejectReason::TooLong, rejected);
        let longest = taking.max_record_bytes;
        let why = match content {
            Content::Whole => format!(
                "the body is one record by its Content-Type, and longer than {longest} bytes: lines are \
                 application/x-ndjson"
            ),
            Content::Lines | Content::Json => format!("no record has at most {longest} bytes"),
        };
        return Err(Refusal { rejected: too_long, ..Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, why) });
    }
    let hold = room.for_records(plan.sizes().map(needed).sum()).await?;
    let (_, pieces) = read_through(buffer, move |bytes| taking.pieces(content, bytes, &plan)).await?;
    shared.reject_all(RejectReason::TooLong, rejected);
    let accepted: usize = pieces.iter().map(|piece| piece.ends.len()).sum();
    let mut taken = Taken::new(shared.config.acks);
    taken.hand_over(door, &room.intake, pieces, hold).await;
    // From here on the request holds nothing, and nothing keeps the daemon from its end.
    drop(room);
    let counts = json!({ "accepted": accepted, "rejected": too_long });
    if !taken.settled().await {
        let error = "the records are taken, but did not get as far as `acks` says in time: \
                     whoever sends them again may deliver them twice";
        let body = json!({ "accepted": accepted, "rejected": too_long, "error": error });
        return Ok(respond(StatusCode::GATEWAY_TIMEOUT, JSON, format!("{body}\n")));
    }
    let status = match shared.config.acks {
        Acks::Off | Acks::Received => StatusCode::ACCEPTED,
        Acks::Durable | Acks::Delivered => StatusCode::OK,
    };
    Ok(respond(status, JSON, format!("{counts}\n")))
}

fn encoding(headers: &HeaderMap) -> Result<Encoding, Refusal> {
    let mut given = headers.get_all(header::CONTENT_ENCODING).iter();
    let (first, more) = (given.next(), given.next().is_some());
    let known = first.map_or(Some(Encoding::Identity), |value| Encoding::named(value.as_bytes()));
    known.filter(|_| !more).ok_or_else(|| {
        let why = "a body is sent as it is or with Content-Encoding gzip or zstd";
        Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, why)
    })
}
