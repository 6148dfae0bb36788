//! Moves what listeners bring to the buffers of several delivery streams, record by record.
//!
//! What is to be routed is read into a share of memory of its own, and moved to its stream's when that has
//! room: so what waits for one stream holds nothing of another's. What has room goes at once; only then is
//! waited for the rest, by that connection alone.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use super::routes::Routes;
use super::stamp::Stamp;
use super::{CHUNK_OVERHEAD_BYTES, Count, DropReason, Intake};
use crate::budget::Reservation;
use crate::record::{Chunk, Claim, Origin};
use crate::telemetry::now;
use crate::telemetry::quiet::Quiet;

/// The buffers of all streams, and which record goes to which.
#[derive(Debug)]
pub struct Router {
    /// By their index in [`Routes`].
    intakes: Vec<Intake>,
    routes: RwLock<Arc<Routes>>,
    stamps: Option<Arc<Stamps>>,
    drops: Mutex<Quiet>,
}

/// Stamps of a daemon, numbered by stream.
#[derive(Debug)]
pub struct Stamps {
    stamp: Stamp,
    next: Vec<AtomicU64>,
}

impl Stamps {
    /// Numbered from 0 for each of so many streams.
    #[must_use]
    pub fn new(stamp: Stamp, streams: usize) -> Self {
        Self { stamp, next: (0..streams).map(|_| AtomicU64::new(0)).collect() }
    }

    /// Appends `record`, stamped if it can be.
    fn append(&self, record: &[u8], stream: usize, records: &mut Vec<u8>) {
        let Some(next) = self.next.get(stream) else { return };
        // Nobody else counts meanwhile, since everything that is routed is on one thread; and if somebody did,
        // a number would only be left out.
        if self.stamp.append(record, next.load(Ordering::Relaxed), records) {
            next.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Router {
    /// Over `intakes`, by `routes`, which names no others.
    #[must_use]
    pub fn new(intakes: Vec<Intake>, routes: Routes, stamps: Option<Arc<Stamps>>) -> Self {
        let drops = Mutex::new(Quiet::new(1, Duration::from_secs(10)));
        Self { intakes, routes: RwLock::new(Arc::new(routes)), stamps, drops }
    }

    /// Goes by `routes` from the next chunk on.
    pub fn change(&self, routes: Routes) {
        *self.routes.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(routes);
    }

    fn say_dropped(&self, Count { records, bytes }: Count) {
        let say = self.drops.lock().unwrap_or_else(PoisonError::into_inner).say(now());
        if let Some(suppressed) = say {
            let reason = DropReason::BufferFull.label();
            tracing::error!(records, bytes, reason, suppressed, "Records dropped.");
        }
    }

    /// Hands the records of `chunk` over to their streams' buffers. Must not be dropped before it is done.
    pub(super) async fn accept(&self, chunk: Chunk) {
        let routes = Arc::clone(&self.routes.read().unwrap_or_else(PoisonError::into_inner));
        let mut parts = split(&chunk, &routes, self.stamps.as_deref());
        for part in &parts {
            if let Some(intake) = self.intakes.get(part.stream) {
                intake.ledger.received(part.count());
            }
        }
        // Those that there is room for first, so that the others hold up nobody's records.
        for waits in [false, true] {
            for part in std::mem::take(&mut parts) {
                let Some(intake) = self.intakes.get(part.stream) else { continue };
                let room = match intake.try_reserve(part.needed()) {
                    None if !waits => {
                        parts.push(part);
                        continue;
                    }
                    None => intake.reserve(part.needed()).await,
                    room => room,
                };
                let count = part.count();
                let Some(hold) = room else {
                    intake.ledger.dropped(DropReason::BufferFull, count);
                    self.say_dropped(count);
                    continue;
                };
                if intake.chunks.send(part.into_chunk(&chunk, hold)).await.is_err() {
                    // The flush task is gone, which only a second signal brings about.
                    intake.ledger.dropped(DropReason::Shutdown, count);
                }
            }
        }
    }
}

/// The records of a chunk that go to one stream.
#[derive(Debug, Default)]
struct Part {
    stream: usize,
    records: Vec<u8>,
    ends: Vec<u32>,
    /// Where in the chunk they are: first record and number of records, ascending.
    runs: Vec<(u64, u64)>,
}

/// `chunk` by streams, in the order of their first records.
fn split(chunk: &Chunk, routes: &Routes, stamps: Option<&Stamps>) -> Vec<Part> {
    let mut parts: Vec<Part> = Vec::new();
    let mut start = 0;
    for (index, end) in (0_u64..).zip(chunk.ends()) {
        let record = chunk.data().get(start..*end as usize).unwrap_or_default();
        start = *end as usize;
        let stream = routes.stream_of(record);
        let at = parts.iter().position(|part| part.stream == stream).unwrap_or_else(|| {
            parts.push(Part { stream, ..Part::default() });
            parts.len() - 1
        });
        let Some(part) = parts.get_mut(at) else { continue };
        match stamps {
            None => part.records.extend_from_slice(record),
            Some(stamps) => stamps.append(record, stream, &mut part.records),
        }
        part.ends.push(u32::try_from(part.records.len()).unwrap_or(u32::MAX));
        match part.runs.last_mut() {
            Some((first, count)) if *first + *count == index => *count += 1,
            _ => part.runs.push((index, 1)),
        }
    }
    parts
}

impl Part {
    fn count(&self) -> Count {
        Count::of(self.ends.len(), self.records.len())
    }

    /// Memory that it takes as a chunk.
    fn needed(&self) -> usize {
        self.records.len() + self.ends.len() * size_of::<u32>() + CHUNK_OVERHEAD_BYTES
    }

    /// A chunk of its own, of which those are told who are to be told of `whole`.
    fn into_chunk(self, whole: &Chunk, hold: Reservation) -> Chunk {
        let Self { mut records, ends, runs, .. } = self;
        records.shrink_to_fit();
        let claim = whole.any_claim().map(|claim| Claim {
            origin: Arc::new(Scattered { claim: claim.clone(), runs }),
            level: claim.level,
            first: 0,
        });
        Chunk::new(records.into(), ends.into(), whole.received(), hold).with_claim(claim)
    }
}

/// Some records of a chunk, numbered from 0, whose producer knows them by other numbers.
#[derive(Debug)]
struct Scattered {
    /// The chunk's.
    claim: Claim,
    /// As of [`Part`].
    runs: Vec<(u64, u64)>,
}

impl Origin for Scattered {
    fn reached(&self, first: u64, records: u64) {
        let (mut before, end) = (0, first + records);
        for (at, count) in &self.runs {
            let (from, to) = (first.max(before), end.min(before + count));
            if from < to {
                self.claim.origin.reached(self.claim.first + at + (from - before), to - from);
            }
            before += count;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::record::Level;
    use crate::telemetry::now;

    #[derive(Debug, Default)]
    struct Reached(Mutex<Vec<(u64, u64)>>);

    impl Origin for Reached {
        fn reached(&self, first: u64, records: u64) {
            self.0.lock().unwrap().push((first, records));
        }
    }

    // R-V6
    #[test]
    fn what_is_told_of_parts_is_told_of_the_records_as_their_producer_knows_them() {
        let records =
            ["a1", "b1", "b2", "a2", "a3", "c1", "a4"].map(|name| format!("{{\"k\":\"{}\"}}\n", &name[..1]));
        let mut ends = Vec::new();
        for record in &records {
            ends.push(ends.last().unwrap_or(&0) + u32::try_from(record.len()).unwrap());
        }
        let origin = Arc::new(Reached::default());
        let claim = Claim { origin: Arc::clone(&origin) as _, level: Level::Durable, first: 100 };
        let chunk = Chunk::new(records.concat().into(), ends.into(), now(), Reservation::none())
            .with_claim(Some(claim));
        let parts = split(&chunk, &Routes::new("k", [("a", 0), ("b", 1)], 2), None);
        let sizes: Vec<_> = parts.iter().map(|part| (part.stream, part.ends.len())).collect();
        assert_eq!(sizes, [(0, 4), (1, 2), (2, 1)]);
        assert_eq!(&parts[1].records[..], b"{\"k\":\"b\"}\n{\"k\":\"b\"}\n");
        let parts: Vec<_> =
            parts.into_iter().map(|part| part.into_chunk(&chunk, Reservation::none())).collect();
        let tell = |part: usize, first, records| {
            let claim = parts[part].any_claim().unwrap();
            assert_eq!((claim.first, claim.level), (0, Level::Durable));
            claim.origin.reached(first, records);
            std::mem::take(&mut *origin.0.lock().unwrap())
        };
        assert_eq!(tell(0, 0, 4), [(100, 1), (103, 2), (106, 1)]);
        assert_eq!(tell(0, 2, 1), [(104, 1)]);
        assert_eq!(tell(0, 1, 3), [(103, 2), (106, 1)]);
        assert_eq!(tell(1, 1, 1), [(102, 1)]);
        assert_eq!(tell(2, 0, 1), [(105, 1)]);
    }
}
