//! What can be set: the columns, and how they are written.

use plugin_sdk::Error;
use plugin_sdk::format::Format;
use serde::{Deserialize, Deserializer};

/// What can be set.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(clippy::struct_excessive_bools, reason = "keys of a config, each by itself")]
pub struct Config {
    /// How instruction and input are written: `instruct`, which is Alpaca's own, `chat`, `chatml` or `phi`.
    pub(crate) style: Style,
    /// Column with the instruction. Default: `instruction`.
    pub(crate) field_instruction: Option<String>,
    /// The instruction, made of several columns: `{column}` stands for each.
    pub(crate) instruction_format: Option<String>,
    /// Column with the input; null: there is none. Default: `input`.
    pub(crate) field_input: Setting,
    /// Column with a list of choices, which are the input, one a line.
    pub(crate) field_choices: Option<String>,
    /// Rows without an input column are bad rows.
    pub(crate) needs_input: bool,
    /// Column with the output, or several, of which the first counts that a row has. Default: `output`.
    pub(crate) field_output: Option<Names>,
    /// The output, made of several columns or of none: `{column}` stands for each.
    pub(crate) output_format: Option<String>,
    /// Column with a system prompt for its row; null: there is none. Default: `system` beside a `format` or another system
    /// key, else none: Axolotl's plain `alpaca` does not look at it.
    pub(crate) field_system: Setting,
    /// Rows without a system column are bad rows.
    pub(crate) needs_system: bool,
    /// A system prompt without a text is written too.
    pub(crate) writes_empty_system: bool,
    /// The system prompt of rows without that column, instead of Alpaca's own sentence.
    pub(crate) system_prompt: Option<String>,
    /// The same for rows without an input. Default: `system_prompt`.
    pub(crate) system_no_input_prompt: Option<String>,
    /// How the system prompt is written; `{system}` stands for it. Default: that of the style; `{system}` beside a `format`.
    pub(crate) system_format: Option<String>,
    /// The prompt, instead of the style's; `{instruction}` and `{input}` stand for the columns.
    pub(crate) format: Option<String>,
    /// The prompt of rows without an input. Default: that of the style; `{instruction} ` beside a `format`.
    pub(crate) no_input_format: Option<String>,
    /// Prompt and output are tokenized as one text, so that a token may begin in one and end in the other. Default: each by
    /// itself, as where the model is used.
    pub(crate) together: bool,
    /// End-of-text tokens that are learned behind the output, from 1 to 16. Default: 1.
    pub(crate) ends: Option<usize>,
}

/// A column, where null is something else than no key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Setting {
    /// The key is not there.
    #[default]
    Unset,
    /// Null: there is no such column.
    Nothing,
    /// Its name.
    Column(String),
}

impl<'de> Deserialize<'de> for Setting {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Option::deserialize(deserializer)?.map_or(Self::Nothing, Self::Column))
    }
}

impl Setting {
    /// The column; `default` where the key is not there.
    pub(crate) fn or(&self, default: Option<&str>) -> Option<String> {
        match self {
            Self::Unset => default.map(ToOwned::to_owned),
            Self::Nothing => None,
            Self::Column(name) => Some(name.clone()),
        }
    }
}

/// One column, or several.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub(crate) enum Names {
    One(String),
    Several(Vec<String>),
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Style {
    #[default]
    Instruct,
    Chat,
    ChatMl,
    Phi,
}

impl Style {
    /// Axolotl's `AlpacaPrompter`: the prompt, that without an input, and the system prompt.
    const fn formats(self) -> [&'static str; 3] {
        match self {
            Self::Instruct => [
                "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n",
                "### Instruction:\n{instruction}\n\n### Response:\n",
                "{system}\n\n",
            ],
            Self::Chat => {
                ["USER: {instruction}\n{input}\nASSISTANT:", "USER: {instruction}\nASSISTANT:", "SYSTEM: {system}\n"]
            }
            Self::ChatMl => [
                "<|im_start|>user\n{instruction}\n{input}<|im_end|>\n<|im_start|>assistant\n",
                "<|im_start|>user\n{instruction}<|im_end|>\n<|im_start|>assistant\n",
                "<|im_start|>system\n{system}<|im_end|>\n",
            ],
            Self::Phi => [
                "<|user|>\n{instruction}<|end|>{input}<|assistant|>",
                "<|user|>\n{instruction}<|end|>\n<|assistant|>\n",
                "<|system|>\n{system}<|end|>\n",
            ],
        }
    }
}

/// The texts around the columns.
pub(crate) struct Formats {
    pub(crate) with_input: Format,
    pub(crate) without_input: Format,
    pub(crate) system: Format,
}

impl Config {
    /// The prompt has a shape of the user's own.
    pub(crate) fn has_own_format(&self) -> bool {
        self.format.is_some() || self.no_input_format.is_some()
    }

    pub(crate) fn formats(&self) -> Result<Formats, Error> {
        // What Axolotl fills in where a shape gives some of the formats only (`prompt_strategies/user_defined.py`).
        let own = ["{instruction} {input} ", "{instruction} ", "{system}"];
        let [with_input, without_input, system] = if self.has_own_format() { own } else { self.style.formats() };
        let read = |key: &str, own: &Option<String>, default: &str, names: &[&str]| {
            let format = format(key, own.as_deref().unwrap_or(default), Some(names))?;
            if !format.has(names[0]) {
                let message = format!("`{key}` has no `{{{}}}`, so it would be the same for every row", names[0]);
                let help = format!("write `{{{0}}}` where the {0} belongs", names[0]);
                return Err(Error::config_with_help(key, message, help));
            }
            Ok(format)
        };
        Ok(Formats {
            with_input: read("format", &self.format, with_input, &["instruction", "input"])?,
            without_input: read("no_input_format", &self.no_input_format, without_input, &["instruction"])?,
            system: read("system_format", &self.system_format, system, &["system"])?,
        })
    }
}

/// The format of a key; any names, or these.
pub(crate) fn format(key: &str, format: &str, names: Option<&[&str]>) -> Result<Format, Error> {
    let read = names.map_or_else(|| Format::new(format), |names| Format::of(format, names));
    read.map_err(|message| {
        Error::config_with_help(key, format!("`{key}`: {message}"), "write `{{` and `}}` for braces of the text")
    })
}
