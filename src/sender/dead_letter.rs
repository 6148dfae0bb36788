//! The dead-letter store: records that can't be delivered, complete, with the reason.
//!
//! One file, `dead-letters.jsonl`, one JSON object a line:
//!
//! ```json
//! {"time":"2026-11-23T10:00:00.000Z","stream":"app-logs","error_code":"InternalFailure","attempts":6,"data":"aGVsbG8K"}
//! ```
//!
//! `data` is base64 of the record's bytes as they would have been delivered, its delimiter
//! included. What is written is synced before it counts as kept; what could not be written whole
//! is cut off again, so the file never holds half a line. Past `max_bytes` new records are
//! refused and the old ones kept: of a failure that goes on, the first letters say most.
//!
//! Others may look at the file and take letters out of it while the daemon runs, by [`Snapshot`] or
//! by moving it away. Whoever writes holds the lock of the directory for as long as it takes, and
//! looks first whether the file that it has open is still the one of that name.

use std::borrow::Cow;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use rustix::fs::{FlockOperation, flock};

use crate::record::Span;

mod snapshot;

pub use snapshot::Snapshot;

/// Name of the store's file in its directory.
pub const FILE_NAME: &str = "dead-letters.jsonl";

/// Records that failed for good for one reason.
#[derive(Debug, Clone)]
pub struct Letter {
    /// The records.
    pub span: Span,
    /// The service's error code, or ours.
    pub error_code: Cow<'static, str>,
    /// Attempts that carried them.
    pub attempts: u32,
}

/// Why the store can't be used or did not take records.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The directory or the file can't be opened.
    #[error("the dead-letter store in {} could not be opened", directory.display())]
    Open {
        /// `dead_letter.directory`
        directory: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file can't be written.
    #[error("the dead-letter store {} could not be written", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file has reached `dead_letter.max_bytes`.
    #[error("the dead-letter store {} is full ({max_bytes} bytes): move the file away or raise `dead_letter.max_bytes`", path.display())]
    Full {
        /// The file.
        path: PathBuf,
        /// `dead_letter.max_bytes`
        max_bytes: u64,
    },
    /// The file can't be read.
    #[error("the dead-letter store {} could not be read", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Somebody else is about to take letters out of it.
    #[error("letters of the dead-letter store {} are being replayed already: wait until that has ended", path.display())]
    Claimed {
        /// The file.
        path: PathBuf,
    },
    /// The file was moved away since it was looked at.
    #[error("the dead-letter store {} was moved or replaced meanwhile: no letter was removed from it", path.display())]
    Replaced {
        /// The file.
        path: PathBuf,
    },
}

/// An open store. Calls from several threads take turns.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    max_bytes: u64,
    /// Its lock is the store's: a directory is never replaced by those who take letters out.
    directory: File,
    file: Mutex<File>,
}

impl Store {
    /// Opens the store in `directory`, making the directory if it is missing.
    ///
    /// # Errors
    ///
    /// [`StoreError::Open`] when the directory can't be made or the file not opened for writing.
    pub fn open(directory: &Path, max_bytes: u64) -> Result<Self, StoreError> {
        let path = directory.join(FILE_NAME);
        let open = || {
            make_directory(directory, &mut sync_directory)?;
            let held = File::open(directory)?;
            let _locked = Locked::exclusively(&held);
            let file = open_file(&path, &mut sync_directory)?;
            Ok(Self { path: path.clone(), max_bytes, directory: held.try_clone()?, file: Mutex::new(file) })
        };
        open().map_err(|source| StoreError::Open { directory: directory.to_owned(), source })
    }

    /// Writes `letters` and syncs them; all or none. Blocks on the disk.
    ///
    /// # Errors
    ///
    /// [`StoreError::Full`] and [`StoreError::Write`]; the file is then as it was.
    pub fn append(&self, stream: &str, letters: &[Letter], time: SystemTime) -> Result<(), StoreError> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let failed = |source| StoreError::Write { path: self.path.clone(), source };
        // Without a lock, on a file system that has none, letters are still better kept than lost:
        // there nobody else can take any out.
        let _locked = Locked::exclusively(&self.directory);
        if !is_file_at(&file, &self.path).map_err(failed)? {
            *file = open_file(&self.path, &mut sync_directory).map_err(failed)?;
        }
        let before = file.seek(SeekFrom::End(0)).map_err(failed)?;
        let written = self
            .write(&mut file, before, stream, letters, time)
            .and_then(|()| file.sync_data().map_err(failed));
        if written.is_err()
            && let Err(error) = file.set_len(before)
        {
            tracing::error!(%error, path = %self.path.display(), "Half a write could not be cut off the dead-letter store.");
        }
        written
    }

    fn write(
        &self,
        file: &mut File,
        before: u64,
        stream: &str,
        letters: &[Letter],
        time: SystemTime,
    ) -> Result<(), StoreError> {
        let time = humantime::format_rfc3339_millis(time).to_string();
        let mut size = before;
        for letter in letters {
            for record in letter.span.iter() {
                let line = serde_json::json!({
                    "time": time,
                    "stream": stream,
                    "error_code": letter.error_code,
                    "attempts": letter.attempts,
                    "data": base64_simd::STANDARD.encode_to_string(record),
                });
                let line = format!("{line}\n");
                size += u64::try_from(line.len()).unwrap_or(u64::MAX);
                if size > self.max_bytes {
                    return Err(StoreError::Full { path: self.path.clone(), max_bytes: self.max_bytes });
                }
                file.write_all(line.as_bytes())
                    .map_err(|source| StoreError::Write { path: self.path.clone(), source })?;
            }
        }
        Ok(())
    }
}

/// The lock of a store's directory, as long as it lives.
struct Locked<'a>(&'a File);

impl<'a> Locked<'a> {
    /// Waits until nobody else holds it.
    fn exclusively(directory: &'a File) -> io::Result<Self> {
        rustix::io::retry_on_intr(|| flock(directory, FlockOperation::LockExclusive))?;
        Ok(Self(directory))
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        // Closing the directory would do it too.
        flock(self.0, FlockOperation::Unlock).ok();
    }
}

/// Whether `file` is the one at `path`.
fn is_file_at(file: &File, path: &Path) -> io::Result<bool> {
    let open = file.metadata()?;
    match fs::metadata(path) {
        Ok(there) => Ok((open.dev(), open.ino()) == (there.dev(), there.ino())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Makes `directory` and those above it that are missing; each new name is synced where it stands.
fn make_directory(directory: &Path, sync: &mut impl FnMut(&Path) -> io::Result<()>) -> io::Result<()> {
    let missing: Vec<_> = directory.ancestors().take_while(|path| !path.exists()).collect();
    DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    missing.into_iter().filter(|path| !path.as_os_str().is_empty()).try_for_each(|path| sync(parent(path)))
}

/// The directory that `path` stands in.
fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// The file at `path`, made if it is missing; its name is then synced, without which a letter that
/// was synced could be gone with its file.
fn open_file(path: &Path, sync: &mut impl FnMut(&Path) -> io::Result<()>) -> io::Result<File> {
    let is_new = !path.exists();
    let mut options = OpenOptions::new();
    let mut file = options.read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
    if is_new {
        sync(parent(path))?;
    }
    // A daemon that died while it wrote may have left half a line: it is ended, so that it spoils no
    // other.
    if file.seek(SeekFrom::End(0))? > 0 {
        let mut last = [0];
        file.seek(SeekFrom::End(-1))?;
        file.read_exact(&mut last)?;
        if last != *b"\n" {
            file.write_all(b"\n")?;
        }
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;

    use super::*;
    use crate::budget::Reservation;
    use crate::record::Chunk;

    pub(super) fn letter(records: &[&[u8]]) -> Letter {
        let bytes = Bytes::from(records.concat());
        let mut end = 0;
        let ends = records.iter().map(|record| {
            end += u32::try_from(record.len()).unwrap();
            end
        });
        let chunk = Chunk::new(bytes, ends.collect(), crate::telemetry::now(), Reservation::none());
        Letter {
            span: Span::whole(Arc::new(chunk)).unwrap(),
            error_code: "InternalFailure".into(),
            attempts: 6,
        }
    }

    fn lines(directory: &Path) -> Vec<serde_json::Value> {
        let text = std::fs::read_to_string(directory.join(FILE_NAME)).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    // R-E4
    #[test]
    fn a_letter_keeps_the_records_bytes_and_the_reason() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("made/for/it"), 10_000).unwrap();
        let time = SystemTime::UNIX_EPOCH + std::time::Duration::from_millis(1500);
        store.append("app", &[letter(&[b"\xff\0\n", b"b\n"])], time).unwrap();
        let lines = lines(&directory.path().join("made/for/it"));
        assert_eq!(
            lines[0],
            serde_json::json!({
                "time": "1970-01-01T00:00:01.500Z", "stream": "app", "error_code": "InternalFailure", "attempts": 6, "data": "/wAK",
            })
        );
        assert_eq!(lines[1]["data"], "Ygo=");
    }

    // R-E15
    #[test]
    fn what_does_not_fit_whole_leaves_the_store_as_it_was() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path(), 400).unwrap();
        store.append("app", &[letter(&[b"first\n"])], SystemTime::UNIX_EPOCH).unwrap();
        let many = vec![&b"more\n"[..]; 10];
        let error = store.append("app", &[letter(&many)], SystemTime::UNIX_EPOCH).unwrap_err();
        assert!(error.to_string().contains("is full (400 bytes)"), "{error}");
        store.append("app", &[letter(&[b"last\n"])], SystemTime::UNIX_EPOCH).unwrap();
        let data: Vec<_> = lines(directory.path()).into_iter().map(|line| line["data"].clone()).collect();
        assert_eq!(data, ["Zmlyc3QK", "bGFzdAo="]);
    }

    // R-E15
    #[test]
    fn half_a_line_of_a_daemon_that_died_spoils_no_other() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join(FILE_NAME), b"{\"time\":\"2026").unwrap();
        let store = Store::open(directory.path(), 10_000).unwrap();
        store.append("app", &[letter(&[b"a\n"])], SystemTime::UNIX_EPOCH).unwrap();
        let text = std::fs::read_to_string(directory.path().join(FILE_NAME)).unwrap();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 2);
        assert!(serde_json::from_str::<serde_json::Value>(lines[1]).is_ok());
    }

    // R-E15
    #[test]
    fn a_directory_that_can_not_be_made_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = Store::open(&file.path().join("below"), 1).unwrap_err();
        assert!(error.to_string().contains(&file.path().display().to_string()), "{error}");
    }

    // R-E15
    #[test]
    fn every_new_name_is_synced_where_it_stands_and_no_old_one() {
        let directory = tempfile::tempdir().unwrap();
        let at = |below: &str| directory.path().join(below);
        let mut synced = Vec::new();
        let mut sync = |path: &Path| {
            synced.push(path.to_owned());
            Ok(())
        };
        make_directory(&at("made/for/it"), &mut sync).unwrap();
        open_file(&at("made/for/it").join(FILE_NAME), &mut sync).unwrap();
        assert_eq!(synced, [at("made/for"), at("made"), at(""), at("made/for/it")]);
        let mut sync = |path: &Path| panic!("{} is as it was", path.display());
        make_directory(&at("made/for/it"), &mut sync).unwrap();
        open_file(&at("made/for/it").join(FILE_NAME), &mut sync).unwrap();
    }

    // R-E18
    #[test]
    fn a_store_whose_file_was_moved_away_makes_a_new_one() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path(), 10_000).unwrap();
        store.append("app", &[letter(&[b"old\n"])], SystemTime::UNIX_EPOCH).unwrap();
        let away = directory.path().join("away");
        fs::rename(directory.path().join(FILE_NAME), &away).unwrap();
        store.append("app", &[letter(&[b"new\n"])], SystemTime::UNIX_EPOCH).unwrap();
        assert_eq!(fs::read_to_string(away).unwrap().lines().count(), 1);
        assert_eq!(lines(directory.path())[0]["data"], "bmV3Cg==");
    }
}
