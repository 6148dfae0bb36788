//! The store as it is at one moment, beside a daemon that goes on appending to it.
//!
//! Taking letters out is a new file that takes the old one's place: at any crash there is the one or
//! the other, whole. What does not change is written without the lock; under it only what was
//! appended meanwhile is copied, so that the daemon waits for milliseconds.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, BufWriter, ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use super::{FILE_NAME, Locked, StoreError, is_file_at};

/// The file that is to take the store's place. One that a crash left is written anew.
const NEXT_NAME: &str = "dead-letters.new";

/// The letters that were there when it was taken.
#[derive(Debug)]
pub struct Snapshot {
    directory: File,
    path: PathBuf,
    file: File,
    /// Bytes of whole lines.
    end: u64,
}

impl Snapshot {
    /// The store in `directory`; `None` where no letter was ever written, or its file was moved away.
    ///
    /// # Errors
    ///
    /// [`StoreError::Open`] where the directory or the file can't be opened.
    pub fn open(directory: &Path) -> Result<Option<Self>, StoreError> {
        let path = directory.join(FILE_NAME);
        let open = || {
            let held = File::open(directory)?;
            let file = match File::open(&path) {
                Ok(file) => file,
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(error),
            };
            // Where nobody can lock nobody writes by halves either: looking is possible all the same.
            let locked = Locked::exclusively(&held);
            let end = whole_lines(&file)?;
            drop(locked);
            Ok(Some(Self { directory: held, path: path.clone(), file, end }))
        };
        open().map_err(|source| StoreError::Open { directory: directory.to_owned(), source })
    }

    /// Path of the file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Sees to it that nobody else takes letters out as long as this lives.
    ///
    /// # Errors
    ///
    /// [`StoreError::Claimed`] where somebody is at it.
    pub fn claim(&self) -> Result<(), StoreError> {
        match flock(&self.file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) if is_file_at(&self.file, &self.path).map_err(self.unreadable())? => Ok(()),
            Ok(()) => Err(StoreError::Replaced { path: self.path.clone() }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(StoreError::Claimed { path: self.path.clone() }),
            Err(error) => Err(self.unreadable()(error.into())),
        }
    }

    /// Hands each line with its number from 1 to `each`, without its end, until that fails.
    ///
    /// # Errors
    ///
    /// [`StoreError::Read`], or what `each` says.
    pub fn lines<E: From<StoreError>>(
        &self,
        mut each: impl FnMut(u64, &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut reader = self.reader()?;
        let mut line = Vec::new();
        for number in 1.. {
            line.clear();
            if reader.read_until(b'\n', &mut line).map_err(self.unreadable())? == 0 {
                break;
            }
            each(number, line.strip_suffix(b"\n").unwrap_or(&line))?;
        }
        Ok(())
    }

    /// Takes the lines with these numbers out of the store; what was appended meanwhile stays.
    ///
    /// # Errors
    ///
    /// [`StoreError::Replaced`] and [`StoreError::Write`]; the store is then as it was.
    pub fn remove(&self, numbers: &BTreeSet<u64>) -> Result<(), StoreError> {
        let next = self.path.with_file_name(NEXT_NAME);
        let removed = self.write_next(&next, numbers).and_then(|file| self.replace(&next, file));
        if removed.is_err() {
            // What is left of it does no harm.
            fs::remove_file(&next).ok();
        }
        removed
    }

    /// The lines that stay, in a file of the same owner.
    fn write_next(&self, next: &Path, numbers: &BTreeSet<u64>) -> Result<File, StoreError> {
        let make = || {
            let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(next)?;
            let (owner, own) = (self.file.metadata()?, file.metadata()?);
            // Root may do this for a daemon that runs as somebody else, who has to be able to go on.
            if (owner.uid(), owner.gid()) != (own.uid(), own.gid()) {
                fchown(&file, Some(owner.uid()), Some(owner.gid()))?;
            }
            Ok(file)
        };
        let mut writer = BufWriter::new(make().map_err(self.unwritable())?);
        self.lines(|number, line| {
            if numbers.contains(&number) {
                return Ok(());
            }
            writer.write_all(line).and_then(|()| writer.write_all(b"\n")).map_err(self.unwritable())
        })?;
        let file = writer.into_inner().map_err(io::IntoInnerError::into_error).map_err(self.unwritable())?;
        file.sync_data().map_err(self.unwritable())?;
        Ok(file)
    }

    /// Puts `next` into the store's place, with what was appended since.
    fn replace(&self, next: &Path, mut file: File) -> Result<(), StoreError> {
        let _locked = Locked::exclusively(&self.directory).map_err(self.unwritable())?;
        if !is_file_at(&self.file, &self.path).map_err(self.unreadable())? {
            return Err(StoreError::Replaced { path: self.path.clone() });
        }
        let mut replace = || {
            let mut appended = &self.file;
            appended.seek(SeekFrom::Start(self.end))?;
            io::copy(&mut appended, &mut file)?;
            file.sync_data()?;
            fs::rename(next, &self.path)?;
            self.directory.sync_all()
        };
        replace().map_err(self.unwritable())
    }

    fn reader(&self) -> Result<impl BufRead, StoreError> {
        let mut file = &self.file;
        file.seek(SeekFrom::Start(0)).map_err(self.unreadable())?;
        Ok(BufReader::with_capacity(64 * 1024, file.take(self.end)))
    }

    fn unreadable(&self) -> impl Fn(io::Error) -> StoreError {
        |source| StoreError::Read { path: self.path.clone(), source }
    }

    fn unwritable(&self) -> impl Fn(io::Error) -> StoreError {
        |source| StoreError::Write { path: self.path.clone(), source }
    }
}

/// Bytes of `file` up to its last line end: a daemon that died may have left half a line behind it,
/// which the next one will end.
fn whole_lines(mut file: &File) -> io::Result<u64> {
    let mut end = file.seek(SeekFrom::End(0))?;
    let mut piece = [0; 4096];
    while end > 0 {
        let start = end.saturating_sub(4096);
        let length = usize::try_from(end - start).unwrap_or(0);
        let Some(piece) = piece.get_mut(..length) else { break };
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(piece)?;
        if let Some(at) = memchr::memrchr(b'\n', piece) {
            return Ok(start + u64::try_from(at).unwrap_or(0) + 1);
        }
        end = start;
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread;
    use std::time::SystemTime;

    use super::super::{Store, tests::letter};
    use super::*;

    fn all(snapshot: &Snapshot) -> Vec<(u64, Vec<u8>)> {
        let mut lines = Vec::new();
        let read = snapshot.lines(|number, line| {
            lines.push((number, line.to_owned()));
            Ok::<(), StoreError>(())
        });
        read.unwrap();
        lines
    }

    fn taken(directory: &Path) -> Snapshot {
        Snapshot::open(directory).unwrap().unwrap()
    }

    // R-E18
    #[test]
    fn letters_are_taken_out_beside_writers_and_none_is_lost_or_doubled() {
        const WRITERS: usize = 8;
        const LETTERS: usize = 50;
        let directory = tempfile::tempdir().unwrap();
        // Two of them are the same store to two processes.
        let stores = [0, 1].map(|_| Store::open(directory.path(), 1 << 30).unwrap());
        let done = AtomicBool::new(false);
        let mut seen = BTreeMap::<Vec<u8>, usize>::new();
        let mut see = |line: Vec<u8>| *seen.entry(line).or_default() += 1;
        thread::scope(|scope| {
            let writing: Vec<_> = (0..WRITERS)
                .map(|writer| {
                    let store = &stores[writer % 2];
                    scope.spawn(move || {
                        for number in 0..LETTERS {
                            let record = format!("{writer} {number}\n");
                            let letters = [letter(&[record.as_bytes()])];
                            store.append("app", &letters, SystemTime::UNIX_EPOCH).unwrap();
                        }
                    })
                })
                .collect();
            let (done, path) = (&done, directory.path());
            let taking = scope.spawn(move || {
                let mut removed = Vec::new();
                while !done.load(Ordering::Relaxed) {
                    let snapshot = taken(path);
                    snapshot.claim().unwrap();
                    // Every second one, so that some stay and move.
                    let lines: Vec<_> = all(&snapshot).into_iter().step_by(2).collect();
                    snapshot.remove(&lines.iter().map(|(number, _)| *number).collect()).unwrap();
                    removed.extend(lines.into_iter().map(|(_, line)| line));
                }
                removed
            });
            writing.into_iter().for_each(|writing| writing.join().unwrap());
            done.store(true, Ordering::Relaxed);
            taking.join().unwrap().into_iter().for_each(&mut see);
        });
        all(&taken(directory.path())).into_iter().for_each(|(_, line)| see(line));
        assert_eq!(seen.len(), WRITERS * LETTERS);
        assert!(seen.values().all(|times| *times == 1), "{seen:?}");
    }

    // R-E18
    #[test]
    fn what_a_crash_left_is_overwritten_and_half_a_line_stays() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join(FILE_NAME), "one\ntwo\nhalf").unwrap();
        fs::write(directory.path().join(NEXT_NAME), "of a replay that was killed\n".repeat(100)).unwrap();
        let snapshot = taken(directory.path());
        assert_eq!(all(&snapshot), [(1, b"one".to_vec()), (2, b"two".to_vec())]);
        snapshot.remove(&[1].into()).unwrap();
        assert_eq!(fs::read_to_string(directory.path().join(FILE_NAME)).unwrap(), "two\nhalf");
        assert!(!directory.path().join(NEXT_NAME).exists());
    }

    // R-E18
    #[test]
    fn only_one_takes_letters_out_and_only_of_the_file_that_it_read() {
        let directory = tempfile::tempdir().unwrap();
        assert!(Snapshot::open(directory.path()).unwrap().is_none());
        let path = directory.path().join(FILE_NAME);
        fs::write(&path, "one\n").unwrap();
        let (first, second) = (taken(directory.path()), taken(directory.path()));
        first.claim().unwrap();
        assert!(matches!(second.claim(), Err(StoreError::Claimed { .. })));
        first.remove(&[].into()).unwrap();
        drop(first);
        assert!(matches!(second.claim(), Err(StoreError::Replaced { .. })));
        let third = taken(directory.path());
        fs::rename(&path, directory.path().join("away")).unwrap();
        fs::write(&path, "another\n").unwrap();
        assert!(matches!(third.remove(&[1].into()), Err(StoreError::Replaced { .. })));
        assert_eq!(fs::read_to_string(&path).unwrap(), "another\n");
        let missing = Snapshot::open(&directory.path().join("none")).unwrap_err();
        assert!(missing.to_string().contains("none could not be opened"), "{missing}");
    }
}
