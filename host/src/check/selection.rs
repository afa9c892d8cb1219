//! What a config picks by name out of the model's files: parameters to train, layers to adapt, tokens that end a turn, the
//! chat template. All of it is looked up before anything is spent.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use engine::adapter::{LoraConfig, Modules};
use engine::architecture::config::ModelConfig;
use engine::architecture::tensors::ExpertParameter;
use engine::files::peft;
use engine::kernels::cpu::CpuKernels;

use super::facts::ModelFacts;
use crate::config::{
    Config, DatasetConfig, LoadedConfig, Patterns, TargetModules, is_template_file, join, nearest, rows_of_pattern,
};
use crate::data::template::{ChatTemplate, Now, built_in};
use crate::data::tokenizer::Tokenizer;
use crate::diagnostic::{Diagnostic, Failure};

/// Bytes of a chat template.
const TEMPLATE_BYTES: u64 = 1 << 20;

/// Everything that is not there to be picked.
pub(super) fn check(loaded: &LoadedConfig, model: &ModelFacts) -> Vec<Diagnostic> {
    let adapter = match loaded.config.adapter.map(|_| lora(loaded, model)) {
        None => Vec::new(),
        Some(Err(failure)) => failure.0,
        Some(Ok(wanted)) => start(loaded, model, &wanted),
    };
    let others = [unfrozen(loaded, model).err(), end_of_turn(loaded, model).err(), template(loaded, model).err()];
    adapter.into_iter().chain(others.into_iter().flatten().flat_map(|failure| failure.0)).collect()
}

/// What `unfrozen_parameters` selects.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Unfrozen {
    /// Names of parameters.
    pub names: BTreeSet<String>,
    /// Of some of them these rows alone, ascending and apart from each other.
    pub rows: BTreeMap<String, Vec<Range<usize>>>,
}

/// What `unfrozen_parameters` selects; none: all parameters.
pub fn unfrozen(loaded: &LoadedConfig, model: &ModelFacts) -> Result<Option<Unfrozen>, Failure> {
    let patterns = &loaded.config.unfrozen_parameters;
    if patterns.is_empty() || loaded.config.adapter.is_some() {
        return Ok(None);
    }
    let specs = model.config.parameters();
    // Of a parameter, the patterns that name all of it, and the rows of those that name some.
    let mut chosen: BTreeMap<&str, (Vec<usize>, Vec<Range<usize>>)> = BTreeMap::new();
    let mut problems = Vec::new();
    for (index, entry) in patterns.iter().enumerate() {
        let place = || loaded.source.nearest_place(&format!("unfrozen_parameters[{index}]"));
        let (pattern, rows) = rows_of_pattern(entry);
        // Python's `re.match`: at the start, not necessarily to the end.
        let regex = match anchored(pattern, format!("^(?:{pattern})")) {
            Ok(Some(regex)) => regex,
            Ok(None) => continue,
            Err(problem) => {
                problems.push(problem.at(place()));
                continue;
            }
        };
        let mut matched = specs.iter().filter(|spec| regex.is_match(spec.name.as_bytes())).peekable();
        if matched.peek().is_none() {
            let near = nearest(pattern, specs.iter().map(|spec| spec.name.as_str()));
            let help = near.unwrap_or(specs.last().map_or("", |spec| spec.name.as_str()));
            problems.push(
                Diagnostic::error("config::no-match", format!("no parameter matches `{pattern}`"))
                    .at(place())
                    .why("the pattern is matched from the start of a name")
                    .help(format!("names look like `{help}`")),
            );
        }
        for spec in matched {
            let own = chosen.entry(&spec.name).or_default();
            let Some((start, end)) = rows else {
                own.0.push(index);
                continue;
            };
            let size = spec.shape.first().copied().unwrap_or(0);
            let end = end.unwrap_or(size);
            if start >= end || end > size {
                let message = format!("`{entry}` names rows {start} to {end} of `{}`, which has {size}", spec.name);
                let why = "a range begins with its first row, from 0, and ends before its last number";
                problems.push(Diagnostic::error("config::out-of-range", message).at(place()).why(why));
                break;
            }
            own.1.push(start..end);
        }
    }
    for (name, (whole, rows)) in &chosen {
        if let (Some(index), false) = (whole.first(), rows.is_empty()) {
            let message =
                format!("`{}` selects all of `{name}`, and another pattern some of its rows", patterns[*index]);
            let place = loaded.source.nearest_place(&format!("unfrozen_parameters[{index}]"));
            let help = "write the range behind both patterns, or delete one of them";
            problems.push(Diagnostic::error("config::conflict", message).at(place).help(help));
        }
    }
    if !problems.is_empty() {
        return Err(Failure(problems));
    }
    let rows = chosen.iter().filter(|(_, (_, rows))| !rows.is_empty());
    let rows = rows.map(|(name, (_, rows))| ((*name).to_owned(), merged(rows.clone()))).collect();
    Ok(Some(Unfrozen { names: chosen.keys().map(|&name| name.to_owned()).collect(), rows }))
}

/// Ranges in their order, those that touch as one.
fn merged(mut ranges: Vec<Range<usize>>) -> Vec<Range<usize>> {
    ranges.sort_by_key(|range| range.start);
    let mut all: Vec<Range<usize>> = Vec::new();
    for range in ranges {
        match all.last_mut().filter(|last| range.start <= last.end) {
            Some(last) => last.end = last.end.max(range.end),
            None => all.push(range),
        }
    }
    all
}

/// A pattern of the config as `inside` says where it must match. None for one that is no pattern by itself, which the config's
/// reader has said.
///
/// # Errors
/// One that is, but not there: its comment runs to the end, or it is only just small enough.
fn anchored(pattern: &str, inside: String) -> Result<Option<regex::bytes::Regex>, Diagnostic> {
    match crate::config::pattern(&inside) {
        Ok(regex) => Ok(Some(regex)),
        Err(_) if crate::config::pattern(pattern).is_err() => Ok(None),
        Err(error) => {
            let reason = error.to_string();
            let reason = reason.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
            let message = format!("`{pattern}` cannot be matched with a whole name");
            Err(Diagnostic::error("config::bad-pattern", message)
                .why(format!("it is read as `{inside}`: {reason}"))
                .help("write it without `(?x)` and its comments, or as several shorter patterns"))
        }
    }
}

/// The modules that get an adapter.
fn lora_modules(loaded: &LoadedConfig, model: &ModelFacts) -> Result<Modules, Failure> {
    let (config, model) = (&loaded.config, &model.config);
    let layers = config.peft_layers_to_transform.as_ref();
    let layers: Option<BTreeSet<usize>> = layers.map(|layers| layers.iter().map(|&layer| layer as usize).collect());
    let all = if config.lora_target_linear {
        Modules::of(model.linears()).in_layers(layers.as_ref())
    } else {
        Modules::default()
    };
    match &config.lora_target_modules {
        TargetModules::Names(names) => {
            let mut problems = Vec::new();
            for (index, name) in names.iter().enumerate() {
                if Modules::listed(model, std::slice::from_ref(name), None).is_empty() {
                    let at = loaded.source.nearest_place(&loaded.entry_path("lora_target_modules", index));
                    problems.push(
                        no_module(name).at(at).why("a name is matched from a dot, or from its start, to its end"),
                    );
                }
            }
            if !problems.is_empty() {
                return Err(Failure(problems));
            }
            Ok(all.or(&Modules::listed(model, names, layers.as_ref()), model))
        }
        TargetModules::Pattern(pattern) => {
            let at = loaded.source.nearest_place("lora_target_modules");
            // Python's `re.fullmatch`.
            let regex = match anchored(pattern, format!("^(?:{pattern})$")) {
                Ok(Some(regex)) => regex,
                Ok(None) => return Ok(all),
                Err(problem) => return Err(problem.at(at).into()),
            };
            if let Some(other) = other_modules(model).into_iter().find(|name| regex.is_match(name.as_bytes())) {
                let message = format!("`{pattern}` matches `{other}` too, which is no linear layer");
                return Err(Diagnostic::error("config::no-match", message)
                    .at(at)
                    .why("only linear layers can have an adapter; PEFT refuses such a pattern too")
                    .help("name what the modules have in common: `.*_proj`, `.*self_attn.*_proj`")
                    .into());
            }
            let picked = Modules::matching(model, |name| regex.is_match(name.as_bytes()));
            if picked.is_empty() {
                let diagnostic = no_module(pattern).at(at);
                return Err(diagnostic.why("the pattern is matched with whole names").into());
            }
            Ok(all.or(&picked, model))
        }
    }
}

/// The adapter that is asked for.
pub fn lora(loaded: &LoadedConfig, model: &ModelFacts) -> Result<LoraConfig, Failure> {
    let config = &loaded.config;
    let modules = lora_modules(loaded, model)?;
    let modules = modules.with_parameters(&model.config, &config.lora_target_parameters).map_err(|entry| {
        let index = config.lora_target_parameters.iter().position(|own| *own == entry).unwrap_or_default();
        let at = loaded.source.nearest_place(&loaded.entry_path("lora_target_parameters", index));
        let message = format!("no weight of experts matches `{entry}`");
        let diagnostic = Diagnostic::error("config::no-match", message).at(at);
        let names = model.config.experts.map(|experts| ExpertParameter::ALL.map(|own| own.path(experts)));
        match names {
            Some(names) => diagnostic
                .why("a name is matched from a dot, or from its start, to its end")
                .help(format!("those of this model are `{}`", names.join("`, `"))),
            None => diagnostic
                .why("the model has no experts")
                .help("delete the line, and name its linear layers in `lora_target_modules`"),
        }
    })?;
    if config.peft_use_dora && modules.has_head() {
        let message = "`peft_use_dora` is not for the output projection";
        return Err(Diagnostic::error("config::unsupported-value", message)
            .at(loaded.source.nearest_place("peft_use_dora"))
            .why("`lora_target_modules` picks `lm_head`, whose product is part of the loss and is never there as a whole")
            .help("leave `lm_head` out of `lora_target_modules`, or write `peft_use_dora: false`")
            .into());
    }
    if let Some(module) = model.saved.adapted(&model.config, &modules) {
        let message = format!("`{module}` gets an adapter and is trained whole");
        return Err(Diagnostic::error("config::conflict", message)
            .at(loaded.source.nearest_place("lora_modules_to_save"))
            .help("leave it out of `lora_modules_to_save`, or out of the targets")
            .into());
    }
    let names = modules.names(&model.config);
    let ranks = by_pattern(loaded, &names, "lora_rank_pattern", &config.lora_rank_pattern);
    let alphas = by_pattern(loaded, &names, "lora_alpha_pattern", &config.lora_alpha_pattern);
    let (ranks, alphas) = match (ranks, alphas) {
        (Ok(ranks), Ok(alphas)) => (ranks, alphas),
        (ranks, alphas) => {
            let problems = [ranks.err(), alphas.err()].into_iter().flatten();
            return Err(Failure(problems.flat_map(|failure| failure.0).collect()));
        }
    };
    Ok(LoraConfig {
        r: config.lora_r.unwrap_or(1) as usize,
        alpha: config.lora_alpha.unwrap_or(1.0),
        dropout: config.lora_dropout,
        use_rslora: config.peft_use_rslora,
        use_dora: config.peft_use_dora,
        modules,
        saved: model.saved.clone(),
        ranks: ranks.into_iter().map(|(module, rank)| (module, rank as usize)).collect(),
        alphas,
    })
}

/// What is in the way of starting from `lora_model_dir`.
fn start(loaded: &LoadedConfig, model: &ModelFacts, wanted: &LoraConfig) -> Vec<Diagnostic> {
    let Some(adapter) = &loaded.config.lora_model_dir else { return Vec::new() };
    let directory = loaded.resolve(adapter);
    let base = &loaded.config.base_model;
    let place = loaded.source.nearest_place("lora_model_dir");
    if let Some(told) = loaded.elsewhere.missing.get(adapter) {
        return vec![told.clone().at(place)];
    }
    let last = |path: &str| path.trim_end_matches('/').rsplit('/').next().unwrap_or_default().to_lowercase();
    let other = peft::base_model(&directory).filter(|of| last(of) != last(base));
    let other = other.map(|of| format!("the adapter says that it is of `{of}`; `base_model` is `{base}`"));
    match (peft::load_like(&CpuKernels, &model.config, &directory, wanted), other) {
        (Ok(_), None) => Vec::new(),
        (Ok(_), Some(other)) => {
            let why = "beside other weights than those that it was trained with, it means nothing";
            vec![Diagnostic::warning("adapter::base", other).at(place).why(why)]
        }
        (Err(error), other) => {
            let diagnostic = Diagnostic::from(error).at(place);
            vec![match other {
                Some(other) => diagnostic.why(other),
                None => diagnostic,
            }]
        }
    }
}

/// What patterns say of the adapted modules, each by the first that matches, as PEFT's `get_pattern_key` does it.
fn by_pattern<T: Copy>(
    loaded: &LoadedConfig,
    modules: &[String],
    key: &str,
    patterns: &Patterns<T>,
) -> Result<BTreeMap<String, T>, Failure> {
    let mut found = BTreeMap::new();
    let mut problems = Vec::new();
    for (pattern, value) in &patterns.0 {
        let place = loaded.source.nearest_place(&join(key, pattern));
        let regex = match anchored(pattern, format!(r"^(?:.*\.)?(?:{pattern})$")) {
            Ok(Some(regex)) => regex,
            Ok(None) => continue,
            Err(problem) => {
                problems.push(problem.at(place));
                continue;
            }
        };
        let matched: Vec<&String> = modules.iter().filter(|module| regex.is_match(module.as_bytes())).collect();
        for &module in &matched {
            found.entry(module.clone()).or_insert(*value);
        }
        if matched.is_empty() {
            let message = format!("no module with an adapter matches `{pattern}`");
            problems.push(
                Diagnostic::error("config::no-match", message)
                    .at(place)
                    .why("a pattern is matched from a dot of a module's name, or from its start, to its end")
                    .help(format!(
                        "modules with an adapter look like `{}`",
                        modules.first().map_or("", String::as_str)
                    )),
            );
        }
    }
    if problems.is_empty() { Ok(found) } else { Err(Failure(problems)) }
}

fn no_module(name: &str) -> Diagnostic {
    Diagnostic::error("config::no-match", format!("no module of the model matches `{name}`"))
        .help("names look like `model.layers.0.self_attn.q_proj`, `model.layers.0.mlp.up_proj` and `lm_head`")
}

/// Modules of transformers' model that are not linear layers.
fn other_modules(model: &ModelConfig) -> Vec<String> {
    let in_layer = |layer: usize| {
        ["", ".self_attn", ".mlp", ".mlp.act_fn", ".input_layernorm", ".post_attention_layernorm"]
            .map(|part| format!("{}.layers.{layer}{part}", model.root))
    };
    let outer = ["", ".embed_tokens", ".layers", ".norm", ".rotary_emb"].map(|part| format!("{}{part}", model.root));
    outer.into_iter().chain((0..model.num_hidden_layers).flat_map(in_layer)).collect()
}

/// Ids of the tokens that end a turn beside the tokenizer's own (`eot_tokens`).
pub fn end_of_turn(loaded: &LoadedConfig, model: &ModelFacts) -> Result<Vec<u32>, Failure> {
    let mut problems = Vec::new();
    let mut ids = Vec::new();
    for (index, token) in loaded.config.eot_tokens.iter().enumerate() {
        match model.tokenizer.id_of(token) {
            Some(id) => ids.push(id),
            None => problems.push(
                Diagnostic::error("tokenizer::unknown-token", format!("`{token}` is not in the vocabulary"))
                    .at(loaded.source.nearest_place(&format!("eot_tokens[{index}]")))
                    .help("name a token of the vocabulary, or add it under `tokens`"),
            ),
        }
    }
    if problems.is_empty() { Ok(ids) } else { Err(Failure(problems)) }
}

/// The chat template that the config asks for, if there is one.
pub fn template(loaded: &LoadedConfig, model: &ModelFacts) -> Result<Option<ChatTemplate>, Failure> {
    let (config, tokenizer) = (&loaded.config, &model.tokenizer);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |now| now.as_secs());
    // The day, not the second: samples of one run must not differ by when they were rendered.
    let now = Now(now / 86_400 * 86_400);
    let invalid = |error| Diagnostic::from(error).at(loaded.source.nearest_place("chat_template"));
    let source = match config.chat_template.as_str() {
        "tokenizer_default" => {
            let has_others = tokenizer.chat_template().is_none() && !tokenizer.chat_templates().is_empty();
            if has_others && has_conversations(config) {
                let problem = no_default(tokenizer).at(loaded.source.nearest_place("chat_template"));
                return Err(problem.help(NO_DEFAULT_HELP).into());
            }
            return Ok(ChatTemplate::own(tokenizer, now).map_err(invalid)?);
        }
        "jinja" => match &config.chat_template_jinja {
            Some(text) if !is_template_file(text) => Some(text.clone()),
            Some(file) => {
                let path = loaded.resolve(file);
                let text = intake::read_text(&path, TEMPLATE_BYTES).map_err(|error| {
                    Diagnostic::error(
                        "config::missing-file",
                        format!("the chat template `{}` cannot be read", path.display()),
                    )
                    .at(loaded.source.nearest_place("chat_template_jinja"))
                    .why(error.to_string())
                    .help("write the template itself, or the path of a file that holds it")
                })?;
                Some(text)
            }
            None => None,
        },
        name => {
            let fallback = name.strip_prefix("tokenizer_default_fallback_");
            if fallback.is_some() && tokenizer.chat_template().is_some() {
                return Ok(ChatTemplate::own(tokenizer, now).map_err(invalid)?);
            }
            built_in(fallback.unwrap_or(name)).map(ToOwned::to_owned)
        }
    };
    let Some(source) = source else { return Ok(None) };
    Ok(Some(ChatTemplate::new(&source, &tokenizer.special_tokens(), now).map_err(invalid)?))
}

fn has_conversations(config: &Config) -> bool {
    config.datasets.iter().chain(&config.test_datasets).any(DatasetConfig::has_conversations)
}

/// How to go on without a template that is called `default`.
const NO_DEFAULT_HELP: &str =
    "write one of them to a file, and set `chat_template: jinja` and `chat_template_jinja: FILE`";

/// Several templates, none of which is the one for all conversations.
pub fn no_default(tokenizer: &Tokenizer) -> Diagnostic {
    let names: Vec<String> = tokenizer.chat_templates().keys().map(|name| format!("`{name}`")).collect();
    let message = format!("the tokenizer has no chat template `default`; it has {}", names.join(", "));
    Diagnostic::error("tokenizer::template", message)
        .why("of several templates, conversations take the one of that name")
}
