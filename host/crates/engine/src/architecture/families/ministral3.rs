//! Ministral 3: YaRN, and queries that grow with their position. It comes alone, or as the text model of Mistral 3 with its
//! vision tower, as Mistral Small 3.1 does too.

use serde_json::{Map, Value, json};

use super::family::{Composite, Defaults, Family, NORMS_BEFORE};
use super::mistral::MISTRAL;
use crate::architecture::config::{ConfigError, ModelConfig};
use crate::architecture::read::Reader;
use crate::architecture::read_rope::Outside;
use crate::architecture::rope::{Growth, Rope, RopeScaling};

pub(super) const MINISTRAL3: Family = Family {
    model_type: "ministral3",
    architecture: "Ministral3ForCausalLM",
    classifiers: [Some("Ministral3ForSequenceClassification"), Some("Ministral3ForTokenClassification")],
    defaults: Defaults {
        num_key_value_heads: Some(8),
        head_dim: Some(128),
        max_position_embeddings: 262_144,
        rms_norm_eps: 1e-5,
        pad_token_id: Some(11),
        ..Defaults::LLAMA
    },
    norms: NORMS_BEFORE,
    build,
};

/// Mistral 3 with its vision tower. The text model is what is trained.
pub(super) const MISTRAL3_WITH_IMAGES: Composite = Composite {
    model_type: "mistral3",
    architecture: "Mistral3ForConditionalGeneration",
    texts: &[&MISTRAL, &MINISTRAL3],
    sizes: &[],
    others: &["vision_tower.", "multi_modal_projector."],
};

fn build(read: &Reader<'_>, config: &mut ModelConfig) -> Result<(), ConfigError> {
    read.expect_activation("hidden_act", &["silu", "swish"])?;
    read.biases(MINISTRAL3.architecture, &[])?;
    let window = read.window(None)?;
    config.set_windows(read, window, &vec![window.is_some(); config.num_hidden_layers])?;
    let table = read.table_or(json!({
        "rope_type": "yarn",
        "rope_theta": 1_000_000.0,
        "factor": 16.0,
        "original_max_position_embeddings": 16_384,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
        "llama_4_scaling_beta": 0.1,
    }))?;
    let outside = Outside::new(read.raw_value("rope_theta"), MINISTRAL3.defaults.rope_theta);
    let keys = read.rope(&table, config, outside)?;
    let growth = growth(read, &table, &keys)?;
    config.ropes = vec![keys.clone()];
    if growth.beta > 0.0 {
        config.ropes.push(Rope { growth: Some(growth), ..keys });
        config.query_rope = Some(1);
    }
    Ok(())
}

/// How queries grow. Without its two numbers, transformers' class fails.
fn growth(read: &Reader<'_>, table: &Map<String, Value>, rope: &Rope) -> Result<Growth, ConfigError> {
    let number = |key: &str| table.get(key).and_then(Value::as_f64).filter(|number| number.is_finite());
    let missing = |key: &str| read.invalid(format!("its rotary settings need the number `{key}`"));
    let (beta, original) = ("llama_4_scaling_beta", "original_max_position_embeddings");
    let of_scaling = match rope.scaling {
        Some(
            RopeScaling::Yarn { original_max_position_embeddings, .. }
            | RopeScaling::Llama3 { original_max_position_embeddings, .. }
            | RopeScaling::LongRope { original_max_position_embeddings, .. },
        ) => Some(original_max_position_embeddings),
        None | Some(RopeScaling::Linear { .. } | RopeScaling::Dynamic) => number(original).filter(|&size| size > 0.0),
    };
    Ok(Growth {
        beta: number(beta).filter(|&beta| beta >= 0.0).ok_or_else(|| missing(beta))?,
        original_max_position_embeddings: of_scaling.ok_or_else(|| missing(original))?,
    })
}
