//! The table of rotations that devices read.

use crate::architecture::config::ModelConfig;
use crate::kernels::{Format, Kernels, View, at, at_mut};

/// The rotations of a model, where devices read them. Where long texts have other frequencies, the rows of a table for them
/// stand behind the others: what rotates a text depends on the text alone, not on what shares its batch. (transformers
/// decides for a whole batch.)
#[derive(Debug)]
pub struct RopeTables<B> {
    buffer: B,
    /// Of each rope, where its table begins.
    places: Vec<usize>,
    /// Rows of a table for texts of one kind.
    positions: usize,
    limit: Option<usize>,
}

impl<B> RopeTables<B> {
    /// For texts of up to `positions` tokens.
    pub fn new<K: Kernels<Buffer = B>>(kernels: &K, config: &ModelConfig, positions: usize) -> Self {
        let limit = config.rope_limit().filter(|&limit| positions > limit);
        let (mut values, mut places) = (Vec::new(), Vec::new());
        for rope in &config.ropes {
            places.push(values.len());
            values.extend(rope.table(positions, false));
            if limit.is_some() {
                values.extend(rope.table(positions, true));
            }
        }
        let mut buffer = kernels.alloc(Format::F32, values.len());
        kernels.upload(&values, at_mut(&mut buffer, 0));
        Self { buffer, places, positions, limit }
    }

    /// Bytes that tables take.
    pub fn bytes(config: &ModelConfig, positions: u64) -> u64 {
        let is_long = config.rope_limit().is_some_and(|limit| positions > limit as u64);
        let width: u64 = config.ropes.iter().map(|rope| rope.rotary_dim as u64).sum();
        positions.saturating_mul(4 * width * (1 + u64::from(is_long)))
    }

    /// The table of a rope.
    pub fn of(&self, rope: usize) -> View<'_, B> {
        at(&self.buffer, self.places[rope])
    }

    /// The row of a position in a text of so many tokens.
    pub fn row(&self, position: u32, tokens: usize) -> u32 {
        if self.limit.is_some_and(|limit| tokens > limit) { position + self.positions as u32 } else { position }
    }

    /// The memory.
    pub fn buffer(&self) -> &B {
        &self.buffer
    }
}
