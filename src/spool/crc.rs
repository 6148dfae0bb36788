//! CRC-32C, as the format has it.

use crc_fast::{CrcAlgorithm, Digest};

/// The CRC of `parts`, one behind the other.
pub(super) fn crc32c(parts: &[&[u8]]) -> u32 {
    let crc = match parts {
        [bytes] => crc_fast::checksum(CrcAlgorithm::Crc32Iscsi, bytes),
        parts => {
            let mut digest = Digest::new(CrcAlgorithm::Crc32Iscsi);
            parts.iter().for_each(|part| digest.update(part));
            digest.finalize()
        }
    };
    // Of 64 bits, for algorithms that are wider.
    let [one, two, three, four, ..] = crc.to_le_bytes();
    u32::from_le_bytes([one, two, three, four])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_the_processors_own(bytes in prop::collection::vec(any::<u8>(), 0..2000), at: prop::sample::Index) {
            let (front, back) = bytes.split_at(at.index(bytes.len() + 1));
            prop_assert_eq!(crc32c(&[&bytes]), ::crc32c::crc32c(&bytes));
            prop_assert_eq!(crc32c(&[front, back]), ::crc32c::crc32c(&bytes));
        }
    }
}
