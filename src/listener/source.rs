//! What a connection is read from.

use std::future::Future;
use std::io;
use std::net::Shutdown;

use bytes::{Buf, BufMut, BytesMut};
use socket2::SockRef;
use tokio::io::{AsyncReadExt, Interest, Stdin};
use tokio::net::{TcpStream, UnixStream};

/// Bytes taken from standard input at a time.
const STDIN_BYTES: usize = 64 * 1024;

/// A stream of bytes that tells when it can be read, so that memory is reserved only then.
pub(super) trait Source: Send {
    /// Returns `true` when [`Source::try_read`] would give something; where `or_writable`, also
    /// `false` when [`Source::try_write`] would take something. Cancel safe.
    fn ready(&mut self, or_writable: bool) -> impl Future<Output = io::Result<bool>> + Send;

    /// Appends what is there to the spare capacity of `buffer`; 0 is the end of the stream.
    fn try_read(&mut self, buffer: &mut BytesMut) -> io::Result<usize>;

    /// Says that [`Source::try_read`] gave less than there was room for: nothing is left until more comes.
    fn handle_short_read(&mut self) {}

    /// Returns when [`Source::try_write`] would take something. Cancel safe.
    fn writable(&mut self) -> impl Future<Output = io::Result<()>> + Send;

    /// Writes what fits.
    fn try_write(&mut self, bytes: &[u8]) -> io::Result<usize>;

    /// Tells the other side that nothing more is read, where that is possible without losing
    /// what it has written so far. Returns whether it was told: then what it has written is
    /// followed by the end of the stream.
    fn refuse_more(&mut self) -> bool;
}

fn interest(or_writable: bool) -> Interest {
    if or_writable { Interest::READABLE | Interest::WRITABLE } else { Interest::READABLE }
}

/// Has the runtime take the socket for unreadable until the kernel says otherwise, as it does with each
/// byte that comes after a read: without it, every read but a full one is followed by one of nothing. A file
/// descriptor that a producer passes ends a read early, too; what it wrote behind that is read with its next
/// write, or its end.
fn drained() -> io::Result<()> {
    Err(io::ErrorKind::WouldBlock.into())
}

/// On a Unix socket, shutting down the reading half makes the producer's next write fail with
/// EPIPE while everything that the kernel took before can still be read: no byte is lost that the
/// producer believes to be written.
impl Source for UnixStream {
    async fn ready(&mut self, or_writable: bool) -> io::Result<bool> {
        Ok(UnixStream::ready(self, interest(or_writable)).await?.is_readable())
    }

    fn try_read(&mut self, buffer: &mut BytesMut) -> io::Result<usize> {
        self.try_read_buf(&mut buffer.limit(buffer.capacity() - buffer.len()))
    }

    fn handle_short_read(&mut self) {
        self.try_io(Interest::READABLE, drained).unwrap_or_default();
    }

    async fn writable(&mut self) -> io::Result<()> {
        UnixStream::writable(self).await
    }

    fn try_write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        UnixStream::try_write(self, bytes)
    }

    fn refuse_more(&mut self) -> bool {
        SockRef::from(&*self).shutdown(Shutdown::Read).is_ok()
    }
}

/// TCP has no way to refuse more without losing what is on its way.
impl Source for TcpStream {
    async fn ready(&mut self, or_writable: bool) -> io::Result<bool> {
        Ok(TcpStream::ready(self, interest(or_writable)).await?.is_readable())
    }

    fn try_read(&mut self, buffer: &mut BytesMut) -> io::Result<usize> {
        self.try_read_buf(&mut buffer.limit(buffer.capacity() - buffer.len()))
    }

    fn handle_short_read(&mut self) {
        self.try_io(Interest::READABLE, drained).unwrap_or_default();
    }

    async fn writable(&mut self) -> io::Result<()> {
        TcpStream::writable(self).await
    }

    fn try_write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        TcpStream::try_write(self, bytes)
    }

    fn refuse_more(&mut self) -> bool {
        false
    }
}

/// The daemon's standard input. It may be a file or a terminal, which can't be polled, so it is
/// read ahead by one small buffer.
#[derive(Debug)]
pub(super) struct StdinSource {
    stdin: Stdin,
    ahead: BytesMut,
    ended: bool,
}

impl StdinSource {
    pub(super) fn new() -> Self {
        Self { stdin: tokio::io::stdin(), ahead: BytesMut::with_capacity(STDIN_BYTES), ended: false }
    }
}

impl Source for StdinSource {
    async fn ready(&mut self, _: bool) -> io::Result<bool> {
        if self.ahead.is_empty() && !self.ended {
            self.ahead.reserve(STDIN_BYTES);
            self.ended = self.stdin.read_buf(&mut self.ahead).await? == 0;
        }
        Ok(true)
    }

    fn try_read(&mut self, buffer: &mut BytesMut) -> io::Result<usize> {
        if self.ahead.is_empty() {
            return if self.ended { Ok(0) } else { Err(io::ErrorKind::WouldBlock.into()) };
        }
        let taken = self.ahead.len().min(buffer.capacity() - buffer.len());
        buffer.put((&mut self.ahead).take(taken));
        Ok(taken)
    }

    async fn writable(&mut self) -> io::Result<()> {
        std::future::pending().await
    }

    fn try_write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn refuse_more(&mut self) -> bool {
        false
    }
}
