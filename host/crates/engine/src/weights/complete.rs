//! A checkpoint that is not quite the model that is made of it: its vocabulary is smaller, or its output projection is the
//! embedding where the model's is a tensor of its own. What it lacks is made while it is read.

use std::collections::HashMap;

use super::files::{PIECE, Sink};
use crate::architecture::config::ModelConfig;
use crate::architecture::stored::NewRows;
use crate::architecture::tensors::{Role, TensorSpec};
use crate::rng;

/// The output projection's name.
const HEAD: &str = "lm_head.weight";
/// Digits are enough for a sum over any vocabulary: sums are in f64.
type Sums = Vec<f64>;

/// Hands on what is read of a checkpoint, and what the model has beyond it.
pub(super) struct Completed<'a, 'b> {
    config: &'a ModelConfig,
    sink: &'a mut Sink<'b>,
    sums: HashMap<String, Sums>,
    embedding: String,
}

impl<'a, 'b> Completed<'a, 'b> {
    pub(super) fn new(config: &'a ModelConfig, sink: &'a mut Sink<'b>) -> Self {
        let is_embedding = |spec: &TensorSpec| spec.role == Role::Embedding;
        let embedding = config.parameters().into_iter().find(is_embedding).map_or_else(String::new, |spec| spec.name);
        Self { config, sink, sums: HashMap::new(), embedding }
    }

    /// A piece of a tensor of the checkpoint.
    pub(super) fn take(&mut self, name: &str, start: usize, values: &[f32]) {
        let is_embedding = name == self.embedding;
        self.hand_on(name, is_embedding, start, values);
        let stored = self.config.stored();
        if !(is_embedding || name == HEAD) || stored.vocab_size == self.config.vocab_size {
            return;
        }
        let h = self.config.hidden_size;
        let sums = self.sums.entry(name.to_owned()).or_insert_with(|| vec![0.0; h]);
        for (index, value) in values.iter().enumerate() {
            sums[(start + index) % h] += f64::from(*value);
        }
        let end = stored.vocab_size * h;
        if start + values.len() == end {
            let mean: Vec<f32> = sums.iter().map(|sum| (sum / stored.vocab_size as f64) as f32).collect();
            let rows = new_rows(self.config, name, &mean);
            for (piece, values) in rows.chunks(PIECE).enumerate() {
                self.hand_on(name, is_embedding, end + piece * PIECE, values);
            }
        }
    }

    fn hand_on(&mut self, name: &str, is_embedding: bool, start: usize, values: &[f32]) {
        (self.sink)(name, start, values);
        if is_embedding && self.config.stored().tie_word_embeddings && !self.config.tie_word_embeddings {
            (self.sink)(HEAD, start, values);
        }
    }
}

/// The rows of a tensor that follow those that the checkpoint has.
pub(crate) fn rows_after(config: &ModelConfig, name: &str, values: &[f32]) -> Vec<f32> {
    let (h, rows) = (config.hidden_size, config.stored().vocab_size as f64);
    let mut sums = vec![0.0; h];
    for row in values.chunks_exact(h) {
        for (sum, value) in sums.iter_mut().zip(row) {
            *sum += f64::from(*value);
        }
    }
    let mean: Vec<f32> = sums.into_iter().map(|sum: f64| (sum / rows) as f32).collect();
    new_rows(config, name, &mean)
}

/// The rows of a tensor that the checkpoint does not have, from the mean of those that it has.
fn new_rows(config: &ModelConfig, name: &str, mean: &[f32]) -> Vec<f32> {
    let count = config.new_rows() * config.hidden_size;
    match config.stored().new_rows {
        NewRows::Mean => mean.iter().copied().cycle().take(count).collect(),
        NewRows::Normal(seed) => {
            let (stream, scale) = (rng::stream_of(&format!("new rows of {name}")), config.initializer_range as f32);
            (0..count).map(|index| scale * rng::normal_at(seed, stream, index as u64)).collect()
        }
    }
}
