//! Axolotl's keys of a `chat_template` dataset.

use std::collections::BTreeMap;

use plugin_sdk::Error;
use serde::Deserialize;

/// What a template calls an assistant's thoughts, and the data too.
const THINKING: &str = "reasoning_content";

/// What can be set.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Column with the messages.
    pub(crate) field_messages: String,
    /// Column with the tool definitions.
    pub(crate) field_tools: String,
    /// Column with a system message, for conversations that do not start with one.
    pub(crate) field_system: String,
    /// What a template calls a field of a message → what the data calls it.
    pub(crate) message_property_mappings: BTreeMap<String, String>,
    /// Role → the names that the data has for it.
    pub(crate) roles: Option<BTreeMap<String, Vec<String>>>,
    /// Roles whose turns are learned.
    pub(crate) roles_to_train: Vec<String>,
    /// Which end-of-turn tokens are learned.
    pub(crate) train_on_eos: TrainOnEos,
    /// Field of a message with what was thought before its content.
    pub(crate) field_thinking: Option<String>,
    /// What the template calls that field.
    pub(crate) template_thinking_key: Option<String>,
    /// Split an assistant's content that begins with its thoughts.
    pub(crate) split_thinking: bool,
    /// Leave the system message of a conversation out.
    pub(crate) drop_system_message: bool,
    /// A system message for conversations without one.
    pub(crate) default_system_message: Option<String>,
    /// Field of a message that says whether it is learned.
    pub(crate) message_field_training: Option<String>,
    /// Field of a message with parts that are learned or not.
    pub(crate) message_field_training_detail: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum TrainOnEos {
    /// Of every turn.
    All,
    /// Of every learned turn.
    Turn,
    /// Of the last learned turn.
    Last,
    /// Of no turn.
    None,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            field_messages: "messages".to_owned(),
            field_tools: "tools".to_owned(),
            field_system: "system".to_owned(),
            message_property_mappings: BTreeMap::new(),
            roles: None,
            roles_to_train: vec!["assistant".to_owned()],
            train_on_eos: TrainOnEos::Turn,
            field_thinking: None,
            template_thinking_key: None,
            split_thinking: false,
            drop_system_message: false,
            default_system_message: None,
            message_field_training: None,
            message_field_training_detail: None,
        }
    }
}

impl Config {
    /// The data's name of a role → the role; by default Axolotl's names. A role that is not listed stays as it is.
    pub(crate) fn role_names(&self) -> Result<BTreeMap<String, String>, Error> {
        let Some(own) = &self.roles else {
            let names = [("human", "user"), ("user", "user"), ("gpt", "assistant"), ("assistant", "assistant")];
            return Ok(names.into_iter().map(|(name, role)| (name.to_owned(), role.to_owned())).collect());
        };
        let mut roles = BTreeMap::new();
        for (role, names) in own {
            for name in names {
                if let Some(other) = roles.insert(name.clone(), role.clone()) {
                    let message = format!("`{name}` is a name of both `{other}` and `{role}`");
                    return Err(Error::config(format!("roles.{role}"), message));
                }
            }
        }
        Ok(roles)
    }

    /// What the template calls an assistant's thoughts.
    pub(crate) fn thinking_key(&self) -> &str {
        self.template_thinking_key.as_deref().unwrap_or(THINKING)
    }

    /// The template's name → the data's name of all fields of a message but role and content.
    pub(crate) fn other_fields(&self) -> Vec<(String, String)> {
        let mut fields = self.message_property_mappings.clone();
        let thinking = self.field_thinking.as_deref().unwrap_or(THINKING);
        if thinking != self.thinking_key() {
            fields.entry(self.thinking_key().to_owned()).or_insert_with(|| thinking.to_owned());
        }
        fields.into_iter().filter(|(name, _)| !matches!(name.as_str(), "role" | "content")).collect()
    }

    /// What the data calls a field of a message.
    pub(crate) fn mapped(&self, name: &str) -> String {
        self.message_property_mappings.get(name).map_or(name, String::as_str).to_owned()
    }
}
