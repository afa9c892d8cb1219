//! A sample as bytes: what a store writes and reads.

use super::super::example::Example;
use super::super::tokenize::TokenSample;

/// Flags of a record.
const REJECTED: u8 = 1;
const WEIGHTS: u8 = 2;
const REJECTED_WEIGHTS: u8 = 4;
const JUDGED: u8 = 8;
const DESIRABLE: u8 = 16;
const MARGIN: u8 = 32;

/// How large a sample is, without its tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sizes {
    /// Tokens of its first text.
    pub first: u32,
    /// Tokens of the rejected text of a pair; 0 where there is none.
    pub rejected: u32,
    /// Tokens of the first text that are learned.
    pub learned: u32,
    /// Tokens of the rejected text that are learned.
    pub rejected_learned: u32,
    /// Labels of its own.
    pub labels: u32,
    /// Tokens before the first that is learned.
    pub prompt: u32,
}

impl Sizes {
    /// Those of a sample.
    pub fn of(example: &Example) -> Self {
        let rejected = example.rejected.as_ref();
        Self {
            first: example.tokens.ids.len() as u32,
            rejected: rejected.map_or(0, |tokens| tokens.ids.len()) as u32,
            learned: example.tokens.trained_tokens() as u32,
            rejected_learned: rejected.map_or(0, TokenSample::trained_tokens) as u32,
            labels: example.labels.len() as u32,
            prompt: example.tokens.prompt_ids().len() as u32,
        }
    }

    /// Tokens of all its texts.
    pub fn tokens(&self) -> usize {
        self.first as usize + self.rejected as usize
    }

    /// Tokens of its longest text.
    pub fn longest(&self) -> usize {
        self.first.max(self.rejected) as usize
    }

    pub(super) fn to_bytes(self) -> [u8; 24] {
        let Self { first, rejected, learned, rejected_learned, labels, prompt } = self;
        let mut bytes = [0; 24];
        let numbers = [first, rejected, learned, rejected_learned, labels, prompt];
        for (place, number) in bytes.chunks_exact_mut(4).zip(numbers) {
            place.copy_from_slice(&number.to_le_bytes());
        }
        bytes
    }

    pub(super) fn from_bytes(bytes: [u8; 24]) -> Self {
        let mut numbers = bytes.chunks_exact(4).map(|bytes| u32::from_le_bytes(bytes.try_into().expect("four bytes")));
        let mut next = || numbers.next().expect("there are six");
        let (first, rejected, learned) = (next(), next(), next());
        Self { first, rejected, learned, rejected_learned: next(), labels: next(), prompt: next() }
    }
}

/// Everything of a sample that is learned from. One sample has one form, so that equal bytes are equal samples.
pub(super) fn encode(example: &Example, out: &mut Vec<u8>) {
    let Example { tokens, rejected, desirable, margin, labels, row_json: _, origin: _ } = example;
    let flag = |is_set: bool, flag: u8| if is_set { flag } else { 0 };
    out.push(
        flag(rejected.is_some(), REJECTED)
            | flag(tokens.weights.is_some(), WEIGHTS)
            | flag(rejected.as_ref().is_some_and(|tokens| tokens.weights.is_some()), REJECTED_WEIGHTS)
            | flag(desirable.is_some(), JUDGED)
            | flag(*desirable == Some(true), DESIRABLE)
            | flag(margin.is_some(), MARGIN),
    );
    for tokens in std::iter::once(tokens).chain(rejected) {
        out.extend((tokens.ids.len() as u32).to_le_bytes());
        out.extend(tokens.ids.iter().flat_map(|id| id.to_le_bytes()));
        let bits = |trained: &[bool]| trained.iter().rev().fold(0, |byte, &bit| byte << 1 | u8::from(bit));
        out.extend(tokens.trained.chunks(8).map(bits));
        out.extend(tokens.weights.iter().flatten().flat_map(|weight| weight.to_le_bytes()));
    }
    out.extend(margin.iter().flat_map(|margin| margin.to_le_bytes()));
    out.extend((labels.len() as u32).to_le_bytes());
    out.extend(labels.iter().flat_map(|label| label.to_le_bytes()));
}

/// A sample without its row; none for bytes that are no sample.
pub(super) fn decode(bytes: &[u8]) -> Option<Example> {
    let mut left = Left(bytes);
    let flags = left.array::<1>()?[0];
    let has = |flag: u8| flags & flag != 0;
    let tokens = left.tokens(has(WEIGHTS))?;
    let rejected = if has(REJECTED) { Some(left.tokens(has(REJECTED_WEIGHTS))?) } else { None };
    let margin = if has(MARGIN) { Some(f64::from_le_bytes(left.array()?)) } else { None };
    let count = u32::from_le_bytes(left.array()?) as usize;
    let labels = left.numbers(count, u32::from_le_bytes)?;
    let desirable = has(JUDGED).then_some(has(DESIRABLE));
    let example = Example { tokens, rejected, desirable, margin, labels, row_json: "".into(), origin: None };
    left.0.is_empty().then_some(example)
}

/// Bytes that are still to be read.
struct Left<'a>(&'a [u8]);

impl<'a> Left<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, left) = self.0.split_at_checked(count)?;
        self.0 = left;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn numbers<T>(&mut self, count: usize, from: impl Fn([u8; 4]) -> T) -> Option<Vec<T>> {
        let bytes = self.take(count.checked_mul(4)?)?;
        Some(bytes.as_chunks().0.iter().map(|bytes| from(*bytes)).collect())
    }

    fn tokens(&mut self, has_weights: bool) -> Option<TokenSample> {
        let count = u32::from_le_bytes(self.array()?) as usize;
        let ids = self.numbers(count, u32::from_le_bytes)?;
        let bits = self.take(count.div_ceil(8))?;
        let trained = (0..count).map(|index| bits[index / 8] >> (index % 8) & 1 == 1).collect();
        let weights = if has_weights { Some(self.numbers(count, f32::from_le_bytes)?) } else { None };
        Some(TokenSample { ids, trained, weights })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(count: u32, weights: bool) -> TokenSample {
        TokenSample {
            ids: (0..count).map(|id| id * 1000).collect(),
            trained: (0..count).map(|id| id % 3 == 1).collect(),
            weights: weights.then(|| (0..count).map(|id| id as f32 / 4.0).collect()),
        }
    }

    #[test]
    fn what_is_written_is_read_and_nothing_else_is() {
        let mut examples = Vec::new();
        for (count, weights) in [(1, false), (8, true), (17, false), (0, true)] {
            for rejected in [None, Some(tokens(9, !weights))] {
                for (desirable, margin) in [(None, Some(0.5)), (Some(true), None), (Some(false), None)] {
                    let (tokens, rejected) = (tokens(count, weights), rejected.clone());
                    let (labels, row_json) = (vec![7; count as usize % 3], "".into());
                    examples.push(Example { tokens, rejected, desirable, margin, labels, row_json, origin: None });
                }
            }
        }
        for example in examples {
            let mut bytes = Vec::new();
            encode(&example, &mut bytes);
            assert_eq!(decode(&bytes).as_ref(), Some(&example));
            assert!((0..bytes.len()).all(|length| decode(&bytes[..length]).is_none()));
            assert_eq!(Sizes::from_bytes(Sizes::of(&example).to_bytes()), Sizes::of(&example));
            bytes.push(0);
            assert_eq!(decode(&bytes), None);
        }
    }
}
