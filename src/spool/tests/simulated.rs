//! A disk in memory that can stop, fail, and forget what was never synced.

use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::sync::{Arc, Mutex, MutexGuard};

use fastrand::Rng;

use crate::spool::{Access, Entry, Storage};

/// What is left of unsynced changes after a power cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Persistence {
    /// None.
    Synced,
    /// All: what a killed process leaves behind.
    All,
    /// Any sectors, any length between, any names.
    Sectors,
    /// Any changes, later ones without earlier ones.
    Reordered,
    /// The lengths and names, but none of the bytes.
    SizeWithoutData,
}

impl Persistence {
    pub(super) const EVERY: [Self; 5] =
        [Self::Synced, Self::All, Self::Sectors, Self::Reordered, Self::SizeWithoutData];
}

/// The kind of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Call {
    List,
    Create,
    Open,
    Preallocate,
    Write,
    Read,
    Truncate,
    SyncData,
    SyncDirectory,
    Rename,
    Remove,
}

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// Fails with this error number; a write may have written some of its bytes.
    Errno(i32),
    /// A write or read does a part of what it should and says so.
    Short,
}

#[derive(Debug, Clone)]
enum Change {
    Write(usize, Vec<u8>),
    Length(usize),
}

#[derive(Debug, Clone, Default)]
struct Inode {
    durable: Vec<u8>,
    current: Vec<u8>,
    changes: Vec<Change>,
}

#[derive(Debug, Clone)]
enum Naming {
    Create(String, usize),
    Rename(String, String),
    Remove(String),
}

#[derive(Debug, Clone)]
struct State {
    inodes: Vec<Inode>,
    durable_names: BTreeMap<String, usize>,
    names: BTreeMap<String, usize>,
    namings: Vec<Naming>,
    calls: Vec<(Call, usize)>,
    stop_at: Option<usize>,
    stopped: bool,
    faults: Option<(std::ops::Range<usize>, Fault)>,
    unreadable: Vec<String>,
    rng: Rng,
}

/// The disk; clones are the same one.
#[derive(Debug, Clone)]
pub(super) struct Simulated(Arc<Mutex<State>>);

impl Simulated {
    pub(super) fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(State {
            inodes: Vec::new(),
            durable_names: BTreeMap::new(),
            names: BTreeMap::new(),
            namings: Vec::new(),
            calls: Vec::new(),
            stop_at: None,
            stopped: false,
            faults: None,
            unreadable: Vec::new(),
            rng: Rng::with_seed(seed),
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// Another disk with the same state.
    pub(super) fn copy(&self) -> Self {
        Self(Arc::new(Mutex::new(self.state().clone())))
    }

    /// Lets the `n`-th call from now, and all after it, fail: the machine has stopped.
    pub(super) fn stop_at(self, n: usize) -> Self {
        self.state().stop_at = Some(n);
        self
    }

    /// Lets the calls of these numbers fail.
    pub(super) fn fail(self, calls: std::ops::Range<usize>, fault: Fault) -> Self {
        self.state().faults = Some((calls, fault));
        self
    }

    pub(super) fn has_stopped(&self) -> bool {
        self.state().stopped
    }

    /// The calls so far, each with the file it was on.
    pub(super) fn calls(&self) -> Vec<(Call, usize)> {
        self.state().calls.clone()
    }

    /// The disk after a crash now, as the next start finds it. What a killed process leaves to the
    /// kernel is there and still not durable.
    pub(super) fn crash(&self, persistence: Persistence, seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let state = self.state();
        let crashed = Self::new(rng.u64(..));
        if persistence == Persistence::All {
            let mut new = crashed.state();
            new.inodes = state.inodes.clone();
            new.names = state.names.clone();
            new.durable_names = state.durable_names.clone();
            new.namings = state.namings.clone();
        } else {
            let mut new = crashed.state();
            new.inodes = state.inodes.iter().map(|inode| inode.after(persistence, &mut rng)).collect();
            new.names = state.names_after(persistence, &mut rng);
            new.durable_names = new.names.clone();
        }
        crashed
    }

    /// Every file with its contents.
    pub(super) fn files(&self) -> BTreeMap<String, Vec<u8>> {
        let state = self.state();
        state.names.iter().map(|(name, inode)| (name.clone(), state.inodes[*inode].current.clone())).collect()
    }

    /// A disk with these files, all durable.
    pub(super) fn with(files: &BTreeMap<String, Vec<u8>>) -> Self {
        let disk = Self::new(0);
        {
            let mut state = disk.state();
            for (name, bytes) in files {
                let inode = state.inodes.len();
                let (durable, current) = (bytes.clone(), bytes.clone());
                state.inodes.push(Inode { durable, current, changes: Vec::new() });
                state.names.insert(name.clone(), inode);
            }
            state.durable_names = state.names.clone();
        }
        disk
    }

    /// Lets every read of this file fail.
    pub(super) fn unreadable(self, name: &str) -> Self {
        self.state().unreadable.push(name.to_owned());
        self
    }

    /// Counts the call, and fails it if that is its lot; `true` where it should be cut short.
    fn enter(&self, call: Call, inode: usize) -> io::Result<(MutexGuard<'_, State>, bool)> {
        let mut state = self.state();
        let number = state.calls.len();
        state.calls.push((call, inode));
        state.stopped |= state.stop_at == Some(number);
        if state.stopped {
            // Of the write that was under way some may be there.
            let under_way = call == Call::Write && state.stop_at == Some(number);
            return if under_way {
                Ok((state, true))
            } else {
                Err(io::Error::other("the machine has stopped"))
            };
        }
        match state.faults.clone() {
            Some((calls, fault)) if calls.contains(&number) => match fault {
                Fault::Errno(errno) if call != Call::Write => Err(io::Error::from_raw_os_error(errno)),
                Fault::Errno(_) | Fault::Short => Ok((state, true)),
            },
            _ => Ok((state, false)),
        }
    }
}

impl Inode {
    fn after(&self, persistence: Persistence, rng: &mut Rng) -> Self {
        let bytes = match persistence {
            Persistence::Synced => self.durable.clone(),
            Persistence::All => self.current.clone(),
            Persistence::SizeWithoutData => {
                let mut bytes = self.durable.clone();
                bytes.resize(self.current.len(), 0);
                bytes
            }
            Persistence::Reordered => {
                let mut bytes = self.durable.clone();
                let kept = self.changes.iter().filter(|_| rng.bool());
                kept.for_each(|change| change.apply(&mut bytes));
                bytes
            }
            Persistence::Sectors => self.sectors(rng),
        };
        Self { durable: bytes.clone(), current: bytes, changes: Vec::new() }
    }

    fn sectors(&self, rng: &mut Rng) -> Vec<u8> {
        let (shorter, longer) =
            (self.durable.len().min(self.current.len()), self.durable.len().max(self.current.len()));
        let mut bytes = self.durable.clone();
        bytes.resize(rng.usize(shorter..=longer), 0);
        for (index, sector) in bytes.chunks_mut(512).enumerate() {
            if rng.bool() {
                let new = self.current.get(index * 512..).unwrap_or_default();
                let length = new.len().min(sector.len());
                sector[..length].copy_from_slice(&new[..length]);
            }
        }
        bytes
    }
}

impl Change {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Length(length) => bytes.resize(*length, 0),
            Self::Write(offset, written) => {
                let end = offset + written.len();
                if bytes.len() < end {
                    bytes.resize(end, 0);
                }
                bytes[*offset..end].copy_from_slice(written);
            }
        }
    }
}

impl State {
    fn names_after(&self, persistence: Persistence, rng: &mut Rng) -> BTreeMap<String, usize> {
        match persistence {
            Persistence::Synced => self.durable_names.clone(),
            Persistence::All | Persistence::SizeWithoutData => self.names.clone(),
            Persistence::Sectors | Persistence::Reordered => {
                let mut names = self.durable_names.clone();
                let kept = self.namings.iter().filter(|_| rng.bool());
                kept.for_each(|naming| naming.apply(&mut names));
                names
            }
        }
    }

    fn rename(&mut self, naming: Naming) {
        naming.apply(&mut self.names);
        self.namings.push(naming);
    }

    fn change(&mut self, inode: usize, change: Change) {
        let inode = &mut self.inodes[inode];
        change.apply(&mut inode.current);
        inode.changes.push(change);
    }
}

impl Naming {
    fn apply(&self, names: &mut BTreeMap<String, usize>) {
        match self {
            Self::Create(name, inode) => {
                names.insert(name.clone(), *inode);
            }
            Self::Remove(name) => {
                names.remove(name);
            }
            Self::Rename(from, to) => {
                if let Some(inode) = names.remove(from) {
                    names.insert(to.clone(), inode);
                }
            }
        }
    }
}

fn missing() -> io::Error {
    io::ErrorKind::NotFound.into()
}

impl Storage for Simulated {
    type File = usize;

    fn list(&self) -> io::Result<Vec<Entry>> {
        let (state, _) = self.enter(Call::List, usize::MAX)?;
        let entry = |(name, inode): (&String, &usize)| Entry {
            name: name.clone(),
            bytes: state.inodes[*inode].current.len() as u64,
        };
        Ok(state.names.iter().map(entry).collect())
    }

    fn create(&self, name: &str) -> io::Result<usize> {
        let (mut state, _) = self.enter(Call::Create, usize::MAX)?;
        if state.names.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let inode = state.inodes.len();
        state.inodes.push(Inode::default());
        state.rename(Naming::Create(name.to_owned(), inode));
        Ok(inode)
    }

    fn open(&self, name: &str, _: Access) -> io::Result<usize> {
        let (state, _) = self.enter(Call::Open, usize::MAX)?;
        if state.unreadable.iter().any(|unreadable| unreadable == name) {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        state.names.get(name).copied().ok_or_else(missing)
    }

    fn preallocate(&self, file: &usize, _: u64) -> io::Result<()> {
        self.enter(Call::Preallocate, *file).map(drop)
    }

    fn write_at(&self, file: &usize, offset: u64, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        let (mut state, cut) = self.enter(Call::Write, *file)?;
        let mut bytes = parts.iter().map(|part| &**part).collect::<Vec<_>>().concat();
        if cut {
            let kept = state.rng.usize(0..bytes.len());
            // What lies in one sector, and so in one page, is written as a whole or not at all.
            let is_short = matches!(&state.faults, Some((_, Fault::Short)));
            let end = offset + bytes.len() as u64;
            let kept =
                if offset / 512 == (end - 1) / 512 && !is_short { kept % 2 * bytes.len() } else { kept };
            bytes.truncate(if state.stopped { kept } else { kept.max(1) });
        }
        let written = bytes.len();
        let fault = state.faults.clone().filter(|_| cut && !state.stopped);
        state.change(*file, Change::Write(usize::try_from(offset).unwrap(), bytes));
        match fault {
            _ if state.stopped => Err(io::Error::other("the machine has stopped")),
            Some((_, Fault::Errno(errno))) => Err(io::Error::from_raw_os_error(errno)),
            _ => Ok(written),
        }
    }

    fn read_at(&self, file: &usize, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        let (mut state, cut) = self.enter(Call::Read, *file)?;
        let limit = if cut && into.len() > 1 { state.rng.usize(1..into.len()) } else { into.len() };
        let bytes = state.inodes[*file].current.get(usize::try_from(offset).unwrap()..).unwrap_or_default();
        let length = bytes.len().min(limit);
        into[..length].copy_from_slice(&bytes[..length]);
        Ok(length)
    }

    fn truncate(&self, file: &usize, bytes: u64) -> io::Result<()> {
        let (mut state, _) = self.enter(Call::Truncate, *file)?;
        state.change(*file, Change::Length(usize::try_from(bytes).unwrap()));
        Ok(())
    }

    fn sync_data(&self, file: &usize) -> io::Result<()> {
        let (mut state, _) = self.enter(Call::SyncData, *file)?;
        let inode = &mut state.inodes[*file];
        inode.durable = inode.current.clone();
        inode.changes.clear();
        Ok(())
    }

    fn sync_directory(&self) -> io::Result<()> {
        let (mut state, _) = self.enter(Call::SyncDirectory, usize::MAX)?;
        state.durable_names = state.names.clone();
        state.namings.clear();
        Ok(())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let (mut state, _) = self.enter(Call::Rename, usize::MAX)?;
        if !state.names.contains_key(from) {
            return Err(missing());
        }
        state.rename(Naming::Rename(from.to_owned(), to.to_owned()));
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let (mut state, _) = self.enter(Call::Remove, usize::MAX)?;
        if !state.names.contains_key(name) {
            return Err(missing());
        }
        state.rename(Naming::Remove(name.to_owned()));
        Ok(())
    }
}
