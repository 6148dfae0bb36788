//! The real daemon as a process of its own, real sockets, the real SDK over HTTP, and the
//! embedded Firehose in this process.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::print_stderr)]
#![allow(clippy::disallowed_methods, missing_docs, unreachable_pub)]

mod daemon;

mod bounds;
mod commands;
mod compression;
mod dead_letter;
mod fairness;
mod faults;
mod forward;
mod frames;
mod hostile;
mod http;
mod ingest;
mod monitor;
mod packing;
mod puts;
mod quota;
mod reload;
mod routes;
mod send;
mod spool;
mod spool_command;
mod stamp;
mod startup;
mod stopping;
mod syslog;
mod systemd;
mod tls;
#[cfg(feature = "top")]
mod top;
