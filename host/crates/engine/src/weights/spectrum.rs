//! How much signal a weight matrix holds (Hartford et al., "Spectrum: targeted training on signal to noise ratio", 2024): the
//! sum of its singular values above the edge of the Marchenko–Pastur distribution, by the sum of those below it and by the
//! largest one.

use std::collections::BTreeMap;

use rayon::prelude::*;

use super::files::{WeightSource, WeightsError};
use super::load::load;
use crate::architecture::config::ModelConfig;
use crate::architecture::tensors::Role;

/// Elements of matrices that wait for each other, to be measured at once.
const WAITING: usize = 1 << 26;
/// From the distance between the quartiles of a normal distribution to its standard deviation.
const QUARTILES: f64 = 1.349;
/// Rows that are multiplied with each other while they are in the cache.
const BLOCK: usize = 32;
/// Numbers that are added up at once.
const LANES: usize = 16;
/// Passes in which one eigenvalue must be found.
const PASSES: usize = 60;

/// True for what has a signal: a matrix of a decoder layer.
pub fn is_measured(role: Role) -> bool {
    matches!(role, Role::Linear(_) | Role::Router | Role::Expert(..))
}

/// The signal of every matrix of the decoder layers, by name; higher is more. `progress` hears how many of how many
/// matrices are done.
///
/// # Errors
/// [`WeightsError`] as for [`load`].
pub fn signals(
    source: &WeightSource,
    config: &ModelConfig,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<BTreeMap<String, f64>, WeightsError> {
    let shapes: BTreeMap<String, [usize; 2]> = config
        .parameters()
        .into_iter()
        .filter(|spec| is_measured(spec.role))
        .filter_map(|spec| Some((spec.name, <[usize; 2]>::try_from(spec.shape).ok()?)))
        .collect();
    let (mut found, mut waiting, mut elements) = (BTreeMap::new(), Vec::new(), 0);
    let mut measure = |waiting: &mut Vec<(String, Vec<f32>)>| {
        let measured: Vec<(String, f64)> = std::mem::take(waiting)
            .into_par_iter()
            .map(|(name, values)| {
                let [rows, columns] = shapes[&name];
                let signal = signal(&singular_values(&values, rows, columns), rows, columns);
                (name, signal)
            })
            .collect();
        found.extend(measured);
        progress(found.len(), shapes.len());
    };
    let mut partly: BTreeMap<String, Vec<f32>> = BTreeMap::new();
    load(
        source,
        config,
        &mut |name, _, values| {
            let Some([rows, columns]) = shapes.get(name) else { return };
            let whole = partly.entry(name.to_owned()).or_default();
            whole.extend_from_slice(values);
            if whole.len() == rows * columns {
                elements += whole.len();
                waiting.extend(partly.remove_entry(name));
                if elements >= WAITING {
                    elements = 0;
                    measure(&mut waiting);
                }
            }
        },
        &mut |_, _| {},
    )?;
    measure(&mut waiting);
    Ok(found)
}

/// The signal of a matrix with these singular values, largest first.
fn signal(values: &[f64], rows: usize, columns: usize) -> f64 {
    let Some(&largest) = values.first().filter(|largest| **largest > 0.0) else { return 0.0 };
    let sigma = (quantile(values, 0.75) - quantile(values, 0.25)) / QUARTILES;
    let aspect = rows.min(columns) as f64 / rows.max(columns) as f64;
    let edge = sigma * (1.0 + aspect.sqrt());
    let above: f64 = values.iter().filter(|value| **value > edge).sum();
    let below: f64 = values.iter().filter(|value| **value <= edge).sum();
    let has_noise = values.iter().any(|value| *value <= edge);
    above / if has_noise { below } else { 1.0 } / largest
}

/// The quantile of values that fall, between neighbours as far as it is between them.
fn quantile(values: &[f64], share: f64) -> f64 {
    let place = (values.len() - 1) as f64 * (1.0 - share);
    let (low, part) = (place.floor() as usize, place.fract());
    let next = values.get(low + 1).copied().unwrap_or(values[low]);
    values[low] + (next - values[low]) * part
}

/// The singular values of a matrix, largest first: roots of the eigenvalues of its product with itself.
fn singular_values(matrix: &[f32], rows: usize, columns: usize) -> Vec<f64> {
    let (gram, n) = gram(matrix, rows, columns);
    let (mut diagonal, mut beside) = tridiagonal(gram, n);
    eigenvalues(&mut diagonal, &mut beside);
    let mut values: Vec<f64> = diagonal.into_iter().map(|value| value.max(0.0).sqrt()).collect();
    values.sort_by(|a, b| b.total_cmp(a));
    values
}

/// The lower half of `A Aᵀ` or `Aᵀ A`, whichever is smaller, row by row, and its size.
fn gram(matrix: &[f32], rows: usize, columns: usize) -> (Vec<f64>, usize) {
    let (n, width) = (rows.min(columns), rows.max(columns));
    let turned: Vec<f64> = if rows <= columns {
        matrix.iter().map(|&value| f64::from(value)).collect()
    } else {
        let column = |column: usize| (0..rows).map(move |row| f64::from(matrix[row * columns + column]));
        (0..columns).flat_map(column).collect()
    };
    let row = |index: usize| &turned[index * width..][..width];
    let mut gram = vec![0.0; n * n];
    for first in (0..n).step_by(BLOCK) {
        for second in (0..=first).step_by(BLOCK) {
            for i in first..(first + BLOCK).min(n) {
                for j in second..(second + BLOCK).min(i + 1) {
                    gram[i * n + j] = dot(row(i), row(j));
                }
            }
        }
    }
    (gram, n)
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    let mut sums = [0.0; LANES];
    let (a, rest_a) = a.as_chunks::<LANES>();
    let (b, rest_b) = b.as_chunks::<LANES>();
    for (a, b) in a.iter().zip(b) {
        for lane in 0..LANES {
            sums[lane] += a[lane] * b[lane];
        }
    }
    sums.iter().sum::<f64>() + rest_a.iter().zip(rest_b).map(|(a, b)| a * b).sum::<f64>()
}

/// The diagonal, and what is beside it, of a tridiagonal matrix with the eigenvalues of a symmetric one, of which the lower
/// half is given: Householder's reflections, one for each column.
fn tridiagonal(mut matrix: Vec<f64>, n: usize) -> (Vec<f64>, Vec<f64>) {
    let (mut diagonal, mut beside) = (vec![0.0; n], vec![0.0; n]);
    let (mut v, mut w) = (vec![0.0; n], vec![0.0; n]);
    for k in 0..n {
        diagonal[k] = matrix[k * n + k];
        let first = k + 1;
        if first >= n {
            break;
        }
        for i in first..n {
            v[i] = matrix[i * n + k];
        }
        let length = dot(&v[first..], &v[first..]).sqrt();
        if first + 1 == n || length == 0.0 {
            beside[k] = v[first];
            continue;
        }
        let end = -length.copysign(v[first]);
        beside[k] = end;
        v[first] -= end;
        let factor = 2.0 / dot(&v[first..], &v[first..]);
        // w = factor * M v, where M is what is left of the matrix.
        w[first..].fill(0.0);
        for i in first..n {
            let row = &matrix[i * n + first..i * n + i];
            let (before, own) = w.split_at_mut(i);
            own[0] += dot(row, &v[first..i]) + matrix[i * n + i] * v[i];
            for (w, value) in before[first..].iter_mut().zip(row) {
                *w += value * v[i];
            }
        }
        for w in &mut w[first..] {
            *w *= factor;
        }
        let half = 0.5 * factor * dot(&v[first..], &w[first..]);
        for i in first..n {
            w[i] -= half * v[i];
        }
        for i in first..n {
            let (vi, wi) = (v[i], w[i]);
            let row = &mut matrix[i * n + first..=i * n + i];
            for ((value, v), w) in row.iter_mut().zip(&v[first..]).zip(&w[first..]) {
                *value -= vi * w + wi * v;
            }
        }
    }
    (diagonal, beside)
}

/// Turns the diagonal of a symmetric tridiagonal matrix into its eigenvalues: implicit QL (Dubrulle, Martin, Wilkinson, "The
/// implicit QL algorithm", 1968).
fn eigenvalues(diagonal: &mut [f64], beside: &mut [f64]) {
    let n = diagonal.len();
    for first in 0..n {
        for _ in 0..PASSES {
            let is_small = |m: &usize| {
                let size = diagonal[*m].abs() + diagonal[m + 1].abs();
                beside[*m].abs() <= f64::EPSILON * size
            };
            let last = (first..n - 1).find(is_small).unwrap_or(n - 1);
            if last == first {
                break;
            }
            let g = (diagonal[first + 1] - diagonal[first]) / (2.0 * beside[first]);
            let shift = beside[first] / (g + g.hypot(1.0).copysign(g));
            let mut g = diagonal[last] - diagonal[first] + shift;
            let (mut sine, mut cosine, mut p) = (1.0, 1.0, 0.0);
            let mut is_split = false;
            for i in (first..last).rev() {
                let (f, b) = (sine * beside[i], cosine * beside[i]);
                let r = f64::hypot(f, g);
                beside[i + 1] = r;
                if r == 0.0 {
                    diagonal[i + 1] -= p;
                    beside[last] = 0.0;
                    is_split = true;
                    break;
                }
                (sine, cosine) = (f / r, g / r);
                g = diagonal[i + 1] - p;
                let r = (diagonal[i] - g) * sine + 2.0 * cosine * b;
                p = sine * r;
                diagonal[i + 1] = g + p;
                g = cosine * r - b;
            }
            if !is_split {
                diagonal[first] -= p;
                beside[first] = g;
                beside[last] = 0.0;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers that look random.
    fn matrix(rows: usize, columns: usize, seed: u64) -> Vec<f32> {
        (0..rows * columns).map(|index| crate::rng::normal_at(seed, 3, index as u64)).collect()
    }

    #[test]
    fn a_matrix_of_known_singular_values_has_them() {
        // Rows that are at right angles to each other, of lengths 5, 3, 3 and 0.
        let values =
            [3.0, 4.0, 0.0, 0.0, 0.0, -2.4, 1.8, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 2.0, -2.0, 0.0, 0.0, 0.0, 0.0, 0.0];
        let close = |found: &[f64]| found.iter().zip([5.0, 3.0, 3.0, 0.0]).all(|(a, b)| (a - b).abs() < 1e-7);
        assert!(close(&singular_values(&values, 4, 5)));
        let turned: Vec<f32> = (0..20).map(|index| values[index % 4 * 5 + index / 4]).collect();
        assert!(close(&singular_values(&turned, 5, 4)));
        assert_eq!(singular_values(&[-2.0], 1, 1), [2.0]);
        assert_eq!(singular_values(&[0.0; 6], 2, 3), [0.0, 0.0]);
    }

    #[test]
    fn singular_values_keep_what_a_matrix_is_made_of() {
        for (rows, columns) in [(40, 70), (70, 40), (64, 64), (1, 9), (2, 2)] {
            let matrix = matrix(rows, columns, (rows * columns) as u64);
            let values = singular_values(&matrix, rows, columns);
            assert_eq!(values.len(), rows.min(columns));
            assert!(values.is_sorted_by(|a, b| a >= b));
            let squares: f64 = matrix.iter().map(|value| f64::from(*value).powi(2)).sum();
            assert!((values.iter().map(|value| value * value).sum::<f64>() / squares - 1.0).abs() < 1e-12);
            // Fourth powers too: those of the product with itself.
            let (gram, n) = gram(&matrix, rows, columns);
            let whole = |i: usize, j: usize| gram[i.max(j) * n + i.min(j)];
            let fourth: f64 = (0..n * n).map(|index| whole(index / n, index % n).powi(2)).sum();
            assert!((values.iter().map(|value| value.powi(4)).sum::<f64>() / fourth - 1.0).abs() < 1e-12);
        }
    }

    #[test]
    fn noise_has_less_signal_than_noise_with_something_in_it() {
        let (rows, columns) = (48, 96);
        let noise = matrix(rows, columns, 7);
        let with: Vec<f32> =
            noise.iter().enumerate().map(|(index, value)| value + 0.8 * ((index / columns) as f32).sin()).collect();
        let of = |matrix: &[f32]| signal(&singular_values(matrix, rows, columns), rows, columns);
        assert!(of(&with) > 0.0);
        let close = |found: f64, expected: f64| assert!((found - expected).abs() < 1e-12, "{found} is not {expected}");
        close(signal(&[0.0, 0.0], 2, 2), 0.0);
        close(quantile(&[4.0, 3.0, 2.0, 1.0], 0.75), 3.25);
        close(quantile(&[4.0, 3.0, 2.0, 1.0], 0.25), 1.75);
        // All values are the same: no spread, so that all of them are above the edge.
        close(signal(&[2.0, 2.0], 2, 2), 2.0);
    }
}
