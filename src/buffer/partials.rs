//! Unfinished records: bounded together, the largest gives way.
//!
//! Bytes of a record whose end has not come can't be sent, so if they could fill the budget, a
//! crowd of producers that each send half a record would stop the daemon for good. Together they
//! may hold half of it. Past that the largest is given up, never the one that happened to come
//! last: a producer of short lines keeps going while others misbehave.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// The registry of all unfinished records.
#[derive(Debug)]
pub struct Partials {
    limit: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    total: usize,
    next: u64,
    held: HashMap<u64, Held>,
}

#[derive(Debug)]
struct Held {
    bytes: usize,
    evict: Arc<Evict>,
}

#[derive(Debug, Default)]
struct Evict {
    notify: Notify,
    wanted: std::sync::atomic::AtomicBool,
}

/// One connection's entry in the registry; gone when it is dropped.
#[derive(Debug)]
pub struct Partial {
    partials: Arc<Partials>,
    id: u64,
    evict: Arc<Evict>,
}

impl Partials {
    /// A registry that lets unfinished records hold `limit` bytes together.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self { limit, state: Mutex::default() }
    }

    /// A place for one connection, holding nothing yet.
    #[must_use]
    pub fn enter(self: &Arc<Self>) -> Partial {
        let evict = Arc::new(Evict::default());
        let mut state = self.lock();
        let id = state.next;
        state.next += 1;
        state.held.insert(id, Held { bytes: 0, evict: Arc::clone(&evict) });
        Partial { partials: Arc::clone(self), id, evict }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Partial {
    /// Says that the connection's unfinished record now takes `bytes`. When all of them together
    /// pass the limit, the largest are asked to go, this one among them.
    pub fn hold(&self, bytes: usize) {
        let mut state = self.partials.lock();
        let Some(held) = state.held.get_mut(&self.id) else { return };
        let before = std::mem::replace(&mut held.bytes, bytes);
        state.total = state.total - before + bytes;
        if bytes == 0 {
            self.evict.wanted.store(false, std::sync::atomic::Ordering::Relaxed);
        }
        let mut excess = state.total.saturating_sub(self.partials.limit);
        if excess == 0 || bytes <= before {
            return;
        }
        let mut by_size: Vec<&Held> = state.held.values().filter(|held| held.bytes > 0).collect();
        by_size.sort_unstable_by_key(|held| std::cmp::Reverse(held.bytes));
        for held in by_size {
            if excess == 0 {
                break;
            }
            excess = excess.saturating_sub(held.bytes);
            held.evict.wanted.store(true, std::sync::atomic::Ordering::Relaxed);
            held.evict.notify.notify_one();
        }
    }

    /// Whether the connection is to give up its unfinished record.
    #[must_use]
    pub fn is_evicted(&self) -> bool {
        self.evict.wanted.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// Returns when the connection is to give up its unfinished record.
    ///
    /// # Cancel safety
    ///
    /// May be dropped and called again; nothing is missed.
    pub async fn evicted(&self) {
        while !self.is_evicted() {
            self.evict.notify.notified().await;
        }
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        let mut state = self.partials.lock();
        if let Some(held) = state.held.remove(&self.id) {
            state.total -= held.bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn past_the_limit_the_largest_is_asked_to_go_and_no_other() {
        let partials = Arc::new(Partials::new(100));
        let (small, large, middle) = (partials.enter(), partials.enter(), partials.enter());
        small.hold(10);
        large.hold(60);
        middle.hold(30);
        assert!(![&small, &large, &middle].iter().any(|partial| partial.is_evicted()));
        small.hold(11);
        assert_eq!([small.is_evicted(), large.is_evicted(), middle.is_evicted()], [false, true, false]);
        large.hold(0);
        assert!(!large.is_evicted());
        middle.hold(80);
        assert!(!middle.is_evicted());
        drop(middle);
        large.hold(89);
        assert!(!large.is_evicted());
    }
}
