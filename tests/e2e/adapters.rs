//! `lora_target_modules` as PEFT reads it.

use serde_json::{Value, json};

use crate::support::{CONFIG, Project};

const LORA: &str = "adapter: lora\nlora_r: 4\nlora_alpha: 8\nlogging_steps: 1\n";

fn config(project: &Project, targets: &str) {
    project.write("host.yml", format!("{CONFIG}{LORA}lora_target_modules: {targets}\n"));
}

/// `target_modules` and `layers_to_transform` of the adapter that a run leaves.
fn trained(project: &Project, targets: &str) -> (Value, Value) {
    config(project, targets);
    project.success(&["train", "host.yml", "--overwrite"]);
    let written: Value = serde_json::from_str(&project.read("out/adapter_config.json")).unwrap();
    (written["target_modules"].clone(), written["layers_to_transform"].clone())
}

#[test]
fn patterns_ends_of_names_and_the_output_projection_are_trained() {
    let project = Project::new();
    let all = Value::Null;
    assert_eq!(trained(&project, r"'.*self_attn\.(q|v)_proj'"), (json!(["q_proj", "v_proj"]), all.clone()));
    assert_eq!(trained(&project, "[self_attn.q_proj]"), (json!(["q_proj"]), all.clone()));
    assert_eq!(trained(&project, r"'model\.layers\.[01]\.mlp\.up_proj'"), (json!(["up_proj"]), json!([0, 1])));
    let each = trained(&project, r"'model\.layers\.(0\.mlp\.up|1\.self_attn\.q)_proj'").0;
    assert_eq!(each, json!(["model.layers.0.mlp.up_proj", "model.layers.1.self_attn.q_proj"]));
    assert_eq!(trained(&project, "[q_proj, lm_head]"), (json!(["q_proj", "lm_head"]), all));
    let answer =
        ["generate", "--model", "model", "--adapter", "out", "--raw", "--prompt", "The", "--max-new-tokens", "3"];
    project.success(&answer);
}

#[test]
fn an_adapter_of_the_output_projection_goes_on_as_if_it_had_never_stopped() {
    let project = Project::new();
    let more = "lora_target_modules: [lm_head]\nsave_steps: 2\nlora_dropout: 0.1\nlr_scheduler: constant\n";
    project.write("host.yml", format!("{CONFIG}{LORA}{more}"));
    project.success(&["train", "host.yml", "--set", "output_dir=whole"]);
    project.success(&["train", "host.yml", "--set", "max_steps=2"]);
    project.success(&["train", "host.yml", "--resume", "auto"]);
    let adapter = |directory: &str| std::fs::read(project.path(directory).join("adapter_model.safetensors")).unwrap();
    assert!(adapter("out") == adapter("whole"));
}

#[test]
fn what_no_module_matches_is_named() {
    let project = Project::new();
    for targets in [r"'(q|v)_proj'", "'.*'", "[mlp.q_proj]", "['.*q_proj']", "'*_proj'", "[embed_tokens]"] {
        config(&project, targets);
        insta::assert_snapshot!(project.failure(&["check", "host.yml"]));
    }
    project
        .write("host.yml", format!("{CONFIG}{LORA}lora_target_modules: '.*q_proj'\npeft_layers_to_transform: [0]\n"));
    insta::assert_snapshot!(project.failure(&["check", "host.yml"]));
}
