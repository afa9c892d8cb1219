//! Instruction, input and output in the words of Stanford Alpaca (<https://github.com/tatsu-lab/stanford_alpaca>), as
//! Axolotl's `alpaca` type writes them. The model learns the output.

use plugin_sdk::Error;
use plugin_sdk::row::columns;
use plugin_sdk::strategy::{PromptStrategy, RowError, Sample, Text, bad_field, learn, read, render_row};
use serde::Deserialize;
use serde_json::{Map, Value};

const WITH_INPUT: &str = "Below is an instruction that describes a task, paired with an input that provides further context. Write a response that appropriately completes the request.";
const WITHOUT_INPUT: &str =
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.";

/// What can be set: the columns, and Axolotl's own shape of the prompt.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Column with the instruction. Default: `instruction`.
    field_instruction: Option<String>,
    /// Column with the input. Default: `input`.
    field_input: Option<String>,
    /// Column with the output. Default: `output`.
    field_output: Option<String>,
    /// Column with a system prompt for its row. Default: `system` beside a `format` or another system key, else none:
    /// Axolotl's plain `alpaca` does not look at it.
    field_system: Option<String>,
    /// What stands before every prompt instead of Alpaca's own sentence.
    system_prompt: Option<String>,
    /// How the system prompt is written; `{system}` stands for it. Default: as it is, and before Alpaca's own text with
    /// an empty line after it.
    system_format: Option<String>,
    /// The prompt, instead of Alpaca's; `{instruction}` and `{input}` stand for the columns.
    format: Option<String>,
    /// The prompt of rows without an input. Default: `{instruction} ` beside a `format`.
    no_input_format: Option<String>,
}

/// The strategy.
pub struct Alpaca {
    config: Config,
    instruction: String,
    input: String,
    output: String,
    system: Option<String>,
}

impl PromptStrategy for Alpaca {
    type Config = Config;
    type Row = Map<String, Value>;

    fn new(config: Config) -> Result<Self, Error> {
        for (key, format) in [("format", &config.format), ("no_input_format", &config.no_input_format)] {
            if format.as_ref().is_some_and(|format| !format.contains("{instruction}")) {
                let message = format!("`{key}` has no `{{instruction}}`, so every prompt would be the same");
                return Err(Error::config_with_help(
                    key,
                    message,
                    "write `{instruction}` where the instruction belongs",
                ));
            }
        }
        if config.system_format.as_ref().is_some_and(|format| !format.contains("{system}")) {
            return Err(Error::config("system_format", "`system_format` has no `{system}`"));
        }
        let own_shape = [&config.format, &config.no_input_format, &config.system_prompt, &config.system_format];
        let has_system = own_shape.iter().any(|key| key.is_some());
        let name = |own: &Option<String>, default: &str| own.clone().unwrap_or_else(|| default.to_owned());
        Ok(Self {
            instruction: name(&config.field_instruction, "instruction"),
            input: name(&config.field_input, "input"),
            output: name(&config.field_output, "output"),
            system: config.field_system.clone().or_else(|| has_system.then(|| "system".to_owned())),
            config,
        })
    }

    fn render(&self, row: Map<String, Value>) -> Result<Option<Sample>, RowError> {
        let instruction = required(&row, &self.instruction)?;
        let output = required(&row, &self.output)?;
        let input = optional(&row, &self.input)?.unwrap_or_default();
        let system = self.system.as_ref().map_or(Ok(None), |column| optional(&row, column))?;
        Ok(Some(self.sample(instruction, input, system, output)))
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
        let names = [&self.instruction, &self.output, &self.input, self.system.as_ref().unwrap_or(&self.input)];
        let [instruction, output, input, system] = columns(row, names.map(String::as_str)).ok()?;
        let (instruction, output) = (instruction.text("").ok()??, output.text("").ok()??);
        let input = input.text("").ok()?.unwrap_or_default();
        let system = if self.system.is_some() { system.text("").ok()? } else { None };
        Some(self.sample(instruction, input, system, output))
    }

    fn sample(&self, instruction: &str, input: &str, system: Option<&str>, output: &str) -> Sample {
        let prompt = self.prompt(instruction, input, system);
        Sample::Supervised(Text::Segments(vec![read(prompt), learn(output)]))
    }

    fn prompt(&self, instruction: &str, input: &str, system: Option<&str>) -> String {
        let config = &self.config;
        let system = system.or(config.system_prompt.as_deref()).filter(|system| !system.is_empty());
        if config.format.is_some() || config.no_input_format.is_some() {
            // What Axolotl fills in where a shape gives one of the formats only (`prompt_strategies/user_defined.py`).
            let format = if input.is_empty() {
                config.no_input_format.as_deref().unwrap_or("{instruction} ")
            } else {
                config.format.as_deref().unwrap_or("{instruction} {input} ")
            };
            let before = system.map_or_else(String::new, |system| self.system_text(system, "{system}"));
            return before + &fill(format, instruction, input);
        }
        let before = match system {
            Some(system) => self.system_text(system, "{system}\n\n"),
            None => format!("{}\n\n", if input.is_empty() { WITHOUT_INPUT } else { WITH_INPUT }),
        };
        if input.is_empty() {
            format!("{before}### Instruction:\n{instruction}\n\n### Response:\n")
        } else {
            format!("{before}### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n")
        }
    }

    fn system_text(&self, system: &str, format: &str) -> String {
        self.config.system_format.as_deref().unwrap_or(format).replace("{system}", system)
    }
}

/// One pass, so that an instruction that contains `{input}` stays as it is.
fn fill(format: &str, instruction: &str, input: &str) -> String {
    let mut out = String::with_capacity(format.len() + instruction.len() + input.len());
    let mut rest = format;
    while let Some(at) = rest.find('{') {
        let (before, from) = rest.split_at(at);
        out.push_str(before);
        if let Some(after) = from.strip_prefix("{instruction}") {
            out.push_str(instruction);
            rest = after;
        } else if let Some(after) = from.strip_prefix("{input}") {
            out.push_str(input);
            rest = after;
        } else {
            out.push('{');
            rest = &from[1..];
        }
    }
    out + rest
}

fn optional<'a>(row: &'a Map<String, Value>, field: &str) -> Result<Option<&'a str>, RowError> {
    match row.get(field) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(other) => Err(bad_field(field, format!("`{field}` must be a text, found {}", kind(other)))),
    }
}

fn required<'a>(row: &'a Map<String, Value>, field: &str) -> Result<&'a str, RowError> {
    optional(row, field)?.ok_or_else(|| {
        if row.contains_key(field) {
            return bad_field(field, format!("`{field}` is null (as `NaN` is read too), where a text belongs"));
        }
        let mut has: Vec<&str> = row.keys().take(8).map(String::as_str).collect();
        if row.len() > has.len() {
            has.push("…");
        }
        let has = if has.is_empty() { "no column at all".to_owned() } else { has.join(", ") };
        bad_field(field, format!("the row has no `{field}`; it has {has}"))
    })
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
    description: "Instruction, input and output in Stanford Alpaca's words",
);

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn render(config: Value, row: Value) -> Result<(String, String), RowError> {
        let alpaca = Alpaca::new(serde_json::from_value(config).unwrap()).unwrap();
        let Value::Object(columns) = &row else { panic!("a row is an object") };
        let sample = alpaca.render(columns.clone());
        // The quick way is the same, or none.
        assert_eq!(alpaca.render_all(&[row.to_string()]).unwrap(), std::slice::from_ref(&sample));
        match sample? {
            Some(Sample::Supervised(Text::Segments(segments))) => {
                assert_eq!(segments.iter().map(|segment| segment.train).collect::<Vec<_>>(), [false, true]);
                Ok((segments[0].text.clone(), segments[1].text.clone()))
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn writes_what_stanford_wrote() {
        let (prompt, answer) =
            render(json!({}), json!({"instruction": "Add.", "input": "1 2", "output": "3"})).unwrap();
        assert_eq!(prompt, format!("{WITH_INPUT}\n\n### Instruction:\nAdd.\n\n### Input:\n1 2\n\n### Response:\n"));
        assert_eq!(answer, "3");
        let (prompt, _) = render(json!({}), json!({"instruction": "Hi.", "input": "", "output": "Hello"})).unwrap();
        assert_eq!(prompt, format!("{WITHOUT_INPUT}\n\n### Instruction:\nHi.\n\n### Response:\n"));
    }

    #[test]
    fn fields_formats_and_system_prompts_can_be_set() {
        let config = json!({"field_instruction": "q", "field_output": "a", "format": "Q: {instruction} [{input}]\nA: ", "no_input_format": "Q: {instruction}\nA: ", "system_prompt": "Be brief.", "system_format": "<{system}>\n"});
        assert_eq!(
            render(config.clone(), json!({"q": "x {input}", "a": "y"})).unwrap().0,
            "<Be brief.>\nQ: x {input}\nA: "
        );
        assert_eq!(
            render(config, json!({"q": "x", "input": "z", "a": "y", "system": "S"})).unwrap().0,
            "<S>\nQ: x [z]\nA: "
        );
    }

    #[test]
    fn what_a_shape_leaves_out_is_as_axolotl_has_it() {
        let with = json!({"instruction": "i", "input": "n", "output": "o", "system": "S"});
        let without = json!({"instruction": "i", "output": "o"});
        let prompt = |config: Value, row: &Value| render(config, row.clone()).unwrap().0;
        let format = json!({"format": "{input}: {instruction}=", "system_prompt": "P "});
        assert_eq!(prompt(format.clone(), &with), "Sn: i=");
        assert_eq!(prompt(format, &without), "P i ");
        assert_eq!(prompt(json!({"no_input_format": "{instruction}="}), &with), "Si n ");
        // Plain `alpaca` has no system column.
        assert!(prompt(json!({}), &with).starts_with(WITH_INPUT));
        assert!(prompt(json!({"field_system": "system"}), &with).starts_with("S\n\n### Instruction:\n"));
    }

    #[test]
    fn bad_rows_name_the_field() {
        let error = render(json!({}), json!({"instruction": "x", "text": "y"})).unwrap_err();
        assert_eq!(error.field.as_deref(), Some("output"));
        assert_eq!(error.message, "the row has no `output`; it has instruction, text");
        for (row, message) in [
            (
                json!({"instruction": "x", "output": null}),
                "`output` is null (as `NaN` is read too), where a text belongs",
            ),
            (json!({}), "the row has no `instruction`; it has no column at all"),
        ] {
            assert_eq!(render(json!({}), row).unwrap_err().message, message);
        }
        let nothing = render(json!({}), json!({"instruction": "x", "input": null, "output": "y"})).unwrap();
        assert_eq!(nothing, render(json!({}), json!({"instruction": "x", "output": "y"})).unwrap());
        let error = render(json!({}), json!({"instruction": 3, "output": "y"})).unwrap_err();
        assert_eq!(error.message, "`instruction` must be a text, found a number");
    }

    #[test]
    fn a_format_without_the_instruction_is_refused() {
        let config: Config = serde_json::from_value(json!({"format": "{input}"})).unwrap();
        assert!(matches!(Alpaca::new(config), Err(Error::Config { path, .. }) if path == "format"));
    }
}
