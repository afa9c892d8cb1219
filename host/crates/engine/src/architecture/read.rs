//! Typed access to `config.json`: what a key holds, or what is wrong with it.

use std::path::Path;

use serde_json::{Map, Value};

use super::config::{ConfigError, ModelConfig, Quantization};
use crate::kernels::Packing;

/// Typed access to the keys of the file.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    pub(super) raw: &'a Map<String, Value>,
    path: &'a Path,
}

impl<'a> Reader<'a> {
    pub(super) fn new(raw: &'a Map<String, Value>, path: &'a Path) -> Self {
        Self { raw, path }
    }

    pub(super) fn invalid(&self, reason: String) -> ConfigError {
        ConfigError::Invalid { path: self.path.to_owned(), reason }
    }

    pub(super) fn unsupported(&self, feature: String, reason: &str) -> ConfigError {
        ConfigError::Unsupported { path: self.path.to_owned(), feature, reason: reason.to_owned() }
    }

    pub(super) fn optional_size(&self, key: &str) -> Result<Option<usize>, ConfigError> {
        match self.raw.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => match value.as_u64() {
                Some(size @ 1..=0x0fff_ffff) => Ok(Some(size as usize)),
                _ => Err(self.invalid(format!("`{key}` is {value}, not a whole number from 1 to 268435455"))),
            },
        }
    }

    pub(super) fn size(&self, key: &str) -> Result<usize, ConfigError> {
        self.optional_size(key)?.ok_or_else(|| self.invalid(format!("`{key}` is missing")))
    }

    pub(super) fn number(&self, key: &str) -> Result<Option<f64>, ConfigError> {
        match self.raw.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => value
                .as_f64()
                .filter(|number| number.is_finite() && *number >= 0.0)
                .map(Some)
                .ok_or_else(|| self.invalid(format!("`{key}` is {value}, not a number"))),
        }
    }

    /// A number above zero that a factor or a divisor can be.
    pub(super) fn factor(&self, key: &str, default: f64) -> Result<f64, ConfigError> {
        match self.number(key)? {
            None => Ok(default),
            Some(number) if number > 0.0 && (number as f32).is_normal() => Ok(number),
            Some(number) => Err(self.invalid(format!("`{key}` is {number}, not a number above 0"))),
        }
    }

    /// A cap of logits or scores; none where it is null.
    pub(super) fn cap(&self, key: &str, default: Option<f64>) -> Result<Option<f32>, ConfigError> {
        match self.raw.get(key) {
            Some(Value::Null) => Ok(None),
            None => Ok(default.map(|cap| cap as f32)),
            Some(_) => Ok(Some(self.factor(key, 1.0)? as f32)),
        }
    }

    /// What a key holds, whatever it is.
    pub(super) fn raw_value(&self, key: &str) -> Option<&'a Value> {
        self.raw.get(key)
    }

    /// A whole number from 0.
    pub(super) fn count(&self, key: &str, default: usize) -> Result<usize, ConfigError> {
        match self.raw.get(key) {
            None | Some(Value::Null) => Ok(default),
            Some(value) => value
                .as_u64()
                .and_then(|count| usize::try_from(count).ok())
                .ok_or_else(|| self.invalid(format!("`{key}` is {value}, not a whole number"))),
        }
    }

    /// A list of zeros and ones, one for each layer; none where it is absent.
    pub(super) fn flags(&self, key: &str, layers: usize) -> Result<Option<Vec<bool>>, ConfigError> {
        let wrong = || self.invalid(format!("`{key}` is not a list of {layers} zeros and ones"));
        let list = match self.raw.get(key) {
            None | Some(Value::Null) => return Ok(None),
            Some(Value::Array(list)) if list.len() == layers => list,
            Some(_) => return Err(wrong()),
        };
        let flag = |value: &Value| match (value.as_u64(), value.as_bool()) {
            (Some(0), _) | (_, Some(false)) => Ok(false),
            (Some(1), _) | (_, Some(true)) => Ok(true),
            _ => Err(wrong()),
        };
        list.iter().map(flag).collect::<Result<_, _>>().map(Some)
    }

    /// The text of a key.
    pub(super) fn text(&self, key: &str) -> Option<&'a str> {
        self.raw.get(key).and_then(Value::as_str)
    }

    /// The first text of `architectures`.
    pub(super) fn listed_architecture(&self) -> Option<&'a str> {
        self.raw.get("architectures").and_then(Value::as_array)?.first()?.as_str()
    }

    /// True or false; `false` where it is absent.
    pub(super) fn flag(&self, key: &str) -> Result<bool, ConfigError> {
        self.flag_or(key, false)
    }

    /// True or false, with the default of a class.
    pub(super) fn flag_or(&self, key: &str, default: bool) -> Result<bool, ConfigError> {
        match self.raw.get(key) {
            None | Some(Value::Null) => Ok(default),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(value) => Err(self.invalid(format!("`{key}` is {value}, not true or false"))),
        }
    }

    /// A token id, or a list of them. The class has `default`, which holds where the key is absent; a negative id, as old
    /// files have for padding, is none.
    pub(super) fn ids(&self, key: &str, default: Option<u32>) -> Result<Vec<u32>, ConfigError> {
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

    /// True for a checkpoint that bitsandbytes has packed.
    pub(super) fn is_packed(&self) -> bool {
        let method = self.raw.get("quantization_config").and_then(|config| config.get("quant_method"));
        method.and_then(Value::as_str) == Some("bitsandbytes")
    }

    /// How bitsandbytes has packed the checkpoint, if it has.
    pub(super) fn quantization(&self) -> Result<Option<Quantization>, ConfigError> {
        let Some(config) = self.raw.get("quantization_config").filter(|_| self.is_packed()) else { return Ok(None) };
        let flag = |key: &str| config.get(key).and_then(Value::as_bool).unwrap_or(false);
        if flag("load_in_8bit") {
            return Ok(Some(Quantization { packing: Packing::Int8, is_nested: false }));
        }
        let feature =
            |key: &str| format!("quantization_config: {{{key}: {}}}", config.get(key).unwrap_or(&Value::Null));
        if !flag("load_in_4bit") {
            return Err(self.unsupported(feature("load_in_4bit"), "weights are packed in four or in eight bits"));
        }
        if config.get("bnb_4bit_quant_storage").is_some_and(|storage| storage != "uint8") {
            let reason = "codes are read from bytes, as `uint8` stores them";
            return Err(self.unsupported(feature("bnb_4bit_quant_storage"), reason));
        }
        let packing = match config.get("bnb_4bit_quant_type").map(|kind| kind.as_str().unwrap_or_default()) {
            Some("nf4") => Packing::Nf4,
            None | Some("fp4") => Packing::Fp4,
            Some(_) => return Err(self.unsupported(feature("bnb_4bit_quant_type"), "codes are nf4 or fp4")),
        };
        Ok(Some(Quantization { packing, is_nested: flag("bnb_4bit_use_double_quant") }))
    }

    /// Keys that no family here has a use for.
    pub(super) fn refuse_unsupported(&self) -> Result<(), ConfigError> {
        if let Some(value) = self.raw.get("quantization_config").filter(|value| !value.is_null() && !self.is_packed()) {
            let reason = "of quantized weights, only those that bitsandbytes has saved are read; take the model that these were \
                          made from, and quantize it when it is loaded: `load_in_4bit: true` or `load_in_8bit: true`";
            let feature = match value.get("quant_method").and_then(Value::as_str) {
                Some(method) => format!("quant_method: {method}"),
                None => format!("quantization_config: {value}"),
            };
            return Err(self.unsupported(feature, reason));
        }
        for key in ["attention_dropout", "resid_pdrop", "embd_pdrop"] {
            if self.number(key)?.is_some_and(|share| share > 0.0) {
                return Err(self.unsupported(key.into(), "the model itself drops nothing here; set it to 0"));
            }
        }
        if self.flag("use_bidirectional_attention")? {
            return Err(self.unsupported("use_bidirectional_attention: true".into(), "attention here is causal"));
        }
        Ok(())
    }

    /// The activation of the feed-forward layer must be what the family has.
    pub(super) fn expect_activation(&self, key: &str, names: &[&str]) -> Result<(), ConfigError> {
        match self.raw.get(key) {
            None | Some(Value::Null) => Ok(()),
            Some(Value::String(activation)) if names.contains(&activation.as_str()) => Ok(()),
            Some(other) => {
                let other = other.as_str().map_or_else(|| other.to_string(), ToOwned::to_owned);
                let reason = format!("the feed-forward layer of such models uses {}", names[0]);
                Err(self.unsupported(format!("{key}: {other}"), &reason))
            }
        }
    }

    /// `attention_bias` and `mlp_bias`, of a family that has `known` of them.
    pub(super) fn biases(&self, family: &str, known: &[&str]) -> Result<[bool; 2], ConfigError> {
        let mut found = [false; 2];
        for (key, found) in ["attention_bias", "mlp_bias"].into_iter().zip(&mut found) {
            *found = self.flag(key)?;
            if *found && !known.contains(&key) {
                let reason = format!("models of {family} have no such bias");
                return Err(self.unsupported(format!("{key}: true"), &reason));
            }
        }
        Ok(found)
    }

    /// Which layers have a sliding window: as `layer_types` says, or else by their number.
    pub(super) fn sliding_layers(
        &self,
        layers: usize,
        slides: impl Fn(usize) -> bool,
    ) -> Result<Vec<bool>, ConfigError> {
        let types = match self.raw.get("layer_types") {
            None | Some(Value::Null) => return Ok((0..layers).map(slides).collect()),
            Some(Value::Array(types)) if types.len() == layers => types,
            Some(_) => return Err(self.invalid(format!("`layer_types` is not a list of {layers} texts"))),
        };
        let slides = |kind: &Value| match kind.as_str() {
            Some("full_attention") => Ok(false),
            Some("sliding_attention") => Ok(true),
            _ => {
                let reason = "layers are full_attention or sliding_attention";
                Err(self.unsupported(format!("layer_types: {kind}"), reason))
            }
        };
        types.iter().map(slides).collect()
    }

    /// `sliding_window`, with the default of a class that has one.
    pub(super) fn window(&self, default: Option<usize>) -> Result<Option<usize>, ConfigError> {
        match self.optional_size("sliding_window")? {
            None if !self.raw.contains_key("sliding_window") => Ok(default),
            window => Ok(window),
        }
    }
}

impl ModelConfig {
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
}
