//! What our machines can do: runs keep few checkpoints.

use plugin_sdk::Error;
use plugin_sdk::rules::{CompatRules, Edit, Facts, Finding, RuleInfo, Severity};
use serde::Deserialize;

/// What users can set. `config.schema.json` says the same to the host, which holds their config against it.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    max_checkpoints: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self { max_checkpoints: 3 }
    }
}

pub struct House {
    config: Config,
}

impl CompatRules for House {
    type Config = Config;

    fn new(config: Config) -> Result<Self, Error> {
        Ok(Self { config })
    }

    fn rules(&self) -> Vec<RuleInfo> {
        vec![RuleInfo {
            id: "HOUSE1".to_owned(),
            severity: Severity::Warning,
            summary: "runs keep few checkpoints".to_owned(),
            evidence: Some("our disks".to_owned()),
        }]
    }

    fn check(&self, facts: &Facts) -> Result<Vec<Finding>, Error> {
        let limit = self.config.max_checkpoints;
        let why = match facts.number("save_total_limit") {
            Some(kept) if kept <= f64::from(limit) => return Ok(Vec::new()),
            Some(kept) => format!("`save_total_limit` is {kept}"),
            None => "`save_total_limit` is not set, so all are kept".to_owned(),
        };
        Ok(vec![Finding {
            rule: "HOUSE1".to_owned(),
            severity: Severity::Warning,
            paths: vec!["save_total_limit".to_owned()],
            message: format!("more than {limit} checkpoints are kept"),
            why,
            help: None,
            fix: vec![Edit::Set(("save_total_limit".to_owned(), limit.to_string()))],
        }])
    }
}

plugin_sdk::register_compat_rules!(
    House,
    name: "{{name}}",
    description: "What our machines can do",
    config_schema: include_str!("../config.schema.json"),
);

#[cfg(test)]
mod tests {
    use plugin_sdk::serde_json::json;

    use super::*;

    #[test]
    fn few_checkpoints_are_fine() {
        let rules = House::new(Config::default()).unwrap();
        let findings = |limit| {
            let facts = Facts { config: json!({ "save_total_limit": limit }), ..Facts::default() };
            rules.check(&facts).unwrap().len()
        };
        assert_eq!([findings(3), findings(4)], [0, 1]);
    }
}
