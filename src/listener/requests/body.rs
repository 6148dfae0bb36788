//! Reads the body of a request: memory is had as the body comes, whatever its length claims.
//!
//! A body is an unfinished record to [`Partials`](crate::buffer::Partials) until its records are handed
//! over: past their share one request goes on at a time, and one that keeps others waiting for too long
//! gives up. With its records beside it, one request takes at most thirteen sixteenths of what records
//! may take ([`Room`]); the other three are all that other bodies hold meanwhile, so it never waits for
//! more than can become free.

use std::io::{self, Read};
use std::time::Duration;

use bytes::{BufMut, Bytes};
use flate2::read::MultiGzDecoder;
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};

use super::Door;
use crate::budget::Reservation;
use crate::buffer::{Intake, Partial};
use crate::framing::http::{Encoding, window};
use crate::telemetry::now;

/// Least memory taken for a body of unknown length.
const LEAST_BYTES: usize = 4 * 1024;
/// Most memory taken at once on the word of `Content-Length`.
const CLAIMED_BYTES: usize = 64 * 1024;
/// Bytes that are decompressed before others have their turn.
const STEP_BYTES: usize = 16 * 1024;
/// What gzip holds, and what zstd holds beside its window: a block in, one out and its tables.
const GZIP_BYTES: usize = 64 * 1024;
const ZSTD_BYTES: usize = 384 * 1024;
/// Bytes that are read through on the spot; more are on a thread for that.
const AT_ONCE_BYTES: usize = 256 * 1024;
/// Longest that a body may take to arrive.
const ARRIVAL: Duration = Duration::from_secs(60);
/// Longest that a body may take once a stop was asked for.
const LAST_READS: Duration = Duration::from_secs(2);
/// Longest wait for room in a full buffer, and for the listener's limit.
pub(super) const ROOM: Duration = Duration::from_secs(5);
/// What is read of a body that is not taken, so that its sender comes to read why: bytes, and time.
const DISCARDED: (usize, Duration) = (64 << 20, Duration::from_secs(2));

/// Why a request is not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Trouble {
    /// It is larger than this.
    TooLarge(usize),
    /// There is no room.
    Full,
    /// The listener takes no more bytes by now.
    TooFast,
    /// The daemon stops, or can take nothing until it is started again.
    Closed,
    /// The body did not come in time, or kept others waiting.
    Slow,
    /// The client is gone.
    Gone,
    /// What is said to be compressed is not.
    Malformed(String),
}

/// The memory of one request.
pub(super) struct Room {
    pub(super) intake: Intake,
    partial: Partial,
    held: usize,
    /// Most that it may hold at once.
    ceiling: usize,
    /// Most bytes of its body.
    pub(super) largest: usize,
}

/// Bytes, and the memory that they take.
pub(super) struct Buffer {
    pub(super) bytes: Vec<u8>,
    pub(super) hold: Reservation,
}

impl Room {
    /// For a body of at most `sixteenths` of what records may take, and of `most` bytes.
    pub(super) fn new(intake: Intake, sixteenths: usize, most: usize) -> Self {
        let capacity = intake.capacity();
        Self {
            partial: intake.partials().enter(),
            held: 0,
            ceiling: capacity / 16 * 13,
            largest: most.min(capacity / 16 * sixteenths),
            intake,
        }
    }

    /// `bytes` of memory, as long as the request may have that much.
    pub(super) async fn grow(&mut self, bytes: usize) -> Result<Reservation, Trouble> {
        if self.held + bytes > self.ceiling {
            return Err(Trouble::TooLarge(self.largest));
        }
        let room = async {
            self.partial.admit(self.held + bytes).await;
            self.intake.reserve(bytes).await
        };
        let room = tokio::select! {
            biased;
            () = self.partial.evicted() => Err(Trouble::Slow),
            () = self.intake.refuses().cancelled() => Err(Trouble::Closed),
            room = tokio::time::timeout(ROOM, room) => room.ok().flatten().ok_or(Trouble::Full),
        };
        if room.is_ok() {
            self.held += bytes;
        } else {
            self.partial.hold(self.held);
        }
        room
    }

    /// Memory for records, beside the body that they are copied from.
    pub(super) async fn for_records(&self, bytes: usize) -> Result<Reservation, Trouble> {
        if self.held + bytes > self.ceiling {
            return Err(Trouble::TooLarge(self.largest));
        }
        tokio::select! {
            biased;
            () = self.partial.evicted() => Err(Trouble::Full),
            () = self.intake.refuses().cancelled() => Err(Trouble::Closed),
            room = tokio::time::timeout(ROOM, self.intake.reserve(bytes)) => {
                room.ok().flatten().ok_or(Trouble::Full)
            }
        }
    }

    /// Gives up a body that was read.
    pub(super) fn release(&mut self, buffer: Buffer) {
        drop(buffer.bytes);
        self.gave(buffer.hold.bytes());
    }

    /// Gives back what `hold` has above `bytes`.
    pub(super) fn shrink(&mut self, hold: &mut Reservation, bytes: usize) {
        let before = hold.bytes();
        hold.shrink(bytes);
        self.gave(before - hold.bytes());
    }

    fn gave(&mut self, bytes: usize) {
        self.held -= bytes;
        self.partial.hold(self.held);
    }

    /// Room for `more` bytes in `buffer`, and for as many again as it has, but for no more than
    /// `expected` if that is known.
    async fn enlarge(
        &mut self,
        buffer: &mut Buffer,
        more: usize,
        expected: Option<usize>,
    ) -> Result<(), Trouble> {
        let (length, capacity) = (buffer.bytes.len(), buffer.hold.bytes());
        if length + more > self.largest {
            return Err(Trouble::TooLarge(self.largest));
        }
        if length + more <= capacity {
            return Ok(());
        }
        let most = expected.map_or(self.largest, |expected| expected.max(length + more));
        let first = if length == 0 { expected.unwrap_or(LEAST_BYTES).min(CLAIMED_BYTES) } else { 0 };
        let wanted = (capacity * 2).max(first).max(length + more).min(most.min(self.largest));
        let hold = self.grow(wanted).await?;
        let mut bytes = Vec::with_capacity(wanted);
        bytes.extend_from_slice(&buffer.bytes);
        let before = std::mem::replace(buffer, Buffer { bytes, hold });
        drop(before.bytes);
        self.gave(before.hold.bytes());
        Ok(())
    }

    /// The whole of `body`, as it came.
    async fn read(&mut self, door: &Door, body: &mut Incoming, buffer: &mut Buffer) -> Result<(), Trouble> {
        let expected = body.size_hint().exact().map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX));
        if expected.is_some_and(|bytes| bytes > self.largest) {
            return Err(Trouble::TooLarge(self.largest));
        }
        let claimed = body.size_hint().exact().unwrap_or(1);
        tokio::select! {
            () = door.shared.context.stop.cancelled() => {}
            charged = tokio::time::timeout(ROOM, door.shared.limit.charge(claimed)) => {
                charged.map_err(|_| Trouble::TooFast)?;
            }
        }
        let stopped = async {
            door.shared.context.stop.cancelled().await;
            tokio::time::sleep(LAST_READS).await;
        };
        let (mut stopped, mut late) = (std::pin::pin!(stopped), std::pin::pin!(tokio::time::sleep(ARRIVAL)));
        loop {
            self.partial.hold(self.held);
            let frame = tokio::select! {
                biased;
                () = self.partial.evicted() => return Err(Trouble::Slow),
                frame = body.frame() => frame,
                () = &mut stopped => return Err(Trouble::Closed),
                () = &mut late => return Err(Trouble::Slow),
            };
            let frame = match frame {
                None => return Ok(()),
                Some(Ok(frame)) => frame,
                Some(Err(_)) => return Err(Trouble::Gone),
            };
            let data = frame.into_data().unwrap_or_default();
            if expected.is_none() {
                door.shared.limit.owe(data.len());
            }
            self.enlarge(buffer, data.len(), expected).await?;
            buffer.bytes.extend_from_slice(&data);
        }
    }

    /// The whole of `body`, decompressed. If that fails, the second value is how much had come.
    pub(super) async fn take(
        &mut self,
        door: &Door,
        mut body: Incoming,
        encoding: Encoding,
    ) -> Result<Buffer, (Trouble, usize)> {
        let mut buffer = Buffer { bytes: Vec::new(), hold: Reservation::none() };
        if let Err(trouble) = self.read(door, &mut body, &mut buffer).await {
            let came = buffer.bytes.len();
            drop(buffer);
            self.gave(self.held);
            if trouble != Trouble::Gone {
                discard(body).await;
            }
            return Err((trouble, came));
        }
        let came = buffer.bytes.len();
        let plain = match encoding {
            Encoding::Identity => return Ok(buffer),
            Encoding::Gzip => self.gunzip(&buffer.bytes).await,
            Encoding::Zstd => self.unzstd(&buffer.bytes).await,
        };
        drop(buffer.bytes);
        self.gave(buffer.hold.bytes());
        plain.map_err(|trouble| (trouble, came))
    }

    async fn gunzip(&mut self, bytes: &[u8]) -> Result<Buffer, Trouble> {
        let hold = self.grow(GZIP_BYTES).await?;
        let plain = self.decompress(MultiGzDecoder::new(bytes)).await;
        self.gave(hold.bytes());
        plain
    }

    async fn unzstd(&mut self, bytes: &[u8]) -> Result<Buffer, Trouble> {
        let malformed = |error: &io::Error| Trouble::Malformed(error.to_string());
        let window = window(bytes).map_err(|reason| Trouble::Malformed(reason.to_owned()))?;
        let hold = self.grow((1 << window) + ZSTD_BYTES).await?;
        let mut decoder =
            zstd::stream::read::Decoder::with_buffer(bytes).map_err(|error| malformed(&error))?;
        decoder.window_log_max(window).map_err(|error| malformed(&error))?;
        let plain = self.decompress(decoder).await;
        self.gave(hold.bytes());
        plain
    }

    /// All that comes out of `decoder`.
    async fn decompress(&mut self, mut decoder: impl Read) -> Result<Buffer, Trouble> {
        let mut buffer = Buffer { bytes: Vec::new(), hold: Reservation::none() };
        let mut step = vec![0; STEP_BYTES];
        loop {
            let read = match decoder.read(&mut step) {
                Ok(0) => return Ok(buffer),
                Ok(read) => read,
                Err(error) => return Err(Trouble::Malformed(error.to_string())),
            };
            self.enlarge(&mut buffer, read, None).await?;
            buffer.bytes.put_slice(step.get(..read).unwrap_or_default());
            tokio::task::yield_now().await;
        }
    }
}

/// Reads on, within bounds, what nobody wants.
pub(super) async fn discard(mut body: Incoming) {
    let reading = async {
        let mut read = 0;
        while let Some(Ok(frame)) = body.frame().await {
            read += frame.into_data().map_or(0, |data: Bytes| data.len());
            if read > DISCARDED.0 {
                return;
            }
        }
    };
    // Whoever sends no more and does not end either has had the time to read why.
    tokio::time::timeout(DISCARDED.1, reading).await.unwrap_or_default();
}

/// The time by which an answer is to be given.
pub(super) fn deadline(patience: Duration) -> tokio::time::Instant {
    (now() + patience).into()
}

/// What `work` makes of the bytes, on another thread where it takes long.
pub(super) async fn read_through<T: Send + 'static>(
    buffer: Buffer,
    work: impl FnOnce(&[u8]) -> T + Send + 'static,
) -> Result<(Buffer, T), Trouble> {
    let at_once = buffer.bytes.len() <= AT_ONCE_BYTES;
    let run = move || {
        let made = work(&buffer.bytes);
        (buffer, made)
    };
    if at_once {
        return Ok(run());
    }
    // It does not panic; where the runtime ends meanwhile, nobody hears the answer.
    tokio::task::spawn_blocking(run).await.map_err(|_| Trouble::Closed)
}
