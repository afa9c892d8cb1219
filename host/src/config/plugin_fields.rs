//! The keys of the config that name plugins, wherever their job is named: by the name alone, or with a config and more.

use serde_json::{Map, Value};

use super::axolotl_values;
use super::choice::Choice;
use super::preference_types::{preference_shape, preference_strategy};
use super::read::{Context, Section, fill, found, unknown_word};
use super::recipe_fields;
use super::schema::Config;
use super::supervised_types::{Named, TOKENIZED, supervised_strategy};
use super::values::{
    EnvironmentRef, FilterRef, LrScheduler, OnError, PluginGrants, PluginLimits, PluginPin, PluginRef, RewardRef,
    RuleRef, RuleSeverity, Scheduler,
};
use crate::diagnostic::{Diagnostic, Severity};

/// Bundled schedule plugins: bare names that `lr_scheduler` takes beside its own words.
const SCHEDULES: [&str; 1] = ["wsd"];

/// `type`: a name, `{name, config}`, or Axolotl's inline shape of an instruction dataset; under an `rl` that learns from
/// preferences, Axolotl's names and shape of those.
pub(super) fn strategy(entry: &Section<'_>, method: Option<&str>) -> Option<PluginRef> {
    let cx = entry.cx;
    let path = entry.at("type");
    if entry.is_empty("type") {
        return Some(PluginRef::named(TOKENIZED));
    }
    let Some(value) = entry.value("type") else {
        cx.missing(
            &path,
            "say how a row becomes a prompt: `type: alpaca` or `type: chat_template`; rows that are tokens already have a `type:` with nothing behind it",
        );
        return None;
    };
    if value.as_object().is_none_or(|shape| shape.contains_key("name") || shape.is_empty()) {
        let Some((plugin, mut config)) = value.as_str().and_then(|name| named(cx, &path, name, method)) else {
            let plugin = plugin_ref(cx, &path, value)?;
            if plugin.name == TOKENIZED && !plugin.config.is_empty() {
                cx.report(cx.error("bad-value", &path, format!("`{TOKENIZED}` has no config")));
            }
            return Some(plugin);
        };
        // What the dataset says beside `type` goes over what the name stands for.
        config.retain(|key, _| !entry.has(key));
        return Some(PluginRef { name: plugin.to_owned(), config });
    }
    let shape = Section::of(cx, path, value, &[])?;
    if let Some((plugin, mut config, keys)) = method.and_then(preference_shape) {
        for &key in keys {
            if let Some(text) = shape.read::<String>(key) {
                config.insert(key.to_owned(), Value::String(text));
            }
        }
        shape.finish(|key| (key == "config").then_some("beside a `name` of the plugin"));
        return Some(PluginRef { name: plugin.to_owned(), config });
    }
    let mut strategy = PluginRef::named("alpaca");
    for key in [
        "system_prompt",
        "system_format",
        "field_system",
        "field_instruction",
        "field_input",
        "field_output",
        "format",
        "no_input_format",
    ] {
        if let Some(text) = shape.read::<String>(key) {
            strategy.config.insert(key.to_owned(), Value::String(text));
        }
    }
    shape.finish(|key| (key == "config").then_some("beside a `name` of the plugin"));
    // Axolotl's defaults of this shape, which are not those of `type: alpaca`.
    let default = |strategy: &mut PluginRef, key: &str, text: &str| {
        strategy.config.entry(key).or_insert_with(|| Value::String(text.to_owned()));
    };
    default(&mut strategy, "format", "{instruction} {input} ");
    default(&mut strategy, "no_input_format", "{instruction} ");
    Some(strategy)
}

/// A name of Axolotl's as a plugin with its config.
fn named(cx: &Context<'_>, path: &str, name: &str, method: Option<&str>) -> Option<(&'static str, Map<String, Value>)> {
    if let Some(preference) = method.and_then(|method| preference_strategy(method, name)) {
        return Some(preference);
    }
    let Named { plugin, config, note } = supervised_strategy(name)?;
    if let Some(note) = note {
        let message = format!("`type: {name}` is `type: {plugin}` here");
        cx.report(Diagnostic { severity: Severity::Note, ..cx.error("read-as", path, message) }.why(note));
    }
    Some((plugin, config))
}

pub(super) fn plugin_refs(section: &Section<'_>, key: &'static str) -> Option<Vec<PluginRef>> {
    entries(section, key, plugin_ref)
}

/// A list; a single value counts as a list of one.
fn entries<T>(
    section: &Section<'_>,
    key: &'static str,
    read: impl Fn(&Context<'_>, &str, &Value) -> Option<T>,
) -> Option<Vec<T>> {
    let value = section.value(key)?;
    let path = section.at(key);
    let Value::Array(list) = value else { return read(section.cx, &path, value).map(|entry| vec![entry]) };
    let read =
        list.iter().enumerate().filter_map(|(index, entry)| read(section.cx, &format!("{path}[{index}]"), entry));
    Some(read.collect())
}

/// `exact-match` or `{name: code-tests, config: {…}, on_error: zero}`.
pub(super) fn rewards(section: &Section<'_>, key: &'static str) -> Option<Vec<RewardRef>> {
    entries(section, key, |cx, path, value| {
        if !value.is_object() {
            return plugin_ref(cx, path, value).map(|plugin| RewardRef { plugin, on_error: OnError::Fail });
        }
        let section = Section::of(cx, path, value, &[])?;
        let name = name_of(&section);
        let (config, on_error) = (config_of(&section), section.choice("on_error").unwrap_or(OnError::Fail));
        section.finish(|_| None);
        Some(RewardRef { plugin: PluginRef { name: name?, config }, on_error })
    })
}

/// `acme:shop` or `{name: acme:shop, config: {…}, max_turns: 4, weight: 0.5, on_error: zero}`.
pub(super) fn environment(top: &Section<'_>) -> Option<EnvironmentRef> {
    const KEY: &str = "environment";
    let (cx, value) = (top.cx, top.value(KEY)?);
    if !value.is_object() {
        return plugin_ref(cx, KEY, value).map(EnvironmentRef::of);
    }
    let section = Section::of(cx, KEY, value, &[])?;
    let name = name_of(&section);
    let mut environment =
        EnvironmentRef::of(PluginRef { name: name.clone().unwrap_or_default(), config: config_of(&section) });
    fill(&mut environment.max_turns, section.checked("max_turns", "1 or more", |n: u32| n > 0));
    fill(&mut environment.weight, section.checked("weight", "a finite number", f64::is_finite));
    fill(&mut environment.on_error, section.choice("on_error"));
    section.finish(|_| None);
    name.map(|_| environment)
}

/// `curate` or `{name: curate, config: {…}, min_score: 0.5}`.
pub(super) fn filters(section: &Section<'_>, key: &'static str) -> Option<Vec<FilterRef>> {
    entries(section, key, |cx, path, value| {
        if !value.is_object() {
            let PluginRef { name, config } = plugin_ref(cx, path, value)?;
            return Some(FilterRef { name, config, min_score: None });
        }
        let section = Section::of(cx, path, value, &[])?;
        let name = name_of(&section);
        let (config, min_score) = (config_of(&section), section.read("min_score"));
        section.finish(|_| None);
        Some(FilterRef { name: name?, config, min_score })
    })
}

/// `lr_scheduler`: a word of the trainer's own, or a schedule plugin.
pub(super) fn scheduler(top: &Section<'_>) -> Option<Scheduler> {
    const KEY: &str = "lr_scheduler";
    let (cx, value) = (top.cx, top.value(KEY)?);
    let Value::String(word) = value else {
        let plugin = plugin_ref(cx, KEY, value)?;
        if LrScheduler::parse(&plugin.name).is_some() {
            let message = format!("`{}` is not a plugin and takes no config", plugin.name);
            cx.report(
                cx.error("unknown-value", "lr_scheduler.name", message).help(format!("write `{KEY}: {}`", plugin.name)),
            );
            return None;
        }
        return Some(Scheduler::Plugin(plugin));
    };
    if let Some(own) = LrScheduler::parse(word) {
        return Some(Scheduler::BuiltIn(own));
    }
    if word.contains(':') || SCHEDULES.contains(&word.as_str()) {
        return plugin_name(cx, KEY, word).then(|| Scheduler::Plugin(PluginRef::named(word)));
    }
    unknown_word(cx, KEY, word, LrScheduler::ALL.iter().map(|(word, _)| *word).chain(SCHEDULES));
    None
}

/// `alpaca` or `{name: acme:dialogue, config: {…}}`.
pub(super) fn plugin_ref(cx: &Context<'_>, path: &str, value: &Value) -> Option<PluginRef> {
    if let Value::String(name) = value {
        return plugin_name(cx, path, name).then(|| PluginRef::named(name));
    }
    if !value.is_object() {
        let message =
            format!("`{path}` must be the name of a plugin or `{{name: …, config: …}}`, found {}", found(value));
        cx.report(cx.error("wrong-type", path, message));
        return None;
    }
    let section = Section::of(cx, path, value, &[])?;
    let name = name_of(&section);
    let config = config_of(&section);
    section.finish(|_| None);
    Some(PluginRef { name: name?, config })
}

fn name_of(section: &Section<'_>) -> Option<String> {
    if section.value("name").is_none() {
        section.cx.missing(&section.at("name"), "name the plugin: `name: acme:dialogue`");
    }
    let name: String = section.read("name")?;
    plugin_name(section.cx, &section.at("name"), &name).then_some(name)
}

fn config_of(section: &Section<'_>) -> Map<String, Value> {
    match section.value("config") {
        None => Map::new(),
        Some(Value::Object(map)) => map.clone(),
        Some(other) => {
            let path = section.at("config");
            section.cx.report(section.cx.error(
                "wrong-type",
                &path,
                format!("`{path}` must be a mapping, found {}", found(other)),
            ));
            Map::new()
        }
    }
}

fn plugin_name(cx: &Context<'_>, path: &str, name: &str) -> bool {
    let part = |part: &str| {
        !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
    };
    if name.split(':').count() <= 2 && name.split(':').all(part) {
        return true;
    }
    let diagnostic = cx.error("bad-plugin-name", path, format!("`{name}` is not the name of a plugin"));
    let help = axolotl_values::strategy_advice(name)
        .unwrap_or_else(|| "bundled plugins have bare names (`alpaca`), others `namespace:name`".to_owned());
    cx.report(diagnostic.help(help));
    false
}

pub(super) fn rules_and_plugins(top: &Section<'_>, config: &mut Config) {
    let cx = top.cx;
    let list = |key: &'static str| {
        top.value(key).map_or(&[][..], |value| value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice))
    };
    for (index, value) in list("rules").iter().enumerate() {
        let path = format!("rules[{index}]");
        if let Value::String(name) = value {
            if plugin_name(cx, &path, name) {
                config.rules.push(RuleRef {
                    name: name.clone(),
                    config: Map::new(),
                    severity: std::collections::BTreeMap::new(),
                });
            }
            continue;
        }
        let Some(section) = Section::of(cx, path, value, &[]) else { continue };
        let name = name_of(&section);
        let own = config_of(&section);
        let mut severity = std::collections::BTreeMap::new();
        let severity_path = section.at("severity");
        if let Some(ids) = section.read::<std::collections::BTreeMap<String, String>>("severity") {
            for (id, word) in ids {
                match RuleSeverity::parse(&word) {
                    Some(level) => {
                        let path = super::positions::join(&severity_path, &id);
                        if recipe_fields::may_judge(cx, &path, level) {
                            severity.insert(id, level);
                        }
                    }
                    None => {
                        let path = super::positions::join(&severity_path, &id);
                        unknown_word(cx, &path, &word, RuleSeverity::ALL.iter().map(|(word, _)| *word));
                    }
                }
            }
        }
        section.finish(|_| None);
        config.rules.extend(name.map(|name| RuleRef { name, config: own, severity }));
    }
    for (index, value) in list("plugins").iter().enumerate() {
        let path = format!("plugins[{index}]");
        if let Value::String(name) = value {
            if name.starts_with("axolotl.") {
                cx.report(axolotl_plugin(cx, &path, name));
                continue;
            }
            let diagnostic =
                cx.error("wrong-type", &path, format!("`{path}` must be a mapping, found {}", found(value)));
            cx.report(diagnostic.help(format!(
                "a plugin is used where its job is named (`datasets[].type`, `rules` …); here it gets pins and limits: `{{name: {name}, version: \"0.1\"}}`"
            )));
            continue;
        }
        let Some(section) = Section::of(cx, path, value, &[]) else { continue };
        let pin = plugin_pin(&section);
        section.finish(|_| None);
        config.plugins.extend(pin);
    }
}

/// Axolotl's own plugins are Python classes; a few do what is always so here.
fn axolotl_plugin(cx: &Context<'_>, path: &str, class: &str) -> Diagnostic {
    let part = class.strip_prefix("axolotl.integrations.").and_then(|rest| rest.split('.').next()).unwrap_or_default();
    if matches!(part, "cut_cross_entropy" | "liger" | "kernels") {
        let message = format!("Axolotl's `{class}` has no effect here");
        return Diagnostic { severity: Severity::Note, ..cx.error("no-effect", path, message) }
            .why("norms, adapters and the loss are fused here without asking");
    }
    if part == "swanlab" {
        let message = format!("Axolotl's `{class}` has no effect here");
        return Diagnostic { severity: Severity::Note, ..cx.error("no-effect", path, message) }
            .why("nothing is sent anywhere: metrics are in `OUTPUT_DIR/metrics.jsonl`, one JSON object a line");
    }
    cx.error("unsupported-value", path, format!("Axolotl's `{class}` is Python, which is never run here"))
        .help("delete the line; `host plugin list` shows the plugins that are here")
}

fn plugin_pin(section: &Section<'_>) -> Option<PluginPin> {
    let cx = section.cx;
    let name = name_of(section);
    let version = section.read("version");
    let sha256: Option<String> = section.read("sha256");
    if let Some(digest) = &sha256
        && (digest.len() != 64 || !digest.chars().all(|c| c.is_ascii_hexdigit()))
    {
        let path = section.at("sha256");
        let diagnostic = cx.error("out-of-range", &path, format!("`{path}` must be 64 hexadecimal digits"));
        cx.report(diagnostic.help("`host plugin inspect NAME` shows it"));
    }
    let mut limits = PluginLimits::default();
    if let Some(own) = section.value("limits").and_then(|value| Section::of(cx, section.at("limits"), value, &[])) {
        let mebibytes = |n: u64| (1..=4096).contains(&n);
        let milliseconds = |n: u64| (1..=3_600_000).contains(&n);
        limits.memory_mb = own.checked("memory_mb", "from 1 to 4096", mebibytes);
        limits.call_ms = own.checked("call_ms", "from 1 to 3600000", milliseconds);
        limits.result_mb = own.checked("result_mb", "from 1 to 4096", mebibytes);
        limits.rows_mb = own.checked("rows_mb", "from 1 to 16777216", |n: u64| (1..=1 << 24).contains(&n));
        limits.log_kb = own.checked("log_kb", "from 1 to 65536", |n: u64| (1..=65536).contains(&n));
        limits.file_mb = own.checked("file_mb", "from 1 to 256", |n: u64| (1..=256).contains(&n));
        limits.compile_ms = own.checked("compile_ms", "from 1 to 3600000", milliseconds);
        limits.compile_mb = own.checked("compile_mb", "from 64 to 65536", |n: u64| (64..=65536).contains(&n));
        recipe_fields::limits(&own, &mut limits);
        own.finish(|_| None);
    }
    let mut grants = PluginGrants::default();
    let plugin = name.as_deref().unwrap_or("NAME");
    if section.has("grants") && !recipe_fields::may_grant(section, plugin) {
        section.value("grants");
    } else if let Some(own) =
        section.value("grants").and_then(|value| Section::of(cx, section.at("grants"), value, &[]))
    {
        grants.read = own.read("read").unwrap_or_default();
        own.finish(|_| None);
    }
    Some(PluginPin { name: name?, version, sha256: sha256.map(|digest| digest.to_lowercase()), limits, grants })
}
