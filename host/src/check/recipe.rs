//! Whether a recipe is what its lock says: its config, its files, its plugins, and the commits of the hub, to the byte.

use std::collections::BTreeMap;
use std::path::Path;

use plugin_runtime::{PluginHost, Source};

use super::contents;
use super::plugins::{names, shown_source};
use crate::config::recipe::{Lock, LockedFile, LockedPlugin};
use crate::config::{self, LoadedConfig};
use crate::diagnostic::{Diagnostic, Failure, Severity};

/// The same of a recipe that was read with `set` in place of some of what it says: the lock is about what it says itself.
///
/// # Errors
/// What of it cannot be read.
pub fn check_file(
    path: &Path,
    set: &[String],
    loaded: &LoadedConfig,
    plugins: &PluginHost,
) -> Result<Vec<Diagnostic>, Failure> {
    if set.is_empty() { check(loaded, plugins) } else { check(&config::load(path, &[])?, plugins) }
}

/// Holds a recipe against its lock. Everything that differs is an error, but for plugins that are part of this program: those
/// come with it, and a result may differ from the one that is locked.
///
/// # Errors
/// What of it cannot be read.
pub fn check(loaded: &LoadedConfig, plugins: &PluginHost) -> Result<Vec<Diagnostic>, Failure> {
    let again = format!(
        "if the change is meant, lock it anew: `host recipe lock {}`",
        crate::commands::path(&loaded.source.path)
    );
    let Some(lock) = &loaded.config.lock else {
        let message = format!("`{}` is not locked", loaded.source.path.display());
        let error = Diagnostic::error("recipe::lock", message).at(loaded.source.nearest_place("recipe"));
        let help = format!("lock it: `host recipe lock {}`", crate::commands::path(&loaded.source.path));
        return Ok(vec![error.why("nothing says which bytes it is made of").help(help)]);
    };
    let mut found = Vec::new();
    if lock.config_sha256 != loaded.source.sha256 {
        let message = "the config is not the one that is locked";
        let error = Diagnostic::error("recipe::changed", message).at(loaded.source.place("lock.config_sha256"));
        found.push(error.why(both(&lock.config_sha256, &loaded.source.sha256)).help(again.clone()));
    }
    found.extend(files(lock, &contents::files(loaded, plugins)?, loaded, &again));
    found.extend(of_hub(lock, loaded, &again));
    found.extend(of_plugins(lock, loaded, plugins, &again));
    Ok(found)
}

/// Two digests, one above the other.
fn both(locked: &str, found: &str) -> String {
    format!("locked  {locked}\nfound   {found}")
}

fn files(lock: &Lock, found: &[LockedFile], loaded: &LoadedConfig, again: &str) -> Vec<Diagnostic> {
    let there: BTreeMap<&str, &LockedFile> = found.iter().map(|file| (file.path.as_str(), file)).collect();
    let mut problems = Vec::new();
    for (index, locked) in lock.files.iter().enumerate() {
        let place = loaded.source.nearest_place(&format!("lock.files[{index}].sha256"));
        let problem = match there.get(locked.path.as_str()) {
            None => Diagnostic::error(
                "recipe::missing-file",
                format!("`{}` is locked, and the recipe does not have it", locked.path),
            ),
            Some(file) if file.sha256 != locked.sha256 || file.size != locked.size => {
                let bytes = |file: &LockedFile| format!("{}  {} bytes", file.sha256, file.size);
                let message = format!("`{}` is not the file that is locked", locked.path);
                Diagnostic::error("recipe::changed", message).why(both(&bytes(locked), &bytes(file)))
            }
            Some(_) => continue,
        };
        problems.push(problem.at(place).help(again.to_owned()));
    }
    for file in found.iter().filter(|file| !lock.files.iter().any(|locked| locked.path == file.path)) {
        let message = format!("`{}` is part of the recipe, and not locked", file.path);
        let place = loaded.source.nearest_place("lock.files");
        problems.push(Diagnostic::error("recipe::changed", message).at(place).help(again.to_owned()));
    }
    problems
}

fn of_hub(lock: &Lock, loaded: &LoadedConfig, again: &str) -> Vec<Diagnostic> {
    let mut problems = Vec::new();
    for pin in &loaded.elsewhere.pins {
        let text = |key: &str| pin[key].as_str().unwrap_or_default();
        let (key, name, commit) = (text("key"), text("name"), text("commit"));
        let locked = lock.hub.iter().find(|locked| locked.key == key && locked.name == name);
        let problem = match locked {
            None => Diagnostic::error("recipe::changed", format!("`{name}` is of the hub, and not locked")),
            Some(locked) if locked.commit != commit => {
                Diagnostic::error("recipe::changed", format!("`{name}` is not at the commit that is locked"))
                    .why(both(&locked.commit, commit))
            }
            Some(_) => continue,
        };
        problems.push(problem.at(loaded.source.nearest_place(key)).help(again.to_owned()));
    }
    problems
}

fn of_plugins(lock: &Lock, loaded: &LoadedConfig, plugins: &PluginHost, again: &str) -> Vec<Diagnostic> {
    let mut problems = Vec::new();
    for name in names(loaded) {
        // That there is no such plugin is said where plugins are looked up.
        let Some(plugin) = plugins.get(&name) else { continue };
        let at = lock.plugins.iter().position(|locked| locked.name == name);
        let place = |index: usize| loaded.source.nearest_place(&format!("lock.plugins[{index}].sha256"));
        let is_own = plugin.source == Source::Bundled;
        match at.map(|index| (index, &lock.plugins[index])) {
            None => {
                let problem = Diagnostic::error("recipe::plugin", format!("plugin `{name}` is not locked"));
                problems
                    .push(problem.at(loaded.source.nearest_place("lock.plugins")).plugin(&name).help(again.to_owned()));
            }
            Some((_, locked)) if locked.sha256 == plugin.inspection.sha256 => {}
            Some((index, locked)) => {
                let (severity, message) = match (is_own, locked.source == "bundled") {
                    (true, true) => (
                        Severity::Warning,
                        format!("plugin `{name}` comes with this program, and is another than in host {}", lock.host),
                    ),
                    _ => (Severity::Error, format!("plugin `{name}` is not the one that is locked")),
                };
                let manifest = &plugin.inspection.manifest;
                let why = both(
                    &of(locked),
                    &format!(
                        "{}  version {}, {}",
                        plugin.inspection.sha256,
                        manifest.version,
                        shown_source(&plugin.source)
                    ),
                );
                let problem = Diagnostic::new(severity, "recipe::plugin", message).why(why).plugin(&name);
                let help = if severity == Severity::Warning {
                    "the result may differ from the one that is locked"
                } else {
                    again
                };
                problems.push(problem.at(place(index)).help(help.to_owned()));
            }
        }
    }
    problems
}

fn of(locked: &LockedPlugin) -> String {
    format!("{}  version {}, {}", locked.sha256, locked.version, locked.source)
}
