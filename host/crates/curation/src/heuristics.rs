//! What a text looks like, in numbers that tell prose from debris.
//!
//! Of the rules of Gopher (Rae et al. 2021, arXiv 2112.11446, appendix A) and C4 (Raffel et al. 2020, arXiv 1910.10683, section
//! 2.2) those that make sense for rows of instructions. Left out are the ones for web pages: stop words (rows of code and of
//! other languages have none), lines that end without punctuation (lists and answers do), curly braces (code has them),
//! bullets (lists are good answers).

use std::collections::{HashMap, HashSet};

use crate::words::Words;

/// Words of the repeated runs that are looked for.
const RUN: usize = 5;

/// The numbers of one text.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Measures {
    /// Words, as [`Words`] counts them.
    pub words: usize,
    /// Characters of a word, on average: long ones are links, base64 or text without spaces.
    pub mean_word_length: f64,
    /// `#` and ellipses for each word: hashtags and text that was cut off.
    pub symbol_ratio: f64,
    /// Share of lines that stand there before: menus, and a model that repeats itself.
    pub duplicate_lines: f64,
    /// Share of runs of five words that stand there before: the same within lines.
    pub repeated_ngrams: f64,
    /// It has "lorem ipsum": a page that nobody filled in.
    pub lorem_ipsum: bool,
}

/// Measures a text of which `words` are the words.
pub fn measure(text: &str, words: &Words) -> Measures {
    let count = words.len();
    let per_word = |number: usize| number as f64 / count.max(1) as f64;
    let characters: usize = words.iter().map(|word| word.chars().count()).sum();
    let symbols = text.matches(['#', '…']).count() + text.matches("...").count();
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let different: HashSet<&str> = lines.iter().copied().collect();
    let all: Vec<&str> = words.iter().collect();
    let mut runs: HashMap<&[&str], usize> = HashMap::new();
    all.windows(RUN).for_each(|run| *runs.entry(run).or_default() += 1);
    let share = |part: usize, of: usize| part as f64 / of.max(1) as f64;
    let total: usize = runs.values().sum();
    Measures {
        words: count,
        mean_word_length: per_word(characters),
        symbol_ratio: per_word(symbols),
        duplicate_lines: share(lines.len() - different.len(), lines.len()),
        repeated_ngrams: share(total - runs.len(), total),
        lorem_ipsum: all.windows(2).any(|two| two == ["lorem", "ipsum"]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Measures {
        let mut words = Words::new();
        words.read(text);
        measure(text, &words)
    }

    #[test]
    fn numbers_are_those_of_the_text() {
        let is = |number: f64, wanted: f64| assert!((number - wanted).abs() < 1e-12, "{number}");
        let plain = of("Name three colours.\nRed, green and blue.");
        is(plain.symbol_ratio + plain.duplicate_lines, 0.0);
        assert_eq!((plain.words, plain.lorem_ipsum), (7, false));
        is(plain.mean_word_length, 31.0 / 7.0);
        is(of("a\n\nb\na \n a").duplicate_lines, 0.5);
        is(of("so it goes on...").symbol_ratio, 0.25);
        is(of("one two three four five one two three four five").repeated_ngrams, 1.0 / 6.0);
        assert!(of("Lorem, IPSUM dolor").lorem_ipsum);
        let nothing = of("");
        is(nothing.mean_word_length + nothing.repeated_ngrams, 0.0);
    }
}
