//! Learning from answers that are wanted or not (`rl: kto`), and from the odds of pairs (`rl: orpo`): from the rows to the model,
//! stopped and gone on with, and what is said of rows that are none.

use serde_json::{Value, json};

use crate::support::Project;

/// A config of one method, with more lines.
fn config(rl: &str, more: &str) -> String {
    let strategy = if rl == "kto" { "{name: preference, config: {unpaired: true}}" } else { "passthrough.default" };
    format!(
        "base_model: model\nrl: {rl}\ndatasets: [{{path: rows.jsonl, type: {strategy}}}]\nsequence_len: 64\n\
         micro_batch_size: 4\ngradient_accumulation_steps: 2\nlearning_rate: 1e-3\nmax_steps: 6\noutput_dir: out\n{more}"
    )
}

fn answer(n: usize) -> Value {
    let completion = if n.is_multiple_of(2) { format!("{}", 2 * n) } else { format!("{} no", n + 1) };
    json!({ "prompt": format!("Double {n}: "), "completion": completion, "label": n.is_multiple_of(2) })
}

fn pair(n: usize) -> Value {
    json!({ "prompt": format!("Double {n}: "), "chosen": format!("{}", 2 * n), "rejected": format!("{} no", n + 1) })
}

fn project(rl: &str, more: &str) -> Project {
    let project = Project::new();
    let row = if rl == "kto" { answer } else { pair };
    rows(&project, &(0..40).map(row).collect::<Vec<_>>());
    project.write("host.yml", config(rl, more));
    project
}

fn rows(project: &Project, rows: &[Value]) {
    project.write("rows.jsonl", rows.iter().map(Value::to_string).collect::<Vec<_>>().join("\n"));
}

fn metrics(project: &Project, event: &str) -> Vec<Value> {
    let text = project.read("out/metrics.jsonl");
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines.filter(|line| line["event"] == event).collect()
}

fn model(project: &Project, output: &str) -> Vec<u8> {
    std::fs::read(project.path(output).join("model.safetensors")).unwrap()
}

#[test]
fn answers_by_themselves_are_learned_from_with_trls_metrics() {
    let project = project("kto", "val_set_size: 8\nlogging_steps: 1\n");
    project.success(&["train", "host.yml", "--set", "max_steps=12"]);
    let train = metrics(&project, "train");
    // The model is the reference: every answer is as likely as there, and so are those to other prompts.
    assert!((train[0]["loss"].as_f64().unwrap() - 0.5).abs() < 1e-9, "{}", train[0]);
    assert_eq!((&train[0]["kl"], &train[0]["rewards/margins"]), (&json!(0.0), &json!(0.0)));
    let told = |name: &str| train.iter().any(|line| line[name].as_f64().is_some_and(|value| value != 0.0));
    for name in ["kl", "rewards/chosen", "rewards/rejected", "logps/chosen", "logps/rejected"] {
        assert!(told(name), "{name}: {train:?}");
    }
    let eval = metrics(&project, "eval");
    let loss = |line: &Value| line["eval_loss"].as_f64().unwrap();
    assert!(loss(eval.last().unwrap()) < loss(&eval[0]), "{eval:?}");
    assert!(eval.last().unwrap()["eval_rewards/margins"].as_f64() > Some(0.0), "{eval:?}");
}

#[test]
fn odds_of_pairs_are_learned_from_with_trls_metrics() {
    let project = project("orpo", "val_set_size: 8\nlogging_steps: 1\norpo_alpha: 0.5\n");
    project.success(&["train", "host.yml", "--set", "max_steps=12"]);
    let train = metrics(&project, "train");
    let (first, last) = (&train[0], train.last().unwrap());
    for name in ["nll_loss", "log_odds_ratio", "log_odds_chosen", "rewards/chosen", "logps/rejected"] {
        assert!(first[name].is_number() && last[name].is_number(), "{name}: {last}");
    }
    // `orpo_alpha` is the weight of the odds ratio.
    let loss = |line: &Value| line["nll_loss"].as_f64().unwrap() - 0.5 * line["log_odds_ratio"].as_f64().unwrap();
    for line in &train {
        assert!((loss(line) - line["loss"].as_f64().unwrap()).abs() < 1e-6, "{line}");
    }
    assert!(last["nll_loss"].as_f64() < first["nll_loss"].as_f64(), "{train:?}");
}

#[test]
fn stopped_and_resumed_is_the_same_byte_for_byte() {
    let methods = [("kto", ""), ("kto", "kto_loss_type: apo_zero_unpaired\n"), ("orpo", "")];
    for (rl, more) in methods {
        let steady = "val_set_size: 8\nsave_steps: 2\nlr_scheduler: constant\nwarmup_steps: 0\n";
        let project = project(rl, &format!("{steady}{more}"));
        let run =
            |more: &[&str]| project.success(&[&["train", "host.yml", "--set", "output_dir=parts"], more].concat());
        run(&["--set", "max_steps=2"]);
        run(&["--resume", "auto"]);
        let parts = model(&project, "parts");
        assert_eq!(project.path("parts/checkpoint-2/reference.safetensors").exists(), rl == "kto");
        std::fs::remove_dir_all(project.path("parts")).unwrap();
        run(&[]);
        assert!(parts == model(&project, "parts"), "{rl} {more}");
    }
}

#[test]
fn rows_that_cannot_be_judged() {
    let project = project("kto", "");
    let told = |all: &[Value], rl: &str| {
        rows(&project, all);
        project.write("host.yml", config(rl, ""));
        project.failure(&["train", "host.yml"])
    };
    insta::assert_snapshot!(told(&[answer(0)], "kto"));
    insta::assert_snapshot!(told(&[json!({"prompt": "a", "completion": "b"})], "kto"));
    let mixed = config("kto", "").replace("{name: preference, config: {unpaired: true}}", "{name: preference}");
    rows(&project, &[pair(0), pair(1)]);
    project.write("host.yml", mixed);
    insta::assert_snapshot!(project.failure(&["train", "host.yml"]));
}

#[test]
fn keys_that_do_not_go_together() {
    let project = project("kto", "");
    let told = |rl: &str, more: &str| {
        project.write("host.yml", config(rl, more));
        project.failure(&["check", "host.yml"])
    };
    insta::assert_snapshot!(told("kto", "kto_desirable_weight: 0\nkto_undesirable_weight: 0\norpo_alpha: 0.1\n"));
    insta::assert_snapshot!(told("orpo", "orpo_alpha: 0.1\nrl_beta: 0.2\nkto_desirable_weight: 2\n"));
    insta::assert_snapshot!(told("orpo", "train_on_inputs: true\n"));
}
