//! Logits in, a token and its log-probability out: the processors of transformers in their order (repetition penalty,
//! temperature, top-k, top-p, min-p; `_get_logits_processor` of `generation/utils.py`), then the likeliest token or a draw.
//! Nothing is sorted but what may be drawn.

use super::options::GenerateOptions;
use crate::kernels::cpu::exponentials;
use crate::rng::{Philox, stream_of};

/// A token that was chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Choice {
    pub(super) id: u32,
    /// Natural logarithm of its probability in the distribution that it was drawn from.
    pub(super) log_prob: f32,
    /// Entropy of that distribution before it was cut, in nats, where it is wanted.
    pub(super) entropy: Option<f32>,
}

/// Candidates that are sorted first when only a share of the probability is wanted; then four times as many, and so on.
const RANKED: usize = 256;

/// The next token of a sequence whose tokens are `ids`. `draw` is the sequence's number and the number of the token: each draw
/// has random numbers of its own. `logits` are used up; `scratch` is room that is kept from call to call.
///
/// The log-probability is that of the logits divided by the temperature, over the tokens that top-k, top-p and min-p leave; where
/// nothing is drawn, that of the logits as they are. A repetition penalty counts in both.
pub(super) fn next_token(
    logits: &mut [f32],
    scratch: &mut Vec<f32>,
    ids: &[u32],
    options: &GenerateOptions,
    draw: (u64, u64),
) -> Choice {
    #[expect(clippy::float_cmp, reason = "1 is the exact default, not a computed value")]
    if options.repetition_penalty != 1.0 {
        penalize(logits, ids, options.repetition_penalty as f32);
    }
    scratch.clear();
    scratch.extend_from_slice(logits);
    let weights = logits;
    let logits = scratch.as_slice();
    let scale = if options.do_sample { (1.0 / options.temperature) as f32 } else { 1.0 };
    let (largest, total) = exponentials(weights, scale);
    let entropy = options.tells_entropy.then(|| entropy(logits, weights, scale, largest));
    let choice = |id: usize, total: f32| {
        let log_prob = logits[id] * scale - (largest + total.ln());
        Choice { id: id as u32, log_prob, entropy }
    };
    if !options.do_sample {
        return choice(argmax(logits), total);
    }
    let uniform = Philox::new(options.seed, stream_of("sample") ^ (draw.0 << 32) ^ draw.1).next_f64();
    let is_cut = options.top_p < 1.0 || (options.top_k > 0 && options.top_k < logits.len()) || options.min_p > 0.0;
    if !is_cut {
        let sum: f64 = weights.iter().map(|&weight| f64::from(weight)).sum();
        return choice(pick(weights.iter().copied(), uniform * sum), total);
    }
    let kept = kept(logits, weights, options);
    let sum: f64 = kept.iter().map(|&id| f64::from(weights[id as usize])).sum();
    let place = pick(kept.iter().map(|&id| weights[id as usize]), uniform * sum);
    choice(kept[place] as usize, sum as f32)
}

/// Entropy of a distribution in nats; the weights are exponentials of `logits * scale - largest`.
fn entropy(logits: &[f32], weights: &[f32], scale: f32, largest: f32) -> f32 {
    let (mut total, mut sum) = (0.0_f64, 0.0_f64);
    for (&logit, &weight) in logits.iter().zip(weights) {
        let exponent = logit * scale - largest;
        total += f64::from(weight);
        // A logit of minus infinity has no part in it.
        if exponent.is_finite() {
            sum += f64::from(weight) * f64::from(exponent);
        }
    }
    (total.ln() - sum / total) as f32
}

/// The place where the sum of the weights so far goes beyond `rest`.
fn pick(weights: impl Iterator<Item = f32>, mut rest: f64) -> usize {
    let mut last = 0;
    for (place, weight) in weights.enumerate() {
        rest -= f64::from(weight);
        if rest < 0.0 {
            return place;
        }
        // What has no weight is not drawn, even where rounding has left something over.
        if weight > 0.0 {
            last = place;
        }
    }
    last
}

/// The tokens that may be drawn, the likeliest first; of equal ones that of the lower number. At least one.
fn kept(logits: &[f32], weights: &[f32], options: &GenerateOptions) -> Vec<u32> {
    let count = logits.len();
    let top_k = if options.top_k == 0 { count } else { options.top_k.min(count) };
    let mut ids: Vec<u32> = (0..count as u32).collect();
    let order = |a: &u32, b: &u32| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b));
    let sum = |ids: &[u32]| -> f64 { ids.iter().map(|&id| f64::from(weights[id as usize])).sum() };
    if top_k < count {
        ids.select_nth_unstable_by(top_k - 1, order);
        ids.truncate(top_k);
    }
    let wanted = options.top_p * sum(&ids);
    let mut ranked = 0;
    let mut size = RANKED;
    loop {
        // The likeliest `size` in their order, in front.
        if size < ids.len() {
            ids[ranked..].select_nth_unstable_by(size - ranked - 1, order);
        }
        let end = size.min(ids.len());
        ids[ranked..end].sort_unstable_by(order);
        ranked = end;
        // A token stays if those before it do not reach the share yet, so at least one stays.
        let mut before = 0.0;
        let is_all = ranked == ids.len();
        let cut = ids[..ranked].iter().position(|&id| {
            let weight = f64::from(weights[id as usize]);
            let stays = (options.top_p >= 1.0 || before < wanted)
                && weight >= options.min_p * f64::from(weights[ids[0] as usize]);
            before += weight;
            !stays
        });
        if let Some(cut) = cut {
            ids.truncate(cut.max(1));
            return ids;
        }
        if is_all {
            return ids;
        }
        size *= 4;
    }
}

/// Keskar et al., "CTRL", section 4.1; each token counts once.
fn penalize(logits: &mut [f32], ids: &[u32], penalty: f32) {
    let mut seen = ids.to_vec();
    seen.sort_unstable();
    seen.dedup();
    for id in seen {
        if let Some(logit) = logits.get_mut(id as usize) {
            *logit = if *logit < 0.0 { *logit * penalty } else { *logit / penalty };
        }
    }
}

/// The first of the largest.
fn argmax(logits: &[f32]) -> usize {
    let mut best = 0;
    for (id, logit) in logits.iter().enumerate() {
        if *logit > logits[best] {
            best = id;
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> GenerateOptions {
        GenerateOptions { do_sample: true, seed: 3, ..GenerateOptions::default() }
    }

    fn next(logits: &[f32], ids: &[u32], options: &GenerateOptions, draw: u64) -> Choice {
        next_token(&mut logits.to_vec(), &mut Vec::new(), ids, options, (0, draw))
    }

    /// Shares of the tokens among many draws; each draw's log-probability is that share's.
    fn shares(logits: &[f32], options: &GenerateOptions) -> Vec<f64> {
        let draws = 4000;
        let mut counts = vec![0.0; logits.len()];
        let mut log_probs = vec![f64::NEG_INFINITY; logits.len()];
        for draw in 0..draws {
            let Choice { id, log_prob, .. } = next(logits, &[], options, draw);
            counts[id as usize] += 1.0 / draws as f64;
            log_probs[id as usize] = f64::from(log_prob);
        }
        for (share, log_prob) in counts.iter().zip(&log_probs) {
            assert!((share - log_prob.exp()).abs() < 0.03, "{counts:?} {log_probs:?}");
        }
        counts
    }

    #[test]
    fn draws_follow_the_distribution() {
        let logits = [0.0, 2.0f32.ln(), 5.0f32.ln()];
        let shares = shares(&logits, &options());
        for (share, expected) in shares.iter().zip([0.125, 0.25, 0.625]) {
            assert!((share - expected).abs() < 0.03, "{shares:?}");
        }
    }

    #[test]
    fn entropy_is_that_of_the_whole_distribution() {
        let logits = [0.0, 2.0f32.ln(), 5.0f32.ln(), f32::NEG_INFINITY];
        let told = GenerateOptions { tells_entropy: true, top_k: 1, ..options() };
        let expected: f64 = [0.125, 0.25, 0.625_f64].iter().map(|share| -share * share.ln()).sum();
        assert!((f64::from(next(&logits, &[], &told, 0).entropy.unwrap()) - expected).abs() < 1e-6);
        // At half the temperature the weights are squared.
        let cold = GenerateOptions { temperature: 0.5, ..told };
        let expected: f64 = [1.0, 4.0, 25.0_f64].iter().map(|weight| -weight / 30.0 * (weight / 30.0).ln()).sum();
        assert!((f64::from(next(&logits, &[], &cold, 0).entropy.unwrap()) - expected).abs() < 1e-6);
        assert_eq!(next(&logits, &[], &options(), 0).entropy, None);
    }

    #[test]
    fn cuts_keep_the_likeliest() {
        let logits = [0.0, 2.0f32.ln(), 5.0f32.ln()];
        let two = shares(&logits, &GenerateOptions { top_k: 2, ..options() });
        assert!(two[0] == 0.0 && two[1] > 0.2);
        let one = shares(&logits, &GenerateOptions { top_p: 0.6, ..options() });
        assert_eq!((one[0], one[1]), (0.0, 0.0));
        let cold = shares(&logits, &GenerateOptions { temperature: 0.05, ..options() });
        assert!(cold[2] > 0.99);
        // 2/5 of the likeliest is enough at 0.4, and too little at 0.41.
        assert!(shares(&logits, &GenerateOptions { min_p: 0.39, ..options() })[1] > 0.2);
        assert!(shares(&logits, &GenerateOptions { min_p: 0.41, ..options() })[1] <= 0.0);
        // top-p is of what top-k leaves: 5 of 7 reach 0.7, 5 of 8 do not.
        assert!(shares(&logits, &GenerateOptions { top_k: 2, top_p: 0.7, ..options() })[1] <= 0.0);
        assert!(shares(&logits, &GenerateOptions { top_p: 0.7, ..options() })[1] > 0.2);
    }

    /// Cuts by a whole ranking, as transformers makes them.
    fn ranked(logits: &[f32], options: &GenerateOptions) -> Vec<u32> {
        let mut ids: Vec<u32> = (0..logits.len() as u32).collect();
        ids.sort_by(|&a, &b| logits[b as usize].total_cmp(&logits[a as usize]).then(a.cmp(&b)));
        let weight = |id: u32| f64::from((logits[id as usize] - logits[ids[0] as usize]).exp());
        let mut kept: Vec<u32> = ids.clone();
        if options.top_k > 0 {
            kept.truncate(options.top_k);
        }
        let total: f64 = kept.iter().map(|&id| weight(id)).sum();
        let mut before = 0.0;
        kept.retain(|&id| {
            let stays = options.top_p >= 1.0 || before < options.top_p * total;
            before += weight(id);
            stays
        });
        kept.retain(|&id| weight(id) >= options.min_p);
        kept
    }

    #[test]
    fn a_selection_is_that_of_a_whole_ranking() {
        for case in 0..60 {
            let count = 1 + (case as usize * 97) % 3000;
            let logits: Vec<f32> = (0..count as u64)
                .map(|index| (crate::rng::normal_at(case, 5, index) * 3.0 * (1 + case % 3) as f32).round() * 0.25)
                .collect();
            let mut weights = logits.clone();
            exponentials(&mut weights, 1.0);
            for (top_k, top_p, min_p) in
                [(5, 1.0, 0.0), (0, 0.9, 0.0), (0, 0.999, 0.0), (400, 0.95, 0.0), (0, 1.0, 0.1), (50, 0.99, 0.02)]
            {
                let options = GenerateOptions { top_k, top_p, min_p, ..options() };
                assert_eq!(
                    kept(&logits, &weights, &options),
                    ranked(&logits, &options),
                    "{case} {top_k} {top_p} {min_p}"
                );
            }
        }
    }

    #[test]
    fn repeated_tokens_are_penalized_once() {
        let options = GenerateOptions { repetition_penalty: 2.0, ..GenerateOptions::default() };
        assert_eq!(next(&[1.5, 2.0, -1.0], &[1, 1], &options, 0).id, 0);
        assert_eq!(next(&[-1.5, -1.0], &[1], &options, 0).id, 0);
    }
}
