//! Bodies of requests that are sent in the same turn, two by two, to be hashed in step.
//!
//! Whoever comes first lets the tasks and futures that are ready go on. If another body comes meanwhile, the first one
//! hashes both and goes on first; if none does, it is hashed alone.

use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::oneshot;
use tokio::task::yield_now;

use super::sha256;

/// Whoever came first and has no other yet, if there is one.
#[derive(Debug, Default)]
pub(super) struct Pairs {
    first: Mutex<Option<oneshot::Sender<Second>>>,
}

/// The other body, and who waits for its digest.
#[derive(Debug)]
struct Second {
    body: Bytes,
    digest: oneshot::Sender<String>,
}

impl Pairs {
    /// The digest of `body`, as a signature has it.
    pub(super) async fn digest(&self, body: &Bytes) -> String {
        let first = self.lock().take();
        if let Some(first) = first {
            let (digest, told) = oneshot::channel();
            if first.send(Second { body: body.clone(), digest }).is_ok() {
                // Unless the first was given up.
                return told.await.unwrap_or_else(|_| sha256::hex(body));
            }
        }
        let (first, mut second) = oneshot::channel();
        *self.lock() = Some(first);
        yield_now().await;
        second.close();
        self.lock().take_if(|first| first.is_closed());
        let Ok(Second { body: other, digest: tell }) = second.try_recv() else { return sha256::hex(body) };
        let [ours, theirs] = sha256::hex_of_two([body, &other]);
        tell.send(theirs).ok();
        ours
    }

    fn lock(&self) -> MutexGuard<'_, Option<oneshot::Sender<Second>>> {
        self.first.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use futures_util::future::join_all;

    use super::*;

    fn bodies(count: usize) -> Vec<Bytes> {
        (0..count).map(|number| vec![b'a'; 1000 + number].into()).collect()
    }

    // R-B12
    #[tokio::test]
    async fn any_number_of_bodies_get_their_own_digests_and_none_is_kept() {
        for count in 0..6 {
            let (pairs, bodies) = (Pairs::default(), bodies(count));
            let digests = join_all(bodies.iter().map(|body| pairs.digest(body))).await;
            assert!(digests.into_iter().eq(bodies.iter().map(|body| sha256::hex(body))), "{count}");
            assert!(pairs.lock().is_none(), "{count}");
        }
    }

    // R-B12
    #[tokio::test]
    async fn two_of_a_turn_go_on_in_their_order_and_the_first_brings_both_digests() {
        let (pairs, bodies) = (Pairs::default(), bodies(2));
        let [one, other] = [&bodies[0], &bodies[1]].map(|body| Box::pin(pairs.digest(body)));
        let (mut one, mut other) = (one, other);
        assert!((&mut one).now_or_never().is_none() && (&mut other).now_or_never().is_none(), "both wait");
        assert!((&mut other).now_or_never().is_none(), "the first has not been asked again");
        assert_eq!(one.await, sha256::hex(&bodies[0]));
        assert_eq!(other.now_or_never(), Some(sha256::hex(&bodies[1])));
    }

    // R-B12
    #[tokio::test]
    async fn whoever_is_left_alone_is_hashed_alone() {
        let (pairs, bodies) = (Pairs::default(), bodies(3));
        let mut first = Box::pin(pairs.digest(&bodies[0]));
        let mut second = Box::pin(pairs.digest(&bodies[1]));
        assert!((&mut first).now_or_never().is_none() && (&mut second).now_or_never().is_none());
        drop(first);
        assert_eq!(second.await, sha256::hex(&bodies[1]));
        // One that waits and is given up is no partner for the next.
        assert!(pairs.digest(&bodies[0]).now_or_never().is_none());
        assert_eq!(pairs.digest(&bodies[2]).await, sha256::hex(&bodies[2]));
        assert!(pairs.lock().is_none());
    }
}
