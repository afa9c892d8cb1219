//! `host plugin pack`: a component of any language becomes a plugin.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::super::say;
use crate::author::manifest;
use crate::checkpoint::directory::replace_file;
use crate::diagnostic::{ExitStatus, Failure};
use crate::report::{Output, emit};

#[derive(Debug, Args)]
pub(super) struct PackArgs {
    /// The component
    file: PathBuf,
    /// What it is: JSON with `name`, `version`, `kind`, `description` and perhaps `config_schema`
    #[arg(long, value_name = "FILE")]
    manifest: PathBuf,
    /// Where to write the plugin. Default: FILE itself
    #[arg(short, long, value_name = "OUT")]
    output: Option<PathBuf>,
}

pub(super) fn run(args: &PackArgs, output: Output) -> Result<ExitStatus, Failure> {
    let manifest = manifest::read(&args.manifest)?;
    let bytes = plugin_runtime::read_file(&args.file)?;
    let (packed, inspection) = plugin_runtime::pack(&bytes, &manifest, &args.file.display().to_string())?;
    let out = args.output.as_ref().unwrap_or(&args.file);
    replace_file(out, &packed)?;
    let shown = out.display();
    if output == Output::Json {
        emit("packed", json!({ "path": shown.to_string(), "name": manifest.name, "sha256": inspection.sha256 }));
    } else {
        say(&format!("`{shown}` is now the {} plugin `{}`", manifest.kind.name(), manifest.name));
    }
    Ok(ExitStatus::Done)
}
