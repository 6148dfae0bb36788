//! The thread that a [`Spooler`] runs on.

use std::io;
use std::panic;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::sync::oneshot;
use tracing::Instrument;

use super::ledger::Count;
use super::spooler::Spooler;
use crate::spool::Storage;

/// How long a disk has, at the very end, to take what is left to be written.
const END: Duration = Duration::from_secs(5);

/// A thread that waits for its spooler, so that a system without another thread to give is met before
/// anything is taken from a producer.
#[derive(Debug)]
pub struct Spooling<S: Storage> {
    hand: oneshot::Sender<(Spooler<S>, tracing::Span)>,
    ended: Ending,
}

/// The end of a thread that runs.
#[derive(Debug)]
pub struct Ending {
    kept: oneshot::Receiver<Count>,
    thread: JoinHandle<()>,
}

impl<S: Storage> Spooling<S> {
    /// The thread.
    ///
    /// # Errors
    ///
    /// When the system gives none.
    pub fn ready() -> io::Result<Self> {
        // It waits for channels and the clock; what a spooler does to the disk blocks.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
        let (hand, handed) = oneshot::channel::<(Spooler<S>, tracing::Span)>();
        let (tell, kept) = oneshot::channel();
        let run = move || {
            if let Ok((spooler, span)) = handed.blocking_recv() {
                // Nobody hears of the end where the daemon did not wait for it.
                tell.send(runtime.block_on(spooler.run().instrument(span))).ok();
            }
        };
        let thread = thread::Builder::new().name("spool".to_owned()).spawn(run)?;
        Ok(Self { hand, ended: Ending { kept, thread } })
    }

    /// Lets the thread run `spooler`.
    #[must_use]
    pub fn run(self, spooler: Spooler<S>) -> Ending {
        // It waits for nothing else. What it says, it says where it was asked to run.
        self.hand.send((spooler, tracing::Span::current())).ok();
        self.ended
    }
}

impl Ending {
    /// What waits in the spool once the thread has ended; `None` where the disk does not let it end.
    ///
    /// # Panics
    ///
    /// As the thread did, if it did.
    pub async fn kept(self) -> Option<Count> {
        match tokio::time::timeout(END, self.kept).await {
            Ok(Ok(kept)) => Some(kept),
            Ok(Err(_)) => match self.thread.join() {
                Err(panicked) => panic::resume_unwind(panicked),
                Ok(()) => None,
            },
            Err(_) => None,
        }
    }
}
