//! Causal grouped-query attention inside documents, by blocks of queries; the scores of a block are all that ever exists.
//! Forward and backward share the tasks out by document and head, so that no two threads add to one place.

use super::cache::{self, CHAIN, Values};
use super::matmul::{gemm, gemm_at};
use super::scores::{capped, lowest, run, with_scratch};
use super::simd::{Shared, exp, exp_row, multiply, simd, sum, tanh};
use super::threads::Threads;
use crate::{AttentionShape, CACHE_BLOCK, Gemm};

/// Queries whose scores exist at a time.
const BLOCK: usize = 128;

/// What forward kept.
pub(super) struct Saved<'a> {
    pub(super) qkv: &'a [f32],
    pub(super) out: &'a [f32],
    pub(super) lse: &'a [f32],
}

/// Elements that a thread keeps for documents of up to `length` tokens.
pub(crate) fn scratch_len(length: usize, backward: bool) -> usize {
    if backward { 2 * BLOCK * length } else { BLOCK * length }
}

/// First row and length of each document.
fn documents(doc_lens: &[u32]) -> Vec<(usize, usize)> {
    let mut start = 0;
    let mut documents = Vec::with_capacity(doc_lens.len());
    for &length in doc_lens {
        documents.push((start, length as usize));
        start += length as usize;
    }
    documents
}

pub(super) fn forward(
    shape: AttentionShape,
    window: Option<usize>,
    doc_lens: &[u32],
    qkv: &[f32],
    out: &mut [f32],
    lse: &mut [f32],
) {
    let (packed, width, dim) = (shape.packed(), shape.output(), shape.head_dim);
    let group = shape.heads / shape.kv_heads;
    let documents = documents(doc_lens);
    let (out, lse) = (Shared::new(out), Shared::new(lse));
    run(documents.len() * shape.heads, qkv.len(), |task| {
        let ((start, length), head) = (documents[task / shape.heads], task % shape.heads);
        let (query, key) = (head * dim, (shape.heads + head / group) * dim);
        let value = key + shape.kv_heads * dim;
        with_scratch(scratch_len(length, false), |scratch| {
            let mut inverse = [0.0; BLOCK];
            for first in (0..length).step_by(BLOCK) {
                let last = (first + BLOCK).min(length);
                // The first key that any query of the block sees.
                let base = lowest(first, window);
                let (rows, keys) = (last - first, last - base);
                let scores = &mut scratch[..rows * keys];
                let q = &qkv[(start + first) * packed + query..];
                let scoring = Gemm::new([rows, keys, dim], (false, true), [packed, packed, keys], 0.0);
                gemm(scoring, q, &qkv[(start + base) * packed + key..], scores, Threads::One);
                for row in 0..rows {
                    let scores = &mut scores[row * keys..][..keys];
                    let (scores, ahead) = scores.split_at_mut(first + row + 1 - base);
                    ahead.fill(0.0);
                    let (behind, seen) = scores.split_at_mut(lowest(first + row, window) - base);
                    behind.fill(0.0);
                    let scale = capped(shape, seen);
                    // SAFETY: each row and head belongs to one task.
                    let lse = unsafe { lse.slice((start + first + row) * shape.heads + head, 1) };
                    let (largest, total) = exp_row(seen, scale);
                    lse[0] = largest + total.ln();
                    inverse[row] = 1.0 / total;
                }
                let place = (start + first) * width + head * dim;
                let values = &qkv[start * packed + value..];
                mix(shape, values, (first, base, last), scores, place, out);
                // The sums divide the short rows of the output, not the long ones of the scores.
                for row in 0..rows {
                    // SAFETY: as above.
                    multiply(unsafe { out.slice(place + row * width, dim) }, inverse[row]);
                }
            }
        });
    });
}

/// Values of the keys `base..last` of a document times the weights of its rows `first..last`, from element `place` of `out`
/// on: one chain for each [`CHAIN`] keys from the start of the document, so that a row's sums depend neither on the length of
/// the document nor on the block that the row is in.
fn mix(
    shape: AttentionShape,
    values: &[f32],
    (first, base, last): (usize, usize, usize),
    weights: &[f32],
    place: usize,
    out: Shared,
) {
    let (packed, width, dim) = (shape.packed(), shape.output(), shape.head_dim);
    let (rows, keys) = (last - first, last - base);
    if rows <= 2 {
        // The crate has ways of its own with vectors.
        for row in 0..rows {
            // SAFETY: the columns of one head in the rows of one document belong to one task.
            let out = unsafe { out.slice(place + row * width, dim) };
            let values = Values { rows: &values[base * packed..], dim, row: packed, block: CACHE_BLOCK * packed };
            cache::mix(1, &weights[row * keys..], keys, (base, last), 0, values, out);
        }
        return;
    }
    let out = out.pointer(place, (rows - 1) * width + dim);
    let mut start = base;
    while start < last {
        let end = ((start / CHAIN + 1) * CHAIN).min(last);
        let beta = if start == base { 0.0 } else { 1.0 };
        let product = Gemm::new([rows, dim, end - start], (false, false), [keys, packed, width], beta);
        // SAFETY: as above.
        unsafe { gemm_at(product, &weights[start - base..], &values[start * packed..], out, Threads::One) };
        start = end;
    }
}

simd! {
    fn dot(a: &[f32], b: &[f32]) -> f32 {
        sum([a, b], |[a, b]| a * b)
    }
}

simd! {
    /// From scores and `dP` to `P` and `dS = P * (dP - D) * scale`.
    fn score_gradients(scores: &mut [f32], dp: &mut [f32], lse: f32, d: f32, scale: f32) {
        let n = scores.len();
        let dp = &mut dp[..n];
        for i in 0..n {
            let p = exp(scores[i] * scale - lse);
            scores[i] = p;
            dp[i] = p * (dp[i] - d) * scale;
        }
    }
}

simd! {
    /// The same where scores are capped: `dS` is that of the scores before.
    fn capped_score_gradients(scores: &mut [f32], dp: &mut [f32], lse: f32, d: f32, scale: f32, cap: f32) {
        let n = scores.len();
        let dp = &mut dp[..n];
        let inverse = scale / cap;
        for i in 0..n {
            let t = tanh(scores[i] * inverse);
            let p = exp(cap * t - lse);
            scores[i] = p;
            dp[i] = p * (dp[i] - d) * (1.0 - t * t) * scale;
        }
    }
}

pub(super) fn backward(
    shape: AttentionShape,
    window: Option<usize>,
    doc_lens: &[u32],
    saved: &Saved<'_>,
    dout: &[f32],
    dqkv: &mut [f32],
) {
    let (packed, width, dim) = (shape.packed(), shape.output(), shape.head_dim);
    let group = shape.heads / shape.kv_heads;
    let documents = documents(doc_lens);
    let Saved { qkv, out, lse } = *saved;
    let dqkv = Shared::new(dqkv);
    run(documents.len() * shape.kv_heads, qkv.len(), |task| {
        let ((start, length), kv_head) = (documents[task / shape.kv_heads], task % shape.kv_heads);
        let key = (shape.heads + kv_head) * dim;
        let value = key + shape.kv_heads * dim;
        let span = |rows: usize| (rows - 1) * packed + dim;
        for row in start..start + length {
            // SAFETY: the columns of one key-value head and of its query heads belong to one task.
            unsafe { dqkv.slice(row * packed + key, dim) }.fill(0.0);
            // SAFETY: as above.
            unsafe { dqkv.slice(row * packed + value, dim) }.fill(0.0);
        }
        with_scratch(scratch_len(length, true), |scratch| {
            let (scratch, dscratch) = scratch.split_at_mut(BLOCK * length);
            for head in kv_head * group..(kv_head + 1) * group {
                let query = head * dim;
                for first in (0..length).step_by(BLOCK) {
                    let last = (first + BLOCK).min(length);
                    let base = lowest(first, window);
                    let (rows, keys) = (last - first, last - base);
                    let (scores, dp) = (&mut scratch[..rows * keys], &mut dscratch[..rows * keys]);
                    let q = &qkv[(start + first) * packed + query..];
                    let (k, v) = (&qkv[(start + base) * packed + key..], &qkv[(start + base) * packed + value..]);
                    let do_ = &dout[(start + first) * width + head * dim..];
                    let scoring = Gemm::new([rows, keys, dim], (false, true), [packed, packed, keys], 0.0);
                    gemm(scoring, q, k, scores, Threads::One);
                    let weighing = Gemm::new([rows, keys, dim], (false, true), [width, packed, keys], 0.0);
                    gemm(weighing, do_, v, dp, Threads::One);
                    for row in 0..rows {
                        let (seen, unseen) = (first + row + 1 - base, lowest(first + row, window) - base);
                        let (scores, ahead) = scores[row * keys..][..keys].split_at_mut(seen);
                        ahead.fill(0.0);
                        let (behind, scores) = scores.split_at_mut(unseen);
                        behind.fill(0.0);
                        let (dp, ahead) = dp[row * keys..][..keys].split_at_mut(seen);
                        ahead.fill(0.0);
                        let (behind, dp) = dp.split_at_mut(unseen);
                        behind.fill(0.0);
                        let o = &out[(start + first + row) * width + head * dim..][..dim];
                        let d = dot(o, &do_[row * width..][..dim]);
                        let lse = lse[(start + first + row) * shape.heads + head];
                        match shape.cap {
                            None => score_gradients(scores, dp, lse, d, shape.scale),
                            Some(cap) => capped_score_gradients(scores, dp, lse, d, shape.scale, cap),
                        }
                    }
                    let summing = Gemm::new([keys, dim, rows], (true, false), [keys, width, packed], 1.0);
                    let dv = dqkv.pointer((start + base) * packed + value, span(keys));
                    // SAFETY: the columns of one key-value head and of its query heads belong to one task.
                    unsafe { gemm_at(summing, scores, do_, dv, Threads::One) };
                    let summing = Gemm::new([keys, dim, rows], (true, false), [keys, packed, packed], 1.0);
                    let dk = dqkv.pointer((start + base) * packed + key, span(keys));
                    // SAFETY: as above.
                    unsafe { gemm_at(summing, dp, q, dk, Threads::One) };
                    let summing = Gemm::new([rows, dim, keys], (false, false), [keys, packed, packed], 0.0);
                    let dq = dqkv.pointer((start + first) * packed + query, span(rows));
                    // SAFETY: as above.
                    unsafe { gemm_at(summing, dp, k, dq, Threads::One) };
                }
            }
        });
    });
}
