//! Unfinished records: bounded together, and given up only where their producers are silent.
//!
//! Bytes of a record whose end has not come can't be sent, so if they could fill the budget, a
//! crowd of producers that each send half a record would stop the daemon for good. A connection
//! is therefore admitted before each read to what it may hold unfinished after it:
//!
//! * within the limit, at once;
//! * past it, one connection at a time may go on, the *overdraft*: it finishes its record, hands
//!   it over and makes room, so producers that all send long records proceed in turn and lose
//!   nothing;
//! * the others wait. If the producer of the overdraft has then sent nothing for [`SILENCE`], the
//!   largest unfinished records whose producers are as silent are given up, to half the limit; if
//!   it keeps the others waiting for [`PATIENCE`] all the same, its own is.
//!
//! Together they hold at most the limit and one record.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

/// How long the producer of an unfinished record may send nothing while others wait for its room.
/// Far longer than a running producer pauses between two writes of one record.
const SILENCE: Duration = Duration::from_secs(1);

/// How long one producer may keep others waiting, byte by byte.
const PATIENCE: Duration = Duration::from_secs(10);

/// The registry of all unfinished records.
#[derive(Debug)]
pub struct Partials {
    limit: usize,
    state: Mutex<State>,
    /// Told when room may have come free; whoever takes some passes the word on.
    room: Notify,
}

#[derive(Debug, Default)]
struct State {
    total: usize,
    next: u64,
    held: HashMap<u64, Held>,
    /// Who may hold what is past the limit, and since when.
    overdraft: Option<(u64, Instant)>,
}

#[derive(Debug)]
struct Held {
    bytes: usize,
    /// Since when its producer has been waited for; `None` while it waits for room itself.
    waiting_since: Option<Instant>,
    evict: Arc<Evict>,
}

#[derive(Debug, Default)]
struct Evict {
    notify: Notify,
    wanted: AtomicBool,
}

/// One connection's entry in the registry; gone when it is dropped.
#[derive(Debug)]
pub struct Partial {
    partials: Arc<Partials>,
    id: u64,
    evict: Arc<Evict>,
}

impl Partials {
    /// A registry that lets unfinished records hold `limit` bytes together, and one of them more.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self { limit, state: Mutex::default(), room: Notify::new() }
    }

    /// A place for one connection, holding nothing yet.
    #[must_use]
    pub fn enter(self: &Arc<Self>) -> Partial {
        let evict = Arc::new(Evict::default());
        let mut state = self.lock();
        let id = state.next;
        state.next += 1;
        state.held.insert(id, Held { bytes: 0, waiting_since: None, evict: Arc::clone(&evict) });
        Partial { partials: Arc::clone(self), id, evict }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    /// Whether its producer has been waited for too long; one that holds nothing is waited for by
    /// nobody.
    fn is_silent(&self, now: Instant) -> bool {
        self.bytes > 0 && self.waiting_since.is_some_and(|since| since + SILENCE <= now)
    }
}

impl State {
    /// Sets what `id` holds; returns whether there is more room than before.
    fn set(&mut self, id: u64, bytes: usize, waiting_since: Option<Instant>, limit: usize) -> bool {
        let Some(held) = self.held.get_mut(&id) else { return false };
        let before = std::mem::replace(&mut held.bytes, bytes);
        held.waiting_since = waiting_since;
        self.total = self.total - before + bytes;
        let finished = self.overdraft.is_some_and(|(holder, _)| holder == id && bytes == 0);
        if finished || self.total <= limit {
            self.overdraft = None;
        }
        bytes < before
    }

    /// Asks whoever keeps the others waiting to give up, once it is time; returns when it may be.
    fn evict(&self, limit: usize, now: Instant) -> Instant {
        let Some((id, since)) = self.overdraft else { return now };
        let Some(holder) = self.held.get(&id) else { return now };
        let silent_at = holder.waiting_since.map_or(now + SILENCE, |since| since + SILENCE);
        let due = silent_at.min(since + PATIENCE);
        if due > now {
            return due;
        }
        let mut silent: Vec<&Held> = self.held.values().filter(|held| held.is_silent(now)).collect();
        silent.sort_unstable_by_key(|held| std::cmp::Reverse(held.bytes));
        if silent_at > now {
            silent = vec![holder];
        }
        // More than one record's room, or a crowd of silent producers would cost a wait each.
        let mut total = self.total;
        for held in silent {
            if total <= limit / 2 {
                break;
            }
            total -= held.bytes;
            held.evict.wanted.store(true, Ordering::Relaxed);
            held.evict.notify.notify_one();
        }
        now + SILENCE
    }
}

impl Partial {
    /// Waits until the connection may hold `bytes` of an unfinished record after its next read.
    ///
    /// # Cancel safety
    ///
    /// May be dropped and called again; nothing is taken before it is done.
    pub async fn admit(&self, bytes: usize) {
        loop {
            let room = self.partials.room.notified();
            tokio::pin!(room);
            // From here on no word of new room is missed.
            room.as_mut().enable();
            let Err(again_at) = self.try_admit(bytes, now()) else {
                return;
            };
            tokio::select! {
                () = room => {}
                () = tokio::time::sleep_until(again_at.into()) => {}
            }
        }
    }

    /// Whether the connection may hold `bytes`, which it does from then on; else when to ask again
    /// although no room came free.
    ///
    /// # Errors
    ///
    /// The time of the next try.
    pub fn try_admit(&self, bytes: usize, now: Instant) -> Result<(), Instant> {
        let limit = self.partials.limit;
        let mut state = self.partials.lock();
        let before = state.held.get(&self.id).map_or(0, |held| held.bytes);
        let fits = state.total - before + bytes <= limit;
        if !fits && state.overdraft.is_some_and(|(holder, _)| holder != self.id) {
            // Not silent: it is this connection that waits, not its producer.
            state.set(self.id, before, None, limit);
            return Err(state.evict(limit, now));
        }
        if !fits {
            state.overdraft.get_or_insert((self.id, now));
        }
        state.set(self.id, bytes, None, limit);
        drop(state);
        if fits {
            self.partials.room.notify_one();
        }
        Ok(())
    }

    /// Says that the connection waits for memory, and holds `bytes` meanwhile as it did before it was
    /// admitted. Whoever may go past the limit keeps its turn.
    pub fn step_back(&self, bytes: usize) {
        let mut state = self.partials.lock();
        if state.overdraft.is_some_and(|(holder, _)| holder == self.id) {
            return;
        }
        let more_room = state.set(self.id, bytes, None, self.partials.limit);
        drop(state);
        if more_room {
            self.partials.room.notify_one();
        }
    }

    /// Says that the connection's unfinished record takes `bytes` now, and that its producer is
    /// waited for.
    pub fn hold(&self, bytes: usize) {
        let waiting_since = (bytes > 0).then(now);
        if bytes == 0 {
            self.evict.wanted.store(false, Ordering::Relaxed);
        }
        let more_room = self.partials.lock().set(self.id, bytes, waiting_since, self.partials.limit);
        if more_room {
            self.partials.room.notify_one();
        }
    }

    /// Says that it gave up its unfinished record, or is not the one at fault. What is left, such as half a
    /// length, is not asked for again at once.
    pub fn gave_up(&self) {
        self.evict.wanted.store(false, Ordering::Relaxed);
    }

    /// Returns when the connection is to give up its unfinished record.
    ///
    /// # Cancel safety
    ///
    /// May be dropped and called again; nothing is missed.
    pub async fn evicted(&self) {
        while !self.evict.wanted.load(Ordering::Relaxed) {
            self.evict.notify.notified().await;
        }
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        self.hold(0);
        self.partials.lock().held.remove(&self.id);
    }
}

#[expect(clippy::disallowed_methods, reason = "silence is measured here, in tokio's time")]
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

#[cfg(test)]
mod tests {
    use futures_util::poll;

    use super::*;

    fn enter<const N: usize>(limit: usize) -> [Partial; N] {
        let partials = Arc::new(Partials::new(limit));
        std::array::from_fn(|_| partials.enter())
    }

    // R-P17
    #[tokio::test(start_paused = true)]
    async fn past_the_limit_one_goes_on_at_a_time_and_nobody_gives_up() {
        let [first, second, third] = enter(100);
        first.admit(60).await;
        first.hold(60);
        second.admit(80).await;
        let mut waiting = std::pin::pin!(third.admit(50));
        assert!(poll!(&mut waiting).is_pending());
        second.hold(80);
        assert!(poll!(&mut waiting).is_pending(), "the overdraft is taken");
        // It finishes its record.
        second.hold(0);
        waiting.await;
        assert_eq!(third.partials.lock().total, 110);
        assert!(poll!(std::pin::pin!(first.evicted())).is_pending());
    }

    #[tokio::test(start_paused = true)]
    async fn while_others_wait_the_largest_silent_one_gives_up_and_no_other() {
        let [small, large, taker, waiter] = enter(100);
        small.admit(20).await;
        small.hold(20);
        large.admit(75).await;
        large.hold(75);
        taker.admit(30).await;
        tokio::time::advance(SILENCE).await;
        taker.hold(30);
        let mut waiting = std::pin::pin!(waiter.admit(20));
        assert!(poll!(&mut waiting).is_pending());
        tokio::select! {
            () = large.evicted() => large.hold(0),
            () = small.evicted() => panic!("a smaller one gave up"),
            () = taker.evicted() => panic!("a smaller one gave up"),
            () = &mut waiting => panic!("admitted past the limit"),
        }
        waiting.await;
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_waits_for_memory_keeps_nobody_from_room_but_keeps_its_turn_past_the_limit() {
        let [waiting, other, taker] = enter(100);
        waiting.admit(80).await;
        waiting.step_back(10);
        other.admit(90).await;
        taker.admit(60).await;
        taker.step_back(0);
        assert_eq!(taker.partials.lock().total, 160);
        assert!(waiting.try_admit(20, now()).is_err(), "the overdraft is taken");
        other.step_back(90);
        taker.hold(0);
        waiting.try_admit(10, now()).expect("there is room for it");
    }

    // R-P18
    #[tokio::test(start_paused = true)]
    async fn a_producer_that_goes_on_sending_is_not_silent_but_is_not_waited_for_for_ever() {
        let [slow, waiter] = enter(100);
        slow.admit(110).await;
        slow.hold(101);
        let mut waiting = std::pin::pin!(waiter.admit(60));
        let mut sent = 0;
        loop {
            tokio::select! {
                () = slow.evicted() => break,
                () = &mut waiting => panic!("admitted past the limit"),
                () = tokio::time::sleep(SILENCE / 2) => slow.hold(101 + sent),
            }
            sent += 1;
        }
        assert!((19..=20).contains(&sent), "given up after {sent} half seconds");
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_waits_for_memory_is_not_silent_and_one_that_gave_up_is_not_asked_at_once() {
        let [fed, hungry, taker, waiter] = enter(100);
        for partial in [&fed, &hungry] {
            partial.admit(40).await;
            partial.hold(40);
        }
        hungry.admit(50).await;
        taker.admit(40).await;
        tokio::time::advance(SILENCE).await;
        taker.hold(40);
        assert!(poll!(std::pin::pin!(waiter.admit(20))).is_pending());
        tokio::time::advance(SILENCE).await;
        assert!(poll!(std::pin::pin!(waiter.admit(20))).is_pending());
        assert!(poll!(std::pin::pin!(fed.evicted())).is_ready());
        assert!(poll!(std::pin::pin!(hungry.evicted())).is_pending());
        fed.hold(3);
        fed.gave_up();
        assert!(poll!(std::pin::pin!(fed.evicted())).is_pending());
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_leaves_makes_room() {
        let [first, taker, waiter] = enter(100);
        first.admit(90).await;
        first.hold(90);
        taker.admit(60).await;
        taker.hold(60);
        let mut waiting = std::pin::pin!(waiter.admit(20));
        assert!(poll!(&mut waiting).is_pending());
        drop(taker);
        waiting.await;
    }
}
