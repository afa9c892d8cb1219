//! What does not go together in an Axolotl config: Axolotl's own validators, in the numbering of this plugin's README,
//! which has a row for each and says where it is checked. A rule is a function of the facts, beside its description.

mod batching;
mod chat;
mod checkpointing;

use plugin_sdk::rules::{CompatRules, Facts, Finding, Rule, RuleInfo, describe, judge};
use plugin_sdk::{Error, NoConfig};

/// The rules.
pub struct AxolotlCompat;

fn rules() -> impl Iterator<Item = &'static Rule> {
    checkpointing::RULES.iter().chain(batching::RULES).chain(chat::RULES)
}

impl CompatRules for AxolotlCompat {
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

plugin_sdk::register_compat_rules!(
    AxolotlCompat,
    name: "axolotl-compat",
    description: "What does not go together in an Axolotl config",
);

#[cfg(test)]
pub(crate) mod tests {
    use plugin_sdk::serde_json::{Value, json};

    use super::*;

    /// The rules that fire for `config`, which a user wrote over harmless defaults.
    pub(crate) fn fired(config: Value, model: Value) -> Vec<String> {
        let defaults = json!({
            "sequence_len": 512, "micro_batch_size": 2, "eval_batch_size": 2, "lr_scheduler": "cosine",
            "learning_rate": 2e-5, "eval_strategy": "no", "save_strategy": "epoch", "val_set_size": 0, "num_epochs": 1.0,
            "test_datasets": [], "unfrozen_parameters": [], "gradient_checkpointing": false, "eot_tokens": [],
            "gradient_checkpointing_kwargs": {}, "datasets": [{"path": "a", "type": "alpaca"}],
            "chat_template": "tokenizer_default",
        });
        let mut facts = Facts::of(defaults, config);
        facts.model = (!model.is_null()).then_some(model);
        AxolotlCompat.check(&facts).unwrap().into_iter().map(|finding| finding.rule).collect()
    }

    #[test]
    fn a_plain_config_breaks_no_rule() {
        assert_eq!(fired(json!({}), Value::Null), [""; 0]);
        let model = json!({"num_hidden_layers": 4, "max_position_embeddings": 512, "parameters": 1000});
        assert_eq!(fired(json!({}), model), [""; 0]);
    }

    #[test]
    fn facts_of_the_wrong_kind_break_nothing() {
        let strange = json!({"datasets": 3, "test_datasets": "x", "unfrozen_parameters": {"a": 1}, "chat_template": 7,
            "gradient_checkpointing": "yes", "eot_tokens": [1, null], "num_epochs": [], "saves_per_epoch": []});
        assert_eq!(fired(strange, json!([1, 2])), [""; 0]);
        let model = json!({"parameter_names": [1], "tokenizer": "none"});
        assert_eq!(fired(json!({"datasets": [null, "x", {"type": {"name": 3}}]}), model), [""; 0]);
    }

    #[test]
    fn every_rule_has_an_id_of_its_own_and_says_why_anyone_believes_it() {
        let infos = AxolotlCompat.rules();
        let mut ids: Vec<&str> = infos.iter().map(|info| info.id.as_str()).collect();
        let count = ids.len();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), count);
        assert!(infos.iter().all(|info| info.evidence.as_ref().is_some_and(|evidence| !evidence.is_empty())));
    }
}
