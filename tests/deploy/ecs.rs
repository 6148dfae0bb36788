//! The task definitions of `deploy/ecs`.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use hydrant::config::{Address, Config, Sources, load};
use serde_json::{Map, Value, json};
use tempfile::TempDir;

use crate::pods::{OVERHEAD, SPOOL_OVERHEAD, list};
use crate::python::{Kind, Service, python};
use crate::tools::{ROOT, output, program, tools};

const FARGATE: &str = "deploy/ecs/task-definition.json";
const DAEMON: &str = "deploy/ecs/task-definition-daemon.json";
const GUIDE: &str = "docs/DEPLOY.md";

/// A value for each placeholder.
const PLACEHOLDERS: [(&str, &str); 7] = [
    ("APP_IMAGE", "111122223333.dkr.ecr.eu-west-1.amazonaws.com/app:1"),
    ("EXECUTION_ROLE_ARN", "arn:aws:iam::111122223333:role/execution"),
    ("HYDRANT_IMAGE", "111122223333.dkr.ecr.eu-west-1.amazonaws.com/hydrant:0.1.0"),
    ("LOG_GROUP", "/ecs/app"),
    ("REGION", "eu-west-1"),
    ("STREAM", "app-logs"),
    ("TASK_ROLE_ARN", "arn:aws:iam::111122223333:role/producer"),
];

fn text(path: &str) -> String {
    fs::read_to_string(Path::new(ROOT).join(path)).unwrap()
}

/// The definition with its placeholders filled in.
fn definition(path: &str) -> Value {
    let filled = PLACEHOLDERS
        .iter()
        .fold(text(path), |text, (name, value)| text.replace(&format!("${{{name}}}"), value));
    assert!(!filled.contains('$'), "a placeholder that is not known: {filled}");
    serde_json::from_str(&filled).unwrap()
}

fn hydrant(definition: &Value) -> &Value {
    list(&definition["containerDefinitions"]).find(|container| container["name"] == "hydrant").unwrap()
}

/// What the container's environment sets up, which the real `hydrant check` must accept.
fn configuration(container: &Value) -> Config {
    let variable =
        |pair: &Value| (pair["name"].as_str().unwrap().into(), pair["value"].as_str().unwrap().into());
    let environment: Vec<(OsString, OsString)> = list(&container["environment"]).map(variable).collect();
    let mut check = Command::new(env!("CARGO_BIN_EXE_hydrant"));
    output(check.env_clear().envs(environment.clone()).arg("check")).unwrap();
    let loaded = load(&Sources { environment, ..Sources::default() }).unwrap();
    assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
    loaded.config
}

/// A file in a directory of its own.
fn written(text: &str) -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("template.json");
    fs::write(&path, text).unwrap();
    (directory, path)
}

// R-R8
#[tokio::test]
async fn task_definitions_are_what_ecs_registers() {
    let Some(python) = python() else { return };
    let service = Service::start(python, Kind::Moto).await;
    for path in [FARGATE, DAEMON] {
        let sent = definition(path);
        let (_directory, file) = written(&sent.to_string());
        let script = Path::new(ROOT).join("tests/deploy/ecs.py");
        let mut command = python.command("python", &service.endpoint);
        let answer = command.arg(script).arg(&file).output().await.unwrap();
        assert!(answer.status.success(), "{path}: {}", String::from_utf8_lossy(&answer.stderr));
        let described: Value = serde_json::from_slice(&answer.stdout).unwrap();
        assert_contains(&described, &sent, path);
    }
}

/// Everything that `part` says is in `whole`, which may say more.
fn assert_contains(whole: &Value, part: &Value, at: &str) {
    match part {
        Value::Object(fields) => {
            fields.iter().for_each(|(key, part)| assert_contains(&whole[key], part, &format!("{at}.{key}")));
        }
        Value::Array(parts) => {
            for (index, part) in parts.iter().enumerate() {
                assert_contains(&whole[index], part, &format!("{at}[{index}]"));
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => assert_eq!(whole, part, "{at}"),
    }
}

#[test]
fn task_definitions_pass_cfn_lint_and_sizes_that_fargate_has_not_do_not() {
    let Some(tools) = tools() else { return };
    let lint = |definition: &Value| {
        let properties = in_cloudformation(definition);
        let resource = json!({ "Type": "AWS::ECS::TaskDefinition", "Properties": properties });
        let (_directory, file) = written(&json!({ "Resources": { "Task": resource } }).to_string());
        tools.cfn_lint(&file)
    };
    for path in [FARGATE, DAEMON] {
        lint(&definition(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
    }
    let mut wrong = definition(FARGATE);
    wrong["memory"] = "4096".into();
    let error = lint(&wrong).unwrap_err();
    assert!(error.contains("E3047"), "{error}");
}

/// CloudFormation names the same things with capitals, but for the keys of free maps.
fn in_cloudformation(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let capital = |(key, value): (&String, &Value)| {
                let value = if key == "options" { value.clone() } else { in_cloudformation(value) };
                (key[..1].to_uppercase() + &key[1..], value)
            };
            Value::Object(fields.iter().map(capital).collect::<Map<_, _>>())
        }
        Value::Array(values) => values.iter().map(in_cloudformation).collect(),
        plain @ (Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_)) => plain.clone(),
    }
}

// R-R8
#[test]
fn the_daemon_of_a_task_has_the_time_the_memory_and_the_rights_that_it_needs() {
    for path in [FARGATE, DAEMON] {
        let definition = definition(path);
        let container = hydrant(&definition);
        let config = configuration(container);
        assert!(container["stopTimeout"].as_u64().unwrap() > config.shutdown_drain.as_secs(), "{path}");
        let memory = usize::try_from(container["memory"].as_u64().unwrap()).unwrap() << 20;
        assert!(memory >= config.buffer.memory + OVERHEAD, "{path}");
        assert_eq!(container["user"], "65532:65532");
        assert_eq!(
            (&container["readonlyRootFilesystem"], &container["privileged"]),
            (&json!(true), &json!(false))
        );
        assert_eq!(container["linuxParameters"]["capabilities"], json!({ "drop": ["ALL"] }));
        assert_eq!(container["healthCheck"]["command"], json!(["CMD", "/usr/bin/hydrant", "health"]));
        // Asked by the binary itself, in the same container.
        let Some(Address::Tcp(admin)) = config.admin else { panic!("the admin listener is not on TCP") };
        assert!(admin.ip().is_loopback());
        let Address::Unix(socket) = &config.listen["app"].address else { panic!("not a Unix socket") };
        let spool = config.buffer.spool.as_ref().expect("a spool");
        let directories = [
            socket.parent(),
            spool.directory.parent(),
            config.dead_letter.directory.as_deref().and_then(Path::parent),
        ];
        for directory in directories.into_iter().flatten() {
            let mount = mount_at(container, directory);
            assert_eq!(mount["readOnly"], false);
            let volume = list(&definition["volumes"]).find(|volume| volume["name"] == mount["sourceVolume"]);
            assert!(volume.is_some(), "{path}: {mount}");
        }
    }
}

/// Fargate gives a task 20 GiB unless more is asked for, and its images take of that:
/// <https://docs.aws.amazon.com/AmazonECS/latest/developerguide/fargate-task-storage.html>.
// R-R8
#[test]
fn the_storage_of_a_task_has_room_for_the_spool_beside_its_images() {
    let definition = definition(FARGATE);
    let storage = definition.pointer("/ephemeralStorage/sizeInGiB").map_or(20, |size| size.as_u64().unwrap());
    let spool = configuration(hydrant(&definition)).buffer.spool.expect("a spool");
    assert!(
        spool.limit_bytes + SPOOL_OVERHEAD <= (storage << 30) / 2,
        "{} of {storage} GiB",
        spool.limit_bytes
    );
}

fn mount_at<'a>(container: &'a Value, directory: &Path) -> &'a Value {
    let mut mounts = list(&container["mountPoints"]);
    let at = |mount: &&Value| Path::new(mount["containerPath"].as_str().unwrap()) == directory;
    mounts.find(at).unwrap_or_else(|| panic!("nothing at {}", directory.display()))
}

// R-R8
#[test]
fn the_application_starts_after_the_daemon_and_stops_before_it() {
    let definition = definition(FARGATE);
    let sidecar = hydrant(&definition);
    let app = list(&definition["containerDefinitions"]).find(|container| container["name"] == "app").unwrap();
    assert_eq!(app["dependsOn"], json!([{ "containerName": "hydrant", "condition": "HEALTHY" }]));
    let socket = mount_at(app, Path::new("/run/hydrant"));
    assert_eq!(socket["sourceVolume"], sidecar["mountPoints"][0]["sourceVolume"]);
    // Fargate allows 120 s each, and Fargate Spot gives notice of 120 s for both.
    let stops = [app, sidecar].map(|container| container["stopTimeout"].as_u64().unwrap());
    assert!(stops.iter().sum::<u64>() <= 120, "{stops:?}");
    let memory = |container: &Value| container["memory"].as_u64().unwrap_or(0);
    assert!(memory(sidecar) < definition["memory"].as_str().unwrap().parse().unwrap());
}

#[test]
fn the_guide_lists_every_placeholder_and_its_command_fills_them_in() {
    let Some(envsubst) = program("envsubst") else { return };
    let mut used = BTreeSet::new();
    for path in [FARGATE, DAEMON] {
        let text = text(path);
        used.extend(text.split("${").skip(1).map(|rest| rest.split_once('}').unwrap().0.to_owned()));
        let mut command = Command::new(&envsubst);
        command.envs(PLACEHOLDERS).stdin(fs::File::open(Path::new(ROOT).join(path)).unwrap());
        let filled = command.output().unwrap();
        assert_eq!(serde_json::from_slice::<Value>(&filled.stdout).unwrap(), definition(path));
    }
    assert_eq!(used, PLACEHOLDERS.iter().map(|(name, _)| (*name).to_owned()).collect());
    let guide = text(GUIDE);
    for name in used {
        assert!(guide.contains(&format!("| `{name}` |")), "{GUIDE} does not say what {name} is");
    }
}
