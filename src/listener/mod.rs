//! Where producers connect: bind first, serve later.
//!
//! [`bind`] takes an address so that a daemon which can't listen fails before it does anything
//! else; [`Bound::serve`] accepts connections, each under a permit taken before the accept, and
//! reads them (`connection`) until it is told to stop.

mod acks;
mod connection;
mod datagrams;
mod intakes;
mod limit;
mod rate;
mod read_size;
mod requests;
mod source;
mod tls;

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use connection::longest_record;
use datagrams::DatagramSource;
pub use intakes::Intakes;
use limit::Limit;
pub use requests::signature;
use source::StdinSource;
pub use tls::TlsError;
use tls::{Tls, TlsSource};

use crate::buffer::{Count, Intake, RejectReason};
use crate::config::{Address, Allow, ListenConfig, OnFull, Protocol};
use crate::framing::Delimiter;
use crate::socket::{
    BindError, Connection, Datagrams, Passed, Socket, Taken, bind_tcp, bind_unix, bind_unix_datagram,
};
use crate::telemetry::figures::Figures;
use crate::telemetry::now;
use crate::telemetry::quiet::Quiet;

/// First and longest pause of accepting when the system has no descriptor or memory left.
const ACCEPT_PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// A listener with its address taken and nothing accepted yet.
#[derive(Debug)]
pub struct Bound {
    name: Arc<str>,
    inlet: Inlet,
    /// What connections that come are taken by.
    change: watch::Sender<Change>,
    closed: CancellationToken,
    /// One for each connection that there may be, over all sockets of the listener.
    permits: Arc<Permits>,
    /// Over all sockets of the listener.
    limit: Arc<Limit>,
}

/// What may be changed of a listener that serves: all but its address.
#[derive(Debug, Clone)]
pub struct Change {
    config: ListenConfig,
    tls: Option<Arc<Tls>>,
}

/// Steers a listener that serves.
#[derive(Debug)]
pub struct Handle {
    address: String,
    change: watch::Sender<Change>,
    closed: CancellationToken,
    permits: Arc<Permits>,
    limit: Arc<Limit>,
}

impl Handle {
    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Takes connections that come from now on by `change`, and goes by its limits with all.
    pub fn change(&self, change: Change) {
        self.permits.set(change.config.max_connections);
        self.limit.set(change.config.max_bytes_per_second);
        self.change.send_replace(change);
    }

    /// Takes no more connections; those that there are go on.
    pub fn close(&self) {
        self.closed.cancel();
    }
}

/// One permit for each connection that there may be.
#[derive(Debug)]
struct Permits {
    semaphore: Arc<Semaphore>,
    most: Mutex<usize>,
}

impl Permits {
    fn new(most: usize) -> Self {
        Self { semaphore: Arc::new(Semaphore::new(most)), most: Mutex::new(most) }
    }

    /// Where there are more connections than that, they stay.
    fn set(&self, to: usize) {
        let mut most = self.most.lock().unwrap_or_else(PoisonError::into_inner);
        if to >= *most {
            self.semaphore.add_permits(to - *most);
            *most = to;
        } else {
            *most -= self.semaphore.forget_permits(*most - to);
        }
    }
}

/// What a listener of `config` would be changed to.
///
/// # Errors
///
/// See [`TlsError`].
pub fn prepare(config: &ListenConfig) -> Result<Change, TlsError> {
    let alpn = if config.protocol.has_requests() { requests::ALPN } else { &[] };
    let tls = config.tls.as_ref().map(|files| Tls::load(files, alpn)).transpose()?.map(Arc::new);
    Ok(Change { config: config.clone(), tls })
}

/// Where a listener's connections come from.
#[derive(Debug)]
enum Inlet {
    Socket(Socket),
    /// Datagrams, which need none.
    Datagrams(Datagrams),
    /// The one connection that there is from the start.
    Stdin,
}

impl From<Taken> for Inlet {
    fn from(taken: Taken) -> Self {
        match taken {
            Taken::Socket(socket) => Self::Socket(socket),
            Taken::Datagrams(datagrams) => Self::Datagrams(datagrams),
        }
    }
}

/// What the listeners of a daemon share.
#[derive(Debug, Clone)]
pub struct Context {
    /// Follows each record.
    pub delimiter: Delimiter,
    /// Longest record that the buffer can carry, whatever the listener allows.
    pub max_record_bytes: usize,
    /// What gives way when the buffer is full.
    pub on_full: OnFull,
    /// Where connections are counted.
    pub figures: Arc<Figures>,
    /// Stop accepting, read what is there, end.
    pub stop: CancellationToken,
    /// End at once.
    pub abort: CancellationToken,
    /// Keeps account of the tasks of connections.
    pub tasks: TaskTracker,
}

/// Why a listener can't begin.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The address is in use, not permitted or not there.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// It can't prove itself.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A socket was passed that its protocol has nothing to do with.
    #[error(
        "{address} is a datagram socket: its protocol must be \"syslog\" or \"lines\", not \"{protocol}\""
    )]
    NotForDatagrams {
        /// Where it is.
        address: Address,
        /// The listener's protocol.
        protocol: &'static str,
    },
}

/// Takes the address of the listener called `name`: one socket, or all that systemd passed under
/// one name. Must be called within a tokio runtime.
///
/// # Errors
///
/// See [`ListenError`].
pub fn bind(name: &str, config: &ListenConfig, passed: &mut Passed) -> Result<Vec<Bound>, ListenError> {
    let change = prepare(config)?;
    let inlets = match &config.address {
        Address::Unix(path) => vec![Inlet::Socket(bind_unix(path, config.mode)?)],
        Address::Tcp(address) | Address::Tls(address) => vec![Inlet::Socket(bind_tcp(*address)?)],
        Address::UnixDatagram(path) => vec![Inlet::Datagrams(bind_unix_datagram(path, config.mode)?)],
        Address::Stdin => vec![Inlet::Stdin],
        Address::Activated(name) => passed.take(name)?.into_iter().map(Inlet::from).collect(),
    };
    let has_datagrams = inlets.iter().any(|inlet| matches!(inlet, Inlet::Datagrams(_)));
    if has_datagrams && datagrams::envelope(config.protocol).is_none() {
        let protocol = config.protocol.name();
        return Err(ListenError::NotForDatagrams { address: config.address.clone(), protocol });
    }
    let permits = Arc::new(Permits::new(config.max_connections));
    let limit = Arc::new(Limit::new(name.into(), config.max_bytes_per_second));
    let bound = |inlet| Bound {
        name: name.into(),
        inlet,
        change: watch::Sender::new(change.clone()),
        closed: CancellationToken::new(),
        permits: Arc::clone(&permits),
        limit: Arc::clone(&limit),
    };
    Ok(inlets.into_iter().map(bound).collect())
}

/// What the connections of one listener share.
#[derive(Debug)]
struct Shared {
    name: Arc<str>,
    config: ListenConfig,
    tls: Option<Arc<Tls>>,
    limit: Arc<Limit>,
    context: Context,
    rejections: Arc<Mutex<Quiet>>,
    drops: Arc<Mutex<Quiet>>,
}

impl Shared {
    /// The same listener, changed.
    fn changed(&self, Change { config, tls }: Change) -> Self {
        Self {
            name: Arc::clone(&self.name),
            config,
            tls,
            limit: Arc::clone(&self.limit),
            context: self.context.clone(),
            rejections: Arc::clone(&self.rejections),
            drops: Arc::clone(&self.drops),
        }
    }

    /// Bytes of the longest record that is taken.
    fn longest_record(&self) -> usize {
        self.config.max_record_bytes.min(self.context.max_record_bytes)
    }

    /// Reports records that were dropped because the buffer was full.
    fn say_dropped(&self, Count { records, bytes }: Count) {
        let say = self.drops.lock().unwrap_or_else(PoisonError::into_inner).say(now());
        if let Some(suppressed) = say {
            let listener = &*self.name;
            tracing::error!(listener, records, bytes, reason = "buffer_full", suppressed, "Records dropped.");
        }
    }

    /// Whether whoever has connected may write here.
    fn admits(&self, connection: &Connection) -> bool {
        if self.is_open(connection) {
            if let Some(suppressed) = self.may_say_rejection() {
                let listener = &*self.name;
                tracing::warn!(
                    listener,
                    suppressed,
                    "Connection refused: set `access_key_id`, or listen on loopback."
                );
            }
            return false;
        }
        let Allow { uids, gids } = &self.config.allow;
        if uids.is_none() && gids.is_none() {
            return true;
        }
        let peer = match connection {
            Connection::Unix(stream) => stream.peer_cred().ok(),
            // Which systemd may pass: nothing is known of who is there.
            Connection::Tcp(_) => None,
        };
        let (uid, gid) = (peer.map(|peer| peer.uid()), peer.map(|peer| peer.gid()));
        let admitted = uid.zip(gid).is_some_and(|(uid, gid)| self.config.allow.admits(uid, gid));
        if !admitted && let Some(suppressed) = self.may_say_rejection() {
            let listener = &*self.name;
            tracing::warn!(
                listener,
                uid,
                gid,
                suppressed,
                "Connection refused: its user may not write here."
            );
        }
        admitted
    }

    /// Whether it came from where anybody may be, and would be taken at its word. An address of the
    /// configuration is looked at before; this is one that systemd chose.
    fn is_open(&self, connection: &Connection) -> bool {
        let Connection::Tcp(stream) = connection else { return false };
        let takes_any_word = self.config.protocol == Protocol::Firehose && self.config.signing.is_none();
        takes_any_word && stream.local_addr().is_ok_and(|address| !address.ip().to_canonical().is_loopback())
    }

    /// Reports a handshake that came to nothing.
    fn say_unproven(&self, error: &io::Error) {
        if let Some(suppressed) = self.may_say_rejection() {
            tracing::warn!(listener = &*self.name, %error, suppressed, "Connection refused: no TLS session.");
        }
    }

    fn may_say_rejection(&self) -> Option<u64> {
        self.rejections.lock().unwrap_or_else(PoisonError::into_inner).say(now())
    }

    /// Reports a connection that can't be read any further.
    fn say_closed(&self, protocol: Protocol, error: &io::Error) {
        if let Some(suppressed) = self.may_say_rejection() {
            let (listener, protocol) = (&*self.name, protocol.name());
            tracing::warn!(listener, protocol, %error, suppressed, "Connection closed: it does not speak the protocol.");
        }
    }

    /// Counts and reports a record that was turned away.
    fn reject(&self, reason: RejectReason, bytes: u64) {
        self.reject_all(reason, Count { records: 1, bytes });
    }

    /// Counts and reports records that were turned away together.
    fn reject_all(&self, reason: RejectReason, count: Count) {
        if count.records == 0 {
            return;
        }
        self.context.figures.ledger().rejected(reason, count);
        let Some(suppressed) = self.may_say_rejection() else { return };
        let (listener, reason, bytes) = (&*self.name, reason.label(), count.bytes);
        let max_record_bytes = self.longest_record();
        tracing::warn!(listener, bytes, reason, max_record_bytes, suppressed, "Record rejected.");
    }
}

impl Bound {
    /// The address that was taken, with the port that the system chose for port 0.
    #[must_use]
    pub fn address(&self) -> String {
        match &self.inlet {
            Inlet::Socket(socket) if self.change.borrow().tls.is_some() => {
                socket.address().replacen("tcp:", "tls:", 1)
            }
            Inlet::Socket(socket) => socket.address(),
            Inlet::Datagrams(socket) => socket.address(),
            Inlet::Stdin => Address::Stdin.to_string(),
        }
    }

    /// The delivery stream of its own, if it has one.
    #[must_use]
    pub fn stream(&self) -> Option<String> {
        self.change.borrow().config.delivery_stream_name.clone()
    }

    /// The listener's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What steers it once it serves.
    #[must_use]
    pub fn handle(&self) -> Handle {
        Handle {
            address: self.address(),
            change: self.change.clone(),
            closed: self.closed.clone(),
            permits: Arc::clone(&self.permits),
            limit: Arc::clone(&self.limit),
        }
    }

    /// Accepts and reads connections until told to stop, or until standard input ends. Every
    /// connection that is accepted is a task of its own, tracked in `context.tasks`; it holds a
    /// clone of `intake` until it has handed over its last record.
    pub async fn serve(self, intake: Intake, context: Context) {
        let mut change = self.change.subscribe();
        let Change { config, tls } = change.borrow_and_update().clone();
        let mut shared = Arc::new(Shared {
            name: self.name,
            config,
            tls,
            limit: self.limit,
            context,
            rejections: Arc::new(Mutex::new(Quiet::new(5, Duration::from_secs(10)))),
            drops: Arc::new(Mutex::new(Quiet::new(1, Duration::from_secs(10)))),
        });
        let (stop, closed) = (shared.context.stop.clone(), self.closed);
        let socket = match self.inlet {
            Inlet::Socket(socket) => socket,
            Inlet::Datagrams(socket) => return read_datagrams(shared, intake, socket, change, closed).await,
            Inlet::Stdin => return read_stdin(&shared, intake).await,
        };
        let permits = Arc::clone(&self.permits.semaphore);
        let mut pause = ACCEPT_PAUSE.0;
        let mut full = Quiet::new(1, Duration::from_secs(10));
        loop {
            if permits.available_permits() == 0
                && let Some(suppressed) = full.say(now())
            {
                let (listener, max_connections) = (&*shared.name, shared.config.max_connections);
                tracing::warn!(
                    listener,
                    max_connections,
                    suppressed,
                    "Every connection is taken, further ones wait."
                );
            }
            let permit = tokio::select! {
                () = stop.cancelled() => break,
                () = closed.cancelled() => break,
                permit = Arc::clone(&permits).acquire_owned() => permit,
            };
            let accepted = tokio::select! {
                () = stop.cancelled() => break,
                () = closed.cancelled() => break,
                accepted = socket.accept() => accepted,
            };
            match accepted {
                Ok(connection) => {
                    if change.has_changed().unwrap_or(false) {
                        shared = Arc::new(shared.changed(change.borrow_and_update().clone()));
                    }
                    spawn(&shared, &intake, connection, permit.ok());
                    pause = ACCEPT_PAUSE.0;
                }
                Err(error) if is_exhaustion(&error) => {
                    shared.context.figures.accept_paused();
                    if let Some(suppressed) = full.say(now()) {
                        let listener = &*shared.name;
                        tracing::warn!(listener, %error, suppressed, "Accepting pauses: raise the limit of open files (LimitNOFILE, ulimit -n).");
                    }
                    tokio::select! {
                        () = stop.cancelled() => break,
                        () = closed.cancelled() => break,
                        () = tokio::time::sleep(pause) => {}
                    }
                    pause = (pause * 2).min(ACCEPT_PAUSE.1);
                }
                // The producer was gone before it was accepted.
                Err(error) => {
                    tracing::debug!(listener = &*shared.name, %error, "A connection was not accepted.")
                }
            }
        }
        // What waits at a socket of systemd's waits for whoever is started next.
        if socket.is_inherited() {
            return;
        }
        // Producers that connected before the stop are heard, each in its turn.
        socket.refuse_more();
        loop {
            let permit = tokio::select! {
                () = shared.context.abort.cancelled() => return,
                permit = Arc::clone(&permits).acquire_owned() => permit,
            };
            match socket.accept_waiting() {
                Ok(connection) => spawn(&shared, &intake, connection, permit.ok()),
                Err(error) if is_exhaustion(&error) => tokio::time::sleep(ACCEPT_PAUSE.0).await,
                Err(_) => return,
            }
        }
    }
}

async fn read_stdin(shared: &Shared, intake: Intake) {
    let _counted = shared.context.figures.connection();
    tokio::select! {
        () = shared.context.abort.cancelled() => {}
        () = connection::serve(shared, intake, StdinSource::new()) => {}
    }
}

async fn read_datagrams(
    mut shared: Arc<Shared>,
    intake: Intake,
    socket: Datagrams,
    mut change: watch::Receiver<Change>,
    closed: CancellationToken,
) {
    let stop = shared.context.stop.child_token();
    let Some(envelope) = datagrams::envelope(shared.config.protocol) else { return };
    let mut source = DatagramSource::new(socket, change.clone(), envelope, Arc::clone(&shared));
    let abort = shared.context.abort.clone();
    let served = async {
        loop {
            // Datagrams have no connection that could be idle.
            let config = ListenConfig { idle_timeout: None, ..shared.config.clone() };
            let mut now = shared.changed(Change { config, tls: None });
            now.context.stop = stop.clone();
            connection::serve(&now, intake.clone(), &mut source).await;
            if !source.take_changed() {
                return;
            }
            let changed = change.borrow_and_update().clone();
            let protocol = changed.config.protocol;
            let Some(envelope) = datagrams::envelope(protocol) else {
                // Of a socket of systemd's it is not known before that it is one of datagrams.
                let (listener, protocol) = (&*shared.name, protocol.name());
                tracing::error!(
                    listener,
                    protocol,
                    "Datagrams are read on as before: they must be syslog or lines."
                );
                continue;
            };
            source.envelope = envelope;
            shared = Arc::new(shared.changed(changed));
            source.shared = Arc::clone(&shared);
        }
    };
    let closing = async {
        closed.cancelled().await;
        stop.cancel();
        std::future::pending().await
    };
    tokio::select! {
        () = abort.cancelled() => {}
        () = closing => {}
        () = served => {}
    }
}

fn spawn(
    shared: &Arc<Shared>,
    intake: &Intake,
    connection: Connection,
    permit: Option<OwnedSemaphorePermit>,
) {
    let (shared, intake) = (Arc::clone(shared), intake.clone());
    let (tasks, abort) = (shared.context.tasks.clone(), shared.context.abort.clone());
    tasks.spawn(async move {
        let _permit = permit;
        let _counted = shared.context.figures.connection();
        let asks = shared.config.protocol.has_requests();
        let served = async {
            match (connection, &shared.tls) {
                (connection, _) if !shared.admits(&connection) => {}
                (Connection::Unix(stream), _) if asks => {
                    Box::pin(requests::serve(&shared, intake, stream)).await
                }
                (Connection::Unix(stream), _) => connection::serve(&shared, intake, stream).await,
                (Connection::Tcp(stream), None) if asks => {
                    Box::pin(requests::serve(&shared, intake, stream)).await
                }
                (Connection::Tcp(stream), None) => connection::serve(&shared, intake, stream).await,
                (Connection::Tcp(stream), Some(tls)) => match Box::pin(tls.accept(stream)).await {
                    Ok(stream) if asks => Box::pin(requests::serve(&shared, intake, stream)).await,
                    Ok(stream) => Box::pin(connection::serve(&shared, intake, TlsSource::new(stream))).await,
                    Err(error) => shared.say_unproven(&error),
                },
            }
        };
        tokio::select! {
            () = abort.cancelled() => {}
            () = served => {}
        }
    });
}

/// Whether the system has run out of something, so that accepting again at once is no use.
fn is_exhaustion(error: &io::Error) -> bool {
    // EMFILE, ENFILE, ENOBUFS, ENOMEM: the numbers are the same on every Linux architecture
    // that Rust's standard library supports but for MIPS's ENOBUFS.
    matches!(error.raw_os_error(), Some(24 | 23 | 105 | 12))
}
