//! Node, and the packages that `resources/package-lock.json` names.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

use serde_json::Value;
use tempfile::TempDir;

use crate::python::{or_skipped, output};
use crate::{project, read};

/// `node` with one of the scripts of `resources`, or `None` once it was said that the calling test
/// is skipped.
pub(crate) fn node(script: &str) -> Option<tokio::process::Command> {
    static VERSION: OnceLock<Result<String, String>> = OnceLock::new();
    or_skipped(VERSION.get_or_init(|| output(Command::new("node").arg("--version"))))?;
    let mut command = tokio::process::Command::new("node");
    command.arg(project("resources").join(script)).kill_on_drop(true).stdin(Stdio::null());
    Some(command)
}

/// The packages, or `None` once it was said that the calling test is skipped.
pub(crate) fn cdk() -> Option<&'static Cdk> {
    static CDK: OnceLock<Result<Cdk, String>> = OnceLock::new();
    or_skipped(CDK.get_or_init(Cdk::ready))
}

/// The AWS CDK as it is pinned.
pub(crate) struct Cdk {
    node_modules: PathBuf,
}

impl Cdk {
    /// The packages below Cargo's target directory, installed if they are not there or not what is
    /// wanted. Other processes that want them meanwhile wait.
    fn ready() -> Result<Self, String> {
        let versions = output(Command::new("node").arg("--version"))?;
        let home = Path::new(env!("CARGO_TARGET_TMPDIR")).join("deploy-node");
        let lock = File::create(home.with_extension("lock")).map_err(|error| error.to_string())?;
        lock.lock().map_err(|error| error.to_string())?;
        // Written last, so that an installation that was cut short is not taken for a whole one.
        let complete = home.join("complete");
        let wanted = versions + &read("resources/package-lock.json");
        if fs::read_to_string(&complete).ok().as_ref() != Some(&wanted) {
            fs::create_dir_all(&home).map_err(|error| error.to_string())?;
            for file in ["package.json", "package-lock.json"] {
                fs::write(home.join(file), read(&format!("resources/{file}")))
                    .map_err(|error| error.to_string())?;
            }
            let mut npm = Command::new("npm");
            npm.args(["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier"]);
            output(npm.current_dir(&home))?;
            fs::write(&complete, wanted).map_err(|error| error.to_string())?;
        }
        Ok(Self { node_modules: home.join("node_modules") })
    }

    /// `npx cdk synth` in a copy of `resources`, with settings `KEY=VALUE` beside those of cdk.json:
    /// without an account, and with no network beyond this machine.
    pub(crate) fn synth(&self, settings: &[&str]) -> Synthesis {
        let directory = tempfile::tempdir().unwrap();
        let files = fs::read_dir(project("resources")).unwrap().map(|file| file.unwrap().path());
        for file in files.filter(|file| file.is_file()) {
            fs::copy(&file, directory.path().join(file.file_name().unwrap())).unwrap();
        }
        symlink(&self.node_modules, directory.path().join("node_modules")).unwrap();
        let mut npx = Command::new("npx");
        npx.args(["cdk", "synth", "--quiet"]);
        for setting in settings {
            npx.args(["--context", setting]);
        }
        npx.env_clear().current_dir(&directory).stdin(Stdio::null()).envs([
            ("PATH", std::env::var("PATH").unwrap_or_default().as_str()),
            ("HOME", directory.path().to_str().unwrap()),
            ("AWS_EC2_METADATA_DISABLED", "true"),
            ("HTTP_PROXY", "http://127.0.0.1:9"),
            ("HTTPS_PROXY", "http://127.0.0.1:9"),
        ]);
        let output = npx.output().unwrap();
        Synthesis { output, directory }
    }

    /// The stack as it is with the settings of cdk.json.
    pub(crate) fn stack(&self) -> &'static Synthesis {
        static STACK: OnceLock<Synthesis> = OnceLock::new();
        STACK.get_or_init(|| self.synth(&[]))
    }
}

/// What became of `npx cdk synth`.
pub(crate) struct Synthesis {
    output: Output,
    directory: TempDir,
}

impl Synthesis {
    /// What was said.
    pub(crate) fn said(&self) -> String {
        String::from_utf8_lossy(&self.output.stderr).into_owned()
    }

    pub(crate) fn has_failed(&self) -> bool {
        !self.output.status.success()
    }

    /// The file that holds the template.
    pub(crate) fn file(&self) -> PathBuf {
        assert!(!self.has_failed(), "{}", self.said());
        self.directory.path().join("cdk.out/Hydrant.template.json")
    }

    pub(crate) fn template(&self) -> Value {
        serde_json::from_str(&fs::read_to_string(self.file()).unwrap()).unwrap()
    }
}
