//! The command line: one file a command.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

pub mod check;
pub mod demo;
pub mod doctor;
pub mod local;
pub mod put;
pub mod run;
pub mod schema;
pub mod send;

/// Gets an application's records into Amazon Data Firehose: nothing lost, nothing wasted.
#[derive(Debug, Parser)]
#[command(name = "hydrant", version, disable_help_subcommand = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::Args),
    Demo(demo::Args),
    Local(Box<local::Args>),
    Check(check::Args),
    Doctor(doctor::Args),
    Put(put::Args),
    Send(send::Args),
    Schema(schema::Args),
}

/// Done.
pub const DONE: u8 = 0;
/// Failed while running.
pub const FAILED: u8 = 1;
/// Wrong usage or configuration.
pub const USAGE: u8 = 2;

impl Cli {
    /// Runs the command to its end.
    #[must_use]
    pub fn execute(self) -> ExitCode {
        ExitCode::from(match self.command {
            Command::Run(args) => run::execute(args),
            Command::Demo(args) => demo::execute(args),
            Command::Local(args) => local::execute(*args),
            Command::Check(args) => check::execute(args),
            Command::Doctor(args) => doctor::execute(args),
            Command::Put(args) => put::execute(args),
            Command::Send(args) => send::execute(args),
            Command::Schema(args) => schema::execute(args),
        })
    }
}
