//! Learning from what the model writes: completions are sampled, rewards judge them, and each gets an advantage over the others
//! of its prompt. What comes out are the steps that the training loop makes. It knows data, engine and plugins, not the loop.

pub mod advantage;
pub mod episode;
pub mod given;
pub mod reward;
pub mod rollout;
pub mod sampler;
pub mod trial;
