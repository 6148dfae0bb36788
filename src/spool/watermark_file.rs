//! The watermark on disk: three slots, of which each write takes the one that matters least.
//!
//! Neither the newest slot nor the newest that is known to be durable is ever written over, so
//! that a torn write costs at most what was settled since the one before it.

use std::io::{self, IoSlice};
use std::sync::Arc;

use super::layout::HeaderError;
use super::storage::{Access, Storage, is_full, read_fully, write_fully};
use super::watermark::{SLOT_BYTES, SLOTS, Settled, Slot};

/// Name of the file.
pub(super) const WATERMARK: &str = "watermark";

/// What was found where the watermark should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WatermarkState {
    /// A valid one.
    Found,
    /// No file.
    Missing,
    /// A file without a valid slot, or one that can't be read.
    Damaged,
    /// It belongs to another spool, and is not heeded.
    Foreign,
}

/// Writes slots.
#[derive(Debug)]
pub(super) struct WatermarkFile<S: Storage> {
    storage: Arc<S>,
    spool: u64,
    /// Opened, or created, by the first write.
    file: Option<S::File>,
    new: bool,
    generation: u64,
    newest: Option<usize>,
    durable: Option<usize>,
    /// What the newest slot says.
    written: Option<Settled>,
    /// A write or a sync has failed: nothing is known of the file any more.
    ended: bool,
}

/// What the file says.
pub(super) struct Slots {
    /// Each valid slot with its index.
    pub(super) valid: Vec<(usize, Slot)>,
    /// Whether every slot could be read.
    pub(super) whole: bool,
}

/// Reads the file. The outer error is the disk's, the inner one a newer format version.
pub(super) fn read<S: Storage>(storage: &S) -> io::Result<Result<Slots, u32>> {
    let file = storage.open(WATERMARK, Access::Read)?;
    let mut slots = Slots { valid: Vec::new(), whole: true };
    for index in 0..SLOTS {
        let mut bytes = vec![0; SLOT_BYTES];
        // A slot that can't be read is as good as a damaged one: there are others.
        let read = read_fully(storage, &file, (index * SLOT_BYTES) as u64, &mut bytes);
        slots.whole &= read.is_ok();
        match Slot::decode(bytes.get(..read.unwrap_or(0)).unwrap_or_default()) {
            Ok(slot) => slots.valid.push((index, slot)),
            Err(HeaderError::Version(version)) => return Ok(Err(version)),
            Err(HeaderError::Damaged) => {}
        }
    }
    Ok(Ok(slots))
}

impl<S: Storage> WatermarkFile<S> {
    /// Goes on after `newest`, the slot that a start has found, with a generation after `generation`.
    pub(super) fn new(storage: Arc<S>, spool: u64, newest: Option<usize>, generation: u64) -> Self {
        Self {
            storage,
            spool,
            file: None,
            new: false,
            generation,
            newest,
            durable: newest,
            written: None,
            ended: false,
        }
    }

    /// Writes `settled`, if it is not what was written last; safe from a killed process.
    pub(super) fn write(&mut self, settled: &Settled) -> io::Result<()> {
        if self.written.as_ref() == Some(settled) {
            return Ok(());
        }
        self.check()?;
        // Only a successful write makes the next one choose another slot.
        let free = (0..SLOTS).find(|slot| Some(*slot) != self.newest && Some(*slot) != self.durable);
        let slot = free.unwrap_or(0);
        let bytes = Slot::encode(self.spool, self.generation + 1, settled);
        let result = self.file().and_then(|(storage, file)| {
            write_fully(storage, file, (slot * SLOT_BYTES) as u64, &mut [IoSlice::new(&bytes)])
        });
        self.note(result)?;
        self.generation += 1;
        self.newest = Some(slot);
        self.written = Some(settled.clone());
        Ok(())
    }

    /// Makes what was written last durable.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        if self.durable == self.newest && !self.new {
            return Ok(());
        }
        self.check()?;
        let result = self.file().and_then(|(storage, file)| storage.sync_data(file));
        // Not even for want of room is a failed sync tried again.
        self.ended |= result.is_err();
        result?;
        if self.new {
            let result = self.storage.sync_directory();
            self.ended |= result.is_err();
            result?;
            self.new = false;
        }
        self.durable = self.newest;
        Ok(())
    }

    fn file(&mut self) -> io::Result<(&S, &S::File)> {
        let file = match self.file.take() {
            Some(file) => file,
            None => match self.storage.open(WATERMARK, Access::Write) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    let file = self.storage.create(WATERMARK)?;
                    self.new = true;
                    file
                }
                result => result?,
            },
        };
        Ok((&self.storage, self.file.insert(file)))
    }

    /// Generation of the slot that was written last.
    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    /// Whether a failure was not for want of room.
    pub(super) fn has_ended(&self) -> bool {
        self.ended
    }

    fn check(&self) -> io::Result<()> {
        match self.ended {
            true => Err(io::Error::other("an earlier write of the watermark failed")),
            false => Ok(()),
        }
    }

    fn note(&mut self, result: io::Result<()>) -> io::Result<()> {
        self.ended |= result.as_ref().is_err_and(|error| !is_full(error));
        result
    }
}
