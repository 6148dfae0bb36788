//! The files by which users run hydrant, before the programs that are to read them: the CDK and
//! cfn-lint, kubectl and helm, the schemas of the Kubernetes API, botocore's model and moto, busybox
//! and Python; deployed for real where something at hand can play the part of the cloud. And what they
//! promise: that the pieces of a file go with each other, and with the daemon.
//!
//! Programs that are not ours are installed below Cargo's target directory. Where that cannot be
//! done, or one is missing, a test says `skipped: …` and passes, unless `REQUIRE_PEERS` is set: then
//! it fails.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

use std::path::{Path, PathBuf};

#[path = "../it/daemon.rs"]
#[allow(
    dead_code,
    unreachable_pub,
    clippy::disallowed_methods,
    reason = "what the integration tests share is more than is used here"
)]
mod daemon;
#[path = "../peers/python.rs"]
#[allow(dead_code, reason = "what the tests with peers share is more than is used here")]
mod python;

mod aws;
mod ecs;
mod helm;
mod image;
mod kubernetes;
mod manual;
mod node;
mod package;
mod pods;
mod sample_data;
mod tools;

/// A file or folder of the project.
fn project(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// What a text file of the project says.
fn read(path: &str) -> String {
    std::fs::read_to_string(project(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}
