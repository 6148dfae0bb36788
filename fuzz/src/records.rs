//! Dead letters.

use bytes::BytesMut;
use hydrant::cli::dead_letter::letters::Letter;
use hydrant::cli::dead_letter::wire::append;
use hydrant::framing::{Delimiter, Framer, Lines};
use hydrant::limits::MAX_RECORD_BYTES;

use super::{DELIMITERS, Input};

/// A line of a dead-letter store: what can be replayed arrives as it was.
pub fn letters(bytes: &[u8]) {
    let mut input = Input(bytes);
    let delimiter = input.one_of(&DELIMITERS);
    let Some(letter) = Letter::read(input.0) else { return };
    // As every record that was to be delivered.
    let mut data = letter.data;
    if !data.ends_with(delimiter) {
        data.extend_from_slice(delimiter);
    }
    let mut lines = Vec::new();
    if append(&data, delimiter, None, &mut lines).is_err() {
        assert!(lines.is_empty());
        return;
    }
    let mut framer = Lines::new(Delimiter::new(delimiter.to_vec().into()), MAX_RECORD_BYTES);
    let framed = framer.frame(&mut BytesMut::from(&lines[..]), 0);
    assert_eq!((framed.ends.len(), &framed.records[..]), (1, &data[..]));
}
