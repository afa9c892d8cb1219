//! What a plugin may use.

use std::time::Duration;

/// What a plugin may use at most. Only the user changes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Linear memory of one instance, bytes (`memory_mb`).
    pub memory_bytes: usize,
    /// Wall time of one call (`call_ms`).
    pub call: Duration,
    /// Bytes that one call may hand over to the host (`result_mb`).
    pub result_bytes: usize,
    /// Bytes that all rows of a dataset may have (`rows_mb`); none for what its data allows: 64 MiB, and 32 times its bytes.
    pub rows_bytes: Option<u64>,
    /// Bytes of log messages in a run, all instances together (`log_kb`).
    pub log_bytes: usize,
    /// Bytes of the file (`file_mb`).
    pub file_bytes: usize,
    /// Wall time of compiling it (`compile_ms`).
    pub compile: Duration,
    /// Memory for compiling it, bytes (`compile_mb`).
    pub compile_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory_bytes: 256 << 20,
            call: Duration::from_secs(30),
            result_bytes: 64 << 20,
            rows_bytes: None,
            log_bytes: 64 << 10,
            file_bytes: 32 << 20,
            compile: Duration::from_mins(1),
            compile_bytes: 2 << 30,
        }
    }
}
