//! Freezing, adapters and activation checkpointing.

use plugin_sdk::rules::{Facts, Severity};
use plugin_sdk::serde_json::Value;
use regex_lite::Regex;

use crate::{Rule, Violation, is_lora, is_set};

const REENTRANT: &str = "gradient_checkpointing_kwargs.use_reentrant";

pub(crate) const RULES: &[Rule] = &[
    Rule {
        id: "G1",
        severity: Severity::Error,
        summary: "partly frozen models need non-reentrant activation checkpointing",
        evidence: "https://github.com/huggingface/transformers/issues/21381; Axolotl's check_gradient_checkpointing_w_unfrozen",
        check: reentrant_and_frozen,
    },
    Rule {
        id: "G2",
        severity: Severity::Warning,
        summary: "activation checkpointing here is never reentrant",
        evidence: "https://docs.pytorch.org/docs/stable/checkpoint.html: use_reentrant=False is what PyTorch recommends",
        check: reentrant_anyway,
    },
    Rule {
        id: "G3",
        severity: Severity::Warning,
        summary: "activation checkpointing needs a trained decoder layer to save anything",
        evidence: "layers below the first trained one have no backward pass, so nothing of them is kept in the first place",
        check: nothing_to_recompute,
    },
    Rule {
        id: "G4",
        severity: Severity::Error,
        summary: "an adapter and unfrozen_parameters exclude each other",
        evidence: "Axolotl's check_peft_layers_to_transform_and_unfrozen: \"can have unexpected behavior\"",
        check: adapter_and_unfrozen,
    },
    Rule {
        id: "H1",
        severity: Severity::Error,
        summary: "an adapter needs trained weights beneath it",
        evidence: "Hu et al. 2021, arXiv 2106.09685: the update is low-rank because the model already knows the language",
        check: adapter_on_random_weights,
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
];

fn reentrant_and_frozen(facts: &Facts) -> Option<Violation> {
    (facts.flag(REENTRANT) && is_set(facts, "unfrozen_parameters")).then(|| {
        Violation::at(
            REENTRANT,
            "reentrant activation checkpointing does not work with a partly frozen model",
            "a reentrant checkpoint loses the gradients of a block whose input needs none, which is every block above the frozen part",
        )
        .and("unfrozen_parameters")
        .help("set `use_reentrant: false`")
        .set(REENTRANT, "false")
    })
}

fn reentrant_anyway(facts: &Facts) -> Option<Violation> {
    (facts.flag(REENTRANT) && !is_set(facts, "unfrozen_parameters")).then(|| {
        Violation::at(
            REENTRANT,
            "`use_reentrant: true` has no effect",
            "activation checkpointing here is always the non-reentrant kind: the same gradients, and no input that has to require one",
        )
        .help("delete it, or set `use_reentrant: false`")
        .set(REENTRANT, "false")
    })
}

fn nothing_to_recompute(facts: &Facts) -> Option<Violation> {
    if !facts.flag("gradient_checkpointing") || is_lora(facts) || !is_set(facts, "unfrozen_parameters") {
        return None;
    }
    let names: Vec<&str> = facts.model("parameter_names").as_array()?.iter().filter_map(Value::as_str).collect();
    let patterns: Vec<Regex> = facts
        .get("unfrozen_parameters")
        .as_array()?
        .iter()
        .filter_map(Value::as_str)
        .filter_map(|pattern| Regex::new(&format!("^(?:{pattern})")).ok())
        .collect();
    let trained = || names.iter().filter(|name| patterns.iter().any(|pattern| pattern.is_match(name)));
    let in_layers = trained().any(|name| name.contains(".layers.") || name.contains("embed_tokens"));
    (trained().next().is_some() && !in_layers).then(|| {
        Violation::at(
            "gradient_checkpointing",
            "activation checkpointing saves nothing here",
            "only parameters above the decoder layers are trained, so no layer has a backward pass",
        )
        .and("unfrozen_parameters")
        .help("delete `gradient_checkpointing`, or unfreeze a layer: `model\\.layers\\.31\\.`")
    })
}

fn adapter_and_unfrozen(facts: &Facts) -> Option<Violation> {
    (is_lora(facts) && is_set(facts, "unfrozen_parameters")).then(|| {
        Violation::at(
            "unfrozen_parameters",
            "`unfrozen_parameters` and `adapter: lora` exclude each other",
            "with an adapter, the model's own weights are all frozen",
        )
        .and("adapter")
        .help("delete `unfrozen_parameters` to train the adapter, or `adapter` to train those weights")
    })
}

fn adapter_on_random_weights(facts: &Facts) -> Option<Violation> {
    (is_lora(facts) && facts.flag("reinit_weights")).then(|| {
        Violation::at(
            "reinit_weights",
            "an adapter beside fresh random weights cannot learn much",
            "with `adapter: lora` the random weights stay as they are",
        )
        .and("adapter")
        .help("delete `reinit_weights`, or `adapter` to train all weights")
        .remove("reinit_weights")
    })
}

fn adapted_layers_exist(facts: &Facts) -> Option<Violation> {
    let layers = facts.model("num_hidden_layers").as_u64()?;
    let wanted = facts.get("peft_layers_to_transform").as_array()?;
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
    let (alpha, r) = (facts.number("lora_alpha")?, facts.number("lora_r")?);
    let ratio = alpha / r;
    (is_lora(facts) && !facts.flag("peft_use_rslora") && !(0.25..=8.0).contains(&ratio)).then(|| {
        Violation::at(
            "lora_alpha",
            format!("`lora_alpha` {alpha} is {ratio} times `lora_r` {r}"),
            "the adapter's output is scaled by that, and the learning rate with it",
        )
        .and("lora_r")
        .help(format!("`lora_alpha: {}` or `{}` is usual", r, 2.0 * r))
    })
}

#[cfg(test)]
mod tests {
    use plugin_sdk::serde_json::{Value, json};

    use crate::tests::fired;

    #[test]
    fn g1_and_g2_look_at_reentrant_checkpointing() {
        let reentrant = json!({"use_reentrant": true});
        let frozen = json!(["model.layers.1"]);
        let all = json!({"gradient_checkpointing": true, "gradient_checkpointing_kwargs": reentrant, "unfrozen_parameters": frozen});
        assert_eq!(fired(all, Value::Null), ["G1"]);
        assert_eq!(fired(json!({"gradient_checkpointing_kwargs": reentrant}), Value::Null), ["G2"]);
        let fine = json!({"gradient_checkpointing_kwargs": {"use_reentrant": false}, "unfrozen_parameters": frozen});
        assert_eq!(fired(fine, Value::Null), [""; 0]);
    }

    #[test]
    fn g3_needs_a_layer_to_recompute() {
        let model = json!({"parameter_names": ["model.embed_tokens.weight", "model.layers.0.mlp.up_proj.weight", "model.norm.weight", "lm_head.weight"]});
        let config = |pattern: &str| json!({"gradient_checkpointing": true, "unfrozen_parameters": [pattern]});
        assert_eq!(fired(config("lm_head"), model.clone()), ["G3"]);
        assert_eq!(fired(config(r"model\.layers\.0"), model.clone()), [""; 0]);
        assert_eq!(fired(config("model.embed"), model), [""; 0]);
    }

    #[test]
    fn adapters_have_rules_of_their_own() {
        let lora = |more: Value| {
            let mut config = json!({"adapter": "lora", "lora_r": 16, "lora_alpha": 32});
            config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            fired(config, json!({"num_hidden_layers": 4}))
        };
        assert_eq!(lora(json!({})), [""; 0]);
        assert_eq!(lora(json!({"unfrozen_parameters": ["x"]})), ["G4"]);
        assert_eq!(lora(json!({"reinit_weights": true})), ["H1"]);
        assert_eq!(lora(json!({"peft_layers_to_transform": [3, 4]})), ["H2"]);
        assert_eq!(lora(json!({"lora_alpha": 1})), ["H3"]);
        assert_eq!(lora(json!({"lora_alpha": 1, "peft_use_rslora": true})), [""; 0]);
    }
}
