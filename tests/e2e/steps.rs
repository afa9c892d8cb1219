//! Models that score the steps of answers: from labelled steps to the files that transformers loads, and what is said of data and
//! keys that do not fit.

use serde_json::{Value, json};

use crate::support::Project;

/// A config of labelled steps, with more lines.
fn config(more: &str) -> String {
    format!(
        "base_model: model\nprocess_reward_model: true\n\
         datasets: [{{path: steps.jsonl, type: stepwise_supervised, step_separator: \"\\n\"}}]\nsequence_len: 96\n\
         micro_batch_size: 4\ngradient_accumulation_steps: 2\nlearning_rate: 2e-3\nmax_steps: 6\noutput_dir: out\n{more}"
    )
}

const LORA: &str = "adapter: lora\nlora_r: 4\nlora_alpha: 8\nlora_target_linear: true\n";

fn project(more: &str) -> Project {
    let project = Project::new();
    let row = |n: usize| {
        let step = |at: usize| {
            let is_right = !(n + at).is_multiple_of(3);
            (if is_right { format!("so it is {n}.") } else { format!("no idea, {at}?") }, is_right)
        };
        let (texts, labels): (Vec<String>, Vec<bool>) = (0..2 + n % 2).map(step).unzip();
        json!({ "prompt": format!("Double {n}."), "completions": texts, "labels": labels }).to_string()
    };
    project.write("steps.jsonl", (0..48).map(row).collect::<Vec<_>>().join("\n"));
    project.write("host.yml", config(more));
    project
}

fn parsed(project: &Project, name: &str) -> Value {
    serde_json::from_str(&project.read(name)).unwrap()
}

#[test]
fn steps_are_told_apart_and_the_model_classifies_tokens() {
    let project = project("val_set_size: 8\nlogging_steps: 1\n");
    project.success(&["train", "host.yml", "--set", "max_steps=20"]);
    let train = project.metrics("out", "train");
    assert!(train[0]["accuracy"].is_number(), "{}", train[0]);
    let eval = project.metrics("out", "eval");
    assert!(eval[0].get("eval_perplexity").is_none());
    assert!(eval.last().unwrap()["eval_accuracy"].as_f64() > Some(0.9), "{eval:?}");
    let model = parsed(&project, "out/config.json");
    assert_eq!(model["architectures"], json!(["LlamaForTokenClassification"]));
    assert_eq!(model["id2label"], json!({"0": "LABEL_0", "1": "LABEL_1"}));
    assert!(!project.path("out/generation_config.json").exists());
    let bytes = std::fs::read(project.path("out/model.safetensors")).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(tensors.tensor("score.weight").unwrap().shape(), [2, 128]);
    assert_eq!(tensors.tensor("score.bias").unwrap().shape(), [2]);
    assert!(project.failure(&["generate", "--model", "out", "--prompt", "Hello"]).contains("model::scores"));
    // It is what another run begins with; a reward model is none.
    project.success(&["train", "host.yml", "--set", "base_model=out", "--set", "output_dir=more"]);
    assert!(project.metrics("more", "eval")[0]["eval_accuracy"].as_f64() > Some(0.9));
    let sets = ["--set", "base_model=out", "--set", "process_reward_model=false", "--set", "reward_model=true"];
    project.write(
        "host.yml",
        config("").replace(", step_separator: \"\\n\"", "").replace("output_dir: out", "output_dir: next"),
    );
    let told = project.failure(&[&["check", "host.yml"], &sets[..]].concat());
    assert!(told.contains("it has a head of 2 scores of tokens already"), "{told}");
}

#[test]
fn stopped_and_resumed_is_the_same_byte_for_byte() {
    for lora in ["", LORA] {
        let project = project(&format!("{lora}val_set_size: 8\nsave_steps: 2\nlr_scheduler: constant\n"));
        let file = if lora.is_empty() { "model.safetensors" } else { "adapter_model.safetensors" };
        let run = |more: &[&str]| {
            project.success(&[&["train", "host.yml"], more].concat());
        };
        run(&["--set", "output_dir=whole"]);
        run(&["--set", "output_dir=parts", "--set", "max_steps=2"]);
        run(&["--set", "output_dir=parts", "--resume", "auto"]);
        let read = |output: &str| std::fs::read(project.path(output).join(file)).unwrap();
        assert!(read("whole") == read("parts"), "{lora}");
    }
}

#[test]
fn an_adapter_has_its_head_beside_it() {
    let project = project(&format!("{LORA}save_strategy: 'no'\n"));
    project.success(&["train", "host.yml"]);
    let adapter = parsed(&project, "out/adapter_config.json");
    assert_eq!((&adapter["task_type"], &adapter["modules_to_save"]), (&json!("TOKEN_CLS"), &json!(["score"])));
    let bytes = std::fs::read(project.path("out/adapter_model.safetensors")).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(tensors.tensor("base_model.model.score.bias").unwrap().shape(), [2]);
    project.success(&["merge-lora", "host.yml"]);
    assert_eq!(parsed(&project, "out/merged/config.json")["architectures"], json!(["LlamaForTokenClassification"]));
    // And it is what another run goes on from.
    let more = ["--set", "lora_model_dir=out", "--set", "output_dir=more", "--set", "max_steps=1"];
    project.success(&[&["train", "host.yml"], &more[..]].concat());
}

#[test]
fn steps_are_shown_with_their_labels() {
    let project = project("");
    insta::assert_snapshot!(project.success(&["preprocess", "host.yml", "--show", "1"]).stdout);
    let shown = project.success(&["preprocess", "host.yml", "--show", "1", "--json"]).stdout;
    let sample: Value = serde_json::from_str(shown.lines().next().unwrap()).unwrap();
    let labels: Vec<i64> = sample["labels"].as_array().unwrap().iter().filter_map(Value::as_i64).collect();
    assert_eq!(labels.into_iter().filter(|&label| label >= 0).collect::<Vec<_>>(), [0, 1]);
}

#[test]
fn only_the_last_step_is_learned_where_the_dataset_says_so() {
    let project = project("");
    let count = |more: &str| {
        project.write("host.yml", config("").replace("type: stepwise", &format!("{more}type: stepwise")));
        let told = project.success(&["preprocess", "host.yml", "--json"]).stdout;
        let line = told.lines().find(|line| line.contains("trained_tokens")).unwrap().to_owned();
        serde_json::from_str::<Value>(&line).unwrap()["trained_tokens"].as_u64().unwrap()
    };
    assert_eq!((count(""), count("train_on_last_step_only: true, ")), (120, 48));
    assert!(count("max_completion_length: 12, ") < 120);
}

#[test]
fn steps_that_are_none() {
    let project = project("");
    let told = |row: Value| {
        project.write("steps.jsonl", row.to_string());
        project.failure(&["train", "host.yml"])
    };
    insta::assert_snapshot!(told(json!({"prompt": "a", "completions": ["b"], "labels": [true, false]})));
    insta::assert_snapshot!(told(json!({"prompt": "a", "completions": ["b"], "labels": [2]})));
    insta::assert_snapshot!(told(json!({"prompt": "a", "completions": ["b"]})));
    insta::assert_snapshot!(told(json!({"prompt": "a", "completions": [], "labels": []})));
    insta::assert_snapshot!(told(json!({"prompt": "0123456789 ".repeat(90), "completions": ["b"], "labels": [true]})));
}

#[test]
fn keys_that_do_not_go_together() {
    let project = project("");
    let told = |text: &str| {
        project.write("host.yml", text);
        project.failure(&["check", "host.yml"])
    };
    insta::assert_snapshot!(told(&config("").replace("process_reward_model: true\n", "")));
    insta::assert_snapshot!(told(&config("num_labels: 1\nrl: dpo\ncenter_rewards_coefficient: 0.1\n")));
    insta::assert_snapshot!(told(&config("reward_model: true\n")));
    project.write("host.yml", config("").replace("stepwise_supervised", "completion"));
    project.write("steps.jsonl", json!({"text": "a"}).to_string());
    insta::assert_snapshot!(project.failure(&["train", "host.yml"]));
}
