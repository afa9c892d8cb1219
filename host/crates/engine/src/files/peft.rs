//! PEFT's adapter files: `adapter_config.json` and `adapter_model.safetensors`, as `PeftModel.save_pretrained` writes and
//! `PeftModel.from_pretrained` reads them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use safetensors::tensor::Metadata;
use safetensors::{Dtype, SafeTensors};
use serde_json::{Map, Value, json};

use crate::adapter::lora::{Lora, LoraConfig, Plan};
use crate::adapter::modules::{HEAD, Modules, NotSaved, Saved, expert_parameters, names};
use crate::architecture::config::ModelConfig;
use crate::architecture::scores::{Classifier, SCORE};
use crate::architecture::stored::NewRows;
use crate::architecture::tensors::{Role, TensorSpec, name_in_model};
use crate::error::{EngineError, PeftError};
use crate::files::export::{Entry, write_json, write_safetensors};
use crate::kernels::Kernels;
use crate::model::Model;
use crate::weights::{WeightsError, digest_files, map};

const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";
/// Rows that an embedding may get from an adapter.
const MOST_ROWS: usize = 1 << 24;
/// Labels that a head of scores may have.
const MOST_LABELS: usize = 1 << 16;
/// Entries that a pattern of its config may have.
const PATTERNS: usize = 10_000;

/// An adapter, and what its directory has beside it.
#[derive(Debug)]
pub struct Adapter<B> {
    /// The adapter.
    pub lora: Lora<B>,
    /// The model's own weights that come with it, by name: those that were trained, and the embedding and the output projection
    /// where their rows are more than the base model's.
    pub given: BTreeMap<String, Vec<f32>>,
}

/// What the names of an adapter's tensors begin with.
const PREFIX: &str = "base_model.model.";

/// The name that a trainer has for a tensor of a file that it has written: an adapter's own keep theirs, a model's have those
/// of the model.
pub fn parameter_name(name: &str) -> String {
    name_in_model(name.strip_prefix(PREFIX).filter(|_| !name.contains(".lora_")).unwrap_or(name))
}

/// A digest of an adapter's tensors.
///
/// # Errors
/// [`WeightsError`] for a file that cannot be read.
pub fn digest(directory: &Path) -> Result<[u8; 32], WeightsError> {
    digest_files([directory.join(WEIGHTS)])
}

/// What an adapter says that it was made for.
pub fn base_model(directory: &Path) -> Option<String> {
    let text = intake::read_inside(&directory.join(CONFIG), intake::JSON_BYTES).ok()?;
    let config: Map<String, Value> = serde_json::from_slice(&text).ok()?;
    config.get("base_model_name_or_path")?.as_str().map(str::to_owned)
}

/// Loads an adapter to go on from: one of what `wanted` says.
///
/// # Errors
/// As for [`load`], and [`PeftError::Other`] for an adapter of other modules, ranks or scales.
pub fn load_like<K: Kernels>(
    kernels: &K,
    model: &ModelConfig,
    directory: &Path,
    wanted: &LoraConfig,
) -> Result<Adapter<K::Buffer>, PeftError> {
    let path = directory.join(CONFIG);
    let config = read_config(&path, model, || adapted(model, &directory.join(WEIGHTS)))?;
    if let Some(reason) = difference(&config, wanted, model) {
        return Err(PeftError::Other { path, reason });
    }
    load_weights(kernels, model, directory, config)
}

/// What an adapter has otherwise than it is asked for. Its dropout is that of the run that made it.
fn difference(found: &LoraConfig, wanted: &LoraConfig, model: &ModelConfig) -> Option<String> {
    let (own, asked) = (found.modules.names(model), wanted.modules.names(model));
    let (is_own, is_asked): (BTreeSet<_>, BTreeSet<_>) = (own.iter().collect(), asked.iter().collect());
    if let Some(module) = own.iter().find(|module| !is_asked.contains(module)) {
        return Some(format!("it adapts `{module}`, for which no adapter is asked"));
    }
    if let Some(module) = asked.iter().find(|module| !is_own.contains(module)) {
        return Some(format!("it does not adapt `{module}`, for which an adapter is asked"));
    }
    let (saved, asked_saved) = (&found.saved.parameters, &wanted.saved.parameters);
    if let Some(name) = saved.symmetric_difference(asked_saved).next() {
        let [has, asked] = [saved, asked_saved].map(|names| if names.contains(name) { "has" } else { "does not have" });
        return Some(format!("it {has} `{name}`; `lora_modules_to_save` says that it {asked} it"));
    }
    if found.use_dora != wanted.use_dora {
        let [has, asked] = [found, wanted].map(|config| if config.use_dora { "is" } else { "is not" });
        return Some(format!("it {has} a DoRA adapter; `peft_use_dora` says that it {asked} to be one"));
    }
    own.iter().find_map(|module| {
        let ((rank, scale), (asked_rank, asked_scale)) = (found.of(module), wanted.of(module));
        if rank != asked_rank {
            return Some(format!("its rank for `{module}` is {rank}, {asked_rank} is asked"));
        }
        let differs = (scale as f32).to_bits() != (asked_scale as f32).to_bits();
        differs.then(|| {
            format!("it scales `{module}` by {scale}, {asked_scale} is asked (alpha over rank, or over its root)")
        })
    })
}

/// The modules that have a tensor in an adapter's file.
fn adapted(model: &ModelConfig, path: &Path) -> Result<Modules, PeftError> {
    let header = header(path)?;
    let has = |module: &str| header.info(&format!("{PREFIX}{module}.lora_A.weight")).is_some();
    Ok(Modules::matching(model, has))
}

/// Makes the config of a base model that of the model that an adapter is of: with as many tokens as it has rows for, an output
/// projection of its own where it says so, and a head of scores where its `task_type` has one.
///
/// # Errors
/// [`PeftError`] names the file and what is wrong in it.
pub fn fit(model: &mut ModelConfig, directory: &Path) -> Result<(), PeftError> {
    let path = directory.join(CONFIG);
    let raw = read_raw(&path)?;
    fit_scores(model, &path, &raw, &directory.join(WEIGHTS))?;
    let rows = embedding_rows(model, &directory.join(WEIGHTS))?;
    if let Some(rows) = rows.filter(|&rows| rows > model.vocab_size) {
        // All of them are in the file.
        model.grow(rows, NewRows::Mean);
    }
    saved(&path, model, &raw)?;
    Ok(())
}

/// Gives the model the head of scores that an adapter comes with.
fn fit_scores(model: &mut ModelConfig, path: &Path, raw: &Map<String, Value>, weights: &Path) -> Result<(), PeftError> {
    let task = raw.get("task_type").and_then(Value::as_str);
    let Some(classifier) = task.and_then(Classifier::of_task_type) else { return Ok(()) };
    let mismatch = |reason: String| PeftError::Mismatch { path: path.to_owned(), reason };
    let name = format!("{PREFIX}{SCORE}.weight");
    let own = header(weights)?.info(&name).map(|info| info.shape.clone());
    let labels = own.filter(|shape| shape.len() == 2 && shape[1] == model.hidden_size).map(|shape| shape[0]);
    let labels = labels.filter(|labels| (1..=MOST_LABELS).contains(labels));
    let labels = labels.ok_or_else(|| mismatch(format!("it scores, and has no `{name}` that fits the model")))?;
    // What it starts from is never seen: the adapter's file has all of it.
    model.score(classifier, labels, 0).map_err(|error| mismatch(error.to_string()))
}

/// Rows of the embedding or of the output projection that an adapter's file has, told from its header.
fn embedding_rows(model: &ModelConfig, path: &Path) -> Result<Option<usize>, PeftError> {
    let header = header(path)?;
    let names = model.parameters().into_iter().filter(|spec| matches!(spec.role, Role::Embedding | Role::Head));
    let names: Vec<String> = names.map(|spec| spec.name).chain(["lm_head.weight".to_owned()]).collect();
    let rows = |name: &String| {
        let shape = &header.info(&format!("{PREFIX}{name}"))?.shape;
        shape.first().copied().filter(|_| shape.get(1) == Some(&model.hidden_size))
    };
    Ok(names.iter().find_map(rows).filter(|&rows| rows <= MOST_ROWS))
}

/// The header of a safetensors file.
fn header(path: &Path) -> Result<Metadata, PeftError> {
    let read = SafeTensors::read_metadata(&mapped(path)?).map(|(_, metadata)| metadata);
    read.map_err(|error| PeftError::Invalid { path: path.to_owned(), reason: error.to_string() })
}

/// A file of tensors. What is looked at of it is read, and nothing else.
fn mapped(path: &Path) -> Result<Mmap, PeftError> {
    map(path).map_err(|error| match error {
        WeightsError::Read { file: path, source } => PeftError::Read { path, source },
        error => PeftError::Invalid { path: path.to_owned(), reason: error.to_string() },
    })
}

/// What `modules_to_save` picks of a model.
fn saved(path: &Path, model: &mut ModelConfig, raw: &Map<String, Value>) -> Result<Saved, PeftError> {
    let unsupported = |feature: String| PeftError::Unsupported { path: path.to_owned(), feature };
    let entries = match raw.get("modules_to_save") {
        None | Some(Value::Null) => return Ok(Saved::default()),
        Some(Value::Array(entries)) => entries.iter().map(|entry| entry.as_str().map(str::to_owned)).collect(),
        Some(_) => None,
    };
    let mut entries: Vec<String> =
        entries.ok_or_else(|| unsupported(format!("modules_to_save: {}", raw["modules_to_save"])))?;
    if model.scores.is_some() {
        // PEFT adds both names that a head of scores may have.
        entries.retain(|entry| entry != "classifier");
    }
    Saved::new(model, &entries).map_err(|error| match error {
        NotSaved::Nothing(entry) => unsupported(format!("modules_to_save: {entry}")),
        NotSaved::Packed(_, module) => {
            let reason = format!("it has weights of its own for `{module}`, whose weights are packed here");
            PeftError::Mismatch { path: path.to_owned(), reason }
        }
    })
}

/// Loads an adapter for a model that is as [`fit`] makes it.
///
/// # Errors
/// [`PeftError`] names the file and what is wrong in it.
pub fn load<K: Kernels>(kernels: &K, model: &ModelConfig, directory: &Path) -> Result<Adapter<K::Buffer>, PeftError> {
    // A pattern in the config need not be understood: what it picked is there.
    let config = read_config(&directory.join(CONFIG), model, || adapted(model, &directory.join(WEIGHTS)))?;
    load_weights(kernels, model, directory, config)
}

/// Loads the tensors of an adapter that has this config.
fn load_weights<K: Kernels>(
    kernels: &K,
    model: &ModelConfig,
    directory: &Path,
    config: LoraConfig,
) -> Result<Adapter<K::Buffer>, PeftError> {
    let path = directory.join(WEIGHTS);
    let invalid = |reason: String| PeftError::Invalid { path: path.clone(), reason };
    let (specs, saved) = (given(model, &config.saved), config.saved.parameters.clone());
    let plan = Plan::new(model, config);
    let bytes = mapped(&path)?;
    let tensors = SafeTensors::deserialize(&bytes).map_err(|error| invalid(error.to_string()))?;
    let known = plan.slots.iter().map(|slot| slot.name.as_str());
    let known: BTreeSet<&str> = known.chain(specs.iter().map(|(name, _)| name.as_str())).collect();
    if let Some(name) = tensors.names().into_iter().find(|name| !known.contains(name)) {
        let reason = format!("it has a tensor `{name}` for which the model has no place");
        return Err(PeftError::Mismatch { path, reason });
    }
    // Before there is memory for it: a config may ask for more than any machine has.
    let own = plan.slots.iter().map(|slot| (slot.name.as_str(), slot.shape.as_slice(), true));
    let given = specs.iter().map(|(name, shape)| {
        (name.as_str(), shape.as_slice(), saved.contains(name.strip_prefix(PREFIX).unwrap_or_default()))
    });
    for (name, shape, is_needed) in own.chain(given) {
        match tensors.tensor(name) {
            Ok(view) if view.shape() != shape => {
                let reason = format!("`{name}` has shape {:?}, the model asks for {shape:?}", view.shape());
                return Err(PeftError::Mismatch { path, reason });
            }
            Err(_) if is_needed => {
                return Err(PeftError::Mismatch { path, reason: format!("it has no tensor `{name}`") });
            }
            _ => {}
        }
    }
    let read = |name: &str| {
        let view = tensors.tensor(name).map_err(|error| invalid(error.to_string()))?;
        let values = floats(view.dtype(), view.data())
            .ok_or_else(|| invalid(format!("`{name}` has type {:?}; F32, F16 and BF16 are read", view.dtype())))?;
        if values.iter().any(|value| !value.is_finite()) {
            return Err(invalid(format!("`{name}` holds a value that is not finite")));
        }
        Ok(values)
    };
    let mut lora = Lora::on(kernels, model, plan);
    for slot in lora.slots().to_vec() {
        lora.put(kernels, &slot, &read(&slot.name)?);
    }
    let mut given = BTreeMap::new();
    for (name, _) in specs.iter().filter(|(name, _)| tensors.tensor(name).is_ok()) {
        given.insert(name.strip_prefix(PREFIX).unwrap_or(name).to_owned(), read(name)?);
    }
    Ok(Adapter { lora, given })
}

/// The model's own weights that an adapter's file may have, by their names there: those that are trained, and the embedding and
/// the output projection where the base model has fewer rows of them.
pub(crate) fn given(model: &ModelConfig, saved: &Saved) -> Vec<(String, Vec<usize>)> {
    let is_grown = |spec: &TensorSpec| model.new_rows() > 0 && matches!(spec.role, Role::Embedding | Role::Head);
    let specs = model.parameters().into_iter();
    let specs = specs.filter(|spec| saved.parameters.contains(&spec.name) || is_grown(spec));
    specs.map(|spec| (format!("{PREFIX}{}", spec.name), spec.shape)).collect()
}

/// Saves the adapter of a model. Returns the files.
///
/// # Errors
/// [`EngineError::Write`] names the file; [`EngineError::Options`] for a model without an adapter.
pub fn export_adapter<K: Kernels>(
    model: &Model<K>,
    directory: &Path,
    base_model: &str,
) -> Result<Vec<PathBuf>, EngineError> {
    let Some(lora) = &model.lora else {
        return Err(EngineError::Options { reason: "the model has no adapter to save".into() });
    };
    let config = lora.config();
    let given = given(&model.config, &config.saved);
    let own = lora.slots().iter().map(|slot| Entry::values(&slot.name, &slot.shape));
    let given = given.iter().map(|(name, shape)| Entry::values(name, shape));
    let entries: Vec<Entry<'_>> = own.chain(given).collect();
    let path = directory.join(WEIGHTS);
    write_safetensors(&path, &entries, &mut |name| match lora.slots().iter().find(|slot| slot.name == name) {
        Some(slot) => lora.get(&model.kernels, slot),
        None => model.parameter(name.strip_prefix(PREFIX).unwrap_or(name)).unwrap_or_default(),
    })?;
    let (targets, layers) = config.modules.to_peft(&model.config);
    let config = json!({
        "peft_type": "LORA",
        "task_type": model.config.scores.map_or("CAUSAL_LM", |scores| scores.classifier.task_type()),
        "base_model_name_or_path": base_model,
        "r": config.r,
        "lora_alpha": config.alpha,
        "lora_dropout": config.dropout,
        "use_rslora": config.use_rslora,
        "use_dora": config.use_dora,
        "target_modules": targets,
        "target_parameters": Some(config.modules.to_parameters(&model.config)).filter(|names| !names.is_empty()),
        "layers_to_transform": layers,
        "rank_pattern": config.ranks,
        "alpha_pattern": config.alphas,
        "bias": "none",
        "fan_in_fan_out": false,
        "inference_mode": true,
        "init_lora_weights": true,
        "modules_to_save": Some(&config.saved.modules).filter(|modules| !modules.is_empty()),
    });
    Ok(vec![path, write_json(directory, CONFIG, &config)?])
}

/// A config's text, of an adapter that is computed as those here are.
fn read_raw(path: &Path) -> Result<Map<String, Value>, PeftError> {
    let text = intake::read_inside(path, intake::JSON_BYTES)
        .map_err(|source| PeftError::Read { path: path.to_owned(), source })?;
    let raw: Map<String, Value> = serde_json::from_slice(&text)
        .map_err(|error| PeftError::Invalid { path: path.to_owned(), reason: error.to_string() })?;
    refuse_unsupported(path, &raw)?;
    Ok(raw)
}

fn read_config(
    path: &Path,
    model: &ModelConfig,
    adapted: impl FnOnce() -> Result<Modules, PeftError>,
) -> Result<LoraConfig, PeftError> {
    let raw = read_raw(path)?;
    let invalid = |reason: String| PeftError::Invalid { path: path.to_owned(), reason };
    let number = |key: &str| raw.get(key).and_then(Value::as_f64);
    let r = raw.get("r").and_then(Value::as_u64).filter(|r| (1..=65_536).contains(r));
    let r = r.ok_or_else(|| invalid("`r` must be a whole number from 1".into()))? as usize;
    let finite = |value: &Value| value.as_f64().filter(|alpha| (*alpha as f32).is_finite());
    let alpha = raw.get("lora_alpha").and_then(finite);
    let alpha = alpha.ok_or_else(|| invalid("`lora_alpha` must be a number".into()))?;
    let layers = match raw.get("layers_to_transform") {
        None | Some(Value::Null) => None,
        Some(Value::Number(one)) => one.as_u64().map(|layer| BTreeSet::from([layer as usize])),
        Some(Value::Array(all)) => Some(all.iter().filter_map(Value::as_u64).map(|layer| layer as usize).collect()),
        Some(other) => return Err(invalid(format!("`layers_to_transform` is {other}"))),
    };
    if let Some(layer) = layers.iter().flatten().find(|&&layer| layer >= model.num_hidden_layers) {
        let reason = format!("it adapts layer {layer}; the model has {}", model.num_hidden_layers);
        return Err(PeftError::Mismatch { path: path.to_owned(), reason });
    }
    let modules = match raw.get("target_modules") {
        Some(Value::Array(names)) => {
            let names: Vec<String> = names.iter().map(|name| name.as_str().unwrap_or_default().to_owned()).collect();
            let picks = |name: &&String| !Modules::listed(model, std::slice::from_ref(name), None).is_empty();
            if let Some(name) = names.iter().find(|name| !picks(name)) {
                let feature = format!("target_modules: {name}");
                return Err(PeftError::Unsupported { path: path.to_owned(), feature });
            }
            Modules::listed(model, &names, layers.as_ref())
        }
        Some(Value::String(word)) if word == "all-linear" => Modules::of(model.linears()).in_layers(layers.as_ref()),
        Some(Value::String(_)) => adapted()?,
        None | Some(Value::Null) if !parameters(path, &raw)?.is_empty() => Modules::default(),
        other => {
            let shown = other.map_or_else(|| "nothing".to_owned(), Value::to_string);
            return Err(PeftError::Unsupported { path: path.to_owned(), feature: format!("target_modules: {shown}") });
        }
    };
    let modules = modules.with_parameters(model, &parameters(path, &raw)?).map_err(|entry| {
        let feature = format!("target_parameters: {entry}");
        PeftError::Unsupported { path: path.to_owned(), feature }
    })?;
    let flag = |key: &str| raw.get(key).and_then(Value::as_bool).unwrap_or(false);
    let use_dora = flag("use_dora");
    if use_dora && modules.has_head() {
        let feature = format!("use_dora: true, target_modules: {HEAD}");
        return Err(PeftError::Unsupported { path: path.to_owned(), feature });
    }
    let rank = |value: &Value| value.as_u64().filter(|r| (1..=65_536).contains(r)).map(|r| r as usize);
    Ok(LoraConfig {
        r,
        alpha,
        dropout: number("lora_dropout").unwrap_or(0.0),
        use_rslora: flag("use_rslora"),
        use_dora,
        saved: saved(path, &mut model.clone(), &raw)?,
        ranks: pattern(path, model, &raw, "rank_pattern", rank)?,
        alphas: pattern(path, model, &raw, "alpha_pattern", finite)?,
        modules,
    })
}

/// Tensors of experts that get an adapter, as the config names them.
fn parameters(path: &Path, raw: &Map<String, Value>) -> Result<Vec<String>, PeftError> {
    let entries = match raw.get("target_parameters") {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::Array(entries)) => entries.iter().map(|entry| entry.as_str().map(str::to_owned)).collect(),
        Some(_) => None,
    };
    entries.ok_or_else(|| {
        let reason = "`target_parameters` is not a list of names".to_owned();
        PeftError::Invalid { path: path.to_owned(), reason }
    })
}

/// What a pattern of PEFT says of the model's modules: the first key that is a module's name, or its end after a dot. Such
/// keys are regular expressions to PEFT; here they are names.
fn pattern<T: Copy>(
    path: &Path,
    model: &ModelConfig,
    raw: &Map<String, Value>,
    key: &str,
    read: impl Fn(&Value) -> Option<T>,
) -> Result<BTreeMap<String, T>, PeftError> {
    let entries = match raw.get(key) {
        None | Some(Value::Null) => return Ok(BTreeMap::new()),
        Some(Value::Object(entries)) if entries.len() <= PATTERNS => entries,
        Some(_) => {
            let reason = format!("`{key}` must be a mapping of at most {PATTERNS} entries");
            return Err(PeftError::Invalid { path: path.to_owned(), reason });
        }
    };
    let mut named = Vec::new();
    for (pattern, value) in entries {
        let name = pattern.trim_start_matches('^').trim_end_matches('$').replace("\\.", ".");
        let is_name = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._".contains(&byte));
        let Some(value) = read(value).filter(|_| is_name && !name.is_empty()) else {
            let feature = format!("{key}: {{{pattern}: {value}}}");
            return Err(PeftError::Unsupported { path: path.to_owned(), feature });
        };
        named.push((name, pattern.starts_with('^'), value));
    }
    let of = |module: &str| {
        let fits = |name: &str, is_whole: bool| {
            let rest = module.strip_suffix(name);
            rest.is_some_and(|rest| rest.is_empty() || (!is_whole && rest.ends_with('.')))
        };
        named.iter().find(|(name, is_whole, _)| fits(name, *is_whole)).map(|&(.., value)| value)
    };
    let experts = expert_parameters(model).into_iter().map(|(_, _, name)| name);
    Ok(names(model).into_iter().chain(experts).filter_map(|module| of(&module).map(|value| (module, value))).collect())
}

/// Every option of PEFT's `LoraConfig` that changes what the adapter computes and that is not here.
fn refuse_unsupported(path: &Path, raw: &Map<String, Value>) -> Result<(), PeftError> {
    let refuse = |key: &str, value: &Value| {
        Err(PeftError::Unsupported { path: path.to_owned(), feature: format!("{key}: {value}") })
    };
    match raw.get("peft_type") {
        Some(Value::String(kind)) if kind == "LORA" => {}
        other => return refuse("peft_type", other.unwrap_or(&Value::Null)),
    }
    for key in [
        "use_qalora",
        "fan_in_fan_out",
        "lora_bias",
        "layer_replication",
        "layers_pattern",
        "trainable_token_indices",
        "exclude_modules",
        "alora_invocation_tokens",
        "corda_config",
        "eva_config",
        "arrow_config",
    ] {
        let asks = match raw.get(key) {
            None | Some(Value::Null | Value::Bool(false)) => false,
            Some(Value::Array(list)) => !list.is_empty(),
            Some(Value::Object(map)) => !map.is_empty(),
            Some(_) => true,
        };
        if asks {
            return refuse(key, &raw[key]);
        }
    }
    match raw.get("bias") {
        None | Some(Value::Null) => Ok(()),
        Some(Value::String(bias)) if bias == "none" => Ok(()),
        Some(other) => refuse("bias", other),
    }
}

fn floats(dtype: Dtype, bytes: &[u8]) -> Option<Vec<f32>> {
    let halves = || bytes.chunks_exact(2).map(|word| u16::from_le_bytes([word[0], word[1]]));
    match dtype {
        Dtype::F32 => {
            Some(bytes.chunks_exact(4).map(|word| f32::from_le_bytes([word[0], word[1], word[2], word[3]])).collect())
        }
        Dtype::BF16 => Some(halves().map(|half| f32::from_bits(u32::from(half) << 16)).collect()),
        Dtype::F16 => Some(halves().map(half_to_float).collect()),
        _ => None,
    }
}

/// IEEE 754 binary16.
fn half_to_float(half: u16) -> f32 {
    let (sign, exponent, fraction) = (half >> 15, (half >> 10) & 31, f32::from(half & 0x3ff));
    let magnitude = match exponent {
        0 => fraction * 2.0f32.powi(-24),
        31 if fraction == 0.0 => f32::INFINITY,
        31 => f32::NAN,
        _ => (1.0 + fraction / 1024.0) * 2.0f32.powi(i32::from(exponent) - 15),
    };
    if sign == 1 { -magnitude } else { magnitude }
}
