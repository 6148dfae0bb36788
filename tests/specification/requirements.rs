//! The numbered requirements, and the tests that prove them.

use std::collections::{BTreeMap, BTreeSet};

use crate::document::{SPECIFICATION, table};
use crate::rust;
use crate::tree::{backticked, files_below, numbered, read, report, tests};

const REQUIREMENTS: &str = "| number | requirement | proved by |";

/// Each number with the tests that its row names.
fn requirements() -> BTreeMap<String, BTreeSet<String>> {
    let mut requirements = BTreeMap::new();
    for row in table(REQUIREMENTS) {
        let tests = backticked(&row[2]).into_iter().map(str::to_owned).collect();
        let twice = requirements.insert(row[0].clone(), tests);
        assert!(twice.is_none(), "{SPECIFICATION}: there are two requirements {}", row[0]);
    }
    requirements
}

#[test]
fn requirements_are_numbered_without_gaps() {
    let mut last = BTreeMap::<String, u32>::new();
    for row in table(REQUIREMENTS) {
        let (group, number) = row[0].split_at("R-X".len());
        let expected = last.entry(group.to_owned()).or_default();
        *expected += 1;
        assert_eq!(number.parse(), Ok(*expected), "{SPECIFICATION}: {}", row[0]);
    }
}

/// So whoever changes a test sees what it is for, and whoever reads a requirement what it is worth.
#[test]
fn requirements_and_tests_name_each_other() {
    let (requirements, tests) = (requirements(), tests());
    let mut faults = Vec::new();
    for (number, names) in &requirements {
        if names.is_empty() {
            faults.push(format!("{SPECIFICATION}: {number} names no test"));
        }
        for name in names.iter().filter(|name| !tests.contains_key(*name)) {
            faults.push(format!("{SPECIFICATION}: {number}: no test is named {name}"));
        }
    }
    for (name, numbers) in &tests {
        let expected = requirements.iter().filter(|(_, names)| names.contains(name));
        let expected: BTreeSet<String> = expected.map(|(number, _)| number.clone()).collect();
        if *numbers != expected {
            let comment = expected.into_iter().collect::<Vec<_>>().join(", ");
            faults.push(format!(
                "{name}: the comment above it must be `// {comment}`, or none without a number"
            ));
        }
    }
    report(faults);
}

#[test]
fn every_requirement_that_is_named_anywhere_exists() {
    let known = requirements();
    let mut files = files_below(&["src", "tests", "docs"], &["rs", "md"]);
    files.push(SPECIFICATION.to_owned());
    let mut faults = Vec::new();
    for path in files {
        for (line, text) in numbered(&read(&path)) {
            for (at, _) in text.match_indices("R-") {
                let word = rust::words(&text[at + 2..]).next().unwrap_or_default();
                let number = format!("R-{word}");
                let is_number = text[at + 2..].starts_with(word)
                    && word.len() > 1
                    && word[..1].chars().all(|c| c.is_ascii_uppercase())
                    && word[1..].chars().all(|c| c.is_ascii_digit());
                if is_number && !known.contains_key(&number) {
                    faults.push(format!("{path}:{line}: there is no requirement {number}"));
                }
            }
        }
    }
    report(faults);
}
