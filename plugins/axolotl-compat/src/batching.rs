//! Data, batches, evaluation and checkpoints.

use plugin_sdk::rules::{Facts, Severity};
use plugin_sdk::serde_json::Value;

use crate::{Rule, Violation, has_eval_data, is_set};

pub(crate) const RULES: &[Rule] = &[
    Rule {
        id: "D5",
        severity: Severity::Error,
        summary: "test_datasets or val_set_size, not both",
        evidence: "Axolotl's check_val_set_size_or_test_datasets",
        check: two_eval_sets,
    },
    Rule {
        id: "D16",
        severity: Severity::Warning,
        summary: "eval_batch_size is not above micro_batch_size",
        evidence: "Axolotl's hint_eval_batch_size: evaluation can run out of memory where training did not",
        check: large_eval_batch,
    },
    Rule {
        id: "D25",
        severity: Severity::Error,
        summary: "one way of saying when to save",
        evidence: "Axolotl's check_save_steps",
        check: saving,
    },
    Rule {
        id: "D27",
        severity: Severity::Error,
        summary: "one way of saying when to evaluate, and something to evaluate on",
        evidence: "Axolotl's check_eval_steps and check_eval_strategy",
        check: evaluating,
    },
    Rule {
        id: "H4",
        severity: Severity::Error,
        summary: "sequence_len is within the model's positions",
        evidence: "rotary embeddings beyond the trained positions give text without sense (Chen et al. 2023, arXiv 2306.15595)",
        check: too_long,
    },
    Rule {
        id: "H5",
        severity: Severity::Error,
        summary: "eval_reward_funcs need something to evaluate on",
        evidence: "without an evaluation set nothing is generated, and no reward is ever asked",
        check: rewards_without_data,
    },
    Rule {
        id: "H6",
        severity: Severity::Warning,
        summary: "save_total_limit needs checkpoints",
        evidence: "with save_strategy: no there is nothing to keep",
        check: limit_without_saving,
    },
    Rule {
        id: "H7",
        severity: Severity::Warning,
        summary: "train_on_inputs and roles_to_train say different things",
        evidence: "train_on_inputs learns every turn, whatever roles_to_train lists",
        check: inputs_and_roles,
    },
    Rule {
        id: "H8",
        severity: Severity::Error,
        summary: "one checkpoint to resume from",
        evidence: "resume_from_checkpoint names one, auto_resume_from_checkpoints looks for the newest",
        check: two_ways_to_resume,
    },
];

fn two_eval_sets(facts: &Facts) -> Option<Violation> {
    (is_set(facts, "test_datasets") && is_set(facts, "val_set_size")).then(|| {
        Violation::at(
            "val_set_size",
            "`val_set_size` and `test_datasets` are both set",
            "an evaluation has one set: rows kept back from `datasets`, or files of its own",
        )
        .and("test_datasets")
        .help("delete one of them")
        .remove("val_set_size")
    })
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
    })
}

fn saving(facts: &Facts) -> Option<Violation> {
    if is_set(facts, "save_steps") && is_set(facts, "saves_per_epoch") {
        let message = "`save_steps` and `saves_per_epoch` are both set";
        return Some(
            Violation::at("saves_per_epoch", message, "each says when a checkpoint is due")
                .and("save_steps")
                .help("delete one of them"),
        );
    }
    let key = ["save_steps", "saves_per_epoch"].into_iter().find(|key| is_set(facts, key))?;
    let strategy = facts.text("save_strategy").filter(|strategy| *strategy != "steps")?;
    Some(
        Violation::at(
            key,
            format!("`{key}` has no meaning with `save_strategy: {strategy}`"),
            "it counts steps, which only `save_strategy: steps` does",
        )
        .and("save_strategy")
        .help("delete `save_strategy`, or the other key")
        .set("save_strategy", "steps"),
    )
}

fn evaluating(facts: &Facts) -> Option<Violation> {
    if is_set(facts, "eval_steps") && is_set(facts, "evals_per_epoch") {
        let message = "`eval_steps` and `evals_per_epoch` are both set";
        return Some(
            Violation::at("evals_per_epoch", message, "each says when an evaluation is due")
                .and("eval_steps")
                .help("delete one of them"),
        );
    }
    let strategy = facts.text("eval_strategy")?;
    if let Some(key) = ["eval_steps", "evals_per_epoch"].into_iter().find(|key| is_set(facts, key)) {
        if strategy != "steps" {
            return Some(
                Violation::at(
                    key,
                    format!("`{key}` has no meaning with `eval_strategy: {strategy}`"),
                    "it counts steps, which only `eval_strategy: steps` does",
                )
                .and("eval_strategy")
                .help("delete `eval_strategy`, or the other key")
                .set("eval_strategy", "steps"),
            );
        }
    }
    if strategy != "no" && !has_eval_data(facts) {
        let key = ["eval_strategy", "eval_steps", "evals_per_epoch"].into_iter().find(|key| facts.is_given(key))?;
        return Some(
            Violation::at(
                key,
                format!("`{key}` is set, but there is nothing to evaluate on"),
                "neither `test_datasets` nor `val_set_size` is set",
            )
            .help("set `val_set_size: 0.05` to keep a share of the data back, or delete the key"),
        );
    }
    None
}

fn too_long(facts: &Facts) -> Option<Violation> {
    let (length, limit) = (facts.number("sequence_len")?, facts.model("max_position_embeddings").as_f64()?);
    (length > limit && !facts.flag("sample_packing")).then(|| {
        Violation::at(
            "sequence_len",
            format!("`sequence_len` {length} is beyond the model's {limit} positions"),
            "the model never saw positions above that",
        )
        .help(format!("set `sequence_len: {limit}`, or use a model with a longer context"))
        .set("sequence_len", &limit.to_string())
    })
}

fn rewards_without_data(facts: &Facts) -> Option<Violation> {
    (is_set(facts, "eval_reward_funcs") && !has_eval_data(facts)).then(|| {
        Violation::at(
            "eval_reward_funcs",
            "`eval_reward_funcs` without anything to evaluate on",
            "rewards score what the model writes for the evaluation set, and there is none",
        )
        .help("set `test_datasets`, or `val_set_size: 0.05`")
    })
}

fn limit_without_saving(facts: &Facts) -> Option<Violation> {
    (is_set(facts, "save_total_limit") && facts.text("save_strategy") == Some("no")).then(|| {
        Violation::at("save_total_limit", "`save_total_limit` without checkpoints", "`save_strategy: no` saves none")
            .and("save_strategy")
            .help("delete it, or set `save_steps`")
    })
}

fn inputs_and_roles(facts: &Facts) -> Option<Violation> {
    let datasets = facts.get("datasets").as_array().map_or(0, Vec::len);
    let index = (0..datasets).find(|index| facts.is_given(&format!("datasets[{index}].roles_to_train")))?;
    let path = format!("datasets[{index}].roles_to_train");
    (facts.flag("train_on_inputs") && matches!(facts.get(&path), Value::Array(_))).then(|| {
        Violation::at(path, "`roles_to_train` has no effect with `train_on_inputs: true`", "every turn is learned then")
            .and("train_on_inputs")
            .help("delete one of them")
    })
}

fn two_ways_to_resume(facts: &Facts) -> Option<Violation> {
    (is_set(facts, "resume_from_checkpoint") && facts.flag("auto_resume_from_checkpoints")).then(|| {
        Violation::at(
            "auto_resume_from_checkpoints",
            "`resume_from_checkpoint` and `auto_resume_from_checkpoints` are both set",
            "one names a checkpoint, the other looks for the newest",
        )
        .and("resume_from_checkpoint")
        .help("delete one of them")
    })
}

#[cfg(test)]
mod tests {
    use plugin_sdk::serde_json::{Value, json};

    use crate::tests::fired;

    fn check(config: Value) -> Vec<String> {
        fired(config, json!({"max_position_embeddings": 1024}))
    }

    #[test]
    fn evaluation_sets_and_cadences() {
        assert_eq!(check(json!({"val_set_size": 0.1, "test_datasets": [{"path": "b"}]})), ["D5"]);
        assert_eq!(check(json!({"val_set_size": 0.1, "eval_strategy": "epoch"})), [""; 0]);
        assert_eq!(check(json!({"eval_strategy": "epoch"})), ["D27"]);
        assert_eq!(check(json!({"eval_steps": 10, "eval_strategy": "epoch", "val_set_size": 0.1})), ["D27"]);
        assert_eq!(
            check(json!({"eval_steps": 10, "evals_per_epoch": 2, "eval_strategy": "steps", "val_set_size": 1})),
            ["D27"]
        );
        assert_eq!(check(json!({"eval_steps": 10, "eval_strategy": "steps", "val_set_size": 0.1})), [""; 0]);
        assert_eq!(check(json!({"eval_reward_funcs": ["exact-match"]})), ["H5"]);
    }

    #[test]
    fn batches_and_lengths() {
        assert_eq!(check(json!({"eval_batch_size": 8})), ["D16"]);
        assert_eq!(check(json!({"eval_batch_size": 1})), [""; 0]);
        assert_eq!(check(json!({"sequence_len": 2048})), ["H4"]);
        assert_eq!(check(json!({"sequence_len": 1024})), [""; 0]);
    }

    #[test]
    fn checkpoints() {
        assert_eq!(check(json!({"save_steps": 10, "save_strategy": "steps"})), [""; 0]);
        assert_eq!(check(json!({"save_steps": 10, "save_strategy": "epoch"})), ["D25"]);
        assert_eq!(check(json!({"save_steps": 10, "saves_per_epoch": 2, "save_strategy": "steps"})), ["D25"]);
        assert_eq!(check(json!({"save_strategy": "no", "save_total_limit": 2})), ["H6"]);
        assert_eq!(check(json!({"resume_from_checkpoint": "x", "auto_resume_from_checkpoints": true})), ["H8"]);
    }

    #[test]
    fn learning_everything_leaves_no_roles_to_choose() {
        let given = |inputs: bool| {
            let facts = plugin_sdk::rules::Facts {
                config: json!({"train_on_inputs": inputs, "datasets": [{"roles_to_train": ["assistant"]}]}),
                given: vec!["datasets[0].roles_to_train".into()],
                ..Default::default()
            };
            super::inputs_and_roles(&facts).is_some()
        };
        assert!(given(true) && !given(false));
    }
}
