//! Logits in, one token out: the processors of transformers in their order (repetition penalty, temperature, top-k,
//! top-p; `LogitsProcessorList` of `generation/utils.py`), then the likeliest token or a draw.

use super::options::GenerateOptions;
use crate::rng::{Philox, stream_of};

/// The next token of a sequence. `draw` is the sequence's number and the number of the token: each draw has random
/// numbers of its own.
pub(super) fn next_token(mut logits: Vec<f32>, ids: &[u32], options: &GenerateOptions, draw: (u64, u64)) -> u32 {
    #[expect(clippy::float_cmp, reason = "1 is the exact default, not a computed value")]
    if options.repetition_penalty != 1.0 {
        penalize(&mut logits, ids, options.repetition_penalty as f32);
    }
    if !options.do_sample {
        return argmax(&logits);
    }
    let mut ranked: Vec<(u32, f64)> =
        logits.iter().enumerate().map(|(id, &logit)| (id as u32, f64::from(logit) / options.temperature)).collect();
    ranked.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    if options.top_k > 0 {
        ranked.truncate(options.top_k);
    }
    let top = ranked.first().map_or(0.0, |first| first.1);
    for entry in &mut ranked {
        entry.1 = (entry.1 - top).exp();
    }
    let total: f64 = ranked.iter().map(|entry| entry.1).sum();
    let mut before = 0.0;
    // A token stays if those before it do not reach `top_p` yet, so at least one stays.
    ranked.retain(|entry| {
        let stays = before < options.top_p * total;
        before += entry.1;
        stays
    });
    let total: f64 = ranked.iter().map(|entry| entry.1).sum();
    let stream = stream_of("sample") ^ (draw.0 << 32) ^ draw.1;
    let mut rest = Philox::new(options.seed, stream).next_f64() * total;
    for &(id, weight) in &ranked {
        rest -= weight;
        if rest < 0.0 {
            return id;
        }
    }
    ranked.last().map_or(0, |last| last.0)
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
fn argmax(logits: &[f32]) -> u32 {
    let mut best = 0;
    for (id, logit) in logits.iter().enumerate() {
        if *logit > logits[best] {
            best = id;
        }
    }
    best as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> GenerateOptions {
        GenerateOptions { do_sample: true, seed: 3, ..GenerateOptions::default() }
    }

    fn shares(logits: &[f32], options: &GenerateOptions) -> Vec<f64> {
        let draws = 4000;
        let mut counts = vec![0.0; logits.len()];
        for draw in 0..draws {
            counts[next_token(logits.to_vec(), &[], options, (0, draw)) as usize] += 1.0 / draws as f64;
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
    fn cuts_keep_the_likeliest() {
        let logits = [0.0, 2.0f32.ln(), 5.0f32.ln()];
        let two = shares(&logits, &GenerateOptions { top_k: 2, ..options() });
        assert!(two[0] == 0.0 && two[1] > 0.2);
        let one = shares(&logits, &GenerateOptions { top_p: 0.6, ..options() });
        assert_eq!((one[0], one[1]), (0.0, 0.0));
        let cold = shares(&logits, &GenerateOptions { temperature: 0.05, ..options() });
        assert!(cold[2] > 0.99);
    }

    #[test]
    fn repeated_tokens_are_penalized_once() {
        let options = GenerateOptions { repetition_penalty: 2.0, ..GenerateOptions::default() };
        assert_eq!(next_token(vec![1.5, 2.0, -1.0], &[1, 1], &options, (0, 0)), 0);
        assert_eq!(next_token(vec![-1.5, -1.0], &[1], &options, (0, 0)), 0);
    }
}
