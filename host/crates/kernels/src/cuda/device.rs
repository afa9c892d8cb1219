//! A GPU in use: its context, its libraries, its kernels, and its memory.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use super::blas::{Blas, Operand};
use super::compile::Compiler;
use super::cudnn::Cudnn;
use super::driver::{Context, Function};
use super::modules::{
    Attention, Direction, Elementwise, Embedding, Loader, Loss, Norm, Optimizer, Unpack, precision_defines,
};
use super::plan;
use super::symbols::{BlasLt, Cudnn as CudnnFunctions, Driver, Nvrtc};
use crate::{AttentionShape, DeviceError, Gemm, Packing, Precision, View, ViewMut, scale_values};

/// Threads of a block of elementwise kernels.
pub(super) const THREADS: u32 = 256;
/// Elements that a thread of them takes.
pub(super) const GROUP: usize = 8;
/// Threads of a block of sums.
pub(super) const SUM_THREADS: u32 = 512;
/// Elements of a tile of the optimizer (`optimizer.cu`).
pub(super) const OPTIMIZER_TILE: usize = 4096;
/// The longest rows that a norm's kernels take (`norm.cu`).
pub(super) const LONGEST_NORM: usize = 16_384;
/// Bytes of shared memory that a block of the loss has beside its logits, and what the driver takes for itself.
pub(super) const SHARED_BESIDE: u32 = 1280;

/// The device and all that is loaded for it.
#[derive(Debug)]
pub(super) struct Device {
    pub(super) context: Context,
    pub(super) blas: Blas,
    pub(super) nvrtc: Nvrtc,
    pub(super) cache: Option<PathBuf>,
    pub(super) precision: Precision,
    pub(super) norm: Norm,
    pub(super) direction: Direction,
    pub(super) elementwise: Elementwise,
    pub(super) embedding: Embedding,
    /// For packed weights: the first of them makes it.
    pub(super) unpack: OnceLock<PackedTables>,
    pub(super) loss: Loss,
    pub(super) optimizer: Optimizer,
    /// Its kernels for the shape of heads, and the smallest window of the model.
    pub(super) attention: OnceLock<(AttentionShape, Option<usize>, Attention)>,
    /// cuDNN, where it is there and this device has a use for it.
    pub(super) cudnn_functions: Result<Arc<CudnnFunctions>, String>,
    /// Its attention for the shape of heads, or why there is none.
    pub(super) cudnn: OnceLock<Result<Cudnn, String>>,
    /// A document was long enough for it.
    pub(super) missed_cudnn: AtomicBool,
    /// Room that operations use while they run. They run one after another, so one is enough.
    pub(super) scratch: Mutex<Scratch>,
}

/// Kernels for packed weights, and what codes stand for: of NF4, of FP4, of scales.
#[derive(Debug, Clone, Copy)]
pub(super) struct PackedTables {
    pub(super) kernels: Unpack,
    pub(super) values: u64,
}

impl PackedTables {
    /// Words of the tables before that of a packing, and of scales.
    pub(super) const SCALES: usize = 32;

    pub(super) fn new(device: &Device) -> Result<Self, DeviceError> {
        let kernels = Unpack::load(&device.loader(), &precision_defines(device.precision))?;
        let tables = [Packing::Nf4.values(), Packing::Fp4.values()];
        let values: Vec<f32> = tables.as_flattened().iter().chain(scale_values()).copied().collect();
        let pointer = device.context.alloc(size_of_val(&*values));
        device.context.write(size_of_val(&*values), pointer, |range, bytes| {
            for (bytes, value) in bytes.as_chunks_mut().0.iter_mut().zip(&values[range.start / 4..]) {
                *bytes = value.to_ne_bytes();
            }
        });
        Ok(Self { kernels, values: pointer })
    }
}

/// Device memory that grows.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    pub(super) pointer: u64,
    pub(super) bytes: usize,
}

impl Drop for Device {
    fn drop(&mut self) {
        let Self { context, blas, scratch, cudnn, unpack, .. } = self;
        if let Some(Ok(cudnn)) = cudnn.get_mut() {
            cudnn.close(context);
        }
        let scratch = scratch.get_mut().unwrap_or_else(PoisonError::into_inner);
        context.free(scratch.pointer);
        if let Some(tables) = unpack.get() {
            context.free(tables.values);
        }
        blas.close(context);
    }
}

/// What is opened before a device can be used.
#[derive(Debug)]
pub(super) struct Libraries {
    pub(super) driver: Driver,
    pub(super) nvrtc: Nvrtc,
    pub(super) blas: BlasLt,
    /// Or why it is not used.
    pub(super) cudnn: Result<CudnnFunctions, String>,
}

/// A GPU; clones are the same one.
#[derive(Debug, Clone)]
pub struct CudaKernels(pub(super) Arc<Device>);

/// Memory of a GPU.
#[derive(Debug)]
pub struct CudaBuffer {
    pub(super) device: Arc<Device>,
    pub(super) pointer: u64,
    pub(super) len: usize,
    pub(super) kind: Precision,
}

impl Drop for CudaBuffer {
    fn drop(&mut self) {
        self.device.context.free(self.pointer);
    }
}

impl CudaBuffer {
    /// The address of `len` elements.
    pub(super) fn at(&self, offset: usize, len: usize) -> u64 {
        assert!(
            offset.checked_add(len).is_some_and(|end| end <= self.len),
            "{len} elements from {offset} on are inside a buffer of {}",
            self.len
        );
        self.pointer + (offset * self.kind.bytes()) as u64
    }
}

impl View<'_, CudaBuffer> {
    pub(super) fn pointer(self, len: usize) -> u64 {
        self.buffer.at(self.offset, len)
    }

    pub(super) fn operand(self, len: usize) -> Operand {
        Operand { pointer: self.pointer(len), kind: self.buffer.kind }
    }
}

impl ViewMut<'_, CudaBuffer> {
    pub(super) fn pointer(&self, len: usize) -> u64 {
        self.buffer.at(self.offset, len)
    }

    pub(super) fn operand(&self, len: usize) -> Operand {
        Operand { pointer: self.pointer(len), kind: self.buffer.kind }
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Elements that a pass over pinned memory holds, from its bytes.
pub(super) fn elements(bytes: &std::ops::Range<usize>, kind: Precision) -> std::ops::Range<usize> {
    bytes.start / kind.bytes()..bytes.end / kind.bytes()
}

impl Device {
    pub(super) fn loader(&self) -> Loader<'_> {
        Loader { context: &self.context, compiler: Compiler::new(&self.nvrtc, self.cache.as_deref()) }
    }

    /// Room of at least so many bytes, until the next operation asks for it.
    pub(super) fn scratch(&self, bytes: usize) -> u64 {
        let mut scratch = lock(&self.scratch);
        if bytes > scratch.bytes {
            if self.context.captures() {
                self.context.fail("scratch", "it grows inside of a graph".to_owned());
                return 0;
            }
            self.context.free(scratch.pointer);
            *scratch = Scratch { pointer: self.context.alloc(bytes), bytes };
        }
        scratch.pointer
    }

    pub(super) fn multiprocessors(&self) -> usize {
        self.context.multiprocessors as usize
    }

    /// Launches a kernel of which a thread takes a group of elements of `rows` rows of `width`.
    pub(super) fn by_groups(&self, function: Function, rows: usize, width: usize, arguments: &[u64]) {
        let blocks = (rows * width.div_ceil(GROUP)).div_ceil(THREADS as usize);
        self.context.launch(function, [blocks, 1], THREADS, 0, arguments);
    }

    /// Launches a kernel of which a team takes a row.
    pub(super) fn by_rows(&self, function: Function, n: usize, h: usize, arguments: &[u64]) {
        let threads = plan::norm_threads(h);
        let blocks = if h <= 1024 { n.div_ceil(threads / 32) } else { n };
        self.context.launch(function, [blocks, 1], threads as u32, 0, arguments);
    }

    /// Logits that a block of the loss keeps, and its threads.
    pub(super) fn kept_logits(&self, v: usize) -> (usize, u32) {
        let scratch = (self.context.shared - SHARED_BESIDE) as usize / self.precision.bytes() / 8 * 8;
        let whole = v / 8 * 8;
        if 2 * whole <= scratch { (whole, 512) } else { (whole.min(scratch), 1024) }
    }
}

impl CudaKernels {
    /// Takes device `ordinal` into use: its context, its library for matrices, its kernels, which are compiled for it and
    /// kept in `cache`.
    ///
    /// # Errors
    /// [`DeviceError`]: what the driver or a library says.
    pub(super) fn open(
        libraries: Libraries,
        ordinal: usize,
        precision: Precision,
        cache: Option<PathBuf>,
    ) -> Result<Self, DeviceError> {
        let Libraries { driver, nvrtc, blas, cudnn } = libraries;
        let context = Context::open(driver, ordinal)?;
        if precision == Precision::Bf16 && context.capability < (8, 0) {
            let (major, minor) = context.capability;
            let reason = format!("bf16 needs compute capability 8.0; this device has {major}.{minor}");
            return Err(DeviceError::Unsupported { device: context.name.clone(), reason });
        }
        let loader = Loader { context: &context, compiler: Compiler::new(&nvrtc, cache.as_deref()) };
        let defines = precision_defines(precision);
        let norm = Norm::load(&loader, &defines)?;
        let direction = Direction::load(&loader, &defines)?;
        let elementwise = Elementwise::load(&loader, &defines)?;
        let embedding = Embedding::load(&loader, &defines)?;
        let loss = Loss::load(&loader, &defines)?;
        let optimizer = Optimizer::load(&loader, &defines)?;
        context.allow_shared(loss.cross_entropy, context.shared - SHARED_BESIDE);
        let blas = Blas::new(blas, &context);
        context.check()?;
        Ok(Self(Arc::new(Device {
            context,
            blas,
            nvrtc,
            cache,
            precision,
            norm,
            direction,
            elementwise,
            embedding,
            unpack: OnceLock::new(),
            loss,
            optimizer,
            attention: OnceLock::new(),
            cudnn_functions: cudnn.map(Arc::new),
            cudnn: OnceLock::new(),
            missed_cudnn: AtomicBool::new(false),
            scratch: Mutex::default(),
        })))
    }

    /// As the driver names the device, with its number.
    pub fn name(&self) -> &str {
        &self.0.context.name
    }

    /// Bytes that are free, and all there are.
    pub fn memory(&self) -> (u64, u64) {
        self.0.context.memory()
    }

    /// Streaming multiprocessors.
    pub fn multiprocessors(&self) -> usize {
        self.0.multiprocessors()
    }

    /// What attention of the documents so far that were long enough for cuDNN is computed by, and the reason where it is not
    /// by cuDNN.
    pub fn attention(&self) -> Vec<String> {
        match self.0.cudnn.get() {
            Some(Err(reason)) if self.0.missed_cudnn.load(Ordering::Relaxed) => {
                vec![format!("documents of more than {} tokens: not by cuDNN: {reason}", plan::SHORT)]
            }
            None | Some(Err(_)) => Vec::new(),
            Some(Ok(cudnn)) => cudnn.report(),
        }
    }

    pub(super) fn product(&self, gemm: Gemm, a: Operand, b: Operand, d: Operand, c: Operand) {
        assert!(a.kind == b.kind && c.kind == d.kind, "operands of a product are of one format");
        self.0.blas.product(&self.0.context, gemm, a, b, d, c);
    }
}
