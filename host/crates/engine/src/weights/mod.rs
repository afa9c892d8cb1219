//! What a checkpoint holds: its files, read, checked and handed on tensor by tensor; and packing.

pub mod bitsandbytes;
mod complete;
pub mod files;
pub mod load;
pub mod packed;
pub mod spectrum;
pub mod start;
pub mod twice;

pub(crate) use complete::rows_after;
pub use files::{INDEX, TensorHeader, WeightHeaders, WeightSource, WeightsError, read_headers, shards};
pub(crate) use files::{map, parse, to_f32, width_of};
pub(crate) use load::digest_files;
pub use load::{bytes_of_others, check_headers, digest, largest_read, load};
pub(crate) use load::{is_of_another_part, others};
