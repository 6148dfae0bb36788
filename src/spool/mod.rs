//! The spool: records on disk from their acceptance until they are settled, through any crash.
//!
//! `docs/SPOOL_FORMAT.md` defines the files and what becomes of each kind of damage. The layers, each
//! over the one before: [`Storage`] is the calls on a disk, [`layout`] the bytes of a segment,
//! [`Settled`] what need not be delivered any more, [`Spool`] the writer, [`Reader`] and [`Backlog`]
//! the way back, [`open`] the start, [`inspect`] a look from outside.
//!
//! Knows no daemon: one thread owns a [`Spool`] and decides when to [`Spool::sync`] (one sync covers
//! all that was appended since the last) and when to [`Spool::checkpoint`]; readers are for any
//! thread.

pub mod inspect;
pub mod layout;

mod crc;
mod disk;
mod reader;
mod recovery;
mod scan;
mod storage;
#[cfg(test)]
mod tests;
mod watermark;
mod watermark_file;
mod writer;

pub use disk::{Disk, DiskError};
pub use reader::{Backlog, Frame, Position, ReadCause, ReadError, Reader, Waiting};
pub use recovery::{Damage, OpenError, Opened, Report, SegmentSurvey, Survey, Unusable, open, survey};
pub use scan::{Live, Run, Scan, Stretch};
pub use storage::{Access, Entry, Storage};
pub use watermark::{Settled, Slot};
pub use watermark_file::WatermarkState;
pub use writer::{Appended, Full, Options, Records, Spool, Sync, WriteError};
