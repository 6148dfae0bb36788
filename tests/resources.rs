//! Holds the dashboards and alarms below `resources` to the code and to docs/MONITORING.md. What takes
//! a program of somebody else, such as promtool, is in tests/peers.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use hydrant::poller::publication::NAMES;
use hydrant::telemetry::families::{Family, Kind, families};
use hydrant::telemetry::now;
use serde_json::Value;

#[path = "support/figures.rs"]
#[allow(unreachable_pub, reason = "other tests and a benchmark use it too")]
mod figures;

const MONITORING: &str = "docs/MONITORING.md";
const GRAFANA: &str = "resources/grafana-dashboard.json";
const ALERTS: &str = "resources/prometheus-alerts.yaml";
const ALERT_TESTS: &str = "resources/prometheus-alerts.test.yaml";
const ALARMS: &str = "resources/cloudwatch-alarms.json";
const DASHBOARD: &str = "resources/cloudwatch-dashboard.json";

/// What Firehose publishes of a stream, as far as it is used here.
///
/// Source: <https://docs.aws.amazon.com/firehose/latest/dev/monitoring-with-cloudwatch-metrics.html>
const FIREHOSE: [&str; 9] = [
    "IncomingBytes",
    "IncomingRecords",
    "IncomingPutRequests",
    "ThrottledRecords",
    "BytesPerSecondLimit",
    "RecordsPerSecondLimit",
    "PutRequestsPerSecondLimit",
    "DeliveryToS3.DataFreshness",
    "DeliveryToS3.Success",
];

// R-M17
#[test]
fn every_series_that_a_dashboard_or_an_alarm_names_is_exported() {
    let exported = Exported::now();
    let mut faults = Vec::new();
    let mut found = 0;
    for path in [GRAFANA, ALERTS, ALERT_TESTS] {
        for text in strings(&read(path)) {
            for selector in selectors(&text) {
                found += 1;
                if let Some(fault) = exported.fault(&selector) {
                    faults.push(format!("{path}: {fault}, in {text}"));
                }
            }
        }
    }
    assert!(found > 200, "only {found} series were found");
    report(faults);
}

// R-M17
#[test]
fn every_cloudwatch_metric_that_is_named_is_published() {
    let mut metrics = Vec::new();
    for alarm in read(ALARMS).as_array().unwrap() {
        let stats = alarm["Metrics"].as_array().into_iter().flatten();
        let stats = stats.filter_map(|query| query.pointer("/MetricStat/Metric"));
        let metric = |metric: &Value| {
            assert_eq!(metric["Dimensions"].as_array().unwrap().len(), 1, "{metric}");
            [
                &metric["Namespace"],
                &metric["MetricName"],
                &metric["Dimensions"][0]["Name"],
                &metric["Dimensions"][0]["Value"],
            ]
            .map(|text| text.as_str().unwrap().to_owned())
        };
        metrics.extend(stats.map(metric));
        metrics.extend(alarm.get("MetricName").map(|_| metric(alarm)));
    }
    for widget in read(DASHBOARD)["widgets"].as_array().unwrap() {
        let rows = widget["properties"]["metrics"].as_array().into_iter().flatten();
        let rows = rows.filter(|row| row[0].is_string());
        metrics.extend(rows.map(|row| [0, 1, 2, 3].map(|at| row[at].as_str().unwrap().to_owned())));
    }
    assert!(metrics.len() > 40, "only {} metrics were found", metrics.len());
    let ours = NAMES.map(|(name, _)| name);
    let fault = |[namespace, name, dimension, stream]: &[String; 4]| {
        let published: &[&str] = match namespace.as_str() {
            "AWS/Firehose" => &FIREHOSE,
            "${NAMESPACE}" => &ours,
            other => {
                return Some(format!("{name}: the namespace {other} is neither Firehose's nor the daemon's"));
            }
        };
        let right = published.contains(&name.as_str());
        let right = right && dimension == "DeliveryStreamName" && stream == "${STREAM}";
        (!right).then(|| format!("{namespace} has no {name} with {dimension} = {stream}"))
    };
    report(metrics.iter().filter_map(fault).collect());
}

#[test]
fn what_is_published_is_listed_with_its_unit() {
    let text = std::fs::read_to_string(root(MONITORING)).unwrap();
    let section =
        text.split("\n## ").find(|section| section.starts_with("Publishing to CloudWatch")).unwrap();
    let rows: Vec<_> = section.lines().filter(|line| line.starts_with("| `")).collect();
    let listed: BTreeSet<&str> =
        rows.iter().flat_map(|row| row.split('|').nth(1).unwrap().split('`').skip(1).step_by(2)).collect();
    assert_eq!(listed, NAMES.iter().map(|(name, _)| *name).collect());
    for (name, unit) in NAMES {
        let row = rows.iter().find(|row| row.contains(&format!("`{name}`"))).unwrap();
        assert!(row.split('|').nth(2).unwrap().contains(unit), "{name} is in {unit}");
    }
}

#[test]
fn expressions_of_cloudwatch_use_what_stands_beside_them() {
    let mut sets = Vec::new();
    for alarm in read(ALARMS).as_array().unwrap() {
        sets.extend(alarm.get("Metrics").map(|queries| queries.as_array().unwrap().clone()));
    }
    for widget in read(DASHBOARD)["widgets"].as_array().unwrap() {
        let rows = widget["properties"]["metrics"].as_array().into_iter().flatten();
        sets.push(rows.map(|row| row.as_array().unwrap().last().unwrap().clone()).collect());
    }
    let mut expressions = 0;
    for set in sets {
        let text = |query: &Value, upper: &str| -> Option<String> {
            let value = query.get(upper).or_else(|| query.get(upper.to_lowercase()))?;
            Some(value.as_str().unwrap().to_owned())
        };
        let ids: Vec<String> = set.iter().filter_map(|query| text(query, "Id")).collect();
        assert_eq!(ids.len(), ids.iter().collect::<BTreeSet<_>>().len(), "an id twice: {ids:?}");
        for expression in set.iter().filter_map(|query| text(query, "Expression")) {
            expressions += 1;
            let words = expression.split(|c: char| !c.is_ascii_alphanumeric());
            for word in words.filter(|word| word.starts_with(|c: char| c.is_ascii_lowercase())) {
                assert!(ids.iter().any(|id| id == word), "{word} of `{expression}` is none of {ids:?}");
            }
        }
    }
    assert!(expressions >= 7, "only {expressions} expressions were found");
}

#[test]
fn panels_and_widgets_are_whole_and_do_not_overlap() {
    let board = read(GRAFANA);
    let panels = board["panels"].as_array().unwrap();
    let mut ids = BTreeSet::new();
    let mut cells = BTreeSet::new();
    for panel in panels {
        let title = panel["title"].as_str().unwrap();
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{title}: its id is another's");
        occupy(&mut cells, title, ["x", "y", "w", "h"].map(|key| number(&panel["gridPos"][key])));
        if panel["type"] == "row" {
            continue;
        }
        assert_eq!(panel["datasource"]["uid"], "${DS_PROMETHEUS}", "{title}");
        let targets = panel["targets"].as_array().unwrap();
        let references: BTreeSet<&str> =
            targets.iter().map(|target| target["refId"].as_str().unwrap()).collect();
        assert!(!targets.is_empty() && references.len() == targets.len(), "{title}: {references:?}");
    }
    let mut cells = BTreeSet::new();
    for widget in read(DASHBOARD)["widgets"].as_array().unwrap() {
        let properties = &widget["properties"];
        let name = properties.get("title").or_else(|| properties.get("markdown"));
        let name = name.and_then(Value::as_str).unwrap_or_else(|| panic!("{widget} has no title"));
        occupy(&mut cells, name, ["x", "y", "width", "height"].map(|key| number(&widget[key])));
    }
}

/// Takes a rectangle of a grid 24 columns wide.
fn occupy(cells: &mut BTreeSet<(u64, u64)>, name: &str, [x, y, width, height]: [u64; 4]) {
    assert!(width > 0 && height > 0 && x + width <= 24, "{name} is not within 24 columns");
    for cell in (x..x + width).flat_map(|x| (y..y + height).map(move |y| (x, y))) {
        assert!(cells.insert(cell), "{name} lies over another at {cell:?}");
    }
}

// R-V11
#[test]
fn every_panel_is_of_the_chosen_streams_with_one_stream_as_with_several() {
    let figures = figures::full();
    figures.set_others(vec![std::sync::Arc::new(figures.of_another(std::sync::Arc::default()))]);
    let labelled = |family: &Family| {
        family.points.iter().any(|point| point.labels.iter().any(|(label, _)| *label == "stream"))
    };
    let of_streams: BTreeSet<String> = families(&figures, now())
        .iter()
        .filter(|family| labelled(family))
        .map(|family| family.name().into_owned())
        .collect();
    let board = read(GRAFANA);
    let targets = board["panels"].as_array().unwrap().iter();
    let targets = targets.flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
    let mut found = 0;
    for expression in targets.map(|target| target["expr"].as_str().unwrap()) {
        for Selector { metric, matchers } in selectors(expression) {
            let base = ["_bucket", "_sum", "_count"].iter().find_map(|ending| metric.strip_suffix(ending));
            let is_of_stream =
                of_streams.contains(metric) || base.is_some_and(|base| of_streams.contains(base));
            let matcher = matchers.iter().find(|(label, ..)| *label == "stream").copied();
            found += usize::from(is_of_stream);
            match matcher {
                None => assert!(!is_of_stream, "{metric} is of all streams, in {expression}"),
                // A daemon with one stream does not name it, and is chosen by its instance.
                Some(("stream", "=~", "$stream|")) => {
                    assert!(is_of_stream, "{metric} has no stream, in {expression}")
                }
                // One after the other, each has a name.
                Some(("stream", "=~", "$stream")) => {
                    assert!(expression.contains("stream=\"\""), "{expression}")
                }
                Some(("stream", "=", "")) => assert!(expression.contains("label_join("), "{expression}"),
                Some(other) => panic!("{metric} with {other:?}, in {expression}"),
            }
        }
    }
    assert!(found > 70, "only {found} series of streams were found");
}

#[test]
fn every_variable_that_the_dashboard_uses_is_its_own() {
    let board = read(GRAFANA);
    let variables = board["templating"]["list"].as_array().unwrap();
    let mut known: BTreeSet<&str> =
        variables.iter().map(|variable| variable["name"].as_str().unwrap()).collect();
    known.extend(["__rate_interval", "__range", "__all"]);
    for text in strings(&board) {
        for rest in text.split('$').skip(1) {
            let name = rest.trim_start_matches('{').split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
            let name = name.into_iter().next().unwrap();
            assert!(known.contains(name), "${name} of {text} is none of {known:?}");
        }
    }
}

#[test]
fn every_alarm_of_prometheus_says_what_to_do_and_is_shown_to_fire() {
    let text = std::fs::read_to_string(root(MONITORING)).unwrap();
    let (_, runbook) = text.split_once("\n## What each alarm means\n").unwrap();
    let runbook = runbook.split("\n## ").next().unwrap();
    let explained: BTreeSet<&str> = runbook.lines().filter_map(|line| line.strip_prefix("### ")).collect();
    let shown: BTreeSet<String> = strings(&read(ALERT_TESTS))
        .iter()
        .filter_map(|text| Some(text.strip_prefix("{alertname=\"")?.split('"').next()?.to_owned()))
        .collect();
    let mut names = BTreeSet::new();
    for rule in
        read(ALERTS)["groups"].as_array().unwrap().iter().flat_map(|group| group["rules"].as_array().unwrap())
    {
        let name = rule["alert"].as_str().unwrap().to_owned();
        assert!(["critical", "warning"].contains(&rule["labels"]["severity"].as_str().unwrap()), "{name}");
        for text in ["summary", "description"] {
            assert!(!rule["annotations"][text].as_str().unwrap().is_empty(), "{name}: no {text}");
        }
        let anchor = format!("{MONITORING}#{}", name.to_lowercase());
        assert_eq!(rule["annotations"]["runbook"], anchor.as_str(), "{name}");
        assert!(names.insert(name.clone()), "two alarms are called {name}");
    }
    let names: BTreeSet<&str> = names.iter().map(String::as_str).collect();
    assert_eq!(names, explained, "left: {ALERTS}, right: {MONITORING}");
    assert_eq!(names, shown.iter().map(String::as_str).collect(), "left: {ALERTS}, right: {ALERT_TESTS}");
}

#[test]
fn every_alarm_of_cloudwatch_tells_somebody_and_is_explained() {
    let text = std::fs::read_to_string(root(MONITORING)).unwrap();
    let table = text.lines().skip_while(|line| *line != "| alarm `hydrant-STREAM-…` | see |").skip(2);
    let table = table.map_while(|line| line.strip_prefix("| ")?.split_once(" | "));
    let explained: BTreeSet<&str> =
        table.flat_map(|(names, _)| names.split('`').skip(1).step_by(2)).collect();
    let alarms = read(ALARMS);
    let mut names = BTreeSet::new();
    for alarm in alarms.as_array().unwrap() {
        let name = alarm["AlarmName"].as_str().unwrap().strip_prefix("hydrant-${STREAM}-").unwrap();
        assert!(names.insert(name), "two alarms are called {name}");
        assert_eq!(alarm["AlarmActions"], serde_json::json!(["${TOPIC}"]), "{name}");
        assert!(alarm["AlarmDescription"].as_str().unwrap().len() > 40, "{name} does not say what to do");
    }
    assert_eq!(names, explained, "left: {ALARMS}, right: {MONITORING}");
}

/// A series as PromQL names it: a metric, and its matchers as label, operator and value.
#[derive(Debug)]
struct Selector<'a> {
    metric: &'a str,
    matchers: Vec<(&'a str, &'a str, &'a str)>,
}

/// The series of ours in an expression, or in any other text.
fn selectors(text: &str) -> Vec<Selector<'_>> {
    let in_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let starts = ["hydrant_", "process_"].into_iter().flat_map(|prefix| text.match_indices(prefix));
    let starts = starts.filter(|(at, _)| !text[..*at].ends_with(in_word));
    let selector = |(at, _): (usize, &str)| {
        let (metric, rest) = text[at..].split_at(text[at..].find(|c| !in_word(c)).unwrap_or(text.len() - at));
        let inside =
            rest.strip_prefix('{').and_then(|rest| rest.split_once('}')).map_or("", |(inside, _)| inside);
        let matchers = inside.split(',').filter(|matcher| !matcher.trim().is_empty()).map(|matcher| {
            let (label, rest) = matcher.trim().split_at(matcher.trim().find(|c| !in_word(c)).unwrap());
            let (operator, value) = rest.split_at(rest.find('"').unwrap());
            (label, operator.trim(), value.trim_matches('"'))
        });
        Selector { metric, matchers: matchers.collect() }
    };
    starts.map(selector).collect()
}

/// The names of all samples, each with its labels and their values.
struct Exported(BTreeMap<String, BTreeMap<String, BTreeSet<String>>>);

impl Exported {
    fn now() -> Self {
        let mut exported = BTreeMap::new();
        for family in families(&figures::full(), now()) {
            let mut labels = BTreeMap::<String, BTreeSet<String>>::new();
            for (label, value) in family.points.iter().flat_map(|point| &point.labels) {
                labels.entry((*label).to_owned()).or_default().insert(value.to_string());
            }
            let endings: &[&str] = match family.kind {
                Kind::Histogram => &["_bucket", "_sum", "_count"],
                Kind::Counter | Kind::Gauge => &[""],
            };
            exported
                .extend(endings.iter().map(|ending| (format!("{}{ending}", family.name()), labels.clone())));
        }
        Self(exported)
    }

    /// Why there is no such series.
    fn fault(&self, Selector { metric, matchers }: &Selector<'_>) -> Option<String> {
        let Some(labels) = self.0.get(*metric) else { return Some(format!("no sample is named {metric}")) };
        // Prometheus gives the first two to every series, and a daemon with several streams the third; what the
        // others hold, others decide.
        let open = ["job", "instance", "stream", "delivery_stream_name", "version", "error_code"];
        matchers.iter().find_map(|(label, operator, value)| {
            if open[..3].contains(label) {
                return None;
            }
            let Some(values) = labels.get(*label) else {
                return Some(format!("{metric} has no label {label}"));
            };
            let known = open.contains(label) || value.split('|').all(|value| values.contains(value));
            (!known).then(|| format!("{metric} has no {label} {operator} {value}"))
        })
    }
}

/// Every text inside, keys of objects not among them.
fn strings(value: &Value) -> Vec<String> {
    match value {
        Value::String(text) => vec![text.clone()],
        Value::Array(values) => values.iter().flat_map(strings).collect(),
        Value::Object(members) => members.values().flat_map(strings).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) => Vec::new(),
    }
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is no whole number"))
}

fn root(path: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// A file of JSON or YAML.
fn read(path: &str) -> Value {
    let text = std::fs::read_to_string(root(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
    let parsed = match Path::new(path).extension().and_then(|ending| ending.to_str()) {
        Some("json") => serde_json::from_str(&text).map_err(|error| error.to_string()),
        _ => yaml_serde::from_str(&text).map_err(|error| error.to_string()),
    };
    parsed.unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Fails with every fault on a line of its own.
fn report(faults: Vec<String>) {
    assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
}
