//! Sends batches and settles every record of them.
//!
//! Pure: [`backoff`] (how long to wait), [`compression`] (members of compressed files), [`fill`] (how much a request
//! carries), [`gate`] (whether the stream may be sent to at all), [`pacer`] (how much of its quota is ours),
//! [`packing`] (whether records may be packed for it), [`quota`] (how much of its quota is left; both count
//! by a `bucket`) and [`verdicts`] (what becomes of each record of an answer). Shells:
//! [`worker`], the flush task that owns all state of a delivery stream (with `voice`, its words in the
//! log), and [`dead_letter`], the store on disk.

pub mod backoff;
mod bucket;
pub mod compression;
pub mod dead_letter;
pub mod fill;
pub mod gate;
pub mod pacer;
pub mod packing;
pub mod quota;
pub mod verdicts;
mod voice;
pub mod worker;
