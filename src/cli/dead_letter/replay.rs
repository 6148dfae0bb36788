//! `hydrant dead-letter replay`: letters through a running daemon's listener, and out of the store once
//! they are acknowledged.
//!
//! They go in groups, each over a connection of its own. A connection's count says how many of its
//! records were accepted and not which: only where it is that of the whole group is it known of every
//! record, and only then are they taken out. A group whose connection broke is sent again whole.

use std::collections::BTreeSet;
use std::io::Cursor;
use std::time::{Duration, SystemTime};

use anyhow::{Context, bail};
use indicatif::ProgressBar;
use tokio::time::sleep;

use super::letters::{Filter, Letter, damaged, listed};
use super::wire::{self, Unfit};
use super::{Place, done};
use crate::cli;
use crate::cli::options::say;
use crate::cli::send::delivery::{BACKOFF, Delivery, End};
use crate::cli::send::input::Input;
use crate::cli::send::patience;
use crate::config::{Acks, Address, Config, ListenConfig, Protocol, connect_address};
use crate::limits::{MAX_BATCH_BYTES, MAX_BATCH_RECORDS};
use crate::sender::dead_letter::Snapshot;
use crate::telemetry::{now, wall_clock};

/// Sends letters through a running daemon; those that it acknowledges leave the store
#[derive(Debug, clap::Args)]
#[command(after_help = "Records that a line can't carry stay in the store and are named.\n\n\
                        Example, once the reason is gone:\n  hydrant dead-letter replay --error-code AccessDeniedException")]
pub(super) struct Args {
    /// The daemon's listener: unix:PATH, tcp:PORT or tcp:HOST:PORT [default: the configuration's first one
    /// with acks]
    #[arg(long, value_name = "ADDRESS", value_parser = connect_address)]
    to: Option<Address>,
    /// Leave the letters in the store
    #[arg(long)]
    keep: bool,
    /// Say what would be sent, and send nothing
    #[arg(long)]
    dry_run: bool,
    /// Give up when nothing was acknowledged for this long
    #[arg(long, value_name = "DUR", default_value = "60s", value_parser = patience)]
    timeout: Duration,
    #[command(flatten)]
    filter: Filter,
    #[command(flatten)]
    place: Place,
}

/// Runs the command; returns the exit code.
pub(super) fn execute(args: Args) -> u8 {
    let Args { to, keep, dry_run, timeout, filter, place } = args;
    place.with_store(|store, config| {
        let target = match target(to, filter.stream.as_deref(), config) {
            Ok(target) => target,
            Err(error) => {
                say(&format!("error: {error}"));
                return cli::USAGE;
            }
        };
        let Some(store) = store else { return cli::print(&super::empty()) };
        let mut replay =
            Replay { target, patience: timeout, filter, at: wall_clock(), account: Account::default() };
        if dry_run { done(replay.rehearse(store)) } else { done(replay.perform(store, keep)) }
    })
}

/// Where the records go, and what is known of that.
struct Target {
    to: Address,
    delimiter: Vec<u8>,
    max_record_bytes: Option<usize>,
}

/// The listener at `to`, or the first one that acknowledges and whose records go to `stream`. With several
/// streams their letters are not to get mixed up, so one has to be named.
fn target(to: Option<Address>, stream: Option<&str>, config: &Config) -> Result<Target, String> {
    let streams = config.streams();
    if streams.len() > 1 && stream.is_none() {
        return Err(format!(
            "name the stream whose letters are to be replayed with --stream: {}",
            streams.join(", ")
        ));
    }
    let feeds = |listener: &ListenConfig| match (stream, &listener.delivery_stream_name) {
        (None, _) => true,
        (Some(stream), Some(own)) => stream == own,
        // Where records say themselves where they go, they say so again.
        (Some(stream), None) => stream == config.delivery_stream_name || config.route.is_some(),
    };
    let acknowledges = |listener: &ListenConfig| listener.acks != Acks::Off;
    let usable = |listener: &&ListenConfig| {
        let connects = matches!(listener.address, Address::Unix(_) | Address::Tcp(_));
        connects && acknowledges(listener) && listener.protocol == Protocol::Lines && feeds(listener)
    };
    let levels = "\"received\", \"durable\" or \"delivered\"";
    let listener = match &to {
        Some(to) => config.listen.values().find(|listener| listener.address == *to),
        None => Some(config.listen.values().find(usable).ok_or_else(|| {
            format!(
                "no listener of the configuration can be connected to and acknowledges{}: set `acks` of one to \
                 {levels}, without which nobody knows what arrived, or name the listener with --to",
                stream.map_or_else(String::new, |stream| format!(" records for {stream}"))
            )
        })?),
    };
    if let Some(listener) = listener.filter(|listener| !acknowledges(listener)) {
        return Err(format!(
            "the listener at {} acknowledges nothing: set its `acks` to {levels}, without which nobody knows \
             what arrived",
            listener.address
        ));
    }
    let max_record_bytes = listener.map(|listener| listener.max_record_bytes);
    let to = to.or_else(|| listener.map(|listener| listener.address.clone()));
    let to = to.ok_or("name the listener with --to")?;
    Ok(Target { to, delimiter: config.delimiter.to_vec(), max_record_bytes })
}

struct Replay {
    target: Target,
    patience: Duration,
    filter: Filter,
    /// The time that filters go by.
    at: SystemTime,
    account: Account,
}

/// What became of the letters.
#[derive(Default)]
struct Account {
    sent: u64,
    bytes: u64,
    acknowledged: BTreeSet<u64>,
    /// Lines of records that no line carries unharmed.
    unfit: Vec<(u64, Unfit)>,
    damaged: Vec<u64>,
}

/// Letters that go over one connection.
#[derive(Default)]
struct Group {
    numbers: Vec<u64>,
    lines: Vec<u8>,
}

impl Group {
    fn is_full(&self) -> bool {
        self.numbers.len() >= MAX_BATCH_RECORDS || self.lines.len() >= MAX_BATCH_BYTES
    }
}

impl Replay {
    fn rehearse(&mut self, store: &Snapshot) -> anyhow::Result<u8> {
        self.each_group(store, |_, _| Ok(()))?;
        let Account { sent, bytes, .. } = self.account;
        let to = &self.target.to;
        let code = cli::print(&format!("{sent} records of {bytes} bytes would be sent to {to}\n"));
        self.say_what_stays();
        Ok(code)
    }

    fn perform(mut self, store: &Snapshot, keep: bool) -> anyhow::Result<u8> {
        store.claim()?;
        let Ok(runtime) = cli::runtime() else { return Ok(cli::FAILED) };
        let delivered = self.each_group(store, |replay, group| runtime.block_on(replay.deliver(group)));
        // Whatever came in between: what was acknowledged must not be sent again.
        let Account { sent, acknowledged, .. } = &self.account;
        if !keep && !acknowledged.is_empty() {
            store.remove(acknowledged)?;
        }
        let removed = if keep { "kept in" } else { "removed from" };
        let (sent, acknowledged) = (*sent, acknowledged.len());
        let code =
            cli::print(&format!("{acknowledged} of {sent} records acknowledged and {removed} the store\n"));
        self.say_what_stays();
        delivered?;
        let all = u64::try_from(acknowledged) == Ok(sent) && self.account.unfit.is_empty();
        Ok(if all { code } else { cli::FAILED })
    }

    fn say_what_stays(&self) {
        for (number, unfit) in &self.account.unfit {
            say(&format!("warning: the record of line {number} stays in the store: {unfit}"));
        }
        if let Some(damaged) = damaged(&self.account.damaged) {
            say(&format!("warning: {damaged}"));
        }
    }

    /// Hands the letters that are meant to `each`, in groups.
    fn each_group(
        &mut self,
        store: &Snapshot,
        mut each: impl FnMut(&mut Self, &Group) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let mut group = Group::default();
        store.lines(|number, line| {
            self.gather(number, line, &mut group);
            if group.is_full() { each(self, &std::mem::take(&mut group)) } else { Ok(()) }
        })?;
        if group.numbers.is_empty() { Ok(()) } else { each(self, &group) }
    }

    fn gather(&mut self, number: u64, line: &[u8], group: &mut Group) {
        let (target, account) = (&self.target, &mut self.account);
        let Some(letter) = Letter::read(line) else { return account.damaged.push(number) };
        if !self.filter.takes(&letter, self.at) {
            return;
        }
        match wire::append(&letter.data, &target.delimiter, target.max_record_bytes, &mut group.lines) {
            Ok(()) => {
                group.numbers.push(number);
                account.sent += 1;
                account.bytes += u64::try_from(letter.data.len()).unwrap_or(0);
            }
            Err(unfit) => account.unfit.push((number, unfit)),
        }
    }

    /// Sends `group` until all of it is acknowledged over one connection.
    async fn deliver(&mut self, group: &Group) -> anyhow::Result<()> {
        let to = &self.target.to;
        let (mut backoff, deadline) = (BACKOFF.0, now() + self.patience);
        loop {
            let input = Input::of("the dead-letter store", Cursor::new(group.lines.clone()));
            let mut delivery = Delivery::new(to.clone(), self.patience, input, ProgressBar::hidden());
            let (acknowledged, records) = match delivery.once().await? {
                End::Settled => {
                    self.account.acknowledged.extend(&group.numbers);
                    return Ok(());
                }
                End::Unreachable(error) if self.account.acknowledged.is_empty() || now() >= deadline => {
                    return Err(error).with_context(|| {
                        format!("{to} could not be connected to; is hydrant running and listening there?")
                    });
                }
                End::Broken(error) if now() >= deadline => {
                    return Err(error).with_context(|| format!("{to} broke off again and again"));
                }
                End::Unreachable(_) | End::Broken(_) => {
                    sleep(backoff).await;
                    backoff = (backoff * 2).min(BACKOFF.1);
                    continue;
                }
                End::LastWord | End::Stalled => (delivery.acknowledged(), group.numbers.len()),
            };
            if acknowledged == 0 {
                bail!(
                    "{to} acknowledged none of {records} records, which stay in the store: set `acks` of that \
                     listener to \"received\", \"durable\" or \"delivered\", or see in the daemon's log why"
                );
            }
            bail!(
                "{to} acknowledged {acknowledged} of {records} records and can't say which, so all of them stay in \
                 the store, lines {}; the daemon's log says what became of the rest",
                listed(&group.numbers)
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Sources, load};

    fn config(settings: &[&str]) -> Config {
        let set = ["delivery_stream_name=app"].iter().chain(settings).map(ToString::to_string).collect();
        load(&Sources { set, ..Sources::default() }).unwrap().config
    }

    // R-T11
    #[test]
    fn without_acknowledgements_nothing_is_replayed() {
        let (silent, told) = ("listen.a.address=unix:/run/a.sock", "listen.b.address=tcp:127.0.0.1:5170");
        let target = |to, config: &Config| target(to, None, config);
        let error = |to, settings: &[&str]| target(to, &config(settings)).err().unwrap();
        assert!(error(None, &[silent]).contains("set `acks` of one to \"received\""));
        assert!(error(None, &["listen.a.address=stdin:"]).contains("--to"));
        let to = |text| connect_address(text).unwrap();
        let named = error(Some(to("unix:/run/a.sock")), &[silent]);
        assert!(named.contains("the listener at unix:/run/a.sock acknowledges nothing"), "{named}");
        let settings = [silent, told, "listen.b.acks=received", "listen.b.max_record_bytes=1000"];
        let first = target(None, &config(&settings)).unwrap();
        assert_eq!((first.to, first.max_record_bytes), (to("tcp:127.0.0.1:5170"), Some(1000)));
        // Of one that is not in the configuration nothing is known.
        let other = target(Some(to("unix:/run/c.sock")), &config(&settings)).unwrap();
        assert_eq!((other.to, other.max_record_bytes), (to("unix:/run/c.sock"), None));
    }

    // R-T11
    #[test]
    fn letters_go_to_a_listener_of_their_own_stream() {
        let settings = [
            "listen.a.address=unix:/run/a.sock",
            "listen.a.acks=received",
            "listen.b.address=unix:/run/b.sock",
            "listen.b.acks=received",
            "listen.b.delivery_stream_name=audit",
        ];
        let to = |stream, settings: &[&str]| {
            target(None, stream, &config(settings)).map(|target| target.to.to_string())
        };
        assert_eq!(to(Some("app"), &settings).unwrap(), "unix:/run/a.sock");
        assert_eq!(to(Some("audit"), &settings).unwrap(), "unix:/run/b.sock");
        assert!(to(None, &settings).unwrap_err().ends_with("with --stream: app, audit"));
        assert!(to(Some("gone"), &settings).unwrap_err().contains("acknowledges records for gone"));
        let routed = [&settings[..], &["route.field=x", "route.streams=y=web"]].concat();
        assert_eq!(to(Some("web"), &routed).unwrap(), "unix:/run/a.sock");
    }
}
