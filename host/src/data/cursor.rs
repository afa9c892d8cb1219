//! Where a run stands in its data: an epoch and a place in that epoch's plan. Two numbers, saved with each checkpoint,
//! from which the same batches follow.

use serde::{Deserialize, Serialize};

use super::packing::{BatchOptions, EpochPlan, plan_epoch};

/// A place in the data.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// Finished epochs.
    pub epoch: u64,
    /// Windows of this epoch that are over, where its samples are a stream.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub window: u64,
    /// Micro-batches of this epoch, or of its window, that were used.
    pub micro_batch: usize,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// Walks through the epochs.
#[derive(Debug)]
pub struct Cursor {
    lengths: Vec<u32>,
    options: BatchOptions,
    position: Position,
    plan: EpochPlan,
}

impl Cursor {
    /// Starts at `position`; `lengths` are the tokens of each sample. What must stay together, as the answers of a pair, is
    /// one sample.
    pub fn new(lengths: Vec<u32>, options: BatchOptions, position: Position) -> Self {
        let plan = plan_epoch(&lengths, &options, position.epoch);
        Self { lengths, options, position, plan }
    }

    /// The next optimizer step's micro-batches: `count`, or what is left of the epoch. Steps never cross epochs, as in
    /// transformers' Trainer.
    pub fn next_step(&mut self, count: usize) -> Vec<Vec<usize>> {
        if self.position.micro_batch >= self.plan.len() {
            self.position = Position { epoch: self.position.epoch.saturating_add(1), ..Position::default() };
            self.plan = plan_epoch(&self.lengths, &self.options, self.position.epoch);
        }
        let end = (self.position.micro_batch + count.max(1)).min(self.plan.len());
        let step = (self.position.micro_batch..end).map(|index| self.plan.batch(index)).collect();
        self.position.micro_batch = end;
        step
    }

    /// Where the next step starts.
    pub fn position(&self) -> Position {
        self.position
    }

    /// Micro-batches of the current epoch.
    pub fn micro_batches(&self) -> usize {
        self.plan.len()
    }

    /// Passes over the data so far, as a fraction.
    pub fn epochs(&self) -> f64 {
        self.position.epoch as f64 + self.position.micro_batch as f64 / self.plan.len().max(1) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::mix::Mix;

    #[test]
    fn a_restored_cursor_gives_the_same_steps_across_epochs() {
        let options = BatchOptions {
            micro_batch_size: 2,
            sequence_len: 16,
            sample_packing: false,
            shuffle: true,
            mix: Mix::new([(4, 0.5), (9, 1.0)]),
            seed: 1,
        };
        let mut whole = Cursor::new(vec![4; 13], options.clone(), Position::default());
        let steps: Vec<_> = (0..9).map(|_| (whole.position(), whole.next_step(4))).collect();
        assert_eq!(steps.iter().map(|(_, step)| step.len()).collect::<Vec<_>>(), [4, 2, 4, 2, 4, 2, 4, 2, 4]);
        for (position, expected) in &steps {
            let mut restored = Cursor::new(vec![4; 13], options.clone(), *position);
            assert_eq!(&restored.next_step(4), expected);
        }
    }
}
