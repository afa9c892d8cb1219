//! SmolLM3: every fourth layer, or those that `no_rope_layers` names with 0, has no rotary positions.

use super::family::{Defaults, Family, NORMS_BEFORE};
use crate::architecture::config::{ConfigError, ModelConfig};
use crate::architecture::read::Reader;

pub(super) const SMOLLM3: Family = Family {
    model_type: "smollm3",
    architecture: "SmolLM3ForCausalLM",
    classifiers: [Some("SmolLM3ForSequenceClassification"), Some("SmolLM3ForTokenClassification")],
    defaults: Defaults {
        num_key_value_heads: Some(4),
        max_position_embeddings: 32_768,
        rope_theta: 2_000_000.0,
        tie_word_embeddings: true,
        bos_token_id: Some(128_000),
        eos_token_id: Some(128_001),
        pad_token_id: Some(128_004),
        ..Defaults::LLAMA
    },
    norms: NORMS_BEFORE,
    build,
};

fn build(read: &Reader<'_>, config: &mut ModelConfig) -> Result<(), ConfigError> {
    read.expect_activation("hidden_act", &["silu", "swish"])?;
    let [attention, mlp] = read.biases(SMOLLM3.architecture, &["attention_bias", "mlp_bias"])?;
    (config.qkv_bias, config.o_bias, config.mlp_bias) = (attention, attention, mlp);
    let layers = config.num_hidden_layers;
    let interval = read.optional_size("no_rope_layer_interval")?.unwrap_or(4);
    let rotates = match read.flags("no_rope_layers", layers)? {
        Some(rotates) => rotates,
        None => (0..layers).map(|layer| (layer + 1) % interval != 0).collect(),
    };
    if read.flag("use_sliding_window")? {
        let window = read.window(None)?;
        let slides = read.sliding_layers(layers, |layer| window.is_some() && !rotates[layer])?;
        config.set_windows(read, window, &slides)?;
    }
    for (layer, rotates) in config.layers.iter_mut().zip(rotates) {
        layer.rope = rotates.then_some(0);
    }
    config.ropes = vec![read.one_rope(config, &SMOLLM3)?];
    Ok(())
}
