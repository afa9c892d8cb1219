//! Weights on disk: what a model directory holds, told from the headers alone, and its tensors put into the arena.
//!
//! Files are mapped, not read: a tensor is converted a piece at a time straight into its place, so that a model is never
//! in memory twice.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Component, Path, PathBuf};

use half::{bf16, f16};
use memmap2::Mmap;
use rayon::prelude::*;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use super::bitsandbytes::{self, PackedSink};
use super::config::ModelConfig;
use super::stored::Completed;
use super::tensors::{Role, Start, TensorSpec, name_in_model};
use super::twice;
use crate::rng;

/// Elements that are converted at a time.
pub(super) const PIECE: usize = 1 << 20;

/// Where weights come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WeightSource {
    /// A Hugging Face model directory.
    Directory(PathBuf),
    /// A random start (`_init_weights` of transformers): normal with `initializer_range`, norms one.
    Random {
        /// The same seed gives the same weights.
        seed: u64,
    },
}

/// Why weights cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
    /// The directory has no weights.
    #[error("`{directory}` has neither `model.safetensors` nor `model.safetensors.index.json`", directory = directory.display())]
    Missing {
        /// The model directory.
        directory: PathBuf,
    },
    /// The directory has pickled weights only; those can run code when they are read.
    #[error("`{file}` is a pickle file; only safetensors are read", file = file.display())]
    Pickle {
        /// The file.
        file: PathBuf,
    },
    /// A file cannot be read.
    #[error("cannot read `{file}`: {source}", file = file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file is not what it must be.
    #[error("`{file}` is not a valid safetensors file: {reason}", file = file.display())]
    Invalid {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The index is not what it must be.
    #[error("`{file}` is not a valid index: {reason}", file = file.display())]
    BadIndex {
        /// The index.
        file: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A tensor that the config asks for is nowhere.
    #[error("tensor `{name}` is missing from `{directory}`", directory = directory.display())]
    MissingTensor {
        /// The model directory.
        directory: PathBuf,
        /// The tensor.
        name: String,
        /// How many are missing.
        count: usize,
    },
    /// A tensor that the config knows nothing of.
    #[error("`{file}` has a tensor `{name}` that the model does not", file = file.display())]
    UnexpectedTensor {
        /// The file.
        file: PathBuf,
        /// The tensor.
        name: String,
        /// How many there are.
        count: usize,
    },
    /// A tensor of another shape.
    #[error("tensor `{name}` has shape {found:?}, config.json asks for {expected:?}")]
    Shape {
        /// The file.
        file: PathBuf,
        /// The tensor.
        name: String,
        /// By the config.
        expected: Vec<usize>,
        /// In the file.
        found: Vec<usize>,
    },
    /// A tensor of a type that weights do not have.
    #[error("tensor `{name}` has type {found}; F32, F16 and BF16 are read")]
    Type {
        /// The file.
        file: PathBuf,
        /// The tensor.
        name: String,
        /// In the file.
        found: String,
    },
    /// A tensor that was saved packed and cannot be used.
    #[error("the packed weights of `{file}` cannot be used: {reason}", file = file.display())]
    Packed {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// An output projection of its own where the config says that it is the embedding.
    #[error("`{file}` has an `lm_head.weight` that is not the embedding, though the config says that they are one", file = file.display())]
    NotTied {
        /// The file.
        file: PathBuf,
    },
    /// A tensor with NaN or infinite values.
    #[error("tensor `{name}` holds a value that is not finite")]
    NotFinite {
        /// The file.
        file: PathBuf,
        /// The tensor.
        name: String,
    },
}

/// One tensor as a header tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorHeader {
    /// Its name in the file; in the model it may have another one.
    pub name: String,
    /// Row-major.
    pub shape: Vec<usize>,
    /// `F32`, `BF16` and so on.
    pub dtype: String,
    /// The file it is in.
    pub file: PathBuf,
}

/// What a model directory holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WeightHeaders {
    /// Tensors by name.
    pub tensors: BTreeMap<String, TensorHeader>,
    /// The files.
    pub files: Vec<PathBuf>,
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// Reads the headers of a model directory; no weight is touched.
///
/// # Errors
/// [`WeightsError`] for files that are missing, broken, or not safetensors.
pub fn read_headers(directory: &Path) -> Result<WeightHeaders, WeightsError> {
    let mut headers = WeightHeaders::default();
    for (file, wanted) in weight_files(directory)? {
        let map = map(&file)?;
        let tensors = parse(&file, &map)?;
        for (name, view) in tensors.iter() {
            let header = TensorHeader {
                name: name.to_owned(),
                shape: view.shape().to_vec(),
                dtype: format!("{:?}", view.dtype()),
                file: file.clone(),
            };
            if headers.tensors.insert(name_in_model(name), header).is_some() {
                let reason = format!("tensor `{name}` is in more than one file");
                return Err(WeightsError::Invalid { file, reason });
            }
        }
        if let Some(name) = wanted.iter().find(|name| tensors.tensor(name).is_err()) {
            let reason = format!("the index says that `{name}` is in it, but it is not");
            return Err(WeightsError::Invalid { file, reason });
        }
        headers.files.push(file);
    }
    Ok(headers)
}

/// Compares headers with what a config asks for.
///
/// # Errors
/// [`WeightsError`] names the first tensor that is missing, unexpected, or of another shape or type.
pub fn check_headers(directory: &Path, headers: &WeightHeaders, config: &ModelConfig) -> Result<(), WeightsError> {
    let config = &config.as_stored();
    let specs = config.parameters();
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

/// Tensors that older files carry and nobody reads: rotary frequencies, and a head that is the embedding. What they hold
/// is looked at in [`super::twice`].
fn is_ignorable(name: &str, config: &ModelConfig) -> bool {
    name.ends_with(".rotary_emb.inv_freq")
        || (config.tie_word_embeddings && name == "lm_head.weight")
        || is_of_another_part(name, config)
}

/// True for a tensor of another part of the model, which goes along as it is.
pub(super) fn is_of_another_part(name: &str, config: &ModelConfig) -> bool {
    let name = name.strip_prefix("model.").unwrap_or(name);
    config.others.iter().any(|start| name.starts_with(start))
}

/// Tensors of other parts of a model, which go along when it is saved: from where they are.
pub(super) fn others(source: &WeightSource, config: &ModelConfig) -> Result<Vec<TensorHeader>, WeightsError> {
    let WeightSource::Directory(directory) = source else { return Ok(Vec::new()) };
    if config.others.is_empty() {
        return Ok(Vec::new());
    }
    let headers = read_headers(directory)?.tensors.into_iter();
    Ok(headers.filter(|(name, _)| is_of_another_part(name, config)).map(|(_, header)| header).collect())
}

/// Takes the values of a tensor, by its name, from some element on. The pieces of a tensor come one after another.
pub type Sink<'a> = dyn FnMut(&str, usize, &[f32]) + 'a;

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
            randomize(*seed, config, sink);
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
                stored.parameters().into_iter().filter(is_plain).map(|spec| spec.name).collect();
            let mut completed = Completed::new(config, sink);
            for file in &headers.files {
                load_file(file, &names, &mut |name, start, values| completed.take(name, start, values))?;
            }
            bitsandbytes::load(&headers, config, packed)
        }
    }
}

/// A digest of all weights in a directory: SHA-256 over the tensors' names, types, shapes and values. However
/// they are divided into files, it is the same.
///
/// # Errors
/// [`WeightsError`] as for [`read_headers`].
pub fn digest(directory: &Path) -> Result<[u8; 32], WeightsError> {
    let mut tensors = Vec::new();
    for (file, _) in weight_files(directory)? {
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
        let bytes = |header: &TensorHeader| {
            let width = if header.dtype == "F32" { 4 } else { 2 };
            header.shape.iter().map(|&size| size as u64).product::<u64>() * width
        };
        return read_headers(directory).unwrap_or_default().tensors.values().map(bytes).max().unwrap_or(0);
    }
    let files = weight_files(directory).unwrap_or_default();
    files.iter().filter_map(|(file, _)| Some(file.metadata().ok()?.len())).max().unwrap_or(0)
}

/// Lets the system take back the memory of a part of a mapped file that has been read. Reading it again reads the file again.
fn give_back(map: &Mmap, part: &[u8]) {
    #[cfg(unix)]
    {
        let page = 4096;
        let start = part.as_ptr().addr() - map.as_ptr().addr();
        let (first, last) = (start.next_multiple_of(page), (start + part.len()) / page * page);
        if first < last {
            // SAFETY: the mapping is of a file and read-only, so what is read later is the same again. Whole pages inside of it.
            let given = unsafe { map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, first, last - first) };
            // Refusal costs memory and nothing else.
            drop(given);
        }
    }
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

/// Bytes of an element, of the types that weights have.
pub(super) fn width_of(dtype: Dtype) -> Option<usize> {
    match dtype {
        Dtype::F32 => Some(4),
        Dtype::F16 | Dtype::BF16 => Some(2),
        _ => None,
    }
}

/// Little-endian elements as f32. All types of [`width_of`] go into it without loss.
pub(super) fn to_f32(bytes: &[u8], dtype: Dtype) -> Vec<f32> {
    let halves = bytes.as_chunks::<2>().0.iter();
    match dtype {
        Dtype::F16 => halves.map(|&bytes| f16::from_le_bytes(bytes).to_f32()).collect(),
        Dtype::BF16 => halves.map(|&bytes| bf16::from_le_bytes(bytes).to_f32()).collect(),
        _ => bytes.as_chunks::<4>().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect(),
    }
}

fn randomize(seed: u64, config: &ModelConfig, sink: &mut Sink<'_>) {
    for spec in config.parameters() {
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
            };
            sink(&spec.name, start, &values);
        }
    }
}

/// The weight files of a directory, each with the tensors that the index expects in it.
fn weight_files(directory: &Path) -> Result<Vec<(PathBuf, Vec<String>)>, WeightsError> {
    let single = directory.join("model.safetensors");
    if single.is_file() {
        return Ok(vec![(single, Vec::new())]);
    }
    let file = directory.join("model.safetensors.index.json");
    if !file.is_file() {
        return Err(
            match ["pytorch_model.bin", "pytorch_model.bin.index.json", "model.pt", "consolidated.00.pth"]
                .into_iter()
                .map(|name| directory.join(name))
                .find(|path| path.is_file())
            {
                Some(file) => WeightsError::Pickle { file },
                None => WeightsError::Missing { directory: directory.to_owned() },
            },
        );
    }
    let bad = |reason: String| WeightsError::BadIndex { file: file.clone(), reason };
    let bytes = intake::read_inside(&file, intake::JSON_BYTES)
        .map_err(|source| WeightsError::Read { file: file.clone(), source })?;
    let index: Index = serde_json::from_slice(&bytes).map_err(|error| bad(error.to_string()))?;
    let mut shards: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (tensor, shard) in index.weight_map {
        shards.entry(shard).or_default().push(tensor);
    }
    let mut files = Vec::with_capacity(shards.len());
    for (shard, tensors) in shards {
        // A downloaded index is a stranger's text: a shard is a file beside it and nothing else.
        let mut parts = Path::new(&shard).components();
        if !matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None)) {
            return Err(bad(format!("shard `{shard}` is not a file of this directory")));
        }
        let path = directory.join(&shard);
        if !path.is_file() {
            return Err(bad(format!("shard `{shard}` is missing")));
        }
        files.push((path, tensors));
    }
    if files.is_empty() {
        return Err(bad("it names no tensor".into()));
    }
    Ok(files)
}

pub(crate) fn map(file: &Path) -> Result<Mmap, WeightsError> {
    let read = |source| WeightsError::Read { file: file.to_owned(), source };
    let handle = intake::open_inside(file).map_err(read)?;
    // SAFETY: the mapping is read-only; a file that another process shortens meanwhile can end this one with SIGBUS,
    // which is the price of every mapped weight loader.
    unsafe { Mmap::map(&handle) }.map_err(read)
}

pub(super) fn parse<'a>(file: &Path, map: &'a Mmap) -> Result<SafeTensors<'a>, WeightsError> {
    SafeTensors::deserialize(map)
        .map_err(|error| WeightsError::Invalid { file: file.to_owned(), reason: error.to_string() })
}
