//! Phi-3, Phi-3.5 and Phi-4-mini: query, key and value are one module, gate and up another; part of a head may be rotated.

use serde_json::Value;

use super::family::{Defaults, Family, NORMS_BEFORE};
use crate::architecture::config::{ConfigError, LayerModules, ModelConfig};
use crate::architecture::read::Reader;
use crate::architecture::read_rope::Outside;
use crate::architecture::rope::RopeScaling;

pub(super) const PHI3: Family = Family {
    model_type: "phi3",
    architecture: "Phi3ForCausalLM",
    classifiers: [Some("Phi3ForSequenceClassification"), Some("Phi3ForTokenClassification")],
    defaults: Defaults {
        max_position_embeddings: 4096,
        rms_norm_eps: 1e-5,
        eos_token_id: Some(32_000),
        pad_token_id: Some(32_000),
        ..Defaults::LLAMA
    },
    norms: NORMS_BEFORE,
    build,
};

fn build(read: &Reader<'_>, config: &mut ModelConfig) -> Result<(), ConfigError> {
    read.expect_activation("hidden_act", &["silu", "swish"])?;
    read.biases(PHI3.architecture, &[])?;
    config.modules = LayerModules::Fused;
    let window = read.window(None)?;
    config.set_windows(read, window, &vec![window.is_some(); config.num_hidden_layers])?;
    let mut table = read.given_table()?;
    // Files of old name LongRoPE so.
    for key in ["rope_type", "type"] {
        if let Some(kind) = table.get_mut(key).filter(|kind| *kind == "su" || *kind == "yarn") {
            *kind = Value::from("longrope");
        }
    }
    let outside = Outside {
        original_positions: Some(4096),
        share: Some(1.0),
        ..Outside::new(read.raw_value("rope_theta"), PHI3.defaults.rope_theta)
    };
    let rope = read.rope(&table, config, outside)?;
    if !matches!(rope.scaling, None | Some(RopeScaling::LongRope { .. })) {
        return Err(read.unsupported("other rotary scaling than longrope".into(), "the class knows no other"));
    }
    config.ropes = vec![rope];
    Ok(())
}
