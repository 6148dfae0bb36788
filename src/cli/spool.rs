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

/// Looks into a spool directory, beside a running daemon or not; never changes it
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  hydrant spool verify /var/lib/hydrant/spool")]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// What is in it
    Info(Look),
    /// Whether all of it can be read; exit code 1 if not
    Verify(Look),
    /// Writes the records that wait, as they came and in order, to standard output
    Export {
        /// The spool's directory
        dir: PathBuf,
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
    let dir = match &args.command {
        Command::Info(look) | Command::Verify(look) => &look.dir,
        Command::Export { dir } => dir,
    };
    let inspection = match inspect(dir) {
        Ok(inspection) => inspection,
        Err(reason) => {
            say(&format!("error: {reason}"));
            return super::USAGE;
        }
    };
    match args.command {
        Command::Info(look) => super::print(&describe(&inspection, look.json)),
        Command::Verify(look) => {
            let printed = super::print(&describe(&inspection, look.json));
            if inspection.summary().is_sound() { printed } else { super::FAILED }
        }
        Command::Export { .. } => export(&inspection),
    }
}

/// The directory, looked at, or why it can't be.
fn inspect(dir: &Path) -> Result<Inspection<Disk>, String> {
    let disk = Disk::look(dir).map_err(|error| with_cause(&error))?;
    Inspection::new(disk).map_err(|error| with_cause(&error))
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
    line("verdict", if summary.is_sound() { "sound".to_owned() } else { "damaged".to_owned() });
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
        "sound": summary.is_sound(),
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

fn export(inspection: &Inspection<Disk>) -> u8 {
    let mut stdout = io::BufWriter::new(io::stdout().lock());
    let mut code = super::DONE;
    let written = inspection.export(|waiting| match write_records(waiting, &mut stdout) {
        Ok(()) => ControlFlow::Continue(()),
        Err(ExportError::Read(error)) => {
            say(&format!("error: {}", with_cause(&error)));
            code = super::FAILED;
            ControlFlow::Continue(())
        }
        Err(ExportError::Write(error)) => ControlFlow::Break(error),
    });
    let written = match written {
        ControlFlow::Break(error) => Err(error),
        ControlFlow::Continue(()) => stdout.flush(),
    };
    match written {
        Ok(()) => code,
        Err(error) => {
            say(&format!("error: the records could not be written: {error}"));
            super::FAILED
        }
    }
}

enum ExportError {
    Read(ReadError),
    Write(io::Error),
}

fn write_records(waiting: Result<Waiting, ReadError>, to: &mut impl Write) -> Result<(), ExportError> {
    let waiting = waiting.map_err(ExportError::Read)?;
    waiting.slices().try_for_each(|records| to.write_all(&records)).map_err(ExportError::Write)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spool::{Options, Sync, open};

    fn written(directory: &Path) {
        let options = Options::new(4 << 20, Sync::Os, 1);
        let mut spool = open(Disk::open(directory).unwrap(), options).unwrap().spool;
        spool.append(1_000, &[2, 4, 6], b"a\nb\nc\n").unwrap();
        spool.append(2_000, &[2], b"d\n").unwrap();
        spool.settle(1..2);
        spool.checkpoint().unwrap();
    }

    #[test]
    fn a_spool_is_described_and_exported_without_what_is_settled() {
        let directory = tempfile::tempdir().unwrap();
        written(directory.path());
        let inspection = inspect(directory.path()).unwrap();
        let text = describe(&inspection, false);
        assert!(text.contains("to be delivered      3 records of 6 bytes"), "{text}");
        let json: Value = serde_json::from_str(&describe(&inspection, true)).unwrap();
        assert_eq!((&json["sound"], &json["live"]["records"]), (&json!(true), &json!(3)));
        let mut exported = Vec::new();
        let end = inspection.export(|waiting| {
            assert!(write_records(waiting, &mut exported).is_ok());
            ControlFlow::<()>::Continue(())
        });
        assert!(end.is_continue());
        assert_eq!(exported, b"a\nc\nd\n");
    }

    #[test]
    fn damage_is_described_by_its_place() {
        let directory = tempfile::tempdir().unwrap();
        written(directory.path());
        let path = directory.path().join(segment_name(1));
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[70] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        let inspection = inspect(directory.path()).unwrap();
        let text = describe(&inspection, false);
        assert!(text.contains("segment, bytes 64 to 125") && text.contains("2 records"), "{text}");
        assert!(!inspection.summary().is_sound());
        let missing = inspect(&directory.path().join("none")).unwrap_err();
        assert!(missing.starts_with("could not open ") && missing.contains("No such file"), "{missing}");
    }
}
