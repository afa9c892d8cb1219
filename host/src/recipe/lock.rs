//! The lock of a recipe: written after what is there, and held against what is there.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use plugin_runtime::{PluginHost, Source};
use serde_json::Value;

use crate::check::{contents, plugins};
use crate::checkpoint::directory::replace_file;
use crate::checkpoint::owned::METRICS_FILE;
use crate::config::recipe::{LOCK_FORMAT, Lock, LockedData, LockedPlugin, LockedPoint, LockedRepository, LockedResult};
use crate::config::{LoadedConfig, with_lock};
use crate::diagnostic::{Diagnostic, Failure};
use crate::report::metrics;
use crate::train::output::{FINISHED, described};
use crate::train::plan::Plan;

/// Points of the curve of training, and of evaluations, that are kept.
const POINTS: usize = 12;

/// What a recipe is now: its files, plugins and data, and what the run in `run` gave, if there is one: of a
/// config whose `sha256` was `of`.
///
/// # Errors
/// What cannot be part of a recipe, and a run that is not one of it.
pub fn make(
    loaded: &LoadedConfig,
    plugins: &PluginHost,
    plan: &Plan,
    run: Option<&Path>,
    of: &str,
) -> Result<Lock, Failure> {
    let data = LockedData {
        rows: plan.data.rows,
        samples: plan.data.train.len() as u64,
        eval_samples: plan.data.eval.len() as u64,
        sha256: plan.data.digest.clone(),
    };
    Ok(Lock {
        v: LOCK_FORMAT,
        host: env!("CARGO_PKG_VERSION").to_owned(),
        config_sha256: loaded.source.sha256.clone(),
        hub: loaded.elsewhere.pins.iter().filter_map(|pin| repository(loaded, pin)).collect(),
        files: contents::files(loaded, plugins)?,
        plugins: locked_plugins(loaded, plugins)?,
        result: run.map(|run| result(loaded, run, &data, plugins, of)).transpose()?,
        data: Some(data),
    })
}

fn repository(loaded: &LoadedConfig, pin: &Value) -> Option<LockedRepository> {
    let text = |key: &str| pin[key].as_str().map(str::to_owned);
    Some(LockedRepository {
        key: text("key")?,
        name: text("name")?,
        revision: text("revision")?,
        commit: text("commit")?,
        bytes: bytes(loaded, &text("key")?, &text("name")?),
    })
}

/// Bytes of the files of a repository that a run reads; none where not all of them are here.
fn bytes(loaded: &LoadedConfig, key: &str, name: &str) -> Option<u64> {
    let size = |path: PathBuf| path.metadata().ok().map(|found| found.len());
    if let Some(entry) = key.strip_suffix(".path") {
        let data = loaded.elsewhere.data.get(entry)?.as_ref().ok()?;
        return data.splits.values().flatten().map(|file| size(data.directory.join(file))).sum();
    }
    let directory = loaded.elsewhere.directories.get(name)?;
    if loaded.elsewhere.headers.contains_key(directory) {
        return None;
    }
    let is_read = |path: &PathBuf| {
        let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
        ["json", "safetensors", "jinja"].contains(&extension)
    };
    let files = std::fs::read_dir(directory).ok()?.flatten().map(|entry| entry.path()).filter(is_read);
    files.map(size).sum()
}

fn locked_plugins(loaded: &LoadedConfig, plugins: &PluginHost) -> Result<Vec<LockedPlugin>, Failure> {
    let root = contents::directory(loaded);
    let locked = |name: String| {
        let Some(plugin) = plugins.get(&name) else {
            let message = format!("there is no plugin `{name}`, so it cannot be locked");
            let help = "put its .wasm file into a directory and pass `--plugins DIRECTORY`";
            return Err(Failure::from(Diagnostic::error("plugin::unknown", message).help(help)));
        };
        let (inspection, manifest) = (&plugin.inspection, &plugin.inspection.manifest);
        let source = match &plugin.source {
            Source::Bundled => "bundled".to_owned(),
            Source::File(file) => contents::inside(&root, file, &name)?,
        };
        Ok(LockedPlugin {
            version: manifest.version.clone(),
            api: manifest.api.clone(),
            sha256: inspection.sha256.clone(),
            source,
            imports: inspection.imports.clone(),
            wants: if plugin.needs_grants() { vec!["read".to_owned()] } else { Vec::new() },
            name,
        })
    };
    plugins::names(loaded).into_iter().map(locked).collect()
}

/// What a finished run of this recipe gave.
///
/// # Errors
/// That there is none, or that it ran with something else.
fn result(
    loaded: &LoadedConfig,
    run: &Path,
    data: &LockedData,
    plugins: &PluginHost,
    of: &str,
) -> Result<LockedResult, Failure> {
    let shown = run.display();
    let config = crate::commands::path(&loaded.source.path);
    let again = format!("run it: `host train {config}`; without `--run` the lock has no result");
    let refuse = |message: String, why: &str| {
        Failure::from(Diagnostic::error("recipe::run", message).why(why).help(again.clone()))
    };
    let Some(record) = described(run) else {
        return Err(refuse(format!("there is no run in `{shown}`"), "it has no `run.json`"));
    };
    if record["status"] != FINISHED {
        return Err(refuse(
            format!("the run in `{shown}` is not finished"),
            "only what a whole run gave can be held against another",
        ));
    }
    let differs = |what: &str| refuse(format!("the run in `{shown}` is not one of this recipe"), what);
    if record["source_sha256"] != of {
        return Err(differs("its config said something else"));
    }
    if record["set"].as_array().is_some_and(|set| !set.is_empty()) {
        return Err(differs("it ran with `--set`, which the recipe does not say"));
    }
    if record["data_sha256"] != data.sha256.as_str() {
        return Err(differs("its samples were others"));
    }
    let of_run = |name: &str| {
        let all = record["plugins"].as_array()?;
        all.iter().find(|plugin| plugin["name"] == name)?["sha256"].as_str()
    };
    for name in plugins::names(loaded) {
        let own = plugins.get(&name).map(|plugin| plugin.inspection.sha256.as_str());
        if own != of_run(&name) {
            return Err(differs(&format!("plugin `{name}` was another")));
        }
    }
    let model = model_digests(run, &record)?;
    outcome(&record, curve(&run.join(METRICS_FILE)), model)
        .ok_or_else(|| differs("its `run.json` lacks what a lock needs"))
}

/// What `run.json` says, in the lock's words.
pub(super) fn outcome(
    record: &Value,
    curve: Vec<LockedPoint>,
    model: BTreeMap<String, String>,
) -> Option<LockedResult> {
    let text = |key: &str| record[key].as_str().map(str::to_owned);
    let summary = &record["summary"];
    Some(LockedResult {
        host: text("host_version")?,
        device: text("device_name").or_else(|| text("device"))?,
        kernels: text("kernels")?,
        precision: text("precision")?,
        threads: record["threads"].as_u64()?,
        steps: record["step"].as_u64()?,
        tokens: summary["tokens"].as_u64()?,
        seconds: summary["wall_seconds"].as_f64()?,
        peak_memory_bytes: summary["peak_memory_bytes"].as_u64()?,
        curve,
        model,
    })
}

/// SHA-256 of the weights that a run wrote, by name.
pub(super) fn model_digests(run: &Path, record: &Value) -> Result<BTreeMap<String, String>, Failure> {
    let names = record["files"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let weights = names.filter(|name| Path::new(name).extension().is_some_and(|extension| extension == "safetensors"));
    weights.map(|name| Ok((name.to_owned(), contents::digest(&run.join(name))?.1))).collect()
}

/// Some points of `metrics.jsonl`: the first, the last and others between them, of training and of evaluations.
fn curve(path: &Path) -> Vec<LockedPoint> {
    let all = points(path);
    let is_eval = |point: &&LockedPoint| point.metrics.contains_key("eval_loss");
    let (evaluated, trained): (Vec<&LockedPoint>, Vec<&LockedPoint>) = all.iter().partition(is_eval);
    let mut kept: Vec<LockedPoint> = [evaluated, trained].into_iter().flat_map(some).cloned().collect();
    kept.sort_by_key(|point| point.step);
    kept
}

/// All points, one for each step.
pub(super) fn points(path: &Path) -> Vec<LockedPoint> {
    let mut all: BTreeMap<u64, BTreeMap<String, Option<f64>>> = BTreeMap::new();
    for (step, metrics) in metrics::lines(path).iter().filter_map(metrics::metrics) {
        let finite = |(name, value): (String, f64)| (name, value.is_finite().then_some(value));
        all.entry(step).or_default().extend(metrics.into_iter().map(finite));
    }
    all.into_iter().map(|(step, metrics)| LockedPoint { step, metrics }).collect()
}

/// At most so many of them, evenly, the first and the last among them.
fn some(all: Vec<&LockedPoint>) -> Vec<&LockedPoint> {
    let last = all.len().saturating_sub(1);
    let count = all.len().min(POINTS);
    let mut places: Vec<usize> = (0..count).map(|index| index * last / count.saturating_sub(1).max(1)).collect();
    places.dedup();
    places.into_iter().map(|place| all[place]).collect()
}

/// Writes a lock into the recipe's file, in the place of the one that is there.
///
/// # Errors
/// A file that cannot be changed or written.
pub fn write(loaded: &LoadedConfig, lock: &Lock) -> Result<PathBuf, Failure> {
    let path = loaded.source.path.clone();
    let text = with_lock(&loaded.source.text, Some(lock)).map_err(|why| {
        Diagnostic::error("recipe::lock", format!("the lock cannot be written into `{}`", path.display())).why(why)
    })?;
    replace_file(&path, text.as_bytes())?;
    Ok(path)
}
