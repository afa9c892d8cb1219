//! Keys and values of earlier tokens, and attention of new tokens over them.
//!
//! A slot is blocks of [`BLOCK`] entries. Of each key-value head, a block holds the keys as columns, `[head_dim, BLOCK]`, so
//! that the scores of a block are lanes of one vector, and the values as rows, `[BLOCK, head_dim]`. Both are read once for all
//! query heads that share them.
//!
//! Sums are in the order of `attention`: scores are one chain over the head's elements, values one chain over each
//! [`CHAIN`] entries from the start of the text. A token so gets the same bits whether it is computed with its whole text or
//! over the cache.

use super::few_rows::stretch;
use super::scores::{capped, lowest, run, with_scratch};
use super::simd::{Shared, exp_row, multiply};
use crate::{AttentionShape, CACHE_BLOCK as BLOCK};

/// Entries whose values are one chain of multiply-adds.
pub(super) const CHAIN: usize = 512;
/// Query heads that go over keys and values together, at most.
const HEADS: usize = 4;

/// Keys and values of one layer.
pub(super) struct Cache<'a> {
    /// Entries of a slot; a multiple of [`BLOCK`].
    pub(super) capacity: usize,
    pub(super) keys: &'a [f32],
    pub(super) values: &'a [f32],
}

/// First element of what a key-value head has of an entry's block.
fn block(shape: AttentionShape, capacity: usize, slot: usize, entry: usize, head: usize) -> usize {
    ((slot * capacity + entry) / BLOCK * shape.kv_heads + head) * BLOCK * shape.head_dim
}

/// Puts the keys and values of packed rows where they belong: `lens[i] - 1` of slot `slots[i]`.
pub(super) fn append(
    shape: AttentionShape,
    capacity: usize,
    slots: &[u32],
    lens: &[u32],
    qkv: &[f32],
    keys: &mut [f32],
    values: &mut [f32],
) {
    let dim = shape.head_dim;
    let width = shape.kv_heads * dim;
    for (row, (&slot, &len)) in qkv.chunks_exact(shape.packed()).zip(slots.iter().zip(lens)) {
        let entry = len as usize - 1;
        let (own_keys, own_values) = row[shape.output()..].split_at(width);
        for head in 0..shape.kv_heads {
            let place = block(shape, capacity, slot as usize, entry, head);
            let column = keys[place..][..BLOCK * dim][entry % BLOCK..].iter_mut().step_by(BLOCK);
            for (target, &key) in column.zip(&own_keys[head * dim..][..dim]) {
                *target = key;
            }
            values[place + entry % BLOCK * dim..][..dim].copy_from_slice(&own_values[head * dim..][..dim]);
        }
    }
}

/// One query per row: row `i` sees the first `lens[i]` entries of its slot, or the last of these within a window.
pub(super) fn attention(
    shape: AttentionShape,
    window: Option<usize>,
    slots: &[u32],
    lens: &[u32],
    cache: &Cache<'_>,
    qkv: &[f32],
    out: &mut [f32],
) {
    let (packed, width, dim) = (shape.packed(), shape.output(), shape.head_dim);
    let group = shape.heads / shape.kv_heads;
    let entries: usize = lens.iter().map(|&len| len as usize).sum();
    let out = Shared::new(out);
    run(slots.len() * shape.kv_heads, entries * width, |task| {
        let (row, kv_head) = (task / shape.kv_heads, task % shape.kv_heads);
        let (slot, len) = (slots[row] as usize, lens[row] as usize);
        let first = lowest(len - 1, window);
        // Scores from the start of the first block that is seen.
        let start = first / BLOCK * BLOCK;
        let span = (len - start).next_multiple_of(BLOCK);
        let stride = shape.kv_heads * BLOCK * dim;
        let place = block(shape, cache.capacity, slot, start, kv_head);
        with_scratch(HEADS * span, |scratch| {
            for from in (0..group).step_by(HEADS) {
                let heads = HEADS.min(group - from);
                let query = (kv_head * group + from) * dim;
                let q = &qkv[row * packed + query..][..heads * dim];
                let scores = &mut scratch[..heads * span];
                score(heads, dim, q, &cache.keys[place..], stride, span, scores);
                let mut inverse = [0.0; HEADS];
                for (scores, inverse) in scores.chunks_exact_mut(span).zip(&mut inverse) {
                    let seen = &mut scores[first - start..len - start];
                    let scale = capped(shape, seen);
                    *inverse = 1.0 / exp_row(seen, scale).1;
                }
                // SAFETY: the heads of a row belong to one task each.
                let out = unsafe { out.slice(row * width + query, heads * dim) };
                let values = Values { rows: &cache.values[place..], dim, row: dim, block: stride };
                mix(heads, &scores[first - start..], span, (first, len), first - start, values, out);
                for (out, inverse) in out.chunks_exact_mut(dim).zip(inverse) {
                    multiply(out, inverse);
                }
            }
        });
    });
}

/// Where the values of entries are: in blocks of [`BLOCK`] rows.
#[derive(Clone, Copy)]
pub(super) struct Values<'a> {
    pub(super) rows: &'a [f32],
    /// Elements of a row.
    pub(super) dim: usize,
    /// Elements from one row to the next in a block.
    pub(super) row: usize,
    /// Elements from one block to the next.
    pub(super) block: usize,
}

/// Sums of values by their weights. Head `h` weighs entry `entries.0 + i` with `weights[h * stride + i]`; that entry is row
/// `offset + i` of `values`. Puts `[heads, dim]` into `out`.
pub(super) fn mix(
    heads: usize,
    weights: &[f32],
    stride: usize,
    entries: (usize, usize),
    offset: usize,
    values: Values<'_>,
    out: &mut [f32],
) {
    let mut is_first = true;
    let mut start = entries.0;
    while start < entries.1 {
        let end = ((start / CHAIN + 1) * CHAIN).min(entries.1);
        let skipped = start - entries.0;
        mix_chain(heads, &weights[skipped..], stride, offset + skipped, end - start, values, is_first, out);
        (is_first, start) = (false, end);
    }
}

/// Defines a loop over `HEADS` heads once and compiles it for each instruction set and number of heads. With fused
/// multiply-adds where the processor has them, as its matrix products.
macro_rules! chains {
    ($(#[$meta:meta])* $visibility:vis fn $name:ident($($argument:ident: $type:ty),* $(,)?) with $body:ident) => {
        $(#[$meta])*
        $visibility fn $name(heads: usize, $($argument: $type),*) {
            #[inline(always)]
            fn of_heads<const FUSED: bool>(heads: usize, $($argument: $type),*) {
                match heads {
                    1 => $body::<1, FUSED>($($argument),*),
                    2 => $body::<2, FUSED>($($argument),*),
                    3 => $body::<3, FUSED>($($argument),*),
                    _ => $body::<HEADS, FUSED>($($argument),*),
                }
            }
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2,fma")]
                fn fused(heads: usize, $($argument: $type),*) { of_heads::<true>(heads, $($argument),*) }
                if super::few_rows::is_fused() {
                    // SAFETY: the processor has these instructions.
                    return unsafe { fused(heads, $($argument),*) };
                }
            }
            of_heads::<{ !cfg!(target_arch = "x86_64") }>(heads, $($argument),*)
        }
    };
}

#[inline(always)]
fn multiply_add<const FUSED: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FUSED { a.mul_add(b, c) } else { a * b + c }
}

chains! {
    /// Scores of `q [heads, dim]` with the keys of `span` entries: `[heads, span]`.
    fn score(dim: usize, q: &[f32], keys: &[f32], stride: usize, span: usize, scores: &mut [f32]) with score_heads
}

#[inline(always)]
fn score_heads<const H: usize, const FUSED: bool>(
    dim: usize,
    q: &[f32],
    keys: &[f32],
    stride: usize,
    span: usize,
    scores: &mut [f32],
) {
    let q: [&[f32]; H] = std::array::from_fn(|head| &q[head * dim..][..dim]);
    let length = stretch(dim);
    for block in 0..span / BLOCK {
        let columns = &keys[block * stride..][..dim * BLOCK];
        let mut total = [[0.0f32; BLOCK]; H];
        let mut start = 0;
        while start < dim {
            let end = (start + length).min(dim);
            let mut sums = [[0.0f32; BLOCK]; H];
            for index in start..end {
                let column: &[f32; BLOCK] = columns[index * BLOCK..].first_chunk().expect("a column of a block");
                for head in 0..H {
                    for lane in 0..BLOCK {
                        sums[head][lane] = multiply_add::<FUSED>(q[head][index], column[lane], sums[head][lane]);
                    }
                }
            }
            for head in 0..H {
                for lane in 0..BLOCK {
                    let sum = sums[head][lane];
                    total[head][lane] = if start == 0 { sum } else { total[head][lane] + sum };
                }
            }
            start = end;
        }
        for head in 0..H {
            scores[head * span + block * BLOCK..][..BLOCK].copy_from_slice(&total[head]);
        }
    }
}

chains! {
    /// One chain of [`mix`]: `count` entries, the first of which is row `offset` of `values`.
    fn mix_chain(
        weights: &[f32],
        stride: usize,
        offset: usize,
        count: usize,
        values: Values<'_>,
        is_first: bool,
        out: &mut [f32],
    ) with mix_heads
}

#[inline(always)]
fn mix_heads<const H: usize, const FUSED: bool>(
    weights: &[f32],
    stride: usize,
    offset: usize,
    count: usize,
    values: Values<'_>,
    is_first: bool,
    out: &mut [f32],
) {
    let weights: [&[f32]; H] = std::array::from_fn(|head| &weights[head * stride..][..count]);
    let mut column = 0;
    // As many columns as registers hold sums of.
    while H <= 2 && column + 32 <= values.dim {
        mix_columns::<H, 32, FUSED>(weights, offset, column, values, is_first, out);
        column += 32;
    }
    while column + 16 <= values.dim {
        mix_columns::<H, 16, FUSED>(weights, offset, column, values, is_first, out);
        column += 16;
    }
    while column + 8 <= values.dim {
        mix_columns::<H, 8, FUSED>(weights, offset, column, values, is_first, out);
        column += 8;
    }
    while column < values.dim {
        mix_columns::<H, 1, FUSED>(weights, offset, column, values, is_first, out);
        column += 1;
    }
}

#[inline(always)]
fn mix_columns<const H: usize, const C: usize, const FUSED: bool>(
    weights: [&[f32]; H],
    offset: usize,
    column: usize,
    values: Values<'_>,
    is_first: bool,
    out: &mut [f32],
) {
    let mut sums = [[0.0f32; C]; H];
    let count = weights[0].len();
    let mut index = 0;
    while index < count {
        let row = offset + index;
        let end = (index + BLOCK - row % BLOCK).min(count);
        let mut rows = &values.rows[row / BLOCK * values.block + row % BLOCK * values.row + column..];
        let weights: [&[f32]; H] = std::array::from_fn(|head| &weights[head][index..end]);
        for step in 0..end - index {
            if step > 0 {
                rows = &rows[values.row..];
            }
            let value: &[f32; C] = rows.first_chunk().expect("columns of a row");
            for head in 0..H {
                for lane in 0..C {
                    sums[head][lane] = multiply_add::<FUSED>(weights[head][step], value[lane], sums[head][lane]);
                }
            }
        }
        index = end;
    }
    for head in 0..H {
        let out = &mut out[head * values.dim + column..][..C];
        for lane in 0..C {
            out[lane] = if is_first { sums[head][lane] } else { out[lane] + sums[head][lane] };
        }
    }
}
