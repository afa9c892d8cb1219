//! The model as a Hugging Face directory: `config.json` and safetensors weights in f32, one file or shards with an index.
//! Tensors are written one after the other; the model is never in memory twice.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use crate::EngineError;
use crate::architecture::tensors::name_in_files;
use crate::kernels::Kernels;
use crate::model::Model;
use crate::weights::{TensorHeader, WeightsError, map, parse};

/// A shard has at most so many bytes of weights (`max_shard_size` of transformers).
pub const SHARD_BYTES: u64 = 5_000_000_000;

/// A tensor to be written.
pub(crate) struct Entry<'a> {
    /// Its name in the file.
    pub(crate) name: String,
    /// Row-major.
    pub(crate) shape: &'a [usize],
    /// What is written.
    pub(crate) data: Data<'a>,
}

/// Where what is written comes from.
pub(crate) enum Data<'a> {
    /// f32 values, by the name that the tensor has in the model or the adapter.
    Values(&'a str),
    /// The bytes of a tensor of another file.
    Copied(&'a TensorHeader),
}

impl<'a> Entry<'a> {
    /// f32 values under the name that they have.
    pub(crate) fn values(name: &'a str, shape: &'a [usize]) -> Self {
        Self { name: name.to_owned(), shape, data: Data::Values(name) }
    }

    fn dtype(&self) -> &str {
        match self.data {
            Data::Values(_) => "F32",
            Data::Copied(header) => &header.dtype,
        }
    }

    fn bytes(&self) -> u64 {
        let width = match self.dtype() {
            "F64" | "I64" | "U64" => 8,
            "F16" | "BF16" | "I16" | "U16" => 2,
            "F32" | "I32" | "U32" => 4,
            _ => 1,
        };
        width * self.shape.iter().product::<usize>() as u64
    }
}

/// Writes a model without an adapter. Returns the files.
///
/// # Errors
/// [`EngineError::Write`] names the file; [`EngineError::Options`] for a model with an adapter, which is not merged here.
pub fn export_model<K: Kernels>(
    model: &Model<K>,
    directory: &Path,
    shard_bytes: u64,
) -> Result<Vec<PathBuf>, EngineError> {
    if model.lora.is_some() {
        return Err(EngineError::Options { reason: "a model with an adapter is saved as an adapter".into() });
    }
    if model.config.quantization.is_some() {
        return Err(EngineError::Options { reason: "a model that is quantized is not saved as a whole".into() });
    }
    let slots = model.layout.slots();
    let own = slots.iter().map(|slot| Entry {
        name: name_in_files(&model.config, &slot.name),
        shape: &slot.shape,
        data: Data::Values(&slot.name),
    });
    let others = model.others.iter().map(|header| Entry {
        name: header.name.clone(),
        shape: &header.shape,
        data: Data::Copied(header),
    });
    let entries: Vec<Entry<'_>> = own.chain(others).collect();
    let shards = shards(&entries, shard_bytes);
    let mut read = |name: &str| model.parameter(name).unwrap_or_default();
    let mut files = Vec::new();
    let mut weight_map = Map::new();
    for (index, shard) in shards.iter().enumerate() {
        let name = if shards.len() == 1 {
            "model.safetensors".to_owned()
        } else {
            format!("model-{:05}-of-{:05}.safetensors", index + 1, shards.len())
        };
        for entry in *shard {
            weight_map.insert(entry.name.clone(), name.clone().into());
        }
        let path = directory.join(name);
        write_safetensors(&path, shard, &mut read)?;
        files.push(path);
    }
    if shards.len() > 1 {
        let total: u64 = entries.iter().map(Entry::bytes).sum();
        let index = json!({ "metadata": { "total_size": total }, "weight_map": weight_map });
        files.push(write_json(directory, "model.safetensors.index.json", &index)?);
    }
    let mut config = model.config.raw.clone();
    // Both spellings: transformers 4 reads the first, 5 the second.
    config.insert("torch_dtype".into(), "float32".into());
    config.insert("dtype".into(), "float32".into());
    files.push(write_json(directory, "config.json", &Value::Object(config))?);
    Ok(files)
}

/// Fills shards in order; a tensor larger than a shard gets one of its own.
fn shards<'a, 'b>(entries: &'a [Entry<'b>], limit: u64) -> Vec<&'a [Entry<'b>]> {
    let mut shards = Vec::new();
    let (mut start, mut bytes) = (0, 0);
    for (index, entry) in entries.iter().enumerate() {
        if index > start && bytes + entry.bytes() > limit {
            shards.push(&entries[start..index]);
            (start, bytes) = (index, 0);
        }
        bytes += entry.bytes();
    }
    shards.push(&entries[start..]);
    shards
}

/// Starts a safetensors file: what follows is the data of its tensors, as `header` says.
///
/// # Errors
/// What the system says.
pub fn begin_safetensors(path: &Path, header: Map<String, Value>) -> std::io::Result<BufWriter<File>> {
    let mut header = Value::Object(header).to_string().into_bytes();
    // The format aligns the data to eight bytes.
    header.resize(header.len().next_multiple_of(8), b' ');
    let mut file = BufWriter::with_capacity(1 << 20, File::create(path)?);
    file.write_all(&(header.len() as u64).to_le_bytes())?;
    file.write_all(&header)?;
    Ok(file)
}

/// The bytes of a tensor of another file.
fn copy_tensor(header: &TensorHeader, file: &mut BufWriter<File>, path: &Path) -> Result<(), EngineError> {
    let mapped = map(&header.file)?;
    let view = parse(&header.file, &mapped)?;
    let view = view.tensor(&header.name);
    let view = view.ok().filter(|view| view.shape() == header.shape && format!("{:?}", view.dtype()) == header.dtype);
    let Some(view) = view else {
        let reason = format!("`{}` is not what it was when the model was loaded", header.name);
        return Err(WeightsError::Invalid { file: header.file.clone(), reason }.into());
    };
    file.write_all(view.data()).map_err(|source| EngineError::Write { path: path.to_owned(), source })
}

/// One safetensors file of tensors, each fetched when its turn comes.
pub(crate) fn write_safetensors(
    path: &Path,
    entries: &[Entry<'_>],
    read: &mut dyn FnMut(&str) -> Vec<f32>,
) -> Result<(), EngineError> {
    let failed = |source| EngineError::Write { path: path.to_owned(), source };
    let mut header = Map::new();
    header.insert("__metadata__".into(), json!({ "format": "pt" }));
    let mut offset = 0;
    for entry in entries {
        let end = offset + entry.bytes();
        header.insert(
            entry.name.clone(),
            json!({ "dtype": entry.dtype(), "shape": entry.shape, "data_offsets": [offset, end] }),
        );
        offset = end;
    }
    let mut file = begin_safetensors(path, header).map_err(failed)?;
    for entry in entries {
        match entry.data {
            Data::Copied(header) => copy_tensor(header, &mut file, path)?,
            Data::Values(name) => {
                for piece in read(name).chunks(1 << 16) {
                    let bytes: Vec<u8> = piece.iter().flat_map(|value| value.to_le_bytes()).collect();
                    file.write_all(&bytes).map_err(failed)?;
                }
            }
        }
    }
    file.flush().map_err(failed)
}

/// Writes a JSON file of a model directory, indented as Hugging Face's are. Returns its path.
///
/// # Errors
/// [`EngineError::Write`] names the file.
pub fn write_json(directory: &Path, name: &str, value: &Value) -> Result<PathBuf, EngineError> {
    let path = directory.join(name);
    let mut text = serde_json::to_string_pretty(value).expect("JSON values can be written");
    text.push('\n');
    std::fs::write(&path, text).map_err(|source| EngineError::Write { path: path.clone(), source })?;
    Ok(path)
}
