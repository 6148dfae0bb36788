//! Moves what listeners bring to the buffers of several delivery streams, record by record.
//!
//! What is to be routed is read into a share of memory of its own, and moved to its stream's when that has
//! room: so what waits for one stream holds nothing of another's. What has room goes at once; only then is
//! waited for the rest, by that connection alone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use super::routes::Routes;
use super::stamp::Stamp;
use super::{CHUNK_OVERHEAD_BYTES, Count, DropReason, Intake};
use crate::budget::Reservation;
use crate::record::{Chunk, Claim, Origin};
use crate::telemetry::now;
use crate::telemetry::quiet::Quiet;

/// Most bytes of a part where records grow by their stamps: as many as a connection reads at once at most.
const PART_BYTES: usize = 256 * 1024;

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
    /// The next number of each stream.
    next: Vec<Mutex<u64>>,
}

impl Stamps {
    /// Numbered from 0 for each of so many streams.
    #[must_use]
    pub fn new(stamp: Stamp, streams: usize) -> Self {
        Self { stamp, next: (0..streams).map(|_| Mutex::new(0)).collect() }
    }

    /// Numbers of `stream`, held while a part of it is stamped, which waits for nothing.
    fn of(&self, stream: usize) -> Option<(&Stamp, MutexGuard<'_, u64>)> {
        let next = self.next.get(stream)?;
        Some((&self.stamp, next.lock().unwrap_or_else(PoisonError::into_inner)))
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

    /// Moves `chunk`, all of whose records go to one stream, to its memory as it is.
    async fn accept_whole(&self, chunk: Chunk, stream: usize) {
        let Some(intake) = self.intakes.get(stream) else { return };
        let count = Count::of(chunk.records(), chunk.bytes());
        intake.ledger.received(count);
        let Some(hold) = intake.reserve(chunk.held_bytes()).await else {
            intake.ledger.dropped(DropReason::BufferFull, count);
            return self.say_dropped(count);
        };
        intake.pass_on(chunk.held_by(hold)).await;
    }

    /// Hands the records of `chunk` over to their streams' buffers. Must not be dropped before it is done.
    pub(super) async fn accept(&self, chunk: Chunk) {
        let routes = Arc::clone(&self.routes.read().unwrap_or_else(PoisonError::into_inner));
        let grows = self.stamps.as_ref().map_or(0, |stamps| stamps.stamp.most_bytes());
        let mut parts = plan(&chunk, &routes, grows);
        if let ([part], None) = (parts.as_slice(), &self.stamps) {
            return self.accept_whole(chunk, part.stream).await;
        }
        for part in &parts {
            if let Some(intake) = self.intakes.get(part.stream) {
                intake.ledger.received(part.count());
            }
        }
        // Those that there is room for first, so that the others hold up nobody's records.
        for waits in [false, true] {
            let mut full = BTreeSet::new();
            for part in std::mem::take(&mut parts) {
                let Some(intake) = self.intakes.get(part.stream) else { continue };
                let needed = part.needed(grows);
                let room = match intake.try_reserve(needed).filter(|_| !full.contains(&part.stream)) {
                    None if !waits => {
                        // What follows for the same stream stays behind it.
                        full.insert(part.stream);
                        parts.push(part);
                        continue;
                    }
                    None => intake.reserve(needed).await,
                    room => room,
                };
                let count = part.count();
                let Some(hold) = room else {
                    intake.ledger.dropped(DropReason::BufferFull, count);
                    self.say_dropped(count);
                    continue;
                };
                let part = part.into_chunk(&chunk, hold, self.stamps.as_deref());
                let copied = Count::of(part.records(), part.bytes());
                intake.ledger.received(copied.without(count));
                intake.pass_on(part).await;
            }
        }
    }
}

/// Records of a chunk that go to one stream.
#[derive(Debug)]
struct Part {
    stream: usize,
    /// Where in the chunk they are, ascending.
    records: Vec<u32>,
    /// Their bytes there.
    bytes: usize,
}

/// `chunk` by streams, each stream's records in order, in parts of a chunk's usual size where each of them
/// `grows`. Nothing is copied, as there is no memory for that yet.
fn plan(chunk: &Chunk, routes: &Routes, grows: usize) -> Vec<Part> {
    let mut parts: Vec<Part> = Vec::new();
    let mut open = BTreeMap::new();
    for (index, record) in (0_u32..).zip(records(chunk)) {
        let stream = routes.stream_of(record);
        let fits = |at: &usize| {
            let grown = |part: &Part| part.bytes + record.len() + (part.records.len() + 1) * grows;
            grows == 0 || parts.get(*at).is_some_and(|part| grown(part) <= PART_BYTES)
        };
        let at = open.get(&stream).copied().filter(fits).unwrap_or(parts.len());
        if at == parts.len() {
            parts.push(Part { stream, records: Vec::new(), bytes: 0 });
            open.insert(stream, at);
        }
        if let Some(part) = parts.get_mut(at) {
            part.records.push(index);
            part.bytes += record.len();
        }
    }
    parts
}

/// The records of a chunk in order.
fn records(chunk: &Chunk) -> impl Iterator<Item = &[u8]> {
    let mut start = 0;
    chunk.ends().iter().map(move |end| {
        let record = chunk.data().get(start..*end as usize).unwrap_or_default();
        start = *end as usize;
        record
    })
}

impl Part {
    fn count(&self) -> Count {
        Count::of(self.records.len(), self.bytes)
    }

    /// Memory that it takes as a chunk at most.
    fn needed(&self, grows: usize) -> usize {
        self.bytes + self.records.len() * (size_of::<u32>() + grows) + CHUNK_OVERHEAD_BYTES
    }

    /// A chunk of its own, of which those are told who are to be told of `whole`.
    fn into_chunk(self, whole: &Chunk, mut hold: Reservation, stamps: Option<&Stamps>) -> Chunk {
        let grows = stamps.map_or(0, |stamps| stamps.stamp.most_bytes());
        let mut copied = Vec::with_capacity(self.bytes + self.records.len() * grows);
        let mut ends = Vec::with_capacity(self.records.len());
        let mut runs: Vec<(u64, u64)> = Vec::new();
        let mut numbers = stamps.and_then(|stamps| stamps.of(self.stream));
        let mut of_chunk = (0_u32..).zip(records(whole));
        for index in self.records {
            let Some((_, record)) = of_chunk.find(|(other, _)| *other == index) else { break };
            match &mut numbers {
                None => copied.extend_from_slice(record),
                Some((stamp, next)) => **next += u64::from(stamp.append(record, **next, &mut copied)),
            }
            ends.push(u32::try_from(copied.len()).unwrap_or(u32::MAX));
            match runs.last_mut() {
                Some((first, count)) if *first + *count == u64::from(index) => *count += 1,
                _ => runs.push((index.into(), 1)),
            }
        }
        copied.shrink_to_fit();
        hold.shrink(copied.len() + ends.len() * size_of::<u32>() + CHUNK_OVERHEAD_BYTES);
        let claim = whole.any_claim().map(|claim| Claim {
            origin: Arc::new(Scattered { claim: claim.clone(), runs }),
            level: claim.level,
            first: 0,
        });
        Chunk::new(copied.into(), ends.into(), whole.received(), hold).with_claim(claim)
    }
}

/// Some records of a chunk, numbered from 0, whose producer knows them by other numbers.
#[derive(Debug)]
struct Scattered {
    /// The chunk's.
    claim: Claim,
    /// Where in the chunk they are: first record and number of records, ascending.
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
    use super::*;
    use crate::config::OnFull;
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
        let parts = plan(&chunk, &Routes::new("k", [("a", 0), ("b", 1)], 2), 0);
        let sizes: Vec<_> = parts.iter().map(|part| (part.stream, part.records.len())).collect();
        assert_eq!(sizes, [(0, 4), (1, 2), (2, 1)]);
        let parts: Vec<_> =
            parts.into_iter().map(|part| part.into_chunk(&chunk, Reservation::none(), None)).collect();
        assert_eq!(parts[1].data(), b"{\"k\":\"b\"}\n{\"k\":\"b\"}\n");
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

    // R-V9
    #[test]
    fn records_that_grow_go_in_parts_of_a_usual_size_in_their_order() {
        const RECORDS: usize = 20_000;
        let bytes = b"{}\n".repeat(RECORDS);
        let ends: Vec<u32> = (1..=RECORDS).map(|count| u32::try_from(count * 3).unwrap()).collect();
        let chunk = Chunk::new(bytes.into(), ends.into(), now(), Reservation::none());
        let stamps = Stamps::new(Stamp::new("s", "d", 1, b"\n"), 1);
        let grows = stamps.stamp.most_bytes();
        let parts = plan(&chunk, &Routes::to(0), grows);
        assert!(
            parts.iter().all(|part| part.needed(grows) <= PART_BYTES + 4 * RECORDS + CHUNK_OVERHEAD_BYTES)
        );
        assert!(parts.len() > 4);
        let mut sequence = 0;
        for part in parts {
            let needed = part.needed(grows);
            let part = part.into_chunk(&chunk, Reservation::none(), Some(&stamps));
            assert!(part.bytes() + 4 * part.records() + CHUNK_OVERHEAD_BYTES <= needed);
            for record in records(&part) {
                let said = format!("{{\"s\":{{\"daemon\":\"d\",\"boot\":1,\"sequence\":{sequence}}}}}\n");
                assert_eq!(record, said.as_bytes());
                sequence += 1;
            }
        }
        assert_eq!(sequence, RECORDS as u64);
    }

    // R-V7
    #[tokio::test]
    async fn what_a_full_stream_drops_is_never_told_to_be_received() {
        let budget = |bytes| crate::budget::Budget::new(bytes);
        let stream = |budget| crate::buffer::channel(budget, OnFull::DropNewest, Arc::default());
        let (taken, read_into) = (budget(1000), budget(500));
        let _all = taken.try_reserve(1000).unwrap();
        let ((full, _full), (free, outlet)) = (stream(taken), stream(budget(10_000)));
        let router = Router::new(vec![full, free], Routes::new("k", [("a", 0)], 1), None);
        let check = async |kinds: &[&str], expected: &[(u64, u64)]| {
            let records: Vec<_> = kinds.iter().map(|kind| format!("{{\"k\":\"{kind}\"}}\n")).collect();
            let ends =
                (1..=kinds.len()).map(|count| u32::try_from(count * records[0].len()).unwrap()).collect();
            let origin = Arc::new(Reached::default());
            let claim = Claim { origin: Arc::clone(&origin) as _, level: Level::Received, first: 100 };
            let hold = read_into.try_reserve(500).unwrap();
            let chunk = Chunk::new(records.concat().into(), ends, now(), hold).with_claim(Some(claim));
            router.accept(chunk).await;
            assert_eq!(*origin.0.lock().unwrap(), expected, "{kinds:?}");
        };
        check(&["b", "b"], &[(100, 2)]).await;
        check(&["a", "a"], &[]).await;
        check(&["b", "a", "b", "b"], &[(100, 1), (102, 2)]).await;
        assert_eq!(outlet.chunks.len(), 2);
    }

    #[tokio::test]
    async fn a_chunk_of_one_stream_is_moved_and_not_copied() {
        let budget = |bytes| crate::budget::Budget::new(bytes);
        let (read_into, of_stream) = (budget(1000), budget(1000));
        let (intake, outlet) = crate::buffer::channel(of_stream.clone(), OnFull::Block, Arc::default());
        let router = Router::new(vec![intake], Routes::to(0), None);
        let bytes = bytes::Bytes::from_static(b"one\ntwo\n");
        let chunk = Chunk::new(bytes.clone(), [4, 8].into(), now(), read_into.try_reserve(300).unwrap());
        router.accept(chunk).await;
        let moved = outlet.chunks.recv().await.unwrap();
        assert_eq!((moved.data().as_ptr(), moved.records()), (bytes.as_ptr(), 2));
        assert_eq!((read_into.available(), of_stream.available()), (1000, 700));
    }
}
