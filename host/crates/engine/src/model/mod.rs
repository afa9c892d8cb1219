//! The model: the schedule of its forward and backward pass, over the arena that its weights live in.

mod causal_lm;
pub mod decoder;
pub mod divergence;
pub mod experts;
pub mod linear;
pub mod pass;
mod reader;
pub mod rope;
mod scores;
mod sharing;
mod workspace;

pub use causal_lm::{Grads, MasterWeights, Model};
pub(crate) use experts::Routed;
pub use reader::Reader;
pub use workspace::{Recompute, Workspace};
