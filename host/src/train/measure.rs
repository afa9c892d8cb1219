//! How long a run will take, from steps that are really made, on the run's own data, and then forgotten. What the first
//! step of a run would find (a gradient that is missing or not finite) is found here too.

use engine::kernels::Kernels;
use engine::{CrossEntropy, Trainer};

use super::coverage::Coverage;
use super::plan::Plan;
use super::run::check_coverage;
use super::step::{longest_context, train_step};
use crate::data::batches::Batches;
use crate::data::cursor::Position;
use crate::diagnostic::Failure;

/// The first step also touches memory for the first time; a second one is made if that did not take longer than this.
const LONG_SECONDS: f64 = 10.0;

/// Time, without evaluations and checkpoints.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Time {
    /// Of the step that was measured.
    pub step_seconds: f64,
    /// Of all steps, by their tokens.
    pub train_seconds: f64,
}

/// Makes a step or two. The trainer is of no use afterwards.
pub fn measure<K: Kernels>(plan: &Plan, trainer: &mut Trainer<K>) -> Result<Time, Failure> {
    let mut batches = plan.batches(Position::default());
    let mut coverage = Coverage::default();
    let mut step = |number: u64| {
        let batches = batches.next_step(trainer.model())?;
        let context = longest_context(&batches);
        train_step(trainer, &CrossEntropy, &batches, plan.schedule.at(number), plan.max_grad_norm, |trainer| {
            check_coverage(&mut coverage, trainer, context)
        })
    };
    let mut measured = step(0)?;
    if measured.seconds < LONG_SECONDS && plan.total_steps > 1 {
        measured = step(1)?;
    }
    let tokens = plan.tokens() as f64 * plan.total_steps as f64 / plan.steps_per_epoch as f64;
    let train_seconds = measured.seconds * tokens / (measured.tokens as f64).max(1.0);
    Ok(Time { step_seconds: measured.seconds, train_seconds })
}
