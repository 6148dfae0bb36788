//! The table of keys for others: as JSON Schema, as a list, and as the commented reference file.

use schemars::generate::SchemaSettings;
use serde_json::{Value as Json, json};

use super::table::{ALIASES, Table, join};

/// Values that the reference file sets, because their keys have no default.
const EXAMPLES: [(&str, &str); 2] =
    [("delivery_stream_name", "my-stream"), ("listen.*.address", "unix:/run/hydrant/app.sock")];

/// Name of the listener in the reference file.
const EXAMPLE_LISTENER: &str = "app";

const OPENING: &str = "\
# Reference of hydrant's configuration: every key with its default.
#
# A line that begins with `#` and a key is that key with its default. The same text comes from
# `hydrant schema --toml`; `hydrant check` shows what is in force and which layer it is from.
#
# Later layers win: these defaults; the file (`--config FILE`, else $HYDRANT_CONFIG, else
# /etc/hydrant/hydrant.toml if it exists); the environment (`HYDRANT_RETRY__MAX_DELAY=10s` sets
# `retry.max_delay`, `HYDRANT_LISTEN__APP__ADDRESS` sets the address of the listener `app`);
# `--set retry.max_delay=10s`. YAML is read from files ending in .yaml or .yml. In the environment
# and in `--set`, text stands without quotes; TOML's quotes keep blanks and escapes: `'\"\\t\"'`.
#
# Variables that Kubernetes sets for a service called `hydrant` (HYDRANT_SERVICE_HOST,
# HYDRANT_PORT_9464_TCP and so on) are ignored; every other HYDRANT_ variable must be a key.
";

/// A row of the table of keys.
struct Row {
    /// Dotted; `*` is the name of a listener.
    path: String,
    meaning: String,
    rest: Rest,
}

/// What a row is beside its name and meaning.
enum Rest {
    /// The head of a table.
    Table,
    /// A key, with the values that it may have and its default.
    Key { expected: String, default: Json },
}

/// Every table and key in the order of the table of keys; a table stands before its keys.
fn rows() -> Vec<Row> {
    fn inside(schema: &Json, path: &str, rows: &mut Vec<Row>) {
        let named = schema.get("properties").and_then(Json::as_object).into_iter().flatten();
        let any = schema.get("additionalProperties").filter(|schema| schema.is_object());
        for (name, inner) in
            named.map(|(name, inner)| (name.as_str(), inner)).chain(any.map(|inner| ("*", inner)))
        {
            let text = |field| inner.get(field).and_then(Json::as_str).unwrap_or_default().to_owned();
            let path = join(path, name);
            let rest = if text("type") == "object" {
                Rest::Table
            } else {
                Rest::Key {
                    expected: text("$comment"),
                    default: inner.get("default").cloned().unwrap_or_default(),
                }
            };
            rows.push(Row { path: path.clone(), meaning: text("description"), rest });
            inside(inner, &path, rows);
        }
    }
    let mut rows = Vec::new();
    inside(&table_schema(), "", &mut rows);
    rows
}

/// The keys and values of `settings`, dotted, in order.
pub(super) fn flatten(settings: &Json) -> Vec<(String, &Json)> {
    fn inside<'a>(settings: &'a Json, path: &str, flat: &mut Vec<(String, &'a Json)>) {
        match settings.as_object() {
            Some(table) => table.iter().for_each(|(name, value)| inside(value, &join(path, name), flat)),
            None => flat.push((path.to_owned(), settings)),
        }
    }
    let mut flat = Vec::new();
    inside(settings, "", &mut flat);
    flat
}

/// Whether the values of `key` are never shown.
pub(super) fn is_secret(key: &str) -> bool {
    key.starts_with("listen.") && (key.ends_with(".shared_key") || key.ends_with(".secret_access_key"))
}

fn table_schema() -> Json {
    let settings = SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
    settings.into_generator().into_root_schema_for::<Table>().to_value()
}

/// JSON Schema of the configuration file.
#[must_use]
pub fn json_schema() -> Json {
    let mut schema = table_schema();
    let Some(properties) = schema.get_mut("properties").and_then(Json::as_object_mut) else { return schema };
    for (alias, key) in ALIASES {
        let Some(mut aliased) = properties.get(key).cloned() else { continue };
        if let Some(aliased) = aliased.as_object_mut() {
            aliased.remove("default");
            aliased.insert("description".to_owned(), json!(format!("Alias of `{key}`.")));
        }
        properties.insert(alias.to_owned(), aliased);
    }
    schema
}

/// The commented reference file: every key with its meaning, its range and its default, and the
/// few values that have none set to examples.
#[must_use]
pub fn reference() -> String {
    let mut text = OPENING.to_owned();
    // The table of listeners has no keys of its own.
    for Row { path, meaning, rest } in rows().into_iter().filter(|row| row.path != "listen") {
        text.push('\n');
        comment(&mut text, &meaning);
        match rest {
            Rest::Table => text.push_str(&format!("[{}]\n", path.replace('*', EXAMPLE_LISTENER))),
            Rest::Key { expected, default } => {
                let alias = ALIASES.iter().find(|(_, key)| *key == path);
                let alias = alias.map_or_else(String::new, |(alias, _)| format!(" Alias: `{alias}`."));
                comment(&mut text, &format!("Must be {expected}.{alias}"));
                let example =
                    EXAMPLES.into_iter().find(|(key, _)| *key == path).map(|(_, example)| json!(example));
                let (mark, value) = example.map_or(("#", default), |example| ("", example));
                let name = path.rsplit('.').next().unwrap_or_default();
                text.push_str(&format!("{mark}{name} = {value}\n"));
            }
        }
    }
    text
}

/// Appends `sentence` as comment lines of at most 100 characters.
fn comment(text: &mut String, sentence: &str) {
    let mut line = String::from("#");
    for word in sentence.split_whitespace() {
        if line.chars().count() + 1 + word.chars().count() > 100 {
            text.push_str(&line);
            text.push('\n');
            line.truncate(1);
        }
        line.push(' ');
        line.push_str(word);
    }
    text.push_str(&line);
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;
    use crate::config::layer;
    use crate::config::resolve::resolve;
    use crate::config::table::keys;

    const REFERENCE: &str = include_str!("../../config/hydrant.toml");

    /// The values in force under the file `text`.
    fn values(text: &str) -> BTreeSet<(String, String)> {
        let layer = layer::file(Path::new("hydrant.toml"), text).expect("the file is TOML");
        let loaded = resolve(vec![layer], Vec::new()).expect("the file is right");
        loaded.values.into_iter().map(|effective| (effective.key, effective.value)).collect()
    }

    /// The reference file with every key set: `#key = value` becomes `key = value`.
    fn everything_set() -> String {
        REFERENCE
            .lines()
            .map(|line| line.strip_prefix('#').filter(|rest| !rest.starts_with(' ')).unwrap_or(line))
            .collect::<Vec<_>>()
            .join("\n")
    }

    #[test]
    fn the_reference_file_is_what_the_code_says() {
        assert_eq!(REFERENCE, reference(), "write it anew: hydrant schema --toml > config/hydrant.toml");
    }

    #[test]
    fn the_reference_file_sets_nothing_but_the_example_stream_and_listener() {
        let example = "delivery_stream_name = 'my-stream'\nlisten.app.address = 'unix:/run/hydrant/app.sock'";
        assert_eq!(values(REFERENCE), values(example));
    }

    // R-C10
    #[test]
    fn every_key_of_the_reference_file_has_its_default() {
        assert_eq!(values(&everything_set()), values(REFERENCE));
    }

    // R-C10
    #[test]
    fn the_reference_file_has_every_key_and_no_other() {
        let set = layer::file(Path::new("hydrant.toml"), &everything_set()).expect("the file is TOML");
        let set = figment::Figment::from(set.into_iter().next().expect("one source"));
        let set: Json = set.extract().expect("TOML fits JSON");
        let in_file: BTreeSet<_> = flatten(&set).into_iter().map(|(key, _)| key).collect();
        let in_code = keys().into_iter().map(|key| key.replace('*', EXAMPLE_LISTENER));
        assert_eq!(in_file, in_code.collect());
    }

    #[test]
    fn every_key_says_what_it_means_and_what_it_may_be() {
        for row in rows() {
            assert!(row.meaning.ends_with('.'), "{}: {}", row.path, row.meaning);
            let Rest::Key { expected, default } = row.rest else { continue };
            assert!(!expected.is_empty() && !default.is_null(), "{}", row.path);
        }
    }

    #[test]
    fn the_schema_has_the_aliases() {
        let schema = json_schema();
        let check = |alias: &str, key: &str| {
            let at = |name: &str| schema.pointer(&format!("/properties/{name}/$comment")).cloned();
            assert!(at(alias).is_some() && at(alias) == at(key), "{alias}");
        };
        check("deliveryStreamName", "delivery_stream_name");
        check("maxBatchSize", "max_batch_size");
        check("maxBatchSizeBytes", "max_batch_size_bytes");
    }
}
