//! Compute half.
