//! `config.json` of a model of the Llama family.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

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

/// How rotary frequencies are stretched for long contexts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum RopeScaling {
    /// All frequencies divided by `factor`.
    Linear {
        /// Stretch.
        factor: f64,
    },
    /// Low frequencies divided by `factor`, high ones kept, a ramp between (Llama 3.1).
    Llama3 {
        /// Stretch of the low frequencies.
        factor: f64,
        /// Wavelengths above `original / low_freq_factor` are stretched.
        low_freq_factor: f64,
        /// Wavelengths below `original / high_freq_factor` are kept.
        high_freq_factor: f64,
        /// Context that the model was first trained with.
        original_max_position_embeddings: f64,
    },
}

/// Name and shape of a parameter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParameterSpec {
    /// As transformers names it.
    pub name: String,
    /// As transformers stores it.
    pub shape: Vec<usize>,
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
    /// Added to the mean square of a norm.
    pub rms_norm_eps: f32,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Stretch of the rotary frequencies.
    pub rope_scaling: Option<RopeScaling>,
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
    /// The file as it was, for export.
    pub raw: Map<String, Value>,
}

impl ModelConfig {
    /// Reads `config.json` of a model directory.
    ///
    /// # Errors
    /// [`ConfigError`] names the file and what is wrong in it.
    pub fn from_dir(directory: &Path) -> Result<Self, ConfigError> {
        let path = directory.join("config.json");
        let text = std::fs::read_to_string(&path).map_err(|source| ConfigError::Read { path: path.clone(), source })?;
        Self::from_json(&text, &path)
    }

    /// Reads the text of a `config.json`; `path` is for messages.
    ///
    /// # Errors
    /// [`ConfigError`] names the file and what is wrong in it.
    pub fn from_json(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let invalid = |reason: String| ConfigError::Invalid { path: path.to_owned(), reason };
        let raw: Map<String, Value> = serde_json::from_str(text).map_err(|error| invalid(error.to_string()))?;
        let size = |key: &str| {
            raw.get(key)
                .and_then(Value::as_u64)
                .filter(|&value| value > 0 && value < 1 << 24)
                .map(|value| value as usize)
                .ok_or_else(|| invalid(format!("`{key}` must be a whole number above 0")))
        };
        let (hidden_size, num_attention_heads) = (size("hidden_size")?, size("num_attention_heads")?);
        let rope = raw.get("rope_parameters").and_then(Value::as_object);
        Ok(Self {
            architecture: "LlamaForCausalLM".into(),
            hidden_size,
            intermediate_size: size("intermediate_size")?,
            num_hidden_layers: size("num_hidden_layers")?,
            num_attention_heads,
            num_key_value_heads: size("num_key_value_heads").unwrap_or(num_attention_heads),
            head_dim: size("head_dim").unwrap_or(hidden_size / num_attention_heads),
            vocab_size: size("vocab_size")?,
            rms_norm_eps: raw.get("rms_norm_eps").and_then(Value::as_f64).unwrap_or(1e-6) as f32,
            rope_theta: rope
                .and_then(|rope| rope.get("rope_theta"))
                .or_else(|| raw.get("rope_theta"))
                .and_then(Value::as_f64)
                .unwrap_or(10_000.0),
            rope_scaling: None,
            max_position_embeddings: size("max_position_embeddings").unwrap_or(2048),
            tie_word_embeddings: raw.get("tie_word_embeddings").and_then(Value::as_bool).unwrap_or(false),
            initializer_range: raw.get("initializer_range").and_then(Value::as_f64).unwrap_or(0.02),
            bos_token_id: None,
            eos_token_id: vec![],
            pad_token_id: None,
            raw,
        })
    }

    /// Every parameter in transformers' order.
    pub fn parameters(&self) -> Vec<ParameterSpec> {
        let (h, ffn) = (self.hidden_size, self.intermediate_size);
        let (q, kv) = (self.num_attention_heads * self.head_dim, self.num_key_value_heads * self.head_dim);
        let mut all = Vec::new();
        let mut add = |name: String, shape: &[usize]| all.push(ParameterSpec { name, shape: shape.to_vec() });
        add("model.embed_tokens.weight".into(), &[self.vocab_size, h]);
        for layer in 0..self.num_hidden_layers {
            let mut own = |name: &str, shape: &[usize]| add(format!("model.layers.{layer}.{name}.weight"), shape);
            own("self_attn.q_proj", &[q, h]);
            own("self_attn.k_proj", &[kv, h]);
            own("self_attn.v_proj", &[kv, h]);
            own("self_attn.o_proj", &[h, q]);
            own("mlp.gate_proj", &[ffn, h]);
            own("mlp.up_proj", &[ffn, h]);
            own("mlp.down_proj", &[h, ffn]);
            own("input_layernorm", &[h]);
            own("post_attention_layernorm", &[h]);
        }
        add("model.norm.weight".into(), &[h]);
        if !self.tie_word_embeddings {
            add("lm_head.weight".into(), &[self.vocab_size, h]);
        }
        all
    }
}
