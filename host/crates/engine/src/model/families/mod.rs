//! Families of models: what transformers' classes make of a `config.json`. A file each; what a family can say is in
//! [`ModelConfig`], so a family that needs nothing new is a page.

mod gemma;
mod granite;
mod granite4;
mod llama;
mod mistral;
mod olmo;
mod phi3;
mod qwen;
mod smollm3;

use super::config::{ConfigError, ModelConfig, Reader};
use super::tensors::NormKind;

/// A family.
#[derive(Debug)]
pub(super) struct Family {
    /// `model_type` of its files.
    pub(super) model_type: &'static str,
    /// transformers' class.
    pub(super) architecture: &'static str,
    /// What that class has where a file says nothing.
    pub(super) defaults: Defaults,
    /// The norms of a layer, and their modules.
    pub(super) norms: &'static [(NormKind, &'static str)],
    /// Fills in what a plain model does not have; sizes are known.
    pub(super) build: fn(&Reader<'_>, &mut ModelConfig) -> Result<(), ConfigError>,
}

/// What a class has where a file says nothing.
#[derive(Debug)]
pub(super) struct Defaults {
    pub(super) num_key_value_heads: Option<usize>,
    pub(super) head_dim: Option<usize>,
    pub(super) max_position_embeddings: usize,
    pub(super) rms_norm_eps: f64,
    pub(super) rope_theta: f64,
    pub(super) tie_word_embeddings: bool,
    pub(super) bos_token_id: Option<u32>,
    pub(super) eos_token_id: Option<u32>,
    pub(super) pad_token_id: Option<u32>,
}

impl Defaults {
    /// Those of `LlamaConfig`.
    const LLAMA: Self = Self {
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
const NORMS_BEFORE: &[(NormKind, &str)] =
    &[(NormKind::BeforeAttention, "input_layernorm"), (NormKind::BeforeFeedForward, "post_attention_layernorm")];

const FAMILIES: [&Family; 13] = [
    &llama::LLAMA,
    &mistral::MISTRAL,
    &mistral::MINISTRAL,
    &qwen::QWEN2,
    &qwen::QWEN3,
    &gemma::GEMMA2,
    &gemma::GEMMA3,
    &phi3::PHI3,
    &smollm3::SMOLLM3,
    &granite::GRANITE,
    &granite4::GRANITE4,
    &olmo::OLMO2,
    &olmo::OLMO3,
];

/// A model of several parts, of which the text model is one of a family here.
#[derive(Debug)]
pub(super) struct Composite {
    /// `model_type` of its files.
    pub(super) model_type: &'static str,
    /// transformers' class.
    pub(super) architecture: &'static str,
    /// The family of its text model, whose config is `text_config`.
    pub(super) text: &'static Family,
    /// What the class of `text_config` has where a file says nothing, of sizes that other files always have.
    pub(super) sizes: &'static [(&'static str, u64)],
    /// What the names of its other parts' tensors begin with, in files.
    pub(super) others: &'static [&'static str],
}

const COMPOSITES: [&Composite; 1] = [&gemma::GEMMA3_WITH_IMAGES];

/// Models whose text models can be trained, by transformers' names.
pub const COMPOSITE_ARCHITECTURES: [&str; COMPOSITES.len()] = [COMPOSITES[0].architecture];

/// The model of several parts that a file is of, if it is of one.
pub(super) fn composite(read: &Reader<'_>) -> Option<&'static Composite> {
    let named = |model: &&Composite| match (read.text("model_type"), read.listed_architecture()) {
        (Some(name), _) => name == model.model_type,
        (None, name) => name == Some(model.architecture),
    };
    COMPOSITES.into_iter().find(named).filter(|_| read.raw_value("text_config").is_some())
}

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

/// The family of a file: `model_type` decides, as it does for transformers' `AutoConfig`; `architectures` must be one of
/// these too.
pub(super) fn of(read: &Reader<'_>) -> Result<&'static Family, ConfigError> {
    let known = || format!("{} can be trained", ARCHITECTURES.join(", "));
    let find = |is_it: &dyn Fn(&Family) -> bool| FAMILIES.into_iter().find(|family| is_it(family));
    let (listed, model_type) = (read.listed_architecture(), read.text("model_type"));
    let by_name = listed.and_then(|name| find(&|family| family.architecture == name));
    let by_type = model_type.and_then(|name| find(&|family| family.model_type == name));
    match (listed, model_type) {
        (Some(name), _) if by_name.is_none() => Err(read.unsupported(format!("architecture {name}"), &known())),
        (_, Some(name)) if by_type.is_none() => Err(read.unsupported(format!("model_type {name}"), &known())),
        _ => {
            by_type.or(by_name).ok_or_else(|| read.invalid("it names neither `architectures` nor `model_type`".into()))
        }
    }
}
