//! `host check`: every problem at once, before anything is spent.

use plugin_runtime::PluginHost;

use super::plan::{cost, describe};
use super::{CheckArgs, open_plugins, say, show};
use crate::author::replay::{self, Keep};
use crate::check::facts::ModelFacts;
use crate::check::{check_examined, lock, plugins, rules};
use crate::config::{self, LoadedConfig};
use crate::diagnostic::{Diagnostic, ExitStatus, Failure, Severity};
use crate::report::{Output, emit};
use crate::train::cost::Cost;
use crate::train::plan::{self, Plan};

pub(super) fn run(args: &CheckArgs) -> Result<ExitStatus, Failure> {
    let CheckArgs { config: args, locked, plan: wants_plan } = args;
    let (path, _) = args.choose()?;
    let mut plugins = open_plugins(&args.plugins)?;
    let examined = config::examine(&path, &args.set);
    if let Some(loaded) = &examined.loaded {
        plugins::configure(loaded, &args.grant, &mut plugins)?;
    }
    let locked = examined.loaded.as_ref().map(|loaded| lock::check(loaded, &plugins, *locked)).unwrap_or_default();
    let (mut found, read) = check_examined(examined, &plugins);
    found.extend(locked);
    let is_error = |diagnostic: &Diagnostic| diagnostic.severity == Severity::Error;
    let is_sound = !found.iter().any(is_error);
    let planned = read.as_ref().filter(|_| *wants_plan && is_sound).and_then(|(loaded, model)| {
        let planned = Planned::new(loaded, model, &plugins).map_err(|failure| found.extend(failure.0)).ok()?;
        found.extend(rules::check_data(loaded, &plugins, model, &planned.plan.to_json(), &found));
        found.extend(planned.cost.warning(loaded));
        Some(planned)
    });
    config::sort(&mut found, &path);
    show(&found, args.output());
    let count = |severity: Severity| found.iter().filter(|diagnostic| diagnostic.severity == severity).count();
    let (errors, warnings) = (count(Severity::Error), count(Severity::Warning));
    match args.output() {
        Output::Json => emit("check", serde_json::json!({ "errors": errors, "warnings": warnings })),
        Output::Human => {
            say(&format!("{}: {}, {}", path.display(), counted(errors, "error"), counted(warnings, "warning")));
        }
    }
    if let Some(Planned { loaded, model, plan, cost }) = planned.as_ref().filter(|_| errors == 0) {
        describe(loaded, model, plan, cost, args.output(), "nothing was trained or written (--plan)");
    }
    Ok(if errors == 0 { ExitStatus::Done } else { ExitStatus::Failed })
}

/// A run that could start.
struct Planned<'a> {
    loaded: &'a LoadedConfig,
    model: &'a ModelFacts,
    plan: Plan,
    cost: Cost,
}

impl<'a> Planned<'a> {
    /// Reads the data, and no weights.
    fn new(loaded: &'a LoadedConfig, model: &'a ModelFacts, plugins: &PluginHost) -> Result<Self, Failure> {
        let template = plan::template(loaded, &model.tokenizer)?;
        let plan = Plan::new(loaded, plugins, model, template.as_ref()).map_err(|mut failure| {
            replay::keep(&mut failure, plugins, Keep::Nothing);
            failure
        })?;
        let cost = cost(loaded, model, template.as_ref(), &plan)?;
        Ok(Self { loaded, model, plan, cost })
    }
}

fn counted(count: usize, what: &str) -> String {
    match count {
        0 => format!("no {what}s"),
        1 => format!("1 {what}"),
        _ => format!("{count} {what}s"),
    }
}
