//! Gemma, Gemma 2, VaultGemma and the text models of Gemma 3. Gemma is a Llama whose norms' weights are differences to one and
//! whose embedding is scaled. Gemma 2 and 3 have norms on both sides of attention and of the feed-forward layer, and layers with a window
//! between those that see everything. Gemma 2 caps its scores and logits; VaultGemma is a Gemma 2 without the norms behind its
//! halves. Gemma 3 has norms of queries and keys, and other rotary frequencies for layers with a window.

use super::family::{Composite, Defaults, Family, NORMS_BEFORE};
use crate::architecture::config::{ConfigError, ModelConfig};
use crate::architecture::read::Reader;
use crate::architecture::read_rope::Outside;
use crate::architecture::tensors::NormKind;
use crate::kernels::Activation;

const DEFAULTS: Defaults = Defaults {
    num_key_value_heads: Some(4),
    head_dim: Some(256),
    max_position_embeddings: 8192,
    tie_word_embeddings: true,
    bos_token_id: Some(2),
    eos_token_id: Some(1),
    pad_token_id: Some(0),
    ..Defaults::LLAMA
};

pub(super) const GEMMA: Family = Family {
    model_type: "gemma",
    architecture: "GemmaForCausalLM",
    classifiers: [Some("GemmaForSequenceClassification"), Some("GemmaForTokenClassification")],
    defaults: Defaults { num_key_value_heads: Some(16), ..DEFAULTS },
    norms: NORMS_BEFORE,
    build: |read, config| {
        // The first files say `gelu` and mean the other one.
        read.expect_activation("hidden_act", &["gelu_pytorch_tanh", "gelu"])?;
        build(read, config, &GEMMA)?;
        config.ropes = vec![read.one_rope(config, &GEMMA)?];
        Ok(())
    },
};

pub(super) const GEMMA2: Family = Family {
    model_type: "gemma2",
    architecture: "Gemma2ForCausalLM",
    classifiers: [Some("Gemma2ForSequenceClassification"), Some("Gemma2ForTokenClassification")],
    defaults: DEFAULTS,
    norms: &[
        (NormKind::BeforeAttention, "input_layernorm"),
        (NormKind::AfterAttention, "post_attention_layernorm"),
        (NormKind::BeforeFeedForward, "pre_feedforward_layernorm"),
        (NormKind::AfterFeedForward, "post_feedforward_layernorm"),
    ],
    build: |read, config| build_capped(read, config, &GEMMA2),
};

pub(super) const VAULT_GEMMA: Family = Family {
    model_type: "vaultgemma",
    architecture: "VaultGemmaForCausalLM",
    classifiers: [None; 2],
    defaults: DEFAULTS,
    norms: &[
        (NormKind::BeforeAttention, "input_layernorm"),
        (NormKind::BeforeFeedForward, "pre_feedforward_layernorm"),
    ],
    build: |read, config| build_capped(read, config, &VAULT_GEMMA),
};

/// Gemma 3 with its vision tower. The text model is what is trained; attention is causal where there are no images.
pub(super) const GEMMA3_WITH_IMAGES: Composite = Composite {
    model_type: "gemma3",
    architecture: "Gemma3ForConditionalGeneration",
    texts: &[&GEMMA3],
    sizes: &[
        ("vocab_size", 262_208),
        ("hidden_size", 2304),
        ("intermediate_size", 9216),
        ("num_hidden_layers", 26),
        ("num_attention_heads", 8),
    ],
    others: &["vision_tower.", "multi_modal_projector."],
};

pub(super) const GEMMA3: Family = Family {
    model_type: "gemma3_text",
    architecture: "Gemma3ForCausalLM",
    classifiers: [Some("Gemma3TextForSequenceClassification"), None],
    defaults: Defaults { max_position_embeddings: 131_072, rope_theta: 1_000_000.0, ..DEFAULTS },
    norms: &[
        (NormKind::Query, "self_attn.q_norm"),
        (NormKind::Key, "self_attn.k_norm"),
        (NormKind::BeforeAttention, "input_layernorm"),
        (NormKind::AfterAttention, "post_attention_layernorm"),
        (NormKind::BeforeFeedForward, "pre_feedforward_layernorm"),
        (NormKind::AfterFeedForward, "post_feedforward_layernorm"),
    ],
    build: |read, config| {
        scaled(read, config, &GEMMA3)?;
        config.logits_cap = read.cap("final_logit_softcapping", None)?;
        let pattern = read.optional_size("sliding_window_pattern")?.unwrap_or(6);
        let slides = read.sliding_layers(config.num_hidden_layers, |layer| (layer + 1) % pattern != 0)?;
        config.set_windows(read, read.window(Some(4096))?, &slides)?;
        let full = Outside::new(read.raw_value("rope_theta"), GEMMA3.defaults.rope_theta);
        let sliding = Outside::new(read.raw_value("rope_local_base_freq"), 10_000.0);
        config.ropes = read.ropes_by_layer_type(config, full, sliding)?;
        config.rope_by_window();
        Ok(())
    },
};

/// Gemma 2, and what is like it.
fn build_capped(read: &Reader<'_>, config: &mut ModelConfig, family: &Family) -> Result<(), ConfigError> {
    scaled(read, config, family)?;
    config.attention_cap = read.cap("attn_logit_softcapping", Some(50.0))?;
    config.logits_cap = read.cap("final_logit_softcapping", Some(30.0))?;
    let slides = read.sliding_layers(config.num_hidden_layers, |layer| (layer + 1) % 2 != 0)?;
    config.set_windows(read, read.window(Some(4096))?, &slides)?;
    config.ropes = vec![read.one_rope(config, family)?];
    Ok(())
}

/// What Gemmas have in common from the second on.
fn scaled(read: &Reader<'_>, config: &mut ModelConfig, family: &Family) -> Result<(), ConfigError> {
    read.expect_activation("hidden_activation", &["gelu_pytorch_tanh"])?;
    build(read, config, family)?;
    config.attention_scale = (1.0 / read.factor("query_pre_attn_scalar", 256.0)?.sqrt()) as f32;
    Ok(())
}

/// What all have in common.
fn build(read: &Reader<'_>, config: &mut ModelConfig, family: &Family) -> Result<(), ConfigError> {
    let [attention, _] = read.biases(family.architecture, &["attention_bias"])?;
    (config.qkv_bias, config.o_bias) = (attention, attention);
    config.activation = Activation::GeluTanh;
    config.norm_offset = 1.0;
    config.embedding_scale = Some((config.hidden_size as f64).sqrt() as f32);
    Ok(())
}
