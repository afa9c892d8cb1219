//! What a trainer is told: what is trained of a model and how, and what of it cannot be.

use std::collections::BTreeSet;

use crate::EngineError;
use crate::adapter::lora::LoraConfig;
use crate::architecture::config::ModelConfig;
use crate::optim::{AdamWConfig, Lisa, Rules};

/// What is trained of the model's own weights. With an adapter, these are what its config says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trainable {
    /// Everything.
    All,
    /// The tensors with these names.
    Named(BTreeSet<String>),
}

/// How to train.
#[derive(Debug, Clone, PartialEq)]
pub struct TrainerOptions {
    /// Which of the model's own weights.
    pub trainable: Trainable,
    /// Train an adapter too. Its config says which weights are not frozen beside it (`modules_to_save`).
    pub lora: Option<LoraConfig>,
    /// Keep only layer inputs for the backward pass and compute the rest again.
    pub gradient_checkpointing: bool,
    /// Of the adapter's start and of dropout.
    pub seed: u64,
    /// Optimizer constants.
    pub adamw: AdamWConfig,
    /// What some tensors have of their own.
    pub rules: Rules,
    /// Train some layers at a time.
    pub lisa: Option<Lisa>,
    /// Noise of the embedding in training, none without it: each element of a text of `L` tokens is moved by up to
    /// `alpha / sqrt(L * h)` (Jain et al., "NEFTune: noisy embeddings improve instruction finetuning").
    pub neftune: Option<f64>,
}

impl Default for TrainerOptions {
    /// All weights, nothing special.
    fn default() -> Self {
        Self {
            trainable: Trainable::All,
            lora: None,
            gradient_checkpointing: false,
            seed: 0,
            adamw: AdamWConfig::default(),
            rules: Rules::default(),
            lisa: None,
            neftune: None,
        }
    }
}

/// That layers can be drawn so.
pub(crate) fn check_lisa(lisa: Lisa, layers: usize, options: &TrainerOptions) -> Result<(), EngineError> {
    let wrong = |reason: String| Err(EngineError::Options { reason });
    if options.lora.is_some() {
        return wrong("layers are drawn of a model's own weights, not of an adapter".into());
    }
    if lisa.layers == 0 || lisa.layers > layers {
        return wrong(format!("{} layers are trained at a time, but the model has {layers}", lisa.layers));
    }
    if lisa.interval == 0 {
        return wrong("layers are trained for 0 steps".into());
    }
    Ok(())
}

/// That a model can have such an adapter.
pub(crate) fn check_lora(lora: &LoraConfig, config: &ModelConfig) -> Result<(), EngineError> {
    let wrong = |reason: String| Err(EngineError::Options { reason });
    if lora.r == 0 || lora.ranks.values().any(|&r| r == 0) {
        return wrong("the adapter's rank is 0".into());
    }
    if lora.modules.has_head() && config.scores.is_some() {
        return wrong("the model has a head of scores and no output projection to adapt".into());
    }
    if lora.modules.names(config).is_empty() {
        return wrong("the adapter has no target modules".into());
    }
    if lora.use_dora && lora.modules.has_head() {
        return wrong("the output projection cannot have a DoRA adapter".into());
    }
    if lora.modules.has_parameters() && (lora.use_dora || lora.dropout > 0.0) {
        return wrong("an adapter of experts has neither dropout nor lengths of rows (DoRA), as in PEFT".into());
    }
    if !(0.0..1.0).contains(&lora.dropout) {
        return wrong(format!("the adapter's dropout is {}, not in 0..1", lora.dropout));
    }
    if let Some(module) = lora.saved.adapted(config, &lora.modules) {
        return wrong(format!("`{module}` has an adapter and is trained itself"));
    }
    let layers = config.num_hidden_layers;
    match lora.modules.beyond(layers) {
        Some(layer) => wrong(format!("the adapter is for layer {layer}, but the model has {layers}")),
        None => Ok(()),
    }
}
