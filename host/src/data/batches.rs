//! Where the micro-batches of a step come from: so far, samples that are known before the run, in the order of each epoch.

use engine::kernels::Kernels;
use engine::model::Model;
use engine::{Batch, EngineError};

use super::cursor::{Cursor, Position};
use super::dataset::Example;
use super::packing::{BatchOptions, assemble};

/// A source of steps. The same position, with the same config, data and weights, gives the same steps from there on.
pub trait Batches {
    /// What a step takes: documents with their targets, and what else its objective needs to know of them.
    type Batch: AsRef<Batch>;

    /// The micro-batches of the next optimizer step. `model` is for batches of what it writes.
    ///
    /// # Errors
    /// Whatever the model cannot do.
    fn next_step<K: Kernels>(&mut self, model: &Model<K>) -> Result<Vec<Self::Batch>, EngineError>;

    /// Where the next step starts.
    fn position(&self) -> Position;

    /// Passes over the data so far, as a fraction.
    fn epochs(&self) -> f64;
}

/// All samples of a dataset, epoch by epoch.
#[derive(Debug)]
pub struct Epochs<'a> {
    examples: &'a [Example],
    cursor: Cursor,
    accumulation: usize,
}

impl<'a> Epochs<'a> {
    /// Steps of up to `accumulation` micro-batches, from `position` on.
    pub fn new(examples: &'a [Example], options: BatchOptions, accumulation: usize, position: Position) -> Self {
        let lengths = examples.iter().map(|example| example.tokens.ids.len()).collect();
        Self { examples, cursor: Cursor::new(lengths, options, position), accumulation }
    }
}

impl Batches for Epochs<'_> {
    type Batch = Batch;

    fn next_step<K: Kernels>(&mut self, _: &Model<K>) -> Result<Vec<Batch>, EngineError> {
        let steps = self.cursor.next_step(self.accumulation);
        let tokens = |&sample: &usize| &self.examples[sample].tokens;
        Ok(steps.iter().map(|samples| assemble(samples.iter().map(tokens))).collect())
    }

    fn position(&self) -> Position {
        self.cursor.position()
    }

    fn epochs(&self) -> f64 {
        self.cursor.epochs()
    }
}
