//! What can be trained here, and how: one table that rules (`facts.model.capabilities`), `host doctor` and the reference page
//! (`docs/capabilities.md`) read. A test holds each row against what the config and the model's files are refused for.

use std::fmt::Write as _;

/// The columns of the table.
pub use engine::architecture::ARCHITECTURES;
use engine::architecture::COMPOSITE_ARCHITECTURES;
use engine::architecture::scores::Classifier;
use serde_json::{Map, Value};

/// Whether something works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Support {
    /// It does.
    Yes,
    /// It does, with something to know about it.
    Experimental(&'static str),
    /// It does not, and why or what to do instead.
    No(&'static str),
}

/// One row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Feature {
    /// Short and stable, for rules.
    pub id: &'static str,
    /// In words.
    pub name: &'static str,
    /// How a config, or the model's `config.json`, asks for it.
    pub asked_by: Asked,
    /// For each of [`ARCHITECTURES`].
    pub support: &'static [Support; ARCHITECTURES.len()],
}

/// What asks for a feature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// Lines of the config.
    Config(&'static str),
    /// Members of the model's `config.json`.
    Model(&'static str),
    /// Lines of the config, which hold frozen weights in few bits.
    Packed(&'static str),
    /// Lines of the config, of a model that gets a head of scores.
    Head(&'static str, Classifier),
}

/// For each of [`ARCHITECTURES`].
type Columns = &'static [Support; ARCHITECTURES.len()];

const YES: Columns = &[Support::Yes; ARCHITECTURES.len()];

/// The same for every family.
macro_rules! no {
    ($why:literal) => {
        &[Support::No($why); ARCHITECTURES.len()]
    };
}

const fn row(id: &'static str, name: &'static str, asked_by: Asked, support: Columns) -> Feature {
    Feature { id, name, asked_by, support }
}

/// What a model's class has no use for.
const NONE: Support = Support::No("its class has none");
const WHOLE: Support = Support::No("its class rotates all of a head");
const IGNORED: Support = Support::Experimental("its class has none; the keys are not looked at, as in transformers");
const QKV: Support = Support::Experimental("query, key and value have one, whatever the file says");
const NO_CLASS: Support = Support::No("transformers has no such class of it");
const LONGROPE: Support = Support::No("its class knows LongRoPE alone");
const PACKED: Support = Support::No("weights of experts are not held in few bits");
const GROWTH: Support = Support::No("its class needs `llama_4_scaling_beta` beside it");
const ONE_BIAS: Support = Support::No("its class has `use_bias`, for all projections together");

/// `columns` with other ones for these architectures.
const fn but<const N: usize>(
    mut columns: [Support; ARCHITECTURES.len()],
    names: [&str; N],
    support: Support,
) -> [Support; ARCHITECTURES.len()] {
    let mut named = 0;
    while named < N {
        let mut column = 0;
        while !is_same(ARCHITECTURES[column], names[named]) {
            column += 1;
        }
        columns[column] = support;
        named += 1;
    }
    columns
}

const fn is_same(one: &str, other: &str) -> bool {
    let (one, other) = (one.as_bytes(), other.as_bytes());
    let mut place = 0;
    while place < one.len() && place < other.len() && one[place] == other[place] {
        place += 1;
    }
    place == one.len() && place == other.len()
}

/// Those whose rotations may be stretched by a table without more.
const WITH_TABLES: Columns = &but(*WITH_LONGROPE, ["Phi3ForCausalLM"], LONGROPE);

/// Those that LongRoPE may stretch so.
const WITH_LONGROPE: Columns = &but(*YES, ["Ministral3ForCausalLM"], GROWTH);

/// Those that rotate part of a head.
const WITH_PARTS: Columns =
    &but([WHOLE; ARCHITECTURES.len()], ["Phi3ForCausalLM", "GlmForCausalLM", "Glm4ForCausalLM"], Support::Yes);

/// Those with windows.
const WITH_WINDOWS: Columns = &but(
    *YES,
    [
        "LlamaForCausalLM",
        "GraniteForCausalLM",
        "GraniteMoeHybridForCausalLM",
        "Olmo2ForCausalLM",
        "SeedOssForCausalLM",
        "ArceeForCausalLM",
        "Ernie4_5ForCausalLM",
        "GlmForCausalLM",
        "Glm4ForCausalLM",
        "HunYuanDenseV1ForCausalLM",
        "GemmaForCausalLM",
        "HeliumForCausalLM",
        "ApertusForCausalLM",
        "HyperCLOVAXForCausalLM",
        "OlmoeForCausalLM",
        "GraniteMoeForCausalLM",
    ],
    IGNORED,
);

/// Those whose attention's projections may have biases.
const WITH_BIASES: Columns = &but(
    but(
        but(*YES, ["Qwen2ForCausalLM"], QKV),
        [
            "MistralForCausalLM",
            "MinistralForCausalLM",
            "Phi3ForCausalLM",
            "Exaone4ForCausalLM",
            "Ministral3ForCausalLM",
            "CwmForCausalLM",
            "MixtralForCausalLM",
        ],
        NONE,
    ),
    ["Ernie4_5ForCausalLM"],
    ONE_BIAS,
);

/// Those whose feed-forward projections may have biases.
const WITH_MLP_BIASES: Columns = &but(
    but(
        [NONE; ARCHITECTURES.len()],
        [
            "LlamaForCausalLM",
            "SmolLM3ForCausalLM",
            "GraniteForCausalLM",
            "SeedOssForCausalLM",
            "ArceeForCausalLM",
            "HeliumForCausalLM",
            "CwmForCausalLM",
            "HyperCLOVAXForCausalLM",
        ],
        Support::Yes,
    ),
    ["Ernie4_5ForCausalLM"],
    ONE_BIAS,
);

/// Those whose classes with scores of texts transformers has.
const WITH_SCORES: Columns = &but(
    *YES,
    [
        "GraniteForCausalLM",
        "GraniteMoeHybridForCausalLM",
        "Ernie4_5ForCausalLM",
        "VaultGemmaForCausalLM",
        "CwmForCausalLM",
        "ApertusForCausalLM",
        "HyperCLOVAXForCausalLM",
        "OlmoeForCausalLM",
        "GraniteMoeForCausalLM",
    ],
    NO_CLASS,
);

/// Those whose frozen weights may be held in few bits.
const WITH_PACKED: Columns =
    &but(*YES, ["Qwen3MoeForCausalLM", "MixtralForCausalLM", "OlmoeForCausalLM", "GraniteMoeForCausalLM"], PACKED);

/// Those whose classes with scores of tokens transformers has.
const WITH_STEPS: Columns = &but(
    but(
        *WITH_SCORES,
        ["Gemma3ForCausalLM", "Olmo2ForCausalLM", "Olmo3ForCausalLM", "HunYuanDenseV1ForCausalLM"],
        NO_CLASS,
    ),
    ["ApertusForCausalLM"],
    Support::Yes,
);

use Asked::{Config, Head, Model, Packed};

/// The table.
#[rustfmt::skip]
pub const FEATURES: &[Feature] = &[
    row("full", "all weights trained", Config(""), YES),
    row("lora", "LoRA on linear layers", Config("adapter: lora\nlora_r: 4\nlora_alpha: 8\nlora_target_linear: true"), YES),
    row("lora-head", "LoRA on the output projection", Config("adapter: lora\nlora_r: 4\nlora_alpha: 8\nlora_target_modules: [lm_head]"), YES),
    row("rslora", "rank-stabilized LoRA", Config("adapter: lora\nlora_r: 4\nlora_alpha: 8\nlora_target_linear: true\npeft_use_rslora: true"), YES),
    row("lora-patterns", "ranks and alphas of some modules alone", Config("adapter: lora\nlora_r: 4\nlora_alpha: 8\nlora_target_linear: true\nlora_alpha_pattern: {down_proj: 16}\nlora_rank_pattern: {down_proj: 8}"), YES),
    row("lora-saved", "embedding, output projection or norms trained beside adapters", Config("adapter: lora\nlora_r: 4\nlora_alpha: 8\nlora_target_linear: true\nlora_modules_to_save: [embed_tokens]"), YES),
    row("lora-start", "training that starts from an adapter", Config("adapter: lora\nlora_r: 4\nlora_alpha: 8\nlora_target_linear: true\nlora_model_dir: adapter"), YES),
    row("dora", "DoRA", Config("adapter: lora\nlora_r: 4\nlora_alpha: 8\nlora_target_linear: true\npeft_use_dora: true"), YES),
    row("new-tokens", "new tokens, with new rows of embedding and output projection", Config("tokens: ['<|think|>']"), YES),
    row("freezing", "some weights frozen", Config("unfrozen_parameters: ['^lm_head']"), YES),
    row("freezing-rows", "some rows of weights frozen", Config("unfrozen_parameters: ['^model.embed_tokens.weight$[:2]']"), YES),
    row("spectrum", "the weights with most signal trained (Spectrum)", Config("spectrum_top_fraction: 0.5"), YES),
    row("lisa", "some layers at a time trained (LISA)", Config("lisa_n_layers: 1\nlisa_step_interval: 20"), YES),
    row("loraplus", "another learning rate for the adapters' `B` (LoRA+)", Config("adapter: lora\nlora_r: 4\nlora_alpha: 8\nlora_target_linear: true\nloraplus_lr_ratio: 16"), YES),
    row("lr-groups", "learning rates of some modules' own", Config("lr_groups: [{name: a, modules: [self_attn], lr: 1e-5}]"), YES),
    row("neftune", "noise of the embedding (NEFTune)", Config("neftune_noise_alpha: 5"), YES),
    row("best-model", "the best of a run as its result, and an early end", Config("val_set_size: 0.1\nload_best_model_at_end: true"), YES),
    row("checkpointing", "activation checkpointing", Config("gradient_checkpointing: true"), YES),
    row("offloading", "activations offloaded", Config("gradient_checkpointing: offload"), &[Support::Experimental("layers are computed again, and nothing is offloaded"); ARCHITECTURES.len()]),
    row("packing", "several samples in one row, kept apart", Config("sample_packing: true"), YES),
    row("generation", "generation in evaluations", Config("val_set_size: 0.1\neval_reward_funcs: [exact-match]"), YES),
    row("chat", "conversations through a chat template", Config("chat_template: chatml"), YES),
    row("qlora", "QLoRA: adapters beside weights of four bits", Packed("adapter: qlora\nlora_r: 4\nlora_alpha: 8\nlora_target_linear: true\nload_in_4bit: true"), WITH_PACKED),
    row("lora-8bit", "LoRA beside weights of eight bits", Packed("adapter: lora\nlora_r: 4\nlora_alpha: 8\nlora_target_linear: true\nload_in_8bit: true"), WITH_PACKED),
    row("saved-packed", "adapters beside weights that bitsandbytes has saved", Model(r#""quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": true, "bnb_4bit_quant_type": "nf4"}"#), WITH_PACKED),
    row("quantized", "weights quantized otherwise", Config("gptq: true"), no!("frozen weights are quantized as bitsandbytes does it")),
    row("preferences", "learning from pairs of answers (`rl: dpo`, `ipo`, `simpo`, `cpo`, `orpo`)", Config("rl: dpo"), YES),
    row("unpaired", "learning from answers that are wanted or not (`rl: kto`)", Config("rl: kto"), YES),
    row("reward-model", "models that score texts (`reward_model: true`)", Head("reward_model: true", Classifier::Sequence), WITH_SCORES),
    row("process-reward-model", "models that score the steps of answers (`process_reward_model: true`)", Head("process_reward_model: true", Classifier::Token), WITH_STEPS),
    row("rewards", "learning from what rewards say of completions (`rl: grpo`, `gdpo`)", Config("rl: grpo\ntrl: {reward_funcs: [exact-match]}\nmicro_batch_size: 8\nsequence_len: 512"), YES),
    row("environments", "learning in an environment over several turns (`rl: grpo` with `environment`)", Config("rl: grpo\nmicro_batch_size: 8\nsequence_len: 512\nchat_template: chatml\nenvironment: {name: 'acme:shop', max_turns: 4}"), YES),
    row("distillation", "learning what a teacher says where the model itself writes (`rl: distill`)", Config("rl: distill\nmicro_batch_size: 8\nsequence_len: 512\ntrl: {teacher_model_name_or_path: teacher}"), YES),
    row("distributed", "several devices", Config("world_size: 2"), no!("a run is one process on one machine")),
    row("streaming", "streaming datasets", Config("max_steps: 2\nstreaming: true"), YES),
    row("gqa", "grouped-query attention", Model(r#""num_key_value_heads": 2"#), YES),
    row("tied", "output projection tied to the embedding", Model(r#""tie_word_embeddings": true"#), YES),
    row("rope-linear", "linear RoPE scaling", Model(r#""rope_scaling": {"rope_type": "linear", "factor": 2.0}"#), WITH_TABLES),
    row("rope-llama3", "RoPE scaling of Llama 3.1", Model(r#""rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}"#), WITH_TABLES),
    row("rope-yarn", "RoPE scaling of YaRN", Model(r#""rope_scaling": {"rope_type": "yarn", "factor": 4.0}"#), WITH_TABLES),
    row("rope-longrope", "RoPE scaling of LongRoPE", Model(r#""rope_scaling": {"rope_type": "longrope", "factor": 4.0, "short_factor": [1, 1, 1, 1, 1, 1, 1, 1], "long_factor": [2, 2, 2, 2, 2, 2, 2, 2]}"#), WITH_LONGROPE),
    row("rope-dynamic", "dynamic RoPE scaling, within the model's positions", Model(r#""rope_scaling": {"rope_type": "dynamic", "factor": 2.0}"#), WITH_TABLES),
    row("rope-other", "other RoPE scaling", Model(r#""rope_scaling": {"rope_type": "mrope"}"#), no!("frequencies are plain, linear, dynamic, those of Llama 3.1, of YaRN or of LongRoPE")),
    row("rope-partial", "part of a head rotated", Model(r#""partial_rotary_factor": 0.5"#), WITH_PARTS),
    row("window", "a sliding window", Model(r#""sliding_window": 128, "use_sliding_window": true"#), WITH_WINDOWS),
    row("bias", "attention's projections with a bias", Model(r#""attention_bias": true"#), WITH_BIASES),
    row("mlp-bias", "feed-forward projections with a bias", Model(r#""mlp_bias": true"#), WITH_MLP_BIASES),
];

/// Feature → `yes`, `experimental: …` or `no: …`, for an architecture; empty for one that is not here.
pub fn of(architecture: &str) -> Map<String, Value> {
    let Some(column) = ARCHITECTURES.iter().position(|name| *name == architecture) else { return Map::new() };
    FEATURES.iter().map(|feature| (feature.id.to_owned(), words(feature.support[column]).into())).collect()
}

fn words(support: Support) -> String {
    match support {
        Support::Yes => "yes".to_owned(),
        Support::Experimental(note) => format!("experimental: {note}"),
        Support::No(why) => format!("no: {why}"),
    }
}

/// The table as a page: what is the same for every family, then what is not.
pub fn markdown() -> String {
    let mut page = String::from(
        "# What can be trained, and how\n\nWritten by `host doctor --capabilities`. Every row is held against what `host check` says of a config or a model that asks\n\
         for it. Training runs on the CPU in float32, and on an NVIDIA GPU in bfloat16 or float32 (`device`).\n\n",
    );
    let _ = writeln!(page, "Models are those of these classes of transformers: {}.", ARCHITECTURES.join(", "));
    let _ = writeln!(
        page,
        "Of these, the text model is trained, and the other parts go along as they are: {}.",
        COMPOSITE_ARCHITECTURES.join(", ")
    );
    let is_same = |feature: &&Feature| feature.support.iter().all(|support| *support == feature.support[0]);
    page.push_str("\n## For every model\n\n| | asked for by | |\n|---|---|---|\n");
    for feature in FEATURES.iter().filter(is_same) {
        let _ = writeln!(page, "| {} | {} | {} |", feature.name, asked_by(feature), words(feature.support[0]));
    }
    page.push_str("\n## Where models differ\n");
    for feature in FEATURES.iter().filter(|feature| !is_same(feature)) {
        let _ = writeln!(page, "\n**{}** ({})\n", feature.name, asked_by(feature));
        let mut seen = Vec::new();
        for support in *feature.support {
            if seen.contains(&support) {
                continue;
            }
            seen.push(support);
            let names: Vec<&str> = ARCHITECTURES
                .into_iter()
                .zip(feature.support)
                .filter(|(_, own)| **own == support)
                .map(|(name, _)| name)
                .collect();
            let _ = writeln!(page, "- {}: {}", words(support), names.join(", "));
        }
    }
    page
}

fn asked_by(feature: &Feature) -> String {
    match feature.asked_by {
        Asked::Config("") => "no `adapter`".to_owned(),
        Asked::Config(lines) | Asked::Packed(lines) | Asked::Head(lines, _) => {
            format!("`{}`", lines.rsplit('\n').next().unwrap_or_default())
        }
        Asked::Model(members) => {
            let key = members.split('"').nth(1).unwrap_or_default();
            let kind = members.split("\"rope_type\": \"").nth(1).and_then(|rest| rest.split('"').next());
            kind.map_or_else(|| format!("model: `{key}`"), |kind| format!("model: `{key}` of type `{kind}`"))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use engine::architecture::config::ModelConfig;

    use super::*;
    use crate::config;
    use crate::diagnostic::Severity;

    /// Whether a config with these lines is free of errors.
    fn config_is_taken(lines: &str) -> bool {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("host.yml");
        let least = "base_model: m\nlearning_rate: 1e-4\ndatasets: [{path: a, type: alpaca}]\n";
        std::fs::write(&path, format!("{least}{lines}\n")).unwrap();
        config::examine(&path, &[]).problems.iter().all(|problem| problem.severity != Severity::Error)
    }

    fn model(architecture: &str, members: &str) -> Option<ModelConfig> {
        let folder = tempfile::tempdir().unwrap();
        let own = match architecture {
            // What it must say of itself to be one without experts.
            "GraniteMoeHybridForCausalLM" => {
                r#""num_local_experts": 0, "shared_intermediate_size": 128, "layer_types": ["attention", "attention"], "#
            }
            // Its class drops what it computes otherwise.
            "SeedOssForCausalLM" => r#""attention_dropout": 0, "residual_dropout": 0, "#,
            // As many frequencies as the others have.
            "GlmForCausalLM" | "Glm4ForCausalLM" => r#""partial_rotary_factor": 1.0, "#,
            _ => "",
        };
        let text = format!(
            r#"{{{own}"architectures": ["{architecture}"], "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
                "num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 16, "vocab_size": 128, "rms_norm_eps": 1e-5, "max_position_embeddings": 256, {members}}}"#
        );
        std::fs::write(folder.path().join("config.json"), text).unwrap();
        ModelConfig::from_dir(folder.path()).ok()
    }

    fn model_is_taken(architecture: &str, members: &str) -> bool {
        model(architecture, members).is_some()
    }

    fn may_be_packed(architecture: &str) -> bool {
        model(architecture, r#""num_key_value_heads": 2"#).is_some_and(|model| model.cannot_be_packed().is_none())
    }

    fn head_is_had(architecture: &str, classifier: Classifier) -> bool {
        let mut model = model(architecture, r#""num_key_value_heads": 2"#).unwrap();
        model.score(classifier, 2, 0).is_ok()
    }

    #[test]
    fn the_table_is_what_is_refused() {
        let mut wrong = Vec::new();
        for feature in FEATURES {
            for (architecture, support) in ARCHITECTURES.iter().zip(*feature.support) {
                let is_taken = match feature.asked_by {
                    Asked::Config(lines) => config_is_taken(lines),
                    Asked::Packed(lines) => config_is_taken(lines) && may_be_packed(architecture),
                    Asked::Model(members) => model_is_taken(architecture, members),
                    Asked::Head(lines, classifier) => config_is_taken(lines) && head_is_had(architecture, classifier),
                };
                if is_taken == matches!(support, Support::No(_)) {
                    wrong.push(format!("{} on {architecture}: {is_taken}", feature.id));
                }
            }
        }
        assert!(wrong.is_empty(), "{wrong:#?}");
        assert!(!model_is_taken("GPT2LMHeadModel", r#""num_key_value_heads": 2"#));
        assert_eq!(of("LlamaForCausalLM")["lora"], "yes");
        assert!(of("GPT2LMHeadModel").is_empty());
    }

    #[test]
    fn the_page_is_this_one() {
        let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/capabilities.md");
        let text = std::fs::read_to_string(page).unwrap_or_default();
        assert!(text == markdown(), "docs/capabilities.md: `host doctor --capabilities > docs/capabilities.md`");
    }
}
