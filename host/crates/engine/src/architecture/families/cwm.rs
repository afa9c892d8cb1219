//! CWM: a Llama of whose layers three of four have a window.

use serde_json::json;

use super::family::{Defaults, Family, NORMS_BEFORE};
use crate::architecture::config::{ConfigError, ModelConfig};
use crate::architecture::read::Reader;
use crate::architecture::read_rope::Outside;

pub(super) const CWM: Family = Family {
    model_type: "cwm",
    architecture: "CwmForCausalLM",
    classifiers: [None; 2],
    defaults: Defaults {
        num_key_value_heads: Some(8),
        head_dim: Some(128),
        max_position_embeddings: 131_072,
        rms_norm_eps: 1e-5,
        rope_theta: 1_000_000.0,
        bos_token_id: Some(128_000),
        eos_token_id: None,
        ..Defaults::LLAMA
    },
    norms: NORMS_BEFORE,
    build,
};

fn build(read: &Reader<'_>, config: &mut ModelConfig) -> Result<(), ConfigError> {
    read.expect_activation("hidden_act", &["silu", "swish"])?;
    let [_, mlp] = read.biases(CWM.architecture, &["mlp_bias"])?;
    config.mlp_bias = mlp;
    // Of the class, for null too.
    if read.ids("eos_token_id", None)?.is_empty() {
        config.eos_token_id = vec![128_001, 128_008, 128_009];
    }
    let slides = read.sliding_layers(config.num_hidden_layers, |layer| layer % 4 != 0)?;
    config.set_windows(read, read.window(Some(8192))?, &slides)?;
    let table = read.table_or(json!({
        "rope_type": "llama3",
        "rope_theta": 1_000_000.0,
        "factor": 16.0,
        "high_freq_factor": 4.0,
        "low_freq_factor": 1.0,
        "original_max_position_embeddings": 8192,
    }))?;
    let outside = Outside::new(read.raw_value("rope_theta"), CWM.defaults.rope_theta);
    config.ropes = vec![read.rope(&table, config, outside)?];
    Ok(())
}
