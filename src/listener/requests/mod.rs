//! Producers that make requests: HTTP/1.1 and HTTP/2 on whatever carries bytes.
//!
//! A connection's task keeps its time: one without a request for too long is closed, and a stop lets
//! those under way be answered and nothing new begin. Each request is taken by `http` or `firehose`,
//! which have its body read by `body` and its records handed over by `taken`; `signature` is pure.

mod body;
mod firehose;
mod http;
pub mod signature;
mod taken;

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ::http::{HeaderValue, Request, Response, StatusCode, header};
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Shared;
use super::tls::Alpn;
use crate::buffer::Intake;
use crate::config::Protocol;
use crate::telemetry::now;

/// What a client may choose from on a session of TLS.
pub(super) const ALPN: Alpn = &[b"h2", b"http/1.1"];

/// A connection without a request for this long is closed, unless `idle_timeout` says otherwise. Longer
/// than the 90 s after which the AWS SDK for Rust gives an idle connection up: the client should be the
/// one to close.
const IDLE: Duration = Duration::from_secs(120);
/// Bytes of a request's head, and of what is read ahead of a body.
const HEAD_BYTES: usize = 16 * 1024;
/// Requests at once on a connection of HTTP/2.
const MAX_STREAMS: u32 = 8;
/// Bytes that a client may send ahead of what was taken from a request, and from all of a connection: so
/// much that no request that waits for memory keeps another one's bytes from coming.
const WINDOWS: (u32, u32) = (32 * 1024, 32 * 1024 * MAX_STREAMS);
/// How long a connection that is to be closed has for what it is doing without a request.
const LAST_WORDS: Duration = Duration::from_secs(5);

const JSON: &str = "application/json";
/// Seconds after which a client that was turned away may come again.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("1");

/// One connection, as its requests see it.
struct Door {
    shared: Arc<Shared>,
    /// None once nothing more is taken: the flush task ends when the last intake is gone.
    intake: Mutex<Option<Intake>>,
    activity: Mutex<Activity>,
}

/// What a connection is doing.
struct Activity {
    requests: usize,
    /// Since when there are none.
    idle_since: Instant,
}

impl Door {
    fn intake(&self) -> Option<Intake> {
        self.intake.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn close(&self) {
        *self.intake.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn activity(&self) -> MutexGuard<'_, Activity> {
        self.activity.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until there was no request for as long as there may be none.
    async fn idle(&self) {
        let patience = self.shared.config.idle_timeout.unwrap_or(IDLE);
        loop {
            let due = match &*self.activity() {
                Activity { requests: 0, idle_since } => *idle_since + patience,
                Activity { .. } => now() + patience,
            };
            if due <= now() {
                return;
            }
            tokio::time::sleep_until(due.into()).await;
        }
    }
}

/// A request under way.
struct Busy<'a>(&'a Door);

impl<'a> Busy<'a> {
    fn enter(door: &'a Door) -> Self {
        door.activity().requests += 1;
        Self(door)
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        let mut activity = self.0.activity();
        activity.requests -= 1;
        activity.idle_since = now();
    }
}

/// Runs what HTTP/2 does beside its connection among the daemon's tasks.
#[derive(Clone)]
struct Tracked {
    tasks: TaskTracker,
    abort: CancellationToken,
}

impl<F: Future<Output: Send> + Send + 'static> Executor<F> for Tracked {
    fn execute(&self, future: F) {
        let abort = self.abort.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                () = abort.cancelled() => {}
                _ = future => {}
            }
        });
    }
}

/// Answers the requests of one connection until it ends or is to end.
pub(super) async fn serve<S>(shared: &Arc<Shared>, intake: Intake, stream: S)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let activity = Mutex::new(Activity { requests: 0, idle_since: now() });
    let door = Arc::new(Door { shared: Arc::clone(shared), intake: Mutex::new(Some(intake)), activity });
    let context = &shared.context;
    let mut builder = Builder::new(Tracked { tasks: context.tasks.clone(), abort: context.abort.clone() });
    // A client that has sent its request and closed its half still gets its answer.
    let mut http1 = builder.http1();
    http1.timer(TokioTimer::new()).header_read_timeout(shared.config.idle_timeout.unwrap_or(IDLE));
    http1.max_buf_size(HEAD_BYTES).half_close(true);
    let mut http2 = builder.http2();
    http2.timer(TokioTimer::new()).max_concurrent_streams(MAX_STREAMS);
    http2.initial_stream_window_size(WINDOWS.0).initial_connection_window_size(WINDOWS.1);
    http2.max_header_list_size(u32::try_from(HEAD_BYTES).unwrap_or(u32::MAX)).max_send_buf_size(HEAD_BYTES);
    let service = service_fn(|request: Request<Incoming>| {
        let door = Arc::clone(&door);
        async move { Ok::<_, Infallible>(answer(&door, request).await) }
    });
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = context.stop.cancelled() => {
            door.close();
            close(&door, connection.as_mut(), |connection| connection.graceful_shutdown()).await
        }
        () = door.idle() => close(&door, connection.as_mut(), |connection| connection.graceful_shutdown()).await,
    };
    // Requests of HTTP/2 may go on without their connection.
    door.close();
    if let Err(error) = ended {
        tracing::debug!(listener = &*shared.name, error, "Connection broken.");
    }
}

/// Lets `connection` answer what it is answering, and no more.
async fn close<C, E>(
    door: &Door,
    mut connection: Pin<&mut C>,
    graceful_shutdown: impl FnOnce(Pin<&mut C>),
) -> Result<(), E>
where
    C: Future<Output = Result<(), E>>,
{
    graceful_shutdown(connection.as_mut());
    loop {
        tokio::select! {
            ended = &mut connection => return ended,
            () = tokio::time::sleep(LAST_WORDS) => {
                let activity = door.activity();
                if activity.requests == 0 && activity.idle_since + LAST_WORDS <= now() {
                    return Ok(());
                }
            }
        }
    }
}

async fn answer(door: &Door, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let _busy = Busy::enter(door);
    let (head, body) = request.into_parts();
    match door.shared.config.protocol {
        Protocol::Firehose => firehose::answer(door, &head, body).await,
        Protocol::Http | Protocol::Lines | Protocol::Frames | Protocol::Syslog | Protocol::Forward => {
            http::answer(door, &head, body).await
        }
    }
}

/// An answer of this status and media type.
fn respond(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

/// Whether records would be taken, for whoever balances load.
fn health(door: &Door) -> Response<Full<Bytes>> {
    let takes = door.intake().is_some_and(|intake| !intake.refuses().is_cancelled());
    let status = if takes { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let mut response = respond(status, JSON, format!("{{\"ok\":{takes}}}\n"));
    if !takes {
        response.headers_mut().insert(header::RETRY_AFTER, RETRY_AFTER);
    }
    response
}
