//! What the daemon says of itself: figures, log, clock.

pub mod exposition;
pub mod families;
pub mod figures;
pub mod histogram;
pub mod history;
pub mod log;
pub mod otlp;
pub mod process;
pub mod quiet;
pub mod stream;

use std::time::Instant;

/// The time: tokio's clock, so that tests can pause it.
///
/// The one place where shells read it; pure code takes `now` as an argument.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "the one place that reads the clock")]
pub fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// The wall clock, for what is written down for humans.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "the one place that reads the wall clock")]
pub fn wall_clock() -> std::time::SystemTime {
    std::time::SystemTime::now()
}
