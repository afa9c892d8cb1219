//! Products of few rows, `C [m, n] = alpha * A [m, k] * B [n, k]^T + beta * C` with `m` or `n` small: what a step of
//! generation is made of. `B` goes by once, in the order in which it lies in memory, and is never packed.
//!
//! The reduction order is one for all sizes, and that of large products (`matmul`): the inner dimension in stretches of
//! [`stretch`] elements, each a chain of fused multiply-adds from the first element to the last, the sums of the stretches
//! added in order. A row's result so depends on the row alone, not on how many rows there are beside it.

use std::cell::RefCell;

use rayon::prelude::*;

use super::simd::Shared;
use super::threads::Threads;
use crate::Gemm;

/// Rows (or columns) up to which a product is one of few.
pub(super) const FEW: usize = 64;
/// Rows of `A` that are multiplied at a time.
const ROWS: usize = 8;
/// Rows of `B` that are multiplied at a time: one to a lane.
pub(super) const LANES: usize = 8;
/// The longest chain.
const CHAIN: usize = 512;
/// Products below which a second thread is not worth waking.
const GRAIN: usize = 1 << 17;

/// Inner elements of a chain: `k` in as few even parts as keep to [`CHAIN`].
pub(super) fn stretch(k: usize) -> usize {
    k.div_ceil(k.div_ceil(CHAIN).max(1))
}

/// True for a product that is done here.
pub(super) fn takes(g: Gemm) -> bool {
    g.transpose_b && !g.transpose_a && g.k > 0 && (g.m <= FEW || g.n <= FEW || g.k <= 2)
}

thread_local! {
    static PACKED: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// What all panels of a product share.
#[derive(Clone, Copy)]
struct Product<'a> {
    k: usize,
    alpha: f32,
    beta: f32,
    /// The few rows, interleaved: `[groups, k, ROWS]`.
    few: &'a [f32],
    rows: usize,
    many: Many<'a>,
    /// How many rows those are, and elements from one to the next.
    count: usize,
    stride: usize,
    c: Shared,
    /// Elements of `C` from one of the few rows to the next, and from one of the many to the next.
    steps: (usize, usize),
}

/// The operand of many rows.
#[derive(Clone, Copy)]
pub(super) enum Many<'a> {
    /// Row by row.
    Rows(&'a [f32]),
    /// The upper halves of the elements, which have no lower ones: in panels, `[many / LANES, k, LANES]`.
    Halves(&'a [u16]),
}

/// # Safety
/// As for `matmul::gemm_at`, for a product that [`takes`] says yes to. With halves, `m` is at most [`FEW`], and [`reads_halves`]
/// holds.
pub(super) unsafe fn gemm(g: Gemm, a: &[f32], b: Many<'_>, c: *mut f32, threads: Threads) {
    if g.m == 0 || g.n == 0 {
        return;
    }
    // SAFETY: the caller's promise, element by element; `Shared` only carries the place.
    let c = unsafe { Shared::from_raw(c, (g.m - 1) * g.ldc + g.n) };
    // Of many rows and few columns, the transpose.
    let is_transposed = g.m > FEW && g.n < g.m;
    let ((few, rows, lda), (many, count, stride), steps) = match b {
        Many::Rows(b) if is_transposed => ((b, g.n, g.ldb), (Many::Rows(a), g.m, g.lda), (1, g.ldc)),
        _ => ((a, g.m, g.lda), (b, g.n, g.ldb), (g.ldc, 1)),
    };
    // Taken out, because a thread that waits for its shares may be given another product meanwhile.
    let mut packed = PACKED.take();
    let len = rows.div_ceil(ROWS) * ROWS * g.k;
    if packed.len() < len {
        packed.resize(len, 0.0);
    }
    interleave(few, rows, lda, g.k, &mut packed[..len]);
    let (alpha, beta) = (g.alpha, g.beta);
    let product = Product { k: g.k, alpha, beta, few: &packed[..len], rows, many, count, stride, c, steps };
    let panels = count.div_ceil(LANES);
    let pool = rayon::current_num_threads();
    if threads == Threads::One || pool == 1 || g.m * g.n * g.k <= GRAIN {
        run(product, 0, panels);
    } else {
        // A few shares a thread, so that one that is held up does not hold up all.
        let share = panels.div_ceil(pool * 4).max(1);
        (0..panels.div_ceil(share)).into_par_iter().with_max_len(1).for_each(|part| {
            run(product, part * share, ((part + 1) * share).min(panels));
        });
    }
    PACKED.set(packed);
}

/// True if the processor multiplies and adds at once, eight elements at a time.
#[cfg(target_arch = "x86_64")]
pub(super) fn is_fused() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")
}

/// True if this processor reads [`Many::Halves`].
pub(super) fn reads_halves() -> bool {
    #[cfg(target_arch = "x86_64")]
    return is_fused();
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// Rows as [`Product::few`] has them; rows beyond the last are zero.
fn interleave(few: &[f32], rows: usize, lda: usize, k: usize, packed: &mut [f32]) {
    for (group, packed) in packed.chunks_exact_mut(ROWS * k).enumerate() {
        let first = group * ROWS;
        let here = ROWS.min(rows - first);
        if here < ROWS {
            packed.fill(0.0);
        }
        for row in 0..here {
            let source = &few[(first + row) * lda..][..k];
            for (target, &value) in packed[row..].iter_mut().step_by(ROWS).zip(source) {
                *target = value;
            }
        }
    }
}

/// The panels from `first` to `last`.
fn run(product: Product<'_>, first: usize, last: usize) {
    #[cfg(target_arch = "x86_64")]
    if is_fused() {
        // SAFETY: the processor has these instructions.
        return unsafe { fused::run(product, first, last) };
    }
    for panel in first..last {
        for group in 0..product.rows.div_ceil(ROWS) {
            plain(product, panel, group);
        }
    }
}

/// A panel of `LANES` rows of the many times a group of the few, on any processor.
fn plain(product: Product<'_>, panel: usize, group: usize) {
    let Product { k, few, count, stride, .. } = product;
    let Many::Rows(many) = product.many else { unreachable!("halves are made where they are read") };
    let few = &few[group * ROWS * k..][..ROWS * k];
    let lanes = LANES.min(count - panel * LANES);
    let mut total = [[0.0; LANES]; ROWS];
    let length = stretch(k);
    for (part, start) in (0..k).step_by(length).enumerate() {
        let mut sums = [[0.0f32; LANES]; ROWS];
        for index in start..(start + length).min(k) {
            for lane in 0..lanes {
                let weight = many[(panel * LANES + lane) * stride + index];
                for (sums, &value) in sums.iter_mut().zip(&few[index * ROWS..][..ROWS]) {
                    sums[lane] = multiply_add(value, weight, sums[lane]);
                }
            }
        }
        for (row, (total, sums)) in total.iter_mut().zip(&sums).enumerate() {
            if group * ROWS + row < product.rows {
                product.add(part == 0, [panel, group, row, lanes], sums, total);
            }
        }
    }
    for (row, total) in total.iter().enumerate().take(product.rows - (group * ROWS).min(product.rows)) {
        product.put([panel, group, row, lanes], total);
    }
}

/// As the processor's large products have it: rounded once where it can do that, which all but the oldest x86 can.
#[inline(always)]
fn multiply_add(a: f32, b: f32, c: f32) -> f32 {
    if cfg!(target_arch = "x86_64") { a * b + c } else { a.mul_add(b, c) }
}

impl Product<'_> {
    fn place(&self, panel: usize, row: usize, lane: usize) -> usize {
        row * self.steps.0 + (panel * LANES + lane) * self.steps.1
    }

    /// Adds the sums of a stretch, as the last lines of `gemm`'s microkernels do.
    #[inline(always)]
    fn add(
        &self,
        is_first: bool,
        [panel, group, row, lanes]: [usize; 4],
        sums: &[f32; LANES],
        total: &mut [f32; LANES],
    ) {
        for lane in 0..lanes {
            let sum = sums[lane];
            total[lane] = if !is_first {
                multiply_add(self.alpha, sum, total[lane])
            } else if self.beta == 0.0 {
                self.alpha * sum
            } else {
                // SAFETY: each element belongs to one panel.
                let held = unsafe { self.c.slice(self.place(panel, group * ROWS + row, lane), 1) }[0];
                #[expect(clippy::float_cmp, reason = "1 is exact")]
                if self.beta == 1.0 { multiply_add(self.alpha, sum, held) } else { self.beta * held + self.alpha * sum }
            };
        }
    }

    #[inline(always)]
    fn put(&self, [panel, group, row, lanes]: [usize; 4], total: &[f32; LANES]) {
        for lane in 0..lanes {
            // SAFETY: each element belongs to one panel.
            let place = unsafe { self.c.slice(self.place(panel, group * ROWS + row, lane), 1) };
            place[0] = total[lane];
        }
    }
}

/// The same with AVX2 and fused multiply-adds.
#[cfg(target_arch = "x86_64")]
mod fused {
    use std::arch::x86_64::{
        __m256, _MM_HINT_T0, _mm_loadu_ps, _mm_loadu_si128, _mm_prefetch, _mm256_add_ps, _mm256_broadcast_ss,
        _mm256_castps128_ps256, _mm256_castsi256_ps, _mm256_cvtepu16_epi32, _mm256_fmadd_ps, _mm256_insertf128_ps,
        _mm256_loadu_ps, _mm256_mul_ps, _mm256_set_ps, _mm256_set1_ps, _mm256_setzero_ps, _mm256_shuffle_ps,
        _mm256_slli_epi32, _mm256_storeu_ps, _mm256_unpackhi_ps, _mm256_unpacklo_ps,
    };

    use super::{LANES, Many, Product, ROWS, stretch};

    /// # Safety
    /// [`is_fused`](super::is_fused) holds.
    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn run(product: Product<'_>, first: usize, last: usize) {
        for panel in first..last {
            let mut row = 0;
            while row < product.rows {
                // SAFETY: the processor has the instructions; sizes are those of the product.
                unsafe {
                    match product.rows - row {
                        1 => block::<1>(product, panel, row),
                        2 => block::<2>(product, panel, row),
                        3 => block::<3>(product, panel, row),
                        4 => block::<4>(product, panel, row),
                        5 => block::<5>(product, panel, row),
                        6 => block::<6>(product, panel, row),
                        7 => block::<7>(product, panel, row),
                        _ => block::<8>(product, panel, row),
                    }
                }
                row += ROWS;
            }
        }
    }

    /// A panel of the many rows times `M` of the few, from `row` on.
    ///
    /// # Safety
    /// As [`run`]; `row` is a multiple of [`ROWS`], and `panel` and `row + M - 1` are in the product.
    #[target_feature(enable = "avx2,fma")]
    unsafe fn block<const M: usize>(product: Product<'_>, panel: usize, row: usize) {
        let (k, lanes) = (product.k, LANES.min(product.count - panel * LANES));
        let few = product.few[row * k..][..ROWS * k].as_ptr();
        let mut total = [_mm256_setzero_ps(); M];
        let length = stretch(k);
        let mut start = 0;
        while start < k {
            let end = (start + length).min(k);
            let sums = match product.many {
                // SAFETY: the stretch is inside the rows.
                Many::Rows(many) => unsafe { of_rows::<M>(&product, many, panel, few, (start, end), row == 0) },
                Many::Halves(halves) => {
                    let panel = &halves[panel * k * LANES..][..k * LANES];
                    // SAFETY: the same inside the panel.
                    unsafe { of_halves::<M>(panel.as_ptr(), few, (start, end)) }
                }
            };
            let alpha = _mm256_set1_ps(product.alpha);
            for (offset, (total, sum)) in total.iter_mut().zip(sums).enumerate() {
                *total = if start > 0 {
                    _mm256_fmadd_ps(alpha, sum, *total)
                } else if product.beta == 0.0 {
                    _mm256_mul_ps(alpha, sum)
                } else {
                    let held = held(&product, panel, row + offset, lanes);
                    #[expect(clippy::float_cmp, reason = "1 is exact")]
                    if product.beta == 1.0 {
                        _mm256_fmadd_ps(alpha, sum, held)
                    } else {
                        _mm256_add_ps(_mm256_mul_ps(_mm256_set1_ps(product.beta), held), _mm256_mul_ps(alpha, sum))
                    }
                };
            }
            start = end;
        }
        for (offset, total) in total.into_iter().enumerate() {
            let place = product.place(panel, row + offset, 0);
            if lanes == LANES && product.steps.1 == 1 {
                // SAFETY: eight elements of one row, which belong to this panel.
                unsafe { _mm256_storeu_ps(product.c.pointer(place, LANES), total) };
                continue;
            }
            let mut values = [0.0; LANES];
            // SAFETY: `values` has eight elements.
            unsafe { _mm256_storeu_ps(values.as_mut_ptr(), total) };
            for (lane, &value) in values.iter().enumerate().take(lanes) {
                // SAFETY: each element belongs to one panel.
                unsafe { *product.c.pointer(place + lane * product.steps.1, 1) = value };
            }
        }
    }

    /// Sums of a stretch of rows.
    ///
    /// # Safety
    /// As [`block`]; `few` has `ROWS * k` elements, and the stretch is inside `0..k`.
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn of_rows<const M: usize>(
        product: &Product<'_>,
        many: &[f32],
        panel: usize,
        few: *const f32,
        (start, end): (usize, usize),
        prefetches: bool,
    ) -> [__m256; M] {
        let Product { k, count, stride, .. } = *product;
        let lanes = LANES.min(count - panel * LANES);
        // A lane beyond the last row reads that row again.
        let rows: [*const f32; LANES] =
            std::array::from_fn(|lane| many[(panel * LANES + lane.min(lanes - 1)) * stride..][..k].as_ptr());
        let prefetches = prefetches && (panel + 2) * LANES <= count;
        let mut sums = [_mm256_setzero_ps(); M];
        let mut index = start;
        // SAFETY: `index + 4 <= end <= k`, and each row has `k` elements; of the few there are `ROWS * k`.
        unsafe {
            while index + 4 <= end {
                if prefetches && index % 16 < 4 {
                    for row in rows {
                        // The next panel follows in memory.
                        _mm_prefetch::<_MM_HINT_T0>(row.wrapping_add(LANES * stride + index).cast());
                    }
                }
                let [r0, r1, r2, r3, r4, r5, r6, r7] = rows.map(|row| _mm_loadu_ps(row.add(index)));
                let pair = |low, high| _mm256_insertf128_ps::<1>(_mm256_castps128_ps256(low), high);
                let columns = transposed([pair(r0, r4), pair(r1, r5), pair(r2, r6), pair(r3, r7)]);
                for (offset, column) in columns.into_iter().enumerate() {
                    let values = few.add((index + offset) * ROWS);
                    for (row, sum) in sums.iter_mut().enumerate() {
                        *sum = _mm256_fmadd_ps(_mm256_broadcast_ss(&*values.add(row)), column, *sum);
                    }
                }
                index += 4;
            }
            while index < end {
                let [r0, r1, r2, r3, r4, r5, r6, r7] = rows.map(|row| *row.add(index));
                let column = _mm256_set_ps(r7, r6, r5, r4, r3, r2, r1, r0);
                let values = few.add(index * ROWS);
                for (row, sum) in sums.iter_mut().enumerate() {
                    *sum = _mm256_fmadd_ps(_mm256_broadcast_ss(&*values.add(row)), column, *sum);
                }
                index += 1;
            }
        }
        sums
    }

    /// The same of halves.
    ///
    /// # Safety
    /// `panel` has `LANES` elements for each inner one, `few` has `ROWS`, and the stretch is inside.
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn of_halves<const M: usize>(
        panel: *const u16,
        few: *const f32,
        (start, end): (usize, usize),
    ) -> [__m256; M] {
        let mut sums = [_mm256_setzero_ps(); M];
        for index in start..end {
            // SAFETY: eight halves and eight floats that are there.
            unsafe {
                let halves = _mm256_cvtepu16_epi32(_mm_loadu_si128(panel.add(index * LANES).cast()));
                let column = _mm256_castsi256_ps(_mm256_slli_epi32::<16>(halves));
                let values = few.add(index * ROWS);
                for (row, sum) in sums.iter_mut().enumerate() {
                    *sum = _mm256_fmadd_ps(_mm256_broadcast_ss(&*values.add(row)), column, *sum);
                }
            }
        }
        sums
    }

    /// Four columns of eight rows, from their four pairs of rows `i` and `i + 4`.
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    fn transposed([r0, r1, r2, r3]: [__m256; 4]) -> [__m256; 4] {
        let (a, b) = (_mm256_unpacklo_ps(r0, r1), _mm256_unpackhi_ps(r0, r1));
        let (c, d) = (_mm256_unpacklo_ps(r2, r3), _mm256_unpackhi_ps(r2, r3));
        [
            _mm256_shuffle_ps::<0b01_00_01_00>(a, c),
            _mm256_shuffle_ps::<0b11_10_11_10>(a, c),
            _mm256_shuffle_ps::<0b01_00_01_00>(b, d),
            _mm256_shuffle_ps::<0b11_10_11_10>(b, d),
        ]
    }

    /// What `C` held.
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    fn held(product: &Product<'_>, panel: usize, row: usize, lanes: usize) -> __m256 {
        let mut values = [0.0; LANES];
        for (lane, value) in values.iter_mut().enumerate().take(lanes) {
            // SAFETY: each element belongs to one panel.
            *value = unsafe { *product.c.pointer(product.place(panel, row, lane), 1) };
        }
        // SAFETY: eight elements.
        unsafe { _mm256_loadu_ps(values.as_ptr()) }
    }
}

#[cfg(test)]
mod tests {
    use super::super::matmul::gemm;
    use super::*;
    use crate::rng::normal_at;

    fn values(stream: u64, len: usize) -> Vec<f32> {
        (0..len as u64).map(|index| normal_at(11, stream, index)).collect()
    }

    /// Bits of each row of `A B^T` computed together with so many rows, with and without something beneath.
    fn product(rows: usize, n: usize, k: usize, alpha: f32, beta: f32, threads: Threads) -> Vec<u32> {
        let (a, b) = (values(1, rows * k), values(2, n * k));
        let mut c = values(3, rows * n);
        gemm(Gemm { alpha, ..Gemm::new([rows, n, k], (false, true), [k, k, n], beta) }, &a, &b, &mut c, threads);
        c.iter().map(|value| value.to_bits()).collect()
    }

    #[test]
    fn a_row_is_the_same_bits_whatever_is_beside_it() {
        if cfg!(target_arch = "x86_64") && super::super::amx::is_available() {
            // The matrix unit sums large products in an order of its own.
            return;
        }
        for (n, k) in [(5, 7), (40, 1), (40, 2), (8, 64), (33, 130), (100, 576), (70, 1536), (129, 1200), (1, 40)] {
            for (alpha, beta) in [(1.0, 0.0), (1.0, 1.0), (0.22, 1.0), (0.5, 0.3)] {
                let all = product(70, n, k, alpha, beta, Threads::All);
                for rows in [1, 2, 3, 7, 8, 9, 16, 17, 32, 33, 34, 65] {
                    let some = product(rows, n, k, alpha, beta, Threads::One);
                    assert!(some == all[..rows * n], "{rows} rows of {n} x {k}, {alpha}, {beta}");
                }
            }
        }
    }

    #[test]
    fn halves_give_the_bits_of_whole_weights() {
        use crate::cpu::CpuKernels;
        use crate::{Format, Memory as _, TensorOps as _, at, at_mut};
        let (n, k) = (101, 700);
        let upload = |values: &[f32]| {
            let mut buffer = CpuKernels.alloc(Format::F32, values.len());
            CpuKernels.upload(values, at_mut(&mut buffer, 0));
            buffer
        };
        let mut weights = values(2, 5 + n * k);
        let matrices = [(5, [n, k])];
        assert!(CpuKernels.compact(&upload(&weights), &matrices).is_none());
        for weight in &mut weights {
            *weight = f32::from_bits(weight.to_bits() & 0xffff_0000);
        }
        let weights = upload(&weights);
        let Some(compact) = CpuKernels.compact(&weights, &matrices) else { return assert!(!reads_halves()) };
        for rows in [1, 3, 8, 21, 64, 65] {
            let a = upload(&values(1, rows * k));
            let g = Gemm { alpha: 0.7, ..Gemm::new([rows, n, k], (false, true), [k, k, n], 1.0) };
            let (mut plain, mut fast) = (upload(&values(3, rows * n)), upload(&values(3, rows * n)));
            CpuKernels.gemm(g, at(&a, 0), at(&weights, 5), at_mut(&mut plain, 0));
            CpuKernels.gemm_compact(g, at(&a, 0), at(&weights, 5), &compact, at_mut(&mut fast, 0));
            assert!(plain.as_slice() == fast.as_slice(), "{rows}");
        }
    }

    #[test]
    fn every_processor_has_the_sums_of_f64() {
        let (m, n, k) = (11, 21, 700);
        let (a, b) = (values(1, m * k), values(2, n * k));
        let mut packed = vec![0.0; 16 * k];
        interleave(&a, m, k, k, &mut packed);
        let mut c = vec![f32::NAN; m * n];
        let product = Product {
            k,
            alpha: 1.0,
            beta: 0.0,
            few: &packed,
            rows: m,
            many: Many::Rows(&b),
            count: n,
            stride: k,
            c: Shared::new(&mut c),
            steps: (n, 1),
        };
        for panel in 0..n.div_ceil(LANES) {
            for group in 0..2 {
                plain(product, panel, group);
            }
        }
        for row in 0..m {
            for column in 0..n {
                let exact: f64 = (0..k).map(|i| f64::from(a[row * k + i]) * f64::from(b[column * k + i])).sum();
                assert!((f64::from(c[row * n + column]) - exact).abs() < 1e-4, "{row} {column}");
            }
        }
    }
}
