//! The keys of the config that say which weights are trained, and how the others are held: adapters, weights in few bits,
//! `unfrozen_parameters`, checkpointing of gradients.

use serde_json::Value;

use super::names::{certain, nearest, one_of};
use super::positions::join;
use super::read::{Context, Read, Section, fill, out_of_range, unknown_word};
use super::schema::{BnbConfigKwargs, Config};
use super::values::{Adapter, Patterns, TargetModules};
use crate::diagnostic::{Diagnostic, Edit, Severity};

/// Linear layers of a decoder layer, by the names that `lora_target_modules` uses.
pub const LINEAR_MODULES: [&str; 11] = [
    "q_proj",
    "k_proj",
    "v_proj",
    "qkv_proj",
    "o_proj",
    "gate_proj",
    "up_proj",
    "gate_up_proj",
    "down_proj",
    "input_linear",
    "output_linear",
];
/// The output projection, which can have an adapter too.
pub(super) const HEAD: &str = engine::adapter::modules::HEAD;
/// Axolotl's ways to keep the inputs of layers elsewhere.
pub(super) const OFFLOADING: [&str; 3] = ["offload", "offload_disk", "unsloth"];
/// Patterns that `unfrozen_parameters` may have.
const PATTERNS: usize = 2000;

/// What is trained of the model, and how the rest of it is held.
pub(super) fn trained(top: &Section<'_>, config: &mut Config) {
    let cx = top.cx;
    config.adapter = top.choice("adapter");
    quantized(top, config);
    config.lora_r = top.checked("lora_r", "from 1 to 65536", |n: u32| (1..=65536).contains(&n));
    config.lora_alpha = top.checked("lora_alpha", "above 0", |n: f64| n > 0.0);
    fill(
        &mut config.lora_dropout,
        top.checked("lora_dropout", "from 0 up to but not including 1", |share: f64| (0.0..1.0).contains(&share)),
    );
    lora_target_modules(top, config);
    fill(&mut config.lora_target_parameters, top.read("lora_target_parameters"));
    fill(&mut config.peft_use_rslora, top.read("peft_use_rslora"));
    fill(&mut config.peft_use_dora, top.read("peft_use_dora"));
    fill(&mut config.lora_fan_in_fan_out, top.read("lora_fan_in_fan_out"));
    if config.lora_fan_in_fan_out {
        let message = "`lora_fan_in_fan_out: true` is for weights stored transposed";
        let why = "the models here store them as torch's `Linear` does";
        cx.report(cx.error("unsupported-value", "lora_fan_in_fan_out", message).why(why).help("write `false`"));
    }
    fill(
        &mut config.lora_rank_pattern,
        lora_pattern(top, "lora_rank_pattern", "from 1 to 65536", |r: &u32| (1..=65536).contains(r)),
    );
    fill(
        &mut config.lora_alpha_pattern,
        lora_pattern(top, "lora_alpha_pattern", "above 0", |alpha: &f64| *alpha > 0.0),
    );
    fill(&mut config.lora_modules_to_save, top.read("lora_modules_to_save"));
    config.lora_model_dir = top.file_path("lora_model_dir");
    config.peft_layers_to_transform = top.read::<Vec<u32>>("peft_layers_to_transform");
    fill(&mut config.unfrozen_parameters, top.read("unfrozen_parameters"));
    if config.unfrozen_parameters.len() > PATTERNS {
        let message = format!("`unfrozen_parameters` has more than {PATTERNS} entries");
        cx.report(
            cx.error("out-of-range", "unfrozen_parameters", message).help("one pattern can name many parameters"),
        );
        config.unfrozen_parameters.truncate(PATTERNS);
    }
    for (index, pattern) in config.unfrozen_parameters.iter().enumerate() {
        let path = format!("unfrozen_parameters[{index}]");
        if let Err(reason) = compile(rows_of_pattern(pattern).0) {
            cx.report(cx.error("bad-pattern", &path, format!("`{pattern}` is not a regular expression")).why(reason));
        }
    }
    match top.value("gradient_checkpointing") {
        Some(Value::String(word)) if OFFLOADING.contains(&word.as_str()) => {
            config.gradient_checkpointing = true;
            let message = format!("`gradient_checkpointing: {word}` offloads nothing here");
            let note = cx.error("no-effect", "gradient_checkpointing", message);
            let why = "it is read as `true`: the inputs of layers stay on the device, and the rest is computed again";
            cx.report(Diagnostic { severity: Severity::Note, ..note }.why(why));
        }
        Some(Value::String(word)) => unknown_word(cx, "gradient_checkpointing", word, ["true", "false"].into_iter()),
        _ => fill(&mut config.gradient_checkpointing, top.read("gradient_checkpointing")),
    }
    let kwargs = top.value("gradient_checkpointing_kwargs");
    if let Some(kwargs) = kwargs.and_then(|value| Section::of(cx, "gradient_checkpointing_kwargs", value, &[])) {
        config.gradient_checkpointing_kwargs.use_reentrant = kwargs.read("use_reentrant");
        kwargs.finish(|_| None);
    }
}

/// Weights in few bits.
fn quantized(top: &Section<'_>, config: &mut Config) {
    const KWARGS: &str = "bnb_config_kwargs";
    let cx = top.cx;
    fill(&mut config.load_in_4bit, top.read("load_in_4bit"));
    fill(&mut config.load_in_8bit, top.read("load_in_8bit"));
    let Some(kwargs) = top.value(KWARGS).and_then(|value| Section::of(cx, KWARGS, value, &[])) else { return };
    let own = &mut config.bnb_config_kwargs;
    fill(&mut own.bnb_4bit_quant_type, kwargs.choice("bnb_4bit_quant_type"));
    fill(&mut own.bnb_4bit_use_double_quant, kwargs.read("bnb_4bit_use_double_quant"));
    if kwargs.read("llm_int8_has_fp16_weight") == Some(true) {
        let path = kwargs.at("llm_int8_has_fp16_weight");
        cx.report(
            cx.error("unsupported-value", &path, "weights of eight bits are not trained here").help("write `false`"),
        );
    }
    for (key, why) in [
        ("bnb_4bit_compute_dtype", "products are in the precision of the run (`bf16`, `float32`)"),
        ("bnb_4bit_quant_storage", "how the bits are stored is up to the device"),
        ("llm_int8_threshold", "activations are not rounded to eight bits here"),
    ] {
        if kwargs.value(key).is_some_and(|value| !value.is_null()) {
            let path = kwargs.at(key);
            let note = cx.error("no-effect", &path, format!("`{path}` has no effect here"));
            cx.report(Diagnostic { severity: Severity::Note, ..note }.why(why));
        }
    }
    kwargs.finish(|_| None);
}

/// Axolotl's `embed_tokens.weight$[:32000]`: the pattern, and the rows of what it matches; none for all of them, and no end for
/// all from the first one on.
pub fn rows_of_pattern(entry: &str) -> (&str, Option<(usize, Option<usize>)>) {
    let number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse::<usize>().ok());
    let range = || {
        let (pattern, range) = entry.strip_suffix(']')?.rsplit_once('[')?;
        let (start, end) = range.split_once(':').filter(|(start, end)| !(start.is_empty() && end.is_empty()))?;
        // A number that is too large for any model is the largest one.
        let bound = |text: &str| Some(number(text)?.unwrap_or(usize::MAX));
        let start = if start.is_empty() { 0 } else { bound(start)? };
        Some((pattern, (start, if end.is_empty() { None } else { Some(bound(end)?) })))
    };
    range().map_or((entry, None), |(pattern, rows)| (pattern, Some(rows)))
}

fn lora_target_modules(top: &Section<'_>, config: &mut Config) {
    const KEY: &str = "lora_target_modules";
    fill(&mut config.lora_target_linear, top.read("lora_target_linear"));
    let is_module = |name: &str| LINEAR_MODULES.contains(&name) || name == HEAD;
    match top.value(KEY) {
        Some(Value::String(word)) if word == "all-linear" => config.lora_target_linear = true,
        // A name alone is no pattern that anybody means: as one it would match nothing.
        Some(Value::String(name)) if is_module(name) => {
            config.lora_target_modules = TargetModules::Names(vec![name.clone()]);
        }
        Some(Value::String(pattern)) => target_pattern(top, config, pattern),
        _ => config.lora_target_modules = TargetModules::Names(top.read(KEY).unwrap_or_default()),
    }
    let TargetModules::Names(names) = &config.lora_target_modules else { return };
    for (index, module) in names.iter().enumerate() {
        if !is_module(module.rsplit('.').next().unwrap_or(module)) {
            let path = format!("lora_target_modules[{index}]");
            let message = format!("`{module}` is not a linear layer that can have an adapter");
            let diagnostic = top.cx.error("unknown-value", &path, message);
            let all = || LINEAR_MODULES.into_iter().chain([HEAD]);
            let edit = certain(module, all()).map(|name| Edit::Set { path: path.clone(), value: name.to_owned() });
            top.cx.report(match nearest(module, all()) {
                _ if module.contains(['*', '(', '|', '\\']) => diagnostic
                    .why("an entry of a list is the name of a module, or its end after a dot; a regular expression stands alone")
                    .help(format!("lora_target_modules: '{module}'")),
                Some(name) => diagnostic.help(format!("did you mean `{name}`?")).fix(edit),
                None => diagnostic.help(format!("write {}", one_of(all()))),
            });
        }
    }
}

/// Values that some modules have of their own.
fn lora_pattern<T: Read>(
    top: &Section<'_>,
    key: &'static str,
    words: &str,
    fits: impl Fn(&T) -> bool,
) -> Option<Patterns<T>> {
    let cx = top.cx;
    let mut patterns: Patterns<T> = top.read(key)?;
    if patterns.0.len() > PATTERNS {
        let message = format!("`{key}` has more than {PATTERNS} entries");
        cx.report(cx.error("out-of-range", key, message).help("one pattern can name many modules"));
        patterns.0.truncate(PATTERNS);
    }
    for (pattern, value) in &patterns.0 {
        let path = join(key, pattern);
        if let Err(reason) = compile(pattern) {
            cx.report(cx.error("bad-pattern", &path, format!("`{pattern}` is not a regular expression")).why(reason));
        }
        if let (false, Some(value)) = (fits(value), top.value(key).and_then(|entries| entries.get(pattern))) {
            out_of_range(cx, &path, words, value);
        }
    }
    Some(patterns)
}

/// A regular expression over the full names of modules.
fn target_pattern(top: &Section<'_>, config: &mut Config, pattern: &str) {
    const KEY: &str = "lora_target_modules";
    let cx = top.cx;
    if let Err(reason) = compile(pattern) {
        let message = format!("`{pattern}` is not a regular expression");
        cx.report(
            cx.error("bad-pattern", KEY, message)
                .why(reason)
                .help("a list of names needs brackets: `[q_proj, v_proj]`"),
        );
        return;
    }
    for (other, is_set) in [
        ("lora_target_linear", config.lora_target_linear),
        ("peft_layers_to_transform", top.value("peft_layers_to_transform").is_some()),
    ] {
        if is_set {
            let message = format!("a regular expression in `{KEY}` and `{other}` exclude each other");
            cx.report(
                cx.error("conflict", KEY, message)
                    .why("the expression says all of it")
                    .help(format!("delete `{other}`")),
            );
        }
    }
    config.lora_target_modules = TargetModules::Pattern(pattern.to_owned());
}

/// Why a text is no regular expression, in a line.
fn compile(pattern: &str) -> Result<regex::bytes::Regex, String> {
    super::patterns::pattern(pattern).map_err(|error| {
        let reason = error.to_string();
        reason.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned()
    })
}

/// Weights in few bits are frozen, and are so in one way.
pub(super) fn quantized_together(cx: &Context<'_>, config: &Config, is_given: &impl Fn(&str) -> bool) {
    let is_qlora = config.adapter == Some(Adapter::Qlora);
    for (key, is_set) in [("load_in_4bit", config.load_in_4bit), ("load_in_8bit", config.load_in_8bit)] {
        if is_set && !is_given("adapter") {
            let diagnostic = cx.error("conflict", key, format!("`{key}: true` without an `adapter`"));
            cx.report(
                diagnostic
                    .why("weights of so few bits cannot be trained")
                    .help("add `adapter: qlora` (or `lora` for eight bits), or delete the line"),
            );
        }
    }
    if config.load_in_4bit && config.load_in_8bit {
        let diagnostic = cx.error("conflict", "load_in_8bit", "`load_in_4bit` and `load_in_8bit` are both set");
        cx.report(diagnostic.help("keep one of them"));
    } else if is_qlora && !config.load_in_4bit {
        let diagnostic = cx.error("conflict", "adapter", "`adapter: qlora` without `load_in_4bit: true`");
        cx.report(diagnostic.why("QLoRA is LoRA beside weights of four bits").help(if config.load_in_8bit {
            "write `adapter: lora` for eight bits"
        } else {
            "add `load_in_4bit: true`"
        }));
    }
    if !config.load_in_4bit && is_given("bnb_config_kwargs") && config.bnb_config_kwargs != BnbConfigKwargs::default() {
        let message = "`bnb_config_kwargs` has no effect without `load_in_4bit: true`";
        let note = cx.error("no-effect", "bnb_config_kwargs", message);
        cx.report(Diagnostic { severity: Severity::Warning, ..note });
    }
}
