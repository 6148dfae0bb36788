//! The `hydrant` command.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    hydrant::cli::Cli::parse().execute()
}
