//! Hashes for sketches and indexes: fast, well mixed, the same on every machine. Where an equal hash decides something, the
//! words behind it are compared as well, or `exact` is used instead.
//!
//! The mixing is the folded multiplication of wyhash (Wang Yi 2019, <https://github.com/wangyi-fudan/wyhash>): the halves of a
//! product of 128 bits, one upon the other.

const SECRET: [u64; 3] = [0xa076_1d64_78bd_642f, 0xe703_7ed1_a0b4_28db, 0x8ebc_6af0_9c88_c6e3];

#[inline(always)]
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    (product >> 64) as u64 ^ product as u64
}

/// Of one word.
#[inline]
pub(crate) fn word(word: &str) -> u64 {
    let bytes = word.as_bytes();
    let mut hash = SECRET[0] ^ bytes.len() as u64;
    let mut chunks = bytes.chunks_exact(8);
    for chunk in &mut chunks {
        hash = fold(hash ^ u64::from_le_bytes(chunk.try_into().expect("chunks of 8")), SECRET[1]);
    }
    let rest = chunks.remainder().iter().rev().fold(0_u64, |value, &byte| value << 8 | u64::from(byte));
    fold(hash ^ rest, SECRET[1] ^ hash)
}

/// Of several words, from theirs, in their order.
#[inline]
pub(crate) fn words(hashes: &[u64]) -> u64 {
    fold(hashes.iter().fold(SECRET[2], |all, &hash| fold(all ^ hash, SECRET[1])), SECRET[0])
}

/// Of numbers: the rows of a band.
#[inline]
pub(crate) fn numbers(numbers: &[u32]) -> u32 {
    let all = numbers.iter().fold(SECRET[2], |all, &number| fold(all ^ u64::from(number), SECRET[1]));
    (all >> 32) as u32 ^ all as u32
}

/// A sequence of well mixed numbers (SplitMix64, Steele, Lea and Flood 2014).
pub(crate) fn splitmix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
