//! What other trainers accept and nobody wants: keys that have no effect together, runs that cannot do what they are for,
//! values outside of what works. A rule is a function of the facts, beside its description; ids begin with H, those of what came of others' runs with E.

mod adapters;
mod batches;
mod optimizer;
mod outcomes;

use plugin_sdk::rules::{CompatRules, Facts, Finding, Rule, RuleInfo, describe, judge};
use plugin_sdk::{Error, NoConfig};

/// The rules.
pub struct Practice;

fn rules() -> impl Iterator<Item = &'static Rule> {
    adapters::RULES.iter().chain(batches::RULES).chain(optimizer::RULES).chain(outcomes::RULES)
}

impl CompatRules for Practice {
    type Config = NoConfig;

    fn new(_config: NoConfig) -> Result<Self, Error> {
        Ok(Self)
    }

    fn rules(&self) -> Vec<RuleInfo> {
        describe(rules())
    }

    fn check(&self, facts: &Facts) -> Result<Vec<Finding>, Error> {
        Ok(judge(rules(), facts))
    }
}

/// True if there is anything to evaluate on.
fn has_eval_data(facts: &Facts) -> bool {
    facts.is_set("test_datasets") || facts.is_set("val_set_size")
}

plugin_sdk::register_compat_rules!(
    Practice,
    name: "practice",
    description: "Combinations that no trainer checks, and values outside of what works",
);

#[cfg(test)]
pub(crate) mod tests {
    use plugin_sdk::serde_json::{Value, json};

    use super::*;

    /// The rules that fire for `config`, which a user wrote over harmless defaults.
    pub(crate) fn fired(config: Value, model: Value) -> Vec<String> {
        let defaults = json!({
            "sequence_len": 512, "micro_batch_size": 2, "lr_scheduler": "cosine", "learning_rate": 2e-5, "num_epochs": 1.0,
            "eval_strategy": "no", "save_strategy": "epoch", "val_set_size": 0, "test_datasets": [], "unfrozen_parameters": [],
            "lora_target_modules": [], "datasets": [{"path": "a", "type": "alpaca"}], "eval_reward_funcs": [],
            "adam_beta1": 0.9, "adam_beta2": 0.999, "cosine_min_lr_ratio": 0.0,
        });
        let mut facts = Facts::of(defaults, config);
        facts.model = (!model.is_null()).then_some(model);
        Practice.check(&facts).unwrap().into_iter().map(|finding| finding.rule).collect()
    }

    #[test]
    fn a_plain_config_breaks_no_rule() {
        assert_eq!(fired(json!({}), Value::Null), [""; 0]);
        let model = json!({"num_hidden_layers": 4, "max_position_embeddings": 512, "parameters": 1e9, "hidden_size": 64,
            "tokenizer": {"has_eos": true}});
        assert_eq!(fired(json!({}), model), [""; 0]);
    }

    #[test]
    fn facts_of_the_wrong_kind_break_nothing() {
        let strange = json!({"datasets": 3, "test_datasets": {"x": 1}, "adapter": 7, "lora_r": 0, "lora_alpha": "x",
            "learning_rate": [], "peft_layers_to_transform": "all", "max_steps": -1, "warmup_steps": true, "adam_beta2": {}});
        assert_eq!(fired(strange, json!([1, 2])), [""; 0]);
        let model =
            json!({"num_hidden_layers": -4, "max_position_embeddings": "x", "parameters": null, "tokenizer": 1});
        let lora = json!({"adapter": "lora", "lora_r": 0, "lora_alpha": 0, "peft_layers_to_transform": [null, -1, 1e300],
            "datasets": [null, 3, {"path": 1, "type": {"name": []}}], "test_datasets": [null, {"path": 1}]});
        assert_eq!(fired(lora, model), [""; 0]);
    }

    #[test]
    fn every_rule_has_an_id_of_its_own_and_says_why_anyone_believes_it() {
        let infos = Practice.rules();
        let mut ids: Vec<&str> = infos.iter().map(|info| info.id.as_str()).collect();
        let count = ids.len();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), count);
        assert!(infos.iter().all(|info| info.evidence.as_ref().is_some_and(|evidence| !evidence.is_empty())));
    }
}
