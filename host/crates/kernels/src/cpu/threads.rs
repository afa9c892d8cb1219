//! Threads of a product.

/// How many threads one product may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Threads {
    /// The caller is already one of many.
    One,
    /// The whole pool.
    All,
}
