//! The training loop and what it is made of. It knows data, engine, checkpoint and report; none of them knows it.

pub mod asked;
pub mod best;
pub mod cost;
pub mod coverage;
pub mod eval;
pub mod files;
pub mod health;
pub mod job;
pub mod lock;
pub mod measure;
pub mod method;
pub mod output;
pub mod plan;
pub mod reference;
pub mod run;
pub mod schedule;
pub mod signal;
pub mod sources;
pub mod spectrum;
pub mod step;
mod stream;
pub mod trial;
