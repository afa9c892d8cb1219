//! Apertus: feed-forward layers without gates, with an activation of which two numbers are trained (xIELU), and norms of queries
//! and keys.

use serde_json::json;

use super::family::{Defaults, Family};
use crate::architecture::config::{ConfigError, LayerModules, ModelConfig};
use crate::architecture::read::Reader;
use crate::architecture::read_rope::Outside;
use crate::architecture::tensors::NormKind;
use crate::kernels::Activation;

pub(super) const APERTUS: Family = Family {
    model_type: "apertus",
    architecture: "ApertusForCausalLM",
    classifiers: [None, Some("ApertusForTokenClassification")],
    defaults: Defaults {
        max_position_embeddings: 65_536,
        rms_norm_eps: 1e-5,
        rope_theta: 12_000_000.0,
        pad_token_id: Some(3),
        ..Defaults::LLAMA
    },
    norms: &[
        (NormKind::Query, "self_attn.q_norm"),
        (NormKind::Key, "self_attn.k_norm"),
        (NormKind::BeforeAttention, "attention_layernorm"),
        (NormKind::BeforeFeedForward, "feedforward_layernorm"),
    ],
    build,
};

fn build(read: &Reader<'_>, config: &mut ModelConfig) -> Result<(), ConfigError> {
    read.expect_activation("hidden_act", &["xielu"])?;
    config.activation = Activation::Xielu;
    config.modules = LayerModules::NoGate;
    let [attention, _] = read.biases(APERTUS.architecture, &["attention_bias"])?;
    (config.qkv_bias, config.o_bias) = (attention, attention);
    let table = read.table_or(json!({
        "rope_type": "llama3",
        "rope_theta": 12_000_000.0,
        "factor": 8.0,
        "original_max_position_embeddings": 8192,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
    }))?;
    let outside = Outside::new(read.raw_value("rope_theta"), APERTUS.defaults.rope_theta);
    config.ropes = vec![read.rope(&table, config, outside)?];
    Ok(())
}
