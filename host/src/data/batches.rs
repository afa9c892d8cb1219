//! Where the micro-batches of a step come from. Here are those of samples that are known before the run, in the order of each
//! epoch; what the model writes itself is in `rl`.

use std::collections::BTreeMap;

use engine::kernels::Kernels;
use engine::objective::{Pairs, ScoredPairs, WholePairs};
use engine::{Batch, IGNORE, Trainer};
use serde_json::Value;

use super::cursor::{Cursor, Position};
use super::dataset::Example;
use super::packing::{BatchOptions, assemble};
use super::set::Set;
use super::store::StoreError;
use crate::diagnostic::{Diagnostic, Failure};

/// A source of steps. The same position, with the same config, data and weights, gives the same steps from there on.
pub trait Batches {
    /// What a step takes: documents with their targets, and what else its objective needs to know of them.
    type Batch: AsRef<Batch>;

    /// The micro-batches of the next optimizer step. The trainer is for batches of what its model writes.
    ///
    /// # Errors
    /// Whatever model or plugins cannot do.
    fn next_step<K: Kernels>(&mut self, trainer: &mut Trainer<K>) -> Result<Vec<Self::Batch>, Failure>;

    /// Where the next step starts.
    fn position(&self) -> Position;

    /// Passes over the data so far, as a fraction.
    fn epochs(&self) -> f64;

    /// What a checkpoint must keep beside the position.
    fn kept(&self) -> Vec<KeptFile> {
        Vec::new()
    }

    /// What is to be told of the step that was asked for last, beside what its objective tells.
    fn told(&mut self) -> Told {
        Told::default()
    }
}

/// What a source tells of a step.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Told {
    /// Sums and how many values they are of, by TRL's names.
    means: BTreeMap<String, (f64, u64)>,
    /// Things that are counted.
    counts: BTreeMap<String, u64>,
    /// Lines of `completions.jsonl`.
    pub lines: Vec<Value>,
    /// What a person should know.
    pub remarks: Vec<Diagnostic>,
}

impl Told {
    /// One value of a number whose mean over the step is told; one that is not finite is none.
    pub fn metric(&mut self, name: &str, value: f64) {
        if value.is_finite() {
            let (sum, count) = self.means.entry(name.to_owned()).or_default();
            (*sum, *count) = (*sum + value, *count + 1);
        }
    }

    /// Adds to a count.
    pub fn count(&mut self, name: &str, count: u64) {
        *self.counts.entry(name.to_owned()).or_default() += count;
    }

    /// The numbers for `metrics.jsonl`.
    pub fn metrics(&self) -> impl Iterator<Item = (String, f64)> {
        let means = self.means.iter().map(|(name, &(sum, count))| (name.clone(), sum / count as f64));
        means.chain(self.counts.iter().map(|(name, &count)| (name.clone(), count as f64)))
    }
}

/// A file of a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptFile {
    /// Its name.
    pub name: &'static str,
    /// Its content.
    pub bytes: Vec<u8>,
}

/// What samples of a dataset are to an objective.
pub trait Samples {
    /// Documents with their targets, and what else the objective needs to know of them.
    type Batch: AsRef<Batch>;

    /// All of them.
    fn set(&self) -> &Set;

    /// What a checkpoint must keep of what was found out about them.
    fn kept(&self) -> Vec<KeptFile> {
        Vec::new()
    }

    /// Some as one batch, by their numbers.
    ///
    /// # Errors
    /// Samples that cannot be read.
    fn batch(&self, samples: &[usize]) -> Result<Self::Batch, StoreError>;

    /// All in their order, so many a batch.
    ///
    /// # Errors
    /// Samples that cannot be read.
    fn chunks(&self, size: usize) -> Result<Vec<Self::Batch>, StoreError> {
        let all: Vec<usize> = (0..self.set().len()).collect();
        all.chunks(size.max(1)).map(|samples| self.batch(samples)).collect()
    }
}

/// Texts.
#[derive(Debug, Clone, Copy)]
pub struct Texts<'a>(pub &'a Set);

impl Samples for Texts<'_> {
    type Batch = Batch;

    fn set(&self) -> &Set {
        self.0
    }

    fn batch(&self, samples: &[usize]) -> Result<Batch, StoreError> {
        Ok(assemble(self.0.some(samples)?.iter().map(|example| &example.tokens)))
    }
}

/// Pairs of answers.
#[derive(Debug, Clone, Copy)]
pub struct PairsOf<'a> {
    /// The pairs.
    pub set: &'a Set,
    /// What the reference says of them; none for an objective that has none.
    pub reference: Option<&'a [[f64; 2]]>,
    /// The same for a checkpoint.
    pub kept: Option<&'a KeptFile>,
}

impl Samples for PairsOf<'_> {
    type Batch = Pairs;

    fn set(&self) -> &Set {
        self.set
    }

    fn kept(&self) -> Vec<KeptFile> {
        self.kept.into_iter().cloned().collect()
    }

    fn batch(&self, samples: &[usize]) -> Result<Pairs, StoreError> {
        let batch = assemble(self.set.some(samples)?.iter().flat_map(Example::documents));
        let reference = self.reference.map(|reference| samples.iter().flat_map(|&sample| reference[sample]).collect());
        Ok(Pairs { batch, reference: reference.unwrap_or_default() })
    }
}

/// Pairs of answers, the chosen texts of which are learned whole.
#[derive(Debug, Clone, Copy)]
pub struct WholePairsOf<'a>(pub &'a Set);

impl Samples for WholePairsOf<'_> {
    type Batch = WholePairs;

    fn set(&self) -> &Set {
        self.0
    }

    fn batch(&self, samples: &[usize]) -> Result<WholePairs, StoreError> {
        Ok(WholePairs::of_answers(assemble(self.0.some(samples)?.iter().flat_map(Example::documents))))
    }
}

/// Pairs of texts that are scored.
#[derive(Debug, Clone, Copy)]
pub struct ScoredPairsOf<'a> {
    /// The pairs.
    pub set: &'a Set,
    /// The token with which texts are filled: a text is scored at its last other one, as transformers finds it.
    pub pad: Option<u32>,
}

impl Samples for ScoredPairsOf<'_> {
    type Batch = ScoredPairs;

    fn set(&self) -> &Set {
        self.set
    }

    fn batch(&self, samples: &[usize]) -> Result<ScoredPairs, StoreError> {
        let examples = self.set.some(samples)?;
        let mut batch = assemble(examples.iter().flat_map(Example::documents));
        batch.targets.fill(IGNORE);
        for document in batch.documents().collect::<Vec<_>>() {
            let last = batch.ids[document.clone()].iter().rposition(|&id| Some(id) != self.pad);
            // Of nothing but padding, transformers takes the first.
            batch.targets[document.start + last.unwrap_or(0)] = 0;
        }
        let margins: Vec<f64> = examples.iter().map(|example| example.margin.unwrap_or_default()).collect();
        Ok(ScoredPairs { batch, margins })
    }
}

/// Answers in steps with labels: the targets are these.
#[derive(Debug, Clone, Copy)]
pub struct StepsOf<'a>(pub &'a Set);

impl Samples for StepsOf<'_> {
    type Batch = Batch;

    fn set(&self) -> &Set {
        self.0
    }

    fn batch(&self, samples: &[usize]) -> Result<Batch, StoreError> {
        let examples = self.0.some(samples)?;
        let mut batch = assemble(examples.iter().map(|example| &example.tokens));
        let mut labels = examples.iter().flat_map(|example| &example.labels);
        let learned = examples.iter().flat_map(|example| &example.tokens.trained);
        for (target, &learned) in batch.targets.iter_mut().zip(learned) {
            *target = if learned { labels.next().copied().unwrap_or(IGNORE) } else { IGNORE };
        }
        Ok(batch)
    }
}

/// All samples of a dataset, epoch by epoch.
#[derive(Debug)]
pub struct Epochs<S> {
    samples: S,
    cursor: Cursor,
    accumulation: usize,
}

impl<S: Samples> Epochs<S> {
    /// Steps of up to `accumulation` micro-batches, from `position` on.
    ///
    /// # Errors
    /// Samples that cannot be read.
    pub fn new(samples: S, options: BatchOptions, accumulation: usize, position: Position) -> Result<Self, StoreError> {
        let lengths = samples.set().lengths()?;
        Ok(Self { samples, cursor: Cursor::new(lengths, options, position), accumulation })
    }
}

impl<S: Samples> Batches for Epochs<S> {
    type Batch = S::Batch;

    fn next_step<K: Kernels>(&mut self, _: &mut Trainer<K>) -> Result<Vec<S::Batch>, Failure> {
        let steps = self.cursor.next_step(self.accumulation);
        Ok(steps.iter().map(|samples| self.samples.batch(samples)).collect::<Result<_, _>>()?)
    }

    fn position(&self) -> Position {
        self.cursor.position()
    }

    fn epochs(&self) -> f64 {
        self.cursor.epochs()
    }

    fn kept(&self) -> Vec<KeptFile> {
        self.samples.kept()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::tokenize::TokenSample;

    #[test]
    fn a_step_is_judged_where_it_ends() {
        let steps = |trained: &[bool], labels: &[u32]| Example {
            tokens: TokenSample { ids: vec![5; trained.len()], trained: trained.to_vec(), weights: None },
            rejected: None,
            desirable: None,
            margin: None,
            labels: labels.to_vec(),
            row_json: "{}".into(),
            origin: None,
        };
        let examples = [steps(&[false, true, false, true], &[1, 0]), steps(&[true, false], &[1])];
        let batch = StepsOf(&Set::of(&examples).unwrap()).batch(&[1, 0]).unwrap();
        assert_eq!(batch.targets, [1, IGNORE, IGNORE, 1, IGNORE, 0]);
        assert_eq!(batch.doc_lens, [2, 4]);
    }

    #[test]
    fn a_text_is_scored_at_its_last_token_that_is_no_padding() {
        let tokens = |ids: &[u32]| TokenSample { ids: ids.to_vec(), trained: vec![true; ids.len()], weights: None };
        let pair = |chosen: &[u32], rejected: &[u32], margin| Example {
            tokens: tokens(chosen),
            rejected: Some(tokens(rejected)),
            desirable: None,
            margin,
            labels: Vec::new(),
            row_json: "{}".into(),
            origin: None,
        };
        let examples = [pair(&[5, 6, 2], &[5, 2, 7, 2, 2], None), pair(&[2, 2], &[9], Some(0.5))];
        let places = |pad| {
            let pairs = ScoredPairsOf { set: &Set::of(&examples).unwrap(), pad }.batch(&[0, 1]).unwrap();
            assert_eq!(pairs.margins, [0.0, 0.5]);
            pairs.batch.learned().flatten().collect::<Vec<_>>()
        };
        assert_eq!(places(None), [2, 7, 9, 10]);
        assert_eq!(places(Some(0)), [2, 7, 9, 10]);
        assert_eq!(places(Some(2)), [1, 5, 8, 10]);
    }
}
