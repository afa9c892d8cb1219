//! Helium: a Llama that turns neighbours of a head together.

use super::family::{Defaults, Family, NORMS_BEFORE};
use crate::architecture::config::{ConfigError, ModelConfig};
use crate::architecture::read::Reader;
use crate::architecture::rope::Rope;

pub(super) const HELIUM: Family = Family {
    model_type: "helium",
    architecture: "HeliumForCausalLM",
    classifiers: [Some("HeliumForSequenceClassification"), Some("HeliumForTokenClassification")],
    defaults: Defaults {
        num_key_value_heads: Some(20),
        head_dim: Some(128),
        max_position_embeddings: 4096,
        rms_norm_eps: 1e-8,
        rope_theta: 100_000.0,
        pad_token_id: Some(3),
        ..Defaults::LLAMA
    },
    norms: NORMS_BEFORE,
    build,
};

fn build(read: &Reader<'_>, config: &mut ModelConfig) -> Result<(), ConfigError> {
    read.expect_activation("hidden_act", &["silu", "swish"])?;
    let [attention, mlp] = read.biases(HELIUM.architecture, &["attention_bias", "mlp_bias"])?;
    (config.qkv_bias, config.mlp_bias) = (attention, mlp);
    let (heads, head_dim, width) = (config.num_attention_heads, config.head_dim, config.hidden_size);
    if heads * head_dim != width {
        return Err(read.invalid(format!("its {heads} heads of {head_dim} are not the width of the model, {width}")));
    }
    config.ropes = vec![Rope { is_interleaved: true, ..read.one_rope(config, &HELIUM)? }];
    Ok(())
}
