//! What does not go together in an Axolotl config. Each rule is a function of the facts, beside its description; ids
//! with G, D are those of Axolotl's own validators in our numbering, H are combinations that no trainer checks.

mod batching;
mod checkpointing;
mod schedule;

use plugin_sdk::rules::{CompatRules, Edit, Facts, Finding, RuleInfo, Severity};
use plugin_sdk::{Error, NoConfig};

/// The rules.
pub struct AxolotlCompat;

/// One rule: what it is, and how it looks at a config.
struct Rule {
    id: &'static str,
    severity: Severity,
    summary: &'static str,
    evidence: &'static str,
    check: fn(&Facts) -> Option<Violation>,
}

/// What a rule found.
struct Violation {
    /// Config paths: the first is where the caret goes.
    paths: Vec<String>,
    message: String,
    why: String,
    help: Option<String>,
    fix: Vec<Edit>,
}

impl Violation {
    fn at(path: impl Into<String>, message: impl Into<String>, why: impl Into<String>) -> Self {
        Self { paths: vec![path.into()], message: message.into(), why: why.into(), help: None, fix: Vec::new() }
    }

    fn and(mut self, path: &str) -> Self {
        self.paths.push(path.to_owned());
        self
    }

    fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    fn set(mut self, path: &str, value: &str) -> Self {
        self.fix.push(Edit::Set((path.to_owned(), value.to_owned())));
        self
    }

    fn remove(mut self, path: &str) -> Self {
        self.fix.push(Edit::Remove(path.to_owned()));
        self
    }
}

fn rules() -> impl Iterator<Item = &'static Rule> {
    checkpointing::RULES.iter().chain(batching::RULES).chain(schedule::RULES)
}

impl CompatRules for AxolotlCompat {
    type Config = NoConfig;

    fn new(_config: NoConfig) -> Result<Self, Error> {
        Ok(Self)
    }

    fn rules(&self) -> Vec<RuleInfo> {
        let info = |rule: &Rule| RuleInfo {
            id: rule.id.to_owned(),
            severity: rule.severity,
            summary: rule.summary.to_owned(),
            evidence: Some(rule.evidence.to_owned()),
        };
        rules().map(info).collect()
    }

    fn check(&self, facts: &Facts) -> Result<Vec<Finding>, Error> {
        let find = |rule: &Rule| {
            let violation = (rule.check)(facts)?;
            Some(Finding {
                rule: rule.id.to_owned(),
                severity: rule.severity,
                paths: violation.paths,
                message: violation.message,
                why: violation.why,
                help: violation.help,
                fix: violation.fix,
            })
        };
        Ok(rules().filter_map(find).collect())
    }
}

/// True for a list or map with something in it, a number other than zero, a text, `true`.
fn is_set(facts: &Facts, path: &str) -> bool {
    use plugin_sdk::serde_json::Value;
    match facts.get(path) {
        Value::Null | Value::Bool(false) => false,
        Value::Array(list) => !list.is_empty(),
        Value::Object(map) => !map.is_empty(),
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::Bool(true) | Value::String(_) => true,
    }
}

fn is_lora(facts: &Facts) -> bool {
    facts.text("adapter") == Some("lora")
}

/// True if there is anything to evaluate on.
fn has_eval_data(facts: &Facts) -> bool {
    is_set(facts, "test_datasets") || is_set(facts, "val_set_size")
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

    /// The rules that fire for `config` over harmless defaults, where `config`'s keys are those that the user wrote.
    pub(crate) fn fired(config: Value, model: Value) -> Vec<String> {
        let mut all = json!({
            "sequence_len": 512, "micro_batch_size": 2, "eval_batch_size": 2, "lr_scheduler": "cosine",
            "learning_rate": 2e-5, "eval_strategy": "no", "save_strategy": "epoch", "val_set_size": 0,
            "test_datasets": [], "unfrozen_parameters": [], "gradient_checkpointing": false,
            "gradient_checkpointing_kwargs": {}, "datasets": [{"path": "a", "type": "alpaca"}],
        });
        let mut given = Vec::new();
        for (key, value) in config.as_object().unwrap() {
            given.push(key.clone());
            if let Value::Object(map) = value {
                given.extend(map.keys().map(|inner| format!("{key}.{inner}")));
            }
            all[key] = value.clone();
        }
        let facts = Facts { config: all, given, model: (!model.is_null()).then_some(model), ..Facts::default() };
        AxolotlCompat.check(&facts).unwrap().into_iter().map(|finding| finding.rule).collect()
    }

    #[test]
    fn a_plain_config_breaks_no_rule() {
        assert_eq!(fired(json!({}), Value::Null), [""; 0]);
        let model = json!({"num_hidden_layers": 4, "max_position_embeddings": 512, "parameters": 1000});
        assert_eq!(fired(json!({}), model), [""; 0]);
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
