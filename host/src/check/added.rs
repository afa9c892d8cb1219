//! Plugins that the user has added for good: files in the user's data directory, each pinned to the digest that it had then.

use std::fs;
use std::path::{Path, PathBuf};

use intake::read_text;
use plugin_runtime::{Inspection, PluginHost};
use serde::{Deserialize, Serialize};

use crate::checkpoint::directory::replace_file;
use crate::diagnostic::{Diagnostic, Failure};

/// What lists them.
const LIST: &str = "added.json";
/// Bytes of that.
const LIST_BYTES: u64 = 1 << 20;
/// Version of its format.
const FORMAT: u32 = 1;

#[derive(Debug, Deserialize, Serialize)]
struct List {
    v: u32,
    plugins: Vec<Added>,
}

/// A plugin that was added.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
pub struct Added {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// SHA-256 of its file.
    pub sha256: String,
    /// Where it came from.
    pub from: String,
}

/// A file for a plugin of this name, and for no other: no name has a dot.
pub fn file_of(name: &str) -> String {
    format!("{}.wasm", name.replace(':', "."))
}

/// Where they are.
fn directory() -> Option<PathBuf> {
    crate::directories::data().map(|data| data.join("plugins"))
}

/// All of them, by name.
///
/// # Errors
/// A list that cannot be read.
pub fn all() -> Result<Vec<Added>, Diagnostic> {
    let Some(path) = directory().map(|directory| directory.join(LIST)) else { return Ok(Vec::new()) };
    let unreadable = |why: String| {
        Diagnostic::error("plugin::added", format!("`{}` cannot be read", path.display()))
            .why(why)
            .help("it lists the plugins that you have added; remove it, and add them again")
    };
    let text = match read_text(&path, LIST_BYTES) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(unreadable(error.to_string())),
    };
    let list: List = serde_json::from_str(&text).map_err(|error| unreadable(error.to_string()))?;
    if list.v != FORMAT {
        return Err(unreadable(format!("it has format {}; this host reads {FORMAT}", list.v)));
    }
    Ok(list.plugins)
}

/// Lets a command name them. Each must be what it was when it was added.
///
/// # Errors
/// One that is not.
pub fn open(host: &mut PluginHost) -> Result<(), Failure> {
    let Some(directory) = directory() else { return Ok(()) };
    for added in all()? {
        let path = directory.join(file_of(&added.name));
        let opened = host.add_file(&path).ok().and_then(|name| host.get(&name));
        let found = opened.map_or("no plugin", |plugin| plugin.inspection.sha256.as_str());
        if found != added.sha256 {
            let name = &added.name;
            let message = format!("plugin `{name}` is not what it was when you added it");
            return Err(Diagnostic::error("plugin::added", message)
                .plugin(name.clone())
                .why(format!("added   {}\nfound   {found}, {}", added.sha256, path.display()))
                .help(format!("add it again: `host plugin add {}`", crate::commands::word(&added.from)))
                .into());
        }
    }
    Ok(())
}

/// Keeps a plugin's file. Returns what it takes the place of.
///
/// # Errors
/// What cannot be written.
pub fn add(inspection: &Inspection, bytes: &[u8], from: &str) -> Result<Option<Added>, Failure> {
    let Some(directory) = directory() else {
        let message = "there is no place for plugins of your own";
        return Err(Diagnostic::error("plugin::added", message).help("set `HOST_DATA_DIR`").into());
    };
    let manifest = &inspection.manifest;
    let new = Added {
        name: manifest.name.clone(),
        version: manifest.version.clone(),
        sha256: inspection.sha256.clone(),
        from: from.to_owned(),
    };
    fs::create_dir_all(&directory).map_err(|error| {
        Diagnostic::error("io::write", format!("`{}` cannot be made", directory.display())).why(error.to_string())
    })?;
    let mut all = all()?;
    let before = all.iter().position(|added| added.name == new.name).map(|at| all.remove(at));
    replace_file(&directory.join(file_of(&new.name)), bytes)?;
    all.push(new);
    all.sort_by(|a, b| a.name.cmp(&b.name));
    write(&directory, all)?;
    Ok(before)
}

/// Forgets a plugin, and removes its file. None where it was not added.
///
/// # Errors
/// What cannot be written.
pub fn remove(name: &str) -> Result<Option<Added>, Failure> {
    let (Some(directory), mut all) = (directory(), all()?) else { return Ok(None) };
    let Some(at) = all.iter().position(|added| added.name == name) else { return Ok(None) };
    let gone = all.remove(at);
    write(&directory, all)?;
    let _ = fs::remove_file(directory.join(file_of(&gone.name)));
    Ok(Some(gone))
}

fn write(directory: &Path, plugins: Vec<Added>) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(&List { v: FORMAT, plugins }).expect("it is plain data");
    Ok(replace_file(&directory.join(LIST), text.as_bytes())?)
}
