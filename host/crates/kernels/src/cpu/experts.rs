//! Layers of experts: which rows go to which expert, and products of each expert's rows with its own weights.
//!
//! A product of all experts is cut into tiles of the result, whose sizes do not depend on how many threads there are. One
//! expert with many rows is many tiles, and many experts with a few rows are one each or several, so either keeps all threads
//! busy; a tile is a product on one thread.

use std::ops::Range;

use rayon::prelude::*;

use super::matmul;
use super::simd::{Shared, multiply, parallel_rows, simd, softmax_row, sum};
use super::threads::Threads;
use crate::{Combine, ExpertColumns, ExpertProduct, ExpertWeights, Gemm, Routing};

/// Rows and columns of a tile at most.
const SIDE: usize = 512;
/// Multiply-adds that a tile has about, where its sides allow it.
const TILE: usize = 1 << 23;
/// Columns of a tile are a multiple of this, which is one of the rows of a panel of `Compact`.
const STEP: usize = 64;
/// Multiply-adds of a whole product below which a second thread is not worth waking.
const SMALL: usize = 1 << 17;
/// Rows whose probabilities are summed at a time: fixed, so that the order of the sum is.
const BLOCK: usize = 1024;

/// What [`route`] has written. Words are bits in the place of f32s: no arithmetic ever sees them as numbers.
#[derive(Clone, Copy)]
struct Routes<'a> {
    /// The expert of each place of each row.
    chosen: &'a [f32],
    /// Where it lies among the experts' rows.
    lies: &'a [f32],
    /// For each of the experts' rows, the place that it is of.
    places: &'a [f32],
    /// Where each expert's rows begin; the last is where all end.
    starts: &'a [f32],
}

impl<'a> Routes<'a> {
    fn new(routing: Routing, words: &'a [f32]) -> Self {
        let assigned = routing.assigned();
        let (chosen, rest) = words.split_at(assigned);
        let (lies, rest) = rest.split_at(assigned);
        let (places, starts) = rest.split_at(assigned);
        Self { chosen, lies, places, starts: &starts[..=routing.experts] }
    }

    /// The experts' rows that are this expert's.
    fn of(&self, expert: usize) -> Range<usize> {
        word(self.starts[expert])..word(self.starts[expert + 1])
    }
}

fn word(word: f32) -> usize {
    word.to_bits() as usize
}

fn to_word(value: usize) -> f32 {
    f32::from_bits(value as u32)
}

/// The largest values of a row, of equal ones the first, in descending order; what is no number comes last.
fn largest(row: &[f32], chosen: &mut [f32]) {
    for index in 0..chosen.len() {
        let (before, _) = chosen.split_at(index);
        let is_free = |candidate: usize| before.iter().all(|&taken| word(taken) != candidate);
        let mut best: Option<usize> = None;
        for (candidate, &value) in row.iter().enumerate() {
            if best.is_none_or(|best| value > row[best] || (row[best].is_nan() && !value.is_nan()))
                && is_free(candidate)
            {
                best = Some(candidate);
            }
        }
        chosen[index] = to_word(best.unwrap_or(0));
    }
}

pub(super) fn route(routing: Routing, router: &mut [f32], words: &mut [f32], weights: &mut [f32]) {
    let Routing { rows, experts, per_row, renormalizes } = routing;
    let assigned = routing.assigned();
    let (chosen, rest) = words.split_at_mut(assigned);
    {
        let (router, chosen, weights) = (Shared::new(router), Shared::new(chosen), Shared::new(weights));
        parallel_rows(rows, experts * (per_row + 2), |first, last| {
            for row in first..last {
                // SAFETY: each row belongs to one thread.
                let (logits, chosen, weights) = unsafe {
                    let own = |memory: Shared| memory.slice(row * per_row, per_row);
                    (router.slice(row * experts, experts), own(chosen), own(weights))
                };
                largest(logits, chosen);
                softmax_row(logits, 1.0);
                for (weight, &expert) in weights.iter_mut().zip(&*chosen) {
                    *weight = logits[word(expert)];
                }
                if renormalizes {
                    let total: f32 = weights.iter().sum();
                    for weight in weights {
                        *weight /= total;
                    }
                }
            }
        });
    }
    let (lies, rest) = rest.split_at_mut(assigned);
    let (places, starts) = rest.split_at_mut(assigned);
    let mut next = vec![0; experts + 1];
    for &expert in &*chosen {
        next[word(expert) + 1] += 1;
    }
    for expert in 0..experts {
        next[expert + 1] += next[expert];
    }
    for (start, &first) in starts.iter_mut().zip(&next) {
        *start = to_word(first);
    }
    for (place, &expert) in chosen.iter().enumerate() {
        let lie = &mut next[word(expert)];
        lies[place] = to_word(*lie);
        places[*lie] = to_word(place);
        *lie += 1;
    }
}

pub(super) fn count(routing: Routing, probabilities: &[f32], words: &[f32], counts: &mut [f32], sums: &mut [f32]) {
    let (experts, routes) = (routing.experts, Routes::new(routing, words));
    for (expert, count) in counts.iter_mut().enumerate() {
        *count = routes.of(expert).len() as f32;
    }
    let blocks: Vec<Vec<f64>> = probabilities
        .par_chunks(BLOCK * experts)
        .map(|block| {
            let mut sums = vec![0.0; experts];
            for row in block.chunks_exact(experts) {
                for (sum, &probability) in sums.iter_mut().zip(row) {
                    *sum += f64::from(probability);
                }
            }
            sums
        })
        .collect();
    for (expert, sum) in sums.iter_mut().enumerate() {
        *sum = blocks.iter().map(|block| block[expert]).sum::<f64>() as f32;
    }
}

pub(super) fn balance(routing: Routing, layers: usize, coefficient: f32, counts: &[f32], slopes: &mut [f32]) {
    let (experts, rows) = (routing.experts, (routing.rows * layers) as f64);
    for (expert, slope) in slopes.iter_mut().enumerate() {
        let count: f64 = counts.chunks_exact(experts).map(|layer| f64::from(layer[expert])).sum();
        *slope = (f64::from(coefficient) * experts as f64 * (count / rows) / rows) as f32;
    }
}

pub(super) fn dispatch(routing: Routing, width: usize, words: &[f32], x: &[f32], out: &mut [f32]) {
    let (routes, out) = (Routes::new(routing, words), Shared::new(out));
    parallel_rows(routing.assigned(), width, |first, last| {
        for row in first..last {
            let source = word(routes.places[row]) / routing.per_row;
            // SAFETY: each row belongs to one thread.
            unsafe { out.slice(row * width, width) }.copy_from_slice(&x[source * width..][..width]);
        }
    });
}

simd! {
    fn add_times(target: &mut [f32], factor: f32, source: &[f32]) {
        let n = target.len();
        let source = &source[..n];
        for i in 0..n {
            target[i] += factor * source[i];
        }
    }
}

pub(super) fn combine(
    routing: Routing,
    combine: Combine,
    words: &[f32],
    weights: Option<&[f32]>,
    x: &[f32],
    residual: Option<&[f32]>,
    y: &mut [f32],
) {
    let Combine { width, alpha, beta } = combine;
    let (routes, per_row, y) = (Routes::new(routing, words), routing.per_row, Shared::new(y));
    parallel_rows(routing.rows, width * per_row, |first, last| {
        for row in first..last {
            // SAFETY: each row belongs to one thread.
            let y = unsafe { y.slice(row * width, width) };
            match residual {
                Some(residual) => y.copy_from_slice(&residual[row * width..][..width]),
                None if beta == 0.0 => y.fill(0.0),
                None => {}
            }
            for place in row * per_row..(row + 1) * per_row {
                let factor = alpha * weights.map_or(1.0, |weights| weights[place]);
                add_times(y, factor, &x[word(routes.lies[place]) * width..][..width]);
            }
        }
    });
}

/// A part of a result: some rows and columns of one expert's.
#[derive(Debug, Clone, Copy)]
struct Tile {
    /// Number of the result.
    index: usize,
    row: usize,
    rows: usize,
    column: usize,
    columns: usize,
}

/// Tiles of results of some rows and columns, each a sum of `inner` products.
fn tiles(results: impl Iterator<Item = ([usize; 2], usize)>) -> Vec<Tile> {
    let mut all = Vec::new();
    for (index, ([rows, columns], inner)) in results.enumerate() {
        let height = rows.min(SIDE);
        let width = (TILE / (height * inner).max(1)).next_multiple_of(STEP).clamp(STEP, SIDE);
        for row in (0..rows).step_by(SIDE) {
            for column in (0..columns).step_by(width) {
                let (rows, columns) = (SIDE.min(rows - row), width.min(columns - column));
                all.push(Tile { index, row, rows, column, columns });
            }
        }
    }
    all
}

/// Does each tile, on all threads where `work` multiply-adds are worth it.
fn each(tiles: &[Tile], work: usize, run: impl Fn(Tile) + Sync) {
    if work <= SMALL || rayon::current_num_threads() == 1 {
        for &tile in tiles {
            run(tile);
        }
    } else {
        tiles.par_iter().with_max_len(1).for_each(|&tile| run(tile));
    }
}

/// `panels` has an expert's weight in the form of [`Compact`](super::compact::Compact), where there is one.
pub(super) fn products<'a>(
    routing: Routing,
    product: ExpertProduct,
    words: &[f32],
    x: &[f32],
    weights: &[f32],
    panels: impl Fn(usize) -> Option<&'a [u16]> + Sync,
    y: &mut [f32],
) {
    let ExpertProduct { out, inner, is_transposed, alpha, beta } = product;
    let routes = Routes::new(routing, words);
    let all = tiles((0..routing.experts).map(|expert| ([routes.of(expert).len(), out], inner)));
    let y = Shared::new(y);
    each(&all, routing.assigned() * out * inner, |Tile { index: expert, row, rows, column, columns }| {
        let first = routes.of(expert).start + row;
        let (x, weight) = (&x[first * inner..][..rows * inner], &weights[expert * out * inner..][..out * inner]);
        let sides = [rows, columns, inner];
        let gemm = |ldb| Gemm { alpha, ..Gemm::new(sides, (false, is_transposed), [inner, ldb, out], beta) };
        let (gemm, weight) =
            if is_transposed { (gemm(inner), &weight[column * inner..]) } else { (gemm(out), &weight[column..]) };
        let c = y.pointer(first * out + column, (rows - 1) * out + columns);
        let panels = if is_transposed { panels(expert).map(|panels| &panels[column * inner..]) } else { None };
        // SAFETY: each tile of the result belongs to one thread, and is inside of it.
        unsafe { matmul::gemm_compact_at(gemm, x, weight, panels, c, Threads::One) };
    });
}

/// The products that [`products`] is made of, at most: what one of them keeps packed.
pub(crate) fn largest_product(routing: Routing, product: ExpertProduct) -> Gemm {
    let ExpertProduct { out, inner, is_transposed, .. } = product;
    let ldb = if is_transposed { inner } else { out };
    let sides = [routing.rows.min(SIDE), out.min(SIDE), inner];
    Gemm::new(sides, (false, is_transposed), [inner, ldb, out], 0.0)
}

/// The same of [`gradients`].
pub(crate) fn largest_gradient(routing: Routing, [out, input]: [usize; 2]) -> Gemm {
    let sides = [out.min(SIDE), input.min(SIDE), routing.rows];
    Gemm::new(sides, (true, false), [out, input, input], 0.0)
}

pub(super) fn gradients(
    routing: Routing,
    [out, input]: [usize; 2],
    words: &[f32],
    (dy, x): (&[f32], &[f32]),
    parts: &[ExpertWeights],
    beta: f32,
    gradients: &mut [f32],
) {
    let routes = Routes::new(routing, words);
    let rows_of = |part: &ExpertWeights| routes.of(part.expert).len();
    let all = tiles(parts.iter().map(|part| ([part.rows, input], rows_of(part))));
    let work: usize = parts.iter().map(|part| part.rows * input * rows_of(part).max(1)).sum();
    let gradients = Shared::new(gradients);
    each(&all, work, |Tile { index, row, rows, column, columns }| {
        let part = parts[index];
        let own = routes.of(part.expert);
        let place = part.place + row * input + column;
        if own.is_empty() {
            if beta == 0.0 {
                for row in 0..rows {
                    // SAFETY: each tile of the result belongs to one thread.
                    unsafe { gradients.slice(place + row * input, columns) }.fill(0.0);
                }
            }
            return;
        }
        let gemm = Gemm::new([rows, columns, own.len()], (true, false), [out, input, input], beta);
        let (dy, x) = (&dy[own.start * out + part.column + row..], &x[own.start * input + column..]);
        let c = gradients.pointer(place, (rows - 1) * input + columns);
        // SAFETY: each tile of the result belongs to one thread, and is inside of it.
        unsafe { matmul::gemm_at(gemm, dy, x, c, Threads::One) };
    });
}

pub(super) fn split_columns(columns: ExpertColumns, all: &[f32], apart: &mut [f32]) {
    let ExpertColumns { experts, out, rank } = columns;
    let apart = Shared::new(apart);
    parallel_rows(experts * out, rank, |first, last| {
        for row in first..last {
            let (expert, of) = (row / out, row % out);
            let source = all[of * rank * experts + expert..].iter().step_by(experts);
            // SAFETY: each row belongs to one thread.
            let own = unsafe { apart.slice(row * rank, rank) };
            for (value, source) in own.iter_mut().zip(source) {
                *value = *source;
            }
        }
    });
}

pub(super) fn join_columns(columns: ExpertColumns, beta: f32, apart: &[f32], all: &mut [f32]) {
    let ExpertColumns { experts, out, rank } = columns;
    let all = Shared::new(all);
    parallel_rows(out, rank * experts, |first, last| {
        for row in first..last {
            // SAFETY: each row belongs to one thread.
            let own = unsafe { all.slice(row * rank * experts, rank * experts) };
            for (column, value) in own.iter_mut().enumerate() {
                let source = apart[((column % experts) * out + row) * rank + column / experts];
                *value = if beta == 0.0 { source } else { beta * *value + source };
            }
        }
    });
}

simd! {
    fn dot(a: &[f32], b: &[f32]) -> f32 {
        sum([a, b], |[a, b]| a * b)
    }
}

pub(super) fn weigh(
    routing: Routing,
    width: usize,
    alpha: f32,
    words: &[f32],
    weights: &[f32],
    (da, a): (&mut [f32], &mut [f32]),
    dweights: &mut [f32],
) {
    let routes = Routes::new(routing, words);
    let (da, a, dweights) = (Shared::new(da), Shared::new(a), Shared::new(dweights));
    parallel_rows(routing.assigned(), 2 * width, |first, last| {
        for row in first..last {
            let place = word(routes.places[row]);
            // SAFETY: each row belongs to one thread, and so does the place that it is of.
            let (da, a, dweight) =
                unsafe { (da.slice(row * width, width), a.slice(row * width, width), dweights.slice(place, 1)) };
            dweight[0] = alpha * dot(da, a);
            let factor = alpha * weights[place];
            multiply(da, factor);
            multiply(a, factor);
        }
    });
}

pub(super) fn route_backward(
    routing: Routing,
    probabilities: &[f32],
    words: &[f32],
    dweights: &[f32],
    slopes: Option<&[f32]>,
    dlogits: &mut [f32],
) {
    let Routing { rows, experts, per_row, renormalizes } = routing;
    let (routes, dlogits) = (Routes::new(routing, words), Shared::new(dlogits));
    parallel_rows(rows, 2 * experts, |first, last| {
        for row in first..last {
            let probabilities = &probabilities[row * experts..][..experts];
            let own = row * per_row..(row + 1) * per_row;
            let (chosen, dweights) = (&routes.chosen[own.clone()], &dweights[own]);
            // SAFETY: each row belongs to one thread.
            let slopes_of_row = unsafe { dlogits.slice(row * experts, experts) };
            match slopes {
                Some(slopes) => slopes_of_row.copy_from_slice(&slopes[..experts]),
                None => slopes_of_row.fill(0.0),
            }
            let pairs = || chosen.iter().map(|&expert| word(expert)).zip(dweights);
            // With weights `p / total`, the derivative of a weight by another's probability is not zero.
            let (total, mean) = if renormalizes {
                let total: f32 = pairs().map(|(expert, _)| probabilities[expert]).sum();
                let mean: f32 = pairs().map(|(expert, dweight)| dweight * probabilities[expert]).sum();
                (total, mean / total)
            } else {
                (1.0, 0.0)
            };
            for (expert, dweight) in pairs() {
                slopes_of_row[expert] += (dweight - mean) / total;
            }
            let mean: f32 =
                slopes_of_row.iter().zip(probabilities).map(|(slope, probability)| slope * probability).sum();
            for (slope, probability) in slopes_of_row.iter_mut().zip(probabilities) {
                *slope = probability * (*slope - mean);
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routing(rows: usize, experts: usize, per_row: usize) -> Routing {
        Routing { rows, experts, per_row, renormalizes: true }
    }

    /// Numbers that look random.
    fn numbers(len: usize, seed: u32) -> Vec<f32> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 24) as f32 - 0.5
        };
        (0..len).map(|_| next()).collect()
    }

    fn routed(routing: Routing, logits: &[f32]) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
        let (mut router, mut words) = (logits.to_vec(), vec![0.0; routing.words()]);
        let mut weights = vec![0.0; routing.assigned()];
        route(routing, &mut router, &mut words, &mut weights);
        (router, words, weights)
    }

    #[test]
    fn rows_are_sorted_by_their_experts_and_none_is_dropped() {
        let routing = routing(300, 7, 3);
        // The last expert gets nothing.
        let mut logits = numbers(300 * 7, 1);
        logits.iter_mut().skip(6).step_by(7).for_each(|logit| *logit = -9.0);
        let (router, words, weights) = routed(routing, &logits);
        let routes = Routes::new(routing, &words);
        assert_eq!((routes.of(0).start, routes.of(6)), (0, 900..900));
        let mut seen = vec![false; 900];
        for expert in 0..7 {
            let mut before = None;
            for row in routes.of(expert) {
                let place = word(routes.places[row]);
                assert!(!std::mem::replace(&mut seen[place], true) && before < Some(place));
                assert_eq!((word(routes.chosen[place]), word(routes.lies[place])), (expert, row));
                before = Some(place);
            }
        }
        assert!(seen.iter().all(|&seen| seen));
        for (row, logits) in logits.chunks(7).enumerate() {
            let chosen: Vec<usize> = routes.chosen[row * 3..][..3].iter().map(|&expert| word(expert)).collect();
            let mut sorted: Vec<usize> = (0..7).collect();
            sorted.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]));
            assert_eq!(chosen, sorted[..3]);
            let total: f32 = chosen.iter().map(|&expert| router[row * 7 + expert]).sum();
            for (weight, &expert) in weights[row * 3..][..3].iter().zip(&chosen) {
                assert!((weight - router[row * 7 + expert] / total).abs() < 1e-6);
            }
        }
    }

    #[test]
    fn equal_logits_and_what_is_no_number_still_choose_each_expert_once() {
        let numbers = [f32::NAN, 1.0, f32::NAN, 2.0];
        for (row, expected) in [([0.5; 4], [0, 1, 2]), ([f32::NAN; 4], [0, 1, 2]), (numbers, [3, 1, 0])] {
            let mut chosen = [0.0; 3];
            largest(&row, &mut chosen);
            assert_eq!(chosen.map(word), expected);
        }
    }

    /// One expert has nearly all rows, one has none, the others few: each product is that of its rows alone.
    #[test]
    fn products_of_uneven_groups_are_those_of_each_group() {
        let (routing, out, inner) = (routing(700, 6, 2), 130, 70);
        let mut logits = numbers(700 * 6, 3);
        logits.iter_mut().step_by(6).for_each(|logit| *logit += 2.0);
        logits.iter_mut().skip(5).step_by(6).for_each(|logit| *logit = -9.0);
        let (_, words, _) = routed(routing, &logits);
        let routes = Routes::new(routing, &words);
        assert_eq!(routes.of(0).len(), 700);
        let (x, weights) = (numbers(1400 * inner, 5), numbers(6 * out * inner, 7));
        for is_transposed in [true, false] {
            let product = ExpertProduct { out, inner, is_transposed, alpha: 1.0, beta: 0.0 };
            let mut y = vec![f32::NAN; 1400 * out];
            products(routing, product, &words, &x, &weights, |_| None, &mut y);
            for expert in 0..6 {
                for row in routes.of(expert).step_by(97) {
                    for column in 0..out {
                        let weight = |index: usize| {
                            let place = if is_transposed { column * inner + index } else { index * out + column };
                            f64::from(weights[expert * out * inner + place])
                        };
                        let exact: f64 =
                            (0..inner).map(|index| f64::from(x[row * inner + index]) * weight(index)).sum();
                        assert!((f64::from(y[row * out + column]) - exact).abs() < 1e-5, "{expert} {row} {column}");
                    }
                }
            }
        }
        let (dy, beta) = (numbers(1400 * out, 9), 1.0);
        let parts: Vec<ExpertWeights> =
            (0..6).map(|expert| ExpertWeights { expert, column: 3, rows: 100, place: expert * 100 * inner }).collect();
        for beta in [0.0, beta] {
            let mut found = vec![1.0; 6 * 100 * inner];
            gradients(routing, [out, inner], &words, (&dy, &x), &parts, beta, &mut found);
            for ExpertWeights { expert, place, .. } in parts.iter().copied() {
                for index in (0..100 * inner).step_by(53) {
                    let (row, column) = (index / inner, index % inner);
                    let term = |own: usize| f64::from(dy[own * out + 3 + row]) * f64::from(x[own * inner + column]);
                    let exact: f64 = f64::from(beta) + routes.of(expert).map(term).sum::<f64>();
                    assert!((f64::from(found[place + index]) - exact).abs() < 1e-4, "{expert} {index}");
                }
            }
        }
    }

    #[test]
    fn weights_in_half_their_bytes_give_the_same_bits() {
        let (routing, out, inner) = (routing(9, 4, 2), 130, 70);
        let (_, words, _) = routed(routing, &numbers(9 * 4, 3));
        let half = |value: &f32| f32::from_bits(value.to_bits() & 0xffff_0000);
        let weights: Vec<f32> = numbers(4 * out * inner, 7).iter().map(half).collect();
        let matrices: Vec<_> = (0..4).map(|expert| (expert * out * inner, [out, inner])).collect();
        let Some(compact) = crate::cpu::compact::Compact::new(&weights, &matrices) else { panic!("all are halves") };
        if !crate::cpu::few_rows::reads_halves() {
            return;
        }
        let product = ExpertProduct { out, inner, is_transposed: true, alpha: 1.0, beta: 0.0 };
        let run = |has: bool| {
            let panels = |expert: usize| compact.panels(expert * out * inner, [out, inner]).filter(|_| has);
            let mut y = vec![f32::NAN; 18 * out];
            products(routing, product, &words, &numbers(18 * inner, 5), &weights, panels, &mut y);
            y.into_iter().map(f32::to_bits).collect::<Vec<_>>()
        };
        assert!(run(true) == run(false));
    }

    #[test]
    fn columns_are_taken_apart_and_put_together_again() {
        let columns = ExpertColumns { experts: 3, out: 2, rank: 2 };
        let all: Vec<f32> = (0..12).map(|value| value as f32).collect();
        let mut apart = vec![0.0; 12];
        split_columns(columns, &all, &mut apart);
        // Of expert 1: column 1 and column 1 + 3 of both rows.
        assert_eq!(apart[4..8], [1.0, 4.0, 7.0, 10.0]);
        let mut again = vec![f32::NAN; 12];
        join_columns(columns, 0.0, &apart, &mut again);
        assert_eq!(again, all);
        join_columns(columns, 1.0, &apart, &mut again);
        assert!(again.iter().zip(&all).all(|(sum, value)| (sum - 2.0 * value).abs() < 1e-6));
    }

    /// Against differences of the loss `sum(c * weights) + sum(slopes * probabilities)`.
    #[test]
    fn the_gradient_of_logits_is_that_of_differences() {
        let slopes = numbers(5, 11);
        for renormalizes in [true, false] {
            let routing = Routing { renormalizes, ..routing(3, 5, 2) };
            let (logits, dweights) = (numbers(15, 13), numbers(6, 17));
            let loss = |logits: &[f32]| {
                let (router, _, weights) = routed(routing, logits);
                let of = |values: &[f32], factors: &mut dyn Iterator<Item = f32>| -> f64 {
                    values.iter().zip(factors).map(|(&value, factor)| f64::from(value) * f64::from(factor)).sum()
                };
                of(&weights, &mut dweights.iter().copied()) + of(&router, &mut slopes.iter().copied().cycle())
            };
            let (router, words, _) = routed(routing, &logits);
            let mut found = vec![f32::NAN; 15];
            route_backward(routing, &router, &words, &dweights, Some(&slopes), &mut found);
            for index in 0..15 {
                let moved = |by: f32| {
                    let mut logits = logits.clone();
                    logits[index] += by;
                    loss(&logits)
                };
                let difference = (moved(1e-2) - moved(-1e-2)) / 2e-2;
                assert!((f64::from(found[index]) - difference).abs() < 1e-4, "{index}: {} {difference}", found[index]);
            }
        }
    }

    #[test]
    fn the_load_balancing_loss_has_the_slope_of_its_formula() {
        // Two layers of three rows: the loss is 4 * sum(count / 6 * probability / 6).
        let (mut slopes, counts) = ([0.0; 4], [3.0, 2.0, 1.0, 0.0, 1.0, 2.0, 3.0, 0.0]);
        balance(routing(3, 4, 2), 2, 0.5, &counts, &mut slopes);
        let expected = [4.0, 4.0, 4.0, 0.0].map(|count: f32| 0.5 * 4.0 * count / 36.0);
        assert!(slopes.iter().zip(expected).all(|(found, expected)| (found - expected).abs() < 1e-7));
    }
}
