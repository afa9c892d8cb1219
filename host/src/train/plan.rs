//! Everything that a run will do, decided before a weight is loaded: samples, steps, schedule, when to log, evaluate and
//! save. What is wrong is said here, while nothing is spent.

use std::collections::BTreeMap;

use engine::optim::{AdamWConfig, Lisa, Rate, Rules};
use engine::{Trainable, TrainerOptions};
use plugin_runtime::PluginHost;
use plugin_runtime::types::ScheduleRun;
use serde_json::{Value, json};

use super::best::Judge;
use super::method::Method;
use super::schedule::{Schedule, Shape};
use super::spectrum::{self, Chosen};
use crate::check::facts::ModelFacts;
use crate::check::plugins::{SCHEDULE_STEPS, locate, scheduler};
use crate::check::selection::{self, Unfrozen};
use crate::config::{Adapter, Amount, Cadence, Config, LoadedConfig, LrScheduler, SaveStrategy, Scheduler};
use crate::data::batches::{Epochs, Samples};
use crate::data::cursor::Position;
use crate::data::packing::{BatchOptions, plan_epoch};
use crate::data::store::StoreError;
use crate::data::template::ChatTemplate;
use crate::diagnostic::{Diagnostic, Failure};
use crate::samples::{Data, Preparing};

/// When something happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Every(Option<u64>);

impl Every {
    /// True after `step` finished steps if it is due then.
    pub fn is_due(self, step: u64) -> bool {
        self.0.is_some_and(|every| step.is_multiple_of(every))
    }

    /// How often something is done in `steps` steps that is also done after the last, if it ever is.
    pub fn times(self, steps: u64) -> u64 {
        self.0.map_or(0, |every| steps.div_ceil(every))
    }

    /// True if it ever is due.
    pub fn ever(self) -> bool {
        self.0.is_some()
    }
}

/// A run, decided.
#[derive(Debug)]
pub struct Plan {
    /// The samples.
    pub data: Data,
    /// They are a stream: `data` has its first window, and an epoch is taken to be as long as the run.
    pub streams: bool,
    /// Tokens of the training set.
    pub tokens: u64,
    /// Of those, the ones that are learned.
    pub trained_tokens: u64,
    /// Samples that an epoch sees.
    pub epoch_samples: u64,
    /// Tokens that an epoch sees.
    pub epoch_tokens: u64,
    /// Tokens of its longest text.
    pub longest: usize,
    /// How they form micro-batches.
    pub packing: BatchOptions,
    /// Micro-batches per optimizer step.
    pub accumulation: usize,
    /// Micro-batches per epoch.
    pub micro_batches_per_epoch: u64,
    /// Optimizer steps per epoch.
    pub steps_per_epoch: u64,
    /// Optimizer steps of the run.
    pub total_steps: u64,
    /// Learning rate.
    pub schedule: Schedule,
    /// Clip to this; none leaves gradients alone.
    pub max_grad_norm: Option<f64>,
    /// What is learned.
    pub method: Method,
    /// Samples in a forward pass of an evaluation.
    pub eval_batch_size: usize,
    /// What `spectrum_top_fraction` has chosen.
    pub spectrum: Option<Chosen>,
    /// For the engine.
    pub options: TrainerOptions,
    /// Steps that are logged.
    pub log: Every,
    /// Steps after which there is an evaluation.
    pub evaluate: Every,
    /// Steps after which a checkpoint is saved.
    pub save: Every,
    /// What is made of the best evaluation.
    pub judge: Option<Judge>,
}

impl Plan {
    /// Prepares the data and decides the rest.
    pub fn new(
        loaded: &LoadedConfig,
        plugins: &PluginHost,
        model: &ModelFacts,
        template: Option<&ChatTemplate>,
    ) -> Result<Self, Failure> {
        let config = &loaded.config;
        let spectrum = spectrum::chosen(loaded, model)?;
        let options = trainer_options(loaded, model, spectrum.as_ref())?;
        let method = Method::of(config);
        if template.is_none() && method.sampling().is_some_and(|sampling| sampling.episodes.is_some()) {
            return Err(no_template(loaded).into());
        }
        let data = Preparing { loaded, plugins, model, template, learns: method.learns() }.samples()?;
        if method.is_mismatched()
            && let Some(alone) = alone(loaded, &data)
        {
            return Err(alone.into());
        }
        let packing = BatchOptions {
            micro_batch_size: config.micro_batch_size as usize,
            sequence_len: config.sequence_len as usize,
            sample_packing: config.sample_packing,
            shuffle: config.shuffle_merged_datasets,
            mix: data.train.mix(),
            seed: config.seed,
        };
        let lengths = data.train.lengths()?;
        let epoch_samples = packing.mix.samples(lengths.len());
        if epoch_samples > u64::from(u32::MAX) {
            let message = format!("an epoch would see {epoch_samples} samples; the most is {}", u32::MAX);
            let place = loaded.source.nearest_place("datasets");
            let help = "lower the `weight` of datasets, and raise `num_epochs`";
            return Err(Diagnostic::error("config::out-of-range", message).at(place).help(help).into());
        }
        let accumulation = config.gradient_accumulation_steps as usize;
        let micro_batches_per_epoch = match method.sampling() {
            Some(sampling) => {
                let generations = sampling.generations(epoch_samples as usize);
                if generations == 0 {
                    return Err(too_few_prompts(loaded, sampling.prompts(), epoch_samples as usize).into());
                }
                (generations * sampling.micro_batches()) as u64
            }
            None if config.streaming => config.max_steps.unwrap_or(1).saturating_mul(accumulation as u64),
            None => plan_epoch(&lengths, &packing, 0).len() as u64,
        };
        let steps_per_epoch = micro_batches_per_epoch.div_ceil(accumulation as u64).max(1);
        let by_epochs = (config.num_epochs * steps_per_epoch as f64).ceil().max(1.0) as u64;
        let total_steps = config.max_steps.unwrap_or(by_epochs);
        let schedule = schedule(loaded, plugins, total_steps, steps_per_epoch)?;
        let logging = config.logging_steps.unwrap_or_else(|| (total_steps / 200).clamp(1, 10));
        let per_epoch = |times: u64| steps_per_epoch.div_ceil(times.max(1)).max(1);
        let by_steps = |steps: Option<Amount>, times: Option<u64>, default: u64| {
            let steps = steps.map(|amount| amount.of(total_steps).max(1));
            Every(Some(steps.or_else(|| times.map(per_epoch)).unwrap_or(default)))
        };
        let evaluate = match config.eval_strategy {
            _ if data.eval.is_empty() => Every(None),
            Cadence::No => Every(None),
            Cadence::Epoch => Every(Some(steps_per_epoch)),
            Cadence::Steps => by_steps(config.eval_steps, config.evals_per_epoch, logging),
        };
        let save = match config.save_strategy {
            SaveStrategy::No | SaveStrategy::Best => Every(None),
            SaveStrategy::Epoch => Every(Some(steps_per_epoch)),
            SaveStrategy::Steps => by_steps(config.save_steps, config.saves_per_epoch, 500),
        };
        let (mut tokens, mut trained_tokens, mut longest, mut epoch_tokens) = (0, 0, 0, 0.0);
        let times = packing.mix.times().chain(std::iter::repeat(1.0));
        for (sizes, times) in data.train.sizes().zip(times) {
            let sizes = sizes?;
            tokens += sizes.tokens() as u64;
            epoch_tokens += sizes.tokens() as f64 * times;
            trained_tokens += method.trained_tokens(&sizes) as u64;
            longest = longest.max(sizes.longest());
        }
        Ok(Self {
            data,
            streams: config.streaming,
            tokens,
            trained_tokens,
            epoch_samples,
            epoch_tokens: epoch_tokens.round() as u64,
            longest,
            packing,
            accumulation,
            micro_batches_per_epoch,
            steps_per_epoch,
            total_steps,
            schedule,
            max_grad_norm: (config.max_grad_norm > 0.0).then_some(config.max_grad_norm),
            method,
            eval_batch_size: config.eval_batch_size.max(1) as usize,
            spectrum,
            options,
            log: Every(Some(logging.max(1))),
            evaluate,
            save,
            judge: Judge::of(config),
        })
    }

    /// Checkpoints that the run saves at most.
    pub fn saves(&self) -> u64 {
        let of_best = self.judge.as_ref().filter(|judge| judge.saves);
        let of_best = of_best.map_or(0, |_| self.evaluate.times(self.total_steps).max(1));
        self.save.times(self.total_steps) + of_best
    }

    /// The steps of the training set's samples, from `position` on.
    ///
    /// # Errors
    /// Samples that cannot be read.
    pub fn epochs<S: Samples>(&self, samples: S, position: Position) -> Result<Epochs<S>, StoreError> {
        Epochs::new(samples, self.packing.clone(), self.accumulation, position)
    }

    /// The data and the length of the run, for rules.
    pub fn to_json(&self) -> Value {
        json!({
            "rows": self.data.rows,
            "streaming": self.streams,
            "samples": self.data.train.len(),
            "eval_samples": self.data.eval.len(),
            "tokens": self.tokens,
            "trained_tokens": self.trained_tokens,
            "epoch_samples": self.epoch_samples,
            "longest": self.longest,
            "too_long": self.data.too_long,
            "micro_batches_per_epoch": self.micro_batches_per_epoch,
            "steps_per_epoch": self.steps_per_epoch,
            "total_steps": self.total_steps,
        })
    }
}

/// That a set has a single sample, where each needs another one beside it.
fn alone(loaded: &LoadedConfig, data: &Data) -> Option<Diagnostic> {
    let is_held_out = !loaded.config.val_set_size.is_zero();
    let of_eval = if is_held_out { "val_set_size" } else { "test_datasets" };
    let sets = [(&data.train, "datasets", "train"), (&data.eval, of_eval, "evaluate")];
    let (_, key, what) = sets.into_iter().find(|(samples, ..)| samples.len() == 1)?;
    let diagnostic = Diagnostic::error("data::alone", format!("`rl: kto` has a single sample to {what} on"))
        .at(loaded.source.nearest_place(key))
        .why("how far the model is from where it began is estimated from prompts with the answers to others")
        .help("add rows, or write `kto_loss_type: apo_zero_unpaired`, which has no such estimate");
    Some(diagnostic)
}

fn no_template(loaded: &LoadedConfig) -> Diagnostic {
    Diagnostic::error("config::conflict", "`environment` needs a chat template, and the model has none")
        .at(loaded.source.nearest_place("environment"))
        .why("the messages of an environment become text through it")
        .help("set one: `chat_template: chatml`")
}

fn too_few_prompts(loaded: &LoadedConfig, needed: usize, found: usize) -> Diagnostic {
    let config = &loaded.config;
    let group = config.trl.as_ref().map_or(1, |trl| trl.num_generations);
    let message = format!("{found} prompts cannot fill a generation of {needed}");
    Diagnostic::error("config::out-of-range", message)
        .at(loaded.source.nearest_place("micro_batch_size"))
        .why(format!(
            "`micro_batch_size` x `trl.steps_per_generation` completions are sampled together, {group} of each prompt"
        ))
        .help("lower `micro_batch_size` or `gradient_accumulation_steps`, or add rows")
}

fn trainer_options(
    loaded: &LoadedConfig,
    model: &ModelFacts,
    spectrum: Option<&Chosen>,
) -> Result<TrainerOptions, Failure> {
    let config = &loaded.config;
    let lora = match config.adapter {
        Some(Adapter::Lora | Adapter::Qlora) => Some(selection::lora(loaded, model)?),
        None => None,
    };
    let (trainable, rows) = match (spectrum, selection::unfrozen(loaded, model)?) {
        (Some(chosen), _) => (Trainable::Named(chosen.names.clone()), BTreeMap::new()),
        (None, Some(Unfrozen { names, rows })) => (Trainable::Named(names), rows),
        (None, None) => (Trainable::All, BTreeMap::new()),
    };
    Ok(TrainerOptions {
        trainable,
        lora,
        gradient_checkpointing: config.gradient_checkpointing,
        seed: config.seed,
        adamw: AdamWConfig {
            beta1: config.adam_beta1,
            beta2: config.adam_beta2,
            eps: config.adam_epsilon,
            weight_decay: config.weight_decay,
        },
        rules: Rules { rates: rates(config), rows },
        lisa: lisa(loaded, model)?,
        neftune: config.techniques.neftune_noise_alpha,
    })
}

/// The layers that are drawn, where they are.
fn lisa(loaded: &LoadedConfig, model: &ModelFacts) -> Result<Option<Lisa>, Failure> {
    let own = &loaded.config.techniques;
    let Some((count, interval)) = own.lisa_n_layers.zip(own.lisa_step_interval) else { return Ok(None) };
    let (layers, all) = (count as usize, model.config.num_hidden_layers);
    if layers > all {
        let message = format!("`lisa_n_layers` is {count}, but the model has {all} layers");
        let place = loaded.source.nearest_place("lisa_n_layers");
        let help = "write fewer: two are what its authors train at a time";
        return Err(Diagnostic::error("config::out-of-range", message).at(place).help(help).into());
    }
    Ok(Some(Lisa { layers, interval }))
}

/// The learning rates that differ from the run's, as factors of it.
fn rates(config: &Config) -> Vec<Rate> {
    let own = &config.techniques;
    let rate = |within: &str, factor: f64| Rate { within: within.to_owned(), factor, keeps: false };
    let of_groups = own
        .lr_groups
        .iter()
        .flat_map(|group| group.modules.iter().map(move |module| rate(module, group.lr / config.learning_rate)));
    let of_embeddings = own.embedding_lr_scale.or_else(|| own.embedding_lr.map(|lr| lr / config.learning_rate));
    let of_embeddings = of_embeddings
        .into_iter()
        .flat_map(|factor| ["embed_tokens", "lm_head"].map(|name| Rate { keeps: true, ..rate(name, factor) }));
    let of_b = own.loraplus_lr_ratio.into_iter();
    let of_b = of_b.flat_map(|ratio| [".lora_B.", ".lora_magnitude_vector"].map(|name| rate(name, ratio)));
    of_groups.chain(of_b).chain(of_embeddings).collect()
}

fn schedule(
    loaded: &LoadedConfig,
    plugins: &PluginHost,
    total_steps: u64,
    steps_per_epoch: u64,
) -> Result<Schedule, Failure> {
    let config = &loaded.config;
    let warmup_steps = config.warmup_of(total_steps);
    let run = ScheduleRun { total_steps, warmup_steps, steps_per_epoch };
    let shape = match &config.lr_scheduler {
        Scheduler::BuiltIn(LrScheduler::Cosine) => Shape::Cosine,
        Scheduler::BuiltIn(LrScheduler::Linear) => Shape::Linear,
        Scheduler::BuiltIn(LrScheduler::Constant) => Shape::Constant,
        Scheduler::BuiltIn(LrScheduler::ConstantWithWarmup) => Shape::ConstantWithWarmup,
        Scheduler::Plugin(_) => Shape::Factors(factors(loaded, plugins, run)?),
    };
    let (peak, min_ratio) = (config.learning_rate, config.cosine_min_lr_ratio);
    Ok(Schedule { shape, peak, warmup_steps, total_steps, min_ratio })
}

/// The factors of every step, from the plugin that `lr_scheduler` names: what is wrong with them is said before the start.
fn factors(loaded: &LoadedConfig, plugins: &PluginHost, run: ScheduleRun) -> Result<Vec<f64>, Failure> {
    let Some(used) = scheduler(loaded) else { return Ok(Vec::new()) };
    let steps = run.total_steps;
    if steps > SCHEDULE_STEPS {
        let message = format!("a run of {steps} steps is too long for the schedule plugin `{}`", used.name);
        let diagnostic = Diagnostic::error("config::out-of-range", message)
            .why(format!("all factors are fetched before the run starts, {SCHEDULE_STEPS} at most"))
            .help("lower `max_steps` or `num_epochs`, or use a built-in `lr_scheduler`");
        return Err(loaded.locate(diagnostic, "lr_scheduler").into());
    }
    let curve = plugins.curve(&used.name, &used.config_json, run);
    let factors = curve.and_then(|mut curve| curve.factors(steps));
    Ok(factors.map_err(|error| locate(loaded, &used, error))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_is_due_at_its_multiples() {
        assert_eq!((1..=6).filter(|&step| Every(Some(3)).is_due(step)).collect::<Vec<_>>(), [3, 6]);
        assert!(!Every(None).is_due(3) && !Every(None).ever());
        assert_eq!([Every(Some(3)).times(6), Every(Some(3)).times(7), Every(None).times(7)], [2, 3, 0]);
    }
}
