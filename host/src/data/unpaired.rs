//! Answers that are wanted or not, as an objective takes them: beside its own answer, each prompt has one to another prompt, from
//! which the divergence from the reference is estimated.

use engine::objective::Unpaired;

use super::batches::{KeptFile, Samples};
use super::packing::assemble;
use super::set::Set;
use super::store::StoreError;
use super::tokenize::TokenSample;

/// A prompt with the answer to the sample before it; the first with that to the last. TRL does so within each batch of a fixed
/// order; here it is done once for all samples, so that an epoch may have an order of its own.
///
/// # Errors
/// Samples that cannot be read.
pub fn mismatched(set: &Set, sample: usize, sequence_len: usize) -> Result<TokenSample, StoreError> {
    let other = set.get(sample.checked_sub(1).unwrap_or(set.len() - 1))?.tokens;
    let own = set.get(sample)?.tokens;
    let (prompt, start) = (own.prompt_ids(), other.prompt_ids().len());
    let mut tokens = TokenSample {
        ids: [prompt, &other.ids[start..]].concat(),
        trained: [&vec![false; prompt.len()], &other.trained[start..]].concat(),
        weights: None,
    };
    tokens.truncate(sequence_len);
    Ok(tokens)
}

/// Answers that are wanted or not.
#[derive(Debug, Clone, Copy)]
pub struct UnpairedOf<'a> {
    /// The answers.
    pub set: &'a Set,
    /// Tokens that a document has at most.
    pub sequence_len: usize,
    /// What the reference says: of each sample one number, or with `is_mismatched` one more.
    pub reference: &'a [f64],
    /// The prompts come with answers to others too.
    pub is_mismatched: bool,
    /// What a checkpoint keeps of the reference.
    pub kept: Option<&'a KeptFile>,
}

impl Samples for UnpairedOf<'_> {
    type Batch = Unpaired;

    fn set(&self) -> &Set {
        self.set
    }

    fn kept(&self) -> Vec<KeptFile> {
        self.kept.into_iter().cloned().collect()
    }

    fn batch(&self, samples: &[usize]) -> Result<Unpaired, StoreError> {
        let examples = self.set.some(samples)?;
        let width = 1 + usize::from(self.is_mismatched);
        let said = |column: usize| samples.iter().map(|&sample| self.reference[sample * width + column]).collect();
        let mut answers = Unpaired {
            batch: assemble(examples.iter().map(|example| &example.tokens)),
            desirable: examples.iter().map(|example| example.desirable == Some(true)).collect(),
            reference: said(0),
            ..Unpaired::default()
        };
        if self.is_mismatched {
            let others = samples.iter().map(|&sample| mismatched(self.set, sample, self.sequence_len));
            answers.mismatched = assemble(&others.collect::<Result<Vec<_>, _>>()?);
            answers.mismatched_reference = said(1);
        }
        Ok(answers)
    }
}

#[cfg(test)]
mod tests {
    use super::super::example::Example;
    use super::*;

    fn example(prompt: &[u32], answer: &[u32], desirable: bool) -> Example {
        let ids = [prompt, answer].concat();
        let trained = (0..ids.len()).map(|index| index >= prompt.len()).collect();
        let tokens = TokenSample { ids, trained, weights: None };
        Example {
            tokens,
            rejected: None,
            desirable: Some(desirable),
            margin: None,
            labels: Vec::new(),
            row_json: "{}".into(),
            origin: None,
        }
    }

    #[test]
    fn a_prompt_gets_the_answer_to_the_one_before() {
        let set = [example(&[1, 2], &[3], true), example(&[4], &[5, 6], false), example(&[7], &[8, 9], true)];
        let set = Set::of(&set).unwrap();
        let ids = |sample| mismatched(&set, sample, 4).unwrap().ids;
        assert_eq!([ids(0), ids(1), ids(2)], [vec![1, 2, 8, 9], vec![4, 3], vec![7, 5, 6]]);
        assert_eq!(mismatched(&set, 0, 3).unwrap().trained, [false, false, true]);
    }

    #[test]
    fn a_batch_has_both_answers_and_what_the_reference_says_of_each() {
        let set = Set::of(&[example(&[1, 2], &[3], true), example(&[4], &[5, 6], false)]).unwrap();
        let reference = [-1.0, -2.0, -3.0, -4.0];
        let all = UnpairedOf { set: &set, sequence_len: 8, reference: &reference, is_mismatched: true, kept: None };
        let batch = all.batch(&[1, 0]).unwrap();
        assert_eq!((batch.batch.ids, batch.mismatched.ids), (vec![4, 5, 6, 1, 2, 3], vec![4, 3, 1, 2, 5, 6]));
        assert_eq!((batch.desirable, batch.reference), (vec![false, true], vec![-3.0, -1.0]));
        assert_eq!(batch.mismatched_reference, [-4.0, -2.0]);
        let plain = UnpairedOf { reference: &reference[..2], is_mismatched: false, ..all }.batch(&[1]).unwrap();
        assert_eq!((plain.reference, plain.mismatched.ids.len()), (vec![-2.0], 0));
    }
}
