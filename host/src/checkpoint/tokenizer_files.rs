//! The tokenizer's files as a run leaves them: those of the base model, with the special tokens that the config set and
//! the chat template that was trained with. What the run does not change is copied byte for byte.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use intake::JSON_BYTES;
use serde_json::{Map, Value, json};

use super::CheckpointError;
use crate::data::tokenizer::Tokenizer;

const CONFIG: &str = "tokenizer_config.json";
const MAP: &str = "special_tokens_map.json";
const TEMPLATE: &str = "chat_template.jinja";
const TOKENIZER: &str = "tokenizer.json";
/// All that may be written.
pub(super) const NAMES: [&str; 9] =
    [TOKENIZER, CONFIG, TEMPLATE, MAP, OTHERS[0], OTHERS[1], OTHERS[2], OTHERS[3], OTHERS[4]];
/// Files that go along unchanged where the base model has them.
const OTHERS: [&str; 5] =
    ["added_tokens.json", "vocab.json", "merges.txt", "preprocessor_config.json", "processor_config.json"];

/// Writes the files into a directory.
pub(super) fn write(tokenizer: &Tokenizer, template: Option<&str>, directory: &Path) -> Result<(), CheckpointError> {
    match tokenizer.rewritten() {
        Some(text) => put(&directory.join(TOKENIZER), text.as_bytes())?,
        None => copy(tokenizer.directory(), directory, TOKENIZER)?,
    }
    for name in OTHERS {
        copy(tokenizer.directory(), directory, name)?;
    }
    let trained = template.map(|template| Trained::of(tokenizer, template));
    let config = edited(tokenizer, CONFIG, |config| {
        let changed = rename(config, tokenizer) | replace(config, tokenizer);
        changed | trained.as_ref().is_some_and(|trained| trained.settle(config))
    })?;
    let has_config = config.is_some() || tokenizer.directory().join(CONFIG).is_file();
    match config {
        Some(config) => put(&directory.join(CONFIG), config.as_bytes())?,
        None if has_config => copy(tokenizer.directory(), directory, CONFIG)?,
        None => {}
    }
    if tokenizer.directory().join(MAP).is_file() {
        match edited(tokenizer, MAP, |map| rename(map, tokenizer))? {
            Some(map) => put(&directory.join(MAP), map.as_bytes())?,
            None => copy(tokenizer.directory(), directory, MAP)?,
        }
    }
    if let Some(Trained::One(template)) = trained {
        put(&directory.join(TEMPLATE), template.as_bytes())?;
    }
    Ok(())
}

/// Bytes of what [`write()`] writes, about.
pub(super) fn bytes(tokenizer: &Tokenizer, template: Option<&str>) -> u64 {
    let size = |name: &&str| Some(tokenizer.directory().join(name).metadata().ok()?.len());
    let files = [TOKENIZER, CONFIG, MAP].iter().chain(&OTHERS);
    files.filter_map(size).sum::<u64>() + template.map_or(0, |template| template.len() as u64)
}

/// What was trained with: one template, which gets a file of its own, or the model's own several.
enum Trained<'a> {
    One(&'a str),
    Several(&'a BTreeMap<String, String>),
}

impl<'a> Trained<'a> {
    fn of(tokenizer: &'a Tokenizer, template: &'a str) -> Self {
        let own = tokenizer.chat_templates();
        let is_own = tokenizer.chat_template() == Some(template);
        if is_own && own.len() > 1 { Self::Several(own) } else { Self::One(template) }
    }

    /// Makes `chat_template` of the config what was trained with; true where it was something else. Readers of today prefer
    /// the file, older ones know this key alone: it must not keep another template.
    fn settle(&self, config: &mut Map<String, Value>) -> bool {
        match self {
            Self::One(template) => match config.get("chat_template") {
                None => false,
                Some(Value::String(text)) if text == template => false,
                Some(_) => config.remove("chat_template").is_some(),
            },
            Self::Several(templates) => {
                let named = |(name, template): (&String, &String)| json!({ "name": name, "template": template });
                let list: Value = templates.iter().map(named).collect();
                let is_object = config.get("chat_template").and_then(Value::as_object).is_some_and(|object| {
                    object.len() == templates.len()
                        && templates.iter().all(|(name, text)| object.get(name) == Some(&text.as_str().into()))
                });
                let sorted = |value: &Value| {
                    let mut list = value.as_array().cloned().unwrap_or_default();
                    list.sort_by_key(|entry| entry["name"].to_string());
                    list
                };
                let is_list = config.get("chat_template").is_some_and(|value| sorted(value) == sorted(&list));
                if is_object || is_list {
                    return false;
                }
                config.insert("chat_template".to_owned(), list);
                true
            }
        }
    }
}

/// Writes the special tokens that the config set; true where one was another.
fn rename(object: &mut Map<String, Value>, tokenizer: &Tokenizer) -> bool {
    let mut changed = false;
    for (name, token) in tokenizer.changed() {
        let is = object.get(*name).map(|value| value.get("content").unwrap_or(value).clone());
        if is != Some(token.as_str().into()) {
            object.insert((*name).to_owned(), token.as_str().into());
            changed = true;
        }
    }
    changed
}

/// Writes the texts that the config gave added tokens; true where one was another.
fn replace(config: &mut Map<String, Value>, tokenizer: &Tokenizer) -> bool {
    let Some(decoder) = config.get_mut("added_tokens_decoder") else { return false };
    let mut changed = false;
    for (id, text) in tokenizer.overrides() {
        if let Some(token) = decoder.get_mut(id.to_string()).filter(|token| token["content"] != text.as_str()) {
            token["content"] = text.as_str().into();
            changed = true;
        }
    }
    changed
}

/// The text of a JSON file after `edit`, where that changed anything. A file that is not there is empty.
fn edited(
    tokenizer: &Tokenizer,
    name: &str,
    edit: impl FnOnce(&mut Map<String, Value>) -> bool,
) -> Result<Option<String>, CheckpointError> {
    let path = tokenizer.directory().join(name);
    let failed = |source: std::io::Error| CheckpointError::Read { path: path.clone(), source };
    let bytes = intake::read_inside_if_there(&path, JSON_BYTES).map_err(failed)?;
    let bytes = bytes.unwrap_or_else(|| b"{}".to_vec());
    let mut object: Map<String, Value> = serde_json::from_slice(&bytes).map_err(|error| failed(error.into()))?;
    if !edit(&mut object) {
        return Ok(None);
    }
    let mut text = serde_json::to_string_pretty(&object).expect("JSON values can be written");
    text.push('\n');
    Ok(Some(text))
}

fn copy(from: &Path, to: &Path, name: &str) -> Result<(), CheckpointError> {
    let (from, to) = (from.join(name), to.join(name));
    let mut source = match intake::open_inside(&from) {
        Ok(source) => source,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(CheckpointError::Read { path: from, source }),
    };
    let copied = fs::File::create(&to).and_then(|mut file| std::io::copy(&mut source, &mut file));
    copied.map(|_| ()).map_err(|source| CheckpointError::Write { path: to, source })
}

fn put(path: &Path, bytes: &[u8]) -> Result<(), CheckpointError> {
    let path: PathBuf = path.to_owned();
    fs::write(&path, bytes).map_err(|source| CheckpointError::Write { path, source })
}
