//! Writes records to a listener, hears its acknowledgements beside that, and begins again at the first
//! unacknowledged record when the connection breaks.
//!
//! A connection stays open for writing until everything is acknowledged, so that its end before that
//! can only mean that it broke. Only when all is written and the count has not grown for a while is
//! the end of the records told to the daemon, whose own end is then its last word: what it has not
//! acknowledged, it has turned away.

use std::io::{self, ErrorKind};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use indicatif::ProgressBar;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{sleep, sleep_until, timeout_at};

use super::counts::Counts;
use super::input::{Input, Read};
use super::window::Window;
use crate::cli::options::say;
use crate::config::Address;
use crate::telemetry::now;

/// First and longest wait before a broken connection is made again.
pub const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));
/// How long the count stands still before the daemon is asked for its last word; a half of the
/// patience, where that is less. Longer than a record waits by default for its batch.
const LAST_WORD_AFTER: Duration = Duration::from_secs(5);

/// The two halves of a connection.
type Halves = (Box<dyn AsyncRead + Unpin>, Box<dyn AsyncWrite + Unpin>);

/// How a connection ended.
#[derive(Debug)]
pub enum End {
    /// Everything is acknowledged.
    Settled,
    /// The daemon has read everything, acknowledged some, and closed.
    LastWord,
    /// Nothing was acknowledged for as long as there was patience.
    Stalled,
    /// It broke.
    Broken(io::Error),
    /// There was none.
    Unreachable(io::Error),
}

/// Records on their way.
pub struct Delivery {
    to: Address,
    patience: Duration,
    input: Input,
    window: Window,
    /// When something was read or acknowledged last.
    moved: Instant,
    /// Shows the bytes that were read, and as its message the records that were acknowledged.
    progress: ProgressBar,
}

/// What happens on a connection.
enum Event {
    Heard(io::Result<usize>),
    Wrote(io::Result<usize>),
    Read(anyhow::Result<Read>),
    Quiet,
    Stalled,
}

impl Delivery {
    /// The records of `input` to the listener at `to`, of which nothing is expected once there was no
    /// progress for `patience`.
    #[must_use]
    pub fn new(to: Address, patience: Duration, input: Input, progress: ProgressBar) -> Self {
        Self { to, patience, input, window: Window::default(), moved: now(), progress }
    }

    /// What was read and how far it came.
    #[must_use]
    pub fn input(&self) -> &Input {
        &self.input
    }

    /// The records that are acknowledged.
    #[must_use]
    pub fn acknowledged(&self) -> u64 {
        self.window.acknowledged()
    }

    /// The records that were read, acknowledged or not.
    #[must_use]
    pub fn records(&self) -> u64 {
        self.window.acknowledged() + self.window.records()
    }

    /// Sends everything, over as many connections as that takes; returns the number of records.
    /// Each that broke is told on standard error.
    ///
    /// # Errors
    ///
    /// What kept records from being acknowledged, with how many were.
    pub async fn run(&mut self) -> anyhow::Result<u64> {
        let mut halves = connect(&self.to).await.with_context(|| {
            format!("{} could not be connected to; is hydrant running and listening there?", self.to)
        })?;
        let mut backoff = BACKOFF.0;
        loop {
            let before = self.window.acknowledged();
            match self.over(halves).await? {
                End::Settled => return Ok(self.records()),
                End::LastWord => bail!(self.shortfall("its log says what became of the rest")),
                End::Stalled => bail!(self.shortfall(&format!(
                    "no other within {}, and its log says why",
                    humantime::format_duration(self.patience)
                ))),
                End::Broken(error) | End::Unreachable(error) => {
                    let left = self.window.records();
                    let note = format!("{} broke off ({error}); {left} records are sent again", self.to);
                    self.progress.suspend(|| say(&note));
                }
            }
            if self.window.acknowledged() > before {
                backoff = BACKOFF.0;
            }
            halves = match self.reconnect(&mut backoff).await? {
                Some(halves) => halves,
                None => return Ok(self.records()),
            };
        }
    }

    /// What is wrong with fewer acknowledgements than records.
    fn shortfall(&self, rest: &str) -> String {
        let (to, records, acknowledged) = (&self.to, self.records(), self.window.acknowledged());
        if acknowledged > 0 {
            return format!("{to} acknowledged {acknowledged} of {records} records; {rest}");
        }
        format!(
            "{records} records were written to {to}, which acknowledged none: set `acks` of that listener to \
             \"received\", \"durable\" or \"delivered\" to know that they arrived"
        )
    }

    /// A new connection, once there is something to write; `None` where there is nothing any more.
    async fn reconnect(&mut self, backoff: &mut Duration) -> anyhow::Result<Option<Halves>> {
        while self.window.is_empty() {
            if self.input.is_over() {
                return Ok(None);
            }
            let read = self.input.read().await?;
            self.take(read);
        }
        let deadline = self.moved + self.patience;
        loop {
            sleep(*backoff).await;
            *backoff = (*backoff * 2).min(BACKOFF.1);
            let connected = timeout_at(deadline.into(), connect(&self.to)).await;
            match connected.unwrap_or_else(|_| Err(ErrorKind::TimedOut.into())) {
                Ok(halves) => return Ok(Some(halves)),
                Err(error) if now() >= deadline => bail!(
                    "{} broke off and could not be connected to again ({error}) within {}; it acknowledged {} of {} \
                     records",
                    self.to,
                    humantime::format_duration(self.patience),
                    self.window.acknowledged(),
                    self.records()
                ),
                Err(_) => {}
            }
        }
    }

    /// Sends everything over one connection, for who has to know of each record what became of it.
    ///
    /// # Errors
    ///
    /// Where the input can't be read, or the other side says what no daemon says.
    pub async fn once(&mut self) -> anyhow::Result<End> {
        match connect(&self.to).await {
            Ok(halves) => self.over(halves).await,
            Err(error) => Ok(End::Unreachable(error)),
        }
    }

    async fn over(&mut self, (mut reader, mut writer): Halves) -> anyhow::Result<End> {
        self.window.begin();
        let (mut counts, mut heard) = (Counts::default(), [0; 256]);
        let mut broken = None;
        let (mut written_at, mut last_word) = (now(), false);
        loop {
            if self.window.is_empty() && self.input.is_over() {
                // Whether it hears that, the daemon has everything.
                writer.shutdown().await.ok();
                return Ok(End::Settled);
            }
            let writes = broken.is_none() && !self.window.unwritten().is_empty();
            let reads = self.window.has_room() && !self.input.is_over();
            let all_written = self.input.is_over() && self.window.unwritten().is_empty();
            let quiet = self.moved.max(written_at) + LAST_WORD_AFTER.min(self.patience / 2);
            let event = tokio::select! {
                biased;
                heard = reader.read(&mut heard) => Event::Heard(heard),
                wrote = writer.write(self.window.unwritten()), if writes => Event::Wrote(wrote),
                read = self.input.read(), if reads => Event::Read(read),
                () = sleep_until(quiet.into()), if all_written && !last_word => Event::Quiet,
                () = sleep_until((self.moved + self.patience).into()), if !self.window.is_empty() => Event::Stalled,
            };
            match event {
                Event::Heard(Ok(0)) if last_word => return Ok(End::LastWord),
                Event::Heard(Ok(0)) => {
                    let closed = || io::Error::new(ErrorKind::UnexpectedEof, "it was closed");
                    return Ok(End::Broken(broken.unwrap_or_else(closed)));
                }
                Event::Heard(Ok(bytes)) => self.hear(&mut counts, heard.get(..bytes).unwrap_or(&[]))?,
                Event::Heard(Err(error)) => return Ok(End::Broken(error)),
                Event::Wrote(Ok(bytes)) => {
                    self.window.wrote(bytes);
                    written_at = now();
                }
                // A daemon that stops takes nothing more, and goes on to tell of what it has.
                Event::Wrote(Err(error)) => broken = Some(error),
                Event::Read(read) => self.take(read?),
                Event::Quiet => {
                    writer.shutdown().await.ok();
                    last_word = true;
                }
                Event::Stalled => return Ok(End::Stalled),
            }
        }
    }

    fn take(&mut self, read: Read) {
        self.input.take(read, &mut self.window);
        self.moved = now();
        if let Read::Bytes(bytes) = read {
            self.progress.inc(u64::try_from(bytes).unwrap_or(0));
        }
    }

    fn hear(&mut self, counts: &mut Counts, bytes: &[u8]) -> anyhow::Result<()> {
        let count = match counts.take(bytes) {
            Ok(count) => count,
            Err(said) => bail!("{} answered {said:?}, which is no count", self.to),
        };
        if let Some(count) = count
            && self.window.acknowledge(count).with_context(|| self.to.to_string())?
        {
            self.moved = now();
            self.progress.set_message(self.window.acknowledged().to_string());
        }
        Ok(())
    }
}

async fn connect(to: &Address) -> io::Result<Halves> {
    match to {
        Address::Unix(path) => {
            let (reader, writer) = UnixStream::connect(path).await?.into_split();
            Ok((Box::new(reader), Box::new(writer)))
        }
        Address::Tcp(address) => {
            let (reader, writer) = TcpStream::connect(address).await?.into_split();
            Ok((Box::new(reader), Box::new(writer)))
        }
        Address::Tls(_) | Address::UnixDatagram(_) | Address::Stdin | Address::Activated(_) => {
            Err(ErrorKind::Unsupported.into())
        }
    }
}
