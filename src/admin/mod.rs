//! Health, readiness, metrics and status over HTTP, for machines, and a page of them for people.
//!
//! Sees copies of figures, never records. Loopback unless configured otherwise; everything about
//! it is bounded: connections, time to send a request, and no request has a body that is read.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::config::Address;
use crate::socket::{BindError, Connection, Socket, bind_tcp, bind_unix};
use crate::telemetry::exposition::Format;
use crate::telemetry::figures::Figures;
use crate::telemetry::now;

mod page;
pub mod status;
pub mod stuck;

/// Most connections at once; further ones wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 64;
/// Time that a client has to send its request's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// The admin socket's file is for the daemon's user and group.
const SOCKET_MODE: u32 = 0o660;
/// Pause after the system could not accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// What the admin listener shows.
#[derive(Debug, Clone)]
pub struct Context {
    /// The figures.
    pub figures: Arc<Figures>,
    /// What does not change while the daemon runs.
    pub about: Arc<status::About>,
}

/// Takes the admin listener's address. Must be called within a tokio runtime.
///
/// # Errors
///
/// [`BindError`] when the address is in use, not permitted or not there.
pub fn bind(address: &Address) -> Result<Option<Socket>, BindError> {
    match address {
        Address::Unix(path) => bind_unix(path, SOCKET_MODE).map(Some),
        Address::Tcp(address) => bind_tcp(*address).map(Some),
        Address::Tls(_) | Address::UnixDatagram(_) | Address::Stdin | Address::Activated(_) => Ok(None),
    }
}

/// Answers requests until told to stop.
pub async fn serve(socket: Socket, context: Context, stop: CancellationToken) {
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let next = async {
            let permit = Arc::clone(&permits).acquire_owned().await;
            (permit, socket.accept().await)
        };
        let (permit, accepted) = tokio::select! {
            () = stop.cancelled() => return,
            next = next => next,
        };
        let connection = match accepted {
            Ok(connection) => connection,
            Err(error) => {
                tracing::debug!(%error, "An admin connection was not accepted.");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (context, stop) = (context.clone(), stop.clone());
        #[expect(clippy::disallowed_methods, reason = "ends with the token; nothing is lost with it")]
        tokio::spawn(async move {
            let _permit = permit;
            let served = async {
                match connection {
                    Connection::Unix(stream) => answer(stream, context).await,
                    Connection::Tcp(stream) => answer(stream, context).await,
                }
            };
            tokio::select! {
                () = stop.cancelled() => {}
                () = served => {}
            }
        });
    }
}

async fn answer<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(stream: S, context: Context) {
    let service = service_fn(move |request: Request<Incoming>| {
        let accept = request.headers().get_all(header::ACCEPT).iter();
        let accept: Vec<&str> = accept.filter_map(|value| value.to_str().ok()).collect();
        let response = respond(request.method(), request.uri().path(), &accept.join(","), &context);
        std::future::ready(Ok::<_, Infallible>(response))
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(16 * 1024)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = served.await {
        tracing::debug!(%error, "An admin connection broke.");
    }
}

const JSON: &str = "application/json";
const TEXT: &str = "text/plain; charset=utf-8";
/// What is said of any other path.
const NOT_FOUND: &str = "not found; there are / /livez /readyz /metrics /status /history\n";

fn respond(method: &Method, path: &str, accept: &str, context: &Context) -> Response<Full<Bytes>> {
    if method != Method::GET && method != Method::HEAD {
        return response(StatusCode::METHOD_NOT_ALLOWED, TEXT, "only GET and HEAD are answered here\n");
    }
    let now = now();
    match path {
        "/livez" => verdict(&status::live(&context.figures, now)),
        "/readyz" => verdict(&status::ready(&context.figures, now)),
        "/metrics" => {
            let format = Format::accepted(accept);
            response(StatusCode::OK, format.content_type(), context.figures.exposition(now, format))
        }
        "/status" => response(StatusCode::OK, JSON, status::status(context, now).to_string() + "\n"),
        "/history" => response(StatusCode::OK, JSON, status::history(context, now).to_string() + "\n"),
        "/" => {
            let mut response = response(StatusCode::OK, page::HTML, page::page());
            response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, page::policy());
            response
        }
        _ => response(StatusCode::NOT_FOUND, TEXT, NOT_FOUND),
    }
}

fn verdict(health: &status::Health) -> Response<Full<Bytes>> {
    let code = if health.reasons.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let body = serde_json::json!({ "ok": health.reasons.is_empty(), "reasons": health.reasons });
    response(code, JSON, format!("{body}\n"))
}

fn response(code: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = code;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    headers.insert(header::CACHE_CONTROL, header::HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, header::HeaderValue::from_static("nosniff"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::figures::Trouble;

    fn context() -> Context {
        let figures = Arc::new(Figures::new(Arc::default(), now()));
        figures.sender().state.turn = Some(now());
        let about = status::About {
            delivery_stream_name: "app".into(),
            memory_bytes: 1,
            max_in_flight: 8,
            monitor_interval: None,
        };
        Context { figures, about: Arc::new(about) }
    }

    fn check(context: &Context, path: &str, expected: u16) {
        assert_eq!(respond(&Method::GET, path, "*/*", context).status().as_u16(), expected, "{path}");
    }

    // R-M11
    #[test]
    fn every_path_is_answered_and_others_are_not_found() {
        let context = context();
        for path in ["/", "/livez", "/readyz", "/metrics", "/status", "/history"] {
            check(&context, path, 200);
        }
        let policy =
            respond(&Method::GET, "/", "", &context).headers()[header::CONTENT_SECURITY_POLICY].clone();
        assert_eq!(policy, page::policy());
        check(&context, "/etc/passwd", 404);
        assert_eq!(respond(&Method::POST, "/metrics", "*/*", &context).status().as_u16(), 405);
    }

    // R-M11
    #[test]
    fn a_stream_that_needs_a_human_or_a_drain_ends_readiness_but_not_life() {
        let context = context();
        context.figures.sender().state.trouble = Some(Trouble {
            permanent: true,
            code: "ResourceNotFoundException".into(),
            message: "delivery stream `app` was not found".into(),
            since: now(),
        });
        check(&context, "/readyz", 503);
        check(&context, "/livez", 200);
        context.figures.sender().state.trouble = None;
        check(&context, "/readyz", 200);
        context.figures.set_draining();
        check(&context, "/readyz", 503);
        check(&context, "/livez", 200);
    }

    // R-M11
    #[test]
    fn a_flush_task_without_a_turn_ends_life() {
        let context = context();
        context.figures.sender().state.turn = now().checked_sub(status::STUCK + Duration::from_secs(1));
        check(&context, "/livez", 503);
    }
}
