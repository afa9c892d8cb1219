//! `host recipe diff`: in what two recipes differ.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::super::say;
use crate::config::{join, join_index};
use crate::diagnostic::{ExitStatus, Failure};
use crate::recipe::opened::Opened;
use crate::report::{Output, emit};

pub(super) fn run(a: &str, b: &str, output: Output) -> Result<ExitStatus, Failure> {
    let [one, other] = [a, b].map(|recipe| Opened::new(recipe).map(|opened| flat(&opened)));
    let (one, other) = (one?, other?);
    let keys: BTreeSet<&String> = one.keys().chain(other.keys()).collect();
    let differing: Vec<&String> = keys.into_iter().filter(|key| one.get(*key) != other.get(*key)).collect();
    if output == Output::Json {
        let change = |key: &&String| json!({ "key": key, "a": one.get(*key), "b": other.get(*key) });
        emit("diff", json!({ "changes": differing.iter().map(change).collect::<Vec<_>>() }));
        return Ok(ExitStatus::Done);
    }
    if differing.is_empty() {
        say("they say the same");
        return Ok(ExitStatus::Done);
    }
    let mut lines = Vec::new();
    for key in differing {
        lines.push(key.clone());
        for (sign, all) in [("-", &one), ("+", &other)] {
            lines.extend(all.get(key).map(|value| format!("  {sign} {value}")));
        }
    }
    say(&lines.join("\n"));
    Ok(ExitStatus::Done)
}

/// All values of a recipe by their paths; files, plugins and repositories by their names.
fn flat(opened: &Opened) -> BTreeMap<String, Value> {
    let mut all = BTreeMap::new();
    let config = Value::Object(opened.loaded.to_given_json());
    list(&config, String::new(), &mut all);
    list(&json!(opened.recipe()), "recipe".to_owned(), &mut all);
    let Some(lock) = opened.lock() else { return all };
    for file in &lock.files {
        all.insert(format!("file {}", file.path), json!(file.sha256));
    }
    for plugin in &lock.plugins {
        all.insert(format!("plugin {}", plugin.name), json!(format!("{} {}", plugin.version, plugin.sha256)));
    }
    for repository in &lock.hub {
        all.insert(format!("hub {} {}", repository.key, repository.name), json!(repository.commit));
    }
    for point in lock.result.iter().flat_map(|result| &result.curve) {
        for (name, value) in &point.metrics {
            all.insert(format!("result, step {:>6}, {name}", point.step), json!(value));
        }
    }
    for (name, digest) in lock.result.iter().flat_map(|result| &result.model) {
        all.insert(format!("result, {name}"), json!(digest));
    }
    all
}

fn list(value: &Value, path: String, all: &mut BTreeMap<String, Value>) {
    match value {
        Value::Object(map) => map.iter().for_each(|(key, value)| list(value, join(&path, key), all)),
        Value::Array(entries) if !entries.is_empty() => {
            entries.iter().enumerate().for_each(|(index, value)| list(value, join_index(&path, index), all));
        }
        other => drop(all.insert(path, other.clone())),
    }
}
