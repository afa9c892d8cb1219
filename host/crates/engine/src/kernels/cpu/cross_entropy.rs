//! The output projection and cross-entropy as one operation over chunks of rows: the logits of a batch never exist as a
//! whole, and rows without a target cost nothing.

use std::cell::RefCell;

use super::matmul::{Threads, gemm};
use super::simd::{Shared, multiply, parallel_rows, softmax_row};
use crate::IGNORE;
use crate::kernels::{Gemm, Targets};

/// Rows whose logits exist at a time, at most; fewer where the vocabulary is large.
const CHUNK: usize = 256;
/// Logits that exist at a time.
const LOGITS: usize = 4 << 20;

/// Where gradients go.
pub(super) struct Gradients<'a> {
    pub(super) dx: &'a mut [f32],
    pub(super) dw: Option<(&'a mut [f32], f32)>,
}

#[derive(Default)]
struct Scratch {
    logits: Vec<f32>,
    rows: Vec<f32>,
    drows: Vec<f32>,
    losses: Vec<f32>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

pub(super) fn linear_cross_entropy(
    h: usize,
    v: usize,
    x: &[f32],
    w: &[f32],
    targets: Targets<'_>,
    mut gradients: Option<Gradients<'_>>,
) -> f64 {
    let rows: Vec<usize> = (0..targets.tokens.len()).filter(|&row| targets.tokens[row] != IGNORE).collect();
    let all = rows.len() == targets.tokens.len();
    if let Some(gradients) = &mut gradients {
        if !all {
            gradients.dx.fill(0.0);
        }
        if let (Some((dw, beta)), true) = (&mut gradients.dw, rows.is_empty()) {
            // What is not counted is not looked at: it may be NaN.
            if *beta == 0.0 { dw.fill(0.0) } else { multiply(dw, *beta) }
        }
    }
    // Taken out while in use: a thread that waits for others may begin another batch.
    let mut scratch = SCRATCH.take();
    let most = (LOGITS / v).clamp(64, CHUNK);
    grow(&mut scratch.logits, most.min(rows.len()) * v);
    grow(&mut scratch.losses, most);
    if !all {
        grow(&mut scratch.rows, most * h);
        grow(&mut scratch.drows, most * h);
    }
    let mut loss = 0.0;
    for (chunk, chunk_rows) in rows.chunks(most).enumerate() {
        let count = chunk_rows.len();
        let input: &[f32] = if all {
            &x[chunk * most * h..][..count * h]
        } else {
            for (slot, &row) in chunk_rows.iter().enumerate() {
                scratch.rows[slot * h..][..h].copy_from_slice(&x[row * h..][..h]);
            }
            &scratch.rows[..count * h]
        };
        let logits = &mut scratch.logits[..count * v];
        let product = Gemm {
            m: count,
            n: v,
            k: h,
            transpose_a: false,
            transpose_b: true,
            lda: h,
            ldb: h,
            ldc: v,
            alpha: 1.0,
            beta: 0.0,
        };
        gemm(product, input, w, logits, Threads::All);
        let losses = &mut scratch.losses[..count];
        row_losses(v, chunk_rows, targets, gradients.is_some(), logits, losses);
        loss += losses.iter().map(|&loss| f64::from(loss)).sum::<f64>();
        let Some(gradients) = &mut gradients else { continue };
        if let Some((dw, beta)) = &mut gradients.dw {
            let beta = if chunk == 0 { *beta } else { 1.0 };
            let product = Gemm {
                m: v,
                n: h,
                k: count,
                transpose_a: true,
                transpose_b: false,
                lda: v,
                ldb: h,
                ldc: h,
                alpha: 1.0,
                beta,
            };
            gemm(product, logits, input, dw, Threads::All);
        }
        let product = Gemm {
            m: count,
            n: h,
            k: v,
            transpose_a: false,
            transpose_b: false,
            lda: v,
            ldb: h,
            ldc: h,
            alpha: 1.0,
            beta: 0.0,
        };
        if all {
            gemm(product, logits, w, &mut gradients.dx[chunk * most * h..][..count * h], Threads::All);
        } else {
            gemm(product, logits, w, &mut scratch.drows[..count * h], Threads::All);
            for (slot, &row) in chunk_rows.iter().enumerate() {
                gradients.dx[row * h..][..h].copy_from_slice(&scratch.drows[slot * h..][..h]);
            }
        }
    }
    SCRATCH.set(scratch);
    loss
}

/// Losses of the rows; with `gradients`, the logits become `(softmax - onehot) * scale * weight`.
fn row_losses(v: usize, rows: &[usize], targets: Targets<'_>, gradients: bool, logits: &mut [f32], losses: &mut [f32]) {
    let (logits, losses) = (Shared::new(logits), Shared::new(losses));
    parallel_rows(rows.len(), v, |first, last| {
        for slot in first..last {
            // SAFETY: each row belongs to one thread.
            let (logits, loss) = unsafe { (logits.slice(slot * v, v), losses.slice(slot, 1)) };
            let target = targets.tokens[rows[slot]] as usize;
            let weight = targets.weights.map_or(1.0, |weights| weights[rows[slot]]);
            let logit = logits[target];
            loss[0] = (softmax_row(logits, 1.0) - logit) * weight;
            if gradients {
                logits[target] -= 1.0;
                multiply(logits, targets.scale * weight);
            }
        }
    });
}

fn grow(memory: &mut Vec<f32>, len: usize) {
    if memory.len() < len {
        memory.resize(len, 0.0);
    }
}
