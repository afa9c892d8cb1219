//! Why there is no answer, or no file.

use std::path::PathBuf;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// There is one that nothing can be done with, and that would be the same another time.
    #[error(transparent)]
    Unusable(#[from] Unusable),
    /// The server was not reached, or stopped on the way.
    #[error("it cannot be reached: {0}")]
    Unreachable(String),
    /// The server refuses for a while, as there were too many questions.
    #[error("there were too many questions")]
    TooMany,
    /// The server has a fault of its own, each time.
    #[error("status {0}")]
    Status(u16),
}

/// Why an answer, or a question, cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// What should be asked is no address.
    #[error("it is no address")]
    Address,
    /// What should be sent cannot be.
    #[error("a header cannot be sent")]
    Header,
    /// A redirect without an address.
    #[error("it leads nowhere")]
    Nowhere,
    /// A redirect to an address that may not be asked; the server that it is on.
    #[error("it leads to what is no address of the web")]
    Elsewhere(Option<String>),
    /// A redirect after a redirect.
    #[error("it leads from one address to another without end")]
    Endless,
}

/// Why a file did not arrive.
#[derive(Debug, thiserror::Error)]
pub enum DownloadError<E> {
    /// The server does not give it.
    #[error("the server does not give it")]
    Refused(E),
    /// The server was asked again and again, and the file has not come further.
    #[error("{0}")]
    Stuck(String),
    /// The server does not go on from this byte.
    #[error("the server does not send it from byte {0} on")]
    NoRest(u64),
    /// It has more bytes than were announced. Nothing of it is kept.
    #[error("it has more bytes than were announced")]
    TooLong,
    /// It has another digest than was announced; the one that it has. Nothing of it is kept.
    #[error("its digest is {0}")]
    Digest(String),
    /// It cannot be kept.
    #[error("cannot use `{}`: {source}", path.display())]
    Disk {
        /// What was to be used.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
}
