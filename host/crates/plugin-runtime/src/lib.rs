//! The sandbox half of `host`: finds WASM component plugins, checks what they are, and calls them within limits.
//!
//! A plugin sees only what `linker` in `imports/mod.rs` gives it. Nothing that it does ends the host: a trap, a loop or a
//! wrong result is a [`PluginError`] in words for the user.

mod bindings;
mod cache;
mod compile;
mod error;
mod files;
mod imports;
mod instance;
pub mod json;
mod kind;
mod limits;
mod manifest;
mod origin;
mod pack;
mod registry;
mod sandbox;
mod schema;
mod stand_in;
mod state;
mod stats;
pub mod types;

pub use compile::{CompilerCommand, compile_main};
pub use error::{Cause, FailedCall, PluginError, is_hidden};
pub use files::data_digest;
pub use instance::{Checker, Curve, Environment, Filter, Loader, Monitor, Scorer, Strategy};
pub use kind::{Description, Kind, Start};
pub use limits::Limits;
pub use manifest::{API, FILE_LIMIT, Inspection, Manifest, Source, inspect, read_file};
pub use pack::pack;
pub use registry::{PluginHost, PluginInfo, RuntimeOptions};
pub use state::LogSink;
pub use stats::{Meters, PluginStats};
