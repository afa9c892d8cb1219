//! How the config's sections `recipe` and `lock` are read, and what a config that is a recipe may not say. It comes from a
//! stranger: it names files beside it and nothing else, takes no right and hides no error. What the user says with `--set` is
//! the user's.

use serde_json::Value;

use super::paths::is_inside;
use super::positions::join;
use super::read::{Context, Section};
use super::recipe::{LOCK_FORMAT, Lock, Recipe, version_numbers};
use super::schema::Config;
use super::values::{PluginLimits, RuleSeverity};

/// Characters of a name, a licence, a tag, and of the description.
const SHORT: usize = 100;
const LONG: usize = 2000;
/// Authors and tags.
const MANY: usize = 32;

/// Reads both sections.
pub(super) fn recipe(top: &Section<'_>, config: &mut Config) {
    config.recipe = top.value("recipe").and_then(|value| Section::of(top.cx, "recipe", value, &[])).map(described);
    config.lock = top.value("lock").and_then(|value| lock(top.cx, value));
    if top.has("lock") && !top.has("recipe") {
        top.cx.missing("recipe", "a `lock` belongs to a recipe: `recipe: {name: my-recipe, version: 1.0.0}`");
    }
}

fn described(section: Section<'_>) -> Recipe {
    let cx = section.cx;
    let mut recipe = Recipe::default();
    for (key, help) in [("name", "`name: my-recipe`"), ("version", "`version: 1.0.0`")] {
        if !section.has(key) {
            cx.missing(&section.at(key), help);
        }
    }
    let is_short = |key: &'static str, text: &String| {
        let fits = text.chars().count() <= if key == "description" { LONG } else { SHORT };
        if !fits {
            let path = section.at(key);
            cx.report(cx.error("out-of-range", &path, format!("`{path}` is too long")));
        }
        fits
    };
    let text = |key: &'static str| section.read::<String>(key).filter(|text| is_short(key, text));
    let texts = |key: &'static str| {
        let all: Vec<String> = section.read(key).unwrap_or_default();
        if all.len() > MANY {
            let path = section.at(key);
            cx.report(cx.error("out-of-range", &path, format!("`{path}` has more than {MANY} entries")));
        }
        all.into_iter().filter(|text| is_short(key, text)).take(MANY).collect::<Vec<_>>()
    };
    if let Some(name) = text("name") {
        if !Recipe::is_name(&name) {
            let message = "`recipe.name` has small letters and digits, and `-`, `_` or `.` between them";
            cx.report(cx.error("out-of-range", "recipe.name", message));
        }
        recipe.name = name;
    }
    for (key, target) in [("version", &mut recipe.version), ("host", recipe.host.get_or_insert_default())] {
        let Some(version) = text(key) else { continue };
        if version_numbers(&version).is_none() {
            let path = section.at(key);
            cx.report(cx.error("out-of-range", &path, format!("`{path}` is a version such as `1.0.0`")));
        }
        *target = version;
    }
    recipe.host = recipe.host.filter(|host| !host.is_empty());
    recipe.authors = texts("authors");
    recipe.tags = texts("tags");
    recipe.license = text("license");
    recipe.description = text("description");
    section.finish(|_| None);
    let (own, oldest) = (env!("CARGO_PKG_VERSION"), recipe.host.as_deref().and_then(version_numbers));
    if oldest.zip(version_numbers(own)).is_some_and(|(oldest, own)| oldest > own) {
        let message = format!("the recipe needs host {}, this is {own}", recipe.host.as_deref().unwrap_or_default());
        let error = cx.error("newer-host", "recipe.host", message);
        cx.report(error.help("install a newer host, or ask for a version of the recipe that runs with this one"));
    }
    recipe
}

fn lock(cx: &Context<'_>, value: &Value) -> Option<Lock> {
    const AGAIN: &str = "write it anew: `host recipe lock FILE`";
    match value.get("v").and_then(Value::as_u64) {
        Some(v) if v > u64::from(LOCK_FORMAT) => {
            let message = format!("the lock has format {v}; this host reads {LOCK_FORMAT}");
            cx.report(cx.error("lock", "lock.v", message).help("install a newer host"));
            return None;
        }
        _ => {}
    }
    match serde_path_to_error::deserialize::<_, Lock>(value) {
        Ok(lock) => sound(cx, lock),
        Err(error) => {
            let path = error.path().to_string();
            let path = if path == "." { "lock".to_owned() } else { join("lock", &path) };
            let reason = error.into_inner().to_string();
            cx.report(cx.error("lock", &path, "this is no lock of a recipe").why(reason).help(AGAIN));
            None
        }
    }
}

/// A lock whose digests, commits and paths are such.
fn sound(cx: &Context<'_>, lock: Lock) -> Option<Lock> {
    let is_hex = |text: &str, digits: usize| {
        text.len() == digits && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
    };
    let mut flaws: Vec<(String, String)> = Vec::new();
    let mut digest = |path: String, text: &str, digits: usize| {
        if !is_hex(text, digits) {
            flaws.push((path, format!("it has {digits} hexadecimal digits")));
        }
    };
    digest("lock.config_sha256".into(), &lock.config_sha256, 64);
    for (index, repository) in lock.hub.iter().enumerate() {
        digest(format!("lock.hub[{index}].commit"), &repository.commit, 40);
    }
    for (index, file) in lock.files.iter().enumerate() {
        digest(format!("lock.files[{index}].sha256"), &file.sha256, 64);
    }
    for (index, plugin) in lock.plugins.iter().enumerate() {
        digest(format!("lock.plugins[{index}].sha256"), &plugin.sha256, 64);
    }
    for (index, file) in lock.files.iter().enumerate() {
        if !is_inside(&file.path) {
            flaws.push((format!("lock.files[{index}].path"), "it leads out of the recipe's directory".into()));
        }
        if lock.files[..index].iter().any(|other| other.path == file.path) {
            flaws.push((format!("lock.files[{index}].path"), "it is there twice".into()));
        }
    }
    let is_sound = flaws.is_empty();
    for (path, why) in flaws {
        cx.report(cx.error("lock", &path, format!("`{path}` cannot be")).why(why));
    }
    is_sound.then_some(lock)
}

/// Those of some paths that may be named.
pub(super) fn paths(cx: &Context<'_>, path: &str, texts: Vec<String>) -> Vec<String> {
    texts.into_iter().filter_map(|text| cx.path(path, text)).collect()
}

/// Limits of a plugin as far as a recipe may set them: lower than they are.
pub(super) fn limits(section: &Section<'_>, limits: &mut PluginLimits) {
    let defaults = plugin_runtime::Limits::default();
    let (mebibytes, milliseconds) =
        (|bytes: usize| (bytes >> 20) as u64, |time: std::time::Duration| time.as_millis() as u64);
    let all = [
        ("memory_mb", &mut limits.memory_mb, mebibytes(defaults.memory_bytes)),
        ("call_ms", &mut limits.call_ms, milliseconds(defaults.call)),
        ("result_mb", &mut limits.result_mb, mebibytes(defaults.result_bytes)),
        // Without it, what data may become grows with the data.
        ("rows_mb", &mut limits.rows_mb, 64),
        ("log_kb", &mut limits.log_kb, (defaults.log_bytes >> 10) as u64),
        ("file_mb", &mut limits.file_mb, mebibytes(defaults.file_bytes)),
        ("compile_ms", &mut limits.compile_ms, milliseconds(defaults.compile)),
        ("compile_mb", &mut limits.compile_mb, mebibytes(defaults.compile_bytes)),
    ];
    for (key, limit, most) in all {
        let path = section.at(key);
        if limit.is_some_and(|limit| limit > most) && section.cx.is_of_recipe(&path) {
            let error = section.cx.error("recipe", &path, format!("a recipe may not raise `{key}` above {most}"));
            section.cx.report(
                error
                    .why("limits of plugins are the user's")
                    .help(format!("delete the line; who runs it may say it: `--set {path}=…`")),
            );
            *limit = None;
        }
    }
}

/// True if the config may grant a plugin something; a recipe may not.
pub(super) fn may_grant(section: &Section<'_>, plugin: &str) -> bool {
    let path = section.at("grants");
    if !section.cx.is_of_recipe(&path) {
        return true;
    }
    let error = section.cx.error("recipe", &path, "a recipe may not grant a plugin anything");
    let why = "which files a plugin reads beside its data is for the user to say";
    section.cx.report(error.why(why).help(format!("delete it; who runs it may say it: `--grant {plugin}=DIRECTORY`")));
    false
}

/// True if a rule may have this severity; in a recipe none may be lowered.
pub(super) fn may_judge(cx: &Context<'_>, path: &str, severity: RuleSeverity) -> bool {
    if severity == RuleSeverity::Error || !cx.is_of_recipe(path) {
        return true;
    }
    let error = cx.error("recipe", path, "a recipe may only make a rule an error");
    cx.report(error.why("lowered, a rule would hide what is wrong with it").help("delete the line"));
    false
}
