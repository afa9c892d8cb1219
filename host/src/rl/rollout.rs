//! What was sampled and judged: what is learned of it, and how it is kept in a checkpoint.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use engine::kernels::Kernels;
use engine::objective::Rollouts;
use engine::{EngineError, Trainer};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

use crate::checkpoint::CheckpointError;
use crate::data::batches::KeptFile;
use crate::data::packing::assemble;
use crate::data::tokenize::TokenSample;

/// The file of a checkpoint that has those that are still to be learned from.
pub const ROLLOUTS_FILE: &str = "rollouts.safetensors";
/// Bytes that it may have.
const LIMIT: u64 = 4 << 30;

/// A text, parts of which the model wrote, with what is learned of them.
#[derive(Debug, Clone, PartialEq)]
pub struct Rollout {
    /// Prompt and completion, with the token that ended it; of an episode, all of its turns.
    pub ids: Vec<u32>,
    /// What of it the model wrote: one part for each turn, in order, none at the very beginning.
    pub written: Vec<Range<usize>>,
    /// Log-probability of each token that the model wrote, where it was sampled, in nats.
    pub log_probs: Vec<f32>,
    /// The same under the reference; empty where there is none.
    pub reference: Vec<f32>,
    /// How much better it is than the others of its prompt.
    pub advantage: f64,
    /// Its tokens count in no denominator: nothing is to be learned of it.
    pub is_silent: bool,
}

impl Rollout {
    /// What stands before the first token that the model wrote.
    pub fn prompt(&self) -> &[u32] {
        &self.ids[..self.written.first().map_or(self.ids.len(), |part| part.start)]
    }

    fn sample(&self, is_learned: bool) -> TokenSample {
        let mut trained = vec![false; self.ids.len()];
        for part in self.written.iter().filter(|_| is_learned) {
            trained[part.clone()].fill(true);
        }
        TokenSample { ids: self.ids.clone(), trained, weights: None }
    }

    /// Its parts are parts of the text, one behind the other, and each of their tokens has a log-probability.
    fn fits(&self) -> bool {
        let mut end = 1;
        for part in &self.written {
            if part.start < end || part.end < part.start || part.end > self.ids.len() {
                return false;
            }
            end = part.end;
        }
        let count = self.log_probs.len();
        self.written.iter().map(Range::len).sum::<usize>() == count && [0, count].contains(&self.reference.len())
    }

    /// Puts numbers of its written tokens to `all`, each where its token is the target: one place before it.
    fn spread(&self, numbers: &[f32], all: &mut Vec<f32>) {
        let start = all.len();
        all.resize(start + self.ids.len(), 0.0);
        for (at, number) in self.written.iter().cloned().flatten().zip(numbers) {
            all[start + at - 1] = *number;
        }
    }
}

/// A micro-batch. Silent ones are there without targets; of nothing but silent ones (`is_idle`), all have targets and no
/// advantage.
pub fn batch(rollouts: &[&Rollout], is_idle: bool, is_on_policy: bool) -> Rollouts {
    let samples: Vec<TokenSample> =
        rollouts.iter().map(|rollout| rollout.sample(is_idle || !rollout.is_silent)).collect();
    let (mut old, mut reference) = (Vec::new(), Vec::new());
    for rollout in rollouts {
        rollout.spread(&rollout.log_probs, &mut old);
        rollout.spread(&rollout.reference, &mut reference);
    }
    let has_reference = !is_idle && rollouts.iter().any(|rollout| !rollout.reference.is_empty());
    Rollouts {
        batch: assemble(&samples),
        advantages: rollouts.iter().map(|rollout| if is_idle { 0.0 } else { rollout.advantage }).collect(),
        old: Some(old),
        reference: has_reference.then_some(reference),
        is_on_policy,
    }
}

/// Asks the reference about rollouts, `size` at a time.
///
/// # Errors
/// A device that fails.
pub fn ask<K: Kernels>(trainer: &mut Trainer<K>, rollouts: &mut [Rollout], size: usize) -> Result<(), EngineError> {
    for rollouts in rollouts.chunks_mut(size) {
        let samples: Vec<TokenSample> = rollouts.iter().map(|rollout| rollout.sample(true)).collect();
        let said = trainer.reference_outputs(&assemble(&samples))?;
        let mut start = 0;
        for rollout in rollouts {
            rollout.reference = rollout.written.iter().cloned().flatten().map(|at| said[start + at - 1]).collect();
            start += rollout.ids.len();
        }
    }
    Ok(())
}

/// A file with rollouts.
pub fn file(rollouts: &[Rollout]) -> KeptFile {
    let words = |values: &mut dyn Iterator<Item = u32>| values.flat_map(u32::to_le_bytes).collect::<Vec<u8>>();
    let mut tensors: BTreeMap<&str, (Dtype, usize, Vec<u8>)> = BTreeMap::new();
    let count = rollouts.len();
    let all: usize = rollouts.iter().map(|rollout| rollout.ids.len()).sum();
    let written: usize = rollouts.iter().map(|rollout| rollout.log_probs.len()).sum();
    let ids = words(&mut rollouts.iter().flat_map(|rollout| rollout.ids.iter().copied()));
    tensors.insert("ids", (Dtype::U32, all, ids));
    let lengths = words(&mut rollouts.iter().map(|rollout| rollout.ids.len() as u32));
    tensors.insert("lengths", (Dtype::U32, count, lengths));
    let parts: usize = rollouts.iter().map(|rollout| rollout.written.len()).sum();
    let counts = words(&mut rollouts.iter().map(|rollout| rollout.written.len() as u32));
    tensors.insert("parts", (Dtype::U32, count, counts));
    let bounds = rollouts.iter().flat_map(|rollout| &rollout.written).flat_map(|part| [part.start, part.end]);
    tensors.insert("written", (Dtype::U32, 2 * parts, words(&mut bounds.map(|bound| bound as u32))));
    let silent = rollouts.iter().map(|rollout| u8::from(rollout.is_silent)).collect();
    tensors.insert("silent", (Dtype::U8, count, silent));
    let log_probs = rollouts.iter().flat_map(|rollout| &rollout.log_probs).flat_map(|value| value.to_le_bytes());
    tensors.insert("log_probs", (Dtype::F32, written, log_probs.collect()));
    let reference = rollouts.iter().flat_map(|rollout| &rollout.reference).flat_map(|value| value.to_le_bytes());
    let reference: Vec<u8> = reference.collect();
    if !reference.is_empty() {
        tensors.insert("reference", (Dtype::F32, reference.len() / 4, reference));
    }
    let advantages = rollouts.iter().flat_map(|rollout| rollout.advantage.to_le_bytes()).collect();
    tensors.insert("advantages", (Dtype::F64, count, advantages));
    let views = tensors.iter().map(|(name, (dtype, length, bytes))| {
        (*name, TensorView::new(*dtype, vec![*length], bytes).expect("the bytes are those of the length"))
    });
    let bytes = safetensors::serialize(views, None).expect("the tensors are plain");
    KeptFile { name: ROLLOUTS_FILE, bytes }
}

/// Reads such a file of a checkpoint.
///
/// # Errors
/// A file that is not there, or that does not fit together.
pub fn read(directory: &Path) -> Result<Vec<Rollout>, CheckpointError> {
    let path = directory.join(ROLLOUTS_FILE);
    let bytes =
        intake::read_inside(&path, LIMIT).map_err(|source| CheckpointError::Read { path: path.clone(), source })?;
    parse(&bytes).map_err(|reason| CheckpointError::Corrupt { path, reason })
}

fn parse(bytes: &[u8]) -> Result<Vec<Rollout>, String> {
    let tensors = SafeTensors::deserialize(bytes).map_err(|error| error.to_string())?;
    let data = |name: &str, dtype: Dtype| {
        let tensor = tensors.tensor(name).map_err(|error| error.to_string())?;
        if tensor.dtype() == dtype { Ok(tensor.data().to_vec()) } else { Err(format!("`{name}` has another type")) }
    };
    let words = |name: &str| -> Result<Vec<u32>, String> {
        Ok(data(name, Dtype::U32)?.as_chunks().0.iter().map(|word| u32::from_le_bytes(*word)).collect())
    };
    let (ids, lengths, parts, bounds) = (words("ids")?, words("lengths")?, words("parts")?, words("written")?);
    let silent = data("silent", Dtype::U8)?;
    let floats = |name: &str| -> Result<Vec<f32>, String> {
        Ok(data(name, Dtype::F32)?.as_chunks().0.iter().map(|word| f32::from_le_bytes(*word)).collect())
    };
    let log_probs = floats("log_probs")?;
    let has_reference = tensors.names().contains(&"reference");
    let reference = if has_reference { floats("reference")? } else { Vec::new() };
    let advantages = data("advantages", Dtype::F64)?;
    let advantages: Vec<f64> = advantages.as_chunks().0.iter().map(|word| f64::from_le_bytes(*word)).collect();
    let count = lengths.len();
    if [parts.len(), silent.len(), advantages.len()].iter().any(|other| *other != count) {
        return Err("its tensors are of different numbers of rollouts".to_owned());
    }
    let mut bounds = bounds.as_chunks().0.iter().map(|[start, end]| *start as usize..*end as usize);
    let (mut ids, mut log_probs, mut all) = (ids.into_iter(), log_probs.into_iter(), Vec::with_capacity(count));
    let mut reference = reference.into_iter();
    for index in 0..count {
        let (length, parts) = (lengths[index] as usize, parts[index] as usize);
        let own: Vec<u32> = ids.by_ref().take(length).collect();
        let written: Vec<Range<usize>> = bounds.by_ref().take(parts).collect();
        // No part has more tokens than the text, whatever its bounds say.
        let tokens = written.iter().map(|part| part.len().min(length)).fold(0, usize::saturating_add).min(length);
        let known: Vec<f32> = log_probs.by_ref().take(tokens).collect();
        let (advantage, is_silent) = (advantages[index], silent[index] != 0);
        let of_reference = if has_reference { tokens } else { 0 };
        let reference: Vec<f32> = reference.by_ref().take(of_reference).collect();
        if reference.len() != of_reference {
            return Err(format!("the reference says too little of rollout {index}"));
        }
        let rollout = Rollout { ids: own, written, log_probs: known, reference, advantage, is_silent };
        if rollout.ids.len() != length || rollout.written.len() != parts || !rollout.fits() {
            return Err(format!("rollout {index} does not fit together"));
        }
        all.push(rollout);
    }
    if ids.next().is_some() || bounds.next().is_some() || log_probs.next().is_some() || reference.next().is_some() {
        return Err("it has more tokens than its rollouts".to_owned());
    }
    Ok(all)
}

#[cfg(test)]
#[expect(clippy::single_range_in_vec_init, reason = "a text of one part has a list of one")]
mod tests {
    use engine::IGNORE;

    use super::*;

    fn rollout(ids: &[u32], prompt: usize) -> Rollout {
        let log_probs = ids[prompt..].iter().map(|&id| -(id as f32)).collect();
        let written = std::iter::once(prompt..ids.len()).collect();
        Rollout { ids: ids.to_vec(), written, log_probs, reference: Vec::new(), advantage: 0.5, is_silent: false }
    }

    fn episode() -> Rollout {
        let log_probs = vec![-3.0, -4.0, -7.0];
        let ids = vec![1, 2, 3, 4, 5, 6, 7, 8];
        let reference = Vec::new();
        Rollout { ids, written: vec![2..4, 6..7], log_probs, reference, advantage: -0.5, is_silent: false }
    }

    #[test]
    fn a_log_probability_stands_where_its_token_is_the_target() {
        let (first, second) = (rollout(&[1, 2, 3, 4], 2), rollout(&[5, 6], 1));
        let rollouts = batch(&[&first, &second], false, true);
        assert_eq!(rollouts.batch.targets, [IGNORE, 3, 4, IGNORE, 6, IGNORE]);
        assert_eq!(rollouts.old, Some(vec![0.0, -3.0, -4.0, 0.0, -6.0, 0.0]));
    }

    #[test]
    fn what_the_model_did_not_write_is_no_target() {
        let rollouts = batch(&[&rollout(&[5, 6], 1), &episode()], false, true);
        let own = [3, 4, IGNORE, IGNORE, 7, IGNORE, IGNORE];
        assert_eq!(rollouts.batch.targets, [&[6, IGNORE, IGNORE][..], &own].concat());
        let old = [0.0, -3.0, -4.0, 0.0, 0.0, -7.0, 0.0, 0.0];
        assert_eq!(rollouts.old, Some([&[-6.0, 0.0][..], &old].concat()));
        assert_eq!(rollouts.reference, None);
    }

    #[test]
    fn a_reference_stands_beside_what_was_sampled() {
        let own = Rollout { reference: vec![-1.5, -2.5, -3.5], ..episode() };
        let reference = vec![0.0, -1.5, -2.5, 0.0, 0.0, -3.5, 0.0, 0.0];
        assert_eq!(batch(&[&own], false, true).reference, Some(reference));
        assert_eq!(batch(&[&own], true, true).reference, None, "nothing is learned, of the reference neither");
    }

    #[test]
    fn what_is_kept_is_read_again() {
        let all = vec![rollout(&[1, 2, 3, 4], 2), episode(), rollout(&[5, 6], 1), rollout(&[7], 1)];
        let file = file(&all);
        assert_eq!(parse(&file.bytes).unwrap(), all);
        let referred = |rollout: &Rollout| {
            let reference = rollout.log_probs.iter().map(|number| 2.0 * number).collect();
            Rollout { reference, ..rollout.clone() }
        };
        let mut with_reference: Vec<Rollout> = all.iter().map(referred).collect();
        assert_eq!(parse(&super::file(&with_reference).bytes).unwrap(), with_reference);
        with_reference[1].reference.pop();
        assert!(parse(&super::file(&with_reference).bytes).is_err());
        assert!(parse(&file.bytes[..file.bytes.len() - 1]).is_err());
        for written in [vec![3..4], vec![0..2], vec![2..5], vec![3..4, 2..3], vec![2..3, 2..3], Vec::new()] {
            let mut broken = all.clone();
            broken[0].written = written;
            assert!(parse(&super::file(&broken).bytes).is_err());
        }
    }
}
