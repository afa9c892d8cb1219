//! Memory of a GPU.

use std::sync::Arc;

use half::bf16;

use crate::cuda::device::{CudaBuffer, CudaKernels, elements};
use crate::{Format, Memory, Precision, View, ViewMut, at};

impl Memory for CudaKernels {
    type Buffer = CudaBuffer;

    fn alloc(&self, format: Format, len: usize) -> CudaBuffer {
        let kind = if format == Format::F32 { Precision::F32 } else { self.0.precision };
        let bytes = len * kind.bytes();
        let pointer = self.0.context.alloc(bytes);
        self.0.context.zero(pointer, bytes);
        CudaBuffer { device: Arc::clone(&self.0), pointer, len, kind }
    }

    fn bytes(&self, buffer: &CudaBuffer) -> u64 {
        (buffer.len * buffer.kind.bytes()) as u64
    }

    fn upload(&self, source: &[f32], target: ViewMut<'_, CudaBuffer>) {
        let (to, kind) = (target.pointer(source.len()), target.buffer.kind);
        self.0.context.write(source.len() * kind.bytes(), to, |range, bytes| {
            let values = &source[elements(&range, kind)];
            match kind {
                Precision::F32 => {
                    for (bytes, value) in bytes.as_chunks_mut().0.iter_mut().zip(values) {
                        *bytes = value.to_ne_bytes();
                    }
                }
                Precision::Bf16 => {
                    for (bytes, &value) in bytes.as_chunks_mut().0.iter_mut().zip(values) {
                        *bytes = bf16::from_f32(value).to_ne_bytes();
                    }
                }
            }
        });
    }

    fn put_words(&self, source: &[u32], target: ViewMut<'_, CudaBuffer>) {
        assert_eq!(target.buffer.kind, Precision::F32, "words are put into f32 buffers");
        let to = target.pointer(source.len());
        self.0.context.write(size_of_val(source), to, |range, bytes| {
            for (bytes, word) in bytes.as_chunks_mut().0.iter_mut().zip(&source[range.start / 4..]) {
                *bytes = word.to_ne_bytes();
            }
        });
    }

    fn download(&self, source: View<'_, CudaBuffer>, target: &mut [f32]) {
        let (from, kind) = (source.pointer(target.len()), source.buffer.kind);
        self.0.context.read(from, target.len() * kind.bytes(), |range, bytes| {
            let values = &mut target[elements(&range, kind)];
            match kind {
                Precision::F32 => {
                    for (&bytes, value) in bytes.as_chunks().0.iter().zip(values) {
                        *value = f32::from_ne_bytes(bytes);
                    }
                }
                Precision::Bf16 => {
                    for (&bytes, value) in bytes.as_chunks().0.iter().zip(values) {
                        *value = bf16::from_ne_bytes(bytes).to_f32();
                    }
                }
            }
        });
    }

    fn copy(&self, len: usize, source: View<'_, CudaBuffer>, target: ViewMut<'_, CudaBuffer>) {
        let kind = source.buffer.kind;
        assert_eq!(kind, target.buffer.kind, "a copy is between buffers of one format");
        self.0.context.copy(source.pointer(len), target.pointer(len), len * kind.bytes());
    }

    fn copy_within(&self, len: usize, buffer: &mut CudaBuffer, source: usize, target: usize) {
        assert!(source + len <= target || target + len <= source, "a copy is between places apart");
        let from = at(buffer, source).pointer(len);
        let bytes = len * buffer.kind.bytes();
        self.0.context.copy(from, at(buffer, target).pointer(len), bytes);
    }

    fn zero(&self, len: usize, target: ViewMut<'_, CudaBuffer>) {
        self.0.context.zero(target.pointer(len), len * target.buffer.kind.bytes());
    }
}
