//! Episodes: the model and an environment take turns, and the environment rewards it.
//!
//! The text of an episode only ever grows. What the model wrote stands in it as the tokens that it wrote; what the environment
//! says stands behind them as the chat template writes it, from the end of the model's turn to the opening of the next one.
//! So a template that writes an earlier turn in another way once there is a later one (without its reasoning, say) changes
//! nothing of what the model has read, and the probability of each token is the same where it is sampled and where it is
//! learned.

use std::ops::Range;

use engine::generate::{Completion, Request};
use plugin_runtime::types::{Context, Conversation, EpisodeStart, Item, Message, Outcome, RowError, Score, Text, Turn};
use plugin_runtime::{PluginError, json};
use serde_json::Value;

use super::reward::{Scored, is_fault, shortened};
use crate::config::OnError;
use crate::data::dataset::Example;
use crate::data::tokenize::{Encoder, TokenizeError};
use crate::data::tokenizer::TokenizerError;
use crate::diagnostic::{Diagnostic, Failure};

/// Answers what the model writes. The loop cannot tell a sandboxed environment from a native one.
pub trait Environment: Send {
    /// Opens episodes about rows: one result a row, in order.
    fn reset(&mut self, rows: &[String], context: &Context)
    -> Result<Vec<Result<EpisodeStart, RowError>>, PluginError>;

    /// One answer a turn, in order. After an error, it can be called again.
    fn try_step(&mut self, turns: &[Turn], context: &Context) -> Result<Vec<Outcome>, PluginError>;

    /// The same; an error comes with the turn at fault, where that can be found.
    fn step(&mut self, turns: &[Turn], context: &Context) -> Result<Vec<Outcome>, PluginError>;
}

impl Environment for plugin_runtime::Environment {
    fn reset(
        &mut self,
        rows: &[String],
        context: &Context,
    ) -> Result<Vec<Result<EpisodeStart, RowError>>, PluginError> {
        Self::reset(self, rows, context)
    }

    fn try_step(&mut self, turns: &[Turn], context: &Context) -> Result<Vec<Outcome>, PluginError> {
        Self::try_step(self, turns, context)
    }

    fn step(&mut self, turns: &[Turn], context: &Context) -> Result<Vec<Outcome>, PluginError> {
        Self::step(self, turns, context)
    }
}

/// How long episodes may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EpisodeLimits {
    /// Turns of the model.
    pub max_turns: usize,
    /// Tokens of all turns together, with those of the environment.
    pub sequence_len: usize,
    /// Tokens of a turn of the model.
    pub max_completion_length: usize,
}

impl EpisodeLimits {
    /// Tokens that the model writes in an episode.
    pub fn longest(self) -> usize {
        self.max_turns.saturating_mul(self.max_completion_length).min(self.sequence_len)
    }
}

/// The environment of a config, with what turns conversations into tokens.
pub struct Episodes<'a> {
    /// As in the config.
    pub name: String,
    /// What answers.
    pub environment: Box<dyn Environment>,
    /// What a turn costs on which it crashes.
    pub on_error: OnError,
    /// How long episodes may be.
    pub limits: EpisodeLimits,
    /// Template and tokenizer.
    pub encoder: Encoder<'a>,
}

/// What is asked of the model in a turn of many episodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// Which turn, from 1.
    pub turn: usize,
    /// The texts so far; a group whose texts are the same yet is one request.
    pub requests: Vec<Request>,
    /// Tokens that each completion may have.
    pub rooms: Vec<usize>,
}

/// Why an episode is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// The environment said so.
    Done,
    /// The model has had all its turns.
    Turns,
    /// A length limit cut it.
    Cut,
    /// The environment failed on it, and `on_error` lets the run go on.
    Failed,
}

/// A conversation of the model with the environment.
#[derive(Debug, Clone, PartialEq)]
pub struct Episode {
    /// All its tokens.
    pub ids: Vec<u32>,
    /// What of them the model wrote, a part for each turn.
    pub written: Vec<Range<usize>>,
    /// Log-probability of each token that it wrote.
    pub log_probs: Vec<f32>,
    /// Entropy of the distribution that each of them was drawn from.
    entropies: Vec<f32>,
    /// The same as messages.
    messages: Vec<Message>,
    tools_json: Option<String>,
    state: Vec<u8>,
    /// The rewards of its turns, added up; none where none of them has one.
    pub reward: Option<f64>,
    notes: Vec<String>,
    /// Tokens that the model wrote, without those that end a turn.
    tokens: u32,
    /// What the model wrote, a text for each turn.
    texts: Vec<String>,
    /// None while it goes on.
    pub ending: Option<Ending>,
}

/// The episodes of a generation.
#[derive(Debug, Clone, PartialEq)]
pub struct Played {
    /// A group for each row, in order.
    pub episodes: Vec<Episode>,
    counts_errors: bool,
}

impl Episodes<'_> {
    /// Plays `group` episodes about each row to their end. `complete` gives one completion for each text that is asked for.
    ///
    /// # Errors
    /// What the environment or the chat template fails with, and openings that leave no room for a completion.
    pub fn play(
        &mut self,
        rows: &[String],
        group: usize,
        context: &Context,
        complete: &mut dyn FnMut(&Asked) -> Result<Vec<Completion>, Failure>,
    ) -> Result<Played, Failure> {
        let mut episodes = Vec::with_capacity(rows.len() * group);
        for (start, row) in self.environment.reset(rows, context)?.into_iter().zip(rows) {
            let episode = self.open(start, row)?;
            episodes.extend(std::iter::repeat_n(episode, group));
        }
        for turn in 1..=self.limits.max_turns {
            let mut going: Vec<&mut Episode> = episodes.iter_mut().filter(|episode| episode.ending.is_none()).collect();
            if going.is_empty() {
                break;
            }
            let completions = complete(&self.asked(turn, &going))?;
            let mut turns = Vec::with_capacity(going.len());
            for (episode, completion) in going.iter_mut().zip(&completions) {
                turns.push(self.turn(episode, completion, turn)?);
            }
            let outcomes = self.answers(&turns, context)?;
            for ((episode, completion), outcome) in going.into_iter().zip(&completions).zip(outcomes) {
                self.take(episode, completion.end, outcome, turn)?;
            }
        }
        Ok(Played { episodes, counts_errors: self.on_error != OnError::Fail })
    }

    fn open(&self, start: Result<EpisodeStart, RowError>, row: &str) -> Result<Episode, Failure> {
        let note = || format!("the row is {}", shortened(row));
        let start = start.map_err(|error| {
            let field = error.field.map(|field| format!(" (`{field}`)")).unwrap_or_default();
            let message =
                format!("the environment `{}` opens no episode about a row: {}{field}", self.name, error.message);
            let help = "mend the row, or leave it out with a filter (`row_filters`)";
            Diagnostic::error("data::bad-row", message).help(help).note(note()).plugin(&self.name)
        })?;
        let EpisodeStart { messages, tools_json, state } = start;
        let conversation =
            Conversation { messages: messages.clone(), tools_json: tools_json.clone(), train_on_eos: None };
        let text = Text::Conversation(conversation);
        let encoded = self.encoder.encode_prompt(&text).map_err(|error| self.unwritten(&error).note(note()))?;
        let (length, limits) = (encoded.tokens.ids.len(), self.limits);
        let room = limits.sequence_len.saturating_sub(limits.max_completion_length);
        if length > room {
            let completion = limits.max_completion_length;
            let message = format!("an episode opens with {length} tokens, and {room} are left for that");
            let why = format!(
                "`sequence_len` is {}, and `trl.max_completion_length` keeps {completion} of them for the first turn",
                limits.sequence_len
            );
            let help = format!("write `sequence_len: {}` or more", length + completion);
            return Err(Diagnostic::error("rl::too-long", message).why(why).help(help).note(note()).into());
        }
        Ok(Episode {
            ids: encoded.tokens.ids,
            written: Vec::new(),
            log_probs: Vec::new(),
            entropies: Vec::new(),
            messages,
            tools_json,
            state,
            reward: None,
            notes: Vec::new(),
            tokens: 0,
            texts: Vec::new(),
            ending: None,
        })
    }

    fn asked(&self, turn: usize, going: &[&mut Episode]) -> Asked {
        let mut requests: Vec<Request> = Vec::new();
        for episode in going {
            match requests.last_mut().filter(|request| request.prompt == episode.ids) {
                Some(request) => request.completions += 1,
                None => requests.push(Request { prompt: episode.ids.clone(), completions: 1 }),
            }
        }
        let room = |episode: &&mut Episode| {
            (self.limits.sequence_len - episode.ids.len()).min(self.limits.max_completion_length)
        };
        Asked { turn, requests, rooms: going.iter().map(room).collect() }
    }

    /// Adds what the model wrote to an episode, and says it as the environment is told.
    fn turn(&self, episode: &mut Episode, completion: &Completion, number: usize) -> Result<Turn, Failure> {
        let text = self.decoded(&completion.ids)?;
        let start = episode.ids.len();
        episode.ids.extend(completion.ids.iter().chain(&completion.end));
        episode.written.push(start..episode.ids.len());
        episode.log_probs.extend(&completion.log_probs);
        episode.entropies.extend(&completion.entropies);
        episode.messages.push(assistant(&text));
        episode.texts.push(text.clone());
        let completion_tokens = completion.ids.len() as u32;
        episode.tokens += completion_tokens;
        Ok(Turn {
            state: std::mem::take(&mut episode.state),
            completion: text,
            completion_tokens,
            finished: completion.end.is_some(),
            number: number as u32,
            max_turns: self.limits.max_turns as u32,
        })
    }

    /// The answers to some turns; none where the environment fails on one and `on_error` lets the run go on.
    fn answers(&mut self, turns: &[Turn], context: &Context) -> Result<Vec<Option<Outcome>>, Failure> {
        if self.on_error == OnError::Fail {
            let outcomes = self.environment.step(turns, context).map_err(|error| self.failed(error))?;
            return Ok(outcomes.into_iter().map(Some).collect());
        }
        match self.environment.try_step(turns, context) {
            Ok(outcomes) => return Ok(outcomes.into_iter().map(Some).collect()),
            Err(error) if is_fault(&error) => {}
            Err(error) => return Err(error.into()),
        }
        // Together they made it fail: one by one, so that only the turn that does it has no answer.
        let mut outcomes = Vec::with_capacity(turns.len());
        for turn in turns {
            match self.environment.try_step(std::slice::from_ref(turn), context) {
                Ok(outcome) => outcomes.extend(outcome.into_iter().map(Some)),
                Err(error) if is_fault(&error) => outcomes.push(None),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(outcomes)
    }

    /// Adds an answer to an episode, or ends it. `end` is the token that ended the model's turn.
    fn take(
        &self,
        episode: &mut Episode,
        end: Option<u32>,
        outcome: Option<Outcome>,
        turn: usize,
    ) -> Result<(), Failure> {
        let Some(Outcome { state, messages, reward, done, note }) = outcome else {
            episode.reward = (self.on_error == OnError::Zero).then(|| episode.reward.unwrap_or(0.0));
            episode.ending = Some(Ending::Failed);
            return Ok(());
        };
        if let Some(reward) = reward {
            *episode.reward.get_or_insert(0.0) += reward;
        }
        episode.notes.extend(note);
        if done {
            episode.messages.extend(messages);
            episode.ending = Some(Ending::Done);
        } else if turn == self.limits.max_turns {
            episode.ending = Some(if end.is_some() { Ending::Turns } else { Ending::Cut });
        } else {
            match self.answer(episode, end, &messages)? {
                // The model has at least one more token to write.
                Some(ids) if episode.ids.len() + ids.len() < self.limits.sequence_len => {
                    episode.ids.extend(ids);
                    episode.messages.extend(messages);
                    episode.state = state;
                }
                _ => episode.ending = Some(Ending::Cut),
            }
        }
        Ok(())
    }

    /// The tokens between the model's turn and its next one; none where that is far more text than there is room for.
    fn answer(&self, episode: &Episode, end: Option<u32>, messages: &[Message]) -> Result<Option<Vec<u32>>, Failure> {
        let text = self.text_between(episode, messages)?;
        if text.len() > self.encoder.budget.bytes {
            return Ok(None);
        }
        let encode = |text: &str| self.encoder.tokenizer.encode(text).map_err(|error| self.unwritten(&error.into()));
        // What ends the turn in the template's text has the model written, if it ended the turn by the same token.
        let written = end.map(|end| (end, self.encoder.tokenizer.piece(end)));
        if let Some((end, piece)) = written.filter(|(_, piece)| !piece.is_empty() && text.starts_with(piece)) {
            let tokens = encode(&text)?;
            // With the end before it, a text may have other tokens than without.
            if tokens.first().is_some_and(|token| token.id == end) {
                return Ok(Some(tokens.iter().skip(1).map(|token| token.id).collect()));
            }
            return Ok(Some(encode(&text[piece.len()..])?.iter().map(|token| token.id).collect()));
        }
        Ok(Some(encode(&text)?.iter().map(|token| token.id).collect()))
    }

    /// What the template writes behind the model's newest turn, up to where the next one begins. A word stands for the turn, so
    /// that it is found whatever the template makes of the text before it.
    fn text_between(&self, episode: &Episode, messages: &[Message]) -> Result<String, Failure> {
        let before = &episode.messages[..episode.messages.len() - 1];
        let is_free = |word: &String| {
            let holds = |text: &str| text.contains(word.as_str());
            !before.iter().chain(messages).any(|message| {
                holds(&message.role) || holds(&message.content) || message.extra_json.as_deref().is_some_and(holds)
            }) && !episode.tools_json.as_deref().is_some_and(holds)
        };
        let word = (0..u32::MAX).map(|number| format!("COMPLETION{number}HERE")).find(is_free).unwrap_or_default();
        let own = assistant(&word);
        let conversation = Conversation {
            messages: before.iter().chain(std::iter::once(&own)).chain(messages).cloned().collect(),
            tools_json: episode.tools_json.clone(),
            train_on_eos: None,
        };
        let template = self.encoder.template.ok_or_else(|| self.unwritten(&TokenizeError::NoTemplate))?;
        let text = template.prompt(&conversation).map_err(|error| self.unwritten(&error.into()))?;
        let places: Vec<usize> = text.match_indices(&word).map(|(at, _)| at).take(2).collect();
        match places[..] {
            [at] => Ok(text[at + word.len()..].to_owned()),
            _ => {
                let times = if places.is_empty() { "not at all" } else { "more than once" };
                let turn = episode.written.len();
                let message = format!("the chat template writes turn {turn} of the model {times}");
                let why = "the text of an episode only grows: the answer of the environment comes behind what the model \
                           wrote, and where that ends cannot be told from this template";
                let help = "use another `chat_template`, one that writes each message once, as it is";
                Err(Diagnostic::error("rl::template", message).why(why).help(help).into())
            }
        }
    }

    fn decoded(&self, ids: &[u32]) -> Result<String, Failure> {
        self.encoder.tokenizer.decode(ids).map_err(|error| undecoded(&error).into())
    }

    /// A conversation that cannot be put into tokens.
    fn unwritten(&self, error: &TokenizeError) -> Diagnostic {
        let message = format!("a conversation with the environment `{}` cannot be written: {error}", self.name);
        Diagnostic::error("rl::template", message)
            .why("the messages of an environment become text through the chat template of the model")
            .help("let the environment give messages that the template takes, or set another `chat_template`")
    }

    fn failed(&self, error: PluginError) -> Diagnostic {
        if !is_fault(&error) {
            return error.into();
        }
        let on_error = format!("`{{name: {}, on_error: zero}}` ends such an episode and goes on", self.name);
        let help = error.help.clone().map_or(on_error.clone(), |help| format!("{help}; {on_error}"));
        Diagnostic::from(error).help(help)
    }

    /// What rewards are told of an episode: what the model read first, and all that it wrote, a line for each turn.
    ///
    /// # Errors
    /// Tokens that the tokenizer does not know.
    pub fn item(&self, example: &Example, episode: &Episode) -> Result<Item, Failure> {
        let opening = episode.written.first().map_or(episode.ids.len(), |part| part.start);
        Ok(Item {
            prompt: self.decoded(&episode.ids[..opening])?,
            completion: episode.texts.join("\n"),
            completion_tokens: episode.tokens,
            finished: !episode.is_cut(),
            reference: self.decoded(example.tokens.completion_ids())?,
            row_json: example.row_json.to_string(),
        })
    }
}

impl std::fmt::Debug for Episodes<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Episodes").field("name", &self.name).field("limits", &self.limits).finish_non_exhaustive()
    }
}

impl Episode {
    /// A length limit ended it.
    pub fn is_cut(&self) -> bool {
        self.ending == Some(Ending::Cut)
    }

    /// All that the model wrote, as one completion.
    pub fn completion(&self) -> Completion {
        Completion {
            ids: self.written.iter().cloned().flatten().map(|at| self.ids[at]).collect(),
            end: None,
            stopped: !self.is_cut(),
            log_probs: self.log_probs.clone(),
            entropies: self.entropies.clone(),
        }
    }
}

impl Played {
    /// The environment as one reward among others: the sum of an episode's rewards.
    pub fn scored(&self) -> Scored {
        let score = |episode: &Episode| {
            let note = (!episode.notes.is_empty()).then(|| episode.notes.join("; "));
            Score { value: episode.reward, note }
        };
        let failed = self.count(Ending::Failed) as u64;
        let scores = self.episodes.iter().map(score).collect();
        Scored { scores, errors: self.counts_errors.then_some(failed) }
    }

    fn count(&self, ending: Ending) -> usize {
        self.episodes.iter().filter(|episode| episode.ending == Some(ending)).count()
    }

    /// What is to be told of episodes beside completions.
    pub fn metrics(&self) -> [(&'static str, f64); 2] {
        let count = self.episodes.len().max(1) as f64;
        let turns: usize = self.episodes.iter().map(|episode| episode.written.len()).sum();
        let done = self.count(Ending::Done) as f64;
        [("environment/mean_turns", turns as f64 / count), ("environment/done_ratio", done / count)]
    }

    /// Adds to each line about an episode what it has beside a completion.
    pub fn describe(&self, lines: &mut [Value]) {
        for (line, episode) in lines.iter_mut().zip(&self.episodes) {
            line["turns"] = episode.written.len().into();
            line["messages"] = episode.messages.iter().map(json::message).collect::<Vec<Value>>().into();
        }
    }
}

fn assistant(content: &str) -> Message {
    Message {
        role: "assistant".to_owned(),
        content: content.to_owned(),
        train: None,
        spans: Vec::new(),
        extra_json: None,
    }
}

fn undecoded(error: &TokenizerError) -> Diagnostic {
    Diagnostic::error("data::tokenizer", error.to_string())
}
