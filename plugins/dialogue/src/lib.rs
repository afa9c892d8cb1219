//! Dialogues in two formats that Axolotl has as types of their own: `llama2_chat` and `pygmalion`. The column `conversations`
//! holds the turns. New data is better off with `chat_template`, which takes the model's own template.
//!
//! The tokens are those of Axolotl 0.19 (`prompt_strategies/{llama2_chat,pygmalion}.py`) where the model is one of those that
//! the format was made for. Known differences, on purpose:
//! - a role that the format does not know, turns out of order and empty texts are the row's error. Axolotl's `pygmalion` takes
//!   the labels of the turn before for a role that it does not know.
//! - `llama2_chat` ends with the end of the last answer. Axolotl adds the `<s>` of a turn that does not come, which is learned,
//!   and fills the sequence with padding.
//! - `llama2_chat` leaves a `[` in the middle of a text as it is. Axolotl writes the token of one with a space in front for it.

use plugin_sdk::Error;
use plugin_sdk::strategy::{
    PromptStrategy, RowError, Sample, Segment, Text, apart, bad_field, end_of_text, learn, read,
};
use serde::Deserialize;
use serde_json::{Map, Value};

const COLUMN: &str = "conversations";
/// The system message of a conversation without one.
const SYSTEM: &str = "You are a helpful, respectful and honest assistant. Always answer as helpfully as possible, while being safe. Your answers should not include any harmful, unethical, racist, sexist, toxic, dangerous, or illegal content. Please ensure that your responses are socially unbiased and positive in nature.\n\nIf a question does not make any sense, or is not factually coherent, explain why instead of answering something not correct. If you don't know the answer to a question, please don't share false information.";

/// What can be set.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// How turns are written.
    format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Format {
    /// Turns of `human` and `gpt` (`from`, `value`), behind a `system` message if there is one.
    Llama2Chat,
    /// Turns of `human` and `bot` (`role`, `value`), and of `system`.
    Pygmalion,
}

/// The strategy.
pub struct Dialogue {
    format: Format,
}

struct Turn<'a> {
    role: &'a str,
    text: &'a str,
}

impl PromptStrategy for Dialogue {
    type Config = Config;
    type Row = Map<String, Value>;

    fn new(config: Config) -> Result<Self, Error> {
        Ok(Self { format: config.format })
    }

    fn render(&self, row: Map<String, Value>) -> Result<Option<Sample>, RowError> {
        let bad = |message: String| bad_field(COLUMN, message);
        let list = match row.get(COLUMN) {
            Some(Value::Array(list)) => list,
            Some(_) => return Err(bad(format!("`{COLUMN}` must be a list of turns"))),
            None => {
                let has: Vec<&str> = row.keys().take(8).map(String::as_str).collect();
                let has = if has.is_empty() { "no column at all".to_owned() } else { has.join(", ") };
                return Err(bad(format!("the row has no `{COLUMN}`; it has {has}")));
            }
        };
        let (role_field, roles) = match self.format {
            Format::Llama2Chat => ("from", ["system", "human", "gpt"]),
            Format::Pygmalion => ("role", ["system", "human", "bot"]),
        };
        let mut turns = Vec::with_capacity(list.len());
        for (index, turn) in list.iter().enumerate() {
            let what = |words: String| bad(format!("turn {}: {words}", index + 1));
            let text = |field: &str| match turn.get(field) {
                Some(Value::String(text)) => Ok(text.as_str()),
                _ => Err(what(format!("`{field}` must be a text"))),
            };
            let (role, text) = (text(role_field)?, text("value")?);
            if !roles.contains(&role) {
                return Err(what(format!("the role `{role}` is not one of `{}`", roles.join("`, `"))));
            }
            turns.push(Turn { role, text });
        }
        let segments = match self.format {
            Format::Llama2Chat => llama2_chat(&turns).map_err(bad)?,
            Format::Pygmalion => pygmalion(&turns).map_err(bad)?,
        };
        Ok(Some(Sample::Supervised(Text::Segments(segments))))
    }
}

/// A question and its answer, each pair by itself; the first stands behind the system message.
fn llama2_chat(turns: &[Turn<'_>]) -> Result<Vec<Segment>, String> {
    let (system, mut turns) = match turns {
        [first, rest @ ..] if first.role == "system" => (first.text, rest),
        turns => (SYSTEM, turns),
    };
    if turns.len() > 1 && turns[0].role == "gpt" {
        turns = &turns[1..];
    }
    let skipped = usize::from(system != SYSTEM);
    for (index, turn) in turns.iter().enumerate() {
        let expected = if index % 2 == 0 { "human" } else { "gpt" };
        if turn.role != expected {
            return Err(format!("the turns of `human` and `gpt` do not alternate at `{}`", turn.role));
        }
        if turn.text.is_empty() {
            return Err(format!("turn {}: `value` is empty", index + 1 + skipped));
        }
    }
    if turns.len() < 2 {
        return Err("there is no question with an answer".to_owned());
    }
    let mut segments = Vec::new();
    for (index, pair) in turns.chunks_exact(2).enumerate() {
        let (question, answer) = (pair[0].text.trim(), pair[1].text.trim());
        let prompt = if index == 0 {
            format!("[INST] <<SYS>>\n{system}\n<</SYS>>\n\n{question}[/INST]")
        } else {
            segments.extend([apart(), read("<s>"), apart()]);
            format!("[INST] {question} [/INST]")
        };
        segments.extend([read(prompt), learn(format!(" {answer} </s>"))]);
    }
    Ok(segments)
}

/// Each turn by itself, behind the name of who speaks.
fn pygmalion(turns: &[Turn<'_>]) -> Result<Vec<Segment>, String> {
    if turns.is_empty() {
        return Err(format!("`{COLUMN}` is an empty list"));
    }
    let mut segments = Vec::new();
    for (index, turn) in turns.iter().enumerate() {
        let text = turn.text;
        match turn.role {
            "system" if index > 0 => return Err(format!("turn {}: only the first can be of `system`", index + 1)),
            "system" => {
                let text = text.strip_suffix("\n<START>").unwrap_or(text).trim();
                segments.push(read(format!("<|system|>Persona: {text}")));
            }
            // Only a system message has the tokenizer's first token in front.
            "human" => segments.extend([apart(), read(format!("<|user|> {}", text.trim()))]),
            _ => {
                let answer = format!(" {}", text.trim());
                segments.extend([apart(), read("<|model|>"), learn(answer), end_of_text()]);
            }
        }
    }
    segments.push(apart());
    Ok(segments)
}

plugin_sdk::register_prompt_strategy!(
    Dialogue,
    name: "dialogue",
    description: "Dialogues in the texts of Llama 2 Chat and of Pygmalion",
);

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn render(format: Format, turns: Value) -> Result<Vec<Segment>, String> {
        let Value::Object(row) = json!({"conversations": turns}) else { panic!("a row is an object") };
        match (Dialogue { format }).render(row).map_err(|error| error.message)? {
            Some(Sample::Supervised(Text::Segments(segments))) => Ok(segments),
            other => panic!("{other:?}"),
        }
    }

    fn llama(turns: &[(&str, &str)]) -> Result<Vec<Segment>, String> {
        render(Format::Llama2Chat, turns.iter().map(|(from, value)| json!({"from": from, "value": value})).collect())
    }

    fn pygmalion(turns: &[(&str, &str)]) -> Result<Vec<Segment>, String> {
        render(Format::Pygmalion, turns.iter().map(|(role, value)| json!({"role": role, "value": value})).collect())
    }

    #[test]
    fn llamas_pairs_follow_the_system_message() {
        let found =
            llama(&[("system", "S"), ("human", " q "), ("gpt", "a"), ("human", "r"), ("gpt", "b"), ("human", "s")]);
        let prompt = read("[INST] <<SYS>>\nS\n<</SYS>>\n\nq[/INST]");
        let second = [apart(), read("<s>"), apart(), read("[INST] r [/INST]"), learn(" b </s>")];
        assert_eq!(found.unwrap(), [vec![prompt, learn(" a </s>")], second.to_vec()].concat());
        let own = llama(&[("gpt", "hello"), ("human", "q"), ("gpt", "a")]).unwrap();
        assert!(own[0].text.starts_with("[INST] <<SYS>>\nYou are a helpful") && own.len() == 2, "{own:?}");
    }

    #[test]
    fn pygmalions_turns_stand_apart() {
        let found = pygmalion(&[("system", "P \n<START>"), ("human", "q"), ("bot", " a\n")]).unwrap();
        let answer = [apart(), read("<|model|>"), learn(" a"), end_of_text(), apart()];
        let prompt = vec![read("<|system|>Persona: P"), apart(), read("<|user|> q")];
        assert_eq!(found, [prompt, answer.to_vec()].concat());
        assert_eq!(pygmalion(&[("bot", "a")]).unwrap()[0], apart());
    }

    #[test]
    fn bad_rows_say_which_turn() {
        let told = |found: Result<Vec<Segment>, String>| found.unwrap_err();
        assert_eq!(told(llama(&[("human", "q")])), "there is no question with an answer");
        assert_eq!(told(llama(&[("user", "q")])), "turn 1: the role `user` is not one of `system`, `human`, `gpt`");
        assert_eq!(
            told(llama(&[("human", "q"), ("human", "r")])),
            "the turns of `human` and `gpt` do not alternate at `human`"
        );
        assert_eq!(told(llama(&[("system", "s"), ("human", "q"), ("gpt", "")])), "turn 3: `value` is empty");
        assert_eq!(told(pygmalion(&[("bot", "a"), ("system", "s")])), "turn 2: only the first can be of `system`");
        assert_eq!(told(pygmalion(&[])), "`conversations` is an empty list");
        assert_eq!(told(render(Format::Pygmalion, json!([{"role": "bot"}]))), "turn 1: `value` must be a text");
        assert_eq!(told(render(Format::Pygmalion, json!("x"))), "`conversations` must be a list of turns");
    }
}
