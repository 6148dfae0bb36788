//! What a listener with `acks` says: decimal lines, each the number of the connection's records that
//! have reached its level.

/// Digits of the longest number there is.
const MOST_DIGITS: usize = 20;

/// Reads the counts of one connection, however they are cut.
#[derive(Debug, Default)]
pub struct Counts {
    digits: Vec<u8>,
}

impl Counts {
    /// Takes the next bytes; returns the newest count that ends in them.
    ///
    /// # Errors
    ///
    /// The text that is no count.
    pub fn take(&mut self, bytes: &[u8]) -> Result<Option<u64>, String> {
        let mut newest = None;
        for byte in bytes {
            if *byte == b'\n' {
                let digits = std::mem::take(&mut self.digits);
                let digits = String::from_utf8_lossy(&digits).into_owned();
                newest = Some(digits.parse().map_err(|_| digits)?);
            } else if byte.is_ascii_digit() && self.digits.len() < MOST_DIGITS {
                self.digits.push(*byte);
            } else {
                self.digits.push(*byte);
                return Err(String::from_utf8_lossy(&self.digits).into_owned());
            }
        }
        Ok(newest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_count_is_taken_however_the_lines_are_cut() {
        let mut counts = Counts::default();
        assert_eq!(counts.take(b"1\n20\n3"), Ok(Some(20)));
        assert_eq!(counts.take(b"0"), Ok(None));
        assert_eq!(counts.take(b"0\n"), Ok(Some(300)));
    }

    #[test]
    fn what_is_no_count_is_told_and_not_gathered_for_ever() {
        let check = |said: &[u8], expected: &str| {
            assert_eq!(Counts::default().take(said), Err(expected.to_owned()), "{said:?}");
        };
        check(b"HTTP/1.1 400 Bad Request\r\n", "H");
        check(b"\n", "");
        check(b"99999999999999999999\n", "99999999999999999999");
        check(&[b'1'; 1000], &"1".repeat(MOST_DIGITS + 1));
    }
}
