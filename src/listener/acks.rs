//! What a connection tells its producer: the number of its records, from the first on, that have
//! reached the listener's level, as a decimal line each time that it grows.
//!
//! The count never runs ahead: it covers a record only when every record before it on the
//! connection is covered too. A record that was dropped or dead-lettered is never delivered, and
//! one that was dropped before the spool had it is never durable, so the count stops before it.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::source::Source;
use crate::config::Acks;
use crate::record::{Claim, Level, Origin};

/// One connection's acknowledgements.
#[derive(Debug)]
pub(super) struct Acker {
    level: Acks,
    /// Records accepted on this connection.
    accepted: u64,
    progress: Arc<Progress>,
    /// The count that was last put into `line`.
    told: u64,
    /// What is still to be written.
    line: Vec<u8>,
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
}

impl Origin for Progress {
    fn reached(&self, first: u64, records: u64) {
        let mut state = self.lock();
        let Reached { prefix, above } = &mut *state;
        above.insert(first, first + records);
        while let Some(range) = above.first_entry()
            && range.key() == prefix
        {
            *prefix = range.remove();
        }
        drop(state);
        self.changed.notify_one();
    }
}

impl Acker {
    pub(super) fn new(level: Acks) -> Self {
        Self { level, accepted: 0, progress: Arc::default(), told: 0, line: Vec::new() }
    }

    /// Whether the producer is told anything.
    pub(super) fn is_on(&self) -> bool {
        self.level != Acks::Off
    }

    /// Records were accepted; returns who is to hear how far they come, if anybody.
    pub(super) fn accept(&mut self, records: usize) -> Option<Claim> {
        let first = self.accepted;
        self.accepted += u64::try_from(records).unwrap_or(u64::MAX);
        let level = match self.level {
            Acks::Off | Acks::Received => return None,
            Acks::Durable => Level::Durable,
            Acks::Delivered => Level::Delivered,
        };
        Some(Claim { origin: Arc::clone(&self.progress) as _, level, first })
    }

    /// Puts the newest count into words, unless an older one is still being written.
    fn compose(&mut self) {
        let reached = match self.level {
            Acks::Off => return,
            Acks::Received => self.accepted,
            Acks::Durable | Acks::Delivered => self.progress.lock().prefix,
        };
        if self.line.is_empty() && reached > self.told {
            self.told = reached;
            self.line = format!("{reached}\n").into_bytes();
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

    /// Whether the producer has been told of every record that was accepted.
    pub(super) fn is_settled(&self) -> bool {
        !self.is_on() || (self.told == self.accepted && self.line.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // R-P12
    #[test]
    fn the_count_covers_a_record_only_with_all_before_it() {
        let mut acker = Acker::new(Acks::Delivered);
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
}
