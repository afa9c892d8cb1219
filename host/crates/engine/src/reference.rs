//! The model as it was: a copy of what training moves, made before it moves, and asked what it says of texts that did not exist
//! then. Of an adapter it is the adapter alone.

use crate::kernels::{Format, Kernels, at, at_mut};
use crate::model::{Model, Recompute, Workspace};
use crate::workload::BatchShape;
use crate::{Batch, EngineError};

/// What training moves, as it was.
#[derive(Debug)]
pub(crate) struct Reference<K: Kernels> {
    /// The model's own weights, where some of them are trained.
    params: Option<K::Buffer>,
    /// The adapter.
    adapter: Option<K::Buffer>,
    /// A device keeps work by where its weights are, so these passes have a workspace of their own.
    workspace: Workspace<K>,
}

impl<K: Kernels> Reference<K> {
    /// Of the model as it is now, with room for batches of this size.
    pub(crate) fn of(model: &Model<K>, shape: BatchShape) -> Self {
        let kernels = &model.kernels;
        let copy = |buffer: &K::Buffer, len: usize| {
            let mut copy = kernels.alloc(Format::Working, len);
            kernels.copy(len, at(buffer, 0), at_mut(&mut copy, 0));
            copy
        };
        let mut workspace = Workspace::new(Recompute::none(&model.config));
        model.make_room(&mut workspace, shape.tokens, shape.longest, false);
        Self {
            params: (!model.is_frozen).then(|| copy(&model.params, model.layout.len)),
            adapter: model.lora.as_ref().map(|lora| copy(&lora.params, lora.len())),
            workspace,
        }
    }

    /// What it says of a batch, like [`TrainPass::outputs`](crate::TrainPass::outputs). `model` is as before when this returns.
    pub(crate) fn outputs(&mut self, model: &mut Model<K>, batch: &Batch) -> Result<Vec<f32>, EngineError> {
        self.exchange(model);
        let (as_it_was, Self { workspace, .. }) = (&*model, &mut *self);
        let said = as_it_was.kernels.within(|| {
            as_it_was.forward_pass(workspace, batch, None, false)?;
            Ok::<_, EngineError>(workspace.outputs(&as_it_was.kernels, &as_it_was.config, batch))
        });
        self.exchange(model);
        said
    }

    /// Changes places with the model.
    fn exchange(&mut self, model: &mut Model<K>) {
        if let Some(params) = &mut self.params {
            std::mem::swap(params, &mut model.params);
        }
        if let Some((adapter, lora)) = self.adapter.as_mut().zip(model.lora.as_mut()) {
            std::mem::swap(adapter, &mut lora.params);
            lora.outdate();
        }
        model.measure();
    }

    /// Bytes of weights.
    pub(crate) fn weight_bytes(&self, kernels: &K) -> u64 {
        self.params.iter().chain(&self.adapter).map(|buffer| kernels.bytes(buffer)).sum()
    }

    /// Bytes of activations.
    pub(crate) fn activation_bytes(&self, kernels: &K) -> u64 {
        self.workspace.bytes(kernels)
    }
}
