//! OTLP: what the real daemon exports is what it shows, collectors of every kind leave delivery
//! alone, and nothing leaves that should not.
//!
//! The collector is a small server that reads the official messages; one test has a collector that
//! is not ours (Rotel) in between.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

#[expect(
    clippy::disallowed_methods,
    reason = "what a collector still does at the end of a test ends with it"
)]
mod collector;
#[path = "../it/daemon.rs"]
#[allow(
    dead_code,
    unreachable_pub,
    clippy::disallowed_methods,
    reason = "what the integration tests share is more than is used here"
)]
mod daemon;
mod faults;
mod metrics;
#[path = "../peers/python.rs"]
#[allow(dead_code, reason = "what the tests with peers share is more than is used here")]
mod python;
mod relayed;
mod settings;
mod traces;

use std::ffi::OsStr;

use daemon::Daemon;

/// A daemon with a Unix socket listener named `app` that delivers to `endpoint`, and these
/// variables in its environment.
async fn daemon(endpoint: &str, variables: &[(&str, &str)], settings: &[&str]) -> Daemon {
    let directory = tempfile::tempdir().unwrap();
    let address = format!("listen.app.address=unix:{}", directory.path().join("app.sock").display());
    let endpoint = format!("endpoint_url={endpoint}");
    let mut command = daemon::hydrant();
    command.envs(variables.iter().map(|(name, value)| (OsStr::new(name), OsStr::new(value))));
    let all = [address.as_str(), endpoint.as_str(), "linger=5ms"];
    Daemon::run(command, directory, all.into_iter().chain(settings.iter().copied())).await
}
