//! One decoder layer, forward and backward, as a fixed schedule of kernels.
//!
//! ```text
//! x ─ norm ─ qkv ─ rope ─ attention ─ o ─(+x)─ mid ─ norm ─ gate,up ─ swiglu ─ down ─(+mid)─ out
//! ```
//! Forward keeps the two norms' roots, the packed `qkv`, attention's output and log-sum-exp, `mid`, and gate and up.
//! Norm outputs and the SwiGLU product are cheap and are computed again in backward.

use super::config::ModelConfig;
use super::layout::{LayerGradients, LayerOffsets, LinearKind};
use crate::adapter::lora::{self, GroupPass, Lora};
use crate::kernels::{AttentionShape, Format, Gemm, Kernels, at, at_mut};

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
    /// Adapters' small gradients, `[n, width]`.
    pub small: B,
    /// Dropped inputs, `[n, max(h, ffn, heads * head_dim)]`; empty without dropout.
    pub dropped: B,
    /// Input gradients before their mask, like `dropped`.
    pub spread: B,
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
            small: working(n * lora.map_or(0, Lora::width)),
            dropped: working(n * dropped),
            spread: working(n * dropped),
        }
    }
}

impl<K: Kernels> Pass<'_, K> {
    /// `x[n, input] * w^T`, `[n, out]`.
    fn projection(&self, input: usize, out: usize, beta: f32) -> Gemm {
        Gemm::new([self.n, out, input], (false, true), [input, input, out], beta)
    }

    /// `y[n, out] = x[n, input] * w^T`.
    fn project(&self, input: usize, out: usize, x: &K::Buffer, w: usize, y: &mut K::Buffer) {
        self.kernels.gemm(self.projection(input, out, 0.0), at(x, 0), at(self.params, w), at_mut(y, 0));
    }

    /// `y[n, out] = x[n, input] * w^T + residual`.
    fn project_onto(&self, input: usize, out: usize, x: &K::Buffer, w: usize, residual: &K::Buffer, y: &mut K::Buffer) {
        let (product, w) = (self.projection(input, out, 1.0), at(self.params, w));
        self.kernels.gemm_onto(product, at(x, 0), w, at(residual, 0), at_mut(y, 0));
    }

    /// `dx[n, input] = dy[n, out] * w`.
    fn project_back(&self, input: usize, out: usize, dy: &K::Buffer, w: usize, dx: &mut K::Buffer) {
        let product = Gemm::new([self.n, input, out], (false, false), [out, input, input], 0.0);
        self.kernels.gemm(product, at(dy, 0), at(self.params, w), at_mut(dx, 0));
    }

    /// Gradients of the trained ones among projections packed into one matrix; neighbours are one product.
    fn project_weights(
        &self,
        kinds: &[LinearKind],
        x: &K::Buffer,
        dy: &K::Buffer,
        grads: &mut LayerGrads<'_, K::Buffer>,
    ) {
        let (stride, input): (usize, usize) =
            (kinds.iter().map(|kind| kind.shape(self.config).0).sum(), kinds[0].shape(self.config).1);
        let mut runs: Vec<(usize, usize, usize)> = Vec::new();
        let mut column = 0;
        for &kind in kinds {
            let rows = kind.shape(self.config).0;
            if let Some(place) = grads.places.linears[kind as usize] {
                match runs.last_mut() {
                    Some((first, count, start)) if *first + *count == column && *start + *count * input == place => {
                        *count += rows;
                    }
                    _ => runs.push((column, rows, place)),
                }
            }
            column += rows;
        }
        for (first, rows, place) in runs {
            let product = Gemm::new([rows, input, self.n], (true, false), [stride, input, input], grads.beta);
            self.kernels.gemm(product, at(dy, first), at(x, 0), at_mut(grads.weights, place));
        }
    }

    fn group(&self, layer: usize, group: lora::Group, input: usize, stride: usize) -> GroupPass<'_, K::Staged> {
        GroupPass { rows: self.rows, layer, group, n: self.n, input, stride, dropout: self.dropout }
    }

    /// First column of queries, keys and values in a packed row.
    fn qkv_columns(&self) -> [usize; 3] {
        let shape = attention_shape(self.config);
        let q = shape.output();
        [0, q, q + shape.kv_heads * shape.head_dim]
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
        self.project(h, shape.packed(), &scratch.normed, offsets.qkv, &mut saved.qkv);
        if let Some(lora) = self.lora {
            let pass = self.group(layer, lora::QKV, h, shape.packed());
            let (kept, dropped) = (&mut saved.adapted, &mut scratch.dropped);
            let columns = self.qkv_columns();
            lora.forward(self.kernels, &pass, &columns, self.config, &scratch.normed, &mut saved.qkv, kept, dropped);
        }
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
        let width = attention_shape(self.config).output();
        self.project_onto(width, h, &saved.attention, offsets.o, x, &mut saved.mid);
        if let Some(lora) = self.lora {
            let pass = self.group(layer, lora::O, width, h);
            let (kept, dropped) = (&mut saved.adapted, &mut scratch.dropped);
            lora.forward(self.kernels, &pass, &[0], self.config, &saved.attention, &mut saved.mid, kept, dropped);
        }
        self.kernels.rmsnorm(
            n,
            h,
            self.config.rms_norm_eps,
            at(&saved.mid, 0),
            at(self.params, offsets.post_norm),
            at_mut(&mut scratch.normed, 0),
            at_mut(&mut saved.mid_root, 0),
        );
        self.project(h, 2 * ffn, &scratch.normed, offsets.gate_up, &mut saved.gate_up);
        if let Some(lora) = self.lora {
            let pass = self.group(layer, lora::GATE_UP, h, 2 * ffn);
            let (kept, dropped) = (&mut saved.adapted, &mut scratch.dropped);
            let (x, y) = (&scratch.normed, &mut saved.gate_up);
            lora.forward(self.kernels, &pass, &[0, ffn], self.config, x, y, kept, dropped);
        }
        self.kernels.swiglu(n, ffn, at(&saved.gate_up, 0), at_mut(&mut scratch.inner, 0));
        self.project_onto(ffn, h, &scratch.inner, offsets.down, &saved.mid, out);
        if let Some(lora) = self.lora {
            let pass = self.group(layer, lora::DOWN, ffn, h);
            let (kept, dropped) = (&mut saved.adapted, &mut scratch.dropped);
            lora.forward(self.kernels, &pass, &[0], self.config, &scratch.inner, out, kept, dropped);
        }
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
        // The product of the SwiGLU is only needed again by the gradients of what reads it.
        let adapts_down = self.lora.is_some_and(|lora| lora.place(layer, LinearKind::DownProj).is_some());
        if adapts_down || grads.places.linears[LinearKind::DownProj as usize].is_some() {
            kernels.swiglu(n, ffn, at(&saved.gate_up, 0), at_mut(&mut scratch.inner, 0));
            self.project_weights(&[LinearKind::DownProj], &scratch.inner, dx, grads);
        }
        // The adapter reads the product before the product's gradient takes its place, and adds to that afterwards.
        if let (Some(lora), Some(adapter)) = (self.lora.filter(|_| adapts_down), grads.adapter.as_deref_mut()) {
            let pass = self.group(layer, lora::DOWN, ffn, h);
            lora.backward(
                kernels,
                &pass,
                &[0],
                self.config,
                &scratch.inner,
                dx,
                &saved.adapted,
                grads.beta,
                adapter,
                None,
                &mut scratch.small,
                &mut scratch.dropped,
                &mut scratch.spread,
            );
        }
        self.project_back(ffn, h, dx, offsets.down, &mut scratch.inner);
        if let Some(lora) = self.lora.filter(|_| adapts_down) {
            let pass = self.group(layer, lora::DOWN, ffn, h);
            lora.add_input_gradient(kernels, &pass, &scratch.small, &mut scratch.inner, &mut scratch.spread);
        }
        kernels.swiglu_backward(n, ffn, at(&scratch.inner, 0), at_mut(&mut saved.gate_up, 0));
        let (mid, norm) = (at(&saved.mid, 0), at(self.params, offsets.post_norm));
        kernels.rmsnorm_again(n, h, mid, norm, at(&saved.mid_root, 0), at_mut(&mut scratch.normed, 0));
        self.project_weights(&[LinearKind::GateProj, LinearKind::UpProj], &scratch.normed, &saved.gate_up, grads);
        self.project_back(h, 2 * ffn, &saved.gate_up, offsets.gate_up, &mut scratch.inner);
        if let (Some(lora), Some(adapter)) = (self.lora, grads.adapter.as_deref_mut()) {
            let pass = self.group(layer, lora::GATE_UP, h, 2 * ffn);
            lora.backward(
                kernels,
                &pass,
                &[0, ffn],
                self.config,
                &scratch.normed,
                &saved.gate_up,
                &saved.adapted,
                grads.beta,
                adapter,
                Some(&mut scratch.inner),
                &mut scratch.small,
                &mut scratch.dropped,
                &mut scratch.spread,
            );
        }
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
        let (kernels, width) = (self.kernels, shape.output());
        self.project_weights(&[LinearKind::OProj], &saved.attention, dx, grads);
        self.project_back(width, h, dx, offsets.o, &mut scratch.inner);
        if let (Some(lora), Some(adapter)) = (self.lora, grads.adapter.as_deref_mut()) {
            let pass = self.group(layer, lora::O, width, h);
            lora.backward(
                kernels,
                &pass,
                &[0],
                self.config,
                &saved.attention,
                dx,
                &saved.adapted,
                grads.beta,
                adapter,
                Some(&mut scratch.inner),
                &mut scratch.small,
                &mut scratch.dropped,
                &mut scratch.spread,
            );
        }
        let (qkv, lse) = (at(&saved.qkv, 0), at(&saved.lse, 0));
        let (out, dout, dqkv) = (at(&saved.attention, 0), at(&scratch.inner, 0), at_mut(&mut scratch.dqkv, 0));
        kernels.attention_backward(shape, self.rows, qkv, out, lse, dout, dqkv);
        let (rotated, stride) = (shape.heads + shape.kv_heads, shape.packed());
        let dqkv = at_mut(&mut scratch.dqkv, 0);
        kernels.rope(rotated, shape.head_dim, stride, self.rows, at(self.rope, 0), true, dqkv);
        let (norm, root) = (at(self.params, offsets.input_norm), at(&saved.input_root, 0));
        kernels.rmsnorm_again(n, h, at(x, 0), norm, root, at_mut(&mut scratch.normed, 0));
        let kinds = [LinearKind::QProj, LinearKind::KProj, LinearKind::VProj];
        self.project_weights(&kinds, &scratch.normed, &scratch.dqkv, grads);
        let wants_normed = wants_dx || grads.places.input_norm.is_some();
        if wants_normed {
            self.project_back(h, stride, &scratch.dqkv, offsets.qkv, &mut scratch.inner);
        }
        if let (Some(lora), Some(adapter)) = (self.lora, grads.adapter.as_deref_mut()) {
            let pass = self.group(layer, lora::QKV, h, stride);
            let columns = self.qkv_columns();
            lora.backward(
                kernels,
                &pass,
                &columns,
                self.config,
                &scratch.normed,
                &scratch.dqkv,
                &saved.adapted,
                grads.beta,
                adapter,
                wants_normed.then_some(&mut scratch.inner),
                &mut scratch.small,
                &mut scratch.dropped,
                &mut scratch.spread,
            );
        }
        if wants_normed {
            let dnorm = grads.places.input_norm.map(|place| (at_mut(grads.weights, place), grads.beta));
            kernels.rmsnorm_backward(n, h, at(x, 0), norm, root, at(&scratch.inner, 0), at_mut(dx, 0), dnorm);
        }
    }
}
