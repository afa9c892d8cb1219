//! `host recipe`: share a whole run, and run a stranger's.

mod diff;
mod from;
mod inspect;
mod list;
mod lock;
mod new;
mod own_plugins;
mod pack;
mod plan;
mod pull;
mod push;
mod reproduce;
mod run;
mod verify;

use clap::{Args, Subcommand};

use crate::diagnostic::{ExitStatus, Failure};
use crate::report::Output;

#[derive(Debug, Args)]
pub(super) struct RecipeArgs {
    #[command(subcommand)]
    command: RecipeCommand,
    /// One JSON object per line on stdout instead of text
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum RecipeCommand {
    /// Make a recipe of a config: a directory with its files and plugins beside it
    New(new::NewArgs),
    /// Write into a recipe what it is made of, to the byte, and what a run of it gave
    Lock(lock::LockArgs),
    /// Put a recipe and its files into one `.recipe` file, the same bytes wherever it is made
    Pack(pack::PackArgs),
    /// Show what a recipe is, what it brings and what running it takes; nothing of it runs
    Inspect {
        /// A directory with a recipe.yml, that file, a .recipe file, or an address: https://…, oci://…, hf:ORG/NAME
        recipe: String,
    },
    /// Check a recipe: config, files, plugins and rules, each against what it says
    Verify {
        /// A directory with a recipe.yml, that file, a .recipe file, or an address: https://…, oci://…, hf:ORG/NAME
        recipe: String,
        /// Only if this key of minisign has signed it; one of several
        #[arg(long, value_name = "KEY|FILE")]
        key: Vec<String>,
    },
    /// Run a recipe, after showing what that takes and asking once
    Run(run::RunArgs),
    /// Run a recipe, and say whether it gave what it says
    Reproduce(reproduce::ReproduceArgs),
    /// Put a recipe into a registry, from where others run it by `oci://HOST/REPOSITORY:TAG`
    Push(push::PushArgs),
    /// Get a recipe as a directory, to read and to change it
    Pull(pull::PullArgs),
    /// List the recipes of an index that somebody hosts
    List(list::ListArgs),
    /// Make a recipe of the Axolotl config in a model card, pinned to what its names mean today
    From(from::FromArgs),
    /// Show in what two recipes differ
    Diff {
        /// A recipe
        a: String,
        /// Another
        b: String,
    },
}

impl RecipeArgs {
    pub(super) fn output(&self) -> Output {
        if self.json { Output::Json } else { Output::Human }
    }
}

pub(super) fn run(args: &RecipeArgs) -> Result<ExitStatus, Failure> {
    let output = args.output();
    match &args.command {
        RecipeCommand::New(args) => new::run(args, output),
        RecipeCommand::Lock(args) => lock::run(args, output),
        RecipeCommand::Pack(args) => pack::run(args, output),
        RecipeCommand::Inspect { recipe } => inspect::run(recipe, output),
        RecipeCommand::Verify { recipe, key } => verify::run(recipe, key, output),
        RecipeCommand::Run(args) => run::run(args, output),
        RecipeCommand::Reproduce(args) => reproduce::run(args, output),
        RecipeCommand::Push(args) => push::run(args, output),
        RecipeCommand::Pull(args) => pull::run(args, output),
        RecipeCommand::From(args) => from::run(args, output),
        RecipeCommand::List(args) => list::run(args, output),
        RecipeCommand::Diff { a, b } => diff::run(a, b, output),
    }
}
