//! How HTTP is spoken here, whoever the server is: what `hub` and `registry` have in common.
//!
//! A server is not trusted. Redirects are followed by hand and never from an encrypted connection to one that is not, what is
//! sent to be let in goes to one [`Origin`] alone, a file has the bytes that were announced and the digest that was, and what
//! fails is tried again with longer and longer pauses. What an answer means is the caller's business.
//!
//! HTTP is `ureq`'s, blocking, with `rustls`; nobody else here names it.

mod agent;
mod client;
mod download;
mod error;
mod hash;
mod lock;
mod origin;
mod tries;

pub use client::{Answer, Authorization, Client, Request};
pub use download::{Progress, Wanted, download};
pub use error::{DownloadError, Failure, Unusable};
pub use hash::{Hasher, hex};
pub use lock::lock;
pub use origin::{Origin, Plain, is_loopback, joined};
pub use tries::Tries;
pub use ureq::{Body, http};
