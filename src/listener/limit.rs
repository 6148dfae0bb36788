//! The bytes that a listener takes a second: its connections take turns at one bucket (`rate`).

use std::num::NonZeroU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::rate::Bucket;
use crate::telemetry::now;
use crate::telemetry::quiet::Quiet;

/// What the connections of one listener may read, over all its sockets.
#[derive(Debug)]
pub(super) struct Limit {
    listener: Arc<str>,
    /// None without a limit.
    bucket: Mutex<Option<Bucket>>,
    /// Whoever waits, in the order in which they came: a tokio lock is fair.
    turn: tokio::sync::Mutex<()>,
    changed: Notify,
    quiet: Mutex<Quiet>,
}

/// Bytes that may be read. What is not goes back when it is dropped.
#[derive(Debug)]
pub(super) struct Allowance {
    limit: Arc<Limit>,
    bytes: u64,
}

impl Limit {
    pub(super) fn new(listener: Arc<str>, bytes_per_second: Option<NonZeroU64>) -> Self {
        Self {
            listener,
            bucket: Mutex::new(bytes_per_second.map(Bucket::new)),
            turn: tokio::sync::Mutex::new(()),
            changed: Notify::new(),
            quiet: Mutex::new(Quiet::new(1, Duration::from_secs(60))),
        }
    }

    /// Goes for whoever waits, too.
    pub(super) fn set(&self, bytes_per_second: Option<NonZeroU64>) {
        let mut bucket = self.bucket();
        match (&mut *bucket, bytes_per_second) {
            (Some(bucket), Some(bytes_per_second)) => bucket.set(bytes_per_second),
            (bucket, bytes_per_second) => *bucket = bytes_per_second.map(Bucket::new),
        }
        drop(bucket);
        self.changed.notify_waiters();
    }

    pub(super) fn is_on(&self) -> bool {
        self.bucket().is_some()
    }

    /// Leave to read up to `most` bytes, in one's turn; none without a limit.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future gives up the place in the queue and nothing else.
    pub(super) async fn take(self: &Arc<Self>, most: usize) -> Option<Allowance> {
        let most = u64::try_from(most).unwrap_or(u64::MAX);
        let bytes = self.in_turn(|bucket, now| bucket.take(most, now)).await?;
        Some(Allowance { limit: Arc::clone(self), bytes })
    }

    /// Waits until `bytes` may come at once.
    ///
    /// # Cancel safety
    ///
    /// As [`Limit::take`].
    pub(super) async fn charge(&self, bytes: u64) {
        self.in_turn(|bucket, now| bucket.charge(bytes, now)).await.unwrap_or_default();
    }

    /// Counts bytes that came without being asked for.
    pub(super) fn owe(&self, bytes: usize) {
        if let Some(bucket) = &mut *self.bucket() {
            bucket.owe(u64::try_from(bytes).unwrap_or(u64::MAX), now());
        }
    }

    /// What `take` gives, once it gives something; none without a limit.
    async fn in_turn<T>(
        &self,
        mut take: impl FnMut(&mut Bucket, Instant) -> Result<T, Instant>,
    ) -> Option<T> {
        if !self.is_on() {
            return None;
        }
        let _turn = self.turn.lock().await;
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            // From here on no change is missed.
            changed.as_mut().enable();
            let (at, bytes_per_second) = {
                let mut bucket = self.bucket();
                let bucket = bucket.as_mut()?;
                match take(bucket, now()) {
                    Ok(taken) => return Some(taken),
                    Err(at) => (at, bucket.bytes_per_second()),
                }
            };
            self.say(bytes_per_second);
            tokio::select! {
                () = changed => {}
                () = tokio::time::sleep_until(at.into()) => {}
            }
        }
    }

    fn say(&self, max_bytes_per_second: u64) {
        let say = self.quiet.lock().unwrap_or_else(PoisonError::into_inner).say(now());
        if let Some(suppressed) = say {
            let listener = &*self.listener;
            tracing::info!(
                listener,
                max_bytes_per_second,
                suppressed,
                "Producers wait for the listener's limit."
            );
        }
    }

    fn bucket(&self) -> MutexGuard<'_, Option<Bucket>> {
        self.bucket.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Allowance {
    /// Most bytes that may be read.
    pub(super) fn bytes(&self) -> usize {
        usize::try_from(self.bytes).unwrap_or(usize::MAX)
    }

    /// Says that so many were.
    pub(super) fn spend(mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_sub(u64::try_from(bytes).unwrap_or(u64::MAX));
    }
}

impl Drop for Allowance {
    fn drop(&mut self) {
        if let Some(bucket) = &mut *self.limit.bucket() {
            bucket.give_back(self.bytes);
        }
    }
}
