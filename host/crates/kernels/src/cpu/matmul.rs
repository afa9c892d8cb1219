//! Matrix products: on the matrix unit where the processor has one, else through the `gemm` crate, whose `x86-v4` feature
//! brings AVX-512.

use super::few_rows;
use super::threads::Threads;
use crate::Gemm;
use crate::operands::extent;
use gemm_common::Parallelism;

/// `C = alpha * op(A) * op(B) + beta * C`.
pub(super) fn gemm(g: Gemm, a: &[f32], b: &[f32], c: &mut [f32], threads: Threads) {
    assert!(c.len() >= extent(g.m, g.n, g.ldc), "C is too small for {g:?}");
    // SAFETY: C is borrowed mutably and large enough.
    unsafe { gemm_at(g, a, b, c.as_mut_ptr(), threads) }
}

/// The same on all threads, with the panels of `B` as [`Compact`](super::compact::Compact) has them.
pub(super) fn gemm_compact(g: Gemm, a: &[f32], b: &[f32], panels: Option<&[u16]>, c: &mut [f32]) {
    assert!(c.len() >= extent(g.m, g.n, g.ldc), "C is too small for {g:?}");
    // SAFETY: C is borrowed mutably and large enough.
    unsafe { gemm_compact_at(g, a, b, panels, c.as_mut_ptr(), Threads::All) }
}

/// The same for a C whose rows lie between what other threads write.
///
/// # Safety
/// As for [`gemm_at`].
pub(super) unsafe fn gemm_compact_at(
    g: Gemm,
    a: &[f32],
    b: &[f32],
    panels: Option<&[u16]>,
    c: *mut f32,
    threads: Threads,
) {
    let Some(panels) = panels.filter(|_| few_rows::takes(g) && g.m <= few_rows::FEW && !is_of_matrix_unit(g)) else {
        // SAFETY: the caller's promise.
        return unsafe { gemm_at(g, a, b, c, threads) };
    };
    assert!(a.len() >= extent(g.m, g.k, g.lda), "A is too small for {g:?}");
    // SAFETY: A is large enough, and C is the caller's promise.
    unsafe { few_rows::gemm(g, a, few_rows::Many::Halves(panels), c, threads) }
}

/// True for a product that the matrix unit does.
fn is_of_matrix_unit(g: Gemm) -> bool {
    #[cfg(target_arch = "x86_64")]
    if super::amx::pays(g) && super::amx::is_available() {
        return true;
    }
    let _ = g;
    false
}

/// The same for a C whose rows lie between what other threads write.
///
/// # Safety
/// `c` must be valid for the `m` rows of `n` elements, `ldc` apart, and nobody else may use those elements meanwhile.
pub(super) unsafe fn gemm_at(g: Gemm, a: &[f32], b: &[f32], c: *mut f32, threads: Threads) {
    let (a_rows, a_width) = if g.transpose_a { (g.k, g.m) } else { (g.m, g.k) };
    let (b_rows, b_width) = if g.transpose_b { (g.n, g.k) } else { (g.k, g.n) };
    assert!(a.len() >= extent(a_rows, a_width, g.lda), "A is too small for {g:?}");
    assert!(b.len() >= extent(b_rows, b_width, g.ldb), "B is too small for {g:?}");
    #[cfg(target_arch = "x86_64")]
    if super::amx::pays(g) && super::amx::is_available() {
        let threads = if threads == Threads::One { 1 } else { rayon::current_num_threads() };
        // SAFETY: AMX is available, the asserts hold what A and B must have, and C is the caller's promise.
        unsafe { super::amx::gemm(g, a, b, c, threads) };
        return;
    }
    // SAFETY: as above.
    unsafe { vector_at(g, a, b, c, threads) }
}

/// Bytes that each thread of the pool keeps for a product like `g`.
pub(crate) fn scratch_bytes(g: Gemm) -> usize {
    #[cfg(target_arch = "x86_64")]
    if super::amx::pays(g) && super::amx::is_available() {
        return super::amx::scratch_bytes(g, rayon::current_num_threads());
    }
    let _ = g;
    0
}

/// The product on the vector unit, on one thread: what the matrix unit is compared with.
#[cfg(test)]
pub(super) fn vector(g: Gemm, a: &[f32], b: &[f32], c: &mut [f32]) {
    assert!(c.len() >= extent(g.m, g.n, g.ldc));
    // SAFETY: the operands of the tests are large enough.
    unsafe { vector_at(g, a, b, c.as_mut_ptr(), Threads::One) }
}

/// Products with a transposed `B`, which forward passes are made of, have one order of sums for all sizes; see
/// [`few_rows`].
///
/// # Safety
/// As for [`gemm_at`], with A and B checked.
unsafe fn vector_at(g: Gemm, a: &[f32], b: &[f32], c: *mut f32, threads: Threads) {
    if few_rows::takes(g) {
        // SAFETY: the caller's promise.
        return unsafe { few_rows::gemm(g, a, few_rows::Many::Rows(b), c, threads) };
    }
    if g.transpose_a || !g.transpose_b || g.k <= few_rows::stretch(g.k) {
        // SAFETY: the caller's promise.
        return unsafe { crate_at(g, a, b, c, threads) };
    }
    let length = few_rows::stretch(g.k);
    for start in (0..g.k).step_by(length) {
        let beta = if start == 0 { g.beta } else { 1.0 };
        let part = Gemm { k: length.min(g.k - start), beta, ..g };
        // SAFETY: the caller's promise; a part of its inner dimension.
        unsafe { crate_at(part, &a[start..], &b[start..], c, threads) };
    }
}

/// The product as the crate `gemm` does it: up to 512 inner elements are one chain of multiply-adds.
///
/// # Safety
/// As for [`vector_at`].
unsafe fn crate_at(g: Gemm, a: &[f32], b: &[f32], c: *mut f32, threads: Threads) {
    let (a_column, a_row) = if g.transpose_a { (g.lda as isize, 1) } else { (1, g.lda as isize) };
    let (b_column, b_row) = if g.transpose_b { (g.ldb as isize, 1) } else { (1, g.ldb as isize) };
    let parallelism = match threads {
        Threads::One => Parallelism::None,
        Threads::All => match rayon::current_num_threads() {
            1 => Parallelism::None,
            count => Parallelism::Rayon(count),
        },
    };
    let product = gemm_f32::gemm::f32::get_gemm_fn();
    let (reads_c, c_row) = (g.beta != 0.0, g.ldc as isize);
    // The microkernel writes columns, C has rows: the product of the transposes, as the crate `gemm` does it. C of one
    // column is left as it is.
    let (a, b) = ((a.as_ptr(), a_column, a_row), (b.as_ptr(), b_column, b_row));
    let ((m, n), (c_column, c_row), (left, right)) = if c_row > 1 {
        ((g.n, g.m), (c_row, 1), ((b.0, b.2, b.1), (a.0, a.2, a.1)))
    } else {
        ((g.m, g.n), (1, c_row), (a, b))
    };
    // SAFETY: the asserts hold every element of A and B that the strides reach; C is the caller's promise.
    unsafe {
        product(
            m,
            n,
            g.k,
            c,
            c_column,
            c_row,
            reads_c,
            left.0,
            left.1,
            left.2,
            right.0,
            right.1,
            right.2,
            g.beta,
            g.alpha,
            false,
            false,
            false,
            parallelism,
        );
    }
}
