//! Qwen2 and Qwen2.5, with biases of query, key and value, and Qwen3, with norms of queries and keys.

use super::family::{Defaults, Family, NORMS_BEFORE};
use crate::architecture::config::{ConfigError, ModelConfig};
use crate::architecture::read::Reader;
use crate::architecture::tensors::NormKind;

const DEFAULTS: Defaults = Defaults {
    num_key_value_heads: Some(32),
    max_position_embeddings: 32_768,
    bos_token_id: None,
    eos_token_id: None,
    ..Defaults::LLAMA
};

pub(super) const QWEN2: Family = Family {
    model_type: "qwen2",
    architecture: "Qwen2ForCausalLM",
    classifiers: [Some("Qwen2ForSequenceClassification"), Some("Qwen2ForTokenClassification")],
    defaults: DEFAULTS,
    norms: NORMS_BEFORE,
    build: |read, config| {
        read.biases(QWEN2.architecture, &["attention_bias"])?;
        config.qkv_bias = true;
        build(read, config, &QWEN2)
    },
};

pub(super) const QWEN3: Family = Family {
    model_type: "qwen3",
    architecture: "Qwen3ForCausalLM",
    classifiers: [Some("Qwen3ForSequenceClassification"), Some("Qwen3ForTokenClassification")],
    defaults: Defaults { head_dim: Some(128), ..DEFAULTS },
    norms: &[
        (NormKind::Query, "self_attn.q_norm"),
        (NormKind::Key, "self_attn.k_norm"),
        (NormKind::BeforeAttention, "input_layernorm"),
        (NormKind::BeforeFeedForward, "post_attention_layernorm"),
    ],
    build: |read, config| {
        let [attention, _] = read.biases(QWEN3.architecture, &["attention_bias"])?;
        (config.qkv_bias, config.o_bias) = (attention, attention);
        build(read, config, &QWEN3)
    },
};

/// `use_sliding_window` is the switch of the window, off unless it is said; the layers from `max_window_layers` on have it.
fn build(read: &Reader<'_>, config: &mut ModelConfig, family: &Family) -> Result<(), ConfigError> {
    read.expect_activation("hidden_act", &["silu", "swish"])?;
    let has_window = read.flag("use_sliding_window")?;
    let window = read.window(Some(4096))?.filter(|_| has_window);
    let first = read.count("max_window_layers", 28)?;
    let slides = read.sliding_layers(config.num_hidden_layers, |layer| window.is_some() && layer >= first)?;
    if window.is_some() {
        config.set_windows(read, window, &slides)?;
    }
    config.ropes = vec![read.one_rope(config, family)?];
    Ok(())
}
