//! The command line: what can be typed, and which command it starts. A command returns how the process ends, or the
//! diagnostics that say why it could not do what was asked.

mod check;
mod doctor;
mod evidence;
mod generate;
mod merge_lora;
mod next;
mod plan;
mod plugin;
mod preprocess;
mod ready;
mod schema;
mod train;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory, Parser, Subcommand};
use clap_complete::Shell;
use plugin_runtime::PluginHost;

use crate::check::plugins::{self, Grant};
use crate::diagnostic::{Diagnostic, ExitStatus, Failure};
use crate::report::Output;
use crate::terminal::{self, Safe};

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
    Check(CheckArgs),
    /// Look at the samples of a config as the model will see them
    Preprocess(preprocess::PreprocessArgs),
    /// Put the adapter of a run into the weights of its base model
    MergeLora(merge_lora::MergeLoraArgs),
    /// Let a model write
    Generate(generate::GenerateArgs),
    /// Look at plugins, write your own, and hold a config to those it was made with
    Plugin(plugin::PluginArgs),
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

/// The command that compiles plugins, for [`open_plugins`].
const COMPILE: &str = "compile-plugin";

/// What every command that reads a config takes.
#[derive(Debug, Args)]
struct ConfigArgs {
    /// The config. Without one: ./host.yml if there is one, else the built-in quickstart
    config: Option<PathBuf>,
    /// Directory with plugins (*.wasm) beside the bundled ones
    #[arg(long, value_name = "DIR")]
    plugins: Vec<PathBuf>,
    /// Let a dataset loader read the files under a directory, beside its data: `--grant acme:tables=./tables`
    #[arg(long, value_name = "NAME=DIR")]
    grant: Vec<Grant>,
    /// Replace one value of the config: `--set learning_rate=1e-4`, `--set datasets[0].path=data.jsonl`
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// One JSON object per line on stdout instead of text
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct CheckArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Refuse plugins that are not exactly those of the config's `plugins.lock`
    #[arg(long)]
    locked: bool,
    /// Then, if there are no errors, say what the run would be and what it would take: steps, tokens, memory, disk
    #[arg(long)]
    plan: bool,
    /// Mend in the file what can be mended with certainty; comments, order and layout stay
    #[arg(long)]
    fix: bool,
    /// Also print each finding to stdout as an annotation of GitHub Actions, which shows it at its line of a pull request
    #[arg(long, conflicts_with = "json")]
    github: bool,
}

impl ConfigArgs {
    fn output(&self) -> Output {
        if self.json { Output::Json } else { Output::Human }
    }

    /// A command of this program with the same config, plugins and values.
    fn command(&self, name: &str) -> String {
        use crate::commands::{path, word};
        let mut command = format!("host {name}");
        if let Some(config) = &self.config {
            command += &format!(" {}", path(config));
        }
        for directory in &self.plugins {
            command += &format!(" --plugins {}", path(directory));
        }
        for grant in &self.grant {
            command += &format!(" --grant {}", word(&format!("{}={}", grant.plugin, grant.directory.display())));
        }
        for set in &self.set {
            command += &format!(" --set {}", word(set));
        }
        command
    }

    /// The config to read, and whether it is the built-in one.
    fn choose(&self) -> Result<(PathBuf, bool), Failure> {
        if let Some(config) = &self.config {
            return Ok((config.clone(), false));
        }
        let local = PathBuf::from("host.yml");
        if local.is_file() {
            say("using ./host.yml");
            return Ok((local, false));
        }
        say("no config given and no ./host.yml here: running the built-in quickstart");
        Ok((crate::quickstart::unpack()?, true))
    }
}

/// Runs what was typed.
pub fn run(cli: Cli) -> ExitCode {
    let (output, result) = match cli.command {
        Command::Train(args) => (args.config.output(), train::run(&args)),
        Command::Check(args) => (args.config.output(), check::run(&args)),
        Command::Preprocess(args) => (args.config.output(), preprocess::run(&args)),
        Command::MergeLora(args) => (args.config.output(), merge_lora::run(&args)),
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

/// All bundled plugins and those of `directories`. This program itself, whatever it is called, compiles those of others in
/// a process of its own.
fn open_plugins(directories: &[PathBuf]) -> Result<PluginHost, Failure> {
    // This name holds even where the file was renamed or replaced since the start.
    #[cfg(target_os = "linux")]
    let program = PathBuf::from("/proc/self/exe");
    #[cfg(not(target_os = "linux"))]
    let program = std::env::current_exe().map_err(|error| {
        Diagnostic::error("plugin::engine", "this program's own file is not to be found").why(error.to_string())
    })?;
    plugins::open(directories, Some(vec![program.into(), COMPILE.into()]))
}

/// Prints diagnostics: text on stderr, or JSON on stdout.
fn show(diagnostics: &[Diagnostic], output: Output) {
    for diagnostic in diagnostics {
        match output {
            Output::Human => {
                terminal::say(&Safe::diagnostic(diagnostic, terminal::in_color()));
            }
            Output::Json => terminal::print_json(&diagnostic.to_json()),
        }
    }
}

/// A line for a person, on stderr.
fn say(line: &str) {
    terminal::say(&Safe::text(line));
}
