//! Instruction, input and output: in the words of Stanford Alpaca (<https://github.com/tatsu-lab/stanford_alpaca>), in one of
//! Axolotl's styles, or in a shape of one's own. The model learns the output.
//!
//! One plugin for Axolotl's instruction types: what they differ in is data (`axolotl.json` has each by its name). The texts and
//! tokens are those of Axolotl 0.19 (`prompters.py`, `prompt_tokenizers.py`, `prompt_strategies/`): prompt and output are
//! tokenized apart. Known differences, on purpose:
//! - a missing, null or other value where a text belongs is the row's error, where Axolotl writes `None` or fails.
//! - a prompt that begins with the first token of the tokenizer, written out (`<s>`), has it once, not twice.
//! - a row without the system column gets `system_prompt`. In Axolotl it has no system prompt as soon as another row of the
//!   data has the column.

mod config;

use std::borrow::Cow;

use plugin_sdk::Error;
use plugin_sdk::format::Format;
use plugin_sdk::row::{Column, columns};
use plugin_sdk::strategy::{
    PromptStrategy, RowError, Sample, Segment, Text, apart, bad_field, end_of_text, learn, read, render_row,
};
use serde_json::{Map, Value};

pub use config::Config;
use config::{Formats, Names, format};

const WITH_INPUT: &str = "Below is an instruction that describes a task, paired with an input that provides further context. Write a response that appropriately completes the request.";
const WITHOUT_INPUT: &str =
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.";
/// End-of-text tokens behind an output, at most.
const ENDS: usize = 16;

/// The strategy.
pub struct Alpaca {
    config: Config,
    formats: Formats,
    instruction: Source,
    input: Option<String>,
    output: Source,
    system: Option<String>,
    /// The system prompt of a row without one, with an input and without.
    sentences: [String; 2],
    /// They are Alpaca's own, which stand for a system prompt without a text too.
    is_alpacas: bool,
}

/// Where a text comes from.
enum Source {
    /// The first of these columns that a row has.
    Columns(Vec<String>),
    /// Several columns.
    Format(Format),
}

/// The system prompt of a row.
#[derive(Clone, Copy)]
enum System<'a> {
    Missing,
    Text(&'a str),
}

impl PromptStrategy for Alpaca {
    type Config = Config;
    type Row = Map<String, Value>;

    fn new(config: Config) -> Result<Self, Error> {
        let formats = config.formats()?;
        if config.ends.is_some_and(|ends| !(1..=ENDS).contains(&ends)) {
            return Err(Error::config("ends", format!("`ends` must be from 1 to {ENDS}")));
        }
        let prompts = [&config.system_prompt, &config.system_no_input_prompt];
        let has_prompt = prompts.iter().any(|prompt| prompt.is_some());
        let has_system = config.has_own_format() || has_prompt || config.system_format.is_some();
        let is_alpacas = !has_prompt && !config.has_own_format();
        let sentences = match (is_alpacas, &config.system_prompt, &config.system_no_input_prompt) {
            (true, ..) => [WITH_INPUT, WITHOUT_INPUT].map(ToOwned::to_owned),
            (false, with, without) => {
                [with, without.as_ref().map_or(with, |_| without)].map(|prompt| prompt.clone().unwrap_or_default())
            }
        };
        let source = |key: &str, own: Option<&String>, names: Vec<String>| match own {
            Some(own) => format(key, own, None).map(Source::Format),
            None if names.is_empty() => Err(Error::config(key, format!("`{key}` names no column"))),
            None => Ok(Source::Columns(names)),
        };
        let output = match &config.field_output {
            Some(Names::Several(names)) => names.clone(),
            Some(Names::One(name)) => vec![name.clone()],
            None => vec!["output".to_owned()],
        };
        let instruction = config.field_instruction.clone().unwrap_or_else(|| "instruction".to_owned());
        let instruction = source("instruction_format", config.instruction_format.as_ref(), vec![instruction])?;
        if matches!(&instruction, Source::Format(format) if format.names().next().is_none()) {
            let message = "`instruction_format` names no column, so it would be the same for every row";
            return Err(Error::config("instruction_format", message));
        }
        Ok(Self {
            formats,
            instruction,
            input: config.field_input.or(Some("input")),
            output: source("output_format", config.output_format.as_ref(), output)?,
            system: config.field_system.or(has_system.then_some("system")),
            sentences,
            is_alpacas,
            config,
        })
    }

    fn render(&self, row: Map<String, Value>) -> Result<Option<Sample>, RowError> {
        let instruction = self.instruction.text(&row)?;
        let output = self.output.text(&row)?;
        let input = self.input(&row)?;
        let system = self.system(&row)?;
        Ok(Some(self.sample(&instruction, &input, system, &output)))
    }

    fn render_all(&self, rows: &[String]) -> Result<Vec<Result<Option<Sample>, RowError>>, Error> {
        // A row in which something is wrong is read again, whole, for the words.
        Ok(rows
            .iter()
            .map(|row| self.quick(row).map_or_else(|| render_row(self, row), |sample| Ok(Some(sample))))
            .collect())
    }
}

impl Alpaca {
    /// The sample of a row that has all it must have, read without building what is not needed.
    fn quick(&self, row: &str) -> Option<Sample> {
        let (Source::Columns(instruction), Source::Columns(output)) = (&self.instruction, &self.output) else {
            return None;
        };
        let ([instruction], [output], Some(input), None) =
            (instruction.as_slice(), output.as_slice(), &self.input, &self.config.field_choices)
        else {
            return None;
        };
        let names = [instruction, output, input, self.system.as_ref().unwrap_or(input)];
        let [instruction, output, input, system] = columns(row, names.map(String::as_str)).ok()?;
        let (instruction, output) = (instruction.text("").ok()??, output.text("").ok()??);
        if self.config.needs_input && input == Column::Missing {
            return None;
        }
        let input = input.text("").ok()?.unwrap_or_default();
        let system = match (&self.system, &system) {
            (Some(_), Column::Missing) if self.config.needs_system => return None,
            (None, _) | (Some(_), Column::Missing) => System::Missing,
            (Some(_), system) => System::Text(system.text("").ok()?.unwrap_or_default()),
        };
        Some(self.sample(instruction, input, system, output))
    }

    fn input<'a>(&self, row: &'a Map<String, Value>) -> Result<Cow<'a, str>, RowError> {
        if let Some(field) = &self.config.field_choices {
            return choices(row, field).map(Cow::Owned);
        }
        let Some(field) = &self.input else { return Ok(Cow::Borrowed("")) };
        if self.config.needs_input && !row.contains_key(field) {
            return Err(missing(row, &[field]));
        }
        Ok(Cow::Borrowed(optional(row, field)?.unwrap_or_default()))
    }

    fn system<'a>(&self, row: &'a Map<String, Value>) -> Result<System<'a>, RowError> {
        let Some(field) = &self.system else { return Ok(System::Missing) };
        match optional(row, field)? {
            Some(text) => Ok(System::Text(text)),
            // A null is a system prompt without a text, as in Axolotl.
            None if row.contains_key(field) => Ok(System::Text("")),
            None if self.config.needs_system => Err(missing(row, &[field])),
            None => Ok(System::Missing),
        }
    }

    fn sample(&self, instruction: &str, input: &str, system: System<'_>, output: &str) -> Sample {
        let mut segments = vec![read(self.prompt(instruction, input, system))];
        segments.extend((!self.config.together).then(apart));
        segments.push(learn(output));
        if let Some(ends) = self.config.ends {
            segments.extend((0..ends).map(|_| -> Segment { end_of_text() }));
        }
        Sample::Supervised(Text::Segments(segments))
    }

    fn prompt(&self, instruction: &str, input: &str, system: System<'_>) -> String {
        let default = self.sentences[usize::from(input.is_empty())].as_str();
        let (system, is_written) = match system {
            System::Text("") if !self.is_alpacas => ("", self.config.writes_empty_system),
            System::Missing | System::Text("") => (default, !default.is_empty()),
            System::Text(system) => (system, true),
        };
        let mut prompt = if is_written { self.formats.system.fill(|_| system) } else { String::new() };
        let format = if input.is_empty() { &self.formats.without_input } else { &self.formats.with_input };
        prompt += &format.fill(|name| if name == "input" { input } else { instruction });
        prompt
    }
}

impl Source {
    fn text<'a>(&self, row: &'a Map<String, Value>) -> Result<Cow<'a, str>, RowError> {
        match self {
            Self::Columns(names) => {
                let names: Vec<&String> = names.iter().collect();
                required(row, &names).map(Cow::Borrowed)
            }
            Self::Format(format) => format.try_fill(|name| required(row, &[&name.to_owned()])).map(Cow::Owned),
        }
    }
}

/// The texts of a list, one a line.
fn choices(row: &Map<String, Value>, field: &String) -> Result<String, RowError> {
    let bad = |message: String| bad_field(field, message);
    let list = match row.get(field) {
        Some(Value::Array(list)) => list,
        Some(other) => return Err(bad(format!("`{field}` must be a list of texts, found {}", kind(other)))),
        None => return Err(missing(row, &[field])),
    };
    let line = |choice: &Value| match choice {
        Value::String(text) => Ok(format!("- \"{text}\"")),
        Value::Number(number) if !number.is_f64() => Ok(format!("- \"{number}\"")),
        other => Err(bad(format!("a choice of `{field}` must be a text, found {}", kind(other)))),
    };
    Ok(list.iter().map(line).collect::<Result<Vec<_>, _>>()?.join("\n"))
}

fn optional<'a>(row: &'a Map<String, Value>, field: &str) -> Result<Option<&'a str>, RowError> {
    match row.get(field) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(other) => Err(bad_field(field, format!("`{field}` must be a text, found {}", kind(other)))),
    }
}

/// The text of the first of these columns that the row has.
fn required<'a>(row: &'a Map<String, Value>, fields: &[&String]) -> Result<&'a str, RowError> {
    for field in fields {
        if let Some(text) = optional(row, field)? {
            return Ok(text);
        }
    }
    match fields.iter().find(|field| row.contains_key(**field)) {
        Some(field) => Err(bad_field(field, format!("`{field}` is null (as `NaN` is read too), where a text belongs"))),
        None => Err(missing(row, fields)),
    }
}

fn missing(row: &Map<String, Value>, fields: &[&String]) -> RowError {
    let mut has: Vec<&str> = row.keys().take(8).map(String::as_str).collect();
    if row.len() > has.len() {
        has.push("…");
    }
    let has = if has.is_empty() { "no column at all".to_owned() } else { has.join(", ") };
    let names: Vec<String> = fields.iter().map(|field| format!("`{field}`")).collect();
    bad_field(fields[0], format!("the row has no {}; it has {has}", names.join(" or ")))
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

plugin_sdk::register_prompt_strategy!(
    Alpaca,
    name: "alpaca",
    description: "Instruction, input and output in Stanford Alpaca's words, in other styles, or in one's own",
);

#[cfg(test)]
mod tests;
