//! The command line: what can be typed, and which command it starts. A command returns how the process ends, or the
//! diagnostics that say why it could not do what was asked.

mod check;
mod config_args;
mod curate;
mod doctor;
mod evidence;
mod generate;
mod merge;
mod merge_lora;
mod model;
mod next;
mod plan;
mod plugin;
mod plugin_host;
mod preprocess;
mod ready;
mod recipe;
mod schema;
mod train;
mod words;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use clap_complete::Shell;

use self::config_args::ConfigArgs;
use self::plugin_host::{COMPILE, open_own_plugins, open_plugins};
use self::words::{say, show};
use crate::diagnostic::{ExitStatus, Failure};
use crate::report::Output;
use crate::terminal;

/// Fine-tunes language models; everything a community wants to change is a sandboxed WebAssembly plugin.
#[derive(Debug, Parser)]
#[command(name = "host", version, about, max_term_width = 120)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Train a model as a config says
    Train(train::TrainArgs),
    /// Find every problem of config, plugins and rules, before anything is spent
    Check(check::CheckArgs),
    /// Look at the samples of a config as the model will see them
    Preprocess(preprocess::PreprocessArgs),
    /// Leave out rows that repeat others or an evaluation, with a random control of the same size
    Curate(curate::CurateArgs),
    /// Put the adapter of a run into the weights of its base model
    MergeLora(merge_lora::MergeLoraArgs),
    /// Put several models together as one
    Merge(merge::MergeArgs),
    /// Let a model write
    Generate(generate::GenerateArgs),
    /// Look at plugins, write your own, and hold a config to those it was made with
    Plugin(plugin::PluginArgs),
    /// Share a whole run, and run a stranger's: a config with its data and plugins, pinned to the byte
    Recipe(recipe::RecipeArgs),
    /// Print the JSON Schema of a config, for editors; or its reference page
    Schema(schema::SchemaArgs),
    /// Say what this machine has, and what can be trained on it
    Doctor(doctor::DoctorArgs),
    /// Share what came of runs, and hold configs against what came of others'
    Evidence(evidence::EvidenceArgs),
    /// Print completions for a shell: `host completions bash > ~/.local/share/bash-completion/completions/host`
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Compile a plugin from stdin to stdout: started by this program itself
    #[command(name = COMPILE, hide = true)]
    CompilePlugin {
        /// Memory that it may take, bytes
        memory: u64,
    },
}

/// Runs what was typed.
pub fn run(cli: Cli) -> ExitCode {
    let (output, result) = match cli.command {
        Command::Train(args) => (args.config.output(), train::run(&args)),
        Command::Check(args) => (args.config.output(), check::run(&args)),
        Command::Preprocess(args) => (args.config.output(), preprocess::run(&args)),
        Command::Curate(args) => (args.config.output(), curate::run(&args)),
        Command::MergeLora(args) => (args.config.output(), merge_lora::run(&args)),
        Command::Merge(args) => (args.output(), merge::run(&args)),
        Command::Generate(args) => (args.output(), generate::run(&args)),
        Command::Completions { shell } => {
            // All at once: whoever closes the pipe early has seen enough.
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "host", &mut script);
            (Output::Human, terminal::print_file(&String::from_utf8_lossy(&script)).map(|()| ExitStatus::Done))
        }
        Command::Doctor(args) => (args.output(), doctor::run(&args)),
        Command::Evidence(args) => (args.output(), evidence::run(&args)),
        Command::Schema(args) => (args.output(), schema::run(&args)),
        Command::Recipe(args) => (args.output(), recipe::run(&args)),
        Command::Plugin(args) => (args.output(), plugin::run(&args)),
        Command::CompilePlugin { memory } => return plugin_runtime::compile_main(memory),
    };
    match result {
        Ok(status) => status.into(),
        Err(Failure(diagnostics)) => {
            show(&diagnostics, output);
            ExitStatus::Failed.into()
        }
    }
}
