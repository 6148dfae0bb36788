//! The spool: it starts on whatever is in its directory, delivers what it finds, takes records, and starts again with
//! the same.

use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hydrant::spool::layout::segment_name;
use hydrant::spool::{Access, Entry, OpenError, Opened, Options, Slot, Storage, Sync, open};

use super::Input;

const OPTIONS: Options =
    Options { limit_bytes: 1 << 30, segment_bytes: 800, sync: Sync::Always, identity: 0x5eed };

type Contents = Arc<Mutex<Vec<u8>>>;

/// A directory in memory; clones are the same one.
#[derive(Debug, Clone, Default)]
struct Memory(Arc<Mutex<BTreeMap<String, Contents>>>);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Memory {
    fn with(files: &BTreeMap<String, Vec<u8>>) -> Self {
        let contents = |bytes: &Vec<u8>| Arc::new(Mutex::new(bytes.clone()));
        let files = files.iter().map(|(name, bytes)| (name.clone(), contents(bytes)));
        Self(Arc::new(Mutex::new(files.collect())))
    }

    fn files(&self) -> BTreeMap<String, Vec<u8>> {
        lock(&self.0).iter().map(|(name, bytes)| (name.clone(), lock(bytes).clone())).collect()
    }
}

fn missing() -> io::Error {
    io::ErrorKind::NotFound.into()
}

impl Storage for Memory {
    type File = Contents;

    fn list(&self) -> io::Result<Vec<Entry>> {
        let entry = |(name, bytes): (&String, &Contents)| Entry {
            name: name.clone(),
            bytes: lock(bytes).len() as u64,
        };
        Ok(lock(&self.0).iter().map(entry).collect())
    }

    fn create(&self, name: &str) -> io::Result<Contents> {
        let mut files = lock(&self.0);
        if files.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        Ok(files.entry(name.to_owned()).or_default().clone())
    }

    fn open(&self, name: &str, _: Access) -> io::Result<Contents> {
        lock(&self.0).get(name).cloned().ok_or_else(missing)
    }

    fn preallocate(&self, _: &Contents, _: u64) -> io::Result<()> {
        Ok(())
    }

    fn write_at(&self, file: &Contents, offset: u64, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut bytes = lock(file);
        let written = parts.iter().map(|part| &**part).collect::<Vec<_>>().concat();
        let start = usize::try_from(offset).unwrap();
        let end = start + written.len();
        assert!(end < 1 << 26, "a write far behind the end");
        if bytes.len() < end {
            bytes.resize(end, 0);
        }
        bytes[start..end].copy_from_slice(&written);
        Ok(written.len())
    }

    fn read_at(&self, file: &Contents, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        let bytes = lock(file);
        let bytes = usize::try_from(offset).ok().and_then(|start| bytes.get(start..)).unwrap_or_default();
        let length = bytes.len().min(into.len());
        into[..length].copy_from_slice(&bytes[..length]);
        Ok(length)
    }

    fn truncate(&self, file: &Contents, bytes: u64) -> io::Result<()> {
        lock(file).resize(usize::try_from(bytes).unwrap(), 0);
        Ok(())
    }

    fn sync_data(&self, _: &Contents) -> io::Result<()> {
        Ok(())
    }

    fn sync_directory(&self) -> io::Result<()> {
        Ok(())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut files = lock(&self.0);
        let file = files.remove(from).ok_or_else(missing)?;
        files.insert(to.to_owned(), file);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        lock(&self.0).remove(name).map(drop).ok_or_else(missing)
    }
}

/// Several segments, of whose records some are settled.
fn sound() -> BTreeMap<String, Vec<u8>> {
    let memory = Memory::default();
    let mut spool = open(memory.clone(), OPTIONS).unwrap().spool;
    for records in [2_u8, 1, 5, 1, 3, 2, 4, 1] {
        let (mut data, mut ends) = (Vec::new(), Vec::new());
        for record in 0..records {
            data.extend(std::iter::repeat_n(b'a' + record, 20 * usize::from(records)));
            data.push(b'\n');
            ends.push(u32::try_from(data.len()).unwrap());
        }
        spool.append(1_000, &ends, &data).unwrap();
        spool.sync().unwrap();
    }
    [3..5, 9..10].into_iter().for_each(|range| spool.settle(range));
    spool.checkpoint().unwrap();
    drop(spool);
    memory.files()
}

/// Files as they come, or a sound spool with changes.
fn directory(input: &mut Input<'_>) -> BTreeMap<String, Vec<u8>> {
    let choice = input.byte();
    let name = |number: u8| match number % 8 {
        number @ 0..5 => segment_name(number.into()),
        5 => segment_name(u64::MAX),
        6 => "watermark".to_owned(),
        _ => "stranger".to_owned(),
    };
    let mut files = if choice & 1 == 0 { BTreeMap::new() } else { sound() };
    for _ in 0..20 {
        if input.0.is_empty() {
            break;
        }
        let (change, file, at) = (input.byte(), name(input.byte()), input.short());
        match change % 5 {
            0 => {
                let bytes = files.entry(file).or_default();
                let written = input.bytes(at % 4096);
                let at = at % (bytes.len() + 1);
                let end = bytes.len().min(at + written.len());
                bytes.splice(at..end, written.iter().copied());
            }
            1 => {
                let bytes = files.entry(file).or_default();
                bytes.truncate(at % (bytes.len() + 1));
            }
            2 => {
                // A copy, or under another name.
                let found = if at & 1 == 0 { files.remove(&file) } else { files.get(&file).cloned() };
                files.extend(found.map(|bytes| (name(input.byte()), bytes)));
            }
            3 => {
                // A field of a few bytes.
                let written = input.bytes(usize::from(change) / 5 % 9);
                let bytes = files.entry(file).or_default();
                let at = at % (bytes.len() + 1);
                let places = bytes.iter_mut().skip(at).zip(written);
                places.for_each(|(place, byte)| *place = *byte);
            }
            _ => {
                let bytes = files.entry(file).or_default();
                let at = at % (bytes.len() + 1);
                bytes[at..].iter_mut().take(usize::from(input.byte())).for_each(|byte| *byte = 0);
            }
        }
    }
    if choice & 2 != 0 {
        for (name, bytes) in &mut files {
            if name == "watermark" {
                bytes.chunks_mut(4096).for_each(seal_slot);
            } else {
                seal_segment(bytes);
            }
        }
    }
    files
}

/// Makes the CRC at `at` that of `covered`, if there are so many bytes.
fn seal(bytes: &mut [u8], covered: std::ops::Range<usize>, at: usize) {
    let Some(crc) = bytes.get(covered).map(crc32c::crc32c) else { return };
    if let Some(place) = bytes.get_mut(at..at + 4) {
        place.copy_from_slice(&crc.to_le_bytes());
    }
}

fn number(bytes: &[u8], at: usize) -> usize {
    let number = bytes.get(at..).and_then(|bytes| bytes.first_chunk());
    number.map_or(0, |number| u32::from_le_bytes(*number) as usize)
}

/// Keeps the number that ends at `last` from being the last one that there is.
fn below_the_end(bytes: &mut [u8], last: usize) {
    bytes.iter_mut().skip(last).take(1).filter(|byte| **byte == 0x7f).for_each(|byte| *byte = 0x3f);
}

/// A slot that says what it says on purpose.
fn seal_slot(slot: &mut [u8]) {
    below_the_end(slot, 31);
    seal(slot, 0..12, 12);
    let ranges = number(slot, 44);
    if let (Some(covered), Some(ranges)) = (slot.get(..48), slot.get(52..52 + ranges)) {
        let crc = crc32c::crc32c_append(crc32c::crc32c(covered), ranges);
        slot[48..52].copy_from_slice(&crc.to_le_bytes());
    }
}

/// A segment that says what it says on purpose.
fn seal_segment(bytes: &mut [u8]) {
    below_the_end(bytes, 31);
    below_the_end(bytes, 55);
    seal(bytes, 0..12, 12);
    seal(bytes, 0..60, 60);
    let mut at = 64;
    while bytes.get(at..at + 4) == Some(b"HYF\x01") {
        let payload = number(bytes, at + 36) + number(bytes, at + 40);
        seal(bytes, at + 52..at + 52 + payload, at + 44);
        seal(bytes, at..at + 48, at + 48);
        at += 52 + payload;
    }
}

/// Takes everything that waits, and counts the records and their bytes.
fn drain(opened: &mut Opened<Memory>) -> (u64, u64) {
    let mut reader = opened.spool.reader();
    let (mut records, mut bytes) = (0, 0);
    for turn in 0.. {
        assert!(turn < 100_000, "it never ends");
        match opened.backlog.next(&mut reader) {
            Err(_) => {}
            Ok(None) => break,
            Ok(Some(waiting)) => {
                let frame = &waiting.frame;
                assert!(frame.ends.is_sorted());
                assert_eq!(frame.ends.last().copied(), u32::try_from(frame.bytes.len()).ok());
                let live = waiting.live_count();
                let parts: usize = waiting.parts().map(|(_, bytes, _)| bytes.len()).sum();
                assert_eq!(live.bytes, parts as u64);
                (records, bytes) = (records + live.records, bytes + live.bytes);
            }
        }
    }
    (records, bytes)
}

/// A directory.
pub fn spool(bytes: &[u8]) {
    let files = directory(&mut Input(bytes));
    let memory = Memory::with(&files);
    let mut opened = match open(memory.clone(), OPTIONS) {
        Ok(opened) => opened,
        // A later hydrant's: nothing is touched.
        Err(OpenError::Version { version, .. }) => {
            assert!(version != 1);
            assert_eq!(memory.files(), files);
            return;
        }
        Err(error) => panic!("it does not start: {error}"),
    };
    assert!(opened.report.failures.is_empty(), "{:?}", opened.report);
    let (records, waiting) = (opened.report.live.records, opened.report.live.bytes);
    assert_eq!(drain(&mut opened), (records, waiting), "{:?}", opened.report);
    if opened.spool.next_sequence() > 1 << 62 {
        // Somebody has made them up, so that few are left.
        return;
    }
    opened.spool.append(2_000, &[4], b"new\n").unwrap();
    opened.spool.sync().unwrap();
    opened.spool.checkpoint().unwrap();
    drop(opened);
    let mut again = open(memory, OPTIONS).unwrap();
    assert_eq!(drain(&mut again), (records + 1, waiting + 4), "{:?}", again.report);
    assert!(again.report.damage.iter().all(|damage| !damage.new), "{:?}", again.report);
}

/// A slot of the watermark, on purpose or not.
pub fn watermark(bytes: &[u8]) {
    let mut input = Input(bytes);
    let on_purpose = input.byte() % 2 == 1;
    let mut slot = input.0.to_vec();
    if on_purpose {
        seal_slot(&mut slot);
    }
    let Ok(Slot { settled, .. }) = Slot::decode(&slot) else { return };
    assert!(settled.low() <= settled.end());
    let unsettled = settled.unsettled(settled.low()..settled.end());
    assert!(unsettled >= settled.ranges() as u64, "ranges touch");
    let gaps: Vec<_> = settled.gaps(settled.low()..settled.end()).collect();
    assert_eq!(gaps.len(), settled.ranges());
    let mut whole = settled.clone();
    gaps.into_iter().for_each(|gap| whole.insert(gap));
    assert_eq!((whole.low(), whole.ranges()), (settled.end(), 0));
}
