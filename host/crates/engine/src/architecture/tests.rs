use std::path::Path;

use serde_json::{Map, Value};

use super::config::*;
use super::rope::*;

const GOOD: &str = r#"{"architectures": ["LlamaForCausalLM"], "hidden_size": 64, "intermediate_size": 96,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 100,
    "eos_token_id": [2, 3], "rope_theta": 5000.0}"#;

fn read(edit: &str) -> Result<ModelConfig, ConfigError> {
    let mut raw: Map<String, Value> = serde_json::from_str(GOOD).unwrap();
    raw.extend(serde_json::from_str::<Map<String, Value>>(edit).unwrap());
    ModelConfig::from_json(&Value::Object(raw).to_string(), Path::new("m/config.json"))
}

#[test]
fn reads_both_spellings_of_rotary_settings() {
    assert_eq!(read("{}").unwrap().eos_token_id, [2, 3]);
    assert!((read("{}").unwrap().ropes[0].theta - 5000.0).abs() < 1e-9);
    let llama3 =
        r#""factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192"#;
    let old = read(&format!(r#"{{"rope_scaling": {{"rope_type": "llama3", {llama3}}}}}"#)).unwrap();
    let new =
        read(&format!(r#"{{"rope_parameters": {{"rope_theta": 5000.0, "rope_type": "llama3", {llama3}}}}}"#)).unwrap();
    assert_eq!(old.ropes, new.ropes);
}

#[test]
fn what_is_wrong_or_unknown_is_named() {
    for (edit, expected) in [
        (r#"{"hidden_size": 0}"#, "`hidden_size` is 0"),
        (r#"{"hidden_size": 65}"#, "not a multiple of `num_attention_heads`"),
        (r#"{"num_key_value_heads": 3}"#, "not a multiple of `num_key_value_heads`"),
        (r#"{"vocab_size": -1}"#, "`vocab_size` is -1"),
        (r#"{"vocab_size": 200000000, "hidden_size": 200000000, "head_dim": 2}"#, "more than 1099511627776 parameters"),
        (r#"{"architectures": ["GPT2LMHeadModel"]}"#, "asks for `architecture GPT2LMHeadModel`"),
        (r#"{"architectures": ["MistralForCausalLM"], "attention_bias": true}"#, "asks for `attention_bias: true`"),
        (r#"{"architectures": ["Qwen2ForCausalLM"], "mlp_bias": true}"#, "asks for `mlp_bias: true`"),
        (
            r#"{"architectures": ["Qwen2ForCausalLM"], "use_sliding_window": true, "max_window_layers": "x"}"#,
            "`max_window_layers` is \"x\", not a whole number",
        ),
        (r#"{"architectures": ["MistralForCausalLM"], "sliding_window": 0}"#, "`sliding_window` is 0"),
        (
            r#"{"architectures": ["Gemma2ForCausalLM"], "hidden_act": null, "sliding_window": null}"#,
            "layers with a sliding window, but no `sliding_window`",
        ),
        (
            r#"{"architectures": ["Gemma2ForCausalLM"], "hidden_activation": "gelu"}"#,
            "asks for `hidden_activation: gelu`",
        ),
        (
            r#"{"architectures": ["Qwen3ForCausalLM"], "layer_types": ["full_attention", "linear_attention"]}"#,
            "asks for `layer_types: \"linear_attention\"`",
        ),
        (r#"{"architectures": ["Qwen3ForCausalLM"], "layer_types": []}"#, "`layer_types` is not a list of 2 texts"),
        (r#"{"architectures": ["SmolLM3ForCausalLM"], "no_rope_layers": [1, 2]}"#, "is not a list of 2 zeros and ones"),
        (
            r#"{"architectures": ["GraniteForCausalLM"], "logits_scaling": 0}"#,
            "`logits_scaling` is 0, not a number above 0",
        ),
        (r#"{"architectures": ["Phi3ForCausalLM"], "resid_pdrop": 0.1}"#, "asks for `resid_pdrop`"),
        (r#"{"architectures": ["Phi3ForCausalLM"], "partial_rotary_factor": 0.01}"#, "has no halves to rotate"),
        (
            r#"{"architectures": ["Phi3ForCausalLM"], "rope_scaling": {"type": "su", "short_factor": [1], "long_factor": []}}"#,
            "needs `short_factor`, a list of 8 numbers",
        ),
        (r#"{"model_type": "gpt2"}"#, "asks for `model_type gpt2`"),
        (r#"{"tie_word_embeddings": "true"}"#, "`tie_word_embeddings` is \"true\", not true or false"),
        (r#"{"attention_bias": 1}"#, "`attention_bias` is 1, not true or false"),
        (r#"{"rope_scaling": "linear"}"#, "`rope_scaling` is \"linear\", not an object"),
        (r#"{"rope_parameters": {"rope_type": null, "factor": 2}}"#, "`rope_type` is null"),
        (r#"{"rope_theta": null}"#, "`rope_theta` is null"),
        (r#"{"partial_rotary_factor": 0.5}"#, "asks for `partial_rotary_factor: 0.5`"),
        (
            r#"{"rope_scaling": {"type": "llama3", "factor": 2, "low_freq_factor": 4, "high_freq_factor": 4}}"#,
            "`high_freq_factor` 4 is not above `low_freq_factor` 4",
        ),
        (r#"{"hidden_act": "gelu"}"#, "asks for `hidden_act: gelu`"),
        (r#"{"rope_scaling": {"type": "longrope", "factor": 2}}"#, "needs `short_factor`, a list of 8 numbers"),
        (r#"{"rope_scaling": {"type": "mrope", "factor": 2}}"#, "asks for `rope_type: mrope`"),
        (r#"{"rope_scaling": {"type": "yarn"}}"#, "rotary scaling `yarn` needs `factor` above 0"),
        (r#"{"rope_scaling": {"type": "yarn", "factor": 2, "truncate": 1}}"#, "`truncate` is 1, not true or false"),
        (r#"{"rope_theta": 1, "rope_scaling": {"type": "yarn", "factor": 2}}"#, "needs `rope_theta` above 1"),
        (r#"{"rope_scaling": {"type": "linear"}}"#, "needs `factor` above 0"),
        (r#"{"eos_token_id": "x"}"#, "not a token id"),
        (r#"{"architectures": ["SeedOssForCausalLM"], "attention_dropout": 0}"#, "asks for `residual_dropout: 0.1`"),
        (r#"{"architectures": ["SeedOssForCausalLM"], "residual_dropout": 0}"#, "asks for `attention_dropout: 0.1`"),
        (r#"{"architectures": ["ArceeForCausalLM"], "hidden_act": "silu"}"#, "asks for `hidden_act: silu`"),
        (r#"{"architectures": ["Ernie4_5ForCausalLM"], "mlp_bias": true}"#, "asks for `mlp_bias: true`"),
        (r#"{"architectures": ["GlmForCausalLM"], "partial_rotary_factor": 0.01}"#, "has no halves to rotate"),
        (
            r#"{"architectures": ["Exaone4ForCausalLM"], "sliding_window_pattern": "LLLG"}"#,
            "`sliding_window_pattern` is \"LLLG\", not a whole number",
        ),
        (
            r#"{"architectures": ["HunYuanDenseV1ForCausalLM"],
                "rope_scaling": {"type": "dynamic", "factor": 1, "alpha": "x"}}"#,
            "`alpha` \"x\" of rotary scaling",
        ),
        (
            r#"{"architectures": ["Ministral3ForCausalLM"], "rope_parameters": {"rope_type": "yarn", "factor": 2}}"#,
            "need the number `llama_4_scaling_beta`",
        ),
        (
            r#"{"architectures": ["Ministral3ForCausalLM"], "rope_parameters": {"llama_4_scaling_beta": 0.1}}"#,
            "need the number `original_max_position_embeddings`",
        ),
        (
            r#"{"architectures": ["Mistral3ForConditionalGeneration"], "text_config": {"model_type": "llama"}}"#,
            "asks for `model_type llama`",
        ),
        (r#"{"architectures": ["HeliumForCausalLM"]}"#, "its 4 heads of 128 are not the width of the model, 64"),
    ] {
        let message = read(edit).unwrap_err().to_string();
        assert!(message.contains(expected), "{edit}: {message}");
    }
}

/// Values of transformers 5.24: `AutoConfig.from_pretrained` of the same objects.
#[test]
fn what_is_absent_has_the_value_of_its_class() {
    let sizes = r#""hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 8,
        "vocab_size": 100"#;
    let of = |more: &str| ModelConfig::from_json(&format!("{{{sizes}, {more}}}"), Path::new("config.json")).unwrap();
    let (llama, mistral) = (of(r#""model_type": "llama""#), of(r#""model_type": "mistral""#));
    let seen = |config: &ModelConfig| {
        (config.num_key_value_heads, config.max_position_embeddings, config.smallest_window(), config.rms_norm_eps)
    };
    assert_eq!(seen(&llama), (8, 2048, None, 1e-6));
    assert_eq!(seen(&mistral), (8, 131_072, Some(4096), 1e-6));
    assert_eq!(of(r#""model_type": "mistral", "num_attention_heads": 16"#).num_key_value_heads, 8);
    for config in [&llama, &mistral] {
        assert_eq!((config.bos_token_id, &config.eos_token_id[..], config.pad_token_id), (Some(1), &[2][..], None));
        assert!((config.ropes[0].theta - 10_000.0).abs() < 1e-9);
    }
    let null = of(r#""model_type": "mistral", "sliding_window": null, "bos_token_id": null, "eos_token_id": null"#);
    assert_eq!((null.smallest_window(), null.bos_token_id, null.eos_token_id.len()), (None, None, 0));
    assert_eq!(of(r#""model_type": "llama", "pad_token_id": -1"#).pad_token_id, None);
    // transformers builds the class of `model_type`, whatever `architectures` says.
    let both = of(r#""model_type": "llama", "architectures": ["MistralForCausalLM"]"#);
    assert_eq!((both.architecture.as_str(), both.smallest_window()), ("LlamaForCausalLM", None));
}

#[test]
fn qwen2_has_biases_and_a_window_where_it_is_switched_on() {
    let qwen2 = |more: &str| read(&format!(r#"{{"architectures": ["Qwen2ForCausalLM"]{more}}}"#)).unwrap();
    let plain = qwen2("");
    assert_eq!([plain.qkv_bias, plain.o_bias, plain.mlp_bias], [true, false, false]);
    assert_eq!((plain.smallest_window(), plain.bos_token_id), (None, None));
    let names: Vec<String> = plain.parameters().into_iter().map(|spec| spec.name).collect();
    assert_eq!(
        names[1..4],
        ["q_proj.weight", "q_proj.bias", "k_proj.weight"].map(|name| format!("model.layers.0.self_attn.{name}"))
    );
    // The first layers see everything: `max_window_layers` of them.
    let window = |layers: u32| qwen2(&format!(r#", "use_sliding_window": true, "max_window_layers": {layers}"#));
    assert_eq!((window(1).smallest_window(), window(28).smallest_window()), (Some(4096), None));
    let typed =
        r#", "use_sliding_window": true, "sliding_window": 8, "layer_types": ["full_attention", "sliding_attention"]"#;
    assert_eq!(qwen2(typed).smallest_window(), Some(8));
    let llama = read(r#"{"attention_bias": true, "mlp_bias": true}"#).unwrap();
    assert_eq!([llama.qkv_bias, llama.o_bias, llama.mlp_bias], [true; 3]);
}

/// As the classes of transformers 5.23 build their layers.
#[test]
fn layers_have_the_windows_and_rotations_of_their_class() {
    let of = |class: &str, more: &str| {
        read(&format!(r#"{{"architectures": ["{class}"], "num_hidden_layers": 4{more}}}"#)).unwrap()
    };
    let windows = |config: &ModelConfig| config.layers.iter().map(|layer| layer.window).collect::<Vec<_>>();
    let off = r#", "sliding_window": 8, "use_sliding_window": false"#;
    // A Llama has no windows, and Mistral has no such switch.
    assert_eq!(windows(&of("LlamaForCausalLM", off)), [None; 4]);
    assert_eq!(windows(&of("MistralForCausalLM", off)), [Some(8); 4]);
    assert_eq!(windows(&of("Qwen3ForCausalLM", off)), [None; 4]);
    assert_eq!(windows(&of("Gemma2ForCausalLM", r#", "sliding_window": 8"#)), [Some(8), None, Some(8), None]);
    let types = r#", "sliding_window": 8, "layer_types":
        ["full_attention", "sliding_attention", "full_attention", "full_attention"]"#;
    assert_eq!(windows(&of("MinistralForCausalLM", types)), [None, Some(8), None, None]);
    let gemma3 = of("Gemma3ForCausalLM", r#", "sliding_window": 8, "sliding_window_pattern": 2, "rope_theta": 1000.0"#);
    assert_eq!(windows(&gemma3), [Some(8), None, Some(8), None]);
    assert_eq!(gemma3.layers.iter().map(|layer| layer.rope).collect::<Vec<_>>(), [1, 0, 1, 0].map(Some));
    assert_eq!(gemma3.ropes.iter().map(|rope| rope.theta).collect::<Vec<_>>(), [1000.0, 10_000.0]);
    let smollm3 = of("SmolLM3ForCausalLM", "");
    assert_eq!(smollm3.layers.iter().map(|layer| layer.rope).collect::<Vec<_>>(), [Some(0), Some(0), Some(0), None]);
}

/// As the classes of transformers 5.24 are built of the same objects.
#[test]
fn what_differs_from_a_llama_is_read_of_each_family() {
    let of = |class: &str, more: &str| {
        let text = format!(r#"{{"architectures": ["{class}"], "num_hidden_layers": 4, "head_dim": 16{more}}}"#);
        read(&text).unwrap_or_else(|error| panic!("{class}: {error}"))
    };
    let ropes = |config: &ModelConfig| config.layers.iter().map(|layer| layer.rope).collect::<Vec<_>>();
    let windows = |config: &ModelConfig| config.layers.iter().map(|layer| layer.window).collect::<Vec<_>>();
    let has = |config: &ModelConfig, end: &str| config.parameters().iter().any(|spec| spec.name.ends_with(end));

    let seed = of("SeedOssForCausalLM", r#", "attention_dropout": 0, "residual_dropout": 0.0"#);
    assert_eq!([seed.qkv_bias, seed.o_bias, seed.mlp_bias], [true, false, false]);

    let arcee = of("ArceeForCausalLM", "");
    assert!(has(&arcee, "mlp.up_proj.weight") && !has(&arcee, "mlp.gate_proj.weight"));

    let ernie = of("Ernie4_5ForCausalLM", r#", "use_bias": true"#);
    assert_eq!([ernie.qkv_bias, ernie.o_bias, ernie.mlp_bias, ernie.tie_word_embeddings], [true; 4]);
    assert_eq!((ernie.ropes[0].is_interleaved, ernie.ropes[0].rotary_dim), (true, 16));

    for class in ["GlmForCausalLM", "Glm4ForCausalLM"] {
        let glm = of(class, r#", "eos_token_id": null"#);
        assert_eq!(glm.eos_token_id, [151_329, 151_336, 151_338]);
        assert_eq!((glm.ropes[0].is_interleaved, glm.ropes[0].rotary_dim, glm.qkv_bias), (true, 8, true));
        assert_eq!(of(class, r#", "partial_rotary_factor": null"#).ropes[0].rotary_dim, 16);
        assert!(has(&glm, "mlp.gate_up_proj.weight") && has(&glm, "self_attn.q_proj.bias"));
    }

    let exaone = of("Exaone4ForCausalLM", r#", "sliding_window": 8, "num_key_value_heads": 2"#);
    assert_eq!(windows(&exaone), [Some(8), Some(8), Some(8), None]);
    assert_eq!(ropes(&exaone), [Some(0), Some(0), Some(0), None]);
    let whole = of("Exaone4ForCausalLM", r#", "sliding_window": null"#);
    assert_eq!((windows(&whole), ropes(&whole)), (vec![None; 4], vec![Some(0); 4]));

    let alpha = r#", "rope_theta": 10000.0, "rope_scaling": {"type": "dynamic", "factor": 1.0, "alpha": 1000.0}"#;
    let hunyuan = of("HunYuanDenseV1ForCausalLM", alpha);
    assert!(hunyuan.rotates_before_norms && hunyuan.ropes[0].scaling.is_none());
    assert!((hunyuan.ropes[0].theta / (10_000.0 * 1000.0_f64.powf(16.0 / 14.0)) - 1.0).abs() < 1e-12);
    let dynamic = r#", "rope_scaling": {"type": "dynamic", "factor": 2.0, "alpha": 0}"#;
    assert_eq!(of("HunYuanDenseV1ForCausalLM", dynamic).ropes[0].scaling, Some(RopeScaling::Dynamic));

    let ministral = of("Ministral3ForCausalLM", "");
    let growth = Growth { beta: 0.1, original_max_position_embeddings: 16_384.0 };
    assert_eq!(
        (ministral.query_rope, ministral.ropes[1].growth, ministral.ropes[0].growth),
        (Some(1), Some(growth), None)
    );
    assert!((ministral.ropes[0].theta - 1e6).abs() < 1e-9);
    let still = r#", "rope_scaling": {"type": "yarn", "factor": 2.0, "llama_4_scaling_beta": 0.0}"#;
    assert_eq!(of("Ministral3ForCausalLM", still).query_rope, None);

    let cwm = of("CwmForCausalLM", r#", "sliding_window": 8, "num_key_value_heads": 2"#);
    assert_eq!(windows(&cwm), [None, Some(8), Some(8), Some(8)]);
    assert!(matches!(cwm.ropes[0].scaling, Some(RopeScaling::Llama3 { .. })));

    let clova = of("HyperCLOVAXForCausalLM", r#", "logits_scaling": 0.5, "residual_multiplier": 2"#);
    assert!((clova.logits_scale - 0.5).abs() < 1e-9 && (clova.attention_scale - 0.25).abs() < 1e-7);
    assert!(has(&clova, "layers.0.post_norm1.weight"));
    let plain = of("HyperCLOVAXForCausalLM", r#", "use_post_norm": false, "attention_multiplier": 2"#);
    assert!(!has(&plain, "layers.0.post_norm1.weight") && (plain.attention_scale - 2.0).abs() < 1e-9);

    let gemma = of("GemmaForCausalLM", r#", "hidden_act": "gelu", "num_key_value_heads": 4"#);
    assert!((gemma.attention_scale - 0.25).abs() < 1e-7 && gemma.tie_word_embeddings);
    let vault = of("VaultGemmaForCausalLM", r#", "sliding_window": 8"#);
    assert_eq!((windows(&vault), vault.attention_cap), (vec![Some(8), None, Some(8), None], Some(50.0)));
}

/// A text model of either family, by its own `model_type`; sizes are those of the files.
#[test]
fn the_text_model_of_a_mistral3_is_of_the_family_that_it_names() {
    let sizes = r#""hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
        "vocab_size": 100"#;
    for (named, expected) in [
        ("", "MistralForCausalLM"),
        (r#", "model_type": "mistral""#, "MistralForCausalLM"),
        (r#", "model_type": "ministral3""#, "Ministral3ForCausalLM"),
    ] {
        let text =
            format!(r#"{{"model_type": "mistral3", "text_config": {{{sizes}, "num_key_value_heads": 2{named}}}}}"#);
        let config = ModelConfig::from_json(&text, Path::new("config.json")).unwrap();
        assert_eq!((config.architecture.as_str(), config.root), (expected, "model.language_model"));
    }
}

/// Values of transformers 5.24: `AutoConfig.from_pretrained(…).rope_parameters`.
#[test]
fn of_two_rotary_tables_rope_scaling_wins() {
    let linear = |factor: u32, more: &str| format!(r#"{{"rope_type": "linear", "factor": {factor}{more}}}"#);
    let new = linear(4, r#", "rope_theta": 500000.0"#);
    let both = read(&format!(r#"{{"rope_scaling": {}, "rope_parameters": {new}}}"#, linear(2, ""))).unwrap();
    let linear_of = |theta: f64, factor: f64| {
        let scaling = Some(RopeScaling::Linear { factor });
        vec![Rope { theta, rotary_dim: 16, scaling, is_interleaved: false, growth: None }]
    };
    assert_eq!(both.ropes, linear_of(5000.0, 2.0));
    assert!(both.has_two_ropes());
    for empty in ["null", "{}"] {
        let one = read(&format!(r#"{{"rope_scaling": {empty}, "rope_parameters": {new}}}"#)).unwrap();
        assert_eq!(one.ropes, linear_of(500_000.0, 4.0));
        assert!(!one.has_two_ropes());
    }
    let named = read(r#"{"rope_scaling": {"type": "linear", "rope_type": "default", "factor": 3.0}}"#).unwrap();
    assert_eq!(named.ropes[0].scaling, None);
}

#[test]
fn llama3_scaling_falls_back_on_the_positions_of_the_model() {
    let factors = r#""rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0"#;
    let config = read(&format!(r#"{{"max_position_embeddings": 9999, "rope_scaling": {{{factors}}}}}"#)).unwrap();
    let Some(RopeScaling::Llama3 { original_max_position_embeddings, .. }) = config.ropes[0].scaling else { panic!() };
    assert!((original_max_position_embeddings - 9999.0).abs() < 1e-9);
}

#[test]
fn what_a_run_changes_is_in_what_is_exported() {
    let mut config = read(r#"{"tie_word_embeddings": true}"#).unwrap();
    config.untie();
    config.set_token_ids(None, &[2, 3, 7], Some(5));
    assert_eq!(config.raw["tie_word_embeddings"], false);
    assert_eq!(config.raw["eos_token_id"], serde_json::json!([2, 3, 7]));
    assert_eq!((config.raw.get("bos_token_id"), &config.raw["pad_token_id"]), (None, &5.into()));
    assert!(config.parameters().iter().any(|spec| spec.name == "lm_head.weight"));
}

/// Layers with experts and without, as `Qwen3MoeDecoderLayer` of transformers 5.24 builds them, and what is absent as
/// `Qwen3MoeConfig`, `MixtralConfig` and `OlmoeConfig` have it.
#[test]
fn layers_have_experts_as_their_class_builds_them() {
    let of = |class: &str, more: &str| {
        read(&format!(r#"{{"architectures": ["{class}"], "num_hidden_layers": 4{more}}}"#)).unwrap()
    };
    let sparse = |config: &ModelConfig| config.layers.iter().map(|layer| layer.has_experts).collect::<Vec<_>>();
    let small = r#", "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24"#;
    let qwen3 = |more: &str| of("Qwen3MoeForCausalLM", &format!("{small}{more}"));
    assert_eq!(sparse(&qwen3("")), [true; 4]);
    assert_eq!(sparse(&qwen3(r#", "mlp_only_layers": [1, 3]"#)), [true, false, true, false]);
    assert_eq!(sparse(&qwen3(r#", "decoder_sparse_step": 2, "mlp_only_layers": [3]"#)), [false, true, false, false]);
    let dense = qwen3(r#", "mlp_only_layers": [0, 1, 2, 3]"#);
    assert_eq!((dense.experts, dense.demands().has_experts), (None, false));
    let experts = of("Qwen3MoeForCausalLM", "").experts.unwrap();
    assert_eq!((experts.count, experts.per_token, experts.width), (128, 8, 768));
    assert_eq!((experts.renormalizes, experts.balance), (false, None));
    let on = qwen3(r#", "norm_topk_prob": true, "output_router_logits": true"#);
    let experts = on.experts.unwrap();
    assert_eq!((experts.renormalizes, experts.balance, on.balance()), (true, Some(0.001), Some(0.001)));
    let mixtral = of("MixtralForCausalLM", r#", "num_local_experts": 4"#);
    let experts = mixtral.experts.unwrap();
    assert_eq!((experts.count, experts.per_token, experts.width, experts.renormalizes), (4, 2, 96, true));
    assert!((mixtral.ropes[0].theta - 5000.0).abs() < 1e-9);
    assert_eq!(mixtral.smallest_window(), None);
    let olmoe = of("OlmoeForCausalLM", r#", "output_router_logits": true, "num_experts": 8"#);
    assert_eq!((olmoe.experts.unwrap().balance, olmoe.norms_whole_heads), (Some(0.01), true));
    // The number of experts has two names.
    let other = of("Qwen3MoeForCausalLM", r#", "num_local_experts": 16"#);
    assert_eq!(other.experts.unwrap().count, 16);
}

/// Names as `save_pretrained` of transformers writes them.
#[test]
fn experts_have_the_names_of_files() {
    let names = |class: &str, more: &str| -> Vec<String> {
        let config = read(&format!(r#"{{"architectures": ["{class}"]{more}}}"#)).unwrap();
        let elements: usize = config.parameters().iter().map(|spec| spec.shape.iter().product::<usize>()).sum();
        assert_eq!(config.elements(), elements as u128);
        config.parameters().into_iter().map(|spec| spec.name).filter(|name| name.contains("layers.1.")).collect()
    };
    let small = r#", "num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 24, "mlp_only_layers": [0]"#;
    let qwen3 = names("Qwen3MoeForCausalLM", small);
    let of = |parent: &str, modules: [&str; 4]| -> Vec<String> {
        let name = |module: &str| format!("model.layers.1.{parent}.{module}.weight");
        let expert = |expert: usize| modules[1..].iter().map(move |module| format!("experts.{expert}.{module}"));
        std::iter::once(name(modules[0])).chain((0..2).flat_map(expert).map(|module| name(&module))).collect()
    };
    assert_eq!(qwen3[4..11], of("mlp", ["gate", "gate_proj", "up_proj", "down_proj"]));
    let granite = names("GraniteMoeForCausalLM", r#", "num_local_experts": 2"#);
    let joined = ["router.layer", "input_linear", "output_linear"];
    assert_eq!(granite[4..7], joined.map(|module| format!("model.layers.1.block_sparse_moe.{module}.weight")));
    let shared =
        r#", "num_local_experts": 2, "shared_intermediate_size": 40, "layer_types": ["attention", "attention"]"#;
    let granite = names("GraniteMoeHybridForCausalLM", shared);
    assert_eq!(
        granite[4..6],
        ["input", "output"].map(|name| format!("model.layers.1.shared_mlp.{name}_linear.weight"))
    );
    assert_eq!(granite[6..9], joined.map(|module| format!("model.layers.1.block_sparse_moe.{module}.weight")));
    let mixtral = names("MixtralForCausalLM", r#", "num_local_experts": 2"#);
    assert_eq!(mixtral[4..11], of("block_sparse_moe", ["gate", "w1", "w3", "w2"]));
}

#[test]
fn what_is_wrong_with_experts_is_named() {
    for (edit, expected) in [
        (r#""num_experts_per_tok": 9, "num_experts": 8"#, "`num_experts_per_tok` is 9, but layers have 8 experts"),
        (r#""num_experts": 8, "num_local_experts": 4"#, "`num_experts` is 8 and `num_local_experts` 4"),
        (r#""num_experts": 0"#, "`num_experts` is 0"),
        (r#""num_experts": 200000000"#, "2 layers of 200000000 experts; the most are 262144 in all"),
        (r#""mlp_only_layers": "1""#, "`mlp_only_layers` is not a list of layers' numbers"),
        (r#""mlp_only_layers": [-1]"#, "`mlp_only_layers` is not a list of layers' numbers"),
        (r#""output_router_logits": 1"#, "`output_router_logits` is 1, not true or false"),
        (
            r#""quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": true}"#,
            "asks for `quantization_config of a model of experts`",
        ),
        (r#""moe_intermediate_size": 200000000, "num_experts": 4096"#, "more than 1099511627776 parameters"),
    ] {
        let message =
            read(&format!(r#"{{"architectures": ["Qwen3MoeForCausalLM"], {edit}}}"#)).unwrap_err().to_string();
        assert!(message.contains(expected), "{edit}: {message}");
    }
    let jitter = r#"{"architectures": ["MixtralForCausalLM"], "router_jitter_noise": 0.1}"#;
    assert!(read(jitter).unwrap_err().to_string().contains("asks for `router_jitter_noise`"));
    let clip = r#"{"architectures": ["OlmoeForCausalLM"], "clip_qkv": 8.0}"#;
    assert!(read(clip).unwrap_err().to_string().contains("asks for `clip_qkv: 8`"));
}
