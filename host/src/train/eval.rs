//! Evaluation: loss over the evaluation set, and what the model writes there, scored by reward plugins.

use std::collections::BTreeMap;
use std::time::Instant;

use engine::Trainer;
use engine::generate::{GenerateOptions, Request, generate, unobserved};
use engine::kernels::Kernels;
use engine::objective::{Objective, evaluate};
use plugin_runtime::types::{Context, Item};

use crate::data::dataset::Example;
use crate::data::tokenizer::Tokenizer;
use crate::diagnostic::Failure;
use crate::report::metrics::EvalRecord;
use crate::rl::reward::{NamedReward, item};

/// Prompts that are generated for at a time.
pub(super) const GENERATION_BATCH: usize = 64;

/// What is evaluated, and how.
pub struct Evaluation<'a, B> {
    /// The evaluation set.
    pub examples: &'a [Example],
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

impl<B> Evaluation<'_, B> {
    /// Evaluates the trainer's weights as they are. `step` of `total_steps` is done.
    pub fn run<K: Kernels, O: Objective<Batch = B>>(
        &mut self,
        trainer: &mut Trainer<K>,
        objective: &O,
        step: u64,
        total_steps: u64,
    ) -> Result<(EvalRecord, Option<Shown>), Failure> {
        let start = Instant::now();
        let judged = evaluate(trainer, objective, &self.batches)?;
        let eval_loss = judged.as_ref().map(|(loss, _)| *loss);
        let metrics = judged.map(|(_, metrics)| metrics).unwrap_or_default();
        let (rewards, shown) =
            if self.rewards.is_empty() { (BTreeMap::new(), None) } else { self.generate(trainer, step, total_steps)? };
        let record = EvalRecord {
            step,
            eval_loss,
            eval_perplexity: eval_loss.filter(|_| self.is_per_token).map(f64::exp),
            metrics: metrics.means().map(|(name, value)| (format!("eval_{name}"), value)).collect(),
            rewards,
            eval_seconds: start.elapsed().as_secs_f64(),
        };
        Ok((record, shown))
    }

    fn generate<K: Kernels>(
        &mut self,
        trainer: &Trainer<K>,
        step: u64,
        total_steps: u64,
    ) -> Result<(BTreeMap<String, f64>, Option<Shown>), Failure> {
        let context = Context { step, total_steps, seed: self.seed };
        let mut sums: BTreeMap<String, (f64, u64)> = BTreeMap::new();
        let mut errors: BTreeMap<String, f64> = BTreeMap::new();
        let mut shown = None;
        let examples = &self.examples[..self.generated.min(self.examples.len())];
        for examples in examples.chunks(GENERATION_BATCH) {
            let requests = Request::one_each(examples.iter().map(|example| example.tokens.prompt_ids().to_vec()));
            let completions = generate(trainer.model(), &requests, &self.generation, &mut unobserved)?;
            let items = examples.iter().zip(&completions);
            let items = items.map(|(example, completion)| item(self.tokenizer, example, completion));
            let items: Vec<Item> = items.collect::<Result<_, Failure>>()?;
            for reward in &mut self.rewards {
                let scored = reward.score(&items, &context)?;
                for value in scored.scores.into_iter().filter_map(|score| score.value) {
                    let sum = sums.entry(format!("rewards/{}/mean", reward.name())).or_default();
                    *sum = (sum.0 + value, sum.1 + 1);
                }
                if let Some(count) = scored.errors {
                    *errors.entry(format!("rewards/{}/errors", reward.name())).or_default() += count as f64;
                }
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
        Ok((means.chain(errors).collect(), shown))
    }
}
