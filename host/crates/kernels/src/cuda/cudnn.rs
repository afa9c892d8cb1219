//! cuDNN's attention, through the graphs of its backend interface. On Hopper others measured it at 1.7 to 2.3 times
//! FlashAttention 2 for training shapes (transformers PR #48163); beside this trainer's own nobody has measured it yet. Where
//! the library is not there, too old, or does not agree with this trainer's kernels, those do all of it.
//!
//! A graph is made for documents of up to some length, some of them at a time ([`Group`]); rows stay where they are, and
//! tables say where each document starts (NVIDIA calls that a ragged layout). Causal masks as a sub-graph of the one
//! operation need cuDNN 9.21.

mod backend;

use std::collections::HashMap;
use std::ffi::{c_int, c_void};
use std::ptr;
use std::sync::{Arc, Mutex, PoisonError};

use backend::{
    Address, BACKWARD, BACKWARD_DKEY, BACKWARD_DOUT, BACKWARD_DQUERY, BACKWARD_DVALUE, BACKWARD_STATS, Comparison,
    Descriptor, FORWARD, FORWARD_SOFTMAX, Flag, Handle, Mode, Names, Note, Number, Reference, Type, attribute, kind,
};

use super::driver::Context;
use super::plan::{self, Group, Passes};
use super::symbols::Cudnn as Functions;
use crate::AttentionShape;

/// The oldest version whose graphs have all that is asked of them.
pub(super) const OLDEST: usize = 92_100;
/// Compute capability from which on its attention has a backward pass as one operation, and is held to be the faster one.
pub(super) const CAPABILITY: (u32, u32) = (9, 0);

/// Engines come in the order in which cuDNN expects them to be fast.
const MODE_A: Mode = Mode(3);
/// Every engine that works.
const MODE_FALLBACK: Mode = Mode(2);
/// Engines that are looked at.
const ENGINES: usize = 8;
/// A note of an engine: the same inputs need not give the same bits.
const NONDETERMINISTIC: c_int = 4;
/// Keeps a score where the query's row is not before the key's.
const AT_LEAST: Comparison = Comparison(303);
/// Bytes that places of tensors are a multiple of.
const ALIGNMENT: i64 = 16;

/// What the tensors of a graph are called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i64)]
enum Id {
    PackedOffsets = 1,
    OutOffsets,
    StatsOffsets,
    Query,
    Key,
    Value,
    QueryLens,
    KeyLens,
    Out,
    Stats,
    Scale,
    Band,
    ScoresIn,
    ScoresOut,
    SoftmaxIn,
    SoftmaxOut,
    DOut,
    DQuery,
    DKey,
    DValue,
}

/// Where the tables of a group lie on the device.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tables {
    /// Rows of each document, i32, `[documents]`.
    pub(super) lens: u64,
    /// First elements of each document among packed rows, i64, `[documents + 1]`.
    pub(super) packed: u64,
    /// The same among rows of output.
    pub(super) out: u64,
    /// The same among rows of log-sum-exps.
    pub(super) stats: u64,
}

/// Graphs are built for a handle, and so for its device; for a test, for the description of one.
enum Target<'a> {
    Handle(*mut c_void),
    #[cfg_attr(not(test), allow(dead_code, reason = "graphs are tested on machines without a GPU"))]
    Described(&'a Descriptor),
}

/// A graph that can be run, with what it refers to.
#[derive(Debug)]
struct Plan {
    descriptor: Descriptor,
    /// Bytes of room beside its operands.
    workspace: usize,
    /// Referred to by the plan, directly or not.
    _parts: Vec<Descriptor>,
}

/// Attention of a group. Not every version has both passes for every device.
#[derive(Debug)]
pub(super) struct Plans {
    forward: Result<Plan, String>,
    backward: Result<Plan, String>,
}

/// Builds graphs for a shape of heads.
struct Builder<'a> {
    functions: &'a Arc<Functions>,
    target: &'a Target<'a>,
    shape: AttentionShape,
    group: Group,
    parts: Vec<Descriptor>,
}

impl Builder<'_> {
    /// Keeps a finished descriptor, and says which it is.
    fn keep(&mut self, descriptor: Descriptor) -> Result<usize, String> {
        self.parts.push(descriptor.finish()?);
        Ok(self.parts.len() - 1)
    }

    fn tensor(
        &mut self,
        id: Id,
        kind: Type,
        sizes: [usize; 4],
        strides: [usize; 4],
        more: impl FnOnce(&Descriptor, &[Descriptor]) -> Result<(), String>,
    ) -> Result<usize, String> {
        let tensor = Descriptor::new(self.functions, kind::TENSOR)?;
        tensor.set(attribute::TENSOR_TYPE, &[kind])?;
        tensor.set(attribute::TENSOR_SIZES, &sizes.map(|size| Number(size as i64)))?;
        tensor.set(attribute::TENSOR_STRIDES, &strides.map(|stride| Number(stride as i64)))?;
        tensor.set(attribute::TENSOR_ID, &[Number(id as i64)])?;
        tensor.set(attribute::TENSOR_ALIGNMENT, &[Number(ALIGNMENT)])?;
        more(&tensor, &self.parts)?;
        self.keep(tensor)
    }

    /// One number for each document, or one more.
    fn table(&mut self, id: Id, kind: Type, count: usize) -> Result<usize, String> {
        self.tensor(id, kind, [count, 1, 1, 1], [1; 4], |_, _| Ok(()))
    }

    /// A number that comes with the call.
    fn scalar(&mut self, id: Id) -> Result<usize, String> {
        self.tensor(id, Type::F32, [1; 4], [1; 4], |tensor, _| tensor.set(attribute::TENSOR_BY_VALUE, &[Flag(true)]))
    }

    /// Heads of `width` elements in rows of `row`, documents where a table of offsets says.
    fn heads(
        &mut self,
        id: Id,
        kind: Type,
        heads: usize,
        width: usize,
        row: usize,
        offsets: usize,
    ) -> Result<usize, String> {
        let Group { length, documents } = self.group;
        self.tensor(id, kind, [documents, heads, length, width], [length * row, width, row, 1], |tensor, parts| {
            tensor.refer(attribute::TENSOR_OFFSETS, &parts[offsets])
        })
    }

    /// Scores, which are never there as a whole.
    fn scores(&mut self, id: Id) -> Result<usize, String> {
        let (Group { length, documents }, heads) = (self.group, self.shape.heads);
        let strides = [heads * length * length, length * length, length, 1];
        self.tensor(id, Type::F32, [documents, heads, length, length], strides, |tensor, _| {
            tensor.set(attribute::TENSOR_VIRTUAL, &[Flag(true)])
        })
    }

    fn graph(&mut self, operation: usize) -> Result<usize, String> {
        let graph = Descriptor::new(self.functions, kind::GRAPH)?;
        if let &Target::Handle(handle) = self.target {
            graph.set(attribute::GRAPH_HANDLE, &[Handle(handle)])?;
        }
        graph.refer(attribute::GRAPH_OPERATIONS, &self.parts[operation])?;
        self.keep(graph)
    }

    /// Sets what both passes have, and says which tensors hold the offsets.
    fn common(&mut self, operation: &Descriptor, names: &Names) -> Result<[usize; 3], String> {
        let AttentionShape { heads, kv_heads, head_dim, .. } = self.shape;
        let (count, packed) = (self.group.documents, self.shape.packed());
        let ids = [Id::PackedOffsets, Id::OutOffsets, Id::StatsOffsets];
        let mut offsets = [0; 3];
        for (offset, id) in offsets.iter_mut().zip(ids) {
            *offset = self.table(id, Type::I64, count + 1)?;
        }
        let sizes =
            [(Id::Query, heads, names.query), (Id::Key, kv_heads, names.key), (Id::Value, kv_heads, names.value)];
        for (id, heads, name) in sizes {
            let tensor = self.heads(id, Type::BF16, heads, head_dim, packed, offsets[0])?;
            operation.refer(name, &self.parts[tensor])?;
        }
        let out = self.heads(Id::Out, Type::BF16, heads, head_dim, heads * head_dim, offsets[1])?;
        let scale = self.scalar(Id::Scale)?;
        let query_lens = self.table(Id::QueryLens, Type::I32, count)?;
        let key_lens = self.table(Id::KeyLens, Type::I32, count)?;
        for (name, tensor) in
            [(names.out, out), (names.scale, scale), (names.query_lens, query_lens), (names.key_lens, key_lens)]
        {
            operation.refer(name, &self.parts[tensor])?;
        }
        let (scores, masked, band) = (self.scores(Id::ScoresIn)?, self.scores(Id::ScoresOut)?, self.scalar(Id::Band)?);
        let mask = Descriptor::new(self.functions, kind::BAND_MASK)?;
        mask.refer(attribute::MASK_IN, &self.parts[scores])?;
        mask.refer(attribute::MASK_BAND, &self.parts[band])?;
        mask.refer(attribute::MASK_OUT, &self.parts[masked])?;
        mask.set(attribute::MASK_COMPARISON, &[AT_LEAST])?;
        let mask = self.keep(mask)?;
        let graph = self.graph(mask)?;
        operation.refer(names.graph, &self.parts[graph])?;
        operation.set(names.graph_in, &[Number(Id::ScoresIn as i64)])?;
        operation.set(names.graph_out, &[Number(Id::ScoresOut as i64)])?;
        Ok(offsets)
    }

    fn forward(mut self) -> Result<Plan, String> {
        let operation = Descriptor::new(self.functions, kind::ATTENTION)?;
        let [_, _, offsets] = self.common(&operation, &FORWARD)?;
        let heads = self.shape.heads;
        let stats = self.heads(Id::Stats, Type::F32, heads, 1, heads, offsets)?;
        let (scores, shares) = (self.scores(Id::SoftmaxIn)?, self.scores(Id::SoftmaxOut)?);
        let softmax = Descriptor::new(self.functions, kind::SOFTMAX)?;
        softmax.refer(attribute::SOFTMAX_IN, &self.parts[scores])?;
        softmax.refer(attribute::SOFTMAX_OUT, &self.parts[shares])?;
        softmax.refer(attribute::SOFTMAX_STATS, &self.parts[stats])?;
        let softmax = self.keep(softmax)?;
        operation.refer(FORWARD_SOFTMAX, &self.parts[softmax])?;
        let operation = self.keep(operation)?;
        self.plan(operation)
    }

    fn backward(mut self) -> Result<Plan, String> {
        let operation = Descriptor::new(self.functions, kind::ATTENTION_BACKWARD)?;
        let [packed_at, out_at, stats_at] = self.common(&operation, &BACKWARD)?;
        let AttentionShape { heads, kv_heads, head_dim, .. } = self.shape;
        let packed = self.shape.packed();
        let stats = self.heads(Id::Stats, Type::F32, heads, 1, heads, stats_at)?;
        operation.refer(BACKWARD_STATS, &self.parts[stats])?;
        let dout = self.heads(Id::DOut, Type::BF16, heads, head_dim, heads * head_dim, out_at)?;
        operation.refer(BACKWARD_DOUT, &self.parts[dout])?;
        for (id, heads, name) in [
            (Id::DQuery, heads, BACKWARD_DQUERY),
            (Id::DKey, kv_heads, BACKWARD_DKEY),
            (Id::DValue, kv_heads, BACKWARD_DVALUE),
        ] {
            let gradient = self.heads(id, Type::BF16, heads, head_dim, packed, packed_at)?;
            operation.refer(name, &self.parts[gradient])?;
        }
        let operation = self.keep(operation)?;
        self.plan(operation)
    }

    /// The first engine that can be made ready and is deterministic.
    fn plan(mut self, operation: usize) -> Result<Plan, String> {
        let graph = self.graph(operation)?;
        let mut reasons = Vec::new();
        for mode in [MODE_A, MODE_FALLBACK] {
            let configs = match self.configs(graph, mode) {
                Ok(configs) => configs,
                Err(reason) => {
                    reasons.push(reason);
                    continue;
                }
            };
            for config in configs {
                match self.ready(&config) {
                    Ok((plan, workspace)) => {
                        self.parts.push(config);
                        return Ok(Plan { descriptor: plan, workspace, _parts: self.parts });
                    }
                    Err(reason) => reasons.push(reason),
                }
            }
        }
        reasons.dedup();
        Err(if reasons.is_empty() { "no engine for this shape".to_owned() } else { reasons.join("; ") })
    }

    fn configs(&self, graph: usize, mode: Mode) -> Result<Vec<Descriptor>, String> {
        let heuristic = Descriptor::new(self.functions, kind::HEURISTIC)?;
        heuristic.refer(attribute::HEURISTIC_GRAPH, &self.parts[graph])?;
        heuristic.set(attribute::HEURISTIC_MODE, &[mode])?;
        #[cfg(test)]
        if let Target::Described(device) = self.target {
            heuristic.refer(tests::HEURISTIC_DEVICE, device)?;
        }
        let heuristic = heuristic.finish()?;
        let configs = (0..ENGINES).map(|_| Descriptor::new(self.functions, kind::ENGINE_CONFIG));
        let mut configs = configs.collect::<Result<Vec<_>, _>>()?;
        let mut references: Vec<_> = configs.iter().map(|config| Reference(config.raw)).collect();
        let found = heuristic.get(attribute::HEURISTIC_RESULTS, &mut references)?;
        configs.truncate(found);
        Ok(configs)
    }

    fn ready(&self, config: &Descriptor) -> Result<(Descriptor, usize), String> {
        let engine = Descriptor::new(self.functions, kind::ENGINE)?;
        config.get(attribute::CONFIG_ENGINE, &mut [Reference(engine.raw)])?;
        let mut notes = [Note(-1); 16];
        let count = engine.get(attribute::ENGINE_NOTES, &mut notes)?;
        if notes[..count].iter().any(|note| note.0 == NONDETERMINISTIC) {
            return Err("an engine that is not deterministic".to_owned());
        }
        let plan = Descriptor::new(self.functions, kind::PLAN)?;
        if let &Target::Handle(handle) = self.target {
            plan.set(attribute::PLAN_HANDLE, &[Handle(handle)])?;
        }
        plan.refer(attribute::PLAN_CONFIG, config)?;
        let plan = plan.finish()?;
        let mut workspace = [Number(0)];
        plan.get(attribute::PLAN_WORKSPACE, &mut workspace)?;
        Ok((plan, workspace[0].0.max(0) as usize))
    }
}

impl Plans {
    fn new(functions: &Arc<Functions>, target: &Target<'_>, shape: AttentionShape, group: Group) -> Self {
        let builder = || Builder { functions, target, shape, group, parts: Vec::new() };
        let most = plan::fused_bytes(group, shape);
        let fitting = |plan: Plan| match plan.workspace {
            wanted if wanted > most => Err(format!("it asks for {wanted} bytes of scratch, {most} are foreseen")),
            _ => Ok(plan),
        };
        let forward = builder().forward().and_then(fitting);
        Self { forward, backward: builder().backward().and_then(fitting) }
    }

    /// Which passes there are.
    pub(super) fn passes(&self) -> Passes {
        Passes { forward: self.forward.is_ok(), backward: self.backward.is_ok() }
    }

    /// Does without the passes that there is something against.
    fn judged(self, verdict: Passes<Result<(), String>>) -> Self {
        let both = |plan: Result<Plan, String>, verdict: Result<(), String>| verdict.and(plan);
        Self { forward: both(self.forward, verdict.forward), backward: both(self.backward, verdict.backward) }
    }

    /// Bytes of room that a pass takes.
    pub(super) fn workspace(&self) -> usize {
        let of = |plan: &Result<Plan, String>| plan.as_ref().map_or(0, |plan| plan.workspace);
        of(&self.forward).max(of(&self.backward))
    }
}

/// The library on one device, for one shape of heads.
#[derive(Debug)]
pub(super) struct Cudnn {
    functions: Arc<Functions>,
    handle: *mut c_void,
    shape: AttentionShape,
    /// Groups that have been asked for.
    groups: Mutex<HashMap<Group, Arc<Plans>>>,
}

// SAFETY: a handle of a library that may be called from any thread; calls are made by one thread at a time, which the
// order of operations on the device's one stream asks for anyway.
unsafe impl Send for Cudnn {}
// SAFETY: as above.
unsafe impl Sync for Cudnn {}

impl Cudnn {
    /// # Errors
    /// In the library's words, why it cannot be used on this device.
    pub(super) fn new(functions: Arc<Functions>, context: &Context, shape: AttentionShape) -> Result<Self, String> {
        context.enter();
        let mut handle = ptr::null_mut();
        // SAFETY: writes one handle; the device's context is current.
        let status = unsafe { (functions.cudnnCreate)(&raw mut handle) };
        functions.checked("cudnnCreate", status)?;
        let this = Self { functions, handle, shape, groups: Mutex::default() };
        // SAFETY: the handle is new, the stream the context's.
        let status = unsafe { (this.functions.cudnnSetStream)(handle, context.stream().cast()) };
        this.functions.checked("cudnnSetStream", status)?;
        Ok(this)
    }

    pub(super) fn shape(&self) -> AttentionShape {
        self.shape
    }

    /// Which passes of a group can be computed. The first time, its plans are made, and `trial` says what there is against
    /// them.
    pub(super) fn prepare(
        &self,
        context: &Context,
        group: Group,
        trial: impl FnOnce(&Plans) -> Passes<Result<(), String>>,
    ) -> Passes {
        let mut groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        let found = groups.entry(group).or_insert_with(|| {
            context.enter();
            let plans = Plans::new(&self.functions, &Target::Handle(self.handle), self.shape, group);
            let verdict = trial(&plans);
            Arc::new(plans.judged(verdict))
        });
        found.passes()
    }

    /// The plans of a group that was prepared.
    pub(super) fn plans(&self, group: Group) -> Option<Arc<Plans>> {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner).get(&group).map(Arc::clone)
    }

    /// What is said of each group that was prepared: what cuDNN computes, and why not the rest.
    pub(super) fn report(&self) -> Vec<String> {
        let groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        let mut groups: Vec<_> = groups.iter().collect();
        groups.sort_by_key(|(group, _)| group.length);
        let line = |(group, plans): (&Group, &Arc<Plans>)| {
            let parts = [("forward", &plans.forward), ("backward", &plans.backward)].map(|(pass, plan)| match plan {
                Ok(_) => format!("{pass} by cuDNN"),
                Err(reason) => format!("{pass} not by cuDNN: {reason}"),
            });
            format!("documents of up to {} tokens: {}", group.length, parts.join("; "))
        };
        groups.into_iter().map(line).collect()
    }

    /// Queues the forward pass of a group.
    ///
    /// # Errors
    /// In the library's words, why it is not queued.
    pub(super) fn forward(
        &self,
        context: &Context,
        plans: &Plans,
        tables: Tables,
        [qkv, out, lse]: [u64; 3],
        workspace: u64,
    ) -> Result<(), String> {
        let mut operands = self.operands(tables, qkv).to_vec();
        operands.extend([(Id::Out, out), (Id::Stats, lse)]);
        self.run(context, &plans.forward, &operands, workspace)
    }

    /// Queues the backward pass of a group.
    ///
    /// # Errors
    /// In the library's words, why it is not queued.
    pub(super) fn backward(
        &self,
        context: &Context,
        plans: &Plans,
        tables: Tables,
        [qkv, out, lse, dout, dqkv]: [u64; 5],
        workspace: u64,
    ) -> Result<(), String> {
        let mut operands = self.operands(tables, qkv).to_vec();
        operands.extend([(Id::Out, out), (Id::Stats, lse), (Id::DOut, dout)]);
        let gradients = self.parts(dqkv);
        operands.extend([Id::DQuery, Id::DKey, Id::DValue].into_iter().zip(gradients));
        self.run(context, &plans.backward, &operands, workspace)
    }

    /// Where queries, keys and values start in packed rows.
    fn parts(&self, packed: u64) -> [u64; 3] {
        let AttentionShape { heads, kv_heads, head_dim, .. } = self.shape;
        let bytes = |heads: usize| (2 * heads * head_dim) as u64;
        [packed, packed + bytes(heads), packed + bytes(heads + kv_heads)]
    }

    fn operands(&self, tables: Tables, qkv: u64) -> [(Id, u64); 8] {
        let [query, key, value] = self.parts(qkv);
        [
            (Id::PackedOffsets, tables.packed),
            (Id::OutOffsets, tables.out),
            (Id::StatsOffsets, tables.stats),
            (Id::QueryLens, tables.lens),
            (Id::KeyLens, tables.lens),
            (Id::Query, query),
            (Id::Key, key),
            (Id::Value, value),
        ]
    }

    fn run(
        &self,
        context: &Context,
        plan: &Result<Plan, String>,
        operands: &[(Id, u64)],
        workspace: u64,
    ) -> Result<(), String> {
        if context.failed() {
            return Ok(());
        }
        let plan = plan.as_ref().map_err(String::clone)?;
        context.enter();
        let (mut scale, mut band) = (self.shape.scale, 0.0f32);
        let mut ids: Vec<_> = operands.iter().map(|&(id, _)| Number(id as i64)).collect();
        let mut pointers: Vec<_> = operands.iter().map(|&(_, pointer)| Address(pointer as *mut c_void)).collect();
        ids.extend([Number(Id::Scale as i64), Number(Id::Band as i64)]);
        pointers.extend([Address((&raw mut scale).cast()), Address((&raw mut band).cast())]);
        let pack = Descriptor::new(&self.functions, kind::VARIANT_PACK)?;
        pack.set(attribute::PACK_IDS, &ids)?;
        pack.set(attribute::PACK_POINTERS, &pointers)?;
        pack.set(attribute::PACK_WORKSPACE, &[Address(workspace as *mut c_void)])?;
        let pack = pack.finish()?;
        // SAFETY: the operands have the places and sizes that the plan's tensors say; scalars are read before it returns.
        let status = unsafe { (self.functions.cudnnBackendExecute)(self.handle, plan.descriptor.raw, pack.raw) };
        self.functions.checked("cudnnBackendExecute", status)
    }

    /// Gives everything back.
    pub(super) fn close(&mut self, context: &Context) {
        // What is queued may refer to the plans.
        context.wait();
        self.groups.get_mut().unwrap_or_else(PoisonError::into_inner).clear();
        // SAFETY: a handle that nobody names any more.
        let _ = unsafe { (self.functions.cudnnDestroy)(self.handle) };
        self.handle = ptr::null_mut();
    }
}

#[cfg(test)]
#[expect(clippy::print_stderr, reason = "says what NVIDIA's library takes, to who asks for a test's output")]
mod tests {
    use std::path::Path;
    use std::process::Command;

    use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};

    use super::super::library::{Name, Search, open};
    use super::backend::Value;
    use super::*;

    /// Of a query for engines, a device that need not be there.
    pub(super) const HEURISTIC_DEVICE: c_int = 204;
    /// The first version that has the backward pass as one operation for Hopper; for Blackwell, older ones do.
    const BACKWARD_ON_HOPPER: usize = 92_800;
    const DEVICE: c_int = 38;
    const DEVICE_TEXT: c_int = 2702;
    /// A GPU in cuDNN's words, with the sizes that NVIDIA publishes of its H200.
    const H200: &str = r#"{
        "deviceName": "NVIDIA H200", "cudaDeviceId": 0, "deviceVer": 900, "driverVer": 13000, "multiProcessorCount": 132,
        "maxGridSize": [2147483647, 65535, 65535], "maxBlockSize": [1024, 1024, 64], "warpSize": 32,
        "smClockRateKHz": 1980000, "memClockRateKHz": 3201000, "memoryBusWidth": 6144, "l2CacheSize": 62914560,
        "maxSharedMemoryPerBlock": 49152, "maxSharedMemoryPerBlockOptin": 232448, "reservedSharedMemoryPerBlock": 1024,
        "maxRegistersPerSM": 65536, "regsPerBlock": 65536, "maxCtasPerSM": 32, "maxThreadsPerBlock": 1024,
        "maxThreadsPerSM": 2048, "totalGlobalMem": 150754820096, "pciDeviceId": 0, "isTccDriver": 0, "supportCoopLaunch": 1
    }"#;

    /// A character.
    #[derive(Debug, Clone, Copy)]
    #[repr(transparent)]
    struct Character(u8);

    impl Value for Character {
        const TYPE: c_int = 24;
    }

    /// NVIDIA's library with a stand-in for the driver. `HOST_TEST_CUDNN` lists directories, as `PATH` does: of cuDNN, and
    /// of the NVRTC and cuBLASLt of the CUDA that it is for.
    #[expect(clippy::disallowed_methods, reason = "says past the test's captured output that it is skipped")]
    fn library() -> Option<Arc<Functions>> {
        let Some(directories) = std::env::var_os("HOST_TEST_CUDNN") else {
            use std::io::Write as _;
            let _ = writeln!(std::io::stderr(), "skipped, cuDNN is not asked about its graphs: no HOST_TEST_CUDNN");
            return None;
        };
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../tests/gpu/emulator/driver_names.c");
        let directory = tempfile::tempdir().unwrap();
        let driver = directory.path().join("libcuda.so.1");
        let mut compiler = Command::new("cc");
        compiler.args(["-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", "-o"]).arg(&driver).arg(source);
        assert!(compiler.status().unwrap().success());
        // SAFETY: it does nothing.
        std::mem::forget(unsafe { Library::open(Some(&driver), RTLD_NOW | RTLD_GLOBAL) }.unwrap());
        let variable = |name: &str| (name == "HOST_CUDA_LIBRARY_PATH").then(|| directories.clone());
        let search = Search::new(variable, Path::new("/nowhere"), false);
        let functions = Functions::new(open(Name::Cudnn, &search, None).unwrap().library).unwrap();
        for beside in [Name::Nvrtc, Name::BlasLt] {
            let opened = open(beside, &search, Some(functions.major())).unwrap();
            assert_eq!(opened.major, Some(functions.major()));
        }
        Some(Arc::new(functions))
    }

    #[test]
    fn nvidias_library_takes_the_graphs_for_hopper() {
        let Some(functions) = library() else { return };
        let device = Descriptor::new(&functions, DEVICE).unwrap();
        let text: Vec<Character> = H200.bytes().map(Character).collect();
        device.set(DEVICE_TEXT, &text).unwrap();
        let device = device.finish().unwrap();
        let shapes = [(9, 3, 64), (32, 8, 64), (32, 8, 128), (32, 32, 80), (16, 2, 128), (8, 4, 256)];
        for (length, (heads, kv_heads, head_dim)) in [(2048, 0), (300, 1), (8000, 2), (2000, 3), (4096, 4), (1024, 5)]
            .map(|(length, index): (usize, usize)| (length, shapes[index]))
        {
            let shape =
                AttentionShape { heads, kv_heads, head_dim, scale: (1.0 / (head_dim as f64).sqrt()) as f32, cap: None };
            let group = plan::fused_group(length, shape).unwrap();
            let plans = Plans::new(&functions, &Target::Described(&device), shape, group);
            let (wanted, foreseen) = (plans.workspace(), plan::fused_bytes(group, shape));
            eprintln!("{} {group:?} {shape:?}: {wanted} of {foreseen} bytes", functions.version());
            plans.forward.unwrap();
            match plans.backward {
                Ok(_) => {}
                Err(reason) if functions.version() < BACKWARD_ON_HOPPER => eprintln!("no backward pass: {reason}"),
                Err(reason) => panic!("{reason}"),
            }
        }
    }
}
