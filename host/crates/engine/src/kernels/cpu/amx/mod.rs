//! Matrix products of f32 on Intel's matrix unit (AMX), at f32 accuracy.
//!
//! AMX multiplies bf16 and sums in f32. A float is written as the sum of three bf16 numbers of 8 bits each, which
//! hold all its 24 bits; of the nine products of the parts the six that matter at f32 accuracy are summed (Henry, Tang,
//! Heinecke, "Leveraging the bfloat16 artificial intelligence datatype for higher-precision computations", ARITH 2019).
//! What is left out is below 2^-24 of the product. A unit that multiplies bf16 sixteen times as fast as the vector unit
//! multiplies f32 is then still more than twice as fast.
//!
//! Each element of C is summed in one order, whatever the number of threads.

mod pack;
mod tiles;

use std::cell::RefCell;
use std::sync::OnceLock;

use rayon::prelude::*;

use self::pack::{Operand, PANEL, PARTS, Scale};
use self::tiles::{KC, TILE_BYTES, Tiles};
use crate::kernels::Gemm;

/// Largest block that is packed at a time: rows of C, columns of C, and the inner dimension.
const BLOCK_M: usize = 2048;
const BLOCK_N: usize = 2048;
const BLOCK_K: usize = 1024;
/// Panels of B that are used together: at the full inner length they fill three quarters of a 2 MiB cache.
const GROUP: usize = 8;
/// How many lanes of the other operand must use a packed element, in the harmonic middle of the two sides, to pay for
/// packing it (measured: packing costs 0.45 ns an element, a multiplication 4 ps less than on the vector unit).
const REUSE: usize = 160;

/// True if this processor and this process can use the matrix unit.
pub(super) fn is_available() -> bool {
    static AVAILABLE: OnceLock<bool> = OnceLock::new();
    *AVAILABLE.get_or_init(|| std::env::var_os("HOST_NO_AMX").is_none() && tiles::ask_for_permission())
}

/// True if a product is worth the packing.
pub(super) fn pays(g: Gemm) -> bool {
    g.k >= KC && g.m * g.n >= REUSE * (g.m + g.n)
}

/// Bytes of an operand's panels.
fn packed_bytes(lanes: usize, k: usize) -> usize {
    lanes.div_ceil(PANEL) * k.div_ceil(KC) * 2 * PARTS * TILE_BYTES
}

thread_local! {
    /// Kept from product to product. Taken out while in use: a thread that waits for others may begin another product.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// `C = alpha * op(A) * op(B) + beta * C`.
///
/// # Safety
/// [`is_available`] holds; A and B have every element that `g` reaches; `c` is valid for `m` rows of `n` elements, `ldc`
/// apart, which nobody else uses meanwhile.
pub(super) unsafe fn gemm(g: Gemm, a: &[f32], b: &[f32], c: *mut f32, threads: usize) {
    let mut scratch = SCRATCH.take();
    for n in (0..g.n).step_by(BLOCK_N) {
        let columns = BLOCK_N.min(g.n - n);
        for k in (0..g.k).step_by(BLOCK_K) {
            let inner = BLOCK_K.min(g.k - k);
            for m in (0..g.m).step_by(BLOCK_M) {
                let rows = BLOCK_M.min(g.m - m);
                let left = Operand::left(&g, a, m, k, rows, inner);
                let right = Operand::right(&g, b, k, n, columns, inner);
                // SAFETY: the block lies in C, which is the caller's promise.
                let block = Block { c: unsafe { c.add(m * g.ldc + n) }, ldc: g.ldc, rows, columns, inner };
                let beta = if k == 0 { g.beta } else { 1.0 };
                // SAFETY: the caller's promises hold for the block.
                unsafe { product(&left, &right, Scale(g.alpha), &block, beta, threads, &mut scratch) };
            }
        }
    }
    SCRATCH.set(scratch);
}

/// A part of C.
struct Block {
    c: *mut f32,
    ldc: usize,
    rows: usize,
    columns: usize,
    inner: usize,
}

// SAFETY: tasks write to rows and columns that do not overlap.
unsafe impl Sync for Block {}

unsafe fn product(
    left: &Operand<'_>,
    right: &Operand<'_>,
    alpha: Scale,
    block: &Block,
    beta: f32,
    threads: usize,
    scratch: &mut Vec<u8>,
) {
    let (left_bytes, right_bytes) = (packed_bytes(block.rows, block.inner), packed_bytes(block.columns, block.inner));
    // Room to begin at a multiple of 64, where tiles load fastest.
    if scratch.len() < left_bytes + right_bytes + 64 {
        scratch.resize(left_bytes + right_bytes + 64, 0);
    }
    let offset = scratch.as_ptr().align_offset(64);
    let (packed_left, packed_right) = scratch[offset..][..left_bytes + right_bytes].split_at_mut(left_bytes);
    let panel_bytes = packed_bytes(PANEL, block.inner);
    let pack = |(index, panel): (usize, &mut [u8])| {
        // SAFETY: the processor has AVX-512 BF16 wherever it has AMX (checked when permission was asked for).
        unsafe { left.pack(index * PANEL, panel, alpha) }
    };
    let pack_right = |(index, panel): (usize, &mut [u8])| {
        // SAFETY: as above.
        unsafe { right.pack(index * PANEL, panel, Scale(1.0)) }
    };
    if threads > 1 {
        rayon::join(
            || packed_left.par_chunks_exact_mut(panel_bytes).enumerate().for_each(pack),
            || packed_right.par_chunks_exact_mut(panel_bytes).enumerate().for_each(pack_right),
        );
    } else {
        packed_left.chunks_exact_mut(panel_bytes).enumerate().for_each(pack);
        packed_right.chunks_exact_mut(panel_bytes).enumerate().for_each(pack_right);
    }
    let (row_panels, column_panels) = (block.rows.div_ceil(PANEL), block.columns.div_ceil(PANEL));
    // A task has all columns of some rows: its share of A stays near, all of B goes by.
    let per_task = if threads > 1 { row_panels.div_ceil(4 * threads).max(1) } else { row_panels };
    let task = |first: usize| {
        let panels = first..(first + per_task).min(row_panels);
        // SAFETY: AMX is available, and no other task has these rows.
        unsafe { rows(packed_left, packed_right, block, beta, panels, column_panels) };
    };
    if threads > 1 {
        (0..row_panels.div_ceil(per_task)).into_par_iter().for_each(|index| task(index * per_task));
    } else {
        task(0);
    }
}

/// The rows of some panels of A against all of B, a few columns of panels at a time: those then stay in the second-level
/// cache while A goes by, and each element of C is touched once.
unsafe fn rows(
    left: &[u8],
    right: &[u8],
    block: &Block,
    beta: f32,
    panels: std::ops::Range<usize>,
    column_panels: usize,
) {
    let steps = block.inner.div_ceil(KC);
    let panel_bytes = packed_bytes(PANEL, block.inner);
    // SAFETY: AMX is available; the configuration is released when this is dropped.
    let tiles = unsafe { Tiles::configure() };
    for group in (0..column_panels).step_by(GROUP) {
        for row in panels.clone() {
            let a = left[row * panel_bytes..].as_ptr();
            let height = PANEL.min(block.rows - row * PANEL);
            for column in group..(group + GROUP).min(column_panels) {
                let b = right[column * panel_bytes..].as_ptr();
                let width = PANEL.min(block.columns - column * PANEL);
                // SAFETY: the place lies in the block.
                let c = unsafe { block.c.add(row * PANEL * block.ldc + column * PANEL) };
                // SAFETY: both panels have all their steps from here, and C has `height` rows of `width`.
                unsafe { tiles.multiply(steps, a, b, c, block.ldc, height, width, beta) };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::normal_at;

    fn values(stream: u64, len: usize) -> Vec<f32> {
        (0..len).map(|index| normal_at(11, stream, index as u64)).collect()
    }

    /// Largest error against f64, relative to the sum of absolute products: ours and that of the vector unit.
    fn errors(g: Gemm) -> (f64, f64) {
        let a = values(1, 200_000);
        let b = values(2, 200_000);
        let start = values(3, g.m * g.ldc);
        let (mut ours, mut theirs) = (start.clone(), start.clone());
        // SAFETY: the operands are larger than any case here; C has `m` rows of `ldc`.
        unsafe { gemm(g, &a, &b, ours.as_mut_ptr(), 2) };
        super::super::matmul::vector(g, &a, &b, &mut theirs);
        let mut worst = (0.0f64, 0.0f64);
        for row in 0..g.m {
            for column in 0..g.ldc {
                let at = row * g.ldc + column;
                if column >= g.n {
                    assert!(ours[at].to_bits() == start[at].to_bits(), "written beside C");
                    continue;
                }
                let (mut exact, mut size) = (f64::from(g.beta) * f64::from(start[at]), 1e-30);
                for k in 0..g.k {
                    let x = a[if g.transpose_a { k * g.lda + row } else { row * g.lda + k }];
                    let y = b[if g.transpose_b { column * g.ldb + k } else { k * g.ldb + column }];
                    let product = f64::from(g.alpha) * f64::from(x) * f64::from(y);
                    exact += product;
                    size += product.abs();
                }
                worst.0 = worst.0.max((f64::from(ours[at]) - exact).abs() / size);
                worst.1 = worst.1.max((f64::from(theirs[at]) - exact).abs() / size);
            }
        }
        worst
    }

    #[test]
    fn products_are_as_exact_as_those_of_the_vector_unit() {
        if !is_available() {
            return;
        }
        for (m, n, k) in [(32, 32, 32), (33, 70, 41), (100, 31, 64), (64, 128, 300), (17, 45, 1), (40, 33, 130)] {
            for (transpose_a, transpose_b) in [(false, false), (false, true), (true, false), (true, true)] {
                for (alpha, beta) in [(1.0, 0.0), (1.0, 1.0), (0.5, 0.25)] {
                    let lda = 5 + if transpose_a { m } else { k };
                    let ldb = 3 + if transpose_b { k } else { n };
                    let g = Gemm { m, n, k, transpose_a, transpose_b, lda, ldb, ldc: n + 2, alpha, beta };
                    let (ours, theirs) = errors(g);
                    assert!(ours <= (4.0 * theirs).max(2.5e-7), "{g:?}: {ours:e} beside {theirs:e}");
                }
            }
        }
    }

    #[test]
    fn large_blocks_and_any_number_of_threads_give_the_same_bits() {
        if !is_available() {
            return;
        }
        let (m, n, k) = (130, 2100, 1100);
        let (a, b) = (values(1, m * k), values(2, n * k));
        let g = Gemm { m, n, k, transpose_a: false, transpose_b: true, lda: k, ldb: k, ldc: n, alpha: 1.0, beta: 0.0 };
        let run = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let mut c = vec![f32::NAN; m * n];
            // SAFETY: A, B and C have the sizes that `g` tells.
            pool.install(|| unsafe { gemm(g, &a, &b, c.as_mut_ptr(), threads) });
            c
        };
        let one = run(1);
        assert!(one == run(2) && one == run(3));
        let mut vector = vec![0.0; m * n];
        super::super::matmul::vector(g, &a, &b, &mut vector);
        let difference: f64 = one.iter().zip(&vector).map(|(x, y)| f64::from(x - y).powi(2)).sum();
        let size: f64 = vector.iter().map(|x| f64::from(*x).powi(2)).sum();
        assert!((difference / size).sqrt() < 1e-6, "{}", (difference / size).sqrt());
    }
}
