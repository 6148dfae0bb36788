//! The container image: `deploy/Dockerfile` built by buildah, and run by podman as a cluster would.
//!
//! What is packed is the program that is tested, linked once more and statically; its build stage,
//! which needs a registry and many minutes, is passed over, as the Dockerfile says that it can be.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use hydrant::local::Options;
use serde_json::{Value, json};

use crate::daemon::{Daemon, STREAM, Sink, alone, lines};
use crate::python::{free_address, or_skipped, output, python};
use crate::{project, read};

/// The user that the image runs as.
const USER: u32 = 65532;
const NAME: &str = "localhost/hydrant:test";

/// The image, and storage of its own for it below Cargo's target directory.
struct Image {
    home: PathBuf,
    _lock: File,
}

/// The library that was built last: one build of it has other features than another, and cargo puts
/// none of them in a place of its own for tests.
fn library(directory: &Path) -> Result<PathBuf, String> {
    let files = fs::read_dir(directory).map_err(|error| error.to_string())?;
    let paths = files.filter_map(|file| Some(file.ok()?.path()));
    let is_library = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("libhydrant-") && name.ends_with(".rlib")
    };
    let built = |path: &PathBuf| fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
    let latest = paths.filter(is_library).max_by_key(built);
    latest.ok_or_else(|| format!("{} holds no library of hydrant's", directory.display()))
}

/// The image, or `None` once it was said that the calling test is skipped.
fn image() -> Option<&'static Image> {
    static IMAGE: OnceLock<Result<Image, String>> = OnceLock::new();
    or_skipped(IMAGE.get_or_init(Image::build))
}

impl Image {
    /// Builds it. Other processes that want it meanwhile wait to the end of this one.
    fn build() -> Result<Self, String> {
        for program in ["buildah", "podman", "runc"] {
            output(Command::new(program).arg("--version"))?;
        }
        let home = Path::new(env!("CARGO_TARGET_TMPDIR")).join("deploy-image");
        fs::create_dir_all(home.join("storage")).map_err(|error| error.to_string())?;
        if fs::metadata(&home).map_err(|error| error.to_string())?.uid() != 0 {
            return Err("only root can build and run an image without an engine".to_owned());
        }
        let lock = File::create(home.join("lock")).map_err(|error| error.to_string())?;
        lock.lock().map_err(|error| error.to_string())?;
        let image = Self { home, _lock: lock };
        // What an earlier run may have left.
        output(image.podman().args(["rm", "--all", "--force"]))?;
        output(image.podman().args(["rmi", "--all", "--force"]))?;
        let context = image.home.join("context");
        fs::remove_dir_all(&context).ok();
        fs::create_dir_all(context.join("empty")).map_err(|error| error.to_string())?;
        let program = image.static_program()?;
        output(Command::new(project("deploy/rootfs")).arg(program).arg(context.join("rootfs")))?;
        let mut build = image.buildah();
        build.args(["bud", "--isolation=chroot", "--format=docker", "--timestamp=1700000000"]);
        build.arg(format!("--build-context=build={}", context.display()));
        build.arg("--build-arg=REVISION=0123abcd").arg(format!("--tag={NAME}"));
        build.arg("--file").arg(project("deploy/Dockerfile"));
        output(build.arg(project("")))?;
        Ok(image)
    }

    /// The program, linked with a static glibc as the Dockerfile does it. Only `main.rs` is
    /// compiled: the library is the one that the tests use.
    fn static_program(&self) -> Result<PathBuf, String> {
        let built = Path::new(env!("CARGO_BIN_EXE_hydrant")).parent().expect("a directory");
        let program = self.home.join("hydrant");
        let mut rustc = Command::new("rustc");
        rustc.args([
            "--edition=2024",
            "--crate-name=hydrant",
            "-Ctarget-feature=+crt-static",
            "-Cstrip=symbols",
        ]);
        let libraries = built.join("deps");
        rustc.arg("-L").arg(format!("dependency={}", libraries.display()));
        rustc.arg("--extern").arg(format!("hydrant={}", library(&libraries)?.display()));
        output(rustc.arg("-o").arg(&program).arg(project("src/main.rs")))?;
        Ok(program)
    }

    fn stored(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.arg("--storage-driver=vfs");
        command.arg("--root").arg(self.home.join("storage"));
        command.arg("--runroot").arg(self.home.join("run"));
        command
    }

    fn buildah(&self) -> Command {
        self.stored("buildah")
    }

    fn podman(&self) -> Command {
        let mut podman = self.stored("podman");
        podman.args(["--runtime=runc", "--cgroup-manager=cgroupfs"]);
        podman
    }

    /// `podman run` with what a hardened pod has; arguments of podman's, then the image's name, have
    /// to follow.
    fn run(&self) -> Command {
        let mut podman = self.podman();
        podman.args(["run", "--rm", "--read-only", "--read-only-tmpfs=false", "--network=host"]);
        podman.args(["--cap-drop=all", "--security-opt=no-new-privileges"]);
        // Limits that a container may not raise have to be said.
        podman.args(["--ulimit=nofile=1024:1024", "--ulimit=nproc=1000:1000"]);
        podman
    }

    /// Every file with its mode and owner, as `-rwxr-xr-x 0:0 /usr/bin/hydrant`.
    fn files(&self) -> Vec<String> {
        let container = output(self.buildah().args(["from", NAME])).unwrap();
        let container = container.trim_end();
        let root = output(self.buildah().args(["mount", container])).unwrap();
        let mut find = Command::new("find");
        find.args([root.trim_end(), "-mindepth", "1", "-printf", "%M %U:%G /%P\\n"]);
        let mut files: Vec<_> = output(&mut find).unwrap().lines().map(str::to_owned).collect();
        output(self.buildah().args(["rm", container])).unwrap();
        files.sort_by(|one, other| one.rsplit(' ').next().cmp(&other.rsplit(' ').next()));
        files
    }
}

#[test]
fn the_image_holds_one_program_and_what_it_reads() {
    let Some(image) = image() else { return };
    assert_eq!(
        image.files(),
        [
            "drwxr-xr-x 0:0 /etc",
            "-rw-r--r-- 0:0 /etc/group",
            "drwxr-xr-x 0:0 /etc/hydrant",
            "-rw-r--r-- 0:0 /etc/nsswitch.conf",
            "-rw-r--r-- 0:0 /etc/passwd",
            "drwxr-xr-x 0:0 /etc/ssl",
            "drwxr-xr-x 0:0 /etc/ssl/certs",
            "-rw-r--r-- 0:0 /etc/ssl/certs/ca-certificates.crt",
            "drwxr-xr-x 0:0 /run",
            "drwxr-xr-x 65532:65532 /run/hydrant",
            "drwxrwxrwt 0:0 /tmp",
            "drwxr-xr-x 0:0 /usr",
            "drwxr-xr-x 0:0 /usr/bin",
            "-rwxr-xr-x 0:0 /usr/bin/hydrant",
            "drwxr-xr-x 0:0 /var",
            "drwxr-xr-x 0:0 /var/lib",
            "drwxr-xr-x 65532:65532 /var/lib/hydrant",
        ]
    );
}

#[test]
fn the_image_says_who_it_is_and_how_it_runs() {
    let Some(image) = image() else { return };
    let inspect = output(image.podman().args(["image", "inspect", NAME])).unwrap();
    let inspect: Value = serde_json::from_str(&inspect).unwrap();
    let config = &inspect[0]["Config"];
    assert_eq!(config["User"], format!("{USER}:{USER}"));
    assert_eq!(config["Entrypoint"], json!(["/usr/bin/hydrant"]));
    assert_eq!(config["Cmd"], json!(["run"]));
    assert_eq!(config["Volumes"], json!({ "/run/hydrant": {}, "/var/lib/hydrant": {} }));
    assert_eq!(inspect[0]["Created"], "2023-11-14T22:13:20Z");
    let label = |name| config["Labels"][format!("org.opencontainers.image.{name}")].as_str().unwrap();
    assert_eq!(label("title"), env!("CARGO_PKG_NAME"));
    assert_eq!(label("version"), env!("CARGO_PKG_VERSION"));
    assert_eq!(
        label("description"),
        "Gets an application's records into Amazon Data Firehose: nothing lost, nothing wasted."
    );
    assert_eq!(label("licenses"), env!("CARGO_PKG_LICENSE"));
    assert_eq!(label("revision"), "0123abcd");
    let version = output(image.run().args([NAME, "--version"])).unwrap();
    assert_eq!(version.trim_end(), concat!("hydrant ", env!("CARGO_PKG_VERSION")));
}

#[test]
fn the_image_shows_the_demo() {
    let Some(image) = image() else { return };
    // With a root that can be written to, as everybody's first try has.
    let mut podman = image.run();
    let said = output(podman.args(["--read-only=false", NAME, "demo"])).unwrap();
    assert_eq!(said.lines().last(), Some("delivered 5550 of 5550 records, 0 lost, 0 duplicated"), "{said}");
}

#[tokio::test]
async fn the_image_delivers_from_a_socket_in_its_volume_on_a_read_only_root() {
    let Some(image) = image() else { return };
    let sink = Sink::start(Options::default()).await;
    // As a volume that is made for the image: its user's.
    let directory = tempfile::tempdir().unwrap();
    chown(directory.path(), Some(USER), Some(USER)).unwrap();
    let admin = format!("tcp:{}", free_address());
    let name = format!("hydrant-{}", std::process::id());
    let mut podman = image.run();
    podman.arg(format!("--name={name}")).arg(format!("--volume={}:/run/hydrant", directory.path().display()));
    podman.args(["--env=AWS_REGION", "--env=AWS_ACCESS_KEY_ID", "--env=AWS_SECRET_ACCESS_KEY"]);
    podman.args(["--env=AWS_EC2_METADATA_DISABLED", "--stop-timeout=40"]);
    // What is asked for the container's health knows what the environment says.
    podman.arg(format!("--env=HYDRANT_DELIVERY_STREAM_NAME={STREAM}"));
    podman.arg(format!("--env=HYDRANT_ADMIN__ADDRESS={admin}")).arg(NAME);
    let settings = [
        "listen.app.address=unix:/run/hydrant/app.sock".to_owned(),
        // In the other volume, which podman makes of the image's.
        "buffer.directory=/var/lib/hydrant/spool".to_owned(),
        format!("endpoint_url={}", sink.local.url()),
        format!("admin.address={admin}"),
        "linger=10ms".to_owned(),
    ];
    let daemon = Daemon::run(alone(podman.into()), directory, settings.iter().map(String::as_str)).await;
    // The image's own HEALTHCHECK.
    output(image.podman().args(["healthcheck", "run", &name])).unwrap();
    daemon.write(&lines(1000, 100)).await;
    daemon.until_settled(1000).await;
    assert_eq!(daemon.status().await["spool"]["condition"], "working");
    assert!(daemon.stop().await.status.success());
    let lines = sink.lines().await;
    assert!(lines.len() == 1000 && lines.values().all(|times| *times == 1));
}

#[test]
fn the_image_is_built_from_no_more_than_its_sources() {
    let Some(image) = image() else { return };
    let dockerfile = image.home.join("Dockerfile.context");
    fs::write(&dockerfile, "FROM scratch\nCOPY . /source\n").unwrap();
    let mut build = image.buildah();
    build.args(["bud", "--isolation=chroot", "--quiet", "--tag=localhost/hydrant:context", "--file"]);
    output(build.arg(dockerfile).arg(project(""))).unwrap();
    let container = output(image.buildah().args(["from", "localhost/hydrant:context"])).unwrap();
    let root = output(image.buildah().args(["mount", container.trim_end()])).unwrap();
    let source = Path::new(root.trim_end()).join("source");
    let mut names: Vec<_> = fs::read_dir(&source)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["Cargo.lock", "Cargo.toml", "benches", "deploy", "src", "tests"]);
    // Cargo finds every target that the manifest names.
    let mut cargo = Command::new("cargo");
    cargo.args(["metadata", "--format-version=1", "--no-deps", "--offline", "--locked"]);
    output(cargo.current_dir(&source)).unwrap();
    output(image.buildah().args(["rm", container.trim_end()])).unwrap();
}

#[tokio::test]
async fn hadolint_finds_nothing_in_the_dockerfile() {
    let Some(python) = python() else { return };
    let mut hadolint = python.command("hadolint", "");
    let output =
        hadolint.arg("--failure-threshold=style").arg(project("deploy/Dockerfile")).output().await.unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.is_empty(), "{said}");
}

#[test]
fn the_dockerfiles_toolchain_can_build_hydrant() {
    let dockerfile = read("deploy/Dockerfile");
    let (_, tag) = dockerfile.split_once("\nARG RUST_IMAGE=docker.io/library/rust:").unwrap();
    let minor = |version: &str| version.split('.').nth(1).unwrap().parse::<u32>().unwrap();
    let (found, least) = (minor(tag), minor(env!("CARGO_PKG_RUST_VERSION")));
    assert!(tag.starts_with("1.") && found >= least, "1.{found}, and Cargo.toml says 1.{least}");
}
