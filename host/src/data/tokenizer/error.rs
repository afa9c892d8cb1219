//! Why a tokenizer cannot be used, and how its files are read.

use std::path::{Path, PathBuf};

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
    /// A token that shall have another text is no added token.
    #[error("token {id} of `{path}` is not an added token")]
    NotAdded {
        /// Its id.
        id: u32,
        /// The file.
        path: PathBuf,
    },
    /// A token shall have a text that another one has.
    #[error("token {id} of `{path}` cannot become `{token}`, which is another token")]
    Twice {
        /// The id of the token.
        id: u32,
        /// The text.
        token: String,
        /// The tokenizer file.
        path: PathBuf,
    },
    /// A token that the model has no row for.
    #[error("the token `{token}` has the id {id}, but the model's embedding has {rows} rows")]
    NoRow {
        /// The token.
        token: String,
        /// Its id.
        id: u32,
        /// Rows of the embedding.
        rows: usize,
    },
    /// An id that is no token.
    #[error("the tokenizer has no token {id}")]
    NoToken {
        /// The id.
        id: u32,
    },
    /// The tokenizer failed on a text.
    #[error("the tokenizer failed: {0}")]
    Encode(String),
}

/// A file of a tokenizer with at most `limit` bytes; none where there is no such file.
pub(super) fn read(path: &Path, limit: u64) -> Result<Option<Vec<u8>>, TokenizerError> {
    let unreadable =
        |error: std::io::Error| TokenizerError::Unreadable { path: path.to_owned(), reason: error.to_string() };
    intake::read_inside_if_there(path, limit).map_err(unreadable)
}
