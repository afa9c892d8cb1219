//! Mistral, whose layers all have the window, and Ministral, whose layers say whether they have it.

use super::family::{Defaults, Family, NORMS_BEFORE};
use crate::architecture::config::{ConfigError, ModelConfig};
use crate::architecture::read::Reader;

const DEFAULTS: Defaults =
    Defaults { num_key_value_heads: Some(8), max_position_embeddings: 4096 * 32, ..Defaults::LLAMA };

pub(super) const MISTRAL: Family = Family {
    model_type: "mistral",
    architecture: "MistralForCausalLM",
    classifiers: [Some("MistralForSequenceClassification"), Some("MistralForTokenClassification")],
    defaults: DEFAULTS,
    norms: NORMS_BEFORE,
    build: |read, config| build(read, config, &MISTRAL, false),
};

pub(super) const MINISTRAL: Family = Family {
    model_type: "ministral",
    architecture: "MinistralForCausalLM",
    classifiers: [Some("MinistralForSequenceClassification"), Some("MinistralForTokenClassification")],
    defaults: DEFAULTS,
    norms: NORMS_BEFORE,
    build: |read, config| build(read, config, &MINISTRAL, true),
};

fn build(read: &Reader<'_>, config: &mut ModelConfig, family: &Family, by_layer: bool) -> Result<(), ConfigError> {
    read.expect_activation("hidden_act", &["silu", "swish"])?;
    read.biases(family.architecture, &[])?;
    let window = read.window(Some(4096))?;
    let layers = config.num_hidden_layers;
    let all = window.is_some();
    let slides = if by_layer { read.sliding_layers(layers, |_| all)? } else { vec![all; layers] };
    config.set_windows(read, window, &slides)?;
    config.ropes = vec![read.one_rope(config, family)?];
    Ok(())
}
