//! hydrant gets an application's records into Amazon Data Firehose.
//!
//! The way of a record, room by room: [`listener`] → [`framing`] → [`buffer`] → [`batcher`] →
//! [`sender`] → [`firehose`]. `docs/ARCHITECTURE.md` is the map.

pub mod admin;
pub mod app;
pub mod batcher;
pub mod budget;
pub mod buffer;
pub mod cli;
pub mod config;
pub mod drain;
pub mod firehose;
pub mod framing;
pub mod limits;
pub mod listener;
pub mod local;
pub mod notify;
pub mod poller;
pub mod record;
pub mod reload;
pub mod sender;
pub mod socket;
pub mod spool;
pub mod telemetry;
