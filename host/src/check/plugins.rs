//! Which plugins there are, and whether the config's plugins exist, fit their pins, and take their own configs.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use plugin_runtime::types::{HealthRun, Level, ScheduleRun};
use plugin_runtime::{
    CompilerCommand, Kind, Limits, PluginError, PluginHost, PluginInfo, RuntimeOptions, Source, Start,
};
use serde_json::{Map, Value};

use super::added;
use super::data_path::explain;
use crate::config::{
    Config, DatasetConfig, FilterRef, LoadedConfig, PluginPin, PluginRef, RewardRef, Scheduler, TRAIN, rows_of,
    strategy_advice,
};
use crate::diagnostic::{Diagnostic, Failure, escape};
use crate::terminal::{self, Safe};

/// The bundled plugins: name and component, as `build.rs` made them.
mod bundled {
    include!(concat!(env!("OUT_DIR"), "/bundled.rs"));
}

/// The rules that are always on.
pub const BUNDLED_RULES: [&str; 2] = ["axolotl-compat", "practice"];

/// All bundled plugins and those of `directories`. The latter are compiled by `compiler`; none compiles them here, where
/// nothing limits what that costs.
pub fn open(directories: &[PathBuf], compiler: Option<CompilerCommand>) -> Result<PluginHost, Failure> {
    open_with(directories, compiler, crate::directories::cache().map(|cache| cache.join("plugins")))
}

/// The same with those that the user has added.
///
/// # Errors
/// One that cannot be read, or is not what it was when it was added.
pub fn open_added(directories: &[PathBuf], compiler: Option<CompilerCommand>) -> Result<PluginHost, Failure> {
    let mut host = open(&[], compiler)?;
    added::open(&mut host)?;
    for directory in directories {
        host.add_dir(directory)?;
    }
    Ok(host)
}

/// The same with a place for compiled plugins.
pub fn open_with(
    directories: &[PathBuf],
    compiler: Option<CompilerCommand>,
    cache_dir: Option<PathBuf>,
) -> Result<PluginHost, Failure> {
    // A plugin is started more than once in a command (to check it, then on each thread); what it says is shown once.
    let shown: Mutex<BTreeSet<(String, String)>> = Mutex::default();
    let log = Arc::new(move |plugin: &str, level: Level, message: &str| {
        let mut shown = shown.lock().unwrap_or_else(PoisonError::into_inner);
        if level != Level::Debug && shown.insert((plugin.to_owned(), message.to_owned())) {
            terminal::say(&Safe::text(&format!("plugin {plugin}: {message}")));
        }
    });
    let limits = Limits::default();
    let mut host = PluginHost::new(RuntimeOptions { cache_dir, compiler, limits, log })?;
    for (name, bytes) in bundled::BUNDLED {
        host.add_bundled(name, bytes)?;
    }
    for directory in directories {
        host.add_dir(directory)?;
    }
    Ok(host)
}

/// Applies what the user says of single plugins: the config's limits and grants (`plugins[]`), and `--grant NAME=DIR`.
///
/// # Errors
/// A plugin of the command line that is not there.
pub fn configure(loaded: &LoadedConfig, granted: &[Grant], plugins: &mut PluginHost) -> Result<(), Failure> {
    for pin in &loaded.config.plugins {
        let (own, defaults) = (&pin.limits, Limits::default());
        let bytes = |count: Option<u64>, shift: u32, default: usize| {
            count.map_or(default, |count| (count as usize).saturating_mul(1 << shift))
        };
        let limits = Limits {
            memory_bytes: bytes(own.memory_mb, 20, defaults.memory_bytes),
            call: own.call_ms.map_or(defaults.call, Duration::from_millis),
            result_bytes: bytes(own.result_mb, 20, defaults.result_bytes),
            rows_bytes: own.rows_mb.map(|count| count << 20),
            log_bytes: bytes(own.log_kb, 10, defaults.log_bytes),
            file_bytes: bytes(own.file_mb, 20, defaults.file_bytes),
            compile: own.compile_ms.map_or(defaults.compile, Duration::from_millis),
            compile_bytes: bytes(own.compile_mb, 20, defaults.compile_bytes),
        };
        plugins.set_limits(&pin.name, limits);
        plugins.grant(&pin.name, pin.grants.read.iter().map(|path| loaded.resolve(path)).collect());
    }
    for grant in granted {
        if !plugins.grant(&grant.plugin, vec![grant.directory.clone()]) {
            let message = format!("`--grant` names `{}`, and there is no such plugin", grant.plugin);
            return Err(Diagnostic::error("plugin::unknown", message)
                .help("`host plugin list` shows all plugins")
                .into());
        }
    }
    Ok(())
}

/// A directory that the command line lets a plugin read: `NAME=DIRECTORY`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// The plugin.
    pub plugin: String,
    /// The directory.
    pub directory: PathBuf,
}

impl std::str::FromStr for Grant {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some((plugin, directory)) if !plugin.is_empty() && !directory.is_empty() => {
                Ok(Self { plugin: plugin.to_owned(), directory: PathBuf::from(directory) })
            }
            _ => Err("write NAME=DIRECTORY, with the name of the plugin".to_owned()),
        }
    }
}

/// Files of an evaluation that rows are not to have anything of.
pub const AGAINST: &str = "curation.decontaminate.against";

/// Files of rows that the rows are to be near to.
pub const LIKE: &str = "curation.score.like";

/// One use of a plugin in a config.
#[derive(Debug, Clone, PartialEq)]
pub struct Use {
    /// What for.
    pub kind: Kind,
    /// The plugin.
    pub name: String,
    /// Its own config, as JSON.
    pub config_json: String,
    /// Config path of the reference.
    pub path: String,
    /// Loaders: the data.
    pub data: Option<Data>,
}

/// What a loader reads.
#[derive(Debug, Clone, PartialEq)]
pub struct Data {
    /// As the config names it.
    pub name: String,
    /// Where it is.
    pub path: PathBuf,
    /// The entry of the config: `datasets[0]`.
    pub entry: String,
}

/// Every plugin that a config names, in the order of the keys.
pub fn uses(loaded: &LoadedConfig) -> Vec<Use> {
    let config = &loaded.config;
    let mut uses = Vec::new();
    for (key, datasets) in [("datasets", &config.datasets), ("test_datasets", &config.test_datasets)] {
        for (index, dataset) in datasets.iter().enumerate() {
            let path = format!("{key}[{index}]");
            // A split that is not there is told once.
            let mut loaders: Vec<Use> =
                dataset.split.parts.iter().map(|part| loader(loaded, dataset, &path, &part.name)).collect();
            loaders.dedup();
            uses.extend(loaders);
            if !dataset.is_tokenized() {
                uses.push(Use {
                    kind: Kind::PromptStrategy,
                    name: dataset.strategy.name.clone(),
                    config_json: strategy_config(loaded, dataset, &path),
                    path: format!("{path}.type"),
                    data: None,
                });
            }
            uses.extend(filters(loaded, &format!("{path}.row_filters"), &dataset.row_filters));
        }
    }
    uses.extend(filters(loaded, "row_filters", &config.row_filters));
    let curation = config.curation.as_ref();
    let against = curation.and_then(|curation| curation.decontaminate.as_ref()).map(|of| &of.against);
    let like = curation.and_then(|curation| curation.score.as_ref()).map(|score| &score.like);
    for (key, files) in [(AGAINST, against), (LIKE, like)] {
        for (index, file) in files.into_iter().flatten().enumerate() {
            let path = loaded.entry_path(key, index);
            uses.push(Use { path: path.clone(), ..loader(loaded, &rows_of(file), &path, TRAIN) });
        }
    }
    uses.extend(scheduler(loaded));
    uses.extend(rewards(loaded));
    uses.extend(learned_rewards(loaded));
    uses.extend(environment(loaded));
    let monitor = |(index, plugin)| one(Kind::RunHealth, plugin, loaded.entry_path("run_health", index));
    uses.extend(config.run_health.iter().enumerate().map(monitor));
    for (index, rule) in config.rules.iter().enumerate() {
        let config_json = Value::Object(rule.config.clone()).to_string();
        let path = format!("rules[{index}]");
        uses.push(Use { kind: Kind::CompatRules, name: rule.name.clone(), config_json, path, data: None });
    }
    uses
}

/// The loader of a dataset, for one of its splits. Which files are meant it gets as keys of its own config, `split` and
/// `data_files`, where they say more than all of `train`. Those of a dataset of the hub are chosen already: it gets their names.
pub fn loader(loaded: &LoadedConfig, dataset: &DatasetConfig, entry: &str, split: &str) -> Use {
    let mut config = dataset.ds_type.config.clone();
    let of_hub = loaded.elsewhere.data.get(entry).and_then(|data| data.as_ref().ok()?.splits.get(split));
    if let Some(files) = of_hub {
        let names: Vec<String> = files.iter().map(|name| exactly(name)).collect();
        config.insert("data_files".to_owned(), names.into());
    } else {
        if split != TRAIN {
            config.entry("split").or_insert_with(|| split.into());
        }
        if !dataset.data_files.is_empty() {
            config.entry("data_files").or_insert_with(|| dataset.data_files.clone().into());
        }
    }
    let data =
        Data { name: dataset.path.clone(), path: loaded.data_path(entry, &dataset.path), entry: entry.to_owned() };
    Use {
        kind: Kind::DatasetLoader,
        name: dataset.ds_type.name.clone(),
        config_json: Value::Object(config).to_string(),
        path: format!("{entry}.ds_type"),
        data: Some(data),
    }
}

/// A name as a pattern that means it alone, as loaders read patterns.
fn exactly(name: &str) -> String {
    let one = |c: char| if r"*?[]{}!\".contains(c) { format!("\\{c}") } else { c.to_string() };
    name.chars().map(one).collect()
}

/// The row filters of a list, in its order.
pub fn filters(loaded: &LoadedConfig, key: &str, filters: &[FilterRef]) -> Vec<Use> {
    let used = |(index, filter): (usize, &FilterRef)| Use {
        kind: Kind::RowFilter,
        name: filter.name.clone(),
        config_json: Value::Object(filter.config.clone()).to_string(),
        path: loaded.entry_path(key, index),
        data: None,
    };
    filters.iter().enumerate().map(used).collect()
}

/// The schedule plugin, where `lr_scheduler` is one.
pub fn scheduler(loaded: &LoadedConfig) -> Option<Use> {
    let Scheduler::Plugin(plugin) = &loaded.config.lr_scheduler else { return None };
    Some(one(Kind::Schedule, plugin, "lr_scheduler".to_owned()))
}

/// The rewards of evaluations, in the order of `eval_reward_funcs`.
pub fn rewards(loaded: &LoadedConfig) -> Vec<Use> {
    rewards_of(loaded, "eval_reward_funcs", &loaded.config.eval_reward_funcs)
}

/// The rewards that are learned from, in the order of `trl.reward_funcs`.
pub fn learned_rewards(loaded: &LoadedConfig) -> Vec<Use> {
    let trl = loaded.config.trl.as_ref();
    trl.map_or_else(Vec::new, |trl| rewards_of(loaded, "trl.reward_funcs", &trl.reward_funcs))
}

/// The environment that the model learns in.
pub fn environment(loaded: &LoadedConfig) -> Option<Use> {
    let environment = loaded.config.environment.as_ref()?;
    Some(one(Kind::Environment, &environment.plugin, "environment".to_owned()))
}

fn rewards_of(loaded: &LoadedConfig, key: &str, rewards: &[RewardRef]) -> Vec<Use> {
    let used = |(index, reward): (usize, &RewardRef)| one(Kind::Reward, &reward.plugin, loaded.entry_path(key, index));
    rewards.iter().enumerate().map(used).collect()
}

fn one(kind: Kind, plugin: &PluginRef, path: String) -> Use {
    Use { kind, name: plugin.name.clone(), config_json: plugin.config_json(), path, data: None }
}

/// The names of the plugins of a run, sorted, with the rules that are always on.
pub fn names(loaded: &LoadedConfig) -> Vec<String> {
    let mut names: Vec<String> = uses(loaded).into_iter().map(|used| used.name).collect();
    names.extend(BUNDLED_RULES.map(ToOwned::to_owned));
    names.sort();
    names.dedup();
    names
}

/// A strategy's config: what the user wrote for it, and the conversation keys of the dataset, which Axolotl has beside
/// `type`. A strategy other than `chat_template` gets those only where they were written.
pub fn strategy_config(loaded: &LoadedConfig, dataset: &DatasetConfig, path: &str) -> String {
    const KEYS: [&str; 15] = [
        "field",
        "field_messages",
        "field_chosen",
        "field_rejected",
        "field_tools",
        "message_property_mappings",
        "roles",
        "roles_to_train",
        "train_on_eos",
        "drop_system_message",
        "field_thinking",
        "template_thinking_key",
        "split_thinking",
        "message_field_training",
        "message_field_training_detail",
    ];
    let mut config: Map<String, Value> = dataset.strategy.config.clone();
    let all = serde_json::to_value(dataset).unwrap_or_default();
    for key in KEYS {
        let is_chat = dataset.strategy.name == "chat_template" && key != "field";
        let is_given = |key: &str| loaded.is_given(&format!("{path}.{key}"));
        // Older names of two of the mappings, which are all that is left of them.
        let by_old_name = key == "message_property_mappings"
            && ["message_field_role", "message_field_content"].into_iter().any(is_given);
        let wanted = is_chat || is_given(key) || by_old_name;
        if let (true, Some(value), false) = (wanted, all.get(key), config.contains_key(key))
            && !value.is_null()
        {
            config.insert(key.to_owned(), value.clone());
        }
    }
    if dataset.strategy.name == "chat_template"
        && let Some(message) = &loaded.config.default_system_message
    {
        config.entry("default_system_message").or_insert_with(|| message.clone().into());
    }
    Value::Object(config).to_string()
}

/// Looks every plugin up, compares it with its pin, and creates it once with its config.
pub fn check(loaded: &LoadedConfig, plugins: &PluginHost) -> Vec<Diagnostic> {
    let mut found: Vec<Diagnostic> = Vec::new();
    for used in uses(loaded) {
        if used.name.is_empty() {
            continue;
        }
        let problems = config_problems(loaded, plugins, &used);
        if !problems.is_empty() {
            found.extend(problems);
            continue;
        }
        // What of the hub cannot be had is told once; what is not here yet cannot be looked at.
        match used.data.as_ref().and_then(|data| loaded.elsewhere.data.get(&data.entry)) {
            Some(Err(told)) if found.contains(told) => continue,
            Some(Err(told)) => {
                found.push(told.clone());
                continue;
            }
            Some(Ok(data)) if !data.is_here => continue,
            _ => {}
        }
        let created = start(loaded, plugins, &used);
        if let Err(error) = created {
            let mut diagnostic = locate(loaded, &used, error);
            if used.kind.start() == Start::Run && loaded.config.max_steps.is_none() {
                let words = format!("the length of the run is not known yet; {SCHEDULE_STEPS} steps stood for it");
                diagnostic = diagnostic.note(words);
            }
            found.push(diagnostic);
        }
    }
    for (index, pin) in loaded.config.plugins.iter().enumerate() {
        let pinned = check_pin(loaded, pin, index, plugins.get(&pin.name));
        if pinned.iter().any(|diagnostic| diagnostic.code == "plugin::grant") {
            // A grant that is not there is told at its place, not once more at each use of the plugin.
            found.retain(|other| other.code != "plugin::grant" || other.plugin.as_ref() != Some(&pin.name));
        }
        found.extend(pinned);
    }
    found
}

/// Starts a plugin as a run would, and lets go of it.
fn start(loaded: &LoadedConfig, plugins: &PluginHost, used: &Use) -> Result<(), PluginError> {
    let (name, config_json) = (&used.name, &used.config_json);
    match used.kind {
        Kind::DatasetLoader => {
            let data = used.data.as_ref().map(|data| data.path.clone()).unwrap_or_default();
            plugins.loader(name, config_json, &data).map(drop)
        }
        Kind::PromptStrategy => plugins.strategy(name, config_json).map(drop),
        Kind::Reward => plugins.scorer(name, config_json).map(drop),
        Kind::Environment => plugins.environment(name, config_json).map(drop),
        Kind::RowFilter => plugins.filter(name, config_json).map(drop),
        Kind::Schedule => plugins.curve(name, config_json, likely_run(&loaded.config)).map(drop),
        Kind::RunHealth => {
            let run = HealthRun { total_steps: likely_run(&loaded.config).total_steps };
            plugins.monitor(name, config_json, run).map(drop)
        }
        // Rules run in a step of their own.
        Kind::CompatRules => plugins.find(name, used.kind).map(drop),
    }
}

/// Steps of a run whose learning rate a plugin gives, at most: all its factors are in memory.
pub const SCHEDULE_STEPS: u64 = 1 << 24;

/// The run as far as the config alone tells it. Without `max_steps` its length depends on the data: the longest one stands
/// for it, so that what does not fit into it fits into none. The plan starts the plugin again with the real one.
fn likely_run(config: &Config) -> ScheduleRun {
    let total_steps = config.max_steps.unwrap_or(SCHEDULE_STEPS);
    ScheduleRun { total_steps, warmup_steps: config.warmup_of(total_steps), steps_per_epoch: total_steps }
}

/// Everything that a plugin's own schema finds wrong with its config, each at its place.
pub fn config_problems(loaded: &LoadedConfig, plugins: &PluginHost, used: &Use) -> Vec<Diagnostic> {
    let problems = plugins.config_problems(&used.name, used.kind, &used.config_json);
    problems.into_iter().map(|problem| locate(loaded, used, problem)).collect()
}

/// Puts a plugin's error where the config names the plugin, or the very key that it complains about.
pub fn locate(loaded: &LoadedConfig, used: &Use, error: PluginError) -> Diagnostic {
    let (inner, is_key, is_config) = (error.config_path.clone(), error.is_key, error.config_path.is_some());
    let is_data = error.code.starts_with("data::");
    let mut diagnostic = Diagnostic::from(error);
    match &used.data {
        Some(data) if diagnostic.code == "data::missing-file" => diagnostic = explain(diagnostic, &data.name),
        _ => {}
    }
    if let (Kind::PromptStrategy, "plugin::unknown", Some(advice)) =
        (used.kind, diagnostic.code.as_str(), strategy_advice(&used.name))
    {
        diagnostic.help = Some(advice);
    }
    let entry = used.path.rsplit_once('.').map_or(used.path.as_str(), |(entry, _)| entry);
    let place = match inner {
        Some(inner) if !inner.is_empty() => {
            [format!("{}.config.{inner}", used.path), format!("{}.{inner}", used.path), format!("{entry}.{inner}")]
                .iter()
                .find_map(|path| if is_key { loaded.source.key_place(path) } else { loaded.source.place(path) })
        }
        // Of the config as a whole: where it starts, or else where its plugin is named.
        _ if is_config => {
            ["config", "name"].iter().find_map(|key| loaded.source.place(&format!("{}.{key}", used.path)))
        }
        _ if is_data => loaded.source.place(&format!("{entry}.path")),
        _ => None,
    };
    diagnostic.at(place.or_else(|| loaded.source.nearest_place(&used.path)))
}

fn check_pin(loaded: &LoadedConfig, pin: &PluginPin, index: usize, plugin: Option<&PluginInfo>) -> Vec<Diagnostic> {
    let at = |key: &str| loaded.source.nearest_place(&format!("plugins[{index}].{key}"));
    let Some(plugin) = plugin else {
        let message = format!("there is no plugin `{}`", pin.name);
        let help = "put its .wasm file into a directory and pass `--plugins DIRECTORY`";
        return vec![Diagnostic::error("plugin::unknown", message).at(at("name")).help(help)];
    };
    let mut found = check_grants(loaded, pin, index, plugin);
    let inspection = &plugin.inspection;
    if let Some(version) = &pin.version {
        let is = &inspection.manifest.version;
        let fits = is == version || is.strip_prefix(version.as_str()).is_some_and(|rest| rest.starts_with('.'));
        if !fits {
            let message = format!("plugin `{}` has version {}, the config asks for {version}", pin.name, escape(is));
            found.push(Diagnostic::error("plugin::pin", message).at(at("version")).plugin(&pin.name));
        }
    }
    if let Some(sha256) = &pin.sha256
        && *sha256 != inspection.sha256
    {
        let message = format!("plugin `{}` is not the one that the config pins", pin.name);
        found.push(
            Diagnostic::error("plugin::pin", message)
                .at(at("sha256"))
                .why(format!("its sha256 is {}", inspection.sha256))
                .help("use the pinned file; change the pin only if you trust the new one")
                .plugin(&pin.name),
        );
    }
    found
}

fn check_grants(loaded: &LoadedConfig, pin: &PluginPin, index: usize, plugin: &PluginInfo) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    for (at, directory) in pin.grants.read.iter().enumerate() {
        let place = loaded.source.nearest_place(&format!("plugins[{index}].grants.read[{at}]"));
        if !plugin.needs_grants() {
            let message = format!("plugin `{}` is granted `{directory}`, but does not ask for it", pin.name);
            let why = "only dataset loaders that read beside their data do";
            found.push(Diagnostic::warning("plugin::grant", message).at(place).why(why).help("remove the grant"));
        } else if !loaded.resolve(directory).is_dir() {
            let message = format!("there is no directory `{directory}` to grant to `{}`", pin.name);
            found.push(Diagnostic::error("plugin::grant", message).at(place).plugin(&pin.name));
        }
    }
    found
}

/// ` --plugins DIR` for each directory that these plugins came from, for commands in messages.
pub fn plugin_flags<'a>(plugins: impl IntoIterator<Item = &'a PluginInfo>) -> String {
    let directory = |plugin: &PluginInfo| match &plugin.source {
        Source::File(path) => Some(crate::commands::path(path.parent()?)),
        Source::Bundled => None,
    };
    let directories: BTreeSet<String> = plugins.into_iter().filter_map(directory).collect();
    directories.iter().map(|directory| format!(" --plugins {directory}")).collect()
}

/// A plugin's file, for messages.
pub fn shown_source(source: &Source) -> String {
    match source {
        Source::Bundled => "bundled".to_owned(),
        Source::File(path) => Path::display(path).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: &str = "\
base_model: tiny
learning_rate: 1e-3
datasets: [{path: a.jsonl, ds_type: jsonl, type: alpaca}]
row_filters: [curate]
rules: [practice]
lr_scheduler: wsd
eval_reward_funcs: [exact-match]
run_health: [loss-watch]
rl: grpo
micro_batch_size: 8
environment: 'acme:shop'
";

    /// Keys of a dataset that Axolotl has beside `type` go to the strategy where they were written.
    #[test]
    fn a_strategy_gets_the_keys_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("host.yml");
        let dataset = "{path: a, type: {name: preference, config: {format: chat_template}}, field_messages: turns, field_chosen: good, message_field_role: from}";
        std::fs::write(&path, format!("base_model: m\nlearning_rate: 1e-4\ndatasets: [{dataset}]\n")).unwrap();
        let loaded = crate::config::examine(&path, &[]).loaded.unwrap();
        let dataset = &loaded.config.datasets[0];
        assert!(dataset.has_conversations());
        let config: Value = serde_json::from_str(&strategy_config(&loaded, dataset, "datasets[0]")).unwrap();
        let mappings = serde_json::json!({"role": "from", "content": "content"});
        let wanted = serde_json::json!({
            "format": "chat_template", "field_messages": "turns", "field_chosen": "good", "message_property_mappings": mappings
        });
        assert_eq!(config, wanted);
    }

    #[test]
    fn every_kind_has_a_key_where_the_config_names_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("host.yml");
        std::fs::write(&path, ALL).unwrap();
        let loaded = crate::config::examine(&path, &[]).loaded.unwrap();
        let uses = uses(&loaded);
        for kind in Kind::ALL {
            let used = uses.iter().find(|used| used.kind == kind);
            let used = used.unwrap_or_else(|| panic!("`{}` of this config is no use of a plugin", kind.config_key()));
            assert_eq!(used.path.replace("[0]", "[]").trim_end_matches("[]"), kind.config_key());
        }
    }
}
