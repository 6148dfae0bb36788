//! An entry as a line of JSON: the members of the record, then its time and its tag.

use std::io::Write;

use super::NO_PAIR;
use super::msgpack::{self, Head};
use crate::framing::count;
use crate::framing::json::escape;

/// Deepest nesting of a record that is taken.
const MAX_DEPTH: usize = 64;

/// The last second of the year 9999; what lies beyond it has no form in RFC 3339.
const MAX_SECONDS: u64 = 253_402_300_799;

/// Why an entry was not written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stop {
    /// Its end is not there yet.
    Short,
    /// There is no room for it.
    Full,
    /// It is no entry that has a form in JSON.
    Malformed,
    /// It is no entry at all.
    Broken(&'static str),
}

impl From<&'static str> for Stop {
    fn from(what: &'static str) -> Self {
        Self::Broken(what)
    }
}

/// The names of what is added to a record.
#[derive(Debug, Clone)]
pub(super) struct Added {
    /// The key of the time, and the same as JSON with what precedes the time; empty for none.
    time: (Vec<u8>, Vec<u8>),
    tag_key: Vec<u8>,
}

impl Added {
    pub(super) fn new(time_key: &str, tag_key: &str) -> Self {
        let mut prefix = Vec::new();
        if !time_key.is_empty() {
            append_text(&mut prefix, time_key.as_bytes());
            prefix.push(b':');
        }
        Self { time: (time_key.as_bytes().to_vec(), prefix), tag_key: tag_key.as_bytes().to_vec() }
    }

    /// The member that says `tag`; empty for none.
    pub(super) fn tag(&self, tag: &[u8]) -> Vec<u8> {
        let mut member = Vec::new();
        if !self.tag_key.is_empty() {
            append_text(&mut member, &self.tag_key);
            member.push(b':');
            append_text(&mut member, tag);
        }
        member.shrink_to_fit();
        member
    }
}

fn append_text(out: &mut Vec<u8>, text: &[u8]) {
    // Without a bound it is never full.
    let written = Writer { input: &[], at: 0, out, limit: usize::MAX }.text(text);
    debug_assert_eq!(written, Ok(()));
}

/// The time of an entry.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Time {
    Seconds(u64),
    Nanos(u64, u32),
    /// One that RFC 3339 can't say.
    Uint(u64),
    Int(i64),
    Double(f64),
}

impl Time {
    fn seconds(seconds: u64) -> Self {
        if seconds <= MAX_SECONDS { Self::Seconds(seconds) } else { Self::Uint(seconds) }
    }

    /// Of the forward protocol's extension.
    fn event(bytes: &[u8]) -> Option<Self> {
        let (seconds, nanos) = bytes.split_first_chunk()?;
        let nanos = u32::from_be_bytes(nanos.try_into().ok()?);
        let seconds = u64::from(u32::from_be_bytes(*seconds)) + u64::from(nanos / 1_000_000_000);
        Some(Self::Nanos(seconds, nanos % 1_000_000_000))
    }

    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "in range by the check")]
    fn double(seconds: f64) -> Self {
        if (0.0..=MAX_SECONDS as f64).contains(&seconds) {
            let whole = seconds.floor();
            Self::Nanos(whole as u64, (((seconds - whole) * 1e9) as u32).min(999_999_999))
        } else {
            Self::Double(seconds)
        }
    }
}

/// Writes JSON from MessagePack.
pub(super) struct Writer<'a> {
    pub(super) input: &'a [u8],
    pub(super) at: usize,
    pub(super) out: &'a mut Vec<u8>,
    /// Longest that `out` may become.
    pub(super) limit: usize,
}

impl Writer<'_> {
    /// Writes the entry at the front of the input: a time and a record, as a pair unless they are `bare`.
    pub(super) fn entry(&mut self, bare: bool, added: &Added, tag: &[u8]) -> Result<(), Stop> {
        if !bare && self.head()? != Head::Array(2) {
            return Err(Stop::Broken(NO_PAIR));
        }
        let time = self.time()?;
        let Head::Map(members) = self.head()? else { return Err(Stop::Malformed) };
        self.put(b"{")?;
        let (mut has_time, mut has_tag, mut is_first) = (false, false, true);
        for _ in 0..members {
            if !is_first {
                self.put(b",")?;
            }
            is_first = false;
            let key = self.at;
            self.key()?;
            if let Some((key, _)) = msgpack::text(self.input, key) {
                has_time |= key == added.time.0;
                has_tag |= key == added.tag_key;
            }
            self.put(b":")?;
            self.value(1)?;
        }
        if !has_time && !added.time.1.is_empty() {
            self.put(if is_first { b"" } else { b"," })?;
            is_first = false;
            self.put(&added.time.1)?;
            self.write_time(time)?;
        }
        if !has_tag && !tag.is_empty() {
            self.put(if is_first { b"" } else { b"," })?;
            self.put(tag)?;
        }
        self.put(b"}")
    }

    pub(super) fn put(&mut self, bytes: &[u8]) -> Result<(), Stop> {
        if bytes.len() > self.limit.saturating_sub(self.out.len()) {
            return Err(Stop::Full);
        }
        self.out.extend_from_slice(bytes);
        Ok(())
    }

    fn head(&mut self) -> Result<Head, Stop> {
        let (head, behind) = msgpack::head(self.input, self.at)?.ok_or(Stop::Short)?;
        self.at = behind;
        Ok(head)
    }

    /// The next `length` bytes.
    fn bytes(&mut self, length: usize) -> Result<&[u8], Stop> {
        let end = self.at.checked_add(length).ok_or(Stop::Short)?;
        let bytes = self.input.get(self.at..end).ok_or(Stop::Short)?;
        self.at = end;
        Ok(bytes)
    }

    fn time(&mut self) -> Result<Time, Stop> {
        let head = self.head()?;
        if head != Head::Array(2) {
            return self.plain_time(head);
        }
        // Fluent Bit: the time and what it calls metadata.
        let head = self.head()?;
        let time = self.plain_time(head)?;
        let (_, behind) = msgpack::value(self.input, self.at)?.ok_or(Stop::Short)?;
        self.at = behind;
        Ok(time)
    }

    fn plain_time(&mut self, head: Head) -> Result<Time, Stop> {
        match head {
            Head::Uint(seconds) => Ok(Time::seconds(seconds)),
            Head::Int(seconds) => Ok(u64::try_from(seconds).map_or(Time::Int(seconds), Time::seconds)),
            Head::Float(seconds) => Ok(Time::double(seconds.into())),
            Head::Double(seconds) => Ok(Time::double(seconds)),
            Head::Ext(0, 8) => Time::event(self.bytes(8)?).ok_or(Stop::Malformed),
            Head::Nil
            | Head::Bool(_)
            | Head::Str(_)
            | Head::Bin(_)
            | Head::Ext(..)
            | Head::Array(_)
            | Head::Map(_) => Err(Stop::Malformed),
        }
    }

    fn write_time(&mut self, time: Time) -> Result<(), Stop> {
        match time {
            Time::Seconds(seconds) => self.rfc3339(seconds, None),
            Time::Nanos(seconds, nanos) => self.rfc3339(seconds, Some(nanos)),
            Time::Uint(number) => self.display(number),
            Time::Int(number) => self.display(number),
            Time::Double(number) => self.double(number),
        }
    }

    fn rfc3339(&mut self, seconds: u64, nanos: Option<u32>) -> Result<(), Stop> {
        let (year, month, day) = date(seconds / 86_400);
        let second = seconds % 86_400;
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        let mut text = *b"\"0000-00-00T00:00:00.000000000Z\"";
        let mut digits = |from: usize, to: usize, mut number: u64| {
            for digit in text.get_mut(from..to).into_iter().flatten().rev() {
                *digit = b'0' + u8::try_from(number % 10).unwrap_or_default();
                number /= 10;
            }
        };
        digits(1, 5, year);
        digits(6, 8, month);
        digits(9, 11, day);
        digits(12, 14, hour);
        digits(15, 17, minute);
        digits(18, 20, second);
        digits(21, 30, nanos.unwrap_or_default().into());
        match nanos {
            Some(_) => self.put(&text),
            None => {
                let (whole, _) = text.split_at(20);
                self.put(whole)?;
                self.put(b"Z\"")
            }
        }
    }

    fn display(&mut self, value: impl std::fmt::Display) -> Result<(), Stop> {
        // No number that comes here is longer.
        let mut text = [0; 32];
        let mut rest = text.as_mut_slice();
        let written = write!(rest, "{value}");
        debug_assert!(written.is_ok());
        let left = rest.len();
        self.put(text.get(..32 - left).unwrap_or_default())
    }

    /// In the fewest digits that mean the same; what JSON has no number for is null.
    fn double(&mut self, value: f64) -> Result<(), Stop> {
        if value.is_finite() { self.display(format_args!("{value:?}")) } else { self.put(b"null") }
    }

    fn key(&mut self) -> Result<(), Stop> {
        let at = self.at;
        match self.head()? {
            Head::Str(length) | Head::Bin(length) => self.text_of(length),
            Head::Array(_) | Head::Map(_) => Err(Stop::Malformed),
            Head::Ext(..) => {
                self.at = at;
                self.value(1)
            }
            Head::Nil | Head::Bool(_) | Head::Int(_) | Head::Uint(_) | Head::Float(_) | Head::Double(_) => {
                self.at = at;
                self.put(b"\"")?;
                self.value(1)?;
                self.put(b"\"")
            }
        }
    }

    fn value(&mut self, depth: usize) -> Result<(), Stop> {
        if depth > MAX_DEPTH {
            return Err(Stop::Malformed);
        }
        match self.head()? {
            Head::Nil => self.put(b"null"),
            Head::Bool(false) => self.put(b"false"),
            Head::Bool(true) => self.put(b"true"),
            Head::Int(number) => self.display(number),
            Head::Uint(number) => self.display(number),
            Head::Float(number) if number.is_finite() => self.display(format_args!("{number:?}")),
            Head::Float(_) => self.put(b"null"),
            Head::Double(number) => self.double(number),
            Head::Str(length) | Head::Bin(length) => self.text_of(length),
            Head::Ext(kind, length) => self.extension(kind, length),
            Head::Array(values) => {
                self.put(b"[")?;
                for index in 0..values {
                    if index > 0 {
                        self.put(b",")?;
                    }
                    self.value(depth + 1)?;
                }
                self.put(b"]")
            }
            Head::Map(members) => {
                self.put(b"{")?;
                for index in 0..members {
                    if index > 0 {
                        self.put(b",")?;
                    }
                    self.key()?;
                    self.put(b":")?;
                    self.value(depth + 1)?;
                }
                self.put(b"}")
            }
        }
    }

    /// A time of the forward protocol's as one; anything else as base64.
    fn extension(&mut self, kind: i8, length: usize) -> Result<(), Stop> {
        let left = self.limit.saturating_sub(self.out.len());
        if kind == 0 && length == 8 {
            let time = Time::event(self.bytes(length)?).ok_or(Stop::Malformed)?;
            return self.write_time(time);
        }
        if count(length).div_ceil(3) * 4 + 2 > count(left) {
            return Err(Stop::Full);
        }
        let text = base64_simd::STANDARD.encode_to_string(self.bytes(length)?);
        self.put(b"\"")?;
        self.put(text.as_bytes())?;
        self.put(b"\"")
    }

    fn text_of(&mut self, length: usize) -> Result<(), Stop> {
        let end = self.at.checked_add(length).ok_or(Stop::Short)?;
        // What can't fit is said before all of it is there.
        if length > self.limit.saturating_sub(self.out.len()) {
            return Err(Stop::Full);
        }
        let input = self.input;
        let text = input.get(self.at..end).ok_or(Stop::Short)?;
        self.at = end;
        self.text(text)
    }

    /// A string; what is no UTF-8 is U+FFFD.
    fn text(&mut self, text: &[u8]) -> Result<(), Stop> {
        self.put(b"\"")?;
        escape(text, |piece| self.put(piece))?;
        self.put(b"\"")
    }
}

/// Year, month and day of the day that is so many days after 1970-01-01.
///
/// Source: <https://howardhinnant.github.io/date_algorithms.html#civil_from_days>
fn date(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_dates() {
        assert_eq!(date(0), (1970, 1, 1));
        assert_eq!(date(59), (1970, 3, 1));
        assert_eq!(date(11_016), (2000, 2, 29));
        assert_eq!(date(19_782), (2024, 2, 29));
        assert_eq!(date(MAX_SECONDS / 86_400), (9999, 12, 31));
    }
}
