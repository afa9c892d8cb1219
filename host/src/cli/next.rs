//! What a user is likely to want after a run, as commands that can be pasted.

use std::path::PathBuf;
use std::sync::Arc;

use plugin_runtime::PluginHost;
use plugin_runtime::types::{Conversation, Message, Sample, Text};
use serde_json::{Value, json};

use crate::check::plugins::strategy_config;
use crate::commands::{generate, is_visible, json_into, path, word};
use crate::config::{DatasetConfig, LoadedConfig};
use crate::train::plan::Plan;

/// Rows that are looked at for a short prompt.
const ROWS: usize = 64;
/// Bytes of a prompt that is short.
const SHORT: usize = 400;
/// Characters that a text without a prompt is begun with.
const BEGINNING: usize = 40;

/// The commands after a run has finished.
pub(super) fn commands(loaded: &LoadedConfig, plugins: &PluginHost, plan: &Plan) -> Vec<String> {
    let config = &loaded.config;
    let output_dir = PathBuf::from(&config.output_dir);
    let metrics = format!("cat {}", path(&output_dir.join("metrics.jsonl")));
    if config.scores().is_some() {
        // It does not write.
        return vec![metrics];
    }
    let base = loaded.resolve(&config.base_model);
    let talk = match config.adapter {
        Some(_) => generate(&base, Some(&output_dir)),
        None => generate(&output_dir, None),
    };
    let talk = example(loaded, plugins, plan).map_or_else(|| format!("{talk} --prompt Hello"), |asked| asked.of(&talk));
    vec![talk, metrics]
}

/// What a model that has been trained is asked.
enum Asked {
    /// A text as it is.
    Raw(String),
    /// The only turn of a conversation.
    User(String),
    /// A conversation up to the turn that is learned.
    Messages(Value),
}

impl Asked {
    fn of(self, command: &str) -> String {
        let in_words = |text: &String| is_visible(text) && !text.starts_with('-');
        match self {
            Self::Raw(text) if in_words(&text) => format!("{command} --raw --prompt {}", word(&text)),
            Self::Raw(text) => json_into(&json!({ "prompt": text }), &format!("{command} --raw")),
            Self::User(text) if in_words(&text) => format!("{command} --prompt {}", word(&text)),
            Self::User(text) => json_into(&json!({ "prompt": text }), command),
            Self::Messages(messages) => json_into(&json!({ "messages": messages }), command),
        }
    }
}

/// The prompt of a row of the evaluation set, or else of the training set: the first that is short.
fn example(loaded: &LoadedConfig, plugins: &PluginHost, plan: &Plan) -> Option<Asked> {
    let config = &loaded.config;
    let tested: &[DatasetConfig] = if plan.data.eval.is_empty() { &[] } else { &config.test_datasets };
    let examples = if plan.data.eval.is_empty() { &plan.data.train } else { &plan.data.eval };
    // The row of a piece of a longer text is not known.
    let rows = examples.iter().take(ROWS).filter_map(|example| Some(example.ok()?.row_json));
    let rows: Vec<Arc<str>> = rows.filter(|row| &**row != "{}").collect();
    let row = rows.iter().find(|row| row.len() <= SHORT).or_else(|| rows.iter().min_by_key(|row| row.len()))?;
    let datasets = [("test_datasets", tested), ("datasets", &config.datasets[..])];
    // Which of the datasets the row is of is not known: the first strategy that makes a text of it.
    datasets.into_iter().flat_map(|(key, datasets)| datasets.iter().enumerate().map(move |at| (key, at))).find_map(
        |(key, (index, dataset))| {
            let own = strategy_config(loaded, dataset, &format!("{key}[{index}]"));
            let mut strategy = plugins.strategy(&dataset.strategy.name, &own).ok()?;
            match strategy.render(&[row.to_string()]).ok()?.pop()?.ok()?? {
                Sample::Supervised(text) => asked(text),
                _ => None,
            }
        },
    )
}

fn asked(text: Text) -> Option<Asked> {
    match text {
        Text::Segments(segments) => {
            let read: String = segments.iter().take_while(|part| !part.train).map(|part| part.text.as_str()).collect();
            if !read.is_empty() {
                return Some(Asked::Raw(read));
            }
            // A text that is learned as a whole is begun.
            let text: String = segments.into_iter().map(|part| part.text).collect();
            let start: String = text.chars().take(BEGINNING).collect();
            let words = start.rsplit_once(' ').map_or(start.as_str(), |(words, _)| words);
            (!words.is_empty()).then(|| Asked::Raw(words.to_owned()))
        }
        Text::Conversation(conversation) => turns(&conversation),
    }
}

/// The turns before the first that is learned, where they are plain texts.
fn turns(conversation: &Conversation) -> Option<Asked> {
    let is_learned = |message: &Message| message.train.unwrap_or(message.role == "assistant");
    let before: Vec<&Message> = conversation.messages.iter().take_while(|message| !is_learned(message)).collect();
    let is_plain = conversation.tools_json.is_none() && before.iter().all(|message| message.extra_json.is_none());
    match before.as_slice() {
        [only] if is_plain && only.role == "user" => Some(Asked::User(only.content.clone())),
        [_, ..] if is_plain => {
            let messages =
                before.iter().map(|message| json!({ "role": message.role, "content": message.content })).collect();
            Some(Asked::Messages(messages))
        }
        _ => before.iter().rev().find(|message| message.role == "user").map(|user| Asked::User(user.content.clone())),
    }
}

#[cfg(test)]
mod tests {
    use plugin_runtime::types::Segment;

    use super::*;

    fn message(role: &str, content: &str) -> Message {
        Message { role: role.into(), content: content.into(), train: None, spans: Vec::new(), extra_json: None }
    }

    fn told(text: Text) -> String {
        asked(text).unwrap().of("host generate --model 'my out'")
    }

    fn conversation(messages: Vec<Message>) -> Text {
        Text::Conversation(Conversation { messages, tools_json: None, train_on_eos: None })
    }

    #[test]
    fn a_conversation_is_asked_through_its_template() {
        assert_eq!(
            told(conversation(vec![message("user", "what's up?"), message("assistant", "x")])),
            r"host generate --model 'my out' --prompt 'what'\''s up?'"
        );
        assert_eq!(
            told(conversation(vec![message("system", "s"), message("user", "a\nb"), message("assistant", "x")])),
            r#"printf '%s\n' '{"messages":[{"role":"system","content":"s"},{"role":"user","content":"a\nb"}]}' | host generate --model 'my out'"#
        );
        let with_tools =
            Conversation { messages: vec![message("user", "u")], tools_json: Some("[]".into()), train_on_eos: None };
        assert_eq!(told(Text::Conversation(with_tools)), "host generate --model 'my out' --prompt u");
    }

    #[test]
    fn a_plain_text_is_given_as_it_is() {
        let segment = |text: &str, train| Segment { text: text.into(), train, weight: None };
        assert_eq!(
            told(Text::Segments(vec![segment("<|user|>hi", false), segment("ho", true)])),
            "host generate --model 'my out' --raw --prompt '<|user|>hi'"
        );
        assert_eq!(
            told(Text::Segments(vec![segment("a\n", false), segment("b", true)])),
            r#"printf '%s\n' '{"prompt":"a\n"}' | host generate --model 'my out' --raw"#
        );
        assert_eq!(
            told(Text::Segments(vec![segment("-x", false)])),
            r#"printf '%s\n' '{"prompt":"-x"}' | host generate --model 'my out' --raw"#
        );
        assert_eq!(
            told(Text::Segments(vec![segment("Once upon a time there was a long story of it", true)])),
            "host generate --model 'my out' --raw --prompt 'Once upon a time there was a long story'"
        );
    }
}
