//! How prompts and answers are written: the formats that Axolotl has by name, and those of a config.

use plugin_sdk::Error;

use crate::config::Format;

/// A format with turns, as data.
#[derive(Debug)]
pub(crate) struct Turns {
    /// A turn before and between role and content, and after the content.
    pub(crate) turn: [&'static str; 3],
    /// What the model's answer begins behind.
    pub(crate) open: &'static str,
    /// What ends an answer.
    pub(crate) end: &'static str,
    /// A prompt without a system message has an empty one.
    pub(crate) always_system: bool,
}

/// The texts of Axolotl's `prompt_strategies/{dpo,kto}/{chatml,llama3,zephyr}.py`.
pub(crate) const fn turns(format: Format) -> Option<&'static Turns> {
    match format {
        Format::Plain | Format::ChatTemplate => None,
        Format::ChatMl => Some(&Turns {
            turn: ["<|im_start|>", "\n", "<|im_end|>\n"],
            open: "<|im_start|>assistant\n",
            end: "<|im_end|>",
            always_system: false,
        }),
        Format::Llama3 => Some(&Turns {
            turn: ["<|start_header_id|>", "<|end_header_id|>\n\n", "<|eot_id|>"],
            open: "<|start_header_id|>assistant<|end_header_id|>\n\n",
            end: "<|eot_id|>",
            always_system: false,
        }),
        Format::Zephyr => {
            Some(&Turns { turn: ["<|", "|>\n", "</s>\n"], open: "<|assistant|>\n", end: "", always_system: true })
        }
    }
}

/// A text with names in braces, read as Python's `str.format` reads it.
#[derive(Debug)]
pub(crate) struct Pattern(plugin_sdk::format::Format);

impl Pattern {
    /// Reads the format of a key that may have these names; without one, or with an empty one, it is the first name.
    pub(crate) fn new(key: &str, format: Option<&String>, names: &[&'static str]) -> Result<Self, Error> {
        let alone = format!("{{{}}}", names[0]);
        let format = format.filter(|format| !format.is_empty()).unwrap_or(&alone);
        let pattern = plugin_sdk::format::Format::of(format, names).map_err(|message| {
            Error::config_with_help(key, format!("`{key}`: {message}"), "write `{{` and `}}` for braces of the text")
        })?;
        if !pattern.has(names[0]) {
            let message = format!("`{key}` has no `{{{}}}`, so it would be the same for every row", names[0]);
            return Err(Error::config(key, message));
        }
        Ok(Self(pattern))
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.0.has(name)
    }

    pub(crate) fn fill(&self, value: impl Fn(&str) -> String) -> String {
        self.0.fill(value)
    }
}
