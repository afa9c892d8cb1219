//! A whole run as a library: [`Job::new`] decides all of it, [`Job::measure`] tries it, [`Job::run`] makes it.

use std::path::{Path, PathBuf};
use std::time::Instant;

use engine::files::peft;
use engine::kernels::Kernels;
use engine::kernels::cpu::CpuKernels;
use engine::weights::{WeightSource, digest};
use engine::{Objective, Trainable, Trainer};
use plugin_runtime::types::HealthRun;
use plugin_runtime::{Kind, PluginHost};
use serde_json::{Map, Value, json};

use super::cost::Cost;
use super::eval::{Evaluation, Shown};
use super::files::{card, model_files};
use super::health::{StopAdvice, Watch};
use super::measure::{self, Measuring, Time};
use super::method::Method;
use super::output::{Existing, FINISHED, OutputDirectory, STOPPED_EARLY, described, description};
use super::plan::Plan;
use super::reference::Reference;
use super::run::{Ending as Ended, Outcome, Run};
use super::signal::{Signal, StopSignal};
use super::sources::{Sources, Work};
use crate::check::facts::ModelFacts;
use crate::check::{plugins, rules, selection};
use crate::checkpoint::CheckpointError;
use crate::checkpoint::directory::replace_file;
use crate::checkpoint::load::{ADAPTER_DIGEST, BASE_DIGEST, Checkpoint};
use crate::checkpoint::owned::{METRICS_FILE, RESOLVED_FILE};
use crate::config::LoadedConfig;
use crate::config::json_schema::fixed_keys;
use crate::data::batches::Batches;
use crate::data::template::ChatTemplate;
use crate::device::Device;
use crate::diagnostic::{Diagnostic, Failure};
use crate::digest::hex;
use crate::evidence::{Ending, Record, Setup};
use crate::memory::peak_memory_bytes;
use crate::report::metrics::{self, PluginCost};
use crate::report::summary::Summary;
use crate::report::{Event, Observer, Reporter, Start};

/// A run whose every decision is made.
pub struct Job<'a> {
    /// The config.
    pub loaded: &'a LoadedConfig,
    /// The plugins that it names, among others.
    pub plugins: &'a PluginHost,
    /// The model that it names.
    pub model: &'a ModelFacts,
    /// How conversations become text.
    pub template: Option<ChatTemplate>,
    /// What the run will do.
    pub plan: Plan,
    /// Where.
    pub device: Device,
    /// What it will take.
    pub cost: Cost,
    /// What is remarkable about data and cost.
    pub remarks: Vec<Diagnostic>,
    /// When work on the run began; its wall time counts from here.
    pub began: Instant,
}

/// What came of a run.
#[derive(Debug)]
pub enum Done {
    /// All steps are made and the model is written.
    Finished {
        /// What changed, and what it took.
        summary: Box<Summary>,
        /// A generation for one prompt before and after.
        shown: Option<(Shown, Shown)>,
    },
    /// The run was finished before; nothing was trained or changed.
    NothingLeft {
        /// The step at which it ended.
        step: u64,
    },
    /// A signal came; the state is saved.
    Stopped {
        /// Which.
        signal: Signal,
        /// Steps that are finished.
        step: u64,
        /// The checkpoint.
        path: PathBuf,
    },
    /// A run-health plugin stopped it; the state is saved.
    Unhealthy {
        /// Why, as an error.
        reason: Diagnostic,
        /// Steps that are finished.
        step: u64,
        /// The checkpoint.
        path: PathBuf,
    },
}

/// A run whose model is loaded.
struct Going<'r, K: Kernels> {
    job: &'r Job<'r>,
    trainer: Trainer<K>,
    settings: Map<String, Value>,
    watch: Watch,
    directory: &'r mut OutputDirectory,
    checkpoint: Option<&'r Checkpoint>,
    record: &'r mut Record,
    reporter: Reporter<'r>,
    stop: &'r StopSignal,
}

impl<K: Kernels> Work for Going<'_, K> {
    type Done = Done;

    fn work<O: Objective, B: Batches<Batch = O::Batch>>(
        self,
        objective: O,
        batches: B,
        eval: Vec<O::Batch>,
    ) -> Result<Done, Failure> {
        self.job.learn(self, objective, batches, eval)
    }
}

impl<'a> Job<'a> {
    /// Prepares the data and decides the rest; no weight is read and nothing is written. `known` is what checks have found,
    /// for rules.
    ///
    /// # Errors
    /// What is wrong with the data, or with a device that the run cannot use; all of it at once.
    pub fn new(
        loaded: &'a LoadedConfig,
        plugins: &'a PluginHost,
        model: &'a ModelFacts,
        known: &[Diagnostic],
    ) -> Result<Self, Failure> {
        let began = Instant::now();
        let template = selection::template(loaded, model)?;
        let plan = Plan::new(loaded, plugins, model, template.as_ref())?;
        let mut remarks = rules::check_data(loaded, plugins, model, &plan.to_json(), known);
        remarks.extend(plan.data.remarks.iter().cloned());
        remarks.extend(plan.spectrum.iter().map(|chosen| chosen.remark(loaded)));
        let on_device = Device::choose(&loaded.config).map_err(Failure::from).and_then(|device| {
            let files = model_files(loaded, model, template.as_ref());
            let cost = Cost::of(&loaded.config, &device, model, &plan, &files)?;
            Ok((device, cost))
        });
        let (device, cost) = match on_device {
            Ok(on_device) => on_device,
            Err(failure) => {
                remarks.extend(failure.0);
                return Err(Failure(remarks));
            }
        };
        remarks.extend(cost.warning(&device, loaded));
        let remarks = Failure::check(remarks)?;
        Ok(Self { loaded, plugins, model, template, plan, device, cost, remarks, began })
    }

    /// How long the run will take, from a step or two that are made and not kept; none where the model does not fit.
    ///
    /// # Errors
    /// What the first step of the run would fail with.
    pub fn measure(&self) -> Result<Option<Time>, Failure> {
        if self.cost.warning(&self.device, self.loaded).is_some() {
            return Ok(None);
        }
        let time = match &self.device {
            Device::Cpu => self.measure_on(|| Ok(CpuKernels)),
            Device::Cuda(gpu, precision) => self.measure_on(|| Device::open(gpu, *precision)),
        };
        time.map(Some)
    }

    fn measure_on<K: Kernels>(&self, open: impl Fn() -> Result<K, Diagnostic>) -> Result<Time, Failure> {
        let mut trainer = self.trainer(open()?, &open)?;
        self.keep_reference(&mut trainer);
        let asked = self.plan.method.asked();
        let known = asked.map(|asked| measure::reference(&self.plan, asked, &mut trainer)).transpose()?;
        let before = known.as_ref().map_or(0.0, |(_, seconds)| *seconds);
        let reference = known.map(|(reference, _)| reference);
        let measuring = Measuring { plan: &self.plan, trainer: &mut trainer, before };
        self.sources().give(reference.as_ref(), None, measuring)
    }

    /// Where the run's steps come from.
    pub(super) fn sources(&self) -> Sources<'_> {
        Sources {
            loaded: self.loaded,
            plugins: self.plugins,
            model: self.model,
            template: self.template.as_ref(),
            plan: &self.plan,
            device: &self.device,
        }
    }

    /// The model, with memory for everything that the run will do. `open` opens the device once more, for a teacher.
    fn trainer<K: Kernels>(&self, kernels: K, open: impl Fn() -> Result<K, Diagnostic>) -> Result<Trainer<K>, Failure> {
        let (config, options) = (self.model.config.clone(), self.plan.options.clone());
        let mut trainer = Trainer::on(kernels, config, &self.model.weights, options)?;
        if let Some(sampling) = self.plan.method.sampling() {
            trainer.set_temperature(sampling.temperature)?;
        }
        trainer.reserve(&self.cost.work)?;
        if let Some(teacher) = &self.model.teacher {
            trainer.load_teacher(open()?, teacher.config.clone(), &teacher.weights(), self.cost.work.train)?;
        }
        Ok(trainer)
    }

    /// Keeps the weights as they are now where the method asks them about what is written later.
    fn keep_reference<K: Kernels>(&self, trainer: &mut Trainer<K>) {
        if let Some(shape) = self.cost.work.reference {
            trainer.keep_reference(shape);
        }
    }

    /// Makes the run, or goes on with it. `run.json` in the output directory says how it ended, however it does.
    ///
    /// # Errors
    /// What ended the run before its time, with the last checkpoint among the notes.
    pub fn run(&self, existing: &Existing, observer: &mut dyn Observer, stop: &StopSignal) -> Result<Done, Failure> {
        self.cost.check(&self.device, self.loaded)?;
        let settings = self.settings()?;
        let watch = self.watch()?;
        let path = PathBuf::from(&self.loaded.config.output_dir);
        let (mut directory, checkpoint, warnings) = OutputDirectory::open(&path, existing, &settings)?;
        for warning in &warnings {
            observer.on(Event::Remark(warning));
        }
        let earlier = checkpoint.as_ref().and_then(|_| Record::of_run(&described(directory.path())?));
        let model = self.model;
        let setup = Setup::of(&self.loaded.config, &self.device, &model.config.architecture, model.parameters());
        let mut record = Record::start(setup, self.loaded.recipe_digest(), earlier.as_ref());
        let mut fields = description(self.loaded, &self.device, &self.used_plugins(), &self.plan.data.digest);
        if let Some(step) = directory.finished_at(checkpoint.as_ref(), self.plan.total_steps, &fields)? {
            return Ok(Done::NothingLeft { step });
        }
        fields["outcome"] = record.to_json();
        directory.describe(fields, "running")?;
        let (directory, checkpoint, record) = (&mut directory, checkpoint.as_ref(), &mut record);
        let ended = match &self.device {
            Device::Cpu => {
                let open = || Ok(CpuKernels);
                self.train(open, settings, watch, directory, checkpoint, record, observer, stop)
            }
            Device::Cuda(gpu, precision) => {
                let open = || Device::open(gpu, *precision);
                self.train(open, settings, watch, directory, checkpoint, record, observer, stop)
            }
        };
        ended.map_err(|mut failure| {
            if directory.is_running() {
                record.outcome = Ending::of_failure(&failure);
                // A full disk fails here again; what went wrong first is what is told.
                let _ = directory.describe(json!({ "outcome": record.to_json() }), "failed");
            }
            failure.0.iter_mut().for_each(|diagnostic| self.place_health(diagnostic));
            failure
        })
    }

    /// From the first weight that is loaded to the last that is written. `record` is kept up to date.
    fn train<K: Kernels>(
        &self,
        open: impl Fn() -> Result<K, Diagnostic>,
        settings: Map<String, Value>,
        watch: Watch,
        directory: &mut OutputDirectory,
        checkpoint: Option<&Checkpoint>,
        record: &mut Record,
        observer: &mut dyn Observer,
        stop: &StopSignal,
    ) -> Result<Done, Failure> {
        let (config, plan) = (&self.loaded.config, &self.plan);
        let kernels = open()?;
        replace_file(&directory.path().join(RESOLVED_FILE), self.loaded.to_yaml().as_bytes())?;
        let mut trainer = self.trainer(kernels, open)?;
        let finished = checkpoint.map_or(0, |checkpoint| checkpoint.state.global_step);
        let writes = plan.method.sampling().is_some();
        let reporter = Reporter::open(directory.path(), finished, writes, self.plugins.meters(), observer);
        let mut reporter = reporter.map_err(|source| {
            let path = directory.path().join(METRICS_FILE);
            Failure::from(CheckpointError::Write { path, source })
        })?;
        let mut reference = None;
        if let Some(asked) = plan.method.asked() {
            let read = |checkpoint: &Checkpoint| Reference::read(&checkpoint.path, plan, asked);
            reference = Some(checkpoint.map(read).transpose()?.unwrap_or_else(|| Reference::unknown(plan, asked)));
        }
        // The reference is the model as training begins, also where training goes on.
        let is_known = reference.as_ref().map_or(Ok(true), |reference| reference.is_complete(plan))?;
        let is_asked = plan.method.keeps_reference() || !is_known;
        if let Some(adapter) = &config.lora_model_dir
            && (checkpoint.is_none() || is_asked)
        {
            trainer.start_from(&self.loaded.resolve(adapter))?;
        }
        self.keep_reference(&mut trainer);
        if let Some(reference) = &mut reference {
            reference.complete(&mut trainer, plan, plan.total_steps, stop, &mut |done, all| {
                reporter.tell(Event::Reference { done, all });
            })?;
        }
        if let Some(checkpoint) = checkpoint {
            checkpoint.restore(&mut trainer)?;
        }
        let going = Going { job: self, trainer, settings, watch, directory, checkpoint, record, reporter, stop };
        self.sources().give(reference.as_ref(), checkpoint, going)
    }

    /// The loop, from where it begins or goes on, and what comes after it. `eval` are the batches of an evaluation.
    fn learn<K: Kernels, O: Objective, B: Batches<Batch = O::Batch>>(
        &self,
        going: Going<'_, K>,
        objective: O,
        batches: B,
        eval: Vec<O::Batch>,
    ) -> Result<Done, Failure> {
        let (config, plan) = (&self.loaded.config, &self.plan);
        let Going { mut trainer, settings, mut watch, directory, checkpoint, record, mut reporter, stop, .. } = going;
        if checkpoint.is_some() && !watch.is_empty() {
            watch.replay(&metrics::lines(&directory.path().join(METRICS_FILE)))?;
        }
        reporter.tell(Event::Start(&self.start(&trainer)));

        let files = model_files(self.loaded, self.model, self.template.as_ref());
        let evaluation = self.evaluation(eval)?;
        let mut run = Run {
            plan,
            objective,
            batches,
            output_dir: directory.path(),
            keep: config.save_total_limit.map(|limit| limit as usize),
            settings,
            files: files.clone(),
        };
        let trained = run.train(&mut trainer, checkpoint, evaluation, &mut watch, &mut reporter, stop);
        let step = trained.as_ref().map_or_else(|_| trainer.optimizer_step(), |outcome| outcome.steps);
        record.steps = step;
        reporter.end();
        let outcome = trained?;
        record.outcome = match &outcome.ending {
            Ended::Finished => {
                let eval = outcome.eval.as_ref().and_then(|(before, after)| before.eval_loss.zip(after.eval_loss));
                Ending::of_losses(outcome.loss, eval, (self.model.config.vocab_size as f64).ln())
            }
            Ended::Stopped(..) => Ending::Stopped,
            Ended::Unhealthy(..) => Ending::Unhealthy,
        };
        match outcome.ending {
            Ended::Finished => {}
            Ended::Stopped(signal, path) => {
                directory.describe(json!({ "step": step, "outcome": record.to_json() }), "stopped")?;
                return Ok(Done::Stopped { signal, step, path });
            }
            Ended::Unhealthy(advice, path) => return self.unhealthy(&advice, path, record, directory),
        }
        let path = directory.path().to_owned();
        let card = card(self.loaded, plan.total_steps, &outcome);
        files.publish(trainer.model(), &path, &card, &mut |names| directory.claim(names))?;
        let summary = self.summary(&outcome, &watch, reporter.plugin_costs(), &trainer);
        let mut fields = json!({ "step": step, "summary": summary.to_json(), "outcome": record.to_json() });
        if outcome.judged.as_ref().is_some_and(|judged| judged.stopped_early) {
            fields[STOPPED_EARLY] = true.into();
        }
        directory.describe(fields, FINISHED)?;
        let (before, after) = outcome.shown;
        Ok(Done::Finished { summary: Box::new(summary), shown: before.zip(after) })
    }

    /// Ends a run that a monitor stopped. The state is saved, so nothing is lost.
    fn unhealthy(
        &self,
        advice: &StopAdvice,
        path: PathBuf,
        record: &Record,
        directory: &mut OutputDirectory,
    ) -> Result<Done, Failure> {
        let stopped_by = json!({ "plugin": advice.plugin, "id": advice.finding.id });
        let fields = json!({ "step": advice.step, "stopped_by": stopped_by, "outcome": record.to_json() });
        directory.describe(fields, "stopped")?;
        let mut reason = advice.diagnostic();
        self.place_health(&mut reason);
        Ok(Done::Unhealthy { reason, step: advice.step, path })
    }

    /// Puts what comes from a run-health plugin where the config names it.
    fn place_health(&self, diagnostic: &mut Diagnostic) {
        if diagnostic.place.is_some() {
            return;
        }
        let uses = plugins::uses(self.loaded);
        let is_it =
            |used: &&plugins::Use| used.kind == Kind::RunHealth && Some(&used.name) == diagnostic.plugin.as_ref();
        diagnostic.place = uses.iter().find(is_it).and_then(|used| self.loaded.source.nearest_place(&used.path));
    }

    /// The run-health plugins, started for this run.
    fn watch(&self) -> Result<Watch, Failure> {
        let mut watch = Watch::default();
        let run = HealthRun { total_steps: self.plan.total_steps };
        for used in plugins::uses(self.loaded).into_iter().filter(|used| used.kind == Kind::RunHealth) {
            let monitor = self
                .plugins
                .monitor(&used.name, &used.config_json, run)
                .map_err(|error| plugins::locate(self.loaded, &used, error))?;
            watch.add(used.name, Box::new(monitor));
        }
        Ok(watch)
    }

    /// What a resumed run must have in common with its checkpoint.
    fn settings(&self) -> Result<Map<String, Value>, Failure> {
        let all = self.loaded.to_comparable_json();
        let mut settings = Map::new();
        for key in fixed_keys() {
            let value = all.get(&key).cloned().unwrap_or_default();
            settings.insert(key, value);
        }
        if let Some(teacher) = &self.model.teacher {
            let digest = digest(&teacher.directory).map_err(Diagnostic::from)?;
            settings.insert("teacher_sha256".to_owned(), hex(&digest).into());
        }
        settings.insert("data".to_owned(), self.plan.data.digest.clone().into());
        if !self.plan.packing.mix.is_even() {
            let weights: Vec<f64> = self.loaded.config.datasets.iter().map(|dataset| dataset.weight).collect();
            settings.insert("datasets[].weight".to_owned(), weights.into());
        }
        // What is frozen is not in a checkpoint: it comes out of the base model again.
        let has_frozen = self.plan.options.lora.is_some() || self.plan.options.trainable != Trainable::All;
        let keeps_reference = self.plan.method.keeps_reference();
        if (has_frozen || keeps_reference)
            && let WeightSource::Directory(directory) = &self.model.weights
        {
            settings.insert(BASE_DIGEST.to_owned(), hex(&digest(directory).map_err(Diagnostic::from)?).into());
        }
        // Nor is the reference, whose adapter is that which training started from.
        if keeps_reference && let Some(adapter) = &self.loaded.config.lora_model_dir {
            let digest = peft::digest(&self.loaded.resolve(adapter)).map_err(Diagnostic::from)?;
            settings.insert(ADAPTER_DIGEST.to_owned(), hex(&digest).into());
        }
        Ok(settings)
    }

    fn used_plugins(&self) -> Vec<Value> {
        let names = plugins::names(self.loaded);
        let describe = |name: &String| {
            let inspection = &self.plugins.get(name)?.inspection;
            let manifest = &inspection.manifest;
            Some(json!({ "name": name, "version": manifest.version, "api": manifest.api, "sha256": inspection.sha256 }))
        };
        names.iter().filter_map(describe).collect()
    }

    fn evaluation<B>(&self, batches: Vec<B>) -> Result<Option<Evaluation<'_, B>>, Failure> {
        let config = &self.loaded.config;
        if self.plan.data.eval.is_empty() {
            return Ok(None);
        }
        Ok(Some(Evaluation {
            set: &self.plan.data.eval,
            batches,
            is_per_token: self.plan.method == Method::Supervised,
            rewards: self.sources().rewards(plugins::rewards(self.loaded), &config.eval_reward_funcs)?,
            generation: self.sources().generation_options()?,
            generated: config.num_generation_samples.map_or(usize::MAX, |count| count as usize),
            tokenizer: &self.model.tokenizer,
            seed: config.seed,
        }))
    }

    fn start<K: Kernels>(&self, trainer: &Trainer<K>) -> Start {
        Start {
            config: self.loaded.source.path.display().to_string(),
            output_dir: self.loaded.config.output_dir.clone(),
            step: trainer.optimizer_step(),
            total_steps: self.plan.total_steps,
            trainable_parameters: trainer.trainable_parameters(),
            total_parameters: trainer.total_parameters(),
            samples: self.plan.data.train.len() as u64,
            streaming: self.plan.streams,
            tokens: self.plan.tokens,
            trained_tokens: self.plan.trained_tokens,
            architecture: self.model.config.architecture.clone(),
        }
    }

    fn summary<K: Kernels>(
        &self,
        outcome: &Outcome,
        watch: &Watch,
        plugins: Vec<PluginCost>,
        trainer: &Trainer<K>,
    ) -> Summary {
        Summary {
            steps: outcome.steps,
            best: outcome.judged.clone(),
            loss: outcome.loss,
            eval: outcome.eval.clone(),
            tokens: outcome.tokens,
            own_tokens: outcome.own_tokens,
            train_seconds: outcome.train_seconds,
            wall_seconds: self.began.elapsed().as_secs_f64(),
            peak_memory_bytes: peak_memory_bytes(),
            device_usage: trainer.model().kernels.usage(),
            dropped: self.plan.data.dropped.reasons(),
            filters: self.plan.data.dropped.filters.clone(),
            health: watch.counts(),
            plugins,
            output_dir: Path::new(&self.loaded.config.output_dir).to_owned(),
        }
    }
}
