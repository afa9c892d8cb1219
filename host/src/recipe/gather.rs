//! A recipe made of a config: its files and plugins copied beside it, and its paths changed to where they are then.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use plugin_runtime::{PluginHost, Source};
use serde_json::json;
use tempfile::TempDir;

use super::store::open_to_others;
use crate::check::added::file_of;
use crate::check::contents::{FILE, PLUGINS, TEMPLATES, is_of_model, names_model};
use crate::check::plugins::names;
use crate::config::recipe::Recipe;
use crate::config::{LoadedConfig, edit};
use crate::diagnostic::{Diagnostic, Edit, Failure, Severity};

/// Folders within one another that are copied.
const DEPTH: usize = 16;

/// A recipe that is being made. Without [`Gathered::keep`], nothing of it stays.
#[derive(Debug)]
pub struct Gathered {
    /// Where it is made.
    pub directory: PathBuf,
    /// What was left out of the config, and why.
    pub remarks: Vec<Diagnostic>,
    building: TempDir,
    target: PathBuf,
}

impl Gathered {
    /// Puts it where it belongs.
    ///
    /// # Errors
    /// That something is there already.
    pub fn keep(self) -> Result<(), Failure> {
        let failed = |error: io::Error| {
            Diagnostic::error("io::write", format!("the recipe cannot be put into `{}`", self.target.display()))
                .why(error.to_string())
        };
        // An empty directory gives way, nothing else does.
        open_to_others(self.building.path()).map_err(failed)?;
        fs::rename(self.building.path(), &self.target).map_err(failed)?;
        drop(self.building.keep());
        Ok(())
    }
}

/// Makes the recipe that is to be `target`.
///
/// # Errors
/// What cannot be copied, and a config whose text cannot be changed.
pub fn gather(
    loaded: &LoadedConfig,
    plugins: &PluginHost,
    recipe: &Recipe,
    target: &Path,
) -> Result<Gathered, Failure> {
    if loaded.config.recipe.is_some() {
        let message = format!("`{}` is a recipe already", loaded.source.path.display());
        let help = format!("lock it: `host recipe lock {}`", crate::commands::path(&loaded.source.path));
        return Err(Diagnostic::error("recipe::exists", message).help(help).into());
    }
    if !Recipe::is_name(&recipe.name) {
        let message = format!("`{}` cannot be the name of a recipe", recipe.name);
        let why = "it has small letters and digits, and `-`, `_` or `.` between them";
        return Err(Diagnostic::error("recipe::name", message).why(why).into());
    }
    if target.symlink_metadata().is_ok() {
        let message = format!("`{}` is there already", target.display());
        return Err(Diagnostic::error("recipe::exists", message).help("name another: `--dir DIRECTORY`").into());
    }
    let parent = target.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let failed = |error: io::Error| {
        Diagnostic::error("io::write", format!("nothing can be written into `{}`", parent.display()))
            .why(error.to_string())
    };
    fs::create_dir_all(parent).map_err(failed)?;
    let building = tempfile::Builder::new().prefix(".recipe-").tempdir_in(parent).map_err(failed)?;
    let root = building.path().to_owned();
    let mut remarks = Vec::new();
    let mut text = loaded.source.text.clone();
    let mut moved = Moved { root: &root, of: BTreeMap::new(), taken: BTreeSet::from([FILE.into(), PLUGINS.into()]) };
    for (key, path) in loaded.config.files() {
        let is_of_hub = loaded.elsewhere.directories.contains_key(&path);
        let from = loaded.resolve(&path);
        if is_of_hub || !from.exists() || !loaded.is_given(&key) {
            continue;
        }
        let new = moved.bring(&from, names_model(&key))?;
        text = changed(&text, Edit::Set { path: key, value: scalar(&new) })?;
    }
    for key in ["dataset_prepared_path", "resume_from_checkpoint"] {
        if loaded.is_given(key) {
            text = changed(&text, Edit::Remove { path: key.to_owned() })?;
            let remark = Diagnostic::new(Severity::Note, "recipe::left-out", format!("`{key}` is not in the recipe"));
            remarks.push(remark.why("it is about this machine"));
        }
    }
    let output = format!("outputs/{}", recipe.name);
    text = changed(&text, Edit::Set { path: "output_dir".to_owned(), value: output })?;
    for (index, pin) in loaded.config.plugins.iter().enumerate() {
        let path = format!("plugins[{index}].grants");
        if loaded.is_given(&path) {
            text = changed(&text, Edit::Remove { path })?;
            let remark = Diagnostic::new(
                Severity::Note,
                "recipe::left-out",
                format!("what `{}` is granted is not in the recipe", pin.name),
            );
            remarks.push(remark.why("who runs it says which files a plugin may read: `--grant NAME=DIRECTORY`"));
        }
    }
    for name in names(loaded) {
        if let Some(Source::File(file)) = plugins.get(&name).map(|plugin| &plugin.source) {
            // Two files of one name, in two directories, may be two plugins.
            copy(file, &root.join(PLUGINS).join(file_of(&name)), 0)?;
        }
    }
    let head = serde_yaml::to_string(&json!({ "recipe": recipe })).expect("it is plain data");
    let text = format!("{head}\n{text}");
    fs::write(root.join(FILE), text).map_err(failed)?;
    Ok(Gathered { directory: root, remarks, building, target: target.to_owned() })
}

fn changed(text: &str, change: Edit) -> Result<String, Failure> {
    edit(text, &change).map_err(|error| {
        Diagnostic::error("recipe::edit", format!("the config cannot be changed where `{}` stands", change.path()))
            .why(error.to_string())
            .help("write that key on a line of its own")
            .into()
    })
}

/// A text as a value in YAML, in quotes only where it needs them.
fn scalar(text: &str) -> String {
    serde_yaml::to_string(text).map_or_else(|_| json!(text).to_string(), |line| line.trim_end().to_owned())
}

/// Files that were brought, by where they were.
struct Moved<'a> {
    root: &'a Path,
    of: BTreeMap<PathBuf, String>,
    taken: BTreeSet<String>,
}

impl Moved<'_> {
    /// Copies a file or a directory, once, and returns its name in the recipe.
    fn bring(&mut self, from: &Path, is_model: bool) -> Result<String, Failure> {
        let real = fs::canonicalize(from).map_err(|error| unreadable(from, &error))?;
        if let Some(name) = self.of.get(&real) {
            return Ok(name.clone());
        }
        let wanted = real.file_name().map_or_else(|| "files".into(), |name| name.to_string_lossy().into_owned());
        let wanted = wanted.trim_start_matches('.').to_owned();
        let mut name = wanted.clone();
        for count in 2.. {
            if !name.is_empty() && self.taken.insert(name.clone()) {
                break;
            }
            name = format!("{count}-{wanted}");
        }
        let to = self.root.join(&name);
        if is_model && real.is_dir() {
            copy_model(&real, &to)?;
        } else {
            copy(&real, &to, 0)?;
        }
        self.of.insert(real, name.clone());
        Ok(name)
    }
}

/// Copies what of a directory is a model.
fn copy_model(from: &Path, to: &Path) -> Result<(), Failure> {
    for entry in fs::read_dir(from).map_err(|error| unreadable(from, &error))? {
        let entry = entry.map_err(|error| unreadable(from, &error))?;
        let name = entry.file_name();
        if name.to_str().is_some_and(is_of_model) && entry.path().is_file() {
            copy(&entry.path(), &to.join(name), 0)?;
        }
    }
    let templates = from.join(TEMPLATES);
    if templates.is_dir() { copy(&templates, &to.join(TEMPLATES), 0) } else { Ok(()) }
}

/// Copies files and directories; a link becomes what it leads to, what hides stays.
fn copy(from: &Path, to: &Path, depth: usize) -> Result<(), Failure> {
    let metadata = fs::metadata(from).map_err(|error| unreadable(from, &error))?;
    let failed = |error: io::Error| {
        Diagnostic::error("io::write", format!("`{}` cannot be copied into the recipe", from.display()))
            .why(error.to_string())
    };
    if metadata.is_file() {
        fs::create_dir_all(to.parent().unwrap_or(to)).map_err(failed)?;
        fs::copy(from, to).map_err(failed)?;
        return Ok(());
    }
    if !metadata.is_dir() || depth == DEPTH {
        let message = format!("`{}` cannot be part of a recipe", from.display());
        let why = if metadata.is_dir() { "it lies too deep" } else { "it is neither a file nor a directory" };
        return Err(Diagnostic::error("recipe::file", message).why(why).into());
    }
    fs::create_dir_all(to).map_err(failed)?;
    for entry in fs::read_dir(from).map_err(|error| unreadable(from, &error))? {
        let entry = entry.map_err(|error| unreadable(from, &error))?;
        if !entry.file_name().to_string_lossy().starts_with('.') {
            copy(&entry.path(), &to.join(entry.file_name()), depth + 1)?;
        }
    }
    Ok(())
}

fn unreadable(path: &Path, error: &io::Error) -> Diagnostic {
    Diagnostic::error("recipe::file", format!("`{}` cannot be read", path.display())).why(error.to_string())
}
