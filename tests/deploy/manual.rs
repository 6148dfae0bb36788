//! The man page held to the command line, the code and the files that it speaks of.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use clap::CommandFactory;
use hydrant::cli::{Cli, generate};

use crate::python::{or_skipped, output};
use crate::{project, read};

/// Where the page is written.
const PAGE: &str = "src/cli/generate/man.rs";

/// Variables that only crates read: the SDK, and those for systemd and OpenTelemetry.
const READ_BY_CRATES: [&str; 13] = [
    "AWS_ACCESS_KEY_ID",
    "AWS_CONFIG_FILE",
    "AWS_EC2_METADATA_DISABLED",
    "AWS_PROFILE",
    "AWS_REGION",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_SHARED_CREDENTIALS_FILE",
    "LISTEN_FDS",
    "LISTEN_PID",
    "OTEL_RESOURCE_ATTRIBUTES",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
];

/// The page as a reader's eyes have it: without the marks of roff.
fn page() -> String {
    generate::page().replace("\\-", "-").replace("\\fB", "").replace("\\fI", "").replace("\\fR", "")
}

/// One section of the page.
fn section(title: &str) -> String {
    let page = page();
    let head = format!("\n.SH {title}\n");
    let rest = page.split_once(&head).unwrap_or_else(|| panic!("no section {title}")).1;
    rest.split("\n.SH ").next().unwrap().to_owned()
}

/// The words of `text` that are names of variables: capitals and underscores.
fn variables(text: &str) -> BTreeSet<String> {
    let in_name = |c: char| c.is_ascii_uppercase() || c == '_' || c.is_ascii_digit();
    // What ends in an underscore is the beginning of names.
    let words = text.split(|c: char| !in_name(c)).filter(|word| word.contains('_') && !word.ends_with('_'));
    let prefixes = ["AWS_", "HYDRANT_", "LISTEN_", "NO_", "NOTIFY_", "OTEL_", "WATCHDOG_"];
    let is_variable = |word: &&str| {
        word.ends_with("_PROXY") || prefixes.iter().any(|prefix| word.starts_with(prefix) && word != prefix)
    };
    words.filter(is_variable).map(str::to_owned).collect()
}

/// The texts in quotes of the program's sources, without its tests and the page itself.
fn literals() -> String {
    let mut pending = vec![project("src")];
    let mut literals = String::new();
    while let Some(path) = pending.pop() {
        if path.is_dir() {
            pending.extend(fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
        } else if is_product(&path) {
            let text = fs::read_to_string(&path).unwrap();
            let product = text.split("\n#[cfg(test)]\nmod tests {").next().unwrap();
            let code = product.lines().filter(|line| !line.trim_start().starts_with("//"));
            code.for_each(|line| {
                literals.extend(line.split('"').skip(1).step_by(2).flat_map(|word| [word, "\n"]))
            });
        }
    }
    literals
}

fn is_product(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending == "rs")
        && path.file_stem().is_some_and(|name| name != "tests")
        && path != project(PAGE)
}

#[test]
fn the_man_page_has_every_command_and_option() {
    let commands = section("COMMANDS");
    let mut cli = Cli::command();
    cli.build();
    let mut options = 0;
    let below = cli.get_subcommands().flat_map(clap::Command::get_subcommands);
    for command in cli.get_subcommands().chain(below) {
        let name = command.get_bin_name().unwrap();
        let head = format!(".SS \"{name} ");
        let (_, rest) = commands.split_once(&head).unwrap_or_else(|| panic!("no {head}"));
        let part = rest.split("\n.SS ").next().unwrap();
        for argument in command.get_arguments().filter(|argument| argument.get_id() != "help") {
            let name = match argument.get_long() {
                Some(long) => format!("--{long}"),
                None => argument.get_value_names().unwrap()[0].to_string(),
            };
            assert!(part.contains(&format!("\n.TP\n{name}")), "{} {name}", command.get_name());
            options += 1;
        }
    }
    assert!(options > 50, "{options}");
}

#[test]
fn the_man_page_has_every_variable_of_the_environment_and_no_other() {
    let said = variables(&section("ENVIRONMENT"));
    let all = literals();
    let read = variables(&all);
    assert!(read.contains("HYDRANT_CONFIG") && read.contains("OTEL_SERVICE_NAME"), "{read:?}");
    // "Each also with METRICS or TRACES after OTLP", and families whose names end with `…`.
    let general =
        |name: &String| name.replacen("OTLP_METRICS_", "OTLP_", 1).replacen("OTLP_TRACES_", "OTLP_", 1);
    let by_family = |name: &String| {
        name.starts_with("OTEL_BSP_") || (name.starts_with("HYDRANT_") && name != "HYDRANT_CONFIG")
    };
    let unsaid: Vec<_> = read
        .iter()
        .filter(|name| !said.contains(*name) && !said.contains(&general(name)) && !by_family(name))
        .collect();
    assert!(unsaid.is_empty(), "{PAGE} says nothing of {unsaid:?}");
    // Names that are put together of a beginning and a last word.
    let composed = |name: &str| {
        let last = name.rsplit('_').next().unwrap();
        name.starts_with("OTEL_EXPORTER_OTLP_") && all.lines().any(|literal| literal == last)
    };
    let is_read = |name: &str| all.contains(name) || composed(name) || READ_BY_CRATES.contains(&name);
    let unread: Vec<_> = said.iter().filter(|name| !is_read(name)).collect();
    assert!(unread.is_empty(), "{PAGE} names {unread:?}, which nothing reads");
}

#[test]
fn the_man_page_has_every_signal_that_is_heard() {
    let drain = read("src/drain.rs");
    let (_, rest) = drain.split_once("Signals::new([").expect("the signals of src/drain.rs");
    let heard: BTreeSet<_> = rest.split(']').next().unwrap().split(", ").collect();
    let section = section("SIGNALS");
    let terms = section.split(".TP\n").skip(1).map(|entry| entry.lines().next().unwrap());
    let said: BTreeSet<_> = terms.flat_map(|term| term.split(", ")).collect();
    assert_eq!(said, heard);
}

#[test]
fn every_file_of_the_man_page_is_named_by_the_program_or_its_units() {
    let mut text = literals();
    for file in ["hydrant.service", "hydrant.socket", "hydrant.toml"] {
        text += &read(&format!("deploy/systemd/{file}"));
    }
    let section = section("FILES");
    let paths: Vec<_> = section.split(".TP\n").skip(1).map(|entry| entry.lines().next().unwrap()).collect();
    assert!(paths.len() > 5, "{paths:?}");
    // The SDK knows those of the home directory.
    for path in paths.into_iter().filter(|path| !path.starts_with("~/.aws/")) {
        assert!(text.contains(path), "{PAGE} names {path}, and nothing else does");
    }
}

#[test]
fn the_man_page_is_good_roff() {
    let groff = output(Command::new("groff").arg("--version")).map(|_| PathBuf::from("groff"));
    let Some(groff) = or_skipped(&groff) else { return };
    let mut groff = Command::new(groff);
    groff.args(["-k", "-man", "-Tutf8", "-ww", "-z"]);
    let mut child = groff.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(generate::page().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{said}");
}
