//! Near duplicates: pairs of texts of which at least so much is the same, found without comparing all pairs.
//!
//! A text is its set of shingles. MinHash (Broder 1997) with banding (Leskovec, Rajaraman and Ullman, "Mining of Massive
//! Datasets", chapter 3) proposes pairs: the smallest hash of a set under a random permutation is that of another set with a
//! probability of their similarity; permutations are put together in bands, and a pair that agrees in a whole band is a
//! candidate. Of a shingle there is one hash of 32 bits, `x`, and permutation `i` is `a[i] x + b[i]` modulo 2^32 with an odd
//! `a[i]`, which is one vector instruction for eight of them.
//!
//! Candidates are then compared by bottom-k sketches (Broder 1997; Cohen and Kaplan 2007): the `k` smallest hashes of each set.
//! Where both sets have less, which are texts of up to about `k` words, that is their similarity itself; beyond, an estimate
//! with a standard deviation of at most `1 / (2 sqrt(k))`.
//!
//! In memory are, for each text, a number for each band and its sketch; pairs are looked for in one band after another.

use crate::clusters::{Edge, forest};
use crate::hash;
use crate::shingles;
use crate::words::Words;

/// Similarities from here on are kept, or from the threshold on where that is lower: thresholds above it need no second look
/// at the data.
pub const FLOOR: f64 = 0.5;
/// What a missed pair weighs beside a needless comparison, when bands are chosen: the comparison costs a microsecond.
const MISSED: f64 = 0.95;
/// Steps of the numeric integration.
const STEPS: u32 = 200;
/// Permutations that are computed together.
const LANES: usize = 32;
/// Texts that agree in a band are compared with the first of them and with so many before them, not each with each.
const WINDOW: usize = 64;
/// Edges that are kept before they are thinned out, beside two for each text.
const SLACK: usize = 1 << 16;

/// How near duplicates are looked for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Options {
    /// The lowest similarity that will be asked for, above 0 and at most 1.
    pub floor: f64,
    /// Words of a shingle.
    pub ngram: usize,
    /// Hash functions, and hashes of a sketch.
    pub permutations: usize,
}

/// Bands of so many permutations each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Banding {
    /// How many.
    bands: usize,
    /// Permutations of each.
    rows: usize,
}

impl Banding {
    /// The banding with the least weighted error around a threshold, as datasketch chooses it
    /// (<https://ekzhu.com/datasketch/lsh.html>): the area of pairs below it that become candidates, and of those above that do
    /// not.
    fn choose(threshold: f64, permutations: usize) -> Self {
        let all = (1..=permutations).map(|rows| Self { bands: permutations / rows, rows });
        let error = |banding: &Self| {
            let needless = integral(0.0, threshold, |s| banding.probability(s));
            let missed = integral(threshold, 1.0, |s| 1.0 - banding.probability(s));
            (1.0 - MISSED) * needless + MISSED * missed
        };
        let best = all.map(|banding| (error(&banding), banding)).min_by(|a, b| a.0.total_cmp(&b.0));
        best.map_or(Self { bands: 1, rows: 1 }, |(_, banding)| banding)
    }

    /// How likely a pair of this similarity becomes a candidate.
    fn probability(&self, similarity: f64) -> f64 {
        1.0 - (1.0 - similarity.powi(self.rows as i32)).powi(self.bands as i32)
    }
}

fn integral(from: f64, to: f64, f: impl Fn(f64) -> f64) -> f64 {
    let width = (to - from) / f64::from(STEPS);
    (0..STEPS).map(|step| f(from + width * (f64::from(step) + 0.5)) * width).sum()
}

/// Texts that near duplicates are looked for among.
#[derive(Debug)]
pub struct NearDuplicates {
    options: Options,
    banding: Banding,
    /// Factor and summand of each permutation.
    permutations: (Vec<u32>, Vec<u32>),
    /// The caller's number of each text.
    rows: Vec<u32>,
    /// A number for each band of each text.
    keys: Vec<u32>,
    /// All sketches, each in ascending order, and where each ends.
    sketches: Vec<u32>,
    ends: Vec<usize>,
    /// Used again for each text.
    words: Vec<u64>,
    hashes: Vec<u32>,
    signature: Vec<u32>,
}

impl NearDuplicates {
    /// None yet.
    pub fn new(options: Options) -> Self {
        let permutations = options.permutations.max(1);
        let options = Options { permutations, ..options };
        let banding = Banding::choose(options.floor, permutations);
        let count = (banding.bands * banding.rows).next_multiple_of(LANES);
        let mut state = 0x6d69_6e68_6173_6821;
        let mut numbers =
            |odd: u32| -> Vec<u32> { (0..count).map(|_| (hash::splitmix(&mut state) >> 32) as u32 | odd).collect() };
        let permutations = (numbers(1), numbers(0));
        Self {
            options,
            banding,
            permutations,
            rows: Vec::new(),
            keys: Vec::new(),
            sketches: Vec::new(),
            ends: Vec::new(),
            words: Vec::new(),
            hashes: Vec::new(),
            signature: vec![0; count],
        }
    }

    /// Adds a text under a number of the caller's; numbers must ascend. A text without words has no duplicates.
    pub fn push(&mut self, row: u32, words: &Words) {
        if words.is_empty() {
            return;
        }
        shingles::hashes(words, self.options.ngram, &mut self.words, &mut self.hashes);
        self.hashes.sort_unstable();
        self.hashes.dedup();
        minima(&self.hashes, &self.permutations.0, &self.permutations.1, &mut self.signature);
        let bands = self.signature.chunks_exact(self.banding.rows).take(self.banding.bands);
        self.keys.extend(bands.map(hash::numbers));
        self.sketches.extend(self.hashes.iter().take(self.options.permutations));
        self.ends.push(self.sketches.len());
        self.rows.push(row);
    }

    fn sketch(&self, index: usize) -> &[u32] {
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.sketches[start..self.ends[index]]
    }

    /// How much two texts have in common; none where one of them was not added.
    #[cfg(test)]
    fn similarity(&self, a: u32, b: u32) -> Option<f32> {
        let index = |row| self.rows.binary_search(&row).ok();
        Some(similarity(self.sketch(index(a)?), self.sketch(index(b)?), self.options.permutations))
    }

    /// Pairs of at least the lowest similarity, as many of them as it takes to know which texts hang together at each
    /// threshold above it.
    pub fn edges(&self) -> Vec<Edge> {
        let bands = self.banding.bands;
        let most = 2 * self.rows.len() + SLACK;
        let mut edges: Vec<Edge> = Vec::new();
        let mut order: Vec<(u32, u32)> = Vec::with_capacity(self.rows.len());
        for band in 0..bands {
            order.clear();
            order.extend((0..self.rows.len()).map(|index| (self.keys[index * bands + band], index as u32)));
            order.sort_unstable();
            for bucket in order.chunk_by(|a, b| a.0 == b.0).filter(|bucket| bucket.len() > 1) {
                for (at, &(_, b)) in bucket.iter().enumerate().skip(1) {
                    let near = at.saturating_sub(WINDOW);
                    let first = (near > 0).then_some(&bucket[0]);
                    for &(_, a) in first.into_iter().chain(&bucket[near..at]) {
                        self.compare(a as usize, b as usize, band, &mut edges);
                    }
                }
                if edges.len() > most {
                    forest(&mut edges);
                }
            }
        }
        forest(&mut edges);
        edges
    }

    fn compare(&self, a: usize, b: usize, band: usize, edges: &mut Vec<Edge>) {
        let bands = self.banding.bands;
        let earlier = |index: usize| &self.keys[index * bands..index * bands + band];
        // A pair that an earlier band proposed was compared there.
        if earlier(a).iter().zip(earlier(b)).any(|(a, b)| a == b) {
            return;
        }
        let similarity = similarity(self.sketch(a), self.sketch(b), self.options.permutations);
        if f64::from(similarity) >= self.options.floor {
            edges.push(Edge { a: self.rows[a], b: self.rows[b], similarity });
        }
    }
}

/// The share of hashes that are in both, of all, or of the `k` smallest of all where there are more than the sketches tell.
fn similarity(a: &[u32], b: &[u32], k: usize) -> f32 {
    let is_whole = a.len() < k && b.len() < k;
    let limit = if is_whole { usize::MAX } else { k };
    let (mut at, mut of, mut both, mut all) = (0, 0, 0_u32, 0_usize);
    while all < limit && (at < a.len() || of < b.len()) {
        let (left, right) = (a.get(at), b.get(of));
        let is_left = right.is_none_or(|right| left.is_some_and(|left| left <= right));
        let is_right = left.is_none_or(|left| right.is_some_and(|right| right <= left));
        at += usize::from(is_left);
        of += usize::from(is_right);
        both += u32::from(is_left && is_right);
        all += 1;
    }
    both as f32 / all.max(1) as f32
}

/// The smallest value of each permutation over all hashes.
fn minima(hashes: &[u32], factors: &[u32], summands: &[u32], out: &mut [u32]) {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has AVX2, as was just asked.
        unsafe { minima_avx2(hashes, factors, summands, out) };
        return;
    }
    minima_of(hashes, factors, summands, out);
}

/// The same compiled for AVX2.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn minima_avx2(hashes: &[u32], factors: &[u32], summands: &[u32], out: &mut [u32]) {
    minima_of(hashes, factors, summands, out);
}

#[inline(always)]
fn minima_of(hashes: &[u32], factors: &[u32], summands: &[u32], out: &mut [u32]) {
    let of = factors.as_chunks::<LANES>().0.iter().zip(summands.as_chunks::<LANES>().0);
    for ((factors, summands), out) in of.zip(out.as_chunks_mut::<LANES>().0) {
        let mut least = [u32::MAX; LANES];
        for &hash in hashes {
            for lane in 0..LANES {
                least[lane] = least[lane].min(factors[lane].wrapping_mul(hash).wrapping_add(summands[lane]));
            }
        }
        *out = least;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::clusters::clusters;
    use crate::shingles::jaccard;

    const OPTIONS: Options = Options { floor: FLOOR, ngram: 5, permutations: 128 };

    fn words(text: &str) -> Words {
        let mut words = Words::new();
        words.read(text);
        words
    }

    /// Numbers that look random.
    struct Random(u64);

    impl Random {
        fn below(&mut self, end: usize) -> usize {
            (hash::splitmix(&mut self.0) % end as u64) as usize
        }

        fn text(&mut self, length: usize) -> Vec<String> {
            (0..length).map(|_| format!("w{}", self.below(5000))).collect()
        }
    }

    /// Texts in pairs, the second with some words of the first replaced.
    fn pairs(count: usize, lengths: std::ops::Range<usize>) -> Vec<Words> {
        let mut random = Random(7);
        let mut all = Vec::new();
        for _ in 0..count {
            let length = lengths.start + random.below(lengths.len());
            let first = random.text(length);
            let mut second = first.clone();
            for _ in 0..random.below(1 + length / 15) {
                let at = random.below(length);
                second[at] = format!("x{}", random.below(5000));
            }
            all.extend([words(&first.join(" ")), words(&second.join(" "))]);
        }
        all
    }

    /// Recall and precision against the exact similarity of every pair that was made.
    fn measured(texts: &[Words], threshold: f64) -> (f64, f64) {
        let mut near = NearDuplicates::new(OPTIONS);
        texts.iter().enumerate().for_each(|(row, words)| near.push(row as u32, words));
        let found: BTreeSet<(u32, u32)> = near
            .edges()
            .iter()
            .filter(|edge| f64::from(edge.similarity) >= threshold)
            .map(|edge| (edge.a, edge.b))
            .collect();
        let is_alike = |(a, b): &(u32, u32)| jaccard(&texts[*a as usize], &texts[*b as usize], 5) >= threshold;
        let all: BTreeSet<(u32, u32)> =
            (0..texts.len() as u32).step_by(2).map(|row| (row, row + 1)).filter(is_alike).collect();
        let right = found.iter().filter(|pair| is_alike(pair)).count();
        assert!(all.len() > 100, "{}", all.len());
        let recall = found.intersection(&all).count() as f64 / all.len() as f64;
        (recall, right as f64 / found.len() as f64)
    }

    /// Run with `--nocapture` for the figures.
    #[test]
    #[expect(clippy::print_stderr, reason = "the figures, for who asks for them")]
    fn nearly_all_pairs_above_the_threshold_are_found() {
        for (name, lengths, least) in
            [("30 to 90 words", 30..90, (0.99, 0.99)), ("300 to 900 words", 300..900, (0.88, 0.88))]
        {
            let texts = pairs(3000, lengths);
            for threshold in [0.5, 0.6, 0.7, 0.8, 0.9] {
                let (recall, precision) = measured(&texts, threshold);
                eprintln!("{name}, threshold {threshold}: recall {recall:.4}, precision {precision:.4}");
                if threshold >= 0.8 {
                    assert!(recall >= least.0 && precision >= least.1, "{recall} {precision}");
                }
            }
        }
    }

    #[test]
    fn bands_follow_from_the_threshold() {
        let banding = Banding::choose(FLOOR, 128);
        assert_eq!(banding, Banding { bands: 32, rows: 4 });
        assert!(banding.probability(0.8) > 0.9999 && banding.probability(0.1) < 0.01);
        for threshold in [0.3, 0.5, 0.8, 0.95] {
            for permutations in [1, 16, 100, 256] {
                let Banding { bands, rows } = Banding::choose(threshold, permutations);
                assert!(bands > 0 && rows > 0 && bands * rows <= permutations);
            }
        }
    }

    #[test]
    fn a_large_bucket_is_one_cluster() {
        // Thousands of texts that differ in one word each.
        let mut random = Random(3);
        let base = random.text(80);
        let mut near = NearDuplicates::new(OPTIONS);
        for row in 0..3000 {
            let mut own = base.clone();
            let last = own.len() - 1;
            own[last] = format!("own{row}");
            near.push(row, &words(&own.join(" ")));
        }
        let edges = near.edges();
        assert!(edges.len() < 3000);
        let found = clusters(&edges, 0.8);
        assert_eq!((found.len(), found[0].others.len()), (1, 2999));
    }

    #[test]
    fn short_and_empty_texts_have_a_place() {
        let mut near = NearDuplicates::new(OPTIONS);
        for (row, text) in ["yes", "no", "", "…", "Yes!", "name three colours", "name three colors"].iter().enumerate()
        {
            near.push(row as u32, &words(text));
        }
        let edges = near.edges();
        assert_eq!(edges, [Edge { a: 0, b: 4, similarity: 1.0 }]);
        assert_eq!((near.similarity(5, 6), near.similarity(0, 2)), (Some(0.0), None));
    }

    #[test]
    fn both_kernels_agree() {
        let mut random = Random(1);
        let mut numbers = |count: usize| -> Vec<u32> { (0..count).map(|_| random.below(1 << 32) as u32).collect() };
        let (hashes, factors, summands) = (numbers(77), numbers(96), numbers(96));
        let (mut one, mut two) = (vec![0; 96], vec![0; 96]);
        minima(&hashes, &factors, &summands, &mut one);
        minima_of(&hashes, &factors, &summands, &mut two);
        assert_eq!(one, two);
    }

    proptest! {
        #[test]
        fn the_similarity_of_short_texts_is_exact(
            a in proptest::collection::vec("[a-c]", 1..60), b in proptest::collection::vec("[a-c]", 1..60)
        ) {
            let (a, b) = (words(&a.join(" ")), words(&b.join(" ")));
            let mut near = NearDuplicates::new(OPTIONS);
            near.push(0, &a);
            near.push(1, &b);
            let found = f64::from(near.similarity(0, 1).unwrap());
            prop_assert!((found - jaccard(&a, &b, 5)).abs() < 1e-6);
            prop_assert_eq!(near.similarity(0, 1), near.similarity(1, 0));
        }

        #[test]
        fn a_text_and_its_copy_are_always_found(text in proptest::collection::vec("[a-z]{1,6}", 1..200)) {
            let text = words(&text.join(" "));
            let mut near = NearDuplicates::new(OPTIONS);
            near.push(3, &text);
            near.push(9, &text);
            prop_assert_eq!(near.edges(), [Edge { a: 3, b: 9, similarity: 1.0 }]);
        }
    }
}
