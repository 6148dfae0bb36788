//! SHA-256 of request bodies, of two in step where the processor can.
//!
//! A processor's instructions for SHA-256 wait for each other: one message keeps them busy half of the time. Two
//! that have nothing to do with each other fill the gaps, which takes 0.31 s for a GB where one by one takes 0.56
//! (`cargo bench --bench encoder`).
//!
//! What is here of the algorithm is what `sha2` has no way to do: the rounds of two messages at once, in x86-64's
//! instructions, which are safe to call in functions that are compiled for them; `multiversion` calls those where the
//! processor is found to have them. Everything else is `sha2`'s.

#[cfg(target_arch = "x86_64")]
mod lanes;

#[cfg(target_arch = "x86_64")]
use lanes::compress as in_step;
#[cfg(not(target_arch = "x86_64"))]
use one_by_one as in_step;
use sha2::block_api::compress256;
use sha2::{Digest, Sha256};

/// The eight words of a digest as it comes about, from A to H.
type State = [u32; 8];
/// What is hashed at a time.
type Block = [u8; 64];

/// Before the first block. Source: FIPS 180-4, section 5.3.3.
const INITIAL: State =
    [0x6a09_e667, 0xbb67_ae85, 0x3c6e_f372, 0xa54f_f53a, 0x510e_527f, 0x9b05_688c, 0x1f83_d9ab, 0x5be0_cd19];
/// Behind a message comes this byte, and its length in bits at the end of a block.
const END: u8 = 0x80;
const LENGTH_BYTES: usize = 8;

/// The digest of `message` in hexadecimal digits, as a signature has it.
#[must_use]
pub fn digest(message: &[u8]) -> String {
    hex::encode(Sha256::digest(message))
}

/// The digests of both messages, each as [`digest`] has it.
#[must_use]
pub fn digests(messages: [&[u8]; 2]) -> [String; 2] {
    // Without optimisation our rounds take a hundred times as long as sha2's, which are optimised in every build.
    if cfg!(debug_assertions) { two(messages, one_by_one) } else { two(messages, in_step) }
}

/// Takes each message's blocks into its state; both are as many.
type Compress = fn(&mut [State; 2], [&[Block]; 2]);

fn two(messages: [&[u8]; 2], compress: Compress) -> [String; 2] {
    let [one, other] = messages.map(<[u8]>::as_chunks);
    let common = one.0.len().min(other.0.len());
    let ((one_now, one_later), (other_now, other_later)) = (one.0.split_at(common), other.0.split_at(common));
    let mut states = [INITIAL; 2];
    compress(&mut states, [one_now, other_now]);
    let [one_state, other_state] = states;
    let [one_len, other_len] = messages.map(<[u8]>::len);
    [finish(one_state, one_later, one.1, one_len), finish(other_state, other_later, other.1, other_len)]
}

fn one_by_one(states: &mut [State; 2], blocks: [&[Block]; 2]) {
    for (state, blocks) in states.iter_mut().zip(blocks) {
        compress256(state, blocks);
    }
}

/// The digest of a message of `len` bytes that ends with `blocks` and then `rest`.
fn finish(mut state: State, blocks: &[Block], rest: &[u8], len: usize) -> String {
    compress256(&mut state, blocks);
    let bits = u64::try_from(len).unwrap_or(u64::MAX).wrapping_mul(8);
    let mut end = [rest, &[END]].concat();
    let whole = (end.len() + LENGTH_BYTES).next_multiple_of(size_of::<Block>());
    end.resize(whole - LENGTH_BYTES, 0);
    end.extend(bits.to_be_bytes());
    compress256(&mut state, end.as_chunks().0);
    hex::encode(state.map(u32::to_be_bytes).as_flattened())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_examples_of_the_standard() {
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(two([b"", b"abc"], in_step), [empty, abc]);
        assert_eq!([digest(b""), digest(b"abc")], [empty, abc]);
    }

    /// Lengths around those of blocks and of what ends a message, and any others.
    fn messages() -> impl Strategy<Value = Vec<u8>> {
        let len = prop_oneof![0_usize..200, 50 * 64 - 10..50 * 64 + 10_usize, 0_usize..5000];
        len.prop_flat_map(|len| prop::collection::vec(any::<u8>(), len))
    }

    proptest! {
        // R-B12
        #[test]
        fn two_hashed_in_step_have_the_digests_of_each_alone(one in messages(), other in messages()) {
            let alone = [digest(&one), digest(&other)];
            prop_assert_eq!(&two([&one, &other], in_step), &alone);
            prop_assert_eq!(&two([&one, &other], one_by_one), &alone, "without the instructions");
        }
    }
}
