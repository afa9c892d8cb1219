//! What the model says of answers before it is trained: the reference of learning from preferences. It is found out once, of the samples
//! that the run will see, and kept with the checkpoints; so there is no second model.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use engine::Trainer;
use engine::kernels::Kernels;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

use super::asked::Asked;
use super::plan::Plan;
use super::signal::StopSignal;
use crate::checkpoint::CheckpointError;
use crate::data::batches::KeptFile;
use crate::data::cursor::{Cursor, Position};
use crate::data::set::Set;
use crate::data::store::StoreError;
use crate::diagnostic::Failure;

/// The file of a checkpoint that has it.
pub const REFERENCE_FILE: &str = "reference.safetensors";
/// Bytes that it may have: those of sixty million samples with two numbers each.
const LIMIT: u64 = 1 << 30;
/// Its metadata's name for the digest of the evaluation set.
const EVAL_DIGEST: &str = "eval_sha256";

/// The numbers of each sample, one sample after the other, in nats; NaN where the run has not asked yet.
#[derive(Debug, Clone, PartialEq)]
pub struct Reference {
    asked: Asked,
    /// Of the training set.
    pub train: Vec<f64>,
    /// Of the evaluation set.
    pub eval: Vec<f64>,
}

impl Reference {
    /// Nothing is known yet.
    pub fn unknown(plan: &Plan, asked: Asked) -> Self {
        let none = |set: &Set| vec![f64::NAN; set.len() * asked.width()];
        Self { asked, train: none(&plan.data.train), eval: none(&plan.data.eval) }
    }

    /// All that the run sees is known.
    ///
    /// # Errors
    /// Samples that cannot be read.
    pub fn is_complete(&self, plan: &Plan) -> Result<bool, StoreError> {
        let needed = self.needed(plan, plan.total_steps)?;
        Ok(needed.is_empty() && self.eval.iter().all(|number| !number.is_nan()))
    }

    /// It has been asked about this sample of the training set.
    pub fn knows(&self, sample: usize) -> bool {
        !self.train[sample * self.asked.width()].is_nan()
    }

    /// Asks the trainer, whose weights are those before training, about what the first `steps` steps and an evaluation see.
    /// `told` hears how many samples are done, of how many. A signal ends it before its time.
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
        let (asked, width) = (self.asked, self.asked.width());
        let needed = self.needed(plan, steps)?;
        let of_eval: Vec<usize> = (0..eval.len()).filter(|&sample| self.eval[sample * width].is_nan()).collect();
        let of_eval = of_eval.chunks(plan.eval_batch_size).map(<[usize]>::to_vec);
        let sets = [(train, &mut self.train, needed), (eval, &mut self.eval, of_eval.collect())];
        let all: u64 = sets.iter().flat_map(|(.., batches)| batches).map(|batch| batch.len() as u64).sum();
        let (mut done, mut told_of) = (0, 0);
        for (set, values, batches) in sets {
            for samples in batches {
                if stop.received().is_some() {
                    return Ok(());
                }
                // At the start, and whenever another quarter is done.
                if done == 0 || 4 * done / all > 4 * told_of / all {
                    told(done, all);
                    told_of = done;
                }
                let said = asked.ask(trainer, set, &samples, plan.packing.sequence_len)?;
                for (&sample, numbers) in samples.iter().zip(said.chunks(width)) {
                    values[sample * width..][..width].copy_from_slice(numbers);
                }
                done += samples.len() as u64;
            }
        }
        Ok(())
    }

    /// Batches of the samples that are not known and that the first `steps` steps see, as training puts them together.
    fn needed(&self, plan: &Plan, steps: u64) -> Result<Vec<Vec<usize>>, StoreError> {
        let lengths = plan.data.train.lengths()?;
        let mut cursor = Cursor::new(lengths, plan.packing.clone(), Position::default());
        let mut known: Vec<bool> = (0..plan.data.train.len()).map(|sample| self.knows(sample)).collect();
        let mut batches = Vec::new();
        // An epoch has every sample, unless some count less than once.
        let steps = if plan.packing.mix.is_even() { steps.min(plan.steps_per_epoch) } else { steps };
        for _ in 0..steps {
            if known.iter().all(|&known| known) {
                break;
            }
            for mut samples in cursor.next_step(plan.accumulation) {
                samples.retain(|&sample| !std::mem::replace(&mut known[sample], true));
                if !samples.is_empty() {
                    batches.push(samples);
                }
            }
        }
        Ok(batches)
    }

    /// As a file of a checkpoint of `plan`.
    pub fn file(&self, plan: &Plan) -> KeptFile {
        let eval_digest = plan.data.eval.digest();
        let width = self.asked.width();
        let column = |numbers: &[f64], index: usize| -> Vec<u8> {
            numbers.chunks(width).flat_map(|sample| sample[index].to_le_bytes()).collect()
        };
        let mut columns = BTreeMap::new();
        for (set, numbers) in [("train", &self.train), ("eval", &self.eval)] {
            for (index, name) in self.asked.columns().iter().enumerate() {
                columns.insert(format!("{set}/{name}"), (numbers.len() / width, column(numbers, index)));
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
    pub fn read(directory: &Path, plan: &Plan, asked: Asked) -> Result<Self, CheckpointError> {
        let path = directory.join(REFERENCE_FILE);
        let bytes =
            intake::read_inside(&path, LIMIT).map_err(|source| CheckpointError::Read { path: path.clone(), source })?;
        let corrupt = |reason: String| CheckpointError::Corrupt { path: path.clone(), reason };
        let tensors = SafeTensors::deserialize(&bytes).map_err(|error| corrupt(error.to_string()))?;
        let width = asked.width();
        let set = |set: &str, length: usize| -> Result<Vec<f64>, CheckpointError> {
            let mut numbers = vec![f64::NAN; length * width];
            for (index, name) in asked.columns().iter().enumerate() {
                let name = format!("{set}/{name}");
                let tensor = tensors.tensor(&name).map_err(|error| corrupt(error.to_string()))?;
                if tensor.dtype() != Dtype::F64 || tensor.shape() != [length] {
                    return Err(corrupt(format!("`{name}` is not {length} numbers of 64 bits")));
                }
                for (sample, value) in numbers.chunks_mut(width).zip(tensor.data().as_chunks().0) {
                    sample[index] = f64::from_le_bytes(*value);
                }
            }
            Ok(numbers)
        };
        let train = set("train", plan.data.train.len())?;
        let (_, metadata) = SafeTensors::read_metadata(&bytes).map_err(|error| corrupt(error.to_string()))?;
        let then = metadata.metadata().as_ref().and_then(|metadata| metadata.get(EVAL_DIGEST));
        let is_same = then.is_some_and(|then| *then == plan.data.eval.digest());
        let eval = if is_same { set("eval", plan.data.eval.len())? } else { Self::unknown(plan, asked).eval };
        Ok(Self { asked, train, eval })
    }
}
