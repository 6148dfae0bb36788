//! [`Storage`] in a directory of the file system.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, IoSlice};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::buffer::spare_capacity;
use rustix::fs::{FallocateFlags, FlockOperation};
use rustix::io::Errno;

use super::storage::{Access, Entry, Storage};

const LOCK: &str = "lock";

/// Why a directory can't be a spool's.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// Another process writes there.
    #[error("{} is locked by another hydrant: stop that one, or give each a directory of its own", .0.display())]
    Locked(PathBuf),
    /// It can't be created, opened or locked.
    #[error("could not {tried} {}", path.display())]
    Unusable {
        /// What was tried.
        tried: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// A directory, and the lock on it if it is open for writing.
#[derive(Debug)]
pub struct Disk {
    path: PathBuf,
    directory: File,
    /// Locked for as long as it is open.
    lock: Option<File>,
}

impl Disk {
    /// Opens `path` for writing, creates it where it is missing, and locks it.
    ///
    /// # Errors
    ///
    /// See [`DiskError`].
    pub fn open(path: &Path) -> Result<Self, DiskError> {
        let fault = |tried, path: &Path| {
            let path = path.to_owned();
            move |source| DiskError::Unusable { tried, path, source }
        };
        if !path.is_dir() {
            let mut builder = DirBuilder::new();
            builder.recursive(true).mode(0o700).create(path).map_err(fault("create", path))?;
            if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
                File::open(parent).and_then(|parent| parent.sync_all()).map_err(fault("sync", parent))?;
            }
        }
        let directory = File::open(path).map_err(fault("open", path))?;
        let lock_path = path.join(LOCK);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let lock = options.open(&lock_path).map_err(fault("open", &lock_path))?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { path: path.to_owned(), directory, lock: Some(lock) }),
            Err(Errno::WOULDBLOCK) => Err(DiskError::Locked(path.to_owned())),
            Err(errno) => Err(fault("lock", &lock_path)(errno.into())),
        }
    }

    /// Opens `path` for looking alone, locked or not. What would change it fails.
    ///
    /// # Errors
    ///
    /// See [`DiskError`].
    pub fn look(path: &Path) -> Result<Self, DiskError> {
        let fault = |source| DiskError::Unusable { tried: "open", path: path.to_owned(), source };
        let directory = File::open(path).map_err(fault)?;
        Ok(Self { path: path.to_owned(), directory, lock: None })
    }

    fn writable(&self) -> io::Result<()> {
        match self.lock {
            Some(_) => Ok(()),
            None => Err(io::ErrorKind::PermissionDenied.into()),
        }
    }
}

impl Storage for Disk {
    type File = File;

    fn list(&self) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            // A name that is no UTF-8 is not ours.
            let Ok(name) = entry.file_name().into_string() else { continue };
            match entry.metadata() {
                Ok(metadata) if metadata.is_file() => entries.push(Entry { name, bytes: metadata.len() }),
                Ok(_) => {}
                // Removed meanwhile, by the daemon that is looked at.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(entries)
    }

    fn create(&self, name: &str) -> io::Result<File> {
        self.writable()?;
        OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(self.path.join(name))
    }

    fn open(&self, name: &str, access: Access) -> io::Result<File> {
        let write = access == Access::Write;
        if write {
            self.writable()?;
        }
        OpenOptions::new().read(true).write(write).open(self.path.join(name))
    }

    fn preallocate(&self, file: &File, bytes: u64) -> io::Result<()> {
        match rustix::io::retry_on_intr(|| rustix::fs::fallocate(file, FallocateFlags::KEEP_SIZE, 0, bytes)) {
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    fn write_at(&self, file: &File, offset: u64, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        Ok(rustix::io::retry_on_intr(|| rustix::io::pwritev(file, parts, offset))?)
    }

    fn read_at(&self, file: &File, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        loop {
            match file.read_at(into, offset) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result,
            }
        }
    }

    fn read_behind(&self, file: &File, offset: u64, into: &mut Vec<u8>) -> io::Result<usize> {
        Ok(rustix::io::retry_on_intr(|| rustix::io::pread(file, spare_capacity(into), offset))?)
    }

    fn truncate(&self, file: &File, bytes: u64) -> io::Result<()> {
        file.set_len(bytes)
    }

    fn sync_data(&self, file: &File) -> io::Result<()> {
        file.sync_data()
    }

    fn sync_directory(&self) -> io::Result<()> {
        self.directory.sync_all()
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.writable()?;
        fs::rename(self.path.join(from), self.path.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.writable()?;
        fs::remove_file(self.path.join(name))
    }
}
