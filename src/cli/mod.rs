//! The command line: one file a command.

use std::fs::OpenOptions;
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, Subcommand};

pub mod ask;
pub mod check;
pub mod dead_letter;
pub mod demo;
pub mod doctor;
pub mod estimate;
pub mod generate;
pub mod health;
pub mod local;
pub mod options;
pub mod put;
pub mod run;
pub mod schema;
pub mod send;
pub mod spool;
pub mod status;
pub mod top;

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
    Estimate(Box<estimate::Args>),
    Health(health::Args),
    Put(put::Args),
    Send(send::Args),
    DeadLetter(dead_letter::Args),
    Spool(spool::Args),
    Status(status::Args),
    Schema(schema::Args),
    Top(top::Args),
    Generate(generate::Args),
}

/// Done.
pub const DONE: u8 = 0;
/// Failed while running.
pub const FAILED: u8 = 1;
/// Wrong usage or configuration.
pub const USAGE: u8 = 2;

impl Cli {
    /// What this process's arguments say; ends the process where they say nothing that can be done.
    #[must_use]
    pub fn of_process() -> Self {
        Self::parse()
    }

    /// Runs the command to its end.
    #[must_use]
    pub fn execute(self) -> ExitCode {
        ExitCode::from(match self.command {
            Command::Run(args) => run::execute(args),
            Command::Demo(args) => demo::execute(args),
            Command::Local(args) => local::execute(*args),
            Command::Check(args) => check::execute(args),
            Command::Doctor(args) => doctor::execute(args),
            Command::Estimate(args) => estimate::execute(*args),
            Command::Health(args) => health::execute(args),
            Command::Put(args) => put::execute(args),
            Command::Send(args) => send::execute(args),
            Command::DeadLetter(args) => dead_letter::execute(args),
            Command::Spool(args) => spool::execute(args),
            Command::Status(args) => status::execute(args),
            Command::Schema(args) => schema::execute(args),
            Command::Top(args) => top::execute(args),
            Command::Generate(args) => generate::execute(args),
        })
    }
}

/// Writes `text` to standard output; returns the exit code.
fn print(text: &str) -> u8 {
    let mut stdout = io::stdout().lock();
    if stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).is_ok() { DONE } else { FAILED }
}

/// Where exported records go: a new file that is for nobody else's eyes, or standard output.
///
/// # Errors
///
/// Where the file can't be made or is there already.
fn output(path: Option<&Path>) -> anyhow::Result<BufWriter<Box<dyn Write>>> {
    let Some(path) = path else { return Ok(BufWriter::new(Box::new(io::stdout().lock()))) };
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let file = file.with_context(|| format!("{} could not be made a new file", path.display()))?;
    Ok(BufWriter::new(Box::new(file)))
}

/// A runtime on this thread.
///
/// # Errors
///
/// The exit code, once the reason was written to standard error.
fn runtime() -> Result<tokio::runtime::Runtime, u8> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| {
        options::say(&format!("error: the runtime could not be started: {error}"));
        FAILED
    })
}
