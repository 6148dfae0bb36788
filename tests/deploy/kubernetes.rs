//! The overlays of `deploy/kubernetes`.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use hydrant::local::Options;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};

use crate::daemon::{Daemon, Sink, number, patiently};
use crate::pods::{Manifest, Place, check, hydrant, list};
use crate::tools::{ROOT, Tools, program, tools};

/// The newest version of Kubernetes whose schemas there are.
pub(crate) const NEWEST: &str = "1.37";
/// The oldest version that takes init containers as sidecars without being asked to.
pub(crate) const OLDEST: &str = "1.29";
/// The oldest version whose schemas there are.
const ANCIENT: &str = "1.25";

/// Each overlay that has a hydrant, with where that runs and the oldest version it is for.
const OVERLAYS: [(&str, Place, &str); 4] = [
    ("deploy/kubernetes/sidecar", Place::Sidecar, OLDEST),
    ("deploy/kubernetes/production", Place::Sidecar, OLDEST),
    ("deploy/kubernetes/classic-sidecar", Place::ClassicSidecar, ANCIENT),
    ("deploy/kubernetes/daemonset", Place::Node, ANCIENT),
];
/// A producer of the node's hydrant.
const PRODUCER: &str = "deploy/kubernetes/daemonset/example-app";

// R-R7
#[test]
fn every_overlay_is_what_the_kubernetes_api_takes() {
    let Some(tools) = tools() else { return };
    for (overlay, _, oldest) in OVERLAYS.into_iter().chain([(PRODUCER, Place::Node, ANCIENT)]) {
        let manifest = tools.kustomize(overlay);
        for version in [oldest, NEWEST] {
            tools
                .validate(&manifest, version)
                .unwrap_or_else(|error| panic!("{overlay}, {version}: {error}"));
        }
    }
}

#[test]
fn a_misspelt_key_and_a_sidecar_of_an_old_version_are_found() {
    let Some(tools) = tools() else { return };
    let manifest = tools.kustomize("deploy/kubernetes/sidecar");
    let misspelt = manifest.replace("readOnlyRootFilesystem", "readOnlyRootFileSystem");
    let error = tools.validate(&misspelt, NEWEST).unwrap_err();
    assert!(error.contains("readOnlyRootFileSystem"), "{error}");
    let error = tools.validate(&manifest, ANCIENT).unwrap_err();
    assert!(error.contains("restartPolicy"), "{error}");
    let error =
        tools.validate(&manifest.replace("kind: Deployment", "kind: Deploiment"), NEWEST).unwrap_err();
    assert!(error.contains("Deploiment"), "{error}");
}

// R-R7
#[test]
fn every_overlay_keeps_what_is_promised_of_it() {
    let Some(tools) = tools() else { return };
    for (overlay, place, _) in OVERLAYS {
        eprintln!("{overlay}");
        check(&Manifest::parse(&tools.kustomize(overlay)), place);
    }
}

#[test]
fn every_file_that_the_guide_names_is_there() {
    let guide = std::fs::read_to_string(Path::new(ROOT).join("docs/DEPLOY.md")).unwrap();
    let words = guide.split(|c: char| c.is_whitespace() || c == '`');
    let named: Vec<&str> = words.filter(|word| word.starts_with("deploy/")).collect();
    assert!(named.len() > 10, "{named:?}");
    for path in named {
        let path = path.trim_end_matches([',', ';', ':', '.', ')']);
        assert!(Path::new(ROOT).join(path).exists(), "docs/DEPLOY.md: {path} does not exist");
    }
}

/// What a daemon on the node and a producer beside it have to agree on.
#[test]
fn a_producer_finds_the_nodes_socket_and_may_connect_to_it() {
    let Some(tools) = tools() else { return };
    let node = Manifest::parse(&tools.kustomize("deploy/kubernetes/daemonset"));
    let producer = Manifest::parse(&tools.kustomize(PRODUCER));
    let path = |pod: &Value| {
        let volumes = list(&pod["spec"]["volumes"]).find(|volume| volume["name"] == "hydrant-socket");
        volumes.unwrap()["hostPath"]["path"].clone()
    };
    let app = &producer.of_kind("Deployment").next().unwrap()["spec"]["template"];
    assert_eq!(path(app), path(node.pod()));
    let group = &hydrant(node.pod()).unwrap()["securityContext"]["runAsGroup"];
    assert_eq!(&app["spec"]["securityContext"]["supplementalGroups"][0], group);
}

#[test]
fn an_overlay_of_your_own_sets_namespace_image_role_and_stream() {
    let Some(tools) = tools() else { return };
    let manifest = Manifest::parse(&tools.kustomize("deploy/kubernetes/production"));
    let pod = manifest.pod();
    assert_eq!(
        hydrant(pod).unwrap()["image"],
        "111122223333.dkr.ecr.eu-west-1.amazonaws.com/hydrant:0.1.0",
        "{pod:#}"
    );
    let account = manifest.named("ServiceAccount", &"hydrant".into());
    assert_eq!(account["metadata"]["namespace"], "shop");
    let role = &account["metadata"]["annotations"]["eks.amazonaws.com/role-arn"];
    assert_eq!(role, "arn:aws:iam::111122223333:role/hydrant-producer");
    let config_map = manifest.of_kind("ConfigMap").find(|map| map["data"].get("hydrant.toml").is_some());
    let text = config_map.unwrap()["data"]["hydrant.toml"].as_str().unwrap();
    assert!(text.contains("\"shop-logs\""), "{text}");
    assert_eq!(manifest.of_kind("PodMonitor").count(), 1);
}

#[test]
fn the_role_for_pod_identity_is_what_cloudformation_takes() {
    let Some(tools) = tools() else { return };
    tools.cfn_lint(&Path::new(ROOT).join("deploy/kubernetes/aws/pod-identity.yaml")).unwrap();
}

/// The hook `name` of the classic sidecar, by a busybox of this system, for `daemon`, with `seconds`
/// as its longest wait.
fn hook(tools: &Tools, busybox: &Path, name: &str, daemon: &Daemon, seconds: &str) -> Command {
    let manifest = Manifest::parse(&tools.kustomize("deploy/kubernetes/classic-sidecar"));
    let command = &hydrant(manifest.pod()).unwrap()["lifecycle"][name]["exec"]["command"];
    let log = daemon.log();
    let admin = log.iter().find(|line| line["message"] == "Admin listening.").unwrap();
    let admin = admin["address"].as_str().unwrap().trim_start_matches("tcp:");
    let replaced = |word: &Value| {
        let word = word.as_str().unwrap().replace("/tools/busybox", busybox.to_str().unwrap());
        word.replace("127.0.0.1:9464", admin)
            .replace("/run/hydrant/app.sock", daemon.socket().to_str().unwrap())
    };
    let mut words: Vec<String> = list(command).map(replaced).collect();
    assert_eq!((&*words[1], &*words[2]), ("timeout", "30"), "{words:?}");
    words[2] = seconds.to_owned();
    let mut hook = Command::new(&words[0]);
    // No program but busybox is to be had in the image.
    hook.args(&words[1..]).env_clear().stdin(Stdio::null());
    hook
}

#[tokio::test]
async fn the_classic_sidecar_waits_for_its_producers_and_they_for_its_socket() {
    let (Some(tools), Some(busybox)) = (tools(), program("busybox")) else { return };
    let sink = Sink::start(Options::default()).await;
    let daemon = Daemon::start(&sink.local.url(), &[]).await;
    let succeeds = async |name: &str, seconds: &str| {
        let mut hook = tokio::process::Command::from(hook(tools, &busybox, name, &daemon, seconds));
        patiently("done", hook.status()).await.unwrap().success()
    };
    assert!(succeeds("postStart", "30").await);
    assert!(succeeds("preStop", "30").await);
    let producer = daemon.connect().await;
    daemon.until("connected", |status| number(status, "/connections") == 1).await;
    assert!(!succeeds("preStop", "1").await, "did not wait for a producer");
    drop(producer);
    assert!(succeeds("preStop", "30").await);
    std::fs::rename(daemon.socket(), daemon.directory.path().join("moved")).unwrap();
    assert!(!succeeds("postStart", "1").await, "did not wait for the socket");
}

#[tokio::test]
async fn the_example_producer_connects_again_and_its_last_word_is_delivered() {
    let Some(python) = program("python3") else { return };
    let script: PathBuf = Path::new(ROOT).join("deploy/kubernetes/example-app/producer.py");
    let sink = Sink::start(Options::default()).await;
    let first = Daemon::start(&sink.local.url(), &[]).await;
    let socket = first.socket();
    let mut command = tokio::process::Command::new(python);
    command.arg(script).arg(&socket).kill_on_drop(true).stderr(Stdio::null());
    let mut producer = command.spawn().unwrap();
    first.until("received", |status| number(status, "/ledger/received/records") > 0).await;
    first.signal("TERM");
    let directory = tempfile::tempdir().unwrap();
    let (address, endpoint) = (
        format!("listen.app.address=unix:{}", socket.display()),
        format!("endpoint_url={}", sink.local.url()),
    );
    let Daemon { mut child, directory: place, .. } = first;
    assert!(patiently("ended", child.wait()).await.unwrap().success());
    let second = Daemon::start_in(directory, [&*address, &*endpoint]).await;
    second.until("received again", |status| number(status, "/ledger/received/records") > 0).await;
    let pid = producer.id().unwrap().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    assert!(patiently("ended", producer.wait()).await.unwrap().success());
    assert!(second.stop().await.status.success());
    drop(place);
    let mut numbers = Vec::new();
    let mut last = 0;
    for line in sink.lines().await.into_keys() {
        let record: Value = serde_json::from_slice(&line).unwrap();
        numbers.push(number(&record, "/number"));
        last += usize::from(record["message"] == "stopping");
    }
    numbers.sort_unstable();
    assert_eq!(numbers, (0..numbers.len() as u64).collect::<Vec<_>>());
    assert_eq!(last, 1);
}

#[tokio::test]
async fn the_example_producer_ends_though_it_reaches_nobody_and_says_that_it_failed() {
    let Some(python) = program("python3") else { return };
    let directory = tempfile::tempdir().unwrap();
    let mut command = tokio::process::Command::new(python);
    command.arg(Path::new(ROOT).join("deploy/kubernetes/example-app/producer.py"));
    command.arg(directory.path().join("app.sock")).kill_on_drop(true).stderr(Stdio::piped());
    let mut producer = command.spawn().unwrap();
    let mut said = BufReader::new(producer.stderr.take().unwrap()).lines();
    let line = patiently("said", said.next_line()).await.unwrap().unwrap();
    assert!(line.contains("No such file"), "{line}");
    let pid = producer.id().unwrap().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    assert_eq!(patiently("ended", producer.wait()).await.unwrap().code(), Some(1));
}
