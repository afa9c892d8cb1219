//! The bundled strategy of preference data in the real sandbox, by Axolotl's names.

use std::collections::BTreeMap;
use std::path::Path;

use host::check::plugins;
use host::config::{preference_shape, preference_strategy};
use plugin_runtime::types::{Preference, Sample, Text, Unpaired};
use serde_json::{Map, Value};

use crate::support::{CONFIG, Project, root};

fn segments(text: &Text) -> Option<String> {
    match text {
        Text::Segments(segments) => Some(segments.iter().map(|segment| segment.text.as_str()).collect()),
        Text::Conversation(_) => None,
    }
}

/// The fixture's own crate holds all of it against Axolotl; here is the way from a name to a text.
#[test]
fn axolotls_names_write_axolotls_texts() {
    let text = std::fs::read_to_string(root().join("tests/fixtures/strategies/cases.json")).unwrap();
    let fixture: Value = serde_json::from_str(&text).unwrap();
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache/plugins");
    let plugins = plugins::open_with(&[], None, Some(cache)).unwrap();
    let mut compared = 0;
    for case in fixture["cases"].as_array().unwrap() {
        let method = case["method"].as_str().unwrap();
        let mut over: Map<String, Value> = case["dataset"].as_object().unwrap().clone();
        let (plugin, mut config) = match &case["type"] {
            Value::String(name) => preference_strategy(method, name).unwrap_or_else(|| panic!("{method} {name}")),
            shape => {
                let (plugin, config, keys) = preference_shape(method).unwrap();
                over.extend(shape.as_object().unwrap().clone());
                assert!(shape.as_object().unwrap().keys().all(|key| keys.contains(&key.as_str())), "{case}");
                (plugin, config)
            }
        };
        config.extend(over);
        let mut strategy = plugins.strategy(plugin, &Value::Object(config).to_string()).unwrap();
        let sample = strategy.render(&[case["row"].to_string()]).unwrap().remove(0);
        let expected = |key: &str| case[key].as_str().map(ToOwned::to_owned);
        match sample {
            Ok(Some(Sample::Preference(Preference { prompt, chosen, .. }))) => {
                let (Some(prompt), Some(chosen)) = (segments(&prompt), segments(&chosen)) else { continue };
                assert_eq!((Some(prompt), Some(chosen)), (expected("prompt"), expected("chosen")), "{case}");
                compared += 1;
            }
            Ok(Some(Sample::Unpaired(Unpaired { prompt, completion, .. }))) if case.get("fails").is_none() => {
                let found = (segments(&prompt), segments(&completion));
                assert_eq!(found, (expected("prompt"), expected("completion")), "{case}");
                compared += 1;
            }
            Ok(Some(Sample::Unpaired(_))) => {}
            Err(error) => assert!(error.field.is_some(), "{case}: {}", error.message),
            other => panic!("{case}: {other:?}"),
        }
    }
    assert!(compared > 80, "{compared}");
}

#[test]
fn a_config_that_cannot_work_is_underlined() {
    let project = Project::new();
    let told = |config: &str| {
        let strategy = format!("{{name: preference, config: {config}}}");
        project.train_failure(|lines| lines.replace("alpaca", &strategy))
    };
    insta::assert_snapshot!(told("{prompt_format: 'Q: {question}'}"));
    insta::assert_snapshot!(told("{format: chatml, field_chosen: 'chosen[x]'}"));
    insta::assert_snapshot!(told("{field_choosen: good}"));
}

/// A project whose model has this tokenizer of the fixture.
fn with_tokenizer(name: &str) -> Project {
    let project = Project::new();
    if name != "quickstart" {
        project.own_model();
        for file in ["tokenizer.json", "tokenizer_config.json"] {
            let from = root().join("tests/fixtures/strategies").join(name).join(file);
            std::fs::copy(from, project.path("model").join(file)).unwrap();
        }
    }
    project
}

/// Ids and labels of a sample. Nothing tells the model of the first token, whatever its label is.
type Tokens = (Vec<i64>, Vec<i64>);

fn tokens(ids: Vec<i64>, mut labels: Vec<i64>) -> Tokens {
    labels[0] = -100;
    (ids, labels)
}

/// A sample of the fixture: ids, and ranges of what is learned.
fn unpacked(sample: &Value) -> Tokens {
    let ids: Vec<i64> = serde_json::from_value(sample["ids"].clone()).unwrap();
    let learned: Vec<(usize, usize)> = serde_json::from_value(sample["learned"].clone()).unwrap();
    let mut labels = vec![-100; ids.len()];
    for (start, end) in learned {
        labels[start..end].copy_from_slice(&ids[start..end]);
    }
    tokens(ids, labels)
}

/// The samples, by the line of their row.
fn samples(project: &Project) -> BTreeMap<usize, Vec<Tokens>> {
    let shown = project.success(&["preprocess", "host.yml", "--show", "1000", "--json"]).stdout;
    let events = shown.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let mut samples: BTreeMap<usize, Vec<Tokens>> = BTreeMap::new();
    for event in events.filter(|event| event["event"] == "sample") {
        let position = event["position"].as_str().unwrap();
        let line = position.split("line ").nth(1).unwrap().split(',').next().unwrap().parse().unwrap();
        let list = |key: &str| serde_json::from_value(event[key].clone()).unwrap();
        samples.entry(line).or_default().push(tokens(list("input_ids"), list("labels")));
    }
    samples
}

/// What Axolotl's own code makes of the same rows, token by token.
#[test]
fn tokens_and_labels_are_axolotls() {
    let text = std::fs::read_to_string(root().join("tests/fixtures/strategies/supervised.json")).unwrap();
    let fixture: Value = serde_json::from_str(&text).unwrap();
    let (mut compared, mut failed, mut wrong) = (0, 0, Vec::new());
    for group in fixture["groups"].as_array().unwrap() {
        let project = with_tokenizer(group["tokenizer"].as_str().unwrap());
        let mut config = serde_json::json!({
            "base_model": "model", "datasets": [group["dataset"]], "sequence_len": 4096, "micro_batch_size": 1,
            "learning_rate": 1e-3, "max_steps": 1, "output_dir": "out",
            "rules": [{"name": "practice", "severity": {"H4": "off"}}],
        });
        config["datasets"][0]["path"] = "train.jsonl".into();
        config.as_object_mut().unwrap().extend(group["more"].as_object().unwrap().clone());
        project.write("host.yml", config.to_string());
        let rows = group["rows"].as_array().unwrap();
        let (good, bad): (Vec<&Value>, Vec<&Value>) = rows.iter().partition(|row| row.get("fails").is_none());
        for row in bad {
            project.write("train.jsonl", row["row"].to_string());
            let told = project.failure(&["preprocess", "host.yml"]);
            assert!(told.contains("error["), "{row}: {told}");
            failed += 1;
        }
        if good.is_empty() {
            continue;
        }
        project.write("train.jsonl", good.iter().map(|row| row["row"].to_string() + "\n").collect::<String>());
        let mut found = samples(&project);
        for (index, row) in good.iter().enumerate() {
            let expected = row["samples"].as_array().unwrap().iter().map(unpacked);
            let expected: Vec<_> =
                expected.filter(|(_, labels)| labels[1..].iter().any(|label| *label != -100)).collect();
            let found = found.remove(&(index + 1)).unwrap_or_default();
            if found != expected {
                wrong.push(format!("{config}\n{}\nfound    {found:?}\nexpected {expected:?}", row["row"]));
            }
            compared += expected.len();
        }
    }
    assert!(wrong.is_empty(), "{} of {compared} differ:\n{}", wrong.len(), wrong.join("\n"));
    assert!(compared > 600 && failed > 30, "{compared} {failed}");
}

/// What `check` says of the config with other lines for the dataset's `type`.
fn checked(lines: &str) -> String {
    let project = Project::new();
    project
        .write("train.jsonl", r#"{"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}"#);
    project.write("host.yml", CONFIG.replace("type: alpaca\n", lines));
    project.host(&["check", "host.yml"]).stderr
}

#[test]
fn names_and_keys_that_are_read_as_others_are_told() {
    insta::assert_snapshot!(checked("type: sharegpt\nchat_template: chatml\n"));
    insta::assert_snapshot!(checked("type: pretrain\n"));
    let both = "type: chat_template\n    train_on_eos: turn\n    train_on_eot: all\nchat_template: chatml\n";
    insta::assert_snapshot!(checked(both));
    insta::assert_snapshot!(checked("type: {name: tokenized, config: {field: ids}}\n"));
    insta::assert_snapshot!(checked("type: creative_acr.load_revise\n"));
}

#[test]
fn rows_of_tokens_must_be_tokens_of_this_model() {
    let project = Project::new();
    project.write("host.yml", CONFIG.replace("type: alpaca\n", "type:\n"));
    let told = |row: &str| {
        project.write("train.jsonl", row);
        project.failure(&["preprocess", "host.yml"])
    };
    insta::assert_snapshot!(told(r#"{"input_ids": [1, 40, 1152], "labels": [-100, 40, 1152]}"#));
    insta::assert_snapshot!(told(r#"{"input_ids": [1, 40], "labels": [-100, 41], "attention_mask": [1, 1]}"#));
    insta::assert_snapshot!(told(r#"{"instruction": "a", "output": "b"}"#));
    project.write("train.jsonl", r#"{"input_ids": [1, 40, 50], "labels": [-100, 40, 50]}"#);
    let shown = project.success(&["preprocess", "host.yml", "--show", "1"]).stdout;
    assert!(shown.contains("3 tokens, 2 learned"), "{shown}");
    project.success(&["train", "host.yml"]);
}

#[test]
fn a_long_text_is_learned_in_pieces() {
    let project = Project::new();
    let lines = "pretraining_dataset:\n  - path: train.jsonl\n    text_column: story\n    type: pretrain\n";
    let config = CONFIG.replace("datasets:\n  - path: train.jsonl\n    type: alpaca\n", lines);
    project.write("host.yml", config.replace("sequence_len: 128", "sequence_len: 16"));
    project.write("train.jsonl", format!(r#"{{"story": "{}"}}"#, "word by word ".repeat(20)));
    let outcome = project.success(&["preprocess", "host.yml", "--show", "9", "--json"]);
    let events: Vec<Value> = outcome.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let pieces: Vec<&Value> = events.iter().filter(|event| event["event"] == "sample").collect();
    let text: String = pieces.iter().map(|piece| piece["text"].as_str().unwrap()).collect();
    assert_eq!(text, "word by word ".repeat(20));
    assert_eq!(pieces[1]["position"], format!("train.jsonl, line 1, piece 2 of {}", pieces.len()));
    let ids = |piece: &Value| piece["input_ids"].as_array().unwrap().clone();
    assert!(pieces[..pieces.len() - 1].iter().all(|piece| ids(piece).len() == 16));
    // One beginning and one end, as of the row.
    let all: Vec<Value> = pieces.iter().flat_map(|piece| ids(piece)).collect();
    assert_eq!(all.iter().filter(|id| **id == 1 || **id == 2).count(), 2);
    let notes = project.host(&["check", "host.yml"]).stderr;
    assert!(notes.contains("`pretraining_dataset` is read as `datasets` with `type: completion`"), "{notes}");
    // Its extension says which loader reads it, as in `datasets`.
    project.write("corpus.txt", "word by word\n".repeat(20));
    project.write("host.yml", config.replace(lines, "pretraining_dataset: corpus.txt\n"));
    project.success(&["preprocess", "host.yml"]);
}
