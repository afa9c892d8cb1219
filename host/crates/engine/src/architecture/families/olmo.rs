//! OLMo 2 and 3: norms behind attention and the feed-forward layer in place of those before them, and norms over all queries
//! and over all keys together. Of OLMo 3's layers, three of four have a window.

use super::family::{Defaults, Family};
use crate::architecture::config::{ConfigError, ModelConfig};
use crate::architecture::read::Reader;
use crate::architecture::read_rope::Outside;
use crate::architecture::tensors::NormKind;

const DEFAULTS: Defaults = Defaults {
    rms_norm_eps: 1e-5,
    bos_token_id: None,
    eos_token_id: Some(50_279),
    pad_token_id: Some(1),
    ..Defaults::LLAMA
};

const NORMS: &[(NormKind, &str)] = &[
    (NormKind::Query, "self_attn.q_norm"),
    (NormKind::Key, "self_attn.k_norm"),
    (NormKind::AfterAttention, "post_attention_layernorm"),
    (NormKind::AfterFeedForward, "post_feedforward_layernorm"),
];

pub(super) const OLMO2: Family = Family {
    model_type: "olmo2",
    architecture: "Olmo2ForCausalLM",
    classifiers: [Some("Olmo2ForSequenceClassification"), None],
    defaults: DEFAULTS,
    norms: NORMS,
    build: |read, config| {
        build(read, config, &OLMO2)?;
        config.ropes = vec![read.one_rope(config, &OLMO2)?];
        Ok(())
    },
};

pub(super) const OLMO3: Family = Family {
    model_type: "olmo3",
    architecture: "Olmo3ForCausalLM",
    classifiers: [Some("Olmo3ForSequenceClassification"), None],
    defaults: Defaults { rope_theta: 500_000.0, ..DEFAULTS },
    norms: NORMS,
    build: |read, config| {
        build(read, config, &OLMO3)?;
        let slides = read.sliding_layers(config.num_hidden_layers, |layer| (layer + 1) % 4 != 0)?;
        config.set_windows(read, read.window(Some(4096))?, &slides)?;
        let full = Outside::new(read.raw_value("rope_theta"), OLMO3.defaults.rope_theta);
        // The class takes `rope_theta` for the full layers alone.
        let sliding = Outside::new(None, OLMO3.defaults.rope_theta);
        config.ropes = read.ropes_by_layer_type(config, full, sliding)?;
        config.rope_by_window();
        Ok(())
    },
};

fn build(read: &Reader<'_>, config: &mut ModelConfig, family: &Family) -> Result<(), ConfigError> {
    read.expect_activation("hidden_act", &["silu", "swish"])?;
    let [attention, _] = read.biases(family.architecture, &["attention_bias"])?;
    (config.qkv_bias, config.o_bias) = (attention, attention);
    config.norms_whole_heads = true;
    Ok(())
}
