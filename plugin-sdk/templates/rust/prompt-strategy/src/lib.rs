//! Rows with a question and an answer: the model reads the question and learns to write the answer.

use plugin_sdk::Error;
use plugin_sdk::strategy::{PromptStrategy, RowError, Sample, Text, apart, bad_field, learn, read};
use serde::Deserialize;

/// What users can set. `config.schema.json` says the same to the host, which holds their config against it.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    ask: String,
}

impl Default for Config {
    fn default() -> Self {
        Self { ask: "Question: ".to_owned() }
    }
}

/// The columns that a row must have. A row that lacks one is reported with its file and line.
#[derive(Deserialize)]
pub struct Row {
    question: String,
    answer: String,
}

pub struct Strategy {
    config: Config,
}

impl PromptStrategy for Strategy {
    type Config = Config;
    type Row = Row;

    fn new(config: Config) -> Result<Self, Error> {
        Ok(Self { config })
    }

    fn render(&self, row: Row) -> Result<Option<Sample>, RowError> {
        if row.question.trim().is_empty() {
            return Err(bad_field("question", "`question` is empty"));
        }
        if row.answer.is_empty() {
            return Ok(None); // left out on purpose
        }
        let prompt = format!("{}{}\nAnswer: ", self.config.ask, row.question);
        // Tokenized apart, as they are when the model is used: no token is of both.
        Ok(Some(Sample::Supervised(Text::Segments(vec![read(prompt), apart(), learn(row.answer)]))))
    }
}

plugin_sdk::register_prompt_strategy!(
    Strategy,
    name: "{{name}}",
    description: "Questions and answers",
    config_schema: include_str!("../config.schema.json"),
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_answer_is_learned() {
        let strategy = Strategy::new(Config::default()).unwrap();
        let row = Row { question: "1+1?".to_owned(), answer: "2".to_owned() };
        let wanted = Text::Segments(vec![read("Question: 1+1?\nAnswer: "), apart(), learn("2")]);
        assert_eq!(strategy.render(row).unwrap(), Some(Sample::Supervised(wanted)));
    }
}
