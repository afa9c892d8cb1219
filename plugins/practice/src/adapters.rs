//! Adapters, and weights that stay as they are.

use plugin_sdk::rules::{Facts, Rule, Severity, Violation};

pub(crate) const RULES: &[Rule] = &[
    Rule {
        id: "H1",
        severity: Severity::Error,
        summary: "frozen weights are trained ones",
        evidence: "Hu et al. 2021, arXiv 2106.09685: the update is low-rank because the model already knows the language",
        check: frozen_random_weights,
    },
    Rule {
        id: "H2",
        severity: Severity::Error,
        summary: "peft_layers_to_transform names layers that the model has",
        evidence: "PEFT adapts no layer where none matches, and trains nothing",
        check: adapted_layers_exist,
    },
    Rule {
        id: "H3",
        severity: Severity::Warning,
        summary: "lora_alpha is between a quarter and eight times lora_r",
        evidence: "the adapter's output is scaled by alpha / r; common recipes use 1 or 2",
        check: extreme_alpha,
    },
    Rule {
        id: "H12",
        severity: Severity::Error,
        summary: "an adapter has a layer to adapt",
        evidence: "PEFT's inject_adapter: \"No modules were targeted for adaptation\"",
        check: nothing_to_adapt,
    },
    Rule {
        id: "H13",
        severity: Severity::Error,
        summary: "settings of an adapter come with an adapter",
        evidence: "LLaMA-Factory's FinetuningArguments: \"is only valid for LoRA training\"",
        check: settings_without_adapter,
    },
    Rule {
        id: "H14",
        severity: Severity::Warning,
        summary: "lora_target_modules or lora_target_linear, not both",
        evidence: "Axolotl's load_lora adds all linear layers to the list, which then says nothing",
        check: |facts| {
            let why = "`lora_target_linear` adapts every linear layer, whatever the list names";
            Violation::both(facts, "lora_target_modules", "lora_target_linear", why).filter(|_| is_lora(facts))
        },
    },
    Rule {
        id: "H21",
        severity: Severity::Warning,
        summary: "lora_r is below the model's hidden size",
        evidence: "Hu et al. 2021, arXiv 2106.09685: r is far below the size of the weights, 1 to 64 in all experiments",
        check: rank_that_is_not_low,
    },
    Rule {
        id: "H30",
        severity: Severity::Warning,
        summary: "the rows of new tokens are trained",
        evidence: "Axolotl's loader of tokenizers: \"Please set lora_modules_to_save to [embed_tokens, lm_head] when using an adapter and changing the special tokens.\"",
        check: new_rows_that_stay,
    },
];

/// What means nothing without `adapter`. `lora_r`, `lora_alpha` and the targets are told by the config reader.
const SETTINGS: [&str; 4] = ["lora_dropout", "peft_use_dora", "peft_use_rslora", "peft_layers_to_transform"];

fn is_lora(facts: &Facts) -> bool {
    facts.is_set("adapter")
}

fn frozen_random_weights(facts: &Facts) -> Option<Violation> {
    if !facts.flag("reinit_weights") {
        return None;
    }
    let (key, what) = if is_lora(facts) {
        ("adapter", "an adapter beside fresh random weights cannot learn much")
    } else if facts.is_set("unfrozen_parameters") {
        ("unfrozen_parameters", "weights that are random and frozen stay random")
    } else {
        return None;
    };
    Some(
        Violation::at("reinit_weights", what, format!("with `{key}` they are never trained"))
            .and(key)
            .help(format!("delete `reinit_weights`, or `{key}` to train all weights")),
    )
}

fn adapted_layers_exist(facts: &Facts) -> Option<Violation> {
    let layers = facts.model("num_hidden_layers").as_u64()?;
    let wanted = facts.list("peft_layers_to_transform");
    let index = wanted.iter().position(|layer| layer.as_u64().is_some_and(|layer| layer >= layers))?;
    is_lora(facts).then(|| {
        Violation::at(
            format!("peft_layers_to_transform[{index}]"),
            format!("the model has no layer {}", wanted[index]),
            format!("it has {layers} layers, counted from 0"),
        )
        .help(format!("the last one is {}", layers.saturating_sub(1)))
    })
}

fn extreme_alpha(facts: &Facts) -> Option<Violation> {
    let (alpha, r) = (facts.number("lora_alpha")?, facts.number("lora_r").filter(|r| *r > 0.0)?);
    let ratio = alpha / r;
    (is_lora(facts) && !facts.flag("peft_use_rslora") && !(0.25..=8.0).contains(&ratio)).then(|| {
        let times = (ratio * 1000.0).round() / 1000.0;
        Violation::at(
            "lora_alpha",
            format!("`lora_alpha` {alpha} is {times} times `lora_r` {r}"),
            "the adapter's output is scaled by that, and the learning rate with it",
        )
        .and("lora_r")
        .help(format!("`lora_alpha: {r}` or `{}` is usual", 2.0 * r))
    })
}

fn nothing_to_adapt(facts: &Facts) -> Option<Violation> {
    let is_empty = |key: &str| facts.get(key).as_array().is_some_and(Vec::is_empty) && facts.is_given(key);
    let key = if is_empty("peft_layers_to_transform") {
        "peft_layers_to_transform"
    } else if is_empty("lora_target_modules") && !facts.flag("lora_target_linear") {
        "lora_target_modules"
    } else {
        return None;
    };
    is_lora(facts).then(|| {
        let help = if key == "lora_target_modules" {
            "name the layers, or write `lora_target_linear: true` for all of them"
        } else {
            "name the layers, counted from 0, or delete the key to adapt all"
        };
        Violation::at(key, "the adapter has nothing to adapt", format!("`{key}` is empty")).help(help)
    })
}

fn settings_without_adapter(facts: &Facts) -> Option<Violation> {
    let key = SETTINGS.into_iter().find(|key| facts.is_set(key))?;
    (!facts.is_given("adapter")).then(|| {
        Violation::at(key, format!("`{key}` without `adapter`"), "all weights of the model would be trained")
            .help("add `adapter: lora`, or delete the key")
    })
}

fn new_rows_that_stay(facts: &Facts) -> Option<Violation> {
    let rows = facts.model("new_rows").as_u64().filter(|rows| *rows > 0 && is_lora(facts))?;
    let saved = facts.list("lora_modules_to_save");
    let is_saved = |module: &str| {
        saved.iter().filter_map(|entry| entry.as_str()).any(|entry| !entry.is_empty() && module.ends_with(entry))
    };
    let missing: Vec<&str> =
        ["embed_tokens", "lm_head"].into_iter().filter(|module| !is_saved(&format!("model.{module}"))).collect();
    (!missing.is_empty()).then(|| {
        Violation::at(
            "lora_modules_to_save",
            format!("{rows} new rows of `{}` are not trained", missing.join("` and `")),
            "an adapter leaves the model's own weights as they are, and a new row says nothing of its token",
        )
        .and("tokens")
        .help("write `lora_modules_to_save: [embed_tokens, lm_head]`")
    })
}

fn rank_that_is_not_low(facts: &Facts) -> Option<Violation> {
    let (r, size) = (facts.number("lora_r")?, facts.model("hidden_size").as_f64()?);
    (is_lora(facts) && r >= size).then(|| {
        Violation::at(
            "lora_r",
            format!("`lora_r` {r} is not below the model's hidden size {size}"),
            "such an adapter has more parameters than the weights it stands beside, and can do no more than they can",
        )
        .help("`lora_r: 16` is usual; delete `adapter` to train the weights themselves")
    })
}

#[cfg(test)]
mod tests {
    use plugin_sdk::serde_json::{Value, json};

    use crate::tests::fired;

    fn lora(more: Value) -> Vec<String> {
        let mut config = json!({"adapter": "lora", "lora_r": 16, "lora_alpha": 32, "lora_target_linear": true});
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        fired(config, json!({"num_hidden_layers": 4, "hidden_size": 128}))
    }

    #[test]
    fn h1_frozen_weights_are_trained_ones() {
        assert_eq!(lora(json!({})), [""; 0]);
        assert_eq!(lora(json!({"reinit_weights": true})), ["H1"]);
        let config = |frozen: Value| fired(json!({"reinit_weights": true, "unfrozen_parameters": frozen}), Value::Null);
        assert_eq!((config(json!(["x"])), config(json!([]))), (vec!["H1".to_owned()], vec![]));
    }

    #[test]
    fn h2_layers_that_there_are() {
        assert_eq!(lora(json!({"peft_layers_to_transform": [3, 4]})), ["H2"]);
        assert_eq!(lora(json!({"peft_layers_to_transform": [0, 3]})), [""; 0]);
    }

    #[test]
    fn h3_a_usual_scale() {
        assert_eq!(lora(json!({"lora_alpha": 1})), ["H3"]);
        assert_eq!(lora(json!({"lora_alpha": 1, "peft_use_rslora": true})), [""; 0]);
        assert_eq!(lora(json!({"lora_alpha": 4})), [""; 0]);
    }

    #[test]
    fn h12_something_to_adapt() {
        assert_eq!(lora(json!({"lora_target_linear": false, "lora_target_modules": []})), ["H12"]);
        assert_eq!(lora(json!({"peft_layers_to_transform": []})), ["H12"]);
        assert_eq!(lora(json!({"lora_target_modules": []})), [""; 0]);
    }

    #[test]
    fn h13_settings_of_an_adapter_that_is_not_there() {
        for setting in [json!({"lora_dropout": 0.1}), json!({"peft_use_dora": true}), json!({"peft_use_rslora": true})]
        {
            assert_eq!(fired(setting.clone(), Value::Null), ["H13"]);
            assert_eq!(lora(setting), [""; 0]);
        }
        assert_eq!(fired(json!({"lora_dropout": 0}), Value::Null), [""; 0]);
    }

    #[test]
    fn h14_all_layers_or_these() {
        assert_eq!(lora(json!({"lora_target_modules": ["q_proj"]})), ["H14"]);
        assert_eq!(lora(json!({"lora_target_modules": ["q_proj"], "lora_target_linear": false})), [""; 0]);
    }

    #[test]
    fn h30_rows_of_new_tokens() {
        let run = |saved: Value, rows: u64| {
            let config = json!({"adapter": "lora", "lora_r": 8, "lora_alpha": 16, "lora_modules_to_save": saved});
            fired(config, json!({"num_hidden_layers": 4, "hidden_size": 128, "new_rows": rows}))
        };
        assert_eq!(run(json!([]), 2), ["H30"]);
        assert_eq!(run(json!(["embed_tokens"]), 2), ["H30"]);
        assert_eq!(run(json!(["model.embed_tokens", "lm_head"]), 2), [""; 0]);
        assert_eq!(run(json!([]), 0), [""; 0]);
    }

    #[test]
    fn h21_a_low_rank() {
        assert_eq!(lora(json!({"lora_r": 128, "lora_alpha": 128})), ["H21"]);
        assert_eq!(lora(json!({"lora_r": 64, "lora_alpha": 64})), [""; 0]);
    }
}
