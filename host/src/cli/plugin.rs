//! `host plugin`: which plugins there are, and what a plugin file is, without running it.

use std::io::Write as _;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use plugin_runtime::Limits;
use serde_json::json;

use super::open_plugins;
use crate::check::plugins::shown_source;
use crate::diagnostic::{Diagnostic, ExitStatus, Failure, escape};
use crate::report::{Output, emit};

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
}

impl PluginArgs {
    pub(super) fn output(&self) -> Output {
        if self.json { Output::Json } else { Output::Human }
    }
}

pub(super) fn run(args: &PluginArgs) -> Result<ExitStatus, Failure> {
    match &args.command {
        PluginCommand::List { plugins } => list(plugins, args.output()),
        PluginCommand::Inspect { plugin, plugins } => inspect(plugin, plugins, args.output()),
    }
}

fn list(directories: &[PathBuf], output: Output) -> Result<ExitStatus, Failure> {
    let plugins = open_plugins(directories)?;
    let mut rows = vec![["NAME", "KIND", "VERSION", "FROM", "DESCRIPTION"].map(str::to_owned)];
    for plugin in plugins.plugins() {
        let manifest = &plugin.inspection.manifest;
        if output == Output::Json {
            emit(
                "plugin",
                json!({
                    "name": manifest.name,
                    "kind": manifest.kind.name(),
                    "version": manifest.version,
                    "api": manifest.api,
                    "sha256": plugin.inspection.sha256,
                    "source": shown_source(&plugin.source),
                    "description": manifest.description,
                }),
            );
        }
        rows.push([
            manifest.name.clone(),
            manifest.kind.name().to_owned(),
            manifest.version.clone(),
            shown_source(&plugin.source),
            manifest.description.clone(),
        ]);
    }
    if output == Output::Human {
        let width = |column: usize| rows.iter().map(|row| escape(&row[column]).chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..4).map(width).collect();
        let mut stdout = std::io::stdout().lock();
        for row in &rows {
            let cells: Vec<String> = row.iter().map(|cell| escape(cell).replace('\n', " ")).collect();
            let _ = writeln!(
                stdout,
                "{:<w0$}  {:<w1$}  {:<w2$}  {:<w3$}  {}",
                cells[0],
                cells[1],
                cells[2],
                cells[3],
                cells[4],
                w0 = widths[0],
                w1 = widths[1],
                w2 = widths[2],
                w3 = widths[3]
            );
        }
    }
    Ok(ExitStatus::Done)
}

/// What a plugin may use at most, by the keys of `plugins[].limits`.
fn limits_of(limits: &Limits) -> [(&'static str, u64); 7] {
    let milliseconds = |time: std::time::Duration| time.as_millis() as u64;
    [
        ("memory_mb", limits.memory_bytes as u64 >> 20),
        ("call_ms", milliseconds(limits.call)),
        ("result_mb", limits.result_bytes as u64 >> 20),
        ("log_kb", limits.log_bytes as u64 >> 10),
        ("file_mb", limits.file_bytes as u64 >> 20),
        ("compile_ms", milliseconds(limits.compile)),
        ("compile_mb", limits.compile_bytes as u64 >> 20),
    ]
}

fn inspect(plugin: &str, directories: &[PathBuf], output: Output) -> Result<ExitStatus, Failure> {
    let path = PathBuf::from(plugin);
    let (inspection, source, limits) = if path.is_file() {
        let bytes = plugin_runtime::read_file(&path)?;
        (plugin_runtime::inspect(&bytes, plugin)?, plugin.to_owned(), Limits::default())
    } else {
        let plugins = open_plugins(directories)?;
        let Some(found) = plugins.get(plugin) else {
            let near = crate::config::nearest(plugin, plugins.plugins().map(plugin_runtime::PluginInfo::name));
            let diagnostic =
                Diagnostic::error("plugin::unknown", format!("there is neither a file nor a plugin `{plugin}`"));
            return Err(match near {
                Some(near) => diagnostic.help(format!("did you mean `{near}`?")),
                None => diagnostic.help("`host plugin list` shows all plugins"),
            }
            .into());
        };
        (found.inspection.clone(), shown_source(&found.source), *found.limits())
    };
    if output == Output::Json {
        let mut fields = serde_json::to_value(&inspection).unwrap_or_default();
        fields["source"] = json!(source);
        fields["limits"] = limits_of(&limits).into_iter().map(|(key, value)| (key, json!(value))).collect();
        emit("plugin", fields);
        return Ok(ExitStatus::Done);
    }
    let manifest = &inspection.manifest;
    let names = |names: &[String]| if names.is_empty() { "none".to_owned() } else { names.join("\n             ") };
    let text = format!(
        "name         {}\nversion      {}\nkind         {}\nplugin API   {}\ndescription  {}\nfrom         {source}\nsize         {} bytes\nsha256       {}\nimports      {}\nexports      {}\nlimits       {}\n",
        manifest.name,
        escape(&manifest.version),
        manifest.kind.name(),
        manifest.api,
        escape(&manifest.description),
        inspection.bytes,
        inspection.sha256,
        names(&inspection.imports),
        names(&inspection.exports),
        names(&limits_of(&limits).map(|(key, value)| format!("{key}: {value}"))),
    );
    let _ = std::io::stdout().write_all(text.as_bytes());
    Ok(ExitStatus::Done)
}
