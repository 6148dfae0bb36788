//! Signals, and the phases of stopping.

use std::io;
use std::pin::Pin;
use std::time::Duration;

use crate::notify::Notifier;
use crate::sender::worker::Control;
use crate::telemetry::figures::Figures;
use futures_util::{Stream, StreamExt};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use signal_hook_tokio::Signals;

/// What the outside asks of a running daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// SIGTERM or SIGINT: deliver what is held and exit before the deadline. A second one exits at
    /// once.
    Stop,
    /// Every listener has ended (standard input, say): deliver what is held, however long it
    /// takes, and exit.
    Finish,
    /// SIGUSR1: send what is held now.
    Flush,
    /// SIGHUP: read the configuration again.
    Reload,
}

/// The listeners, as far as orders concern them.
pub trait Listening {
    /// Follows the configuration as it is now.
    fn reload(&mut self);
    /// Takes no more connections, and reads what there is to its end.
    fn stop(&mut self);
}

/// Orders, from signals or from a program that holds the daemon in its own process.
pub type Orders = Pin<Box<dyn Stream<Item = Order> + Send>>;

/// The orders that signals to this process stand for.
///
/// # Errors
///
/// When the system does not let the handlers be set.
pub fn signals() -> io::Result<Orders> {
    let signals = Signals::new([SIGTERM, SIGINT, SIGUSR1, SIGHUP])?;
    Ok(Box::pin(signals.filter_map(|signal| {
        std::future::ready(match signal {
            SIGTERM | SIGINT => Some(Order::Stop),
            SIGUSR1 => Some(Order::Flush),
            SIGHUP => Some(Order::Reload),
            _ => None,
        })
    })))
}

/// Carries orders out until `settled` is done: the flush task's end, which comes when the
/// listeners are gone and nothing is held, or when it was told to abort.
///
/// Stopping has one deadline, `limit` after the first [`Order::Stop`]. Until then: listeners accept
/// nothing more and read what their sockets hold; the flush task sends what is left. At the
/// deadline, or with a second order, it is told to give up.
pub async fn obey<T>(
    orders: impl Stream<Item = Order>,
    settled: impl Future<Output = T>,
    listening: &mut impl Listening,
    control: &Control,
    figures: &Figures,
    notifier: &Notifier,
    limit: Duration,
) -> T {
    tokio::pin!(settled, orders);
    let (mut asked, mut draining, mut deadline) = (false, false, None);
    let drain = |listening: &mut _| {
        let held = figures.columns_of_all().held;
        tracing::info!(records = held.records, bytes = held.bytes, "Draining.");
        notifier.stopping(limit);
        figures.set_draining();
        Listening::stop(listening);
        // What is held goes now, and while `figures` says so what comes goes as it comes.
        control.flush();
    };
    loop {
        let expiry = async {
            match deadline {
                Some(deadline) => tokio::time::sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            end = &mut settled => return end,
            () = expiry => {
                tracing::error!(drain_seconds = limit.as_secs_f64(), "Drain deadline reached.");
                control.abort.cancel();
                deadline = None;
            }
            Some(order) = orders.next() => match order {
                Order::Flush => control.flush(),
                // Whoever starts the daemon again has it read what there is then.
                Order::Reload if draining => {}
                Order::Reload => notifier.reload(|| listening.reload()),
                Order::Finish if draining => {}
                Order::Finish => {
                    draining = true;
                    drain(listening);
                }
                Order::Stop if asked => {
                    tracing::warn!("Asked twice to stop, exiting at once.");
                    control.abort.cancel();
                    deadline = None;
                }
                Order::Stop => {
                    (asked, draining) = (true, true);
                    drain(listening);
                    deadline = Some(tokio::time::Instant::from_std(crate::telemetry::now() + limit));
                }
            },
        }
    }
}
