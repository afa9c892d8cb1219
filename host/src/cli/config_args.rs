//! What every command that reads a config takes.

use std::path::PathBuf;

use clap::Args;

use super::words::say;
use crate::check::plugins::Grant;
use crate::commands::{path, word};
use crate::diagnostic::Failure;
use crate::report::Output;

/// What every command that reads a config takes.
#[derive(Debug, Args)]
pub(super) struct ConfigArgs {
    /// The config. Without one: ./host.yml if there is one, else the built-in quickstart
    pub(super) config: Option<PathBuf>,
    /// Directory with plugins (*.wasm) beside the bundled ones
    #[arg(long, value_name = "DIR")]
    pub(super) plugins: Vec<PathBuf>,
    /// Let a dataset loader read the files under a directory, beside its data: `--grant acme:tables=./tables`
    #[arg(long, value_name = "NAME=DIR")]
    pub(super) grant: Vec<Grant>,
    /// Replace one value of the config: `--set learning_rate=1e-4`, `--set datasets[0].path=data.jsonl`
    #[arg(long, value_name = "KEY=VALUE")]
    pub(super) set: Vec<String>,
    /// One JSON object per line on stdout instead of text
    #[arg(long)]
    pub(super) json: bool,
}

impl ConfigArgs {
    pub(super) fn output(&self) -> Output {
        if self.json { Output::Json } else { Output::Human }
    }

    /// A command of this program with the same config, plugins and values.
    pub(super) fn command(&self, name: &str) -> String {
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
    pub(super) fn choose(&self) -> Result<(PathBuf, bool), Failure> {
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
