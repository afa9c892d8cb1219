//! EXAONE 4: norms of queries and keys and behind attention and the feed-forward layer. Where it has a window, the layers that
//! see everything have no rotary positions.

use super::family::{Defaults, Family};
use crate::architecture::config::{ConfigError, ModelConfig};
use crate::architecture::read::Reader;
use crate::architecture::tensors::NormKind;

pub(super) const EXAONE4: Family = Family {
    model_type: "exaone4",
    architecture: "Exaone4ForCausalLM",
    classifiers: [Some("Exaone4ForSequenceClassification"), Some("Exaone4ForTokenClassification")],
    defaults: Defaults { num_key_value_heads: Some(32), rms_norm_eps: 1e-5, bos_token_id: Some(0), ..Defaults::LLAMA },
    norms: &[
        (NormKind::Query, "self_attn.q_norm"),
        (NormKind::Key, "self_attn.k_norm"),
        (NormKind::AfterAttention, "post_attention_layernorm"),
        (NormKind::AfterFeedForward, "post_feedforward_layernorm"),
    ],
    build,
};

fn build(read: &Reader<'_>, config: &mut ModelConfig) -> Result<(), ConfigError> {
    read.expect_activation("hidden_act", &["silu", "swish"])?;
    read.biases(EXAONE4.architecture, &[])?;
    config.ropes = vec![read.one_rope(config, &EXAONE4)?];
    let (window, layers) = (read.window(Some(4096))?, config.num_hidden_layers);
    // The pattern may be a text, with which the class can do nothing unless `layer_types` is there too.
    let is_listed = read.raw_value("layer_types").is_some_and(|types| !types.is_null());
    let pattern = if is_listed { None } else { read.optional_size("sliding_window_pattern")? };
    let pattern = pattern.unwrap_or(4);
    let slides = read.sliding_layers(layers, |layer| window.is_some() && (layer + 1) % pattern != 0)?;
    config.set_windows(read, window, &slides)?;
    for layer in &mut config.layers {
        layer.rope = (window.is_none() || layer.window.is_some()).then_some(0);
    }
    Ok(())
}
