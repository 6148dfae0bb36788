//! What a connection tells its producer: the number of its records, from the first on, that have
//! reached the listener's level, as a decimal line each time that it grows; or, of a protocol that has
//! answers of its own, each of those once all records before it have reached that level.
//!
//! The count never runs ahead: it covers a record only when every record before it on the
//! connection is covered too. A record that was dropped or dead-lettered is never delivered,
//! one that was dropped before the spool had it is never durable, and one that a full buffer turned away is never
//! received, so the count stops before it. An answer that waits for such a record is never given.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::Notify;

use super::source::Source;
use crate::config::Acks;
use crate::framing::Reply;
use crate::record::{Claim, Level, Origin};

/// Most answers that wait for their records; with as many, a connection is not read.
const MAX_REPLIES: usize = 4096;

/// One connection's acknowledgements.
#[derive(Debug)]
pub(super) struct Acker {
    level: Acks,
    tells: Tells,
    /// Records handed over on this connection, and before them those of a count that were dropped instead.
    accepted: u64,
    /// The first record of those; whatever comes later, no count goes beyond.
    missed: Option<u64>,
    progress: Arc<Progress>,
    /// What is still to be written.
    line: Vec<u8>,
}

/// What a producer is told.
#[derive(Debug)]
enum Tells {
    Nothing,
    /// How many of its records; this is the count that was last put into words.
    Count(u64),
    /// Answers of the protocol, each with the number of records that it waits for.
    Replies(VecDeque<(u64, Bytes)>),
}

/// The records of one connection that have reached its level.
#[derive(Debug, Default)]
struct Progress {
    state: Mutex<Reached>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Reached {
    /// Every record below this number.
    prefix: u64,
    /// Ranges above it, by their first number.
    above: BTreeMap<u64, u64>,
}

impl Progress {
    fn lock(&self) -> MutexGuard<'_, Reached> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Goes on behind those below `end` that never get there; returns how far that is.
    fn pass(&self, end: u64) -> u64 {
        let mut state = self.lock();
        let past = state.above.range(..end).next_back().map_or(end, |(_, past)| end.max(*past));
        state.above.retain(|first, _| *first >= end);
        let first = state.prefix;
        state.add(first, past.saturating_sub(first));
        state.prefix
    }
}

impl Reached {
    fn add(&mut self, first: u64, records: u64) {
        let Self { prefix, above } = self;
        // Ranges that touch become one, so that behind a record that never gets there they stay few.
        let end = above.remove(&(first + records)).unwrap_or(first + records);
        match above.range_mut(..first).next_back() {
            Some((_, before)) if *before == first => *before = end,
            _ => drop(above.insert(first, end)),
        }
        while let Some(range) = above.first_entry()
            && range.key() == prefix
        {
            *prefix = range.remove();
        }
    }
}

impl Origin for Progress {
    fn reached(&self, first: u64, records: u64) {
        self.lock().add(first, records);
        self.changed.notify_one();
    }
}

impl Acker {
    /// For a protocol whose producers are told nothing but counts.
    pub(super) fn counting(level: Acks) -> Self {
        let tells = if level == Acks::Off { Tells::Nothing } else { Tells::Count(0) };
        Self { level, tells, accepted: 0, missed: None, progress: Arc::default(), line: Vec::new() }
    }

    /// For a protocol that has answers of its own.
    pub(super) fn replying(level: Acks) -> Self {
        Self { tells: Tells::Replies(VecDeque::new()), ..Self::counting(level) }
    }

    /// The producer can't be told anything any more.
    pub(super) fn silence(&mut self) {
        (self.level, self.tells) = (Acks::Off, Tells::Nothing);
        self.line = Vec::new();
    }

    /// Whether the producer is told anything.
    pub(super) fn is_on(&self) -> bool {
        !matches!(self.tells, Tells::Nothing)
    }

    /// Whether so much waits to be told that nothing more is to be read.
    pub(super) fn is_full(&self) -> bool {
        matches!(&self.tells, Tells::Replies(replies) if replies.len() >= MAX_REPLIES)
    }

    /// Takes answers that came with the records that are accepted next.
    pub(super) fn reply(&mut self, replies: impl IntoIterator<Item = Reply>) {
        if let Tells::Replies(waiting) = &mut self.tells {
            let accepted = self.accepted;
            let until = |reply: &Reply| accepted + u64::try_from(reply.records).unwrap_or(u64::MAX);
            waiting.extend(replies.into_iter().map(|reply| (until(&reply), reply.bytes)));
        }
    }

    /// Records were accepted; returns who is to hear how far they come, if anybody.
    pub(super) fn accept(&mut self, records: usize) -> Option<Claim> {
        let first = self.accepted;
        self.accepted += u64::try_from(records).unwrap_or(u64::MAX);
        let level = match self.level {
            Acks::Off => return None,
            Acks::Received => Level::Received,
            Acks::Durable => Level::Durable,
            Acks::Delivered => Level::Delivered,
        };
        Some(Claim { origin: Arc::clone(&self.progress) as _, level, first })
    }

    /// Records were dropped instead of accepted. Answers are not given to those who wait for them, which is the framer's
    /// matter; a count stops before them.
    pub(super) fn miss(&mut self, records: u64) {
        if let Tells::Count(_) = self.tells {
            self.missed.get_or_insert(self.accepted);
            self.accepted += records;
        }
    }

    /// The number of records, from the first on, that have reached the level.
    fn reached(&self) -> u64 {
        match self.level {
            Acks::Off => self.accepted,
            Acks::Received | Acks::Durable | Acks::Delivered => self.progress.lock().prefix,
        }
    }

    /// How far the count may come yet. What is received is so when it was handed over, or never.
    fn attainable(&self) -> u64 {
        match self.level {
            Acks::Off | Acks::Received => self.reached(),
            Acks::Durable | Acks::Delivered => self.missed.unwrap_or(self.accepted),
        }
    }

    /// Puts what may be told into words, unless the last words are still being written.
    fn compose(&mut self) {
        if !self.line.is_empty() || !self.is_on() {
            return;
        }
        let reached = self.reached();
        match &mut self.tells {
            Tells::Nothing => {}
            Tells::Count(told) if reached > *told => {
                *told = reached;
                self.line = format!("{reached}\n").into_bytes();
            }
            Tells::Count(_) => {}
            Tells::Replies(replies) => {
                let mut reached = reached;
                while let Some((records, _)) = replies.front() {
                    // What was handed over is received by now, or never. Those behind it have answers of their own.
                    let never = *records > reached && self.level == Acks::Received;
                    if never {
                        reached = self.progress.pass(*records);
                    } else if *records > reached {
                        break;
                    }
                    let reply = replies.pop_front().filter(|_| !never);
                    self.line.extend(reply.into_iter().flat_map(|(_, reply)| reply));
                }
            }
        }
    }

    /// Returns when a count may have grown. Cancel safe.
    pub(super) async fn changed(&self) {
        self.progress.changed.notified().await;
    }

    /// Returns once there is nothing to say or the producer could take some of it; with nothing
    /// to say, waits until there is. Cancel safe.
    ///
    /// # Errors
    ///
    /// When the connection is broken.
    pub(super) async fn step<S: Source>(&mut self, source: &mut S) -> io::Result<()> {
        self.compose();
        if self.line.is_empty() {
            self.progress.changed.notified().await;
            return Ok(());
        }
        source.writable().await?;
        self.flush(source)
    }

    /// Writes what can be written at once.
    ///
    /// # Errors
    ///
    /// When the connection is broken.
    pub(super) fn flush<S: Source>(&mut self, source: &mut S) -> io::Result<()> {
        loop {
            self.compose();
            if self.line.is_empty() {
                return Ok(());
            }
            match source.try_write(&self.line) {
                Ok(written) => drop(self.line.drain(..written.min(self.line.len()))),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    /// Whether something is to be written that the producer has not taken yet.
    pub(super) fn is_blocked(&self) -> bool {
        !self.line.is_empty()
    }

    /// Whether the producer has been told all that there will be to tell of the records that were accepted.
    pub(super) fn is_settled(&self) -> bool {
        self.line.is_empty()
            && match &self.tells {
                Tells::Nothing => true,
                Tells::Count(told) => *told == self.attainable(),
                Tells::Replies(replies) => {
                    replies.front().is_none_or(|(records, _)| *records > self.attainable())
                }
            }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // R-P12
    #[test]
    fn the_count_covers_a_record_only_with_all_before_it() {
        let mut acker = Acker::counting(Acks::Delivered);
        let Claim { origin, level, first } = acker.accept(10).unwrap();
        assert_eq!((level, first), (Level::Delivered, 0));
        let told = |acker: &mut Acker| {
            acker.compose();
            String::from_utf8(std::mem::take(&mut acker.line)).unwrap()
        };
        origin.reached(3, 4);
        assert_eq!(told(&mut acker), "");
        origin.reached(0, 2);
        assert_eq!(told(&mut acker), "2\n");
        origin.reached(2, 1);
        assert_eq!(told(&mut acker), "7\n");
        assert!(!acker.is_settled());
        origin.reached(7, 3);
        assert_eq!(told(&mut acker), "10\n");
        assert!(acker.is_settled());
    }

    // R-P12
    #[test]
    fn the_count_stops_before_a_record_that_was_dropped() {
        let told = |acker: &mut Acker| {
            acker.compose();
            String::from_utf8(std::mem::take(&mut acker.line)).unwrap()
        };
        for acks in [Acks::Received, Acks::Durable, Acks::Delivered] {
            let mut acker = Acker::counting(acks);
            acker.accept(3).unwrap().reached(3);
            acker.miss(2);
            let after = acker.accept(4).unwrap();
            assert_eq!(after.first, 5);
            after.reached(4);
            assert_eq!(told(&mut acker), "3\n");
            assert!(acker.is_settled(), "{acks:?}");
        }
        // Some of those that were handed over found their stream full.
        let mut acker = Acker::counting(Acks::Received);
        let Claim { origin, first, .. } = acker.accept(6).unwrap();
        origin.reached(first, 2);
        origin.reached(first + 4, 2);
        assert_eq!(told(&mut acker), "2\n");
        assert!(acker.is_settled());
    }

    // R-F3
    #[test]
    fn an_answer_to_records_of_which_a_stream_had_no_room_for_one_is_not_given_and_the_next_is() {
        let mut acker = Acker::replying(Acks::Received);
        let reply = |records, bytes| Reply { records, bytes: Bytes::from_static(bytes) };
        acker.reply([reply(2, b"one"), reply(4, b"two"), reply(6, b"three")]);
        let Claim { origin, .. } = acker.accept(7).unwrap();
        origin.reached(0, 3);
        origin.reached(4, 3);
        acker.compose();
        assert_eq!(std::mem::take(&mut acker.line), b"onethree");
        assert!(acker.is_settled());
        assert_eq!(acker.progress.lock().prefix, 7);
    }

    #[test]
    fn behind_a_record_that_never_gets_there_ranges_that_touch_are_one() {
        let progress = Progress::default();
        for first in [10, 30, 20, 50, 40, 1] {
            progress.reached(first, 10 - first % 10);
        }
        let state = progress.lock();
        assert_eq!((state.prefix, &state.above), (0, &[(1, 60)].into()));
        drop(state);
        progress.reached(0, 1);
        assert_eq!(progress.lock().prefix, 60);
        progress.reached(62, 8);
        progress.reached(80, 10);
        // Passed in the middle of a range, all of that is reached.
        assert_eq!((progress.pass(65), progress.pass(80)), (70, 90));
        assert!(progress.lock().above.is_empty());
    }

    // R-P12
    #[test]
    fn an_answer_waits_for_its_records_and_for_the_answers_before_it() {
        let mut acker = Acker::replying(Acks::Durable);
        let reply = |records, bytes| Reply { records, bytes: Bytes::from_static(bytes) };
        acker.reply([reply(0, b"hello"), reply(2, b"two"), reply(3, b"three")]);
        let Claim { origin, level, .. } = acker.accept(3).unwrap();
        assert_eq!(level, Level::Durable);
        let told = |acker: &mut Acker| {
            acker.compose();
            String::from_utf8(std::mem::take(&mut acker.line)).unwrap()
        };
        assert_eq!(told(&mut acker), "hello");
        origin.reached(1, 2);
        assert_eq!(told(&mut acker), "");
        origin.reached(0, 1);
        assert_eq!(told(&mut acker), "twothree");
        assert!(acker.is_settled());
        acker.reply([reply(1, b"four")]);
        drop(acker.accept(1));
        assert!(told(&mut acker).is_empty() && !acker.is_settled());
    }
}
