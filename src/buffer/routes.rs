//! Which delivery stream a record goes to, by what it says of itself; pure.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// A table of streams by the value of one top-level member of records that are JSON objects.
///
/// A value is text as it stands, or a whole number or a flag in JSON's way of writing it. A record that is
/// no object, that lacks the member, or whose value is none of these matches nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Routes {
    /// The name of the member.
    field: String,
    exact: HashMap<String, usize>,
    /// What values begin with, the longest first.
    prefixes: Vec<(String, usize)>,
    /// Of records that match nothing.
    otherwise: usize,
}

impl Routes {
    /// Records go by `rules`, each a value and the index of a stream; a value that ends with `*` stands for
    /// all that begin with what is before it. An exact value comes before any of those, and a longer
    /// beginning before a shorter one.
    #[must_use]
    pub fn new<'a>(field: &str, rules: impl IntoIterator<Item = (&'a str, usize)>, otherwise: usize) -> Self {
        let (mut exact, mut prefixes) = (HashMap::new(), Vec::new());
        for (value, stream) in rules {
            match value.strip_suffix('*') {
                None => drop(exact.insert(value.to_owned(), stream)),
                Some(prefix) => prefixes.push((prefix.to_owned(), stream)),
            }
        }
        prefixes.sort_by_key(|(prefix, _)| std::cmp::Reverse(prefix.len()));
        Self { field: field.to_owned(), exact, prefixes, otherwise }
    }

    /// All records go to one stream.
    #[must_use]
    pub fn to(stream: usize) -> Self {
        Self::new("", [], stream)
    }

    /// The index of the stream that `record` goes to.
    #[must_use]
    pub fn stream_of(&self, record: &[u8]) -> usize {
        if self.exact.is_empty() && self.prefixes.is_empty() {
            return self.otherwise;
        }
        let Some(value) = member(record, &self.field) else { return self.otherwise };
        let of_prefix = || {
            let matches = |(prefix, _): &&(String, usize)| value.starts_with(prefix.as_str());
            self.prefixes.iter().find(matches).map(|(_, stream)| *stream)
        };
        self.exact.get(value.as_ref()).copied().or_else(of_prefix).unwrap_or(self.otherwise)
    }
}

/// The value of the first member `field` of the object `record`. What follows it is not looked at.
fn member<'a>(record: &'a [u8], field: &str) -> Option<Cow<'a, str>> {
    if record.iter().find(|byte| !byte.is_ascii_whitespace()) != Some(&b'{') {
        return None;
    }
    let mut found = None;
    let mut json = serde_json::Deserializer::from_slice(record);
    // That it was left before its end is an error that says nothing.
    drop(Object { field, found: &mut found }.deserialize(&mut json));
    found
}

/// Looks for a member and leaves its value in `found`.
struct Object<'f, 'a> {
    field: &'f str,
    found: &'f mut Option<Cow<'a, str>>,
}

impl<'a> DeserializeSeed<'a> for Object<'_, 'a> {
    type Value = ();

    fn deserialize<D: Deserializer<'a>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'a> Visitor<'a> for Object<'_, 'a> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'a>>(self, mut members: A) -> Result<(), A::Error> {
        while let Some(is_it) = members.next_key_seed(Is(self.field))? {
            if is_it {
                *self.found = members.next_value_seed(Text)?;
                return Ok(());
            }
            members.next_value::<IgnoredAny>()?;
        }
        Ok(())
    }
}

/// Whether a key is this one.
pub(super) struct Is<'f>(pub(super) &'f str);

impl<'a> DeserializeSeed<'a> for Is<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'a>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Is<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E>(self, key: &str) -> Result<bool, E> {
        Ok(key == self.0)
    }
}

/// A value that may stand in the table.
struct Text;

impl<'a> DeserializeSeed<'a> for Text {
    type Value = Option<Cow<'a, str>>;

    fn deserialize<D: Deserializer<'a>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'a> Visitor<'a> for Text {
    type Value = Option<Cow<'a, str>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_borrowed_str<E>(self, text: &'a str) -> Result<Self::Value, E> {
        Ok(Some(text.into()))
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Some(text.to_owned().into()))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Self::Value, E> {
        Ok(Some(number.to_string().into()))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Self::Value, E> {
        Ok(Some(number.to_string().into()))
    }

    fn visit_bool<E>(self, flag: bool) -> Result<Self::Value, E> {
        Ok(Some(if flag { "true" } else { "false" }.into()))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    // What is in them is left unread.
    fn visit_seq<A: SeqAccess<'a>>(self, _: A) -> Result<Self::Value, A::Error> {
        Ok(None)
    }

    fn visit_map<A: MapAccess<'a>>(self, _: A) -> Result<Self::Value, A::Error> {
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // R-V5
    #[test]
    fn a_record_goes_by_the_value_of_one_member() {
        let rules = [
            ("audit", 1),
            ("app.*", 2),
            ("app.web.*", 3),
            ("app.web.log", 4),
            ("7", 5),
            ("true", 6),
            ("é", 7),
        ];
        let routes = Routes::new("tag", rules, 0);
        for (record, stream) in [
            (r#"{"tag":"audit","x":1}"#, 1),
            (r#" { "x" : {"tag":"app.x"} , "tag" : "audit" }"#, 1),
            (r#"{"tag":"app.db"}"#, 2),
            (r#"{"tag":"app.web.x"}"#, 3),
            (r#"{"tag":"app.web.log"}"#, 4),
            (r#"{"tag":"app."}"#, 2),
            (r#"{"tag":7}"#, 5),
            (r#"{"tag":true}"#, 6),
            (r#"{"tag":"\u00e9"}"#, 7),
            (r#"{"t\u0061g":"audit"}"#, 1),
            // The first one counts, and what follows is not looked at.
            (r#"{"tag":"audit","tag":"app.db"}"#, 1),
            (r#"{"tag":"audit", and no more JSON"#, 1),
            ("{\"tag\":\"audit\"}\n", 1),
            // Nothing that matches.
            (r#"{"tag":"app"}"#, 0),
            (r#"{"tag":7.0}"#, 0),
            (r#"{"tag":null}"#, 0),
            (r#"{"tag":["audit"]}"#, 0),
            (r#"{"tag":{"a":"audit"}}"#, 0),
            (r#"{"x":"audit"}"#, 0),
            (r#"{"x":{"tag":"audit"}}"#, 0),
            (r#"["tag","audit"]"#, 0),
            (r#""audit""#, 0),
            ("tag audit", 0),
            ("", 0),
            ("{", 0),
        ] {
            assert_eq!(routes.stream_of(record.as_bytes()), stream, "{record}");
        }
        // Nesting that no reader of JSON follows.
        let deep = format!("{{\"x\":{}", "[".repeat(100_000));
        assert_eq!(routes.stream_of(deep.as_bytes()), 0);
        assert_eq!(routes.stream_of(b"{\"tag\":\"\xff\"}"), 0);
    }
}
