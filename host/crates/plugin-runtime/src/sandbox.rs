//! The sandbox: one wasmtime engine, what a guest may import, and the limits that hold for every call.
//!
//! A guest gets no file system, no network, no environment, and neither time nor chance (`stand_in`), so that the same
//! input gives the same output. Wall time is bounded by epochs, memory by a limiter, copied bytes by hostcall fuel.

use std::sync::Arc;
use std::time::Duration;

use wasmtime::component::{HasSelf, Linker, ResourceTable};
use wasmtime::{Config, Engine, ResourceLimiter, Store};

use crate::bindings::shared::trainer::plugin::{files, grants, log, types};
use crate::error::{PluginError, one_line};
use crate::files::Directory;
use crate::stand_in::{self, Exit, StandIn, Tail};
use crate::stats::{LogRoom, Meter};
use crate::types::Level;

/// Time between two looks at the deadlines.
const TICK: Duration = Duration::from_millis(10);
/// Characters of one log message that are shown.
const LOG_LINE: usize = 2000;
/// Bytes of a guest's own stderr that are kept.
const STDERR_LIMIT: usize = 64 << 10;
/// Wasm stack.
const STACK: usize = 512 << 10;

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
    fn flush_errors(&mut self) {
        for message in std::mem::take(&mut self.errors) {
            (self.sink)(&self.plugin, Level::Error, &message);
        }
    }
}

impl types::Host for State {}

impl log::Host for State {
    fn write(&mut self, level: Level, message: String) -> wasmtime::Result<()> {
        match self.meter.log(message.len() + 1, self.log_limit) {
            LogRoom::Yes => {}
            LogRoom::No => return Ok(()),
            LogRoom::JustFull => {
                let words =
                    format!("it wrote more than {} KiB of messages; the rest is not shown", self.log_limit >> 10);
                (self.sink)(&self.plugin, Level::Warn, &words);
                return Ok(());
            }
        }
        let message = one_line(&message, LOG_LINE);
        if level == Level::Error {
            self.errors.push(message);
        } else {
            (self.sink)(&self.plugin, level, &message);
        }
        Ok(())
    }
}

/// How guests are compiled and run: the same in this process and in one that only compiles.
pub(crate) fn engine_config() -> Config {
    let mut config = Config::new();
    config
        .wasm_component_model(true)
        .epoch_interruption(true)
        .cranelift_nan_canonicalization(true)
        .relaxed_simd_deterministic(true)
        .max_wasm_stack(STACK);
    config
}

/// The engine with its ticking clock, and what guests may import.
pub(crate) struct Sandbox {
    pub(crate) engine: Engine,
    pub(crate) linker: Linker<State>,
    pub(crate) stores: StoreMaker,
}

/// Makes stores: what an instance needs of the sandbox to be started again.
#[derive(Clone)]
pub(crate) struct StoreMaker {
    engine: Engine,
    pub(crate) sink: LogSink,
}

impl Sandbox {
    pub(crate) fn new(sink: LogSink) -> wasmtime::Result<Self> {
        let engine = Engine::new(&engine_config())?;
        let ticking = engine.weak();
        std::thread::Builder::new().name("plugin-deadlines".into()).spawn(move || {
            while let Some(engine) = ticking.upgrade() {
                engine.increment_epoch();
                drop(engine);
                std::thread::sleep(TICK);
            }
        })?;
        let linker = linker(&engine)?;
        let stores = StoreMaker { engine: engine.clone(), sink };
        Ok(Self { engine, linker, stores })
    }
}

impl StoreMaker {
    /// A store for one instance of a plugin.
    pub(crate) fn store(&self, plugin: &Arc<str>, limits: &Limits, meter: &Arc<Meter>) -> Store<State> {
        let mut table = ResourceTable::new();
        table.set_max_capacity(1024);
        let memory = Memory { limit: limits.memory_bytes, used: 0, peak: 0, denied: false };
        let state = State {
            table,
            memory,
            stand_in: StandIn::default(),
            stderr: Tail::new(STDERR_LIMIT),
            plugin: Arc::clone(plugin),
            sink: Arc::clone(&self.sink),
            meter: Arc::clone(meter),
            log_limit: limits.log_bytes,
            grants: Vec::new(),
            errors: Vec::new(),
        };
        let mut store = Store::new(&self.engine, state);
        store.limiter(|state| &mut state.memory);
        prepare(&mut store, limits);
        store
    }
}

/// Sets the budgets of the next call.
pub(crate) fn prepare(store: &mut Store<State>, limits: &Limits) {
    // One tick may be almost over already.
    store.set_epoch_deadline(limits.call.as_millis().div_ceil(TICK.as_millis()) as u64 + 1);
    store.set_hostcall_fuel(limits.result_bytes);
    store.data_mut().stand_in.begin();
}

/// After a call that ended well.
pub(crate) fn finish(store: &mut Store<State>) {
    store.data_mut().flush_errors();
}

/// Why a call did not end well, in words.
pub(crate) fn explain(store: &mut Store<State>, error: &wasmtime::Error, limits: &Limits) -> PluginError {
    use wasmtime::Trap;
    let state = store.data_mut();
    let plugin = state.plugin.to_string();
    let mut explained = if let Some(fault) = error.downcast_ref::<HostFault>() {
        PluginError::new(fault.code, fault.message.clone())
    } else if state.memory.denied {
        let limit = limits.memory_bytes >> 20;
        PluginError::new("plugin::limit", format!("plugin `{plugin}` needs more than {limit} MiB of memory")).help(
            format!("if you trust it with more: `plugins: [{{name: {plugin}, limits: {{memory_mb: {}}}}}]`", limit * 4),
        )
    } else if let Some(trap) = error.downcast_ref::<Trap>() {
        match trap {
            Trap::Interrupt => {
                let milliseconds = limits.call.as_millis();
                PluginError::new(
                    "plugin::limit",
                    format!("plugin `{plugin}` was stopped: one call took more than {milliseconds} ms"),
                )
                .help(format!(
                    "if it is only slow: `plugins: [{{name: {plugin}, limits: {{call_ms: {}}}}}]`",
                    milliseconds * 4
                ))
            }
            Trap::StackOverflow => PluginError::new("plugin::trap", format!("plugin `{plugin}` ran out of stack"))
                .why("it calls itself without end, or much too deep"),
            Trap::UnreachableCodeReached => {
                PluginError::new("plugin::trap", format!("plugin `{plugin}` crashed")).why("it panicked or aborted")
            }
            Trap::MemoryOutOfBounds => PluginError::new("plugin::trap", format!("plugin `{plugin}` crashed"))
                .why("it reached outside its memory, as a guest does that calls itself without end"),
            other => PluginError::new("plugin::trap", format!("plugin `{plugin}` crashed")).why(other.to_string()),
        }
    } else if error.downcast_ref::<Exit>().is_some() {
        PluginError::new("plugin::trap", format!("plugin `{plugin}` tried to end the process"))
            .why("a plugin returns its errors; it cannot exit")
    } else {
        let root = error.root_cause().to_string();
        if root.contains("fuel") {
            let limit = limits.result_bytes >> 20;
            PluginError::new(
                "plugin::limit",
                format!("plugin `{plugin}` handed over more than {limit} MiB in one call"),
            )
            .help(format!(
                "if you trust it with more: `plugins: [{{name: {plugin}, limits: {{result_mb: {}}}}}]`",
                limit * 4
            ))
        } else if root.contains("resource limit exceeded") || root.contains("exceeds table limits") {
            PluginError::new(
                "plugin::limit",
                format!("plugin `{plugin}` asks for more tables or memories than a plugin gets"),
            )
            .why(one_line(&root, LOG_LINE))
        } else {
            PluginError::new("plugin::trap", format!("plugin `{plugin}` failed")).why(one_line(&root, LOG_LINE))
        }
    };
    explained.plugin = Some(plugin);
    explained.timed_out = matches!(error.downcast_ref::<Trap>(), Some(Trap::Interrupt));
    if explained.code == "plugin::trap" {
        explained.help = Some("this is a bug of the plugin; tell its author".to_owned());
    }
    for message in std::mem::take(&mut state.errors) {
        explained.notes.push(format!("it said: {message}"));
    }
    let stderr = state.stderr.text();
    let last: Vec<&str> = stderr.lines().filter(|line| !line.trim().is_empty()).collect();
    for line in &last[last.len().saturating_sub(3)..] {
        explained.notes.push(format!("it printed: {}", one_line(line, LOG_LINE)));
    }
    explained
}

/// Everything that a guest may import. What is not here does not exist for it.
fn linker(engine: &Engine) -> wasmtime::Result<Linker<State>> {
    let mut linker = Linker::new(engine);
    let l = &mut linker;
    stand_in::add_to_linker(l)?;
    types::add_to_linker::<State, HasSelf<State>>(l, |state| state)?;
    log::add_to_linker::<State, HasSelf<State>>(l, |state| state)?;
    files::add_to_linker::<State, HasSelf<State>>(l, |state| state)?;
    grants::add_to_linker::<State, HasSelf<State>>(l, |state| state)?;
    Ok(linker)
}
