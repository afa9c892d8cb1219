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
pub(crate) struct Pattern {
    pieces: Vec<Piece>,
}

#[derive(Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    Name(&'static str),
}

impl Pattern {
    /// Reads the format of a key that may have these names; without one, or with an empty one, it is the first name.
    pub(crate) fn new(key: &str, format: Option<&String>, names: &[&'static str]) -> Result<Self, Error> {
        let Some(format) = format.filter(|format| !format.is_empty()) else {
            return Ok(Self { pieces: vec![Piece::Name(names[0])] });
        };
        let pieces = pieces(format, names).map_err(|message| {
            Error::config_with_help(key, format!("`{key}`: {message}"), "write `{{` and `}}` for braces of the text")
        })?;
        if !pieces.contains(&Piece::Name(names[0])) {
            let message = format!("`{key}` has no `{{{}}}`, so it would be the same for every row", names[0]);
            return Err(Error::config(key, message));
        }
        Ok(Self { pieces })
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.pieces.iter().any(|piece| matches!(piece, Piece::Name(own) if *own == name))
    }

    pub(crate) fn fill(&self, value: impl Fn(&str) -> String) -> String {
        self.pieces.iter().fold(String::new(), |text, piece| match piece {
            Piece::Text(own) => text + own,
            Piece::Name(name) => text + &value(name),
        })
    }
}

fn pieces(format: &str, names: &[&'static str]) -> Result<Vec<Piece>, String> {
    let mut pieces = Vec::new();
    let (mut text, mut rest) = (String::new(), format);
    while let Some(at) = rest.find(['{', '}']) {
        let (before, from) = rest.split_at(at);
        text.push_str(before);
        if let Some(after) = from.strip_prefix("{{").or_else(|| from.strip_prefix("}}")) {
            text.push_str(&from[..1]);
            rest = after;
            continue;
        }
        let Some((name, after)) = from.strip_prefix('{').and_then(|inside| inside.split_once('}')) else {
            return Err(format!("a single `{}`", &from[..1]));
        };
        let Some(known) = names.iter().find(|known| **known == name) else {
            let known: Vec<String> = names.iter().map(|name| format!("`{{{name}}}`")).collect();
            return Err(format!("`{{{name}}}` is not one of {}", known.join(", ")));
        };
        pieces.extend((!text.is_empty()).then(|| Piece::Text(std::mem::take(&mut text))));
        pieces.push(Piece::Name(known));
        rest = after;
    }
    text.push_str(rest);
    pieces.extend((!text.is_empty()).then_some(Piece::Text(text)));
    Ok(pieces)
}
