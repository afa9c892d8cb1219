//! An NVIDIA GPU. The driver, the compiler and the matrix library are found and opened at run time; nothing of CUDA is
//! linked. Kernels are in `source`, compiled for the device at hand.
//!
//! One stream, and no waiting but where numbers go back to the host. Nothing in it depends on timing: the same inputs on
//! the same device give the same bits.

mod attention;
mod blas;
mod compile;
mod cudnn;
mod driver;
pub mod library;
pub mod nvml;
mod operations;
pub(super) mod plan;
mod repeat;
mod rows;
mod symbols;
pub mod system;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

pub(super) use blas::WORKSPACE;
use blas::{Blas, Operand};
use compile::{Compiler, Source};
use cudnn::Cudnn;
use driver::{Context, Function, float, word};
pub use repeat::CudaRepeats;
pub use rows::CudaRows;
use rows::Feeder;
use symbols::{BlasLt, Cudnn as CudnnFunctions, Driver, Nvrtc};

use super::{
    Activation, AdamState, AdamStep, AttentionShape, Demands, DeviceError, DropoutKey, Format, Gemm, Head, Kernels,
    LossGradients, Norm as NormShape, Packed, Packing, Precision, Rotation, Rows, Scaled, Segment, Totals, Usage, View,
    ViewMut, extent,
};

/// Threads of a block of elementwise kernels.
const THREADS: u32 = 256;
/// Elements that a thread of them takes.
const GROUP: usize = 8;
/// Threads of a block of sums.
const SUM_THREADS: u32 = 512;
/// Elements of a tile of the optimizer (`optimizer.cu`).
const OPTIMIZER_TILE: usize = 4096;
/// The longest rows that a norm's kernels take (`norm.cu`).
const LONGEST_NORM: usize = 16_384;
/// Bytes of shared memory that a block of the loss has beside its logits, and what the driver takes for itself.
const SHARED_BESIDE: u32 = 1280;

/// A source with its kernels, by name.
macro_rules! kernels {
    ($(#[$documentation:meta])* $table:ident of $file:literal: $($kernel:ident),*) => {
        $(#[$documentation])*
        #[derive(Debug, Clone, Copy)]
        #[allow(clippy::struct_field_names, reason = "kernels are named in their sources")]
        struct $table {
            $($kernel: Function,)*
        }

        impl $table {
            const SOURCE: Source = Source {
                name: $file,
                text: include_str!(concat!("source/", $file)),
                kernels: &[$(stringify!($kernel)),*],
            };

            fn load(device: &Loader<'_>, defines: &[String]) -> Result<Self, DeviceError> {
                let [$($kernel),*] = device.load(&Self::SOURCE, defines)?;
                Ok(Self { $($kernel),* })
            }
        }
    };
}

kernels! {
    /// Norms.
    Norm of "norm.cu": rmsnorm, rmsnorm_again, rmsnorm_backward, rmsnorm_weight_gradient
}
kernels! {
    /// Lengths of rows, and columns scaled by them.
    Direction of "direction.cu": row_norms, add_scaled, add_scaled_backward
}
kernels! {
    /// Loops over rows and elements.
    Elementwise of "elementwise.cu":
        rope, glu, glu_backward, scale, copy_columns, dropout, gather_rows, scatter_rows
}
kernels! {
    /// The embedding.
    Embedding of "embedding.cu": embed, embed_backward, embed_backward_finish
}
kernels! {
    /// Packed weights.
    Unpack of "packed.cu": unpack_4bit, unpack_8bit
}
kernels! {
    /// Losses.
    Loss of "cross_entropy.cu": cross_entropy, add_loss
}
kernels! {
    /// Gradient norm, clipping, AdamW.
    Optimizer of "optimizer.cu": sum_of_squares, sum_of_squares_finish, clip, adamw
}
kernels! {
    /// Attention, for one shape of heads.
    Attention of "attention.cu":
        attention, attention_delta, attention_backward_keys, attention_backward_queries, append, attention_cached
}

/// Every source, with the definitions that it is compiled with for a model of some shape.
#[cfg(test)]
fn sources(precision: Precision, shape: AttentionShape) -> Vec<(Source, Vec<String>)> {
    let common = precision_defines(precision);
    let attention = attention_defines(precision, shape);
    let plain = [
        Norm::SOURCE,
        Direction::SOURCE,
        Elementwise::SOURCE,
        Embedding::SOURCE,
        Unpack::SOURCE,
        Loss::SOURCE,
        Optimizer::SOURCE,
    ];
    let mut sources: Vec<_> = plain.into_iter().map(|source| (source, common.clone())).collect();
    sources.push((Attention::SOURCE, attention));
    sources
}

fn precision_defines(precision: Precision) -> Vec<String> {
    if precision == Precision::Bf16 { vec!["-DREAL_BF16".into()] } else { Vec::new() }
}

fn attention_defines(precision: Precision, shape: AttentionShape) -> Vec<String> {
    let AttentionShape { heads, kv_heads, head_dim, cap, .. } = shape;
    let mut defines = precision_defines(precision);
    defines
        .extend([("HEAD_DIM", head_dim), ("HEADS", heads), ("KV_HEADS", kv_heads)].map(|(n, v)| format!("-D{n}={v}")));
    defines.extend(cap.map(|cap| format!("-DSCORE_CAP={cap:?}f")));
    defines
}

/// Compiles and loads sources.
struct Loader<'a> {
    context: &'a Context,
    compiler: Compiler<'a>,
}

impl Loader<'_> {
    fn load<const N: usize>(&self, source: &Source, defines: &[String]) -> Result<[Function; N], DeviceError> {
        let image = self.compiler.compile(source, self.context.capability, defines)?;
        let functions = self.context.module(&image, source.kernels)?;
        Ok(functions.try_into().expect("as many functions as names"))
    }
}

/// The device and all that is loaded for it.
#[derive(Debug)]
struct Device {
    context: Context,
    blas: Blas,
    nvrtc: Nvrtc,
    cache: Option<PathBuf>,
    precision: Precision,
    norm: Norm,
    direction: Direction,
    elementwise: Elementwise,
    embedding: Embedding,
    /// For packed weights: the first of them makes it.
    unpack: OnceLock<PackedTables>,
    loss: Loss,
    optimizer: Optimizer,
    /// Its kernels for the shape of heads, and the smallest window of the model.
    attention: OnceLock<(AttentionShape, Option<usize>, Attention)>,
    /// cuDNN, where it is there and this device has a use for it.
    cudnn_functions: Result<Arc<CudnnFunctions>, String>,
    /// Its attention for the shape of heads, or why there is none.
    cudnn: OnceLock<Result<Cudnn, String>>,
    /// A document was long enough for it.
    missed_cudnn: AtomicBool,
    /// Room that operations use while they run. They run one after another, so one is enough.
    room: Mutex<Room>,
}

/// Kernels for packed weights, and what codes stand for: of NF4, of FP4, of scales.
#[derive(Debug, Clone, Copy)]
struct PackedTables {
    kernels: Unpack,
    values: u64,
}

impl PackedTables {
    /// Words of the tables before that of a packing, and of scales.
    const SCALES: usize = 32;

    fn new(device: &Device) -> Result<Self, DeviceError> {
        let kernels = Unpack::load(&device.loader(), &precision_defines(device.precision))?;
        let tables = [Packing::Nf4.values(), Packing::Fp4.values()];
        let values: Vec<f32> = tables.as_flattened().iter().chain(super::scale_values()).copied().collect();
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
struct Room {
    pointer: u64,
    bytes: usize,
}

impl Drop for Device {
    fn drop(&mut self) {
        let Self { context, blas, room, cudnn, unpack, .. } = self;
        if let Some(Ok(cudnn)) = cudnn.get_mut() {
            cudnn.close(context);
        }
        let room = room.get_mut().unwrap_or_else(PoisonError::into_inner);
        context.free(room.pointer);
        if let Some(tables) = unpack.get() {
            context.free(tables.values);
        }
        blas.close(context);
    }
}

/// What is opened before a device can be used.
#[derive(Debug)]
struct Libraries {
    driver: Driver,
    nvrtc: Nvrtc,
    blas: BlasLt,
    /// Or why it is not used.
    cudnn: Result<CudnnFunctions, String>,
}

/// A GPU; clones are the same one.
#[derive(Debug, Clone)]
pub struct CudaKernels(Arc<Device>);

/// Memory of a GPU.
#[derive(Debug)]
pub struct CudaBuffer {
    device: Arc<Device>,
    pointer: u64,
    len: usize,
    kind: Precision,
}

impl Drop for CudaBuffer {
    fn drop(&mut self) {
        self.device.context.free(self.pointer);
    }
}

impl CudaBuffer {
    /// The address of `len` elements.
    fn at(&self, offset: usize, len: usize) -> u64 {
        assert!(
            offset.checked_add(len).is_some_and(|end| end <= self.len),
            "{len} elements from {offset} on are inside a buffer of {}",
            self.len
        );
        self.pointer + (offset * self.kind.bytes()) as u64
    }
}

impl View<'_, CudaBuffer> {
    fn pointer(self, len: usize) -> u64 {
        self.buffer.at(self.offset, len)
    }

    fn operand(self, len: usize) -> Operand {
        Operand { pointer: self.pointer(len), kind: self.buffer.kind }
    }
}

impl ViewMut<'_, CudaBuffer> {
    fn pointer(&self, len: usize) -> u64 {
        self.buffer.at(self.offset, len)
    }

    fn operand(&self, len: usize) -> Operand {
        Operand { pointer: self.pointer(len), kind: self.buffer.kind }
    }
}

/// Sums on the device: the loss and the squares in f64, the factor of the gradients, and whether the squares are finite.
#[derive(Debug)]
pub struct CudaTally {
    device: Arc<Device>,
    pointer: u64,
}

impl CudaTally {
    const BYTES: usize = 24;

    fn loss(&self) -> u64 {
        self.pointer
    }

    fn squares(&self) -> u64 {
        self.pointer + 8
    }
}

impl Drop for CudaTally {
    fn drop(&mut self) {
        self.device.context.free(self.pointer);
    }
}

/// Segments on the device, cut into tiles, and the constants of the step that is next.
#[derive(Debug)]
pub struct CudaSegments {
    device: Arc<Device>,
    /// Segments, tiles, constants.
    block: u64,
    tiles: usize,
    tiles_at: u64,
    step_at: u64,
    feeder: Mutex<Feeder>,
}

impl Drop for CudaSegments {
    fn drop(&mut self) {
        let context = &self.device.context;
        self.feeder.get_mut().unwrap_or_else(PoisonError::into_inner).close(context);
        context.free(self.block);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Elements that a pass over pinned memory holds, from its bytes.
fn elements(bytes: &std::ops::Range<usize>, kind: Precision) -> std::ops::Range<usize> {
    bytes.start / kind.bytes()..bytes.end / kind.bytes()
}

impl Device {
    fn loader(&self) -> Loader<'_> {
        Loader { context: &self.context, compiler: Compiler::new(&self.nvrtc, self.cache.as_deref()) }
    }

    /// Room of at least so many bytes, until the next operation asks for it.
    fn room(&self, bytes: usize) -> u64 {
        let mut room = lock(&self.room);
        if bytes > room.bytes {
            if self.context.captures() {
                self.context.fail("room", "it grows inside of a graph".to_owned());
                return 0;
            }
            self.context.free(room.pointer);
            *room = Room { pointer: self.context.alloc(bytes), bytes };
        }
        room.pointer
    }

    fn multiprocessors(&self) -> usize {
        self.context.multiprocessors as usize
    }

    /// Launches a kernel of which a thread takes a group of elements of `rows` rows of `width`.
    fn by_groups(&self, function: Function, rows: usize, width: usize, arguments: &[u64]) {
        let blocks = (rows * width.div_ceil(GROUP)).div_ceil(THREADS as usize);
        self.context.launch(function, [blocks, 1], THREADS, 0, arguments);
    }

    /// Launches a kernel of which a team takes a row.
    fn by_rows(&self, function: Function, n: usize, h: usize, arguments: &[u64]) {
        let threads = plan::norm_threads(h);
        let blocks = if h <= 1024 { n.div_ceil(threads / 32) } else { n };
        self.context.launch(function, [blocks, 1], threads as u32, 0, arguments);
    }

    /// Logits that a block of the loss keeps, and its threads.
    fn kept_logits(&self, v: usize) -> (usize, u32) {
        let room = (self.context.shared - SHARED_BESIDE) as usize / self.precision.bytes() / 8 * 8;
        let whole = v / 8 * 8;
        if 2 * whole <= room { (whole, 512) } else { (whole.min(room), 1024) }
    }
}

impl CudaKernels {
    /// Takes device `ordinal` into use: its context, its library for matrices, its kernels, which are compiled for it and
    /// kept in `cache`.
    ///
    /// # Errors
    /// [`DeviceError`]: what the driver or a library says.
    fn open(
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
            room: Mutex::default(),
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

    /// Attention's kernels for a shape, which [`Kernels::prepare`] has compiled.
    fn launches(&self, shape: AttentionShape, window: Option<usize>) -> Option<attention::Launches<'_>> {
        let device = &*self.0;
        match device.attention.get() {
            Some(&(prepared, _, kernels)) if prepared == shape => {
                Some(attention::Launches { device, kernels, shape, window })
            }
            _ => {
                device.context.fail("attention", format!("it was not prepared for {shape:?}"));
                None
            }
        }
    }

    fn product(&self, gemm: Gemm, a: Operand, b: Operand, d: Operand, c: Operand) {
        assert!(a.kind == b.kind && c.kind == d.kind, "operands of a product are of one format");
        self.0.blas.product(&self.0.context, gemm, a, b, d, c);
    }
}
