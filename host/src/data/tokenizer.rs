//! The model's tokenizer: `tokenizer.json` plus the names of the special tokens and the chat template beside it.
//!
//! Everything here is read from a directory that may come from a stranger: known keys only, no path or URL inside any
//! of these files is ever followed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::Deserialize;

/// Bytes that `tokenizer.json` may have.
const FILE_LIMIT: u64 = 256 << 20;

/// Why a tokenizer cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// A file that must be there is not.
    #[error("`{path}` is missing")]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// A file cannot be read, or is too large to be a tokenizer.
    #[error("`{path}` cannot be read: {reason}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system or the size limit said.
        reason: String,
    },
    /// A file is not what it must be.
    #[error("`{path}` is not a valid tokenizer file: {reason}")]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What the parser said.
        reason: String,
    },
    /// A special token is not in the vocabulary.
    #[error("the {kind} `{token}` is not in the vocabulary of `{path}`")]
    UnknownSpecial {
        /// `eos_token` and so on.
        kind: &'static str,
        /// The token as written.
        token: String,
        /// The tokenizer file.
        path: PathBuf,
    },
    /// The tokenizer failed on a text.
    #[error("the tokenizer failed: {0}")]
    Encode(String),
}

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

/// One token of an encoded text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Token {
    /// Row of the embedding.
    pub id: u32,
    /// First byte of the text that it stands for. Special tokens that the tokenizer adds stand for nothing (start = end).
    pub start: usize,
    /// One past its last byte.
    pub end: usize,
}

/// A loaded tokenizer.
#[derive(Debug)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    directory: PathBuf,
    bos: Option<u32>,
    eos: Option<u32>,
    pad: Option<u32>,
    names: SpecialTokens,
    add_bos: Option<bool>,
    chat_template: Option<String>,
    skipped: BTreeSet<u32>,
}

/// The keys of `tokenizer_config.json` that mean something here; all others are left alone.
#[derive(Debug, Default, Deserialize)]
struct TokenizerConfig {
    bos_token: Option<TokenName>,
    eos_token: Option<TokenName>,
    pad_token: Option<TokenName>,
    unk_token: Option<TokenName>,
    add_bos_token: Option<bool>,
    chat_template: Option<TemplateField>,
}

/// A special token is a string, or an object with its text.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum TokenName {
    Text(String),
    Object { content: String },
}

/// One template, or several by name of which `default` is the one.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum TemplateField {
    One(String),
    Named(Vec<NamedTemplate>),
}

#[derive(Debug, Deserialize)]
struct NamedTemplate {
    name: String,
    template: String,
}

impl TokenName {
    fn into_text(self) -> String {
        match self {
            Self::Text(text) | Self::Object { content: text } => text,
        }
    }
}

impl Tokenizer {
    /// Loads `tokenizer.json`, `tokenizer_config.json`, `special_tokens_map.json` and `chat_template.jinja` of a model
    /// directory. `overrides` win over what the files say.
    pub fn load(directory: &Path, overrides: &SpecialTokens) -> Result<Self, TokenizerError> {
        let path = directory.join("tokenizer.json");
        let bytes = read(&path)?.ok_or_else(|| TokenizerError::Missing { path: path.clone() })?;
        let mut inner = tokenizers::Tokenizer::from_bytes(&bytes)
            .map_err(|error| TokenizerError::Invalid { path: path.clone(), reason: error.to_string() })?;
        // Truncation and padding in the file would silently shorten or lengthen training samples.
        inner
            .with_truncation(None)
            .map_err(|error| TokenizerError::Invalid { path: path.clone(), reason: error.to_string() })?;
        inner.with_padding(None);

        let config: TokenizerConfig = json(&directory.join("tokenizer_config.json"))?.unwrap_or_default();
        let map: TokenizerConfig = json(&directory.join("special_tokens_map.json"))?.unwrap_or_default();
        let pick = |own: &Option<String>, first: Option<TokenName>, second: Option<TokenName>| {
            own.clone().or_else(|| first.map(TokenName::into_text)).or_else(|| second.map(TokenName::into_text))
        };
        let names = SpecialTokens {
            bos_token: pick(&overrides.bos_token, config.bos_token, map.bos_token),
            eos_token: pick(&overrides.eos_token, config.eos_token, map.eos_token),
            pad_token: pick(&overrides.pad_token, config.pad_token, map.pad_token),
            unk_token: pick(&overrides.unk_token, config.unk_token, map.unk_token),
        };
        let id = |kind: &'static str, name: &Option<String>| -> Result<Option<u32>, TokenizerError> {
            let Some(name) = name else { return Ok(None) };
            match inner.token_to_id(name) {
                Some(id) => Ok(Some(id)),
                None => Err(TokenizerError::UnknownSpecial { kind, token: name.clone(), path: path.clone() }),
            }
        };
        let (bos, eos, pad) = (
            id("bos_token", &names.bos_token)?,
            id("eos_token", &names.eos_token)?,
            id("pad_token", &names.pad_token)?,
        );
        let template_file = directory.join("chat_template.jinja");
        let chat_template = match read(&template_file)? {
            Some(bytes) => Some(
                String::from_utf8(bytes)
                    .map_err(|error| TokenizerError::Invalid { path: template_file, reason: error.to_string() })?,
            ),
            None => config.chat_template.and_then(|field| match field {
                TemplateField::One(template) => Some(template),
                TemplateField::Named(all) => {
                    all.into_iter().find(|named| named.name == "default").map(|named| named.template)
                }
            }),
        };
        let mut skipped: BTreeSet<u32> =
            inner.get_added_tokens_decoder().into_iter().filter(|(_, token)| token.special).map(|(id, _)| id).collect();
        skipped.extend([bos, eos, pad].into_iter().flatten());
        Ok(Self {
            inner,
            directory: directory.to_owned(),
            bos,
            eos,
            pad,
            names,
            add_bos: config.add_bos_token,
            chat_template,
            skipped,
        })
    }

    /// Encodes a text as it is; special tokens written in it become their ids, none is added.
    pub fn encode(&self, text: &str) -> Result<Vec<Token>, TokenizerError> {
        let encoding = self.inner.encode(text, false).map_err(|error| TokenizerError::Encode(error.to_string()))?;
        Ok(encoding
            .get_ids()
            .iter()
            .zip(encoding.get_offsets())
            .map(|(&id, &(start, end))| Token { id, start, end })
            .collect())
    }

    /// True when a plain text starts with the beginning-of-text token: what the tokenizer's own post-processor does,
    /// unless `add_bos_token` says otherwise.
    pub fn starts_with_bos(&self) -> Result<bool, TokenizerError> {
        let Some(bos) = self.bos else { return Ok(false) };
        if let Some(add) = self.add_bos {
            return Ok(add);
        }
        let encoding = self.inner.encode("a", true).map_err(|error| TokenizerError::Encode(error.to_string()))?;
        Ok(encoding.get_ids().first() == Some(&bos))
    }

    /// Text of the ids, special tokens left out.
    pub fn decode(&self, ids: &[u32]) -> Result<String, TokenizerError> {
        let plain: Vec<u32> = ids.iter().copied().filter(|id| !self.skipped.contains(id)).collect();
        self.inner.decode(&plain, true).map_err(|error| TokenizerError::Encode(error.to_string()))
    }

    /// The piece of text that one id stands for, special tokens by their name; for showing.
    pub fn piece(&self, id: u32) -> String {
        if self.skipped.contains(&id) {
            return self.inner.id_to_token(id).unwrap_or_else(|| format!("<{id}>"));
        }
        self.inner.decode(&[id], false).unwrap_or_else(|_| format!("<{id}>"))
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

    /// The special tokens by the name that a chat template has for them (`bos_token`), after overrides.
    pub fn special_tokens(&self) -> BTreeMap<String, String> {
        let names = &self.names;
        let all = [
            ("bos_token", &names.bos_token),
            ("eos_token", &names.eos_token),
            ("pad_token", &names.pad_token),
            ("unk_token", &names.unk_token),
        ];
        all.into_iter().filter_map(|(name, token)| Some((name.to_owned(), token.clone()?))).collect()
    }

    /// The special tokens' texts, after overrides.
    pub fn names(&self) -> &SpecialTokens {
        &self.names
    }

    /// The model's own chat template.
    pub fn chat_template(&self) -> Option<&str> {
        self.chat_template.as_deref()
    }
}

fn read(path: &Path) -> Result<Option<Vec<u8>>, TokenizerError> {
    let unreadable = |reason: String| TokenizerError::Unreadable { path: path.to_owned(), reason };
    let size = match std::fs::metadata(path) {
        Ok(metadata) => metadata.len(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unreadable(error.to_string())),
    };
    if size > FILE_LIMIT {
        return Err(unreadable(format!("it has {size} bytes; the limit is {FILE_LIMIT}")));
    }
    std::fs::read(path).map(Some).map_err(|error| unreadable(error.to_string()))
}

fn json<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<Option<T>, TokenizerError> {
    let Some(bytes) = read(path)? else { return Ok(None) };
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|error| TokenizerError::Invalid { path: path.to_owned(), reason: error.to_string() })
}
