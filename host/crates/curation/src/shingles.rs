//! Shingles: what two texts have in common is the share of runs of `n` words that both have (Broder 1997, "On the
//! resemblance and containment of documents"). A text of fewer words is one shingle.

use crate::hash;
use crate::words::Words;

/// Hashes of a text's shingles, in their order, repetitions included.
pub(crate) fn hashes(words: &Words, n: usize, of_words: &mut Vec<u64>, out: &mut Vec<u32>) {
    of_words.clear();
    of_words.extend(words.iter().map(hash::word));
    out.clear();
    if of_words.is_empty() {
        return;
    }
    let n = n.clamp(1, of_words.len());
    out.extend(of_words.windows(n).map(|run| {
        let hash = hash::words(run);
        (hash >> 32) as u32 ^ hash as u32
    }));
}

/// The exact Jaccard similarity of two texts' shingles, words compared as words. Two texts without words are alike.
#[cfg(test)]
pub(crate) fn jaccard(a: &Words, b: &Words, n: usize) -> f64 {
    use std::collections::BTreeSet;
    fn set(words: &Words, n: usize) -> BTreeSet<Vec<&str>> {
        let all: Vec<&str> = words.iter().collect();
        let n = n.clamp(1, all.len().max(1));
        all.windows(n).map(<[&str]>::to_vec).collect()
    }
    let (a, b) = (set(a, n), set(b, n));
    let both = a.intersection(&b).count();
    let either = a.len() + b.len() - both;
    if either == 0 { 1.0 } else { both as f64 / either as f64 }
}
