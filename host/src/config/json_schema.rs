//! The config's JSON Schema (draft 2020-12), for editors: types, choices, defaults and the words of the reference, all from
//! the typed config and its doc comments. What only a run can know (combinations, plugins' own configs, files) is the
//! business of `host check`.

use std::fmt::Write as _;

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::{Map, Value, json};

use super::adapter_fields::OFFLOADING;
use super::adapter_fields::{HEAD, LINEAR_MODULES};
use super::axolotl_keys::{DATASET, Lack, TOP, Table};
use super::defaults;
use super::fields::{ADAMW_IN_LESS, CHAT_TEMPLATES, FALLBACK, MODEL_TYPES};
use super::schema::Config;

/// Where the schema says that it comes from.
const TITLE: &str = "Config of `host`";
/// Keys that must be there: at the top, and in each dataset.
const REQUIRED: [&str; 3] = ["base_model", "datasets", "learning_rate"];
const DATASET_REQUIRED: [&str; 2] = ["path", "type"];

/// The whole schema.
pub fn schema() -> Value {
    let mut settings = SchemaSettings::draft2020_12();
    settings.inline_subschemas = true;
    let mut schema = settings.into_generator().into_root_schema_for::<Config>().to_value();
    tidy(&mut schema);
    let defaults = serde_json::to_value(defaults::config()).unwrap_or_default();
    let root = object(&mut schema);
    root.insert("title".to_owned(), TITLE.into());
    root.insert("required".to_owned(), json!(REQUIRED));
    let properties = object(root.entry("properties").or_insert_with(|| json!({})));
    for (key, property) in properties.iter_mut() {
        if documented_default(property).is_some_and(|words| defaults.get(&words).is_none()) {
            object(property).insert("default".to_owned(), defaults[key].clone());
        }
    }
    for list in ["datasets", "test_datasets"] {
        if let Some(entry) = properties.get_mut(list).and_then(|list| list.pointer_mut("/items")) {
            let entry = object(entry);
            entry.insert("required".to_owned(), json!(DATASET_REQUIRED));
            lacks(entry, DATASET);
        }
    }
    lacks(root, TOP);
    let mut whole = Map::new();
    whole.insert("$schema".to_owned(), root.remove("$schema").unwrap_or_default());
    whole.append(root);
    Value::Object(whole)
}

/// What marks a key whose value a run has from its first step to its last.
const FIXED: &str = "x-fixed";

/// Keys that a run which goes on from a checkpoint must have in common with the one that made it.
pub fn fixed_keys() -> Vec<String> {
    let schema = schema();
    let fixed = entries(&schema, "properties").filter(|(_, property)| property[FIXED] == true);
    fixed.map(|(key, _)| key.clone()).collect()
}

/// `datasets[].type`: a plugin, or Axolotl's inline shape.
pub(super) fn strategy(generator: &mut SchemaGenerator) -> Schema {
    let plugin = generator.subschema_for::<super::values::PluginRef>();
    let text = json!({ "type": "string" });
    let shape = json!({
        "type": "object",
        "description": "An instruction dataset by its columns.",
        "properties": {
            "system_prompt": text, "system_format": text, "field_system": text, "field_instruction": text,
            "field_input": text, "field_output": text, "format": text, "no_input_format": text,
        },
    });
    json_schema!({ "anyOf": [plugin, shape] })
}

pub(super) fn linear_modules(_: &mut SchemaGenerator) -> Schema {
    let pattern = format!("^(.*\\.)?({}|{HEAD})$", LINEAR_MODULES.join("|"));
    let name = json!({ "type": "string", "pattern": pattern });
    json_schema!({ "anyOf": [{ "type": "array", "items": name }, { "type": "string" }] })
}

pub(super) fn optimizer(generator: &mut SchemaGenerator) -> Schema {
    let own = generator.subschema_for::<super::values::Optimizer>();
    let others: Vec<&str> = ADAMW_IN_LESS.iter().map(|(name, _)| *name).collect();
    json_schema!({ "anyOf": [own, { "enum": others }] })
}

pub(super) fn pair_losses(_: &mut SchemaGenerator) -> Schema {
    let names = engine::objective::PairLoss::ALL.map(engine::objective::PairLoss::name);
    json_schema!({ "type": "array", "items": { "enum": names } })
}

pub(super) fn checkpointing(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "anyOf": [{ "type": "boolean" }, { "enum": OFFLOADING }] })
}

pub(super) fn chat_template(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "anyOf": [{ "enum": CHAT_TEMPLATES.as_slice() }, { "type": "string", "pattern": format!("^{FALLBACK}") }] })
}

pub(super) fn model_type(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "enum": MODEL_TYPES.as_slice() })
}

pub(super) fn max_steps(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "integer", "minimum": -1 })
}

/// Parts of a split, with `+` between them.
const SPLIT: &str = r"^[\w.]+(\[(-?[0-9_]+%?)?:(-?[0-9_]+%?)?\])?(\(\w+\))?(\s*\+\s*[\w.]+(\[(-?[0-9_]+%?)?:(-?[0-9_]+%?)?\])?(\(\w+\))?)*$";

pub(super) fn split(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "pattern": SPLIT })
}

/// A mapping, or `true` for its defaults and `false` for none.
pub(super) fn or_switch<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    let whole = generator.subschema_for::<T>();
    json_schema!({ "anyOf": [{ "type": "boolean" }, whole] })
}

/// A list of plugins, each by its name alone or with more beside it.
pub(super) fn plugins<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    let whole = generator.subschema_for::<T>();
    json_schema!({ "type": "array", "items": { "anyOf": [{ "type": "string" }, whole] } })
}

/// What serde's shape of the typed config does not say: every key may be left out or be null, no other key is known, and a
/// single value stands for a list of one.
fn tidy(schema: &mut Value) {
    match schema {
        Value::Object(map) => {
            map.values_mut().for_each(tidy);
            // Of numbers, in schemars' own words; a key of that name has a schema.
            if map.get("format").is_some_and(Value::is_string) {
                map.remove("format");
            }
            if let Some(Value::Object(properties)) = map.get_mut("properties") {
                let has_name = properties.contains_key("name");
                for property in properties.values_mut() {
                    *property = optional(std::mem::take(property));
                }
                map.remove("required");
                if has_name {
                    map.insert("required".to_owned(), json!(["name"]));
                }
                map.insert("additionalProperties".to_owned(), false.into());
            }
        }
        Value::Array(list) => list.iter_mut().for_each(tidy),
        _ => {}
    }
}

/// A property that may also be null; a list also its only entry.
fn optional(mut property: Value) -> Value {
    let map = object(&mut property);
    let of_property = ["description", FIXED].map(|key| Some((key.to_owned(), map.remove(key)?)));
    let item = (map.get("type") == Some(&json!("array"))).then(|| map.get("items").cloned()).flatten();
    // What a list of datasets holds is never written without the list.
    let item = item.filter(|item| item.pointer("/properties/path").is_none());
    let mut choices = match map.remove("anyOf") {
        Some(Value::Array(choices)) if map.is_empty() => choices,
        Some(choices) => {
            map.insert("anyOf".to_owned(), choices);
            vec![Value::Object(std::mem::take(map))]
        }
        None => vec![Value::Object(std::mem::take(map))],
    };
    choices.extend(item);
    let mut whole = Map::new();
    whole.extend(of_property.into_iter().flatten());
    match (choices.len(), choices.first_mut()) {
        (1, Some(Value::Object(only)))
            if only.get("type").is_some_and(Value::is_string) && !only.contains_key("enum") =>
        {
            let kind = only["type"].clone();
            only.insert("type".to_owned(), json!([kind, "null"]));
            whole.append(only);
        }
        (1, Some(Value::Object(only))) if only.get("type").is_some_and(Value::is_array) => whole.append(only),
        _ => {
            if !choices.contains(&json!({ "type": "null" })) {
                choices.push(json!({ "type": "null" }));
            }
            whole.insert("anyOf".to_owned(), Value::Array(choices));
        }
    }
    Value::Object(whole)
}

/// The value after `Default:` in the description, where it is one.
fn documented_default(property: &Value) -> Option<String> {
    let (_, rest) = property.get("description")?.as_str()?.split_once("Default: `")?;
    let (value, after) = rest.split_once('`')?;
    after.starts_with(['.', ';']).then(|| value.to_owned())
}

/// The keys that Axolotl has and we lack: known, so that an editor says why, and accepted where they ask for nothing.
fn lacks(schema: &mut Map<String, Value>, table: Table) {
    let nothing = json!([null, false, 0, "", [], {}]);
    let mut patterns = Map::new();
    for (names, lack) in table {
        let entry = match lack {
            Lack::NoEffect(why) => json!({ "deprecated": true, "description": format!("No effect: {why}.") }),
            Lack::Instead(what) => {
                json!({ "deprecated": true, "description": format!("Not here: {what}."), "enum": nothing })
            }
            Lack::Called(name) => {
                json!({ "deprecated": true, "description": format!("Called `{name}` here."), "enum": nothing })
            }
        };
        for name in *names {
            match name.strip_suffix('*') {
                Some(start) => patterns.insert(format!("^{start}"), entry.clone()),
                None => {
                    let properties = object(schema.entry("properties").or_insert_with(|| json!({})));
                    (!properties.contains_key(*name)).then(|| properties.insert((*name).to_owned(), entry.clone()));
                    None
                }
            };
        }
    }
    // A pattern must not catch a key of our own.
    let own: Vec<String> = object(schema.entry("properties").or_insert_with(|| json!({}))).keys().cloned().collect();
    let mut kept = Map::new();
    for (pattern, entry) in patterns {
        let start = pattern.trim_start_matches('^');
        let others: Vec<&str> = own.iter().filter_map(|key| key.strip_prefix(start)).collect();
        let pattern = if others.is_empty() { pattern } else { format!("^{start}(?!({})$)", others.join("|")) };
        kept.insert(pattern, entry);
    }
    if !kept.is_empty() {
        schema.insert("patternProperties".to_owned(), Value::Object(kept));
    }
}

/// The reference page: every key with its values and its words, in the order of the config.
pub fn markdown() -> String {
    let schema = schema();
    let mut page = String::from(
        "# Config reference\n\nWritten by `host schema --markdown`; the words are those of the typed config. Names and meanings are Axolotl's; the few\n\
         keys of our own say so. A key that is left out or null has its default. `host schema` is the same for editors.\n",
    );
    let mut lack = String::new();
    for (title, at) in [("Keys", ""), ("Entries of `datasets` and `test_datasets`", "/properties/datasets/items")] {
        let Some(part) = schema.pointer(at) else { continue };
        let _ = write!(page, "\n## {title}\n\n| key | values | |\n|---|---|---|\n");
        let _ = write!(lack, "\n### {title}\n\n| key | |\n|---|---|\n");
        let required: Vec<&str> = part["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        for (key, property) in entries(part, "properties") {
            let mut words = property["description"].as_str().unwrap_or_default().replace('\n', " ").replace('|', "\\|");
            if property[FIXED] == true {
                words.push_str(" A run that goes on keeps it.");
            }
            if property["deprecated"] == true {
                let _ = writeln!(lack, "| `{key}` | {words} |");
                continue;
            }
            let bold = if required.contains(&key.as_str()) { "**" } else { "" };
            let _ = writeln!(page, "| {bold}`{key}`{bold} | {} | {words} |", values(property));
        }
        for (pattern, property) in entries(part, "patternProperties") {
            let words = property["description"].as_str().unwrap_or_default();
            let start = pattern.trim_start_matches('^').split('(').next().unwrap_or_default();
            let _ = writeln!(lack, "| `{start}*` | {words} |");
        }
    }
    let _ = write!(
        page,
        "\n## What Axolotl has and `host` does not\n\nA key without effect is accepted with a note. Any other is an error that says what to do instead, unless it asks for\n\
         nothing (`false`, `0`, empty).\n{lack}"
    );
    page
}

fn entries<'a>(schema: &'a Value, key: &str) -> impl Iterator<Item = (&'a String, &'a Value)> {
    schema.get(key).and_then(Value::as_object).into_iter().flatten()
}

/// What may be written, in a few words.
fn values(property: &Value) -> String {
    let mut words = Vec::new();
    collect(property, &mut words);
    let mut known = std::collections::BTreeSet::new();
    words.retain(|word| known.insert(word.clone()));
    words.join(", ")
}

fn collect(schema: &Value, words: &mut Vec<String>) {
    let word = |value: &Value| match value {
        Value::String(text) => format!("`{text}`"),
        other => format!("`{other}`"),
    };
    for key in ["anyOf", "oneOf"] {
        schema[key].as_array().into_iter().flatten().for_each(|choice| collect(choice, words));
    }
    words.extend(schema["enum"].as_array().into_iter().flatten().filter(|value| !value.is_null()).map(word));
    words.extend(schema.get("const").map(word));
    if schema.get("enum").is_some() {
        return;
    }
    let kinds = match &schema["type"] {
        Value::Array(kinds) => kinds.clone(),
        Value::Null => Vec::new(),
        kind => vec![kind.clone()],
    };
    for kind in kinds {
        let word = match kind.as_str().unwrap_or_default() {
            "string" if schema.get("const").is_none() => "text",
            "boolean" => "`true`, `false`",
            "integer" => "whole number",
            "number" => "number",
            "array" => "list",
            "object" => "mapping",
            _ => continue,
        };
        words.push(word.to_owned());
    }
}

fn object(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = json!({});
    }
    value.as_object_mut().expect("it was made one")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn validator() -> jsonschema::Validator {
        jsonschema::draft202012::new(&schema()).unwrap()
    }

    fn yaml(text: &str) -> Value {
        serde_yaml::from_str(text).unwrap()
    }

    #[test]
    fn our_configs_are_valid() {
        let validator = validator();
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs");
        let folders = [root.clone(), root.join("quickstart")];
        let files =
            folders.iter().flat_map(|folder| std::fs::read_dir(folder).unwrap()).map(|entry| entry.unwrap().path());
        let mut count = 0;
        for file in files.filter(|file| file.extension().is_some_and(|extension| extension == "yml")) {
            let config = yaml(&std::fs::read_to_string(&file).unwrap());
            let errors: Vec<String> =
                validator.iter_errors(&config).map(|error| format!("{}: {error}", error.instance_path())).collect();
            assert!(errors.is_empty(), "{}: {errors:?}", file.display());
            count += 1;
        }
        assert!(count >= 5, "{count}");
    }

    const LEAST: &str = "base_model: m\nlearning_rate: 1e-4\ndatasets: [{path: a, type: alpaca}]\n";

    #[test]
    fn every_way_of_writing_is_valid() {
        let validator = validator();
        for more in [
            "",
            "lora_r: null\nadapter:\n",
            "lora_target_modules: all-linear",
            "lora_target_modules: q_proj",
            "lora_target_modules: [q_proj, v_proj]",
            "val_set_size: 0.05",
            "val_set_size: 200",
            "bf16: auto",
            "lr_scheduler: {name: wsd, config: {num_decay_steps: 20}}",
            "lr_scheduler: acme:steps",
            "row_filters: curate",
            "row_filters: [curate, {name: curate, min_score: 0.5}]",
            "eval_reward_funcs: {name: code-tests, on_error: zero}",
            "rules: [acme:house, {name: axolotl-compat, severity: {D16: off}}]",
            "plugins: [{name: a:b, limits: {call_ms: 3}, grants: {read: [x]}}]",
            "test_datasets: [{path: a, ds_type: {name: a:b, config: {x: 1}}, type: {field_output: o, format: '{instruction}'}}]",
            "test_datasets: [{path: a, type: alpaca, split: 'train[:10%] + train[-1_000:]', shards: 3}]",
            "flash_attention: true\nload_in_4bit: false\nwandb_project:\n",
            "liger_rope: true",
            "peft_use_rslora: true\npeft_use_dora: true",
            "lora_rank_pattern: {q_proj: 2, 'mlp\\..*': 3}\nlora_alpha_pattern: {q_proj: 1.5}",
            "adapter: qlora\nload_in_4bit: true\nbnb_config_kwargs: {bnb_4bit_use_double_quant: false}",
        ] {
            let config = yaml(&format!("{LEAST}{more}"));
            let errors: Vec<String> =
                validator.iter_errors(&config).map(|error| format!("{}: {error}", error.instance_path())).collect();
            assert!(errors.is_empty(), "{more}: {errors:?}");
        }
    }

    #[test]
    fn mistakes_are_found() {
        let validator = validator();
        for wrong in [
            "lerning_rate: 1",
            "micro_batch_size: many",
            "lora_target_modules: [q]",
            "lora_rank_pattern: {q_proj: many}",
            "lr_scheduler: {config: {}}",
            "save_strategy: worst",
            "gptq: true",
            "peft_use_qalora: true",
            "test_datasets: [{path: a}]",
            "test_datasets: [{path: a, type: alpaca, feild: b}]",
            "test_datasets: [{path: a, type: alpaca, split: 'train[1%]'}]",
            "eval_reward_funcs: [{name: a, on_eror: zero}]",
            "plugins: [{limits: {}}]",
        ] {
            assert!(!validator.is_valid(&yaml(&format!("{LEAST}{wrong}"))), "{wrong}");
        }
        for key in REQUIRED {
            let lines: String =
                LEAST.lines().filter(|line| !line.starts_with(key)).map(|line| format!("{line}\n")).collect();
            assert!(!validator.is_valid(&yaml(&lines)), "{key}");
        }
    }

    #[test]
    fn what_a_resumed_run_keeps_is_known() {
        let keys = fixed_keys();
        for key in ["base_model", "lora_r", "seed", "lr_scheduler", "sequence_len", "lora_target_modules", "tokens"] {
            assert!(keys.iter().any(|fixed| fixed == key), "{key}");
        }
        // As many as are marked: none of them is lost on the way.
        let marks = |text: &str| text.matches(r#"extend("x-fixed" = true)"#).count();
        assert_eq!(keys.len(), marks(include_str!("schema.rs")) + marks(include_str!("techniques.rs")));
        for key in ["max_steps", "save_steps", "output_dir", "learning_rate"] {
            assert!(!keys.iter().any(|fixed| fixed == key), "{key}");
        }
    }

    #[test]
    fn the_words_name_the_real_defaults() {
        let schema = schema();
        let defaults = serde_json::to_value(defaults::config()).unwrap();
        let mut count = 0;
        for (key, property) in entries(&schema, "properties") {
            // Of another key: `Default: `base_model`.`
            let Some(words) = documented_default(property).filter(|words| defaults.get(words).is_none()) else {
                continue;
            };
            assert_eq!(
                yaml(&words).as_f64().map_or_else(|| yaml(&words), Value::from),
                match &defaults[key] {
                    Value::Number(number) => number.as_f64().into(),
                    other => other.clone(),
                },
                "{key}"
            );
            count += 1;
        }
        assert!(count > 30, "{count}");
    }

    #[test]
    fn the_reference_page_is_this_one() {
        let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/config.md");
        let text = std::fs::read_to_string(page).unwrap_or_default();
        assert!(text == markdown(), "docs/config.md is of another version: `host schema --markdown > docs/config.md`");
    }
}
