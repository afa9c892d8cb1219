//! Hunyuan without experts: queries and keys are rotated first and have norms then. What its files call dynamic scaling is
//! another base (bloc97, "NTK-aware scaled RoPE").

use super::family::{Defaults, Family};
use crate::architecture::config::{ConfigError, ModelConfig};
use crate::architecture::read::Reader;
use crate::architecture::read_rope::Outside;
use crate::architecture::rope::{Rope, RopeScaling};
use crate::architecture::tensors::NormKind;

pub(super) const HUNYUAN: Family = Family {
    model_type: "hunyuan_v1_dense",
    architecture: "HunYuanDenseV1ForCausalLM",
    classifiers: [Some("HunYuanDenseV1ForSequenceClassification"), None],
    defaults: Defaults { rms_norm_eps: 1e-5, pad_token_id: Some(0), ..Defaults::LLAMA },
    norms: &[
        (NormKind::Query, "self_attn.query_layernorm"),
        (NormKind::Key, "self_attn.key_layernorm"),
        (NormKind::BeforeAttention, "input_layernorm"),
        (NormKind::BeforeFeedForward, "post_attention_layernorm"),
    ],
    build,
};

fn build(read: &Reader<'_>, config: &mut ModelConfig) -> Result<(), ConfigError> {
    read.expect_activation("hidden_act", &["silu", "swish"])?;
    let [attention, _] = read.biases(HUNYUAN.architecture, &["attention_bias"])?;
    (config.qkv_bias, config.o_bias) = (attention, attention);
    config.rotates_before_norms = true;
    let table = read.given_table()?;
    let outside = Outside::new(read.raw_value("rope_theta"), HUNYUAN.defaults.rope_theta);
    let rope = read.rope(&table, config, outside)?;
    let alpha = table.get("alpha").filter(|alpha| !alpha.is_null() && alpha.as_f64() != Some(0.0));
    config.ropes = vec![match (alpha, &rope.scaling) {
        (Some(alpha), Some(RopeScaling::Dynamic)) => {
            let dim = config.head_dim as f64;
            let factor = alpha.as_f64().unwrap_or(f64::NAN).powf(dim / (dim - 2.0));
            let theta = Some(rope.theta * factor).filter(|theta| theta.is_finite() && *theta > 0.0);
            let theta = theta.ok_or_else(|| {
                read.invalid(format!(
                    "`alpha` {alpha} of rotary scaling is not one that the base of the frequencies can grow by"
                ))
            })?;
            Rope { theta, scaling: None, ..rope }
        }
        _ => rope,
    }];
    Ok(())
}
