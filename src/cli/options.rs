//! The options of every command that reads the configuration.

use std::io::{self, Write};
use std::path::PathBuf;

use tokio::runtime::Runtime;

use crate::config::{Address, Config, Loaded, Problems, Sources, load};

/// Where the configuration comes from.
#[derive(Debug, Clone, clap::Args)]
pub struct ConfigOptions {
    /// Configuration file: TOML, or YAML if it ends in .yaml or .yml [default: $HYDRANT_CONFIG, else
    /// /etc/hydrant/hydrant.toml if it exists]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Sets one key over the file and the environment, such as `retry.max_delay=10s`; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

impl ConfigOptions {
    /// The configuration, with its warnings written to standard error.
    ///
    /// # Errors
    ///
    /// [`super::USAGE`], the exit code, once every problem was written to standard error.
    pub fn load(self) -> Result<Loaded, u8> {
        let loaded = self.read().map_err(|problems| report(&problems))?;
        for warning in &loaded.warnings {
            say(&format!("warning: {warning}"));
        }
        Ok(loaded)
    }

    /// The configuration as it is now.
    ///
    /// # Errors
    ///
    /// All that is wrong with it.
    pub fn read(self) -> Result<Loaded, Problems> {
        load(&Sources::of_process(self.config, self.set))
    }
}

impl ConfigOptions {
    /// The admin listener's address, for whoever looks at a daemon and does not know its stream.
    ///
    /// # Errors
    ///
    /// As [`ConfigOptions::load`].
    pub fn admin(self) -> Result<Option<Address>, u8> {
        Ok(self.of_some_stream()?.admin)
    }

    /// The configuration but for the stream, which may have been named on the daemon's own command
    /// line.
    ///
    /// # Errors
    ///
    /// As [`ConfigOptions::load`].
    pub fn of_some_stream(mut self) -> Result<Config, u8> {
        // Nothing is made of it; it is only that a configuration has to have one.
        self.set.push("delivery_stream_name=any".to_owned());
        Ok(self.load()?.config)
    }
}

/// Where to, for commands that often need no more of the configuration.
#[derive(Debug, Clone, clap::Args)]
pub struct TargetOptions {
    /// Delivery stream, as `--set delivery_stream_name=NAME`
    #[arg(long, value_name = "NAME")]
    stream: Option<String>,
    /// AWS region, as `--set region=REGION`
    #[arg(long)]
    region: Option<String>,
    /// Another Firehose endpoint, as `--set endpoint_url=URL`
    #[arg(long, value_name = "URL")]
    endpoint_url: Option<String>,
    #[command(flatten)]
    options: ConfigOptions,
}

impl TargetOptions {
    /// The configuration, with its warnings written to standard error.
    ///
    /// # Errors
    ///
    /// As [`ConfigOptions::load`].
    pub fn load(mut self) -> Result<Loaded, u8> {
        let flags = [
            ("delivery_stream_name", self.stream),
            ("region", self.region),
            ("endpoint_url", self.endpoint_url),
        ];
        let given = flags.into_iter().filter_map(|(key, value)| Some(format!("{key}={}", value?)));
        self.options.set.extend(given);
        self.options.load()
    }

    /// What a command that calls AWS once begins with: the configuration, and a runtime.
    ///
    /// # Errors
    ///
    /// The exit code, once the reason was written to standard error.
    pub(super) fn ready(self) -> Result<(Config, Runtime), u8> {
        Ok((self.load()?.config, super::runtime()?))
    }
}

/// Writes `problems` to standard error, a line each; returns the exit code.
pub fn report(problems: &Problems) -> u8 {
    for problem in problems.iter() {
        say(&format!("error: {problem}"));
    }
    super::USAGE
}

/// Writes `line` to standard error. Where that is closed there is nobody left to tell.
pub(super) fn say(line: &str) {
    writeln!(io::stderr(), "{line}").ok();
}
