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

/// Large bodies under way.
#[derive(Debug, Default)]
pub(super) struct Bodies {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    under_way: usize,
    /// Of bodies that were done with. Together with what is lent it is no more than `peak`.
    spare: Vec<Vec<u8>>,
    /// Bytes that bodies have, and the most that they had at once since memory is kept.
    lent: usize,
    peak: usize,
    /// Bodies that came while others were under way.
    joined: u64,
    /// Memory is kept, until [`release`] gives it back.
    keeps: bool,
}

impl State {
    /// Memory for `length` bytes, and not for more than twice as many.
    fn lend(&mut self, length: usize) -> Vec<u8> {
        let fits = |spare: &Vec<u8>| (length..=2 * length).contains(&spare.capacity());
        let bytes = match self.spare.iter().position(fits) {
            Some(at) => self.spare.swap_remove(at),
            None => Vec::with_capacity(length),
        };
        self.lent += bytes.capacity();
        self.peak = self.peak.max(self.lent);
        while self.lent + self.spare.iter().map(Vec::capacity).sum::<usize>() > self.peak {
            self.spare.pop();
        }
        bytes
    }

    /// Takes back what was lent as so many bytes; what has grown since is not kept.
    fn give_back(&mut self, lent: usize, bytes: Vec<u8>) {
        self.lent -= lent;
        if self.keeps && bytes.capacity() == lent {
            self.spare.push(bytes);
        }
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
    /// Its capacity when it was lent.
    lent: usize,
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
        let mut bytes = self.bodies.lock().lend(length);
        let lent = bytes.capacity();
        bytes.clear();
        encode(&mut bytes);
        Bytes::from_owner(Kept { bytes, lent, bodies: Arc::clone(&self.bodies) })
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
            (state.spare, state.keeps, state.peak) = (Vec::new(), false, state.lent);
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
        self.bodies.lock().give_back(self.lent, std::mem::take(&mut self.bytes));
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
        let larger = body(&second, 101);
        let memory = larger.as_ptr();
        assert_eq!(larger.len(), 101, "of memory that is large enough");
        drop(larger);
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
    fn what_is_spare_and_what_is_lent_is_no_more_than_was_lent_at_once() {
        let mut state = State { keeps: true, ..State::default() };
        let two = [state.lend(600), state.lend(1000)];
        for bytes in two {
            state.give_back(bytes.capacity(), bytes);
        }
        let all = |state: &State| state.lent + state.spare.iter().map(Vec::capacity).sum::<usize>();
        assert_eq!((state.spare.len(), all(&state)), (2, 1600));
        let small = state.lend(100);
        assert_eq!(small.capacity(), 100, "it would waste what is much larger");
        assert!(all(&state) <= 1600, "{state:?}");
        let large = state.lend(1400);
        assert_eq!((state.spare.len(), all(&state)), (0, 1500));
        state.give_back(small.capacity(), small);
        state.give_back(large.capacity(), large);
        assert_eq!((state.lent, all(&state), state.peak), (0, 1500, 1600));
    }
}
