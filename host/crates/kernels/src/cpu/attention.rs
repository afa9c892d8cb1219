//! Causal grouped-query attention inside documents, by blocks of queries; the scores of a block are all that ever exists.
//! Forward and backward share the tasks out by document and head, so that no two threads add to one place.

use super::cache::{self, CHAIN, Values};
use super::documents::{KeysAndValues, documents, gathered_len};
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

/// Elements that a thread keeps for documents of up to `length` tokens. Those that continue others take some more for keys and
/// values, and less everywhere else.
pub(crate) fn scratch_len(length: usize, backward: bool) -> usize {
    if backward { 2 * BLOCK * length } else { BLOCK * length }
}

pub(super) fn forward(
    shape: AttentionShape,
    window: Option<usize>,
    (doc_lens, continues): (&[u32], &[u32]),
    qkv: &[f32],
    out: &mut [f32],
    lse: &mut [f32],
) {
    let (packed, width, dim) = (shape.packed(), shape.output(), shape.head_dim);
    let group = shape.heads / shape.kv_heads;
    let documents = documents(doc_lens, continues);
    let (out, lse) = (Shared::new(out), Shared::new(lse));
    run(documents.len() * shape.heads, qkv.len(), |task| {
        let (document, head) = (&documents[task / shape.heads], task % shape.heads);
        let (before, length) = (document.before.len(), document.length());
        let (query, key) = (head * dim, (shape.heads + head / group) * dim);
        let value = key + shape.kv_heads * dim;
        let scores_len = scratch_len(length, false);
        with_scratch(scores_len + gathered_len(document, dim), |scratch| {
            let (scratch, room) = scratch.split_at_mut(scores_len);
            let seen = KeysAndValues::new(document, (qkv, packed), (key, value, dim), room);
            let mut inverse = [0.0; BLOCK];
            for first in (before..length).step_by(BLOCK) {
                let last = (first + BLOCK).min(length);
                // The first key that any query of the block sees.
                let base = lowest(first, window);
                let (rows, keys) = (last - first, last - base);
                let start = document.own.start + first - before;
                let scores = &mut scratch[..rows * keys];
                let q = &qkv[start * packed + query..];
                let scoring = Gemm::new([rows, keys, dim], (false, true), [packed, seen.stride, keys], 0.0);
                gemm(scoring, q, &seen.keys[base * seen.stride..], scores, Threads::One);
                for row in 0..rows {
                    let scores = &mut scores[row * keys..][..keys];
                    let (scores, ahead) = scores.split_at_mut(first + row + 1 - base);
                    ahead.fill(0.0);
                    let (behind, seen) = scores.split_at_mut(lowest(first + row, window) - base);
                    behind.fill(0.0);
                    let scale = capped(shape, seen);
                    // SAFETY: each row and head belongs to one task.
                    let lse = unsafe { lse.slice((start + row) * shape.heads + head, 1) };
                    let (largest, total) = exp_row(seen, scale);
                    lse[0] = largest + total.ln();
                    inverse[row] = 1.0 / total;
                }
                let place = start * width + head * dim;
                mix(shape, seen, (first, base, last), scores, place, out);
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
    KeysAndValues { values, stride, .. }: KeysAndValues<'_>,
    (first, base, last): (usize, usize, usize),
    weights: &[f32],
    place: usize,
    out: Shared,
) {
    let (width, dim) = (shape.output(), shape.head_dim);
    let (rows, keys) = (last - first, last - base);
    if rows <= 2 {
        // The crate has ways of its own with vectors.
        for row in 0..rows {
            // SAFETY: the columns of one head in the rows of one document belong to one task.
            let out = unsafe { out.slice(place + row * width, dim) };
            let values = Values { rows: &values[base * stride..], dim, row: stride, block: CACHE_BLOCK * stride };
            cache::mix(1, &weights[row * keys..], keys, (base, last), 0, values, out);
        }
        return;
    }
    let out = out.pointer(place, (rows - 1) * width + dim);
    let mut start = base;
    while start < last {
        let end = ((start / CHAIN + 1) * CHAIN).min(last);
        let beta = if start == base { 0.0 } else { 1.0 };
        let product = Gemm::new([rows, dim, end - start], (false, false), [keys, stride, width], beta);
        // SAFETY: as above.
        unsafe { gemm_at(product, &weights[start - base..], &values[start * stride..], out, Threads::One) };
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
    (doc_lens, continues): (&[u32], &[u32]),
    saved: &Saved<'_>,
    dout: &[f32],
    dqkv: &mut [f32],
) {
    let (packed, width, dim) = (shape.packed(), shape.output(), shape.head_dim);
    let group = shape.heads / shape.kv_heads;
    let documents = documents(doc_lens, continues);
    let Saved { qkv, out, lse } = *saved;
    // What documents that continue another add to its keys and values: first apart, so that no two threads add to one place.
    let mut ends = 0;
    let places: Vec<usize> = documents
        .iter()
        .map(|document| {
            ends += document.before.len() * 2 * dim * shape.kv_heads;
            ends - document.before.len() * 2 * dim * shape.kv_heads
        })
        .collect();
    let mut apart = vec![0.0; ends];
    let (dqkv, of_others) = (Shared::new(dqkv), Shared::new(&mut apart));
    run(documents.len() * shape.kv_heads, qkv.len(), |task| {
        let (index, kv_head) = (task / shape.kv_heads, task % shape.kv_heads);
        let document = &documents[index];
        let (before, length) = (document.before.len(), document.length());
        let key = (shape.heads + kv_head) * dim;
        let value = key + shape.kv_heads * dim;
        let gathered = gathered_len(document, dim);
        let scores_len = scratch_len(length, true);
        with_scratch(scores_len + 2 * gathered, |scratch| {
            let (scratch, room) = scratch.split_at_mut(scores_len);
            let (room, droom) = room.split_at_mut(gathered);
            let (scratch, dscratch) = scratch.split_at_mut(BLOCK * length);
            let seen = KeysAndValues::new(document, (qkv, packed), (key, value, dim), room);
            // Where the gradients of keys and values are summed: like those, together where the document continues another.
            let (sums, dkey, dvalue) = if before == 0 {
                let start = document.own.start * packed;
                (dqkv, start + key, start + value)
            } else {
                (Shared::new(droom), 0, dim)
            };
            let dstride = seen.stride;
            for row in 0..length {
                for place in [dkey, dvalue] {
                    // SAFETY: the columns of one key-value head and of its query heads belong to one task, as its scratch does.
                    unsafe { sums.slice(place + row * dstride, dim) }.fill(0.0);
                }
            }
            for head in kv_head * group..(kv_head + 1) * group {
                let query = head * dim;
                for first in (before..length).step_by(BLOCK) {
                    let last = (first + BLOCK).min(length);
                    let base = lowest(first, window);
                    let (rows, keys) = (last - first, last - base);
                    let start = document.own.start + first - before;
                    let (scores, dp) = (&mut scratch[..rows * keys], &mut dscratch[..rows * keys]);
                    let q = &qkv[start * packed + query..];
                    let (k, v) = (&seen.keys[base * seen.stride..], &seen.values[base * seen.stride..]);
                    let do_ = &dout[start * width + head * dim..];
                    let scoring = Gemm::new([rows, keys, dim], (false, true), [packed, seen.stride, keys], 0.0);
                    gemm(scoring, q, k, scores, Threads::One);
                    let weighing = Gemm::new([rows, keys, dim], (false, true), [width, seen.stride, keys], 0.0);
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
                        let o = &out[(start + row) * width + head * dim..][..dim];
                        let d = dot(o, &do_[row * width..][..dim]);
                        let lse = lse[(start + row) * shape.heads + head];
                        match shape.cap {
                            None => score_gradients(scores, dp, lse, d, shape.scale),
                            Some(cap) => capped_score_gradients(scores, dp, lse, d, shape.scale, cap),
                        }
                    }
                    let span = |rows: usize, stride: usize| (rows - 1) * stride + dim;
                    let summing = Gemm::new([keys, dim, rows], (true, false), [keys, width, dstride], 1.0);
                    let dv = sums.pointer(dvalue + base * dstride, span(keys, dstride));
                    // SAFETY: the columns of one key-value head and of its query heads belong to one task.
                    unsafe { gemm_at(summing, scores, do_, dv, Threads::One) };
                    let summing = Gemm::new([keys, dim, rows], (true, false), [keys, packed, dstride], 1.0);
                    let dk = sums.pointer(dkey + base * dstride, span(keys, dstride));
                    // SAFETY: as above.
                    unsafe { gemm_at(summing, dp, q, dk, Threads::One) };
                    let summing = Gemm::new([rows, dim, keys], (false, false), [keys, seen.stride, packed], 0.0);
                    let dq = dqkv.pointer(start * packed + query, span(rows, packed));
                    // SAFETY: as above.
                    unsafe { gemm_at(summing, dp, k, dq, Threads::One) };
                }
            }
            if before == 0 {
                return;
            }
            let (of_before, of_own) = droom.split_at(before * 2 * dim);
            let place = places[index] + kv_head * of_before.len();
            // SAFETY: each document and head has a place of its own.
            unsafe { of_others.slice(place, of_before.len()) }.copy_from_slice(of_before);
            for (row, sums) in document.own.clone().zip(of_own.chunks_exact(2 * dim)) {
                for (place, sums) in [key, value].into_iter().zip(sums.chunks_exact(dim)) {
                    // SAFETY: as for the products.
                    unsafe { dqkv.slice(row * packed + place, dim) }.copy_from_slice(sums);
                }
            }
        });
    });
    if apart.is_empty() {
        return;
    }
    run(shape.kv_heads, apart.len(), |kv_head| {
        let key = (shape.heads + kv_head) * dim;
        let value = key + shape.kv_heads * dim;
        for (document, &place) in documents.iter().zip(&places).filter(|(document, _)| !document.before.is_empty()) {
            let len = document.before.len() * 2 * dim;
            let added = apart[place + kv_head * len..][..len].chunks_exact(2 * dim);
            for (row, added) in document.before.clone().zip(added) {
                for (place, added) in [key, value].into_iter().zip(added.chunks_exact(dim)) {
                    // SAFETY: the columns of one key-value head belong to one task.
                    let sums = unsafe { dqkv.slice(row * packed + place, dim) };
                    for (sum, added) in sums.iter_mut().zip(added) {
                        *sum += added;
                    }
                }
            }
        }
    });
}
