//! Bad models: named before anything is trained.

use std::fs;

use serde_json::{Value, json};

use crate::support::{CONFIG, Project};

fn train(break_it: impl Fn(&Project)) -> String {
    let project = Project::new();
    project.own_model();
    break_it(&project);
    project.train_failure(str::to_owned)
}

fn edit_json(project: &Project, file: &str, edit: impl Fn(&mut serde_json::Value)) {
    let mut value = serde_json::from_str(&project.read(file)).unwrap();
    edit(&mut value);
    project.write(file, value.to_string());
}

#[test]
fn a_missing_weight_file() {
    insta::assert_snapshot!(train(|project| fs::remove_file(project.path("model/model.safetensors")).unwrap()));
}

#[test]
fn a_missing_tokenizer() {
    insta::assert_snapshot!(train(|project| fs::remove_file(project.path("model/tokenizer.json")).unwrap()));
}

#[test]
fn a_short_weight_file() {
    let messages = train(|project| {
        let bytes = fs::read(project.path("model/model.safetensors")).unwrap();
        project.write("model/model.safetensors", &bytes[..bytes.len() - 100]);
    });
    insta::assert_snapshot!(messages);
}

#[test]
fn overlapping_tensors() {
    let messages = train(|project| {
        let bytes = fs::read(project.path("model/model.safetensors")).unwrap();
        let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let header = String::from_utf8(bytes[8..8 + length].to_vec()).unwrap();
        // The second tensor starts inside the first.
        let first_end = header.split("\"data_offsets\":[0,").nth(1).unwrap().split(']').next().unwrap();
        let start: usize = first_end.parse().unwrap();
        let shifted = header.replacen(&format!("[{start},"), &format!("[{},", start - 2), 1);
        assert_ne!(header, shifted);
        let mut out = (shifted.len() as u64).to_le_bytes().to_vec();
        out.extend(shifted.bytes());
        out.extend(&bytes[8 + length..]);
        project.write("model/model.safetensors", out);
    });
    insta::assert_snapshot!(messages);
}

#[test]
fn weights_of_another_shape() {
    insta::assert_snapshot!(train(|project| edit_json(
        project,
        "model/config.json",
        |config| config["intermediate_size"] = 64.into()
    )));
}

/// Gives the tokenizer a token that the embedding has no row for.
fn add_token(project: &Project) {
    edit_json(project, "model/tokenizer.json", |tokenizer| {
        let added = tokenizer["added_tokens"].as_array_mut().unwrap();
        let mut token = added[0].clone();
        token["id"] = 100_000.into();
        token["content"] = "<|new|>".into();
        added.push(token);
    });
}

#[test]
fn a_token_without_a_row_matters_where_a_text_has_it() {
    let project = Project::new();
    project.own_model();
    add_token(&project);
    project.write("host.yml", CONFIG.replace("max_steps: 4", "max_steps: 1"));
    project.success(&["train", "host.yml"]);
    let messages = train(|project| {
        add_token(project);
        project.write("train.jsonl", "{\"instruction\": \"a\", \"input\": \"\", \"output\": \"<|new|>\"}\n");
    });
    let messages = regex::Regex::new(r"the id \d+").unwrap().replace(&messages, "the id N").into_owned();
    insta::assert_snapshot!(messages);
}

#[test]
fn an_embedding_grows_to_what_is_asked_for() {
    let project = Project::new();
    project.own_model();
    project.write("host.yml", format!("{CONFIG}resize_token_embeddings_to_32x: true\n"));
    project.success(&["check", "host.yml"]);
    edit_json(&project, "model/tokenizer.json", |tokenizer| {
        let added = tokenizer["added_tokens"].as_array_mut().unwrap();
        for number in 0..40 {
            let mut token = added[0].clone();
            token["id"] = (100_000 + number).into();
            token["content"] = format!("<|new {number}|>").into();
            added.push(token);
        }
    });
    insta::assert_snapshot!(project.success(&["check", "host.yml"]).stderr);
}

/// Rows and first numbers of a tensor of a file.
fn rows(project: &Project, file: &str, name: &str) -> (usize, Vec<f32>) {
    let bytes = std::fs::read(project.path(file)).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let view = tensors.tensor(name).unwrap();
    let value = |word: &[u8]| match view.dtype() {
        safetensors::Dtype::F32 => f32::from_le_bytes(word.try_into().unwrap()),
        _ => f32::from_bits(u32::from(u16::from_le_bytes(word.try_into().unwrap())) << 16),
    };
    let width = if view.dtype() == safetensors::Dtype::F32 { 4 } else { 2 };
    (view.shape()[0], view.data().chunks_exact(width).map(value).collect())
}

const TOKENS: &str = "tokens: ['<|think|>', '<|/think|>']\nspecial_tokens: {eos_token: '<|done|>'}\n";

#[test]
fn new_tokens_get_rows_that_are_trained_and_exported() {
    let project = Project::new();
    project.own_model();
    let row = "{\"instruction\": \"a\", \"input\": \"\", \"output\": \"<|think|>b<|/think|>c\"}\n";
    project.write("train.jsonl", row.repeat(8));
    project.write("host.yml", format!("{CONFIG}{TOKENS}learning_rate: 0.05\n").replace("learning_rate: 1e-3\n", ""));
    insta::assert_snapshot!(project.success(&["check", "host.yml"]).stderr);
    let shown = project.success(&["preprocess", "host.yml", "--show", "1", "--tokens"]).stdout;
    assert!(shown.contains("<|think|>") && shown.contains("<|done|>"), "{shown}");
    project.success(&["train", "host.yml"]);
    let embedding = "model.embed_tokens.weight";
    let (before, old) = rows(&project, "model/model.safetensors", embedding);
    let (after, new) = rows(&project, "out/model.safetensors", embedding);
    assert_eq!(after, before + 3);
    let width = new.len() / after;
    let mean = |column: usize| (0..before).map(|row| old[row * width + column]).sum::<f32>() / before as f32;
    let distance =
        |row: usize| -> f32 { (0..width).map(|column| (new[row * width + column] - mean(column)).abs()).sum() };
    assert!(distance(before + 1) > 1e-3);
    let config: Value = serde_json::from_str(&project.read("out/config.json")).unwrap();
    assert_eq!((&config["vocab_size"], &config["eos_token_id"]), (&json!(after), &json!(before)));
    // At a rate that changes nothing, they are the mean of the others.
    project.success(&["train", "host.yml", "--overwrite", "--set", "learning_rate=1e-30"]);
    let (_, new) = rows(&project, "out/model.safetensors", embedding);
    let distance =
        |row: usize| -> f32 { (0..width).map(|column| (new[row * width + column] - mean(column)).abs()).sum() };
    assert!((before..after).all(|row| distance(row) < 1e-5));
    project.success(&[
        "train",
        "host.yml",
        "--overwrite",
        "--set",
        "learning_rate=1e-30",
        "--set",
        "mean_resizing_embeddings=false",
    ]);
    let (_, new) = rows(&project, "out/model.safetensors", embedding);
    assert!(new[before * width..].iter().any(|value| value.abs() > 1e-3));
    // What was written is a model like any other.
    project.success(&["train", "host.yml", "--overwrite"]);
    let answer = ["generate", "--model", "out", "--raw", "--prompt", "a", "--max-new-tokens", "3"];
    project.success(&answer);
}

#[test]
fn an_adapter_comes_with_the_rows_of_new_tokens() {
    let project = Project::new();
    project.own_model();
    let row = "{\"instruction\": \"a\", \"input\": \"\", \"output\": \"<|think|>b<|/think|>c\"}\n";
    project.write("train.jsonl", row.repeat(8));
    let base = format!("{CONFIG}{TOKENS}learning_rate: 0.05\n").replace("learning_rate: 1e-3\n", "");
    let lora =
        "adapter: lora\nlora_r: 4\nlora_alpha: 8\nlora_target_linear: true\nsave_steps: 2\nlr_scheduler: constant\n";
    project.write("host.yml", format!("{base}{lora}"));
    insta::assert_snapshot!(project.success(&["check", "host.yml"]).stderr);
    for saved in ["lora_modules_to_save: [embed_tokens, lm_head]\n", "lora_modules_to_save: [embed_tokens]\n", ""] {
        project.write("host.yml", format!("{base}{lora}{saved}"));
        project.success(&["train", "host.yml", "--overwrite", "--set", "output_dir=whole"]);
        project.success(&["train", "host.yml", "--overwrite", "--set", "max_steps=2"]);
        project.success(&["train", "host.yml", "--resume", "auto"]);
        let adapter =
            |directory: &str| std::fs::read(project.path(directory).join("adapter_model.safetensors")).unwrap();
        assert!(adapter("out") == adapter("whole"));
        let answer = |model: &[&str]| {
            let generate = ["generate", "--raw", "--prompt", "a<|think|>", "--max-new-tokens", "6"];
            project.success(&[&generate[..], model].concat()).stdout
        };
        let beside = answer(&["--model", "model", "--adapter", "out"]);
        project.success(&["merge-lora", "host.yml", "--output", "merged"]);
        assert_eq!(answer(&["--model", "merged"]), beside);
        std::fs::remove_dir_all(project.path("merged")).unwrap();
        // It is what training can start from.
        project.write("host.yml", format!("{base}{lora}{saved}lora_model_dir: whole\n"));
        project.success(&[
            "train",
            "host.yml",
            "--overwrite",
            "--set",
            "output_dir=third",
            "--set",
            "learning_rate=1e-30",
        ]);
        assert!(adapter("third") == adapter("whole"));
    }
    project.write("host.yml", format!("{base}{lora}lora_model_dir: whole\nlora_modules_to_save: [lm_head]\n"));
    insta::assert_snapshot!(project.failure(&["check", "host.yml"]));
}

#[test]
fn tokens_and_saved_modules_that_cannot_be() {
    let project = Project::new();
    project.own_model();
    let lora = "adapter: lora\nlora_r: 4\nlora_alpha: 8\nlora_target_linear: true\n";
    for lines in [
        "tokens: {bos_token: <s>, eos_token: </s>}\n".to_owned(),
        "tokens: ['', a]\n".to_owned(),
        "added_tokens_overrides: {3: '<|x|>'}\n".to_owned(),
        "added_tokens_overrides: {many: '<|x|>', 7: ''}\n".to_owned(),
        "lora_modules_to_save: [embed_tokens]\n".to_owned(),
        format!("{lora}lora_modules_to_save: [embed_token]\n"),
        format!("{lora}lora_modules_to_save: [q_proj]\n"),
        format!("{lora}load_in_4bit: true\nlora_modules_to_save: [norm, down_proj]\n")
            .replace("lora_target_linear: true", "lora_target_modules: [q_proj]"),
    ] {
        project.write("host.yml", format!("{CONFIG}{lines}"));
        insta::assert_snapshot!(project.failure(&["check", "host.yml"]));
    }
}

#[test]
fn weights_that_were_saved_quantized_are_named() {
    for method in ["gptq", "awq", "fp8", "compressed-tensors"] {
        let messages = train(|project| {
            edit_json(project, "model/config.json", |config| {
                config["quantization_config"] = serde_json::json!({ "quant_method": method, "bits": 4 });
            });
        });
        assert!(messages.contains(&format!("`quant_method: {method}`")), "{messages}");
        if method == "gptq" {
            insta::assert_snapshot!(messages);
        }
    }
}

#[test]
fn what_a_checkpoint_of_four_bits_cannot_have() {
    let project = Project::new();
    project.own_model();
    edit_json(&project, "model/config.json", |config| {
        config["quantization_config"] =
            json!({ "quant_method": "bitsandbytes", "load_in_4bit": true, "bnb_4bit_quant_type": "nf4" });
    });
    let lora = "adapter: lora\nlora_r: 4\nlora_alpha: 8\nlora_target_linear: true\n";
    for lines in [String::new(), format!("{lora}load_in_8bit: true\n")] {
        project.write("host.yml", format!("{CONFIG}{lines}"));
        insta::assert_snapshot!(project.failure(&["check", "host.yml"]));
    }
}

#[test]
fn a_sliding_window_holds_in_training_and_in_generation() {
    let project = Project::new();
    project.own_model();
    let first_loss = |window: u32| {
        edit_json(&project, "model/config.json", |config| {
            config["model_type"] = "mistral".into();
            config["architectures"] = serde_json::json!(["MistralForCausalLM"]);
            config["sliding_window"] = window.into();
        });
        project.success(&["train", "host.yml", "--overwrite"]);
        let line = project.read("out/metrics.jsonl").lines().next().unwrap().to_owned();
        serde_json::from_str::<serde_json::Value>(&line).unwrap()["loss"].clone()
    };
    // No sequence is longer than 128.
    let whole = first_loss(128);
    assert_eq!(first_loss(4096), whole);
    assert_ne!(first_loss(4), whole);
    let prompt = "The quick brown fox jumps over the lazy dog";
    let ask = ["generate", "--model", "model", "--raw", "--prompt", prompt, "--max-new-tokens", "64"];
    project.success(&ask);
}

#[test]
fn dynamic_rotations_end_at_the_models_positions() {
    let project = Project::new();
    project.own_model();
    edit_json(&project, "model/config.json", |config| {
        config["rope_scaling"] = serde_json::json!({ "rope_type": "dynamic", "factor": 2.0 });
        config["max_position_embeddings"] = 127.into();
    });
    insta::assert_snapshot!(project.train_failure(str::to_owned));
}

#[test]
fn a_head_that_is_not_the_embedding_is_used_and_said() {
    let project = Project::new();
    project.own_model();
    let losses = |project: &Project| -> Vec<serde_json::Value> {
        let lines = project.read("out/metrics.jsonl");
        let events = lines.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        events.filter(|event| event["event"] == "train").map(|event| event["loss"].clone()).collect()
    };
    let run = || {
        let outcome = project.success(&["train", "host.yml", "--overwrite"]);
        (losses(&project), outcome.stderr.contains("`lm_head.weight` of the weights is not the embedding"))
    };
    let (tied, _) = run();
    let bytes = fs::read(project.path("model/model.safetensors")).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: serde_json::Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    let embedding = &header["model.embed_tokens.weight"];
    let place = |index: usize| embedding["data_offsets"][index].as_u64().unwrap() as usize;
    let data = &bytes[8 + length..];
    let with_head = |head: &[u8]| {
        let mut header = header.clone();
        header["lm_head.weight"] = embedding.clone();
        header["lm_head.weight"]["data_offsets"] = serde_json::json!([data.len(), data.len() + head.len()]);
        let mut text = header.to_string().into_bytes();
        text.resize(text.len().next_multiple_of(8), b' ');
        let parts = [&(text.len() as u64).to_le_bytes()[..], &text, data, head];
        project.write("model/model.safetensors", parts.concat());
    };
    let embedding_bytes = data[place(0)..place(1)].to_vec();
    with_head(&embedding_bytes);
    assert_eq!(run(), (tied.clone(), false));
    let mut other = embedding_bytes;
    other.rotate_left(256);
    with_head(&other);
    let (untied, is_said) = run();
    assert!(is_said && untied != tied);
    let exported: serde_json::Value = serde_json::from_str(&project.read("out/config.json")).unwrap();
    assert_eq!(exported["tie_word_embeddings"], false);
    edit_json(&project, "model/config.json", |config| config["tie_word_embeddings"] = false.into());
    assert_eq!(run(), (untied, false));
}

#[test]
fn the_post_processor_writes_around_every_text() {
    let project = Project::new();
    project.own_model();
    let tokens = |prefix: &[&str], suffix: &[&str]| -> u64 {
        edit_json(&project, "model/tokenizer.json", |tokenizer| {
            let ids = [("<pad>", 0), ("<s>", 1), ("</s>", 2)];
            let piece = |token: &&str| serde_json::json!({"SpecialToken": {"id": token, "type_id": 0}});
            let mut single: Vec<_> = prefix.iter().map(piece).collect();
            single.push(serde_json::json!({"Sequence": {"id": "A", "type_id": 0}}));
            single.extend(suffix.iter().map(piece));
            tokenizer["post_processor"]["single"] = single.into();
            tokenizer["post_processor"]["special_tokens"] = ids
                .map(|(token, id)| (token.to_owned(), serde_json::json!({"id": token, "ids": [id], "tokens": [token]})))
                .into_iter()
                .collect::<serde_json::Map<_, _>>()
                .into();
        });
        let lines = project.success(&["train", "host.yml", "--dry-run", "--json"]).stdout;
        let mut events = lines.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        events.find_map(|event| event["tokens"].as_u64()).unwrap()
    };
    let rows = 48;
    let bare = tokens(&[], &[]);
    assert_eq!(tokens(&["<s>"], &[]), bare + rows);
    assert_eq!(tokens(&["<pad>", "<s>"], &[]), bare + 2 * rows);
    // The end is learned either way, and never twice.
    assert_eq!(tokens(&[], &["</s>"]), bare);
    assert_eq!(tokens(&[], &["<pad>"]), bare + rows);
}

#[test]
fn files_that_say_two_things_are_told() {
    let project = Project::new();
    project.own_model();
    project.write("model/special_tokens_map.json", r#"{"eos_token": "<pad>"}"#);
    edit_json(&project, "model/tokenizer_config.json", |config| config["add_bos_token"] = false.into());
    edit_json(&project, "model/config.json", |config| {
        config["rope_scaling"] = serde_json::json!({"rope_type": "linear", "factor": 2.0});
        config["rope_parameters"] = serde_json::json!({"rope_type": "linear", "factor": 4.0});
    });
    insta::assert_snapshot!(project.success(&["check", "host.yml"]).stderr);
}

#[test]
fn templates_by_name_need_one_that_is_the_default() {
    let project = Project::new();
    project.own_model();
    let name = |name: &str| {
        edit_json(&project, "model/tokenizer_config.json", |config| {
            let template = "{% for m in messages %}{{ m.role }}: {{ m.content }}{{ eos_token }}{% endfor %}";
            config["chat_template"] = serde_json::json!({ name: template, "rag": "R" });
        });
    };
    project.write(
        "train.jsonl",
        r#"{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}"#,
    );
    name("tool_use");
    insta::assert_snapshot!(project.train_failure(|config| config.replace("alpaca", "chat_template")));
    name("default");
    project.success(&["train", "host.yml"]);
}

#[test]
fn a_pipe_in_the_place_of_a_file_does_not_hang() {
    for file in ["config.json", "tokenizer_config.json", "generation_config.json", "chat_template.jinja"] {
        let project = Project::new();
        project.own_model();
        let _ = fs::remove_file(project.path("model").join(file));
        let made = std::process::Command::new("mkfifo").arg(project.path("model").join(file)).status().unwrap();
        assert!(made.success());
        let messages = project.failure(&["check", "host.yml"]);
        assert!(messages.contains("it is a pipe, not a regular file"), "{file}: {messages}");
    }
}

#[test]
fn what_no_machine_has_room_for_is_refused_before_it_is_taken() {
    let project = Project::new();
    project.own_model();
    edit_json(&project, "model/config.json", |config| config["max_position_embeddings"] = 0x0fff_ffff.into());
    edit_json(&project, "model/generation_config.json", |config| config["max_new_tokens"] = 1_000_000_000_u64.into());
    let messages = project.failure(&["generate", "--model", "model", "--raw", "--prompt", "The"]);
    assert!(messages.starts_with("error[generate::memory]: 1000000000 new tokens need 5"), "{messages}");
    edit_json(&project, "model/config.json", |config| {
        config["hidden_size"] = 32_768.into();
        config["intermediate_size"] = 32_768.into();
        config["num_hidden_layers"] = 100.into();
    });
    project.write("host.yml", format!("{CONFIG}reinit_weights: true\n"));
    let messages = project.failure(&["train", "host.yml"]);
    assert!(messages.contains("error[plan::memory]: the run needs about "), "{messages}");
}

#[test]
fn another_architecture() {
    let messages = train(|project| {
        edit_json(project, "model/config.json", |config| {
            config["architectures"] = serde_json::json!(["GPT2LMHeadModel"]);
        });
    });
    insta::assert_snapshot!(messages);
}

#[test]
fn a_bias_that_the_files_lack() {
    let messages = train(|project| {
        edit_json(project, "model/config.json", |config| config["attention_bias"] = true.into());
    });
    insta::assert_snapshot!(messages);
}

#[test]
fn a_model_of_another_family_from_fresh_weights_to_its_words() {
    let project = Project::new();
    project.own_model();
    edit_json(&project, "model/config.json", |config| {
        config["model_type"] = "qwen2".into();
        config["architectures"] = serde_json::json!(["Qwen2ForCausalLM"]);
    });
    project.write("host.yml", format!("{CONFIG}reinit_weights: true\n"));
    project.success(&["train", "host.yml"]);
    let bytes = fs::read(project.path("out/model.safetensors")).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: serde_json::Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    let name = |bias: &str| format!("model.layers.0.{bias}.bias");
    assert!(header.get(name("self_attn.k_proj")).is_some() && header.get(name("self_attn.o_proj")).is_none());
    project.success(&["generate", "--model", "out", "--raw", "--prompt", "The", "--max-new-tokens", "4"]);
}

#[test]
fn a_pattern_that_matches_nothing() {
    let project = Project::new();
    insta::assert_snapshot!(
        project.train_failure(|config| format!("{config}unfrozen_parameters: ['model.layer.1']\n"))
    );
}

#[test]
fn other_values_for_keys_of_the_model() {
    let project = Project::new();
    project.own_model();
    let stretched = "model_config: {rope_scaling: {rope_type: linear, factor: 2.0}, output_router_logits: true}\n";
    project.write("host.yml", format!("{CONFIG}{stretched}"));
    insta::assert_snapshot!(project.success(&["check", "host.yml"]).stderr);
    project.success(&["train", "host.yml"]);
    let config: Value = serde_json::from_str(&project.read("out/config.json")).unwrap();
    assert_eq!(config["rope_scaling"]["factor"], 2.0);
    let loss = |file: &str| {
        let lines = project.read(file);
        lines.lines().find_map(|line| serde_json::from_str::<Value>(line).unwrap()["loss"].as_f64()).unwrap()
    };
    let own = loss("out/metrics.jsonl");
    project.write("host.yml", CONFIG);
    project.success(&["train", "host.yml", "--overwrite"]);
    assert!((own - loss("out/metrics.jsonl")).abs() > 1e-6);
    let lora = "adapter: lora\nlora_r: 4\nlora_alpha: 8\nlora_target_linear: true\n";
    project.write("host.yml", format!("{CONFIG}{lora}model_config: {{rope_theta: 5000}}\n"));
    insta::assert_snapshot!(project.success(&["check", "host.yml"]).stderr);
    for lines in [
        "model_config: 3\n",
        "model_config: {hidden_size: 100}\n",
        "model_config: {rope_scaling: {rope_type: mrope}}\n",
    ] {
        project.write("host.yml", format!("{CONFIG}{lines}"));
        insta::assert_snapshot!(project.failure(&["check", "host.yml"]));
    }
}
