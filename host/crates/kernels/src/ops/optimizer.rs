//! Operations of the optimizer.

use super::queue::Queue;
use crate::buffer::View;
use crate::operands::{AdamState, AdamStep, Segment};

/// Operations of the optimizer, over arenas in f32.
pub trait OptimizerOps: Queue {
    /// Segments, where the device reads them.
    type Segments: Send + Sync + std::fmt::Debug;

    /// Adds the sum of squares of `len` exact elements to the tally: in f64, in an order that does not depend on threads.
    fn sum_of_squares(&self, len: usize, x: View<'_, Self::Buffer>, tally: &mut Self::Tally);

    /// Makes the factor that keeps gradients with the tally's squares within `max_norm`, as torch's `clip_grad_norm_` does.
    fn clip(&self, max_norm: Option<f64>, tally: &mut Self::Tally);

    /// Puts segments where the device reads them.
    fn segments(&self, segments: &[Segment]) -> Self::Segments;

    /// One optimizer step of all segments, the gradients times the tally's factor. Nothing is changed where the tally's
    /// squares are not finite.
    fn adamw(&self, step: AdamStep, segments: &Self::Segments, tally: &Self::Tally, state: AdamState<'_, Self::Buffer>);
}
