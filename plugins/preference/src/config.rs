//! What can be set, in the words of Axolotl's inline shapes of preference data (`UserDefinedDPOType`, `UserDefinedKTOType`).

use std::collections::BTreeMap;

use plugin_sdk::Error;
use serde::Deserialize;

/// What can be set.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// How prompt and answers are written: `plain` (as they are, or as the `…_format` keys say), `chatml`, `llama3`, `zephyr`,
    /// or `chat_template`: conversations for the model's own template. Default: `plain`.
    pub(crate) format: Format,
    /// Rows have one answer and a label (KTO) in place of two answers. Default: false.
    pub(crate) unpaired: bool,
    /// Column with the prompt: a text, or a list of messages where the format has turns. A list of names: the first that the
    /// row has. A name may lead into a value: `chosen[0].content`. Default: `prompt`.
    pub(crate) field_prompt: Option<Names>,
    /// Axolotl's name for `field_prompt` where that holds messages; it comes first.
    pub(crate) field_messages: Option<Names>,
    /// Column with a system message; null for none. Default: `system`.
    pub(crate) field_system: Option<String>,
    /// Column with the better answer: a text, or where the format has turns a message, or messages that end in it.
    /// Default: `chosen`.
    pub(crate) field_chosen: Names,
    /// Column with the worse answer. Default: `rejected`.
    pub(crate) field_rejected: Names,
    /// Column with the one answer of `unpaired`. Default: `completion`.
    pub(crate) field_completion: Names,
    /// Column that says whether that answer is wanted: true or false, 1 or 0. Default: `label`.
    pub(crate) field_label: String,
    /// Answers are whole conversations: their last message is the answer, and the messages before it (of the better one) are
    /// the prompt. A text in `field_prompt` then stands for the question of a conversation that has one. Default: false.
    pub(crate) prompt_in_answers: bool,
    /// Column with a list of ranked answers, `[{answer: …, rank: …}, …]`, in place of two columns: the best is chosen, and
    /// the second rejected.
    pub(crate) field_answers: Option<String>,
    /// Which rank is the best: `lowest` or `highest`. Default: `lowest`.
    pub(crate) best_rank: BestRank,
    /// `format: plain`: the prompt; `{prompt}` and `{system}` stand for the columns. As in Python, `{{` is a brace.
    /// Default: `{prompt}`.
    pub(crate) prompt_format: Option<String>,
    /// `format: plain`: the better answer. Default: `{chosen}`.
    pub(crate) chosen_format: Option<String>,
    /// `format: plain`: the worse answer. Default: `{rejected}`.
    pub(crate) rejected_format: Option<String>,
    /// `format: plain`: the one answer of `unpaired`. Default: `{completion}`.
    pub(crate) completion_format: Option<String>,
    /// `role` and `content` → what the data calls them in a message.
    pub(crate) message_property_mappings: BTreeMap<String, String>,
    /// Role → the names that the data has for it. Default: those of templates (`system`, `user`, `assistant`, `tool`).
    pub(crate) roles: Option<BTreeMap<String, Vec<String>>>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Format {
    #[default]
    Plain,
    #[serde(rename = "chatml")]
    ChatMl,
    Llama3,
    Zephyr,
    ChatTemplate,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum BestRank {
    #[default]
    Lowest,
    Highest,
}

/// A column, or several of which a row has one.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged, expecting = "the name of a column, or a list of names")]
pub(crate) enum Names {
    One(String),
    Several(Vec<String>),
}

impl Names {
    fn one(name: &str) -> Self {
        Self::One(name.to_owned())
    }

    pub(crate) fn list(&self) -> &[String] {
        match self {
            Self::One(name) => std::slice::from_ref(name),
            Self::Several(names) => names,
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            format: Format::Plain,
            unpaired: false,
            field_prompt: Some(Names::one("prompt")),
            field_messages: None,
            field_system: Some("system".to_owned()),
            field_chosen: Names::one("chosen"),
            field_rejected: Names::one("rejected"),
            field_completion: Names::one("completion"),
            field_label: "label".to_owned(),
            prompt_in_answers: false,
            field_answers: None,
            best_rank: BestRank::Lowest,
            prompt_format: None,
            chosen_format: None,
            rejected_format: None,
            completion_format: None,
            message_property_mappings: BTreeMap::new(),
            roles: None,
        }
    }
}

impl Config {
    /// Keys that contradict each other.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let formats = [
            ("prompt_format", &self.prompt_format),
            ("chosen_format", &self.chosen_format),
            ("rejected_format", &self.rejected_format),
            ("completion_format", &self.completion_format),
        ];
        if self.format != Format::Plain
            && let Some((key, _)) = formats.iter().find(|(_, format)| format.is_some())
        {
            let message = format!("`{key}` is for `format: plain`; the other formats have texts of their own");
            return Err(Error::config_with_help(*key, message, "delete one of them"));
        }
        if self.format == Format::Plain && self.prompt_in_answers {
            let message = "`prompt_in_answers` is for answers of messages, and `format: plain` has no turns";
            let help = "set `format: chat_template`, `chatml` or `llama3`";
            return Err(Error::config_with_help("prompt_in_answers", message, help));
        }
        if self.field_answers.is_some() && (self.unpaired || self.prompt_in_answers) {
            let other = if self.unpaired { "unpaired" } else { "prompt_in_answers" };
            let message = format!("ranked answers are texts for a prompt, and `{other}` says otherwise");
            return Err(Error::config_with_help("field_answers", message, "delete one of them"));
        }
        if self.field_prompt.is_none() && self.field_messages.is_none() && !self.prompt_in_answers {
            return Err(Error::config("field_prompt", "`field_prompt` is null, so there is no prompt"));
        }
        if let Some(name) =
            self.message_property_mappings.keys().find(|name| !matches!(name.as_str(), "role" | "content"))
        {
            let path = format!("message_property_mappings.{name}");
            return Err(Error::config(path, "of a message `role` and `content` are read here"));
        }
        Ok(())
    }

    /// The data's name of a role → the role; none where the config does not say.
    pub(crate) fn role_names(&self) -> Result<Option<BTreeMap<String, String>>, Error> {
        let Some(own) = &self.roles else { return Ok(None) };
        let mut roles = BTreeMap::new();
        for (role, names) in own {
            for name in names {
                if let Some(other) = roles.insert(name.clone(), role.clone()) {
                    let message = format!("`{name}` is a name of both `{other}` and `{role}`");
                    return Err(Error::config(format!("roles.{role}"), message));
                }
            }
        }
        Ok(Some(roles))
    }

    /// What the data calls a field of a message.
    pub(crate) fn mapped(&self, name: &str) -> String {
        self.message_property_mappings.get(name).map_or(name, String::as_str).to_owned()
    }
}
