//! A look into a spool's directory, which changes nothing and needs no lock: at a damaged one, and
//! beside a running daemon, whose newest records may then be missing and whose settled ones may
//! still be there.

use std::ops::ControlFlow;
use std::sync::Arc;

use super::reader::{ReadError, Reader, Waiting};
use super::recovery::{OpenError, Survey, survey};
use super::scan::Live;
use super::storage::Storage;

/// What a directory holds, in figures.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    /// Number of segments that could be read.
    pub segments: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Undamaged frames, settled ones included.
    pub frames: u64,
    /// Records in them, settled ones included, copies counted twice.
    pub records: u64,
    /// What is to be delivered.
    pub live: Live,
    /// The sequence below which everything is settled.
    pub low_watermark: u64,
    /// Bytes of appends that were never finished.
    pub torn_bytes: u64,
    /// Bytes that are no frames and should be.
    pub damaged_bytes: u64,
    /// Records that are not settled and not there.
    pub missing_records: u64,
    /// Bytes that the disk did not give.
    pub unreadable_bytes: u64,
}

impl Summary {
    /// Whether nothing is damaged, missing or unreadable. A torn end is no damage.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.damaged_bytes + self.missing_records + self.unreadable_bytes == 0
    }
}

/// A directory that is being looked at.
#[derive(Debug)]
pub struct Inspection<S: Storage> {
    storage: Arc<S>,
    survey: Survey,
}

impl<S: Storage> Inspection<S> {
    /// Looks at everything in `storage` once.
    ///
    /// # Errors
    ///
    /// See [`OpenError`].
    pub fn new(storage: S) -> Result<Self, OpenError> {
        let survey = survey(&storage)?;
        Ok(Self { storage: Arc::new(storage), survey })
    }

    /// All that was found, segment by segment.
    #[must_use]
    pub fn survey(&self) -> &Survey {
        &self.survey
    }

    /// The same in figures.
    #[must_use]
    pub fn summary(&self) -> Summary {
        let survey = &self.survey;
        let mut summary = Summary {
            segments: survey.segments.len(),
            live: survey.live(&mut self.reader()),
            low_watermark: survey.settled.low(),
            missing_records: survey.missing().0.iter().map(|range| range.end - range.start).sum(),
            unreadable_bytes: survey.unreadable_bytes(),
            ..Summary::default()
        };
        for segment in &survey.segments {
            summary.bytes += segment.bytes;
            for run in &segment.scan.runs {
                summary.frames += run.frames;
                summary.records += run.sequences.end - run.sequences.start;
            }
            for stretch in &segment.scan.stretches {
                let bytes = stretch.place.end - stretch.place.start;
                match survey.is_torn(segment, stretch) {
                    true => summary.torn_bytes += bytes,
                    false => summary.damaged_bytes += bytes - stretch.unreadable,
                }
            }
        }
        summary
    }

    /// Hands every frame that has records to deliver to `each`, in order, or the error of one that
    /// could not be read since the survey; until `each` breaks off.
    pub fn export<B>(
        &self,
        mut each: impl FnMut(Result<Waiting, ReadError>) -> ControlFlow<B>,
    ) -> ControlFlow<B> {
        let (mut backlog, mut reader) = (self.survey.backlog(), self.reader());
        while let Some(waiting) = backlog.next(&mut reader).transpose() {
            each(waiting)?;
        }
        ControlFlow::Continue(())
    }

    fn reader(&self) -> Reader<S> {
        Reader::new(Arc::clone(&self.storage), self.survey.identity.unwrap_or(0))
    }
}
