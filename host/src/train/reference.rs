//! What the model says of answers before it is trained: the reference of preferences. It is found out once, of the samples
//! that the run will see, and kept with the checkpoints; so there is no second model.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use engine::Trainer;
use engine::kernels::Kernels;
use engine::objective::document_log_probs;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

use super::plan::{Plan, digest};
use super::signal::StopSignal;
use crate::checkpoint::CheckpointError;
use crate::data::batches::KeptFile;
use crate::data::cursor::{Cursor, Position};
use crate::data::dataset::Example;
use crate::data::packing::assemble;
use crate::diagnostic::Failure;

/// The file of a checkpoint that has it.
pub const REFERENCE_FILE: &str = "reference.safetensors";
/// Bytes that it may have: those of sixty million pairs.
const LIMIT: u64 = 1 << 30;
/// Its metadata's name for the digest of the evaluation set.
const EVAL_DIGEST: &str = "eval_sha256";
/// The columns of TRL's datasets that say the same.
const COLUMNS: [&str; 2] = ["ref_chosen_logps", "ref_rejected_logps"];

/// For each pair the sums of the log-probabilities of the chosen and of the rejected answer, in nats; NaN where the run has
/// not asked yet.
#[derive(Debug, Clone, PartialEq)]
pub struct Reference {
    /// Of the training set.
    pub train: Vec<[f64; 2]>,
    /// Of the evaluation set.
    pub eval: Vec<[f64; 2]>,
}

impl Reference {
    /// Nothing is known yet.
    pub fn unknown(plan: &Plan) -> Self {
        let none = |examples: &[Example]| vec![[f64::NAN; 2]; examples.len()];
        Self { train: none(&plan.data.train), eval: none(&plan.data.eval) }
    }

    /// All that the run sees is known.
    pub fn is_complete(&self, plan: &Plan) -> bool {
        self.needed(plan, plan.total_steps).is_empty() && self.eval.iter().all(|pair| !pair[0].is_nan())
    }

    /// Asks the trainer, whose weights are those before training, about what the first `steps` steps and an evaluation see.
    /// `told` hears how many pairs are done, of how many. A signal ends it before its time.
    ///
    /// # Errors
    /// Whatever the device cannot do.
    pub fn complete<K: Kernels>(
        &mut self,
        trainer: &mut Trainer<K>,
        plan: &Plan,
        steps: u64,
        stop: &StopSignal,
        told: &mut dyn FnMut(u64, u64),
    ) -> Result<(), Failure> {
        let (train, eval) = (&plan.data.train, &plan.data.eval);
        let needed = self.needed(plan, steps);
        let of_eval: Vec<usize> = (0..eval.len()).filter(|&index| self.eval[index][0].is_nan()).collect();
        let of_eval = of_eval.chunks(plan.eval_batch_size).map(<[usize]>::to_vec);
        let sets = [(train, &mut self.train, needed), (eval, &mut self.eval, of_eval.collect())];
        let all: u64 = sets.iter().flat_map(|(.., batches)| batches).map(|batch| batch.len() as u64).sum();
        let (mut done, mut told_of) = (0, 0);
        for (examples, values, batches) in sets {
            for samples in batches {
                if stop.received().is_some() {
                    return Ok(());
                }
                // At the start, and whenever another quarter is done.
                if done == 0 || 4 * done / all > 4 * told_of / all {
                    told(done, all);
                    told_of = done;
                }
                let batch = assemble(samples.iter().flat_map(|&sample| examples[sample].documents()));
                let sums = document_log_probs(trainer, &batch)?;
                for (&sample, pair) in samples.iter().zip(sums.as_chunks().0) {
                    values[sample] = *pair;
                }
                done += samples.len() as u64;
            }
        }
        Ok(())
    }

    /// Batches of the pairs that are not known and that the first `steps` steps see, as training puts them together.
    fn needed(&self, plan: &Plan, steps: u64) -> Vec<Vec<usize>> {
        let lengths = plan.data.train.iter().map(Example::tokens).collect();
        let mut cursor = Cursor::new(lengths, plan.packing.clone(), Position::default());
        let mut known: Vec<bool> = self.train.iter().map(|pair| !pair[0].is_nan()).collect();
        let mut batches = Vec::new();
        // An epoch has every sample.
        for _ in 0..steps.min(plan.steps_per_epoch) {
            for mut samples in cursor.next_step(plan.accumulation) {
                samples.retain(|&sample| !std::mem::replace(&mut known[sample], true));
                if !samples.is_empty() {
                    batches.push(samples);
                }
            }
        }
        batches
    }

    /// As a file of a checkpoint of `plan`.
    pub fn file(&self, plan: &Plan) -> KeptFile {
        let eval_digest = digest(&plan.data.eval);
        let column = |pairs: &[[f64; 2]], index: usize| -> Vec<u8> {
            pairs.iter().flat_map(|pair| pair[index].to_le_bytes()).collect()
        };
        let mut columns = BTreeMap::new();
        for (set, pairs) in [("train", &self.train), ("eval", &self.eval)] {
            for (index, name) in COLUMNS.into_iter().enumerate() {
                columns.insert(format!("{set}/{name}"), (pairs.len(), column(pairs, index)));
            }
        }
        let views = columns.iter().map(|(name, (length, bytes))| {
            (name, TensorView::new(Dtype::F64, vec![*length], bytes).expect("the bytes are those of the length"))
        });
        let digest = HashMap::from([(EVAL_DIGEST.to_owned(), eval_digest)]);
        let bytes = safetensors::serialize(views, Some(digest)).expect("the tensors are plain");
        KeptFile { name: REFERENCE_FILE, bytes }
    }

    /// Reads what a checkpoint of this run has. Of another evaluation set than then, nothing is known.
    ///
    /// # Errors
    /// A file that is not there, or not of this training set.
    pub fn read(directory: &Path, plan: &Plan) -> Result<Self, CheckpointError> {
        let path = directory.join(REFERENCE_FILE);
        let bytes =
            intake::read_inside(&path, LIMIT).map_err(|source| CheckpointError::Read { path: path.clone(), source })?;
        let corrupt = |reason: String| CheckpointError::Corrupt { path: path.clone(), reason };
        let tensors = SafeTensors::deserialize(&bytes).map_err(|error| corrupt(error.to_string()))?;
        let set = |set: &str, length: usize| -> Result<Vec<[f64; 2]>, CheckpointError> {
            let mut pairs = vec![[f64::NAN; 2]; length];
            for (index, name) in COLUMNS.into_iter().enumerate() {
                let name = format!("{set}/{name}");
                let tensor = tensors.tensor(&name).map_err(|error| corrupt(error.to_string()))?;
                if tensor.dtype() != Dtype::F64 || tensor.shape() != [length] {
                    return Err(corrupt(format!("`{name}` is not {length} numbers of 64 bits")));
                }
                for (pair, value) in pairs.iter_mut().zip(tensor.data().as_chunks().0) {
                    pair[index] = f64::from_le_bytes(*value);
                }
            }
            Ok(pairs)
        };
        let train = set("train", plan.data.train.len())?;
        let (_, metadata) = SafeTensors::read_metadata(&bytes).map_err(|error| corrupt(error.to_string()))?;
        let then = metadata.metadata().as_ref().and_then(|metadata| metadata.get(EVAL_DIGEST));
        let is_same = then.is_some_and(|then| *then == digest(&plan.data.eval));
        let eval = if is_same { set("eval", plan.data.eval.len())? } else { Self::unknown(plan).eval };
        Ok(Self { train, eval })
    }
}
