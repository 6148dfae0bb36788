//! What the lines of a dead-letter store say: one letter, which of them are meant, and their sums.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

/// One letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Letter {
    /// When it was written.
    pub time: SystemTime,
    /// The stream that did not take it.
    pub stream: String,
    /// The service's error code, or the daemon's.
    pub error_code: String,
    /// Attempts that carried it.
    pub attempts: u64,
    /// The record as it would have been delivered.
    pub data: Vec<u8>,
}

#[derive(serde::Deserialize)]
struct Written {
    time: String,
    stream: String,
    error_code: String,
    attempts: u64,
    data: String,
}

impl Letter {
    /// The letter that `line` holds, if it is whole.
    #[must_use]
    pub fn read(line: &[u8]) -> Option<Self> {
        let Written { time, stream, error_code, attempts, data } = serde_json::from_slice(line).ok()?;
        let time = humantime::parse_rfc3339(&time).ok()?;
        let data = base64_simd::STANDARD.decode_to_vec(data).ok()?;
        Some(Self { time, stream, error_code, attempts, data })
    }
}

/// A moment as it is named on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// By date and time.
    At(SystemTime),
    /// By how long ago it was.
    Ago(Duration),
}

impl Moment {
    /// Reads `text`.
    ///
    /// # Errors
    ///
    /// What would be right.
    pub fn read(text: &str) -> Result<Self, String> {
        let at = humantime::parse_rfc3339_weak(text).map(Self::At).ok();
        let ago = || humantime::parse_duration(text).map(Self::Ago).ok();
        at.or_else(ago).ok_or_else(|| {
            "must be a time such as 2026-11-24T21:38:00Z, or how long ago, such as 2h".to_owned()
        })
    }

    fn is_after(self, time: SystemTime, now: SystemTime) -> bool {
        match self {
            Self::At(at) => at > time,
            Self::Ago(ago) => now.checked_sub(ago).is_some_and(|at| at > time),
        }
    }
}

/// Which letters are meant; all of them where nothing is said.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Filter {
    /// Only letters of this delivery stream
    #[arg(long, value_name = "NAME")]
    pub stream: Option<String>,
    /// Only letters with this error code
    #[arg(long, value_name = "CODE")]
    pub error_code: Option<String>,
    /// Only letters from this time on, such as 2026-11-24T21:38:00Z, or 2h for two hours ago
    #[arg(long, value_name = "TIME", value_parser = Moment::read)]
    pub since: Option<Moment>,
    /// Only letters before this time
    #[arg(long, value_name = "TIME", value_parser = Moment::read)]
    pub until: Option<Moment>,
}

impl Filter {
    /// Whether `letter` is meant, at the time `now`.
    #[must_use]
    pub fn takes(&self, letter: &Letter, now: SystemTime) -> bool {
        let is =
            |wanted: &Option<String>, found: &str| wanted.as_deref().is_none_or(|wanted| wanted == found);
        is(&self.stream, &letter.stream)
            && is(&self.error_code, &letter.error_code)
            && self.since.is_none_or(|since| !since.is_after(letter.time, now))
            && self.until.is_none_or(|until| until.is_after(letter.time, now))
    }
}

/// Letters of one stream and code.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Group {
    records: u64,
    bytes: u64,
    first: SystemTime,
    last: SystemTime,
}

/// What a store holds.
#[derive(Debug, Default)]
pub struct Summary {
    /// By stream and error code.
    groups: BTreeMap<(String, String), Group>,
    /// Numbers of the lines that are no letters.
    damaged: Vec<u64>,
}

impl Summary {
    /// Counts a letter.
    pub fn add(&mut self, letter: &Letter) {
        let bytes = u64::try_from(letter.data.len()).unwrap_or(u64::MAX);
        let key = (letter.stream.clone(), letter.error_code.clone());
        let new = Group { records: 0, bytes: 0, first: letter.time, last: letter.time };
        let group = self.groups.entry(key).or_insert(new);
        group.records += 1;
        group.bytes += bytes;
        // The wall clock can be set back.
        group.first = group.first.min(letter.time);
        group.last = group.last.max(letter.time);
    }

    /// Counts a line that is no letter.
    pub fn add_damaged(&mut self, number: u64) {
        self.damaged.push(number);
    }

    /// For humans.
    #[must_use]
    pub fn text(&self) -> String {
        let mut rows = vec![["stream", "error code", "records", "bytes", "first", "last"].map(str::to_owned)];
        rows.extend(self.groups.iter().map(|((stream, code), group)| {
            let Group { records, bytes, first, last } = group;
            let (records, bytes) = (records.to_string(), bytes.to_string());
            [stream.clone(), code.clone(), records, bytes, written(*first), written(*last)]
        }));
        let mut text = if self.groups.is_empty() { "no dead letters\n".to_owned() } else { table(&rows) };
        if let Some(damaged) = damaged(&self.damaged) {
            text += &format!("{damaged}\n");
        }
        text
    }

    /// For machines.
    #[must_use]
    pub fn json(&self) -> Value {
        let group = |((stream, code), group): (&(String, String), &Group)| {
            json!({
                "stream": stream,
                "error_code": code,
                "records": group.records,
                "bytes": group.bytes,
                "first": written(group.first),
                "last": written(group.last),
            })
        };
        json!({
            "records": self.groups.values().map(|group| group.records).sum::<u64>(),
            "bytes": self.groups.values().map(|group| group.bytes).sum::<u64>(),
            "groups": self.groups.iter().map(group).collect::<Vec<_>>(),
            "damaged_lines": self.damaged,
        })
    }
}

/// One letter by itself, without its contents.
#[must_use]
pub fn describe(number: u64, letter: &Letter) -> Value {
    json!({
        "line": number,
        "time": written(letter.time),
        "stream": letter.stream,
        "error_code": letter.error_code,
        "attempts": letter.attempts,
        "bytes": letter.data.len(),
    })
}

/// Letters one by one, for humans.
#[must_use]
pub fn records(letters: &[Value]) -> String {
    let columns = ["line", "time", "stream", "error_code", "attempts", "bytes"];
    let cell = |letter: &Value, column: &str| match letter.get(column) {
        Some(Value::String(text)) => text.clone(),
        other => other.map(ToString::to_string).unwrap_or_default(),
    };
    let mut rows = vec![columns.map(str::to_owned)];
    rows.extend(letters.iter().map(|letter| columns.map(|column| cell(letter, column))));
    table(&rows)
}

/// What is to be said of damaged lines.
#[must_use]
pub fn damaged(numbers: &[u64]) -> Option<String> {
    let lines = match numbers {
        [] => return None,
        [number] => format!("line {number} is damaged"),
        [..] => format!("lines {} are damaged", listed(numbers)),
    };
    Some(format!("{lines}: left as it is in the store"))
}

/// Numbers as people write them; the first ones of many.
#[must_use]
pub fn listed(numbers: &[u64]) -> String {
    const MOST: usize = 20;
    let words: Vec<_> = numbers.iter().take(MOST).map(ToString::to_string).collect();
    let rest = numbers.len().saturating_sub(MOST);
    let rest = if rest > 0 { format!(" and {rest} more") } else { String::new() };
    words.join(", ") + &rest
}

fn written(time: SystemTime) -> String {
    humantime::format_rfc3339_millis(time).to_string()
}

/// Columns as wide as what stands in them.
fn table<const COLUMNS: usize>(rows: &[[String; COLUMNS]]) -> String {
    let mut widths = [0; COLUMNS];
    for row in rows {
        widths.iter_mut().zip(row).for_each(|(width, cell)| *width = (*width).max(cell.chars().count()));
    }
    let line = |row: &[String; COLUMNS]| {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str =
        r#"{"time":"1970-01-01T00:01:00.000Z","stream":"app","error_code":"E","attempts":6,"data":"YQo="}"#;

    fn letter() -> Letter {
        Letter::read(LINE.as_bytes()).unwrap()
    }

    #[test]
    fn a_line_is_a_letter_only_whole() {
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(60);
        let (stream, error_code) = ("app".to_owned(), "E".to_owned());
        assert_eq!(letter(), Letter { time, stream, error_code, attempts: 6, data: b"a\n".to_vec() });
        for end in 0..LINE.len() {
            assert_eq!(Letter::read(&LINE.as_bytes()[..end]), None, "{}", &LINE[..end]);
        }
        for (right, wrong) in [("YQo=", "YQo"), ("00Z", "00"), ("6", "-6"), ("\"app\"", "null")] {
            assert_eq!(Letter::read(LINE.replace(right, wrong).as_bytes()), None, "{wrong}");
        }
    }

    // R-T10
    #[test]
    fn every_filter_leaves_out_what_it_names() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(100);
        let check = |filter: Filter, expected: bool| {
            assert_eq!(filter.takes(&letter(), now), expected, "{filter:?}");
        };
        let moment = |text: &str| Some(Moment::read(text).unwrap());
        check(Filter::default(), true);
        check(Filter { stream: Some("app".into()), error_code: Some("E".into()), ..Filter::default() }, true);
        check(Filter { stream: Some("ap".into()), ..Filter::default() }, false);
        check(Filter { error_code: Some("e".into()), ..Filter::default() }, false);
        for (text, since) in [
            ("1970-01-01T00:01:00Z", true),
            ("1970-01-01T00:01:00.001Z", false),
            ("40s", true),
            ("39s", false),
            ("100years", true),
        ] {
            check(Filter { since: moment(text), ..Filter::default() }, since);
            // What is from a moment on is not before it.
            check(Filter { until: moment(text), ..Filter::default() }, !since);
        }
        assert!(Moment::read("yesterday").unwrap_err().contains("such as 2h"));
    }

    // R-T10
    #[test]
    fn a_summary_counts_by_stream_and_code_and_names_damaged_lines() {
        let mut summary = Summary::default();
        assert_eq!(summary.text(), "no dead letters\n");
        summary.add(&letter());
        summary.add(&Letter { time: SystemTime::UNIX_EPOCH, data: vec![0; 98], ..letter() });
        summary.add(&Letter { error_code: "Another".to_owned(), ..letter() });
        summary.add_damaged(3);
        assert_eq!(
            summary.text(),
            "stream  error code  records  bytes  first                     last\n\
             app     Another     1        2      1970-01-01T00:01:00.000Z  1970-01-01T00:01:00.000Z\n\
             app     E           2        100    1970-01-01T00:00:00.000Z  1970-01-01T00:01:00.000Z\n\
             line 3 is damaged: left as it is in the store\n"
        );
        let json = summary.json();
        assert_eq!((&json["records"], &json["bytes"]), (&json!(3), &json!(102)));
        assert_eq!((&json["groups"][1]["records"], &json["damaged_lines"]), (&json!(2), &json!([3])));
    }

    #[test]
    fn many_numbers_are_told_by_the_first_and_how_many_follow() {
        assert_eq!(listed(&[1, 2]), "1, 2");
        assert!(listed(&(1..=25).collect::<Vec<_>>()).ends_with("19, 20 and 5 more"));
    }
}
