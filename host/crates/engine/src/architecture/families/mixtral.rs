//! Mixtral: Mistral with experts in all layers.

use super::family::{Defaults, Family, NORMS_BEFORE};
use crate::architecture::config::{ConfigError, ExpertModules, ModelConfig};
use crate::architecture::read::Reader;
use crate::architecture::read_experts::Keys;

pub(super) const MIXTRAL: Family = Family {
    model_type: "mixtral",
    architecture: "MixtralForCausalLM",
    classifiers: [Some("MixtralForSequenceClassification"), Some("MixtralForTokenClassification")],
    defaults: Defaults {
        num_key_value_heads: Some(8),
        max_position_embeddings: 4096 * 32,
        rms_norm_eps: 1e-5,
        rope_theta: 1_000_000.0,
        ..Defaults::LLAMA
    },
    norms: NORMS_BEFORE,
    build,
};

const KEYS: Keys = Keys { count: 8, per_token: 2, width: ("intermediate_size", 14_336), balance: 0.001 };

fn build(read: &Reader<'_>, config: &mut ModelConfig) -> Result<(), ConfigError> {
    read.expect_activation("hidden_act", &["silu", "swish"])?;
    read.biases(MIXTRAL.architecture, &[])?;
    if read.number("router_jitter_noise")?.is_some_and(|noise| noise > 0.0) {
        let reason = "what routers read is not disturbed here; set it to 0";
        return Err(read.unsupported("router_jitter_noise".into(), reason));
    }
    let window = read.window(None)?;
    config.set_windows(read, window, &vec![window.is_some(); config.num_hidden_layers])?;
    config.ropes = vec![read.one_rope(config, &MIXTRAL)?];
    let experts = read.experts(&KEYS, true, ExpertModules::BlockSparse)?;
    config.set_experts(read, experts, |_| true)
}
