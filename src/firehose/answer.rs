//! What a `PutRecordBatch` was answered, read twice as carefully as fast.
//!
//! A record counts as delivered only where the answer says so of it. Where an answer contradicts
//! itself or the request, nothing in it is believed.

use std::borrow::Cow;

use aws_sdk_firehose::operation::put_record_batch::PutRecordBatchOutput;
use aws_sdk_firehose::types::PutRecordBatchResponseEntry;

use super::{Answer, Class, FailedEntry, PutError, classify};

/// Whether `answer` says that each of `records` records was delivered, and nothing else.
///
/// A strict reader of exactly the documented shape: an object of `Encrypted`, a `FailedPutCount`
/// of 0 and as many `{"RecordId": "…"}` as were sent, each member at most once. `false` means
/// only "ask the full parser": for failures, and for what may be valid JSON but is unusual
/// (escapes, other members, nulls, text that is not ASCII).
#[must_use]
pub fn all_delivered(answer: &[u8], records: usize) -> bool {
    Reader(answer).answer(records).is_some()
}

/// What is left to read. Each method steps over what it names and any space before it, and is
/// `None` where there is something else.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn answer(&mut self, records: usize) -> Option<()> {
        const ENCRYPTED: u8 = 1;
        const COUNT: u8 = 2;
        const ENTRIES: u8 = 4;
        let mut seen = 0;
        self.literal("{")?;
        loop {
            let name = self.string()?;
            self.literal(":")?;
            let member = match name {
                b"Encrypted" => self.literal("true").or_else(|| self.literal("false")).map(|()| ENCRYPTED)?,
                b"FailedPutCount" => self.literal("0").map(|()| COUNT)?,
                b"RequestResponses" => self.entries(records).map(|()| ENTRIES)?,
                _ => return None,
            };
            if seen & member != 0 {
                return None;
            }
            seen |= member;
            if self.literal(",").is_none() {
                break;
            }
        }
        self.literal("}")?;
        (seen & COUNT != 0 && seen & ENTRIES != 0 && self.past_space().is_empty()).then_some(())
    }

    fn entries(&mut self, records: usize) -> Option<()> {
        self.literal("[")?;
        for index in 0..records {
            if index > 0 {
                self.literal(",")?;
            }
            self.literal("{")?;
            self.string().filter(|name| *name == b"RecordId")?;
            self.literal(":")?;
            self.string().filter(|id| !id.is_empty())?;
            self.literal("}")?;
        }
        self.literal("]")
    }

    fn literal(&mut self, expected: &str) -> Option<()> {
        self.0 = self.past_space().strip_prefix(expected.as_bytes())?;
        Some(())
    }

    /// What follows the space, as JSON defines it, at the front.
    fn past_space(&self) -> &'a [u8] {
        let space = self.0.iter().take_while(|b| matches!(b, b' ' | b'\t' | b'\n' | b'\r')).count();
        self.0.get(space..).unwrap_or_default()
    }

    /// A string of printable ASCII without escapes.
    fn string(&mut self) -> Option<&'a [u8]> {
        self.literal("\"")?;
        let (string, rest) = self.0.split_at_checked(memchr::memchr(b'"', self.0)?)?;
        self.0 = rest;
        self.literal("\"")?;
        // Without a branch in the loop this is a few vector instructions for an id.
        let plain = string.iter().fold(true, |plain, b| plain & (matches!(b, b' '..=b'~') & (*b != b'\\')));
        plain.then_some(string)
    }
}

// snippet-start:[firehose.rust.hydrant.read_answer]
/// The verdicts in a fully parsed answer to `records` records.
///
/// # Errors
///
/// A [`PutError`] of code `response` where the answer does not have one entry for each record,
/// has an entry with neither id nor error code, or its `FailedPutCount` is not the number of
/// entries with an error code. The service may have any of the records then.
pub(super) fn verdicts(output: &PutRecordBatchOutput, records: usize) -> Result<Answer, PutError> {
    let entries = output.request_responses();
    let unsettled = |entry: &PutRecordBatchResponseEntry| {
        entry.error_code().is_none() && entry.record_id().is_none_or(str::is_empty)
    };
    let failed: Vec<_> = entries.iter().enumerate().filter_map(failed_entry).collect();
    let problem = if entries.len() != records {
        format!("{} entries for {records} records", entries.len())
    } else if let Some(index) = entries.iter().position(unsettled) {
        format!("entry {index} with neither a record id nor an error code")
    } else if usize::try_from(output.failed_put_count()) != Ok(failed.len()) {
        format!("{} failed entries and a FailedPutCount of {}", failed.len(), output.failed_put_count())
    } else {
        return Ok(Answer { failed, record_id: None });
    };
    Err(PutError {
        class: Class::Transient,
        code: Cow::Borrowed("response"),
        message: format!("the answer to PutRecordBatch has {problem}; the records will be sent again"),
        ambiguous: true,
    })
}
// snippet-end:[firehose.rust.hydrant.read_answer]

fn failed_entry((index, entry): (usize, &PutRecordBatchResponseEntry)) -> Option<FailedEntry> {
    let code = entry.error_code()?;
    Some(FailedEntry { index, class: classify::entry_class(code), code: classify::known_code(code) })
}

#[cfg(test)]
mod tests {
    use super::*;

    // R-B4
    #[test]
    fn only_the_documented_shape_is_taken_at_its_word() {
        let check = |answer: &str, records, expected| {
            assert_eq!(all_delivered(answer.as_bytes(), records), expected, "{answer} for {records}");
        };
        let two = r#"{"Encrypted":false,"FailedPutCount":0,"RequestResponses":[{"RecordId":"a"},{"RecordId":"b"}]}"#;
        check(two, 2, true);
        check(two, 1, false);
        check(two, 3, false);
        check(&format!("{two}\n"), 2, true);
        check(&format!("{two}{two}"), 2, false);
        check(
            " {\t\"RequestResponses\" : [ {\r\n\"RecordId\" : \"a b\" } ] , \"FailedPutCount\" : 0 } ",
            1,
            true,
        );
        let one = |count: &str, entry: &str| {
            format!(r#"{{"FailedPutCount":{count},"RequestResponses":[{entry}]}}"#)
        };
        check(&one("0", r#"{"RecordId":"a"}"#), 1, true);
        check(&one("1", r#"{"RecordId":"a"}"#), 1, false);
        check(&one("0.5", r#"{"RecordId":"a"}"#), 1, false);
        check(&one("01", r#"{"RecordId":"a"}"#), 1, false);
        check(&one("-0", r#"{"RecordId":"a"}"#), 1, false);
        check(&one("null", r#"{"RecordId":"a"}"#), 1, false);
        check(&one("0", r#"{"RecordId":""}"#), 1, false);
        check(&one("0", r#"{"RecordId":null}"#), 1, false);
        check(&one("0", r#"{"RecordId":"a","RecordId":"b"}"#), 2, false);
        check(&one("0", r#"{"RecordId":"a","ErrorCode":"InternalFailure"}"#), 1, false);
        check(&one("0", r#"{"RecordId":"a","Error\u0043ode":"InternalFailure"}"#), 1, false);
        check(&one("0", r#"{"RecordId":"\u0061"}"#), 1, false);
        check(&one("0", "{\"RecordId\":\"\u{e9}\"}"), 1, false);
        check(&one("0", "{\"RecordId\":\"\u{1}\"}"), 1, false);
        check(r#"{"RequestResponses":[{"RecordId":"a"}]}"#, 1, false);
        check(r#"{"FailedPutCount":0}"#, 0, false);
        check(r#"{"FailedPutCount":0,"FailedPutCount":0,"RequestResponses":[]}"#, 0, false);
        check(r#"{"FailedPutCount":0,"RequestResponses":[]}"#, 0, true);
        check("<html>503</html>", 1, false);
        check("", 0, false);
    }
}
