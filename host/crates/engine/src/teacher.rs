//! Another model, which is asked for its distributions and never trained.

use crate::kernels::Kernels;
use crate::model::divergence::Comparison;
use crate::model::{Model, Recompute, Workspace};
use crate::workload::BatchShape;
use crate::{Batch, EngineError};

/// The other model.
#[derive(Debug)]
pub(crate) struct Teacher<K: Kernels> {
    /// Its weights.
    pub(crate) model: Model<K>,
    workspace: Workspace<K>,
    /// Room to compare what it says with what `own` says.
    pub(crate) comparison: Comparison<K::Buffer>,
}

impl<K: Kernels> Teacher<K> {
    /// Of a model whose weights are loaded, with room for batches of this size.
    ///
    /// # Errors
    /// [`EngineError::Options`] where the two do not say things of the same kind.
    pub(crate) fn new(own: &Model<K>, model: Model<K>, shape: BatchShape) -> Result<Self, EngineError> {
        let wrong = |reason: String| Err(EngineError::Options { reason });
        let (theirs, ours) = (model.config.vocab_size, own.config.vocab_size);
        if theirs != ours {
            return wrong(format!("the teacher has a vocabulary of {theirs} tokens, and the model one of {ours}"));
        }
        if [own, &model].iter().any(|model| model.config.scores.is_some()) {
            return wrong("a model with a head of scores has no distributions to teach or to learn".into());
        }
        if own.lora.as_ref().is_some_and(|lora| lora.head().is_some()) {
            return wrong("with a teacher, the output projection cannot have an adapter".into());
        }
        let mut workspace = Workspace::new(Recompute::none(&model.config));
        workspace.fit(&model, shape.tokens, shape.longest, false);
        let comparison = Comparison::alloc(own, &model);
        Ok(Self { model, workspace, comparison })
    }

    /// What its output projection reads where `batch` has targets, `[targets, h]`, for logits that are divided by
    /// `temperature`.
    pub(crate) fn hidden(&mut self, batch: &Batch, temperature: f32) -> Result<Vec<f32>, EngineError> {
        self.model.temperature = temperature;
        self.model.hidden(&mut self.workspace, batch, None, false)
    }

    /// Bytes of weights.
    pub(crate) fn weight_bytes(&self) -> u64 {
        let Model { kernels, params, words, .. } = &self.model;
        [params, words].into_iter().map(|buffer| kernels.bytes(buffer)).sum()
    }

    /// Bytes of activations and of the comparison.
    pub(crate) fn activation_bytes(&self) -> u64 {
        let kernels = &self.model.kernels;
        let comparison: u64 = self.comparison.buffers().map(|buffer| kernels.bytes(buffer)).sum();
        self.workspace.bytes(kernels) + comparison
    }
}
