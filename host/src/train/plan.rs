//! Everything that a run will do, decided before a weight is loaded: samples, steps, schedule, when to log, evaluate and
//! save. What is wrong is said here, while nothing is spent.

use std::collections::BTreeSet;

use engine::optim::AdamWConfig;
use engine::rng::Philox;
use engine::{Trainable, TrainerOptions};
use plugin_runtime::types::ScheduleRun;
use plugin_runtime::{PluginError, PluginHost};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::method::Method;
use super::schedule::{Schedule, Shape};
use crate::check::facts::ModelFacts;
use crate::check::plugins::{SCHEDULE_STEPS, Use, filters, loader, locate, scheduler, strategy_config};
use crate::check::selection;
use crate::checkpoint::directory::hex;
use crate::config::{
    Adapter, Cadence, DatasetConfig, ExcessLengthStrategy, FilterRef, LoadedConfig, LrScheduler, Scheduler,
};
use crate::data::batches::{Epochs, Samples};
use crate::data::cursor::Position;
use crate::data::dataset::{DatasetError, Dropped, Example, ExcessLength, prepare};
use crate::data::filter::DatasetFilter;
use crate::data::packing::{BatchOptions, plan_epoch, shuffle};
use crate::data::render::Making;
use crate::data::slices::{Shard, Slices, count};
use crate::data::source::Source;
use crate::data::steps::StepFormat;
use crate::data::strategy::PromptStrategy;
use crate::data::template::ChatTemplate;
use crate::data::tokenize::{Encoder, TextBudget};
use crate::data::tokenized::Tokenized;
use crate::diagnostic::{Diagnostic, Failure};

/// RNG stream of the split of training and evaluation rows.
const SPLIT_STREAM: u64 = 0x7370_6c69;

/// The samples of a run.
#[derive(Debug)]
pub struct Data {
    /// Trained on, in the order of the files.
    pub train: Vec<Example>,
    /// Evaluated on.
    pub eval: Vec<Example>,
    /// Rows read for training.
    pub rows: u64,
    /// Of those, the ones that have more tokens than `sequence_len` and were left out.
    pub too_long: u64,
    /// Rows left out, both sets together.
    pub dropped: Dropped,
    /// Digest of all training tokens and what of them is learned.
    pub digest: String,
    /// Warnings about the data.
    pub remarks: Vec<Diagnostic>,
}

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
    /// For the engine.
    pub options: TrainerOptions,
    /// Steps that are logged.
    pub log: Every,
    /// Steps after which there is an evaluation.
    pub evaluate: Every,
    /// Steps after which a checkpoint is saved.
    pub save: Every,
}

impl Plan {
    /// Prepares the data and decides the rest. With `keeps_text`, each sample has the text that it was made of.
    pub fn new(
        loaded: &LoadedConfig,
        plugins: &PluginHost,
        model: &ModelFacts,
        template: Option<&ChatTemplate>,
        keeps_text: bool,
    ) -> Result<Self, Failure> {
        let config = &loaded.config;
        let options = trainer_options(loaded, model)?;
        let method = Method::of(config);
        if template.is_none() && method.sampling().is_some_and(|sampling| sampling.episodes.is_some()) {
            return Err(no_template(loaded).into());
        }
        let data = data(loaded, plugins, model, template, &method, keeps_text)?;
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
            seed: config.seed,
        };
        let lengths: Vec<usize> = data.train.iter().map(Example::tokens).collect();
        let accumulation = config.gradient_accumulation_steps as usize;
        let micro_batches_per_epoch = match method.sampling() {
            Some(sampling) => {
                let generations = sampling.generations(lengths.len());
                if generations == 0 {
                    return Err(too_few_prompts(loaded, sampling.prompts(), lengths.len()).into());
                }
                (generations * sampling.micro_batches()) as u64
            }
            None => plan_epoch(&lengths, &packing, 0).len() as u64,
        };
        let steps_per_epoch = micro_batches_per_epoch.div_ceil(accumulation as u64).max(1);
        let by_epochs = (config.num_epochs * steps_per_epoch as f64).ceil().max(1.0) as u64;
        let total_steps = config.max_steps.unwrap_or(by_epochs);
        let schedule = schedule(loaded, plugins, total_steps, steps_per_epoch)?;
        let logging = config.logging_steps.unwrap_or_else(|| (total_steps / 200).clamp(1, 10));
        let per_epoch = |times: u64| steps_per_epoch.div_ceil(times.max(1)).max(1);
        let every = |cadence: Cadence, steps: Option<crate::config::Amount>, times: Option<u64>, default: u64| {
            Every(match cadence {
                Cadence::No => None,
                Cadence::Epoch => Some(steps_per_epoch),
                Cadence::Steps => Some(
                    steps
                        .map(|amount| amount.of(total_steps).max(1))
                        .or_else(|| times.map(per_epoch))
                        .unwrap_or(default),
                ),
            })
        };
        let evaluate = if data.eval.is_empty() {
            Every(None)
        } else {
            every(config.eval_strategy, config.eval_steps, config.evals_per_epoch, logging)
        };
        let save = every(config.save_strategy, config.save_steps, config.saves_per_epoch, 500);
        Ok(Self {
            data,
            packing,
            accumulation,
            micro_batches_per_epoch,
            steps_per_epoch,
            total_steps,
            schedule,
            max_grad_norm: (config.max_grad_norm > 0.0).then_some(config.max_grad_norm),
            method,
            eval_batch_size: config.eval_batch_size.max(1) as usize,
            options,
            log: Every(Some(logging.max(1))),
            evaluate,
            save,
        })
    }

    /// The steps of the training set's samples, from `position` on.
    pub fn epochs<S: Samples>(&self, samples: S, position: Position) -> Epochs<S> {
        Epochs::new(samples, self.packing.clone(), self.accumulation, position)
    }

    /// The data and the length of the run, for rules.
    pub fn to_json(&self) -> Value {
        json!({
            "rows": self.data.rows,
            "samples": self.data.train.len(),
            "eval_samples": self.data.eval.len(),
            "tokens": self.tokens(),
            "trained_tokens": self.trained_tokens(),
            "longest": self.data.train.iter().flat_map(Example::documents).map(|document| document.ids.len()).max(),
            "too_long": self.data.too_long,
            "micro_batches_per_epoch": self.micro_batches_per_epoch,
            "steps_per_epoch": self.steps_per_epoch,
            "total_steps": self.total_steps,
        })
    }

    /// Tokens of the training set.
    pub fn tokens(&self) -> u64 {
        self.data.train.iter().map(|example| example.tokens() as u64).sum()
    }

    /// Tokens of the training set that are learned.
    pub fn trained_tokens(&self) -> u64 {
        self.data.train.iter().map(|example| self.method.trained_tokens(example) as u64).sum()
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

fn trainer_options(loaded: &LoadedConfig, model: &ModelFacts) -> Result<TrainerOptions, Failure> {
    let config = &loaded.config;
    let lora = match config.adapter {
        Some(Adapter::Lora | Adapter::Qlora) => Some(selection::lora(loaded, model)?),
        None => None,
    };
    let trainable = match selection::unfrozen(loaded, model)? {
        Some(names) => Trainable::Named(names.into_iter().collect::<BTreeSet<_>>()),
        None => Trainable::All,
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
    })
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

fn data(
    loaded: &LoadedConfig,
    plugins: &PluginHost,
    model: &ModelFacts,
    template: Option<&ChatTemplate>,
    method: &Method,
    keeps_text: bool,
) -> Result<Data, Failure> {
    let config = &loaded.config;
    let tokenizer = &model.tokenizer;
    let end_of_turn = selection::end_of_turn(loaded, model)?;
    let cuts = config.excess_length_strategy == ExcessLengthStrategy::Truncate;
    let budget = TextBudget::of(config.sequence_len as usize, cuts);
    let excess = match config.excess_length_strategy {
        ExcessLengthStrategy::Drop => ExcessLength::Drop,
        ExcessLengthStrategy::Truncate => ExcessLength::Truncate,
        ExcessLengthStrategy::Raise => ExcessLength::Raise,
    };
    let making = |dataset: &DatasetConfig| {
        let (end_of_turn, train_on_inputs) = (end_of_turn.clone(), config.train_on_inputs);
        let format = StepFormat::default();
        Making {
            encoder: Encoder { tokenizer, template, train_on_inputs, end_of_turn, keeps_text, budget },
            sequence_len: config.sequence_len as usize,
            excess,
            learns: method.learns(),
            steps: StepFormat {
                separator: dataset.step_separator.clone().unwrap_or(format.separator),
                max_completion_length: dataset.max_completion_length.map(|most| most as usize),
                last_only: dataset.train_on_last_step_only,
            },
        }
    };
    let mut dropped = Dropped::default();
    let (mut rows, mut too_long, mut remarks) = (0, 0, Vec::new());
    let mut read =
        |key: &str, datasets: &[DatasetConfig], filters: &[FilterRef], count: bool| -> Result<Vec<Example>, Failure> {
            let mut examples = Vec::new();
            for (index, dataset) in datasets.iter().enumerate() {
                let prepared =
                    one(loaded, plugins, &making(dataset), dataset, &format!("{key}[{index}]"), filters, &mut remarks)?;
                if count {
                    rows += prepared.rows;
                    too_long += prepared.dropped.too_long.rows;
                }
                dropped.add(&prepared.dropped);
                examples.extend(prepared.examples);
            }
            Ok(examples)
        };
    let mut train = read("datasets", &config.datasets, &config.row_filters, true)?;
    let mut eval = read("test_datasets", &config.test_datasets, &[], false)?;
    if !config.val_set_size.is_zero() {
        let count = config.val_set_size.of(train.len() as u64) as usize;
        if count >= train.len() {
            let message = format!("`val_set_size` takes {count} of {} rows; none is left to train on", train.len());
            return Err(Diagnostic::error("config::out-of-range", message)
                .at(loaded.source.nearest_place("val_set_size"))
                .into());
        }
        (train, eval) = split(train, count, config.seed);
    }
    let mut digest = digest(&train);
    if method.sampling().is_some() {
        // Rewards and environments see all columns of a row, and not only what its text is made of.
        let mut hasher = Sha256::new_with_prefix(digest.as_bytes());
        for example in &train {
            hasher.update((example.row_json.len() as u64).to_le_bytes());
            hasher.update(example.row_json.as_bytes());
        }
        digest = hex(&hasher.finalize());
    }
    Ok(Data { train, eval, rows, too_long, dropped, digest, remarks })
}

fn one(
    loaded: &LoadedConfig,
    plugins: &PluginHost,
    making: &Making<'_>,
    dataset: &DatasetConfig,
    path: &str,
    common: &[FilterRef],
    remarks: &mut Vec<Diagnostic>,
) -> Result<crate::data::dataset::Prepared, Failure> {
    let file = loaded.resolve(&dataset.path);
    let mut source = rows(loaded, plugins, dataset, path, remarks)?;
    let mut uses = filters(loaded, "row_filters", common);
    uses.extend(filters(loaded, &format!("{path}.row_filters"), &dataset.row_filters));
    let mut started: Vec<DatasetFilter> = Vec::new();
    for (used, config) in uses.iter().zip(common.iter().chain(&dataset.row_filters)) {
        let filter = plugins.filter(&used.name, &used.config_json).map_err(|error| locate(loaded, used, error))?;
        let (plugin, path, min_score) = (used.name.clone(), used.path.clone(), config.min_score);
        started.push(DatasetFilter { plugin, path, min_score, filter: Box::new(filter) });
    }
    let strategy = Use {
        kind: plugin_runtime::Kind::PromptStrategy,
        name: dataset.strategy.name.clone(),
        config_json: strategy_config(loaded, dataset, path),
        path: format!("{path}.type"),
        data: None,
    };
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let mut strategies: Vec<Box<dyn PromptStrategy>> = Vec::new();
    for _ in 0..threads {
        if dataset.is_tokenized() {
            strategies.push(Box::new(Tokenized));
            continue;
        }
        let instance = plugins
            .strategy(&strategy.name, &strategy.config_json)
            .map_err(|error| locate(loaded, &strategy, error))?;
        strategies.push(Box::new(instance));
    }
    prepare(&file, &mut *source, &mut started, &mut strategies, making).map_err(|error| {
        let filter_place = match error {
            DatasetError::Filter { index, error } => return locate(loaded, &uses[index], error).into(),
            DatasetError::NoScores { index, .. } => {
                loaded.source.nearest_place(&format!("{}.min_score", uses[index].path))
            }
            _ => None,
        };
        let mut failure = Failure::from(error);
        for diagnostic in failure.0.iter_mut().filter(|diagnostic| diagnostic.place.is_none()) {
            if filter_place.is_some() {
                diagnostic.place.clone_from(&filter_place);
                continue;
            }
            let key = if diagnostic.plugin.as_deref() == Some(&strategy.name) { &strategy.path } else { path };
            diagnostic.place = loaded.source.nearest_place(key);
        }
        failure
    })
}

/// The rows of a dataset that its `split` and `shards` mean.
fn rows(
    loaded: &LoadedConfig,
    plugins: &PluginHost,
    dataset: &DatasetConfig,
    entry: &str,
    remarks: &mut Vec<Diagnostic>,
) -> Result<Box<dyn Source>, Failure> {
    let file = loaded.resolve(&dataset.path);
    let at = |diagnostic: Diagnostic, key: &str| diagnostic.at(loaded.source.nearest_place(&format!("{entry}.{key}")));
    let (mut sources, mut total): (Vec<(Box<dyn Source>, _)>, u64) = (Vec::new(), 0);
    for part in &dataset.split.parts {
        let used = loader(dataset, entry, &part.name);
        let open = || plugins.loader(&used.name, &used.config_json, &file);
        let failed = |error: PluginError| Failure::from(locate(loaded, &used, error));
        let mut source = open().map_err(failed)?;
        if part.is_whole() && dataset.shards.is_none() {
            sources.push((Box::new(source), 0..u64::MAX));
            continue;
        }
        let count = match source.len().map_err(failed)? {
            Some(count) => count,
            None => {
                let enough = part.enough().filter(|_| dataset.shards.is_none());
                count(&mut open().map_err(failed)?, enough).map_err(failed)?
            }
        };
        let range = part.of(count);
        let rows = if count == 1 { "1 row".to_owned() } else { format!("{count} rows") };
        if range.is_empty() && count > 0 {
            let message = format!("`{}` selects no row of `{}`, which has {rows}", part.text, dataset.path);
            let help = "name more: `split: train[:100]`, or `split: train` for all of them";
            return Err(at(Diagnostic::error("data::empty", message), "split").help(help).into());
        }
        if part.farthest().is_some_and(|farthest| farthest > count) {
            let message = format!("`{}` goes beyond `{}`, which has {rows}", part.text, dataset.path);
            let why =
                format!("it selects {} rows: like `datasets`, a slice ends at the last row", range.end - range.start);
            remarks.push(at(Diagnostic::warning("data::slice", message), "split").why(why));
        }
        total += range.end - range.start;
        sources.push((Box::new(source), range));
    }
    let source = Box::new(Slices::new(sources));
    let Some(shards) = dataset.shards else { return Ok(source) };
    let shard = Shard::new(source, total, shards.into(), dataset.shards_idx.into(), loaded.config.seed);
    if shard.rows() == 0 && total > 0 {
        let message = format!("shard {} of {shards} has no row: there are {total}", dataset.shards_idx);
        return Err(at(Diagnostic::error("data::empty", message), "shards").help("lower `shards`").into());
    }
    Ok(Box::new(shard))
}

/// Takes `count` samples out at random; both parts keep their order.
fn split(examples: Vec<Example>, count: usize, seed: u64) -> (Vec<Example>, Vec<Example>) {
    let mut order: Vec<usize> = (0..examples.len()).collect();
    shuffle(&mut order, &mut Philox::new(seed, SPLIT_STREAM));
    let held: BTreeSet<usize> = order.into_iter().take(count).collect();
    let (mut train, mut eval) = (Vec::new(), Vec::new());
    for (index, example) in examples.into_iter().enumerate() {
        if held.contains(&index) { eval.push(example) } else { train.push(example) }
    }
    (train, eval)
}

/// Digest of all tokens and of what of them is learned.
pub(super) fn digest(examples: &[Example]) -> String {
    let mut hasher = Sha256::new();
    for (example, tokens) in
        examples.iter().flat_map(|example| example.documents().map(move |tokens| (example, tokens)))
    {
        if let Some(desirable) = example.desirable {
            hasher.update([u8::from(desirable)]);
        }
        if let Some(margin) = example.margin {
            hasher.update(margin.to_le_bytes());
        }
        for label in &example.labels {
            hasher.update(label.to_le_bytes());
        }
        hasher.update((tokens.ids.len() as u64).to_le_bytes());
        for (index, (id, trained)) in tokens.ids.iter().zip(&tokens.trained).enumerate() {
            let weight = tokens.weights.as_ref().map_or(1.0, |weights| weights[index]);
            hasher.update(id.to_le_bytes());
            hasher.update([u8::from(*trained)]);
            hasher.update(weight.to_le_bytes());
        }
    }
    hex(&hasher.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::tokenize::TokenSample;

    fn examples(count: u32) -> Vec<Example> {
        let tokens = |id| TokenSample { ids: vec![id], trained: vec![true], weights: None };
        (0..count)
            .map(|id| Example {
                tokens: tokens(id),
                rejected: None,
                desirable: None,
                margin: None,
                labels: Vec::new(),
                row_json: "{}".into(),
                origin: None,
            })
            .collect()
    }

    #[test]
    fn a_split_takes_the_asked_count_and_loses_nothing() {
        let ids = |examples: &[Example]| examples.iter().map(|example| example.tokens.ids[0]).collect::<Vec<_>>();
        let (train, eval) = split(examples(100), 7, 3);
        assert_eq!((train.len(), eval.len()), (93, 7));
        assert!(ids(&train).is_sorted() && ids(&eval).is_sorted());
        let (_, again) = split(examples(100), 7, 3);
        assert_eq!(ids(&eval), ids(&again));
        assert_ne!(ids(&eval), ids(&split(examples(100), 7, 4).1));
    }

    #[test]
    fn every_is_due_at_its_multiples() {
        assert_eq!((1..=6).filter(|&step| Every(Some(3)).is_due(step)).collect::<Vec<_>>(), [3, 6]);
        assert!(!Every(None).is_due(3) && !Every(None).ever());
        assert_eq!([Every(Some(3)).times(6), Every(Some(3)).times(7), Every(None).times(7)], [2, 3, 0]);
    }
}
