//! GLM-4 of 2024 and of 2025: half of a head is rotated, neighbours together, and gate and up are one module. The later one has
//! norms behind attention and the feed-forward layer too.

use super::family::{Defaults, Family, NORMS_BEFORE};
use crate::architecture::config::{ConfigError, LayerModules, ModelConfig};
use crate::architecture::read::Reader;
use crate::architecture::read_rope::Outside;
use crate::architecture::rope::Rope;
use crate::architecture::tensors::NormKind;

const DEFAULTS: Defaults = Defaults {
    num_key_value_heads: Some(2),
    head_dim: Some(128),
    max_position_embeddings: 131_072,
    rms_norm_eps: 1.5625e-7,
    bos_token_id: None,
    eos_token_id: None,
    pad_token_id: Some(151_329),
    ..Defaults::LLAMA
};

pub(super) const GLM: Family = Family {
    model_type: "glm",
    architecture: "GlmForCausalLM",
    classifiers: [Some("GlmForSequenceClassification"), Some("GlmForTokenClassification")],
    defaults: DEFAULTS,
    norms: NORMS_BEFORE,
    build: |read, config| build(read, config, &GLM),
};

pub(super) const GLM4: Family = Family {
    model_type: "glm4",
    architecture: "Glm4ForCausalLM",
    classifiers: [Some("Glm4ForSequenceClassification"), Some("Glm4ForTokenClassification")],
    defaults: DEFAULTS,
    norms: &[
        (NormKind::BeforeAttention, "input_layernorm"),
        (NormKind::BeforeFeedForward, "post_attention_layernorm"),
        (NormKind::AfterAttention, "post_self_attn_layernorm"),
        (NormKind::AfterFeedForward, "post_mlp_layernorm"),
    ],
    build: |read, config| build(read, config, &GLM4),
};

fn build(read: &Reader<'_>, config: &mut ModelConfig, family: &Family) -> Result<(), ConfigError> {
    read.expect_activation("hidden_act", &["silu", "swish"])?;
    read.biases(family.architecture, &["attention_bias"])?;
    config.qkv_bias = read.flag_or("attention_bias", true)?;
    config.modules = LayerModules::FusedGate;
    // Of the class, for null too.
    if read.ids("eos_token_id", None)?.is_empty() {
        config.eos_token_id = vec![151_329, 151_336, 151_338];
    }
    let theta = read.raw_value("rope_theta");
    let outside = Outside { share: Some(0.5), ..Outside::new(theta, family.defaults.rope_theta) };
    let rope = read.rope(&read.given_table()?, config, outside)?;
    config.ropes = vec![Rope { is_interleaved: true, ..rope }];
    Ok(())
}
