//! Where the records come from: files or standard input, one after the other.

use std::collections::VecDeque;
use std::path::PathBuf;

use anyhow::Context;
use bytes::{BufMut, BytesMut};
use tokio::fs::File;
use tokio::io::{AsyncRead, AsyncReadExt};

use super::lines::Lines;
use super::window::Window;

/// Bytes read at a time.
const PIECE_BYTES: usize = 64 * 1024;

/// What is still to be read.
pub struct Input {
    open: Option<Source>,
    files: VecDeque<PathBuf>,
    piece: BytesMut,
    lines: Lines,
    left_out: LeftOut,
}

struct Source {
    name: String,
    bytes: Box<dyn AsyncRead + Unpin>,
}

/// Records that are too long for any listener.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct LeftOut {
    /// How many.
    pub records: u64,
    /// Where the first one is.
    pub first: String,
}

/// What one read brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Read {
    /// So many bytes, which wait to be taken.
    Bytes(usize),
    /// The end of one source.
    End,
}

impl Input {
    /// `files`, or standard input where there are none.
    #[must_use]
    pub fn new(files: &[PathBuf]) -> Self {
        if files.is_empty() {
            return Self::of("standard input", tokio::io::stdin());
        }
        Self { open: None, files: files.iter().cloned().collect(), ..Self::of("", tokio::io::empty()) }
    }

    /// The lines that `bytes` gives.
    pub fn of(name: &str, bytes: impl AsyncRead + Unpin + 'static) -> Self {
        Self {
            open: Some(Source { name: name.to_owned(), bytes: Box::new(bytes) }),
            files: VecDeque::new(),
            piece: BytesMut::with_capacity(PIECE_BYTES),
            lines: Lines::default(),
            left_out: LeftOut::default(),
        }
    }

    /// Whether everything was read.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.open.is_none() && self.files.is_empty()
    }

    /// What was not sent.
    #[must_use]
    pub fn left_out(&self) -> &LeftOut {
        &self.left_out
    }

    /// Reads a piece; [`Input::take`] is called with what it brought. Cancel safe.
    ///
    /// # Errors
    ///
    /// Where a file can't be opened or read.
    pub async fn read(&mut self) -> anyhow::Result<Read> {
        let source = match &mut self.open {
            Some(source) => source,
            none => {
                let Some(path) = self.files.front() else { return Ok(Read::End) };
                let name = path.display().to_string();
                let file = File::open(path).await.with_context(|| format!("{name} could not be opened"))?;
                self.files.pop_front();
                none.insert(Source { name, bytes: Box::new(file) })
            }
        };
        self.piece.reserve(PIECE_BYTES);
        let mut piece = (&mut self.piece).limit(PIECE_BYTES);
        let read = source.bytes.read_buf(&mut piece).await;
        match read.with_context(|| format!("{} could not be read", source.name))? {
            0 => Ok(Read::End),
            bytes => Ok(Read::Bytes(bytes)),
        }
    }

    /// Puts the records that were read into `window`.
    pub fn take(&mut self, read: Read, window: &mut Window) {
        self.lines.take(&self.piece, window);
        self.piece.clear();
        if read == Read::End {
            let too_long = self.lines.finish(window);
            let name = self.open.take().map_or_else(String::new, |source| source.name);
            if self.left_out.records == 0 && too_long.records > 0 {
                self.left_out.first = format!("line {} of {name}", too_long.first);
            }
            self.left_out.records += too_long.records;
        }
    }
}
