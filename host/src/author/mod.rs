//! What a plugin's author does: start a project, build it, pack a manifest into it, test it, make a failed call again.

pub mod build;
pub mod cases;
pub mod compare;
pub mod drive;
pub mod golden;
pub mod kinds;
pub mod manifest;
pub mod project;
pub mod replay;
pub mod scaffold;

/// The SDK and the templates, as `build.rs` found them.
mod sdk {
    include!(concat!(env!("OUT_DIR"), "/sdk.rs"));
}
