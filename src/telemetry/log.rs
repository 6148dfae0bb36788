//! The daemon's log: one line an event, fields beside the message, on standard error.

use std::io::IsTerminal;
use std::sync::OnceLock;

use tracing::Level;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::Registry;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::{LogConfig, LogFormat};
use crate::firehose::NOISY_TARGET;

/// The filter of the log that was started.
static FILTER: OnceLock<reload::Handle<Targets, Registry>> = OnceLock::new();

/// Starts logging. Does nothing when a log has been started before.
///
/// What the libraries say is cut at WARN: at TRACE the SDK prints whole request bodies, and
/// record contents are never logged.
pub fn start(config: LogConfig) {
    let (filter, handle) = reload::Layer::new(filter(config.level));
    let terminal = std::io::stderr().is_terminal();
    let text = match config.format {
        LogFormat::Auto => terminal,
        LogFormat::Text => true,
        LogFormat::Json => false,
    };
    let registry = tracing_subscriber::registry().with(filter);
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let started = if text {
        registry.with(layer.with_ansi(terminal).with_target(false)).try_init()
    } else {
        registry.with(layer.json().flatten_event(true).with_span_list(false).with_target(false)).try_init()
    };
    if started.is_ok() {
        FILTER.get_or_init(|| handle);
    }
}

/// Writes what is at least as important as `level` from now on.
pub fn set_level(level: Option<Level>) {
    if let Some(handle) = FILTER.get()
        && let Err(error) = handle.reload(filter(level))
    {
        tracing::warn!(%error, "The log's level could not be changed.");
    }
}

fn filter(level: Option<Level>) -> Targets {
    let ours = level.map_or(LevelFilter::OFF, LevelFilter::from_level);
    let theirs = level.map_or(LevelFilter::OFF, |level| LevelFilter::from_level(level.min(Level::WARN)));
    Targets::new()
        .with_default(theirs)
        .with_target(NOISY_TARGET, theirs.min(LevelFilter::ERROR))
        .with_target("hydrant", ours)
}
