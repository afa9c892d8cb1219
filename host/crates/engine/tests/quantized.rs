//! Packed weights against bitsandbytes: `tests/fixtures/parity/quantize.py` wrote what it makes of a matrix.

mod emulator;
mod fixture;

use engine::architecture::config::ModelConfig;
use engine::architecture::config::Quantization;
use engine::kernels::cpu::CpuKernels;
use engine::kernels::{Demands, Format, Kernels, Packing, Precision, Queue as _, at, at_mut, scale_values};
use engine::weights::packed::pack;
use fixture::fixture;
use safetensors::SafeTensors;

struct Expected(Vec<u8>);

impl Expected {
    fn bytes(&self, name: &str) -> Vec<u8> {
        SafeTensors::deserialize(&self.0).unwrap().tensor(name).unwrap().data().to_vec()
    }

    fn floats(&self, name: &str) -> Vec<f32> {
        self.bytes(name).chunks_exact(4).map(|word| f32::from_le_bytes(word.try_into().unwrap())).collect()
    }

    fn shape(&self) -> [usize; 2] {
        let tensors = SafeTensors::deserialize(&self.0).unwrap();
        tensors.tensor("weight").unwrap().shape().try_into().unwrap()
    }
}

fn kinds() -> [(&'static str, Quantization); 4] {
    [
        ("nf4", Quantization { packing: Packing::Nf4, is_nested: false }),
        ("fp4", Quantization { packing: Packing::Fp4, is_nested: false }),
        ("nested", Quantization { packing: Packing::Nf4, is_nested: true }),
        ("int8", Quantization { packing: Packing::Int8, is_nested: false }),
    ]
}

/// The words of a packed matrix as bytes, and what is unpacked from them.
fn packed<K: Kernels>(
    kernels: &K,
    quantization: Quantization,
    expected: &Expected,
) -> (engine::kernels::Packed, Vec<u8>, Vec<f32>) {
    let (place, words) = pack(kernels, quantization, expected.shape(), &expected.floats("weight"));
    let end = place.nested.map_or(place.scales + place.packing.scales(place.rows, place.columns), |nested| {
        nested + 1 + place.packing.scales(place.rows, place.columns).div_ceil(Packing::NESTED_BLOCK)
    });
    let mut all = vec![0.0; end];
    kernels.download(at(&words, 0), &mut all);
    let mut out = kernels.alloc(Format::Working, place.len());
    kernels.unpack(place, &words, at_mut(&mut out, 0));
    let mut values = vec![0.0; place.len()];
    kernels.download(at(&out, 0), &mut values);
    kernels.check().unwrap();
    (place, all.iter().flat_map(|word: &f32| word.to_bits().to_le_bytes()).collect(), values)
}

#[test]
fn bytes_and_values_are_those_of_bitsandbytes() {
    let expected = Expected(std::fs::read(fixture("quantized.safetensors")).unwrap());
    assert_eq!(scale_values().as_slice(), expected.floats("scale_values"));
    for (name, quantization) in kinds() {
        let (place, bytes, values) = packed(&CpuKernels, quantization, &expected);
        let part = |first: usize, len: usize| &bytes[4 * first..4 * first + len];
        let codes = expected.bytes(&format!("{name}/codes"));
        for (index, (found, code)) in part(place.codes, codes.len()).iter().zip(&codes).enumerate() {
            assert_eq!(found, code, "{name}: code {index}");
        }
        let scales = match name {
            "int8" => expected.bytes("int8/scales"),
            _ => expected.bytes(&format!("{name}/absmax")),
        };
        assert!(part(place.scales, scales.len()) == scales, "{name}: scales");
        if let Some(nested) = place.nested {
            // The mean of the scales: torch's sum has another order.
            let word = |first: usize| f32::from_le_bytes(part(first, 4).try_into().unwrap());
            let offset = expected.floats("nested/offset")[0];
            assert!((word(nested) / offset - 1.0).abs() < 2e-7);
            for (index, scale) in expected.floats("nested/absmax2").into_iter().enumerate() {
                assert!((word(nested + 1 + index) / scale - 1.0).abs() < 2e-7);
            }
        }
        for (found, value) in values.iter().zip(expected.floats(&format!("{name}/values"))) {
            assert!((found - value).abs() <= 2e-7 * value.abs(), "{name}: {found} {value}");
        }
    }
}

#[test]
fn a_gpu_unpacks_the_same() {
    let expected = Expected(std::fs::read(fixture("quantized.safetensors")).unwrap());
    for precision in [Precision::F32, Precision::Bf16] {
        let Some(kernels) = emulator::device(precision) else { return };
        let mut config = ModelConfig::from_dir(&fixture("untied")).unwrap();
        config.quantization = Some(kinds()[0].1);
        let demands: Demands = config.demands();
        kernels.prepare(demands).unwrap();
        for (name, quantization) in kinds() {
            let (_, on_cpu, values) = packed(&CpuKernels, quantization, &expected);
            let (_, on_gpu, found) = packed(&kernels, quantization, &expected);
            assert_eq!(on_cpu, on_gpu, "{name}");
            let allowed = if precision == Precision::F32 { 2e-7 } else { 4e-3 };
            for (found, value) in found.iter().zip(&values) {
                assert!((found - value).abs() <= allowed * value.abs(), "{name}: {found} {value}");
            }
        }
    }
}
