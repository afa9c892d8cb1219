//! Axolotl's prompt strategies for supervised fine-tuning, as a plugin here with a config. What each is stands beside the
//! plugin that does it (`plugins/alpaca/axolotl.json`).

use std::sync::LazyLock;

use serde::Deserialize;
use serde_json::{Map, Value, json};

/// The strategy of rows that are tokens, which is no plugin.
pub(super) const TOKENIZED: &str = "tokenized";
/// The plugin of instructions.
const INSTRUCTIONS: &str = "alpaca";
/// The plugin of conversations.
const CONVERSATIONS: &str = "chat_template";

#[derive(Deserialize)]
struct Entry {
    r#type: String,
    /// Words that may stand behind the name and a colon.
    #[serde(default)]
    styles: Vec<String>,
    config: Map<String, Value>,
}

static TABLE: LazyLock<Vec<Entry>> = LazyLock::new(|| {
    serde_json::from_str(include_str!("../../../plugins/alpaca/axolotl.json")).expect("a test reads the table")
});

/// A name of Axolotl's that is a plugin with a config here.
pub struct Named {
    /// The plugin.
    pub plugin: &'static str,
    /// Its config. The keys of the dataset that Axolotl has beside `type` go over it.
    pub config: Map<String, Value>,
    /// What differs from what the name was.
    pub note: Option<&'static str>,
}

/// What a name (`datasets[].type`) is: `alpaca:chat`, `alpaca_w_system.load_open_orca`.
pub fn supervised_strategy(name: &str) -> Option<Named> {
    let instructions = |config: Map<String, Value>| Named { plugin: INSTRUCTIONS, config, note: None };
    if let Some(entry) = TABLE.iter().find(|entry| entry.r#type == name) {
        return Some(instructions(entry.config.clone()));
    }
    if let Some((name, style)) = name.split_once(':') {
        let styled = |entry: &&Entry| entry.r#type == name && entry.styles.iter().any(|own| own == style);
        let mut config = TABLE.iter().find(styled)?.config.clone();
        config.insert("style".to_owned(), style.into());
        return Some(instructions(config));
    }
    let named = |plugin, config: Value| {
        let Value::Object(config) = config else { return None };
        Some(Named { plugin, config, note: None })
    };
    match name {
        "llama2_chat" | "pygmalion" => named("dialogue", json!({"format": name})),
        "pretrain" => Some(Named {
            note: Some(
                "a text that is longer than a sequence is cut in pieces that do not overlap, and only its end has the end-of-text token; Axolotl learns up to 256 tokens of each piece twice, and an end behind each",
            ),
            ..named("completion", json!({}))?
        }),
        "chat_template.load" => Some(Named { plugin: CONVERSATIONS, config: Map::new(), note: None }),
        "sharegpt" => {
            let mappings = json!({"role": "from", "content": "value"});
            let config = Map::from_iter([
                ("field_messages".to_owned(), "conversations".into()),
                ("message_property_mappings".to_owned(), mappings),
            ]);
            let note = "Axolotl has no `sharegpt` any more; the rows are read as conversations for the chat template: `type: chat_template` with `field_messages: conversations` and `message_property_mappings: {role: from, content: value}`";
            Some(Named { plugin: CONVERSATIONS, config, note: Some(note) })
        }
        _ => None,
    }
}

/// The names of a family (`alpaca_chat`, `alpaca_chat.load_qa` …), for advice.
pub(super) fn supervised_names(family: &str) -> impl Iterator<Item = &'static str> {
    TABLE.iter().map(|entry| entry.r#type.as_str()).filter(move |name| name.split('.').next() == Some(family))
}

/// Styles that a name may have, for advice.
pub(super) fn styles(name: &str) -> &'static [String] {
    TABLE.iter().find(|entry| entry.r#type == name).map_or(&[], |entry| &entry.styles)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(name: &str) -> Option<Value> {
        supervised_strategy(name).map(|named| Value::Object(named.config))
    }

    #[test]
    fn names_and_styles_are_configs() {
        assert_eq!(config("alpaca"), Some(json!({})));
        assert_eq!(config("alpaca:chatml"), Some(json!({"style": "chatml"})));
        assert_eq!(config("gpteacher:phi"), Some(json!({"field_output": "response", "style": "phi"})));
        assert_eq!(config("reflection:chat").unwrap().get("style"), None);
        assert_eq!((config("alpaca:acme"), config("acme:chat"), config("alpaca_chat:phi")), (None, None, None));
        assert_eq!(supervised_strategy("sharegpt").unwrap().plugin, CONVERSATIONS);
        assert!(styles("jeopardy").contains(&"phi".to_owned()) && styles("metharme").is_empty());
    }

    #[test]
    fn every_name_is_there_once() {
        let mut names: Vec<&str> = TABLE.iter().map(|entry| entry.r#type.as_str()).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
