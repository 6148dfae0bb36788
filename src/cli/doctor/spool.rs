//! What `hydrant doctor` sees of the spool, and what it thinks of that. Nothing is changed or locked.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::{Finding, Medium, Store};
use crate::buffer::opening;
use crate::config::SpoolConfig;
use crate::spool::inspect::{Inspection, Summary};
use crate::spool::{Disk, OpenError};

/// Largest spool whose bytes are all looked at: as much as a disk gives in some seconds.
const MOST_BYTES_READ: u64 = 1 << 30;

/// The spool's directory as it was found.
#[derive(Debug)]
pub(super) struct Sight {
    /// `None` where it can't be looked at.
    place: Option<Store>,
    /// What its files take on the disk.
    taken_bytes: u64,
    is_locked: bool,
    contents: Contents,
}

#[derive(Debug)]
enum Contents {
    /// Nothing was spooled yet.
    Nothing,
    /// More than there is time for.
    TooMuch,
    Read {
        summary: Summary,
        /// Files that are another spool's or can't be read.
        left_alone: usize,
    },
    /// A newer version's.
    Newer(String),
    /// Why it can't be read.
    Unreadable(String),
}

impl Sight {
    pub(super) fn look(directory: &Path) -> Self {
        let taken_bytes = taken(directory);
        Self {
            place: Store::look(directory),
            taken_bytes,
            is_locked: is_locked(&directory.join("lock")),
            contents: Contents::look(directory, taken_bytes),
        }
    }

    /// Bytes that it may take and has not taken yet.
    fn lacks(&self, config: &SpoolConfig) -> u64 {
        config.limit_bytes.saturating_sub(self.taken_bytes)
    }
}

impl Contents {
    fn look(directory: &Path, bytes: u64) -> Self {
        if !directory.exists() {
            return Self::Nothing;
        }
        if bytes > MOST_BYTES_READ {
            return Self::TooMuch;
        }
        let disk = match Disk::look(directory) {
            Ok(disk) => disk,
            Err(error) => return Self::Unreadable(with_cause(&error)),
        };
        match Inspection::new(disk) {
            Ok(inspection) => {
                Self::Read { summary: inspection.summary(), left_alone: inspection.survey().unusable.len() }
            }
            Err(error @ OpenError::Version { .. }) => Self::Newer(error.to_string()),
            Err(error @ OpenError::List(_)) => Self::Unreadable(with_cause(&error)),
        }
    }
}

fn with_cause(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"))
}

/// Bytes that the files in `directory` take, what is reserved for them included.
fn taken(directory: &Path) -> u64 {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.metadata().ok()).map(|file| file.blocks() * 512).sum()
}

/// Whether a process holds the lock. Asked of the kernel's list: trying the lock would turn a daemon
/// away that starts in the same moment.
fn is_locked(lock: &Path) -> bool {
    let inode = fs::metadata(lock).ok().map(|file| file.ino());
    let locks = fs::read_to_string("/proc/locks").unwrap_or_default();
    inode.is_some_and(|inode| locks.lines().any(|line| is_lock_of(line, inode)))
}

/// Whether a line of `/proc/locks` is of an exclusive `flock` on this inode (`proc_locks(5)`). The device
/// beside the inode is left out: overlayfs and btrfs show another one there than `stat(2)` does.
fn is_lock_of(line: &str, inode: u64) -> bool {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [_, "FLOCK", _, "WRITE", _, file, ..] = words.as_slice() else { return false };
    file.rsplit(':').next().and_then(|inode| inode.parse().ok()) == Some(inode)
}

/// What is to be seen of the spool of each of `streams`.
pub(super) fn look(config: &SpoolConfig, streams: &[&str]) -> Vec<(String, SpoolConfig, Sight)> {
    let spools = streams.iter().zip(opening::divide(config, streams));
    spools.map(|(name, spool)| ((*name).to_owned(), spool.clone(), Sight::look(&spool.directory))).collect()
}

/// What is to be thought of the directories, and of what is in them; each is named if there are `several`.
pub(super) fn spools(spools: &[(String, SpoolConfig, Sight)], several: bool) -> Vec<Finding> {
    if spools.is_empty() {
        let without = "without a directory, what is held when the daemon is killed is gone";
        return vec![Finding::warning("spool", without).remedy("set `buffer.directory`")];
    }
    // They are on one disk, and each may take what it lacks.
    let mut promised = 0_u64;
    let judge = |(name, config, sight): &(String, SpoolConfig, Sight)| {
        let findings = spool(sight, config, promised);
        promised = promised.saturating_add(sight.lacks(config));
        let whose = several.then_some(&**name);
        findings.into_iter().map(|finding| finding.of(whose)).collect::<Vec<_>>()
    };
    spools.iter().flat_map(judge).collect()
}

/// What is to be thought of records that may wait in `directory`, of a stream that nobody feeds any more.
pub(super) fn left(stream: &str, directory: &Path) -> Finding {
    let sentence =
        format!("{} may have records of a stream that nothing feeds any more", directory.display());
    let remedy = format!("let a listener or `route` name {stream} until they are delivered");
    Finding::warning("spooled records", sentence).of(Some(stream)).remedy(remedy)
}

fn spool(sight: &Sight, config: &SpoolConfig, promised: u64) -> Vec<Finding> {
    let inside = contents(sight, &config.directory);
    [directory(sight, config, promised)].into_iter().chain(inside).collect()
}

/// `promised` is what other spools on the disk may take still.
fn directory(sight: &Sight, config: &SpoolConfig, promised: u64) -> Finding {
    let (subject, shown) = ("spool", config.directory.display());
    let Some(place) = &sight.place else {
        return Finding::problem(subject, format!("{shown} cannot be looked at"))
            .remedy("give this user access to it");
    };
    if !place.writable {
        return Finding::problem(subject, format!("{shown} cannot be written to"))
            .remedy("give it to this user");
    }
    match place.medium {
        Medium::Memory => {
            return Finding::warning(subject, format!("{shown} is in memory and does not outlive a reboot"))
                .remedy("choose a directory on a disk");
        }
        Medium::Network => {
            return Finding::warning(
                subject,
                format!(
                    "{shown} is on a network file system, whose locks and syncs are as good as its server"
                ),
            )
            .remedy("choose a directory on a local disk or a volume of this host's own");
        }
        Medium::Disk => {}
    }
    let lacks = sight.lacks(config);
    let free = place.free_bytes.saturating_sub(promised);
    if free < lacks {
        let (limit, taken) = (config.limit_bytes, sight.taken_bytes);
        let beside = match promised {
            0 => String::new(),
            promised => format!(" beside the {promised} that other streams' may take"),
        };
        return Finding::warning(
            subject,
            format!(
                "{shown} has {free} bytes free{beside}, and may take {lacks} more: {limit}, of which it has {taken}"
            ),
        )
        .remedy("free some, or lower `buffer.disk`");
    }
    let used = if sight.is_locked { ", in use by a running hydrant" } else { "" };
    Finding::ok(subject, format!("{shown} is writable and has room{used}"))
}

fn contents(sight: &Sight, directory: &Path) -> Option<Finding> {
    let (subject, shown) = ("spooled records", directory.display());
    let look = format!("`hydrant spool verify {shown}` says where");
    match &sight.contents {
        Contents::Nothing => None,
        Contents::TooMuch => {
            let sentence = format!("not looked at, being {} bytes", sight.taken_bytes);
            Some(Finding::ok(subject, sentence).remedy(format!("`hydrant spool verify {shown}` does")))
        }
        Contents::Newer(reason) => Some(Finding::problem(subject, reason)),
        Contents::Unreadable(reason) => {
            Some(Finding::problem(subject, reason).remedy("give this user access to the directory"))
        }
        Contents::Read { summary, .. } if !summary.is_sound() => {
            let Summary { damaged_bytes, missing_records, unreadable_bytes, .. } = summary;
            let sentence = format!(
                "{damaged_bytes} bytes are damaged, {missing_records} records missing, {unreadable_bytes} bytes \
                 unreadable; the rest is delivered"
            );
            Some(Finding::warning(subject, sentence).remedy(look))
        }
        Contents::Read { left_alone, .. } if *left_alone > 0 => {
            let sentence = format!("{left_alone} files are another spool's or unreadable, and left alone");
            Some(Finding::warning(subject, sentence).remedy(look))
        }
        Contents::Read { summary, .. } => {
            let live = &summary.live;
            Some(Finding::ok(subject, format!("{} records of {} bytes wait", live.records, live.bytes)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::BufferSync;
    use crate::spool::{Options, Sync, open};

    use super::super::Level;

    const MIB: u64 = 1 << 20;

    fn config(directory: &Path) -> SpoolConfig {
        SpoolConfig { directory: directory.to_owned(), limit_bytes: 4 * MIB, sync: BufferSync::Always }
    }

    fn levels(directory: &Path) -> Vec<Level> {
        let config = config(directory);
        spool(&Sight::look(directory), &config, 0).iter().map(|finding| finding.level).collect()
    }

    // R-M16
    #[test]
    fn a_spool_wants_a_writable_local_disk_with_room_for_what_it_lacks() {
        let config = config(Path::new("/spool"));
        let check = |writable, medium, free_bytes, expected| {
            let place = Store { directory: config.directory.clone(), writable, medium, free_bytes };
            let sight =
                Sight { place: Some(place), taken_bytes: MIB, is_locked: false, contents: Contents::Nothing };
            let found = spool(&sight, &config, 0);
            assert_eq!(
                found.iter().map(|finding| finding.level).collect::<Vec<_>>(),
                [expected],
                "{sight:?}"
            );
            found.into_iter().map(|finding| finding.to_string()).collect::<String>()
        };
        check(true, Medium::Disk, 3 * MIB, Level::Ok);
        let said = check(true, Medium::Disk, 3 * MIB - 1, Level::Warning);
        assert!(
            ["3145727 bytes free", "3145728 more", "4194304", "1048576"]
                .iter()
                .all(|figure| said.contains(figure)),
            "{said}"
        );
        check(true, Medium::Memory, 3 * MIB, Level::Warning);
        check(true, Medium::Network, 3 * MIB, Level::Warning);
        check(false, Medium::Disk, 3 * MIB, Level::Problem);
        let sight = Sight { place: None, taken_bytes: 0, is_locked: false, contents: Contents::Nothing };
        assert_eq!(spool(&sight, &config, 0).first().map(|it| it.level), Some(Level::Problem));
        assert_eq!(spools(&[], false).first().map(|it| it.level), Some(Level::Warning));
    }

    // R-V12
    #[test]
    fn each_streams_spool_is_looked_at_and_all_of_them_want_room_on_the_one_disk() {
        let config = config(Path::new("/spool"));
        let names = ["app", "audit", "web"];
        let spools: Vec<_> = names.into_iter().zip(opening::divide(&config, &names)).collect();
        let look = |free_bytes| {
            let sights = spools.iter().map(|(name, spool)| {
                let (directory, medium) = (spool.directory.clone(), Medium::Disk);
                let place = Store { directory, writable: true, medium, free_bytes };
                let contents = Contents::Nothing;
                let sight = Sight { place: Some(place), taken_bytes: 0, is_locked: false, contents };
                (String::from(*name), spool.clone(), sight)
            });
            let found = super::spools(&sights.collect::<Vec<_>>(), true);
            found.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        let each = 4 * MIB / 3;
        assert_eq!(
            look(3 * each),
            [
                "ok       spool [app]: /spool is writable and has room",
                "ok       spool [audit]: /spool/stream-audit is writable and has room",
                "ok       spool [web]: /spool/stream-web is writable and has room",
            ]
        );
        let [app, audit, web] = &look(3 * each - 1)[..] else { panic!("three findings") };
        assert!(app.starts_with("ok ") && audit.starts_with("ok "), "{app}\n{audit}");
        let said = format!(
            "warning  spool [web]: /spool/stream-web has {} bytes free beside the {} that other streams' may take",
            each - 1,
            2 * each
        );
        assert!(web.starts_with(&said), "{web}");
    }

    // R-M16
    #[test]
    fn what_is_in_a_spool_is_looked_at_beside_a_daemon_and_without_one() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("spool");
        assert!(!Sight::look(&path).is_locked);
        let mut opened = open(Disk::open(&path).unwrap(), Options::new(4 * MIB, Sync::Os, 1)).unwrap().spool;
        opened.append(1_000, &[2, 4, 6], b"a\nb\nc\n").unwrap();
        let sight = Sight::look(&path);
        assert!(sight.is_locked, "{}", fs::read_to_string("/proc/locks").unwrap());
        let said = contents(&sight, &path).unwrap().to_string();
        assert_eq!(said, "ok       spooled records: 3 records of 6 bytes wait");
        drop(opened);
        assert!(!Sight::look(&path).is_locked);
        let segment = path.join("00000000000000000001.segment");
        let sound = fs::read(&segment).unwrap();
        let mut damaged = [&sound[..], &sound[64..]].concat();
        damaged[70] ^= 1;
        fs::write(&segment, &damaged).unwrap();
        let found = contents(&Sight::look(&path), &path).unwrap();
        assert_eq!(found.level, Level::Warning, "{found}");
        assert!(found.to_string().contains(&format!("hydrant spool verify {}", path.display())), "{found}");
        let mut newer = sound;
        newer[8..12].copy_from_slice(&2_u32.to_le_bytes());
        let crc = crc32c::crc32c(&newer[..12]);
        newer[12..16].copy_from_slice(&crc.to_le_bytes());
        fs::write(&segment, &newer).unwrap();
        assert_eq!(levels(&path).last(), Some(&Level::Problem));
    }

    #[test]
    fn a_lock_is_found_in_the_kernels_list_by_its_inode() {
        let line = "1: FLOCK  ADVISORY  WRITE 1234 08:01:131 0 EOF";
        assert!(is_lock_of(line, 131));
        assert!(!is_lock_of(line, 31));
        assert!(!is_lock_of(&line.replace("WRITE", "READ"), 131));
        assert!(!is_lock_of(&line.replace("FLOCK", "POSIX"), 131));
        assert!(!is_lock_of("", 0));
    }
}
