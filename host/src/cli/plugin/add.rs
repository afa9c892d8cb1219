//! `host plugin add` and `remove`: plugins of the user's own, for every config.

use clap::Args;
use serde_json::json;

use super::super::say;
use super::super::words::ask;
use crate::check::added;
use crate::diagnostic::{Diagnostic, ExitStatus, Failure};
use crate::recipe::source::plugin;
use crate::report::{Output, emit};

#[derive(Debug, Args)]
pub(super) struct AddArgs {
    /// A .wasm file, or its address: https://… or oci://HOST/REPOSITORY:TAG
    plugin: String,
    /// Do not ask
    #[arg(long)]
    yes: bool,
}

pub(super) fn add(args: &AddArgs, output: Output) -> Result<ExitStatus, Failure> {
    let (bytes, from) = plugin(&args.plugin)?;
    let inspection = plugin_runtime::inspect(&bytes, &args.plugin)?;
    let manifest = &inspection.manifest;
    if !manifest.name.contains(':') {
        let message = format!("`{}` is a name of the plugins that come with this program", manifest.name);
        return Err(Diagnostic::error("plugin::added", message).help("others are called `namespace:name`").into());
    }
    let before = added::all()?.into_iter().find(|added| added.name == manifest.name);
    let known = before.as_ref().is_some_and(|before| before.sha256 == inspection.sha256);
    if output == Output::Human {
        let grants = if inspection.needs_grants() {
            "\nit would like to read files beside its data, where you grant that"
        } else {
            ""
        };
        let instead = match &before {
            Some(before) if !known => format!("\nin place of version {}, sha256 {}", before.version, before.sha256),
            _ => String::new(),
        };
        say(&format!(
            "{} {}, {}, plugin API {}\nsha256 {}\nfrom {from}{grants}{instead}",
            manifest.name,
            manifest.version,
            manifest.kind.with_article(),
            manifest.api,
            inspection.sha256
        ));
    }
    if !args.yes && !known && !ask("add it for all configs?", output, "plugin::ask")? {
        say("nothing was added");
        return Ok(ExitStatus::Done);
    }
    added::add(&inspection, &bytes, &from)?;
    match output {
        Output::Json => emit(
            "added",
            json!({ "name": manifest.name, "version": manifest.version, "sha256": inspection.sha256, "from": from }),
        ),
        Output::Human => {
            say(&format!("added; `host plugin remove {}` undoes it", crate::commands::word(&manifest.name)));
        }
    }
    Ok(ExitStatus::Done)
}

pub(super) fn remove(name: &str, output: Output) -> Result<ExitStatus, Failure> {
    let Some(gone) = added::remove(name)? else {
        let message = format!("you have not added a plugin `{name}`");
        return Err(Diagnostic::error("plugin::unknown", message).help("`host plugin list` shows all plugins").into());
    };
    match output {
        Output::Json => emit("removed", json!({ "name": gone.name, "sha256": gone.sha256 })),
        Output::Human => say(&format!("removed {} {}", gone.name, gone.version)),
    }
    Ok(ExitStatus::Done)
}
