//! metadata.yaml: in the form of AWS's code example library, and every reference leads somewhere.
//!
//! The form is that of `example_strict_schema.yaml` in awsdocs/aws-doc-sdk-examples-tools.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use crate::calls::called;
use crate::document::{assert_same, table};
use crate::rust;
use crate::tree::{files_below, numbered, read, report, root, tests};

const METADATA: &str = "metadata.yaml";
const SCENARIOS: [&str; 4] =
    ["single_record_ingestion", "batch_record_ingestion", "error_handling_retries", "monitoring"];

fn metadata() -> Map<String, Value> {
    match yaml_serde::from_str(&read(METADATA)).unwrap_or_else(|error| panic!("{METADATA}: {error}")) {
        Value::Object(entries) => entries,
        other => panic!("{METADATA} is {other}"),
    }
}

/// The one version of the one language of an entry.
fn version(entry: &Value) -> &Value {
    &entry["languages"]["Rust"]["versions"][0]
}

fn excerpts() -> Vec<Value> {
    metadata().values().flat_map(|entry| version(entry)["excerpts"].as_array().unwrap().clone()).collect()
}

/// The texts in the lists called `key` of all excerpts.
fn listed(key: &str) -> BTreeSet<String> {
    let lists = excerpts().into_iter().filter_map(|excerpt| excerpt[key].as_array().cloned());
    lists.flatten().map(|text| text.as_str().unwrap().to_owned()).collect()
}

#[test]
fn the_scenarios_are_those_of_the_specification() {
    let keys: BTreeSet<String> = metadata().keys().cloned().collect();
    assert_eq!(keys, SCENARIOS.map(str::to_owned).into());
    let rows = table("| Action/Scenario | Metadata File | Metadata Key |");
    let in_table: BTreeSet<String> = rows.iter().map(|row| row[2].trim_matches('`').to_owned()).collect();
    assert_eq!(in_table, keys);
    assert!(rows.iter().all(|row| row[1] == "[metadata.yaml](metadata.yaml)"), "{rows:?}");
}

#[test]
fn the_form_is_that_of_awss_code_examples() {
    for (name, entry) in metadata() {
        has(&entry, &["title", "title_abbrev", "synopsis", "category", "languages", "services"], &name);
        for title in ["title", "title_abbrev", "category"] {
            let title = entry[title].as_str().unwrap();
            assert!(begins_upper(title) && !ends(title), "{name}: {title}");
        }
        let synopsis = entry["synopsis"].as_str().unwrap();
        assert!(synopsis.starts_with(|c: char| c.is_lowercase()) && ends(synopsis), "{name}: {synopsis}");
        has(&entry["languages"], &["Rust"], &name);
        has(&entry["languages"]["Rust"], &["versions"], &name);
        has(version(&entry), &["sdk_version", "github", "excerpts"], &name);
        assert_eq!(version(&entry)["sdk_version"], 1, "{name}");
        let folder = version(&entry)["github"].as_str().unwrap();
        assert!(root().join(folder).is_dir(), "{name}: {folder} is no folder of this project");
    }
    for excerpt in excerpts() {
        let list = if excerpt.get("snippet_tags").is_some() { "snippet_tags" } else { "snippet_files" };
        has(&excerpt, &["description", list], "an excerpt");
        let description = excerpt["description"].as_str().unwrap();
        assert!(begins_upper(description) && ends(description), "{description}");
    }
}

/// Fails unless `value` has exactly these members.
fn has(value: &Value, members: &[&str], whose: &str) {
    let there: BTreeSet<&str> = value.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(there, members.iter().copied().collect(), "{whose}");
}

fn begins_upper(text: &str) -> bool {
    text.starts_with(|c: char| c.is_uppercase() || c == '&')
}

fn ends(text: &str) -> bool {
    text.ends_with(['.', '!', '?'])
}

#[test]
fn the_actions_are_those_that_are_called() {
    let mut listed = BTreeSet::new();
    for (name, entry) in metadata() {
        for (service, actions) in entry["services"].as_object().unwrap() {
            assert!(["firehose", "cloudwatch", "sts"].contains(&service.as_str()), "{name}: {service}");
            listed.extend(actions.as_object().unwrap().keys().cloned());
        }
    }
    assert_same("actions (metadata.yaml)", &listed, &called());
}

#[test]
fn every_excerpt_is_marked_in_the_code_and_every_mark_is_an_excerpt() {
    let mut marked = BTreeMap::<String, usize>::new();
    let mut faults = Vec::new();
    for path in files_below(&["src", "tests"], &["rs"]) {
        let mut open = Vec::new();
        for (number, line) in numbered(&read(&path)) {
            let mark = |which: &str| {
                let tag = line.trim().strip_prefix(&format!("// snippet-{which}:["))?;
                tag.strip_suffix(']').map(str::to_owned)
            };
            if let Some(tag) = mark("start") {
                *marked.entry(tag.clone()).or_default() += 1;
                open.push((tag, number));
            } else if let Some(tag) = mark("end") {
                let started = open.pop();
                if started.as_ref().is_none_or(|(other, _)| *other != tag) {
                    faults.push(format!("{path}:{number}: {tag} ends where {started:?} is open"));
                } else if started.is_some_and(|(_, start)| number < start + 4) {
                    faults.push(format!("{path}:{number}: there is next to nothing in {tag}"));
                }
            }
        }
        faults.extend(open.iter().map(|(tag, number)| format!("{path}:{number}: {tag} has no end")));
    }
    faults.extend(
        marked.iter().filter(|(_, times)| **times > 1).map(|(tag, _)| format!("{tag} is there twice")),
    );
    report(faults);
    assert_eq!(listed("snippet_tags"), marked.into_keys().collect(), "left: {METADATA}, right: the code");
}

/// The tests are named where the files are listed that they stand in.
#[test]
fn every_file_and_test_exists() {
    let known = tests();
    let mut faults = Vec::new();
    for (name, entry) in metadata() {
        let mut proofs = 0;
        for excerpt in version(&entry)["excerpts"].as_array().unwrap() {
            let Some(files) = excerpt["snippet_files"].as_array() else { continue };
            let mut text = String::new();
            for file in files.iter().map(|file| file.as_str().unwrap()) {
                if root().join(file).is_file() {
                    text.push_str(&read(file));
                } else {
                    faults.push(format!("{METADATA}: {name}: {file} does not exist"));
                }
            }
            let description = excerpt["description"].as_str().unwrap();
            for test in rust::words(description).filter(|word| word.matches('_').count() > 2) {
                proofs += 1;
                if !known.contains_key(test) || !text.contains(&format!("fn {test}(")) {
                    faults.push(format!("{METADATA}: {name}: the test {test} is not in {files:?}"));
                }
            }
        }
        if proofs == 0 {
            faults.push(format!("{METADATA}: {name} names no test"));
        }
    }
    report(faults);
}
