//! Data, evaluation, rewards and checkpoints.

use plugin_sdk::rules::{Facts, Rule, Severity, Violation};
use plugin_sdk::serde_json::Value;

use crate::has_eval_data;

pub(crate) const RULES: &[Rule] = &[
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
        summary: "train_on_inputs leaves nothing to choose",
        evidence: "LLaMA-Factory: mask_history and train_on_prompt exclude each other; every turn is learned here",
        check: inputs_and_roles,
    },
    Rule {
        id: "H8",
        severity: Severity::Error,
        summary: "one checkpoint to resume from",
        evidence: "resume_from_checkpoint names one, auto_resume_from_checkpoints looks for the newest",
        check: |facts| {
            let why = "one looks for the newest checkpoint, the other names one";
            Violation::both(facts, "auto_resume_from_checkpoints", "resume_from_checkpoint", why)
        },
    },
    Rule {
        id: "H15",
        severity: Severity::Warning,
        summary: "the end of an answer is learned",
        evidence: "transformers' generate stops at a token that ends a turn, or at the length limit: nothing else",
        check: end_is_masked,
    },
    Rule {
        id: "H16",
        severity: Severity::Warning,
        summary: "the tokenizer has an eos_token",
        evidence: "transformers' generate stops at a token that ends a turn, or at the length limit: nothing else",
        check: no_end,
    },
    Rule {
        id: "H17",
        severity: Severity::Note,
        summary: "what is due every so many steps is due within max_steps",
        evidence: "a step that never comes has neither an evaluation nor a checkpoint",
        check: never_due,
    },
    Rule {
        id: "H20",
        severity: Severity::Warning,
        summary: "no file is both trained and evaluated on",
        evidence: "Magar and Schwartz 2022, arXiv 2203.08242: scores on data seen in training measure memory",
        check: trained_and_evaluated,
    },
    Rule {
        id: "H22",
        severity: Severity::Warning,
        summary: "default_system_message comes with conversations",
        evidence: "`type: chat_template` alone reads it",
        check: system_message_for_nobody,
    },
    Rule {
        id: "H23",
        severity: Severity::Note,
        summary: "limits on generation come with something to generate for",
        evidence: "text is generated for eval_reward_funcs alone",
        check: limits_on_nothing,
    },
    Rule {
        id: "H24",
        severity: Severity::Note,
        summary: "evals_per_epoch comes with something to evaluate on",
        evidence: "Axolotl ignores it too (normalize_config), and says nothing",
        check: evaluations_of_nothing,
    },
    Rule {
        id: "H25",
        severity: Severity::Warning,
        summary: "val_set_size keeps back the smaller part of the data",
        evidence: "other tools ask for the share to train on: 0.9 meant for that trains on a tenth",
        check: most_is_kept_back,
    },
    Rule {
        id: "H26",
        severity: Severity::Warning,
        summary: "the data fills one optimizer step",
        evidence: "a step that is never full is of another size than the config says, and the learning rate was chosen for that",
        check: step_is_never_full,
    },
    Rule {
        id: "H27",
        severity: Severity::Warning,
        summary: "most rows fit into sequence_len",
        evidence: "what is left out is the longest part of the data, not a random one",
        check: most_are_too_long,
    },
];

fn too_long(facts: &Facts) -> Option<Violation> {
    let (length, limit) = (facts.number("sequence_len")?, facts.model("max_position_embeddings").as_u64()?);
    (limit > 0 && length > limit as f64 && !facts.flag("sample_packing")).then(|| {
        Violation::at(
            "sequence_len",
            format!("`sequence_len` {length} is beyond the model's {limit} positions"),
            "the model never saw positions above that",
        )
        .help(format!("set `sequence_len: {limit}`, or use a model with a longer context"))
        .set("sequence_len", limit)
    })
}

fn rewards_without_data(facts: &Facts) -> Option<Violation> {
    (facts.is_set("eval_reward_funcs") && !has_eval_data(facts)).then(|| {
        Violation::at(
            "eval_reward_funcs",
            "`eval_reward_funcs` without anything to evaluate on",
            "rewards score what the model writes for the evaluation set, and there is none",
        )
        .help("set `test_datasets`, or `val_set_size: 0.05`")
    })
}

fn limit_without_saving(facts: &Facts) -> Option<Violation> {
    (facts.is_set("save_total_limit") && facts.text("save_strategy") == Some("no")).then(|| {
        Violation::at("save_total_limit", "`save_total_limit` without checkpoints", "`save_strategy: no` saves none")
            .and("save_strategy")
            .help("delete it, or set `save_steps`")
    })
}

fn inputs_and_roles(facts: &Facts) -> Option<Violation> {
    let paths =
        |key: &'static str| (0..facts.list("datasets").len()).map(move |index| format!("datasets[{index}].{key}"));
    let mut keys = paths("roles_to_train").chain(paths("message_field_training"));
    let path = keys.find(|path| facts.is_given(path)).filter(|_| facts.flag("train_on_inputs"))?;
    let key = path.rsplit('.').next()?;
    let message = format!("`{key}` has no effect with `train_on_inputs: true`");
    Some(Violation::at(&path, message, "every turn is learned then").and("train_on_inputs").help("delete one of them"))
}

/// The name of a dataset's prompt strategy: `type` is a text or has a `name`.
fn strategy(dataset: &Value) -> Option<&str> {
    let strategy = dataset.get("type")?;
    strategy.get("name").unwrap_or(strategy).as_str()
}

fn end_is_masked(facts: &Facts) -> Option<Violation> {
    let mut paths = facts.list("datasets").iter().enumerate().flat_map(|(index, dataset)| {
        let keys: &[&str] = if strategy(dataset) == Some("chat_template") {
            &["type.config.train_on_eos", "train_on_eos"]
        } else {
            &[]
        };
        keys.iter().map(move |key| format!("datasets[{index}].{key}"))
    });
    let path = paths.find(|path| facts.text(path) == Some("none"))?;
    Some(
        Violation::at(
            &path,
            "the end of an answer is not learned",
            "with `train_on_eos: none`, the model is never taught to stop, and writes until the length limit",
        )
        .help("delete the line: the end of each learned turn is learned"),
    )
}

fn no_end(facts: &Facts) -> Option<Violation> {
    let has_end = facts.model("tokenizer.has_eos").as_bool()? || facts.is_set("eot_tokens");
    (!has_end).then(|| {
        let path = ["tokenizer_config", "base_model"].into_iter().find(|path| facts.is_given(path));
        Violation::at(
            path.unwrap_or("base_model"),
            "the tokenizer has no `eos_token`",
            "nothing then marks the end of an answer, and the model never learns to stop",
        )
        .help("name one of its tokens: `special_tokens: {eos_token: …}`")
    })
}

fn never_due(facts: &Facts) -> Option<Violation> {
    let steps = facts.number("max_steps")?;
    let has_data = has_eval_data(facts);
    let keys = [("save_steps", "checkpoint", true), ("eval_steps", "evaluation", has_data)];
    let late = |key: &str| facts.number(key).is_some_and(|every| every > steps);
    let (key, what, _) = keys.into_iter().find(|(key, _, counts)| *counts && late(key))?;
    Some(
        Violation::at(
            key,
            format!("no {what} is due before the run ends"),
            format!("`{key}` is above `max_steps` {steps}; the end of the run has one"),
        )
        .and("max_steps")
        .help(format!("lower `{key}` to have one on the way")),
    )
}

fn trained_and_evaluated(facts: &Facts) -> Option<Violation> {
    let path = |dataset: &Value| {
        let path = dataset.get("path")?.as_str()?;
        Some(path.strip_prefix("./").unwrap_or(path).to_owned())
    };
    let trained: Vec<Option<String>> = facts.list("datasets").iter().map(path).collect();
    let (test, train) = facts.list("test_datasets").iter().enumerate().find_map(|(index, dataset)| {
        let own = Some(path(dataset)?);
        Some((index, trained.iter().position(|trained| *trained == own)?))
    })?;
    Some(
        Violation::at(
            format!("test_datasets[{test}].path"),
            "this file is trained and evaluated on",
            "the evaluation then measures what the model remembers, not what it learned",
        )
        .and(format!("datasets[{train}].path"))
        .help("keep rows apart: `val_set_size: 0.05` instead of `test_datasets`, or another file; where it is meant, `rules: [{name: practice, severity: {H20: off}}]`"),
    )
}

fn system_message_for_nobody(facts: &Facts) -> Option<Violation> {
    let is_chat = |key: &str| facts.list(key).iter().any(|dataset| strategy(dataset) == Some("chat_template"));
    (facts.is_set("default_system_message") && !is_chat("datasets") && !is_chat("test_datasets")).then(|| {
        Violation::at(
            "default_system_message",
            "`default_system_message` has no effect",
            "it is put in front of conversations (`type: chat_template`), and there are none",
        )
        .help("delete it; `type: {system_prompt: …}` is the one of instructions")
        .remove("default_system_message")
    })
}

fn limits_on_nothing(facts: &Facts) -> Option<Violation> {
    let key = ["eval_max_new_tokens", "num_generation_samples"].into_iter().find(|key| facts.is_given(key))?;
    (!facts.is_set("eval_reward_funcs")).then(|| {
        Violation::at(
            key,
            format!("`{key}` has no effect"),
            "text is generated for `eval_reward_funcs`, and there are none",
        )
        .help("delete it, or set `eval_reward_funcs: [exact-match]`")
        .remove(key)
    })
}

fn evaluations_of_nothing(facts: &Facts) -> Option<Violation> {
    (facts.is_set("evals_per_epoch") && !has_eval_data(facts)).then(|| {
        let why = "neither `test_datasets` nor `val_set_size` is set";
        Violation::at("evals_per_epoch", "`evals_per_epoch` has no effect", why)
            .help("set `val_set_size: 0.05` to keep a share of the data back")
    })
}

fn most_is_kept_back(facts: &Facts) -> Option<Violation> {
    let share = facts.number("val_set_size").filter(|share| *share > 0.5 && *share < 1.0)?;
    Some(
        Violation::at(
            "val_set_size",
            format!("{:.0} % of the data is kept back from training", 100.0 * share),
            "`val_set_size` is the share that is evaluated on",
        )
        .help(format!("to train on that share, set `val_set_size: {}`", (100.0 * (1.0 - share)).round() / 100.0)),
    )
}

fn step_is_never_full(facts: &Facts) -> Option<Violation> {
    let samples = facts.data("samples").as_u64()?;
    let number = |key: &str| facts.get(key).as_u64();
    let (rows, accumulation) = (number("micro_batch_size")?, number("gradient_accumulation_steps")?);
    // A packed row holds several samples: then micro-batches are what is counted.
    let (have, need, what) = if facts.flag("sample_packing") {
        (facts.data("micro_batches_per_epoch").as_u64()?, accumulation, "micro-batches")
    } else {
        (samples, rows.saturating_mul(accumulation), "samples")
    };
    (have > 0 && have < need).then(|| {
        let key = if accumulation > 1 { "gradient_accumulation_steps" } else { "micro_batch_size" };
        let fits = if key == "micro_batch_size" || facts.flag("sample_packing") { have } else { have / rows.max(1) };
        Violation::at(
            key,
            format!("all {have} {what} do not fill one step of {need}"),
            format!("`micro_batch_size` {rows} x `gradient_accumulation_steps` {accumulation}; each step sees all of the data"),
        )
        .help(format!("set `{key}: {}`, or add data", fits.max(1)))
    })
}

fn most_are_too_long(facts: &Facts) -> Option<Violation> {
    let (rows, too_long) = (facts.data("rows").as_f64()?, facts.data("too_long").as_f64()?);
    let length = facts.number("sequence_len")?;
    (too_long > rows / 2.0).then(|| {
        Violation::at(
            "sequence_len",
            format!("{too_long} of {rows} rows are left out: they have more than {length} tokens"),
            "only the short ones are trained on",
        )
        .help("raise `sequence_len`, or keep their beginning: `excess_length_strategy: truncate`")
    })
}

#[cfg(test)]
mod tests {
    use plugin_sdk::serde_json::{Value, json};

    use super::*;
    use crate::tests::fired;

    fn check(config: Value) -> Vec<String> {
        fired(config, json!({"max_position_embeddings": 1024, "tokenizer": {"has_eos": true}}))
    }

    #[test]
    fn h4_positions_that_the_model_knows() {
        assert_eq!(check(json!({"sequence_len": 2048})), ["H4"]);
        assert_eq!(check(json!({"sequence_len": 2048, "sample_packing": true})), [""; 0]);
        assert_eq!(check(json!({"sequence_len": 1024})), [""; 0]);
    }

    #[test]
    fn h5_and_h23_something_to_generate_for() {
        assert_eq!(check(json!({"eval_reward_funcs": ["exact-match"]})), ["H5"]);
        let rewards = json!({"eval_reward_funcs": ["exact-match"], "val_set_size": 0.1, "eval_max_new_tokens": 32});
        assert_eq!(check(rewards), [""; 0]);
        assert_eq!(check(json!({"eval_max_new_tokens": 32})), ["H23"]);
    }

    #[test]
    fn h6_and_h8_checkpoints() {
        assert_eq!(check(json!({"save_strategy": "no", "save_total_limit": 2})), ["H6"]);
        assert_eq!(check(json!({"save_strategy": "epoch", "save_total_limit": 2})), [""; 0]);
        assert_eq!(check(json!({"resume_from_checkpoint": "x", "auto_resume_from_checkpoints": true})), ["H8"]);
        assert_eq!(check(json!({"resume_from_checkpoint": "x", "auto_resume_from_checkpoints": false})), [""; 0]);
    }

    #[test]
    fn h7_learning_everything_leaves_nothing_to_choose() {
        let config = |inputs: bool, key: &str, value: Value| {
            check(json!({"train_on_inputs": inputs, "datasets": [{"path": "b", "type": "chat_template", key: value}]}))
        };
        assert_eq!(config(true, "roles_to_train", json!(["assistant"])), ["H7"]);
        assert_eq!(config(true, "message_field_training", json!("train")), ["H7"]);
        assert_eq!(config(true, "message_field_training", Value::Null), [""; 0]);
        assert_eq!(config(false, "roles_to_train", json!(["assistant"])), [""; 0]);
    }

    #[test]
    fn h15_and_h16_an_end_to_learn() {
        let chat = |word: &str| json!({"datasets": [{"path": "a", "type": "chat_template", "train_on_eos": word}]});
        assert_eq!((check(chat("none")), check(chat("turn"))), (vec!["H15".to_owned()], vec![]));
        let inner = json!({"datasets": [{"type": {"name": "chat_template", "config": {"train_on_eos": "none"}}}]});
        assert_eq!(check(inner), ["H15"]);
        let model = |has_eos: bool| json!({"tokenizer": {"has_eos": has_eos}});
        assert_eq!((fired(json!({}), model(false)), fired(json!({}), model(true))), (vec!["H16".to_owned()], vec![]));
        assert_eq!(fired(json!({"eot_tokens": ["<end>"]}), model(false)), [""; 0]);
    }

    #[test]
    fn h17_due_within_the_run() {
        assert_eq!(check(json!({"save_steps": 500, "max_steps": 100})), ["H17"]);
        assert_eq!(check(json!({"save_steps": 100, "max_steps": 100})), [""; 0]);
        assert_eq!(check(json!({"save_steps": 0.5, "max_steps": 100})), [""; 0]);
        assert_eq!(check(json!({"eval_steps": 500, "max_steps": 100, "val_set_size": 0.1})), ["H17"]);
        assert_eq!(check(json!({"eval_steps": 500, "max_steps": 100})), [""; 0]);
    }

    #[test]
    fn h26_and_h27_what_the_data_says() {
        let read = |config: Value, data: Value| {
            let defaults = json!({"micro_batch_size": 4, "gradient_accumulation_steps": 8, "sequence_len": 512});
            let facts = Facts::of(defaults, config).with_data(data);
            (step_is_never_full(&facts).is_some(), most_are_too_long(&facts).is_some())
        };
        let data = |samples: u64, too_long: u64| json!({"rows": 100, "samples": samples, "too_long": too_long, "micro_batches_per_epoch": samples / 8});
        assert_eq!(read(json!({}), data(32, 50)), (false, false));
        assert_eq!(read(json!({}), data(31, 51)), (true, true));
        assert_eq!(read(json!({"gradient_accumulation_steps": 1}), data(3, 0)), (true, false));
        assert_eq!(read(json!({"sample_packing": true}), data(64, 0)), (false, false));
        assert_eq!(read(json!({"sample_packing": true}), data(56, 0)), (true, false));
        assert_eq!(read(json!({}), Value::Null), (false, false));
    }

    #[test]
    fn h20_files_apart() {
        let config = |path: &str| json!({"datasets": [{"path": "b.jsonl"}, {"path": "a.jsonl"}], "test_datasets": [{"path": path}]});
        assert_eq!(check(config("./a.jsonl")), ["H20"]);
        assert_eq!(check(config("c.jsonl")), [""; 0]);
    }

    #[test]
    fn h22_a_system_message_for_conversations() {
        assert_eq!(check(json!({"default_system_message": "Be kind."})), ["H22"]);
        let chat = json!({"default_system_message": "Be kind.", "datasets": [{"type": "chat_template"}]});
        assert_eq!(check(chat), [""; 0]);
    }

    #[test]
    fn h24_and_h25_a_part_to_evaluate_on() {
        assert_eq!(check(json!({"evals_per_epoch": 4})), ["H24"]);
        assert_eq!(check(json!({"evals_per_epoch": 4, "val_set_size": 0.1})), [""; 0]);
        assert_eq!(check(json!({"val_set_size": 0.9})), ["H25"]);
        assert_eq!(check(json!({"val_set_size": 200})), [""; 0]);
    }
}
