//! Weights from the few bits that they are packed in.

use super::simd::{Shared, parallel_rows};
use crate::{Packed, Packing, scale_values};

/// Words are bits in the place of f32s: no arithmetic ever sees them as numbers.
fn byte(words: &[f32], first: usize, index: usize) -> u8 {
    words[first + index / 4].to_bits().to_le_bytes()[index % 4]
}

/// The scale of a block or row.
fn scale(packed: Packed, words: &[f32], index: usize) -> f32 {
    match packed.nested {
        None => words[packed.scales + index],
        Some(nested) => {
            let code = byte(words, packed.scales, index);
            scale_values()[code as usize] * words[nested + 1 + index / Packing::NESTED_BLOCK] + words[nested]
        }
    }
}

pub(super) fn unpack(packed: Packed, words: &[f32], out: &mut [f32]) {
    match packed.packing {
        Packing::Nf4 | Packing::Fp4 => unpack_blocks(packed, words, out),
        Packing::Int8 => unpack_rows(packed, words, out),
    }
}

fn unpack_blocks(packed: Packed, words: &[f32], out: &mut [f32]) {
    const WORDS: usize = Packing::BLOCK / 8;
    let (len, values) = (out.len(), packed.packing.values());
    let out = Shared::new(out);
    parallel_rows(len.div_ceil(Packing::BLOCK), Packing::BLOCK, |first, last| {
        for block in first..last {
            let start = block * Packing::BLOCK;
            // SAFETY: each block belongs to one thread.
            let out = unsafe { out.slice(start, Packing::BLOCK.min(len - start)) };
            let codes = &words[packed.codes + block * WORDS..][..out.len().div_ceil(8)];
            let scale = scale(packed, words, block);
            let table = values.map(|value| value * scale);
            look_up(&table, codes, out);
        }
    });
}

/// Elements by their codes.
fn look_up(table: &[f32; 16], codes: &[f32], out: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    if out.len() == Packing::BLOCK && super::simd::level() == 2 {
        // SAFETY: `level` found these instructions on this machine, and there are eight words and 64 places.
        return unsafe { look_up_block(table, codes.as_ptr(), out.as_mut_ptr()) };
    }
    for (word, out) in codes.iter().zip(out.chunks_mut(8)) {
        for (index, out) in out.iter_mut().enumerate() {
            *out = table[(word.to_bits() >> shift(index)) as usize & 15];
        }
    }
}

/// Bits of a word below the code of its element `index`: of two in a byte, the first has the upper half.
const fn shift(index: usize) -> u32 {
    (index as u32 ^ 1) * 4
}

/// A block of 64 at once: two words at a time, each spread to eight lanes and shifted to its element's code.
///
/// # Safety
/// The machine has AVX-512; `codes` is eight words, `out` 64 elements.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw,avx2")]
unsafe fn look_up_block(table: &[f32; 16], codes: *const f32, out: *mut f32) {
    use std::arch::x86_64::{
        _mm512_loadu_ps, _mm512_permutexvar_epi32, _mm512_permutexvar_ps, _mm512_set_epi32, _mm512_set1_epi64,
        _mm512_srlv_epi32, _mm512_storeu_ps,
    };
    // SAFETY: `table` has sixteen elements.
    let table = unsafe { _mm512_loadu_ps(table.as_ptr()) };
    let shifts = _mm512_set_epi32(24, 28, 16, 20, 8, 12, 0, 4, 24, 28, 16, 20, 8, 12, 0, 4);
    let spread = _mm512_set_epi32(1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0);
    for pair in 0..Packing::BLOCK / 16 {
        // SAFETY: two of the eight words.
        let words = unsafe { codes.add(2 * pair).cast::<i64>().read_unaligned() };
        let codes = _mm512_srlv_epi32(_mm512_permutexvar_epi32(spread, _mm512_set1_epi64(words)), shifts);
        // Only the lowest four bits of an index are looked at. SAFETY: sixteen of the 64 places.
        unsafe { _mm512_storeu_ps(out.add(16 * pair), _mm512_permutexvar_ps(codes, table)) };
    }
}

fn unpack_rows(packed: Packed, words: &[f32], out: &mut [f32]) {
    let columns = packed.columns;
    let out = Shared::new(out);
    parallel_rows(packed.rows, columns, |first, last| {
        for row in first..last {
            // As bitsandbytes' `int8_vectorwise_dequant`.
            let scale = scale(packed, words, row) * INT8_UNIT;
            // SAFETY: each row belongs to one thread.
            let out = unsafe { out.slice(row * columns, columns) };
            for (column, out) in out.iter_mut().enumerate() {
                *out = f32::from(byte(words, packed.codes, row * columns + column).cast_signed()) * scale;
            }
        }
    });
}

/// `1 / 127` as torch has it.
const INT8_UNIT: f32 = 7.874_016e-3;
