//! Conversations for the model's chat template: a column with messages in, the conversation and who is learned out.
//! The host renders it with the template; this plugin never sees text of the model.
//!
//! What is learned of a conversation is what Axolotl's `chat_template` learns (`prompt_strategies/chat_template.py`):
//! a message's own `message_field_training` decides, else its parts, else its role.

mod config;
mod parts;

use std::collections::{BTreeMap, BTreeSet};

use plugin_sdk::Error;
use plugin_sdk::strategy::{Conversation, Message, PromptStrategy, RowError, Sample, Text, TrainSpan, bad_field};
use serde_json::{Map, Value};

pub use config::Config;
use config::TrainOnEos;
use parts::{Detail, is_true, joined, list, unfold, without_nulls};

/// The strategy.
pub struct ChatTemplate {
    config: Config,
    /// The data's name of a role → the role.
    roles: BTreeMap<String, String>,
    roles_to_train: BTreeSet<String>,
    role_field: String,
    content_field: String,
    /// The template's name → the data's name, of all other fields.
    other_fields: Vec<(String, String)>,
}

impl PromptStrategy for ChatTemplate {
    type Config = Config;
    type Row = Map<String, Value>;

    fn new(config: Config) -> Result<Self, Error> {
        let roles = config.role_names()?;
        Ok(Self {
            // `roles_to_train` may use either name of a role.
            roles_to_train: config.roles_to_train.iter().map(|role| roles.get(role).unwrap_or(role).clone()).collect(),
            role_field: config.mapped("role"),
            content_field: config.mapped("content"),
            other_fields: config.other_fields(),
            roles,
            config,
        })
    }

    fn render(&self, mut row: Map<String, Value>) -> Result<Option<Sample>, RowError> {
        let field = &self.config.field_messages;
        let messages = match row.remove(field) {
            Some(Value::Null) => return Err(bad_field(field, format!("`{field}` is null"))),
            Some(messages) => messages,
            None => {
                let has: Vec<&str> = row.keys().take(8).map(String::as_str).collect();
                return Err(bad_field(field, format!("the row has no `{field}`; it has {}", has.join(", "))));
            }
        };
        let messages = list(messages, field, "messages").map_err(|words| bad_field(field, words))?;
        if messages.is_empty() {
            return Err(bad_field(field, format!("`{field}` is an empty list")));
        }
        let mut turns = Vec::with_capacity(messages.len() + 1);
        for (index, message) in messages.into_iter().enumerate() {
            let turn = self.message(message);
            turns.push(turn.map_err(|words| bad_field(field, format!("message {}: {words}", index + 1)))?);
        }
        self.system_turn(&row, &mut turns)?;
        self.ends(&mut turns);
        let field = &self.config.field_tools;
        let tools = row.remove(field).filter(|tools| !tools.is_null());
        let tools =
            tools.map(|tools| definitions(tools, field)).transpose().map_err(|words| bad_field(field, words))?;
        Ok(Some(Sample::Supervised(Text::Conversation(Conversation {
            messages: turns,
            tools_json: tools.map(|tools| tools.to_string()),
            train_on_eos: Some(self.config.train_on_eos == TrainOnEos::Turn),
        }))))
    }
}

impl ChatTemplate {
    /// Says of the ends of turns what does not follow from the turns.
    fn ends(&self, turns: &mut [Message]) {
        let learned = |turn: &&mut Message| turn.train == Some(true) || turn.spans.iter().any(|span| span.train);
        let learns_end = |turn: &mut Message| {
            let end = turn.content.chars().count() as u32;
            turn.spans.push(TrainSpan { start: end, end, train: true });
        };
        match self.config.train_on_eos {
            TrainOnEos::All => turns.iter_mut().for_each(learns_end),
            TrainOnEos::Last => turns.iter_mut().rfind(learned).into_iter().for_each(learns_end),
            // A turn that is learned in parts alone has an end all the same.
            TrainOnEos::Turn => {
                let in_parts = turns.iter_mut().filter(|turn| turn.train == Some(false) && !turn.spans.is_empty());
                in_parts.for_each(learns_end);
            }
            TrainOnEos::None => {}
        }
    }

    /// The system message: the conversation's own, else the row's, else the config's.
    fn system_turn(&self, row: &Map<String, Value>, turns: &mut Vec<Message>) -> Result<(), RowError> {
        let starts_with_system = |turns: &[Message]| turns.first().is_some_and(|first| first.role == "system");
        let train = self.roles_to_train.contains("system");
        let turn = |content: &str| Message {
            role: "system".to_owned(),
            content: content.to_owned(),
            train: Some(train),
            spans: Vec::new(),
            extra_json: None,
        };
        let field = &self.config.field_system;
        match row.get(field) {
            Some(Value::String(system)) if !starts_with_system(turns) => turns.insert(0, turn(system)),
            Some(other) if !other.is_string() && !other.is_null() && !starts_with_system(turns) => {
                return Err(bad_field(field, format!("`{field}` must be a text")));
            }
            _ => {}
        }
        if self.config.drop_system_message && starts_with_system(turns) {
            turns.remove(0);
        }
        if let Some(system) = self.config.default_system_message.as_ref().filter(|_| !starts_with_system(turns)) {
            turns.insert(0, turn(system));
        }
        Ok(())
    }

    fn message(&self, message: Value) -> Result<Message, String> {
        let is_null = message.get(&self.content_field).is_some_and(Value::is_null);
        let Value::Object(mut message) = without_nulls(message) else { return Err("it is not an object".to_owned()) };
        let role = match message.remove(&self.role_field) {
            Some(Value::String(role)) => self.roles.get(&role).cloned().unwrap_or(role),
            Some(_) => return Err(format!("`{}` must be a text", self.role_field)),
            None => return Err(format!("it has no `{}`", self.role_field)),
        };
        let content = message.remove(&self.content_field);
        let own = take(&mut message, self.config.message_field_training.as_ref());
        let own = own.map(|(value, field)| is_true(&value, field)).transpose()?;
        let details = take(&mut message, self.config.message_field_training_detail.as_ref());
        let (content, parts) = match content {
            Some(Value::String(content)) => (content, None),
            Some(Value::Array(parts)) => joined(&parts, &self.content_field)?,
            Some(_) => return Err(format!("`{}` must be a text", self.content_field)),
            // A turn that only calls tools, or only thinks.
            None if self.says_more(&message) => {
                message.insert("content".to_owned(), Value::Null);
                (String::new(), None)
            }
            None if is_null => return Err(format!("`{}` is null", self.content_field)),
            None => return Err(format!("it has no `{}`", self.content_field)),
        };
        let details = match (parts, details) {
            (Some(parts), _) => Some(parts),
            (None, Some((value, field))) => {
                Some(serde_json::from_value(value).map_err(|error| format!("`{field}`: {error}"))?)
            }
            (None, None) => None,
        };
        let mut content = content;
        if self.config.split_thinking && role == "assistant" {
            if let Some((thoughts, said)) = split(&content) {
                if details.is_some() {
                    return Err("`split_thinking` takes characters away that parts of the content count".to_owned());
                }
                message.insert(self.config.thinking_key().to_owned(), Value::String(thoughts));
                content = said;
            }
        }
        let by_parts = details.as_ref().map(|details: &Vec<Detail>| !details.is_empty());
        let train = own.or(by_parts).unwrap_or_else(|| self.roles_to_train.contains(&role));
        let spans = if train { spans(&details.unwrap_or_default(), &content)? } else { Vec::new() };
        // What a turn in parts says beside its content is no part.
        let train = train && by_parts != Some(true);
        Ok(Message { role, content, train: Some(train), spans, extra_json: self.extra(message)? })
    }

    /// A message without a content says something all the same: it calls a tool, or thinks.
    fn says_more(&self, message: &Map<String, Value>) -> bool {
        let key = self.config.thinking_key();
        let reasoning =
            self.other_fields.iter().find(|(name, _)| name == key).map_or(key, |(_, field)| field).to_owned();
        message.iter().any(|(name, value)| match value {
            Value::Array(list) => !list.is_empty(),
            Value::Object(map) => !map.is_empty(),
            Value::String(text) => {
                let is_reasoning = *name == reasoning || name.contains("reasoning") || name.contains("thinking");
                is_reasoning && !text.is_empty()
            }
            _ => false,
        })
    }

    /// Fields beside role and content that a template may read: tool calls, reasoning, names.
    fn extra(&self, mut message: Map<String, Value>) -> Result<Option<String>, String> {
        for (name, field) in &self.other_fields {
            if let Some(value) = message.remove(field) {
                message.insert(name.clone(), value);
            }
        }
        if let Some(Value::Array(calls)) = message.get_mut("tool_calls") {
            for call in calls {
                if let Some(Value::Object(function)) = call.get_mut("function") {
                    unfold(function, "arguments")?;
                }
            }
        }
        let key = self.config.thinking_key();
        if let Some(Value::Array(parts)) = message.get(key) {
            let (text, details) = joined(parts, key)?;
            if details.is_some() {
                return Err(format!("parts of `{key}` cannot be learned one by one"));
            }
            message.insert(key.to_owned(), Value::String(text));
        }
        Ok((!message.is_empty()).then(|| Value::Object(message).to_string()))
    }
}

/// The thoughts at the start of a content, and what is said then, by the marks that data has for them.
fn split(content: &str) -> Option<(String, String)> {
    const THOUGHTS: [[&str; 2]; 3] =
        [["<think>", "</think>"], ["<reasoning>", "</reasoning>"], ["<|begin_of_thought|>", "<|end_of_thought|>"]];
    const SAID: [&str; 2] = ["<|begin_of_solution|>", "<|end_of_solution|>"];
    let between = |text: &str, [start, end]: [&str; 2]| {
        let from = text.find(start)? + start.len();
        let to = text.find(end).filter(|to| *to >= from)?;
        Some((text[from..to].trim().to_owned(), to + end.len()))
    };
    let (thoughts, behind) = THOUGHTS.iter().find_map(|marks| between(content, *marks))?;
    let rest = content[behind..].trim_start();
    Some((thoughts, between(rest, SAID).map_or_else(|| rest.to_owned(), |(said, _)| said)))
}

/// Takes a field that is named in the config, if it is named and there.
fn take<'a>(message: &mut Map<String, Value>, field: Option<&'a String>) -> Option<(Value, &'a str)> {
    field.and_then(|field| Some((message.remove(field)?, field.as_str())))
}

/// A turn with parts is learned where a part says so, and nowhere else.
fn spans(details: &[Detail], content: &str) -> Result<Vec<TrainSpan>, String> {
    let length = content.chars().count();
    let mut spans = Vec::with_capacity(details.len() + 1);
    if !details.is_empty() && length > 0 {
        spans.push(TrainSpan { start: 0, end: length as u32, train: false });
    }
    for detail in details {
        let (start, end) = (detail.begin_offset, detail.end_offset.saturating_add(1));
        if start >= end || end as usize > length {
            let last = detail.end_offset;
            return Err(format!("characters {start} to {last} do not lie in a text of {length}"));
        }
        spans.push(TrainSpan { start, end, train: detail.train });
    }
    Ok(spans)
}

/// Tool definitions for the template.
fn definitions(tools: Value, field: &str) -> Result<Value, String> {
    let mut tools = list(without_nulls(tools), field, "tool definitions")?;
    for tool in &mut tools {
        if let Some(Value::Object(function)) = tool.get_mut("function") {
            unfold(function, "parameters")?;
        }
    }
    Ok(Value::Array(tools))
}

plugin_sdk::register_prompt_strategy!(
    ChatTemplate,
    name: "chat_template",
    description: "Conversations for the model's chat template",
);

#[cfg(test)]
mod tests;
