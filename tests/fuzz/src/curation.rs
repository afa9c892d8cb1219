//! Rows of text that are compared with each other and with an evaluation.

use std::collections::BTreeSet;

use curation::{
    Cluster, Digest, Evaluation, FLOOR, NearDuplicates, Options, SHORTEST, SHORTEST_TEXT, Words, clusters, digest,
    language, measure,
};

/// Thresholds from the lowest one on.
const THRESHOLDS: [f64; 5] = [0.5, 0.6, 0.8, 0.95, 1.0];

/// Rows of which all that agree in a band are compared with each other, and evaluation texts that may share a run.
const FEW: usize = 30;

/// Words of a run, and permutations, a byte each; then texts, a line `%%` between them, of which every third is of the evaluation.
pub(crate) fn curation(bytes: &[u8]) {
    let Some((&[ngram, permutations], texts)) = bytes.split_first_chunk() else { return };
    let (ngram, permutations) = (1 + usize::from(ngram % 16), 16 + usize::from(permutations));
    let texts = String::from_utf8_lossy(texts);
    let texts: Vec<&str> = texts.split("\n%%\n").collect();
    let mut evaluation = Evaluation::new(ngram);
    let of_evaluation = |row: usize| row % 3 == 2;
    let read = |text: &str| {
        let mut words = Words::new();
        words.read(text);
        words
    };
    for (row, text) in texts.iter().enumerate().filter(|(row, _)| of_evaluation(*row)) {
        evaluation.push(row as u32, &read(text));
    }
    let mut near = NearDuplicates::new(Options { floor: FLOOR, ngram, permutations });
    let mut digests: Vec<(u32, Digest)> = Vec::new();
    let mut words = Words::new();
    for (row, text) in texts.iter().enumerate() {
        words.read(text);
        placed(text, &words);
        measured(text, &words);
        if let Some(found) = evaluation.find(&words) {
            assert!(of_evaluation(found.text as usize) && (found.text as usize) < texts.len(), "{found:?}");
            let span = text.get(found.span.clone()).unwrap_or_else(|| panic!("{found:?} of {text:?}"));
            let (span, whole) = (read(span), read(texts[found.text as usize]));
            let span: Vec<&str> = span.iter().collect();
            let whole: Vec<&str> = whole.iter().collect();
            assert!(found.words >= SHORTEST && span.len() == found.words, "{found:?} of {text:?}");
            assert!(whole.windows(span.len()).any(|run| run == span), "{span:?} is not in {whole:?}");
        } else {
            // A run that many texts of the evaluation have is passed over.
            let is_whole = of_evaluation(row) && words.len() >= SHORTEST;
            assert!(!is_whole || texts.len() > FEW, "{text:?} is not found in itself");
        }
        if !words.is_empty() {
            digests.push((row as u32, digest(&words)));
            near.push(row as u32, &words);
        }
    }
    let edges = near.edges();
    assert!(edges.len() < texts.len().max(1));
    for edge in &edges {
        assert!(edge.a < edge.b && (edge.b as usize) < texts.len(), "{edge:?}");
        assert!((FLOOR as f32..=1.0).contains(&edge.similarity), "{edge:?}");
    }
    let mut before: Option<Vec<Cluster>> = None;
    for threshold in THRESHOLDS {
        let found = clusters(&edges, threshold);
        hangs_together(&found, threshold);
        // What hangs together at a threshold does at every lower one.
        if let Some(before) = before {
            let rows = |cluster: &Cluster| -> BTreeSet<u32> {
                cluster.others.iter().map(|(row, ..)| *row).chain([cluster.first]).collect()
            };
            for cluster in &found {
                assert!(before.iter().any(|wide| rows(wide).is_superset(&rows(cluster))), "{cluster:?} of {before:?}");
            }
        }
        before = Some(found);
    }
    // The same words are near duplicates.
    let found = before.unwrap_or_default();
    if texts.len() > FEW {
        return;
    }
    for (at, (row, own)) in digests.iter().enumerate() {
        let first = digests[..at].iter().find(|(_, other)| other == own);
        let together = |other: u32| {
            let has = |cluster: &Cluster, row: u32| {
                cluster.first == row || cluster.others.iter().any(|(other, ..)| *other == row)
            };
            found.iter().any(|cluster| has(cluster, *row) && has(cluster, other))
        };
        assert!(first.is_none_or(|(other, _)| together(*other)), "row {row} of {texts:?}");
    }
}

/// Words stand in their order within the text, and are what stands there.
fn placed(text: &str, words: &Words) {
    let mut before = 0;
    for index in 0..words.len() {
        let place = words.place(index..index + 1);
        assert!(place.start >= before && place.start < place.end, "{place:?} of {text:?}");
        let there = text.get(place.clone()).unwrap_or_else(|| panic!("{place:?} of {text:?}"));
        let lower: String = there.chars().flat_map(char::to_lowercase).collect();
        assert_eq!(lower, words.word(index), "{text:?}");
        before = place.end;
    }
}

fn measured(text: &str, words: &Words) {
    let found = measure(text, words);
    assert_eq!(found.words, words.len());
    for share in [found.duplicate_lines, found.repeated_ngrams] {
        assert!((0.0..1.0).contains(&share), "{found:?} of {text:?}");
    }
    let least = if words.is_empty() { 0.0 } else { 1.0 };
    assert!(found.mean_word_length >= least && found.symbol_ratio >= 0.0, "{found:?} of {text:?}");
    let told = language(text, words);
    assert!(told.is_none() || words.len() >= SHORTEST_TEXT);
    assert_eq!(told, language(text, words), "{text:?}");
    assert!(told.is_none_or(|language| language.code().len() == 2));
}

/// A row is of one cluster, and is linked within it.
fn hangs_together(found: &[Cluster], threshold: f64) {
    let mut known = BTreeSet::new();
    let mut last = None;
    for cluster in found {
        assert!(last.is_none_or(|last| last < cluster.first), "{found:?}");
        last = Some(cluster.first);
        assert!(!cluster.others.is_empty() && known.insert(cluster.first), "{found:?}");
        let rows: BTreeSet<u32> = cluster.others.iter().map(|(row, ..)| *row).chain([cluster.first]).collect();
        let mut before = cluster.first;
        for &(row, like, similarity) in &cluster.others {
            assert!(row > before && known.insert(row), "{found:?}");
            assert!(like != row && rows.contains(&like), "{found:?}");
            assert!(f64::from(similarity) >= threshold && similarity <= 1.0, "{found:?}");
            before = row;
        }
    }
}
