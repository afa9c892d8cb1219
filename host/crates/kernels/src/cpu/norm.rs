//! RMSNorm, forward and backward.

use rayon::prelude::*;

use super::simd::{Shared, parallel_rows, simd, sum};
use crate::Norm;

/// Norms whose share of the weight gradient is summed before the shares are: fixed, so that the order is.
const NORMS_PER_SHARE: usize = 64;

simd! {
    fn root(x: &[f32], eps: f32) -> f32 {
        1.0 / (sum([x], |[x]| x * x) / x.len() as f32 + eps).sqrt()
    }
}

simd! {
    /// `y = x * r * (w + offset)`.
    fn scale(x: &[f32], w: &[f32], offset: f32, r: f32, y: &mut [f32]) {
        let n = x.len();
        let (w, y) = (&w[..n], &mut y[..n]);
        for i in 0..n {
            y[i] = x[i] * r * (w[i] + offset);
        }
    }
}

simd! {
    fn add(residual: &[f32], y: &mut [f32]) {
        let n = y.len();
        let residual = &residual[..n];
        for i in 0..n {
            y[i] += residual[i];
        }
    }
}

simd! {
    /// `dx += dy * w * r - x * r^3 / n * sum(dy * w * x)`, times `gain`.
    fn row_backward(x: &[f32], w: &[f32], offset: f32, dy: &[f32], r: f32, gain: f32, dx: &mut [f32]) {
        let n = x.len();
        let (w, dy, dx) = (&w[..n], &dy[..n], &mut dx[..n]);
        let s = sum([x, w, dy], |[x, w, dy]| dy * (w + offset) * x) * r * r * r / n as f32 * gain;
        let r = r * gain;
        for i in 0..n {
            dx[i] += dy[i] * (w[i] + offset) * r - x[i] * s;
        }
    }
}

simd! {
    /// The same in the place of the gradient of the output.
    fn row_backward_in_place(x: &[f32], w: &[f32], offset: f32, r: f32, gain: f32, dx: &mut [f32]) {
        let n = x.len();
        let (w, dx) = (&w[..n], &mut dx[..n]);
        let s = sum([x, w, &*dx], |[x, w, dy]| dy * (w + offset) * x) * r * r * r / n as f32 * gain;
        let r = r * gain;
        for i in 0..n {
            dx[i] = dx[i] * (w[i] + offset) * r - x[i] * s;
        }
    }
}

simd! {
    fn row_weight(x: &[f32], dy: &[f32], r: f32, dw: &mut [f32]) {
        let n = x.len();
        let (dy, dw) = (&dy[..n], &mut dw[..n]);
        for i in 0..n {
            dw[i] += dy[i] * x[i] * r;
        }
    }
}

/// First element of a part of a row.
fn place(norm: Norm, index: usize) -> usize {
    index / norm.parts * norm.stride + index % norm.parts * norm.width
}

pub(super) fn forward(norm: Norm, x: &[f32], w: &[f32], residual: Option<&[f32]>, y: &mut [f32], r: &mut [f32]) {
    let h = norm.width;
    let (y, roots) = (Shared::new(y), Shared::new(r));
    parallel_rows(norm.count(), h, |first, last| {
        for index in first..last {
            let at = place(norm, index);
            // SAFETY: each part belongs to one thread.
            let (y, r) = unsafe { (y.slice(at, h), roots.slice(index, 1)) };
            let x = &x[at..][..h];
            r[0] = root(x, norm.eps);
            scale(x, w, norm.offset, r[0] * norm.gain, y);
            if let Some(residual) = residual {
                add(&residual[at..][..h], y);
            }
        }
    });
}

pub(super) fn again(norm: Norm, x: &[f32], w: &[f32], r: &[f32], y: &mut [f32]) {
    let h = norm.width;
    let y = Shared::new(y);
    parallel_rows(norm.count(), h, |first, last| {
        for index in first..last {
            let at = place(norm, index);
            // SAFETY: each part belongs to one thread.
            scale(&x[at..][..h], w, norm.offset, r[index] * norm.gain, unsafe { y.slice(at, h) });
        }
    });
}

pub(super) fn backward(
    norm: Norm,
    x: &[f32],
    w: &[f32],
    r: &[f32],
    dy: Option<&[f32]>,
    dx: &mut [f32],
    dw: Option<(&mut [f32], f32)>,
) {
    // Before the gradient of the output is gone.
    if let Some((dw, beta)) = dw {
        weight_gradient(norm, x, r, dy.unwrap_or(dx), dw, beta);
    }
    let h = norm.width;
    let out = Shared::new(dx);
    parallel_rows(norm.count(), h, |first, last| {
        for index in first..last {
            let at = place(norm, index);
            // SAFETY: each part belongs to one thread.
            let (x, dx) = (&x[at..][..h], unsafe { out.slice(at, h) });
            match dy {
                Some(dy) => row_backward(x, w, norm.offset, &dy[at..][..h], r[index], norm.gain, dx),
                None => row_backward_in_place(x, w, norm.offset, r[index], norm.gain, dx),
            }
        }
    });
}

fn weight_gradient(norm: Norm, x: &[f32], r: &[f32], dy: &[f32], dw: &mut [f32], beta: f32) {
    let (n, h) = (norm.count(), norm.width);
    let mut shares = vec![0.0; n.div_ceil(NORMS_PER_SHARE) * h];
    shares.par_chunks_mut(h).enumerate().for_each(|(share, sum)| {
        for index in share * NORMS_PER_SHARE..((share + 1) * NORMS_PER_SHARE).min(n) {
            let at = place(norm, index);
            row_weight(&x[at..][..h], &dy[at..][..h], r[index] * norm.gain, sum);
        }
    });
    if beta == 0.0 {
        dw.fill(0.0);
    } else {
        for value in &mut dw[..] {
            *value *= beta;
        }
    }
    for share in shares.chunks(h) {
        for (total, part) in dw.iter_mut().zip(share) {
            *total += part;
        }
    }
}
