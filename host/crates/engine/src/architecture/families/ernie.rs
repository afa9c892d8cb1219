//! ERNIE 4.5 without experts: a Llama that turns neighbours of a head together, and whose projections have biases or none.

use super::family::{Defaults, Family, NORMS_BEFORE};
use crate::architecture::config::{ConfigError, ModelConfig};
use crate::architecture::read::Reader;
use crate::architecture::rope::Rope;

pub(super) const ERNIE4_5: Family = Family {
    model_type: "ernie4_5",
    architecture: "Ernie4_5ForCausalLM",
    classifiers: [None; 2],
    defaults: Defaults {
        num_key_value_heads: Some(2),
        head_dim: Some(128),
        max_position_embeddings: 131_072,
        rms_norm_eps: 1e-5,
        rope_theta: 500_000.0,
        tie_word_embeddings: true,
        pad_token_id: Some(0),
        ..Defaults::LLAMA
    },
    norms: NORMS_BEFORE,
    build,
};

fn build(read: &Reader<'_>, config: &mut ModelConfig) -> Result<(), ConfigError> {
    read.expect_activation("hidden_act", &["silu", "swish"])?;
    read.biases(ERNIE4_5.architecture, &[])?;
    let bias = read.flag("use_bias")?;
    (config.qkv_bias, config.o_bias, config.mlp_bias) = (bias, bias, bias);
    config.ropes = vec![Rope { is_interleaved: true, ..read.one_rope(config, &ERNIE4_5)? }];
    Ok(())
}
