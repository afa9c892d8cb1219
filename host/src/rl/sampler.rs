//! Steps of what the model writes: prompts in the order of each epoch, a group of completions of each, judged by rewards.
//!
//! A generation is `steps_per_generation` micro-batches, which are learned from `num_iterations` times. It is a function of
//! config, seed, step and weights; where a checkpoint falls into the middle of one, the completions are kept with it.

use std::ops::{ControlFlow, Range};
use std::path::Path;

use engine::Trainer;
use engine::generate::{Completion, GenerateOptions, Request, Written, generate, unobserved};
use engine::kernels::Kernels;
use engine::objective::Rollouts;
use engine::rng::{Philox, stream_of};
use plugin_runtime::types::{Context, Item, Score};
use serde_json::{Map, Value, json};

use super::advantage::{Advantage, Judged, moments};
use super::episode::{Asked, Episode, EpisodeLimits, Episodes, Played};
use super::reward::{NamedReward, Scored, abstains, item};
use super::rollout::{self, Rollout};
use crate::checkpoint::CheckpointError;
use crate::data::batches::{Batches, KeptFile, Told};
use crate::data::cursor::Position;
use crate::data::dataset::Example;
use crate::data::packing::{BatchOptions, EpochPlan, plan_epoch};
use crate::data::set::Set;
use crate::data::shuffle::shuffle;
use crate::data::tokenizer::Tokenizer;
use crate::diagnostic::Failure;

/// How completions become steps.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampling {
    /// How they are judged, and how many a prompt has.
    pub advantage: Advantage,
    /// Completions of a micro-batch.
    pub micro_batch_size: usize,
    /// Micro-batches of an optimizer step.
    pub accumulation: usize,
    /// Micro-batches of a generation.
    pub steps_per_generation: usize,
    /// Times that a generation is learned from.
    pub iterations: usize,
    /// Tokens of a completion at most.
    pub max_completion_length: usize,
    /// Logits are divided by this.
    pub temperature: f64,
    /// Nothing is learned of completions that reach that.
    pub masks_truncated: bool,
    /// Rewards are dealt out at random.
    pub shuffles_rewards: bool,
    /// The loss is a mean over tokens: those of groups of equal rewards, which have nothing to tell, do not count.
    pub is_token_mean: bool,
    /// How completions are spread over the micro-batches of a step changes nothing: those of one prompt may stand together.
    pub keeps_groups: bool,
    /// There is a reference, and it is asked about completions.
    pub asks_reference: bool,
    /// Training says of a token exactly what sampling said, as long as no step lies between the two.
    pub is_exact: bool,
    /// Prompts come in another order each epoch.
    pub shuffle: bool,
    /// Of the run.
    pub seed: u64,
    /// Completions that are told of a logged step.
    pub logged: usize,
    /// There is an environment, and episodes are so long at most.
    pub episodes: Option<EpisodeLimits>,
}

impl Sampling {
    /// Tokens that the model writes in one text, at most.
    pub fn longest(&self) -> usize {
        self.episodes.map_or(self.max_completion_length, EpisodeLimits::longest)
    }

    /// Prompts of a generation.
    pub fn prompts(&self) -> usize {
        self.micro_batch_size * self.steps_per_generation / self.advantage.group
    }

    /// Micro-batches that are learned from before the next generation.
    pub fn micro_batches(&self) -> usize {
        self.steps_per_generation * self.iterations
    }

    /// Generations of an epoch: as many as whole ones fit.
    pub fn generations(&self, prompts: usize) -> usize {
        prompts / self.prompts()
    }

    /// The prompts of each generation of an epoch.
    fn plan(&self, prompts: &Set, epoch: u64) -> EpochPlan {
        let mix = prompts.mix();
        let seen = mix.samples(prompts.len()) as usize;
        let options = BatchOptions {
            micro_batch_size: self.prompts(),
            sequence_len: 0,
            sample_packing: false,
            shuffle: self.shuffle,
            mix,
            seed: self.seed,
        };
        let mut plan = plan_epoch(&vec![1; prompts.len()], &options, epoch);
        plan.truncate(self.generations(seen));
        plan
    }
}

/// A source of steps of what the model writes.
pub struct Sampler<'a> {
    sampling: Sampling,
    prompts: &'a Set,
    tokenizer: &'a Tokenizer,
    generation: GenerateOptions,
    rewards: Vec<NamedReward>,
    episodes: Option<Episodes<'a>>,
    /// Of all rewards, that of the environment last.
    names: Vec<String>,
    total_steps: u64,
    position: Position,
    plan: EpochPlan,
    /// The completions of the present generation, in the order in which they are learned from.
    rollouts: Vec<Rollout>,
    /// Optimizer steps that were done when they were sampled; none where that was before a checkpoint.
    sampled_at: Option<u64>,
    told: Told,
    /// Rewards that are known to judge something.
    judges: Vec<bool>,
}

impl<'a> Sampler<'a> {
    /// From `position` on. `generation` says how a completion ends; `from` is the checkpoint that the run goes on from.
    ///
    /// # Errors
    /// A checkpoint that lacks what it must have.
    pub fn new(
        sampling: Sampling,
        prompts: &'a Set,
        tokenizer: &'a Tokenizer,
        generation: GenerateOptions,
        rewards: Vec<NamedReward>,
        episodes: Option<Episodes<'a>>,
        total_steps: u64,
        position: Position,
        from: Option<&Path>,
    ) -> Result<Self, CheckpointError> {
        let plan = sampling.plan(prompts, position.epoch);
        let own = rewards.iter().map(|reward| reward.name().to_owned());
        let names: Vec<String> = own.chain(episodes.as_ref().map(|episodes| episodes.name.clone())).collect();
        let judges = vec![false; names.len()];
        let mut sampler = Self {
            sampling,
            prompts,
            tokenizer,
            generation,
            rewards,
            episodes,
            names,
            total_steps,
            position,
            plan,
            rollouts: Vec::new(),
            sampled_at: None,
            told: Told::default(),
            judges,
        };
        if let Some(checkpoint) = from.filter(|_| sampler.is_within()) {
            sampler.rollouts = rollout::read(checkpoint)?;
            let (found, needed) =
                (sampler.rollouts.len(), sampler.sampling.micro_batch_size * sampler.sampling.steps_per_generation);
            let corrupt = |reason| {
                let path = checkpoint.join(rollout::ROLLOUTS_FILE);
                Err(CheckpointError::Corrupt { path, reason })
            };
            if found != needed {
                return corrupt(format!("it has {found} completions, and a generation has {needed}"));
            }
            let is_unasked = |rollout: &Rollout| rollout.reference.len() != rollout.log_probs.len();
            if sampler.sampling.asks_reference && sampler.rollouts.iter().any(is_unasked) {
                return corrupt("the reference says nothing of its completions".to_owned());
            }
        }
        Ok(sampler)
    }

    /// The next micro-batch is not the first of its generation.
    fn is_within(&self) -> bool {
        !self.position.micro_batch.is_multiple_of(self.sampling.micro_batches())
    }

    /// Samples and judges the completions of a generation.
    fn sample<K: Kernels>(&mut self, trainer: &mut Trainer<K>, index: usize) -> Result<(), Failure> {
        let number = self.position.epoch * self.plan.len() as u64 + index as u64;
        let seed = self.sampling.seed;
        let random = move |name: &str| Philox::new(seed, stream_of(name) ^ number);
        let options = GenerateOptions { seed: random("rollout").next_u64(), ..self.generation.clone() };
        let (group, prompts) = (self.sampling.advantage.group, self.plan.batch(index));
        let asked = self.prompts.some(&prompts)?;
        let examples: Vec<&Example> = asked.iter().flat_map(|example| std::iter::repeat_n(example, group)).collect();
        let step = trainer.optimizer_step() + 1;
        let context = Context { step, total_steps: self.total_steps, seed: self.sampling.seed };
        let played = self.play(trainer, &asked, &options, &context, number)?;
        let completions = match &played {
            Some(played) => played.episodes.iter().map(Episode::completion).collect(),
            None => self.complete(trainer, &asked, &options)?,
        };
        let items = self.items(&examples, &completions, played.as_ref())?;
        let mut scored = score(&mut self.rewards, &items, group, context)?;
        scored.extend(played.as_ref().map(Played::scored));
        if self.sampling.shuffles_rewards {
            // All of a completion's rewards go to the same other one.
            for scored in &mut scored {
                shuffle(&mut scored.scores, &mut random("shuffled rewards"));
            }
        }
        let values: Vec<Vec<Option<f64>>> =
            scored.iter().map(|scored| scored.scores.iter().map(|score| score.value).collect()).collect();
        let judged = self.sampling.advantage.judge(items.len(), &values);
        let lines = self.told.lines.len();
        self.tell(step, &items, &completions, &scored, &judged);
        if let Some(played) = &played {
            played.describe(&mut self.told.lines[lines..]);
            played.metrics().into_iter().for_each(|(name, value)| self.told.metric(name, value));
        }
        let texts = texts(&examples, &completions, played);
        let mut rollouts = self.rollouts_of(texts, completions, &judged);
        shuffle(&mut rollouts, &mut random("order of rollouts"));
        if self.sampling.keeps_groups {
            // A prompt is read once for all of its completions in a micro-batch.
            for step in rollouts.chunks_mut(self.sampling.micro_batch_size * self.sampling.accumulation) {
                step.sort_by(|a, b| a.prompt().cmp(b.prompt()));
            }
        }
        if self.sampling.asks_reference {
            rollout::ask(trainer, &mut rollouts, self.sampling.micro_batch_size)?;
        }
        self.rollouts = rollouts;
        self.sampled_at = Some(trainer.optimizer_step());
        Ok(())
    }

    /// A group of completions of each prompt.
    fn complete<K: Kernels>(
        &self,
        trainer: &Trainer<K>,
        prompts: &[Example],
        options: &GenerateOptions,
    ) -> Result<Vec<Completion>, Failure> {
        let completions = self.sampling.advantage.group;
        let request = |prompt: &Example| Request { prompt: prompt.tokens.prompt_ids().to_vec(), completions };
        let requests: Vec<Request> = prompts.iter().map(request).collect();
        Ok(generate(trainer.model(), &requests, options, &mut unobserved)?)
    }

    /// A group of episodes about each prompt's row, where there is an environment.
    fn play<K: Kernels>(
        &mut self,
        trainer: &Trainer<K>,
        prompts: &[Example],
        options: &GenerateOptions,
        context: &Context,
        number: u64,
    ) -> Result<Option<Played>, Failure> {
        let Some(episodes) = &mut self.episodes else { return Ok(None) };
        let rows: Vec<String> = prompts.iter().map(|prompt| prompt.row_json.to_string()).collect();
        let seed = self.sampling.seed;
        let mut complete = |asked: &Asked| -> Result<Vec<Completion>, Failure> {
            let Asked { turn, requests, rooms } = asked;
            let seed = Philox::new(seed, stream_of(&format!("turn {turn} of an episode")) ^ number).next_u64();
            let max_new_tokens = rooms.iter().copied().max().unwrap_or(0);
            let options = GenerateOptions { seed, max_new_tokens, ..options.clone() };
            let mut bounded = |written: Written<'_>| {
                let is_full = written.ids.len() >= rooms[written.sequence];
                if is_full { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            };
            Ok(generate(trainer.model(), requests, &options, &mut bounded)?)
        };
        episodes.play(&rows, self.sampling.advantage.group, context, &mut complete).map(Some)
    }

    /// What rewards are told.
    fn items(
        &self,
        examples: &[&Example],
        completions: &[Completion],
        played: Option<&Played>,
    ) -> Result<Vec<Item>, Failure> {
        if let Some((episodes, played)) = self.episodes.as_ref().zip(played) {
            return examples
                .iter()
                .zip(&played.episodes)
                .map(|(example, episode)| episodes.item(example, episode))
                .collect();
        }
        let each = examples.iter().zip(completions);
        each.map(|(example, completion)| item(self.tokenizer, example, completion)).collect()
    }

    fn rollouts_of(&self, texts: Vec<Learned>, completions: Vec<Completion>, judged: &Judged) -> Vec<Rollout> {
        let group = self.sampling.advantage.group;
        let is_equal: Vec<bool> =
            judged.advantages.chunks(group).map(|group| group.iter().all(|advantage| *advantage == 0.0)).collect();
        // A reference has something to tell of every completion.
        let leaves_out = self.sampling.is_token_mean && !self.sampling.asks_reference;
        let rollout = |(index, (text, completion)): (usize, (Learned, Completion))| {
            let is_masked = self.sampling.masks_truncated && !completion.finished();
            Rollout {
                ids: text.0,
                written: text.1,
                log_probs: completion.log_probs,
                reference: Vec::new(),
                advantage: judged.advantages[index],
                is_silent: is_masked || (leaves_out && is_equal[index / group]),
            }
        };
        texts.into_iter().zip(completions).enumerate().map(rollout).collect()
    }

    /// What is to be told of a generation, by TRL's names. A step may have several.
    fn tell(&mut self, step: u64, items: &[Item], completions: &[Completion], scored: &[Scored], judged: &Judged) {
        let told = &mut self.told;
        let mut metric = |name: &str, value: f64| told.metric(name, value);
        let written = |completion: &Completion| completion.log_probs.len() as f64;
        for (which, kept) in [("", false), ("terminated_", true)] {
            let of = completions.iter().filter(|completion| !kept || completion.finished()).map(written);
            let lengths: Vec<f64> = of.collect();
            let (mut mean, mut least, mut most) = (0.0, 0.0, 0.0);
            if !lengths.is_empty() {
                mean = lengths.iter().sum::<f64>() / lengths.len() as f64;
                least = lengths.iter().copied().fold(f64::INFINITY, f64::min);
                most = lengths.iter().copied().fold(0.0, f64::max);
            }
            metric(&format!("completions/mean_{which}length"), mean);
            metric(&format!("completions/min_{which}length"), least);
            metric(&format!("completions/max_{which}length"), most);
        }
        let cut = completions.iter().filter(|completion| !completion.finished()).count();
        metric("completions/clipped_ratio", cut as f64 / completions.len().max(1) as f64);
        let entropies: Vec<f64> =
            completions.iter().flat_map(|completion| &completion.entropies).map(|&one| f64::from(one)).collect();
        if !entropies.is_empty() {
            metric("entropy", entropies.iter().sum::<f64>() / entropies.len() as f64);
        }
        for (name, scored) in self.names.iter().zip(scored) {
            let values: Vec<Option<f64>> = scored.scores.iter().map(|score| score.value).collect();
            let (mean, deviation) = moments(&values);
            metric(&format!("rewards/{name}/mean"), mean);
            metric(&format!("rewards/{name}/std"), deviation);
        }
        let is_judged = !self.names.is_empty();
        if is_judged {
            let (mean, deviation) = moments(&judged.rewards);
            metric("reward", mean);
            metric("reward_std", deviation);
            metric("frac_reward_zero_std", judged.frac_reward_zero_std);
        }
        for (name, scored) in self.names.iter().zip(scored) {
            if let Some(errors) = scored.errors {
                told.count(&format!("rewards/{name}/errors"), errors);
            }
        }
        for (index, scored) in scored.iter().enumerate() {
            self.judges[index] |= scored.scores.iter().any(|score| score.value.is_some());
            if !self.judges[index] {
                // Told once: whether it ever judges is not known before the end.
                self.judges[index] = true;
                let (name, count) = (&self.names[index], items.len());
                let message = format!("the reward `{name}` judged none of the first {count} completions");
                let note = scored.scores.iter().find_map(|score| score.note.as_deref());
                told.remarks.push(abstains(message, note));
            }
        }
        let room = self.sampling.logged.saturating_sub(told.lines.len());
        for (index, item) in items.iter().take(room).enumerate() {
            let mut rewards = Map::new();
            for (name, scored) in self.names.iter().zip(scored) {
                let Score { value, note } = &scored.scores[index];
                rewards.insert(name.clone(), json!({ "value": value, "note": note }));
            }
            let mut line = json!({
                "step": step,
                "prompt": item.prompt,
                "completion": item.completion,
                "finished": item.finished,
            });
            if is_judged {
                line["rewards"] = Value::Object(rewards);
                line["reward"] = json!(judged.rewards[index]);
                line["advantage"] = json!(judged.advantages[index]);
            }
            told.lines.push(line);
        }
    }
}

/// A text, and what of it the model wrote.
type Learned = (Vec<u32>, Vec<Range<usize>>);

fn texts(examples: &[&Example], completions: &[Completion], played: Option<Played>) -> Vec<Learned> {
    if let Some(played) = played {
        return played.episodes.into_iter().map(|episode| (episode.ids, episode.written)).collect();
    }
    let text = |(example, completion): (&&Example, &Completion)| {
        let prompt = example.tokens.prompt_ids();
        let ids: Vec<u32> = prompt.iter().chain(&completion.ids).chain(&completion.end).copied().collect();
        let written = std::iter::once(prompt.len()..ids.len()).collect();
        (ids, written)
    };
    examples.iter().zip(completions).map(text).collect()
}

/// Each reward on a thread of its own, a group of completions at a time.
fn score(rewards: &mut [NamedReward], items: &[Item], group: usize, context: Context) -> Result<Vec<Scored>, Failure> {
    let one = |reward: &mut NamedReward| -> Result<Scored, Failure> {
        let mut all = Scored { scores: Vec::with_capacity(items.len()), errors: None };
        for items in items.chunks(group) {
            let scored = reward.score(items, &context)?;
            all.scores.extend(scored.scores);
            all.errors = scored.errors.map(|errors| errors + all.errors.unwrap_or(0)).or(all.errors);
        }
        Ok(all)
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = rewards.iter_mut().map(|reward| scope.spawn(move || one(reward))).collect();
        let join = |worker: std::thread::ScopedJoinHandle<'_, _>| {
            worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        workers.into_iter().map(join).collect()
    })
}

impl Batches for Sampler<'_> {
    type Batch = Rollouts;

    fn next_step<K: Kernels>(&mut self, trainer: &mut Trainer<K>) -> Result<Vec<Rollouts>, Failure> {
        let (per_generation, size) = (self.sampling.micro_batches(), self.sampling.micro_batch_size);
        if self.position.micro_batch >= self.plan.len() * per_generation {
            self.position = Position { epoch: self.position.epoch + 1, ..Position::default() };
            self.plan = self.sampling.plan(self.prompts, self.position.epoch);
        }
        let mut step: Vec<(Vec<Rollout>, bool)> = Vec::new();
        // Steps do not cross epochs.
        while step.len() < self.sampling.accumulation && self.position.micro_batch < self.plan.len() * per_generation {
            if !self.is_within() {
                self.sample(trainer, self.position.micro_batch / per_generation)?;
            }
            let index = self.position.micro_batch % per_generation % self.sampling.steps_per_generation;
            let is_on_policy = self.sampling.is_exact && self.sampled_at == Some(trainer.optimizer_step());
            step.push((self.rollouts[index * size..(index + 1) * size].to_vec(), is_on_policy));
            self.position.micro_batch += 1;
        }
        Ok(batches(step, self.sampling.is_token_mean))
    }

    fn position(&self) -> Position {
        self.position
    }

    fn epochs(&self) -> f64 {
        let all = self.plan.len() * self.sampling.micro_batches();
        self.position.epoch as f64 + self.position.micro_batch as f64 / all.max(1) as f64
    }

    fn kept(&self) -> Vec<KeptFile> {
        if self.is_within() { vec![rollout::file(&self.rollouts)] } else { Vec::new() }
    }

    fn told(&mut self) -> Told {
        std::mem::take(&mut self.told)
    }
}

/// The micro-batches of a step. What has nothing to tell is left out of a loss that is a mean over tokens, and is there without
/// targets in others; where a step has nothing else, all of it is there, and moves nothing.
fn batches(step: Vec<(Vec<Rollout>, bool)>, is_token_mean: bool) -> Vec<Rollouts> {
    let is_empty = step.iter().flat_map(|(rollouts, _)| rollouts).all(|rollout| rollout.is_silent);
    let batch = |(rollouts, is_on_policy): &(Vec<Rollout>, bool)| {
        let kept: Vec<&Rollout> =
            rollouts.iter().filter(|rollout| is_empty || !is_token_mean || !rollout.is_silent).collect();
        (!kept.is_empty()).then(|| rollout::batch(&kept, is_empty, *is_on_policy))
    };
    step.iter().filter_map(batch).collect()
}
