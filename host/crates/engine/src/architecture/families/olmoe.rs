//! OLMoE: experts in all layers, norms before attention and the experts, and norms over all queries and over all keys together.

use super::family::{Defaults, Family};
use crate::architecture::config::{ConfigError, ExpertModules, ModelConfig};
use crate::architecture::read::Reader;
use crate::architecture::read_experts::Keys;
use crate::architecture::tensors::NormKind;

pub(super) const OLMOE: Family = Family {
    model_type: "olmoe",
    architecture: "OlmoeForCausalLM",
    classifiers: [None; 2],
    defaults: Defaults {
        max_position_embeddings: 4096,
        rms_norm_eps: 1e-5,
        bos_token_id: None,
        eos_token_id: Some(50_279),
        pad_token_id: Some(1),
        ..Defaults::LLAMA
    },
    norms: &[
        (NormKind::Query, "self_attn.q_norm"),
        (NormKind::Key, "self_attn.k_norm"),
        (NormKind::BeforeAttention, "input_layernorm"),
        (NormKind::BeforeFeedForward, "post_attention_layernorm"),
    ],
    build,
};

const KEYS: Keys = Keys { count: 64, per_token: 8, width: ("intermediate_size", 2048), balance: 0.01 };

fn build(read: &Reader<'_>, config: &mut ModelConfig) -> Result<(), ConfigError> {
    read.expect_activation("hidden_act", &["silu", "swish"])?;
    let [attention, _] = read.biases(OLMOE.architecture, &["attention_bias"])?;
    (config.qkv_bias, config.o_bias) = (attention, attention);
    if let Some(clip) = read.number("clip_qkv")? {
        let reason = "queries, keys and values are not clipped here; no model of this family that was published is";
        return Err(read.unsupported(format!("clip_qkv: {clip}"), reason));
    }
    config.norms_whole_heads = true;
    config.ropes = vec![read.one_rope(config, &OLMOE)?];
    let experts = read.experts(&KEYS, read.flag("norm_topk_prob")?, ExpertModules::Mlp)?;
    config.set_experts(read, experts, |_| true)
}
