//! A strategy's sample in, token ids with a mask of what is trained out.
//!
//! What is learned of a conversation is what the template wrote for its trained turns, and the token that ends them.
//! A text is encoded as a whole, so that it has the tokens that any reader of it would see. A token is trained when the
//! text that it stands for starts inside a trained part; one that begins in the prompt and runs over into the
//! completion is not. A turn of a conversation begins with the token that its first character is in, as in Axolotl.

use std::collections::BTreeSet;
use std::ops::Range;

use plugin_runtime::types::{Conversation, Message, Segment, Text, TrainSpan};

use super::template::{ChatTemplate, TemplateError, Turn};
use super::tokenizer::{Affixes, Token, Tokenizer, TokenizerError};

/// Bytes that a text may have that is cut in pieces.
const PLAIN_LIMIT: usize = 8 << 20;

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
    /// More text than the tokens of a sequence could stand for.
    #[error("it has {bytes} bytes of text, more than a sequence of `sequence_len` tokens could hold")]
    TooLong {
        /// Bytes.
        bytes: usize,
    },
    /// More text than is cut in pieces.
    #[error(
        "it has {bytes} bytes of text; a text that is learned in pieces has {PLAIN_LIMIT} at most, so split the row"
    )]
    TooMuchText {
        /// Bytes.
        bytes: usize,
    },
    /// A prompt of one kind and an answer of the other.
    #[error("the prompt is {prompt}, but the answer is {answer}")]
    Mixed {
        /// The kind of the prompt.
        prompt: &'static str,
        /// That of the answer.
        answer: &'static str,
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
    /// Tokens that are learned: with a weight above zero. The first token of a text has nothing before it to be predicted from.
    pub fn trained_tokens(&self) -> usize {
        (0..self.trained.len()).filter(|&index| self.is_learned(index)).count()
    }

    /// True for a token of [`Self::trained_tokens`].
    pub fn is_learned(&self, index: usize) -> bool {
        index > 0 && self.trained[index] && self.weights.as_ref().is_none_or(|weights| weights[index] > 0.0)
    }

    /// Some of its tokens.
    #[must_use]
    pub fn part(&self, range: Range<usize>) -> Self {
        Self {
            ids: self.ids[range.clone()].to_vec(),
            trained: self.trained[range.clone()].to_vec(),
            weights: self.weights.as_ref().map(|weights| weights[range].to_vec()),
        }
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
    /// Samples keep the text that they were made of.
    pub keeps_text: bool,
    /// How much text is tokenized.
    pub budget: TextBudget,
}

/// How much text of a sample is tokenized: far more than a sequence could hold, and not all that a row could have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TextBudget {
    /// Bytes.
    pub bytes: usize,
    /// A longer text is cut to so many; it is an error otherwise.
    pub cuts: bool,
}

impl TextBudget {
    /// For sequences of so many tokens. A token stands for some four bytes of a text; where all would stand for many times
    /// that, it is the same few characters over and over.
    pub fn of(sequence_len: usize, cuts: bool) -> Self {
        Self { bytes: (64 << 10) + sequence_len.saturating_mul(64), cuts }
    }

    /// Cuts a text, or refuses it. True if it was cut.
    fn apply(self, text: &mut String) -> Result<bool, TokenizeError> {
        if text.len() <= self.bytes {
            return Ok(false);
        }
        if !self.cuts {
            return Err(TokenizeError::TooLong { bytes: text.len() });
        }
        text.truncate(text.floor_char_boundary(self.bytes));
        Ok(true)
    }
}

/// What a text became.
#[derive(Debug, Clone, PartialEq)]
pub struct Encoded {
    /// The tokens.
    pub tokens: TokenSample,
    /// The text that they were made of.
    pub text: String,
    /// For each token, the bytes of the text that it stands for; none for a token that was added.
    pub places: Vec<Range<usize>>,
    /// Roles of messages that the chat template left out of the text.
    pub unwritten: BTreeSet<String>,
}

impl Encoded {
    /// Adds a token that stands for no text.
    fn add(&mut self, id: u32, train: bool, weight: f32) {
        let at = self.tokens.ids.len();
        push(&mut self.tokens, at, id, train, weight);
        self.places.push(self.text.len()..self.text.len());
    }
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
    pub fn encode(&self, text: &Text) -> Result<Encoded, TokenizeError> {
        match text {
            Text::Segments(segments) => self.encode_segments(segments),
            Text::Conversation(conversation) => self.encode_conversation(conversation),
        }
    }

    /// Tokens of a prompt that the model is to answer; nothing of them is learned.
    pub fn encode_prompt(&self, text: &Text) -> Result<Encoded, TokenizeError> {
        let (mut written, unwritten) = match text {
            Text::Segments(segments) => {
                (segments.iter().map(|segment| segment.text.as_str()).collect(), BTreeSet::new())
            }
            Text::Conversation(conversation) => {
                let template = self.template.ok_or(TokenizeError::NoTemplate)?;
                (template.prompt(conversation)?, BTreeSet::new())
            }
        };
        self.budget.apply(&mut written)?;
        let tokens = self.tokenizer.encode(&written)?;
        let mut places = places(&tokens);
        let mut ids: Vec<u32> = tokens.iter().map(|token| token.id).collect();
        let prefix = &self.tokenizer.affixes().prefix;
        let has_prefix = |segments: &Vec<Segment>| !segments.first().is_some_and(is_mark);
        if matches!(text, Text::Segments(segments) if has_prefix(segments)) && !ids.starts_with(prefix) {
            ids.splice(0..0, prefix.iter().copied());
            places.splice(0..0, std::iter::repeat_n(0..0, prefix.len()));
        }
        if ids.is_empty() {
            return Err(TokenizeError::Empty);
        }
        let tokens = TokenSample { trained: vec![false; ids.len()], ids, weights: None };
        Ok(Encoded { tokens, text: written, places, unwritten })
    }

    fn encode_segments(&self, segments: &[Segment]) -> Result<Encoded, TokenizeError> {
        self.encode_pieces(segments, self.budget)
    }

    /// A text of which all is learned, of which nothing is left out: one that is longer than a sequence is cut in pieces.
    pub fn encode_plain(&self, segments: &[Segment]) -> Result<Encoded, TokenizeError> {
        let bytes = segments.iter().map(|segment| segment.text.len()).sum();
        if bytes > PLAIN_LIMIT {
            return Err(TokenizeError::TooMuchText { bytes });
        }
        self.encode_pieces(segments, TextBudget { bytes: PLAIN_LIMIT, cuts: false })
    }

    /// The texts between marks are tokenized one by one.
    fn encode_pieces(&self, segments: &[Segment], budget: TextBudget) -> Result<Encoded, TokenizeError> {
        if let Some(weight) = segments.iter().filter_map(|segment| segment.weight).find(|weight| !is_weight(*weight)) {
            return Err(TokenizeError::BadWeight { weight });
        }
        let bytes: usize = segments.iter().map(|segment| segment.text.len()).sum();
        if bytes == 0 {
            return Err(TokenizeError::Empty);
        }
        if bytes > budget.bytes && !budget.cuts {
            return Err(TokenizeError::TooLong { bytes });
        }
        let mut encoded = Encoded {
            tokens: TokenSample { ids: Vec::new(), trained: Vec::new(), weights: None },
            text: String::new(),
            places: Vec::new(),
            unwritten: BTreeSet::new(),
        };
        let Affixes { prefix, suffix } = self.tokenizer.affixes();
        let mut rest = segments;
        let mut is_cut = false;
        while !rest.is_empty() && !is_cut {
            let length = rest.iter().position(is_mark).unwrap_or(rest.len());
            let (piece, behind) = rest.split_at(length);
            is_cut = self.add_piece(&mut encoded, piece, budget)?;
            rest = behind;
            let mut ends = behind.iter().take_while(|segment| is_mark(segment)).peekable();
            // A text that ends with the token has the first of them.
            let mut has_end = encoded.tokens.ids.last().copied() == self.tokenizer.eos();
            while let Some(mark) = ends.next_if(|_| !is_cut) {
                if let Some(eos) = self.tokenizer.eos().filter(|_| mark.train && !std::mem::take(&mut has_end)) {
                    encoded.add(eos, true, 1.0);
                }
                rest = &rest[1..];
            }
        }
        if !segments.first().is_some_and(is_mark) && !encoded.tokens.ids.starts_with(prefix) {
            for (at, &id) in prefix.iter().enumerate() {
                push(&mut encoded.tokens, at, id, self.train_on_inputs, 1.0);
            }
            encoded.places.splice(0..0, std::iter::repeat_n(0..0, prefix.len()));
        }
        if is_cut || segments.last().is_some_and(is_mark) {
            return Ok(encoded);
        }
        // The end of a text that is learned is learned too: the model must know when to stop.
        let (train, weight) = segments
            .iter()
            .rev()
            .find(|segment| !segment.text.is_empty())
            .map_or((false, 1.0), |last| (last.train || self.train_on_inputs, last.weight.unwrap_or(1.0)));
        if !suffix.is_empty() && !encoded.tokens.ids.ends_with(suffix) {
            for &id in suffix {
                encoded.add(id, train, weight);
            }
        }
        if let Some(eos) = self.tokenizer.eos().filter(|_| train)
            && encoded.tokens.ids.last() != Some(&eos)
        {
            encoded.add(eos, true, weight);
        }
        Ok(encoded)
    }

    /// Adds the tokens of a text, as much of it as the budget has; true if that is not all.
    fn add_piece(
        &self,
        encoded: &mut Encoded,
        segments: &[Segment],
        budget: TextBudget,
    ) -> Result<bool, TokenizeError> {
        let mut text = String::new();
        let mut parts = Vec::with_capacity(segments.len());
        for segment in segments {
            let start = text.len();
            text.push_str(&segment.text);
            let train = segment.train || self.train_on_inputs;
            parts.push(Part { bytes: start..text.len(), train, weight: segment.weight.unwrap_or(1.0) });
        }
        let budget = TextBudget { bytes: budget.bytes - encoded.text.len().min(budget.bytes), ..budget };
        let is_cut = budget.apply(&mut text)?;
        if text.is_empty() {
            return Ok(is_cut);
        }
        let tokens = self.tokenizer.encode(&text)?;
        let (offset, masked) = (encoded.text.len(), mask(&tokens, &parts));
        for (index, token) in tokens.iter().enumerate() {
            let weight = masked.weights.as_ref().map_or(1.0, |weights| weights[index]);
            let at = encoded.tokens.ids.len();
            push(&mut encoded.tokens, at, token.id, masked.trained[index], weight);
            encoded.places.push(token.start + offset..token.end + offset);
        }
        encoded.text.push_str(&text);
        Ok(is_cut)
    }

    fn encode_conversation(&self, conversation: &Conversation) -> Result<Encoded, TokenizeError> {
        let template = self.template.ok_or(TokenizeError::NoTemplate)?;
        for message in &conversation.messages {
            check_spans(message)?;
        }
        let learned: Vec<Learned> =
            conversation.messages.iter().map(|message| self.learned(conversation, message)).collect();
        let needed: Vec<bool> = learned.iter().map(|learned| learned.any).collect();
        let mut rendered = template.render(conversation, &needed)?;
        self.budget.apply(&mut rendered.text)?;
        let tokens = self.tokenizer.encode(&rendered.text)?;
        if tokens.is_empty() {
            return Err(TokenizeError::Empty);
        }
        let mut parts = Vec::new();
        for ((message, turn), learned) in conversation.messages.iter().zip(&rendered.turns).zip(&learned) {
            parts.push(Part { bytes: from_token(&tokens, &turn.bytes), train: learned.turn, weight: 1.0 });
            let spans = message.spans.iter().zip(&turn.spans);
            parts.extend(spans.map(|(span, bytes)| Part { bytes: bytes.clone(), train: span.train, weight: 1.0 }));
        }
        let mut sample = mask(&tokens, &parts);
        let mut starts: Vec<usize> =
            rendered.turns.iter().filter(|turn| !turn.bytes.is_empty()).map(|turn| turn.bytes.start).collect();
        starts.sort_unstable();
        for (turn, learned) in rendered.turns.iter().zip(&learned) {
            if learned.any && !turn.bytes.is_empty() {
                self.end_turn(&mut sample, &tokens, turn, learned.end, &starts);
            }
        }
        let places = places(&tokens);
        Ok(Encoded { tokens: sample, text: rendered.text, places, unwritten: rendered.unwritten })
    }

    /// Anything of the conversation is to be learned, if the template writes it.
    pub fn learns_any(&self, conversation: &Conversation) -> bool {
        conversation.messages.iter().any(|message| self.learned(conversation, message).any)
    }

    /// What is learned of a message.
    fn learned(&self, conversation: &Conversation, message: &Message) -> Learned {
        let turn = message.train.unwrap_or(message.role == "assistant") || self.train_on_inputs;
        let own_end = message.spans.iter().rfind(|span| is_end(message, span)).map(|span| span.train);
        let end = own_end.unwrap_or(turn && conversation.train_on_eos.unwrap_or(true));
        Learned { turn, end, any: turn || end || message.spans.iter().any(|span| span.train) }
    }

    /// Learns the token with which the template ends a turn, or does not: the first end-of-turn token behind the turn and
    /// before the next one; the last one of the turn's own bytes, if those hold its end.
    fn end_turn(&self, sample: &mut TokenSample, tokens: &[Token], turn: &Turn, learns: bool, starts: &[usize]) {
        let is_end = |token: &Token| Some(token.id) == self.tokenizer.eos() || self.end_of_turn.contains(&token.id);
        if turn.holds_end {
            let own = tokens_in(tokens, &turn.bytes);
            let Some(at) = tokens[own.clone()].iter().rposition(is_end) else { return };
            sample.trained[own.start + at] &= learns;
            sample.trained[own.start + at + 1..own.end].fill(false);
            return;
        }
        let next = starts.partition_point(|&start| start < turn.bytes.end);
        let until = starts.get(next).copied().unwrap_or(usize::MAX);
        let behind = tokens_in(tokens, &(turn.bytes.end..until));
        if let Some(at) = tokens[behind.clone()].iter().position(is_end).filter(|_| learns) {
            sample.trained[behind.start + at] = true;
        }
    }
}

/// A prompt, nothing of which is learned, and an answer to it as one text.
pub fn joined(prompt: &Text, answer: &Text) -> Result<Text, TokenizeError> {
    match (prompt, answer) {
        (Text::Segments(prompt), Text::Segments(answer)) => {
            let read = prompt.iter().map(|segment| Segment { train: false, ..segment.clone() });
            Ok(Text::Segments(read.chain(answer.iter().cloned()).collect()))
        }
        (Text::Conversation(prompt), Text::Conversation(answer)) => {
            let read = |message: &Message| Message { train: Some(false), spans: Vec::new(), ..message.clone() };
            let messages = prompt.messages.iter().map(read).chain(answer.messages.iter().cloned()).collect();
            Ok(Text::Conversation(Conversation {
                messages,
                tools_json: prompt.tools_json.clone().or_else(|| answer.tools_json.clone()),
                train_on_eos: answer.train_on_eos.or(prompt.train_on_eos),
            }))
        }
        (prompt, answer) => Err(TokenizeError::Mixed { prompt: words(prompt), answer: words(answer) }),
    }
}

fn words(text: &Text) -> &'static str {
    match text {
        Text::Segments(_) => "a text",
        Text::Conversation(_) => "a conversation",
    }
}

/// A segment without a text that weighs nothing: a mark, as the plugin API has it.
fn is_mark(segment: &Segment) -> bool {
    segment.text.is_empty() && segment.weight.is_some_and(|weight| weight == 0.0)
}

/// A text of segments that are all learned, without marks: there is no prompt, and it can be cut anywhere.
pub fn is_plain(text: &Text) -> Option<&[Segment]> {
    let Text::Segments(segments) = text else { return None };
    segments.iter().all(|segment| segment.train && !is_mark(segment)).then_some(segments)
}

fn is_weight(weight: f32) -> bool {
    weight.is_finite() && weight >= 0.0
}

/// What of a message is learned.
struct Learned {
    /// What the template writes for it.
    turn: bool,
    /// The token that ends it.
    end: bool,
    /// Anything.
    any: bool,
}

/// An empty span behind the last character stands for the end of the turn.
fn is_end(message: &Message, span: &TrainSpan) -> bool {
    span.start == span.end && span.end as usize == message.content.chars().count()
}

fn check_spans(message: &Message) -> Result<(), TokenizeError> {
    if message.spans.is_empty() {
        return Ok(());
    }
    let length = message.content.chars().count();
    match message.spans.iter().find(|span| span.start > span.end || span.end as usize > length) {
        Some(span) => Err(TokenizeError::BadSpan { start: span.start, end: span.end, length }),
        None => Ok(()),
    }
}

/// A turn from the token on that its first character is in: a template that writes a space in front of a content makes one
/// token of it and the first word, which the model has to write all the same.
fn from_token(tokens: &[Token], bytes: &Range<usize>) -> Range<usize> {
    let first = tokens.partition_point(|token| token.end <= bytes.start);
    let start = tokens.get(first).map_or(bytes.start, |token| token.start.min(bytes.start));
    if bytes.is_empty() { bytes.clone() } else { start..bytes.end }
}

fn places(tokens: &[Token]) -> Vec<Range<usize>> {
    tokens.iter().map(|token| token.start..token.end).collect()
}

/// The tokens that begin in a part of the text. Tokens stand in the order of the text.
fn tokens_in(tokens: &[Token], bytes: &Range<usize>) -> Range<usize> {
    let from = tokens.partition_point(|token| token.start < bytes.start);
    from..from.max(tokens.partition_point(|token| token.start < bytes.end))
}

/// Later parts win over earlier ones, so that a span overrides its turn.
fn mask(tokens: &[Token], parts: &[Part]) -> TokenSample {
    let ids: Vec<u32> = tokens.iter().map(|token| token.id).collect();
    let mut sample = TokenSample { trained: vec![false; ids.len()], ids, weights: None };
    // A normalizer may bring tokens out of the order of the text: then each is looked at.
    let in_order = tokens.is_sorted_by_key(|token| token.start);
    for part in parts {
        if in_order {
            tokens_in(tokens, &part.bytes).for_each(|index| sample.learn(index, part));
        } else {
            let inside = tokens.iter().enumerate().filter(|(_, token)| part.bytes.contains(&token.start));
            inside.for_each(|(index, _)| sample.learn(index, part));
        }
    }
    sample
}

impl TokenSample {
    #[expect(clippy::float_cmp, reason = "1 is the exact default, not a computed value")]
    fn learn(&mut self, index: usize, part: &Part) {
        self.trained[index] = part.train;
        if part.weight != 1.0 || self.weights.is_some() {
            let count = self.ids.len();
            self.weights.get_or_insert_with(|| vec![1.0; count])[index] = part.weight;
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_begins_with_the_token_that_its_first_character_is_in() {
        // `Q:`, ` A`, `:`, ` yes`, `.`; the turn is `yes.`, which Axolotl learns from ` yes` on.
        let tokens: Vec<Token> = [(0, 2), (2, 4), (4, 5), (5, 9), (9, 10)]
            .into_iter()
            .zip(0..)
            .map(|((start, end), id)| Token { id, start, end })
            .collect();
        assert_eq!(from_token(&tokens, &(6..10)), 5..10);
        assert_eq!(from_token(&tokens, &(5..10)), 5..10);
        assert_eq!(from_token(&tokens, &(6..6)), 6..6);
        assert_eq!(from_token(&[], &(6..10)), 6..10);
        let part = Part { bytes: from_token(&tokens, &(6..10)), train: true, weight: 1.0 };
        assert_eq!(mask(&tokens, &[part]).trained, [false, false, false, true, true]);
    }

    fn segment(text: &str, train: bool) -> Segment {
        Segment { text: text.to_owned(), train, weight: None }
    }

    fn mark(train: bool) -> Segment {
        Segment { text: String::new(), train, weight: Some(0.0) }
    }

    /// Texts of the tokens, those that are learned in brackets.
    fn encoded(segments: &[Segment], budget: TextBudget) -> Result<Vec<String>, TokenizeError> {
        let model = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/quickstart/model");
        let tokenizer = Tokenizer::load(&model, &super::super::tokenizer::Changes::default()).unwrap();
        let encoder = Encoder {
            tokenizer: &tokenizer,
            template: None,
            train_on_inputs: false,
            end_of_turn: Vec::new(),
            keeps_text: false,
            budget,
        };
        let Encoded { tokens, text, places, .. } = encoder.encode(&Text::Segments(segments.to_vec()))?;
        assert_eq!((tokens.ids.len(), tokens.ids.len()), (places.len(), tokens.trained.len()));
        let shown = tokens.ids.iter().zip(&tokens.trained).zip(&places).map(|((&id, &train), place)| {
            let piece = tokenizer.piece(id);
            let own = &text[place.clone()];
            assert!(own.is_empty() || own == piece, "{own:?} {piece:?}");
            if train { format!("[{piece}]") } else { piece }
        });
        Ok(shown.collect())
    }

    const WIDE: TextBudget = TextBudget { bytes: 1000, cuts: false };

    #[test]
    fn texts_are_tokenized_apart_at_marks() {
        // Together, the space is part of the answer's first token, which begins in the prompt and is not learned.
        let (prompt, answer) = (segment("Say ", false), segment("the", true));
        let together = encoded(&[prompt.clone(), answer.clone()], WIDE).unwrap();
        assert_eq!(together, ["<s>", "Say", " the", "[</s>]"]);
        let apart = encoded(&[prompt, mark(false), answer.clone()], WIDE).unwrap();
        let (prompt, answer_tokens) = apart.split_at(3);
        assert_eq!(prompt.concat(), "<s>Say ");
        assert_eq!(answer_tokens.concat().replace(['[', ']'], ""), "the</s>");
        assert!(answer_tokens.iter().all(|token| token.starts_with('[')), "{apart:?}");
        // At the ends: nothing is added.
        let bare = encoded(&[mark(false), answer, mark(false)], WIDE).unwrap();
        assert_eq!(bare.concat().replace(['[', ']'], ""), "the");
    }

    #[test]
    fn a_learned_mark_is_the_end_of_text() {
        let ends = |text: &str, marks: usize| {
            let mut segments = vec![segment(text, true)];
            segments.extend((0..marks).map(|_| mark(true)));
            encoded(&segments, WIDE).unwrap().iter().filter(|token| *token == "[</s>]").count()
        };
        assert_eq!((ends("the", 0), ends("the", 1), ends("the", 3)), (1, 1, 3));
        assert_eq!((ends("the</s>", 0), ends("the</s>", 1), ends("the</s>", 3)), (1, 1, 3));
        let middle = encoded(&[segment("a", true), mark(true), segment("b", false)], WIDE).unwrap();
        assert_eq!(middle, ["<s>", "[a]", "[</s>]", "b"]);
    }

    #[test]
    fn marks_alone_are_no_text_and_a_budget_counts_all_pieces() {
        assert!(matches!(encoded(&[mark(true), mark(false)], WIDE), Err(TokenizeError::Empty)));
        let pieces = [segment("aaaa", false), mark(false), segment("bbbb", true), mark(true)];
        let few = |cuts| TextBudget { bytes: 6, cuts };
        assert!(matches!(encoded(&pieces, few(false)), Err(TokenizeError::TooLong { bytes: 8 })));
        assert_eq!(encoded(&pieces, few(true)).unwrap().concat().replace(['[', ']'], ""), "<s>aaaabb");
        let heavy = Segment { weight: Some(f32::NAN), ..segment("a", true) };
        assert!(matches!(encoded(&[heavy], WIDE), Err(TokenizeError::BadWeight { .. })));
    }

    #[test]
    fn what_weighs_nothing_is_not_learned() {
        let sample = |weights: Option<Vec<f32>>| TokenSample { ids: vec![1; 4], trained: vec![true; 4], weights };
        assert_eq!(sample(None).trained_tokens(), 3);
        assert_eq!(sample(Some(vec![1.0, 0.0, 0.5, 0.0])).trained_tokens(), 1);
        assert_eq!(sample(Some(vec![1.0, 0.0, 0.0, 0.0])).trained_tokens(), 0);
    }
}
