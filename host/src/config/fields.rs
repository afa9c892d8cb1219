//! The config's keys, one after another: read, checked against their range, put into the typed [`Config`].
//!
//! What concerns one key, or keys that have no meaning without each other, is checked here. Combinations that are
//! possible but unwise are the business of the rule plugins.

use std::collections::BTreeMap;

use engine::architecture::COMPOSITE_ARCHITECTURES;
use serde_json::{Map, Value};

use super::adapter_fields::{quantized_together, trained};
use super::axolotl_keys::DATASET;
use super::axolotl_values::ds_type_advice;
use super::curation_fields::{curation, scores_of_rows_together};
use super::defaults;
use super::ds_type;
use super::files::is_template_file;
use super::plugin_fields::{
    environment, filters, plugin_ref, plugin_refs, rewards, rules_and_plugins, scheduler, strategy,
};
use super::positions::join;
use super::preference_fields::{preferences, preferences_together};
use super::read::{Context, Section, fill, found, out_of_range, unknown_word};
use super::recipe_fields::recipe;
use super::schema::{Config, DatasetConfig};
use super::score_fields::{SCORING_TYPES, scores, scores_together};
use super::split::Split;
use super::stream_fields;
use super::technique_fields::{techniques, techniques_together};
use super::trl_fields::{trl, trl_together};
use super::values::{Amount, AutoBool, PluginRef, TrainOnEos};
use crate::capabilities::ARCHITECTURES;
use crate::diagnostic::{Diagnostic, Edit, Severity};

/// Chat templates by name.
pub(super) const CHAT_TEMPLATES: [&str; 38] = [
    "tokenizer_default",
    "chatml",
    "llama3",
    "alpaca",
    "gemma",
    "gemma3",
    "phi_3",
    "phi_35",
    "qwen_25",
    "qwen3",
    "aya",
    "cohere",
    "command_a",
    "command_a_rag",
    "command_a_tool_use",
    "deepseek_v2",
    "deepseek_v3",
    "exaone",
    "exaone4",
    "falcon_h1",
    "gemma3n",
    "gemma4",
    "gemma4_unified",
    "jamba",
    "llama3_2_vision",
    "llama4",
    "llava",
    "metharme",
    "mistral_v1",
    "mistral_v2v3",
    "mistral_v3_tekken",
    "mistral_v7_tekken",
    "nemotron_h",
    "phi_4",
    "pixtral",
    "qwen2_vl",
    "qwen3_5",
    "jinja",
];
/// In front of the name of a template for models without one of their own.
pub(super) const FALLBACK: &str = "tokenizer_default_fallback_";
/// Architectures by the names of transformers.
pub(super) const MODEL_TYPES: [&str; ARCHITECTURES.len() + COMPOSITE_ARCHITECTURES.len() + 3] = {
    let mut types = ["AutoModelForCausalLM"; ARCHITECTURES.len() + COMPOSITE_ARCHITECTURES.len() + 3];
    (types[types.len() - 1], types[types.len() - 2]) = (SCORING_TYPES[1], SCORING_TYPES[0]);
    let mut index = 0;
    while index < types.len() - 3 {
        let of_parts = index >= ARCHITECTURES.len();
        types[index] =
            if of_parts { COMPOSITE_ARCHITECTURES[index - ARCHITECTURES.len()] } else { ARCHITECTURES[index] };
        index += 1;
    }
    types
};
/// AdamW by the names of implementations with a smaller or paged state, and the bits of theirs.
pub(super) const ADAMW_IN_LESS: [(&str, u32); 7] = [
    ("adamw_bnb_8bit", 8),
    ("adamw_8bit", 8),
    ("adamw_torch_8bit", 8),
    ("paged_adamw_8bit", 8),
    ("adamw_torch_4bit", 4),
    ("paged_adamw_32bit", 32),
    ("paged_adamw", 32),
];
/// Tokens that a config may add, and give other texts.
const TOKENS: usize = 10_000;
/// Bytes of a token that a config adds.
const TOKEN_BYTES: usize = 1024;
/// Keys of an entry of `datasets`, to recognize one that lost its indentation.
const DATASET_KEYS: [&str; 8] = [
    "path",
    "type",
    "ds_type",
    "split",
    "field_messages",
    "roles_to_train",
    "message_property_mappings",
    "train_on_eos",
];

/// Reads the whole config. Problems are in `cx`; what is wrong keeps its default.
pub(super) fn read(cx: &Context<'_>, root: &Map<String, Value>) -> Config {
    let mut config = defaults::config();
    let top = Section::top(cx, root);
    recipe(&top, &mut config);
    model(&top, &mut config);
    data(&top, &mut config);
    curation(&top, &mut config);
    chat(&top, &mut config);
    trained(&top, &mut config);
    preferences(&top, &mut config);
    scores(&top, &mut config);
    config.environment = environment(&top);
    trl(&top, &mut config);
    batches(&top, &mut config);
    optimizer(&top, &mut config);
    techniques(&top, &mut config);
    cadence(&top, &mut config);
    fill(&mut config.eval_reward_funcs, rewards(&top, "eval_reward_funcs"));
    fill(&mut config.eval_max_new_tokens, top.checked("eval_max_new_tokens", "1 or more", |n: u32| n > 0));
    config.num_generation_samples = top.checked("num_generation_samples", "1 or more", |n: u64| n > 0);
    config.loss_watchdog_threshold = top.read("loss_watchdog_threshold");
    config.loss_watchdog_patience = top.checked("loss_watchdog_patience", "1 or more", |n: u64| n > 0);
    fill(&mut config.run_health, plugin_refs(&top, "run_health"));
    rules_and_plugins(&top, &mut config);
    top.finish(|key| DATASET_KEYS.contains(&key).then_some("into an entry of `datasets`"));
    let is_given = |key: &str| root.get(key).is_some_and(|value| !value.is_null());
    defaults::derive(cx, &mut config, is_given);
    together(cx, &config, is_given);
    config
}

fn model(top: &Section<'_>, config: &mut Config) {
    let cx = top.cx;
    if top.value("base_model").is_none() {
        cx.missing("base_model", "name the model's directory: `base_model: path/to/model`");
    }
    fill(&mut config.base_model, top.file_path("base_model"));
    config.revision_of_model = top.read("revision_of_model");
    fill(&mut config.base_model_config, top.file_path("base_model_config"));
    match top.value("model_config") {
        Some(Value::Object(values)) => config.model_config.clone_from(values),
        Some(other) => cx.wrong_type("model_config", "a mapping of keys of `config.json`", other),
        None => {}
    }
    fill(&mut config.tokenizer_config, top.file_path("tokenizer_config"));
    config.model_type = word_of(top, "model_type", &MODEL_TYPES);
    config.tokenizer_type = top.read("tokenizer_type");
    if config.tokenizer_type.as_ref().is_some_and(|name| !name.contains("Tokenizer")) {
        let message = "`tokenizer_type` is the name of a tokenizer class of transformers";
        cx.report(
            cx.error("unknown-value", "tokenizer_type", message).help("write `AutoTokenizer`, or delete the line"),
        );
    }
    fill(&mut config.reinit_weights, top.read("reinit_weights"));
    fill(&mut config.resize_token_embeddings_to_32x, top.read("resize_token_embeddings_to_32x"));
    fill(&mut config.mean_resizing_embeddings, top.read("mean_resizing_embeddings"));
    new_tokens(top, config);
    if let Some(tokens) = top.value("special_tokens").and_then(|value| Section::of(cx, "special_tokens", value, &[])) {
        config.special_tokens.bos_token = tokens.read("bos_token");
        config.special_tokens.eos_token = tokens.read("eos_token");
        config.special_tokens.pad_token = tokens.read("pad_token");
        config.special_tokens.unk_token = tokens.read("unk_token");
        tokens.finish(|_| None);
    }
    fill(&mut config.device, top.read("device"));
    fill(&mut config.bf16, top.read("bf16"));
    fill(&mut config.fp16, top.read("fp16"));
    fill(&mut config.tf32, top.read("tf32"));
    fill(&mut config.float32, top.read("float32"));
    precision(cx, config);
}

/// What no device of this program has.
fn precision(cx: &Context<'_>, config: &Config) {
    const WHY: &str = "training computes in bfloat16 or in float32, and float32 in full";
    if config.bf16 == AutoBool::Is(true) && config.float32 {
        let message = "`bf16: true` and `float32: true` exclude each other";
        cx.report(cx.error("conflict", "float32", message).help("delete one of them"));
    }
    if config.tf32 == AutoBool::Is(true) {
        let note =
            Diagnostic { severity: Severity::Note, ..cx.error("no-effect", "tf32", "`tf32` has no effect here") };
        cx.report(note.why(WHY));
    }
    if config.fp16 {
        let message = "`fp16` has no effect here: bfloat16 takes its place where the device has it, else float32";
        let warning = Diagnostic { severity: Severity::Warning, ..cx.error("no-effect", "fp16", message) };
        let why =
            "bfloat16 is as fast and needs no scaling of the loss; the result is not that of float16 to the last digit";
        cx.report(warning.why(why).help("write `bf16: auto` instead"));
    }
}

fn data(top: &Section<'_>, config: &mut Config) {
    let cx = top.cx;
    fill(&mut config.datasets, datasets(top, "datasets"));
    let pretraining = pretraining(top);
    if let Some(pretraining) = pretraining {
        config.datasets.extend(pretraining);
    } else if top.value("datasets").is_none_or(|value| matches!(value, Value::Array(list) if list.is_empty())) {
        cx.missing("datasets", "name what to train on: `datasets: [{path: data/train.jsonl, type: alpaca}]`");
    }
    fill(&mut config.row_filters, filters(top, "row_filters"));
    stream_fields::read(top, config);
    fill(&mut config.test_datasets, datasets(top, "test_datasets"));
    fill(&mut config.val_set_size, top.read("val_set_size"));
    fill(
        &mut config.sequence_len,
        top.checked("sequence_len", "from 2 to 1048576", |n: u32| (2..=1 << 20).contains(&n)),
    );
    fill(&mut config.excess_length_strategy, top.choice("excess_length_strategy"));
    fill(&mut config.sample_packing, top.read("sample_packing"));
    fill(&mut config.eval_sample_packing, top.read("eval_sample_packing"));
    fill(&mut config.train_on_inputs, top.read("train_on_inputs"));
    fill(&mut config.shuffle_merged_datasets, top.read("shuffle_merged_datasets"));
}

/// `pretraining_dataset`, Axolotl's way to stream plain texts: entries of `datasets` with `type: completion`.
fn pretraining(top: &Section<'_>) -> Option<Vec<DatasetConfig>> {
    const KEY: &str = "pretraining_dataset";
    let (cx, value) = (top.cx, top.value(KEY)?);
    if top.value("datasets").is_some() {
        let diagnostic = cx.error("conflict", KEY, format!("`{KEY}` and `datasets` are both set"));
        cx.report(diagnostic.help("name all files under `datasets`; `type: completion` is for plain texts"));
        return Some(Vec::new());
    }
    let note = cx.error("read-as", KEY, format!("`{KEY}` is read as `datasets` with `type: completion`"));
    cx.report(Diagnostic { severity: Severity::Note, ..note }.why("data is read as a whole; nothing is streamed"));
    let texts = |file: String, field: Option<String>, data_files: Vec<String>| {
        let mut strategy = PluginRef::named("completion");
        strategy.config.extend(field.map(|field| ("field".to_owned(), field.into())));
        let ds_type = ds_type::of_names(&file, &data_files);
        DatasetConfig { ds_type, data_files, ..defaults::dataset(file, strategy) }
    };
    if value.is_string() {
        return Some(top.file_path(KEY).map(|file| texts(file, None, Vec::new())).into_iter().collect());
    }
    let list = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
    let entry = |(index, value)| {
        let path = if top.value(KEY)?.is_array() { format!("{KEY}[{index}]") } else { KEY.to_owned() };
        let entry = Section::of(cx, path, value, DATASET)?;
        if entry.value("path").is_none() {
            cx.missing(&entry.at("path"), "name the file: `path: data/train.jsonl`");
        }
        let words = ["pretrain", "completion"];
        if let Some(word) = entry.read::<String>("type").filter(|word| !words.contains(&word.as_str())) {
            unknown_word(cx, &entry.at("type"), &word, words.iter().copied());
        }
        if entry.read::<u64>("skip").is_some_and(|rows| rows > 0) {
            let message = "rows cannot be passed over";
            cx.report(cx.error("unsupported-value", &entry.at("skip"), message).help("cut them off the file"));
        }
        let (file, field) = (entry.file_path("path"), entry.read("text_column"));
        let data_files = entry.read("data_files").unwrap_or_default();
        let (name, revision, split) = (entry.read("name"), entry.read("revision"), split(&entry).unwrap_or_default());
        entry.finish(|_| None);
        file.map(|file| DatasetConfig { name, revision, split, ..texts(file, field, data_files) })
    };
    Some(list.iter().enumerate().filter_map(entry).collect())
}

fn datasets(top: &Section<'_>, key: &'static str) -> Option<Vec<DatasetConfig>> {
    let value = top.value(key)?;
    let Value::Array(list) = value else {
        let message = format!("`{key}` must be a list, found {}", found(value));
        let help = "write each dataset as an entry of a list: `  - path: data/train.jsonl`";
        top.cx.report(top.cx.error("wrong-type", key, message).help(help));
        return None;
    };
    let scores = top.value("reward_model") == Some(&Value::Bool(true));
    let method = if scores { Some("reward_model") } else { top.value("rl").and_then(Value::as_str) };
    let entry = |(index, value)| dataset(top.cx, format!("{key}[{index}]"), value, method);
    let entries = list.iter().enumerate().filter_map(entry);
    Some(entries.collect())
}

/// Which rows are meant.
fn split(entry: &Section<'_>) -> Option<Split> {
    let text: String = entry.read("split")?;
    let (cx, path) = (entry.cx, entry.at("split"));
    let parsed = text.parse::<Split>().map_err(|message| cx.report(cx.error("unknown-value", &path, message)));
    parsed.ok()
}

fn dataset(cx: &Context<'_>, path: String, value: &Value, method: Option<&str>) -> Option<DatasetConfig> {
    let entry = Section::of(cx, path, value, DATASET)?;
    let file = entry.file_path("path");
    if entry.value("path").is_none() {
        cx.missing(&entry.at("path"), "name the file: `path: data/train.jsonl`");
    }
    let strategy = strategy(&entry, method);
    let mut dataset = defaults::dataset(file.unwrap_or_default(), strategy.unwrap_or_else(|| PluginRef::named("")));
    fill(&mut dataset.data_files, entry.read("data_files"));
    dataset.name = entry.read("name");
    dataset.revision = entry.read("revision");
    match entry.value("ds_type") {
        Some(value) => fill(&mut dataset.ds_type, plugin_ref(cx, &entry.at("ds_type"), value)),
        None => dataset.ds_type = ds_type::of_names(&dataset.path, &dataset.data_files),
    }
    ds_type::to_plugin(&mut dataset.ds_type);
    if let Some(advice) = ds_type_advice(&dataset.ds_type.name, &dataset.path) {
        let message = format!("`ds_type: {}` is not supported", dataset.ds_type.name);
        cx.report(cx.error("unsupported-value", &entry.at("ds_type"), message).help(advice));
        // So that no loader looks for JSON in it.
        dataset.ds_type.name.clear();
    }
    fill(&mut dataset.row_filters, filters(&entry, "row_filters"));
    fill(&mut dataset.split, split(&entry));
    dataset.shards = entry.checked("shards", "1 or more", |n: u32| n > 0);
    fill(&mut dataset.shards_idx, entry.read("shards_idx"));
    let shards = dataset.shards.unwrap_or(1);
    if dataset.shards_idx >= shards {
        let message = format!("`shards_idx` must be less than `shards`, found `{}`", dataset.shards_idx);
        let help = format!("shards are counted from 0: the last of {shards} is {}", shards - 1);
        cx.report(cx.error("out-of-range", &entry.at("shards_idx"), message).help(help));
    }
    let weight = entry.checked("weight", "above 0 and at most 1000", |weight: f64| weight > 0.0 && weight <= 1000.0);
    if let Some(weight) = weight.filter(|weight| (weight - 1.0).abs() > 0.0 && entry.at("weight").starts_with("test_"))
    {
        let message = format!("`weight: {weight}` has no meaning here: an evaluation sees each sample once");
        cx.report(cx.error("conflict", &entry.at("weight"), message).help("delete the line"));
    }
    fill(&mut dataset.weight, weight);
    dataset.field = entry.read("field");
    fill(&mut dataset.field_messages, entry.read("field_messages"));
    dataset.field_chosen = entry.read("field_chosen");
    dataset.field_rejected = entry.read("field_rejected");
    dataset.step_separator = entry.read("step_separator");
    dataset.max_completion_length = entry.checked("max_completion_length", "1 or more", |n: u32| n > 0);
    fill(&mut dataset.train_on_last_step_only, entry.read("train_on_last_step_only"));
    fill(&mut dataset.field_tools, entry.read("field_tools"));
    let mappings: Option<std::collections::BTreeMap<String, String>> = entry.read("message_property_mappings");
    for (key, property) in [("message_field_role", "role"), ("message_field_content", "content")] {
        let Some(field) = entry.read::<String>(key) else { continue };
        let path = entry.at(key);
        if mappings.as_ref().and_then(|mappings| mappings.get(property)).is_some_and(|other| *other != field) {
            let message = format!("`{key}` and `message_property_mappings.{property}` name different fields");
            cx.report(cx.error("conflict", &path, message).help("delete the first"));
        } else {
            let message = format!("`{key}` is an old name");
            let warning = Diagnostic { severity: Severity::Warning, ..cx.error("old-name", &path, message) };
            cx.report(warning.help(format!("write `message_property_mappings: {{{property}: {field}}}`")));
        }
        dataset.message_property_mappings.insert(property.to_owned(), field);
    }
    dataset.message_property_mappings.extend(mappings.unwrap_or_default());
    dataset.roles = entry.read("roles");
    fill(&mut dataset.roles_to_train, entry.read("roles_to_train"));
    fill(&mut dataset.train_on_eos, entry.choice("train_on_eos"));
    if let Some(eot) = entry.choice::<TrainOnEos>("train_on_eot") {
        if entry.has("train_on_eos") && dataset.train_on_eos != eot {
            let message = "`train_on_eos` and `train_on_eot` are different";
            let diagnostic = cx.error("conflict", &entry.at("train_on_eot"), message);
            cx.report(
                diagnostic
                    .why("one rule is for all tokens that end a turn: the end-of-text token and those of `eot_tokens`")
                    .help("write one of the two"),
            );
        }
        dataset.train_on_eos = eot;
    }
    dataset.field_thinking = entry.read("field_thinking");
    dataset.template_thinking_key = entry.read("template_thinking_key");
    fill(&mut dataset.split_thinking, entry.read("split_thinking"));
    fill(&mut dataset.drop_system_message, entry.read("drop_system_message"));
    dataset.message_field_training = entry.read("message_field_training");
    dataset.message_field_training_detail = entry.read("message_field_training_detail");
    entry.finish(|key| {
        let is_top = serde_json::to_value(defaults::config()).is_ok_and(|config| config.get(key).is_some());
        is_top.then_some("at the top level")
    });
    Some(dataset)
}

/// `tokens` and `added_tokens_overrides`.
fn new_tokens(top: &Section<'_>, config: &mut Config) {
    let cx = top.cx;
    // Old configs name special tokens here.
    if let Some(Value::Object(named)) = top.value("tokens").filter(|value| value.as_object().is_some()) {
        let help =
            format!("write them below `special_tokens`: `{}`", named.keys().cloned().collect::<Vec<_>>().join("`, `"));
        cx.report(cx.error("wrong-type", "tokens", "`tokens` is a list of texts").help(help));
    } else {
        fill(&mut config.tokens, top.read("tokens"));
    }
    if config.tokens.len() > TOKENS {
        cx.report(cx.error("out-of-range", "tokens", format!("`tokens` has more than {TOKENS} entries")));
        config.tokens.truncate(TOKENS);
    }
    let texts = config.tokens.iter().enumerate().map(|(index, text)| (format!("tokens[{index}]"), text));
    let overrides: Option<BTreeMap<String, String>> = top.read("added_tokens_overrides");
    let mut named = BTreeMap::new();
    if overrides.as_ref().is_some_and(|overrides| overrides.len() > TOKENS) {
        let message = format!("`added_tokens_overrides` has more than {TOKENS} entries");
        cx.report(cx.error("out-of-range", "added_tokens_overrides", message));
    }
    for (key, text) in overrides.into_iter().flatten().take(TOKENS) {
        let path = join("added_tokens_overrides", &key);
        match key.parse::<u32>() {
            Ok(id) => drop(named.insert(id, text)),
            Err(_) => {
                let message = format!("`{key}` is not the id of a token");
                cx.report(cx.error("wrong-type", &path, message).help("write a number: `128041: '<|im_start|>'`"));
            }
        }
    }
    config.added_tokens_overrides = named;
    let overrides = config.added_tokens_overrides.iter();
    let overrides = overrides.map(|(id, text)| (join("added_tokens_overrides", &id.to_string()), text));
    for (path, text) in texts.chain(overrides) {
        if text.is_empty() || text.len() > TOKEN_BYTES {
            let message = format!("a token is a text of 1 to {TOKEN_BYTES} bytes");
            cx.report(cx.error("out-of-range", &path, message));
        }
    }
}

fn chat(top: &Section<'_>, config: &mut Config) {
    let cx = top.cx;
    let fallback = |value: &str| {
        let name = value.strip_prefix(FALLBACK).filter(|name| CHAT_TEMPLATES.contains(name));
        name.is_some_and(|name| !matches!(name, "tokenizer_default" | "jinja"))
    };
    match top.value("chat_template").and_then(Value::as_str) {
        Some(value) if fallback(value) => value.clone_into(&mut config.chat_template),
        _ => fill(&mut config.chat_template, word_of(top, "chat_template", &CHAT_TEMPLATES)),
    }
    config.chat_template_jinja = top.read("chat_template_jinja").and_then(|template: String| {
        if is_template_file(&template) { cx.path("chat_template_jinja", template) } else { Some(template) }
    });
    config.default_system_message = top.read("default_system_message");
    fill(&mut config.eot_tokens, top.read("eot_tokens"));
    let named = top.value("chat_template").is_some();
    if config.chat_template == "jinja" && config.chat_template_jinja.is_none() {
        let diagnostic = cx.error("conflict", "chat_template", "`chat_template: jinja` without a template");
        cx.report(diagnostic.help("write the template, or a file that holds it, into `chat_template_jinja`"));
    } else if named && config.chat_template != "jinja" && config.chat_template_jinja.is_some() {
        let message = format!("`chat_template_jinja` is set, but `chat_template` is `{}`", config.chat_template);
        cx.report(
            cx.error("conflict", "chat_template_jinja", message)
                .help("write `chat_template: jinja`, or delete one of them"),
        );
    }
}

fn batches(top: &Section<'_>, config: &mut Config) {
    let positive = |n: u32| n > 0;
    fill(&mut config.micro_batch_size, top.checked("micro_batch_size", "1 or more", positive));
    fill(&mut config.gradient_accumulation_steps, top.checked("gradient_accumulation_steps", "1 or more", positive));
    config.batch_size = top.checked("batch_size", "1 or more", positive);
    fill(&mut config.eval_batch_size, top.checked("eval_batch_size", "1 or more", positive));
    fill(&mut config.num_epochs, top.checked("num_epochs", "above 0", |n: f64| n > 0.0));
    config.max_steps = max_steps(top);
}

/// -1, transformers' default, and 0, which it takes for the same, are as good as nothing.
fn max_steps(top: &Section<'_>) -> Option<u64> {
    const KEY: &str = "max_steps";
    let value = top.value(KEY)?;
    match value.as_i64() {
        Some(-1) => None,
        Some(0) => {
            let message = "`max_steps: 0` sets no limit";
            let note = Diagnostic { severity: Severity::Note, ..top.cx.error("no-effect", KEY, message) };
            let why = "transformers reads it so; the run is as long as `num_epochs` says";
            top.cx.report(note.why(why).help("delete the line, or write `max_steps: -1`"));
            None
        }
        Some(steps) if steps < 0 => {
            out_of_range(top.cx, KEY, "1 or more, or -1 for no limit", value);
            None
        }
        _ => top.read(KEY),
    }
}

fn share(value: f64) -> bool {
    (0.0..=1.0).contains(&value)
}

fn share_below_one(value: f64) -> bool {
    (0.0..1.0).contains(&value)
}

fn optimizer(top: &Section<'_>, config: &mut Config) {
    const BELOW_ONE: &str = "from 0 up to but not including 1";
    match top.value("optimizer").and_then(Value::as_str) {
        Some(word) if ADAMW_IN_LESS.iter().any(|(less, _)| *less == word) => less_memory(top.cx, word),
        _ => fill(&mut config.optimizer, top.choice("optimizer")),
    }
    if top.value("learning_rate").is_none() {
        top.cx.missing("learning_rate", "`learning_rate: 2e-4` is usual with `adapter: lora`, `2e-5` without");
    }
    fill(&mut config.learning_rate, top.checked("learning_rate", "above 0", |n: f64| n > 0.0));
    fill(&mut config.weight_decay, top.checked("weight_decay", "0 or more", |n: f64| n >= 0.0));
    fill(&mut config.adam_beta1, top.checked("adam_beta1", BELOW_ONE, share_below_one));
    fill(&mut config.adam_beta2, top.checked("adam_beta2", BELOW_ONE, share_below_one));
    fill(&mut config.adam_epsilon, top.checked("adam_epsilon", "above 0", |n: f64| n > 0.0));
    fill(&mut config.max_grad_norm, top.checked("max_grad_norm", "0 or more", |n: f64| n >= 0.0));
    fill(&mut config.lr_scheduler, scheduler(top));
    config.warmup_steps = top.read::<Amount>("warmup_steps");
    config.warmup_ratio = top.checked("warmup_ratio", "from 0 to 1", share);
    fill(&mut config.cosine_min_lr_ratio, top.checked("cosine_min_lr_ratio", "from 0 to 1", share));
    fill(&mut config.seed, top.read("seed"));
}

/// AdamW whose state takes less memory: the same algorithm, with a state that is as it is here.
fn less_memory(cx: &Context<'_>, word: &str) {
    let bits = ADAMW_IN_LESS.iter().find(|(less, _)| *less == word).map_or(32, |(_, bits)| *bits);
    let (severity, message, why) = if bits == 32 {
        (
            Severity::Note,
            format!("`optimizer: {word}` is `adamw_torch` here"),
            "the state lies in plain memory".to_owned(),
        )
    } else {
        (
            Severity::Warning,
            format!("`optimizer: {word}`, but the state of AdamW is kept in 32 bits here"),
            format!("the same algorithm, more exact, and {} bytes more for each trained parameter", 8 - bits / 4),
        )
    };
    let diagnostic = Diagnostic { severity, ..cx.error("no-effect", "optimizer", message) };
    let edit = Edit::Set { path: "optimizer".to_owned(), value: "adamw_torch".to_owned() };
    cx.report(diagnostic.why(why).help("write `optimizer: adamw_torch`").fix(edit));
}

fn cadence(top: &Section<'_>, config: &mut Config) {
    let positive = |n: u64| n > 0;
    // Axolotl takes 0 for none.
    let each_epoch = |key: &'static str| top.read::<u64>(key).filter(|count| *count > 0);
    let amount = |n: Amount| n != Amount::Count(0);
    config.logging_steps = top.checked("logging_steps", "1 or more", positive);
    config.eval_steps = top.checked("eval_steps", "1 or more, or a share of the run", amount);
    config.evals_per_epoch = each_epoch("evals_per_epoch");
    fill(&mut config.eval_strategy, top.choice("eval_strategy"));
    config.save_steps = top.checked("save_steps", "1 or more, or a share of the run", amount);
    config.saves_per_epoch = each_epoch("saves_per_epoch");
    fill(&mut config.save_strategy, top.choice("save_strategy"));
    config.save_total_limit = top.checked("save_total_limit", "1 or more", |n: u32| n > 0);
    config.dataset_prepared_path = top.file_path("dataset_prepared_path");
    fill(&mut config.output_dir, top.file_path("output_dir"));
    if config.output_dir.trim() != config.output_dir || config.output_dir.contains(plugin_runtime::is_hidden) {
        let diagnostic = top.cx.error(
            "unsupported-value",
            "output_dir",
            "`output_dir` begins or ends with a space, or has what does not show",
        );
        top.cx.report(diagnostic.help("it becomes a directory that is typed and pasted; write a plain name"));
    }
    config.resume_from_checkpoint = top.file_path("resume_from_checkpoint");
    fill(&mut config.auto_resume_from_checkpoints, top.read("auto_resume_from_checkpoints"));
}

fn word_of(top: &Section<'_>, key: &'static str, words: &'static [&'static str]) -> Option<String> {
    let word: String = top.read(key)?;
    if !words.contains(&word.as_str()) {
        unknown_word(top.cx, key, &word, words.iter().copied());
        return None;
    }
    Some(word)
}

/// Keys that mean nothing without each other, or that cannot both hold.
fn together(cx: &Context<'_>, config: &Config, is_given: impl Fn(&str) -> bool) {
    quantized_together(cx, config, &is_given);
    preferences_together(cx, config, &is_given);
    scores_together(cx, config, &is_given);
    scores_of_rows_together(cx, config);
    trl_together(cx, config);
    stream_fields::together(cx, config, &is_given);
    techniques_together(cx, config, &is_given);
    let has_targets = !config.lora_target_modules.is_empty()
        || config.lora_target_linear
        || !config.lora_target_parameters.is_empty();
    let needed = [
        ("lora_r", config.lora_r.is_some(), "`lora_r: 16` is a usual rank"),
        ("lora_alpha", config.lora_alpha.is_some(), "`lora_alpha: 32` goes with `lora_r: 16`"),
        ("lora_target_modules", has_targets, "name the layers, or write `lora_target_linear: true` for all of them"),
    ];
    for (key, is_set, help) in needed {
        if let (Some(adapter), false, false) = (config.adapter, is_set, is_given(key)) {
            let message = format!("`adapter: {}` needs `{key}`", adapter.name());
            let diagnostic = cx.error("missing-key", "adapter", message);
            cx.report(diagnostic.help(help));
        }
        if is_set && !is_given("adapter") {
            let diagnostic = Diagnostic::error("config::conflict", format!("`{key}` without `adapter`"))
                .at(cx.source.key_place(key));
            cx.report(
                diagnostic
                    .why("all weights of the model would be trained")
                    .help("add `adapter: lora`, or delete the key"),
            );
        }
    }
    let own = [
        ("lora_rank_pattern", !config.lora_rank_pattern.0.is_empty()),
        ("lora_alpha_pattern", !config.lora_alpha_pattern.0.is_empty()),
        ("lora_modules_to_save", !config.lora_modules_to_save.is_empty()),
        ("lora_target_parameters", !config.lora_target_parameters.is_empty()),
        ("lora_model_dir", config.lora_model_dir.is_some()),
    ];
    for (key, _) in own.into_iter().filter(|(_, is_set)| config.adapter.is_none() && *is_set) {
        let diagnostic = cx.error("conflict", key, format!("`{key}` without `adapter`"));
        cx.report(diagnostic.help("add `adapter: lora`, or delete the key"));
    }
    // Tokens of one micro-batch are numbered with 32 bits.
    let tokens = u64::from(config.micro_batch_size.max(config.eval_batch_size)) * u64::from(config.sequence_len);
    if tokens > u64::from(u32::MAX) {
        let path =
            if config.eval_batch_size > config.micro_batch_size { "eval_batch_size" } else { "micro_batch_size" };
        let message = format!("one forward pass would have {tokens} tokens; the limit is {}", u32::MAX);
        cx.report(cx.error("overflow", path, message).help("lower the batch size or `sequence_len`"));
    }
    let rows = u64::from(config.micro_batch_size) * u64::from(config.gradient_accumulation_steps);
    if rows > u64::from(u32::MAX) {
        let message = format!("one optimizer step would have {rows} rows; the limit is {}", u32::MAX);
        cx.report(cx.error("overflow", "gradient_accumulation_steps", message).help("lower it"));
    }
    if let Some(adapter) = config.lora_model_dir.as_ref().filter(|adapter| same_path(&config.output_dir, adapter)) {
        let diagnostic =
            cx.error("conflict", "lora_model_dir", format!("`lora_model_dir` is `output_dir`, `{adapter}`"));
        cx.report(
            diagnostic
                .why("a new run replaces what is there")
                .help("write another `output_dir`; to go on with a run that stopped, `resume_from_checkpoint`"),
        );
    }
    if !config.output_dir.is_empty() && same_path(&config.output_dir, &config.base_model) {
        let diagnostic = cx.error("conflict", "output_dir", "`output_dir` is `base_model`");
        cx.report(
            diagnostic
                .why("the trained model would replace the one that it starts from")
                .help("write to a directory of its own"),
        );
    }
    let mut names = std::collections::BTreeSet::new();
    for (index, pin) in config.plugins.iter().enumerate() {
        if !names.insert(&pin.name) {
            let message = format!("`{}` is listed twice in `plugins`", pin.name);
            cx.report(cx.error("conflict", &format!("plugins[{index}].name"), message).help("merge the two entries"));
        }
    }
}

fn same_path(a: &str, b: &str) -> bool {
    let plain = |text: &str| -> std::path::PathBuf {
        std::path::Path::new(text).components().filter(|part| !matches!(part, std::path::Component::CurDir)).collect()
    };
    plain(a) == plain(b)
}
