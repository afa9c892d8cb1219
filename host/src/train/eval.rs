//! Evaluation: loss over the evaluation set, and what the model writes there, scored by reward plugins.

use std::collections::BTreeMap;
use std::time::Instant;

use engine::Trainer;
use engine::generate::{GenerateOptions, Request, generate, unobserved};
use engine::kernels::Kernels;
use plugin_runtime::types::{Context, Item};

use super::reward::NamedReward;
use crate::data::dataset::Example;
use crate::data::packing::assemble;
use crate::data::tokenizer::Tokenizer;
use crate::diagnostic::{Diagnostic, Failure};
use crate::report::metrics::EvalRecord;

/// Prompts that are generated for at a time.
pub(super) const GENERATION_BATCH: usize = 64;

/// What is evaluated, and how.
pub struct Evaluation<'a> {
    /// The evaluation set.
    pub examples: &'a [Example],
    /// Examples per forward pass.
    pub batch_size: usize,
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

impl Evaluation<'_> {
    /// Evaluates the trainer's weights as they are. `step` of `total_steps` is done.
    pub fn run<K: Kernels>(
        &mut self,
        trainer: &mut Trainer<K>,
        step: u64,
        total_steps: u64,
    ) -> Result<(EvalRecord, Option<Shown>), Failure> {
        let start = Instant::now();
        let eval_loss = self.loss(trainer)?;
        let (rewards, shown) =
            if self.rewards.is_empty() { (BTreeMap::new(), None) } else { self.generate(trainer, step, total_steps)? };
        let eval_seconds = start.elapsed().as_secs_f64();
        Ok((EvalRecord { step, eval_loss, eval_perplexity: eval_loss.exp(), rewards, eval_seconds }, shown))
    }

    fn loss<K: Kernels>(&self, trainer: &mut Trainer<K>) -> Result<f64, Failure> {
        let (mut loss, mut weight) = (0.0, 0.0);
        for examples in self.examples.chunks(self.batch_size.max(1)) {
            let batch = assemble(examples.iter().map(|example| &example.tokens));
            loss += trainer.evaluate(&batch)?;
            weight += batch.target_weight();
        }
        Ok(loss / weight.max(1.0))
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
            let mut items = Vec::with_capacity(examples.len());
            for (example, completion) in examples.iter().zip(&completions) {
                let text = |ids: &[u32]| {
                    self.tokenizer.decode(ids).map_err(|error| Diagnostic::error("data::tokenizer", error.to_string()))
                };
                items.push(Item {
                    prompt: text(example.tokens.prompt_ids())?,
                    completion: text(&completion.ids)?,
                    completion_tokens: completion.ids.len() as u32,
                    finished: completion.finished(),
                    reference: text(example.tokens.completion_ids())?,
                    row_json: example.row_json.to_string(),
                });
            }
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
