//! Carries exports to a collector: OTLP over HTTP, as protobuf.
//!
//! <https://opentelemetry.io/docs/specs/otlp/#otlphttp>

use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, RETRY_AFTER, USER_AGENT};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceResponse;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use prost::Message;

use super::settings::Target;
use crate::firehose::Outbound;
use crate::telemetry::figures::{Exported, Figures, Signal};
use crate::telemetry::now;
use crate::telemetry::quiet::Quiet;

/// Most bytes of an answer that are read. A collector says at most that it took only a part.
const ANSWER_LIMIT: usize = 64 * 1024;
/// A failure is said at most this often; what was left out is counted.
const SAY_EVERY: Duration = Duration::from_secs(600);
/// Waits before an export is sent again, as the official exporters have them.
const RETRY_WAITS: [Duration; 3] =
    [Duration::from_millis(100), Duration::from_millis(200), Duration::from_millis(400)];

const PROTOBUF: HeaderValue = HeaderValue::from_static("application/x-protobuf");
const GZIP: HeaderValue = HeaderValue::from_static("gzip");
const AGENT: HeaderValue = HeaderValue::from_static(concat!("hydrant/", env!("CARGO_PKG_VERSION")));

/// One signal's way to its collector.
#[derive(Debug)]
pub(super) struct Client {
    signal: Signal,
    target: Target,
    outbound: Arc<Outbound>,
    figures: Arc<Figures>,
    voice: Mutex<Voice>,
}

/// Whether failures were said, and when the next may be.
#[derive(Debug)]
struct Voice {
    failures: Quiet,
    /// A failure was said, and no success since.
    failing: bool,
}

/// An attempt that failed, and whether the same may be sent again, at the earliest after a while.
struct Failure {
    error: String,
    again: Option<Duration>,
}

impl Client {
    pub(super) fn new(
        signal: Signal,
        target: Target,
        outbound: Arc<Outbound>,
        figures: Arc<Figures>,
    ) -> Self {
        let voice = Voice { failures: Quiet::new(1, SAY_EVERY), failing: false };
        Self { signal, target, outbound, figures, voice: Mutex::new(voice) }
    }

    /// Sends `body`, and again while that may help and the signal's time limit allows; counts and
    /// says how it ended. Metrics aren't sent again: the next export has all that this one had.
    ///
    /// # Errors
    ///
    /// The sentence that was said.
    pub(super) async fn export(&self, body: Vec<u8>) -> Result<(), String> {
        let waits = match self.signal {
            Signal::Metrics => &[],
            Signal::Traces => RETRY_WAITS.as_slice(),
        };
        let limit = self.target.timeout;
        let mut last = None;
        let attempts = self.attempts(self.encoded(body), waits, &mut last);
        let result = match tokio::time::timeout(limit, attempts).await {
            Ok(result) => result,
            Err(_) => Err(last.unwrap_or_else(|| format!("no answer within {} ms", limit.as_millis()))),
        };
        self.ended(result)
    }

    /// `last` is why the attempt before failed.
    async fn attempts(
        &self,
        body: Vec<u8>,
        waits: &[Duration],
        last: &mut Option<String>,
    ) -> Result<Exported, String> {
        for wait in waits {
            match self.attempt(body.clone()).await {
                Ok(answer) => return Ok(self.exported(&answer)),
                Err(Failure { error, again: None }) => return Err(error),
                Err(Failure { error, again: Some(least) }) => {
                    *last = Some(error);
                    tokio::time::sleep(least.max(*wait)).await;
                }
            }
        }
        let answer = self.attempt(body).await;
        answer.map(|answer| self.exported(&answer)).map_err(|failure| failure.error)
    }

    async fn attempt(&self, body: Vec<u8>) -> Result<Bytes, Failure> {
        let answer = self.outbound.send(self.request(body), ANSWER_LIMIT).await;
        let answer = answer.map_err(|error| Failure { error, again: Some(Duration::ZERO) })?;
        if answer.status().is_success() {
            return Ok(answer.into_body());
        }
        Err(Failure { error: format!("answered {}", answer.status()), again: retry_after(&answer) })
    }

    fn request(&self, body: Vec<u8>) -> Request<Vec<u8>> {
        let mut request = Request::new(body);
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.target.url.clone();
        let headers = request.headers_mut();
        headers.insert(USER_AGENT, AGENT);
        headers.extend(self.target.headers.clone());
        headers.insert(CONTENT_TYPE, PROTOBUF);
        if self.target.gzip {
            headers.insert(CONTENT_ENCODING, GZIP);
        }
        request
    }

    fn encoded(&self, body: Vec<u8>) -> Vec<u8> {
        if !self.target.gzip {
            return body;
        }
        let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
        // Writing to memory does not fail.
        gzip.write_all(&body).and_then(|()| gzip.finish()).unwrap_or_default()
    }

    /// What the answer of a collector that took the export says. One that can't be read says
    /// nothing: there are collectors that answer with an empty JSON object.
    fn exported(&self, answer: &Bytes) -> Exported {
        let rejected = match self.signal {
            Signal::Metrics => ExportMetricsServiceResponse::decode(answer.as_ref())
                .ok()
                .and_then(|answer| answer.partial_success)
                .map_or(0, |partial| partial.rejected_data_points),
            Signal::Traces => ExportTraceServiceResponse::decode(answer.as_ref())
                .ok()
                .and_then(|answer| answer.partial_success)
                .map_or(0, |partial| partial.rejected_spans),
        };
        if rejected > 0 { Exported::Partial } else { Exported::Ok }
    }

    fn ended(&self, result: Result<Exported, String>) -> Result<(), String> {
        let outcome = *result.as_ref().unwrap_or(&Exported::Failed);
        *self.figures.exports().entry((self.signal, outcome)).or_default() += 1;
        let mut voice = self.voice.lock().unwrap_or_else(PoisonError::into_inner);
        let (signal, endpoint) = (self.signal.label(), self.target.shown());
        match &result {
            Ok(Exported::Partial) => {
                if let Some(suppressed) = voice.failures.say(now()) {
                    tracing::warn!(signal, endpoint, suppressed, "The collector took only a part.");
                }
            }
            Ok(_) if std::mem::take(&mut voice.failing) => {
                tracing::info!(signal, endpoint, "Exported to the collector again.");
            }
            Ok(_) => {}
            Err(error) => {
                if let Some(suppressed) = voice.failures.say(now()) {
                    voice.failing = true;
                    tracing::warn!(
                        signal,
                        endpoint,
                        error,
                        suppressed,
                        "Not exported to the collector; delivery goes on."
                    );
                }
            }
        }
        result.map(drop)
    }
}

/// The least wait before the same may be sent again after such an answer; `None` where it is
/// answered for good (<https://opentelemetry.io/docs/specs/otlp/#retryable-response-codes>).
fn retry_after(answer: &Response<Bytes>) -> Option<Duration> {
    let retryable = [
        StatusCode::TOO_MANY_REQUESTS,
        StatusCode::BAD_GATEWAY,
        StatusCode::SERVICE_UNAVAILABLE,
        StatusCode::GATEWAY_TIMEOUT,
    ];
    let seconds = || answer.headers().get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok();
    retryable.contains(&answer.status()).then(|| Duration::from_secs(seconds().unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_may_pass_is_sent_again_and_no_sooner_than_the_collector_wants() {
        let check = |status: u16, after: Option<&'static str>, expected: Option<u64>| {
            let mut answer = Response::new(Bytes::new());
            *answer.status_mut() = StatusCode::from_u16(status).unwrap();
            if let Some(after) = after {
                answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static(after));
            }
            assert_eq!(retry_after(&answer), expected.map(Duration::from_secs), "{status} {after:?}");
        };
        check(429, Some("3"), Some(3));
        check(503, Some("Fri, 31 Dec 1999 23:59:59 GMT"), Some(0));
        check(502, None, Some(0));
        check(504, None, Some(0));
        check(500, Some("3"), None);
        check(400, None, None);
        check(301, None, None);
    }
}
