//! Going on from a checkpoint: finding it, checking that it is whole and of this run, and giving the trainer its state.

use std::collections::BTreeMap;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use engine::files::peft::parameter_name;
use engine::kernels::Kernels;
use engine::{EngineError, Trainer};
use serde_json::{Map, Value};

use super::save::{OPTIMIZER_FILE, STATE_FILE, STATE_VERSION, TrainerState};
use super::{CheckpointError, directory, list};
use crate::diagnostic::Failure;

/// Bytes that a safetensors header may have.
const HEADER_LIMIT: u64 = 64 << 20;
/// Bytes that the description of where a run stood may have.
const STATE_LIMIT: u64 = 16 << 20;
/// The setting that names the weights of a frozen base model by their digest. Checkpoints of earlier versions lack it.
pub const BASE_DIGEST: &str = "base_model_sha256";
/// That of the adapter which training started from, where it is a reference.
pub const ADAPTER_DIGEST: &str = "lora_model_sha256";

/// A whole checkpoint of this run.
#[derive(Debug)]
pub struct Checkpoint {
    /// Its directory.
    pub path: PathBuf,
    /// Where the run stood.
    pub state: TrainerState,
    /// Its weight files.
    weights: Vec<String>,
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
        let manifest = directory::verify(path)?;
        let weights: Vec<String> = manifest
            .files
            .into_keys()
            .filter(|name| name.ends_with(".safetensors") && name != OPTIMIZER_FILE)
            .collect();
        let missing = [STATE_FILE, OPTIMIZER_FILE].into_iter().find(|name| !path.join(name).is_file());
        if let Some(name) = missing.or(weights.is_empty().then_some("model.safetensors")) {
            let reason = format!("its manifest does not list `{name}`");
            return Err(CheckpointError::Incomplete { path: path.to_owned(), reason });
        }
        let file = path.join(STATE_FILE);
        let text = intake::read_inside(&file, STATE_LIMIT)
            .map_err(|source| CheckpointError::Read { path: file.clone(), source })?;
        let corrupt = |reason: String| CheckpointError::Corrupt { path: file.clone(), reason };
        let state: TrainerState = serde_json::from_slice(&text).map_err(|error| corrupt(error.to_string()))?;
        if state.v != STATE_VERSION {
            return Err(corrupt(format!("it has format {}; this host reads format {STATE_VERSION}", state.v)));
        }
        let mut differences = Vec::new();
        for (key, now) in settings {
            let then = state.settings.get(key).unwrap_or(&Value::Null);
            if then != now && !(key == BASE_DIGEST && then.is_null()) {
                differences.push(format!("`{key}`: now {now}, then {then}"));
            }
        }
        if !differences.is_empty() {
            return Err(CheckpointError::Mismatch { path: path.to_owned(), differences });
        }
        Ok(Self { path: path.to_owned(), state, weights })
    }

    /// Gives a trainer the weights and moments back.
    pub fn restore<K: Kernels>(&self, trainer: &mut Trainer<K>) -> Result<(), Failure> {
        let mut tensors = Tensors::open(self)?;
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
    fn open(checkpoint: &Checkpoint) -> Result<Self, CheckpointError> {
        let mut places = BTreeMap::new();
        for file in checkpoint.weights.iter().map(String::as_str).chain([OPTIMIZER_FILE]) {
            for (name, place) in header(&checkpoint.path.join(file))? {
                // Weights keep the names that transformers and PEFT give them.
                let is_state = file == OPTIMIZER_FILE;
                places.insert(if is_state { name } else { format!("param/{}", parameter_name(&name)) }, place);
            }
        }
        Ok(Self { places })
    }

    fn read(&mut self, name: &str) -> Result<Option<Vec<f32>>, CheckpointError> {
        let Some(place) = self.places.get(name) else { return Ok(None) };
        let failed = |source| CheckpointError::Read { path: place.file.clone(), source };
        let mut file = intake::open_inside(&place.file).map_err(failed)?;
        file.seek(SeekFrom::Start(place.start)).map_err(failed)?;
        let mut bytes = vec![0; place.bytes];
        file.read_exact(&mut bytes).map_err(failed)?;
        Ok(Some(bytes.chunks_exact(4).map(|word| f32::from_le_bytes([word[0], word[1], word[2], word[3]])).collect()))
    }
}

fn header(path: &Path) -> Result<Vec<(String, Place)>, CheckpointError> {
    let failed = |source| CheckpointError::Read { path: path.to_owned(), source };
    let corrupt = |reason: &str| CheckpointError::Corrupt { path: path.to_owned(), reason: reason.to_owned() };
    let mut file = intake::open_inside(path).map_err(failed)?;
    let whole = file.metadata().map_err(failed)?.len();
    let mut length = [0; 8];
    file.read_exact(&mut length).map_err(failed)?;
    let length = u64::from_le_bytes(length);
    let Some(data) = whole.checked_sub(8).and_then(|rest| rest.checked_sub(length)).filter(|_| length <= HEADER_LIMIT)
    else {
        return Err(corrupt("its header is too long"));
    };
    let mut text = vec![0; length as usize];
    file.read_exact(&mut text).map_err(failed)?;
    let header: Map<String, Value> = serde_json::from_slice(&text).map_err(|error| corrupt(&error.to_string()))?;
    let mut places = Vec::new();
    for (name, tensor) in header.into_iter().filter(|(name, _)| name != "__metadata__") {
        // A tensor of another part of the model goes along as it is; nothing is restored from it.
        if tensor["dtype"].as_str().is_some_and(|dtype| dtype != "F32")
            && path.file_name() != Some(OPTIMIZER_FILE.as_ref())
        {
            continue;
        }
        let offset = |index: usize| tensor["data_offsets"][index].as_u64();
        let (Some(start), Some(end), Some("F32")) = (offset(0), offset(1), tensor["dtype"].as_str()) else {
            return Err(corrupt(&format!("tensor `{name}` is not what was saved")));
        };
        let bytes = end.checked_sub(start).ok_or_else(|| corrupt(&format!("tensor `{name}` ends before it starts")))?;
        if end > data || bytes % 4 != 0 {
            return Err(corrupt(&format!("tensor `{name}` ends behind the file")));
        }
        places.push((name, Place { file: path.to_owned(), start: 8 + length + start, bytes: bytes as usize }));
    }
    Ok(places)
}
