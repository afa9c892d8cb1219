//! What the model is asked about a sample before it is trained.

use engine::Trainer;
use engine::kernels::Kernels;
use engine::objective::document_log_probs;

use crate::data::dataset::Example;
use crate::data::packing::assemble;
use crate::data::set::Set;
use crate::data::unpaired::mismatched;
use crate::diagnostic::Failure;

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
        set: &Set,
        samples: &[usize],
        sequence_len: usize,
    ) -> Result<Vec<f64>, Failure> {
        let batch = assemble(set.some(samples)?.iter().flat_map(Example::documents));
        let own = document_log_probs(trainer, &batch)?;
        if self != Self::AnswerAndMismatched {
            return Ok(own);
        }
        let others = samples.iter().map(|&sample| mismatched(set, sample, sequence_len));
        let others: Vec<_> = others.collect::<Result<_, _>>()?;
        let others = document_log_probs(trainer, &assemble(&others))?;
        Ok(own.into_iter().zip(others).flat_map(<[f64; 2]>::from).collect())
    }
}
