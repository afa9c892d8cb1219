//! Conversations for the model's chat template: a column with messages in, the conversation and who is learned out.
//! The host renders it with the template; this plugin never sees text of the model.

use std::collections::{BTreeMap, BTreeSet};

use plugin_sdk::Error;
use plugin_sdk::strategy::{Conversation, Message, PromptStrategy, RowError, Sample, Text, TrainSpan, bad_field};
use serde::Deserialize;
use serde_json::{Map, Value};

/// Axolotl's names for the roles of common datasets.
const ROLES: [(&str, &[&str]); 4] = [
    ("user", &["user", "human"]),
    ("assistant", &["assistant", "gpt", "model", "bot"]),
    ("system", &["system"]),
    ("tool", &["tool", "function", "ipython", "observation"]),
];

/// Axolotl's keys of a `chat_template` dataset.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Column with the messages.
    field_messages: String,
    /// Column with the tool definitions.
    field_tools: String,
    /// What a template calls a field of a message → what the data calls it.
    message_property_mappings: BTreeMap<String, String>,
    /// Role → the names that the data has for it.
    roles: Option<BTreeMap<String, Vec<String>>>,
    /// Roles whose turns are learned.
    roles_to_train: Vec<String>,
    /// Which end-of-turn tokens are learned.
    train_on_eos: TrainOnEos,
    /// Leave the data's system messages out.
    drop_system_message: bool,
    /// A system message for conversations without one.
    default_system_message: Option<String>,
    /// Field of a message that says whether it is learned.
    message_field_training: Option<String>,
    /// Field of a message with parts that are learned or not.
    message_field_training_detail: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum TrainOnEos {
    All,
    Turn,
    Last,
    None,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            field_messages: "messages".to_owned(),
            field_tools: "tools".to_owned(),
            message_property_mappings: BTreeMap::new(),
            roles: None,
            roles_to_train: vec!["assistant".to_owned()],
            train_on_eos: TrainOnEos::Turn,
            drop_system_message: false,
            default_system_message: None,
            message_field_training: None,
            message_field_training_detail: None,
        }
    }
}

/// A part of a message in `message_field_training_detail`: characters from `begin_offset` to `end_offset`, both included.
#[derive(Debug, Deserialize)]
struct Detail {
    begin_offset: u32,
    end_offset: u32,
    train: bool,
}

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
        if matches!(config.train_on_eos, TrainOnEos::All | TrainOnEos::Last) {
            let message = "`train_on_eos` can be `turn` or `none` here";
            let help = "`turn` learns the end of every learned turn";
            return Err(Error::config_with_help("train_on_eos", message, help));
        }
        let mut roles = BTreeMap::new();
        match &config.roles {
            Some(own) => {
                for (role, names) in own {
                    for name in names {
                        if let Some(other) = roles.insert(name.clone(), role.clone()) {
                            let message = format!("`{name}` is a name of both `{other}` and `{role}`");
                            return Err(Error::config(format!("roles.{role}"), message));
                        }
                    }
                }
            }
            None => roles.extend(
                ROLES
                    .iter()
                    .flat_map(|(role, names)| names.iter().map(|name| ((*name).to_owned(), (*role).to_owned()))),
            ),
        }
        let mapped =
            |name: &str| config.message_property_mappings.get(name).cloned().unwrap_or_else(|| name.to_owned());
        let other_fields = config
            .message_property_mappings
            .iter()
            .filter(|(name, _)| !matches!(name.as_str(), "role" | "content"))
            .map(|(name, field)| (name.clone(), field.clone()))
            .collect();
        // `roles_to_train` may use either name of a role.
        let roles_to_train = config.roles_to_train.iter().map(|role| roles.get(role).unwrap_or(role).clone()).collect();
        Ok(Self {
            roles_to_train,
            role_field: mapped("role"),
            content_field: mapped("content"),
            other_fields,
            roles,
            config,
        })
    }

    fn render(&self, row: Map<String, Value>) -> Result<Option<Sample>, RowError> {
        let field = &self.config.field_messages;
        let messages = match row.get(field) {
            Some(Value::Array(messages)) if !messages.is_empty() => messages,
            Some(Value::Array(_)) => return Err(bad_field(field, format!("`{field}` is an empty list"))),
            Some(_) => return Err(bad_field(field, format!("`{field}` must be a list of messages"))),
            None => {
                let has: Vec<&str> = row.keys().take(8).map(String::as_str).collect();
                return Err(bad_field(field, format!("the row has no `{field}`; it has {}", has.join(", "))));
            }
        };
        let mut turns = Vec::with_capacity(messages.len() + 1);
        for (index, message) in messages.iter().enumerate() {
            let turn =
                self.message(message).map_err(|words| bad_field(field, format!("message {}: {words}", index + 1)))?;
            if !(turn.role == "system" && self.config.drop_system_message) {
                turns.push(turn);
            }
        }
        if let Some(system) = &self.config.default_system_message {
            if turns.first().is_none_or(|first| first.role != "system") {
                let content = system.clone();
                let role = "system".to_owned();
                turns.insert(0, Message { role, content, train: Some(false), spans: Vec::new(), extra_json: None });
            }
        }
        let tools_json = match row.get(&self.config.field_tools) {
            None | Some(Value::Null) => None,
            // Some datasets hold the definitions as text.
            Some(Value::String(text)) => Some(text.clone()),
            Some(tools) => Some(tools.to_string()),
        };
        let train_on_eos = Some(self.config.train_on_eos == TrainOnEos::Turn);
        Ok(Some(Sample::Supervised(Text::Conversation(Conversation { messages: turns, tools_json, train_on_eos }))))
    }
}

impl ChatTemplate {
    fn message(&self, message: &Value) -> Result<Message, String> {
        let Value::Object(message) = message else { return Err("it is not an object".to_owned()) };
        let role = match message.get(&self.role_field) {
            Some(Value::String(role)) => self.roles.get(role).unwrap_or(role).clone(),
            Some(_) => return Err(format!("`{}` must be a text", self.role_field)),
            None => return Err(format!("it has no `{}`", self.role_field)),
        };
        let content = match message.get(&self.content_field) {
            Some(Value::String(content)) => content.clone(),
            // A turn that only calls tools.
            None | Some(Value::Null) if message.len() > 1 => String::new(),
            Some(Value::Array(_)) => {
                return Err(format!("`{}` is a list; only texts are supported", self.content_field));
            }
            Some(_) => return Err(format!("`{}` must be a text", self.content_field)),
            None => return Err(format!("it has no `{}`", self.content_field)),
        };
        let mut train = self.roles_to_train.contains(&role);
        if let Some(field) = &self.config.message_field_training {
            match message.get(field) {
                None | Some(Value::Null) => {}
                Some(Value::Bool(own)) => train = *own,
                Some(_) => return Err(format!("`{field}` must be true or false")),
            }
        }
        let spans = self.spans(message, &content)?;
        Ok(Message { train: Some(train), spans, extra_json: self.extra(message), role, content })
    }

    fn spans(&self, message: &Map<String, Value>, content: &str) -> Result<Vec<TrainSpan>, String> {
        let Some(field) = &self.config.message_field_training_detail else { return Ok(Vec::new()) };
        let Some(value) = message.get(field).filter(|value| !value.is_null()) else { return Ok(Vec::new()) };
        let details: Vec<Detail> =
            serde_json::from_value(value.clone()).map_err(|error| format!("`{field}`: {error}"))?;
        let length = content.chars().count();
        details
            .into_iter()
            .map(|detail| {
                let (start, end) = (detail.begin_offset, detail.end_offset.saturating_add(1));
                if start >= end || end as usize > length {
                    let last = detail.end_offset;
                    return Err(format!("`{field}`: characters {start} to {last} do not lie in a text of {length}"));
                }
                Ok(TrainSpan { start, end, train: detail.train })
            })
            .collect()
    }

    /// Fields beside role and content that a template may read: tool calls, reasoning, names.
    fn extra(&self, message: &Map<String, Value>) -> Option<String> {
        let mut own = [Some(&self.role_field), Some(&self.content_field)].into_iter().flatten().collect::<Vec<_>>();
        own.extend(self.config.message_field_training.iter());
        own.extend(self.config.message_field_training_detail.iter());
        let mut extra: Map<String, Value> = message
            .iter()
            .filter(|(key, _)| !own.contains(key))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        for (name, field) in &self.other_fields {
            if let Some(value) = message.get(field) {
                extra.remove(field);
                extra.insert(name.clone(), value.clone());
            }
        }
        (!extra.is_empty()).then(|| Value::Object(extra).to_string())
    }
}

plugin_sdk::register_prompt_strategy!(
    ChatTemplate,
    name: "chat_template",
    description: "Conversations for the model's chat template",
);

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn render(config: Value, row: Value) -> Result<Conversation, RowError> {
        let strategy = ChatTemplate::new(serde_json::from_value(config).unwrap()).unwrap();
        let Value::Object(row) = row else { panic!("a row is an object") };
        match strategy.render(row)? {
            Some(Sample::Supervised(Text::Conversation(conversation))) => Ok(conversation),
            other => panic!("{other:?}"),
        }
    }

    fn shown(conversation: &Conversation) -> Vec<String> {
        let show = |message: &Message| {
            format!("{}{} {}", message.role, if message.train == Some(true) { "*" } else { "" }, message.content)
        };
        conversation.messages.iter().map(show).collect()
    }

    #[test]
    fn assistants_are_learned() {
        let row = json!({"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]});
        let found = render(json!({}), row.clone()).unwrap();
        assert_eq!(shown(&found), ["system s", "user q", "assistant* a"]);
        assert_eq!(found.train_on_eos, Some(true));
        assert_eq!(
            shown(&render(json!({"drop_system_message": true, "roles_to_train": ["human"]}), row).unwrap()),
            ["user* q", "assistant a"]
        );
    }

    #[test]
    fn other_names_are_mapped() {
        let config = json!({
            "field_messages": "conversations",
            "message_property_mappings": {"role": "from", "content": "value", "reasoning_content": "thoughts"},
            "default_system_message": "Be kind.",
        });
        let row = json!({"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a", "thoughts": "t", "weight": 1}], "tools": [{"name": "f"}]});
        let found = render(config, row).unwrap();
        assert_eq!(shown(&found), ["system Be kind.", "user q", "assistant* a"]);
        assert_eq!(found.tools_json.as_deref(), Some(r#"[{"name":"f"}]"#));
        assert_eq!(found.messages[2].extra_json.as_deref(), Some(r#"{"weight":1,"reasoning_content":"t"}"#));
    }

    #[test]
    fn messages_and_parts_can_say_for_themselves() {
        let config = json!({"message_field_training": "train", "message_field_training_detail": "detail"});
        let row = json!({"messages": [
            {"role": "user", "content": "q", "train": true},
            {"role": "assistant", "content": "abcd", "detail": [{"begin_offset": 1, "end_offset": 2, "train": false}]},
        ]});
        let found = render(config.clone(), row).unwrap();
        assert_eq!(shown(&found), ["user* q", "assistant* abcd"]);
        assert_eq!(found.messages[1].spans, [TrainSpan { start: 1, end: 3, train: false }]);
        let row = json!({"messages": [{"role": "user", "content": "q", "detail": [{"begin_offset": 0, "end_offset": 1, "train": true}]}]});
        assert_eq!(
            render(config, row).unwrap_err().message,
            "message 1: `detail`: characters 0 to 1 do not lie in a text of 1"
        );
    }

    #[test]
    fn bad_rows_say_what_is_wrong() {
        let message = |row: Value| render(json!({}), row).unwrap_err().message;
        assert_eq!(message(json!({"text": "x"})), "the row has no `messages`; it has text");
        assert_eq!(message(json!({"messages": []})), "`messages` is an empty list");
        assert_eq!(message(json!({"messages": [{"content": "x"}]})), "message 1: it has no `role`");
        assert_eq!(
            message(json!({"messages": [{"role": "user", "content": [1]}]})),
            "message 1: `content` is a list; only texts are supported"
        );
    }

    #[test]
    fn configs_that_cannot_work_are_refused() {
        let new = |config: Value| ChatTemplate::new(serde_json::from_value(config).unwrap()).err();
        assert!(
            matches!(new(json!({"train_on_eos": "last"})), Some(Error::Config { path, .. }) if path == "train_on_eos")
        );
        assert!(matches!(new(json!({"roles": {"user": ["x"], "assistant": ["x"]}})), Some(Error::Config { .. })));
    }
}
