//! `host recipe new`: a recipe made of a config.

use std::path::PathBuf;

use clap::Args;

use super::super::{say, show};
use super::lock::told;
use super::own_plugins;
use crate::check::contents::FILE;
use crate::check::ready::Ready;
use crate::config::recipe::Recipe;
use crate::diagnostic::{ExitStatus, Failure};
use crate::recipe::{gather, lock};
use crate::report::Output;
use crate::train::job::Job;

#[derive(Debug, Args)]
pub(super) struct NewArgs {
    /// The config
    config: PathBuf,
    /// Its name: small letters, digits, and `-`, `_` or `.` between them
    #[arg(long)]
    name: String,
    /// Its version
    #[arg(long, default_value = "0.1.0")]
    version: String,
    /// Who made it; may stand several times
    #[arg(long, value_name = "NAME")]
    author: Vec<String>,
    /// Under which licence it and its files may be used, as SPDX has it
    #[arg(long)]
    license: Option<String>,
    /// What it is for, in a sentence or two
    #[arg(long)]
    description: Option<String>,
    /// A word to find it by; may stand several times
    #[arg(long, value_name = "WORD")]
    tag: Vec<String>,
    /// The output directory of a finished run of the config, whose result is kept
    #[arg(long, value_name = "DIR")]
    run: Option<PathBuf>,
    /// The directory to make. Default: the name, here
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Directory with plugins (*.wasm) beside the bundled ones
    #[arg(long, value_name = "DIR")]
    plugins: Vec<PathBuf>,
}

pub(super) fn run(args: &NewArgs, output: Output) -> Result<ExitStatus, Failure> {
    let ready = Ready::new(&args.config, &[], super::super::open_plugins(&args.plugins)?, &[], false)?;
    show(&ready.remarks, output);
    let recipe = Recipe {
        name: args.name.clone(),
        version: args.version.clone(),
        authors: args.author.clone(),
        license: args.license.clone(),
        description: args.description.clone(),
        tags: args.tag.clone(),
        host: Some(env!("CARGO_PKG_VERSION").to_owned()),
    };
    let dir = args.dir.clone().unwrap_or_else(|| args.name.clone().into());
    let of = ready.loaded.source.sha256.clone();
    let making = gather::gather(&ready.loaded, &ready.plugins, &recipe, &dir)?;
    show(&making.remarks, output);
    let config = making.directory.join(FILE);
    let mut made = Ready::new(&config, &[], own_plugins::open(&config, &[])?, &[], false)?;
    made.bring_data()?;
    let Ready { loaded, plugins, model, remarks, .. } = &made;
    let job = Job::new(loaded, plugins, model, remarks)?;
    let locked = lock::make(loaded, plugins, &job.plan, args.run.as_deref(), &of)?;
    lock::write(loaded, &locked)?;
    making.keep()?;
    told(&dir.join(FILE), &locked, output);
    if output == Output::Human {
        let shown = crate::commands::path(&dir);
        say(&format!("next:\n  edit `recipe:` in {shown}/{FILE}\n  host recipe pack {shown}"));
    }
    Ok(ExitStatus::Done)
}
