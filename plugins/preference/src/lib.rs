//! Preference data: a prompt with a better and a worse answer (DPO, IPO, SimPO, CPO, ORPO, reward models), or with one answer
//! that is wanted or not (KTO). An answer is its own text alone: the prompt ends where it begins.
//!
//! One plugin for Axolotl's preference types: what they differ in is data, the columns and the texts around them
//! (`axolotl.json` has each by its name). The texts are those of Axolotl 0.19 (`prompt_strategies/{dpo,kto,orpo}`). With
//! `format: chat_template` prompt and answers are conversations that the host renders with the model's template; it needs no
//! text of the model here. Known differences, on purpose:
//! - `prompt_format` with `{system}` and a row without one: nothing stands for it in KTO too, where Axolotl fails.
//! - a missing, null or other value where a text belongs is the row's error, where Axolotl writes `None` or fails.
//! - a conversation that ends in a question is the row's error, where Axolotl trains on the question.
//! - with a chat template, Axolotl looks for the answer in a rendering with a question of its own (`[[dummy_message]]`), and
//!   takes more than the answer where that is a piece of what stands before it (`a`, `user`).
//! - `chat_template.argilla`: where a conversation has several turns, a column `prompt` replaces none of them.
//!
//! Of `zephyr.nectar`: Axolotl takes the answer of the highest rank as the better one, and so does `best_rank: highest`, which
//! the name stands for. In the data set Nectar rank 1 is the best: `best_rank: lowest`.

mod column;
mod config;
mod format;

use std::collections::BTreeMap;

use plugin_sdk::Error;
use plugin_sdk::strategy::{
    Conversation, Message, Preference, PromptStrategy, RowError, Sample, Text, Unpaired, learn, read,
};
use serde_json::{Map, Value};

use column::{Column, columns, kind, required};
pub use config::Config;
use config::{BestRank, Format};
use format::{Pattern, turns};

/// The strategy.
pub struct PreferencePairs {
    config: Config,
    prompt: Vec<Column>,
    system: Option<Column>,
    chosen: Vec<Column>,
    rejected: Vec<Column>,
    completion: Vec<Column>,
    label: Vec<Column>,
    answers: Vec<Column>,
    prompt_format: Pattern,
    chosen_format: Pattern,
    rejected_format: Pattern,
    completion_format: Pattern,
    role_field: String,
    content_field: String,
    /// The data's name of a role → the role; none where the data has the names of templates.
    roles: Option<BTreeMap<String, String>>,
}

struct Turn {
    role: String,
    content: String,
}

/// What stands before an answer.
enum Prompt {
    Text(String),
    Turns(Vec<Turn>),
}

impl PromptStrategy for PreferencePairs {
    type Config = Config;
    type Row = Map<String, Value>;

    fn new(config: Config) -> Result<Self, Error> {
        config.check()?;
        let prompt = match (&config.field_messages, &config.field_prompt) {
            (Some(names), _) => columns("field_messages", names)?,
            (None, Some(names)) => columns("field_prompt", names)?,
            (None, None) => Vec::new(),
        };
        let answers = config.field_answers.iter().map(|name| Column::new("field_answers", name));
        Ok(Self {
            prompt,
            system: config.field_system.as_ref().map(|name| Column::new("field_system", name)).transpose()?,
            chosen: columns("field_chosen", &config.field_chosen)?,
            rejected: columns("field_rejected", &config.field_rejected)?,
            completion: columns("field_completion", &config.field_completion)?,
            label: vec![Column::new("field_label", &config.field_label)?],
            answers: answers.collect::<Result<_, _>>()?,
            prompt_format: Pattern::new("prompt_format", config.prompt_format.as_ref(), &["prompt", "system"])?,
            chosen_format: Pattern::new("chosen_format", config.chosen_format.as_ref(), &["chosen"])?,
            rejected_format: Pattern::new("rejected_format", config.rejected_format.as_ref(), &["rejected"])?,
            completion_format: Pattern::new("completion_format", config.completion_format.as_ref(), &["completion"])?,
            role_field: config.mapped("role"),
            content_field: config.mapped("content"),
            roles: config.role_names()?,
            config,
        })
    }

    fn render(&self, row: Map<String, Value>) -> Result<Option<Sample>, RowError> {
        if self.config.unpaired {
            return self.unpaired(&row).map(Some);
        }
        let (prompt, chosen, rejected) = self.pair(&row)?;
        let prompt = self.prompt_text(prompt)?;
        let chosen = self.answer_text(chosen, &self.chosen[0], &self.chosen_format)?;
        let rejected = self.answer_text(rejected, &self.rejected[0], &self.rejected_format)?;
        Ok(Some(Sample::Preference(Preference { prompt, chosen, rejected })))
    }
}

impl PreferencePairs {
    fn pair(&self, row: &Map<String, Value>) -> Result<(Prompt, String, String), RowError> {
        if let Some(column) = self.answers.first() {
            let (_, list) = required(&self.answers, row)?;
            let [chosen, rejected] = ranked(column, list, self.config.best_rank)?;
            return Ok((self.prompt(row)?, chosen, rejected));
        }
        // The answers are asked for first: a row of another shape is told by what it lacks of those.
        let (column, chosen) = required(&self.chosen, row)?;
        let (other, rejected) = required(&self.rejected, row)?;
        if !self.config.prompt_in_answers {
            let (chosen, rejected) = (self.answer(column, chosen)?, self.answer(other, rejected)?);
            return Ok((self.prompt(row)?, chosen, rejected));
        }
        let (before, chosen) = self.conversation(column, chosen)?;
        let (_, rejected) = self.conversation(other, rejected)?;
        Ok((self.asked_before(row, before)?, chosen, rejected))
    }

    fn unpaired(&self, row: &Map<String, Value>) -> Result<Sample, RowError> {
        let (column, completion) = required(&self.completion, row)?;
        let (label_column, label) = required(&self.label, row)?;
        let desirable = match (label, label.as_f64()) {
            (Value::Bool(label), _) => *label,
            (_, Some(number)) if number == 0.0 || number == 1.0 => number == 1.0,
            _ => {
                let name = &label_column.written;
                return Err(label_column.bad(format!("`{name}` must be true or false, found {}", kind(label))));
            }
        };
        let (prompt, completion) = if self.config.prompt_in_answers {
            let (before, completion) = self.conversation(column, completion)?;
            (self.asked_before(row, before)?, completion)
        } else {
            let completion = self.answer(column, completion)?;
            (self.prompt(row)?, completion)
        };
        let prompt = self.prompt_text(prompt)?;
        let completion = self.answer_text(completion, column, &self.completion_format)?;
        Ok(Sample::Unpaired(Unpaired { prompt, completion, desirable }))
    }

    /// The prompt that a column holds.
    fn prompt(&self, row: &Map<String, Value>) -> Result<Prompt, RowError> {
        let (column, value) = required(&self.prompt, row)?;
        let system = self.system(row)?;
        if self.config.format == Format::Plain {
            let prompt = text(column, value)?;
            return Ok(Prompt::Text(self.prompt_format.fill(|name| match name {
                "system" => system.clone().unwrap_or_default(),
                _ => prompt.to_owned(),
            })));
        }
        let mut turns = match value {
            Value::Array(list) if list.is_empty() => {
                return Err(column.bad(format!("`{}` is an empty list", column.written)));
            }
            Value::Array(list) => self.messages(column, list)?,
            _ => vec![Turn { role: "user".to_owned(), content: text(column, value)?.to_owned() }],
        };
        put_first(system, &mut turns);
        Ok(Prompt::Turns(turns))
    }

    /// The prompt of an answer that is a whole conversation: the messages before it.
    fn asked_before(&self, row: &Map<String, Value>, mut turns: Vec<Turn>) -> Result<Prompt, RowError> {
        // Axolotl's `chat_template.argilla` has the question from the row's `prompt`.
        for column in &self.prompt {
            if let Some(value) = column.find(row)? {
                let mut questions = turns.iter_mut().filter(|turn| turn.role == "user");
                if let (Some(question), None) = (questions.next(), questions.next()) {
                    text(column, value)?.clone_into(&mut question.content);
                }
                break;
            }
        }
        put_first(self.system(row)?, &mut turns);
        Ok(Prompt::Turns(turns))
    }

    /// The row's system message, if there is one and the format has a place for it.
    fn system(&self, row: &Map<String, Value>) -> Result<Option<String>, RowError> {
        let Some(column) = &self.system else { return Ok(None) };
        if self.config.format == Format::Plain && !self.prompt_format.has("system") {
            return Ok(None);
        }
        let system = column.find(row)?.map(|value| text(column, value)).transpose()?;
        Ok(system.filter(|system| !system.is_empty()).map(ToOwned::to_owned))
    }

    /// The text of an answer: a text, a message, or the last of several messages.
    fn answer(&self, column: &Column, value: &Value) -> Result<String, RowError> {
        match value {
            Value::Object(_) if self.config.format != Format::Plain => self.last(column, std::slice::from_ref(value)),
            Value::Array(list) if self.config.format != Format::Plain => self.last(column, list),
            Value::Object(_) | Value::Array(_) => Err(column.bad(format!(
                "`{}` must be a text, found {}; messages are for `format: chat_template`",
                column.written,
                kind(value)
            ))),
            _ => text(column, value).map(ToOwned::to_owned),
        }
    }

    fn last(&self, column: &Column, list: &[Value]) -> Result<String, RowError> {
        let Some(answer) = list.last() else {
            return Err(column.bad(format!("`{}` is an empty list", column.written)));
        };
        let message = |words: String| column.bad(format!("`{}`, message {}: {words}", column.written, list.len()));
        let (role, content) = self.message(answer).map_err(message)?;
        match role.as_deref() {
            None | Some("assistant") => Ok(content),
            Some(role) => Err(message(format!("it is of `{role}`, where the assistant's answer belongs"))),
        }
    }

    /// The messages before an answer, and its text.
    fn conversation(&self, column: &Column, value: &Value) -> Result<(Vec<Turn>, String), RowError> {
        let Value::Array(list) = value else {
            return Err(column.bad(format!("`{}` must be a list of messages, found {}", column.written, kind(value))));
        };
        if list.len() < 2 {
            let message =
                format!("`{}` must be a prompt and an answer; it has {} of 2 messages", column.written, list.len());
            return Err(column.bad(message));
        }
        Ok((self.messages(column, &list[..list.len() - 1])?, self.last(column, list)?))
    }

    /// Messages; those without a role are of the user and the assistant in turn.
    fn messages(&self, column: &Column, list: &[Value]) -> Result<Vec<Turn>, RowError> {
        let turn = |(index, message): (usize, &Value)| {
            let by_place = if index % 2 == 0 { "user" } else { "assistant" };
            let (role, content) = self
                .message(message)
                .map_err(|words| column.bad(format!("`{}`, message {}: {words}", column.written, index + 1)))?;
            Ok(Turn { role: role.unwrap_or_else(|| by_place.to_owned()), content })
        };
        list.iter().enumerate().map(turn).collect()
    }

    fn message(&self, message: &Value) -> Result<(Option<String>, String), String> {
        let Value::Object(message) = message else { return Err(format!("it is {}, not an object", kind(message))) };
        let role = match message.get(&self.role_field) {
            None | Some(Value::Null) => None,
            Some(Value::String(role)) => Some(self.role(role)?),
            Some(_) => return Err(format!("`{}` must be a text", self.role_field)),
        };
        match message.get(&self.content_field) {
            Some(Value::String(content)) => Ok((role, content.clone())),
            Some(other) => Err(format!("`{}` must be a text, found {}", self.content_field, kind(other))),
            None => Err(format!("it has no `{}`", self.content_field)),
        }
    }

    fn role(&self, name: &str) -> Result<String, String> {
        if let Some(role) = self.roles.as_ref().and_then(|roles| roles.get(name)) {
            return Ok(role.clone());
        }
        // A template would write another role as it comes, or fail.
        let is_known = self.roles.is_none() && matches!(name, "system" | "user" | "assistant" | "tool");
        if is_known || self.config.format != Format::ChatTemplate {
            return Ok(name.to_owned());
        }
        Err(format!("the role `{name}` is not known; map it with `roles`: `roles: {{user: [{name}]}}`"))
    }

    fn prompt_text(&self, prompt: Prompt) -> Result<Text, RowError> {
        let messages = match prompt {
            Prompt::Text(text) if text.is_empty() => {
                return Err(self.prompt[0].bad(format!("`{}` is empty", self.prompt[0].written)));
            }
            Prompt::Text(text) => return Ok(Text::Segments(vec![read(text)])),
            Prompt::Turns(messages) => messages,
        };
        let Some(format) = turns(self.config.format) else {
            return Ok(conversation(messages, false));
        };
        let [before, between, after] = format.turn;
        let mut text = String::new();
        if format.always_system && messages.first().is_none_or(|first| first.role != "system") {
            text = [before, "system", between, after].concat();
        }
        for Turn { role, content } in &messages {
            text.extend([before, role, between, content, after]);
        }
        Ok(Text::Segments(vec![read(text + format.open)]))
    }

    fn answer_text(&self, answer: String, column: &Column, own: &Pattern) -> Result<Text, RowError> {
        let text = match (self.config.format, turns(self.config.format)) {
            (Format::ChatTemplate, _) => {
                return Ok(conversation(vec![Turn { role: "assistant".to_owned(), content: answer }], true));
            }
            (_, Some(format)) => answer + format.end,
            (_, None) => own.fill(|_| answer.clone()),
        };
        if text.is_empty() {
            return Err(column.bad(format!("`{}` is empty, so there is no answer", column.written)));
        }
        Ok(Text::Segments(vec![learn(text)]))
    }
}

fn conversation(turns: Vec<Turn>, train: bool) -> Text {
    let message =
        |Turn { role, content }| Message { role, content, train: Some(train), spans: Vec::new(), extra_json: None };
    let messages = turns.into_iter().map(message).collect();
    Text::Conversation(Conversation { messages, tools_json: None, train_on_eos: None })
}

fn put_first(system: Option<String>, turns: &mut Vec<Turn>) {
    if let Some(content) = system.filter(|_| turns.first().is_none_or(|first| first.role != "system")) {
        turns.insert(0, Turn { role: "system".to_owned(), content });
    }
}

/// The best answer and the second. Of equal ranks the one further on in the list counts as the higher.
fn ranked(column: &Column, list: &Value, best: BestRank) -> Result<[String; 2], RowError> {
    let name = &column.written;
    let Value::Array(list) = list else {
        return Err(column.bad(format!("`{name}` must be a list of answers, found {}", kind(list))));
    };
    let mut answers = Vec::with_capacity(list.len());
    for (index, entry) in list.iter().enumerate() {
        let (rank, answer) = (entry.get("rank").and_then(Value::as_f64), entry.get("answer").and_then(Value::as_str));
        let (Some(rank), Some(answer)) = (rank, answer) else {
            let message = format!("`{name}[{index}]` must have an `answer`, a text, and a `rank`, a number");
            return Err(column.bad(message));
        };
        answers.push((rank, answer));
    }
    answers.sort_by(|a, b| a.0.total_cmp(&b.0));
    if best == BestRank::Highest {
        answers.reverse();
    }
    match answers.as_slice() {
        [(_, chosen), (_, rejected), ..] => Ok([(*chosen).to_owned(), (*rejected).to_owned()]),
        few => Err(column.bad(format!("`{name}` has {} of 2 answers", few.len()))),
    }
}

fn text<'a>(column: &Column, value: &'a Value) -> Result<&'a str, RowError> {
    value.as_str().ok_or_else(|| column.bad(format!("`{}` must be a text, found {}", column.written, kind(value))))
}

plugin_sdk::register_prompt_strategy!(
    PreferencePairs,
    name: "preference",
    description: "A prompt with a better and a worse answer, or with one that is wanted or not",
);

#[cfg(test)]
mod tests;
