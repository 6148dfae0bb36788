//! The alarms and the dashboard for CloudWatch, put there by the commands of docs/MONITORING.md.

use std::process::Command;
use std::sync::OnceLock;

use crate::python::{Kind, Service, or_skipped, output, python};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Whether there are the programs that the commands use; not, once it was said that the calling
/// test is skipped.
fn has_programs() -> bool {
    static PROGRAMS: OnceLock<Result<(), String>> = OnceLock::new();
    let look = || {
        ["envsubst", "jq"]
            .into_iter()
            .try_for_each(|program| output(Command::new(program).arg("--version")).map(drop))
    };
    or_skipped(PROGRAMS.get_or_init(look)).is_some()
}

/// The commands of the document's console block that holds `word`, without their prompts.
fn commands(word: &str) -> String {
    let text = std::fs::read_to_string(format!("{ROOT}/docs/MONITORING.md")).unwrap();
    let blocks = text.split("```console\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    let block = blocks.into_iter().find(|block| block.contains(word)).unwrap();
    block.lines().map(|line| line.strip_prefix("$ ").unwrap_or(line).to_owned() + "\n").collect()
}

#[tokio::test]
async fn the_documented_commands_put_every_alarm_and_the_dashboard_into_cloudwatch() {
    let Some(python) = python() else { return };
    if !has_programs() {
        return;
    }
    let service = Service::start(python, Kind::Moto).await;
    let commands = commands("put-metric-alarm");
    let mut shell = python.shell(&service.endpoint);
    shell.current_dir(ROOT).args(["-euo", "pipefail", "-c", &commands]);
    let ended = shell.output().await.unwrap();
    assert!(ended.status.success(), "{commands}\n{}", String::from_utf8_lossy(&ended.stderr));

    let exports = commands.lines().filter_map(|line| line.strip_prefix("export "));
    let values: Vec<&str> = exports.flat_map(|line| line.split(' ')).collect();
    let region = values.iter().find_map(|value| value.strip_prefix("REGION=")).unwrap();
    let files = [
        format!("{ROOT}/resources/cloudwatch-alarms.json"),
        format!("{ROOT}/resources/cloudwatch-dashboard.json"),
    ];
    let mut verify = python.command("python", &service.endpoint);
    verify
        .env("AWS_DEFAULT_REGION", region)
        .arg(format!("{ROOT}/tests/peers/alarms.py"))
        .args(files)
        .args(values);
    let ended = verify.output().await.unwrap();
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
}
