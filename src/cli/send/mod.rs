//! `hydrant send`: files or standard input into a running daemon, acknowledged.
//!
//! `lines` cuts what `input` reads into records, `window` holds them until `counts` says that the
//! daemon has them, and `delivery` is the connections between the two.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::bail;
use indicatif::{ProgressBar, ProgressStyle};

use super::options::say;
use crate::config::{Address, connect_address};

pub mod counts;
pub mod delivery;
pub mod input;
pub mod lines;
pub mod window;

use delivery::Delivery;
use input::Input;

/// Streams lines into a running hydrant; done once every record is acknowledged
#[derive(Debug, clap::Args)]
#[command(
    after_help = "What is not acknowledged when the connection breaks is sent again over the next one.\n\n\
                        Example, with `acks = \"received\"` set for the listener:\n  \
                        hydrant send --to unix:/run/hydrant/app.sock app.log app.log.1"
)]
pub struct Args {
    /// The listener: unix:PATH, tcp:PORT or tcp:HOST:PORT
    #[arg(long, value_name = "ADDRESS", default_value = "unix:/run/hydrant/app.sock", value_parser = connect_address)]
    to: Address,
    /// Give up when nothing was acknowledged for this long, connected or not
    #[arg(long, value_name = "DUR", default_value = "60s", value_parser = patience)]
    timeout: Duration,
    /// Files of lines; without any, standard input
    files: Vec<PathBuf>,
}

/// Patience as it can be given on the command line.
pub(super) fn patience(text: &str) -> Result<Duration, String> {
    let sensible = Duration::from_millis(100)..=Duration::from_secs(7 * 24 * 3600);
    let patience = humantime::parse_duration(text).ok().filter(|patience| sensible.contains(patience));
    patience.ok_or_else(|| "must be a duration from 100ms to 7days, such as \"60s\"".to_owned())
}

/// Runs the command; returns the exit code.
pub fn execute(args: Args) -> u8 {
    let runtime = match super::runtime() {
        Ok(runtime) => runtime,
        Err(code) => return code,
    };
    let sent = runtime.block_on(send(args));
    // A read of standard input can't be called off; there is nothing else to wait for.
    runtime.shutdown_background();
    match sent {
        Ok(records) => super::print(&format!("{records} of {records} records acknowledged\n")),
        Err(error) => {
            say(&format!("error: {error:#}"));
            super::FAILED
        }
    }
}

async fn send(Args { to, timeout, files }: Args) -> anyhow::Result<u64> {
    let progress = progress(&files);
    let mut delivery = Delivery::new(to, timeout, Input::new(&files), progress.clone());
    let sent = delivery.run().await;
    progress.finish_and_clear();
    let (sent, left_out) = (sent?, delivery.input().left_out());
    if left_out.records > 0 {
        bail!(
            "{sent} records were acknowledged and {} not sent, which are longer than the 1,000 KiB that Firehose \
             takes: the first is {}",
            left_out.records,
            left_out.first
        );
    }
    Ok(sent)
}

/// A bar on a terminal, nothing elsewhere. Its message is the number of acknowledged records.
fn progress(files: &[PathBuf]) -> ProgressBar {
    let sizes = files.iter().map(|path| std::fs::metadata(path).map(|metadata| metadata.len()));
    let total: Option<u64> = sizes.sum::<Result<u64, _>>().ok().filter(|total| *total > 0);
    let bar = total.map_or_else(ProgressBar::new_spinner, ProgressBar::new).with_message("0");
    let template = if total.is_some() {
        "{bar:30} {bytes}/{total_bytes} {bytes_per_sec} {msg} acknowledged"
    } else {
        "{spinner} {bytes} {bytes_per_sec} {msg} acknowledged"
    };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}
