//! Learning rate and warm-up.

use plugin_sdk::rules::{Facts, Severity};

use crate::{Rule, Violation, is_lora, is_set};

pub(crate) const RULES: &[Rule] = &[
    Rule {
        id: "D24",
        severity: Severity::Error,
        summary: "warmup_steps or warmup_ratio, not both",
        evidence: "Axolotl's check_warmup_grid_search: they are mutually exclusive",
        check: two_warmups,
    },
    Rule {
        id: "H9",
        severity: Severity::Error,
        summary: "the warm-up ends before the run does",
        evidence: "otherwise the learning rate never reaches the value that was chosen",
        check: endless_warmup,
    },
    Rule {
        id: "H10",
        severity: Severity::Warning,
        summary: "lr_scheduler: constant has no warm-up",
        evidence: "transformers' get_constant_schedule ignores warm-up steps",
        check: constant_warmup,
    },
    Rule {
        id: "H11",
        severity: Severity::Warning,
        summary: "the learning rate is one that models of this size survive",
        evidence: "published recipes: 1e-5 to 5e-5 for all weights, 5e-5 to 1e-3 for LoRA (Biderman et al. 2024, arXiv 2405.09673)",
        check: high_rate,
    },
];

/// Models below this size are trained with much higher rates.
const SMALL: f64 = 50e6;

fn two_warmups(facts: &Facts) -> Option<Violation> {
    (facts.is_given("warmup_steps") && is_set(facts, "warmup_ratio")).then(|| {
        Violation::at(
            "warmup_ratio",
            "`warmup_steps` and `warmup_ratio` are both set",
            "each says how long the warm-up is",
        )
        .and("warmup_steps")
        .help("delete one of them")
        .remove("warmup_ratio")
    })
}

fn endless_warmup(facts: &Facts) -> Option<Violation> {
    let (warmup, steps) = (facts.number("warmup_steps")?, facts.number("max_steps")?);
    (warmup >= steps && facts.text("lr_scheduler") != Some("constant")).then(|| {
        Violation::at(
            "warmup_steps",
            format!("the warm-up takes {warmup} steps, the run {steps}"),
            "the learning rate would never reach `learning_rate`",
        )
        .and("max_steps")
        .help(format!("set `warmup_steps: {}`", (steps * 0.03).ceil().min(steps - 1.0)))
    })
}

fn constant_warmup(facts: &Facts) -> Option<Violation> {
    let key = ["warmup_steps", "warmup_ratio"].into_iter().find(|key| is_set(facts, key))?;
    (facts.text("lr_scheduler") == Some("constant")).then(|| {
        Violation::at(
            key,
            format!("`{key}` has no effect with `lr_scheduler: constant`"),
            "that schedule has no warm-up",
        )
        .and("lr_scheduler")
        .help("write `lr_scheduler: constant_with_warmup`")
        .set("lr_scheduler", "constant_with_warmup")
    })
}

fn high_rate(facts: &Facts) -> Option<Violation> {
    let (rate, parameters) = (facts.number("learning_rate")?, facts.model("parameters").as_f64()?);
    let (limit, what) = if is_lora(facts) { (2e-3, "an adapter") } else { (5e-4, "all weights") };
    (parameters >= SMALL && rate > limit).then(|| {
        Violation::at(
            "learning_rate",
            format!("`learning_rate` {rate} is high for training {what} of a model of this size"),
            "training usually diverges there",
        )
        .help(if is_lora(facts) { "`2e-4` is usual" } else { "`2e-5` is usual" })
    })
}

#[cfg(test)]
mod tests {
    use plugin_sdk::serde_json::{Value, json};

    use crate::tests::fired;

    fn check(config: Value) -> Vec<String> {
        fired(config, json!({"parameters": 1e9}))
    }

    #[test]
    fn warm_ups() {
        assert_eq!(check(json!({"warmup_steps": 10})), [""; 0]);
        assert_eq!(check(json!({"warmup_steps": 10, "warmup_ratio": 0.1})), ["D24"]);
        assert_eq!(check(json!({"warmup_steps": 10, "max_steps": 10})), ["H9"]);
        assert_eq!(check(json!({"warmup_steps": 9, "max_steps": 10})), [""; 0]);
        assert_eq!(check(json!({"warmup_steps": 10, "lr_scheduler": "constant"})), ["H10"]);
    }

    #[test]
    fn learning_rates() {
        assert_eq!(check(json!({"learning_rate": 1e-3})), ["H11"]);
        assert_eq!(check(json!({"learning_rate": 1e-3, "adapter": "lora"})), [""; 0]);
        assert_eq!(fired(json!({"learning_rate": 1e-3}), json!({"parameters": 1e6})), [""; 0]);
    }
}
