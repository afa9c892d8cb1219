//! Data, batches, evaluation, checkpoints and warm-up.

use plugin_sdk::rules::{Facts, Rule, Severity, Violation};

pub(crate) const RULES: &[Rule] = &[
    Rule {
        id: "D5",
        severity: Severity::Error,
        summary: "test_datasets or val_set_size, not both",
        evidence: "Axolotl's check_val_w_test_datasets",
        check: |facts| {
            let why = "an evaluation has one set: rows kept back from `datasets`, or files of its own";
            Violation::both(facts, "val_set_size", "test_datasets", why)
        },
    },
    Rule {
        id: "D16",
        severity: Severity::Warning,
        summary: "eval_batch_size is not above micro_batch_size",
        evidence: "Axolotl's hint_eval_train_mbsz: evaluation can run out of memory where training did not",
        check: large_eval_batch,
    },
    Rule {
        id: "D24",
        severity: Severity::Error,
        summary: "warmup_steps or warmup_ratio, not both",
        evidence: "Axolotl's check_warmup: they are mutually exclusive",
        check: two_warmups,
    },
    Rule {
        id: "D25",
        severity: Severity::Error,
        summary: "one way of saying when to save",
        evidence: "Axolotl's check_saves",
        check: |facts| one_cadence(facts, "save_strategy", "save_steps", "saves_per_epoch", "a checkpoint"),
    },
    Rule {
        id: "D27",
        severity: Severity::Error,
        summary: "one way of saying when to evaluate, and something to evaluate on",
        evidence: "Axolotl's check_evals",
        check: |facts| {
            one_cadence(facts, "eval_strategy", "eval_steps", "evals_per_epoch", "an evaluation")
                .or_else(|| nothing_to_evaluate(facts))
        },
    },
    Rule {
        id: "D29",
        severity: Severity::Warning,
        summary: "what is due several times an epoch is due before the run ends",
        evidence: "Axolotl's normalize_config: \"Invalid value for save_steps … Saving at training end only\"",
        check: |facts| {
            due_too_late(facts, "saves_per_epoch", "no checkpoint is saved before the run ends").or_else(|| {
                let has_data = has_eval_data(facts);
                due_too_late(facts, "evals_per_epoch", "there is no evaluation within the run").filter(|_| has_data)
            })
        },
    },
];

/// True if there is anything to evaluate on.
fn has_eval_data(facts: &Facts) -> bool {
    facts.is_set("test_datasets") || facts.is_set("val_set_size")
}

fn large_eval_batch(facts: &Facts) -> Option<Violation> {
    let (eval, train) = (facts.number("eval_batch_size")?, facts.number("micro_batch_size")?);
    (facts.is_given("eval_batch_size") && eval > train).then(|| {
        Violation::at(
            "eval_batch_size",
            format!("`eval_batch_size` {eval} is above `micro_batch_size` {train}"),
            "an evaluation in the middle of the run then needs more memory than training",
        )
        .and("micro_batch_size")
        .help(format!("set `eval_batch_size: {train}`, or silence this rule: `rules: [{{name: axolotl-compat, severity: {{D16: off}}}}]`"))
        .set("eval_batch_size", train)
    })
}

/// Zero warm-up steps say how long the warm-up is, too.
fn two_warmups(facts: &Facts) -> Option<Violation> {
    (facts.is_given("warmup_steps") && facts.is_set("warmup_ratio")).then(|| {
        Violation::at(
            "warmup_ratio",
            "`warmup_steps` and `warmup_ratio` are both set",
            "each says how long the warm-up is",
        )
        .and("warmup_steps")
        .help("delete one of them")
    })
}

/// `steps` and `per_epoch` say when `what` is due: one of them, and only where `strategy` counts steps.
fn one_cadence(facts: &Facts, strategy: &str, steps: &str, per_epoch: &str, what: &str) -> Option<Violation> {
    if let Some(violation) = Violation::both(facts, per_epoch, steps, &format!("each says when {what} is due")) {
        return Some(violation);
    }
    let key = [steps, per_epoch].into_iter().find(|key| facts.is_set(key))?;
    let word = facts.text(strategy).filter(|word| *word != "steps")?;
    Some(
        Violation::at(
            key,
            format!("`{key}` has no meaning with `{strategy}: {word}`"),
            format!("it counts steps, which only `{strategy}: steps` does"),
        )
        .and(strategy)
        .help(format!("delete `{strategy}`, or the other key"))
        .set(strategy, "steps"),
    )
}

fn nothing_to_evaluate(facts: &Facts) -> Option<Violation> {
    let strategy = facts.text("eval_strategy")?;
    // `evals_per_epoch` without data is all over Axolotl's examples, and does nothing there and here.
    let key = ["eval_strategy", "eval_steps"].into_iter().find(|key| facts.is_given(key))?;
    (strategy != "no" && !has_eval_data(facts)).then(|| {
        Violation::at(
            key,
            format!("`{key}` is set, but there is nothing to evaluate on"),
            "neither `test_datasets` nor `val_set_size` is set",
        )
        .help("set `val_set_size: 0.05` to keep a share of the data back, or delete the key")
    })
}

fn due_too_late(facts: &Facts, key: &str, what: &str) -> Option<Violation> {
    let (times, epochs) = (facts.number(key)?, facts.number("num_epochs")?);
    let by_epochs = !facts.is_set("max_steps");
    (by_epochs && times > 0.0 && epochs > 0.0 && times * epochs < 1.0).then(|| {
        Violation::at(key, what, format!("`{key}` {times} in a run of {epochs} epochs is less than once"))
            .and("num_epochs")
            .help(format!("set `{key}: {}` or more, or delete it", (1.0 / epochs).ceil()))
    })
}

#[cfg(test)]
mod tests {
    use plugin_sdk::serde_json::{Value, json};

    use crate::tests::fired;

    fn check(config: Value) -> Vec<String> {
        fired(config, Value::Null)
    }

    #[test]
    fn d5_one_evaluation_set() {
        assert_eq!(check(json!({"val_set_size": 0.1, "test_datasets": [{"path": "b"}]})), ["D5"]);
        assert_eq!(check(json!({"val_set_size": 0, "test_datasets": [{"path": "b"}]})), [""; 0]);
    }

    #[test]
    fn d16_batches_of_an_evaluation() {
        assert_eq!(check(json!({"eval_batch_size": 8})), ["D16"]);
        assert_eq!(check(json!({"eval_batch_size": 1})), [""; 0]);
    }

    #[test]
    fn d24_one_warm_up() {
        assert_eq!(check(json!({"warmup_steps": 10, "warmup_ratio": 0.1})), ["D24"]);
        assert_eq!(check(json!({"warmup_steps": 0, "warmup_ratio": 0.1})), ["D24"]);
        assert_eq!(check(json!({"warmup_steps": 10})), [""; 0]);
        assert_eq!(check(json!({"warmup_steps": null, "warmup_ratio": 0.1})), [""; 0]);
    }

    #[test]
    fn d25_one_time_to_save() {
        assert_eq!(check(json!({"save_steps": 10, "save_strategy": "steps"})), [""; 0]);
        assert_eq!(check(json!({"save_steps": 10, "save_strategy": "epoch"})), ["D25"]);
        assert_eq!(check(json!({"save_steps": 10, "saves_per_epoch": 2, "save_strategy": "steps"})), ["D25"]);
    }

    #[test]
    fn d27_one_time_to_evaluate_and_something_to_evaluate_on() {
        assert_eq!(check(json!({"val_set_size": 0.1, "eval_strategy": "epoch"})), [""; 0]);
        assert_eq!(check(json!({"eval_strategy": "epoch"})), ["D27"]);
        assert_eq!(check(json!({"eval_steps": 10, "eval_strategy": "epoch", "val_set_size": 0.1})), ["D27"]);
        assert_eq!(check(json!({"evals_per_epoch": 2, "eval_strategy": "epoch", "val_set_size": 0.1})), ["D27"]);
        assert_eq!(
            check(json!({"eval_steps": 10, "evals_per_epoch": 2, "eval_strategy": "steps", "val_set_size": 1})),
            ["D27"]
        );
        assert_eq!(check(json!({"eval_steps": 10, "eval_strategy": "steps", "val_set_size": 0.1})), [""; 0]);
    }

    #[test]
    fn d29_less_than_once_is_never() {
        assert_eq!(check(json!({"saves_per_epoch": 1, "save_strategy": "steps", "num_epochs": 0.5})), ["D29"]);
        assert_eq!(check(json!({"saves_per_epoch": 2, "save_strategy": "steps", "num_epochs": 0.5})), [""; 0]);
        let evals = |more: Value| {
            let mut config = json!({"evals_per_epoch": 1, "eval_strategy": "steps", "num_epochs": 0.5});
            config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            fired(config, Value::Null)
        };
        assert_eq!(evals(json!({"val_set_size": 0.1})), ["D29"]);
        assert_eq!(evals(json!({"val_set_size": 0.1, "max_steps": 100})), [""; 0]);
    }
}
