//! `plugin.json`: the manifest of a plugin whose language cannot put one into the file by itself.

use std::path::Path;

use plugin_runtime::{API, Kind, Manifest};
use serde::Deserialize;
use serde_json::Value;

use crate::diagnostic::{Diagnostic, Place};
use intake::read_text;

/// Its name in a project.
pub const FILE: &str = "plugin.json";
/// Bytes that it may have.
const SIZE_LIMIT: u64 = 256 << 10;

/// Strict where the section in a plugin is not: an author's typing mistake is told.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    name: String,
    version: String,
    #[serde(default = "api")]
    api: String,
    kind: Kind,
    #[serde(default)]
    description: String,
    config_schema: Option<Value>,
}

fn api() -> String {
    API.to_owned()
}

/// Reads a manifest.
pub fn read(path: &Path) -> Result<Manifest, Diagnostic> {
    let shown = path.display();
    let text = read_text(path, SIZE_LIMIT).map_err(|error| {
        Diagnostic::error("plugin::manifest", format!("the manifest `{shown}` cannot be read"))
            .why(error.to_string())
            .help("it is JSON with `name`, `version`, `kind`, `description` and perhaps `config_schema`")
    })?;
    let written: Written = serde_json::from_str(&text).map_err(|error| {
        let why = error.to_string();
        let why = why.split(" at line ").next().unwrap_or_default().to_owned();
        Diagnostic::error("plugin::manifest", format!("`{shown}` is not a plugin's manifest"))
            .at(Place::in_text(path, &text, error.line(), error.column().max(1), 1))
            .why(why)
            .help("it has `name`, `version`, `kind`, `description` and perhaps `config_schema`")
    })?;
    let Written { name, version, api, kind, description, config_schema } = written;
    Ok(Manifest { name, version, api, kind, description, config_schema })
}
