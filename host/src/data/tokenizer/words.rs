//! Encoding by words that are known already.
//!
//! A tokenizer that works on bytes cuts a text into words and looks at each alone. A text has few words that no text before
//! had, so each word's tokens are kept. The library makes them the first time; for a text it makes much more that is thrown
//! away: where each byte came from, a text for every token. What can be done so is found by looking at the tokenizer's parts,
//! and tried beside the library; everything else is left to it.

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::sync::{LazyLock, Mutex, PoisonError};

use daachorse::{DoubleArrayAhoCorasick, DoubleArrayAhoCorasickBuilder, MatchKind};
use regex_automata::meta::Cache;
use tokenizers::normalizers::NormalizerWrapper;
use tokenizers::{AddedToken, Model};

use super::patterns::{Bounded, BoundedNormalizer};
use super::split::{Rule, rules};
use super::token::Token;

/// Words that are kept at once. English text of some size has as many.
const WORDS: usize = 1 << 16;
/// Bytes of a word that is kept.
const WORD: usize = 64;

/// Texts that a tokenizer is tried with.
const TRIED: [&str; 8] = [
    "Hello, world! It's 12:30 on 2026-11-30; they're\n\n  here\t\tnow.  ",
    "\u{a0}naïve café 東京タワー に 3 回、 Ⅷ ½ ²³",
    "   ",
    "\r\n\r\n def f(x):\n    return x[0]  # \"a\" 'b'\n",
    "👩‍💻🇩🇪 e\u{301}\u{5d0}\u{5b0} क्षि ไทย",
    "\u{0}\u{1f}\u{7f}\u{85}\u{feff}\u{200b}",
    "a<|x|>b <s> </s>\n<|x|>",
    "1234567 WE'LL ALLCAPS camelCase snake_case http://a.b/c?d=e&f",
];

/// What cuts a text into words, and the words that were met.
pub(super) struct Words {
    /// Tokens that are found before anything else is: as they stand, and then those that are found in a normalized text.
    added: [Option<DoubleArrayAhoCorasick<u32>>; 2],
    tokens: HashMap<u32, Added>,
    /// The text is normalized (NFC) before it is cut.
    composes: bool,
    rules: Vec<Rule>,
    /// One for each thread that encodes at the time.
    kept: Mutex<Vec<Kept>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Added {
    /// Stands for its text.
    Plain,
    /// Is not looked for (`split_special_tokens`).
    Unsought,
    /// Takes what is around it into account.
    Other,
}

/// What a thread encodes with.
struct Kept {
    caches: Vec<Option<Cache>>,
    /// Parts of the text, before a rule and after it.
    parts: [Vec<(usize, usize)>; 2],
    met: Met,
}

/// The words that a thread has met.
#[derive(Default)]
struct Met {
    /// Words by their bytes and their length, where both fit.
    short: HashMap<u128, Known>,
    long: HashMap<Box<str>, Known>,
    /// Tokens of words that have not one each. Their places are in their words.
    tokens: Vec<Token>,
}

/// The tokens of a word.
#[derive(Debug, Clone, Copy)]
enum Known {
    /// One for all of it.
    One(u32),
    /// The first of them and the one behind the last.
    More(u32, u32),
}

impl fmt::Debug for Words {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Words").field("rules", &self.rules).finish_non_exhaustive()
    }
}

impl Words {
    /// None where the tokenizer has a part that is not known here, or where the library encodes otherwise.
    pub(super) fn of(tokenizer: &Bounded) -> Option<Self> {
        let composes = match tokenizer.get_normalizer() {
            None => false,
            Some(BoundedNormalizer::Other(NormalizerWrapper::NFC(_))) => true,
            Some(_) => return None,
        };
        let rules = rules(tokenizer.get_pre_tokenizer()?)?;
        let vocabulary = tokenizer.get_added_vocabulary();
        let (mut texts, mut tokens) = ([Vec::new(), Vec::new()], HashMap::new());
        for (&id, token) in vocabulary.get_added_tokens_decoder() {
            let AddedToken { content, single_word, lstrip, rstrip, normalized, .. } = token;
            let text = if *normalized { vocabulary.simple_id_to_token(id)? } else { content.clone() };
            texts[usize::from(*normalized)].push((text, id));
            let added = if vocabulary.get_encode_special_tokens() && vocabulary.is_special_token(content) {
                Added::Unsought
            } else if *single_word || *lstrip || *rstrip {
                Added::Other
            } else {
                Added::Plain
            };
            tokens.insert(id, added);
        }
        let mut added = [None, None];
        for (found, texts) in added.iter_mut().zip(texts) {
            if !texts.is_empty() {
                let builder = DoubleArrayAhoCorasickBuilder::new().match_kind(MatchKind::LeftmostLongest);
                *found = Some(builder.build_with_values(texts).ok()?);
            }
        }
        let words = Self { added, tokens, composes, rules, kept: Mutex::default() };
        TRIED.iter().all(|text| words.does_as_the_library(tokenizer, text)).then_some(words)
    }

    fn does_as_the_library(&self, tokenizer: &Bounded, text: &str) -> bool {
        let Ok(Some(found)) = self.encode(tokenizer, text) else { return true };
        let Ok(wanted) = tokenizer.encode(text, false) else { return false };
        let wanted = wanted.get_ids().iter().zip(wanted.get_offsets());
        found.into_iter().eq(wanted.map(|(&id, &(start, end))| Token { id, start, end }))
    }

    /// The tokens of a text. None where the library must make them.
    ///
    /// # Errors
    /// A rule came to no end, or the library failed on a word.
    pub(super) fn encode(&self, tokenizer: &Bounded, text: &str) -> tokenizers::Result<Option<Vec<Token>>> {
        if self.composes && !is_composed(text) {
            return Ok(None);
        }
        let pool = || self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = pool().pop();
        let mut kept = kept.unwrap_or_else(|| Kept::new(&self.rules));
        let mut tokens = Vec::with_capacity(text.len() / 3);
        let done = self.pieces(0, text, 0, &mut |piece| match piece {
            Piece::Token(token) => {
                tokens.push(token);
                Ok(true)
            }
            Piece::Text(start, end) => kept.encode(tokenizer, &self.rules, &text[start..end], start, &mut tokens),
        })?;
        pool().push(kept);
        Ok(done.then_some(tokens))
    }

    /// Gives the added tokens in a text and what is between them. False where one asks for more than its text, or where `each`
    /// says so.
    fn pieces(
        &self,
        stage: usize,
        text: &str,
        base: usize,
        each: &mut impl FnMut(Piece) -> tokenizers::Result<bool>,
    ) -> tokenizers::Result<bool> {
        let Some(added) = self.added.get(stage) else {
            return each(Piece::Text(base, base + text.len()));
        };
        let mut end = 0;
        for found in added.iter().flat_map(|added| added.leftmost_find_iter(text)) {
            match self.tokens.get(&found.value()) {
                Some(Added::Plain) => {}
                Some(Added::Unsought) => continue,
                _ => return Ok(false),
            }
            if end < found.start() && !self.pieces(stage + 1, &text[end..found.start()], base + end, each)? {
                return Ok(false);
            }
            end = found.end();
            if !each(Piece::Token(Token { id: found.value(), start: base + found.start(), end: base + end }))? {
                return Ok(false);
            }
        }
        if end < text.len() { self.pieces(stage + 1, &text[end..], base + end, each) } else { Ok(true) }
    }
}

enum Piece {
    Token(Token),
    Text(usize, usize),
}

impl Kept {
    fn new(rules: &[Rule]) -> Self {
        let caches = rules.iter().map(Rule::cache).collect();
        Self { caches, parts: Default::default(), met: Met::default() }
    }

    /// False where the library must make the tokens.
    fn encode(
        &mut self,
        tokenizer: &Bounded,
        rules: &[Rule],
        text: &str,
        base: usize,
        into: &mut Vec<Token>,
    ) -> tokenizers::Result<bool> {
        let Self { caches, parts: [parts, cut], met } = self;
        parts.clear();
        parts.push((0, text.len()));
        for (rule, cache) in rules.iter().zip(caches) {
            cut.clear();
            for &(start, end) in &*parts {
                rule.cut(&text[start..end], cache.as_mut(), &mut |from, to| cut.push((start + from, start + to)))?;
            }
            std::mem::swap(parts, cut);
        }
        for &(start, end) in &*parts {
            let (word, place) = (&text[start..end], base + start);
            let short = packed(word);
            let known = match short {
                Some(short) => met.short.get(&short).copied(),
                None => met.long.get(word).copied(),
            };
            let known = match known {
                Some(known) => known,
                None => {
                    let Some(tokens) = encode_word(tokenizer, word)? else { return Ok(false) };
                    if word.len() > WORD {
                        into.extend(tokens.iter().map(|token| token.at(place)));
                        continue;
                    }
                    met.keep(word, short, &tokens)
                }
            };
            match known {
                Known::One(id) => into.push(Token { id, start: place, end: base + end }),
                Known::More(first, end) => {
                    into.extend(met.tokens[first as usize..end as usize].iter().map(|token| token.at(place)));
                }
            }
        }
        Ok(true)
    }
}

impl Met {
    fn keep(&mut self, word: &str, short: Option<u128>, tokens: &[Token]) -> Known {
        if self.short.len() + self.long.len() == WORDS {
            self.short.clear();
            self.long.clear();
            self.tokens.clear();
        }
        let known = match *tokens {
            [Token { id, start: 0, end }] if end == word.len() => Known::One(id),
            _ => {
                let first = self.tokens.len() as u32;
                self.tokens.extend_from_slice(tokens);
                Known::More(first, self.tokens.len() as u32)
            }
        };
        match short {
            Some(short) => self.short.insert(short, known),
            None => self.long.insert(word.into(), known),
        };
        known
    }
}

/// The bytes of a short word and their number.
fn packed(word: &str) -> Option<u128> {
    let mut bytes = [0; 16];
    bytes[..15].get_mut(..word.len())?.copy_from_slice(word.as_bytes());
    bytes[15] = word.len() as u8;
    Some(u128::from_le_bytes(bytes))
}

/// The tokens of one word, as the library makes them. None where it has bytes without a token: the places of the others depend
/// on what is around it.
fn encode_word(tokenizer: &Bounded, word: &str) -> tokenizers::Result<Option<Vec<Token>>> {
    let model = tokenizer.get_model();
    // Each byte is written as a character; `places` has the byte for each byte of it.
    let (mut written, mut places) = (String::with_capacity(2 * word.len()), Vec::with_capacity(2 * word.len() + 1));
    for (place, byte) in word.bytes().enumerate() {
        let character = CHARACTERS[usize::from(byte)];
        if model.token_to_id(character.encode_utf8(&mut [0; 4])).is_none() {
            return Ok(None);
        }
        written.push(character);
        places.resize(written.len(), place);
    }
    places.push(word.len());
    let tokens = model.tokenize(&written)?;
    // A token of some bytes of a character stands for all of it.
    let place =
        |(start, end): (usize, usize)| (word.floor_char_boundary(places[start]), word.ceil_char_boundary(places[end]));
    Ok(Some(
        tokens
            .into_iter()
            .map(|token| (token.id, place(token.offsets)))
            .map(|(id, (start, end))| Token { id, start, end })
            .collect(),
    ))
}

/// The character that stands for each byte in a vocabulary (GPT-2's `bytes_to_unicode`): its own where that can be seen.
static CHARACTERS: LazyLock<[char; 256]> = LazyLock::new(|| {
    let mut next = 256_u32;
    std::array::from_fn(|byte| {
        let own = char::from(byte as u8);
        if matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff) {
            return own;
        }
        next += 1;
        char::from_u32(next - 1).unwrap_or(own)
    })
});

/// Whether every character of a text is one that normalization (NFC) leaves as it is, whatever is beside it. Some others are
/// left too.
fn is_composed(text: &str) -> bool {
    text.is_ascii() || text.chars().all(|character| ALONE.iter().any(|alone| alone.contains(&character)))
}

/// Characters that are not composed anew and that no mark before them moves (`NFC_QC=Yes`, `ccc=0`): Latin, Greek, Cyrillic,
/// Hebrew and Arabic without vowels, punctuation, mathematics and boxes, Chinese, Japanese, Korean, wide forms, pictures.
const ALONE: [Range<char>; 24] = [
    '\0'..'\u{300}',
    '\u{37f}'..'\u{380}',
    '\u{384}'..'\u{387}',
    '\u{388}'..'\u{38b}',
    '\u{38e}'..'\u{3a2}',
    '\u{3a3}'..'\u{483}',
    '\u{48a}'..'\u{530}',
    '\u{5d0}'..'\u{5eb}',
    '\u{620}'..'\u{64b}',
    '\u{660}'..'\u{670}',
    '\u{671}'..'\u{6d5}',
    '\u{2002}'..'\u{2065}',
    '\u{2070}'..'\u{2072}',
    '\u{20a0}'..'\u{20c1}',
    '\u{2190}'..'\u{2329}',
    '\u{232b}'..'\u{2adc}',
    '\u{3000}'..'\u{302a}',
    '\u{3041}'..'\u{3097}',
    '\u{30a0}'..'\u{3100}',
    '\u{4e00}'..'\u{a000}',
    '\u{ac00}'..'\u{d7a4}',
    '\u{fe0f}'..'\u{fe10}',
    '\u{ff01}'..'\u{ff9e}',
    '\u{1f000}'..'\u{1fb00}',
];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};
    use tokenizers::normalizers::NFC;
    use tokenizers::pre_tokenizers::byte_level::ByteLevel;
    use tokenizers::{NormalizedString, Normalizer};

    use super::*;

    /// A tokenizer with all bytes but those of `lacks`, some merges, and added tokens of each kind.
    fn tokenizer(pre_tokenizer: &Value, normalizer: &Value, ignores_merges: bool, lacks: &str) -> Bounded {
        let mut alphabet: Vec<char> = ByteLevel::alphabet().into_iter().collect();
        alphabet.sort_unstable();
        let mut vocab: Vec<String> = alphabet.into_iter().map(String::from).collect();
        let merges = [
            ("h", "e"),
            ("l", "l"),
            ("he", "ll"),
            ("Ġ", "a"),
            ("Ã", "©"),
            ("Ġ", "Ġ"),
            ("1", "2"),
            ("Ċ", "Ċ"),
            ("ã", "ģ"),
        ];
        vocab.extend(merges.iter().map(|(left, right)| format!("{left}{right}")));
        // A whole word that no merges make.
        vocab.push("Ġword".to_owned());
        let vocab: serde_json::Map<String, Value> = vocab
            .into_iter()
            .enumerate()
            .map(|(id, token)| (token, id.into()))
            .filter(|(token, _)| !lacks.contains(&**token))
            .collect();
        let added = |(id, content, [single_word, lstrip, rstrip, normalized, special]): (u32, &str, [bool; 5])| {
            json!({ "id": id, "content": content, "single_word": single_word, "lstrip": lstrip, "rstrip": rstrip,
                "normalized": normalized, "special": special })
        };
        let tokens = [
            (400, "<|x|>", [false, false, false, false, true]),
            (401, "<|x|>\n", [false, false, false, false, false]),
            (402, "<é>", [false, false, false, true, false]),
            (403, "x|", [false, false, false, true, false]),
            (404, "<mask>", [false, true, true, false, true]),
            (405, "one", [true, false, false, true, false]),
        ];
        let file = json!({
            "version": "1.0", "truncation": null, "padding": null, "normalizer": normalizer, "post_processor": null,
            "added_tokens": tokens.map(added), "pre_tokenizer": pre_tokenizer, "decoder": null,
            "model": { "type": "BPE", "vocab": vocab, "ignore_merges": ignores_merges,
                "merges": merges.map(|(left, right)| format!("{left} {right}")) },
        });
        Bounded::from_bytes(file.to_string()).unwrap()
    }

    fn split(pattern: &str) -> Value {
        json!({ "type": "Split", "pattern": { "Regex": pattern }, "behavior": "Isolated", "invert": false })
    }

    fn bytes(use_regex: bool) -> Value {
        json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex })
    }

    fn sequence(rules: &[Value]) -> Value {
        json!({ "type": "Sequence", "pretokenizers": rules })
    }

    /// Tokenizers of each family: GPT-2, SmolLM2, Llama 3, an expression that needs backtracking, DeepSeek.
    fn families() -> Vec<Bounded> {
        let llama = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
        let digits = |each: bool| json!({ "type": "Digits", "individual_digits": each });
        let kept = json!({ "type": "Split", "pattern": { "Regex": llama }, "behavior": "Removed", "invert": true });
        let some =
            json!({ "type": "Split", "pattern": { "Regex": r"\p{L}+|\s" }, "behavior": "Removed", "invert": true });
        let (none, nfc) = (json!(null), json!({ "type": "NFC" }));
        vec![
            tokenizer(&bytes(true), &none, false, ""),
            tokenizer(&bytes(true), &none, false, "åð"),
            tokenizer(&sequence(&[digits(true), bytes(true)]), &none, false, ""),
            tokenizer(&sequence(&[digits(false), bytes(true)]), &nfc, false, ""),
            tokenizer(&sequence(&[split(llama), bytes(false)]), &nfc, true, ""),
            tokenizer(&sequence(&[kept, bytes(false)]), &none, false, ""),
            tokenizer(&sequence(&[some, bytes(false)]), &none, false, ""),
            tokenizer(
                &sequence(&[split(r"\p{N}{1,3}"), split("[一-龥か]+"), split(llama), bytes(false)]),
                &none,
                false,
                "",
            ),
            tokenizer(&sequence(&[split(r"(?<=l)e|\s+(?=h)"), bytes(false)]), &none, false, ""),
            tokenizer(&bytes(false), &none, true, ""),
        ]
    }

    fn library(tokenizer: &Bounded, text: &str) -> Vec<Token> {
        let encoding = tokenizer.encode(text, false).unwrap();
        let tokens = encoding.get_ids().iter().zip(encoding.get_offsets());
        tokens.map(|(&id, &(start, end))| Token { id, start, end }).collect()
    }

    #[test]
    fn what_is_not_known_is_left_to_the_library() {
        let spaced = json!({ "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true });
        let merged =
            json!({ "type": "Split", "pattern": { "Regex": " " }, "behavior": "MergedWithNext", "invert": false });
        for rule in [spaced, merged, sequence(&[bytes(true), split("a")]), json!({ "type": "Whitespace" })] {
            assert!(Words::of(&tokenizer(&rule, &json!(null), false, "")).is_none(), "{rule}");
        }
        let lower = json!({ "type": "Lowercase" });
        assert!(Words::of(&tokenizer(&bytes(true), &lower, false, "")).is_none());
        let mut known = tokenizer(&bytes(true), &json!({ "type": "NFC" }), false, "å");
        let is_left =
            |tokenizer: &Bounded, text: &str| Words::of(tokenizer).unwrap().encode(tokenizer, text).unwrap().is_none();
        assert!(is_left(&known, "e\u{301}"), "not normalized");
        assert!(is_left(&known, "国"), "a byte without a token");
        assert!(is_left(&known, "a <mask> b"), "a token that takes the spaces around it");
        assert!(is_left(&known, "one"), "a token that must be a word");
        assert!(!is_left(&known, "héllo <|x|>"));
        known.set_encode_special_tokens(true);
        assert!(!is_left(&known, "a <mask> b"), "special tokens are not looked for");
    }

    #[test]
    fn words_are_forgotten_when_there_are_many() {
        let tokenizer = tokenizer(&bytes(true), &json!(null), false, "");
        let words = Words::of(&tokenizer).unwrap();
        let many: String = (0..WORDS + 100).map(|word| format!(" {word:x}")).collect();
        words.encode(&tokenizer, &many).unwrap();
        for text in [&*"x".repeat(WORD + 1), " hello", &many[many.len() - 600..], &many[..600]] {
            assert_eq!(words.encode(&tokenizer, text).unwrap().unwrap(), library(&tokenizer, text));
        }
        let kept = words.kept.lock().unwrap();
        assert_eq!(kept.len(), 1, "one thread was at work");
        assert!(
            kept[0].met.short.len() + kept[0].met.long.len() <= WORDS
                && kept[0].met.long.keys().all(|word| word.len() <= WORD)
        );
    }

    proptest! {
        #[test]
        fn tokens_are_those_of_the_library(
            texts in prop::collection::vec(
                r"([ \n\t\u{a0}]{0,3}(hell|he|word|'s|'LL|[a-zé]{1,4}|[0-9²]{1,5}|[一-三か]{1,2}|[!-/]{1,2}|<\|x\|>\n?|<é>|x\||<mask>|one|\PC|e\u{301})){0,6}\s?",
                1..4,
            ),
            splits_special: bool,
        ) {
            static KNOWN: LazyLock<[Vec<(Bounded, Words)>; 2]> = LazyLock::new(|| {
                [false, true].map(|splits_special| {
                    let mut known = Vec::new();
                    for mut tokenizer in families() {
                        tokenizer.set_encode_special_tokens(splits_special);
                        let words = Words::of(&tokenizer).expect("a family that is known");
                        known.push((tokenizer, words));
                    }
                    known
                })
            });
            for (tokenizer, words) in &KNOWN[usize::from(splits_special)] {
                for text in texts.iter().chain(&texts) {
                    if let Some(found) = words.encode(tokenizer, text).unwrap() {
                        prop_assert_eq!(found, library(tokenizer, text), "{:?}", text);
                    }
                }
            }
        }
    }

    #[test]
    fn characters_that_stand_alone_are_left_by_the_library() {
        for character in ALONE.into_iter().flatten() {
            for text in [format!("{character}"), format!("{character}e"), format!("e{character}가{character}か")] {
                let mut normalized = NormalizedString::from(&*text);
                NFC.normalize(&mut normalized).unwrap();
                assert_eq!(normalized.get(), text, "U+{:04X}", u32::from(character));
            }
        }
    }
}
