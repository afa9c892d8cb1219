//! `plugins.lock`, beside the config: what each plugin of a run was when the file was written. With `--locked` a run takes
//! exactly those; without it, another one is a warning.

use std::fmt::Write as _;
use std::io::ErrorKind;
use std::ops::Range;
use std::path::{Component, Path, PathBuf};

use plugin_runtime::{PluginHost, PluginInfo, Source};
use serde::Deserialize;
use toml::Spanned;

use super::plugins::{names, plugin_flags, shown_source};
use crate::checkpoint::directory::replace_file;
use crate::config::LoadedConfig;
use crate::diagnostic::{Diagnostic, Failure, Place, Severity};
use intake::read_text;

/// Its name.
const FILE: &str = "plugins.lock";
/// Version of the format.
const FORMAT: u32 = 1;
/// Bytes that a lock may have.
const SIZE_LIMIT: u64 = 1 << 20;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Lock {
    version: Spanned<u32>,
    #[serde(default)]
    plugin: Vec<Entry>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: Spanned<String>,
    version: String,
    #[expect(dead_code, reason = "for people; the digest decides")]
    api: String,
    sha256: Spanned<String>,
    #[expect(dead_code, reason = "for people; a plugin may lie elsewhere on another machine")]
    source: String,
}

/// The lock that belongs to a config.
pub fn path(loaded: &LoadedConfig) -> PathBuf {
    loaded.source.path.with_file_name(FILE)
}

/// Writes the lock of a config: one entry for each of its plugins. Returns its path and how many they are.
pub fn write(loaded: &LoadedConfig, plugins: &PluginHost) -> Result<(PathBuf, usize), Failure> {
    let path = path(loaded);
    let mut found = Vec::new();
    for name in names(loaded) {
        let Some(plugin) = plugins.get(&name) else {
            let message = format!("there is no plugin `{name}`, so it cannot be locked");
            let help = "put its .wasm file into a directory and pass `--plugins DIRECTORY`";
            return Err(Diagnostic::error("plugin::unknown", message).help(help).into());
        };
        found.push(plugin);
    }
    let config = loaded.source.path.file_name().unwrap_or_default().to_string_lossy().replace(['\n', '\r'], " ");
    let mut text = format!(
        "# The plugins of `{config}`, each with the SHA-256 of its file. `host train --locked` takes exactly these.\n\
         # Written by `host plugin lock`; do not edit it.\n\
         version = {FORMAT}\n"
    );
    for plugin in &found {
        let manifest = &plugin.inspection.manifest;
        let _ = write!(
            text,
            "\n[[plugin]]\nname = {}\nversion = {}\napi = {}\nsha256 = {}\nsource = {}\n",
            quoted(&manifest.name),
            quoted(&manifest.version),
            quoted(&manifest.api),
            quoted(&plugin.inspection.sha256),
            quoted(&source(plugin, &path)),
        );
    }
    replace_file(&path, text.as_bytes())?;
    Ok((path, found.len()))
}

/// Holds the plugins of a config against its lock. What differs is an error where the run is `locked`, else a warning.
pub fn check(loaded: &LoadedConfig, plugins: &PluginHost, locked: bool) -> Vec<Diagnostic> {
    let path = path(loaded);
    let severity = if locked { Severity::Error } else { Severity::Warning };
    let config = crate::commands::path(&loaded.source.path);
    let command = format!("host plugin lock {config}{}", plugin_flags(plugins.plugins()));
    let again = format!("if the change is meant, write the lock anew: `{command}`");
    let text = match read_text(&path, SIZE_LIMIT) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound && !locked => return Vec::new(),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let message = format!("there is no `{}`", path.display());
            return vec![Diagnostic::new(severity, "plugin::lock", message).help(format!("write it: `{command}`"))];
        }
        Err(error) => {
            let message = format!("`{}` cannot be read", path.display());
            return vec![Diagnostic::new(severity, "plugin::lock", message).why(error.to_string())];
        }
    };
    let at = |span: Range<usize>| place(&path, &text, span);
    let lock: Lock = match toml::from_str(&text) {
        Ok(lock) => lock,
        Err(error) => {
            let message = format!("`{}` is not a plugin lock", path.display());
            let diagnostic = Diagnostic::new(severity, "plugin::lock", message);
            return vec![diagnostic.at(error.span().map(at)).why(error.message()).help(again)];
        }
    };
    if *lock.version.get_ref() != FORMAT {
        let message = format!("the lock has format {}; this host reads {FORMAT}", lock.version.get_ref());
        return vec![Diagnostic::new(severity, "plugin::lock", message).at(at(lock.version.span())).help(again)];
    }
    let mut found = Vec::new();
    for name in names(loaded) {
        // That there is no such plugin is said where plugins are looked up.
        let Some(plugin) = plugins.get(&name) else { continue };
        match lock.plugin.iter().find(|entry| *entry.name.get_ref() == name) {
            None => {
                let message = format!("plugin `{name}` is not in `{}`", path.display());
                let diagnostic = Diagnostic::new(severity, "plugin::lock", message).plugin(&name);
                found.push(diagnostic.help(again.clone()));
            }
            Some(entry) if *entry.sha256.get_ref() != plugin.inspection.sha256 => {
                found.push(differs(severity, plugin, entry).at(at(entry.sha256.span())).help(again.clone()));
            }
            Some(_) => {}
        }
    }
    found
}

fn differs(severity: Severity, plugin: &PluginInfo, entry: &Entry) -> Diagnostic {
    let inspection = &plugin.inspection;
    let name = plugin.name();
    Diagnostic::new(severity, "plugin::lock", format!("plugin `{name}` is not the one that is locked"))
        .why(format!(
            "locked  {}  version {}\nfound   {}  version {}, {}",
            entry.sha256.get_ref(),
            entry.version,
            inspection.sha256,
            inspection.manifest.version,
            shown_source(&plugin.source)
        ))
        .plugin(name)
}

/// Where a plugin came from: `bundled`, or its path from the lock's directory where it lies below that.
fn source(plugin: &PluginInfo, lock: &Path) -> String {
    let Source::File(file) = &plugin.source else { return shown_source(&plugin.source) };
    relative(file, lock).unwrap_or_else(|| file.clone()).display().to_string()
}

/// `file` as seen from the directory of `lock`.
fn relative(file: &Path, lock: &Path) -> Option<PathBuf> {
    let file = std::fs::canonicalize(file).ok()?;
    let directory = lock.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let directory = std::fs::canonicalize(directory).ok()?;
    let common = file.components().zip(directory.components()).take_while(|(a, b)| a == b).count();
    // With nothing in common but the root, the absolute path says it better.
    if common <= 1 {
        return Some(file);
    }
    let up = directory.components().skip(common).map(|_| Component::ParentDir);
    Some(up.chain(file.components().skip(common)).collect())
}

/// A span of the lock as a place with its line.
fn place(path: &Path, text: &str, span: Range<usize>) -> Place {
    let before = &text[..span.start.min(text.len())];
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    let marked = text.get(span).and_then(|marked| marked.lines().next()).unwrap_or_default();
    Place::in_text(path, text, line, column, marked.chars().count())
}

/// A TOML basic string.
fn quoted(text: &str) -> String {
    let mut out = String::from('"');
    for character in text.chars() {
        match character {
            '"' | '\\' => out.extend(['\\', character]),
            c if c.is_control() => {
                let _ = write!(out, "\\u{:04X}", c as u32);
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_come_back_from_toml() {
        for text in ["plain", "a\"b\\c", "line\nbreak\u{7f}", "ü \u{202e}"] {
            let read: toml::Table = toml::from_str(&format!("a = {}", quoted(text))).unwrap();
            assert_eq!(read["a"].as_str(), Some(text));
        }
    }

    #[test]
    fn paths_are_seen_from_the_lock() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        std::fs::create_dir_all(root.join("configs")).unwrap();
        std::fs::create_dir_all(root.join("plugins")).unwrap();
        std::fs::write(root.join("plugins/a.wasm"), "").unwrap();
        let seen = |lock: &str| relative(&root.join("plugins/a.wasm"), &root.join(lock)).unwrap();
        assert_eq!(seen("plugins.lock"), Path::new("plugins/a.wasm"));
        assert_eq!(seen("configs/plugins.lock"), Path::new("../plugins/a.wasm"));
    }
}
