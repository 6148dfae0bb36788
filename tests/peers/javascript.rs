//! Node with the AWS SDK for JavaScript.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use crate::python::{or_skipped, output};

const SCRIPTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/peers");

/// The packages, or `None` once it was said that the calling test is skipped.
pub(crate) fn javascript() -> Option<&'static JavaScript> {
    static NODE: OnceLock<Result<JavaScript, String>> = OnceLock::new();
    or_skipped(NODE.get_or_init(JavaScript::ready))
}

/// Node, and a folder with the packages that `package-lock.json` names.
pub(crate) struct JavaScript {
    home: PathBuf,
}

impl JavaScript {
    /// The packages below Cargo's target directory, installed if they are not there or not what is
    /// wanted. Other processes that want them meanwhile wait.
    fn ready() -> Result<Self, String> {
        let version = output(Command::new("node").arg("--version"))?;
        let home = Path::new(env!("CARGO_TARGET_TMPDIR")).join("peers-node");
        let lock = File::create(home.with_extension("lock")).map_err(|error| error.to_string())?;
        lock.lock().map_err(|error| error.to_string())?;
        let read =
            |file: &str| fs::read_to_string(Path::new(SCRIPTS).join(file)).map_err(|error| error.to_string());
        // Written last, so that an installation that was cut short is not taken for a whole one.
        let complete = home.join("complete");
        let wanted = version + &read("package-lock.json")?;
        if fs::read_to_string(&complete).ok().as_ref() != Some(&wanted) {
            fs::create_dir_all(&home).map_err(|error| error.to_string())?;
            for file in ["package.json", "package-lock.json"] {
                fs::write(home.join(file), read(file)?).map_err(|error| error.to_string())?;
            }
            let mut npm = Command::new("npm");
            npm.args(["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier"]);
            output(npm.current_dir(&home))?;
            fs::write(&complete, wanted).map_err(|error| error.to_string())?;
        }
        Ok(Self { home })
    }

    /// Runs a script of these tests to its end, with `variables` and no others.
    pub(crate) async fn run(&self, script: &str, arguments: &[&str], variables: &[(&str, &str)]) {
        // Packages are looked for beside the script.
        let copy = self.home.join(script);
        fs::copy(Path::new(SCRIPTS).join(script), &copy).unwrap();
        let mut node = tokio::process::Command::new("node");
        node.arg(&copy).args(arguments).env_clear().envs(variables.iter().copied());
        node.env("PATH", std::env::var("PATH").unwrap_or_default());
        let output = node.stdin(Stdio::null()).kill_on_drop(true).output().await.unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{script} {arguments:?}: {said}");
    }
}
