//! Going on from a checkpoint: finding it, checking that it is whole and of this run, and giving the trainer its state.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use engine::kernels::Kernels;
use engine::{EngineError, Trainer};
use serde_json::{Map, Value};

use super::save::{OPTIMIZER_FILE, STATE_FILE, TrainerState};
use super::{CheckpointError, directory, list};
use crate::diagnostic::Failure;

/// Bytes that a safetensors header may have.
const HEADER_LIMIT: u64 = 64 << 20;

/// A whole checkpoint of this run.
#[derive(Debug)]
pub struct Checkpoint {
    /// Its directory.
    pub path: PathBuf,
    /// Where the run stood.
    pub state: TrainerState,
}

/// The newest complete checkpoint under `output_dir`. Broken newer ones are named in the second part.
pub fn newest(output_dir: &Path) -> Result<(Option<PathBuf>, Vec<CheckpointError>), CheckpointError> {
    let mut broken = Vec::new();
    for (_, path) in list(output_dir)?.into_iter().rev() {
        match directory::verify(&path) {
            Ok(_) => return Ok((Some(path), broken)),
            Err(error) => broken.push(error),
        }
    }
    Ok((None, broken))
}

impl Checkpoint {
    /// Opens a checkpoint that verifies and has the same `settings`.
    pub fn open(path: &Path, settings: &Map<String, Value>) -> Result<Self, CheckpointError> {
        directory::verify(path)?;
        let file = path.join(STATE_FILE);
        let text = std::fs::read(&file).map_err(|source| CheckpointError::Read { path: file.clone(), source })?;
        let state: TrainerState = serde_json::from_slice(&text)
            .map_err(|error| CheckpointError::Corrupt { path: file.clone(), reason: error.to_string() })?;
        let mut differences = Vec::new();
        for (key, now) in settings {
            let then = state.settings.get(key).unwrap_or(&Value::Null);
            if then != now {
                differences.push(format!("`{key}`: now {now}, then {then}"));
            }
        }
        if !differences.is_empty() {
            return Err(CheckpointError::Mismatch { path: path.to_owned(), differences });
        }
        Ok(Self { path: path.to_owned(), state })
    }

    /// Gives a trainer the weights and moments back.
    pub fn restore<K: Kernels>(&self, trainer: &mut Trainer<K>) -> Result<(), Failure> {
        let mut tensors = Tensors::open(&self.path)?;
        trainer.load_state::<RestoreError>(self.state.global_step, &mut |name| Ok(tensors.read(name)?))?;
        Ok(())
    }
}

/// Either side of a restore.
#[derive(Debug)]
enum RestoreError {
    Engine(EngineError),
    Checkpoint(CheckpointError),
}

impl From<EngineError> for RestoreError {
    fn from(error: EngineError) -> Self {
        Self::Engine(error)
    }
}

impl From<CheckpointError> for RestoreError {
    fn from(error: CheckpointError) -> Self {
        Self::Checkpoint(error)
    }
}

impl From<RestoreError> for Failure {
    fn from(error: RestoreError) -> Self {
        match error {
            RestoreError::Engine(error) => error.into(),
            RestoreError::Checkpoint(error) => error.into(),
        }
    }
}

/// All tensors of a checkpoint's safetensors files by name.
struct Tensors {
    places: BTreeMap<String, Place>,
}

struct Place {
    file: PathBuf,
    start: u64,
    bytes: usize,
}

impl Tensors {
    fn open(checkpoint: &Path) -> Result<Self, CheckpointError> {
        let mut places = BTreeMap::new();
        for file in directory::files_of(checkpoint)? {
            if file.extension().is_some_and(|extension| extension == "safetensors") {
                let is_state = directory::name_of(&file) == OPTIMIZER_FILE;
                for (name, place) in header(&file)? {
                    // Weights keep the names that transformers and PEFT give them.
                    places.insert(if is_state { name } else { format!("param/{name}") }, place);
                }
            }
        }
        Ok(Self { places })
    }

    fn read(&mut self, name: &str) -> Result<Option<Vec<f32>>, CheckpointError> {
        let Some(place) = self.places.get(name) else { return Ok(None) };
        let failed = |source| CheckpointError::Read { path: place.file.clone(), source };
        let mut file = File::open(&place.file).map_err(failed)?;
        file.seek(SeekFrom::Start(place.start)).map_err(failed)?;
        let mut bytes = vec![0; place.bytes];
        file.read_exact(&mut bytes).map_err(failed)?;
        Ok(Some(bytes.chunks_exact(4).map(|word| f32::from_le_bytes([word[0], word[1], word[2], word[3]])).collect()))
    }
}

fn header(path: &Path) -> Result<Vec<(String, Place)>, CheckpointError> {
    let failed = |source| CheckpointError::Read { path: path.to_owned(), source };
    let corrupt = |reason: &str| CheckpointError::Corrupt { path: path.to_owned(), reason: reason.to_owned() };
    let mut file = File::open(path).map_err(failed)?;
    let mut length = [0; 8];
    file.read_exact(&mut length).map_err(failed)?;
    let length = u64::from_le_bytes(length);
    if length > HEADER_LIMIT {
        return Err(corrupt("its header is too long"));
    }
    let mut text = vec![0; length as usize];
    file.read_exact(&mut text).map_err(failed)?;
    let header: Map<String, Value> = serde_json::from_slice(&text).map_err(|error| corrupt(&error.to_string()))?;
    let mut places = Vec::new();
    for (name, tensor) in header.into_iter().filter(|(name, _)| name != "__metadata__") {
        let offset = |index: usize| tensor["data_offsets"][index].as_u64();
        let (Some(start), Some(end), Some("F32")) = (offset(0), offset(1), tensor["dtype"].as_str()) else {
            return Err(corrupt(&format!("tensor `{name}` is not what was saved")));
        };
        let bytes = end.checked_sub(start).ok_or_else(|| corrupt(&format!("tensor `{name}` ends before it starts")))?;
        places.push((name, Place { file: path.to_owned(), start: 8 + length + start, bytes: bytes as usize }));
    }
    Ok(places)
}
