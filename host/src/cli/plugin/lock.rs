//! `host plugin lock`: the plugins of a config, each with its digest.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use crate::check::lock;
use crate::cli::{open_plugins, say};
use crate::config;
use crate::diagnostic::{Diagnostic, ExitStatus, Failure};
use crate::report::{Output, emit};

#[derive(Debug, Args)]
pub(super) struct LockArgs {
    /// The config. Without one: ./host.yml
    config: Option<PathBuf>,
    /// Directory with plugins (*.wasm) beside the bundled ones
    #[arg(long, value_name = "DIR")]
    plugins: Vec<PathBuf>,
}

pub(super) fn run(args: &LockArgs, output: Output) -> Result<ExitStatus, Failure> {
    let config = args.config.clone().unwrap_or_else(|| PathBuf::from("host.yml"));
    if args.config.is_none() && !config.is_file() {
        return Err(Diagnostic::error("config::missing-file", "there is no ./host.yml here")
            .help("name the config: `host plugin lock CONFIG`")
            .into());
    }
    let loaded = config::load(&config, &[])?;
    let (path, count) = lock::write(&loaded, &open_plugins(&args.plugins)?)?;
    let shown = path.display();
    if output == Output::Json {
        emit("lock", json!({ "path": shown.to_string(), "plugins": count }));
    } else {
        let config = crate::commands::path(&config);
        say(&format!("locked {count} plugins in `{shown}`; `host train {config} --locked` takes exactly these"));
    }
    Ok(ExitStatus::Done)
}
