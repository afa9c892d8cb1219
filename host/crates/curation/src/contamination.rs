//! Rows that an evaluation has too: runs of `n` words of an evaluation text that stand in a row, as GPT-3 (Brown et al. 2020,
//! appendix C) and Llama 2 (Touvron et al. 2023, appendix A.6) look for them, 13 words by default.
//!
//! A text with fewer words counts where all of it stands in a row, and one with fewer than [`SHORTEST`] is not looked for:
//! every second row would have it. A run that more than [`COMMON`] evaluation texts have says nothing of any of them (a prompt
//! that they all begin with), and is passed over, as in GPT-3. Runs are found by hashes of 64 bits, and a hit is believed when
//! the words are the same.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::ops::Range;

use crate::exact::{Digest, digest};
use crate::hash;
use crate::words::Words;

/// Words of the shortest evaluation text that is looked for.
pub const SHORTEST: usize = 5;
/// Evaluation texts that may share a run of words before it counts as a phrase of all of them.
const COMMON: u32 = 10;

/// Where a row and an evaluation text meet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contamination {
    /// The evaluation text, by the caller's number.
    pub text: u32,
    /// What both have, in bytes of the row's text: all the words around the run that are the same.
    pub span: Range<usize>,
    /// Its words.
    pub words: usize,
}

/// A hash is its own.
#[derive(Debug, Default, Clone, Copy)]
struct Same(u64);

impl Hasher for Same {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(byte);
        }
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = number;
    }
}

type Table<T> = HashMap<u64, T, BuildHasherDefault<Same>>;

/// A run of words of an evaluation text.
#[derive(Debug, Clone, Copy)]
struct Run {
    /// The first text that has it, as a place in `texts`, and its first word there.
    text: u32,
    start: u32,
    /// Texts that have it, and the last of those that were counted.
    count: u32,
    last: u32,
}

/// The texts of an evaluation.
#[derive(Debug)]
pub struct Evaluation {
    ngram: usize,
    /// Of each text that is looked for its number and its words.
    texts: Vec<(u32, Words)>,
    /// For each length of a run that is looked for: the runs by their hashes. A hash that two runs have is the first one's.
    runs: Vec<(usize, Table<Run>)>,
    known: std::collections::HashSet<Digest>,
    short: usize,
    hashes: Vec<u64>,
}

impl Evaluation {
    /// None yet; runs of so many words are looked for.
    pub fn new(ngram: usize) -> Self {
        let ngram = ngram.max(SHORTEST);
        Self {
            ngram,
            texts: Vec::new(),
            runs: Vec::new(),
            known: std::collections::HashSet::new(),
            short: 0,
            hashes: Vec::new(),
        }
    }

    /// Adds a text under a number of the caller's. A text that was added before is not added again.
    pub fn push(&mut self, text: u32, words: &Words) {
        if words.len() < SHORTEST {
            self.short += 1;
            return;
        }
        if !self.known.insert(digest(words)) {
            return;
        }
        let n = self.ngram.min(words.len());
        let at = self.runs.iter().position(|(length, _)| *length == n).unwrap_or_else(|| {
            self.runs.push((n, Table::default()));
            self.runs.len() - 1
        });
        self.hashes.clear();
        self.hashes.extend(words.iter().map(hash::word));
        let own = self.texts.len() as u32;
        for (start, run) in self.hashes.windows(n).enumerate() {
            let new = Run { text: own, start: start as u32, count: 0, last: u32::MAX };
            let run = self.runs[at].1.entry(hash::words(run)).or_insert(new);
            if run.last != own {
                (run.count, run.last) = (run.count + 1, own);
            }
        }
        self.texts.push((text, words.clone()));
    }

    /// Texts that are looked for.
    pub fn len(&self) -> usize {
        self.texts.len()
    }

    /// True if there is none.
    pub fn is_empty(&self) -> bool {
        self.texts.is_empty()
    }

    /// Texts that are too short to be looked for.
    pub fn short(&self) -> usize {
        self.short
    }

    /// Runs of words that too many of the texts have.
    pub fn common(&self) -> usize {
        self.runs.iter().map(|(_, runs)| runs.values().filter(|run| run.count > COMMON).count()).sum()
    }

    /// The first place where a row meets the evaluation.
    pub fn find(&mut self, row: &Words) -> Option<Contamination> {
        self.hashes.clear();
        self.hashes.extend(row.iter().map(hash::word));
        for (n, runs) in &self.runs {
            for (start, run) in self.hashes.windows(*n).enumerate() {
                let Some(found) = runs.get(&hash::words(run)).filter(|run| run.count <= COMMON) else { continue };
                let (text, words) = &self.texts[found.text as usize];
                let there = found.start as usize;
                if (0..*n).any(|word| row.word(start + word) != words.word(there + word)) {
                    continue;
                }
                let mut end = *n;
                while start + end < row.len()
                    && there + end < words.len()
                    && row.word(start + end) == words.word(there + end)
                {
                    end += 1;
                }
                return Some(Contamination { text: *text, span: row.place(start..start + end), words: end });
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn words(text: &str) -> Words {
        let mut words = Words::new();
        words.read(text);
        words
    }

    fn evaluation(texts: &[&str]) -> Evaluation {
        let mut evaluation = Evaluation::new(13);
        texts.iter().enumerate().for_each(|(number, text)| evaluation.push(number as u32, &words(text)));
        evaluation
    }

    const LONG: &str =
        "a train leaves the station at nine and another one leaves at ten: which of the two arrives first?";

    #[test]
    fn a_run_is_found_with_all_the_words_around_it() {
        let mut evaluation = evaluation(&["what is the capital of France", LONG]);
        let row = format!("Question: {} Answer: the first.", LONG.to_uppercase());
        let found = evaluation.find(&words(&row)).unwrap();
        assert_eq!((found.text, found.words), (1, 19));
        assert_eq!(&row[found.span], LONG.to_uppercase().trim_end_matches('?'));
        // Twelve words are not enough.
        assert_eq!(
            evaluation.find(&words("a train leaves the station at nine and another one leaves at eleven")),
            None
        );
    }

    #[test]
    fn a_short_text_counts_as_a_whole() {
        let mut evaluation = evaluation(&["What is the capital of France?", "yes", "name a colour"]);
        assert_eq!((evaluation.len(), evaluation.short()), (1, 2));
        assert!(evaluation.find(&words("So: what is the CAPITAL of france. Paris")).is_some());
        assert!(evaluation.find(&words("what is the capital of Spain? yes, name a colour")).is_none());
    }

    #[test]
    fn what_all_texts_begin_with_says_nothing() {
        let prompt = "below is an instruction that describes a task write a response that completes the request";
        let texts: Vec<String> = (0..20).map(|number| format!("{prompt} number {number} and nothing else")).collect();
        let mut evaluation = evaluation(&texts.iter().map(String::as_str).collect::<Vec<_>>());
        assert!(evaluation.common() > 0);
        assert_eq!(evaluation.find(&words(prompt)), None);
        assert!(evaluation.find(&words(&texts[3])).is_some());
        // A text that is there many times is one text.
        let mut again = Evaluation::new(13);
        (0..50).for_each(|number| again.push(number, &words(LONG)));
        assert_eq!((again.len(), again.find(&words(LONG)).unwrap().text), (1, 0));
    }

    proptest! {
        #[test]
        fn what_is_copied_is_found_and_what_is_not_is_not(
            text in proptest::collection::vec("[a-m]{1,5}", 5..40), before in proptest::collection::vec("[n-z]{1,5}", 0..20)
        ) {
            let mut evaluation = evaluation(&[&text.join(" ")]);
            prop_assert_eq!(evaluation.find(&words(&before.join(" "))), None);
            let row = format!("{} {}", before.join(" "), text.join(" "));
            let found = evaluation.find(&words(&row)).unwrap();
            prop_assert_eq!(&row[found.span], text.join(" "));
        }
    }
}
