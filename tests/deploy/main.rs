//! What users copy from `deploy`, before programs that are not ours: kubectl and helm, the schemas of
//! the Kubernetes API, botocore's model and moto, cfn-lint, busybox and Python. And what it promises:
//! that the pieces of a file go with each other, and with the daemon.
//!
//! The tests install those programs. Where that cannot be done they say `skipped: …` and pass,
//! unless `REQUIRE_PEERS` is set: then they fail.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

#[path = "../it/daemon.rs"]
#[allow(
    dead_code,
    unreachable_pub,
    clippy::disallowed_methods,
    reason = "what the integration tests share is more than is used here"
)]
mod daemon;

#[path = "../peers/python.rs"]
#[allow(dead_code, reason = "what the peers' tests share is more than is used here")]
mod python;

mod ecs;
mod helm;
mod kubernetes;
mod pods;
mod tools;
