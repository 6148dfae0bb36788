//! TLS at a listener: handshakes, and certificates that are read again when their files change.

use std::fs;
use std::future::poll_fn;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant, SystemTime};

use bytes::{Buf, BufMut, BytesMut};
use futures_util::FutureExt;
use rustls::crypto::ring;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::source::Source;
use crate::config::TlsConfig;
use crate::telemetry::now;

/// Longest that a producer may take for its handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How often a connection that comes makes the files be looked at.
const LOOK: Duration = Duration::from_secs(5);
/// Bytes taken out of a session while nothing is reserved for them.
const AHEAD_BYTES: usize = 4 * 1024;

/// Why a listener can't prove itself.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file is not what it should be.
    #[error("{} is no {what}: {reason}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What it should be.
        what: &'static str,
        /// What was found.
        reason: String,
    },
    /// The files do not fit each other.
    #[error("{} and {} can't be used for TLS: {reason}", cert.display(), key.display())]
    Pair {
        /// The certificate.
        cert: PathBuf,
        /// The key.
        key: PathBuf,
        /// Why.
        reason: String,
    },
}

/// What a listener proves itself by, as its files last were.
#[derive(Debug)]
pub(super) struct Tls {
    files: TlsConfig,
    /// The protocols that a client may choose from, if there is a choice.
    alpn: Alpn,
    loaded: Mutex<Loaded>,
}

#[derive(Debug)]
struct Loaded {
    config: Arc<ServerConfig>,
    stamps: Vec<Stamp>,
    looked: Instant,
}

/// Protocols above TLS by their registered names, the preferred one first.
pub(super) type Alpn = &'static [&'static [u8]];

/// What tells one content of a file from another, without reading it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stamp(Option<(SystemTime, u64)>);

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    ///
    /// See [`TlsError`].
    pub(super) fn load(files: &TlsConfig, alpn: Alpn) -> Result<Self, TlsError> {
        let stamps = stamps(files);
        let loaded = Loaded { config: Arc::new(server_config(files, alpn)?), stamps, looked: now() };
        Ok(Self { files: files.clone(), alpn, loaded: Mutex::new(loaded) })
    }

    /// The handshake with a producer that has connected.
    ///
    /// # Errors
    ///
    /// When it fails or takes too long.
    pub(super) async fn accept(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let handshake = TlsAcceptor::from(self.current()).accept(stream);
        match tokio::time::timeout(HANDSHAKE, handshake).await {
            Ok(result) => result,
            Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "the handshake took too long")),
        }
    }

    /// The configuration, from the files if they have changed. Files that can't be used change nothing.
    fn current(&self) -> Arc<ServerConfig> {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        let at = now();
        if at.saturating_duration_since(loaded.looked) >= LOOK {
            loaded.looked = at;
            let stamps = stamps(&self.files);
            if stamps != loaded.stamps {
                self.reload(&mut loaded, stamps);
            }
        }
        Arc::clone(&loaded.config)
    }

    fn reload(&self, loaded: &mut Loaded, stamps: Vec<Stamp>) {
        // A file that is being written is looked at again; one that stays wrong is said once.
        loaded.stamps = stamps;
        let cert = self.files.cert.display();
        match server_config(&self.files, self.alpn) {
            Ok(config) => {
                loaded.config = Arc::new(config);
                tracing::info!(%cert, "Certificate read again.");
            }
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::error!(error, %cert, "The changed certificate can't be used: the one before it stays.");
            }
        }
    }
}

fn stamps(files: &TlsConfig) -> Vec<Stamp> {
    let stamp = |path: &PathBuf| {
        let metadata = fs::metadata(path).ok();
        Stamp(metadata.and_then(|metadata| Some((metadata.modified().ok()?, metadata.len()))))
    };
    [&files.cert, &files.key].into_iter().chain(&files.client_ca).map(stamp).collect()
}

fn server_config(files: &TlsConfig, alpn: Alpn) -> Result<ServerConfig, TlsError> {
    let TlsConfig { cert, key, client_ca } = files;
    let chain = certificates(cert, "certificate chain in PEM")?;
    let private =
        PrivateKeyDer::from_pem_file(key).map_err(|error| wrong(key, "private key in PEM", &error))?;
    let provider = Arc::new(ring::default_provider());
    let pair = |error: rustls::Error| TlsError::Pair {
        cert: cert.clone(),
        key: key.clone(),
        reason: error.to_string(),
    };
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(pair)?;
    let builder = match client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let what = "file of authorities' certificates in PEM";
            let bad = |reason: String| TlsError::File { path: path.clone(), what, reason };
            let mut authorities = RootCertStore::empty();
            for certificate in certificates(path, what)? {
                authorities.add(certificate).map_err(|error| bad(error.to_string()))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(authorities), provider);
            builder.with_client_cert_verifier(verifier.build().map_err(|error| bad(error.to_string()))?)
        }
    };
    let mut config = builder.with_single_cert(chain, private).map_err(pair)?;
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    Ok(config)
}

fn certificates(path: &Path, what: &'static str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let read = || CertificateDer::pem_file_iter(path)?.collect::<Result<Vec<_>, _>>();
    let certificates = read().map_err(|error| wrong(path, what, &error))?;
    if certificates.is_empty() {
        let reason = "there is no certificate in it".to_owned();
        return Err(TlsError::File { path: path.to_owned(), what, reason });
    }
    Ok(certificates)
}

fn wrong(path: &Path, what: &'static str, error: &pem::Error) -> TlsError {
    let reason = if let pem::Error::Io(error) = error { error.to_string() } else { error.to_string() };
    TlsError::File { path: path.to_owned(), what, reason }
}

/// A connection with TLS, which can't be polled for plain bytes without taking some: a few are read
/// ahead.
#[derive(Debug)]
pub(super) struct TlsSource {
    stream: TlsStream<TcpStream>,
    ahead: BytesMut,
    ended: bool,
}

impl TlsSource {
    pub(super) fn new(stream: TlsStream<TcpStream>) -> Self {
        Self { stream, ahead: BytesMut::new(), ended: false }
    }

    /// Ready once something was read ahead, or the stream has ended.
    fn poll_ahead(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.ahead.is_empty() || self.ended {
            return Poll::Ready(Ok(()));
        }
        // On the stack, so that an idle connection holds nothing.
        let mut bytes = [0; AHEAD_BYTES];
        let mut read = ReadBuf::new(&mut bytes);
        ready!(Pin::new(&mut self.stream).poll_read(context, &mut read))?;
        self.ended = read.filled().is_empty();
        self.ahead = BytesMut::from(read.filled());
        Poll::Ready(Ok(()))
    }
}

impl Source for TlsSource {
    async fn ready(&mut self, or_writable: bool) -> io::Result<bool> {
        poll_fn(|context| match self.poll_ahead(context) {
            Poll::Ready(result) => Poll::Ready(result.map(|()| true)),
            Poll::Pending if or_writable => {
                Pin::new(&mut self.stream).poll_flush(context).map(|result| result.map(|()| false))
            }
            Poll::Pending => Poll::Pending,
        })
        .await
    }

    fn try_read(&mut self, buffer: &mut BytesMut) -> io::Result<usize> {
        let taken = self.ahead.len().min(buffer.capacity() - buffer.len());
        buffer.put((&mut self.ahead).take(taken));
        let mut read = taken;
        while self.ahead.is_empty() && !self.ended && buffer.len() < buffer.capacity() {
            let room = buffer.capacity() - buffer.len();
            let mut room = (&mut *buffer).limit(room);
            match self.stream.read_buf(&mut room).now_or_never() {
                Some(Ok(0)) => self.ended = true,
                Some(Ok(bytes)) => read += bytes,
                // What was read before is handed on first.
                Some(Err(error)) if read == 0 => return Err(error),
                Some(Err(_)) | None => break,
            }
        }
        if read == 0 && !self.ended { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(read) }
    }

    async fn writable(&mut self) -> io::Result<()> {
        self.stream.flush().await
    }

    fn try_write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = match self.stream.write(bytes).now_or_never() {
            Some(result) => result?,
            None => return Err(io::ErrorKind::WouldBlock.into()),
        };
        // What the socket does not take now goes with the next write or `writable`.
        if let Some(result) = self.stream.flush().now_or_never() {
            result?;
        }
        Ok(written)
    }

    fn refuse_more(&mut self) -> bool {
        false
    }
}
