//! The sandbox: one wasmtime engine, the limits that hold for every call, and why a call failed in words.
//!
//! A guest gets no file system, no network, no environment, and neither time nor chance (`imports`, `stand_in`), so that the same
//! input gives the same output. Wall time is bounded by epochs, memory by a limiter, copied bytes by hostcall fuel.

use std::sync::Arc;
use std::time::Duration;

use wasmtime::component::Linker;
use wasmtime::{Config, Engine, Store};

use crate::error::{PluginError, one_line};
use crate::imports::linker;
use crate::limits::Limits;
use crate::stand_in::Exit;
use crate::state::{HostFault, LogSink, State};
use crate::stats::Meter;

/// Time between two looks at the deadlines.
const TICK: Duration = Duration::from_millis(10);
/// Characters of a line of a guest, or of the engine, that are shown.
const LINE: usize = 2000;
/// Wasm stack.
const STACK: usize = 512 << 10;

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
        let state = State::new(plugin, limits, &self.sink, meter);
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
    let plugin = state.plugin().to_owned();
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
            .why(one_line(&root, LINE))
        } else {
            PluginError::new("plugin::trap", format!("plugin `{plugin}` failed")).why(one_line(&root, LINE))
        }
    };
    explained.plugin = Some(plugin);
    explained.timed_out = matches!(error.downcast_ref::<Trap>(), Some(Trap::Interrupt));
    if explained.code == "plugin::trap" {
        explained.help = Some("this is a bug of the plugin; tell its author".to_owned());
    }
    for message in state.take_errors() {
        explained.notes.push(format!("it said: {message}"));
    }
    let stderr = state.stderr.text();
    let last: Vec<&str> = stderr.lines().filter(|line| !line.trim().is_empty()).collect();
    for line in &last[last.len().saturating_sub(3)..] {
        explained.notes.push(format!("it printed: {}", one_line(line, LINE)));
    }
    explained
}
