//! `host merge-lora`: the adapter of a run put into the weights that it was trained beside, as a model of its own.

use std::path::PathBuf;

use clap::Args;
use engine::EngineError;
use engine::files::merge::merge;
use engine::files::peft;
use engine::kernels::cpu::CpuKernels;
use engine::weights::WeightSource;
use serde_json::json;

use super::model::room;
use super::ready::ready;
use super::{ConfigArgs, say, show};
use crate::check::ready::Ready;
use crate::check::selection;
use crate::checkpoint::directory::PendingDirectory;
use crate::commands::generate;
use crate::diagnostic::{Diagnostic, ExitStatus, Failure};
use crate::report::{Output, emit};
use crate::train::files::model_files;

#[derive(Debug, Args)]
pub(super) struct MergeLoraArgs {
    #[command(flatten)]
    pub(super) config: ConfigArgs,
    /// The adapter. Without it: the config's `output_dir`
    #[arg(long, value_name = "DIR")]
    adapter: Option<PathBuf>,
    /// Where the merged model goes. Without it: `merged` in the config's `output_dir`
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
}

pub(super) fn run(args: &MergeLoraArgs) -> Result<ExitStatus, Failure> {
    let (mut ready, _) = ready(&args.config, false)?;
    show(&ready.bring()?, args.config.output());
    let Ready { loaded, model, .. } = ready;
    let output_dir = PathBuf::from(&loaded.config.output_dir);
    let adapter = args.adapter.clone().unwrap_or_else(|| output_dir.clone());
    let target = args.output.clone().unwrap_or_else(|| output_dir.join("merged"));
    let WeightSource::Directory(base) = &model.weights else {
        return Err(Diagnostic::error("merge::no-base", "a model of random weights has no weights to merge into")
            .help("delete `reinit_weights`")
            .into());
    };
    if !adapter.join("adapter_config.json").is_file() {
        let message = format!("`{}` has no adapter", adapter.display());
        return Err(Diagnostic::error("merge::no-adapter", message)
            .why("there is no `adapter_config.json`")
            .help("name its directory with `--adapter`, or train one with `adapter: lora`")
            .into());
    }
    room(&target)?;
    let mut config = model.config.clone();
    peft::fit(&mut config, &adapter).map_err(EngineError::from)?;
    let lora = peft::load(&CpuKernels, &config, &adapter).map_err(EngineError::from)?;
    let template = selection::template(&loaded, &model)?;
    let pending = PendingDirectory::create(&target)?;
    merge(&config, base, &lora, pending.path())?;
    model_files(&loaded, &model, template.as_ref()).write_beside(pending.path())?;
    pending.publish()?;
    match args.config.output() {
        Output::Json => emit("merge", json!({ "path": target.display().to_string() })),
        Output::Human => {
            let base = base.display();
            say(&format!("merged `{}` into `{base}`: `{}`", adapter.display(), target.display()));
            if config.scores.is_none() {
                say(&format!("try it: {} --prompt Hello", generate(&target, None)));
            }
        }
    }
    Ok(ExitStatus::Done)
}
