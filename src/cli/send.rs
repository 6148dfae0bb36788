//! `hydrant send`: files or standard input into a running daemon, acknowledged.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use indicatif::{ProgressBar, ProgressStyle};
use tokio::fs::File;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::watch;

use super::options::say;
use crate::config::{Address, connect_address};

/// Bytes read and written at a time.
const PIECE_BYTES: usize = 64 * 1024;

/// Streams lines into a running hydrant; done once every record is acknowledged
#[derive(Debug, clap::Args)]
#[command(after_help = "Example, with `acks = \"received\"` set for the listener:\n  \
                        hydrant send --to unix:/run/hydrant/app.sock app.log app.log.1")]
pub struct Args {
    /// The listener: unix:PATH, tcp:PORT or tcp:HOST:PORT
    #[arg(long, value_name = "ADDRESS", default_value = "unix:/run/hydrant/app.sock", value_parser = connect_address)]
    to: Address,
    /// Files of lines; without any, standard input
    files: Vec<PathBuf>,
}

/// Runs the command; returns the exit code.
pub fn execute(args: Args) -> u8 {
    let runtime = match super::runtime() {
        Ok(runtime) => runtime,
        Err(code) => return code,
    };
    match runtime.block_on(send(&args)) {
        Ok(records) => super::print(&format!("{records} of {records} records acknowledged\n")),
        Err(error) => {
            say(&format!("error: {error:#}"));
            super::FAILED
        }
    }
}

async fn send(Args { to, files }: &Args) -> anyhow::Result<u64> {
    let connecting = || format!("{to} could not be connected to; is hydrant running and listening there?");
    match to {
        Address::Unix(path) => {
            let (reader, writer) = UnixStream::connect(path).await.with_context(connecting)?.into_split();
            exchange(to, files, reader, writer).await
        }
        Address::Tcp(address) => {
            let (reader, writer) = TcpStream::connect(address).await.with_context(connecting)?.into_split();
            exchange(to, files, reader, writer).await
        }
        Address::Stdin | Address::Activated(_) => bail!("{to} can't be connected to"),
    }
}

/// Writes everything, reads acknowledgements beside it, and compares the two at the end.
async fn exchange(
    to: &Address,
    files: &[PathBuf],
    reader: impl AsyncRead + Unpin,
    mut writer: impl AsyncWrite + Unpin,
) -> anyhow::Result<u64> {
    let (acknowledged, seen) = watch::channel(None);
    let progress = progress(files, seen.clone());
    let writing = async {
        let mut lines = Lines::default();
        if files.is_empty() {
            copy(tokio::io::stdin(), &mut writer, &mut lines, &progress).await.context("standard input")?;
        }
        for path in files {
            let file =
                File::open(path).await.with_context(|| format!("{} could not be opened", path.display()))?;
            copy(file, &mut writer, &mut lines, &progress)
                .await
                .with_context(|| path.display().to_string())?;
        }
        // The other side may have gone already, which the count then shows.
        writer.shutdown().await.ok();
        anyhow::Ok(lines.records)
    };
    let reading = async {
        let mut counts = BufReader::new(reader).lines();
        // A connection that breaks ends the counts; the last one stands.
        while let Ok(Some(line)) = counts.next_line().await {
            let count: u64 =
                line.parse().with_context(|| format!("{to} answered {line:?}, which is no count"))?;
            acknowledged.send_replace(Some(count));
        }
        anyhow::Ok(())
    };
    tokio::pin!(writing, reading);
    // Should the daemon close early, what it acknowledged until then is all there will be.
    let sent = tokio::select! {
        sent = &mut writing => { let sent = sent?; reading.await?; sent }
        read = &mut reading => { read?; writing.await? }
    };
    progress.finish_and_clear();
    let acknowledged = *seen.borrow();
    match acknowledged {
        Some(count) if count == sent => Ok(sent),
        None if sent == 0 => Ok(0),
        None => bail!(
            "{sent} records were written to {to}, which acknowledged none: set `acks` of that listener to \
             \"received\" or \"delivered\" to know that they arrived"
        ),
        Some(count) => {
            bail!("{to} acknowledged {count} of {sent} records; its log says what became of the rest")
        }
    }
}

async fn copy(
    mut from: impl AsyncRead + Unpin,
    to: &mut (impl AsyncWrite + Unpin),
    lines: &mut Lines,
    progress: &ProgressBar,
) -> anyhow::Result<()> {
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        let read = from.read(&mut piece).await.context("reading failed")?;
        let Some(bytes) = piece.get(..read).filter(|bytes| !bytes.is_empty()) else { break };
        to.write_all(bytes).await.context("the connection broke")?;
        lines.count(bytes);
        progress.inc(u64::try_from(read).unwrap_or(0));
    }
    // The last line of one file must not run together with the first of the next.
    if lines.open() {
        to.write_all(b"\n").await.context("the connection broke")?;
        lines.count(b"\n");
    }
    Ok(())
}

/// Counts the lines that a `lines` listener takes as records.
#[derive(Debug, Default)]
struct Lines {
    records: u64,
    /// Bytes of the line so far, and whether all of them are a single CR.
    length: u64,
    only_cr: bool,
}

impl Lines {
    fn count(&mut self, bytes: &[u8]) {
        let mut start = 0;
        for end in memchr::memchr_iter(b'\n', bytes) {
            self.extend(bytes.get(start..end).unwrap_or(&[]));
            self.records += u64::from(self.length > 0 && !self.only_cr);
            self.length = 0;
            start = end + 1;
        }
        self.extend(bytes.get(start..).unwrap_or(&[]));
    }

    fn extend(&mut self, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.only_cr = self.length == 0 && bytes == b"\r";
            self.length += u64::try_from(bytes.len()).unwrap_or(0);
        }
    }

    fn open(&self) -> bool {
        self.length > 0
    }
}

/// A bar on a terminal, nothing elsewhere.
fn progress(files: &[PathBuf], acknowledged: watch::Receiver<Option<u64>>) -> ProgressBar {
    let sizes = files.iter().map(|path| std::fs::metadata(path).map(|metadata| metadata.len()));
    let total: Option<u64> = sizes.sum::<Result<u64, _>>().ok().filter(|total| *total > 0);
    let bar = total.map_or_else(ProgressBar::new_spinner, ProgressBar::new);
    let template = if total.is_some() {
        "{bar:30} {bytes}/{total_bytes} {bytes_per_sec} {acknowledged} acknowledged"
    } else {
        "{spinner} {bytes} {bytes_per_sec} {acknowledged} acknowledged"
    };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.with_key(
            "acknowledged",
            move |_: &indicatif::ProgressState, out: &mut dyn std::fmt::Write| {
                // A bar that can't be drawn is not worth an error.
                write!(out, "{}", acknowledged.borrow().unwrap_or(0)).ok();
            },
        ));
    }
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}

#[cfg(test)]
mod tests {
    use super::*;

    // R-T3
    #[test]
    fn lines_are_counted_as_the_listener_takes_them_however_they_are_cut() {
        let check = |text: &str, expected: u64| {
            for size in 1..=text.len().max(1) {
                let mut lines = Lines::default();
                text.as_bytes().chunks(size).for_each(|piece| lines.count(piece));
                if lines.open() {
                    lines.count(b"\n");
                }
                assert_eq!(lines.records, expected, "{text:?} in pieces of {size}");
            }
        };
        check("", 0);
        check("a\nb", 2);
        check("\n\r\n\n", 0);
        check("a\r\n\r\nb\r\r\n", 2);
        check("\r\r\n", 1);
    }
}
