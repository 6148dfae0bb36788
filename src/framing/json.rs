//! JSON strings of bytes that may be anything.

/// Appends `bytes` to `json` as the inside of a string: quotes, backslashes and control characters
/// escaped, what is no UTF-8 as U+FFFD. At most six times as long as `bytes`; once `json` is longer than
/// `most` bytes, what is still to come may be left out.
pub(super) fn escape(bytes: &[u8], json: &mut Vec<u8>, most: usize) {
    for chunk in bytes.utf8_chunks() {
        let mut plain = 0;
        let text = chunk.valid().as_bytes();
        for (at, byte) in text.iter().enumerate() {
            let escaped: &[u8] = match byte {
                b'"' => b"\\\"",
                b'\\' => b"\\\\",
                b'\n' => b"\\n",
                b'\r' => b"\\r",
                b'\t' => b"\\t",
                0..0x20 => &[b'\\', b'u', b'0', b'0', digit(byte >> 4), digit(byte & 15)],
                _ => continue,
            };
            json.extend_from_slice(text.get(plain..at).unwrap_or_default());
            json.extend_from_slice(escaped);
            plain = at + 1;
            if json.len() > most {
                return;
            }
        }
        json.extend_from_slice(text.get(plain..).unwrap_or_default());
        if !chunk.invalid().is_empty() {
            json.extend_from_slice(char::REPLACEMENT_CHARACTER.encode_utf8(&mut [0; 4]).as_bytes());
        }
    }
}

fn digit(value: u8) -> u8 {
    if value < 10 { b'0' + value } else { b'a' + value - 10 }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_bytes_make_a_string_that_says_the_same(bytes: Vec<u8>) {
            let mut json = vec![b'"'];
            escape(&bytes, &mut json, usize::MAX);
            prop_assert!(json.len() < 2 + 6 * bytes.len());
            json.push(b'"');
            let read: String = serde_json::from_slice(&json).unwrap();
            prop_assert_eq!(read, String::from_utf8_lossy(&bytes));
        }
    }
}
