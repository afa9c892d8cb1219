#![doc = include_str!("../README.md")]
#![expect(clippy::test_attr_in_doctest, reason = "the tutorial shows an author a whole file, its tests included")]

#[doc(hidden)]
pub mod bindings;
mod config;
pub mod log;
mod manifest;

pub mod environment;
pub mod filter;
pub mod format;
pub mod health;
pub mod loader;
pub mod reward;
pub mod row;
pub mod rules;
pub mod schedule;
pub mod strategy;

pub use config::{Error, NoConfig};
pub use serde;
pub use serde_json;

/// What the macros need; not for use by hand.
#[doc(hidden)]
pub mod __private {
    pub use crate::manifest::{bytes, is_plain, len};
}
