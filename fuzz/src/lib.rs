//! What is tried with bytes that others wrote: a function a decoder, which panics where a promise is broken.
//!
//! libFuzzer calls them (`fuzz_targets`), and so does `cargo test` (`tests/fuzz.rs`), with everything in `corpus`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs, unreachable_pub)]

mod bodies;
mod framers;
mod records;
mod settings;
mod spools;

pub use bodies::{answer, api, firehose, http, signature};
pub use framers::{forward, frames, lines, syslog};
pub use records::letters;
pub use settings::config;
pub use spools::{spool, watermark};

/// Takes choices off the front of what was made up; there is always another one.
pub struct Input<'a>(pub &'a [u8]);

impl<'a> Input<'a> {
    pub fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    pub fn short(&mut self) -> usize {
        usize::from(u16::from_le_bytes([self.byte(), self.byte()]))
    }

    pub fn bytes(&mut self, length: usize) -> &'a [u8] {
        let (bytes, rest) = self.0.split_at(length.min(self.0.len()));
        self.0 = rest;
        bytes
    }

    pub fn one_of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[usize::from(self.byte()) % choices.len()]
    }
}

/// The delimiters that are tried.
pub const DELIMITERS: [&[u8]; 5] = [b"\n", b"", b"\r\n", b"|", b"|~|"];
