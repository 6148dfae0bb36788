//! The charts of `deploy/helm`.

use std::fs;
use std::path::Path;

use serde_json::Value;
use tempfile::TempDir;

use crate::kubernetes::{NEWEST, OLDEST};
use crate::pods::{Manifest, Place, check};
use crate::tools::{ROOT, Tools, tools};

/// Values that change what the chart makes of a node's hydrant, each set a list of `--set` arguments.
const VALUES: [&[&str]; 6] = [
    &[],
    &["metrics.podMonitor=true", "metrics.annotations=false", "config.region=eu-west-1"],
    &["networkPolicy.enabled=false", "serviceAccount.name=records", "serviceAccount.annotations.a=b"],
    &[
        "bufferMiB=256",
        "drainSeconds=90",
        "config.send.max_in_flight=16",
        "config.buffer.on_full=drop-oldest",
    ],
    &[
        "config.listen.other.address=tcp:0.0.0.0:5170",
        "config.max_batch_size_bytes=1048576",
        "config.admin.address=tcp:[::]:9000",
    ],
    &["spool.sizeMiB=4096", "config.buffer.sync=os", "daemonset.stateDirectory=/mnt/hydrant"],
];

/// A copy of the charts, the example's dependency brought in.
fn charts(tools: &Tools) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    copy(&Path::new(ROOT).join("deploy/helm"), directory.path());
    tools.helm(directory.path(), &["dependency", "update", "example-app"]).unwrap();
    directory
}

fn copy(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            fs::create_dir_all(&target).unwrap();
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// What helm says of the chart with a stream and `values`.
fn helm(tools: &Tools, directory: &Path, verb: &[&str], values: &[&str]) -> Result<String, String> {
    let stream = "config.delivery_stream_name=app";
    let values = [stream].into_iter().chain(values.iter().copied()).flat_map(|value| ["--set", value]);
    let arguments: Vec<&str> = verb.iter().copied().chain(values).collect();
    tools.helm(directory, &arguments)
}

// R-R7
#[test]
fn the_chart_of_a_nodes_hydrant_is_sound_and_keeps_what_is_promised_with_any_values() {
    let Some(tools) = tools() else { return };
    let directory = charts(tools);
    for values in VALUES {
        eprintln!("{values:?}");
        helm(tools, directory.path(), &["lint", "--strict", "hydrant"], values).unwrap();
        let manifest = helm(tools, directory.path(), &["template", "release", "hydrant"], values).unwrap();
        for version in [OLDEST, NEWEST] {
            tools.validate(&manifest, version).unwrap();
        }
        check(&Manifest::parse(&manifest), Place::Node);
    }
}

#[test]
fn a_chart_of_your_own_includes_the_sidecar() {
    let Some(tools) = tools() else { return };
    let directory = charts(tools);
    for values in [
        &[][..],
        &["--set", "hydrant.drainSeconds=60,hydrant.bufferMiB=8,hydrant.appStopSeconds=45"],
        &[
            "--set",
            "hydrant.spool.sizeMiB=9000,hydrant.spool.storage=ephemeral,hydrant.spool.storageClassName=gp3",
        ],
    ] {
        let arguments = |verb: &[&'static str]| [verb, values].concat();
        tools.helm(directory.path(), &arguments(&["lint", "--strict", "example-app"])).unwrap();
        let manifest =
            tools.helm(directory.path(), &arguments(&["template", "shop", "example-app"])).unwrap();
        for version in [OLDEST, NEWEST] {
            tools.validate(&manifest, version).unwrap();
        }
        check(&Manifest::parse(&manifest), Place::Sidecar);
    }
}

#[test]
fn without_a_spool_a_sidecar_has_no_volume_for_one() {
    let Some(tools) = tools() else { return };
    let directory = charts(tools);
    let verb = ["template", "shop", "example-app", "--set", "hydrant.spool.enabled=false"];
    let manifest = tools.helm(directory.path(), &verb).unwrap();
    tools.validate(&manifest, NEWEST).unwrap();
    for word in ["spool", "/var/lib/hydrant", "ephemeral"] {
        assert!(!manifest.contains(word), "{word} in\n{manifest}");
    }
}

#[test]
fn values_that_the_daemon_would_refuse_are_refused_by_helm() {
    let Some(tools) = tools() else { return };
    let charts = Path::new(ROOT).join("deploy/helm");
    for (values, said) in [
        (&["config.lingr=1s"][..], "'lingr' not allowed"),
        (&["config.max_batch_size=501"], "/config/max_batch_size"),
        (&["config.shutdown.drain=1h"], "'drain' not allowed"),
        (&["config.buffer.memory=1GiB"], "'memory' not allowed"),
        (&["config.buffer.disk=1GiB"], "'disk' not allowed"),
        (&["config.buffer.directory=/spool"], "'directory' not allowed"),
        (&["spool.sizeMiB=3"], "/spool/sizeMiB"),
        (&["spool.storage=memory"], "/spool/storage"),
        (&["mode=deployment"], "/mode"),
        (&["config.delivery_stream_name="], "config.delivery_stream_name"),
    ] {
        let error = helm(tools, &charts, &["template", "release", "hydrant"], values).unwrap_err();
        assert!(error.contains(said), "{error}");
    }
}

#[test]
fn the_notes_say_where_producers_write() {
    let Some(tools) = tools() else { return };
    let charts = Path::new(ROOT).join("deploy/helm");
    let install = ["install", "release", "hydrant", "--dry-run=client"];
    let said = helm(tools, &charts, &install, &["daemonset.socketDirectory=/run/records"]).unwrap();
    let notes = said.split("NOTES:").nth(1).expect("notes");
    for word in ["/run/records", "65532", "takes records for app", "on the node's disk"] {
        assert!(notes.contains(word), "{notes}");
    }
    let said = helm(tools, &charts, &install, &["spool.enabled=false"]).unwrap();
    assert!(said.contains("Records are in memory alone"), "{said}");
}

/// `properties.config` of the chart's schema is the configuration's own, without the keys that
/// the chart makes of other values and without patterns that Go's regular expressions do not know.
#[test]
fn the_charts_schema_is_the_configurations_own() {
    let path = "deploy/helm/hydrant/values.schema.json";
    let mut schema: Value =
        serde_json::from_str(&fs::read_to_string(Path::new(ROOT).join(path)).unwrap()).unwrap();
    let mut expected = hydrant::config::json_schema();
    let made = [("buffer", "memory"), ("buffer", "directory"), ("buffer", "disk"), ("shutdown", "drain")];
    for (section, key) in made {
        let section = expected.pointer_mut(&format!("/properties/{section}/properties")).unwrap();
        section.as_object_mut().unwrap().remove(key).expect("the key");
    }
    forget_lookaround(&mut expected);
    if schema["properties"]["config"] != expected {
        schema["properties"]["config"] = expected;
        let fresh = Path::new(env!("CARGO_TARGET_TMPDIR")).join("values.schema.json");
        fs::write(&fresh, serde_json::to_string_pretty(&schema).unwrap() + "\n").unwrap();
        panic!("the configuration has changed: cp {} {path}", fresh.display());
    }
}

fn forget_lookaround(schema: &mut Value) {
    if let Some(object) = schema.as_object_mut() {
        object
            .retain(|key, value| key != "pattern" || value.as_str().is_none_or(|text| !text.contains("(?")));
        object.values_mut().for_each(forget_lookaround);
    } else if let Some(list) = schema.as_array_mut() {
        list.iter_mut().for_each(forget_lookaround);
    }
}
