//! Tokens of an answer into text as they come, and texts that end it.

use std::ops::ControlFlow;

use crate::data::tokenizer::Tokenizer;

/// An answer while it grows.
pub(super) struct Watched<'a> {
    tokenizer: &'a Tokenizer,
    stops: &'a [String],
    /// What is certain so far: a character of which only a part is there is held back.
    text: String,
    /// Tokens whose text is in `text`, and the first of those that the next are read behind: what a token reads like may
    /// depend on that before it.
    taken: usize,
    from: usize,
    /// Where a stop begins.
    stop: Option<usize>,
}

impl<'a> Watched<'a> {
    pub(super) fn new(tokenizer: &'a Tokenizer, stops: &'a [String]) -> Self {
        Self { tokenizer, stops, text: String::new(), taken: 0, from: 0, stop: None }
    }

    /// Takes in the newest of its tokens; `Break` where one of the texts that end it is there.
    pub(super) fn push(&mut self, ids: &[u32]) -> ControlFlow<()> {
        let decode = |ids: &[u32]| self.tokenizer.decode(ids).ok();
        let (Some(known), Some(now)) = (decode(&ids[self.from..self.taken]), decode(&ids[self.from..])) else {
            return ControlFlow::Continue(());
        };
        let Some(piece) = now.get(known.len()..).filter(|piece| !piece.is_empty() && !now.ends_with('\u{fffd}')) else {
            return ControlFlow::Continue(());
        };
        let old = self.text.len();
        self.text.push_str(piece);
        (self.from, self.taken) = (self.taken, ids.len());
        self.stop = self.stops.iter().filter_map(|stop| find_from(&self.text, stop, old)).min();
        if self.stop.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    /// What will not be taken back: all before a stop, and before what may become one.
    pub(super) fn settled(&self) -> &str {
        let end = self.stop.unwrap_or_else(|| {
            let begun = self.stops.iter().map(|stop| {
                let lengths = (1..stop.len()).rev().filter(|&length| stop.is_char_boundary(length));
                lengths.into_iter().find(|&length| self.text.ends_with(&stop[..length])).unwrap_or(0)
            });
            self.text.len() - begun.max().unwrap_or(0)
        });
        &self.text[..end]
    }

    /// What of its whole text is before the stop.
    pub(super) fn before_stop<'t>(&'t self, whole: &'t str) -> &'t str {
        let found = self.stops.iter().filter_map(|stop| whole.find(stop)).min();
        found.map_or_else(|| self.settled(), |end| &whole[..end])
    }
}

/// The first place of `word` that reaches beyond `old`.
fn find_from(text: &str, word: &str, old: usize) -> Option<usize> {
    let mut start = old.saturating_sub(word.len());
    while !text.is_char_boundary(start) {
        start -= 1;
    }
    text[start..].find(word).map(|place| start + place)
}

#[cfg(test)]
mod tests {
    use super::find_from;

    #[test]
    fn a_word_is_found_where_it_began_before_what_is_new() {
        assert_eq!(find_from("abcEND", "END", 5), Some(3));
        assert_eq!(find_from("äöEND", "END", 4), Some(4));
        assert_eq!(find_from("abcEN", "END", 5), None);
    }
}
