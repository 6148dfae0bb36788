//! What users put in: keys, options, variables, files, signals.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::Command;

use clap::CommandFactory;
use hydrant::cli::Cli;
use serde_json::Value;

use crate::document::{SPECIFICATION, assert_same, assert_table, named, text};
use crate::rust::{self, files, values};
use crate::tree::{backticked, report};

const OWN: &str = "| variable that hydrant reads | for |";
const BY_SDK: &str = "| variable that the AWS SDK reads | for |";
const BY_LIBRARIES: &str = "| variable that a library reads | for |";

/// Words of capitals that are no environment variables.
const NO_VARIABLES: [&str; 7] = [
    "CREATING_FAILED",
    "DELETING_FAILED",
    "ENABLING_FAILED",
    "DISABLING_FAILED",
    // Of this program's own build.
    "CARGO_PKG_VERSION",
    // Ends of the names of what Kubernetes sets, which is ignored.
    "SERVICE_HOST",
    "SERVICE_PORT",
];

#[test]
fn the_table_of_keys_is_what_can_be_set() {
    let schema = hydrant::config::json_schema();
    let aliases: BTreeMap<&str, &str> = (schema["properties"].as_object().unwrap().iter())
        .filter_map(|(alias, inner)| Some((alias_of(inner)?, alias.as_str())))
        .collect();
    let mut rows = Vec::new();
    keys(&schema, "", &aliases, &mut rows);
    assert_table("| key | must be | default | meaning |", &rows);
}

/// The key that `schema` is another spelling of.
fn alias_of(schema: &Value) -> Option<&str> {
    schema["description"].as_str()?.strip_prefix("Alias of `")?.strip_suffix("`.")
}

fn keys(schema: &Value, path: &str, aliases: &BTreeMap<&str, &str>, rows: &mut Vec<String>) {
    let named = schema.get("properties").and_then(Value::as_object).into_iter().flatten();
    let any = schema.get("additionalProperties").filter(|inner| inner.is_object());
    for (name, inner) in named.map(|(name, inner)| (name.as_str(), inner)).chain(any.map(|any| ("NAME", any)))
    {
        let path = if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
        if alias_of(inner).is_some() {
            continue;
        }
        if inner["type"] == "object" {
            keys(inner, &path, aliases, rows);
            continue;
        }
        let alias = aliases.get(path.as_str()).map(|alias| format!(", alias `{alias}`")).unwrap_or_default();
        // Markdown takes a backslash for an escape.
        let must_be = inner["$comment"].as_str().unwrap().replace('\\', "\\\\");
        let (default, meaning) = (&inner["default"], inner["description"].as_str().unwrap());
        rows.push(format!("| `{path}`{alias} | {must_be} | `{default}` | {} |", meaning.replace('\n', " ")));
    }
}

#[test]
fn the_table_of_options_is_what_the_commands_take() {
    let mut rows = Vec::new();
    for (command, arguments) in commands(&Cli::command(), "") {
        for argument in &arguments {
            let value = argument.get_value_names().map(|names| names[0].to_string());
            let value = value.unwrap_or_else(|| argument.get_id().as_str().to_uppercase());
            let name = match argument.get_long() {
                Some(long) if argument.get_action().takes_values() => format!("--{long} {value}"),
                Some(long) => format!("--{long}"),
                None => value,
            };
            let defaults = argument.get_default_values().iter().map(|value| value.to_string_lossy());
            let default = defaults.map(|value| format!("`{value}`")).collect::<String>();
            let help = argument.get_help().map(ToString::to_string).unwrap_or_default();
            let meaning = help.trim_end_matches('.').replace('\n', " ");
            rows.push(format!("| `{command}` | `{name}` | {default} | {meaning} |"));
        }
    }
    assert_table("| command | argument | default | meaning |", &rows);
}

/// Each command below `command`, and below those, with its arguments.
fn commands(command: &clap::Command, above: &str) -> Vec<(String, Vec<clap::Arg>)> {
    let each = command.get_subcommands().flat_map(|command| {
        let name = format!("{above}{}", command.get_name());
        let below = commands(command, &format!("{name} "));
        std::iter::once((name, command.get_arguments().cloned().collect())).chain(below)
    });
    each.collect()
}

#[test]
fn every_command_is_specified() {
    let command = Cli::command();
    let there: BTreeSet<&str> = command.get_subcommands().map(clap::Command::get_name).collect();
    assert_same("commands", &named("| command | what it does | exit code 0 |"), &there);
}

/// What is read by its name, and what is put together: `OTEL_EXPORTER_OTLP_{what}` is any variable
/// that begins so.
#[test]
fn every_variable_that_the_code_reads_is_specified_and_no_other() {
    let literals = values(&["src/"]);
    let mut faults = Vec::new();
    let own = named(OWN);
    for literal in &literals {
        let specified = match composed(literal) {
            Some(start) => own.iter().any(|name| name.starts_with(start)),
            None => {
                !is_variable(literal) || own.contains(literal) || NO_VARIABLES.contains(&literal.as_str())
            }
        };
        if !specified {
            faults.push(format!("{literal} is in the code and not in the table of {SPECIFICATION}: {OWN}"));
        }
    }
    for name in own.iter().filter(|name| !name.starts_with("HYDRANT_") || *name == "HYDRANT_CONFIG") {
        let begins = |literal: &String| composed(literal).is_some_and(|start| name.starts_with(start));
        if !literals.contains(name) && !literals.iter().any(begins) {
            faults.push(format!("{SPECIFICATION}: {name} is read nowhere in src"));
        }
    }
    report(faults);
}

/// Capitals with an underscore in between; or a proxy, whose names are written small too.
fn is_variable(text: &str) -> bool {
    let Some((first, rest)) = text.split_once('_') else { return false };
    let capitals = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
    let proxy = rest == "proxy" && first.chars().all(|c| c.is_ascii_lowercase());
    proxy || !first.is_empty() && !rest.is_empty() && !rest.ends_with('_') && text.chars().all(capitals)
}

/// Where the name of a variable is put together: what it begins with.
fn composed(literal: &str) -> Option<&str> {
    let (start, _) = literal.split_once('{')?;
    is_variable(start.strip_suffix('_')?).then_some(start)
}

/// What cargo says.
fn cargo(args: &[&str]) -> String {
    let output =
        Command::new(env!("CARGO")).args(args).current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The crates that read the environment for hydrant are looked into, where cargo has put them: those of this
/// platform, which are there since the tests were built.
#[test]
fn every_variable_that_a_library_reads_is_in_its_source() {
    let version = cargo(&["-vV"]);
    let host = version.lines().find_map(|line| line.strip_prefix("host: ")).unwrap();
    let metadata =
        cargo(&["metadata", "--format-version=1", "--offline", "--locked", "--filter-platform", host]);
    let metadata: Value = serde_json::from_str(&metadata).unwrap();
    let mut source = String::new();
    for package in metadata["packages"].as_array().unwrap() {
        let readers = [
            "anstyle-query",
            "aws-config",
            "aws-runtime",
            "aws-types",
            "console",
            "listenfd",
            "opentelemetry_sdk",
            "openssl-probe",
            "rustls-native-certs",
            "sd-notify",
            "tracing-subscriber",
        ];
        if readers.contains(&package["name"].as_str().unwrap()) {
            let manifest = PathBuf::from(package["manifest_path"].as_str().unwrap());
            append(&manifest.parent().unwrap().join("src"), &mut source);
        }
    }
    let mut faults = Vec::new();
    for name in named(BY_SDK).union(&named(BY_LIBRARIES)) {
        // The SDK puts the name of a service behind the underscore.
        let composed = name.starts_with("AWS_ENDPOINT_URL_") || name == "TMPDIR";
        if !composed && !source.contains(&format!("\"{name}\"")) {
            faults.push(format!("{SPECIFICATION}: no library that hydrant uses reads {name}"));
        }
    }
    report(faults);
}

fn append(directory: &std::path::Path, text: &mut String) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            append(&path, text);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            text.push_str(&std::fs::read_to_string(path).unwrap());
        }
    }
}

#[test]
fn every_variable_that_is_named_anywhere_is_in_one_of_the_tables() {
    let known: BTreeSet<String> = [OWN, BY_SDK, BY_LIBRARIES].iter().flat_map(|head| named(head)).collect();
    let text = text();
    let named = text.lines().flat_map(backticked).flat_map(rust::words).filter(|word| is_variable(word));
    let named = named.filter(|word| !word.starts_with("HYDRANT_") && !NO_VARIABLES.contains(word));
    let unknown: BTreeSet<&str> = named.filter(|word| !known.contains(*word)).collect();
    assert!(unknown.is_empty(), "{SPECIFICATION} names {unknown:?} in none of its tables of variables");
}

/// Paths that stand in the code as they are; those of the user's choice do not.
#[test]
fn every_file_whose_place_is_fixed_is_specified() {
    let is_path = |literal: &String| {
        ["/etc/", "/proc/", "/sys/"].iter().any(|root| literal.starts_with(root))
            || literal.ends_with(".jsonl")
    };
    let there: BTreeSet<String> = values(&["src/"]).into_iter().filter(is_path).collect();
    assert!(there.len() > 4, "{there:?}");
    let text = text();
    let missing: Vec<_> = there.iter().filter(|path| !text.contains(path.as_str())).collect();
    assert!(missing.is_empty(), "{SPECIFICATION} says nothing of {missing:?}");
}

#[test]
fn every_signal_that_is_obeyed_is_specified_and_no_other() {
    let code: Vec<_> = files(&["src/"]).into_iter().map(|file| file.code).collect();
    let is_signal = |word: &&str| {
        let name = word.strip_prefix("SIG").unwrap_or_default();
        name.len() > 2 && name.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit())
    };
    let there: BTreeSet<&str> = code.iter().flat_map(|code| rust::words(code)).filter(is_signal).collect();
    assert_same("signals", &named("| signal | what the daemon does |"), &there);
}
