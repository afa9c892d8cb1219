//! Models that score: from pairs of answers to the files that transformers loads, stopped and gone on with, and what is said of
//! data and keys that do not fit.

use serde_json::{Value, json};

use crate::support::{Project, root};

/// A config of pairs, with more lines.
fn config(more: &str) -> String {
    format!(
        "base_model: model\nreward_model: true\nchat_template: chatml\n\
         datasets: [{{path: pairs.jsonl, type: bradley_terry.chat_template}}]\nsequence_len: 96\n\
         micro_batch_size: 4\ngradient_accumulation_steps: 2\nlearning_rate: 1e-3\nmax_steps: 6\noutput_dir: out\n{more}"
    )
}

const LORA: &str = "adapter: lora\nlora_r: 4\nlora_alpha: 8\nlora_target_linear: true\n";

fn project(more: &str) -> Project {
    let project = Project::new();
    let pair = |n: usize| {
        let (chosen, rejected) = (format!("It is {}.", 2 * n), format!("No idea, {}?", n + 1));
        json!({ "input": format!("Double {n}."), "chosen": chosen, "rejected": rejected }).to_string()
    };
    project.write("pairs.jsonl", (0..48).map(pair).collect::<Vec<_>>().join("\n"));
    project.write("host.yml", config(more));
    project
}

fn parsed(project: &Project, name: &str) -> Value {
    serde_json::from_str(&project.read(name)).unwrap()
}

#[test]
fn answers_are_told_apart_and_the_model_is_a_classifier() {
    let project = project("val_set_size: 8\nlogging_steps: 1\ncenter_rewards_coefficient: 0.01\n");
    let told = project.success(&["train", "host.yml", "--set", "max_steps=16"]).stderr;
    assert!(!told.contains("host generate"), "{told}");
    let train = project.metrics("out", "train");
    for name in ["accuracy", "margin", "mean_reward", "min_reward", "max_reward"] {
        assert!(train[0][name].is_number(), "{name}: {}", train[0]);
    }
    let eval = project.metrics("out", "eval");
    let (first, last) = (&eval[0], eval.last().unwrap());
    assert!(first.get("eval_perplexity").is_none());
    assert!(last["eval_accuracy"].as_f64() > Some(0.9) && last["eval_margin"].as_f64() > Some(0.5), "{eval:?}");
    assert!(last["eval_loss"].as_f64() < first["eval_loss"].as_f64(), "{eval:?}");
    let model = parsed(&project, "out/config.json");
    assert_eq!(model["architectures"], json!(["LlamaForSequenceClassification"]));
    assert_eq!((&model["id2label"], &model["label2id"]), (&json!({"0": "LABEL_0"}), &json!({"LABEL_0": 0})));
    assert_eq!(model["pad_token_id"], 0);
    assert!(!project.path("out/generation_config.json").exists());
    let bytes = std::fs::read(project.path("out/model.safetensors")).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(tensors.tensor("score.weight").unwrap().shape(), [1, 128]);
    assert!(tensors.tensor("lm_head.weight").is_err());
    insta::assert_snapshot!(project.failure(&["generate", "--model", "out", "--prompt", "Hello"]));
    // It is what another run begins with, and then it knows the answers from the start.
    project.success(&["train", "host.yml", "--set", "base_model=out", "--set", "output_dir=more"]);
    assert!(project.metrics("more", "eval")[0]["eval_accuracy"].as_f64() > Some(0.9));
    project.write(
        "host.yml",
        config("")
            .replace("reward_model: true\n", "")
            .replace("base_model: model", "base_model: out")
            .replace("output_dir: out", "output_dir: next"),
    );
    insta::assert_snapshot!(project.failure(&["check", "host.yml"]));
}

#[test]
fn an_adapter_has_its_head_beside_it() {
    let project =
        project(&format!("{LORA}val_set_size: 8\nlearning_rate: 5e-3\n").replace("learning_rate: 5e-3\n", ""));
    project.success(&["train", "host.yml", "--set", "learning_rate=1e-2", "--set", "max_steps=16"]);
    let eval = project.metrics("out", "eval");
    assert!(eval.last().unwrap()["eval_accuracy"].as_f64() > Some(0.9), "{eval:?}");
    let adapter = parsed(&project, "out/adapter_config.json");
    assert_eq!((&adapter["task_type"], &adapter["modules_to_save"]), (&json!("SEQ_CLS"), &json!(["score"])));
    let bytes = std::fs::read(project.path("out/adapter_model.safetensors")).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(tensors.tensor("base_model.model.score.weight").unwrap().shape(), [1, 128]);
    let told = project.failure(&["generate", "--model", "model", "--adapter", "out", "--prompt", "Hello"]);
    assert!(told.contains("`out` scores texts and cannot write"), "{told}");
    // Merged, it is the same model.
    project.success(&["merge-lora", "host.yml"]);
    let more =
        ["--set", "base_model=out/merged", "--set", "adapter=null", "--set", "lora_r=null", "--set", "lora_alpha=null"];
    let more = [&more[..], &["--set", "lora_target_linear=false", "--set", "output_dir=more", "--set", "max_steps=1"]]
        .concat();
    project.success(&[&["train", "host.yml"], &more[..]].concat());
    let merged = &project.metrics("more", "eval")[0];
    assert!(merged["eval_accuracy"].as_f64() > Some(0.9), "{merged}");
}

#[test]
fn stopped_and_resumed_is_the_same_byte_for_byte() {
    for lora in ["", LORA] {
        let project = project(&format!("{lora}val_set_size: 8\nsave_steps: 2\nlr_scheduler: constant\n"));
        let (file, run) =
            (if lora.is_empty() { "model.safetensors" } else { "adapter_model.safetensors" }, |more: &[&str]| {
                project.success(&[&["train", "host.yml"], more].concat());
            });
        run(&["--set", "output_dir=whole"]);
        run(&["--set", "output_dir=parts", "--set", "max_steps=2"]);
        run(&["--set", "output_dir=parts", "--resume", "auto"]);
        let read = |output: &str| std::fs::read(project.path(output).join(file)).unwrap();
        assert!(read("whole") == read("parts"), "{lora}");
        let of_eval = |output: &str| {
            let mut lines = project.metrics(output, "eval");
            for line in &mut lines {
                line["eval_seconds"] = Value::Null;
            }
            lines.pop()
        };
        assert_eq!(of_eval("whole"), of_eval("parts"));
    }
}

#[test]
fn a_run_is_planned_and_its_cost_is_told() {
    let project = project("val_set_size: 8\n");
    let told = project.success(&["check", "host.yml", "--plan", "--json"]).stdout;
    let plan = told.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    assert!(plan.clone().any(|line| line.to_string().contains("\"weights\"")), "{told}");
    project.success(&["train", "host.yml", "--dry-run"]);
    assert!(!project.path("out").exists());
}

#[test]
fn a_margin_keeps_answers_further_apart() {
    let project = project("logging_steps: 1\nmax_grad_norm: 0\n");
    let loss = |margin: &Value| {
        let row = |n: usize| json!({"input": format!("{n}"), "chosen": "yes", "rejected": "no", "margin": margin});
        project.write("pairs.jsonl", (0..8).map(|n| row(n).to_string()).collect::<Vec<_>>().join("\n"));
        project.success(&["train", "host.yml", "--set", "max_steps=1"]);
        let line = project.metrics("out", "train").remove(0);
        std::fs::remove_dir_all(project.path("out")).unwrap();
        (line["loss"].as_f64().unwrap(), line["margin"].as_f64().unwrap())
    };
    let ((plain, apart), (none, _), (wide, again)) = (loss(&json!(0.0)), loss(&Value::Null), loss(&json!(3.0)));
    assert!((plain - none).abs() < 1e-12 && (apart - again).abs() < 1e-12);
    assert!(wide > plain + 1.0, "{wide} {plain}");
    project.write("pairs.jsonl", json!({"input": "a", "chosen": "b", "rejected": "c", "margin": "wide"}).to_string());
    insta::assert_snapshot!(project.failure(&["train", "host.yml"]));
}

#[test]
fn pairs_that_are_none() {
    let project = project("");
    let told = |rows: &[Value], more: &str| {
        project.write("pairs.jsonl", rows.iter().map(Value::to_string).collect::<Vec<_>>().join("\n"));
        project.write("host.yml", config(more));
        project.failure(&["train", "host.yml"])
    };
    insta::assert_snapshot!(told(&[json!({"input": "a", "chosen": "b", "rejected": "b"})], ""));
    insta::assert_snapshot!(told(&[json!({"input": "a", "chosen": "b"})], ""));
    insta::assert_snapshot!(told(&[json!({"input": "a", "rejected": "b"})], ""));
    let long = json!({"input": "a ".repeat(90), "chosen": "b", "rejected": "c"});
    insta::assert_snapshot!(told(&[long], ""));
}

#[test]
fn keys_that_do_not_go_together() {
    let project = project("");
    let told = |more: &str| {
        project.write("host.yml", config(more));
        project.failure(&["check", "host.yml"])
    };
    insta::assert_snapshot!(told("rl: dpo\ntrain_on_inputs: true\n"));
    insta::assert_snapshot!(told("num_labels: 2\nmodel_type: LlamaForCausalLM\n"));
    insta::assert_snapshot!(told("val_set_size: 8\neval_reward_funcs: [exact-match]\n"));
    insta::assert_snapshot!(told("process_reward_model: true\n"));
    let more = "model_type: AutoModelForTokenClassification\ncenter_rewards_coefficient: -1\n";
    insta::assert_snapshot!(told(more));
    project.write(
        "host.yml",
        config("center_rewards_coefficient: 0.01\nnum_labels: 1\n").replace("reward_model: true\n", ""),
    );
    insta::assert_snapshot!(project.failure(&["check", "host.yml"]));
    project.write("host.yml", config("").replace("bradley_terry.chat_template", "alpaca"));
    project.write("pairs.jsonl", json!({"instruction": "a", "output": "b"}).to_string());
    insta::assert_snapshot!(project.failure(&["train", "host.yml"]));
}

#[test]
fn a_model_that_cannot_score_is_told_before_its_weights_are_read() {
    let project = project("");
    let parity = root().join("tests/fixtures/parity/granite/config.json");
    let granite: Value = serde_json::from_str(&std::fs::read_to_string(parity).unwrap()).unwrap();
    project.own_model();
    project.write("model/config.json", granite.to_string());
    let told = project.failure(&["check", "host.yml"]);
    assert!(told.contains("a `GraniteForCausalLM` cannot be a reward model"), "{told}");
}
