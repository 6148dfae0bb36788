//! Tells the service manager how the daemon fares, where there is one that listens.
//!
//! Protocol: <https://www.freedesktop.org/software/systemd/man/latest/sd_notify.html>. Without
//! `NOTIFY_SOCKET` every call does nothing.

use std::time::Duration;

use sd_notify::NotifyState;

/// What is added to `shutdown.drain` when more time to stop is asked for: the last words to
/// producers and the last publication come after it.
const AFTER_DRAIN: Duration = Duration::from_secs(5);

/// The way to the service manager.
#[derive(Debug)]
pub struct Notifier {
    heard: bool,
    watchdog: Option<Duration>,
}

impl Notifier {
    /// The service manager of this process.
    #[must_use]
    pub fn of_process() -> Self {
        Self {
            heard: std::env::var_os("NOTIFY_SOCKET").is_some_and(|path| !path.is_empty()),
            watchdog: sd_notify::watchdog_enabled(),
        }
    }

    /// One that tells nobody.
    #[must_use]
    pub fn silent() -> Self {
        Self { heard: false, watchdog: None }
    }

    /// Whether anybody listens.
    #[must_use]
    pub fn is_heard(&self) -> bool {
        self.heard
    }

    /// How often the service manager wants to hear that the daemon lives: half of the time after
    /// which it would kill it. `None` where it does not watch.
    #[must_use]
    pub fn watch_every(&self) -> Option<Duration> {
        self.watchdog.filter(|_| self.heard).map(|limit| limit / 2)
    }

    /// Every address is taken: producers can connect.
    pub fn ready(&self) {
        self.tell(&[NotifyState::Ready]);
    }

    /// One line about what the daemon does.
    pub fn status(&self, status: &str) {
        self.tell(&[NotifyState::Status(status)]);
    }

    /// The daemon makes progress.
    pub fn alive(&self) {
        self.tell(&[NotifyState::Watchdog]);
    }

    /// The daemon stops, which takes as long as `drain` and a little more.
    pub fn stopping(&self, drain: Duration) {
        let micros = u32::try_from((drain + AFTER_DRAIN).as_micros()).unwrap_or(u32::MAX);
        self.tell(&[
            NotifyState::Stopping,
            NotifyState::ExtendTimeoutUsec(micros),
            NotifyState::Status("delivering what is held"),
        ]);
    }

    /// The configuration is looked at again, and that is over when `look` is.
    pub fn reload(&self, look: impl FnOnce()) {
        // The manager wants to know which reload this is about: the time tells.
        if let (true, Ok(now)) = (self.heard, NotifyState::monotonic_usec_now()) {
            self.tell(&[NotifyState::Reloading, now]);
        }
        look();
        self.tell(&[NotifyState::Ready]);
    }

    fn tell(&self, states: &[NotifyState<'_>]) {
        if self.heard
            && let Err(error) = sd_notify::notify(states)
        {
            tracing::debug!(%error, "The service manager could not be told.");
        }
    }
}
