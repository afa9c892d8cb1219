//! Weight files: what a model directory holds, told from the headers alone, and the bytes of a tensor.
//!
//! Files are mapped, not read: a tensor is converted a piece at a time straight into its place, so that a model is never
//! in memory twice.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use half::{bf16, f16};
use memmap2::Mmap;
use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;

use crate::architecture::tensors::name_in_model;

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
    /// Of its values, as the file has them.
    pub bytes: u64,
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

impl WeightHeaders {
    /// A tensor of a file, as its header tells it.
    pub(super) fn add(
        &mut self,
        file: &Path,
        name: &str,
        (dtype, shape): (Dtype, &[usize]),
        bytes: usize,
    ) -> Result<(), WeightsError> {
        let header = TensorHeader {
            name: name.to_owned(),
            shape: shape.to_vec(),
            dtype: format!("{dtype:?}"),
            bytes: bytes as u64,
            file: file.to_owned(),
        };
        if self.tensors.insert(name_in_model(name), header).is_some() {
            let reason = format!("tensor `{name}` is in more than one file");
            return Err(WeightsError::Invalid { file: file.to_owned(), reason });
        }
        Ok(())
    }
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
            headers.add(&file, name, (view.dtype(), view.shape()), view.data().len())?;
        }
        if let Some(name) = wanted.iter().find(|name| tensors.tensor(name).is_err()) {
            let reason = format!("the index says that `{name}` is in it, but it is not");
            return Err(WeightsError::Invalid { file, reason });
        }
        headers.files.push(file);
    }
    Ok(headers)
}

/// Takes the values of a tensor, by its name, from some element on. The pieces of a tensor come one after another.
pub type Sink<'a> = dyn FnMut(&str, usize, &[f32]) + 'a;

/// Lets the system take back the memory of a part of a mapped file that has been read. Reading it again reads the file again.
pub(super) fn give_back(map: &Mmap, part: &[u8]) {
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

/// Bytes of an element, of the types that weights have.
pub(crate) fn width_of(dtype: Dtype) -> Option<usize> {
    match dtype {
        Dtype::F32 => Some(4),
        Dtype::F16 | Dtype::BF16 => Some(2),
        _ => None,
    }
}

/// Little-endian elements as f32. All types of [`width_of`] go into it without loss.
pub(crate) fn to_f32(bytes: &[u8], dtype: Dtype) -> Vec<f32> {
    let halves = bytes.as_chunks::<2>().0.iter();
    match dtype {
        Dtype::F16 => halves.map(|&bytes| f16::from_le_bytes(bytes).to_f32()).collect(),
        Dtype::BF16 => halves.map(|&bytes| bf16::from_le_bytes(bytes).to_f32()).collect(),
        _ => bytes.as_chunks::<4>().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect(),
    }
}

/// The weight files of a directory, each with the tensors that the index expects in it.
pub(super) fn weight_files(directory: &Path) -> Result<Vec<(PathBuf, Vec<String>)>, WeightsError> {
    let single = directory.join("model.safetensors");
    if single.is_file() {
        return Ok(vec![(single, Vec::new())]);
    }
    let file = directory.join(INDEX);
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
    let mut files = Vec::new();
    for (shard, tensors) in shards(&file)? {
        let path = directory.join(&shard);
        if !path.is_file() {
            return Err(WeightsError::BadIndex { file, reason: format!("shard `{shard}` is missing") });
        }
        files.push((path, tensors));
    }
    Ok(files)
}

/// The file that says which tensors are in which shard.
pub const INDEX: &str = "model.safetensors.index.json";

/// The shards that an index names, each with its tensors.
///
/// # Errors
/// [`WeightsError`] for an index that cannot be read, or that names what is no file beside it.
pub fn shards(file: &Path) -> Result<BTreeMap<String, Vec<String>>, WeightsError> {
    let bad = |reason: String| WeightsError::BadIndex { file: file.to_owned(), reason };
    let bytes = intake::read_inside(file, intake::JSON_BYTES)
        .map_err(|source| WeightsError::Read { file: file.to_owned(), source })?;
    let index: Index = serde_json::from_slice(&bytes).map_err(|error| bad(error.to_string()))?;
    let mut shards: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (tensor, shard) in index.weight_map {
        shards.entry(shard).or_default().push(tensor);
    }
    for shard in shards.keys() {
        // A downloaded index is a stranger's text: a shard is a file beside it and nothing else.
        let mut parts = Path::new(shard).components();
        if !matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None)) {
            return Err(bad(format!("shard `{shard}` is not a file of this directory")));
        }
    }
    if shards.is_empty() {
        return Err(bad("it names no tensor".into()));
    }
    Ok(shards)
}

pub(crate) fn map(file: &Path) -> Result<Mmap, WeightsError> {
    let read = |source| WeightsError::Read { file: file.to_owned(), source };
    let handle = intake::open_inside(file).map_err(read)?;
    // SAFETY: the mapping is read-only; a file that another process shortens meanwhile can end this one with SIGBUS,
    // which is the price of every mapped weight loader.
    unsafe { Mmap::map(&handle) }.map_err(read)
}

pub(crate) fn parse<'a>(file: &Path, map: &'a Mmap) -> Result<SafeTensors<'a>, WeightsError> {
    SafeTensors::deserialize(map)
        .map_err(|error| WeightsError::Invalid { file: file.to_owned(), reason: error.to_string() })
}
