//! Layers: what a file, the environment and `--set` say, before anybody asks what it means.

use std::ffi::OsString;
use std::path::Path;

use figment::providers::{Format, Toml};
use figment::util::nest;
use figment::value::{Dict, Map, Value};
use figment::{Metadata, Profile, Provider};

use super::problem::Problem;
use super::table::ALIASES;

/// Prefix of the environment variables that set keys.
pub(super) const PREFIX: &str = "HYDRANT_";

/// The variable that names the configuration file; not a key.
pub(super) const FILE_VARIABLE: &str = "HYDRANT_CONFIG";

/// Keys and values from one place.
#[derive(Debug)]
pub(super) struct Source {
    from: String,
    values: Dict,
}

impl Provider for Source {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.from.clone())
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        Ok(Profile::Default.collect(self.values.clone()))
    }
}

impl Source {
    /// `text` at the dotted `key`, or none where the key has an empty part.
    ///
    /// Text in TOML's quotes is what TOML makes of it, so that blanks and escapes can be given. All
    /// other text stays text: a number would lose how it was written, and `0660` and a stream called
    /// `1e5` are not numbers. The forms read numbers and flags from text.
    fn of(from: &str, key: &str, text: &str) -> Option<Self> {
        if key.split('.').any(str::is_empty) {
            return None;
        }
        let quoted = text.starts_with(['"', '\'']);
        let unquoted = quoted.then(|| Toml::from_str::<Dict>(&format!("value = {text}")).ok()).flatten();
        let value = unquoted.and_then(|mut dict| dict.remove("value")).unwrap_or_else(|| text.into());
        Some(Self { from: from.to_owned(), values: nest(key, value).into_dict()? })
    }
}

/// Sources of one rank: between them there is no later or earlier spelling of a key.
pub(super) type Layer = Vec<Source>;

/// The layer of the file `path` with the content `text`: YAML where its name ends in `.yaml` or
/// `.yml`, else TOML.
pub(super) fn file(path: &Path, text: &str) -> Result<Layer, Problem> {
    let yaml = path
        .extension()
        .is_some_and(|end| end.eq_ignore_ascii_case("yaml") || end.eq_ignore_ascii_case("yml"));
    let parsed = if yaml { parse_yaml(text) } else { parse_toml(text) };
    let from = path.display().to_string();
    match parsed {
        Ok(mut values) => {
            forget_nulls(&mut values);
            Ok(vec![Source { from, values }])
        }
        Err(Fault { line, column, reason }) => Err(Problem::Syntax { path: from, line, column, reason }),
    }
}

struct Fault {
    line: usize,
    column: usize,
    reason: String,
}

fn parse_toml(text: &str) -> Result<Dict, Fault> {
    Toml::from_str(text).map_err(|error| {
        let before = text.get(..error.span().map_or(0, |span| span.start)).unwrap_or(text);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        Fault {
            line: before.matches('\n').count() + 1,
            column: before.get(line_start..).map_or(0, |line| line.chars().count()) + 1,
            reason: error.message().replace('\n', ", "),
        }
    })
}

fn parse_yaml(text: &str) -> Result<Dict, Fault> {
    // An empty document is null.
    Yaml::from_str::<Option<Dict>>(text).map(Option::unwrap_or_default).map_err(|error| {
        let (line, column) = error.location().map_or((1, 1), |place| (place.line(), place.column()));
        Fault { line, column, reason: error.to_string() }
    })
}

/// YAML; figment's own is tied to a parser that is no longer maintained.
struct Yaml;

impl Format for Yaml {
    type Error = yaml_serde::Error;

    const NAME: &'static str = "YAML";

    fn from_str<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, Self::Error> {
        yaml_serde::from_str(text)
    }
}

/// A YAML key without a value, or whose keys are all commented out, is null: not set.
fn forget_nulls(values: &mut Dict) {
    values.retain(|_, value| match value {
        Value::Empty(..) => false,
        Value::Dict(_, inner) => {
            forget_nulls(inner);
            true
        }
        Value::String(..) | Value::Char(..) | Value::Bool(..) | Value::Num(..) | Value::Array(..) => true,
    });
}

/// The layer of the environment: `HYDRANT_LISTEN__APP__ADDRESS` is `listen.app.address`.
pub(super) fn environment(variables: &[(OsString, OsString)], problems: &mut Vec<Problem>) -> Layer {
    let mut layer = Layer::new();
    for (name, value) in variables {
        let Some(name) = name.to_str() else { continue };
        let Some(key) =
            name.strip_prefix(PREFIX).filter(|key| name != FILE_VARIABLE && !is_service_link(key))
        else {
            continue;
        };
        let key = key.to_ascii_lowercase().replace("__", ".");
        let alias = ALIASES.into_iter().find(|(alias, _)| alias.eq_ignore_ascii_case(&key));
        let key = alias.map_or(key.as_str(), |(alias, _)| alias);
        match value.to_str().and_then(|value| Source::of(name, key, value)) {
            Some(source) => layer.push(source),
            None => problems.push(Problem::Assignment {
                from: name.to_owned(),
                expected: "a key such as HYDRANT_LINGER or HYDRANT_RETRY__MAX_DELAY, set to UTF-8 text",
            }),
        }
    }
    layer
}

/// The environment variable for `key`.
pub(super) fn variable(key: &str) -> String {
    format!("{PREFIX}{}", key.to_ascii_uppercase().replace('.', "__"))
}

/// Whether `HYDRANT_` + `name` is what Kubernetes sets in every container beside a service called
/// `hydrant` or `hydrant-…`: `…SERVICE_HOST`, `…SERVICE_PORT…`, `…PORT`, `…PORT_9464_TCP…`. No key
/// has a word `port` in it.
///
/// Source: <https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables>
fn is_service_link(name: &str) -> bool {
    name.ends_with("SERVICE_HOST") || name.split('_').any(|word| word == "PORT")
}

/// The layer of the `--set KEY=VALUE` arguments.
pub(super) fn assignments(arguments: &[String], problems: &mut Vec<Problem>) -> Layer {
    let mut layer = Layer::new();
    for argument in arguments {
        match argument.split_once('=').and_then(|(key, value)| Source::of("--set", key.trim(), value)) {
            Some(source) => layer.push(source),
            None => problems.push(Problem::Assignment {
                from: format!("--set {argument}"),
                expected: "KEY=VALUE, such as retry.max_delay=10s",
            }),
        }
    }
    layer
}

/// Gives every key of `layer` its proper name.
pub(super) fn rename_aliases(layer: &mut Layer, problems: &mut Vec<Problem>) {
    for (alias, key) in ALIASES {
        let source_of = |spelling| layer.iter().find(|source| source.values.contains_key(spelling));
        if let (Some(one), Some(other)) = (source_of(key), source_of(alias)) {
            let from = if one.from == other.from {
                one.from.clone()
            } else {
                format!("{} and {}", one.from, other.from)
            };
            problems.push(Problem::BothSpellings { from, key, alias });
        }
        for source in &mut *layer {
            if let Some(value) = source.values.remove(alias) {
                source.values.insert(key.to_owned(), value);
            }
        }
    }
}
