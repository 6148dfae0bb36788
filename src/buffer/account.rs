//! What became of records, told once a request to all who keep account of them: the ledger, the
//! producers, and the spool, if there is one.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

use super::ledger::{Count, DropReason, Ledger};
use crate::budget::Budget;
use crate::record::{Level, Span};

/// What became of records for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Firehose has them.
    Delivered,
    /// The dead-letter store has them.
    DeadLettered,
    /// They are gone.
    Dropped(DropReason),
}

/// The flush task's way to settle records.
#[derive(Debug)]
pub struct Account {
    ledger: Arc<Ledger>,
    spool: Option<Arc<Settlements>>,
}

impl Account {
    pub(super) fn new(ledger: Arc<Ledger>, spool: Option<Arc<Settlements>>) -> Self {
        Self { ledger, spool }
    }

    /// Settles what `spans` hold and returns how much that is.
    pub fn settle<'a>(&self, fate: Fate, spans: impl Iterator<Item = &'a Span>) -> Count {
        let (mut all, mut spooled, mut sequences) = (Count::default(), Count::default(), Vec::new());
        for span in spans {
            let count = Count::of(span.records(), span.bytes());
            all += count;
            if let Some(range) = span.sequences() {
                spooled += count;
                sequences.push(range);
            }
            if fate == Fate::Delivered {
                span.reached(Level::Delivered);
            }
        }
        match fate {
            Fate::Delivered => self.ledger.delivered(all),
            Fate::DeadLettered => self.ledger.dead_lettered(all),
            Fate::Dropped(reason) => self.ledger.dropped(reason, all),
        }
        if let Some(spool) = self.spool.as_ref().filter(|_| !sequences.is_empty()) {
            spool.add(sequences, spooled);
        }
        all
    }

    /// Times that something was settled which the spool has not written down yet: were the daemon
    /// killed now, it would be sent again. 0 without a spool.
    #[must_use]
    pub fn unwritten(&self) -> usize {
        self.spool.as_ref().map_or(0, |spool| spool.unwritten.load(Ordering::Relaxed))
    }

    /// Whether what is left at the end waits in a spool.
    #[must_use]
    pub fn has_spool(&self) -> bool {
        self.spool.is_some()
    }

    /// Returns when [`Account::unwritten`] may have become smaller. Cancel safe.
    pub async fn written(&self) {
        match &self.spool {
            Some(spool) => spool.written.notified().await,
            None => std::future::pending().await,
        }
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        if let Some(spool) = &self.spool {
            spool.lock().over = true;
            spool.told.notify_one();
        }
    }
}

/// What the flush task has settled and the spool has not written down yet.
#[derive(Debug, Default)]
pub(super) struct Settlements {
    inbox: Mutex<Inbox>,
    told: Notify,
    written: Notify,
    unwritten: AtomicUsize,
}

/// See [`Settlements`].
#[derive(Debug, Default)]
pub(super) struct Inbox {
    /// Sequences, in any order.
    pub(super) sequences: Vec<Range<u64>>,
    /// The records that have them.
    pub(super) count: Count,
    /// Times that something was settled.
    pub(super) times: usize,
    /// There will be no more.
    pub(super) over: bool,
}

impl Settlements {
    fn lock(&self) -> std::sync::MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, sequences: Vec<Range<u64>>, count: Count) {
        self.unwritten.fetch_add(1, Ordering::Relaxed);
        let mut inbox = self.lock();
        inbox.sequences.extend(sequences);
        inbox.count += count;
        inbox.times += 1;
        drop(inbox);
        self.told.notify_one();
    }

    /// What came since the last call.
    pub(super) fn take(&self) -> Inbox {
        let mut inbox = self.lock();
        let over = inbox.over;
        std::mem::replace(&mut *inbox, Inbox { over, ..Inbox::default() })
    }

    /// Says that what was settled `times` times is written down.
    pub(super) fn wrote(&self, times: usize) {
        self.unwritten.fetch_sub(times, Ordering::Relaxed);
        self.written.notify_one();
    }

    /// Returns when there is something to take. Cancel safe.
    pub(super) async fn told(&self) {
        self.told.notified().await;
    }
}

/// The wish of those who have no room, told to the flush task, which can make some.
#[derive(Debug)]
pub struct Pressure {
    told: Notify,
    budget: Budget,
    /// What the spool lacks on the disk.
    disk: AtomicUsize,
}

impl Pressure {
    pub(super) fn new(budget: Budget) -> Self {
        Self { told: Notify::new(), budget, disk: AtomicUsize::new(0) }
    }

    /// Tells the flush task.
    pub(super) fn tell(&self) {
        self.told.notify_one();
    }

    /// Tells the flush task that the spool's directory lacks `bytes`.
    pub(super) fn want_disk(&self, bytes: usize) {
        self.disk.store(bytes, Ordering::Relaxed);
        if bytes > 0 {
            self.told.notify_one();
        }
    }

    /// Bytes that listeners and the spool wait for.
    #[must_use]
    pub fn wanted(&self) -> usize {
        self.budget.wanted() + self.disk.load(Ordering::Relaxed)
    }

    /// Returns when somebody has found no room. Cancel safe.
    pub async fn told(&self) {
        self.told.notified().await;
    }
}
