//! What the model is asked about a sample before it is trained.

use engine::kernels::Kernels;
use engine::objective::document_log_probs;
use engine::{EngineError, Trainer};

use crate::data::dataset::Example;
use crate::data::packing::assemble;
use crate::data::unpaired::mismatched;

/// What the reference is asked about a sample: the sum of the log-probabilities of which answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// The chosen and the rejected one.
    Pair,
    /// The one that there is.
    Answer,
    /// That, and the answer to another prompt.
    AnswerAndMismatched,
}

impl Asked {
    /// The columns of TRL's datasets that say the same.
    pub(super) fn columns(self) -> &'static [&'static str] {
        match self {
            Self::Pair => &["ref_chosen_logps", "ref_rejected_logps"],
            Self::Answer => &["ref_logps"],
            Self::AnswerAndMismatched => &["ref_logps", "ref_KL_logps"],
        }
    }

    /// Numbers of a sample.
    pub(super) fn width(self) -> usize {
        self.columns().len()
    }

    /// What the trainer says of some samples, the numbers of each one after the other. No pass is larger than one of training.
    pub(super) fn ask<K: Kernels>(
        self,
        trainer: &mut Trainer<K>,
        examples: &[Example],
        samples: &[usize],
        sequence_len: usize,
    ) -> Result<Vec<f64>, EngineError> {
        let batch = assemble(samples.iter().flat_map(|&sample| examples[sample].documents()));
        let own = document_log_probs(trainer, &batch)?;
        if self != Self::AnswerAndMismatched {
            return Ok(own);
        }
        let others: Vec<_> = samples.iter().map(|&sample| mismatched(examples, sample, sequence_len)).collect();
        let others = document_log_probs(trainer, &assemble(&others))?;
        Ok(own.into_iter().zip(others).flat_map(<[f64; 2]>::from).collect())
    }
}
