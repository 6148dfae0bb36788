//! Asks a daemon's admin listener: HTTP over TCP or a Unix socket.
//!
//! Everything has a bound: the time that an answer takes, and what it may hold. Each request has a
//! connection of its own, so that a daemon that was restarted is found like any other.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

use crate::config::Address;

/// Longest that an answer is waited for.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Most bytes of an answer; a history takes some fifty thousand.
pub const MAX_BODY_BYTES: usize = 4 << 20;
/// Most bytes of an answer's head.
const MAX_HEAD_BYTES: usize = 64 << 10;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Nobody is there.
    #[error("no daemon answers at {0}: {1}; start one, or name its admin.address with --admin")]
    Connect(Address, io::Error),
    /// Somebody is there and says nothing.
    #[error("{0} has not answered within {seconds} s", seconds = TIMEOUT.as_secs())]
    Silent(Address),
    /// The connection broke, or what came is no HTTP.
    #[error("{0} was asked and gave no answer in HTTP: {1}; name a daemon's admin.address with --admin")]
    Broken(Address, hyper::Error),
    /// The answer is too long.
    #[error("{0} answered GET {1} with more than {MAX_BODY_BYTES} bytes, which no daemon does")]
    TooLong(Address, &'static str),
}

impl AskError {
    /// The reason alone, for one who knows that it was the daemon who was asked.
    #[must_use]
    pub fn why(&self) -> String {
        match self {
            Self::Connect(_, error) => error.to_string(),
            Self::Broken(_, error) => error.to_string(),
            Self::Silent(_) | Self::TooLong(..) => self.to_string(),
        }
    }
}

/// Status and body of the answer of the admin listener at `address` to a GET of `path`.
///
/// # Errors
///
/// [`AskError`]
pub async fn get(address: &Address, path: &'static str) -> Result<(StatusCode, Bytes), AskError> {
    let answer = tokio::time::timeout(TIMEOUT, connect_and_ask(address, path)).await;
    answer.unwrap_or_else(|_| Err(AskError::Silent(address.clone())))
}

async fn connect_and_ask(address: &Address, path: &'static str) -> Result<(StatusCode, Bytes), AskError> {
    let failed = |error| AskError::Connect(address.clone(), error);
    match address {
        Address::Unix(socket) => ask(address, UnixStream::connect(socket).await.map_err(failed)?, path).await,
        Address::Tcp(to) => ask(address, TcpStream::connect(to).await.map_err(failed)?, path).await,
        Address::Tls(_) | Address::UnixDatagram(_) | Address::Stdin | Address::Activated(_) => {
            Err(failed(io::ErrorKind::Unsupported.into()))
        }
    }
}

/// The answer to a GET of `path` over `stream`.
async fn ask<S>(address: &Address, stream: S, path: &'static str) -> Result<(StatusCode, Bytes), AskError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let broken = |error| AskError::Broken(address.clone(), error);
    let mut request = Request::new(Empty::<Bytes>::new());
    *request.uri_mut() = Uri::from_static(path);
    request.headers_mut().insert(header::HOST, HeaderValue::from_static("hydrant"));
    request.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    let handshake = http1::Builder::new().max_buf_size(MAX_HEAD_BYTES).handshake(TokioIo::new(stream));
    let (mut sender, connection) = handshake.await.map_err(broken)?;
    let answer = async move {
        let response = sender.send_request(request).await.map_err(broken)?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_BODY_BYTES).collect().await;
        let body = body.map_err(|error| match error.downcast::<hyper::Error>() {
            Ok(error) => broken(*error),
            Err(_) => AskError::TooLong(address.clone(), path),
        });
        body.map(|body| (status, body.to_bytes()))
    };
    // The connection ends once the answer has been read; what it ends with, the answer has said.
    let (answer, _) = tokio::join!(answer, connection);
    answer
}
