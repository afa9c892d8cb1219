//! How long a run will take, from steps that are really made, on the run's own data, and then forgotten. What the first
//! step of a run would find (a gradient that is missing or not finite) is found here too.

use std::time::Instant;

use engine::kernels::Kernels;
use engine::{Objective, Trainer};

use super::asked::Asked;
use super::coverage::Coverage;
use super::plan::Plan;
use super::reference::Reference;
use super::run::check_coverage;
use super::signal::StopSignal;
use super::sources::Work;
use super::step::{StepOutcome, longest_context, train_step};
use crate::data::batches::Batches;
use crate::diagnostic::Failure;

/// The first step also touches memory for the first time; a second one is made if that did not take longer than this.
const LONG_SECONDS: f64 = 10.0;

/// Time, without evaluations and checkpoints.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Time {
    /// Of the step that was measured.
    pub step_seconds: f64,
    /// Of all steps, by their tokens, and of what comes before them.
    pub train_seconds: f64,
}

/// What the reference of a step or two says, and how long that of the whole run takes, in seconds.
pub(super) fn reference<K: Kernels>(
    plan: &Plan,
    asked: Asked,
    trainer: &mut Trainer<K>,
) -> Result<(Reference, f64), Failure> {
    let mut reference = Reference::unknown(plan, asked);
    // Nothing is evaluated here.
    reference.eval.fill(0.0);
    let began = Instant::now();
    reference.complete(trainer, plan, 2, &StopSignal::default(), &mut |_, _| {})?;
    let seconds = began.elapsed().as_secs_f64();
    let lengths = plan.data.train.lengths()?;
    let known = lengths.iter().enumerate().filter(|(sample, _)| reference.knows(*sample));
    let known: u32 = known.map(|(_, tokens)| tokens).sum();
    let per_token = seconds / f64::from(known.max(1));
    let seen = (plan.total_steps as f64 / plan.steps_per_epoch as f64).min(1.0);
    let seconds = per_token * (tokens(&lengths) as f64 * seen + tokens(&plan.data.eval.lengths()?) as f64);
    Ok((reference, seconds))
}

fn tokens(lengths: &[u32]) -> u64 {
    lengths.iter().map(|&tokens| u64::from(tokens)).sum()
}

/// A step or two, to be made and forgotten. The trainer is of no use afterwards.
pub(super) struct Measuring<'m, K: Kernels> {
    pub(super) plan: &'m Plan,
    pub(super) trainer: &'m mut Trainer<K>,
    /// Seconds that the run spends once, before the first.
    pub(super) before: f64,
}

impl<K: Kernels> Work for Measuring<'_, K> {
    type Done = Time;

    fn work<O: Objective, B: Batches<Batch = O::Batch>>(
        self,
        objective: O,
        mut batches: B,
        _: Vec<O::Batch>,
    ) -> Result<Time, Failure> {
        let Self { plan, trainer, before } = self;
        let mut coverage = Coverage::default();
        let mut step = |number: u64| {
            let began = Instant::now();
            let batches = batches.next_step(trainer)?;
            let context = longest_context(&batches);
            train_step(trainer, &objective, &batches, plan.schedule.at(number), plan.max_grad_norm, |trainer| {
                check_coverage(&mut coverage, trainer, context)
            })
            .map(|outcome| StepOutcome { seconds: began.elapsed().as_secs_f64(), ..outcome })
        };
        let mut measured = step(0)?;
        if measured.seconds < LONG_SECONDS && plan.total_steps > 1 {
            measured = step(1)?;
        }
        let steps = plan.total_steps as f64;
        let share = match plan.method.sampling() {
            // Steps of samples differ by their tokens; what the model will write is not known.
            Some(_) => steps,
            // All windows are taken to be like the first.
            None if plan.streams => steps,
            None => plan.epoch_tokens as f64 * steps / plan.steps_per_epoch as f64 / (measured.tokens as f64).max(1.0),
        };
        let train_seconds = before + measured.seconds * share;
        Ok(Time { step_seconds: measured.seconds, train_seconds })
    }
}
