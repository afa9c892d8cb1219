//! A strategy's sample in, token ids with a mask of what is trained out.
//!
//! A text is encoded as a whole, so that it has the tokens that any reader of it would see. A token is trained when the
//! text that it stands for starts inside a trained part; one that begins in the prompt and runs over into the
//! completion is not.

use std::ops::Range;

use plugin_runtime::types::{Conversation, Message, Segment, Text, TrainSpan};

use super::template::{ChatTemplate, TemplateError};
use super::tokenizer::{Affixes, Token, Tokenizer, TokenizerError};

/// Why a sample could not become tokens.
#[derive(Debug, thiserror::Error)]
pub enum TokenizeError {
    /// The tokenizer refused.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The template refused.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// A conversation, but nothing to render it with.
    #[error("the row is a conversation, but the model has no chat template")]
    NoTemplate,
    /// A span of a message that is not in its content.
    #[error("a train span {start}..{end} does not lie in a message of {length} characters")]
    BadSpan {
        /// First character.
        start: u32,
        /// One past the last.
        end: u32,
        /// Characters that there are.
        length: usize,
    },
    /// A loss weight that is none.
    #[error("the prompt strategy gave a text the weight {weight}; a weight is a finite number that is not negative")]
    BadWeight {
        /// The weight.
        weight: f32,
    },
    /// Nothing to learn from, and nothing to read.
    #[error("the row has no text")]
    Empty,
}

/// A tokenized sample.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenSample {
    /// Token ids.
    pub ids: Vec<u32>,
    /// True where the token is learned.
    pub trained: Vec<bool>,
    /// Loss weight per token, where any differs from 1.
    pub weights: Option<Vec<f32>>,
}

impl TokenSample {
    /// Tokens that are learned. The first token of a text has nothing before it to be predicted from.
    pub fn trained_tokens(&self) -> usize {
        self.trained.iter().skip(1).filter(|&&trained| trained).count()
    }

    /// Shortens to `length` tokens.
    pub fn truncate(&mut self, length: usize) {
        self.ids.truncate(length);
        self.trained.truncate(length);
        if let Some(weights) = &mut self.weights {
            weights.truncate(length);
        }
    }

    /// The tokens before the first trained one: what the model is given when it has to write the rest.
    pub fn prompt_ids(&self) -> &[u32] {
        let end = self.trained.iter().position(|&trained| trained).unwrap_or(self.ids.len());
        &self.ids[..end]
    }

    /// The trained tokens that follow the prompt without a gap.
    pub fn completion_ids(&self) -> &[u32] {
        let start = self.prompt_ids().len();
        let length = self.trained[start..].iter().take_while(|&&trained| trained).count();
        &self.ids[start..start + length]
    }
}

/// What turns samples into tokens: the tokenizer, the template, and what the config says about both.
#[derive(Debug)]
pub struct Encoder<'a> {
    /// The model's tokenizer.
    pub tokenizer: &'a Tokenizer,
    /// How conversations are written.
    pub template: Option<&'a ChatTemplate>,
    /// Learn the prompt too (`train_on_inputs`).
    pub train_on_inputs: bool,
    /// Tokens that end a turn beside the end-of-text token (`eot_tokens`).
    pub end_of_turn: Vec<u32>,
}

/// A part of a text and how it is learned.
#[derive(Debug, Clone, PartialEq)]
struct Part {
    bytes: Range<usize>,
    train: bool,
    weight: f32,
}

impl Encoder<'_> {
    /// Tokens and mask of one supervised text.
    pub fn encode(&self, text: &Text) -> Result<TokenSample, TokenizeError> {
        match text {
            Text::Segments(segments) => self.encode_segments(segments),
            Text::Conversation(conversation) => self.encode_conversation(conversation),
        }
    }

    fn encode_segments(&self, segments: &[Segment]) -> Result<TokenSample, TokenizeError> {
        let mut text = String::new();
        let mut parts = Vec::with_capacity(segments.len());
        for segment in segments {
            let start = text.len();
            text.push_str(&segment.text);
            let train = segment.train || self.train_on_inputs;
            let weight = segment.weight.unwrap_or(1.0);
            if !(weight.is_finite() && weight >= 0.0) {
                return Err(TokenizeError::BadWeight { weight });
            }
            parts.push(Part { bytes: start..text.len(), train, weight });
        }
        if text.is_empty() {
            return Err(TokenizeError::Empty);
        }
        let mut sample = mask(&self.tokenizer.encode(&text)?, &parts);
        let Affixes { prefix, suffix } = self.tokenizer.affixes();
        if !sample.ids.starts_with(prefix) {
            for (at, &id) in prefix.iter().enumerate() {
                push(&mut sample, at, id, self.train_on_inputs, 1.0);
            }
        }
        // The end of a text that is learned is learned too: the model must know when to stop.
        let (train, weight) = parts
            .iter()
            .rev()
            .find(|part| !part.bytes.is_empty())
            .map_or((false, 1.0), |part| (part.train, part.weight));
        if !suffix.is_empty() && !sample.ids.ends_with(suffix) {
            for &id in suffix {
                let at = sample.ids.len();
                push(&mut sample, at, id, train, weight);
            }
        }
        if let Some(eos) = self.tokenizer.eos().filter(|_| train)
            && sample.ids.last() != Some(&eos)
        {
            let at = sample.ids.len();
            push(&mut sample, at, eos, true, weight);
        }
        Ok(sample)
    }

    fn encode_conversation(&self, conversation: &Conversation) -> Result<TokenSample, TokenizeError> {
        let template = self.template.ok_or(TokenizeError::NoTemplate)?;
        let rendered = template.render(conversation)?;
        let tokens = self.tokenizer.encode(&rendered.text)?;
        if tokens.is_empty() {
            return Err(TokenizeError::Empty);
        }
        let mut parts = Vec::new();
        let mut ends = Vec::new();
        for (message, range) in conversation.messages.iter().zip(&rendered.turns) {
            let train = message.train.unwrap_or(message.role == "assistant") || self.train_on_inputs;
            parts.push(Part { bytes: range.clone(), train, weight: 1.0 });
            for span in &message.spans {
                if let Some(bytes) = span_bytes(message, span, range, &rendered.text)? {
                    parts.push(Part { bytes, train: span.train, weight: 1.0 });
                }
            }
            if train && conversation.train_on_eos.unwrap_or(true) && !range.is_empty() {
                ends.push(range.end);
            }
        }
        let mut sample = mask(&tokens, &parts);
        // The token with which the template ends a learned turn: the first end-of-turn token after it, before the next turn.
        for end in ends {
            let next_turn = rendered.turns.iter().map(|range| range.start).filter(|&start| start >= end).min();
            let found = tokens.iter().position(|token| {
                token.start >= end
                    && next_turn.is_none_or(|next| token.start < next)
                    && (Some(token.id) == self.tokenizer.eos() || self.end_of_turn.contains(&token.id))
            });
            if let Some(index) = found {
                sample.trained[index] = true;
            }
        }
        Ok(sample)
    }
}

/// The bytes of the rendered text that a span of a message's characters became; none where the template cut it away.
fn span_bytes(
    message: &Message,
    span: &TrainSpan,
    turn: &Range<usize>,
    text: &str,
) -> Result<Option<Range<usize>>, TokenizeError> {
    let length = message.content.chars().count();
    if span.start > span.end || span.end as usize > length {
        return Err(TokenizeError::BadSpan { start: span.start, end: span.end, length });
    }
    let byte = |character: u32| {
        message.content.char_indices().nth(character as usize).map_or(message.content.len(), |(at, _)| at)
    };
    let (start, end) = (byte(span.start), byte(span.end));
    // A template that trims the content starts the turn later than the content does.
    let Some(cut) = message.content.find(&text[turn.clone()]) else { return Ok(None) };
    let shift = |at: usize| (turn.start + at.saturating_sub(cut)).min(turn.end);
    let bytes = shift(start)..shift(end);
    Ok((!bytes.is_empty()).then_some(bytes))
}

/// Later parts win over earlier ones, so that a span overrides its turn.
fn mask(tokens: &[Token], parts: &[Part]) -> TokenSample {
    let mut sample =
        TokenSample { ids: Vec::with_capacity(tokens.len()), trained: Vec::with_capacity(tokens.len()), weights: None };
    for (index, token) in tokens.iter().enumerate() {
        let part = parts.iter().rev().find(|part| part.bytes.contains(&token.start));
        let (train, weight) = part.map_or((false, 1.0), |part| (part.train, part.weight));
        push(&mut sample, index, token.id, train, weight);
    }
    sample
}

#[expect(clippy::float_cmp, reason = "1 is the exact default, not a computed value")]
fn push(sample: &mut TokenSample, at: usize, id: u32, train: bool, weight: f32) {
    if weight != 1.0 && sample.weights.is_none() {
        sample.weights = Some(vec![1.0; sample.ids.len()]);
    }
    sample.ids.insert(at, id);
    sample.trained.insert(at, train);
    if let Some(weights) = &mut sample.weights {
        weights.insert(at, weight);
    }
}
