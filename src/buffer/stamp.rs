//! What tells records apart that look alike: the daemon, its start, and a number; pure.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};

/// Digits of the largest number.
const MAX_DIGITS: usize = 20;

/// A member that is added to records that are JSON objects:
/// `"FIELD":{"daemon":"DAEMON","boot":BOOT,"sequence":SEQUENCE}`.
#[derive(Debug)]
pub struct Stamp {
    field: String,
    delimiter: Vec<u8>,
    /// All but the sequence and two braces.
    head: Vec<u8>,
}

impl Stamp {
    /// Of a daemon that began at `boot`, in milliseconds since 1970, and ends records with `delimiter`.
    #[must_use]
    pub fn new(field: &str, daemon: &str, boot: u64, delimiter: &[u8]) -> Self {
        let text = |text: &str| serde_json::Value::from(text).to_string();
        let (field, text) = (field.to_owned(), format!("{}:{{\"daemon\":{}", text(field), text(daemon)));
        let head = format!("{text},\"boot\":{boot},\"sequence\":").into_bytes();
        Self { field, delimiter: delimiter.to_vec(), head }
    }

    /// Most bytes by which a record grows.
    #[must_use]
    pub fn most_bytes(&self) -> usize {
        // A comma before it, and the brace behind the sequence; the record's own is there.
        1 + self.head.len() + MAX_DIGITS + 1
    }

    /// Appends `record` to `records` with the stamp of `sequence` as its last member. One that is no JSON
    /// object, or has such a member, is appended as it is; returns whether it was stamped.
    pub fn append(&self, record: &[u8], sequence: u64, records: &mut Vec<u8>) -> bool {
        let content = record.strip_suffix(self.delimiter.as_slice()).unwrap_or(record).trim_ascii_end();
        let end = content.strip_suffix(b"}").filter(|_| content.trim_ascii_start().starts_with(b"{"));
        let is_empty = end.and_then(|_| self.is_empty(content));
        let (Some(end), Some(is_empty)) = (end, is_empty) else {
            records.extend_from_slice(record);
            return false;
        };
        records.extend_from_slice(end);
        if !is_empty {
            records.push(b',');
        }
        records.extend_from_slice(&self.head);
        records.extend_from_slice(sequence.to_string().as_bytes());
        records.push(b'}');
        // The brace that was taken off, and whatever follows it.
        records.extend_from_slice(record.get(end.len()..).unwrap_or_default());
        true
    }

    /// Whether the JSON object `content` has no members; `None` where it is none, or has this one.
    fn is_empty(&self, content: &[u8]) -> Option<bool> {
        let mut json = serde_json::Deserializer::from_slice(content);
        let members = Members(&self.field).deserialize(&mut json).ok()?;
        json.end().ok()?;
        members
    }
}

/// Reads a whole object.
struct Members<'f>(&'f str);

impl<'a> DeserializeSeed<'a> for Members<'_> {
    type Value = Option<bool>;

    fn deserialize<D: Deserializer<'a>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'a> Visitor<'a> for Members<'_> {
    type Value = Option<bool>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'a>>(self, mut members: A) -> Result<Self::Value, A::Error> {
        let (mut is_empty, mut has_it) = (true, false);
        while let Some(is_it) = members.next_key_seed(super::routes::Is(self.0))? {
            (is_empty, has_it) = (false, has_it | is_it);
            members.next_value::<IgnoredAny>()?;
        }
        Ok((!has_it).then_some(is_empty))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // R-V9
    #[test]
    fn objects_are_stamped_and_nothing_else_is_touched() {
        let check = |delimiter: &str, record: &str, stamped: Option<&str>| {
            let stamp = Stamp::new("s\"", "a\\b", 7, delimiter.as_bytes());
            let (mut records, before) = (b"before".to_vec(), 6);
            assert_eq!(
                stamp.append(record.as_bytes(), u64::MAX, &mut records),
                stamped.is_some(),
                "{record}"
            );
            let after = std::str::from_utf8(&records[before..]).unwrap();
            let member = r#""s\"":{"daemon":"a\\b","boot":7,"sequence":18446744073709551615}"#;
            let expected = stamped.map_or(record.to_owned(), |stamped| stamped.replace("STAMP", member));
            assert_eq!(after, expected);
            assert!(after.len() <= record.len() + stamp.most_bytes());
        };
        check("\n", "{\"a\":1}\n", Some("{\"a\":1,STAMP}\n"));
        check("\n", " { \"a\" : {} }\r\n", Some(" { \"a\" : {} ,STAMP}\r\n"));
        check("\n", "{}\n", Some("{STAMP}\n"));
        check("", "{ }", Some("{ STAMP}"));
        check("}", "{\"a\":\"}\"}}", Some("{\"a\":\"}\",STAMP}}"));
        for record in [
            "text\n",
            "{text}\n",
            "[{}]\n",
            "{} {}\n",
            "{\"a\":1\n",
            "\"{}\"\n",
            "\n",
            "}\n",
            "{\"s\\\"\":0}\n",
            "{\"a\":1,}\n",
            "{\"a\":1}}\n",
        ] {
            check("\n", record, None);
        }
    }
}
