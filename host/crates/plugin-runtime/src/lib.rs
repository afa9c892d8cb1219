//! Sandbox half.
