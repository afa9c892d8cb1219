//! The config file: YAML with Axolotl's keys in, a typed [`Config`] with every default filled in out, or every problem
//! of the file at once, each at its line and column.

mod adapter_fields;
mod axolotl_keys;
mod axolotl_values;
mod choice;
mod curation;
mod curation_fields;
mod defaults;
mod ds_type;
mod edit;
mod fields;
mod files;
pub mod json_schema;
mod names;
mod overrides;
mod parse;
mod paths;
mod patterns;
mod plugin_fields;
mod positions;
mod preference_fields;
mod preference_types;
mod read;
pub mod recipe;
mod recipe_fields;
mod schema;
mod score_fields;
mod source;
mod split;
mod stream_fields;
mod supervised_types;
mod technique_fields;
mod techniques;
mod tree;
mod trl_fields;
mod values;
mod with_lock;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use engine::weights::WeightHeaders;
use serde_json::{Map, Value};

pub use self::adapter_fields::{LINEAR_MODULES, rows_of_pattern};
pub use self::axolotl_values::strategy_advice;
pub use self::choice::Choice;
pub use self::curation::{Curation, Decontaminate, Heuristics, NearDuplicates, Prefer, Score, ScoreBy};
pub use self::curation_fields::ROW;
pub use self::ds_type::plugin as loader_named;
pub use self::ds_type::rows_of;
pub use self::edit::{EditError, edit};
pub use self::files::is_template_file;
pub use self::names::{nearest, one_of};
pub use self::paths::is_inside;
pub use self::patterns::pattern;
pub use self::positions::{is_within, join, join_index};
pub use self::preference_types::{PREFERENCE, preference_names, preference_shape, preference_strategy};
pub use self::schema::{BnbConfigKwargs, Config, DatasetConfig, GradientCheckpointingKwargs, SpecialTokens, Trl};
pub use self::source::{ConfigSource, FILE_LIMIT};
pub use self::split::{Slice, Split, TRAIN};
pub use self::supervised_types::supervised_strategy;
pub use self::techniques::{LrGroup, Techniques};
pub use self::values::{
    Adapter, Aggregation, Amount, AutoBool, Cadence, DeviceChoice, EnvironmentRef, ExcessLengthStrategy, FilterRef,
    GrpoLossType, ImportanceSamplingLevel, KtoLossType, LrScheduler, OnError, Optimizer, Patterns, PluginGrants,
    PluginLimits, PluginPin, PluginRef, RewardRef, Rl, RuleRef, RuleSeverity, SaveStrategy, ScaleRewards, Scheduler,
    TargetModules, TrainOnEos,
};
pub use self::with_lock::with_lock;
use crate::diagnostic::{Diagnostic, Failure, Severity};

/// A config that can be used, with where it comes from.
#[derive(Debug)]
pub struct LoadedConfig {
    /// Every key, defaults filled in.
    pub config: Config,
    /// The file and where everything in it stands.
    pub source: ConfigSource,
    /// Config paths that the user wrote, outer ones first; all others are defaults.
    pub given: Vec<String>,
    /// Warnings and notes about the file; no errors.
    pub remarks: Vec<Diagnostic>,
    /// Config paths of values that could not be used: they have their defaults, which nobody chose.
    pub broken: Vec<String>,
    /// What it names that is not on this machine.
    pub elsewhere: Elsewhere,
}

/// Names of a config that are no paths here, once they have been looked for.
#[derive(Debug, Default)]
pub struct Elsewhere {
    /// Where their files are.
    pub directories: BTreeMap<String, PathBuf>,
    /// The headers of weights that are not in their directory yet.
    pub headers: BTreeMap<PathBuf, WeightHeaders>,
    /// Why they cannot be had.
    pub missing: BTreeMap<String, Diagnostic>,
    /// What they were found as, for the record of a run.
    pub pins: Vec<Value>,
    /// Of entries whose `path` is a dataset of the hub, by their config path (`datasets[0]`): its files, or why there are none.
    pub data: BTreeMap<String, Result<HubData, Diagnostic>>,
}

/// The files of a dataset of the hub that an entry of the config means.
#[derive(Debug, Clone)]
pub struct HubData {
    /// Where they are, or will be.
    pub directory: PathBuf,
    /// Names of the files of each split, in the order in which they are read.
    pub splits: BTreeMap<String, Vec<String>>,
    /// False until all of them are there.
    pub is_here: bool,
}

/// A config with problems, as far as it can be read: for `host check`, which goes on to look for more.
#[derive(Debug)]
pub struct Examined {
    /// The config; keys with problems have their default. None where the file is no readable mapping.
    pub loaded: Option<LoadedConfig>,
    /// Everything that is wrong, in file order.
    pub problems: Vec<Diagnostic>,
}

/// Reads a config with its `--set key=value` overrides. The failure has every problem of the file, in file order.
pub fn load(path: &Path, overrides: &[String]) -> Result<LoadedConfig, Failure> {
    let Examined { loaded, problems } = examine(path, overrides);
    let remarks = Failure::check(problems)?;
    let Some(mut loaded) = loaded else { return Err(Failure(remarks)) };
    loaded.remarks = remarks;
    Ok(loaded)
}

/// Reads a config as far as possible.
pub fn examine(path: &Path, overrides: &[String]) -> Examined {
    match ConfigSource::read(path) {
        Ok(text) => examine_text(path, text, overrides),
        Err(diagnostic) => Examined { loaded: None, problems: vec![diagnostic] },
    }
}

/// The same of a file at `path` that has these bytes, or will have.
pub fn examine_bytes(path: &Path, bytes: Vec<u8>, overrides: &[String]) -> Examined {
    match ConfigSource::decode(path, bytes) {
        Ok(text) => examine_text(path, text, overrides),
        Err(diagnostic) => Examined { loaded: None, problems: vec![diagnostic] },
    }
}

fn examine_text(path: &Path, text: String, overrides: &[String]) -> Examined {
    let mut source = ConfigSource::new(path, text);
    let (root, mut problems) = parse::parse(&mut source);
    let Some(mut root) = root else { return Examined { loaded: None, problems } };
    source.read_identity(&root);
    for (index, argument) in overrides.iter().enumerate() {
        let result = overrides::Override::parse(index, argument).and_then(|set| {
            set.apply(&mut root)?;
            Ok(set)
        });
        match result {
            Ok(set) => source.overrides.push(set),
            Err(diagnostic) => problems.push(diagnostic),
        }
    }
    let cx = read::Context::new(&source);
    let mut config = fields::read(&cx, &root);
    // A value that is not finite was told when the file was parsed and stands as null here: it is not missing as well.
    let told: BTreeSet<String> = problems.iter().filter_map(key_path).collect();
    problems.extend(cx.into_problems().into_iter().filter(|problem| {
        problem.code != "config::missing-key" || key_path(problem).is_none_or(|path| !told.contains(&path))
    }));
    sort(&mut problems, path);
    let mut given = Vec::new();
    list_given(&root, "", &mut given);
    let is_error = |problem: &&Diagnostic| problem.severity == Severity::Error;
    let broken = problems.iter().filter(is_error).filter_map(key_path).collect();
    ds_type::of_directories(&mut config, &given, &source);
    let loaded = LoadedConfig { config, source, given, remarks: Vec::new(), broken, elsewhere: Elsewhere::default() };
    Examined { loaded: Some(loaded), problems }
}

fn key_path(diagnostic: &Diagnostic) -> Option<String> {
    diagnostic.place.as_ref()?.key_path.clone()
}

/// File order; then the command line; then what has no place.
pub fn sort(diagnostics: &mut [Diagnostic], config: &Path) {
    diagnostics.sort_by_key(|diagnostic| {
        let place = diagnostic.place.as_ref();
        (
            place.map_or(2, |place| u8::from(place.file != config)),
            place.map_or((0, 0), |place| (place.line, place.column)),
        )
    });
}

fn list_given(map: &Map<String, Value>, path: &str, given: &mut Vec<String>) {
    for (key, value) in map {
        list_value(value, join(path, key), given);
    }
}

fn list_value(value: &Value, path: String, given: &mut Vec<String>) {
    if value.is_null() {
        return;
    }
    given.push(path.clone());
    match value {
        Value::Array(list) => {
            for (index, value) in list.iter().enumerate() {
                list_value(value, join_index(&path, index), given);
            }
        }
        Value::Object(map) => list_given(map, &path, given),
        _ => {}
    }
}

impl LoadedConfig {
    /// The config as a JSON object under Axolotl's names; keys without a value are left out.
    pub fn to_json(&self) -> Value {
        as_json(&self.config)
    }

    /// The same for comparing a run with the one that goes on from it: what a failure of a reward or of the environment costs
    /// (`on_error`) may be another, since that is how a run goes on that one of them has ended.
    pub fn to_comparable_json(&self) -> Value {
        let mut config = self.config.clone();
        let rewards = config.trl.iter_mut().flat_map(|trl| &mut trl.reward_funcs);
        rewards.for_each(|reward| reward.on_error = OnError::Fail);
        config.environment.iter_mut().for_each(|environment| environment.on_error = OnError::Fail);
        as_json(&config)
    }

    /// The same without what could not be read, for those who judge: what follows from a default in its place would mislead.
    pub fn to_sound_json(&self) -> Value {
        let mut all = self.to_json();
        for path in &self.broken {
            let pointer = pointer(path);
            let Some((parent, key)) = pointer.rsplit_once('/') else { continue };
            match all.pointer_mut(parent) {
                Some(Value::Object(map)) => drop(map.shift_remove(key)),
                Some(Value::Array(list)) => {
                    if let Some(entry) = key.parse::<usize>().ok().and_then(|index| list.get_mut(index)) {
                        *entry = Value::Null;
                    }
                }
                _ => {}
            }
        }
        all
    }

    /// The config as the user wrote it, with values as they were read and what follows from them: keys that were not written
    /// are there where their value is not the default. Of an entry of `datasets`, what was written of it.
    pub fn to_given_json(&self) -> Map<String, Value> {
        let defaults = as_json(&defaults::config());
        let Value::Object(mut all) = self.to_json() else { return Map::new() };
        all.retain(|key, value| self.is_given(key) || defaults.get(key) != Some(value));
        for key in ["datasets", "test_datasets"] {
            let Some(Value::Array(entries)) = all.get_mut(key) else { continue };
            for (index, entry) in entries.iter_mut().enumerate() {
                let Value::Object(entry) = entry else { continue };
                let path = join_index(key, index);
                entry.retain(|key, _| {
                    matches!(key.as_str(), "path" | "type")
                        || self.is_given(&join(&path, key))
                        || is_renamed(self, &path, key)
                });
            }
        }
        all
    }

    /// The config as run, as a config file again: every default filled in.
    pub fn to_yaml(&self) -> String {
        serde_yaml::to_string(&self.to_json()).unwrap_or_default()
    }

    /// A path of the config as a path of the file system: [`ConfigSource::resolve`]. What was found elsewhere is where it was
    /// found.
    pub fn resolve(&self, path: &str) -> PathBuf {
        self.elsewhere.directories.get(path).cloned().unwrap_or_else(|| self.source.resolve(path))
    }

    /// Where the data of an entry (`datasets[0]`) with this `path` is.
    pub fn data_path(&self, entry: &str, path: &str) -> PathBuf {
        match self.elsewhere.data.get(entry) {
            Some(Ok(data)) => data.directory.clone(),
            _ => self.source.resolve(path),
        }
    }

    /// Of a recipe, what tells it from others: the first 16 digits of the digest of what it says.
    pub fn recipe_digest(&self) -> Option<String> {
        self.config.recipe.as_ref().map(|_| self.source.sha256[..16].to_owned())
    }

    /// True if the user wrote this path or something inside it.
    pub fn is_given(&self, path: &str) -> bool {
        self.given.iter().any(|given| given == path)
    }

    /// Puts a diagnostic at the place of a config path; where that is a default, at what is closest, with a note.
    pub fn locate(&self, diagnostic: Diagnostic, path: &str) -> Diagnostic {
        let exact = self.source.place(path);
        let diagnostic = if exact.is_none() && !path.is_empty() {
            let value = self.value_at(path).map(|value| format!(" (`{value}`)")).unwrap_or_default();
            diagnostic.note(format!("`{path}` is not set; its default counts{value}"))
        } else {
            diagnostic
        };
        diagnostic.at(exact.or_else(|| self.source.nearest_place(path)))
    }

    /// The path of an entry of a list; of the key itself where a single value stands for a list of one.
    pub fn entry_path(&self, key: &str, index: usize) -> String {
        let path = join_index(key, index);
        if self.is_given(&path) { path } else { key.to_owned() }
    }

    /// The value at a config path, as JSON.
    fn value_at(&self, path: &str) -> Option<Value> {
        self.to_json().pointer(&pointer(path)).cloned()
    }
}

/// True if older names of a key of a dataset were written, which a loaded config has no more.
fn is_renamed(loaded: &LoadedConfig, entry: &str, key: &str) -> bool {
    let old: &[&str] = match key {
        "message_property_mappings" => &["message_field_role", "message_field_content"],
        "train_on_eos" => &["train_on_eot"],
        _ => &[],
    };
    old.iter().any(|old| loaded.is_given(&join(entry, old)))
}

fn as_json(config: &Config) -> Value {
    let mut value = serde_json::to_value(config).unwrap_or_default();
    if let Value::Object(map) = &mut value {
        map.retain(|_, value| !value.is_null());
    }
    value
}

/// A config path as a JSON pointer.
fn pointer(path: &str) -> String {
    format!("/{}", path.replace('[', "/").replace(']', "").replace('.', "/"))
}

impl Examined {
    /// True if an error was found.
    pub fn has_errors(&self) -> bool {
        self.problems.iter().any(|problem| problem.severity == Severity::Error)
    }
}

#[cfg(test)]
mod tests;
