//! One decoder layer, forward and backward, as a fixed schedule of kernels: in training, in evaluations and in generation.
//!
//! ```text
//! x ─ [norm] ─ qkv ─ [norm of q, k] ─ [rope], or [rope] ─ [norm of q, k] ─ attention ─ o ─ [norm] ─(+x)─ mid
//! mid ─ [norm] ─ [gate,] up ─ act(gate) * up, or act(up) ─ down ─ [norm] ─(+mid)─ out
//! ```
//! In the place of gate, up and down a layer may have experts, or beside them ([`super::experts`]).
//!
//! What is in brackets is there as the model's config says. Forward keeps the roots of norms, the inputs of norms that cost a
//! product to make, the packed `qkv`, attention's output and log-sum-exp, `mid`, and gate and up. Outputs of norms, rotations
//! behind norms and the product of gate and up are cheap and are computed again in backward.

use super::experts::{ExpertScratch, KeptExperts};
use super::linear::{Kept, Linear, LinearScratch};
use super::pass::{LayerCache, LayerGrads, Pass};
use crate::adapter::lora::Lora;
use crate::architecture::config::{Experts, LayerSpec, ModelConfig};
use crate::architecture::layout::{ExpertOffsets, LayerOffsets};
use crate::architecture::rope::Rope;
use crate::architecture::tensors::{NormKind, Unit};
use crate::kernels::{
    Attended, Cache, CacheMut, Format, Kernels, LayerAttention, Norm, Normed, Rotation, Scaled, XieluGradients, at,
    at_mut,
};

/// What one layer keeps for its backward pass. `n` is the tokens of the batch; what the model does not have is empty.
#[derive(Debug)]
pub struct Saved<B> {
    /// Roots of the norm before attention, `[n]`.
    pub input_root: B,
    /// Queries, keys and values, `[n, packed]`: rotated, or as they are projected where they have norms before that.
    pub qkv: B,
    /// Roots of the norms of queries, then of keys.
    pub head_roots: B,
    /// Attention's output, `[n, heads * head_dim]`.
    pub attention: B,
    /// Log-sum-exp of the scores, `[n, heads]`.
    pub lse: B,
    /// What attention adds to the residual stream before its norm, `[n, h]`.
    pub attention_out: B,
    /// Roots of that norm, `[n]`.
    pub attention_out_root: B,
    /// The residual stream after attention, `[n, h]`.
    pub mid: B,
    /// Roots of the norm before the feed-forward layer, `[n]`.
    pub mid_root: B,
    /// Gates and ups, `[n, 2 * ffn]`, or ups where there are no gates; backward turns them into their gradients.
    pub gate_up: B,
    /// What experts keep; none where no layer that keeps something here has some.
    pub experts: Option<KeptExperts<B>>,
    /// What the feed-forward layer adds to the residual stream before its norm, `[n, h]`.
    pub ffn_out: B,
    /// Roots of that norm, `[n]`.
    pub ffn_out_root: B,
    /// What the adapters keep.
    pub adapted: Kept<B>,
}

/// Workspace that layers use one after the other.
#[derive(Debug)]
pub struct Scratch<B> {
    /// Norm output, `[n, h]`.
    pub normed: B,
    /// Feed-forward product and gradients of inner widths, `[n, max(h, ffn, heads * head_dim)]`.
    pub inner: B,
    /// Queries and keys behind their norms, rotated, and values, `[n, packed]`; empty where they have no norms.
    pub rotated: B,
    /// Gradient of the packed rows, `[n, packed]`.
    pub dqkv: B,
    /// Gradient of what a half of the layer adds to the residual stream, `[n, h]`; empty where that has no norm.
    pub dout: B,
    /// What projections and their adapters work in.
    pub linear: LinearScratch<B>,
    /// What experts work in, where the model has some.
    pub experts: Option<ExpertScratch<B>>,
}

impl<B: std::fmt::Debug> Saved<B> {
    /// For `n` tokens of some layers, one after the other.
    pub fn alloc<K: Kernels<Buffer = B>>(
        kernels: &K,
        config: &ModelConfig,
        n: usize,
        lora: Option<&Lora<B>>,
        layers: impl Iterator<Item = usize>,
    ) -> Self {
        let (mut experts, mut is_dense) = (None, false);
        for layer in layers {
            is_dense |= config.is_dense(layer);
            experts = experts.or(config.experts_of(layer));
        }
        let (shape, h) = (config.attention(), config.hidden_size);
        let (working, single) = (|len| kernels.alloc(Format::Working, len), |len| kernels.alloc(Format::F32, len));
        let rows = |kind: NormKind| if config.has_norm(kind) { n } else { 0 };
        let heads = |kind: NormKind| head_norm(config, kind, rows(kind)).count();
        Self {
            input_root: single(rows(NormKind::BeforeAttention)),
            qkv: working(n * shape.packed()),
            head_roots: single(heads(NormKind::Query) + heads(NormKind::Key)),
            attention: working(n * shape.output()),
            lse: single(n * shape.heads),
            attention_out: working(rows(NormKind::AfterAttention) * h),
            attention_out_root: single(rows(NormKind::AfterAttention)),
            mid: working(n * h),
            mid_root: single(rows(NormKind::BeforeFeedForward)),
            gate_up: working(if is_dense { n * config.activation.inputs() * config.intermediate_size } else { 0 }),
            experts: experts.map(|experts| KeptExperts::alloc(kernels, experts, n)),
            ffn_out: working(rows(NormKind::AfterFeedForward) * h),
            ffn_out_root: single(rows(NormKind::AfterFeedForward)),
            adapted: Kept::alloc(kernels, config, n, lora),
        }
    }

    /// Its buffers.
    pub fn buffers(&self) -> impl Iterator<Item = &B> {
        let Self { input_root, qkv, head_roots, attention, lse, attention_out, attention_out_root, mid, .. } = self;
        let Self { mid_root, gate_up, experts, ffn_out, ffn_out_root, adapted, .. } = self;
        let first = [input_root, qkv, head_roots, attention, lse, attention_out, attention_out_root, mid];
        let experts = experts.iter().flat_map(KeptExperts::buffers);
        first.into_iter().chain([mid_root, gate_up, ffn_out, ffn_out_root]).chain(experts).chain(adapted.buffers())
    }
}

impl<B: std::fmt::Debug> Scratch<B> {
    /// For `n` tokens.
    pub fn alloc<K: Kernels<Buffer = B>>(kernels: &K, config: &ModelConfig, n: usize, lora: Option<&Lora<B>>) -> Self {
        let (shape, h) = (config.attention(), config.hidden_size);
        let ffn = if config.has_dense_layers() { config.intermediate_size } else { 0 };
        let inner = h.max(ffn).max(shape.output());
        let dropped = if lora.is_some_and(|lora| lora.config().dropout > 0.0) { inner } else { 0 };
        let working = |len| kernels.alloc(Format::Working, len);
        let rotated = if has_head_norms(config) { n * shape.packed() } else { 0 };
        let has_norm_after = config.has_norm(NormKind::AfterAttention) || config.has_norm(NormKind::AfterFeedForward);
        Self {
            normed: working(n * h),
            inner: working(n * inner),
            rotated: working(rotated),
            dqkv: working(n * shape.packed()),
            dout: working(if has_norm_after { n * h } else { 0 }),
            linear: LinearScratch::alloc(kernels, config, n, lora.map_or(0, Lora::width), dropped),
            experts: ExpertScratch::alloc(kernels, config, n, lora),
        }
    }

    /// Its buffers.
    pub fn buffers(&self) -> impl Iterator<Item = &B> {
        let Self { normed, inner, rotated, dqkv, dout, linear, experts } = self;
        let experts = experts.iter().flat_map(ExpertScratch::buffers);
        [normed, inner, rotated, dqkv, dout].into_iter().chain(linear.buffers()).chain(experts)
    }
}

fn has_head_norms(config: &ModelConfig) -> bool {
    config.has_norm(NormKind::Query)
}

/// The norm of the queries or keys of `n` packed rows.
fn head_norm(config: &ModelConfig, kind: NormKind, n: usize) -> Norm {
    let heads = if kind == NormKind::Query { config.num_attention_heads } else { config.num_key_value_heads };
    let parts = if config.norms_whole_heads { 1 } else { heads };
    let (width, stride) = (kind.width(config), config.attention().packed());
    Norm { parts, width, stride, ..config.norm(n) }
}

impl<K: Kernels> Pass<'_, K> {
    fn linear<'s>(&'s self, layer: usize, unit: Unit, offsets: &'s LayerOffsets) -> Linear<'s, K> {
        Linear::new(self, layer, unit, offsets)
    }

    /// The experts of a layer, and where they lie, where it has some.
    fn experts_of(&self, layer: usize, offsets: &LayerOffsets) -> Option<(Experts, ExpertOffsets)> {
        self.config.experts_of(layer).zip(offsets.experts)
    }

    fn spec(&self, layer: usize) -> LayerSpec {
        self.config.layers[layer]
    }

    /// The norm of `x [n, h]` into `normed`, where the model has it.
    fn norm_before(
        &self,
        kind: NormKind,
        offsets: &LayerOffsets,
        x: &K::Buffer,
        normed: &mut K::Buffer,
        root: &mut K::Buffer,
    ) {
        let Some(weight) = offsets.norms[kind as usize] else { return };
        let (norm, weight) = (self.config.norm(self.n), at(self.params, weight));
        self.kernels.rmsnorm(norm, at(x, 0), weight, None, at_mut(normed, 0), at_mut(root, 0));
    }

    /// The same from kept roots.
    fn norm_again(
        &self,
        kind: NormKind,
        offsets: &LayerOffsets,
        x: &K::Buffer,
        normed: &mut K::Buffer,
        root: &K::Buffer,
    ) {
        let Some(weight) = offsets.norms[kind as usize] else { return };
        let (norm, weight) = (self.config.norm(self.n), at(self.params, weight));
        self.kernels.rmsnorm_again(norm, Normed { x: at(x, 0), w: weight, r: at(root, 0) }, at_mut(normed, 0));
    }

    fn layer_attention(&self, layer: usize) -> LayerAttention {
        LayerAttention { shape: self.config.attention(), window: self.spec(layer).window }
    }

    /// Gradients of a norm of rows of the residual stream; see [`rmsnorm_backward`](crate::kernels::TensorOps::rmsnorm_backward).
    fn norm_backward(
        &self,
        kind: NormKind,
        offsets: &LayerOffsets,
        x: &K::Buffer,
        root: &K::Buffer,
        dy: Option<&K::Buffer>,
        dx: &mut K::Buffer,
        grads: &mut LayerGrads<'_, K::Buffer>,
    ) {
        let Some(weight) = offsets.norms[kind as usize] else { return };
        let dw = grads.places.norms[kind as usize].map(|place| (at_mut(grads.weights, place), grads.beta));
        let norm = match kind {
            NormKind::AfterAttention | NormKind::AfterFeedForward => self.config.norm_after(self.n),
            NormKind::BeforeAttention | NormKind::BeforeFeedForward | NormKind::Query | NormKind::Key => {
                self.config.norm(self.n)
            }
        };
        let dy = dy.map(|dy| at(dy, 0));
        let normed = Normed { x: at(x, 0), w: at(self.params, weight), r: at(root, 0) };
        self.kernels.rmsnorm_backward(norm, normed, dy, at_mut(dx, 0), dw);
    }

    /// Queries and keys of `saved` through their norms, where they have some, and through the layer's rotation: in place, or
    /// into `scratch.rotated` together with the values. `again` takes kept roots.
    fn rotate(
        &self,
        layer: usize,
        offsets: &LayerOffsets,
        saved: &mut Saved<K::Buffer>,
        scratch: &mut Scratch<K::Buffer>,
        again: bool,
    ) {
        let shape = self.config.attention();
        if self.config.rotates_before_norms && !again {
            self.turn(layer, &mut saved.qkv, false);
        }
        let rotated = if has_head_norms(self.config) {
            let (rotated, roots) = (&mut scratch.rotated, &mut saved.head_roots);
            for (norm, weight, column, root) in self.head_norms(offsets) {
                let (x, weight, y) = (at(&saved.qkv, column), at(self.params, weight), at_mut(rotated, column));
                if again {
                    self.kernels.rmsnorm_again(norm, Normed { x, w: weight, r: at(roots, root) }, y);
                } else {
                    self.kernels.rmsnorm(norm, x, weight, None, y, at_mut(roots, root));
                }
            }
            let (values, width) = ((shape.heads + shape.kv_heads) * shape.head_dim, shape.kv_heads * shape.head_dim);
            let source = at(&saved.qkv, values);
            self.kernels.copy_columns(self.n, width, shape.packed(), source, at_mut(rotated, values));
            rotated
        } else if again {
            return;
        } else {
            &mut saved.qkv
        };
        if !self.config.rotates_before_norms {
            self.turn(layer, rotated, false);
        }
    }

    /// The norms of queries and keys: each with its weight, its first column of a packed row, and its first root.
    fn head_norms<'s>(
        &'s self,
        offsets: &'s LayerOffsets,
    ) -> impl Iterator<Item = (Norm, usize, usize, usize)> + use<'s, K> {
        let queries = head_norm(self.config, NormKind::Query, self.n);
        let keys = head_norm(self.config, NormKind::Key, self.n);
        let weight = |kind: NormKind| offsets.norms[kind as usize];
        let of_queries = weight(NormKind::Query).map(|weight| (queries, weight, 0, 0));
        let of_keys =
            weight(NormKind::Key).map(|weight| (keys, weight, self.config.attention().output(), queries.count()));
        of_queries.into_iter().chain(of_keys)
    }

    /// Rotates packed rows in place.
    fn turn(&self, layer: usize, qkv: &mut K::Buffer, backward: bool) {
        let Some(rope) = self.spec(layer).rope else { return };
        let shape = self.config.attention();
        let mut rotate = |rope: usize, heads: usize, column: usize| {
            let Rope { rotary_dim, is_interleaved, .. } = self.config.ropes[rope];
            let (head_dim, stride) = (shape.head_dim, shape.packed());
            let rotation = Rotation { heads, head_dim, rotary_dim, stride, is_interleaved };
            self.kernels.rope(rotation, self.rows, self.rope.of(rope), backward, at_mut(qkv, column));
        };
        match self.config.query_rope {
            None => rotate(rope, shape.heads + shape.kv_heads, 0),
            Some(queries) => {
                rotate(queries, shape.heads, 0);
                rotate(rope, shape.kv_heads, shape.output());
            }
        }
    }

    /// The whole layer, from `x [n, h]` to `out [n, h]`.
    pub fn layer(
        &self,
        layer: usize,
        offsets: &LayerOffsets,
        x: &K::Buffer,
        saved: &mut Saved<K::Buffer>,
        scratch: &mut Scratch<K::Buffer>,
        out: &mut K::Buffer,
        cache: Option<LayerCache<'_, K::Buffer>>,
    ) {
        self.attend(layer, offsets, x, saved, scratch, cache);
        self.feed_forward(layer, offsets, saved, scratch, out);
    }

    /// From the layer's input to `saved.mid`.
    fn attend(
        &self,
        layer: usize,
        offsets: &LayerOffsets,
        x: &K::Buffer,
        saved: &mut Saved<K::Buffer>,
        scratch: &mut Scratch<K::Buffer>,
        cache: Option<LayerCache<'_, K::Buffer>>,
    ) {
        let before = NormKind::BeforeAttention;
        self.norm_before(before, offsets, x, &mut scratch.normed, &mut saved.input_root);
        let input = if offsets.norms[before as usize].is_some() { &scratch.normed } else { x };
        let qkv = self.linear(layer, Unit::Qkv, offsets);
        qkv.forward(input, None, &mut saved.qkv, &mut saved.adapted, &mut scratch.linear);
        self.rotate(layer, offsets, saved, scratch, false);
        let (kernels, attention) = (self.kernels, self.layer_attention(layer));
        let qkv = at(if has_head_norms(self.config) { &scratch.rotated } else { &saved.qkv }, 0);
        let is_read = cache.as_ref().is_some_and(|cache| cache.is_read);
        if let Some(LayerCache { keys, values, capacity, .. }) = cache {
            let cache = CacheMut { capacity, keys: at_mut(keys, 0), values: at_mut(values, 0) };
            kernels.append(attention.shape, self.rows, qkv, cache);
            if is_read {
                let cache = Cache { capacity, keys: at(keys, 0), values: at(values, 0) };
                kernels.attention_cached(attention, self.rows, qkv, cache, at_mut(&mut saved.attention, 0));
            }
        }
        if !is_read {
            let (out, lse) = (at_mut(&mut saved.attention, 0), at_mut(&mut saved.lse, 0));
            kernels.attention(attention, self.rows, qkv, out, lse);
        }
        let o = self.linear(layer, Unit::O, offsets);
        match offsets.norms[NormKind::AfterAttention as usize] {
            None => o.forward(&saved.attention, Some(x), &mut saved.mid, &mut saved.adapted, &mut scratch.linear),
            Some(weight) => {
                let Saved { attention, attention_out, attention_out_root, mid, adapted, .. } = saved;
                o.forward(attention, None, attention_out, adapted, &mut scratch.linear);
                let (norm, weight, added) = (self.config.norm_after(self.n), at(self.params, weight), Some(at(x, 0)));
                let root = at_mut(attention_out_root, 0);
                kernels.rmsnorm(norm, at(attention_out, 0), weight, added, at_mut(mid, 0), root);
            }
        }
    }

    /// What the feed-forward layer's last product reads, from gates and ups.
    fn activate(&self, offsets: &LayerOffsets, gate_up: &K::Buffer, inner: &mut K::Buffer) {
        let (n, ffn, kernels) = (self.n, self.config.intermediate_size, self.kernels);
        match offsets.activation {
            None => kernels.glu(self.config.activation, n, ffn, at(gate_up, 0), at_mut(inner, 0)),
            Some(own) => kernels.xielu(n, ffn, at(self.params, own), at(gate_up, 0), at_mut(inner, 0)),
        }
    }

    /// Replaces gates and ups by their gradients, given that of what is made of them.
    fn activate_backward(
        &self,
        offsets: &LayerOffsets,
        inner: &K::Buffer,
        gate_up: &mut K::Buffer,
        grads: &mut LayerGrads<'_, K::Buffer>,
    ) {
        let (n, ffn, kernels) = (self.n, self.config.intermediate_size, self.kernels);
        let (inner, gate_up) = (at(inner, 0), at_mut(gate_up, 0));
        match offsets.activation {
            None => kernels.glu_backward(self.config.activation, n, ffn, inner, gate_up),
            Some(own) => {
                let (places, beta) = (grads.places.activation, grads.beta);
                let dw = XieluGradients { buffer: grads.weights, places, beta };
                kernels.xielu_backward(n, ffn, at(self.params, own), inner, gate_up, dw);
            }
        }
    }

    /// From `saved.mid` to the layer's output.
    fn feed_forward(
        &self,
        layer: usize,
        offsets: &LayerOffsets,
        saved: &mut Saved<K::Buffer>,
        scratch: &mut Scratch<K::Buffer>,
        out: &mut K::Buffer,
    ) {
        let (n, kernels) = (self.n, self.kernels);
        let Saved { mid, mid_root, gate_up, experts, ffn_out, ffn_out_root, adapted, .. } = saved;
        let Scratch { normed, inner, linear, experts: of_experts, .. } = scratch;
        let before = NormKind::BeforeFeedForward;
        self.norm_before(before, offsets, mid, normed, mid_root);
        let input = if offsets.norms[before as usize].is_some() { &*normed } else { &*mid };
        let is_dense = self.config.is_dense(layer);
        let mut give = |residual: Option<&K::Buffer>, y: &mut K::Buffer| {
            if is_dense {
                self.linear(layer, Unit::GateUp, offsets).forward(input, None, gate_up, adapted, linear);
                self.activate(offsets, gate_up, inner);
                self.linear(layer, Unit::Down, offsets).forward(inner, residual, y, adapted, linear);
            }
            if let Some((own, places)) = self.experts_of(layer, offsets) {
                let (Some(kept), Some(scratch)) = (experts.as_mut(), of_experts.as_mut()) else {
                    unreachable!("the workspace of a layer of experts has room for them");
                };
                let onto = if is_dense { (None, 1.0) } else { (residual, 0.0) };
                self.experts((layer, own), places, input, onto, y, kept, scratch);
            }
        };
        match offsets.norms[NormKind::AfterFeedForward as usize] {
            None => give(Some(mid), out),
            Some(weight) => {
                give(None, ffn_out);
                let (norm, weight, added) = (self.config.norm_after(n), at(self.params, weight), Some(at(mid, 0)));
                kernels.rmsnorm(norm, at(ffn_out, 0), weight, added, at_mut(out, 0), at_mut(ffn_out_root, 0));
            }
        }
    }

    /// Backward of the layer: `dx [n, h]` holds the gradient of its output and then, if `wants_dx`, that of its input.
    pub fn layer_backward(
        &self,
        layer: usize,
        offsets: &LayerOffsets,
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
        offsets: &LayerOffsets,
        saved: &mut Saved<K::Buffer>,
        scratch: &mut Scratch<K::Buffer>,
        dx: &mut K::Buffer,
        grads: &mut LayerGrads<'_, K::Buffer>,
    ) {
        let (n, h, kernels) = (self.n, self.config.hidden_size, self.kernels);
        let Saved { mid, mid_root, gate_up, experts, ffn_out, ffn_out_root, adapted, .. } = saved;
        let Scratch { normed, inner, dout, linear, experts: of_experts, .. } = scratch;
        let after = NormKind::AfterFeedForward;
        let dy = if offsets.norms[after as usize].is_some() {
            kernels.copy(n * h, at(dx, 0), at_mut(dout, 0));
            self.norm_backward(after, offsets, ffn_out, ffn_out_root, None, dout, grads);
            &*dout
        } else {
            &*dx
        };
        let (own, is_dense) = (self.experts_of(layer, offsets), self.config.is_dense(layer));
        if is_dense {
            let down = self.linear(layer, Unit::Down, offsets);
            // The product of gate and up is only needed again by the gradients of what reads it.
            if down.learns(grads) {
                self.activate(offsets, gate_up, inner);
                down.learn(inner, dy, adapted, grads, linear);
            }
            down.input_gradient(dy, inner, 0.0, adapted, grads, linear);
            self.activate_backward(offsets, inner, gate_up, grads);
        }
        let (unit, before) = (self.linear(layer, Unit::GateUp, offsets), NormKind::BeforeFeedForward);
        let has_norm = offsets.norms[before as usize].is_some();
        self.norm_again(before, offsets, mid, normed, mid_root);
        let input = if has_norm { &*normed } else { &*mid };
        if is_dense {
            unit.learn(input, gate_up, adapted, grads, linear);
            if own.is_none() && !has_norm {
                return unit.input_gradient(gate_up, dx, 1.0, adapted, grads, linear);
            }
            unit.input_gradient(gate_up, inner, 0.0, adapted, grads, linear);
        }
        if let Some((own, places)) = own {
            let (Some(kept), Some(scratch)) = (experts.as_mut(), of_experts.as_mut()) else {
                unreachable!("the workspace of a layer of experts has room for them");
            };
            let beta = if is_dense { 1.0 } else { 0.0 };
            self.experts_backward((layer, own), places, input, dy, (inner, beta), kept, scratch, grads);
        }
        if has_norm {
            self.norm_backward(before, offsets, mid, mid_root, Some(inner), dx, grads);
        } else {
            let all = Scaled { rows: n, width: h, stride: h, alpha: 1.0 };
            kernels.add_scaled(all, None, at(inner, 0), 1.0, at_mut(dx, 0));
        }
    }

    fn attention_backward(
        &self,
        layer: usize,
        offsets: &LayerOffsets,
        x: &K::Buffer,
        saved: &mut Saved<K::Buffer>,
        scratch: &mut Scratch<K::Buffer>,
        dx: &mut K::Buffer,
        wants_dx: bool,
        grads: &mut LayerGrads<'_, K::Buffer>,
    ) {
        let (n, h, kernels) = (self.n, self.config.hidden_size, self.kernels);
        let own = self.layer_attention(layer);
        self.rotate(layer, offsets, saved, scratch, true);
        let Saved { input_root, qkv, head_roots, attention, lse, attention_out, attention_out_root, adapted, .. } =
            saved;
        let Scratch { normed, inner, rotated, dqkv, dout, linear, .. } = scratch;
        let after = NormKind::AfterAttention;
        let dy = if offsets.norms[after as usize].is_some() {
            kernels.copy(n * h, at(dx, 0), at_mut(dout, 0));
            self.norm_backward(after, offsets, attention_out, attention_out_root, None, dout, grads);
            &*dout
        } else {
            &*dx
        };
        let o = self.linear(layer, Unit::O, offsets);
        o.learn(attention, dy, adapted, grads, linear);
        o.input_gradient(dy, inner, 0.0, adapted, grads, linear);
        let read = at(if has_head_norms(self.config) { rotated } else { qkv }, 0);
        let attended = Attended { qkv: read, out: at(attention, 0), lse: at(lse, 0) };
        kernels.attention_backward(own, self.rows, attended, at(inner, 0), at_mut(dqkv, 0));
        let is_turned_first = self.config.rotates_before_norms;
        if !is_turned_first {
            self.turn(layer, dqkv, true);
        }
        for ((norm, weight, column, root), kind) in self.head_norms(offsets).zip([NormKind::Query, NormKind::Key]) {
            let dw = grads.places.norms[kind as usize].map(|place| (at_mut(grads.weights, place), grads.beta));
            let normed = Normed { x: at(qkv, column), w: at(self.params, weight), r: at(head_roots, root) };
            kernels.rmsnorm_backward(norm, normed, None, at_mut(dqkv, column), dw);
        }
        if is_turned_first {
            self.turn(layer, dqkv, true);
        }
        let (unit, before) = (self.linear(layer, Unit::Qkv, offsets), NormKind::BeforeAttention);
        if offsets.norms[before as usize].is_some() {
            self.norm_again(before, offsets, x, normed, input_root);
            unit.learn(normed, dqkv, adapted, grads, linear);
            if wants_dx || grads.places.norms[before as usize].is_some() {
                unit.input_gradient(dqkv, inner, 0.0, adapted, grads, linear);
                self.norm_backward(before, offsets, x, input_root, Some(inner), dx, grads);
            }
        } else {
            unit.learn(x, dqkv, adapted, grads, linear);
            if wants_dx {
                unit.input_gradient(dqkv, dx, 1.0, adapted, grads, linear);
            }
        }
    }
}
