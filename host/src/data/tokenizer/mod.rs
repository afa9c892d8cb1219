//! The model's tokenizer: `tokenizer.json` plus the names of the special tokens and the chat template beside it.
//!
//! Everything here is read from a directory that may come from a stranger: known keys only, no path or URL inside any
//! of these files is ever followed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use tokenizers::AddedToken;

use self::added::Replaced;
use self::error::read;
use self::names::{read_names, set};
use self::patterns::{Bounded, within};
use self::words::Words;

pub use self::error::TokenizerError;
pub use self::post_processor::Affixes;
pub use self::token::Token;

mod added;
mod budget;
mod error;
mod names;
mod patterns;
mod post_processor;
mod split;
mod token;
mod words;

/// Texts that a tokenizer may fail on: each may have taken its whole time.
const SLOW: u32 = 16;
/// Bytes that `tokenizer.json` may have.
const FILE_LIMIT: u64 = 256 << 20;

/// Special tokens that the config sets over the tokenizer's own (`special_tokens`).
#[derive(Debug, Clone, Default)]
pub struct SpecialTokens {
    /// Beginning of a text.
    pub bos_token: Option<String>,
    /// End of a text.
    pub eos_token: Option<String>,
    /// Filler; never trained on.
    pub pad_token: Option<String>,
    /// Stands for what the vocabulary lacks.
    pub unk_token: Option<String>,
}

/// What a config changes of a tokenizer.
#[derive(Debug, Clone, Default)]
pub struct Changes {
    /// `special_tokens`.
    pub special: SpecialTokens,
    /// `tokens`: texts that become one token each.
    pub tokens: Vec<String>,
    /// `added_tokens_overrides`: other texts for added tokens, by their ids.
    pub overrides: BTreeMap<u32, String>,
}

/// A loaded tokenizer.
#[derive(Debug)]
pub struct Tokenizer {
    inner: Bounded,
    /// Where texts can be encoded word by word.
    words: Option<Words>,
    directory: PathBuf,
    bos: Option<u32>,
    eos: Option<u32>,
    pad: Option<u32>,
    /// Special tokens by name, overrides included.
    named: Vec<(String, String)>,
    /// What the config set over what the files say.
    changed: Vec<(&'static str, String)>,
    affixes: Affixes,
    /// `tokenizer.json` as it must be exported, where the config has changed it.
    rewritten: Option<String>,
    /// Tokens that the config has added, with their ids.
    new: Vec<(u32, String)>,
    /// Texts that the config has given added tokens, by their ids.
    overrides: BTreeMap<u32, String>,
    templates: BTreeMap<String, String>,
    skipped: BTreeSet<u32>,
    /// Rows of the model's embedding.
    rows: Option<usize>,
    remarks: Vec<String>,
    /// Texts that it failed on.
    slow: AtomicU32,
}

impl Tokenizer {
    /// Loads a model directory's `tokenizer.json` and the files beside it, with the precedence of transformers 5.
    /// `changes` win over what the files say.
    pub fn load(directory: &Path, changes: &Changes) -> Result<Self, TokenizerError> {
        let path = directory.join("tokenizer.json");
        let bytes = read(&path, FILE_LIMIT)?.ok_or_else(|| TokenizerError::Missing { path: path.clone() })?;
        let invalid = |reason: String| TokenizerError::Invalid { path: path.clone(), reason };
        let is_byte_level = budget::check(&bytes).map_err(invalid)?;
        budget::guarded(|| Self::read(directory, path.clone(), &bytes, is_byte_level, changes))
            .ok_or_else(|| invalid("the library that reads it fails on it".to_owned()))?
    }

    fn read(
        directory: &Path,
        path: PathBuf,
        file: &[u8],
        is_byte_level: bool,
        changes: &Changes,
    ) -> Result<Self, TokenizerError> {
        let invalid = |reason: String| TokenizerError::Invalid { path: path.clone(), reason };
        let replaced = (!changes.overrides.is_empty()).then(|| added::replace(file, &changes.overrides));
        let replaced = replaced.transpose().map_err(|error| match error {
            Replaced::Invalid(reason) => invalid(reason),
            Replaced::NotAdded(id) => TokenizerError::NotAdded { id, path: path.clone() },
            Replaced::Known(id, token) => TokenizerError::Twice { id, token, path: path.clone() },
        })?;
        let bytes = replaced.as_deref().map_or(file, str::as_bytes);
        let mut inner = Bounded::from_bytes(bytes).map_err(|error| invalid(error.to_string()))?;
        // Truncation and padding in the file would silently shorten or lengthen training samples.
        inner.with_truncation(None).map_err(|error| invalid(error.to_string()))?;
        inner.with_padding(None);

        let known = inner.get_added_tokens_decoder();
        let names = read_names(directory, |id| known.contains_key(&id), is_byte_level, &changes.overrides)?;
        let mut named = names.named;
        let failed = |error: tokenizers::Error| invalid(error.to_string());
        inner.add_tokens(names.added).map_err(failed)?;
        let is_added = |inner: &Bounded| -> BTreeSet<String> {
            inner.get_added_tokens_decoder().into_values().map(|token| token.content).collect()
        };
        // As transformers does: a name that is no added token becomes one, a new one if the vocabulary lacks it.
        let known = is_added(&inner);
        let mut remarks: Vec<String> = unknown_names(&inner, &named, &changes.special).into_iter().collect();
        let lacking = named.iter().map(|(_, token)| token).chain(&names.extra).filter(|token| !known.contains(*token));
        let lacking: Vec<AddedToken> = lacking.map(|token| AddedToken::from(token.clone(), true)).collect();
        inner.add_tokens(lacking).map_err(failed)?;
        // Then what the config asks for, as Axolotl does.
        let known = is_added(&inner);
        let special = changes.special.named().into_iter().filter_map(|(_, token)| token.as_ref());
        let special = special.filter(|token| !token.is_empty()).map(|token| (token, true));
        let asked = special.chain(changes.tokens.iter().map(|token| (token, false)));
        let mut seen = BTreeSet::new();
        let asked: Vec<(AddedToken, bool)> = asked
            .filter(|(text, _)| !known.contains(*text) && seen.insert(text.as_str()))
            .map(|(text, is_special)| (added::token(text, is_special), inner.token_to_id(text).is_none()))
            .collect();
        inner.add_tokens(asked.iter().map(|(token, _)| token.clone()).collect::<Vec<_>>()).map_err(failed)?;
        let mut written = Vec::new();
        let mut new = Vec::new();
        for (token, is_new) in asked {
            let Some(id) = inner.token_to_id(&token.content) else { continue };
            new.extend(is_new.then(|| (id, token.content.clone())));
            // A special token that the vocabulary has is told by its name alone.
            if is_new || !token.special {
                written.push((id, token));
            }
        }
        let of_files = |name: &str, named: &[(String, String)]| {
            named.iter().find(|(known, _)| known == name).map(|(_, token)| token.clone())
        };
        let mut changed = Vec::new();
        let mut renamed = Vec::new();
        for (name, token) in changes.special.named() {
            let Some(token) = token else { continue };
            let before = of_files(name, &named);
            if before.as_ref() == Some(token) {
                continue;
            }
            if matches!(name, "bos_token" | "eos_token") {
                renamed.extend(before.map(|before| (before, token.clone())));
            }
            set(&mut named, name, Some(token.clone()));
            changed.push((name, token.clone()));
        }
        // A token that still begins or ends texts under its other name stays where it is.
        renamed.retain(|(before, _)| {
            ["bos_token", "eos_token"].iter().all(|name| of_files(name, &named).as_ref() != Some(before))
        });
        let rewritten = post_processor::rename(&mut inner, bytes, &renamed).map_err(invalid)?;
        let mut rewritten = rewritten.or_else(|| replaced.clone());
        if !written.is_empty() {
            let file = rewritten.as_deref().unwrap_or(std::str::from_utf8(bytes).unwrap_or_default());
            rewritten = Some(added::write(file, &written).map_err(invalid)?);
        }
        remarks.splice(0..0, disagreements(&names.disagreements, &changed));
        inner.set_encode_special_tokens(names.split_special_tokens);

        let affixes = post_processor::affixes(&inner).map_err(invalid)?;
        if affixes.prefix.len() + affixes.suffix.len() > budget::AFFIXES {
            return Err(invalid(format!("it puts more than {} tokens around a text", budget::AFFIXES)));
        }
        let id = |name: &str| {
            let token = of_files(name, &named)?;
            if token.is_empty() { None } else { inner.token_to_id(&token) }
        };
        let (bos, eos, pad) = (id("bos_token"), id("eos_token"), id("pad_token"));
        remarks.extend(unheeded(names.wanted, [bos, eos], &affixes));
        let mut skipped: BTreeSet<u32> =
            inner.get_added_tokens_decoder().into_iter().filter(|(_, token)| token.special).map(|(id, _)| id).collect();
        skipped.extend([bos, eos, pad].into_iter().flatten());
        Ok(Self {
            directory: directory.to_owned(),
            bos,
            eos,
            pad,
            named,
            changed,
            affixes,
            rewritten,
            new,
            overrides: changes.overrides.clone(),
            templates: names.templates,
            skipped,
            rows: None,
            remarks,
            words: Words::of(&inner),
            inner,
            slow: AtomicU32::new(0),
        })
    }

    /// Says how many rows the model's embedding has: from now on a text with a token beyond them is an error.
    ///
    /// # Errors
    /// [`TokenizerError::NoRow`] for a token beyond them that is put around texts.
    pub fn limit(&mut self, rows: usize) -> Result<(), TokenizerError> {
        self.rows = Some(rows);
        // A filler is never looked up.
        self.pad = self.pad.filter(|&id| (id as usize) < rows);
        let around = self.affixes.prefix.iter().chain(&self.affixes.suffix).copied().chain(self.eos);
        around.into_iter().try_for_each(|id| self.check_row(id))
    }

    fn check_row(&self, id: u32) -> Result<(), TokenizerError> {
        match self.rows {
            Some(rows) if id as usize >= rows => {
                let token = self.inner.id_to_token(id).unwrap_or_default();
                Err(TokenizerError::NoRow { token, id, rows })
            }
            _ => Ok(()),
        }
    }

    /// A token of this tokenizer, for which the model has a row.
    ///
    /// # Errors
    /// [`TokenizerError::NoToken`] or [`TokenizerError::NoRow`].
    pub fn check(&self, id: u32) -> Result<(), TokenizerError> {
        if self.inner.id_to_token(id).is_none() {
            return Err(TokenizerError::NoToken { id });
        }
        self.check_row(id)
    }

    /// Encodes a text as it is; special tokens written in it become their ids, none is added.
    pub fn encode(&self, text: &str) -> Result<Vec<Token>, TokenizerError> {
        if self.slow.load(Ordering::Relaxed) >= SLOW {
            return Err(TokenizerError::Encode(format!("it failed on {SLOW} texts, so no more are tried")));
        }
        let tokens = budget::guarded(|| within(text.len(), || self.tokens(text))).ok_or_else(failed)?;
        let tokens = tokens.map_err(|reason| {
            self.slow.fetch_add(1, Ordering::Relaxed);
            TokenizerError::Encode(reason)
        })?;
        tokens.iter().try_for_each(|token| self.check_row(token.id))?;
        Ok(tokens)
    }

    fn tokens(&self, text: &str) -> tokenizers::Result<Vec<Token>> {
        if let Some(words) = &self.words
            && let Some(tokens) = words.encode(&self.inner, text)?
        {
            return Ok(tokens);
        }
        let encoding = self.inner.encode(text, false)?;
        let tokens = encoding.get_ids().iter().zip(encoding.get_offsets());
        Ok(tokens.map(|(&id, &(start, end))| Token { id, start, end }).collect())
    }

    /// What stands around a plain text. `add_bos_token` and `add_eos_token` have no say: transformers 5 drops both where
    /// there is a `tokenizer.json`.
    pub fn affixes(&self) -> &Affixes {
        &self.affixes
    }

    /// Text of the ids, special tokens left out.
    pub fn decode(&self, ids: &[u32]) -> Result<String, TokenizerError> {
        let plain: Vec<u32> = ids.iter().copied().filter(|id| !self.skipped.contains(id)).collect();
        budget::guarded(|| within(plain.len(), || self.inner.decode(&plain, true)))
            .ok_or_else(failed)?
            .map_err(TokenizerError::Encode)
    }

    /// The piece of text that one id stands for, special tokens by their name; for showing.
    pub fn piece(&self, id: u32) -> String {
        if self.skipped.contains(&id) {
            return self.inner.id_to_token(id).unwrap_or_else(|| format!("<{id}>"));
        }
        let piece = budget::guarded(|| within(1, || self.inner.decode(&[id], false))).and_then(Result::ok);
        piece.unwrap_or_else(|| format!("<{id}>"))
    }

    /// Entries of the vocabulary, added tokens included; the embedding must have at least as many rows.
    pub fn vocab_size(&self) -> usize {
        let highest = self.inner.get_vocab(true).into_values().max().map_or(0, |id| id as usize + 1);
        highest.max(self.inner.get_vocab_size(true))
    }

    /// Where it was loaded from.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Beginning-of-text id.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// End-of-text id.
    pub fn eos(&self) -> Option<u32> {
        self.eos
    }

    /// Padding id.
    pub fn pad(&self) -> Option<u32> {
        self.pad
    }

    /// Id of one token by its exact text.
    pub fn id_of(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// Texts of the tokens that are found before anything else is: special tokens, marks of turns and the like.
    pub fn added_tokens(&self) -> Vec<String> {
        let mut added: Vec<_> = self.inner.get_added_tokens_decoder().into_iter().collect();
        added.sort_unstable_by_key(|(id, _)| *id);
        added.into_iter().map(|(_, token)| token.content).collect()
    }

    /// The special tokens by the name that a chat template has for them (`bos_token`), after overrides: transformers'
    /// `special_tokens_map`.
    pub fn special_tokens(&self) -> BTreeMap<String, String> {
        self.named.iter().cloned().collect()
    }

    /// The text of a special token, after overrides.
    pub fn name(&self, name: &str) -> Option<&str> {
        self.named.iter().find(|(known, _)| known == name).map(|(_, token)| token.as_str())
    }

    /// The special tokens that the config set over what the files say.
    pub fn changed(&self) -> &[(&'static str, String)] {
        &self.changed
    }

    /// Tokens that the config has added, with their ids.
    pub fn new_tokens(&self) -> &[(u32, String)] {
        &self.new
    }

    /// Texts that the config has given added tokens, by their ids.
    pub fn overrides(&self) -> &BTreeMap<u32, String> {
        &self.overrides
    }

    /// `tokenizer.json` as it must be exported, where it is not the file that was read.
    pub fn rewritten(&self) -> Option<&str> {
        self.rewritten.as_deref()
    }

    /// The model's own chat template.
    pub fn chat_template(&self) -> Option<&str> {
        self.templates.get("default").map(String::as_str)
    }

    /// The model's templates by name; the one for conversations without tools is `default`, that for tools `tool_use`.
    pub fn chat_templates(&self) -> &BTreeMap<String, String> {
        &self.templates
    }

    /// What the files say that may surprise, each in a sentence.
    pub fn remarks(&self) -> &[String] {
        &self.remarks
    }
}

impl SpecialTokens {
    fn named(&self) -> [(&'static str, &Option<String>); 4] {
        [
            ("bos_token", &self.bos_token),
            ("eos_token", &self.eos_token),
            ("pad_token", &self.pad_token),
            ("unk_token", &self.unk_token),
        ]
    }
}

/// Names that two files have different tokens for; one that the config sets is of no interest.
fn disagreements(found: &[[String; 5]], changed: &[(&'static str, String)]) -> Vec<String> {
    let matters = found.iter().filter(|[name, ..]| changed.iter().all(|(changed, _)| changed != name));
    let words = |[name, token, file, other, other_file]: &[String; 5]| {
        format!(
            "`{name}` is `{token}` in `{file}` and `{other}` in `{other_file}`: the first holds, as in transformers"
        )
    };
    matters.map(words).collect()
}

/// Names of tokens that the vocabulary does not have, those of the config's filler among them: no row is made for it.
fn unknown_names(inner: &Bounded, named: &[(String, String)], changes: &SpecialTokens) -> Option<String> {
    let mut named = named.to_vec();
    for (name, token) in changes.named() {
        if let Some(token) = token {
            set(&mut named, name, Some(token.clone()).filter(|_| name == "pad_token"));
        }
    }
    let unknown = named.iter().filter(|(_, token)| !token.is_empty() && inner.token_to_id(token).is_none());
    let unknown: Vec<String> = unknown.map(|(name, token)| format!("`{name}` `{token}`")).collect();
    (!unknown.is_empty())
        .then(|| format!("{}: not in the vocabulary; no row of the model was trained for it", unknown.join(", ")))
}

/// `add_bos_token` and `add_eos_token` where the post-processor does otherwise.
fn unheeded(wanted: [Option<bool>; 2], ids: [Option<u32>; 2], affixes: &Affixes) -> Vec<String> {
    let found = [("add_bos_token", &affixes.prefix), ("add_eos_token", &affixes.suffix)];
    let cases = found.into_iter().zip(wanted).zip(ids);
    cases
        .filter_map(|(((key, around), wanted), id)| {
            let (wanted, writes) = (wanted?, around.contains(&id?));
            let does = if writes { "writes it" } else { "does not write it" };
            (wanted != writes).then(|| {
                format!("`{key}` is {wanted} in `tokenizer_config.json`, but the post-processor of `tokenizer.json` {does}: the post-processor holds, as in transformers 5")
            })
        })
        .collect()
}

/// The library panicked.
fn failed() -> TokenizerError {
    TokenizerError::Encode("its library fails on this text".to_owned())
}

#[cfg(test)]
mod tests;
