//! SPECIFICATION.md as tables and words.

use std::collections::BTreeSet;

use crate::tree::{backticked, cells, read};

pub(crate) const SPECIFICATION: &str = "SPECIFICATION.md";

pub(crate) fn text() -> String {
    read(SPECIFICATION)
}

/// The rows of every table with this head, in their cells; at least one row.
pub(crate) fn table(head: &str) -> Vec<Vec<String>> {
    let text = text();
    let mut rows = Vec::new();
    let mut lines = text.lines();
    while lines.by_ref().any(|line| line == head) {
        rows.extend(lines.by_ref().skip(1).map_while(cells));
    }
    assert!(!rows.is_empty(), "{SPECIFICATION} has no table {head}");
    rows
}

/// Everything in backticks in the first cells of the tables with this head.
pub(crate) fn named(head: &str) -> BTreeSet<String> {
    let first = |row: &Vec<String>| backticked(&row[0]).into_iter().map(str::to_owned).collect::<Vec<_>>();
    table(head).iter().flat_map(first).collect()
}

/// Fails unless the table with this head has exactly these rows.
pub(crate) fn assert_table(head: &str, expected: &[String]) {
    let found: Vec<String> = table(head).iter().map(|row| format!("| {} |", row.join(" | "))).collect();
    assert!(found == expected, "{SPECIFICATION}: below {head} must stand\n{}\n", expected.join("\n"));
}

/// Fails with what is in only one of two sets.
pub(crate) fn assert_same(
    what: &str,
    named: &BTreeSet<impl AsRef<str> + Ord>,
    there: &BTreeSet<impl AsRef<str> + Ord>,
) {
    let named: BTreeSet<&str> = named.iter().map(AsRef::as_ref).collect();
    let there: BTreeSet<&str> = there.iter().map(AsRef::as_ref).collect();
    let missing: Vec<_> = there.difference(&named).collect();
    let made_up: Vec<_> = named.difference(&there).collect();
    assert!(
        named == there,
        "\n{what}: in the code and not in {SPECIFICATION}: {missing:?}; the other way round: {made_up:?}\n"
    );
}

/// The text between ``` lines.
pub(crate) fn examples() -> Vec<String> {
    let text = text();
    let mut examples = Vec::new();
    let mut lines = text.lines();
    while lines.by_ref().any(|line| line.starts_with("```")) {
        let example: Vec<_> = lines.by_ref().take_while(|line| *line != "```").collect();
        examples.push(example.join("\n"));
    }
    examples
}
