//! What a family says of itself.

use crate::architecture::config::{ConfigError, ModelConfig, NormKind};
use crate::architecture::read::Reader;
use crate::architecture::read_rope::Outside;
use crate::architecture::rope::Rope;

/// A family.
#[derive(Debug)]
pub(in crate::architecture) struct Family {
    /// `model_type` of its files.
    pub(in crate::architecture) model_type: &'static str,
    /// transformers' class.
    pub(in crate::architecture) architecture: &'static str,
    /// transformers' classes with a head of scores, of texts and of tokens, where there are such.
    pub(in crate::architecture) classifiers: [Option<&'static str>; 2],
    /// What that class has where a file says nothing.
    pub(in crate::architecture) defaults: Defaults,
    /// The norms of a layer, and their modules.
    pub(in crate::architecture) norms: &'static [(NormKind, &'static str)],
    /// Fills in what a plain model does not have; sizes are known.
    pub(in crate::architecture) build: fn(&Reader<'_>, &mut ModelConfig) -> Result<(), ConfigError>,
}

/// What a class has where a file says nothing.
#[derive(Debug)]
pub(in crate::architecture) struct Defaults {
    pub(in crate::architecture) num_key_value_heads: Option<usize>,
    pub(in crate::architecture) head_dim: Option<usize>,
    pub(in crate::architecture) max_position_embeddings: usize,
    pub(in crate::architecture) rms_norm_eps: f64,
    pub(in crate::architecture) rope_theta: f64,
    pub(in crate::architecture) tie_word_embeddings: bool,
    pub(in crate::architecture) bos_token_id: Option<u32>,
    pub(in crate::architecture) eos_token_id: Option<u32>,
    pub(in crate::architecture) pad_token_id: Option<u32>,
}

impl Defaults {
    /// Those of `LlamaConfig`.
    pub(super) const LLAMA: Self = Self {
        num_key_value_heads: None,
        head_dim: None,
        max_position_embeddings: 2048,
        rms_norm_eps: 1e-6,
        rope_theta: 10_000.0,
        tie_word_embeddings: false,
        bos_token_id: Some(1),
        eos_token_id: Some(2),
        pad_token_id: None,
    };
}

/// Norms before attention and before the feed-forward layer.
pub(super) const NORMS_BEFORE: &[(NormKind, &str)] =
    &[(NormKind::BeforeAttention, "input_layernorm"), (NormKind::BeforeFeedForward, "post_attention_layernorm")];

/// A model of several parts, of which the text model is one of a family here.
#[derive(Debug)]
pub(in crate::architecture) struct Composite {
    /// `model_type` of its files.
    pub(in crate::architecture) model_type: &'static str,
    /// transformers' class.
    pub(in crate::architecture) architecture: &'static str,
    /// The families that its text model, whose config is `text_config`, may be of; the first where that does not say.
    pub(in crate::architecture) texts: &'static [&'static Family],
    /// What the class of `text_config` has where a file says nothing, of sizes that other files always have.
    pub(in crate::architecture) sizes: &'static [(&'static str, u64)],
    /// What the names of its other parts' tensors begin with, in files.
    pub(in crate::architecture) others: &'static [&'static str],
}

impl Composite {
    /// The family of a text model.
    pub(in crate::architecture) fn family(&self, text: &Reader<'_>) -> Result<&'static Family, ConfigError> {
        let Some(name) = text.text("model_type") else { return Ok(self.texts[0]) };
        let family = self.texts.iter().find(|family| family.model_type == name);
        family.copied().ok_or_else(|| {
            let known: Vec<&str> = self.texts.iter().map(|family| family.model_type).collect();
            let reason =
                format!("of {}, a text model of type {} can be trained", self.architecture, known.join(" or "));
            text.unsupported(format!("model_type {name}"), &reason)
        })
    }
}

impl Reader<'_> {
    /// The one table of a model whose layers rotate alike. See [`Self::given_table`].
    pub(super) fn one_rope(&self, config: &ModelConfig, family: &Family) -> Result<Rope, ConfigError> {
        let outside = Outside::new(self.raw_value("rope_theta"), family.defaults.rope_theta);
        self.rope(&self.given_table()?, config, outside)
    }
}
