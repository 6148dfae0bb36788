//! Sockets to listen on: addresses taken, files made and removed, sockets that systemd passes.

use std::fs::{self, Permissions};
use std::io::{self, ErrorKind};
use std::net::{Shutdown, SocketAddr};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use listenfd::ListenFd;
use rustix::net::RecvFlags;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::Interest;
use tokio::net::{TcpListener, TcpSocket, TcpStream, UnixDatagram, UnixListener, UnixStream};

/// Connections that may wait in the kernel's queue (cut to `net.core.somaxconn`).
const BACKLOG: u32 = 1024;
/// Idle time after which a silent TCP peer is probed, so that one that vanished does not hold
/// its connection for ever.
const KEEPALIVE: Duration = Duration::from_secs(60);

/// Why an address could not be taken.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// A living process listens on the socket file.
    #[error("{scheme}:{} is in use: another process is listening on it", path.display())]
    Live {
        /// `unix` or `unix-dgram`.
        scheme: &'static str,
        /// The socket file.
        path: PathBuf,
    },
    /// Something that is not a socket stands at the path.
    #[error("{scheme}:{} exists and is not a socket: remove it or choose another path", path.display())]
    NotASocket {
        /// `unix` or `unix-dgram`.
        scheme: &'static str,
        /// The path.
        path: PathBuf,
    },
    /// The socket file could not be made.
    #[error("{scheme}:{} could not be made a socket in {}: {}", path.display(), directory.display(), source)]
    File {
        /// `unix` or `unix-dgram`.
        scheme: &'static str,
        /// The socket file.
        path: PathBuf,
        /// Its directory.
        directory: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The port is taken.
    #[error("tcp:{address} is in use: another process is listening on it")]
    PortInUse {
        /// The address.
        address: SocketAddr,
    },
    /// systemd passed no socket of that name.
    #[error(
        "fd:{name} was not passed by systemd, which passed {}; start the service by its socket unit, and name \
             that socket with FileDescriptorName={name}",
        listed(passed)
    )]
    NotPassed {
        /// The name.
        name: String,
        /// What was passed and is not taken.
        passed: Vec<String>,
    },
    /// What systemd passed under the name is no socket that records can come from.
    #[error("fd:{name} is no listening stream socket and no Unix datagram socket: {source}")]
    Foreign {
        /// The name.
        name: String,
        /// What the system said.
        source: io::Error,
    },
    /// The address could not be taken.
    #[error("tcp:{address} could not be listened on: {source}")]
    Tcp {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
}

fn listed(names: &[String]) -> String {
    if names.is_empty() { "nothing else".to_owned() } else { names.join(", ") }
}

/// A place where connections come from.
#[derive(Debug)]
pub struct Socket {
    kind: Kind,
    /// Whoever passed the socket listens on it too, and goes on when this process ends.
    inherited: bool,
}

#[derive(Debug)]
enum Kind {
    /// A Unix stream socket, and its file if that is ours.
    Unix(UnixListener, Option<SocketFile>),
    /// A TCP socket.
    Tcp(TcpListener),
}

/// A Unix datagram socket, and its file if that is ours.
#[derive(Debug)]
pub struct Datagrams {
    socket: UnixDatagram,
    file: Option<SocketFile>,
    /// It takes no more.
    is_shut: bool,
}

/// What systemd has passed.
#[derive(Debug)]
pub enum Taken {
    /// Connections come from it.
    Socket(Socket),
    /// Datagrams come from it.
    Datagrams(Datagrams),
}

/// One connection.
#[derive(Debug)]
pub enum Connection {
    /// Over a Unix stream socket.
    Unix(UnixStream),
    /// Over TCP.
    Tcp(TcpStream),
}

/// Makes a Unix socket at `path`, its file with the permission bits `mode`.
///
/// The socket is made under a name of its own, gets its mode and is then moved to its place: a
/// file that a dead process left is replaced in one step, and nobody can connect before the mode
/// is set. Must be called within a tokio runtime.
///
/// # Errors
///
/// [`BindError`] when a living process listens there, something else is in the way, or the
/// directory does not take it.
pub fn bind_unix(path: &Path, mode: u32) -> Result<Socket, BindError> {
    let (listener, file) = make("unix", path, mode, |path| UnixListener::bind(path))?;
    Ok(Socket { kind: Kind::Unix(listener, Some(file)), inherited: false })
}

/// Makes a Unix datagram socket at `path` as [`bind_unix`] makes one of connections.
///
/// # Errors
///
/// As of [`bind_unix`].
pub fn bind_unix_datagram(path: &Path, mode: u32) -> Result<Datagrams, BindError> {
    let (socket, file) = make("unix-dgram", path, mode, |path| UnixDatagram::bind(path))?;
    Ok(Datagrams { socket, file: Some(file), is_shut: false })
}

fn make<S>(
    scheme: &'static str,
    path: &Path,
    mode: u32,
    bind: impl Fn(&Path) -> io::Result<S>,
) -> Result<(S, SocketFile), BindError> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let failed =
        |source| BindError::File { scheme, path: path.to_owned(), directory: directory.to_owned(), source };
    match fs::symlink_metadata(path) {
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(BindError::NotASocket { scheme, path: path.to_owned() });
        }
        Ok(_) if is_live(path) => return Err(BindError::Live { scheme, path: path.to_owned() }),
        _ => {}
    }
    // Short, because a socket's path may have no more than 107 bytes.
    let made = directory.join(format!(".{}", std::process::id()));
    let make = || {
        match fs::remove_file(&made) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let socket = bind(&made)?;
        fs::set_permissions(&made, Permissions::from_mode(mode))?;
        let inode = fs::symlink_metadata(&made)?.ino();
        fs::rename(&made, path)?;
        Ok((socket, SocketFile { path: path.to_owned(), inode }))
    };
    make().map_err(|source| {
        drop(fs::remove_file(&made));
        failed(source)
    })
}

/// Takes a TCP address. Must be called within a tokio runtime.
///
/// # Errors
///
/// [`BindError`] when the port is in use or the address is not this machine's.
pub fn bind_tcp(address: SocketAddr) -> Result<Socket, BindError> {
    let bind = || {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    let ours = |listener| Socket { kind: Kind::Tcp(listener), inherited: false };
    bind().map(ours).map_err(|source| {
        if source.kind() == ErrorKind::AddrInUse {
            BindError::PortInUse { address }
        } else {
            BindError::Tcp { address, source }
        }
    })
}

/// Whether a process listens on the socket file.
fn is_live(path: &Path) -> bool {
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => true,
        // A full queue, a missing permission or another type of socket also means that somebody is there.
        Err(error) => !matches!(error.kind(), ErrorKind::ConnectionRefused | ErrorKind::NotFound),
    }
}

/// A socket's file, removed on drop if it is still the one that was made.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    inode: u64,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let ours = fs::symlink_metadata(&self.path).is_ok_and(|metadata| metadata.ino() == self.inode);
        if ours && let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(%error, path = %self.path.display(), "The socket file could not be removed.");
        }
    }
}

/// Sockets that systemd listens on and passed to this process, by name, until they are taken.
///
/// Protocol: <https://www.freedesktop.org/software/systemd/man/latest/sd_listen_fds.html>
pub struct Passed {
    descriptors: ListenFd,
    /// The name of each; emptied when it is taken.
    names: Vec<Option<String>>,
}

impl std::fmt::Debug for Passed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Passed").field("names", &self.names).finish_non_exhaustive()
    }
}

impl Passed {
    /// What the variables `LISTEN_PID`, `LISTEN_FDS` and `LISTEN_FDNAMES` of this process say.
    #[must_use]
    pub fn of_process() -> Self {
        let descriptors = ListenFd::from_env();
        let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
        let names = names.split(':').map(|name| Some(name.to_owned()));
        // Without names systemd calls a socket "unknown".
        let names = names.chain(std::iter::repeat_with(|| Some("unknown".to_owned())));
        Self { names: names.take(descriptors.len()).collect(), descriptors }
    }

    /// Nothing.
    #[must_use]
    pub fn none() -> Self {
        Self { descriptors: ListenFd::empty(), names: Vec::new() }
    }

    /// Takes every socket called `name`. Must be called within a tokio runtime.
    ///
    /// # Errors
    ///
    /// [`BindError::NotPassed`] and [`BindError::Foreign`].
    pub fn take(&mut self, name: &str) -> Result<Vec<Taken>, BindError> {
        let called = |(index, other): (usize, &mut Option<String>)| {
            other.take_if(|other| other == name).map(|_| index)
        };
        let indices: Vec<_> = self.names.iter_mut().enumerate().filter_map(called).collect();
        if indices.is_empty() {
            return Err(BindError::NotPassed { name: name.to_owned(), passed: self.left() });
        }
        indices.into_iter().map(|index| self.socket(index, name)).collect()
    }

    fn socket(&mut self, index: usize, name: &str) -> Result<Taken, BindError> {
        let foreign = |source| BindError::Foreign { name: name.to_owned(), source };
        // It leaves in its place what is of another kind.
        if let Ok(Some(socket)) = self.descriptors.take_unix_datagram(index) {
            socket.set_nonblocking(true).map_err(foreign)?;
            let socket = UnixDatagram::from_std(socket).map_err(foreign)?;
            return Ok(Taken::Datagrams(Datagrams { socket, file: None, is_shut: false }));
        }
        let kind = match self.descriptors.take_unix_listener(index) {
            Ok(Some(listener)) => {
                listener.set_nonblocking(true).map_err(foreign)?;
                Kind::Unix(UnixListener::from_std(listener).map_err(foreign)?, None)
            }
            // Not a Unix stream socket.
            Ok(None) | Err(_) => {
                let listener = self.descriptors.take_tcp_listener(index).map_err(foreign)?;
                let listener = listener.ok_or_else(|| foreign(ErrorKind::NotFound.into()))?;
                listener.set_nonblocking(true).map_err(foreign)?;
                Kind::Tcp(TcpListener::from_std(listener).map_err(foreign)?)
            }
        };
        let listens = match &kind {
            Kind::Unix(listener, _) => SockRef::from(listener).is_listener(),
            Kind::Tcp(listener) => SockRef::from(listener).is_listener(),
        };
        match listens {
            Ok(true) => Ok(Taken::Socket(Socket { kind, inherited: true })),
            // `Accept=yes` passes connections.
            Ok(false) => Err(foreign(io::Error::other("it does not listen; set Accept=no"))),
            Err(error) => Err(foreign(error)),
        }
    }

    /// The names of those that nobody took.
    #[must_use]
    pub fn left(&self) -> Vec<String> {
        self.names.iter().flatten().cloned().collect()
    }
}

impl Socket {
    /// The address, with the port that the system chose for port 0.
    #[must_use]
    pub fn address(&self) -> String {
        match &self.kind {
            Kind::Unix(listener, file) => named(
                "unix",
                file.as_ref(),
                listener.local_addr().ok().as_ref().and_then(|it| it.as_pathname()),
            ),
            Kind::Tcp(listener) => {
                listener.local_addr().map_or_else(|_| "tcp:?".to_owned(), |address| format!("tcp:{address}"))
            }
        }
    }

    /// Whether another process listens on it too, and goes on when this one ends: then what waits
    /// to be accepted is for whoever comes next.
    #[must_use]
    pub fn is_inherited(&self) -> bool {
        self.inherited
    }

    /// The next connection.
    ///
    /// # Errors
    ///
    /// What the system said of one connection; the next call may succeed.
    ///
    /// # Cancel safety
    ///
    /// No connection is lost when the future is dropped.
    pub async fn accept(&self) -> io::Result<Connection> {
        match &self.kind {
            Kind::Unix(listener, _) => Ok(Connection::Unix(listener.accept().await?.0)),
            Kind::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                SockRef::from(&stream).set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE))?;
                Ok(Connection::Tcp(stream))
            }
        }
    }

    /// Takes no new connection into the queue of those that wait to be accepted, where that is
    /// possible without losing those that do: on a Unix socket that is ours.
    pub fn refuse_more(&self) {
        match &self.kind {
            Kind::Unix(listener, Some(_)) => drop(SockRef::from(listener).shutdown(Shutdown::Read)),
            Kind::Unix(_, None) | Kind::Tcp(_) => {}
        }
    }

    /// A connection that waits already, whether or not the runtime has noticed.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::WouldBlock`] when none does, else what the system said of one connection.
    pub fn accept_waiting(&self) -> io::Result<Connection> {
        let (accepted, _) = match &self.kind {
            Kind::Unix(listener, _) => SockRef::from(listener).accept(),
            Kind::Tcp(listener) => SockRef::from(listener).accept(),
        }?;
        accepted.set_nonblocking(true)?;
        let accepted = OwnedFd::from(accepted);
        Ok(match &self.kind {
            Kind::Unix(..) => Connection::Unix(UnixStream::from_std(accepted.into())?),
            Kind::Tcp(_) => Connection::Tcp(TcpStream::from_std(accepted.into())?),
        })
    }
}

/// The address of a Unix socket: that of its file, which may have been moved to its place.
fn named(scheme: &str, file: Option<&SocketFile>, bound: Option<&Path>) -> String {
    match file.map(|file| file.path.as_path()).or(bound) {
        Some(path) => format!("{scheme}:{}", path.display()),
        None => format!("{scheme}:?"),
    }
}

impl Datagrams {
    /// The address.
    #[must_use]
    pub fn address(&self) -> String {
        let bound = self.socket.local_addr().ok();
        named("unix-dgram", self.file.as_ref(), bound.as_ref().and_then(|it| it.as_pathname()))
    }

    /// Returns once a datagram waits. Cancel safe.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub async fn readable(&self) -> io::Result<()> {
        self.socket.readable().await
    }

    /// The size in bytes of the datagram that waits first.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::WouldBlock`] when none waits.
    pub fn next_size(&self) -> io::Result<usize> {
        self.receive(&mut [], RecvFlags::PEEK)
    }

    /// Takes the datagram that waits first, as much of it as fits into `bytes`, and returns its size.
    ///
    /// # Errors
    ///
    /// As of [`Datagrams::next_size`].
    pub fn take(&self, bytes: &mut [u8]) -> io::Result<usize> {
        self.receive(bytes, RecvFlags::empty())
    }

    fn receive(&self, bytes: &mut [u8], flags: RecvFlags) -> io::Result<usize> {
        let receive = || {
            // With TRUNC it tells the size of the whole.
            let received = rustix::net::recv(&self.socket, bytes, flags | RecvFlags::TRUNC);
            received.map(|(_, size)| size).map_err(io::Error::from)
        };
        // Of the last ones the system is asked, and not the runtime what it has heard of.
        if self.is_shut { receive() } else { self.socket.try_io(Interest::READABLE, receive) }
    }

    /// Takes no new datagram into the queue: senders are told by EPIPE. Returns whether that was done; a
    /// socket that was passed is left to whoever comes next, with what waits in it.
    #[must_use]
    pub fn refuse_more(&mut self) -> bool {
        self.is_shut = self.file.is_some() && SockRef::from(&self.socket).shutdown(Shutdown::Read).is_ok();
        self.is_shut
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bound(path: &Path) -> Result<Socket, BindError> {
        bind_unix(path, 0o620)
    }

    #[tokio::test]
    async fn a_socket_file_has_its_mode_and_goes_with_its_listener() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("app.sock");
        let socket = bound(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o620);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
        drop(socket);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_dead_processes_file_is_replaced_and_a_live_ones_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("app.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let socket = bound(&path).unwrap();
        let error = bound(&path).unwrap_err().to_string();
        assert!(error.contains("app.sock is in use"), "{error}");
        drop(socket);
    }

    // R-P4
    #[tokio::test]
    async fn a_file_that_took_its_place_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("app.sock");
        let socket = bound(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let other = bound(&path).unwrap();
        drop(socket);
        assert!(path.exists());
        drop(other);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn what_is_in_the_way_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("app.sock");
        fs::write(&path, "").unwrap();
        assert!(matches!(bound(&path), Err(BindError::NotASocket { .. })));
        let error = bound(&directory.path().join("missing/app.sock")).unwrap_err().to_string();
        assert!(error.contains("missing"), "{error}");
        let taken = bind_tcp("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = taken.address().trim_start_matches("tcp:").parse().unwrap();
        let error = bind_tcp(address).unwrap_err();
        assert!(matches!(error, BindError::PortInUse { .. }), "{error}");
    }
}
