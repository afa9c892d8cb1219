//! Which samples form which micro-batch: decided for a whole epoch at once from the seed, so that a resumed run finds
//! its place by number alone. Without packing a micro-batch is `micro_batch_size` samples; with packing it is
//! `micro_batch_size` bins of at most `sequence_len` tokens. Samples stay separate documents either way.

use std::collections::BTreeMap;

use engine::rng::Philox;
use engine::{Batch, IGNORE};

use super::mix::Mix;
use super::shuffle::shuffle;
use super::tokenize::TokenSample;

/// RNG stream of epoch shuffles; other rooms use other numbers.
const SHUFFLE_STREAM: u64 = 0x7368_7566;

/// How samples are put together.
#[derive(Debug, Clone, PartialEq)]
pub struct BatchOptions {
    /// Samples (or bins) per micro-batch.
    pub micro_batch_size: usize,
    /// Tokens per bin.
    pub sequence_len: usize,
    /// Fill bins with several samples.
    pub sample_packing: bool,
    /// New order each epoch.
    pub shuffle: bool,
    /// How often samples are seen.
    pub mix: Mix,
    /// Of the run.
    pub seed: u64,
}

/// The micro-batches of one epoch, as sample numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EpochPlan {
    samples: Vec<u32>,
    /// Where each micro-batch ends.
    ends: Vec<u32>,
}

impl EpochPlan {
    fn add(&mut self, batch: impl IntoIterator<Item = u32>) {
        self.samples.extend(batch);
        self.ends.push(self.samples.len() as u32);
    }

    /// Micro-batches.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// True without any.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Leaves the first ones.
    pub fn truncate(&mut self, batches: usize) {
        self.ends.truncate(batches);
        self.samples.truncate(self.ends.last().map_or(0, |&end| end as usize));
    }

    /// The samples of a micro-batch; it must be there.
    pub fn batch(&self, index: usize) -> Vec<usize> {
        let start = if index == 0 { 0 } else { self.ends[index - 1] as usize };
        self.samples[start..self.ends[index] as usize].iter().map(|&sample| sample as usize).collect()
    }

    /// All of them, in their order.
    pub fn batches(&self) -> impl Iterator<Item = Vec<usize>> + '_ {
        (0..self.len()).map(|index| self.batch(index))
    }
}

/// Micro-batches of one epoch of samples that have so many tokens.
pub fn plan_epoch(lengths: &[u32], options: &BatchOptions, epoch: u64) -> EpochPlan {
    let mut order = options.mix.order(lengths.len(), options.seed, epoch);
    let mut rng = Philox::new(options.seed, SHUFFLE_STREAM ^ (epoch << 32));
    if options.shuffle {
        shuffle(&mut order, &mut rng);
    }
    if !options.sample_packing {
        let all = order.len() as u32;
        let size = options.micro_batch_size as u32;
        let ends = (0..all).step_by(size as usize).map(|start| all.min(start.saturating_add(size))).collect();
        return EpochPlan { samples: order, ends };
    }
    let mut bins = pack(&order, lengths, options.sequence_len);
    if options.shuffle {
        shuffle(&mut bins, &mut rng);
    }
    let mut plan = EpochPlan::default();
    bins.chunks(options.micro_batch_size).for_each(|bins| plan.add(bins.iter().flatten().copied()));
    plan
}

/// Best-fit decreasing: the longest sample first, each into the fullest bin that still takes it. Ties keep `order`.
fn pack(order: &[u32], lengths: &[u32], capacity: usize) -> Vec<Vec<u32>> {
    let mut by_length = order.to_vec();
    by_length.sort_by_key(|&sample| std::cmp::Reverse(lengths[sample as usize]));
    let mut bins: Vec<Vec<u32>> = Vec::new();
    let mut open: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for sample in by_length {
        let length = lengths[sample as usize] as usize;
        let fit = open.range(length..).next().map(|(&room, _)| room);
        let (bin, room) = match fit {
            Some(room) => {
                let candidates = open.get_mut(&room).expect("the room was just found");
                let bin = candidates.pop().expect("empty lists are removed");
                if candidates.is_empty() {
                    open.remove(&room);
                }
                (bin, room)
            }
            None => {
                bins.push(Vec::new());
                (bins.len() - 1, capacity.max(length))
            }
        };
        bins[bin].push(sample);
        open.entry(room - length).or_default().push(bin);
    }
    bins
}

/// Concatenates samples into what the engine takes: each a document of its own, each token's target the next one.
pub fn assemble<'a>(samples: impl IntoIterator<Item = &'a TokenSample>) -> Batch {
    let (mut ids, mut targets, mut doc_lens) = (Vec::new(), Vec::new(), Vec::new());
    let mut weights: Option<Vec<f32>> = None;
    for sample in samples {
        let start = ids.len();
        ids.extend_from_slice(&sample.ids);
        let next = sample.ids.iter().zip(&sample.trained).skip(1);
        targets.extend(next.map(|(&id, &trained)| if trained { id } else { IGNORE }));
        targets.push(IGNORE);
        doc_lens.push(sample.ids.len() as u32);
        if let Some(own) = &sample.weights {
            let all = weights.get_or_insert_with(|| vec![1.0; start]);
            all.resize(start, 1.0);
            all.extend_from_slice(&own[1..]);
            all.push(1.0);
        } else if let Some(all) = &mut weights {
            all.resize(ids.len(), 1.0);
        }
    }
    Batch { ids, targets, weights, doc_lens }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(sample_packing: bool) -> BatchOptions {
        BatchOptions {
            micro_batch_size: 2,
            sequence_len: 10,
            sample_packing,
            shuffle: true,
            mix: Mix::default(),
            seed: 7,
        }
    }

    fn sample(ids: &[u32], trained: &[bool]) -> TokenSample {
        TokenSample { ids: ids.to_vec(), trained: trained.to_vec(), weights: None }
    }

    #[test]
    fn every_sample_once_an_epoch_and_another_order_each() {
        let lengths = vec![3; 101];
        let (first, second) = (plan_epoch(&lengths, &options(false), 0), plan_epoch(&lengths, &options(false), 1));
        for plan in [&first, &second] {
            let mut seen: Vec<usize> = plan.batches().flatten().collect();
            seen.sort_unstable();
            assert_eq!(seen, (0..101).collect::<Vec<_>>());
            assert!(plan.batches().take(50).all(|batch| batch.len() == 2));
        }
        assert_ne!(first, second);
        assert_eq!(first, plan_epoch(&lengths, &options(false), 0));
    }

    #[test]
    fn samples_that_count_twice_are_packed_twice() {
        let options = BatchOptions { mix: Mix::new([(4, 2.0), (6, 1.0)]), ..options(true) };
        let plan = plan_epoch(&[3; 10], &options, 0);
        let mut seen: Vec<usize> = plan.batches().flatten().collect();
        assert!(!seen.is_sorted());
        seen.sort_unstable();
        assert_eq!(seen, [0, 0, 1, 1, 2, 2, 3, 3, 4, 5, 6, 7, 8, 9]);
    }

    #[test]
    fn packing_fills_bins_and_never_overfills_them() {
        let lengths = [7, 3, 5, 5, 2, 9, 1, 4, 6];
        let order: Vec<u32> = (0..lengths.len() as u32).collect();
        let bins = pack(&order, &lengths, 10);
        let fill: Vec<u32> = bins.iter().map(|bin| bin.iter().map(|&sample| lengths[sample as usize]).sum()).collect();
        assert!(fill.iter().all(|&tokens| tokens <= 10), "{fill:?}");
        assert_eq!(fill.iter().sum::<u32>(), 42);
        assert_eq!(bins.len(), 5);
    }

    #[test]
    fn targets_are_the_next_token_and_stop_at_the_end_of_a_document() {
        let batch = assemble([&sample(&[1, 2, 3], &[false, true, true]), &sample(&[4, 5], &[true, false])]);
        assert_eq!(batch.ids, [1, 2, 3, 4, 5]);
        assert_eq!(batch.targets, [2, 3, IGNORE, IGNORE, IGNORE]);
        assert_eq!(batch.doc_lens, [3, 2]);
        assert_eq!(batch.weights, None);
    }

    #[test]
    fn weights_stand_where_the_target_stands() {
        let mut weighted = sample(&[4, 5, 6], &[false, true, true]);
        weighted.weights = Some(vec![1.0, 0.5, 2.0]);
        let plain = sample(&[1, 2], &[true, true]);
        let batch = assemble([&plain, &weighted, &plain]);
        assert_eq!(batch.weights, Some(vec![1.0, 1.0, 0.5, 2.0, 1.0, 1.0, 1.0]));
    }
}
