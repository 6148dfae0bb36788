//! `hydrant dead-letter`: the store of records that could not be delivered, looked at and sent again
//! beside a running daemon.
//!
//! `letters` is what the store's lines say, `wire` how a record goes through a listener, `replay` the
//! way back.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde_json::Value;

use super::options::{ConfigOptions, say};
use crate::config::Config;
use crate::sender::dead_letter::{Snapshot, StoreError};
use crate::telemetry::wall_clock;

pub mod letters;
mod replay;
pub mod wire;

use letters::{Filter, Letter, Summary, damaged, describe, records};

/// Lists, exports and sends again the records that could not be delivered, beside a running daemon or not
#[derive(Debug, clap::Args)]
#[command(
    disable_help_subcommand = true,
    after_help = "Examples:\n  hydrant dead-letter list\n  \
                        hydrant dead-letter export --error-code InternalFailure --output failed.log\n  \
                        hydrant dead-letter replay --since 2h"
)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    List(ListArgs),
    Export(ExportArgs),
    Replay(replay::Args),
}

/// Says what is in the store, by stream and error code
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  hydrant dead-letter list --records --since 2h")]
struct ListArgs {
    /// List each letter, without its contents
    #[arg(long)]
    records: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    filter: Filter,
    #[command(flatten)]
    place: Place,
}

/// Writes the records themselves, as they would have been delivered, to standard output
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  hydrant dead-letter export --stream app-logs --output failed.log")]
struct ExportArgs {
    /// Write to FILE, which must not exist, instead of standard output
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    filter: Filter,
    #[command(flatten)]
    place: Place,
}

/// Where the store is.
#[derive(Debug, clap::Args)]
struct Place {
    /// The store's directory [default: dead_letter.directory of the configuration]
    #[arg(long, value_name = "DIR")]
    directory: Option<PathBuf>,
    #[command(flatten)]
    options: ConfigOptions,
}

/// Runs the command; returns the exit code.
pub fn execute(args: Args) -> u8 {
    match args.command {
        Command::List(args) => {
            args.place.with_store(|store, _| list(store, args.records, args.json, &args.filter))
        }
        Command::Export(args) => args.place.with_store(|store, _| {
            let Some(store) = store else { return super::print(&empty()) };
            done(export(store, args.output.as_deref(), &args.filter))
        }),
        Command::Replay(args) => replay::execute(args),
    }
}

impl Place {
    /// What `then` makes of the store, `None` where it has no file, and of the configuration.
    fn with_store(self, then: impl FnOnce(Option<&Snapshot>, &Config) -> u8) -> u8 {
        let Self { directory, options } = self;
        let config = match options.of_some_stream() {
            Ok(config) => config,
            Err(code) => return code,
        };
        let Some(directory) = directory.or_else(|| config.dead_letter.directory.clone()) else {
            say(
                "error: `dead_letter.directory` is not set: name the store's directory with --directory, or the \
                 daemon's configuration with --config",
            );
            return super::USAGE;
        };
        match Snapshot::open(&directory) {
            Ok(store) => then(store.as_ref(), &config),
            Err(error) => {
                say(&format!("error: {:#}", anyhow::Error::from(error)));
                super::FAILED
            }
        }
    }
}

/// What is said of a store without a file.
fn empty() -> String {
    Summary::default().text()
}

/// The exit code; what went wrong is said.
fn done(outcome: anyhow::Result<u8>) -> u8 {
    outcome.unwrap_or_else(|error| {
        say(&format!("error: {error:#}"));
        super::FAILED
    })
}

fn list(store: Option<&Snapshot>, one_by_one: bool, as_json: bool, filter: &Filter) -> u8 {
    let (mut summary, mut letters) = (Summary::default(), Vec::new());
    if let Some(store) = store {
        let now = wall_clock();
        let read = store.lines(|number, line| {
            match Letter::read(line) {
                None => summary.add_damaged(number),
                Some(letter) if filter.takes(&letter, now) => {
                    summary.add(&letter);
                    letters.extend(one_by_one.then(|| describe(number, &letter)));
                }
                Some(_) => {}
            }
            Ok::<(), StoreError>(())
        });
        if let Err(error) = read {
            return done(Err(error.into()));
        }
    }
    super::print(&match (as_json, one_by_one) {
        (true, false) => format!("{:#}\n", summary.json()),
        (true, true) => {
            let mut json = summary.json();
            if let Some(members) = json.as_object_mut() {
                members.insert("letters".to_owned(), Value::Array(letters));
            }
            format!("{json:#}\n")
        }
        (false, true) if !letters.is_empty() => records(&letters) + "\n" + &summary.text(),
        (false, _) => summary.text(),
    })
}

fn export(store: &Snapshot, output: Option<&Path>, filter: &Filter) -> anyhow::Result<u8> {
    let mut to = super::output(output)?;
    let (now, mut damaged_lines, mut written) = (wall_clock(), Vec::new(), [0_u64; 2]);
    let unwritable = "the records could not be written";
    store.lines(|number, line| {
        match Letter::read(line) {
            None => damaged_lines.push(number),
            Some(letter) if filter.takes(&letter, now) => {
                to.write_all(&letter.data).context(unwritable)?;
                let [records, bytes] = &mut written;
                *records += 1;
                *bytes += u64::try_from(letter.data.len()).unwrap_or(0);
            }
            Some(_) => {}
        }
        anyhow::Ok(())
    })?;
    to.flush().context(unwritable)?;
    let [records, bytes] = written;
    say(&format!("{records} records of {bytes} bytes exported"));
    match damaged(&damaged_lines) {
        None => Ok(super::DONE),
        Some(damaged) => {
            say(&format!("warning: {damaged}"));
            Ok(super::FAILED)
        }
    }
}
