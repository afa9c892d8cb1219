//! `host plugin`: look at plugins, and the life cycle of an author's own.

mod add;
mod build;
mod inspect;
mod list;
mod lock;
mod new;
mod pack;
mod test;

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::diagnostic::{ExitStatus, Failure};
use crate::report::Output;

#[derive(Debug, Args)]
pub(super) struct PluginArgs {
    #[command(subcommand)]
    command: PluginCommand,
    /// One JSON object per line on stdout instead of text
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum PluginCommand {
    /// List all plugins and where each comes from
    List {
        /// Directory with plugins (*.wasm) beside the bundled ones
        #[arg(long, value_name = "DIR")]
        plugins: Vec<PathBuf>,
    },
    /// Show what a plugin is and what it needs; it is never run
    Inspect {
        /// A .wasm file, or the name of a plugin
        plugin: String,
        /// Directory with plugins (*.wasm) beside the bundled ones
        #[arg(long, value_name = "DIR")]
        plugins: Vec<PathBuf>,
    },
    /// Add a plugin for all configs, as it is now: it is pinned to its digest
    Add(add::AddArgs),
    /// Remove a plugin that was added
    Remove {
        /// Its name
        name: String,
    },
    /// Start a project that builds at once
    New(new::NewArgs),
    /// Build a project, and look at the result
    Build {
        /// The project
        #[arg(default_value = ".")]
        dir: PathBuf,
    },
    /// Put a manifest into a component that another tool made
    Pack(pack::PackArgs),
    /// Run a plugin over its cases, in every batch size and order, and hold the results against golden files
    Test(test::TestArgs),
    /// Write `plugins.lock` beside a config: what each of its plugins is now
    Lock(lock::LockArgs),
}

impl PluginArgs {
    pub(super) fn output(&self) -> Output {
        if self.json { Output::Json } else { Output::Human }
    }
}

pub(super) fn run(args: &PluginArgs) -> Result<ExitStatus, Failure> {
    let output = args.output();
    match &args.command {
        PluginCommand::List { plugins } => list::run(plugins, output),
        PluginCommand::Inspect { plugin, plugins } => inspect::run(plugin, plugins, output),
        PluginCommand::Add(args) => add::add(args, output),
        PluginCommand::Remove { name } => add::remove(name, output),
        PluginCommand::New(args) => new::run(args, output),
        PluginCommand::Build { dir } => build::run(dir, output),
        PluginCommand::Pack(args) => pack::run(args, output),
        PluginCommand::Test(args) => test::run(args, output),
        PluginCommand::Lock(args) => lock::run(args, output),
    }
}
