//! From the records of a request to its answer: handed over in a task of their own, so that a client
//! that leaves takes none of them along, and waited for as long as an answer may take.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

use super::Door;
use super::body::deadline;
use crate::budget::Reservation;
use crate::buffer::{CHUNK_OVERHEAD_BYTES, Intake};
use crate::config::Acks;
use crate::framing::http::Piece;
use crate::record::{Chunk, Claim, Level, Origin};
use crate::telemetry::now;

/// Longest wait for records to reach the level at which a request is answered. Shorter than the 30 s that
/// hydrant itself, as a client, waits by default.
const ANSWER: Duration = Duration::from_secs(25);

/// See [`piece_bytes`].
const PIECE_BYTES: usize = 256 * 1024;

/// The records of one request that have reached its level.
#[derive(Debug, Default)]
struct Progress {
    reached: AtomicU64,
    told: Notify,
}

impl Origin for Progress {
    fn reached(&self, _: u64, records: u64) {
        self.reached.fetch_add(records, Ordering::Relaxed);
        self.told.notify_one();
    }
}

/// Records that were handed over, and what they are waited for.
pub(super) struct Taken {
    progress: Arc<Progress>,
    level: Option<Level>,
    records: u64,
}

impl Taken {
    pub(super) fn new(acks: Acks) -> Self {
        let level = match acks {
            Acks::Off => None,
            Acks::Received => Some(Level::Received),
            Acks::Durable => Some(Level::Durable),
            Acks::Delivered => Some(Level::Delivered),
        };
        Self { progress: Arc::default(), level, records: 0 }
    }

    /// Hands over `pieces`, for which `hold` has the memory.
    pub(super) async fn hand_over(
        &mut self,
        door: &Door,
        intake: &Intake,
        pieces: Vec<Piece>,
        mut hold: Reservation,
    ) {
        let received = now();
        let mut chunks = Vec::with_capacity(pieces.len());
        for Piece { records, ends } in pieces {
            let hold = hold.split(needed(records.len() + ends.len() * size_of::<u32>()));
            let claim = self.level.map(|level| Claim {
                origin: Arc::clone(&self.progress) as _,
                level,
                first: self.records,
            });
            self.records += u64::try_from(ends.len()).unwrap_or(u64::MAX);
            chunks.push(Chunk::new(records, ends.into_boxed_slice(), received, hold).with_claim(claim));
        }
        let intake = intake.clone();
        let handing = door.shared.context.tasks.spawn(async move {
            for chunk in chunks {
                intake.accept(chunk).await;
            }
        });
        // It does not panic, and goes on where nobody waits for it.
        handing.await.unwrap_or_default();
    }

    /// Whether all have reached the level before the answer is due. What was handed over is received by then, or never.
    pub(super) async fn settled(&self) -> bool {
        if self.level == Some(Level::Received) {
            return self.progress.reached.load(Ordering::Relaxed) >= self.records;
        }
        let reached = async {
            while self.level.is_some() && self.progress.reached.load(Ordering::Relaxed) < self.records {
                self.progress.told.notified().await;
            }
        };
        tokio::time::timeout_at(deadline(ANSWER), reached).await.is_ok()
    }
}

/// Most bytes of a chunk: as many as a connection reads at once, and less of a small buffer.
pub(super) fn piece_bytes(intake: &Intake) -> usize {
    PIECE_BYTES.min(intake.capacity() / 8)
}

/// What a piece of `bytes` takes as a chunk.
pub(super) fn needed(bytes: usize) -> usize {
    bytes + CHUNK_OVERHEAD_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    // R-H8
    #[tokio::test(start_paused = true)]
    async fn an_answer_waits_for_all_its_records_and_not_for_ever() {
        let taken = Taken { records: 10, ..Taken::new(Acks::Delivered) };
        let begun = now();
        taken.progress.reached(4, 6);
        assert!(!taken.settled().await);
        assert_eq!(now() - begun, ANSWER);
        taken.progress.reached(0, 4);
        assert!(taken.settled().await);
        let begun = now();
        let received = Taken { records: 10, ..Taken::new(Acks::Received) };
        received.progress.reached(0, 9);
        assert!(!received.settled().await);
        received.progress.reached(9, 1);
        assert!(received.settled().await && Taken { records: 10, ..Taken::new(Acks::Off) }.settled().await);
        assert_eq!(now(), begun);
    }
}
