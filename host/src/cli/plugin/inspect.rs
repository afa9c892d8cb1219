//! `host plugin inspect`: what a plugin is, what it asks for and what it may use. It is never run.

use std::path::{Path, PathBuf};

use plugin_runtime::{Inspection, Limits, PluginInfo};
use serde_json::json;

use crate::check::plugins::shown_source;
use crate::cli::open_plugins;
use crate::diagnostic::{Diagnostic, ExitStatus, Failure, escape};
use crate::report::{Output, emit};
use crate::terminal::{Safe, print};

pub(super) fn run(plugin: &str, directories: &[PathBuf], output: Output) -> Result<ExitStatus, Failure> {
    let path = Path::new(plugin);
    let (inspection, source, limits) = if path.is_file() {
        let bytes = plugin_runtime::read_file(path)?;
        (plugin_runtime::inspect(&bytes, plugin)?, plugin.to_owned(), Limits::default())
    } else {
        let plugins = open_plugins(directories)?;
        let found = plugins.get(plugin).ok_or_else(|| unknown(plugin, plugins.plugins().map(PluginInfo::name)))?;
        (found.inspection.clone(), shown_source(&found.source), *found.limits())
    };
    if output == Output::Json {
        let mut fields = serde_json::to_value(&inspection).unwrap_or_default();
        fields["source"] = json!(source);
        fields["limits"] = limits_of(&limits).into_iter().map(|(key, value)| (key, json!(value))).collect();
        fields["needs_grants"] = json!(inspection.needs_grants());
        fields["other_exports"] = json!(inspection.other_exports());
        emit("plugin", fields);
        return Ok(ExitStatus::Done);
    }
    print(&Safe::text(&text(&inspection, &source, &limits)))?;
    Ok(ExitStatus::Done)
}

/// That there is no such plugin, and which was meant.
pub(super) fn unknown<'a>(plugin: &str, known: impl Iterator<Item = &'a str>) -> Diagnostic {
    let diagnostic = Diagnostic::error("plugin::unknown", format!("there is neither a file nor a plugin `{plugin}`"));
    match crate::config::nearest(plugin, known) {
        Some(near) => diagnostic.help(format!("did you mean `{near}`?")),
        None => diagnostic.help("`host plugin list` shows all plugins"),
    }
}

/// What a plugin may use at most, by the keys of `plugins[].limits`.
fn limits_of(limits: &Limits) -> Vec<(&'static str, u64)> {
    let milliseconds = |time: std::time::Duration| time.as_millis() as u64;
    let mut all = vec![
        ("memory_mb", limits.memory_bytes as u64 >> 20),
        ("call_ms", milliseconds(limits.call)),
        ("result_mb", limits.result_bytes as u64 >> 20),
        ("log_kb", limits.log_bytes as u64 >> 10),
        ("file_mb", limits.file_bytes as u64 >> 20),
        ("compile_ms", milliseconds(limits.compile)),
        ("compile_mb", limits.compile_bytes as u64 >> 20),
    ];
    all.extend(limits.rows_bytes.map(|bytes| ("rows_mb", bytes >> 20)));
    all
}

fn text(inspection: &Inspection, source: &str, limits: &Limits) -> String {
    let manifest = &inspection.manifest;
    let mut rows = vec![
        ("name", manifest.name.clone()),
        ("version", manifest.version.clone()),
        ("kind", manifest.kind.name().to_owned()),
        ("plugin API", manifest.api.clone()),
        ("description", manifest.description.clone()),
        ("named at", format!("`{}` of a config", manifest.kind.config_key())),
        ("from", source.to_owned()),
        ("size", format!("{} bytes", inspection.bytes)),
        ("sha256", inspection.sha256.clone()),
        ("imports", names(&inspection.imports)),
        ("exports", names(&inspection.exports)),
    ];
    let other = inspection.other_exports();
    if !other.is_empty() {
        rows.push(("", format!("{} is never called: a plugin is of one kind", names(&other))));
    }
    if inspection.needs_grants() {
        rows.push(("grants", "asks for directories beside its data; refused until you grant one".to_owned()));
    }
    rows.push((
        "config",
        match &manifest.config_schema {
            Some(schema) => serde_json::to_string_pretty(schema).unwrap_or_default(),
            None => "no schema; the plugin itself checks what it is given".to_owned(),
        },
    ));
    rows.push((
        "limits",
        names(&limits_of(limits).iter().map(|(key, value)| format!("{key}: {value}")).collect::<Vec<_>>()),
    ));
    let row = |(name, value): &(&str, String)| {
        format!("{name:<11}  {}\n", escape(value).replace('\n', &format!("\n{:13}", "")))
    };
    rows.iter().map(row).collect()
}

fn names(names: &[String]) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join("\n") }
}
