//! Lengths of rows, and columns scaled by them: what DoRA has beside LoRA.

use rayon::prelude::*;

use super::simd::{Shared, parallel_rows, simd, sum};
use crate::Scaled;

/// Rows whose share of a gradient is summed before the shares are: fixed, so that the order is.
const ROWS_PER_SHARE: usize = 64;

simd! {
    fn squares(w: &[f32], added: &[f32]) -> f32 {
        sum([w, added], |[w, added]| (w + added) * (w + added))
    }
}

simd! {
    fn add(factors: &[f32], z: &[f32], beta: f32, y: &mut [f32]) {
        let n = y.len();
        let (factors, z) = (&factors[..n], &z[..n]);
        for i in 0..n {
            let before = if beta == 0.0 { 0.0 } else { y[i] };
            y[i] = before + factors[i] * z[i];
        }
    }
}

simd! {
    fn products(dy: &[f32], z: &[f32], sums: &mut [f32]) {
        let n = sums.len();
        let (dy, z) = (&dy[..n], &z[..n]);
        for i in 0..n {
            sums[i] += dy[i] * z[i];
        }
    }
}

simd! {
    fn multiply(factors: &[f32], dy: &[f32], z: &mut [f32]) {
        let n = z.len();
        let (factors, dy) = (&factors[..n], &dy[..n]);
        for i in 0..n {
            z[i] = factors[i] * dy[i];
        }
    }
}

pub(super) fn row_norms(width: usize, w: &[f32], added: &[f32], norms: &mut [f32]) {
    let (rows, norms) = (norms.len(), Shared::new(norms));
    parallel_rows(rows, width, |first, last| {
        for row in first..last {
            let own = row * width..(row + 1) * width;
            // SAFETY: each row belongs to one thread.
            let norm = unsafe { norms.slice(row, 1) };
            norm[0] = squares(&w[own.clone()], &added[own]).sqrt();
        }
    });
}

/// `value / norm`, and 0 where there is no length to divide by.
fn over(value: f32, norm: f32) -> f32 {
    if norm > 0.0 { value / norm } else { 0.0 }
}

/// Lengths that columns shall have, and those that they have.
type Factors<'a> = (&'a [f32], &'a [f32]);

pub(super) fn add_scaled(scaled: Scaled, factors: Option<Factors<'_>>, z: &[f32], beta: f32, y: &mut [f32]) {
    let Scaled { rows, width, stride, alpha } = scaled;
    let factors: Vec<f32> = match factors {
        None => vec![alpha; width],
        Some((m, norms)) => m.iter().zip(norms).map(|(&m, &norm)| alpha * over(m, norm)).collect(),
    };
    let y = Shared::new(y);
    parallel_rows(rows, width, |first, last| {
        for row in first..last {
            // SAFETY: each row belongs to one thread.
            add(&factors, &z[row * stride..][..width], beta, unsafe { y.slice(row * stride, width) });
        }
    });
}

pub(super) fn add_scaled_backward(
    scaled: Scaled,
    (m, norms): Factors<'_>,
    dy: &[f32],
    z: &mut [f32],
    (dm, beta): (&mut [f32], f32),
) {
    let Scaled { rows, width, stride, alpha } = scaled;
    let mut shares = vec![0.0; rows.div_ceil(ROWS_PER_SHARE) * width];
    shares.par_chunks_mut(width).enumerate().for_each(|(share, sums)| {
        for row in share * ROWS_PER_SHARE..((share + 1) * ROWS_PER_SHARE).min(rows) {
            products(&dy[row * stride..][..width], &z[row * stride..][..width], sums);
        }
    });
    for (column, (dm, &norm)) in dm.iter_mut().zip(norms).enumerate() {
        let sum: f32 = shares.iter().skip(column).step_by(width).sum();
        let before = if beta == 0.0 { 0.0 } else { beta * *dm };
        *dm = before + over(alpha * sum, norm);
    }
    let factors: Vec<f32> = m.iter().zip(norms).map(|(&m, &norm)| over(m, norm)).collect();
    let z = Shared::new(z);
    parallel_rows(rows, width, |first, last| {
        for row in first..last {
            // SAFETY: each row belongs to one thread.
            multiply(&factors, &dy[row * stride..][..width], unsafe { z.slice(row * stride, width) });
        }
    });
}
