//! The memory of a pass: activations that are kept from batch to batch, and what of a forward pass its backward pass finds there.

use super::decoder::{Saved, Scratch};
use super::experts::{ExpertScratch, Routed};
use super::rope::RopeTables;
use super::scores::ScoresScratch;
use super::sharing::Sharing;
use crate::Batch;
use crate::adapter::head::HeadScratch;
use crate::architecture::config::ModelConfig;
use crate::kernels::{Kernels, at};

/// The recompute policy: what of a forward pass is kept for its backward pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recompute {
    /// The first layer that has a backward pass; the number of layers for none.
    pub from: usize,
    /// Remember only each layer's input and compute the rest again (Chen et al., "Training deep nets with sublinear
    /// memory cost").
    pub checkpoint: bool,
}

/// The activations of one batch; the memory is kept from batch to batch.
#[derive(Debug)]
pub struct Workspace<K: Kernels> {
    pub(super) recompute: Recompute,
    pub(super) tokens: usize,
    pub(super) positions: usize,
    /// Inputs of the layers that are remembered; the two first also serve the layers that are not.
    pub(super) inputs: Vec<K::Buffer>,
    pub(super) saved: Vec<Saved<K::Buffer>>,
    pub(super) scratch: Option<Scratch<K::Buffer>>,
    pub(super) dx: Option<K::Buffer>,
    pub(super) head_root: Option<K::Buffer>,
    /// Log-probability of each row's target, `[tokens]`.
    pub(super) log_probs: Option<K::Buffer>,
    /// For an adapter of the output projection.
    pub(super) head: Option<HeadScratch<K::Buffer>>,
    /// For a head of scores.
    pub(super) scores: Option<ScoresScratch<K::Buffer>>,
    pub(super) rope: Option<RopeTables<K::Buffer>>,
    pub(super) staged: Option<K::Staged>,
    /// What documents of the batch share.
    pub(super) sharing: Option<Sharing>,
    pub(super) graphs: K::Graphs,
}

impl Recompute {
    /// Of a pass without a backward pass.
    pub fn none(config: &ModelConfig) -> Self {
        Self { from: config.num_hidden_layers, checkpoint: false }
    }

    /// Which of the inputs holds that of `layer`. Below the first remembered layer two take turns.
    pub(super) fn slot(self, layer: usize) -> usize {
        if layer <= self.from { layer % 2 } else { 2 + layer - self.from - 1 }
    }

    /// Which of the saved activations are those of `layer`.
    pub(super) fn place(self, layer: usize) -> usize {
        if self.checkpoint || layer < self.from { 0 } else { layer - self.from }
    }
}

impl<K: Kernels> Workspace<K> {
    /// Forgets what a device has kept of passes: others have their gradients elsewhere.
    pub(crate) fn forget_passes(&mut self) {
        self.graphs = K::Graphs::default();
    }

    /// A workspace without memory; the first batch takes it.
    pub fn new(recompute: Recompute) -> Self {
        Self {
            recompute,
            tokens: 0,
            positions: 0,
            inputs: Vec::new(),
            saved: Vec::new(),
            scratch: None,
            dx: None,
            head_root: None,
            log_probs: None,
            head: None,
            scores: None,
            rope: None,
            staged: None,
            sharing: None,
            graphs: K::Graphs::default(),
        }
    }

    /// Rows of the last pass, which was over this batch.
    pub(super) fn rows(&self, batch: &Batch) -> usize {
        self.sharing.as_ref().map_or(batch.ids.len(), Sharing::len)
    }

    /// The row of a position of the batch.
    pub(super) fn row(&self, position: usize) -> usize {
        self.sharing.as_ref().map_or(position, |sharing| sharing.row(position))
    }

    /// A copy of what the model said in the last pass, which was over this batch: the log-probability of each position's target, 0
    /// where there is none; with a head of scores those of each position. Waits for the device.
    pub(crate) fn outputs(&self, kernels: &K, config: &ModelConfig, batch: &Batch) -> Vec<f32> {
        let (n, labels) = (self.rows(batch), config.outputs());
        let values = if let Some(scores) = &self.scores {
            scores.outputs(kernels, labels, kernels.padded(n), n)
        } else {
            let mut values = vec![0.0; n];
            kernels.download(at(self.log_probs.as_ref().expect("a pass made room"), 0), &mut values);
            values
        };
        match &self.sharing {
            None => values,
            Some(sharing) => sharing.by_position(&values, labels),
        }
    }

    /// How the tokens of the last pass, which was over this batch, went to the experts; none for a model without some. Waits for
    /// the device.
    pub(crate) fn routed(&self, kernels: &K, config: &ModelConfig, batch: &Batch) -> Option<Routed> {
        let experts: &ExpertScratch<K::Buffer> = self.scratch.as_ref()?.experts.as_ref()?;
        experts.routed(kernels, config, kernels.padded(self.rows(batch)))
    }

    /// Bytes of it.
    pub fn bytes(&self, kernels: &K) -> u64 {
        let saved = self.saved.iter().flat_map(Saved::buffers);
        let scratch = self.scratch.iter().flat_map(Scratch::buffers);
        let single = [&self.dx, &self.head_root, &self.log_probs].into_iter().flatten();
        let rope = self.rope.iter().map(RopeTables::buffer);
        let scores = self.scores.iter().flat_map(ScoresScratch::buffers);
        let all = self.inputs.iter().chain(saved).chain(scratch).chain(single).chain(rope).chain(scores);
        all.map(|buffer| kernels.bytes(buffer)).sum::<u64>() + self.head.as_ref().map_or(0, |head| head.bytes(kernels))
    }
}
