//! The training loop: steps until the plan is done, a signal comes or a monitor says stop, with evaluations and
//! checkpoints on the way.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use engine::kernels::Kernels;
use engine::{Objective, Trainer};
use serde_json::{Map, Value};

use super::best::Best;
use super::coverage::{Coverage, Uncovered};
use super::eval::{Evaluated, Evaluation, Shown};
use super::health::{StopAdvice, Watch};
use super::plan::Plan;
use super::signal::{Signal, StopSignal};
use super::step::{longest_context, train_step};
use crate::checkpoint::export::ModelFiles;
use crate::checkpoint::load::Checkpoint;
use crate::checkpoint::retention::prune;
use crate::checkpoint::save::{STATE_VERSION, TrainerState, save};
use crate::data::batches::Batches;
use crate::diagnostic::{Diagnostic, Failure};
use crate::memory::peak_memory_bytes;
use crate::report::metrics::{EVAL_FIELDS, EvalRecord, TrainRecord};
use crate::report::summary::Judged;
use crate::report::{Event, Reporter};

/// What the loop needs beside the plan.
#[derive(Debug)]
pub struct Run<'a, O, B> {
    /// What to do.
    pub plan: &'a Plan,
    /// What is learned.
    pub objective: O,
    /// From what, from where the run begins or goes on.
    pub batches: B,
    /// Where checkpoints go.
    pub output_dir: &'a Path,
    /// Checkpoints that are kept.
    pub keep: Option<usize>,
    /// What must be the same for a resume.
    pub settings: Map<String, Value>,
    /// What goes into each checkpoint beside the weights.
    pub files: ModelFiles<'a>,
}

/// How a loop ended.
#[derive(Debug)]
pub enum Ending {
    /// All steps are done.
    Finished,
    /// A signal came; the state is saved there.
    Stopped(Signal, PathBuf),
    /// A monitor said that going on is a waste; the state is saved there.
    Unhealthy(Box<StopAdvice>, PathBuf),
}

/// What a loop did.
#[derive(Debug)]
pub struct Outcome {
    /// How it ended.
    pub ending: Ending,
    /// Steps that are finished, also where the result is of an earlier one.
    pub steps: u64,
    /// Loss of the first and the last step.
    pub loss: Option<(f64, f64)>,
    /// The evaluation before training and the last one.
    pub eval: Option<(EvalRecord, EvalRecord)>,
    /// One generation before and after, to look at.
    pub shown: (Option<Shown>, Option<Shown>),
    /// Tokens trained from the first step on, in this process and in those before it.
    pub tokens: u64,
    /// Of those, the ones of this process.
    pub own_tokens: u64,
    /// Seconds in training steps of this process.
    pub train_seconds: f64,
    /// The best evaluation, where something was made of it.
    pub judged: Option<Judged>,
}

impl<O: Objective, B: Batches<Batch = O::Batch>> Run<'_, O, B> {
    /// Trains to the end of the plan, from the start or from a checkpoint.
    pub fn train<K: Kernels>(
        &mut self,
        trainer: &mut Trainer<K>,
        from: Option<&Checkpoint>,
        mut evaluation: Option<Evaluation<'_, O::Batch>>,
        watch: &mut Watch,
        reporter: &mut Reporter<'_>,
        stop: &StopSignal,
    ) -> Result<Outcome, Failure> {
        let plan = self.plan;
        let mut coverage = Coverage::default();
        let mut loss = from.and_then(|checkpoint| {
            let first = checkpoint.state.first_loss?;
            Some((first, checkpoint.state.last_loss.unwrap_or(first)))
        });
        let tokens_before = from.map_or(0, |checkpoint| checkpoint.state.tokens);
        let (mut own_tokens, mut train_seconds) = (0, 0.0);
        let mut eval: Option<(EvalRecord, EvalRecord)> = from
            .and_then(|checkpoint| read_eval(checkpoint.state.eval_before.as_ref()))
            .map(|before| (before.clone(), before));
        let mut shown = (None, None);
        let mut evaluated_at = None;
        let mut advice = Ok(None);
        let mut saved_at = from.map(|checkpoint| checkpoint.state.global_step);
        let judge = plan.judge.as_ref();
        let mut best = match from.and_then(|checkpoint| checkpoint.state.best.clone()).filter(|_| judge.is_some()) {
            Some(best) => self.best_of(best, judge.is_some_and(|judge| judge.loads))?,
            None => None,
        };
        let mut stops_early = judge.is_some_and(|judge| judge.is_over(best.as_ref()));

        let is_new = trainer.optimizer_step() == 0 && eval.is_none() && stop.received().is_none();
        if let Some(evaluation) = evaluation.as_mut().filter(|_| is_new) {
            let (record, sample) = self.evaluate(evaluation, trainer, saved_at, reporter)?;
            advice = watch.observe(&record, plan.total_steps, reporter);
            if let Some(judge) = judge {
                judge.value(&record)?;
            }
            eval = Some((record.clone(), record));
            shown = (sample.clone(), sample);
            evaluated_at = Some(0);
        }
        while matches!(advice, Ok(None))
            && !stops_early
            && trainer.optimizer_step() < plan.total_steps
            && stop.received().is_none()
        {
            let began = Instant::now();
            let micro_batches =
                self.batches.next_step(trainer).map_err(|failure| self.with_last_checkpoint(failure, saved_at))?;
            let told = self.batches.told();
            told.remarks.iter().for_each(|remark| reporter.tell(Event::Remark(remark)));
            let learning_rate = plan.schedule.at(trainer.optimizer_step());
            let context = longest_context(&micro_batches);
            let outcome =
                train_step(trainer, &self.objective, &micro_batches, learning_rate, plan.max_grad_norm, |trainer| {
                    check_coverage(&mut coverage, trainer, context)
                })
                .map_err(|failure| self.with_last_checkpoint(failure, saved_at))?;
            let seconds = began.elapsed().as_secs_f64();
            let step = trainer.optimizer_step();
            loss = Some((loss.map_or(outcome.loss, |(first, _)| first), outcome.loss));
            own_tokens += outcome.tokens;
            train_seconds += seconds;
            let record = TrainRecord {
                step,
                epoch: self.batches.epochs(),
                loss: outcome.loss,
                grad_norm: outcome.grad_norm,
                learning_rate,
                tokens: outcome.tokens,
                tokens_per_second: outcome.tokens as f64 / seconds.max(1e-9),
                step_seconds: seconds,
                peak_memory_bytes: peak_memory_bytes(),
                metrics: {
                    let of_objective = outcome.metrics.means().map(|(name, value)| (name.to_owned(), value));
                    of_objective.chain(told.metrics()).collect()
                },
            };
            let last = step == plan.total_steps;
            let logged = plan.log.is_due(step) || step == 1 || last;
            reporter.train(&record, logged);
            if logged {
                reporter.completions(&told.lines);
                advice = watch.observe(&record, plan.total_steps, reporter);
            }
            let mut is_best = false;
            if let Some(evaluation) = evaluation.as_mut().filter(|_| plan.evaluate.is_due(step) && !last) {
                let (record, sample) = self.evaluate(evaluation, trainer, saved_at, reporter)?;
                advice = merge(advice, watch.observe(&record, plan.total_steps, reporter));
                if let Some(judge) = judge {
                    is_best = judge.take(&record, &mut best)? && judge.saves;
                    stops_early = judge.is_over(best.as_ref());
                }
                eval = Some((eval.map_or_else(|| record.clone(), |(before, _)| before), record));
                shown.1 = sample.or(shown.1);
                evaluated_at = Some(step);
            }
            if plan.save.is_due(step) || is_best || (last && plan.save.ever()) {
                let state = self.state(trainer, loss, tokens_before + own_tokens, eval.as_ref(), best.as_ref());
                self.save(trainer, &state, reporter)?;
                saved_at = Some(step);
            }
        }
        let unfinished = !stops_early && trainer.optimizer_step() < plan.total_steps;
        let signal = stop.received().filter(|_| unfinished);
        let tokens = tokens_before + own_tokens;
        if signal.is_some() || !matches!(advice, Ok(None)) {
            let state = self.state(trainer, loss, tokens, eval.as_ref(), best.as_ref());
            let (steps, path) = (state.global_step, self.path(state.global_step));
            if saved_at != Some(state.global_step) {
                self.save(trainer, &state, reporter)?;
            }
            let failed = |error| self.with_last_checkpoint(Failure::from(error), Some(state.global_step));
            let ending = match (advice.map_err(failed)?, signal) {
                (Some(advice), _) => Ending::Unhealthy(Box::new(advice), path),
                (None, Some(signal)) => Ending::Stopped(signal, path),
                (None, None) => Ending::Finished,
            };
            return Ok(Outcome { ending, loss, eval, shown, tokens, own_tokens, train_seconds, steps, judged: None });
        }
        if let Some(evaluation) = evaluation.as_mut().filter(|_| evaluated_at != Some(trainer.optimizer_step())) {
            let (record, sample) = self.evaluate(evaluation, trainer, saved_at, reporter)?;
            watch.observe(&record, plan.total_steps, reporter)?;
            let is_best = judge.map(|judge| judge.take(&record, &mut best)).transpose()?.unwrap_or(false);
            eval = Some((eval.map_or_else(|| record.clone(), |(before, _)| before), record));
            shown.1 = sample.or(shown.1);
            if is_best && judge.is_some_and(|judge| judge.saves) && saved_at != Some(trainer.optimizer_step()) {
                let state = self.state(trainer, loss, tokens, eval.as_ref(), best.as_ref());
                self.save(trainer, &state, reporter)?;
            }
        }
        let steps = trainer.optimizer_step();
        let loads = judge.is_some_and(|judge| judge.loads);
        if let Some(best) = best.as_ref().filter(|best| loads && best.step != steps) {
            Checkpoint::open(&self.path(best.step), &Map::new())?.restore(trainer)?;
            if let (Some((_, after)), Some(record)) = (&mut eval, read_eval(Some(&best.record))) {
                *after = record;
            }
            shown.1 = None;
        }
        let judged = judge.zip(best).map(|(judge, Best { step, value, .. })| Judged {
            metric: judge.metric.clone(),
            value,
            step,
            is_result: loads,
            stopped_early: stops_early,
        });
        Ok(Outcome { ending: Ending::Finished, loss, eval, shown, tokens, own_tokens, train_seconds, steps, judged })
    }

    /// The best evaluation of the run that goes on, as its checkpoint has it. Where it is to be the result, it must be there.
    fn best_of(&self, kept: Value, loads: bool) -> Result<Option<Best>, Failure> {
        let Ok(best) = serde_json::from_value::<Best>(kept) else { return Ok(None) };
        if loads {
            Checkpoint::open(&self.path(best.step), &Map::new()).map_err(|error| {
                let mut failure = Failure::from(error);
                if let Some(last) = failure.0.last_mut() {
                    last.notes.push(format!("the evaluation after step {} was the best so far", best.step));
                    last.help = Some("bring it back, or delete `load_best_model_at_end`".to_owned());
                }
                failure
            })?;
        }
        Ok(Some(best))
    }

    /// Evaluates the trainer's weights as they are, and tells of it.
    fn evaluate<K: Kernels>(
        &self,
        evaluation: &mut Evaluation<'_, O::Batch>,
        trainer: &mut Trainer<K>,
        saved_at: Option<u64>,
        reporter: &mut Reporter<'_>,
    ) -> Result<(EvalRecord, Option<Shown>), Failure> {
        let step = trainer.optimizer_step();
        let evaluated = evaluation.run(trainer, &self.objective, step, self.plan.total_steps);
        let Evaluated { record, shown, extremes } =
            evaluated.map_err(|failure| self.with_last_checkpoint(failure, saved_at))?;
        reporter.eval(&record, extremes.as_ref());
        Ok((record, shown))
    }

    fn path(&self, step: u64) -> PathBuf {
        self.output_dir.join(format!("checkpoint-{step}"))
    }

    fn state<K: Kernels>(
        &self,
        trainer: &Trainer<K>,
        loss: Option<(f64, f64)>,
        tokens: u64,
        eval: Option<&(EvalRecord, EvalRecord)>,
        best: Option<&Best>,
    ) -> TrainerState {
        TrainerState {
            v: STATE_VERSION,
            global_step: trainer.optimizer_step(),
            position: self.batches.position(),
            total_steps: self.plan.total_steps,
            settings: self.settings.clone(),
            eval_before: eval.and_then(|(before, _)| serde_json::to_value(before).ok()),
            first_loss: loss.map(|(first, _)| first),
            last_loss: loss.map(|(_, last)| last),
            tokens,
            best: best.and_then(|best| serde_json::to_value(best).ok()),
        }
    }

    fn save<K: Kernels>(
        &self,
        trainer: &Trainer<K>,
        state: &TrainerState,
        reporter: &mut Reporter<'_>,
    ) -> Result<(), Failure> {
        let path = self.path(state.global_step);
        save(&path, trainer, state, &self.files, &self.batches.kept())?;
        reporter.tell(Event::Checkpoint { step: state.global_step, path: &path });
        if let Some(keep) = self.keep {
            let best = state.best.as_ref().filter(|_| self.plan.judge.as_ref().is_some_and(|judge| judge.loads));
            prune(self.output_dir, keep, best.and_then(|best| best["step"].as_u64()))?;
        }
        Ok(())
    }

    /// A failure in the middle of a run says what is not lost.
    fn with_last_checkpoint(&self, mut failure: Failure, saved_at: Option<u64>) -> Failure {
        if let (Some(step), Some(last)) = (saved_at, failure.0.last_mut()) {
            last.notes.push(format!("the state of step {step} is in `{}`", self.path(step).display()));
        }
        failure
    }
}

/// What monitors said about two lines of one step: the first thing that ends the run.
fn merge<T, E>(first: Result<Option<T>, E>, second: Result<Option<T>, E>) -> Result<Option<T>, E> {
    match first {
        Ok(None) => second,
        told => told,
    }
}

pub(super) fn check_coverage<K: Kernels>(
    coverage: &mut Coverage,
    trainer: &Trainer<K>,
    context: usize,
) -> Result<(), Failure> {
    if coverage.is_done() {
        return Ok(());
    }
    let b_is_zero = |name: &str| trainer.parameter(name).is_some_and(|values| values.iter().all(|&value| value == 0.0));
    // An expert to which no token of the first step went learns in a later one.
    let mut report = trainer.gradient_report();
    report.retain(|own| own.norm > 0.0 || !own.finite || !trainer.is_of_expert(&own.name));
    let uncovered = coverage.check(&report, b_is_zero, context);
    let mut found: Vec<Diagnostic> = uncovered
        .iter()
        .take(5)
        .map(|uncovered| match uncovered {
            Uncovered::NotFinite(name) => Diagnostic::error(
                "train::not-finite",
                format!("the gradient of `{name}` is not finite in the first step"),
            ),
            Uncovered::Zero(name) => {
                Diagnostic::error("train::no-gradient", format!("`{name}` is to be trained, but gets no gradient"))
                    .why("it would stay as it is, and no loss curve would show it")
            }
        })
        .collect();
    if let Some(last) = found.last_mut() {
        if uncovered.len() > 5 {
            last.notes.push(format!("{} more parameters are like that", uncovered.len() - 5));
        }
        last.help = Some(
            "freeze it (`unfrozen_parameters`), or check the weights of the layers between it and the loss".to_owned(),
        );
    }
    if found.is_empty() { Ok(()) } else { Err(Failure(found)) }
}

fn read_eval(value: Option<&Value>) -> Option<EvalRecord> {
    let object = value?.as_object()?;
    let number = |key: &str| object.get(key)?.as_f64();
    let named = |start: &str| -> BTreeMap<String, f64> {
        let of_start = object.iter().filter(|(key, _)| key.starts_with(start));
        of_start.filter_map(|(key, value)| Some((key.clone(), value.as_f64()?))).collect()
    };
    Some(EvalRecord {
        step: object.get("step")?.as_u64()?,
        eval_loss: number("eval_loss"),
        eval_perplexity: number("eval_perplexity"),
        metrics: named("eval_").into_iter().filter(|(name, _)| !EVAL_FIELDS.contains(&name.as_str())).collect(),
        rewards: named("rewards/"),
        eval_seconds: number("eval_seconds")?,
    })
}
