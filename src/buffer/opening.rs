//! The spool's start: its directory locked, what is in it found, mended and said once.

use std::path::Path;

use crate::config::{BufferSync, SpoolConfig};
use crate::spool::{
    self, Disk, DiskError, OpenError, Opened, Options, Report, Sync, Unusable, WatermarkState,
};
use crate::telemetry::figures::SpoolFigures;

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
