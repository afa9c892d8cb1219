//! Arcee's AFM: a Llama whose feed-forward layers have no gates, and square what of their inner products is above zero.

use super::family::{Defaults, Family, NORMS_BEFORE};
use crate::architecture::config::{ConfigError, LayerModules, ModelConfig};
use crate::architecture::read::Reader;
use crate::kernels::Activation;

pub(super) const ARCEE: Family = Family {
    model_type: "arcee",
    architecture: "ArceeForCausalLM",
    classifiers: [Some("ArceeForSequenceClassification"), Some("ArceeForTokenClassification")],
    defaults: Defaults {
        max_position_embeddings: 4096,
        rms_norm_eps: 1e-5,
        bos_token_id: Some(128_000),
        eos_token_id: Some(128_001),
        ..Defaults::LLAMA
    },
    norms: NORMS_BEFORE,
    build,
};

fn build(read: &Reader<'_>, config: &mut ModelConfig) -> Result<(), ConfigError> {
    read.expect_activation("hidden_act", &["relu2"])?;
    config.activation = Activation::Relu2;
    config.modules = LayerModules::NoGate;
    let [attention, mlp] = read.biases(ARCEE.architecture, &["attention_bias", "mlp_bias"])?;
    (config.qkv_bias, config.o_bias, config.mlp_bias) = (attention, attention, mlp);
    config.ropes = vec![read.one_rope(config, &ARCEE)?];
    Ok(())
}
