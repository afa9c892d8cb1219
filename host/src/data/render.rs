//! Rows to examples: prompt strategies on all cores, then template and tokenizer.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use plugin_runtime::PluginError;
use plugin_runtime::types::{Preference, Sample, Segment, Stepwise, Text, Unpaired};

use super::example::{Example, Origin, Written};
use super::steps::{self, StepFormat, StepsError};
use super::strategy::{Made, PromptStrategy};
use super::template::TemplateError;
use super::tokenize::{Encoded, Encoder, TokenSample, TokenizeError, is_plain, joined};

/// Rows asked of a source at a time, and given to a strategy at a time.
pub const BATCH: u32 = 256;

/// What to do with a sample longer than `sequence_len` (`excess_length_strategy`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExcessLength {
    /// Leave it out and count it.
    Drop,
    /// Keep its first `sequence_len` tokens.
    Truncate,
    /// Stop.
    Raise,
}

/// A row that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadRow {
    /// What a person finds it by (`line 812`).
    pub position: String,
    /// What is wrong.
    pub message: String,
    /// The column it is about.
    pub field: Option<String>,
}

/// A row as its loader gave it.
pub(crate) struct Row {
    pub(crate) json: String,
    pub(crate) position: String,
}

/// What kind of samples a run learns from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Learns {
    /// Texts.
    Texts,
    /// Pairs of a chosen and a rejected answer to one prompt.
    Pairs,
    /// The same, to be scored; a column `margin` of a row says by how much the chosen text is to score higher.
    ScoredPairs,
    /// Answers that are wanted or not, each by itself.
    Unpaired,
    /// Answers in steps with labels, of which there are so many.
    Steps {
        /// Labels that the model has.
        labels: usize,
    },
    /// Prompts; of a text, what comes before the first learned token, and the rest is what a good answer may be.
    Prompts {
        /// Tokens that the model writes at most, which must fit behind a prompt.
        completion: usize,
    },
    /// Rows, about which an environment opens episodes; of a text, what is learned of it is what a good answer may be.
    Episodes,
}

/// How samples become tokens.
#[derive(Debug)]
pub struct Making<'a> {
    /// Tokenizer, template, and what is learned of a text.
    pub encoder: Encoder<'a>,
    /// Tokens that a text may have; of a pair, each answer with its prompt.
    pub sequence_len: usize,
    /// What becomes of longer ones.
    pub excess: ExcessLength,
    /// What samples there must be.
    pub learns: Learns,
    /// How labelled steps become a text.
    pub steps: StepFormat,
}

/// What became of a row.
pub(crate) enum Outcome {
    /// A sample, and the roles of messages that the chat template left out of it.
    Example(Box<Example>, BTreeSet<String>),
    /// The samples of a text that is longer than a sequence, and has no prompt: its pieces.
    Pieces(Vec<Example>),
    /// It has more tokens than may be.
    TooLong,
    /// What is learned of it lies behind where it was cut.
    Cut,
    /// No message of it is to be learned; its roles.
    NoTurn(Vec<String>),
    /// Nothing is learned of it; the roles of messages that the chat template left out.
    Untrained(BTreeSet<String>),
    /// Both answers of a pair are the same.
    Equal,
    /// The strategy gave nothing, on purpose.
    Skipped,
    /// It cannot be used.
    Bad(BadRow),
}

/// What a row became, and what a person finds it by in its dataset.
pub(crate) type Rendered = (Outcome, String);

/// What a piece of the rows becomes. A strategy begins anew with it, so that it depends on nothing else.
pub(crate) fn render_piece(
    rows: Vec<Row>,
    strategy: &mut dyn PromptStrategy,
    making: &Making<'_>,
) -> Result<Vec<Rendered>, PluginError> {
    let mut outcomes = Vec::with_capacity(rows.len());
    let (jsons, positions): (Vec<_>, Vec<_>) = rows.into_iter().map(|row| (row.json, row.position)).unzip();
    strategy.begin()?;
    let samples = strategy.render(&jsons).map_err(|error| error.at_row(&positions))?;
    for ((sample, json), position) in samples.into_iter().zip(jsons).zip(positions) {
        let bad = |message: String, field: Option<String>| {
            Outcome::Bad(BadRow { position: position.clone(), message, field })
        };
        let outcome = match sample {
            Ok(Some(Made::Sample(sample))) => {
                making.outcome(&sample, json).unwrap_or_else(|message| bad(message, None))
            }
            Ok(Some(Made::Tokens(tokens))) => making.tokens(tokens, json).unwrap_or_else(|message| bad(message, None)),
            Ok(None) => Outcome::Skipped,
            Err(error) => bad(error.message, error.field),
        };
        outcomes.push((outcome, position));
    }
    Ok(outcomes)
}

/// A text as a run takes it.
struct Document {
    tokens: TokenSample,
    written: Option<Written>,
    unwritten: BTreeSet<String>,
}

/// Why a row is left out.
enum Left {
    Out(Outcome),
    Bad(String),
}

impl Making<'_> {
    /// What a sample becomes; in words what is wrong with it.
    fn outcome(&self, sample: &Sample, json: String) -> Result<Outcome, String> {
        let example = match (self.learns, sample) {
            (Learns::Texts, Sample::Supervised(text)) => match is_plain(text) {
                Some(segments) => return self.pieces(segments, &json.into()),
                None => self.text(text, json),
            },
            (Learns::Pairs, Sample::Preference(pair)) => self.pair(pair, json, None),
            (Learns::ScoredPairs, Sample::Preference(pair)) => {
                let margin = margin(&json)?;
                self.pair(pair, json, margin)
            }
            (Learns::Unpaired, Sample::Unpaired(answer)) => self.unpaired(answer, json),
            (Learns::Steps { labels }, Sample::Stepwise(labelled)) => self.steps(labelled, json, labels),
            (Learns::Prompts { completion }, Sample::Supervised(text)) => self.prompt(text, json, completion),
            (Learns::Prompts { completion }, Sample::Prompt(text)) => self.open_prompt(text, json, completion),
            (Learns::Episodes, Sample::Supervised(text)) => self.row(self.encoder.encode(text), json),
            (Learns::Episodes, Sample::Prompt(text)) => self.row(self.encoder.encode_prompt(text), json),
            (_, other) => return Err(self.other_kind(kind(other))),
        };
        Self::made(example)
    }

    /// What tokens become.
    fn tokens(&self, tokens: TokenSample, json: String) -> Result<Outcome, String> {
        if self.learns != Learns::Texts {
            return Err(self.other_kind("tokens"));
        }
        let tokenizer = self.encoder.tokenizer;
        tokens.ids.iter().try_for_each(|&id| tokenizer.check(id)).map_err(|error| error.to_string())?;
        let (mut text, mut places) = (String::new(), Vec::new());
        for &id in tokens.ids.iter().filter(|_| self.encoder.keeps_text) {
            let start = text.len();
            text += &tokenizer.piece(id);
            places.push(start..text.len());
        }
        let learned = tokens.trained_tokens();
        let mut encoded = Encoded { tokens, text, places, unwritten: BTreeSet::new() };
        let left = self.cut(&mut encoded).err().or_else(|| {
            let is_cut = learned > 0;
            let outcome = || if is_cut { Outcome::Cut } else { Outcome::Untrained(BTreeSet::new()) };
            (encoded.tokens.trained_tokens() == 0).then(|| Left::Out(outcome()))
        });
        Self::made(left.map_or_else(|| self.row(Ok(encoded), json), Err))
    }

    fn other_kind(&self, given: &str) -> String {
        let wanted = match self.learns {
            Learns::Texts => "supervised texts",
            Learns::Pairs => "preference pairs, as `rl` says",
            Learns::ScoredPairs => "preference pairs, as `reward_model` says",
            Learns::Steps { .. } => "labelled steps, as `process_reward_model` says",
            Learns::Unpaired => "answers that are wanted or not, as `rl` says",
            Learns::Prompts { .. } | Learns::Episodes => "prompts, as `rl` says",
        };
        format!("the prompt strategy gave {given}, but this run learns from {wanted}")
    }

    fn made(example: Result<(Example, BTreeSet<String>), Left>) -> Result<Outcome, String> {
        match example {
            Ok((example, unwritten)) => Ok(Outcome::Example(Box::new(example), unwritten)),
            Err(Left::Out(outcome)) => Ok(outcome),
            Err(Left::Bad(message)) => Err(message),
        }
    }

    fn text(&self, text: &Text, json: String) -> Result<(Example, BTreeSet<String>), Left> {
        Ok(example(self.document(text)?, json))
    }

    /// A text of which all is learned, in as many samples as it takes.
    fn pieces(&self, segments: &[Segment], json: &Arc<str>) -> Result<Outcome, String> {
        let encoded = match self.encoder.encode_plain(segments) {
            Ok(encoded) => encoded,
            Err(TokenizeError::Empty) => return Ok(Outcome::Untrained(BTreeSet::new())),
            Err(error) => return Err(error.to_string()),
        };
        let Encoded { tokens, text, places, .. } = encoded;
        let piece = |from: usize| {
            let range = from..(from + self.sequence_len).min(tokens.ids.len());
            let written = self.encoder.keeps_text.then(|| part_of(&text, &places[range.clone()]));
            let document = Document { tokens: tokens.part(range), written, unwritten: BTreeSet::new() };
            example(document, Arc::clone(json)).0
        };
        let pieces = (0..tokens.ids.len()).step_by(self.sequence_len).map(piece);
        // A last piece of one token has nothing to predict it from.
        let mut pieces: Vec<Example> = pieces.filter(|piece| piece.tokens.trained_tokens() > 0).collect();
        Ok(match pieces.len() {
            0 => Outcome::Untrained(BTreeSet::new()),
            1 => Outcome::Example(Box::new(pieces.remove(0)), BTreeSet::new()),
            _ => {
                // The row of a long text is not kept once for each of its pieces.
                let none: Arc<str> = "{}".into();
                for piece in &mut pieces {
                    piece.row_json = Arc::clone(&none);
                }
                Outcome::Pieces(pieces)
            }
        })
    }

    /// The prompt of a text that has an answer.
    fn prompt(&self, text: &Text, json: String, completion: usize) -> Result<(Example, BTreeSet<String>), Left> {
        let Text::Segments(segments) = text else {
            let encoded = self.encode(text)?;
            if encoded.tokens.trained_tokens() == 0 {
                return Err(self.untrained(text, encoded.unwritten));
            }
            return self.with_prompt(encoded, json, completion);
        };
        let answer = segments.iter().position(|segment| segment.train).unwrap_or(segments.len());
        let (prompt, answer) = segments.split_at(answer);
        if answer.is_empty() {
            return Err(self.untrained(text, BTreeSet::new()));
        }
        // Each by itself: a token that begins in the prompt and ends in the answer would tell a part of it.
        let encode = |segments: &[Segment]| self.encoder.encode_prompt(&Text::Segments(segments.to_vec()));
        let mut encoded = encode(prompt).map_err(|error| self.left(error))?;
        let learned: Vec<Segment> = answer.iter().take_while(|segment| segment.train).cloned().collect();
        let (length, prefix) = (encoded.text.len(), self.encoder.tokenizer.affixes().prefix.len());
        let answer = match encode(&learned) {
            Ok(answer) => answer,
            Err(TokenizeError::Empty) => return Err(self.untrained(text, BTreeSet::new())),
            Err(error) => return Err(self.left(error)),
        };
        encoded.text.push_str(&answer.text);
        encoded.places.extend(answer.places.iter().skip(prefix).map(|place| place.start + length..place.end + length));
        encoded.tokens.ids.extend(answer.tokens.ids.iter().skip(prefix));
        encoded.tokens.trained.resize(encoded.tokens.ids.len(), true);
        self.with_prompt(encoded, json, completion)
    }

    /// A text as it is; that of an environment's row is nothing but a reference.
    fn row(&self, encoded: Result<Encoded, TokenizeError>, json: String) -> Result<(Example, BTreeSet<String>), Left> {
        let Encoded { tokens, text, places, unwritten } = encoded.map_err(|error| self.left(error))?;
        let written = self.encoder.keeps_text.then_some(Written { text, places });
        Ok(example(Document { tokens, written, unwritten }, json))
    }

    /// A prompt without an answer.
    fn open_prompt(&self, text: &Text, json: String, completion: usize) -> Result<(Example, BTreeSet<String>), Left> {
        let encoded = self.encoder.encode_prompt(text).map_err(|error| self.left(error))?;
        self.with_prompt(encoded, json, completion)
    }

    fn with_prompt(
        &self,
        encoded: Encoded,
        json: String,
        completion: usize,
    ) -> Result<(Example, BTreeSet<String>), Left> {
        let (length, room) = (encoded.tokens.prompt_ids().len(), self.sequence_len.saturating_sub(completion));
        if length == 0 {
            return Err(Left::Bad("the prompt is empty".to_owned()));
        }
        if length > room {
            return Err(match self.excess {
                ExcessLength::Raise => Left::Bad(format!(
                    "its prompt has {length} tokens; {room} are left of `sequence_len` beside {completion} of a completion"
                )),
                ExcessLength::Drop | ExcessLength::Truncate => Left::Out(Outcome::TooLong),
            });
        }
        self.row(Ok(encoded), json)
    }

    fn pair(&self, pair: &Preference, json: String, margin: Option<f64>) -> Result<(Example, BTreeSet<String>), Left> {
        let document = |answer: &Text, which: &str| {
            let text =
                joined(&pair.prompt, answer).map_err(|error| Left::Bad(format!("the {which} answer: {error}")))?;
            let document = self.document(&text).map_err(|left| match left {
                Left::Bad(message) => Left::Bad(format!("the {which} answer: {message}")),
                out @ Left::Out(_) => out,
            })?;
            if document.tokens.weights.is_some() {
                return Err(Left::Bad(format!("the {which} answer has loss weights, which pairs do not have")));
            }
            Ok(document)
        };
        let (chosen, rejected) = (document(&pair.chosen, "chosen")?, document(&pair.rejected, "rejected")?);
        if chosen.tokens == rejected.tokens {
            return Err(Left::Out(Outcome::Equal));
        }
        let origin = chosen
            .written
            .map(|written| Box::new(Origin { position: String::new(), written, rejected: rejected.written }));
        let unwritten = chosen.unwritten.into_iter().chain(rejected.unwritten).collect();
        let rejected = Some(rejected.tokens);
        let (tokens, row_json) = (chosen.tokens, json.into());
        Ok((Example { tokens, rejected, desirable: None, margin, labels: Vec::new(), row_json, origin }, unwritten))
    }

    fn unpaired(&self, answer: &Unpaired, json: String) -> Result<(Example, BTreeSet<String>), Left> {
        let text = joined(&answer.prompt, &answer.completion).map_err(|error| Left::Bad(error.to_string()))?;
        let (example, unwritten) = self.text(&text, json)?;
        if example.tokens.weights.is_some() {
            return Err(Left::Bad("the answer has loss weights, which answers that are judged do not have".to_owned()));
        }
        Ok((Example { desirable: Some(answer.desirable), ..example }, unwritten))
    }

    /// Labelled steps; what is cut off has no label any more.
    fn steps(&self, labelled: &Stepwise, json: String, labels: usize) -> Result<(Example, BTreeSet<String>), Left> {
        let found = steps::encode(&self.encoder, labelled, &self.steps, labels);
        let (mut encoded, mut labels) = found.map_err(|error| match error {
            StepsError::Tokenize(error) => self.left(error),
            error => Left::Bad(error.to_string()),
        })?;
        let had = labels.len();
        self.cut(&mut encoded)?;
        labels.truncate(encoded.tokens.trained.iter().filter(|&&trained| trained).count());
        if labels.is_empty() {
            return Err(Left::Out(if had > 0 { Outcome::Cut } else { Outcome::Untrained(encoded.unwritten) }));
        }
        let (example, unwritten) = self.row(Ok(encoded), json)?;
        Ok((Example { labels, ..example }, unwritten))
    }

    fn encode(&self, text: &Text) -> Result<Encoded, Left> {
        self.encoder.encode(text).map_err(|error| self.left(error))
    }

    fn left(&self, error: TokenizeError) -> Left {
        match error {
            TokenizeError::NoTemplate => {
                Left::Bad(format!("{error}; set `chat_template`, or use a model whose tokenizer has one"))
            }
            // Longer than any sequence could be.
            TokenizeError::TooLong { .. } | TokenizeError::Template(TemplateError::TooLong(_))
                if self.excess == ExcessLength::Drop =>
            {
                Left::Out(Outcome::TooLong)
            }
            error => Left::Bad(error.to_string()),
        }
    }

    /// As much of a text as a sequence has; why it is left out, where nothing of it is learned.
    fn document(&self, text: &Text) -> Result<Document, Left> {
        let mut encoded = self.encode(text)?;
        let learned = encoded.tokens.trained_tokens();
        self.cut(&mut encoded)?;
        let Encoded { tokens, text: written, places, unwritten } = encoded;
        if tokens.trained_tokens() == 0 {
            return Err(if learned > 0 { Left::Out(Outcome::Cut) } else { self.untrained(text, unwritten) });
        }
        let written = self.encoder.keeps_text.then_some(Written { text: written, places });
        Ok(Document { tokens, written, unwritten })
    }

    /// Shortens a text to what a sequence has; why it is left out, where it may not be shortened.
    fn cut(&self, encoded: &mut Encoded) -> Result<(), Left> {
        let Self { sequence_len, excess, .. } = self;
        let Encoded { tokens, text, places, .. } = encoded;
        let length = tokens.ids.len();
        if length > *sequence_len {
            match excess {
                ExcessLength::Drop => return Err(Left::Out(Outcome::TooLong)),
                ExcessLength::Truncate => tokens.truncate(*sequence_len),
                ExcessLength::Raise => {
                    return Err(Left::Bad(format!(
                        "it has {length} tokens, `sequence_len` is {sequence_len} and `excess_length_strategy` is raise"
                    )));
                }
            }
        }
        if places.len() > tokens.ids.len() {
            // What was cut off is not what the model sees.
            places.truncate(tokens.ids.len());
            text.truncate(text.floor_char_boundary(places.last().map_or(0, |place| place.end)));
        }
        Ok(())
    }

    /// Why nothing is learned of a text.
    fn untrained(&self, text: &Text, unwritten: BTreeSet<String>) -> Left {
        Left::Out(match text {
            Text::Conversation(conversation) if !self.encoder.learns_any(conversation) => {
                Outcome::NoTurn(conversation.messages.iter().map(|message| message.role.clone()).collect())
            }
            _ => Outcome::Untrained(unwritten),
        })
    }
}

/// A sample of one text, and the roles of messages that the chat template left out of it.
fn example(document: Document, json: impl Into<Arc<str>>) -> (Example, BTreeSet<String>) {
    let Document { tokens, written, unwritten } = document;
    let origin = written.map(|written| Box::new(Origin { position: String::new(), written, rejected: None }));
    (
        Example {
            tokens,
            rejected: None,
            desirable: None,
            margin: None,
            labels: Vec::new(),
            row_json: json.into(),
            origin,
        },
        unwritten,
    )
}

/// The part of a text that some tokens stand for.
fn part_of(text: &str, places: &[Range<usize>]) -> Written {
    let start = text.floor_char_boundary(places.iter().map(|place| place.start).min().unwrap_or(0));
    let end = text.ceil_char_boundary(places.iter().map(|place| place.end).max().unwrap_or(0));
    let places = places.iter().map(|place| place.start - start..place.end - start).collect();
    Written { text: text[start..end.max(start)].to_owned(), places }
}

/// The column `margin` of a row; none where it is absent or null.
fn margin(json: &str) -> Result<Option<f64>, String> {
    let row: serde_json::Value = serde_json::from_str(json).map_err(|error| error.to_string())?;
    match row.get("margin") {
        None | Some(serde_json::Value::Null) => Ok(None),
        Some(value) => value.as_f64().map(Some).ok_or_else(|| format!("its `margin` is {value}, not a number")),
    }
}

fn kind(sample: &Sample) -> &'static str {
    match sample {
        Sample::Supervised(_) => "a supervised text",
        Sample::Preference(_) => "a preference pair",
        Sample::Unpaired(_) => "an unpaired completion",
        Sample::Prompt(_) => "a prompt to roll out",
        Sample::Stepwise(_) => "labelled steps",
    }
}
