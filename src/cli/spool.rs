//! `hydrant spool`: a look into a spool's directory, which never changes it.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::options::say;
use crate::spool::inspect::{Inspection, Summary};
use crate::spool::layout::segment_name;
use crate::spool::{Disk, ReadError, SegmentSurvey, Survey, Unusable, Waiting};

/// Files that every spool has, however empty it is.
const MARKS: [&str; 2] = ["lock", "watermark"];

/// Looks into a spool's directory, beside a running daemon or not; never changes it
#[derive(Debug, clap::Args)]
#[command(
    disable_help_subcommand = true,
    after_help = "Examples:\n  hydrant spool verify /var/lib/hydrant/spool\n  \
                  hydrant spool export /var/lib/hydrant/spool --output records.log"
)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Says what is in it
    #[command(after_help = "Example:\n  hydrant spool info /var/lib/hydrant/spool --json")]
    Info(Look),
    /// Says whether all of it can be read; exit code 1 if not
    #[command(after_help = "Example:\n  hydrant spool verify /var/lib/hydrant/spool")]
    Verify(Look),
    /// Writes the records that wait to be delivered, as they came and in order, to standard output
    #[command(after_help = "Example:\n  hydrant spool export /var/lib/hydrant/spool --output records.log")]
    Export {
        /// The spool's directory
        dir: PathBuf,
        /// Write to FILE, which must not exist, instead of standard output
        #[arg(long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
}

#[derive(Debug, clap::Args)]
struct Look {
    /// The spool's directory
    dir: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs the command; returns the exit code.
pub fn execute(args: Args) -> u8 {
    let (Command::Info(Look { dir, .. }) | Command::Verify(Look { dir, .. }) | Command::Export { dir, .. }) =
        &args.command;
    let inspection = match inspect(dir) {
        Ok(inspection) => inspection,
        Err(reason) => {
            say(&format!("error: {reason}"));
            return super::USAGE;
        }
    };
    match &args.command {
        Command::Info(look) => super::print(&describe(&inspection, look.json)),
        Command::Verify(look) => {
            let printed = super::print(&describe(&inspection, look.json));
            if verdict(inspection.survey(), &inspection.summary()) == Verdict::Sound {
                printed
            } else {
                super::FAILED
            }
        }
        Command::Export { output, .. } => export(&inspection, output.as_deref()).unwrap_or_else(|error| {
            say(&format!("error: {error:#}"));
            super::FAILED
        }),
    }
}

/// What is to be thought of a spool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// All of it can be read.
    Sound,
    /// All that is its own can be; there are files that a daemon would leave alone.
    Incomplete,
    /// Some of it can't be.
    Damaged,
}

impl Verdict {
    fn word(self) -> &'static str {
        match self {
            Self::Sound => "sound",
            Self::Incomplete => "incomplete: some files are left alone",
            Self::Damaged => "damaged",
        }
    }
}

fn verdict(survey: &Survey, summary: &Summary) -> Verdict {
    match (summary.is_sound(), survey.unusable.is_empty()) {
        (true, true) => Verdict::Sound,
        (true, false) => Verdict::Incomplete,
        (false, _) => Verdict::Damaged,
    }
}

/// The directory, looked at, or why it can't be.
fn inspect(dir: &Path) -> Result<Inspection<Disk>, String> {
    let disk = Disk::look(dir).map_err(|error| with_cause(&error))?;
    let inspection = Inspection::new(disk).map_err(|error| with_cause(&error))?;
    let survey = inspection.survey();
    if survey.segments.is_empty()
        && survey.unusable.is_empty()
        && !MARKS.iter().any(|mark| dir.join(mark).exists())
    {
        return Err(format!("{} holds no spool: name the daemon's `buffer.directory`", dir.display()));
    }
    Ok(inspection)
}

fn with_cause(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

fn describe(inspection: &Inspection<Disk>, as_json: bool) -> String {
    let (survey, summary) = (inspection.survey(), inspection.summary());
    if as_json { format!("{:#}\n", to_json(survey, &summary)) } else { to_text(survey, &summary) }
}

fn to_text(survey: &Survey, summary: &Summary) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let mut line = |name: &str, value: String| {
        writeln!(text, "{name:<20} {value}").ok();
    };
    line("segments", format!("{} of {} bytes", summary.segments, summary.bytes));
    line("frames", format!("{} of {} records", summary.frames, summary.records));
    line("to be delivered", format!("{} records of {} bytes", summary.live.records, summary.live.bytes));
    line("settled below", summary.low_watermark.to_string());
    line("torn", format!("{} bytes", summary.torn_bytes));
    line("damaged", format!("{} bytes", summary.damaged_bytes));
    line("missing", format!("{} records", summary.missing_records));
    line("unreadable", format!("{} bytes", summary.unreadable_bytes));
    for segment in &survey.segments {
        for stretch in &segment.scan.stretches {
            let what = if survey.is_torn(segment, stretch) { "torn" } else { "damaged" };
            let (name, place) = (segment_name(segment.number), &stretch.place);
            line(what, format!("{name}, bytes {} to {}", place.start, place.end));
        }
    }
    for (name, unusable) in &survey.unusable {
        line("left alone", format!("{name}: {}", why(unusable)));
    }
    line("verdict", verdict(survey, summary).word().to_owned());
    text
}

fn why(unusable: &Unusable) -> String {
    match unusable {
        Unusable::Foreign => "it belongs to another spool".to_owned(),
        Unusable::Unreadable(bytes, None) => format!("{bytes} bytes can not be read"),
        Unusable::Unreadable(_, Some(error)) => format!("it can not be read: {error}"),
    }
}

fn to_json(survey: &Survey, summary: &Summary) -> Value {
    let segments: Vec<Value> = survey.segments.iter().map(|segment| segment_json(survey, segment)).collect();
    let unusable: Vec<Value> = survey
        .unusable
        .iter()
        .map(|(name, unusable)| json!({ "name": name, "reason": why(unusable) }))
        .collect();
    json!({
        "sound": verdict(survey, summary) == Verdict::Sound,
        "segments": segments,
        "bytes": summary.bytes,
        "frames": summary.frames,
        "records": summary.records,
        "live": {
            "records": summary.live.records,
            "bytes": summary.live.bytes,
            "oldest_unix_ms": summary.live.oldest_ms,
        },
        "low_watermark": summary.low_watermark,
        "torn_bytes": summary.torn_bytes,
        "damaged_bytes": summary.damaged_bytes,
        "missing_records": summary.missing_records,
        "unreadable_bytes": summary.unreadable_bytes,
        "left_alone": unusable,
    })
}

fn segment_json(survey: &Survey, segment: &SegmentSurvey) -> Value {
    let runs = segment.scan.runs.iter();
    let stretches = segment.scan.stretches.iter().map(|stretch| {
        json!({
            "offset": stretch.place.start,
            "bytes": stretch.place.end - stretch.place.start,
            "torn": survey.is_torn(segment, stretch),
            "unreadable_bytes": stretch.unreadable,
        })
    });
    json!({
        "name": segment_name(segment.number),
        "bytes": segment.bytes,
        "created_unix_ms": segment.header.map(|header| header.created_ms),
        "frames": runs.clone().map(|run| run.frames).sum::<u64>(),
        "records": runs.map(|run| run.sequences.end - run.sequences.start).sum::<u64>(),
        "live_records": segment.scan.live.records,
        "no_frames": stretches.collect::<Vec<_>>(),
    })
}

fn export(inspection: &Inspection<Disk>, output: Option<&Path>) -> anyhow::Result<u8> {
    let mut to = super::output(output)?;
    let (mut records, mut bytes, mut unread) = (0, 0, 0_u64);
    let written = inspection.export(|waiting: Result<Waiting, ReadError>| match waiting {
        Err(error) => {
            unread += 1;
            say(&format!("error: {}", with_cause(&error)));
            ControlFlow::Continue(())
        }
        Ok(waiting) => {
            let live = waiting.live_count();
            (records, bytes) = (records + live.records, bytes + live.bytes);
            match waiting.slices().try_for_each(|slice| to.write_all(&slice)) {
                Ok(()) => ControlFlow::Continue(()),
                Err(error) => ControlFlow::Break(error),
            }
        }
    });
    let written: io::Result<()> = match written {
        ControlFlow::Break(error) => Err(error),
        ControlFlow::Continue(()) => to.flush(),
    };
    written.map_err(|error| anyhow::anyhow!("the records could not be written: {error}"))?;
    say(&format!("{records} records of {bytes} bytes exported"));
    let summary = inspection.summary();
    if verdict(inspection.survey(), &summary) == Verdict::Sound && unread == 0 {
        return Ok(super::DONE);
    }
    say(&format!(
        "warning: not everything could be read: {} bytes are damaged, {} records missing, {} bytes unreadable, {} \
         files left alone; `hydrant spool verify` says where",
        summary.damaged_bytes,
        summary.missing_records,
        summary.unreadable_bytes,
        inspection.survey().unusable.len()
    ));
    Ok(super::FAILED)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spool::{Options, Sync, open};

    // R-T12
    #[test]
    fn damage_is_described_by_its_place() {
        let directory = tempfile::tempdir().unwrap();
        let options = Options::new(4 << 20, Sync::Os, 1);
        let mut spool = open(Disk::open(directory.path()).unwrap(), options).unwrap().spool;
        spool.append(1_000, &[2, 4, 6], b"a\nb\nc\n").unwrap();
        spool.append(2_000, &[2], b"d\n").unwrap();
        spool.settle(1..2);
        spool.checkpoint().unwrap();
        let path = directory.path().join(segment_name(1));
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[70] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        let inspection = inspect(directory.path()).unwrap();
        let text = describe(&inspection, false);
        assert!(text.contains("segment, bytes 64 to 125") && text.contains("2 records"), "{text}");
        assert!(text.ends_with("verdict              damaged\n"), "{text}");
    }
}
