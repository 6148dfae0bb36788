//! What is held between the listeners and the flush task, and the account of it.
//!
//! [`Intake`] is what a listener holds: it reserves memory before a read and hands chunks over.
//! The bounded channel carries chunks; the byte [`Budget`] is what bounds it, its slots are only
//! a backstop. With a spool, a thread ([`Spooler`]) writes every chunk to the disk before it goes
//! on. The [`Ledger`] knows at every moment where every record is; [`Account`] is how the flush task
//! settles what it has.

mod account;
mod ledger;
pub mod opening;
mod partials;
mod routes;
mod routing;
mod spooler;
mod spooling;
mod stamp;

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

pub use account::{Account, Fate, Pressure};
pub use ledger::{Balance, Columns, Count, DropReason, Ledger, RejectReason};
pub use partials::{Partial, Partials};
pub use routes::Routes;
pub use routing::{Router, Stamps};
pub use spooler::{Spooled, Spooler};
pub use spooling::{Ending, Spooling};
pub use stamp::Stamp;

use crate::budget::{Budget, Reservation};
use crate::config::OnFull;
use crate::record::{Chunk, Level};

/// Slots of the channel of chunks. The flush task empties it whenever it runs, so this bounds
/// how many chunks listeners can read between two of its turns, not how many can be held.
const CHANNEL_CHUNKS: usize = 1024;

/// Memory that a chunk takes beside its bytes and ends: the chunk itself, its place in the
/// queue, and the allocator's rounding.
pub const CHUNK_OVERHEAD_BYTES: usize = 256;

/// How `buffer.memory` is divided.
///
/// Records get most of it; request bodies (base64, a third larger than their records) get a share
/// of their own, set aside so that a buffer full of records can always be sent. What is left over
/// is for the allocator, which rounds up and leaves gaps: a thousand connections whose reads have
/// all sizes take a quarter more than they ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shares {
    /// For records as they were read, until Firehose has them.
    pub records: usize,
    /// For records that are read back from the spool, or go on from memory, so that a disk and a memory
    /// full of what arrives can't keep what waits from being sent; 0 without a spool.
    pub read_back: usize,
    /// For request bodies in flight.
    pub bodies: usize,
}

impl Shares {
    /// Of 32 parts 17 for records, 11 for bodies and 4 for the allocator: of the default 32 MiB as
    /// many MiB, and 11 MiB are two full requests of 4 MiB. With a spool a quarter of the records'
    /// part is for what is read back.
    #[must_use]
    pub fn of(memory: usize, spooled: bool) -> Self {
        let part = memory / 32;
        let records = part * 17;
        let read_back = if spooled { records / 4 } else { 0 };
        Self { records: records - read_back, read_back, bodies: part * 11 }
    }
}

/// The listeners' end of the buffer. Clones share it.
#[derive(Debug, Clone)]
pub struct Intake {
    chunks: async_channel::Sender<Chunk>,
    budget: Budget,
    partials: Arc<Partials>,
    ledger: Arc<Ledger>,
    on_full: OnFull,
    pressure: Arc<Pressure>,
    refuses: CancellationToken,
    /// Nothing further on drops what is accepted: it is received once it is handed over.
    keeps: bool,
    /// Where chunks go instead, record by record.
    router: Option<Arc<Router>>,
    /// Those of other streams, for producers that name one.
    named: Arc<BTreeMap<String, Intake>>,
}

/// The flush task's end of the buffer.
#[derive(Debug)]
pub struct Outlet {
    /// The chunks in the order in which they were read.
    pub chunks: async_channel::Receiver<Chunk>,
    /// Told when somebody finds no room.
    pub pressure: Arc<Pressure>,
    /// Where what became of them is told.
    pub account: Account,
    /// What gives way.
    pub on_full: OnFull,
}

/// A buffer in memory alone, of `budget`.
#[must_use]
pub fn channel(budget: Budget, on_full: OnFull, ledger: Arc<Ledger>) -> (Intake, Outlet) {
    let (sender, chunks) = async_channel::bounded(CHANNEL_CHUNKS);
    let intake = Intake::new(sender, budget, on_full, ledger);
    let account = Account::new(Arc::clone(&intake.ledger), None);
    let outlet = Outlet { chunks, pressure: Arc::clone(&intake.pressure), account, on_full };
    (intake, outlet)
}

impl Intake {
    fn new(
        chunks: async_channel::Sender<Chunk>,
        budget: Budget,
        on_full: OnFull,
        ledger: Arc<Ledger>,
    ) -> Self {
        // With one record above it, which may have five sixteenths, this is half.
        let partials = Arc::new(Partials::new(budget.total() / 16 * 3));
        let pressure = Arc::new(Pressure::new(budget.clone()));
        let refuses = CancellationToken::new();
        let (router, named) = (None, Arc::default());
        Self { chunks, budget, partials, ledger, on_full, pressure, refuses, keeps: true, router, named }
    }

    /// One whose chunks go by `router`, read into `budget`, which is nobody else's. What there is no room for is
    /// dropped, where it is, in the account of `ledger`. Whoever builds it cancels [`Intake::refuses`] when one
    /// of the streams does.
    #[must_use]
    pub fn routed(budget: Budget, on_full: OnFull, ledger: Arc<Ledger>, router: Arc<Router>) -> Self {
        // Nothing goes this way.
        let (sender, _) = async_channel::bounded(1);
        Self { router: Some(router), ..Self::new(sender, budget, on_full, ledger) }
    }

    /// The same, for producers that may also name one of `others`.
    #[must_use]
    pub fn knowing(self, others: BTreeMap<String, Self>) -> Self {
        Self { named: Arc::new(others), ..self }
    }

    /// Where records go whose producer names `stream`, which is not the listener's own.
    #[must_use]
    pub fn named(&self, stream: &str) -> Option<&Self> {
        self.named.get(stream)
    }

    /// The streams that producers may name beside the listener's own.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.named.keys().map(String::as_str)
    }

    /// The same memory, whose chunks go by `router`, and whose account is `ledger`.
    #[must_use]
    pub fn by(&self, router: Arc<Router>, ledger: Arc<Ledger>) -> Self {
        Self { router: Some(router), ledger, ..self.clone() }
    }

    /// Room for `bytes`, waited for as `buffer.on_full` says; `None` means that what arrives now
    /// is to be read and dropped.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future gives up the place in the queue and nothing else.
    pub async fn reserve(&self, bytes: usize) -> Option<Reservation> {
        if let Some(reservation) = self.budget.try_reserve(bytes) {
            return Some(reservation);
        }
        if self.on_full == OnFull::DropNewest {
            self.pressure.tell();
            return None;
        }
        let reservation = self.budget.reserve(bytes);
        tokio::pin!(reservation);
        // Polled once before the word goes out, so that the flush task sees the wish.
        if let std::task::Poll::Ready(reservation) = futures_util::poll!(&mut reservation) {
            return Some(reservation);
        }
        self.pressure.tell();
        Some(reservation.await)
    }

    /// Room for `bytes` if it is there.
    #[must_use]
    pub fn try_reserve(&self, bytes: usize) -> Option<Reservation> {
        self.budget.try_reserve(bytes)
    }

    /// Hands a chunk over; its records are received from here on.
    ///
    /// Waits only while the flush task has not had its turn for `CHANNEL_CHUNKS` chunks. Must
    /// not be dropped before it is done: the chunk would be lost, although counted.
    pub async fn accept(&self, chunk: Chunk) {
        if let Some(router) = &self.router {
            // Boxed, since every connection has room for what it waits for.
            return Box::pin(router.accept(chunk)).await;
        }
        self.ledger.received(Count::of(chunk.records(), chunk.bytes()));
        self.pass_on(chunk).await;
    }

    /// Passes on a chunk that is counted as received, and tells its producer so, unless it may yet be dropped for
    /// want of room.
    async fn pass_on(&self, chunk: Chunk) {
        let (records, claim) =
            (chunk.records(), chunk.claim(Level::Received).filter(|_| self.keeps).cloned());
        match self.chunks.send(chunk).await {
            Ok(()) => claim.iter().for_each(|claim| claim.reached(records)),
            // The flush task is gone, which only a second signal brings about.
            Err(async_channel::SendError(chunk)) => {
                self.ledger.dropped(DropReason::Shutdown, Count::of(chunk.records(), chunk.bytes()));
            }
        }
    }

    /// Cancelled when nothing more can be taken, since the spool's disk has failed: what is not
    /// read stays with its producer.
    #[must_use]
    pub fn refuses(&self) -> &CancellationToken {
        &self.refuses
    }

    /// The unfinished records of all connections.
    #[must_use]
    pub fn partials(&self) -> &Arc<Partials> {
        &self.partials
    }

    /// The account.
    #[must_use]
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Size of the budget for records, in bytes.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.budget.total()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shares_leave_an_eighth_and_hold_two_full_bodies_by_default() {
        let shares = Shares::of(32 << 20, true);
        assert_eq!(shares.records + shares.read_back + shares.bodies, 28 << 20);
        assert_eq!(Shares::of(32 << 20, false).records + shares.bodies, 28 << 20);
        assert!(shares.bodies >= 2 * (crate::limits::MAX_BATCH_BYTES.div_ceil(3) * 4 + 500 * 16 + 256));
    }
}
