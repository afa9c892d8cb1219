//! Recipes: a config that others can run, with its files and plugins beside it, pinned to the byte, and with what it gave.
//!
//! A recipe comes from a stranger. It is data: nothing in it runs but its plugins, in the sandbox. What it may not say, the
//! config's reader refuses (`config/recipe_fields.rs`); that its bytes are those of its lock, `check/recipe.rs` sees to.

pub mod card;
pub mod gather;
pub mod image;
pub mod index;
pub mod lock;
pub mod opened;
pub mod reproduce;
pub mod signature;
pub mod source;
mod store;
