//! The weights of a checkpoint, held against a config and handed on a piece at a time.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use safetensors::tensor::TensorView;
use sha2::{Digest as _, Sha256};

use super::bitsandbytes::{self, PackedSink};
use super::complete::Completed;
use super::files::{
    PIECE, Sink, TensorHeader, WeightHeaders, WeightSource, WeightsError, give_back, map, parse, read_headers, to_f32,
    weight_files, width_of,
};
use super::twice;
use crate::architecture::config::ModelConfig;
use crate::architecture::tensors::{Role, Start, TensorSpec, name_in_model};
use crate::rng;

/// Compares headers with what a config asks for.
///
/// # Errors
/// [`WeightsError`] names the first tensor that is missing, unexpected, or of another shape or type.
pub fn check_headers(directory: &Path, headers: &WeightHeaders, config: &ModelConfig) -> Result<(), WeightsError> {
    let specs = config.stored_parameters();
    let config = &config.as_stored();
    let missing: Vec<&str> =
        specs.iter().map(|spec| spec.name.as_str()).filter(|name| !headers.tensors.contains_key(*name)).collect();
    if let Some(name) = missing.first() {
        let (directory, name) = (directory.to_owned(), (*name).to_owned());
        return Err(WeightsError::MissingTensor { directory, name, count: missing.len() });
    }
    let known: HashMap<&str, &[usize]> = specs.iter().map(|spec| (spec.name.as_str(), spec.shape.as_slice())).collect();
    let packed: HashSet<String> = bitsandbytes::specs(config).into_iter().map(|(spec, _)| spec.name).collect();
    let unexpected: Vec<_> = headers
        .tensors
        .iter()
        .filter(|(name, _)| !known.contains_key(name.as_str()) && !is_ignorable(name, config))
        .filter(|(name, _)| !bitsandbytes::is_companion(name, |weight| packed.contains(weight)))
        .collect();
    if let Some((name, header)) = unexpected.first() {
        let (file, name) = (header.file.clone(), (*name).clone());
        return Err(WeightsError::UnexpectedTensor { file, name, count: unexpected.len() });
    }
    let quantization = config.quantization.filter(|_| config.stores_packed);
    for spec in &specs {
        if let (Role::Linear(_), Some(quantization)) = (spec.role, quantization) {
            bitsandbytes::check(headers, spec, quantization)?;
            continue;
        }
        let header = &headers.tensors[&spec.name];
        let (file, name) = (header.file.clone(), spec.name.clone());
        if header.shape != spec.shape {
            let (expected, found) = (spec.shape.clone(), header.shape.clone());
            return Err(WeightsError::Shape { file, name, expected, found });
        }
        if !["F32", "F16", "BF16"].contains(&header.dtype.as_str()) {
            return Err(WeightsError::Type { file, name, found: header.dtype.clone() });
        }
    }
    Ok(())
}

/// Tensors that files carry and nobody reads: rotary frequencies, a head that is the embedding, whose values are looked at in
/// [`super::twice`], and the output projection of a language model that has a head of scores instead.
fn is_ignorable(name: &str, config: &ModelConfig) -> bool {
    name.ends_with(".rotary_emb.inv_freq")
        || ((config.tie_word_embeddings || config.scores.is_some()) && name == "lm_head.weight")
        || is_of_another_part(name, config)
}

/// True for a tensor of another part of the model, which goes along as it is.
pub(crate) fn is_of_another_part(name: &str, config: &ModelConfig) -> bool {
    let name = name.strip_prefix("model.").unwrap_or(name);
    config.others.iter().any(|start| name.starts_with(start))
}

/// Tensors of other parts of a model, which go along when it is saved: from where they are.
pub(crate) fn others(source: &WeightSource, config: &ModelConfig) -> Result<Vec<TensorHeader>, WeightsError> {
    let WeightSource::Directory(directory) = source else { return Ok(Vec::new()) };
    if config.others.is_empty() {
        return Ok(Vec::new());
    }
    let headers = read_headers(directory)?.tensors.into_iter();
    Ok(headers.filter(|(name, _)| is_of_another_part(name, config)).map(|(_, header)| header).collect())
}

/// Reads every tensor of a model, a piece at a time; those that its checkpoint has packed go to `packed`, whole.
///
/// # Errors
/// [`WeightsError`] as for [`read_headers`] and [`check_headers`], and for values that are not finite.
pub fn load(
    source: &WeightSource,
    config: &ModelConfig,
    sink: &mut Sink<'_>,
    packed: &mut PackedSink<'_>,
) -> Result<(), WeightsError> {
    match source {
        WeightSource::Random { seed } => {
            randomize(*seed, config, &config.parameters(), sink);
            Ok(())
        }
        WeightSource::Directory(directory) => {
            let headers = read_headers(directory)?;
            check_headers(directory, &headers, config)?;
            let stored = config.as_stored();
            if let (true, Some(head)) = (twice::has_own_head(&headers, &stored)?, headers.tensors.get("lm_head.weight"))
            {
                return Err(WeightsError::NotTied { file: head.file.clone() });
            }
            let is_plain = |spec: &TensorSpec| !(config.stores_packed && matches!(spec.role, Role::Linear(_)));
            let names: HashSet<String> =
                config.stored_parameters().into_iter().filter(is_plain).map(|spec| spec.name).collect();
            let mut completed = Completed::new(config, sink);
            for file in &headers.files {
                load_file(file, &names, &mut |name, start, values| completed.take(name, start, values))?;
            }
            if let Some(seed) = config.scores.and_then(|scores| scores.start) {
                let is_new = |spec: &TensorSpec| matches!(spec.role, Role::Score | Role::ScoreBias);
                let specs: Vec<TensorSpec> = config.parameters().into_iter().filter(is_new).collect();
                randomize(seed, config, &specs, sink);
            }
            bitsandbytes::load(&headers, config, packed)
        }
    }
}

/// Bytes of the tensors that belong to other parts of a model, which are saved with it; 0 where they cannot be read.
pub fn bytes_of_others(source: &WeightSource, config: &ModelConfig) -> u64 {
    others(source, config).unwrap_or_default().iter().map(|header| header.bytes).sum()
}

/// A digest of all weights in a directory: SHA-256 over the tensors' names, types, shapes and values. However
/// they are divided into files, it is the same.
///
/// # Errors
/// [`WeightsError`] as for [`read_headers`].
pub fn digest(directory: &Path) -> Result<[u8; 32], WeightsError> {
    digest_files(weight_files(directory)?.into_iter().map(|(file, _)| file))
}

/// The same of some files.
///
/// # Errors
/// [`WeightsError`] for a file that cannot be read.
pub(crate) fn digest_files(files: impl IntoIterator<Item = PathBuf>) -> Result<[u8; 32], WeightsError> {
    let mut tensors = Vec::new();
    for file in files {
        let map = map(&file)?;
        let parsed = parse(&file, &map)?;
        let digest = |(name, view): (String, TensorView<'_>)| {
            let mut hasher = Sha256::new();
            hasher.update(format!("{name} {:?} {:?} ", view.dtype(), view.shape()));
            hasher.update(view.data());
            give_back(&map, view.data());
            (name, hasher.finalize())
        };
        tensors.extend(parsed.tensors().into_par_iter().map(digest).collect::<Vec<_>>());
    }
    tensors.sort_unstable();
    let mut whole = Sha256::new();
    for (_, digest) in &tensors {
        whole.update(digest);
    }
    Ok(whole.finalize().into())
}

/// Bytes of what is in memory at a time beside the arena while [`load`] reads: the largest tensor as it lies in its file, or
/// where memory of mapped files cannot be given back, the largest file.
pub fn largest_read(source: &WeightSource) -> u64 {
    let WeightSource::Directory(directory) = source else { return 0 };
    if cfg!(unix) {
        let tensors = read_headers(directory).unwrap_or_default().tensors;
        return tensors.values().map(|header| header.bytes).max().unwrap_or(0);
    }
    let files = weight_files(directory).unwrap_or_default();
    files.iter().filter_map(|(file, _)| Some(file.metadata().ok()?.len())).max().unwrap_or(0)
}

fn load_file(file: &Path, names: &HashSet<String>, sink: &mut Sink<'_>) -> Result<(), WeightsError> {
    let map = map(file)?;
    let tensors = parse(file, &map)?;
    for (own, view) in tensors.iter() {
        let name = &name_in_model(own);
        if !names.contains(name) {
            continue;
        }
        let Some(width) = width_of(view.dtype()) else {
            let (file, name, found) = (file.to_owned(), name.to_owned(), format!("{:?}", view.dtype()));
            return Err(WeightsError::Type { file, name, found });
        };
        for (piece, bytes) in view.data().chunks(PIECE * width).enumerate() {
            let values = to_f32(bytes, view.dtype());
            if values.iter().any(|value| !value.is_finite()) {
                return Err(WeightsError::NotFinite { file: file.to_owned(), name: name.to_owned() });
            }
            sink(name, piece * PIECE, &values);
        }
        give_back(&map, view.data());
    }
    Ok(())
}

/// Starts some tensors of a model.
fn randomize(seed: u64, config: &ModelConfig, specs: &[TensorSpec], sink: &mut Sink<'_>) {
    for spec in specs {
        let (stream, len) = (rng::stream_of(&spec.name), spec.shape.iter().product::<usize>());
        for start in (0..len).step_by(PIECE) {
            let range = start..(start + PIECE).min(len);
            let values: Vec<f32> = match spec.role.start(config) {
                Start::Normal => {
                    let scale = config.initializer_range as f32;
                    range.into_par_iter().map(|index| scale * rng::normal_at(seed, stream, index as u64)).collect()
                }
                Start::Ones => vec![1.0; range.len()],
                Start::Zeros => vec![0.0; range.len()],
                Start::Constant(value) => vec![value; range.len()],
            };
            sink(&spec.name, start, &values);
        }
    }
}
