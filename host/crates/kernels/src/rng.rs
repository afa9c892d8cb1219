//! A counter-based random number generator: Philox4x32-10 (Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy
//! as 1, 2, 3", SC 2011). Any number of a stream can be computed by itself, so results depend on the seed and on nothing
//! else: not on the thread that asks, nor on what was asked before.

const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];

/// The ten-round Philox bijection: 128 random bits for a counter under a key.
#[inline]
pub fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for round in 0..10 {
        if round > 0 {
            key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
        }
        let a = u64::from(MULTIPLIERS[0]) * u64::from(counter[0]);
        let b = u64::from(MULTIPLIERS[1]) * u64::from(counter[2]);
        counter = [(b >> 32) as u32 ^ counter[1] ^ key[0], b as u32, (a >> 32) as u32 ^ counter[3] ^ key[1], a as u32];
    }
    counter
}

/// Four random words of a stream at a place.
#[inline]
pub fn block(seed: u64, stream: u64, index: u64) -> [u32; 4] {
    philox(
        [index as u32, (index >> 32) as u32, stream as u32, (stream >> 32) as u32],
        [seed as u32, (seed >> 32) as u32],
    )
}

/// A number for a name, so that each tensor has a stream of its own (FNV-1a, 64 bits).
pub fn stream_of(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Uniform in `[0, 1)` with 24 bits.
#[inline]
pub fn uniform(word: u32) -> f32 {
    (word >> 8) as f32 * (1.0 / 16_777_216.0)
}

/// Element `index` of a stream of standard normal numbers (Box–Muller on two words of a block).
pub fn normal_at(seed: u64, stream: u64, index: u64) -> f32 {
    let words = block(seed, stream, index / 2);
    let pair = if index.is_multiple_of(2) { [words[0], words[1]] } else { [words[2], words[3]] };
    // The first is moved into (0, 1] so that its logarithm is finite.
    let radius = (-2.0 * ((f64::from(pair[0]) + 1.0) / 4_294_967_296.0).ln()).sqrt();
    let angle = std::f64::consts::TAU * (f64::from(pair[1]) / 4_294_967_296.0);
    (radius * angle.cos()) as f32
}

/// A stream read in order.
#[derive(Debug, Clone)]
pub struct Philox {
    seed: u64,
    stream: u64,
    index: u64,
    words: [u32; 4],
    left: usize,
}

impl Philox {
    /// A stream at its start.
    pub fn new(seed: u64, stream: u64) -> Self {
        Self { seed, stream, index: 0, words: [0; 4], left: 0 }
    }

    /// 32 random bits.
    pub fn next_u32(&mut self) -> u32 {
        if self.left == 0 {
            self.words = block(self.seed, self.stream, self.index);
            self.index += 1;
            self.left = 4;
        }
        self.left -= 1;
        self.words[3 - self.left]
    }

    /// 64 random bits.
    pub fn next_u64(&mut self) -> u64 {
        u64::from(self.next_u32()) | u64::from(self.next_u32()) << 32
    }

    /// Uniform in `[0, 1)` with 53 bits.
    pub fn next_f64(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 * (1.0 / 9_007_199_254_740_992.0)
    }

    /// Uniform in `0..bound`, without bias (Lemire's method with rejection). `bound` must not be zero.
    pub fn below(&mut self, bound: u64) -> u64 {
        let threshold = bound.wrapping_neg() % bound;
        loop {
            let product = u128::from(self.next_u64()) * u128::from(bound);
            if product as u64 >= threshold {
                return (product >> 64) as u64;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equals_the_known_answers_of_random123() {
        // kat_vectors of Random123 for philox4x32-10.
        assert_eq!(philox([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(philox([u32::MAX; 4], [u32::MAX; 2]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        let counter = [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344];
        assert_eq!(philox(counter, [0xa409_3822, 0x299f_31d0]), [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]);
    }

    #[test]
    fn normal_numbers_have_mean_zero_and_variance_one() {
        let values: Vec<f64> = (0..200_000).map(|index| f64::from(normal_at(3, 9, index))).collect();
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        let variance = values.iter().map(|value| value * value).sum::<f64>() / values.len() as f64;
        assert!(mean.abs() < 0.01 && (variance - 1.0).abs() < 0.02, "{mean} {variance}");
    }

    #[test]
    fn below_is_even_over_its_range() {
        let mut rng = Philox::new(1, 2);
        let mut counts = [0u32; 7];
        for _ in 0..70_000 {
            counts[rng.below(7) as usize] += 1;
        }
        assert!(counts.iter().all(|&count| count.abs_diff(10_000) < 500), "{counts:?}");
    }
}
