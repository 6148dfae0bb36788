//! Rounds of SHA-256 for two messages at once, by the instructions that x86-64 has for them.
//!
//! A lane is what one message is hashed in. Four rounds of one lane are followed by the same four of the other, so that
//! neither waits for its own last result. The names are the standard's (FIPS 180-4, section 6.2) and those of Intel's
//! description of the instructions: a state is in two vectors, A, B, E, F and C, D, G, H, the last of them lowest.

use std::arch::x86_64::{
    __m128i, _mm_add_epi32, _mm_alignr_epi8, _mm_extract_epi32, _mm_set_epi32, _mm_sha256msg1_epu32,
    _mm_sha256msg2_epu32, _mm_sha256rnds2_epu32, _mm_shuffle_epi32,
};

use multiversion::multiversion;
use multiversion::target::match_target;

use super::{Block, State, one_by_one};

/// The constants of the rounds, by four, which are added to as many words at once. Source: FIPS 180-4, section 4.2.2.
#[rustfmt::skip]
const CONSTANTS: [[[u32; 4]; 4]; 4] = [
    [
        [0x428a_2f98, 0x7137_4491, 0xb5c0_fbcf, 0xe9b5_dba5], [0x3956_c25b, 0x59f1_11f1, 0x923f_82a4, 0xab1c_5ed5],
        [0xd807_aa98, 0x1283_5b01, 0x2431_85be, 0x550c_7dc3], [0x72be_5d74, 0x80de_b1fe, 0x9bdc_06a7, 0xc19b_f174],
    ], [
        [0xe49b_69c1, 0xefbe_4786, 0x0fc1_9dc6, 0x240c_a1cc], [0x2de9_2c6f, 0x4a74_84aa, 0x5cb0_a9dc, 0x76f9_88da],
        [0x983e_5152, 0xa831_c66d, 0xb003_27c8, 0xbf59_7fc7], [0xc6e0_0bf3, 0xd5a7_9147, 0x06ca_6351, 0x1429_2967],
    ], [
        [0x27b7_0a85, 0x2e1b_2138, 0x4d2c_6dfc, 0x5338_0d13], [0x650a_7354, 0x766a_0abb, 0x81c2_c92e, 0x9272_2c85],
        [0xa2bf_e8a1, 0xa81a_664b, 0xc24b_8b70, 0xc76c_51a3], [0xd192_e819, 0xd699_0624, 0xf40e_3585, 0x106a_a070],
    ], [
        [0x19a4_c116, 0x1e37_6c08, 0x2748_774c, 0x34b0_bcb5], [0x391c_0cb3, 0x4ed8_aa4a, 0x5b9c_ca4f, 0x682e_6ff3],
        [0x748f_82ee, 0x78a5_636f, 0x84c8_7814, 0x8cc7_0208], [0x90be_fffa, 0xa450_6ceb, 0xbef9_a3f7, 0xc671_78f2],
    ],
];

/// Takes each message's blocks into its state; both are as many.
#[multiversion(targets("x86_64+sha+sse4.1"))]
pub(super) fn compress(states: &mut [State; 2], blocks: [&[Block]; 2]) {
    match_target! {
        "x86_64+sha+sse4.1" => in_lanes(states, blocks),
        _ => one_by_one(states, blocks),
    }
}

#[target_feature(enable = "sha,sse4.1")]
#[inline]
fn in_lanes(states: &mut [State; 2], [one, other]: [&[Block]; 2]) {
    let [one_state, other_state] = *states;
    let mut lanes = [Lane::of(one_state), Lane::of(other_state)];
    for (one, other) in one.iter().zip(other) {
        let [one_before, other_before] = lanes;
        let [one_lane, other_lane] = &mut lanes;
        one_lane.words = words(one);
        other_lane.words = words(other);
        let [first, second, third, last] = &CONSTANTS;
        // Sixteen rounds at a time are unrolled; with one loop over all of them it takes half as long again.
        for sixteen in [first, second, third] {
            for constants in sixteen {
                for lane in &mut lanes {
                    lane.rounds(constants);
                    lane.schedule();
                }
            }
        }
        for constants in last {
            for lane in &mut lanes {
                lane.rounds(constants);
                lane.pass();
            }
        }
        let [one_lane, other_lane] = &mut lanes;
        one_lane.add(one_before);
        other_lane.add(other_before);
    }
    let [one, other] = lanes;
    *states = [one.state(), other.state()];
}

/// What one message is hashed in.
#[derive(Clone, Copy)]
struct Lane {
    abef: __m128i,
    cdgh: __m128i,
    /// The next sixteen words of the message's schedule.
    words: [__m128i; 4],
}

impl Lane {
    #[target_feature(enable = "sha,sse4.1")]
    #[inline]
    fn of([a, b, c, d, e, f, g, h]: State) -> Self {
        Self { abef: vector([f, e, b, a]), cdgh: vector([h, g, d, c]), words: [vector([0; 4]); 4] }
    }

    #[target_feature(enable = "sha,sse4.1")]
    #[inline]
    fn state(self) -> State {
        let ([f, e, b, a], [h, g, d, c]) = (numbers(self.abef), numbers(self.cdgh));
        [a, b, c, d, e, f, g, h]
    }

    /// Four rounds, with the next four words.
    #[target_feature(enable = "sha,sse4.1")]
    #[inline]
    fn rounds(&mut self, constants: &[u32; 4]) {
        let [words, ..] = self.words;
        let sum = _mm_add_epi32(words, vector(*constants));
        // Two rounds turn C, D, G, H into the A, B, E, F of after them, and what those were are the C, D, G, H.
        self.cdgh = _mm_sha256rnds2_epu32(self.cdgh, self.abef, sum);
        let upper = _mm_shuffle_epi32(sum, 0b_00_00_11_10);
        self.abef = _mm_sha256rnds2_epu32(self.abef, self.cdgh, upper);
    }

    /// The next four words give way to those that are sixteen further on.
    #[target_feature(enable = "sha,sse4.1")]
    #[inline]
    fn schedule(&mut self) {
        let [w0, w4, w8, w12] = self.words;
        let w9 = _mm_alignr_epi8(w12, w8, 4);
        let sum = _mm_add_epi32(_mm_sha256msg1_epu32(w0, w4), w9);
        self.words = [w4, w8, w12, _mm_sha256msg2_epu32(sum, w12)];
    }

    /// The next four words give way, and none come after the others.
    fn pass(&mut self) {
        let [_, w4, w8, w12] = self.words;
        self.words = [w4, w8, w12, w12];
    }

    #[target_feature(enable = "sha,sse4.1")]
    #[inline]
    fn add(&mut self, before: Self) {
        self.abef = _mm_add_epi32(self.abef, before.abef);
        self.cdgh = _mm_add_epi32(self.cdgh, before.cdgh);
    }
}

/// A block as big-endian words, the first of four lowest.
#[target_feature(enable = "sha,sse4.1")]
#[inline]
fn words(block: &Block) -> [__m128i; 4] {
    let (words, _) = block.as_chunks::<4>();
    let mut vectors = [vector([0; 4]); 4];
    for (vector_of_four, four) in vectors.iter_mut().zip(words.as_chunks::<4>().0) {
        *vector_of_four = vector(four.map(u32::from_be_bytes));
    }
    vectors
}

/// The first number is lowest.
#[target_feature(enable = "sha,sse4.1")]
#[inline]
fn vector(numbers: [u32; 4]) -> __m128i {
    let [first, second, third, fourth] = numbers.map(u32::cast_signed);
    _mm_set_epi32(fourth, third, second, first)
}

#[target_feature(enable = "sha,sse4.1")]
#[inline]
fn numbers(vector: __m128i) -> [u32; 4] {
    [
        _mm_extract_epi32(vector, 0),
        _mm_extract_epi32(vector, 1),
        _mm_extract_epi32(vector, 2),
        _mm_extract_epi32(vector, 3),
    ]
    .map(i32::cast_unsigned)
}
