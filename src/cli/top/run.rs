//! Runs `hydrant top`: the terminal, the clock, the signals and the daemon.

use std::io::{self, IsTerminal};
use std::pin::pin;
use std::time::Duration;

use anyhow::Context;
use crossterm::event::EventStream;
use futures_util::{Stream, StreamExt, stream};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook_tokio::Signals;
use tokio::time::MissedTickBehavior;

use super::Args;
use super::client::Client;
use super::model::{Look, Model};
use super::screen::Screen;
use super::session::{Event, Session};
use super::theme::Theme;
use super::view;
use crate::cli::options::say;
use crate::cli::{DONE, FAILED, print, runtime};
use crate::telemetry::now;

/// The screen says how long ago things were, so it is drawn anew this often.
const TICK: Duration = Duration::from_secs(1);

/// Runs the command; returns the exit code.
pub(super) fn execute(args: &Args) -> u8 {
    let runtime = match runtime() {
        Ok(runtime) => runtime,
        Err(code) => return code,
    };
    runtime.block_on(run(args)).unwrap_or_else(|error| {
        say(&format!("error: {error:#}"));
        FAILED
    })
}

async fn run(args: &Args) -> anyhow::Result<u8> {
    let mut client = Client::new(args.admin.clone());
    let first = client.look().await?;
    let model = Model::new(args.admin.to_string(), args.every, first, now());
    if args.once || !io::stdout().is_terminal() {
        return Ok(print(&view::text(&model, now())));
    }
    let theme = Theme { colour: std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()) };
    watch(client, args.every, Session::new(model, theme)).await.context("the terminal")?;
    Ok(DONE)
}

/// Shows the daemon until the user, or a signal, asks for the end.
async fn watch(client: Client, every: Duration, mut session: Session) -> io::Result<()> {
    // A signal ends the loop, and that gives the terminal back.
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP])?;
    let mut screen = Screen::take()?;
    let mut inputs = EventStream::new();
    let mut looks = pin!(looks(client, every));
    let mut ticks = tokio::time::interval(TICK);
    loop {
        screen.draw(|frame| session.draw(frame, now()))?;
        let event = tokio::select! {
            _ = signals.next() => Event::Ended,
            input = inputs.next() => match input {
                Some(input) => Event::Input(input?),
                None => Event::Ended,
            },
            Some(look) = looks.next() => Event::Looked(look.map(Box::new)),
            _ = ticks.tick() => Event::Tick,
        };
        if session.apply(event, now()).is_break() {
            return Ok(());
        }
    }
}

/// Looks at the daemon `every` so often, and says what was seen.
fn looks(client: Client, every: Duration) -> impl Stream<Item = Result<Look, String>> {
    let mut pace = tokio::time::interval_at(tokio::time::Instant::from_std(now() + every), every);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    stream::unfold((client, pace), |(mut client, mut pace)| async {
        pace.tick().await;
        let look = client.look().await.map_err(|error| error.why());
        Some((look, (client, pace)))
    })
}
