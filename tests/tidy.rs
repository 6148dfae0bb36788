//! Holds the house to its map and the documents to the code.
//!
//! What is checked by reading text is checked line by line: comments and `#[cfg(test)]` code of
//! `src` count for nothing unless a check says so. Each failure lists every place at fault as
//! `file:line` with what to do.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use figment::Figment;
use figment::providers::{Format, Toml};
use hydrant::telemetry::families::{Family, Kind, families};
use hydrant::telemetry::now;
use serde_json::Value;

#[path = "support/figures.rs"]
#[allow(unreachable_pub, reason = "other tests and a benchmark use it too")]
mod figures;
#[path = "support/tree.rs"]
#[allow(unreachable_pub, dead_code, reason = "another test uses the rest of it")]
mod tree;

use tree::{Source, backticked, cells, files_below, numbered, read, report, root, sources, tests};

const ARCHITECTURE: &str = "docs/ARCHITECTURE.md";
const SEMANTICS: &str = "docs/SEMANTICS.md";
const MONITORING: &str = "docs/MONITORING.md";

/// Rooms that every room may use.
const FOUNDATION: [&str; 3] = ["record", "budget", "limits"];
/// Rooms that shells may use besides: every file but the [`PURE`] ones.
const FOR_SHELLS: [&str; 2] = ["config", "telemetry"];

/// The crates that reach AWS, for rooms that may import `aws_*`.
const SDK: [&str; 3] = ["aws_sdk_", "aws_config", "aws_smithy_runtime"];

/// Rooms and files that know no tokio, file, socket, clock or source of chance: `now` and the
/// generator are their arguments.
const PURE: [&str; 60] = [
    "src/admin/stuck.rs",
    "src/batcher/",
    "src/buffer/ledger.rs",
    "src/buffer/routes.rs",
    "src/buffer/stamp.rs",
    "src/cli/dead_letter/letters.rs",
    "src/cli/dead_letter/wire.rs",
    "src/cli/send/counts.rs",
    "src/cli/send/lines.rs",
    "src/cli/send/window.rs",
    "src/cli/top/model.rs",
    "src/cli/top/rows.rs",
    "src/cli/top/session.rs",
    "src/cli/top/theme.rs",
    "src/cli/top/view.rs",
    "src/cli/top/words.rs",
    "src/config/layer.rs",
    "src/config/problem.rs",
    "src/config/resolve.rs",
    "src/config/schema.rs",
    "src/config/table.rs",
    "src/firehose/answer.rs",
    "src/firehose/body.rs",
    "src/firehose/classify.rs",
    "src/firehose/description.rs",
    "src/firehose/sha256",
    "src/framing/",
    "src/limits.rs",
    "src/listener/rate.rs",
    "src/listener/read_size.rs",
    "src/listener/requests/signature.rs",
    "src/local/api.rs",
    "src/local/cloudwatch/",
    "src/local/faults.rs",
    "src/local/quota.rs",
    "src/local/service.rs",
    "src/local/store.rs",
    "src/local/stream.rs",
    "src/poller/catalog.rs",
    "src/poller/plan.rs",
    "src/poller/publication.rs",
    "src/record.rs",
    "src/sender/backoff.rs",
    "src/sender/bucket.rs",
    "src/sender/compression.rs",
    "src/sender/fill.rs",
    "src/sender/gate.rs",
    "src/sender/pacer/",
    "src/sender/packing.rs",
    "src/sender/quota.rs",
    "src/sender/verdicts.rs",
    "src/spool/layout.rs",
    "src/spool/watermark.rs",
    "src/telemetry/families.rs",
    "src/telemetry/histogram.rs",
    "src/telemetry/history.rs",
    "src/telemetry/otlp/metrics.rs",
    "src/telemetry/otlp/settings.rs",
    "src/telemetry/quiet.rs",
    "src/telemetry/stream.rs",
];

/// What pure code does not name. `fastrand::Rng` as a type and `Rng::with_seed` are no chance.
const IMPURE: [&str; 14] = [
    "tokio",
    "async ",
    "std::fs",
    "std::net",
    "std::env",
    "std::thread",
    "std::process",
    "Instant::now",
    "SystemTime::now",
    ".elapsed()",
    "telemetry::now",
    "wall_clock",
    "Rng::new",
    "fastrand::",
];

#[test]
fn rooms_import_what_the_map_allows_and_nothing_else() {
    let map = Map::read();
    let mut faults = Vec::new();
    let mut used = BTreeSet::new();
    // lib.rs only says which rooms there are.
    for file in sources().into_iter().filter(|file| file.path != "src/lib.rs") {
        let room = file.room();
        let Some(allowed) = map.0.get(&room) else {
            faults.push(format!("{}: `{room}` is no room of the table in {ARCHITECTURE}: add it", file.path));
            continue;
        };
        for (number, line) in &file.product {
            for other in file.rooms_named(line) {
                used.insert((room.clone(), other.clone()));
                let pure = is_pure(&file.path);
                if other == room
                    || FOUNDATION.contains(&other.as_str())
                    || !pure && FOR_SHELLS.contains(&other.as_str())
                    || allowed.contains(&other)
                {
                    continue;
                }
                if other.is_empty() {
                    faults.push(format!("{}:{number}: write one `use` a room, for the eye too", file.path));
                    continue;
                }
                faults.push(format!(
                    "{}:{number}: `{room}` may not import `{other}`: turn the dependency round, or argue the edge in {ARCHITECTURE}, \"Rooms\"",
                    file.path
                ));
            }
            if !allowed.contains("aws_*") && SDK.iter().any(|sdk| line.contains(sdk)) {
                faults.push(format!(
                    "{}:{number}: `{room}` may not use the AWS SDK: let `firehose` do it",
                    file.path
                ));
            }
        }
    }
    for (room, allowed) in map.0.iter().filter(|(_, allowed)| !allowed.contains("*")) {
        for other in allowed.iter().filter(|other| *other != "aws_*") {
            if !used.contains(&(room.clone(), other.clone())) {
                faults.push(format!(
                    "{ARCHITECTURE}: `{room}` may import `{other}`, but does not: remove it from the table"
                ));
            }
        }
    }
    report(faults);
}

#[test]
fn pure_files_name_no_clock_no_io_and_no_source_of_chance() {
    let mut faults = Vec::new();
    let files = sources();
    for pure in PURE.iter() {
        if !files.iter().any(|file| file.path.starts_with(pure)) {
            faults.push(format!("{pure}: listed as pure and not there: correct the list in tests/tidy.rs"));
        }
    }
    for file in files.iter().filter(|file| is_pure(&file.path)) {
        for (number, line) in &file.product {
            let line = line.replace("fastrand::Rng", "Rng");
            for word in IMPURE.iter().filter(|word| line.contains(**word)) {
                faults.push(format!(
                    "{}:{number}: pure code names `{word}`: take what it gives as an argument",
                    file.path
                ));
            }
        }
    }
    report(faults);
}

#[test]
fn every_module_opens_with_what_it_is_for() {
    let without = sources().into_iter().filter(|file| !file.text.starts_with("//! "));
    report(without.map(|file| format!("{}:1: open it with a `//!` line", file.path)).collect());
}

#[test]
fn nothing_is_put_off_or_ignored() {
    // In two parts, so that this list does not find itself.
    let words = [("TO", "DO"), ("FIX", "ME"), ("XX", "X"), ("#[ig", "nore"), ("unimple", "mented!")];
    let words = words.map(|(first, rest)| [first, rest].concat());
    let mut faults = Vec::new();
    for path in project_files(&["rs", "md", "toml", "py", "js", "ts", "run", "yml", "sh"]) {
        for (number, line) in numbered(&read(&path)) {
            for word in words.iter().filter(|word| line.contains(*word)) {
                faults
                    .push(format!("{path}:{number}: `{word}`: do it, or file an issue and remove the line"));
            }
        }
    }
    report(faults);
}

#[test]
fn every_relative_link_of_a_document_leads_somewhere() {
    let mut faults = Vec::new();
    for path in project_files(&["md"]) {
        let directory = Path::new(&path).parent().unwrap();
        for (number, line) in numbered(&read(&path)) {
            for link in between(line, "](", ')').into_iter().filter(|link| !link.contains("://")) {
                let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
                let target =
                    if file.is_empty() { path.clone() } else { directory.join(file).display().to_string() };
                if !root().join(&target).exists() {
                    faults.push(format!(
                        "{path}:{number}: {target} does not exist: write it, or correct the link"
                    ));
                } else if !anchor.is_empty() && !anchors(&read(&target)).contains(anchor) {
                    faults.push(format!("{path}:{number}: {target} has no heading for #{anchor}"));
                }
            }
        }
    }
    report(faults);
}

#[test]
fn every_metric_that_a_document_names_is_exported() {
    let families = families(&figures::full(), now());
    let families: BTreeSet<&str> = families.iter().map(|family| family.base).collect();
    assert!(families.contains("hydrant_records_held"), "{families:?}");
    let exported = |name: &str| {
        let suffixes = ["", "_total", "_bucket", "_sum", "_count"];
        suffixes.iter().any(|suffix| name.strip_suffix(suffix).is_some_and(|base| families.contains(base)))
    };
    let mut faults = Vec::new();
    for path in documents() {
        for (number, line) in numbered(&read(&path)) {
            for name in words(line, "hydrant_").into_iter().filter(|name| !exported(name)) {
                faults.push(format!("{path}:{number}: no metric is named {name}"));
            }
        }
    }
    report(faults);
}

/// So a name, a type or a label that changes is seen where operators look it up.
// R-M13
#[test]
fn the_table_of_metrics_is_what_is_exported() {
    let row = |family: &Family| {
        let kind = match family.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        let unit = match family.unit {
            "1" => "",
            "By" => "bytes",
            "By/s" => "bytes/s",
            "s" => "seconds",
            "{record}" => "records",
            "{record}/s" => "records/s",
            "{request}" => "requests",
            "{request}/s" => "requests/s",
            "{connection}" => "connections",
            "{pause}" => "pauses",
            "{stream}" => "streams",
            "{spool}" => "spools",
            other => panic!("{}: the unit {other} has no word: give it one here", family.base),
        };
        let point = family.points.first();
        let point =
            point.unwrap_or_else(|| panic!("{}: give it a value in tests/support/figures.rs", family.base));
        let labels = point.labels.iter().map(|(label, _)| format!("`{label}`"));
        let labels = labels.collect::<Vec<_>>().join(", ");
        format!("| `{}` | {kind} | {unit} | {labels} | {} |", family.name(), family.help)
    };
    let expected: Vec<String> = families(&figures::full(), now()).iter().map(row).collect();
    let found = table("| name | type | unit | labels | meaning |");
    assert!(found == expected, "{MONITORING}: the table of metrics must be\n{}\n", expected.join("\n"));
}

/// Of labels from closed sets; error codes are the service's.
// R-L2
#[test]
fn the_table_of_labels_has_every_value_that_is_exported() {
    let mut expected = Vec::<String>::new();
    for family in families(&figures::full(), now()) {
        let mut values = BTreeMap::<&str, Vec<String>>::new();
        for (label, value) in family.points.iter().flat_map(|point| &point.labels) {
            let (values, value) = (values.entry(label).or_default(), format!("`{value}`"));
            if !values.contains(&value) {
                values.push(value);
            }
        }
        let open = ["error_code", "delivery_stream_name", "version"];
        for (label, values) in values.into_iter().filter(|(label, _)| !open.contains(label)) {
            expected.push(format!("| `{}` | `{label}` | {} |", family.name(), values.join(", ")));
        }
    }
    let found = table("| metric | label | values |");
    assert!(found == expected, "{MONITORING}: the table of labels must be\n{}\n", expected.join("\n"));
}

/// The rows of the table of [`MONITORING`] that has this head.
fn table(head: &str) -> Vec<String> {
    let text = read(MONITORING);
    let rows = text.lines().skip_while(|line| *line != head).skip(2);
    rows.take_while(|line| line.starts_with('|')).map(str::to_owned).collect()
}

/// A key is recognised by its dots: a word in backticks such as `` `retry.max_delay` ``, perhaps
/// with ` = value`. `listen.NAME.key` takes any name.
#[test]
fn every_configuration_key_that_a_document_names_exists() {
    let schema = hydrant::config::json_schema();
    let known = |key: &str| {
        let mut at = &schema;
        key.split('.').all(|name| {
            let inner = at.pointer(&format!("/properties/{name}"));
            match inner.or_else(|| at.get("additionalProperties").filter(|inner| inner.is_object())) {
                Some(inner) => at = inner,
                None => return false,
            }
            true
        })
    };
    assert!(known("retry.max_delay") && known("listen.app.address") && !known("retry.max_dalay"));
    let file_endings = ["rs", "toml", "md", "json", "jsonl", "yaml", "sock", "py", "js", "ts", "lock", "log"];
    let mut faults = Vec::new();
    for path in documents() {
        for (number, line) in numbered(&read(&path)) {
            for word in backticked(line) {
                let key = word.split([' ', '=']).next().unwrap();
                let segments: Vec<_> = key.split('.').collect();
                let plain = |segment: &&str| {
                    !segment.is_empty()
                        && segment.bytes().all(|byte| byte.is_ascii_alphabetic() || byte == b'_')
                };
                let is_key = segments.len() > 1
                    && segments.iter().all(plain)
                    && segments[0].bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
                    && !file_endings.contains(segments.last().unwrap());
                if is_key && !known(key) {
                    faults.push(format!("{path}:{number}: `{key}` is no configuration key"));
                }
            }
        }
    }
    report(faults);
}

/// The promises stand in tables whose last column is headed "held by"; each row names there, in
/// backticks, the functions of one or more tests.
#[test]
fn every_promise_names_tests_that_exist() {
    let tests = tests();
    let mut faults = Vec::new();
    let mut promises = 0;
    let mut in_table = false;
    for (number, line) in numbered(&read(SEMANTICS)) {
        let Some(cells) = cells(line) else {
            in_table = false;
            continue;
        };
        let last = cells.last().unwrap();
        if last == "held by" {
            in_table = true;
        } else if in_table && !last.trim_matches(['-', ':']).is_empty() {
            promises += 1;
            let names = backticked(last);
            if names.is_empty() {
                faults.push(format!("{SEMANTICS}:{number}: the promise names no test in its last column"));
            }
            for name in names.into_iter().filter(|name| !tests.contains_key(*name)) {
                faults.push(format!("{SEMANTICS}:{number}: no test is named `{name}`: name one that is"));
            }
        }
    }
    if promises == 0 {
        faults.push(format!("{SEMANTICS}: no table has a last column headed \"held by\""));
    }
    report(faults);
}

#[test]
fn every_direct_dependency_is_used_and_has_its_reason_in_the_architecture() {
    let manifest: Value = Figment::from(Toml::string(&read("Cargo.toml"))).extract().unwrap();
    let architecture = read(ARCHITECTURE);
    let section = architecture.split("\n## ").find(|section| section.starts_with("Dependencies")).unwrap();
    let reasons: BTreeSet<&str> =
        section.split(|c: char| !c.is_ascii_alphanumeric() && c != '-' && c != '_').collect();
    let mut faults = Vec::new();
    let mut direct = BTreeSet::new();
    let of_targets = manifest["target"].as_object().unwrap().values().map(|target| &target["dependencies"]);
    let tables =
        std::iter::once(&manifest["dependencies"]).chain(of_targets).map(|table| (table, &["src"][..]));
    for (table, folders) in tables.chain([(&manifest["dev-dependencies"], &["src", "tests", "benches"][..])])
    {
        for name in table.as_object().unwrap().keys() {
            direct.insert(name.as_str());
            if !reasons.contains(name.as_str()) {
                faults.push(format!(
                    "Cargo.toml: {name} has no line in {ARCHITECTURE}, \"Dependencies\": write it"
                ));
            }
            let ident = name.replace('-', "_");
            let uses = |path: &String| !words(&read(path), &ident).is_empty();
            if !files_below(folders, &["rs"]).iter().filter(|path| *path != "tests/tidy.rs").any(uses) {
                faults.push(format!("Cargo.toml: {name} is not used in {folders:?}: remove it"));
            }
        }
    }
    for (number, line) in numbered(section) {
        let names = cells(line).unwrap_or_default().first().cloned().unwrap_or_default();
        for name in
            names.split(", ").filter(|name| !name.is_empty() && *name != "crate" && !name.starts_with('-'))
        {
            if !direct.contains(name) {
                faults.push(format!(
                    "{ARCHITECTURE}, \"Dependencies\", line {number}: {name} is not in Cargo.toml"
                ));
            }
        }
    }
    report(faults);
}

/// Which rooms each room may import besides the foundation: the table of [`ARCHITECTURE`].
struct Map(BTreeMap<String, BTreeSet<String>>);

impl Map {
    fn read() -> Self {
        let text = read(ARCHITECTURE);
        let rows: Vec<_> = text.lines().filter_map(cells).collect();
        let start = rows.iter().position(|row| row[0] == "room").expect("the table of rooms");
        let rows: Vec<_> =
            rows[start + 2..].iter().take_while(|row| row.len() == 3 && row[0] != "crate").collect();
        let names = |cell: &str| -> Vec<String> {
            let name = |name: &str| name.trim_end_matches('/').trim_end_matches(".rs").to_owned();
            backticked(cell).into_iter().map(name).collect()
        };
        let every: BTreeSet<String> = rows.iter().flat_map(|row| names(&row[0])).collect();
        let mut map = BTreeMap::new();
        for row in rows {
            let cell = names(&row[2]).into_iter().collect::<BTreeSet<_>>();
            // `*` remembers that the cell named no single room.
            let allowed = match row[2].starts_with("any room") {
                true => every.difference(&cell).cloned().chain(["*", "aws_*"].map(str::to_owned)).collect(),
                false => cell,
            };
            map.extend(names(&row[0]).into_iter().map(|room| (room, allowed.clone())));
        }
        Self(map)
    }
}

impl Source {
    /// The first module of the file's path.
    fn room(&self) -> String {
        self.path["src/".len()..].split('/').next().unwrap().trim_end_matches(".rs").to_owned()
    }

    /// The rooms that a line of this file names by a path from the crate's root; a list in braces
    /// is a room without a name.
    fn rooms_named(&self, line: &str) -> Vec<String> {
        let modules = self.path["src/".len()..].trim_end_matches(".rs").trim_end_matches("/mod");
        let depth = modules.split('/').count();
        let to_root = "super::".repeat(depth);
        let mut rooms = Vec::new();
        // main.rs is a crate of its own.
        let crate_name = if self.path == "src/main.rs" { "hydrant::" } else { "crate::" };
        for prefix in [crate_name, &to_root] {
            for (at, _) in line.match_indices(prefix) {
                let before = line[..at].chars().next_back();
                if before.is_some_and(|before| before.is_alphanumeric() || "_:".contains(before)) {
                    continue;
                }
                let rest = &line[at + prefix.len()..];
                rooms.push(rest.chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect());
            }
        }
        rooms
    }
}

fn is_pure(path: &str) -> bool {
    PURE.iter().any(|pure| path.starts_with(pure))
}

/// What users read.
fn documents() -> Vec<String> {
    let mut documents = files_below(&["docs"], &["md"]);
    documents.extend(["README.md", "SPECIFICATION.md"].map(str::to_owned));
    documents
}

/// The project's own files with one of `endings`, as paths below the root, ascending.
fn project_files(endings: &[&str]) -> Vec<String> {
    files_below(&[""], endings)
}

/// Everything in `line` between `open` and the next `close`.
fn between<'a>(line: &'a str, open: &str, close: char) -> Vec<&'a str> {
    line.split(open).skip(1).filter_map(|rest| rest.split_once(close)).map(|(inside, _)| inside).collect()
}

/// The words of letters, digits and underscores in `text` that start with `prefix`, itself not
/// inside a word or a path, and go on after it unless it is a word.
fn words<'a>(text: &'a str, prefix: &str) -> Vec<&'a str> {
    let in_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.match_indices(prefix)
        .filter(|(at, _)| !text[..*at].ends_with(|c| in_word(c) || "-/:".contains(c)))
        .map(|(at, _)| text[at..].split(|c| !in_word(c)).next().unwrap())
        .filter(|word| (word.len() > prefix.len()) == prefix.ends_with('_'))
        .collect()
}

/// The anchors of a document's headings, as GitHub makes them.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings = text.lines().filter(|line| line.starts_with('#'));
    let slug = |heading: &str| {
        let kept = heading.trim_start_matches('#').trim().to_lowercase();
        kept.chars()
            .filter(|c| c.is_alphanumeric() || "-_ ".contains(*c))
            .collect::<String>()
            .replace(' ', "-")
    };
    headings.map(slug).collect()
}
