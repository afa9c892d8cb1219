//! A `config.json` made into a [`ModelConfig`]: by the family that it names, or as the text model of a model of several parts.

use std::path::Path;

use serde_json::{Map, Value};

use super::config::{ConfigError, LayerModules, LayerSpec, ModelConfig, TEXT_CONFIG, TEXT_ROOT};
use super::families::family::{Composite, Family};
use super::families::{composite, of};
use super::read::Reader;
use super::rope::Rope;
use super::scores::{Classifier, Scores, has_token_bias};
use crate::kernels::Activation;

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
        if let Some(composite) = composite(&Reader::new(&raw, path)) {
            return Self::of_text(raw, composite, path);
        }
        let read = Reader::new(&raw, path);
        let family = of(&read)?;
        read.refuse_unsupported()?;
        let mut config = sizes(&read, family)?;
        (family.build)(&read, &mut config)?;
        config.scores = scores(&read, family)?;
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
        let family = composite.family(&Reader::new(&text, path))?;
        for (key, size) in composite.sizes {
            text.entry(*key).or_insert((*size).into());
        }
        // What is said of the whole model holds for its text.
        for key in ["tie_word_embeddings", "bos_token_id", "eos_token_id", "pad_token_id", "quantization_config"] {
            if let Some(value) = raw.get(key).filter(|value| !value.is_null()) {
                text.insert(key.to_owned(), value.clone());
            }
        }
        text.insert("model_type".into(), family.model_type.into());
        text.insert("architectures".into(), serde_json::json!([family.architecture]));
        let config = Self::from_raw(text, path)?;
        Ok(Self { root: TEXT_ROOT, others: composite.others, raw, ..config })
    }
}

/// The sizes that every family has, and a plain model of them; what the family is not known for is to be filled in.
fn sizes(read: &Reader<'_>, family: &Family) -> Result<ModelConfig, ConfigError> {
    let defaults = &family.defaults;
    let (hidden_size, num_attention_heads) = (read.size("hidden_size")?, read.size("num_attention_heads")?);
    let num_key_value_heads = match (read.optional_size("num_key_value_heads")?, defaults.num_key_value_heads) {
        (Some(heads), _) => heads,
        (None, Some(heads)) if !read.raw.contains_key("num_key_value_heads") => heads,
        (None, _) => num_attention_heads,
    };
    let of_class = defaults.head_dim.filter(|_| !read.raw.contains_key("head_dim"));
    let head_dim = match read.optional_size("head_dim")?.or(of_class) {
        Some(head_dim) => head_dim,
        None if hidden_size % num_attention_heads == 0 => hidden_size / num_attention_heads,
        None => {
            return Err(read.invalid(format!(
                "`hidden_size` {hidden_size} is not a multiple of `num_attention_heads` {num_attention_heads}"
            )));
        }
    };
    if num_attention_heads % num_key_value_heads != 0 {
        return Err(read.invalid(format!(
            "`num_attention_heads` {num_attention_heads} is not a multiple of `num_key_value_heads` {num_key_value_heads}"
        )));
    }
    if head_dim % 2 != 0 {
        return Err(read.invalid(format!("the head size {head_dim} is odd, so it has no halves to rotate")));
    }
    let num_hidden_layers = read.size("num_hidden_layers")?;
    if num_hidden_layers > MAX_LAYERS {
        return Err(read.invalid(format!("`num_hidden_layers` is {num_hidden_layers}; the most is {MAX_LAYERS}")));
    }
    let longest = defaults.max_position_embeddings;
    let tie_word_embeddings = match read.raw.get("tie_word_embeddings") {
        None => defaults.tie_word_embeddings,
        Some(_) => read.flag("tie_word_embeddings")?,
    };
    Ok(ModelConfig {
        architecture: family.architecture.to_owned(),
        hidden_size,
        intermediate_size: read.size("intermediate_size")?,
        num_hidden_layers,
        num_attention_heads,
        num_key_value_heads,
        head_dim,
        vocab_size: read.size("vocab_size")?,
        max_position_embeddings: read.optional_size("max_position_embeddings")?.unwrap_or(longest),
        tie_word_embeddings,
        initializer_range: read.number("initializer_range")?.unwrap_or(0.02),
        bos_token_id: read.ids("bos_token_id", defaults.bos_token_id)?.first().copied(),
        eos_token_id: read.ids("eos_token_id", defaults.eos_token_id)?,
        pad_token_id: read.ids("pad_token_id", defaults.pad_token_id)?.first().copied(),
        norms: family.norms,
        rms_norm_eps: read.number("rms_norm_eps")?.unwrap_or(defaults.rms_norm_eps) as f32,
        norm_offset: 0.0,
        norms_whole_heads: false,
        rotates_before_norms: false,
        modules: LayerModules::Apart,
        qkv_bias: false,
        o_bias: false,
        mlp_bias: false,
        activation: Activation::Silu,
        ropes: Vec::new(),
        query_rope: None,
        layers: vec![LayerSpec { window: None, rope: Some(0), has_experts: false }; num_hidden_layers],
        experts: None,
        attention_scale: (1.0 / (head_dim as f64).sqrt()) as f32,
        attention_cap: None,
        embedding_scale: None,
        scales_noise: false,
        residual_scale: 1.0,
        logits_scale: 1.0,
        logits_cap: None,
        scores: None,
        classifiers: family.classifiers,
        stored: None,
        quantization: read.quantization()?,
        stores_packed: read.is_packed(),
        root: "model",
        others: &[],
        raw: read.raw.clone(),
    })
}

/// The head of scores of a file whose class has one; it has as many labels as `id2label`, or as `num_labels`, or two.
fn scores(read: &Reader<'_>, family: &Family) -> Result<Option<Scores>, ConfigError> {
    let is_of = |classifier: &Classifier| {
        let class = family.classifiers[*classifier as usize];
        class.is_some() && class == read.listed_architecture()
    };
    let Some(classifier) = [Classifier::Sequence, Classifier::Token].into_iter().find(is_of) else { return Ok(None) };
    let labels = match read.raw_value("id2label") {
        None | Some(Value::Null) => read.optional_size("num_labels")?.unwrap_or(2),
        Some(Value::Object(names)) if !names.is_empty() => names.len(),
        Some(_) => return Err(read.invalid("`id2label` is not a mapping of labels".into())),
    };
    let has_bias = classifier == Classifier::Token && has_token_bias(read.raw);
    Ok(Some(Scores { classifier, labels, has_bias, start: None }))
}
