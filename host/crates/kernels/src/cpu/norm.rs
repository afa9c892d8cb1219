//! RMSNorm, forward and backward.

use rayon::prelude::*;

use super::simd::{Shared, parallel_rows, simd, sum};

/// Rows whose share of the weight gradient is summed before the shares are: fixed, so that the order is.
const ROWS_PER_SHARE: usize = 64;

simd! {
    fn row_forward(x: &[f32], w: &[f32], y: &mut [f32], eps: f32) -> f32 {
        let n = x.len();
        let r = 1.0 / (sum([x], |[x]| x * x) / n as f32 + eps).sqrt();
        scale(x, w, r, y);
        r
    }
}

simd! {
    fn row_again(x: &[f32], w: &[f32], r: f32, y: &mut [f32]) {
        scale(x, w, r, y);
    }
}

#[inline(always)]
fn scale(x: &[f32], w: &[f32], r: f32, y: &mut [f32]) {
    let n = x.len();
    let (w, y) = (&w[..n], &mut y[..n]);
    for i in 0..n {
        y[i] = x[i] * r * w[i];
    }
}

simd! {
    /// `dx += dy * w * r - x * r^3 / n * sum(dy * w * x)`.
    fn row_backward(x: &[f32], w: &[f32], dy: &[f32], r: f32, dx: &mut [f32]) {
        let n = x.len();
        let (w, dy, dx) = (&w[..n], &dy[..n], &mut dx[..n]);
        let s = sum([x, w, dy], |[x, w, dy]| dy * w * x) * r * r * r / n as f32;
        for i in 0..n {
            dx[i] += dy[i] * w[i] * r - x[i] * s;
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

pub(super) fn forward(h: usize, eps: f32, x: &[f32], w: &[f32], y: &mut [f32], r: &mut [f32]) {
    let (y, roots) = (Shared::new(y), Shared::new(r));
    parallel_rows(x.len() / h, h, |first, last| {
        for row in first..last {
            // SAFETY: each row belongs to one thread.
            let (y, r) = unsafe { (y.slice(row * h, h), roots.slice(row, 1)) };
            r[0] = row_forward(&x[row * h..][..h], w, y, eps);
        }
    });
}

pub(super) fn again(h: usize, x: &[f32], w: &[f32], r: &[f32], y: &mut [f32]) {
    let y = Shared::new(y);
    parallel_rows(x.len() / h, h, |first, last| {
        for row in first..last {
            // SAFETY: each row belongs to one thread.
            row_again(&x[row * h..][..h], w, r[row], unsafe { y.slice(row * h, h) });
        }
    });
}

pub(super) fn backward(
    h: usize,
    x: &[f32],
    w: &[f32],
    r: &[f32],
    dy: &[f32],
    dx: &mut [f32],
    dw: Option<(&mut [f32], f32)>,
) {
    let n = x.len() / h;
    let out = Shared::new(dx);
    parallel_rows(n, h, |first, last| {
        for row in first..last {
            let at = row * h;
            // SAFETY: each row belongs to one thread.
            row_backward(&x[at..][..h], w, &dy[at..][..h], r[row], unsafe { out.slice(at, h) });
        }
    });
    let Some((dw, beta)) = dw else { return };
    let mut shares = vec![0.0; n.div_ceil(ROWS_PER_SHARE) * h];
    shares.par_chunks_mut(h).enumerate().for_each(|(share, sum)| {
        for row in share * ROWS_PER_SHARE..((share + 1) * ROWS_PER_SHARE).min(n) {
            row_weight(&x[row * h..][..h], &dy[row * h..][..h], r[row], sum);
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
