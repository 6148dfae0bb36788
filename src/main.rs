//! The `hydrant` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    hydrant::cli::Cli::of_process().execute()
}
