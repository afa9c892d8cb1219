//! Work that is queued again and again as one graph of the driver's, which takes one call instead of hundreds.
//!
//! What a stretch of work asks for depends on its caller's key, on the layout of the rows' tables, and on where tables
//! and room are: that is a graph's key. Numbers that differ between passes of one key are in the tables. The first time a
//! key is seen, the work is queued as it is, which also makes the room and has the libraries choose; the second time it is
//! captured; from then on its graph is launched. Nothing that a graph does differs from the work that it was captured of.

use std::collections::HashMap;
use std::sync::Arc;

use super::device::{CudaKernels, Device, lock};
use super::driver::{Context, Graph};
use super::rows::{CudaRows, Tables};

/// Graphs that are kept: each takes some of the device's memory, which the plan does not count.
const MOST_GRAPHS: usize = 32;
/// Keys that are remembered.
const MOST_KEYS: usize = 1024;

/// What a graph depends on.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    /// The caller's.
    work: u64,
    tables: Tables,
    block: u64,
    scratch: u64,
}

/// Stretches of work, by what they depend on.
#[derive(Debug, Default)]
pub struct CudaGraphs {
    /// Graphs of those that came again.
    known: HashMap<Key, Option<Graph>>,
    /// Whose graphs they are.
    device: Option<Arc<Device>>,
}

impl Drop for CudaGraphs {
    fn drop(&mut self) {
        if let Some(device) = &self.device {
            self.known.drain().for_each(|(_, graph)| device.context.drop_graph(graph));
        }
    }
}

impl CudaKernels {
    /// Why work is not repeated as graphs, if it is not.
    pub fn no_graphs(&self) -> Option<String> {
        self.0.context.no_graphs().map(str::to_owned)
    }

    /// How often a graph was launched so far, in place of the work that it was captured of.
    pub fn graph_launches(&self) -> u64 {
        self.0.context.graph_launches()
    }

    /// Queues all work call by call, for a comparison.
    #[must_use]
    pub fn without_graphs(self) -> Self {
        self.0.context.refuse_graphs("they are not wanted".to_owned());
        self
    }

    pub(super) fn replayed(&self, graphs: &mut CudaGraphs, rows: &CudaRows, key: u64, work: &mut dyn FnMut()) {
        let device = &self.0;
        let context = &device.context;
        if context.no_graphs().is_some() || context.failed() {
            return work();
        }
        let graph_key = |device: &Device| {
            let (block, scratch) = (rows.at(rows.tables.ids), lock(&device.scratch).pointer);
            Key { work: key, tables: rows.tables.clone(), block, scratch }
        };
        graphs.device.get_or_insert_with(|| Arc::clone(device));
        let captured = graphs.known.values().flatten().count();
        match graphs.known.get_mut(&graph_key(device)) {
            Some(Some(graph)) => context.launch_graph(graph),
            Some(kept) if captured < MOST_GRAPHS => match context.capture(&mut *work) {
                Ok(graph) => context.launch_graph(kept.insert(graph)),
                Err(reason) => {
                    context.refuse_graphs(reason);
                    work();
                }
            },
            Some(None) => work(),
            None => {
                work();
                let key = graph_key(device);
                graphs.forget(context, &key);
                if graphs.known.len() < MOST_KEYS {
                    graphs.known.insert(key, None);
                }
            }
        }
    }
}

impl CudaGraphs {
    /// Drops what works with tables or a room that are no more.
    fn forget(&mut self, context: &Context, now: &Key) {
        let is_gone = |key: &Key| (key.block, key.scratch) != (now.block, now.scratch);
        self.known.extract_if(|key, _| is_gone(key)).for_each(|(_, graph)| context.drop_graph(graph));
    }
}
