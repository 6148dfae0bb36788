//! `hydrant generate`: what a package of hydrant holds besides the program.

use clap::{CommandFactory, ValueEnum};
use clap_complete::Shell;

use super::Cli;

mod man;

pub use man::page;

/// Prints the man page, or what lets a shell complete hydrant's commands and options
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  hydrant generate man > /usr/local/share/man/man1/hydrant.1\n  \
                        hydrant generate bash > /usr/share/bash-completion/completions/hydrant\n  \
                        hydrant generate fish > /usr/share/fish/vendor_completions.d/hydrant.fish\n  \
                        hydrant generate zsh > /usr/share/zsh/vendor-completions/_hydrant")]
pub struct Args {
    /// What to print
    what: What,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum What {
    Man,
    Bash,
    Fish,
    Zsh,
}

/// Runs the command; returns the exit code.
pub fn execute(args: Args) -> u8 {
    super::print(&match args.what {
        What::Man => man::page(),
        What::Bash => completions(Shell::Bash),
        What::Fish => completions(Shell::Fish),
        What::Zsh => completions(Shell::Zsh),
    })
}

/// The script by which `shell` completes.
fn completions(shell: Shell) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "hydrant", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}
