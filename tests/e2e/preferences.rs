//! Learning from pairs of answers: from the rows to the model, stopped and gone on with, and what is said of pairs that are none.

use serde_json::{Value, json};

use crate::support::Project;

/// A config of pairs, with more lines.
fn config(more: &str) -> String {
    format!(
        "base_model: model\nrl: dpo\ndatasets: [{{path: pairs.jsonl, type: passthrough.default}}]\nsequence_len: 64\n\
         micro_batch_size: 4\ngradient_accumulation_steps: 2\nlearning_rate: 1e-3\nmax_steps: 6\noutput_dir: out\n{more}"
    )
}

fn project(more: &str) -> Project {
    let project = Project::new();
    let pair = |n: usize| {
        let (chosen, rejected) = (format!("{}", 2 * n), format!("{} no", n + 1));
        json!({ "prompt": format!("Double {n}: "), "chosen": chosen, "rejected": rejected }).to_string()
    };
    project.write("pairs.jsonl", (0..40).map(pair).collect::<Vec<_>>().join("\n"));
    project.write("host.yml", config(more));
    project
}

fn model(project: &Project, output: &str) -> Vec<u8> {
    std::fs::read(project.path(output).join("model.safetensors")).unwrap()
}

#[test]
fn pairs_are_learned_from_with_trls_metrics() {
    let project = project("val_set_size: 8\nlogging_steps: 1\n");
    project.success(&["train", "host.yml", "--set", "max_steps=12"]);
    let train = project.metrics("out", "train");
    // The model is the reference: nothing tells the answers apart before the first step.
    assert!((train[0]["loss"].as_f64().unwrap() - 2.0_f64.ln()).abs() < 1e-9, "{}", train[0]);
    assert_eq!((&train[0]["rewards/margins"], &train[0]["rewards/accuracies"]), (&json!(0.0), &json!(0.0)));
    let last = train.last().unwrap();
    for name in ["rewards/chosen", "rewards/rejected", "logps/chosen", "logps/rejected"] {
        assert!(last[name].is_number(), "{name}: {last}");
    }
    let eval = project.metrics("out", "eval");
    assert!(eval[0].get("eval_perplexity").is_none());
    let accuracy = |line: &Value| line["eval_rewards/accuracies"].as_f64().unwrap();
    assert!(accuracy(&eval[0]) < 0.1 && accuracy(eval.last().unwrap()) > 0.8, "{eval:?}");
}

#[test]
fn stopped_and_resumed_is_the_same_byte_for_byte() {
    for method in ["dpo", "ipo", "simpo", "cpo"] {
        let project = project("val_set_size: 8\nsave_steps: 2\n");
        let set = format!("rl={method}");
        project.success(&["train", "host.yml", "--set", &set, "--set", "output_dir=whole"]);
        // The length of a run is not what makes it another one: the pairs of later steps have a reference too.
        let halves = ["--set", "output_dir=parts", "--set", "lr_scheduler=constant", "--set", "warmup_steps=0"];
        let run = |more: &[&str]| {
            let all = [&["train", "host.yml", "--set", &set], &halves[..], more].concat();
            project.success(&all);
        };
        run(&["--set", "max_steps=2"]);
        run(&["--resume", "auto"]);
        let parts = model(&project, "parts");
        std::fs::remove_dir_all(project.path("parts")).unwrap();
        run(&[]);
        assert!(parts == model(&project, "parts"), "{method}");
        assert_eq!(project.path("parts/checkpoint-2/reference.safetensors").exists(), matches!(method, "dpo" | "ipo"));
    }
}

#[test]
fn an_adapter_is_measured_from_the_model_below_it() {
    let lora = "adapter: lora\nlora_r: 4\nlora_alpha: 8\nlora_target_linear: true\nlogging_steps: 1\n";
    let project = project(lora);
    project.success(&["train", "host.yml"]);
    let train = project.metrics("out", "train");
    assert!((train[0]["loss"].as_f64().unwrap() - 2.0_f64.ln()).abs() < 1e-9, "{}", train[0]);
    assert!(train.last().unwrap()["loss"].as_f64().unwrap() < 0.6, "{train:?}");
    // One that goes on from an adapter, from that.
    let more = ["--set", "lora_model_dir=out", "--set", "output_dir=more"];
    project.success(&[&["train", "host.yml"], &more[..]].concat());
    let train = project.metrics("more", "train");
    assert!((train[0]["loss"].as_f64().unwrap() - 2.0_f64.ln()).abs() < 1e-9, "{}", train[0]);
}

#[test]
fn a_pair_is_shown_with_both_answers() {
    let project = project("");
    insta::assert_snapshot!(project.success(&["preprocess", "host.yml", "--show", "1"]).stdout);
    let shown = project.success(&["preprocess", "host.yml", "--show", "1", "--json"]).stdout;
    let sample: Value = serde_json::from_str(shown.lines().next().unwrap()).unwrap();
    assert!(sample["chosen"]["trained_tokens"].as_u64() > Some(0) && sample["rejected"]["labels"].is_array());
}

#[test]
fn pairs_that_are_none() {
    let project = project("");
    let told = |rows: &[Value], more: &str| {
        project.write("pairs.jsonl", rows.iter().map(Value::to_string).collect::<Vec<_>>().join("\n"));
        project.write("host.yml", config(more));
        project.failure(&["train", "host.yml"])
    };
    let same = json!({"prompt": "a", "chosen": "b", "rejected": "b"});
    insta::assert_snapshot!(told(&[same], ""));
    insta::assert_snapshot!(told(&[json!({"prompt": "a", "chosen": "b"})], ""));
    insta::assert_snapshot!(told(&[json!({"prompt": "a", "rejected": "b"})], ""));
    let long = json!({"prompt": "a ".repeat(90), "chosen": "b", "rejected": "c"});
    insta::assert_snapshot!(told(&[long], ""));
}

#[test]
fn keys_that_do_not_go_together() {
    let project = project("");
    let told = |more: &str| {
        project.write("host.yml", config(more));
        project.failure(&["check", "host.yml"])
    };
    insta::assert_snapshot!(told("dpo_loss_type: [sigmoid, sft]\ndpo_loss_weights: [1.0]\n"));
    insta::assert_snapshot!(told("dpo_loss_type: sigmoyd\n"));
    insta::assert_snapshot!(told("simpo_gamma: 1.0\ntrain_on_inputs: true\n"));
    insta::assert_snapshot!(told("dpo_label_smoothing: 0.1\n"));
    insta::assert_snapshot!(told("trl: {reward_funcs: [exact-match]}\n"));
    project.write("host.yml", config("").replace("rl: dpo\n", "rl_beta: 0.2\n"));
    insta::assert_snapshot!(project.failure(&["check", "host.yml"]));
    project.write("host.yml", config("").replace("passthrough.default", "alpaca"));
    project.write("pairs.jsonl", json!({"instruction": "a", "output": "b"}).to_string());
    insta::assert_snapshot!(project.failure(&["train", "host.yml"]));
}
