//! The two configs that are written: the user's, with the rows that are kept, and with the control.

use std::path::Path;

use serde_json::{Map, Value, json};

use crate::config::LoadedConfig;

/// Keys of a dataset that say which rows of which files are read: in the files that are written they are done with.
const READING: [&str; 9] =
    ["path", "name", "revision", "ds_type", "data_files", "split", "shards", "shards_idx", "row_filters"];
/// Keys at the top that name files.
const PATHS: [&str; 5] =
    ["base_model", "base_model_config", "tokenizer_config", "lora_model_dir", "chat_template_jinja"];

/// Datasets whose rows are made into samples in the same way, and so go into one file.
#[derive(Debug)]
pub(super) struct Groups {
    /// The group of each dataset.
    pub(super) of: Vec<usize>,
    /// What the config says of each group, without the file.
    entries: Vec<Map<String, Value>>,
}

impl Groups {
    /// Names of the files of all groups.
    pub(super) fn files(&self, rows: &str) -> Vec<String> {
        match self.entries.len() {
            0 | 1 => vec![format!("{rows}.jsonl")],
            several => (0..several).map(|group| format!("{rows}-{group}.jsonl")).collect(),
        }
    }
}

/// Which datasets belong together.
pub(super) fn groups(loaded: &LoadedConfig) -> Groups {
    let given = loaded.to_given_json();
    let mut groups = Groups { of: Vec::new(), entries: Vec::new() };
    for entry in given.get("datasets").and_then(Value::as_array).into_iter().flatten() {
        let mut entry = entry.as_object().cloned().unwrap_or_default();
        entry.retain(|key, _| !READING.contains(&key.as_str()));
        let group = groups.entries.iter().position(|known| *known == entry).unwrap_or_else(|| {
            groups.entries.push(entry);
            groups.entries.len() - 1
        });
        groups.of.push(group);
    }
    groups
}

/// The text of the config that trains on `rows` (`kept` or `control`) in `directory`.
pub(super) fn config(loaded: &LoadedConfig, groups: &Groups, directory: &Path, rows: &str) -> String {
    let mut config = loaded.to_given_json();
    // A checkpoint of other data is no place to go on from.
    for key in ["curation", "row_filters", "pretraining_dataset", "resume_from_checkpoint"] {
        config.shift_remove(key);
    }
    let datasets = groups.entries.iter().zip(groups.files(rows)).map(|(entry, file)| {
        let mut whole = Map::from_iter([("path".to_owned(), json!(directory.join(file).display().to_string()))]);
        whole.extend(entry.clone());
        Value::Object(whole)
    });
    let datasets: Vec<Value> = datasets.collect();
    config.insert("datasets".to_owned(), datasets.into());
    let found = |value: &mut Value| {
        let Some(path) = value.as_str().map(|path| loaded.source.resolve(path)).filter(|path| path.exists()) else {
            return;
        };
        if let Ok(whole) = std::path::absolute(path) {
            *value = whole.display().to_string().into();
        }
    };
    PATHS.iter().filter_map(|key| config.get_mut(*key).map(found)).for_each(drop);
    let lists = config.get_mut("test_datasets").and_then(Value::as_array_mut).into_iter().flatten();
    lists.filter_map(|entry| entry.get_mut("path").map(found)).for_each(drop);
    let pins = config.get_mut("plugins").and_then(Value::as_array_mut).into_iter().flatten();
    pins.filter_map(|pin| pin.pointer_mut("/grants/read").and_then(Value::as_array_mut)).flatten().for_each(found);
    if let Some(teacher) = config.get_mut("trl").and_then(|trl| trl.get_mut("teacher_model_name_or_path")) {
        found(teacher);
    }
    let mut about = format!("# Written by `host curate` from {}", one_line(&loaded.source.path.display().to_string()));
    if rows == "control" {
        let own = format!("{}-control", loaded.config.output_dir.trim_end_matches('/'));
        config.insert("output_dir".to_owned(), own.into());
        about += ": as many rows as are kept, drawn at random from all.\n";
    } else {
        config.insert("output_dir".to_owned(), loaded.config.output_dir.clone().into());
        about += ": the rows that are kept.\n";
    }
    about + &serde_yaml::to_string(&Value::Object(config)).unwrap_or_default()
}

/// A path in a comment.
fn one_line(text: &str) -> String {
    crate::diagnostic::escape_line(text)
}
