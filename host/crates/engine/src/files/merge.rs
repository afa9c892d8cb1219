//! An adapter put into the weights that it was trained beside: a Hugging Face directory with the files, tensors and types of
//! the base model. Tensor by tensor: neither model is ever in memory. Weights that were held in few bits are what those bits
//! stand for, since the adapter has learned beside these.

use std::collections::{BTreeMap, HashMap};
use std::io::Write;
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::{Map, Value, json};

use super::export::{begin_safetensors, write_json};
use crate::EngineError;
use crate::adapter::Lora;
use crate::adapter::lora::Place;
use crate::architecture::config::ModelConfig;
use crate::architecture::tensors::{ExpertKind, ExpertTensor, Role, TensorSpec, name_in_files, name_in_model};
use crate::files::peft::Adapter;
use crate::kernels::cpu::{CpuBuffer, CpuKernels};
use crate::kernels::{Format, Gemm, Memory, TensorOps, at, at_mut};
use crate::weights::packed::{PackedTensor, pack};
use crate::weights::{self, WeightsError, bitsandbytes, map, parse, rows_after, to_f32, width_of};

/// The output projection, which an adapter may make differ from the embedding.
const HEAD: &str = "lm_head.weight";

/// Writes the merged weights, `config.json`, and an index where there are several files. `config` is that of the model that
/// the adapter is of ([`fit`](crate::files::peft::fit)). Returns the files.
///
/// # Errors
/// [`EngineError`] says what is wrong with the base model's files, or names the file that cannot be written, or a tensor that
/// holds no numbers any more.
pub fn merge(
    config: &ModelConfig,
    base: &Path,
    adapter: &Adapter<CpuBuffer>,
    directory: &Path,
) -> Result<Vec<PathBuf>, EngineError> {
    let headers = weights::read_headers(base)?;
    weights::check_headers(base, &headers, config)?;
    let mut config = config.clone();
    let mut given: BTreeMap<&str, &[f32]> =
        adapter.given.iter().map(|(name, values)| (name.as_str(), values.as_slice())).collect();
    if adapter.lora.head().is_some() && config.tie_word_embeddings {
        config.split_head();
        let is_embedding = |spec: &TensorSpec| spec.role == Role::Embedding;
        let embedding = config.parameters().into_iter().find(is_embedding);
        if let Some(&head) = embedding.and_then(|spec| given.get(spec.name.as_str())) {
            given.insert(HEAD, head);
        }
    }
    let specs: BTreeMap<String, TensorSpec> =
        config.parameters().into_iter().map(|spec| (spec.name.clone(), spec)).collect();
    let mut packed: HashMap<String, PackedTensor> = HashMap::new();
    bitsandbytes::load(&headers, &config, &mut |name, tensor| drop(packed.insert(name.to_owned(), tensor)))?;
    let unpacked = unpacked_type(&config);
    let mut files = Vec::new();
    let mut weight_map = Map::new();
    let mut total = 0;
    for source in &headers.files {
        let mapped = map(source)?;
        let tensors = parse(source, &mapped)?;
        let mut entries: Vec<Merged<'_>> = Vec::new();
        let mut names = tensors.names();
        names.sort_unstable();
        for name in names {
            let Some(spec) = specs.get(&name_in_model(name)) else {
                if weights::is_of_another_part(name, &config) {
                    entries.push(Merged { spec: None, source: name });
                }
                continue;
            };
            entries.push(Merged { spec: Some(spec), source: name });
            // The head gets a tensor of its own beside the embedding that it was.
            if let (Role::Embedding, Some(head)) = (spec.role, specs.get(HEAD))
                && config.as_stored().tie_word_embeddings
            {
                entries.push(Merged { spec: Some(head), source: name });
            }
            // So does a head of scores that came with the adapter, in the type of the embedding.
            if spec.role == Role::Embedding && config.scores.is_some_and(|scores| scores.start.is_some()) {
                let of_scores = specs.values().filter(|spec| matches!(spec.role, Role::Score | Role::ScoreBias));
                entries.extend(of_scores.map(|spec| Merged { spec: Some(spec), source: name }));
            }
        }
        let name = source.file_name().unwrap_or_default().to_string_lossy().into_owned();
        weight_map.extend(entries.iter().map(|entry| (entry.name(&config), name.clone().into())));
        let path = directory.join(&name);
        let dtype = |name: &str, own: Dtype| if packed.contains_key(name) { unpacked } else { own };
        total += write(&path, &config, &tensors, &entries, &dtype, &mut |spec, view| {
            let given = match (packed.get(&spec.name), given.get(spec.name.as_str())) {
                (Some(tensor), _) => Given::Packed(tensor),
                (None, Some(values)) => Given::Values(values),
                (None, None) => Given::Nothing,
            };
            Ok(merged(&config, spec, &adapter.lora, given, view))
        })?;
        files.push(path);
    }
    if files.len() > 1 || headers.files[0].file_name().is_some_and(|name| name != "model.safetensors") {
        let index = json!({ "metadata": { "total_size": total }, "weight_map": weight_map });
        files.push(write_json(directory, "model.safetensors.index.json", &index)?);
    }
    let mut raw = config.raw.clone();
    raw.remove("quantization_config");
    files.push(write_json(directory, "config.json", &Value::Object(raw))?);
    Ok(files)
}

/// A tensor of the merged model, and the one of the base model that it is made from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Merged<'a> {
    /// None for a tensor of another part of the model, which is copied.
    pub(super) spec: Option<&'a TensorSpec>,
    pub(super) source: &'a str,
}

impl Merged<'_> {
    /// Its name in the file that is written.
    pub(super) fn name(&self, config: &ModelConfig) -> String {
        self.spec.map_or_else(|| self.source.to_owned(), |spec| name_in_files(config, &spec.name))
    }
}

/// What is known of a tensor's values beside those that its file has as numbers.
#[derive(Debug, Clone, Copy)]
enum Given<'a> {
    Nothing,
    /// These hold instead.
    Values(&'a [f32]),
    /// Its file has it packed.
    Packed(&'a PackedTensor),
}

/// The type of what is unpacked: that of the model before it was packed, as its config says.
fn unpacked_type(config: &ModelConfig) -> Dtype {
    let name = ["dtype", "torch_dtype"].into_iter().find_map(|key| config.raw.get(key)?.as_str());
    match name {
        Some("float32") => Dtype::F32,
        Some("float16") => Dtype::F16,
        _ => Dtype::BF16,
    }
}

/// The values of a tensor with what the adapter adds; none where it adds nothing and the bytes stay.
fn merged(
    config: &ModelConfig,
    spec: &TensorSpec,
    lora: &Lora<CpuBuffer>,
    given: Given<'_>,
    view: &TensorView<'_>,
) -> Option<Vec<f32>> {
    let kernels = CpuKernels;
    let has_new_rows = config.new_rows() > 0 && matches!(spec.role, Role::Embedding | Role::Head);
    let values = || match given {
        Given::Values(values) => values.to_vec(),
        _ => {
            let mut values = to_f32(view.data(), view.dtype());
            if has_new_rows {
                values.extend(rows_after(config, &spec.name, &values));
            }
            values
        }
    };
    let place = match (spec.role, spec.layer) {
        (Role::Linear(kind), Some(layer)) => {
            let unpacked = config.quantization.map(|quantization| {
                let (rows, columns) = kind.shape(config);
                let (packed, words) = match given {
                    Given::Packed(tensor) => tensor.words(&kernels, quantization, [rows, columns]),
                    _ => pack(&kernels, quantization, [rows, columns], &values()),
                };
                let mut out = kernels.alloc(Format::Working, packed.len());
                kernels.unpack(packed, &words, at_mut(&mut out, 0));
                out.as_slice().to_vec()
            });
            match (lora.place(layer, kind), unpacked) {
                (None, unpacked) => return unpacked,
                (Some(place), unpacked) => (place, kind.shape(config), unpacked.unwrap_or_else(values)),
            }
        }
        (Role::Expert(expert, kind), Some(layer)) => {
            let tensor = if kind == ExpertKind::Down { ExpertTensor::Down } else { ExpertTensor::GateUp };
            let (Some(place), Some(experts)) = (lora.expert_place(layer, tensor), config.experts_of(layer)) else {
                return matches!(given, Given::Values(_)).then(values);
            };
            let [rows, columns] = kind.shape(config, experts);
            let first = if kind == ExpertKind::Up { experts.width } else { 0 };
            return Some(merged_expert(&values(), [rows, columns], (expert, experts.count, first), lora, place));
        }
        (Role::Experts(tensor), Some(layer)) => {
            let (Some(place), Some(experts)) = (lora.expert_place(layer, tensor), config.experts_of(layer)) else {
                return matches!(given, Given::Values(_)).then(values);
            };
            let [rows, columns] = tensor.shape(config, experts);
            let all = values();
            let of = |(expert, values)| merged_expert(values, [rows, columns], (expert, experts.count, 0), lora, place);
            return Some(all.chunks_exact(rows * columns).enumerate().flat_map(of).collect());
        }
        (Role::Router, Some(layer)) if lora.router_place(layer).is_some() => {
            (lora.router_place(layer)?, (spec.shape[0], spec.shape[1]), values())
        }
        (Role::Head, _) if lora.head().is_some() => (lora.head()?, (config.vocab_size, config.hidden_size), values()),
        _ => return (has_new_rows || matches!(given, Given::Values(_))).then(values),
    };
    let (Place { a, b, r, scale, magnitude, .. }, (rows, columns), values) = place;
    let mut weight = kernels.alloc(Format::F32, values.len());
    kernels.upload(&values, at_mut(&mut weight, 0));
    // W += s * B A
    let product = Gemm { alpha: scale, ..Gemm::new([rows, columns, r], (false, false), [r, columns, columns], 1.0) };
    kernels.gemm(product, at(&lora.params, b), at(&lora.params, a), at_mut(&mut weight, 0));
    if let Some(magnitude) = magnitude {
        let lengths = &lora.params.as_slice()[magnitude.m..][..rows];
        for (row, &length) in weight.as_mut_slice().chunks_exact_mut(columns).zip(lengths) {
            let norm = row.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt();
            if norm > 0.0 {
                let factor = (f64::from(length) / norm) as f32;
                for value in row {
                    *value *= factor;
                }
            }
        }
    }
    Some(weight.as_slice().to_vec())
}

/// A projection of an expert with what the adapter of all experts adds: `first` is the first row of `B` that is its own.
fn merged_expert(
    values: &[f32],
    [rows, columns]: [usize; 2],
    (expert, experts, first): (usize, usize, usize),
    lora: &Lora<CpuBuffer>,
    Place { a, b, r, scale, .. }: Place,
) -> Vec<f32> {
    let kernels = CpuKernels;
    let of_row = |row: usize| {
        let row = &lora.params.as_slice()[b + (first + row) * r * experts..][..r * experts];
        row.iter().skip(expert).step_by(experts).copied()
    };
    let own: Vec<f32> = (0..rows).flat_map(of_row).collect();
    let [mut weight, mut factor] = [values.len(), own.len()].map(|len| kernels.alloc(Format::F32, len));
    kernels.upload(values, at_mut(&mut weight, 0));
    kernels.upload(&own, at_mut(&mut factor, 0));
    let product = Gemm { alpha: scale, ..Gemm::new([rows, columns, r], (false, false), [r, columns, columns], 1.0) };
    let of_expert = at(&lora.params, a + expert * r * columns);
    kernels.gemm(product, at(&factor, 0), of_expert, at_mut(&mut weight, 0));
    weight.as_slice().to_vec()
}

/// Writes a file of tensors in the types that they had. Returns the bytes of the tensors.
pub(super) fn write(
    path: &Path,
    config: &ModelConfig,
    tensors: &SafeTensors<'_>,
    entries: &[Merged<'_>],
    dtype: &dyn Fn(&str, Dtype) -> Dtype,
    merged: &mut dyn FnMut(&TensorSpec, &TensorView<'_>) -> Result<Option<Vec<f32>>, EngineError>,
) -> Result<u64, EngineError> {
    let failed = |source| EngineError::Write { path: path.to_owned(), source };
    let invalid = |error: safetensors::SafeTensorError| WeightsError::Invalid {
        file: path.to_owned(),
        reason: error.to_string(),
    };
    let mut header = Map::new();
    header.insert("__metadata__".into(), json!({ "format": "pt" }));
    let mut offset = 0;
    for entry in entries {
        let view = tensors.tensor(entry.source).map_err(invalid)?;
        let (dtype, shape, bytes) = match entry.spec {
            None => (view.dtype(), view.shape(), view.data().len()),
            Some(spec) => {
                let dtype = dtype(&spec.name, view.dtype());
                let elements: usize = spec.shape.iter().product();
                (dtype, spec.shape.as_slice(), elements * width_of(dtype).unwrap_or(0))
            }
        };
        let end = offset + bytes;
        let described = json!({ "dtype": format!("{dtype:?}"), "shape": shape, "data_offsets": [offset, end] });
        header.insert(entry.name(config), described);
        offset = end;
    }
    let mut file = begin_safetensors(path, header).map_err(failed)?;
    for Merged { spec, source } in entries {
        let view = tensors.tensor(source).map_err(invalid)?;
        let values = spec.map(|spec| merged(spec, &view)).transpose()?.flatten();
        let Some((spec, values)) = spec.zip(values) else {
            file.write_all(view.data()).map_err(failed)?;
            continue;
        };
        let bytes = to_bytes(&values, dtype(&spec.name, view.dtype()))
            .ok_or_else(|| WeightsError::NotFinite { file: path.to_owned(), name: spec.name.clone() })?;
        file.write_all(&bytes).map_err(failed)?;
    }
    file.flush().map_err(failed)?;
    Ok(offset as u64)
}

/// Little-endian elements of a type that weights have; none where one of them is no number in it.
fn to_bytes(values: &[f32], dtype: Dtype) -> Option<Vec<u8>> {
    let is_finite = |value: &f32| match dtype {
        Dtype::F16 => f16::from_f32(*value).is_finite(),
        Dtype::BF16 => bf16::from_f32(*value).is_finite(),
        _ => value.is_finite(),
    };
    if !values.iter().all(is_finite) {
        return None;
    }
    Some(match dtype {
        Dtype::F16 => values.iter().flat_map(|&value| f16::from_f32(value).to_le_bytes()).collect(),
        Dtype::BF16 => values.iter().flat_map(|&value| bf16::from_f32(value).to_le_bytes()).collect(),
        _ => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
    })
}
