//! A daemon from its configuration: bind, start, obey, account.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context as _;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

use crate::admin;
use crate::batcher::Limits;
use crate::budget::Budget;
use crate::buffer::{
    self, Columns, Count, DropReason, Ending, Intake, Ledger, Outlet, Shares, Spooled, Spooling, Stamp,
    Stamps, opening,
};
use crate::config::{AggregateMode, Config, Effective, SpoolConfig, StampConfig};
use crate::drain::{self, Order, Orders};
use crate::firehose::{Firehose, Watch};
use crate::framing::Delimiter;
use crate::limits::{MAX_BATCH_BYTES, MAX_BATCH_RECORDS, MAX_RECORD_BYTES};
use crate::listener;
use crate::notify::Notifier;
use crate::poller;
use crate::reload::{Again, Serving};
use crate::sender::backoff::Backoff;
use crate::sender::compression;
use crate::sender::dead_letter::Store;
use crate::sender::worker::{Control, Settings, Worker};
use crate::socket::{Passed, Socket};
use crate::spool::{Disk, DiskError, Opened};
use crate::telemetry::figures::{Figures, SpoolFigures};
use crate::telemetry::{history, now, otlp, wall_clock};

/// Time for connections to tell their producers the last counts once everything is settled.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// How often the service manager is told what the daemon does.
const STATUS_EVERY: Duration = Duration::from_secs(5);

/// A daemon that has taken its addresses and opened its files, and has not begun to serve.
#[derive(Debug)]
pub struct App {
    config: Config,
    listeners: Vec<listener::Bound>,
    admin: Option<Socket>,
    store: Option<Arc<Store>>,
    /// One for each delivery stream, if there are any.
    spools: Vec<ReadySpool>,
    notifier: Notifier,
    otlp: Option<otlp::Plan>,
    /// The values that the configuration came from, and how it is read again.
    again: Option<(Vec<Effective>, Again)>,
    started: Instant,
}

/// A spool that was opened, and what is to run it.
#[derive(Debug)]
struct ReadySpool {
    opened: Opened<Disk>,
    figures: SpoolFigures,
    thread: Spooling<Disk>,
}

/// How a daemon ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    /// What was neither delivered nor refused for good when it had to stop, and is not in a spool.
    pub left: Count,
    /// The account at the end; what is held waits in the spool for the next start.
    pub columns: Columns,
}

/// How much one request may carry under a configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// Record bytes a request.
    pub batch_bytes: usize,
    /// Bytes of a record.
    pub record_bytes: usize,
}

impl Sizes {
    /// The largest request whose body fits its share of the memory, and the largest record that
    /// a connection can read beside half a buffer of unfinished ones. With the default memory
    /// these are the service's own limits; a small buffer makes them smaller.
    #[must_use]
    pub fn of(config: &Config, body_bytes: BodyBytes) -> Self {
        let shares = Shares::of(config.memory_of_each(), config.buffer.spool.is_some());
        let name = config.streams().into_iter().map(str::len).max().unwrap_or_default();
        let body = |bytes: usize| body_bytes(name, MAX_BATCH_RECORDS, bytes);
        let compresses = config.aggregate.compression.is_some();
        let fits = |bytes: usize| match compresses {
            false => body(bytes) <= shares.bodies,
            true => {
                let members = compression::most_bytes_of(MAX_BATCH_RECORDS, bytes);
                members + body(members) <= shares.bodies
            }
        };
        let (most, longest) = Self::most(config);
        // Halving the range finds the largest that fits: a body's size grows with its records'.
        let (mut fitting, mut beyond) = (1, most + 1);
        while beyond - fitting > 1 {
            let middle = usize::midpoint(fitting, beyond);
            if fits(middle) { fitting = middle } else { beyond = middle }
        }
        let record_bytes = longest.min(listener::longest_record(shares.records));
        Self { batch_bytes: fitting, record_bytes }
    }

    /// Bytes of a request and of a record that nothing but the configuration and the service bounds. What
    /// is compressed may grow a little instead, and must be taken all the same.
    fn most(config: &Config) -> (usize, usize) {
        let (batch, record) = match config.aggregate.compression {
            None => (MAX_BATCH_BYTES, MAX_RECORD_BYTES),
            Some(_) => (compression::MAX_BATCH_CONTENT_BYTES, compression::MAX_CONTENT_BYTES),
        };
        (config.max_batch_size_bytes.min(batch), record)
    }
}

/// Bytes that a request's body takes at most, from the length of the stream's name, the number of
/// records and their bytes.
pub type BodyBytes = fn(usize, usize, usize) -> usize;

impl App {
    /// Takes every address and opens the spool and the dead-letter store. Must be called within a tokio
    /// runtime.
    ///
    /// # Errors
    ///
    /// One sentence that names the key and the address or directory at fault.
    pub fn bind(config: Config) -> anyhow::Result<Self> {
        let started = now();
        let directory = || "`buffer.directory`";
        // The lock first: whoever starts a second daemon by mistake is told so before all else.
        let spools = config.buffer.spool.as_ref().map(|spool| opening::divide(spool, &config.streams()));
        let lock = |spool: SpoolConfig| Ok((opening::lock(&spool)?, spool));
        let disks = spools.into_iter().flatten().map(lock).collect::<Result<Vec<_>, DiskError>>();
        let disks = disks.with_context(directory)?;
        let mut listeners = Vec::new();
        let mut passed = Passed::of_process();
        for (name, listen) in &config.listen {
            let bound = listener::bind(name, listen, &mut passed);
            listeners.extend(bound.with_context(|| format!("`listen.{name}.address`"))?);
        }
        for name in passed.left() {
            tracing::warn!(name, "systemd passed a socket that no listener takes.");
        }
        let admin = match &config.admin {
            Some(address) => admin::bind(address).context("`admin.address`")?,
            None => None,
        };
        let store = match &config.dead_letter.directory {
            Some(directory) => {
                let store = Store::open(directory, config.dead_letter.max_bytes);
                Some(Arc::new(store.context("`dead_letter.directory`")?))
            }
            None => None,
        };
        // Last, since it takes as long as there is something to look at.
        let ready = |(disk, spool): (Disk, SpoolConfig)| {
            let thread = Spooling::ready().context("the spool's thread could not be started")?;
            let (opened, figures) = opening::open(disk, &spool).with_context(directory)?;
            Ok(ReadySpool { opened, figures, thread })
        };
        let spools = disks.into_iter().map(ready).collect::<anyhow::Result<Vec<_>>>()?;
        if let Some(spool) = &config.buffer.spool {
            opening::say_left(spool, &config.streams());
        }
        let notifier = Notifier::silent();
        Ok(Self { config, listeners, admin, store, spools, notifier, otlp: None, again: None, started })
    }

    /// The same, telling `notifier` how it fares.
    #[must_use]
    pub fn with_notifier(self, notifier: Notifier) -> Self {
        Self { notifier, ..self }
    }

    /// The same, with an export of its figures and traces.
    #[must_use]
    pub fn exporting(self, otlp: Option<otlp::Plan>) -> Self {
        Self { otlp, ..self }
    }

    /// The same, following a changed configuration, which was made of `values` and is read by `again`.
    #[must_use]
    pub fn reloading(self, values: Vec<Effective>, again: Again) -> Self {
        Self { again: Some((values, again)), ..self }
    }

    /// Each listener's name and address, with the ports that the system chose.
    pub fn listeners(&self) -> impl Iterator<Item = (String, String)> + '_ {
        self.listeners.iter().map(|bound| (bound.name().to_owned(), bound.address()))
    }

    /// The admin listener's address, with the port that the system chose.
    #[must_use]
    pub fn admin_address(&self) -> Option<String> {
        self.admin.as_ref().map(Socket::address)
    }

    /// Serves until told to stop and everything is settled or the time for that is over.
    pub async fn run<F: Firehose + Watch>(
        self,
        firehose: Arc<F>,
        body_bytes: BodyBytes,
        orders: Orders,
    ) -> Ended {
        let Self { config, listeners, admin, store, spools, notifier, otlp, again, started } = self;
        let notifier = Arc::new(notifier);
        let sizes = Sizes::of(&config, body_bytes);
        say_limits(&config, &sizes);
        let figures = Arc::new(Figures::new(Arc::default(), started));
        let control = Control::default();
        let export = otlp.and_then(|plan| plan.start(&figures, &config.delivery_stream_name));
        let mut spools = spools.into_iter();
        let streams: Vec<_> = config
            .streams()
            .into_iter()
            .enumerate()
            .map(|(index, name)| {
                let figures = match index {
                    0 => Arc::clone(&figures),
                    _ => Arc::new(figures.of_another(Arc::default())),
                };
                figures.set_stream_name(name);
                Stream::build(name, &config, spools.next(), figures, &control)
            })
            .collect();
        figures.set_others(streams.iter().skip(1).map(|stream| Arc::clone(&stream.figures)).collect());
        let (closed, tasks) = (CancellationToken::new(), TaskTracker::new());
        let stamps = stamps(&config);
        let context = listener::Context {
            delimiter: Delimiter::new(config.delimiter.clone()),
            max_record_bytes: sizes.record_bytes - stamps.as_ref().map_or(0, |(_, grows)| *grows),
            on_full: config.buffer.on_full,
            figures: Arc::clone(&figures),
            stop: CancellationToken::new(),
            abort: control.abort.clone(),
            tasks: tasks.clone(),
        };
        let (mut intakes, mut endings) = (BTreeMap::new(), Vec::new());
        let workers = FuturesUnordered::new();
        for Stream { name, figures, intake, outlet, spooling } in streams {
            intakes.insert(name.clone(), (intake, Arc::clone(&figures)));
            endings.push((figures.shared_ledger(), spooling));
            let span = span_of(&name, &config);
            span.in_scope(|| watch(&name, &config, &firehose, &figures, &closed, &tasks));
            let bodies = Shares::of(config.memory_of_each(), config.buffer.spool.is_some()).bodies;
            let settings = settings(&name, &config, &sizes, bodies, body_bytes);
            let (firehose, control, store) = (Arc::clone(&firehose), control.clone(), store.clone());
            let worker = Worker::new(firehose, settings, outlet, control, store, figures);
            let worker = worker.traced(export.as_ref().and_then(otlp::Export::traces));
            workers.push(worker.run().instrument(span));
        }
        let intakes =
            listener::Intakes::new(intakes, &config, stamps.map(|(stamps, _)| stamps), &tasks, &closed);
        let mut serving = Serving::new(intakes, context, control.clone(), config.clone(), again);
        listeners.into_iter().for_each(|bound| serving.serve(bound));
        let served = serving.tasks();
        served.close();
        tasks.spawn(take_samples(Arc::clone(&figures), closed.clone()));
        if let Some(socket) = admin {
            tracing::info!(address = socket.address(), "Admin listening.");
            let about = admin::status::About {
                delivery_stream_name: config.delivery_stream_name.clone(),
                memory_bytes: config.buffer.memory,
                max_in_flight: config.send.max_in_flight,
                monitor_interval: config.monitor.interval,
            };
            let context = admin::Context { figures: Arc::clone(&figures), about: Arc::new(about) };
            tasks.spawn(admin::serve(socket, context, closed.clone()));
        }
        if notifier.is_heard() {
            tasks.spawn(tell(Arc::clone(&notifier), Arc::clone(&figures), closed.clone()));
        }
        notifier.ready();
        let ended = futures_util::stream::once(async move {
            served.wait().await;
            Order::Finish
        });
        let orders = futures_util::stream::select(orders, ended);
        let left = drain::obey(
            orders,
            workers.fold(Count::default(), |sum, left| std::future::ready(sum.and(left))),
            &mut serving,
            &control,
            &figures,
            &notifier,
            config.shutdown_drain,
        )
        .await;
        // Connections that still tell their producers how far their records have come.
        closed.cancel();
        tasks.close();
        if left.records > 0 || tokio::time::timeout(LAST_WORDS, tasks.wait()).await.is_err() {
            control.abort.cancel();
            tasks.wait().await;
        }
        let mut strays = Count::default();
        for (ledger, spooling) in endings {
            strays += settle_strays(&ledger, spooling).await;
        }
        let ended = account(figures.columns_of_all(), left.and(strays));
        if let Some(export) = export {
            export.finish().await;
        }
        ended
    }
}

/// One delivery stream's way through the daemon, before it begins to flow.
struct Stream {
    name: String,
    figures: Arc<Figures>,
    intake: Intake,
    outlet: Outlet,
    spooling: Option<Ending>,
}

impl Stream {
    fn build(
        name: &str,
        config: &Config,
        spool: Option<ReadySpool>,
        figures: Arc<Figures>,
        control: &Control,
    ) -> Self {
        let shares = Shares::of(config.memory_of_each(), spool.is_some());
        let span = span_of(name, config);
        let (intake, outlet, spooling) = span.in_scope(|| buffer(config, &shares, spool, &figures, control));
        Self { name: name.to_owned(), figures, intake, outlet, spooling }
    }
}

/// What stamps records, and the bytes by which they grow.
fn stamps(config: &Config) -> Option<(Arc<Stamps>, usize)> {
    let StampConfig { field, daemon } = config.stamp.as_ref()?;
    let boot = wall_clock().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_millis());
    let boot = u64::try_from(boot).unwrap_or(u64::MAX);
    let host = || rustix::system::uname().nodename().to_string_lossy().into_owned();
    let stamp = Stamp::new(field, &daemon.clone().unwrap_or_else(host), boot, &config.delimiter);
    let grows = stamp.most_bytes();
    Some((Arc::new(Stamps::new(stamp, config.streams().len())), grows))
}

/// What is said in it is said of this stream, where there are several.
fn span_of(stream: &str, config: &Config) -> tracing::Span {
    match config.streams().len() {
        1 => tracing::Span::none(),
        // Of the most important level, so that no filter lets its events through without it.
        _ => tracing::error_span!("stream", delivery_stream_name = stream),
    }
}

/// Starts whatever looks at the stream itself.
fn watch<F: Watch + Send + Sync + 'static>(
    stream: &str,
    config: &Config,
    firehose: &Arc<F>,
    figures: &Arc<Figures>,
    closed: &CancellationToken,
    tasks: &TaskTracker,
) {
    if let Some(interval) = config.monitor.interval {
        let publish_namespace = config.monitor.publish_namespace.clone();
        let settings = poller::Settings { stream: stream.to_owned(), interval, publish_namespace };
        let poller = poller::run(Arc::clone(firehose), settings, Arc::clone(figures), closed.clone());
        tasks.spawn(poller.in_current_span());
    }
    let packs = config.aggregate.mode == AggregateMode::Auto && config.monitor.interval.is_none();
    if packs || config.aggregate.compression.is_some() {
        // What the stream is decides whether records are packed, looked at again or not. What is to be
        // compressed waits for it, so that is no matter for the monitor, which has time.
        let (stream, figures) = (stream.to_owned(), Arc::clone(figures));
        let (watch, stop) = (Arc::clone(firehose), closed.clone());
        let looking = async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = poller::look_until_known(watch, stream, figures) => {}
            }
        };
        tasks.spawn(looking.in_current_span());
    }
}

/// The buffer that `config` asks for, and the thread of its spool, if it has one.
fn buffer(
    config: &Config,
    shares: &Shares,
    spool: Option<ReadySpool>,
    figures: &Arc<Figures>,
    control: &Control,
) -> (Intake, Outlet, Option<Ending>) {
    let (budget, on_full) = (Budget::new(shares.records), config.buffer.on_full);
    let Some(ReadySpool { opened, figures: spool_figures, thread }) = spool else {
        figures.set_buffer(vec![budget.clone()]);
        let (intake, outlet) = buffer::channel(budget, on_full, figures.shared_ledger());
        return (intake, outlet, None);
    };
    let read_back = Budget::new(shares.read_back);
    figures.set_buffer(vec![budget.clone(), read_back.clone()]);
    *figures.spool() = Some(spool_figures);
    let spooled = Spooled {
        budget,
        read_back,
        on_full,
        opened,
        figures: Arc::clone(figures),
        abort: control.abort.clone(),
    };
    let (intake, outlet, spooler) = spooled.channel(figures.shared_ledger());
    (intake, outlet, Some(thread.run(spooler)))
}

/// Keeps the figures of the last minutes.
async fn take_samples(figures: Arc<Figures>, stop: CancellationToken) {
    let mut pace = tokio::time::interval(history::EVERY);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = pace.tick() => figures.take_sample(now()),
        }
    }
}

/// Tells the service manager what the daemon does, and that it does: a flush task that is stuck is
/// not alive, whatever else still runs.
async fn tell(notifier: Arc<Notifier>, figures: Arc<Figures>, stop: CancellationToken) {
    let mut pace = tokio::time::interval(notifier.watch_every().unwrap_or(STATUS_EVERY).min(STATUS_EVERY));
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = pace.tick() => {}
        }
        let at = now();
        if notifier.watch_every().is_some() && admin::status::live(&figures, at).reasons.is_empty() {
            notifier.alive();
        }
        if !figures.is_draining() {
            notifier.status(&figures.summary(at));
        }
    }
}

fn settings(stream: &str, config: &Config, sizes: &Sizes, bodies: usize, body_bytes: BodyBytes) -> Settings {
    Settings {
        stream: stream.into(),
        limits: Limits { records: config.max_batch_size, bytes: sizes.batch_bytes, linger: config.linger },
        max_in_flight: config.send.max_in_flight,
        bodies,
        body_bytes,
        backoff: Backoff {
            base: config.retry.base_delay,
            max: config.retry.max_delay,
            jitter: config.retry.jitter,
        },
        max_retries: config.retry.max_retries,
        give_up_after: config.retry.give_up_after,
        aggregate: config.aggregate,
        delimiter: config.delimiter.clone(),
    }
}

/// A small buffer limits more than the keys say.
fn say_limits(config: &Config, sizes: &Sizes) {
    let Sizes { batch_bytes, record_bytes } = *sizes;
    let memory = config.memory_of_each();
    // What compression takes of them for a member's own bytes is nothing to say.
    let (full, most) = Sizes::most(config);
    if batch_bytes < full {
        tracing::warn!(memory, batch_bytes, "`buffer.memory` is too small for full batches.");
    }
    let longest = config.listen.values().map(|listen| listen.max_record_bytes.min(most)).max();
    if longest.is_some_and(|longest| record_bytes < longest) {
        tracing::warn!(
            memory,
            record_bytes,
            "`buffer.memory` is too small for the longest records, which are rejected."
        );
    }
}

/// Drops what a connection that was cut off by an abort held and had counted, and returns it.
async fn settle_strays(ledger: &Ledger, spooling: Option<Ending>) -> Count {
    let kept = match spooling {
        Some(spooling) => spooling.kept().await.unwrap_or_else(|| {
            tracing::error!("The spool's disk does not answer: what was sent last may be sent again.");
            ledger.columns().held
        }),
        None => Count::default(),
    };
    let strays = ledger.columns().held.without(kept);
    if strays.records > 0 {
        ledger.dropped(DropReason::Shutdown, strays);
    }
    strays
}

/// The last account: `columns` at the end, and what was left.
fn account(columns: Columns, left: Count) -> Ended {
    let (received, recovered, delivered) =
        (columns.received.records, columns.recovered.records, columns.delivered.records);
    let (dead_lettered, dropped) =
        (columns.dead_lettered.records, columns.dropped.iter().map(|count| count.records).sum::<u64>());
    let spooled = columns.held.records;
    if left.records > 0 {
        let Count { records, bytes } = left;
        tracing::error!(
            records,
            bytes,
            received,
            recovered,
            delivered,
            dead_lettered,
            dropped,
            spooled,
            "Stopped before everything was delivered."
        );
    } else {
        tracing::info!(received, recovered, delivered, dead_lettered, dropped, spooled, "Stopped.");
    }
    Ended { left, columns }
}

#[cfg(test)]
mod tests;
