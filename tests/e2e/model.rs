//! Bad models: named before anything is trained.

use std::fs;

use crate::support::Project;

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

#[test]
fn a_vocabulary_larger_than_the_embedding() {
    let messages = train(|project| {
        edit_json(project, "model/tokenizer.json", |tokenizer| {
            let added = tokenizer["added_tokens"].as_array_mut().unwrap();
            let mut token = added[0].clone();
            token["id"] = 100_000.into();
            token["content"] = "<|new|>".into();
            added.push(token);
        });
    });
    let messages = regex::Regex::new(r"\d+ tokens").unwrap().replace(&messages, "N tokens").into_owned();
    insta::assert_snapshot!(messages);
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
fn a_pattern_that_matches_nothing() {
    let project = Project::new();
    insta::assert_snapshot!(
        project.train_failure(|config| format!("{config}unfrozen_parameters: ['model.layer.1']\n"))
    );
}
