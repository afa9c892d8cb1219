//! `host check`: every problem at once, before anything is spent.

use super::{CheckArgs, open_plugins, say, show};
use crate::check::{check_examined, lock, plugins};
use crate::config;
use crate::diagnostic::{ExitStatus, Failure, Severity};
use crate::report::{Output, emit};

pub(super) fn run(args: &CheckArgs) -> Result<ExitStatus, Failure> {
    let CheckArgs { config: args, locked } = args;
    let (path, _) = args.choose()?;
    let mut plugins = open_plugins(&args.plugins)?;
    let examined = config::examine(&path, &args.set);
    if let Some(loaded) = &examined.loaded {
        plugins::configure(loaded, &args.grant, &mut plugins)?;
    }
    let locked = examined.loaded.as_ref().map(|loaded| lock::check(loaded, &plugins, *locked)).unwrap_or_default();
    let mut found = check_examined(examined, &plugins);
    found.extend(locked);
    show(&found, args.output());
    let count = |severity: Severity| found.iter().filter(|diagnostic| diagnostic.severity == severity).count();
    let (errors, warnings) = (count(Severity::Error), count(Severity::Warning));
    match args.output() {
        Output::Json => emit("check", serde_json::json!({ "errors": errors, "warnings": warnings })),
        Output::Human => {
            say(&format!("{}: {}, {}", path.display(), counted(errors, "error"), counted(warnings, "warning")));
        }
    }
    Ok(if errors == 0 { ExitStatus::Done } else { ExitStatus::Failed })
}

fn counted(count: usize, what: &str) -> String {
    match count {
        0 => format!("no {what}s"),
        1 => format!("1 {what}"),
        _ => format!("{count} {what}s"),
    }
}
