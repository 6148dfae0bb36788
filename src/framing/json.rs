//! JSON strings of bytes that may be anything.

/// Says `bytes` piece by piece as the inside of a string: quotes, backslashes and control characters
/// escaped, what is no UTF-8 as U+FFFD. At most six times as long as `bytes`.
///
/// # Errors
///
/// What `put` says of a piece; then no other follows.
pub(super) fn escape<E>(bytes: &[u8], mut put: impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
    // Most strings are UTF-8, and that is seen faster than chunks are made.
    if std::str::from_utf8(bytes).is_ok() {
        return escape_text(bytes, &mut put);
    }
    for chunk in bytes.utf8_chunks() {
        escape_text(chunk.valid().as_bytes(), &mut put)?;
        if !chunk.invalid().is_empty() {
            put(char::REPLACEMENT_CHARACTER.encode_utf8(&mut [0; 4]).as_bytes())?;
        }
    }
    Ok(())
}

fn escape_text<E>(mut text: &[u8], put: &mut impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
    let needs = |byte: &u8| *byte < 0x20 || matches!(byte, b'"' | b'\\');
    while let Some(at) = text.iter().position(needs) {
        let (plain, rest) = text.split_at(at);
        put(plain)?;
        let Some((byte, rest)) = rest.split_first() else { return Ok(()) };
        text = rest;
        match byte {
            b'"' => put(b"\\\"")?,
            b'\\' => put(b"\\\\")?,
            b'\n' => put(b"\\n")?,
            b'\r' => put(b"\\r")?,
            b'\t' => put(b"\\t")?,
            byte => put(&[b'\\', b'u', b'0', b'0', digit(byte >> 4), digit(byte & 15)])?,
        }
    }
    put(text)
}

fn digit(value: u8) -> u8 {
    if value < 10 { b'0' + value } else { b'a' + value - 10 }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_bytes_make_a_string_that_says_the_same(bytes: Vec<u8>) {
            let mut json = vec![b'"'];
            let put = |piece: &[u8]| {
                json.extend_from_slice(piece);
                Ok::<_, Infallible>(())
            };
            prop_assert_eq!(escape(&bytes, put), Ok(()));
            prop_assert!(json.len() < 2 + 6 * bytes.len());
            json.push(b'"');
            let read: String = serde_json::from_slice(&json).unwrap();
            prop_assert_eq!(read, String::from_utf8_lossy(&bytes));
        }
    }
}
