//! Llama 2, 3, 3.1, 3.2 and what is built like it (`LlamaForCausalLM`).

use super::family::{Defaults, Family, NORMS_BEFORE};
use crate::architecture::config::{ConfigError, ModelConfig};
use crate::architecture::read::Reader;

pub(super) const LLAMA: Family = Family {
    model_type: "llama",
    architecture: "LlamaForCausalLM",
    classifiers: [Some("LlamaForSequenceClassification"), Some("LlamaForTokenClassification")],
    defaults: Defaults::LLAMA,
    norms: NORMS_BEFORE,
    build,
};

fn build(read: &Reader<'_>, config: &mut ModelConfig) -> Result<(), ConfigError> {
    read.expect_activation("hidden_act", &["silu", "swish"])?;
    let [attention, mlp] = read.biases(LLAMA.architecture, &["attention_bias", "mlp_bias"])?;
    (config.qkv_bias, config.o_bias, config.mlp_bias) = (attention, attention, mlp);
    config.ropes = vec![read.one_rope(config, &LLAMA)?];
    Ok(())
}
