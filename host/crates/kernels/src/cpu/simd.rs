//! Run-time choice of the instruction set, and the pieces that the fused loops share.

use std::sync::atomic::{AtomicU8, Ordering};

use rayon::prelude::*;

/// Elements below which a loop is not worth a second thread.
pub(super) const GRAIN: usize = 1 << 14;

/// What the machine can do: 0 the baseline, 1 AVX2, 2 AVX-512.
#[inline]
pub(super) fn level() -> u8 {
    static LEVEL: AtomicU8 = AtomicU8::new(u8::MAX);
    let level = LEVEL.load(Ordering::Relaxed);
    if level != u8::MAX {
        return level;
    }
    let found = detect();
    LEVEL.store(found, Ordering::Relaxed);
    found
}

#[cfg(target_arch = "x86_64")]
fn detect() -> u8 {
    let avx512 = is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512bw");
    let avx2 = is_x86_feature_detected!("avx2");
    if avx512 && avx2 { 2 } else { u8::from(avx2) }
}

#[cfg(not(target_arch = "x86_64"))]
fn detect() -> u8 {
    0
}

/// Defines a loop once and compiles it for each instruction set. The body uses no fused multiply-add, so that its result
/// is the same bits on all of them.
macro_rules! simd {
    ($(#[$meta:meta])* $visibility:vis fn $name:ident($($argument:ident: $type:ty),* $(,)?) $(-> $result:ty)? $body:block) => {
        $(#[$meta])*
        #[inline]
        $visibility fn $name($($argument: $type),*) $(-> $result)? {
            #[inline(always)]
            fn body($($argument: $type),*) $(-> $result)? $body
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw,avx2")]
            fn avx512($($argument: $type),*) $(-> $result)? { body($($argument),*) }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2")]
            fn avx2($($argument: $type),*) $(-> $result)? { body($($argument),*) }
            #[cfg(target_arch = "x86_64")]
            match $crate::cpu::simd::level() {
                // SAFETY: `level` found these instructions on this machine.
                2 => return unsafe { avx512($($argument),*) },
                // SAFETY: as above.
                1 => return unsafe { avx2($($argument),*) },
                _ => {}
            }
            body($($argument),*)
        }
    };
}
pub(super) use simd;

/// `e^x` to about 1e-7 relative (Cephes `expf`: two-part reduction by ln 2, a polynomial of degree 7).
#[inline(always)]
#[expect(clippy::excessive_precision, clippy::approx_constant, reason = "the published constants")]
pub(super) fn exp(x: f32) -> f32 {
    let x = x.clamp(-87.0, 88.0);
    // Adding 1.5 * 2^23 rounds to the nearest integer, which is then in the lowest bits. (A cast to an integer would do, but
    // saturates, and that is not vectorized.)
    let shifted = x * 1.442_695_04 + 12_582_912.0;
    let n = shifted - 12_582_912.0;
    let r = (x - n * 0.693_359_375) + n * 2.121_944_4e-4;
    let p = 1.987_569_15e-4;
    let p = p * r + 1.398_199_95e-3;
    let p = p * r + 8.333_451_9e-3;
    let p = p * r + 4.166_579_6e-2;
    let p = p * r + 1.666_666_55e-1;
    let p = p * r + 5.000_000_1e-1;
    let p = p * r * r + r + 1.0;
    let power = f32::from_bits(p.to_bits().wrapping_add(shifted.to_bits() << 23));
    // The lowest bits of NaN are no integer, and could make a number of it.
    if x.is_nan() { x } else { power }
}

/// `e^x - 1` to about 3e-7 relative (its series near zero, the exponential beyond).
#[inline(always)]
pub(super) fn expm1(x: f32) -> f32 {
    let p = 1.0 / 40_320.0;
    let p = p * x + 1.0 / 5040.0;
    let p = p * x + 1.0 / 720.0;
    let p = p * x + 1.0 / 120.0;
    let p = p * x + 1.0 / 24.0;
    let p = p * x + 1.0 / 6.0;
    let p = p * x + 0.5;
    let near = p * x * x + x;
    if x.abs() < 0.35 { near } else { exp(x) - 1.0 }
}

/// The hyperbolic tangent to about 1e-7 relative (Cephes `tanhf`: a polynomial near zero, exponentials beyond).
#[inline(always)]
#[expect(clippy::excessive_precision, reason = "the published constants")]
pub(super) fn tanh(x: f32) -> f32 {
    let square = x * x;
    let p = -5.704_988_727_45e-3;
    let p = p * square + 2.063_908_879_54e-2;
    let p = p * square - 5.373_971_555_31e-2;
    let p = p * square + 1.333_144_220_36e-1;
    let p = p * square - 3.333_328_194_22e-1;
    let near = p * square * x + x;
    let beyond = (1.0 - 2.0 / (exp(2.0 * x.abs()) + 1.0)).copysign(x);
    if x.abs() < 0.625 { near } else { beyond }
}

/// The sum of a value for each place of some slices of one length: in 32 lanes, then over the lanes. Vectorizes, and has one
/// fixed order.
#[inline(always)]
pub(super) fn sum<const N: usize>(slices: [&[f32]; N], value: impl Fn([f32; N]) -> f32) -> f32 {
    const LANES: usize = 32;
    let len = slices[0].len();
    let whole = len / LANES * LANES;
    let mut lanes = [0.0f32; LANES];
    let mut start = 0;
    while start < whole {
        // Arrays, whose length the compiler knows: a check in the loop would keep it from being vectorized.
        let chunks: [&[f32; LANES]; N] =
            slices.map(|slice| slice[start..].first_chunk().expect("slices of one length"));
        for lane in 0..LANES {
            lanes[lane] += value(std::array::from_fn(|slice| chunks[slice][lane]));
        }
        start += LANES;
    }
    let mut total = 0.0;
    for lane in lanes {
        total += lane;
    }
    for index in whole..len {
        total += value(slices.map(|slice| slice[index]));
    }
    total
}

/// The largest of `len` values.
#[inline(always)]
pub(super) fn max(values: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; 32];
    let chunks = values.chunks_exact(32);
    let rest = chunks.remainder();
    for chunk in chunks {
        for lane in 0..32 {
            lanes[lane] = if chunk[lane] > lanes[lane] { chunk[lane] } else { lanes[lane] };
        }
    }
    let mut largest = f32::NEG_INFINITY;
    for &value in lanes.iter().chain(rest) {
        largest = if value > largest { value } else { largest };
    }
    largest
}

simd! {
    /// Replaces scores by `exp(scale * scores - largest)`; returns `largest`, that of the scaled scores, and the sum.
    pub(super) fn exp_row(scores: &mut [f32], scale: f32) -> (f32, f32) {
        let largest = max(scores) * scale;
        let mut lanes = [0.0f32; 32];
        let mut chunks = scores.chunks_exact_mut(32);
        for chunk in &mut chunks {
            for lane in 0..32 {
                let value = exp(chunk[lane] * scale - largest);
                chunk[lane] = value;
                lanes[lane] += value;
            }
        }
        let mut total = 0.0;
        for lane in lanes {
            total += lane;
        }
        for score in chunks.into_remainder() {
            *score = exp(*score * scale - largest);
            total += *score;
        }
        (largest, total)
    }
}

simd! {
    /// Multiplies all values by a factor.
    pub(super) fn multiply(values: &mut [f32], factor: f32) {
        for value in values {
            *value *= factor;
        }
    }
}

simd! {
    /// Replaces scores by `softmax(scale * scores)`; returns the log-sum-exp of the scaled scores.
    pub(super) fn softmax_row(scores: &mut [f32], scale: f32) -> f32 {
        let (largest, total) = exp_row(scores, scale);
        multiply(scores, 1.0 / total);
        largest + total.ln()
    }
}

/// Memory that several threads write at once, each in places of its own.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shared {
    pointer: *mut f32,
    len: usize,
}

// SAFETY: `Shared` is only a place; `slice` is where the promise of disjoint use is made.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    pub(super) fn new(memory: &mut [f32]) -> Self {
        Self { pointer: memory.as_mut_ptr(), len: memory.len() }
    }

    /// # Safety
    /// `pointer` must be valid for `len` elements as far as they are used, and nobody else may use those meanwhile.
    pub(super) unsafe fn from_raw(pointer: *mut f32, len: usize) -> Self {
        Self { pointer, len }
    }

    /// # Safety
    /// While the result lives, no other slice of the same elements may be used, and the memory must outlive it.
    #[inline]
    pub(super) unsafe fn slice<'a>(self, start: usize, len: usize) -> &'a mut [f32] {
        assert!(start <= self.len && len <= self.len - start, "a kernel writes past its buffer");
        // SAFETY: in bounds by the check above; disjointness is the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.pointer.add(start), len) }
    }
}

impl Shared {
    /// A place whose next `len` elements are inside the memory.
    #[inline]
    pub(super) fn pointer(self, start: usize, len: usize) -> *mut f32 {
        assert!(start <= self.len && len <= self.len - start, "a kernel writes past its buffer");
        // SAFETY: in bounds by the check above.
        unsafe { self.pointer.add(start) }
    }
}

/// Runs `work(first, last)` over `rows` rows, on all threads if they are worth it. Rows must not depend on each other.
pub(super) fn parallel_rows(rows: usize, width: usize, work: impl Fn(usize, usize) + Sync) {
    let threads = rayon::current_num_threads();
    if threads == 1 || rows * width <= GRAIN {
        return work(0, rows);
    }
    let share = rows.div_ceil(threads * 2).max(1);
    (0..rows.div_ceil(share)).into_par_iter().with_max_len(1).for_each(|part| {
        work(part * share, ((part + 1) * share).min(rows));
    });
}

#[cfg(test)]
mod tests {
    use super::{exp, expm1, tanh};

    #[test]
    fn exponentials_less_one_are_those_of_f64_to_six_digits() {
        for step in -200_000..=100_000 {
            let x = step as f32 * 1e-4;
            let (found, exact) = (f64::from(expm1(x)), f64::from(x).exp_m1());
            assert!((found - exact).abs() <= 4e-7 * exact.abs(), "expm1({x}) = {found:e}, not {exact:e}");
        }
        assert!(expm1(f32::NAN).is_nan() && expm1(f32::NEG_INFINITY).to_bits() == (-1.0f32).to_bits());
    }

    #[test]
    fn hyperbolic_tangents_are_those_of_f64_to_seven_digits() {
        for step in -200_000..=200_000 {
            let x = step as f32 * 1e-4;
            let (found, exact) = (f64::from(tanh(x)), f64::from(x).tanh());
            assert!((found - exact).abs() <= 2e-7 * exact.abs(), "tanh({x}) = {found:e}, not {exact:e}");
        }
        assert!(tanh(f32::NAN).is_nan() && tanh(1e30).to_bits() == 1.0f32.to_bits());
    }

    #[test]
    fn exponentials_are_those_of_f64_to_seven_digits() {
        for step in -870_000..=880_000 {
            let x = step as f32 * 1e-4;
            let (found, exact) = (f64::from(exp(x)), f64::from(x).exp());
            assert!((found - exact).abs() <= 2e-7 * exact, "exp({x}) = {found:e}, not {exact:e}");
        }
        assert!(exp(f32::NEG_INFINITY) < 2e-38 && exp(f32::INFINITY) > 1e38);
    }

    #[test]
    fn what_is_no_number_stays_none_whatever_its_bits() {
        for bits in [0x7fc0_0000, 0x7fc0_0001, 0x7fff_ffff, 0xffc0_0003, 0xffff_ffff_u32] {
            assert!(exp(f32::from_bits(bits)).is_nan(), "{bits:x}");
        }
    }
}
