//! Samples that are made while the run learns from them (`streaming`).

use std::fs;

use serde_json::Value;

use crate::support::{CONFIG, Project};

/// A stream of 700 rows, which are three windows of 256, and a run that comes to its second pass.
fn stream(output: &str) -> String {
    CONFIG
        .replace("max_steps: 4", "max_steps: 30\nsave_steps: 5\nsave_total_limit: 10\nlogging_steps: 1")
        .replace("micro_batch_size: 4", "micro_batch_size: 8\ngradient_accumulation_steps: 3")
        .replace(
            "sequence_len: 128",
            "sequence_len: 64\nsample_packing: true\nstreaming: true\nstreaming_multipack_buffer_size: 200",
        )
        .replace("output_dir: out", &format!("output_dir: {output}"))
}

fn rows(project: &Project) -> Vec<String> {
    let all = project.read("train.jsonl");
    let number = |(index, line): (usize, &str)| line.replacen("\": \"", &format!("\": \"{index} "), 1);
    all.lines().cycle().take(700).enumerate().map(number).collect()
}

fn of<'a>(project: &Project, output: &str, keys: impl Fn(&Value) -> Value + 'a) -> Vec<Value> {
    let metrics = project.read(&format!("{output}/metrics.jsonl"));
    metrics.lines().map(|line| keys(&serde_json::from_str(line).unwrap())).collect()
}

#[test]
fn a_stream_that_is_one_window_is_the_run_of_kept_samples() {
    let project = Project::new();
    let more = "logging_steps: 1\nsample_packing: true\ngradient_accumulation_steps: 2\n";
    let kept = CONFIG.replace("output_dir: out", "output_dir: kept");
    project.write("kept.yml", format!("{kept}{more}"));
    project.success(&["train", "kept.yml"]);
    let made = project.success(&["train", "kept.yml", "--set", "output_dir=stream", "--set", "streaming=true"]);
    assert!(made.stderr.contains("; a stream, at first 48 samples, "), "{}", made.stderr);
    let told = |line: &Value| Value::from(vec![line["step"].clone(), line["loss"].clone(), line["grad_norm"].clone()]);
    // What comes then is another epoch, which has an order of its own.
    assert_eq!(of(&project, "stream", told)[..2], of(&project, "kept", told)[..2]);
}

#[test]
fn a_run_goes_on_in_the_middle_of_a_stream() {
    let project = Project::new();
    project.write("train.jsonl", rows(&project).join("\n"));
    project.write("host.yml", stream("whole"));
    project.success(&["train", "host.yml"]);
    let epochs = of(&project, "whole", |line| line["epoch"].clone());
    assert_eq!((epochs.first().unwrap(), epochs.last().unwrap()), (&0.0.into(), &1.0.into()), "{epochs:?}");
    let mut windows = std::collections::BTreeSet::new();
    for step in [5, 10, 15, 20, 25] {
        let state: Value =
            serde_json::from_str(&project.read(&format!("whole/checkpoint-{step}/trainer_state.json"))).unwrap();
        let position = state["position"].clone();
        windows.insert((position["epoch"].as_u64(), position["window"].as_u64()));
        fs::create_dir(project.path(&format!("from-{step}"))).unwrap();
        let (from, output) = (format!("whole/checkpoint-{step}"), format!("output_dir=from-{step}"));
        project.success(&["train", "host.yml", "--resume", &from, "--set", &output]);
        let read = |output: &str| fs::read(project.path(output).join("model.safetensors")).unwrap();
        assert!(read("whole") == read(&format!("from-{step}")), "from step {step}");
    }
    assert!(windows.len() > 2, "{windows:?}");
}

#[test]
fn nothing_of_a_stream_is_kept() {
    let project = Project::new();
    project.write("train.jsonl", rows(&project).join("\n"));
    project.write("host.yml", stream("out") + "dataset_prepared_path: prepared\n");
    let shown = project.success(&["preprocess", "host.yml", "--show", "1"]);
    assert!(shown.stderr.contains("of a stream"), "{}", shown.stderr);
    project.success(&["train", "host.yml", "--set", "max_steps=1"]);
    let found = fs::read_dir(project.path("prepared")).map_or(0, Iterator::count);
    assert_eq!(found, 0);
}

#[test]
fn a_row_that_cannot_be_used_ends_the_run_when_it_is_come_to() {
    let project = Project::new();
    let whole = rows(&project);
    for broken in ["{", "{\"instruction\": 3, \"output\": 4}"] {
        let mut rows = whole.clone();
        rows[600] = broken.to_owned();
        project.write("train.jsonl", rows.join("\n"));
        project.write("host.yml", stream("out"));
        let failure = project.failure(&["train", "host.yml", "--overwrite"]);
        assert!(failure.contains("601"), "{failure}");
        assert!(failure.contains("`out/checkpoint-"), "{failure}");
        rows.swap(600, 3);
        project.write("train.jsonl", rows.join("\n"));
        let failure = project.failure(&["train", "host.yml", "--overwrite"]);
        assert!(
            (failure.contains("line 4") || failure.contains(":4:")) && !failure.contains("checkpoint"),
            "{failure}"
        );
    }
}

#[test]
fn what_a_stream_cannot_be_is_told() {
    let project = Project::new();
    let config = CONFIG
        .replace("max_steps: 4\n", "streaming: true\nval_set_size: 4\nevals_per_epoch: 2\nsave_strategy: epoch\n");
    project.write(
        "host.yml",
        config.replace("    type: alpaca", "    type: alpaca\n    weight: 2\n  - path: eval.jsonl\n    type: alpaca"),
    );
    insta::assert_snapshot!(project.failure(&["check", "host.yml"]));
    // What is switched off is no matter.
    project.write("host.yml", format!("{CONFIG}streaming: true\nreward_model: false\n"));
    project.success(&["check", "host.yml"]);
    project.write("host.yml", format!("{CONFIG}streaming: true\nrl: kto\n"));
    insta::assert_snapshot!(project.failure(&["check", "host.yml"]));
}
