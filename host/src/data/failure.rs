//! The errors of this room as diagnostics: what went wrong with the data, a tokenizer or a chat template, in words for the
//! user.

use std::path::{Component, Path, PathBuf};

use super::dataset::{BadRow, DatasetError};
use super::generation::GenerationError;
use super::store::StoreError;
use super::template::TemplateError;
use super::tokenizer::TokenizerError;
use crate::diagnostic::{Diagnostic, Failure, Place, fails_as_diagnostic};

fails_as_diagnostic!(TokenizerError, GenerationError, TemplateError, StoreError);

impl From<TokenizerError> for Diagnostic {
    fn from(error: TokenizerError) -> Self {
        let diagnostic = |code: &str| Self::error(code, error.to_string());
        match &error {
            TokenizerError::Missing { .. } => diagnostic("tokenizer::missing")
                .help("download `tokenizer.json` of the model, or name a directory that has one in `tokenizer_config`"),
            TokenizerError::NoRow { .. } => diagnostic("model::vocabulary")
                .why("a token without a row cannot be looked up")
                .help("use the tokenizer that belongs to the model, or write `resize_token_embeddings_to_32x: true`"),
            TokenizerError::NotAdded { .. } => diagnostic("tokenizer::override")
                .help("name reserved tokens in `added_tokens_overrides`; a new token belongs into `tokens`"),
            TokenizerError::Twice { .. } => {
                diagnostic("tokenizer::override").help("use the token that is there, or write another text")
            }
            _ => diagnostic("tokenizer::invalid"),
        }
    }
}

impl From<GenerationError> for Diagnostic {
    fn from(error: GenerationError) -> Self {
        Self::error("model::config", error.to_string()).help("mend the file, or delete it: `config.json` says enough")
    }
}

impl From<TemplateError> for Diagnostic {
    fn from(error: TemplateError) -> Self {
        Self::error("data::template", error.to_string())
            .help("set `chat_template` to one that fits, or mend the model's own")
    }
}

impl From<StoreError> for Diagnostic {
    fn from(error: StoreError) -> Self {
        let diagnostic = Self::error("data::store", error.to_string());
        match &error {
            StoreError::Write { path, .. } if path.parent() == Some(&std::env::temp_dir()) => {
                diagnostic.help("make room there, or name another directory in `TMPDIR`")
            }
            StoreError::Write { .. } => {
                diagnostic.help("make room there, or name another directory: `dataset_prepared_path: DIRECTORY`")
            }
            StoreError::Read { path, .. } | StoreError::Damaged { path, .. } => {
                let directory = path.parent().unwrap_or(path);
                diagnostic.help(format!("delete `{}`: the samples are made anew then", directory.display()))
            }
        }
    }
}

impl From<DatasetError> for Failure {
    /// A dataset that cannot be used; bad rows each with its place in the file.
    fn from(error: DatasetError) -> Self {
        match error {
            DatasetError::Store(error) => error.into(),
            DatasetError::Plugin(error) | DatasetError::Filter { error, .. } => error.into(),
            DatasetError::NoScores { ref plugin, .. } => Diagnostic::error("data::no-scores", error.to_string())
                .why("rows without a score are kept, so `min_score` would do nothing")
                .help("delete `min_score`, or set what makes the filter give scores in its `config`")
                .plugin(plugin)
                .into(),
            DatasetError::BadRows { path, rows, total } => {
                let shown = rows.len() as u64;
                let mut all: Vec<Diagnostic> = rows.iter().map(|row| bad_row(&path, row)).collect();
                if let Some(last) = all.last_mut() {
                    if total > shown {
                        last.notes.push(format!("{} more rows of `{}` are bad", total - shown, path.display()));
                    }
                    last.help = Some("mend or delete the rows".to_owned());
                }
                Self(all)
            }
            DatasetError::Empty { .. } => Diagnostic::error("data::empty", error.to_string())
                .help("check `path`; an empty file teaches nothing")
                .into(),
            DatasetError::NothingLeft { ref dropped, .. } => {
                let reasons: Vec<String> = dropped.reasons().iter().map(ToString::to_string).collect();
                let by_filters = dropped.filters.last().is_some_and(|last| last.kept == 0);
                Diagnostic::error("data::nothing-left", error.to_string())
                    .why(reasons.join("\n"))
                    .help(if by_filters {
                        "loosen or delete the `row_filters` that leave them out".to_owned()
                    } else if dropped.no_turn.0.rows > 0 {
                        "say whose messages are learned, `roles_to_train: [NAME]`, or what the data calls them, `roles: {assistant: [NAME]}`".to_owned()
                    } else if dropped.too_long.rows > 0 || dropped.cut.rows > 0 {
                        "raise `sequence_len`".to_owned()
                    } else {
                        "nothing of these rows is marked as learned: look at the prompt strategy (`type`) and at the chat template".to_owned()
                    })
                    .into()
            }
        }
    }
}

fn bad_row(path: &Path, row: &BadRow) -> Diagnostic {
    let message = match &row.field {
        Some(field) => format!("{} (field `{field}`)", row.message),
        None => row.message.clone(),
    };
    let (file, line, column) = position(path, &row.position);
    match line {
        Some(line) => Diagnostic::error("data::bad-row", message).at(Place::new(file, line, column)),
        None => Diagnostic::error("data::bad-row", format!("`{}`, {}: {message}", path.display(), row.position)),
    }
}

fn is_inside(file: &str) -> bool {
    Path::new(file).components().all(|part| matches!(part, Component::Normal(_)))
}

/// `line 7`, `line 7, column 3` or `part.jsonl line 7` as a place.
fn position(path: &Path, position: &str) -> (PathBuf, Option<usize>, usize) {
    let (file, rest) = match position.split_once("line ") {
        Some(("", rest)) => (path.to_owned(), rest),
        // A plugin's words: what leads out of the dataset is no place in it.
        Some((file, _)) if !is_inside(file.trim()) => return (path.to_owned(), None, 1),
        Some((file, rest)) => (path.join(file.trim()), rest),
        None => return (path.to_owned(), None, 1),
    };
    let mut numbers = rest.split(|c: char| !c.is_ascii_digit()).filter(|part| !part.is_empty()).map(str::parse);
    let line = numbers.next().and_then(Result::ok);
    let column = numbers.next().and_then(Result::ok).unwrap_or(1);
    (file, line, column)
}
