//! `host recipe push`: a recipe into a registry.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::super::{say, show};
use super::own_plugins;
use crate::check::contents::{self, SIGNATURE_BYTES};
use crate::check::ready::Ready;
use crate::diagnostic::{Diagnostic, ExitStatus, Failure};
use crate::recipe::image::Image;
use crate::recipe::opened::Opened;
use crate::recipe::source::push;
use crate::report::{Output, emit};

#[derive(Debug, Args)]
pub(super) struct PushArgs {
    /// A directory with a recipe.yml, that file, or a .recipe file
    recipe: String,
    /// Where to: oci://HOST/REPOSITORY:TAG
    to: String,
    /// A model in the same repository that the registry shall list the recipe beside
    #[arg(long, value_name = "REFERENCE")]
    subject: Option<String>,
    /// Its signature, which is pushed with it: of the digest that `host recipe pack --digest` writes, made by minisign
    #[arg(long, value_name = "FILE")]
    signature: Option<PathBuf>,
}

pub(super) fn run(args: &PushArgs, output: Output) -> Result<ExitStatus, Failure> {
    if !args.to.starts_with("oci://") {
        let message = format!("recipes are not pushed to `{}`", args.to);
        let help = "write `oci://HOST/REPOSITORY:TAG`; for the Hugging Face hub, `hf upload ORG/NAME DIRECTORY` puts a recipe's directory there";
        return Err(Diagnostic::error("recipe::source", message).help(help).into());
    }
    let opened = Opened::new(&args.recipe)?;
    let config = opened.bring()?;
    let ready = Ready::new(&config, &[], own_plugins::open(&config, &[])?, &[], true)?;
    show(&ready.remarks, output);
    let recipe = opened.recipe();
    let text = ready.loaded.source.text.as_bytes();
    let files = opened.lock().map(|lock| lock.files.clone()).unwrap_or_default();
    let image = Image::new(recipe, text, &files);
    let directory = contents::directory(&ready.loaded);
    let signature = args.signature.as_ref().map(|path| {
        intake::read_text(path, SIGNATURE_BYTES).map_err(|error| {
            Diagnostic::error("recipe::signature", format!("`{}` cannot be read", path.display()))
                .why(error.to_string())
        })
    });
    let signature = signature.transpose()?;
    let pushed = push(&image, &directory, text, &args.to, args.subject.as_deref(), signature.as_deref())?;
    match output {
        Output::Json => emit("pushed", json!({ "reference": pushed.reference, "digest": pushed.digest })),
        Output::Human => say(&format!(
            "pushed {} {}\n{}\nothers run it: `host recipe run {}`",
            recipe.name,
            recipe.version,
            pushed.reference,
            crate::commands::word(&args.to)
        )),
    }
    Ok(ExitStatus::Done)
}
