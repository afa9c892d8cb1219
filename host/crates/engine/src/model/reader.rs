//! A model that reads: what it says of texts, for whoever judges texts by it. Nothing is trained, and nothing is kept from batch
//! to batch but the memory of a pass, which grows to that of the largest batch.
//!
//! On the CPU without AMX, what is said of a document has the same bits whatever is beside it in the batch, for any number of
//! threads.

use rayon::prelude::*;

use super::causal_lm::Model;
use super::divergence::{LOGITS, logits_of};
use super::workspace::{Recompute, Workspace};
use crate::kernels::cpu::CpuKernels;
use crate::kernels::{Format, Kernels};
use crate::{Batch, EngineError, IGNORE};

/// A model without an adapter and with an output projection, and the memory of its passes.
#[derive(Debug)]
pub struct Reader<K: Kernels = CpuKernels> {
    model: Model<K>,
    workspace: Workspace<K>,
    /// Rows of some positions and their logits, `[rows, h]` and `[rows, vocabulary]`; none until they are asked for.
    room: Option<[K::Buffer; 2]>,
}

impl<K: Kernels> Reader<K> {
    /// Of a model whose weights are loaded.
    ///
    /// # Errors
    /// [`EngineError::Options`] for a model with a head of scores, or with an adapter of its output projection.
    pub fn new(model: Model<K>) -> Result<Self, EngineError> {
        let wrong = |reason: &str| Err(EngineError::Options { reason: reason.to_owned() });
        if model.config.scores.is_some() {
            return wrong("the model scores texts and has no distributions of tokens");
        }
        if model.lora.as_ref().is_some_and(|lora| lora.head().is_some()) {
            return wrong("the output projection of a model that reads cannot have an adapter");
        }
        let workspace = Workspace::new(Recompute::none(&model.config));
        Ok(Self { model, workspace, room: None })
    }

    /// Its model.
    pub fn model(&self) -> &Model<K> {
        &self.model
    }

    /// Bytes of weights and passes on the device, so far.
    pub fn bytes(&self) -> u64 {
        let Model { kernels, params, words, .. } = &self.model;
        let buffers = [params, words].into_iter().chain(self.room.iter().flatten());
        buffers.map(|buffer| kernels.bytes(buffer)).sum::<u64>() + self.workspace.bytes(kernels)
    }

    /// The log-probability of each position's target, `[tokens]`, in nats; 0 where there is none.
    ///
    /// # Errors
    /// [`EngineError::Batch`] for a batch that does not fit together, [`EngineError::Device`] for a device that fails.
    pub fn log_probs(&mut self, batch: &Batch) -> Result<Vec<f32>, EngineError> {
        let Self { model, workspace, .. } = self;
        let log_probs = model.kernels.within(|| {
            model.forward_pass(workspace, batch, None, false)?;
            Ok::<_, EngineError>(workspace.outputs(&model.kernels, &model.config, batch))
        })?;
        self.model.kernels.check()?;
        Ok(log_probs)
    }

    /// Whether each position's target is the token that the model finds most likely there, `[tokens]`; false where there is
    /// none. Of several that are equally likely, the one with the lowest id is meant.
    ///
    /// # Errors
    /// As [`Self::log_probs`].
    pub fn hits(&mut self, batch: &Batch) -> Result<Vec<bool>, EngineError> {
        let learned: Vec<usize> = batch.learned().flatten().collect();
        let rows = self.rows(batch, &learned)?;
        let mut hits = vec![false; batch.ids.len()];
        let mut positions = learned.iter();
        self.each_logits(&rows, |logits, v| {
            let likeliest: Vec<usize> = logits.par_chunks_exact(v).map(largest).collect();
            for (&position, id) in positions.by_ref().zip(likeliest) {
                hits[position] = batch.targets[position] as usize == id;
            }
        })?;
        Ok(hits)
    }

    /// Logits of the token that follows each document, `[documents, vocabulary]`. The targets of the batch are not looked at.
    ///
    /// # Errors
    /// As [`Self::log_probs`].
    pub fn next_logits(&mut self, batch: &Batch) -> Result<Vec<f32>, EngineError> {
        let ends: Vec<usize> = batch.documents().filter_map(Iterator::last).collect();
        let rows = self.rows(batch, &ends)?;
        let mut all = Vec::with_capacity(ends.len() * self.model.config.vocab_size);
        self.each_logits(&rows, |logits, _| all.extend_from_slice(logits))?;
        Ok(all)
    }

    /// The last hidden states, `[tokens, h]`: what stands behind the last norm, times the model's factor of logits where it has
    /// one. The targets of the batch are not looked at.
    ///
    /// # Errors
    /// As [`Self::log_probs`].
    pub fn hidden(&mut self, batch: &Batch) -> Result<Vec<f32>, EngineError> {
        let all: Vec<usize> = (0..batch.ids.len()).collect();
        self.rows(batch, &all)
    }

    /// What the output projection reads at some positions, `[positions, h]`.
    fn rows(&mut self, batch: &Batch, positions: &[usize]) -> Result<Vec<f32>, EngineError> {
        let Self { model, workspace, .. } = self;
        // No loss is made of it.
        let plain = Batch { targets: vec![IGNORE; batch.targets.len()], weights: None, ..batch.clone() };
        let rows = model.kernels.within(|| model.hidden_at(workspace, &plain, positions, None, false))?;
        self.model.kernels.check()?;
        Ok(rows)
    }

    /// Hands out the logits of rows in their order, some rows at a time, with the length of a row.
    fn each_logits(&mut self, rows: &[f32], mut take: impl FnMut(&[f32], usize)) -> Result<(), EngineError> {
        let Self { model, room, .. } = self;
        let (kernels, h, v) = (&model.kernels, model.config.hidden_size, model.config.vocab_size);
        let count = (LOGITS / v).max(1);
        let [x, made] = room
            .get_or_insert_with(|| [kernels.alloc(Format::Working, count * h), kernels.alloc(Format::F32, count * v)]);
        let mut logits = Vec::new();
        for rows in rows.chunks(count * h) {
            logits.resize(rows.len() / h * v, 0.0);
            logits_of(model, rows, x, made, &mut logits);
            take(&logits, v);
        }
        Ok(kernels.check()?)
    }
}

/// The first of the largest.
fn largest(logits: &[f32]) -> usize {
    let mut best = 0;
    for (id, logit) in logits.iter().enumerate() {
        if *logit > logits[best] {
            best = id;
        }
    }
    best
}
