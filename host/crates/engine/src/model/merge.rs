//! An adapter put into the weights that it was trained beside: a Hugging Face directory with the files, tensors and types of
//! the base model. Tensor by tensor: neither model is ever in memory. Weights that were held in few bits are what those bits
//! stand for, since the adapter has learned beside these.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::{Map, Value, json};

use super::config::ModelConfig;
use super::export::{begin_safetensors, write_json};
use super::quantized::pack;
use super::tensors::{Role, TensorSpec};
use super::weights::{self, WeightsError, map, parse, to_f32};
use crate::EngineError;
use crate::adapter::Lora;
use crate::adapter::lora::Place;
use crate::kernels::cpu::{CpuBuffer, CpuKernels};
use crate::kernels::{Format, Gemm, Kernels, at, at_mut};

/// The output projection, which an adapter may make differ from the embedding.
const HEAD: &str = "lm_head.weight";

/// Writes the merged weights, `config.json`, and an index where there are several files. Returns the files.
///
/// # Errors
/// [`EngineError`] says what is wrong with the base model's files, or names the file that cannot be written, or a tensor that
/// holds no numbers any more.
pub fn merge(
    config: &ModelConfig,
    base: &Path,
    lora: &Lora<CpuBuffer>,
    directory: &Path,
) -> Result<Vec<PathBuf>, EngineError> {
    let headers = weights::read_headers(base)?;
    weights::check_headers(base, &headers, config)?;
    let specs: BTreeMap<String, TensorSpec> =
        config.parameters().into_iter().map(|spec| (spec.name.clone(), spec)).collect();
    // The head gets a tensor of its own beside the embedding that it was.
    let adds_head = lora.head().is_some() && config.tie_word_embeddings;
    let embedding = specs.values().find(|spec| spec.role == Role::Embedding).expect("a model has an embedding");
    let mut files = Vec::new();
    let mut weight_map = Map::new();
    let mut total = 0;
    for source in &headers.files {
        let mapped = map(source)?;
        let tensors = parse(source, &mapped)?;
        let mut entries: Vec<(String, &TensorSpec)> = Vec::new();
        let mut names = tensors.names();
        names.sort_unstable();
        for name in names {
            let Some(spec) = specs.get(name) else { continue };
            entries.push((name.to_owned(), spec));
            if adds_head && spec.role == Role::Embedding {
                entries.push((HEAD.to_owned(), embedding));
            }
        }
        let name = source.file_name().unwrap_or_default().to_string_lossy().into_owned();
        weight_map.extend(entries.iter().map(|(tensor, _)| (tensor.clone(), name.clone().into())));
        let path = directory.join(&name);
        total += write(&path, &tensors, &entries, &mut |entry, view| {
            let spec = if entry == HEAD { specs.get(HEAD).unwrap_or(embedding) } else { &specs[entry] };
            merged(config, spec, entry == HEAD, lora, view)
        })?;
        files.push(path);
    }
    if files.len() > 1 || headers.files[0].file_name().is_some_and(|name| name != "model.safetensors") {
        let index = json!({ "metadata": { "total_size": total }, "weight_map": weight_map });
        files.push(write_json(directory, "model.safetensors.index.json", &index)?);
    }
    let mut raw = config.raw.clone();
    if adds_head {
        raw.insert("tie_word_embeddings".into(), false.into());
    }
    raw.remove("quantization_config");
    files.push(write_json(directory, "config.json", &Value::Object(raw))?);
    Ok(files)
}

/// The values of a tensor with what the adapter adds; none where it adds nothing and the bytes stay.
fn merged(
    config: &ModelConfig,
    spec: &TensorSpec,
    is_head: bool,
    lora: &Lora<CpuBuffer>,
    view: &TensorView<'_>,
) -> Option<Vec<f32>> {
    let kernels = CpuKernels;
    let values = || to_f32(view.data(), view.dtype());
    let place = match (spec.role, spec.layer) {
        (Role::Linear(kind), Some(layer)) => {
            let unpacked = config.quantization.map(|quantization| {
                let (rows, columns) = kind.shape(config);
                let (packed, words) = pack(&kernels, quantization, [rows, columns], &values());
                let mut out = kernels.alloc(Format::Working, packed.len());
                kernels.unpack(packed, &words, at_mut(&mut out, 0));
                out.as_slice().to_vec()
            });
            match (lora.place(layer, kind), unpacked) {
                (None, unpacked) => return unpacked,
                (Some(place), unpacked) => (place, kind.shape(config), unpacked.unwrap_or_else(values)),
            }
        }
        _ if is_head => (lora.head()?, (config.vocab_size, config.hidden_size), values()),
        _ => return None,
    };
    let (Place { a, b, r, scale, magnitude, .. }, (rows, columns), values) = place;
    let mut weight = kernels.alloc(Format::Exact, values.len());
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

/// Writes a file of tensors in the types that they had. Returns the bytes of the tensors.
fn write(
    path: &Path,
    tensors: &SafeTensors<'_>,
    entries: &[(String, &TensorSpec)],
    merged: &mut dyn FnMut(&str, &TensorView<'_>) -> Option<Vec<f32>>,
) -> Result<u64, EngineError> {
    let failed = |source| EngineError::Write { path: path.to_owned(), source };
    let invalid = |error: safetensors::SafeTensorError| WeightsError::Invalid {
        file: path.to_owned(),
        reason: error.to_string(),
    };
    let mut header = Map::new();
    header.insert("__metadata__".into(), json!({ "format": "pt" }));
    let mut offset = 0;
    for (name, spec) in entries {
        // What is added has the values of the tensor that it is made from.
        let view = tensors.tensor(&spec.name).map_err(invalid)?;
        let end = offset + view.data().len();
        let dtype = format!("{:?}", view.dtype());
        header.insert(name.clone(), json!({ "dtype": dtype, "shape": view.shape(), "data_offsets": [offset, end] }));
        offset = end;
    }
    let mut file = begin_safetensors(path, header).map_err(failed)?;
    for (name, spec) in entries {
        let view = tensors.tensor(&spec.name).map_err(invalid)?;
        let Some(values) = merged(name, &view) else {
            file.write_all(view.data()).map_err(failed)?;
            continue;
        };
        let bytes = to_bytes(&values, view.dtype())
            .ok_or_else(|| WeightsError::NotFinite { file: path.to_owned(), name: name.clone() })?;
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
