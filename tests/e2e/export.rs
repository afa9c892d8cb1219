//! What a run leaves for others: everything that the config changes about a model is in its files.

use serde_json::{Value, json};

use crate::support::{CONFIG, Project};

/// The quickstart's model with a map of special tokens, and a run of two steps that sets other ends.
fn run(lines: &str) -> Project {
    let project = Project::new();
    project.own_model();
    project
        .write("model/special_tokens_map.json", r#"{"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}"#);
    let config = CONFIG.replace("max_steps: 4", "max_steps: 2");
    project.write("host.yml", format!("{config}save_steps: 1\n{lines}"));
    project.success(&["train", "host.yml"]);
    project
}

fn json(project: &Project, file: &str) -> Value {
    serde_json::from_str(&project.read(file)).unwrap()
}

const TOKENS: &str = "special_tokens: {eos_token: <pad>}\neot_tokens: [<s>]\n";

#[test]
fn ends_that_a_config_sets_are_in_every_file_that_is_written() {
    let project = run(TOKENS);
    for directory in ["out", "out/checkpoint-1"] {
        let of = |file: &str| json(&project, &format!("{directory}/{file}"));
        assert_eq!(of("tokenizer_config.json")["eos_token"], "<pad>", "{directory}");
        assert_eq!(of("special_tokens_map.json")["eos_token"], "<pad>", "{directory}");
        assert_eq!(of("config.json")["eos_token_id"], 0, "{directory}");
        // The base model's end, the tokenizer's, the end of a turn; and all else of the base model's.
        let expected = json!({
            "bos_token_id": 1, "eos_token_id": [2, 0, 1], "pad_token_id": 0, "do_sample": false, "max_new_tokens": 32
        });
        assert_eq!(of("generation_config.json"), expected, "{directory}");
    }
    assert_eq!(project.read("out/tokenizer.json"), project.read("model/tokenizer.json"));
}

#[test]
fn an_adapter_has_the_files_too_and_ends_where_they_say() {
    let project = run(&format!("{TOKENS}adapter: lora\nlora_r: 4\nlora_alpha: 8\nlora_target_linear: true\n"));
    for directory in ["out", "out/checkpoint-1"] {
        assert_eq!(json(&project, &format!("{directory}/tokenizer_config.json"))["eos_token"], "<pad>");
        assert_eq!(json(&project, &format!("{directory}/generation_config.json"))["eos_token_id"], json!([2, 0, 1]));
    }
    let every: Vec<u32> = (0..1152).collect();
    project.write("out/generation_config.json", json!({ "eos_token_id": every }).to_string());
    let ask = ["generate", "--model", "model", "--adapter", "out", "--raw", "--prompt", "The", "--json"];
    let event: Value = serde_json::from_str(&project.success(&ask).stdout).unwrap();
    assert_eq!((&event["finished"], &event["completion_tokens"]), (&true.into(), &0.into()));
}

#[test]
fn what_a_run_does_not_change_is_copied_byte_for_byte() {
    let project = run("");
    for file in ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"] {
        assert_eq!(project.read(&format!("out/{file}")), project.read(&format!("model/{file}")), "{file}");
    }
    assert_eq!(json(&project, "out/generation_config.json"), json(&project, "model/generation_config.json"));
    assert_eq!(json(&project, "out/config.json")["eos_token_id"], 2);
}

#[test]
fn the_template_that_was_trained_with_is_the_only_one() {
    let project = Project::new();
    project.own_model();
    let edit = |template: Value| {
        let mut config = json(&project, "model/tokenizer_config.json");
        config["chat_template"] = template;
        project.write("model/tokenizer_config.json", config.to_string());
    };
    let row = r#"{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}"#;
    project.write("train.jsonl", row);
    let config = CONFIG.replace("alpaca", "chat_template").replace("max_steps: 4", "max_steps: 1");
    let train = |lines: &str| {
        project.write("host.yml", format!("{config}{lines}"));
        project.success(&["train", "host.yml", "--overwrite"]);
    };
    edit("{{ messages[1].content }}{{ eos_token }}".into());
    project.write("t.jinja", "{% for m in messages %}{{ m.role }}: {{ m.content }}{{ eos_token }}{% endfor %}");
    train("chat_template: jinja\nchat_template_jinja: t.jinja\n");
    assert_eq!(project.read("out/chat_template.jinja"), project.read("t.jinja"));
    assert_eq!(json(&project, "out/tokenizer_config.json").get("chat_template"), None);
    // Several belong together: that for tools is not lost.
    let several = json!({ "default": "{{ messages[1].content }}{{ eos_token }}", "tool_use": "{{ tools }}" });
    edit(several.clone());
    train("");
    assert_eq!(json(&project, "out/tokenizer_config.json")["chat_template"], several);
    assert!(!project.path("out/chat_template.jinja").exists(), "it would hide the one for tools");
}
