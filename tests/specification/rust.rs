//! The product's source as far as a reader of text must know it: literals, macros, words.

use std::collections::BTreeSet;

use crate::tree;

/// A string literal.
#[derive(Debug)]
pub(crate) struct Literal {
    /// Where its opening quote stands, and where what follows its closing one.
    pub(crate) start: usize,
    pub(crate) end: usize,
    pub(crate) value: String,
}

/// A file of `src` without comments and test code, all in one text.
pub(crate) struct File {
    pub(crate) path: String,
    pub(crate) code: String,
}

/// A document in the shape of code: what it says is not what is done. `tests/deploy/manual.rs` holds it
/// to the code.
const MANUAL: &str = "src/cli/generate/man.rs";

/// The files whose path begins with one of `starts`.
pub(crate) fn files(starts: &[&str]) -> Vec<File> {
    let files = tree::sources().into_iter().filter(|file| file.path != MANUAL);
    let files = files.filter(|file| starts.iter().any(|start| file.path.starts_with(start))).map(|file| {
        let lines: Vec<String> = file.product.into_iter().map(|(_, line)| line).collect();
        File { path: file.path, code: lines.join("\n") }
    });
    let files: Vec<File> = files.collect();
    assert!(!files.is_empty(), "no file begins with {starts:?}");
    files
}

impl File {
    /// Every string literal in order; of a byte string the bytes as characters.
    pub(crate) fn literals(&self) -> Vec<Literal> {
        literals(&self.code)
    }
}

/// Every literal of the files whose path begins with one of `starts`.
pub(crate) fn values(starts: &[&str]) -> BTreeSet<String> {
    files(starts).iter().flat_map(File::literals).map(|literal| literal.value).collect()
}

fn literals(code: &str) -> Vec<Literal> {
    let bytes = code.as_bytes();
    let mut literals = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'/' if bytes.get(at + 1) == Some(&b'/') => at += code[at..].find('\n').unwrap_or(1),
            b'\'' => at = after_quote(code, at),
            b'r' if code[at..].starts_with("r\"") || code[at..].starts_with("r#\"") => {
                let start = at + code[at..].find('"').unwrap();
                let close = if bytes[at + 1] == b'#' { "\"#" } else { "\"" };
                let length = code[start + 1..].find(close).unwrap();
                let value = code[start + 1..start + 1 + length].to_owned();
                at = start + 1 + length + close.len();
                literals.push(Literal { start, end: at, value });
            }
            b'"' => {
                let (value, end) = escaped(code, at + 1);
                literals.push(Literal { start: at, end, value });
                at = end;
            }
            _ => at += 1,
        }
    }
    literals
}

/// Past a character in quotes, or past the quote of a lifetime.
fn after_quote(code: &str, at: usize) -> usize {
    let mut rest = code[at + 1..].char_indices();
    let (_, first) = rest.next().unwrap();
    let end = if first == '\\' { rest.nth(1) } else { rest.next() };
    match end {
        Some((index, '\'')) => at + 1 + index + 1,
        _ => at + 1,
    }
}

/// The literal whose first character is at `start`, and where it is over.
fn escaped(code: &str, start: usize) -> (String, usize) {
    let mut value = String::new();
    let mut characters = code[start..].char_indices().peekable();
    while let Some((index, character)) = characters.next() {
        match character {
            '"' => return (value, start + index + 1),
            '\\' => match characters.next().unwrap().1 {
                'n' => value.push('\n'),
                't' => value.push('\t'),
                'r' => value.push('\r'),
                '0' => value.push('\0'),
                '\n' => while characters.next_if(|(_, next)| next.is_whitespace()).is_some() {},
                other => value.push(other),
            },
            other => value.push(other),
        }
    }
    panic!("a literal without an end: {}", &code[start..start + 40]);
}

/// An event of the log.
#[derive(Debug)]
pub(crate) struct Event {
    pub(crate) level: String,
    pub(crate) message: String,
    pub(crate) fields: Vec<String>,
}

/// Every event at INFO and above of `file`.
pub(crate) fn events(file: &File) -> Vec<Event> {
    let literals = file.literals();
    let mut events = Vec::new();
    for level in ["info", "warn", "error"] {
        let opening = format!("tracing::{level}!(");
        for (at, _) in file.code.match_indices(&opening) {
            let arguments = arguments(&file.code, at + opening.len(), &literals);
            let (message, fields) = arguments.split_last().unwrap();
            let message = literals_in(message, &literals);
            let fields = fields.iter().map(|(start, end)| field(&file.code[*start..*end])).collect();
            let [message] = message.as_slice() else {
                panic!("{}: an event whose message is no literal: {message:?}", file.path)
            };
            events.push(Event { level: level.to_uppercase(), message: message.clone(), fields });
        }
    }
    events
}

/// The arguments of a call whose first one begins at `start`, by where each begins and ends.
fn arguments(code: &str, start: usize, literals: &[Literal]) -> Vec<(usize, usize)> {
    let mut arguments = Vec::new();
    let (mut depth, mut begin, mut at) = (0, start, start);
    loop {
        if let Some(literal) = literals.iter().find(|literal| literal.start == at) {
            at = literal.end;
            continue;
        }
        match code.as_bytes()[at] {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' if depth > 0 => depth -= 1,
            b')' => break,
            b',' if depth == 0 => {
                arguments.push((begin, at));
                begin = at + 1;
            }
            _ => {}
        }
        at += 1;
    }
    arguments.push((begin, at));
    arguments.retain(|(begin, end)| !code[*begin..*end].trim().is_empty());
    arguments
}

fn literals_in((start, end): &(usize, usize), literals: &[Literal]) -> Vec<String> {
    let inside = literals.iter().filter(|literal| (*start..*end).contains(&literal.start));
    inside.map(|literal| literal.value.clone()).collect()
}

/// The name of a field: `records`, `%error`, `reason = reason.label()`.
fn field(argument: &str) -> String {
    let name = argument.split('=').next().unwrap().trim();
    name.trim_start_matches(['%', '?']).to_owned()
}

/// `RecordId` for `record_id`.
pub(crate) fn camel(snake: &str) -> String {
    let upper = |word: &str| word[..1].to_uppercase() + &word[1..];
    snake.split('_').filter(|word| !word.is_empty()).map(upper).collect()
}

/// `record_id` for `RecordId`.
pub(crate) fn snake(camel: &str) -> String {
    let mut snake = String::new();
    for character in camel.chars() {
        if character.is_ascii_uppercase() && !snake.is_empty() {
            snake.push('_');
        }
        snake.push(character.to_ascii_lowercase());
    }
    snake
}

/// The runs of letters, digits and underscores.
pub(crate) fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').filter(|word| !word.is_empty())
}

#[test]
fn literals_are_found_whatever_stands_around_them() {
    let code = r##"f('"', '\'', "a\"b") // "no"
        x<'a>(r#"c"d"#, b"e", "f \
            g")"##;
    let values: Vec<String> = literals(code).into_iter().map(|literal| literal.value).collect();
    assert_eq!(values, ["a\"b", "c\"d", "e", "f g"]);
}

#[test]
fn events_are_found_with_their_fields() {
    let code = r#"tracing::warn!(%error, records = x.len(), path = %p(1, "b"), "It, (broke).")"#;
    let [event] = &events(&File { path: String::new(), code: code.to_owned() })[..] else { panic!() };
    assert_eq!((event.level.as_str(), event.message.as_str()), ("WARN", "It, (broke)."));
    assert_eq!(event.fields, ["error", "records", "path"]);
}
