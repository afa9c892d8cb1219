//! Evaluation: loss over the evaluation set, and what the model writes there, scored by reward plugins.

use std::collections::BTreeMap;
use std::time::Instant;

use engine::Trainer;
use engine::generate::{GenerateOptions, Request, generate, unobserved};
use engine::kernels::Kernels;
use engine::objective::{Objective, evaluate};
use plugin_runtime::types::{Context, Item};

use crate::data::set::Set;
use crate::data::tokenizer::Tokenizer;
use crate::diagnostic::Failure;
use crate::report::metrics::EvalRecord;
use crate::report::samples::{Extremes, Sample};
use crate::rl::reward::{NamedReward, item};

/// Prompts that are generated for at a time.
pub(super) const GENERATION_BATCH: usize = 64;

/// What is evaluated, and how.
pub struct Evaluation<'a, B> {
    /// The evaluation set.
    pub set: &'a Set,
    /// The same for the objective.
    pub batches: Vec<B>,
    /// The loss is a mean per token.
    pub is_per_token: bool,
    /// Rewards; with none, nothing is generated.
    pub rewards: Vec<NamedReward>,
    /// How to generate; greedy by default, so that the figure repeats.
    pub generation: GenerateOptions,
    /// Examples that are generated for: the first so many.
    pub generated: usize,
    /// For the prompts and completions as text.
    pub tokenizer: &'a Tokenizer,
    /// Of the run.
    pub seed: u64,
}

/// A generation with its scores, for a person who wants to see some.
#[derive(Debug, Clone, PartialEq)]
pub struct Shown {
    /// What the model was given.
    pub prompt: String,
    /// What it wrote.
    pub completion: String,
    /// What the data says.
    pub reference: String,
}

/// What an evaluation found.
#[derive(Debug)]
pub struct Evaluated {
    /// Its figures.
    pub record: EvalRecord,
    /// The first generation.
    pub shown: Option<Shown>,
    /// The generations that rewards like most and least.
    pub extremes: Option<Extremes>,
}

/// What came of generating.
#[derive(Default)]
struct Generated {
    rewards: BTreeMap<String, f64>,
    shown: Option<Shown>,
    extremes: Option<Extremes>,
}

impl<B> Evaluation<'_, B> {
    /// Evaluates the trainer's weights as they are. `step` of `total_steps` is done.
    pub fn run<K: Kernels, O: Objective<Batch = B>>(
        &mut self,
        trainer: &mut Trainer<K>,
        objective: &O,
        step: u64,
        total_steps: u64,
    ) -> Result<Evaluated, Failure> {
        let start = Instant::now();
        let judged = evaluate(trainer, objective, &self.batches)?;
        let eval_loss = judged.as_ref().map(|(loss, _)| *loss);
        let metrics = judged.map(|(_, metrics)| metrics).unwrap_or_default();
        let generated =
            if self.rewards.is_empty() { Generated::default() } else { self.generate(trainer, step, total_steps)? };
        let Generated { rewards, shown, extremes } = generated;
        let record = EvalRecord {
            step,
            eval_loss,
            eval_perplexity: eval_loss.filter(|_| self.is_per_token).map(f64::exp),
            metrics: metrics.means().map(|(name, value)| (format!("eval_{name}"), value)).collect(),
            rewards,
            eval_seconds: start.elapsed().as_secs_f64(),
        };
        Ok(Evaluated { record, shown, extremes })
    }

    fn generate<K: Kernels>(
        &mut self,
        trainer: &Trainer<K>,
        step: u64,
        total_steps: u64,
    ) -> Result<Generated, Failure> {
        let context = Context { step, total_steps, seed: self.seed };
        let mut sums: BTreeMap<String, (f64, u64)> = BTreeMap::new();
        let mut errors: BTreeMap<String, f64> = BTreeMap::new();
        let (mut shown, mut extremes) = (None, None);
        let samples: Vec<usize> = (0..self.generated.min(self.set.len())).collect();
        for samples in samples.chunks(GENERATION_BATCH) {
            let examples = self.set.some(samples)?;
            let requests = Request::one_each(examples.iter().map(|example| example.tokens.prompt_ids().to_vec()));
            let completions = generate(trainer.model(), &requests, &self.generation, &mut unobserved)?;
            let items = examples.iter().zip(&completions);
            let items = items.map(|(example, completion)| item(self.tokenizer, example, completion));
            let items: Vec<Item> = items.collect::<Result<_, Failure>>()?;
            let mut own: Vec<Option<f64>> = vec![None; items.len()];
            for reward in &mut self.rewards {
                let scored = reward.score(&items, &context)?;
                for (own, score) in own.iter_mut().zip(scored.scores) {
                    let Some(value) = score.value else { continue };
                    let sum = sums.entry(format!("rewards/{}/mean", reward.name())).or_default();
                    *sum = (sum.0 + value, sum.1 + 1);
                    *own = Some(own.unwrap_or(0.0) + value);
                }
                if let Some(count) = scored.errors {
                    *errors.entry(format!("rewards/{}/errors", reward.name())).or_default() += count as f64;
                }
            }
            for (item, reward) in items.iter().zip(own).filter_map(|(item, reward)| Some((item, reward?))) {
                let (completion, reference) = (item.completion.clone(), item.reference.clone());
                extremes = Some(Extremes::with(extremes, Sample { completion, reference, reward }));
            }
            if shown.is_none() {
                shown = items.into_iter().next().map(|item| Shown {
                    prompt: item.prompt,
                    completion: item.completion,
                    reference: item.reference,
                });
            }
        }
        let means = sums.into_iter().map(|(name, (sum, count))| (name, sum / count as f64));
        Ok(Generated { rewards: means.chain(errors).collect(), shown, extremes })
    }
}
