//! Freezing, adapters and activation checkpointing.

use plugin_sdk::rules::{Facts, Rule, Severity, Violation};
use plugin_sdk::serde_json::Value;
use regex_lite::Regex;

const REENTRANT: &str = "gradient_checkpointing_kwargs.use_reentrant";

pub(crate) const RULES: &[Rule] = &[
    Rule {
        id: "G1",
        severity: Severity::Error,
        summary: "partly frozen models need non-reentrant activation checkpointing",
        evidence: "https://github.com/huggingface/transformers/issues/21381; Axolotl's check_use_reentrant_mismatch",
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
        evidence: "Axolotl's check_frozen: \"can have unexpected behavior\"",
        check: adapter_and_unfrozen,
    },
];

fn reentrant_and_frozen(facts: &Facts) -> Option<Violation> {
    (facts.flag(REENTRANT) && facts.is_set("unfrozen_parameters")).then(|| {
        Violation::at(
            REENTRANT,
            "reentrant activation checkpointing does not work with a partly frozen model",
            "a reentrant checkpoint loses the gradients of a block whose input needs none, which is every block above the frozen part",
        )
        .and("unfrozen_parameters")
        .help("set `use_reentrant: false`")
        .set(REENTRANT, false)
    })
}

fn reentrant_anyway(facts: &Facts) -> Option<Violation> {
    (facts.flag(REENTRANT) && !facts.is_set("unfrozen_parameters")).then(|| {
        Violation::at(
            REENTRANT,
            "`use_reentrant: true` has no effect",
            "activation checkpointing here is always the non-reentrant kind: the same gradients, and no input that has to require one",
        )
        .help("delete it, or set `use_reentrant: false`")
        .set(REENTRANT, false)
    })
}

fn nothing_to_recompute(facts: &Facts) -> Option<Violation> {
    if !facts.flag("gradient_checkpointing") || facts.is_set("adapter") || !facts.is_set("unfrozen_parameters") {
        return None;
    }
    let names: Vec<&str> = facts.model("parameter_names").as_array()?.iter().filter_map(Value::as_str).collect();
    let patterns: Vec<Regex> = facts
        .list("unfrozen_parameters")
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
    (facts.is_set("adapter") && facts.is_set("unfrozen_parameters")).then(|| {
        Violation::at(
            "unfrozen_parameters",
            "`unfrozen_parameters` and `adapter` exclude each other",
            "with an adapter, the model's own weights are all frozen",
        )
        .and("adapter")
        .help("delete `unfrozen_parameters` to train the adapter, or `adapter` to train those weights")
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
    fn g4_keeps_an_adapter_and_unfrozen_weights_apart() {
        let frozen = json!({"adapter": "lora", "unfrozen_parameters": ["x"]});
        assert_eq!(fired(frozen, Value::Null), ["G4"]);
        assert_eq!(fired(json!({"adapter": "lora"}), Value::Null), [""; 0]);
        assert_eq!(fired(json!({"unfrozen_parameters": ["x"]}), Value::Null), [""; 0]);
    }
}
