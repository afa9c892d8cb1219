//! Samples that are kept: made once, used again where nothing of theirs has changed, gone on with after a kill.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::Project;

/// What `host preprocess` says of its samples, and of the first dataset's store.
fn preprocess(project: &Project) -> (Value, Value) {
    let outcome = project.success(&["preprocess", "host.yml", "--json"]);
    let line = outcome.stdout.lines().next_back().unwrap();
    let mut told: Value = serde_json::from_str(line).unwrap();
    let kept = told.as_object_mut().unwrap().remove("kept").unwrap();
    (told, kept[0].clone())
}

fn edit(project: &Project, from: &str, to: &str) {
    let config = project.read("host.yml");
    assert!(config.contains(from), "{config}");
    project.write("host.yml", config.replace(from, to));
}

fn directory(kept: &Value) -> PathBuf {
    PathBuf::from(kept["path"].as_str().unwrap())
}

#[test]
fn samples_are_made_once_and_a_run_uses_them() {
    let project = Project::new();
    let (told, kept) = preprocess(&project);
    assert_eq!((kept["made"].as_bool(), kept["changed"].as_array().unwrap().len()), (Some(true), 0));
    let (again, found) = preprocess(&project);
    assert_eq!((&again, found["made"].as_bool()), (&told, Some(false)));
    assert_eq!(found["path"], kept["path"]);
    let words = project.success(&["preprocess", "host.yml"]).stderr;
    assert!(words.contains("datasets[0]: made before, in "), "{words}");
    let digest = |output: &str| {
        project.success(&["train", "host.yml", "--set", &format!("output_dir={output}")]);
        let run: Value = serde_json::from_str(&project.read(&format!("{output}/run.json"))).unwrap();
        (run["data_sha256"].clone(), fs::read(project.path(output).join("model.safetensors")).unwrap())
    };
    let with = digest("with");
    edit(&project, "base_model:", "dataset_prepared_path: other/place\nbase_model:");
    assert_eq!(digest("anew"), with);
    assert_eq!(fs::read_dir(project.path("other/place")).unwrap().count(), 2, "a directory and its lock");
}

#[test]
fn what_samples_depend_on_makes_them_anew_and_nothing_else_does() {
    let project = Project::new();
    project.own_model();
    project.write("chat.jinja", "{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}");
    let original = project.read("host.yml");
    let (_, first) = preprocess(&project);
    let changed = |what: &str| {
        let (_, kept) = preprocess(&project);
        assert_eq!(kept["made"], true, "{what}");
        kept["changed"].clone()
    };
    for (from, to, what) in [
        ("sequence_len: 128", "sequence_len: 96", "sequence_len"),
        ("base_model:", "train_on_inputs: true\nbase_model:", "what is learned"),
        ("base_model:", "excess_length_strategy: truncate\nbase_model:", "excess_length_strategy"),
        ("base_model:", "chat_template: chatml\nbase_model:", "chat_template"),
        ("base_model:", "chat_template: jinja\nchat_template_jinja: chat.jinja\nbase_model:", "chat_template"),
        ("base_model:", "special_tokens: {pad_token: <unk>}\nbase_model:", "special_tokens"),
        ("type: alpaca\n", "type: alpaca\n    split: train[:20]\n", "split"),
        ("type: alpaca\n", "type: alpaca\n    shards: 2\n", "shards"),
        ("type: alpaca\n", "type: alpaca\n    row_filters: [curate]\n", "row_filters"),
        ("type: alpaca\n", "type: {name: alpaca, config: {system_prompt: Be kind.}}\n", "type"),
    ] {
        project.write("host.yml", &original);
        edit(&project, from, to);
        let names = changed(what);
        assert_eq!(names, serde_json::json!([what]), "{to}");
        // What was made last is what the next one is held against.
        project.write("host.yml", &original);
        assert_eq!(preprocess(&project).1["path"], first["path"]);
    }
    let others =
        "base_model:\nseed: 7\nlearning_rate: 0.5\nmicro_batch_size: 3\nnum_epochs: 2\noutput_dir: elsewhere\n";
    for line in others.lines().skip(1) {
        let key = line.split(':').next().unwrap();
        let kept: Vec<&str> = original.lines().filter(|own| !own.starts_with(&format!("{key}:"))).collect();
        project.write("host.yml", format!("{}\n{line}\n", kept.join("\n")));
        assert_eq!(preprocess(&project).1["path"], first["path"], "{line}");
    }
    project.write("host.yml", &original);
    let tokenizer = project.read("model/tokenizer_config.json");
    project.write("model/tokenizer_config.json", format!("{tokenizer} "));
    assert_eq!(changed("tokenizer"), serde_json::json!(["tokenizer"]));
    project.write("model/tokenizer_config.json", tokenizer);
    assert_eq!(preprocess(&project).1["made"], false);
    let rows = project.read("train.jsonl");
    project.write("train.jsonl", rows.replacen("instruction", "instruction ", 0) + rows.lines().next().unwrap() + "\n");
    assert_eq!(changed("data"), serde_json::json!(["data"]));
}

#[test]
fn a_kill_loses_nothing_that_was_finished() {
    let project = Project::new();
    let rows: String = project.read("train.jsonl").repeat(600);
    project.write("train.jsonl", rows);
    edit(&project, "base_model:", "dataset_prepared_path: whole\nbase_model:");
    let (told, kept) = preprocess(&project);
    let whole = fs::read(project.path("").join(directory(&kept)).join("samples.bin")).unwrap();
    edit(&project, "dataset_prepared_path: whole", "dataset_prepared_path: killed");
    let mut killed = 0;
    for share in [10, 3, 2] {
        let mut child = project.command(&["preprocess", "host.yml"]).spawn().unwrap();
        let began = Instant::now();
        let written = || {
            let directories = fs::read_dir(project.path("killed")).into_iter().flatten().flatten();
            directories
                .filter_map(|entry| fs::metadata(entry.path().join("samples.bin")).ok())
                .map(|file| file.len())
                .sum()
        };
        while child.try_wait().unwrap().is_none() {
            let written: u64 = written();
            if written >= whole.len() as u64 / share {
                child.kill().unwrap();
                killed += 1;
                break;
            }
            assert!(began.elapsed() < Duration::from_mins(2), "{written} bytes");
            std::thread::sleep(Duration::from_millis(1));
        }
        child.wait().unwrap();
    }
    assert!(killed > 0, "it was finished before it could be killed");
    let (again, kept) = preprocess(&project);
    assert_eq!(again, told);
    assert_eq!(fs::read(project.path("").join(directory(&kept)).join("samples.bin")).unwrap(), whole);
}

#[test]
fn damage_is_told_or_mended_and_never_learned() {
    let project = Project::new();
    edit(&project, "base_model:", "dataset_prepared_path: kept\nbase_model:");
    let (told, kept) = preprocess(&project);
    let file = project.path("").join(directory(&kept)).join("samples.bin");
    let whole = fs::read(&file).unwrap();
    let mut changed = whole.clone();
    let at = changed.len() / 2;
    // The last of all pieces: the samples themselves.
    changed[at..].iter_mut().for_each(|byte| *byte ^= 1);
    fs::write(&file, &changed).unwrap();
    let message = project.failure(&["train", "host.yml"]);
    assert!(message.contains("data::store") && message.contains("delete `kept/"), "{message}");
    // A file that was cut, or a note that says something else, is not finished.
    fs::write(&file, &whole[..at]).unwrap();
    assert_eq!(preprocess(&project).0, told);
    assert_eq!(fs::read(&file).unwrap(), whole);
    fs::write(file.with_file_name("store.json"), "{}").unwrap();
    assert_eq!(preprocess(&project).0, told);
}

#[test]
fn what_fails_leaves_nothing_to_be_used() {
    let project = Project::new();
    edit(&project, "base_model:", "dataset_prepared_path: kept\nbase_model:");
    project.write("train.jsonl", project.read("train.jsonl") + "{\"instruction\": 3}\n");
    let message = project.failure(&["preprocess", "host.yml"]);
    assert!(message.contains("train.jsonl:49"), "{message}");
    let left: Vec<_> =
        fs::read_dir(project.path("kept")).unwrap().flatten().filter(|entry| entry.path().is_dir()).collect();
    assert!(left.is_empty(), "{left:?}");
    // A place that cannot be one.
    project.write("file", "");
    edit(&project, "dataset_prepared_path: kept", "dataset_prepared_path: file/inside");
    let message = project.failure(&["preprocess", "host.yml"]);
    assert!(message.contains("data::store") && message.contains("dataset_prepared_path"), "{message}");
}
