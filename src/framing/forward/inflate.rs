//! Entries out of gzip, some at a time: what is held beside them has a bound, whatever they grow to.

use flate2::{Decompress, FlushDecompress, Status};

/// Memory of zlib's state: its window of 32 KiB and its tables.
const STATE_BYTES: usize = 48 * 1024;
/// Largest piece that is made at a time.
const STEP_BYTES: usize = 16 * 1024;
/// What a new member costs, as bytes that might have been made in its stead.
const MEMBER_COST: usize = 64 * 1024;

/// Members of a gzip file, one behind the other, as they are made into bytes.
pub(super) struct Inflater {
    state: Decompress,
    /// Whether a member was begun and has not ended.
    is_within: bool,
    made: Vec<u8>,
    /// Bytes of `made` that were taken.
    taken: usize,
}

/// What came of a turn.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Made {
    /// So many bytes of the input are used up, and the turn cost so much.
    Some { used: usize, cost: usize },
    /// So much more memory is needed first.
    Needs(usize),
}

impl Inflater {
    /// Memory of a new one.
    pub(super) const NEW_BYTES: usize = STATE_BYTES;

    /// Most memory that growing may need for entries of up to `longest` bytes.
    pub(super) fn most_growth(longest: usize) -> usize {
        longest + STEP_BYTES
    }

    pub(super) fn new() -> Self {
        Self { state: Decompress::new_gzip(15), is_within: false, made: Vec::new(), taken: 0 }
    }

    /// Memory that it takes.
    pub(super) fn held(&self) -> usize {
        STATE_BYTES + self.made.capacity()
    }

    /// What was made and not taken.
    pub(super) fn made(&self) -> &[u8] {
        self.made.get(self.taken..).unwrap_or_default()
    }

    pub(super) fn take(&mut self, bytes: usize) {
        self.taken += bytes;
        if self.taken >= self.made.len() {
            self.taken = 0;
            self.made.clear();
        }
    }

    /// Whether the input may end here.
    pub(super) fn is_between_members(&self) -> bool {
        !self.is_within
    }

    /// Makes some more of `input`, with no more than `room` bytes of memory that is new.
    ///
    /// # Errors
    ///
    /// What is wrong with the input.
    pub(super) fn make(&mut self, input: &[u8], room: usize, longest: usize) -> Result<Made, &'static str> {
        const NO_GZIP: &str = "a chunk is no gzip, or is damaged";
        if !self.is_within && input.is_empty() {
            return Ok(Made::Some { used: 0, cost: 0 });
        }
        self.made.drain(..self.taken);
        self.taken = 0;
        if self.made.capacity() - self.made.len() < STEP_BYTES / 4 {
            let grown = (self.made.len() * 2).clamp(STEP_BYTES, longest + STEP_BYTES);
            // The old piece is there while the new one is made.
            if grown > room {
                return Ok(Made::Needs(grown));
            }
            let mut larger = Vec::with_capacity(grown);
            larger.extend_from_slice(&self.made);
            self.made = larger;
        }
        let mut cost = 0;
        if !self.is_within {
            self.state = Decompress::new_gzip(15);
            self.is_within = true;
            cost += MEMBER_COST;
        }
        let (read, before) = (self.state.total_in(), self.made.len());
        let status = self.state.decompress_vec(input, &mut self.made, FlushDecompress::None);
        let used = usize::try_from(self.state.total_in() - read).unwrap_or(usize::MAX);
        cost += self.made.len() - before;
        match status {
            Ok(Status::StreamEnd) => self.is_within = false,
            Ok(Status::Ok | Status::BufError) => {}
            // What was made before the damage comes first, however much of the input is there.
            Err(_) if used > 0 || self.made.len() > before => {}
            Err(_) => return Err(NO_GZIP),
        }
        Ok(Made::Some { used, cost })
    }
}

impl std::fmt::Debug for Inflater {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inflater").field("made", &self.made().len()).finish_non_exhaustive()
    }
}
