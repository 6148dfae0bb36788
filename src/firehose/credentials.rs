//! Credentials that are renewed ahead of their end, off the send path.
//!
//! [`Credentials`] holds what its source gave last and hands it out without waiting. A task asks
//! the source again before the end comes; senders wait for it only while there is nothing valid.
//! At most one question to the source is under way at any time, whoever asked it.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials as Keys;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider, future};
use aws_smithy_async::time::SharedTimeSource;
use futures_util::FutureExt;
use futures_util::future::Shared;
use tokio::sync::Notify;
use tokio_util::task::AbortOnDropHandle;

/// Credentials are renewed this long before their end, or after half of their life where that is
/// later. EC2 hands out new ones at least five minutes before the old ones end
/// (<https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/instance-metadata-security-credentials.html>).
const AHEAD: Duration = Duration::from_secs(5 * 60);

/// Credentials are held at least this long before a renewal, so that a source that gives out old
/// ones is not asked without a pause.
const PAUSE: Duration = Duration::from_secs(5);

/// First and longest wait after a failed renewal.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// Longest sleep without a look at the clock, which jumps when a host was suspended.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);

/// When to renew credentials that were got at `now` and end at `end`; `chance` in 0 to 1 moves it
/// up to a tenth of the wait earlier, so that a fleet started together does not ask together.
fn renewal(now: SystemTime, end: SystemTime, chance: f64) -> SystemTime {
    let life = end.duration_since(now).unwrap_or_default();
    let wait = life.saturating_sub(AHEAD).max(life / 2);
    now + wait.mul_f64(1.0 - 0.1 * chance).max(PAUSE)
}

/// How long to wait after `failures` failures in a row, at least one; `chance` in 0 to 1 takes
/// off up to half.
fn backoff(failures: u32, chance: f64) -> Duration {
    let (first, longest) = RETRY;
    let doubled = first.saturating_mul(2_u32.saturating_pow(failures.saturating_sub(1)));
    doubled.min(longest).mul_f64(1.0 - 0.5 * chance)
}

/// Why there are no credentials; shared by all who waited for them.
pub(super) type SourceError = Arc<CredentialsError>;

type Fetch = Shared<Pin<Box<dyn Future<Output = Result<Held, SourceError>> + Send>>>;

#[derive(Debug, Clone)]
struct Held {
    keys: Keys,
    number: u64,
    /// `None` is never.
    renew: Option<SystemTime>,
}

impl Held {
    fn valid(&self, now: SystemTime) -> bool {
        self.keys.expiry().is_none_or(|end| now < end)
    }
}

#[derive(Debug, Default)]
struct State {
    held: Option<Held>,
    fetch: Option<Fetch>,
    fetched: u64,
}

#[derive(Debug)]
struct Inner {
    source: SharedCredentialsProvider,
    clock: SharedTimeSource,
    state: Mutex<State>,
    changed: Notify,
}

/// Which credentials a call was made with, to [`Credentials::invalidate`] exactly those.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Lease(u64);

/// The current credentials of one source. Clones share them; the last one stops the renewal.
#[derive(Debug, Clone)]
pub(super) struct Credentials {
    inner: Arc<Inner>,
    _renewal: Arc<AbortOnDropHandle<()>>,
}

impl Credentials {
    /// Starts to hold the credentials of `source`, which is asked at the first need.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    #[must_use]
    pub(super) fn new(source: SharedCredentialsProvider, clock: SharedTimeSource) -> Self {
        let inner = Arc::new(Inner { source, clock, state: Mutex::default(), changed: Notify::new() });
        #[expect(clippy::disallowed_methods, reason = "ends with the last clone, and nothing waits for it")]
        let renewal = tokio::spawn(Arc::clone(&inner).renew());
        Self { inner, _renewal: Arc::new(AbortOnDropHandle::new(renewal)) }
    }

    /// Waits until there are valid credentials, not at all in the usual case.
    ///
    /// # Errors
    ///
    /// What the source answered, if it was asked now and had none.
    ///
    /// # Cancel safety
    ///
    /// The question to the source goes on for others who wait.
    pub(super) async fn ready(&self) -> Result<Lease, SourceError> {
        self.inner.current().await.map(|held| Lease(held.number))
    }

    /// Forgets the credentials of `lease`, which the service did not take, unless others have
    /// replaced them already.
    pub(super) fn invalidate(&self, lease: Lease) {
        self.inner.with(|state| {
            state.held.take_if(|held| held.number == lease.0);
        });
        self.inner.changed.notify_one();
    }

    /// The credentials themselves.
    ///
    /// # Errors
    ///
    /// As [`Self::ready`].
    pub(super) async fn keys(&self) -> Result<Keys, SourceError> {
        self.inner.current().await.map(|held| held.keys)
    }
}

impl Inner {
    fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        // No code that runs under this lock panics half way through a change.
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    async fn current(self: &Arc<Self>) -> Result<Held, SourceError> {
        let now = self.clock.now();
        match self.with(|state| state.held.clone().filter(|held| held.valid(now))) {
            Some(held) => Ok(held),
            None => self.fetch().await,
        }
    }

    /// The one question to the source that is under way, or a new one.
    fn fetch(self: &Arc<Self>) -> Fetch {
        self.with(|state| {
            let begin = || Arc::clone(self).ask().boxed().shared();
            state.fetch.get_or_insert_with(begin).clone()
        })
    }

    async fn ask(self: Arc<Self>) -> Result<Held, SourceError> {
        let answer = self.source.provide_credentials().await;
        let now = self.clock.now();
        let held = self.with(|state| {
            state.fetch = None;
            let keys = answer.map_err(Arc::new)?;
            state.fetched += 1;
            let renew = keys.expiry().map(|end| renewal(now, end, fastrand::f64()));
            let held = Held { keys, number: state.fetched, renew };
            state.held = Some(held.clone());
            Ok(held)
        });
        self.changed.notify_one();
        held
    }

    /// Asks the source whenever a renewal is due, for ever.
    async fn renew(self: Arc<Self>) {
        let mut failures = 0;
        loop {
            let now = self.clock.now();
            let due = self.with(|state| state.held.as_ref().and_then(|held| held.renew));
            let wait = due.map(|due| due.duration_since(now).unwrap_or_default());
            match wait {
                Some(Duration::ZERO) => match self.fetch().await {
                    Ok(_) => failures = 0,
                    Err(error) => {
                        failures += 1;
                        let delay = backoff(failures, fastrand::f64());
                        tracing::warn!(%error, failures, ?delay, "Credentials could not be renewed.");
                        tokio::time::sleep(delay).await;
                    }
                },
                Some(wait) => {
                    // Changed or not, the next round looks at what is due.
                    tokio::time::timeout(wait.min(LONGEST_SLEEP), self.changed.notified()).await.ok();
                }
                None => self.changed.notified().await,
            }
        }
    }
}

impl ProvideCredentials for Credentials {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        // Those who must tell the source's errors apart ask `ready` first.
        future::ProvideCredentials::new(async { self.keys().await.map_err(CredentialsError::provider_error) })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use aws_smithy_async::time::TimeSource;
    use proptest::prelude::*;
    use tokio::time::Instant;

    use super::*;

    const START: SystemTime = SystemTime::UNIX_EPOCH;

    #[test]
    fn credentials_are_renewed_five_minutes_before_their_end_or_at_half_of_a_short_life() {
        let check = |life, chance, expected| {
            let renew = renewal(START, START + Duration::from_secs(life), chance);
            assert_eq!(renew, START + Duration::from_secs(expected), "a life of {life} s, {chance}");
        };
        check(3600, 0.0, 3300);
        check(3600, 1.0, 2970);
        check(600, 0.0, 300);
        check(400, 0.0, 200);
        check(0, 0.0, 5);
    }

    #[test]
    fn failures_are_waited_out_for_longer_and_longer() {
        let check = |failures, chance, expected| {
            assert_eq!(backoff(failures, chance), Duration::from_millis(expected), "{failures} {chance}");
        };
        check(1, 0.0, 1_000);
        check(1, 1.0, 500);
        check(3, 0.0, 4_000);
        check(7, 0.0, 60_000);
        check(u32::MAX, 1.0, 30_000);
    }

    proptest! {
        #[test]
        fn a_renewal_comes_before_the_end_of_any_but_the_shortest_life(life in 10_u64..1_000_000, chance in 0.0..1.0) {
            let end = START + Duration::from_secs(life);
            let renew = renewal(START, end, chance);
            prop_assert!(START < renew && renew < end);
        }
    }

    /// Tokio's paused clock as the time of day.
    #[derive(Debug)]
    struct Clock(Instant);

    impl Clock {
        #[expect(clippy::disallowed_methods, reason = "this is the clock")]
        fn start() -> Self {
            Self(Instant::now())
        }
    }

    impl TimeSource for Clock {
        fn now(&self) -> SystemTime {
            START + self.0.elapsed()
        }
    }

    /// Counts what it is asked, fails the questions in `failing`, and answers with keys that live
    /// for an hour and are named after the question.
    #[derive(Debug)]
    struct Source {
        asked: Arc<AtomicUsize>,
        failing: std::ops::Range<usize>,
        clock: SharedTimeSource,
    }

    impl ProvideCredentials for Source {
        fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
        where
            Self: 'a,
        {
            future::ProvideCredentials::new(async {
                tokio::time::sleep(Duration::from_millis(10)).await;
                let question = self.asked.fetch_add(1, Ordering::Relaxed);
                if self.failing.contains(&question) {
                    return Err(CredentialsError::provider_error("the source is down"));
                }
                let end = self.clock.now() + Duration::from_secs(3600);
                Ok(Keys::new(format!("key{question}"), "secret", None, Some(end), "test"))
            })
        }
    }

    fn credentials(failing: std::ops::Range<usize>) -> (Credentials, Arc<AtomicUsize>) {
        let clock = SharedTimeSource::new(Clock::start());
        let asked = Arc::new(AtomicUsize::new(0));
        let source = Source { asked: Arc::clone(&asked), failing, clock: clock.clone() };
        (Credentials::new(SharedCredentialsProvider::new(source), clock), asked)
    }

    async fn key(credentials: &Credentials) -> String {
        credentials.keys().await.expect("the source has answered").access_key_id().to_owned()
    }

    #[tokio::test(start_paused = true)]
    async fn all_who_wait_share_one_question() {
        let (credentials, asked) = credentials(0..0);
        let waiting = (0..20).map(|_| key(&credentials));
        let keys = futures_util::future::join_all(waiting).await;
        assert_eq!((keys, asked.load(Ordering::Relaxed)), (vec!["key0".to_owned(); 20], 1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_is_told_to_all_who_waited_and_the_next_one_asks_again() {
        let (credentials, asked) = credentials(0..1);
        let results = futures_util::future::join_all((0..3).map(|_| credentials.ready())).await;
        assert!(results.iter().all(Result::is_err));
        assert_eq!((asked.load(Ordering::Relaxed), key(&credentials).await), (1, "key1".to_owned()));
    }

    // R-E14
    #[tokio::test(start_paused = true)]
    async fn credentials_are_replaced_before_they_end_without_anyone_asking() {
        let (credentials, _) = credentials(0..0);
        assert_eq!(key(&credentials).await, "key0");
        tokio::time::sleep(Duration::from_secs(3400)).await;
        let ready = credentials.ready().now_or_never();
        assert!(ready.is_some_and(|ready| ready.is_ok()), "nobody waits for a renewal");
        assert_eq!(key(&credentials).await, "key1");
    }

    // R-E14
    #[tokio::test(start_paused = true)]
    async fn old_credentials_serve_to_their_end_while_their_source_fails_and_is_asked_again() {
        let check = async |failing, expected| {
            let (credentials, asked) = credentials(failing);
            assert_eq!(key(&credentials).await, "key0");
            tokio::time::sleep(Duration::from_secs(3599)).await;
            assert_eq!(key(&credentials).await, expected);
            assert!(asked.load(Ordering::Relaxed) >= 5);
        };
        check(1..usize::MAX, "key0").await;
        check(1..4, "key4").await;
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_service_did_not_take_is_given_up_once() {
        let (credentials, asked) = credentials(0..0);
        let first = credentials.ready().await.expect("the source answers");
        credentials.invalidate(first);
        assert_eq!(key(&credentials).await, "key1");
        credentials.invalidate(first);
        assert_eq!((key(&credentials).await, asked.load(Ordering::Relaxed)), ("key1".to_owned(), 2));
    }
}
