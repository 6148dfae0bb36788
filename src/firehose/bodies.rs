//! The memory of large request bodies, which requests one behind the other pass on.
//!
//! The kernel hands pages out filled with zeros and takes them back: for each request of several MiB
//! that costs more than its base64. So where large bodies are under way together, and for a moment after, their
//! memory is kept for the next ones. One that is alone needs none: it can be encoded while it is sent,
//! which costs more time, of which there is then enough, and no memory.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::runtime::Handle;

/// How long memory is kept after bodies were under way together, and as long again at most. At full speed they are
/// again within milliseconds, at what a stream's quota allows hardly ever.
const KEPT_FOR: Duration = Duration::from_secs(1);
/// Most bytes of memory that wait for a body: one of a full request (`encoded_len` of 4 MiB in 500 records).
const MOST_SPARE: usize = 5_700_000;

/// Large bodies under way.
#[derive(Debug, Default)]
pub(super) struct Bodies {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    under_way: usize,
    /// Of bodies that were done with, [`MOST_SPARE`] bytes at most.
    spare: Vec<Vec<u8>>,
    /// Bodies that came while others were under way.
    joined: u64,
    /// Memory is kept, until [`release`] gives it back.
    keeps: bool,
}

impl State {
    /// Memory for `length` bytes that came free.
    fn take(&mut self, length: usize) -> Option<Vec<u8>> {
        let at = self.spare.iter().position(|spare| spare.capacity() >= length)?;
        Some(self.spare.swap_remove(at))
    }

    /// Keeps `bytes` for the next body, and of those before as many as fit beside it.
    fn keep(&mut self, bytes: Vec<u8>) {
        let mut room = MOST_SPARE.saturating_sub(bytes.capacity());
        self.spare.retain(|spare| match room.checked_sub(spare.capacity()) {
            Some(left) => {
                room = left;
                true
            }
            None => false,
        });
        self.spare.push(bytes);
    }
}

/// One large body's, until its request is answered.
#[derive(Debug)]
pub(super) struct Place {
    bodies: Arc<Bodies>,
    is_alone: bool,
}

/// A body whose memory goes to the next one.
struct Kept {
    bytes: Vec<u8>,
    bodies: Arc<Bodies>,
}

impl Bodies {
    /// A place for another one.
    pub(super) fn enter(self: &Arc<Self>) -> Place {
        let mut state = self.lock();
        let is_alone = state.under_way == 0 && !state.keeps;
        if state.under_way > 0 {
            state.joined += 1;
            if !state.keeps
                && let Ok(runtime) = Handle::try_current()
            {
                state.keeps = true;
                drop(runtime.spawn(release(Arc::clone(self))));
            }
        }
        state.under_way += 1;
        Place { bodies: Arc::clone(self), is_alone }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// No other large body was under way, nor a moment ago.
    pub(super) fn is_alone(&self) -> bool {
        self.is_alone
    }

    /// The body that `encode` appends to memory for `length` bytes.
    pub(super) fn whole(&self, length: usize, encode: impl FnOnce(&mut Vec<u8>)) -> Bytes {
        let spare = self.bodies.lock().take(length);
        let mut bytes = spare.unwrap_or_else(|| Vec::with_capacity(length));
        bytes.clear();
        encode(&mut bytes);
        Bytes::from_owner(Kept { bytes, bodies: Arc::clone(&self.bodies) })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.bodies.lock().under_way -= 1;
    }
}

/// Gives memory back once no bodies were under way together for a while.
async fn release(bodies: Arc<Bodies>) {
    let mut joined = bodies.lock().joined;
    loop {
        tokio::time::sleep(KEPT_FOR).await;
        let mut state = bodies.lock();
        if std::mem::replace(&mut joined, state.joined) == state.joined {
            (state.spare, state.keeps) = (Vec::new(), false);
            return;
        }
    }
}

impl AsRef<[u8]> for Kept {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        let mut state = self.bodies.lock();
        if state.keeps {
            state.keep(std::mem::take(&mut self.bytes));
        }
    }
}

/// The pieces of one body, whose memory goes round.
#[derive(Debug, Default)]
pub(super) struct Round {
    spare: Mutex<Vec<Vec<u8>>>,
}

/// A piece that comes back when it was sent.
struct Lent {
    bytes: Vec<u8>,
    round: Arc<Round>,
}

impl Round {
    /// The piece that `fill` appends to memory for `length` bytes.
    pub(super) fn piece(self: &Arc<Self>, length: usize, fill: impl FnOnce(&mut Vec<u8>)) -> Bytes {
        let spare = self.lock().pop();
        let mut bytes = spare.unwrap_or_else(|| Vec::with_capacity(length));
        bytes.clear();
        fill(&mut bytes);
        Bytes::from_owner(Lent { bytes, round: Arc::clone(self) })
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Vec<u8>>> {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.round.lock().push(std::mem::take(&mut self.bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(place: &Place, length: usize) -> Bytes {
        place.whole(length, |bytes| bytes.resize(length, b'x'))
    }

    #[test]
    fn pieces_that_were_sent_are_the_memory_of_the_next_ones() {
        let round: Arc<Round> = Arc::default();
        let piece = |byte| round.piece(100, |bytes| bytes.resize(100, byte));
        let (first, second) = (piece(b'a'), piece(b'b'));
        assert_ne!(first.as_ptr(), second.as_ptr());
        let memory = first.as_ptr();
        drop(first);
        let third = piece(b'c');
        assert_eq!((third.as_ptr(), &third[..], &second[..]), (memory, &[b'c'; 100][..], &[b'b'; 100][..]));
    }

    // R-B6
    #[tokio::test(start_paused = true)]
    async fn memory_goes_from_body_to_body_and_none_is_kept_for_long_when_none_is_under_way() {
        let bodies: Arc<Bodies> = Arc::default();
        let (first, second) = (bodies.enter(), bodies.enter());
        assert!(first.is_alone() && !second.is_alone());
        let bytes = body(&second, 100);
        let memory = bytes.as_ptr();
        drop(bytes);
        let smaller = body(&second, 90);
        assert_eq!((smaller.as_ptr(), &smaller[..]), (memory, &[b'x'; 90][..]));
        drop(smaller);
        assert_eq!(body(&second, 101).len(), 101, "of memory that is large enough");
        drop((first, second));
        tokio::time::sleep(KEPT_FOR / 2).await;
        let third = bodies.enter();
        assert!(!third.is_alone());
        assert_eq!(body(&third, 100).as_ptr(), memory);
        drop(third);
        // However many come one by one.
        for _ in 0..5 {
            tokio::time::sleep(KEPT_FOR / 2).await;
            drop(bodies.enter());
        }
        assert!(bodies.lock().spare.is_empty());
        let alone = bodies.enter();
        drop(body(&alone, 100));
        assert!(alone.is_alone() && bodies.lock().spare.is_empty());
        drop(alone);
        assert!(bodies.enter().is_alone());
    }

    // R-B6
    #[test]
    fn what_is_spare_is_no_more_than_one_full_body() {
        let mut state = State::default();
        for _ in 0..10 {
            state.keep(Vec::with_capacity(1_000_000));
        }
        assert_eq!(state.spare.len(), 5);
        state.keep(Vec::with_capacity(MOST_SPARE));
        assert_eq!(state.spare.len(), 1);
        assert!(state.take(MOST_SPARE + 1).is_none());
        assert!(state.take(10).is_some_and(|bytes| bytes.capacity() == MOST_SPARE));
    }
}
