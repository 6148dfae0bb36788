//! Bodies of requests that are sent in the same turn, two by two, to be hashed in step.
//!
//! Whoever comes first lets the tasks and futures that are ready go on. If another body comes meanwhile, whoever brings
//! it hashes both; if none does, the first is hashed alone.

use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::oneshot;
use tokio::task::yield_now;

use super::sha256;

/// The one body that waits, if there is one.
#[derive(Debug, Default)]
pub(super) struct Pairs {
    first: Mutex<Option<First>>,
}

#[derive(Debug)]
struct First {
    body: Bytes,
    digest: oneshot::Sender<String>,
}

impl Pairs {
    /// The digest of `body`, as a signature has it.
    pub(super) async fn digest(&self, body: &Bytes) -> String {
        let first = self.lock().take().filter(|first| !first.digest.is_closed());
        if let Some(First { body: theirs, digest }) = first {
            let [theirs, ours] = sha256::hex_of_two([&theirs, body]);
            digest.send(theirs).ok();
            return ours;
        }
        let (digest, mut told) = oneshot::channel();
        *self.lock() = Some(First { body: body.clone(), digest });
        yield_now().await;
        told.close();
        self.lock().take_if(|first| first.digest.is_closed());
        told.try_recv().unwrap_or_else(|_| sha256::hex(body))
    }

    fn lock(&self) -> MutexGuard<'_, Option<First>> {
        self.first.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::future::join_all;
    use futures_util::{FutureExt, StreamExt, stream::FuturesUnordered};

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
    async fn the_second_of_a_turn_brings_the_digest_of_the_first() {
        let (pairs, bodies) = (Pairs::default(), bodies(2));
        let mut digests: FuturesUnordered<_> = bodies.iter().map(|body| pairs.digest(body)).collect();
        let mut first = digests.next().now_or_never().flatten().expect("the second waits for nobody");
        assert_eq!(first, sha256::hex(&bodies[1]));
        first = digests.next().await.expect("there are two");
        assert_eq!(first, sha256::hex(&bodies[0]));
    }

    #[tokio::test]
    async fn one_that_was_given_up_is_no_partner() {
        let (pairs, bodies) = (Pairs::default(), bodies(2));
        assert!(pairs.digest(&bodies[0]).now_or_never().is_none(), "it waits");
        let mut second = Box::pin(pairs.digest(&bodies[1]));
        assert!((&mut second).now_or_never().is_none(), "it waits, too");
        assert_eq!(second.await, sha256::hex(&bodies[1]));
    }
}
