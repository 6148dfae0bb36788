//! The Debian package: built, judged by lintian, installed into an empty root, removed and purged by
//! the real dpkg.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::python::{or_skipped, output};
use crate::{project, read};

/// What the package puts where, and with which mode.
const FILES: [(&str, u32); 13] = [
    ("etc/hydrant/hydrant.toml", 0o644),
    ("usr/bin/hydrant", 0o755),
    ("usr/lib/systemd/system/hydrant.service", 0o644),
    ("usr/lib/systemd/system/hydrant.socket", 0o644),
    ("usr/share/bash-completion/completions/hydrant", 0o644),
    ("usr/share/doc/hydrant/changelog.Debian.gz", 0o644),
    ("usr/share/doc/hydrant/changelog.gz", 0o644),
    ("usr/share/doc/hydrant/copyright", 0o644),
    ("usr/share/doc/hydrant/examples/hydrant.toml", 0o644),
    ("usr/share/fish/vendor_completions.d/hydrant.fish", 0o644),
    ("usr/share/lintian/overrides/hydrant", 0o644),
    ("usr/share/man/man1/hydrant.1.gz", 0o644),
    ("usr/share/zsh/vendor-completions/_hydrant", 0o644),
];
const CONFIGURATION: &str = "etc/hydrant/hydrant.toml";

/// The package of the program that is tested, in a directory of its own; `None` once it was said
/// that the test is skipped.
fn package() -> Option<(TempDir, PathBuf)> {
    or_skipped(&tools(["dpkg-deb", "objdump", "gzip"]))?;
    let directory = tempfile::tempdir().unwrap();
    let package = build(directory.path());
    Some((directory, package))
}

/// Nothing, once every one of the programs was started.
fn tools<const N: usize>(names: [&str; N]) -> Result<(), String> {
    names.into_iter().try_for_each(|name| output(Command::new(name).arg("--version")).map(drop))
}

fn build(directory: &Path) -> PathBuf {
    let mut command = Command::new(project("deploy/deb/build"));
    command.arg(env!("CARGO_BIN_EXE_hydrant")).arg(directory);
    // Nothing here is about how small it is.
    command.env("DPKG_DEB_COMPRESSOR_TYPE", "none").env("SOURCE_DATE_EPOCH", "1700000000");
    PathBuf::from(output(&mut command).unwrap().trim_end())
}

/// A machine's file system with nothing in it, and dpkg to install there.
struct Machine(TempDir);

impl Machine {
    fn new() -> Result<Self, String> {
        let root = tempfile::tempdir().map_err(|error| error.to_string())?;
        if fs::metadata(root.path()).map_err(|error| error.to_string())?.uid() != 0 {
            return Err("only root can install a package, into an empty root too".to_owned());
        }
        tools(["dpkg"])?;
        for directory in ["var/lib/dpkg/updates", "var/lib/dpkg/info", "etc"] {
            fs::create_dir_all(root.path().join(directory)).map_err(|error| error.to_string())?;
        }
        for file in ["var/lib/dpkg/status", "var/lib/dpkg/available", "etc/group"] {
            fs::write(root.path().join(file), "").map_err(|error| error.to_string())?;
        }
        Ok(Self(root))
    }

    /// dpkg's `action` on `what`. The scripts of the package run outside, and are told of the root.
    fn dpkg(&self, action: &str, what: &str) {
        let mut dpkg = Command::new("dpkg");
        dpkg.arg(format!("--root={}", self.0.path().display()));
        dpkg.args(["--force-script-chrootless", "--force-depends", "--force-confold", "--log=/dev/null"]);
        output(dpkg.args([action, what])).unwrap();
    }

    fn path(&self, file: &str) -> PathBuf {
        self.0.path().join(file)
    }

    /// The files there are, without dpkg's own and the groups.
    fn files(&self) -> Vec<String> {
        let mut pending = vec![self.0.path().to_owned()];
        let mut files = Vec::new();
        while let Some(directory) = pending.pop() {
            for entry in fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                match path.is_dir() {
                    true => pending.push(path),
                    false => files.push(path.strip_prefix(&self.0).unwrap().display().to_string()),
                }
            }
        }
        files.retain(|file| !file.starts_with("var/lib/dpkg/") && !file.starts_with("etc/group"));
        files.sort();
        files
    }
}

fn gunzipped(path: &Path) -> String {
    let mut text = String::new();
    flate2::read::GzDecoder::new(File::open(path).unwrap()).read_to_string(&mut text).unwrap();
    text
}

#[test]
fn the_package_installs_everything_and_leaves_nothing() {
    let Some((_directory, package)) = package() else { return };
    let machine = Machine::new();
    let Some(machine) = or_skipped(&machine) else { return };
    let package = package.to_str().unwrap();
    machine.dpkg("--install", package);
    let expected: Vec<_> = FILES.iter().map(|(file, _)| (*file).to_owned()).collect();
    assert_eq!(machine.files(), expected);
    for (file, mode) in FILES {
        let found = fs::metadata(machine.path(file)).unwrap();
        assert_eq!((found.mode() & 0o7777, found.uid(), found.gid()), (mode, 0, 0), "{file}");
    }
    for unit in ["hydrant.service", "hydrant.socket"] {
        let installed = fs::read_to_string(machine.path("usr/lib/systemd/system").join(unit)).unwrap();
        assert_eq!(installed, read(&format!("deploy/systemd/{unit}")));
    }
    let groups = fs::read_to_string(machine.path("etc/group")).unwrap();
    assert!(groups.starts_with("hydrant-producers:"), "{groups:?}");
    assert!(read("deploy/systemd/hydrant.socket").contains("SocketGroup=hydrant-producers"));

    // The installed program takes the installed configuration, and prints the installed page.
    let program = machine.path("usr/bin/hydrant");
    let mut check = Command::new(&program);
    check.env_clear().args(["check", "--config"]).arg(machine.path(CONFIGURATION));
    let settings = output(&mut check).unwrap();
    assert!(settings.contains("my-stream"), "{settings}");
    let page = output(Command::new(&program).args(["generate", "man"])).unwrap();
    assert_eq!(gunzipped(&machine.path("usr/share/man/man1/hydrant.1.gz")), page);

    // An administrator's configuration outlives an upgrade and a removal, and not a purge.
    fs::write(machine.path(CONFIGURATION), "delivery_stream_name = \"ours\"\n").unwrap();
    machine.dpkg("--install", package);
    assert_eq!(machine.files(), expected, "after an upgrade");
    machine.dpkg("--remove", "hydrant");
    assert_eq!(machine.files(), [CONFIGURATION], "after the removal");
    let kept = fs::read_to_string(machine.path(CONFIGURATION)).unwrap();
    assert_eq!(kept, "delivery_stream_name = \"ours\"\n");
    machine.dpkg("--purge", "hydrant");
    assert_eq!(machine.files(), Vec::<String>::new(), "after the purge");
    assert!(!machine.path("etc/hydrant").exists() && !machine.path("usr").exists());
}

#[test]
fn the_package_asks_for_what_the_program_is_linked_with() {
    let Some((_directory, package)) = package() else { return };
    let field = |name| output(Command::new("dpkg-deb").arg("--field").arg(&package).arg(name)).unwrap();
    assert_eq!(field("Version").trim_end(), concat!(env!("CARGO_PKG_VERSION"), "-1"));
    let depends = field("Depends");
    for name in ["libc6 (>= 2.", "libgcc-s1", "ca-certificates"] {
        assert!(depends.contains(name), "{depends}");
    }
}

#[test]
fn the_same_program_makes_the_same_package() {
    let Some((_directory, package)) = package() else { return };
    let again = tempfile::tempdir().unwrap();
    assert!(fs::read(package).unwrap() == fs::read(build(again.path())).unwrap());
}

#[test]
fn lintian_finds_nothing_in_the_package() {
    let Some((_directory, package)) = package() else { return };
    if or_skipped(&tools(["lintian"])).is_none() {
        return;
    }
    let mut lintian = Command::new("lintian");
    // The maintainer is whoever builds it, and the tests do not compress it.
    lintian.args(["--allow-root", "--no-cfg", "--fail-on=error,warning", "--suppress-tags"]);
    lintian.arg(
        "bogus-mail-host,bogus-mail-host-in-debian-changelog,uses-no-compression-for-control-tarball,\
         uses-no-compression-for-data-tarball",
    );
    let output = lintian.arg(package).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && !said.contains("hydrant: "), "{said}");
}

#[test]
fn bash_completes_commands_and_options() {
    let directory = tempfile::tempdir().unwrap();
    let script = directory.path().join("hydrant");
    let mut generate = Command::new(env!("CARGO_BIN_EXE_hydrant"));
    fs::write(&script, output(generate.args(["generate", "bash"])).unwrap()).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o644)).unwrap();
    let complete = |words: &[&str]| {
        let mut bash = Command::new("bash");
        bash.arg("-c").arg(
            "source \"$0\" && COMP_WORDS=(\"$@\") COMP_CWORD=$(($# - 1)) && \
             _hydrant hydrant \"${@: -1}\" \"${@: -2:1}\" && echo \"${COMPREPLY[@]}\"",
        );
        output(bash.arg(&script).args(words)).unwrap().trim_end().to_owned()
    };
    assert_eq!(complete(&["hydrant", "dem"]), "demo");
    assert_eq!(complete(&["hydrant", "top", "--ev"]), "--every");
    assert_eq!(complete(&["hydrant", "generate", "m"]), "man");
}
