//! `hydrant top`: a running daemon, watched in a terminal.
//!
//! It reads `/status` and `/history` of the admin listener and knows nothing else. `client` asks,
//! `model` is what is known, `rows` says it in words, `view` finds a place for it on the screen, and
//! `session` changes it by what happens.

use std::time::Duration;

#[cfg(not(feature = "top"))]
use super::options::say;
use crate::config::{Address, connect_address};

#[cfg(feature = "top")]
pub mod client;
#[cfg(feature = "top")]
pub mod model;
#[cfg(feature = "top")]
pub mod rows;
#[cfg(feature = "top")]
mod run;
#[cfg(feature = "top")]
pub mod screen;
#[cfg(feature = "top")]
pub mod session;
#[cfg(test)]
mod tests;
#[cfg(feature = "top")]
pub mod theme;
#[cfg(feature = "top")]
pub mod view;
#[cfg(feature = "top")]
pub mod words;

/// The times between two looks that make sense.
const EVERY: std::ops::RangeInclusive<Duration> = Duration::from_millis(250)..=Duration::from_secs(3600);

/// Watches a running hydrant in the terminal; where standard output is none, prints how things stand
#[derive(Debug, clap::Args)]
#[command(after_help = "Keys: q, Esc or Ctrl-C quit; p holds the screen still; ? explains the words.\n\n\
                        Example:\n  hydrant top --admin unix:/run/hydrant/admin.sock --every 1s")]
pub struct Args {
    /// The daemon's admin.address: unix:PATH, tcp:PORT or tcp:HOST:PORT
    #[arg(long, value_name = "ADDRESS", default_value = "tcp:127.0.0.1:9464", value_parser = connect_address)]
    admin: Address,
    /// Time between two looks, from 250ms to 1h
    #[arg(long, value_name = "DUR", default_value = "2s", value_parser = every)]
    every: Duration,
    /// Print how things stand, in plain text, and end
    #[arg(long)]
    once: bool,
}

fn every(text: &str) -> Result<Duration, String> {
    let every = humantime::parse_duration(text).ok().filter(|every| EVERY.contains(every));
    every.ok_or_else(|| "must be a duration from 250ms to 1h, such as \"2s\"".to_owned())
}

/// Runs the command; returns the exit code.
#[cfg(feature = "top")]
pub fn execute(args: Args) -> u8 {
    run::execute(&args)
}

/// Says that this build can't run the command; returns the exit code.
#[cfg(not(feature = "top"))]
pub fn execute(Args { admin, .. }: Args) -> u8 {
    say(&format!(
        "error: this build of hydrant has no terminal view: build it with `--features top`, or read what GET \
         /status answers at {admin}"
    ));
    super::FAILED
}
