//! `failed-call.json`: a plugin's call that failed in a run, made so small that it can be looked at and made again.

use std::path::Path;
use std::time::Duration;

use plugin_runtime::{Cause, FailedCall, Kind, Limits, PluginError, PluginHost, json};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::drive::{Subject, Trouble};
use crate::check::plugins::{plugin_flags, shown_source};
use crate::checkpoint::directory::replace_file;
use crate::checkpoint::owned::FAILED_CALL_FILE;
use crate::commands;
use crate::diagnostic::{Diagnostic, Failure};
use intake::read_text;

/// Bytes that it may have.
const SIZE_LIMIT: u64 = 64 << 20;

/// The highest limits of `plugins[].limits`.
const MOST_BYTES: usize = 4 << 30;
const MOST_MS: u64 = 3_600_000;

/// The file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Recorded {
    v: u32,
    /// The plugin.
    pub plugin: String,
    version: String,
    /// Of its file.
    pub sha256: String,
    kind: Kind,
    config: Value,
    limits: RecordedLimits,
    call: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    context: Option<Value>,
    input: Vec<Value>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct RecordedLimits {
    memory_bytes: usize,
    call_ms: u64,
    result_bytes: usize,
}

/// What is done with the calls that failed in a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep<'a> {
    /// Write the first into this directory.
    In(&'a Path),
    /// This command writes nothing; what would be is said.
    Nothing,
}

/// Says of every failed call which row it was, and keeps the first.
pub fn keep(failure: &mut Failure, plugins: &PluginHost, keep: Keep<'_>) {
    let mut kept = false;
    for diagnostic in &mut failure.0 {
        let Some(call) = diagnostic.failed_call.take() else { continue };
        diagnostic.notes.push(which(&call));
        match keep {
            Keep::In(_) if kept => {}
            Keep::In(directory) => {
                let path = directory.join(FAILED_CALL_FILE);
                match write(&call, plugins, directory, &path) {
                    Ok(()) => {
                        kept = true;
                        let directories = plugin_flags(plugins.get(&call.plugin));
                        let (plugin, file) = (commands::word(&call.plugin), commands::path(&path));
                        let command = format!("host plugin test {plugin}{directories} --replay {file}");
                        diagnostic.notes.push(format!("replay it: `{command}`"));
                    }
                    Err(why) => diagnostic.notes.push(format!("`{}` could not be written: {why}", path.display())),
                }
            }
            Keep::Nothing => {
                let words = "nothing was written; `host train` without `--dry-run` keeps the call, to be made again with `host plugin test --replay`";
                diagnostic.notes.push(words.to_owned());
            }
        }
    }
}

/// Which row of the call it was.
fn which(call: &FailedCall) -> String {
    let unit = call.kind.unit();
    let (name, items) = (call.call, call.items);
    let place = |item: usize| call.position.clone().unwrap_or_else(|| format!("{unit} {} of {items}", item + 1));
    match call.cause {
        Cause::Alone(item) => format!("it fails in `{name}` on {}", place(item)),
        Cause::After(item) => format!("it fails in `{name}` on {}, after the {item} {unit}s before it", place(item)),
        Cause::Gone => {
            format!("it failed in `{name}`, and did not when the {items} {unit}s were given to a new instance")
        }
        Cause::Unknown => format!("it failed in `{name}` on {items} {unit}s"),
    }
}

fn write(call: &FailedCall, plugins: &PluginHost, directory: &Path, path: &Path) -> Result<(), String> {
    let plugin = plugins.get(&call.plugin).ok_or("the plugin is gone")?;
    let limits = plugin.limits();
    let recorded = Recorded {
        v: 1,
        plugin: call.plugin.clone(),
        version: plugin.inspection.manifest.version.clone(),
        sha256: plugin.inspection.sha256.clone(),
        kind: call.kind,
        config: serde_json::from_str(&call.config_json).unwrap_or_default(),
        limits: RecordedLimits {
            memory_bytes: limits.memory_bytes,
            call_ms: limits.call.as_millis() as u64,
            result_bytes: limits.result_bytes,
        },
        call: call.call.to_owned(),
        context: call.context.clone(),
        input: call.input.clone(),
    };
    let text = serde_json::to_string_pretty(&recorded).map_err(|error| error.to_string())?;
    std::fs::create_dir_all(directory).map_err(|error| error.to_string())?;
    replace_file(path, format!("{text}\n").as_bytes()).map_err(|error| error.to_string())
}

/// Reads a kept call.
pub fn read(path: &Path) -> Result<Recorded, Failure> {
    let unreadable = |why: String| {
        Diagnostic::error("test::replay", format!("`{}` is not a failed call", path.display()))
            .why(why)
            .help("a run that a plugin ended writes one into its `output_dir`")
    };
    let text = read_text(path, SIZE_LIMIT).map_err(|error| unreadable(error.to_string()))?;
    let recorded: Recorded = serde_json::from_str(&text).map_err(|error| unreadable(error.to_string()))?;
    if recorded.v != 1 {
        return Err(unreadable(format!("its format is {}; this host reads 1", recorded.v)).into());
    }
    // A file raises no limit above what a config could.
    let RecordedLimits { memory_bytes, call_ms, result_bytes } = recorded.limits;
    if memory_bytes.max(result_bytes) > MOST_BYTES || call_ms > MOST_MS {
        return Err(unreadable("its limits are higher than any that a config can give".to_owned()).into());
    }
    Ok(recorded)
}

impl Recorded {
    /// Makes the call again, within the limits of then. Returns the results, and a warning where the plugin is another.
    pub fn replay(&self, plugins: &mut PluginHost) -> Result<(Vec<Value>, Option<Diagnostic>), Failure> {
        let plugin = plugins.find(&self.plugin, self.kind)?;
        let other = (plugin.inspection.sha256 != self.sha256).then(|| {
            let message = format!("plugin `{}` is not the one that failed", self.plugin);
            Diagnostic::warning("test::replay", message)
                .why(format!(
                    "then  {}  version {}\nnow   {}  version {}, {}",
                    self.sha256,
                    self.version,
                    plugin.inspection.sha256,
                    plugin.inspection.manifest.version,
                    shown_source(&plugin.source)
                ))
                .plugin(&self.plugin)
        });
        let limits = Limits {
            memory_bytes: self.limits.memory_bytes,
            call: Duration::from_millis(self.limits.call_ms),
            result_bytes: self.limits.result_bytes,
            ..*plugin.limits()
        };
        plugins.set_limits(&self.plugin, limits);
        let results = self.call(plugins).map_err(|error| {
            let mut diagnostics = Vec::from_iter(other.clone());
            diagnostics.push(Diagnostic { failed_call: None, ..Diagnostic::from(error) });
            Failure(diagnostics)
        })?;
        Ok((results, other))
    }

    fn call(&self, plugins: &PluginHost) -> Result<Vec<Value>, PluginError> {
        let invalid = |why: String| PluginError::new("test::replay", "the input of the call cannot be read").why(why);
        if self.kind.description().kept_call.is_none() {
            return Err(invalid(format!("calls of {} plugins are not kept", self.kind.name())));
        }
        let context = self.context.as_ref().map(json::read_context).transpose().map_err(invalid)?;
        let config_json = &self.config.to_string();
        let subject = Subject { plugins, name: &self.plugin, kind: self.kind, config_json, context };
        subject.run(&self.input, None, self.input.len()).map_err(|trouble| match trouble {
            Trouble::Plugin(_, error) => error,
            Trouble::Input(_, why) => invalid(why),
        })
    }
}
