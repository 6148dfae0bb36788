//! `hydrant run`: the daemon.

use std::sync::Arc;

use super::options::{ConfigOptions, report, say};
use crate::app::{App, BodyBytes};
use crate::config::{Config, Loaded};
use crate::drain;
use crate::firehose::{Sdk, body};
use crate::notify::Notifier;
use crate::reload::Again;
use crate::telemetry;

/// Runs the daemon: takes records from local producers and delivers them
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  hydrant run --set delivery_stream_name=app-logs \
                        --set listen.app.address=unix:/run/hydrant/app.sock")]
pub struct Args {
    #[command(flatten)]
    options: ConfigOptions,
}

/// Runs the command; returns the exit code.
pub fn execute(args: Args) -> u8 {
    let options = args.options;
    let loaded = match options.clone().load() {
        Ok(loaded) => loaded,
        Err(code) => return code,
    };
    if let Err(problem) = loaded.config.require_listeners() {
        return report(&problem.into());
    }
    telemetry::log::start(loaded.config.log);
    match super::runtime() {
        Ok(runtime) => {
            let code = runtime.block_on(serve(loaded, options));
            // A read of standard input can't be called off; there is nothing else to wait for.
            runtime.shutdown_background();
            code
        }
        Err(code) => code,
    }
}

async fn serve(loaded: Loaded, options: ConfigOptions) -> u8 {
    let Loaded { config, values, .. } = loaded;
    // Handlers first: a signal that comes while the daemon starts is obeyed, not fatal.
    let orders = match drain::signals() {
        Ok(orders) => orders,
        Err(error) => {
            say(&format!("error: signal handlers could not be set: {error}"));
            return super::FAILED;
        }
    };
    let otlp = match telemetry::otlp::plan(&config.otlp, |name| std::env::var(name).ok()) {
        Ok(plan) => plan,
        Err(error) => {
            say(&format!("error: {error}"));
            return super::USAGE;
        }
    };
    let app = match App::bind(config.clone()) {
        Ok(app) => app
            .with_notifier(Notifier::of_process())
            .exporting(otlp)
            .reloading(values, Again::new(move || options.clone().read())),
        Err(error) => {
            say(&format!("error: {error:#}"));
            return super::USAGE;
        }
    };
    let firehose = Arc::new(Sdk::new((&config).into()));
    let ended = app.run(firehose, body_bytes(&config), orders).await;
    if ended.left.records == 0 { super::DONE } else { super::FAILED }
}

/// What a request's body takes, by which serialiser makes it.
pub(super) fn body_bytes(config: &Config) -> BodyBytes {
    if config.send.fast_body { body::body_bytes } else { body::stock_body_bytes }
}
