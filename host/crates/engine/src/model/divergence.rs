//! How far a model's distributions are from another model's, over the whole vocabulary, and what follows for its output
//! projection. Logits of a few rows at a time are made on the device and compared on the host, so this is the same on each.

use rayon::prelude::*;

use super::causal_lm::Model;
use crate::architecture::config::ModelConfig;
use crate::kernels::cpu::{cap_logits, exponentials};
use crate::kernels::{Format, Gemm, Kernels, at, at_mut};

/// Elements of logits that there are at a time, of each model; at least a row.
pub(super) const LOGITS: usize = 1 << 22;

/// A measure of how far the distribution `p` of a model is from the distribution `q` of its teacher: the generalized
/// Jensen–Shannon divergence (Agarwal et al., "On-policy distillation of language models", eq. 1).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Divergence {
    /// 0 for `KL(q‖p)`, which is the forward one, 1 for `KL(p‖q)`, the reverse one; between them, with `m` the mixture of
    /// `beta` parts `q` and the rest `p`, `beta KL(q‖m) + (1 - beta) KL(p‖m)`.
    pub beta: f64,
}

/// Sums over some positions, in nats.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Divergences {
    /// Of the divergence.
    pub divergence: f64,
    /// Of the model's own entropy.
    pub entropy: f64,
}

impl std::iter::Sum for Divergences {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), |sum, one| Self {
            divergence: sum.divergence + one.divergence,
            entropy: sum.entropy + one.entropy,
        })
    }
}

/// Logits of a position as a distribution.
struct Distribution<'a> {
    logits: &'a [f32],
    weights: &'a [f32],
    /// Of the weights.
    total: f64,
    /// Logits less this are logarithms of probabilities.
    shift: f64,
}

impl<'a> Distribution<'a> {
    /// `weights` is room for as many numbers.
    fn of(logits: &'a [f32], weights: &'a mut Vec<f32>) -> Self {
        weights.clear();
        weights.extend_from_slice(logits);
        let largest = exponentials(weights, 1.0).0;
        let total: f64 = weights.iter().map(|&weight| f64::from(weight)).sum();
        Self { logits, weights, total, shift: f64::from(largest) + total.ln() }
    }

    fn log(&self, id: usize) -> f64 {
        f64::from(self.logits[id]) - self.shift
    }

    fn probability(&self, id: usize) -> f64 {
        if self.logits[id] == f32::NEG_INFINITY { 0.0 } else { f64::from(self.weights[id]) / self.total }
    }
}

/// A probability times a logarithm; nothing where there is no probability.
fn part(probability: f64, log: f64) -> f64 {
    if probability > 0.0 { probability * log } else { 0.0 }
}

impl Divergence {
    /// Of one position. `slopes` gets the derivatives with respect to the model's own logits; `scratch` is room.
    fn row(self, own: &[f32], other: &[f32], slopes: &mut [f32], scratch: &mut [Vec<f32>; 2]) -> Divergences {
        let [own_weights, other_weights] = scratch;
        let (p, q) = (Distribution::of(own, own_weights), Distribution::of(other, other_weights));
        match self.beta {
            beta if beta <= 0.0 => Self::forward(&p, &q, slopes),
            beta if beta >= 1.0 => Self::reverse(&p, |id, _| q.log(id), 1.0, slopes),
            beta => {
                // `ln m`, and with it both parts.
                let mixture = |id: usize, own: f64| (beta * q.probability(id) + (1.0 - beta) * own).ln();
                let reverse = Self::reverse(&p, mixture, 1.0 - beta, slopes);
                let ids = 0..other.len();
                let forward: f64 =
                    ids.map(|id| part(q.probability(id), q.log(id) - mixture(id, p.probability(id)))).sum();
                Divergences { divergence: beta * forward + reverse.divergence, ..reverse }
            }
        }
    }

    fn forward(p: &Distribution<'_>, q: &Distribution<'_>, slopes: &mut [f32]) -> Divergences {
        let mut sum = Divergences::default();
        for (id, slope) in slopes.iter_mut().enumerate() {
            let (own, other) = (p.probability(id), q.probability(id));
            sum.divergence += part(other, q.log(id) - p.log(id));
            sum.entropy -= part(own, p.log(id));
            *slope = (own - other) as f32;
        }
        sum
    }

    /// `weight` times the divergence of the model's own distribution from another one, and all of its derivative. Where that
    /// one is a mixture with the model's own, its part in the other half of the divergence is in it too.
    fn reverse(
        p: &Distribution<'_>,
        log_of: impl Fn(usize, f64) -> f64,
        weight: f64,
        slopes: &mut [f32],
    ) -> Divergences {
        let (mut divergence, mut entropy) = (0.0, 0.0);
        for (id, slope) in slopes.iter_mut().enumerate() {
            let (own, log) = (p.probability(id), p.log(id));
            let ratio = log - log_of(id, own);
            divergence += part(own, ratio);
            entropy -= part(own, log);
            *slope = ratio as f32;
        }
        for (id, slope) in slopes.iter_mut().enumerate() {
            *slope = (weight * part(p.probability(id), f64::from(*slope) - divergence)) as f32;
        }
        Divergences { divergence: weight * divergence, entropy }
    }
}

/// Bytes on the host while models of these sizes are compared at `tokens` positions: their rows with what is made of them, and
/// logits with their derivatives.
pub(crate) fn host_bytes(own: &ModelConfig, other: &ModelConfig, tokens: usize) -> u64 {
    let v = own.vocab_size;
    let logits = 3 * v * (LOGITS / v).max(1);
    4 * (logits + tokens * (3 * own.hidden_size + 2 * other.hidden_size)) as u64
}

/// Where the gradients of a comparison go.
pub(crate) struct ComparisonGradients<'a, B> {
    /// Factor of all of them.
    pub(crate) scale: f32,
    /// That of the model's rows, `[rows, h]`, on the host.
    pub(crate) dx: &'a mut [f32],
    /// That of the output projection, its first element in the buffer, and the factor of what was there.
    pub(crate) dw: Option<(&'a mut B, usize, f32)>,
}

/// Room for comparisons: rows and logits of either model, of as many rows as there are at a time.
#[derive(Debug)]
pub(crate) struct Comparison<B> {
    rows: usize,
    own: B,
    own_slopes: B,
    own_logits: B,
    other: B,
    other_logits: B,
}

impl<B> Comparison<B> {
    /// For models of these widths.
    pub(crate) fn alloc<K: Kernels<Buffer = B>>(own: &Model<K>, other: &Model<K>) -> Self {
        let (kernels, others) = (&own.kernels, &other.kernels);
        let v = own.config.vocab_size;
        let rows = (LOGITS / v).max(1);
        let [wide, narrow] = [other, own].map(|model| rows * model.config.hidden_size);
        Self {
            rows,
            own: kernels.alloc(Format::Working, narrow),
            // The derivatives of logits, and then those of rows.
            own_slopes: kernels.alloc(Format::Working, rows * v + narrow),
            own_logits: kernels.alloc(Format::F32, rows * v),
            other: others.alloc(Format::Working, wide),
            other_logits: others.alloc(Format::F32, rows * v),
        }
    }

    /// Its buffers.
    pub(crate) fn buffers(&self) -> impl Iterator<Item = &B> {
        [&self.own, &self.own_slopes, &self.own_logits, &self.other, &self.other_logits].into_iter()
    }

    /// Compares what two models say at some rows: `own_rows [rows, h]` and `other_rows` are what their output projections read.
    pub(crate) fn compare<K: Kernels<Buffer = B>>(
        &mut self,
        divergence: Divergence,
        (own, own_rows): (&Model<K>, &[f32]),
        (other, other_rows): (&Model<K>, &[f32]),
        mut gradients: Option<ComparisonGradients<'_, B>>,
    ) -> Divergences {
        let (kernels, v) = (&own.kernels, own.config.vocab_size);
        let (h, wide) = (own.config.hidden_size, other.config.hidden_size);
        let mut sum = Divergences::default();
        if let Some(ComparisonGradients { dw: Some((buffer, place, beta)), .. }) = &mut gradients
            && own_rows.is_empty()
            && *beta == 0.0
        {
            kernels.zero(v * h, at_mut(buffer, *place));
        }
        let [mut logits, mut others, mut slopes] = [(); 3].map(|()| Vec::new());
        for (index, (rows, other_rows)) in
            own_rows.chunks(self.rows * h).zip(other_rows.chunks(self.rows * wide)).enumerate()
        {
            let count = rows.len() / h;
            for room in [&mut logits, &mut others, &mut slopes] {
                room.resize(count * v, 0.0);
            }
            logits_of(own, rows, &mut self.own, &mut self.own_logits, &mut logits);
            logits_of(other, other_rows, &mut self.other, &mut self.other_logits, &mut others);
            let each = logits.par_chunks_exact(v).zip(others.par_chunks_exact(v)).zip(slopes.par_chunks_exact_mut(v));
            let each = each.map_init(<[Vec<f32>; 2]>::default, |scratch, ((own, other), slopes)| {
                divergence.row(own, other, slopes, scratch)
            });
            // In their order, whatever the number of threads.
            sum = [sum].into_iter().chain(each.collect::<Vec<_>>()).sum();
            let Some(gradients) = &mut gradients else { continue };
            let (scale, cap) = (gradients.scale, own.config.logits_cap);
            slopes.par_iter_mut().zip(&logits).for_each(|(slope, logit)| {
                // Logits that have a cap are `cap tanh(z / cap)`.
                *slope *= scale * cap.map_or(1.0, |cap| 1.0 - (logit / cap) * (logit / cap));
            });
            kernels.upload(&slopes, at_mut(&mut self.own_slopes, 0));
            if let Some((buffer, place, beta)) = &mut gradients.dw {
                let beta = if index == 0 { *beta } else { 1.0 };
                let product = Gemm::new([v, h, count], (true, false), [v, h, h], beta);
                kernels.gemm(product, at(&self.own_slopes, 0), at(&self.own, 0), at_mut(buffer, *place));
            }
            let product = Gemm::new([count, h, v], (false, false), [v, h, h], 0.0);
            let head = at(&own.params, own.layout.head);
            kernels.gemm(product, at(&self.own_slopes, 0), head, at_mut(&mut self.own, 0));
            kernels.download(at(&self.own, 0), &mut gradients.dx[index * self.rows * h..][..count * h]);
        }
        sum
    }
}

/// Logits of some rows, `[rows, vocabulary]`, on the host. `x` and `made` are room for the rows and their logits.
pub(super) fn logits_of<K: Kernels>(
    model: &Model<K>,
    rows: &[f32],
    x: &mut K::Buffer,
    made: &mut K::Buffer,
    logits: &mut [f32],
) {
    let (kernels, h, v) = (&model.kernels, model.config.hidden_size, model.config.vocab_size);
    kernels.upload(rows, at_mut(x, 0));
    let product = Gemm::new([rows.len() / h, v, h], (false, true), [h, h, v], 0.0);
    kernels.gemm(product, at(x, 0), at(&model.params, model.layout.head), at_mut(made, 0));
    kernels.download(at(made, 0), logits);
    if let Some(cap) = model.config.logits_cap {
        logits.par_chunks_mut(v).for_each(|logits| cap_logits(logits, cap));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn divergence(beta: f64, own: &[f32], other: &[f32]) -> (Divergences, Vec<f32>) {
        let mut slopes = vec![0.0; own.len()];
        let found = Divergence { beta }.row(own, other, &mut slopes, &mut Default::default());
        (found, slopes)
    }

    #[test]
    fn divergences_are_those_of_their_definition() {
        let (own, other) = ([0.0, 2.0_f32.ln()], [3.0_f32.ln(), 0.0]);
        let (p, q) = ([1.0 / 3.0, 2.0 / 3.0], [0.75, 0.25]);
        let kl = |a: &[f64; 2], b: &[f64; 2]| a.iter().zip(b).map(|(a, b)| a * (a / b).ln()).sum::<f64>();
        let expected = |beta: f64| match beta {
            0.0 => kl(&q, &p),
            1.0 => kl(&p, &q),
            beta => {
                let m = [0, 1].map(|id| beta * q[id] + (1.0 - beta) * p[id]);
                beta * kl(&q, &m) + (1.0 - beta) * kl(&p, &m)
            }
        };
        for beta in [0.0, 0.3, 0.5, 1.0] {
            let found = divergence(beta, &own, &other).0;
            assert!((found.divergence - expected(beta)).abs() < 1e-6, "{beta}: {found:?}");
            let entropy = -p.iter().map(|p| p * p.ln()).sum::<f64>();
            assert!((found.entropy - entropy).abs() < 1e-6, "{found:?}");
            assert!(divergence(beta, &own, &own).0.divergence.abs() < 1e-9, "none from itself");
        }
    }

    #[test]
    fn slopes_are_those_of_differences() {
        let (own, other) = ([0.3, -1.2, 2.0, 0.1], [1.0, -0.4, 0.2, -2.0]);
        for beta in [0.0, 0.2, 0.7, 1.0] {
            let slopes = divergence(beta, &own, &other).1;
            for (id, slope) in slopes.iter().enumerate() {
                let moved = |by: f32| {
                    let mut own = own;
                    own[id] += by;
                    divergence(beta, &own, &other).0.divergence
                };
                let expected = (moved(1e-2) - moved(-1e-2)) / 2e-2;
                assert!((f64::from(*slope) - expected).abs() < 1e-4, "{beta} {id}: {slope} {expected}");
            }
        }
    }

    #[test]
    fn what_is_impossible_has_no_part() {
        let (own, other) = ([0.0, 1.0, f32::NEG_INFINITY], [0.5, 0.0, -2.0]);
        for beta in [0.0, 0.5, 1.0] {
            let (found, slopes) = divergence(beta, &own, &other);
            // What the teacher would say and the model cannot is infinitely far.
            assert_eq!(found.divergence.is_finite(), beta > 0.0, "{beta}: {found:?}");
            assert!(slopes.iter().all(|slope| slope.is_finite()), "{beta}: {slopes:?}");
        }
    }
}
