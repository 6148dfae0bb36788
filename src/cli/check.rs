//! `hydrant check`.

use std::fmt::Write as _;

use super::options::ConfigOptions;

/// Validates the configuration offline and prints every value with the layer it comes from
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  hydrant check --config config/hydrant.toml --set linger=250ms")]
pub struct Args {
    #[command(flatten)]
    options: ConfigOptions,
}

/// Runs the command; returns the exit code.
pub fn execute(args: Args) -> u8 {
    let loaded = match args.options.load() {
        Ok(loaded) => loaded,
        Err(code) => return code,
    };
    let mut text = String::new();
    for effective in &loaded.values {
        // Writing to a string cannot fail.
        writeln!(text, "{} = {}  # {}", effective.key, effective.value, effective.from).ok();
    }
    if loaded.config.listen.is_empty() {
        text.push_str(
            "# no listener: enough for `hydrant put` and `hydrant doctor`, not for `hydrant run`\n",
        );
    }
    text.push_str("ok\n");
    super::print(&text)
}
