//! The calls that are made of AWS, what is sent and read, and the errors.

use std::collections::{BTreeMap, BTreeSet};

use hydrant::firehose::Destination;
use hydrant::local::Operation;
use hydrant::poller::catalog::queries;

use crate::document::{SPECIFICATION, assert_same, assert_table, named, table, text};
use crate::rust::{self, File, camel, files, snake};
use crate::tree::{backticked, report};

pub(crate) const CALLS: &str = "| action | parameters sent | fields read | permission |";

/// The actions of AWS that the code calls through the SDK.
pub(crate) fn called() -> BTreeSet<String> {
    let mut called = BTreeSet::new();
    for file in files(&["src/firehose/"]) {
        let code: String = file.code.split_whitespace().collect();
        for start in ["client.", "from_conf(config)."] {
            for (at, _) in code.match_indices(start) {
                let rest = &code[at + start.len()..];
                let name = rust::words(rest).next().unwrap_or_default();
                if rest[name.len()..].starts_with("().") && rest.starts_with(name) {
                    called.insert(camel(name));
                }
            }
        }
    }
    assert!(called.len() >= 6, "{called:?}");
    called
}

#[test]
fn every_action_that_is_called_is_specified_and_no_other() {
    assert_same("actions", &named(CALLS), &called());
}

/// An action that is named elsewhere is at least one that the embedded service answers.
#[test]
fn every_action_that_is_named_anywhere_is_known() {
    let endings = [
        "DeliveryStream",
        "DeliveryStreams",
        "PutRecord",
        "PutRecordBatch",
        "MetricData",
        "MetricStatistics",
        "Identity",
    ];
    let called = called();
    let text = text();
    let named = text.lines().flat_map(backticked).map(|word| word.rsplit(':').next().unwrap());
    let named = named.filter(|word| {
        endings.iter().any(|ending| word.ends_with(ending)) && !word.contains(['/', ' ', '_'])
    });
    let unknown: BTreeSet<&str> =
        named.filter(|name| !called.contains(*name) && Operation::named(name).is_none()).collect();
    assert!(unknown.is_empty(), "{SPECIFICATION} names {unknown:?}, which nobody calls or answers");
}

#[test]
fn every_parameter_and_field_is_in_the_code() {
    let files = files(&["src/firehose/"]);
    let literals: BTreeSet<String> = files
        .iter()
        .flat_map(File::literals)
        .flat_map(|literal| rust::words(&literal.value).map(str::to_owned).collect::<Vec<_>>())
        .collect();
    let identifiers: BTreeSet<&str> = files.iter().flat_map(|file| rust::words(&file.code)).collect();
    let there = |word: &str| {
        let method = snake(word);
        let setter = format!("set_{method}");
        literals.contains(word)
            || identifiers.contains(method.as_str())
            || identifiers.contains(setter.as_str())
    };
    let mut faults = Vec::new();
    for row in table(CALLS) {
        for word in [&row[1], &row[2]].into_iter().flat_map(|cell| backticked(cell)).flat_map(rust::words) {
            let is_index = word.chars().all(|c| c.is_ascii_digit());
            if !is_index && !there(word) {
                faults.push(format!("{SPECIFICATION}: {}: {word} is nowhere in src/firehose", row[0]));
            }
        }
        for permission in backticked(&row[3]).into_iter().filter(|text| text.contains(':')) {
            let (service, action) = permission.split_once(':').unwrap();
            let known = ["firehose", "cloudwatch", "sts"].contains(&service) && row[0].contains(action);
            if !known {
                faults.push(format!("{SPECIFICATION}: {}: {permission} is no permission for it", row[0]));
            }
        }
    }
    report(faults);
}

/// The members of requests and answers that the code spells out, as far as they are no metric.
#[test]
fn every_member_that_the_code_spells_out_is_specified() {
    let named: BTreeSet<String> = table(CALLS)
        .iter()
        .flat_map(|row| [row[1].clone(), row[2].clone()])
        .flat_map(|cell| rust::words(&cell).map(str::to_owned).collect::<Vec<_>>())
        .collect();
    let mut faults = Vec::new();
    let spelling = ["answer", "body", "cloudwatch", "description", "in_json"];
    for file in files(&spelling.map(|name| format!("src/firehose/{name}.rs")).each_ref().map(String::as_str))
    {
        for literal in file.literals() {
            let before = file.code[..literal.start].trim_end();
            let after = file.code[literal.end..].trim_start();
            let is_member = before.ends_with("get(")
                || before.ends_with('b')
                || literal.value.starts_with('/') && literal.value.len() > 1
                || literal.value.contains("\":")
                || literal.value.ends_with("DestinationDescription")
                || after.starts_with(':') && !after.starts_with("::");
            let members =
                rust::words(&literal.value).filter(|word| word.starts_with(|c: char| c.is_ascii_uppercase()));
            for member in members.filter(|member| is_member && !named.contains(*member)) {
                faults
                    .push(format!("{}: {member} is not in the table of {SPECIFICATION}: {CALLS}", file.path));
            }
        }
    }
    report(faults);
}

#[test]
fn every_metric_that_is_read_is_specified_with_its_statistic() {
    let destinations = [
        Destination::S3,
        Destination::Redshift,
        Destination::OpenSearch,
        Destination::OpenSearchServerless,
        Destination::Splunk,
        Destination::HttpEndpoint,
        Destination::Snowflake,
        Destination::Iceberg,
    ];
    let mut rows = Vec::new();
    let all = destinations.into_iter().flat_map(|destination| queries(Some(destination), true));
    for (reading, query) in all {
        let row = format!("| `{}` | {:?} | `{}` |", query.metric, query.statistic, reading.key());
        if !rows.contains(&row) {
            rows.push(row);
        }
    }
    assert_table("| metric in `AWS/Firehose` | statistic | reading |", &rows);
}

#[test]
fn every_error_code_is_specified_with_its_class() {
    let mut specified = BTreeSet::new();
    for row in table("| class | error codes | what is done |") {
        for code in backticked(&row[1]) {
            let new = specified.insert(format!("{code}: {}", row[0].trim_matches('`')));
            assert!(new, "{SPECIFICATION}: {code} stands twice");
        }
    }
    let code = &files(&["src/firehose/classify.rs"])[0].code;
    let (_, list) = code.split_once("const CODES: &[(&str, Class)] = &[").unwrap();
    let (list, _) = list.split_once("];").unwrap();
    let there: BTreeSet<String> = list
        .lines()
        .filter_map(|line| {
            let (code, class) = line.trim().strip_prefix("(\"")?.split_once("\", Class::")?;
            Some(format!("{code}: {}", class.trim_end_matches("),").to_lowercase()))
        })
        .collect();
    assert_same("error codes", &specified, &there);
}

/// Codes that are hydrant's own: words that it passes on as such, and are none of the service's.
#[test]
fn every_code_of_hydrants_own_is_specified_and_no_other() {
    let services: BTreeMap<String, String> = table("| class | error codes | what is done |")
        .iter()
        .flat_map(|row| {
            backticked(&row[1]).into_iter().map(|code| (code.to_owned(), row[0].clone())).collect::<Vec<_>>()
        })
        .collect();
    let mut there = BTreeSet::new();
    for file in files(&["src/firehose/", "src/sender/"]) {
        for literal in file.literals() {
            let before = file.code[..literal.start].trim_end();
            let after = &file.code[literal.end..];
            let passed_on = ["Cow::Borrowed(", "transient(", "unsettled(", "Cow::Owned(format!("];
            let passed_on = passed_on.iter().any(|call| before.ends_with(call));
            // Of an abandoned record.
            let letter = before.ends_with("letter(portion,") && after.starts_with(".into()");
            if (passed_on || letter) && !literal.value.is_empty() && !services.contains_key(&literal.value) {
                there.insert(literal.value.replace("{status}", "STATUS"));
            }
        }
    }
    assert_same("codes of hydrant's own", &named("| code of hydrant's own | class | when |"), &there);
}
