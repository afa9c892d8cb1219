//! Writing a checkpoint: the model as Hugging Face files, the optimizer's moments, and where the run stands.

use std::io::Write;
use std::path::Path;

use engine::Trainer;
use engine::files::export::begin_safetensors;
use engine::kernels::Kernels;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::directory::PendingDirectory;
use super::{CheckpointError, export};
use crate::data::batches::KeptFile;
use crate::data::cursor::Position;
use crate::diagnostic::Failure;

/// The optimizer's moments, one tensor per trained parameter and moment.
pub const OPTIMIZER_FILE: &str = "optimizer.safetensors";
/// Where the run stands.
pub const STATE_FILE: &str = "trainer_state.json";
/// Its format.
pub const STATE_VERSION: u32 = 1;

/// Where a run stands: all that a resume needs beside weights and moments. Randomness needs no state of its own: every
/// draw is a function of the seed and of these counters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrainerState {
    /// Format version.
    pub v: u32,
    /// Finished optimizer steps.
    pub global_step: u64,
    /// Where the next step starts in the data.
    pub position: Position,
    /// Steps that the run was to have.
    pub total_steps: u64,
    /// What must be the same when the run goes on, by config key.
    pub settings: Map<String, Value>,
    /// The evaluation before training, as it was logged.
    pub eval_before: Option<Value>,
    /// Loss of the first step.
    pub first_loss: Option<f64>,
    /// Loss of the last one; none in checkpoints of earlier versions.
    #[serde(default)]
    pub last_loss: Option<f64>,
    /// Tokens trained so far, prompts included.
    #[serde(default)]
    pub tokens: u64,
    /// The best evaluation so far, where something is made of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub best: Option<Value>,
}

/// Saves a checkpoint; it is complete when this returns, and absent otherwise. `kept` is what the source of steps needs beside
/// its position.
pub fn save<K: Kernels>(
    target: &Path,
    trainer: &Trainer<K>,
    state: &TrainerState,
    files: &export::ModelFiles<'_>,
    kept: &[KeptFile],
) -> Result<(), Failure> {
    let pending = PendingDirectory::create(target)?;
    files.write(trainer.model(), pending.path())?;
    write_moments(&pending.path().join(OPTIMIZER_FILE), trainer)?;
    for KeptFile { name, bytes } in kept {
        pending.write(name, bytes)?;
    }
    let text = serde_json::to_string_pretty(state).expect("a state is plain data");
    pending.write(STATE_FILE, text.as_bytes())?;
    pending.publish()?;
    Ok(())
}

/// A safetensors file, written as it goes: the moments are never in memory a second time.
fn write_moments<K: Kernels>(path: &Path, trainer: &Trainer<K>) -> Result<(), CheckpointError> {
    let failed = |source| CheckpointError::Write { path: path.to_owned(), source };
    let mut header = Map::new();
    let mut offset = 0;
    for (name, shape) in trainer.state_specs() {
        if name.starts_with("param/") {
            continue;
        }
        let end = offset + 4 * shape.iter().product::<usize>();
        header.insert(name, serde_json::json!({ "dtype": "F32", "shape": shape, "data_offsets": [offset, end] }));
        offset = end;
    }
    let mut file = begin_safetensors(path, header).map_err(failed)?;
    trainer.visit_state(&mut |name, _, values| {
        if name.starts_with("param/") {
            return Ok(());
        }
        for piece in values.chunks(1 << 16) {
            let bytes: Vec<u8> = piece.iter().flat_map(|value| value.to_le_bytes()).collect();
            file.write_all(&bytes).map_err(failed)?;
        }
        Ok(())
    })?;
    file.flush().map_err(failed)
}
