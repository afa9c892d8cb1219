//! What a forward pass takes.

use std::ops::Range;

use crate::{EngineError, IGNORE};

/// Documents put end to end. Attention stays inside each document and positions restart at each, so the result is the
/// same as for one padded row per document.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Batch {
    /// Token ids of all documents, `[tokens]`.
    pub ids: Vec<u32>,
    /// For each position the token that should follow, or [`IGNORE`], `[tokens]`.
    pub targets: Vec<u32>,
    /// Loss weight of each target, `[tokens]`; none means 1 everywhere.
    pub weights: Option<Vec<f32>>,
    /// Tokens of each document, in order; their sum is `tokens`.
    pub doc_lens: Vec<u32>,
}

impl AsRef<Batch> for Batch {
    fn as_ref(&self) -> &Batch {
        self
    }
}

impl Batch {
    /// The positions of each document.
    pub fn documents(&self) -> impl Iterator<Item = Range<usize>> {
        let mut from = 0;
        self.doc_lens.iter().map(move |&length| {
            from += length as usize;
            from - length as usize..from
        })
    }

    /// The positions of each document that have a target.
    pub fn learned(&self) -> impl Iterator<Item = Vec<usize>> {
        self.documents().map(|document| document.filter(|&index| self.targets[index] != IGNORE).collect())
    }

    /// How much its targets weigh: their number, or the sum of their weights.
    pub fn target_weight(&self) -> f64 {
        let is_target = |&(_, &target): &(usize, &u32)| target != IGNORE;
        let weight = |(index, _)| self.weights.as_ref().map_or(1.0, |weights: &Vec<f32>| f64::from(weights[index]));
        self.targets.iter().enumerate().filter(is_target).map(weight).sum()
    }

    /// Checks that the parts fit together, every id is a row of the embedding, and every target below `targets`: the rows of
    /// the output projection, or the labels of a head of scores.
    ///
    /// # Errors
    /// [`EngineError::Batch`] names what does not fit.
    pub fn validate(&self, vocab_size: usize, targets: usize) -> Result<(), EngineError> {
        let wrong = |reason: String| Err(EngineError::Batch { reason });
        let tokens = self.ids.len();
        if tokens == 0 {
            return wrong("it has no tokens".into());
        }
        if self.targets.len() != tokens {
            return wrong(format!("{tokens} ids but {} targets", self.targets.len()));
        }
        if self.weights.as_ref().is_some_and(|weights| weights.len() != tokens) {
            return wrong(format!("{tokens} ids but another number of weights"));
        }
        if self.doc_lens.contains(&0) {
            return wrong("a document has no tokens".into());
        }
        let documents: u64 = self.doc_lens.iter().map(|&length| u64::from(length)).sum();
        if documents != tokens as u64 {
            return wrong(format!("{tokens} ids, but the documents have {documents}"));
        }
        let beyond = |limit: usize| move |id: &&u32| **id as usize >= limit;
        if let Some(id) = self.ids.iter().find(beyond(vocab_size)) {
            return wrong(format!("token id {id} is outside the vocabulary of {vocab_size}"));
        }
        if let Some(id) = self.targets.iter().filter(|&&target| target != IGNORE).find(beyond(targets)) {
            let of = if targets == vocab_size { "vocabulary" } else { "labels" };
            return wrong(format!("target id {id} is outside the {of} of {targets}"));
        }
        Ok(())
    }
}
