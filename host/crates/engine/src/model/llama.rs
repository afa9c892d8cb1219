//! The whole model: embedding, decoder layers, last norm, output projection, loss; forward, and backward as far down as
//! anything is trained.

use std::path::Path;

use super::config::{ModelConfig, RopeScaling};
use super::decoder::{LayerGrads, Pass, Saved, Scratch};
use super::layout::{GradientLayout, Layout};
use super::weights::{self, WeightSource};
use crate::adapter::lora::{DropoutPass, Lora};
use crate::adapter::peft;
use crate::kernels::cpu::CpuKernels;
use crate::kernels::{Kernels, LossGradients, Targets, at, at_mut};
use crate::{Batch, BatchLoss, EngineError, IGNORE};

/// Weights, and an adapter beside them.
#[derive(Debug)]
pub struct Model<K: Kernels = CpuKernels> {
    /// The device.
    pub kernels: K,
    /// Sizes and constants.
    pub config: ModelConfig,
    /// Where each weight lies.
    pub layout: Layout,
    /// The weight arena.
    pub params: K::Buffer,
    /// The adapter.
    pub lora: Option<Lora<K::Buffer>>,
}

/// How far a forward pass is to be remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// The first layer that has a backward pass; the number of layers for none.
    pub from: usize,
    /// Remember only each layer's input and compute the rest again (Chen et al., "Training deep nets with sublinear
    /// memory cost").
    pub checkpoint: bool,
}

/// Room for the activations of one batch, kept from batch to batch.
#[derive(Debug)]
pub struct Workspace<K: Kernels> {
    memory: Memory,
    tokens: usize,
    positions: usize,
    /// Inputs of the layers that are remembered; the two first also serve the layers that are not.
    inputs: Vec<K::Buffer>,
    saved: Vec<Saved<K::Buffer>>,
    scratch: Option<Scratch<K::Buffer>>,
    dx: Option<K::Buffer>,
    head_root: Option<K::Buffer>,
    rope: Option<K::Buffer>,
}

/// Where gradients go.
#[derive(Debug)]
pub struct Grads<'a, B> {
    /// Places of the weights' gradients.
    pub layout: &'a GradientLayout,
    /// The weights' gradient arena.
    pub weights: &'a mut B,
    /// The adapter's gradient arena.
    pub adapter: Option<&'a mut B>,
    /// Factor of what the arenas held.
    pub beta: f32,
    /// Factor of the loss.
    pub scale: f32,
}

impl Model<CpuKernels> {
    /// Loads weights on the CPU, and an adapter in PEFT's form.
    ///
    /// # Errors
    /// [`EngineError`] says what is wrong with the files.
    pub fn load(config: ModelConfig, source: &WeightSource, adapter: Option<&Path>) -> Result<Self, EngineError> {
        let mut model = Self::new(CpuKernels, config, source)?;
        if let Some(directory) = adapter {
            model.lora = Some(peft::load(&model.kernels, &model.config, directory)?);
        }
        Ok(model)
    }
}

impl<K: Kernels> Model<K> {
    /// Loads weights on a device.
    ///
    /// # Errors
    /// [`EngineError`] says what is wrong with the files.
    pub fn new(kernels: K, config: ModelConfig, source: &WeightSource) -> Result<Self, EngineError> {
        let mut model = Self::unloaded(kernels, config);
        weights::load(&model.kernels, source, &model.config, &model.layout, &mut model.params)?;
        Ok(model)
    }

    /// A model whose weights are all zero.
    pub(crate) fn unloaded(kernels: K, config: ModelConfig) -> Self {
        let layout = Layout::new(&config);
        let params = kernels.alloc(layout.len);
        Self { kernels, config, layout, params, lora: None }
    }

    /// A copy of one weight, as transformers stores it.
    pub fn parameter(&self, name: &str) -> Option<Vec<f32>> {
        let slot = self.layout.slot(name)?;
        let mut values = vec![0.0; slot.len];
        self.kernels.download(at(&self.params, slot.offset), &mut values);
        Some(values)
    }

    /// What every layer of a pass over `n` tokens needs.
    pub fn pass<'a>(
        &'a self,
        rope: &'a K::Buffer,
        positions: &'a [u32],
        doc_lens: &'a [u32],
        dropout: Option<DropoutPass>,
    ) -> Pass<'a, K> {
        Pass {
            kernels: &self.kernels,
            config: &self.config,
            params: &self.params,
            lora: self.lora.as_ref(),
            rope,
            n: positions.len(),
            positions,
            doc_lens,
            dropout,
        }
    }

    /// Loss of a batch, without gradients.
    pub fn loss(&self, workspace: &mut Workspace<K>, batch: &Batch) -> Result<BatchLoss, EngineError> {
        let positions = self.start(workspace, batch)?;
        let last = self.forward(workspace, batch, &positions, None);
        Ok(self.head(workspace, batch, last, None))
    }

    /// Loss of a batch, and the gradients of whatever has a place in `grads`.
    pub fn loss_and_gradients(
        &self,
        workspace: &mut Workspace<K>,
        batch: &Batch,
        dropout: Option<DropoutPass>,
        grads: &mut Grads<'_, K::Buffer>,
    ) -> Result<BatchLoss, EngineError> {
        let positions = self.start(workspace, batch)?;
        let last = self.forward(workspace, batch, &positions, dropout);
        let loss = self.head(workspace, batch, last, Some(grads));
        self.backward(workspace, batch, &positions, dropout, grads);
        Ok(loss)
    }

    fn start(&self, workspace: &mut Workspace<K>, batch: &Batch) -> Result<Vec<u32>, EngineError> {
        batch.validate(self.config.vocab_size)?;
        let positions = batch.positions();
        workspace.fit(self, positions.len(), positions.iter().max().map_or(0, |&last| last as usize + 1));
        Ok(positions)
    }

    /// Runs the layers; returns which of `inputs` holds the last layer's output.
    fn forward(
        &self,
        workspace: &mut Workspace<K>,
        batch: &Batch,
        positions: &[u32],
        dropout: Option<DropoutPass>,
    ) -> usize {
        let (memory, h) = (workspace.memory, self.config.hidden_size);
        let Workspace { inputs, saved, scratch: Some(scratch), rope: Some(rope), .. } = workspace else {
            unreachable!("`fit` made room");
        };
        let pass = self.pass(rope, positions, &batch.doc_lens, dropout);
        let first = at_mut(&mut inputs[memory.slot(0)], 0);
        self.kernels.embed(h, &batch.ids, at(&self.params, self.layout.embed), first);
        for (layer, &offsets) in self.layout.layers.iter().enumerate() {
            let (x, out) = pair(inputs, memory.slot(layer), memory.slot(layer + 1));
            pass.layer(layer, offsets, x, &mut saved[memory.place(layer)], scratch, out);
        }
        memory.slot(self.layout.layers.len())
    }

    /// Last norm, projection and loss; with `grads`, leaves the gradient of the last layer's output in `dx`.
    fn head(
        &self,
        workspace: &mut Workspace<K>,
        batch: &Batch,
        last: usize,
        grads: Option<&mut Grads<'_, K::Buffer>>,
    ) -> BatchLoss {
        let (n, h, v) = (batch.ids.len(), self.config.hidden_size, self.config.vocab_size);
        let Workspace { inputs, scratch: Some(scratch), dx: Some(dx), head_root: Some(root), .. } = workspace else {
            unreachable!("`fit` made room");
        };
        let (x, norm) = (at(&inputs[last], 0), at(&self.params, self.layout.norm));
        let normed = at_mut(&mut scratch.normed, 0);
        self.kernels.rmsnorm(n, h, self.config.rms_norm_eps, x, norm, normed, at_mut(root, 0));
        let (normed, head) = (at(&scratch.normed, 0), at(&self.params, self.layout.head));
        let mut targets = Targets { tokens: &batch.targets, weights: batch.weights.as_deref(), scale: 0.0 };
        let target_tokens = batch.targets.iter().filter(|&&target| target != IGNORE).count() as u64;
        let Some(grads) = grads else {
            let loss_sum = self.kernels.linear_cross_entropy(n, h, v, normed, head, targets, None);
            return BatchLoss { loss_sum, target_tokens };
        };
        targets.scale = grads.scale;
        let place = if self.layout.head == self.layout.embed { grads.layout.embed } else { grads.layout.head };
        let dw = place.map(|place| (at_mut(grads.weights, place), grads.beta));
        // Until the layers' backward pass of the first micro-batch, their gradients are still to be written.
        let idle = if grads.beta == 0.0 { grads.layout.layers_span.clone() } else { 0..0 };
        let gradients = LossGradients { dx: at_mut(&mut scratch.inner, 0), dw, idle };
        let loss_sum = self.kernels.linear_cross_entropy(n, h, v, normed, head, targets, Some(gradients));
        self.kernels.zero(n * h, at_mut(dx, 0));
        let dnorm = grads.layout.norm.map(|place| (at_mut(grads.weights, place), grads.beta));
        let dnormed = at(&scratch.inner, 0);
        self.kernels.rmsnorm_backward(n, h, x, norm, at(root, 0), dnormed, at_mut(dx, 0), dnorm);
        BatchLoss { loss_sum, target_tokens }
    }

    fn backward(
        &self,
        workspace: &mut Workspace<K>,
        batch: &Batch,
        positions: &[u32],
        dropout: Option<DropoutPass>,
        grads: &mut Grads<'_, K::Buffer>,
    ) {
        let (memory, layers, h) = (workspace.memory, self.layout.layers.len(), self.config.hidden_size);
        let Workspace { inputs, saved, scratch: Some(scratch), rope: Some(rope), dx: Some(dx), .. } = workspace else {
            unreachable!("`fit` made room");
        };
        let pass = self.pass(rope, positions, &batch.doc_lens, dropout);
        for layer in (memory.from..layers).rev() {
            let offsets = self.layout.layers[layer];
            let saved = &mut saved[memory.place(layer)];
            let (x, above) = pair(inputs, memory.slot(layer), memory.slot(layer + 1));
            // The last layer's activations are still there from the forward pass.
            if memory.checkpoint && layer + 1 < layers {
                pass.layer(layer, offsets, x, saved, scratch, above);
            }
            let mut own = LayerGrads {
                weights: grads.weights,
                places: grads.layout.layers[layer],
                adapter: grads.adapter.as_deref_mut(),
                beta: grads.beta,
            };
            let wants_dx = layer > memory.from || grads.layout.embed.is_some();
            pass.layer_backward(layer, offsets, x, saved, scratch, dx, wants_dx, &mut own);
        }
        if let Some(place) = grads.layout.embed {
            // A tied embedding already holds the projection's gradient.
            if self.layout.head != self.layout.embed && grads.beta == 0.0 {
                self.kernels.zero(self.config.vocab_size * h, at_mut(grads.weights, place));
            }
            self.kernels.embed_backward(h, &batch.ids, at(dx, 0), at_mut(grads.weights, place));
        }
    }
}

impl Memory {
    /// A pass that is not remembered.
    pub fn none(config: &ModelConfig) -> Self {
        Self { from: config.num_hidden_layers, checkpoint: false }
    }

    /// Which of the inputs holds that of `layer`. Below the first remembered layer two take turns.
    fn slot(self, layer: usize) -> usize {
        if layer <= self.from { layer % 2 } else { 2 + layer - self.from - 1 }
    }

    /// Which of the saved activations are those of `layer`.
    fn place(self, layer: usize) -> usize {
        if self.checkpoint || layer < self.from { 0 } else { layer - self.from }
    }
}

impl<K: Kernels> Workspace<K> {
    /// A workspace without room; the first batch makes it.
    pub fn new(memory: Memory) -> Self {
        Self {
            memory,
            tokens: 0,
            positions: 0,
            inputs: Vec::new(),
            saved: Vec::new(),
            scratch: None,
            dx: None,
            head_root: None,
            rope: None,
        }
    }

    /// Makes room for a batch of `tokens` with positions below `positions`, if there is less.
    pub(crate) fn fit(&mut self, model: &Model<K>, tokens: usize, positions: usize) {
        let (kernels, config) = (&model.kernels, &model.config);
        if positions > self.positions {
            self.positions = positions.next_multiple_of(128);
            self.rope = Some(rope_table(kernels, config, self.positions));
        }
        if tokens <= self.tokens {
            return;
        }
        // What there was goes first, so that both are never there together.
        self.inputs.clear();
        self.saved.clear();
        (self.scratch, self.dx, self.head_root) = (None, None, None);
        let (layers, h) = (config.num_hidden_layers, config.hidden_size);
        let remembered = layers - self.memory.from.min(layers);
        let width = model.lora.as_ref().map_or(0, Lora::width);
        self.inputs = (0..2 + remembered).map(|_| kernels.alloc(tokens * h)).collect();
        let saved = if self.memory.checkpoint { 1 } else { remembered.max(1) };
        self.saved = (0..saved).map(|_| Saved::alloc(kernels, config, tokens, width)).collect();
        self.scratch = Some(Scratch::alloc(kernels, config, tokens, model.lora.as_ref()));
        self.dx = Some(kernels.alloc(tokens * h));
        self.head_root = Some(kernels.alloc(tokens));
        self.tokens = tokens;
    }

    /// Bytes of room.
    pub fn bytes(&self, kernels: &K) -> u64 {
        let len = |buffer: &K::Buffer| kernels.len(buffer) as u64;
        let saved = |s: &Saved<K::Buffer>| {
            [&s.input_root, &s.qkv, &s.attention, &s.lse, &s.mid, &s.mid_root, &s.gate_up, &s.adapted]
                .into_iter()
                .map(len)
                .sum::<u64>()
        };
        let scratch = |s: &Scratch<K::Buffer>| {
            [&s.normed, &s.inner, &s.dqkv, &s.small, &s.dropped, &s.spread].into_iter().map(len).sum::<u64>()
        };
        let single = [&self.dx, &self.head_root, &self.rope].into_iter().flatten().map(len).sum::<u64>();
        4 * (self.inputs.iter().map(len).sum::<u64>()
            + self.saved.iter().map(saved).sum::<u64>()
            + self.scratch.as_ref().map_or(0, scratch)
            + single)
    }
}

/// Two of the buffers, one to read and one to write.
fn pair<B>(buffers: &mut [B], read: usize, write: usize) -> (&B, &mut B) {
    let [read, write] = buffers.get_disjoint_mut([read, write]).expect("neighbouring layers use different buffers");
    (read, write)
}

/// Cosines and sines per position, `[positions, head_dim]`: half a row each. Frequencies and angles are rounded to f32
/// where transformers rounds them (`modeling_rope_utils.py`), so that far positions agree too.
pub fn rope_table<K: Kernels>(kernels: &K, config: &ModelConfig, positions: usize) -> K::Buffer {
    let half = config.head_dim / 2;
    let frequencies: Vec<f32> = (0..half)
        .map(|index| {
            let exponent = (2 * index) as f32 / config.head_dim as f32;
            let power = config.rope_theta.powf(f64::from(exponent)) as f32;
            scaled_frequency(1.0 / power, config.rope_scaling)
        })
        .collect();
    let mut table = Vec::with_capacity(positions * config.head_dim);
    for position in 0..positions {
        let angle = |frequency: &f32| f64::from(position as f32 * frequency);
        table.extend(frequencies.iter().map(|frequency| angle(frequency).cos() as f32));
        table.extend(frequencies.iter().map(|frequency| angle(frequency).sin() as f32));
    }
    let mut buffer = kernels.alloc(table.len());
    kernels.upload(&table, at_mut(&mut buffer, 0));
    buffer
}

/// `_compute_linear_scaling_rope_parameters` and `_compute_llama3_parameters` of transformers.
fn scaled_frequency(frequency: f32, scaling: Option<RopeScaling>) -> f32 {
    match scaling {
        None => frequency,
        Some(RopeScaling::Linear { factor }) => frequency / factor as f32,
        Some(RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings }) => {
            let wavelength = std::f64::consts::TAU / f64::from(frequency);
            let original = original_max_position_embeddings;
            if wavelength > original / low_freq_factor {
                frequency / factor as f32
            } else if wavelength < original / high_freq_factor {
                frequency
            } else {
                let smooth = (original / wavelength - low_freq_factor) / (high_freq_factor - low_freq_factor);
                let (frequency, factor) = (f64::from(frequency), factor);
                ((1.0 - smooth) * frequency / factor + smooth * frequency) as f32
            }
        }
    }
}
