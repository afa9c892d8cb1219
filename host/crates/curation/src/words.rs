//! Texts as words: what all comparisons here are of.
//!
//! A word is a run of letters and digits (Unicode's `Alphabetic` and `Numeric`), in lower case. In scripts that are written
//! without spaces (Han, kana, Thai, Lao, Khmer, Burmese) each character is a word. A symbol that changes what a text says
//! (`+ * / = < > % ^ & | ~ $ # @ \` and those of Unicode's mathematical operators and arrows) is a word too, and so is a
//! hyphen or minus unless it stands between two letters: `3 + 4` and `3 - 4` are different texts. Everything else (spaces,
//! line breaks, punctuation, quotes, brackets, emoji, combining marks) only separates words.

use std::ops::Range;

/// The words of a text with their places, through a buffer that is used again.
#[derive(Debug, Default, Clone)]
pub struct Words {
    /// All words, one after another.
    text: String,
    /// Where each ends in `text`.
    ends: Vec<u32>,
    /// Where each stands in the text that was read.
    places: Vec<Range<u32>>,
}

/// Bytes of a text that are looked at; what is beyond is not compared.
const TEXT_LIMIT: usize = 1 << 30;

impl Words {
    /// No words.
    pub fn new() -> Self {
        Self::default()
    }

    /// The words of `text`, in place of those before.
    pub fn read(&mut self, text: &str) {
        self.text.clear();
        self.ends.clear();
        self.places.clear();
        let mut end = text.len().min(TEXT_LIMIT);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        let text = &text[..end];
        let bytes = text.as_bytes();
        let mut at = 0;
        while at < bytes.len() {
            let start = at;
            if bytes[at].is_ascii_alphanumeric() {
                // Most of most texts; a letter beyond ASCII goes on with the word.
                while at < bytes.len() && bytes[at].is_ascii_alphanumeric() {
                    at += 1;
                }
                self.text.push_str(&text[start..at]);
                let from = self.text.len() - (at - start);
                self.text[from..].make_ascii_lowercase();
                if at < bytes.len() && !bytes[at].is_ascii() {
                    at = self.letters(text, at);
                }
                self.end(start, at);
                continue;
            }
            if bytes[at].is_ascii() {
                at += 1;
                if is_symbol(bytes[start]) || (bytes[start] == b'-' && !is_hyphen(text, start)) {
                    self.text.push(bytes[start] as char);
                    self.end(start, at);
                }
                continue;
            }
            let character = first(text, at);
            if is_single(character) || is_operator(character) {
                at += character.len_utf8();
                self.text.push(character);
                self.end(start, at);
            } else if character.is_alphanumeric() {
                at = self.letters(text, at);
                self.end(start, at);
            } else {
                at += character.len_utf8();
            }
        }
    }

    /// Takes letters and digits up to where the word ends, and returns that.
    fn letters(&mut self, text: &str, mut at: usize) -> usize {
        for character in text[at..].chars() {
            if !character.is_alphanumeric() || is_single(character) {
                break;
            }
            self.text.extend(character.to_lowercase());
            at += character.len_utf8();
        }
        at
    }

    fn end(&mut self, start: usize, at: usize) {
        // A long text in upper case may be longer in lower case.
        self.ends.push(u32::try_from(self.text.len()).expect("a text is at most 1 GiB, and lower case at most thrice"));
        self.places.push(start as u32..at as u32);
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// True if there is none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// One of them, in lower case.
    pub fn word(&self, index: usize) -> &str {
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before] as usize);
        &self.text[start..self.ends[index] as usize]
    }

    /// All of them.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &str> {
        (0..self.len()).map(|index| self.word(index))
    }

    /// Where some of them stand in the text that was read, in bytes. At least one must be meant.
    pub fn place(&self, words: Range<usize>) -> Range<usize> {
        self.places[words.start].start as usize..self.places[words.end - 1].end as usize
    }
}

fn first(text: &str, at: usize) -> char {
    text[at..].chars().next().expect("it is within the text")
}

fn is_symbol(byte: u8) -> bool {
    matches!(
        byte,
        b'+' | b'*' | b'/' | b'=' | b'<' | b'>' | b'%' | b'^' | b'&' | b'|' | b'~' | b'$' | b'#' | b'@' | b'\\'
    )
}

/// Arrows and mathematical operators, signs of multiplication and division, currencies.
fn is_operator(character: char) -> bool {
    matches!(character, '\u{d7}' | '\u{f7}' | '\u{b1}' | '\u{a2}'..='\u{a5}' | '\u{20a0}'..='\u{20cf}' | '\u{2190}'..='\u{22ff}')
}

/// A hyphen between two letters only joins them.
fn is_hyphen(text: &str, at: usize) -> bool {
    let before = text[..at].chars().next_back().is_some_and(char::is_alphabetic);
    before && text[at + 1..].chars().next().is_some_and(char::is_alphabetic)
}

/// Letters of scripts that have no spaces between words.
fn is_single(character: char) -> bool {
    matches!(character,
        '\u{e00}'..='\u{eff}' | '\u{1000}'..='\u{109f}' | '\u{1780}'..='\u{17ff}' | '\u{3040}'..='\u{30ff}'
        | '\u{3400}'..='\u{4dbf}' | '\u{4e00}'..='\u{9fff}' | '\u{f900}'..='\u{faff}' | '\u{20000}'..='\u{3ffff}')
        && character.is_alphanumeric()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(text: &str) -> Vec<String> {
        let mut words = Words::new();
        words.read(text);
        words.iter().map(str::to_owned).collect()
    }

    #[test]
    fn words_are_what_the_page_says() {
        assert_eq!(of("  Hello,\n\tWORLD!! it's"), ["hello", "world", "it", "s"]);
        assert_eq!(of("3 + 4"), ["3", "+", "4"]);
        assert_eq!(of("3-4 well-known -x"), ["3", "-", "4", "well", "known", "-", "x"]);
        assert_eq!(of("Über naïve ÉTÉ STRASSE"), ["über", "naïve", "été", "strasse"]);
        assert_eq!(of("你好 world。これは"), ["你", "好", "world", "こ", "れ", "は"]);
        assert_eq!(of("a你b"), ["a", "你", "b"]);
        assert_eq!(of("2×3≠7"), ["2", "×", "3", "≠", "7"]);
        assert_eq!(of(""), [""; 0]);
        assert_eq!(of("…!?"), [""; 0]);
    }

    #[test]
    fn places_are_those_of_the_text() {
        let text = "Say: «Größe» now!";
        let mut words = Words::new();
        words.read(text);
        assert_eq!(&text[words.place(1..2)], "Größe");
        assert_eq!(&text[words.place(0..3)], "Say: «Größe» now");
    }

    proptest! {
        #[test]
        fn any_text_has_words_in_order(text in "\\PC{0,200}") {
            let mut words = Words::new();
            words.read(&text);
            let mut before = 0;
            for index in 0..words.len() {
                let place = words.place(index..index + 1);
                prop_assert!(place.start >= before && text.get(place.clone()).is_some());
                prop_assert_eq!(text[place.clone()].to_lowercase().chars().next(), words.word(index).chars().next());
                before = place.end;
            }
        }

        #[test]
        fn spaces_punctuation_and_case_do_not_matter(words in proptest::collection::vec("[a-z0-9]{1,8}", 0..20)) {
            let loud = words.iter().map(|word| word.to_uppercase()).collect::<Vec<_>>().join(",\n  ");
            prop_assert_eq!(of(&words.join(" ")), of(&loud));
        }
    }
}
