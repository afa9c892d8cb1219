//! Frozen projections that are held in four or eight bits: how, and how weights are packed. The bytes are those that
//! bitsandbytes makes of the same weights (`bitsandbytes.functional.quantize_4bit`, `int8_vectorwise_quant`). Products are
//! with weights that are unpacked for them, one projection at a time; of eight bits, bitsandbytes also rounds activations,
//! which is not done here.

use rayon::prelude::*;

use crate::architecture::config::Quantization;
use crate::kernels::{Format, Kernels, Packed, Packing, at_mut, scale_values};

/// A packed tensor, on the host.
#[derive(Debug, Clone, PartialEq)]
pub struct PackedTensor {
    /// Codes, as [`Packed::codes`] has them.
    pub codes: Vec<u8>,
    /// What they are multiplied with.
    pub scales: Scales,
}

/// Scales of a packed tensor.
#[derive(Debug, Clone, PartialEq)]
pub enum Scales {
    /// One for each block or row.
    Plain(Vec<f32>),
    /// Packed themselves.
    Nested {
        /// Codes, one for each block.
        codes: Vec<u8>,
        /// What is added to all of them.
        mean: f32,
        /// What the codes of a block of scales are multiplied with.
        of_blocks: Vec<f32>,
    },
}

impl PackedTensor {
    /// It alone in a buffer, as [`pack`] gives it.
    pub(crate) fn words<K: Kernels>(
        &self,
        kernels: &K,
        quantization: Quantization,
        shape: [usize; 2],
    ) -> (Packed, K::Buffer) {
        let (packed, end) = Packed::new(quantization.packing, shape, quantization.is_nested, 0);
        let mut words = kernels.alloc(Format::F32, end);
        self.put(kernels, packed, &mut words);
        (packed, words)
    }

    /// Puts it into its place.
    pub(crate) fn put<K: Kernels>(&self, kernels: &K, packed: Packed, words: &mut K::Buffer) {
        let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<u32>>();
        kernels.put_words(&to_words(&self.codes), at_mut(words, packed.codes));
        match (&self.scales, packed.nested) {
            (Scales::Nested { codes, mean, of_blocks }, Some(nested)) => {
                kernels.put_words(&to_words(codes), at_mut(words, packed.scales));
                kernels.put_words(&bits(&[*mean]), at_mut(words, nested));
                kernels.put_words(&bits(of_blocks), at_mut(words, nested + 1));
            }
            (Scales::Plain(scales), None) => kernels.put_words(&bits(scales), at_mut(words, packed.scales)),
            _ => unreachable!("scales are packed where the config says so"),
        }
    }
}

/// A tensor that is packed as its elements come.
#[derive(Debug)]
pub(crate) struct Packer {
    packed: Packed,
    /// Elements that are not yet a whole block or row.
    pending: Vec<f32>,
    codes: Vec<u8>,
    scales: Vec<f32>,
}

impl Packer {
    pub(crate) fn new(packed: Packed) -> Self {
        let bytes = 4 * packed.packing.words(packed.len());
        Self { packed, pending: Vec::new(), codes: Vec::with_capacity(bytes), scales: Vec::new() }
    }

    /// Elements that have one scale.
    fn unit(&self) -> usize {
        if self.packed.packing == Packing::Int8 { self.packed.columns } else { Packing::BLOCK }
    }

    /// Takes the next elements.
    pub(crate) fn take(&mut self, values: &[f32]) {
        self.pending.extend_from_slice(values);
        let whole = self.pending.len() / self.unit() * self.unit();
        let rest = self.pending.split_off(whole);
        let units = std::mem::replace(&mut self.pending, rest);
        self.pack(&units);
    }

    fn pack(&mut self, values: &[f32]) {
        let (packing, unit) = (self.packed.packing, self.unit());
        let pack = |unit: &[f32]| match packing {
            Packing::Nf4 | Packing::Fp4 => pack_block(packing, unit),
            Packing::Int8 => pack_row(unit),
        };
        let packed: Vec<(Vec<u8>, f32)> = values.par_chunks(unit).map(pack).collect();
        for (codes, scale) in packed {
            self.codes.extend(codes);
            self.scales.push(scale);
        }
    }

    /// Puts the packed tensor into its place.
    pub(crate) fn finish<K: Kernels>(mut self, kernels: &K, words: &mut K::Buffer) {
        let rest = std::mem::take(&mut self.pending);
        self.pack(&rest);
        let Self { packed, codes, scales, .. } = self;
        let scales = if packed.nested.is_some() {
            let (codes, mean, of_blocks) = pack_scales(&scales);
            Scales::Nested { codes, mean, of_blocks }
        } else {
            Scales::Plain(scales)
        };
        PackedTensor { codes, scales }.put(kernels, packed, words);
    }
}

fn to_words(bytes: &[u8]) -> Vec<u32> {
    let word = |bytes: &[u8]| bytes.iter().rev().fold(0, |word, &byte| word << 8 | u32::from(byte));
    bytes.chunks(4).map(word).collect()
}

fn largest(values: &[f32]) -> f32 {
    values.iter().fold(0.0, |largest, value| value.abs().max(largest))
}

/// The codes of four bits by their values, ascending, and where one value ends and the next begins.
fn levels(packing: Packing) -> ([u8; 16], [f32; 15]) {
    let values = packing.values();
    let mut order: [u8; 16] = std::array::from_fn(|code| code as u8);
    // Zero and minus zero are one value.
    order.sort_by(|&a, &b| values[a as usize].partial_cmp(&values[b as usize]).expect("values are numbers"));
    let bounds = std::array::from_fn(|index| {
        let of = |index: usize| values[order[index] as usize];
        f32::midpoint(of(index), of(index + 1))
    });
    (order, bounds)
}

/// Two codes a byte, and the scale.
fn pack_block(packing: Packing, values: &[f32]) -> (Vec<u8>, f32) {
    let (order, bounds) = levels(packing);
    let scale = largest(values);
    let floor = scale.max(1e-38);
    // A last block that is not whole is divided there, and no other.
    let is_whole = values.len() == Packing::BLOCK;
    let code = |value: &f32| {
        let share = if is_whole { value * (1.0 / floor) } else { value / floor };
        let share = share.clamp(-1.0, 1.0);
        order[bounds.iter().filter(|&&bound| bound < share).count()]
    };
    let pair = |pair: &[f32]| code(&pair[0]) << 4 | pair.get(1).map_or_else(|| code(&0.0), code);
    (values.chunks(2).map(pair).collect(), scale)
}

/// A byte an element, and the scale; as there, of weights that are rounded to float16 first.
fn pack_row(values: &[f32]) -> (Vec<u8>, f32) {
    let halves: Vec<f32> = values.iter().map(|&value| half::f16::from_f32(value).to_f32()).collect();
    let scale = largest(&halves);
    // torch divides a number by a tensor so.
    let factor = if scale > 0.0 { 1.0 / scale * 127.0 } else { 0.0 };
    (halves.iter().map(|value| ((value * factor).round_ties_even() as i8).cast_unsigned()).collect(), scale)
}

/// Codes of scales, their mean, and the scales of their blocks.
fn pack_scales(scales: &[f32]) -> (Vec<u8>, f32, Vec<f32>) {
    let values = scale_values();
    let bounds: Vec<f32> = values.windows(2).map(|pair| f32::midpoint(pair[0], pair[1])).collect();
    let mean = (scales.iter().map(|&scale| f64::from(scale)).sum::<f64>() / scales.len().max(1) as f64) as f32;
    let mut codes = Vec::with_capacity(scales.len());
    let mut of_blocks = Vec::new();
    for block in scales.chunks(Packing::NESTED_BLOCK) {
        let differences: Vec<f32> = block.iter().map(|scale| scale - mean).collect();
        let scale = largest(&differences);
        let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
        let code = |difference: &f32| {
            let share = (difference * inverse).clamp(-1.0, 1.0);
            bounds.partition_point(|&bound| bound < share) as u8
        };
        codes.extend(differences.iter().map(code));
        of_blocks.push(scale);
    }
    (codes, mean, of_blocks)
}

/// Packs a matrix whose elements are all there. Returns where its parts lie, and the words.
pub fn pack<K: Kernels>(
    kernels: &K,
    quantization: Quantization,
    shape: [usize; 2],
    values: &[f32],
) -> (Packed, K::Buffer) {
    let (packed, end) = Packed::new(quantization.packing, shape, quantization.is_nested, 0);
    let mut words = kernels.alloc(Format::F32, end);
    let mut packer = Packer::new(packed);
    packer.take(values);
    packer.finish(kernels, &mut words);
    (packed, words)
}
