//! Properties of characters as Python's `str` has them.

use std::sync::LazyLock;

use regex::Regex;

fn class(pattern: &str) -> Regex {
    Regex::new(pattern).expect("a fixed pattern")
}

fn is_in(class: &Regex, character: char) -> bool {
    class.is_match(character.encode_utf8(&mut [0; 4]))
}

/// `str.isspace` of one character, which is also `\s` of Python's `re`.
pub(super) fn is_space(character: char) -> bool {
    character.is_whitespace() || matches!(character, '\u{1c}'..='\u{1f}')
}

/// Whether Python ends a line after this character (`str.splitlines`).
pub(super) fn ends_line(character: char) -> bool {
    matches!(character, '\n' | '\r' | '\u{b}' | '\u{c}' | '\u{1c}'..='\u{1e}' | '\u{85}' | '\u{2028}' | '\u{2029}')
}

/// `str.isidentifier`.
pub(super) fn is_identifier(text: &str) -> bool {
    static IDENTIFIER: LazyLock<Regex> = LazyLock::new(|| class(r"^[\p{XID_Start}_]\p{XID_Continue}*$"));
    IDENTIFIER.is_match(text) && !text.ends_with('\n')
}

/// `str.isalpha` of one character.
pub(super) fn is_alphabetic(character: char) -> bool {
    static LETTER: LazyLock<Regex> = LazyLock::new(|| class(r"\p{L}"));
    if character.is_ascii() { character.is_ascii_alphabetic() } else { is_in(&LETTER, character) }
}

/// `str.isdecimal` of one character.
pub(super) fn is_decimal(character: char) -> bool {
    static DECIMAL: LazyLock<Regex> = LazyLock::new(|| class(r"\p{Nd}"));
    if character.is_ascii() { character.is_ascii_digit() } else { is_in(&DECIMAL, character) }
}

/// `str.isdigit` of one character: decimals, and digits in circles and above the line.
pub(super) fn is_digit(character: char) -> bool {
    const OTHERS: [(char, char); 20] = [
        ('\u{b2}', '\u{b3}'),
        ('\u{b9}', '\u{b9}'),
        ('\u{1369}', '\u{1371}'),
        ('\u{19da}', '\u{19da}'),
        ('\u{2070}', '\u{2070}'),
        ('\u{2074}', '\u{2079}'),
        ('\u{2080}', '\u{2089}'),
        ('\u{2460}', '\u{2468}'),
        ('\u{2474}', '\u{247c}'),
        ('\u{2488}', '\u{2490}'),
        ('\u{24ea}', '\u{24ea}'),
        ('\u{24f5}', '\u{24fd}'),
        ('\u{24ff}', '\u{24ff}'),
        ('\u{2776}', '\u{277e}'),
        ('\u{2780}', '\u{2788}'),
        ('\u{278a}', '\u{2792}'),
        ('\u{10a40}', '\u{10a43}'),
        ('\u{10e60}', '\u{10e68}'),
        ('\u{11052}', '\u{1105a}'),
        ('\u{1f100}', '\u{1f10a}'),
    ];
    is_decimal(character) || OTHERS.iter().any(|(first, last)| (*first..=*last).contains(&character))
}

/// `str.isnumeric` of one character: all numbers, and ideographs that are numbers.
pub(super) fn is_numeric(character: char) -> bool {
    const IDEOGRAPHS: &str = "\
        \u{3405}\u{3483}\u{382a}\u{3b4d}\u{4e00}\u{4e03}\u{4e07}\u{4e09}\u{4e5d}\u{4e8c}\u{4e94}\u{4e96}\
        \u{4ebf}\u{4ec0}\u{4edf}\u{4ee8}\u{4f0d}\u{4f70}\u{5104}\u{5146}\u{5169}\u{516b}\u{516d}\u{5341}\
        \u{5343}\u{5344}\u{5345}\u{534c}\u{53c1}\u{53c2}\u{53c3}\u{53c4}\u{56db}\u{58f1}\u{58f9}\u{5e7a}\
        \u{5efe}\u{5eff}\u{5f0c}\u{5f0d}\u{5f0e}\u{5f10}\u{62fe}\u{634c}\u{67d2}\u{6f06}\u{7396}\u{767e}\
        \u{8086}\u{842c}\u{8cae}\u{8cb3}\u{8d30}\u{9621}\u{9646}\u{964c}\u{9678}\u{96f6}\u{f96b}\u{f973}\
        \u{f978}\u{f9b2}\u{f9d1}\u{f9d3}\u{f9fd}\u{20001}\u{20064}\u{200e2}\u{20121}\u{2092a}\u{20983}\
        \u{2098c}\u{2099c}\u{20aea}\u{20afd}\u{20b19}\u{22390}\u{22998}\u{23b1b}\u{2626d}\u{2f890}";
    character.is_numeric() || IDEOGRAPHS.contains(character)
}

/// `str.isprintable` of one character: what `repr` shows as it is.
pub(super) fn is_printable(character: char) -> bool {
    static HIDDEN: LazyLock<Regex> = LazyLock::new(|| class(r"[\p{C}\p{Z}]"));
    if character.is_ascii() { (' '..='~').contains(&character) } else { !is_in(&HIDDEN, character) }
}

/// Whether a character has case (`str.title` and `str.istitle` look at it).
pub(super) fn is_cased(character: char) -> bool {
    character.is_lowercase() || character.is_uppercase() || is_title(character)
}

/// Whether a character is a digraph whose first half is a capital.
pub(super) fn is_title(character: char) -> bool {
    static TITLE: LazyLock<Regex> = LazyLock::new(|| class(r"\p{Lt}"));
    !character.is_ascii() && is_in(&TITLE, character)
}

/// A character with its first letter as a capital, as `str.title` and `str.capitalize` write it.
pub(super) fn push_title(out: &mut String, character: char) {
    match character {
        'Ǆ' | 'ǅ' | 'ǆ' => return out.push('ǅ'),
        'Ǉ' | 'ǈ' | 'ǉ' => return out.push('ǈ'),
        'Ǌ' | 'ǋ' | 'ǌ' => return out.push('ǋ'),
        'Ǳ' | 'ǲ' | 'ǳ' => return out.push('ǲ'),
        // Georgian has no title case, and its capitals are for whole words.
        '\u{10d0}'..='\u{10ff}' => return out.push(character),
        // Greek with iota below: the iota stays a mark.
        '\u{1f80}'..='\u{1faf}' => {
            let code = character as u32 | 8;
            return out.push(char::from_u32(code).unwrap_or(character));
        }
        'ᾳ' | 'ᾼ' => return out.push('ᾼ'),
        'ῃ' | 'ῌ' => return out.push('ῌ'),
        'ῳ' | 'ῼ' => return out.push('ῼ'),
        'ᾲ' => return out.push_str("Ὰ\u{345}"),
        'ᾴ' => return out.push_str("Ά\u{345}"),
        'ᾷ' => return out.push_str("\u{391}\u{342}\u{345}"),
        'ῂ' => return out.push_str("Ὴ\u{345}"),
        'ῄ' => return out.push_str("Ή\u{345}"),
        'ῇ' => return out.push_str("\u{397}\u{342}\u{345}"),
        'ῲ' => return out.push_str("Ὼ\u{345}"),
        'ῴ' => return out.push_str("Ώ\u{345}"),
        'ῷ' => return out.push_str("\u{3a9}\u{342}\u{345}"),
        'ŉ' => return out.push_str("ʼN"),
        _ => {}
    }
    let mut capitals = character.to_uppercase();
    out.extend(capitals.next());
    for rest in capitals {
        out.extend(rest.to_lowercase());
    }
}

/// `str.casefold` of one character.
pub(super) fn push_folded(out: &mut String, character: char) {
    match character {
        'ı' => out.push('ı'),
        'ẞ' => out.push_str("ss"),
        // Cherokee folds to capitals.
        '\u{13a0}'..='\u{13f5}' => out.push(character),
        '\u{13f8}'..='\u{13fd}' | '\u{ab70}'..='\u{abbf}' => out.extend(character.to_uppercase()),
        _ => {
            for capital in character.to_uppercase() {
                out.extend(capital.to_lowercase());
            }
        }
    }
}
