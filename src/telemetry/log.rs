//! The daemon's log: one line an event, fields beside the message, on standard error.

use std::io::IsTerminal;

use tracing::Level;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::{LogConfig, LogFormat};
use crate::firehose::NOISY_TARGET;

/// Starts logging. Does nothing when a log has been started before.
///
/// What the libraries say is cut at WARN: at TRACE the SDK prints whole request bodies, and
/// record contents are never logged.
pub fn start(config: LogConfig) {
    let ours = config.level.map_or(LevelFilter::OFF, LevelFilter::from_level);
    let theirs =
        config.level.map_or(LevelFilter::OFF, |level| LevelFilter::from_level(level.min(Level::WARN)));
    let filter = Targets::new()
        .with_default(theirs)
        .with_target(NOISY_TARGET, theirs.min(LevelFilter::ERROR))
        .with_target("hydrant", ours);
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
        registry.with(layer.json().flatten_event(true).with_target(false)).try_init()
    };
    drop(started);
}
