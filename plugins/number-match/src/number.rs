//! Numbers in a text, in one pass over it:
//! - `12`, `-12`, `−12`, `.5`, `1.5`, `1.5e-3`, with what stands before and behind it (`$12`, `12 kg`, `12.`);
//! - thousands as `1,234,567`, and as LaTeX has them (`1{,}234`, `1\,234`); another comma ends a number;
//! - fractions as `3/4`, `\frac{3}{4}`, `\dfrac{3}{4}`, `\frac34`; no mixed ones (`1 1/2`), and no dates (`1/2/2024`);
//! - percent as `12%`, `12 \%`, `12 percent`.
//!
//! A minus behind a digit, a letter or a bracket is a subtraction. Digits behind a letter (`x2`, `CO2`) are no number, nor is
//! what a double cannot hold.

use std::fmt;

/// A number as it was written.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Number {
    /// Without the percent sign.
    pub(crate) written: f64,
    pub(crate) is_percent: bool,
}

impl Number {
    pub(crate) fn value(self) -> f64 {
        if self.is_percent { self.written / 100.0 } else { self.written }
    }
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = if self.is_percent { "%" } else { "" };
        // All digits of a large one would fill the line.
        if self.written != 0.0 && !(1e-9..1e15).contains(&self.written.abs()) {
            return write!(f, "{:e}{percent}", self.written);
        }
        write!(f, "{}{percent}", self.written)
    }
}

pub(crate) fn last_number(text: &str) -> Option<Number> {
    Numbers { text, at: 0 }.last()
}

pub(crate) fn first_number(text: &str) -> Option<Number> {
    Numbers { text, at: 0 }.next()
}

/// Digits of a number that are kept, more than a double can tell apart.
const DIGITS: usize = 400;

struct Numbers<'a> {
    text: &'a str,
    at: usize,
}

impl Iterator for Numbers<'_> {
    type Item = Number;

    fn next(&mut self) -> Option<Number> {
        let bytes = self.text.as_bytes();
        while self.at < bytes.len() {
            let start = self.at;
            let found = match bytes[start] {
                b'\\' => fraction(&self.text[start..]),
                b'0'..=b'9' | b'.' => decimal(&self.text[start..]).map(|(number, length)| {
                    slash(&self.text[start..], start > 0 && bytes[start - 1] == b'/', number, length)
                }),
                _ => None,
            };
            let Some((unsigned, length)) = found else {
                self.at += 1;
                continue;
            };
            self.at = start + length;
            let before = &self.text[..start];
            if bytes[start] != b'\\' && before.ends_with(|before: char| before.is_alphabetic() || before == '_') {
                continue;
            }
            let written = if is_negative(before) { -unsigned } else { unsigned };
            let percent = percent(&self.text[self.at..]);
            self.at += percent;
            if written.is_finite() {
                return Some(Number { written, is_percent: percent > 0 });
            }
        }
        None
    }
}

/// An unsigned decimal at the start of a text, and its bytes.
fn decimal(text: &str) -> Option<(f64, usize)> {
    let bytes = text.as_bytes();
    let run = |from: usize| bytes[from..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    let mut digits = String::new();
    let mut take = |from: usize, count: usize| {
        let room = DIGITS.saturating_sub(digits.len()).min(count);
        digits.push_str(&text[from..from + room]);
        // A point moves where digits are left out; so many of them before it are more than a double can hold.
        room == count
    };
    let whole = run(0);
    let mut is_held = take(0, whole);
    let mut at = whole;
    if (1..=3).contains(&whole) {
        while let Some(comma) = [",", "{,}", "\\,"].into_iter().find(|comma| text[at..].starts_with(comma)) {
            if run(at + comma.len()) != 3 {
                break;
            }
            is_held &= take(at + comma.len(), 3);
            at += comma.len() + 3;
        }
    }
    if bytes.get(at) == Some(&b'.') && bytes.get(at + 1).is_some_and(u8::is_ascii_digit) {
        let places = run(at + 1);
        let _ = take(at, 1);
        let _ = take(at + 1, places);
        at += 1 + places;
    } else if whole == 0 {
        return None;
    }
    if matches!(bytes.get(at), Some(b'e' | b'E')) {
        let sign = usize::from(matches!(bytes.get(at + 1), Some(b'+' | b'-')));
        let from = at + 1 + sign;
        let places = if from <= bytes.len() { run(from) } else { 0 };
        if (1..=4).contains(&places) && !bytes.get(from + places).is_some_and(u8::is_ascii_alphanumeric) {
            digits.push_str(&text[at..from + places]);
            at = from + places;
        }
    }
    let number = if is_held { digits.parse().ok()? } else { f64::INFINITY };
    Some((number, at))
}

/// `3/4`, where a slash follows a number; a date has one more.
fn slash(text: &str, is_behind_slash: bool, number: f64, length: usize) -> (f64, usize) {
    let rest = &text[length..];
    let open = rest.trim_start_matches(' ');
    let spaces = rest.len() - open.len();
    let Some(under) = open.strip_prefix('/').filter(|_| spaces <= 1 && !is_behind_slash) else {
        return (number, length);
    };
    let trimmed = under.strip_prefix(' ').unwrap_or(under);
    let Some((denominator, under_length)) = decimal(trimmed) else { return (number, length) };
    if denominator == 0.0 || trimmed[under_length..].starts_with('/') {
        return (number, length);
    }
    (number / denominator, length + spaces + 1 + (under.len() - trimmed.len()) + under_length)
}

/// `\frac{3}{4}` and its kin at the start of a text, and its bytes.
fn fraction(text: &str) -> Option<(f64, usize)> {
    let rest = ["\\frac", "\\dfrac", "\\tfrac"].into_iter().find_map(|name| text.strip_prefix(name))?;
    let (above, rest) = argument(rest)?;
    let (below, rest) = argument(rest)?;
    (below != 0.0).then_some((above / below, text.len() - rest.len()))
}

/// `{12}`, or one digit.
fn argument(text: &str) -> Option<(f64, &str)> {
    if let Some(inside) = text.strip_prefix('{') {
        let unsigned = inside.strip_prefix('-').unwrap_or(inside);
        let (number, length) = decimal(unsigned)?;
        let number = if unsigned.len() < inside.len() { -number } else { number };
        return Some((number, unsigned[length..].strip_prefix('}')?));
    }
    let digit = text.chars().next()?.to_digit(10)?;
    Some((f64::from(digit), &text[1..]))
}

/// A minus before a number, with a currency between them or not.
fn is_negative(before: &str) -> bool {
    let before = before.strip_suffix('$').map_or(before, |before| before.strip_suffix('\\').unwrap_or(before));
    let Some(before) = before.strip_suffix(['-', '−']) else { return false };
    !before.ends_with(|before: char| before.is_alphanumeric() || matches!(before, ')' | ']' | '}' | '-'))
}

/// Bytes of a percent sign behind a number.
fn percent(text: &str) -> usize {
    let open = text.strip_prefix(' ').unwrap_or(text);
    let sign = ["%", "\\%", "percent"].into_iter().find(|sign| open.starts_with(sign));
    sign.map_or(0, |sign| text.len() - open.len() + sign.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(text: &str) -> Vec<f64> {
        Numbers { text, at: 0 }.map(Number::value).collect()
    }

    #[test]
    fn numbers_are_read_as_people_write_them() {
        assert_eq!(all("12, -3 and −4.5, +6"), [12.0, -3.0, -4.5, 6.0]);
        assert_eq!(all("$1,234.50. 1{,}234 1\\,234,567"), [1234.5, 1234.0, 1_234_567.0]);
        assert_eq!(all("1,23 1,2345 12345,678"), [1.0, 23.0, 1.0, 2345.0, 12345.0, 678.0]);
        assert_eq!(all(".5 0.25 5. 1.5e-3 2E2 3e 4em"), [0.5, 0.25, 5.0, 0.0015, 200.0, 3.0, 4.0]);
        assert_eq!(all("5-3 (2)-1 x-7 -$8 -\\$9 --10"), [5.0, 3.0, 2.0, 1.0, 7.0, -8.0, -9.0, 10.0]);
        assert_eq!(all("x2 CO2 é3 _4 5kg 3rd"), [5.0, 3.0]);
    }

    #[test]
    fn fractions_and_percentages_are_numbers() {
        assert_eq!(all("3/4 -1/2 1 / 4 3/0"), [0.75, -0.5, 0.25, 3.0, 0.0]);
        assert_eq!(all("\\frac{3}{4} -\\dfrac{1}{2} \\frac14 \\tfrac{-3}{4}"), [0.75, -0.5, 0.25, -0.75]);
        assert_eq!(all("\\frac{x}{4} \\frac{1}{0}"), [4.0, 1.0, 0.0]);
        assert_eq!(all("1/2/2024"), [1.0, 2.0, 2024.0]);
        assert_eq!(all("50% 12.5 \\% 3 percent 4 %"), [0.5, 0.125, 0.03, 0.04]);
    }

    #[test]
    fn what_a_double_cannot_hold_is_no_number() {
        assert_eq!(all("1e999 7"), [7.0]);
        assert_eq!(all(&"9".repeat(1000)), [] as [f64; 0]);
        assert_eq!(all(&format!("0.{}", "1".repeat(1000))).len(), 1);
    }

    #[test]
    fn large_and_small_ones_are_shown_short() {
        let shown = |written: f64, is_percent: bool| Number { written, is_percent }.to_string();
        assert_eq!([shown(0.0, false), shown(-2.5, true), shown(1e300, false)], ["0", "-2.5%", "1e300"]);
    }
}
