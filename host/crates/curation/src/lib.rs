//! Curation of rows before training: exact and near duplicates, rows that an evaluation has too, rows that are no text.
//!
//! Texts come in one at a time and are not kept; row numbers with a reason come out. Nothing here reads a file, and nothing
//! depends on the order of threads: the same texts give the same answer.

mod clusters;
mod contamination;
mod exact;
mod hash;
mod heuristics;
mod language;
mod near;
mod shingles;
mod words;

pub use self::clusters::{Cluster, Edge, clusters};
pub use self::contamination::{Contamination, Evaluation, SHORTEST};
pub use self::exact::{Digest, digest};
pub use self::heuristics::{Measures, measure};
pub use self::language::{Language, SHORTEST_TEXT, language};
pub use self::near::{FLOOR, NearDuplicates, Options};
pub use self::words::Words;
