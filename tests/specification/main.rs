//! Holds SPECIFICATION.md and metadata.yaml to the code, and the code to them: what one names exists
//! in the other, both ways. A table that follows from the code alone is printed whole when it differs.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]
#![allow(clippy::wildcard_enum_match_arm)]

#[path = "../support/figures.rs"]
#[allow(unreachable_pub, reason = "other tests and a benchmark use it too")]
mod figures;
#[path = "../support/tree.rs"]
#[allow(unreachable_pub, dead_code, reason = "another test uses the rest of it")]
mod tree;

mod calls;
mod document;
mod inputs;
mod metadata;
mod outputs;
mod requirements;
mod rust;
