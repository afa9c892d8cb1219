//! Qwen3 with experts: Qwen3 whose layers have experts in the place of a feed-forward layer, or some of them.

use super::family::{Defaults, Family};
use super::qwen::QWEN3;
use crate::architecture::config::{ConfigError, ExpertModules, ModelConfig};
use crate::architecture::read::Reader;
use crate::architecture::read_experts::Keys;

pub(super) const QWEN3_MOE: Family = Family {
    model_type: "qwen3_moe",
    architecture: "Qwen3MoeForCausalLM",
    classifiers: [Some("Qwen3MoeForSequenceClassification"), Some("Qwen3MoeForTokenClassification")],
    defaults: Defaults { num_key_value_heads: Some(4), head_dim: None, ..QWEN3.defaults },
    norms: QWEN3.norms,
    build,
};

const KEYS: Keys = Keys { count: 128, per_token: 8, width: ("moe_intermediate_size", 768), balance: 0.001 };

fn build(read: &Reader<'_>, config: &mut ModelConfig) -> Result<(), ConfigError> {
    read.expect_activation("hidden_act", &["silu", "swish"])?;
    let [attention, _] = read.biases(QWEN3_MOE.architecture, &["attention_bias"])?;
    (config.qkv_bias, config.o_bias) = (attention, attention);
    let layers = config.num_hidden_layers;
    let has_window = read.flag("use_sliding_window")?;
    let window = read.window(Some(4096))?.filter(|_| has_window);
    // The class has one mask for all layers.
    config.set_windows(read, window, &vec![window.is_some(); layers])?;
    config.ropes = vec![read.one_rope(config, &QWEN3_MOE)?];
    let experts = read.experts(&KEYS, read.flag("norm_topk_prob")?, ExpertModules::Mlp)?;
    let (step, dense) = (read.optional_size("decoder_sparse_step")?.unwrap_or(1), read.layers("mlp_only_layers")?);
    config.set_experts(read, experts, |layer| !dense.contains(&layer) && (layer + 1) % step == 0)
}
