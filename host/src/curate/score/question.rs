//! What a judge is asked about a row: a prompt with the row's text in it, as a user's turn where the model has a chat template.

use plugin_runtime::types::{Conversation, Message, Segment, Text};

use super::base::BaseModel;
use crate::config::{LoadedConfig, ROW, Score};
use crate::curate::verdict::NoScore;
use crate::data::template::TemplateError;
use crate::data::tokenize::{Encoder, TextBudget, TokenSample, TokenizeError};
use crate::diagnostic::{Diagnostic, Failure};

/// What is asked where the config has no prompt of its own. It ends a line, so that the next token is the digit without a space.
const DEFAULT_PROMPT: &str = "\
Below, between the two lines of dashes, is an example from which a language model may be trained.

----------
{{ row }}
----------

How high is its educational value? Judge by these points:
1: wrong, broken or without content
2: of little use, or hard to understand
3: correct as far as one can tell, and of some use
4: correct, clear and useful
5: correct, clear, complete, and worth learning from

Answer with one digit from 1 to 5, and nothing else.
";

/// A prompt, and what makes it tokens.
pub(super) struct Question<'a> {
    loaded: &'a LoadedConfig,
    encoder: Encoder<'a>,
    prompt: String,
    /// Tokens that a question may have: those of a text of `sequence_len` and of the prompt, as far as the model has positions.
    pub(super) limit: usize,
}

impl<'a> Question<'a> {
    pub(super) fn new(loaded: &'a LoadedConfig, base: BaseModel<'a>, score: &Score) -> Result<Self, Failure> {
        let sequence_len = loaded.config.sequence_len as usize;
        let encoder = Encoder {
            tokenizer: &base.facts.tokenizer,
            template: base.template,
            train_on_inputs: false,
            end_of_turn: Vec::new(),
            keeps_text: false,
            budget: TextBudget { bytes: usize::MAX, cuts: false },
        };
        let prompt = score.prompt.clone().unwrap_or_else(|| DEFAULT_PROMPT.to_owned());
        let mut question = Self { loaded, encoder, prompt, limit: 0 };
        let own = question.encode("").map_err(|error| question.refused(&error))?.ids.len();
        question.limit = (sequence_len + own).min(base.facts.config.max_position_embeddings);
        question.encoder.budget = TextBudget::of(question.limit, false);
        Ok(question)
    }

    /// The tokens that mean 1, 2, 3, 4 and 5.
    pub(super) fn digits(&self) -> Result<[u32; 5], Failure> {
        let mut ids = [0; 5];
        for (id, digit) in ids.iter_mut().zip(["1", "2", "3", "4", "5"]) {
            *id = self.encoder.tokenizer.id_of(digit).ok_or_else(|| {
                let message = format!("the tokenizer has no token that is `{digit}`");
                Diagnostic::error("curation::no-digits", message)
                    .at(self.loaded.source.nearest_place("curation.score.by"))
                    .why("a judge answers with one token, a digit from 1 to 5")
                    .help("take a model whose tokenizer has the digits, or another `by`")
            })?;
        }
        Ok(ids)
    }

    /// What is asked about a text.
    pub(super) fn about(&self, text: &str) -> Result<Result<Vec<TokenSample>, NoScore>, Failure> {
        match self.encode(text) {
            Ok(tokens) if tokens.ids.len() <= self.limit => Ok(Ok(vec![tokens])),
            Ok(_) | Err(TokenizeError::TooLong { .. } | TokenizeError::Template(TemplateError::TooLong(_))) => {
                Ok(Err(NoScore::LongText))
            }
            Err(error) => Err(self.refused(&error)),
        }
    }

    fn encode(&self, text: &str) -> Result<TokenSample, TokenizeError> {
        let text = self.prompt.replace(ROW, text);
        let text = if self.encoder.template.is_some() {
            let message =
                Message { role: "user".to_owned(), content: text, train: None, spans: Vec::new(), extra_json: None };
            Text::Conversation(Conversation { messages: vec![message], tools_json: None, train_on_eos: None })
        } else {
            Text::Segments(vec![Segment { text, train: false, weight: None }])
        };
        Ok(self.encoder.encode_prompt(&text)?.tokens)
    }

    fn refused(&self, error: &TokenizeError) -> Failure {
        Diagnostic::error("curation::prompt", "the judge cannot be asked")
            .at(self.loaded.source.nearest_place("curation.score"))
            .why(error.to_string())
            .into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_prompt_has_the_row_once_and_ends_a_line() {
        assert_eq!(DEFAULT_PROMPT.matches(ROW).count(), 1);
        assert!(DEFAULT_PROMPT.ends_with(".\n"));
    }
}
