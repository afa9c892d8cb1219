//! Projections that a checkpoint keeps packed, as bitsandbytes and transformers save them: a tensor of codes under the weight's
//! name, and beside it its scales and what they mean. The bytes are taken as they are.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

use super::files::{WeightHeaders, WeightsError, map, parse, to_f32};
use super::packed::{PackedTensor, Scales};
use crate::architecture::config::{ModelConfig, Quantization};
use crate::architecture::tensors::{LinearKind, Role, TensorSpec};
use crate::kernels::{Packing, scale_values};

/// Takes a packed projection, by its name.
pub type PackedSink<'a> = dyn FnMut(&str, PackedTensor) + 'a;

/// What stands beside a weight of four bits, behind its name.
const OF_FOUR_BITS: [&str; 6] = [".absmax", ".quant_map", ".nested_absmax", ".nested_quant_map", STATES[0], STATES[1]];
/// What a table of four bits is called.
const STATES: [&str; 2] = [".quant_state.bitsandbytes__nf4", ".quant_state.bitsandbytes__fp4"];
/// What stands beside a weight of eight bits, in the place of `weight`.
const OF_EIGHT_BITS: [&str; 2] = ["SCB", "weight_format"];
/// Bytes of the text that describes a tensor.
const STATE_BYTES: usize = 4096;

/// Projections that a checkpoint of this config keeps packed.
pub(super) fn specs(config: &ModelConfig) -> Vec<(TensorSpec, LinearKind)> {
    let linear = |spec: TensorSpec| match spec.role {
        Role::Linear(kind) => Some((spec, kind)),
        _ => None,
    };
    let all = if config.stores_packed { config.parameters() } else { Vec::new() };
    all.into_iter().filter_map(linear).collect()
}

/// True for a tensor beside one of the projections.
pub(super) fn is_companion(name: &str, is_packed: impl Fn(&str) -> bool) -> bool {
    OF_FOUR_BITS.iter().any(|end| name.strip_suffix(end).is_some_and(&is_packed))
        || OF_EIGHT_BITS
            .iter()
            .any(|end| name.strip_suffix(end).is_some_and(|start| is_packed(&format!("{start}weight"))))
}

/// Compares the header of a packed projection with what the config asks for.
pub(super) fn check(
    headers: &WeightHeaders,
    spec: &TensorSpec,
    quantization: Quantization,
) -> Result<(), WeightsError> {
    let header = &headers.tensors[&spec.name];
    let (file, name, elements) = (header.file.clone(), spec.name.clone(), spec.shape.iter().product::<usize>());
    let (dtype, expected) = match quantization.packing {
        Packing::Int8 => ("I8", spec.shape.clone()),
        Packing::Nf4 | Packing::Fp4 => ("U8", vec![elements.div_ceil(2), 1]),
    };
    if header.dtype != dtype {
        let reason = format!(
            "`{name}` has type {}; `quantization_config` says that it is packed, as {dtype}; models of which only a part is packed are not read",
            header.dtype
        );
        return Err(WeightsError::Packed { file, reason });
    }
    if header.shape != expected {
        return Err(WeightsError::Shape { file, name, expected, found: header.shape.clone() });
    }
    Ok(())
}

/// Reads the packed projections of a checkpoint.
///
/// # Errors
/// [`WeightsError`] for a file that is not what its config says, and for scales that are not finite.
pub(crate) fn load(
    headers: &WeightHeaders,
    config: &ModelConfig,
    sink: &mut PackedSink<'_>,
) -> Result<(), WeightsError> {
    let (specs, Some(quantization)) = (specs(config), config.quantization) else { return Ok(()) };
    let mapped: Vec<(&PathBuf, Mmap)> =
        headers.files.iter().map(|file| Ok((file, map(file)?))).collect::<Result<_, WeightsError>>()?;
    let files: HashMap<&Path, SafeTensors<'_>> = mapped
        .iter()
        .map(|(file, map)| Ok((file.as_path(), parse(file, map)?)))
        .collect::<Result<_, WeightsError>>()?;
    let source = Source { headers, files };
    for (spec, kind) in specs {
        let (rows, columns) = kind.shape(config);
        let tensor = match quantization.packing {
            Packing::Int8 => source.of_eight_bits(&spec, rows, columns)?,
            Packing::Nf4 | Packing::Fp4 => source.of_four_bits(&spec, quantization)?,
        };
        sink(&spec.name, tensor);
    }
    Ok(())
}

/// The files of a checkpoint.
struct Source<'a> {
    headers: &'a WeightHeaders,
    files: HashMap<&'a Path, SafeTensors<'a>>,
}

impl Source<'_> {
    fn invalid(&self, name: &str, reason: String) -> WeightsError {
        let file = self.headers.tensors.get(name).map(|header| header.file.clone()).unwrap_or_default();
        WeightsError::Packed { file, reason }
    }

    /// The bytes of a tensor that has so many elements of a type.
    fn bytes(&self, weight: &str, name: &str, dtype: Dtype, elements: Option<usize>) -> Result<&[u8], WeightsError> {
        let view = self
            .headers
            .tensors
            .get(name)
            .and_then(|header| self.files.get(header.file.as_path())?.tensor(&header.name).ok());
        let Some(view) = view else {
            return Err(self.invalid(weight, format!("`{weight}` is packed, and there is no `{name}` beside it")));
        };
        let found: usize = view.shape().iter().product();
        if view.dtype() != dtype || elements.is_some_and(|elements| elements != found) {
            let wanted = elements.map_or_else(String::new, |elements| format!(" {elements} elements of"));
            let reason = format!("`{name}` has {found} elements of type {:?}, not{wanted} {dtype:?}", view.dtype());
            return Err(self.invalid(name, reason));
        }
        Ok(view.data())
    }

    fn floats(&self, weight: &str, name: &str, elements: usize) -> Result<Vec<f32>, WeightsError> {
        let values = to_f32(self.bytes(weight, name, Dtype::F32, Some(elements))?, Dtype::F32);
        if values.iter().all(|value| value.is_finite()) {
            return Ok(values);
        }
        let file = self.headers.tensors[name].file.clone();
        Err(WeightsError::NotFinite { file, name: name.to_owned() })
    }

    fn of_four_bits(&self, spec: &TensorSpec, quantization: Quantization) -> Result<PackedTensor, WeightsError> {
        let (weight, elements) = (spec.name.as_str(), spec.shape.iter().product::<usize>());
        let beside = |end: &str| format!("{weight}{end}");
        let (kind, state) = match quantization.packing {
            Packing::Fp4 => ("fp4", beside(STATES[1])),
            _ => ("nf4", beside(STATES[0])),
        };
        let state = self.state(weight, &state)?;
        let number = |key: &str| state.get(key).and_then(Value::as_u64);
        let shape: Option<Vec<usize>> = state
            .get("shape")
            .and_then(Value::as_array)
            .map(|sides| sides.iter().map(|side| side.as_u64().unwrap_or(0) as usize).collect());
        let blocks = [number("blocksize"), number("nested_blocksize").filter(|_| quantization.is_nested)];
        let wanted = [Some(Packing::BLOCK as u64), quantization.is_nested.then_some(Packing::NESTED_BLOCK as u64)];
        if state.get("quant_type").and_then(Value::as_str) != Some(kind)
            || blocks != wanted
            || shape.as_ref() != Some(&spec.shape)
        {
            let reason = format!(
                "`{weight}` is packed otherwise than `quantization_config` and `config.json` say, or in blocks of another size: {}",
                Value::Object(state)
            );
            return Err(self.invalid(weight, reason));
        }
        let table = self.floats(weight, &beside(".quant_map"), 16)?;
        if table != quantization.packing.values() {
            return Err(self.invalid(weight, format!("`{}` is not the table of {kind}", beside(".quant_map"))));
        }
        let codes = self.bytes(weight, weight, Dtype::U8, Some(elements.div_ceil(2)))?.to_vec();
        let count = quantization.packing.scales(1, elements);
        if !quantization.is_nested {
            let scales = Scales::Plain(self.floats(weight, &beside(".absmax"), count)?);
            return Ok(PackedTensor { codes, scales });
        }
        let tables = self.floats(weight, &beside(".nested_quant_map"), 256)?;
        if tables != scale_values() {
            let reason = format!("`{}` is another table than that of bitsandbytes", beside(".nested_quant_map"));
            return Err(self.invalid(weight, reason));
        }
        let mean = state.get("nested_offset").and_then(Value::as_f64).map(|mean| mean as f32);
        let Some(mean) = mean.filter(|mean| mean.is_finite()) else {
            return Err(self.invalid(weight, format!("`{weight}` has no `nested_offset`")));
        };
        let blocks = count.div_ceil(Packing::NESTED_BLOCK);
        let scales = Scales::Nested {
            codes: self.bytes(weight, &beside(".absmax"), Dtype::U8, Some(count))?.to_vec(),
            mean,
            of_blocks: self.floats(weight, &beside(".nested_absmax"), blocks)?,
        };
        Ok(PackedTensor { codes, scales })
    }

    /// What a tensor says of itself.
    fn state(&self, weight: &str, name: &str) -> Result<serde_json::Map<String, Value>, WeightsError> {
        let bytes = self.bytes(weight, name, Dtype::U8, None)?;
        let text = Some(bytes).filter(|bytes| bytes.len() <= STATE_BYTES).unwrap_or_default();
        serde_json::from_slice(text).map_err(|error| self.invalid(name, format!("`{name}` is no description: {error}")))
    }

    fn of_eight_bits(&self, spec: &TensorSpec, rows: usize, columns: usize) -> Result<PackedTensor, WeightsError> {
        let weight = spec.name.as_str();
        let beside = |end: &str| format!("{}{end}", weight.trim_end_matches("weight"));
        let format = beside("weight_format");
        if self.headers.tensors.contains_key(&format) && self.bytes(weight, &format, Dtype::U8, Some(1))? != [0] {
            return Err(self.invalid(&format, format!("`{format}` says that rows are not in their order")));
        }
        let codes = self.bytes(weight, weight, Dtype::I8, Some(rows * columns))?.to_vec();
        Ok(PackedTensor { codes, scales: Scales::Plain(self.floats(weight, &beside("SCB"), rows)?) })
    }
}
