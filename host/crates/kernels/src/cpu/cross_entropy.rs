//! The output projection, the log-probabilities of the targets and the gradients of their weighted sum as one operation
//! over chunks of rows: the logits of a batch never exist as a whole, and rows without a target cost nothing.

use std::sync::{Mutex, PoisonError};

use super::matmul::gemm;
use super::simd::{Shared, multiply, parallel_rows, simd, softmax_row, tanh};
use super::threads::Threads;
use crate::IGNORE;
use crate::{Gemm, Head, Targets};

/// Rows whose logits exist at a time, at most. The weight is read and its gradient is written once for so many rows.
const CHUNK: usize = 256;
/// Logits that exist at a time: 256 rows of a vocabulary of 49152.
const LOGITS: usize = 12 << 20;

/// Where gradients go.
pub(super) struct Gradients<'a> {
    pub(super) dx: &'a mut [f32],
    pub(super) dw: Option<(&'a mut [f32], f32)>,
    /// Memory for logits, if it is lent.
    pub(super) lent: Option<&'a mut [f32]>,
}

/// What one call needs beside its operands, in elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ScratchSize {
    /// Rows whose logits exist at a time.
    most: usize,
    /// Logits; 0 where enough memory is lent.
    logits: usize,
    /// Rows with a target put together, and as much again for their gradients; 0 where all rows have one.
    gathered: usize,
}

impl ScratchSize {
    /// For `targets` of `n` rows of width `h`, a vocabulary of `v`, and `lent` elements of idle memory.
    pub(crate) fn new(targets: usize, n: usize, h: usize, v: usize, lent: usize) -> Self {
        let fit = (LOGITS / v).clamp(64, CHUNK);
        // Chunks of about one length, of whole panels where there are several.
        let most = match targets.div_ceil(fit) {
            0 | 1 => targets,
            chunks => targets.div_ceil(chunks).next_multiple_of(32).min(fit),
        };
        let logits = if lent >= most * v { 0 } else { most * v };
        Self { most, logits, gathered: if targets == n { 0 } else { most * h } }
    }

    /// Elements of scratch memory, which stays for the next call.
    pub(crate) fn len(self) -> usize {
        self.logits + 2 * self.gathered
    }
}

#[derive(Default)]
struct Scratch {
    logits: Vec<f32>,
    rows: Vec<f32>,
    drows: Vec<f32>,
}

/// What is not in use: whichever thread comes next takes it, so that there is only as much as is used at one time.
static SCRATCH: Mutex<Vec<Scratch>> = Mutex::new(Vec::new());

/// Sum over the targets of weight times negative log-probability.
pub(super) fn loss(targets: Targets<'_>, log_probs: &[f32]) -> f64 {
    let weight = |row: usize| targets.weights.map_or(1.0, |weights| f64::from(weights[row]));
    let is_target = |&row: &usize| targets.tokens[row] != IGNORE;
    (0..log_probs.len()).filter(is_target).map(|row| -f64::from(log_probs[row]) * weight(row)).sum()
}

pub(super) fn linear_log_probs(
    head: Head,
    x: &[f32],
    w: &[f32],
    targets: Targets<'_>,
    log_probs: &mut [f32],
    mut gradients: Option<Gradients<'_>>,
) {
    let Head { width: h, vocabulary: v, cap } = head;
    let rows: Vec<usize> = (0..targets.tokens.len()).filter(|&row| targets.tokens[row] != IGNORE).collect();
    let all = rows.len() == targets.tokens.len();
    log_probs.fill(0.0);
    if let Some(gradients) = &mut gradients {
        if !all {
            gradients.dx.fill(0.0);
        }
        if let (Some((dw, beta)), true) = (&mut gradients.dw, rows.is_empty()) {
            // What is not counted is not looked at: it may be NaN.
            if *beta == 0.0 { dw.fill(0.0) } else { multiply(dw, *beta) }
        }
    }
    let mut scratch = SCRATCH.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default();
    let lent = gradients.as_mut().and_then(|gradients| gradients.lent.take());
    let size = ScratchSize::new(rows.len(), targets.tokens.len(), h, v, lent.as_ref().map_or(0, |lent| lent.len()));
    let most = size.most;
    let logits = lent.filter(|_| size.logits == 0).unwrap_or_else(|| {
        grow(&mut scratch.logits, size.logits);
        &mut scratch.logits
    });
    grow(&mut scratch.rows, size.gathered);
    grow(&mut scratch.drows, size.gathered);
    for (chunk, chunk_rows) in rows.chunks(most.max(1)).enumerate() {
        let count = chunk_rows.len();
        let input: &[f32] = if all {
            &x[chunk * most * h..][..count * h]
        } else {
            for (slot, &row) in chunk_rows.iter().enumerate() {
                scratch.rows[slot * h..][..h].copy_from_slice(&x[row * h..][..h]);
            }
            &scratch.rows[..count * h]
        };
        let logits = &mut logits[..count * v];
        let product = Gemm::new([count, v, h], (false, true), [h, h, v], 0.0);
        gemm(product, input, w, logits, Threads::All);
        chunk_log_probs(v, cap, chunk_rows, targets, gradients.is_some(), logits, log_probs);
        let Some(gradients) = &mut gradients else { continue };
        if let Some((dw, beta)) = &mut gradients.dw {
            let beta = if chunk == 0 { *beta } else { 1.0 };
            let product = Gemm::new([v, h, count], (true, false), [v, h, h], beta);
            gemm(product, logits, input, dw, Threads::All);
        }
        let product = Gemm::new([count, h, v], (false, false), [v, h, h], 0.0);
        if all {
            gemm(product, logits, w, &mut gradients.dx[chunk * most * h..][..count * h], Threads::All);
        } else {
            gemm(product, logits, w, &mut scratch.drows[..count * h], Threads::All);
            for (slot, &row) in chunk_rows.iter().enumerate() {
                gradients.dx[row * h..][..h].copy_from_slice(&scratch.drows[slot * h..][..h]);
            }
        }
    }
    SCRATCH.lock().unwrap_or_else(PoisonError::into_inner).push(scratch);
}

simd! {
    /// Replaces logits `z` by `cap * tanh(z / cap)`; where there is room for them, keeps the slopes `1 - tanh^2`.
    pub(super) fn cap_row(logits: &mut [f32], cap: f32, slopes: &mut [f32]) {
        let n = slopes.len();
        let inverse = 1.0 / cap;
        for i in 0..n {
            let t = tanh(logits[i] * inverse);
            slopes[i] = 1.0 - t * t;
        }
        for logit in logits {
            *logit = cap * tanh(*logit * inverse);
        }
    }
}

simd! {
    fn multiply_each(values: &mut [f32], factors: &[f32]) {
        let n = values.len();
        let factors = &factors[..n];
        for i in 0..n {
            values[i] *= factors[i];
        }
    }
}

/// Log-probabilities of the targets of `rows`; with `gradients`, the logits become `(softmax - onehot) * scale * weight`.
fn chunk_log_probs(
    v: usize,
    cap: Option<f32>,
    rows: &[usize],
    targets: Targets<'_>,
    gradients: bool,
    logits: &mut [f32],
    log_probs: &mut [f32],
) {
    let (logits, log_probs) = (Shared::new(logits), Shared::new(log_probs));
    parallel_rows(rows.len(), v, |first, last| {
        for slot in first..last {
            // SAFETY: each row belongs to one thread.
            let (logits, log_prob) = unsafe { (logits.slice(slot * v, v), log_probs.slice(rows[slot], 1)) };
            let target = targets.tokens[rows[slot]] as usize;
            let weight = targets.weights.map_or(1.0, |weights| weights[rows[slot]]);
            let mut slopes = Vec::new();
            if let Some(cap) = cap {
                slopes.resize(if gradients { v } else { 0 }, 0.0);
                cap_row(logits, cap, &mut slopes);
            }
            let logit = logits[target];
            log_prob[0] = logit - softmax_row(logits, 1.0);
            if gradients {
                logits[target] -= 1.0;
                multiply(logits, targets.scale * weight);
                if cap.is_some() {
                    multiply_each(logits, &slopes);
                }
            }
        }
    });
}

fn grow(memory: &mut Vec<f32>, len: usize) {
    if memory.len() < len {
        memory.resize(len, 0.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::normal_at;

    #[test]
    fn lent_memory_changes_no_bit() {
        let (n, h, v) = (600, 48, 70);
        let values =
            |stream: u64, len: usize| -> Vec<f32> { (0..len as u64).map(|i| normal_at(5, stream, i)).collect() };
        let (x, w) = (values(1, n * h), values(2, v * h));
        let tokens: Vec<u32> = (0..n as u32).map(|row| if row % 7 == 3 { IGNORE } else { row % v as u32 }).collect();
        let targets = Targets { tokens: &tokens, weights: None, scale: 0.01 };
        let run = |lent: Option<&mut [f32]>| {
            let (mut dx, mut dw) = (vec![f32::NAN; n * h], vec![f32::NAN; v * h]);
            let gradients = Gradients { dx: &mut dx, dw: Some((&mut dw, 0.0)), lent };
            let head = Head { width: h, vocabulary: v, cap: None };
            let mut log_probs = vec![f32::NAN; n];
            linear_log_probs(head, &x, &w, targets, &mut log_probs, Some(gradients));
            (log_probs, dx, dw)
        };
        let own = run(None);
        let mut enough = vec![f32::NAN; 256 * v];
        assert!(run(Some(&mut enough)) == own);
        assert!(enough[..v].iter().all(|logit| logit.is_finite()), "the room is used");
        let mut little = vec![f32::NAN; v];
        assert!(run(Some(&mut little)) == own);
        assert!(little.iter().all(|logit| logit.is_nan()), "too little room is left alone");
    }
}
