//! Another model, which is asked for its distributions and never trained.

use crate::adapter::lora::DropoutPass;
use crate::kernels::Kernels;
use crate::model::divergence::{Comparison, ComparisonGradients, Divergence, Divergences};
use crate::model::{Grads, Model, Recompute, Workspace};
use crate::workload::BatchShape;
use crate::{Batch, EngineError};

/// The other model.
#[derive(Debug)]
pub(crate) struct Teacher<K: Kernels> {
    model: Model<K>,
    workspace: Workspace<K>,
    /// Room to compare what it says with what `own` says.
    comparison: Comparison<K::Buffer>,
}

/// What is learned of a comparison.
pub(crate) struct Learning<'a, 'g, B> {
    /// What the pass drops.
    pub(crate) dropout: DropoutPass,
    /// Factor of the gradients.
    pub(crate) scale: f64,
    /// Where they go.
    pub(crate) grads: &'a mut Grads<'g, B>,
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
        model.make_room(&mut workspace, shape.tokens, shape.longest, false);
        let comparison = Comparison::alloc(own, &model);
        Ok(Self { model, workspace, comparison })
    }

    /// How far the distributions of `own` are from its own where `batch` has targets, and with `learning` the gradients of that.
    /// `workspace` is that of `own`.
    pub(crate) fn compare(
        &mut self,
        divergence: Divergence,
        own: &Model<K>,
        workspace: &mut Workspace<K>,
        batch: &Batch,
        learning: Option<Learning<'_, '_, K::Buffer>>,
    ) -> Result<Divergences, EngineError> {
        let Self { model, workspace: theirs, comparison } = self;
        model.temperature = own.temperature;
        let said = model.hidden(theirs, batch, None, false)?;
        model.kernels.check()?;
        let dropout = learning.as_ref().map(|learning| learning.dropout);
        let rows = own.hidden(workspace, batch, dropout, learning.is_some())?;
        let (ours, theirs) = ((own, &rows[..]), (&*model, &said[..]));
        let Some(Learning { scale, grads, .. }) = learning else {
            return Ok(comparison.compare(divergence, ours, theirs, None));
        };
        let mut dx = vec![0.0; rows.len()];
        let dw = own.head_place(grads.layout).map(|place| (&mut *grads.weights, place, grads.beta));
        let of_rows = ComparisonGradients { scale: scale as f32, dx: &mut dx, dw };
        let found = comparison.compare(divergence, ours, theirs, Some(of_rows));
        own.hidden_backward(workspace, batch, &dx, dropout, grads);
        Ok(found)
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
