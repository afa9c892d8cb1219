//! Why something of the hub cannot be had.

use std::path::PathBuf;

/// Why something of the hub cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// A variable of the environment cannot be used.
    #[error("`{name}` cannot be used: {reason}")]
    Setting {
        /// The variable.
        name: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// Not the name of a branch, a tag or a commit.
    #[error("`{revision}` is no branch, tag or commit")]
    Revision {
        /// As it was given.
        revision: String,
    },
    /// It is not in the cache, and nothing may be asked of the hub.
    #[error("`{repository}` is not in the cache, and `HF_HUB_OFFLINE` is set")]
    Offline {
        /// The repository.
        repository: String,
    },
    /// The hub does not answer.
    #[error("`{address}` cannot be reached: {reason}")]
    Unreachable {
        /// What was asked for.
        address: String,
        /// Of the network.
        reason: String,
    },
    /// There is no such repository, or the token does not show it.
    #[error("the hub has no `{repository}`")]
    NoRepository {
        /// The repository.
        repository: String,
        /// Its page.
        page: String,
        /// A token was sent.
        has_token: bool,
    },
    /// The repository has no such revision.
    #[error("`{repository}` has no revision `{revision}`")]
    NoRevision {
        /// The repository.
        repository: String,
        /// As it was given.
        revision: String,
        /// Its page.
        page: String,
    },
    /// The repository is for those only whom its owners let in.
    #[error("`{repository}` is gated: its owners decide who may have it")]
    Gated {
        /// The repository.
        repository: String,
        /// Where to ask.
        page: String,
        /// A token was sent.
        has_token: bool,
    },
    /// The hub does not take the token.
    #[error("the hub does not take the token that was sent for `{repository}`")]
    Token {
        /// The repository.
        repository: String,
    },
    /// The hub refuses for a while.
    #[error("the hub has had too many questions, and refuses `{address}` for now")]
    TooMany {
        /// What was asked for.
        address: String,
    },
    /// An answer that says nothing that can be used.
    #[error("`{address}` answers with status {status}")]
    Status {
        /// What was asked for.
        address: String,
        /// Of HTTP.
        status: u16,
    },
    /// An answer that is not what it must be.
    #[error("`{address}` answers what cannot be used: {reason}")]
    Invalid {
        /// What was asked for.
        address: String,
        /// What is wrong.
        reason: String,
    },
    /// What arrived is not what the hub has announced.
    #[error("`{file}` of `{repository}` did not arrive as it was announced: {reason}")]
    Corrupt {
        /// The repository.
        repository: String,
        /// The file.
        file: String,
        /// What differs.
        reason: String,
    },
    /// The repository lacks a file.
    #[error("`{repository}` has no `{file}`")]
    NoFile {
        /// The repository.
        repository: String,
        /// The file.
        file: String,
    },
    /// There is not enough room.
    #[error("`{}` has room for {free} more bytes, and {needed} are to be fetched", cache.display())]
    Room {
        /// Where files are kept.
        cache: PathBuf,
        /// Bytes that are still to come.
        needed: u64,
        /// Bytes that are free.
        free: u64,
    },
    /// The cache cannot be read or written.
    #[error("cannot use `{}`: {source}", path.display())]
    Cache {
        /// What was to be used.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
}

impl HubError {
    pub(crate) fn cache(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Cache { path, source }
    }
}
