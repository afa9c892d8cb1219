//! The interface of cuDNN's backend: the numbers of its `cudnn_graph.h`, and descriptors, which everything is said with.

use std::ffi::{c_char, c_int, c_void};
use std::ptr;
use std::sync::Arc;

use super::super::symbols::{self, Cudnn as Functions, Status};

/// Kinds of descriptors (`cudnnBackendDescriptorType_t`).
pub(super) mod kind {
    use std::ffi::c_int;

    pub(in super::super) const ENGINE: c_int = 2;
    pub(in super::super) const ENGINE_CONFIG: c_int = 3;
    pub(in super::super) const HEURISTIC: c_int = 4;
    pub(in super::super) const PLAN: c_int = 5;
    pub(in super::super) const GRAPH: c_int = 15;
    pub(in super::super) const VARIANT_PACK: c_int = 16;
    pub(in super::super) const TENSOR: c_int = 17;
    pub(in super::super) const ATTENTION: c_int = 41;
    pub(in super::super) const ATTENTION_BACKWARD: c_int = 43;
    pub(in super::super) const BAND_MASK: c_int = 44;
    pub(in super::super) const SOFTMAX: c_int = 45;
}

/// Attributes (`cudnnBackendAttributeName_t`).
pub(super) mod attribute {
    use std::ffi::c_int;

    pub(in super::super) const HEURISTIC_MODE: c_int = 200;
    pub(in super::super) const HEURISTIC_GRAPH: c_int = 201;
    pub(in super::super) const HEURISTIC_RESULTS: c_int = 202;
    pub(in super::super) const CONFIG_ENGINE: c_int = 300;
    pub(in super::super) const PLAN_HANDLE: c_int = 400;
    pub(in super::super) const PLAN_CONFIG: c_int = 401;
    pub(in super::super) const PLAN_WORKSPACE: c_int = 402;
    pub(in super::super) const GRAPH_HANDLE: c_int = 800;
    pub(in super::super) const GRAPH_OPERATIONS: c_int = 801;
    pub(in super::super) const TENSOR_ALIGNMENT: c_int = 900;
    pub(in super::super) const TENSOR_TYPE: c_int = 901;
    pub(in super::super) const TENSOR_SIZES: c_int = 902;
    pub(in super::super) const TENSOR_STRIDES: c_int = 903;
    pub(in super::super) const TENSOR_ID: c_int = 906;
    pub(in super::super) const TENSOR_VIRTUAL: c_int = 907;
    pub(in super::super) const TENSOR_BY_VALUE: c_int = 908;
    pub(in super::super) const TENSOR_OFFSETS: c_int = 913;
    pub(in super::super) const PACK_IDS: c_int = 1000;
    pub(in super::super) const PACK_POINTERS: c_int = 1001;
    pub(in super::super) const PACK_WORKSPACE: c_int = 1003;
    pub(in super::super) const ENGINE_NOTES: c_int = 1303;
    pub(in super::super) const MASK_IN: c_int = 3000;
    pub(in super::super) const MASK_BAND: c_int = 3005;
    pub(in super::super) const MASK_OUT: c_int = 3006;
    pub(in super::super) const MASK_COMPARISON: c_int = 3007;
    pub(in super::super) const SOFTMAX_IN: c_int = 3100;
    pub(in super::super) const SOFTMAX_OUT: c_int = 3101;
    pub(in super::super) const SOFTMAX_STATS: c_int = 3102;
}

/// Attributes of an operation of attention: they have other numbers in its backward pass.
pub(super) struct Names {
    pub(super) query: c_int,
    pub(super) key: c_int,
    pub(super) value: c_int,
    pub(super) out: c_int,
    pub(super) scale: c_int,
    pub(super) query_lens: c_int,
    pub(super) key_lens: c_int,
    pub(super) graph: c_int,
    pub(super) graph_in: c_int,
    pub(super) graph_out: c_int,
}

pub(super) const FORWARD: Names = Names {
    query: 2800,
    key: 2801,
    value: 2802,
    out: 2803,
    scale: 2805,
    query_lens: 2809,
    key_lens: 2810,
    graph: 2811,
    graph_in: 2812,
    graph_out: 2813,
};
pub(super) const FORWARD_SOFTMAX: c_int = 2814;
pub(super) const BACKWARD: Names = Names {
    query: 2851,
    key: 2852,
    value: 2853,
    out: 2854,
    scale: 2856,
    query_lens: 2857,
    key_lens: 2858,
    graph: 2867,
    graph_in: 2868,
    graph_out: 2869,
};
pub(super) const BACKWARD_STATS: c_int = 2855;
pub(super) const BACKWARD_DQUERY: c_int = 2859;
pub(super) const BACKWARD_DKEY: c_int = 2860;
pub(super) const BACKWARD_DVALUE: c_int = 2861;
pub(super) const BACKWARD_DOUT: c_int = 2862;

/// Types of attributes (`cudnnBackendAttributeType_t`), each with the type of its values.
pub(super) trait Value: Copy {
    const TYPE: c_int;
}

macro_rules! values {
    ($($(#[$documentation:meta])* $name:ident($inner:ty) = $number:literal;)*) => {
        $(
            $(#[$documentation])*
            #[derive(Debug, Clone, Copy)]
            #[repr(transparent)]
            pub(super) struct $name(pub(super) $inner);

            impl Value for $name {
                const TYPE: c_int = $number;
            }
        )*
    };
}

values! {
    /// `cudnnHandle_t`.
    Handle(*mut c_void) = 0;
    /// `cudnnDataType_t`.
    Type(c_int) = 1;
    /// A truth value.
    Flag(bool) = 2;
    /// A number.
    Number(i64) = 3;
    /// An address.
    Address(*mut c_void) = 6;
    /// `cudnnBackendHeurMode_t`.
    Mode(c_int) = 8;
    /// `cudnnBackendNumericalNote_t`.
    Note(c_int) = 11;
    /// `cudnnPointwiseMode_t`.
    Comparison(c_int) = 14;
    /// A descriptor.
    Reference(*mut c_void) = 15;
}

impl Type {
    pub(super) const F32: Self = Self(0);
    pub(super) const I32: Self = Self(4);
    pub(super) const BF16: Self = Self(9);
    pub(super) const I64: Self = Self(10);
}

/// A descriptor of the library, given back when it is dropped.
#[derive(Debug)]
pub(super) struct Descriptor {
    functions: Arc<Functions>,
    pub(super) raw: *mut c_void,
}

// SAFETY: a handle of a library that may be called from any thread; a finished descriptor is only read.
unsafe impl Send for Descriptor {}
// SAFETY: as above.
unsafe impl Sync for Descriptor {}

impl Drop for Descriptor {
    fn drop(&mut self) {
        // SAFETY: made by the library, named by nobody else.
        let _ = unsafe { (self.functions.cudnnBackendDestroyDescriptor)(self.raw) };
    }
}

impl Descriptor {
    pub(super) fn new(functions: &Arc<Functions>, kind: c_int) -> Result<Self, String> {
        let mut raw = ptr::null_mut();
        // SAFETY: writes one pointer.
        let status = unsafe { (functions.cudnnBackendCreateDescriptor)(kind, &raw mut raw) };
        functions.checked("cudnnBackendCreateDescriptor", status)?;
        Ok(Self { functions: Arc::clone(functions), raw })
    }

    pub(super) fn set<T: Value>(&self, attribute: c_int, values: &[T]) -> Result<(), String> {
        let (count, values) = (values.len() as i64, values.as_ptr().cast());
        // SAFETY: reads so many values of the type that it is told.
        let status = unsafe { (self.functions.cudnnBackendSetAttribute)(self.raw, attribute, T::TYPE, count, values) };
        self.functions.checked("cudnnBackendSetAttribute", status)
    }

    pub(super) fn refer(&self, attribute: c_int, other: &Self) -> Result<(), String> {
        self.set(attribute, &[Reference(other.raw)])
    }

    /// Reads up to as many values as there is room for, and says how many there are.
    pub(super) fn get<T: Value>(&self, attribute: c_int, values: &mut [T]) -> Result<usize, String> {
        let (mut found, scratch) = (0, values.len() as i64);
        // SAFETY: writes at most so many values of the type that it is told.
        let status = unsafe {
            let values = values.as_mut_ptr().cast();
            (self.functions.cudnnBackendGetAttribute)(self.raw, attribute, T::TYPE, scratch, &raw mut found, values)
        };
        self.functions.checked("cudnnBackendGetAttribute", status)?;
        Ok((found.max(0) as usize).min(values.len()))
    }

    pub(super) fn finish(self) -> Result<Self, String> {
        // SAFETY: a descriptor with its attributes.
        let status = unsafe { (self.functions.cudnnBackendFinalize)(self.raw) };
        self.functions.checked("cudnnBackendFinalize", status)?;
        Ok(self)
    }
}

impl Functions {
    /// The answer of a call, in the library's words where it failed.
    pub(super) fn checked(&self, call: &str, status: Status) -> Result<(), String> {
        if status.is_success() {
            return Ok(());
        }
        let mut words = [0 as c_char; 512];
        // SAFETY: writes at most so many bytes, the last of which is zero.
        let words = unsafe {
            (self.cudnnGetLastErrorString)(words.as_mut_ptr(), words.len());
            words[words.len() - 1] = 0;
            symbols::text(words.as_ptr())
        };
        let words = words.unwrap_or_default();
        let first = words.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
        Err(format!("{call}: {}{}{first}", self.words(status), if first.is_empty() { "" } else { ": " }))
    }
}
