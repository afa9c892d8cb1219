//! `host train`: a config to a model, and the words around it.

use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;
use serde_json::{Value, json};

use super::plan::describe;
use super::ready::ready;
use super::{ConfigArgs, next, say, show};
use crate::author::replay::{self, Keep};
use crate::check::ready::Ready;
use crate::config::Config;
use crate::diagnostic::{Diagnostic, ExitStatus, Failure};
use crate::report::console::Console;
use crate::report::{Observer, Output, emit};
use crate::terminal::Safe;
use crate::train::job::{Done, Job};
use crate::train::output::{Existing, is_finished};
use crate::train::signal::{Signal, StopSignal};

/// Characters of a sample that are shown.
const WIDTH: usize = 100;

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

    /// How to treat a run that is there already.
    fn existing(&self, config: &Config, built_in: bool) -> Existing {
        match &self.resume {
            Some(word) if word == "auto" => Existing::ResumeNewest,
            Some(path) => Existing::Resume(PathBuf::from(path)),
            None if self.overwrite => Existing::Overwrite,
            // The quickstart is the same every time: where it is finished, there is nothing to do.
            None if built_in && is_finished(Path::new(&config.output_dir)) => Existing::ResumeNewest,
            None => Existing::of(config),
        }
    }
}

pub(super) fn run(args: &TrainArgs) -> Result<ExitStatus, Failure> {
    let began = Instant::now();
    let output = args.config.output();
    let (ready, built_in) = ready(&args.config, args.locked)?;
    let existing = args.existing(&ready.loaded.config, built_in);
    let how = How { began, output, command: args.command(), dry_run: args.dry_run, existing };
    train(ready, &how, |_| Box::new(Console::new(output)), |job, done| tell(&how, job, done))
}

/// How a run is made, and told of.
pub(super) struct How {
    /// When work on it began.
    pub(super) began: Instant,
    pub(super) output: Output,
    /// The command that was given, without what says how to treat an earlier run.
    pub(super) command: String,
    /// Everything up to the first step.
    pub(super) dry_run: bool,
    pub(super) existing: Existing,
}

/// Makes the run of a config that was checked. `observe` watches it, and may stop it; `tell` says what came of it.
pub(super) fn train(
    mut ready: Ready,
    how: &How,
    observe: impl FnOnce(&StopSignal) -> Box<dyn Observer + '_>,
    tell: impl FnOnce(&Job<'_>, Done) -> Result<ExitStatus, Failure>,
) -> Result<ExitStatus, Failure> {
    let output = how.output;
    ready.bring_data()?;
    // A dry run makes a step or two, with the weights.
    show(&ready.bring()?, output);
    let Ready { loaded, plugins, model, remarks, .. } = ready;
    let output_dir = PathBuf::from(&loaded.config.output_dir);
    let kept = |mut failure: Failure| {
        let keep = if how.dry_run { Keep::Nothing } else { Keep::In(&output_dir) };
        replay::keep(&mut failure, &plugins, keep);
        failure
    };
    let job = Job { began: how.began, ..Job::new(&loaded, &plugins, &model, &remarks).map_err(kept)? };
    show(&job.remarks, output);
    if how.dry_run {
        let time = job.measure()?;
        describe(
            &loaded,
            &model,
            &job.plan,
            &job.cost,
            time,
            &[],
            output,
            "nothing was trained; the samples are kept for the run (--dry-run)",
        );
        return Ok(ExitStatus::Done);
    }
    let stop = StopSignal::install()
        .map_err(|error| Diagnostic::error("io::signal", "signals cannot be watched for").why(error.to_string()))?;
    let done = job.run(&how.existing, &mut *observe(&stop), &stop).map_err(kept)?;
    tell(&job, done)
}

/// Says what came of the run.
pub(super) fn tell(how: &How, job: &Job<'_>, done: Done) -> Result<ExitStatus, Failure> {
    let How { output, command, .. } = how;
    let output = *output;
    match done {
        Done::NothingLeft { step } => {
            let output_dir = &job.loaded.config.output_dir;
            emit_or_say(
                output,
                "finished",
                json!({ "step": step, "output_dir": output_dir }),
                &format!(
                    "the run in `{output_dir}` is finished at step {step}; nothing was trained or changed
help: raise `max_steps` or `num_epochs` to go on, or start again with `--overwrite`"
                ),
            );
            Ok(ExitStatus::Done)
        }
        Done::Stopped { signal, step, path } => {
            let path = path.display().to_string();
            let line =
                format!("stopped at step {step}; the state is in `{path}`, go on with `{command} --resume auto`");
            emit_or_say(output, "stopped", json!({ "step": step, "path": path }), &line);
            Ok(match signal {
                Signal::Interrupt => ExitStatus::Interrupted,
                Signal::Terminate => ExitStatus::Terminated,
                Signal::HangUp => ExitStatus::HungUp,
            })
        }
        Done::Unhealthy { reason, step, path } => {
            let path = path.display().to_string();
            if output == Output::Json {
                emit("stopped", json!({ "step": step, "path": path }));
            }
            let note =
                format!("the state of step {step} is in `{path}`; go on all the same with `{command} --resume auto`");
            Err(reason.note(note).into())
        }
        Done::Finished { summary, .. } if output == Output::Json => {
            emit("summary", summary.to_json());
            Ok(ExitStatus::Done)
        }
        Done::Finished { summary, shown } => {
            if let Some((before, after)) = &shown {
                say(&format!(
                    "\nan example of the evaluation set\n  wanted  {}\n  before  {}\n  after   {}",
                    Safe::excerpt(&after.reference, WIDTH),
                    Safe::excerpt(&before.completion, WIDTH),
                    Safe::excerpt(&after.completion, WIDTH)
                ));
            }
            say(&summary.table(&next::commands(job.loaded, job.plugins, &job.plan)));
            Ok(ExitStatus::Done)
        }
    }
}

fn emit_or_say(output: Output, event: &str, fields: Value, line: &str) {
    match output {
        Output::Json => emit(event, fields),
        Output::Human => say(line),
    }
}
