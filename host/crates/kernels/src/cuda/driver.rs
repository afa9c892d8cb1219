//! One device: its context, its one stream, memory, launches. Everything is queued on the stream, in order; the host waits
//! in `wait`, `wait_for`, `write` and `read` alone.
//!
//! The first call that fails is kept ([`Context::check`]) and nothing is done after it, so that what calls need not look at
//! each answer. Errors of kernels themselves appear at whatever call comes next.

use std::cell::Cell;
use std::ffi::{c_int, c_void};
use std::ops::Range;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use cudarc::driver::sys::{
    CUcontext, CUdevice, CUdevice_attribute as Attribute, CUdeviceptr, CUevent, CUfunction, CUfunction_attribute,
    CUgraphExec, CUmemPool_attribute, CUmemoryPool, CUstream, CUstreamCaptureMode, cudaError_enum,
};

use super::symbols::{CUresult, Driver};
use crate::DeviceError;

/// Bytes of a kernel's dynamic shared memory that need no permission.
const FREE_SHARED_BYTES: u32 = 48 << 10;
/// Bytes that go to or from the device at a time while weights are loaded and saved.
const PIECE: usize = 4 << 20;

thread_local! {
    /// The context that is current in this thread.
    static CURRENT: Cell<CUcontext> = const { Cell::new(ptr::null_mut()) };
}

/// A device that is in use.
#[derive(Debug)]
pub(super) struct Context {
    pub(super) driver: Driver,
    /// As the driver names it.
    pub(super) name: String,
    /// Major and minor.
    pub(super) capability: (u32, u32),
    /// Streaming multiprocessors.
    pub(super) multiprocessors: u32,
    /// Bytes of shared memory that a block may have.
    pub(super) shared: u32,
    device: CUdevice,
    handle: CUcontext,
    stream: CUstream,
    pool: CUmemoryPool,
    failure: OnceLock<DeviceError>,
    /// What is queued goes into a graph.
    captures: AtomicBool,
    /// What went wrong in the graph that is captured.
    spoilt: OnceLock<String>,
    /// Why there are no graphs.
    no_graphs: OnceLock<String>,
    graph_launches: AtomicU64,
    /// Pinned memory that pieces pass through.
    passage: Mutex<Option<Pinned>>,
}

// SAFETY: the driver's handles may be used from any thread in which the context is current, which each call sees to.
unsafe impl Send for Context {}
// SAFETY: as above; the driver serializes calls on one stream.
unsafe impl Sync for Context {}

/// Memory of the host that the device reads and writes by itself.
#[derive(Debug)]
pub(super) struct Pinned {
    pointer: *mut c_void,
    bytes: usize,
}

// SAFETY: plain memory; whoever has the value has the memory.
unsafe impl Send for Pinned {}
// SAFETY: a shared value is only read.
unsafe impl Sync for Pinned {}

impl Pinned {
    pub(super) fn len(&self) -> usize {
        self.bytes
    }

    /// The memory as bytes.
    pub(super) fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: the driver gave so many bytes, and zeroed they are initialized.
        unsafe { std::slice::from_raw_parts_mut(self.pointer.cast(), self.bytes) }
    }
}

/// Something that happened on the stream, to be waited for.
#[derive(Debug)]
pub(super) struct Event(CUevent);

// SAFETY: a handle, as for the context.
unsafe impl Send for Event {}
// SAFETY: a handle, as for the context.
unsafe impl Sync for Event {}

/// Operations that can be queued together.
#[derive(Debug)]
pub(super) struct Graph(CUgraphExec);

// SAFETY: a handle, as for the context.
unsafe impl Send for Graph {}
// SAFETY: a handle, as for the context.
unsafe impl Sync for Graph {}

/// A kernel's argument; the device reads as many of the bytes as its parameter has.
pub(super) fn word(value: usize) -> u64 {
    u64::from(u32::try_from(value).expect("sizes of a pass are below 2^32"))
}

/// See [`word`].
pub(super) fn float(value: f32) -> u64 {
    u64::from(value.to_bits())
}

/// A kernel with its limits.
#[derive(Debug, Clone, Copy)]
pub(super) struct Function {
    pub(super) handle: CUfunction,
    pub(super) name: &'static str,
}

// SAFETY: a handle, as for the context.
unsafe impl Send for Function {}
// SAFETY: a handle, as for the context.
unsafe impl Sync for Function {}

impl Context {
    /// Makes the context of device `ordinal` current, and a stream in it.
    pub(super) fn open(driver: Driver, ordinal: usize) -> Result<Self, DeviceError> {
        let mut context = Self {
            driver,
            name: format!("cuda:{ordinal}"),
            capability: (0, 0),
            multiprocessors: 1,
            shared: FREE_SHARED_BYTES,
            device: 0,
            handle: ptr::null_mut(),
            stream: ptr::null_mut(),
            pool: ptr::null_mut(),
            failure: OnceLock::new(),
            captures: AtomicBool::new(false),
            spoilt: OnceLock::new(),
            no_graphs: OnceLock::new(),
            graph_launches: AtomicU64::new(0),
            passage: Mutex::new(None),
        };
        let mut device = 0;
        // SAFETY: takes a number.
        context.raw("cuInit", |driver| unsafe { (driver.cuInit)(0) });
        // SAFETY: writes one number.
        context.raw("cuDeviceGet", |driver| unsafe { (driver.cuDeviceGet)(&raw mut device, ordinal as c_int) });
        context.device = device;
        let mut name = [0; 256];
        // SAFETY: writes at most as many bytes as it is told.
        context.raw("cuDeviceGetName", |driver| unsafe {
            (driver.cuDeviceGetName)(name.as_mut_ptr(), name.len() as c_int - 1, device)
        });
        // SAFETY: the last byte is zero still.
        if let Some(name) = unsafe { super::symbols::text(name.as_ptr()) } {
            context.name = format!("{name} (cuda:{ordinal})");
        }
        let attribute = |context: &Self, attribute| {
            let mut value = 0;
            // SAFETY: writes one number.
            context.raw("cuDeviceGetAttribute", |driver| unsafe {
                (driver.cuDeviceGetAttribute)(&raw mut value, attribute, device)
            });
            value as u32
        };
        context.capability = (
            attribute(&context, Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR),
            attribute(&context, Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR),
        );
        context.multiprocessors = attribute(&context, Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT).max(1);
        let most = Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN;
        context.shared = attribute(&context, most).max(FREE_SHARED_BYTES);
        let mut handle = ptr::null_mut();
        // SAFETY: writes one handle.
        context.raw("cuDevicePrimaryCtxRetain", |driver| unsafe {
            (driver.cuDevicePrimaryCtxRetain)(&raw mut handle, device)
        });
        context.handle = handle;
        let mut stream = ptr::null_mut();
        // Does not wait for the legacy stream.
        // SAFETY: writes one handle.
        context.call("cuStreamCreate", |driver| unsafe { (driver.cuStreamCreate)(&raw mut stream, 1) });
        context.stream = stream;
        // Memory that was given back stays with the process: rooms that come and go do not cost a call of the system.
        let mut pool = ptr::null_mut();
        // SAFETY: writes one handle.
        context.call("cuDeviceGetDefaultMemPool", |driver| unsafe {
            (driver.cuDeviceGetDefaultMemPool)(&raw mut pool, device)
        });
        context.pool = pool;
        let mut keep = u64::MAX;
        // SAFETY: reads one number of the size that the attribute has.
        context.call("cuMemPoolSetAttribute", |driver| unsafe {
            let attribute = CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
            (driver.cuMemPoolSetAttribute)(pool, attribute, (&raw mut keep).cast())
        });
        context.check()?;
        Ok(context)
    }

    /// What went wrong first.
    pub(super) fn check(&self) -> Result<(), DeviceError> {
        self.failure.get().map_or(Ok(()), |failure| Err(failure.clone()))
    }

    /// Keeps what went wrong, if it is the first. While a graph is captured nothing is done yet: only the graph is spoilt.
    pub(super) fn fail(&self, call: &str, reason: String) {
        if self.captures() {
            let _ = self.spoilt.set(format!("{call}: {reason}"));
            return;
        }
        let _ = self.failure.set(DeviceError::Failed { device: self.name.clone(), call: call.to_owned(), reason });
    }

    pub(super) fn failed(&self) -> bool {
        self.failure.get().is_some() || (self.captures() && self.spoilt.get().is_some())
    }

    /// Whether what is queued goes into a graph.
    pub(super) fn captures(&self) -> bool {
        self.captures.load(Ordering::Relaxed)
    }

    /// Why there are no graphs, where there are none.
    pub(super) fn no_graphs(&self) -> Option<&str> {
        self.no_graphs.get().map(String::as_str)
    }

    /// Graphs that were launched.
    pub(super) fn graph_launches(&self) -> u64 {
        self.graph_launches.load(Ordering::Relaxed)
    }

    /// There are no graphs from now on.
    pub(super) fn refuse_graphs(&self, reason: String) {
        let _ = self.no_graphs.set(reason);
    }

    /// A graph of the operations that `work` queues, none of which is done.
    ///
    /// # Errors
    /// In the driver's words, why there is none; `work` can still be done as it is. There is no second try after that.
    pub(super) fn capture(&self, work: &mut dyn FnMut()) -> Result<Graph, String> {
        self.enter();
        let checked = |call: &str, status: CUresult| {
            if status.is_success() { Ok(()) } else { Err(format!("{call}: {}", self.driver.words(status))) }
        };
        // Calls of other threads are nothing to this stream.
        let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream is this value's, and its work is queued by one thread at a time.
        checked("cuStreamBeginCapture", unsafe { (self.driver.cuStreamBeginCapture_v2)(self.stream, mode) })?;
        self.captures.store(true, Ordering::Relaxed);
        work();
        self.captures.store(false, Ordering::Relaxed);
        let (mut graph, mut runnable) = (ptr::null_mut(), ptr::null_mut());
        // SAFETY: writes one handle, which is null where the capture was spoilt.
        let ended = unsafe { (self.driver.cuStreamEndCapture)(self.stream, &raw mut graph) };
        let made = match self.spoilt.get() {
            Some(reason) => Err(reason.clone()),
            None => checked("cuStreamEndCapture", ended).and_then(|()| {
                // SAFETY: a graph that was captured; writes one handle.
                let status = unsafe { (self.driver.cuGraphInstantiateWithFlags)(&raw mut runnable, graph, 0) };
                checked("cuGraphInstantiate", status)
            }),
        };
        if !graph.is_null() {
            // SAFETY: nobody names it any more; what was made of it stays.
            let _ = unsafe { (self.driver.cuGraphDestroy)(graph) };
        }
        made?;
        let graph = Graph(runnable);
        // The first launch would do it too, but there it is too late to do without, where memory is short.
        // SAFETY: handles of this context.
        match checked("cuGraphUpload", unsafe { (self.driver.cuGraphUpload)(graph.0, self.stream) }) {
            Ok(()) => Ok(graph),
            Err(reason) => {
                self.drop_graph(Some(graph));
                Err(reason)
            }
        }
    }

    /// Queues all operations of a graph.
    pub(super) fn launch_graph(&self, graph: &Graph) {
        // SAFETY: handles of this context.
        self.call("cuGraphLaunch", |driver| unsafe { (driver.cuGraphLaunch)(graph.0, self.stream) });
        self.graph_launches.fetch_add(1, Ordering::Relaxed);
    }

    /// Gives a graph back; launches of it that are under way are finished.
    pub(super) fn drop_graph(&self, graph: Option<Graph>) {
        if let Some(graph) = graph {
            self.enter();
            // SAFETY: a handle of this context, which nobody names any more.
            let _ = unsafe { (self.driver.cuGraphExecDestroy)(graph.0) };
        }
    }

    /// Calls the driver, unless something has failed, and keeps a failure.
    fn raw(&self, name: &str, call: impl FnOnce(&Driver) -> CUresult) -> bool {
        if self.failed() {
            return false;
        }
        let status = call(&self.driver);
        if !status.is_success() {
            self.fail(name, self.driver.words(status));
        }
        status.is_success()
    }

    /// The same with the context current in this thread.
    pub(super) fn call(&self, name: &str, call: impl FnOnce(&Driver) -> CUresult) -> bool {
        self.enter();
        self.raw(name, call)
    }

    /// Makes the context current in this thread, for libraries.
    pub(super) fn enter(&self) {
        if CURRENT.get() != self.handle {
            // SAFETY: a context that this value keeps alive.
            if self.raw("cuCtxSetCurrent", |driver| unsafe { (driver.cuCtxSetCurrent)(self.handle) }) {
                CURRENT.set(self.handle);
            }
        }
    }

    /// The stream, for libraries.
    pub(super) fn stream(&self) -> CUstream {
        self.stream
    }

    /// Bytes that are free, and all there are.
    pub(super) fn memory(&self) -> (u64, u64) {
        let (mut free, mut total) = (0, 0);
        self.enter();
        // SAFETY: writes two sizes.
        let _ = unsafe { (self.driver.cuMemGetInfo_v2)(&raw mut free, &raw mut total) };
        (free as u64, total as u64)
    }

    /// The most bytes that were taken at once, with what lay between them.
    pub(super) fn peak_memory(&self) -> u64 {
        let mut bytes: u64 = 0;
        self.enter();
        let attribute = CUmemPool_attribute::CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH;
        // SAFETY: writes one number of the size that the attribute has.
        let _ = unsafe { (self.driver.cuMemPoolGetAttribute)(self.pool, attribute, (&raw mut bytes).cast()) };
        bytes
    }

    /// Memory of `bytes` bytes, whatever is in it; 0 where there is none left, which is kept as the failure.
    pub(super) fn alloc(&self, bytes: usize) -> CUdeviceptr {
        if let Some(pointer) = self.try_alloc(bytes) {
            return pointer;
        }
        let ((free, total), device, wanted) = (self.memory(), self.name.clone(), bytes as u64);
        let _ = self.failure.set(DeviceError::OutOfMemory { device, wanted, free, total });
        0
    }

    /// Memory of `bytes` bytes, whatever is in it; none where there is none left.
    pub(super) fn try_alloc(&self, bytes: usize) -> Option<CUdeviceptr> {
        let mut pointer = 0;
        if bytes == 0 || self.failed() {
            return Some(0);
        }
        self.enter();
        // SAFETY: writes one pointer.
        let status = unsafe { (self.driver.cuMemAllocAsync)(&raw mut pointer, bytes, self.stream) };
        if status == cudaError_enum::CUDA_ERROR_OUT_OF_MEMORY {
            return None;
        }
        if !status.is_success() {
            self.fail("cuMemAllocAsync", self.driver.words(status));
            return Some(0);
        }
        Some(pointer)
    }

    /// Gives memory back once everything that was queued is done.
    pub(super) fn free(&self, pointer: CUdeviceptr) {
        if pointer != 0 {
            self.enter();
            // SAFETY: memory of `alloc`, which nobody names any more. Freeing goes on after a failure.
            let _ = unsafe { (self.driver.cuMemFreeAsync)(pointer, self.stream) };
        }
    }

    pub(super) fn zero(&self, pointer: CUdeviceptr, bytes: usize) {
        if bytes > 0 {
            // SAFETY: the caller has so many bytes there.
            self.call("cuMemsetD8Async", |driver| unsafe { (driver.cuMemsetD8Async)(pointer, 0, bytes, self.stream) });
        }
    }

    pub(super) fn copy(&self, from: CUdeviceptr, to: CUdeviceptr, bytes: usize) {
        if bytes > 0 {
            // SAFETY: the caller has so many bytes at both places.
            self.call("cuMemcpyDtoDAsync", |driver| unsafe {
                (driver.cuMemcpyDtoDAsync_v2)(to, from, bytes, self.stream)
            });
        }
    }

    /// Pinned memory of at least `bytes` bytes, zeroed.
    pub(super) fn pin(&self, bytes: usize) -> Option<Pinned> {
        let mut pointer = ptr::null_mut();
        // SAFETY: writes one pointer.
        self.call("cuMemAllocHost", |driver| unsafe { (driver.cuMemAllocHost_v2)(&raw mut pointer, bytes) }).then(
            || {
                // SAFETY: so many bytes are there.
                unsafe { ptr::write_bytes(pointer.cast::<u8>(), 0, bytes) };
                Pinned { pointer, bytes }
            },
        )
    }

    /// Gives pinned memory back.
    pub(super) fn unpin(&self, pinned: Pinned) {
        self.enter();
        // SAFETY: memory of `pin`; the caller knows that no copy reads it any more.
        let _ = unsafe { (self.driver.cuMemFreeHost)(pinned.pointer) };
    }

    /// Queues a copy of the first `bytes` bytes of pinned memory. They must stay as they are until it is done.
    pub(super) fn send(&self, pinned: &Pinned, bytes: usize, to: CUdeviceptr) {
        assert!(bytes <= pinned.bytes, "the copy is inside the pinned memory");
        // SAFETY: the source is there for so many bytes, the caller has as many at the target.
        self.call("cuMemcpyHtoDAsync", |driver| unsafe {
            (driver.cuMemcpyHtoDAsync_v2)(to, pinned.pointer, bytes, self.stream)
        });
    }

    /// Copies `bytes` bytes to the device and waits until they are there. `fill` puts those of a range into pinned memory.
    pub(super) fn write(&self, bytes: usize, to: CUdeviceptr, mut fill: impl FnMut(Range<usize>, &mut [u8])) {
        self.pass(bytes, |context, passage, range| {
            let (start, length) = (range.start as u64, range.len());
            fill(range, &mut passage.bytes()[..length]);
            context.send(passage, length, to + start);
            context.wait();
        });
    }

    /// Copies `bytes` bytes from the device, after everything that was queued. `take` gets those of a range.
    pub(super) fn read(&self, from: CUdeviceptr, bytes: usize, mut take: impl FnMut(Range<usize>, &[u8])) {
        self.pass(bytes, |context, passage, range| {
            let (to, at, length) = (passage.pointer, from + range.start as u64, range.len());
            // SAFETY: so many bytes are pinned, the caller has as many at the source.
            context.call("cuMemcpyDtoHAsync", |driver| unsafe {
                (driver.cuMemcpyDtoHAsync_v2)(to, at, length, context.stream)
            });
            context.wait();
            take(range, &passage.bytes()[..length]);
        });
    }

    /// Takes `bytes` bytes through pinned memory, a piece at a time.
    fn pass(&self, bytes: usize, mut piece: impl FnMut(&Self, &mut Pinned, Range<usize>)) {
        let mut passage = self.passage.lock().unwrap_or_else(PoisonError::into_inner);
        if passage.is_none() {
            *passage = self.pin(PIECE);
        }
        let Some(passage) = &mut *passage else { return };
        for start in (0..bytes).step_by(PIECE) {
            piece(self, passage, start..(start + PIECE).min(bytes));
        }
    }

    /// Waits until everything that was queued is done.
    pub(super) fn wait(&self) {
        // SAFETY: the stream is this value's.
        self.call("cuStreamSynchronize", |driver| unsafe { (driver.cuStreamSynchronize)(self.stream) });
    }

    /// An event that has not happened.
    pub(super) fn event(&self) -> Event {
        let mut event = ptr::null_mut();
        // Without times. SAFETY: writes one handle.
        self.call("cuEventCreate", |driver| unsafe { (driver.cuEventCreate)(&raw mut event, 2) });
        Event(event)
    }

    /// The event happens when everything that was queued is done.
    pub(super) fn record(&self, event: &Event) {
        // SAFETY: handles of this context.
        self.call("cuEventRecord", |driver| unsafe { (driver.cuEventRecord)(event.0, self.stream) });
    }

    /// Waits for an event.
    pub(super) fn wait_for(&self, event: &Event) {
        // SAFETY: a handle of this context.
        self.call("cuEventSynchronize", |driver| unsafe { (driver.cuEventSynchronize)(event.0) });
    }

    /// Gives an event back.
    pub(super) fn drop_event(&self, event: &Event) {
        self.enter();
        // SAFETY: a handle of this context, which nobody names any more.
        let _ = unsafe { (self.driver.cuEventDestroy_v2)(event.0) };
    }

    /// Loads a compiled source and looks its kernels up.
    pub(super) fn module(&self, cubin: &[u8], names: &[&'static str]) -> Result<Vec<Function>, DeviceError> {
        let mut module = ptr::null_mut();
        // SAFETY: a whole image, as nvrtc made it. The module stays for as long as the process.
        self.call("cuModuleLoadData", |driver| unsafe {
            (driver.cuModuleLoadData)(&raw mut module, cubin.as_ptr().cast())
        });
        let mut functions = Vec::with_capacity(names.len());
        for &name in names {
            let (mut handle, symbol) = (ptr::null_mut(), std::ffi::CString::new(name).expect("a kernel's name"));
            // SAFETY: writes one handle.
            self.call("cuModuleGetFunction", |driver| unsafe {
                (driver.cuModuleGetFunction)(&raw mut handle, module, symbol.as_ptr())
            });
            functions.push(Function { handle, name });
        }
        self.check()?;
        Ok(functions)
    }

    /// Lets a kernel have so many bytes of dynamic shared memory.
    pub(super) fn allow_shared(&self, function: Function, bytes: u32) {
        if bytes > FREE_SHARED_BYTES {
            let attribute = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // SAFETY: a function of this context.
            self.call("cuFuncSetAttribute", |driver| unsafe {
                (driver.cuFuncSetAttribute)(function.handle, attribute, bytes as c_int)
            });
        }
    }

    /// Queues a kernel. `arguments` are its parameters in order, in the low bytes of a word each.
    pub(super) fn launch(&self, function: Function, grid: [usize; 2], block: u32, shared: u32, arguments: &[u64]) {
        if grid[0] == 0 || grid[1] == 0 || self.failed() {
            return;
        }
        let mut pointers = [ptr::null_mut::<c_void>(); 16];
        for (pointer, argument) in pointers.iter_mut().zip(arguments) {
            *pointer = ptr::from_ref(argument).cast_mut().cast();
        }
        let grid = grid.map(|blocks| u32::try_from(blocks).expect("a grid has fewer than 2^32 blocks"));
        // SAFETY: the kernel's source, kept beside its caller, says which parameters there are; pointers among them are
        // of buffers that are alive, since freeing is queued behind.
        self.call(function.name, |driver| unsafe {
            (driver.cuLaunchKernel)(
                function.handle,
                grid[0],
                grid[1],
                1,
                block,
                1,
                1,
                shared,
                self.stream,
                pointers.as_mut_ptr(),
                ptr::null_mut(),
            )
        });
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        if self.handle.is_null() {
            return;
        }
        let passage = self.passage.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(passage) = passage {
            self.unpin(passage);
        }
        self.enter();
        // SAFETY: the stream and the context are this value's, and what was queued is done first.
        unsafe {
            let _ = (self.driver.cuStreamSynchronize)(self.stream);
            let _ = (self.driver.cuStreamDestroy_v2)(self.stream);
            let _ = (self.driver.cuDevicePrimaryCtxRelease_v2)(self.device);
        }
        CURRENT.set(ptr::null_mut());
    }
}
