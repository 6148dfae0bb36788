//! `hydrant doctor`.

/// Arguments of `hydrant doctor`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs the command; returns the exit code.
pub fn execute(args: Args) -> u8 {
    let Args {} = args;
    super::FAILED
}
