//! AdamW over a flat stretch of parameters, in one pass.

use super::simd::{Shared, parallel_rows, simd};
use crate::AdamStep;

/// Elements that one thread takes at a time.
const BLOCK: usize = 1 << 15;

simd! {
    /// torch's order of operations (`torch/optim/adamw.py`, `_single_tensor_adamw`): decay, moments, then
    /// `p -= lr / c1 * m / (sqrt(v) / sqrt(c2) + eps)`.
    fn block(step: AdamStep, factor: f32, decay: f32, g: &[f32], m: &mut [f32], v: &mut [f32], p: &mut [f32]) {
        let n = p.len();
        let (g, m, v) = (&g[..n], &mut m[..n], &mut v[..n]);
        let keep = 1.0 - step.lr * decay;
        let size = step.lr / step.correction1;
        for i in 0..n {
            let gradient = g[i] * factor;
            let first = m[i] + (1.0 - step.beta1) * (gradient - m[i]);
            let second = step.beta2 * v[i] + (1.0 - step.beta2) * gradient * gradient;
            m[i] = first;
            v[i] = second;
            p[i] = p[i] * keep - size * first / (second.sqrt() / step.correction2_sqrt + step.eps);
        }
    }
}

/// The gradients count `factor` times; `decay` is the weight decay of this stretch.
pub(super) fn step(step: AdamStep, factor: f32, decay: f32, g: &[f32], m: &mut [f32], v: &mut [f32], p: &mut [f32]) {
    let n = p.len();
    let (m, v, p) = (Shared::new(m), Shared::new(v), Shared::new(p));
    parallel_rows(n.div_ceil(BLOCK), BLOCK, |first, last| {
        let (start, end) = (first * BLOCK, (last * BLOCK).min(n));
        let len = end - start;
        // SAFETY: each stretch belongs to one thread.
        let (m, v, p) = unsafe { (m.slice(start, len), v.slice(start, len), p.slice(start, len)) };
        block(step, factor, decay, &g[start..end], m, v, p);
    });
}
