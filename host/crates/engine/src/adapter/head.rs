//! The adapter of the output projection. Projection and loss are one operation that never holds all logits, so the adapter
//! becomes part of its operands: `x W^T + s (x A^T) B^T = [x, s x A^T] [W, B]^T`. That takes a copy of `W`, and room for
//! the gradient of all of it.

use super::lora::{Lora, Place};
use super::scratch::AdapterScratch;
use crate::architecture::config::ModelConfig;
use crate::kernels::{DropoutKey, Format, Gemm, Head, Kernels, LossGradients, at, at_mut};
use crate::rng;

/// Rows of the joined operands are so many elements, or a multiple.
const ALIGNMENT: usize = 16;

/// Room for the joined operands.
#[derive(Debug)]
pub struct HeadScratch<B> {
    /// Elements of a row: hidden size and rank, rounded up.
    wide: usize,
    /// `[x, s x A^T]`, `[n, wide]`.
    inputs: B,
    /// `[W, B]`, `[v, wide]`.
    weight: B,
    /// The identity, `[side, side]`: a product with it moves columns to another place.
    ones: B,
    side: usize,
    gradients: Option<Gradients<B>>,
}

#[derive(Debug)]
struct Gradients<B> {
    /// Of the inputs.
    inputs: B,
    /// Of the weight.
    weight: B,
    /// The identity of the rank, in f32.
    ones: B,
}

/// What the adapter reads in a pass.
#[derive(Debug)]
pub struct HeadPass<'a, K: Kernels> {
    /// The device.
    pub kernels: &'a K,
    /// Sizes.
    pub config: &'a ModelConfig,
    /// The adapter.
    pub lora: &'a Lora<K::Buffer>,
    /// The rows of the pass.
    pub rows: &'a K::Staged,
    /// Tokens.
    pub n: usize,
    /// The seed of dropout, in training.
    pub dropout: Option<u64>,
}

impl<K: Kernels> Clone for HeadPass<'_, K> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<K: Kernels> Copy for HeadPass<'_, K> {}

impl<B> HeadScratch<B> {
    /// Room for `n` tokens, and a copy of the projection, whose first element is `head` of `params`.
    pub fn alloc<K: Kernels<Buffer = B>>(
        kernels: &K,
        config: &ModelConfig,
        lora: &Lora<B>,
        params: &B,
        head: usize,
        n: usize,
        learns: bool,
    ) -> Self {
        let (h, v, r) = (config.hidden_size, config.vocab_size, lora.head().map_or(0, |place| place.r));
        let wide = (h + r).next_multiple_of(ALIGNMENT);
        let zeros = |format: Format, len: usize| {
            let mut buffer = kernels.alloc(format, len);
            kernels.zero(len, at_mut(&mut buffer, 0));
            buffer
        };
        let identity = |format: Format, side: usize| {
            let mut buffer = zeros(format, side * side);
            for index in 0..side {
                kernels.upload(&[1.0], at_mut(&mut buffer, index * (side + 1)));
            }
            buffer
        };
        let mut weight = zeros(Format::Working, v * wide);
        for row in 0..v {
            kernels.copy(h, at(params, head + row * h), at_mut(&mut weight, row * wide));
        }
        let side = h.max(r);
        let gradients = learns.then(|| Gradients {
            inputs: kernels.alloc(Format::Working, n * wide),
            weight: kernels.alloc(Format::F32, v * wide),
            ones: identity(Format::F32, r),
        });
        let (inputs, ones) = (zeros(Format::Working, n * wide), identity(Format::Working, side));
        Self { wide, inputs, weight, ones, side, gradients }
    }

    /// Bytes of room.
    pub fn bytes<K: Kernels<Buffer = B>>(&self, kernels: &K) -> u64 {
        let gradients = self.gradients.iter().flat_map(|own| [&own.inputs, &own.weight, &own.ones]);
        [&self.inputs, &self.weight, &self.ones].into_iter().chain(gradients).map(|buffer| kernels.bytes(buffer)).sum()
    }

    /// Log-probabilities of the targets of `x [n, h]`, without gradients.
    pub fn log_probs<K: Kernels<Buffer = B>>(
        &mut self,
        pass: HeadPass<'_, K>,
        x: &B,
        scratch: &mut AdapterScratch<B>,
        log_probs: &mut B,
    ) {
        self.join(pass, x, &mut scratch.dropped);
        let (inputs, weight) = (at(&self.inputs, 0), at(&self.weight, 0));
        let head = Head { width: self.wide, ..pass.config.head() };
        pass.kernels.linear_log_probs(head, pass.rows, inputs, weight, at_mut(log_probs, 0), None);
    }

    /// The same with the gradient of `x` in `dx`, and those of the adapter over `beta` times what `adapter` held.
    pub fn gradients<K: Kernels<Buffer = B>>(
        &mut self,
        pass: HeadPass<'_, K>,
        x: &B,
        dx: &mut B,
        adapter: &mut B,
        beta: f32,
        scratch: &mut AdapterScratch<B>,
        log_probs: &mut B,
    ) {
        let AdapterScratch { dropped, spread, .. } = scratch;
        self.join(pass, x, dropped);
        let HeadPass { kernels, config, lora, rows, n, .. } = pass;
        let Some(Place { a, b, r, scale, .. }) = lora.head() else { return };
        let (h, v, wide) = (config.hidden_size, config.vocab_size, self.wide);
        let Some(own) = &mut self.gradients else { unreachable!("a pass that learns made room for it") };
        let dw = Some((at_mut(&mut own.weight, 0), 0.0));
        let gradients = LossGradients { dx: at_mut(&mut own.inputs, 0), dw, idle: 0..0 };
        let (inputs, weight) = (at(&self.inputs, 0), at(&self.weight, 0));
        let head = Head { width: wide, ..config.head() };
        kernels.linear_log_probs(head, rows, inputs, weight, at_mut(log_probs, 0), Some(gradients));

        let key = key(pass);
        let columns = Gemm::new([n, h, h], (false, false), [wide, self.side, h], 0.0);
        kernels.gemm(columns, at(&own.inputs, 0), at(&self.ones, 0), at_mut(dx, 0));
        let of_a = Gemm { alpha: scale, ..Gemm::new([r, h, n], (true, false), [wide, h, h], beta) };
        let read = if key.is_some() { &*dropped } else { x };
        kernels.gemm(of_a, at(&own.inputs, h), at(read, 0), at_mut(adapter, a));
        let through_a = |beta: f32| Gemm { alpha: scale, ..Gemm::new([n, h, r], (false, false), [wide, h, h], beta) };
        match key {
            None => kernels.gemm(through_a(1.0), at(&own.inputs, h), at(&lora.params, a), at_mut(dx, 0)),
            Some(key) => {
                kernels.gemm(through_a(0.0), at(&own.inputs, h), at(&lora.params, a), at_mut(spread, 0));
                kernels.dropout(rows, n * h, key, true, at(spread, 0), at_mut(dx, 0));
            }
        }
        let columns = Gemm::new([v, r, r], (false, false), [wide, r, r], beta);
        kernels.gemm(columns, at(&own.weight, h), at(&own.ones, 0), at_mut(adapter, b));
    }

    /// Logits of `x [n, h]`, without dropout, into `logits [n, v]`; [`Self::join_weight`] comes first, once for an adapter.
    pub fn logits<K: Kernels<Buffer = B>>(
        &mut self,
        pass: HeadPass<'_, K>,
        x: &B,
        scratch: &mut AdapterScratch<B>,
        logits: &mut B,
    ) {
        self.join_inputs(pass, x, &mut scratch.dropped);
        let (n, v, wide) = (pass.n, pass.config.vocab_size, self.wide);
        let product = Gemm::new([n, v, wide], (false, true), [wide, wide, v], 0.0);
        pass.kernels.gemm(product, at(&self.inputs, 0), at(&self.weight, 0), at_mut(logits, 0));
    }

    /// Makes the operands of `x` and of the adapter as it is now.
    fn join<K: Kernels<Buffer = B>>(&mut self, pass: HeadPass<'_, K>, x: &B, dropped: &mut B) {
        self.join_inputs(pass, x, dropped);
        self.join_weight(pass.kernels, pass.config, pass.lora);
    }

    /// Puts the adapter as it is now beside the copy of the projection.
    pub fn join_weight<K: Kernels<Buffer = B>>(&mut self, kernels: &K, config: &ModelConfig, lora: &Lora<B>) {
        let Some(Place { b, r, .. }) = lora.head() else { return };
        let (h, v, wide) = (config.hidden_size, config.vocab_size, self.wide);
        let columns = Gemm::new([v, r, r], (false, false), [r, self.side, wide], 0.0);
        kernels.gemm(columns, at(&lora.params, b), at(&self.ones, 0), at_mut(&mut self.weight, h));
    }

    /// Makes the operand of `x`.
    fn join_inputs<K: Kernels<Buffer = B>>(&mut self, pass: HeadPass<'_, K>, x: &B, dropped: &mut B) {
        let HeadPass { kernels, config, lora, rows, n, .. } = pass;
        let Some(Place { a, r, scale, .. }) = lora.head() else { return };
        let (h, wide) = (config.hidden_size, self.wide);
        let columns = Gemm::new([n, h, h], (false, false), [h, self.side, wide], 0.0);
        kernels.gemm(columns, at(x, 0), at(&self.ones, 0), at_mut(&mut self.inputs, 0));
        let read = match key(pass) {
            None => x,
            Some(key) => {
                kernels.dropout(rows, n * h, key, false, at(x, 0), at_mut(dropped, 0));
                &*dropped
            }
        };
        let down = Gemm { alpha: scale, ..Gemm::new([n, r, h], (false, true), [h, h, wide], 0.0) };
        kernels.gemm(down, at(read, 0), at(&lora.params, a), at_mut(&mut self.inputs, h));
    }
}

fn key<K: Kernels>(pass: HeadPass<'_, K>) -> Option<DropoutKey> {
    let probability = pass.lora.config().dropout;
    let seed = pass.dropout.filter(|_| probability > 0.0)?;
    Some(DropoutKey { seed, stream: rng::stream_of("dropout lm_head"), probability: probability as f32 })
}
