#![doc = include_str!("../README.md")]

#[cfg(all(
    target_family = "wasm",
    any(
        all(
            feature = "dataset-loader",
            any(feature = "prompt-strategy", feature = "reward", feature = "compat-rules")
        ),
        all(feature = "prompt-strategy", any(feature = "reward", feature = "compat-rules")),
        all(feature = "reward", feature = "compat-rules"),
    )
))]
compile_error!(
    "a plugin is of one kind. Choose one feature of `plugin-sdk`; in a workspace with several plugins, build one at a \
     time: `cargo build --release --target wasm32-wasip2 -p NAME`"
);

#[doc(hidden)]
pub mod bindings;
mod config;
pub mod log;
mod manifest;

#[cfg(feature = "dataset-loader")]
pub mod loader;
#[cfg(feature = "reward")]
pub mod reward;
#[cfg(feature = "compat-rules")]
pub mod rules;
#[cfg(feature = "prompt-strategy")]
pub mod strategy;

pub use config::{Error, NoConfig};
pub use serde;
pub use serde_json;

/// What the macros need; not for use by hand.
#[doc(hidden)]
pub mod __private {
    pub use crate::bindings;
    pub use crate::manifest::{bytes, is_plain};
}
