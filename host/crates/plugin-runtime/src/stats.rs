//! What plugins cost a run.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Totals of one plugin over all its instances.
#[derive(Debug, Clone, PartialEq)]
pub struct PluginStats {
    /// Its name.
    pub name: String,
    /// Calls made.
    pub calls: u64,
    /// Rows or items given or taken.
    pub rows: u64,
    /// Time inside its calls, over all threads.
    pub time: Duration,
    /// The most linear memory that one instance had.
    pub peak_memory_bytes: u64,
    /// Calls that the plugin did not end by itself: it crashed or reached a limit.
    pub traps: u64,
}

/// The costs of all plugins, to be read whenever.
#[derive(Debug, Clone, Default)]
pub struct Meters(Vec<(String, Arc<Meter>)>);

impl Meters {
    pub(crate) fn new(meters: Vec<(String, Arc<Meter>)>) -> Self {
        Self(meters)
    }

    /// Those of the plugins that were called, so far.
    pub fn read(&self) -> Vec<PluginStats> {
        self.0.iter().filter_map(|(name, meter)| meter.read(name)).collect()
    }
}

/// Counts, shared by all instances of a plugin.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    calls: AtomicU64,
    rows: AtomicU64,
    nanoseconds: AtomicU64,
    peak: AtomicU64,
    failed: AtomicU64,
    logged: AtomicU64,
}

/// Whether there is room for a log message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LogRoom {
    Yes,
    /// This is the first message that does not fit.
    JustFull,
    No,
}

impl Meter {
    pub(crate) fn call(&self, time: Duration, peak: usize, failed: bool) {
        self.calls.fetch_add(1, Relaxed);
        self.nanoseconds.fetch_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX), Relaxed);
        self.peak.fetch_max(peak as u64, Relaxed);
        self.failed.fetch_add(u64::from(failed), Relaxed);
    }

    /// Takes room for a log message of `bytes`.
    pub(crate) fn log(&self, bytes: usize, limit: usize) -> LogRoom {
        let before = self.logged.fetch_add(bytes as u64, Relaxed);
        match (before + bytes as u64 <= limit as u64, before <= limit as u64) {
            (true, _) => LogRoom::Yes,
            (false, true) => LogRoom::JustFull,
            (false, false) => LogRoom::No,
        }
    }

    pub(crate) fn rows(&self, rows: usize) {
        self.rows.fetch_add(rows as u64, Relaxed);
    }

    pub(crate) fn read(&self, name: &str) -> Option<PluginStats> {
        let calls = self.calls.load(Relaxed);
        (calls > 0).then(|| PluginStats {
            name: name.to_owned(),
            calls,
            rows: self.rows.load(Relaxed),
            time: Duration::from_nanos(self.nanoseconds.load(Relaxed)),
            peak_memory_bytes: self.peak.load(Relaxed),
            traps: self.failed.load(Relaxed),
        })
    }
}
