//! `host recipe pack`: a recipe as one file.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::super::{say, show};
use super::own_plugins;
use crate::check::contents;
use crate::check::ready::Ready;
use crate::checkpoint::directory::replace_file;
use crate::diagnostic::{Diagnostic, ExitStatus, Failure};
use crate::recipe::image::{Image, pack};
use crate::recipe::opened::Opened;
use crate::recipe::signature;
use crate::report::progress::bytes;
use crate::report::{Output, emit};

#[derive(Debug, Args)]
pub(super) struct PackArgs {
    /// A directory with a recipe.yml, or that file
    #[arg(default_value = ".")]
    recipe: String,
    /// The file to write. Default: NAME-VERSION.recipe
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Also write its digest into a file, to be signed: `minisign -Sm FILE -x NAME-VERSION.recipe.minisig`
    #[arg(long, value_name = "FILE")]
    digest: Option<PathBuf>,
}

pub(super) fn run(args: &PackArgs, output: Output) -> Result<ExitStatus, Failure> {
    let opened = Opened::new(&args.recipe)?;
    let config = opened.bring()?;
    // What is packed can be run by others: it is checked as theirs will be.
    let ready = Ready::new(&config, &[], own_plugins::open(&config, &[])?, &[], true)?;
    show(&ready.remarks, output);
    let (recipe, text) = (opened.recipe(), ready.loaded.source.text.as_bytes());
    let files = opened.lock().map(|lock| lock.files.clone()).unwrap_or_default();
    let image = Image::new(recipe, text, &files);
    let path = args.output.clone().unwrap_or_else(|| format!("{}-{}.recipe", recipe.name, recipe.version).into());
    let failed = |error: std::io::Error| {
        Diagnostic::error("io::write", format!("`{}` cannot be written", path.display())).why(error.to_string())
    };
    let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(std::path::Path::new("."));
    let readable = std::fs::Permissions::from_mode(0o666);
    let temporary = tempfile::Builder::new().prefix(".packing-").permissions(readable).tempfile_in(folder);
    let mut file = temporary.map_err(failed)?;
    pack(&image, &contents::directory(&ready.loaded), text, file.as_file_mut())?;
    let size = file.as_file().metadata().map_err(failed)?.len();
    file.persist(&path).map_err(|error| failed(error.error))?;
    if let Some(digest) = &args.digest {
        replace_file(digest, signature::signed(&image.sha256).as_bytes())?;
    }
    match output {
        Output::Json => emit(
            "packed",
            json!({ "path": path.display().to_string(), "digest": format!("sha256:{}", image.sha256), "bytes": size, "files": image.files.len() }),
        ),
        Output::Human => say(&format!(
            "packed {} {} into {}: {} files, {}\nsha256:{}",
            recipe.name,
            recipe.version,
            path.display(),
            image.files.len(),
            bytes(size),
            image.sha256
        )),
    }
    Ok(ExitStatus::Done)
}
