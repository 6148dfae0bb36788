//! Node, for the scripts of `resources`.

use std::process::{Command, Stdio};
use std::sync::OnceLock;

use crate::project;
use crate::python::{or_skipped, output};

/// `node` with one of the scripts of `resources`, or `None` once it was said that the calling test
/// is skipped.
pub(crate) fn node(script: &str) -> Option<tokio::process::Command> {
    static VERSION: OnceLock<Result<String, String>> = OnceLock::new();
    or_skipped(VERSION.get_or_init(|| output(Command::new("node").arg("--version"))))?;
    let mut command = tokio::process::Command::new("node");
    command.arg(project("resources").join(script)).kill_on_drop(true).stdin(Stdio::null());
    Some(command)
}
