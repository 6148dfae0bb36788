//! Bytes into records as a `lines` listener takes them: blank lines are none, and any byte but LF
//! belongs to one.

use super::window::Window;
use crate::limits::MAX_RECORD_BYTES;

/// Longest line that is held: a record of the service's limit, the CR of its CRLF, and the LF.
const MOST_BYTES: usize = MAX_RECORD_BYTES + 1;

/// Lines that are longer than any record may be, and so were not sent.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct TooLong {
    /// How many.
    pub records: u64,
    /// Number of the first one's line, from 1.
    pub first: u64,
}

/// Cuts one stream of bytes into lines.
#[derive(Debug, Default)]
pub struct Lines {
    /// The line that has not ended.
    open: Vec<u8>,
    /// Lines that have.
    ended: u64,
    /// Whether the open one is already known to be too long.
    skipping: bool,
    too_long: TooLong,
}

impl Lines {
    /// Takes the next bytes, puts the records that end in them into `window`.
    pub fn take(&mut self, bytes: &[u8], window: &mut Window) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            // A line that lies whole in what was read is copied only once.
            if piece.ends_with(b"\n") && self.open.is_empty() && !self.skipping {
                self.end(piece, window);
                continue;
            }
            self.extend(piece);
            if piece.ends_with(b"\n") {
                let line = std::mem::take(&mut self.open);
                self.end(&line, window);
            }
        }
    }

    /// The end of the stream ends the last line, so that it does not run together with the first one
    /// of the next. Returns what was left out.
    pub fn finish(&mut self, window: &mut Window) -> TooLong {
        if !self.open.is_empty() || self.skipping {
            self.take(b"\n", window);
        }
        std::mem::take(self).too_long
    }

    fn extend(&mut self, piece: &[u8]) {
        self.skipping |= self.open.len() + piece.len() > MOST_BYTES + 1;
        if self.skipping {
            self.open = Vec::new();
        } else {
            self.open.extend_from_slice(piece);
        }
    }

    fn end(&mut self, line: &[u8], window: &mut Window) {
        self.ended += 1;
        if std::mem::take(&mut self.skipping) || line.len() > MOST_BYTES {
            if self.too_long.records == 0 {
                self.too_long.first = self.ended;
            }
            self.too_long.records += 1;
        } else if !matches!(line, b"\n" | b"\r\n") {
            window.push(line);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What becomes of `text` in pieces of `size` bytes.
    fn cut(text: &[u8], size: usize) -> (Window, TooLong) {
        let (mut lines, mut window) = (Lines::default(), Window::default());
        text.chunks(size).for_each(|piece| lines.take(piece, &mut window));
        let too_long = lines.finish(&mut window);
        window.begin();
        (window, too_long)
    }

    // R-T3
    #[test]
    fn lines_are_counted_as_the_listener_takes_them_however_they_are_cut() {
        let check = |text: &str, records: u64, written: &str| {
            for size in 1..=text.len().max(1) {
                let (window, _) = cut(text.as_bytes(), size);
                assert_eq!(window.records(), records, "{text:?} in pieces of {size}");
                assert_eq!(window.unwritten(), written.as_bytes(), "{text:?} in pieces of {size}");
            }
        };
        check("", 0, "");
        check("a\nb", 2, "a\nb\n");
        check("\n\r\n\n", 0, "");
        check("a\r\n\r\nb\r\r\n", 2, "a\r\nb\r\r\n");
        check("\r\r\n", 1, "\r\r\n");
        // A last CR without its LF becomes a CRLF of its own, which is blank.
        check("\r", 0, "");
    }

    // R-T9
    #[test]
    fn what_no_listener_takes_is_left_out_and_told() {
        let longest = vec![b'x'; MAX_RECORD_BYTES - 1];
        let text =
            [&longest[..], b"\r\n", &longest, b"xx\n", &longest, b"\nshort\n", &longest, b"xxx"].concat();
        for size in [1000, 1 << 16, text.len()] {
            let (window, too_long) = cut(&text, size);
            assert_eq!(window.records(), 3, "in pieces of {size}");
            assert_eq!(too_long, TooLong { records: 2, first: 2 }, "in pieces of {size}");
        }
    }
}
