//! One decoder layer, forward and backward, as a fixed schedule of kernels.
//!
//! ```text
//! x ─ norm ─ qkv ─ rope ─ attention ─ o ─(+x)─ mid ─ norm ─ gate,up ─ swiglu ─ down ─(+mid)─ out
//! ```
//! Forward keeps the two norms' roots, the packed `qkv`, attention's output and log-sum-exp, `mid`, and gate and up.
//! Norm outputs and the SwiGLU product are cheap and are computed again in backward.

use super::config::ModelConfig;
use super::layout::{LayerGradients, LayerOffsets};
use super::linear::{Linear, LinearScratch};
use super::tensors::Unit;
use crate::adapter::lora::Lora;
use crate::kernels::{AttentionShape, Format, Kernels, at, at_mut};

/// What one layer keeps for its backward pass. `n` is the tokens of the batch.
#[derive(Debug)]
pub struct Saved<B> {
    /// Roots of the first norm, `[n]`.
    pub input_root: B,
    /// Queries, keys and values after rotation, `[n, packed]`.
    pub qkv: B,
    /// Attention's output, `[n, heads * head_dim]`.
    pub attention: B,
    /// Log-sum-exp of the scores, `[n, heads]`.
    pub lse: B,
    /// The residual stream after attention, `[n, h]`.
    pub mid: B,
    /// Roots of the second norm, `[n]`.
    pub mid_root: B,
    /// Gates and ups, `[n, 2 * ffn]`; backward turns them into their gradients.
    pub gate_up: B,
    /// The adapters' `A(x)`, `[n, width]`.
    pub adapted: B,
}

/// Room that layers use one after the other.
#[derive(Debug)]
pub struct Scratch<B> {
    /// Norm output, `[n, h]`.
    pub normed: B,
    /// Feed-forward product and gradients of inner widths, `[n, max(h, ffn, heads * head_dim)]`.
    pub inner: B,
    /// Gradient of the packed rows, `[n, packed]`.
    pub dqkv: B,
    /// What projections and their adapters work in.
    pub linear: LinearScratch<B>,
}

/// What all layers of a pass share.
#[derive(Debug)]
pub struct Pass<'a, K: Kernels> {
    /// The device.
    pub kernels: &'a K,
    /// Sizes.
    pub config: &'a ModelConfig,
    /// The weight arena.
    pub params: &'a K::Buffer,
    /// The adapter.
    pub lora: Option<&'a Lora<K::Buffer>>,
    /// Rotation table, a row of `head_dim` per position.
    pub rope: &'a K::Buffer,
    /// Tokens.
    pub n: usize,
    /// What the device knows of them.
    pub rows: &'a K::Staged,
    /// The seed of the adapter's dropout, in training.
    pub dropout: Option<u64>,
}

/// Where the gradients of a layer go.
#[derive(Debug)]
pub struct LayerGrads<'a, B> {
    /// The gradient arena of the weights.
    pub weights: &'a mut B,
    /// Places in it.
    pub places: LayerGradients,
    /// The gradient arena of the adapter.
    pub adapter: Option<&'a mut B>,
    /// Factor of what the arenas held: 0 for the first micro-batch.
    pub beta: f32,
}

/// Attention sizes of a model.
pub fn attention_shape(config: &ModelConfig) -> AttentionShape {
    AttentionShape {
        heads: config.num_attention_heads,
        kv_heads: config.num_key_value_heads,
        head_dim: config.head_dim,
        scale: (1.0 / (config.head_dim as f64).sqrt()) as f32,
    }
}

impl<B: std::fmt::Debug> Saved<B> {
    /// Room for `n` tokens; `width` is that of the adapter.
    pub fn alloc<K: Kernels<Buffer = B>>(kernels: &K, config: &ModelConfig, n: usize, width: usize) -> Self {
        let shape = attention_shape(config);
        let (working, exact) = (|len| kernels.alloc(Format::Working, len), |len| kernels.alloc(Format::Exact, len));
        Self {
            input_root: exact(n),
            qkv: working(n * shape.packed()),
            attention: working(n * shape.output()),
            lse: exact(n * shape.heads),
            mid: working(n * config.hidden_size),
            mid_root: exact(n),
            gate_up: working(n * 2 * config.intermediate_size),
            adapted: working(n * width),
        }
    }
}

impl<B: std::fmt::Debug> Scratch<B> {
    /// Room for `n` tokens.
    pub fn alloc<K: Kernels<Buffer = B>>(kernels: &K, config: &ModelConfig, n: usize, lora: Option<&Lora<B>>) -> Self {
        let shape = attention_shape(config);
        let inner = config.hidden_size.max(config.intermediate_size).max(shape.output());
        let dropped = if lora.is_some_and(|lora| lora.config().dropout > 0.0) { inner } else { 0 };
        let working = |len| kernels.alloc(Format::Working, len);
        Self {
            normed: working(n * config.hidden_size),
            inner: working(n * inner),
            dqkv: working(n * shape.packed()),
            linear: LinearScratch::alloc(kernels, config, n, lora.map_or(0, Lora::width), dropped),
        }
    }
}

impl<K: Kernels> Pass<'_, K> {
    fn linear(&self, layer: usize, unit: Unit, offsets: LayerOffsets) -> Linear<'_, K> {
        Linear::new(self, layer, unit, offsets.units[unit as usize])
    }

    /// From the layer's input to rotated queries, keys and values in `saved.qkv`.
    pub fn project_qkv(
        &self,
        layer: usize,
        offsets: LayerOffsets,
        x: &K::Buffer,
        saved: &mut Saved<K::Buffer>,
        scratch: &mut Scratch<K::Buffer>,
    ) {
        let (n, h, shape) = (self.n, self.config.hidden_size, attention_shape(self.config));
        self.kernels.rmsnorm(
            n,
            h,
            self.config.rms_norm_eps,
            at(x, 0),
            at(self.params, offsets.input_norm),
            at_mut(&mut scratch.normed, 0),
            at_mut(&mut saved.input_root, 0),
        );
        let qkv = self.linear(layer, Unit::Qkv, offsets);
        qkv.forward(&scratch.normed, None, &mut saved.qkv, &mut saved.adapted, &mut scratch.linear);
        let (rotated, stride) = (shape.heads + shape.kv_heads, shape.packed());
        let qkv = at_mut(&mut saved.qkv, 0);
        self.kernels.rope(rotated, shape.head_dim, stride, self.rows, at(self.rope, 0), false, qkv);
    }

    /// From attention's output in `saved.attention` to the layer's output.
    pub fn finish(
        &self,
        layer: usize,
        offsets: LayerOffsets,
        x: &K::Buffer,
        saved: &mut Saved<K::Buffer>,
        scratch: &mut Scratch<K::Buffer>,
        out: &mut K::Buffer,
    ) {
        let (n, h, ffn) = (self.n, self.config.hidden_size, self.config.intermediate_size);
        let o = self.linear(layer, Unit::O, offsets);
        o.forward(&saved.attention, Some(x), &mut saved.mid, &mut saved.adapted, &mut scratch.linear);
        self.kernels.rmsnorm(
            n,
            h,
            self.config.rms_norm_eps,
            at(&saved.mid, 0),
            at(self.params, offsets.post_norm),
            at_mut(&mut scratch.normed, 0),
            at_mut(&mut saved.mid_root, 0),
        );
        let gate_up = self.linear(layer, Unit::GateUp, offsets);
        gate_up.forward(&scratch.normed, None, &mut saved.gate_up, &mut saved.adapted, &mut scratch.linear);
        self.kernels.swiglu(n, ffn, at(&saved.gate_up, 0), at_mut(&mut scratch.inner, 0));
        let down = self.linear(layer, Unit::Down, offsets);
        down.forward(&scratch.inner, Some(&saved.mid), out, &mut saved.adapted, &mut scratch.linear);
    }

    /// The whole layer, from `x [n, h]` to `out [n, h]`.
    pub fn layer(
        &self,
        layer: usize,
        offsets: LayerOffsets,
        x: &K::Buffer,
        saved: &mut Saved<K::Buffer>,
        scratch: &mut Scratch<K::Buffer>,
        out: &mut K::Buffer,
    ) {
        self.project_qkv(layer, offsets, x, saved, scratch);
        let (attention, lse) = (at_mut(&mut saved.attention, 0), at_mut(&mut saved.lse, 0));
        let shape = attention_shape(self.config);
        self.kernels.attention(shape, self.rows, at(&saved.qkv, 0), attention, lse);
        self.finish(layer, offsets, x, saved, scratch, out);
    }

    /// Backward of the layer: `dx [n, h]` holds the gradient of its output and then, if `wants_dx`, that of its input.
    pub fn layer_backward(
        &self,
        layer: usize,
        offsets: LayerOffsets,
        x: &K::Buffer,
        saved: &mut Saved<K::Buffer>,
        scratch: &mut Scratch<K::Buffer>,
        dx: &mut K::Buffer,
        wants_dx: bool,
        grads: &mut LayerGrads<'_, K::Buffer>,
    ) {
        self.feed_forward_backward(layer, offsets, saved, scratch, dx, grads);
        self.attention_backward(layer, offsets, x, saved, scratch, dx, wants_dx, grads);
    }

    fn feed_forward_backward(
        &self,
        layer: usize,
        offsets: LayerOffsets,
        saved: &mut Saved<K::Buffer>,
        scratch: &mut Scratch<K::Buffer>,
        dx: &mut K::Buffer,
        grads: &mut LayerGrads<'_, K::Buffer>,
    ) {
        let (n, h, ffn) = (self.n, self.config.hidden_size, self.config.intermediate_size);
        let kernels = self.kernels;
        let down = self.linear(layer, Unit::Down, offsets);
        // The product of the SwiGLU is only needed again by the gradients of what reads it.
        if down.learns(grads) {
            kernels.swiglu(n, ffn, at(&saved.gate_up, 0), at_mut(&mut scratch.inner, 0));
            down.learn(&scratch.inner, dx, &saved.adapted, grads, &mut scratch.linear);
        }
        down.input_gradient(dx, &mut scratch.inner, grads, &mut scratch.linear);
        kernels.swiglu_backward(n, ffn, at(&scratch.inner, 0), at_mut(&mut saved.gate_up, 0));
        let (mid, norm) = (at(&saved.mid, 0), at(self.params, offsets.post_norm));
        kernels.rmsnorm_again(n, h, mid, norm, at(&saved.mid_root, 0), at_mut(&mut scratch.normed, 0));
        let gate_up = self.linear(layer, Unit::GateUp, offsets);
        gate_up.learn(&scratch.normed, &saved.gate_up, &saved.adapted, grads, &mut scratch.linear);
        gate_up.input_gradient(&saved.gate_up, &mut scratch.inner, grads, &mut scratch.linear);
        let dnorm = grads.places.post_norm.map(|place| (at_mut(grads.weights, place), grads.beta));
        let dnormed = at(&scratch.inner, 0);
        kernels.rmsnorm_backward(n, h, mid, norm, at(&saved.mid_root, 0), dnormed, at_mut(dx, 0), dnorm);
    }

    fn attention_backward(
        &self,
        layer: usize,
        offsets: LayerOffsets,
        x: &K::Buffer,
        saved: &mut Saved<K::Buffer>,
        scratch: &mut Scratch<K::Buffer>,
        dx: &mut K::Buffer,
        wants_dx: bool,
        grads: &mut LayerGrads<'_, K::Buffer>,
    ) {
        let (n, h, shape) = (self.n, self.config.hidden_size, attention_shape(self.config));
        let kernels = self.kernels;
        let o = self.linear(layer, Unit::O, offsets);
        o.learn(&saved.attention, dx, &saved.adapted, grads, &mut scratch.linear);
        o.input_gradient(dx, &mut scratch.inner, grads, &mut scratch.linear);
        let (qkv, lse) = (at(&saved.qkv, 0), at(&saved.lse, 0));
        let (out, dout, dqkv) = (at(&saved.attention, 0), at(&scratch.inner, 0), at_mut(&mut scratch.dqkv, 0));
        kernels.attention_backward(shape, self.rows, qkv, out, lse, dout, dqkv);
        let (rotated, stride) = (shape.heads + shape.kv_heads, shape.packed());
        let dqkv = at_mut(&mut scratch.dqkv, 0);
        kernels.rope(rotated, shape.head_dim, stride, self.rows, at(self.rope, 0), true, dqkv);
        let (norm, root) = (at(self.params, offsets.input_norm), at(&saved.input_root, 0));
        kernels.rmsnorm_again(n, h, at(x, 0), norm, root, at_mut(&mut scratch.normed, 0));
        let qkv = self.linear(layer, Unit::Qkv, offsets);
        qkv.learn(&scratch.normed, &scratch.dqkv, &saved.adapted, grads, &mut scratch.linear);
        if wants_dx || grads.places.input_norm.is_some() {
            qkv.input_gradient(&scratch.dqkv, &mut scratch.inner, grads, &mut scratch.linear);
            let dnorm = grads.places.input_norm.map(|place| (at_mut(grads.weights, place), grads.beta));
            kernels.rmsnorm_backward(n, h, at(x, 0), norm, root, at(&scratch.inner, 0), at_mut(dx, 0), dnorm);
        }
    }
}
