//! What every way of running hydrant in Kubernetes promises, of manifests as kubectl and helm render
//! them.

use std::collections::BTreeSet;
use std::fs;

use hydrant::config::{Address, Config, Sources, load};
use serde::Deserialize;
use serde_json::Value;

use crate::tools::output;

const MIB: usize = 1 << 20;
/// What docs/DEPLOY.md, "Sizing", adds to `buffer.memory`.
pub(crate) const OVERHEAD: usize = 48 * MIB;
/// What a spool's volume has beyond `buffer.disk`, for room that is reserved ahead.
pub(crate) const SPOOL_OVERHEAD: u64 = 64 << 20;
/// What the examples leave an application to stop, in seconds.
const APP_STOP: u64 = 30;

/// Where hydrant runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// Beside the application, as an init container that restarts always.
    Sidecar,
    /// Beside the application, as a container like it.
    ClassicSidecar,
    /// Once on a node.
    Node,
}

/// Resources, as they are to be applied.
#[derive(Debug)]
pub(crate) struct Manifest(Vec<Value>);

impl Manifest {
    pub(crate) fn parse(text: &str) -> Self {
        let documents = yaml_serde::Deserializer::from_str(text);
        Self(
            documents
                .map(|document| Value::deserialize(document).unwrap())
                .filter(|it| !it.is_null())
                .collect(),
        )
    }

    pub(crate) fn of_kind(&self, kind: &'static str) -> impl Iterator<Item = &Value> {
        self.0.iter().filter(move |resource| resource["kind"] == kind)
    }

    pub(crate) fn named(&self, kind: &'static str, name: &Value) -> &Value {
        let found = self.of_kind(kind).find(|resource| resource["metadata"]["name"] == *name);
        found.unwrap_or_else(|| panic!("no {kind} is named {name}"))
    }

    /// The template of the one pod that has a hydrant.
    pub(crate) fn pod(&self) -> &Value {
        let mut templates = self.0.iter().filter_map(|resource| resource["spec"].get("template"));
        let pod = templates.find(|template| hydrant(template).is_some()).expect("a pod with a hydrant");
        assert!(templates.all(|template| hydrant(template).is_none()), "two pods with a hydrant");
        pod
    }

    /// The file that the pod's hydrant reads, which the real `hydrant check` must accept, and what it
    /// says.
    fn configuration(&self, pod: &Value) -> Config {
        let container = hydrant(pod).unwrap();
        let command: Vec<&str> = list(&container["command"]).filter_map(Value::as_str).collect();
        let path = match command[..] {
            ["/usr/bin/hydrant", "run"] => "/etc/hydrant/hydrant.toml",
            ["/usr/bin/hydrant", "run", "--config", path] => path,
            _ => panic!("{command:?} is not how hydrant is started"),
        };
        let (directory, name) = path.rsplit_once('/').unwrap();
        let mount = mount_at(container, directory);
        assert_eq!(mount["readOnly"], true, "{mount}");
        let config_map = self.named("ConfigMap", &volume(pod, &mount["name"])["configMap"]["name"]);
        let text = config_map["data"][name].as_str().expect("the file that hydrant reads");
        let scratch = tempfile::tempdir().unwrap();
        let file = scratch.path().join(name);
        fs::write(&file, text).unwrap();
        let mut check = std::process::Command::new(env!("CARGO_BIN_EXE_hydrant"));
        output(check.env_clear().args(["check", "--config"]).arg(&file)).unwrap();
        let loaded = load(&Sources { file: Some(file), ..Sources::default() }).unwrap();
        assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
        loaded.config
    }
}

/// Holds a manifest to the promises.
pub(crate) fn check(manifest: &Manifest, place: Place) {
    let pod = manifest.pod();
    let config = manifest.configuration(pod);
    check_order(pod, &config, place);
    check_memory(pod, &config);
    check_socket(pod, &config, place);
    check_spool(pod, &config, place);
    check_probes(pod, &config);
    check_access(manifest, pod, &config);
    let objections = restricted(&pod["spec"]);
    let expected: &[&str] = match place {
        Place::Sidecar | Place::ClassicSidecar => &[],
        Place::Node => &[
            "directories: adds CHOWN",
            "directories: may be root",
            "hydrant-socket: hostPath",
            "hydrant-state: hostPath",
        ],
    };
    assert_eq!(objections, expected.iter().map(|&it| it.to_owned()).collect());
}

/// hydrant is there before its producers and after them, and has the time that it needs.
fn check_order(pod: &Value, config: &Config, place: Place) {
    let spec = &pod["spec"];
    let container = hydrant(pod).unwrap();
    let drain = config.shutdown_drain.as_secs();
    let grace = spec["terminationGracePeriodSeconds"].as_u64().expect("a grace period");
    let before = match place {
        Place::Sidecar => {
            assert_eq!(&spec["initContainers"][0], container);
            assert_eq!(container["restartPolicy"], "Always");
            assert!(container.get("startupProbe").is_some());
            APP_STOP
        }
        Place::ClassicSidecar => {
            assert_eq!(&spec["containers"][0], container);
            assert!(container.pointer("/lifecycle/postStart/exec").is_some());
            let wait = list(&container["lifecycle"]["preStop"]["exec"]["command"]).nth(2);
            wait.and_then(|wait| wait.as_str()?.parse().ok()).expect("the longest wait for producers")
        }
        Place::Node => 0,
    };
    assert!(grace > before + drain, "{grace} s are too short for {before} s and then {drain} s");
}

/// The container may use what hydrant can come to use, and is given it.
fn check_memory(pod: &Value, config: &Config) {
    let resources = &hydrant(pod).unwrap()["resources"];
    let limit = resources["limits"]["memory"].as_str().unwrap();
    let mebibytes: usize = limit.strip_suffix("Mi").expect("a limit in Mi").parse().unwrap();
    assert!(mebibytes * MIB >= config.buffer.memory + OVERHEAD, "{limit}");
    assert_eq!(resources["requests"]["memory"], limit);
    assert!(resources["requests"].get("cpu").is_some() && resources["limits"].get("cpu").is_none());
}

/// The socket's directory is shared with the application, by a group that both have.
fn check_socket(pod: &Value, config: &Config, place: Place) {
    let Address::Unix(socket) = &config.listen["app"].address else { panic!("not a Unix socket") };
    assert_eq!(config.listen["app"].mode, 0o660);
    let directory = socket.parent().unwrap().to_str().unwrap();
    let container = hydrant(pod).unwrap();
    let mount = mount_at(container, directory);
    assert!(mount.get("readOnly").is_none(), "hydrant makes its socket here: {mount}");
    assert_eq!(container["securityContext"]["runAsGroup"], 65532);
    let volume = volume(pod, &mount["name"]);
    if place == Place::Node {
        assert_eq!(volume["hostPath"]["type"], "DirectoryOrCreate");
        let letters = config.dead_letter.directory.as_deref().expect("a place for dead letters");
        let state = mount_at(container, letters.parent().unwrap().to_str().unwrap());
        assert!(crate::pods::volume(pod, &state["name"]).get("hostPath").is_some());
        return;
    }
    assert_eq!(volume["emptyDir"]["medium"], "Memory");
    assert_eq!(pod["spec"]["securityContext"]["fsGroup"], 65532);
    let app = list(&pod["spec"]["containers"]).find(|container| container["name"] == "app").unwrap();
    let theirs = mount_at(app, directory);
    assert_eq!((&theirs["name"], &theirs["readOnly"]), (&mount["name"], &Value::Bool(true)));
}

/// The spool is on a disk that outlives the container and has room for it.
fn check_spool(pod: &Value, config: &Config, place: Place) {
    let spool = config.buffer.spool.as_ref().expect("a spool");
    let container = hydrant(pod).unwrap();
    let mount = mount_at(container, spool.directory.parent().unwrap().to_str().unwrap());
    assert!(mount.get("readOnly").is_none(), "hydrant writes here: {mount}");
    let volume = volume(pod, &mount["name"]);
    if place == Place::Node {
        assert_eq!(volume["hostPath"]["type"], "DirectoryOrCreate");
        return;
    }
    assert!(volume.pointer("/emptyDir/medium").is_none(), "a spool in memory: {volume}");
    let of_claim = "/ephemeral/volumeClaimTemplate/spec/resources/requests/storage";
    let room = volume.pointer("/emptyDir/sizeLimit").or_else(|| volume.pointer(of_claim));
    let room = room.and_then(Value::as_str).unwrap_or_else(|| panic!("how large is {volume}?"));
    let mebibytes: u64 = room.strip_suffix("Mi").expect("a size in Mi").parse().unwrap();
    assert!(mebibytes << 20 >= spool.limit_bytes + SPOOL_OVERHEAD, "{room} for {}", spool.limit_bytes);
    // So that the pod comes to a node that has it.
    let asked = container.pointer("/resources/requests/ephemeral-storage").and_then(Value::as_str);
    assert_eq!(asked, volume.get("emptyDir").map(|_| room));
}

/// The kubelet asks where the daemon answers.
fn check_probes(pod: &Value, config: &Config) {
    let container = hydrant(pod).unwrap();
    let Some(Address::Tcp(admin)) = config.admin else { panic!("the admin listener is not on TCP") };
    assert!(admin.ip().is_unspecified(), "the kubelet does not come to {admin}");
    let port = &container["ports"][0];
    assert_eq!(port["containerPort"], admin.port());
    for (probe, path) in
        [("startupProbe", "/livez"), ("readinessProbe", "/readyz"), ("livenessProbe", "/livez")]
    {
        let get = &container[probe]["httpGet"];
        assert_eq!((&get["path"], &get["port"]), (&path.into(), &port["name"]), "{probe}");
    }
}

/// The account is there; Prometheus, and nobody else, is let in to the admin port.
fn check_access(manifest: &Manifest, pod: &Value, config: &Config) {
    let account = manifest.named("ServiceAccount", &pod["spec"]["serviceAccountName"]);
    assert_eq!(account["automountServiceAccountToken"], false);
    let Some(Address::Tcp(admin)) = config.admin else { panic!("the admin listener is not on TCP") };
    let annotations = &pod["metadata"]["annotations"];
    if annotations.get("prometheus.io/scrape").is_some() {
        assert_eq!(annotations["prometheus.io/port"], admin.port().to_string());
        assert_eq!(annotations["prometheus.io/path"], "/metrics");
    }
    for monitor in manifest.of_kind("PodMonitor") {
        assert!(selects(&monitor["spec"]["selector"], pod), "{monitor}");
        let endpoint = &monitor["spec"]["podMetricsEndpoints"][0];
        assert_eq!(endpoint["port"], hydrant(pod).unwrap()["ports"][0]["name"]);
    }
    for policy in manifest.of_kind("NetworkPolicy") {
        let spec = &policy["spec"];
        assert!(selects(&spec["podSelector"], pod), "{policy}");
        let [rule] = &spec["ingress"].as_array().unwrap()[..] else { panic!("{policy}") };
        assert_eq!(rule["ports"], serde_json::json!([{ "protocol": "TCP", "port": admin.port() }]));
        assert!(list(&rule["from"]).count() > 0, "everybody is let in: {policy}");
    }
}

/// What the profile `restricted`, and a root file system that can't be written to, object to.
///
/// <https://kubernetes.io/docs/concepts/security/pod-security-standards/>
fn restricted(spec: &Value) -> BTreeSet<String> {
    const VOLUMES: [&str; 8] = [
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "persistentVolumeClaim",
        "projected",
        "secret",
    ];
    let mut objections = BTreeSet::new();
    for shared in ["hostNetwork", "hostPID", "hostIPC"] {
        if spec[shared] == true {
            objections.insert(shared.to_owned());
        }
    }
    for volume in list(&spec["volumes"]) {
        let name = volume["name"].as_str().unwrap();
        let kinds = volume.as_object().unwrap().keys().filter(|key| *key != "name");
        objections.extend(
            kinds.filter(|kind| !VOLUMES.contains(&kind.as_str())).map(|kind| format!("{name}: {kind}")),
        );
    }
    for container in containers(spec) {
        let name = container["name"].as_str().unwrap();
        let own = &container["securityContext"];
        let either = |path: &str| own.pointer(path).or_else(|| spec["securityContext"].pointer(path));
        let mut object = |to: &str| objections.insert(format!("{name}: {to}"));
        let user = either("/runAsUser").and_then(Value::as_u64);
        if either("/runAsNonRoot") != Some(&Value::Bool(true)) || user == Some(0) {
            object("may be root");
        }
        if !matches!(
            either("/seccompProfile/type").and_then(Value::as_str),
            Some("RuntimeDefault" | "Localhost")
        ) {
            object("no seccomp profile");
        }
        if own["privileged"] == true || own["allowPrivilegeEscalation"] != false {
            object("may gain privileges");
        }
        if own["readOnlyRootFilesystem"] != true {
            object("may write to its root file system");
        }
        if !list(&own["capabilities"]["drop"]).any(|capability| capability == "ALL") {
            object("keeps capabilities");
        }
        for capability in list(&own["capabilities"]["add"]).filter_map(Value::as_str) {
            object(&format!("adds {capability}"));
        }
        if list(&container["ports"]).any(|port| port.get("hostPort").is_some()) {
            object("takes a port of the node");
        }
    }
    objections
}

/// The container that is hydrant's.
pub(crate) fn hydrant(pod: &Value) -> Option<&Value> {
    containers(&pod["spec"]).find(|container| container["name"] == "hydrant")
}

fn containers(spec: &Value) -> impl Iterator<Item = &Value> {
    list(&spec["initContainers"]).chain(list(&spec["containers"]))
}

fn mount_at<'a>(container: &'a Value, directory: &str) -> &'a Value {
    let mut mounts = list(&container["volumeMounts"]);
    mounts.find(|mount| mount["mountPath"] == directory).unwrap_or_else(|| panic!("nothing at {directory}"))
}

fn volume<'a>(pod: &'a Value, name: &Value) -> &'a Value {
    let found = list(&pod["spec"]["volumes"]).find(|volume| volume["name"] == *name);
    found.unwrap_or_else(|| panic!("no volume is named {name}"))
}

/// Whether a label selector takes the pod, by labels that must match and keys that must exist.
fn selects(selector: &Value, pod: &Value) -> bool {
    let labels = &pod["metadata"]["labels"];
    let matches = selector["matchLabels"].as_object().into_iter().flatten();
    let keys: Vec<&Value> = list(&selector["matchExpressions"]).collect();
    assert!(keys.iter().all(|key| key["operator"] == "Exists"), "{selector}");
    matches.clone().count() + keys.len() > 0
        && matches.into_iter().all(|(key, value)| labels[key] == *value)
        && keys.iter().all(|key| labels.get(key["key"].as_str().unwrap()).is_some())
}

/// The elements of a list that may be absent.
pub(crate) fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}
