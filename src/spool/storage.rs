//! The calls on a disk that a spool makes, as a trait, so that tests can stop, fail or forget each.

use std::fmt::Debug;
use std::io::{self, IoSlice};

use rustix::io::Errno;

/// A file of the directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// Its length.
    pub bytes: u64,
}

/// What an open file is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Reading alone.
    Read,
    /// Reading and changing.
    Write,
}

/// One directory of files.
///
/// Nothing is durable before it was synced: bytes and lengths by [`Storage::sync_data`], names by
/// [`Storage::sync_directory`].
pub trait Storage: Debug + Send + Sync + 'static {
    /// An open file. It stays readable when its name is removed.
    type File: Debug + Send + Sync;

    /// The directory's regular files, in any order.
    ///
    /// # Errors
    ///
    /// As the system says.
    fn list(&self) -> io::Result<Vec<Entry>>;

    /// Creates a file for reading and writing.
    ///
    /// # Errors
    ///
    /// As the system says; also if the name is taken.
    fn create(&self, name: &str) -> io::Result<Self::File>;

    /// Opens a file.
    ///
    /// # Errors
    ///
    /// As the system says.
    fn open(&self, name: &str, access: Access) -> io::Result<Self::File>;

    /// Reserves space for the first `bytes` bytes and leaves the length as it is. Does nothing
    /// where the file system can't.
    ///
    /// # Errors
    ///
    /// As the system says.
    fn preallocate(&self, file: &Self::File, bytes: u64) -> io::Result<()>;

    /// Writes the front of `parts`, one behind the other, at `offset`, and says how many bytes.
    ///
    /// # Errors
    ///
    /// As the system says; then any of the bytes may have been written.
    fn write_at(&self, file: &Self::File, offset: u64, parts: &[IoSlice<'_>]) -> io::Result<usize>;

    /// Reads into the front of `into` from `offset` and says how many bytes; 0 at the end.
    ///
    /// # Errors
    ///
    /// As the system says.
    fn read_at(&self, file: &Self::File, offset: u64, into: &mut [u8]) -> io::Result<usize>;

    /// As [`Storage::read_at`], behind what is in `into`, as far as that has room without growing.
    ///
    /// # Errors
    ///
    /// As the system says.
    fn read_behind(&self, file: &Self::File, offset: u64, into: &mut Vec<u8>) -> io::Result<usize> {
        let filled = into.len();
        into.resize(into.capacity(), 0);
        let read = self.read_at(file, offset, into.get_mut(filled..).unwrap_or_default());
        into.truncate(filled + *read.as_ref().unwrap_or(&0));
        read
    }

    /// Cuts the file to `bytes` and gives back what was reserved beyond.
    ///
    /// # Errors
    ///
    /// As the system says.
    fn truncate(&self, file: &Self::File, bytes: u64) -> io::Result<()>;

    /// Returns when the file's bytes and length are on the disk itself.
    ///
    /// # Errors
    ///
    /// As the system says. After a failure nothing is known of what was written since the last
    /// success, whatever a later call says.
    fn sync_data(&self, file: &Self::File) -> io::Result<()>;

    /// Returns when the names of the directory are on the disk itself.
    ///
    /// # Errors
    ///
    /// As the system says.
    fn sync_directory(&self) -> io::Result<()>;

    /// Gives a file another name.
    ///
    /// # Errors
    ///
    /// As the system says.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a name.
    ///
    /// # Errors
    ///
    /// As the system says.
    fn remove(&self, name: &str) -> io::Result<()>;
}

/// Whether the disk, what this user may have of it, or the table of open files is full: nothing is
/// broken, and room may come.
pub(super) fn is_full(error: &io::Error) -> bool {
    let full = [Errno::NOSPC, Errno::DQUOT, Errno::MFILE, Errno::NFILE];
    Errno::from_io_error(error).is_some_and(|errno| full.contains(&errno))
}

/// Reads from `offset` until `into` is full or the file ends, and says how many bytes.
pub(super) fn read_fully<S: Storage>(
    storage: &S,
    file: &S::File,
    offset: u64,
    into: &mut [u8],
) -> io::Result<usize> {
    let mut filled = 0;
    while let Some(rest) = into.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match storage.read_at(file, offset + filled as u64, rest)? {
            0 => break,
            bytes => filled += bytes,
        }
    }
    Ok(filled)
}

/// Writes all of `parts` at `offset`.
pub(super) fn write_fully<S: Storage>(
    storage: &S,
    file: &S::File,
    mut offset: u64,
    mut parts: &mut [IoSlice<'_>],
) -> io::Result<()> {
    // Skips empty parts at the front, so that a write of nothing is not asked for.
    IoSlice::advance_slices(&mut parts, 0);
    while !parts.is_empty() {
        let bytes = storage.write_at(file, offset, parts)?;
        if bytes == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        IoSlice::advance_slices(&mut parts, bytes);
        offset += bytes as u64;
    }
    Ok(())
}
