//! `host recipe reproduce`: whether a recipe gives here what it says that it gives.

use std::path::Path;
use std::time::Instant;

use clap::Args;

use super::super::train::{How, train};
use super::super::{say, show};
use super::own_plugins;
use super::run::Brought;
use crate::check::ready::Ready;
use crate::checkpoint::directory::replace_file;
use crate::diagnostic::{Diagnostic, ExitStatus, Failure};
use crate::recipe::opened::Opened;
use crate::recipe::reproduce::Report;
use crate::report::console::Console;
use crate::report::{Event, Observer, Output, emit};
use crate::train::job::Done;
use crate::train::output::Existing;
use crate::train::signal::{Signal, StopSignal};

/// The report, as JSON and as a page, in the output directory.
const JSON: &str = "reproduction.json";
const PAGE: &str = "reproduction.html";
/// The model card of a finished run, which gets the report too.
const CARD: &str = "README.md";
const CARD_BYTES: u64 = 1 << 20;

#[derive(Debug, Args)]
pub(super) struct ReproduceArgs {
    /// A directory with a recipe.yml, that file, a .recipe file, or an address: https://…, oci://…, hf:ORG/NAME
    recipe: String,
    #[command(flatten)]
    brought: Brought,
    /// Only the first steps, and the points that were recorded of them
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    steps: Option<u64>,
    /// How far a metric may be from the recorded one, as a share
    #[arg(long, value_name = "SHARE", default_value_t = 0.05, value_parser = share)]
    tolerance: f64,
    /// Replace an earlier run in the output directory
    #[arg(long)]
    overwrite: bool,
}

fn share(text: &str) -> Result<f64, String> {
    let share = text.parse().ok().filter(|share: &f64| share.is_finite() && *share >= 0.0);
    share.ok_or_else(|| "it is a share, such as 0.05".to_owned())
}

/// Stops a run after so many steps.
struct StopAfter<'a> {
    inner: Console,
    steps: Option<u64>,
    stop: &'a StopSignal,
}

impl Observer for StopAfter<'_> {
    fn on(&mut self, event: Event<'_>) {
        if let Event::Train { record, .. } = &event
            && self.steps.is_some_and(|steps| record.step >= steps)
        {
            self.stop.raise(Signal::Terminate);
        }
        self.inner.on(event);
    }
}

pub(super) fn run(args: &ReproduceArgs, output: Output) -> Result<ExitStatus, Failure> {
    let began = Instant::now();
    let opened = Opened::new(&args.recipe)?;
    let recipe = opened.recipe();
    let lock = opened.lock().filter(|lock| lock.result.is_some()).cloned();
    let Some(lock) = lock else {
        let message = format!("`{}` does not say what it gives", recipe.name);
        let help = "run it: `host recipe run`; who made it can add what it gave: `host recipe lock --run DIRECTORY`";
        return Err(Diagnostic::error("recipe::result", message).help(help).into());
    };
    let output_dir = args.brought.output_dir(&format!("{}-reproduced", recipe.name));
    if !args.brought.agreed(&opened, &output_dir, output)? {
        say("nothing was run");
        return Ok(ExitStatus::Done);
    }
    let config = opened.bring()?;
    let set = [Brought::set_output_dir(&output_dir)];
    let ready = Ready::new(&config, &set, own_plugins::open(&config, &[])?, &args.brought.grant, true)?;
    show(&ready.remarks, output);
    let existing = if args.overwrite { Existing::Overwrite } else { Existing::Refuse };
    let how = How { began, output, command: String::new(), dry_run: false, existing };
    train(
        ready,
        &how,
        |stop| Box::new(StopAfter { inner: Console::new(output), steps: args.steps, stop }),
        |_, done| {
            let asked = matches!(done, Done::Stopped { step, .. } if args.steps.is_some_and(|steps| step >= steps));
            match done {
                Done::Finished { .. } | Done::NothingLeft { .. } => {}
                Done::Stopped { .. } if asked => {}
                Done::Stopped { step, .. } => {
                    say(&format!("stopped at step {step}; nothing was compared"));
                    return Ok(ExitStatus::Terminated);
                }
                Done::Unhealthy { reason, .. } => return Err(reason.into()),
            }
            let report = Report::new(recipe, &lock, &output_dir, args.tolerance)?;
            tell(&report, &output_dir, output)?;
            Ok(if report.is_good() { ExitStatus::Done } else { ExitStatus::Failed })
        },
    )
}

fn tell(report: &Report, output_dir: &Path, output: Output) -> Result<(), Failure> {
    let fields = serde_json::to_value(report).expect("a report is plain data");
    replace_file(&output_dir.join(JSON), fields.to_string().as_bytes())?;
    replace_file(&output_dir.join(PAGE), report.page().as_bytes())?;
    let card = output_dir.join(CARD);
    if let Ok(text) = intake::read_text(&card, CARD_BYTES) {
        replace_file(&card, format!("{}\n\n{}", text.trim_end(), report.markdown()).as_bytes())?;
    }
    if output == Output::Json {
        emit("reproduction", fields);
        return Ok(());
    }
    let mut text = format!("\n{} {}: {}", report.name, report.version, report.words());
    for difference in &report.differences {
        text +=
            &format!("\n  {}\n    recipe  {}\n    here    {}", difference.what, difference.recorded, difference.found);
    }
    text += &format!("\nthe points side by side: {}", output_dir.join(PAGE).display());
    say(&text);
    Ok(())
}
