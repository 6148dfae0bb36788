//! Reads one connection: wait until it can be read, reserve memory, read, frame, hand over.
//!
//! An idle connection holds nothing. One that can't reserve does not read, so the kernel's socket
//! buffer fills and then the producer waits: that is the backpressure, and nothing else happens.
//! What is held of an unfinished record is exactly reserved and registered with
//! [`Partials`](crate::buffer::Partials), which decides who may go on when they hold too much.

use std::io;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

use super::Shared;
use super::acks::Acker;
use super::limit::Allowance;
use super::read_size::ReadSize;
use super::source::Source;
use crate::budget::Reservation;
use crate::buffer::{CHUNK_OVERHEAD_BYTES, Count, DropReason, Intake, Partial, RejectReason};
use crate::config::{Acks, ForwardConfig, OnFull, Protocol, SyslogFormat};
use crate::framing::forward::{self, Forward};
use crate::framing::{Framed, Framer, Frames, Lines, Skip, Syslog};
use crate::record::Chunk;
use crate::telemetry::now;

/// Longest that a connection is read after a stop was asked for, if its producer can't be told and
/// never pauses.
const LAST_READS: Duration = Duration::from_secs(2);
/// Silence of a producer that can't be told to stop. Longer than the runtime takes to notice that
/// a socket holds data, which is all that it is for.
const SILENCE: Duration = Duration::from_millis(50);

/// Longest record that a connection can read with `capacity` bytes of budget. Unfinished records take
/// at most three sixteenths of it and one record, which together are half (see
/// [`Partials`](crate::buffer::Partials)); of the other half this leaves three eighths for the next
/// read and all that its records may need (see `read_size`), so that a connection never
/// waits for more than can become free.
#[must_use]
pub fn longest_record(capacity: usize) -> usize {
    // One byte more may be the CR of its CRLF.
    capacity / 16 * 5 - CHUNK_OVERHEAD_BYTES - 1
}

/// Reads `source` until it ends, breaks, or is told to stop. Each protocol's reading is boxed, so that a
/// connection takes no more memory than its own needs.
pub(super) async fn serve<S: Source>(shared: &Shared, intake: Intake, source: S) {
    let (delimiter, longest) = (shared.context.delimiter.clone(), shared.longest_record());
    let acker = || Acker::counting(shared.config.acks);
    match shared.config.protocol {
        Protocol::Lines => {
            Box::pin(read(shared, intake, source, Lines::new(delimiter, longest), acker())).await
        }
        Protocol::Frames => {
            Box::pin(read(shared, intake, source, Frames::new(delimiter, longest), acker())).await
        }
        Protocol::Forward => {
            // What comes out of gzip is held beside what is read.
            let longest = longest.min(intake.capacity() / 4);
            match speak_forward(shared, Forward::new(delimiter, longest, &forward_settings(shared))) {
                Ok((framer, acker)) => Box::pin(read(shared, intake, source, framer, acker)).await,
                Err(error) => shared.say_closed(Protocol::Forward, &error),
            }
        }
        // Served by `requests`, which standard input can't be.
        Protocol::Http | Protocol::Firehose => {}
        Protocol::Syslog => {
            // Copied, one takes its room twice while the rest of its read is framed.
            let longest = longest.min(intake.capacity() / 8);
            let syslog = match shared.config.format {
                SyslogFormat::Raw => Syslog::raw(delimiter, longest),
                SyslogFormat::Json => Syslog::json(delimiter, longest),
            };
            Box::pin(read(shared, intake, source, syslog, acker())).await;
        }
    }
}

fn forward_settings(shared: &Shared) -> forward::Settings {
    let ForwardConfig { time_key, tag_key, .. } = shared.config.forward.clone();
    forward::Settings { time_key, tag_key, answers: shared.config.acks != Acks::Off }
}

/// The framer with what its producer is told first.
fn speak_forward(shared: &Shared, framer: Forward) -> io::Result<(Forward, Acker)> {
    let mut acker = Acker::replying(shared.config.acks);
    let Some(key) = &shared.config.forward.shared_key else { return Ok((framer, acker)) };
    let key = forward::SharedKey::new(Bytes::copy_from_slice(key.reveal().as_bytes()));
    let mut chance = [0; forward::NONCE_BYTES];
    let filled = rustls::crypto::ring::default_provider().secure_random.fill(&mut chance);
    filled.map_err(|_| io::Error::other("the system has no randomness for a handshake"))?;
    let (framer, helo) = framer.with_key(key, chance);
    acker.reply([helo]);
    Ok((framer, acker))
}

fn read<S: Source, F: Framer>(
    shared: &Shared,
    intake: Intake,
    source: S,
    framer: F,
    acker: Acker,
) -> impl Future<Output = ()> + Send {
    let read_size = ReadSize::new(&framer, intake.capacity());
    let reader = Reader {
        partial: intake.partials().enter(),
        framer,
        acker,
        buffer: BytesMut::new(),
        hold: Reservation::none(),
        kept: Reservation::none(),
        more: false,
        read_size,
        intake,
        shared,
        source,
        allowance: None,
        stopping: None,
    };
    reader.run()
}

struct Reader<'a, S, F> {
    shared: &'a Shared,
    source: S,
    intake: Intake,
    framer: F,
    acker: Acker,
    partial: Partial,
    /// The unfinished record, and nothing else between turns.
    buffer: BytesMut,
    /// For the capacity of `buffer`.
    hold: Reservation,
    /// For what the framer holds beside it.
    kept: Reservation,
    /// The framer goes on with what it has, given memory.
    more: bool,
    read_size: ReadSize,
    /// What the listener's limit leaves for the next read; none without a limit.
    allowance: Option<Allowance>,
    /// Set once a stop was asked for.
    stopping: Option<Stopping>,
}

/// The last reads of a connection.
#[derive(Debug, Clone, Copy)]
enum Stopping {
    /// To the end of the stream: the producer was told to write no more.
    ToTheEnd,
    /// Until the producer pauses, no longer than to this instant.
    UntilSilent(Instant),
}

/// How a connection ended.
#[derive(Debug, PartialEq, Eq)]
enum End {
    /// The producer said that it is done.
    Closed,
    /// The connection broke, was idle for too long, or the daemon stops.
    Broken,
}

/// What there is for the next read.
enum Room {
    Taken(Reservation),
    /// Nothing, and what is read is to be dropped.
    Dropping,
    /// Nothing, and nothing is to be read any more.
    Refused,
}

/// What a connection waits for.
enum Event {
    Readable,
    Stop,
    Evicted,
    Idle,
    /// Nothing more came after the stop.
    Silent,
    Told,
    Failed(io::Error),
}

impl<S: Source, F: Framer> Reader<'_, S, F> {
    async fn run(mut self) {
        let end = self.read_all().await;
        self.finish(&end).await;
        let Self { intake, acker, source, partial, hold, kept, framer, .. } = self;
        // The flush task ends when the last intake is gone; what is told after that is only how
        // far it has come.
        drop((intake, partial, framer, hold, kept));
        tell_the_rest(acker, source).await;
    }

    async fn read_all(&mut self) -> End {
        loop {
            match self.wait().await {
                Event::Readable => {}
                // What nobody will take is left with its producer.
                Event::Stop if self.intake.refuses().is_cancelled() => return End::Broken,
                Event::Stop => {
                    self.stopping = Some(if self.source.refuse_more() {
                        Stopping::ToTheEnd
                    } else {
                        Stopping::UntilSilent(now() + LAST_READS)
                    });
                    continue;
                }
                Event::Silent => return End::Broken,
                Event::Evicted => {
                    self.give_up();
                    continue;
                }
                Event::Told => continue,
                Event::Idle => {
                    tracing::info!(listener = &*self.shared.name, "Connection closed, idle for too long.");
                    return End::Broken;
                }
                Event::Failed(error) => {
                    tracing::debug!(listener = &*self.shared.name, %error, "Connection broken.");
                    return End::Broken;
                }
            }
            if !self.is_allowed().await {
                continue;
            }
            let read = match self.room().await {
                Room::Taken(reservation) if self.more => self.go_on(reservation).await,
                Room::Taken(reservation) => self.read(reservation).await,
                Room::Dropping => self.read_and_drop().await,
                Room::Refused if self.stopping.is_some() => return End::Broken,
                Room::Refused => {
                    self.allowance = None;
                    continue;
                }
            };
            match read {
                Ok(0) if self.stopping.is_some() => return End::Broken,
                Ok(0) => return End::Closed,
                Ok(_) => {}
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                    self.shared.say_closed(self.shared.config.protocol, &error);
                    return End::Broken;
                }
                Err(error) => {
                    tracing::debug!(listener = &*self.shared.name, %error, "Connection broken.");
                    return End::Broken;
                }
            }
        }
    }

    /// Waits for the connection, the daemon or the clock. Nothing is held while it waits but the
    /// unfinished record.
    async fn wait(&mut self) -> Event {
        if let Some(stopping) = self.stopping {
            if self.more {
                tokio::task::yield_now().await;
                return Event::Readable;
            }
            // Readiness is asked for even now: only then does the runtime look at the socket, and
            // bytes that came in a moment ago are not taken for silence.
            let silent = async {
                match stopping {
                    Stopping::ToTheEnd => std::future::pending().await,
                    Stopping::UntilSilent(deadline) => {
                        tokio::time::sleep_until(deadline.min(now() + SILENCE).into()).await;
                    }
                }
            };
            if matches!(stopping, Stopping::UntilSilent(deadline) if now() >= deadline) {
                return Event::Silent;
            }
            return tokio::select! {
                biased;
                ready = self.source.ready(false) => ready.map_or_else(Event::Failed, |_| Event::Readable),
                () = silent => Event::Silent,
            };
        }
        let idle = self.shared.config.idle_timeout;
        let idle = async {
            match idle {
                Some(timeout) => tokio::time::sleep(timeout).await,
                None => std::future::pending().await,
            }
        };
        // Readiness needs `&mut source` and so does telling: they take turns, telling first.
        self.tell();
        let is_blocked = self.acker.is_blocked();
        let waits_to_tell = self.acker.is_on() && !self.acker.is_settled();
        let takes = !self.intake.refuses().is_cancelled() && !self.acker.is_full();
        let (source, more) = (&mut self.source, self.more);
        let ready = async {
            match (takes, is_blocked) {
                (true, _) if more => {
                    tokio::task::yield_now().await;
                    Ok(true)
                }
                (true, is_blocked) => source.ready(is_blocked).await,
                (false, true) => source.writable().await.map(|()| false),
                (false, false) => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = self.shared.context.stop.cancelled() => Event::Stop,
            () = self.partial.evicted() => Event::Evicted,
            ready = ready => match ready {
                Ok(true) => Event::Readable,
                Ok(false) => Event::Told,
                Err(error) => Event::Failed(error),
            },
            () = self.acker.changed(), if waits_to_tell => Event::Told,
            () = idle => Event::Idle,
        }
    }

    /// Tells the producer what it may hear by now.
    fn tell(&mut self) {
        if self.acker.is_on()
            && let Err(error) = self.acker.flush(&mut self.source)
        {
            // The producer is gone, but what it wrote before is still to be read.
            tracing::debug!(listener = &*self.shared.name, %error, "The producer hears no acknowledgements.");
            self.acker.silence();
        }
    }

    /// Waits for what the listener's limit leaves for the next read; `false` where something else comes first.
    /// What is read last, after a stop, no limit holds up.
    async fn is_allowed(&mut self) -> bool {
        let shared = self.shared;
        if self.more || self.stopping.is_some() || !shared.limit.is_on() {
            return true;
        }
        let most = self.next_capacity() - self.buffer.len();
        // One future throughout, since another one would have to queue again.
        let mut allowed = std::pin::pin!(shared.limit.take(most));
        loop {
            // It is this connection that waits, and not its producer. Who asks next is told the time anew.
            self.partial.try_admit(self.hold.bytes() + self.kept.bytes(), now()).unwrap_or_default();
            let waits_to_tell = self.acker.is_on() && !self.acker.is_settled() && !self.acker.is_blocked();
            tokio::select! {
                biased;
                () = shared.context.stop.cancelled() => return false,
                () = self.intake.refuses().cancelled() => return false,
                () = self.partial.evicted() => self.give_up(),
                allowance = &mut allowed => {
                    self.allowance = allowance;
                    return true;
                }
                () = self.acker.changed(), if waits_to_tell => self.tell(),
            }
        }
    }

    /// Memory for the next read and for all that can come of it.
    async fn room(&mut self) -> Room {
        loop {
            // A short read may still find room among the unfinished records where a long one has to wait.
            if self.partial.try_admit(self.next_unfinished(), now()).is_err() {
                self.read_size.shorten();
                let drops = self.shared.context.on_full == OnFull::DropNewest;
                if drops && self.partial.try_admit(self.next_unfinished(), now()).is_err() {
                    return Room::Dropping;
                }
            }
            loop {
                tokio::select! {
                    biased;
                    () = self.partial.evicted() => self.give_up(),
                    () = self.intake.refuses().cancelled() => return Room::Refused,
                    () = self.partial.admit(self.next_unfinished()) => break,
                }
            }
            let (new, room) = self.next_memory();
            let needed = new + room + CHUNK_OVERHEAD_BYTES;
            let mut reservation = self.intake.try_reserve(needed);
            if reservation.is_none() {
                // Else reads that wait for memory would keep others to short ones, or waiting.
                self.partial.step_back(self.hold.bytes() + self.kept.bytes());
                reservation = tokio::select! {
                    biased;
                    () = self.intake.refuses().cancelled() => return Room::Refused,
                    reservation = self.intake.reserve(needed) => reservation,
                };
                if reservation.is_some() && self.partial.try_admit(self.next_unfinished(), now()).is_err() {
                    continue;
                }
            }
            // Whoever was kept waiting meanwhile waited for memory, as this connection did.
            self.partial.gave_up();
            return reservation.map_or(Room::Dropping, Room::Taken);
        }
    }

    /// Bytes for the buffer of the next turn, and for what may come of it beside that.
    fn next_memory(&self) -> (usize, usize) {
        if self.more {
            return (0, self.framer.overhead(0));
        }
        let capacity = self.next_capacity();
        (capacity, self.framer.overhead(capacity - self.buffer.len()))
    }

    /// Capacity of the buffer for the next read.
    fn next_capacity(&self) -> usize {
        let allowed = self.allowance.as_ref().map_or(usize::MAX, Allowance::bytes);
        self.read_size.capacity(self.buffer.len(), allowed)
    }

    /// What may be unfinished after the next turn, of whose memory a framer may keep some.
    fn next_unfinished(&self) -> usize {
        let (new, room) = self.next_memory();
        let kept = if self.framer.is_apart() { room } else { 0 };
        self.framer.held() + kept + if self.more { self.hold.bytes() } else { new }
    }

    /// Gives up the unfinished record, so that others find room. Not where the framer has whole ones: then it
    /// is memory that is waited for and no producer.
    fn give_up(&mut self) {
        if self.more {
            return self.partial.gave_up();
        }
        self.framer.abandon(&mut self.buffer, Skip::Unfinished);
        self.kept.shrink(self.framer.held());
        self.fit();
        self.keep_unfinished();
        self.partial.gave_up();
    }

    /// Moves what is in the buffer into one of its own size, where that is smaller by half.
    fn fit(&mut self) {
        if self.buffer.len() < self.hold.bytes() / 2 {
            self.buffer = BytesMut::from(&self.buffer[..]);
            self.hold.shrink(self.buffer.len());
        }
    }

    /// One read into memory that is reserved.
    async fn read(&mut self, mut reservation: Reservation) -> io::Result<usize> {
        let seen = self.buffer.len();
        let mut buffer = BytesMut::with_capacity(self.next_capacity());
        buffer.extend_from_slice(&self.buffer);
        let (read, allowance) = (self.source.try_read(&mut buffer), self.allowance.take());
        let read = match read {
            Ok(read) => read,
            Err(error) => {
                self.keep_unfinished();
                return Err(error);
            }
        };
        if let Some(allowance) = allowance {
            allowance.spend(read);
        }
        if buffer.len() < buffer.capacity() {
            self.source.handle_short_read();
        }
        self.buffer = BytesMut::new();
        self.read_size.handle_read(seen, read);
        let received = now();
        if buffer.len() < buffer.capacity() / 2 {
            buffer = cut(buffer);
        }
        let capacity = buffer.capacity();
        let framed = self.framer.frame(&mut buffer, seen);
        if self.framer.is_apart() {
            let (buffer, used) = compact(buffer, capacity);
            (self.buffer, self.hold) = (buffer, reservation.split(used));
            self.take_apart(framed, received, reservation).await?;
            return Ok(read);
        }
        self.report(&framed);
        let Framed { records, ends, replies, broken, .. } = framed;
        self.acker.reply(replies);
        let chunk = if ends.is_empty() { None } else { Some((records, ends)) };
        // The two share an allocation; whoever keeps little of it moves out.
        self.hold = Reservation::none();
        match chunk {
            None => {
                let (buffer, used) = compact(buffer, capacity);
                self.buffer = buffer;
                reservation.shrink(used);
                self.hold = reservation;
                self.keep_unfinished();
            }
            Some((records, ends)) => {
                self.buffer = BytesMut::from(&buffer[..]);
                self.hold = reservation.split(self.buffer.len());
                drop(buffer);
                self.keep_unfinished();
                self.hand_over(records, ends, capacity, received, reservation).await;
            }
        }
        match broken {
            Some(why) => Err(io::Error::new(io::ErrorKind::InvalidData, why)),
            None => Ok(read),
        }
    }

    /// A turn of the framer with what it has, and more memory.
    async fn go_on(&mut self, reservation: Reservation) -> io::Result<usize> {
        let seen = self.buffer.len();
        let framed = self.framer.frame(&mut self.buffer, seen);
        self.fit();
        self.take_apart(framed, now(), reservation).await?;
        Ok(seen.max(1))
    }

    /// Records that share no memory with the buffer, and what else a framer made beside them.
    async fn take_apart(
        &mut self,
        framed: Framed,
        received: Instant,
        mut reservation: Reservation,
    ) -> io::Result<()> {
        self.report(&framed);
        let Framed { records, ends, replies, broken, more, .. } = framed;
        self.acker.reply(replies);
        self.more = more;
        let held = self.framer.held();
        self.kept.merge(reservation.split(held.saturating_sub(self.kept.bytes())));
        self.kept.shrink(held);
        self.keep_unfinished();
        if !ends.is_empty() {
            let bytes = records.len();
            self.hand_over(records, ends, bytes, received, reservation).await;
        }
        broken.map_or(Ok(()), |why| Err(io::Error::new(io::ErrorKind::InvalidData, why)))
    }

    async fn hand_over(
        &mut self,
        records: Bytes,
        ends: Vec<u32>,
        capacity: usize,
        received: Instant,
        mut hold: Reservation,
    ) {
        let small = records.len() < capacity / 2;
        let (records, used) = if small {
            let exact = Bytes::copy_from_slice(&records);
            let used = exact.len();
            (exact, used)
        } else {
            // Rewritten for a longer delimiter, they may take more than what was read.
            let used = capacity.max(records.len());
            (records, used)
        };
        let needed = used + ends.len() * size_of::<u32>() + CHUNK_OVERHEAD_BYTES;
        debug_assert!(needed.min(self.intake.capacity()) <= hold.bytes(), "{needed} bytes held unreserved");
        hold.shrink(needed);
        let claim = self.acker.accept(ends.len());
        let chunk = Chunk::new(records, ends.into_boxed_slice(), received, hold).with_claim(claim);
        self.intake.accept(chunk).await;
    }

    /// One read whose records are dropped: the buffer is full and the policy is to drop what
    /// comes. Uses memory that no budget counts, for the length of this call only.
    async fn read_and_drop(&mut self) -> io::Result<usize> {
        debug_assert_eq!(self.shared.context.on_full, OnFull::DropNewest);
        let mut seen = self.buffer.len();
        let (mut buffer, read) = if self.more {
            (std::mem::take(&mut self.buffer), seen.max(1))
        } else {
            let allowance = self.allowance.take();
            let most = allowance.as_ref().map_or(self.read_size.most(), Allowance::bytes);
            let mut buffer = BytesMut::with_capacity(seen + most);
            buffer.extend_from_slice(&self.buffer);
            let read = self.source.try_read(&mut buffer)?;
            if let Some(allowance) = allowance {
                allowance.spend(read);
            }
            (buffer, read)
        };
        let broken = loop {
            let framed = self.framer.frame(&mut buffer, seen);
            self.report(&framed);
            if !framed.ends.is_empty() {
                self.framer.dropped();
            }
            // What waits for these records waits for good; what waits for none is still told.
            self.acker.reply(framed.replies.into_iter().filter(|reply| reply.records == 0));
            self.drop_newest(Count::of(framed.ends.len(), framed.records.len()));
            if !framed.more {
                break framed.broken;
            }
            seen = buffer.len();
            tokio::task::yield_now().await;
        };
        self.more = false;
        (self.buffer, self.hold) = (BytesMut::new(), Reservation::none());
        let grown = self.framer.held().saturating_sub(self.kept.bytes());
        if !buffer.is_empty() || grown > 0 {
            let unfinished = buffer.len() + self.framer.held();
            let admitted = self.partial.try_admit(unfinished, now()).is_ok();
            match self.intake.try_reserve(buffer.len() + grown).filter(|_| admitted) {
                Some(mut hold) => {
                    self.kept.merge(hold.split(grown));
                    (self.buffer, self.hold) = (BytesMut::from(&buffer[..]), hold);
                }
                None => {
                    self.framer.abandon(&mut buffer, Skip::NoRoom);
                    self.buffer = BytesMut::from(&buffer[..]);
                }
            }
        }
        self.kept.shrink(self.framer.held());
        self.keep_unfinished();
        broken.map_or(Ok(read), |why| Err(io::Error::new(io::ErrorKind::InvalidData, why)))
    }

    fn drop_newest(&mut self, count: Count) {
        if count.records > 0 {
            self.acker.miss(count.records);
            self.intake.ledger().received(count);
            self.intake.ledger().dropped(DropReason::BufferFull, count);
            self.shared.say_dropped(count);
        }
    }

    /// Counts and reports what was skipped.
    fn report(&mut self, framed: &Framed) {
        for skipped in &framed.skipped {
            match skipped.why {
                Skip::TooLong => self.shared.reject(RejectReason::TooLong, skipped.bytes),
                Skip::Unfinished => self.shared.reject(RejectReason::Unfinished, skipped.bytes),
                Skip::NoRoom => self.drop_newest(Count { records: 1, bytes: skipped.bytes }),
                Skip::Malformed => self.shared.reject(RejectReason::Malformed, skipped.bytes),
                Skip::Incomplete => self.shared.reject(RejectReason::Incomplete, skipped.bytes),
            }
        }
    }

    /// Registers what the unfinished record takes now.
    fn keep_unfinished(&mut self) {
        if self.buffer.is_empty() {
            (self.buffer, self.hold) = (BytesMut::new(), Reservation::none());
        }
        self.partial.hold(self.hold.bytes() + self.kept.bytes());
    }

    /// The last record, if the producer meant it to be one.
    async fn finish(&mut self, end: &End) {
        if *end == End::Broken && self.framer.is_apart() {
            let mut buffer = std::mem::take(&mut self.buffer);
            let framed = self.framer.finish(&mut buffer);
            return self.report(&framed);
        }
        if *end == End::Broken {
            if !self.buffer.is_empty() {
                let bytes = u64::try_from(self.buffer.len()).unwrap_or(u64::MAX);
                self.shared.reject(RejectReason::Incomplete, bytes);
            }
            return;
        }
        let mut buffer = std::mem::take(&mut self.buffer);
        let framed = self.framer.finish(&mut buffer);
        self.report(&framed);
        if framed.ends.is_empty() {
            return;
        }
        // The record and its delimiter, beside the unfinished record that it was made from.
        let bytes = framed.records.len() + size_of::<u32>() + CHUNK_OVERHEAD_BYTES;
        drop(buffer);
        self.hold = Reservation::none();
        self.partial.hold(0);
        match self.intake.reserve(bytes).await {
            None => self.drop_newest(Count::of(1, framed.records.len())),
            Some(hold) => {
                let capacity = framed.records.len();
                self.hand_over(framed.records, framed.ends, capacity, now(), hold).await;
            }
        }
    }
}

/// `buffer` without the capacity that it doesn't need, which the allocator takes off where it is.
fn cut(buffer: BytesMut) -> BytesMut {
    let mut bytes = Vec::from(buffer);
    bytes.shrink_to_fit();
    Bytes::from(bytes).into()
}

/// `buffer`, of a shared `capacity`, in an allocation of its own where that is smaller by half;
/// and what it takes.
fn compact(buffer: BytesMut, capacity: usize) -> (BytesMut, usize) {
    if buffer.len() < capacity / 2 {
        let exact = BytesMut::from(&buffer[..]);
        let used = exact.len();
        (exact, used)
    } else {
        (buffer, capacity)
    }
}

/// Keeps the connection until the producer knows what became of every record, or is gone.
async fn tell_the_rest<S: Source>(mut acker: Acker, mut source: S) {
    while !acker.is_settled() {
        if let Err(error) = acker.step(&mut source).await {
            tracing::debug!(%error, "Connection broken before the last acknowledgement.");
            return;
        }
    }
}
