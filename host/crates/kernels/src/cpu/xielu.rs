//! The activation xIELU, whose two factors are trained.

use super::simd::{Shared, expm1, parallel_rows, simd, sum};

/// The curve of one layer: what its four weights come to.
#[derive(Debug, Clone, Copy)]
struct Curve {
    /// Factor above zero.
    above: f32,
    /// Factor below zero.
    below: f32,
    beta: f32,
    eps: f32,
}

impl Curve {
    fn new(weights: &[f32]) -> Self {
        let [above, below, beta, eps] = [weights[0], weights[1], weights[2], weights[3]];
        Self { above: softplus(above), below: beta + softplus(below), beta, eps }
    }
}

/// As torch has it: linear beyond 20.
fn softplus(x: f32) -> f32 {
    if x > 20.0 { x } else { x.exp().ln_1p() }
}

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

simd! {
    fn values(curve: Curve, u: &[f32], a: &mut [f32]) {
        let n = a.len();
        let u = &u[..n];
        for i in 0..n {
            let x = u[i];
            let below = (expm1(if x < curve.eps { x } else { curve.eps }) - x) * curve.below + curve.beta * x;
            a[i] = if x > 0.0 { curve.above * x * x + curve.beta * x } else { below };
        }
    }
}

simd! {
    fn slopes(curve: Curve, u: &mut [f32], da: &[f32]) {
        let n = da.len();
        let u = &mut u[..n];
        for i in 0..n {
            let x = u[i];
            let bent = if x < curve.eps { expm1(x) } else { -1.0 };
            let slope = if x > 0.0 { 2.0 * curve.above * x } else { curve.below * bent };
            u[i] = da[i] * (slope + curve.beta);
        }
    }
}

simd! {
    fn sum_above(u: &[f32], da: &[f32]) -> f32 {
        sum([u, da], |[x, d]| if x > 0.0 { d * x * x } else { 0.0 })
    }
}

simd! {
    fn sum_below(eps: f32, u: &[f32], da: &[f32]) -> f32 {
        sum([u, da], |[x, d]| if x > 0.0 { 0.0 } else { d * (expm1(if x < eps { x } else { eps }) - x) })
    }
}

pub(super) fn forward(weights: &[f32], ffn: usize, u: &[f32], a: &mut [f32]) {
    let (n, curve) = (a.len() / ffn, Curve::new(weights));
    let a = Shared::new(a);
    parallel_rows(n, ffn, |first, last| {
        for row in first..last {
            // SAFETY: each row belongs to one thread.
            values(curve, &u[row * ffn..][..ffn], unsafe { a.slice(row * ffn, ffn) });
        }
    });
}

/// Replaces `u` by its gradient; returns the gradients of the first two weights, added up row by row.
pub(super) fn backward(weights: &[f32], ffn: usize, da: &[f32], u: &mut [f32]) -> [f32; 2] {
    let (n, curve) = (da.len() / ffn, Curve::new(weights));
    let mut sums = vec![0.0; 2 * n];
    let (u, shared) = (Shared::new(u), Shared::new(&mut sums));
    parallel_rows(n, ffn, |first, last| {
        for row in first..last {
            let da = &da[row * ffn..][..ffn];
            // SAFETY: each row belongs to one thread.
            let (u, sums) = unsafe { (u.slice(row * ffn, ffn), shared.slice(2 * row, 2)) };
            sums.copy_from_slice(&[sum_above(u, da), sum_below(curve.eps, u, da)]);
            slopes(curve, u, da);
        }
    });
    let total = |which: usize| sums.iter().skip(which).step_by(2).map(|&sum| f64::from(sum)).sum::<f64>() as f32;
    [total(0) * sigmoid(weights[0]), total(1) * sigmoid(weights[1])]
}
