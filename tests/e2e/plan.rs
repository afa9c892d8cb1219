//! What a run would take, said beforehand, beside what it then takes.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::support::{CONFIG, Project, without_sizes};

/// A model of ten million parameters and rows of some hundred tokens: what a run takes is mostly model and activations.
fn project() -> Project {
    let project = Project::new();
    with_sizes(
        &project,
        &json!({ "hidden_size": 384, "intermediate_size": 1024, "num_attention_heads": 6, "num_key_value_heads": 3,
            "head_dim": 64, "vocab_size": 4096, "tie_word_embeddings": false }),
    );
    let row = |index: usize| {
        let output = "go on and on, ".repeat(12 + index % 9);
        json!({ "instruction": "Say it.", "input": index.to_string(), "output": output })
    };
    let rows = (0..32).fold(String::new(), |mut rows, index| {
        let _ = writeln!(rows, "{}", row(index));
        rows
    });
    project.write("train.jsonl", &rows);
    project.write("eval.jsonl", &rows);
    project
}

/// The model's config with other sizes.
fn with_sizes(project: &Project, sizes: &Value) {
    project.own_model();
    let mut config: Value = serde_json::from_str(&project.read("model/config.json")).unwrap();
    config.as_object_mut().unwrap().extend(sizes.as_object().unwrap().clone());
    project.write("model/config.json", config.to_string());
}

fn event(stdout: &str, name: &str) -> Value {
    let mut events = stdout.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    events.rfind(|event| event["event"] == name).unwrap_or_else(|| panic!("no `{name}` in {stdout}"))
}

/// Trains as `host.yml` says; the estimate before it must be within 15 % of the peak, and the disk within 2 %.
fn held_against_a_run(project: &Project) {
    // The first of all runs compiles plugins, which takes memory that later ones do without.
    project.success(&["check", "host.yml"]);
    let plan = event(&project.success(&["train", "host.yml", "--dry-run", "--json"]).stdout, "plan");
    assert!(!project.path("out").exists());
    let outcome = project.success(&["train", "host.yml", "--json"]);
    let (start, summary) = (event(&outcome.stdout, "start"), event(&outcome.stdout, "summary"));
    for key in ["trainable_parameters", "total_parameters", "samples", "tokens", "total_steps"] {
        assert_eq!(plan[key], start[key], "{key}");
    }
    let actual = summary["peak_memory_bytes"].as_f64().unwrap();
    let ratio = plan["memory"]["total"].as_f64().unwrap() / actual;
    assert!(actual > 120e6 && (ratio - 1.0).abs() <= 0.15, "{ratio} of {actual}: {}", plan["memory"]);
    let bytes = |path: &str| -> u64 {
        let entries = std::fs::read_dir(project.path(path)).unwrap().map(|entry| entry.unwrap().metadata().unwrap());
        entries.filter(std::fs::Metadata::is_file).map(|file| file.len()).sum()
    };
    let written = (bytes("out") + bytes("out/checkpoint-2")) as f64;
    assert!((plan["disk_bytes"].as_f64().unwrap() / written - 1.0).abs() <= 0.02, "{written}: {}", plan["disk"]);
}

const SIZES: &str = "reinit_weights: true\nsequence_len: 512\nmicro_batch_size: 8\nmax_steps: 2\n";

fn config(lines: &str) -> String {
    let common: Vec<&str> = CONFIG.lines().filter(|line| !["sequ", "micr", "max_"].contains(&&line[..4])).collect();
    format!("{}\n{SIZES}{lines}", common.join("\n"))
}

#[test]
fn the_estimate_of_full_fine_tuning_with_evaluation_holds() {
    let project = project();
    project.write("host.yml", config("test_datasets: [{path: eval.jsonl, type: alpaca}]\neval_batch_size: 16\n"));
    held_against_a_run(&project);
}

#[test]
fn the_estimate_of_gradient_checkpointing_with_accumulation_holds() {
    let project = project();
    project.write("host.yml", config("gradient_checkpointing: true\ngradient_accumulation_steps: 2\n"));
    held_against_a_run(&project);
}

#[test]
fn the_estimate_of_lora_with_generation_holds() {
    let project = project();
    project.write("host.yml", config("save_strategy: no\n").replace("output_dir: out", "output_dir: base"));
    project.success(&["train", "host.yml", "--set", "max_steps=1"]);
    let lora = "adapter: lora\nlora_r: 8\nlora_alpha: 16\nlora_dropout: 0.1\nlora_target_linear: true\n";
    let eval =
        "test_datasets: [{path: eval.jsonl, type: alpaca}]\neval_reward_funcs: [exact-match]\neval_max_new_tokens: 4\n";
    let text = config(&format!("{lora}{eval}")).replace("base_model: model", "base_model: base");
    project.write("host.yml", text.replace("reinit_weights: true\n", ""));
    held_against_a_run(&project);
}

#[test]
fn the_estimate_of_an_adapter_on_four_bits_holds() {
    let project = project();
    project.write("host.yml", config("save_strategy: no\n").replace("output_dir: out", "output_dir: base"));
    project.success(&["train", "host.yml", "--set", "max_steps=1"]);
    let qlora = "adapter: qlora\nload_in_4bit: true\nlora_r: 8\nlora_alpha: 16\nlora_target_linear: true\n";
    let text = config(qlora).replace("base_model: model", "base_model: base");
    project.write("host.yml", text.replace("reinit_weights: true\n", ""));
    held_against_a_run(&project);
}

#[test]
fn check_says_the_plan_after_its_findings() {
    let project = Project::new();
    let outcome = project.success(&["check", "host.yml", "--plan"]);
    insta::assert_snapshot!(without_sizes(&outcome.stderr));
    let outcome = project.success(&["check", "host.yml", "--plan", "--json"]);
    let names = |line: &str| serde_json::from_str::<Value>(line).unwrap()["event"].clone();
    assert_eq!(outcome.stdout.lines().map(names).collect::<Vec<_>>(), ["check", "plan"]);
    let memory = &event(&outcome.stdout, "plan")["memory"];
    let parts = memory.as_object().unwrap().iter().filter(|(name, _)| *name != "total" && *name != "host");
    assert_eq!(parts.map(|(_, part)| part.as_u64().unwrap()).sum::<u64>(), memory["total"].as_u64().unwrap());
    assert!(!project.path("out").exists());
}

#[test]
fn check_says_no_plan_after_an_error() {
    let project = Project::new();
    project.write("train.jsonl", "[]\n");
    insta::assert_snapshot!(project.failure(&["check", "host.yml", "--plan"]));
}

/// An error that only the data brings to light.
#[test]
fn check_says_no_plan_after_an_error_of_the_data() {
    let project = Project::new();
    project.write("host.yml", CONFIG.replace("max_steps: 4", "num_epochs: 1\nwarmup_steps: 1000"));
    let messages = project.failure(&["check", "host.yml", "--plan"]);
    assert!(messages.contains("error[rule::H9]"), "{messages}");
    assert!(!messages.contains("nothing was trained or written"), "{messages}");
    project.success(&["check", "host.yml"]);
}

#[test]
fn a_model_that_does_not_fit_is_said() {
    let project = Project::new();
    with_sizes(&project, &json!({ "hidden_size": 16384, "intermediate_size": 65536, "num_hidden_layers": 64 }));
    project.write("host.yml", format!("{CONFIG}reinit_weights: true\n"));
    for command in [["check", "--plan"], ["train", "--dry-run"]] {
        let outcome = project.success(&[command[0], "host.yml", command[1]]);
        assert!(outcome.stderr.contains("warning[plan::memory]"), "{}", outcome.stderr);
        assert!(outcome.stderr.contains("these lower it: `adapter: lora`\n"), "{}", outcome.stderr);
    }
}

#[test]
fn a_dry_run_measures_a_step_and_finds_what_the_first_would() {
    let project = Project::new();
    let plan = event(&project.success(&["train", "host.yml", "--dry-run", "--json"]).stdout, "plan");
    let [step, all] = ["step_seconds", "train_seconds"].map(|key| plan[key].as_f64().unwrap());
    assert!(step > 0.0 && all > step && all < 40.0 * step, "four steps of some sizes: {step} {all}");
    let plan = event(&project.success(&["check", "host.yml", "--plan", "--json"]).stdout, "plan");
    assert!(plan["step_seconds"].is_null());
    project.write(
        "host.yml",
        CONFIG.replace("learning_rate: 1e-3", "learning_rate: 1e30\nwarmup_steps: 0\nmax_grad_norm: 0")
            + "rules: [{name: practice, severity: {H28: off}}]\n",
    );
    let messages = project.failure(&["train", "host.yml", "--dry-run"]);
    assert!(messages.contains("train::not-finite"), "{messages}");
    assert!(!project.path("out").exists());
}

#[test]
fn a_batch_that_does_not_fit_is_said() {
    let project = Project::new();
    with_sizes(&project, &json!({ "intermediate_size": 16_777_216 }));
    project.write("host.yml", format!("{}reinit_weights: true\n", CONFIG.replace("size: 4", "size: 48")));
    let outcome = project.success(&["check", "host.yml", "--plan"]);
    insta::assert_snapshot!(without_sizes(&outcome.stderr));
}
