//! Operations of the optimizer.

use super::queue::Queue;
use crate::buffer::View;
use crate::operands::{AdamState, AdamStep, Segment};

/// Operations of the optimizer, over arenas in f32.
pub trait OptimizerOps: Queue {
    /// Segments, where the device reads them.
    type Segments: Send + Sync + std::fmt::Debug;

    /// Adds the sum of squares of `len` f32 elements to the accumulator: in f64, in an order that does not depend on threads.
    fn sum_of_squares(&self, len: usize, x: View<'_, Self::Buffer>, accumulator: &mut Self::Accumulator);

    /// Makes the factor that keeps gradients with the accumulator's squares within `max_norm`, as torch's `clip_grad_norm_`
    /// does.
    fn clip(&self, max_norm: Option<f64>, accumulator: &mut Self::Accumulator);

    /// Puts segments where the device reads them.
    fn segments(&self, segments: &[Segment]) -> Self::Segments;

    /// One optimizer step of all segments, the gradients times the accumulator's factor. Nothing is changed where the
    /// accumulator's squares are not finite.
    fn adamw(
        &self,
        step: AdamStep,
        segments: &Self::Segments,
        accumulator: &Self::Accumulator,
        state: AdamState<'_, Self::Buffer>,
    );
}
