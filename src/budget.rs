//! A budget in bytes, handed out as guards.
//!
//! Everything that holds record bytes holds a [`Reservation`] for them, taken before the memory
//! is filled and given back when it is dropped. Waiters are served in the order they came, so a
//! large request is never starved by small ones.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A number of bytes that may be held at once. Clones share it.
#[derive(Debug, Clone)]
pub struct Budget {
    semaphore: Arc<Semaphore>,
    total: usize,
    wanted: Arc<AtomicUsize>,
}

impl Budget {
    /// A budget of `total` bytes (at most 4 GiB − 1; more is cut to that).
    #[must_use]
    pub fn new(total: usize) -> Self {
        let total = total.min(u32::MAX as usize);
        Self { semaphore: Arc::new(Semaphore::new(total)), total, wanted: Arc::default() }
    }

    /// Size of the budget in bytes.
    #[must_use]
    pub fn total(&self) -> usize {
        self.total
    }

    /// Bytes not reserved at this moment.
    #[must_use]
    pub fn available(&self) -> usize {
        self.semaphore.available_permits()
    }

    /// Bytes that waiting reservations ask for at this moment.
    #[must_use]
    pub fn wanted(&self) -> usize {
        self.wanted.load(Ordering::Relaxed)
    }

    /// `bytes` of the budget at once, or `None` when they are not there. A request for more than
    /// the whole budget is a request for the whole budget.
    #[must_use]
    pub fn try_reserve(&self, bytes: usize) -> Option<Reservation> {
        let permits = u32::try_from(bytes.min(self.total)).ok()?;
        let permit = Arc::clone(&self.semaphore).try_acquire_many_owned(permits).ok()?;
        Some(Reservation { permit: Some(permit) })
    }

    /// `bytes` of the budget, as soon as they are there.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future gives up the place in the queue and nothing else.
    pub async fn reserve(&self, bytes: usize) -> Reservation {
        if let Some(reservation) = self.try_reserve(bytes) {
            return reservation;
        }
        let permits = bytes.min(self.total);
        let _wanted = Wanted::register(&self.wanted, permits);
        let permits = u32::try_from(permits).unwrap_or(u32::MAX);
        let permit = Arc::clone(&self.semaphore).acquire_many_owned(permits).await.ok();
        Reservation { permit }
    }
}

/// Counts one waiter's bytes for as long as it waits.
struct Wanted<'a>(&'a AtomicUsize, usize);

impl<'a> Wanted<'a> {
    fn register(wanted: &'a AtomicUsize, bytes: usize) -> Self {
        wanted.fetch_add(bytes, Ordering::Relaxed);
        Self(wanted, bytes)
    }
}

impl Drop for Wanted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(self.1, Ordering::Relaxed);
    }
}

/// Bytes of a [`Budget`], given back on drop.
#[derive(Debug, Default)]
pub struct Reservation {
    permit: Option<OwnedSemaphorePermit>,
}

impl Reservation {
    /// A reservation of nothing, for bytes that no budget counts.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// Bytes held.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.permit.as_ref().map_or(0, OwnedSemaphorePermit::num_permits)
    }

    /// Gives back what is held above `bytes`.
    pub fn shrink(&mut self, bytes: usize) {
        if let Some(permit) = &mut self.permit {
            drop(permit.split(permit.num_permits().saturating_sub(bytes)));
        }
    }

    /// Takes `bytes` out of this reservation into one of their own, at most what is held.
    #[must_use]
    pub fn split(&mut self, bytes: usize) -> Self {
        let permit = self.permit.as_mut().and_then(|permit| permit.split(bytes.min(permit.num_permits())));
        Self { permit }
    }

    /// Adds what `other` holds.
    ///
    /// # Panics
    ///
    /// If the two come from different budgets.
    pub fn merge(&mut self, other: Self) {
        match (&mut self.permit, other.permit) {
            (Some(permit), Some(other)) => permit.merge(other),
            (none @ None, other) => *none = other,
            (Some(_), None) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_reservation_waits_until_its_bytes_are_given_back() {
        let budget = Budget::new(100);
        let mut first = budget.reserve(80).await;
        assert!(budget.try_reserve(30).is_none());
        let second = budget.reserve(30);
        tokio::pin!(second);
        assert!(futures_util::poll!(&mut second).is_pending());
        assert_eq!(budget.wanted(), 30);
        first.shrink(70);
        let second = second.await;
        assert_eq!((first.bytes(), second.bytes(), budget.available(), budget.wanted()), (70, 30, 0, 0));
        drop((first, second));
        assert_eq!(budget.available(), 100);
    }

    #[test]
    fn parts_of_a_reservation_add_up_to_it() {
        let budget = Budget::new(100);
        let mut whole = budget.try_reserve(60).expect("60 of 100 bytes are free");
        let part = whole.split(20);
        assert_eq!((whole.bytes(), part.bytes(), budget.available()), (40, 20, 40));
        whole.merge(part);
        assert_eq!((whole.bytes(), budget.available()), (60, 40));
    }
}
