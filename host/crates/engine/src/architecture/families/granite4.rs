//! Granite 4 without state-space layers: Granite 3 with the modules of a model of experts, with experts beside its feed-forward
//! layers or without, rotated or not.

use super::family::{Defaults, Family, NORMS_BEFORE};
use super::{granite, granite_moe};
use crate::architecture::config::{ConfigError, ExpertModules, Experts, LayerModules, ModelConfig};
use crate::architecture::read::Reader;

pub(super) const GRANITE4: Family = Family {
    model_type: "granitemoehybrid",
    architecture: "GraniteMoeHybridForCausalLM",
    classifiers: [None; 2],
    defaults: Defaults::LLAMA,
    norms: NORMS_BEFORE,
    build,
};

fn build(read: &Reader<'_>, config: &mut ModelConfig) -> Result<(), ConfigError> {
    let kinds = read.raw_value("layer_types").or(read.raw_value("layers_block_type"));
    let is_attention = |kind: &serde_json::Value| matches!(kind.as_str(), Some("attention" | "full_attention"));
    let attends = kinds.and_then(serde_json::Value::as_array);
    if attends.is_none_or(|kinds| kinds.len() != config.num_hidden_layers || !kinds.iter().all(is_attention)) {
        let feature = format!("layer_types: {}", kinds.unwrap_or(&serde_json::Value::Null));
        return Err(read.unsupported(feature, "every layer must have attention; state-space layers are not here"));
    }
    config.intermediate_size = read.size("shared_intermediate_size")?;
    config.modules = LayerModules::Shared;
    granite::multiply(read, config, &GRANITE4, &["attention_bias"])?;
    if read.count("num_local_experts", 8)? > 0 {
        let experts = read.experts(&granite_moe::KEYS, true, ExpertModules::Joined)?;
        config.set_experts(read, Experts { has_shared: true, ..experts }, |_| true)?;
    }
    match read.text("position_embedding_type") {
        Some("rope") => {}
        None | Some("nope") => config.layers.iter_mut().for_each(|layer| layer.rope = None),
        Some(other) => {
            let reason = "positions are rotated (`rope`) or not there at all";
            return Err(read.unsupported(format!("position_embedding_type: {other}"), reason));
        }
    }
    Ok(())
}
