//! Loops over rows and elements: copies, embedding, rotary positions, gated activations, dropout, sums.

use rayon::prelude::*;

use super::simd::{GRAIN, Shared, exp, multiply, parallel_rows, simd, sum, tanh};
use crate::rng;
use crate::{Activation, DropoutKey, Rotation};

/// Elements of one share of a sum: fixed, so that the order of the sum is.
const SUM_BLOCK: usize = 1 << 14;

pub(super) fn copy(source: &[f32], target: &mut [f32]) {
    if source.len() <= 4 * GRAIN {
        return target.copy_from_slice(source);
    }
    let target = Shared::new(target);
    parallel_rows(source.len(), 1, |first, last| {
        // SAFETY: each stretch belongs to one thread.
        unsafe { target.slice(first, last - first) }.copy_from_slice(&source[first..last]);
    });
}

pub(super) fn zero(target: &mut [f32]) {
    let len = target.len();
    let target = Shared::new(target);
    parallel_rows(len, 1, |first, last| {
        // SAFETY: each stretch belongs to one thread.
        unsafe { target.slice(first, last - first) }.fill(0.0);
    });
}

pub(super) fn scale(factor: f32, target: &mut [f32]) {
    let len = target.len();
    let target = Shared::new(target);
    parallel_rows(len, 1, |first, last| {
        // SAFETY: each stretch belongs to one thread.
        multiply(unsafe { target.slice(first, last - first) }, factor);
    });
}

pub(super) fn copy_columns(rows: usize, width: usize, stride: usize, source: &[f32], target: &mut [f32]) {
    let target = Shared::new(target);
    parallel_rows(rows, width, |first, last| {
        for row in first..last {
            // SAFETY: each row belongs to one thread.
            unsafe { target.slice(row * stride, width) }.copy_from_slice(&source[row * stride..][..width]);
        }
    });
}

pub(super) fn embed(h: usize, ids: &[u32], table: &[f32], out: &mut [f32]) {
    let out = Shared::new(out);
    parallel_rows(ids.len(), h, |first, last| {
        for (row, &id) in (first..last).zip(&ids[first..last]) {
            // SAFETY: each row belongs to one thread.
            unsafe { out.slice(row * h, h) }.copy_from_slice(&table[id as usize * h..][..h]);
        }
    });
}

simd! {
    fn add(target: &mut [f32], source: &[f32]) {
        let n = target.len();
        let source = &source[..n];
        for i in 0..n {
            target[i] += source[i];
        }
    }
}

/// Tokens in order, so that equal ids always sum alike; threads share the columns, not the tokens.
pub(super) fn embed_backward(h: usize, ids: &[u32], dy: &[f32], dtable: &mut [f32]) {
    let columns =
        if ids.len() * h <= GRAIN { h } else { h.div_ceil(rayon::current_num_threads()).next_multiple_of(16) };
    let dtable = Shared::new(dtable);
    (0..h.div_ceil(columns)).into_par_iter().for_each(|part| {
        let (first, last) = (part * columns, ((part + 1) * columns).min(h));
        for (row, &id) in ids.iter().enumerate() {
            // SAFETY: each column belongs to one thread.
            let target = unsafe { dtable.slice(id as usize * h + first, last - first) };
            add(target, &dy[row * h + first..row * h + last]);
        }
    });
}

simd! {
    fn rotate(x: &mut [f32], cosines: &[f32], sines: &[f32], sign: f32) {
        let half = cosines.len();
        let (a, b) = x.split_at_mut(half);
        let (b, sines) = (&mut b[..half], &sines[..half]);
        for i in 0..half {
            let (p, q) = (a[i], b[i]);
            a[i] = p * cosines[i] - q * (sines[i] * sign);
            b[i] = q * cosines[i] + p * (sines[i] * sign);
        }
    }
}

simd! {
    fn rotate_neighbours(x: &mut [f32], cosines: &[f32], sines: &[f32], sign: f32) {
        let half = cosines.len();
        let (x, sines) = (&mut x[..2 * half], &sines[..half]);
        for i in 0..half {
            let (p, q) = (x[2 * i], x[2 * i + 1]);
            x[2 * i] = p * cosines[i] - q * (sines[i] * sign);
            x[2 * i + 1] = q * cosines[i] + p * (sines[i] * sign);
        }
    }
}

pub(super) fn rope(rotation: Rotation, positions: &[u32], table: &[f32], backward: bool, x: &mut [f32]) {
    let Rotation { heads, head_dim, rotary_dim, stride, is_interleaved } = rotation;
    let sign = if backward { -1.0 } else { 1.0 };
    let x = Shared::new(x);
    parallel_rows(positions.len(), heads * head_dim, |first, last| {
        for row in first..last {
            let (cosines, sines) = table[positions[row] as usize * rotary_dim..][..rotary_dim].split_at(rotary_dim / 2);
            for head in 0..heads {
                // SAFETY: each row belongs to one thread.
                let x = unsafe { x.slice(row * stride + head * head_dim, rotary_dim) };
                if is_interleaved {
                    rotate_neighbours(x, cosines, sines, sign);
                } else {
                    rotate(x, cosines, sines, sign);
                }
            }
        }
    });
}

simd! {
    fn swiglu(gate: &[f32], up: &[f32], a: &mut [f32]) {
        let n = a.len();
        let (gate, up) = (&gate[..n], &up[..n]);
        for i in 0..n {
            a[i] = gate[i] / (1.0 + exp(-gate[i])) * up[i];
        }
    }
}

simd! {
    fn swiglu_backward(gate: &mut [f32], up: &mut [f32], da: &[f32]) {
        let n = da.len();
        let (gate, up) = (&mut gate[..n], &mut up[..n]);
        for i in 0..n {
            let (g, u, d) = (gate[i], up[i], da[i]);
            let s = 1.0 / (1.0 + exp(-g));
            up[i] = d * (g * s);
            gate[i] = d * u * s * (1.0 + g * (1.0 - s));
        }
    }
}

/// `sqrt(2 / pi)` and the factor of the cube in `Activation::GeluTanh`.
const GELU: (f32, f32) = (0.797_884_6, 0.044_715);

simd! {
    fn geglu(gate: &[f32], up: &[f32], a: &mut [f32]) {
        let n = a.len();
        let (gate, up) = (&gate[..n], &up[..n]);
        for i in 0..n {
            let g = gate[i];
            let t = tanh(GELU.0 * (g + GELU.1 * (g * g * g)));
            a[i] = 0.5 * g * (1.0 + t) * up[i];
        }
    }
}

simd! {
    fn geglu_backward(gate: &mut [f32], up: &mut [f32], da: &[f32]) {
        let n = da.len();
        let (gate, up) = (&mut gate[..n], &mut up[..n]);
        for i in 0..n {
            let (g, u, d) = (gate[i], up[i], da[i]);
            let t = tanh(GELU.0 * (g + GELU.1 * (g * g * g)));
            let slope = 0.5 * (1.0 + t) + 0.5 * g * (1.0 - t * t) * GELU.0 * (1.0 + 3.0 * GELU.1 * (g * g));
            up[i] = d * (0.5 * g * (1.0 + t));
            gate[i] = d * u * slope;
        }
    }
}

simd! {
    fn relu2(up: &[f32], a: &mut [f32]) {
        let n = a.len();
        let up = &up[..n];
        for i in 0..n {
            // What is not a number stays so.
            let u = if up[i] < 0.0 { 0.0 } else { up[i] };
            a[i] = u * u;
        }
    }
}

simd! {
    fn relu2_backward(up: &mut [f32], da: &[f32]) {
        let n = da.len();
        let up = &mut up[..n];
        for i in 0..n {
            let u = if up[i] < 0.0 { 0.0 } else { up[i] };
            up[i] = da[i] * (2.0 * u);
        }
    }
}

pub(super) fn glu(activation: Activation, ffn: usize, gu: &[f32], a: &mut [f32]) {
    let (n, width) = (a.len() / ffn, activation.inputs() * ffn);
    let a = Shared::new(a);
    parallel_rows(n, width, |first, last| {
        for row in first..last {
            let (gate, up) = gu[row * width..][..width].split_at(width - ffn);
            // SAFETY: each row belongs to one thread.
            let a = unsafe { a.slice(row * ffn, ffn) };
            match activation {
                Activation::Silu => swiglu(gate, up, a),
                Activation::GeluTanh => geglu(gate, up, a),
                Activation::Relu2 => relu2(up, a),
                Activation::Xielu => unreachable!("xIELU is an operation of its own"),
            }
        }
    });
}

pub(super) fn glu_backward(activation: Activation, ffn: usize, da: &[f32], gu: &mut [f32]) {
    let (n, width) = (da.len() / ffn, activation.inputs() * ffn);
    let gu = Shared::new(gu);
    parallel_rows(n, width, |first, last| {
        for row in first..last {
            // SAFETY: each row belongs to one thread.
            let (gate, up) = unsafe { gu.slice(row * width, width) }.split_at_mut(width - ffn);
            let da = &da[row * ffn..][..ffn];
            match activation {
                Activation::Silu => swiglu_backward(gate, up, da),
                Activation::GeluTanh => geglu_backward(gate, up, da),
                Activation::Relu2 => relu2_backward(up, da),
                Activation::Xielu => unreachable!("xIELU is an operation of its own"),
            }
        }
    });
}

/// Element `i` is kept when word `i` of the key's stream says so: nothing is stored between forward and backward.
pub(super) fn dropout(key: DropoutKey, add: bool, x: &[f32], y: &mut [f32]) {
    let (len, keep) = (x.len(), 1.0 / (1.0 - key.probability));
    let y = Shared::new(y);
    parallel_rows(len.div_ceil(4), 16, |first, last| {
        for index in first..last {
            let words = rng::block(key.seed, key.stream, index as u64);
            let (start, end) = (index * 4, (index * 4 + 4).min(len));
            // SAFETY: each group of four belongs to one thread.
            let y = unsafe { y.slice(start, end - start) };
            for ((y, x), word) in y.iter_mut().zip(&x[start..end]).zip(words) {
                let value = if rng::uniform(word) < key.probability { 0.0 } else { x * keep };
                *y = if add { *y + value } else { value };
            }
        }
    });
}

/// Adds to each element of row `i` of `x [n, h]` a number that is uniform within `-size[i]..size[i]`, from its word of the stream.
pub(super) fn noise(h: usize, seed: u64, stream: u64, size: &[f32], x: &mut [f32]) {
    let len = x.len();
    let x = Shared::new(x);
    parallel_rows(len.div_ceil(4), 16, |first, last| {
        for index in first..last {
            let words = rng::block(seed, stream, index as u64);
            let (start, end) = (index * 4, (index * 4 + 4).min(len));
            // SAFETY: each group of four belongs to one thread.
            let x = unsafe { x.slice(start, end - start) };
            for ((x, word), place) in x.iter_mut().zip(words).zip(start..) {
                *x += (2.0 * rng::uniform(word) - 1.0) * size[place / h];
            }
        }
    });
}

simd! {
    fn squares(x: &[f32]) -> f32 {
        sum([x], |[x]| x * x)
    }
}

pub(super) fn sum_of_squares(x: &[f32]) -> f64 {
    let shares: Vec<f64> = x.par_chunks(SUM_BLOCK).map(|block| f64::from(squares(block))).collect();
    shares.into_iter().sum()
}
