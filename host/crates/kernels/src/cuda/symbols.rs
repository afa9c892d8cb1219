//! The functions of NVIDIA's libraries that are called, looked up by name in a library that was found at run time. Their
//! signatures are held against cudarc's when this is compiled.

use std::ffi::{CStr, c_char, c_int, c_uchar, c_uint, c_ulonglong, c_void};

use cudarc::cublaslt::sys as lt;
use cudarc::driver::sys as cu;
use cudarc::nvrtc::sys as rtc;
use libloading::Library;

/// What a call answers. Libraries answer with numbers that no header of today knows, so it is no enumeration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
#[must_use]
pub(super) struct Status(u32);

/// The driver's answers are of the same kind.
pub(super) type CUresult = Status;

impl Status {
    pub(super) const SUCCESS: Self = Self(0);

    pub(super) fn is_success(self) -> bool {
        self == Self::SUCCESS
    }
}

impl PartialEq<cu::cudaError_enum> for Status {
    fn eq(&self, other: &cu::cudaError_enum) -> bool {
        self.0 == *other as u32
    }
}

/// As cudarc's, with an answer that may be any number.
#[derive(Clone, Copy)]
#[repr(C)]
#[allow(non_camel_case_types, reason = "NVIDIA's name")]
pub(super) struct cublasLtMatmulHeuristicResult_t {
    pub(super) algo: lt::cublasLtMatmulAlgo_t,
    pub(super) workspace_size: usize,
    pub(super) state: Status,
    pub(super) waves_count: f32,
    pub(super) reserved: [c_int; 4],
}

const _: () = assert!(
    size_of::<cublasLtMatmulHeuristicResult_t>() == size_of::<lt::cublasLtMatmulHeuristicResult_t>(),
    "one layout"
);

/// A table of functions. Those before `=>` have their signature held against that of cudarc, whose answers are enumerations.
macro_rules! table {
    (
        $(#[$documentation:meta])* $table:ident, answers like $theirs:ty, same as $module:ident:
        $($name:ident($($type:ty),*);)*
        => $($other:ident($($other_type:ty),*) -> $answer:ty;)*
    ) => {
        $(#[$documentation])*
        #[derive(Debug)]
        #[allow(non_snake_case, reason = "NVIDIA's names")]
        pub(super) struct $table {
            $(pub(super) $name: unsafe extern "C" fn($($type),*) -> Status,)*
            $(pub(super) $other: unsafe extern "C" fn($($other_type),*) -> $answer,)*
        }

        impl $table {
            /// Looks the functions up.
            ///
            /// # Errors
            /// The loader's words, which name the function that is not there.
            pub(super) fn new(library: &'static Library) -> Result<Self, String> {
                Ok(Self {
                    $($name: symbol(library, concat!(stringify!($name), "\0"))?,)*
                    $($other: symbol(library, concat!(stringify!($other), "\0"))?,)*
                })
            }
        }

        const _: () = {
            $(let _: unsafe fn($($type),*) -> $theirs = $module::$name;)*
        };
    };
}

fn symbol<T: Copy>(library: &Library, name: &str) -> Result<T, String> {
    // SAFETY: the table says what the function is.
    unsafe { library.get::<T>(name) }
        .map(|symbol| *symbol)
        .map_err(|error| format!("{}; a newer version has it", super::library::words(&error)))
}

table! {
    /// libcuda.
    Driver, answers like cu::CUresult, same as cu:
    cuInit(c_uint);
    cuDriverGetVersion(*mut c_int);
    cuDeviceGetCount(*mut c_int);
    cuDeviceGet(*mut cu::CUdevice, c_int);
    cuDeviceGetName(*mut c_char, c_int, cu::CUdevice);
    cuDeviceGetUuid_v2(*mut cu::CUuuid, cu::CUdevice);
    cuDeviceGetAttribute(*mut c_int, cu::CUdevice_attribute, cu::CUdevice);
    cuDeviceTotalMem_v2(*mut usize, cu::CUdevice);
    cuDevicePrimaryCtxRetain(*mut cu::CUcontext, cu::CUdevice);
    cuDevicePrimaryCtxRelease_v2(cu::CUdevice);
    cuCtxSetCurrent(cu::CUcontext);
    cuMemGetInfo_v2(*mut usize, *mut usize);
    cuStreamCreate(*mut cu::CUstream, c_uint);
    cuStreamDestroy_v2(cu::CUstream);
    cuStreamSynchronize(cu::CUstream);
    cuDeviceGetDefaultMemPool(*mut cu::CUmemoryPool, cu::CUdevice);
    cuMemPoolSetAttribute(cu::CUmemoryPool, cu::CUmemPool_attribute, *mut c_void);
    cuMemPoolGetAttribute(cu::CUmemoryPool, cu::CUmemPool_attribute, *mut c_void);
    cuMemAllocAsync(*mut cu::CUdeviceptr, usize, cu::CUstream);
    cuMemFreeAsync(cu::CUdeviceptr, cu::CUstream);
    cuMemsetD8Async(cu::CUdeviceptr, c_uchar, usize, cu::CUstream);
    cuMemcpyDtoDAsync_v2(cu::CUdeviceptr, cu::CUdeviceptr, usize, cu::CUstream);
    cuMemcpyHtoDAsync_v2(cu::CUdeviceptr, *const c_void, usize, cu::CUstream);
    cuMemcpyDtoHAsync_v2(*mut c_void, cu::CUdeviceptr, usize, cu::CUstream);
    cuMemAllocHost_v2(*mut *mut c_void, usize);
    cuMemFreeHost(*mut c_void);
    cuEventCreate(*mut cu::CUevent, c_uint);
    cuEventRecord(cu::CUevent, cu::CUstream);
    cuEventSynchronize(cu::CUevent);
    cuEventDestroy_v2(cu::CUevent);
    cuStreamBeginCapture_v2(cu::CUstream, cu::CUstreamCaptureMode);
    cuStreamEndCapture(cu::CUstream, *mut cu::CUgraph);
    cuGraphInstantiateWithFlags(*mut cu::CUgraphExec, cu::CUgraph, c_ulonglong);
    cuGraphUpload(cu::CUgraphExec, cu::CUstream);
    cuGraphLaunch(cu::CUgraphExec, cu::CUstream);
    cuGraphDestroy(cu::CUgraph);
    cuGraphExecDestroy(cu::CUgraphExec);
    cuModuleLoadData(*mut cu::CUmodule, *const c_void);
    cuModuleGetFunction(*mut cu::CUfunction, cu::CUmodule, *const c_char);
    cuFuncSetAttribute(cu::CUfunction, cu::CUfunction_attribute, c_int);
    cuLaunchKernel(
        cu::CUfunction, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, cu::CUstream, *mut *mut c_void,
        *mut *mut c_void
    );
    =>
    cuGetErrorName(Status, *mut *const c_char) -> Status;
    cuGetErrorString(Status, *mut *const c_char) -> Status;
}

table! {
    /// libnvrtc.
    Nvrtc, answers like rtc::nvrtcResult, same as rtc:
    nvrtcVersion(*mut c_int, *mut c_int);
    nvrtcCreateProgram(
        *mut rtc::nvrtcProgram, *const c_char, *const c_char, c_int, *const *const c_char, *const *const c_char
    );
    nvrtcCompileProgram(rtc::nvrtcProgram, c_int, *const *const c_char);
    nvrtcGetCUBINSize(rtc::nvrtcProgram, *mut usize);
    nvrtcGetCUBIN(rtc::nvrtcProgram, *mut c_char);
    nvrtcGetProgramLogSize(rtc::nvrtcProgram, *mut usize);
    nvrtcGetProgramLog(rtc::nvrtcProgram, *mut c_char);
    nvrtcDestroyProgram(*mut rtc::nvrtcProgram);
    =>
    nvrtcGetErrorString(Status) -> *const c_char;
}

table! {
    /// libcublasLt.
    BlasLt, answers like lt::cublasStatus_t, same as lt:
    cublasLtCreate(*mut lt::cublasLtHandle_t);
    cublasLtDestroy(lt::cublasLtHandle_t);
    cublasLtMatmulDescCreate(*mut lt::cublasLtMatmulDesc_t, lt::cublasComputeType_t, lt::cudaDataType_t);
    cublasLtMatmulDescDestroy(lt::cublasLtMatmulDesc_t);
    cublasLtMatmulDescSetAttribute(
        lt::cublasLtMatmulDesc_t, lt::cublasLtMatmulDescAttributes_t, *const c_void, usize
    );
    cublasLtMatrixLayoutCreate(*mut lt::cublasLtMatrixLayout_t, lt::cudaDataType, u64, u64, i64);
    cublasLtMatrixLayoutDestroy(lt::cublasLtMatrixLayout_t);
    cublasLtMatmulPreferenceCreate(*mut lt::cublasLtMatmulPreference_t);
    cublasLtMatmulPreferenceDestroy(lt::cublasLtMatmulPreference_t);
    cublasLtMatmulPreferenceSetAttribute(
        lt::cublasLtMatmulPreference_t, lt::cublasLtMatmulPreferenceAttributes_t, *const c_void, usize
    );
    cublasLtMatmul(
        lt::cublasLtHandle_t, lt::cublasLtMatmulDesc_t, *const c_void, *const c_void, lt::cublasLtMatrixLayout_t,
        *const c_void, lt::cublasLtMatrixLayout_t, *const c_void, *const c_void, lt::cublasLtMatrixLayout_t,
        *mut c_void, lt::cublasLtMatrixLayout_t, *const lt::cublasLtMatmulAlgo_t, *mut c_void, usize, lt::cudaStream_t
    );
    =>
    cublasLtMatmulAlgoGetHeuristic(
        lt::cublasLtHandle_t, lt::cublasLtMatmulDesc_t, lt::cublasLtMatrixLayout_t, lt::cublasLtMatrixLayout_t,
        lt::cublasLtMatrixLayout_t, lt::cublasLtMatrixLayout_t, lt::cublasLtMatmulPreference_t, c_int,
        *mut cublasLtMatmulHeuristicResult_t, *mut c_int
    ) -> Status;
    cublasLtGetStatusString(Status) -> *const c_char;
    cublasLtGetVersion() -> usize;
}

table! {
    /// libcudnn. cudarc's description of it is left out of this program; NVIDIA's header is `cudnn_graph.h`.
    Cudnn, answers like lt::cublasStatus_t, same as lt:
    =>
    cudnnGetVersion() -> usize;
    cudnnGetCudartVersion() -> usize;
    cudnnGetErrorString(Status) -> *const c_char;
    cudnnGetLastErrorString(*mut c_char, usize) -> ();
    cudnnCreate(*mut *mut c_void) -> Status;
    cudnnDestroy(*mut c_void) -> Status;
    cudnnSetStream(*mut c_void, *mut c_void) -> Status;
    cudnnBackendCreateDescriptor(c_int, *mut *mut c_void) -> Status;
    cudnnBackendDestroyDescriptor(*mut c_void) -> Status;
    cudnnBackendSetAttribute(*mut c_void, c_int, c_int, i64, *const c_void) -> Status;
    cudnnBackendGetAttribute(*mut c_void, c_int, c_int, i64, *mut i64, *mut c_void) -> Status;
    cudnnBackendFinalize(*mut c_void) -> Status;
    cudnnBackendExecute(*mut c_void, *mut c_void, *mut c_void) -> Status;
}

/// A text that a library keeps; none for a null pointer.
///
/// # Safety
/// The pointer is null, or of bytes that end with zero and stay.
pub(super) unsafe fn text(pointer: *const c_char) -> Option<String> {
    // SAFETY: as the caller promised.
    (!pointer.is_null()).then(|| unsafe { CStr::from_ptr(pointer) }.to_string_lossy().into_owned())
}

fn named(status: Status, name: Option<String>) -> String {
    name.map_or_else(|| format!("status {}", status.0), |name| format!("{name} (status {})", status.0))
}

impl Driver {
    /// What an answer means, in the driver's words.
    pub(super) fn words(&self, status: Status) -> String {
        let (mut name, mut words) = (std::ptr::null(), std::ptr::null());
        // SAFETY: each writes a pointer to a text that stays, or null.
        unsafe {
            let _ = (self.cuGetErrorName)(status, &raw mut name);
            let _ = (self.cuGetErrorString)(status, &raw mut words);
            match (text(name), text(words)) {
                (Some(name), Some(words)) => format!("{words} ({name})"),
                (name, words) => named(status, name.or(words)),
            }
        }
    }

    /// The CUDA version that the driver supports, major and minor.
    ///
    /// # Errors
    /// The driver's words.
    pub(super) fn version(&self) -> Result<(u32, u32), String> {
        let mut version = 0;
        // SAFETY: writes one number.
        let status = unsafe { (self.cuDriverGetVersion)(&raw mut version) };
        if !status.is_success() {
            return Err(self.words(status));
        }
        let version = version.unsigned_abs();
        Ok((version / 1000, version % 1000 / 10))
    }
}

impl Nvrtc {
    /// What an answer means, in the library's words.
    pub(super) fn words(&self, status: Status) -> String {
        // SAFETY: the text is the library's and stays.
        named(status, unsafe { text((self.nvrtcGetErrorString)(status)) })
    }

    /// Major and minor.
    pub(super) fn version(&self) -> (u32, u32) {
        let (mut major, mut minor) = (0, 0);
        // SAFETY: writes two numbers.
        let _ = unsafe { (self.nvrtcVersion)(&raw mut major, &raw mut minor) };
        (major.unsigned_abs(), minor.unsigned_abs())
    }
}

impl BlasLt {
    /// What an answer means, in the library's words.
    pub(super) fn words(&self, status: Status) -> String {
        // SAFETY: the text is the library's and stays.
        named(status, unsafe { text((self.cublasLtGetStatusString)(status)) })
    }

    /// Major, minor and patch.
    pub(super) fn version(&self) -> (u32, u32, u32) {
        // SAFETY: takes nothing.
        let version = unsafe { (self.cublasLtGetVersion)() } as u32;

        (version / 10_000, version / 100 % 100, version % 100)
    }
}

impl Cudnn {
    /// What an answer means, in the library's words.
    pub(super) fn words(&self, status: Status) -> String {
        // SAFETY: the text is the library's and stays.
        named(status, unsafe { text((self.cudnnGetErrorString)(status)) })
    }

    /// As the library counts: 91302 is 9.13.2.
    pub(super) fn version(&self) -> usize {
        // SAFETY: takes nothing.
        unsafe { (self.cudnnGetVersion)() }
    }

    /// The major version of CUDA that it is built for, whose libraries it opens by name.
    pub(super) fn major(&self) -> u32 {
        // SAFETY: takes nothing.
        (unsafe { (self.cudnnGetCudartVersion)() } / 1000) as u32
    }
}
