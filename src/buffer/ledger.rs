//! The account of every record: received + recovered = delivered + dead-lettered + dropped + held.
//!
//! One lock guards all columns, and every move takes from one column what it adds to another, so
//! the equation holds in whatever moment a reader looks. The lock is taken once a chunk and once
//! an answer, never once a record.

use std::ops::AddAssign;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Records and their bytes, delimiters included.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    /// Number of records.
    pub records: u64,
    /// Bytes of those records.
    pub bytes: u64,
}

impl Count {
    /// `records` records of `bytes` bytes together.
    #[must_use]
    pub fn of(records: usize, bytes: usize) -> Self {
        Self {
            records: u64::try_from(records).unwrap_or(u64::MAX),
            bytes: u64::try_from(bytes).unwrap_or(u64::MAX),
        }
    }

    /// The two together.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self += other;
        self
    }

    /// What is left of it without `other`, which is no more than it.
    #[must_use]
    pub fn without(self, other: Self) -> Self {
        Self {
            records: self.records.saturating_sub(other.records),
            bytes: self.bytes.saturating_sub(other.bytes),
        }
    }

    fn minus(self, other: Self) -> Self {
        Self { records: self.records - other.records, bytes: self.bytes - other.bytes }
    }
}

impl AddAssign for Count {
    fn add_assign(&mut self, other: Self) {
        self.records += other.records;
        self.bytes += other.bytes;
    }
}

/// Why records are gone for good, always counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DropReason {
    /// `buffer.on_full = "drop-newest"` or `"drop-oldest"`.
    BufferFull,
    /// Undeliverable, and there is no `dead_letter.directory`.
    NoDeadLetterStore,
    /// Undeliverable, and the dead-letter store could not take it.
    DeadLetterStoreFailed,
    /// Still held when `shutdown.drain` was over or a second signal came.
    Shutdown,
}

impl DropReason {
    /// Every reason, in the order of the ledger's columns.
    pub const ALL: [Self; 4] =
        [Self::BufferFull, Self::NoDeadLetterStore, Self::DeadLetterStoreFailed, Self::Shutdown];

    /// The metric label's value.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::BufferFull => "buffer_full",
            Self::NoDeadLetterStore => "no_dead_letter_store",
            Self::DeadLetterStoreFailed => "dead_letter_store_failed",
            Self::Shutdown => "shutdown",
        }
    }
}

/// Why a record was never received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RejectReason {
    /// Longer than the listener takes.
    TooLong,
    /// Unfinished records together took half of the buffer, and this was the largest.
    Unfinished,
    /// Its end had not come when the daemon stopped or the connection broke.
    Incomplete,
    /// Not a record by the rules of the listener's protocol.
    Malformed,
}

impl RejectReason {
    /// Every reason, in the order of the ledger's columns.
    pub const ALL: [Self; 4] = [Self::TooLong, Self::Unfinished, Self::Incomplete, Self::Malformed];

    /// The metric label's value.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::TooLong => "too_long",
            Self::Unfinished => "unfinished",
            Self::Incomplete => "incomplete",
            Self::Malformed => "malformed",
        }
    }
}

/// A copy of the ledger at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Columns {
    /// Taken from producers.
    pub received: Count,
    /// Read back from the spool at start.
    pub recovered: Count,
    /// Firehose answered that it has them.
    pub delivered: Count,
    /// In the dead-letter store.
    pub dead_lettered: Count,
    /// Gone, by reason in the order of [`DropReason::ALL`].
    pub dropped: [Count; DropReason::ALL.len()],
    /// Never received, by reason in the order of [`RejectReason::ALL`].
    pub rejected: [Count; RejectReason::ALL.len()],
    /// Received and not yet settled.
    pub held: Count,
}

/// Both sides of the ledger equation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Balance {
    /// Received and recovered.
    pub taken: Count,
    /// Delivered, dead-lettered, dropped and held.
    pub accounted: Count,
}

impl AddAssign for Columns {
    fn add_assign(&mut self, other: Self) {
        let Self { received, recovered, delivered, dead_lettered, dropped, rejected, held } = other;
        self.received += received;
        self.recovered += recovered;
        self.delivered += delivered;
        self.dead_lettered += dead_lettered;
        self.dropped.iter_mut().zip(dropped).for_each(|(count, other)| *count += other);
        self.rejected.iter_mut().zip(rejected).for_each(|(count, other)| *count += other);
        self.held += held;
    }
}

impl Columns {
    /// The two sides of the equation, equal unless something is broken.
    #[must_use]
    pub fn balance(&self) -> Balance {
        let sum = |counts: &[Count]| {
            counts.iter().fold(Count::default(), |mut sum, count| {
                sum += *count;
                sum
            })
        };
        let mut accounted = sum(&self.dropped);
        accounted += sum(&[self.delivered, self.dead_lettered, self.held]);
        Balance { taken: sum(&[self.received, self.recovered]), accounted }
    }
}

/// The account, shared by listeners, the flush task and whoever reports it.
#[derive(Debug, Default)]
pub struct Ledger {
    columns: Mutex<Columns>,
}

impl Ledger {
    /// The columns at this moment.
    #[must_use]
    pub fn columns(&self) -> Columns {
        *self.lock()
    }

    /// Records came in and are held.
    pub fn received(&self, count: Count) {
        let mut columns = self.lock();
        columns.received += count;
        columns.held += count;
    }

    /// Records were found in the spool at start and are held.
    pub fn recovered(&self, count: Count) {
        let mut columns = self.lock();
        columns.recovered += count;
        columns.held += count;
    }

    /// Held records were delivered.
    pub fn delivered(&self, count: Count) {
        let mut columns = self.lock();
        columns.held = columns.held.minus(count);
        columns.delivered += count;
    }

    /// Held records are in the dead-letter store.
    pub fn dead_lettered(&self, count: Count) {
        let mut columns = self.lock();
        columns.held = columns.held.minus(count);
        columns.dead_lettered += count;
    }

    /// Held records are gone.
    pub fn dropped(&self, reason: DropReason, count: Count) {
        let mut columns = self.lock();
        columns.held = columns.held.minus(count);
        if let Some(dropped) = columns.dropped.get_mut(reason as usize) {
            *dropped += count;
        }
    }

    /// A record was turned away.
    pub fn rejected(&self, reason: RejectReason, count: Count) {
        let mut columns = self.lock();
        if let Some(rejected) = columns.rejected.get_mut(reason as usize) {
            *rejected += count;
        }
    }

    /// A panic elsewhere leaves whole columns behind: every method changes them in one go.
    fn lock(&self) -> MutexGuard<'_, Columns> {
        self.columns.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        // R-L1
        #[test]
        fn the_equation_holds_after_every_move(moves in proptest::collection::vec((0u8..5, 1u64..1000), 0..200)) {
            let ledger = Ledger::default();
            for (kind, records) in moves {
                let held = ledger.columns().held.records;
                let count = |records: u64| Count { records, bytes: records * 7 };
                match kind {
                    0 => ledger.received(count(records)),
                    4 => ledger.recovered(count(records)),
                    1 => ledger.delivered(count(records.min(held))),
                    2 => ledger.dead_lettered(count(records.min(held))),
                    _ => ledger.dropped(DropReason::Shutdown, count(records.min(held))),
                }
                let Balance { taken, accounted } = ledger.columns().balance();
                prop_assert_eq!(taken, accounted);
            }
        }
    }
}
