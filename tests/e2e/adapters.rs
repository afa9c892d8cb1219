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

#[test]
fn some_modules_have_a_rank_and_an_alpha_of_their_own() {
    let project = Project::new();
    let more =
        "lora_target_modules: [q_proj, up_proj, lm_head]\nsave_steps: 2\nlora_dropout: 0.1\nlr_scheduler: constant\n";
    let patterns = "lora_rank_pattern: {'layers\\.0\\..*': 2, '1.self_attn.q_proj': 3, lm_head: 5}\nlora_alpha_pattern: {'.*1\\.mlp.*': 24}\n";
    project.write("host.yml", format!("{CONFIG}{LORA}{more}{patterns}"));
    project.success(&["train", "host.yml", "--set", "output_dir=whole"]);
    project.success(&["train", "host.yml", "--set", "max_steps=2"]);
    project.success(&["train", "host.yml", "--resume", "auto"]);
    let adapter = |directory: &str| std::fs::read(project.path(directory).join("adapter_model.safetensors")).unwrap();
    assert!(adapter("out") == adapter("whole"));
    let written: Value = serde_json::from_str(&project.read("out/adapter_config.json")).unwrap();
    let ranks = json!({
        "model.layers.0.self_attn.q_proj": 2,
        "model.layers.0.mlp.up_proj": 2,
        "model.layers.1.self_attn.q_proj": 3,
        "lm_head": 5,
    });
    assert_eq!((&written["r"], &written["rank_pattern"]), (&json!(4), &ranks));
    assert_eq!(written["alpha_pattern"], json!({ "model.layers.1.mlp.up_proj": 24.0 }));
    let answer =
        ["generate", "--model", "model", "--adapter", "out", "--raw", "--prompt", "The", "--max-new-tokens", "12"];
    let said = project.success(&answer).stdout;
    project.success(&["merge-lora", "host.yml", "--output", "merged"]);
    let merged = ["generate", "--model", "merged", "--raw", "--prompt", "The", "--max-new-tokens", "12"];
    assert_eq!(project.success(&merged).stdout, said);
    // What somebody else has written: names, or what names end in after a dot.
    let text = project.read("out/adapter_config.json");
    let other = |ranks: &Value, alphas: &Value| {
        let mut config: Value = serde_json::from_str(&text).unwrap();
        config["rank_pattern"] = ranks.clone();
        config["alpha_pattern"] = alphas.clone();
        project.write("out/adapter_config.json", config.to_string());
    };
    let ranks =
        json!({ "^model.layers.0.self_attn.q_proj": 2, "0\\.mlp.up_proj$": 2, "1.self_attn.q_proj": 3, "lm_head": 5 });
    other(&ranks, &json!({ "1.mlp.up_proj": 24 }));
    assert_eq!(project.success(&answer).stdout, said);
    other(&json!({ "q_proj": 3, "lm_head": 5 }), &json!({}));
    insta::assert_snapshot!(project.failure(&answer));
    other(&json!({ "layers.*": 2 }), &json!({}));
    insta::assert_snapshot!(project.failure(&answer));
}

#[test]
fn training_starts_from_an_adapter() {
    let project = Project::new();
    let text = |targets: &str| {
        let output = CONFIG.replace("output_dir: out", "output_dir: second");
        format!("{output}{LORA}lora_target_modules: [{targets}]\nlr_scheduler: constant\n")
    };
    project.write("host.yml", text("q_proj, lm_head").replace("output_dir: second", "output_dir: first"));
    project.success(&["train", "host.yml"]);
    let start = "lora_model_dir: first\n";
    let losses = |directory: &str| -> Vec<f64> {
        let lines = project.read(&format!("{directory}/metrics.jsonl"));
        let line = |line: &str| serde_json::from_str::<Value>(line).unwrap()["loss"].as_f64();
        lines.lines().filter_map(line).collect()
    };
    // At a learning rate that changes nothing, what comes out is what went in.
    project.write("host.yml", text("q_proj, lm_head") + start);
    project.success(&["train", "host.yml", "--set", "learning_rate=1e-30"]);
    let adapter = |directory: &str| std::fs::read(project.path(directory).join("adapter_model.safetensors")).unwrap();
    assert!(adapter("first") == adapter("second"));
    assert!(losses("second")[0] < losses("first")[0], "{:?} {:?}", losses("first"), losses("second"));
    // A checkpoint is further than its start.
    project.success(&["train", "host.yml", "--overwrite", "--set", "output_dir=whole"]);
    project.success(&["train", "host.yml", "--overwrite", "--set", "save_steps=2", "--set", "max_steps=2"]);
    project.success(&["train", "host.yml", "--resume", "auto"]);
    assert!(adapter("second") == adapter("whole"));
    for (lines, sets) in [
        (text("q_proj") + start, ""),
        (text("q_proj, lm_head, v_proj") + start, ""),
        (text("q_proj, lm_head") + start, "lora_r=8"),
        (text("q_proj, lm_head") + start, "peft_use_rslora=true"),
        (text("q_proj, lm_head") + start, "output_dir=first"),
        (text("q_proj, lm_head") + start, "lora_model_dir=nowhere"),
        (CONFIG.to_owned() + start, ""),
    ] {
        project.write("host.yml", lines);
        let set = if sets.is_empty() { vec![] } else { vec!["--set", sets] };
        insta::assert_snapshot!(project.failure(&[&["check", "host.yml"][..], &set].concat()));
    }
    // One that says that it is of another model: it may be, where its tensors fit.
    project.write("host.yml", text("q_proj, lm_head") + start);
    let other = |file: &str, change: &dyn Fn(&mut Value)| {
        let mut config: Value = serde_json::from_str(&project.read(file)).unwrap();
        change(&mut config);
        project.write(file, config.to_string());
    };
    other("first/adapter_config.json", &|config| config["base_model_name_or_path"] = json!("acme/Large-2"));
    insta::assert_snapshot!(project.success(&["check", "host.yml"]).stderr);
    other("first/adapter_config.json", &|config| config["use_dora"] = json!(true));
    insta::assert_snapshot!(project.failure(&["check", "host.yml"]));
}

#[test]
fn lengths_of_rows_are_trained_saved_merged_and_gone_on_from() {
    let project = Project::new();
    let lora = "adapter: lora\nlora_r: 4\nlora_alpha: 8\nlogging_steps: 1\npeft_use_dora: true\nlora_dropout: 0.1\n";
    let more = "lora_target_modules: [q_proj, v_proj, down_proj]\nsave_steps: 2\nlr_scheduler: constant\n";
    let base = CONFIG.replace("1e-3", "0.1");
    project.write("host.yml", format!("{base}{lora}{more}"));
    project.success(&["train", "host.yml", "--set", "output_dir=whole"]);
    project.success(&["train", "host.yml", "--set", "max_steps=2"]);
    project.success(&["train", "host.yml", "--resume", "auto"]);
    let adapter = |directory: &str| std::fs::read(project.path(directory).join("adapter_model.safetensors")).unwrap();
    assert!(adapter("out") == adapter("whole"));
    assert!(project.read("out/adapter_config.json").contains("\"use_dora\": true"));
    let answer = |model: &[&str]| {
        let generate = ["generate", "--raw", "--prompt", "The", "--max-new-tokens", "6"];
        project.success(&[&generate[..], model].concat()).stdout
    };
    let beside = answer(&["--model", "model", "--adapter", "out"]);
    assert_ne!(beside, answer(&["--model", "model"]));
    project.success(&["merge-lora", "host.yml", "--output", "merged"]);
    assert_eq!(answer(&["--model", "merged"]), beside);
    // From where it is: what comes out is what went in.
    project.write("host.yml", format!("{base}{lora}{more}lora_model_dir: whole\n"));
    project.success(&["train", "host.yml", "--set", "output_dir=third", "--set", "learning_rate=1e-30"]);
    assert!(adapter("third") == adapter("whole"));
    insta::assert_snapshot!(project.failure(&["check", "host.yml", "--set", "peft_use_dora=false"]));
    project.write("host.yml", format!("{CONFIG}{lora}lora_target_modules: [q_proj, lm_head]\n"));
    insta::assert_snapshot!(project.failure(&["check", "host.yml"]));
}

#[test]
fn patterns_that_cannot_be_matched_with_a_whole_name_are_named() {
    let project = Project::new();
    for lines in [
        "lora_target_modules: '(?x) .*q_proj # queries'",
        "lora_target_modules: [q_proj]\nlora_rank_pattern: {'(?x)q_proj#': 2}",
        "lora_target_modules: [q_proj]\nlora_alpha_pattern: {'(?x)q_proj#': 2}",
    ] {
        project.write("host.yml", format!("{CONFIG}{LORA}{lines}\n"));
        insta::assert_snapshot!(project.failure(&["check", "host.yml"]));
    }
    project.write("host.yml", format!("{CONFIG}unfrozen_parameters: ['(?x) model # all', lm_head]\n"));
    insta::assert_snapshot!(project.failure(&["check", "host.yml"]));
}

#[test]
fn patterns_of_ranks_that_say_nothing() {
    let project = Project::new();
    for lines in [
        "lora_rank_pattern: {k_proj: 2}",
        "lora_rank_pattern: {q_proj: 0, v_proj: -1}",
        "lora_rank_pattern: [q_proj]",
        "lora_alpha_pattern: {'(': 3, q_proj: 0}",
    ] {
        project.write("host.yml", format!("{CONFIG}{LORA}lora_target_modules: [q_proj]\n{lines}\n"));
        insta::assert_snapshot!(project.failure(&["check", "host.yml"]));
    }
    project.write("host.yml", format!("{CONFIG}lora_rank_pattern: {{q_proj: 2}}\n"));
    insta::assert_snapshot!(project.failure(&["check", "host.yml"]));
}

const QLORA: &str =
    "adapter: qlora\nload_in_4bit: true\nlora_r: 4\nlora_alpha: 8\nlora_target_linear: true\nlogging_steps: 1\n";

#[test]
fn an_adapter_on_four_bits_goes_on_as_if_it_had_never_stopped() {
    let project = Project::new();
    let more = "save_steps: 2\nlora_dropout: 0.1\nlr_scheduler: constant\ngradient_checkpointing: true\n";
    project.write("host.yml", format!("{CONFIG}{QLORA}{more}"));
    project.success(&["train", "host.yml", "--set", "output_dir=whole"]);
    project.success(&["train", "host.yml", "--set", "max_steps=2"]);
    project.success(&["train", "host.yml", "--resume", "auto"]);
    let adapter = |directory: &str| std::fs::read(project.path(directory).join("adapter_model.safetensors")).unwrap();
    assert!(adapter("out") == adapter("whole"));
    let answer =
        ["generate", "--model", "model", "--adapter", "out", "--raw", "--prompt", "The", "--max-new-tokens", "3"];
    project.success(&answer);
    // A checkpoint is of the bits that it was made beside.
    let other =
        ["train", "host.yml", "--resume", "out/checkpoint-4", "--set", "bnb_config_kwargs.bnb_4bit_quant_type=fp4"];
    assert!(project.failure(&other).contains("`bnb_config_kwargs`"));
}

#[test]
fn losses_on_few_bits_are_near_those_of_all_bits_and_not_the_same() {
    let project = Project::new();
    let first_loss = |lines: &str| {
        let adapter = "lora_r: 4\nlora_alpha: 8\nlora_target_linear: true\nlogging_steps: 1\nmax_steps: 1\n";
        project.write("host.yml", format!("{}{adapter}{lines}", CONFIG.replace("max_steps: 4\n", "")));
        project.success(&["train", "host.yml", "--overwrite"]);
        let line = project.read("out/metrics.jsonl").lines().next().unwrap().to_owned();
        serde_json::from_str::<Value>(&line).unwrap()["loss"].as_f64().unwrap()
    };
    let four = "adapter: qlora\nload_in_4bit: true\nbnb_config_kwargs: {bnb_4bit_use_double_quant: false}\n";
    let all = first_loss("adapter: lora\n");
    let eight = first_loss("adapter: lora\nload_in_8bit: true\n");
    let four = first_loss(four);
    let nested = first_loss("adapter: qlora\nload_in_4bit: true\n");
    assert!((1e-9..0.02 * all).contains(&(eight - all).abs()), "{eight} {all}");
    assert!((four - all).abs() < 0.1 * all && (four - all).abs() > (eight - all).abs(), "{four} {all}");
    assert!((1e-9..0.02 * all).contains(&(nested - four).abs()), "{nested} {four}");
}

#[test]
fn few_bits_that_do_not_go_together() {
    let project = Project::new();
    for lines in [
        "load_in_4bit: true\n",
        "adapter: qlora\nlora_r: 4\nlora_alpha: 8\nlora_target_linear: true\n",
        "adapter: qlora\nload_in_8bit: true\nlora_r: 4\nlora_alpha: 8\nlora_target_linear: true\n",
        "adapter: lora\nload_in_8bit: true\nload_in_4bit: true\nlora_r: 4\nlora_alpha: 8\nlora_target_linear: true\n",
        "adapter: qlora\nload_in_4bit: true\nbnb_config_kwargs: {bnb_4bit_quant_type: nf8, bnb_4bit_compute_dtype: float16, llm_int8_has_fp16_weight: true, four: 4}\n",
        "adapter: lora\nlora_r: 4\nlora_alpha: 8\nlora_target_linear: true\nbnb_config_kwargs: {bnb_4bit_use_double_quant: false}\ngptq: true\n",
    ] {
        project.write("host.yml", format!("{CONFIG}{lines}"));
        insta::assert_snapshot!(project.failure(&["check", "host.yml"]));
    }
}

#[test]
fn a_merged_model_says_what_base_and_adapter_say() {
    let project = Project::new();
    for (bits, lines) in [("", "adapter: lora\n"), ("4", "adapter: qlora\nload_in_4bit: true\n")] {
        let more = "lora_r: 4\nlora_alpha: 8\nlora_target_modules: [q_proj, down_proj, lm_head]\n";
        let text = CONFIG.replace("output_dir: out", &format!("output_dir: out{bits}"));
        project.write("host.yml", format!("{text}{lines}{more}"));
        project.success(&["train", "host.yml"]);
        let merged = format!("merged{bits}");
        project.success(&["merge-lora", "host.yml", "--output", &merged]);
        // Once more, over what is there.
        project.success(&["merge-lora", "host.yml", "--output", &merged]);
    }
    let answer = |model: &str, adapter: &[&str]| {
        let ask = ["generate", "--model", model, "--raw", "--prompt", "The", "--max-new-tokens", "12"];
        project.success(&[&ask[..], adapter].concat()).stdout
    };
    assert_eq!(answer("merged", &[]), answer("model", &["--adapter", "out"]));
    answer("merged4", &[]);
    let size = |path: &str| std::fs::metadata(project.path(path)).unwrap().len();
    // The head has become a tensor of its own.
    assert!(size("merged/model.safetensors") > size("model/model.safetensors"));
    assert!(project.read("merged/config.json").contains("\"tie_word_embeddings\": false"));
}

#[test]
fn what_cannot_be_merged() {
    let project = Project::new();
    project.write("host.yml", format!("{CONFIG}{LORA}lora_target_linear: true\n"));
    insta::assert_snapshot!(project.failure(&["merge-lora", "host.yml"]));
    project.success(&["train", "host.yml"]);
    std::fs::create_dir(project.path("there")).unwrap();
    project.write("there/notes.txt", "mine");
    insta::assert_snapshot!(project.failure(&["merge-lora", "host.yml", "--output", "there"]));
    // An adapter of a model of other sizes.
    let config = project.read("out/adapter_config.json");
    project.write("out/adapter_config.json", config.replace("\"r\": 4", "\"r\": 5"));
    insta::assert_snapshot!(project.failure(&["merge-lora", "host.yml"]));
    assert!(!project.path("out/merged").exists());
}
