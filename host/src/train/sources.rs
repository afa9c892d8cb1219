//! Where the steps of a run come from: for its method, the objective, what it learns from and what it is evaluated on, built in
//! one place for whoever makes steps of them.

use std::sync::mpsc::sync_channel;

use engine::generate::GenerateOptions;
use engine::kernels::cpu::instructions;
use engine::{CrossEntropy, Objective};
use plugin_runtime::PluginHost;

use super::method::Method;
use super::plan::Plan;
use super::reference::Reference;
use super::stream::{self, Stream};
use crate::check::facts::ModelFacts;
use crate::check::{plugins, selection};
use crate::checkpoint::load::Checkpoint;
use crate::config::{LoadedConfig, RewardRef};
use crate::data::batches::{Batches, KeptFile, PairsOf, Samples, ScoredPairsOf, StepsOf, Texts, WholePairsOf};
use crate::data::cursor::Position;
use crate::data::set::Set;
use crate::data::store::StoreError;
use crate::data::template::ChatTemplate;
use crate::data::tokenize::{Encoder, TextBudget};
use crate::data::unpaired::UnpairedOf;
use crate::device::Device;
use crate::diagnostic::Failure;
use crate::rl::episode::Episodes;
use crate::rl::reward::NamedReward;
use crate::rl::sampler::{Sampler, Sampling};
use crate::samples::Preparing;

/// Why there is a reference.
const ASKED: &str = "whoever gives a method its samples has asked the reference what the method asks";

/// What is done with the steps of a run, whatever its method.
pub trait Work {
    /// What comes of it.
    type Done;

    /// Does it. `eval` are the batches of an evaluation.
    ///
    /// # Errors
    /// What ends it.
    fn work<O: Objective, B: Batches<Batch = O::Batch>>(
        self,
        objective: O,
        batches: B,
        eval: Vec<O::Batch>,
    ) -> Result<Self::Done, Failure>;
}

/// What steps are made from.
#[derive(Clone, Copy)]
pub struct Sources<'a> {
    /// The config.
    pub loaded: &'a LoadedConfig,
    /// The plugins that it names, among others.
    pub plugins: &'a PluginHost,
    /// The model that it names.
    pub model: &'a ModelFacts,
    /// How conversations become text.
    pub template: Option<&'a ChatTemplate>,
    /// What the run will do.
    pub plan: &'a Plan,
    /// Where.
    pub device: &'a Device,
}

impl<'a> Sources<'a> {
    /// Gives `work` the steps of the run's method, from its start or from where `checkpoint` is. `reference` is there where the
    /// method asks one.
    ///
    /// # Errors
    /// A plugin that does not start, a checkpoint that lacks what it must have, and whatever ends the work.
    pub fn give<W: Work>(
        &self,
        reference: Option<&Reference>,
        checkpoint: Option<&Checkpoint>,
        work: W,
    ) -> Result<W::Done, Failure> {
        let plan = self.plan;
        let (train, eval) = (&plan.data.train, &plan.data.eval);
        let position = checkpoint.map_or_else(Position::default, |checkpoint| checkpoint.state.position);
        let kept = reference.map(|reference| reference.file(plan));
        let kept = kept.as_ref();
        match &plan.method {
            Method::Supervised if plan.streams => {
                let Self { loaded, plugins, model, template, .. } = *self;
                let preparing = Preparing { loaded, plugins, model, template, learns: plan.method.learns() };
                let eval = self.chunks(&Texts(eval))?;
                std::thread::scope(|scope| {
                    // The next window is made, and then waits, while this one is learned from.
                    let (windows, made) = sync_channel(0);
                    scope.spawn(move || stream::make(preparing, position, &windows));
                    // Gone at the end of the work, however it ends: then nothing more is made.
                    let batches = Stream::new(made, plan.packing.clone(), plan.accumulation, position);
                    work.work(CrossEntropy, batches, eval)
                })
            }
            Method::Supervised => {
                work.work(CrossEntropy, plan.epochs(Texts(train), position)?, self.chunks(&Texts(eval))?)
            }
            Method::Cpo(objective) => {
                let pairs = |set| PairsOf { set, reference: None, kept: None };
                work.work(objective.clone(), plan.epochs(pairs(train), position)?, self.chunks(&pairs(eval))?)
            }
            Method::Orpo(objective) => {
                let batches = plan.epochs(WholePairsOf(train), position)?;
                work.work(objective.clone(), batches, self.chunks(&WholePairsOf(eval))?)
            }
            Method::Reward(objective) => {
                let pairs = |set| ScoredPairsOf { set, pad: self.model.config.pad_token_id };
                work.work(*objective, plan.epochs(pairs(train), position)?, self.chunks(&pairs(eval))?)
            }
            Method::Steps(objective) => {
                work.work(*objective, plan.epochs(StepsOf(train), position)?, self.chunks(&StepsOf(eval))?)
            }
            Method::Preference(objective) => {
                let reference = reference.expect(ASKED);
                let pairs = |set, reference| PairsOf { set, reference: Some(reference), kept };
                let batches = plan.epochs(pairs(train, reference.train.as_chunks().0), position)?;
                work.work(objective.clone(), batches, self.chunks(&pairs(eval, reference.eval.as_chunks().0))?)
            }
            Method::Kto(objective) => {
                let reference = reference.expect(ASKED);
                let batches = plan.epochs(self.unpaired(train, &reference.train, kept), position)?;
                work.work(objective.clone(), batches, self.chunks(&self.unpaired(eval, &reference.eval, kept))?)
            }
            Method::Grpo(objective, sampling) => {
                work.work(*objective, self.sampler(sampling, position, checkpoint)?, Vec::new())
            }
            Method::Distill(objective, sampling) => {
                work.work(*objective, self.sampler(sampling, position, checkpoint)?, Vec::new())
            }
        }
    }

    /// Answers that are wanted or not, with what the reference says of them.
    fn unpaired<'s>(&self, set: &'s Set, reference: &'s [f64], kept: Option<&'s KeptFile>) -> UnpairedOf<'s> {
        let (sequence_len, is_mismatched) = (self.plan.packing.sequence_len, self.plan.method.is_mismatched());
        UnpairedOf { set, sequence_len, reference, is_mismatched, kept }
    }

    /// The batches of an evaluation.
    fn chunks<S: Samples>(&self, samples: &S) -> Result<Vec<S::Batch>, StoreError> {
        samples.chunks(self.plan.eval_batch_size)
    }

    /// The source of steps of what the model writes.
    fn sampler(
        &self,
        sampling: &Sampling,
        position: Position,
        checkpoint: Option<&Checkpoint>,
    ) -> Result<Sampler<'a>, Failure> {
        let trl = self.loaded.config.trl.iter().flat_map(|trl| &trl.reward_funcs);
        let rewards = self.rewards(plugins::learned_rewards(self.loaded), trl)?;
        let generation = GenerateOptions {
            max_new_tokens: sampling.max_completion_length,
            do_sample: true,
            // Of a teacher's, the pass that learns tells it.
            tells_entropy: !matches!(self.plan.method, Method::Distill(..)),
            ..self.generation_options()?
        };
        let (prompts, tokenizer) = (&self.plan.data.train, &self.model.tokenizer);
        let from = checkpoint.map(|checkpoint| checkpoint.path.as_path());
        // A matrix unit sums large products, such as those of training, in an order of its own.
        let is_exact = sampling.is_exact && *self.device == Device::Cpu && !instructions().contains(&"AMX");
        let episodes = self.episodes(sampling)?;
        let (sampling, steps) = (Sampling { is_exact, ..sampling.clone() }, self.plan.total_steps);
        Ok(Sampler::new(sampling, prompts, tokenizer, generation, rewards, episodes, steps, position, from)?)
    }

    /// The environment of the config, started.
    fn episodes(&self, sampling: &Sampling) -> Result<Option<Episodes<'a>>, Failure> {
        let config = &self.loaded.config;
        let used = plugins::environment(self.loaded).zip(config.environment.as_ref()).zip(sampling.episodes);
        let Some(((used, reference), limits)) = used else { return Ok(None) };
        let environment = self
            .plugins
            .environment(&used.name, &used.config_json)
            .map_err(|error| plugins::locate(self.loaded, &used, error))?;
        let encoder = Encoder {
            tokenizer: &self.model.tokenizer,
            template: self.template,
            train_on_inputs: false,
            end_of_turn: Vec::new(),
            keeps_text: false,
            budget: TextBudget::of(limits.sequence_len, false),
        };
        let (name, on_error) = (used.name, reference.on_error);
        Ok(Some(Episodes { name, environment: Box::new(environment), on_error, limits, encoder }))
    }

    /// Some rewards of the config, started.
    pub fn rewards<'r>(
        &self,
        uses: Vec<plugins::Use>,
        references: impl IntoIterator<Item = &'r RewardRef>,
    ) -> Result<Vec<NamedReward>, Failure> {
        let mut rewards = Vec::new();
        for (used, reference) in uses.into_iter().zip(references) {
            let scorer = self
                .plugins
                .scorer(&used.name, &used.config_json)
                .map_err(|error| plugins::locate(self.loaded, &used, error))?;
            rewards.push(NamedReward::new(used.name, scorer, reference.on_error));
        }
        Ok(rewards)
    }

    /// How the model writes, greedily.
    pub fn generation_options(&self) -> Result<GenerateOptions, Failure> {
        let config = &self.loaded.config;
        let eos_token_ids = self.model.end_tokens(&selection::end_of_turn(self.loaded, self.model)?);
        let max_new_tokens = config.eval_max_new_tokens as usize;
        Ok(GenerateOptions { max_new_tokens, eos_token_ids, seed: config.seed, ..GenerateOptions::default() })
    }
}
