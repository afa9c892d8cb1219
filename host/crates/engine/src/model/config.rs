//! `config.json` of a model: sizes and constants, and which family's it is.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

pub use super::rope::RopeScaling;
use super::rope::yarn_attention_factor;
use super::tensors::{TensorSpec, tensors};

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
    /// Added to the mean square of a norm.
    pub rms_norm_eps: f32,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Stretch of the rotary frequencies.
    pub rope_scaling: Option<RopeScaling>,
    /// Positions that the model was made for.
    pub max_position_embeddings: usize,
    /// A token sees itself and the `sliding_window - 1` tokens before it. Attention here sees all of a document, which is
    /// the same as long as none has more tokens than this.
    pub sliding_window: Option<usize>,
    /// Query, key and value projections have a bias.
    pub qkv_bias: bool,
    /// The output projection of attention has one.
    pub o_bias: bool,
    /// The projections of the feed-forward layer have one.
    pub mlp_bias: bool,
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
const MAX_PARAMETERS: u128 = 1 << 40;
/// So are more layers.
const MAX_LAYERS: usize = 10_000;

/// A family of models: what transformers' config class has where a file says nothing.
struct Family {
    model_type: &'static str,
    architecture: &'static str,
    num_key_value_heads: Option<usize>,
    max_position_embeddings: usize,
    bos_token_id: Option<u32>,
    eos_token_id: Option<u32>,
    biases: Biases,
}

/// Which projections have a bias.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Biases {
    /// Those that `attention_bias` and `mlp_bias` name.
    ByKey,
    /// None; a file that asks for one is an error.
    None,
    /// Query, key and value, whatever a file says.
    Qkv,
}

const FAMILIES: [Family; 3] = [
    Family {
        model_type: "llama",
        architecture: "LlamaForCausalLM",
        num_key_value_heads: None,
        max_position_embeddings: 2048,
        bos_token_id: Some(1),
        eos_token_id: Some(2),
        biases: Biases::ByKey,
    },
    Family {
        model_type: "mistral",
        architecture: "MistralForCausalLM",
        num_key_value_heads: Some(8),
        max_position_embeddings: 4096 * 32,
        bos_token_id: Some(1),
        eos_token_id: Some(2),
        biases: Biases::None,
    },
    Family {
        model_type: "qwen2",
        architecture: "Qwen2ForCausalLM",
        num_key_value_heads: Some(32),
        max_position_embeddings: 32_768,
        bos_token_id: None,
        eos_token_id: None,
        biases: Biases::Qkv,
    },
];

/// The architectures that can be trained, by transformers' names.
pub const ARCHITECTURES: [&str; FAMILIES.len()] = {
    let mut names = [""; FAMILIES.len()];
    let mut index = 0;
    while index < names.len() {
        names[index] = FAMILIES[index].architecture;
        index += 1;
    }
    names
};

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

    /// True or false; `false` where it is absent.
    fn flag(&self, key: &str) -> Result<bool, ConfigError> {
        match self.raw.get(key) {
            None | Some(Value::Null) => Ok(false),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(value) => Err(self.invalid(format!("`{key}` is {value}, not true or false"))),
        }
    }

    /// A token id, or a list of them. The class has `default`, which holds where the key is absent; a negative id, as old
    /// files have for padding, is none.
    fn ids(&self, key: &str, default: Option<u32>) -> Result<Vec<u32>, ConfigError> {
        let id = |value: &Value| match value.as_i64() {
            Some(negative) if negative < 0 => Some(None),
            Some(id) => u32::try_from(id).ok().map(Some),
            None => None,
        };
        let ids: Option<Vec<Option<u32>>> = match self.raw.get(key) {
            None => Some(vec![default]),
            Some(Value::Null) => Some(Vec::new()),
            Some(Value::Array(values)) => values.iter().map(id).collect(),
            Some(value) => id(value).map(|id| vec![id]),
        };
        let ids = ids.ok_or_else(|| self.invalid(format!("`{key}` is {}, not a token id", self.raw[key])))?;
        Ok(ids.into_iter().flatten().collect())
    }

    /// `model_type` decides, as it does for transformers' `AutoConfig`; `architectures` must be of the family too.
    fn family(&self) -> Result<&'static Family, ConfigError> {
        let known = || format!("{} can be trained", ARCHITECTURES.join(", "));
        let listed = self.raw.get("architectures").and_then(Value::as_array).and_then(|list| list.first());
        let listed = listed.and_then(Value::as_str);
        let by_name = listed.and_then(|name| FAMILIES.iter().find(|family| family.architecture == name));
        let model_type = self.raw.get("model_type").and_then(Value::as_str);
        let by_type = model_type.and_then(|name| FAMILIES.iter().find(|family| family.model_type == name));
        match (listed, model_type) {
            (Some(name), _) if by_name.is_none() => Err(self.unsupported(format!("architecture {name}"), &known())),
            (_, Some(name)) if by_type.is_none() => Err(self.unsupported(format!("model_type {name}"), &known())),
            _ => by_type
                .or(by_name)
                .ok_or_else(|| self.invalid("it names neither `architectures` nor `model_type`".into())),
        }
    }

    /// Biases of query, key and value; of attention's output; of the feed-forward layer.
    fn biases(&self, family: &Family) -> Result<[bool; 3], ConfigError> {
        let (attention, mlp) = (self.flag("attention_bias")?, self.flag("mlp_bias")?);
        match family.biases {
            Biases::ByKey => Ok([attention, attention, mlp]),
            Biases::Qkv if !mlp => Ok([true, false, false]),
            Biases::None if !attention && !mlp => Ok([false; 3]),
            Biases::Qkv | Biases::None => {
                let key = if mlp { "mlp_bias" } else { "attention_bias" };
                let reason = format!("models of {} have no such bias", family.architecture);
                Err(self.unsupported(format!("{key}: true"), &reason))
            }
        }
    }

    fn refuse_unsupported(&self) -> Result<(), ConfigError> {
        if let Some(value) = self.raw.get("quantization_config").filter(|value| !value.is_null()) {
            let reason = "weights must be stored as F32, F16 or BF16";
            return Err(self.unsupported(format!("quantization_config: {value}"), reason));
        }
        match self.raw.get("hidden_act") {
            None | Some(Value::Null) => {}
            Some(Value::String(activation)) if activation == "silu" || activation == "swish" => {}
            Some(other) => {
                let other = other.as_str().map_or_else(|| other.to_string(), ToOwned::to_owned);
                return Err(self.unsupported(format!("hidden_act: {other}"), "the feed-forward layer uses silu"));
            }
        }
        if self.number("attention_dropout")?.is_some_and(|share| share > 0.0) {
            return Err(self.unsupported("attention_dropout".into(), "attention here drops nothing; set it to 0"));
        }
        Ok(())
    }

    /// The window of attention in any layer. Configs of Mistral and Qwen2 without the key have the 4096 of transformers'
    /// classes; `null` is none. `use_sliding_window` is Qwen2's switch, where it is off unless it is said; elsewhere but with
    /// Mistral `false` is none too. Of Qwen2's layers, those from `max_window_layers` on have it.
    fn sliding_window(&self, family: &Family, layers: usize) -> Result<Option<usize>, ConfigError> {
        let (is_mistral, is_qwen2) = (family.model_type == "mistral", family.model_type == "qwen2");
        let window = match self.optional_size("sliding_window")? {
            None if (is_mistral || is_qwen2) && !self.raw.contains_key("sliding_window") => Some(4096),
            window => window,
        };
        let switch = self.flag("use_sliding_window")?;
        let is_off = if is_qwen2 { !switch } else { self.raw.contains_key("use_sliding_window") && !switch };
        let slides = match self.raw.get("layer_types") {
            Some(Value::Array(types)) => types.iter().any(|kind| kind == "sliding_attention"),
            _ if is_qwen2 => {
                let first = self.raw.get("max_window_layers").filter(|value| !value.is_null());
                let first = first.map_or(Some(28), Value::as_u64);
                first.ok_or_else(|| self.invalid("`max_window_layers` is not a whole number".into()))? < layers as u64
            }
            _ => true,
        };
        Ok(window.filter(|_| is_mistral || !is_off && slides))
    }

    /// Base and stretch of the rotary frequencies. Of two tables `rope_scaling` wins, unless it is empty, as in
    /// `convert_rope_params_to_dict` of transformers 5.
    fn rope(&self, max_position_embeddings: usize) -> Result<(f64, Option<RopeScaling>), ConfigError> {
        let table = |key: &str| match self.raw.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Object(table)) => Ok(Some(table).filter(|table| !table.is_empty())),
            Some(other) => Err(self.invalid(format!("`{key}` is {other}, not an object"))),
        };
        let empty = Map::new();
        let table = table("rope_scaling")?.or(table("rope_parameters")?).unwrap_or(&empty);
        // Null is not the default: transformers has no base then, and fails.
        let theta = match table.get("rope_theta").or_else(|| self.raw.get("rope_theta")) {
            None => 10_000.0,
            Some(theta) => theta
                .as_f64()
                .filter(|theta| theta.is_finite() && *theta > 0.0)
                .ok_or_else(|| self.invalid(format!("`rope_theta` is {theta}, not a number above 0")))?,
        };
        if let Some(share) = table.get("partial_rotary_factor").or_else(|| self.raw.get("partial_rotary_factor"))
            && !share.is_null()
            && share.as_f64() != Some(1.0)
        {
            let feature = format!("partial_rotary_factor: {share}");
            return Err(self.unsupported(feature, "all of a head is rotated here"));
        }
        let kind = match table.get("rope_type").or_else(|| table.get("type")) {
            None => "default",
            Some(Value::String(kind)) => kind.as_str(),
            Some(other) => return Err(self.invalid(format!("`rope_type` is {other}, not a text"))),
        };
        let positive = |key: &str, value: &Value| {
            let number = value.as_f64().filter(|number| number.is_finite() && *number > 0.0);
            number.ok_or_else(|| self.invalid(format!("rotary scaling `{kind}` needs `{key}` above 0, it is {value}")))
        };
        let need = |key: &str| match table.get(key) {
            Some(value) => positive(key, value),
            None => Err(self.invalid(format!("rotary scaling `{kind}` needs `{key}` above 0"))),
        };
        // `standardize_rope_params` of transformers 5: what stands outside of the table wins, and the model's context is what
        // fills it in.
        let original = || {
            let key = "original_max_position_embeddings";
            let given = self.raw.get(key).or_else(|| table.get(key));
            given.map_or(Ok(max_position_embeddings as f64), |value| positive(key, value))
        };
        let scaling = match kind {
            "default" => None,
            "linear" => Some(RopeScaling::Linear { factor: need("factor")? }),
            "llama3" => {
                let (low_freq_factor, high_freq_factor) = (need("low_freq_factor")?, need("high_freq_factor")?);
                if high_freq_factor <= low_freq_factor {
                    return Err(self.invalid(format!(
                        "`high_freq_factor` {high_freq_factor} is not above `low_freq_factor` {low_freq_factor}"
                    )));
                }
                let original_max_position_embeddings = original()?;
                let factor = need("factor")?;
                Some(RopeScaling::Llama3 {
                    factor,
                    low_freq_factor,
                    high_freq_factor,
                    original_max_position_embeddings,
                })
            }
            "yarn" if theta <= 1.0 => {
                return Err(self.invalid(format!("rotary scaling `yarn` needs `rope_theta` above 1, it is {theta}")));
            }
            "yarn" => {
                let original_max_position_embeddings = original()?;
                let number =
                    |key: &str| table.get(key).filter(|value| !value.is_null()).map(|value| positive(key, value));
                // Null is the ratio of the contexts.
                let factor = match table.get("factor") {
                    Some(Value::Null) => max_position_embeddings as f64 / original_max_position_embeddings,
                    _ => need("factor")?,
                };
                let attention_factor = match number("attention_factor") {
                    Some(factor) => factor?,
                    None => yarn_attention_factor(
                        factor,
                        number("mscale").transpose()?,
                        number("mscale_all_dim").transpose()?,
                    ),
                };
                let truncate = match table.get("truncate") {
                    None => true,
                    Some(value) => value
                        .as_bool()
                        .ok_or_else(|| self.invalid(format!("`truncate` is {value}, not true or false")))?,
                };
                let (beta_fast, beta_slow) =
                    (number("beta_fast").transpose()?.unwrap_or(32.0), number("beta_slow").transpose()?.unwrap_or(1.0));
                Some(RopeScaling::Yarn {
                    factor,
                    attention_factor,
                    beta_fast,
                    beta_slow,
                    truncate,
                    original_max_position_embeddings,
                })
            }
            other => {
                let known = "default, linear, llama3 and yarn are supported";
                return Err(self.unsupported(format!("rope_type: {other}"), known));
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
        let bytes = intake::read_inside(&path, intake::JSON_BYTES)
            .map_err(|source| ConfigError::Read { path: path.clone(), source })?;
        let text = String::from_utf8(bytes)
            .map_err(|error| ConfigError::Invalid { path: path.clone(), reason: error.to_string() })?;
        Self::from_json(&text, &path)
    }

    /// Reads the text of a `config.json`; `path` is for messages. Both spellings of rotary settings are read: transformers
    /// 4 (`rope_theta`, `rope_scaling`) and 5 (`rope_parameters`). What is absent has the value of transformers'
    /// `LlamaConfig` or `MistralConfig`; sizes must be there.
    ///
    /// # Errors
    /// [`ConfigError`] names the file and what is wrong in it.
    pub fn from_json(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let raw: Map<String, Value> = serde_json::from_str(text)
            .map_err(|error| ConfigError::Invalid { path: path.to_owned(), reason: error.to_string() })?;
        let read = Reader { raw: &raw, path };
        let family = read.family()?;
        read.refuse_unsupported()?;
        let (hidden_size, num_attention_heads) = (read.size("hidden_size")?, read.size("num_attention_heads")?);
        let num_key_value_heads = match (read.optional_size("num_key_value_heads")?, family.num_key_value_heads) {
            (Some(heads), _) => heads,
            (None, Some(heads)) if !raw.contains_key("num_key_value_heads") => heads,
            (None, _) => num_attention_heads,
        };
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
        let longest = family.max_position_embeddings;
        let max_position_embeddings = read.optional_size("max_position_embeddings")?.unwrap_or(longest);
        let num_hidden_layers = read.size("num_hidden_layers")?;
        let [qkv_bias, o_bias, mlp_bias] = read.biases(family)?;
        let (rope_theta, rope_scaling) = read.rope(max_position_embeddings)?;
        let config = Self {
            architecture: family.architecture.to_owned(),
            hidden_size,
            intermediate_size: read.size("intermediate_size")?,
            num_hidden_layers,
            num_attention_heads,
            num_key_value_heads,
            head_dim,
            vocab_size: read.size("vocab_size")?,
            rms_norm_eps: read.number("rms_norm_eps")?.unwrap_or(1e-6) as f32,
            rope_theta,
            rope_scaling,
            max_position_embeddings,
            sliding_window: read.sliding_window(family, num_hidden_layers)?,
            qkv_bias,
            o_bias,
            mlp_bias,
            tie_word_embeddings: read.flag("tie_word_embeddings")?,
            initializer_range: read.number("initializer_range")?.unwrap_or(0.02),
            bos_token_id: read.ids("bos_token_id", family.bos_token_id)?.first().copied(),
            eos_token_id: read.ids("eos_token_id", family.eos_token_id)?,
            pad_token_id: read.ids("pad_token_id", None)?.first().copied(),
            raw: raw.clone(),
        };
        if config.num_hidden_layers > MAX_LAYERS {
            let layers = config.num_hidden_layers;
            return Err(read.invalid(format!("`num_hidden_layers` is {layers}; the most is {MAX_LAYERS}")));
        }
        if config.elements() > MAX_PARAMETERS {
            return Err(read.invalid(format!("its sizes make more than {MAX_PARAMETERS} parameters")));
        }
        Ok(config)
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
        self.raw.insert("tie_word_embeddings".into(), false.into());
    }

    /// The ids with which a text begins, ends and is filled, in what is exported too. What is empty stays as it is.
    pub fn set_token_ids(&mut self, bos: Option<u32>, eos: &[u32], pad: Option<u32>) {
        if let Some(id) = bos {
            self.bos_token_id = Some(id);
            self.raw.insert("bos_token_id".into(), id.into());
        }
        if let Some(ids) = one_or_list(eos) {
            self.eos_token_id = eos.to_vec();
            self.raw.insert("eos_token_id".into(), ids);
        }
        if let Some(id) = pad {
            self.pad_token_id = Some(id);
            self.raw.insert("pad_token_id".into(), id.into());
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
