//! HyperCLOVA X: a Granite 3 whose halves may have norms behind them, and whose logits are multiplied where those are divided.

use super::family::{Defaults, Family, NORMS_BEFORE};
use super::granite;
use crate::architecture::config::{ConfigError, ModelConfig};
use crate::architecture::read::Reader;
use crate::architecture::tensors::NormKind;

pub(super) const HYPERCLOVA_X: Family = Family {
    model_type: "hyperclovax",
    architecture: "HyperCLOVAXForCausalLM",
    classifiers: [None; 2],
    defaults: Defaults::LLAMA,
    norms: &[
        (NormKind::BeforeAttention, "input_layernorm"),
        (NormKind::AfterAttention, "post_norm1"),
        (NormKind::BeforeFeedForward, "post_attention_layernorm"),
        (NormKind::AfterFeedForward, "post_norm2"),
    ],
    build,
};

fn build(read: &Reader<'_>, config: &mut ModelConfig) -> Result<(), ConfigError> {
    let of_head = config.attention_scale;
    granite::multiply(read, config, &HYPERCLOVA_X, &["attention_bias", "mlp_bias"])?;
    if read.raw_value("attention_multiplier").is_none_or(serde_json::Value::is_null) {
        config.attention_scale = of_head;
    }
    config.logits_scale = read.factor("logits_scaling", 1.0)? as f32;
    if !read.flag_or("use_post_norm", true)? {
        config.norms = NORMS_BEFORE;
    }
    Ok(())
}
