//! The real daemon as a process of its own, real sockets, the real SDK over HTTP, and the
//! embedded Firehose in this process.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stderr,
    missing_docs
)]

mod daemon;

mod faults;
mod ingest;
