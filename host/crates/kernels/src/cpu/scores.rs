//! What attention over whole texts and attention over a cache share.

use std::cell::RefCell;

use rayon::prelude::*;

use super::simd::{GRAIN, simd, tanh};
use crate::AttentionShape;

thread_local! {
    static SCRATCH: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

pub(super) fn with_scratch<R>(len: usize, work: impl FnOnce(&mut [f32]) -> R) -> R {
    SCRATCH.with_borrow_mut(|scratch| {
        if scratch.len() < len {
            scratch.resize(len, 0.0);
        }
        work(&mut scratch[..len])
    })
}

/// The first row that a row of its document sees.
pub(super) fn lowest(row: usize, window: Option<usize>) -> usize {
    window.map_or(0, |window| (row + 1).saturating_sub(window))
}

simd! {
    /// Replaces scores `s` by `cap * tanh(s * scale / cap)`.
    fn cap_row(scores: &mut [f32], scale: f32, cap: f32) {
        let inverse = scale / cap;
        for score in scores {
            *score = cap * tanh(*score * inverse);
        }
    }
}

/// Scales and caps scores as far as they are not scaled yet; returns the factor that is left.
pub(super) fn capped(shape: AttentionShape, scores: &mut [f32]) -> f32 {
    let Some(cap) = shape.cap else { return shape.scale };
    cap_row(scores, shape.scale, cap);
    1.0
}

pub(super) fn run(tasks: usize, work_size: usize, work: impl Fn(usize) + Sync + Send) {
    if tasks == 1 || work_size <= GRAIN || rayon::current_num_threads() == 1 {
        (0..tasks).for_each(work);
    } else {
        (0..tasks).into_par_iter().with_max_len(1).for_each(work);
    }
}
