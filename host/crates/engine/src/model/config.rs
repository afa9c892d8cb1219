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

/// Above this a size in the file is a mistake rather than a model.
const MAX_PARAMETERS: usize = 1 << 40;

/// Typed access to the keys of the file.
struct Reader<'a> {
    raw: &'a Map<String, Value>,
    path: &'a Path,
}

impl Reader<'_> {
    fn invalid(&self, reason: String) -> ConfigError {
        ConfigError::Invalid { path: self.path.to_owned(), reason }
    }

    fn unsupported(&self, feature: String, reason: &str) -> ConfigError {
        ConfigError::Unsupported { path: self.path.to_owned(), feature, reason: reason.to_owned() }
    }

    fn optional_size(&self, key: &str) -> Result<Option<usize>, ConfigError> {
        match self.raw.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => match value.as_u64() {
                Some(size @ 1..=0x0fff_ffff) => Ok(Some(size as usize)),
                _ => Err(self.invalid(format!("`{key}` is {value}, not a whole number from 1 to 268435455"))),
            },
        }
    }

    fn size(&self, key: &str) -> Result<usize, ConfigError> {
        self.optional_size(key)?.ok_or_else(|| self.invalid(format!("`{key}` is missing")))
    }

    fn number(&self, key: &str) -> Result<Option<f64>, ConfigError> {
        match self.raw.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => value
                .as_f64()
                .filter(|number| number.is_finite() && *number >= 0.0)
                .map(Some)
                .ok_or_else(|| self.invalid(format!("`{key}` is {value}, not a number"))),
        }
    }

    /// A token id, or a list of them.
    fn ids(&self, key: &str) -> Result<Vec<u32>, ConfigError> {
        let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
        let ids = match self.raw.get(key) {
            None | Some(Value::Null) => Some(Vec::new()),
            Some(Value::Array(values)) => values.iter().map(id).collect(),
            Some(value) => id(value).map(|id| vec![id]),
        };
        ids.ok_or_else(|| self.invalid(format!("`{key}` is {}, not a token id", self.raw[key])))
    }

    fn architecture(&self) -> Result<String, ConfigError> {
        let listed = self.raw.get("architectures").and_then(Value::as_array).and_then(|list| list.first());
        let name = match (listed.and_then(Value::as_str), self.raw.get("model_type").and_then(Value::as_str)) {
            (Some(name), _) => name.to_owned(),
            (None, Some("llama")) => "LlamaForCausalLM".into(),
            (None, Some("mistral")) => "MistralForCausalLM".into(),
            (None, Some(other)) => other.to_owned(),
            (None, None) => return Err(self.invalid("it names neither `architectures` nor `model_type`".into())),
        };
        match name.as_str() {
            "LlamaForCausalLM" | "MistralForCausalLM" => Ok(name),
            _ => Err(self.unsupported(
                format!("architecture {name}"),
                "LlamaForCausalLM and MistralForCausalLM (without a sliding window) can be trained",
            )),
        }
    }

    fn refuse_unsupported(&self) -> Result<(), ConfigError> {
        for key in ["attention_bias", "mlp_bias"] {
            if self.raw.get(key).and_then(Value::as_bool) == Some(true) {
                return Err(self.unsupported(format!("{key}: true"), "projections here have no bias"));
            }
        }
        for key in ["sliding_window", "quantization_config"] {
            if let Some(value) = self.raw.get(key).filter(|value| !value.is_null()) {
                let reason = if key == "sliding_window" {
                    "attention here sees the whole document"
                } else {
                    "weights must be stored as F32, F16 or BF16"
                };
                return Err(self.unsupported(format!("{key}: {value}"), reason));
            }
        }
        if let Some(activation) = self.raw.get("hidden_act").and_then(Value::as_str)
            && activation != "silu"
            && activation != "swish"
        {
            return Err(self.unsupported(format!("hidden_act: {activation}"), "the feed-forward layer uses silu"));
        }
        if self.raw.get("attention_dropout").and_then(Value::as_f64).is_some_and(|share| share > 0.0) {
            return Err(self.unsupported("attention_dropout".into(), "attention here drops nothing; set it to 0"));
        }
        Ok(())
    }

    fn rope(&self) -> Result<(f64, Option<RopeScaling>), ConfigError> {
        let table = |key: &str| self.raw.get(key).and_then(Value::as_object);
        let scaling = table("rope_parameters").or_else(|| table("rope_scaling"));
        let value = |key: &str| scaling.and_then(|scaling| scaling.get(key)).and_then(Value::as_f64);
        let theta = value("rope_theta").or(self.number("rope_theta")?).unwrap_or(10_000.0);
        let kind = scaling
            .and_then(|scaling| scaling.get("rope_type").or_else(|| scaling.get("type")))
            .and_then(Value::as_str);
        let need = |key: &str| {
            value(key).filter(|number| number.is_finite() && *number > 0.0).ok_or_else(|| {
                self.invalid(format!("rotary scaling `{}` needs `{key}` above 0", kind.unwrap_or_default()))
            })
        };
        let scaling = match kind {
            None | Some("default") => None,
            Some("linear") => Some(RopeScaling::Linear { factor: need("factor")? }),
            Some("llama3") => Some(RopeScaling::Llama3 {
                factor: need("factor")?,
                low_freq_factor: need("low_freq_factor")?,
                high_freq_factor: need("high_freq_factor")?,
                original_max_position_embeddings: need("original_max_position_embeddings")?,
            }),
            Some(other) => {
                return Err(self.unsupported(format!("rope_type: {other}"), "default, linear and llama3 are supported"));
            }
        };
        Ok((theta, scaling))
    }
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

    /// Reads the text of a `config.json`; `path` is for messages. Both spellings of rotary settings are read: transformers
    /// 4 (`rope_theta`, `rope_scaling`) and 5 (`rope_parameters`).
    ///
    /// # Errors
    /// [`ConfigError`] names the file and what is wrong in it.
    pub fn from_json(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let raw: Map<String, Value> = serde_json::from_str(text)
            .map_err(|error| ConfigError::Invalid { path: path.to_owned(), reason: error.to_string() })?;
        let read = Reader { raw: &raw, path };
        let architecture = read.architecture()?;
        read.refuse_unsupported()?;
        let (hidden_size, num_attention_heads) = (read.size("hidden_size")?, read.size("num_attention_heads")?);
        let num_key_value_heads = read.optional_size("num_key_value_heads")?.unwrap_or(num_attention_heads);
        let head_dim = match read.optional_size("head_dim")? {
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
        let (rope_theta, rope_scaling) = read.rope()?;
        let config = Self {
            architecture,
            hidden_size,
            intermediate_size: read.size("intermediate_size")?,
            num_hidden_layers: read.size("num_hidden_layers")?,
            num_attention_heads,
            num_key_value_heads,
            head_dim,
            vocab_size: read.size("vocab_size")?,
            rms_norm_eps: read.number("rms_norm_eps")?.unwrap_or(1e-6) as f32,
            rope_theta,
            rope_scaling,
            max_position_embeddings: read.optional_size("max_position_embeddings")?.unwrap_or(2048),
            tie_word_embeddings: raw.get("tie_word_embeddings").and_then(Value::as_bool).unwrap_or(false),
            initializer_range: read.number("initializer_range")?.unwrap_or(0.02),
            bos_token_id: read.ids("bos_token_id")?.first().copied(),
            eos_token_id: read.ids("eos_token_id")?,
            pad_token_id: read.ids("pad_token_id")?.first().copied(),
            raw: raw.clone(),
        };
        let elements = config.parameters().iter().try_fold(0usize, |sum, spec| {
            spec.shape.iter().try_fold(1usize, |len, &size| len.checked_mul(size)).and_then(|len| sum.checked_add(len))
        });
        match elements {
            Some(elements) if elements <= MAX_PARAMETERS => Ok(config),
            _ => Err(read.invalid(format!("its sizes make more than {MAX_PARAMETERS} parameters"))),
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"{"architectures": ["LlamaForCausalLM"], "hidden_size": 64, "intermediate_size": 96,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 100,
        "eos_token_id": [2, 3], "rope_theta": 5000.0}"#;

    fn read(edit: &str) -> Result<ModelConfig, ConfigError> {
        let mut raw: Map<String, Value> = serde_json::from_str(GOOD).unwrap();
        raw.extend(serde_json::from_str::<Map<String, Value>>(edit).unwrap());
        ModelConfig::from_json(&Value::Object(raw).to_string(), Path::new("m/config.json"))
    }

    #[test]
    fn reads_both_spellings_of_rotary_settings() {
        assert_eq!(read("{}").unwrap().eos_token_id, [2, 3]);
        assert!((read("{}").unwrap().rope_theta - 5000.0).abs() < 1e-9);
        let llama3 = r#""factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192"#;
        let old = read(&format!(r#"{{"rope_scaling": {{"rope_type": "llama3", {llama3}}}}}"#)).unwrap();
        let new = read(&format!(r#"{{"rope_parameters": {{"rope_theta": 5000.0, "rope_type": "llama3", {llama3}}}}}"#))
            .unwrap();
        assert_eq!((old.rope_theta, old.rope_scaling), (new.rope_theta, new.rope_scaling));
    }

    #[test]
    fn what_is_wrong_or_unknown_is_named() {
        for (edit, expected) in [
            (r#"{"hidden_size": 0}"#, "`hidden_size` is 0"),
            (r#"{"hidden_size": 65}"#, "not a multiple of `num_attention_heads`"),
            (r#"{"num_key_value_heads": 3}"#, "not a multiple of `num_key_value_heads`"),
            (r#"{"vocab_size": -1}"#, "`vocab_size` is -1"),
            (
                r#"{"vocab_size": 200000000, "hidden_size": 200000000, "head_dim": 2}"#,
                "more than 1099511627776 parameters",
            ),
            (r#"{"architectures": ["GPT2LMHeadModel"]}"#, "asks for `architecture GPT2LMHeadModel`"),
            (r#"{"attention_bias": true}"#, "asks for `attention_bias: true`"),
            (r#"{"sliding_window": 4096}"#, "asks for `sliding_window: 4096`"),
            (r#"{"hidden_act": "gelu"}"#, "asks for `hidden_act: gelu`"),
            (r#"{"rope_scaling": {"type": "yarn", "factor": 2}}"#, "asks for `rope_type: yarn`"),
            (r#"{"rope_scaling": {"type": "linear"}}"#, "needs `factor` above 0"),
            (r#"{"eos_token_id": "x"}"#, "not a token id"),
        ] {
            let message = read(edit).unwrap_err().to_string();
            assert!(message.contains(expected), "{edit}: {message}");
        }
    }
}
