//! Attention's kernels for shapes of heads and lengths of documents that no small model has, against the CPU's.

#[path = "emulator/attend.rs"]
mod attend;
mod emulator;

use attend::{assert_near, attend, heads};
use engine::kernels::cpu::CpuKernels;
use engine::kernels::{AttentionShape, Precision};

/// Around the sizes of tiles.
const DOCUMENTS: [u32; 7] = [1, 2, 63, 65, 127, 129, 60];

fn check(shape: AttentionShape, windows: &[Option<usize>]) {
    for &window in windows {
        let expected = attend(&CpuKernels, shape, window, &DOCUMENTS);
        for (precision, allowed) in [(Precision::F32, 2e-6), (Precision::Bf16, 8e-3)] {
            let Some(kernels) = emulator::device(precision) else { return };
            let found = attend(&kernels, shape, window, &DOCUMENTS);
            assert_near(&found, &expected, allowed, &format!("{precision:?}, {shape:?}, {window:?}"));
        }
    }
}

#[test]
fn heads_of_64_in_groups_of_three() {
    check(heads(3, 1, 64), &[None, Some(1), Some(33), Some(64), Some(1000)]);
}

#[test]
fn heads_of_128() {
    check(heads(2, 1, 128), &[None, Some(65)]);
}

#[test]
fn heads_that_do_not_fill_a_tile_of_sixteen() {
    check(heads(2, 2, 24), &[None, Some(40)]);
}

#[test]
fn capped_scores_of_large_heads() {
    check(AttentionShape { cap: Some(0.75), ..heads(2, 1, 160) }, &[None, Some(50)]);
}

#[test]
fn capped_scores_of_small_heads() {
    check(AttentionShape { cap: Some(0.75), ..heads(2, 1, 32) }, &[None, Some(50)]);
}
