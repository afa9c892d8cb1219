//! What was sampled and judged: what is learned of it, and how it is kept in a checkpoint.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use engine::objective::Rollouts;
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
    /// How much better it is than the others of its prompt.
    pub advantage: f64,
    /// Its tokens count in no denominator: nothing is to be learned of it.
    pub is_silent: bool,
}

impl Rollout {
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
        self.written.iter().map(Range::len).sum::<usize>() == self.log_probs.len()
    }
}

/// A micro-batch. Silent ones are there without targets; of nothing but silent ones (`is_idle`), all have targets and no
/// advantage.
pub fn batch(rollouts: &[&Rollout], is_idle: bool, is_on_policy: bool) -> Rollouts {
    let samples: Vec<TokenSample> =
        rollouts.iter().map(|rollout| rollout.sample(is_idle || !rollout.is_silent)).collect();
    let mut old = Vec::new();
    for rollout in rollouts {
        let start = old.len();
        old.resize(start + rollout.ids.len(), 0.0);
        // The log-probability of a token stands where it is the target: one place before it.
        for (at, log_prob) in rollout.written.iter().cloned().flatten().zip(&rollout.log_probs) {
            old[start + at - 1] = *log_prob;
        }
    }
    Rollouts {
        batch: assemble(&samples),
        advantages: rollouts.iter().map(|rollout| if is_idle { 0.0 } else { rollout.advantage }).collect(),
        old: Some(old),
        reference: None,
        is_on_policy,
    }
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
    let log_probs = data("log_probs", Dtype::F32)?;
    let log_probs: Vec<f32> = log_probs.as_chunks().0.iter().map(|word| f32::from_le_bytes(*word)).collect();
    let advantages = data("advantages", Dtype::F64)?;
    let advantages: Vec<f64> = advantages.as_chunks().0.iter().map(|word| f64::from_le_bytes(*word)).collect();
    let count = lengths.len();
    if [parts.len(), silent.len(), advantages.len()].iter().any(|other| *other != count) {
        return Err("its tensors are of different numbers of rollouts".to_owned());
    }
    let mut bounds = bounds.as_chunks().0.iter().map(|[start, end]| *start as usize..*end as usize);
    let (mut ids, mut log_probs, mut all) = (ids.into_iter(), log_probs.into_iter(), Vec::with_capacity(count));
    for index in 0..count {
        let (length, parts) = (lengths[index] as usize, parts[index] as usize);
        let own: Vec<u32> = ids.by_ref().take(length).collect();
        let written: Vec<Range<usize>> = bounds.by_ref().take(parts).collect();
        // No part has more tokens than the text, whatever its bounds say.
        let tokens = written.iter().map(|part| part.len().min(length)).fold(0, usize::saturating_add).min(length);
        let known: Vec<f32> = log_probs.by_ref().take(tokens).collect();
        let (advantage, is_silent) = (advantages[index], silent[index] != 0);
        let rollout = Rollout { ids: own, written, log_probs: known, advantage, is_silent };
        if rollout.ids.len() != length || rollout.written.len() != parts || !rollout.fits() {
            return Err(format!("rollout {index} does not fit together"));
        }
        all.push(rollout);
    }
    if ids.next().is_some() || bounds.next().is_some() || log_probs.next().is_some() {
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
        Rollout { ids: ids.to_vec(), written, log_probs, advantage: 0.5, is_silent: false }
    }

    fn episode() -> Rollout {
        let log_probs = vec![-3.0, -4.0, -7.0];
        let ids = vec![1, 2, 3, 4, 5, 6, 7, 8];
        Rollout { ids, written: vec![2..4, 6..7], log_probs, advantage: -0.5, is_silent: false }
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
    }

    #[test]
    fn what_is_kept_is_read_again() {
        let all = vec![rollout(&[1, 2, 3, 4], 2), episode(), rollout(&[5, 6], 1), rollout(&[7], 1)];
        let file = file(&all);
        assert_eq!(parse(&file.bytes).unwrap(), all);
        assert!(parse(&file.bytes[..file.bytes.len() - 1]).is_err());
        for written in [vec![3..4], vec![0..2], vec![2..5], vec![3..4, 2..3], vec![2..3, 2..3], Vec::new()] {
            let mut broken = all.clone();
            broken[0].written = written;
            assert!(parse(&super::file(&broken).bytes).is_err());
        }
    }
}
