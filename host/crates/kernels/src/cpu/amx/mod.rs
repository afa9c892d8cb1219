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
use std::ops::Range;
use std::sync::OnceLock;

use rayon::prelude::*;

use self::pack::{Operand, PANEL, Scale, Step};
use self::tiles::{KC, Tiles};
use crate::Gemm;

/// Inner elements that are summed before C is touched again, at most.
const INNER: usize = 640;
/// Steps of B that a thread holds packed while A goes by: 1.2 MiB, in a second-level cache of 2.
const GROUP: usize = 200;
/// Panels of A that are packed together.
const CHUNK: usize = 2;
/// How many lanes of the other operand must use a packed element, in the harmonic middle of the two sides, to pay for
/// packing it.
const REUSE: usize = 12;

/// True if this processor and this process can use the matrix unit.
pub(super) fn is_available() -> bool {
    static AVAILABLE: OnceLock<bool> = OnceLock::new();
    *AVAILABLE.get_or_init(|| std::env::var_os("HOST_NO_AMX").is_none() && tiles::ask_for_permission())
}

/// True if a product is worth the packing.
pub(super) fn pays(g: Gemm) -> bool {
    g.k >= KC && g.m * g.n >= REUSE * (g.m + g.n)
}

thread_local! {
    /// Packed panels, kept from product to product: the same memory each time, so it stays in the thread's cache.
    static SCRATCH: RefCell<Vec<Step>> = const { RefCell::new(Vec::new()) };
}

/// `C = alpha * op(A) * op(B) + beta * C`.
///
/// Each thread packs for itself what it multiplies next: packed operands are larger than f32, and to read what another
/// core wrote takes longer than to pack it again (measured: with A packed once for all threads, a step takes 1.06 times
/// as long).
///
/// # Safety
/// [`is_available`] holds; A and B have every element that `g` reaches; `c` is valid for `m` rows of `n` elements, `ldc`
/// apart, which nobody else uses meanwhile.
pub(super) unsafe fn gemm(g: Gemm, a: &[f32], b: &[f32], c: *mut f32, threads: usize) {
    let (row_panels, column_panels) = (g.m.div_ceil(PANEL), g.n.div_ceil(PANEL));
    let c = Output(c);
    let inner = inner(g.k);
    let (rows_each, columns_each) = shares(row_panels, column_panels, group(inner), threads);
    // No share is empty.
    let (row_parts, groups) = (row_panels.div_ceil(rows_each), column_panels.div_ceil(columns_each));
    let task = |index: usize| {
        let (row, column) = (index / groups * rows_each, index % groups * columns_each);
        let (rows, columns) =
            (row..(row + rows_each).min(row_panels), column..(column + columns_each).min(column_panels));
        // SAFETY: the caller's promises; no two tasks have the same block of C.
        unsafe { Block { g: &g, c: &c, inner, rows, columns }.product(a, b) };
    };
    if threads > 1 {
        (0..row_parts * groups).into_par_iter().with_max_len(1).for_each(task);
    } else {
        (0..row_parts * groups).for_each(task);
    }
}

/// Inner elements of each pass over `k`.
fn inner(k: usize) -> usize {
    k.div_ceil(k.div_ceil(INNER)).next_multiple_of(KC)
}

/// Panels of B that a thread holds packed.
fn group(inner: usize) -> usize {
    (GROUP / (inner / KC)).max(1)
}

/// Steps that a thread packs for some `columns` panels of B.
fn packed_steps(columns: usize, inner: usize) -> usize {
    (CHUNK + columns) * (inner / KC)
}

/// Bytes of packed panels that each thread keeps for products like `g`.
pub(crate) fn scratch_bytes(g: Gemm, threads: usize) -> usize {
    let inner = inner(g.k);
    let (_, columns_each) = shares(g.m.div_ceil(PANEL), g.n.div_ceil(PANEL), group(inner), threads);
    packed_steps(columns_each, inner) * size_of::<Step>()
}

/// Makes scratch memory large enough; what it held is lost.
fn make_room(scratch: &mut Vec<Step>, steps: usize) {
    if scratch.len() < steps {
        let mut fresh = Vec::with_capacity(steps);
        super::pages::prefer_huge_pages(fresh.spare_capacity_mut());
        fresh.resize(steps, Step::ZERO);
        *scratch = fresh;
    }
}

/// Panels of rows and of columns that one task has: columns so that a group of B fits the cache, both so that all threads
/// have about the same to do. Dividing rows means packing B once more for each part.
fn shares(row_panels: usize, column_panels: usize, group: usize, threads: usize) -> (usize, usize) {
    let mut groups = column_panels.div_ceil(group);
    let even = groups.next_multiple_of(threads);
    if column_panels / even >= group / 3 {
        groups = even;
    }
    let is_even = |parts: usize| (parts * groups).is_multiple_of(threads) || parts * groups >= 4 * threads;
    let row_parts = (1..=row_panels).find(|&parts| is_even(parts)).unwrap_or(row_panels);
    (row_panels.div_ceil(row_parts), column_panels.div_ceil(groups))
}

/// Where C is.
struct Output(*mut f32);

// SAFETY: tasks write to rows and columns that do not overlap.
unsafe impl Sync for Output {}

/// One task: a group of B's panels against some panels of A.
struct Block<'a> {
    g: &'a Gemm,
    c: &'a Output,
    /// Inner elements at a time.
    inner: usize,
    rows: Range<usize>,
    columns: Range<usize>,
}

impl Block<'_> {
    /// # Safety
    /// As for [`gemm`]; nobody else has these rows and columns of C.
    unsafe fn product(&self, a: &[f32], b: &[f32]) {
        let g = self.g;
        SCRATCH.with_borrow_mut(|scratch| {
            let most = self.inner / KC;
            make_room(scratch, packed_steps(self.columns.len(), self.inner));
            let (packed_left, packed_right) = scratch.split_at_mut(CHUNK * most);
            for k in (0..g.k).step_by(self.inner) {
                let inner = self.inner.min(g.k - k);
                let left = Operand::left(g, a, k, inner);
                let right = Operand::right(g, b, k, inner);
                let beta = if k == 0 { g.beta } else { 1.0 };
                // SAFETY: the processor has AVX-512 wherever it has AMX (checked when permission was asked for).
                unsafe { pack(&right, self.columns.clone(), inner, packed_right, Scale(1.0)) };
                for first in self.rows.clone().step_by(CHUNK) {
                    let chunk = first..(first + CHUNK).min(self.rows.end);
                    // SAFETY: as above.
                    unsafe { pack(&left, chunk.clone(), inner, packed_left, Scale(g.alpha)) };
                    // SAFETY: AMX is available, the panels are packed, and C is the caller's promise.
                    unsafe { self.multiply(packed_left, packed_right, chunk, inner, beta) };
                }
            }
        });
    }

    /// Packed panels of A, those of `rows`, against the packed panels of B.
    ///
    /// # Safety
    /// AMX is available, and the rows and columns of C belong to the caller.
    unsafe fn multiply(&self, left: &[Step], right: &[Step], rows: Range<usize>, inner: usize, beta: f32) {
        let (g, steps) = (self.g, inner.div_ceil(KC));
        let place = |row: usize, column: usize| self.c.0.wrapping_add(row * PANEL * g.ldc + column * PANEL);
        // SAFETY: AMX is available; the configuration is released when this is dropped.
        let tiles = unsafe { Tiles::configure() };
        for (row_index, row) in rows.enumerate() {
            let a = &left[row_index * steps..][..steps];
            let height = PANEL.min(g.m - row * PANEL);
            for (column_index, column) in self.columns.clone().enumerate() {
                let b = &right[column_index * steps..][..steps];
                let width = PANEL.min(g.n - column * PANEL);
                let is_last = column + 1 == self.columns.end;
                let next = if is_last { place(row + 1, self.columns.start) } else { place(row, column + 1) };
                // SAFETY: C has `height` rows of `width` there.
                unsafe { tiles.multiply(a, b, place(row, column), g.ldc, height, width, beta, next) };
            }
        }
    }
}

/// Packs some panels of an operand in the order in which it lies in memory: panel after panel where inner elements are
/// neighbours, else a step of all panels after the other.
///
/// # Safety
/// The processor has AVX-512.
unsafe fn pack(operand: &Operand<'_>, panels: Range<usize>, inner: usize, packed: &mut [Step], scale: Scale) {
    let (steps, count) = (inner.div_ceil(KC), panels.len());
    for turn in 0..steps * count {
        let (index, step) =
            if operand.inner_is_dense() { (turn / steps, turn % steps) } else { (turn % count, turn / count) };
        let (lane, place) = ((panels.start + index) * PANEL, &mut packed[index * steps + step]);
        // SAFETY: the features are the caller's promise.
        unsafe { operand.pack_step(lane, step * KC, place, scale) };
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
