//! One syslog message, taken apart.
//!
//! Formats: [RFC 5424](https://www.rfc-editor.org/rfc/rfc5424), and
//! [RFC 3164](https://www.rfc-editor.org/rfc/rfc3164), which only describes what programs do. What
//! fits neither is a message without the rest: nothing is refused.

use memchr::{memchr, memchr2, memchr3};

use super::super::json::escape;

/// Most elements and parameters of structured data that is taken apart. They are looked at in pairs.
const MAX_PARAMETERS: usize = 128;

/// Names by number, as syslog(3) and syslog.conf(5) have them; 12 to 15 as RFC 5424 describes them.
const FACILITIES: [&str; 24] = [
    "kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp",
    "ntp", "audit", "alert", "clock", "local0", "local1", "local2", "local3", "local4", "local5", "local6",
    "local7",
];
const SEVERITIES: [&str; 8] = ["emerg", "alert", "crit", "err", "warning", "notice", "info", "debug"];

/// The parts of a message; what it does not say, or says to be unknown by `-`, is none.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Message<'a> {
    priority: Option<usize>,
    timestamp: Option<&'a [u8]>,
    hostname: Option<&'a [u8]>,
    appname: Option<&'a [u8]>,
    procid: Option<&'a [u8]>,
    msgid: Option<&'a [u8]>,
    /// Whole and well formed.
    structured_data: Option<&'a [u8]>,
    message: &'a [u8],
}

impl<'a> Message<'a> {
    /// Takes `bytes` apart, as far as they can be.
    pub(super) fn parse(bytes: &'a [u8]) -> Self {
        let Some((priority, rest)) = priority(bytes) else {
            return Self { message: bytes, ..Self::default() };
        };
        let message = rfc_5424(rest).or_else(|| rfc_3164(rest));
        let message = message.unwrap_or(Self { message: rest, ..Self::default() });
        Self { priority: Some(priority), ..message }
    }

    /// Appends it as a JSON object. One that is longer than `most` bytes may be cut off anywhere behind
    /// them.
    pub(super) fn write(&self, json: &mut Vec<u8>, most: usize) {
        let most = json.len().saturating_add(most);
        json.push(b'{');
        for (key, text) in [("timestamp", self.timestamp), ("hostname", self.hostname)] {
            text.into_iter().for_each(|text| member(key, text, json, most));
        }
        if let Some(priority) = self.priority {
            let name = |names: &[&'static str], index: usize| {
                names.get(index).copied().unwrap_or_default().as_bytes()
            };
            member("facility", name(&FACILITIES, priority / 8), json, most);
            member("severity", name(&SEVERITIES, priority % 8), json, most);
        }
        for (key, text) in [("appname", self.appname), ("procid", self.procid), ("msgid", self.msgid)] {
            text.into_iter().for_each(|text| member(key, text, json, most));
        }
        if let Some(elements) = self.structured_data {
            json.extend_from_slice(b"\"structured_data\":{");
            write_elements(elements, json, most);
            json.extend_from_slice(b"},");
        }
        member("message", self.message, json, most);
        json.pop();
        json.push(b'}');
    }
}

/// Appends `"key":"text",`.
fn member(key: &str, text: &[u8], json: &mut Vec<u8>, most: usize) {
    json.push(b'"');
    json.extend_from_slice(key.as_bytes());
    json.extend_from_slice(b"\":\"");
    append(text, json, most);
    json.extend_from_slice(b"\",");
}

/// Appends `text` as the inside of a string; once `json` is longer than `most` bytes, what is still to come is left out.
fn append(text: &[u8], json: &mut Vec<u8>, most: usize) {
    let put = |piece: &[u8]| {
        json.extend_from_slice(piece);
        if json.len() > most { Err(()) } else { Ok(()) }
    };
    // What was cut off is too long, as is seen by its length.
    escape(text, put).unwrap_or_default();
}

/// The number in `<NUMBER>`, and what follows.
fn priority(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let (digits, rest) = until(bytes.strip_prefix(b"<")?, b'>')?;
    let is_number = (1..=3).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit);
    if !is_number {
        return None;
    }
    let number = digits.iter().fold(0, |number, digit| number * 10 + usize::from(digit - b'0'));
    (number < FACILITIES.len() * SEVERITIES.len()).then_some((number, rest))
}

/// What lies before the first `end`, and behind it.
fn until(bytes: &[u8], end: u8) -> Option<(&[u8], &[u8])> {
    let at = memchr(end, bytes)?;
    Some((bytes.get(..at)?, bytes.get(at + 1..)?))
}

/// `VERSION SP TIMESTAMP SP HOSTNAME SP APP-NAME SP PROCID SP MSGID SP STRUCTURED-DATA [SP MSG]`
fn rfc_5424(bytes: &[u8]) -> Option<Message<'_>> {
    let rest = bytes.strip_prefix(b"1 ")?;
    let mut fields = [None; 5];
    let mut rest = rest;
    for field in &mut fields {
        let (text, after) = until(rest, b' ').filter(|(text, _)| !text.is_empty())?;
        *field = Some(text).filter(|text| *text != b"-");
        rest = after;
    }
    let [timestamp, hostname, appname, procid, msgid] = fields;
    if timestamp.is_some_and(|timestamp| !is_rfc_3339(timestamp)) {
        return None;
    }
    let (structured_data, message) = match rest.strip_prefix(b"-") {
        Some(after) if after.first().is_none_or(|byte| *byte == b' ') => (None, after),
        _ => match elements_of(rest) {
            Some(end) => rest.split_at_checked(end).map(|(elements, after)| (Some(elements), after))?,
            None => (None, rest),
        },
    };
    let message = message.strip_prefix(b" ").unwrap_or(message);
    // A byte order mark says that UTF-8 follows.
    let message = message.strip_prefix(b"\xef\xbb\xbf").unwrap_or(message);
    Some(Message { priority: None, timestamp, hostname, appname, procid, msgid, structured_data, message })
}

/// `[TIMESTAMP SP [HOSTNAME SP]] TAG[\[PID\]]: MSG`, the host left out by programs that write to their own
/// machine's socket, and the time by some of them.
fn rfc_3164(bytes: &[u8]) -> Option<Message<'_>> {
    let Some((timestamp, rest)) = timestamp(bytes) else { return tagged(bytes) };
    let timestamp = Some(timestamp);
    if let Some(message) = tagged(rest) {
        return Some(Message { timestamp, ..message });
    }
    let Some((hostname, rest)) = until(rest, b' ').filter(|(hostname, _)| !hostname.is_empty()) else {
        return Some(Message { timestamp, message: rest, ..Message::default() });
    };
    let message = tagged(rest).unwrap_or(Message { message: rest, ..Message::default() });
    Some(Message { timestamp, hostname: Some(hostname), ..message })
}

/// `Mmm dd hh:mm:ss`, or as RFC 3339 has it, which many programs write instead; and what follows the
/// space behind it.
fn timestamp(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (first, rest) = until(bytes, b' ')?;
    if is_rfc_3339(first) {
        return Some((first, rest));
    }
    let (timestamp, rest) = bytes.split_at_checked(15)?;
    let fits = timestamp.iter().zip(b"Aaa 09 09:09:09").enumerate().all(|(at, (byte, model))| match model {
        b'A' => byte.is_ascii_uppercase(),
        b'a' => byte.is_ascii_lowercase(),
        // The day may have a space in place of its first digit.
        b'0' if at == 4 => byte.is_ascii_digit() || *byte == b' ',
        b'0' | b'9' => byte.is_ascii_digit(),
        other => byte == other,
    });
    let rest = rest.strip_prefix(b" ")?;
    fits.then_some((timestamp, rest))
}

fn is_rfc_3339(text: &[u8]) -> bool {
    let model = b"9999-99-99T99:99:99";
    let is = |(byte, model): (&u8, &u8)| if *model == b'9' { byte.is_ascii_digit() } else { byte == model };
    text.len() > model.len() && text.iter().zip(model).all(is)
}

/// `NAME: ` or `NAME[PID]: `, and the message behind it.
fn tagged(bytes: &[u8]) -> Option<Message<'_>> {
    let (token, message) = until(bytes, b' ').unwrap_or((bytes, &[]));
    let name = token.strip_suffix(b":");
    let (name, procid) = match name.unwrap_or(token).strip_suffix(b"]") {
        Some(in_brackets) => until(in_brackets, b'[').map(|(name, procid)| (name, Some(procid)))?,
        None => (name?, None),
    };
    (!name.is_empty()).then_some(Message { appname: Some(name), procid, message, ..Message::default() })
}

/// The end of the elements `[ID NAME="VALUE"…]…` that `bytes` begin with, if they are well formed, no id
/// stands twice among them, and they are not too many.
fn elements_of(bytes: &[u8]) -> Option<usize> {
    let mut count = 0;
    let mut elements = Elements::new(bytes);
    for element in elements.by_ref() {
        count += 1;
        for _ in element.parameters() {
            count += 1;
            if count > MAX_PARAMETERS {
                return None;
            }
        }
        let before = Elements::new(bytes).take_while(|before| before.at != element.at);
        if before.into_iter().any(|before| before.id == element.id) {
            return None;
        }
    }
    let end = bytes.len() - elements.rest.len();
    (count > 0 && elements.rest.first().is_none_or(|byte| *byte == b' ')).then_some(end)
}

/// `"ID":{"NAME":"VALUE"}` for each; where a name stands several times, an array of its values.
fn write_elements(bytes: &[u8], json: &mut Vec<u8>, most: usize) {
    for (at, element) in Elements::new(bytes).enumerate() {
        json.extend_from_slice(if at == 0 { b"\"" } else { b",\"" });
        append(element.id, json, most);
        json.extend_from_slice(b"\":{");
        let mut is_first = true;
        for (at, (name, value)) in element.parameters().enumerate() {
            let is_same = |(other, _): &(&[u8], &[u8])| *other == name;
            if element.parameters().take(at).any(|parameter| is_same(&parameter)) {
                continue;
            }
            json.extend_from_slice(if is_first { b"\"" } else { b",\"" });
            is_first = false;
            append(name, json, most);
            json.extend_from_slice(b"\":");
            let mut others = element.parameters().skip(at + 1).filter(is_same).peekable();
            let repeated = others.peek().is_some();
            json.extend_from_slice(if repeated { b"[\"" } else { b"\"" });
            write_value(value, json, most);
            for (_, value) in others {
                json.extend_from_slice(b"\",\"");
                write_value(value, json, most);
            }
            json.extend_from_slice(if repeated { b"\"]" } else { b"\"" });
        }
        json.push(b'}');
    }
}

/// Appends a value without the backslashes that it has before `"`, `\` and `]`.
fn write_value(value: &[u8], json: &mut Vec<u8>, most: usize) {
    let mut rest = value;
    while let Some(at) = memchr(b'\\', rest) {
        let (before, after) = rest.split_at(at);
        append(before, json, most);
        let escaped = after.get(1).filter(|byte| matches!(byte, b'"' | b'\\' | b']'));
        append(escaped.map_or(b"\\", std::slice::from_ref), json, most);
        rest = after.get(if escaped.is_some() { 2 } else { 1 }..).unwrap_or_default();
    }
    append(rest, json, most);
}

/// The elements at the front of `rest`, to the first that is none.
#[derive(Clone)]
struct Elements<'a> {
    rest: &'a [u8],
}

struct Element<'a> {
    /// Bytes from here to the end, which tells elements apart.
    at: usize,
    id: &'a [u8],
    /// ` NAME="VALUE"` and so on, up to the bracket.
    parameters: &'a [u8],
}

impl<'a> Elements<'a> {
    fn new(rest: &'a [u8]) -> Self {
        Self { rest }
    }
}

impl<'a> Iterator for Elements<'a> {
    type Item = Element<'a>;

    fn next(&mut self) -> Option<Element<'a>> {
        let inside = self.rest.strip_prefix(b"[")?;
        let (id, after) = inside.split_at_checked(memchr3(b' ', b']', b'"', inside)?)?;
        let mut parameters = Parameters { rest: after };
        parameters.by_ref().for_each(drop);
        let rest = parameters.rest.strip_prefix(b"]")?;
        let parameters = after.get(..after.len() - parameters.rest.len())?;
        let element = Element { at: self.rest.len(), id, parameters };
        self.rest = rest;
        (!id.is_empty()).then_some(element)
    }
}

impl<'a> Element<'a> {
    fn parameters(&self) -> Parameters<'a> {
        Parameters { rest: self.parameters }
    }
}

/// The parameters at the front of `rest`, as names and values, to the first that is none.
struct Parameters<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Parameters<'a> {
    type Item = (&'a [u8], &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (name, after) = until(self.rest.strip_prefix(b" ")?, b'=')?;
        let after = after.strip_prefix(b"\"")?;
        let mut end = 0;
        loop {
            end += memchr2(b'"', b'\\', after.get(end..)?)?;
            if after.get(end) == Some(&b'"') {
                break;
            }
            end += 2;
        }
        let is_name = !name.is_empty() && memchr3(b' ', b']', b'"', name).is_none();
        let value = after.get(..end).filter(|_| is_name)?;
        self.rest = after.get(end + 1..)?;
        Some((name, value))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn read(message: &[u8]) -> Value {
        let mut json = Vec::new();
        Message::parse(message).write(&mut json, usize::MAX);
        serde_json::from_slice(&json).unwrap_or_else(|error| panic!("{error}: {}", json.escape_ascii()))
    }

    #[track_caller]
    fn check(message: &str, expected: Value) {
        assert_eq!(read(message.as_bytes()), expected, "{message}");
    }

    // R-Y2
    #[test]
    fn messages_of_rfc_5424_are_taken_apart() {
        // The RFC's own examples, section 6.5.
        check(
            "<34>1 2003-10-11T22:14:15.003Z mymachine.example.com su - ID47 - \u{feff}'su root' failed for lonvick on \
             /dev/pts/8",
            json!({
                "timestamp": "2003-10-11T22:14:15.003Z", "hostname": "mymachine.example.com", "facility": "auth",
                "severity": "crit", "appname": "su", "msgid": "ID47",
                "message": "'su root' failed for lonvick on /dev/pts/8",
            }),
        );
        check(
            r#"<165>1 2003-10-11T22:14:15.003Z h evntslog - ID47 [exampleSDID@32473 iut="3" eventSource="Application" eventID="1011"][examplePriority@32473 class="high"]"#,
            json!({
                "timestamp": "2003-10-11T22:14:15.003Z", "hostname": "h", "facility": "local4",
                "severity": "notice", "appname": "evntslog", "msgid": "ID47", "message": "",
                "structured_data": {
                    "exampleSDID@32473": { "iut": "3", "eventSource": "Application", "eventID": "1011" },
                    "examplePriority@32473": { "class": "high" },
                },
            }),
        );
        check(
            r#"<0>1 - - - - - [a][b x="1" y="\"\\\]\n" x="2"] and "so" on"#,
            json!({
                "facility": "kern", "severity": "emerg", "message": "and \"so\" on",
                "structured_data": { "a": {}, "b": { "x": ["1", "2"], "y": "\"\\]\\n" } },
            }),
        );
    }

    // R-Y2
    #[test]
    fn structured_data_that_is_none_stays_in_the_message() {
        let many = format!("[a{}]", " x=\"\"".repeat(MAX_PARAMETERS));
        for data in [
            "[",
            "[a",
            "[a x]",
            "[a x=]",
            "[a x=\"]",
            "[a][a]",
            "[]",
            "[a]b",
            "none",
            "-x",
            "[a =\"\"]",
            &many,
        ] {
            check(
                &format!("<0>1 - - a - - {data} b"),
                json!({ "facility": "kern", "severity": "emerg", "appname": "a", "message": format!("{data} b") }),
            );
        }
    }

    // R-Y2
    #[test]
    fn messages_of_rfc_3164_are_taken_apart() {
        let check = |rest: &str, expected: Value| {
            let mut expected = expected;
            expected["facility"] = "user".into();
            expected["severity"] = "notice".into();
            check(&format!("<13>{rest}"), expected);
        };
        check(
            "Oct 11 22:14:15 mymachine su: 'su root' failed",
            json!({
                "timestamp": "Oct 11 22:14:15", "hostname": "mymachine", "appname": "su",
                "message": "'su root' failed",
            }),
        );
        check(
            "Oct  1 22:14:15 sshd[123]: no host",
            json!({ "timestamp": "Oct  1 22:14:15", "appname": "sshd", "procid": "123", "message": "no host" }),
        );
        check(
            "2026-11-27T20:00:00.1+01:00 h a[1] no colon",
            json!({
                "timestamp": "2026-11-27T20:00:00.1+01:00", "hostname": "h", "appname": "a", "procid": "1",
                "message": "no colon",
            }),
        );
        check(
            "Oct 11 22:14:15 h text",
            json!({ "timestamp": "Oct 11 22:14:15", "hostname": "h", "message": "text" }),
        );
        check("Oct 11 22:14:15 text", json!({ "timestamp": "Oct 11 22:14:15", "message": "text" }));
        check("Oct 11 22:14:15 a:", json!({ "timestamp": "Oct 11 22:14:15", "appname": "a", "message": "" }));
        check("%LINK-3-UPDOWN: no time", json!({ "appname": "%LINK-3-UPDOWN", "message": "no time" }));
        check("no time: and no tag", json!({ "message": "no time: and no tag" }));
        check("", json!({ "message": "" }));
    }

    // R-Y2
    #[test]
    fn what_is_no_syslog_is_a_message() {
        for text in ["text", "<192>text", "<>text", "<1234>text", "<1", "<a>text", "\u{1}\"\\"] {
            check(text, json!({ "message": text }));
        }
        assert_eq!(read(b"\xff<13>"), json!({ "message": "\u{fffd}<13>" }));
    }

    proptest! {
        #[test]
        fn whatever_comes_is_one_valid_object(
            parts in prop::collection::vec(prop::sample::select(vec![
                "<13>", "1 ", "- ", "Oct 11 22:14:15 ", "2026-11-27T20:00:00Z ", "host ", "app[1]: ", "[", "]", "id",
                " a=\"", "\"", "\\", "\u{1}", "é",
            ]), 0..20), most in 0..200_usize,
        ) {
            let text = parts.concat();
            let value = read(text.as_bytes());
            let message = value["message"].as_str().unwrap();
            prop_assert!(text.ends_with(message) || text.contains('\u{feff}'), "{}", value);
            // Cut off only behind what is too long already.
            let (mut whole, mut cut) = (Vec::new(), Vec::new());
            Message::parse(text.as_bytes()).write(&mut whole, usize::MAX);
            Message::parse(text.as_bytes()).write(&mut cut, most);
            prop_assert!(cut == whole || cut.len() > most);
        }
    }
}
