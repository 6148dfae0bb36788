//! Datagrams read as if they were one connection.
//!
//! It ends when the listener stops, and where that is changed, between two datagrams, to be read on by what
//! it was changed to.

use std::io;
use std::sync::Arc;

use bytes::{Buf, BufMut, BytesMut};
use tokio::sync::watch;

use super::source::Source;
use super::{Change, Shared};
use crate::buffer::RejectReason;
use crate::config::Protocol;
use crate::framing::{Lines, Syslog};
use crate::socket::Datagrams;

/// Most empty datagrams passed over at a time, so that others have their turn.
const MAX_EMPTY: usize = 1024;

/// What goes before and behind a datagram of so many bytes.
type Envelope = fn(usize) -> (String, &'static [u8]);

/// How datagrams become a stream of `protocol`; `None` where they can't.
pub(super) fn envelope(protocol: Protocol) -> Option<Envelope> {
    match protocol {
        Protocol::Lines => Some(Lines::datagram),
        Protocol::Syslog => Some(Syslog::datagram),
        Protocol::Frames | Protocol::Forward | Protocol::Http | Protocol::Firehose => None,
    }
}

/// A socket's datagrams, one behind the other.
#[derive(Debug)]
pub(super) struct DatagramSource {
    socket: Datagrams,
    /// Ends the stream between two datagrams.
    change: watch::Receiver<Change>,
    pub(super) envelope: Envelope,
    /// Who is told of what is not taken.
    pub(super) shared: Arc<Shared>,
    /// What of a datagram did not fit where it was to go, which a datagram can't wait for.
    ahead: BytesMut,
    is_changed: bool,
    /// The socket takes no more.
    refuses: bool,
    ended: bool,
}

impl DatagramSource {
    pub(super) fn new(
        socket: Datagrams,
        change: watch::Receiver<Change>,
        envelope: Envelope,
        shared: Arc<Shared>,
    ) -> Self {
        Self {
            socket,
            change,
            envelope,
            shared,
            ahead: BytesMut::new(),
            is_changed: false,
            refuses: false,
            ended: false,
        }
    }

    /// Whether the stream ended because the listener was changed; from now on it goes on.
    pub(super) fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.is_changed)
    }

    /// Takes one datagram with what goes around it into `buffer`, or what does not fit ahead. One that is longer
    /// than the buffer lets a record be is not taken at all: a part of it might pass for records.
    fn take(&mut self, buffer: &mut BytesMut) -> io::Result<()> {
        let size = self.socket.next_size()?;
        let is_too_long = size > self.shared.context.max_record_bytes;
        if size == 0 || is_too_long {
            self.socket.take(&mut [])?;
            if is_too_long {
                self.shared.reject(RejectReason::TooLong, u64::try_from(size).unwrap_or(u64::MAX));
            }
            return Ok(());
        }
        let (before, after) = (self.envelope)(size);
        let whole = before.len() + size + after.len();
        let fits = whole <= buffer.capacity() - buffer.len();
        let into = if fits { buffer } else { &mut self.ahead };
        into.reserve(whole);
        into.extend_from_slice(before.as_bytes());
        let start = into.len();
        into.resize(start + size, 0);
        self.socket.take(into.get_mut(start..).unwrap_or_default())?;
        into.extend_from_slice(after);
        Ok(())
    }
}

impl Source for &mut DatagramSource {
    async fn ready(&mut self, _: bool) -> io::Result<bool> {
        if !self.ahead.is_empty() || self.refuses || self.ended {
            return Ok(true);
        }
        tokio::select! {
            biased;
            // Without a sender nothing is changed any more.
            Ok(()) = self.change.changed() => self.is_changed = true,
            readable = self.socket.readable() => readable?,
        }
        Ok(true)
    }

    fn try_read(&mut self, buffer: &mut BytesMut) -> io::Result<usize> {
        let before = buffer.len();
        let mut datagrams = 0;
        loop {
            let taken = self.ahead.len().min(buffer.capacity() - buffer.len());
            buffer.put((&mut self.ahead).take(taken));
            if !self.ahead.is_empty() || self.is_changed || self.ended {
                return Ok(buffer.len() - before);
            }
            self.ahead = BytesMut::new();
            datagrams += 1;
            match self.take(buffer) {
                Ok(()) if buffer.len() > before || datagrams < MAX_EMPTY || self.refuses => {}
                Ok(()) => return Err(io::ErrorKind::WouldBlock.into()),
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
                Err(_) if self.refuses => self.ended = true,
                Err(_) if buffer.len() > before => return Ok(buffer.len() - before),
                Err(error) => return Err(error),
            }
        }
    }

    async fn writable(&mut self) -> io::Result<()> {
        std::future::pending().await
    }

    fn try_write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// What waits at a socket of systemd's waits for whoever is started next.
    fn refuse_more(&mut self) -> bool {
        self.refuses = self.socket.refuse_more();
        self.ended = !self.refuses;
        true
    }
}
