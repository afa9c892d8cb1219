//! What the base model says of texts, as a number for each row. A number depends on the row's texts alone, for any number of
//! threads; with AMX or on a GPU its last bits may depend on the texts beside them.

use engine::kernels::Kernels;
use engine::kernels::cpu::CpuKernels;
use engine::memory::reading;
use engine::model::{Model, Reader};
use engine::workload::BatchShape;
use engine::{Batch, EngineError, IGNORE};
use rayon::prelude::*;

use crate::check::facts::ModelFacts;
use crate::data::packing::assemble;
use crate::data::tokenize::TokenSample;
use crate::device::Device;
use crate::diagnostic::{Diagnostic, Failure};
use crate::memory::largest_memory_bytes;
use crate::report::progress::bytes;

/// What is measured.
#[derive(Debug, Clone)]
pub(super) enum Measuring {
    /// `exp` of the mean negative log-likelihood of the learned tokens.
    Perplexity,
    /// The share of the learned tokens that are the likeliest.
    Accuracy,
    /// The digit that follows each text, as an expectation over these tokens, which mean 1, 2, 3, 4 and 5.
    Judge { digits: [u32; 5] },
    /// The cosine similarity to the nearest of these rows' texts.
    Similarity { targets: Vec<Vec<TokenSample>> },
}

/// Measures rows, each by its texts.
pub(super) trait Measure {
    /// A number for each row. One that is not finite means nothing.
    fn measure(&mut self, rows: &[&[TokenSample]]) -> Result<Vec<f64>, EngineError>;
}

/// Loads the model on a device. A pass of it is over `most` tokens at most, or one text, which has `longest` at most.
pub(super) fn load(
    facts: &ModelFacts,
    device: &Device,
    measuring: &Measuring,
    (most, longest): (usize, usize),
) -> Result<Box<dyn Measure>, Failure> {
    within_memory(facts, device, most.max(longest))?;
    match device {
        Device::Cpu => on(CpuKernels, facts, measuring, most),
        Device::Cuda(gpu, precision) => on(Device::open(gpu, *precision)?, facts, measuring, most),
    }
}

/// What would need more than all memory of the machine is refused before it is taken. A GPU says itself when it is full.
fn within_memory(facts: &ModelFacts, device: &Device, tokens: usize) -> Result<(), Failure> {
    let Some(there) = largest_memory_bytes().filter(|_| *device == Device::Cpu) else { return Ok(()) };
    let longest = tokens.min(facts.config.max_position_embeddings);
    let needed = reading(device.profile(), &facts.config, BatchShape { tokens, targets: 1, longest })?;
    if needed <= there {
        return Ok(());
    }
    let message = format!("scoring needs {} of memory; this machine has {}", bytes(needed), bytes(there));
    let help = "lower `micro_batch_size` or `sequence_len`, or take a smaller model";
    Err(Diagnostic::error("curation::memory", message).help(help).into())
}

fn on<K: Kernels + 'static>(
    kernels: K,
    facts: &ModelFacts,
    measuring: &Measuring,
    most: usize,
) -> Result<Box<dyn Measure>, Failure> {
    let model = Model::on(kernels, facts.config.clone(), &facts.weights, None)?;
    let mut loaded = OnDevice { reader: Reader::new(model)?, measuring: measuring.clone(), most, targets: Vec::new() };
    if let Measuring::Similarity { targets } = measuring {
        let texts: Vec<&TokenSample> = targets.iter().flatten().collect();
        let mut embeddings = Vec::new();
        for texts in passes(&texts, most) {
            embeddings.extend(loaded.embeddings(texts)?);
        }
        loaded.targets = embeddings;
    }
    Ok(Box::new(loaded))
}

struct OnDevice<K: Kernels> {
    reader: Reader<K>,
    measuring: Measuring,
    most: usize,
    /// Embeddings that texts are compared with, of length 1.
    targets: Vec<Vec<f64>>,
}

/// What is known of a text; those of a row are put together.
#[derive(Debug, Clone, Copy)]
struct Part {
    /// Of a similarity the similarity, else a sum.
    value: f64,
    /// What the sum is over.
    count: f64,
}

impl<K: Kernels> Measure for OnDevice<K> {
    fn measure(&mut self, rows: &[&[TokenSample]]) -> Result<Vec<f64>, EngineError> {
        let texts: Vec<&TokenSample> = rows.iter().copied().flatten().collect();
        let mut parts = Vec::with_capacity(texts.len());
        for texts in passes(&texts, self.most) {
            parts.extend(self.parts(texts)?);
        }
        let mut parts = parts.into_iter();
        Ok(rows.iter().map(|texts| self.whole(parts.by_ref().take(texts.len()))).collect())
    }
}

impl<K: Kernels> OnDevice<K> {
    /// A part for each text, from one pass.
    fn parts(&mut self, texts: &[&TokenSample]) -> Result<Vec<Part>, EngineError> {
        let batch = batch(texts);
        match &self.measuring {
            Measuring::Perplexity => {
                let log_probs = self.reader.log_probs(&batch)?;
                Ok(sums(&batch, |position| -f64::from(log_probs[position])))
            }
            Measuring::Accuracy => {
                let hits = self.reader.hits(&batch)?;
                Ok(sums(&batch, |position| f64::from(u8::from(hits[position]))))
            }
            Measuring::Judge { digits } => {
                let logits = self.reader.next_logits(&batch)?;
                let rows = logits.chunks_exact(logits.len() / texts.len());
                Ok(rows.map(|logits| Part { value: expected(logits, digits), count: 1.0 }).collect())
            }
            Measuring::Similarity { .. } => {
                let embeddings = self.embeddings(texts)?;
                let nearest = |own: &Vec<f64>| {
                    self.targets.par_iter().map(|target| dot(own, target)).reduce(|| f64::NEG_INFINITY, f64::max)
                };
                Ok(embeddings.iter().map(|own| Part { value: nearest(own), count: 1.0 }).collect())
            }
        }
    }

    /// The number of a row from those of its texts.
    fn whole(&self, parts: impl Iterator<Item = Part>) -> f64 {
        if matches!(self.measuring, Measuring::Similarity { .. }) {
            return parts.map(|part| part.value).fold(f64::NEG_INFINITY, f64::max);
        }
        let sum = parts.fold(Part { value: 0.0, count: 0.0 }, |sum, part| Part {
            value: sum.value + part.value,
            count: sum.count + part.count,
        });
        let mean = sum.value / sum.count;
        if matches!(self.measuring, Measuring::Perplexity) { mean.exp() } else { mean }
    }

    /// Of each text the mean of its last hidden states, weighted by their positions from 1, as a vector of length 1.
    fn embeddings(&mut self, texts: &[&TokenSample]) -> Result<Vec<Vec<f64>>, EngineError> {
        let batch = batch(texts);
        let hidden = self.reader.hidden(&batch)?;
        let width = hidden.len() / batch.ids.len();
        let documents: Vec<_> = batch.documents().collect();
        let embedding = |document: std::ops::Range<usize>| {
            let mut sum = vec![0.0; width];
            for (place, position) in document.enumerate() {
                let weight = (place + 1) as f64;
                let state = &hidden[position * width..][..width];
                sum.iter_mut().zip(state).for_each(|(sum, &value)| *sum += weight * f64::from(value));
            }
            let length = dot(&sum, &sum).sqrt();
            sum.into_iter().map(|value| value / length).collect()
        };
        Ok(documents.into_par_iter().map(embedding).collect())
    }
}

/// Texts one after another, of so many tokens at most together, or one.
fn passes<'a, 't>(texts: &'a [&'t TokenSample], most: usize) -> impl Iterator<Item = &'a [&'t TokenSample]> {
    let mut left = texts;
    std::iter::from_fn(move || {
        let mut tokens = 0;
        let fits = |text: &&TokenSample| {
            tokens += text.ids.len();
            tokens <= most
        };
        let count = left.iter().copied().take_while(fits).count().max(1).min(left.len());
        let (texts, behind) = left.split_at(count);
        left = behind;
        (!texts.is_empty()).then_some(texts)
    })
}

/// Texts as a batch whose targets are what is learned of them, with a weight above zero.
fn batch(texts: &[&TokenSample]) -> Batch {
    let mut batch = assemble(texts.iter().copied());
    if let Some(weights) = batch.weights.take() {
        batch
            .targets
            .iter_mut()
            .zip(weights)
            .filter(|(_, weight)| *weight <= 0.0)
            .for_each(|(target, _)| *target = IGNORE);
    }
    batch
}

/// The sum of a number over the learned positions of each document.
fn sums(batch: &Batch, of: impl Fn(usize) -> f64) -> Vec<Part> {
    let documents = batch.learned();
    documents.map(|learned| Part { count: learned.len() as f64, value: learned.into_iter().map(&of).sum() }).collect()
}

/// The expected digit, from 1 to 5, of a distribution that is nothing but those.
fn expected(logits: &[f32], digits: &[u32; 5]) -> f64 {
    let logits = digits.map(|digit| f64::from(logits[digit as usize]));
    let most = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights = logits.map(|logit| (logit - most).exp());
    let total: f64 = weights.iter().sum();
    weights.iter().zip(1..).map(|(weight, digit)| weight / total * f64::from(digit)).sum()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use engine::architecture::config::ModelConfig;
    use engine::weights::WeightSource;

    use super::*;

    fn text(ids: std::ops::Range<u32>, learned: impl Fn(usize) -> bool) -> TokenSample {
        let trained = (0..ids.len()).map(learned).collect();
        TokenSample { ids: ids.map(|id| 7 + id * 37 % 1100).collect(), trained, weights: None }
    }

    fn measured(measuring: Measuring, most: usize, rows: &[&[TokenSample]]) -> Vec<f64> {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/curation_scores/model");
        let config = ModelConfig::from_dir(&directory).unwrap();
        let model = Model::load(config, &WeightSource::Directory(directory), None).unwrap();
        let reader = Reader::new(model).unwrap();
        OnDevice { reader, measuring, most, targets: Vec::new() }.measure(rows).unwrap()
    }

    #[test]
    fn the_texts_of_a_row_count_by_their_learned_tokens() {
        let (a, b) = (text(0..9, |_| true), text(20..55, |place| place > 20));
        let rows = [&[a.clone(), b.clone()][..], std::slice::from_ref(&a), std::slice::from_ref(&b)];
        for (measuring, of_mean) in
            [(Measuring::Perplexity, f64::ln as fn(f64) -> f64), (Measuring::Accuracy, |share| share)]
        {
            let [both, a, b] = measured(measuring.clone(), 64, &rows)[..] else { panic!("three rows") };
            // 8 tokens of the first have one before them; 14 of the second are learned.
            let expected = (8.0 * of_mean(a) + 14.0 * of_mean(b)) / 22.0;
            assert!((of_mean(both) - expected).abs() < 1e-9, "{measuring:?}: {both} {expected}");
        }
    }

    #[test]
    fn tokens_without_a_weight_do_not_count() {
        let masked = text(0..20, |place| place % 3 == 0);
        let weights = masked.trained.iter().map(|&trained| if trained { 0.3 } else { 0.0 }).collect();
        let weighted = TokenSample { trained: vec![true; 20], weights: Some(weights), ..masked.clone() };
        let rows = [&[weighted][..], &[masked]];
        let [weighted, masked] = measured(Measuring::Perplexity, 64, &rows)[..] else { panic!("two rows") };
        assert_eq!(weighted.to_bits(), masked.to_bits());
    }

    #[test]
    fn a_pass_has_as_many_texts_as_fit() {
        let texts: Vec<TokenSample> = [3, 4, 2, 30, 1, 9, 1].map(|length| text(0..length, |_| true)).into();
        let texts: Vec<&TokenSample> = texts.iter().collect();
        let lengths: Vec<Vec<usize>> =
            passes(&texts, 10).map(|texts| texts.iter().map(|text| text.ids.len()).collect()).collect();
        assert_eq!(lengths, [vec![3, 4, 2], vec![30], vec![1, 9], vec![1]]);
        assert_eq!(passes(&[], 10).count(), 0);
    }

    #[test]
    fn a_digit_is_expected_by_its_probabilities() {
        let mut logits = [f32::NEG_INFINITY; 8];
        // 2 and 5, three to one; what is no digit does not count.
        (logits[0], logits[3], logits[6]) = (50.0, 3.0_f32.ln() - 2.0, -2.0);
        assert!((expected(&logits, &[2, 3, 4, 5, 6]) - (0.75 * 2.0 + 0.25 * 5.0)).abs() < 1e-6);
    }
}
