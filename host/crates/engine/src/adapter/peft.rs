//! PEFT's adapter files: `adapter_config.json` and `adapter_model.safetensors`, as `PeftModel.save_pretrained` writes and
//! `PeftModel.from_pretrained` reads them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use safetensors::{Dtype, SafeTensors};
use serde_json::{Map, Value, json};

use super::lora::{Lora, LoraConfig, Plan};
use super::modules::{HEAD, Modules, names};
use crate::EngineError;
use crate::kernels::Kernels;
use crate::model::Model;
use crate::model::config::ModelConfig;
use crate::model::export::{Entry, write_json, write_safetensors};

const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";
/// Bytes that an adapter's weights may have: they are read whole.
const WEIGHT_BYTES: u64 = 64 << 30;
/// What its file may have beyond the values that its config asks for: names, and tensors that are named in an error.
const SPARE_BYTES: u64 = 256 << 20;
/// Entries that a pattern of its config may have.
const PATTERNS: usize = 10_000;

/// Why an adapter directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PeftError {
    /// A file cannot be read.
    #[error("cannot read `{path}`: {source}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file is not what it must be.
    #[error("`{path}` is not a valid adapter file: {reason}", path = path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// It asks for something that this trainer does not have.
    #[error("`{path}` asks for `{feature}`, which is not supported", path = path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// The key and value.
        feature: String,
    },
    /// It is not the adapter that is asked for.
    #[error("`{path}` is of another adapter than the one asked for: {reason}", path = path.display())]
    Other {
        /// The file.
        path: PathBuf,
        /// What differs.
        reason: String,
    },
    /// It is an adapter for another model.
    #[error("`{path}` does not fit the model: {reason}", path = path.display())]
    Mismatch {
        /// The file.
        path: PathBuf,
        /// What differs.
        reason: String,
    },
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
) -> Result<Lora<K::Buffer>, PeftError> {
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
    let read = intake::read_inside(path, WEIGHT_BYTES);
    let bytes = read.map_err(|source| PeftError::Read { path: path.to_owned(), source })?;
    let tensors = SafeTensors::deserialize(&bytes)
        .map_err(|error| PeftError::Invalid { path: path.to_owned(), reason: error.to_string() })?;
    let names: BTreeSet<&str> = tensors.names().into_iter().collect();
    let has = |module: &str| names.contains(format!("base_model.model.{module}.lora_A.weight").as_str());
    Ok(Modules::matching(model, has))
}

/// Loads an adapter.
///
/// # Errors
/// [`PeftError`] names the file and what is wrong in it.
pub fn load<K: Kernels>(kernels: &K, model: &ModelConfig, directory: &Path) -> Result<Lora<K::Buffer>, PeftError> {
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
) -> Result<Lora<K::Buffer>, PeftError> {
    let path = directory.join(WEIGHTS);
    let invalid = |reason: String| PeftError::Invalid { path: path.clone(), reason };
    let plan = Plan::new(model, config);
    let room = (plan.len as u64).saturating_mul(4).saturating_add(SPARE_BYTES).min(WEIGHT_BYTES);
    let bytes = intake::read_inside(&path, room).map_err(|source| PeftError::Read { path: path.clone(), source })?;
    let tensors = SafeTensors::deserialize(&bytes).map_err(|error| invalid(error.to_string()))?;
    let known: BTreeSet<&str> = plan.slots.iter().map(|slot| slot.name.as_str()).collect();
    if let Some(name) = tensors.names().into_iter().find(|name| !known.contains(name)) {
        let reason = format!("it has a tensor `{name}` for which the model has no place");
        return Err(PeftError::Mismatch { path, reason });
    }
    // Before there is memory for it: a config may ask for more than any machine has.
    for slot in &plan.slots {
        let Ok(view) = tensors.tensor(&slot.name) else {
            return Err(PeftError::Mismatch { path, reason: format!("it has no tensor `{}`", slot.name) });
        };
        if view.shape() != slot.shape {
            let reason = format!("`{}` has shape {:?}, the model asks for {:?}", slot.name, view.shape(), slot.shape);
            return Err(PeftError::Mismatch { path, reason });
        }
    }
    let mut lora = Lora::on(kernels, model, plan);
    for slot in lora.slots().to_vec() {
        let view = tensors.tensor(&slot.name).map_err(|error| invalid(error.to_string()))?;
        let values = floats(view.dtype(), view.data()).ok_or_else(|| {
            invalid(format!("`{}` has type {:?}; F32, F16 and BF16 are read", slot.name, view.dtype()))
        })?;
        if values.iter().any(|value| !value.is_finite()) {
            return Err(invalid(format!("`{}` holds a value that is not finite", slot.name)));
        }
        lora.put(kernels, &slot, &values);
    }
    Ok(lora)
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
    let entries: Vec<Entry<'_>> =
        lora.slots().iter().map(|slot| Entry { name: &slot.name, shape: &slot.shape }).collect();
    let path = directory.join(WEIGHTS);
    write_safetensors(&path, &entries, &mut |name| {
        let slot = lora.slots().iter().find(|slot| slot.name == name);
        slot.map_or_else(Vec::new, |slot| lora.get(&model.kernels, slot))
    })?;
    let config = lora.config();
    let (targets, layers) = config.modules.to_peft(&model.config);
    let config = json!({
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_model,
        "r": config.r,
        "lora_alpha": config.alpha,
        "lora_dropout": config.dropout,
        "use_rslora": config.use_rslora,
        "use_dora": config.use_dora,
        "target_modules": targets,
        "layers_to_transform": layers,
        "rank_pattern": config.ranks,
        "alpha_pattern": config.alphas,
        "bias": "none",
        "fan_in_fan_out": false,
        "inference_mode": true,
        "init_lora_weights": true,
        "modules_to_save": null,
    });
    Ok(vec![path, write_json(directory, CONFIG, &config)?])
}

fn read_config(
    path: &Path,
    model: &ModelConfig,
    adapted: impl FnOnce() -> Result<Modules, PeftError>,
) -> Result<LoraConfig, PeftError> {
    let text = intake::read_inside(path, intake::JSON_BYTES)
        .map_err(|source| PeftError::Read { path: path.to_owned(), source })?;
    let invalid = |reason: String| PeftError::Invalid { path: path.to_owned(), reason };
    let raw: Map<String, Value> = serde_json::from_slice(&text).map_err(|error| invalid(error.to_string()))?;
    refuse_unsupported(path, &raw)?;
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
        other => {
            let shown = other.map_or_else(|| "nothing".to_owned(), Value::to_string);
            return Err(PeftError::Unsupported { path: path.to_owned(), feature: format!("target_modules: {shown}") });
        }
    };
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
        ranks: pattern(path, model, &raw, "rank_pattern", rank)?,
        alphas: pattern(path, model, &raw, "alpha_pattern", finite)?,
        modules,
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
    Ok(names(model).into_iter().filter_map(|module| of(&module).map(|value| (module, value))).collect())
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
        "modules_to_save",
        "layer_replication",
        "layers_pattern",
        "trainable_token_indices",
        "target_parameters",
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
