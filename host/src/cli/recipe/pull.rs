//! `host recipe pull`: a recipe as a directory of the user's.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::super::{say, show};
use crate::diagnostic::{ExitStatus, Failure};
use crate::recipe::opened::Opened;
use crate::report::{Output, emit};

#[derive(Debug, Args)]
pub(super) struct PullArgs {
    /// A .recipe file, or an address: https://…, oci://…, hf:ORG/NAME
    recipe: String,
    /// The directory to make. Default: the recipe's name, here
    #[arg(long)]
    dir: Option<PathBuf>,
}

pub(super) fn run(args: &PullArgs, output: Output) -> Result<ExitStatus, Failure> {
    let opened = Opened::new(&args.recipe)?;
    show(&opened.loaded.remarks, output);
    let dir = args.dir.clone().unwrap_or_else(|| opened.recipe().name.clone().into());
    opened.copy_to(&dir)?;
    let shown = dir.display().to_string();
    match output {
        Output::Json => emit("pulled", json!({ "dir": shown, "name": opened.recipe().name })),
        Output::Human => say(&format!(
            "pulled {} {} into {shown}\nnext: host recipe inspect {}",
            opened.recipe().name,
            opened.recipe().version,
            crate::commands::path(&dir)
        )),
    }
    Ok(ExitStatus::Done)
}
