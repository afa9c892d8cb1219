//! `host train`: config → checks → data → loop → model, and the words around it.

use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use engine::generate::GenerateOptions;
use engine::kernels::Kernels;
use engine::kernels::cpu::CpuKernels;
use engine::model::weights::{WeightSource, digest};
use engine::{CrossEntropy, Trainable, Trainer};
use plugin_runtime::PluginHost;
use plugin_runtime::types::HealthRun;
use serde_json::{Map, Value, json};

use super::plan::{cost, describe, model_files};
use super::ready::Ready;
use super::{ConfigArgs, next, say, show};
use crate::author::replay::{self, Keep};
use crate::check::facts::ModelFacts;
use crate::check::{self, plugins, selection};
use crate::checkpoint::directory::{hex, replace_file};
use crate::checkpoint::load::{BASE_DIGEST, Checkpoint};
use crate::checkpoint::owned::{METRICS_FILE, RESOLVED_FILE};
use crate::config::LoadedConfig;
use crate::config::json_schema::fixed_keys;
use crate::data::cursor::Position;
use crate::data::template::ChatTemplate;
use crate::device::Device;
use crate::diagnostic::{Diagnostic, ExitStatus, Failure};
use crate::evidence::{Ending, Record, Setup};
use crate::memory::peak_memory_bytes;
use crate::report::metrics::PluginCost;
use crate::report::progress::whole;
use crate::report::summary::Summary;
use crate::report::{Output, Reporter, emit, metrics};
use crate::train::cost::Cost;
use crate::train::eval::Evaluation;
use crate::train::health::{StopAdvice, Watch};
use crate::train::measure::{Time, measure};
use crate::train::output::{Existing, FINISHED, OutputDirectory, described, description, is_finished};
use crate::train::plan::Plan;
use crate::train::reward::NamedReward;
use crate::train::run::{Ending as Ended, Outcome, Run};
use crate::train::signal::{Signal, StopSignal};

#[derive(Debug, Args)]
pub(super) struct TrainArgs {
    #[command(flatten)]
    pub(super) config: ConfigArgs,
    /// Do everything up to the first step, then say what the run would be
    #[arg(long)]
    dry_run: bool,
    /// Go on from a checkpoint: `auto` for the newest complete one in the output directory, or a checkpoint-N directory
    #[arg(long, value_name = "auto|DIR", conflicts_with = "overwrite")]
    resume: Option<String>,
    /// Refuse plugins that are not exactly those of the config's `plugins.lock`
    #[arg(long)]
    locked: bool,
    /// Replace an earlier run in the output directory
    #[arg(long)]
    overwrite: bool,
}

impl TrainArgs {
    /// The command that was given, without what says how to treat an earlier run.
    fn command(&self) -> String {
        self.config.command("train") + if self.locked { " --locked" } else { "" }
    }
}

pub(super) fn run(args: &TrainArgs) -> Result<ExitStatus, Failure> {
    let start = Instant::now();
    let output = args.config.output();
    let Ready { plugins, loaded, model, remarks, built_in } = Ready::new(&args.config, args.locked)?;

    let template = selection::template(&loaded, &model)?;
    let output_dir = PathBuf::from(&loaded.config.output_dir);
    let kept = |mut failure: Failure| {
        let keep = if args.dry_run { Keep::Nothing } else { Keep::In(&output_dir) };
        replay::keep(&mut failure, &plugins, keep);
        failure
    };
    let plan = Plan::new(&loaded, &plugins, &model, template.as_ref(), false).map_err(kept)?;
    let of_data = check::rules::check_data(&loaded, &plugins, &model, &plan.to_json(), &remarks);
    show(&Failure::check(of_data)?, output);
    let device = Device::choose(&loaded.config)?;
    let cost = cost(&loaded, &device, &model, template.as_ref(), &plan)?;
    let too_large = cost.warning(&device, &loaded);
    show(too_large.as_slice(), output);
    if args.dry_run {
        // Where the model does not fit, there is nothing to measure.
        let measured = too_large.is_none().then(|| match &device {
            Device::Cpu => measured(CpuKernels, &model, &plan, &cost),
            Device::Cuda(gpu, precision) => measured(Device::open(gpu, *precision)?, &model, &plan, &cost),
        });
        let time = measured.transpose()?;
        describe(&loaded, &model, &plan, &cost, time, output, "nothing was kept or written (--dry-run)");
        return Ok(ExitStatus::Done);
    }
    cost.check(&device, &loaded)?;
    let job = Job {
        args,
        loaded: &loaded,
        device: &device,
        plugins: &plugins,
        model: &model,
        plan: &plan,
        cost: &cost,
        template: template.as_ref(),
        built_in,
    };
    job.run(start).map_err(kept)
}

/// Seconds that a step of a run takes, from some that are done and not kept.
fn measured<K: Kernels>(kernels: K, model: &ModelFacts, plan: &Plan, cost: &Cost) -> Result<Time, Failure> {
    let mut trainer = Trainer::on(kernels, model.config.clone(), &model.weights, plan.options.clone())?;
    trainer.reserve(&cost.work)?;
    measure(plan, &mut trainer)
}

/// A run whose every decision is made.
struct Job<'a> {
    args: &'a TrainArgs,
    loaded: &'a LoadedConfig,
    device: &'a Device,
    plugins: &'a PluginHost,
    model: &'a ModelFacts,
    plan: &'a Plan,
    cost: &'a Cost,
    template: Option<&'a ChatTemplate>,
    built_in: bool,
}

impl Job<'_> {
    /// Takes the output directory, and sees to it that `run.json` says how the run ended, however it does.
    fn run(&self, start: Instant) -> Result<ExitStatus, Failure> {
        let settings = self.settings()?;
        let watch = self.watch()?;
        let path = PathBuf::from(&self.loaded.config.output_dir);
        let (mut directory, checkpoint, warnings) = OutputDirectory::open(&path, &self.existing(), &settings)?;
        show(&warnings, self.args.config.output());
        let used: Vec<Value> = self.used_plugins();
        let earlier = checkpoint.as_ref().and_then(|_| Record::of_run(&described(directory.path())?));
        let model = self.model;
        let setup = Setup::of(&self.loaded.config, self.device, &model.config.architecture, model.parameters());
        let mut record = Record::start(setup, earlier.as_ref());
        let mut fields = description(self.loaded, self.device, &used, &self.plan.data.digest);
        if let Some(step) = directory.finished_at(checkpoint.as_ref(), self.plan.total_steps, &fields)? {
            return Ok(self.nothing_left(step));
        }
        fields["outcome"] = record.to_json();
        directory.describe(fields, "running")?;
        let (directory, checkpoint, record) = (&mut directory, checkpoint.as_ref(), &mut record);
        let ended = match self.device {
            Device::Cpu => self.train(CpuKernels, start, settings, watch, directory, checkpoint, record),
            Device::Cuda(gpu, precision) => match Device::open(gpu, *precision) {
                Ok(kernels) => self.train(kernels, start, settings, watch, directory, checkpoint, record),
                Err(diagnostic) => Err(diagnostic.into()),
            },
        };
        ended.map_err(|failure| {
            if directory.is_running() {
                record.outcome = Ending::of_failure(&failure);
                // A full disk fails here again; what went wrong first is what is told.
                let _ = directory.describe(json!({ "outcome": record.to_json() }), "failed");
            }
            self.with_health_place(failure)
        })
    }

    /// From the first weight that is loaded to the last that is written. `record` is kept up to date.
    fn train<K: Kernels>(
        &self,
        kernels: K,
        start: Instant,
        settings: Map<String, Value>,
        mut watch: Watch,
        directory: &mut OutputDirectory,
        checkpoint: Option<&Checkpoint>,
        record: &mut Record,
    ) -> Result<ExitStatus, Failure> {
        let (config, plan) = (&self.loaded.config, self.plan);
        let output = self.args.config.output();
        let stop = StopSignal::install()
            .map_err(|error| Diagnostic::error("io::signal", "signals cannot be watched for").why(error.to_string()))?;
        replace_file(&directory.path().join(RESOLVED_FILE), self.loaded.to_yaml().as_bytes())?;

        let mut trainer = Trainer::on(kernels, self.model.config.clone(), &self.model.weights, plan.options.clone())?;
        trainer.reserve(&self.cost.work)?;
        match (checkpoint, &config.lora_model_dir) {
            (Some(checkpoint), _) => checkpoint.restore(&mut trainer)?,
            (None, Some(adapter)) => trainer.start_from(&self.loaded.resolve(adapter))?,
            (None, None) => {}
        }
        let finished = trainer.optimizer_step();
        let meters = self.plugins.meters();
        let reporter = Reporter::open(directory.path(), output, finished, plan.total_steps, meters);
        let mut reporter = reporter.map_err(|source| {
            let path = directory.path().join(METRICS_FILE);
            Failure::from(crate::checkpoint::CheckpointError::Write { path, source })
        })?;
        if checkpoint.is_some() && !watch.is_empty() {
            watch.replay(&metrics::lines(&directory.path().join(METRICS_FILE)))?;
        }
        reporter.event("start", self.start_event(&trainer, finished));
        reporter.say(&self.opening_line(&trainer, finished));

        let files = model_files(self.loaded, self.model, self.template);
        let position = checkpoint.map_or_else(Position::default, |checkpoint| checkpoint.state.position);
        let mut run = Run {
            plan,
            objective: CrossEntropy,
            batches: plan.batches(position),
            output_dir: directory.path(),
            keep: config.save_total_limit.map(|limit| limit as usize),
            settings,
            files: files.clone(),
        };
        let evaluation = self.evaluation()?;
        let trained = run.train(&mut trainer, checkpoint, evaluation, &mut watch, &mut reporter, &stop);
        record.steps = trainer.optimizer_step();
        let warning = reporter.finish();
        if let Some(warning) = warning {
            say(&format!("warning: {warning}"));
        }
        let outcome = trained?;
        record.outcome = match &outcome.ending {
            Ended::Finished => {
                let eval = outcome.eval.as_ref().map(|(before, after)| (before.eval_loss, after.eval_loss));
                Ending::of_losses(outcome.loss, eval, (self.model.config.vocab_size as f64).ln())
            }
            Ended::Stopped(..) => Ending::Stopped,
            Ended::Unhealthy(..) => Ending::Unhealthy,
        };
        if let Ended::Unhealthy(advice, path) = &outcome.ending {
            return self.unhealthy(advice, path, record, directory);
        }
        if let Ended::Stopped(signal, path) = &outcome.ending {
            let fields = json!({ "step": trainer.optimizer_step(), "outcome": record.to_json() });
            directory.describe(fields, "stopped")?;
            emit_or_say(
                output,
                "stopped",
                json!({ "step": trainer.optimizer_step(), "path": path.display().to_string() }),
                &format!(
                    "stopped at step {}; the state is in `{}`, go on with `{} --resume auto`",
                    trainer.optimizer_step(),
                    path.display(),
                    self.args.command()
                ),
            );
            return Ok(match signal {
                Signal::Interrupt => ExitStatus::Interrupted,
                Signal::Terminate => ExitStatus::Terminated,
                Signal::HangUp => ExitStatus::HungUp,
            });
        }
        let card = self.card(&outcome);
        let path = directory.path().to_owned();
        files.publish(trainer.model(), &path, &card, &mut |names| directory.claim(names))?;
        let summary = self.summary(&outcome, &watch, reporter.plugin_costs(), &trainer, start);
        let fields =
            json!({ "step": trainer.optimizer_step(), "summary": summary.to_json(), "outcome": record.to_json() });
        directory.describe(fields, FINISHED)?;
        match output {
            Output::Json => emit("summary", summary.to_json()),
            Output::Human => {
                if let (Some(before), Some(after)) = &outcome.shown {
                    say(&format!(
                        "\nan example of the evaluation set\n  wanted  {}\n  before  {}\n  after   {}",
                        one_line(&after.reference),
                        one_line(&before.completion),
                        one_line(&after.completion)
                    ));
                }
                say(&summary.table());
            }
        }
        Ok(ExitStatus::Done)
    }

    /// A finished run that was asked to go on: all of it stays as it is.
    fn nothing_left(&self, step: u64) -> ExitStatus {
        let output_dir = &self.loaded.config.output_dir;
        emit_or_say(
            self.args.config.output(),
            "finished",
            json!({ "step": step, "output_dir": output_dir }),
            &format!(
                "the run in `{output_dir}` is finished at step {step}; nothing was trained or changed
help: raise `max_steps` or `num_epochs` to go on, or start again with `--overwrite`"
            ),
        );
        ExitStatus::Done
    }

    /// Ends a run that a monitor stopped. The state is saved, so nothing is lost.
    fn unhealthy(
        &self,
        advice: &StopAdvice,
        path: &std::path::Path,
        record: &Record,
        directory: &mut OutputDirectory,
    ) -> Result<ExitStatus, Failure> {
        let (plugin, id, step) = (&advice.plugin, &advice.finding.id, advice.step);
        let stopped_by = json!({ "plugin": plugin, "id": id });
        let fields = json!({ "step": step, "stopped_by": stopped_by, "outcome": record.to_json() });
        directory.describe(fields, "stopped")?;
        if self.args.config.output() == Output::Json {
            emit("stopped", json!({ "step": step, "path": path.display().to_string() }));
        }
        let path = path.display();
        let command = self.args.command();
        let note =
            format!("the state of step {step} is in `{path}`; go on all the same with `{command} --resume auto`");
        Err(advice.diagnostic().note(note).into())
    }

    /// Puts what comes from a run-health plugin where the config names it.
    fn with_health_place(&self, mut failure: Failure) -> Failure {
        let uses = plugins::uses(self.loaded);
        for diagnostic in failure.0.iter_mut().filter(|diagnostic| diagnostic.place.is_none()) {
            let is_it = |used: &&plugins::Use| {
                used.kind == plugin_runtime::Kind::RunHealth && Some(&used.name) == diagnostic.plugin.as_ref()
            };
            diagnostic.place = uses.iter().find(is_it).and_then(|used| self.loaded.source.nearest_place(&used.path));
        }
        failure
    }

    /// The run-health plugins, started for this run.
    fn watch(&self) -> Result<Watch, Failure> {
        let mut watch = Watch::default();
        let run = HealthRun { total_steps: self.plan.total_steps };
        for used in plugins::uses(self.loaded).into_iter().filter(|used| used.kind == plugin_runtime::Kind::RunHealth) {
            let monitor = self
                .plugins
                .monitor(&used.name, &used.config_json, run)
                .map_err(|error| plugins::locate(self.loaded, &used, error))?;
            watch.add(used.name, Box::new(monitor));
        }
        Ok(watch)
    }

    fn existing(&self) -> Existing {
        let config = &self.loaded.config;
        match &self.args.resume {
            Some(word) if word == "auto" => Existing::ResumeNewest,
            Some(path) => Existing::Resume(PathBuf::from(path)),
            None if self.args.overwrite => Existing::Overwrite,
            // The quickstart is the same every time: where it is finished, there is nothing to do.
            None if self.built_in && is_finished(&PathBuf::from(&config.output_dir)) => Existing::ResumeNewest,
            None => match &config.resume_from_checkpoint {
                Some(path) => Existing::ResumeAlways(PathBuf::from(path)),
                None if config.auto_resume_from_checkpoints => Existing::ResumeNewest,
                None => Existing::Refuse,
            },
        }
    }

    /// What a resumed run must have in common with its checkpoint.
    fn settings(&self) -> Result<Map<String, Value>, Failure> {
        let all = self.loaded.to_json();
        let mut settings = Map::new();
        for key in fixed_keys() {
            let value = all.get(&key).cloned().unwrap_or_default();
            settings.insert(key, value);
        }
        settings.insert("data".to_owned(), self.plan.data.digest.clone().into());
        // What is frozen is not in a checkpoint: it comes out of the base model again.
        let has_frozen = self.plan.options.lora.is_some() || self.plan.options.trainable != Trainable::All;
        if has_frozen && let WeightSource::Directory(directory) = &self.model.weights {
            settings.insert(BASE_DIGEST.to_owned(), hex(&digest(directory).map_err(Diagnostic::from)?).into());
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

    fn evaluation(&self) -> Result<Option<Evaluation<'_>>, Failure> {
        let config = &self.loaded.config;
        if self.plan.data.eval.is_empty() {
            return Ok(None);
        }
        let mut rewards = Vec::new();
        for (used, reference) in plugins::rewards(self.loaded).into_iter().zip(&config.eval_reward_funcs) {
            let scorer = self
                .plugins
                .scorer(&used.name, &used.config_json)
                .map_err(|error| plugins::locate(self.loaded, &used, error))?;
            rewards.push(NamedReward::new(used.name, scorer, reference.on_error));
        }
        let tokenizer = &self.model.tokenizer;
        let eos_token_ids = self.model.end_tokens(&selection::end_of_turn(self.loaded, self.model)?);
        let generation = GenerateOptions {
            max_new_tokens: config.eval_max_new_tokens as usize,
            eos_token_ids,
            seed: config.seed,
            ..GenerateOptions::default()
        };
        Ok(Some(Evaluation {
            examples: &self.plan.data.eval,
            batch_size: config.eval_batch_size as usize,
            rewards,
            generation,
            generated: config.num_generation_samples.map_or(usize::MAX, |count| count as usize),
            tokenizer,
            seed: config.seed,
        }))
    }

    fn opening_line<K: Kernels>(&self, trainer: &Trainer<K>, finished: u64) -> String {
        let (plan, model) = (self.plan, &self.model.config);
        let trained = trainer.trainable_parameters() as f64;
        let all = trainer.total_parameters() as f64;
        let from = if finished > 0 { format!(", going on at step {finished}") } else { String::new() };
        format!(
            "{}: {} of {} parameters trained; {} samples, {} tokens ({} learned); {} steps{from}",
            model.architecture,
            whole(trained),
            whole(all),
            whole(plan.data.train.len() as f64),
            whole(plan.tokens() as f64),
            whole(plan.trained_tokens() as f64),
            plan.total_steps,
        )
    }

    fn start_event<K: Kernels>(&self, trainer: &Trainer<K>, finished: u64) -> Value {
        json!({
            "config": self.loaded.source.path.display().to_string(),
            "output_dir": self.loaded.config.output_dir,
            "step": finished,
            "total_steps": self.plan.total_steps,
            "trainable_parameters": trainer.trainable_parameters(),
            "total_parameters": trainer.total_parameters(),
            "samples": self.plan.data.train.len(),
            "tokens": self.plan.tokens(),
        })
    }

    fn summary<K: Kernels>(
        &self,
        outcome: &Outcome,
        watch: &Watch,
        plugins: Vec<PluginCost>,
        trainer: &Trainer<K>,
        start: Instant,
    ) -> Summary {
        Summary {
            steps: trainer.optimizer_step(),
            loss: outcome.loss,
            eval: outcome.eval.clone(),
            tokens: outcome.tokens,
            own_tokens: outcome.own_tokens,
            train_seconds: outcome.train_seconds,
            wall_seconds: start.elapsed().as_secs_f64(),
            peak_memory_bytes: peak_memory_bytes(),
            device_usage: trainer.model().kernels.usage(),
            dropped: self.plan.data.dropped.reasons(),
            filters: self.plan.data.dropped.filters.clone(),
            health: watch.counts(),
            plugins,
            output_dir: PathBuf::from(&self.loaded.config.output_dir),
            next: next::commands(self.loaded, self.plugins, self.plan),
        }
    }

    /// The model card of the finished model.
    fn card(&self, outcome: &Outcome) -> String {
        use std::fmt::Write as _;
        let config = &self.loaded.config;
        let mut card = String::from("---\n");
        let _ = writeln!(card, "base_model: {}", serde_json::json!(config.base_model));
        if config.adapter.is_some() {
            card.push_str("library_name: peft\n");
        } else {
            card.push_str("library_name: transformers\n");
        }
        card.push_str("pipeline_tag: text-generation\n---\n\n# Fine-tuned model\n\n");
        let what = if config.adapter.is_some() { "A LoRA adapter for" } else { "Fine-tuned from" };
        let _ =
            writeln!(card, "{what} `{}`, {} steps, seed {}.\n", config.base_model, self.plan.total_steps, config.seed);
        if let Some((before, after)) = &outcome.eval {
            card.push_str("| | before | after |\n|---|---|---|\n");
            let _ = writeln!(card, "| evaluation loss | {:.4} | {:.4} |", before.eval_loss, after.eval_loss);
            for (name, value) in after.rewards.iter().filter(|(name, _)| name.ends_with("/mean")) {
                let from = before.rewards.get(name).copied().unwrap_or(f64::NAN);
                let _ = writeln!(card, "| {name} | {from:.4} | {value:.4} |");
            }
            card.push('\n');
        }
        card.push_str("The config as run is in `config.resolved.yml`; versions and digests are in `run.json`.\n");
        card
    }
}

fn emit_or_say(output: Output, event: &str, fields: Value, line: &str) {
    match output {
        Output::Json => emit(event, fields),
        Output::Human => say(line),
    }
}

fn one_line(text: &str) -> String {
    let line: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let short: String = line.chars().take(100).collect();
    crate::diagnostic::escape(&if short.len() < line.len() { format!("{short}…") } else { short })
}
