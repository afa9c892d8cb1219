//! A set of samples that a run learns from, or is judged by: those of its stores, one after the other, or a choice of them.

use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::dropped::Dropped;
use super::example::Example;
use super::mix::Mix;
use super::store::{Builder, Frame, Sizes, Store, StoreError};
use crate::digest::hex;

/// Samples, by number. A copy is the same samples.
#[derive(Debug, Clone, Default)]
pub struct Set {
    stores: Arc<[Store]>,
    /// Which of all samples, in their order; all of them without.
    chosen: Option<Arc<[u32]>>,
    /// What samples count, by their stores; 1 for the stores behind the last.
    weights: Arc<[f64]>,
}

impl Set {
    /// All samples of some stores.
    pub fn new(stores: Vec<Store>) -> Self {
        Self { stores: stores.into(), ..Self::default() }
    }

    /// The same, of which those of each store count as much as `weights` says.
    #[must_use]
    pub fn weighted(self, weights: Vec<f64>) -> Self {
        Self { weights: weights.into(), ..self }
    }

    /// Samples that are in memory, in a file without a name.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn of(examples: &[Example]) -> Result<Self, StoreError> {
        let mut builder = Builder::unnamed(false)?;
        let dropped = Dropped::default();
        builder.add(&Frame::new(examples, &dropped), &dropped)?;
        Ok(Self::new(vec![builder.finish()?]))
    }

    /// Some of its samples, by their numbers; of one that is all of its stores.
    #[must_use]
    pub fn choose(&self, samples: Vec<u32>) -> Self {
        Self { chosen: Some(samples.into()), ..self.clone() }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.chosen.as_ref().map_or_else(|| self.stores.iter().map(Store::len).sum(), |chosen| chosen.len())
    }

    /// True without any.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// One of them; it must be there.
    ///
    /// # Errors
    /// A file that cannot be read, or that is damaged.
    pub fn get(&self, sample: usize) -> Result<Example, StoreError> {
        let (store, sample) = self.place(sample);
        self.stores[store].get(sample)
    }

    /// The number of its store and that in the store.
    pub fn place(&self, sample: usize) -> (usize, usize) {
        let mut sample = self.chosen.as_ref().map_or(sample, |chosen| chosen[sample] as usize);
        for (index, store) in self.stores.iter().enumerate() {
            if sample < store.len() {
                return (index, sample);
            }
            sample -= store.len();
        }
        panic!("sample {sample} behind the last is asked for")
    }

    /// Some of them, in the order that is asked for.
    ///
    /// # Errors
    /// A file that cannot be read, or that is damaged.
    pub fn some(&self, samples: &[usize]) -> Result<Vec<Example>, StoreError> {
        samples.iter().map(|&sample| self.get(sample)).collect()
    }

    /// All of them, read one at a time.
    pub fn iter(&self) -> impl Iterator<Item = Result<Example, StoreError>> + '_ {
        (0..self.len()).map(|sample| self.get(sample))
    }

    /// How large they are, in their order.
    pub fn sizes(&self) -> impl Iterator<Item = Result<Sizes, StoreError>> + '_ {
        let mut chosen = self.chosen.as_ref().map(|chosen| chosen.iter().peekable());
        let all = self.stores.iter().flat_map(Store::sizes).enumerate();
        // The chosen ones are in the order of all.
        all.filter(move |(index, _)| match &mut chosen {
            Some(chosen) => chosen.next_if(|next| **next as usize == *index).is_some(),
            None => true,
        })
        .map(|(_, sizes)| sizes)
    }

    /// Tokens of each.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn lengths(&self) -> Result<Vec<u32>, StoreError> {
        self.sizes().map(|sizes| sizes.map(|sizes| sizes.tokens() as u32)).collect()
    }

    /// How often they are seen in an epoch.
    pub fn mix(&self) -> Mix {
        let mut counts: Vec<usize> = self.stores.iter().map(Store::len).collect();
        if self.chosen.is_some() {
            counts.fill(0);
            (0..self.len()).for_each(|sample| counts[self.place(sample).0] += 1);
        }
        let weights = self.weights.iter().copied().chain(std::iter::repeat(1.0));
        Mix::new(counts.into_iter().zip(weights))
    }

    /// SHA-256 of its samples and their order.
    pub fn digest(&self) -> String {
        let mut hasher = Sha256::new();
        self.stores.iter().for_each(|store| hasher.update(store.digest()));
        for number in self.chosen.iter().flat_map(|chosen| chosen.iter()) {
            hasher.update(number.to_le_bytes());
        }
        hex(&hasher.finalize())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::tokenize::TokenSample;

    #[test]
    fn a_choice_of_two_stores_is_in_order() {
        let examples = |ids: std::ops::Range<u32>| -> Vec<Example> {
            let tokens =
                |id: u32| TokenSample { ids: vec![id; id as usize], trained: vec![true; id as usize], weights: None };
            ids.map(|id| Example {
                tokens: tokens(id),
                rejected: None,
                desirable: None,
                margin: None,
                labels: Vec::new(),
                row_json: "{}".into(),
                origin: None,
            })
            .collect()
        };
        let store = |ids| {
            let mut builder = Builder::unnamed(false).unwrap();
            builder.add(&Frame::new(&examples(ids), &Dropped::default()), &Dropped::default()).unwrap();
            builder.finish().unwrap()
        };
        let all = Set::new(vec![store(1..4), store(4..4), store(4..8)]);
        assert_eq!(all.lengths().unwrap(), [1, 2, 3, 4, 5, 6, 7]);
        let some = all.choose(vec![0, 2, 3, 6]);
        assert_eq!(some.lengths().unwrap(), [1, 3, 4, 7]);
        let lengths: Vec<usize> = some.iter().map(|example| example.unwrap().tokens.ids.len()).collect();
        assert_eq!(lengths, [1, 3, 4, 7]);
        assert_eq!((some.place(2), some.len()), ((2, 0), 4));
        assert!(all.mix().is_even() && some.mix().is_even());
        let weighted = all.weighted(vec![2.0]).choose(vec![0, 2, 3, 6]);
        assert_eq!(weighted.mix().order(4, 0, 0), [0, 1, 0, 1, 2, 3]);
    }
}
