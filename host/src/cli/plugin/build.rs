//! `host plugin build`: a project's plugin, ready to be used.

use std::path::Path;

use serde_json::json;

use super::super::say;
use crate::author::build::build;
use crate::author::project::Project;
use crate::diagnostic::{ExitStatus, Failure};
use crate::report::{Output, emit};

pub(super) fn run(dir: &Path, output: Output) -> Result<ExitStatus, Failure> {
    let (path, inspection) = build(&Project::open(dir)?)?;
    let (manifest, shown) = (&inspection.manifest, path.display());
    if output == Output::Json {
        let mut fields = serde_json::to_value(&inspection).unwrap_or_default();
        fields["path"] = json!(shown.to_string());
        emit("built", fields);
        return Ok(ExitStatus::Done);
    }
    say(&format!(
        "built `{}` {}, {} plugin of {} KiB, with no import that a plugin does not get\n  {shown}\nnext: host plugin test {}",
        manifest.name,
        crate::diagnostic::escape(&manifest.version),
        manifest.kind.with_article(),
        inspection.bytes.div_ceil(1024),
        dir.display()
    ));
    Ok(ExitStatus::Done)
}
