//! What an instance of a plugin has on the host's side.

use std::sync::Arc;

use wasmtime::ResourceLimiter;
use wasmtime::component::ResourceTable;

use crate::error::one_line;
use crate::files::Directory;
use crate::limits::Limits;
use crate::stand_in::{StandIn, Tail};
use crate::stats::{LogRoom, Meter};
use crate::types::Level;

/// Characters of one log message that are shown.
const LOG_LINE: usize = 2000;
/// Bytes of a guest's own stderr that are kept.
const STDERR_LIMIT: usize = 64 << 10;

/// Where a guest's words go: plugin, level, message (one safe line).
pub type LogSink = Arc<dyn Fn(&str, Level, &str) + Send + Sync>;

/// A failure of the host itself while it served a guest.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct HostFault {
    pub(crate) code: &'static str,
    pub(crate) message: String,
}

/// What one instance has on the host's side.
pub(crate) struct State {
    pub(crate) table: ResourceTable,
    pub(crate) memory: Memory,
    pub(crate) stand_in: StandIn,
    pub(crate) stderr: Tail,
    plugin: Arc<str>,
    sink: LogSink,
    meter: Arc<Meter>,
    log_limit: usize,
    pub(crate) grants: Vec<Directory>,
    /// Error messages of the current call: shown when it ends well, part of the diagnostic when it does not.
    errors: Vec<String>,
}

/// Counts memory and denies more than the limit.
#[derive(Debug)]
pub(crate) struct Memory {
    limit: usize,
    used: usize,
    pub(crate) peak: usize,
    pub(crate) denied: bool,
}

impl ResourceLimiter for Memory {
    fn memory_growing(&mut self, current: usize, desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        let after = self.used.saturating_add(desired - current);
        if after > self.limit {
            self.denied = true;
            return Ok(false);
        }
        self.used = after;
        self.peak = self.peak.max(after);
        Ok(true)
    }

    fn table_growing(&mut self, _current: usize, desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        Ok(desired <= 100_000)
    }

    fn instances(&self) -> usize {
        64
    }

    fn tables(&self) -> usize {
        64
    }

    fn memories(&self) -> usize {
        8
    }
}

impl State {
    /// The state of a new instance of a plugin.
    pub(crate) fn new(plugin: &Arc<str>, limits: &Limits, sink: &LogSink, meter: &Arc<Meter>) -> Self {
        let mut table = ResourceTable::new();
        table.set_max_capacity(1024);
        Self {
            table,
            memory: Memory { limit: limits.memory_bytes, used: 0, peak: 0, denied: false },
            stand_in: StandIn::default(),
            stderr: Tail::new(STDERR_LIMIT),
            plugin: Arc::clone(plugin),
            sink: Arc::clone(sink),
            meter: Arc::clone(meter),
            log_limit: limits.log_bytes,
            grants: Vec::new(),
            errors: Vec::new(),
        }
    }

    pub(crate) fn plugin(&self) -> &str {
        &self.plugin
    }

    /// A message of the guest, as far as there is room for it.
    pub(crate) fn log(&mut self, level: Level, message: &str) {
        match self.meter.log(message.len() + 1, self.log_limit) {
            LogRoom::Yes => {}
            LogRoom::No => return,
            LogRoom::JustFull => {
                let words =
                    format!("it wrote more than {} KiB of messages; the rest is not shown", self.log_limit >> 10);
                (self.sink)(&self.plugin, Level::Warn, &words);
                return;
            }
        }
        let message = one_line(message, LOG_LINE);
        if level == Level::Error {
            self.errors.push(message);
        } else {
            (self.sink)(&self.plugin, level, &message);
        }
    }

    /// Shows the error messages of a call that ended well.
    pub(crate) fn flush_errors(&mut self) {
        for message in self.take_errors() {
            (self.sink)(&self.plugin, Level::Error, &message);
        }
    }

    /// The error messages of a call, which are then shown by whoever takes them.
    pub(crate) fn take_errors(&mut self) -> Vec<String> {
        std::mem::take(&mut self.errors)
    }
}
