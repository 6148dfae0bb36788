//! Bodies of requests that are sent in the same turn, two by two, to be hashed in step.
//!
//! Whoever comes first lets the tasks and futures that are ready go on. The bodies that those bring wait for it, and it
//! hashes them with its own. Then all go on in the order in which they came. One that nobody joins is hashed alone.

use std::iter;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};
use tokio::task::yield_now;

use super::sha256;

/// Most bodies that join one; whoever comes then is the next first.
const MOST: usize = 7;

/// The way to whoever came first, if there is somebody.
#[derive(Debug, Default)]
pub(super) struct Pairs {
    first: Mutex<Option<mpsc::Sender<Joined>>>,
}

/// A body that is hashed by whoever came first, and who waits for its digest.
type Joined = (Bytes, oneshot::Sender<String>);

impl Pairs {
    /// The digest of `body`, as a signature has it.
    pub(super) async fn digest(&self, body: &Bytes) -> String {
        let first = self.lock().clone();
        if let Some(first) = first {
            let (digest, told) = oneshot::channel();
            if first.try_send((body.clone(), digest)).is_ok() {
                // Unless the first is given up.
                return told.await.unwrap_or_else(|_| sha256::digest(body));
            }
        }
        let (first, mut joined) = mpsc::channel(MOST);
        *self.lock() = Some(first);
        yield_now().await;
        joined.close();
        self.lock().take_if(|first| first.is_closed());
        let joined = iter::from_fn(|| joined.try_recv().ok());
        let (mut bodies, tell): (Vec<_>, Vec<_>) = joined.unzip();
        bodies.insert(0, body.clone());
        let mut digests = bodies.chunks(2).flat_map(|bodies| match bodies {
            [one, other] => Vec::from(sha256::digests([one, other])),
            rest => rest.iter().map(|body| sha256::digest(body)).collect(),
        });
        let ours = digests.next().unwrap_or_else(|| sha256::digest(body));
        for (tell, digest) in tell.into_iter().zip(digests) {
            tell.send(digest).ok();
        }
        ours
    }

    fn lock(&self) -> MutexGuard<'_, Option<mpsc::Sender<Joined>>> {
        self.first.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::future::join_all;
    use futures_util::stream::FuturesUnordered;
    use futures_util::{FutureExt, StreamExt};

    use super::*;

    fn bodies(count: usize) -> Vec<Bytes> {
        (0..count).map(|number| vec![b'a'; 1000 + number].into()).collect()
    }

    // R-B12
    #[tokio::test]
    async fn any_number_of_bodies_get_their_own_digests_and_none_is_kept() {
        for count in 0..20 {
            let (pairs, bodies) = (Pairs::default(), bodies(count));
            let digests = join_all(bodies.iter().map(|body| pairs.digest(body))).await;
            assert!(digests.into_iter().eq(bodies.iter().map(|body| sha256::digest(body))), "{count}");
            assert!(pairs.lock().is_none(), "{count}");
        }
    }

    // R-B12
    #[tokio::test]
    async fn bodies_of_a_turn_go_on_in_their_order() {
        let (pairs, bodies, order) = (Pairs::default(), bodies(5), Mutex::new(Vec::new()));
        let all: FuturesUnordered<_> = (0..5)
            .map(|number| {
                let (pairs, body, order) = (&pairs, &bodies[number], &order);
                async move {
                    pairs.digest(body).await;
                    order.lock().unwrap().push(number);
                }
            })
            .collect();
        all.collect::<()>().await;
        assert_eq!(order.into_inner().unwrap(), [0, 1, 2, 3, 4]);
    }

    // R-B12
    #[tokio::test]
    async fn those_that_joined_wait_for_the_first_and_have_their_digests_then() {
        let (pairs, bodies) = (Pairs::default(), bodies(4));
        let [mut first, mut second, mut third] =
            [0, 1, 2].map(|number| Box::pin(pairs.digest(&bodies[number])));
        for waiting in [&mut first, &mut second, &mut third] {
            assert!(waiting.now_or_never().is_none());
        }
        assert!((&mut second).now_or_never().is_none(), "the first has not been asked again");
        assert_eq!(first.await, sha256::digest(&bodies[0]));
        assert_eq!(second.now_or_never(), Some(sha256::digest(&bodies[1])));
        assert_eq!(third.now_or_never(), Some(sha256::digest(&bodies[2])));
    }

    // R-B12
    #[tokio::test]
    async fn whoever_is_left_alone_is_hashed_alone() {
        let (pairs, bodies) = (Pairs::default(), bodies(3));
        let mut first = Box::pin(pairs.digest(&bodies[0]));
        let mut second = Box::pin(pairs.digest(&bodies[1]));
        assert!((&mut first).now_or_never().is_none() && (&mut second).now_or_never().is_none());
        drop(first);
        assert_eq!(second.await, sha256::digest(&bodies[1]));
        // One that waits and is given up is no partner for the next.
        assert!(pairs.digest(&bodies[0]).now_or_never().is_none());
        assert_eq!(pairs.digest(&bodies[2]).await, sha256::digest(&bodies[2]));
        assert!(pairs.lock().is_none());
    }
}
