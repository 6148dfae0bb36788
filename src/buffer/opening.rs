//! The spool's start: its directory locked, what is in it found, mended and said once.

use std::fs;
use std::path::{Path, PathBuf};

use crate::config::{BufferSync, SpoolConfig};
use crate::spool::{
    self, Disk, DiskError, OpenError, Opened, Options, Report, Sync, Unusable, WatermarkState,
};
use crate::telemetry::figures::SpoolFigures;

/// What the name of a directory begins with that is the spool of one stream among several.
const STREAM_PREFIX: &str = "stream-";

/// The spool of each of `streams`: of the first one the directory itself, of each other one below that. They
/// share `buffer.disk` evenly.
#[must_use]
pub fn divide(config: &SpoolConfig, streams: &[&str]) -> Vec<SpoolConfig> {
    let limit_bytes = config.limit_bytes / u64::try_from(streams.len()).unwrap_or(u64::MAX).max(1);
    let spool = |(index, stream): (usize, &&str)| {
        let directory = match index {
            0 => config.directory.clone(),
            _ => config.directory.join(format!("{STREAM_PREFIX}{stream}")),
        };
        SpoolConfig { directory, limit_bytes, sync: config.sync }
    };
    streams.iter().enumerate().map(spool).collect()
}

/// Streams that are none of `streams` any more and of which records may wait, with the directories of their spools.
#[must_use]
pub fn left(config: &SpoolConfig, streams: &[&str]) -> Vec<(String, PathBuf)> {
    // Whoever can't list it is told so when it is opened.
    let entries = fs::read_dir(&config.directory).into_iter().flatten().flatten();
    let left = entries.filter_map(|entry| {
        let name = entry.file_name();
        let stream = name.to_str()?.strip_prefix(STREAM_PREFIX)?;
        if streams.iter().skip(1).any(|known| *known == stream) {
            return None;
        }
        let directory = entry.path();
        // A spool whose records were all delivered at a clean stop has no segment left.
        let mut files = fs::read_dir(&directory).into_iter().flatten().flatten().map(|file| file.path());
        let waits = files.any(|file| file.extension().is_some_and(|it| it == "segment"));
        waits.then(|| (stream.to_owned(), directory))
    });
    left.collect()
}

/// Says where records may wait of streams that are none of `streams` any more.
pub fn say_left(config: &SpoolConfig, streams: &[&str]) {
    for (stream, directory) in left(config, streams) {
        let directory = directory.display();
        tracing::warn!(stream, %directory, "Records may wait in the spool of a stream that no listener feeds.");
    }
}

/// The lock on the directory of a spool, which nobody else writes to from now on.
///
/// # Errors
///
/// See [`DiskError`].
pub fn lock(config: &SpoolConfig) -> Result<Disk, DiskError> {
    Disk::open(&config.directory)
}

/// The spool in a directory that is locked, and its state as it is shown. What was found wrong, and
/// what became of it, is said in the log, once: later starts find it mended.
///
/// # Errors
///
/// See [`OpenError`].
pub fn open(disk: Disk, config: &SpoolConfig) -> Result<(Opened<Disk>, SpoolFigures), OpenError> {
    let sync = match config.sync {
        BufferSync::Always => Sync::Always,
        BufferSync::Os => Sync::Os,
    };
    let opened = spool::open(disk, Options::new(config.limit_bytes, sync, fastrand::u64(..)))?;
    say(&opened.report, &config.directory);
    let mut figures = SpoolFigures::new(config.directory.display().to_string(), config.limit_bytes);
    let new = opened.report.damage.iter().filter(|damage| damage.new);
    figures.damaged_bytes = new.map(|damage| damage.place.end - damage.place.start).sum();
    figures.lost_records = opened.report.lost_records();
    figures.bytes = opened.spool.total_bytes();
    figures.segments = opened.spool.segments();
    Ok((opened, figures))
}

fn say(report: &Report, directory: &Path) {
    let directory = directory.display();
    let Report { live, torn_bytes, damage, unusable, misnamed, watermark, failures, .. } = report;
    tracing::info!(%directory, records = live.records, bytes = live.bytes, torn_bytes, "Spool opened.");
    for damage in damage.iter().filter(|damage| damage.new) {
        let (file, at, bytes) = (&damage.name, damage.place.start, damage.place.end - damage.place.start);
        let (records, copy) = (damage.records, damage.copy.as_deref().unwrap_or("the segment itself"));
        tracing::error!(%directory, file, at, bytes, records, copy, "A stretch of the spool is damaged: it was set aside, and the rest is delivered.");
    }
    if report.lost_records() > 0 {
        let records = report.lost_records();
        tracing::error!(%directory, records, "Records are missing from the spool.");
    }
    for (file, why) in unusable {
        match why {
            Unusable::Foreign => {
                tracing::error!(%directory, file, "A file of another spool is in the directory: it is left alone.");
            }
            Unusable::Unreadable(bytes, error) => {
                let error = error.as_ref().map(ToString::to_string);
                tracing::error!(%directory, file, bytes, error, "A file of the spool could not be read: it is left alone.");
            }
        }
    }
    for (file, number) in misnamed {
        tracing::warn!(%directory, file, number, "A segment of the spool has another's name.");
    }
    let unsure = matches!(watermark, WatermarkState::Missing | WatermarkState::Damaged);
    if unsure && live.records > 0 {
        let records = live.records;
        tracing::warn!(%directory, records, "What was sent before is not known: records may be sent a second time.");
    }
    for failure in failures {
        tracing::error!(%directory, failure, "The spool could not be mended in full: the next start tries again.");
    }
}
