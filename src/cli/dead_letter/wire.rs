//! A letter's record as a line of the protocol `lines`, from which the listener makes the same record.

use crate::limits::MAX_RECORD_BYTES;

/// Why a record can't go through a `lines` listener unharmed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// It would become several.
    #[error("it has a line break inside")]
    Break,
    /// It would be none.
    #[error("it is blank")]
    Blank,
    /// The listener would turn it away.
    #[error("it is longer than the listener's `max_record_bytes`")]
    TooLong,
}

/// Appends `data`, which ends with `delimiter` as every delivered record does, to `lines`.
///
/// # Errors
///
/// [`Unfit`]; nothing was appended.
pub fn append(
    data: &[u8],
    delimiter: &[u8],
    max_record_bytes: Option<usize>,
    lines: &mut Vec<u8>,
) -> Result<(), Unfit> {
    // A delimiter without a line break may stay: none follows what ends with it.
    let stripped = data.strip_suffix(delimiter).filter(|_| delimiter.contains(&b'\n'));
    let record = stripped.unwrap_or(data);
    if record.contains(&b'\n') {
        return Err(Unfit::Break);
    }
    if record.is_empty() {
        return Err(Unfit::Blank);
    }
    let delimited = if record.ends_with(delimiter) { record.len() } else { record.len() + delimiter.len() };
    if delimited > max_record_bytes.unwrap_or(MAX_RECORD_BYTES) {
        return Err(Unfit::TooLong);
    }
    lines.extend_from_slice(record);
    // A CR at its end is its own: only that of a CRLF is not.
    lines.extend_from_slice(if record.ends_with(b"\r") { b"\r\n" } else { b"\n" });
    Ok(())
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use proptest::prelude::*;

    use super::*;
    use crate::framing::{Delimiter, Framer, Lines};

    /// What the listener makes of `data`.
    fn through(data: &[u8], delimiter: &[u8]) -> Result<Vec<u8>, Unfit> {
        let mut lines = Vec::new();
        append(data, delimiter, None, &mut lines)?;
        let mut framer = Lines::new(Delimiter::new(delimiter.to_vec().into()), MAX_RECORD_BYTES);
        let framed = framer.frame(&mut BytesMut::from(&lines[..]), 0);
        assert_eq!(framed.ends.len(), 1, "{data:?} became {lines:?}");
        Ok(framed.records.to_vec())
    }

    // R-T11
    #[test]
    fn what_can_not_go_unharmed_is_told() {
        let check = |data: &[u8], expected| assert_eq!(through(data, b"\n"), expected, "{data:?}");
        check(b"a\n", Ok(b"a\n".to_vec()));
        check(b"a\r\n", Ok(b"a\r\n".to_vec()));
        check(b"\r\n", Ok(b"\r\n".to_vec()));
        check(b"a\nb\n", Err(Unfit::Break));
        check(b"a\n\n", Err(Unfit::Break));
        check(b"\n", Err(Unfit::Blank));
        check(&vec![b'x'; MAX_RECORD_BYTES], Err(Unfit::TooLong));
        assert_eq!(append(b"12345\n", b"\n", Some(5), &mut Vec::new()), Err(Unfit::TooLong));
    }

    proptest! {
        // R-T11
        #[test]
        fn what_goes_arrives_as_it_was(
            record in proptest::collection::vec(prop_oneof![Just(b'\n'), Just(b'\r'), Just(b'|'), any::<u8>()], 1..8),
            delimiter in prop_oneof![Just("\n"), Just(""), Just("|"), Just("\r\n"), Just("|\n")],
        ) {
            let delimiter = delimiter.as_bytes();
            let data = if record.ends_with(delimiter) { record } else { [&record, delimiter].concat() };
            if let Ok(arrived) = through(&data, delimiter) {
                prop_assert_eq!(arrived, data);
            }
        }
    }
}
