//! `config.json` of a model: sizes and constants, and what its family makes of them. Whatever differs from family to family
//! is data here; the schedule of a layer ([`super::decoder`]) reads it.

mod read;
mod rope;

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

pub(super) use read::Reader;
pub(super) use rope::Outside;

use super::families::{self, Composite};
pub use super::families::{ARCHITECTURES, COMPOSITE_ARCHITECTURES};
use super::quantized::Quantization;
pub use super::rope::{Rope, RopeScaling};
use super::stored::Stored;
use super::tensors::{LinearKind, NormKind, TensorSpec, Unit, tensors};
use crate::kernels::{Activation, AttentionShape, Demands, Head, Norm};

/// Why a `config.json` cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It cannot be read.
    #[error("cannot read `{path}`: {source}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// It is not JSON, or a key is missing or has the wrong type.
    #[error("`{path}` is not a valid model config: {reason}", path = path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// It asks for something that this trainer does not have.
    #[error("`{path}` asks for `{feature}`, which is not supported: {reason}", path = path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// The key and value.
        feature: String,
        /// Why, and what is.
        reason: String,
    },
}

/// Sizes and constants of a model.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    /// `LlamaForCausalLM` and so on.
    pub architecture: String,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the feed-forward layer.
    pub intermediate_size: usize,
    /// Decoder layers.
    pub num_hidden_layers: usize,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key and value heads.
    pub num_key_value_heads: usize,
    /// Elements per head.
    pub head_dim: usize,
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// Positions that the model was made for.
    pub max_position_embeddings: usize,
    /// The output projection is the embedding.
    pub tie_word_embeddings: bool,
    /// Standard deviation of a random start.
    pub initializer_range: f64,
    /// Beginning-of-text id.
    pub bos_token_id: Option<u32>,
    /// End-of-text ids.
    pub eos_token_id: Vec<u32>,
    /// Padding id.
    pub pad_token_id: Option<u32>,

    /// The norms of a layer, each with its module's name.
    pub norms: &'static [(NormKind, &'static str)],
    /// Added to the mean square of a norm.
    pub rms_norm_eps: f32,
    /// Added to the weights of norms: one where a checkpoint keeps differences to one.
    pub norm_offset: f32,
    /// Norms of queries and keys are over all heads together, not over each.
    pub norms_whole_heads: bool,
    /// Which projections are modules of their own.
    pub modules: LayerModules,
    /// Query, key and value projections have a bias.
    pub qkv_bias: bool,
    /// The output projection of attention has one.
    pub o_bias: bool,
    /// The projections of the feed-forward layer have one.
    pub mlp_bias: bool,
    /// What gates go through.
    pub activation: Activation,
    /// Rotary frequencies, each for the layers that name them.
    pub ropes: Vec<Rope>,
    /// What layers have that others may not have, one of each.
    pub layers: Vec<LayerSpec>,
    /// Factor of attention's scores.
    pub attention_scale: f32,
    /// See [`AttentionShape::cap`].
    pub attention_cap: Option<f32>,
    /// Factor of the embedding, where it has one.
    pub embedding_scale: Option<f32>,
    /// Factor of what a layer's two halves add to the residual stream.
    pub residual_scale: f32,
    /// Factor of the logits.
    pub logits_scale: f32,
    /// See [`Head::cap`].
    pub logits_cap: Option<f32>,

    /// What the checkpoint has otherwise, where it has.
    pub stored: Option<Stored>,
    /// How the layers' projections are packed, where they are.
    pub quantization: Option<Quantization>,
    /// The checkpoint has them packed already.
    pub stores_packed: bool,
    /// What the names of its modules begin with: `model`, or more where it is a part of another model.
    pub root: &'static str,
    /// What the names of tensors begin with that belong to other parts of the model: they are not read, and go along.
    pub others: &'static [&'static str],
    /// The file as it was, for export.
    pub raw: Map<String, Value>,
}

/// The modules that a layer has for its projections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LayerModules {
    /// One each.
    Apart,
    /// One for query, key and value, and one for gate and input (Phi-3).
    Fused,
    /// One for gate and input, and names of models of experts (Granite 4).
    Shared,
}

/// What a layer has that others of its model may not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerSpec {
    /// A token sees itself and the `window - 1` tokens before it; none sees the whole document.
    pub window: Option<usize>,
    /// Which of [`ModelConfig::ropes`] rotates queries and keys; none leaves them.
    pub rope: Option<usize>,
}

/// What the config of a text model that is a part is called.
const TEXT_CONFIG: &str = "text_config";
/// What the names of its modules begin with.
pub(super) const TEXT_ROOT: &str = "model.language_model";

/// Above this a size in the file is a mistake rather than a model.
const MAX_PARAMETERS: u128 = 1 << 40;
/// So are more layers.
const MAX_LAYERS: usize = 10_000;

impl ModelConfig {
    /// Reads `config.json` of a model directory.
    ///
    /// # Errors
    /// [`ConfigError`] names the file and what is wrong in it.
    pub fn from_dir(directory: &Path) -> Result<Self, ConfigError> {
        let path = directory.join("config.json");
        let bytes = intake::read_inside(&path, intake::JSON_BYTES)
            .map_err(|source| ConfigError::Read { path: path.clone(), source })?;
        let text = String::from_utf8(bytes)
            .map_err(|error| ConfigError::Invalid { path: path.clone(), reason: error.to_string() })?;
        Self::from_json(&text, &path)
    }

    /// The same model with other values of some keys of its `config.json`; `path` is for messages.
    ///
    /// # Errors
    /// [`ConfigError`] as for a file that has these values.
    pub fn with(&self, overrides: &Map<String, Value>, path: &Path) -> Result<Self, ConfigError> {
        let mut raw = self.raw.clone();
        raw.extend(overrides.clone());
        Self::from_raw(raw, path)
    }

    /// True if it is computed as the other one is, whatever else their files say.
    pub fn is_computed_as(&self, other: &Self) -> bool {
        Self { raw: Map::new(), ..self.clone() } == Self { raw: Map::new(), ..other.clone() }
    }

    /// Reads the text of a `config.json`; `path` is for messages. Both spellings of rotary settings are read: transformers
    /// 4 (`rope_theta`, `rope_scaling`) and 5 (`rope_parameters`). What is absent has the value of transformers' class for the
    /// family; sizes must be there.
    ///
    /// # Errors
    /// [`ConfigError`] names the file and what is wrong in it.
    pub fn from_json(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let raw: Map<String, Value> = serde_json::from_str(text)
            .map_err(|error| ConfigError::Invalid { path: path.to_owned(), reason: error.to_string() })?;
        Self::from_raw(raw, path)
    }

    fn from_raw(raw: Map<String, Value>, path: &Path) -> Result<Self, ConfigError> {
        if let Some(composite) = families::composite(&Reader::new(&raw, path)) {
            return Self::of_text(raw, composite, path);
        }
        let read = Reader::new(&raw, path);
        let family = families::of(&read)?;
        read.refuse_unsupported()?;
        let mut config = read.sizes(family)?;
        (family.build)(&read, &mut config)?;
        let mut limits = config.ropes.iter().filter_map(Rope::limit);
        if let Some(limit) = limits.next()
            && limits.any(|other| other != limit)
        {
            let reason = "all layers change over at one `original_max_position_embeddings`";
            return Err(read.unsupported("two rope_type: longrope".into(), reason));
        }
        if config.elements() > MAX_PARAMETERS {
            return Err(read.invalid(format!("its sizes make more than {MAX_PARAMETERS} parameters")));
        }
        Ok(config)
    }

    /// The text model of a model of several parts.
    fn of_text(raw: Map<String, Value>, composite: &Composite, path: &Path) -> Result<Self, ConfigError> {
        let Some(Value::Object(text)) = raw.get(TEXT_CONFIG) else {
            return Err(Reader::new(&raw, path).invalid(format!("`{TEXT_CONFIG}` is not an object")));
        };
        let mut text = text.clone();
        for (key, size) in composite.sizes {
            text.entry(*key).or_insert((*size).into());
        }
        // What is said of the whole model holds for its text.
        for key in ["tie_word_embeddings", "bos_token_id", "eos_token_id", "pad_token_id", "quantization_config"] {
            if let Some(value) = raw.get(key).filter(|value| !value.is_null()) {
                text.insert(key.to_owned(), value.clone());
            }
        }
        text.insert("model_type".into(), composite.text.model_type.into());
        text.insert("architectures".into(), serde_json::json!([composite.text.architecture]));
        let config = Self::from_raw(text, path)?;
        Ok(Self { root: TEXT_ROOT, others: composite.others, raw, ..config })
    }

    /// Writes a key of the config that is exported.
    pub(super) fn set_raw(&mut self, key: &str, value: Value) {
        let text = Some(()).filter(|()| self.root == TEXT_ROOT).and_then(|()| self.raw.get_mut(TEXT_CONFIG));
        let is_whole = ["tie_word_embeddings", "bos_token_id", "eos_token_id", "pad_token_id"].contains(&key);
        match text {
            Some(Value::Object(text)) if !is_whole => drop(text.insert(key.to_owned(), value)),
            Some(Value::Object(text)) => {
                text.insert(key.to_owned(), value.clone());
                self.raw.insert(key.to_owned(), value);
            }
            _ => drop(self.raw.insert(key.to_owned(), value)),
        }
    }

    /// Gives the layers that slide a window.
    pub(super) fn set_windows(
        &mut self,
        read: &Reader<'_>,
        window: Option<usize>,
        slides: &[bool],
    ) -> Result<(), ConfigError> {
        if window.is_none() && slides.contains(&true) {
            return Err(read.invalid("it has layers with a sliding window, but no `sliding_window`".into()));
        }
        for (layer, &slides) in self.layers.iter_mut().zip(slides) {
            layer.window = window.filter(|_| slides);
        }
        Ok(())
    }

    /// Layers without a window rotate as the first rope says, those with one as the second.
    pub(super) fn rope_by_window(&mut self) {
        for layer in &mut self.layers {
            layer.rope = Some(usize::from(layer.window.is_some()));
        }
    }

    /// The shape of attention.
    pub fn attention(&self) -> AttentionShape {
        AttentionShape {
            heads: self.num_attention_heads,
            kv_heads: self.num_key_value_heads,
            head_dim: self.head_dim,
            scale: self.attention_scale,
            cap: self.attention_cap,
        }
    }

    /// The smallest window of any layer.
    pub fn smallest_window(&self) -> Option<usize> {
        self.layers.iter().filter_map(|layer| layer.window).min()
    }

    /// Tokens beyond which a text is rotated otherwise than a short one; see [`Rope::limit`].
    pub fn rope_limit(&self) -> Option<usize> {
        self.ropes.iter().find_map(Rope::limit)
    }

    /// What it asks of a device.
    pub fn demands(&self) -> Demands {
        Demands {
            attention: self.attention(),
            window: self.smallest_window(),
            widest_norm: self.norms.iter().map(|(kind, _)| kind.width(self)).fold(self.hidden_size, usize::max),
            is_packed: self.quantization.is_some(),
        }
    }

    /// A norm of `n` rows of the residual stream.
    pub fn norm(&self, n: usize) -> Norm {
        Norm { offset: self.norm_offset, ..Norm::whole(n, self.hidden_size, self.rms_norm_eps) }
    }

    /// Sizes of the output projection.
    pub fn head(&self) -> Head {
        Head { width: self.hidden_size, vocabulary: self.vocab_size, cap: self.logits_cap }
    }

    /// Every layer has this norm.
    pub fn has_norm(&self, kind: NormKind) -> bool {
        self.norms.iter().any(|(own, _)| *own == kind)
    }

    /// The projections of a layer, in the order of the arena.
    pub fn linears(&self) -> impl Iterator<Item = LinearKind> {
        Unit::ALL.into_iter().flat_map(|unit| unit.kinds(self)).copied()
    }

    /// Elements of all parameters, without a list of them: what a file asks for is known before anything is made of it.
    fn elements(&self) -> u128 {
        let count = |layers: usize| -> u128 {
            let shapes = tensors(self, layers).into_iter();
            shapes.map(|spec| spec.shape.iter().map(|&size| size as u128).product::<u128>()).sum()
        };
        let without = count(0);
        without + (count(1) - without) * self.num_hidden_layers as u128
    }

    /// True where `rope_scaling` and `rope_parameters` are both there and say different things.
    pub fn has_two_ropes(&self) -> bool {
        let table = |key: &str| self.raw.get(key).and_then(Value::as_object).filter(|table| !table.is_empty());
        match (table("rope_scaling"), table("rope_parameters")) {
            (Some(old), Some(new)) => {
                let base = |table: &Map<String, Value>| {
                    table.get("rope_theta").or_else(|| self.raw.get("rope_theta")).and_then(Value::as_f64)
                };
                let kind = |table: &Map<String, Value>| table.get("rope_type").or_else(|| table.get("type")).cloned();
                let differs = |key: &str| old.get(key).and_then(Value::as_f64) != new.get(key).and_then(Value::as_f64);
                let numbers = ["factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"];
                base(old) != base(new) || kind(old) != kind(new) || numbers.into_iter().any(differs)
            }
            _ => false,
        }
    }

    /// Gives the model an output projection of its own, in what is exported too.
    pub fn untie(&mut self) {
        self.tie_word_embeddings = false;
        self.set_raw("tie_word_embeddings", false.into());
    }

    /// The ids with which a text begins, ends and is filled, in what is exported too. What is empty stays as it is.
    pub fn set_token_ids(&mut self, bos: Option<u32>, eos: &[u32], pad: Option<u32>) {
        if let Some(id) = bos {
            self.bos_token_id = Some(id);
            self.set_raw("bos_token_id", id.into());
        }
        if let Some(ids) = one_or_list(eos) {
            self.eos_token_id = eos.to_vec();
            self.set_raw("eos_token_id", ids);
        }
        if let Some(id) = pad {
            self.pad_token_id = Some(id);
            self.set_raw("pad_token_id", id.into());
        }
    }

    /// Every tensor, in transformers' order.
    pub fn parameters(&self) -> Vec<TensorSpec> {
        tensors(self, self.num_hidden_layers)
    }
}

/// Ids as Hugging Face's files have them: one alone, several as a list; none for none.
pub fn one_or_list(ids: &[u32]) -> Option<Value> {
    match ids {
        [] => None,
        [id] => Some((*id).into()),
        ids => Some(ids.into()),
    }
}

#[cfg(test)]
mod tests;
