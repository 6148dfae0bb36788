//! A second opinion: the real daemon against AWS services that are not ours (moto and ministack),
//! and AWS clients that are not ours (boto3 and the AWS CLI) against the embedded Firehose; loggers that
//! speak Fluent Forward; curl, ApacheBench and SDKs before a listener; what
//! `/metrics` answers and what `resources` holds before the programs that are to read them.
//!
//! The tests make their own environments of Python and Node. Where that cannot be done, or a program is missing,
//! they say `skipped: …` and pass, unless `REQUIRE_PEERS` is set: then they fail.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

#[path = "../it/daemon.rs"]
#[allow(
    dead_code,
    unreachable_pub,
    clippy::disallowed_methods,
    reason = "what the integration tests share is more than is used here"
)]
mod daemon;

mod alarms;
mod clients;
mod cloudwatch;
mod forward;
mod javascript;
mod python;
mod requests;
mod scrapes;
mod services;
mod sql;
