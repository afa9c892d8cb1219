//! Granite 3: a Llama with factors of its embedding, its scores, its residual stream and its logits.

use super::family::{Defaults, Family, NORMS_BEFORE};
use crate::architecture::config::{ConfigError, ModelConfig};
use crate::architecture::read::Reader;

pub(super) const GRANITE: Family = Family {
    model_type: "granite",
    architecture: "GraniteForCausalLM",
    classifiers: [None; 2],
    defaults: Defaults::LLAMA,
    norms: NORMS_BEFORE,
    build,
};

fn build(read: &Reader<'_>, config: &mut ModelConfig) -> Result<(), ConfigError> {
    multiply(read, config, &GRANITE, &["attention_bias", "mlp_bias"])
}

/// What Granites have of factors and biases.
pub(super) fn multiply(
    read: &Reader<'_>,
    config: &mut ModelConfig,
    family: &Family,
    biases: &[&str],
) -> Result<(), ConfigError> {
    read.expect_activation("hidden_act", &["silu", "swish"])?;
    let [attention, mlp] = read.biases(family.architecture, biases)?;
    (config.qkv_bias, config.o_bias, config.mlp_bias) = (attention, attention, mlp);
    config.scales_noise = true;
    config.embedding_scale = Some(read.factor("embedding_multiplier", 1.0)? as f32);
    config.attention_scale = read.factor("attention_multiplier", 1.0)? as f32;
    config.residual_scale = read.factor("residual_multiplier", 1.0)? as f32;
    config.logits_scale = (1.0 / read.factor("logits_scaling", 1.0)?) as f32;
    config.ropes = vec![read.one_rope(config, family)?];
    Ok(())
}
