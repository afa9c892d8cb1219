//! Operands as the matrix unit wants them: panels of 32 rows of A or columns of B ("lanes"), a step of 32 inner elements
//! after the other, each element as three bf16 numbers: its bits by eight.
//!
//! A step has six tiles: first, second and third part, each for the first and the last 16 lanes. A tile of A is
//! `[lane][pair]`, one of B `[pair][lane]`, where a pair is two neighbouring inner elements.

use std::arch::x86_64::{
    __m512, __m512i, __mmask16, _mm512_add_epi32, _mm512_and_si512, _mm512_castps_si512, _mm512_castsi512_ps,
    _mm512_maskz_loadu_ps, _mm512_mul_ps, _mm512_or_si512, _mm512_packus_epi32, _mm512_permutex2var_epi64,
    _mm512_set1_epi32, _mm512_set1_ps, _mm512_setr_epi64, _mm512_setzero_ps, _mm512_setzero_si512,
    _mm512_shuffle_i64x2, _mm512_srli_epi32, _mm512_storeu_si512, _mm512_sub_ps, _mm512_unpackhi_epi32,
    _mm512_unpackhi_epi64, _mm512_unpacklo_epi32, _mm512_unpacklo_epi64,
};

use crate::Gemm;

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

/// A row of a tile.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Row([u32; 16]);

/// A step of a panel: by part and half, tiles of sixteen rows.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Step([[[Row; 16]; 2]; PARTS]);

impl Step {
    pub(super) const ZERO: Self = Self([[[Row([0; 16]); 16]; 2]; PARTS]);
}

/// Sixteen rows of sixteen words.
type Square = [__m512i; 16];

impl<'a> Operand<'a> {
    /// All rows of A, inner elements from `k`.
    pub(super) fn left(g: &Gemm, a: &'a [f32], k: usize, inner: usize) -> Self {
        let offset = if g.transpose_a { k * g.lda } else { k };
        Self { values: &a[offset..], lanes: g.m, inner, stride: g.lda, inner_is_dense: !g.transpose_a, is_right: false }
    }

    /// All columns of B, inner elements from `k`.
    pub(super) fn right(g: &Gemm, b: &'a [f32], k: usize, inner: usize) -> Self {
        let offset = if g.transpose_b { k } else { k * g.ldb };
        Self { values: &b[offset..], lanes: g.n, inner, stride: g.ldb, inner_is_dense: g.transpose_b, is_right: true }
    }

    /// Inner elements are neighbours in memory, rather than lanes.
    pub(super) fn inner_is_dense(&self) -> bool {
        self.inner_is_dense
    }

    /// Packs one step of the panel whose first lane is `first`: inner elements from `inner` on.
    ///
    /// # Safety
    /// The processor has AVX-512.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
    pub(super) unsafe fn pack_step(&self, first: usize, inner: usize, tiles: &mut Step, scale: Scale) {
        for half in 0..2 {
            let lane = first + half * HALF;
            // A tile of A is `[lane][pair]`, so what is wanted are lanes of 32 elements; one of B is `[pair][lane]`.
            match (self.inner_is_dense, self.is_right) {
                (true, false) => {
                    for row in 0..16 {
                        let (x, y) = self.lane(lane + row, inner, scale);
                        store_lane(tiles, half, row, x, y);
                    }
                }
                (false, true) => {
                    for pair in 0..16 {
                        let k = inner + 2 * pair;
                        store_pair(tiles, half, pair, self.across(lane, k, scale), self.across(lane, k + 1, scale));
                    }
                }
                (true, true) => {
                    let (mut low, mut high) = ([_mm512_setzero_si512(); 16], [_mm512_setzero_si512(); 16]);
                    for row in 0..16 {
                        let (x, y) = self.lane(lane + row, inner, scale);
                        (low[row], high[row]) = (_mm512_castps_si512(x), _mm512_castps_si512(y));
                    }
                    for (square, first_pair) in [(low, 0), (high, 8)] {
                        let turned = transpose(&square);
                        for pair in 0..8 {
                            let [x, y] =
                                [turned[2 * pair], turned[2 * pair + 1]].map(|words| _mm512_castsi512_ps(words));
                            store_pair(tiles, half, first_pair + pair, x, y);
                        }
                    }
                }
                (false, false) => {
                    let (mut low, mut high) = ([_mm512_setzero_si512(); 16], [_mm512_setzero_si512(); 16]);
                    for k in 0..16 {
                        low[k] = _mm512_castps_si512(self.across(lane, inner + k, scale));
                    }
                    let low = transpose(&low);
                    for k in 0..16 {
                        high[k] = _mm512_castps_si512(self.across(lane, inner + 16 + k, scale));
                    }
                    let high = transpose(&high);
                    for row in 0..16 {
                        let [x, y] = [low[row], high[row]].map(|words| _mm512_castsi512_ps(words));
                        store_lane(tiles, half, row, x, y);
                    }
                }
            }
        }
    }

    /// 32 inner elements of a lane, where those are neighbours.
    #[target_feature(enable = "avx512f")]
    #[inline]
    fn lane(&self, lane: usize, inner: usize, scale: Scale) -> (__m512, __m512) {
        if lane >= self.lanes {
            return (_mm512_setzero_ps(), _mm512_setzero_ps());
        }
        let from = self.values[lane * self.stride + inner..].as_ptr();
        let left = self.inner - inner;
        // SAFETY: the masks leave out what is beyond the lane; masked elements are not read.
        let (x, y) = unsafe {
            (
                _mm512_maskz_loadu_ps(mask(left), from),
                _mm512_maskz_loadu_ps(mask(left.saturating_sub(16)), from.wrapping_add(16)),
            )
        };
        (scaled(x, scale), scaled(y, scale))
    }

    /// One inner element of sixteen lanes, where those are neighbours.
    #[target_feature(enable = "avx512f")]
    #[inline]
    fn across(&self, lane: usize, inner: usize, scale: Scale) -> __m512 {
        if inner >= self.inner || lane >= self.lanes {
            return _mm512_setzero_ps();
        }
        let from = self.values[inner * self.stride + lane..].as_ptr();
        // SAFETY: the mask leaves out what is beyond the last lane; masked elements are not read.
        scaled(unsafe { _mm512_maskz_loadu_ps(mask(self.lanes - lane), from) }, scale)
    }
}

/// Two lots of sixteen inner elements of a lane, as a row of a tile of A in three parts.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
fn store_lane(tiles: &mut Step, half: usize, row: usize, x: __m512, y: __m512) {
    // Quarters of the 32 elements in an order that `packus`, which works within quarters, turns back into theirs.
    let (first, second) = (_mm512_setr_epi64(0, 1, 4, 5, 8, 9, 12, 13), _mm512_setr_epi64(2, 3, 6, 7, 10, 11, 14, 15));
    let (x, y) = (_mm512_castps_si512(x), _mm512_castps_si512(y));
    let mut a = _mm512_castsi512_ps(_mm512_permutex2var_epi64(x, first, y));
    let mut b = _mm512_castsi512_ps(_mm512_permutex2var_epi64(x, second, y));
    for part in 0..PARTS {
        let (a_half, b_half) = (upper_half(a, part == 0), upper_half(b, part == 0));
        let upper = |half| _mm512_srli_epi32::<16>(_mm512_castps_si512(half));
        store(&mut tiles.0[part][half][row], _mm512_packus_epi32(upper(a_half), upper(b_half)));
        (a, b) = (_mm512_sub_ps(a, a_half), _mm512_sub_ps(b, b_half));
    }
}

/// Two inner elements of sixteen lanes, as a row of a tile of B in three parts.
#[target_feature(enable = "avx512f")]
#[inline]
fn store_pair(tiles: &mut Step, half: usize, pair: usize, mut x: __m512, mut y: __m512) {
    for part in 0..PARTS {
        let (even, odd) = (upper_half(x, part == 0), upper_half(y, part == 0));
        // The earlier element of a pair is the lower half of the word.
        let words = _mm512_or_si512(_mm512_srli_epi32::<16>(_mm512_castps_si512(even)), _mm512_castps_si512(odd));
        store(&mut tiles.0[part][half][pair], words);
        (x, y) = (_mm512_sub_ps(x, even), _mm512_sub_ps(y, odd));
    }
}

#[target_feature(enable = "avx512f")]
#[inline]
fn store(row: &mut Row, words: __m512i) {
    // SAFETY: a row has the 64 bytes of the register.
    unsafe { _mm512_storeu_si512((&raw mut row.0).cast(), words) };
}

/// The first `count` of sixteen.
fn mask(count: usize) -> __mmask16 {
    if count >= 16 { u16::MAX } else { (1 << count) - 1 }
}

#[target_feature(enable = "avx512f")]
#[inline]
#[expect(clippy::float_cmp, reason = "1 is an exact setting, not a computed value")]
fn scaled(x: __m512, scale: Scale) -> __m512 {
    if scale.0 == 1.0 { x } else { _mm512_mul_ps(x, _mm512_set1_ps(scale.0)) }
}

/// Sign, exponent and 8 bits of the significand: what a bf16 number holds. What is left, `x` minus this, is exact either
/// way; where it is rounded to nearest it is half as large and of either sign, so that what the product of later parts
/// leaves out averages to nothing.
#[target_feature(enable = "avx512f")]
#[inline]
fn upper_half(x: __m512, nearest: bool) -> __m512 {
    let mut bits = _mm512_castps_si512(x);
    if nearest {
        bits = _mm512_add_epi32(bits, _mm512_set1_epi32(0x8000));
    }
    _mm512_castsi512_ps(_mm512_and_si512(bits, _mm512_set1_epi32(0xffff_0000_u32.cast_signed())))
}

/// Rows become columns: words, then pairs of words, then quarters.
#[target_feature(enable = "avx512f,avx512dq")]
#[inline]
fn transpose(square: &Square) -> Square {
    let (mut t, mut u) = (*square, *square);
    for i in (0..16).step_by(2) {
        t[i] = _mm512_unpacklo_epi32(square[i], square[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(square[i], square[i + 1]);
    }
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
        t[c] = _mm512_shuffle_i64x2::<0x88>(low, low2);
        t[8 + c] = _mm512_shuffle_i64x2::<0xdd>(low, low2);
        t[4 + c] = _mm512_shuffle_i64x2::<0x88>(high, high2);
        t[12 + c] = _mm512_shuffle_i64x2::<0xdd>(high, high2);
    }
    t
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
            let square: Square = std::array::from_fn(|row| _mm512_loadu_si512(words[16 * row..].as_ptr().cast()));
            let square = transpose(&square);
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
