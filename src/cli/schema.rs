//! `hydrant schema`.

use crate::config;

/// Prints the JSON Schema of the configuration file
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  hydrant schema > hydrant.schema.json\n  hydrant schema --toml > hydrant.toml"
)]
pub struct Args {
    /// Print a commented configuration file with every key and its default instead
    #[arg(long)]
    toml: bool,
}

/// Runs the command; returns the exit code.
pub fn execute(args: Args) -> u8 {
    super::print(&if args.toml { config::reference() } else { format!("{:#}\n", config::json_schema()) })
}
