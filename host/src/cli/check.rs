//! `host check`: every problem at once, before anything is spent.

use super::{ConfigArgs, open_plugins, say, show};
use crate::check::{check_examined, plugins};
use crate::config;
use crate::diagnostic::{ExitStatus, Failure, Severity};
use crate::report::{Output, emit};

pub(super) fn run(args: &ConfigArgs) -> Result<ExitStatus, Failure> {
    let (path, _) = args.choose()?;
    let mut plugins = open_plugins(&args.plugins)?;
    let examined = config::examine(&path, &args.set);
    if let Some(loaded) = &examined.loaded {
        plugins::configure(loaded, &args.grant, &mut plugins)?;
    }
    let found = check_examined(examined, &plugins);
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
