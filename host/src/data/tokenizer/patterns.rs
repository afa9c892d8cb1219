//! A tokenizer whose own regular expressions run within a budget, and whose failures are failures.
//!
//! The library stops where an expression takes too many steps, and goes on as if nothing more had matched: the rest of the
//! text gets other tokens, and nobody is told. It has no limit for all matches of a text together. So the rules with an
//! expression (`Split`, and `Replace` of normalizers and decoders) are run here, as the library runs them otherwise.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use fancy_regex::{Regex, RegexBuilder};
use serde::Deserialize;
use serde_json::Value;
use tokenizers::decoders::DecoderWrapper;
use tokenizers::models::ModelWrapper;
use tokenizers::normalizers::NormalizerWrapper;
use tokenizers::normalizers::replace::Replace;
use tokenizers::pattern::{Invert, Pattern};
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::split::SplitPattern;
use tokenizers::{
    Decoder, NormalizedString, Normalizer, Offsets, PostProcessorWrapper, PreTokenizedString, PreTokenizer,
    SplitDelimiterBehavior, TokenizerImpl,
};

/// Steps that looking for one match may take: a second or less. The library's own limit is a tenth of it.
const STEPS: usize = 10_000_000;
/// Time that all matches of a text may take, and of each MiB of it. Those of a real tokenizer take a fifth of a second for one.
const TIME: Duration = Duration::from_secs(5);

/// Matches after which the clock is looked at again.
const LOOKS: usize = 16;

/// A tokenizer with these rules.
pub(super) type Bounded =
    TokenizerImpl<ModelWrapper, BoundedNormalizer, BoundedPreTokenizer, PostProcessorWrapper, BoundedDecoder>;

thread_local! {
    /// What the text that this thread is at may take, and why it failed.
    static WORK: RefCell<Work> = const { RefCell::new(Work { until: None, time: TIME, failure: None }) };
}

#[derive(Default)]
struct Work {
    until: Option<Instant>,
    time: Duration,
    failure: Option<String>,
}

/// Runs what the rules are part of for a text of so many bytes.
///
/// # Errors
/// Why a rule did not come to its end. Parts of the library drop a rule's error, so its result is none.
pub(super) fn within<T>(bytes: usize, work: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, String> {
    within_time(TIME + TIME * (bytes >> 20) as u32, work)
}

fn within_time<T>(time: Duration, work: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, String> {
    WORK.set(Work { until: Instant::now().checked_add(time), time, failure: None });
    let result = work();
    match WORK.take().failure {
        Some(failure) => Err(failure),
        None => result.map_err(|error| error.to_string()),
    }
}

/// An expression of the file.
#[derive(Debug, Clone)]
pub(super) struct Expression(Regex);

impl Expression {
    pub(super) fn new(pattern: &str) -> Result<Self, String> {
        let built = RegexBuilder::new(pattern).backtrack_limit(STEPS).build();
        built.map(Self).map_err(|error| format!("its pattern `{pattern}` is none: {error}"))
    }

    /// As it is written.
    pub(super) fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// Gives each match with its place, one after another.
    ///
    /// # Errors
    /// It takes too many steps, or too long.
    pub(super) fn find(&self, inside: &str, each: &mut impl FnMut(usize, usize)) -> Result<(), String> {
        let mut clock = self.clock();
        for found in self.0.find_iter(inside) {
            let found = found.map_err(|error| format!("its pattern `{}` fails: {error}", self.as_str()))?;
            clock.tick()?;
            each(found.start(), found.end());
        }
        Ok(())
    }

    /// What its matches in a text take, from now on.
    pub(super) fn clock(&self) -> Clock<'_> {
        let (until, time) = WORK.with_borrow(|work| (work.until, work.time));
        Clock { expression: self, until, time, matches: 0 }
    }
}

/// Looks at the time that the matches of an expression take.
pub(super) struct Clock<'a> {
    expression: &'a Expression,
    until: Option<Instant>,
    time: Duration,
    matches: usize,
}

impl Clock<'_> {
    /// There was a match.
    ///
    /// # Errors
    /// The text has taken its time.
    pub(super) fn tick(&mut self) -> Result<(), String> {
        self.matches += 1;
        if self.matches.is_multiple_of(LOOKS) && self.until.is_some_and(|until| Instant::now() > until) {
            let pattern = self.expression.as_str();
            return Err(format!("its pattern `{pattern}` takes longer than {:?}", self.time));
        }
        Ok(())
    }
}

fn fail(reason: String) -> tokenizers::Error {
    WORK.with_borrow_mut(|work| work.failure.get_or_insert_with(|| reason.clone()).clone()).into()
}

impl Pattern for &Expression {
    fn find_matches(&self, inside: &str) -> tokenizers::Result<Vec<(Offsets, bool)>> {
        if inside.is_empty() {
            return Ok(vec![((0, 0), false)]);
        }
        let (mut parts, mut end) = (Vec::with_capacity(inside.len()), 0);
        self.find(inside, &mut |start, stop| {
            if end != start {
                parts.push(((end, start), false));
            }
            parts.push(((start, stop), true));
            end = stop;
        })
        .map_err(fail)?;
        if end != inside.len() {
            parts.push(((end, inside.len()), false));
        }
        Ok(parts)
    }
}

/// Expression and content of a `Replace`; none for one of a plain text, which needs no budget.
fn replace(rule: &Replace) -> Result<Option<(Expression, String)>, String> {
    let rule = serde_json::to_value(rule).map_err(|error| error.to_string())?;
    let Some(pattern) = rule["pattern"].get("Regex").and_then(Value::as_str) else { return Ok(None) };
    Ok(Some((Expression::new(pattern)?, rule["content"].as_str().unwrap_or_default().to_owned())))
}

/// A normalizer.
#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "NormalizerWrapper")]
pub(super) enum BoundedNormalizer {
    Sequence(Vec<Self>),
    Replace(Expression, String),
    Other(NormalizerWrapper),
}

impl TryFrom<NormalizerWrapper> for BoundedNormalizer {
    type Error = String;

    fn try_from(rule: NormalizerWrapper) -> Result<Self, String> {
        Ok(match rule {
            NormalizerWrapper::Sequence(rules) => {
                Self::Sequence(rules.as_ref().iter().cloned().map(Self::try_from).collect::<Result<_, _>>()?)
            }
            NormalizerWrapper::Replace(rule) => match replace(&rule)? {
                Some((expression, content)) => Self::Replace(expression, content),
                None => Self::Other(NormalizerWrapper::Replace(rule)),
            },
            other => Self::Other(other),
        })
    }
}

impl Normalizer for BoundedNormalizer {
    fn normalize(&self, text: &mut NormalizedString) -> tokenizers::Result<()> {
        match self {
            Self::Sequence(rules) => rules.iter().try_for_each(|rule| rule.normalize(text)),
            Self::Replace(expression, content) => text.replace(expression, content),
            Self::Other(rule) => rule.normalize(text),
        }
        // Whoever asks for this drops the error.
        .map_err(|error| fail(error.to_string()))
    }
}

/// A pre-tokenizer.
#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "PreTokenizerWrapper")]
pub(super) enum BoundedPreTokenizer {
    Sequence(Vec<Self>),
    Split { expression: Expression, behavior: SplitDelimiterBehavior, invert: bool },
    Other(PreTokenizerWrapper),
}

impl TryFrom<PreTokenizerWrapper> for BoundedPreTokenizer {
    type Error = String;

    fn try_from(rule: PreTokenizerWrapper) -> Result<Self, String> {
        Ok(match rule {
            PreTokenizerWrapper::Sequence(rules) => {
                Self::Sequence(rules.as_ref().iter().cloned().map(Self::try_from).collect::<Result<_, _>>()?)
            }
            PreTokenizerWrapper::Split(rule) => match &rule.pattern {
                SplitPattern::Regex(pattern) => {
                    let (expression, behavior) = (Expression::new(pattern)?, rule.behavior);
                    Self::Split { expression, behavior, invert: rule.invert }
                }
                SplitPattern::String(_) => Self::Other(PreTokenizerWrapper::Split(rule)),
            },
            other => Self::Other(other),
        })
    }
}

impl PreTokenizer for BoundedPreTokenizer {
    fn pre_tokenize(&self, text: &mut PreTokenizedString) -> tokenizers::Result<()> {
        match self {
            Self::Sequence(rules) => rules.iter().try_for_each(|rule| rule.pre_tokenize(text)),
            Self::Split { expression, behavior, invert: true } => {
                text.split(|_, part| part.split(Invert(expression), *behavior))
            }
            Self::Split { expression, behavior, invert: false } => {
                text.split(|_, part| part.split(expression, *behavior))
            }
            Self::Other(rule) => rule.pre_tokenize(text),
        }
    }
}

/// A decoder.
#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "DecoderWrapper")]
pub(super) enum BoundedDecoder {
    Sequence(Vec<Self>),
    Replace(Expression, String),
    Other(DecoderWrapper),
}

impl TryFrom<DecoderWrapper> for BoundedDecoder {
    type Error = String;

    fn try_from(rule: DecoderWrapper) -> Result<Self, String> {
        Ok(match rule {
            DecoderWrapper::Sequence(rules) => {
                Self::Sequence(rules.get_decoders().iter().cloned().map(Self::try_from).collect::<Result<_, _>>()?)
            }
            DecoderWrapper::Replace(rule) => match replace(&rule)? {
                Some((expression, content)) => Self::Replace(expression, content),
                None => Self::Other(DecoderWrapper::Replace(rule)),
            },
            other => Self::Other(other),
        })
    }
}

impl Decoder for BoundedDecoder {
    fn decode_chain(&self, tokens: Vec<String>) -> tokenizers::Result<Vec<String>> {
        match self {
            Self::Sequence(rules) => rules.iter().try_fold(tokens, |tokens, rule| rule.decode_chain(tokens)),
            Self::Replace(expression, content) => {
                tokens.iter().map(|token| replaced(expression, content, token)).collect()
            }
            Self::Other(rule) => rule.decode_chain(tokens),
        }
    }
}

fn replaced(expression: &Expression, content: &str, token: &str) -> tokenizers::Result<String> {
    let parts = expression.find_matches(token)?;
    Ok(parts.into_iter().map(|((start, end), is_match)| if is_match { content } else { &token[start..end] }).collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tokenizers::Tokenizer;

    use super::*;

    fn file(split: &Value, normalizer: &Value) -> Vec<u8> {
        let vocab = json!({ "<unk>": 0, "a": 1, "b": 2, " ": 3 });
        let model = json!({ "type": "BPE", "unk_token": "<unk>", "vocab": vocab, "merges": [] });
        let decoder = json!({ "type": "Sequence", "decoders": [
            { "type": "Replace", "pattern": { "Regex": "a+" }, "content": "A" }, { "type": "Fuse" },
        ] });
        let parts = json!({
            "version": "1.0", "added_tokens": [], "model": model, "decoder": decoder, "post_processor": null,
            "normalizer": normalizer, "pre_tokenizer": split,
        });
        parts.to_string().into_bytes()
    }

    fn split(pattern: &str, invert: bool) -> Value {
        json!({ "type": "Split", "pattern": { "Regex": pattern }, "behavior": "Removed", "invert": invert })
    }

    fn replace(pattern: &str) -> Value {
        json!({ "type": "Replace", "pattern": { "Regex": pattern }, "content": "b" })
    }

    #[test]
    fn rules_do_what_they_do_in_the_library() {
        for (rule, normalizer) in [
            (split(r"\s+(?!\S)|\s+", false), json!(null)),
            (split(r"[ab]+", true), replace("c|d")),
            (
                json!({ "type": "Sequence", "pretokenizers": [split("b", false), { "type": "Whitespace" }] }),
                json!({ "type": "Sequence", "normalizers": [replace("(?<=a)c"), { "type": "Lowercase" }] }),
            ),
            (
                json!({ "type": "Split", "pattern": { "String": " " }, "behavior": "Isolated", "invert": false }),
                json!(null),
            ),
        ] {
            let bytes = file(&rule, &normalizer);
            let (theirs, ours) = (Tokenizer::from_bytes(&bytes).unwrap(), Bounded::from_bytes(&bytes).unwrap());
            for text in ["", "a", "aa  b ab", "acdc  \n bA é😀a ", "   "] {
                let (wanted, found) = (theirs.encode(text, false).unwrap(), ours.encode(text, false).unwrap());
                assert_eq!(found, wanted, "{rule} {text:?}");
                let ids = wanted.get_ids();
                assert_eq!(ours.decode(ids, true).unwrap(), theirs.decode(ids, true).unwrap(), "{rule} {text:?}");
            }
        }
    }

    #[test]
    fn an_expression_that_gives_up_is_an_error_and_not_another_split() {
        let bytes = file(&split(r"(?:a|a|b)*(?=c)|a", false), &json!(null));
        let text = format!("{} a b", "a".repeat(40));
        // The library splits no more, and does not say so: every `a` should be gone.
        let theirs = Tokenizer::from_bytes(&bytes).unwrap().encode(&*text, false).unwrap();
        assert_eq!(theirs.get_ids().len(), text.len());
        let ours = Bounded::from_bytes(&bytes).unwrap();
        let reason = within(text.len(), || ours.encode(&*text, false)).unwrap_err();
        assert!(reason.starts_with("its pattern `(?:a|a|b)*(?=c)|a` fails: "), "{reason}");
        let bytes = file(&json!(null), &replace(r"(?:a|a|b)*(?=c)|a"));
        let ours = Bounded::from_bytes(&bytes).unwrap();
        assert!(within(text.len(), || ours.encode(&*text, false)).is_err());
        assert!(within(1, || ours.encode("b", false)).is_ok(), "the next text has a budget of its own");
    }

    #[test]
    fn all_matches_of_a_text_have_one_budget() {
        // Each match ends well, after a while.
        let bytes = file(&split(r"(?:a|a|b)*(?=c)|a", false), &json!(null));
        let ours = Bounded::from_bytes(&bytes).unwrap();
        let text = format!("{} ", "a".repeat(19)).repeat(4000);
        let reason = within_time(Duration::from_millis(200), || ours.encode(&*text, false)).unwrap_err();
        assert!(reason.ends_with("takes longer than 200ms"), "{reason}");
    }
}
