//! Matrix products by cuBLASLt, in bf16 or f32, with f32 sums. How a shape is computed is asked for once.
//!
//! cuBLASLt has columns where this trainer has rows: the bytes of `C [m, n]` are its `C^T [n, m]`, which is
//! `op(B)^T op(A)^T`. So operands change places and sizes, and whether one is transposed stays the same.

use std::collections::HashMap;
use std::ffi::c_void;
use std::ptr;
use std::sync::{Mutex, PoisonError};

use cudarc::cublaslt::sys::{
    cublasComputeType_t, cublasLtHandle_t, cublasLtMatmulAlgo_t, cublasLtMatmulDesc_t,
    cublasLtMatmulDescAttributes_t as Attribute, cublasLtMatmulPreferenceAttributes_t as Preference,
    cublasLtMatrixLayout_t, cudaDataType,
};

use super::driver::Context;
use super::symbols::{BlasLt, Status, cublasLtMatmulHeuristicResult_t};
use crate::{Gemm, Precision};

/// Bytes that a product may use beside its operands: what NVIDIA advises for Hopper.
pub(crate) const WORKSPACE: usize = 32 << 20;
/// Addresses are looked at up to this alignment, in bytes.
const MOST_ALIGNED: u64 = 256;

/// A matrix of a product.
#[derive(Debug, Clone, Copy)]
pub(super) struct Operand {
    pub(super) pointer: u64,
    pub(super) kind: Precision,
}

impl Operand {
    fn alignment(self) -> u32 {
        (1 << self.pointer.trailing_zeros().min(MOST_ALIGNED.trailing_zeros())) as u32
    }
}

/// What a way of computing depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Shape {
    sizes: [usize; 3],
    transposed: [bool; 2],
    leading: [usize; 3],
    kinds: [Precision; 2],
    alignments: [u32; 4],
}

/// A way of computing.
#[derive(Debug, Clone, Copy)]
struct Way {
    description: cublasLtMatmulDesc_t,
    layouts: [cublasLtMatrixLayout_t; 3],
    algorithm: cublasLtMatmulAlgo_t,
}

/// The library, on one device.
#[derive(Debug)]
pub(super) struct Blas {
    library: BlasLt,
    handle: cublasLtHandle_t,
    workspace: u64,
    ways: Mutex<HashMap<Shape, Way>>,
}

// SAFETY: handles of a library that may be called from any thread; ways are made and kept under a lock.
unsafe impl Send for Blas {}
// SAFETY: as above.
unsafe impl Sync for Blas {}

impl Blas {
    pub(super) fn new(library: BlasLt, context: &Context) -> Self {
        let mut handle = ptr::null_mut();
        let workspace = context.alloc(WORKSPACE);
        context.call("cublasLtCreate", |_| {
            // SAFETY: writes one handle; the device's context is current.
            let status = unsafe { (library.cublasLtCreate)(&raw mut handle) };
            note(&library, context, "cublasLtCreate", status);
            Status::SUCCESS
        });
        Self { library, handle, workspace, ways: Mutex::default() }
    }

    /// `c = alpha * op(a) * op(b) + beta * d`.
    pub(super) fn product(&self, context: &Context, gemm: Gemm, a: Operand, b: Operand, d: Operand, c: Operand) {
        if gemm.m == 0 || gemm.n == 0 || context.failed() {
            return;
        }
        let shape = Shape {
            sizes: [gemm.m, gemm.n, gemm.k],
            transposed: [gemm.transpose_a, gemm.transpose_b],
            leading: [gemm.lda, gemm.ldb, gemm.ldc],
            kinds: [a.kind, c.kind],
            alignments: [a, b, d, c].map(Operand::alignment),
        };
        let kept = self.ways.lock().unwrap_or_else(PoisonError::into_inner).get(&shape).copied();
        let Some(way) = kept.or_else(|| self.find(context, shape)) else { return };
        let pointer = |operand: Operand| operand.pointer as *const c_void;
        context.call("cublasLtMatmul", |_| {
            // SAFETY: sizes and strides are those of the caller's matrices; factors are read before the call returns.
            let status = unsafe {
                (self.library.cublasLtMatmul)(
                    self.handle,
                    way.description,
                    (&raw const gemm.alpha).cast(),
                    pointer(b),
                    way.layouts[0],
                    pointer(a),
                    way.layouts[1],
                    (&raw const gemm.beta).cast(),
                    pointer(d),
                    way.layouts[2],
                    c.pointer as *mut c_void,
                    way.layouts[2],
                    &raw const way.algorithm,
                    self.workspace as *mut c_void,
                    WORKSPACE,
                    context.stream().cast(),
                )
            };
            note(&self.library, context, "cublasLtMatmul", status);
            Status::SUCCESS
        });
    }

    /// Asks the library how to compute a shape.
    fn find(&self, context: &Context, shape: Shape) -> Option<Way> {
        let Shape { sizes: [m, n, k], transposed, leading: [lda, ldb, ldc], kinds, alignments } = shape;
        let library = &self.library;
        let check = |call: &str, status: Status| note(library, context, call, status);
        let (mut description, mut preference) = (ptr::null_mut(), ptr::null_mut());
        // SAFETY: every call writes one handle, or reads one value of the type that its attribute has.
        unsafe {
            check(
                "cublasLtMatmulDescCreate",
                (library.cublasLtMatmulDescCreate)(
                    &raw mut description,
                    cublasComputeType_t::CUBLAS_COMPUTE_32F,
                    cudaDataType::CUDA_R_32F,
                ),
            );
            let operand = [
                (Attribute::CUBLASLT_MATMUL_DESC_TRANSA, transposed[1]),
                (Attribute::CUBLASLT_MATMUL_DESC_TRANSB, transposed[0]),
            ];
            for (attribute, transposed) in operand {
                let value = i32::from(transposed);
                let set = library.cublasLtMatmulDescSetAttribute;
                check(
                    "cublasLtMatmulDescSetAttribute",
                    set(description, attribute, (&raw const value).cast(), size_of::<i32>()),
                );
            }
            let layout = |kind: Precision, rows: usize, columns: usize, leading: usize| {
                let mut layout = ptr::null_mut();
                let create = library.cublasLtMatrixLayoutCreate;
                let status = create(&raw mut layout, data_type(kind), rows as u64, columns as u64, leading as i64);
                check("cublasLtMatrixLayoutCreate", status);
                layout
            };
            let of_b = if transposed[1] { (k, n) } else { (n, k) };
            let of_a = if transposed[0] { (m, k) } else { (k, m) };
            let layouts = [
                layout(kinds[0], of_b.0, of_b.1, ldb),
                layout(kinds[0], of_a.0, of_a.1, lda),
                layout(kinds[1], n, m, ldc),
            ];
            check("cublasLtMatmulPreferenceCreate", (library.cublasLtMatmulPreferenceCreate)(&raw mut preference));
            let set = library.cublasLtMatmulPreferenceSetAttribute;
            let most = WORKSPACE;
            let attribute = Preference::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES;
            check(
                "cublasLtMatmulPreferenceSetAttribute",
                set(preference, attribute, (&raw const most).cast(), size_of::<usize>()),
            );
            let [a, b, d, c] = alignments;
            let aligned = [
                (Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, b),
                (Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, a),
                (Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, d),
                (Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, c),
            ];
            for (attribute, bytes) in aligned {
                check(
                    "cublasLtMatmulPreferenceSetAttribute",
                    set(preference, attribute, (&raw const bytes).cast(), size_of::<u32>()),
                );
            }
            if context.failed() {
                return None;
            }
            let mut result = std::mem::zeroed::<cublasLtMatmulHeuristicResult_t>();
            let mut found = 0;
            let status = (library.cublasLtMatmulAlgoGetHeuristic)(
                self.handle,
                description,
                layouts[0],
                layouts[1],
                layouts[2],
                layouts[2],
                preference,
                1,
                &raw mut result,
                &raw mut found,
            );
            let _ = (library.cublasLtMatmulPreferenceDestroy)(preference);
            if found == 0 || !status.is_success() || !result.state.is_success() {
                let reason = format!("no way to compute {shape:?}: {}", library.words(status));
                context.fail("cublasLtMatmulAlgoGetHeuristic", reason);
                return None;
            }
            let way = Way { description, layouts, algorithm: result.algo };
            self.ways.lock().unwrap_or_else(PoisonError::into_inner).insert(shape, way);
            Some(way)
        }
    }

    /// Gives everything back.
    pub(super) fn close(&mut self, context: &Context) {
        for way in self.ways.get_mut().unwrap_or_else(PoisonError::into_inner).drain().map(|(_, way)| way) {
            // SAFETY: handles that nobody names any more.
            unsafe {
                let _ = (self.library.cublasLtMatmulDescDestroy)(way.description);
                for layout in way.layouts {
                    let _ = (self.library.cublasLtMatrixLayoutDestroy)(layout);
                }
            }
        }
        if !self.handle.is_null() {
            // SAFETY: as above.
            let _ = unsafe { (self.library.cublasLtDestroy)(self.handle) };
            self.handle = ptr::null_mut();
        }
        context.free(std::mem::take(&mut self.workspace));
    }
}

fn note(library: &BlasLt, context: &Context, call: &str, status: Status) {
    if !status.is_success() {
        context.fail(call, library.words(status));
    }
}

fn data_type(kind: Precision) -> cudaDataType {
    match kind {
        Precision::F32 => cudaDataType::CUDA_R_32F,
        Precision::Bf16 => cudaDataType::CUDA_R_16BF,
    }
}
