//! What a run does that takes memory, as sizes.

use crate::{Batch, IGNORE};

/// Sizes of a batch; of several batches, the largest of each.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BatchShape {
    /// Tokens in all.
    pub tokens: usize,
    /// Tokens that are learned.
    pub targets: usize,
    /// Tokens of the longest document.
    pub longest: usize,
}

/// Prompts that are completed together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GenerationShape {
    /// How many.
    pub prompts: usize,
    /// Tokens of the longest.
    pub longest: usize,
    /// Tokens that are written at most.
    pub max_new_tokens: usize,
}

/// What a run does that takes memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Workload {
    /// Its largest micro-batch.
    pub train: BatchShape,
    /// A step has more than one micro-batch.
    pub accumulates: bool,
    /// The largest batch of an evaluation.
    pub eval: Option<BatchShape>,
    /// The largest batch that the model as it was is asked about ([`Trainer::keep_reference`](crate::Trainer::keep_reference)).
    pub reference: Option<BatchShape>,
    /// What an evaluation generates.
    pub generation: Option<GenerationShape>,
}

impl GenerationShape {
    /// The larger of two in each size.
    #[must_use]
    pub fn max(self, other: Self) -> Self {
        Self {
            prompts: self.prompts.max(other.prompts),
            longest: self.longest.max(other.longest),
            max_new_tokens: self.max_new_tokens.max(other.max_new_tokens),
        }
    }
}

impl BatchShape {
    /// The larger of two in each size.
    #[must_use]
    pub fn max(self, other: Self) -> Self {
        Self {
            tokens: self.tokens.max(other.tokens),
            targets: self.targets.max(other.targets),
            longest: self.longest.max(other.longest),
        }
    }

    /// Some batch of these sizes.
    pub(crate) fn batch(self) -> Batch {
        let tokens = self.tokens.max(1);
        let longest = self.longest.clamp(1, tokens);
        let doc_lens = (0..tokens).step_by(longest).map(|start| (tokens - start).min(longest) as u32).collect();
        let targets = (0..tokens).map(|index| if index < self.targets { 0 } else { IGNORE }).collect();
        Batch { ids: vec![0; tokens], targets, weights: None, doc_lens }
    }
}
