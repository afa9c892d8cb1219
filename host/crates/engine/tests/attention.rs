//! Attention's kernels for shapes of heads and lengths of documents that no small model has, against the CPU's.

#[path = "emulator/attend.rs"]
mod attend;
mod emulator;

use attend::{assert_near, attend, heads};
use engine::kernels::Precision;
use engine::kernels::cpu::CpuKernels;

/// Around the sizes of tiles.
const DOCUMENTS: [u32; 7] = [1, 2, 63, 65, 127, 129, 60];

fn check(query_heads: usize, kv_heads: usize, head_dim: usize) {
    let shape = heads(query_heads, kv_heads, head_dim);
    let expected = attend(&CpuKernels, shape, &DOCUMENTS);
    for (precision, allowed) in [(Precision::F32, 2e-6), (Precision::Bf16, 8e-3)] {
        let Some(kernels) = emulator::device(precision) else { return };
        let found = attend(&kernels, shape, &DOCUMENTS);
        assert_near(&found, &expected, allowed, &format!("{precision:?}, {shape:?}"));
    }
}

#[test]
fn heads_of_64_in_groups_of_three() {
    check(3, 1, 64);
}

#[test]
fn heads_of_128() {
    check(2, 1, 128);
}

#[test]
fn heads_that_do_not_fill_a_tile_of_sixteen() {
    check(2, 2, 24);
}
