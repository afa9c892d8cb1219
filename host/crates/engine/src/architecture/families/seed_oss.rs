//! Seed-OSS: a Llama whose queries, keys and values have biases. Its class drops a tenth of what attention and the feed-forward
//! layer give in training, unless the file says 0.

use super::family::{Defaults, Family, NORMS_BEFORE};
use crate::architecture::config::{ConfigError, ModelConfig};
use crate::architecture::read::Reader;

pub(super) const SEED_OSS: Family = Family {
    model_type: "seed_oss",
    architecture: "SeedOssForCausalLM",
    classifiers: [Some("SeedOssForSequenceClassification"), Some("SeedOssForTokenClassification")],
    defaults: Defaults {
        num_key_value_heads: Some(8),
        head_dim: Some(128),
        max_position_embeddings: 524_288,
        bos_token_id: Some(0),
        pad_token_id: Some(1),
        ..Defaults::LLAMA
    },
    norms: NORMS_BEFORE,
    build,
};

fn build(read: &Reader<'_>, config: &mut ModelConfig) -> Result<(), ConfigError> {
    read.expect_activation("hidden_act", &["silu", "swish"])?;
    for key in ["attention_dropout", "residual_dropout"] {
        let share = read.number(key)?.unwrap_or(0.1);
        if share > 0.0 {
            let reason = "the model itself drops nothing here; set it to 0, as the class drops a tenth otherwise";
            return Err(read.unsupported(format!("{key}: {share}"), reason));
        }
    }
    config.qkv_bias = read.flag_or("attention_bias", true)?;
    config.o_bias = read.flag("attention_out_bias")?;
    config.mlp_bias = read.flag("mlp_bias")?;
    config.ropes = vec![read.one_rope(config, &SEED_OSS)?];
    Ok(())
}
