//! How a tokenizer that works on bytes cuts a text into words: the rules of its `pre_tokenizer`, on plain text.
//!
//! The rules that such tokenizers have are few, and their expressions look around in one place only: a run of white space
//! leaves its last character to the word behind it. That one is done by hand here, so that the rest is an expression without
//! backtracking, which takes a tenth of the time.

use regex_automata::meta::{Cache, Regex};
use regex_automata::util::syntax;
use regex_automata::{Anchored, Input, PatternID};
use tokenizers::SplitDelimiterBehavior;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;

use super::patterns::{BoundedPreTokenizer, Expression};

/// The expression that `ByteLevel` has of its own (`GPT2`'s).
const BYTE_LEVEL: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

/// What such expressions end with.
const SPACES: &str = r"|\s+(?!\S)|\s+";

/// A rule that cuts a text.
#[derive(Debug)]
pub(super) enum Rule {
    /// Every match is a part, and what is between them. With `drops`, what is between them goes.
    Matches { expression: Box<Matcher>, drops: bool },
    /// Every digit is a part.
    Digits,
    /// Every run of digits is a part.
    Numbers,
}

/// The rules of a tokenizer that works on bytes. None where it has one that is not known here.
pub(super) fn rules(rule: &BoundedPreTokenizer) -> Option<Vec<Rule>> {
    let mut found = Vec::new();
    let rules = match rule {
        BoundedPreTokenizer::Sequence(rules) => rules.as_slice(),
        rule => std::slice::from_ref(rule),
    };
    let (last, before) = rules.split_last()?;
    for rule in before {
        found.push(match rule {
            BoundedPreTokenizer::Split { expression, behavior: SplitDelimiterBehavior::Isolated, invert: false } => {
                Rule::Matches { expression: Box::new(Matcher::new(expression)), drops: false }
            }
            BoundedPreTokenizer::Split { expression, behavior: SplitDelimiterBehavior::Removed, invert: true } => {
                Rule::Matches { expression: Box::new(Matcher::new(expression)), drops: true }
            }
            BoundedPreTokenizer::Other(PreTokenizerWrapper::Digits(rule)) if rule.individual_digits => Rule::Digits,
            BoundedPreTokenizer::Other(PreTokenizerWrapper::Digits(_)) => Rule::Numbers,
            _ => return None,
        });
    }
    let BoundedPreTokenizer::Other(PreTokenizerWrapper::ByteLevel(last)) = last else { return None };
    if last.add_prefix_space {
        return None;
    }
    if last.use_regex {
        let expression = Expression::new(BYTE_LEVEL).ok()?;
        found.push(Rule::Matches { expression: Box::new(Matcher::new(&expression)), drops: false });
    }
    Some(found)
}

impl Rule {
    /// What a search by this rule needs.
    pub(super) fn cache(&self) -> Option<Cache> {
        match self {
            Self::Matches { expression, .. } => expression.quick.as_ref().map(Regex::create_cache),
            Self::Digits | Self::Numbers => None,
        }
    }

    /// Cuts `text`, and gives each part that is not empty with its place.
    ///
    /// # Errors
    /// An expression came to no end.
    pub(super) fn cut(
        &self,
        text: &str,
        cache: Option<&mut Cache>,
        each: &mut impl FnMut(usize, usize),
    ) -> Result<(), String> {
        match self {
            Self::Matches { expression, drops } => {
                let mut end = 0;
                let drops = *drops;
                expression.find(text, cache, &mut |start, stop| {
                    if end < start && !drops {
                        each(end, start);
                    }
                    if start < stop {
                        each(start, stop);
                    }
                    end = stop;
                })?;
                if end < text.len() && !drops {
                    each(end, text.len());
                }
            }
            Self::Digits => {
                let mut end = 0;
                for (start, digit) in text.char_indices().filter(|(_, character)| character.is_numeric()) {
                    if end < start {
                        each(end, start);
                    }
                    end = start + digit.len_utf8();
                    each(start, end);
                }
                if end < text.len() {
                    each(end, text.len());
                }
            }
            Self::Numbers => {
                let mut start = 0;
                let mut before = None;
                for (place, character) in text.char_indices() {
                    let is_numeric = character.is_numeric();
                    if before.is_some_and(|before| before != is_numeric) {
                        each(start, place);
                        start = place;
                    }
                    before = Some(is_numeric);
                }
                if start < text.len() {
                    each(start, text.len());
                }
            }
        }
        Ok(())
    }
}

/// An expression of a rule, and the same without backtracking where that can be had.
#[derive(Debug)]
pub(super) struct Matcher {
    slow: Expression,
    /// The expression; and behind it, where it ends with [`SPACES`], white space.
    quick: Option<Regex>,
}

impl Matcher {
    fn new(expression: &Expression) -> Self {
        Self { slow: expression.clone(), quick: quick(expression.as_str()) }
    }

    fn find(&self, text: &str, cache: Option<&mut Cache>, each: &mut impl FnMut(usize, usize)) -> Result<(), String> {
        let (Some(quick), Some(cache)) = (&self.quick, cache) else { return self.slow.find(text, each) };
        let mut input = Input::new(text);
        let mut clock = self.slow.clock();
        loop {
            // The next match begins here as a rule, and then needs no search backwards for its beginning.
            input.set_anchored(Anchored::Yes);
            let mut found = quick.search_with(cache, &input);
            if found.is_none() {
                input.set_anchored(Anchored::No);
                found = quick.search_with(cache, &input);
            }
            let Some(found) = found else { return Ok(()) };
            clock.tick()?;
            let mut end = found.end();
            if found.pattern() == PatternID::must(1) && end < text.len() {
                let last = text[found.range()].char_indices().next_back().map_or(0, |(at, _)| at);
                if last > 0 {
                    end = found.start() + last;
                }
            }
            each(found.start(), end);
            input.set_start(end);
        }
    }
}

/// An expression in the parts that both engines read alike, without backtracking. Such an expression matches no empty text
/// and looks at nothing outside of its match.
fn quick(pattern: &str) -> Option<Regex> {
    let before = pattern.strip_suffix(SPACES);
    let own = before.unwrap_or(pattern);
    let is_common = |rest: &str| {
        let next = rest.chars().next();
        next.is_some_and(|next| "pPrnstSdDwW".contains(next) || next.is_ascii_punctuation() && !"<>".contains(next))
    };
    let mut rest = own;
    while let Some(at) = rest.find(['\\', '(']) {
        let behind = &rest[at + 1..];
        let is_group = rest[at..].starts_with('(');
        if is_group && behind.starts_with('?') && !(behind.starts_with("?i:") || behind.starts_with("?:"))
            || !is_group && !is_common(behind)
        {
            return None;
        }
        // An escaped character is no group.
        rest = if is_group { behind } else { &behind[behind.chars().next().map_or(0, char::len_utf8)..] };
    }
    let read = syntax::parse(own).ok()?;
    let properties = read.properties();
    if properties.minimum_len().is_none_or(|least| least == 0) || !properties.look_set().is_empty() {
        return None;
    }
    match before {
        Some(own) => Regex::new_many(&[own, r"\s+"]).ok(),
        None => Regex::new(own).ok(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use proptest::prelude::*;
    use tokenizers::pattern::Pattern;

    use super::*;

    /// Expressions of tokenizers: of GPT-2, Llama 3, Qwen 2, gpt-oss, and the three of DeepSeek.
    const KNOWN: [&str; 7] = [
        BYTE_LEVEL,
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        r"\p{N}{1,3}",
        "[一-龥\u{3040}-ゟ゠-ヿ]+",
        r#"[!"\#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"#,
    ];

    #[test]
    fn the_expressions_of_tokenizers_need_no_backtracking() {
        for pattern in KNOWN {
            assert!(quick(pattern).is_some(), "{pattern}");
        }
    }

    #[test]
    fn what_the_engines_may_read_differently_is_left_to_the_one_that_the_library_has() {
        for pattern in [
            r"a(?=b)",
            r"(?<!a)b",
            r"\p{N}{1,3}+(?!\S)",
            "a*",
            r"\bword",
            "^a",
            "a$",
            r"\<a",
            r"\h+",
            r"\e",
            r"\Ka",
            r"(?i)a",
            r"(?s:.)+",
            r"(a)\1",
            r"\s+(?!\S)|\s+",
        ] {
            assert!(quick(pattern).is_none(), "{pattern}");
        }
        assert!(quick(r"\(?a").is_some(), "an escaped bracket opens no group");
    }

    proptest! {
        #[test]
        fn matches_are_those_of_the_library(
            text in r"([ \t\n\r\u{a0}\u{3000}]{0,3}('s|'LL|[a-zé]{1,4}|[0-9²Ⅷ]{1,5}|[一-三か]{1,3}|[!-/]{1,3}|\PC|\p{M}))*[ \n\r]{0,3}"
        ) {
            static MATCHERS: LazyLock<Vec<Matcher>> =
                LazyLock::new(|| KNOWN.iter().map(|known| Matcher::new(&Expression::new(known).unwrap())).collect());
            for matcher in &*MATCHERS {
                let mut cache = matcher.quick.as_ref().map(Regex::create_cache);
                let mut found = Vec::new();
                matcher.find(&text, cache.as_mut(), &mut |start, end| found.push((start, end))).unwrap();
                let wanted = (&matcher.slow).find_matches(&text).unwrap();
                let wanted: Vec<_> = wanted.into_iter().filter(|(_, is_match)| *is_match).map(|(at, _)| at).collect();
                prop_assert_eq!(found, wanted, "{} {:?}", matcher.slow.as_str(), text);
            }
        }
    }
}
