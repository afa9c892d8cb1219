//! How long a run will take, from steps that are really made, on the run's own data, and then forgotten. What the first
//! step of a run would find (a gradient that is missing or not finite) is found here too.

use std::time::Instant;

use engine::kernels::Kernels;
use engine::{CrossEntropy, Objective, Trainer};

use super::coverage::Coverage;
use super::method::Method;
use super::plan::Plan;
use super::reference::Reference;
use super::run::check_coverage;
use super::signal::StopSignal;
use super::step::{longest_context, train_step};
use crate::data::batches::{Batches, PairsOf, Texts};
use crate::data::cursor::Position;
use crate::data::dataset::Example;
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

/// Makes a step or two. The trainer is of no use afterwards.
pub fn measure<K: Kernels>(plan: &Plan, trainer: &mut Trainer<K>) -> Result<Time, Failure> {
    let (train, start) = (&plan.data.train, Position::default());
    match &plan.method {
        Method::Supervised => steps(plan, trainer, &CrossEntropy, plan.epochs(Texts(train), start), 0.0),
        Method::Cpo(objective) => {
            let pairs = PairsOf { examples: train, reference: None, kept: None };
            steps(plan, trainer, objective, plan.epochs(pairs, start), 0.0)
        }
        Method::Preference(objective) => {
            let mut reference = Reference::unknown(plan);
            // Nothing is evaluated here.
            reference.eval.fill([0.0; 2]);
            let began = Instant::now();
            reference.complete(trainer, plan, 2, &StopSignal::default(), &mut |_, _| {})?;
            let known = reference.train.iter().zip(train).filter(|(pair, _)| !pair[0].is_nan());
            let known: usize = known.map(|(_, example)| example.tokens()).sum();
            let per_token = began.elapsed().as_secs_f64() / known.max(1) as f64;
            let seen = (plan.total_steps as f64 / plan.steps_per_epoch as f64).min(1.0);
            let seconds = per_token * (tokens(train) as f64 * seen + tokens(&plan.data.eval) as f64);
            let pairs = PairsOf { examples: train, reference: Some(&reference.train), kept: None };
            steps(plan, trainer, objective, plan.epochs(pairs, start), seconds)
        }
    }
}

fn tokens(examples: &[Example]) -> usize {
    examples.iter().map(Example::tokens).sum()
}

/// Steps of `batches`; `before` are the seconds that are spent once, before the first.
fn steps<K: Kernels, O: Objective, B: Batches<Batch = O::Batch>>(
    plan: &Plan,
    trainer: &mut Trainer<K>,
    objective: &O,
    mut batches: B,
    before: f64,
) -> Result<Time, Failure> {
    let mut coverage = Coverage::default();
    let mut step = |number: u64| {
        let batches = batches.next_step(trainer.model())?;
        let context = longest_context(&batches);
        train_step(trainer, objective, &batches, plan.schedule.at(number), plan.max_grad_norm, |trainer| {
            check_coverage(&mut coverage, trainer, context)
        })
    };
    let mut measured = step(0)?;
    if measured.seconds < LONG_SECONDS && plan.total_steps > 1 {
        measured = step(1)?;
    }
    let tokens = plan.tokens() as f64 * plan.total_steps as f64 / plan.steps_per_epoch as f64;
    let train_seconds = before + measured.seconds * tokens / (measured.tokens as f64).max(1.0);
    Ok(Time { step_seconds: measured.seconds, train_seconds })
}
