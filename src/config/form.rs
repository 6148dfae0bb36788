//! Forms: how a value is written, what it means, and which values are allowed.
//!
//! A form is a type that knows how its values are written; [`Setting`] holds a value in a form, and
//! is what serde and schemars see. Reading, writing, the allowed range and the schema of a form stand
//! together, so they cannot say different things.

use std::fmt;
use std::marker::PhantomData;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use bytesize::ByteSize;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserialize, Deserializer, Unexpected};
use serde::ser::{Serialize, Serializer};
use serde_json::{Value as Json, json};

use super::{
    Acks, Address, AggregateMode, Algorithm, BufferSync, LogFormat, OnFull, Protocol, SHOWN_SECRET, Secret,
    SyslogFormat,
};
use crate::limits;

/// How a value is written.
pub(super) trait Form {
    /// What is read.
    type Value;

    /// The values that are allowed; completes "must be …".
    fn expected() -> String;

    /// The value that `given` means, or none where it is not in this form or out of range.
    fn read(given: &Given<'_>) -> Option<Self::Value>;

    /// The value as [`Form::read`] reads it back.
    fn write(value: &Self::Value) -> Json;

    /// JSON Schema of the values.
    fn schema() -> Schema;
}

/// A value as the user gave it. The environment and `--set` give text only.
pub(super) enum Given<'a> {
    Text(&'a str),
    Integer(i128),
    Float(f64),
    Flag(bool),
    /// A list of whole numbers.
    Numbers(Vec<u64>),
    /// A list with text in it.
    Texts(Vec<String>),
}

/// What a list may hold.
#[derive(serde::Deserialize)]
#[serde(untagged)]
enum Item {
    Number(u64),
    Text(String),
}

impl<'a> Given<'a> {
    fn text(&self) -> Option<&'a str> {
        match *self {
            Self::Text(text) => Some(text),
            Self::Integer(_) | Self::Float(_) | Self::Flag(_) | Self::Numbers(_) | Self::Texts(_) => None,
        }
    }

    /// A whole number; in text it may have TOML's `_` between digits.
    fn integer(&self) -> Option<u64> {
        match *self {
            Self::Integer(number) => u64::try_from(number).ok(),
            Self::Text(text) => text.replace('_', "").parse().ok(),
            Self::Float(_) | Self::Flag(_) | Self::Numbers(_) | Self::Texts(_) => None,
        }
    }
}

/// A value in the form `F`.
pub(super) struct Setting<F: Form>(pub(super) F::Value);

impl<'de, F: Form> Deserialize<'de> for Setting<F> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor<F>(PhantomData<F>);

        impl<F: Form> Visitor<F> {
            fn read<E: de::Error>(&self, given: &Given<'_>) -> Result<Setting<F>, E> {
                let value = F::read(given);
                value.map(Setting).ok_or_else(|| E::invalid_value(Unexpected::Other("value"), self))
            }
        }

        impl<'de, F: Form> de::Visitor<'de> for Visitor<F> {
            type Value = Setting<F>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&F::expected())
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
                self.read(&Given::Text(text))
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Self::Value, E> {
                self.read(&Given::Integer(number.into()))
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Self::Value, E> {
                self.read(&Given::Integer(number.into()))
            }

            fn visit_f64<E: de::Error>(self, number: f64) -> Result<Self::Value, E> {
                self.read(&Given::Float(number))
            }

            fn visit_bool<E: de::Error>(self, flag: bool) -> Result<Self::Value, E> {
                self.read(&Given::Flag(flag))
            }

            fn visit_seq<A: de::SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
                let (mut numbers, mut texts) = (Vec::new(), Vec::new());
                while let Some(item) = list.next_element()? {
                    match item {
                        Item::Number(number) => numbers.push(number),
                        Item::Text(text) => texts.push(text),
                    }
                }
                match (numbers.is_empty(), texts.is_empty()) {
                    (_, true) => self.read(&Given::Numbers(numbers)),
                    (true, false) => self.read(&Given::Texts(texts)),
                    (false, false) => Err(de::Error::invalid_value(Unexpected::Seq, &self)),
                }
            }
        }

        deserializer.deserialize_any(Visitor(PhantomData))
    }
}

impl<F: Form> Serialize for Setting<F> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        F::write(&self.0).serialize(serializer)
    }
}

/// The schema carries [`Form::expected`] as its `$comment`.
impl<F: Form> JsonSchema for Setting<F> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Setting".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let mut schema = F::schema();
        schema.insert("$comment".to_owned(), F::expected().into());
        schema
    }
}

/// A value that may be left out; written, that is the empty string.
pub(super) struct Maybe<F>(PhantomData<F>);

impl<F: Form> Form for Maybe<F> {
    type Value = Option<F::Value>;

    fn expected() -> String {
        format!("{}; empty for none", F::expected())
    }

    fn read(given: &Given<'_>) -> Option<Self::Value> {
        if given.text() == Some("") { Some(None) } else { F::read(given).map(Some) }
    }

    fn write(value: &Self::Value) -> Json {
        value.as_ref().map_or_else(|| "".into(), F::write)
    }

    fn schema() -> Schema {
        json_schema!({ "anyOf": [{ "const": "" }, F::schema()] })
    }
}

/// A whole number.
pub(super) enum Count<const MIN: u64, const MAX: u64> {}

impl<const MIN: u64, const MAX: u64> Form for Count<MIN, MAX> {
    type Value = u64;

    fn expected() -> String {
        format!("a whole number from {MIN} to {MAX}")
    }

    fn read(given: &Given<'_>) -> Option<u64> {
        given.integer().filter(|number| (MIN..=MAX).contains(number))
    }

    fn write(value: &u64) -> Json {
        (*value).into()
    }

    fn schema() -> Schema {
        json_schema!({ "type": "integer", "minimum": MIN, "maximum": MAX })
    }
}

/// A number of bytes: `"4MiB"`, `"1.5 MiB"`, `"32MB"`, or a whole number.
pub(super) enum Size<const MIN: u64, const MAX: u64> {}

impl<const MIN: u64, const MAX: u64> Form for Size<MIN, MAX> {
    type Value = u64;

    fn expected() -> String {
        format!("a size such as \"4MiB\", or bytes, from {} to {}", size(MIN), size(MAX))
    }

    fn read(given: &Given<'_>) -> Option<u64> {
        let bytes = match given.integer() {
            Some(bytes) => bytes,
            None => given.text()?.parse::<ByteSize>().ok()?.as_u64(),
        };
        (MIN..=MAX).contains(&bytes).then_some(bytes)
    }

    fn write(value: &u64) -> Json {
        size(*value).into()
    }

    fn schema() -> Schema {
        json_schema!({
            "type": ["string", "integer"],
            "minimum": MIN,
            "maximum": MAX,
            "pattern": "^[0-9]+(\\.[0-9]+)?\\s*([kKmMgGtT]?[iI]?[bB]?)$",
        })
    }
}

/// `bytes` in the largest binary unit that says it exactly.
fn size(bytes: u64) -> String {
    [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)]
        .into_iter()
        .find(|(_, shift)| bytes > 0 && bytes.trailing_zeros() >= *shift)
        .map_or_else(|| format!("{bytes}B"), |(unit, shift)| format!("{}{unit}", bytes >> shift))
}

/// A duration with its units: `"250ms"`, `"1m 30s"`. The bounds are in milliseconds.
pub(super) enum Wait<const MIN: u64, const MAX: u64> {}

impl<const MIN: u64, const MAX: u64> Form for Wait<MIN, MAX> {
    type Value = Duration;

    fn expected() -> String {
        let bound = |ms| humantime::format_duration(Duration::from_millis(ms));
        format!(
            "a duration with its unit, such as \"250ms\" or \"1m 30s\", from {} to {}",
            bound(MIN),
            bound(MAX)
        )
    }

    fn read(given: &Given<'_>) -> Option<Duration> {
        let duration = match given.integer() {
            // Zero is the only number that needs no unit.
            Some(number) => (number == 0).then_some(Duration::ZERO)?,
            None => humantime::parse_duration(given.text()?).ok()?,
        };
        (Duration::from_millis(MIN)..=Duration::from_millis(MAX)).contains(&duration).then_some(duration)
    }

    fn write(value: &Duration) -> Json {
        humantime::format_duration(*value).to_string().into()
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "pattern": DURATION })
    }
}

const DURATION: &str = r"^(0|([0-9]+(\.[0-9]+)?\s*[a-zA-Zµ]+\s*)+)$";

/// A duration as in [`Wait`], or `never`; zero, where it is allowed, is never, too.
pub(super) enum Patience<const MIN: u64, const MAX: u64> {}

impl<const MIN: u64, const MAX: u64> Form for Patience<MIN, MAX> {
    type Value = Option<Duration>;

    fn expected() -> String {
        format!("\"never\" or {}", Wait::<MIN, MAX>::expected())
    }

    fn read(given: &Given<'_>) -> Option<Self::Value> {
        if given.text() == Some("never") {
            return Some(None);
        }
        Wait::<MIN, MAX>::read(given).map(|duration| Some(duration).filter(|duration| !duration.is_zero()))
    }

    fn write(value: &Self::Value) -> Json {
        value.as_ref().map_or_else(|| "never".into(), Wait::<MIN, MAX>::write)
    }

    fn schema() -> Schema {
        json_schema!({ "anyOf": [{ "const": "never" }, Wait::<MIN, MAX>::schema()] })
    }
}

/// Time between two turns of something that can be switched off: `0s`, or a duration as in
/// [`Wait`].
pub(super) enum Cadence<const MIN: u64, const MAX: u64> {}

impl<const MIN: u64, const MAX: u64> Form for Cadence<MIN, MAX> {
    type Value = Option<Duration>;

    fn expected() -> String {
        format!("`0s` for never, or {}", Wait::<MIN, MAX>::expected())
    }

    fn read(given: &Given<'_>) -> Option<Self::Value> {
        let zero = Wait::<0, 0>::read(given).map(|_| None);
        zero.or_else(|| Wait::<MIN, MAX>::read(given).map(Some))
    }

    fn write(value: &Self::Value) -> Json {
        Wait::<MIN, MAX>::write(&value.unwrap_or_default())
    }

    fn schema() -> Schema {
        Wait::<MIN, MAX>::schema()
    }
}

/// A number from 0 to 1.
pub(super) enum Fraction {}

impl Form for Fraction {
    type Value = f64;

    fn expected() -> String {
        "a number from 0 to 1".to_owned()
    }

    fn read(given: &Given<'_>) -> Option<f64> {
        let number = match *given {
            Given::Float(number) => number,
            Given::Integer(_) => u8::try_from(given.integer()?).ok()?.into(),
            Given::Text(text) => text.parse().ok()?,
            Given::Flag(_) | Given::Numbers(_) | Given::Texts(_) => return None,
        };
        (0.0..=1.0).contains(&number).then_some(number)
    }

    fn write(value: &f64) -> Json {
        (*value).into()
    }

    fn schema() -> Schema {
        json_schema!({ "type": "number", "minimum": 0, "maximum": 1 })
    }
}

/// `true` or `false`.
pub(super) enum Flag {}

impl Form for Flag {
    type Value = bool;

    fn expected() -> String {
        "true or false".to_owned()
    }

    fn read(given: &Given<'_>) -> Option<bool> {
        match *given {
            Given::Flag(flag) => Some(flag),
            Given::Text(text) => text.parse().ok(),
            Given::Integer(_) | Given::Float(_) | Given::Numbers(_) | Given::Texts(_) => None,
        }
    }

    fn write(value: &bool) -> Json {
        (*value).into()
    }

    fn schema() -> Schema {
        json_schema!({ "type": "boolean" })
    }
}

/// Permission bits of a file: `"0660"`, or the number 0o660.
pub(super) enum Mode {}

impl Form for Mode {
    type Value = u32;

    fn expected() -> String {
        "permission bits in octal, such as \"0660\" or 0o660, from 0 to 0777".to_owned()
    }

    fn read(given: &Given<'_>) -> Option<u32> {
        let mode = match *given {
            Given::Text(text) => u32::from_str_radix(text.strip_prefix("0o").unwrap_or(text), 8).ok()?,
            Given::Integer(number) => u32::try_from(number).ok()?,
            Given::Float(_) | Given::Flag(_) | Given::Numbers(_) | Given::Texts(_) => return None,
        };
        (mode <= 0o777).then_some(mode)
    }

    fn write(value: &u32) -> Json {
        format!("{value:04o}").into()
    }

    fn schema() -> Schema {
        json_schema!({
            "type": ["string", "integer"], "minimum": 0, "maximum": 0o777, "pattern": "^(0o)?[0-7]{1,4}$",
        })
    }
}

/// Name of a delivery stream.
pub(super) enum StreamName {}

impl Form for StreamName {
    type Value = String;

    fn expected() -> String {
        format!("1 to {} letters, digits, `_`, `.` and `-`", limits::MAX_STREAM_NAME_CHARS)
    }

    fn read(given: &Given<'_>) -> Option<String> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
        let fits = |name: &&str| (1..=limits::MAX_STREAM_NAME_CHARS).contains(&name.len());
        given.text().filter(fits).filter(|name| name.chars().all(allowed)).map(str::to_owned)
    }

    fn write(value: &String) -> Json {
        value.as_str().into()
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "pattern": "^[a-zA-Z0-9_.-]{1,64}$" })
    }
}

/// Namespace of metrics in CloudWatch.
///
/// Source: <https://docs.aws.amazon.com/AmazonCloudWatch/latest/APIReference/API_PutMetricData.html>
/// (`Namespace`: 1 to 255 characters, `[^:].*`, not one that begins with `AWS/`), with the
/// characters of the user guide's "Namespaces".
pub(super) enum Namespace {}

impl Namespace {
    const MAX_CHARS: usize = 255;
}

impl Form for Namespace {
    type Value = String;

    fn expected() -> String {
        format!(
            "1 to {} letters, digits, blanks and `.-_/#:`, not beginning with `:` or `AWS/`",
            Self::MAX_CHARS
        )
    }

    fn read(given: &Given<'_>) -> Option<String> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || ".-_/#: ".contains(c);
        let fits = |name: &&str| (1..=Self::MAX_CHARS).contains(&name.len()) && !name.trim().is_empty();
        let reserved = |name: &&str| name.starts_with(':') || name.starts_with("AWS/");
        let name = given.text().filter(fits).filter(|name| !reserved(name))?;
        name.chars().all(allowed).then(|| name.to_owned())
    }

    fn write(value: &String) -> Json {
        value.as_str().into()
    }

    fn schema() -> Schema {
        json_schema!({
            "type": "string", "pattern": "^(?!:|AWS/)[a-zA-Z0-9._/#: -]{1,255}$",
        })
    }
}

/// Name of an AWS region.
pub(super) enum Region {}

impl Form for Region {
    type Value = String;

    fn expected() -> String {
        "the name of an AWS region, such as \"eu-west-1\"".to_owned()
    }

    fn read(given: &Given<'_>) -> Option<String> {
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        given.text().filter(|name| !name.is_empty() && name.chars().all(allowed)).map(str::to_owned)
    }

    fn write(value: &String) -> Json {
        value.as_str().into()
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "pattern": "^[a-z0-9-]+$" })
    }
}

/// Address of an HTTP service.
pub(super) enum Url {}

impl Form for Url {
    type Value = String;

    fn expected() -> String {
        "a URL such as \"http://127.0.0.1:4573\" or \"https://firehose.example.com\"".to_owned()
    }

    fn read(given: &Given<'_>) -> Option<String> {
        let text = given.text()?;
        let uri = http::Uri::from_str(text).ok()?;
        (matches!(uri.scheme_str(), Some("http" | "https")) && uri.query().is_none()).then(|| text.to_owned())
    }

    fn write(value: &String) -> Json {
        value.as_str().into()
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "pattern": "^https?://" })
    }
}

/// Path of a directory.
pub(super) enum Directory {}

impl Form for Directory {
    type Value = PathBuf;

    fn expected() -> String {
        "the path of a directory (a leading `~` is not expanded)".to_owned()
    }

    fn read(given: &Given<'_>) -> Option<PathBuf> {
        path(given.text()?)
    }

    fn write(value: &PathBuf) -> Json {
        value.display().to_string().into()
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "pattern": "^[^~]" })
    }
}

/// A file.
pub(super) enum File {}

impl Form for File {
    type Value = PathBuf;

    fn expected() -> String {
        "the path of a file (a leading `~` is not expanded)".to_owned()
    }

    fn read(given: &Given<'_>) -> Option<PathBuf> {
        path(given.text()?)
    }

    fn write(value: &PathBuf) -> Json {
        Directory::write(value)
    }

    fn schema() -> Schema {
        Directory::schema()
    }
}

/// Name of a pair of keys.
///
/// Source: <https://docs.aws.amazon.com/IAM/latest/APIReference/API_AccessKey.html>; shorter ones will do here.
pub(super) enum AccessKeyId {}

impl Form for AccessKeyId {
    type Value = String;

    fn expected() -> String {
        "1 to 128 letters, digits and `_`".to_owned()
    }

    fn read(given: &Given<'_>) -> Option<String> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let fits = |id: &&str| (1..=128).contains(&id.len()) && id.chars().all(allowed);
        given.text().filter(fits).map(str::to_owned)
    }

    fn write(value: &String) -> Json {
        value.as_str().into()
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "pattern": "^[a-zA-Z0-9_]{1,128}$" })
    }
}

/// A secret, which is read and never written.
pub(super) enum SecretText {}

impl Form for SecretText {
    type Value = Secret;

    fn expected() -> String {
        "8 to 256 characters without blanks, in quotes".to_owned()
    }

    fn read(given: &Given<'_>) -> Option<Secret> {
        let fits =
            |text: &&str| (8..=256).contains(&text.len()) && text.chars().all(|c| c.is_ascii_graphic());
        given.text().filter(fits).map(|text| Secret::new(text.to_owned()))
    }

    fn write(_: &Secret) -> Json {
        SHOWN_SECRET.into()
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "pattern": "^[!-~]{8,256}$" })
    }
}

/// Users or groups by their numbers.
pub(super) enum Ids {}

impl Form for Ids {
    type Value = Vec<u32>;

    fn expected() -> String {
        "a list of numbers such as [0, 1000], or in text \"0,1000\"".to_owned()
    }

    fn read(given: &Given<'_>) -> Option<Vec<u32>> {
        let ids: Vec<u32> = match given {
            Given::Numbers(numbers) => numbers.iter().map(|number| u32::try_from(*number).ok()).collect(),
            Given::Text(text) => text.split(',').map(|number| number.trim().parse().ok()).collect(),
            Given::Integer(_) | Given::Float(_) | Given::Flag(_) | Given::Texts(_) => {
                given.integer().and_then(|number| u32::try_from(number).ok()).map(|number| vec![number])
            }
        }?;
        (!ids.is_empty()).then_some(ids)
    }

    fn write(value: &Vec<u32>) -> Json {
        json!(value)
    }

    fn schema() -> Schema {
        let id = json!({ "type": "integer", "minimum": 0, "maximum": u32::MAX });
        json_schema!({ "anyOf": [
            { "type": "array", "items": id, "minItems": 1 },
            id,
            { "type": "string", "pattern": "^ *[0-9]+ *(, *[0-9]+ *)*$" },
        ] })
    }
}

/// A path as it stands. One that begins with `~` is refused: no shell will expand it, and a
/// directory of that name is never what was meant.
fn path(text: &str) -> Option<PathBuf> {
    (!text.is_empty() && !text.starts_with('~') && !text.contains('\0')).then(|| PathBuf::from(text))
}

/// What separates records at the destination.
pub(super) enum Delimiter {}

impl Delimiter {
    const MAX_BYTES: usize = 16;
}

impl Form for Delimiter {
    type Value = String;

    fn expected() -> String {
        format!(
            "at most {} bytes of text, with \\n, \\r, \\t, \\0 and \\\\ for LF, CR, tab, NUL and backslash",
            Self::MAX_BYTES
        )
    }

    /// A backslash that is still here comes from where nothing reads escapes, such as a shell's
    /// `HYDRANT_DELIMITER='\n'`; two characters in every record are not what that meant.
    fn read(given: &Given<'_>) -> Option<String> {
        let mut text = String::new();
        let mut characters = given.text()?.chars();
        while let Some(character) = characters.next() {
            text.push(match character {
                '\\' => match characters.next()? {
                    'n' => '\n',
                    'r' => '\r',
                    't' => '\t',
                    '0' => '\0',
                    '\\' => '\\',
                    _ => return None,
                },
                character => character,
            });
        }
        (text.len() <= Self::MAX_BYTES).then_some(text)
    }

    fn write(value: &String) -> Json {
        value.as_str().into()
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "pattern": r"^([^\\]|\\[nrt0\\]){0,16}$" })
    }
}

/// Streams by value: `VALUE=STREAM`, a list or separated by commas.
pub(super) enum Rules {}

impl Rules {
    const MAX: usize = 256;
    const MAX_BYTES: usize = 256;

    fn rule(text: &str) -> Option<(String, String)> {
        let (value, stream) = text.trim().rsplit_once('=')?;
        let stream = StreamName::read(&Given::Text(stream))?;
        (1..=Self::MAX_BYTES).contains(&value.len()).then(|| (value.to_owned(), stream))
    }
}

impl Form for Rules {
    type Value = Vec<(String, String)>;

    fn expected() -> String {
        format!(
            "a list of at most {} of \"VALUE=STREAM\", or in text \"VALUE=STREAM,VALUE=STREAM\"; no VALUE twice",
            Self::MAX
        )
    }

    fn read(given: &Given<'_>) -> Option<Self::Value> {
        let rules: Vec<_> = match given {
            Given::Text(text) => text.split(',').map(Self::rule).collect::<Option<_>>(),
            Given::Texts(texts) => texts.iter().map(|text| Self::rule(text)).collect(),
            Given::Integer(_) | Given::Float(_) | Given::Flag(_) | Given::Numbers(_) => None,
        }?;
        let values: std::collections::BTreeSet<_> = rules.iter().map(|(value, _)| value).collect();
        ((1..=Self::MAX).contains(&rules.len()) && values.len() == rules.len()).then_some(rules)
    }

    fn write(value: &Self::Value) -> Json {
        value.iter().map(|(value, stream)| format!("{value}={stream}")).collect::<Vec<_>>().into()
    }

    fn schema() -> Schema {
        let rule = json!({ "type": "string", "pattern": "^.+=[a-zA-Z0-9_.-]{1,64}$" });
        json_schema!({ "anyOf": [{ "type": "array", "items": rule, "minItems": 1, "maxItems": Self::MAX }, rule] })
    }
}

/// Name of a member of a JSON object; empty for none.
pub(super) enum Key {}

impl Key {
    const MAX_BYTES: usize = 64;
}

impl Form for Key {
    type Value = String;

    fn expected() -> String {
        format!("the name of a key, at most {} bytes; empty for none", Self::MAX_BYTES)
    }

    fn read(given: &Given<'_>) -> Option<String> {
        given.text().filter(|text| text.len() <= Self::MAX_BYTES).map(str::to_owned)
    }

    fn write(value: &String) -> Json {
        value.as_str().into()
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "maxLength": Self::MAX_BYTES })
    }
}

/// A secret of any form. It is never written: not by `hydrant check`, and not in what is said of a wrong one.
pub(super) enum SharedKey {}

impl SharedKey {
    const MAX_BYTES: usize = 1024;
}

impl Form for SharedKey {
    type Value = Secret;

    fn expected() -> String {
        format!("text of at most {} bytes", Self::MAX_BYTES)
    }

    fn read(given: &Given<'_>) -> Option<Secret> {
        let text = given.text().filter(|text| (1..=Self::MAX_BYTES).contains(&text.len()))?;
        Some(Secret::new(text.to_owned()))
    }

    fn write(_: &Secret) -> Json {
        SHOWN_SECRET.into()
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "maxLength": Self::MAX_BYTES, "writeOnly": true })
    }
}

/// Where a listener listens.
pub(super) enum ListenAddress {}

impl Form for ListenAddress {
    type Value = Address;

    fn expected() -> String {
        format!(
            "{SOCKET_ADDRESS}, `tls:PORT` or `tls:HOST:PORT`, `unix-dgram:PATH`, `fd:NAME` (sockets that systemd \
             passes under this name), or `stdin:`"
        )
    }

    fn read(given: &Given<'_>) -> Option<Address> {
        match given.text()? {
            "stdin:" => Some(Address::Stdin),
            text => match text.split_once(':')? {
                ("fd", name) => is_descriptor_name(name).then(|| Address::Activated(name.to_owned())),
                ("tls", text) => tcp_address(text).map(Address::Tls),
                ("unix-dgram", text) => socket_path(text).map(Address::UnixDatagram),
                _ => socket_address(text),
            },
        }
    }

    fn write(value: &Address) -> Json {
        value.to_string().into()
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "pattern": "^(unix:[^~]|unix-dgram:[^~]|tcp:.*[0-9]$|tls:.*[0-9]$|fd:[^:]{1,255}$|stdin:$)" })
    }
}

/// Whether systemd could pass a socket under `name`.
///
/// Source: <https://www.freedesktop.org/software/systemd/man/latest/sd_listen_fds.html>: at most 255
/// characters of printable ASCII, no colon.
fn is_descriptor_name(name: &str) -> bool {
    let allowed = |byte: u8| (b' '..=b'~').contains(&byte) && byte != b':';
    (1..=255).contains(&name.len()) && name.bytes().all(allowed)
}

/// Where the admin server listens, or `off`.
pub(super) enum AdminAddress {}

impl Form for AdminAddress {
    type Value = Option<Address>;

    fn expected() -> String {
        format!("{SOCKET_ADDRESS}, or `off`")
    }

    fn read(given: &Given<'_>) -> Option<Self::Value> {
        match given.text()? {
            "off" => Some(None),
            text => socket_address(text).map(Some),
        }
    }

    fn write(value: &Self::Value) -> Json {
        value.as_ref().map_or_else(|| "off".into(), |address| address.to_string().into())
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "pattern": "^(unix:[^~]|tcp:.*[0-9]$|off$)" })
    }
}

const SOCKET_ADDRESS: &str = "`unix:PATH` (at most 107 bytes; a leading `~` is not expanded), `tcp:PORT` on loopback, \
     `tcp:HOST:PORT` (HOST is an IP address or localhost)";

/// Longest path of a Unix socket: `sun_path` has 108 bytes, one of them for the closing NUL.
///
/// Source: <https://man7.org/linux/man-pages/man7/unix.7.html>
const MAX_SOCKET_PATH_BYTES: usize = 107;

/// `unix:PATH` or `tcp:[HOST:]PORT`. Names other than localhost are not resolved: which interface
/// is open to the network must not depend on a name server.
fn socket_address(text: &str) -> Option<Address> {
    if let Some(text) = text.strip_prefix("unix:") {
        return socket_path(text).map(Address::Unix);
    }
    tcp_address(text.strip_prefix("tcp:")?).map(Address::Tcp)
}

fn socket_path(text: &str) -> Option<PathBuf> {
    path(text).filter(|_| text.len() <= MAX_SOCKET_PATH_BYTES)
}

/// `[HOST:]PORT`.
fn tcp_address(text: &str) -> Option<SocketAddr> {
    if let Ok(address) = text.parse() {
        return Some(address);
    }
    let (host, port) = text.rsplit_once(':').unwrap_or(("", text));
    let port = port.parse().ok()?;
    matches!(host, "" | "localhost").then(|| loopback(port))
}

/// The address of a listener to connect to: `unix:PATH`, `tcp:PORT` or `tcp:HOST:PORT`.
///
/// # Errors
///
/// What an address must look like.
pub fn connect_address(text: &str) -> Result<Address, String> {
    socket_address(text).ok_or_else(|| format!("must be {SOCKET_ADDRESS}"))
}

/// Port `port` of the loopback interface.
pub(super) fn loopback(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

/// A closed set of values, each with its word.
pub(super) trait Words: Copy + PartialEq + 'static {
    /// Every value with its word.
    const WORDS: &'static [(&'static str, Self)];
}

impl<T: Words> Form for T {
    type Value = Self;

    fn expected() -> String {
        let words: Vec<_> = Self::WORDS.iter().map(|(word, _)| format!("\"{word}\"")).collect();
        match words.split_last() {
            Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
            _ => words.concat(),
        }
    }

    fn read(given: &Given<'_>) -> Option<Self> {
        let text = given.text()?;
        Self::WORDS.iter().find(|(word, _)| *word == text).map(|(_, value)| *value)
    }

    fn write(value: &Self) -> Json {
        Self::WORDS.iter().find(|(_, other)| other == value).map_or(Json::Null, |(word, _)| json!(word))
    }

    fn schema() -> Schema {
        json_schema!({ "enum": Self::WORDS.iter().map(|(word, _)| *word).collect::<Vec<_>>() })
    }
}

impl Words for Protocol {
    const WORDS: &'static [(&'static str, Self)] = &[
        (Self::Lines.name(), Self::Lines),
        (Self::Frames.name(), Self::Frames),
        (Self::Forward.name(), Self::Forward),
        (Self::Http.name(), Self::Http),
        (Self::Firehose.name(), Self::Firehose),
        (Self::Syslog.name(), Self::Syslog),
    ];
}

impl Words for SyslogFormat {
    const WORDS: &'static [(&'static str, Self)] = &[("raw", Self::Raw), ("json", Self::Json)];
}

impl Words for Acks {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("off", Self::Off),
        ("received", Self::Received),
        ("durable", Self::Durable),
        ("delivered", Self::Delivered),
    ];
}

impl Words for AggregateMode {
    const WORDS: &'static [(&'static str, Self)] =
        &[("auto", Self::Auto), ("on", Self::On), ("off", Self::Off)];
}

impl Words for Option<Algorithm> {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("none", None),
        (Algorithm::Gzip.name(), Some(Algorithm::Gzip)),
        (Algorithm::Zstd.name(), Some(Algorithm::Zstd)),
    ];
}

impl Words for BufferSync {
    const WORDS: &'static [(&'static str, Self)] = &[("always", Self::Always), ("os", Self::Os)];
}

impl Words for OnFull {
    const WORDS: &'static [(&'static str, Self)] =
        &[("block", Self::Block), ("drop-newest", Self::DropNewest), ("drop-oldest", Self::DropOldest)];
}

impl Words for LogFormat {
    const WORDS: &'static [(&'static str, Self)] =
        &[("auto", Self::Auto), ("text", Self::Text), ("json", Self::Json)];
}

impl Words for Option<tracing::Level> {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("off", None),
        ("error", Some(tracing::Level::ERROR)),
        ("warn", Some(tracing::Level::WARN)),
        ("info", Some(tracing::Level::INFO)),
        ("debug", Some(tracing::Level::DEBUG)),
        ("trace", Some(tracing::Level::TRACE)),
    ];
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text<F: Form>(text: &str) -> Option<F::Value> {
        F::read(&Given::Text(text))
    }

    #[test]
    fn sizes_are_in_units_or_bytes_and_keep_their_bounds() {
        let check = |given, expected| assert_eq!(text::<Size<1, { 4 << 20 }>>(given), expected, "{given}");
        check("4MiB", Some(4 << 20));
        check("1.5 MiB", Some(3 << 19));
        check("2MB", Some(2_000_000));
        check("1_000", Some(1000));
        check("1B", Some(1));
        check("0", None);
        check("4194305", None);
        check("-1", None);
        check("4 elephants", None);
        check("", None);
    }

    #[test]
    fn durations_need_a_unit_unless_they_are_zero() {
        let check = |given, expected: Option<u64>| {
            assert_eq!(text::<Wait<0, 90_000>>(given), expected.map(Duration::from_millis), "{given}");
        };
        check("250ms", Some(250));
        check("1m 30s", Some(90_000));
        check("1m30s", Some(90_000));
        check("0", Some(0));
        check("0s", Some(0));
        check("5", None);
        check("91s", None);
        check("soon", None);
        assert_eq!(Wait::<0, 90_000>::read(&Given::Integer(5)), None);
        assert_eq!(Wait::<0, 90_000>::read(&Given::Integer(0)), Some(Duration::ZERO));
    }

    #[test]
    fn patience_without_end_is_never_or_an_allowed_zero() {
        assert_eq!(text::<Patience<0, 1000>>("never"), Some(None));
        assert_eq!(text::<Patience<0, 1000>>("0s"), Some(None));
        assert_eq!(text::<Patience<1, 1000>>("0s"), None);
        assert_eq!(text::<Patience<1, 1000>>("1s"), Some(Some(Duration::from_secs(1))));
    }

    #[test]
    fn a_cadence_of_zero_is_never_and_others_keep_their_bounds() {
        let check = |given, expected: Option<Option<u64>>| {
            let expected = expected.map(|some| some.map(Duration::from_secs));
            assert_eq!(text::<Cadence<1000, 60_000>>(given), expected, "{given}");
        };
        check("0s", Some(None));
        check("0", Some(None));
        check("1s", Some(Some(1)));
        check("1m", Some(Some(60)));
        check("999ms", None);
        check("61s", None);
        check("never", None);
    }

    #[test]
    fn a_namespace_is_not_one_of_awss_own() {
        let check = |given: &str, good: bool| assert_eq!(text::<Namespace>(given).is_some(), good, "{given}");
        check("hydrant", true);
        check("My App/hydrant", true);
        check("AWS/Firehose", false);
        check(":hydrant", false);
        check("", false);
        check(" ", false);
        check(&"n".repeat(256), false);
        check("näme", false);
    }

    #[test]
    fn tcp_binds_loopback_unless_another_interface_is_named() {
        let check = |given, expected: Option<&str>| {
            let read = text::<ListenAddress>(given).map(|address| address.to_string());
            assert_eq!(read.as_deref(), expected, "{given}");
        };
        check("tcp:9000", Some("tcp:127.0.0.1:9000"));
        check("tcp::9000", Some("tcp:127.0.0.1:9000"));
        check("tcp:localhost:9000", Some("tcp:127.0.0.1:9000"));
        check("tcp:0.0.0.0:9000", Some("tcp:0.0.0.0:9000"));
        check("tcp:[::]:9000", Some("tcp:[::]:9000"));
        check("tcp:[::1]:0", Some("tcp:[::1]:0"));
        check("tcp:example.com:9000", None);
        check("tcp:*:9000", None);
        check("tcp:65536", None);
        check("tcp:", None);
        check("9000", None);
        check("", None);
        check("fd:app", Some("fd:app"));
        check("fd:hydrant.socket", Some("fd:hydrant.socket"));
        check("fd:", None);
        check("fd:a:b", None);
    }

    #[test]
    fn a_socket_path_fits_the_kernel_and_is_taken_as_it_stands() {
        let long = |bytes| format!("unix:{}", "p".repeat(bytes));
        let check = |given: &str, expected: Option<&str>| {
            let expected = expected.map(|path| Address::Unix(path.into()));
            assert_eq!(text::<ListenAddress>(given), expected, "{given}");
        };
        check("unix:/run/app.sock", Some("/run/app.sock"));
        check("unix:app.sock", Some("app.sock"));
        check(&long(107), Some(&"p".repeat(107)));
        check(&long(108), None);
        check("unix:~/app.sock", None);
        check("unix:", None);
    }

    #[test]
    fn standard_input_is_for_listeners_and_off_for_the_admin_server() {
        assert_eq!(text::<ListenAddress>("stdin:"), Some(Address::Stdin));
        assert_eq!(text::<ListenAddress>("off"), None);
        assert_eq!(text::<AdminAddress>("stdin:"), None);
        assert_eq!(text::<AdminAddress>("off"), Some(None));
    }

    #[test]
    fn a_mode_is_octal_in_text_and_itself_as_a_number() {
        assert_eq!(text::<Mode>("0660"), Some(0o660));
        assert_eq!(text::<Mode>("0o660"), Some(0o660));
        assert_eq!(text::<Mode>("680"), None);
        assert_eq!(Mode::read(&Given::Integer(0o660)), Some(0o660));
        assert_eq!(Mode::read(&Given::Integer(660)), None, "0o660 without its prefix");
    }

    #[test]
    fn an_escape_that_nobody_resolved_is_no_delimiter() {
        assert_eq!(text::<Delimiter>("\n").as_deref(), Some("\n"));
        assert_eq!(text::<Delimiter>("\\r\\n").as_deref(), Some("\r\n"));
        assert_eq!(text::<Delimiter>("\\x"), None);
        assert_eq!(text::<Delimiter>("").as_deref(), Some(""));
        assert_eq!(text::<Delimiter>(&"é".repeat(9)), None, "18 bytes");
    }

    #[test]
    fn a_fraction_is_no_less_than_0_and_no_more_than_1() {
        let check = |given, expected| assert_eq!(text::<Fraction>(given), expected, "{given}");
        check("0.3", Some(0.3));
        check("1", Some(1.0));
        check("1.01", None);
        check("-0.1", None);
        check("NaN", None);
    }

    #[test]
    fn an_endpoint_is_an_http_url() {
        let check = |given, good: bool| assert_eq!(text::<Url>(given).is_some(), good, "{given}");
        check("http://127.0.0.1:4573", true);
        check("https://firehose.example.com/path", true);
        check("127.0.0.1:4573", false);
        check("ftp://example.com", false);
        check("http://", false);
    }

    proptest! {
        #[test]
        fn a_size_reads_back_as_it_was_written(bytes: u64) {
            let written = Size::<0, { u64::MAX }>::write(&bytes);
            prop_assert_eq!(text::<Size<0, { u64::MAX }>>(written.as_str().unwrap()), Some(bytes));
        }

        #[test]
        fn a_duration_reads_back_as_it_was_written(ms in 0..u64::from(u32::MAX), ns in 0..1_000_000_u32) {
            let duration = Duration::from_millis(ms) + Duration::from_nanos(ns.into());
            let written = Wait::<0, { u64::MAX }>::write(&duration);
            prop_assert_eq!(text::<Wait<0, { u64::MAX }>>(written.as_str().unwrap()), Some(duration));
        }

        #[test]
        fn no_text_makes_a_form_panic(given: String) {
            text::<Size<0, { u64::MAX }>>(&given);
            text::<Wait<0, { u64::MAX }>>(&given);
            text::<ListenAddress>(&given);
            text::<Url>(&given);
            text::<Mode>(&given);
        }
    }
}
