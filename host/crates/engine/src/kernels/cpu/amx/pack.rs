//! Operands as the matrix unit wants them: panels of 32 rows of A or columns of B ("lanes"), a step of 32 inner elements
//! after the other, each element as three bf16 numbers.
//!
//! A step has six tiles: first, second and third part, each for the first and the last 16 lanes. A tile of A is
//! `[lane][pair]`, one of B `[pair][lane]`, where a pair is two neighbouring inner elements.

use std::arch::x86_64::{
    __m256i, __m512, __m512bh, __m512i, __mmask16, _mm512_castps_si512, _mm512_castsi512_ps, _mm512_cvtepu16_epi32,
    _mm512_cvtne2ps_pbh, _mm512_extracti64x4_epi64, _mm512_maskz_loadu_ps, _mm512_mul_ps, _mm512_or_si512,
    _mm512_set1_ps, _mm512_setzero_ps, _mm512_setzero_si512, _mm512_shuffle_i64x2, _mm512_slli_epi32,
    _mm512_srli_epi32, _mm512_storeu_si512, _mm512_sub_ps, _mm512_unpackhi_epi32, _mm512_unpackhi_epi64,
    _mm512_unpacklo_epi32, _mm512_unpacklo_epi64,
};

use super::tiles::{KC, TILE_BYTES};
use crate::kernels::Gemm;

/// Lanes of a panel.
pub(super) const PANEL: usize = 32;
/// Parts of a float.
pub(super) const PARTS: usize = 3;
/// Lanes of a tile.
const HALF: usize = 16;

/// What an operand's elements are multiplied with.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scale(pub(super) f32);

/// A block of A or B as it lies in memory.
pub(super) struct Operand<'a> {
    values: &'a [f32],
    lanes: usize,
    inner: usize,
    /// Elements from one lane to the next, or from one inner element to the next, whichever is not 1.
    stride: usize,
    /// Inner elements are neighbours; otherwise lanes are.
    inner_is_dense: bool,
    /// The panel is B's.
    is_right: bool,
}

/// Sixteen rows of sixteen words.
type Square = [__m512i; 16];

impl<'a> Operand<'a> {
    /// Rows of A from `m`, inner elements from `k`.
    pub(super) fn left(g: &Gemm, a: &'a [f32], m: usize, k: usize, lanes: usize, inner: usize) -> Self {
        let offset = if g.transpose_a { k * g.lda + m } else { m * g.lda + k };
        Self { values: &a[offset..], lanes, inner, stride: g.lda, inner_is_dense: !g.transpose_a, is_right: false }
    }

    /// Columns of B from `n`, inner elements from `k`.
    pub(super) fn right(g: &Gemm, b: &'a [f32], k: usize, n: usize, lanes: usize, inner: usize) -> Self {
        let offset = if g.transpose_b { n * g.ldb + k } else { k * g.ldb + n };
        Self { values: &b[offset..], lanes, inner, stride: g.ldb, inner_is_dense: g.transpose_b, is_right: true }
    }

    /// Packs the panel whose first lane is `first`.
    ///
    /// # Safety
    /// The processor has AVX-512 with BF16. `panel` has the bytes of a panel of this operand's inner length.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
    pub(super) unsafe fn pack(&self, first: usize, panel: &mut [u8], scale: Scale) {
        for (step, tiles) in panel.chunks_exact_mut(2 * PARTS * TILE_BYTES).enumerate() {
            for half in 0..2 {
                let lane = first + half * HALF;
                // SAFETY: the features are the caller's promise.
                let parts = unsafe {
                    if self.inner_is_dense {
                        self.by_lane(lane, step * KC, scale)
                    } else {
                        self.by_pair(lane, step * KC, scale)
                    }
                };
                // `by_lane` gives `[lane][pair]`, `by_pair` gives `[pair][lane]`.
                let turn = self.inner_is_dense == self.is_right;
                for (part, mut square) in parts.into_iter().enumerate() {
                    if turn {
                        // SAFETY: as above.
                        unsafe { transpose(&mut square) };
                    }
                    let tile = &mut tiles[(2 * part + half) * TILE_BYTES..][..TILE_BYTES];
                    for (row, words) in square.iter().zip(tile.chunks_exact_mut(64)) {
                        // SAFETY: the chunk has the 64 bytes of a row.
                        unsafe { _mm512_storeu_si512(words.as_mut_ptr().cast(), *row) };
                    }
                }
            }
        }
    }

    /// Sixteen lanes of 32 inner elements, where those are neighbours: `[lane][pair]` of each part.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
    unsafe fn by_lane(&self, lane: usize, inner: usize, scale: Scale) -> [Square; PARTS] {
        let zero = _mm512_setzero_si512();
        let mut parts = [[zero; 16]; PARTS];
        let (low, high) = (mask(self.inner.saturating_sub(inner)), mask(self.inner.saturating_sub(inner + 16)));
        for row in 0..16.min(self.lanes.saturating_sub(lane)) {
            let from = self.values[(lane + row) * self.stride + inner..].as_ptr();
            // SAFETY: the masks leave out what is beyond the lane; masked elements are not read.
            let (mut x, mut y) =
                unsafe { (_mm512_maskz_loadu_ps(low, from), _mm512_maskz_loadu_ps(high, from.wrapping_add(16))) };
            // SAFETY: as for this function.
            unsafe {
                x = scaled(x, scale);
                y = scaled(y, scale);
                for part in &mut parts {
                    let rounded: __m512i = std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(y, x));
                    part[row] = rounded;
                    x = _mm512_sub_ps(x, widen(_mm512_extracti64x4_epi64::<0>(rounded)));
                    y = _mm512_sub_ps(y, widen(_mm512_extracti64x4_epi64::<1>(rounded)));
                }
            }
        }
        parts
    }

    /// The same where lanes are neighbours: `[pair][lane]` of each part.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
    unsafe fn by_pair(&self, lane: usize, inner: usize, scale: Scale) -> [Square; PARTS] {
        let zero = _mm512_setzero_si512();
        let mut parts = [[zero; 16]; PARTS];
        let lanes = mask(self.lanes.saturating_sub(lane));
        if lanes == 0 {
            return parts;
        }
        let load = |k: usize| {
            if k >= self.inner {
                return _mm512_setzero_ps();
            }
            let from = self.values[k * self.stride + lane..].as_ptr();
            // SAFETY: the mask leaves out what is beyond the last lane.
            unsafe { scaled(_mm512_maskz_loadu_ps(lanes, from), scale) }
        };
        for pair in 0..16 {
            let (mut x, mut y) = (load(inner + 2 * pair), load(inner + 2 * pair + 1));
            for part in &mut parts {
                // SAFETY: as for this function.
                unsafe {
                    let rounded: __m512i = std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(y, x));
                    let even = widen(_mm512_extracti64x4_epi64::<0>(rounded));
                    let odd = widen(_mm512_extracti64x4_epi64::<1>(rounded));
                    // The earlier element of a pair is the lower half of the word.
                    part[pair] =
                        _mm512_or_si512(_mm512_srli_epi32::<16>(_mm512_castps_si512(even)), _mm512_castps_si512(odd));
                    x = _mm512_sub_ps(x, even);
                    y = _mm512_sub_ps(y, odd);
                }
            }
        }
        parts
    }
}

/// The first `count` of sixteen.
fn mask(count: usize) -> __mmask16 {
    if count >= 16 { u16::MAX } else { (1 << count) - 1 }
}

#[target_feature(enable = "avx512f")]
#[inline]
#[expect(clippy::float_cmp, reason = "1 is an exact setting, not a computed value")]
unsafe fn scaled(x: __m512, scale: Scale) -> __m512 {
    if scale.0 == 1.0 { x } else { _mm512_mul_ps(x, _mm512_set1_ps(scale.0)) }
}

/// Sixteen bf16 numbers as floats.
#[target_feature(enable = "avx512f")]
#[inline]
unsafe fn widen(half: __m256i) -> __m512 {
    _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(half)))
}

/// Rows become columns: words, then pairs of words, then quarters.
#[target_feature(enable = "avx512f,avx512dq")]
#[inline]
unsafe fn transpose(square: &mut Square) {
    let mut t = *square;
    for i in (0..16).step_by(2) {
        t[i] = _mm512_unpacklo_epi32(square[i], square[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(square[i], square[i + 1]);
    }
    let mut u = t;
    for i in (0..16).step_by(4) {
        u[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
        u[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
        u[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
        u[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    // `u[4 * g + c]` has, in quarter `q`, column `4 * q + c` of rows `4 * g` to `4 * g + 3`.
    for c in 0..4 {
        let low = _mm512_shuffle_i64x2::<0x88>(u[c], u[4 + c]);
        let high = _mm512_shuffle_i64x2::<0xdd>(u[c], u[4 + c]);
        let low2 = _mm512_shuffle_i64x2::<0x88>(u[8 + c], u[12 + c]);
        let high2 = _mm512_shuffle_i64x2::<0xdd>(u[8 + c], u[12 + c]);
        square[c] = _mm512_shuffle_i64x2::<0x88>(low, low2);
        square[8 + c] = _mm512_shuffle_i64x2::<0xdd>(low, low2);
        square[4 + c] = _mm512_shuffle_i64x2::<0x88>(high, high2);
        square[12 + c] = _mm512_shuffle_i64x2::<0xdd>(high, high2);
    }
}

#[cfg(test)]
mod tests {
    use std::arch::x86_64::_mm512_loadu_si512;

    use super::*;

    #[test]
    fn transposing_turns_rows_into_columns() {
        if !std::arch::is_x86_feature_detected!("avx512dq") {
            return;
        }
        let words: Vec<u32> = (0..256).collect();
        // SAFETY: the processor has the features; 256 words are 16 rows.
        let found: Vec<u32> = unsafe {
            let mut square: Square = std::array::from_fn(|row| _mm512_loadu_si512(words[16 * row..].as_ptr().cast()));
            transpose(&mut square);
            let mut out = vec![0; 256];
            for (row, values) in square.iter().enumerate() {
                _mm512_storeu_si512(out[16 * row..].as_mut_ptr().cast(), *values);
            }
            out
        };
        for row in 0..16 {
            for column in 0..16 {
                assert_eq!(found[16 * row + column], (16 * column + row) as u32, "{row} {column}");
            }
        }
    }
}
