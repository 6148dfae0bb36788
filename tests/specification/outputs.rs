//! What comes out: the log, `/status`, the paths of the admin listener.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use hydrant::admin::status::{self, About};
use hydrant::admin::{self};
use hydrant::telemetry::figures::{PackingState, Trouble};
use hydrant::telemetry::now;
use serde_json::Value;

use crate::document::{SPECIFICATION, assert_same, examples, named, table};
use crate::figures;
use crate::rust::{self, events, files};
use crate::tree::{backticked, report};

const MESSAGES: &str = "| message | level | fields | when |";

/// A message with its levels and fields.
type Messages = BTreeMap<String, (BTreeSet<String>, BTreeSet<String>)>;

fn specified() -> Messages {
    let set = |cell: &str| backticked(cell).into_iter().map(str::to_owned).collect::<BTreeSet<_>>();
    let mut messages = Messages::new();
    for row in table(MESSAGES) {
        // A message may have backticks in it, and is then in two of them.
        let message = row[0].trim_matches('`').trim().to_owned();
        let levels = row[1].split(", ").map(str::to_owned).collect();
        let twice = messages.insert(message, (levels, set(&row[2])));
        assert!(twice.is_none(), "{SPECIFICATION}: {} has two rows", row[0]);
    }
    messages
}

#[test]
fn every_message_is_specified_with_its_levels_and_fields_and_no_other() {
    let mut there = Messages::new();
    for event in files(&["src/"]).iter().flat_map(events) {
        let (levels, fields) = there.entry(event.message).or_default();
        levels.insert(event.level);
        fields.extend(event.fields);
    }
    assert!(there.len() > 30, "only {} messages were found", there.len());
    let specified = specified();
    assert_same("messages", &specified.keys().collect(), &there.keys().collect());
    let different = there.iter().filter(|(message, said)| specified[*message] != **said);
    report(different.map(|(message, said)| format!("{SPECIFICATION}: `{message}` has {said:?}")).collect());
}

#[test]
fn every_example_of_the_log_could_have_been_said() {
    let specified = specified();
    let mut count = 0;
    let mut faults = Vec::new();
    for line in examples().iter().flat_map(|example| example.lines()) {
        let Ok(Value::Object(said)) = serde_json::from_str(line) else { continue };
        let Some(message) = said.get("message").and_then(Value::as_str) else { continue };
        count += 1;
        let Some((levels, fields)) = specified.get(message) else {
            faults.push(format!("{SPECIFICATION}: the example {message:?} has no row"));
            continue;
        };
        let level = said["level"].as_str().unwrap();
        let known = |field: &&String| {
            ["timestamp", "level", "message"].contains(&field.as_str()) || fields.contains(*field)
        };
        if !levels.contains(level) || !said.keys().all(|field| known(&field)) {
            faults.push(format!("{SPECIFICATION}: {line} does not fit its row: {levels:?} {fields:?}"));
        }
    }
    assert!(count >= 15, "only {count} examples were found");
    report(faults);
}

/// Members by their path; of those whose names are data, such as error codes, one stands for all.
#[test]
fn every_member_of_the_status_is_specified_and_no_other() {
    let figures = figures::full();
    figures.sender().state.trouble = Some(Trouble {
        permanent: false,
        code: "ThrottlingException".into(),
        message: "throttled".to_owned(),
        since: now(),
    });
    figures.sender().state.packing =
        Some(PackingState { packed: true, reason: "S3 takes records as one text".to_owned() });
    figures.set_listeners(vec![("app".to_owned(), "stdin:".to_owned())]);
    let about = About {
        delivery_stream_name: "app".to_owned(),
        memory_bytes: 1,
        max_in_flight: 8,
        monitor_interval: Some(Duration::from_secs(60)),
    };
    let context = admin::Context { figures: Arc::new(figures), about: Arc::new(about) };
    let mut there = BTreeSet::new();
    members(&status::status(&context, now()), "", &mut there);
    assert_same("members of /status", &named("| member of `/status` | what it is |"), &there);
}

fn members(value: &Value, path: &str, paths: &mut BTreeSet<String>) {
    match value {
        Value::Object(members_of) if !members_of.is_empty() => {
            for (name, inner) in members_of {
                let name = match path {
                    "/stream/requests" => "CALL",
                    "/stream/requests/CALL" => "OUTCOME",
                    "/stream/retried" => "CODE",
                    "/ledger/dropped" | "/ledger/rejected" => "REASON",
                    "/monitor/problems" => "ACTION",
                    "/monitor/readings" => "READING",
                    _ => name,
                };
                members(inner, &format!("{path}/{name}"), paths);
            }
        }
        Value::Array(values) if values.iter().all(Value::is_object) && !values.is_empty() => {
            values.iter().for_each(|value| members(value, &format!("{path}/0"), paths));
        }
        Value::Object(_) if path == "/monitor/problems" => drop(paths.insert(format!("{path}/ACTION"))),
        // Null where the stream was never looked at.
        Value::Null if path.starts_with("/monitor/readings/") => {}
        _ => drop(paths.insert(path.to_owned())),
    }
}

#[test]
fn every_path_of_the_admin_listener_is_specified_and_no_other() {
    let code = &files(&["src/admin/mod.rs"])[0];
    let arms = code.literals().into_iter().filter(|literal| {
        let follows = code.code[literal.end..].trim_start();
        literal.value.starts_with('/') && (follows.starts_with("=>") || follows.starts_with('|'))
    });
    let there: BTreeSet<String> = arms.map(|literal| literal.value).collect();
    assert_same("paths of the admin listener", &named("| path | answer |"), &there);
}

#[test]
fn every_member_of_a_dead_letter_is_specified_and_no_other() {
    let example = examples()
        .into_iter()
        .find(|example| example.contains("\"attempts\"") && example.contains("\"data\""));
    let letter: Value =
        serde_json::from_str(example.expect("an example of a dead letter").lines().next().unwrap()).unwrap();
    let named: BTreeSet<&str> = letter.as_object().unwrap().keys().map(String::as_str).collect();
    let code = &files(&["src/sender/dead_letter.rs"])[0];
    let keys = code.literals().into_iter().filter(|literal| code.code[literal.end..].starts_with(':'));
    let there: BTreeSet<String> = keys.map(|literal| literal.value).collect();
    assert_same("members of a dead letter", &named, &there);
}

#[test]
fn the_ledger_is_the_one_of_the_metrics() {
    let ledger = examples().into_iter().find(|example| example.starts_with("hydrant_records_received_total"));
    let columns = [
        "received_total",
        "recovered_total",
        "delivered_total",
        "dead_lettered_total",
        "dropped_total",
        "held",
    ];
    let expected: BTreeSet<String> =
        columns.iter().map(|column| format!("hydrant_records_{column}")).collect();
    let ledger = ledger.expect("the equation as an example");
    let named: BTreeSet<String> = rust::words(&ledger).map(str::to_owned).collect();
    assert_same("columns of the ledger", &named, &expected);
}
